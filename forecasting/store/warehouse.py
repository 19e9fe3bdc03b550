"""The warehouse: what runs write and read, one transaction a state. It decides nothing about forecasts."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, distinct_on, insert

from forecasting.config import BOTTOM, Customer
from forecasting.errors import ChecksumMismatchError, ConfigurationError, ForecastingError, VersionTakenError
from forecasting.store import provision, tables

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import psycopg
    import pyarrow as pa

__all__ = [
    "Agreed",
    "Champion",
    "Code",
    "Decision",
    "Ledger",
    "ModelVersion",
    "Outcome",
    "Publication",
    "Run",
    "Signal",
    "acting_for",
    "agreed_hash",
    "allot",
    "arm",
    "armed",
    "audit",
    "champion",
    "champion_of",
    "checksum",
    "connect",
    "consume",
    "crown",
    "fail",
    "feed_days",
    "fit_seconds",
    "has_actuals",
    "keep",
    "known_series",
    "lock_customer",
    "lock_snapshots",
    "migrate",
    "newest_publication",
    "newest_published",
    "next_fence",
    "note",
    "open_publications",
    "point",
    "previous_snapshot",
    "publish",
    "published",
    "query",
    "read_forecast",
    "read_lines",
    "read_run",
    "record_actuals",
    "record_contract",
    "record_decision",
    "record_feed_days",
    "record_lines",
    "record_quarantine",
    "record_scores",
    "record_stage",
    "record_status",
    "records",
    "register_version",
    "revisions",
    "run_of",
    "standing",
    "trim",
    "upsert_series",
    "versions",
    "versions_of",
    "write_forecast",
]

log = logging.getLogger(__name__)

QUARANTINE_ROWS = 10_000
"""Most rows of detail that one run may leave in quarantine; all of them are counted in ``run.lines_quarantined``."""
ROW_TEXT = 2_000
"""Most characters that are kept of a refused row, its key, and the reason."""
MESSAGE_TEXT = 20_000
"""Most characters that are kept of what ended a run."""
STAGED_FROM = 5_000
"""More actuals than this go through COPY and a temporary table."""

_MIGRATIONS = Path(__file__).parent / "migrations"
_T = TypeVar("_T")


class Outcome(StrEnum):
    """How an attempt to publish ended."""

    PUBLISHED = "published"
    VERIFIED = "verified"
    LATE = "late"


@dataclass(frozen=True)
class Code:
    """What computed: recorded with the run, since a checksum is promised for the same lock and CPU family."""

    version: str
    lock_hash: str
    cpu_family: str
    commit: str | None = None
    """Git commit of the checkout; ``version`` tells whether it is really what ran."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One row of ``run``; its columns' comments say what each field means."""

    customer_id: str
    run_id: str
    run_date: date
    n: int
    fence: int
    live: bool
    as_frozen: bool
    status: str
    config: dict[str, Any]
    config_hash: str
    code_version: str
    lock_hash: str
    cpu_family: str
    started_at: datetime
    finished_at: datetime | None = None
    message: str | None = None
    cutoff: date | None = None
    watermark: date | None = None
    key: str | None = None
    checksum: str | None = None
    contract: str | None = None
    contract_version: str | None = None
    contract_hash: str | None = None
    snapshot: str | None = None
    snapshot_hash: str | None = None
    plan: str | None = None
    plan_reason: str | None = None
    incoming_champion: str | None = None
    version: str | None = None
    beside: str | None = None
    asked_by: str | None = None
    code_commit: str | None = None
    lines_read: int | None = None
    lines_used: int | None = None
    lines_excluded: int | None = None
    lines_quarantined: int | None = None
    lines_future: int | None = None
    lines_late: int | None = None
    days_restated: int | None = None
    lines_lost: int | None = None
    series_in: int | None = None
    series_ok: int | None = None
    series_fallback: int | None = None
    series_cold_start: int | None = None
    series_retired: int | None = None
    rows_published: int | None = None
    rows_chosen: int | None = None
    rows_cheaper: int | None = None
    rows_seasonal_naive: int | None = None
    rows_naive: int | None = None
    rows_cold_start: int | None = None
    rows_sum: int | None = None


@dataclass(frozen=True)
class Ledger:
    """What earlier runs have seen of a feed, as of a run date."""

    run: Run | None
    """The last of them; None before the first."""
    days: pd.DataFrame
    """day, lines, digest as last seen; kept_lines, kept_digest as the snapshot holds them."""


@dataclass(frozen=True, kw_only=True)
class Publication:
    """One line of ``publication``."""

    seq: int
    customer_id: str
    run_date: date
    run_id: str
    fence: int
    key: str
    checksum: str
    stale: bool
    reason: str
    published_at: datetime


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One row of ``model_version``: one fit of one recipe on one snapshot, immutable."""

    customer_id: str
    version: str
    bundle_uri: str
    bundle_sha256: str
    run_id: str | None
    run_date: date
    config: dict[str, Any]
    training_cutoff: date
    snapshot: str
    config_hash: str
    recipe_hash: str
    interface_hash: str
    code_version: str
    contract_version: str | None = None
    registry_name: str | None = None
    registry_version: str | None = None
    kind: str | None = None
    origin: dict[str, Any] | None = None
    bundle_bytes: int | None = None
    fit_seconds: float | None = None
    scores: dict[str, Any] | None = None
    created_at: datetime | None = None

    @property
    def parts(self) -> tuple[int, int, int]:
        """MAJOR, MINOR, PATCH as numbers, so that versions sort."""
        match = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", self.version)
        if not match:
            raise ValueError(f"version {self.version!r}: expected MAJOR.MINOR.PATCH, such as 1.4.0")
        major, minor, patch = match.groups()
        return int(major), int(minor), int(patch)


@dataclass(frozen=True, kw_only=True)
class Champion(ModelVersion):
    """A model version and the champion line that makes it publish; ``run_id`` is the run that made the version."""

    seq: int
    effective_from: date
    live: bool
    who: str
    reason: str
    crowned_by: str | None
    recorded_at: datetime


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One row of ``decision``: challenger against champion, with the evidence."""

    customer_id: str
    run_id: str
    kind: str
    promoted: bool
    reason: str
    challenger: str | None = None
    champion: str | None = None
    evidence: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One row of ``signal``: what monitoring measured, and whether it asks for a retrain."""

    customer_id: str
    kind: str
    run_id: str
    armed_by: date
    alarm: bool
    value: float | None = None
    limit_value: float | None = None
    detail: str | None = None
    consumed_by: str | None = None
    consumed_on: date | None = None


# --- connections ----------------------------------------------------------------------------------------------------


def connect(url: str, *, patience: int = 10, connections: int = 15) -> sa.Engine:
    """An engine for ``url`` whose waits all have a time-out and whose errors show no parameters.

    Args:
        url: Of the warehouse.
        patience: Seconds to wait for the server to take a connection.
        connections: Most connections at once; up to five of them stay open.

    Raises:
        ConfigurationError: The URL cannot be used. It is not shown: it may hold a password.
    """
    # The search path is fixed, or a login named like our schema would see another default schema than one that is not.
    given = {
        "statement_timeout": "15min",
        "lock_timeout": "60s",
        "idle_in_transaction_session_timeout": "15min",
        "search_path": "public",
    }
    return sa.create_engine(
        _address(url),
        hide_parameters=True,
        pool_pre_ping=True,
        pool_size=min(connections, 5),
        max_overflow=max(connections - 5, 0),
        connect_args={
            "connect_timeout": patience,
            "application_name": "forecasting",
            "options": " ".join(f"-c {name}={value}" for name, value in given.items()),
            "keepalives_idle": 30,
            "tcp_user_timeout": 60_000,
        },
    )


def _address(url: str) -> sa.URL:
    try:
        address = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigurationError(_UNUSABLE + "it cannot be parsed.") from None
    if address.drivername not in ("postgresql", "postgresql+psycopg"):
        raise ConfigurationError(_UNUSABLE + "it must begin with postgresql:// or postgresql+psycopg://.")
    if "@" in (address.host or "") or not address.database:
        raise ConfigurationError(_UNUSABLE + "it has no database, or a password with /, @ or : not percent-encoded.")
    return address.set(drivername="postgresql+psycopg")


_UNUSABLE = "the warehouse's URL (FORECASTING_WAREHOUSE_URL) cannot be used: "


@contextmanager
def acting_for(engine: sa.Engine, customer_id: str) -> Iterator[sa.Connection]:
    """One transaction that may only touch what is ``customer_id``'s.

    Raises:
        ConfigurationError: The customer has no roles in this warehouse yet.
    """
    role = provision.writer(customer_id)
    with engine.begin() as connection:
        try:
            connection.exec_driver_sql(f'SET LOCAL ROLE "{role}"')
        except (sa.exc.DataError, sa.exc.ProgrammingError) as error:
            raise _unprovisioned(customer_id) from error
        yield connection


def _unprovisioned(customer_id: str) -> ConfigurationError:
    return ConfigurationError(f"customer {customer_id!r} is not in the warehouse: run `forecasting provision`.")


def _driver(connection: sa.Connection) -> psycopg.Connection[Any]:
    return cast("psycopg.Connection[Any]", connection.connection.driver_connection)


def migrate(url: str, *, newer: bool = False) -> None:
    """Bring the warehouse to the newest revision; quick when it is there, safe when several begin at once.

    With ``newer`` a revision that is newer than this code is left alone, not refused.
    """
    engine = connect(url)
    try:
        found, known = _revision(engine), _newest_revision()
        if found != known and not (newer and found is not None and found > known):
            _upgrade(engine)
    finally:
        engine.dispose()


def _newest_revision() -> str:
    return max(path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def _revision(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        if connection.execute(sa.text("SELECT to_regclass('forecasting.alembic_version')")).scalar() is None:
            return None
        revision = connection.execute(sa.text("SELECT version_num FROM forecasting.alembic_version")).scalar()
        return cast("str | None", revision)


def revisions(engine: sa.Engine) -> tuple[str | None, str]:
    """The warehouse's revision, None where there is no schema, and the one that this code needs."""
    return _revision(engine), _newest_revision()


def _upgrade(engine: sa.Engine, revision: str = "head") -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL lock_timeout = '5min'"))
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('forecasting.migrate'))"))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    log.info("migrate: warehouse is at revision %s", _revision(engine))


def query(engine: sa.Engine, sql: str, *, timeout: int = 60) -> pd.DataFrame:
    """Rows of one reading statement, seen as the fleet's reader.

    Args:
        engine: Of the warehouse.
        sql: One statement; a percent sign means itself.
        timeout: Seconds after which it is cancelled.

    Raises:
        ForecastingError: The statement failed, or tried to change something.
    """
    import pandas as pd
    import psycopg

    with engine.connect() as connection:
        raw = _driver(connection)
        try:
            raw.execute("SET TRANSACTION READ ONLY")
            raw.execute(f"SET LOCAL statement_timeout = {int(timeout * 1000)}")
            raw.execute("SET LOCAL ROLE forecasting_reader")
            # Prepared, so that the server takes one statement only: a second one could undo what stands above.
            cursor = raw.execute(sql.encode(), prepare=True)
            names = [column.name for column in cursor.description or ()]
            rows = cursor.fetchall() if names else []
        except psycopg.Error as error:
            raise ForecastingError(f"query failed: {error.diag.message_primary or error}") from None
        finally:
            raw.rollback()
    frame = pd.DataFrame(rows, columns=range(len(names)))  # by position: a statement may name two columns alike
    for place, dtype in frame.dtypes.items():
        values = [row[place] for row in rows]
        if dtype.kind == "f" and all(value is None or type(value) is int for value in values):
            frame[place] = pd.array(values, dtype="Int64")  # a count with a null beside it stays a whole number
    return frame.set_axis(names, axis="columns")


def records(engine: sa.Engine, sql: str) -> list[dict[str, Any]]:
    """As :func:`query`, row by row with plain values: whole numbers stay whole, an absent one is None."""
    frame = query(engine, sql)
    columns = {name: [_plain(value) for value in frame[name].astype(object)] for name in frame.columns}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _plain(value: Any) -> Any:
    if isinstance(value, dict | list):
        return value
    if value is None or type(value).__name__ in ("NAType", "NaTType") or value != value:
        return None
    value = value.item() if hasattr(value, "item") else value
    return value.to_pydatetime() if hasattr(value, "to_pydatetime") else value


@contextmanager
def lock_snapshots(engine: sa.Engine, customer_id: str, timeout: float = 600) -> Iterator[None]:
    """Hold the customer's snapshot lock: one process at a time adds, pushes and commits.

    Args:
        engine: Of the warehouse; the lock has a connection of its own.
        customer_id: Whose snapshots.
        timeout: Seconds to wait for another holder. The holder itself has an hour.

    Raises:
        ForecastingError: Another process kept the lock, or this one lost it meanwhile: what it did must be checked.
    """
    lock = tables.snapshot_lock
    with acting_for(engine, customer_id) as connection:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(timeout * 1000)}")
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '1h'")
        try:
            taken = lock.update().where(lock.c.customer_id == customer_id).values(taken_at=sa.func.clock_timestamp())
            if connection.execute(taken).rowcount != 1:
                raise _unprovisioned(customer_id)
        except sa.exc.OperationalError as error:
            raise ForecastingError(
                f"{customer_id}: another process held the snapshot lock for {timeout:g} s; try again when it is done."
            ) from error
        yield
        try:
            connection.exec_driver_sql("SELECT 1")
        except sa.exc.DBAPIError as error:
            raise ForecastingError(f"{customer_id}: the snapshot lock was lost while it was held; repeat.") from error


# --- runs -----------------------------------------------------------------------------------------------------------


def _as(kind: type[_T], row: sa.RowMapping) -> _T:
    return kind(**{field.name: row[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def _first(connection: sa.Connection, kind: type[_T], statement: sa.Select[Any]) -> _T | None:
    row = connection.execute(statement.limit(1)).mappings().first()
    return None if row is None else _as(kind, row)


def allot(
    engine: sa.Engine,
    customer: Customer,
    run_date: date,
    *,
    live: bool,
    as_frozen: bool,
    code: Code,
    asked_by: str | None = None,
) -> Run:
    """The next run of ``run_date``, with a fence above every earlier one of the customer."""
    provision.ensure_month(engine, customer, run_date)
    run = tables.run
    with acting_for(engine, customer.id) as connection:
        numbers = _next_numbers(connection, customer.id, run_date)
        _audit_policy(connection, customer, asked_by or "pipeline")
        values = numbers | {
            "customer_id": customer.id,
            "run_date": run_date,
            "live": live,
            "as_frozen": as_frozen,
            "status": "running",
            "config": customer.model_dump(mode="json"),
            "config_hash": customer.hash,
            "code_version": code.version,
            "lock_hash": code.lock_hash,
            "cpu_family": code.cpu_family,
            "code_commit": code.commit,
            "asked_by": asked_by,
        }
        _close_earlier(connection, customer.id, run_date, str(values["run_id"]))
        row = connection.execute(run.insert().values(values).returning(*run.c)).mappings().one()
    log.info("pull: %s allotted, fence %s", row["run_id"], row["fence"])
    return _as(Run, row)


def _next_numbers(connection: sa.Connection, customer_id: str, run_date: date) -> dict[str, Any]:
    """run_id, n and fence of the next run of ``run_date``."""
    fence, run = next_fence(connection, customer_id), tables.run
    of_date = (run.c.customer_id == customer_id) & (run.c.run_date == run_date)
    n = connection.execute(sa.select(sa.func.coalesce(sa.func.max(run.c.n), 0) + 1).where(of_date)).scalar_one()
    return {"run_id": f"{customer_id}/{run_date.isoformat()}/{n}", "n": n, "fence": fence}


def next_fence(connection: sa.Connection, customer_id: str) -> int:
    """A fence above every earlier one of the customer, whose row is locked from here on: nobody gets the same."""
    counter = tables.customer
    bump = counter.update().where(counter.c.customer_id == customer_id).values(fence=counter.c.fence + 1)
    fence = connection.execute(bump.returning(counter.c.fence)).scalar()
    if fence is None:
        raise _unprovisioned(customer_id)
    return int(fence)


def _audit_policy(connection: sa.Connection, customer: Customer, who: str) -> None:
    """Log what the customer's file says otherwise of retraining and promotion than it said to the run before."""
    run = tables.run
    newest = sa.select(run.c.run_id, run.c.config).where(run.c.customer_id == customer.id).order_by(run.c.fence.desc())
    earlier = connection.execute(newest.limit(1)).first()
    if earlier is None:
        return
    now = customer.model_dump(mode="json", include=set(_POLICIES))
    # What newer code has added has no earlier word to differ from.
    pairs = [
        (f"{policy}.{name}", value, now[policy][name])
        for policy in _POLICIES
        for name, value in (earlier.config.get(policy) or {}).items()
        if name in now[policy] and now[policy][name] != value
    ]
    if pairs:
        why = f"{customer.id}.yaml differs from what {earlier.run_id} froze"
        before, after = ({name: values[i] for name, *values in pairs} for i in (0, 1))
        audit(connection, who, customer.id, "policy", why, before, after)


_POLICIES = ("retrain", "promotion")


def _close_earlier(connection: sa.Connection, customer_id: str, run_date: date, by: str) -> None:
    """Earlier attempts at the date that never ended were killed, or will come late; either way they do not run."""
    run = tables.run
    ended = {"status": "failed", "message": f"superseded by {by}", "finished_at": sa.func.clock_timestamp()}
    of_date = (run.c.customer_id == customer_id) & (run.c.run_date == run_date) & (run.c.status == "running")
    connection.execute(run.update().where(of_date).values(ended))


def read_run(engine: sa.Engine, customer_id: str, run_id: str) -> Run:
    """The run as it stands.

    Raises:
        ConfigurationError: There is no such run.
    """
    with acting_for(engine, customer_id) as connection:
        return run_of(connection, customer_id, run_id)


def run_of(connection: sa.Connection, customer_id: str, run_id: str) -> Run:
    """As :func:`read_run`, in the caller's transaction."""
    run = tables.run
    found = _first(connection, Run, sa.select(run).where(*_is(run, customer_id, run_id)))
    if found is None:
        raise ConfigurationError(f"customer {customer_id!r} has no run {run_id!r}.")
    return found


def _is(table: sa.Table, customer_id: str, run_id: str) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return table.c.customer_id == customer_id, table.c.run_id == run_id


def fail(engine: sa.Engine, customer_id: str, run_id: str, status: str, message: str) -> None:
    """Write what ended an attempt. A run that stands keeps its status; its message says that a later step failed."""
    run = tables.run
    stands = run.c.status.in_(["published", "verified", "nothing_new", "late"])
    values = {
        "message": message.replace("\0", "\\0")[:MESSAGE_TEXT],  # it may quote a file's bytes
        "status": sa.case((stands, run.c.status), else_=status),
        "finished_at": sa.case((stands, run.c.finished_at), else_=sa.func.clock_timestamp()),
    }
    with acting_for(engine, customer_id) as connection:
        connection.execute(run.update().where(*_is(run, customer_id, run_id)).values(values))


_FIXED = frozenset(
    {"customer_id", "run_id", "run_date", "n", "fence", "live", "as_frozen", "asked_by", "config", "config_hash"}
)


def note(engine: sa.Engine, customer_id: str, run_id: str, **columns: Any) -> None:
    """Write what became known about a run into its row; an end status sets ``finished_at`` too.

    Raises:
        ValueError: A column is fixed when the run is allotted: a programming error.
    """
    with acting_for(engine, customer_id) as connection:
        _note(connection, customer_id, run_id, columns)


def _note(connection: sa.Connection, customer_id: str, run_id: str, columns: Mapping[str, Any]) -> None:
    if fixed := _FIXED & columns.keys():
        raise ValueError(f"{run_id}: {sorted(fixed)} are fixed when the run is allotted")
    values = dict(columns)
    if values.get("status", "running") != "running":
        values.setdefault("finished_at", sa.func.clock_timestamp())
    statement = tables.run.update().where(*_is(tables.run, customer_id, run_id)).values(values)
    if connection.execute(statement).rowcount != 1:
        raise ConfigurationError(f"customer {customer_id!r} has no run {run_id!r}.")


def record_stage(
    engine: sa.Engine, customer_id: str, run_id: str, stage: str, shard: int, seconds: float, cpu_seconds: float
) -> None:
    """Keep how long a stage took; a repeated attempt replaces its line."""
    key = {"customer_id": customer_id, "run_id": run_id, "stage": stage, "shard": shard}
    took = {"seconds": seconds, "cpu_seconds": cpu_seconds, "finished_at": sa.func.clock_timestamp()}
    statement = insert(tables.stage_time).values(key | took).on_conflict_do_update(index_elements=list(key), set_=took)
    with acting_for(engine, customer_id) as connection:
        connection.execute(statement)


def fit_seconds(engine: sa.Engine, customer_id: str, run_id: str) -> float | None:
    """CPU seconds of a run's fits, all shards; None when none finished."""
    table = tables.stage_time
    total = sa.select(sa.func.sum(table.c.cpu_seconds)).where(*_is(table, customer_id, run_id))
    with acting_for(engine, customer_id) as connection:
        found: float | None = connection.execute(total.where(table.c.stage.like("fit\\_%"))).scalar_one()
    return found


def previous_snapshot(engine: sa.Engine, customer_id: str, before: date) -> Run | None:
    """The newest run before that run date which froze a snapshot and published or verified it."""
    run = tables.run
    statement = (
        sa.select(run)
        .where(run.c.customer_id == customer_id, run.c.run_date < before, run.c.snapshot.is_not(None))
        .where(run.c.status.in_(["published", "verified"]), run.c.beside.is_(None))
        .order_by(run.c.run_date.desc(), run.c.n.desc())
    )
    with acting_for(engine, customer_id) as connection:
        return _first(connection, Run, statement)


class Agreed(NamedTuple):
    """A contract's file as a run checked its feed against it."""

    run_id: str
    sha256: str


def agreed_hash(engine: sa.Engine, customer_id: str, contract: str, version: str) -> Agreed | None:
    """The newest run that ended well under that version of a contract, and the hash of the contract's file then."""
    run = tables.run
    statement = (
        sa.select(run.c.run_id, run.c.contract_hash)
        .where(run.c.customer_id == customer_id, run.c.contract == contract, run.c.contract_version == version)
        .where(run.c.contract_hash.is_not(None), run.c.status.in_(_ENDED_WELL))
        .order_by(run.c.fence.desc())
    )
    with acting_for(engine, customer_id) as connection:
        row = connection.execute(statement.limit(1)).first()
    return None if row is None else Agreed(str(row[0]), str(row[1]))


_ENDED_WELL = ("published", "verified", "nothing_new")


# --- what the feed held ---------------------------------------------------------------------------------------------


def feed_days(engine: sa.Engine, customer_id: str, before: date) -> Ledger:
    """What runs of dates before ``before`` have seen of the feed, day by day.

    Only runs that read the feed and ended well count: what a broken or failed run saw is new to the next one. The line
    goes from the newest such run back to the one that it compared with, and so on: a repeat of an older date that was
    computed later than its successor is no part of it, or a night would compare with what its snapshot never held.
    """
    with acting_for(engine, customer_id) as connection:
        line = _line_of_runs(connection, customer_id, before)
        rows = _seen_by(connection, customer_id, line)
    last = read_run(engine, customer_id, line[0]) if line else None
    newest = rows.drop_duplicates("day", keep="last").drop(columns="kept")
    kept = rows.loc[rows["kept"].astype(bool), ["day", "lines", "digest"]].drop_duplicates("day", keep="last")
    days = newest.merge(kept.rename(columns={"lines": "kept_lines", "digest": "kept_digest"}), on="day", how="left")
    days["kept_lines"] = days["kept_lines"].fillna(0).astype("int64")
    return Ledger(last, days.sort_values("day", ignore_index=True))


def _line_of_runs(connection: sa.Connection, customer_id: str, before: date) -> list[str]:
    """Ids of the runs that count, newest run date first."""
    run = tables.run
    statement = (
        sa.select(run.c.run_id, run.c.run_date, run.c.fence)
        .where(run.c.customer_id == customer_id, run.c.run_date < before, run.c.status.in_(_ENDED_WELL))
        .where(run.c.snapshot.is_not(None), ~run.c.as_frozen, run.c.beside.is_(None))
        .order_by(run.c.run_date.desc(), run.c.fence.desc())
    )
    line: list[str] = []
    day, fence = date.max, None
    for run_id, run_date, its_fence in connection.execute(statement):
        if run_date < day and (fence is None or its_fence < fence):
            line.append(str(run_id))
            day, fence = run_date, its_fence
    return line


def _seen_by(connection: sa.Connection, customer_id: str, line: Sequence[str]) -> pd.DataFrame:
    """The ledger's rows of these runs, oldest run first."""
    import pandas as pd

    table = tables.feed_day
    columns = (table.c.day, table.c.lines, table.c.digest, table.c.kept)
    runs = sa.bindparam("line", list(line), sa.ARRAY(sa.Text))
    statement = sa.select(*columns).where(table.c.customer_id == customer_id, table.c.run_id == sa.any_(runs))
    found = connection.execute(statement.order_by(table.c.run_date)).all()
    rows = pd.DataFrame(found, columns=["day", "lines", "digest", "kept"])
    return rows.assign(day=pd.to_datetime(rows["day"]).astype("datetime64[ns]"), lines=rows["lines"].astype("int64"))


def record_feed_days(connection: sa.Connection, run: Run, frame: pd.DataFrame) -> None:
    """Keep what ``run`` saw otherwise than before (day, lines, digest, kept); a repeated attempt replaces it."""
    table = tables.feed_day
    connection.execute(table.delete().where(*_is(table, run.customer_id, run.run_id)))
    fixed = {"customer_id": run.customer_id, "run_id": run.run_id, "run_date": run.run_date}
    _insert(connection, table, tables.SCHEMA, fixed, frame[["day", "lines", "digest", "kept"]])


# --- publications ---------------------------------------------------------------------------------------------------


def _publications(customer_id: str) -> sa.Select[Any]:
    line = tables.publication
    newest_first = (line.c.run_date.desc(), line.c.seq.desc())
    return sa.select(line).where(line.c.customer_id == customer_id).order_by(*newest_first)


def published(engine: sa.Engine, customer_id: str, run_date: date, *, own: bool = False) -> Publication | None:
    """What readers see for that run date; ``own``: what they last saw of a run of that date, whatever is shown now."""
    with acting_for(engine, customer_id) as connection:
        return standing(connection, customer_id, run_date, own=own)


def standing(connection: sa.Connection, customer_id: str, run_date: date, *, own: bool = False) -> Publication | None:
    """As :func:`published`, in the caller's transaction."""
    line = tables.publication
    statement = _publications(customer_id).where(line.c.run_date == run_date)
    return _first(connection, Publication, statement.where(~line.c.stale) if own else statement)


def newest_published(engine: sa.Engine, customer_id: str, before: date | None = None) -> Publication | None:
    """The publication of the newest run date, or of the newest before ``before``."""
    with acting_for(engine, customer_id) as connection:
        return newest_publication(connection, customer_id, before)


def newest_publication(connection: sa.Connection, customer_id: str, before: date | None = None) -> Publication | None:
    """As :func:`newest_published`, in the caller's transaction."""
    statement = _publications(customer_id)
    if before is not None:
        statement = statement.where(tables.publication.c.run_date < before)
    return _first(connection, Publication, statement)


def open_publications(engine: sa.Engine, customer_id: str, run_date: date, horizon_days: int) -> list[Publication]:
    """Publications whose horizon may hold actuals by ``run_date``: one per run date, oldest first.

    Args:
        engine: Of the warehouse.
        customer_id: Whose.
        run_date: Only earlier run dates count.
        horizon_days: Days that the longest horizon spans, latency included.
    """
    line = tables.publication
    since = run_date - timedelta(days=horizon_days)
    statement = _publications(customer_id).ext(distinct_on(line.c.run_date))
    statement = statement.where(line.c.run_date < run_date, line.c.run_date >= since)
    with acting_for(engine, customer_id) as connection:
        rows = connection.execute(statement).mappings().all()
    return [_as(Publication, row) for row in reversed(rows)]


def publish(
    connection: sa.Connection,
    run: Run,
    rows: pd.DataFrame,
    *,
    key: str,
    checksum: str,
    version: str,
    status: pd.DataFrame,
    reason: str,
    message: str | None = None,
) -> Outcome:
    """Make ``run`` what readers see for its customer and run date; an attempt that comes late changes nothing.

    Everything happens in the caller's transaction: rows, statuses, pointer and the run's own row, or none of it.

    Args:
        connection: From :func:`acting_for`.
        run: As allotted: its fence decides who is late.
        rows: ``frames.PUBLISHED``.
        key: Hash of everything the values depend on.
        checksum: From :func:`checksum`, over ``rows``.
        version: Semantic version whose set this is.
        status: ``frames.ACCOUNT``.
        reason: Why the pointer moves.
        message: What the on-call should know of a night that published; None: nothing.

    Raises:
        ChecksumMismatchError: The same key gave other values, or this run has published already with another key.
    """
    lock_customer(connection, run.customer_id)
    current = standing(connection, run.customer_id, run.run_date)
    if current and current.fence > run.fence:
        message = f"late: {current.run_id} with fence {current.fence} has published; this attempt has {run.fence}"
        _note(connection, run.customer_id, run.run_id, {"status": "late", "message": message, "key": key})
        return Outcome.LATE
    _refuse_other_values(connection, run, key, checksum)
    if current and current.run_id == run.run_id:
        return Outcome.PUBLISHED  # a repeated attempt of a run that stands
    ended = {"key": key, "checksum": checksum, "version": version, "message": message, **_series_counts(status)}
    if current and current.key == key and not current.stale:
        _note(connection, run.customer_id, run.run_id, ended | {"status": "verified", "rows_published": 0})
        return Outcome.VERIFIED
    write_forecast(connection, run, rows)
    record_status(connection, run, status)
    point(connection, run, before=current, key=key, checksum=checksum, version=version, reason=reason)
    _note(connection, run.customer_id, run.run_id, ended | _row_counts(rows) | {"status": "published"})
    log.info("publish: %s: %s rows, checksum %s", run.run_id, len(rows), checksum[:12])
    return Outcome.PUBLISHED


def lock_customer(connection: sa.Connection, customer_id: str) -> None:
    """Queue behind whatever moves the customer's pointers now, until this transaction ends."""
    row = tables.customer
    # NO KEY UPDATE, which stands beside the foreign keys of other rows being written for this customer.
    lock = sa.select(row.c.fence).where(row.c.customer_id == customer_id).with_for_update(key_share=True)
    if connection.execute(lock).scalar() is None:
        raise _unprovisioned(customer_id)


def _refuse_other_values(connection: sa.Connection, run: Run, key: str, checksum: str) -> None:
    line = tables.publication
    same_key = _publications(run.customer_id).where(line.c.run_date == run.run_date, line.c.key == key)
    before = _first(connection, Publication, same_key)
    if before and before.checksum != checksum and _computed_alike(connection, run, before):
        raise ChecksumMismatchError(
            f"{run.run_id}: same key as {before.run_id} but other values: checksum {checksum[:12]} instead of "
            f"{before.checksum[:12]}. Nothing was published. Compare code, lock file and CPU family of both runs."
        )
    mine = _first(connection, Publication, _publications(run.customer_id).where(line.c.run_id == run.run_id))
    if mine and mine.key != key:
        raise ChecksumMismatchError(
            f"{run.run_id} has published with another key; a run is immutable. Start a new run of {run.run_date}."
        )


def _computed_alike(connection: sa.Connection, run: Run, publication: Publication) -> bool:
    """Whether both were computed on the same CPU family; between two, libraries may differ in the last bit."""
    table = tables.run
    family = sa.select(table.c.cpu_family).where(*_is(table, publication.customer_id, publication.run_id))
    return bool(connection.execute(family).scalar_one() == run.cpu_family)


def point(
    connection: sa.Connection,
    run: Run,
    *,
    before: Publication | None,
    key: str,
    checksum: str,
    version: str,
    reason: str,
    **by_hand: Any,
) -> None:
    """Draw the line that shows ``run``, and one in the audit.

    Args:
        connection: From :func:`acting_for`, behind :func:`lock_customer`.
        run: Whose rows readers see from here on.
        before: What stands for the line's run date.
        key: Of the run.
        checksum: Of its rows.
        version: Whose set it is.
        reason: Why the pointer moves.
        by_hand: run_date, fence and stale of the line, where they are not the run's; who draws it.
    """
    who = by_hand.pop("who", run.asked_by or "pipeline")
    names = ("customer_id", "run_date", "run_id", "fence")
    line = {name: getattr(run, name) for name in names} | {"key": key, "checksum": checksum, "reason": reason}
    line |= {"stale": False} | by_hand
    connection.execute(tables.publication.insert().values(line))
    then = {"run_id": before.run_id, "stale": before.stale} if before else None
    now = {"run_date": str(line["run_date"]), "run_id": run.run_id, "version": version, "stale": line["stale"]}
    audit(connection, who, run.customer_id, "publication", reason, then, now)


def keep(
    connection: sa.Connection,
    run: Run,
    rows: pd.DataFrame,
    *,
    version: str,
    status: pd.DataFrame,
    reason: str,
) -> str | None:
    """Keep a set that was computed beside the one ``run`` has published, as a run of its own that nobody sees.

    Args:
        connection: The transaction in which ``run`` has published.
        run: As its row stands.
        rows: ``frames.PUBLISHED``.
        version: Whose set it is.
        status: ``frames.ACCOUNT``.
        reason: Why it is kept.

    Returns:
        The kept run; None when a repeated attempt had kept it already.
    """
    table = tables.run
    same = (table.c.customer_id == run.customer_id) & (table.c.beside == run.run_id) & (table.c.version == version)
    if connection.execute(sa.select(table.c.run_id).where(same)).first():
        return None
    numbers = _next_numbers(connection, run.customer_id, run.run_date)
    key = hashlib.sha256(f"{run.key}\nkept {version}".encode()).hexdigest()
    facts = {"version": version, "key": key, "checksum": checksum(rows), "message": reason, "status": "kept"}
    values = asdict(run) | numbers | facts | {"beside": run.run_id, "finished_at": sa.func.clock_timestamp()}
    values |= _series_counts(status) | _row_counts(rows)
    row = connection.execute(table.insert().values(values).returning(*table.c)).mappings().one()
    kept = _as(Run, row)
    _copy(connection, run.customer_id, "forecast", _forecast_rows(kept, rows))
    record_status(connection, kept, status)
    log.info("publish: %s keeps the %d rows of %s beside %s", kept.run_id, len(rows), version, run.run_id)
    return kept.run_id


def _series_counts(status: pd.DataFrame) -> dict[str, int]:
    counts = status["status"].value_counts()
    names = ("ok", "fallback", "cold_start", "retired")
    return {"series_in": len(status)} | {f"series_{name}": int(counts.get(name, 0)) for name in names}


def _row_counts(rows: pd.DataFrame) -> dict[str, int]:
    counts = rows["rung"].value_counts()
    names = ("chosen", "cheaper", "seasonal_naive", "naive", "cold_start", "sum")
    return {"rows_published": len(rows)} | {f"rows_{name}": int(counts.get(name, 0)) for name in names}


def checksum(rows: pd.DataFrame) -> str:
    """SHA-256 over the published values, whoever computed them and whenever.

    Args:
        rows: ``frames.PUBLISHED``, in any order; a quantile column that is empty counts as absent.
    """
    import numpy as np

    columns = {name: _codes(rows[name]) for name in ("node", "unique_id", "model", "rung")}
    order = np.lexsort((rows["h"].to_numpy(), columns["unique_id"][1], columns["node"][1]))
    digest = hashlib.sha256()
    for name, (values, codes) in columns.items():
        digest.update(json.dumps([name, values]).encode())
        digest.update(codes[order].astype("<i4").tobytes())
    digest.update(_days(rows["ds"])[order].astype("<i4").tobytes())
    digest.update(rows["h"].to_numpy()[order].astype("<i4").tobytes())
    for name in ("y_hat", *_filled_quantiles(rows)):
        digest.update(name.encode() + _canonical(rows[name])[order].astype("<f8").tobytes())
    return digest.hexdigest()


def _codes(column: pd.Series[Any]) -> tuple[list[str], np.ndarray[Any, Any]]:
    """The column's texts in order, and the place of each row's text among them."""
    import numpy as np
    import pyarrow as pa

    coded = pa.array(column, type=pa.string()).dictionary_encode()
    values = [str(value) for value in coded.dictionary.to_pylist()]
    order = sorted(range(len(values)), key=lambda i: values[i])
    place = np.empty(len(values), dtype=np.int64)
    place[order] = np.arange(len(values))
    return [values[i] for i in order], place[coded.indices.to_numpy(zero_copy_only=False)]


def _days(column: pd.Series[Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    return column.to_numpy().astype("datetime64[D]").astype(np.int64)


def _canonical(column: pd.Series[Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    values = column.to_numpy(dtype=np.float64) + 0.0  # -0.0 becomes 0.0
    values[np.isnan(values)] = np.nan  # one bit pattern
    return values


def _filled_quantiles(rows: pd.DataFrame) -> list[str]:
    return [q for q in tables.QUANTILES if q in rows.columns and bool(rows[q].notna().any())]


def write_forecast(connection: sa.Connection, run: Run, rows: pd.DataFrame) -> None:
    """Add the rows (``frames.PUBLISHED``) of a run that has none; no pointer moves."""
    _copy(connection, run.customer_id, "forecast", _forecast_rows(run, rows))


def _forecast_rows(run: Run, rows: pd.DataFrame) -> pa.Table:
    """The frame as the partition's columns; texts and whole numbers in the database's widths."""
    import numpy as np
    import pyarrow as pa

    count = len(rows)
    columns: dict[str, Any] = {
        "customer_id": pa.repeat(run.customer_id, count),
        "run_id": pa.repeat(run.run_id, count),
        "run_date": pa.repeat(pa.scalar(run.run_date, pa.date32()), count),
        "ds": pa.array(_days(rows["ds"]).astype(np.int32)).cast(pa.date32()),
        "h": pa.array(rows["h"].to_numpy(), type=pa.int16()),
    }
    columns |= {name: pa.array(rows[name], type=pa.string()) for name in ("unique_id", "node", "model", "rung")}
    floats = ("y_hat", *_filled_quantiles(rows))
    columns |= {name: pa.array(rows[name], type=pa.float64(), from_pandas=True) for name in floats}
    return pa.table(columns)


def read_forecast(engine: sa.Engine, customer_id: str, run_id: str) -> pd.DataFrame:
    """The rows of a run as ``frames.PUBLISHED``, sorted; with the quantiles it has."""
    import pyarrow as pa
    from psycopg import sql
    from pyarrow import csv

    names = ("unique_id", "node", "ds", "h", "y_hat", *tables.QUANTILES, "model", "rung")
    select = sql.SQL("SELECT {} FROM {} WHERE run_id = {} ORDER BY node, unique_id, h").format(
        sql.SQL(", ").join(map(sql.Identifier, names)), sql.Identifier(customer_id, "forecast"), sql.Literal(run_id)
    )
    statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, HEADER)").format(select)
    with (
        acting_for(engine, customer_id) as connection,
        _driver(connection).cursor() as cursor,
        cursor.copy(statement) as copy,
    ):
        text = b"".join(bytes(part) for part in copy)
    types = {name: pa.float64() for name in ("y_hat", *tables.QUANTILES)} | {"h": pa.int64(), "ds": pa.date32()}
    types |= {name: pa.string() for name in ("unique_id", "node", "model", "rung")}
    options = csv.ConvertOptions(column_types=types, null_values=[""])
    table = csv.read_csv(io.BytesIO(text), convert_options=options)
    rows: pd.DataFrame = table.to_pandas(date_as_object=False).astype({"ds": "datetime64[ns]"})
    return rows.drop(columns=[q for q in tables.QUANTILES if q != "q50" and rows[q].isna().all()])


# --- champions ------------------------------------------------------------------------------------------------------


def register_version(connection: sa.Connection, version: ModelVersion) -> None:
    """Add a model version; the same one again changes nothing.

    Raises:
        VersionTakenError: The version exists with another bundle: a version is immutable.
    """
    table = tables.model_version
    major, minor, patch = version.parts
    values = {name: value for name, value in asdict(version).items() if name in table.c and name != "created_at"}
    values |= {"major": major, "minor": minor, "patch": patch}
    added = insert(table).values(values).on_conflict_do_nothing(index_elements=["customer_id", "version"])
    if connection.execute(added).rowcount == 1:
        return
    same = (table.c.customer_id == version.customer_id) & (table.c.version == version.version)
    known = connection.execute(sa.select(table.c.bundle_sha256).where(same)).scalar_one()
    if known != version.bundle_sha256:
        raise VersionTakenError(
            f"{version.customer_id} {version.version} is registered with bundle {known[:12]}, not "
            f"{version.bundle_sha256[:12]}: a version is immutable; give the new bundle the next PATCH."
        )


def versions(engine: sa.Engine, customer_id: str) -> list[ModelVersion]:
    """Every version of the customer, oldest semantic version first."""
    with acting_for(engine, customer_id) as connection:
        return versions_of(connection, customer_id)


def versions_of(connection: sa.Connection, customer_id: str) -> list[ModelVersion]:
    """As :func:`versions`, in the caller's transaction."""
    table = tables.model_version
    statement = sa.select(table).where(table.c.customer_id == customer_id)
    rows = connection.execute(statement.order_by(table.c.major, table.c.minor, table.c.patch)).mappings()
    return [_as(ModelVersion, row) for row in rows]


def champion(engine: sa.Engine, customer_id: str, run_date: date, *, live: bool) -> Champion | None:
    """The version that is champion when the run of ``run_date`` comes in.

    Lines count when effective before ``run_date``. A live run reads live lines alone once one of them counts, so that
    a backfill cannot move what tonight publishes; a backfill reads every line.
    """
    with acting_for(engine, customer_id) as connection:
        return champion_of(connection, customer_id, run_date, live=live)


def champion_of(
    connection: sa.Connection, customer_id: str, run_date: date = date.max, *, live: bool = True
) -> Champion | None:
    """As :func:`champion`, in the caller's transaction; by default the one that the next live night comes in with."""
    found = _champion(connection, customer_id, run_date, live_only=live)
    return found or (_champion(connection, customer_id, run_date, live_only=False) if live else None)


def _champion(connection: sa.Connection, customer_id: str, run_date: date, *, live_only: bool) -> Champion | None:
    line, version = tables.champion, tables.model_version
    drawn = [line.c.seq, line.c.effective_from, line.c.live, line.c.who, line.c.reason, line.c.recorded_at]
    of_line = [*drawn, line.c.run_id.label("crowned_by")]
    same = (line.c.customer_id == version.c.customer_id) & (line.c.version == version.c.version)
    statement = (
        sa.select(version, *of_line)
        .select_from(line.join(version, same))
        .where(line.c.customer_id == customer_id, line.c.effective_from < run_date)
        .order_by(line.c.effective_from.desc(), line.c.seq.desc())
    )
    return _first(connection, Champion, statement.where(line.c.live) if live_only else statement)


def crown(
    connection: sa.Connection,
    customer_id: str,
    version: str,
    *,
    effective_from: date,
    live: bool,
    run_id: str | None,
    who: str,
    reason: str,
) -> None:
    """Draw one champion line, and one in the audit; the same run crowning the same version again draws none."""
    before = champion_of(connection, customer_id, live=live)
    line = {"customer_id": customer_id, "version": version, "effective_from": effective_from, "live": live}
    statement = insert(tables.champion).values(line | {"run_id": run_id, "who": who, "reason": reason})
    drawn = statement.on_conflict_do_nothing(index_elements=["customer_id", "run_id", "version"])
    if connection.execute(drawn.returning(tables.champion.c.seq)).first():
        then = {"version": before.version, "effective_from": str(before.effective_from)} if before else None
        now = {"version": version, "effective_from": str(effective_from), "live": live, "run_id": run_id}
        audit(connection, who, customer_id, "champion", reason, then, now)


def record_decision(connection: sa.Connection, decision: Decision) -> None:
    """Keep the run's decision and its evidence; a repeated attempt replaces it."""
    values = asdict(decision)
    statement = insert(tables.decision).values(values)
    changed = {name: value for name, value in values.items() if name not in ("customer_id", "run_id")}
    connection.execute(statement.on_conflict_do_update(index_elements=["customer_id", "run_id"], set_=changed))


# --- detail ---------------------------------------------------------------------------------------------------------


def record_contract(
    connection: sa.Connection, customer_id: str, run_id: str, results: Sequence[Mapping[str, Any]]
) -> None:
    """Keep what every rule said, in order; a repeated attempt replaces it.

    Args:
        connection: From :func:`acting_for`.
        customer_id: Whose feed.
        run_id: Run that checked it.
        results: Columns of ``contract_result`` from ``contract`` on.
    """
    table = tables.contract_result
    connection.execute(table.delete().where(*_is(table, customer_id, run_id)))
    names = [column.name for column in table.c if column.name not in ("customer_id", "run_id", "position")]
    rows = [
        {"customer_id": customer_id, "run_id": run_id, "position": i} | {name: result.get(name) for name in names}
        for i, result in enumerate(results, 1)
    ]
    if rows:
        connection.execute(table.insert(), rows)


def record_lines(
    connection: sa.Connection, customer_id: str, run_id: str, counts: Mapping[str, Mapping[str, int]]
) -> None:
    """Keep where the lines went, kind (``tables.LINE_KINDS``) → rule → count; a repeated attempt replaces it."""
    table = tables.line_count
    connection.execute(table.delete().where(*_is(table, customer_id, run_id)))
    fixed = {"customer_id": customer_id, "run_id": run_id}
    rows = [fixed | {"kind": kind, "rule": rule, "n": n} for kind, by in counts.items() for rule, n in by.items()]
    if rows:
        connection.execute(table.insert(), rows)


def read_lines(engine: sa.Engine, customer_id: str, run_id: str) -> dict[str, dict[str, int]]:
    """Where a run's lines went, as :func:`record_lines` kept it."""
    table, found = tables.line_count, dict[str, dict[str, int]]()
    with acting_for(engine, customer_id) as connection:
        for row in connection.execute(sa.select(table).where(*_is(table, customer_id, run_id)).order_by(*table.c)):
            found.setdefault(row.kind, {})[row.rule] = row.n
    return found


def record_quarantine(connection: sa.Connection, customer_id: str, run_id: str, frame: pd.DataFrame) -> None:
    """Keep the first :data:`QUARANTINE_ROWS` refused rows; a repeated attempt replaces them.

    Args:
        connection: From :func:`acting_for`.
        customer_id: Whose feed.
        run_id: Run that refused them.
        frame: Columns line, rule, reason, and where known unique_id, ds, row_json, place.
    """
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    gone = sa.text(f'DELETE FROM "{customer_id}".quarantine WHERE run_id = :run_id')
    connection.execute(gone, {"run_id": run_id})
    kept = frame.head(QUARANTINE_ROWS)
    count = len(kept)
    columns: dict[str, Any] = {
        "customer_id": pa.repeat(customer_id, count),
        "run_id": pa.repeat(run_id, count),
        "position": pa.array(np.arange(1, count + 1)),
        "line": pa.array(kept["line"].to_numpy(), type=pa.int64()),
    }
    texts = [name for name in ("rule", "reason", "unique_id", "place", "row_json") if name in kept]
    columns |= {name: _cut(kept[name]) for name in texts}
    if "ds" in kept:
        days = pd.to_datetime(kept["ds"], format="ISO8601", errors="coerce")  # a refused day may be no day at all
        columns["ds"] = pa.array(days, type=pa.timestamp("ns"), from_pandas=True).cast(pa.date32(), safe=False)
    if count:
        _copy(connection, customer_id, "quarantine", pa.table(columns))


def _cut(texts: pd.Series[Any]) -> pa.Array:
    """Texts of a bounded length: a refused value may be of any."""
    import pyarrow as pa

    return pa.array([text[:ROW_TEXT] if isinstance(text, str) else None for text in texts], pa.string())


def record_status(connection: sa.Connection, run: Run, frame: pd.DataFrame) -> None:
    """Keep how every series fared (``frames.ACCOUNT``); a repeated attempt replaces it."""
    table = tables.series_status
    connection.execute(table.delete().where(*_is(table, run.customer_id, run.run_id)))
    rows = frame[["unique_id", "status", "rung", "model", "reason"]]
    _insert(connection, table, tables.SCHEMA, {"customer_id": run.customer_id, "run_id": run.run_id}, rows)


def upsert_series(connection: sa.Connection, customer_id: str, run_date: date, frame: pd.DataFrame) -> None:
    """Keep every series and node of ``frames.SERIES``; what is known keeps its identity, attributes may change.

    Args:
        connection: From :func:`acting_for`.
        customer_id: Whose.
        run_date: Becomes ``first_seen`` of those that are new, or were first seen by a run of a later date.
        frame: ``frames.SERIES``; column ``attributes``, where present, holds a dict or None.
    """
    rows = frame[[name for name in frame.columns if name in tables.series.c]]
    change = "first_seen = least(series.first_seen, excluded.first_seen)"
    where = "excluded.first_seen < series.first_seen"
    if "attributes" in rows:
        rows = rows.assign(attributes=rows["attributes"].map(_json))
        change += ", attributes = excluded.attributes"
        where += " OR excluded.attributes IS DISTINCT FROM series.attributes"
    known = f"ON CONFLICT (customer_id, node, unique_id) DO UPDATE SET {change} WHERE {where}"
    _insert(connection, tables.series, tables.SCHEMA, {"customer_id": customer_id, "first_seen": run_date}, rows, known)


def known_series(engine: sa.Engine, customer_id: str, as_of: date) -> list[str]:
    """The bottom series that runs of dates before ``as_of`` have accounted for, ascending."""
    table = tables.series
    statement = sa.select(table.c.unique_id).where(
        table.c.customer_id == customer_id, table.c.node == BOTTOM, table.c.first_seen < as_of
    )
    with acting_for(engine, customer_id) as connection:
        return sorted(connection.execute(statement).scalars())


def has_actuals(engine: sa.Engine, customer_id: str) -> bool:
    """Whether anything the customer sold is recorded yet."""
    with acting_for(engine, customer_id) as connection:
        return bool(connection.exec_driver_sql(f'SELECT EXISTS (SELECT FROM "{customer_id}".actual)').scalar_one())


def record_actuals(connection: sa.Connection, customer_id: str, run_id: str, frame: pd.DataFrame) -> None:
    """Keep what was sold (node, unique_id, ds, y); a restated value replaces the old, unknown ones are left out."""
    rows = frame.loc[frame["y"].notna(), ["node", "unique_id", "ds", "y"]]
    known = (
        "ON CONFLICT (customer_id, node, unique_id, ds) DO UPDATE SET y = excluded.y, run_id = excluded.run_id "
        "WHERE actual.y <> excluded.y "
        # A reprocessed old day knows less than the later day that recorded this.
        "AND split_part(actual.run_id, '/', 2) <= split_part(excluded.run_id, '/', 2)"
    )
    if len(rows) <= STAGED_FROM:
        _insert(connection, tables.actual, customer_id, {"customer_id": customer_id, "run_id": run_id}, rows, known)
        return
    home = f'"{customer_id}".actual'
    connection.exec_driver_sql(f"CREATE TEMPORARY TABLE staged_actual (LIKE {home}) ON COMMIT DROP")
    _copy(connection, "pg_temp", "staged_actual", _actual_rows(customer_id, run_id, rows))
    connection.exec_driver_sql(f"INSERT INTO {home} SELECT * FROM pg_temp.staged_actual {known}")
    connection.exec_driver_sql("DROP TABLE pg_temp.staged_actual")


def _actual_rows(customer_id: str, run_id: str, rows: pd.DataFrame) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    columns: dict[str, Any] = {
        "customer_id": pa.repeat(customer_id, len(rows)),
        "run_id": pa.repeat(run_id, len(rows)),
        "ds": pa.array(_days(rows["ds"]).astype(np.int32)).cast(pa.date32()),
        "y": pa.array(rows["y"], type=pa.float64()),
    }
    return pa.table(columns | {name: pa.array(rows[name], type=pa.string()) for name in ("node", "unique_id")})


def record_scores(connection: sa.Connection, customer_id: str, scored_by: str, frame: pd.DataFrame) -> None:
    """Keep scores of publications; newer actuals replace the old scores.

    Args:
        connection: From :func:`acting_for`.
        customer_id: Whose.
        scored_by: Run that scored.
        frame: Columns of ``score`` but customer_id and scored_by; ``run_id`` is the run that was scored.
    """
    key = ("customer_id", "run_id", "node", "unique_id", "h")
    rows = frame[[name for name in frame.columns if name in tables.score.c]]
    if "run_date" not in rows:
        rows = rows.assign(run_date=rows["run_id"].map(_run_dates(connection, customer_id, rows["run_id"])))
    changed = ", ".join(f"{name} = excluded.{name}" for name in (*rows.columns, "scored_by") if name not in key)
    later = "split_part(score.scored_by, '/', 2) <= split_part(excluded.scored_by, '/', 2)"
    known = f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changed} WHERE {later}"
    _insert(connection, tables.score, customer_id, {"customer_id": customer_id, "scored_by": scored_by}, rows, known)


def _run_dates(connection: sa.Connection, customer_id: str, run_ids: pd.Series[Any]) -> dict[str, date]:
    run = tables.run
    ids = [str(run_id) for run_id in run_ids.unique()]
    found = sa.select(run.c.run_id, run.c.run_date).where(run.c.customer_id == customer_id, run.c.run_id.in_(ids))
    return {str(row.run_id): row.run_date for row in connection.execute(found)}


def _copy(connection: sa.Connection, schema: str, table: str, rows: pa.Table) -> None:
    """COPY BINARY, in the caller's transaction."""
    from pgpq import ArrowToPostgresBinaryEncoder
    from psycopg import sql

    names = sql.SQL(", ").join(map(sql.Identifier, rows.schema.names))
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(schema, table), names)
    encoder = ArrowToPostgresBinaryEncoder(rows.schema)
    with _driver(connection).cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(encoder.write_header())
        for batch in rows.combine_chunks().to_batches(max_chunksize=100_000):
            copy.write(encoder.write_batch(batch))
        copy.write(encoder.finish())


_SQL_TYPES: dict[type[Any], str] = {
    sa.Text: "text",
    sa.Date: "date",
    sa.Double: "float8",
    sa.SmallInteger: "int2",
    sa.Integer: "int4",
    sa.BigInteger: "int8",
    sa.Boolean: "bool",
    JSONB: "jsonb",
}


def _insert(
    connection: sa.Connection,
    table: sa.Table,
    schema: str,
    fixed: Mapping[str, Any],
    rows: pd.DataFrame,
    known: str = "",
    chunk: int = 50_000,
) -> None:
    """INSERT of whole columns as arrays: one statement a chunk, where row-level security forbids COPY."""
    names = [*fixed, *rows.columns]
    kinds = {name: _SQL_TYPES[type(table.c[name].type)] for name in names}
    given = ", ".join(f"%s::{kinds[name]}" for name in fixed)
    arrays = ", ".join(f"%s::{kinds[name]}[]" for name in rows.columns)
    statement = (
        f'INSERT INTO "{schema}"."{table.name}" ({", ".join(names)}) '
        f"SELECT {given}, u.* FROM unnest({arrays}) AS u {known}"
    )
    for start in range(0, len(rows), chunk):
        part = rows.iloc[start : start + chunk]
        values = [_values(part[name]) for name in part.columns]
        connection.exec_driver_sql(statement, (*fixed.values(), *values))


def _values(column: pd.Series[Any]) -> list[Any]:
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(column):
        return [None if value is pd.NaT else value.date() for value in column]
    return [None if missing else value for value, missing in zip(column.tolist(), column.isna(), strict=True)]


def _json(value: object) -> str | None:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else None


# --- signals, audit, upkeep -----------------------------------------------------------------------------------------


def arm(connection: sa.Connection, signal: Signal) -> None:
    """Keep what monitoring measured; a repeated attempt replaces the measure, not the answer."""
    values = {name: value for name, value in asdict(signal).items() if not name.startswith("consumed")}
    changed = {name: values[name] for name in ("value", "limit_value", "alarm", "detail")}
    key = ["customer_id", "kind", "run_id"]
    connection.execute(insert(tables.signal).values(values).on_conflict_do_update(index_elements=key, set_=changed))


def armed(engine: sa.Engine, customer_id: str, as_of: date) -> list[Signal]:
    """Alarms that the run of ``as_of`` has to answer, oldest first.

    Raised by an earlier run date, and not answered by an earlier one: a repeated night sees what it saw the first time.
    """
    table = tables.signal
    statement = sa.select(table).where(table.c.customer_id == customer_id, table.c.alarm, _waiting(as_of))
    with acting_for(engine, customer_id) as connection:
        rows = connection.execute(statement.order_by(table.c.armed_by, table.c.kind)).mappings()
        return [_as(Signal, row) for row in rows]


def _waiting(as_of: date) -> sa.ColumnElement[bool]:
    table = tables.signal
    return (table.c.armed_by < as_of) & (table.c.consumed_on.is_(None) | (table.c.consumed_on >= as_of))


def consume(connection: sa.Connection, run: Run) -> None:
    """Mark every alarm that ``run`` has answered; an answer of an earlier run date stands."""
    table = tables.signal
    waiting = (table.c.customer_id == run.customer_id) & table.c.alarm & _waiting(run.run_date)
    connection.execute(table.update().where(waiting).values(consumed_by=run.run_id, consumed_on=run.run_date))


def audit(
    connection: sa.Connection,
    who: str,
    customer_id: str | None,
    what: str,
    why: str,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Log an act that changes what production does, in the transaction that does it."""
    line = {"who": who, "customer_id": customer_id, "what": what, "why": why, "before": before, "after": after}
    connection.execute(tables.audit_log.insert().values(line))


def trim(engine: sa.Engine, customer: Customer) -> int:
    """Delete detail older than ``detail_days`` before the newest published run date; returns rows deleted.

    Runs, publications and checksums stay, so that ``reproduce`` can bring detail back; so does what readers see now.
    """
    newest = newest_published(engine, customer.id)
    if newest is None:
        return 0
    limit = _oldest_shown(engine, customer.id, newest.run_date - timedelta(days=customer.detail_days))
    provision.drop_months(engine, customer, limit)
    old = "run_id IN (SELECT run_id FROM forecasting.run WHERE customer_id = :id AND run_date < :limit)"
    homes = [f'"{customer.id}".{name}' for name in ("forecast", "score", "quarantine")]
    deleted = 0
    with engine.begin() as connection:
        for home in (*homes, "forecasting.series_status"):
            statement = sa.text(f"DELETE FROM {home} WHERE customer_id = :id AND {old}")
            deleted += connection.execute(statement, {"id": customer.id, "limit": limit}).rowcount
    log.info("trim: %s: %s rows older than %s", customer.id, deleted, limit)
    return deleted


def _oldest_shown(engine: sa.Engine, customer_id: str, limit: date) -> date:
    """``limit``, or the run date of an older run that a rollback still shows for a run date since."""
    shown = _publications(customer_id).ext(distinct_on(tables.publication.c.run_date)).subquery()
    run = tables.run
    same = (run.c.customer_id == shown.c.customer_id) & (run.c.run_id == shown.c.run_id)
    oldest = sa.select(sa.func.min(run.c.run_date)).select_from(shown.join(run, same)).where(shown.c.run_date >= limit)
    with acting_for(engine, customer_id) as connection:
        found = connection.execute(oldest).scalar()
    return min(limit, found) if found else limit
