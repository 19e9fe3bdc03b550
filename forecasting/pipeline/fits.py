"""fit_statistical and fit_ml: the two families side by side; whole pool on a retrain, the champion's on a refresh.

On a retrain under another recipe than the champion's, the champion's recipe is fitted beside the new one at the same
origins: recipes are compared, and the champion can still publish if it is kept. ``reproduce`` makes the same fits:
:func:`fit_shard` and :func:`fit_global` write nowhere but to the night's work folder.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, Protocol, TypeVar

import pandas as pd

from forecasting.config import Customer
from forecasting.pipeline import shadow
from forecasting.pipeline.night import Deployment, Incumbent, Night, Reference, fetch, open_night, stage
from forecasting.store import work

__all__ = ["fit_global", "fit_ml", "fit_shard", "fit_statistical"]

log = logging.getLogger(__name__)


class _Fitted(Protocol):
    @property
    def scores(self) -> pd.DataFrame: ...
    @property
    def forecasts(self) -> pd.DataFrame: ...
    @property
    def status(self) -> pd.DataFrame: ...


F = TypeVar("F", bound=_Fitted)


def fit_statistical(deployment: Deployment, frozen: Mapping[str, Any]) -> Reference:
    """Fit one shard's series: the whole pool with backtest on a retrain, the champion's choices on a refresh."""
    night = open_night(deployment, frozen)
    with stage(night, "fit_statistical", frozen["shard"]["index"]):
        return {**fit_shard(night, frozen), **shadow.beside(night, frozen, fit_shard)}


def fit_shard(night: Night, frozen: Mapping[str, Any]) -> Reference:
    """What ``fit_statistical`` leaves behind, with no word of it in the warehouse."""
    from forecasting.learn.models import statistical

    shard = frozen["shard"]
    panel, threads = fetch(frozen["panel"]), night.settings.threads
    unique_ids = sorted(panel["unique_id"].unique())[shard["index"] :: shard["of"]]
    log.info("fit_statistical: %s shard %d fits %d series", night.run.run_id, shard["index"], len(unique_ids))
    name = f"statistical-{shard['index']}"
    if frozen["plan"] == "refresh":
        chosen = _chosen(night.incumbent, unique_ids)
        fitted = statistical.fit(panel, night.customer, night.cutoff, unique_ids, chosen, [], threads)
        return _keep(night, name, fitted)

    def whole(customer: Customer) -> tuple[_Fitted, float]:
        origins = _origins(panel, night.cutoff, customer)
        return _timed(lambda: statistical.fit(panel, customer, night.cutoff, unique_ids, None, origins, threads))

    kept = _keep(night, name, *whole(night.customer))
    rival = _rival(night)
    return {**kept, "rival": _keep(night, f"rival-{name}", *whole(rival.customer))} if rival else kept


def fit_ml(deployment: Deployment, frozen: Mapping[str, Any]) -> Reference:
    """Train the global model with its backtest on a retrain; predict with the champion's stored booster on a refresh.

    On a retrain the champion's refresh forecast is made beside it, for the night on which it is kept; and a champion of
    another recipe has its own global model fitted, also where the new recipe has none.
    """
    night = open_night(deployment, frozen)
    with stage(night, "fit_ml"):
        return {**fit_global(night, frozen), **shadow.beside(night, frozen, fit_global)}


def fit_global(night: Night, frozen: Mapping[str, Any]) -> Reference:
    """What ``fit_ml`` leaves behind, with no word of it in the warehouse."""
    from forecasting.learn.models import ml

    panel, threads = fetch(frozen["panel"]), night.settings.threads
    done: Reference = {"champion": _refreshed(night, panel)}
    log.info("fit_ml: %s predicted with the champion's booster: %s", night.run.run_id, bool(done["champion"]))
    if frozen["plan"] == "refresh":
        return done

    def whole(customer: Customer) -> tuple[ml.FittedML, float]:
        origins = _origins(panel, night.cutoff, customer)
        return _timed(lambda: ml.fit(panel, customer, night.cutoff, origins, threads))

    if ml.NAME in night.customer.pool:
        fitted, seconds = whole(night.customer)
        log.info("fit_ml: %s trained on %d series", night.run.run_id, fitted.forecasts["unique_id"].nunique())
        done |= _keep(night, "ml", fitted, seconds)
        if fitted.booster is not None:
            booster = work.put_bytes(night.settings.work_url, night.run.run_id, "booster", fitted.booster)
            done |= {"booster": booster.as_dict(), "spec": fitted.spec}
    rival = _rival(night)
    if rival and ml.NAME in rival.customer.pool:
        done["rival"] = _keep(night, "rival-ml", *whole(rival.customer))
    return done


def _refreshed(night: Night, panel: pd.DataFrame) -> Reference | None:
    """Tonight's forecast of the champion's own booster; None if it has none that can serve tonight's interface.

    A booster of older features stops no night: its series go down the ladder until a retrain replaces it.
    """
    from forecasting.learn.models import ml

    champion = night.incumbent
    if champion is None or champion.bundle.booster is None or not champion.serves(night.customer):
        return None
    booster, spec = champion.bundle.booster, champion.bundle.spec
    try:
        predicted = ml.predict(panel, champion.customer, night.cutoff, booster, spec, night.settings.threads)
    except ml.OtherFeaturesError as error:
        log.warning(
            "fit_ml: %s: the booster of %s was trained on features that this code does not make any more; "
            "its series get the next rung until a retrained version is in charge: %s",
            night.run.run_id,
            champion.version,
            error,
        )
        return None
    return night.keep("ml-champion", predicted)


def _rival(night: Night) -> Incumbent | None:
    """The champion, where its recipe is another one that can be fitted on tonight's panel by this code."""
    champion = night.incumbent
    if champion is None or champion.shares_recipe(night.customer) or not champion.serves(night.customer):
        return None
    return champion if champion.readable else None


def _origins(panel: pd.DataFrame, cutoff: date, customer: Customer) -> list[date]:
    from forecasting.learn import backtest

    return backtest.origins(cutoff, customer, panel["ds"].min().date())


def _chosen(champion: Incumbent | None, unique_ids: list[str]) -> dict[str, tuple[str, ...]]:
    """Series → the models its champion publishes; one born since the training gets ``pool_best``'s."""
    from forecasting.learn import selection

    if champion is None:
        return {}
    choices = selection.pool_best(champion.bundle.choices, unique_ids)
    return {str(uid): tuple(sorted(group)) for uid, group in choices.groupby("unique_id")["model"]}


def _timed(fit: Callable[[], F]) -> tuple[F, float]:
    """A fit and its CPU seconds: the stage's own hold the rival's too, and the gate compares the two."""
    began = time.process_time()
    fitted = fit()
    return fitted, time.process_time() - began


def _keep(night: Night, name: str, fitted: _Fitted, cpu_seconds: float | None = None) -> Reference:
    parts = {"scores": fitted.scores, "forecasts": fitted.forecasts, "status": fitted.status}
    kept: Reference = {part: night.keep(f"{name}-{part}", frame) for part, frame in parts.items()}
    return {**kept, "cpu_seconds": cpu_seconds}
