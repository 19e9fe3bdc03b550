"""What the command line shows of the warehouse: one read-only query a table. It changes nothing."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from forecasting.errors import ConfigurationError, near_miss
from forecasting.store import tables, warehouse

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "approvals",
    "audit_trail",
    "championships",
    "customers",
    "duels",
    "known_customer",
    "newest_publications",
    "retrained",
    "rolling_scores",
    "runs",
    "stage_seconds",
    "version",
    "versions",
    "why_it_ended",
]

Row = dict[str, Any]


def customers(engine: sa.Engine) -> list[str]:
    """Ids of the customers that the warehouse knows, by name."""
    row = tables.customer.c.customer_id
    with engine.connect() as connection:
        return [str(name) for name in connection.execute(sa.select(row).order_by(row)).scalars()]


def newest_publications(engine: sa.Engine) -> pd.DataFrame:
    """One row per customer that has published: customer_id, run_date, version."""
    return warehouse.query(engine, _NEWEST)


_NEWEST = """
select distinct on (p.customer_id) p.customer_id, p.run_date, r.version
from forecasting.publication p join forecasting.run r using (customer_id, run_id)
order by p.customer_id, p.run_date desc, p.seq desc
"""


def runs(engine: sa.Engine) -> pd.DataFrame:
    """One row per customer and run date, oldest first: every published run, else the date's newest run.

    With its plan, champion, series by status, rows, lines and checksum; what a run without a publication never had is
    empty, and its plan is how it ended.
    """
    return warehouse.query(engine, _RUNS)


_RUNS = """
select r.customer_id as customer, r.run_date, case when p.seq is null then r.status else r.plan end as plan,
       coalesce(r.version, r.incoming_champion) as champion, r.series_in as series, r.series_ok as ok,
       r.series_fallback as fallback, r.series_cold_start as cold_start, r.series_retired as retired,
       r.rows_published as rows, r.lines_read as lines_in, r.lines_used as used, r.lines_excluded as excluded,
       r.lines_quarantined as quarantined, r.lines_future as future, left(p.checksum, 12) as checksum
from forecasting.run r left join (
    select distinct on (customer_id, run_id) customer_id, run_id, seq, checksum
    from forecasting.publication order by customer_id, run_id, seq
) p using (customer_id, run_id)
where p.seq is not null or r.n = (
    select max(n) from forecasting.run o where o.customer_id = r.customer_id and o.run_date = r.run_date
) and not exists (
    select from forecasting.publication o where o.customer_id = r.customer_id and o.run_date = r.run_date
)
order by r.customer_id, r.run_date, p.seq
"""


def stage_seconds(engine: sa.Engine) -> pd.DataFrame:
    """Wall seconds of each published run date's stages: customer, run_date, stage, seconds; of its longest shard."""
    return warehouse.query(engine, _SECONDS)


_SECONDS = """
select r.customer_id as customer, r.run_date, s.stage, max(s.seconds) as seconds
from forecasting.publication p join forecasting.run r using (customer_id, run_id)
join forecasting.stage_time s using (customer_id, run_id)
group by 1, 2, 3
"""


def rolling_scores(engine: sa.Engine) -> pd.DataFrame:
    """The newest champion's rolling evaluation: customer, rolling (one mapping per judged origin)."""
    return warehouse.query(engine, _ROLLING)


_ROLLING = """
select distinct on (customer_id) customer_id as customer, v.scores->'rolling' as rolling
from forecasting.champion c join forecasting.model_version v using (customer_id, version)
order by customer_id, c.effective_from desc, c.seq desc
"""


def retrained(engine: sa.Engine, customer_id: str, run_date: date) -> pd.DataFrame:
    """What the newest run of a date decided: one row, or none.

    With run_id, status, message, plan_reason; challenger, kind, promoted, reason, evidence (null where the run did not
    get there); and the challenger's rolling evaluation, one mapping per judged origin.
    """
    return warehouse.query(engine, _RETRAINED.format(customer_id=customer_id, run_date=run_date.isoformat()))


_RETRAINED = """
select r.run_id, r.status, r.message, r.plan_reason, d.challenger, d.kind, d.promoted, d.reason, d.evidence,
       v.scores->'rolling' as rolling
from forecasting.run r left join forecasting.decision d using (customer_id, run_id)
left join forecasting.model_version v on v.customer_id = r.customer_id and v.version = d.challenger
where r.customer_id = '{customer_id}' and r.run_date = '{run_date}' and r.beside is null order by r.n desc limit 1
"""


def audit_trail(engine: sa.Engine, customer_id: str, since: date | None = None) -> pd.DataFrame:
    """Every act on one customer, oldest first: at, who, what, why, before, after.

    Args:
        engine: Of the warehouse.
        customer_id: A customer's id, as declared.
        since: First day, in UTC, that is listed; None: all.
    """
    limit = f"and at >= '{since.isoformat()} 00:00 UTC'" if since else ""
    return warehouse.query(engine, _AUDIT.format(customer_id=customer_id, limit=limit))


_AUDIT = """
select at, who, what, why, before, after from forecasting.audit_log
where customer_id = '{customer_id}' {limit} order by seq
"""


def why_it_ended(engine: sa.Engine, customer_id: str, run_date: date) -> str:
    """What the newest run of a date says of its failure; empty when it did not fail."""
    found = warehouse.query(engine, _NEWEST_RUN.format(customer_id=customer_id, run_date=run_date.isoformat()))
    lines = [f"{row.message} ({row.run_id})" for row in found.itertuples() if row.status in _ENDED_BADLY]
    return lines[0] if lines else ""


_ENDED_BADLY = ("failed", "broken", "late")
_NEWEST_RUN = """
select run_id, status, message from forecasting.run
where customer_id = '{customer_id}' and run_date = '{run_date}' and beside is null order by n desc limit 1
"""


def approvals(engine: sa.Engine, customer_id: str | None = None) -> pd.DataFrame:
    """Questions to a person, of one customer or of all: those that wait first, then the newest; at most 200."""
    where = f"where customer_id = '{customer_id}'" if customer_id else ""
    return warehouse.query(engine, _APPROVALS.format(where=where))


_APPROVALS = """
select approval_id as n, customer_id as customer, version, champion, run_id as asked_by,
       case when state = 'waiting' and expires_at <= now() then 'expired' else state end as state,
       to_char(requested_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI') as asked,
       to_char(coalesce(decided_at, expires_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI') as until, who, why
from forecasting.approval {where}
order by state = 'waiting' desc, approval_id desc limit 200
"""


# --- versions -------------------------------------------------------------------------------------------------------

_CUSTOMER = re.compile(r"[a-z][a-z0-9_]{1,30}")
_VERSION = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}")
NAMED = 10
"""Versions that a message about a wrong one names."""


def known_customer(engine: sa.Engine, customer_id: str) -> str:
    """``customer_id``, if the warehouse knows it.

    Raises:
        ConfigurationError: It does not; with those that it knows.
    """
    known = customers(engine)
    if _CUSTOMER.fullmatch(customer_id) and customer_id in known:
        return customer_id
    near = near_miss(customer_id, known)
    raise ConfigurationError(
        f"the warehouse knows no customer {customer_id!r}.{near} Known: {', '.join(known) or 'none yet'}"
    )


def versions(engine: sa.Engine, customer_id: str) -> list[Row]:
    """Every version of a customer, oldest semantic version first: what it is, and how it stands.

    Beside the columns of ``model_version``: ``promoted``, ``decision_reason`` and ``incumbent`` of the decision it
    competed in, the newest line that made it champion (``effective_from``, ``until``, ``who``, ``crowned_reason``,
    ``crowned_at``; empty when never crowned), ``successor``, and whether it is ``champion``, ``pinned_until``,
    ``in_shadow`` or ``awaits_approval`` now.
    """
    return warehouse.records(engine, _VERSIONS.format(customer=known_customer(engine, customer_id)))


_VERSIONS = """
select v.*, r.code_commit, r.lock_hash, r.cpu_family, r.contract, d.promoted, d.reason as decision_reason,
       d.champion as incumbent, d.evidence, d.run_id as decided_in, l.effective_from, l.recorded_at as crowned_at,
       l.live, l.who, l.reason as crowned_reason, n.effective_from as until, n.version as successor,
       coalesce(v.version = h.champion, false) as champion,
       case when v.version = h.pinned then h.pinned_until end as pinned_until,
       coalesce(v.version = h.in_shadow, false) as in_shadow,
       coalesce(v.version = h.awaits_approval, false) as awaits_approval
from forecasting.model_version v
left join forecasting.run r using (customer_id, run_id)
left join forecasting.fleet_health h using (customer_id)
left join lateral (
    select * from forecasting.decision x
    where x.customer_id = v.customer_id and x.challenger = v.version order by x.decided_at desc limit 1
) d on true
left join lateral (
    select * from forecasting.champion x
    where x.customer_id = v.customer_id and x.version = v.version order by x.effective_from desc, x.seq desc limit 1
) l on true
left join lateral (
    select * from forecasting.champion x
    where x.customer_id = v.customer_id and (x.effective_from, x.seq) > (l.effective_from, l.seq)
      and (x.live or not l.live) and x.version <> v.version
    order by x.effective_from, x.seq limit 1
) n on true
where v.customer_id = '{customer}' order by v.major, v.minor, v.patch
"""


def version(engine: sa.Engine, customer_id: str, name: str) -> Row:
    """One row of :func:`versions`.

    Raises:
        ConfigurationError: There is no such version; with those that there are.
    """
    known = {str(row["version"]): row for row in versions(engine, customer_id)}
    if _VERSION.fullmatch(name) and name in known:
        return known[name]
    newest = list(known)[-NAMED:]
    some = f"{'Versions' if len(newest) == len(known) else 'Newest versions'}: {', '.join(newest) or 'none yet'}"
    raise ConfigurationError(f"{customer_id} has no version {name!r}.{near_miss(name, list(known))} {some}")


def championships(engine: sa.Engine, customer_id: str, name: str) -> list[Row]:
    """Every act that put a version in charge, held it there, or asked for a person's word on it, oldest first.

    Columns at, what (crowned, pinned, in shadow, approval), since, until, who, why.
    """
    row = version(engine, customer_id, name)
    return warehouse.records(engine, _ACTS.format(customer=row["customer_id"], version=row["version"]))


_ACTS = """
select recorded_at as at, 'crowned' as what, effective_from as since, null::date as until, who, reason as why
from forecasting.champion where customer_id = '{customer}' and version = '{version}'
union all
select recorded_at, 'pinned', null, until, who, why
from forecasting.pin where customer_id = '{customer}' and version = '{version}'
union all
select recorded_at, 'in shadow', effective_from, null, who, why
from forecasting.shadow where customer_id = '{customer}' and version = '{version}'
union all
select coalesce(decided_at, requested_at), 'approval ' || state, null, null, who, why
from forecasting.approval where customer_id = '{customer}' and version = '{version}'
order by 1
"""


def duels(engine: sa.Engine, customer_id: str, one: str, other: str) -> list[Row]:
    """The decisions in which two versions met, newest first: who challenged whom on which run, and how it ended."""
    names = [version(engine, customer_id, name)["version"] for name in (one, other)]
    return warehouse.records(engine, _DUELS.format(customer=customer_id, one=names[0], other=names[1]))


_DUELS = """
select run_id, decided_at, kind, challenger, champion, promoted, reason, evidence from forecasting.decision
where customer_id = '{customer}' and (challenger, champion) in (('{one}', '{other}'), ('{other}', '{one}'))
order by decided_at desc
"""
