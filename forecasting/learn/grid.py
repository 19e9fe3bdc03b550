"""The regular grid of a panel: a row per series and period, what an absent day means applied. It never looks ahead."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecasting.config import WEEKDAYS, Customer
from forecasting.periods import Frequency

__all__ = [
    "actuals",
    "closed",
    "coded",
    "codes",
    "dates",
    "delivered",
    "future_frame",
    "horizon_rows",
    "known_ids",
    "last_sales",
    "longest",
    "ordinals",
    "present_ids",
    "regularise",
    "scales",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]
Objects = npt.NDArray[np.object_]
Days = npt.NDArray[np.datetime64]

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


def coded(panel: pd.DataFrame) -> pd.DataFrame:
    """The panel with its unique_id as a categorical, categories ascending.

    Hashing the texts of a large panel takes longer than what is then computed. Whoever asks several things of one
    panel codes it once: every function here takes either kind, and a grid is of the kind of its panel.
    """
    code, names = codes(panel["unique_id"])
    out = panel.copy(deep=False)  # the other columns are shared, not copied
    out["unique_id"] = _categorical(code, pd.CategoricalDtype(pd.Index(names, dtype=object)))
    return out


def _categorical(code: Ints | Codes, dtype: pd.CategoricalDtype) -> pd.Categorical:
    return pd.Categorical.from_codes(code, dtype=dtype)  # type: ignore[arg-type] # the stubs know lists alone


def codes(ids: pd.Series) -> tuple[Ints, Objects]:
    """The number of each row's series among the names beside it, which ascend; a name may have no row."""
    if isinstance(ids.dtype, pd.CategoricalDtype) and ids.cat.categories.is_monotonic_increasing:
        return np.asarray(ids.cat.codes, dtype=np.int64), np.asarray(ids.cat.categories, dtype=object)
    code, names = pd.factorize(ids.astype(object), sort=True)
    return np.asarray(code, dtype=np.int64), np.asarray(names, dtype=object)


def present_ids(ids: pd.Series, rows: Bools | None = None) -> list[str]:
    """The series that have rows (that are True), ascending."""
    code, every = codes(ids)
    return list(every[np.bincount(code if rows is None else code[rows], minlength=len(every)) > 0])


def _column(code: Codes, names: Objects, like: pd.Series) -> pd.Categorical | Objects:
    """The unique_ids ``names[code]``, of the kind of ``like``; names are among its categories."""
    if not isinstance(like.dtype, pd.CategoricalDtype):
        return names[code]
    return _categorical(like.cat.categories.get_indexer(pd.Index(names))[code], like.dtype)


_NEVER = np.iinfo(np.int64).max
"""No period has this number."""


def _first(code: Ints, value: Ints, rows: Bools, n: int) -> Ints:
    """Least value of each of ``n`` series over the rows that are True; ``_NEVER`` without one."""
    first = np.full(n, _NEVER)
    if (code[1:] >= code[:-1]).all():  # as a panel is sorted
        begins = np.flatnonzero(np.diff(code, prepend=-1))
        first[code[begins]] = np.minimum.reduceat(np.where(rows, value, _NEVER), begins) if len(begins) else _NEVER
    else:
        np.minimum.at(first, code[rows], value[rows])
    return first


def _sold(panel: pd.DataFrame) -> Bools:
    y = panel["y"].to_numpy(dtype=np.float64)
    return np.asarray((y > 0) & np.isfinite(y), dtype=np.bool_)


def known_ids(panel: pd.DataFrame, cutoff: date) -> list[str]:
    """The series the feed had spoken of by ``cutoff``, ascending."""
    return present_ids(panel["unique_id"], (panel["ds"] <= pd.Timestamp(cutoff)).to_numpy())


def last_sales(panel: pd.DataFrame, cutoff: date) -> pd.DataFrame:
    """Per unique_id: ``first`` row, and ``last`` day with a sale up to ``cutoff`` (NaT: never sold)."""
    code, names = codes(panel["unique_id"])
    days = panel["ds"].to_numpy()
    past, number = days <= pd.Timestamp(cutoff).to_datetime64(), days.astype("int64")
    first = _first(code, number, past, len(names))
    last = -_first(code, -number, past & _sold(panel), len(names))  # NaT is the least of its kind
    known = first != _NEVER
    index = pd.Index(names[known], dtype=object, name="unique_id")
    stamps = {"first": first[known], "last": np.where(last == -_NEVER, pd.NaT.value, last)[known]}
    return pd.DataFrame({name: pd.Series(value.view(days.dtype), index=index) for name, value in stamps.items()})


class _Lattice(NamedTuple):
    """All periods ``starts[series] … end`` of some series, one after the other."""

    code: Codes
    """Position of the series."""
    number: Ints
    """The period's number."""
    rows: Ints
    """Rows of the panel that speak of one of these periods."""
    place: Ints
    """Which one each of these rows speaks of."""

    def lay(self, values: pd.Series, out: Floats) -> Floats:
        """Write a column of the panel where it belongs, in place; what is not finite is unknown, NaN."""
        out[self.place] = values.to_numpy(dtype=np.float64)[self.rows]
        out[~np.isfinite(out)] = np.nan
        return out


def _lattice(starts: Ints, end: int, of: Ints, at: Ints) -> _Lattice:
    """The lattice over a panel whose rows are of series ``of`` (-1: of none) and of periods ``at``."""
    lengths = np.maximum(end - starts + 1, 0)
    shift = np.cumsum(lengths) - lengths - starts
    code = np.repeat(np.arange(len(starts), dtype=np.int32), lengths)
    number = np.arange(len(code))
    number -= np.repeat(shift, lengths)
    inside = (of >= 0) & (at <= end)
    if len(starts):
        inside &= at >= starts[of]
    rows = np.flatnonzero(inside)
    return _Lattice(code, number, rows, shift[of[rows]] + at[rows])


def closed(ds: pd.Series, customer: Customer) -> Bools:
    """Whether each day falls on a weekday that the customer declares closed."""
    if not customer.closed_weekdays:
        return np.zeros(len(ds), dtype=np.bool_)
    numbers = [WEEKDAYS.index(name) for name in customer.closed_weekdays]
    return np.asarray(ds.dt.dayofweek.isin(numbers), dtype=np.bool_)


def delivered(panel: pd.DataFrame) -> Days:
    """The periods that any series has sales for, ascending: the feed had reached the newest of them."""
    known = np.isfinite(panel["y"].to_numpy())
    return np.sort(pd.unique(panel["ds"].to_numpy()[known]))


def _newest(days: Days, cutoff: date | None = None) -> pd.Timestamp | None:
    """The last of some days, up to ``cutoff`` if one is given; None without one."""
    past = days if cutoff is None else days[days <= pd.Timestamp(cutoff).to_datetime64()]
    return pd.Timestamp(past[-1]) if len(past) else None


def _observed(
    panel: pd.DataFrame, lattice: _Lattice, ds: pd.Series, customer: Customer, newest: pd.Timestamp | None
) -> Floats:
    """What was sold: NaN where closed, missing, quarantined or not finite; 0 where an absent row means zero.

    An absent row means nothing after ``newest``, the last period that any series has sales for: it was not delivered
    yet.
    """
    y = np.full(len(ds), np.nan)
    if customer.absent == "zero" and newest is not None:
        y[(ds <= newest).to_numpy() & ~closed(ds, customer)] = 0.0
    return lattice.lay(panel["y"], y)


def _carried(values: Floats, groups: Ints | Codes) -> Floats:
    """Each gap filled with the last value before it in its run of equal groups; NaN where there is none."""
    missing = np.isnan(values)
    gaps = np.flatnonzero(missing)
    if not len(gaps):
        return values
    last = np.arange(len(values))
    last[gaps] = 0
    last = np.maximum.accumulate(last, out=last)[gaps]
    filled = values.copy()
    filled[gaps] = np.where(groups[last] == groups[gaps], values[last], np.nan)
    return filled


def _spread(values: Floats, groups: Ints | Codes) -> Floats:
    """Each gap filled with the last value of its run of equal groups, else the next; NaN where there is none."""
    forward = _carried(values, groups)
    return _carried(forward[::-1], groups[::-1])[::-1]


def _impute(y: Floats, series: Codes, season: Ints, seasons: int) -> Floats:
    """Fill gaps for the models' sake: the last value of the same season, else the last, else the next, else 0."""
    if not np.isnan(y).any():
        return y
    order = np.argsort(season.astype(np.int16), kind="stable")  # small integers are sorted in one pass
    filled = np.empty_like(y)
    filled[order] = _carried(y[order], (series.astype(np.int64) * seasons + season)[order])
    filled = _spread(filled, series)
    filled[np.isnan(filled)] = 0.0
    return filled


def _exogenous(panel: pd.DataFrame, lattice: _Lattice, name: str, customer: Customer) -> tuple[Floats, int]:
    """One column over the lattice with the declared fill, and how many values were filled."""
    ids = lattice.code
    values = lattice.lay(panel[name], np.full(len(ids), np.nan))
    column = customer.exogenous[name]
    if column.known == "static":
        values = _spread(values, ids)
    gaps = int(np.isnan(values).sum())
    if column.fill == "last" and column.known == "historic":  # the next value was not known yet
        return _carried(values, ids), gaps
    if column.fill == "last":  # before the first known value there is none to take but the next
        values = _spread(values, ids)
    values[np.isnan(values)] = 0.0 if column.fill == "last" else column.fill
    return values, gaps


def _otherwise(customer: Customer, name: str) -> float:
    """What stands for a value that a series never had."""
    fill = customer.exogenous[name].fill
    return 0.0 if fill == "last" else fill


def longest(customer: Customer) -> int:
    """Most periods of history that forecasters see."""
    return max(int(customer.history_days / _DAYS[customer.frequency]), 1)


def regularise(
    panel: pd.DataFrame,
    customer: Customer,
    cutoff: date,
    ids: Sequence[str] | None = None,
    days: Days | None = None,
) -> pd.DataFrame:
    """Every period of every series from its first sale (at most ``history_days`` back) to ``cutoff``.

    Args:
        panel: A frames.PANEL; rows after ``cutoff`` are not looked at.
        customer: Says what an absent row means, and the fill of each exogenous column.
        cutoff: Last period that may be seen.
        ids: The series the grid is of; None: all.
        days: :func:`delivered` of the whole feed, where the panel holds a part of its series: what an absent row means
            may not depend on who else is looked at.

    Returns:
        Columns unique_id, ds, y (units, never NaN: where the day was closed or missing, an imputation that only feeds
        the models), scored (False there) and each declared exogenous column, NaN where a historic one with the fill
        ``last`` had no value yet. Sorted by unique_id, ds.
    """
    names, lattice = _history(panel, customer, cutoff, ids)
    newest = _newest(delivered(panel) if days is None else days, cutoff)
    grid = pd.DataFrame({"unique_id": _column(lattice.code, names, panel["unique_id"])})
    grid["ds"] = dates(lattice.number, customer.frequency)
    y = _observed(panel, lattice, grid["ds"], customer, newest)
    grid["scored"] = ~np.isnan(y)
    season = lattice.number % customer.season_length
    grid.insert(2, "y", _impute(y, lattice.code, season, customer.season_length))
    for name in sorted(customer.exogenous):
        grid[name] = _exogenous(panel, lattice, name, customer)[0]
    return grid


def _history(
    panel: pd.DataFrame, customer: Customer, cutoff: date, ids: Sequence[str] | None
) -> tuple[Objects, _Lattice]:
    """The series of a grid, and its lattice."""
    end = _ordinal(cutoff, customer.frequency)
    code, names = codes(panel["unique_id"])
    at = ordinals(panel["ds"], customer.frequency)
    past = (panel["ds"] <= pd.Timestamp(cutoff)).to_numpy()
    row, sale = (_first(code, at, rows, len(names)) for rows in (past, past & _sold(panel)))
    known = row != _NEVER
    known = np.flatnonzero(known if ids is None else known & pd.Index(names).isin(ids))
    starts = np.where(sale != _NEVER, sale, row)[known].clip(min=end - longest(customer) + 1)
    place = np.full(len(names), -1)
    place[known] = np.arange(len(known))
    return names[known], _lattice(starts, end, place[code], at)


def horizon_rows(customer: Customer, cutoff: date, ids: Sequence[str]) -> pd.DataFrame:
    """A row per series and step of the horizon, in that order: unique_id, ds, h."""
    steps = np.arange(1, customer.horizon + 1, dtype=np.int64)
    days = dates(_ordinal(cutoff, customer.frequency) + steps, customer.frequency)
    return pd.DataFrame(
        {
            "unique_id": np.repeat(np.array(list(ids), dtype=object), customer.horizon),
            "ds": np.tile(days, len(ids)),
            "h": np.tile(steps, len(ids)),
        }
    )


def _ahead(
    panel: pd.DataFrame, customer: Customer, cutoff: date, ids: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame, _Lattice]:
    """The horizon's rows, the part of the panel that speaks of them, and the lattice over that part."""
    start = _ordinal(cutoff, customer.frequency) + 1
    at = ordinals(panel["ds"], customer.frequency)
    inside = (at >= start) & (at < start + customer.horizon)
    part = panel[inside]
    code, names = codes(part["unique_id"])
    place = pd.Index(list(ids), dtype=object).get_indexer(pd.Index(names))
    starts = np.full(len(ids), start)
    lattice = _lattice(starts, start + customer.horizon - 1, place[code], at[inside])
    return horizon_rows(customer, cutoff, ids), part, lattice


def future_frame(
    panel: pd.DataFrame, customer: Customer, cutoff: date, ids: Sequence[str] | None = None
) -> tuple[pd.DataFrame, int]:
    """The horizon of every series: unique_id, ds, h, and the exogenous columns that are static or known ahead.

    Returns:
        The frame, and how many values the plan did not reach and the declared fill stands for.
    """
    ids = known_ids(panel, cutoff) if ids is None else ids
    frame, part, lattice = _ahead(panel, customer, cutoff, ids)
    filled = 0
    for name in customer.future():
        frame[name], gaps = _exogenous(part, lattice, name, customer)
        filled += gaps
    for name in sorted(n for n, column in customer.exogenous.items() if column.known == "static"):
        past = panel.loc[(panel["ds"] <= pd.Timestamp(cutoff)) & np.isfinite(panel[name]), ["unique_id", name]]
        code, names = codes(past["unique_id"])
        constant = pd.Series(past[name].to_numpy()).groupby(code).last()
        constant = constant.set_axis(names[constant.index]).reindex(list(ids))
        frame[name] = constant.fillna(_otherwise(customer, name)).to_numpy(dtype=np.float64)[lattice.code]
    return frame, filled


def actuals(
    panel: pd.DataFrame, customer: Customer, origin: date, ids: Sequence[str], days: Days | None = None
) -> pd.DataFrame:
    """What came in the ``horizon`` periods after ``origin``: unique_id, ds, h, y (NaN where not scored), scored.

    ``days``: :func:`delivered` of the whole feed, where the panel holds a part of its series.
    """
    frame, part, lattice = _ahead(panel, customer, origin, ids)
    newest = _newest(delivered(panel) if days is None else days)
    frame["y"] = _observed(part, lattice, frame["ds"], customer, newest)
    frame["scored"] = ~np.isnan(frame["y"].to_numpy())
    return frame


def scales(grid: pd.DataFrame) -> pd.Series:
    """RMSSE's denominator per unique_id: mean squared difference of successive observed values, in units².

    Closed and missing days are left out, so a difference may span one. NaN where undefined: fewer than two
    observations, or all of them equal.
    """
    code, names = codes(grid["unique_id"])
    seen = grid["scored"].to_numpy()
    y, of = grid["y"].to_numpy()[seen], code[seen]
    difference = np.diff(y, prepend=np.nan)
    difference[np.diff(of, prepend=-1) != 0] = np.nan
    squared = pd.Series(difference**2).groupby(of).mean().reindex(np.arange(len(names)))
    every = pd.unique(code)  # in the order of the grid
    scale = squared.where(squared > 0).to_numpy(dtype=np.float64)[every]
    return pd.Series(scale, index=pd.Index(names[every], dtype=object, name="unique_id"), name="scale")
