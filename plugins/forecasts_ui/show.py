"""Words and figures for people: what a state is called, how a number is written, which files there are."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from forecasting.config import BOTTOM
from forecasting.frames import split_id
from forecasting.store.pages import Freshness, Standing, freshness

__all__ = ["STATIC", "Chip", "FleetRow", "fleet_row", "render", "series_label"]

_HERE = Path(__file__).resolve().parent
Tone = Literal["good", "note", "warn", "bad", "quiet"]


@dataclass(frozen=True)
class Chip:
    """A state in a word, with a tone: the word alone must do."""

    tone: Tone
    word: str


@dataclass(frozen=True)
class FleetRow:
    """One customer as the pages show it."""

    standing: Standing
    freshness: Freshness
    fresh: Chip
    run: Chip
    contract: Chip
    rungs: list[tuple[str, str, int]]
    """Rung, its name for people, rows."""

    @property
    def worst(self) -> int:
        """How badly it stands: 0 is the worst."""
        return min(_ORDER.index(chip.tone) for chip in (self.fresh, self.run, self.contract))

    @property
    def order(self) -> tuple[int, str]:
        """What is wrong first, then by name."""
        return self.worst, self.standing.customer_id

    @property
    def gain(self) -> float | None:
        """Share by which the selection's WAPE is below seasonal naive's."""
        own, naive = self.standing.wape_selection, self.standing.wape_seasonal_naive
        return None if own is None or not naive else 1 - own / naive


_ORDER: tuple[Tone, ...] = ("bad", "warn", "note", "quiet", "good")

_FRESH: dict[str, Chip] = {
    "current": Chip("good", "current"),
    "due": Chip("good", "due tonight"),
    "ended": Chip("good", "complete"),
    "behind": Chip("bad", "behind"),
    "stale": Chip("warn", "stale"),
    "none": Chip("bad", "never published"),
}
_RUN: dict[str | None, Chip] = {
    "published": Chip("good", "published"),
    "verified": Chip("good", "verified"),
    "nothing_new": Chip("good", "nothing new"),
    "running": Chip("note", "running"),
    "kept": Chip("quiet", "kept beside"),
    "late": Chip("warn", "late"),
    "broken": Chip("bad", "broken"),
    "failed": Chip("bad", "failed"),
    None: Chip("quiet", "no run yet"),
}
_CONTRACT: dict[str | None, Chip] = {
    "passed": Chip("good", "passed"),
    "warned": Chip("warn", "warned"),
    "crashed": Chip("bad", "check crashed"),
    "broken": Chip("bad", "broken"),
    None: Chip("quiet", "not checked"),
}
_STATUS: dict[str | None, Chip] = {
    "ok": Chip("good", "ok"),
    "fallback": Chip("warn", "fallback"),
    "cold_start": Chip("note", "cold start"),
    "retired": Chip("quiet", "retired"),
}
_RUNGS = {
    "chosen": "chosen model",
    "cheaper": "cheaper model",
    "seasonal_naive": "seasonal naive",
    "naive": "naive",
    "cold_start": "cold start",
    "sum": "sum of series",
}


def fleet_row(standing: Standing, now: datetime) -> FleetRow:
    """What the fleet page says of one customer at the instant ``now``."""
    fresh = freshness(standing, now)
    return FleetRow(
        standing,
        fresh,
        _FRESH[fresh.state] if standing.last_run_id else Chip("quiet", "no night yet"),
        _known(_RUN, standing.last_status),
        _known(_CONTRACT, standing.contract_state),
        [(rung, _RUNGS[rung], count) for rung, count in standing.rungs.items()],
    )


def _known(chips: dict[str | None, Chip], state: str | None) -> Chip:
    return chips.get(state) or Chip("note", str(state))


def series_label(node: str, unique_id: str) -> str:
    """A series by its keys; an aggregate node with its kind before it."""
    keys = " / ".join(split_id(unique_id))
    return keys if node in (BOTTOM, unique_id) else f"{node}: {keys}"


# --- files ----------------------------------------------------------------------------------------------------------


def _plotly() -> Path:
    """plotly.js as its Python package brings it, found without importing the package."""
    spec = find_spec("plotly")
    assert spec
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "package_data/plotly.min.js"


STATIC = {
    "forecasts.css": _HERE / "static/forecasts.css",
    "forecasts.js": _HERE / "static/forecasts.js",
    "plotly.min.js": _plotly(),
}
"""What browsers may fetch, by name: no path comes from an address."""


@cache
def _version(name: str) -> str:
    return hashlib.sha256(STATIC[name].read_bytes()).hexdigest()[:12]


@cache
def _plotly_styles() -> tuple[str, ...]:
    """Ids of the style sheets that plotly.js adds for its maps when it is loaded, unless an element has the id.

    We draw no maps, and our policy refuses inline style sheets: an empty element of that id keeps the console quiet.
    """
    text = STATIC["plotly.min.js"].read_text(encoding="utf-8")
    return tuple(sorted(set(re.findall(r'getElementById\("([0-9a-f]{64})"\)', text))))


# --- templates ------------------------------------------------------------------------------------------------------


def render(name: str, **values: Any) -> str:
    """The page ``name``; everything put into it is escaped."""
    return _environment().get_template(name).render(values)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,  # always: rows of bad feeds are shown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"version": _version, "chip_of": _chip_of, "plotly_styles": _plotly_styles, "label": series_label}
    made.filters |= {"count": _count, "percent": _percent, "moment": _moment, "took": _took, "fields": _fields}
    return made


def _chip_of(kind: str, state: str | None) -> Chip:
    return _known({"run": _RUN, "contract": _CONTRACT, "status": _STATUS}[kind], state)


def _count(value: int | None) -> str:
    """A whole number with thin spaces between thousands; a dash where there is none."""
    return "–" if value is None else f"{value:,}".replace(",", "\u202f")


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value * 100:.{digits}f}\u202f%"


def _moment(value: datetime | None) -> str:
    return "–" if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _took(run: Any) -> str:
    """How long a run took; a dash while it has not ended."""
    if run.finished_at is None:
        return "–"
    seconds = round((run.finished_at - run.started_at).total_seconds())
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min {seconds % 60:02d} s"


def _fields(row_json: str | None) -> list[tuple[str, str]]:
    """A refused row's columns and values; as one text where it was cut or is no mapping."""
    try:
        row = json.loads(row_json or "{}")
    except ValueError:
        row = None
    if not isinstance(row, dict):
        return [("", str(row_json))]
    return [(str(name), "" if value is None else str(value)) for name, value in row.items()]
