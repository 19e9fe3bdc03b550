"""One forecaster per series: naive, averages, exponential smoothing, theta and the intermittent family.

Each series is fitted by itself: one that breaks a model breaks no other, and results cannot depend on the shard.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecasting.config import Customer
from forecasting.frames import FORECASTS, STATUS, empty
from forecasting.learn import backtest, grid
from forecasting.learn.ladder import live
from forecasting.learn.models import CATALOGUE, LADDER, members, order

__all__ = ["Fitted", "fit"]

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Forecaster = Callable[[Floats, Bools, int, int], Floats]
"""(y, scored, season_length, h) → h values of y_hat."""

_WEEKS = 8
"""Seasons that ``weekday_mean`` averages."""
_RECENT = 4
"""Observed periods that ``recent_mean`` averages."""
_LONG_SEASON = 12
"""Above this season length ``weekday_mean`` averages the last eight periods instead, whatever their season."""


@dataclass(frozen=True)
class Fitted:
    """What the statistical family brings to the night."""

    scores: pd.DataFrame
    """frames.BACKTEST, one column per model; empty without origins."""
    forecasts: pd.DataFrame
    """frames.FORECASTS, one column per model."""
    status: pd.DataFrame
    """frames.STATUS of tonight's fits."""


@dataclass(frozen=True)
class _Series:
    unique_id: str
    y: Floats
    scored: Bools


def fit(
    panel: pd.DataFrame,
    customer: Customer,
    cutoff: date,
    unique_ids: Sequence[str],
    models: Mapping[str, Sequence[str]] | None,
    origins: Sequence[date],
    threads: int = 1,
) -> Fitted:
    """Backtest and forecast some series with the statistical models.

    Args:
        panel: A frames.PANEL; each forecast sees only what its origin may.
        customer: Gives pool, horizon, season length and history.
        cutoff: Last period of tonight's forecasts' history.
        unique_ids: The shard. Retired series among them are left out.
        models: Models per series (refresh), to which the cheap ones of the ladder are added; None: the whole pool and
            the references it is judged beside.
        origins: Backtest cutoffs; none on a refresh.
        threads: Not used: a series' result may not depend on it. Parallelism is by shards.
    """
    shard = panel[panel["unique_id"].isin(set(unique_ids))]
    pool = order([*members(customer.pool, "statistical"), *LADDER, *customer.references])
    wanted = {u: _statistical(models.get(u, ())) for u in unique_ids} if models is not None else {}
    names = pool if models is None else order([*LADDER, *(m for chosen in wanted.values() for m in chosen)])
    forecasters = {name: _forecaster(name, customer.season_length) for name in names}
    scores = [_origin(shard, customer, origin, forecasters, wanted, models is None)[0] for origin in origins]
    _, values, status = _origin(shard, customer, cutoff, forecasters, wanted, models is None)
    forecasts, _ = grid.future_frame(shard, customer, cutoff, list(values))
    for at, name in enumerate(names):
        forecasts[name] = np.concatenate([v[at] for v in values.values()]) if values else np.array([], dtype=np.float64)
    log.info("fit_statistical: %d series, %d models, %d origins", len(values), len(names), len(origins))
    return Fitted(backtest.stack(scores), FORECASTS.check(forecasts[[*FORECASTS.columns, *names]]), status)


def _statistical(chosen: Sequence[str]) -> list[str]:
    return [*LADDER, *(name for name in chosen if CATALOGUE[name].family == "statistical")]


def _origin(
    panel: pd.DataFrame,
    customer: Customer,
    origin: date,
    forecasters: Mapping[str, Forecaster],
    wanted: Mapping[str, list[str]],
    everything: bool,
) -> tuple[pd.DataFrame, dict[str, Floats], pd.DataFrame]:
    """One origin: its score frame, the values per series (models × h) and the status of each fit."""
    alive = live(panel, origin)
    history = grid.regularise(panel[panel["unique_id"].isin(set(alive))], customer, origin)
    frame = backtest.skeleton(panel, customer, origin, history)
    values: dict[str, Floats] = {}
    states: list[tuple[str, str, str, str]] = []
    for series in _each(history):
        values[series.unique_id] = np.full((len(forecasters), customer.horizon), np.nan)
        for at, (name, forecaster) in enumerate(forecasters.items()):
            if everything or name in wanted.get(series.unique_id, LADDER):
                y_hat, state, reason = _try(name, forecaster, series, customer)
                values[series.unique_id][at] = y_hat
                states.append((series.unique_id, name, state, reason))
    for at, name in enumerate(forecasters):
        frame[name] = np.concatenate([v[at] for v in values.values()]) if values else np.array([], dtype=np.float64)
    status = pd.DataFrame(states, columns=list(STATUS.columns), dtype=object) if states else empty(STATUS)
    return frame, values, STATUS.check(status)


def _each(history: pd.DataFrame) -> Iterator[_Series]:
    """The series of a grid, in its order."""
    ids = history["unique_id"].to_numpy()
    y, scored = history["y"].to_numpy(), history["scored"].to_numpy()
    cuts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1], [True]])) if len(ids) else np.array([0])
    for start, stop in pairwise(cuts):
        yield _Series(str(ids[start]), y[start:stop], scored[start:stop])


def _try(name: str, forecaster: Forecaster, series: _Series, customer: Customer) -> tuple[Floats, str, str]:
    """One fit: y_hat (NaN unless ok), state and reason. Nothing a model does may stop the others."""
    recipe, none = CATALOGUE[name], np.full(customer.horizon, np.nan)
    need = recipe.min_length(customer.season_length)
    if len(series.y) < need:
        return none, "short", f"{len(series.y)} periods of history, {name} needs {need}"
    newest = slice(None) if recipe.newest is None else slice(-max(recipe.newest, need), None)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            y_hat = forecaster(series.y[newest], series.scored[newest], customer.season_length, customer.horizon)
    except Exception as error:
        return none, "failed", f"{type(error).__name__}: {error}"[:200]
    if y_hat.shape != none.shape:
        return none, "failed", f"{name} returned {y_hat.shape} values, expected {customer.horizon}"
    if not np.isfinite(y_hat).all():
        return none, "failed", f"{name} returned a value that is not finite"
    return np.maximum(np.asarray(y_hat, dtype=np.float64), 0.0), "ok", ""


def _seasonal_naive(y: Floats, scored: Bools, season_length: int, h: int) -> Floats:
    """The last season again; ``y`` already holds an older season's value where a day was closed."""
    return np.resize(y[-season_length:], h)


def _weekday_mean(y: Floats, scored: Bools, season_length: int, h: int) -> Floats:
    """Mean of the same weekday over eight weeks, of observed days only; the mean of all where there is none."""
    if season_length > _LONG_SEASON:
        return np.full(h, y[-_WEEKS:].mean())
    length = season_length * _WEEKS
    seen = np.full(length, np.nan)
    recent = np.where(scored, y, np.nan)[-length:]
    seen[length - len(recent) :] = recent
    overall = np.nanmean(seen) if np.isfinite(seen).any() else float(y[-length:].mean())
    by_day = np.nanmean(seen.reshape(_WEEKS, season_length), axis=0)
    return np.resize(np.where(np.isnan(by_day), overall, by_day), h)


def _naive(y: Floats, scored: Bools, season_length: int, h: int) -> Floats:
    """The last observed period again."""
    return np.full(h, _observed(y, scored)[-1])


def _recent_mean(y: Floats, scored: Bools, season_length: int, h: int) -> Floats:
    """Mean of the last four observed periods."""
    return np.full(h, _observed(y, scored)[-_RECENT:].mean())


def _observed(y: Floats, scored: Bools) -> Floats:
    return y[scored] if scored.any() else y


def _forecaster(name: str, season_length: int) -> Forecaster:
    """The function behind a catalogue name. Imports statsforecast only when one of its models is asked for."""
    plain: dict[str, Forecaster] = {
        "seasonal_naive": _seasonal_naive,
        "weekday_mean": _weekday_mean,
        "naive": _naive,
        "recent_mean": _recent_mean,
    }
    if name in plain:
        return plain[name]
    from statsforecast.models import ADIDA, IMAPA, TSB, AutoETS, CrostonOptimized, DynamicOptimizedTheta

    known: dict[str, Callable[[], Any]] = {
        # No trend and additive errors: daily retail has zeros, and an extrapolated trend is what explodes.
        "auto_ets": lambda: AutoETS(season_length=season_length, model="ANZ"),
        "dynamic_theta": lambda: DynamicOptimizedTheta(season_length=season_length),
        "croston": CrostonOptimized,
        "tsb": lambda: TSB(alpha_d=0.1, alpha_p=0.1),
        "adida": ADIDA,
        "imapa": IMAPA,
    }
    model = known[name]()
    return lambda y, scored, m, h: np.asarray(model.forecast(y=np.ascontiguousarray(y), h=h)["mean"], dtype=np.float64)
