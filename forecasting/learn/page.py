"""A model card for people: its sections once, as Markdown and as one HTML page that needs nothing else.

What comes from data, such as a series' key, may hold any text: it is escaped where it is written, and nowhere else.
"""

from __future__ import annotations

import html as markup
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from forecasting.config import BOTTOM
from forecasting.learn.card import ADI_LIMIT, CV2_LIMIT, SELECTION

__all__ = ["Section", "Table", "figure", "html", "markdown", "percent", "sections", "title"]

Card = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Names of columns and rows of texts; from the second column on they may be numbers, written to the right."""

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Section:
    """One part of a card: sentences, then facts (name, text), then a table."""

    title: str
    sentences: tuple[str, ...] = ()
    facts: list[tuple[str, str]] = field(default_factory=list)
    table: Table | None = None


def title(card: Card, version: str | None = None) -> str:
    """The heading: the version is known once it is registered."""
    name = f"{card['data'].get('customer')} {version}" if version else str(card["data"].get("customer"))
    return f"{name}, trained to {card['data'].get('training_cutoff')}"


def sections(card: Card) -> list[Section]:
    """All that a card tells, in reading order; parts that the version has no figures for are left out."""
    found = [
        _forecasts(card),
        _data(card),
        *_scores(card["scores"]),
        *_calibration(card["calibration"]),
        *_weak(card["weak"], card["scores"]),
        *_choices(card["choices"]),
        _recipe(card["recipe"]),
    ]
    return [section for section in found if section.sentences or section.facts or section.table]


def figure(value: object) -> str:
    """A score with three decimals; unknown is a dash.

    >>> figure(0.71234), figure(None)
    ('0.712', '–')
    """
    return f"{value:.3f}" if isinstance(value, int | float) else "–"


def percent(value: object, *, signed: bool = False) -> str:
    """A share in percent.

    >>> percent(0.1234), percent(0.02, signed=True), percent(None)
    ('12.3 %', '+2.0 %', '–')
    """
    if not isinstance(value, int | float):
        return "–"
    return f"{100 * value:+.1f} %" if signed else f"{100 * value:.1f} %"


# --- sections -------------------------------------------------------------------------------------------------------

_PERIODS = {"D": ("days", "daily"), "W": ("weeks", "weekly"), "M": ("months", "monthly")}


def _forecasts(card: Card) -> Section:
    told = card["forecasts"]
    periods, step = _PERIODS.get(told["frequency"], ("periods", told["frequency"]))
    nodes = ", ".join(f"{node} ({_count(n)})" for node, n in told["nodes"].items())
    facts = [
        ("customer", str(card["data"].get("customer"))),
        ("horizon", f"{told['horizon']} {periods} ahead, {step}"),
        ("series", f"{_count(told['series'])}, keys {', '.join(told['keys'])}"),
        ("nodes above", nodes or _hierarchy(told["hierarchy"])),
        ("intervals", f"{', '.join(str(level) for level in told['levels'])} %, and the median"),
    ]
    return Section("What it forecasts", ("y_hat is the conditional mean, in units sold.",), facts)


def _hierarchy(groups: Sequence[Any]) -> str:
    return ", ".join(g if isinstance(g, str) else "_".join(g) for g in groups) or "none"


def _data(card: Card) -> Section:
    data = card["data"]
    facts = [
        ("trained to", str(data.get("training_cutoff"))),
        ("snapshot", str(data.get("snapshot"))),
        ("contract", str(data.get("contract"))),
        *([("sample", _value(data["sample"]))] if data.get("sample") else []),
    ]
    if "rows" in data:
        unknown = f", {_count(data['rows_unknown'])} of them unknown" if data["rows_unknown"] else ""
        facts += [("first period", str(data["first_period"])), ("rows", f"{_count(data['rows'])}{unknown}")]
        facts += [("a day without a row", f"means {data['absent']}"), ("time zone", data["time_zone"])]
    return Section("Data", (), facts)


def _recipe(recipe: Mapping[str, Any]) -> Section:
    facts = [(name.replace("_", " "), _value(value)) for name, value in recipe.items()]
    return Section("Recipe", ("Another recipe makes a MINOR version; another interface a MAJOR one.",), facts)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        said = [f"{name} {_value(one)}" for name, one in value.items() if one not in (None, [], {})]
        return ", ".join(said) or "none"
    if isinstance(value, list | tuple):
        parted = "; " if value and isinstance(value[0], Mapping) else ", "
        return parted.join(_value(one) for one in value) or "none"
    return "–" if value is None else str(value)


_BY = {
    "node": ("Scores by node", "node"),
    "h": ("Scores by distance ahead", "steps"),
    "demand": ("Scores by class of demand", "demand"),
}
_CLASSES = (
    f"Smooth: a sale every {ADI_LIMIT} periods or more often, sizes even (CV² up to {CV2_LIMIT}); erratic: sizes "
    "uneven; intermittent: sales rarer; lumpy: both. Syntetos, Boylan & Croston (2005), "
    "doi:10.1057/palgrave.jors.2601841."
)


def _scores(scores: Mapping[str, Any]) -> list[Section]:
    slices, models, origins = scores["slices"], scores["models"], scores["origins"]
    if not slices:
        few = "No origin was judged: the history is too short for the backtest that the recipe asks for."
        return [Section("Scores", (few,))]
    span = f"{len(origins)} origins, {origins[0]} to {origins[-1]}" if len(origins) > 1 else f"the origin {origins[0]}"
    how = (
        f"Means over {span}. Each origin was judged by choices that had seen only those before it, with "
        f"{SELECTION}, what is published, beside what a planner would use instead.",
        "RMSSE of the mean, WAPE of the median (above the series: of the mean), bias: positive is over-forecast. Lower "
        "is better, for bias nearer to 0.",
    )
    notes = {"node": how, "demand": (_CLASSES,)}
    found = []
    for by, (heading, column) in _BY.items():
        rows = [one for one in slices if one["by"] == by]
        if rows:
            found.append(Section(heading, notes.get(by, ()), [], _score_table(column, rows, models)))
    return found


def _score_table(column: str, slices: list[Any], models: list[str]) -> Table:
    head = (column, "series", "rows", *(f"RMSSE {name}" for name in models))
    gain = tuple(f"gain on {name}" for name in models[1:])
    shown = (*head, *gain, f"WAPE {SELECTION}", *(f"WAPE {name}" for name in models[1:2]), f"bias {SELECTION}")
    return Table(shown, [_score_row(one) for one in slices])


def _score_row(one: Mapping[str, Any]) -> tuple[str, ...]:
    own, others = one["mean"][0], one["mean"][1:]
    counts = (_count(one["series"]), _count(one["rows"]))
    rmsse = tuple(figure(model[0]) for model in one["mean"])
    gains = tuple(percent(_gain(own[0], other[0]), signed=True) for other in others)
    wape = tuple(percent(model[1]) for model in one["mean"][:2])
    return (_slice_name(one), *counts, *rmsse, *gains, *wape, percent(own[2], signed=True))


def _gain(own: float | None, other: float | None) -> float | None:
    return 1 - own / other if own is not None and other else None


def _slice_name(one: Mapping[str, Any]) -> str:
    return "the series" if one["by"] == "node" and one["slice"] == BOTTOM else str(one["slice"])


def _beaten(scores: Mapping[str, Any]) -> str:
    """Where a reference has the better RMSSE, slice by slice."""
    models = scores["models"]
    lost = [
        f"{_slice_name(one)} ({name} {figure(other[0])}, {SELECTION} {figure(one['mean'][0][0])})"
        for one in scores["slices"]
        for name, other in zip(models[1:], one["mean"][1:], strict=True)
        if (_gain(one["mean"][0][0], other[0]) or 0.0) < 0
    ]
    return "; ".join(lost) or "none"


def _calibration(rows: list[Any]) -> list[Section]:
    if not rows:
        return []
    levels = sorted({row["level"] for row in rows})
    nodes = list(dict.fromkeys(row["node"] for row in rows))
    covered = {(row["node"], row["level"]): row["covered"] for row in rows}
    head = ("node", *(f"inside {level} %" for level in levels))
    table = [("the series" if n == BOTTOM else n, *(percent(covered.get((n, v))) for v in levels)) for n in nodes]
    told = "The share of what came that lay inside each interval, at the judged origins; best near the level."
    return [Section("Calibration", (told,), [], Table(head, table))]


def _weak(weak: Mapping[str, Any], scores: Mapping[str, Any]) -> list[Section]:
    if not weak:
        return []
    judged, worse, reference = weak["judged"], weak["worse"], weak["reference"]
    share = percent(worse / judged) if judged else "–"
    facts = [
        ("slices where a reference is better", _beaten(scores)),
        (f"worse than {reference}", f"{_count(worse)} of {_count(judged)} judged series ({share})"),
        (f"short history (under {weak['short']['periods']} periods)", _names(weak["short"])),
        ("cold start (no sale yet)", _names(weak["cold_start"])),
        ("judged at no origin", _names(weak["unjudged"])),
        ("retired, no forecast", _names(weak["retired"])),
    ]
    head = ("worst series", "times the reference's RMSSE", "RMSSE", "share of sales", "periods", "demand", "models")
    rows: list[tuple[str, ...]] = [
        (w["unique_id"], figure(w["times"]), figure(w["rmsse"]), percent(w["share"]), _count(w["periods"]), w["demand"],
         " + ".join(w["models"]))
        for w in weak["worst"]
    ]  # fmt: skip
    return [Section("Known weak spots", (), facts, Table(head, rows) if rows else None)]


def _names(listed: Mapping[str, Any]) -> str:
    if not listed["n"]:
        return "none"
    more = ", …" if listed["n"] > len(listed["series"]) else ""
    return f"{_count(listed['n'])}: {', '.join(listed['series'])}{more}"


def _choices(choices: Mapping[str, Any]) -> list[Section]:
    if not choices["series"]:
        return []
    classes = list(choices["by_demand"])
    head = ("model", "series it has a part in", "share of all", *classes)
    rows = [
        (one["model"], _count(one["series"]), percent(one["share"]),
         *(percent(choices["by_demand"][name].get(one["model"], 0.0)) for name in classes))
        for one in choices["models"]
    ]  # fmt: skip
    blended = f"{_count(choices['blended'])} of {_count(choices['series'])} series are published as a blend."
    return [Section("What publishes for whom", (blended,), [], Table(head, rows))]


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


# --- Markdown -------------------------------------------------------------------------------------------------------


def markdown(card: Card, *, version: str | None = None, first: Sequence[Section] = ()) -> str:
    """The card as Markdown (tables of GitHub's dialect).

    Args:
        card: From ``card.make``.
        version: Semantic version, where it is known.
        first: Sections to stand before the others, such as who promoted it.
    """
    lines = [f"# Model card: {_md(title(card, version))}"]
    for section in (*first, *sections(card)):
        lines += ["", f"## {_md(section.title)}"]
        lines += [text for sentence in section.sentences for text in ("", _md(sentence))]
        if section.facts:
            lines += ["", *(f"- **{_md(name)}**: {_md(text)}" for name, text in section.facts)]
        if section.table:
            lines += ["", *_md_table(section.table)]
    return "\n".join(lines) + "\n"


_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!$&])")


def _md(text: str) -> str:
    r"""``text`` on one line, no character of it with a meaning in Markdown or HTML.

    >>> print(_md("a|b_<script>"))
    a\|b\_\<script\>
    """
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _md_table(table: Table) -> list[str]:
    rule = "|---" + "|---:" * (len(table.head) - 1) + "|"
    return [_md_row(table.head), rule, *(_md_row(row) for row in table.rows)]


def _md_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_md(cell) for cell in cells) + " |"


# --- HTML -----------------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5a6675; --line: #d6dce3; --page: #ffffff; --band: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --soft: #9aa7b6; --line: #343d48; --page: #14181d; --band: #1c2229; }
}
body { margin: 0 auto; max-width: 70rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { color: var(--soft); margin: .4rem 0; max-width: 62rem; }
dl { display: grid; grid-template-columns: minmax(9rem, max-content) 1fr; gap: .25rem 1.25rem; margin: .6rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
tbody tr:nth-child(even) { background: var(--band); }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def html(card: Card, *, version: str | None = None, first: Sequence[Section] = ()) -> str:
    """The card as one HTML page: no script, no other file, light or dark as the reader's system is.

    Args:
        card: From ``card.make``.
        version: Semantic version, where it is known.
        first: Sections to stand before the others, such as who promoted it.
    """
    heading = markup.escape(f"Model card: {title(card, version)}")
    body = "\n".join(_html_section(section) for section in (*first, *sections(card)))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{heading}</h1>\n{body}\n</body>\n</html>\n"
    )


def _html_section(section: Section) -> str:
    parts = [f"<h2>{markup.escape(section.title)}</h2>"]
    parts += [f"<p>{markup.escape(sentence)}</p>" for sentence in section.sentences]
    if section.facts:
        pairs = (f"<dt>{markup.escape(name)}</dt><dd>{markup.escape(text)}</dd>" for name, text in section.facts)
        parts += ["<dl>", *pairs, "</dl>"]
    if section.table:
        parts.append(_html_table(section.table))
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _html_table(table: Table) -> str:
    head = _html_row("th", table.head, ' scope="col"')
    body = "\n".join(_html_row("td", row) for row in table.rows)
    return f'<div class="wide"><table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _html_row(tag: str, cells: Sequence[str], attributes: str = "") -> str:
    return "<tr>" + "".join(f"<{tag}{attributes}>{markup.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
