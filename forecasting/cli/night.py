"""One customer's day without Airflow: the pipeline's stages in order, the fits side by side in processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from forecasting import config, pipeline
from forecasting.cli import connections

if TYPE_CHECKING:
    from forecasting.pipeline import Deployment, Request

__all__ = ["run", "tell_stages"]

FIT_TIMEOUT = 4 * 3600
"""Seconds a fit may take, as in the DAG."""


def tell_stages(verbose: bool) -> None:
    """Log to the terminal: warnings, and each stage's lines when ``verbose``."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("forecasting").setLevel(logging.INFO if verbose else logging.WARNING)


def run(
    deployment: Deployment, customer_id: str, run_date: date, request: Request, *, say: Callable[[str], None]
) -> str:
    """Run every stage of one day and return a sentence on how it ended.

    Raises:
        ForecastingError: A stage ended the night; the run's row says the same.
    """
    began = time.monotonic()

    def told(line: str) -> None:
        say(f"{time.monotonic() - began:6.1f} s  {line}")

    told(f"pull: {customer_id} for {run_date}")
    pulled = pipeline.pull(deployment, customer_id, run_date, request, connection_uri=_uri(deployment, customer_id))
    told(f"freeze: {pulled['run_id']}")
    frozen = pipeline.freeze(deployment, pulled)
    if not frozen:
        return f"{pulled['run_id']}: nothing new; the publication stays"
    told(f"{frozen[0]['plan']}: fit_statistical in {len(frozen)} shard(s) beside fit_ml")
    statistical, ml = _fit(frozen, told)
    told("publish")
    done = pipeline.publish(deployment, frozen[0], statistical, ml)
    told("monitor")
    pipeline.monitor(deployment, done)
    return str(done["message"])


def _uri(deployment: Deployment, customer_id: str) -> str | None:
    """Credentials of the customer's source outside Airflow, if it declares a connection."""
    customer = pipeline.load_customer(deployment.settings, customer_id)
    return connections.needed(deployment.settings, customer_id) if customer.source.connection else None


def _fit(
    frozen: list[dict[str, Any]], told: Callable[[str], None]
) -> tuple[list[Mapping[str, Any]], Mapping[str, Any] | None]:
    """Run the fits in fresh processes (a process that has run LightGBM cannot be forked); a failed one is told."""
    workers = config.settings().shards
    verbose = logging.getLogger("forecasting").isEnabledFor(logging.INFO)
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=tell_stages, initargs=(verbose,)) as pool:
        ml = pool.submit(_stage, "fit_ml", frozen[0])
        shards = [pool.submit(_stage, "fit_statistical", one) for one in frozen]
        done = [_outcome(future, told) for future in (ml, *shards)]
    return [one for one in done[1:] if one is not None], done[0]


def _stage(name: str, reference: dict[str, Any]) -> Mapping[str, Any]:
    deployment = pipeline.connect(config.settings())
    stage: Callable[[Deployment, Mapping[str, Any]], Mapping[str, Any]] = getattr(pipeline, name)
    return stage(deployment, reference)


def _outcome(future: Future[Mapping[str, Any]], told: Callable[[str], None]) -> Mapping[str, Any] | None:
    try:
        return future.result(FIT_TIMEOUT)
    except Exception as error:
        told(f"a fit failed, its series go down the ladder: {type(error).__name__}: {error}")
        return None
