"""monitor: earlier publications against the actuals that have arrived."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import date
from typing import Any

import pandas as pd

from forecasting import periods
from forecasting.pipeline.night import Deployment, Reference, fetch, open_night, stage
from forecasting.store import warehouse, work

__all__ = ["monitor"]

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
        recent = actuals[actuals["ds"] >= pd.Timestamp(since)]
        with warehouse.acting_for(engine, customer.id) as connection:
            warehouse.record_actuals(connection, customer.id, run.run_id, recent)
            for publication in earlier:
                forecast = warehouse.read_forecast(engine, customer.id, publication.run_id)
                scored = monitoring.score(forecast, actuals, customer).assign(run_id=publication.run_id)
                warehouse.record_scores(connection, customer.id, run.run_id, scored)
        swept = work.sweep(night.settings.work_url, customer.id, WORK_DAYS, date.today())  # noqa: DTZ011 - files' age
        trimmed = warehouse.trim(engine, customer)
        log.info("monitor: %s swept %d old runs' frames, trimmed %d rows", run.run_id, swept, trimmed)
        log.info("monitor: %s scored %d publications on %d actuals", run.run_id, len(earlier), len(recent))
        night.note(message=None)  # of an earlier attempt that failed
        return {"run_id": run.run_id, "scored": len(earlier), "actuals": len(recent)}
