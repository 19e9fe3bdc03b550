"""One LightGBM over all series of a customer, direct: a row per (series, origin, step), made by ``learn.features``.

It learns sales over the series' own recent level, weighted so that every series counts as RMSSE counts it. The
aggregates of the hierarchy are forecast beside their series, and the two are reconciled. Boosters are text.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise, starmap
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecasting.config import Customer
from forecasting.frames import FORECASTS, STATUS, empty
from forecasting.learn import backtest, features, grid, reconciliation
from forecasting.learn.ladder import live

if TYPE_CHECKING:
    import lightgbm

__all__ = ["NAME", "SPEC_VERSION", "FittedML", "OtherFeaturesError", "fit", "predict", "reads"]

log = logging.getLogger(__name__)

NAME = "lightgbm"
SPEC_VERSION = 2
"""Version of the features and of their spec; a booster is only read with the features it was fitted on. Where features
change, ``config.GENERATION`` is raised with it."""
MIN_ROWS = 100
"""Fewer observations than this: no booster, the status says ``short``."""
_ROWS = (150_000, 1_200_000)
"""Training rows are drawn up to the first, or 40 per series, but no more than the second: more gains little."""
_PER_SERIES = 40
_OFTEN = 3
"""Most times that a period is foretold by the training rows, on average: what is seen too often is learnt by heart."""
_ORIGINS = 160
"""Most origins that training rows stand at: half of them in the newest year, half over the whole history."""

_CHUNK = 400_000
"""Rows that are predicted together."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Singles = npt.NDArray[np.float32]


class OtherFeaturesError(ValueError):
    """A booster was trained on features that this code does not make any more."""


@dataclass(frozen=True)
class FittedML:
    """What the ML family brings to the night."""

    scores: pd.DataFrame
    """frames.BACKTEST with the column ``lightgbm``; empty without origins."""
    forecasts: pd.DataFrame
    """frames.FORECASTS with the column ``lightgbm``."""
    status: pd.DataFrame
    """frames.STATUS of tonight's fit."""
    booster: bytes | None
    """LightGBM's text format, UTF-8; None when there was too little data."""
    spec: dict[str, object]
    """What ``predict`` needs beside the booster, JSON-able."""


def fit(panel: pd.DataFrame, customer: Customer, cutoff: date, origins: Sequence[date], threads: int) -> FittedML:
    """Backtest, train and forecast; each origin has a booster of its own, trained on what it could see.

    Args:
        panel: A frames.PANEL; each booster sees only what its origin may.
        customer: Gives horizon, season length, exogenous columns, hierarchy, objective, history and seed.
        cutoff: Last period of tonight's history.
        origins: Backtest cutoffs.
        threads: LightGBM's threads; results do not depend on it.
    """
    panel = grid.coded(panel)
    scores = [_backtest(panel, customer, origin, threads) for origin in origins]
    forecasts, booster, spec = _trained(_lay_out(panel, customer, cutoff), panel, customer, cutoff, threads)
    state, reason = _state(booster, spec)
    ids = forecasts["unique_id"].unique()
    status = pd.DataFrame({"unique_id": ids, "model": NAME, "state": state, "reason": reason}, dtype=object)
    log.info("fit_ml: %d series, %d origins", len(ids), len(origins))
    return FittedML(
        backtest.stack(scores), forecasts, STATUS.check(status if len(ids) else empty(STATUS)), booster, spec
    )


def predict(
    panel: pd.DataFrame, customer: Customer, cutoff: date, booster: bytes | None, spec: dict[str, object], threads: int
) -> pd.DataFrame:
    """Forecast tonight with a booster that may be older: frames.FORECASTS with the column ``lightgbm``.

    Args:
        panel: A frames.PANEL.
        customer: The same recipe as the booster's.
        cutoff: Last period of the history.
        booster: What ``fit`` gave; its sha256 must have been checked, a cut text aborts the process. None: all NaN.
        spec: What ``fit`` gave beside it.
        threads: LightGBM's threads; results do not depend on it.

    Raises:
        OtherFeaturesError: The spec is of another version or of other features.
    """
    if booster is not None and not reads(spec):  # asked before anything is laid out
        raise OtherFeaturesError(f"feature spec has version {spec.get('version')!r}, this code reads {SPEC_VERSION}")
    panel = grid.coded(panel)
    history = _lay_out(panel, customer, cutoff)
    return _forecast(history, panel, customer, cutoff, booster, spec, threads)


def reads(spec: dict[str, object]) -> bool:
    """Whether this code can predict with a booster of that spec; one of an older schema has to be trained anew."""
    return spec.get("version") == SPEC_VERSION


# --- one origin -----------------------------------------------------------------------------------------------------


def _backtest(panel: pd.DataFrame, customer: Customer, origin: date, threads: int) -> pd.DataFrame:
    seen = _seen(panel, customer, origin)
    frame = backtest.skeleton(panel, customer, origin, seen)
    history = features.lay_out(seen, panel, customer, origin)
    del seen  # the grid of a large customer and its matrices need not be held at once
    frame[NAME] = _trained(history, panel, customer, origin, threads)[0][NAME].to_numpy()
    return frame


def _trained(
    history: features.History, panel: pd.DataFrame, customer: Customer, cutoff: date, threads: int
) -> tuple[pd.DataFrame, bytes | None, dict[str, object]]:
    """Train at one cutoff and forecast from it: the forecasts, booster and spec."""
    booster, spec = _train(history, customer, threads)
    return _forecast(history, panel, customer, cutoff, booster, spec, threads), booster, spec


def _seen(panel: pd.DataFrame, customer: Customer, cutoff: date) -> pd.DataFrame:
    """The grid of the series that are live at ``cutoff``."""
    return grid.regularise(panel, customer, cutoff, live(panel, cutoff))


def _lay_out(panel: pd.DataFrame, customer: Customer, cutoff: date) -> features.History:
    return features.lay_out(_seen(panel, customer, cutoff), panel, customer, cutoff)


def _state(booster: bytes | None, spec: dict[str, object]) -> tuple[str, str]:
    if booster is not None:
        return "ok", ""
    if "failure" in spec:
        return "failed", str(spec["failure"])
    return "short", f"fewer than {MIN_ROWS} observations to train on"


# --- training -------------------------------------------------------------------------------------------------------


def _train(history: features.History, customer: Customer, threads: int) -> tuple[bytes | None, dict[str, object]]:
    """Train a booster on the series and one on their aggregates: their texts, one after the other, and the spec.

    Two, because aggregates are smooth and heavy: together with their series each would spoil the other's splits.
    """
    plan = features.read_plan(history)
    spec: dict[str, object] = {"version": SPEC_VERSION, **plan._asdict(), "features": []}
    if int(history.scored[: len(history.ids)].sum()) < MIN_ROWS:
        return None, spec
    import lightgbm

    maker = features.Features(history, plan)
    spec |= {"features": maker.names, "boosters": []}
    texts: list[bytes] = []
    told: list[dict[str, object]] = []
    for matrix, labels, weights in _rows(maker, customer):
        parameters = _parameters(customer, len(labels))
        if len(labels) < MIN_ROWS:
            if not texts:
                return None, spec
            continue
        try:
            texts.append(_text(_boost(matrix, labels, weights, maker.names, parameters, threads)))
        except lightgbm.basic.LightGBMError as error:
            return None, {**spec, "failure": f"LightGBM: {error}"[:200]}
        told.append({"bytes": len(texts[-1]), "rows": len(labels), "parameters": parameters})
    return b"".join(texts), {**spec, "boosters": told}


def _rows(maker: features.Features, customer: Customer) -> Iterator[tuple[Singles, Singles, Singles]]:
    """A seeded draw of training rows for each model: features, sales over the level, weights.

    Every row stands at an origin of its own past, and what it is to foretell lies within the history.
    """
    history = maker.history
    draws = [_Draw(history, blocks, customer) for blocks in history.parts()]
    for origin, beside in _origins(history):
        cells = [draw.cells(origin, beside) for draw in draws]
        series, steps = (np.concatenate(parts) for parts in zip(*cells, strict=True))
        if not len(series):
            continue
        rows = maker.make(origin, series, steps)  # of all models at once: a call takes as long for one row as for many
        ends = np.cumsum([0, *(len(mine) for mine, _ in cells)])
        for draw, (mine, ahead), some in zip(draws, cells, starmap(slice, pairwise(ends)), strict=True):
            draw.put(origin, mine, ahead, features.Rows(rows.table[some], rows.level[some]))
    while draws:  # the rows of one model are let go before the next one's are put together: they may be many
        yield draws.pop(0).drawn()


class _Draw:
    """The training rows of one model, drawn from blocks of rows of the history, which have equal shares of it."""

    def __init__(self, history: features.History, blocks: list[slice], customer: Customer) -> None:
        self._history, self._blocks, self._customer = history, blocks, customer
        self._random = np.random.default_rng(customer.seed)
        size = sum(block.stop - block.start for block in blocks)
        seen = sum(int(history.scored[block].sum()) for block in blocks)
        self._budget = min(max(_ROWS[0], _PER_SERIES * size), _ROWS[1], _OFTEN * seen)
        self._tables: list[Singles] = []
        self._labels: list[Floats] = []
        self._weights: list[Floats] = []

    def cells(self, origin: int, beside: int) -> tuple[Ints, Ints]:
        """A draw of (row, step) whose outcome at ``origin`` is known, of what had begun, from each block alike.

        Args:
            origin: Column that the rows stand at.
            beside: How many origins have an equal share of half the rows.
        """
        history, chosen = self._history, []
        reach = min(history.horizon, history.periods - 1 - origin)
        want = self._budget // 2 // beside // len(self._blocks)
        for block in self._blocks:
            known = history.scored[block, origin + 1 : origin + reach + 1] & (history.start[block] <= origin)[:, None]
            cells = np.flatnonzero(known)
            if len(cells) > want:
                cells = np.sort(self._random.choice(cells, want, replace=False))
            chosen.append(cells + block.start * reach)
        cells = np.concatenate(chosen)
        return cells // reach, cells % reach + 1

    def put(self, origin: int, series: Ints, steps: Ints, rows: features.Rows) -> None:
        """Take the features of what :meth:`cells` drew at ``origin``."""
        history = self._history
        self._tables.append(rows.table)
        # Net returns may be below zero, which some losses refuse; the forecast is clipped there anyway.
        self._labels.append(np.maximum(history.y[series, origin + steps] / rows.level, 0.0))
        unit = np.sqrt(history.scale[series]) if self._blocks[0].start == 0 else np.ones(len(series))
        self._weights.append(_weights(self._labels[-1], rows.level, unit, self._customer))

    def drawn(self) -> tuple[Singles, Singles, Singles]:
        """Features, labels and weights of all that was put; of mean weight 1."""
        weight = np.concatenate(self._weights) if self._weights else np.zeros(0)
        labels = np.concatenate(self._labels) if self._labels else np.zeros(0)
        return (
            np.concatenate(self._tables) if self._tables else np.zeros((0, 0), dtype=np.float32),
            labels.astype(np.float32),
            (weight / weight.mean()).astype(np.float32) if weight.sum() > 0 else np.ones(len(weight), dtype=np.float32),
        )


def _origins(history: features.History) -> list[tuple[int, int]]:
    """Columns that training rows stand at, and how many share half of them: the newest year's half, or everything's.

    Where a history was cut and is long enough, origins stand where every feature has its past, so that a row is what
    it would have been that night.
    """
    newest = history.periods - 2
    whole = features.lookback(history)
    cut, spared = history.periods >= history.longest, max(history.clock.year, 2 * history.horizon)
    far = np.arange(newest, (whole if cut and newest - whole >= spared else 1) - 1, -1)
    halves = [columns[:: _stride(len(columns), history.season)] for columns in (far[: history.clock.year], far)]
    return [(int(column), len(columns)) for columns in halves for column in columns]


def _stride(columns: int, season: int) -> int:
    """Every how many columns an origin stands, so that it falls on all phases of the season in turn."""
    every = max(1, -(-columns * 2 // _ORIGINS))
    while math.gcd(every, season) > 1:
        every += 1
    return every


def _weights(labels: Floats, level: Floats, unit: Floats, customer: Customer) -> Floats:
    """Weight of each row, so that the loss on sales over the level is the customer's objective on sales over the unit.

    The unit of a series is the root of RMSSE's denominator, so that all count alike; that of an aggregate is one piece:
    the larger it is, the more its forecast moves those of its series. An error in percent is an absolute error weighted
    by one over what was sold; where nothing was sold there is none.
    """
    if customer.objective == "mape":
        return np.where(labels > 0, 1.0 / np.maximum(labels, _LEAST_SOLD), 0.0)
    ratio = level / np.maximum(np.where(unit > 0, unit, level), _LEAST_UNIT * level)
    return np.asarray(ratio ** _POWERS[customer.objective], dtype=np.float64)


_LEAST_UNIT = 0.05
"""A series that hardly ever varies has at least this unit, in levels: it may not outweigh all others."""
_LEAST_SOLD = 0.05
"""Least sales, in levels of the series, that an error in percent is weighted by."""
_POWERS = {"tweedie": 0.9, "poisson": 1.0, "l2": 2.0, "l1": 1.0}
"""A loss is homogeneous in its unit to this power: Tweedie's deviance of variance power p to 2 - p."""
_LOSSES: dict[str, dict[str, object]] = {
    "tweedie": {"objective": "tweedie", "tweedie_variance_power": 1.1},
    "poisson": {"objective": "poisson"},
    "l2": {"objective": "regression"},
    "l1": {"objective": "regression_l1"},
    "mape": {"objective": "regression_l1"},
}
"""A customer's objective in LightGBM's words; :func:`_weights` makes the last one what it says."""


def _parameters(customer: Customer, rows: int) -> dict[str, object]:
    large, small = rows > 2 * _ROWS[0], rows < _ROWS[0] // 5
    return {
        **_LOSSES[customer.objective],
        "learning_rate": 0.06,
        "rounds": 150,
        "num_leaves": 63 if large else 8 if small else 31,
        "min_data_in_leaf": 200 if large else max(5, min(50, rows // 40)),
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "max_bin": 127 if large else 63,
        "feature_fraction": 0.5,
        "lambda_l2": 1.0,
        "seed": customer.seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }


def _boost(
    matrix: Singles, labels: Singles, weights: Singles, names: list[str], parameters: dict[str, object], threads: int
) -> lightgbm.Booster:
    import lightgbm

    given = {**parameters, "num_threads": threads}
    rounds = int(str(given.pop("rounds")))
    dataset = lightgbm.Dataset(matrix, labels, weight=weights, feature_name=names, params=given, free_raw_data=True)
    return lightgbm.train(given, dataset, num_boost_round=rounds)


def _text(booster: lightgbm.Booster) -> bytes:
    """LightGBM's text without the one line that says how many threads made it: the same model, the same bytes."""
    lines = booster.model_to_string().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("[num_threads:")).encode()


# --- forecasting ----------------------------------------------------------------------------------------------------


def _forecast(
    history: features.History,
    panel: pd.DataFrame,
    customer: Customer,
    cutoff: date,
    booster: bytes | None,
    spec: dict[str, object],
    threads: int,
) -> pd.DataFrame:
    """frames.FORECASTS with the column ``lightgbm``."""
    forecasts, _ = grid.future_frame(panel, customer, cutoff, history.ids)
    forecasts[NAME] = _predict(history, booster, spec, threads).ravel()
    return FORECASTS.check(forecasts[[*FORECASTS.columns, NAME]])


def _predict(history: features.History, booster: bytes | None, spec: dict[str, object], threads: int) -> Floats:
    """y_hat in units, at least 0, shape (series, horizon), reconciled with the aggregates'; NaN without a booster."""
    if booster is None or not history.ids:
        return np.full((len(history.ids), history.horizon), np.nan)
    import lightgbm

    stored = json.loads(json.dumps(spec))  # tuples and numpy's numbers as they come back from a file
    # a stored spec's keys are sorted, the history's columns need not be
    own = {name: float(stored["own"][name]) for name in history.future if name in stored["own"]}
    maker = features.Features(history, features.Plan(own, _codes(stored["codes"], history), stored["lenders"]))
    if maker.names != stored["features"]:
        old, new = set(stored["features"]), set(maker.names)
        raise OtherFeaturesError(
            f"the booster was trained on other features, or in another order: also on {sorted(old - new)}, "
            f"not on {sorted(new - old)}"
        )
    y_hat = np.full((history.size, history.horizon), np.nan)
    first = 0
    for blocks, told in zip(history.parts(), stored["boosters"], strict=False):
        model = lightgbm.Booster(model_str=booster[first : first + told["bytes"]].decode())
        first += told["bytes"]
        _fill(y_hat, maker, model, np.arange(blocks[0].start, blocks[-1].stop), threads)
    variance = history.noise[: len(history.ids)]
    return reconciliation.reconcile(y_hat, history.nodes if len(stored["boosters"]) > 1 else [], variance)


def _fill(
    y_hat: Floats, maker: features.Features, model: lightgbm.Booster, which: npt.NDArray[np.int64], threads: int
) -> None:
    """Put one booster's forecasts of some rows in their place."""
    horizon, origin = maker.history.horizon, maker.history.periods - 1
    together = max(_CHUNK // len(which), 1)
    for first in range(1, horizon + 1, together):
        steps = np.arange(first, min(first + together, horizon + 1))
        series, step = np.repeat(which, len(steps)), np.tile(steps, len(which))
        rows = maker.make(origin, series, step)
        predicted = np.asarray(model.predict(rows.table, num_threads=threads), dtype=np.float64)
        y_hat[series, step - 1] = np.maximum(predicted * rows.level, 0.0)


def _codes(stored: dict[str, dict[str, int]], history: features.History) -> dict[str, dict[str, int]]:
    return {key: stored[key] for key in history.labels if key in stored}
