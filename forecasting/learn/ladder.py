"""The fallback ladder: every series that is not retired gets all its steps, and says on which rung it stands."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import date
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecasting.config import Customer
from forecasting.frames import ACCOUNT, split_id
from forecasting.learn import grid
from forecasting.learn.models import CATALOGUE

__all__ = ["RETIRED_AFTER", "RUNGS", "complete", "live", "retired"]

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Objects = npt.NDArray[np.object_]

RUNGS = ("chosen", "cheaper", "seasonal_naive", "naive", "cold_start")
"""From the best to the last resort."""
RETIRED_AFTER = 182
"""Days without a sale after which a series is retired; one that never sold, that long after it appeared."""
SANE = 3.0
"""A forecast above this multiple of the series' largest observed value is refused."""


def retired(panel: pd.DataFrame, cutoff: date) -> pd.Series:
    """Why each retired series is: reason by unique_id. The rule is ``RETIRED_AFTER`` days without a sale."""
    life = grid.last_sales(panel, cutoff)
    dead = life[_dead(life, cutoff)]
    reasons = [
        f"no sale in {RETIRED_AFTER} days; the last was on {last.date()}" if pd.notna(last) else "never sold"
        for last in dead["last"]
    ]
    return pd.Series(reasons, index=dead.index, dtype=object, name="reason")


def _dead(life: pd.DataFrame, cutoff: date) -> pd.Series:
    return life["last"].fillna(life["first"]) <= pd.Timestamp(cutoff) - pd.Timedelta(days=RETIRED_AFTER)


def live(panel: pd.DataFrame, cutoff: date) -> list[str]:
    """The series with history by ``cutoff`` that are not retired, ascending."""
    life = grid.last_sales(panel, cutoff)
    return list(life.index[~_dead(life, cutoff)])


class _Step(NamedTuple):
    """One candidate on the ladder, for all series: from which model, on which rung."""

    rung: str
    y_hat: Floats
    """Shape (series, h); NaN in the rows of a series that it has nothing for."""
    model: Objects
    offered: Bools
    """Series that it stands for at all: the others do not count it as refused."""


class _Taken(NamedTuple):
    """The step that each series stands on."""

    ids: Objects
    y_hat: Floats
    model: Objects
    rung: Objects
    reason: Objects
    """Why better steps were refused."""


def complete(
    combined: pd.DataFrame,
    forecasts: pd.DataFrame,
    panel: pd.DataFrame,
    customer: Customer,
    cutoff: date,
    status: pd.DataFrame,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Put every series on the best rung that holds.

    Args:
        combined: ``selection.combine``: unique_id, h, ds, y_hat (NaN: nothing), model.
        forecasts: The raw frames.FORECASTS, for the cheaper rungs.
        panel: A frames.PANEL; its series are those that are accounted for.
        customer: Gives horizon and frequency.
        cutoff: Last period of the history.
        status: frames.STATUS, whose reasons explain a fallback.

    Returns:
        unique_id, ds, h, y_hat, model, rung for each step of each series not retired; and the frames.ACCOUNT.

    Raises:
        ValueError: A series got lost: a programming error.
    """
    panel = grid.coded(panel)  # asked three times
    gone = retired(panel, cutoff)
    universe = grid.present_ids(panel["unique_id"])
    ids = np.array([unique_id for unique_id in universe if unique_id not in gone.index], dtype=object)
    last, largest = _seen(panel, cutoff, ids)
    taken = _first_that_holds(_steps(combined, forecasts, last, ids, customer), largest, ids, customer)
    failures = status[status["state"] != "ok"].groupby("unique_id")["reason"].agg("; ".join)
    for at in np.flatnonzero(taken.reason != ""):
        if ids[at] in failures.index:
            taken.reason[at] += f" ({failures[ids[at]]})"
    _cold_start(taken)
    return _rows(taken, customer, cutoff), _account(universe, taken, gone)


def _seen(panel: pd.DataFrame, cutoff: date, ids: Objects) -> tuple[Floats, Floats]:
    """The last and the largest value ever observed of each series, in units; NaN where nothing was."""
    code, names = grid.codes(panel["unique_id"])
    y = panel["y"].to_numpy()
    rows = np.flatnonzero((panel["ds"] <= pd.Timestamp(cutoff)).to_numpy() & np.isfinite(y))
    newest, largest = np.full(len(names), -1), np.full(len(names), -np.inf)
    np.maximum.at(newest, code[rows], rows)
    np.maximum.at(largest, code[rows], y[rows])
    own = pd.Index(names).get_indexer(pd.Index(ids))
    newest = newest[own]
    last = np.where(newest >= 0, y[newest], np.nan)
    return last, np.where(newest >= 0, largest[own], np.nan)


class _Places(NamedTuple):
    """Where a forecast frame's rows go in a matrix of series by steps."""

    row: Ints
    column: Ints
    kept: Bools
    whole: Bools
    """Series that have as many rows as the horizon has steps."""
    some: Bools
    """Series that have any row."""
    first: Ints
    """A series' first row in the frame."""

    def matrix(self, values: pd.Series, shape: tuple[int, int]) -> Floats:
        """One column of the frame by series and step; NaN for a series that is not whole."""
        out = np.full(shape, np.nan)
        out[self.row, self.column] = values.to_numpy(dtype=np.float64)[self.kept]
        return out


def _places(frame: pd.DataFrame, ids: Objects, horizon: int) -> _Places:
    code, names = grid.codes(frame["unique_id"])
    row = pd.Index(ids).get_indexer(pd.Index(names))[code]
    count = np.bincount(row[row >= 0], minlength=len(ids))
    order = np.argsort(row, kind="stable")
    step = np.empty(len(row), dtype=np.int64)
    begins = np.cumsum(count) - count
    step[order] = np.arange(len(row)) - (row < 0).sum() - begins[row[order]]
    whole = count == horizon
    kept = (row >= 0) & whole[row]
    first = np.full(len(ids), -1)
    first[row[order[::-1]]] = order[::-1]
    return _Places(row[kept], step[kept], kept, whole, count > 0, first)


def _steps(
    combined: pd.DataFrame, forecasts: pd.DataFrame, last: Floats, ids: Objects, customer: Customer
) -> Iterator[_Step]:
    """The candidates, best first."""
    shape = (len(ids), customer.horizon)
    chosen = _places(combined, ids, customer.horizon)
    model = np.full(len(ids), "", dtype=object)
    model[chosen.some] = combined["model"].to_numpy(dtype=object)[chosen.first[chosen.some]]
    yield _Step("chosen", chosen.matrix(combined["y_hat"], shape), model, chosen.some)
    raw = _places(forecasts, ids, customer.horizon)
    available = [name for name in CATALOGUE if name in forecasts.columns]
    cheaper = [n for n in available if CATALOGUE[n].family == "statistical" and n != "seasonal_naive"]
    for name in [*cheaper, *(n for n in available if n == "seasonal_naive")]:
        rung = name if name == "seasonal_naive" else "cheaper"
        yield _Step(rung, raw.matrix(forecasts[name], shape), np.full(len(ids), name, dtype=object), raw.some)
    again = np.repeat(np.maximum(last, 0.0)[:, None], customer.horizon, axis=1)
    yield _Step("naive", again, np.full(len(ids), "naive", dtype=object), ~np.isnan(last))


def _first_that_holds(steps: Iterator[_Step], largest: Floats, ids: Objects, customer: Customer) -> _Taken:
    """The first sane candidate of each series, and why those before it were refused."""
    texts = (np.full(len(ids), text, dtype=object) for text in ("siblings", "cold_start", ""))
    taken = _Taken(ids, np.full((len(ids), customer.horizon), np.nan), *texts)
    # Never sold: there is no history to hold a forecast against, and its siblings know more than its zeros.
    sold = largest > 0
    taken.reason[~sold] = "no sale yet"
    waiting = sold.copy()
    refused: dict[int, list[str]] = {}
    for step in steps:
        asked: Bools = waiting & step.offered
        complete = np.asarray(np.isfinite(step.y_hat).all(axis=1))
        high, low = step.y_hat.max(axis=1), step.y_hat.min(axis=1)
        holds = asked & complete & (high <= SANE * largest) & (low >= 0)
        taken.y_hat[holds], taken.model[holds], taken.rung[holds] = step.y_hat[holds], step.model[holds], step.rung
        for at in np.flatnonzero(asked & ~holds).tolist():
            problem = _problem(str(step.model[at]), bool(complete[at]), low[at], high[at], largest[at])
            refused.setdefault(at, []).append(problem)
        waiting &= ~holds
        if not waiting.any():
            break
    for at, problems in refused.items():
        taken.reason[at] = "; ".join(dict.fromkeys(problems))
    return taken


def _problem(model: str, complete: bool, low: float, high: float, largest: float) -> str:
    if not complete:
        return f"{model} made no forecast"
    if high > SANE * largest:
        return f"{model} forecast {high:.6g}, above {SANE:g} times the largest sale {largest:.6g}"
    return f"{model} forecast {low:.6g}, below zero"


def _cold_start(taken: _Taken) -> None:
    """Give each series without any history the mean profile of its nearest siblings; 0 where nobody sells."""
    cold = taken.rung == "cold_start"
    if not cold.any():
        return
    siblings: dict[tuple[str, ...], list[int]] = {}
    for at in np.flatnonzero(~cold).tolist():
        keys = split_id(taken.ids[at])
        for depth in range(len(keys)):
            siblings.setdefault(keys[:depth], []).append(at)
    means: dict[tuple[str, ...], Floats] = {}
    for at in np.flatnonzero(cold).tolist():
        keys = split_id(taken.ids[at])
        nearest = next((keys[:depth] for depth in range(len(keys) - 1, -1, -1) if keys[:depth] in siblings), None)
        if nearest is not None and nearest not in means:
            means[nearest] = np.mean(taken.y_hat[siblings[nearest]], axis=0)
        taken.y_hat[at] = 0.0 if nearest is None else means[nearest]


def _rows(taken: _Taken, customer: Customer, cutoff: date) -> pd.DataFrame:
    frame = grid.horizon_rows(customer, cutoff, list(taken.ids))
    frame["y_hat"] = taken.y_hat.ravel()
    frame["model"] = np.repeat(taken.model, customer.horizon)
    frame["rung"] = np.repeat(taken.rung, customer.horizon)
    return frame


def _account(universe: list[str], taken: _Taken, gone: pd.Series) -> pd.DataFrame:
    """frames.ACCOUNT; every series of the universe exactly once."""
    states = {"chosen": "ok", "cold_start": "cold_start"}
    stands = dict(zip(taken.ids, zip(taken.rung, taken.model, taken.reason, strict=True), strict=True))
    why = gone.to_dict()
    rows = [
        (u, states.get(stands[u][0], "fallback"), *stands[u]) if u in stands else (u, "retired", "", "", str(why[u]))
        for u in universe
    ]
    account = ACCOUNT.check(pd.DataFrame(rows, columns=list(ACCOUNT.columns), dtype=object))
    counts = account["status"].value_counts()
    if int(counts.reindex(["ok", "fallback", "cold_start", "retired"]).fillna(0).sum()) != len(universe):
        raise ValueError(f"series do not add up: {len(universe)} in, {counts.to_dict()}")
    log.info("ladder: %d series, %s", len(universe), counts.to_dict())
    return account
