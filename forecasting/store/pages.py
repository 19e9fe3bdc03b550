"""What the Forecasts pages show of the warehouse: bound parameters, bounded rows, read-only. It changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import date, datetime, time, timedelta
from typing import Any, Literal, TypeVar
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from forecasting.errors import ConfigurationError, WarehouseUnavailableError
from forecasting.periods import Frequency, cutoff_of
from forecasting.store import provision, tables

__all__ = [
    "Chart",
    "Check",
    "Found",
    "Freshness",
    "Quarantined",
    "RunLine",
    "Standing",
    "chart",
    "contract_results",
    "fleet",
    "freshness",
    "quarantined",
    "reading",
    "recent_runs",
    "search_series",
]

log = logging.getLogger(__name__)

TIMEOUT = 10
"""Seconds that one page may ask the warehouse."""
HISTORY = 1_100
"""Most observed periods of a chart: three years of days."""
RULES = 500
"""Most rules of a contract that are shown."""
RUNS_SEARCHED = 60
"""Newest runs whose refused rows are looked for."""
NIGHT = timedelta(hours=3)
"""How long after ``start_at`` a night may take before its customer counts as behind, where no deadline is declared."""

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One customer of the fleet: what readers see, how its last run ended, who is champion."""

    customer_id: str
    time_zone: str
    frequency: Frequency
    horizon: int
    latency_days: int
    start_at: str | None
    deadline: str | None
    last_date: str | None
    last_run_id: str | None
    last_run_date: date | None
    last_status: str | None
    last_started_at: datetime | None
    last_finished_at: datetime | None
    message: str | None
    plan: str | None
    plan_reason: str | None
    contract_state: str | None
    published_run_id: str | None
    published_run_date: date | None
    published_at: datetime | None
    stale: bool | None
    cutoff: date | None
    champion: str | None
    published_version: str | None
    origins: int | None
    wape_selection: float | None
    wape_seasonal_naive: float | None
    series_in: int | None
    series_ok: int | None
    series_fallback: int | None
    series_cold_start: int | None
    series_retired: int | None
    rows_published: int | None
    rows_chosen: int | None
    rows_cheaper: int | None
    rows_seasonal_naive: int | None
    rows_naive: int | None
    rows_cold_start: int | None
    rows_sum: int | None

    @property
    def rungs(self) -> dict[str, int]:
        """Published rows by rung, best first, sums last; rungs without rows are left out."""
        names = ("chosen", "cheaper", "seasonal_naive", "naive", "cold_start", "sum")
        counts = {name: getattr(self, f"rows_{name}") or 0 for name in names}
        return {name: count for name, count in counts.items() if count}


@dataclass(frozen=True)
class Freshness:
    """How old a publication is, counted in the cutoffs that should have been published since."""

    state: Literal["current", "due", "behind", "stale", "ended", "none"]
    missed: int
    """Complete periods after the published cutoff that a night should have covered by now."""
    age_days: int | None
    """Local days since the published run date."""


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """One run of a customer."""

    run_id: str
    run_date: date
    n: int
    live: bool
    status: str
    message: str | None
    plan: str | None
    plan_reason: str | None
    version: str | None
    cutoff: date | None
    started_at: datetime
    finished_at: datetime | None
    lines_read: int | None
    lines_used: int | None
    lines_excluded: int | None
    lines_quarantined: int | None
    lines_future: int | None
    series_in: int | None
    series_ok: int | None
    rows_published: int | None
    current: bool
    """True: this is the run whose rows readers see."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What one rule of a contract said of one run's feed."""

    run_id: str
    contract: str
    version: str
    rule: str
    type: str | None
    column_name: str | None
    severity: str
    state: str
    rows_failed: int | None
    rows_checked: int | None
    share: float | None
    mostly: float | None
    message: str | None


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """One feed row that a row rule refused."""

    run_id: str
    run_date: date
    of_run: int | None
    """Rows that the run refused, kept or not."""
    line: int
    unique_id: str | None
    ds: date | None
    rule: str
    reason: str
    row_json: str | None


@dataclass(frozen=True, kw_only=True)
class Found:
    """One series or aggregate node that a search found."""

    node: str
    unique_id: str
    depth: int
    status: str | None
    rung: str | None
    found: int
    """How many there are in all."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One series: what was sold, and what readers see of its forecast."""

    node: str
    unique_id: str
    run_id: str | None
    run_date: date | None
    cutoff: date | None
    stale: bool
    actual: tuple[tuple[date, float], ...]
    """Day and quantity, oldest first."""
    forecast: tuple[dict[str, Any], ...]
    """A mapping per step: ds, h, y_hat, model, rung and every quantile that is published."""
    status: str | None
    reason: str | None


# --- connections ----------------------------------------------------------------------------------------------------


@contextmanager
def reading(engine: sa.Engine, role: str, timeout: int | None = None) -> Iterator[sa.Connection]:
    """One read-only transaction in which every statement sees the same state, as ``role``.

    Each may take ``timeout`` seconds; None: those of a page.

    Raises:
        ConfigurationError: There is no such role: the customer is not in this warehouse.
        WarehouseUnavailableError: The warehouse is down, not migrated, or too slow.
    """
    timeout = timeout or TIMEOUT
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {timeout * 1000}")
            _become(connection, role)
            yield connection
    except sa.exc.SQLAlchemyError as error:
        # Never its text: it is the server's, and goes to the log.
        log.warning("pages: the warehouse did not answer: %s", error)
        raise WarehouseUnavailableError(_told(error, timeout)) from error


def _become(connection: sa.Connection, role: str) -> None:
    try:
        connection.exec_driver_sql(f'SET LOCAL ROLE "{role}"')
    except (sa.exc.DataError, sa.exc.ProgrammingError) as error:
        raise ConfigurationError(f"role {role!r} is not in the warehouse: run `forecasting provision`.") from error


def _told(error: sa.exc.SQLAlchemyError, timeout: int) -> str:
    if getattr(getattr(error, "orig", None), "sqlstate", None) == "57014":
        return f"The warehouse took longer than {timeout} s to answer. Try again, or ask for less."
    if isinstance(error, sa.exc.OperationalError | sa.exc.TimeoutError | sa.exc.InterfaceError):
        return "The warehouse cannot be reached. Check that PostgreSQL is running, then try again."
    return "The warehouse is not laid out as this version expects. Run `forecasting provision --apply`."


def _rows(connection: sa.Connection, kind: type[_T], sql: str, **values: object) -> list[_T]:
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    found = connection.execute(sa.text(sql), values).mappings()
    return [kind(**{name: row[name] for name in names}) for row in found]


# --- the fleet ------------------------------------------------------------------------------------------------------


def fleet(engine: sa.Engine, customer_ids: Sequence[str]) -> list[Standing]:
    """Where those customers stand, by name; one that the warehouse does not know is left out."""
    with reading(engine, provision.FLEET) as connection:
        return _rows(connection, Standing, _FLEET, ids=list(customer_ids))


_FLEET = """
SELECT f.customer_id, c.time_zone, c.frequency, c.horizon, c.latency_days,
    l.config->>'start_at' AS start_at, l.config->>'deadline' AS deadline, l.config->>'last_date' AS last_date,
    f.last_run_id, f.last_run_date, f.last_status, l.started_at AS last_started_at, f.last_finished_at, f.message,
    l.plan, l.plan_reason, f.contract_state, f.published_run_id, f.published_run_date, f.published_at, f.stale,
    f.cutoff, f.champion, f.published_version,
    CASE jsonb_typeof(v.scores->'rolling') WHEN 'array' THEN jsonb_array_length(v.scores->'rolling') END AS origins,
    (v.scores->'mean'->>'wape_selection')::float AS wape_selection,
    (v.scores->'mean'->>'wape_seasonal_naive')::float AS wape_seasonal_naive,
    f.series_in, f.series_ok, f.series_fallback, f.series_cold_start, f.series_retired, f.rows_published,
    f.rows_chosen, f.rows_cheaper, f.rows_seasonal_naive, f.rows_naive, f.rows_cold_start, f.rows_sum
FROM forecasting.fleet_health AS f
JOIN forecasting.customer AS c ON c.customer_id = f.customer_id
LEFT JOIN forecasting.run AS l ON l.customer_id = f.customer_id AND l.run_id = f.last_run_id
LEFT JOIN forecasting.model_version AS v ON v.customer_id = f.customer_id AND v.version = f.champion
WHERE f.customer_id = ANY (:ids)
ORDER BY f.customer_id
"""


def freshness(standing: Standing, now: datetime) -> Freshness:
    """How fresh what readers see is at the instant ``now``.

    The newest run date to expect is yesterday's, the customer's last one if that is earlier; in the small hours, until
    the night has had its time, the day before is enough (``due``).
    """
    local = now.astimezone(ZoneInfo(standing.time_zone))
    newest = local.date() - timedelta(days=1)
    last = date.fromisoformat(standing.last_date) if standing.last_date else None
    if standing.cutoff is None or standing.published_run_date is None:
        return Freshness("none", 0, None)
    age = (local.date() - standing.published_run_date).days
    expected = min(newest, last) if last else newest
    missed = _missed(standing, expected)
    if standing.stale:
        return Freshness("stale", missed, age)
    if missed:
        waits = expected == newest and local < _due(standing, local) and not _missed(standing, newest - _DAY)
        return Freshness("due" if waits else "behind", missed, age)
    return Freshness("ended" if last and last < newest else "current", 0, age)


_DAY = timedelta(days=1)


def _due(standing: Standing, local: datetime) -> datetime:
    """When the night that begins today must be through."""
    if standing.deadline:
        return datetime.combine(local.date(), time.fromisoformat(standing.deadline), local.tzinfo)
    start_at = time.fromisoformat(standing.start_at) if standing.start_at else time(3)
    return datetime.combine(local.date(), start_at, local.tzinfo) + NIGHT


def _missed(standing: Standing, run_date: date) -> int:
    """Periods between the published cutoff and the one that a run of ``run_date`` has."""
    assert standing.cutoff is not None
    wanted, have = cutoff_of(run_date, standing.latency_days, standing.frequency), standing.cutoff
    if standing.frequency == "M":
        return max(0, (wanted.year - have.year) * 12 + wanted.month - have.month)
    return max(0, (wanted - have).days // (7 if standing.frequency == "W" else 1))


# --- one customer ---------------------------------------------------------------------------------------------------


def recent_runs(engine: sa.Engine, customer_id: str, limit: int = 30) -> list[RunLine]:
    """The newest runs, newest first."""
    with reading(engine, provision.reader(customer_id)) as connection:
        return _rows(connection, RunLine, _RUNS, customer_id=customer_id, limit=limit)


_POINTER = """
SELECT p.run_id, p.run_date, p.stale FROM forecasting.publication AS p
WHERE p.customer_id = :customer_id ORDER BY p.run_date DESC, p.seq DESC LIMIT 1
"""
_RUNS = f"""
SELECT r.run_id, r.run_date, r.n, r.live, r.status, r.message, r.plan, r.plan_reason, r.version, r.cutoff,
    r.started_at, r.finished_at, r.lines_read, r.lines_used, r.lines_excluded, r.lines_quarantined, r.lines_future,
    r.series_in, r.series_ok, r.rows_published, r.run_id IS NOT DISTINCT FROM p.run_id AS current
FROM forecasting.run AS r LEFT JOIN ({_POINTER}) AS p ON true
WHERE r.customer_id = :customer_id ORDER BY r.run_date DESC, r.n DESC LIMIT :limit
"""


def contract_results(engine: sa.Engine, customer_id: str) -> list[Check]:
    """What every rule said of the newest run whose feed was checked, the worst first."""
    with reading(engine, provision.reader(customer_id)) as connection:
        return _rows(connection, Check, _CHECKS, customer_id=customer_id, limit=RULES)


_CHECKS = """
SELECT x.run_id, x.contract, x.version, x.rule, x.type, x.column_name, x.severity, x.state, x.rows_failed,
    x.rows_checked, x.share, x.mostly, x.message
FROM forecasting.contract_result AS x
WHERE x.customer_id = :customer_id AND x.run_id = (
    SELECT r.run_id FROM forecasting.run AS r
    WHERE r.customer_id = :customer_id AND EXISTS (
        SELECT FROM forecasting.contract_result AS y WHERE y.customer_id = r.customer_id AND y.run_id = r.run_id
    )
    ORDER BY r.run_date DESC, r.n DESC LIMIT 1
)
ORDER BY array_position(array['broken', 'crashed', 'warned', 'passed'], x.state), x.position LIMIT :limit
"""


def quarantined(engine: sa.Engine, customer_id: str, limit: int = 100) -> list[Quarantined]:
    """Refused rows of the newest runs, newest run first, in the order of the feed."""
    sql = _QUARANTINED.format(schema=customer_id)  # provision.reader refuses what is not a plain id
    with reading(engine, provision.reader(customer_id)) as connection:
        return _rows(connection, Quarantined, sql, customer_id=customer_id, limit=limit, runs=RUNS_SEARCHED)


_QUARANTINED = """
SELECT r.run_id, r.run_date, r.lines_quarantined AS of_run, q.line, q.unique_id, q.ds, q.rule, q.reason, q.row_json
FROM (
    SELECT run_id, run_date, n, lines_quarantined FROM forecasting.run
    WHERE customer_id = :customer_id ORDER BY run_date DESC, n DESC LIMIT :runs
) AS r
CROSS JOIN LATERAL (
    SELECT * FROM "{schema}".quarantine AS x
    WHERE x.customer_id = :customer_id AND x.run_id = r.run_id ORDER BY x.position LIMIT :limit
) AS q
ORDER BY r.run_date DESC, r.n DESC, q.position LIMIT :limit
"""


# --- one series -----------------------------------------------------------------------------------------------------


def search_series(engine: sa.Engine, customer_id: str, text: str, limit: int = 20) -> list[Found]:
    """Series and aggregate nodes that hold every word of ``text`` in node, keys or attributes; widest nodes first."""
    words = text.lower().split()[:10]
    with reading(engine, provision.reader(customer_id)) as connection:
        return _rows(
            connection, Found, _SEARCH, customer_id=customer_id, words=words, text=" ".join(words), limit=limit
        )


_SEARCH = f"""
SELECT s.node, s.unique_id, s.depth, t.status, t.rung, count(*) OVER () AS found
FROM (
    SELECT *, lower(concat_ws('/', key_1, key_2, key_3, key_4, key_5)) AS plain
    FROM forecasting.series WHERE customer_id = :customer_id
) AS s
LEFT JOIN ({_POINTER}) AS p ON true
LEFT JOIN forecasting.series_status AS t
    ON s.node = 'bottom' AND t.customer_id = s.customer_id AND t.run_id = p.run_id AND t.unique_id = s.unique_id
WHERE NOT EXISTS (
    SELECT FROM unnest(CAST(:words AS text[])) AS w
    WHERE position(w IN concat_ws(' ', lower(s.node), lower(s.unique_id), s.plain, (
        SELECT lower(string_agg(a.value, ' ')) FROM jsonb_each_text(s.attributes) AS a
    ))) = 0
)
ORDER BY lower(s.unique_id) = :text OR s.plain = :text DESC, s.node = 'bottom', s.depth, s.node, s.unique_id
LIMIT :limit
"""


def chart(engine: sa.Engine, customer_id: str, node: str, unique_id: str) -> Chart | None:
    """History and published forecast of one series or node; None when the warehouse has never seen it."""
    with reading(engine, provision.reader(customer_id)) as connection:
        key = {"customer_id": customer_id, "node": node, "unique_id": unique_id}
        known = connection.execute(sa.text(_KNOWN), key).mappings().first()
        if known is None:
            return None
        actual = connection.execute(sa.text(_ACTUAL.format(schema=customer_id)), key | {"limit": HISTORY}).all()
        of_run = key | {"run_id": known["run_id"]}
        steps = connection.execute(sa.text(_STEPS.format(schema=customer_id)), of_run).mappings().all()
        return Chart(
            node=node,
            unique_id=unique_id,
            **known,
            actual=tuple((ds, y) for ds, y in reversed(actual)),
            forecast=tuple({name: value for name, value in step.items() if value is not None} for step in steps),
        )


_KNOWN = f"""
SELECT p.run_id, p.run_date, r.cutoff, coalesce(p.stale, false) AS stale, t.status, t.reason
FROM forecasting.series AS s
LEFT JOIN ({_POINTER}) AS p ON true
LEFT JOIN forecasting.run AS r ON r.customer_id = s.customer_id AND r.run_id = p.run_id
LEFT JOIN forecasting.series_status AS t
    ON s.node = 'bottom' AND t.customer_id = s.customer_id AND t.run_id = p.run_id AND t.unique_id = s.unique_id
WHERE s.customer_id = :customer_id AND s.node = :node AND s.unique_id = :unique_id
"""
_ACTUAL = """
SELECT ds, y FROM "{schema}".actual
WHERE customer_id = :customer_id AND node = :node AND unique_id = :unique_id ORDER BY ds DESC LIMIT :limit
"""
_STEPS = f"""
SELECT ds, h, y_hat, model, rung, {", ".join(tables.QUANTILES)} FROM "{{schema}}".forecast
WHERE customer_id = :customer_id AND run_id = :run_id AND node = :node AND unique_id = :unique_id ORDER BY h
"""
