"""The tables of the warehouse, each column with its meaning; the migrations must build exactly these."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

__all__ = [
    "APPROVAL_STATES",
    "LINE_KINDS",
    "PARTITIONED",
    "QUANTILES",
    "ROW_SECURED",
    "RUN_STATUSES",
    "SCHEMA",
    "actual",
    "approval",
    "audit_log",
    "champion",
    "contract_result",
    "customer",
    "decision",
    "feed_day",
    "forecast",
    "line_count",
    "metadata",
    "model_version",
    "pin",
    "publication",
    "quarantine",
    "run",
    "score",
    "series",
    "series_status",
    "shadow",
    "signal",
    "snapshot_lock",
    "stage_time",
]

SCHEMA = "forecasting"
RUN_STATUSES = ("running", "published", "verified", "nothing_new", "broken", "failed", "late", "kept")
APPROVAL_STATES = ("waiting", "approved", "rejected", "superseded", "expired")
LINE_KINDS = ("excluded", "missing", "filled")
QUANTILES = ("q025", "q05", "q10", "q25", "q50", "q75", "q90", "q95", "q975")
"""Every quantile column the warehouse has, ascending; which of them a customer fills follows from its levels."""

metadata = sa.MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pk",
        "fk": "%(table_name)s_%(referred_table_name)s_fk",
        "uq": "%(table_name)s_%(column_0_N_name)s_uq",
        "ix": "%(table_name)s_%(column_0_N_name)s_ix",
        "ck": "%(table_name)s_%(constraint_name)s_ck",
    },
)

_STATUS = f"running, or how it ended: {', '.join(RUN_STATUSES[1:-1])}; kept: computed beside a published run."
_TIME = sa.DateTime(timezone=True)
_JSON = JSONB(none_as_null=True)
# Ids compare by byte: faster in keys, the same order as Python's, and run ids of one customer sort by date.
_ID = sa.Text(collation="C")


def _column(
    name: str,
    kind: type[sa.types.TypeEngine[Any]] | sa.types.TypeEngine[Any],
    comment: str,
    *rest: sa.Identity,
    null: bool = False,
    server_default: str | sa.TextClause | None = None,
) -> sa.Column[Any]:
    return sa.Column(name, kind, *rest, nullable=null, comment=comment, server_default=server_default)


def _id(name: str, comment: str, *, null: bool = False) -> sa.Column[Any]:
    return _column(name, _ID, comment, null=null)


def _customer() -> sa.Column[Any]:
    return _id("customer_id", "Customer: the name of its file and of its schema.")


def _run(comment: str = "Run that wrote the row, <customer>/<run date>/<n>.", *, null: bool = False) -> sa.Column[Any]:
    return _id("run_id", comment, null=null)


def _now(name: str, comment: str) -> sa.Column[Any]:
    return _column(name, _TIME, comment, server_default=sa.text("clock_timestamp()"))


def _seq() -> sa.Column[Any]:
    return _column("seq", sa.BigInteger, "Order in which lines were added.", sa.Identity(always=True))


def _of_run() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["customer_id", "run_id"], [f"{SCHEMA}.run.customer_id", f"{SCHEMA}.run.run_id"])


def _of_customer() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["customer_id"], [f"{SCHEMA}.customer.customer_id"])


def _of_version() -> sa.ForeignKeyConstraint:
    version = [f"{SCHEMA}.model_version.customer_id", f"{SCHEMA}.model_version.version"]
    return sa.ForeignKeyConstraint(["customer_id", "version"], version)


def _counts(*names_and_comments: str) -> list[sa.Column[Any]]:
    pairs = zip(names_and_comments[::2], names_and_comments[1::2], strict=True)
    return [_column(name, sa.BigInteger, comment, null=True) for name, comment in pairs]


customer = sa.Table(
    "customer",
    metadata,
    _customer(),
    _column("time_zone", sa.Text, "IANA time zone; run dates are local to it."),
    _column("frequency", sa.Text, "Step of ds: D, W or M."),
    _column("horizon", sa.SmallInteger, "Periods forecast ahead, h."),
    _column("latency_days", sa.SmallInteger, "Days by which the data are known to arrive late."),
    _column("keys", sa.Text, "Key columns of a series in order, comma separated: key_1, key_2 and so on."),
    _column("detail_days", sa.Integer, "Days for which published detail is kept."),
    _column("large", sa.Boolean, "True: the customer's forecasts are sub-partitioned by month."),
    _column("config_hash", sa.Text, "SHA-256 of the configuration this row was provisioned from."),
    _column("fence", sa.BigInteger, "Newest fence number allotted to a run; only grows.", server_default="0"),
    _now("created_at", "When the customer was provisioned."),
    sa.PrimaryKeyConstraint("customer_id"),
    comment="One row per customer. Allotting and publishing lock it, so that its writers queue.",
)

snapshot_lock = sa.Table(
    "snapshot_lock",
    metadata,
    _customer(),
    _column("taken_at", _TIME, "When the lock was last taken.", null=True),
    sa.PrimaryKeyConstraint("customer_id"),
    _of_customer(),
    comment="One row per customer, locked while its snapshot is added, pushed and committed.",
)

series = sa.Table(
    "series",
    metadata,
    _customer(),
    _id("node", "Aggregate node (total, brand …), or bottom for the series themselves."),
    _id("unique_id", "Keys of the series joined by /."),
    _column("depth", sa.SmallInteger, "Number of keys the node groups by; total is 0."),
    *(
        _column(f"key_{i}", sa.Text, f"Value of key {i}; null where the node does not group by it.", null=True)
        for i in range(1, 6)
    ),
    _column("first_seen", sa.Date, "Run date on which the series was first seen."),
    _column("attributes", _JSON, "Attributes by name; they may change, the identity may not.", null=True),
    sa.PrimaryKeyConstraint("customer_id", "node", "unique_id"),
    _of_customer(),
    comment="Every series and aggregate node ever seen.",
)

run = sa.Table(
    "run",
    metadata,
    _customer(),
    _run("Run, <customer>/<run date>/<n>; never derived from Airflow's own."),
    _column("run_date", sa.Date, "Local date the run stands for."),
    _column("n", sa.Integer, "Number of the run among those of its run date, from 1."),
    _column("fence", sa.BigInteger, "Grows with every run of the customer; an older attempt cannot replace a newer."),
    _column("live", sa.Boolean, "True for a scheduled night, false for a backfill or a run by hand."),
    _column("as_frozen", sa.Boolean, "True: computed from the recorded snapshot instead of a new pull."),
    _column("status", sa.Text, _STATUS),
    _column("message", sa.Text, "Why it ended so, for the on-call.", null=True),
    _column("cutoff", sa.Date, "Last period the run was allowed to see.", null=True),
    _column("watermark", sa.Date, "Newest day up to the cutoff with a target in the feed.", null=True),
    _column(
        "key", sa.Text, "Hash of everything the values depend on; the same key must give the same checksum.", null=True
    ),
    _column("checksum", sa.Text, "SHA-256 over series, dates, values, models and rungs.", null=True),
    _column("config", _JSON, "The customer's configuration, frozen when the run was allotted."),
    _column("config_hash", sa.Text, "SHA-256 of that configuration."),
    _column("contract", sa.Text, "Contract the feed was checked against.", null=True),
    _column("contract_version", sa.Text, "Its version.", null=True),
    _column("contract_hash", sa.Text, "SHA-256 of the contract's file.", null=True),
    _column("snapshot", sa.Text, "Name of the frozen panel in the snapshot store.", null=True),
    _column("snapshot_hash", sa.Text, "SHA-256 of the panel's content.", null=True),
    _column("plan", sa.Text, "retrain, refresh or nothing_new.", null=True),
    _column("plan_reason", sa.Text, "The rule that decided the plan.", null=True),
    _column("incoming_champion", sa.Text, "Version that was champion when the run came in.", null=True),
    _column("version", sa.Text, "Version whose choices were published.", null=True),
    _id("beside", "Of a kept run: the run beside which it was computed.", null=True),
    _column("asked_by", sa.Text, "Who asked for the run: the schedule, a backfill, or a user.", null=True),
    *_counts(
        "lines_read",
        "Feed lines read = used + excluded + quarantined + future.",
        "lines_used",
        "Feed lines that reached the panel.",
        "lines_excluded",
        "Feed lines left out by a declared rule.",
        "lines_quarantined",
        "Feed lines that failed a row rule.",
        "lines_future",
        "Feed lines after the cutoff, read for what is known in the future.",
        "lines_late",
        "Feed lines more than were last seen, on days that had been read; null when nothing could be compared.",
        "days_restated",
        "Days of as many feed lines as were last seen, of other content.",
        "lines_lost",
        "Feed lines that were last seen and are gone; days that rolled off the source's old end are not counted.",
        "series_in",
        "Series in the panel = ok + fallback + cold_start + retired.",
        "series_ok",
        "Series forecast by the chosen model.",
        "series_fallback",
        "Series forecast by a lower rung of the ladder.",
        "series_cold_start",
        "Series with too little history, forecast from their siblings.",
        "series_retired",
        "Series that are no longer sold: no rows.",
        "rows_published",
        "Rows of the published set, all nodes.",
        "rows_chosen",
        "Rows by the chosen model.",
        "rows_cheaper",
        "Rows by a cheaper statistical model.",
        "rows_seasonal_naive",
        "Rows by seasonal naive as a fallback.",
        "rows_naive",
        "Rows by naive as a fallback.",
        "rows_cold_start",
        "Rows made from siblings.",
        "rows_sum",
        "Rows of upper nodes: sums of the series below.",
    ),
    _column("code_version", sa.Text, "Version or hash of the package's source."),
    _column("code_commit", sa.Text, "Git commit of the code's checkout, where it is known.", null=True),
    _column("lock_hash", sa.Text, "SHA-256 of the lock file: which libraries computed."),
    _column("cpu_family", sa.Text, "CPU family: checksums are promised for the same one."),
    _now("started_at", "When the run was allotted."),
    _column("finished_at", _TIME, "When it ended.", null=True),
    sa.PrimaryKeyConstraint("customer_id", "run_id"),
    sa.UniqueConstraint("customer_id", "run_date", "n"),
    sa.UniqueConstraint("customer_id", "fence"),
    _of_customer(),
    sa.CheckConstraint("status in (" + ", ".join(f"'{s}'" for s in RUN_STATUSES) + ")", name="status"),
    sa.CheckConstraint(
        "lines_read = lines_used + lines_excluded + lines_quarantined + lines_future", name="lines_add_up"
    ),
    sa.CheckConstraint(
        "series_in = series_ok + series_fallback + series_cold_start + series_retired", name="series_add_up"
    ),
    comment="One row per run: what it was asked, what it used, how it ended. Its forecasts are immutable.",
)

stage_time = sa.Table(
    "stage_time",
    metadata,
    _customer(),
    _run(),
    _column("stage", sa.Text, "Stage of the pipeline: pull, freeze, plan and so on."),
    _column("shard", sa.SmallInteger, "Shard of the stage, from 0."),
    _column("seconds", sa.Double, "Wall-clock seconds."),
    _column("cpu_seconds", sa.Double, "CPU seconds of the process and its children."),
    _now("finished_at", "When the stage ended."),
    sa.PrimaryKeyConstraint("customer_id", "run_id", "stage", "shard"),
    _of_run(),
    comment="Seconds by stage; a repeated attempt replaces its line.",
)

feed_day = sa.Table(
    "feed_day",
    metadata,
    _customer(),
    _column("day", sa.Date, "Local day of the feed's lines."),
    _run("Run that saw the day so."),
    _column("run_date", sa.Date, "Run date of that run."),
    _column("lines", sa.BigInteger, "Lines of the day, before any rule; 0 when the source held none any more."),
    _column("digest", sa.Text, "Equal when the day's lines are, in any order; null when there are none.", null=True),
    _column("kept", sa.Boolean, "True: the snapshot holds the day as seen here; false: it lay before the window read."),
    sa.PrimaryKeyConstraint("customer_id", "day", "run_id"),
    sa.Index(None, "customer_id", "run_id"),
    _of_run(),
    comment="What each day of a feed held when it was first seen, or seen otherwise than before: about one row a day.",
)

publication = sa.Table(
    "publication",
    metadata,
    _seq(),
    _customer(),
    _column("run_date", sa.Date, "Local date the publication stands for."),
    _run("Run whose rows readers see from this line on."),
    _column("fence", sa.BigInteger, "Fence of the attempt that added the line."),
    _column("key", sa.Text, "Key of the run."),
    _column("checksum", sa.Text, "Checksum of the rows; it outlives them."),
    _column(
        "stale",
        sa.Boolean,
        "True: an earlier set, shown after a rollback until the next night.",
        server_default="false",
    ),
    _column("reason", sa.Text, "Why the pointer moved."),
    _now("published_at", "When the pointer moved."),
    sa.PrimaryKeyConstraint("seq"),
    sa.Index(None, "customer_id", "run_date", "seq"),
    _of_run(),
    comment="The pointer from (customer, run date) to the run that readers see; a history that only grows.",
)

model_version = sa.Table(
    "model_version",
    metadata,
    _customer(),
    _id("version", "Semantic version, MAJOR.MINOR.PATCH."),
    _column("major", sa.Integer, "Grows when consumers notice: horizon, frequency, keys, levels."),
    _column("minor", sa.Integer, "Grows with another recipe."),
    _column("patch", sa.Integer, "Grows with newer data."),
    _column("registry_name", sa.Text, "Registered name in MLflow, <environment>.<customer>.", null=True),
    _column("registry_version", sa.Text, "Version number in MLflow.", null=True),
    _column("bundle_uri", sa.Text, "Where the bundle's files are."),
    _column("bundle_sha256", sa.Text, "SHA-256 over the bundle's files; checked before anything is loaded."),
    _run("Run that made it; null when it was promoted from another environment.", null=True),
    _column("run_date", sa.Date, "Run date of that run."),
    _column("kind", sa.Text, "FIRST, PATCH, MINOR or MAJOR, by comparison with the one in charge.", null=True),
    _column("config", _JSON, "Configuration it was trained under."),
    _column("origin", _JSON, "Where it was promoted from, on which evidence; null when born here.", null=True),
    _column("bundle_bytes", sa.BigInteger, "Size of the bundle's files in bytes.", null=True),
    _column("fit_seconds", sa.Double, "CPU seconds of the fits of the night that made it.", null=True),
    _column("training_cutoff", sa.Date, "Last period the version was trained on."),
    _column("snapshot", sa.Text, "Snapshot it was trained on."),
    _column("config_hash", sa.Text, "SHA-256 of the configuration."),
    _column("recipe_hash", sa.Text, "SHA-256 of the recipe; another one makes a MINOR version."),
    _column("interface_hash", sa.Text, "SHA-256 of what consumers notice; another one makes a MAJOR version."),
    _column("contract_version", sa.Text, "Version of the contract of its data.", null=True),
    _column("code_version", sa.Text, "Version or hash of the source that made it."),
    _column("scores", _JSON, "Scores by name, as measured when it was made.", null=True),
    _now("created_at", "When it was registered."),
    sa.PrimaryKeyConstraint("customer_id", "version"),
    sa.UniqueConstraint("customer_id", "major", "minor", "patch"),
    _of_run(),
    comment="Every model version: semantic version, registry version, hash of its bundle. Immutable.",
)

champion = sa.Table(
    "champion",
    metadata,
    _seq(),
    _customer(),
    _id("version", "Version that publishes from this line on."),
    _column("effective_from", sa.Date, "Run date after which runs read this line."),
    _column("live", sa.Boolean, "True when a live run or a person drew it, false for a backfill."),
    _run("Run that drew it; null when a person did.", null=True),
    _column("who", sa.Text, "Who drew it."),
    _column("reason", sa.Text, "Why."),
    _now("recorded_at", "When the line was drawn."),
    sa.PrimaryKeyConstraint("seq"),
    sa.UniqueConstraint("customer_id", "run_id", "version"),
    sa.Index(None, "customer_id", "effective_from", "seq"),
    _of_version(),
    comment="Which version is champion from which run date on; a history that only grows; production obeys it.",
)

pin = sa.Table(
    "pin",
    metadata,
    _seq(),
    _customer(),
    _id("version", "Version that is held in charge; null: unpinned.", null=True),
    _column("until", sa.Date, "Last run date it holds for; null: unpinned.", null=True),
    _column("who", sa.Text, "Who drew it."),
    _column("why", sa.Text, "The reason given."),
    _now("recorded_at", "When the line was drawn."),
    sa.PrimaryKeyConstraint("seq"),
    sa.CheckConstraint("(version is null) = (until is null)", name="whole"),
    _of_version(),
    sa.Index(None, "customer_id", "seq"),
    comment="Which version is held in charge, whatever wins, and until when; live nights obey the newest line.",
)

shadow = sa.Table(
    "shadow",
    metadata,
    _seq(),
    _customer(),
    _id("version", "Version that competes in shadow; null: none.", null=True),
    _column("effective_from", sa.Date, "Run date after which nights compute its set beside the champion's."),
    _column("who", sa.Text, "Who drew it."),
    _column("why", sa.Text, "The reason given."),
    _now("recorded_at", "When the line was drawn."),
    sa.PrimaryKeyConstraint("seq"),
    _of_version(),
    sa.Index(None, "customer_id", "seq"),
    comment="Which version competes in shadow: its sets are kept and scored, never shown; the newest line counts.",
)

approval = sa.Table(
    "approval",
    metadata,
    _column("approval_id", sa.BigInteger, "Its number.", sa.Identity(always=True)),
    _customer(),
    _run("Night on which the challenger won."),
    _id("version", "Challenger that waits for somebody's word."),
    _column("champion", sa.Text, "Version that was in charge when it was asked."),
    _column("evidence", _JSON, "What the gate said."),
    _column("state", sa.Text, "waiting, approved, rejected, superseded by a newer challenger, or expired."),
    _now("requested_at", "When it was asked."),
    _column("expires_at", _TIME, "When asking ends without an answer: the champion stays."),
    _column("decided_at", _TIME, "When it was answered; null while it waits.", null=True),
    _column("who", sa.Text, "Who answered.", null=True),
    _column("why", sa.Text, "The reason given.", null=True),
    sa.PrimaryKeyConstraint("approval_id"),
    sa.CheckConstraint("state in (" + ", ".join(f"'{s}'" for s in APPROVAL_STATES) + ")", name="state"),
    _of_run(),
    _of_version(),
    sa.Index("approval_customer_id_uq", "customer_id", unique=True, postgresql_where=sa.text("state = 'waiting'")),
    comment="Challengers that won and need a person's word; at most one of a customer waits.",
)

decision = sa.Table(
    "decision",
    metadata,
    _customer(),
    _run("Run that decided."),
    _column("challenger", sa.Text, "Version that competed; null on a refresh night.", null=True),
    _column("champion", sa.Text, "Champion before the decision; null on a customer's first run.", null=True),
    _column("kind", sa.Text, "PATCH, MINOR, MAJOR, FIRST, or REFRESH when nothing competed."),
    _column("promoted", sa.Boolean, "True when the challenger was crowned."),
    _column("reason", sa.Text, "The rule that decided, with its numbers."),
    _column("evidence", _JSON, "Scores, origins and guard rails behind it.", null=True),
    _now("decided_at", "When it was decided."),
    sa.PrimaryKeyConstraint("customer_id", "run_id"),
    _of_run(),
    comment="Champion against challenger: one decision per run, with its evidence.",
)

signal = sa.Table(
    "signal",
    metadata,
    _customer(),
    _column("kind", sa.Text, "What is watched, such as error_drift."),
    _run("Run that measured it."),
    _column("armed_by", sa.Date, "Run date of that run; later run dates see the signal."),
    _column("value", sa.Double, "What was measured.", null=True),
    _column("limit_value", sa.Double, "What would have been the limit.", null=True),
    _column("alarm", sa.Boolean, "True when it asks for a retrain."),
    _id("consumed_by", "Run that answered it; null while it waits.", null=True),
    _column("consumed_on", sa.Date, "Run date of the run that answered.", null=True),
    _column("detail", sa.Text, "What it means, in words.", null=True),
    _now("recorded_at", "When it was measured."),
    sa.PrimaryKeyConstraint("customer_id", "kind", "run_id"),
    sa.Index(None, "customer_id", "armed_by"),
    _of_run(),
    comment="What monitoring found; read as of a run date, so that a repeated night decides alike.",
)

series_status = sa.Table(
    "series_status",
    metadata,
    _customer(),
    _run(),
    _id("unique_id", "Series (bottom node)."),
    _column("status", sa.Text, "ok, fallback, cold_start or retired."),
    _column("rung", sa.Text, "Step of the fallback ladder; null when retired.", null=True),
    _column("model", sa.Text, "Forecaster that published; null when retired.", null=True),
    _column("reason", sa.Text, "Why, when not ok.", null=True),
    sa.PrimaryKeyConstraint("customer_id", "run_id", "unique_id"),
    _of_run(),
    sa.CheckConstraint("status in ('ok', 'fallback', 'cold_start', 'retired')", name="status"),
    comment="How every series fared in every published run.",
)

contract_result = sa.Table(
    "contract_result",
    metadata,
    _customer(),
    _run("Run whose feed was checked."),
    _column("position", sa.SmallInteger, "Order of the rule, from 1."),
    _column("contract", sa.Text, "Contract."),
    _column("version", sa.Text, "Its version."),
    _column("rule", sa.Text, "Rule of the contract."),
    _column("type", sa.Text, "Expectation behind it.", null=True),
    _column("column_name", sa.Text, "Column it is about; null for the whole feed.", null=True),
    _column("severity", sa.Text, "error stops the run, warning is recorded."),
    _column("state", sa.Text, "passed, warned, broken or crashed."),
    _column("rows_failed", sa.BigInteger, "Rows that failed.", null=True),
    _column("rows_checked", sa.BigInteger, "Rows that were checked.", null=True),
    _column("share", sa.Double, "rows_failed / rows_checked.", null=True),
    _column("mostly", sa.Double, "Share of rows that must pass.", null=True),
    _column("message", sa.Text, "What was found, in words.", null=True),
    sa.PrimaryKeyConstraint("customer_id", "run_id", "position"),
    _of_run(),
    sa.CheckConstraint("state in ('passed', 'warned', 'broken', 'crashed')", name="state"),
    comment="What every rule of the contract said of every run's feed.",
)

line_count = sa.Table(
    "line_count",
    metadata,
    _customer(),
    _run("Run whose feed it was."),
    _column("kind", sa.Text, "What is counted: " + ", ".join(LINE_KINDS) + "."),
    _column("rule", sa.Text, "excluded: the rule; missing: why y is unknown; filled: the exogenous column."),
    _column("n", sa.BigInteger, "excluded: feed lines; missing: series and periods; filled: cells of the panel."),
    sa.PrimaryKeyConstraint("customer_id", "run_id", "kind", "rule"),
    _of_run(),
    sa.CheckConstraint("kind in (" + ", ".join(f"'{kind}'" for kind in LINE_KINDS) + ")", name="kind"),
    comment="Where a run's lines went: those excluded add up to run.lines_excluded; and what the panel lacks or fills.",
)

audit_log = sa.Table(
    "audit_log",
    metadata,
    _seq(),
    _now("at", "When."),
    _column("who", sa.Text, "Person or program that acted."),
    _id("customer_id", "Customer; null when the whole fleet is meant.", null=True),
    _column("what", sa.Text, "The act."),
    _column("why", sa.Text, "The reason given."),
    _column("before", _JSON, "State before.", null=True),
    _column("after", _JSON, "State after.", null=True),
    sa.PrimaryKeyConstraint("seq"),
    sa.Index(None, "customer_id", "seq"),
    comment="Every act that changed what production does.",
)

forecast = sa.Table(
    "forecast",
    metadata,
    _customer(),
    _run("Run that made the row."),
    _column("run_date", sa.Date, "Local date the run stands for."),
    _id("unique_id", "Keys of the series joined by /."),
    _id("node", "Aggregate node, or bottom for the series themselves."),
    _column("ds", sa.Date, "Period forecast: its last day."),
    _column("h", sa.SmallInteger, "Step of the horizon, from 1."),
    _column("y_hat", sa.Double, "Conditional mean of the quantity sold, in units; never negative."),
    *(_column(q, sa.Double, f"Quantile 0.{q[1:]}, in units; null where not declared.", null=True) for q in QUANTILES),
    _column("model", sa.Text, "Forecaster that made the row."),
    _column("rung", sa.Text, "Step of the ladder: chosen, cheaper, seasonal_naive, naive, cold_start; or sum."),
    sa.PrimaryKeyConstraint("customer_id", "run_id", "node", "unique_id", "h"),
    postgresql_partition_by="LIST (customer_id)",
    comment="Published forecasts, one row per run, series or node, and step; immutable.",
)

actual = sa.Table(
    "actual",
    metadata,
    _customer(),
    _id("node", "Aggregate node, or bottom for the series themselves."),
    _id("unique_id", "Keys of the series joined by /."),
    _column("ds", sa.Date, "Period observed: its last day."),
    _column("y", sa.Double, "Quantity sold, in units, as last restated."),
    _run("Run that last changed the value."),
    sa.PrimaryKeyConstraint("customer_id", "node", "unique_id", "ds"),
    postgresql_partition_by="LIST (customer_id)",
    comment="What was sold, newest restatement; a closed or missing day has no row.",
)

score = sa.Table(
    "score",
    metadata,
    _customer(),
    _run("Run whose publication is scored."),
    _column("run_date", sa.Date, "Run date of that publication."),
    _id("node", "Aggregate node, or bottom for the series themselves."),
    _id("unique_id", "Series, or * for all series of the node."),
    _column("h", sa.SmallInteger, "Step of the horizon; 0 = all steps that have actuals."),
    _column("n", sa.Integer, "Forecasts scored."),
    _column("y", sa.Double, "Sum of actuals, in units.", null=True),
    _column("y_hat", sa.Double, "Sum of forecasts, in units.", null=True),
    _column("error", sa.Double, "Sum of y_hat - y, in units: positive = over-forecast.", null=True),
    _column("abs_error", sa.Double, "Sum of |q50 - y|, in units.", null=True),
    _column("rmsse", sa.Double, "Root mean squared scaled error, unitless, lower is better.", null=True),
    _column("wape", sa.Double, "abs_error / y, unitless, lower is better.", null=True),
    _column("covered_80", sa.Double, "Share of actuals inside the 80 % interval.", null=True),
    _column("covered_95", sa.Double, "Share of actuals inside the 95 % interval.", null=True),
    _id("scored_by", "Run that last computed the row."),
    sa.PrimaryKeyConstraint("customer_id", "run_id", "node", "unique_id", "h"),
    postgresql_partition_by="LIST (customer_id)",
    comment="How published forecasts fared against the actuals that came.",
)

quarantine = sa.Table(
    "quarantine",
    metadata,
    _customer(),
    _run("Run whose feed held the row."),
    _column("position", sa.BigInteger, "Order within the run, from 1."),
    _column("line", sa.BigInteger, "Line of the feed."),
    _id("unique_id", "Series, where it can be told.", null=True),
    _column("ds", sa.Date, "Day, where it can be told.", null=True),
    _column("rule", sa.Text, "Rule that refused the row."),
    _column("reason", sa.Text, "Why, in words."),
    _column("row_json", sa.Text, "The row as it came, cut to a bounded length.", null=True),
    _column("place", sa.Text, "Where in the feed, for people: file, line, column.", null=True),
    sa.PrimaryKeyConstraint("customer_id", "run_id", "position"),
    postgresql_partition_by="LIST (customer_id)",
    comment="Feed rows that failed a row rule; bounded per run, the count stands in run.lines_quarantined.",
)

PARTITIONED = (forecast, actual, score, quarantine)
"""Big tables: a partition per customer, in the customer's schema, with its own grants."""
ROW_SECURED = tuple(table for table in metadata.sorted_tables if table not in PARTITIONED)
"""Small tables: one for all customers, under row-level security."""
