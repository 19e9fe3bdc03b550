"""Earlier publications against what came: scores by horizon for each node, and by series once a horizon is over."""

from __future__ import annotations

from datetime import date
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecasting.config import BOTTOM, Customer
from forecasting.learn import grid as grids
from forecasting.learn import reconciliation
from forecasting.learn.reconciliation import Grouping

__all__ = ["EVERY_SERIES", "WHOLE_HORIZON", "actuals", "score"]

Ints = npt.NDArray[np.int64]
Objects = npt.NDArray[np.object_]

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
    grid = grids.regularise(grids.coded(panel), customer, cutoff)
    unknown = _days(_unknown(panel, grid, customer, cutoff), customer)
    seen = grid.loc[grid["scored"], ["unique_id", "ds", "y"]].reset_index(drop=True)
    known, y = _days(seen, customer), seen["y"]
    parts = {BOTTOM: seen.assign(unique_id=seen["unique_id"].astype(object))}
    for grouping in reconciliation.groupings(list(known.ids), customer):
        parts[grouping.node] = _sums(known, y, unknown, grouping, customer)
    columns = ["node", "unique_id", "ds", "y"]
    return pd.concat([parts[node].assign(node=node)[columns] for node in sorted(parts)], ignore_index=True)


class _Days(NamedTuple):
    """The (series, period) of some rows."""

    ids: Objects
    """Ascending."""
    series: Ints
    number: Ints
    """Of the period."""


def _days(rows: pd.DataFrame, customer: Customer) -> _Days:
    series, ids = grids.codes(rows["unique_id"])
    return _Days(ids, series, grids.ordinals(rows["ds"], customer.frequency))


def _unknown(panel: pd.DataFrame, grid: pd.DataFrame, customer: Customer, cutoff: date) -> pd.DataFrame:
    """(unique_id, ds) whose quantity exists and is not known: quarantined rows; absent ones, if absent is missing."""
    if customer.absent == "missing":
        return grid.loc[~grid["scored"] & ~grids.closed(grid["ds"], customer), ["unique_id", "ds"]]
    odd = (panel["ds"] <= pd.Timestamp(cutoff)) & ~np.isfinite(panel["y"])
    rows = panel.loc[odd, ["unique_id", "ds"]]
    return rows.assign(unique_id=rows["unique_id"].astype(grid["unique_id"].dtype))


def _sums(known: _Days, y: pd.Series, unknown: _Days, grouping: Grouping, customer: Customer) -> pd.DataFrame:
    """What an aggregate sold on the days on which all its series are known: unique_id, ds, y, in that order."""
    if not len(y):
        return pd.DataFrame({"unique_id": np.array([], dtype=object), "ds": np.array([], "M8[ns]"), "y": y})
    earliest, newest = known.number.min(), known.number.max()
    span = newest - earliest + 1
    summed = y.groupby(grouping.of[known.series] * span + known.number - earliest, sort=True).sum()
    inside = (unknown.number >= earliest) & (unknown.number <= newest)
    lacking = (grouping.of[unknown.series] * span + unknown.number - earliest)[inside]
    summed = summed[~np.isin(summed.index, lacking)]
    parent, number = np.divmod(summed.index.to_numpy(dtype=np.int64), span)
    days = grids.dates(number + earliest, customer.frequency)
    return pd.DataFrame({"unique_id": grouping.ids[parent], "ds": days, "y": summed.to_numpy()})


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
    first, last = published["ds"].min(), published["ds"].max()
    both = published.merge(came.loc[came["ds"].between(first, last), [*_KEY, "y"]], on=_KEY, validate="one_to_one")
    scale = _scales(came[came["ds"] < first])
    rows = both.assign(
        error=both["y_hat"] - both["y"],
        abs_error=(both["q50"] - both["y"]).abs(),
        scaled=(both["y_hat"] - both["y"]) ** 2
        / scale.reindex(pd.MultiIndex.from_frame(both[["node", "unique_id"]])).to_numpy(),
        **{f"covered_{level}": _covered(both, level) for level in (80, 95)},
    )
    over_all = rows.assign(unique_id=EVERY_SERIES)
    parts = [over_all, over_all.assign(h=WHOLE_HORIZON)]
    if len(came) and last <= came["ds"].max():
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
    pairs = reconciliation.pairs(history)
    order = np.lexsort((history["ds"].to_numpy(), pairs.of))
    of, y = pairs.of[order], history["y"].to_numpy()[order]
    squared = np.diff(y, prepend=np.nan) ** 2
    squared[np.diff(of, prepend=-1) != 0] = np.nan
    scale = pd.Series(squared).groupby(of).mean()
    index = pd.MultiIndex.from_arrays([pairs.node, pairs.unique_id], names=["node", "unique_id"])
    return scale.where(scale > 0).set_axis(index)


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
