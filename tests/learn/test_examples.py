"""On a real customer the selection is worth its nights: it beats what a planner would use instead."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from forecasting.learn import backtest, selection
from forecasting.learn.models import ml, statistical

from .learn_cases import build_customer

GROCERY = Path(__file__).parents[2] / "examples/grocery/sales"
CUTOFF = date(2017, 12, 3)


@pytest.fixture(scope="module")
def grocery() -> pd.DataFrame:
    """Units and mean price by department, product and week; fuel and lines without goods left out."""
    days = sorted(GROCERY.glob("sales_*.parquet"))
    lines = pd.concat([pd.read_parquet(path).assign(day=pd.Timestamp(path.stem[6:])) for path in days])
    goods = ~lines["department"].isin(["FUEL", "MISCELLANEOUS", "COUPON"]) & (lines["quantity"] > 0)
    lines = lines[goods & (lines["day"] > "2017-01-01")]
    lines["ds"] = lines["day"] + pd.to_timedelta(6 - lines["day"].dt.dayofweek, unit="D")
    lines["unique_id"] = lines["department"].str.cat(lines["product_id"].astype(str), sep="/").astype(object)
    weeks = lines.groupby(["unique_id", "ds"], as_index=False).agg(y=("quantity", "sum"), value=("sales_value", "sum"))
    weeks = weeks.assign(y=weeks["y"].astype("float64"), price=weeks.pop("value") / weeks["y"])
    return weeks.astype({"ds": "datetime64[ns]"})


def test_on_a_weekly_grocer_the_selection_beats_the_last_week_and_the_mean_of_four(grocery):
    customer = build_customer(
        frequency="W",
        horizon=4,
        season_lengths=[1],
        absent="zero",
        backtest={"windows": 8, "select": 3},
        exogenous={"price": {"known": "historic", "fill": "last"}},
        pool=["recent_mean", "weekday_mean", "auto_ets", "dynamic_theta", "tsb", "imapa", "lightgbm"],
    )
    origins = backtest.origins(CUTOFF, customer, grocery["ds"].min().date())
    fitted = statistical.fit(grocery, customer, CUTOFF, sorted(grocery["unique_id"].unique()), None, origins)
    scores = backtest.join(fitted.scores, ml.fit(grocery, customer, CUTOFF, origins, 1).scores)
    table = selection.rolling(scores, customer).drop(columns="origin").mean()
    assert customer.references == ("naive", "recent_mean")
    for metric, margins in {"rmsse": (0.15, 0.01), "wape": (0.15, 0.03)}.items():
        for name, margin in zip(customer.references, margins, strict=True):
            assert table[f"{metric}_selection"] < table[f"{metric}_{name}"] * (1 - margin), (metric, name)
