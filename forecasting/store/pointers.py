"""Pins, shadows, approvals, sets shown again: a person's word over what nights do. Each act is also one in the audit.

Every function works in the caller's transaction, from ``warehouse.acting_for``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from forecasting.errors import ConfigurationError
from forecasting.store import tables, warehouse

__all__ = [
    "Approval",
    "Pin",
    "Set",
    "Shadow",
    "answer",
    "approval",
    "ask",
    "asked_by",
    "last_night",
    "pin",
    "pinned",
    "predecessor",
    "put_in_shadow",
    "sets",
    "shadowed",
    "show",
    "unpin",
    "waiting",
]

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Pin:
    """A version that is held in charge up to the run date ``until``."""

    seq: int
    version: str
    until: date
    who: str
    why: str
    recorded_at: datetime


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """A version whose sets are computed and scored beside the champion's, and never shown."""

    seq: int
    version: str
    effective_from: date
    who: str
    why: str
    recorded_at: datetime


@dataclass(frozen=True, kw_only=True)
class Approval:
    """A challenger that won, and the answer it got."""

    approval_id: int
    customer_id: str
    run_id: str
    version: str
    champion: str
    evidence: dict[str, Any]
    state: str
    requested_at: datetime
    expires_at: datetime
    decided_at: datetime | None
    who: str | None
    why: str | None


def _first(connection: sa.Connection, kind: type[_T], statement: sa.Select[Any]) -> _T | None:
    row = connection.execute(statement.limit(1)).mappings().first()
    return None if row is None else kind(**{field.name: row[field.name] for field in fields(kind)})  # type: ignore[arg-type]


# --- pins -----------------------------------------------------------------------------------------------------------


def pinned(connection: sa.Connection, customer_id: str, run_date: date) -> Pin | None:
    """The version that a live night of ``run_date`` must leave in charge, whatever wins."""
    table = tables.pin
    statement = sa.select(table).where(table.c.customer_id == customer_id).order_by(table.c.seq.desc()).limit(1)
    newest = statement.subquery()
    return _first(connection, Pin, sa.select(newest).where(newest.c.until >= run_date))


def last_night(connection: sa.Connection, customer_id: str, published: date) -> date:
    """The newest live run date that has ended, however it ended; at least ``published``.

    A pin counts from it: after weeks without anything new, days from the newest publication would be over already.
    """
    run = tables.run
    ended = (run.c.customer_id == customer_id) & run.c.live & (run.c.status != "running")
    newest: date | None = connection.execute(sa.select(sa.func.max(run.c.run_date)).where(ended)).scalar()
    return max(newest, published) if newest else published


def pin(connection: sa.Connection, customer_id: str, version: str, until: date, *, who: str, why: str) -> None:
    """Hold ``version`` in charge up to the run date ``until``."""
    _draw_pin(connection, customer_id, version, until, who=who, why=why)


def unpin(connection: sa.Connection, customer_id: str, *, who: str, why: str) -> None:
    """Let nights decide again."""
    _draw_pin(connection, customer_id, None, None, who=who, why=why)


def _draw_pin(
    connection: sa.Connection, customer_id: str, version: str | None, until: date | None, *, who: str, why: str
) -> None:
    before = pinned(connection, customer_id, date.min)
    line = {"customer_id": customer_id, "version": version, "until": until, "who": who, "why": why}
    connection.execute(tables.pin.insert().values(line))
    warehouse.audit(
        connection,
        who,
        customer_id,
        "pin" if version else "unpin",
        why,
        {"version": before.version, "until": str(before.until)} if before else None,
        {"version": version, "until": str(until)} if version else None,
    )


# --- sets shown again -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Set:
    """A complete set that a run published, or kept beside the one that it published."""

    run: warehouse.Run
    there: bool
    """False: its rows have been trimmed."""


def sets(connection: sa.Connection, customer_id: str, until: date, version: str | None = None) -> list[Set]:
    """Every set of runs up to the run date ``until``, newest first.

    Args:
        connection: From ``warehouse.acting_for``.
        customer_id: Whose.
        until: Last run date that counts.
        version: Only sets of that version.
    """
    run = tables.run
    forecast = sa.table("forecast", sa.column("customer_id"), sa.column("run_id"), schema=customer_id)
    # both columns: the key begins with the customer, and a scan of the whole partition would hold the lock
    there = sa.exists().where(forecast.c.customer_id == customer_id, forecast.c.run_id == run.c.run_id).label("there")
    mine = (run.c.customer_id == customer_id) & (run.c.run_date <= until)
    whole = run.c.status.in_(["published", "kept"]) & (run.c.rows_published > 0)
    statement = sa.select(run, there).where(mine, whole).order_by(run.c.run_date.desc(), run.c.n.desc())
    if version is not None:
        statement = statement.where(run.c.version == version)
    names = [field.name for field in fields(warehouse.Run)]
    rows = connection.execute(statement).mappings()
    return [Set(warehouse.Run(**{name: row[name] for name in names}), row["there"]) for row in rows]


def show(connection: sa.Connection, shown: warehouse.Run, run_date: date, *, who: str, why: str) -> bool:
    """Show readers that run's set for ``run_date``; one of an earlier run date is marked stale.

    The line's fence is a new one: attempts at the date that are under way come late.

    Returns:
        False when readers see it already.
    """
    before = warehouse.standing(connection, shown.customer_id, run_date)
    if before and before.run_id == shown.run_id:
        return False
    fence = warehouse.next_fence(connection, shown.customer_id)
    table = tables.run
    same = (table.c.customer_id == shown.customer_id) & (table.c.run_id == shown.run_id)
    connection.execute(table.update().where(same, table.c.status == "kept").values(status="published"))
    warehouse.point(
        connection,
        shown,
        before=before,
        key=str(shown.key),
        checksum=str(shown.checksum),
        version=str(shown.version),
        reason=why,
        run_date=run_date,
        fence=fence,
        stale=shown.run_date != run_date,
        who=who,
    )
    return True


def predecessor(connection: sa.Connection, customer_id: str) -> str | None:
    """The version that was in charge before the present one first was: what an undo goes back to, once more each time.

    Lines of backfills count up to the first live one, as they do for live nights.
    """
    line = tables.champion
    mine = line.c.customer_id == customer_id
    first_live = sa.select(sa.func.min(line.c.seq)).where(mine, line.c.live).scalar_subquery()
    counts = line.c.live | first_live.is_(None) | (line.c.seq < first_live)
    statement = sa.select(line.c.version).where(mine, counts).order_by(line.c.live, line.c.effective_from, line.c.seq)
    crowned = [str(version) for version in connection.execute(statement).scalars()]
    earlier = crowned[: crowned.index(crowned[-1])] if crowned else []
    return earlier[-1] if earlier else None


# --- shadows --------------------------------------------------------------------------------------------------------


def shadowed(connection: sa.Connection, customer_id: str, run_date: date) -> Shadow | None:
    """The version that competes in shadow on ``run_date``."""
    table = tables.shadow
    mine = (table.c.customer_id == customer_id) & (table.c.effective_from < run_date)
    newest = sa.select(table).where(mine).order_by(table.c.seq.desc()).limit(1).subquery()
    return _first(connection, Shadow, sa.select(newest).where(newest.c.version.is_not(None)))


def put_in_shadow(
    connection: sa.Connection, customer_id: str, version: str | None, *, effective_from: date, who: str, why: str
) -> None:
    """Have ``version`` compete in shadow after ``effective_from``; None: nobody does."""
    line = {"customer_id": customer_id, "version": version, "effective_from": effective_from, "who": who, "why": why}
    before = shadowed(connection, customer_id, date.max)
    connection.execute(tables.shadow.insert().values(line))
    warehouse.audit(
        connection,
        who,
        customer_id,
        "shadow",
        why,
        {"version": before.version} if before else None,
        {"version": version, "effective_from": str(effective_from)},
    )


# --- approvals ------------------------------------------------------------------------------------------------------


def waiting(connection: sa.Connection, customer_id: str) -> Approval | None:
    """The challenger that waits for somebody's word; at most one does."""
    table = tables.approval
    mine = (table.c.customer_id == customer_id) & (table.c.state == "waiting")
    return _first(connection, Approval, sa.select(table).where(mine))


def approval(connection: sa.Connection, customer_id: str, approval_id: int) -> Approval:
    """One approval as it stands.

    Raises:
        ConfigurationError: The customer has no such approval.
    """
    table = tables.approval
    mine = (table.c.customer_id == customer_id) & (table.c.approval_id == approval_id)
    found = _first(connection, Approval, sa.select(table).where(mine))
    if found is None:
        raise ConfigurationError(f"customer {customer_id!r} has no approval {approval_id}")
    return found


def asked_by(connection: sa.Connection, run: warehouse.Run, version: str) -> int | None:
    """The number of the approval that this run asked for, whatever became of it."""
    table = tables.approval
    mine = (table.c.customer_id == run.customer_id) & (table.c.run_id == run.run_id) & (table.c.version == version)
    number = connection.execute(sa.select(sa.func.max(table.c.approval_id)).where(mine)).scalar()
    return None if number is None else int(number)


def ask(
    connection: sa.Connection,
    run: warehouse.Run,
    *,
    version: str,
    champion: str,
    evidence: dict[str, Any],
    expires_at: datetime,
    who: str,
    again: bool = False,
) -> int:
    """Ask for a person's word; a challenger that still waits is superseded. The same run asks once.

    Args:
        connection: From ``warehouse.acting_for``.
        run: The night that the question hangs on.
        version: The challenger.
        champion: The version in charge.
        evidence: What is shown to the person.
        expires_at: When the question ends without an answer.
        who: Who asks.
        again: Ask anew where the run's earlier question about the version ended unanswered.

    Returns:
        The number of the approval.
    """
    if (asked_before := asked_by(connection, run, version)) is not None:
        unanswered = approval(connection, run.customer_id, asked_before).state in ("expired", "superseded")
        if not (again and unanswered):
            return asked_before
    if earlier := waiting(connection, run.customer_id):
        answer(connection, earlier, "superseded", who=who, why=f"{version} of {run.run_id} is newer")
    values = {
        "customer_id": run.customer_id,
        "run_id": run.run_id,
        "version": version,
        "champion": champion,
        "evidence": evidence,
        "state": "waiting",
        "expires_at": expires_at,
    }
    number = connection.execute(tables.approval.insert().values(values).returning(tables.approval.c.approval_id))
    asked = int(number.scalar_one())
    warehouse.audit(
        connection,
        who,
        run.customer_id,
        "approval_asked",
        f"{version} won against {champion} on {run.run_id}",
        None,
        {"approval_id": asked, "version": version, "expires_at": expires_at.isoformat()},
    )
    return asked


def answer(connection: sa.Connection, asked: Approval, state: str, *, who: str, why: str) -> None:
    """Close an approval that waits.

    Raises:
        ConfigurationError: It was answered before, or a newer challenger took its place.
    """
    table = tables.approval
    still = (table.c.approval_id == asked.approval_id) & (table.c.state == "waiting")
    closed = {"state": state, "decided_at": sa.func.clock_timestamp(), "who": who, "why": why}
    done = connection.execute(table.update().where(table.c.customer_id == asked.customer_id, still).values(closed))
    if done.rowcount != 1:
        now = approval(connection, asked.customer_id, asked.approval_id)
        raise ConfigurationError(
            f"{asked.customer_id}: approval {now.approval_id} of {now.version} is {now.state} by {now.who}: {now.why}"
        )
    warehouse.audit(
        connection,
        who,
        asked.customer_id,
        f"approval_{state}",
        why,
        {"approval_id": asked.approval_id, "state": "waiting"},
        {"approval_id": asked.approval_id, "version": asked.version, "state": state},
    )
