"""The regular grid of a panel: a row per series and period, what an absent day means applied. It never looks ahead."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecasting.config import WEEKDAYS, Customer
from forecasting.periods import Frequency

__all__ = [
    "actuals",
    "closed",
    "dates",
    "future_frame",
    "known_ids",
    "last_sales",
    "longest",
    "ordinals",
    "regularise",
    "scales",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_SUNDAY = 3
"""1970-01-04 in days since 1970-01-01: the last day of the first week."""
_DAYS = {"D": 1.0, "W": 7.0, "M": 30.4375}
"""Mean days per period."""


def ordinals(ds: pd.Series | pd.DatetimeIndex, frequency: Frequency) -> Ints:
    """Number of each period, consecutive periods being consecutive numbers.

    >>> ordinals(pd.DatetimeIndex(["2024-02-29", "2024-03-31"]), "M").tolist()
    [649, 650]
    """
    index = pd.DatetimeIndex(ds)
    if frequency == "M":
        return np.asarray((index.year - 1970) * 12 + index.month - 1, dtype=np.int64)
    days = index.to_numpy().astype("datetime64[D]").astype(np.int64)
    return days if frequency == "D" else (days - _SUNDAY) // 7


def dates(numbers: Ints, frequency: Frequency) -> npt.NDArray[np.datetime64]:
    """The last day of each period, the reverse of :func:`ordinals`.

    >>> dates(np.array([649]), "M").astype("datetime64[D]").tolist()
    [datetime.date(2024, 2, 29)]
    """
    if frequency == "M":
        following = (numbers + 1).astype("datetime64[M]").astype("datetime64[D]")
        return (following - np.timedelta64(1, "D")).astype("datetime64[ns]")
    days = numbers if frequency == "D" else numbers * 7 + _SUNDAY
    return days.astype("datetime64[D]").astype("datetime64[ns]")


def _ordinal(day: date, frequency: Frequency) -> int:
    return int(ordinals(pd.DatetimeIndex([day]), frequency)[0])


def _first_rows(panel: pd.DataFrame, customer: Customer, cutoff: date) -> pd.Series:
    """Number of the period each series begins at: its first sale, else its first row; by unique_id, ascending."""
    past = panel[panel["ds"] <= pd.Timestamp(cutoff)]
    number = pd.Series(ordinals(past["ds"], customer.frequency), index=past.index)
    ids = past["unique_id"].to_numpy()
    first_row = number.groupby(ids, sort=True).min()
    sold = (past["y"] > 0) & np.isfinite(past["y"])
    first_sale = number[sold].groupby(ids[sold.to_numpy()], sort=True).min()
    starts: pd.Series = first_sale.reindex(first_row.index).fillna(first_row).astype("int64")
    return starts


def known_ids(panel: pd.DataFrame, cutoff: date) -> list[str]:
    """The series the feed had spoken of by ``cutoff``, ascending."""
    return sorted(panel.loc[panel["ds"] <= pd.Timestamp(cutoff), "unique_id"].unique())


def last_sales(panel: pd.DataFrame, cutoff: date) -> pd.DataFrame:
    """Per unique_id: ``first`` row, and ``last`` day with a sale up to ``cutoff`` (NaT: never sold)."""
    past = panel[panel["ds"] <= pd.Timestamp(cutoff)]
    first = past.groupby("unique_id", sort=True)["ds"].min()
    last = past[(past["y"] > 0) & np.isfinite(past["y"])].groupby("unique_id", sort=True)["ds"].max()
    return pd.DataFrame({"first": first, "last": last.reindex(first.index)})


def _lattice(panel: pd.DataFrame, customer: Customer, starts: pd.Series, end: int) -> tuple[pd.DataFrame, Ints]:
    """All periods ``starts[series] … end``, and for each the row of ``panel`` that holds it (-1: absent)."""
    lengths = np.maximum(end - starts.to_numpy() + 1, 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    code = np.repeat(np.arange(len(starts)), lengths)
    step = np.arange(offsets[-1]) - offsets[code]
    number = step + starts.to_numpy()[code]
    of_panel = starts.index.get_indexer(pd.Index(panel["unique_id"]))
    at = ordinals(panel["ds"], customer.frequency)
    inside = (of_panel >= 0) & (at <= end)
    inside[inside] = at[inside] >= starts.to_numpy()[of_panel[inside]]
    source = np.full(offsets[-1], -1, dtype=np.int64)
    kept = np.flatnonzero(inside)
    source[offsets[of_panel[kept]] + at[kept] - starts.to_numpy()[of_panel[kept]]] = kept
    ids = starts.index.to_numpy(dtype=object)[code]
    return pd.DataFrame({"unique_id": ids, "ds": dates(number, customer.frequency)}), source


def closed(ds: pd.Series, customer: Customer) -> Bools:
    """Whether each day falls on a weekday that the customer declares closed."""
    numbers = [WEEKDAYS.index(name) for name in customer.closed_weekdays]
    return np.asarray(ds.dt.dayofweek.isin(numbers), dtype=np.bool_)


def _observed(panel: pd.DataFrame, source: Ints, ds: pd.Series, customer: Customer) -> Floats:
    """What was sold: NaN where closed, missing, quarantined or not finite; 0 where an absent row means zero.

    An absent row means nothing after the newest period that any series has sales for: it was not delivered yet.
    """
    known = panel.loc[np.isfinite(panel["y"]), "ds"]
    silent = closed(ds, customer) | (ds > known.max() if len(known) else True)
    absent = np.where(silent, np.nan, 0.0 if customer.absent == "zero" else np.nan)
    y = np.where(source >= 0, panel["y"].to_numpy()[source], absent) if len(panel) else absent
    return np.where(np.isfinite(y), y, np.nan)


def _impute(y: Floats, codes: Ints, season: Ints) -> Floats:
    """Fill gaps for the models' sake: the last value of the same season, else the last, else the next, else 0."""
    if not np.isnan(y).any():
        return y
    filled = pd.Series(y).groupby([codes, season]).ffill()
    filled = filled.groupby(codes).ffill().groupby(codes).bfill()
    return np.asarray(filled.fillna(0.0), dtype=np.float64)


def _exogenous(panel: pd.DataFrame, source: Ints, ids: Ints, name: str, customer: Customer) -> tuple[Floats, int]:
    """One column over the lattice with the declared fill, and how many values were filled."""
    values = np.full(len(source), np.nan)
    if len(panel):
        values = np.where(source >= 0, panel[name].to_numpy(dtype=np.float64)[source], np.nan)
    values = np.where(np.isfinite(values), values, np.nan)
    column = customer.exogenous[name]
    if column.known == "static":
        values = pd.Series(values).groupby(ids).ffill().groupby(ids).bfill().to_numpy()
    gaps = np.isnan(values)
    if column.fill == "last":  # before the first known value there is none to take but the next
        values = pd.Series(values).groupby(ids).ffill().groupby(ids).bfill().to_numpy()
        return np.where(np.isnan(values), 0.0, values), int(gaps.sum())
    return np.where(gaps, column.fill, values), int(gaps.sum())


def _otherwise(customer: Customer, name: str) -> float:
    """What stands for a value that a series never had."""
    fill = customer.exogenous[name].fill
    return 0.0 if fill == "last" else fill


def longest(customer: Customer) -> int:
    """Most periods of history that forecasters see."""
    return max(int(customer.history_days / _DAYS[customer.frequency]), 1)


def regularise(panel: pd.DataFrame, customer: Customer, cutoff: date) -> pd.DataFrame:
    """Every period of every series from its first sale (at most ``history_days`` back) to ``cutoff``.

    Args:
        panel: A frames.PANEL; rows after ``cutoff`` are not looked at.
        customer: Says what an absent row means, and the fill of each exogenous column.
        cutoff: Last period that may be seen.

    Returns:
        Columns unique_id, ds, y (units, never NaN: where the day was closed or missing, an imputation that only feeds
        the models), scored (False there) and each declared exogenous column. Sorted by unique_id, ds.
    """
    end = _ordinal(cutoff, customer.frequency)
    starts = _first_rows(panel, customer, cutoff).clip(lower=end - longest(customer) + 1)
    grid, source = _lattice(panel, customer, starts, end)
    codes = np.repeat(np.arange(len(starts)), end - starts.to_numpy() + 1)
    y = _observed(panel, source, grid["ds"], customer)
    grid["y"] = _impute(y, codes, ordinals(grid["ds"], customer.frequency) % customer.season_length)
    grid["scored"] = ~np.isnan(y)
    for name in sorted(customer.exogenous):
        grid[name] = _exogenous(panel, source, codes, name, customer)[0]
    return grid


def _ahead(panel: pd.DataFrame, customer: Customer, cutoff: date, ids: Sequence[str]) -> tuple[pd.DataFrame, Ints]:
    start = _ordinal(cutoff, customer.frequency) + 1
    starts = pd.Series(start, index=pd.Index(list(ids), dtype=object), dtype="int64")
    frame, source = _lattice(panel, customer, starts, start + customer.horizon - 1)
    frame["h"] = np.tile(np.arange(1, customer.horizon + 1, dtype=np.int64), len(starts))
    return frame, source


def future_frame(
    panel: pd.DataFrame, customer: Customer, cutoff: date, ids: Sequence[str] | None = None
) -> tuple[pd.DataFrame, int]:
    """The horizon of every series: unique_id, ds, h, and the exogenous columns that are static or known ahead.

    Returns:
        The frame, and how many values the plan did not reach and the declared fill stands for.
    """
    ids = known_ids(panel, cutoff) if ids is None else ids
    frame, source = _ahead(panel, customer, cutoff, ids)
    codes = np.repeat(np.arange(len(ids)), customer.horizon)
    filled = 0
    for name in customer.future():
        frame[name], gaps = _exogenous(panel, source, codes, name, customer)
        filled += gaps
    for name in sorted(n for n, column in customer.exogenous.items() if column.known == "static"):
        past = panel[(panel["ds"] <= pd.Timestamp(cutoff)) & np.isfinite(panel[name])]
        constant = past.groupby("unique_id", sort=True)[name].last().reindex(list(ids))
        frame[name] = constant.fillna(_otherwise(customer, name)).to_numpy(dtype=np.float64)[codes]
    return frame, filled


def actuals(panel: pd.DataFrame, customer: Customer, origin: date, ids: Sequence[str]) -> pd.DataFrame:
    """What came in the ``horizon`` periods after ``origin``: unique_id, ds, h, y (NaN where not scored), scored."""
    frame, source = _ahead(panel, customer, origin, ids)
    frame["y"] = _observed(panel, source, frame["ds"], customer)
    frame["scored"] = ~np.isnan(frame["y"].to_numpy())
    return frame


def scales(grid: pd.DataFrame) -> pd.Series:
    """RMSSE's denominator per unique_id: mean squared difference of successive observed values, in units².

    Closed and missing days are left out, so a difference may span one. NaN where undefined: fewer than two
    observations, or all of them equal.
    """
    seen = grid[grid["scored"]]
    difference = seen["y"].diff().to_numpy().copy()
    ids = seen["unique_id"].to_numpy()
    if len(ids):
        difference[np.concatenate([[True], ids[1:] != ids[:-1]])] = np.nan
    squared = pd.Series(difference**2).groupby(ids, sort=True).mean()
    every = pd.Index(grid["unique_id"].unique(), dtype=object, name="unique_id")
    return squared.where(squared > 0).reindex(every).astype("float64").rename("scale")
