"""Chosen models put together: one forecast per row, weights renormalised where a member is silent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from forecasting.frames import BACKTEST, CHOICES
from forecasting.learn.backtest import columns
from forecasting.learn.models import order

__all__ = ["BLEND", "combine", "combine_scores", "pool_best"]

BLEND = "blend"
"""Name published where several models share a series."""


def pool_best(choices: pd.DataFrame, unique_ids: Sequence[str]) -> pd.DataFrame:
    """Extend choices to series that have none (newborn since the retrain): the most common choice."""
    known = set(choices["unique_id"])
    missing = [u for u in sorted(set(unique_ids)) if u not in known]
    if not missing or not len(choices):
        return choices
    sets = choices.groupby("unique_id")["model"].agg(tuple).value_counts(sort=True)
    best = sorted(sets[sets == sets.max()].index)[0]
    weights = 1.0 / len(best)
    added = pd.DataFrame([(u, m, weights) for u in missing for m in best], columns=list(CHOICES.columns))
    return pd.concat([choices, added], ignore_index=True).sort_values(["unique_id", "model"], ignore_index=True)


def _weighted(frame: pd.DataFrame, choices: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """y_hat and model name per row: the chosen models that spoke, their weights renormalised."""
    names = order([c for c in columns(frame) if c in set(choices["model"])])
    weights = choices.pivot(index="unique_id", columns="model", values="weight").reindex(columns=names).fillna(0.0)
    matrix = weights.reindex(frame["unique_id"]).fillna(0.0).to_numpy()
    values = frame[names].to_numpy(dtype=np.float64)
    matrix = np.where(np.isfinite(values), matrix, 0.0)
    total = matrix.sum(axis=1)
    y_hat = np.full(len(frame), np.nan)
    some = total > 0
    y_hat[some] = (np.where(matrix > 0, values, 0.0) * matrix).sum(axis=1)[some] / total[some]
    labels = np.array([*names, BLEND], dtype=object)
    which = np.where((matrix > 0).sum(axis=1) > 1, len(names), matrix.argmax(axis=1) if names else 0)
    return pd.Series(y_hat, index=frame.index), pd.Series(labels[which], index=frame.index, dtype=object)


def combine(forecasts: pd.DataFrame, choices: pd.DataFrame) -> pd.DataFrame:
    """Tonight's chosen forecast: unique_id, h, ds, y_hat, model (its name, or ``blend``).

    Where a member of a blend made no forecast the others share its weight; where none did, y_hat is NaN and the
    ladder decides. A series without a choice (newborn since the retrain) gets the one most series have.
    """
    out = forecasts[["unique_id", "h", "ds"]].copy()
    every = pool_best(choices, list(forecasts["unique_id"].unique()))
    out["y_hat"], out["model"] = _weighted(forecasts, every)
    # A blend that lost a member on some steps only is still published under one name.
    mixed = out.groupby("unique_id")["model"].transform("nunique") > 1
    out.loc[mixed, "model"] = BLEND
    return out


def combine_scores(scores: pd.DataFrame, choices: pd.DataFrame) -> pd.DataFrame:
    """The score frame of a selection: frames.BACKTEST with the one column ``y_hat``."""
    out = scores[list(BACKTEST.columns)].copy()
    out["y_hat"] = _weighted(scores, choices)[0]
    return out
