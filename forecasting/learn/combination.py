"""Chosen models put together: one forecast per row, weights renormalised where a member is silent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecasting.config import GLOBAL
from forecasting.frames import BACKTEST, CHOICES
from forecasting.learn import grid
from forecasting.learn.backtest import columns
from forecasting.learn.models import order

__all__ = ["BLEND", "combine", "combine_scores", "pool_best", "trusted"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_TRUSTED = 0.1
"""Share of the series that publish the global model from which on a new one gets it: not one that was lucky."""
BLEND = "blend"
"""Name published where several models share a series."""


def pool_best(choices: pd.DataFrame, unique_ids: Sequence[str]) -> pd.DataFrame:
    """Extend choices to series that have none, because nothing is known of how models do on them yet.

    They get the global model where a tenth of the series have it: it has learnt from the others, and needs no history
    of theirs. Else the most common choice.
    """
    known = set(choices["unique_id"])
    missing = [u for u in sorted(set(unique_ids)) if u not in known]
    if not missing or not len(choices):
        return choices
    best = (GLOBAL,) if trusted(choices) else _most_common(choices)
    weights = 1.0 / len(best)
    added = pd.DataFrame([(u, m, weights) for u in missing for m in best], columns=list(CHOICES.columns))
    return pd.concat([choices, added], ignore_index=True).sort_values(["unique_id", "model"], ignore_index=True)


def trusted(choices: pd.DataFrame) -> bool:
    """Whether enough series publish the global model, alone or in a blend, for others to get it unheard."""
    published = int((choices["model"] == GLOBAL).sum())
    return published >= _TRUSTED * max(choices["unique_id"].nunique(), 1)


def _most_common(choices: pd.DataFrame) -> tuple[str, ...]:
    chosen: dict[str, tuple[str, ...]] = {}
    for unique_id, model in zip(choices["unique_id"], choices["model"], strict=True):
        chosen[unique_id] = (*chosen.get(unique_id, ()), model)
    counts = Counter(chosen.values())
    most = max(counts.values())
    return min(models for models, count in counts.items() if count == most)


class _Weighted(NamedTuple):
    """The chosen forecast of each row of a frame."""

    y_hat: Floats
    """NaN where no chosen model spoke."""
    model: Ints
    """Number of the one that spoke, in ``names``; that of BLEND where several did."""
    series: Ints
    """Number of the row's series."""
    names: list[str]


def _weighted(frame: pd.DataFrame, choices: pd.DataFrame) -> _Weighted:
    """The chosen models that spoke, their weights renormalised; model by model, since a score frame is long."""
    names = order([c for c in columns(frame) if c in set(choices["model"])])
    weights = choices.pivot(index="unique_id", columns="model", values="weight").reindex(columns=names).fillna(0.0)
    series, ids = grid.codes(frame["unique_id"])
    by_series = weights.reindex(pd.Index(ids, dtype=object)).fillna(0.0).to_numpy()
    total, y_hat, spoke, model = np.zeros((4, len(frame)))
    for at, name in enumerate(names):
        values = frame[name].to_numpy(dtype=np.float64)
        weight = np.where(np.isfinite(values), by_series[series, at], 0.0)
        speaks = weight > 0
        y_hat += np.where(speaks, values, 0.0) * weight
        total += weight
        spoke += speaks
        model[speaks] = at
    y_hat = np.divide(y_hat, total, out=np.full(len(frame), np.nan), where=total > 0)
    return _Weighted(y_hat, np.where(spoke > 1, len(names), model).astype(np.int64), series, [*names, BLEND])


def combine(forecasts: pd.DataFrame, choices: pd.DataFrame) -> pd.DataFrame:
    """Tonight's chosen forecast: unique_id, h, ds, y_hat, model (its name, or ``blend``).

    Where a member of a blend made no forecast the others share its weight; where none did, y_hat is NaN and the
    ladder decides. A series without a choice (newborn since the retrain) gets that of :func:`pool_best`.
    """
    out = forecasts[["unique_id", "h", "ds"]].copy()
    every = pool_best(choices, list(forecasts["unique_id"].unique()))
    made = _weighted(forecasts, every)
    # A blend that lost a member on some steps only is still published under one name.
    least, most = np.full(len(out), len(made.names)), np.full(len(out), -1)
    np.minimum.at(least, made.series, made.model)
    np.maximum.at(most, made.series, made.model)
    model = np.where((least < most)[made.series], len(made.names) - 1, made.model)
    out["y_hat"], out["model"] = made.y_hat, np.array(made.names, dtype=object)[model]
    return out


def combine_scores(scores: pd.DataFrame, choices: pd.DataFrame) -> pd.DataFrame:
    """The score frame of a selection: frames.BACKTEST with the one column ``y_hat``."""
    out = scores[list(BACKTEST.columns)].copy()
    out["y_hat"] = _weighted(scores, choices).y_hat
    return out
