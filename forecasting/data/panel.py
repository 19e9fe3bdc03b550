"""Map and aggregate feed rows to the canonical panel, accounting for every line. It repairs nothing silently."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from forecasting.config import Customer
from forecasting.errors import ConfigurationError
from forecasting.feed import Exclude
from forecasting.frames import PANEL, Lines, empty, join_id, split_id
from forecasting.periods import Frequency

__all__ = ["Mapped", "check_panel", "exclude", "merge", "sample", "to_panel"]

log = logging.getLogger(__name__)

NEGATIVE = "negative line excluded (returns: exclude)"
PARTIAL = "first period is not complete"
DUPLICATE = "line equal to an earlier one (duplicates: exclude)"


@dataclass(frozen=True)
class Mapped:
    """The canonical panel of one pull, and where its lines went."""

    panel: pd.DataFrame
    """:data:`forecasting.frames.PANEL`."""
    lines: Lines
    excluded: dict[str, int]
    """Declared rule → lines it left out."""
    filled: dict[str, int]
    """Exogenous column → empty cells of the panel that took the declared fill."""
    missing: dict[str, int]
    """Why a (series, period) up to the cutoff has no y → how many: ``quarantined``, ``negative net``, ``empty``."""


def exclude(rows: pd.DataFrame, customer: Customer, cutoff: date) -> tuple[pd.DataFrame, dict[str, int]]:
    """Leave out the lines that declared rules name, before anything judges them.

    The first rule that a line meets, in the order declared, counts it; doubled lines come last, and only where sales
    are known.

    Args:
        rows: Feed rows, as pulled.
        customer: Its ``exclude`` and ``duplicates``.
        cutoff: Last period whose target is known.

    Returns:
        The other rows, and rule → lines left out.
    """
    left = np.zeros(len(rows), dtype=bool)
    counts: dict[str, int] = {}
    for rule in customer.exclude:
        meets = _meets(rule, rows[rule.column]) & ~left
        counts[rule.rule] = int(meets.sum())
        left |= meets
    if customer.duplicates == "exclude":
        known = ~left & (rows[customer.columns.ds] <= pd.Timestamp(cutoff)).to_numpy()
        content = [name for name in rows.columns if name != "line"]
        doubled = np.zeros(len(rows), dtype=bool)
        doubled[known] = rows.loc[known, content].duplicated(keep="first").to_numpy()
        counts[DUPLICATE] = int(doubled.sum())
        left |= doubled
    kept = rows[~left].reset_index(drop=True)
    kept.attrs = rows.attrs
    return kept, {rule: count for rule, count in counts.items() if count}


def _meets(rule: Exclude, values: pd.Series) -> np.ndarray:
    """Mask of the lines that a rule names; an empty value meets none."""
    if rule.at_most is not None:
        return np.asarray(values <= rule.at_most)
    if rule.at_least is not None:
        return np.asarray(values >= rule.at_least)
    named = set(rule.values)
    if rule.matches is not None:
        pattern = re.compile(rule.matches)
        named = {text for text in values.dropna().unique() if pattern.fullmatch(text)}
    return np.asarray(values.isin(named))


def to_panel(
    accepted: pd.DataFrame,
    quarantined: pd.DataFrame,
    customer: Customer,
    cutoff: date,
    *,
    since: date | None = None,
    excluded: Mapping[str, int] | None = None,
    unnamed: Collection[int] = (),
) -> Mapped:
    """Aggregate feed rows to one row per series and period.

    ``y`` is the sum of a period's lines. Returns: ``exclude`` leaves negative lines out and counts them (a period of
    nothing but returns sold 0); ``net`` sums them, and where a period's net is negative ``y`` is missing, not 0. A
    period with a quarantined line is missing as a whole. After the cutoff ``y`` is missing, and only columns known in
    the future and static ones are kept. A first period that the pull does not cover from its first day is left out and
    counted.

    Args:
        accepted: Feed rows that passed the contract.
        quarantined: Feed rows that did not; one whose key or day is unreadable marks no period.
        customer: Mapping, keys, frequency, exogenous columns.
        cutoff: Last period whose target may be used.
        since: First day the pull covered; None: the earliest day among the rows.
        excluded: Lines that :func:`exclude` left out, by rule; they are counted with the others.
        unnamed: Quarantined lines whose key itself was refused: it names no series, so none comes of them.
    """
    before = dict(excluded or {})
    rows = _keyed(accepted, customer)
    named = quarantined[~quarantined["line"].isin(list(unnamed))]
    bad = _keyed(named, customer).dropna(subset=["unique_id", "ds"])
    rows, partial = _without_partial(rows, customer, since)
    future = (rows["ds"] > pd.Timestamp(cutoff)).to_numpy()
    returned = ~future & (rows["y"] < 0).to_numpy() & (customer.returns == "exclude")
    panel = _aggregate(rows, returned, future, customer)
    panel, missing = _with_holes(panel, bad, cutoff)
    panel, filled = _filled(panel, customer, cutoff)
    left_out = before | {rule: n for rule, n in ((NEGATIVE, int(returned.sum())), (PARTIAL, partial)) if n}
    lines = Lines(
        read=len(accepted) + len(quarantined) + sum(before.values()),
        used=int((~future & ~returned).sum()),
        excluded=sum(left_out.values()),
        quarantined=len(quarantined),
        future=int(future.sum()),
    ).check()
    log.info("freeze: %s: %s; %d panel rows; missing %s; filled %s", customer.id, lines, len(panel), missing, filled)
    return Mapped(PANEL.check(panel), lines, left_out, filled, missing)


def merge(previous: pd.DataFrame, new: pd.DataFrame, since: date) -> pd.DataFrame:
    """The panel of an incremental pull: periods from ``since`` on come from ``new`` alone, older ones are kept.

    Args:
        previous: Panel of the newest earlier snapshot; its rows after its own cutoff lie after ``since``, so they go.
        new: Panel of tonight's pull.
        since: First day of the pull.

    Raises:
        ConfigurationError: The columns differ, so old and new rows do not mean the same: everything must be read again.
    """
    if set(previous.columns) != set(new.columns):
        differing = ", ".join(sorted(set(previous.columns) ^ set(new.columns)))
        raise ConfigurationError(f"the declared columns changed ({differing}): run once with full_refresh")
    edge = pd.Timestamp(since)
    parts = [previous[previous["ds"] < edge], new.loc[new["ds"] >= edge, list(previous.columns)]]
    merged = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return PANEL.check(merged.sort_values(["unique_id", "ds"], kind="stable", ignore_index=True))


def sample(panel: pd.DataFrame, count: int, keep: Collection[str] = ()) -> pd.DataFrame:
    """At most ``count`` whole series, spread evenly over the ranks of sales volume; the same for the same panel.

    Args:
        panel: The whole panel.
        count: Most series that stay.
        keep: Series that go first, such as those of an earlier sample: two sides of a comparison then hold the same.
    """
    volume = panel.groupby("unique_id")["y"].sum()
    ranked = sorted(volume.index, key=lambda series: (-volume[series], series))
    first = _spread([series for series in ranked if series in keep], count)
    chosen = [*first, *_spread([series for series in ranked if series not in keep], count - len(first))]
    return panel[panel["unique_id"].isin(chosen)].reset_index(drop=True)


def _spread(ranked: list[str], count: int) -> list[str]:
    """At most ``count`` of a list, the middles of as many equal stretches."""
    step = max(len(ranked) / count, 1) if count else 0
    return [ranked[int((place + 0.5) * step)] for place in range(min(count, len(ranked)))]


def check_panel(panel: pd.DataFrame, customer: Customer) -> None:
    """Check what every later stage relies on; cheap, and on the whole panel.

    Raises:
        ValueError: The panel is not canonical: a programming error or a damaged frame, never bad data.
    """
    PANEL.check(panel)
    order = panel["unique_id"].ne(panel["unique_id"].shift()).to_numpy()
    ids = panel["unique_id"].to_numpy()[order]
    if len(set(ids)) != len(ids) or list(ids) != sorted(ids):
        raise ValueError("panel: not sorted by unique_id")
    # compared, not subtracted: three hundred years are more than a difference holds
    if ((panel["ds"] <= panel["ds"].shift()).to_numpy() & ~order).any():
        raise ValueError("panel: not sorted by ds within a series")
    y = panel["y"].to_numpy()
    if np.isinf(y).any() or (y[~np.isnan(y)] < 0).any():
        raise ValueError("panel: y must be finite and not negative, or NaN where it is unknown")
    wrong = [name for name in ids if len(split_id(name)) != len(customer.columns.keys) or "" in split_id(name)]
    if wrong:
        raise ValueError(f"panel: unique_id {wrong[0]!r} does not hold {len(customer.columns.keys)} keys")
    expected = ["unique_id", "ds", "y", *sorted(customer.exogenous)]
    if list(panel.columns) != expected:
        raise ValueError(f"panel: columns {list(panel.columns)}, expected {expected}")
    exogenous = panel[sorted(customer.exogenous)].to_numpy(dtype="float64")
    if np.isinf(exogenous).any():
        raise ValueError("panel: exogenous columns must be finite")


def _keyed(rows: pd.DataFrame, customer: Customer) -> pd.DataFrame:
    """Feed rows under canonical names: unique_id, ds (end of the period), day, y, exogenous."""
    columns = customer.columns
    keys = list(columns.keys)
    day = rows[columns.ds]
    out = pd.DataFrame({"unique_id": _ids(rows[keys]), "ds": _period_ends(day, customer.frequency), "day": day})
    out["y"] = rows[columns.y]
    if columns.unit:
        out["y"] = out["y"] * rows[columns.unit.column].map(columns.unit.factors)
    for name, column in sorted(customer.exogenous.items()):
        for position, source in enumerate(column.reads(name)):
            out[_part(name, position)] = rows[source]
    return out


def _part(name: str, position: int) -> str:
    """Column of what an exogenous column is made from: itself, or what it is derived of, and per what."""
    return name if position == 0 else f"{name} per"


def _ids(keys: pd.DataFrame) -> pd.Series:
    """unique_id of every row; each combination is built once. None where a key is null or empty."""
    groups = keys.groupby(list(keys.columns), sort=False, dropna=False)
    number = groups.ngroup().to_numpy()
    first = keys[~keys.duplicated()]
    usable = [all(isinstance(key, str) and key for key in row) for row in first.itertuples(index=False)]
    names = [join_id(row) if good else None for row, good in zip(first.itertuples(index=False), usable, strict=True)]
    return pd.Series(np.array(names, dtype=object)[number] if len(keys) else [], index=keys.index, dtype=object)


def _period_ends(day: pd.Series, frequency: Frequency) -> pd.Series:
    ends = day
    if frequency == "W":
        ends = day + pd.to_timedelta(6 - day.dt.dayofweek, unit="D")
    elif frequency == "M":
        ends = day + pd.offsets.MonthEnd(0)
    return ends


def _without_partial(rows: pd.DataFrame, customer: Customer, since: date | None) -> tuple[pd.DataFrame, int]:
    if customer.frequency == "D" or rows.empty:
        return rows, 0
    first = pd.Timestamp(since) if since else rows["day"].min()
    end = _period_ends(pd.Series([first]), customer.frequency)[0]
    start = end - timedelta(days=6) if customer.frequency == "W" else end.replace(day=1)
    if first <= start:
        return rows, 0
    partial = rows["ds"] <= end
    return rows[~partial], int(partial.sum())


def _aggregate(rows: pd.DataFrame, returned: np.ndarray, future: np.ndarray, customer: Customer) -> pd.DataFrame:
    names = sorted(customer.exogenous)
    if rows.empty:
        return empty(PANEL).assign(**dict.fromkeys(names, np.array([], dtype="float64")))
    rows = rows.copy()
    sold = rows["y"].where(~returned, 0.0).where(~future)
    derived = [name for name in names if customer.exogenous[name].of]
    for halves in ([_part(name, 0), _part(name, 1)] for name in derived):
        whole = ~returned & rows[halves].notna().all(axis=1).to_numpy()  # half a line would cheapen the others
        rows[halves] = rows[halves].where(pd.Series(whole, index=rows.index), axis=0)
    how: dict[str, Any] = {name: (name, customer.exogenous[name].aggregate) for name in names if name not in derived}
    how |= {part: (part, "sum") for name in derived for part in (_part(name, 0), _part(name, 1))}
    # a line without a quantity makes the period's sum unknown, so the smallest count of all lines decides
    grouped = rows.assign(y=sold, known=sold.notna()).groupby(["unique_id", "ds"], sort=True)
    panel: pd.DataFrame = grouped.agg(y=("y", "sum"), known=("known", "min"), **how)
    for name in (name for name, (_, function) in how.items() if function == "sum"):
        panel[name] = panel[name].where(grouped[name].count() > 0)  # pandas' sum of nothing is 0
    panel = panel.reset_index()
    panel["y"] = panel["y"].where(panel.pop("known").astype(bool))
    for name in derived:
        per = panel.pop(_part(name, 1))
        panel[name] = panel[name] / per.where(per > 0)
    return panel[["unique_id", "ds", "y", *names]].astype(dict.fromkeys(("y", *names), "float64"))


def _with_holes(panel: pd.DataFrame, bad: pd.DataFrame, cutoff: date) -> tuple[pd.DataFrame, dict[str, int]]:
    """Make quarantined periods, and those whose net is negative, missing; count each reason once."""
    past = panel["ds"] <= pd.Timestamp(cutoff)
    counts = {"negative net": int((past & (panel["y"] < 0)).sum()), "empty": int((past & panel["y"].isna()).sum())}
    panel["y"] = panel["y"].where(~(panel["y"] < 0))
    holes = bad[["unique_id", "ds"]].drop_duplicates()
    if len(holes):
        panel = panel.merge(holes.assign(hole=True), on=["unique_id", "ds"], how="outer", sort=True)
        hole = panel.pop("hole").notna()
        panel["y"] = panel["y"].where(~hole)
        counts["quarantined"] = int((hole & (panel["ds"] <= pd.Timestamp(cutoff))).sum())
    return panel, {reason: n for reason, n in counts.items() if n}


def _filled(panel: pd.DataFrame, customer: Customer, cutoff: date) -> tuple[pd.DataFrame, dict[str, int]]:
    """Put the declared fill into empty exogenous cells and count them; historic ones stay empty after the cutoff."""
    later = panel["ds"] > pd.Timestamp(cutoff)
    filled = {}
    for name in sorted(customer.exogenous):
        column = customer.exogenous[name]
        if column.fill == "last":  # the grid fills it, period by period
            continue
        hole = panel[name].isna() & ~(later & (column.known == "historic"))
        panel[name] = panel[name].mask(hole, column.fill)
        filled[name] = int(hole.sum())
    return panel, {name: n for name, n in filled.items() if n}
