"""The fallback ladder: every series that is not retired gets all its steps, and says on which rung it stands."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

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

RUNGS = ("chosen", "cheaper", "seasonal_naive", "naive", "cold_start")
"""From the best to the last resort."""
RETIRED_AFTER = 182
"""Days without a sale after which a series is retired; one that never sold, that long after it appeared."""
SANE = 3.0
"""A forecast above this multiple of the series' largest observed value is refused."""


def retired(panel: pd.DataFrame, cutoff: date) -> pd.Series:
    """Why each retired series is: reason by unique_id. The rule is ``RETIRED_AFTER`` days without a sale."""
    life = grid.last_sales(panel, cutoff)
    latest = life["last"].fillna(life["first"])
    dead = life[latest <= pd.Timestamp(cutoff) - pd.Timedelta(days=RETIRED_AFTER)]
    reasons = [
        f"no sale in {RETIRED_AFTER} days; the last was on {last.date()}" if pd.notna(last) else "never sold"
        for last in dead["last"]
    ]
    return pd.Series(reasons, index=dead.index, dtype=object, name="reason")


def live(panel: pd.DataFrame, cutoff: date) -> list[str]:
    """The series with history by ``cutoff`` that are not retired, ascending."""
    gone = set(retired(panel, cutoff).index)
    return [unique_id for unique_id in grid.known_ids(panel, cutoff) if unique_id not in gone]


@dataclass(frozen=True)
class _Step:
    """One candidate on the ladder: what, from which model, on which rung."""

    y_hat: Floats
    model: str
    rung: str


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
    gone = retired(panel, cutoff)
    universe = sorted(panel["unique_id"].unique())
    seen = _seen(panel, cutoff)
    chosen = {u: (g["y_hat"].to_numpy(), str(g["model"].iloc[0])) for u, g in combined.groupby("unique_id")}
    raw = dict(iter(forecasts.groupby("unique_id")))
    failures = status[status["state"] != "ok"].groupby("unique_id")["reason"].agg("; ".join)
    taken: dict[str, _Step] = {}
    reasons: dict[str, str] = {}
    for unique_id in universe:
        if unique_id in gone.index:
            continue
        steps = _steps(chosen.get(unique_id), raw.get(unique_id), seen.get(unique_id), customer)
        taken[unique_id], reasons[unique_id] = _first_that_holds(steps, seen.get(unique_id), customer.horizon)
        if reasons[unique_id] and unique_id in failures.index:
            reasons[unique_id] += f" ({failures[unique_id]})"
    _cold_start(taken, customer)
    return _rows(taken, panel, customer, cutoff), _account(universe, taken, reasons, gone)


def _seen(panel: pd.DataFrame, cutoff: date) -> dict[str, Floats]:
    """What was ever observed of each series, oldest first."""
    past = panel[(panel["ds"] <= pd.Timestamp(cutoff)) & np.isfinite(panel["y"])]
    return {str(u): y.to_numpy() for u, y in past.groupby("unique_id", sort=True)["y"]}


def _steps(
    chosen: tuple[Floats, str] | None, raw: pd.DataFrame | None, seen: Floats | None, customer: Customer
) -> Iterator[_Step]:
    """The candidates of one series, best first."""
    if chosen is not None:
        yield _Step(chosen[0], chosen[1], "chosen")
    available = [] if raw is None else [name for name in CATALOGUE if name in raw.columns]
    for name in available:
        if CATALOGUE[name].family == "statistical" and name != "seasonal_naive" and raw is not None:
            yield _Step(raw[name].to_numpy(), name, "cheaper")
    if raw is not None and "seasonal_naive" in available:
        yield _Step(raw["seasonal_naive"].to_numpy(), "seasonal_naive", "seasonal_naive")
    if seen is not None and len(seen):
        yield _Step(np.full(customer.horizon, max(float(seen[-1]), 0.0)), "naive", "naive")


def _first_that_holds(steps: Iterator[_Step], seen: Floats | None, horizon: int) -> tuple[_Step, str]:
    """The first sane candidate, and why those before it were refused."""
    refused: list[str] = []
    # Never sold: there is no history to hold a forecast against, and its siblings know more than its zeros.
    largest = float(seen.max()) if seen is not None and len(seen) else 0.0
    if largest <= 0:
        return _Step(np.full(horizon, np.nan), "siblings", "cold_start"), "no sale yet"
    for step in steps:
        problem = _problem(step, largest, horizon)
        if not problem:
            return step, "; ".join(dict.fromkeys(refused))
        refused.append(problem)
    return _Step(np.full(horizon, np.nan), "siblings", "cold_start"), "; ".join(dict.fromkeys(refused))


def _problem(step: _Step, largest: float, horizon: int) -> str:
    if len(step.y_hat) != horizon or not np.isfinite(step.y_hat).all():
        return f"{step.model} made no forecast"
    if step.y_hat.max() > SANE * largest:
        return f"{step.model} forecast {step.y_hat.max():.6g}, above {SANE:g} times the largest sale {largest:.6g}"
    return "" if step.y_hat.min() >= 0 else f"{step.model} forecast {step.y_hat.min():.6g}, below zero"


def _cold_start(taken: dict[str, _Step], customer: Customer) -> None:
    """Give each series without any history the mean profile of its nearest siblings; 0 where nobody sells."""
    sure = {u: step.y_hat for u, step in taken.items() if step.rung != "cold_start"}
    profiles: dict[tuple[str, ...], list[Floats]] = {}
    for unique_id, y_hat in sure.items():
        keys = split_id(unique_id)
        for depth in range(len(keys)):
            profiles.setdefault(keys[:depth], []).append(y_hat)
    means = {prefix: np.mean(np.stack(rows), axis=0) for prefix, rows in profiles.items()}
    for unique_id in [u for u, step in taken.items() if step.rung == "cold_start"]:
        keys = split_id(unique_id)
        prefixes = (keys[:depth] for depth in range(len(keys) - 1, -1, -1))
        nearest = next((means[prefix] for prefix in prefixes if prefix in means), np.zeros(customer.horizon))
        taken[unique_id] = _Step(nearest, "siblings", "cold_start")


def _rows(taken: dict[str, _Step], panel: pd.DataFrame, customer: Customer, cutoff: date) -> pd.DataFrame:
    frame = grid.future_frame(panel, customer, cutoff, list(taken))[0][["unique_id", "ds", "h"]]
    steps = list(taken.values())
    frame["y_hat"] = np.concatenate([s.y_hat for s in steps]) if steps else np.array([], dtype=np.float64)
    frame["model"] = np.repeat(np.array([s.model for s in steps], dtype=object), customer.horizon)
    frame["rung"] = np.repeat(np.array([s.rung for s in steps], dtype=object), customer.horizon)
    return frame


def _account(universe: list[str], taken: dict[str, _Step], reasons: dict[str, str], gone: pd.Series) -> pd.DataFrame:
    """frames.ACCOUNT; every series of the universe exactly once."""
    states = {"chosen": "ok", "cold_start": "cold_start"}
    rows = [
        (u, states.get(taken[u].rung, "fallback"), taken[u].rung, taken[u].model, reasons[u])
        if u in taken
        else (u, "retired", "", "", str(gone[u]))
        for u in universe
    ]
    account = ACCOUNT.check(pd.DataFrame(rows, columns=list(ACCOUNT.columns), dtype=object))
    counts = account["status"].value_counts()
    if int(counts.reindex(["ok", "fallback", "cold_start", "retired"]).fillna(0).sum()) != len(universe):
        raise ValueError(f"series do not add up: {len(universe)} in, {counts.to_dict()}")
    log.info("ladder: %d series, %s", len(universe), counts.to_dict())
    return account
