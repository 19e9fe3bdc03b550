"""The hierarchy: which nodes there are, and upper nodes as sums of the published bottom. Coherent by construction."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecasting.config import BOTTOM, TOTAL, Customer
from forecasting.frames import SERIES, join_id, split_id
from forecasting.learn import grid

__all__ = [
    "DECIMALS",
    "Grouping",
    "Pairs",
    "bottom_up",
    "groupings",
    "membership",
    "pairs",
    "reconcile",
    "series_table",
    "sums",
]

log = logging.getLogger(__name__)

DECIMALS = 3
"""Published values have this many decimals."""
_KEYS = 5
_NEAR, _TRIES = 1e-8, 500
"""Residual at which forecasts and aggregates are reconciled, and most iterations to it."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Objects = npt.NDArray[np.object_]


class Grouping(NamedTuple):
    """One aggregate node over some series."""

    node: str
    keys: tuple[str, ...]
    """What it groups by."""
    ids: Objects
    """unique_ids of its aggregates, ascending."""
    of: Ints
    """Position in ``ids`` of each series' aggregate."""
    first: Ints
    """A series of each aggregate."""


class Pairs(NamedTuple):
    """The (node, unique_id) pairs of a frame."""

    of: Ints
    """Number of each row's pair."""
    node: Objects
    unique_id: Objects


def pairs(frame: pd.DataFrame) -> Pairs:
    """Number the series and aggregates that a frame speaks of."""
    node, nodes = pd.factorize(frame["node"])
    series, ids = pd.factorize(frame["unique_id"])
    of, found = pd.factorize(node * len(ids) + series)
    node, series = np.divmod(found, max(len(ids), 1))
    return Pairs(of, np.asarray(nodes, dtype=object)[node], np.asarray(ids, dtype=object)[series])


def groupings(ids: Sequence[str], customer: Customer) -> list[Grouping]:
    """The customer's aggregate nodes over these series, in the order declared.

    Args:
        ids: Bottom unique_ids, each once; the order is kept.
        customer: Gives keys and hierarchy.

    The total's unique_id is ``total``; another aggregate's is made of the keys it groups by.
    """
    columns = _key_columns(ids, customer)
    return [_grouping(node, keys, columns, len(ids)) for node, keys in customer.nodes.items()]


def _key_columns(ids: Sequence[str], customer: Customer) -> dict[str, tuple[Ints, list[str]]]:
    """Key → the number of its value in each series, and the values by number."""
    parts = [unique_id.split("/") for unique_id in ids]
    names = customer.columns.keys
    odd = next((u for u, part in zip(ids, parts, strict=True) if len(part) != len(names)), None)
    if odd is not None:
        raise ValueError(f"series {odd!r} does not have the keys {', '.join(names)}")
    columns = {}
    for at, name in enumerate(names):
        code, texts = pd.factorize(np.array([part[at] for part in parts], dtype=object))
        columns[name] = (code, [split_id(text)[0] for text in texts])
    return columns


def _grouping(node: str, keys: tuple[str, ...], columns: dict[str, tuple[Ints, list[str]]], n: int) -> Grouping:
    of = np.zeros(n, dtype=np.int64)
    for key in keys:  # numbered anew at each key, so that many keys do not overflow
        code, values = columns[key]
        of = np.unique(of * len(values) + code, return_inverse=True)[1]
    first = np.unique(of, return_index=True)[1]
    texts = [join_id(columns[key][1][columns[key][0][at]] for key in keys) if keys else TOTAL for at in first]
    ids = np.array(texts, dtype=object)
    order = np.argsort(ids)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return Grouping(node, keys, ids[order], place[of], first[order])


def _rows(ids: Sequence[str], customer: Customer) -> list[Grouping]:
    """All nodes, the series' own among them, in the order of the series table: by depth, then node."""
    bottom = np.arange(len(ids))
    own = Grouping(BOTTOM, customer.columns.keys, np.array(ids, dtype=object), bottom, bottom)
    return sorted([own, *groupings(ids, customer)], key=lambda grouping: (len(grouping.keys), grouping.node))


def series_table(unique_ids: Sequence[str], customer: Customer) -> pd.DataFrame:
    """frames.SERIES: the series themselves and each aggregate node, sorted by depth, node, unique_id."""
    ids = sorted(set(unique_ids))
    rows, columns = _rows(ids, customer), _key_columns(ids, customer)

    def joined(parts: list[Objects]) -> Objects:
        return np.concatenate(parts) if len(ids) else np.array([], dtype=object)

    def values(grouping: Grouping, at: int) -> Objects:
        key = customer.columns.keys[at] if at < len(customer.columns.keys) else None
        if key not in grouping.keys:
            return np.full(len(grouping.ids), None, dtype=object)
        code, texts = columns[key]
        return np.array(texts, dtype=object)[code[grouping.first]]

    frame = pd.DataFrame(
        {
            "unique_id": joined([grouping.ids for grouping in rows]),
            "node": joined([np.full(len(grouping.ids), grouping.node, dtype=object) for grouping in rows]),
        }
    )
    sizes = [len(grouping.ids) for grouping in rows]
    frame["depth"] = np.repeat(np.array([len(grouping.keys) for grouping in rows], dtype=np.int64), sizes)
    for at in range(_KEYS):
        frame[f"key_{at + 1}"] = joined([values(grouping, at) for grouping in rows])
    return SERIES.check(frame)


def membership(unique_ids: Sequence[str], customer: Customer) -> pd.DataFrame:
    """Which series add up to which aggregate: columns unique_id (bottom), node, parent, sorted."""
    ids = sorted(set(unique_ids))
    nodes = groupings(ids, customer)
    parents = [grouping.ids[grouping.of] for grouping in nodes]
    columns = {
        "unique_id": np.repeat(np.array(ids, dtype=object), len(nodes)),
        "node": np.tile(np.array([grouping.node for grouping in nodes], dtype=object), len(ids)),
        "parent": np.column_stack(parents).ravel() if nodes else np.array([], dtype=object),
    }
    return pd.DataFrame(columns, dtype=object)


def sums(bottom: pd.DataFrame, customer: Customer) -> pd.DataFrame:
    """The aggregates' rows: node, unique_id, ds, h, y_hat, sorted by node, unique_id, h.

    Args:
        bottom: unique_id, ds, h, y_hat of series, in units.
        customer: Gives the hierarchy.
    """
    code, names = grid.codes(bottom["unique_id"])
    h, width = bottom["h"].to_numpy(), int(bottom["h"].max()) + 1 if len(bottom) else 1
    values = bottom[["ds", "y_hat"]].reset_index(drop=True)
    parts = []
    for grouping in sorted(groupings(list(names), customer), key=lambda grouping: grouping.node):
        part = values.groupby(grouping.of[code] * width + h, sort=True).agg({"ds": "first", "y_hat": "sum"})
        parent, step = np.divmod(part.index.to_numpy(dtype=np.int64), width)
        parts.append(part.assign(node=grouping.node, unique_id=grouping.ids[parent], h=step))
    columns = ["node", "unique_id", "ds", "h", "y_hat"]
    if not parts or not len(bottom):
        return bottom.head(0).assign(node=BOTTOM)[columns]
    return pd.concat(parts, ignore_index=True)[columns]


def bottom_up(bottom: pd.DataFrame, customer: Customer) -> pd.DataFrame:
    """The rows of all nodes, upper ones as sums of the *rounded* bottom, so that readers' own sums agree.

    Args:
        bottom: unique_id, ds, h, y_hat (units, ≥ 0), model, rung.
        customer: Gives the hierarchy.

    Returns:
        node, unique_id, ds, h, y_hat, model, rung; upper rows have model ``bottom_up`` and rung ``sum``.
    """
    rounded = bottom.assign(node=BOTTOM, y_hat=bottom["y_hat"].round(DECIMALS))
    upper = sums(rounded, customer)
    upper = upper.assign(y_hat=upper["y_hat"].round(DECIMALS), model="bottom_up", rung="sum")
    columns = ["node", "unique_id", "ds", "h", "y_hat", "model", "rung"]
    own = rounded[columns].take(np.lexsort((rounded["h"].to_numpy(), grid.codes(rounded["unique_id"])[0])))
    before, after = upper[upper["node"] < BOTTOM], upper[upper["node"] > BOTTOM]
    frames = [frame[columns] for frame in (before, own, after) if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else own


def reconcile(y_hat: Floats, nodes: Sequence[Grouping], variance: Floats) -> Floats:
    """Bring forecasts of series and of their aggregates together: the series' values that are nearest to all of them.

    Weighted least squares (Wickramasuriya, Athanasopoulos and Hyndman 2019, doi:10.1080/01621459.2018.1448825) with an
    aggregate's error variance the sum of its series': errors are taken to have much in common, so that no level is
    thought far surer than another. What an aggregate's forecast says beyond the sum of its series' is shared out among
    them in proportion to their variances. Solved by conjugate gradients: the aggregates of 30,000 series are too many
    to invert.

    Args:
        y_hat: Shape (series + aggregates, steps), aggregates in the order of ``nodes``; units, at least 0.
        nodes: :func:`groupings` of the series.
        variance: Error variance of each series, in units² or any multiple; where it is not positive, a series keeps
            its own forecast.

    Returns:
        Shape (series, steps), at least 0. The aggregates' values are its sums.
    """
    n = len(variance)
    if not nodes or n < 2:
        return y_hat[:n]
    from scipy import sparse
    from scipy.sparse.linalg import LinearOperator, cg

    spread = np.where(np.isfinite(variance) & (variance > 0), variance, 0.0)
    summing = sparse.vstack(
        [sparse.csr_matrix((np.ones(n), (node.of, np.arange(n))), shape=(len(node.ids), n)) for node in nodes]
    ).tocsr()
    upper = summing @ spread
    kept = upper > 0
    summing, upper = summing[kept], upper[kept]
    gap = y_hat[n:][kept] - summing @ y_hat[:n]
    # scaled by the aggregates' own spread, the system's diagonal is 2
    root = np.sqrt(upper)

    def times(x: Floats) -> Floats:
        return np.asarray(x + (summing @ (spread * (summing.T @ (x / root)))) / root)

    system = LinearOperator((len(root), len(root)), matvec=times, dtype=np.float64)
    out = y_hat[:n].copy()
    for step in range(gap.shape[1]):
        solved, unfinished = cg(system, gap[:, step] / root, rtol=_NEAR, maxiter=_TRIES)
        if unfinished:  # still sums of their series, and nearer to the aggregates' own forecasts than before
            log.warning("step %d: series and aggregates are not within %g after %d tries", step + 1, _NEAR, _TRIES)
        out[:, step] += spread * (summing.T @ (solved / root))
    return np.maximum(out, 0.0)
