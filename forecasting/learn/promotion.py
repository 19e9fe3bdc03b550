"""Champion against challenger: which kind of version, and whether it is crowned. Keeping is an ordinary result."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from forecasting.config import Promotion
from forecasting.frames import BACKTEST
from forecasting.learn.selection import accuracy, rmsse_by_series

__all__ = ["Decision", "Kind", "decide", "kind", "next_version"]

log = logging.getLogger(__name__)

Kind = Literal["FIRST", "PATCH", "MINOR", "MAJOR"]

CLEARLY_WORSE = 0.10
"""A series is made clearly worse when its RMSSE rises by more than this share."""


@dataclass(frozen=True)
class Decision:
    """The outcome of a comparison, and everything it rests on."""

    promoted: bool
    reason: str
    evidence: dict[str, object] = field(default_factory=dict)
    """JSON-able: figures of both sides, origins, limits."""


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
) -> Decision:
    """Crown the challenger or keep the champion.

    A PATCH needs non-inferiority, MINOR and MAJOR the margin; all need the guard rails: bias, the share of series made
    clearly worse, and a total for tonight that is near the champion's. Origins count once each, as pairs. Where
    recipes are compared and a PATCH has the champion's, their scores are equal: its guard rails alone decide.

    Args:
        challenger: Score frame with the one column ``y_hat``.
        champion: The same of the champion; None: there is none yet. Only rows both have are compared.
        kind: What ``kind`` said.
        rules: The customer's limits.
        compared: ``versions`` as they were fitted, or ``recipes`` refitted at each origin; goes into the evidence.
        volume: Tonight's forecast total of the challenger relative to the champion's, 0.02 = 2 % more; None: unknown.
    """
    if champion is None or kind == "FIRST":
        return Decision(True, "first version", {"kind": kind, "compared": compared, "challenger": _figures(challenger)})
    mine, theirs = _paired(challenger, champion)
    if not len(mine):
        bare: dict[str, object] = {"kind": kind, "compared": compared, "origins": 0, "volume": volume}
        return Decision(False, f"kept: 0 shared origins, {rules.min_origins} needed", bare)
    evidence = {**_evidence(mine, theirs, kind, rules, compared), "volume": volume}
    refusal = _refusal(evidence, rules)
    if refusal:
        return Decision(False, f"kept: {refusal}", evidence)
    log.info("promote: %s, gain %s over %s origins", kind, evidence["gain"], evidence["origins"])
    return Decision(True, f"{kind}: {_grounds(kind, evidence)}", evidence)


def _grounds(kind: Kind, evidence: Mapping[str, object]) -> str:
    """What speaks for the challenger, in words."""
    if kind == "PATCH" and evidence["compared"] == "recipes":
        volume = evidence["volume"]
        total = f", tonight's total {volume:+.1%}" if isinstance(volume, float) else ""
        return f"the champion's recipe on newer data{total}"
    return f"RMSSE changed by {-float(str(evidence['gain'])):+.1%} over {evidence['origins']} origins"


def _paired(challenger: pd.DataFrame, champion: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both frames on the rows where both made a forecast, in one order."""
    key = list(BACKTEST.key)
    both = challenger.dropna(subset="y_hat")[key].merge(champion.dropna(subset="y_hat")[key], on=key).sort_values(key)
    return both.merge(challenger, on=key, how="left"), both.merge(champion, on=key, how="left")


def _figures(frame: pd.DataFrame) -> dict[str, float | None]:
    if not len(frame):
        return {}
    return {name: None if not np.isfinite(value) else float(value) for name, value in accuracy(frame).items()}


def _evidence(
    mine: pd.DataFrame, theirs: pd.DataFrame, kind: Kind, rules: Promotion, compared: str
) -> dict[str, object]:
    """All figures the rules look at, and those a person would ask for."""
    own, other = rmsse_by_series(mine, ["y_hat"])["y_hat"], rmsse_by_series(theirs, ["y_hat"])["y_hat"]
    paired = pd.DataFrame({"challenger": own, "champion": other}).dropna()
    by_origin = paired.groupby("cutoff").mean()
    by_series = paired.groupby("unique_id").mean()
    base = float(by_origin["champion"].mean()) if len(by_origin) else np.nan
    gain = 1 - float(by_origin["challenger"].mean()) / base if base and np.isfinite(base) else np.nan
    worse = by_series["challenger"] > by_series["champion"] * (1 + CLEARLY_WORSE)
    return {
        "kind": kind,
        "compared": compared,
        "origins": len(by_origin),
        "first_origin": str(pd.Timestamp(by_origin.index.min()).date()) if len(by_origin) else None,
        "last_origin": str(pd.Timestamp(by_origin.index.max()).date()) if len(by_origin) else None,
        "series": len(by_series),
        "gain": gain if np.isfinite(gain) else None,
        "won_origins": int((by_origin["challenger"] < by_origin["champion"]).sum()),
        "worse_share": float(worse.mean()) if len(worse) else None,
        "challenger": _figures(mine),
        "champion": _figures(theirs),
        "limits": rules.model_dump(mode="json"),
    }


def _refusal(evidence: Mapping[str, object], rules: Promotion) -> str:
    """Why the champion is kept; empty when the challenger may be crowned."""
    origins, gain, worse = evidence["origins"], evidence["gain"], evidence["worse_share"]
    if not isinstance(origins, int) or origins < rules.min_origins or not isinstance(gain, float):
        return f"{origins} shared origins, {rules.min_origins} needed"
    needed = -rules.non_inferiority if evidence["kind"] == "PATCH" else rules.margin
    if gain < needed:
        return f"RMSSE gain {gain:+.1%}, {needed:+.1%} needed for a {evidence['kind']}"
    own, other = evidence["challenger"], evidence["champion"]
    bias = own["bias"] if isinstance(own, dict) else None
    before = other["bias"] if isinstance(other, dict) else None
    # A champion that is beyond the rail itself must not make the rail impossible to pass by an improvement.
    if bias is not None and abs(bias) > rules.max_bias and (before is None or abs(bias) > abs(before)):
        return f"bias {bias:+.1%}, the guard rail is {rules.max_bias:.0%}"
    volume = evidence.get("volume")
    if isinstance(volume, float) and abs(volume) > rules.max_bias:
        return f"tonight's total is {volume:+.1%} of the champion's, the guard rail is {rules.max_bias:.0%}"
    if isinstance(worse, float) and worse > rules.max_worse_share:
        return f"{worse:.0%} of series clearly worse, the guard rail is {rules.max_worse_share:.0%}"
    return ""
