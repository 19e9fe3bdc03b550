"""A made-up world in the competition's own tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.m5 import world

ORIGIN = 84


@pytest.fixture(scope="session")
def made():
    """Two states, three stores, three departments with items in every store; some begin late, one never sells."""
    rng = np.random.default_rng(5)
    items = [(c, f"{c}_{d}", f"{c}_{d}_{i:03d}") for c, d in (("FOODS", 1), ("FOODS", 2), ("TOYS", 1)) for i in (1, 2)]
    rows = [(s[:2], s, *item) for s in ("CA_1", "CA_2", "TX_1") for item in items]
    sales = pd.DataFrame(rows, columns=["state_id", "store_id", "cat_id", "dept_id", "item_id"])
    units = rng.poisson(2.0, (len(rows), ORIGIN + world.HORIZON)).astype(np.int32)
    for number in range(len(rows)):
        units[number, : 5 * (number % 5)] = 0
    units[3, :ORIGIN] = 0
    days = pd.date_range("2011-01-29", periods=ORIGIN + 2 * world.HORIZON)
    number = np.arange(len(days))
    calendar = pd.DataFrame(
        {"date": days, "wm_yr_wk": 11101 + number // 7, "snap_CA": number % 3 == 0, "snap_TX": number % 5 == 0}
    )
    blank = pd.Series([None] * len(days), dtype=object)
    for name in ("event_name_1", "event_type_1", "event_name_2", "event_type_2"):
        calendar[name] = blank
    calendar.loc[[7, 90], ["event_name_1", "event_type_1"]] = ["SuperBowl", "Sporting"]
    calendar.loc[90, ["event_name_2", "event_type_2"]] = ["Easter", "Cultural"]
    calendar.loc[30, ["event_name_1", "event_type_1"]] = ["Easter", "Cultural"]
    listed = [(r[1], r[4], w, 1 + rng.random()) for r in rows for w in calendar["wm_yr_wk"].unique()]
    prices = pd.DataFrame(listed, columns=["store_id", "item_id", "wm_yr_wk", "sell_price"])
    late = (prices["item_id"] == "TOYS_1_002") & (prices["wm_yr_wk"] < 11103)
    units[sales["item_id"] == "TOYS_1_002", :14] = 0
    shuffled = rng.permutation(len(rows))
    return world.make(sales.iloc[shuffled], units[shuffled], prices[~late], calendar)
