"""Earlier publications against what came: scores by horizon for each node, and by series once a horizon is over."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd

from forecasting.config import BOTTOM, Customer
from forecasting.frames import join_id, split_id
from forecasting.learn import grid as grids

__all__ = ["EVERY_SERIES", "WHOLE_HORIZON", "actuals", "score"]

EVERY_SERIES = "*"
"""unique_id of a score over all series of a node."""
WHOLE_HORIZON = 0
"""h of a score over all steps that have arrived."""

_KEY = ["node", "unique_id", "ds"]


def actuals(panel: pd.DataFrame, customer: Customer, cutoff: date) -> pd.DataFrame:
    """What was really sold up to ``cutoff``, for every series and aggregate node, oldest first.

    A closed or missing day has no actual. An aggregate has none on a day on which one of its series is unknown: a sum
    that lacks a part is not what was sold. Closed series are no part of it.

    Returns:
        Columns node, unique_id, ds, y; units.
    """
    grid = grids.regularise(panel, customer, cutoff)
    bottom = grid.loc[grid["scored"], ["unique_id", "ds", "y"]].assign(node=BOTTOM)
    unknown = _unknown(panel, grid, customer, cutoff)
    return pd.concat(
        [bottom, *(_sums(bottom, unknown, node, keys, customer) for node, keys in customer.nodes.items())],
        ignore_index=True,
    )[["node", "unique_id", "ds", "y"]].sort_values(_KEY, ignore_index=True)


def _unknown(panel: pd.DataFrame, grid: pd.DataFrame, customer: Customer, cutoff: date) -> pd.DataFrame:
    """(unique_id, ds) whose quantity exists and is not known: quarantined rows; absent ones, if absent is missing."""
    if customer.absent == "missing":
        return grid.loc[~grid["scored"] & ~grids.closed(grid["ds"], customer), ["unique_id", "ds"]]
    past = panel[panel["ds"] <= pd.Timestamp(cutoff)]
    return past.loc[~np.isfinite(past["y"]), ["unique_id", "ds"]]


def _sums(
    bottom: pd.DataFrame, unknown: pd.DataFrame, node: str, keys: tuple[str, ...], customer: Customer
) -> pd.DataFrame:
    summed = bottom.groupby([_parents(bottom["unique_id"], keys, customer), "ds"])["y"].sum().reset_index()
    lacking = pd.MultiIndex.from_arrays([_parents(unknown["unique_id"], keys, customer), unknown["ds"]])
    summed = summed[~pd.MultiIndex.from_frame(summed[["unique_id", "ds"]]).isin(lacking)]
    return summed.assign(node=node)


def _parents(ids: pd.Series, keys: tuple[str, ...], customer: Customer) -> pd.Series:
    """The aggregate's unique_id for each series."""
    places = [customer.columns.keys.index(key) for key in keys]

    def parent(unique_id: str) -> str:
        parts = split_id(unique_id)
        return join_id(parts[place] for place in places) if places else "total"

    return ids.map({unique_id: parent(unique_id) for unique_id in ids.unique()}).astype(object)


def score(published: pd.DataFrame, came: pd.DataFrame, customer: Customer) -> pd.DataFrame:
    """Score one publication on the actuals that have arrived.

    Args:
        published: A frames.PUBLISHED.
        came: Frame of :func:`actuals`, with history from before the publication: RMSSE's denominators come from it.
        customer: Says which intervals were published.

    Returns:
        Columns node, unique_id, h, n, y, y_hat, error, abs_error, rmsse, wape, covered_80, covered_95. ``error`` is
        y_hat − y (positive: over-forecast) and ``abs_error`` is taken on q50, both summed, in units. One row per node
        and arrived step over all its series (unique_id ``*``), one over all steps (h 0), and one per series (h 0)
        once the last step has arrived. Nothing has arrived: no rows.

    RMSSE: Makridakis et al. (2022), doi:10.1016/j.ijforecast.2021.11.013.
    """
    both = published.merge(came[[*_KEY, "y"]], on=_KEY, validate="one_to_one")
    scale = _scales(came[came["ds"] < published["ds"].min()])
    rows = both.assign(
        error=both["y_hat"] - both["y"],
        abs_error=(both["q50"] - both["y"]).abs(),
        scaled=(both["y_hat"] - both["y"]) ** 2
        / scale.reindex(pd.MultiIndex.from_frame(both[["node", "unique_id"]])).to_numpy(),
        **{f"covered_{level}": _covered(both, level) for level in (80, 95)},
    )
    over_all = rows.assign(unique_id=EVERY_SERIES)
    parts = [over_all, over_all.assign(h=WHOLE_HORIZON)]
    if len(came) and published["ds"].max() <= came["ds"].max():
        parts.append(rows.assign(h=WHOLE_HORIZON))
    return pd.concat([_summed(part) for part in parts], ignore_index=True)


def _covered(rows: pd.DataFrame, level: int) -> pd.Series:
    """1.0 where the actual lies within the interval, NaN where that interval was not published."""
    lo, hi = {80: ("q10", "q90"), 95: ("q025", "q975")}[level]
    if lo not in rows or hi not in rows:
        return pd.Series(np.nan, index=rows.index)
    return ((rows["y"] >= rows[lo]) & (rows["y"] <= rows[hi])).astype("float64").where(rows[lo].notna())


def _scales(history: pd.DataFrame) -> pd.Series:
    """RMSSE's denominator by (node, unique_id): mean squared difference of successive actuals, units²; NaN if none."""
    ordered = history.sort_values(_KEY)
    squared = ordered.groupby(["node", "unique_id"], sort=True)["y"].diff() ** 2
    scale = squared.groupby([ordered["node"], ordered["unique_id"]]).mean()
    return scale.where(scale > 0)


def _summed(rows: pd.DataFrame) -> pd.DataFrame:
    grouped = rows.groupby(["node", "unique_id", "h"], sort=True)
    sums = grouped[["y", "y_hat", "error", "abs_error"]].sum()
    means = grouped[["scaled", "covered_80", "covered_95"]].mean()
    return sums.assign(
        n=grouped.size(),
        rmsse=np.sqrt(means["scaled"]),
        wape=(sums["abs_error"] / sums["y"].where(sums["y"] > 0)),
        covered_80=means["covered_80"],
        covered_95=means["covered_95"],
    ).reset_index()
