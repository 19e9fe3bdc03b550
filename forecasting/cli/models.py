"""``forecasting models``: a customer's versions, what is known of one, and how two differ. It changes nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forecasting.errors import ConfigurationError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from forecasting.learn.bundle import Bundle
    from forecasting.learn.page import Section

__all__ = ["app", "state"]

app = typer.Typer(help="Look at a customer's model versions: their cards, and how two differ.", no_args_is_help=True)

Row = dict[str, Any]


class Style(StrEnum):
    """How a card is printed."""

    page = "page"
    markdown = "markdown"
    html = "html"
    json = "json"


class Page(StrEnum):
    """How a page is printed."""

    page = "page"
    json = "json"


Customer = Annotated[str, typer.Argument(help="A customer's id.")]
As = Annotated[Page, typer.Option("--format", help="How it is printed.")]


@contextmanager
def _warehouse() -> Iterator[sa.Engine]:
    from forecasting import config
    from forecasting.cli.main import deployed

    with deployed(config.settings()) as deployment:
        yield deployment.engine


# --- list -----------------------------------------------------------------------------------------------------------


@app.command("list")
def list_versions(customer: Customer, style: As = Page.page) -> None:
    """List a customer's versions, newest first: how well each did, and how it stands."""
    from forecasting.cli import tables
    from forecasting.store import reports

    with _warehouse() as engine:
        rows = [_listed(row) for row in reversed(reports.versions(engine, customer))]
    if style is Page.json:
        sys.stdout.write(tables.document({"customer": customer, "versions": rows}) + "\n")
        return
    console = tables.page_console()
    if not rows:
        console.print(f"{customer} has no version yet: its first night makes one")
        return
    reference = next((row["reference"] for row in rows if row["reference"]), "reference")
    head = ("version", "kind", "run date", "trained to", "RMSSE", f"{reference}'s", "state", "promoted")
    tables.show(tables.texts(head, [_cells(row) for row in rows]))


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    from forecasting.learn.page import figure

    promoted = f"{row['promoted_at']:%Y-%m-%d %H:%M} by {row['promoted_by']}" if row["promoted_at"] else ""
    dates = (str(row["run_date"]), str(row["training_cutoff"]))
    scores = (figure(row["rmsse"]), figure(row["rmsse_reference"]))
    return (row["version"], str(row["kind"] or "–"), *dates, *scores, row["state"], promoted)


def _listed(row: Row) -> Row:
    """What ``list`` says of a version."""
    mean = (row["scores"] or {}).get("mean", {})
    reference = _reference(row)
    return {
        "version": row["version"],
        "kind": row["kind"],
        "run_date": row["run_date"],
        "training_cutoff": row["training_cutoff"],
        "rmsse": mean.get("rmsse_selection"),
        "reference": reference,
        "rmsse_reference": mean.get(f"rmsse_{reference}"),
        "state": state(row),
        "promoted_at": row["crowned_at"],
        "promoted_by": row["who"],
        "promoted_because": row["crowned_reason"],
    }


def _reference(row: Row) -> str:
    from forecasting import config

    return config.REFERENCES[row["config"]["frequency"]][0]


def state(row: Mapping[str, Any]) -> str:
    """How a row of ``reports.versions`` stands, in words: one claim, and what holds beside it.

    >>> at = {"champion": False, "pinned_until": None, "in_shadow": False, "awaits_approval": False, "origin": None}
    >>> at |= {"effective_from": None, "until": None, "successor": None, "promoted": False}
    >>> state(at | {"decision_reason": "kept: bias +30.0%, the guard rail is 25%"})
    'kept out: bias +30.0%, the guard rail is 25%'
    """
    also = [f"pinned to {row['pinned_until']}"] if row["pinned_until"] else []
    also += ["in shadow"] if row["in_shadow"] else []
    also += ["waits for approval"] if row["awaits_approval"] else []
    if row["champion"]:
        return ", ".join(["champion", *also])
    if row["effective_from"]:
        return ", ".join(
            [f"retired {row['until'] or ''} for {row['successor'] or 'another'}".replace("  ", " "), *also]
        )
    if also:
        return ", ".join(also)
    if row["decision_reason"] is not None and not row["promoted"]:
        return f"kept out: {str(row['decision_reason']).removeprefix('kept: ')}"
    origin = row["origin"] or {}
    return f"imported from {origin.get('environment', 'elsewhere')}" if origin else "never competed: its night ended"


# --- show -----------------------------------------------------------------------------------------------------------


@app.command()
def show(
    customer: Customer,
    version: Annotated[str, typer.Argument(help="A semantic version, as `models list` prints it.")],
    style: Annotated[Style, typer.Option("--format", help="How the card is printed.")] = Style.page,
    to: Annotated[Path | None, typer.Option("--to", help="File to write it to; default: the terminal.")] = None,
) -> None:
    """Show a version's model card: what it forecasts, how well, where it is weak, and who put it in charge and why."""
    from forecasting.learn import page
    from forecasting.store import reports

    with _warehouse() as engine:
        row = reports.version(engine, customer, version)
        acts = reports.championships(engine, customer, version)
        card = _card(row, _bundle(row))
    first = [_origin(row), _promotion(row, acts)]
    if style is Style.page and to is None:
        _print(page.title(card, version), [*first, *page.sections(card)])
        return
    if style is Style.json:
        told = {"customer": customer, "version": version, "state": state(row), "card": card}
        text = _json({**told, "row": {k: v for k, v in row.items() if k != "config"}, "acts": acts})
    else:
        write = page.html if style is Style.html else page.markdown
        text = write(card, version=version, first=first)
    _write(text, to)


def _write(text: str, to: Path | None) -> None:
    if to is None:
        sys.stdout.write(text)
        return
    try:
        to.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--to {to}: {error.strerror or error}") from None
    sys.stdout.write(f"written to {to}\n")


def _json(value: Mapping[str, Any]) -> str:
    from forecasting.cli import tables

    return tables.document(value) + "\n"


def _bundle(row: Row) -> Bundle:
    """A version's files, every byte verified."""
    from forecasting.learn import bundle
    from forecasting.store import registry

    return bundle.from_files(registry.load(row["bundle_uri"], row["bundle_sha256"]))


def _card(row: Row, made: Bundle) -> Row:
    """The card that lies in the bundle; of a version older than cards, what its other files tell."""
    from forecasting.learn import card

    told = made.card if made.card is not None else card.from_meta(made.meta, made.choices)
    return {**told, "data": {**told["data"], "customer": row["customer_id"]}}


def _origin(row: Row) -> Section:
    from forecasting.learn.page import Section

    seconds, size = row["fit_seconds"], row["bundle_bytes"]
    facts = [
        ("version", f"{row['version']} ({row['kind'] or 'of unknown kind'}): {state(row)}"),
        ("made by", f"{row['run_id'] or 'another environment'}, run date {row['run_date']}"),
        ("snapshot", row["snapshot"]),
        ("contract", f"{row['contract'] or ''} {row['contract_version'] or ''}".strip() or "–"),
        ("configuration", row["config_hash"]),
        ("code", f"{row['code_version']}{_commit(row)}"),
        ("in MLflow", f"{row['registry_name']} version {row['registry_version']}" if row["registry_name"] else "no"),
        ("bundle", f"{row['bundle_sha256']}, {'–' if size is None else f'{size:,}'} bytes, in {row['bundle_uri']}"),
        ("fits took", "–" if seconds is None else f"{seconds:,.1f} CPU seconds"),
    ]
    facts += [("promoted from", _told(row["origin"]))] if row["origin"] else []
    return Section("This version", (), facts)


def _commit(row: Row) -> str:
    return f", commit {row['code_commit']}" if row["code_commit"] else ""


def _promotion(row: Row, acts: list[Row]) -> Section:
    """Who put it in charge, or why nobody did, and the evidence as the gate left it."""
    from forecasting.learn.page import Section, Table

    verdict = "it never competed" if row["decision_reason"] is None else str(row["decision_reason"])
    against = f"against {row['incumbent']} on {row['decided_in']}: " if row["incumbent"] else ""
    facts = [("decision", f"{against}{verdict}"), *_evidence(row["evidence"])]
    table = [
        (f"{act['at']:%Y-%m-%d %H:%M} UTC", act["what"], str(act["since"] or ""), str(act["until"] or ""),
         str(act["who"] or ""), str(act["why"] or ""))
        for act in acts
    ]  # fmt: skip
    head = ("when", "what", "after run date", "until", "who", "why")
    return Section("Who promoted it, on which evidence", (), facts, Table(head, table) if table else None)


def _evidence(evidence: object) -> list[tuple[str, str]]:
    """Whatever the gate left, a fact for each of its keys."""
    found = evidence if isinstance(evidence, Mapping) else {}
    return [(str(name).replace("_", " "), _told(value)) for name, value in found.items() if value not in (None, {}, [])]


def _told(value: object) -> str:
    """A value of the evidence on one line: numbers with four digits, nested names beside their values."""
    if isinstance(value, Mapping):
        return ", ".join(f"{str(name).replace('_', ' ')} {_told(one)}" for name, one in value.items())
    if isinstance(value, list):
        return "; ".join(_told(one) for one in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"
    return str(value)


def _print(heading: str, sections: list[Section]) -> None:
    """Sections on a terminal, tables as wide as they are."""
    from rich.text import Text

    from forecasting.cli import tables

    console = tables.page_console()
    console.print(Text(heading, style="bold"))
    for section in sections:
        console.print(tables.heading(section.title))
        for sentence in section.sentences:
            console.print(Text(sentence))
        if section.facts:
            console.print(tables.facts(section.facts))
        if section.table:
            tables.show(tables.texts(section.table.head, section.table.rows))


# --- compare --------------------------------------------------------------------------------------------------------


@app.command()
def compare(
    customer: Customer,
    one: Annotated[str, typer.Argument(metavar="A", help="A version.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    style: As = Page.page,
) -> None:
    """Compare two versions' scores on the origins both were judged at, and show the gate's evidence if they met."""
    from forecasting.learn import card
    from forecasting.store import reports

    with _warehouse() as engine:
        rows = [reports.version(engine, customer, name) for name in (one, other)]
        cards = [_card(row, _bundle(row)) for row in rows]
        met = reports.duels(engine, customer, one, other)
    told = card.compare(*cards)
    if style is Page.json:
        sys.stdout.write(_json({"customer": customer, "a": one, "b": other, **told, "met": met}))
        return
    _print(f"{customer}: {one} beside {other}", [*_compared(told, one, other), *map(_met, met)])


def _compared(told: Row, one: str, other: str) -> list[Section]:
    from forecasting.learn.page import Section, Table, figure, percent

    shared = told["origins"]
    if shared:
        how = f"Means over the {len(shared)} origins at which both were judged: {', '.join(shared)}."
    else:
        how = (
            "No origin at which both were judged: each is shown at its own "
            f"({', '.join(told['own'][0]) or 'none'}; {', '.join(told['own'][1]) or 'none'}), so the data "
            "differ, too."
        )
    head = ("by", "slice", f"RMSSE {one}", f"RMSSE {other}", "change", f"WAPE {one}", f"WAPE {other}", f"bias {one}",
            f"bias {other}")  # fmt: skip
    rows: list[tuple[str, ...]] = [
        (row["by"], row["slice"], figure(row["a"][0]), figure(row["b"][0]), percent(row["change"], signed=True),
         percent(row["a"][1]), percent(row["b"][1]), percent(row["a"][2], signed=True),
         percent(row["b"][2], signed=True))
        for row in told["slices"]
    ]  # fmt: skip
    inside: list[tuple[str, ...]] = [
        (row["node"], f"{row['level']} %", percent(row["a"]), percent(row["b"])) for row in told["calibration"]
    ]
    covered = Table(("node", "interval", f"inside {one}", f"inside {other}"), inside) if inside else None
    return [
        Section("Scores", (how,), [], Table(head, rows)),
        *([Section("Calibration", (), [], covered)] * bool(inside)),
    ]


def _met(duel: Row) -> Section:
    from forecasting.learn.page import Section

    outcome = f"{duel['challenger']} ({duel['kind']}) challenged {duel['champion']}: {duel['reason']}"
    return Section(f"The gate on {duel['run_id']}", (outcome,), _evidence(duel["evidence"]))


# --- diff -----------------------------------------------------------------------------------------------------------


@app.command()
def diff(
    customer: Customer,
    one: Annotated[str, typer.Argument(metavar="A", help="A version.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    style: As = Page.page,
) -> None:
    """Tell what differs between two versions: recipe, interface, configuration, data, code, choices, calibration."""
    from forecasting.learn import card
    from forecasting.store import reports

    with _warehouse() as engine:
        rows = [reports.version(engine, customer, name) for name in (one, other)]
        made = [_bundle(row) for row in rows]
    told = {
        "settings": _settings(rows[0], rows[1], made[0], made[1]),
        "facts": _facts(rows[0], rows[1]),
        "choices": card.changed_choices(made[0].choices, made[1].choices),
        "calibration": card.changed_calibration(made[0].calibration, made[1].calibration),
        "booster": _booster(made[0], made[1]),
    }
    if style is Page.json:
        sys.stdout.write(_json({"customer": customer, "a": one, "b": other, **told}))
        return
    _print(f"{customer}: from {one} to {other}", _differences(told, one, other))


def _settings(one: Row, other: Row, mine: Bundle, theirs: Bundle) -> list[Row]:
    """Every key that differs, by what it makes: recipe (MINOR), interface (MAJOR), the rest of the configuration."""
    found = []
    for part in ("recipe", "interface"):
        found += _keys(part, mine.meta.get(part), theirs.meta.get(part))
    told = {row["key"].split(".")[0] for row in found}
    rest = [
        row for row in _keys("configuration", one["config"], other["config"]) if row["key"].split(".")[0] not in told
    ]
    return found + rest


def _keys(part: str, one: object, other: object) -> list[Row]:
    mine, theirs = dict(_flat(one)), dict(_flat(other))
    names = sorted(mine.keys() | theirs.keys())
    return [
        {"part": part, "key": name, "a": mine.get(name), "b": theirs.get(name)}
        for name in names
        if mine.get(name) != theirs.get(name)
    ]


def _flat(value: object, above: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{above}.{name}" if above else str(name))
    else:
        yield above, value


_FACTS = {
    "trained to": "training_cutoff",
    "snapshot": "snapshot",
    "contract": "contract",
    "contract version": "contract_version",
    "recipe hash": "recipe_hash",
    "interface hash": "interface_hash",
    "configuration hash": "config_hash",
    "code": "code_version",
    "commit": "code_commit",
    "libraries (lock)": "lock_hash",
    "CPU family": "cpu_family",
    "bundle": "bundle_sha256",
}


def _facts(one: Row, other: Row) -> list[Row]:
    return [
        {"what": what, "a": one[name], "b": other[name], "same": one[name] == other[name]}
        for what, name in _FACTS.items()
    ]


def _booster(mine: Bundle, theirs: Bundle) -> str:
    if mine.booster is None and theirs.booster is None:
        return "neither has a booster"
    if mine.booster is None or theirs.booster is None:
        return f"only the {'second' if mine.booster is None else 'first'} has a booster"
    return "the same bytes" if mine.booster == theirs.booster else "other trees"


def _differences(told: Row, one: str, other: str) -> list[Section]:
    from forecasting.learn.page import Section, Table, percent

    keys: list[tuple[str, ...]] = [
        (row["part"], row["key"], json.dumps(row["a"]), json.dumps(row["b"])) for row in told["settings"]
    ]
    facts: list[tuple[str, ...]] = [
        (row["what"], _short(row["a"]), "same" if row["same"] else _short(row["b"])) for row in told["facts"]
    ]
    choices, offsets = told["choices"], told["calibration"]
    moved: list[tuple[str, ...]] = [(m["from"], m["to"], str(m["series"]), ", ".join(m["such_as"])) for m in
                                    choices["moves"]]  # fmt: skip
    counts = (
        f"{choices['changed']} of {choices['shared']} series changed their models; {choices['only_a']} only in {one}, "
        f"{choices['only_b']} only in {other}."
    )
    cells: list[tuple[str, ...]] = [
        (c["node"], f"q{100 * c['q']:g}", f"{c['a']:+.3f}", f"{c['b']:+.3f}", f"{c['b'] - c['a']:+.3f}")
        for c in offsets["nodes"]
    ]
    alike = "Nothing: recipe, interface and configuration are the same."
    return [
        Section("Settings", () if keys else (alike,), [], Table(("part", "key", one, other), keys) if keys else None),
        Section("Data, code, libraries", (f"The booster: {told['booster']}.",), [], Table(("what", one, other), facts)),
        Section("Choices", (counts,), [], Table(("from", "to", "series", "such as"), moved) if moved else None),
        Section(
            "Calibration",
            (f"Mean offset of each quantile, over its base; {percent(offsets['share'])} of {offsets['cells']} shared "
             "cells differ.",),
            [],
            Table(("node", "quantile", one, other, "change"), cells) if cells else None,
        ),
    ]  # fmt: skip


def _short(value: object) -> str:
    """A hash is told by its first digits."""
    text = "–" if value is None else str(value)
    return f"{text[:16]}…" if len(text) > 40 else text
