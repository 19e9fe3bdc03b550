"""The set that is published: all nodes, quantiles, rounding, order; and the audit it must pass."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd

from forecasting.config import BOTTOM, Customer
from forecasting.frames import PUBLISHED, ascending, quantile_column
from forecasting.learn import grid, intervals, ladder, reconciliation
from forecasting.learn.combination import combine, pool_best
from forecasting.periods import horizon_dates

__all__ = ["assemble", "audit", "compose"]

_TOLERANCE = 1e-6
"""Largest difference, in units, between an upper node and the sum of its series."""


def compose(
    forecasts: pd.DataFrame,
    status: pd.DataFrame,
    choices: pd.DataFrame,
    calibration: pd.DataFrame,
    panel: pd.DataFrame,
    customer: Customer,
    cutoff: date,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A version's set of one night: its choices over the fits, the ladder below them, sums above, quantiles around.

    Args:
        forecasts: frames.FORECASTS with a column per model that was fitted.
        status: frames.STATUS of those fits.
        choices: frames.CHOICES of the version.
        calibration: frames.CALIBRATION of the version.
        panel: A frames.PANEL; rows after ``cutoff`` only tell of series that are planned.
        customer: Gives frequency, horizon, hierarchy and levels.
        cutoff: Last period of the history.

    Returns:
        frames.PUBLISHED (:func:`assemble`), and frames.ACCOUNT (``ladder.complete``).
    """
    combined = combine(forecasts, pool_best(choices, sorted(panel["unique_id"].unique())))
    bottom, account = ladder.complete(combined, forecasts, panel, customer, cutoff, status)
    scales = grid.scales(grid.regularise(panel, customer, cutoff))
    return assemble(bottom, calibration, scales, customer), account


def assemble(bottom: pd.DataFrame, calibration: pd.DataFrame, scales: pd.Series, customer: Customer) -> pd.DataFrame:
    """The published set of one night.

    Args:
        bottom: What ``ladder.complete`` gave.
        calibration: frames.CALIBRATION.
        scales: RMSSE's denominator by unique_id (``grid.scales`` at the cutoff).
        customer: Gives hierarchy and levels.

    Returns:
        frames.PUBLISHED with every declared quantile, rounded to three decimals, sorted by node, unique_id, h; all 0
        on closed weekdays.
    """
    nodes = reconciliation.bottom_up(bottom, customer)
    full = intervals.apply(nodes, calibration, scales, customer)
    quantiles = [quantile_column(q) for q in customer.quantiles]
    full[quantiles] = full[quantiles].round(reconciliation.DECIMALS)
    rest = [name for name in quantiles if name not in PUBLISHED.columns]
    full = full.astype({"model": object, "rung": object, "ds": "datetime64[ns]", "h": "int64"})
    full = full[[*PUBLISHED.columns, *rest]].sort_values(list(PUBLISHED.key), ignore_index=True)
    # Adding zero turns -0.0 into 0.0, which would print and hash differently.
    numbers = ["y_hat", *quantiles]
    full.loc[grid.closed(full["ds"], customer), numbers] = 0.0
    full[numbers] = full[numbers] + 0.0
    return PUBLISHED.check(full)


def audit(published: pd.DataFrame, account: pd.DataFrame, customer: Customer, cutoff: date) -> list[str]:
    """What is wrong with a set that is about to be published; nothing: an empty list."""
    problems = [*_audit_rows(published, customer, cutoff), *_audit_series(published, account, customer)]
    return problems if problems else _audit_sums(published, customer)


def _audit_rows(published: pd.DataFrame, customer: Customer, cutoff: date) -> list[str]:
    """Values and dates, row by row."""
    quantiles = [quantile_column(q) for q in customer.quantiles]
    missing = [name for name in [*PUBLISHED.columns, *quantiles] if name not in published.columns]
    if missing:
        return [f"columns missing: {missing}"]
    numbers = published[["y_hat", *quantiles]].to_numpy(dtype=np.float64)
    days = pd.DatetimeIndex(horizon_dates(cutoff, customer.horizon, customer.frequency)).as_unit("ns")
    h = published["h"].to_numpy()
    inside = (h >= 1) & (h <= customer.horizon)
    right_day = inside & (published["ds"].to_numpy() == days.to_numpy()[np.clip(h, 1, customer.horizon) - 1])
    checks = {
        "not finite": ~np.isfinite(numbers).all(axis=1),
        "below zero": (numbers < 0).any(axis=1),
        "quantiles out of order": (np.diff(numbers[:, 1:], axis=1) < 0).any(axis=1),
        f"ds is not cutoff {cutoff} + h": ~right_day,
        "doubled (node, unique_id, h)": np.zeros(len(published), dtype=np.bool_)
        if ascending(published, PUBLISHED.key)
        else published.duplicated(list(PUBLISHED.key)).to_numpy(),
        "unknown rung": ~published["rung"].isin([*ladder.RUNGS, "sum"]).to_numpy(),
    }
    return [
        f"{what}: {int(bad.sum())} rows, first {'/'.join(map(str, published.loc[bad, list(PUBLISHED.key)].iloc[0]))}"
        for what, bad in checks.items()
        if bad.any()
    ]


def _audit_series(published: pd.DataFrame, account: pd.DataFrame, customer: Customer) -> list[str]:
    """Every series that is not retired has exactly h rows, and no other has any; the same of the upper nodes."""
    alive = list(account.loc[account["status"] != "retired", "unique_id"])
    expected = reconciliation.series_table(alive, customer)
    want = set(zip(expected["node"], expected["unique_id"], strict=True))
    pairs = reconciliation.pairs(published)
    named = zip(map(str, pairs.node), map(str, pairs.unique_id), strict=True)
    counts = dict(zip(named, np.bincount(pairs.of).tolist(), strict=True))
    have = set(counts)
    problems = [f"no rows for {node}/{u}" for node, u in sorted(want - have)[:5]]
    problems += [f"rows for {node}/{u}, which should have none" for node, u in sorted(have - want)[:5]]
    short = sorted((key, n) for key, n in counts.items() if n != customer.horizon)
    problems += [f"{node}/{u} has {n} rows instead of {customer.horizon}" for (node, u), n in short[:5]]
    return problems


def _audit_sums(published: pd.DataFrame, customer: Customer) -> list[str]:
    """Upper nodes equal the sums of their series."""
    bottom = published[published["node"] == BOTTOM]
    sums = reconciliation.sums(bottom, customer).set_index(["node", "unique_id", "h"])["y_hat"]
    upper = published[published["node"] != BOTTOM].set_index(["node", "unique_id", "h"])["y_hat"]
    off = (upper - sums.reindex(upper.index)).abs()
    bad = off[~(off <= _TOLERANCE)]
    return [f"not coherent: {len(bad)} rows, first {bad.index[0]} off by {bad.iloc[0]:.6g}"] if len(bad) else []
