"""Guard rails: what no gain in accuracy makes up for. Each says what it measured, its limit, and whether it held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
import pandas as pd

from forecasting.config import Level, Promotion
from forecasting.frames import quantile_column
from forecasting.learn.comparison import Comparison
from forecasting.learn.selection import accuracy

__all__ = ["CLEARLY_WORSE", "Costs", "Rail", "coverage", "judge"]

CLEARLY_WORSE = 0.10
"""A series is made clearly worse when its RMSSE rises by more than this share."""
FREE_SECONDS = 60.0
"""CPU seconds that a night's fits may take whatever the champion's take."""
FREE_BYTES = 10_000_000
"""Bytes that a bundle may have whatever the champion's has."""


@dataclass(frozen=True)
class Costs:
    """What a version costs to make and to keep; None: not known."""

    fit_seconds: float | None = None
    """CPU seconds of a night's fits, backtest included, over all shards."""
    bundle_bytes: int | None = None
    """Size of its files together."""


@dataclass(frozen=True)
class Rail:
    """One guard rail and what it found."""

    name: str
    held: bool
    value: float | None
    """The challenger's; None: not known, which no rail holds against it."""
    champion: float | None
    limit: float | None
    """None: what it is measured by is not known."""
    told: str | None
    """What is wrong, in words; None: it held."""


def judge(
    mine: pd.DataFrame,
    theirs: pd.DataFrame,
    compared: Comparison,
    rules: Promotion,
    *,
    volume: float | None,
    costs: tuple[Costs, Costs],
) -> list[Rail]:
    """Every rail, in the order in which they are told.

    Args:
        mine: The challenger's paired score frame with y_hat and the published quantiles.
        theirs: The champion's.
        compared: Of the two.
        rules: The customer's limits.
        volume: Tonight's forecast total of the challenger relative to the champion's, 0.02 = 2 % more; None: unknown.
        costs: The challenger's and the champion's.
    """
    own, other = costs
    return [
        _bias(accuracy(mine)["bias"], accuracy(theirs)["bias"], rules),
        _volume(volume, rules),
        _worse(compared, rules),
        *_calibration(coverage(mine), coverage(theirs), rules),
        _cost("run_time", "CPU seconds of fits", own.fit_seconds, other.fit_seconds, FREE_SECONDS, rules),
        _cost("size", "bytes", own.bundle_bytes, other.bundle_bytes, FREE_BYTES, rules),
    ]


def _known(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _bias(own: float, other: float, rules: Promotion) -> Rail:
    """A champion that is beyond the rail itself must not make it impossible to pass by an improvement."""
    value, before = _known(own), _known(other)
    held = value is None or abs(value) <= rules.max_bias or (before is not None and abs(value) <= abs(before))
    told = f"bias {value or 0:+.1%}, the guard rail is {rules.max_bias:.0%}"
    return Rail("bias", held, value, before, rules.max_bias, None if held else told)


def _volume(volume: float | None, rules: Promotion) -> Rail:
    held = volume is None or abs(volume) <= rules.max_bias
    told = f"tonight's total is {volume or 0:+.1%} of the champion's, the guard rail is {rules.max_bias:.0%}"
    return Rail("volume", held, _known(volume), None, rules.max_bias, None if held else told)


def _worse(compared: Comparison, rules: Promotion) -> Rail:
    series = compared.by_series
    worse = series["challenger"] > series["champion"] * (1 + CLEARLY_WORSE)
    share = float(worse.mean()) if len(worse) else None
    held = share is None or share <= rules.max_worse_share
    told = f"{share or 0:.0%} of series clearly worse, the guard rail is {rules.max_worse_share:.0%}"
    return Rail("worse_share", held, share, None, rules.max_worse_share, None if held else told)


def coverage(frame: pd.DataFrame) -> dict[int, float]:
    """Level → share of the scored rows that its interval covered, for the levels whose quantiles the frame has.

    >>> frame = pd.DataFrame({"y": [1.0, 5.0], "q10": 0.0, "q90": 2.0, "scored": True})
    >>> coverage(frame)
    {80: 0.5}
    """
    found = {}
    for level in get_args(Level):
        low, high = (quantile_column(q) for q in ((100 - level) / 200, (100 + level) / 200))
        if low in frame and high in frame:
            seen = frame[frame["scored"]].dropna(subset=["y", low, high])
            if len(seen):
                found[int(level)] = float(seen["y"].between(seen[low], seen[high]).mean())
    return found


def _calibration(own: dict[int, float], other: dict[int, float], rules: Promotion) -> list[Rail]:
    return [_covers(level, own[level], other.get(level), rules) for level in own]


def _covers(level: int, own: float, other: float | None, rules: Promotion) -> Rail:
    """Too narrow is what is refused: over many zeros an interval cannot help covering more than its level."""
    least = level / 100 - rules.max_undercoverage
    held = own >= least or (other is not None and own >= other)
    told = f"the {level} % intervals cover {own:.0%}, the guard rail is {least:.0%}"
    return Rail(f"coverage_{level}", held, own, other, least, None if held else told)


def _cost(name: str, unit: str, own: float | None, other: float | None, free: float, rules: Promotion) -> Rail:
    """At most so many times the champion's, which must be known; small ones are free."""
    limit = max(free, rules.max_cost_ratio * other) if other is not None else None
    held = own is None or limit is None or own <= limit
    told = f"{own or 0:,.0f} {unit} against {other or 0:,.0f}, the guard rail is {rules.max_cost_ratio:g} times as many"
    return Rail(name, held, own, other, limit, None if held else told)
