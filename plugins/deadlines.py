"""What happens when a scheduled night has not published by its customer's ``deadline``: the triggerer calls this."""

from __future__ import annotations

import asyncio
import os
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

__all__ = ["missed"]


async def missed(customer_id: str, time_zone: str, deadline: str, context: Any = None) -> str:
    """Record a missed deadline, once for the night that missed it; returns what was recorded, in words.

    Args:
        customer_id: Whose night.
        time_zone: The customer's.
        deadline: Local time, as declared.
        context: What Airflow says of the run: ``dag_run``.
    """
    run = context["dag_run"]
    if run["run_type"] != "scheduled":
        return "a backfill or a run by hand has no deadline"
    began = datetime.fromisoformat(str(run["data_interval_start"]).replace("Z", "+00:00"))
    run_date = began.astimezone(ZoneInfo(time_zone)).date()
    return await asyncio.to_thread(_record, customer_id, run_date, deadline, run["state"])


def _record(customer_id: str, run_date: date, deadline: str, state: str) -> str:
    from forecasting import pipeline
    from forecasting.config import settings

    os.umask(0o077)
    deployment = pipeline.connect(settings())
    try:
        return pipeline.late(deployment, customer_id, run_date, deadline, state)
    finally:
        deployment.engine.dispose()
