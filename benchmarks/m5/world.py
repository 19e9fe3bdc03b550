"""M5's sales, prices and calendar as matrices, a row per item and store; whole, or a sample that is its own world.

Days are numbered as the competition numbers them: day 1 is 2011-01-29, ``sales[:, d - 1]`` are the units of day d.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

__all__ = ["FIRST_DAY", "HORIZON", "KEYS", "ORIGINS", "World", "day", "read"]

FIRST_DAY = date(2011, 1, 29)
HORIZON = 28
ORIGINS = (1857, 1885, 1913, 1941)
"""Last training days; the days after the last of them are not at hand."""
KEYS = ("state", "store", "category", "department", "item")
"""The customer's keys, widest first, as ``m5.yaml`` declares them."""
_NAMED = {"state_id": "state", "store_id": "store", "cat_id": "category", "dept_id": "department", "item_id": "item"}

Floats32 = npt.NDArray[np.float32]


def day(number: int) -> date:
    """The date of a day's number.

    >>> day(1), day(1941)
    (datetime.date(2011, 1, 29), datetime.date(2016, 5, 22))
    """
    return FIRST_DAY + timedelta(days=number - 1)


@dataclass(frozen=True)
class World:
    """Some series, in the order of their unique_id."""

    series: pd.DataFrame
    """unique_id (keys joined by ``/``) and the five keys, one row per series."""
    sales: Floats32
    """Units, shape (series, days)."""
    prices: Floats32
    """Price in dollars, shape (series, days and one horizon more); NaN where the item was not on sale."""
    calendar: pd.DataFrame
    """date, d (day's number), event_name_1, event_type_1, event_name_2, event_type_2, snap_CA, snap_TX, snap_WI."""

    @property
    def days(self) -> int:
        """Days of sales at hand."""
        return int(self.sales.shape[1])

    def dollars(self, origin: int) -> npt.NDArray[np.float64]:
        """Each series' sales in dollars over the last 28 training days; shape (series,)."""
        newest = slice(origin - HORIZON, origin)
        sold = self.sales[:, newest].astype(np.float64) * np.nan_to_num(self.prices[:, newest].astype(np.float64))
        return np.asarray(sold.sum(axis=1))

    def keep(self, rows: npt.NDArray[np.int64]) -> World:
        """The world of some rows, in ascending order."""
        rows = np.sort(rows)
        return replace(
            self,
            series=self.series.iloc[rows].reset_index(drop=True),
            sales=self.sales[rows],
            prices=self.prices[rows],
        )

    def sample(self, count: int) -> World:
        """A stratified draw of ``count`` series; the same for the same count.

        Each department of each store gives its share, spread evenly over the ranks of its series' units. Items are not
        drawn whole with all their stores, though that would leave the two item levels what they are: fewer distinct
        items make the other levels noisier, and of 3,000 series' scores that draw follows the whole's less closely.
        """
        if not 1 <= count <= len(self.series):
            raise ValueError(f"SERIES={count}: expected 1 to {len(self.series)}")
        ranked = self.series[["store", "department", "unique_id"]].assign(units=-self.sales.sum(axis=1, dtype=float))
        order = ranked.sort_values(["store", "department", "units", "unique_id"]).index.to_numpy(dtype=np.int64)
        # the middles of equal stretches of a list that runs department by department, by rank within each
        return self.keep(order[((np.arange(count) + 0.5) * (len(order) / count)).astype(np.int64)])


def read(folder: Path, progress: bool = True) -> World:
    """Read the three files of ``folder``.

    Args:
        folder: Holds sales_train_evaluation_list.parquet, sell_prices.parquet and calendar.parquet.
        progress: Say that it reads.

    Raises:
        SystemExit: A file is missing; the message says which and what to do.
    """
    names = ("sales_train_evaluation_list", "sell_prices", "calendar")
    paths = [folder / f"{name}.parquet" for name in names]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise SystemExit(f"{missing[0]}: there is no such file; DATA must be the folder of {', '.join(names)}.parquet")
    if progress:
        print(f"reading {folder}", flush=True)
    listed = pq.read_table(paths[0])
    units = listed["sales"].combine_chunks().flatten().to_numpy().reshape(len(listed), -1)
    sales = listed.drop_columns(["sales"]).to_pandas()
    return make(sales, units, pd.read_parquet(paths[1]), pd.read_parquet(paths[2]))


def make(
    sales: pd.DataFrame, units: npt.NDArray[np.integer[Any]], prices: pd.DataFrame, calendar: pd.DataFrame
) -> World:
    """A world of the competition's three tables, under their own column names; ``units`` are the sales of each day."""
    series = sales[list(_NAMED)].rename(columns=_NAMED)[list(KEYS)].astype(object)
    series.insert(0, "unique_id", series[list(KEYS)].agg("/".join, axis=1))
    order = np.argsort(series["unique_id"].to_numpy(), kind="stable")
    series = series.iloc[order].reset_index(drop=True)
    calendar = calendar.sort_values("date", ignore_index=True)
    return World(
        series, units[order].astype(np.float32), _daily(prices, series, calendar["wm_yr_wk"].to_numpy()), calendar
    )


def _daily(prices: pd.DataFrame, series: pd.DataFrame, weeks: npt.NDArray[np.int32]) -> Floats32:
    """The weekly price list on days; NaN where there is no price."""
    listed, of_day = np.unique(weeks, return_inverse=True)
    rows = pd.MultiIndex.from_frame(series[["store", "item"]])
    at = rows.get_indexer(pd.MultiIndex.from_frame(prices[["store_id", "item_id"]]))
    week = np.searchsorted(listed, prices["wm_yr_wk"].to_numpy())
    known = at >= 0
    weekly = np.full((len(series), len(listed)), np.nan, dtype=np.float32)
    weekly[at[known], week[known]] = prices["sell_price"].to_numpy(dtype=np.float32)[known]
    return np.asarray(weekly[:, of_day], dtype=np.float32)
