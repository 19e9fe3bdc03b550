"""What a person reads before answering: the comparison as Markdown. It reads what the gate left, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from typing import Any

from forecasting.store.pointers import Approval

__all__ = ["body", "subject"]

ORIGINS = 12
"""How many of the newest origins are listed."""


def subject(asked: Approval) -> str:
    """The question in one line."""
    return f"{asked.customer_id}: put {asked.version} in charge in place of {asked.champion}?"


def body(asked: Approval) -> str:
    """The comparison: what won, by how much, where it did not, and what follows from either answer."""
    evidence = asked.evidence
    parts = [
        _lead(asked),
        _scores(evidence),
        _origins(evidence.get("by_origin") or []),
        _rails(evidence.get("rails") or []),
        _worst(evidence.get("worst_series")),
        _what_next(asked),
    ]
    return "\n\n".join(part for part in parts if part)


def _lead(asked: Approval) -> str:
    evidence = asked.evidence
    kind = f" ({evidence['kind']})" if "kind" in evidence else ""
    p = _number(evidence.get("p"), ".2g")
    facts = [f"gain in RMSSE **{_share(evidence.get('gain'))}**"] if evidence.get("gain") is not None else []
    facts += [f"p value {p}"] if p else []
    facts += [f"{evidence['origins']} origins of {evidence.get('series')} series"] if evidence.get("origins") else []
    return (
        f"**{asked.version}**{kind} won against **{asked.champion}** on the night of `{asked.run_id}`: "
        f"{', '.join(facts) or evidence.get('gate')}.\n\n"
        f"That night is published, with {asked.champion}. {_COMPARED.get(str(evidence.get('compared')), '')}"
    )


_COMPARED = {
    "recipes": "Compared were the recipes, both fitted anew at every origin.",
    "versions": "Compared were the versions as they were fitted, at origins after both.",
}


def _scores(evidence: Mapping[str, Any]) -> str:
    """Both sides' scores, coverage and totals beside each other."""
    sides = [evidence.get(side) or {} for side in ("challenger", "champion")]
    rows = [
        [told, *(_number(side.get(name), form) for side in sides)]
        for name, told, form in _SCORES
        if any(side.get(name) is not None for side in sides)
    ]
    covered = [(evidence.get("coverage") or {}).get(side) or {} for side in ("challenger", "champion")]
    rows += [
        [f"{level} % intervals cover", *(_number(side.get(level), ".1%") for side in covered)]
        for level in sorted(covered[0], key=int)
    ]
    totals = evidence.get("totals") or {}
    if totals:
        rows.append(["tonight's total", *(f"{totals[side]:,.1f}" for side in ("challenger", "champion"))])
    return _table(("", "challenger", "champion"), rows)


_SCORES = (
    ("rmsse", "RMSSE, lower is better", ".4f"),
    ("wape", "WAPE, lower is better", ".2%"),
    ("bias", "bias, positive is too much", "+.2%"),
)


def _origins(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            str(origin["origin"]),
            _number(origin.get("challenger"), ".4f"),
            _number(origin.get("champion"), ".4f"),
            _share(origin.get("gain")),
        ]
        for origin in found[-ORIGINS:]
    ]
    title = f"**By origin**, newest {len(rows)} of {len(found)}" if len(found) > len(rows) else "**By origin**"
    return f"{title}\n\n{_table(('origin', 'challenger', 'champion', 'gain'), rows)}" if rows else ""


def _rails(found: Sequence[Mapping[str, Any]]) -> str:
    """The guard rails that could be measured."""
    rows = [
        [
            _RAILS.get(str(rail["name"]), str(rail["name"]).replace("_", " ")),
            "held" if rail["held"] else "**broken**",
            *(_number(rail.get(name), ",.0f" if rail["name"] in _COSTS else ".1%") for name in _SIDES),
        ]
        for rail in found
        if rail.get("value") is not None
    ]
    return f"**Guard rails**\n\n{_table(('rail', '', 'challenger', 'champion', 'limit'), rows)}" if rows else ""


_SIDES = ("value", "champion", "limit")
_COSTS = ("run_time", "size")
_RAILS = {
    "volume": "tonight's total beside the champion's",
    "worse_share": "series made clearly worse",
    "run_time": "CPU seconds of fits",
    "size": "bytes of the bundle",
    **{f"coverage_{level}": f"{level} % intervals cover" for level in (50, 80, 90, 95)},
}


def _worst(found: Sequence[Mapping[str, Any]] | None) -> str:
    if found is None:
        return ""
    if not found:
        return "**No series** would be forecast worse."
    rows = [
        [_cell(line["unique_id"]), _number(line["challenger"], ".4f"), _number(line["champion"], ".4f"), _rise(line)]
        for line in found
    ]
    table = _table(("series", "challenger", "champion", "RMSSE rises by"), rows)
    return f"**Series that would be forecast worse**, the worst first\n\n{table}"


def _rise(line: Mapping[str, Any]) -> str:
    return f"{line['challenger'] / line['champion'] - 1:+.1%}" if line["champion"] else ""


def _what_next(asked: Approval) -> str:
    until = f"{asked.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return (
        f"**Approve**: {asked.version} publishes from the next night on; what is published stays. "
        f"**Reject**: {asked.champion} stays. The same without an answer by {until}, "
        "and when a newer challenger wins before. "
        f"From a shell: `forecasting approve {asked.customer_id} --yes --reason TEXT`."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    ruler = "|---|" + "---:|" * (len(head) - 1)
    return "\n".join(["| " + " | ".join(head) + " |", ruler, *lines]) if lines else ""


def _number(value: object, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else ""


def _share(value: object) -> str:
    return _number(value, "+.2%")


def _cell(text: object) -> str:
    """A series' id as code: it comes from a feed, and must not become markup."""
    return "`" + str(text).replace("`", "'").replace("|", "¦").replace("\n", " ") + "`"
