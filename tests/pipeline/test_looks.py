"""What a page of charts is made of: the backtest that gives the recorded scores, or what was published before."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest
import sqlalchemy as sa

from forecasting.errors import ConfigurationError
from forecasting.learn import monitoring
from forecasting.pipeline import Deployment, looks
from forecasting.store import warehouse, work
from tests import small
from tests.pipeline.conftest import Nights
from tests.plugins import shops

FIRST = date(2024, 3, 10)


def look(nights: Nights, *unique_ids: str, n: int = 2) -> looks.Look:
    return looks.look(nights.deployment, nights.customer, unique_ids, n, plotly="/* plotly */")


def data_of(found: looks.Look) -> dict[str, Any]:
    text = re.search(r'id="data">(.*?)</script>', found.html, re.DOTALL)
    assert text
    return cast("dict[str, Any]", json.loads(text[1]))


def facts_of(found: looks.Look, at: int) -> dict[str, str]:
    caption = re.search(rf'<figure id="s{at}".*?<dl>(.*?)</dl>', found.html, re.DOTALL)
    assert caption
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", caption[1]))


# --- the backtest ---------------------------------------------------------------------------------------------------


def test_the_folds_are_the_backtest_as_long_as_its_frames_give_the_recorded_scores(
    nights: Callable[..., Nights],
) -> None:
    made = nights()
    made.yaml.write_text(small.declaration(pool="seasonal_naive, lightgbm"), encoding="utf-8")
    run = made.run("2018-10-01")
    found = look(made, n=0)
    assert found.told[0].startswith("The folds are the backtest of 1.0.0, trained to 2018-10-01")
    [mean] = made.sql("select scores->'mean'->>'rmsse_selection' as rmsse from forecasting.model_version")["rmsse"]
    bottom = [i for i, pick in enumerate(found.picks) if pick.node == "bottom"]
    assert len(bottom) == 7
    shown = [float(facts_of(found, i)["RMSSE"]) for i in bottom]
    assert sum(shown) / len(shown) == pytest.approx(float(mean), abs=0.001)
    assert shown[0] == max(shown)
    data = data_of(found)
    published = made.current()
    for pick, chart in zip(found.picks, data["charts"], strict=True):
        mine = published[(published["node"] == pick.node) & (published["unique_id"] == pick.unique_id)]
        assert chart["forecast"]["y_hat"] == pytest.approx(mine["y_hat"].tolist())
        assert [fold["cutoff"] for fold in chart["folds"]] == ["2018-09-17", "2018-09-24"]
    _unless_they_are_there(made, run)


def _unless_they_are_there(made: Nights, run: warehouse.Run) -> None:
    """Frames of another computation are not shown, nor are damaged or swept ones."""
    url, name = made.deployment.settings.work_url, "statistical-0-scores"
    folder = Path(url.removeprefix("file://")) / run.run_id
    [ours] = folder.glob(f"{name}-*")
    frame = work.find(url, run.run_id, name)[name]
    other = Path(
        work.put(url, run.run_id, name, frame.assign(seasonal_naive=frame["seasonal_naive"] + 9)).uri[len("file://") :]
    )
    assert look(made).told[0].startswith("The backtest's own frames")
    other.unlink()
    assert look(made).told[0].startswith("The folds are the backtest")
    ours.write_bytes(ours.read_bytes()[:-1])
    assert look(made).told[0].startswith("The backtest's own frames")
    for path in folder.iterdir():
        path.unlink()
    found = look(made)
    assert found.told[1] == "Nothing was published before either: there are no folds and no scores."
    assert not any("worst" in reason for pick in found.picks for reason in pick.reasons)
    assert all(chart["folds"] == [] and chart["forecast"] for chart in data_of(found)["charts"])


# --- past publications ----------------------------------------------------------------------------------------------


def shop(engine: sa.Engine, folder: Path, name: str, nights: int) -> Nights:
    """A customer that published every seventh day, ``nights`` times; its horizon is 14 days."""
    place = shops.Shop(engine, shops.declare(folder, name))
    runs = [place.publish(FIRST + timedelta(days=7 * i), history=200 if not i else 7) for i in range(nights)]
    place.crown(runs[0])
    came = warehouse.query(engine, f"select node, unique_id, ds, y from {name}.actual")
    came = came.assign(ds=pd.to_datetime(came["ds"]))
    for run in runs:
        published = warehouse.read_forecast(engine, name, run.run_id)
        scored = monitoring.score(published, came, place.customer).assign(run_id=run.run_id)
        with warehouse.acting_for(engine, name) as connection:
            warehouse.record_scores(connection, name, runs[-1].run_id, scored)
    settings = SimpleNamespace(work_url=f"file://{folder}/work")
    return Nights(Deployment(cast("Any", settings), engine, ""), folder, name)


def test_without_the_frames_the_folds_are_publications_that_do_not_overlap(engine: sa.Engine, tmp_path: Path) -> None:
    made = shop(engine, tmp_path, "looked", 6)
    found = look(made, n=1)
    assert found.told[1] == "The folds are what was published for 2024-03-17, 2024-03-31, beside what came."
    assert found.picks[0].reasons[0] == "worst, 1 of 5 judged"
    charts = data_of(found)["charts"]
    assert [fold["cutoff"] for fold in charts[0]["folds"]] == ["2024-03-17", "2024-03-31"]
    [row] = made.sql(
        "select avg(rmsse) as rmsse, sum(abs_error) / sum(y) as wape from looked.score where h = 0 and "
        f"unique_id = '{found.picks[0].unique_id}' and run_date in ('2024-03-17', '2024-03-31')"
    ).itertuples()
    assert (facts_of(found, 0)["RMSSE"], facts_of(found, 0)["WAPE"]) == (f"{row.rmsse:.3f}", f"{100 * row.wape:.1f} %")
    newest = next(pick for pick in found.picks if "newest, no sale yet" in pick.reasons)
    assert newest.unique_id == shops.SERIES[-1]


def test_of_a_young_deployment_the_first_publication_is_shown_and_not_scored(engine: sa.Engine, tmp_path: Path) -> None:
    found = look(shop(engine, tmp_path, "youngster", 2), n=1)
    assert found.told[1:] == (
        "The folds are what was published for 2024-03-10, beside what came.",
        "Its horizon is not over, so nothing is scored yet and no series is the worst.",
    )
    assert [fold["cutoff"] for fold in data_of(found)["charts"][0]["folds"]] == ["2024-03-10"]


def test_named_series_are_drawn_in_their_order_and_a_near_miss_is_named(engine: sa.Engine, tmp_path: Path) -> None:
    made = shop(engine, tmp_path, "asked", 1)
    found = look(made, shops.SERIES[4], "total", shops.SERIES[0])
    assert [pick.unique_id for pick in found.picks] == [shops.SERIES[4], "total", shops.SERIES[0]]
    with pytest.raises(ConfigurationError, match=r"no series 'south/plane'\. Did you mean 'south/plain'\?"):
        look(made, "south/plane")


def test_a_customer_that_has_not_published_says_how_to_begin(engine: sa.Engine, tmp_path: Path) -> None:
    made = shops.Shop(engine, shops.declare(tmp_path, "unpublished"))
    nights = Nights(Deployment(cast("Any", None), made.engine, ""), tmp_path, "unpublished")
    with pytest.raises(ConfigurationError, match="forecasting run unpublished --date"):
        look(nights)
