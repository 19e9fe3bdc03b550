"""What a user would take instead: short scripts of other libraries, as their own first pages write them.

They see the history and the plan that the product's forecasters see and nothing else, and nobody tunes or repairs them:
no clipping at zero, default parameters, season lengths as declared, known future columns where the script takes any.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from forecasting.config import Customer
from forecasting.learn import grid, ladder

__all__ = ["PEERS", "Given", "Peer", "given"]

FREQ = {"D": "D", "W": "W-SUN", "M": "ME"}
LEVEL = 80
"""Width in percent of the interval that is asked for where a script gives one."""


@dataclass(frozen=True)
class Given:
    """What a forecaster has in its hands at an origin."""

    history: pd.DataFrame
    """unique_id, ds, y (units, no gaps) and the columns known ahead: ``grid.regularise`` of the live series."""
    future: pd.DataFrame
    """unique_id, ds and the columns known ahead: the horizon of the same series."""
    customer: Customer
    threads: int

    @property
    def columns(self) -> list[str]:
        """The columns known ahead."""
        return list(self.customer.future())


Peer = Callable[[Given], pd.DataFrame]
"""Forecasts unique_id, ds, y_hat, and q10, q90 where the script gives an interval; a series it fails on is absent."""


def given(panel: pd.DataFrame, customer: Customer, origin: date, threads: int) -> Given:
    """The series, rows and columns that the product's own forecasters get at ``origin``."""
    ids = ladder.live(panel, origin)
    history = grid.regularise(panel, customer, origin, ids)
    future, _ = grid.future_frame(panel, customer, origin, list(history["unique_id"].unique()))
    known = list(customer.future())
    return Given(history[["unique_id", "ds", "y", *known]], future[["unique_id", "ds", *known]], customer, threads)


def _nothing() -> pd.DataFrame:
    """Of a series that a script fails on."""
    texts, days = np.array([], dtype=object), np.array([], dtype="datetime64[ns]")
    return pd.DataFrame({"unique_id": texts, "ds": days, "y_hat": np.array([], dtype=np.float64)})


# --- statsforecast --------------------------------------------------------------------------------------------------


def auto_ets(at: Given) -> pd.DataFrame:
    """Statsforecast's AutoETS."""
    from statsforecast.models import AutoETS

    return _statsforecast(at, AutoETS(season_length=at.customer.season_length, alias="model"))


def auto_theta(at: Given) -> pd.DataFrame:
    """Statsforecast's AutoTheta."""
    from statsforecast.models import AutoTheta

    return _statsforecast(at, AutoTheta(season_length=at.customer.season_length, alias="model"))


def _statsforecast(at: Given, model: Any) -> pd.DataFrame:
    return _batch(at.history[["unique_id", "ds", "y"]], model, at)


def _batch(df: pd.DataFrame, model: Any, at: Given) -> pd.DataFrame:
    """One call for all series. One that is too short fails the batch: then each half alone, down to the one."""
    from statsforecast import StatsForecast

    ids = df["unique_id"].unique()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sf = StatsForecast(models=[model], freq=FREQ[at.customer.frequency], n_jobs=1)
            made = pd.DataFrame(sf.forecast(df=df, h=at.customer.horizon, level=[LEVEL]))
    except Exception:  # the libraries raise many kinds for a series they cannot fit
        if len(ids) == 1:
            return _nothing()
        half = df["unique_id"].isin(set(ids[: len(ids) // 2]))
        return pd.concat([_batch(df[half], model, at), _batch(df[~half], model, at)], ignore_index=True)
    return made.rename(columns={"model": "y_hat", f"model-lo-{LEVEL}": "q10", f"model-hi-{LEVEL}": "q90"})


# --- mlforecast -----------------------------------------------------------------------------------------------------


def lightgbm(at: Given) -> pd.DataFrame:
    """Mlforecast with LightGBM at its defaults: the lags and date feature of its quick start, and the plan.

    The quick start is daily with a week's season: lags of one and two seasons, the mean so far, the mean of four
    seasons a season ago, the weekday. Other frequencies get the same in their own season and calendar. Its first
    differences are left out: they made it 19 % (grocery) to 94 % (gifts) worse on the demo's customers, and a peer
    should be a good one.
    """
    import lightgbm as lgb
    from mlforecast import MLForecast
    from mlforecast.lag_transforms import ExpandingMean, RollingMean

    m = at.customer.season_length
    windows: dict[int, list[Any]] = {1: [ExpandingMean()]}
    windows.setdefault(m, []).append(RollingMean(window_size=4 * m))
    fcst = MLForecast(
        models={"y_hat": lgb.LGBMRegressor(random_state=0, verbosity=-1, n_jobs=at.threads)},
        freq=FREQ[at.customer.frequency],
        lags=[m, 2 * m],
        lag_transforms=windows,
        date_features=[{"D": "dayofweek", "W": "week", "M": "month"}[at.customer.frequency]],
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fcst.fit(at.history, static_features=[])
            made = fcst.predict(at.customer.horizon, X_df=at.future if at.columns else None)
    except ValueError:  # history is shorter than the features' reach: no row to learn from
        return _nothing()
    return pd.DataFrame(made)


# --- Prophet --------------------------------------------------------------------------------------------------------


def prophet(at: Given) -> pd.DataFrame:
    """Prophet, a model per series, seasonalities by its own defaults, the plan as regressors; its interval is 80 %."""
    for name in ("prophet", "cmdstanpy"):
        logging.getLogger(name).disabled = True  # a level would be set anew when the first model is made
    ahead = dict(iter(at.future.groupby("unique_id", sort=False)))
    made = [_prophet(one, ahead[unique_id], at) for unique_id, one in at.history.groupby("unique_id", sort=False)]
    return pd.concat(made, ignore_index=True)


def _prophet(df: pd.DataFrame, future: pd.DataFrame, at: Given) -> pd.DataFrame:
    from prophet import Prophet

    np.random.seed(at.customer.seed)  # its intervals are drawn from numpy's own generator
    model = Prophet(interval_width=LEVEL / 100)
    for name in at.columns:
        model.add_regressor(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(df[["ds", "y", *at.columns]], seed=at.customer.seed)
            made = model.predict(future[["ds", *at.columns]])
    except Exception:  # fewer than two rows, or an optimiser that gave up
        return _nothing()
    names = {"yhat": "y_hat", "yhat_lower": "q10", "yhat_upper": "q90"}
    return pd.DataFrame(made[["ds", *names]]).rename(columns=names).assign(unique_id=df["unique_id"].iloc[0])


PEERS: dict[str, Peer] = {
    "plain_auto_ets": auto_ets,
    "plain_auto_theta": auto_theta,
    "plain_lightgbm": lightgbm,
    "prophet": prophet,
}
"""Name → script."""
