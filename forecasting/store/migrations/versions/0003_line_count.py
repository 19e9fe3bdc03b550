"""Say where a run's lines went, rule by rule, and where a quarantined row stands; older runs have no such rows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TABLE = "forecasting.line_count"
MINE = "customer_id = ANY ((SELECT forecasting.customers_of('{}'))::text[])"
PLACE = "Where in the feed, for people: file, line, column."


def upgrade() -> None:
    """Add the table, closed to other customers as the other small ones are, and the column."""
    op.create_table(
        "line_count",
        _text("customer_id", "Customer: the name of its file and of its schema.", collation="C"),
        _text("run_id", "Run whose feed it was.", collation="C"),
        _text("kind", "What is counted: excluded, missing, filled."),
        _text("rule", "excluded: the rule; missing: why y is unknown; filled: the exogenous column."),
        sa.Column(
            "n",
            sa.BigInteger(),
            nullable=False,
            comment="excluded: feed lines; missing: series and periods; filled: cells of the panel.",
        ),
        sa.PrimaryKeyConstraint("customer_id", "run_id", "kind", "rule", name=op.f("line_count_pk")),
        sa.ForeignKeyConstraint(
            ["customer_id", "run_id"],
            ["forecasting.run.customer_id", "forecasting.run.run_id"],
            name=op.f("line_count_run_fk"),
        ),
        sa.CheckConstraint("kind in ('excluded', 'missing', 'filled')", name=op.f("line_count_kind_ck")),
        schema="forecasting",
        comment="Where a run's lines went: those excluded add up to run.lines_excluded; and what the panel lacks or "
        "fills.",
    )
    _secure()
    place = sa.Column("place", sa.Text(), nullable=True, comment=PLACE)
    op.add_column("quarantine", place, schema="forecasting")
    op.execute(COMMENT_ON_PARTITIONS)


def downgrade() -> None:
    """Drop both."""
    op.drop_column("quarantine", "place", schema="forecasting")
    op.drop_table("line_count", schema="forecasting")


# the column reaches the customers' partitions, its comment does not
COMMENT_ON_PARTITIONS = f"""
DO $$
DECLARE home regclass;
BEGIN
    FOR home IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'forecasting.quarantine'::regclass LOOP
        EXECUTE format('COMMENT ON COLUMN %s.place IS %L', home, '{PLACE}');
    END LOOP;
END $$"""


def _text(name: str, comment: str, collation: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text(collation=collation), nullable=False, comment=comment)


def _secure() -> None:
    readers = "forecasting_customer_reader, forecasting_customer_writer"
    op.execute(f"GRANT SELECT ON {TABLE} TO forecasting_reader, {readers}")
    op.execute(f"GRANT INSERT, DELETE ON {TABLE} TO forecasting_customer_writer")
    op.execute(f"ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY fleet ON {TABLE} FOR SELECT TO forecasting_reader USING (true)")
    reads, writes = MINE.format("reader|writer"), MINE.format("writer")
    op.execute(f"CREATE POLICY customer_reads ON {TABLE} FOR SELECT TO {readers} USING ({reads})")
    for verb, check in (("INSERT", "WITH CHECK"), ("UPDATE", "USING"), ("DELETE", "USING")):
        op.execute(
            f"CREATE POLICY customer_{verb.lower()}s ON {TABLE} FOR {verb} TO forecasting_customer_writer "
            f"{check} ({writes})"
        )
