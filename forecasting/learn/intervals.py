"""Quantiles by split conformal calibration: yesterday's backtest errors, by class of series and distance ahead."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecasting.config import BOTTOM, Customer
from forecasting.frames import CALIBRATION, empty, quantile_column
from forecasting.learn import reconciliation
from forecasting.learn.combination import combine_scores

__all__ = ["apply", "buckets", "calibrate"]

Floats = npt.NDArray[np.float64]

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
    parts = [_bottom_errors(errors)]
    wanted = set(series["node"])
    parts += [part for node, part in _upper_errors(errors, customer) if node in wanted]
    cells = [cell for part in parts for cell in _cells(part, customer)]
    frame = pd.DataFrame(cells, columns=list(CALIBRATION.columns)).astype(CALIBRATION.columns)
    return CALIBRATION.check(frame.sort_values(list(CALIBRATION.key), ignore_index=True))


def _bottom_errors(errors: pd.DataFrame) -> pd.DataFrame:
    """node, group, h, error (y − y_hat over the scale) of the series themselves."""
    scale = np.sqrt(errors["scale"])
    mean = errors.groupby(["unique_id", "cutoff"])["y_hat"].transform("mean")
    group = _group((mean / scale).to_numpy())
    out = pd.DataFrame(
        {"node": BOTTOM, "group": group, "h": errors["h"], "error": (errors["y"] - errors["y_hat"]) / scale}
    )
    return out[errors["scored"].to_numpy()]


def _upper_errors(errors: pd.DataFrame, customer: Customer) -> list[tuple[str, pd.DataFrame]]:
    """The same of each aggregate node, from sums over the series scored on that day."""
    members = reconciliation.membership(list(errors["unique_id"].unique()), customer)
    seen = errors.assign(error=errors["y"] - errors["y_hat"])
    per_node = []
    for node in sorted(customer.nodes):
        joined = seen.merge(members[members["node"] == node], on="unique_id")
        by_step = joined.groupby(["parent", "cutoff", "h"], sort=True, as_index=False)
        sums = by_step.agg(error=("error", "sum"), scored=("scored", "any"), scale=("scale", "sum"))
        out = sums.assign(node=node, group=sums["parent"], error=sums["error"] / np.sqrt(sums["scale"]))
        per_node.append((node, out.loc[sums["scored"], ["node", "group", "h", "error"]]))
    return per_node


def _group(ratio: Floats) -> npt.NDArray[np.object_]:
    """Demand class of a mean forecast relative to its scale: ``c0`` (rare) … ``c6`` (steady)."""
    return np.array([f"c{n}" for n in np.searchsorted(_EDGES, ratio)], dtype=object)


def _cells(part: pd.DataFrame, customer: Customer) -> list[tuple[str, str, int, int, float, float]]:
    """All cells of one node; every class gets every bucket, so that nothing is looked up in vain later."""
    node = str(part["node"].iloc[0]) if len(part) else ""
    every = part["error"].to_numpy()
    groups = sorted(set(part["group"])) if node != BOTTOM else [f"c{n}" for n in range(len(_EDGES) + 1)]
    rows = []
    for group in groups:
        own = part[part["group"] == group]
        for start, stop in buckets(customer.horizon):
            near = own.loc[own["h"].between(start, stop), "error"].to_numpy()
            sample = next((s for s in (near, own["error"].to_numpy()) if len(s) >= _LEAST), every)
            offsets = _quantiles(sample, customer.quantiles)
            rows += [(node, group, start, stop, q, float(o)) for q, o in zip(customer.quantiles, offsets, strict=True)]
    return rows if len(every) else []


def _quantiles(sample: Floats, quantiles: tuple[float, ...]) -> Floats:
    """Order statistics with the finite-sample step outward: rank ceil((n + 1) q) above the median, floor below."""
    ordered = np.sort(sample)
    n = len(ordered)
    ranks = [
        np.ceil(round((n + 1) * q, 9)) if q > 0.5 else np.floor(round((n + 1) * q, 9)) if q < 0.5 else (n + 1) / 2
        for q in quantiles
    ]
    at = np.clip(np.array(ranks, dtype=np.float64) - 1, 0, n - 1)
    low, high = ordered[np.floor(at).astype(int)], ordered[np.ceil(at).astype(int)]
    return np.maximum.accumulate((low + high) / 2)


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
    scale = _scale_of(out, scales, customer)
    offsets = _offsets(out, scale, calibration, customer)
    values = np.maximum(out["y_hat"].to_numpy()[:, None] + offsets * scale[:, None], 0.0)
    values = np.maximum.accumulate(values, axis=1)
    return out.assign(**{quantile_column(q): values[:, at] for at, q in enumerate(customer.quantiles)})


def _scale_of(forecast: pd.DataFrame, scales: pd.Series, customer: Customer) -> Floats:
    """Scale of each row's series, in units."""
    is_bottom = forecast["node"] == BOTTOM
    bottom = forecast[is_bottom]
    mean = bottom.groupby("unique_id", sort=True)["y_hat"].mean()
    squared = scales.reindex(mean.index).fillna(mean)
    members = reconciliation.membership(list(mean.index), customer)
    sums = members.assign(scale=squared.reindex(members["unique_id"]).to_numpy())
    upper = sums.groupby(["node", "parent"], sort=True)["scale"].sum()
    upper.index.names = ["node", "unique_id"]
    lower = pd.Series(squared.to_numpy(), index=pd.MultiIndex.from_product([[BOTTOM], mean.index]))
    every = pd.concat([part for part in (lower, upper) if len(part)]) if len(lower) else lower
    keys = pd.MultiIndex.from_frame(forecast[["node", "unique_id"]])
    return np.asarray(np.sqrt(every.reindex(keys).fillna(0.0).to_numpy(dtype=np.float64)))


def _offsets(forecast: pd.DataFrame, scale: Floats, calibration: pd.DataFrame, customer: Customer) -> Floats:
    """The offsets of each row, shape (rows, quantiles)."""
    from scipy.stats import norm

    mean = forecast.groupby(["node", "unique_id"])["y_hat"].transform("mean").to_numpy()
    ratio = np.divide(mean, scale, out=np.zeros_like(mean), where=scale > 0)
    group = np.where(forecast["node"] == BOTTOM, _group(ratio), forecast["unique_id"])
    starts = np.array([start for start, _ in buckets(customer.horizon)])
    bucket = starts[np.searchsorted(starts, forecast["h"].to_numpy(), side="right") - 1]
    table = calibration.pivot(index=["node", "group", "h_from"], columns="q", values="offset")
    table = table.reindex(columns=list(customer.quantiles))
    keys = pd.MultiIndex.from_arrays([forecast["node"], group, bucket])
    offsets = table.reindex(keys).to_numpy(dtype=np.float64)
    return np.where(np.isnan(offsets), norm.ppf(np.array(customer.quantiles))[None, :], offsets)
