"""One page about one run, for people: where its lines went, how its series fared, and how to go on."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from forecasting.cli import tables

__all__ = ["lines", "next_steps", "page", "panel", "show"]

Document = dict[str, Any]


def page(told: Document) -> Group:
    """The page about what ``store.explanation.explain`` found; it folds to the terminal's width."""
    run, parts = told["run"], list[RenderableType]()
    parts += [tables.heading(f"{run['run_id']}: {run['status']}"), tables.facts(_run(told))]
    parts += [tables.heading("Lines"), *_lines_of(told)]
    parts += [tables.heading("Panel"), *panel(told["panel"])]
    parts += [tables.heading("Series"), *_series(told["series"])]
    parts += [tables.heading("Decision"), Text(_decision(told)), *_signals(told["signals"])]
    parts += [tables.heading("Stages"), _stages(told["stages"])]
    return Group(*parts)


def show(told: Document, console: Console) -> None:
    """Print the page, and the commands below it unfolded, so that they can be copied."""
    console.print(page(told))
    console.print(tables.heading("How to go on"))
    for step, command in next_steps(told):
        console.print(Text(f"{step}:"))
        console.print(Text(f"  {command}"), soft_wrap=True)


# --- the run --------------------------------------------------------------------------------------------------------


def _run(told: Document) -> list[tuple[str, str]]:
    run = told["run"]
    asked = [("live" if run["live"] else "backfill or by hand"), *(["as frozen"] if run["as_frozen"] else [])]
    asked += [f"asked for by {run['asked_by']}"] if run["asked_by"] else []
    contract = f"{run['contract']} {run['contract_version']}" if run["contract"] else "not checked yet"
    pairs = [
        ("stands for", f"{run['run_date']} ({', '.join(asked)})"),
        ("message", str(run["message"] or "")),
        ("readers see", _readers(told["publication"], verified=run["status"] == "verified")),
        ("plan", f"{run['plan']}: {run['plan_reason']}" if run["plan"] else "none: it ended before"),
        ("saw", _saw(run)),
        ("source", f"{run['source_kind']}: {run['source']}"),
        ("contract", contract),
        ("snapshot", f"{run['snapshot'].partition(':')[0]}" if run["snapshot"] else "none"),
        ("version", str(run["version"] or "none published")),
        ("time", _time(run)),
    ]
    return [(name, text) for name, text in pairs if text]


def _saw(run: Document) -> str:
    if not run["cutoff"]:
        return "nothing: it ended before its data were frozen"
    newest = run["watermark"] or "none"
    return f"periods up to {run['cutoff']} (cutoff); newest day with sales: {newest} (watermark)"


def _time(run: Document) -> str:
    began = f"{run['started_at']:%Y-%m-%d %H:%M:%S} UTC"
    if not run["finished_at"]:
        return f"since {began}, not finished"
    return f"{began}, {(run['finished_at'] - run['started_at']).total_seconds():.0f} s in all"


def _readers(publication: Document, *, verified: bool) -> str:
    others = [f"{other['run_id']} ({other['status']})" for other in publication["other_runs"]]
    also = f"; other runs of that date: {', '.join(others)}" if others else ""
    same = ", whose values it gave again" if verified else ""
    if publication["this_run"]:
        return ("an earlier set, after a rollback" if publication["stale"] else "this run") + also
    standing = publication["run_id"]
    return (f"{standing}, not this run{same}" if standing else "nothing of that date: it was never published") + also


# --- lines ----------------------------------------------------------------------------------------------------------


def _lines_of(told: Document) -> list[RenderableType]:
    run = told["run"]
    if told["lines"]["read"] is None:
        return [Text("none counted: the run ended before its lines were judged")]
    parts, of = lines(told["lines"], said=run["message"] or ""), told["lines"]["of_run"]
    return parts if of == run["run_id"] else [Text(f"read by {of}, whose snapshot this run used"), *parts]


def lines(found: Document, said: str = "") -> list[RenderableType]:
    """Where the lines went, what the contract's rules said but for what ``said`` holds already, and refused rows."""
    counts = [("read", found["read"], "")]
    counts += [("= used", found["used"], "reached the panel")]
    counts += [("+ excluded", found["excluded"], _listed(found["excluded_by"]) or "by no rule")]
    counts += [("+ quarantined", found["quarantined"], _refused(found["quarantined_by"]))]
    counts += [("+ future", found["future"], "after the cutoff: read for what is known ahead, their sales blanked")]
    if found["unused"]:
        counts += [("+ unused", found["unused"], "in order, and not used: the contract stops the run")]
    table = tables.facts([(name, tables.count(n), text) for name, n, text in counts])
    return [table, *_arrived(found), *_contract_rules(found, said), *_examples(found["examples"])]


def _arrived(found: Document) -> list[RenderableType]:
    """How the delivery differs from what earlier runs have seen."""
    if found.get("late") is None:
        return []
    late, lost, days = (tables.count(found[name]) for name in ("late", "lost", "days_restated"))
    told = Text(f"beside what earlier runs saw: {late} lines late, {days} days restated, {lost} lines gone")
    return [told, *(Text(f"- {rule['rule']}: {rule['message']}") for rule in found["noticed"])]


def _listed(counts: dict[str, int]) -> str:
    return "; ".join(f"{rule}: {tables.count(n)}" for rule, n in counts.items())


def _refused(rules: list[Document]) -> str:
    said = {"passed": "tolerated", "warned": "warning"}
    named = [f"{r['rule']} ({said.get(r['state'], r['state'])}): {tables.count(r['rows_failed'])}" for r in rules]
    return "; ".join(named) or "by no rule"


def _contract_rules(lines: Document, said: str) -> list[RenderableType]:
    """How many rules said what, and what those said that did not pass, unless it is in ``said`` already."""
    told = ", ".join(f"{n} {state}" for state, n in lines["rules"].items() if n)
    if not told:
        return []
    parts: list[RenderableType] = [Text(f"contract's rules: {told}")]
    for rule in lines["rules_not_passed"]:
        if f"{rule['rule']}: {rule['message']}" not in said:
            parts.append(Text(f"- [{rule['state']}] {rule['rule']}: {rule['message']}"))
    return parts


def _examples(rows: list[Document]) -> list[RenderableType]:
    """Quarantined rows, one below the other: place, key, rule, reason."""
    told = [
        f"- {row['place']} ({row['unique_id'] or 'no readable key'}, {row['ds'] or 'no readable day'}): "
        f"{row['rule']}: {row['reason']}"
        for row in rows
    ]
    return [Text("quarantined, for example:"), *map(Text, told)] if told else []


def panel(found: Document) -> list[RenderableType]:
    """What the panel lacks, and what was filled."""
    missing = _listed(found["missing"]) or "none"
    filled = _listed(found["filled"]) or "none"
    return [tables.facts([("periods without y", missing), ("cells that took the declared fill", filled)])]


# --- series ---------------------------------------------------------------------------------------------------------


def _series(series: Document) -> list[RenderableType]:
    if series["in"] is None:
        return [Text("none counted: the run published no set of its own")]
    counts = ", ".join(f"{name} {tables.count(series[name])}" for name in ("ok", "fallback", "cold_start", "retired"))
    parts: list[RenderableType] = [Text(f"{tables.count(series['in'])} in the panel: {counts}")]
    if not series["by_rung"]:
        return [*parts, Text("which ones: trimmed, the run is older than the days for which detail is kept")]
    by_rung = [(row["status"], row["rung"] or "none", row["model"] or "none", row["n"]) for row in series["by_rung"]]
    parts.append(tables.listing(("status", "rung", "model", "series"), by_rung))
    return parts + _not_ok(series)


def _not_ok(series: Document) -> list[RenderableType]:
    shown, total = series["not_ok"], series["not_ok_total"]
    if not total:
        return []
    more = f" (the first {len(shown)}; --all shows the others)" if len(shown) < total else ""
    rows = [(row["unique_id"], row["status"], row["rung"] or "none", row["reason"] or "") for row in shown]
    head = Text(f"not ok: {tables.count(total)}{more}")
    return [head, tables.listing(("series", "status", "rung", "why"), rows)]


# --- what followed --------------------------------------------------------------------------------------------------


def _decision(told: Document) -> str:
    decision = told["decision"]
    if decision is None:
        return "none: the run did not come so far, or repeated what stands"
    sides = f"{decision['challenger'] or 'nothing'} against {decision['champion'] or 'nobody'}"
    verdict = "promoted" if decision["promoted"] else "not promoted"
    return f"{decision['kind']}, {sides}: {verdict}. {decision['reason']}{_evidence(decision['evidence'] or {})}"


def _evidence(evidence: Document) -> str:
    """The figures behind it, as far as they are plain."""
    sides = [f"{who} {_figures(evidence[who])}" for who in ("challenger", "champion") if evidence.get(who)]
    origins = [f"{evidence['origins']} origins"] if evidence.get("origins") else []
    compared = [f"{evidence['compared']} compared"] if evidence.get("compared") else []
    said = "; ".join([*sides, *origins, *compared])
    return f" ({said})" if said else ""


def _figures(figures: Any) -> str:
    if not isinstance(figures, dict):
        return str(figures)
    shown = {name: value for name, value in figures.items() if isinstance(value, int | float)}
    return ", ".join(f"{name} {value:.4g}" for name, value in shown.items())


def _signals(signals: list[Document]) -> list[RenderableType]:
    return [
        Text(f"signal {one['kind']}{' (alarm)' if one['alarm'] else ''}: {one['detail'] or one['value']}")
        for one in signals
    ]


def _stages(stages: list[Document]) -> RenderableType:
    rows = [(s["stage"], s["shards"], s["seconds"], s["cpu_seconds"]) for s in stages]
    return tables.listing(("stage", "shards", "seconds", "CPU seconds"), rows) if rows else Text("none finished")


# --- how to go on ---------------------------------------------------------------------------------------------------


def next_steps(told: Document) -> list[tuple[str, str]]:
    """What a person would do next, and the command for it."""
    run, lines = told["run"], told["lines"]
    customer, day, steps = run["customer_id"], run["run_date"], list[tuple[str, str]]()
    if lines["quarantined"]:
        query = f"select place, rule, reason, row_json from {customer}.quarantine where run_id = '{lines['of_run']}'"
        steps.append(("Every quarantined row", f'forecasting sql "{query}"'))
    if run["status"] in ("broken", "failed"):
        steps.append(("Try a corrected delivery before it counts", f"forecasting contract test {customer} FILE"))
        steps.append(("Run the day again", f"forecasting run {customer} --date {day}"))
    if run["status"] == "late" or not told["publication"]["this_run"]:
        standing = told["publication"]["run_id"]
        steps += [("What readers see of that date", f"forecasting explain-run {standing}")] if standing else []
    if len(told["series"]["not_ok"]) < told["series"]["not_ok_total"]:
        steps.append(("Every series that is not ok", f"forecasting explain-run {run['run_id']} --all"))
    if run["snapshot"]:
        steps.append(("The frozen data, by name", f"forecasting snapshot list {customer}"))
    if run["status"] in ("published", "verified"):
        again = f"forecasting reproduce {customer} {run['run_id']}"
        steps.append(("Compute it again from what it recorded, and compare", again))
    return steps
