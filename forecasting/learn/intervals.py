"""Quantiles by split conformal calibration: yesterday's backtest errors, by class of series and distance ahead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecasting.config import BOTTOM, Customer
from forecasting.frames import CALIBRATION, empty, quantile_column
from forecasting.learn import grid, reconciliation
from forecasting.learn.combination import combine_scores

__all__ = ["apply", "buckets", "calibrate"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Objects = npt.NDArray[np.object_]

_EDGES = (0.15, 0.3, 0.5, 0.75, 1.0, 1.5)
"""Limits of the demand classes: mean forecast over the series' scale. Low: rare, skewed sales; high: steady ones."""
_LEAST = 60
"""Fewer errors than this in a cell: the whole horizon's, then the whole node's, are taken instead."""
_BUCKETS = 4
"""Buckets the horizon is cut into."""


def buckets(horizon: int) -> list[tuple[int, int]]:
    """The steps h_from … h_to that share their offsets.

    >>> buckets(28), buckets(3)
    ([(1, 7), (8, 14), (15, 21), (22, 28)], [(1, 1), (2, 2), (3, 3)])
    """
    width = -(-horizon // _BUCKETS)
    return [(start, min(start + width - 1, horizon)) for start in range(1, horizon + 1, width)]


def calibrate(scores: pd.DataFrame, choices: pd.DataFrame, customer: Customer, series: pd.DataFrame) -> pd.DataFrame:
    """Offsets of each quantile from the chosen forecast's backtest errors, per node.

    Args:
        scores: frames.BACKTEST with one column per model.
        choices: frames.CHOICES, whose errors are used.
        customer: Gives levels, horizon and hierarchy.
        series: frames.SERIES; nodes that are not in it are left out.

    Returns:
        frames.CALIBRATION, offsets rising with q: value = y_hat + offset · scale. At the bottom the group is a demand
        class and the scale sqrt(RMSSE's denominator); on an aggregate the group is its unique_id and the scale the root
        of the sum of its series' denominators.
    """
    errors = combine_scores(scores, choices)
    errors = errors[errors["y_hat"].notna() & (errors["scale"] > 0)]
    if not len(errors):
        return empty(CALIBRATION)
    wanted = set(series["node"])
    found = [_bottom_errors(errors), *(part for part in _upper_errors(errors, customer, wanted))]
    frames = [frame for part in found if len(frame := _offsets_of(part, customer))]
    frame = pd.concat(frames or [empty(CALIBRATION)], ignore_index=True).astype(CALIBRATION.columns)
    return CALIBRATION.check(frame.sort_values(list(CALIBRATION.key), ignore_index=True))


class _Errors(NamedTuple):
    """The errors of one node, y − y_hat over the scale."""

    node: str
    groups: Objects
    """Ascending."""
    group: Ints
    """Number of each error's group."""
    h: Ints
    error: Floats


def _origins(errors: pd.DataFrame) -> tuple[Ints, int]:
    """The number of each row's origin, and how many there are."""
    origin, origins = pd.factorize(errors["cutoff"], sort=True)
    return origin, len(origins)


def _bottom_errors(errors: pd.DataFrame) -> _Errors:
    """Those of the series themselves, by demand class."""
    scale = np.sqrt(errors["scale"].to_numpy())
    y_hat, (origin, origins) = errors["y_hat"].reset_index(drop=True), _origins(errors)
    mean = y_hat.groupby(grid.codes(errors["unique_id"])[0] * origins + origin).transform("mean").to_numpy()
    error = (errors["y"].to_numpy() - y_hat.to_numpy()) / scale
    seen = errors["scored"].to_numpy()
    return _Errors(BOTTOM, _CLASSES, _class(mean / scale)[seen], errors["h"].to_numpy()[seen], error[seen])


def _upper_errors(errors: pd.DataFrame, customer: Customer, wanted: set[str]) -> Iterator[_Errors]:
    """Those of each aggregate node, from sums over the series scored on that day."""
    series, names = grid.codes(errors["unique_id"])
    origin, origins = _origins(errors)
    seen = errors[["scored", "scale"]].reset_index(drop=True)
    seen["error"] = errors["y"].to_numpy() - errors["y_hat"].to_numpy()
    h, width = errors["h"].to_numpy(), customer.horizon + 1
    when = origin * width + h
    for grouping in sorted(reconciliation.groupings(list(names), customer), key=lambda one: one.node):
        if grouping.node not in wanted:
            continue
        by_step = seen.groupby(grouping.of[series] * (origins * width) + when, sort=True)
        sums = by_step.agg({"error": "sum", "scored": "any", "scale": "sum"})[lambda rows: rows["scored"]]
        key = sums.index.to_numpy(dtype=np.int64)
        parents, parent = np.unique(key // (origins * width), return_inverse=True)
        error = sums["error"].to_numpy() / np.sqrt(sums["scale"].to_numpy())
        yield _Errors(grouping.node, grouping.ids[parents], parent, key % width, error)


_CLASSES = np.array([f"c{n}" for n in range(len(_EDGES) + 1)], dtype=object)


def _class(ratio: Floats) -> Ints:
    """Number of the demand class of a mean forecast relative to its scale: ``c0`` (rare) … ``c6`` (steady)."""
    return np.searchsorted(_EDGES, ratio)


def _offsets_of(errors: _Errors, customer: Customer) -> pd.DataFrame:
    """frames.CALIBRATION of one node: every class gets every bucket, so that nothing is looked up in vain later."""
    if not len(errors.error):
        return empty(CALIBRATION)
    spans, groups = buckets(customer.horizon), len(errors.groups)
    bucket = np.searchsorted([start for start, _ in spans], errors.h, side="right") - 1
    near, counts = _quantiles(errors.error, errors.group * len(spans) + bucket, groups * len(spans), customer.quantiles)
    few = counts < _LEAST
    if few.any():
        own, own_counts = _quantiles(errors.error, errors.group, groups, customer.quantiles)
        every, _ = _quantiles(errors.error, np.zeros_like(errors.group), 1, customer.quantiles)
        wider = np.where((own_counts < _LEAST)[:, None], every, own)
        near[few] = np.repeat(wider, len(spans), axis=0)[few]
    per_group, per_cell = len(spans) * len(customer.quantiles), len(customer.quantiles)
    return pd.DataFrame(
        {
            "node": errors.node,
            "group": np.repeat(errors.groups, per_group),
            "h_from": np.tile(np.repeat([start for start, _ in spans], per_cell), groups),
            "h_to": np.tile(np.repeat([stop for _, stop in spans], per_cell), groups),
            "q": np.tile(customer.quantiles, groups * len(spans)),
            "offset": near.ravel(),
        }
    )


def _quantiles(errors: Floats, cell: Ints, cells: int, quantiles: tuple[float, ...]) -> tuple[Floats, Ints]:
    """Quantiles of each cell's errors, shape (cells, quantiles), NaN in an empty one; and how many errors each has.

    Order statistics with the finite-sample step outward: rank ceil((n + 1) q) above the median, floor below.
    """
    ordered = errors[np.argsort(cell, kind="stable")]
    counts = np.bincount(cell, minlength=cells)
    starts = np.cumsum(counts) - counts
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        ordered[start : start + count].sort()
    found = np.full((cells, len(quantiles)), np.nan)
    for n in np.unique(counts[counts > 0]).tolist():
        some = counts == n
        at = _places(n, quantiles)
        low, high = (ordered[starts[some, None] + side(at).astype(int)] for side in (np.floor, np.ceil))
        found[some] = np.maximum.accumulate((low + high) / 2, axis=1)
    return found, counts


def _places(n: int, quantiles: tuple[float, ...]) -> Floats:
    """Where the quantiles of ``n`` ordered errors stand; between two, their mean is meant."""
    ranks = [
        np.ceil(round((n + 1) * q, 9)) if q > 0.5 else np.floor(round((n + 1) * q, 9)) if q < 0.5 else (n + 1) / 2
        for q in quantiles
    ]
    return np.clip(np.array(ranks, dtype=np.float64) - 1, 0, n - 1)


def apply(forecast: pd.DataFrame, calibration: pd.DataFrame, scales: pd.Series, customer: Customer) -> pd.DataFrame:
    """Add the quantile columns: ≥ 0, in order.

    Args:
        forecast: node, unique_id, h, y_hat (≥ 0, units), perhaps more columns.
        calibration: frames.CALIBRATION.
        scales: RMSSE's denominator by bottom unique_id (``grid.scales``); where undefined, y_hat stands in for the
            variance, as for counts.
        customer: Gives levels and hierarchy.

    Returns:
        ``forecast`` with one column per quantile. Without a calibration for a node (no backtest yet) normal offsets.
    """
    out = forecast.reset_index(drop=True)
    rows = reconciliation.pairs(out)
    mean = out["y_hat"].groupby(rows.of).mean().to_numpy(dtype=np.float64)
    scale = _scale_of(rows, mean, scales, customer)
    offsets = _offsets(rows, out["h"].to_numpy(), mean, scale, calibration, customer)
    values = np.maximum(out["y_hat"].to_numpy()[:, None] + offsets * scale[rows.of, None], 0.0)
    values = np.maximum.accumulate(values, axis=1)
    return out.assign(**{quantile_column(q): values[:, at] for at, q in enumerate(customer.quantiles)})


def _scale_of(rows: reconciliation.Pairs, mean: Floats, scales: pd.Series, customer: Customer) -> Floats:
    """Scale of each pair, in units; 0 where nothing is known."""
    bottom = np.flatnonzero(rows.node == BOTTOM)
    bottom = bottom[np.argsort(rows.unique_id[bottom])]
    ids = rows.unique_id[bottom]
    squared = scales.reindex(ids).to_numpy(dtype=np.float64)
    squared = np.where(np.isnan(squared), mean[bottom], squared)
    every = np.zeros(len(rows.node))
    every[bottom] = squared
    for grouping in reconciliation.groupings(list(ids), customer):
        sums = pd.Series(squared).groupby(grouping.of).sum()
        own = np.flatnonzero(rows.node == grouping.node)
        every[own] = sums.set_axis(grouping.ids).reindex(rows.unique_id[own]).to_numpy(dtype=np.float64)
    return np.sqrt(np.where(np.isnan(every), 0.0, every))


def _offsets(
    rows: reconciliation.Pairs, h: Ints, mean: Floats, scale: Floats, calibration: pd.DataFrame, customer: Customer
) -> Floats:
    """The offsets of each row, shape (rows, quantiles)."""
    from scipy.stats import norm

    ratio = np.divide(mean, scale, out=np.zeros_like(scale), where=scale > 0)
    group = np.where(rows.node == BOTTOM, _CLASSES[_class(ratio)], rows.unique_id)
    starts = np.array([start for start, _ in buckets(customer.horizon)])
    table = calibration.pivot(index=["node", "group", "h_from"], columns="q", values="offset")
    table = table.reindex(columns=list(customer.quantiles))
    keys = [np.repeat(rows.node, len(starts)), np.repeat(group, len(starts)), np.tile(starts, len(group))]
    offsets = table.reindex(pd.MultiIndex.from_arrays(keys)).to_numpy(dtype=np.float64)
    offsets = np.where(np.isnan(offsets), norm.ppf(np.array(customer.quantiles))[None, :], offsets)
    return np.take(offsets, rows.of * len(starts) + np.searchsorted(starts, h, side="right") - 1, axis=0)
