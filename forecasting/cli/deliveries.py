"""What a contract asks, and what it says of a delivery that is tried before it counts, for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from forecasting.cli import explain, tables
from forecasting.store.explanation import EXAMPLES, STATES

if TYPE_CHECKING:
    from forecasting.data.contracts import Contract, Rule
    from forecasting.pipeline.trial import Trial

__all__ = ["document", "show", "show_contract"]

Document = dict[str, Any]


def document(trial: Trial) -> Document:
    """What the trial found, as plain values under stable keys."""
    mapped, panel = trial.mapped, trial.mapped.panel if trial.mapped else None
    return {
        "customer": trial.customer.id,
        "file": trial.customer.source.shown,
        "run_date": trial.run_date,
        "cutoff": trial.cutoff,
        "contract": {"id": trial.contract.id, "version": trial.contract.version, "owner": trial.contract.owner},
        "broken": trial.verdict.broken,
        "lines": _lines(trial),
        "rules": [asdict(result) for result in trial.verdict.results],
        "panel": {"missing": mapped.missing if mapped else {}, "filled": mapped.filled if mapped else {}},
        "series": 0 if panel is None else int(panel["unique_id"].nunique()),
    }


def _lines(trial: Trial) -> Document:
    """In the shape that a run's lines have; ``outside`` were not read further."""
    verdict, mapped = trial.verdict, trial.mapped
    lines = asdict(mapped.lines) if mapped else _stopped(trial)
    results = [{**asdict(result), "rows_failed": result.rows_failed} for result in verdict.results]
    return {
        **lines,
        "unused": 0 if mapped else len(verdict.accepted),
        "outside": trial.feed.lines_outside,
        "excluded_by": mapped.excluded if mapped else trial.excluded,
        "quarantined_by": [result for result in results if result["rows_failed"]],
        "rules": {state: sum(result["state"] == state for result in results) for state in STATES},
        "rules_not_passed": [result for result in results if result["state"] != "passed"],
        "examples": _examples(trial),
    }


def _stopped(trial: Trial) -> Document:
    """A broken contract stops the night before any line is used."""
    return {
        "read": trial.feed.lines_read,
        "used": 0,
        "excluded": sum(trial.excluded.values()),
        "quarantined": len(trial.verdict.rejected),
        "future": 0,
    }


def _examples(trial: Trial) -> list[Document]:
    """The first refused rows of each rule, named as a person would look for them."""
    from forecasting.data.contracts import legible
    from forecasting.data.sources import place
    from forecasting.frames import join_id

    customer, verdict = trial.customer, trial.verdict
    shown = verdict.quarantine.groupby("rule", sort=False).head(EXAMPLES)
    rejected = verdict.rejected.drop_duplicates("line").set_index("line")
    told = []
    for line, rule, reason in shown[["line", "rule", "reason"]].itertuples(index=False, name=None):
        row = rejected.loc[line]
        keys, day = [row[name] for name in customer.columns.keys], row[customer.columns.ds]
        told.append(
            {
                "place": place(line, customer, trial.files),
                "unique_id": legible(join_id(keys), 300) if all(isinstance(key, str) and key for key in keys) else None,
                "ds": None if day != day else day.date(),
                "rule": rule,
                "reason": reason,
            }
        )
    return told


# --- pages ----------------------------------------------------------------------------------------------------------


def show(told: Document, console: Console) -> None:
    """Print the trial on a page."""
    contract = told["contract"]
    verdict = "broken: a night would stop here" if told["broken"] else "fine"
    facts = [
        ("contract", f"{contract['id']} {contract['version']}, owner {contract['owner']}"),
        ("tried as", f"the night of {told['run_date']}, cutoff {told['cutoff']}; --date tries another"),
        ("not tried", "what compares with earlier nights, such as days that changed or are gone"),
    ]
    console.print(tables.heading(f"{told['file']} for {told['customer']}: {verdict}"))
    console.print(tables.facts(facts))
    console.print(tables.heading("Lines"))
    for part in explain.lines(told["lines"]):
        console.print(part)
    if told["lines"]["outside"]:
        outside = tables.count(told["lines"]["outside"])
        console.print(Text(f"{outside} more lie outside the days that such a night reads, or that the part holds"))
    if not told["broken"]:
        console.print(tables.heading("Panel"))
        console.print(Text(f"{tables.count(told['series'])} series"))
        for part in explain.panel(told["panel"]):
            console.print(part)
    console.print(tables.heading("Rules"))
    rows = [(r["rule"], r["severity"], r["state"], r["rows_failed"], _allowed(r)) for r in told["rules"]]
    console.print(tables.listing(("rule", "severity", "state", "lines failed", "allowed"), rows))


def _allowed(result: Document) -> str:
    """The share of lines that may fail a rule about lines."""
    return "" if result["mostly"] is None else _share(result["mostly"])


def _share(mostly: float) -> str:
    return "none" if mostly >= 1 else f"{1 - mostly:.4g} of the lines"


def show_contract(contract: Contract, console: Console) -> None:
    """Print what a contract asks, in words."""
    console.print(tables.heading(f"{contract.id} {contract.version}: {contract.status}"))
    facts = [("owner", contract.owner), ("file", contract.path.name), ("gate lets fail", _share(contract.gate_mostly))]
    console.print(tables.facts(facts))
    console.print(tables.heading("Columns"))
    columns = [(p.name, p.logical_type, _asked(p.required, p.key)) for p in contract.properties]
    console.print(tables.listing(("column", "type", "asked"), columns))
    console.print(tables.heading("Rules"))
    rules = [(rule.name, _consequence(rule), _said(rule)) for rule in contract.rules]
    console.print(tables.listing(("rule", "when it fails", "expects"), rules))


def _asked(required: bool, key: bool) -> str:
    return ", ".join(name for name, holds in (("a value", required), ("once", key)) if holds)


def _consequence(rule: Rule) -> str:
    stops = "the run stops" if rule.severity == "error" else "it is recorded"
    if not rule.by_row:
        return stops
    most = "one does" if rule.mostly >= 1 else f"more than {_share(rule.mostly)} do"
    return f"its lines are quarantined; {stops} when {most}"


def _said(rule: Rule) -> str:
    from forecasting.data.contracts import in_words

    about = f"{', '.join(rule.columns)}: " if rule.columns else ""
    return f"{about}{in_words(rule)}" + (f" ({rule.description})" if rule.description else "")
