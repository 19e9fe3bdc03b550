"""The benchmark judges everybody on the same rows, lets nobody look ahead, and counts as a plain loop counts."""

from __future__ import annotations

import importlib.util
import json
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from benchmarks import bench, peers, scoring
from forecasting.config import Customer, load_customer
from forecasting.feed import ParquetSource
from forecasting.frames import BACKTEST
from forecasting.learn import backtest, grid, selection
from forecasting.learn.models import statistical
from tests import small
from tests.learn.learn_cases import CUTOFF, build_customer, build_panel

ROOT = Path(__file__).parents[2]
POOL = ["seasonal_naive", "weekday_mean", "tsb", "lightgbm"]
INSTALLED = [name for name in peers.PEERS if name != "prophet" or importlib.util.find_spec("prophet")]
ALL_PEERS = [pytest.param(name, marks=pytest.mark.bench if name == "prophet" else []) for name in peers.PEERS]
"""Prophet is not in the lock of every day: `make test` leaves it out, and `make test-bench` fails without it."""


@pytest.fixture(scope="module")
def customer() -> Customer:
    return build_customer(pool=POOL)


@pytest.fixture(scope="module")
def feed(customer) -> bench.Feed:
    """Four series, one of them born between the judged origins."""
    panel = build_panel()
    newborn = (panel["unique_id"] == "B/2") & (panel["ds"] <= pd.Timestamp("2024-06-12"))
    return bench.Feed(customer, panel[~newborn].reset_index(drop=True), CUTOFF)


# --- figures --------------------------------------------------------------------------------------------------------


def made_up(seed: int, *, quantiles: bool) -> pd.DataFrame:
    """Two origins of three series, one of which has no scale; some days are not scored."""
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([["a", "b", "c"], [1, 2], range(1, 6)], names=["unique_id", "cutoff", "h"])
    frame = index.to_frame(index=False)
    frame["cutoff"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(frame["cutoff"] * 5, unit="D")
    frame["ds"] = frame["cutoff"] + pd.to_timedelta(frame["h"], unit="D")
    frame["scored"] = rng.random(len(frame)) < 0.8
    frame["y"] = np.where(frame["scored"], rng.poisson(3, len(frame)), np.nan)
    frame["scale"] = frame["unique_id"].map({"a": 4.0, "b": 0.5, "c": np.nan})
    frame["y_hat"] = rng.gamma(3, 1, len(frame))
    if quantiles:
        frame["q10"], frame["q50"], frame["q90"] = frame["y_hat"] * 0.4, frame["y_hat"] * 0.9, frame["y_hat"] * 1.8
    return frame


def by_hand(frame: pd.DataFrame) -> dict[str, float | None]:
    """The same figures, row by row and series by series."""
    quantiles = "q10" in frame
    absolute = error = volume = 0.0
    within, above, below = [], [], []
    rmsse: dict[object, list[float]] = {}
    pinball: dict[object, list[float]] = {}
    for (_, cutoff), one in frame.groupby(["unique_id", "cutoff"]):
        squares, losses = [], []
        for row in one.itertuples():
            if not row.scored:
                continue
            median = row.q50 if quantiles else row.y_hat
            absolute += abs(row.y - median)
            error += row.y_hat - row.y
            volume += abs(row.y)
            squares.append((row.y - row.y_hat) ** 2 / row.scale)
            if quantiles:
                above.append(row.y > row.q90)
                below.append(row.y < row.q10)
                within.append(row.q10 <= row.y <= row.q90)
                for q, value in ((0.1, row.q10), (0.5, row.q50), (0.9, row.q90)):
                    loss = q * (row.y - value) if row.y >= value else (1 - q) * (value - row.y)
                    losses.append(loss / row.scale**0.5)
        if squares and not np.isnan(squares[0]):
            rmsse.setdefault(cutoff, []).append(float(np.sqrt(np.mean(squares))))
            pinball.setdefault(cutoff, []).append(float(np.mean(losses)) if losses else np.nan)
    return {
        "rmsse": float(np.mean([np.mean(values) for values in rmsse.values()])),
        "wape": absolute / volume,
        "bias": error / volume,
        "pinball": float(np.mean([np.mean(values) for values in pinball.values()])) if quantiles else None,
        "coverage_80": float(np.mean(within)) if quantiles else None,
        "above_q90": float(np.mean(above)) if quantiles else None,
        "below_q10": float(np.mean(below)) if quantiles else None,
    }


@pytest.mark.parametrize("quantiles", [True, False], ids=["with intervals", "points only"])
@pytest.mark.parametrize("seed", range(5))
def test_figures_agree_with_a_loop_over_rows(seed, quantiles):
    frame = made_up(seed, quantiles=quantiles)
    figures, loop = scoring.figures(frame), by_hand(frame)
    assert list(figures) == list(loop)
    for name, value in loop.items():
        assert figures[name] == (value if value is None else pytest.approx(value, rel=1e-12)), name


# --- the same rows, and nothing later -------------------------------------------------------------------------------


def origin_of(feed: bench.Feed) -> date:
    """The newest origin that is judged."""
    customer, days = bench.rolling(feed, 2)
    return bench.judged(days, customer)[-1]


def test_peers_get_exactly_the_rows_the_product_gets(feed, customer, monkeypatch):
    origin, seen = origin_of(feed), []
    real = grid.regularise
    monkeypatch.setattr(grid, "regularise", lambda *given: seen.append(real(*given)) or seen[-1])
    ids = sorted(feed.panel["unique_id"].unique())
    made = statistical.fit(feed.panel, customer, origin, ids, None, [], 1)
    [history] = seen
    at = peers.given(feed.panel, customer, origin, 1)
    history = history.astype({"unique_id": object})  # the product numbers its series
    assert_frame_equal(at.history, history[["unique_id", "ds", "y", "promotion"]])
    assert_frame_equal(at.future[["unique_id", "ds"]], made.forecasts[["unique_id", "ds"]])
    assert_frame_equal(at.future, grid.future_frame(feed.panel, customer, origin, ids)[0].drop(columns="h"))


def altered(feed: bench.Feed, origin: date) -> bench.Feed:
    """The same up to the origin; later, other sales under the same plan."""
    panel = feed.panel.copy()
    later = (panel["ds"] > pd.Timestamp(origin)).to_numpy() & panel["y"].notna().to_numpy()
    assert later.any()
    panel.loc[later, "y"] = panel.loc[later, "y"] * 7 + 100
    return bench.Feed(feed.customer, panel, feed.cutoff)


@pytest.mark.parametrize("name", ALL_PEERS)
def test_what_came_after_an_origin_changes_no_forecast_of_a_peer(name, feed, customer):
    origin = origin_of(feed)
    before, after = (
        peers.PEERS[name](peers.given(each.panel, customer, origin, 1)) for each in (feed, altered(feed, origin))
    )
    assert set(before["unique_id"]) == set(feed.panel["unique_id"])
    assert_frame_equal(before, after, check_exact=True)


def test_what_came_after_an_origin_changes_neither_choices_nor_intervals_there(feed):
    origin = origin_of(feed)
    rolled, days = bench.rolling(feed, 2)
    made = [
        bench.product(each, rolled, days, 1, bench.Meter("acme")).rolled.bottom
        for each in (feed, altered(feed, origin))
    ]
    known = ["unique_id", "cutoff", "h", "y_hat", "q025", "q10", "q50", "q90", "q975"]
    before, after = (one.loc[one["cutoff"] <= pd.Timestamp(origin), known] for one in made)
    assert before["cutoff"].nunique() == 2
    assert_frame_equal(before, after, check_exact=True)
    assert not np.allclose(made[0]["y"], made[1]["y"], equal_nan=True)


# --- origins --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [7, 3], ids=["side by side", "overlapping"])
def test_as_many_origins_are_judged_as_are_wanted_and_they_are_the_selections_own(step):
    customer = build_customer(pool=POOL[:3], backtest={"windows": 3, "select": 2, "step": step})
    given = bench.Feed(customer, build_panel(), CUTOFF)
    rolled, days = bench.rolling(given, 3)
    scores = statistical.fit(given.panel, rolled, CUTOFF, ["A/1", "B/1"], None, days, 1).scores
    own = sorted({day.date() for day in selection.rolled(scores, rolled)["cutoff"]})
    assert bench.judged(days, rolled) == own
    assert len(own) == 3


def test_a_history_too_short_to_judge_is_refused_with_what_to_do(feed):
    panel = feed.panel[feed.panel["ds"] > pd.Timestamp("2024-05-20")].reset_index(drop=True)
    with pytest.raises(SystemExit, match=r"acme: \d origins can be judged .* expected at least 4; bring more history"):
        bench.rolling(bench.Feed(feed.customer, panel, CUTOFF))


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    small.copy(root)
    small.cut(root / "examples/mini.csv")
    small.loosen(root, 49)
    (root / "dags/customers/mini.yaml").write_text(small.declaration())
    return root


def test_the_newest_cutoff_leaves_the_plan_a_horizon(checkout):
    feed = bench.read(checkout / "dags/customers/mini.yaml")
    last = max(line[0] for line in small.lines_of(checkout / "examples/mini.csv")[1:])
    assert feed.cutoff == date.fromisoformat(last) - pd.Timedelta(days=7)
    ahead = feed.panel[feed.panel["ds"] > pd.Timestamp(feed.cutoff)]
    assert ahead["ds"].max() == pd.Timestamp(last)
    assert ahead["promotion"].notna().all()
    assert ahead["y"].isna().all()
    assert feed.panel["unique_id"].nunique() == len(small.SKUS)


def test_data_is_where_relative_paths_start_from(checkout, tmp_path):
    (tmp_path / "examples").mkdir()
    lines = small.lines_of(checkout / "examples/mini.csv")
    small.write_lines(
        tmp_path / "examples/mini.csv", [line for line in lines if line[0] < "2018-07-01" or line[0] == "DATE"]
    )
    feed = bench.read(checkout / "dags/customers/mini.yaml", tmp_path)
    assert feed.cutoff == date(2018, 6, 23)


def test_a_feed_that_breaks_its_contract_is_refused(checkout, tmp_path):
    shutil.copytree(checkout, tmp_path / "other")
    small.loosen(tmp_path / "other", 49)
    path = tmp_path / "other/data_contracts/pasta_sales.odcs.yaml"
    path.write_text(path.read_text().replace("min_value: 49", "min_value: 3000000"))
    with pytest.raises(SystemExit, match="3000000"):
        bench.read(tmp_path / "other/dags/customers/mini.yaml")


def test_a_databases_tables_are_read_from_the_files_of_their_names():
    customer = load_customer(ROOT / "dags/customers/gifts.yaml")
    assert isinstance(customer, Customer)
    source = bench._from_folder(customer, ROOT / "examples/gifts").source
    assert isinstance(source, ParquetSource)
    assert [part.uri for part in source.parts] == ["year_2009_2010.parquet", "year_2010_2011.parquet"]
    assert [part.names for part in source.parts] == [place.names for place in customer.source.places()]
    assert all((ROOT / "examples/gifts" / part.uri).exists() for part in source.parts)


def test_a_database_without_files_or_connection_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("FORECASTING_HOME", str(tmp_path))
    monkeypatch.delenv("FORECASTING_CONN_GIFTS", raising=False)
    with pytest.raises(SystemExit, match="FORECASTING_CONN_GIFTS"):
        bench.main([str(ROOT / "dags/customers/gifts.yaml")])


# --- the whole ------------------------------------------------------------------------------------------------------


def test_a_series_too_short_for_a_peer_takes_the_seasonal_naive_and_is_counted(feed, customer):
    panel = feed.panel
    only = (panel["unique_id"] != "B/2") | (panel["ds"] > pd.Timestamp("2024-06-18"))
    given = bench.Feed(customer, panel[only].reset_index(drop=True), CUTOFF)
    origin = date(2024, 6, 23)
    at = peers.given(given.panel, customer, origin, 1)
    one = peers.Given(at.history.drop(at.history.index[at.history["unique_id"] == "B/2"][:-1]), at.future, customer, 1)
    forecasts = peers.auto_ets(one).assign(cutoff=pd.Timestamp(origin))
    assert sorted(forecasts["unique_id"].unique()) == ["A/1", "A/2", "B/1"]
    ids = sorted(panel["unique_id"].unique())
    scores = statistical.fit(given.panel, customer, CUTOFF, ids, None, [origin], 1).scores
    made = bench.Product(scores, selection.Rolled(scores, scores))
    taken = bench._peer(scores, forecasts, made)
    lacking = taken["frame"]["unique_id"] == "B/2"
    stand_in = scores["seasonal_naive"].fillna(scores["weekday_mean"])
    assert taken["filled"] == int((lacking & scores["scored"]).sum()) > 0
    for name in ("y_hat", "q10", "q90"):
        assert list(taken["frame"].loc[lacking, name]) == list(stand_in[lacking])
    assert not np.allclose(taken["frame"].loc[~lacking, "y_hat"], stand_in[~lacking])


@pytest.fixture(scope="module")
def result(feed) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers, "PEERS", {name: peers.PEERS[name] for name in INSTALLED})
        return bench.bench(feed, origins=4, series=None, threads=1)


def test_everybody_stands_in_one_json_object_with_all_figures(result):
    again = json.loads(json.dumps(result, allow_nan=False))
    kinds = {name: one["kind"] for name, one in again["forecasts"].items()}
    assert kinds == {"selection": "selection", **dict.fromkeys(POOL, "single"), **dict.fromkeys(INSTALLED, "peer")}
    for name, one in again["forecasts"].items():
        assert 0 < one["rmsse"] < 3, name
        assert len(one["rmsse_by_origin"]) == len(again["origins"]) == 4
        assert np.mean(one["rmsse_by_origin"]) == pytest.approx(one["rmsse"], abs=1e-4)
    assert set(again["nodes"]) == {"total", "brand"}
    assert again["peak_memory_mib"] > 50
    assert again["cpu_seconds"] == pytest.approx(
        sum(one.get("cpu_seconds", 0) for one in again["forecasts"].values()), abs=0.5
    )


def test_the_distance_to_the_best_single_column_and_the_beaten_peers_are_those_of_the_table(result):
    rmsse = {name: one["rmsse"] for name, one in result["forecasts"].items()}
    best = min(rmsse[name] for name in POOL)
    assert rmsse[result["best_single"]] == best
    assert result["distance_to_best_single_percent"] == pytest.approx((rmsse["selection"] / best - 1) * 100)
    assert result["peers_beaten"] == len([name for name in INSTALLED if rmsse[name] > rmsse["selection"]])
    rows = [
        line.split("|")[1].strip(" *`") for line in bench.table(result).splitlines() if line.startswith(("| `", "| **"))
    ]
    assert rows == sorted(rmsse, key=lambda name: rmsse[name])


def test_single_columns_are_the_models_own_forecasts_on_the_selections_rows(feed, result):
    rolled, days = bench.rolling(feed, 4)
    made = bench.product(feed, rolled, days, 1, bench.Meter("acme"))
    kept = made.scores[made.scores["cutoff"].isin(pd.DatetimeIndex(result["origins"]))]
    own = scoring.figures(kept[list(BACKTEST.columns)].assign(y_hat=kept["weekday_mean"]))
    figures = result["forecasts"]["weekday_mean"]
    assert figures["filled_rows"] == 0
    assert {name: figures[name] for name in own} == pytest.approx(own)
    assert result["rows"] == int(kept["scored"].sum())
    assert backtest.columns(made.scores) == [name for name in result["forecasts"] if name in POOL]


def test_a_table_is_put_between_its_markers_and_nowhere_else(result, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench acme -->\nold\n<!-- /bench acme -->\nafter\n")
    bench.write(page, [result])
    assert page.read_text() == f"before\n<!-- bench acme -->\n{bench.table(result)}\n<!-- /bench acme -->\nafter\n"
    page.write_text("nothing here\n")
    with pytest.raises(SystemExit, match=r"page.md: holds no lines '<!-- bench acme -->'"):
        bench.write(page, [result])
