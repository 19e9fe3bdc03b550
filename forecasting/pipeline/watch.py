"""monitor: earlier publications against the actuals that have arrived; late: a night that missed its deadline."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

import pandas as pd

from forecasting import periods
from forecasting.pipeline.night import Deployment, Reference, fetch, load_customer, open_night, stage
from forecasting.store import origins, provision, warehouse, work

__all__ = ["late", "monitor"]

log = logging.getLogger(__name__)

WORK_DAYS = 14
"""Days for which the frames between stages are kept: long enough to clear and repeat a task."""


def monitor(deployment: Deployment, done: Mapping[str, Any]) -> Reference:
    """Score earlier publications against the actuals that have arrived, by horizon.

    Returns:
        How many actuals were recorded and publications scored.
    """
    from forecasting.learn import monitoring

    night = open_night(deployment, done)
    with stage(night, "monitor"):
        customer, run, engine = night.customer, night.run, night.engine
        actuals = monitoring.actuals(fetch(done["panel"]), customer, night.cutoff)
        oldest = periods.shift(night.cutoff, -customer.horizon, customer.frequency)
        earlier = warehouse.open_publications(engine, customer.id, run.run_date, (run.run_date - oldest).days)
        # Days within the lookback may have been restated since they were recorded.
        since = periods.shift(night.cutoff, -customer.horizon - customer.lookback_days, customer.frequency)
        if not warehouse.has_actuals(engine, customer.id):  # the first night: readers want to see what came before
            since = min(since, night.cutoff - timedelta(days=customer.detail_days))
        recent = actuals[actuals["ds"] >= pd.Timestamp(since)]
        shadows = origins.open_shadows(engine, customer.id, run.run_date, (run.run_date - oldest).days)
        with warehouse.acting_for(engine, customer.id) as connection:
            warehouse.record_actuals(connection, customer.id, run.run_id, recent)
            for run_id in (*(publication.run_id for publication in earlier), *shadows):
                forecast = warehouse.read_forecast(engine, customer.id, run_id)
                scored = monitoring.score(forecast, actuals, customer).assign(run_id=run_id)
                warehouse.record_scores(connection, customer.id, run.run_id, scored)
        swept = work.sweep(night.settings.work_url, customer.id, WORK_DAYS, date.today())  # noqa: DTZ011 - files' age
        trimmed = warehouse.trim(engine, customer)
        log.info("monitor: %s swept %d old runs' frames, trimmed %d rows", run.run_id, swept, trimmed)
        log.info("monitor: %s scored %d publications on %d actuals", run.run_id, len(earlier), len(recent))
        if (run.message or "").startswith("monitor: "):
            night.note(message=None)  # of an earlier attempt that failed
        return {"run_id": run.run_id, "scored": len(earlier), "actuals": len(recent)}


def late(deployment: Deployment, customer_id: str, run_date: date, deadline: str, state: str) -> str:
    """Record that the scheduled night of ``run_date`` had not ended by its deadline.

    Args:
        deployment: Where to record it.
        customer_id: The customer.
        run_date: Local date the night stands for.
        deadline: Local time, as declared.
        state: Of the night in Airflow: queued, running or failed.

    Returns:
        What was recorded, for the on-call.
    """
    # the night may be late because it has not begun, and be the customer's first
    provision.ensure(deployment.engine, load_customer(deployment.settings, customer_id))
    standing = warehouse.newest_published(deployment.engine, customer_id)
    current = f"the set of {standing.run_date} stays current" if standing else "nothing has been published yet"
    told = f"the night of {run_date} was {state} at its deadline, {deadline} local time; {current}"
    with deployment.engine.begin() as connection:
        warehouse.audit(connection, "airflow", customer_id, "deadline_missed", told, None, {"run_date": str(run_date)})
    log.error("%s: %s", customer_id, told)
    return told
