"""History through Airflow: local dates become instants, the runs are created, watched and answered for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

from forecasting.cli.airflows import Airflow
from forecasting.config import Customer
from forecasting.errors import ConfigurationError, ForecastingError
from forecasting.periods import midnight

__all__ = ["BackfillFailedError", "instants", "run", "scheduled"]

PREFIX = "forecast__"
POLL_SECONDS = 2.0
PAGE = 100
LEAD = timedelta(hours=1)
"""A backfill is asked for from so long before its first midnight: where a clock change skips the midnight after it,
Airflow aligns an exact start past the first day. No other midnight is that near."""
CREATE_TIMEOUT = 180
"""Seconds that ``airflow backfill create`` may take; it only inserts rows."""
APPEAR_TIMEOUT = 120
"""Seconds for the DAG to be serialised after the scheduler came up."""
INSERTING = timedelta(seconds=20)
"""How long a new backfill may still be inserting its runs."""


class BackfillFailedError(ForecastingError):
    """At least one run of the backfill failed; the message names each with its task and reason."""


@dataclass(frozen=True)
class _Run:
    run_id: str
    run_date: date
    state: str


def instants(customer: Customer, first: date, last: date) -> tuple[datetime, datetime]:
    """The instants between which Airflow finds exactly the runs of ``first`` … ``last``, both included.

    A run's logical date is the instant its local day begins. Airflow reads a bare date as UTC midnight, which loses the
    first day east of UTC and the last one west of it.

    Raises:
        ConfigurationError: The dates are in the wrong order, or outside the customer's first_date and last_date.
    """
    if last < first:
        raise ConfigurationError(f"FROM {first} lies after TO {last}")
    if first < customer.first_date:
        raise ConfigurationError(
            f"FROM {first} lies before first_date {customer.first_date} of {customer.id}: Airflow would create runs "
            "that never start; begin later, or change first_date"
        )
    if customer.last_date and last > customer.last_date:
        raise ConfigurationError(f"TO {last} lies after last_date {customer.last_date} of {customer.id}")
    return midnight(first, customer.time_zone), midnight(last, customer.time_zone)


def run(
    airflow: Airflow,
    customer: Customer,
    first: date,
    last: date,
    *,
    reprocess: bool = False,
    timeout: float,
    say: Callable[[str], None],
    reason: Callable[[date], str] | None = None,
) -> None:
    """Create the runs that are missing or failed (all, with ``reprocess``), in order, and wait for them.

    Args:
        airflow: Where they run.
        customer: Whose days.
        first: First run date, local.
        last: Last run date, included.
        reprocess: Run finished days again, in place.
        timeout: Seconds to wait for the runs, and before them for an earlier backfill.
        say: Told every change of a run or task once.
        reason: Why the newest run of a date failed, in words; asked only for dates that failed.

    Raises:
        ConfigurationError: The dates do not fit the customer, or its DAG is broken.
        BackfillFailedError: A run failed, or they did not end within ``timeout`` seconds.
    """
    start, end = instants(customer, first, last)
    dag = f"{PREFIX}{customer.id}"
    _appear(airflow, dag)
    _wait_for_others(airflow, dag, timeout, say)
    airflow.api.patch(f"/dags/{dag}", {"is_paused": False})
    _create(airflow, dag, start, end, reprocess)
    say(f"backfill: {dag} {first} … {last} created")
    done = _watch(airflow, dag, customer, (start, end), timeout, say)
    asked = {first + timedelta(days=n) for n in range((last - first).days + 1)}
    if missing := sorted(asked - {found.run_date for found in done}):
        days = ", ".join(map(str, missing))
        raise BackfillFailedError(f"{dag}: Airflow created no run for {days}; a day can be run once it has ended")
    failed = [found for found in done if found.state != "success"]
    if failed:
        raise BackfillFailedError("\n".join(_why(airflow, dag, found, reason) for found in failed))


def scheduled(
    airflow: Airflow,
    customer: Customer,
    *,
    timeout: float,
    say: Callable[[str], None],
    reason: Callable[[date], str] | None = None,
) -> list[date]:
    """Let the scheduler run the customer's newest night, as it does every night, and wait for it.

    Where midnight passes in the customer's zone meanwhile, the scheduler goes on to the next night, and so does this.

    Args:
        airflow: Where it runs.
        customer: Whose night; its DAG is unpaused and stays so.
        timeout: Seconds to wait, the wait for ``start_at`` included.
        say: Told every change of a run or task once.
        reason: As in :func:`run`.

    Returns:
        The run dates that ended, oldest first.

    Raises:
        BackfillFailedError: A run failed, or none has ended within ``timeout`` seconds.
    """
    dag, zone = f"{PREFIX}{customer.id}", ZoneInfo(customer.time_zone)
    limit = time.monotonic() + timeout
    _appear(airflow, dag)
    airflow.api.patch(f"/dags/{dag}", {"is_paused": False})
    first = _yesterday(zone)
    say(f"scheduler: {dag} is unpaused; its night of {first} begins at {customer.start_at:%H:%M} {customer.time_zone}")
    told: dict[tuple[str, str], str] = {}
    while True:
        newest = _yesterday(zone)
        between = midnight(first, customer.time_zone), midnight(newest, customer.time_zone)
        done = _watch(airflow, dag, customer, between, max(limit - time.monotonic(), 1), say, told)
        if failed := [found for found in done if found.state != "success"]:
            raise BackfillFailedError("\n".join(_why(airflow, dag, found, reason) for found in failed))
        if newest in {found.run_date for found in done} and newest == _yesterday(zone):
            return [found.run_date for found in done]
        if time.monotonic() > limit:
            raise BackfillFailedError(f"{dag}: the scheduler made no run of {newest} within {timeout:.0f} s")
        time.sleep(POLL_SECONDS)


def _yesterday(zone: ZoneInfo) -> date:
    return datetime.now(zone).date() - timedelta(days=1)


def _appear(airflow: Airflow, dag: str) -> None:
    limit = time.monotonic() + APPEAR_TIMEOUT
    while True:
        found = {row["dag_id"] for row in airflow.api.get(f"/dags?dag_id_pattern={dag}")["dags"]}
        if dag in found:
            return
        if time.monotonic() > limit:
            raise ForecastingError(
                f"{dag} has not appeared in Airflow after {APPEAR_TIMEOUT} s; see the dag-processor's log"
            )
        time.sleep(POLL_SECONDS)


def _wait_for_others(airflow: Airflow, dag: str, timeout: float, say: Callable[[str], None]) -> None:
    """Airflow allows one active backfill per DAG: wait for one that runs, close one whose runs have all ended.

    Airflow itself closes a finished one only every half minute, and never once its scheduler is stopped.
    """
    limit, told = time.monotonic() + timeout, False
    while active := _active(airflow, dag):
        for row in active:
            if _ended(airflow, dag, row):
                airflow.api.put(f"/backfills/{row['id']}/cancel")
        if not (active := _active(airflow, dag)):
            return
        if time.monotonic() > limit:
            raise BackfillFailedError(
                f"{dag}: an earlier backfill, {active[0]['from_date']} to {active[0]['to_date']}, is still active "
                f"after {timeout:.0f} s; wait for it, or cancel it in Airflow"
            )
        if not told:
            say(f"backfill: waiting for an earlier backfill of {dag}")
            told = True
        time.sleep(POLL_SECONDS)


def _active(airflow: Airflow, dag: str) -> list[dict[str, Any]]:
    found = airflow.api.get(f"/backfills?dag_id={dag}&limit=100&order_by=-id")["backfills"]
    return [row for row in found if row["completed_at"] is None]


def _ended(airflow: Airflow, dag: str, row: Mapping[str, Any]) -> bool:
    """Whether every run in the backfill's interval has ended, so that cancelling it only closes it."""
    if datetime.now(UTC) - datetime.fromisoformat(row["created_at"]) < INSERTING:
        return False
    between = {"logical_date_gte": row["from_date"], "logical_date_lte": row["to_date"], "limit": 1}
    query = urlencode({**between, "state": ["queued", "running"]}, doseq=True)
    return not airflow.api.get(f"/dags/{dag}/dagRuns?{query}")["dag_runs"]


def _create(airflow: Airflow, dag: str, start: datetime, end: datetime, reprocess: bool) -> None:
    airflow.run(
        *("backfill", "create", "--dag-id", dag, "--max-active-runs", "1"),
        *("--from-date", (start - LEAD).isoformat(), "--to-date", end.isoformat()),
        *("--reprocess-behavior", "completed" if reprocess else "failed"),
        timeout=CREATE_TIMEOUT,
    )


def _runs(airflow: Airflow, dag: str, customer: Customer, start: datetime, end: datetime) -> list[_Run]:
    query = {"logical_date_gte": start.isoformat(), "logical_date_lte": end.isoformat(), "order_by": "logical_date"}
    rows: list[Mapping[str, Any]] = []
    while True:  # Airflow answers with at most 100 rows, whatever is asked for
        page = airflow.api.get(f"/dags/{dag}/dagRuns?{urlencode({**query, 'limit': PAGE, 'offset': len(rows)})}")
        rows += page["dag_runs"]
        if not page["dag_runs"] or len(rows) >= page["total_entries"]:
            break
    zone = ZoneInfo(customer.time_zone)
    return [
        _Run(row["dag_run_id"], datetime.fromisoformat(row["logical_date"]).astimezone(zone).date(), row["state"])
        for row in rows
    ]


def _watch(
    airflow: Airflow,
    dag: str,
    customer: Customer,
    between: tuple[datetime, datetime],
    timeout: float,
    say: Callable[[str], None],
    told: dict[tuple[str, str], str] | None = None,
) -> list[_Run]:
    """Poll until every run has ended, saying each change once; ``told`` remembers what was said."""
    limit, told = time.monotonic() + timeout, {} if told is None else told
    while True:
        found = _runs(airflow, dag, customer, *between)
        for one in found:
            if one.state == "running":
                _tell_tasks(airflow, dag, one, told, say)
            if told.get((one.run_id, "")) != one.state:
                told[one.run_id, ""] = one.state
                say(f"{one.run_date}  {one.state}")
        if all(one.state in ("success", "failed") for one in found):
            return found
        if time.monotonic() > limit:
            states = ", ".join(f"{one.run_date} {one.state}" for one in found)
            raise BackfillFailedError(f"{dag}: not finished after {timeout:.0f} s: {states}")
        time.sleep(POLL_SECONDS)


def _tell_tasks(
    airflow: Airflow, dag: str, one: _Run, told: dict[tuple[str, str], str], say: Callable[[str], None]
) -> None:
    for task in airflow.api.get(f"/dags/{dag}/dagRuns/{quote(one.run_id)}/taskInstances?limit=100")["task_instances"]:
        name, state = _name(task), task["state"] or "waiting"
        if told.get((one.run_id, name)) != state and state not in ("waiting", "scheduled", "queued"):
            seconds = f" {task['duration']:.1f} s" if state == "success" and task["duration"] else ""
            say(f"{one.run_date}    {name:<18} {state}{seconds}")
        told[one.run_id, name] = state


def _name(task: Mapping[str, Any]) -> str:
    return task["task_id"] if task["map_index"] < 0 else f"{task['task_id']} {task['map_index'] + 1}"


def _why(airflow: Airflow, dag: str, failed: _Run, reason: Callable[[date], str] | None) -> str:
    tasks = airflow.api.get(f"/dags/{dag}/dagRuns/{quote(failed.run_id)}/taskInstances?limit=100")["task_instances"]
    broken = [_name(task) for task in tasks if task["state"] == "failed"]
    customer_id = dag.removeprefix(PREFIX)
    where = (
        f"`forecasting sql \"select run_id, message from forecasting.run where customer_id = '{customer_id}' and "
        f"run_date = '{failed.run_date}' order by n\"` may tell why; the task's log in Airflow does"
    )
    told = reason(failed.run_date) if reason else ""
    return f"{customer_id} {failed.run_date}: failed in {', '.join(broken) or 'no task'}: {told or where}"
