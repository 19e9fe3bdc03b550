"""A small fleet in every state that the pages tell apart, published through the warehouse's own functions."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa

from forecasting.config import Customer, load_customer
from forecasting.errors import ConfigurationError
from forecasting.frames import join_id
from forecasting.periods import cutoff_of, horizon_dates, shift
from forecasting.store import provision, warehouse

CODE = warehouse.Code("code", "lock", "cpu")
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
"""What a bad feed may hold."""
YAML = """
id: {id}
time_zone: {zone}
first_date: 2024-01-01
{more}
source: {{uri: examples/none.csv}}
columns: {{ds: day, y: quantity, keys: [brand, item]}}
contract: pasta_sales
absent: closed
horizon: {horizon}
hierarchy: [total, brand]
"""
KEYS = [
    ("north", "6/2 pack"),
    ("north", "<b>bold</b> & sons"),
    ("north", "café au lait"),
    ("south", "100% rye"),
    ("south", "plain"),
    ("south", "newborn"),
]
SERIES = [join_id(keys) for keys in KEYS]


def declare(folder: Path, customer_id: str, zone: str = "Europe/Rome", horizon: int = 14, more: str = "") -> Customer:
    """Write a customer's file and read it as the product does."""
    path = folder / f"{customer_id}.yaml"
    path.write_text(YAML.format(id=customer_id, zone=zone, horizon=horizon, more=more), encoding="utf-8")
    customer = load_customer(path)
    if not isinstance(customer, Customer):
        raise ConfigurationError(customer.message)
    return customer


@dataclass
class Shop:
    """One customer of the fleet and what happens to it."""

    engine: sa.Engine
    customer: Customer

    def __post_init__(self) -> None:
        provision.ensure(self.engine, self.customer)

    def begin(self, run_date: date, *, live: bool = True, **facts: Any) -> warehouse.Run:
        """A run that has looked at its feed."""
        run = warehouse.allot(self.engine, self.customer, run_date, live=live, as_frozen=False, code=CODE)
        facts = {"cutoff": self.cutoff(run_date), "plan": "refresh", "plan_reason": "the champion is young"} | facts
        warehouse.note(self.engine, self.customer.id, run.run_id, **facts)
        return warehouse.read_run(self.engine, self.customer.id, run.run_id)

    def cutoff(self, run_date: date) -> date:
        return cutoff_of(run_date, self.customer.latency_days, self.customer.frequency)

    def publish(
        self, run_date: date, *, fallbacks: Sequence[str] = (), history: int = 0, **facts: Any
    ) -> warehouse.Run:
        """A night that publishes; ``history`` periods of actuals come with it."""
        run = self.begin(run_date, **facts)
        rows = self.rows(self.cutoff(run_date), fallbacks)
        status = pd.DataFrame(
            {
                "unique_id": SERIES,
                "status": ["fallback" if one in fallbacks else "ok" for one in SERIES],
                "rung": ["seasonal_naive" if one in fallbacks else "chosen" for one in SERIES],
                "model": ["seasonal_naive" if one in fallbacks else "auto_ets" for one in SERIES],
                "reason": ["auto_ets: too short" if one in fallbacks else None for one in SERIES],
            }
        )
        with warehouse.acting_for(self.engine, self.customer.id) as connection:
            warehouse.upsert_series(connection, self.customer.id, run_date, series())
            if history:
                warehouse.record_actuals(
                    connection, self.customer.id, run.run_id, self.actuals(self.cutoff(run_date), history)
                )
            warehouse.publish(
                connection, run, rows, key=run.run_id, checksum=warehouse.checksum(rows), version="1.0.0",
                status=status, reason="test",
            )  # fmt: skip
        return run

    def crown(self, run: warehouse.Run, version: str = "1.0.0", wape: float = 0.212, naive: float = 0.305) -> None:
        """Register a version and make it champion."""
        scores = {"mean": {"wape_selection": wape, "wape_seasonal_naive": naive}, "rolling": [{"origin": "a"}] * 6}
        made = warehouse.ModelVersion(
            customer_id=self.customer.id, version=version, bundle_uri="file:///bundle", bundle_sha256="0" * 64,
            run_id=run.run_id, run_date=run.run_date, training_cutoff=run.run_date, snapshot="s", config_hash="c",
            recipe_hash="r", interface_hash="i", code_version="v", scores=scores, config=run.config,
        )  # fmt: skip
        with warehouse.acting_for(self.engine, self.customer.id) as connection:
            warehouse.register_version(connection, made)
            warehouse.crown(
                connection, self.customer.id, version, effective_from=run.run_date, live=True, run_id=run.run_id,
                who="test", reason="first",
            )  # fmt: skip

    def check(self, run: warehouse.Run, *states: str) -> None:
        """Contract results of a run, a rule per state."""
        results = [
            {
                "contract": "pasta_sales", "version": "1.0.0", "rule": f"rule {i}", "type": "expect_a_thing",
                "column_name": "quantity" if i % 2 else None, "severity": "warning" if state == "warned" else "error",
                "state": state, "rows_failed": 0 if state == "passed" else 12, "rows_checked": 1888,
                "share": 0.0 if state == "passed" else 12 / 1888, "mostly": 0.999,
                "message": None if state == "passed" else f"12 of 1888 rows {HOSTILE}",
            }
            for i, state in enumerate(states, 1)
        ]  # fmt: skip
        with warehouse.acting_for(self.engine, self.customer.id) as connection:
            warehouse.record_contract(connection, self.customer.id, run.run_id, results)

    def quarantine(self, run: warehouse.Run, count: int) -> None:
        """Refused rows of a run, hostile ones among them."""
        rows = pd.DataFrame(
            {
                "line": range(2, count + 2),
                "rule": "quantity between 0 and 10000",
                "reason": [
                    f"quantity {-i} is below 0" if i else f"quantity {HOSTILE} is not a number" for i in range(count)
                ],
                "unique_id": [SERIES[i % len(SERIES)] for i in range(count)],
                "ds": run.run_date.isoformat(),
                "row_json": [
                    json.dumps({"day": f"{run.run_date}", "item": HOSTILE, "quantity": -i}) if i % 3 else HOSTILE
                    for i in range(count)
                ],
            }
        )
        with warehouse.acting_for(self.engine, self.customer.id) as connection:
            warehouse.record_quarantine(connection, self.customer.id, run.run_id, rows)

    def rows(self, cutoff: date, fallbacks: Sequence[str] = ()) -> pd.DataFrame:
        """``frames.PUBLISHED``: the newborn has the widest bands."""
        days = pd.to_datetime(horizon_dates(cutoff, self.customer.horizon, self.customer.frequency))
        parts = []
        for node, unique_id, size in nodes():
            y = [level(size, h, day.dayofweek) for h, day in enumerate(days)]
            spread = {"q025": 0.45, "q10": 0.7, "q50": 0.97, "q90": 1.3, "q975": 1.6}
            parts.append(
                pd.DataFrame(
                    {"unique_id": unique_id, "node": node, "ds": days, "h": range(1, len(days) + 1), "y_hat": y}
                    | {name: [share * value for value in y] for name, share in spread.items()}
                    | {
                        "model": "seasonal_naive" if unique_id in fallbacks else "auto_ets",
                        "rung": "sum" if node != "bottom" else "seasonal_naive" if unique_id in fallbacks else "chosen",
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)

    def actuals(self, cutoff: date, count: int) -> pd.DataFrame:
        days = pd.to_datetime([shift(cutoff, -i, self.customer.frequency) for i in range(count)])
        return pd.concat(
            [
                pd.DataFrame(
                    {
                        "node": node,
                        "unique_id": unique_id,
                        "ds": days,
                        "y": [level(size, -i, day.dayofweek) for i, day in enumerate(days)],
                    }
                )
                for node, unique_id, size in nodes()
                if unique_id != SERIES[-1]  # the newborn has sold nothing yet
            ],
            ignore_index=True,
        )


def level(size: float, step: int, weekday: int) -> float:
    """A quantity with a week and a slow wave in it."""
    return round(
        size * (1 + 0.35 * math.sin(weekday * 1.1) + 0.15 * math.sin(step / 17) + 0.06 * math.cos(step * 2.3)), 3
    )


def nodes() -> list[tuple[str, str, float]]:
    """Node, unique_id and size of every series and aggregate."""
    sizes = {one: 40.0 + 9 * i for i, one in enumerate(SERIES)}
    brands = {brand: sum(sizes[join_id(k)] for k in KEYS if k[0] == brand) for brand in ("north", "south")}
    upper = [("total", "total", sum(sizes.values())), *(("brand", brand, size) for brand, size in brands.items())]
    return upper + [("bottom", one, size) for one, size in sizes.items()]


def series() -> pd.DataFrame:
    """``frames.SERIES``, with an attribute to search by."""
    rows = [
        {"unique_id": join_id(keys), "node": "bottom", "depth": 2, "key_1": keys[0], "key_2": keys[1],
         "attributes": {"description": f"Sold by the piece {i}"}}
        for i, keys in enumerate(KEYS)
    ]  # fmt: skip
    upper = [{"unique_id": brand, "node": "brand", "depth": 1, "key_1": brand} for brand in ("north", "south")]
    rows = [{"unique_id": "total", "node": "total", "depth": 0}, *upper, *rows]
    frame = pd.DataFrame(rows)
    return frame.assign(
        **{c: frame[c].astype(object).where(frame[c].notna(), None) for c in ("key_1", "key_2", "attributes")}
    )


def declare_fleet(folder: Path) -> dict[str, Customer]:
    """The files of :func:`fleet`'s customers."""
    weekly = "last_date: 2024-03-10\nfrequency: W"
    daily = {name: declare(folder, name) for name in ("fresh", "broken", "unborn")}
    return daily | {"weekly": declare(folder, "weekly", "America/New_York", 8, weekly)}


def fleet(engine: sa.Engine, folder: Path, today: date) -> None:
    """Four customers: one well, one broken, one weekly and complete, one that never ran."""
    shops = {name: Shop(engine, customer) for name, customer in declare_fleet(folder).items()}
    _well(shops["fresh"], today - timedelta(days=1))
    _broken(shops["broken"], today - timedelta(days=1))
    weekly = shops["weekly"]
    weekly.crown(weekly.publish(date(2024, 3, 10), live=False, plan="retrain", fallbacks=SERIES[:2], history=60))


def _well(shop: Shop, yesterday: date) -> None:
    """Three nights; the last one has a series on a lower rung, a warning and refused rows."""
    first = shop.publish(yesterday - timedelta(days=2), plan="retrain", plan_reason="no champion", history=200)
    shop.crown(first)
    shop.publish(yesterday - timedelta(days=1), history=2)
    lines = {"lines_read": 1900, "lines_used": 1860, "lines_excluded": 28, "lines_quarantined": 12, "lines_future": 0}
    last = shop.publish(yesterday, fallbacks=SERIES[-1:], history=2, **lines)
    shop.check(last, "passed", "warned", "passed", "passed")
    shop.quarantine(last, 12)


def _broken(shop: Shop, yesterday: date) -> None:
    """A night that published, four that did not happen, and one stopped by the contract."""
    first = shop.publish(yesterday - timedelta(days=4), plan="retrain", plan_reason="no champion", history=90)
    shop.crown(first, wape=0.41, naive=0.39)
    lines = {"lines_read": 90, "lines_used": 0, "lines_excluded": 0, "lines_quarantined": 90, "lines_future": 0}
    stopped = shop.begin(yesterday, **lines)
    shop.check(stopped, "passed", "broken", "crashed")
    shop.quarantine(stopped, 90)
    message = f"contract pasta_sales 1.0.0 is broken: 90 of 90 rows have a negative quantity, such as {HOSTILE}"
    warehouse.fail(shop.engine, shop.customer.id, stopped.run_id, "broken", message)
