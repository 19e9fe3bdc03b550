"""Say who is in charge and by whose word: pins, shadows, approvals, sets that were kept; a version owns its recipe.

Versions from before this revision take their configuration from the run that made them; their kind, size and fit time
are unknown. Champion lines from before it were drawn by the pipeline.
"""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"

MINE = "customer_id = ANY ((SELECT forecasting.customers_of('{}'))::text[])"
STATUSES = ("running", "published", "verified", "nothing_new", "broken", "failed", "late")
STATUS_COMMENT = "running, or how it ended: published, verified, nothing_new, broken, failed, late{}."
KEPT = "; kept: computed beside a published run"
CUSTOMER = "Customer: the name of its file and of its schema."
SEQ = "Order in which lines were added."


def upgrade() -> None:
    """Add columns and tables; the new tables are closed to other customers as the other small ones are."""
    _drop_views()
    _statuses((*STATUSES, "kept"), KEPT)
    _add("run", "code_commit", sa.Text(), "Git commit of the code's checkout, where it is known.")
    _add("run", "beside", sa.Text(collation="C"), "Of a kept run: the run beside which it was computed.")
    _add("run", "asked_by", sa.Text(), "Who asked for the run: the schedule, a backfill, or a user.")
    _add("model_version", "kind", sa.Text(), "FIRST, PATCH, MINOR or MAJOR, by comparison with the one in charge.")
    _add("model_version", "config", _json(), "Configuration it was trained under.")
    _add("model_version", "origin", _json(), "Where it was promoted from, on which evidence; null when born here.")
    _add("model_version", "bundle_bytes", sa.BigInteger(), "Size of the bundle's files in bytes.")
    _add("model_version", "fit_seconds", sa.Double(), "CPU seconds of the fits of the night that made it.")
    op.execute(
        "UPDATE forecasting.model_version AS v SET config = r.config FROM forecasting.run AS r "
        "WHERE r.customer_id = v.customer_id AND r.run_id = v.run_id"
    )
    op.alter_column("model_version", "config", nullable=False, schema="forecasting")
    comment = "Run that made it; null when it was promoted from another environment."
    op.alter_column("model_version", "run_id", nullable=True, comment=comment, schema="forecasting")
    who = sa.Column("who", sa.Text(), nullable=False, server_default="pipeline", comment="Who drew it.")
    op.add_column("champion", who, schema="forecasting")
    op.alter_column("champion", "who", server_default=None, schema="forecasting")
    _pin()
    _shadow()
    _approval()
    _views(new=True)


def downgrade() -> None:
    """Drop them; kept runs become failed ones, and imported versions go."""
    _drop_views()
    for table in ("approval", "shadow", "pin"):
        op.drop_table(table, schema="forecasting")
    op.drop_column("champion", "who", schema="forecasting")
    op.execute("DELETE FROM forecasting.champion AS c USING forecasting.model_version AS v WHERE v.run_id IS NULL "
               "AND v.customer_id = c.customer_id AND v.version = c.version")  # fmt: skip
    op.execute("DELETE FROM forecasting.model_version WHERE run_id IS NULL")
    op.alter_column("model_version", "run_id", nullable=False, comment="Run that made it.", schema="forecasting")
    for column in ("fit_seconds", "bundle_bytes", "origin", "config", "kind"):
        op.drop_column("model_version", column, schema="forecasting")
    for column in ("asked_by", "beside", "code_commit"):
        op.drop_column("run", column, schema="forecasting")
    op.execute("UPDATE forecasting.run SET status = 'failed', message = 'was kept' WHERE status = 'kept'")
    _statuses(STATUSES, "")
    _views(new=False)


def _statuses(known: tuple[str, ...], more: str) -> None:
    op.drop_constraint(op.f("run_status_ck"), "run", schema="forecasting")
    allowed = ", ".join(f"'{status}'" for status in known)
    op.create_check_constraint(op.f("run_status_ck"), "run", f"status in ({allowed})", schema="forecasting")
    op.alter_column("run", "status", comment=STATUS_COMMENT.format(more), schema="forecasting")


def _add(table: str, name: str, kind: sa.types.TypeEngine[Any], comment: str) -> None:
    op.add_column(table, sa.Column(name, kind, nullable=True, comment=comment), schema="forecasting")


def _json() -> JSONB:
    return JSONB(none_as_null=True)


def _column(name: str, kind: sa.types.TypeEngine[Any], comment: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null, comment=comment)


def _common() -> list[sa.Column[Any]]:
    return [
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment=SEQ),
        _column("customer_id", sa.Text(collation="C"), CUSTOMER),
    ]


def _said(moment: str) -> list[sa.Column[Any]]:
    at = sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False, comment=moment,
                   server_default=sa.text("clock_timestamp()"))  # fmt: skip
    return [_column("who", sa.Text(), "Who drew it."), _column("why", sa.Text(), "The reason given."), at]


def _of_version(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["customer_id", "version"],
        ["forecasting.model_version.customer_id", "forecasting.model_version.version"],
        name=op.f(f"{table}_model_version_fk"),
    )


def _pin() -> None:
    op.create_table(
        "pin",
        *_common(),
        _column("version", sa.Text(collation="C"), "Version that is held in charge; null: unpinned.", null=True),
        _column("until", sa.Date(), "Last run date it holds for; null: unpinned.", null=True),
        *_said("When the line was drawn."),
        sa.PrimaryKeyConstraint("seq", name=op.f("pin_pk")),
        sa.CheckConstraint("(version is null) = (until is null)", name=op.f("pin_whole_ck")),
        _of_version("pin"),
        schema="forecasting",
        comment="Which version is held in charge, whatever wins, and until when; live nights obey the newest line.",
    )
    op.create_index(op.f("pin_customer_id_seq_ix"), "pin", ["customer_id", "seq"], schema="forecasting")
    _secure("pin", "INSERT")


def _shadow() -> None:
    op.create_table(
        "shadow",
        *_common(),
        _column("version", sa.Text(collation="C"), "Version that competes in shadow; null: none.", null=True),
        _column("effective_from", sa.Date(), "Run date after which nights compute its set beside the champion's."),
        *_said("When the line was drawn."),
        sa.PrimaryKeyConstraint("seq", name=op.f("shadow_pk")),
        _of_version("shadow"),
        schema="forecasting",
        comment="Which version competes in shadow: its sets are kept and scored, never shown; the newest line counts.",
    )
    op.create_index(op.f("shadow_customer_id_seq_ix"), "shadow", ["customer_id", "seq"], schema="forecasting")
    _secure("shadow", "INSERT")


def _approval() -> None:
    time = sa.DateTime(timezone=True)
    states = "'waiting', 'approved', 'rejected', 'superseded', 'expired'"
    op.create_table(
        "approval",
        sa.Column("approval_id", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="Its number."),
        _column("customer_id", sa.Text(collation="C"), CUSTOMER),
        _column("run_id", sa.Text(collation="C"), "Night on which the challenger won."),
        _column("version", sa.Text(collation="C"), "Challenger that waits for somebody's word."),
        _column("champion", sa.Text(), "Version that was in charge when it was asked."),
        _column("evidence", _json(), "What the gate said."),
        _column("state", sa.Text(), "waiting, approved, rejected, superseded by a newer challenger, or expired."),
        sa.Column("requested_at", time, nullable=False, comment="When it was asked.",
                  server_default=sa.text("clock_timestamp()")),  # fmt: skip
        _column("expires_at", time, "When asking ends without an answer: the champion stays."),
        _column("decided_at", time, "When it was answered; null while it waits.", null=True),
        _column("who", sa.Text(), "Who answered.", null=True),
        _column("why", sa.Text(), "The reason given.", null=True),
        sa.PrimaryKeyConstraint("approval_id", name=op.f("approval_pk")),
        sa.CheckConstraint(f"state in ({states})", name=op.f("approval_state_ck")),
        sa.ForeignKeyConstraint(
            ["customer_id", "run_id"], ["forecasting.run.customer_id", "forecasting.run.run_id"],
            name=op.f("approval_run_fk"),
        ),
        _of_version("approval"),
        schema="forecasting",
        comment="Challengers that won and need a person's word; at most one of a customer waits.",
    )  # fmt: skip
    op.create_index(
        op.f("approval_customer_id_uq"), "approval", ["customer_id"], unique=True, schema="forecasting",
        postgresql_where=sa.text("state = 'waiting'"),
    )  # fmt: skip
    _secure("approval", "INSERT, UPDATE")


def _secure(table: str, verbs: str) -> None:
    home, readers = f"forecasting.{table}", "forecasting_customer_reader, forecasting_customer_writer"
    op.execute(f"GRANT SELECT ON {home} TO forecasting_reader, {readers}")
    op.execute(f"GRANT {verbs} ON {home} TO forecasting_customer_writer")
    op.execute(f"ALTER TABLE {home} ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY fleet ON {home} FOR SELECT TO forecasting_reader USING (true)")
    reads, writes = MINE.format("reader|writer"), MINE.format("writer")
    op.execute(f"CREATE POLICY customer_reads ON {home} FOR SELECT TO {readers} USING ({reads})")
    for verb, check in (("INSERT", "WITH CHECK"), ("UPDATE", "USING"), ("DELETE", "USING")):
        op.execute(
            f"CREATE POLICY customer_{verb.lower()}s ON {home} FOR {verb} TO forecasting_customer_writer "
            f"{check} ({writes})"
        )


# --- views ----------------------------------------------------------------------------------------------------------


def _drop_views() -> None:
    for name in CHANGES:
        op.execute(f"DROP VIEW forecasting.{name}")


def _views(*, new: bool) -> None:
    """Make the changed views anew, from the definitions of revision 0001 and what this one adds to them."""
    first = _revision_0001()
    for name in CHANGES:
        comment, sql, base, columns = first.VIEWS[name]
        # of every column named by a star, revisions below this one could drop none
        sql = sql.replace("SELECT * FROM forecasting.run AS x", f"SELECT {LAST_RUN} FROM forecasting.run AS x")
        for old, replacement in CHANGES[name] if new else ():
            if old not in sql:
                raise RuntimeError(f"{name} of revision 0001 does not hold {old!r}")
            sql = sql.replace(old, replacement)
        first._view(name, comment, sql, base, columns | (COMMENTS[name] if new else {}))


def _revision_0001() -> ModuleType:
    path = Path(__file__).with_name("0001_warehouse.py")
    spec = spec_from_file_location("revision_0001", path)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LAST_RUN = "x.customer_id, x.run_id, x.run_date, x.status, x.message, x.finished_at"
CHANGES = {
    "fleet_health": [
        ("x.customer_id = c.customer_id ORDER BY x.run_date DESC, x.n DESC",
         "x.customer_id = c.customer_id AND x.status <> 'kept' ORDER BY x.run_date DESC, x.n DESC"),
        ("r.rows_cold_start, r.rows_sum\n",
         "r.rows_cold_start, r.rows_sum,\n"
         "    n.version AS pinned, n.until AS pinned_until, w.version AS awaits_approval, o.version AS in_shadow\n"),
        (") AS k ON true",
         """) AS k ON true
LEFT JOIN LATERAL (
    SELECT * FROM forecasting.pin AS x WHERE x.customer_id = c.customer_id ORDER BY x.seq DESC LIMIT 1
) AS n ON n.until > p.run_date
LEFT JOIN forecasting.approval AS w ON w.customer_id = c.customer_id AND w.state = 'waiting'
LEFT JOIN LATERAL (
    SELECT * FROM forecasting.shadow AS x WHERE x.customer_id = c.customer_id ORDER BY x.seq DESC LIMIT 1
) AS o ON true"""),
    ],
    "model_history": [
        ("    d.kind, d.champion", "    v.kind, d.champion"),
        ("v.scores, v.created_at,", "v.scores, v.created_at, v.origin, v.bundle_bytes, v.fit_seconds,"),
        ("h.reason AS crowned_reason", "h.reason AS crowned_reason, h.who"),
    ],
    "forecast_accuracy": [("s.unique_id = f.unique_id", "s.unique_id = f.unique_id\nWHERE r.status <> 'kept'")],
}  # fmt: skip
COMMENTS = {
    "fleet_health": {
        "pinned": "Version that is held in charge; null: none.",
        "pinned_until": "Last run date for which it is held.",
        "awaits_approval": "Challenger that won and waits for a person's word; null: none.",
        "in_shadow": "Version that competes in shadow; null: none.",
    },
    "model_history": {"who": "Who drew that line."},
    "forecast_accuracy": {},
}
