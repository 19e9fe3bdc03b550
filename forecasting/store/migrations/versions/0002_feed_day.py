"""Remember what each day of a feed held, and count what changed; runs from before this revision compared nothing."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TABLE = "forecasting.feed_day"
MINE = "customer_id = ANY ((SELECT forecasting.customers_of('{}'))::text[])"
COUNTS = {
    "lines_late": "Feed lines more than were last seen, on days that had been read; null when nothing could be "
    "compared.",
    "days_restated": "Days of as many feed lines as were last seen, of other content.",
    "lines_lost": "Feed lines that were last seen and are gone; days that rolled off the source's old end are not "
    "counted.",
}


def upgrade() -> None:
    """Add the ledger, closed to other customers as the other small tables are, and the run's counts."""
    op.create_table(
        "feed_day",
        _column("customer_id", _ID, "Customer: the name of its file and of its schema."),
        _column("day", sa.Date(), "Local day of the feed's lines."),
        _column("run_id", _ID, "Run that saw the day so."),
        _column("run_date", sa.Date(), "Run date of that run."),
        _column(
            "lines", sa.BigInteger(), "Lines of the day, before any rule; 0 when the source held none any more."
        ),
        _column(
            "digest",
            sa.Text(),
            "Equal when the day's lines are, in any order; null when there are none.",
            null=True,
        ),
        _column(
            "kept",
            sa.Boolean(),
            "True: the snapshot holds the day as seen here; false: it lay before the window read.",
        ),
        sa.PrimaryKeyConstraint("customer_id", "day", "run_id", name=op.f("feed_day_pk")),
        sa.ForeignKeyConstraint(
            ["customer_id", "run_id"],
            ["forecasting.run.customer_id", "forecasting.run.run_id"],
            name=op.f("feed_day_run_fk"),
        ),
        schema="forecasting",
        comment="What each day of a feed held when it was first seen, or seen otherwise than before: about one row a "
        "day.",
    )
    op.create_index(
        op.f("feed_day_customer_id_run_id_ix"), "feed_day", ["customer_id", "run_id"], schema="forecasting"
    )
    _secure()
    for name, comment in COUNTS.items():
        op.add_column("run", _column(name, sa.BigInteger(), comment, null=True), schema="forecasting")


def downgrade() -> None:
    """Drop them; customers' views over the ledger go with it, and provisioning brings back what is declared."""
    for name in COUNTS:
        op.drop_column("run", name, schema="forecasting")
    op.execute(f"DROP TABLE {TABLE} CASCADE")


_ID = sa.Text(collation="C")


def _column(name: str, kind: sa.types.TypeEngine[Any], comment: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null, comment=comment)


def _secure() -> None:
    readers = "forecasting_customer_reader, forecasting_customer_writer"
    op.execute(f"GRANT SELECT ON {TABLE} TO forecasting_reader, {readers}")
    op.execute(f"GRANT INSERT, DELETE ON {TABLE} TO forecasting_customer_writer")
    op.execute(f"ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY fleet ON {TABLE} FOR SELECT TO forecasting_reader USING (true)")
    reads, writes = MINE.format("reader|writer"), MINE.format("writer")
    op.execute(f"CREATE POLICY customer_reads ON {TABLE} FOR SELECT TO {readers} USING ({reads})")
    for verb, check in (("INSERT", "WITH CHECK"), ("DELETE", "USING")):
        op.execute(
            f"CREATE POLICY customer_{verb.lower()}s ON {TABLE} FOR {verb} TO forecasting_customer_writer "
            f"{check} ({writes})"
        )
