"""Rolling origins and the score frame that every forecaster fills in. An origin never sees what came after it."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd

from forecasting.config import Customer
from forecasting.frames import BACKTEST, ascending, empty
from forecasting.learn import grid
from forecasting.periods import shift

__all__ = ["columns", "join", "origins", "skeleton", "stack"]


def origins(cutoff: date, customer: Customer, first: date | None = None) -> list[date]:
    """The cutoffs of the backtest, oldest first: the newest one's horizon ends on ``cutoff``.

    Args:
        cutoff: Tonight's cutoff.
        customer: Gives horizon, number of windows and step (default: the horizon, so windows do not overlap).
        first: First period of the panel; origins with less than two seasons or one horizon before them are left out.
    """
    newest = shift(cutoff, -customer.horizon, customer.frequency)
    days = [shift(newest, -customer.step * back, customer.frequency) for back in range(customer.backtest.windows)]
    need = max(2 * customer.season_length, customer.horizon)
    earliest = shift(first, need - 1, customer.frequency) if first else date.min
    return sorted(day for day in days if day >= earliest)


def skeleton(
    panel: pd.DataFrame, customer: Customer, origin: date, history: pd.DataFrame, days: grid.Days | None = None
) -> pd.DataFrame:
    """The score frame's fixed columns for one origin, sorted by unique_id, h.

    Args:
        panel: A frames.PANEL that holds what came after ``origin``.
        customer: Gives horizon, frequency and what an absent row means.
        origin: Last period the forecasters saw.
        history: The grid they saw: ``grid.regularise`` at ``origin``; its series are those that are scored.
        days: ``grid.delivered`` of the whole feed, where the panel is a shard of it.
    """
    ids = list(history["unique_id"].unique())
    frame = grid.actuals(panel, customer, origin, ids, days)
    frame["cutoff"] = pd.Timestamp(origin).as_unit("ns")
    frame["scale"] = np.repeat(grid.scales(history).to_numpy(), customer.horizon)  # of the same series in that order
    return frame[list(BACKTEST.columns)]


def columns(scores: pd.DataFrame) -> list[str]:
    """The model columns of a score or forecast frame."""
    return [c for c in scores.columns if c not in BACKTEST.columns]


def stack(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Score frames of several origins or shards as one, sorted by key."""
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        return empty(BACKTEST)
    stacked = pd.concat(frames, ignore_index=True)
    code = grid.codes(stacked["unique_id"])[0]
    order = np.lexsort((stacked["h"].to_numpy(), stacked["cutoff"].to_numpy(), code))
    return BACKTEST.check(stacked.take(order).reset_index(drop=True))


def join(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    """Two families' score (or forecast) frames side by side; an empty one adds nothing.

    Raises:
        ValueError: They hold different rows: models must be judged on the same ones.
    """
    if not len(left) or not len(right):
        return left if len(left) else right
    key = [c for c in BACKTEST.key if c in left.columns]
    if _alike(left, right, key):
        return pd.concat([left, right[columns(right)]], axis=1)
    merged = left.merge(right[key + columns(right)], on=key, how="inner", validate="one_to_one")
    if not len(left) == len(right) == len(merged):
        raise ValueError(f"score frames hold different rows: {len(left)} and {len(right)}, {len(merged)} in both")
    return merged.sort_values(key, ignore_index=True)


def _alike(left: pd.DataFrame, right: pd.DataFrame, key: list[str]) -> bool:
    """Whether both hold the same keys, each once, in ascending order, and no column of the same name."""
    return (
        len(left) == len(right)
        and not set(left.columns) & set(columns(right))
        and all(np.array_equal(left[column].to_numpy(), right[column].to_numpy()) for column in key)
        and ascending(left, key)
    )
