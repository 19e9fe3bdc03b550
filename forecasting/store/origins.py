"""What a version has behind it where it comes from, and its line where it goes to. It decides nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

import sqlalchemy as sa

from forecasting.store import pointers, tables, warehouse

__all__ = ["Compared", "Gate", "Night", "compared", "gates", "nights", "open_shadows", "reached", "told"]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One decision about a version: what the gate said of it as a challenger."""

    environment: str
    run_id: str
    version: str
    kind: str
    champion: str | None
    promoted: bool
    reason: str
    evidence: dict[str, Any] | None
    decided_at: str

    def as_dict(self) -> dict[str, Any]:
        """As it stands in a version's origin."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Night:
    """A live night on which a version made a whole set that passed the outgoing contract."""

    run_date: date
    run_id: str
    status: str
    """published: readers saw it; kept: it competed in shadow."""


def gates(engine: sa.Engine, customer_id: str, version: str, environment: str) -> list[Gate]:
    """Every decision about the version as a challenger, oldest first."""
    table = tables.decision
    mine = (table.c.customer_id == customer_id) & (table.c.challenger == version)
    with warehouse.acting_for(engine, customer_id) as connection:
        rows = connection.execute(sa.select(table).where(mine).order_by(table.c.decided_at)).mappings().all()
    return [
        Gate(
            environment=environment,
            version=version,
            decided_at=row["decided_at"].isoformat(),
            **{name: row[name] for name in ("run_id", "kind", "champion", "promoted", "reason", "evidence")},
        )
        for row in rows
    ]


def nights(engine: sa.Engine, customer_id: str, version: str) -> list[Night]:
    """The live nights behind a version, one a run date, oldest first; the night that made it is none of them."""
    run, made = tables.run, tables.model_version
    born = sa.select(made.c.run_id).where(made.c.customer_id == customer_id, made.c.version == version)
    beside = sa.func.coalesce(run.c.beside, run.c.run_id)
    statement = (
        sa.select(run.c.run_date, run.c.run_id, run.c.status)
        .where(run.c.customer_id == customer_id, run.c.version == version, run.c.live)
        .where(run.c.status.in_(["published", "kept"]))
        .where(beside.is_distinct_from(born.scalar_subquery()))
        .order_by(run.c.run_date, run.c.n)
    )
    with warehouse.acting_for(engine, customer_id) as connection:
        rows = connection.execute(statement).mappings().all()
    by_date = {row["run_date"]: Night(**row) for row in rows}
    return list(by_date.values())


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One night of a version in shadow beside what was published, on the same actuals."""

    run_date: date
    kept: str
    published: str
    champion: str
    n: int | None
    """Actuals that both were scored on so far; None: none came yet."""
    rmsse: float | None
    champion_rmsse: float | None
    wape: float | None
    champion_wape: float | None


def compared(engine: sa.Engine, customer_id: str, version: str) -> list[Compared]:
    """A version's sets kept in shadow, newest first, scored over all series and all steps that have arrived."""
    statement = sa.text(_COMPARED.format(home=f'"{customer_id}".score'))
    with warehouse.acting_for(engine, customer_id) as connection:
        rows = connection.execute(statement, {"customer": customer_id, "version": version}).mappings().all()
    return [Compared(**row) for row in rows]


_COMPARED = """
select k.run_date, k.run_id as kept, p.run_id as published, p.version as champion, s.n,
       s.rmsse, c.rmsse as champion_rmsse, s.wape, c.wape as champion_wape
from forecasting.run k join forecasting.run p on p.customer_id = k.customer_id and p.run_id = k.beside
left join ({home} s join {home} c on c.customer_id = s.customer_id and c.node = s.node and c.unique_id = s.unique_id
           and c.h = s.h and c.n = s.n)
  on s.customer_id = k.customer_id and s.run_id = k.run_id and c.run_id = k.beside
  and s.node = 'bottom' and s.unique_id = '*' and s.h = 0
where k.customer_id = :customer and k.version = :version and k.status = 'kept' and k.live and k.plan = 'refresh'
order by k.run_date desc, k.n desc
"""


def open_shadows(engine: sa.Engine, customer_id: str, run_date: date, horizon_days: int) -> list[str]:
    """Runs kept in shadow whose horizon may hold actuals by ``run_date``, oldest first."""
    run = tables.run
    since = run_date - timedelta(days=horizon_days)
    statement = (
        sa.select(run.c.run_id)
        .where(run.c.customer_id == customer_id, run.c.status == "kept", run.c.live, run.c.plan == "refresh")
        .where(run.c.run_date < run_date, run.c.run_date >= since)
        .order_by(run.c.run_date, run.c.n)
    )
    with warehouse.acting_for(engine, customer_id) as connection:
        return [str(found) for found in connection.execute(statement).scalars()]


def reached(engine: sa.Engine, customer_id: str, version: str) -> str:
    """Where a version got to: in ``charge`` ever; a question (``approval``) answered or waiting; in ``shadow`` now.

    Nowhere is empty: a question that expired or a shadow that was ended may be promoted again.
    """
    with warehouse.acting_for(engine, customer_id) as connection:
        open_or_said = tables.approval.c.state.not_in(["expired", "superseded"])
        for name, table, counts in (
            ("charge", tables.champion, sa.true()),
            ("approval", tables.approval, open_or_said),
        ):
            mine = (table.c.customer_id == customer_id) & (table.c.version == version)
            if connection.execute(sa.select(sa.exists().where(mine, counts))).scalar_one():
                return name
        line = pointers.shadowed(connection, customer_id, date.max)
    return "shadow" if line and line.version == version else ""


def told(connection: sa.Connection, customer_id: str, what: str, after: dict[str, Any]) -> bool:
    """Whether the audit log holds such an act, whose state afterwards held all of ``after``."""
    table = tables.audit_log
    mine = (table.c.customer_id == customer_id) & (table.c.what == what) & table.c.after.contains(after)
    return bool(connection.execute(sa.select(sa.exists().where(mine))).scalar_one())
