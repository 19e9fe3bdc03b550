"""One LightGBM over all series of a customer, by mlforecast: lags, rolling windows, calendar and plans known ahead.

Targets are divided by each series' scale, so that every series counts as RMSSE counts it. Boosters are text.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecasting.config import Customer
from forecasting.frames import FORECASTS, STATUS, empty, split_id
from forecasting.learn import backtest, grid
from forecasting.learn.ladder import live
from forecasting.periods import Frequency

if TYPE_CHECKING:
    import lightgbm
    from mlforecast import MLForecast

__all__ = ["NAME", "SPEC_VERSION", "FittedML", "fit", "predict"]

log = logging.getLogger(__name__)

NAME = "lightgbm"
SPEC_VERSION = 1
"""Version of the feature spec's schema; a booster is only read with the spec it was fitted under."""
MIN_ROWS = 100
"""Fewer training rows than this: no booster, the status says ``short``."""

Floats = npt.NDArray[np.float64]


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
        customer: Gives horizon, season length, exogenous columns, history and seed.
        cutoff: Last period of tonight's history.
        origins: Backtest cutoffs.
        threads: LightGBM's threads; results do not depend on it.
    """
    scores = [_backtest(panel, customer, origin, threads) for origin in origins]
    history = _history(panel, customer, cutoff)
    booster, spec = _train(history, customer, threads)
    forecasts = predict(panel, customer, cutoff, booster, spec, threads)
    state, reason = _state(booster, spec)
    ids = history["unique_id"].unique()
    status = pd.DataFrame({"unique_id": ids, "model": NAME, "state": state, "reason": reason}, dtype=object)
    log.info("fit_ml: %d series, %d rows, %d origins", len(ids), len(history), len(origins))
    return FittedML(
        backtest.stack(scores), forecasts, STATUS.check(status if len(ids) else empty(STATUS)), booster, spec
    )


def _state(booster: bytes | None, spec: dict[str, object]) -> tuple[str, str]:
    if booster is not None:
        return "ok", ""
    if "failure" in spec:
        return "failed", str(spec["failure"])
    return "short", f"fewer than {MIN_ROWS} observations to train on"


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
        ValueError: The spec is of another schema or of other features.
    """
    history = _history(panel, customer, cutoff)
    ids = list(history["unique_id"].unique())
    forecasts, _ = grid.future_frame(panel, customer, cutoff, ids)
    forecasts[NAME] = _predict(
        history, _ahead(panel, customer, cutoff, ids, forecasts), customer, booster, spec, threads
    )
    return FORECASTS.check(forecasts[[*FORECASTS.columns, NAME]])


def _backtest(panel: pd.DataFrame, customer: Customer, origin: date, threads: int) -> pd.DataFrame:
    history = _history(panel, customer, origin)
    frame = backtest.skeleton(panel, customer, origin, history)
    booster, spec = _train(history, customer, threads)
    frame[NAME] = predict(panel, customer, origin, booster, spec, threads)[NAME].to_numpy()
    return frame


def _history(panel: pd.DataFrame, customer: Customer, cutoff: date) -> pd.DataFrame:
    """The grid of the live series; historic columns are lagged by the horizon, so that they are known ahead."""
    history = grid.regularise(panel[panel["unique_id"].isin(set(live(panel, cutoff)))], customer, cutoff)
    for name in _historic(customer):
        history[name] = history.groupby("unique_id", sort=False)[name].shift(customer.horizon)
    return history


def _historic(customer: Customer) -> list[str]:
    return sorted(name for name, column in customer.exogenous.items() if column.known == "historic")


def _ahead(panel: pd.DataFrame, customer: Customer, cutoff: date, ids: list[str], future: pd.DataFrame) -> pd.DataFrame:
    """The horizon's exogenous columns; a historic one shows its last ``horizon`` values, as in training."""
    frame = future.copy()
    if _historic(customer):
        raw = grid.regularise(panel[panel["unique_id"].isin(set(ids))], customer, cutoff)
        key = [raw["unique_id"], raw.groupby("unique_id", sort=False).cumcount(ascending=False)]
        back = raw.set_index(pd.MultiIndex.from_arrays(key))
        wanted = pd.MultiIndex.from_arrays([frame["unique_id"], customer.horizon - frame["h"]])
        for name in _historic(customer):
            frame[name] = back[name].reindex(wanted).to_numpy()
    return frame


def _lags(customer: Customer) -> list[int]:
    m = customer.season_length
    return sorted({1, 2, m, 2 * m, 3 * m, 4 * m} if m > 1 else {1, 2, 3, 4})


def _calendar(frequency: Frequency) -> list[str]:
    return {"D": ["dayofweek", "day", "dayofyear"], "W": ["dayofyear"], "M": ["month"]}[frequency]


def _forecaster(customer: Customer) -> MLForecast:
    """Mlforecast's features; models come later, since boosters are ours to store."""
    from mlforecast import MLForecast
    from mlforecast.lag_transforms import ExponentiallyWeightedMean, RollingMean, RollingStd, SeasonalRollingMean

    m = customer.season_length if customer.season_length > 1 else 4
    rolling = [RollingMean(m, min_samples=1), RollingMean(4 * m, min_samples=1), RollingMean(13 * m, min_samples=1)]
    seasonal = [SeasonalRollingMean(m, 4, min_samples=1), SeasonalRollingMean(m, 8, min_samples=1)]
    spread = [RollingStd(4 * m, min_samples=2), ExponentiallyWeightedMean(0.1)]
    windows: dict[int, list[Any]] = {1: [*rolling, *spread], m: [*seasonal]}
    return MLForecast(
        models={},
        freq={"D": "D", "W": "W-SUN", "M": "ME"}[customer.frequency],
        lags=_lags(customer),
        lag_transforms=windows,
        date_features=_calendar(customer.frequency),
        num_threads=1,
    )


def _lookback(customer: Customer) -> int:
    """Periods of history that cover every window above; the exponential mean has forgotten what is older."""
    return 24 * max(customer.season_length, 4)


def _scale(history: pd.DataFrame) -> pd.Series:
    """What a series' target is divided by, in units; its mean, or 1, where RMSSE's scale is undefined."""
    scale = np.sqrt(grid.scales(history))
    mean = history.groupby("unique_id", sort=True)["y"].mean()
    filled: pd.Series = scale.fillna(mean.where(mean > 0)).fillna(1.0)
    return filled


def _codes(ids: Sequence[str], customer: Customer) -> dict[str, dict[str, int]]:
    """Key column → its values → their numbers, in text order."""
    values = [split_id(unique_id) for unique_id in ids]
    return {
        key: {text: code for code, text in enumerate(sorted({keys[at] for keys in values}))}
        for at, key in enumerate(customer.columns.keys)
    }


def _framed(frame: pd.DataFrame, ids: list[str], scale: pd.Series, customer: Customer) -> pd.DataFrame:
    """What mlforecast reads: numbers for ids, scaled y, exogenous columns in name order."""
    number = pd.Index(ids, dtype=object).get_indexer(pd.Index(frame["unique_id"]))
    out = pd.DataFrame({"unique_id": number, "ds": frame["ds"].to_numpy()})
    if "y" in frame:
        out["y"] = frame["y"].to_numpy() / scale.reindex(ids).to_numpy()[number]
    for name in sorted(customer.exogenous):
        out[name] = frame[name].to_numpy()
    return out


def _static(frame: pd.DataFrame, ids: list[str], codes: dict[str, dict[str, int]], scale: pd.Series) -> list[str]:
    """Add what is constant per series, in place: key codes (-1: not known when trained) and the log of its scale."""
    keys = [split_id(unique_id) for unique_id in ids]
    for at, (key, code) in enumerate(codes.items()):
        values = np.array([code.get(k[at], -1) for k in keys], dtype=np.float64)
        frame[f"key_{key}"] = values[frame["unique_id"].to_numpy()]
    frame["scale"] = np.log(scale.reindex(ids).to_numpy())[frame["unique_id"].to_numpy()]
    return [*(f"key_{key}" for key in codes), "scale"]


def _train(history: pd.DataFrame, customer: Customer, threads: int) -> tuple[bytes | None, dict[str, object]]:
    """Train one booster on a grid: its text, and the spec that goes with it."""
    ids = list(history["unique_id"].unique())
    codes, scale = _codes(ids, customer), _scale(history)
    spec: dict[str, object] = {
        "version": SPEC_VERSION,
        "codes": codes,
        "features": [],
        "parameters": _parameters(customer),
    }
    if int(history["scored"].sum()) < MIN_ROWS:
        return None, spec
    import lightgbm

    frame = _framed(history, ids, scale, customer)
    static = _static(frame, ids, codes, scale)
    forecaster = _forecaster(customer)
    table = pd.DataFrame(forecaster.preprocess(frame, static_features=static, dropna=False))
    features = [c for c in table.columns if c not in ("unique_id", "ds", "y")]
    scored = history["scored"].to_numpy()
    matrix = table[features].to_numpy(dtype=np.float32)[scored]
    # Net returns may be below zero, which tweedie refuses; the forecast is clipped there anyway.
    labels = np.maximum(table["y"].to_numpy(dtype=np.float32)[scored], 0.0)
    try:
        booster = _boost(matrix, labels, _weights(labels, customer), features, customer, threads)
    except lightgbm.basic.LightGBMError as error:
        return None, {**spec, "failure": f"LightGBM: {error}"[:200]}
    return _text(booster), {**spec, "features": features}


def _boost(
    matrix: npt.NDArray[np.float32],
    labels: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32] | None,
    features: list[str],
    customer: Customer,
    threads: int,
) -> lightgbm.Booster:
    import lightgbm

    parameters = {**_parameters(customer), "num_threads": threads}
    parameters["min_data_in_leaf"] = max(5, min(50, len(labels) // 40))
    rounds = int(str(parameters.pop("rounds")))
    dataset = lightgbm.Dataset(matrix, labels, weight=weights, feature_name=features, params=parameters)
    return lightgbm.train(parameters, dataset, num_boost_round=rounds)


def _text(booster: lightgbm.Booster) -> bytes:
    """LightGBM's text without the one line that says how many threads made it: the same model, the same bytes."""
    lines = booster.model_to_string().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("[num_threads:")).encode()


def _weights(labels: npt.NDArray[np.float32], customer: Customer) -> npt.NDArray[np.float32] | None:
    """Weight of each row under the customer's objective, mean 1; None: all alike.

    An error in percent is an absolute error weighted by one over what was sold, in whatever unit; where nothing was
    sold there is none. A period that sold next to nothing counts no more than one of ``_FLOOR`` scales. LightGBM's own
    ``mape`` does this to units, which labels are not: it would give every label below 1 the same weight.
    """
    if customer.objective != "mape" or not (labels > 0).any():
        return None
    weights = np.where(labels > 0, 1.0 / np.maximum(labels, _FLOOR), 0.0)
    return np.asarray(weights / weights.mean(), dtype=np.float32)


_FLOOR = 0.05
"""Least sales, in scales of the series, that an error in percent is weighted by."""
_LOSSES: dict[str, dict[str, object]] = {
    "tweedie": {"objective": "tweedie", "tweedie_variance_power": 1.1},
    "poisson": {"objective": "poisson"},
    "l2": {"objective": "regression"},
    "l1": {"objective": "regression_l1"},
    "mape": {"objective": "regression_l1"},
}
"""A customer's objective in LightGBM's words; :func:`_weights` makes the last one what it says."""


def _parameters(customer: Customer) -> dict[str, object]:
    return {
        **_LOSSES[customer.objective],
        "learning_rate": 0.08,
        "rounds": 100,
        "num_leaves": 31,
        "min_data_in_leaf": 50,
        "bagging_fraction": 0.5,
        "bagging_freq": 5,
        "max_bin": 63,
        "feature_fraction": 0.7,
        "lambda_l2": 1.0,
        "seed": customer.seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }


class _Columns:
    """A booster that looks its columns up by name and predicts with a fixed number of threads."""

    def __init__(self, booster: lightgbm.Booster, features: list[str], threads: int) -> None:
        self.booster, self.features, self.threads = booster, features, threads

    def predict(self, table: pd.DataFrame) -> Floats:
        matrix = table[self.features].to_numpy(dtype=np.float32)
        return np.asarray(self.booster.predict(matrix, num_threads=self.threads), dtype=np.float64)


def _predict(
    history: pd.DataFrame,
    ahead: pd.DataFrame,
    customer: Customer,
    booster: bytes | None,
    spec: dict[str, object],
    threads: int,
) -> Floats:
    """y_hat in units for every row of ``ahead``, recursively, clipped at 0; NaN without a booster."""
    if booster is None or not len(ahead):
        return np.full(len(ahead), np.nan)
    if spec.get("version") != SPEC_VERSION:
        raise ValueError(f"feature spec has version {spec.get('version')!r}, this code reads {SPEC_VERSION}")
    import lightgbm

    ids, scale = list(history["unique_id"].unique()), _scale(history)
    tail = history.groupby("unique_id", sort=False).tail(_lookback(customer))
    frame = _framed(tail, ids, scale, customer)
    kept = json.loads(json.dumps(spec["codes"]))  # a stored spec's keys are sorted, the customer's need not be
    static = _static(frame, ids, {key: kept[key] for key in customer.columns.keys if key in kept}, scale)
    forecaster = _forecaster(customer)
    table = pd.DataFrame(forecaster.preprocess(frame, static_features=static, dropna=False))
    features = [c for c in table.columns if c not in ("unique_id", "ds", "y")]
    if features != spec["features"]:
        raise ValueError(f"the booster was trained on {spec['features']}, tonight's features are {features}")
    model = lightgbm.Booster(model_str=booster.decode())
    forecaster.models_ = {NAME: _Columns(model, features, threads)}
    plan = _framed(ahead, ids, scale, customer) if customer.exogenous else None
    with warnings.catch_warnings():
        # A newborn has no lag 28; LightGBM reads the gap as a gap.
        warnings.filterwarnings("ignore", "Found null values", UserWarning)
        predicted = forecaster.predict(customer.horizon, X_df=plan)[NAME].to_numpy(dtype=np.float64)
    units = np.repeat(scale.reindex(ids).to_numpy(dtype=np.float64), customer.horizon)
    return np.asarray(np.maximum(predicted * units, 0.0), dtype=np.float64)
