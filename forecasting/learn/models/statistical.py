"""One forecaster per series: naive, averages, exponential smoothing, theta and the intermittent family.

Each series is fitted by itself, or computed beside the others where no value of one enters another's: one that breaks
a model breaks no other, and results cannot depend on the shard. Up to which day the feed had come, which tells a zero
from what was not delivered yet, is asked of all series together.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecasting.config import Customer
from forecasting.frames import FORECASTS, STATUS
from forecasting.learn import backtest, grid
from forecasting.learn.ladder import live
from forecasting.learn.models import CATALOGUE, LADDER, members, order

__all__ = ["Fitted", "fit"]

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Objects = npt.NDArray[np.object_]
_WEEKS = 8
"""Seasons that ``weekday_mean`` averages."""
_RECENT = 4
"""Observed periods that ``recent_mean`` averages."""
_LONG_SEASON = 12
"""Above this season length ``weekday_mean`` averages the last eight periods instead, whatever their season."""
_AT_ONCE = frozenset({"seasonal_naive", "weekday_mean", "naive", "recent_mean"})
"""Models that compute all series together; each row of what they return depends on its own series alone."""


@dataclass(frozen=True)
class Fitted:
    """What the statistical family brings to the night."""

    scores: pd.DataFrame
    """frames.BACKTEST, one column per model; empty without origins."""
    forecasts: pd.DataFrame
    """frames.FORECASTS, one column per model."""
    status: pd.DataFrame
    """frames.STATUS of tonight's fits."""


class _Histories(NamedTuple):
    """What was seen of many series, one after the other; each has at least one period."""

    y: Floats
    scored: Bools
    start: Ints
    """First place of each series in ``y``."""
    stop: Ints
    """Last place + 1."""

    def of(self, series: Ints | slice) -> _Histories:
        """Some of the series."""
        return self._replace(start=self.start[series], stop=self.stop[series])

    def newest(self, periods: int | None) -> _Histories:
        """The last periods of each series; None: all."""
        return self if periods is None else self._replace(start=np.maximum(self.start, self.stop - periods))


Forecaster = Callable[[_Histories, int, int], Floats]
"""(histories, season_length, h) → y_hat, shape (series, h)."""


def fit(
    panel: pd.DataFrame,
    customer: Customer,
    cutoff: date,
    unique_ids: Sequence[str],
    models: Mapping[str, Sequence[str]] | None,
    origins: Sequence[date],
    threads: int = 1,
    days: grid.Days | None = None,
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
        days: ``grid.delivered`` of the whole feed, where the panel is no more than the shard.
    """
    days = grid.delivered(panel) if days is None else days
    shard = _coded_shard(panel, unique_ids)
    pool = order([*members(customer.pool, "statistical"), *LADDER, *customer.references])
    wanted = {u: _statistical(models.get(u, ())) for u in unique_ids} if models is not None else None
    names = pool if wanted is None else order([*LADDER, *(m for chosen in wanted.values() for m in chosen)])
    scores = [_backtest(shard, days, customer, origin, names, wanted) for origin in origins]
    tonight = _origin(shard, days, customer, cutoff, names, wanted)
    forecasts = grid.horizon_rows(customer, cutoff, list(tonight.ids))
    forecasts = forecasts[list(FORECASTS.columns)].assign(**tonight.columns())
    log.info("fit_statistical: %d series, %d models, %d origins", len(tonight.ids), len(names), len(origins))
    return Fitted(backtest.stack(scores), FORECASTS.check(forecasts), tonight.status())


def _coded_shard(panel: pd.DataFrame, unique_ids: Sequence[str]) -> pd.DataFrame:
    coded = grid.coded(panel)
    code, names = grid.codes(coded["unique_id"])
    mine = pd.Index(names).isin(set(unique_ids))
    return coded if mine.all() else coded[mine[code]]


def _statistical(chosen: Sequence[str]) -> list[str]:
    return [*LADDER, *(name for name in chosen if CATALOGUE[name].family == "statistical")]


class _Fits(NamedTuple):
    """Every model on every live series at one origin."""

    names: list[str]
    ids: Objects
    history: pd.DataFrame
    y_hat: Floats
    """Shape (models, series, h); NaN unless ok."""
    state: Objects
    """Shape (series, models); None where the model was not wanted."""
    reason: Objects

    def columns(self) -> dict[str, Floats]:
        """One column of y_hat per model, by series and step."""
        return {name: y_hat.ravel() for name, y_hat in zip(self.names, self.y_hat, strict=True)}

    def status(self) -> pd.DataFrame:
        """frames.STATUS of the fits."""
        series, model = np.nonzero(self.state != None)  # noqa: E711 - elementwise
        facts = {"unique_id": self.ids[series], "model": np.array(self.names, dtype=object)[model]}
        facts |= {"state": self.state[series, model], "reason": self.reason[series, model]}
        return STATUS.check(pd.DataFrame(facts, dtype=object))


def _backtest(
    shard: pd.DataFrame,
    days: grid.Days,
    customer: Customer,
    origin: date,
    names: list[str],
    wanted: Mapping[str, Sequence[str]] | None,
) -> pd.DataFrame:
    fits = _origin(shard, days, customer, origin, names, wanted)
    return backtest.skeleton(shard, customer, origin, fits.history, days).assign(**fits.columns())


def _origin(
    shard: pd.DataFrame,
    days: grid.Days,
    customer: Customer,
    origin: date,
    names: list[str],
    wanted: Mapping[str, Sequence[str]] | None,
) -> _Fits:
    """The fits at one origin; ``wanted``: models by series, the ladder's where none are named; None: all of all."""
    history = grid.regularise(shard, customer, origin, live(shard, origin), days)
    past, ids = _histories(history)
    asked = np.ones((len(ids), len(names)), dtype=np.bool_)
    if wanted is not None and len(ids):
        asked[:] = [[name in wanted.get(unique_id, LADDER) for name in names] for unique_id in ids]
    y_hat = np.full((len(names), len(ids), customer.horizon), np.nan)
    state, reason = (np.full(asked.shape, None, dtype=object) for _ in range(2))
    for at, name in enumerate(names):
        _fit_one(name, past, asked[:, at], customer, y_hat[at], state[:, at], reason[:, at])
    return _Fits(names, ids, history, y_hat, state, reason)


def _histories(history: pd.DataFrame) -> tuple[_Histories, Objects]:
    """The series of a grid in its order, and their unique_ids."""
    code, names = grid.codes(history["unique_id"])
    start = np.flatnonzero(np.diff(code, prepend=-1))
    stop = np.append(start[1:], len(code))[: len(start)]
    return _Histories(history["y"].to_numpy(), history["scored"].to_numpy(), start, stop), names[code[start]]


def _fit_one(
    name: str, past: _Histories, asked: Bools, customer: Customer, y_hat: Floats, state: Objects, reason: Objects
) -> None:
    """One model on the series that ask for it, written into ``y_hat``, ``state`` and ``reason``."""
    need = CATALOGUE[name].min_length(customer.season_length)
    length = past.stop - past.start
    able = np.flatnonzero(asked & (length >= need))
    for at in np.flatnonzero(asked & (length < need)):
        state[at], reason[at] = "short", f"{length[at]} periods of history, {name} needs {need}"
    state[able], reason[able] = "ok", ""
    newest = CATALOGUE[name].newest
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        made, failed = _made(name, past.of(able).newest(newest and max(newest, need)), customer)
    for which, why in failed.items():
        state[able[which]], reason[able[which]] = "failed", why
    y_hat[able] = np.maximum(made, 0.0)


def _made(name: str, past: _Histories, customer: Customer) -> tuple[Floats, dict[int, str]]:
    """One model's y_hat, shape (series, h), NaN where it failed; and why, by position.

    Nothing a model does to one series may stop the others.
    """
    forecaster, season_length, h = _forecaster(name, customer.season_length), customer.season_length, customer.horizon
    shape = (len(past.start), h)
    if name in _AT_ONCE:
        with suppress(Exception):  # which series broke it shows below
            made = forecaster(past, season_length, h)
            if made.shape == shape and np.isfinite(made).all():
                return made, {}
    made, failed = np.full(shape, np.nan), {}
    for at in range(len(made)):
        try:
            y_hat = forecaster(past.of(slice(at, at + 1)), season_length, h)
        except Exception as error:
            failed[at] = f"{type(error).__name__}: {error}"[:200]
            continue
        if y_hat.shape != (1, h):
            failed[at] = f"{name} returned {y_hat.shape[1:]} values, expected {h}"
        elif not np.isfinite(y_hat).all():
            failed[at] = f"{name} returned a value that is not finite"
        else:
            made[at] = y_hat[0]
    return made, failed


def _tail(values: Floats, past: _Histories, width: int) -> Floats:
    """The last ``width`` values of each series, shape (series, width); NaN before its first."""
    place = past.stop[:, None] + np.arange(-width, 0)
    return np.where(place >= past.start[:, None], values[np.maximum(place, 0)], np.nan)


def _tail_mean(past: _Histories, width: int) -> Floats:
    """Mean of the last ``width`` values of each series, or of as many as it has, shape (series,)."""
    counts = np.minimum(past.stop - past.start, width)
    means = np.empty(len(counts))
    for count in np.unique(counts):  # those of one length together: a padded sum may round otherwise
        rows = counts == count
        means[rows] = past.y[past.stop[rows, None] + np.arange(-count, 0)].mean(axis=1)
    return means


def _seasonal_naive(past: _Histories, season_length: int, h: int) -> Floats:
    """The last season again; ``y`` already holds an older season's value where a day was closed."""
    return np.take(past.y, past.stop[:, None] - season_length + np.arange(h) % season_length)


def _weekday_mean(past: _Histories, season_length: int, h: int) -> Floats:
    """Mean of the same weekday over eight weeks, of observed days only; the mean of all where there is none."""
    if season_length > _LONG_SEASON:
        return np.repeat(_tail_mean(past, _WEEKS)[:, None], h, axis=1)
    length = season_length * _WEEKS
    seen = _tail(np.where(past.scored, past.y, np.nan), past, length)
    overall = np.nanmean(seen, axis=1)
    bare = np.flatnonzero(np.isnan(overall))
    overall[bare] = _tail_mean(past.of(bare), length)
    by_day = np.nanmean(seen.reshape(-1, _WEEKS, season_length), axis=1)
    by_day = np.where(np.isnan(by_day), overall[:, None], by_day)
    return np.take(by_day, np.arange(h) % season_length, axis=1)


def _naive(past: _Histories, season_length: int, h: int) -> Floats:
    """The last observed period again."""
    seen = _observed(past)
    return np.repeat(seen.y[seen.stop - 1][:, None], h, axis=1)


def _recent_mean(past: _Histories, season_length: int, h: int) -> Floats:
    """Mean of the last four observed periods."""
    return np.repeat(_tail_mean(_observed(past), _RECENT)[:, None], h, axis=1)


def _observed(past: _Histories) -> _Histories:
    """The observed periods of each series alone; all of them where none was observed."""
    kept = past.scored.copy()
    for start, stop in zip(past.start, past.stop, strict=True):
        if not past.scored[start:stop].any():
            kept[start:stop] = True
    places = np.flatnonzero(kept)
    start, stop = np.searchsorted(places, past.start), np.searchsorted(places, past.stop)
    return _Histories(past.y[places], past.scored[places], start, stop)


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

    def forecaster(past: _Histories, season_length: int, h: int) -> Floats:
        """The library's models know one series at a time."""
        y = np.ascontiguousarray(past.y[past.start[0] : past.stop[0]])
        return np.asarray(model.forecast(y=y, h=h)["mean"], dtype=np.float64)[None, :]

    return forecaster
