"""What a reproduction reads beside the run's own row, and the one thing it may write: detail that was trimmed."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from forecasting.config import Customer
from forecasting.errors import ChecksumMismatchError
from forecasting.store import provision, tables, warehouse

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Fits",
    "alike",
    "decision",
    "ended_fits",
    "lost_fits",
    "newest_published",
    "published_runs",
    "read_only",
    "restore",
    "standing",
]

_T = TypeVar("_T")


def read_only(engine: sa.Engine) -> sa.Engine:
    """The same warehouse in transactions that the server lets change nothing."""
    return engine.execution_options(postgresql_readonly=True)


def standing(engine: sa.Engine, run: warehouse.Run) -> warehouse.Publication | None:
    """The publication that holds a run's rows: its own line, or the one whose values it verified; None: it has none."""
    line = tables.publication
    same = (line.c.run_id == run.run_id) | ((line.c.key == run.key) & (line.c.checksum == run.checksum))
    statement = sa.select(line).where(line.c.customer_id == run.customer_id, line.c.run_date == run.run_date, same)
    own_first = (line.c.run_id == run.run_id).desc()
    with warehouse.acting_for(engine, run.customer_id) as connection:
        return _first(connection, warehouse.Publication, statement.order_by(own_first, line.c.seq))


def _first(connection: sa.Connection, kind: type[_T], statement: sa.Select[Any]) -> _T | None:
    row = connection.execute(statement.limit(1)).mappings().first()
    return None if row is None else kind(**{field.name: row[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def decision(engine: sa.Engine, customer_id: str, run_id: str) -> warehouse.Decision | None:
    """What was decided in a run."""
    table = tables.decision
    statement = sa.select(table).where(table.c.customer_id == customer_id, table.c.run_id == run_id)
    with warehouse.acting_for(engine, customer_id) as connection:
        return _first(connection, warehouse.Decision, statement)


@dataclass(frozen=True)
class Fits:
    """The fits of a run that ended, as its stages' times tell."""

    shards: frozenset[int]
    ml: bool


def ended_fits(engine: sa.Engine, customer_id: str, run_id: str) -> Fits:
    """Which fits of a run ended."""
    table = tables.stage_time
    statement = sa.select(table.c.stage, table.c.shard).where(
        table.c.customer_id == customer_id, table.c.run_id == run_id
    )
    with warehouse.acting_for(engine, customer_id) as connection:
        found = connection.execute(statement).all()
    shards = frozenset(shard for stage, shard in found if stage == "fit_statistical")
    return Fits(shards, any(stage == "fit_ml" for stage, _ in found))


_LOST = re.compile(r"; lost (?:(\d+) of (\d+) statistical shards|(fit_ml))")


def lost_fits(reason: str) -> tuple[int, int, bool]:
    """What a publication's reason says was lost: shards, of how many, and whether the global model.

    >>> lost_fits("kept: refresh; lost 1 of 2 statistical shards; lost fit_ml")
    (1, 2, True)
    >>> lost_fits("kept: refresh")
    (0, 0, False)
    """
    found = _LOST.findall(reason)
    shards = next(((int(n), int(of)) for n, of, _ in found if of), (0, 0))
    return (*shards, any(ml for _, _, ml in found))


def alike(engine: sa.Engine, run: warehouse.Run) -> list[dict[str, Any]]:
    """The configurations of other runs that froze one of the same hash, newest first."""
    table = tables.run
    statement = (
        sa.select(table.c.config)
        .where(table.c.customer_id == run.customer_id, table.c.config_hash == run.config_hash)
        .where(table.c.run_id != run.run_id)
        .order_by(table.c.fence.desc())
        .limit(20)
    )
    with warehouse.acting_for(engine, run.customer_id) as connection:
        return [dict(config) for config in connection.execute(statement).scalars()]


def newest_published(engine: sa.Engine, customer_id: str, run_date: date) -> str | None:
    """The run that readers see for that run date."""
    found = warehouse.published(engine, customer_id, run_date)
    return found.run_id if found else None


def published_runs(engine: sa.Engine) -> pd.DataFrame:
    """Every run that has a checksum to give again: customer_id, run_id, run_date, plan, status; in order."""
    return warehouse.query(engine, _PUBLISHED)


_PUBLISHED = """
select customer_id, run_id, run_date, plan, status, version, checksum from forecasting.run
where checksum is not null and snapshot is not null and status in ('published', 'verified', 'kept')
order by customer_id, run_date, n
"""


def restore(
    engine: sa.Engine, run: warehouse.Run, rows: pd.DataFrame, account: pd.DataFrame | None, *, who: str
) -> dict[str, int]:
    """Put back the rows and statuses of a run whose detail was trimmed; what is there stays as it is.

    Args:
        engine: Of the warehouse.
        run: One that published.
        rows: ``frames.PUBLISHED``, of the run's own checksum.
        account: ``frames.ACCOUNT``; None: leave the statuses.
        who: For the audit log.

    Returns:
        Rows written, by table.

    Raises:
        ChecksumMismatchError: These are not the run's rows.
    """
    if warehouse.checksum(rows) != run.checksum:
        raise ChecksumMismatchError(f"{run.run_id}: these are not the rows it published; nothing was put back")
    provision.ensure_month(engine, Customer.model_validate(run.config), run.run_date)
    with warehouse.acting_for(engine, run.customer_id) as connection:
        there = _counts(connection, run)
        written = dict.fromkeys(there, 0)
        if not there["forecast"]:
            warehouse.write_forecast(connection, run, rows)
            written["forecast"] = len(rows)
        if account is not None and not there["series_status"]:
            warehouse.record_status(connection, run, account)
            written["series_status"] = len(account)
        if any(written.values()):
            why = "the same rows were computed again; checksum and counts agree"
            warehouse.audit(
                connection, who, run.customer_id, "detail_restored", why, there, written | {"run_id": run.run_id}
            )
    return written


def _counts(connection: sa.Connection, run: warehouse.Run) -> dict[str, int]:
    homes = {"forecast": f'"{run.customer_id}".forecast', "series_status": f"{tables.SCHEMA}.series_status"}
    of_run = {"id": run.customer_id, "run": run.run_id}
    return {
        name: int(connection.execute(sa.text(_COUNT.format(home)), of_run).scalar_one()) for name, home in homes.items()
    }


_COUNT = "SELECT count(*) FROM {} WHERE customer_id = :id AND run_id = :run"
