"""What charts show of series, as the warehouse has it: sold, published, published before. It changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from forecasting.store import pages, provision, tables

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Key", "Publication", "actuals", "forecasts", "known", "publications", "reading", "scores"]

Key = tuple[str, str]
"""node and unique_id."""
TIMEOUT = 120
"""Seconds that one statement may take."""


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What readers see of one run date, and under which configuration it was computed."""

    run_id: str
    run_date: date
    cutoff: date
    version: str
    stale: bool
    config: dict[str, Any]


def reading(engine: sa.Engine, customer_id: str) -> AbstractContextManager[sa.Connection]:
    """One read-only transaction as the customer's reader: every statement in it sees the same state."""
    return pages.reading(engine, provision.reader(customer_id), TIMEOUT)


def publications(connection: sa.Connection, customer_id: str) -> list[Publication]:
    """What stands published for each run date, newest first: its head is what readers see as current."""
    rows = connection.execute(sa.text(_PUBLICATIONS), {"customer_id": customer_id}).mappings()
    return [Publication(**row) for row in rows]


_PUBLICATIONS = """
SELECT p.run_id, p.run_date, r.cutoff, r.version, p.stale, r.config
FROM (
    SELECT DISTINCT ON (run_date) run_id, run_date, stale FROM forecasting.publication
    WHERE customer_id = :customer_id ORDER BY run_date DESC, seq DESC
) AS p
JOIN forecasting.run AS r ON r.customer_id = :customer_id AND r.run_id = p.run_id
ORDER BY p.run_date DESC
"""


def known(connection: sa.Connection, customer_id: str, run_id: str, since: date) -> pd.DataFrame:
    """Every series and aggregate node that the warehouse knows.

    Args:
        connection: From :func:`reading`.
        customer_id: A customer's id.
        run_id: The publication that is drawn.
        since: Units are counted from the period after this one on.

    Returns:
        node, unique_id, depth; units sold after ``since``, ``first`` period with an actual (None: none is kept);
        model and rung of the published forecast (None: it has none); status and reason of the series in that run.
    """
    sql = _KNOWN.format(schema=customer_id)  # provision.reader refused what is not a plain id
    return _frame(connection, sql, customer_id=customer_id, run_id=run_id, since=since)


_KNOWN = """
SELECT s.node, s.unique_id, s.depth, coalesce(a.units, 0) AS units, a.first, f.model, f.rung, t.status, t.reason
FROM forecasting.series AS s
LEFT JOIN (
    SELECT node, unique_id, sum(y) FILTER (WHERE ds > :since) AS units, min(ds) AS first
    FROM "{schema}".actual WHERE customer_id = :customer_id GROUP BY node, unique_id
) AS a ON a.node = s.node AND a.unique_id = s.unique_id
LEFT JOIN "{schema}".forecast AS f
    ON f.customer_id = s.customer_id AND f.run_id = :run_id AND f.h = 1
    AND f.node = s.node AND f.unique_id = s.unique_id
LEFT JOIN forecasting.series_status AS t
    ON s.node = 'bottom' AND t.customer_id = s.customer_id AND t.run_id = :run_id AND t.unique_id = s.unique_id
WHERE s.customer_id = :customer_id ORDER BY s.node, s.unique_id
"""


def actuals(connection: sa.Connection, customer_id: str, keys: Sequence[Key]) -> pd.DataFrame:
    """What was sold, oldest first: node, unique_id, ds, y in units; closed and missing periods have no row."""
    sql = _ACTUALS.format(schema=customer_id)
    return _dated(_frame(connection, sql, customer_id=customer_id, **_columns(keys)))


_WANTED = "unnest(CAST(:nodes AS text[]), CAST(:unique_ids AS text[])) AS k (node, unique_id)"
_ACTUALS = f"""
SELECT a.node, a.unique_id, a.ds, a.y
FROM {_WANTED} JOIN "{{schema}}".actual AS a
    ON a.customer_id = :customer_id AND a.node = k.node AND a.unique_id = k.unique_id
ORDER BY a.node, a.unique_id, a.ds
"""


def forecasts(connection: sa.Connection, customer_id: str, run_ids: Sequence[str], keys: Sequence[Key]) -> pd.DataFrame:
    """Published rows, beside what was sold since.

    Returns:
        run_id, node, unique_id, ds, h, y_hat, every quantile of the warehouse (NaN: not published), y (NaN: not come).
    """
    sql = _FORECASTS.format(schema=customer_id)
    return _dated(_frame(connection, sql, customer_id=customer_id, run_ids=list(run_ids), **_columns(keys)))


_FORECASTS = f"""
SELECT f.run_id, f.node, f.unique_id, f.ds, f.h, f.y_hat, {", ".join(f"f.{q}" for q in tables.QUANTILES)}, a.y
FROM unnest(CAST(:run_ids AS text[])) AS r (run_id) CROSS JOIN {_WANTED}
JOIN "{{schema}}".forecast AS f ON f.customer_id = :customer_id AND f.run_id = r.run_id
    AND f.node = k.node AND f.unique_id = k.unique_id
LEFT JOIN "{{schema}}".actual AS a
    ON a.customer_id = :customer_id AND a.node = f.node AND a.unique_id = f.unique_id AND a.ds = f.ds
ORDER BY f.run_id, f.node, f.unique_id, f.h
"""


def scores(connection: sa.Connection, customer_id: str, run_ids: Sequence[str]) -> pd.DataFrame:
    """How publications fared once their whole horizon had come.

    Returns:
        One row per (run_id, node, unique_id): y, error and abs_error (sums, units), n, rmsse, covered_80.
    """
    sql = _SCORES.format(schema=customer_id)
    return _frame(connection, sql, customer_id=customer_id, run_ids=list(run_ids))


_SCORES = """
SELECT run_id, node, unique_id, n, y, error, abs_error, rmsse, covered_80 FROM "{schema}".score
WHERE customer_id = :customer_id AND run_id = ANY (:run_ids) AND h = 0 AND unique_id <> '*'
ORDER BY run_id, node, unique_id
"""


def _columns(keys: Sequence[Key]) -> dict[str, list[str]]:
    return {"nodes": [node for node, _ in keys], "unique_ids": [unique_id for _, unique_id in keys]}


def _frame(connection: sa.Connection, sql: str, **values: object) -> pd.DataFrame:
    import pandas as pd

    found = connection.execute(sa.text(sql), values)
    names = list(found.keys())
    return pd.DataFrame([tuple(row) for row in found], columns=names)


def _dated(frame: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    numbers = {name: "float64" for name in frame.columns if name in ("y", "y_hat", *tables.QUANTILES)}
    return frame.assign(ds=pd.to_datetime(frame["ds"])).astype(numbers)
