"""Customers and panels for the pure core: small, seeded, readable."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from forecasting.config import Customer

CUTOFF = date(2024, 6, 30)


def build_customer(**changes: Any) -> Customer:
    settings: dict[str, Any] = {
        "id": "acme",
        "time_zone": "Europe/Rome",
        "first_date": date(2024, 7, 1),
        "source": {"kind": "csv", "uri": "sales.csv"},
        "columns": {"ds": "day", "y": "quantity", "keys": ["brand", "item"]},
        "contract": "acme_sales",
        "absent": "closed",
        "horizon": 7,
        "hierarchy": ["total", "brand"],
        "exogenous": {"promotion": {"known": "future"}},
        "backtest": {"windows": 4, "select": 2},
    }
    return Customer.model_validate(settings | changes)


def build_panel(ids: tuple[str, ...] = ("A/1", "A/2", "B/1", "B/2"), days: int = 200, seed: int = 0) -> pd.DataFrame:
    """Weekly season, promotions that lift sales, some zeros; every seventh Sunday closed; promotions known ahead."""
    rng = np.random.default_rng(seed)
    ds = pd.date_range(end=pd.Timestamp(CUTOFF) + pd.Timedelta(days=7), periods=days + 7)
    frames = []
    for number, unique_id in enumerate(ids):
        promotion = (rng.random(len(ds)) < 0.15).astype(float)
        mean = (2 + number) * (1 + 0.5 * np.sin(2 * np.pi * ds.dayofweek / 7)) * (1 + promotion)
        frames.append(
            pd.DataFrame(
                {"unique_id": unique_id, "ds": ds, "y": rng.poisson(mean).astype(float), "promotion": promotion}
            )
        )
    panel = pd.concat(frames, ignore_index=True)
    panel.loc[panel["ds"] > pd.Timestamp(CUTOFF), "y"] = np.nan
    closed = ds[(ds.dayofweek == 6) & (ds.isocalendar().week.to_numpy() % 7 == 0)]
    return panel[~panel["ds"].isin(closed)].sort_values(["unique_id", "ds"], ignore_index=True)


def rows(unique_id: str, first: str, y: list[float]) -> pd.DataFrame:
    """A series that begins on ``first``, day by day."""
    ds = pd.date_range(first, periods=len(y))
    return pd.DataFrame({"unique_id": unique_id, "ds": ds, "y": np.array(y, dtype=float), "promotion": 0.0})
