"""Customers of a test's own, provisioned in the session's warehouse, and frames to publish for them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from forecasting.config import Customer
from forecasting.feed import Columns, CsvSource
from forecasting.store import provision, warehouse

CODE = warehouse.Code("code", "lock", "cpu")


def make_customer(customer_id: str | None = None, **changes: Any) -> Customer:
    fields = {
        "id": customer_id or f"shop_{secrets.token_hex(4)}",
        "time_zone": "Europe/Rome",
        "first_date": date(2024, 1, 1),
        "source": CsvSource(uri="sales.csv"),
        "columns": Columns(ds="day", y="quantity", keys=("brand", "item")),
        "contract": "sales",
        "absent": "closed",
        "horizon": 2,
        "hierarchy": ("total",),
    }
    return Customer(**(fields | changes))


def make_rows(
    y_hat: float = 1.0, run_date: date = date(2024, 3, 1), ids: tuple[str, ...] = ("b/1", "b/2")
) -> pd.DataFrame:
    """``frames.PUBLISHED`` for h = 1, 2 of each series and the total."""
    parts = []
    for node, names in (("bottom", ids), ("total", ("total",))):
        for name in names:
            steps = np.arange(1, 3)
            parts.append(
                pd.DataFrame(
                    {
                        "unique_id": name,
                        "node": node,
                        "ds": pd.to_datetime(run_date) + pd.to_timedelta(steps, unit="D"),
                        "h": steps,
                        "y_hat": y_hat if node == "bottom" else y_hat * len(ids),
                        "q50": y_hat,
                        "q10": y_hat / 2,
                        "q90": y_hat * 2,
                        "model": "auto_ets",
                        "rung": "chosen" if node == "bottom" else "sum",
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def make_status(ids: tuple[str, ...] = ("b/1", "b/2")) -> pd.DataFrame:
    """``frames.ACCOUNT``: all ok."""
    named = {"unique_id": list(ids), "status": "ok", "rung": "chosen", "model": "auto_ets", "reason": None}
    return pd.DataFrame(named)


@pytest.fixture
def customer(engine: sa.Engine) -> Customer:
    """A provisioned customer of the test's own."""
    made = make_customer()
    provision.ensure(engine, made)
    return made


Night = Callable[..., tuple[warehouse.Run, warehouse.Outcome]]


@pytest.fixture
def night(engine: sa.Engine, customer: Customer) -> Night:
    """Allot a run and publish it."""

    def made(
        run_date: date = date(2024, 3, 1), key: str = "key", y_hat: float = 1.0, live: bool = True, **facts: Any
    ) -> tuple[warehouse.Run, warehouse.Outcome]:
        run = warehouse.allot(engine, customer, run_date, live=live, as_frozen=False, code=CODE)
        if facts:
            warehouse.note(engine, customer.id, run.run_id, **facts)
        return run, put(engine, run, key=key, y_hat=y_hat)

    return made


def put(engine: sa.Engine, run: warehouse.Run, key: str = "key", y_hat: float = 1.0) -> warehouse.Outcome:
    """Publish ``run`` in a transaction of its own."""
    rows = make_rows(y_hat, run.run_date)
    with warehouse.acting_for(engine, run.customer_id) as connection:
        return warehouse.publish(
            connection,
            run,
            rows,
            key=key,
            checksum=warehouse.checksum(rows),
            version="1.0.0",
            status=make_status(),
            reason="test",
        )
