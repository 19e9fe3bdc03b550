"""What the warehouse knows of one run, put together for people: where its lines and series went. It changes nothing."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING, Any

from forecasting.errors import ConfigurationError, near_miss
from forecasting.store import tables
from forecasting.store.warehouse import records

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["EXAMPLES", "SERIES", "STATES", "explain", "find_run"]

Row = dict[str, Any]

EXAMPLES = 3
"""Quarantined rows shown of one rule."""
STATES = ("passed", "warned", "broken", "crashed")
"""What a contract's rule may say, as counts list them."""
SERIES = 20
"""Series not ok that are shown unless all are asked for."""
_RUN_ID = re.compile(r"([a-z][a-z0-9_]{1,30})/([0-9]{4}-[0-9]{2}-[0-9]{2})/([1-9][0-9]{0,8})")
_CUSTOMER = re.compile(r"[a-z][a-z0-9_]{1,30}")


def find_run(engine: sa.Engine, text: str, run_date: date | None = None) -> str:
    """The run that ``text`` means: a run's id; or a customer, of whose date it is what readers see, or the newest.

    Args:
        engine: Of the warehouse.
        text: ``<customer>/<run date>/<n>``, or a customer's id.
        run_date: Of a customer; None: its newest run date.

    Raises:
        ConfigurationError: There is no such run; with those that there are.
    """
    if _RUN_ID.fullmatch(text) and run_date is None:
        if records(engine, f"select 1 from forecasting.run where run_id = '{text}' limit 1"):
            return text
        customer = text.partition("/")[0]
        raise ConfigurationError(f"there is no run {text!r}. {_known(engine, customer)}")
    if not _CUSTOMER.fullmatch(text):
        wanted = "a run such as pasta/2018-10-01/1, or a customer and a date"
        raise ConfigurationError(f"{text!r} is no run; expected {wanted}")
    day = run_date or next((row["run_date"] for row in records(engine, _NEWEST.format(customer=text))), None)
    home = f"customer_id = '{text}' and run_date = '{day}'"
    found = records(engine, f"{_POINTER} where {home} order by seq desc limit 1") if day else []
    found = found or (records(engine, f"{_OTHERS} where {home} order by n desc limit 1") if day else [])
    if not found:
        of_date = f" for {run_date}" if run_date else ""
        raise ConfigurationError(f"{text!r} has no run{of_date}. {_known(engine, text)}")
    return str(found[0]["run_id"])


def _known(engine: sa.Engine, customer: str) -> str:
    """What there is in place of a run that is not there."""
    dates = records(engine, f"{_DATES} where customer_id = '{customer}' group by 1 order by 1 desc limit 5")
    if dates:
        return f"Newest run dates of {customer}: {', '.join(str(row['run_date']) for row in dates)}"
    known = [str(row["customer_id"]) for row in records(engine, _CUSTOMERS)]
    return f"The warehouse knows these customers: {', '.join(known) or 'none yet'}.{near_miss(customer, known)}"


_DATES = "select run_date from forecasting.run"
_CUSTOMERS = "select customer_id from forecasting.customer order by 1"
_NEWEST = "select run_date from forecasting.run where customer_id = '{customer}' order by run_date desc limit 1"


def explain(engine: sa.Engine, run_id: str, *, series: int | None = SERIES) -> dict[str, Any]:
    """Everything about one run that a person asks first.

    Args:
        engine: Of the warehouse.
        run_id: From :func:`find_run`.
        series: Most series not ok that are listed; None: all.

    Returns:
        A document of plain values under stable keys: run, publication, lines, panel, series, decision, signals, stages.
    """
    if not _RUN_ID.fullmatch(run_id):  # it becomes part of statements
        raise ValueError(f"{run_id!r} is no run id")
    [run] = records(engine, _RUN.format(run_id=run_id))
    night = run["beside"] or run_id  # a kept set has all but its series from the run beside which it was computed
    counts = {kind: dict[str, int]() for kind in tables.LINE_KINDS}
    for row in records(engine, f"{_LINE_COUNTS} where run_id = '{night}' order by kind, n desc, rule"):
        counts[row["kind"]][row["rule"]] = row["n"]
    return {
        "run": {name: value for name, value in run.items() if not name.startswith(_COUNTED)},
        "publication": _publication(engine, run),
        "lines": _lines(engine, run, counts["excluded"]),
        "panel": {"missing": counts["missing"], "filled": counts["filled"]},
        "series": _series(engine, run, series),
        "decision": next(iter(records(engine, f"{_DECISION} where run_id = '{night}'")), None),
        "signals": records(engine, f"{_SIGNALS} where run_id = '{night}' order by kind"),
        "stages": records(engine, _STAGES.format(run_id=night)),
    }


_COUNTED = ("lines_", "series_", "rows_", "days_")
_RUN = """
select run_id, customer_id, run_date, n, live, as_frozen, status, beside, asked_by, message, started_at, finished_at,
       cutoff, watermark, plan, plan_reason, incoming_champion, version, contract, contract_version, contract_hash,
       snapshot, config_hash, code_version, coalesce(config->'source'->>'kind', 'csv') as source_kind,
       coalesce(config->'source'->>'uri', config->'source'->>'table',
                (select string_agg(coalesce(part->>'uri', part->>'table'), ', ')
                 from jsonb_array_elements(config->'source'->'parts') as part)) as source,
       lines_read, lines_used, lines_excluded, lines_quarantined, lines_future, lines_late, days_restated, lines_lost,
       series_in, series_ok, series_fallback, series_cold_start, series_retired,
       rows_published, rows_chosen, rows_cheaper, rows_seasonal_naive, rows_naive, rows_cold_start, rows_sum
from forecasting.run where run_id = '{run_id}'
"""
_LINE_COUNTS = "select kind, rule, n from forecasting.line_count"
_DECISION = "select kind, champion, challenger, promoted, reason, evidence from forecasting.decision"
_SIGNALS = "select kind, value, limit_value, alarm, consumed_by, detail from forecasting.signal"
_STAGES = """
select stage, count(*) as shards, max(seconds) as seconds, sum(cpu_seconds) as cpu_seconds from forecasting.stage_time
where run_id = '{run_id}' group by stage order by min(finished_at)
"""


def _publication(engine: sa.Engine, run: Row) -> Row:
    """Whether readers of the run date see this run, and what else was run for it."""
    home = f"customer_id = '{run['customer_id']}' and run_date = '{run['run_date']}'"
    shown = records(engine, f"{_POINTER} where {home} order by seq desc limit 1")
    others = records(engine, f"{_OTHERS} where {home} and run_id <> '{run['run_id']}' order by n")
    standing = shown[0] if shown else dict.fromkeys(("run_id", "published_at", "stale", "reason", "checksum"))
    return {**standing, "this_run": standing["run_id"] == run["run_id"], "other_runs": others}


_POINTER = "select run_id, published_at, stale, reason, checksum from forecasting.publication"
_OTHERS = "select run_id, status from forecasting.run"


def _lines(engine: sa.Engine, run: Row, excluded: dict[str, int]) -> Row:
    """Where every line went. A run that stopped before its panel has used none: ``unused`` says how many it judged."""
    of = run["beside"] or run["run_id"]
    if run["as_frozen"] and run["snapshot"]:
        of = next((row["run_id"] for row in records(engine, _FROZE.format(**run))), of)
    rules = records(engine, f"{_RULES} where run_id = '{of}' order by position")
    home = f"\"{run['customer_id']}\".quarantine where run_id = '{of}'"
    by_row = {row["rule"] for row in records(engine, f"select distinct rule from {home}")}
    refused = [rule for rule in rules if rule["rule"] in by_row]
    lines = {name: run[f"lines_{name}"] for name in ("read", "used", "excluded", "quarantined", "future")}
    lines["unused"] = 0
    if lines["read"] is None and rules:
        checked = next(rule["rows_checked"] for rule in rules if rule["rule"] == "rows")  # the gate's, of all lines
        [kept] = records(engine, f"select count(distinct line) as n from {home}")
        bad = max([kept["n"], *(rule["rows_failed"] for rule in refused)])  # detail is bounded, a rule's count is not
        left_out = sum(excluded.values())
        lines |= {"read": left_out + checked, "used": 0, "excluded": left_out, "quarantined": bad, "future": 0}
        lines["unused"] = checked - bad
    return {
        **lines,
        "of_run": of,
        "excluded_by": excluded,
        "quarantined_by": refused,
        "rules": {state: sum(rule["state"] == state for rule in rules) for state in STATES},
        "rules_not_passed": [rule for rule in rules if rule["state"] != "passed"],
        "late": run["lines_late"],
        "days_restated": run["days_restated"],
        "lost": run["lines_lost"],
        "noticed": [rule for rule in rules if rule["state"] == "passed" and rule["message"] and rule not in refused],
        "examples": records(engine, _REFUSED.format(customer=run["customer_id"], run_id=of, examples=EXAMPLES)),
    }


_FROZE = """
select run_id from forecasting.run
where customer_id = '{customer_id}' and snapshot = '{snapshot}' and not as_frozen order by fence limit 1
"""
_RULES = """
select rule, column_name, severity, state, rows_failed, rows_checked, mostly, message from forecasting.contract_result
"""
_REFUSED = """
select coalesce(place, 'line ' || line) as place, unique_id, ds, rule, reason from (
    select *, row_number() over (partition by rule order by position) as nth
    from "{customer}".quarantine where run_id = '{run_id}'
) as q where nth <= {examples} order by position
"""


def _series(engine: sa.Engine, run: Row, most: int | None) -> Row:
    counts = {name: run[f"series_{name}"] for name in ("in", "ok", "fallback", "cold_start", "retired")}
    rows = {name.removeprefix("rows_"): run[name] for name in run if name.startswith("rows_")}
    of_run = f"forecasting.series_status where run_id = '{run['run_id']}'"
    bad = f"{of_run} and status <> 'ok'"
    limit = "" if most is None else f" limit {int(most)}"
    return {
        **counts,
        "rows": rows,
        "by_rung": records(engine, f"select status, rung, model, count(*) as n from {of_run} {_BY_RUNG}"),
        "not_ok_by_reason": records(engine, f"select status, rung, reason, count(*) as n from {bad} {_BY_REASON}"),
        "not_ok": records(
            engine, f"select unique_id, status, rung, model, reason from {bad} order by status, 1{limit}"
        ),
        "not_ok_total": records(engine, f"select count(*) as n from {bad}")[0]["n"],
    }


_BY_RUNG = "group by 1, 2, 3 order by array_position(array['ok', 'fallback', 'cold_start', 'retired'], status), n desc"
_BY_REASON = "group by 1, 2, 3 order by n desc, 1, 2, 3 limit 20"
