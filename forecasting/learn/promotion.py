"""Champion against challenger: which kind of version, and whether it is crowned. Keeping is an ordinary result."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import ceil, log2
from typing import Literal

import numpy as np
import pandas as pd

from forecasting.config import Promotion
from forecasting.learn import rails
from forecasting.learn.comparison import Comparison, compare, paired
from forecasting.learn.rails import Costs
from forecasting.learn.selection import accuracy

__all__ = ["Costs", "Decision", "Kind", "decide", "kind", "next_version"]

log = logging.getLogger(__name__)

Kind = Literal["FIRST", "PATCH", "MINOR", "MAJOR"]


@dataclass(frozen=True)
class Decision:
    """The outcome of a comparison, and everything it rests on."""

    promoted: bool
    reason: str
    evidence: dict[str, object] = field(default_factory=dict)
    """JSON-able: figures of both sides, gain by origin, p value, coverage, costs, rails, limits."""


def kind(challenger: Mapping[str, object], champion: Mapping[str, object] | None) -> Kind:
    """What kind of version the challenger would be, by comparison, never by declaration.

    Args:
        challenger: ``recipe`` and ``interface`` (``Customer.recipe()``, ``Customer.interface()``, or hashes of them).
        champion: The same of the champion; None: there is none.

    >>> kind({"recipe": 1, "interface": 1}, {"recipe": 2, "interface": 1})
    'MINOR'
    """
    if champion is None:
        return "FIRST"
    if challenger["interface"] != champion["interface"]:
        return "MAJOR"
    return "MINOR" if challenger["recipe"] != champion["recipe"] else "PATCH"


def next_version(current: str | None, kind: Kind) -> str:
    """The semantic version after ``current``.

    >>> next_version(None, "FIRST"), next_version("1.2.3", "PATCH"), next_version("1.2.3", "MINOR")
    ('1.0.0', '1.2.4', '1.3.0')

    Raises:
        ValueError: ``current`` is not three numbers.
    """
    if current is None:
        return "1.0.0"
    parts = current.split(".")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise ValueError(f"version {current!r}: expected three numbers such as 1.2.3")
    major, minor, patch = (int(part) for part in parts)
    if kind == "FIRST":
        raise ValueError(f"version {current} stands: the next one cannot be the first")
    following = {"PATCH": (major, minor, patch + 1), "MINOR": (major, minor + 1, 0), "MAJOR": (major + 1, 0, 0)}
    return ".".join(map(str, following[kind]))


def decide(
    challenger: pd.DataFrame,
    champion: pd.DataFrame | None,
    kind: Kind,
    rules: Promotion,
    *,
    compared: Literal["versions", "recipes"],
    volume: float | None = None,
    costs: tuple[Costs, Costs] = (Costs(), Costs()),
) -> Decision:
    """Crown the challenger or keep the champion.

    A MINOR or MAJOR must gain the margin, and the paired test over origins (:mod:`forecasting.learn.comparison`) must
    find it better than the champion. A PATCH must be non-inferior: the same test finds that it is not worse by the
    tolerated loss. All need the guard rails (:mod:`forecasting.learn.rails`). Where recipes are compared and a PATCH
    has the champion's, their scores are equal: its guard rails alone decide.

    Args:
        challenger: Score frame with ``y_hat`` and, for the calibration, the published quantiles.
        champion: The same of the champion; None: there is none yet. Only rows both have are compared.
        kind: What ``kind`` said.
        rules: The customer's limits.
        compared: ``versions`` as they were fitted, or ``recipes`` refitted at each origin; goes into the evidence.
        volume: Tonight's forecast total of the challenger relative to the champion's, 0.02 = 2 % more; None: unknown.
        costs: The challenger's and the champion's.
    """
    facts: dict[str, object] = {
        "kind": kind,
        "compared": compared,
        "volume": volume,
        "costs": {side: asdict(of) for side, of in zip(_SIDES, costs, strict=True)},
        "limits": rules.model_dump(mode="json"),
    }
    if champion is None or kind == "FIRST":
        return Decision(True, "first version", {**facts, "challenger": _figures(challenger)})
    mine, theirs = paired(challenger, champion)
    result = compare(mine, theirs)
    evidence = {**facts, **_evidence(mine, theirs, result)}
    scarce = _scarce(result, kind, rules, compared)
    if scarce:
        return Decision(False, f"kept: {scarce}", evidence)
    needed, above = (-rules.non_inferiority,) * 2 if kind == "PATCH" else (rules.margin, 0.0)
    p = result.p_value(above)
    found = rails.judge(mine, theirs, result, rules, volume=volume, costs=costs)
    evidence |= {"p": p, "tested_above": above, "gain_needed": needed, "rails": [asdict(rail) for rail in found]}
    accurate = _same_recipe(kind, compared) or _is_proven(result, needed, p, rules)
    broken = next((rail.told for rail in found if rail.told), None)
    refusal = broken if accurate else f"{_gain(result, p)}, {_demand(kind, needed, rules)}"
    if refusal:
        return Decision(False, f"kept: {refusal}", evidence)
    log.info("promote: %s, gain %s over %s origins", kind, evidence["gain"], evidence["origins"])
    return Decision(True, f"{kind}: {_grounds(kind, compared, volume, result, p)}", evidence)


_SIDES = ("challenger", "champion")


def _same_recipe(kind: Kind, compared: str) -> bool:
    return kind == "PATCH" and compared == "recipes"


def _scarce(result: Comparison, kind: Kind, rules: Promotion, compared: str) -> str:
    """What is too little to judge by; empty when there is enough."""
    origins, tested = len(result.by_origin), len(result.values)
    if origins < rules.min_origins:
        return f"{origins} shared origins, {rules.min_origins} needed"
    if kind != "PATCH" and tested < rules.test_origins:
        return f"{tested} shared origins without overlap, {rules.test_origins} needed for a {kind}"
    least = ceil(-log2(rules.alpha))  # fewer could not show so small a p even if all were won
    if not _same_recipe(kind, compared) and tested < least:
        return f"{tested} shared origins without overlap, {least} needed for p at most {rules.alpha:g}"
    return ""


def _is_proven(result: Comparison, needed: float, p: float | None, rules: Promotion) -> bool:
    return result.gain is not None and result.gain >= needed and p is not None and p <= rules.alpha


def _gain(result: Comparison, p: float | None) -> str:
    """The gain and what it rests on, in words."""
    shown = "" if p is None else f"p {p:.4f}" if p >= 0.0001 else "p below 0.0001"
    proof = f" ({shown} over {len(result.values)} origins)" if shown else ""
    return f"gain {result.gain or 0.0:+.1%}{proof}"


def _demand(kind: Kind, needed: float, rules: Promotion) -> str:
    return f"a {kind} needs {needed:+.1%} and p at most {rules.alpha:g}"


def _grounds(kind: Kind, compared: str, volume: float | None, result: Comparison, p: float | None) -> str:
    """What speaks for the challenger, in words."""
    if _same_recipe(kind, compared):
        total = "" if volume is None else f", tonight's total {volume:+.1%}"
        return f"the champion's recipe on newer data{total}"
    return _gain(result, p)


def _figures(frame: pd.DataFrame) -> dict[str, float | None]:
    if not len(frame):
        return {}
    return {name: None if not np.isfinite(value) else float(value) for name, value in accuracy(frame).items()}


def _evidence(mine: pd.DataFrame, theirs: pd.DataFrame, result: Comparison) -> dict[str, object]:
    """All figures the rules look at, and those a person would ask for."""
    by_origin = _by_origin(result)
    return {
        "origins": len(by_origin),
        "tested_origins": len(result.values),
        "first_origin": by_origin[0]["origin"] if by_origin else None,
        "last_origin": by_origin[-1]["origin"] if by_origin else None,
        "series": len(result.by_series),
        "gain": result.gain,
        "by_origin": by_origin,
        "won_origins": int((result.by_origin["gain"] > 0).sum()),
        "challenger": _figures(mine),
        "champion": _figures(theirs),
        "coverage": {
            side: {str(level): share for level, share in rails.coverage(frame).items()}
            for side, frame in zip(_SIDES, (mine, theirs), strict=True)
        },
    }


def _by_origin(result: Comparison) -> list[dict[str, object]]:
    """Both sides' mean RMSSE at each origin, the gain there, and whether it is a replicate of the test."""
    shown = result.by_origin[["challenger", "champion", "gain", "series", "tested"]].reset_index()
    shown.insert(0, "origin", shown.pop("cutoff").dt.strftime("%Y-%m-%d"))
    return [{str(name): value for name, value in row.items()} for row in shown.to_dict(orient="records")]
