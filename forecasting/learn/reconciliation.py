"""The hierarchy: which nodes there are, and upper nodes as sums of the published bottom. Coherent by construction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from forecasting.config import BOTTOM, TOTAL, Customer
from forecasting.frames import SERIES, join_id, split_id

__all__ = ["DECIMALS", "bottom_up", "membership", "series_table"]

DECIMALS = 3
"""Published values have this many decimals."""
_KEYS = 5


def series_table(unique_ids: Sequence[str], customer: Customer) -> pd.DataFrame:
    """frames.SERIES: the series themselves and each aggregate node, sorted by depth, node, unique_id.

    The total's unique_id is ``total``; another aggregate's is made of the keys it groups by.
    """
    names = customer.columns.keys
    rows: dict[tuple[str, str], tuple[int, tuple[str | None, ...]]] = {}
    for unique_id in sorted(set(unique_ids)):
        keys = dict(zip(names, split_id(unique_id), strict=True))
        rows[(unique_id, BOTTOM)] = (len(names), tuple(keys.values()))
        for node, group in customer.nodes.items():
            rows[(_aggregate_id(keys, group), node)] = (
                len(group),
                tuple(keys[k] if k in group else None for k in names),
            )
    ordered = sorted(rows.items(), key=lambda item: (item[1][0], item[0][1], item[0][0]))
    frame = pd.DataFrame([key for key, _ in ordered], columns=["unique_id", "node"], dtype=object)
    frame["depth"] = np.array([depth for _, (depth, _) in ordered], dtype=np.int64)
    for at in range(_KEYS):
        values = [keys[at] if at < len(names) else None for _, (_, keys) in ordered]
        frame[f"key_{at + 1}"] = pd.Series(values, dtype=object)
    return SERIES.check(frame)


def _aggregate_id(keys: dict[str, str], group: tuple[str, ...]) -> str:
    return join_id(keys[k] for k in group) if group else TOTAL


def membership(unique_ids: Sequence[str], customer: Customer) -> pd.DataFrame:
    """Which series add up to which aggregate: columns unique_id (bottom), node, parent, sorted."""
    rows = []
    for unique_id in sorted(set(unique_ids)):
        keys = dict(zip(customer.columns.keys, split_id(unique_id), strict=True))
        rows += [(unique_id, node, _aggregate_id(keys, group)) for node, group in customer.nodes.items()]
    return pd.DataFrame(rows, columns=["unique_id", "node", "parent"], dtype=object)


def bottom_up(bottom: pd.DataFrame, customer: Customer) -> pd.DataFrame:
    """The rows of all nodes, upper ones as sums of the *rounded* bottom, so that readers' own sums agree.

    Args:
        bottom: unique_id, ds, h, y_hat (units, ≥ 0), model, rung.
        customer: Gives the hierarchy.

    Returns:
        node, unique_id, ds, h, y_hat, model, rung; upper rows have model ``bottom_up`` and rung ``sum``.
    """
    rounded = bottom.assign(node=BOTTOM, y_hat=bottom["y_hat"].round(DECIMALS))
    joined = rounded.merge(membership(list(bottom["unique_id"].unique()), customer), on="unique_id", suffixes=("", "_"))
    sums = joined.groupby(["node_", "parent", "h"], sort=True, as_index=False).agg(
        ds=("ds", "first"), y_hat=("y_hat", "sum")
    )
    upper = sums.rename(columns={"node_": "node", "parent": "unique_id"})
    upper = upper.assign(y_hat=upper["y_hat"].round(DECIMALS), model="bottom_up", rung="sum")
    columns = ["node", "unique_id", "ds", "h", "y_hat", "model", "rung"]
    frames = [frame[columns] for frame in (rounded, upper) if len(frame)]
    every = pd.concat(frames, ignore_index=True) if frames else rounded[columns]
    return every.sort_values(["node", "unique_id", "h"], ignore_index=True)
