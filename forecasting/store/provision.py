"""What each customer owns in the warehouse: schema, partitions, roles, grants, views. It drops no customer's data."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from forecasting.config import Customer
from forecasting.periods import period_end, shift
from forecasting.store import tables
from forecasting.store.views import View, customer_views

__all__ = ["Step", "apply", "drop_months", "ensure", "ensure_month", "plan", "reader", "unclaimed", "writer"]

log = logging.getLogger(__name__)

FLEET = "forecasting_reader"
"""Role that may read every customer."""
GROUPS = {"reader": "forecasting_customer_reader", "writer": "forecasting_customer_writer"}
"""Roles that hold the grants on the small tables: a thousand grants on a table do not fit into its catalogue row."""

_WRITES = {
    "forecast": ("INSERT", "SELECT"),
    "actual": ("INSERT", "SELECT", "UPDATE"),
    "score": ("INSERT", "SELECT", "UPDATE"),
    "quarantine": ("DELETE", "INSERT", "SELECT"),
}


@dataclass(frozen=True)
class Step:
    """One change to the warehouse: a sentence for people, and the SQL that makes it."""

    customer_id: str
    sentence: str
    sql: str


@dataclass(frozen=True)
class _Relation:
    kind: str
    attached: bool
    comment: str | None
    invoker: bool
    grants: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class _State:
    """What the catalogues say, read in one go for all customers."""

    login: str
    hashes: dict[str, str]
    schemas: dict[str, frozenset[tuple[str, str]]]
    relations: dict[tuple[str, str], _Relation]
    roles: frozenset[str]
    members: dict[tuple[str, str], tuple[bool, bool, bool]]


def reader(customer_id: str) -> str:
    """Role that may read what is the customer's."""
    return f"customer_{_plain(customer_id)}_reader"


def writer(customer_id: str) -> str:
    """Role in which runs write what is the customer's."""
    return f"customer_{_plain(customer_id)}_writer"


def _plain(customer_id: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{1,30}", customer_id):
        raise ValueError(f"{customer_id!r} is not a customer id")
    return customer_id


def plan(connection: sa.Connection, customers: Sequence[Customer]) -> list[Step]:
    """What is missing or has drifted, customer by customer; empty when the warehouse is as declared."""
    state = _read(connection, [customer.id for customer in customers])
    return [step for customer in customers for step in _steps(customer, state)]


def apply(engine: sa.Engine, customers: Sequence[Customer]) -> list[Step]:
    """Make the warehouse as declared, a transaction per customer; returns what was done."""
    with engine.begin() as gate:
        # Grants on one role from two sessions at once fail: provisioning is one at a time.
        gate.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = '1h'"))
        gate.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('forecasting.provision'))"))
        with engine.connect() as connection:
            steps = plan(connection, customers)
        for customer_id, group in groupby(steps, key=lambda step: step.customer_id):
            _run(engine, [step.sql for step in group])
            log.info("provision: %s is as declared", customer_id)
    return steps


def ensure(engine: sa.Engine, customer: Customer) -> list[Step]:
    """Make one customer's part as declared; a few catalogue queries when it is."""
    with engine.connect() as connection:
        steps = plan(connection, [customer])
    return apply(engine, [customer]) if steps else []


def unclaimed(connection: sa.Connection, known: Iterable[str]) -> list[str]:
    """Customers the warehouse holds and no file declares: reported, never dropped."""
    rows = connection.execute(sa.select(tables.customer.c.customer_id)).scalars()
    return sorted(set(rows) - set(known))


def _run(engine: sa.Engine, statements: Sequence[str]) -> None:
    with engine.begin() as connection:
        # One message to the server for all: no parameters, so a percent sign means itself.
        driver: Any = connection.connection.driver_connection
        driver.execute(";\n".join(statements).encode())


# --- what there is --------------------------------------------------------------------------------------------------

_GRANTS = """
    coalesce((
        SELECT array_agg(coalesce(r.rolname, 'PUBLIC') || '=' || a.privilege_type)
        FROM aclexplode({acl}) AS a LEFT JOIN pg_roles AS r ON r.oid = a.grantee
        WHERE a.grantee <> {owner}
    ), '{{}}')"""

_RELATIONS = f"""
SELECT n.nspname, c.relname, c.relkind::text,
    EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = c.oid
        AND i.inhparent = to_regclass('forecasting.' || c.relname)) AS attached,
    obj_description(c.oid, 'pg_class') AS comment,
    coalesce('security_invoker=true' = ANY (c.reloptions), false) AS invoker,
    {_GRANTS.format(acl="c.relacl", owner="c.relowner")} AS grants
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = ANY (:ids) AND c.relname = ANY (:names)"""

_SCHEMAS = f"""
SELECT n.nspname, {_GRANTS.format(acl="n.nspacl", owner="n.nspowner")} AS grants
FROM pg_namespace AS n WHERE n.nspname = ANY (:ids)"""

_MEMBERS = """
SELECT g.rolname, m.rolname, bool_or(a.inherit_option), bool_or(a.set_option),
    bool_or(a.grantor = current_user::regrole)
FROM pg_auth_members AS a JOIN pg_roles AS g ON g.oid = a.roleid JOIN pg_roles AS m ON m.oid = a.member
WHERE g.rolname = ANY (:roles) OR m.rolname = ANY (:roles) GROUP BY 1, 2"""

_HASHES = """
SELECT customer_id, config_hash FROM forecasting.customer JOIN forecasting.snapshot_lock USING (customer_id)
WHERE customer_id = ANY (:ids)"""

_VIEW_NAMES = ("forecast_current", "forecast_history", "forecast_accuracy", "feed_day", "model_history")


def _read(connection: sa.Connection, ids: list[str]) -> _State:
    names = [*(table.name for table in tables.PARTITIONED), *_VIEW_NAMES]
    roles = [role(customer_id) for customer_id in ids for role in (reader, writer)]

    def rows(sql: str, **values: list[str]) -> Iterator[Any]:
        return iter(connection.execute(sa.text(sql), values))

    return _State(
        login=str(connection.execute(sa.text("SELECT current_user")).scalar_one()),
        hashes=dict(tuple(row) for row in rows(_HASHES, ids=ids)),
        schemas={name: _pairs(grants) for name, grants in rows(_SCHEMAS, ids=ids)},
        relations={
            (schema, name): _Relation(kind, attached, comment, invoker, _pairs(grants))
            for schema, name, kind, attached, comment, invoker, grants in rows(_RELATIONS, ids=ids, names=names)
        },
        roles=frozenset(row[0] for row in rows("SELECT rolname FROM pg_roles")),
        members={(role, member): (a, b, c) for role, member, a, b, c in rows(_MEMBERS, roles=roles)},
    )


def _pairs(grants: list[str]) -> frozenset[tuple[str, str]]:
    return frozenset((role, privilege) for role, _, privilege in (grant.rpartition("=") for grant in grants))


# --- what there should be -------------------------------------------------------------------------------------------


def _steps(customer: Customer, state: _State) -> Iterator[Step]:
    for sentence, sql in (
        *_roles(customer, state),
        *_schema(customer, state),
        *_row(customer, state),
        *_partitions(customer, state),
        *_views(customer, state),
    ):
        yield Step(customer.id, f"{customer.id}: {sentence}", sql)


def _roles(customer: Customer, state: _State) -> Iterator[tuple[str, str]]:
    for kind, role in (("reader", reader(customer.id)), ("writer", writer(customer.id))):
        if role not in state.roles:
            yield f"create role {role}", f'CREATE ROLE "{role}" NOLOGIN'
        if not state.members.get((GROUPS[kind], role), (False, False, False))[0]:
            yield f"let {role} use the small tables", f'GRANT {GROUPS[kind]} TO "{role}" WITH INHERIT TRUE'
        inherits, sets, _ = state.members.get((role, state.login), (True, False, False))
        if inherits or not sets:
            yield (
                f"let the warehouse's login act as {role}",
                f'GRANT "{role}" TO CURRENT_USER WITH SET TRUE, INHERIT FALSE',
            )
    yield from _logins(customer, state)


def _logins(customer: Customer, state: _State) -> Iterator[tuple[str, str]]:
    """Declared logins may read; a login that is no longer declared loses what we granted it."""
    role = reader(customer.id)
    for login in customer.roles:
        if login not in state.roles:
            log.warning("provision: %s: login %s is declared in roles but does not exist", customer.id, login)
        elif not state.members.get((role, login), (False, False, False))[0]:
            yield f"let {login} read", f'GRANT "{role}" TO "{login}" WITH INHERIT TRUE'
    for (granted, member), (_, _, ours) in state.members.items():
        if granted == role and ours and member not in (*customer.roles, state.login):
            yield f"{member} may no longer read", f'REVOKE "{role}" FROM "{member}"'


def _schema(customer: Customer, state: _State) -> Iterator[tuple[str, str]]:
    if customer.id not in state.schemas:
        comment = _literal(f"Forecasts, actuals, scores and quarantine of {customer.id}.")
        yield "create schema", f'CREATE SCHEMA "{customer.id}";\nCOMMENT ON SCHEMA "{customer.id}" IS {comment}'
    wanted = frozenset((role, "USAGE") for role in (reader(customer.id), writer(customer.id), FLEET))
    yield from _grants(f'SCHEMA "{customer.id}"', wanted, state.schemas.get(customer.id, frozenset()))


def _grants(
    target: str, wanted: frozenset[tuple[str, str]], found: frozenset[tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    changes = []
    for verb, word, pairs in (("GRANT", "TO", wanted - found), ("REVOKE", "FROM", found - wanted)):
        for role, group in groupby(sorted(pairs), key=lambda pair: pair[0]):
            named = role if role == "PUBLIC" else f'"{role}"'
            changes.append(f"{verb} {', '.join(right for _, right in group)} ON {target} {word} {named}")
    if changes:
        taken = sorted({role for role, _ in found - wanted})
        loss = f", taking rights from {', '.join(taken)}" if taken else ""
        yield f"set grants on {target}{loss}", ";\n".join(changes)


def _row(customer: Customer, state: _State) -> Iterator[tuple[str, str]]:
    if state.hashes.get(customer.id) == customer.hash:
        return
    values = {
        "customer_id": customer.id,
        "time_zone": customer.time_zone,
        "frequency": customer.frequency,
        "horizon": customer.horizon,
        "latency_days": customer.latency_days,
        "keys": ",".join(customer.columns.keys),
        "detail_days": customer.detail_days,
        "large": str(customer.large).lower(),
        "config_hash": customer.hash,
    }
    listed = ", ".join(_literal(value) for value in values.values())
    changed = ", ".join(f"{name} = excluded.{name}" for name in values if name != "customer_id")
    row = f"INSERT INTO forecasting.customer ({', '.join(values)}) VALUES ({listed})"
    lock = f"INSERT INTO forecasting.snapshot_lock (customer_id) VALUES ({_literal(customer.id)})"
    sql = f"{row}\nON CONFLICT (customer_id) DO UPDATE SET {changed};\n{lock} ON CONFLICT DO NOTHING"
    yield "write the customer's row", sql


def _literal(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _partitions(customer: Customer, state: _State) -> Iterator[tuple[str, str]]:
    for table in tables.PARTITIONED:
        found = state.relations.get((customer.id, table.name))
        home = f'"{customer.id}".{table.name}'
        by_month = customer.large and table is tables.forecast
        if found is None:
            comment = f"COMMENT ON TABLE {home} IS {_literal(table.comment)}"
            split = " PARTITION BY RANGE (run_id)" if by_month else ""
            yield f"create {home}", f"CREATE TABLE {home} (LIKE {table} INCLUDING ALL){split};\n{comment}"
        elif by_month != (found.kind == "p") and table is tables.forecast:
            log.warning("provision: %s: large changed after the partition was made; it stays", customer.id)
        if found is None or not found.attached:
            # ATTACH lets readers of the parent go on, where CREATE … PARTITION OF would lock them out.
            attach = f"ALTER TABLE {table} ATTACH PARTITION {home} FOR VALUES IN ({_literal(customer.id)})"
            yield f"attach {home} to {table}", attach
        wanted = {(writer(customer.id), privilege) for privilege in _WRITES[table.name]}
        wanted |= {(reader(customer.id), "SELECT"), (FLEET, "SELECT")}
        yield from _grants(f"TABLE {home}", frozenset(wanted), found.grants if found else frozenset())


def _views(customer: Customer, state: _State) -> Iterator[tuple[str, str]]:
    wanted = frozenset((role, "SELECT") for role in (reader(customer.id), writer(customer.id), FLEET))
    for view in customer_views(customer):
        found = state.relations.get((customer.id, view.name))
        as_declared = found is not None and found.invoker and found.comment == view.mark
        if not as_declared:
            yield f"create view {view.name}", _create(customer, view, replace=found is not None)
        grants = found.grants if found and as_declared else frozenset()
        yield from _grants(f'TABLE "{customer.id}".{view.name}', wanted, grants)


def _create(customer: Customer, view: View, *, replace: bool) -> str:
    name = f'"{customer.id}".{view.name}'
    statements = [f"DROP VIEW {name}"] if replace else []
    statements += [view.sql, f"COMMENT ON VIEW {name} IS {_literal(view.mark)}"]
    statements += [f'COMMENT ON COLUMN {name}."{c}" IS {_literal(text)}' for c, text in view.columns.items()]
    return ";\n".join(statements)


# --- months of a large customer -------------------------------------------------------------------------------------


def ensure_month(engine: sa.Engine, customer: Customer, run_date: date) -> None:
    """Make the sub-partition that the forecasts of ``run_date`` belong to; only large customers have them.

    Run ids of one customer sort by date, so a month is a range of run ids.
    """
    if not customer.large:
        return
    month, home = _month(run_date), f'"{_plain(customer.id)}".forecast'
    name = f'"{customer.id}".forecast_{month:%Y_%m}'
    kind = sa.text("SELECT relkind::text, to_regclass(:name) FROM pg_class WHERE oid = to_regclass(:home)")
    with engine.connect() as connection:
        row = connection.execute(kind, {"name": name, "home": home}).one_or_none()
    if row is None or row[0] != "p" or row[1] is not None:
        return
    bounds = [_literal(f"{customer.id}/{day.isoformat()}") for day in (month, _month(shift(month, 1, "M")))]
    create = f"CREATE TABLE IF NOT EXISTS {name} (LIKE forecasting.forecast INCLUDING ALL)"
    comment = f"COMMENT ON TABLE {name} IS 'Forecasts of the run dates of {month:%Y-%m}.'"
    attach = f"ALTER TABLE {home} ATTACH PARTITION {name} FOR VALUES FROM ({bounds[0]}) TO ({bounds[1]})"
    gate = "SELECT pg_advisory_xact_lock(hashtext('forecasting.provision'))"
    guard = f"DO $$ BEGIN IF to_regclass({_literal(name)}) IS NULL THEN {create}; {comment}; {attach}; END IF; END $$"
    _run(engine, [gate, guard])


def drop_months(engine: sa.Engine, customer: Customer, limit: date) -> None:
    """Drop a large customer's sub-partitions that hold only run dates before ``limit``."""
    listed = sa.text(
        "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(:schema) AND relispartition "
        r"AND relname ~ '^forecast_[0-9]{4}_[0-9]{2}$' AND relkind = 'r'"
    )
    with engine.connect() as connection:
        names = connection.execute(listed, {"schema": f'"{_plain(customer.id)}"'}).scalars().all()
    for name in names:
        month = date(int(name[9:13]), int(name[14:16]), 1)
        if period_end(month, "M") < limit:
            _run(engine, [f'DROP TABLE "{customer.id}".{name}'])


def _month(day: date) -> date:
    return day.replace(day=1)
