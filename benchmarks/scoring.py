"""Figures of forecasts that were all made for the same rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecasting.learn.selection import rmsse_by_series

__all__ = ["QUANTILES", "figures", "loss", "tails"]

Floats = npt.NDArray[np.float64]

QUANTILES = {"q10": 0.1, "q50": 0.5, "q90": 0.9}
"""What pinball is averaged over: the ends of the 80 % interval and the median."""


def figures(frame: pd.DataFrame) -> dict[str, float | None]:
    """Scores of one forecast.

    Args:
        frame: frames.BACKTEST with ``y_hat``, and q10, q50, q90 where there are any (q50: else y_hat). Only rows with
            ``scored`` count.

    Returns:
        rmsse: mean over series, then over origins. wape: sum |q50 − y| / sum |y|. bias: sum(y_hat − y) / sum |y|,
        positive = over-forecast. pinball: of the three quantiles, over sqrt(RMSSE's denominator), mean over rows of a
        series, series, origins; coverage_80, above_q90, below_q10: shares of the rows. The last four None without an
        interval. All but bias and the shares: lower is better.
    """
    seen = frame[frame["scored"]]
    y, y_hat = seen["y"].to_numpy(dtype=np.float64), seen["y_hat"].to_numpy(dtype=np.float64)
    median = seen["q50"].to_numpy(dtype=np.float64) if "q50" in seen else y_hat
    volume = float(np.abs(y).sum())
    rmsse = rmsse_by_series(frame, ["y_hat"])["y_hat"]
    out: dict[str, float | None] = {
        "rmsse": _over_origins(rmsse),
        "wape": float(np.abs(median - y).sum()) / volume if volume else None,
        "bias": float((y_hat - y).sum()) / volume if volume else None,
        "pinball": None,
        "coverage_80": None,
        "above_q90": None,
        "below_q10": None,
    }
    if {"q10", "q90"} <= set(seen.columns):
        out["pinball"] = _pinball(seen.assign(q50=median))
        out |= tails(seen)
    return out


def tails(seen: pd.DataFrame) -> dict[str, float]:
    """Shares of scored rows (columns y, q10, q90) within and outside the 80 % interval, ends included."""
    above, below = seen["y"] > seen["q90"], seen["y"] < seen["q10"]
    return {
        "coverage_80": float((~above & ~below).mean()),
        "above_q90": float(above.mean()),
        "below_q10": float(below.mean()),
    }


def _over_origins(by_series: pd.Series) -> float:
    """Mean over the series of an origin, then over origins; index unique_id, cutoff."""
    return float(by_series.groupby("cutoff").mean().mean())


def _pinball(seen: pd.DataFrame) -> float:
    y, scale = seen["y"].to_numpy(dtype=np.float64), np.sqrt(seen["scale"].to_numpy(dtype=np.float64))
    losses = [loss(y, seen[name].to_numpy(dtype=np.float64), q) for name, q in QUANTILES.items()]
    scaled = pd.Series(np.mean(losses, axis=0) / scale, index=pd.MultiIndex.from_frame(seen[["unique_id", "cutoff"]]))
    return _over_origins(scaled.groupby(["unique_id", "cutoff"]).mean())


def loss(y: Floats, quantile: Floats, q: float) -> Floats:
    """Pinball loss of each row, in units; lower is better."""
    return np.maximum(q * (y - quantile), (q - 1) * (y - quantile))
