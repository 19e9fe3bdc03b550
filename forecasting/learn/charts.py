"""Charts for people: which series to look at first and why, and one HTML page of them that needs no network.

What comes from data, such as a series' key, may hold any text: it is escaped where it is written, and nowhere else.
"""

from __future__ import annotations

import base64
import hashlib
import html as markup
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forecasting.config import BOTTOM
from forecasting.frames import quantile_column, split_id
from forecasting.learn.page import figure, percent
from forecasting.periods import Frequency

__all__ = ["KEY", "About", "Pick", "choose", "every", "html", "named", "score", "with_scale"]

KEY = ["node", "unique_id"]
_PERIODS = {"D": "day", "W": "week", "M": "month"}
_X_TITLES = {"D": "day", "W": "week ending", "M": "month ending"}


@dataclass(frozen=True)
class About:
    """What a page says of itself."""

    customer: str
    run_id: str
    run_date: date
    cutoff: date
    version: str
    stale: bool
    frequency: Frequency
    horizon: int
    levels: tuple[int, ...]
    """Widths of the published intervals, in percent."""
    series: int
    """Series and nodes with a published forecast, drawn or not."""
    since: date
    """Units are counted after this period, to the cutoff."""
    folds: str
    """What the folds are, in a word: ``backtest``, ``published then``; empty: there are none."""
    reference: str | None
    """The forecaster that the folds' scores stand beside; None: nothing stands beside them."""
    told: tuple[str, ...]
    """What the folds are and where they come from, in sentences."""

    @property
    def level(self) -> int:
        """The interval whose coverage is told: 80 %, else the narrowest."""
        return 80 if 80 in self.levels else min(self.levels)


@dataclass(frozen=True)
class Pick:
    """A series that is drawn, and why."""

    node: str
    unique_id: str
    reasons: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str]:
        """Node and unique_id."""
        return self.node, self.unique_id


# --- which --------------------------------------------------------------------------------------------------------


def choose(known: pd.DataFrame, scores: pd.DataFrame, n: int) -> list[Pick]:
    """The worst, the biggest and the newest series, then the biggest of each upper node; each once, with its reasons.

    Args:
        known: node, unique_id, depth, units, first, model (None: no forecast is published).
        scores: node, unique_id, rmsse of the folds.
        n: How many of each.

    >>> known = pd.DataFrame({"node": "bottom", "unique_id": ["a", "b"], "depth": 1, "units": [9.0, 2.0],
    ...     "first": [date(2024, 1, 1), date(2024, 3, 1)], "model": "naive"})
    >>> scores = pd.DataFrame({"node": "bottom", "unique_id": ["a", "b"], "rmsse": [0.8, 1.3]})
    >>> for pick in choose(known, scores, 1): print(pick.unique_id, *pick.reasons, sep=" | ")
    b | worst, 1 of 2 judged | newest, first seen 2024-03-01
    a | biggest, 1 of 2
    """
    alive = known[known["model"].notna()]
    bottom = alive[alive["node"] == BOTTOM]
    reasons: dict[tuple[str, str], list[str]] = {}

    def take(rows: pd.DataFrame, why: Sequence[str]) -> None:
        for key, reason in zip(rows[KEY].itertuples(index=False, name=None), why, strict=False):
            reasons.setdefault(key, []).append(reason)

    judged = bottom.merge(scores[[*KEY, "rmsse"]].dropna(), on=KEY)
    worst = judged.sort_values(["rmsse", "unique_id"], ascending=[False, True]).head(n)
    take(worst, [f"worst, {i} of {len(judged):,} judged" for i in range(1, len(worst) + 1)])
    biggest = _biggest(bottom, n)
    take(biggest, [f"biggest, {i} of {len(bottom):,}" for i in range(1, len(biggest) + 1)])
    newest = _newest(known[known["node"] == BOTTOM], bottom).head(n)
    take(newest, [_since(first) for first in newest["first"]])
    for node in alive.loc[alive["node"] != BOTTOM].sort_values(["depth", "node"])["node"].unique():
        members = alive[alive["node"] == node]
        shown = _biggest(members, n)
        of = f", {{}} of {len(members):,}" if len(members) > 1 else ""
        take(shown, [f"upper node {node}{of.format(i)}" for i in range(1, len(shown) + 1)])
    return [Pick(node, unique_id, tuple(why)) for (node, unique_id), why in reasons.items()]


def _biggest(rows: pd.DataFrame, n: int) -> pd.DataFrame:
    return rows.sort_values(["units", "unique_id"], ascending=[False, True]).head(n)


def _newest(every: pd.DataFrame, alive: pd.DataFrame) -> pd.DataFrame:
    """Series that began after the oldest history that is kept: of the others nobody knows when they did."""
    first = pd.to_datetime(alive["first"])
    began = first.isna() | (first > pd.to_datetime(every["first"]).min())
    order = alive.assign(began=first)[began]
    return order.sort_values(["began", "unique_id"], ascending=[False, True], na_position="first")


def _since(first: date | None) -> str:
    return "newest, no sale yet" if first is None or first != first else f"newest, first seen {first}"


def named(known: pd.DataFrame, unique_ids: Sequence[str]) -> list[Pick]:
    """The series of those names, in their order; one that a node shares with another is drawn for each."""
    found = {one: known.loc[known["unique_id"] == one, "node"].sort_values() for one in unique_ids}
    return [Pick(str(node), one, ("asked for",)) for one, nodes in found.items() for node in nodes]


def every(known: pd.DataFrame, first: Sequence[Pick]) -> list[Pick]:
    """All series and nodes, ``first`` before the others."""
    there = {pick.key for pick in first}
    rest = known.sort_values(["depth", "node", "unique_id"])
    keys = zip(rest["node"], rest["unique_id"], strict=True)
    return [*first, *(Pick(*key, ("all were asked for",)) for key in keys if key not in there)]


# --- how good -----------------------------------------------------------------------------------------------------


def score(folds: pd.DataFrame, level: int) -> pd.DataFrame:
    """How each series fared over its folds.

    Args:
        folds: node, unique_id, cutoff, y, y_hat, q50, the quantiles of ``level``, ``scale`` (RMSSE's denominator at
            the cutoff, units²) and perhaps ``reference``; rows without y are not scored.
        level: Interval whose coverage is told, in percent.

    Returns:
        node, unique_id, folds (how many), rmsse and rmsse_reference (means over folds), wape (of the median), bias
        (positive: over-forecast) and inside (share of actuals in the interval).

    RMSSE: Makridakis et al. (2022), doi:10.1016/j.ijforecast.2021.11.013.

    >>> folds = pd.DataFrame({"node": "bottom", "unique_id": "a", "cutoff": 0, "y": [1.0, 3.0], "y_hat": [2.0, 3.0],
    ...     "q50": [1.0, 2.0], "q10": 0.0, "q90": 2.5, "scale": 2.0})
    >>> score(folds, 80).round(3).to_dict("records")[0]
    {'node': 'bottom', 'unique_id': 'a', 'folds': 1, 'rmsse': 0.5, 'rmsse_reference': nan, 'wape': 0.25, 'bias': 0.25, 'inside': 0.5}
    """  # noqa: E501 - one line of output
    lo, hi = _edges(level)
    seen = folds[folds["y"].notna() & folds["y_hat"].notna()]
    y, wanted = seen["y"], [*KEY, "folds", "rmsse", "rmsse_reference", "wape", "bias", "inside"]
    if not len(seen):
        return pd.DataFrame(columns=wanted)
    beside = seen["reference"] if "reference" in seen else pd.Series(np.nan, index=seen.index)
    rows = seen[[*KEY, "cutoff"]].assign(
        rmsse=(seen["y_hat"] - y) ** 2 / seen["scale"],
        rmsse_reference=(beside - y) ** 2 / seen["scale"],
        volume=y.abs(),
        missed=(seen["q50"] - y).abs(),
        over=seen["y_hat"] - y,
        inside=((y >= seen[lo]) & (y <= seen[hi])).astype("float64").where(seen[lo].notna()),
    )
    by_fold = rows.groupby([*KEY, "cutoff"], sort=True)[["rmsse", "rmsse_reference"]].mean().pow(0.5)
    means = by_fold.groupby(KEY, sort=True).mean().assign(folds=by_fold.groupby(KEY, sort=True).size())
    sums = rows.groupby(KEY, sort=True)[["volume", "missed", "over"]].sum()
    volume = sums["volume"].where(sums["volume"] > 0)
    ratios = {"wape": sums["missed"] / volume, "bias": sums["over"] / volume}
    inside = rows.groupby(KEY, sort=True)["inside"].mean()
    return means.assign(**ratios, inside=inside).reset_index()[wanted]


def with_scale(folds: pd.DataFrame, sold: pd.DataFrame) -> pd.DataFrame:
    """``folds`` with RMSSE's denominator where it lacks: the mean squared step of what was sold to the cutoff, units².

    Args:
        folds: node, unique_id, cutoff and perhaps ``scale``.
        sold: node, unique_id, ds, y; the history that is at hand, which may begin later than the series did.
    """
    ordered = sold.sort_values([*KEY, "ds"])
    steps = ordered.assign(step=ordered.groupby(KEY, sort=False)["y"].diff() ** 2).dropna(subset="step")
    wanted = folds[[*KEY, "cutoff"]].drop_duplicates()
    until = wanted.merge(steps[[*KEY, "ds", "step"]], on=KEY)
    until = until[until["ds"] <= until["cutoff"]]
    scale = until.groupby([*KEY, "cutoff"], sort=True)["step"].mean().rename("of_history").reset_index()
    joined = folds.merge(scale, on=[*KEY, "cutoff"], how="left")
    given = joined["scale"] if "scale" in joined else pd.Series(np.nan, index=joined.index)
    filled = given.where(given.notna(), joined["of_history"])
    return joined.drop(columns="of_history").assign(scale=filled.where(filled > 0))


def _edges(level: int) -> tuple[str, str]:
    """The quantile columns between which an interval lies."""
    return quantile_column((100 - level) / 200), quantile_column((100 + level) / 200)


# --- the page -----------------------------------------------------------------------------------------------------

_HERE = Path(__file__)


def html(
    about: About,
    picks: Sequence[Pick],
    known: pd.DataFrame,
    scores: pd.DataFrame,
    sold: pd.DataFrame,
    forecast: pd.DataFrame,
    folds: pd.DataFrame,
    plotly: str,
) -> str:
    """The page: no request leaves it, light or dark as the reader's system is.

    Args:
        about: What it says of itself.
        picks: What is drawn, in order.
        known: As for :func:`choose`, with rung, status and reason.
        scores: Frame of :func:`score`, of the picks at least.
        sold: node, unique_id, ds, y.
        forecast: node, unique_id, ds, y_hat and quantiles: what is published.
        folds: node, unique_id, cutoff, ds, y_hat and quantiles.
        plotly: The text of plotly.js.
    """
    parts = [_by_key(frame) for frame in (sold, forecast, folds)]
    drawn = [
        {"plain": "/".join(split_id(pick.unique_id)), **_series(about, *(part.get(pick.key) for part in parts))}
        for pick in picks
    ]
    facts = _facts(about, picks, known, scores)
    data = {
        "folds": about.folds,
        "cutoff": about.cutoff.isoformat(),
        "x": _X_TITLES[about.frequency],
        "y": f"units per {_PERIODS[about.frequency]}",
        "levels": sorted(about.levels, reverse=True),
        "series": about.series,
        "customer": about.customer,
        "charts": drawn,
    }
    heading = markup.escape(f"{about.customer}: forecasts of {about.run_date}")
    scripts = [plotly, _HERE.with_suffix(".js").read_text(encoding="utf-8")]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading}</title>\n<style>{_HERE.with_suffix('.css').read_text(encoding='utf-8')}</style>\n</head>\n"
        f"<body>\n<header>\n<h1>{heading}</h1>\n{_introduction(about)}\n</header>\n{_CONTROLS}\n"
        f"<main>\n{_index(about, picks, facts)}\n"
        + "\n".join(_figure(i, pick, facts[i]) for i, pick in enumerate(picks))
        + f'\n</main>\n<script type="application/json" id="data">{_json(data)}</script>\n'
        + "\n".join(f"<script>{script}</script>" for script in scripts)
        + "\n</body>\n</html>\n"
    )


def _policy(scripts: Sequence[str]) -> str:
    """What a browser may do with the page: run these scripts, and ask nobody for anything."""
    digests = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"


def _json(data: Mapping[str, Any]) -> str:
    r"""``data`` as it may stand in a script element: no text in it can end the element.

    >>> print(_json({"unique_id": "</script>"}))
    {"unique_id":"\u003c/script>"}
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _by_key(frame: pd.DataFrame) -> dict[Any, pd.DataFrame]:
    return dict(list(frame.groupby(KEY, sort=False)))


def _series(
    about: About, sold: pd.DataFrame | None, forecast: pd.DataFrame | None, folds: pd.DataFrame | None
) -> dict[str, Any]:
    """One series' lines and bands, as plain lists."""
    by_cutoff = [] if folds is None else list(folds.groupby(folds["cutoff"].dt.strftime("%Y-%m-%d"), sort=True))
    return {
        "sold": None if sold is None else {"ds": _days(sold), "y": _numbers(sold["y"])},
        "forecast": None if forecast is None else _lines(forecast, about),
        "folds": [{"cutoff": str(cutoff), **_lines(part, about)} for cutoff, part in by_cutoff],
    }


def _lines(rows: pd.DataFrame, about: About) -> dict[str, Any]:
    bands = []
    for level in sorted(about.levels, reverse=True):
        lo, hi = _edges(level)
        if lo in rows and rows[lo].notna().any():
            bands.append({"level": level, "lo": _numbers(rows[lo]), "hi": _numbers(rows[hi])})
    return {"ds": _days(rows), "y_hat": _numbers(rows["y_hat"]), "q50": _numbers(rows["q50"]), "bands": bands}


def _days(rows: pd.DataFrame) -> list[str]:
    return [str(day) for day in rows["ds"].dt.date]


def _numbers(column: pd.Series) -> list[float | None]:
    return [round(value, 3) if np.isfinite(value) else None for value in column.astype("float64").tolist()]


# --- words --------------------------------------------------------------------------------------------------------

_Facts = list[tuple[str, str]]


def _facts(about: About, picks: Sequence[Pick], known: pd.DataFrame, scores: pd.DataFrame) -> list[_Facts]:
    """What is said of each pick: names and texts."""
    facts = dict(zip(known[KEY].itertuples(index=False, name=None), known.to_dict("records"), strict=True))
    scored = dict(zip(scores[KEY].itertuples(index=False, name=None), scores.to_dict("records"), strict=True))
    return [_said(about, facts[pick.key], scored.get(pick.key, {})) for pick in picks]


def _said(about: About, one: Mapping[Any, Any], scored: Mapping[Any, Any]) -> _Facts:
    name = f"RMSSE of {about.reference.replace('_', ' ')}" if about.reference else ""
    beside = [(name, _figure_of(scored.get("rmsse_reference")))] if name else []
    made = f"{one['model']}, {str(one['rung']).replace('_', ' ')}" if one["model"] else "no forecast"
    told = one["status"] if one["status"] not in (None, "ok") else None
    state = f"{str(told).replace('_', ' ')}: {one['reason'] or 'no reason given'}" if told else ""
    return [
        ("RMSSE", _figure_of(scored.get("rmsse"))),
        *beside,
        ("WAPE", _percent_of(scored.get("wape"))),
        ("bias", _percent_of(scored.get("bias"), signed=True)),
        (f"inside {about.level} %", _percent_of(scored.get("inside"))),
        ("units", f"{one['units']:,.0f}"),
        ("made by", made),
        *([("status", state)] if state else []),
    ]


def _figure_of(value: float | None) -> str:
    return figure(None if value is None or value != value else value)


def _percent_of(value: float | None, *, signed: bool = False) -> str:
    return percent(None if value is None or value != value else value, signed=signed)


def _introduction(about: About) -> str:
    stale = " It is an earlier set, shown after a rollback." if about.stale else ""
    ahead = f"{about.horizon} {_PERIODS[about.frequency]}s ahead"
    intervals = " and ".join(f"{level} %" for level in sorted(about.levels))
    lines = [
        f"Run {about.run_id}, version {about.version}, cutoff {about.cutoff}.{stale}",
        f"It forecasts {ahead}, with intervals of {intervals}.",
        *about.told,
    ]
    return "\n".join(f"<p>{markup.escape(line)}</p>" for line in lines) + f"\n{_how_to_read(about)}"


def _how_to_read(about: About) -> str:
    """What the figures and lines mean."""
    planner = (about.reference or "").replace("_", " ").capitalize()
    beside = f" {planner} is what a planner would use instead." if planner else ""
    terms = [
        ("worst", "the highest RMSSE of the folds"),
        ("biggest", f"most units sold after {about.since}, to the cutoff"),
        ("newest", "the latest first sale in the history that the warehouse keeps"),
        ("RMSSE", "error of the mean over the series' own step from period to period, mean over the folds; lower is "
                  f"better. On upper nodes the step is of the history drawn here.{beside}"),
        ("WAPE", "sum of the errors of the median over the sum of what was sold; lower is better"),
        ("bias", "the mean's surplus over what was sold; positive is over-forecast"),
        (f"inside {about.level} %", f"share of what came that lay in that interval; best near {about.level} %"),
        ("units", f"sold after {about.since}, to the cutoff"),
        ("vertical lines", "dashed: the cutoff, the last period that the forecast has seen; dotted: a fold's"),
    ]  # fmt: skip
    listed = "".join(f"<dt>{markup.escape(name)}</dt><dd>{markup.escape(text)}</dd>" for name, text in terms)
    return (
        f"<details><summary>How to read this page</summary>\n<dl>{listed}</dl>\n<p>Drag over a chart to look closer, "
        "double-click to go back; click a name in a legend to hide its line.</p></details>"
    )


_CONTROLS = """<form id="controls" role="search">
<label for="q">Find a series <input type="search" id="q" autocomplete="off" spellcheck="false"></label>
<fieldset id="spans"><legend>Show</legend>
<label><input type="radio" name="span" value="near" checked> newest folds and forecast</label>
<label><input type="radio" name="span" value="folds"> all folds</label>
<label><input type="radio" name="span" value="all"> all history</label>
</fieldset>
<p id="found" role="status"></p>
</form>
<noscript><p>The charts are drawn by a script in this file; the browser does not run it.</p></noscript>"""


def _index(about: About, picks: Sequence[Pick], facts: Sequence[_Facts]) -> str:
    """The table of what is drawn and why, each line leading to its chart."""
    if not picks:
        return "<p>There is nothing to draw.</p>"
    columns = [name for name, _ in facts[0] if name not in ("made by", "status")]
    head = "".join(f'<th scope="col">{markup.escape(name)}</th>' for name in ("series", "why", *columns))
    rows = []
    for i, pick in enumerate(picks):
        said = dict(facts[i])
        cells = "".join(f"<td>{markup.escape(said[name])}</td>" for name in columns)
        why = markup.escape("; ".join(pick.reasons))
        rows.append(
            f'<tr><th scope="row"><a href="#s{i}">{markup.escape(_label(pick))}</a></th><td>{why}</td>{cells}</tr>'
        )
    shown = f"{len(picks):,} of {about.series:,} series and nodes with a forecast are drawn here."
    why = " ".join(reason for pick in picks for reason in pick.reasons)
    if "biggest" in why and "newest" not in why:
        shown += " None is the newest: every series is as old as the history that the warehouse keeps."
    return (
        f'<h2>Which series, and why</h2>\n<p>{shown}</p>\n<div class="wide" tabindex="0" role="region" '
        f'aria-label="Which series, and why"><table id="index"><thead><tr>{head}</tr></thead>\n<tbody>'
        + "\n".join(rows)
        + "</tbody></table></div>"
    )


def _figure(i: int, pick: Pick, facts: _Facts) -> str:
    listed = "".join(f"<div><dt>{markup.escape(n)}</dt><dd>{markup.escape(text)}</dd></div>" for n, text in facts)
    label = markup.escape(_label(pick))
    return (
        f'<figure id="s{i}" aria-labelledby="t{i}"><figcaption><h2 id="t{i}">{label}</h2>'
        f"<p>{markup.escape('; '.join(pick.reasons))}</p><dl>{listed}</dl></figcaption>\n"
        f'<div class="plot"></div>\n<details class="figures"><summary>Figures of the forecast</summary>'
        f'<div class="wide" tabindex="0" role="region" aria-label="Figures of the forecast of {label}"></div></details>'
        "</figure>"
    )


def _label(pick: Pick) -> str:
    """A series by its unique_id, an aggregate with its node before it."""
    return pick.unique_id if pick.node in (BOTTOM, pick.unique_id) else f"{pick.node}: {pick.unique_id}"
