"""From a panel to a published set by the product's own functions, in the order in which a retrain night calls them."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import pandas as pd

from benchmarks.ablation import apart
from benchmarks.m5 import delivery
from forecasting.config import Customer
from forecasting.frames import BACKTEST, FORECASTS, STATUS, empty
from forecasting.learn import backtest, grid, intervals, publication, selection
from forecasting.learn.models import ml, statistical

__all__ = ["Night", "run"]

LONGEST = 1800
"""Seconds after which a shard is given up."""

T = TypeVar("T")
Say = Callable[[str], None]


@dataclass
class Night:
    """What a night made, and what each part of it took."""

    published: pd.DataFrame = field(init=False)
    """frames.PUBLISHED."""
    account: pd.DataFrame = field(init=False)
    """frames.ACCOUNT."""
    scores: pd.DataFrame = field(init=False)
    """frames.BACKTEST of all models."""
    forecasts: pd.DataFrame = field(init=False)
    """frames.FORECASTS of all models."""
    apart: pd.DataFrame = field(init=False)
    """frames.FORECASTS of the same global model before its aggregates had a say; empty without one."""
    choices: pd.DataFrame = field(init=False)
    """frames.CHOICES."""
    faults: list[str] = field(init=False)
    """What the audit before publishing finds; a night publishes nothing unless it is empty."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Part → wall seconds."""


def run(panel: pd.DataFrame, customer: Customer, cutoff: date, workers: int = 1, say: Say = print) -> Night:
    """Fit both families, choose, calibrate, compose the set and audit it.

    Args:
        panel: A frames.PANEL.
        customer: The declaration.
        cutoff: Last period of the history.
        workers: Processes of the statistical shards and threads of LightGBM; results do not depend on it.
        say: Takes a line of progress.
    """
    night = Night()

    def part(name: str, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        result = work()
        night.seconds[name] = round(time.perf_counter() - began, 1)
        say(name)
        return result

    origins = backtest.origins(cutoff, customer, panel["ds"].min().date())
    one = part("fit_statistical", lambda: _statistical(panel, customer, cutoff, origins, workers))
    two = part("fit_ml", lambda: _global(panel, customer, cutoff, origins, workers))
    night.apart = part("predict unreconciled", lambda: _unreconciled(panel, customer, cutoff, two, workers))
    night.scores, night.forecasts = backtest.join(one.scores, two.scores), backtest.join(one.forecasts, two.forecasts)
    status = pd.concat([one.status, two.status], ignore_index=True)
    night.choices = part("choose", lambda: selection.choose(night.scores, customer))
    version = night.choices, part("calibrate", lambda: intervals.calibrate(night.scores, night.choices, customer))
    night.published, night.account = part(
        "compose", lambda: publication.compose(night.forecasts, status, *version, panel, customer, cutoff)
    )
    night.faults = part("audit", lambda: publication.audit(night.published, night.account, customer, cutoff))
    return night


def _global(
    panel: pd.DataFrame, customer: Customer, cutoff: date, origins: list[date], threads: int
) -> ml.FittedML | statistical.Fitted:
    """The global model; empty frames where the pool has none."""
    if ml.NAME in customer.pool:
        return ml.fit(panel, customer, cutoff, origins, threads)
    return statistical.Fitted(empty(BACKTEST), empty(FORECASTS), empty(STATUS))


def _unreconciled(
    panel: pd.DataFrame, customer: Customer, cutoff: date, fitted: ml.FittedML | statistical.Fitted, threads: int
) -> pd.DataFrame:
    if not isinstance(fitted, ml.FittedML):
        return empty(FORECASTS)
    with apart():
        return ml.predict(panel, customer, cutoff, fitted.booster, fitted.spec, threads)


def _statistical(
    panel: pd.DataFrame, customer: Customer, cutoff: date, origins: list[date], workers: int
) -> statistical.Fitted:
    """The shards side by side, as Airflow's workers run them."""
    ids = sorted(panel["unique_id"].unique())
    if workers == 1:
        return statistical.fit(panel, customer, cutoff, ids, None, origins, 1)
    days = grid.delivered(panel)  # which a shard by itself does not show
    count = max(workers, len(ids) // delivery.AT_ONCE)  # smaller ones hold less at a time
    shards = [ids[at::count] for at in range(count)]
    with TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(workers) as pool:
        waiting = []
        for number, shard in enumerate(shards):  # by a file each, as a night's: a pool would hold all of them
            path = Path(folder) / f"{number}.parquet"
            delivery.write(panel[panel["unique_id"].isin(shard)], path)
            waiting.append(pool.apply_async(_shard, (path, customer, cutoff, shard, origins, days)))
        fitted = [one.get(LONGEST) for one in waiting]
    scores = backtest.stack([one.scores for one in fitted])
    forecasts = pd.concat([one.forecasts for one in fitted]).sort_values(["unique_id", "h"], ignore_index=True)
    return statistical.Fitted(scores, forecasts, pd.concat([one.status for one in fitted], ignore_index=True))


def _shard(
    path: Path, customer: Customer, cutoff: date, ids: Sequence[str], origins: list[date], days: grid.Days
) -> statistical.Fitted:
    return statistical.fit(delivery.read([path]), customer, cutoff, ids, None, origins, 1, days)
