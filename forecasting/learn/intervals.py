"""Quantiles by split conformal calibration: yesterday's backtest errors, by class of series and distance ahead."""

from __future__ import annotations

from collections.abc import Collection, Iterator
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

_STEADY = (0.2, 0.3, 0.5, 0.75, 1.2)
"""Limits of a series' demand class: mean forecast over its scale. Low: rare, skewed sales; high: steady ones."""
_PIECES = (0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.5, 5.0)
"""Limits of a row's class: its forecast in units. Where few pieces are sold, it decides how likely one is at all."""
_BOTTOM_POWER = 0.75
"""Errors at the bottom grow with the forecast to this power: Taylor's law, of variances that grow with the mean to the
power 1.5; between counts (0.5) and percentages (1). doi:10.1038/189732a0."""
_UPPER_POWER = 0.5
"""Those of an aggregate grow less: the errors of many series, each by its own law, even out."""
_LEAST_FORECAST = 0.02
"""A forecast counts as at least this share of the series' scale, so that nothing is divided by zero."""
_LEAST = 100
"""Fewer errors than this in a cell: the whole horizon's, then the wider group's, then the node's are taken instead."""
_BUCKETS = 4
"""Buckets the horizon is cut into."""
_LENT = 1 / 3
"""Of an aggregate's offsets, the share of its whole node's: its own errors are one draw per window, not one per day."""


def buckets(horizon: int) -> list[tuple[int, int]]:
    """The steps h_from … h_to that share their offsets.

    >>> buckets(28), buckets(3)
    ([(1, 7), (8, 14), (15, 21), (22, 28)], [(1, 1), (2, 2), (3, 3)])
    """
    width = -(-horizon // _BUCKETS)
    return [(start, min(start + width - 1, horizon)) for start in range(1, horizon + 1, width)]


def calibrate(
    scores: pd.DataFrame, choices: pd.DataFrame, customer: Customer, nodes: Collection[str] | None = None
) -> pd.DataFrame:
    """Offsets of each quantile from the chosen forecast's backtest errors, per node.

    Args:
        scores: frames.BACKTEST with one column per model.
        choices: frames.CHOICES, whose errors are used.
        customer: Gives levels, horizon and hierarchy.
        nodes: Of the aggregates' nodes, those that are wanted; None: all that the customer declares.

    Returns:
        frames.CALIBRATION, offsets rising with q: value = y_hat + offset · y_hat^power · scale^(1 - power). At the
        bottom the group is the demand class of the row and that of the series, the scale sqrt(RMSSE's denominator) and
        the power 0.75. On an aggregate the group is its unique_id, the scale the root of the sum of its series'
        denominators and the power 0.5; a third of each offset is the node's.
    """
    errors = combine_scores(scores, choices)
    errors = errors[errors["y_hat"].notna() & (errors["scale"] > 0)]
    if not len(errors):
        return empty(CALIBRATION)
    found = [_bottom_errors(errors), *_upper_errors(errors, customer, customer.nodes if nodes is None else nodes)]
    frames = [frame for part in found if len(frame := _offsets_of(part, customer))]
    frame = pd.concat(frames or [empty(CALIBRATION)], ignore_index=True).astype(CALIBRATION.columns)
    return CALIBRATION.check(frame.sort_values(list(CALIBRATION.key), ignore_index=True))


class _Errors(NamedTuple):
    """The errors of one node, y − y_hat over the base."""

    node: str
    power: float
    """Of the forecast in the base."""
    groups: Objects
    """Ascending."""
    group: Ints
    """Number of each error's group."""
    wider: Ints
    """Number of the group's wider group."""
    h: Ints
    error: Floats
    lent: float
    """Share of each offset that is the whole node's."""


def _origins(errors: pd.DataFrame) -> tuple[Ints, int]:
    """The number of each row's origin, and how many there are."""
    origin, origins = pd.factorize(errors["cutoff"], sort=True)
    return origin, len(origins)


def _bottom_errors(errors: pd.DataFrame) -> _Errors:
    """Those of the series themselves, by class of demand and of forecast."""
    scale = np.sqrt(errors["scale"].to_numpy())
    y_hat, (origin, origins) = errors["y_hat"].reset_index(drop=True), _origins(errors)
    mean = y_hat.groupby(grid.codes(errors["unique_id"])[0] * origins + origin).transform("mean").to_numpy()
    forecast, seen = y_hat.to_numpy(), errors["scored"].to_numpy()
    error = (errors["y"].to_numpy() - forecast) / _base(forecast, scale, _BOTTOM_POWER)
    group = _class(forecast, mean / scale)
    wider = np.repeat(np.arange(len(_PIECES) + 1), len(_STEADY) + 1)
    h = errors["h"].to_numpy()[seen]
    return _Errors(BOTTOM, _BOTTOM_POWER, _CLASSES, group[seen], wider, h, error[seen], lent=0.0)


def _base(y_hat: Floats, scale: Floats, power: float | Floats) -> Floats:
    """What an error is measured in, in units: a series, and an aggregate, errs by more where it sells more."""
    return np.asarray(np.maximum(y_hat, _LEAST_FORECAST * scale) ** power * scale ** (1 - power), dtype=np.float64)


def _upper_errors(errors: pd.DataFrame, customer: Customer, wanted: Collection[str]) -> Iterator[_Errors]:
    """Those of each wanted aggregate node, from sums over the series scored on that day."""
    seen = errors.loc[errors["scored"], ["unique_id", "cutoff", "h", "y", "y_hat", "scale"]].reset_index(drop=True)
    series, names = grid.codes(seen["unique_id"])
    origin, origins = _origins(seen)
    width = customer.horizon + 1
    when = origin * width + seen["h"].to_numpy()
    for grouping in sorted(reconciliation.groupings(list(names), customer), key=lambda one: one.node):
        if grouping.node not in wanted:
            continue
        sums = seen.groupby(grouping.of[series] * (origins * width) + when, sort=True)[["y", "y_hat", "scale"]].sum()
        key = sums.index.to_numpy(dtype=np.int64)
        parents, parent = np.unique(key // (origins * width), return_inverse=True)
        y, y_hat, scale = (sums[column].to_numpy(dtype=np.float64) for column in ("y", "y_hat", "scale"))
        error = (y - y_hat) / _base(y_hat, np.sqrt(scale), _UPPER_POWER)
        wider = np.zeros(len(parents), dtype=np.int64)
        yield _Errors(grouping.node, _UPPER_POWER, grouping.ids[parents], parent, wider, key % width, error, _LENT)


_CLASSES = np.array([f"p{p}c{c}" for p in range(len(_PIECES) + 1) for c in range(len(_STEADY) + 1)], dtype=object)


def _class(y_hat: Floats, ratio: Floats) -> Ints:
    """Number of a row's class: of its forecast in units (``p0``: next to nothing … ``p8``), and of its series' demand.

    Args:
        y_hat: Forecasts in units.
        ratio: Mean forecast of each one's series over its scale (``c0``: rare … ``c5``: steady).
    """
    return np.searchsorted(_PIECES, y_hat) * (len(_STEADY) + 1) + np.searchsorted(_STEADY, ratio)


def _offsets_of(errors: _Errors, customer: Customer) -> pd.DataFrame:
    """frames.CALIBRATION of one node: every group gets every bucket, so that nothing is looked up in vain later."""
    if not len(errors.error):
        return empty(CALIBRATION)
    spans, groups = buckets(customer.horizon), len(errors.groups)
    bucket = np.searchsorted([start for start, _ in spans], errors.h, side="right") - 1

    def own(cell: Ints, otherwise: Floats) -> Floats:
        """Quantiles of each cell's errors or, of too few, the given ones; both of shape (cells, quantiles)."""
        found, counts = _quantiles(errors.error, cell, len(otherwise), customer.quantiles)
        return np.where((counts < _LEAST)[:, None], otherwise, found)

    whole, _ = _quantiles(errors.error, np.zeros_like(errors.group), 1, customer.quantiles)
    wider = own(errors.wider[errors.group], whole.repeat(errors.wider.max() + 1, axis=0))
    each = own(errors.group, wider[errors.wider])
    near = own(errors.group * len(spans) + bucket, each.repeat(len(spans), axis=0))
    lent = np.tile(own(bucket, whole.repeat(len(spans), axis=0)), (groups, 1))
    near += errors.lent * (lent - near)
    per_group, per_cell = len(spans) * len(customer.quantiles), len(customer.quantiles)
    return pd.DataFrame(
        {
            "node": errors.node,
            "group": np.repeat(errors.groups, per_group),
            "h_from": np.tile(np.repeat([start for start, _ in spans], per_cell), groups),
            "h_to": np.tile(np.repeat([stop for _, stop in spans], per_cell), groups),
            "q": np.tile(customer.quantiles, groups * len(spans)),
            "offset": near.ravel(),
            "power": errors.power,
        }
    )


def _quantiles(errors: Floats, cell: Ints, cells: int, quantiles: tuple[float, ...]) -> tuple[Floats, Ints]:
    """Quantiles of each cell's errors, shape (cells, quantiles), NaN in an empty one; and how many errors each has.

    The median-unbiased estimate, the eighth of Hyndman and Fan (1996, doi:10.1080/00031305.1996.10473566): a straight
    line between the order statistics beside place (n + 1/3) q + 1/3, counted from one.
    """
    ordered = errors[np.argsort(cell, kind="stable")]
    counts = np.bincount(cell, minlength=cells)
    starts = np.cumsum(counts) - counts
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        ordered[start : start + count].sort()
    found = np.full((cells, len(quantiles)), np.nan)
    for n in np.unique(counts[counts > 0]).tolist():
        some = counts == n
        place = np.clip((n + 1 / 3) * np.array(quantiles) + 1 / 3, 1, n) - 1
        below = np.floor(place).astype(int)
        low, high = (ordered[starts[some, None] + np.minimum(at, n - 1)] for at in (below, below + 1))
        found[some] = low + (place - below) * (high - low)
    return found, counts


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
    y_hat = out["y_hat"].to_numpy(dtype=np.float64)
    mean = out["y_hat"].groupby(rows.of).mean().to_numpy(dtype=np.float64)
    scale = _scale_of(rows, mean, scales, customer)
    spread = _spread(rows, out["h"].to_numpy(), y_hat, mean, scale, calibration, customer)
    values = np.maximum.accumulate(np.maximum(y_hat[:, None] + spread, 0.0), axis=1)
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


def _spread(
    rows: reconciliation.Pairs,
    h: Ints,
    y_hat: Floats,
    mean: Floats,
    scale: Floats,
    calibration: pd.DataFrame,
    customer: Customer,
) -> Floats:
    """What is added to each row's forecast, in units, shape (rows, quantiles)."""
    from scipy.stats import norm

    starts = np.array([start for start, _ in buckets(customer.horizon)])
    bucket = np.searchsorted(starts, h, side="right") - 1
    table = calibration.pivot(index=["node", "group", "h_from"], columns="q", values="offset")
    table = table.reindex(columns=list(customer.quantiles))

    def found(node: Objects | str, group: Objects) -> Floats:
        """The offsets of each of some groups, shape (groups, buckets, quantiles); NaN where there are none."""
        nodes = np.repeat(np.full(len(group), node) if isinstance(node, str) else node, len(starts))
        keys = pd.MultiIndex.from_arrays([nodes, np.repeat(group, len(starts)), np.tile(starts, len(group))])
        return table.reindex(keys).to_numpy(dtype=np.float64).reshape(len(group), len(starts), len(customer.quantiles))

    ratio = np.divide(mean, scale, out=np.zeros_like(scale), where=scale > 0)
    bottom, scale_of = (rows.node == BOTTOM)[rows.of], scale[rows.of]
    classes = _class(y_hat, ratio[rows.of])
    offsets = np.where(
        bottom[:, None],
        found(BOTTOM, _CLASSES)[classes, bucket],
        found(rows.node, rows.unique_id)[rows.of, bucket],
    )
    powers = (
        calibration.drop_duplicates("node").set_index("node")["power"].reindex(rows.node).to_numpy(dtype=np.float64)
    )
    spread = offsets * _base(y_hat, scale_of, powers[rows.of])[:, None]
    return np.where(np.isnan(spread), norm.ppf(np.array(customer.quantiles))[None, :] * scale_of[:, None], spread)
