"""Features of one (series, origin, step): what a global model knows of a period when it stands at an origin before it.

One code path serves training, backtest and prediction. A training row is made as if its origin were tonight: what was
sold counts up to the origin, a column known up to the cutoff likewise, a plan up to the end of that origin's horizon.
What was sold is measured against the series' own recent level, so that a rare article, a best seller and a series that
has grown since look alike to the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecasting.config import MEANS, TOTAL, Customer
from forecasting.frames import split_id
from forecasting.learn import grid, reconciliation
from forecasting.periods import Frequency

__all__ = ["Features", "History", "Plan", "Rows", "lay_out", "lookback", "read_plan"]

Floats = npt.NDArray[np.float32]
Exact = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class _Clock(NamedTuple):
    """What is customary for one frequency, in periods."""

    windows: tuple[int, ...]
    """Windows that sales are averaged over."""
    level: tuple[int, int]
    """The two windows whose means make the level."""
    plan: tuple[int, ...]
    """Windows that a plan is compared with its own past over."""
    alike: int
    """Periods before the origin in which a day with a similar plan is looked for."""
    year: int
    """Periods to the same season a year ago: whole weeks, so that a Sunday meets a Sunday."""
    around: int
    """Periods on either side of that day which are averaged."""
    longest_season: int
    """A season length above this is left to the year."""


_CLOCKS: dict[Frequency, _Clock] = {
    "D": _Clock((7, 14, 28, 56, 112, 364), (28, 112), (28, 364), 56, 364, 3, 31),
    "W": _Clock((2, 4, 8, 13, 26, 52), (8, 26), (4, 13, 52), 52, 52, 1, 13),
    "M": _Clock((2, 3, 6, 12), (3, 12), (6, 12), 24, 12, 0, 0),
}
_SEASONS = (4, 8, 26)
"""Seasons that the same phase is averaged over."""
_LAGS = 3
"""Newest periods that are features themselves."""
_PEERS, _SIBLINGS = 20, 2
"""Least series per group, on average, of the groups that lend their season and of those that lend their level."""
_TOGETHER = 20_000
"""Values that are compared at a time: few rows are compared over many periods at once, many over one after another."""
_FADE = 0.97
"""Weight of a day with a similar plan, per period that lies between."""
_NARROW = 0.25
"""Width within which plans are alike, in standard deviations of the column within a series."""
_FEW = 0.001
"""A plan of which no more values than this differ between series is everybody's: a filled gap here and there."""
_ALL = "*"
"""Name of what is made of all plans together; no column can have it."""
_CALENDAR = {"month": "month", "dayofyear": "day_of_year", "dayofweek": "day_of_week", "day": "day_of_month"}
"""pandas' names of what a day is → the features'."""
_FLOOR = 0.1
"""The level is at least this share of the mean over a year: a pause does not make it nothing."""


@dataclass(frozen=True)
class History:
    """A panel up to a cutoff as matrices: a row per series, a column per period, the last one the cutoff.

    Below the series stand the aggregates of the hierarchy, as sums: they are forecast as any series is.
    """

    ids: list[str]
    """The series; the aggregates come after them in every matrix."""
    y: Exact
    """Units, shape (series, periods): 0 before a series begins, imputed where it was closed or missing."""
    scored: Bools
    """Where ``y`` was observed."""
    start: Ints
    """Column each series begins at."""
    future: dict[str, Floats]
    """Columns known ahead, shape (series, periods + horizon); NaN before a series begins."""
    historic: dict[str, Floats]
    """Columns known up to the cutoff, shape (series, periods); NaN before a series begins."""
    static: dict[str, Floats]
    """Columns that are constant, shape (series,)."""
    known: list[reconciliation.Grouping]
    """All aggregates of the hierarchy: what a series may be grouped by."""
    nodes: list[reconciliation.Grouping]
    """Those that are rows, after the series and one after the other."""
    labels: dict[str, npt.NDArray[np.object_]]
    """Key column → each row's value of it; None where an aggregate spans several."""
    ds: pd.DatetimeIndex
    """The last day of each period, horizon included."""
    scale: Exact
    """RMSSE's denominator of each series, in units²; NaN where undefined."""
    clock: _Clock
    season: int
    """Periods of the shortest season; 1: there is none."""
    horizon: int
    longest: int
    """Most periods of history that are kept."""

    @property
    def periods(self) -> int:
        """Columns of history."""
        return int(self.y.shape[1])

    @property
    def size(self) -> int:
        """Rows: series and aggregates."""
        return int(self.y.shape[0])

    def parts(self) -> list[list[slice]]:
        """The rows that one model is made of each: the series; the aggregates, node by node."""
        ends = len(self.ids) + np.cumsum([0, *(len(node.ids) for node in self.nodes)])
        upper = [slice(int(a), int(b)) for a, b in pairwise(ends)]
        return [[slice(0, len(self.ids))], *([upper] if upper else [])]

    @cached_property
    def calendar(self) -> dict[str, Exact]:
        """What each column's day is in its week, month and year, as far as periods tell; shape (periods + horizon,)."""
        kinds = ["month", *["dayofyear"] * (self.clock.year > 12), *["dayofweek", "day"] * (self.clock.year > 52)]
        return {_CALENDAR[kind]: getattr(self.ds, kind).to_numpy(dtype=np.float64) for kind in kinds}

    @cached_property
    def noise(self) -> Exact:
        """Mean squared difference from the season before, over a year, in units²; what no model explains is like it."""
        lag, seen = self.season, self.seen(slice(None), max(self.periods - self.clock.year - self.season, 0))
        return _nanmean((seen[:, lag:] - seen[:, :-lag]) ** 2)

    def seen(self, of: Ints | slice, first: int, end: int | None = None) -> Exact:
        """Observed sales of the rows ``of`` from column ``first`` up to and without ``end``; NaN elsewhere."""
        return np.where(self.scored[of, first:end], self.y[of, first:end], np.nan)

    @cached_property
    def sold(self) -> _Sums:
        """Observed sales, to be averaged over windows."""
        return _Sums(self.y, self.scored)

    @cached_property
    def busy(self) -> _Sums:
        """Whether anything was sold, to be averaged over windows."""
        return self.sold.beside(self.scored & (self.y > 0))

    @cached_property
    def plans(self) -> dict[str, _Sums]:
        """The windows of plans and historic columns."""
        values = {**self.future, **self.historic}
        return _Made(lambda name: _Sums(values[name], np.isfinite(values[name])))

    @cached_property
    def last_sale(self) -> npt.NDArray[np.signedinteger[Any]]:
        """Column of the newest sale up to each column; -1: none yet. Shape as ``y``."""
        columns = np.arange(self.periods, dtype=_counts(self.periods))
        return np.maximum.accumulate(np.where(self.scored & (self.y > 0), columns, columns.dtype.type(-1)), axis=1)


def _group_mean(values: Floats, codes: Ints) -> Exact:
    """Mean per group and column, gaps left out; the last row is everybody's."""
    order = np.argsort(codes, kind="stable")
    begins = np.searchsorted(codes[order], np.arange(int(codes.max()) + 1))
    total, count = (
        np.add.reduceat(part[order], begins, axis=0, dtype=kind)
        for part, kind in ((np.nan_to_num(values), np.float64), (np.isfinite(values), np.int64))
    )
    total, count = (np.concatenate([part, part.sum(axis=0, keepdims=True)]) for part in (total, count))
    return _ratio(total, count)


def _ratio(value: Exact, base: Exact | Ints) -> Exact:
    """A ratio, NaN where there is nothing to divide by."""
    out: Exact = np.full(np.broadcast(value, base).shape, np.nan)
    np.divide(value, base, out=out, where=base > 0)
    return out


class _Made(dict[str, Any]):
    """What is made of each column when it is first asked for."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        self._make = make

    def __missing__(self, name: str) -> Any:
        self[name] = self._make(name)
        return self[name]


class _Sums:
    """Means over windows of a matrix by cumulative sums; what was not seen counts neither above nor below the line."""

    def __init__(self, values: Exact | Floats, seen: Bools) -> None:
        self._sum = _cumulated(np.where(seen, values, 0.0), np.float64)
        self._count = _cumulated(seen, _counts(seen.shape[1]))

    def beside(self, told: Bools) -> _Sums:
        """The share of what was seen that is told of: a subset of it."""
        out = object.__new__(_Sums)
        out._sum, out._count = _cumulated(told, self._count.dtype), self._count
        return out

    def mean(self, end: int | Ints, width: int, of: Ints | None = None) -> Exact:
        """Mean of the ``width`` values up to and with column ``end`` (of the rows ``of``); NaN where there is none."""
        rows = slice(None) if of is None else of
        last = self._sum.shape[1] - 1
        stop = np.minimum(np.maximum(np.add(end, 1), 0), last)  # np.clip takes twice as long
        begin = np.minimum(np.maximum(np.add(end, 1 - width), 0), last)
        count = self._count[rows, stop] - self._count[rows, begin]
        total = self._sum[rows, stop] - self._sum[rows, begin]
        return _ratio(total, count)


def _counts(columns: int) -> npt.DTypeLike:
    """The smallest kind of number that counts so many columns: a large customer's matrices are many."""
    return np.int16 if columns < 2**15 else np.int32


def _cumulated(values: npt.NDArray[Any], kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """Sums of each row's columns up to and without each column, one column more than there are."""
    out = np.zeros((values.shape[0], values.shape[1] + 1), dtype=kind)
    np.cumsum(values, axis=1, out=out[:, 1:])
    return out


# --- from the panel to matrices -------------------------------------------------------------------------------------


def lay_out(long: pd.DataFrame, panel: pd.DataFrame, customer: Customer, cutoff: date) -> History:
    """The matrices of a grid up to ``cutoff``, and its series' plans over the horizon.

    Args:
        long: What ``grid.regularise`` made at ``cutoff``. Its columns are taken out as their matrices are made: those
            of a large customer and the grid need not be held at once.
        panel: The frames.PANEL it was made from; rows after ``cutoff`` give only columns known ahead.
        customer: Says what an absent row means, fills, keys, hierarchy, season and horizon.
        cutoff: Last period that may be seen.
    """
    code, every = grid.codes(long["unique_id"])
    lengths = np.bincount(code, minlength=len(every)).astype(np.int64)
    ids = [str(unique_id) for unique_id in every[lengths > 0]]
    lengths = lengths[lengths > 0]
    periods = int(lengths.max()) if len(lengths) else 0
    start = periods - lengths
    begun = np.arange(periods) >= start[:, None]
    scale = grid.scales(long).to_numpy(dtype=np.float64)
    ahead = grid.future_frame(panel, customer, cutoff, ids)[0]
    known = {kind: [n for n, c in sorted(customer.exogenous.items()) if c.known == kind] for kind in _KINDS}

    def matrix(name: str, gap: float = np.nan) -> Exact:
        out = np.full(begun.shape, gap)
        out[begun] = long.pop(name).to_numpy(dtype=np.float64)
        return out

    def constant(name: str) -> Exact:
        return np.asarray(ahead[name].to_numpy(dtype=np.float64)[:: customer.horizon])

    def with_plan(name: str) -> Exact:
        over = ahead[name].to_numpy(dtype=np.float64).reshape(len(lengths), customer.horizon)
        return np.concatenate([matrix(name), over], axis=1)

    clock, season = _CLOCKS[customer.frequency], customer.season_length
    known_nodes = reconciliation.groupings(ids, customer)
    # the median of a sum is no sum of medians: aggregates say something of their series where means are forecast
    nodes = known_nodes if customer.objective in MEANS else []
    codes = {
        key: np.array([split_id(u)[at] for u in ids], dtype=object) for at, key in enumerate(customer.columns.keys)
    }
    y, scored = matrix("y", 0.0), matrix("scored", 0.0).astype(bool)
    return History(
        ids=ids,
        y=_stack(y, nodes, np.add),
        scored=_stack(scored, nodes, np.logical_or),
        start=_stack(start, nodes, np.minimum),
        future={name: _shared(with_plan(name), nodes) for name in known["future"]},
        historic={name: _average(matrix(name), nodes) for name in known["historic"]},
        static={name: _average(constant(name), nodes) for name in known["static"]},
        known=known_nodes,
        nodes=nodes,
        labels={key: _labels(key, values, nodes) for key, values in codes.items()},
        ds=_days(pd.Timestamp(cutoff), periods, customer),
        scale=np.concatenate([scale, _scales(y, scored, start, nodes)]),
        clock=clock,
        season=season if season <= clock.longest_season else 1,
        horizon=customer.horizon,
        longest=grid.longest(customer),
    )


def _stack(values: npt.NDArray[Any], nodes: list[reconciliation.Grouping], put: np.ufunc) -> npt.NDArray[Any]:
    """The series' values, and under them each aggregate's: its members' put together by ``put``."""
    parts = [values]
    for node in nodes:
        order = np.argsort(node.of, kind="stable")
        begins = np.searchsorted(node.of[order], np.arange(len(node.ids)))
        parts.append(put.reduceat(values[order], begins, axis=0))
    return np.concatenate(parts)


def _average(values: Exact, nodes: list[reconciliation.Grouping]) -> Floats:
    """The series' values, and each aggregate's mean over its members that have one: a promotion's share, a price."""
    if not nodes:
        return values.astype(np.float32)
    seen = np.isfinite(values)
    total, count = _stack(np.where(seen, values, 0.0), nodes, np.add), _stack(seen.astype(np.int32), nodes, np.add)
    return _ratio(total, count).astype(np.float32)


def _shared(values: Exact, nodes: list[reconciliation.Grouping]) -> Floats:
    """A plan's matrix; one row for all, without the memory of many, where it is everybody's."""
    least, most = (np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)) if len(values) else (values, values)
    if len(values) and np.array_equal(least, most, equal_nan=True):
        rows = len(values) + sum(len(node.ids) for node in nodes)
        return np.broadcast_to(least.astype(np.float32), (rows, values.shape[1]))
    return _average(values, nodes)


def _labels(key: str, values: npt.NDArray[np.object_], nodes: list[reconciliation.Grouping]) -> npt.NDArray[np.object_]:
    rest = [values[node.first] if key in node.keys else np.full(len(node.ids), None, dtype=object) for node in nodes]
    return np.concatenate([values, *rest])


def _scales(y: Exact, scored: Bools, start: Ints, nodes: list[reconciliation.Grouping]) -> Exact:
    """RMSSE's denominator of each aggregate, in units²; NaN where undefined."""
    total, seen, begins = (
        _stack(v, nodes, put)[len(y) :] for v, put in ((y, np.add), (scored, np.logical_or), (start, np.minimum))
    )
    squared = np.diff(total, axis=1) ** 2
    counts = seen[:, 1:] & seen[:, :-1] & (np.arange(1, total.shape[1]) > begins[:, None])
    scale = _nanmean(np.where(counts, squared, np.nan))
    return np.where(scale > 0, scale, np.nan)


_KINDS = ("future", "historic", "static")


def _days(last: pd.Timestamp, periods: int, customer: Customer) -> pd.DatetimeIndex:
    end = int(grid.ordinals(pd.DatetimeIndex([last]), customer.frequency)[0])
    return pd.DatetimeIndex(grid.dates(np.arange(end - periods + 1, end + customer.horizon + 1), customer.frequency))


def _lenders(series: int, known: list[reconciliation.Grouping]) -> dict[str, str]:
    """Which node lends each series a steady season, the narrowest with enough series, and which its siblings' level."""
    out: dict[str, str] = {}
    narrowest = sorted((node for node in known if len(node.ids) > 1), key=lambda node: -len(node.ids))
    for kind, least in (("peers", _PEERS), ("siblings", _SIBLINGS)):
        found = next((node.node for node in narrowest if series >= least * len(node.ids)), None)
        if found is not None and found not in out.values():
            out[kind] = found
    return out


class _Groups:
    """Which group each row of a history is in, kind by kind; the last group of a kind is everybody.

    Args:
        history: The rows.
        lenders: Kind → node, as a plan names them.

    Raises:
        ValueError: The hierarchy has no such node any more.
    """

    def __init__(self, history: History, lenders: dict[str, str]) -> None:
        self._history, series = history, len(history.ids)
        by_name = {node.node: node for node in history.known}
        gone = sorted(set(lenders.values()) - set(by_name))
        if gone:
            raise ValueError(f"the model was trained with groups by {', '.join(gone)}; tonight's hierarchy has no such")
        self.of = {TOTAL: np.zeros(history.size, dtype=np.int64)}
        """Kind → the group of each row."""
        for kind, name in lenders.items():
            node = by_name[name]
            self.of[kind] = np.concatenate([node.of, *(_group_of(row, node) for row in history.nodes)])
        siblings = self.of.get("siblings", self.of.get("peers", self.of[TOTAL]))
        self.siblings = siblings
        """The group whose members' plans a row's own is compared with."""
        plans = history.future
        # made of nothing that holds it: a history in a cycle would stay until the collector finds it
        self.kin: dict[str, Exact] = _Made(lambda name: _group_mean(plans[name][:series], siblings[:series]))
        """Mean of each plan over the series of every group of siblings, everybody last; shape (groups, periods)."""

    @cached_property
    def sums(self) -> dict[str, tuple[Exact, _Sums]]:
        """Per kind: what its groups sold, shape (groups, periods), and its windows."""
        out = {}
        count = len(self._history.ids)
        series = self._history.y[:count]
        for kind, codes in self.of.items():
            total = np.zeros((int(codes[:count].max()) + 2, self._history.periods))
            np.add.at(total, codes[:count], series)
            total[-1] = series.sum(axis=0)  # where an aggregate that spans several groups looks
            out[kind] = (total, _Sums(total, np.ones(total.shape, dtype=np.bool_)))
        return out


def _group_of(node: reconciliation.Grouping, group: reconciliation.Grouping) -> Ints:
    """The group that each aggregate lies in as a whole; one past the last where it spans several."""
    of = group.of[node.first]
    whole = np.ones(len(node.ids), dtype=bool)
    np.logical_and.at(whole, node.of, group.of == of[node.of])
    return np.where(whole, of, len(group.ids))


# --- what a model must know beside the rows -------------------------------------------------------------------------


class Plan(NamedTuple):
    """How the columns known ahead are read; it is stored with the booster, so that prediction reads them alike."""

    own: dict[str, float]
    """Columns that differ between series on the same day, and the width within which two values are alike."""
    codes: dict[str, dict[str, int]]
    """Key column → its values → their numbers, in text order."""
    lenders: dict[str, str]
    """``peers`` and ``siblings``, where there are such → the node whose groups they are."""


def read_plan(history: History) -> Plan:
    """Read from a training history which plans are a series' own, such as a price, and which are everybody's."""
    codes = {
        key: {text: number for number, text in enumerate(sorted(set(values[: len(history.ids)])))}
        for key, values in history.labels.items()
    }
    own = {}
    for name, values in history.future.items():
        past = values[: len(history.ids), : history.periods]
        if _differing(past) > _FEW:
            with np.errstate(all="ignore"):
                relative = past / np.abs(_nanmean(past))[:, None]
                relative = np.where(np.isfinite(relative), relative, np.nan)
                spread = _nanmean((relative - _nanmean(relative)[:, None]) ** 2)
            width = np.sqrt(_nanmean(spread[None, :])[0])
            own[name] = max(_NARROW * float(width), 1e-3) if np.isfinite(width) else 1e-3
    return Plan(own, codes, _lenders(len(history.ids), history.known))


def _differing(values: Floats) -> float:
    """Share of a plan's values that are not what most series have on the day; 0 without any."""
    if not len(values) or values.strides[0] == 0:  # one row for all
        return 0.0
    least, most, seen = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0), np.isfinite(values)
    others = np.minimum((seen & (values != least)).sum(axis=0), (seen & (values != most)).sum(axis=0))
    return float(others.sum() / max(int(seen.sum()), 1))


def _nanmean(values: Exact | Floats) -> Exact:
    count = np.isfinite(values).sum(axis=1)
    total = np.asarray(np.nansum(values, axis=1, dtype=np.float64))
    return _ratio(total, count)


# --- the rows -------------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Features of some (series, step) at one origin."""

    table: Floats
    """Shape (rows, features), in the order of ``Features.names``."""
    level: Exact
    """What the model's forecast is multiplied by, in units; shape (rows,)."""


class Features:
    """The features of a history, by a plan that may be older than it."""

    def __init__(self, history: History, plan: Plan) -> None:
        self.history, self.plan, self._groups = history, plan, _Groups(history, plan.lenders)
        self._constant = _constant(history, plan)
        one = np.ones(1, dtype=np.int64)
        self.names = list(self._columns(history.periods - 1, one - 1, one)[0]) if history.ids else []
        """In order."""

    def make(self, origin: int, series: Ints, steps: Ints) -> Rows:
        """The features of ``series`` for ``steps`` ahead of ``origin``.

        Args:
            origin: Column of the last period that is known; columns after it are read of plans alone.
            series: Row of each wanted series.
            steps: Step of each, 1 … horizon.
        """
        columns, level = self._columns(origin, series, steps)
        return Rows(np.column_stack([np.asarray(v, dtype=np.float32) for v in columns.values()]), level)

    def _columns(self, origin: int, series: Ints, steps: Ints) -> tuple[dict[str, Exact], Exact]:
        history = self.history
        who, at = np.unique(series, return_inverse=True)  # what stands for all steps of a row is made once
        with np.errstate(all="ignore"):
            level = _level(history, origin, who)
            columns = {name: values[at] for name, values in _standing(history, origin, who, level).items()}
            columns |= _season(history, origin, who, at, steps, level)
            columns |= _year(history, origin, series, steps)
            columns |= _company(history, self._groups, origin, series, steps)
            columns |= _calendar(history, origin, steps)
            columns |= _plans(history, self.plan, self._groups, origin, series, steps, level[at])
        columns |= {name: values[series] for name, values in self._constant.items()}
        return columns, level[at]


def lookback(history: History) -> int:
    """Periods before an origin that its features may read."""
    return history.clock.year + history.clock.level[1]


def _level(history: History, origin: int, who: Ints) -> Exact:
    """Mean sales of late, in units, > 0: what all else is measured against."""
    short, long = (history.sold.mean(origin, width, who) for width in history.clock.level)
    late = np.where(np.isfinite(short), 0.5 * short + 0.5 * long, long)
    level = np.fmax(late, _FLOOR * history.sold.mean(origin, history.clock.year, who))
    return np.where(level > 0, level, 1.0)


def _standing(history: History, origin: int, who: Ints, level: Exact) -> dict[str, Exact]:
    """What holds of the rows ``who`` at an origin, whatever the step."""
    clock, sold, start = history.clock, history.sold, history.start[who]
    out = {f"mean_{width}": sold.mean(origin, width, who) / level for width in clock.windows}
    for back in range(_LAGS):
        value = history.y[who, max(origin - back, 0)] / level
        out[f"lag_{back + 1}"] = np.where(start <= origin - back, value, np.nan)
    recent = history.seen(who, max(origin + 1 - clock.level[0], 0), origin + 1)
    mean = _nanmean(recent)
    out["spread"] = np.sqrt(_nanmean((recent - mean[:, None]) ** 2)) / level
    out["largest"] = np.fmax.reduce(recent, axis=1) / level
    for width in clock.level:
        out[f"idle_{width}"] = 1.0 - history.busy.mean(origin, width, who)
    last = history.last_sale[who, origin]
    out["since_sale"] = np.minimum(np.where(last >= 0, origin - last, clock.year), clock.year)
    out["age"] = np.minimum(origin + 1.0 - start, clock.year)
    out["level"] = np.log(level)
    then = sold.mean(origin - clock.year, clock.level[0], who)
    out["growth"] = _ratio(sold.mean(origin, clock.level[0], who), then)
    return out


def _season(history: History, origin: int, who: Ints, at: Ints, steps: Ints, level: Exact) -> dict[str, Exact]:
    """Sales of the same phase of the season, as near as they are known; ``at``: each row's place in ``who``."""
    m = history.season
    if m <= 1:
        return {}
    out: dict[str, Exact] = {}
    series, phase = who[at], origin - (m - 1) + (steps - 1) % m
    for back in range(2):
        then = phase - back * m
        value = history.y[series, np.maximum(then, 0)] / level[at]
        out[f"phase_{back + 1}"] = np.where(then >= history.start[series], value, np.nan)
    for count in _SEASONS:
        width = min(count, (origin + 1) // m) * m
        profile = _profile(history.seen(who, origin + 1 - width, origin + 1), m)
        out[f"phase_mean_{count}"] = profile[at, (steps - 1) % m] / level[at]
    return out


def _profile(window: Exact, m: int) -> Exact:
    """Mean by phase of whole seasons that end at an origin: shape (rows, m), the first column one step ahead."""
    if not window.shape[1]:
        return np.full((len(window), m), np.nan)
    cut = window.reshape(len(window), window.shape[1] // m, m)
    seen = np.isfinite(cut).sum(axis=1)
    return _ratio(np.nansum(cut, axis=1), seen)


def _year(history: History, origin: int, series: Ints, steps: Ints) -> dict[str, Exact]:
    """A year ago: those days, against the level of that time."""
    clock = history.clock
    then = history.sold.mean(origin - clock.year, clock.level[1], series)
    day = origin + steps - clock.year
    around = history.sold.mean(np.minimum(day + clock.around, origin), 2 * clock.around + 1, series)
    return {"year": np.where(_been(day, origin), _ratio(around, then), np.nan)}


def _been(day: Ints, origin: int) -> Bools:
    """Whether a column lies in the past: a horizon may be longer than a year."""
    return np.asarray((day >= 0) & (day <= origin), dtype=np.bool_)


def _company(history: History, groups: _Groups, origin: int, series: Ints, steps: Ints) -> dict[str, Exact]:
    """The same of the groups a series is in: their season, their year, where they are heading; unit-free."""
    clock, m = history.clock, history.season
    out: dict[str, Exact] = {}
    for kind, (total, sums) in groups.sums.items():
        of = groups.of[kind][series]
        short, long = (sums.mean(origin, width) for width in clock.level)
        level = 0.5 * short + 0.5 * long
        out[f"{kind}_late"] = _ratio(sums.mean(origin, clock.windows[0]), level)[of]
        if m > 1:
            width = min(_SEASONS[1], (origin + 1) // m) * m
            profile = _profile(total[:, origin + 1 - width : origin + 1], m)
            out[f"{kind}_phase"] = _ratio(profile, level[:, None])[of, (steps - 1) % m]
        then = sums.mean(origin - clock.year, clock.level[1])
        out[f"{kind}_growth"] = _ratio(sums.mean(origin, clock.level[1]), then)[of]
        day = origin + steps - clock.year
        there = _been(day, origin)
        that_day = total[of, np.minimum(np.maximum(day, 0), origin)]
        out[f"{kind}_year_day"] = np.where(there, _ratio(that_day, then[of]), np.nan)
        end = np.minimum(day + clock.around, origin)
        out[f"{kind}_year"] = np.where(there, _ratio(sums.mean(end, 2 * clock.around + 1, of), then[of]), np.nan)
        if kind == "siblings":
            count = np.bincount(groups.of[kind][: len(history.ids)], minlength=len(total))
            count[-1] = len(history.ids)
            out["siblings_level"] = np.log(np.maximum(level / np.maximum(count, 1), 1e-6))[of]
    return out


def _calendar(history: History, origin: int, steps: Ints) -> dict[str, Exact]:
    day = origin + steps
    return {"step": steps.astype(np.float64)} | {name: values[day] for name, values in history.calendar.items()}


def _plans(
    history: History, plan: Plan, groups: _Groups, origin: int, series: Ints, steps: Ints, level: Exact
) -> dict[str, Exact]:
    """The customer's columns: now, just before and after, against their own past and against the siblings'.

    Their names begin with ``x.``, which none of the others does.
    """
    out: dict[str, Exact] = {}
    at = origin + steps
    for name, values in history.future.items():
        now = values[series, at].astype(np.float64)
        out[f"x.{name}"] = now
        out[f"x.{name}.before"] = values[series, at - 1].astype(np.float64)
        after = values[series, np.minimum(at + 1, values.shape[1] - 1)]
        out[f"x.{name}.after"] = np.where(steps < history.horizon, after, np.nan)
        if name in plan.own:
            for width in history.clock.plan:
                past = history.plans[name].mean(origin, width, series)
                out[f"x.{name}.vs_{width}"] = _against(now, past)
            theirs = groups.kin[name][groups.siblings[series], at]
            out[f"x.{name}.siblings"] = theirs
            out[f"x.{name}.vs_siblings"] = _against(now, theirs)
    for name, values in history.historic.items():
        now = values[series, origin].astype(np.float64)
        out[f"x.{name}"] = now
        for width in history.clock.plan:
            out[f"x.{name}.vs_{width}"] = _against(now, history.plans[name].mean(origin, width, series))
    if plan.own:
        out |= _alike(history, plan, origin, series, steps, level)
    return out


def _against(value: Exact, base: Exact) -> Exact:
    """How far a value lies from what it is compared with, as a share of it; the plain difference where that is 0."""
    return np.where(base == 0, value - base, (value - base) / np.abs(base))


def _alike(history: History, plan: Plan, origin: int, series: Ints, steps: Ints, level: Exact) -> dict[str, Exact]:
    """Mean sales of late periods whose plan was like the wanted one's: by each column, and by all together.

    A Nadaraya-Watson mean: the weight falls with the distance of the plans and with the age of the period.
    """
    at = origin + steps
    base = {n: np.abs(history.plans[n].mean(origin, history.clock.plan[-1], series)) for n in plan.own}
    base = {n: np.where(b > 0, b, 1.0) for n, b in base.items()}
    wanted = {n: history.future[n][series, at] / base[n] for n in plan.own}
    kinds = [*plan.own, *([_ALL] if len(plan.own) > 1 else [])]
    total = {kind: np.zeros(len(series)) for kind in kinds}
    weight = {kind: np.zeros(len(series)) for kind in kinds}
    backs = np.arange(min(history.clock.alike, origin + 1))
    fade = np.array([_FADE**back for back in backs.tolist()])
    together = max(_TOGETHER // max(len(series), 1), 1)
    for first in range(0, len(backs), together):
        some = slice(first, first + together)
        then = (origin - backs[some])[:, None]
        y = history.y[series, then]
        fresh = np.where(history.scored[series, then], fade[some, None], 0.0)
        near, joint = {}, fresh
        for name, width in plan.own.items():
            distance = (history.future[name][series, then] / base[name] - wanted[name]) / width
            like = np.exp(-0.5 * distance**2)
            like = np.where(np.isnan(like), 0.0, like)  # nan_to_num takes four times as long
            near[name], joint = fresh * like, joint * like
        if _ALL in kinds:
            near[_ALL] = joint
        for kind, weights in near.items():
            # one period after the other, as it would be however many are taken together
            for one, its_y in zip(weights, y, strict=True):
                total[kind] += one * its_y
                weight[kind] += one
    out = {}
    for kind in kinds:
        mean = np.divide(total[kind], weight[kind], out=np.full(len(series), np.nan), where=weight[kind] > 1e-6)
        out[f"x.{kind}.alike"] = mean / level
        out[f"x.{kind}.alike_weight"] = weight[kind]
    return out


def _constant(history: History, plan: Plan) -> dict[str, Exact]:
    """Columns that never change, and the keys as numbers; -1: a value that was not there when the model was trained."""
    out = {f"x.{name}": values.astype(np.float64) for name, values in history.static.items()}
    for key, codes in plan.codes.items():
        out[f"key_{key}"] = np.array([codes.get(text, -1) for text in history.labels[key]], dtype=np.float64)
    members = [np.bincount(node.of, minlength=len(node.ids)) for node in history.nodes]
    out["members"] = np.log(np.concatenate([np.ones(len(history.ids)), *members]))
    return out
