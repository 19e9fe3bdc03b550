"""The published protocol on orange juice: which weeks are known and scored, and what is delivered of them."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from benchmarks.orange_juice import run
from forecasting.config import load_customer

WEEKS = range(run.FIRST_WEEK, 161)
STORES = (2, 5)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A file of the published form: a row per store, brand and week, one week of one brand not recorded."""
    random = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([STORES, run.BRANDS, WEEKS], names=["store", "brand", "week"])
    frame = index.to_frame(index=False).astype("int32")
    frame["logmove"] = np.log(random.integers(64, 9000, len(frame)))
    for brand in run.BRANDS:
        frame[f"price{brand}"] = frame["week"] / 10000 + brand / 100
    frame["deal"], frame["feat"] = random.integers(0, 2, len(frame)), random.random(len(frame))
    lost = (frame["store"] == 2) & (frame["brand"] == 3) & (frame["week"] == 138)
    folder = tmp_path_factory.mktemp("file")
    frame[~lost].sample(frac=1.0, random_state=1).to_parquet(folder / "yx.parquet")
    return run.read(folder)


@pytest.fixture(scope="module")
def customer():
    return load_customer(run.HERE / "orange_juice.yaml")


def test_twelve_rounds_of_two_weeks_after_one_that_is_skipped():
    played = run.rounds(None)
    assert [(one.last, *one.scored) for one in played][::11] == [(135, 137, 138), (157, 159, 160)]
    assert len(played) == 12
    assert (played[1].cutoff - played[0].cutoff) == timedelta(weeks=2)


def test_earlier_rounds_end_before_the_first_week_that_the_protocol_scores():
    assert [(one.last, *one.scored) for one in run.rounds(2)] == [(130, 132, 133), (132, 134, 135)]


def test_the_naive_forecast_is_each_series_last_known_week(rows):
    played = run.rounds(None)[:2]
    ratios = []
    for one in played:
        for (_, _), series in rows.groupby(["store", "brand"]):
            last = series.loc[series["week"] <= one.last, "units"].iloc[-1]
            ratios += [abs(last - y) / y for y in series.loc[series["week"].isin(one.scored), "units"]]
    assert len(ratios) == 2 * 2 * 11 * 2 - 1
    assert run.naive_mape(rows, played) == pytest.approx(100 * np.mean(ratios))


def test_a_night_has_the_sales_up_to_its_cutoff_and_the_prices_of_its_horizon(rows, customer, tmp_path):
    run.deliver(rows, tmp_path / customer.id)
    one = run.rounds(None)[0]
    panel = run.known(customer, tmp_path, one.cutoff)
    assert panel["ds"].max().date() == one.cutoff + timedelta(weeks=customer.horizon)
    past = panel["ds"] <= pd.Timestamp(one.cutoff)
    assert panel.loc[~past, "y"].isna().all()
    assert panel["price"].notna().all()
    mine = panel[panel["unique_id"] == "5/7"].set_index("ds")
    theirs = rows[(rows["store"] == 5) & (rows["brand"] == 7)].set_index("week")
    assert mine.index.min().date() == run.ends(run.FIRST_WEEK + 1)
    for week in (run.FIRST_WEEK + 1, one.last):
        row = mine.loc[pd.Timestamp(run.ends(week))]
        assert (row["y"], row["price"]) == pytest.approx((theirs["units"][week], week / 10000 + 0.07))
    ahead = mine.loc[pd.Timestamp(run.ends(one.last + 2))]
    assert ahead["price"] == pytest.approx((one.last + 2) / 10000 + 0.07)
    assert ahead["deal"] == theirs["deal"][one.last + 2]


def test_what_is_scored_are_the_second_and_third_steps_that_were_recorded(rows):
    actual = run.truth(rows, run.rounds(None)[0])
    assert set(actual["h"]) == {2, 3}
    assert len(actual) == 2 * 11 * 2 - 1
    assert "2/3" not in set(actual.loc[actual["h"] == 3, "unique_id"])
    own = rows[(rows["store"] == 5) & (rows["brand"] == 7) & (rows["week"] == 138)]["units"].item()
    assert actual[(actual["unique_id"] == "5/7") & (actual["h"] == 3)]["y"].item() == own


def test_scores_are_pooled_over_rows_of_rounded_forecasts(customer):
    judged = pd.DataFrame({"y": [100.0, 200.0], "y_hat": [90.4, 250.2], "q50": [100.0, 210.0]})
    judged = judged.assign(**{f"q{q}": judged["y"] for q in ("025", "10", "25", "75", "90", "975")})
    got = run.figures(judged, customer.model_copy(update={"levels": (50, 80, 95)}))
    assert got["mape"] == pytest.approx(100 * (10 / 100 + 50 / 200) / 2)
    assert got["wape"] == pytest.approx(60 / 300)
    assert got["bias"] == pytest.approx(40 / 300)
    assert got["wape_q50"] == pytest.approx(10 / 300)
    assert got["pinball"] == pytest.approx(10 / 300 / 7)
