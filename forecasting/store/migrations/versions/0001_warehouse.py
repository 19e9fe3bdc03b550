"""The warehouse from nothing: tables, row-level security, roles of the fleet and its views."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None

SECURED = (
    "audit_log",
    "champion",
    "contract_result",
    "customer",
    "decision",
    "model_version",
    "publication",
    "run",
    "series",
    "series_status",
    "signal",
    "snapshot_lock",
    "stage_time",
)
PARTITIONED = ("forecast", "actual", "score", "quarantine")
GRANTS = {
    "audit_log": "INSERT",
    "champion": "INSERT",
    "contract_result": "INSERT, DELETE",
    "customer": "UPDATE (fence)",
    "decision": "INSERT, UPDATE",
    "model_version": "INSERT",
    "publication": "INSERT",
    "run": "INSERT, UPDATE",
    "series": "INSERT, UPDATE",
    "series_status": "INSERT, DELETE",
    "signal": "INSERT, UPDATE",
    "snapshot_lock": "UPDATE (taken_at)",
    "stage_time": "INSERT, UPDATE",
}
"""What a customer's writer may do beside reading: a history that only grows gets INSERT alone."""


def upgrade() -> None:
    """Build everything."""
    _refuse_old_server()
    _tables()
    _roles()
    _policies()
    for name, (comment, sql, base, columns) in VIEWS.items():
        _view(name, comment, sql, base, columns)


def downgrade() -> None:
    """Drop everything but the roles: they belong to the whole server."""
    for name in reversed(VIEWS):
        op.execute(f"DROP VIEW forecasting.{name}")
    for name in (*PARTITIONED, *SECURED_CHILDREN_FIRST):
        op.drop_table(name, schema="forecasting")
    op.execute("DROP FUNCTION forecasting.customers_of(text)")


SECURED_CHILDREN_FIRST = (
    "audit_log",
    "champion",
    "contract_result",
    "decision",
    "model_version",
    "publication",
    "series",
    "series_status",
    "signal",
    "snapshot_lock",
    "stage_time",
    "run",
    "customer",
)


def _tables() -> None:
    """Every table; rendered by alembic from the metadata of this revision."""
    op.create_table(
        "actual",
        sa.Column(
            "customer_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Customer: the name of its file and of its schema.",
        ),
        sa.Column(
            "node",
            sa.Text(collation="C"),
            nullable=False,
            comment="Aggregate node, or bottom for the series themselves.",
        ),
        sa.Column("unique_id", sa.Text(collation="C"), nullable=False, comment="Keys of the series joined by /."),
        sa.Column("ds", sa.Date(), nullable=False, comment="Period observed: its last day."),
        sa.Column("y", sa.Double(), nullable=False, comment="Quantity sold, in units, as last restated."),
        sa.Column("run_id", sa.Text(collation="C"), nullable=False, comment="Run that last changed the value."),
        sa.PrimaryKeyConstraint("customer_id", "node", "unique_id", "ds", name=op.f("actual_pk")),
        schema="forecasting",
        comment="What was sold, newest restatement; a closed or missing day has no row.",
        postgresql_partition_by="LIST (customer_id)",
    )
    op.create_table(
        "audit_log",
        sa.Column(
            "seq", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="Order in which lines were added."
        ),
        sa.Column(
            "at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
            comment="When.",
        ),
        sa.Column("who", sa.Text(), nullable=False, comment="Person or program that acted."),
        sa.Column(
            "customer_id",
            sa.Text(collation="C"),
            nullable=True,
            comment="Customer; null when the whole fleet is meant.",
        ),
        sa.Column("what", sa.Text(), nullable=False, comment="The act."),
        sa.Column("why", sa.Text(), nullable=False, comment="The reason given."),
        sa.Column("before", JSONB(none_as_null=True), nullable=True, comment="State before."),
        sa.Column("after", JSONB(none_as_null=True), nullable=True, comment="State after."),
        sa.PrimaryKeyConstraint("seq", name=op.f("audit_log_pk")),
        schema="forecasting",
        comment="Every act that changed what production does.",
    )
    op.create_index(
        op.f("audit_log_customer_id_seq_ix"), "audit_log", ["customer_id", "seq"], unique=False, schema="forecasting"
    )
    op.create_table(
        "customer",
        sa.Column(
            "customer_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Customer: the name of its file and of its schema.",
        ),
        sa.Column("time_zone", sa.Text(), nullable=False, comment="IANA time zone; run dates are local to it."),
        sa.Column("frequency", sa.Text(), nullable=False, comment="Step of ds: D, W or M."),
        sa.Column("horizon", sa.SmallInteger(), nullable=False, comment="Periods forecast ahead, h."),
        sa.Column(
            "latency_days",
            sa.SmallInteger(),
            nullable=False,
            comment="Days by which the data are known to arrive late.",
        ),
        sa.Column(
            "keys",
            sa.Text(),
            nullable=False,
            comment="Key columns of a series in order, comma separated: key_1, key_2 and so on.",
        ),
        sa.Column("detail_days", sa.Integer(), nullable=False, comment="Days for which published detail is kept."),
        sa.Column(
            "large",
            sa.Boolean(),
            nullable=False,
            comment="True: the customer's forecasts are sub-partitioned by month.",
        ),
        sa.Column(
            "config_hash",
            sa.Text(),
            nullable=False,
            comment="SHA-256 of the configuration this row was provisioned from.",
        ),
        sa.Column(
            "fence",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Newest fence number allotted to a run; only grows.",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
            comment="When the customer was provisioned.",
        ),
        sa.PrimaryKeyConstraint("customer_id", name=op.f("customer_pk")),
        schema="forecasting",
        comment="One row per customer. Allotting and publishing lock it, so that its writers queue.",
    )
    op.create_table(
        "forecast",
        sa.Column(
            "customer_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Customer: the name of its file and of its schema.",
        ),
        sa.Column("run_id", sa.Text(collation="C"), nullable=False, comment="Run that made the row."),
        sa.Column("run_date", sa.Date(), nullable=False, comment="Local date the run stands for."),
        sa.Column("unique_id", sa.Text(collation="C"), nullable=False, comment="Keys of the series joined by /."),
        sa.Column(
            "node",
            sa.Text(collation="C"),
            nullable=False,
            comment="Aggregate node, or bottom for the series themselves.",
        ),
        sa.Column("ds", sa.Date(), nullable=False, comment="Period forecast: its last day."),
        sa.Column("h", sa.SmallInteger(), nullable=False, comment="Step of the horizon, from 1."),
        sa.Column(
            "y_hat",
            sa.Double(),
            nullable=False,
            comment="Conditional mean of the quantity sold, in units; never negative.",
        ),
        sa.Column("q025", sa.Double(), nullable=True, comment="Quantile 0.025, in units; null where not declared."),
        sa.Column("q05", sa.Double(), nullable=True, comment="Quantile 0.05, in units; null where not declared."),
        sa.Column("q10", sa.Double(), nullable=True, comment="Quantile 0.10, in units; null where not declared."),
        sa.Column("q25", sa.Double(), nullable=True, comment="Quantile 0.25, in units; null where not declared."),
        sa.Column("q50", sa.Double(), nullable=True, comment="Quantile 0.50, in units; null where not declared."),
        sa.Column("q75", sa.Double(), nullable=True, comment="Quantile 0.75, in units; null where not declared."),
        sa.Column("q90", sa.Double(), nullable=True, comment="Quantile 0.90, in units; null where not declared."),
        sa.Column("q95", sa.Double(), nullable=True, comment="Quantile 0.95, in units; null where not declared."),
        sa.Column("q975", sa.Double(), nullable=True, comment="Quantile 0.975, in units; null where not declared."),
        sa.Column("model", sa.Text(), nullable=False, comment="Forecaster that made the row."),
        sa.Column(
            "rung",
            sa.Text(),
            nullable=False,
            comment="Step of the ladder: chosen, cheaper, seasonal_naive, naive, cold_start; or sum.",
        ),
        sa.PrimaryKeyConstraint("customer_id", "run_id", "node", "unique_id", "h", name=op.f("forecast_pk")),
        schema="forecasting",
        comment="Published forecasts, one row per run, series or node, and step; immutable.",
        postgresql_partition_by="LIST (customer_id)",
    )
    op.create_table(
        "quarantine",
        sa.Column(
            "customer_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Customer: the name of its file and of its schema.",
        ),
        sa.Column("run_id", sa.Text(collation="C"), nullable=False, comment="Run whose feed held the row."),
        sa.Column("position", sa.BigInteger(), nullable=False, comment="Order within the run, from 1."),
        sa.Column("line", sa.BigInteger(), nullable=False, comment="Line of the feed."),
        sa.Column("unique_id", sa.Text(collation="C"), nullable=True, comment="Series, where it can be told."),
        sa.Column("ds", sa.Date(), nullable=True, comment="Day, where it can be told."),
        sa.Column("rule", sa.Text(), nullable=False, comment="Rule that refused the row."),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why, in words."),
        sa.Column("row_json", sa.Text(), nullable=True, comment="The row as it came, cut to a bounded length."),
        sa.PrimaryKeyConstraint("customer_id", "run_id", "position", name=op.f("quarantine_pk")),
        schema="forecasting",
        comment="Feed rows that failed a row rule; bounded per run, the count stands in run.lines_quarantined.",
        postgresql_partition_by="LIST (customer_id)",
    )
    op.create_table(
        "score",
        sa.Column(
            "customer_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Customer: the name of its file and of its schema.",
        ),
        sa.Column("run_id", sa.Text(collation="C"), nullable=False, comment="Run whose publication is scored."),
        sa.Column("run_date", sa.Date(), nullable=False, comment="Run date of that publication."),
        sa.Column(
            "node",
            sa.Text(collation="C"),
            nullable=False,
            comment="Aggregate node, or bottom for the series themselves.",
        ),
        sa.Column(
            "unique_id", sa.Text(collation="C"), nullable=False, comment="Series, or * for all series of the node."
        ),
        sa.Column(
            "h", sa.SmallInteger(), nullable=False, comment="Step of the horizon; 0 = all steps that have actuals."
        ),
        sa.Column("n", sa.Integer(), nullable=False, comment="Forecasts scored."),
        sa.Column("y", sa.Double(), nullable=True, comment="Sum of actuals, in units."),
        sa.Column("y_hat", sa.Double(), nullable=True, comment="Sum of forecasts, in units."),
        sa.Column("error", sa.Double(), nullable=True, comment="Sum of y_hat - y, in units: positive = over-forecast."),
        sa.Column("abs_error", sa.Double(), nullable=True, comment="Sum of |q50 - y|, in units."),
        sa.Column(
            "rmsse", sa.Double(), nullable=True, comment="Root mean squared scaled error, unitless, lower is better."
        ),
        sa.Column("wape", sa.Double(), nullable=True, comment="abs_error / y, unitless, lower is better."),
        sa.Column("covered_80", sa.Double(), nullable=True, comment="Share of actuals inside the 80 % interval."),
        sa.Column("covered_95", sa.Double(), nullable=True, comment="Share of actuals inside the 95 % interval."),
        sa.Column("scored_by", sa.Text(collation="C"), nullable=False, comment="Run that last computed the row."),
        sa.PrimaryKeyConstraint("customer_id", "run_id", "node", "unique_id", "h", name=op.f("score_pk")),
        schema="forecasting",
        comment="How published forecasts fared against the actuals that came.",
        postgresql_partition_by="LIST (customer_id)",
    )
    op.create_table(
        "run",
        sa.Column(
            "customer_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Customer: the name of its file and of its schema.",
        ),
        sa.Column(
            "run_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Run, <customer>/<run date>/<n>; never derived from Airflow's own.",
        ),
        sa.Column("run_date", sa.Date(), nullable=False, comment="Local date the run stands for."),
        sa.Column("n", sa.Integer(), nullable=False, comment="Number of the run among those of its run date, from 1."),
        sa.Column(
            "fence",
            sa.BigInteger(),
            nullable=False,
            comment="Grows with every run of the customer; an older attempt cannot replace a newer.",
        ),
        sa.Column(
            "live",
            sa.Boolean(),
            nullable=False,
            comment="True for a scheduled night, false for a backfill or a run by hand.",
        ),
        sa.Column(
            "as_frozen",
            sa.Boolean(),
            nullable=False,
            comment="True: computed from the recorded snapshot instead of a new pull.",
        ),
        sa.Column(
            "status",
            sa.Text(),
            nullable=False,
            comment="running, or how it ended: published, verified, nothing_new, broken, failed, late.",
        ),
        sa.Column("message", sa.Text(), nullable=True, comment="Why it ended so, for the on-call."),
        sa.Column("cutoff", sa.Date(), nullable=True, comment="Last period the run was allowed to see."),
        sa.Column(
            "watermark", sa.Date(), nullable=True, comment="Newest day up to the cutoff with a target in the feed."
        ),
        sa.Column(
            "key",
            sa.Text(),
            nullable=True,
            comment="Hash of everything the values depend on; the same key must give the same checksum.",
        ),
        sa.Column(
            "checksum", sa.Text(), nullable=True, comment="SHA-256 over series, dates, values, models and rungs."
        ),
        sa.Column(
            "config",
            JSONB(none_as_null=True),
            nullable=False,
            comment="The customer's configuration, frozen when the run was allotted.",
        ),
        sa.Column("config_hash", sa.Text(), nullable=False, comment="SHA-256 of that configuration."),
        sa.Column("contract", sa.Text(), nullable=True, comment="Contract the feed was checked against."),
        sa.Column("contract_version", sa.Text(), nullable=True, comment="Its version."),
        sa.Column("contract_hash", sa.Text(), nullable=True, comment="SHA-256 of the contract's file."),
        sa.Column("snapshot", sa.Text(), nullable=True, comment="Name of the frozen panel in the snapshot store."),
        sa.Column("snapshot_hash", sa.Text(), nullable=True, comment="SHA-256 of the panel's content."),
        sa.Column("plan", sa.Text(), nullable=True, comment="retrain, refresh or nothing_new."),
        sa.Column("plan_reason", sa.Text(), nullable=True, comment="The rule that decided the plan."),
        sa.Column(
            "incoming_champion", sa.Text(), nullable=True, comment="Version that was champion when the run came in."
        ),
        sa.Column("version", sa.Text(), nullable=True, comment="Version whose choices were published."),
        sa.Column(
            "lines_read",
            sa.BigInteger(),
            nullable=True,
            comment="Feed lines read = used + excluded + quarantined + future.",
        ),
        sa.Column("lines_used", sa.BigInteger(), nullable=True, comment="Feed lines that reached the panel."),
        sa.Column("lines_excluded", sa.BigInteger(), nullable=True, comment="Feed lines left out by a declared rule."),
        sa.Column("lines_quarantined", sa.BigInteger(), nullable=True, comment="Feed lines that failed a row rule."),
        sa.Column(
            "lines_future",
            sa.BigInteger(),
            nullable=True,
            comment="Feed lines after the cutoff, read for what is known in the future.",
        ),
        sa.Column(
            "series_in",
            sa.BigInteger(),
            nullable=True,
            comment="Series in the panel = ok + fallback + cold_start + retired.",
        ),
        sa.Column("series_ok", sa.BigInteger(), nullable=True, comment="Series forecast by the chosen model."),
        sa.Column(
            "series_fallback", sa.BigInteger(), nullable=True, comment="Series forecast by a lower rung of the ladder."
        ),
        sa.Column(
            "series_cold_start",
            sa.BigInteger(),
            nullable=True,
            comment="Series with too little history, forecast from their siblings.",
        ),
        sa.Column("series_retired", sa.BigInteger(), nullable=True, comment="Series that are no longer sold: no rows."),
        sa.Column("rows_published", sa.BigInteger(), nullable=True, comment="Rows of the published set, all nodes."),
        sa.Column("rows_chosen", sa.BigInteger(), nullable=True, comment="Rows by the chosen model."),
        sa.Column("rows_cheaper", sa.BigInteger(), nullable=True, comment="Rows by a cheaper statistical model."),
        sa.Column(
            "rows_seasonal_naive", sa.BigInteger(), nullable=True, comment="Rows by seasonal naive as a fallback."
        ),
        sa.Column("rows_naive", sa.BigInteger(), nullable=True, comment="Rows by naive as a fallback."),
        sa.Column("rows_cold_start", sa.BigInteger(), nullable=True, comment="Rows made from siblings."),
        sa.Column("rows_sum", sa.BigInteger(), nullable=True, comment="Rows of upper nodes: sums of the series below."),
        sa.Column("code_version", sa.Text(), nullable=False, comment="Version or hash of the package's source."),
        sa.Column(
            "lock_hash", sa.Text(), nullable=False, comment="SHA-256 of the lock file: which libraries computed."
        ),
        sa.Column(
            "cpu_family", sa.Text(), nullable=False, comment="CPU family: checksums are promised for the same one."
        ),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
            comment="When the run was allotted.",
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True, comment="When it ended."),
        sa.CheckConstraint(
            "status in ('running', 'published', 'verified', 'nothing_new', 'broken', 'failed', 'late')",
            name=op.f("run_status_ck"),
        ),
        sa.CheckConstraint(
            "lines_read = lines_used + lines_excluded + lines_quarantined + lines_future",
            name=op.f("run_lines_add_up_ck"),
        ),
        sa.CheckConstraint(
            "series_in = series_ok + series_fallback + series_cold_start + series_retired",
            name=op.f("run_series_add_up_ck"),
        ),
        sa.ForeignKeyConstraint(["customer_id"], ["forecasting.customer.customer_id"], name=op.f("run_customer_fk")),
        sa.PrimaryKeyConstraint("customer_id", "run_id", name=op.f("run_pk")),
        sa.UniqueConstraint("customer_id", "fence", name=op.f("run_customer_id_fence_uq")),
        sa.UniqueConstraint("customer_id", "run_date", "n", name=op.f("run_customer_id_run_date_n_uq")),
        schema="forecasting",
        comment="One row per run: what it was asked, what it used, how it ended. Its forecasts are immutable.",
    )
    op.create_table(
        "series",
        sa.Column(
            "customer_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Customer: the name of its file and of its schema.",
        ),
        sa.Column(
            "node",
            sa.Text(collation="C"),
            nullable=False,
            comment="Aggregate node (total, brand …), or bottom for the series themselves.",
        ),
        sa.Column("unique_id", sa.Text(collation="C"), nullable=False, comment="Keys of the series joined by /."),
        sa.Column("depth", sa.SmallInteger(), nullable=False, comment="Number of keys the node groups by; total is 0."),
        sa.Column(
            "key_1", sa.Text(), nullable=True, comment="Value of key 1; null where the node does not group by it."
        ),
        sa.Column(
            "key_2", sa.Text(), nullable=True, comment="Value of key 2; null where the node does not group by it."
        ),
        sa.Column(
            "key_3", sa.Text(), nullable=True, comment="Value of key 3; null where the node does not group by it."
        ),
        sa.Column(
            "key_4", sa.Text(), nullable=True, comment="Value of key 4; null where the node does not group by it."
        ),
        sa.Column(
            "key_5", sa.Text(), nullable=True, comment="Value of key 5; null where the node does not group by it."
        ),
        sa.Column("first_seen", sa.Date(), nullable=False, comment="Run date on which the series was first seen."),
        sa.Column(
            "attributes",
            JSONB(none_as_null=True),
            nullable=True,
            comment="Attributes by name; they may change, the identity may not.",
        ),
        sa.ForeignKeyConstraint(["customer_id"], ["forecasting.customer.customer_id"], name=op.f("series_customer_fk")),
        sa.PrimaryKeyConstraint("customer_id", "node", "unique_id", name=op.f("series_pk")),
        schema="forecasting",
        comment="Every series and aggregate node ever seen.",
    )
    op.create_table(
        "snapshot_lock",
        sa.Column(
            "customer_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Customer: the name of its file and of its schema.",
        ),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True, comment="When the lock was last taken."),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["forecasting.customer.customer_id"], name=op.f("snapshot_lock_customer_fk")
        ),
        sa.PrimaryKeyConstraint("customer_id", name=op.f("snapshot_lock_pk")),
        schema="forecasting",
        comment="One row per customer, locked while its snapshot is added, pushed and committed.",
    )
    op.create_table(
        "contract_result",
        sa.Column(
            "customer_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Customer: the name of its file and of its schema.",
        ),
        sa.Column("run_id", sa.Text(collation="C"), nullable=False, comment="Run whose feed was checked."),
        sa.Column("position", sa.SmallInteger(), nullable=False, comment="Order of the rule, from 1."),
        sa.Column("contract", sa.Text(), nullable=False, comment="Contract."),
        sa.Column("version", sa.Text(), nullable=False, comment="Its version."),
        sa.Column("rule", sa.Text(), nullable=False, comment="Rule of the contract."),
        sa.Column("type", sa.Text(), nullable=True, comment="Expectation behind it."),
        sa.Column("column_name", sa.Text(), nullable=True, comment="Column it is about; null for the whole feed."),
        sa.Column("severity", sa.Text(), nullable=False, comment="error stops the run, warning is recorded."),
        sa.Column("state", sa.Text(), nullable=False, comment="passed, warned, broken or crashed."),
        sa.Column("rows_failed", sa.BigInteger(), nullable=True, comment="Rows that failed."),
        sa.Column("rows_checked", sa.BigInteger(), nullable=True, comment="Rows that were checked."),
        sa.Column("share", sa.Double(), nullable=True, comment="rows_failed / rows_checked."),
        sa.Column("mostly", sa.Double(), nullable=True, comment="Share of rows that must pass."),
        sa.Column("message", sa.Text(), nullable=True, comment="What was found, in words."),
        sa.CheckConstraint("state in ('passed', 'warned', 'broken', 'crashed')", name=op.f("contract_result_state_ck")),
        sa.ForeignKeyConstraint(
            ["customer_id", "run_id"],
            ["forecasting.run.customer_id", "forecasting.run.run_id"],
            name=op.f("contract_result_run_fk"),
        ),
        sa.PrimaryKeyConstraint("customer_id", "run_id", "position", name=op.f("contract_result_pk")),
        schema="forecasting",
        comment="What every rule of the contract said of every run's feed.",
    )
    op.create_table(
        "decision",
        sa.Column(
            "customer_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Customer: the name of its file and of its schema.",
        ),
        sa.Column("run_id", sa.Text(collation="C"), nullable=False, comment="Run that decided."),
        sa.Column("challenger", sa.Text(), nullable=True, comment="Version that competed; null on a refresh night."),
        sa.Column(
            "champion",
            sa.Text(),
            nullable=True,
            comment="Champion before the decision; null on a customer's first run.",
        ),
        sa.Column(
            "kind", sa.Text(), nullable=False, comment="PATCH, MINOR, MAJOR, FIRST, or REFRESH when nothing competed."
        ),
        sa.Column("promoted", sa.Boolean(), nullable=False, comment="True when the challenger was crowned."),
        sa.Column("reason", sa.Text(), nullable=False, comment="The rule that decided, with its numbers."),
        sa.Column(
            "evidence", JSONB(none_as_null=True), nullable=True, comment="Scores, origins and guard rails behind it."
        ),
        sa.Column(
            "decided_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
            comment="When it was decided.",
        ),
        sa.ForeignKeyConstraint(
            ["customer_id", "run_id"],
            ["forecasting.run.customer_id", "forecasting.run.run_id"],
            name=op.f("decision_run_fk"),
        ),
        sa.PrimaryKeyConstraint("customer_id", "run_id", name=op.f("decision_pk")),
        schema="forecasting",
        comment="Champion against challenger: one decision per run, with its evidence.",
    )
    op.create_table(
        "model_version",
        sa.Column(
            "customer_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Customer: the name of its file and of its schema.",
        ),
        sa.Column("version", sa.Text(collation="C"), nullable=False, comment="Semantic version, MAJOR.MINOR.PATCH."),
        sa.Column(
            "major",
            sa.Integer(),
            nullable=False,
            comment="Grows when consumers notice: horizon, frequency, keys, levels.",
        ),
        sa.Column("minor", sa.Integer(), nullable=False, comment="Grows with another recipe."),
        sa.Column("patch", sa.Integer(), nullable=False, comment="Grows with newer data."),
        sa.Column(
            "registry_name", sa.Text(), nullable=True, comment="Registered name in MLflow, <environment>.<customer>."
        ),
        sa.Column("registry_version", sa.Text(), nullable=True, comment="Version number in MLflow."),
        sa.Column("bundle_uri", sa.Text(), nullable=False, comment="Where the bundle's files are."),
        sa.Column(
            "bundle_sha256",
            sa.Text(),
            nullable=False,
            comment="SHA-256 over the bundle's files; checked before anything is loaded.",
        ),
        sa.Column("run_id", sa.Text(collation="C"), nullable=False, comment="Run that made it."),
        sa.Column("run_date", sa.Date(), nullable=False, comment="Run date of that run."),
        sa.Column("training_cutoff", sa.Date(), nullable=False, comment="Last period the version was trained on."),
        sa.Column("snapshot", sa.Text(), nullable=False, comment="Snapshot it was trained on."),
        sa.Column("config_hash", sa.Text(), nullable=False, comment="SHA-256 of the configuration."),
        sa.Column(
            "recipe_hash",
            sa.Text(),
            nullable=False,
            comment="SHA-256 of the recipe; another one makes a MINOR version.",
        ),
        sa.Column(
            "interface_hash",
            sa.Text(),
            nullable=False,
            comment="SHA-256 of what consumers notice; another one makes a MAJOR version.",
        ),
        sa.Column("contract_version", sa.Text(), nullable=True, comment="Version of the contract of its data."),
        sa.Column("code_version", sa.Text(), nullable=False, comment="Version or hash of the source that made it."),
        sa.Column(
            "scores", JSONB(none_as_null=True), nullable=True, comment="Scores by name, as measured when it was made."
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
            comment="When it was registered.",
        ),
        sa.ForeignKeyConstraint(
            ["customer_id", "run_id"],
            ["forecasting.run.customer_id", "forecasting.run.run_id"],
            name=op.f("model_version_run_fk"),
        ),
        sa.PrimaryKeyConstraint("customer_id", "version", name=op.f("model_version_pk")),
        sa.UniqueConstraint(
            "customer_id", "major", "minor", "patch", name=op.f("model_version_customer_id_major_minor_patch_uq")
        ),
        schema="forecasting",
        comment="Every model version: semantic version, registry version, hash of its bundle. Immutable.",
    )
    op.create_table(
        "publication",
        sa.Column(
            "seq", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="Order in which lines were added."
        ),
        sa.Column(
            "customer_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Customer: the name of its file and of its schema.",
        ),
        sa.Column("run_date", sa.Date(), nullable=False, comment="Local date the publication stands for."),
        sa.Column(
            "run_id", sa.Text(collation="C"), nullable=False, comment="Run whose rows readers see from this line on."
        ),
        sa.Column("fence", sa.BigInteger(), nullable=False, comment="Fence of the attempt that added the line."),
        sa.Column("key", sa.Text(), nullable=False, comment="Key of the run."),
        sa.Column("checksum", sa.Text(), nullable=False, comment="Checksum of the rows; it outlives them."),
        sa.Column(
            "stale",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="True: an earlier set, shown after a rollback until the next night.",
        ),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why the pointer moved."),
        sa.Column(
            "published_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
            comment="When the pointer moved.",
        ),
        sa.ForeignKeyConstraint(
            ["customer_id", "run_id"],
            ["forecasting.run.customer_id", "forecasting.run.run_id"],
            name=op.f("publication_run_fk"),
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("publication_pk")),
        schema="forecasting",
        comment="The pointer from (customer, run date) to the run that readers see; a history that only grows.",
    )
    op.create_index(
        op.f("publication_customer_id_run_date_seq_ix"),
        "publication",
        ["customer_id", "run_date", "seq"],
        unique=False,
        schema="forecasting",
    )
    op.create_table(
        "series_status",
        sa.Column(
            "customer_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Customer: the name of its file and of its schema.",
        ),
        sa.Column(
            "run_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Run that wrote the row, <customer>/<run date>/<n>.",
        ),
        sa.Column("unique_id", sa.Text(collation="C"), nullable=False, comment="Series (bottom node)."),
        sa.Column("status", sa.Text(), nullable=False, comment="ok, fallback, cold_start or retired."),
        sa.Column("rung", sa.Text(), nullable=True, comment="Step of the fallback ladder; null when retired."),
        sa.Column("model", sa.Text(), nullable=True, comment="Forecaster that published; null when retired."),
        sa.Column("reason", sa.Text(), nullable=True, comment="Why, when not ok."),
        sa.CheckConstraint(
            "status in ('ok', 'fallback', 'cold_start', 'retired')", name=op.f("series_status_status_ck")
        ),
        sa.ForeignKeyConstraint(
            ["customer_id", "run_id"],
            ["forecasting.run.customer_id", "forecasting.run.run_id"],
            name=op.f("series_status_run_fk"),
        ),
        sa.PrimaryKeyConstraint("customer_id", "run_id", "unique_id", name=op.f("series_status_pk")),
        schema="forecasting",
        comment="How every series fared in every published run.",
    )
    op.create_table(
        "signal",
        sa.Column(
            "customer_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Customer: the name of its file and of its schema.",
        ),
        sa.Column("kind", sa.Text(), nullable=False, comment="What is watched, such as error_drift."),
        sa.Column("run_id", sa.Text(collation="C"), nullable=False, comment="Run that measured it."),
        sa.Column(
            "armed_by", sa.Date(), nullable=False, comment="Run date of that run; later run dates see the signal."
        ),
        sa.Column("value", sa.Double(), nullable=True, comment="What was measured."),
        sa.Column("limit_value", sa.Double(), nullable=True, comment="What would have been the limit."),
        sa.Column("alarm", sa.Boolean(), nullable=False, comment="True when it asks for a retrain."),
        sa.Column(
            "consumed_by", sa.Text(collation="C"), nullable=True, comment="Run that answered it; null while it waits."
        ),
        sa.Column("consumed_on", sa.Date(), nullable=True, comment="Run date of the run that answered."),
        sa.Column("detail", sa.Text(), nullable=True, comment="What it means, in words."),
        sa.Column(
            "recorded_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
            comment="When it was measured.",
        ),
        sa.ForeignKeyConstraint(
            ["customer_id", "run_id"],
            ["forecasting.run.customer_id", "forecasting.run.run_id"],
            name=op.f("signal_run_fk"),
        ),
        sa.PrimaryKeyConstraint("customer_id", "kind", "run_id", name=op.f("signal_pk")),
        schema="forecasting",
        comment="What monitoring found; read as of a run date, so that a repeated night decides alike.",
    )
    op.create_index(
        op.f("signal_customer_id_armed_by_ix"),
        "signal",
        ["customer_id", "armed_by"],
        unique=False,
        schema="forecasting",
    )
    op.create_table(
        "stage_time",
        sa.Column(
            "customer_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Customer: the name of its file and of its schema.",
        ),
        sa.Column(
            "run_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Run that wrote the row, <customer>/<run date>/<n>.",
        ),
        sa.Column("stage", sa.Text(), nullable=False, comment="Stage of the pipeline: pull, freeze, plan and so on."),
        sa.Column("shard", sa.SmallInteger(), nullable=False, comment="Shard of the stage, from 0."),
        sa.Column("seconds", sa.Double(), nullable=False, comment="Wall-clock seconds."),
        sa.Column("cpu_seconds", sa.Double(), nullable=False, comment="CPU seconds of the process and its children."),
        sa.Column(
            "finished_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
            comment="When the stage ended.",
        ),
        sa.ForeignKeyConstraint(
            ["customer_id", "run_id"],
            ["forecasting.run.customer_id", "forecasting.run.run_id"],
            name=op.f("stage_time_run_fk"),
        ),
        sa.PrimaryKeyConstraint("customer_id", "run_id", "stage", "shard", name=op.f("stage_time_pk")),
        schema="forecasting",
        comment="Seconds by stage; a repeated attempt replaces its line.",
    )
    op.create_table(
        "champion",
        sa.Column(
            "seq", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="Order in which lines were added."
        ),
        sa.Column(
            "customer_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="Customer: the name of its file and of its schema.",
        ),
        sa.Column(
            "version", sa.Text(collation="C"), nullable=False, comment="Version that publishes from this line on."
        ),
        sa.Column("effective_from", sa.Date(), nullable=False, comment="Run date after which runs read this line."),
        sa.Column(
            "live",
            sa.Boolean(),
            nullable=False,
            comment="True when a live run or a person drew it, false for a backfill.",
        ),
        sa.Column("run_id", sa.Text(collation="C"), nullable=True, comment="Run that drew it; null when a person did."),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why."),
        sa.Column(
            "recorded_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
            comment="When the line was drawn.",
        ),
        sa.ForeignKeyConstraint(
            ["customer_id", "version"],
            ["forecasting.model_version.customer_id", "forecasting.model_version.version"],
            name=op.f("champion_model_version_fk"),
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("champion_pk")),
        sa.UniqueConstraint("customer_id", "run_id", "version", name=op.f("champion_customer_id_run_id_version_uq")),
        schema="forecasting",
        comment="Which version is champion from which run date on; a history that only grows; production obeys it.",
    )
    op.create_index(
        op.f("champion_customer_id_effective_from_seq_ix"),
        "champion",
        ["customer_id", "effective_from", "seq"],
        unique=False,
        schema="forecasting",
    )


def _refuse_old_server() -> None:
    version = op.get_bind().dialect.server_version_info or (0,)
    if version < (16,):
        raise RuntimeError(f"the warehouse needs PostgreSQL 16 or newer, for grants WITH SET; this is {version[0]}")


def _roles() -> None:
    """Roles without login: the fleet's reader, and two that carry the customers' grants on the small tables.

    Grants to each customer's own roles would not fit: a table's grants live in one catalogue row of at most 8 kB.
    """
    for role in ("forecasting_reader", "forecasting_customer_reader", "forecasting_customer_writer"):
        op.execute(
            f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') "
            f"THEN CREATE ROLE {role} NOLOGIN; END IF; END $$"
        )
        op.execute(f"GRANT USAGE ON SCHEMA forecasting TO {role}")
    # Needed once per login: `query` reads as the fleet's reader.
    op.execute("GRANT forecasting_reader TO CURRENT_USER WITH SET TRUE, INHERIT FALSE")
    for table in (*SECURED, *PARTITIONED):
        op.execute(f"GRANT SELECT ON forecasting.{table} TO forecasting_reader")
    for table in SECURED:
        op.execute(f"GRANT SELECT ON forecasting.{table} TO forecasting_customer_reader, forecasting_customer_writer")
        op.execute(f"GRANT {GRANTS[table]} ON forecasting.{table} TO forecasting_customer_writer")
    op.execute("COMMENT ON SCHEMA forecasting IS 'Forecasts of all customers: runs, publications, versions, views.'")


def _policies() -> None:
    """The customers whose roles the current user holds, and nothing else: the same two policies on every table."""
    op.execute(
        r"""
CREATE FUNCTION forecasting.customers_of(kinds text) RETURNS text[]
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog
BEGIN ATOMIC
    WITH RECURSIVE held AS (
        SELECT oid FROM pg_roles WHERE rolname = current_user
        UNION
        SELECT m.roleid FROM pg_auth_members AS m JOIN held ON m.member = held.oid WHERE m.inherit_option
    )
    SELECT coalesce(array_agg((regexp_match(r.rolname, '^customer_(.+)_(reader|writer)$'))[1]), '{}')
    FROM held JOIN pg_roles AS r USING (oid)
    WHERE r.rolname ~ ('^customer_.+_(' || kinds || ')$');
END"""
    )
    op.execute(
        "COMMENT ON FUNCTION forecasting.customers_of(text) IS "
        "'Ids of the customers whose roles the current user holds; kinds: reader, writer, or reader|writer.'"
    )
    for table in SECURED:
        home = f"forecasting.{table}"
        op.execute(f"ALTER TABLE {home} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY fleet ON {home} FOR SELECT TO forecasting_reader USING (true)")
        # A scalar subquery is evaluated once a statement, and its result can use the key's index.
        mine = "customer_id = ANY ((SELECT forecasting.customers_of('{}'))::text[])"
        op.execute(
            f"CREATE POLICY customer_reads ON {home} FOR SELECT TO forecasting_customer_reader, "
            f"forecasting_customer_writer USING ({mine.format('reader|writer')})"
        )
        for verb in ("INSERT", "UPDATE", "DELETE"):
            check = "WITH CHECK" if verb == "INSERT" else "USING"
            op.execute(
                f"CREATE POLICY customer_{verb.lower()}s ON {home} FOR {verb} TO forecasting_customer_writer "
                f"{check} ({mine.format('writer')})"
            )


def _view(name: str, comment: str, sql: str, base: str, columns: dict[str, str]) -> None:
    """Create a view; a column it does not explain means what the column of that name in ``base`` means."""
    bind = op.get_bind()
    home = f"forecasting.{name}"
    op.execute(f"CREATE VIEW {home} WITH (security_invoker = true) AS {sql}")
    op.execute(f"GRANT SELECT ON {home} TO forecasting_reader")
    if name in FOR_CUSTOMERS:
        op.execute(f"GRANT SELECT ON {home} TO forecasting_customer_reader, forecasting_customer_writer")
    op.execute(f"COMMENT ON VIEW {home} IS {_literal(comment)}")
    described = sa.text(
        "SELECT v.attname, (SELECT col_description(b.attrelid, b.attnum) FROM pg_attribute AS b "
        "WHERE b.attrelid = CAST(:base AS regclass) AND b.attname = v.attname) "
        "FROM pg_attribute AS v WHERE v.attrelid = CAST(:home AS regclass) AND v.attnum > 0"
    )
    for column, inherited in bind.execute(described, {"home": home, "base": f"forecasting.{base}"}).all():
        text = columns.get(column) or inherited
        bind.exec_driver_sql(f'COMMENT ON COLUMN {home}."{column}" IS {_literal(text)}'.replace("%", "%%"), ())


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


FOR_CUSTOMERS = ("fleet_health", "model_history")
"""Views over small tables alone; the others read the partitions of everybody, which customers may not."""

POINTER = {
    "published_at": "When the set became current.",
    "stale": "True: an earlier set, shown after a rollback until the next night.",
}
KEYS = ", ".join(f"s.key_{i}" for i in range(1, 6))
KEY_COMMENTS = {f"key_{i}": f"Key {i} of the series; customer.keys has its name." for i in range(1, 6)}
NUMBERS = "f.ds, f.h, f.y_hat, f.q025, f.q05, f.q10, f.q25, f.q50, f.q75, f.q90, f.q95, f.q975, f.model, f.rung"
FORECAST_FROM = """JOIN forecasting.forecast AS f ON f.customer_id = p.customer_id AND f.run_id = p.run_id
LEFT JOIN forecasting.series AS s
    ON s.customer_id = f.customer_id AND s.node = f.node AND s.unique_id = f.unique_id"""
CUTOFFS = """CASE c.frequency
        WHEN 'D' THEN {day} - c.latency_days - {cutoff}
        WHEN 'W' THEN ({day} - c.latency_days - {cutoff}) / 7
        ELSE (extract(year FROM {day} - c.latency_days + 1) * 12 + extract(month FROM {day} - c.latency_days + 1)
            - extract(year FROM {cutoff} + 1) * 12 - extract(month FROM {cutoff} + 1))::integer
    END"""
"""Complete periods after the cutoff that a run of that day could have seen."""
BIAS = "error / y, unitless, best near 0; positive = over-forecast."
TODAY = "(now() AT TIME ZONE c.time_zone)::date"

VIEWS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "forecast_current": (
        "The forecasts to plan with, of all customers: each one's newest published run date.",
        f"""
SELECT p.customer_id, p.run_date, p.published_at, p.stale, f.run_id, f.node, f.unique_id, {KEYS}, {NUMBERS}
FROM (
    SELECT DISTINCT ON (customer_id) customer_id, run_id, run_date, published_at, stale
    FROM forecasting.publication ORDER BY customer_id, run_date DESC, seq DESC
) AS p
{FORECAST_FROM}""",
        "forecast",
        POINTER | KEY_COMMENTS,
    ),
    "forecast_history": (
        "What was published for every run date, as it stands now, of all customers.",
        f"""
SELECT p.customer_id, p.run_date, p.published_at, p.stale, f.run_id, f.node, f.unique_id, {KEYS}, {NUMBERS}
FROM (
    SELECT DISTINCT ON (customer_id, run_date) customer_id, run_id, run_date, published_at, stale
    FROM forecasting.publication ORDER BY customer_id, run_date DESC, seq DESC
) AS p
{FORECAST_FROM}""",
        "forecast",
        POINTER | KEY_COMMENTS,
    ),
    "forecast_accuracy": (
        "How published forecasts fared against the actuals that came, of all customers.",
        f"""
SELECT f.customer_id, f.run_id, f.run_date, f.node, f.unique_id, {KEYS}, f.h, f.n, f.y, f.y_hat, f.error, f.abs_error,
    f.rmsse, f.wape, f.error / nullif(f.y, 0) AS bias, f.covered_80, f.covered_95, r.version
FROM forecasting.score AS f
JOIN forecasting.run AS r ON r.customer_id = f.customer_id AND r.run_id = f.run_id
LEFT JOIN forecasting.series AS s
    ON s.customer_id = f.customer_id AND s.node = f.node AND s.unique_id = f.unique_id""",
        "score",
        KEY_COMMENTS | {"version": "Model version whose choices were published.", "bias": BIAS},
    ),
    "fleet_health": (
        "One row per customer: the last run, what readers see and how old it is, who made it.",
        f"""
SELECT c.customer_id, l.run_id AS last_run_id, l.run_date AS last_run_date, l.status AS last_status, l.message,
    l.finished_at AS last_finished_at, k.contract_state,
    p.run_date AS published_run_date, p.run_id AS published_run_id, p.published_at, p.stale, r.cutoff,
    {TODAY} - p.run_date AS age_days,
    {CUTOFFS.format(day=TODAY, cutoff="r.cutoff")} AS age_cutoffs,
    {CUTOFFS.format(day="l.run_date", cutoff="r.cutoff")} AS behind_cutoffs,
    h.version AS champion, r.version AS published_version,
    r.series_in, r.series_ok, r.series_fallback, r.series_cold_start, r.series_retired,
    r.rows_published, r.rows_chosen, r.rows_cheaper, r.rows_seasonal_naive, r.rows_naive, r.rows_cold_start, r.rows_sum
FROM forecasting.customer AS c
LEFT JOIN LATERAL (
    SELECT * FROM forecasting.run AS x WHERE x.customer_id = c.customer_id ORDER BY x.run_date DESC, x.n DESC LIMIT 1
) AS l ON true
LEFT JOIN LATERAL (
    SELECT * FROM forecasting.publication AS x
    WHERE x.customer_id = c.customer_id ORDER BY x.run_date DESC, x.seq DESC LIMIT 1
) AS p ON true
LEFT JOIN forecasting.run AS r ON r.customer_id = p.customer_id AND r.run_id = p.run_id
LEFT JOIN LATERAL (
    SELECT x.version FROM forecasting.champion AS x
    WHERE x.customer_id = c.customer_id ORDER BY x.live DESC, x.effective_from DESC, x.seq DESC LIMIT 1
) AS h ON true
LEFT JOIN LATERAL (
    SELECT (array['passed', 'warned', 'crashed', 'broken'])[max(
        array_position(array['passed', 'warned', 'crashed', 'broken'], x.state))] AS contract_state
    FROM forecasting.contract_result AS x WHERE x.customer_id = l.customer_id AND x.run_id = l.run_id
) AS k ON true""",
        "run",
        {
            "last_run_id": "Newest run of the newest run date.",
            "last_run_date": "Its run date.",
            "last_status": "Its status.",
            "message": "Why it ended so.",
            "last_finished_at": "When it ended.",
            "contract_state": "Worst state of its contract's rules: passed, warned, crashed, broken.",
            "published_run_date": "Run date of what readers see; null before the first publication.",
            "published_run_id": "Run whose rows readers see.",
            "published_at": "When it became current.",
            "stale": "True: an earlier set, shown after a rollback until the next night.",
            "cutoff": "Last period that the published set saw.",
            "age_days": "Local today less the published run date, in days.",
            "age_cutoffs": "Complete periods that a run of local today could see and the published set did not.",
            "behind_cutoffs": "The same, measured at the last run's run date instead of today.",
            "champion": "Version that tonight reads as champion.",
            "published_version": "Version whose choices readers see.",
        },
    ),
    "model_history": (
        "Every model version and how it came to publish, or did not.",
        """
SELECT v.customer_id, v.version, v.major, v.minor, v.patch, v.registry_name, v.registry_version, v.bundle_sha256,
    v.run_id, v.run_date, v.training_cutoff, v.snapshot, v.contract_version, v.code_version, v.scores, v.created_at,
    d.kind, d.champion AS incumbent, d.promoted, d.reason AS decision_reason,
    h.effective_from, h.recorded_at, h.live, h.reason AS crowned_reason
FROM forecasting.model_version AS v
LEFT JOIN forecasting.decision AS d
    ON d.customer_id = v.customer_id AND d.run_id = v.run_id AND d.challenger = v.version
LEFT JOIN forecasting.champion AS h ON h.customer_id = v.customer_id AND h.version = v.version""",
        "model_version",
        {
            "kind": "PATCH, MINOR, MAJOR or FIRST.",
            "incumbent": "Champion it competed against.",
            "promoted": "True when it won.",
            "decision_reason": "The rule that decided, with its numbers.",
            "effective_from": "Run date after which runs read it as champion; null when never crowned. A row per line.",
            "recorded_at": "When that line was drawn.",
            "live": "True when a live run or a person drew it.",
            "crowned_reason": "Why.",
        },
    ),
}
