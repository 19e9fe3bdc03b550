"""What a user would write with statsforecast alone in an afternoon: the reference that the product is printed beside.

Each series, and each node above them for its own quantiles, gets one exponential smoothing per weekday, fitted by the
library. Point forecasts of the nodes are sums of the series'. Quantiles are the errors of the last four windows, all
steps together, put upon the forecast. Of six such models it has the best mean WRMSSE over the origins at 1,000 series.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.m5.evaluate import Forecast, Judge
from benchmarks.m5.world import HORIZON

__all__ = ["reference"]

Floats = npt.NDArray[np.float64]

HISTORY = 730
"""Newest days that are fitted."""
WINDOWS = 4
SEASON = 7


def reference(judge: Judge, quantiles: Sequence[float]) -> Forecast:
    """Forecasts of the judge's world at its origin, quantiles of all twelve levels."""
    from statsforecast.models import SeasonalExponentialSmoothingOptimized

    model = SeasonalExponentialSmoothingOptimized(season_length=SEASON)
    history = judge.world.sales[:, : judge.origin]
    made, y_hat = {}, np.zeros((0, HORIZON))
    for level in judge.levels:
        sums = level.sums(history[:, -HISTORY - WINDOWS * HORIZON :]).astype(np.float64)
        y_hat, errors = _with_errors(model, sums)
        offsets = np.quantile(errors, list(quantiles), axis=1)
        made[level.node] = {
            q: np.maximum(y_hat + offset[:, None], 0.0) for q, offset in zip(quantiles, offsets, strict=True)
        }
    return Forecast(y_hat, made)  # the last level is that of the series


def _with_errors(model: Any, history: Floats) -> tuple[Floats, Floats]:
    """Forecasts, shape (series, 28), and the errors of the windows before them, shape (series, 4 · 28)."""
    y_hat = np.stack([_one(model, y) for y in history])
    errors = []
    for back in range(1, WINDOWS + 1):
        end = history.shape[1] - back * HORIZON
        errors.append(history[:, end : end + HORIZON] - np.stack([_one(model, y[:end]) for y in history]))
    return y_hat, np.concatenate(errors, axis=1)


def _one(model: Any, y: Floats) -> Floats:
    """One series from its first sale on; a young one gets its mean."""
    y = np.trim_zeros(y[-HISTORY:], "f")
    if len(y) < 2 * SEASON:
        return np.full(HORIZON, y.mean() if len(y) else 0.0)
    mean = model.forecast(y=np.ascontiguousarray(y), h=HORIZON)["mean"]
    return np.maximum(np.asarray(mean, dtype=np.float64), 0.0)
