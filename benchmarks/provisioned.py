"""A warehouse with 1,000 provisioned customers: locks, planning, fleet-wide queries, 20 publishing at once.

Usage: python benchmarks/provisioned.py URL [CUSTOMERS]

URL names an empty database whose login has CREATEROLE. Nothing is cleaned up: drop the database and its roles.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import numpy as np
import pandas as pd
import sqlalchemy as sa

from forecasting.config import Columns, CsvSource, Customer
from forecasting.store import provision, warehouse

DAY = date(2024, 3, 1)
SERIES, HORIZON = 50, 28


def main(url: str, count: int = 1000) -> None:
    """Measure and print one line each."""
    _show("migrate", _timed(lambda: warehouse.migrate(url)))
    _show("migrate at head", _timed(lambda: warehouse.migrate(url)))
    engine = warehouse.connect(url)
    customers = [_customer(i) for i in range(count)]
    _show(f"provision {count} customers", _timed(lambda: provision.apply(engine, customers)))
    _show("provision again, nothing to do", _timed(lambda: provision.apply(engine, customers)))
    _show("ensure one, nothing to do", _timed(lambda: provision.ensure(engine, customers[0])))
    _show("one publication after another, each", _timed(lambda: _publish_all(url, customers[:100], 1)) / 100)
    _show("20 at once, each", _timed(lambda: _publish_all(url, customers[100:400], 20)) / 300)
    for name, sql in _queries(customers[0].id).items():
        _measure(engine, name, sql)
    for name in ("forecasting.run", "forecasting.fleet_health", "forecasting.forecast_current"):
        _together(engine, f"20 at once: {name}", f"SELECT count(*) FROM {name}")


def _customer(i: int) -> Customer:
    return Customer(
        id=f"load_{i:04}",
        time_zone="Europe/Rome",
        first_date=DAY,
        source=CsvSource(uri="sales.csv"),
        columns=Columns(ds="day", y="quantity", keys=("brand", "item")),
        contract="sales",
        absent="closed",
    )


def _queries(one: str) -> dict[str, str]:
    return {
        "fleet: newest runs (small table)": "SELECT count(*) FROM forecasting.run",
        "fleet: fleet_health": "SELECT * FROM forecasting.fleet_health",
        "fleet: model_history": "SELECT * FROM forecasting.model_history",
        "one customer: its own forecast_current": f"SELECT * FROM {one}.forecast_current",
        "one customer: through the parent": f"SELECT * FROM forecasting.forecast_current WHERE customer_id = '{one}'",
        "fleet: forecast_current": "SELECT customer_id, sum(y_hat) FROM forecasting.forecast_current GROUP BY 1",
    }


def _publish_all(url: str, customers: list[Customer], workers: int) -> None:
    """A share of the customers for each worker, each with a session of its own, as tasks have."""

    def share(worker: int) -> None:
        engine = warehouse.connect(url)
        for customer in customers[worker::workers]:
            _publish(engine, customer)
        engine.dispose()

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(share, range(workers)))


def _publish(engine: sa.Engine, customer: Customer) -> None:
    run = warehouse.allot(engine, customer, DAY, live=True, as_frozen=False, code=warehouse.Code("code", "lock", "cpu"))
    rows, status = _forecast()
    with warehouse.acting_for(engine, customer.id) as connection:
        warehouse.publish(
            connection,
            run,
            rows,
            key="k",
            checksum=warehouse.checksum(rows),
            version="1.0.0",
            status=status,
            reason="load",
        )


def _forecast() -> tuple[pd.DataFrame, pd.DataFrame]:
    ids = [f"b/{i:03}" for i in range(SERIES)]
    steps = np.tile(np.arange(1, HORIZON + 1), SERIES)
    rows = pd.DataFrame({"unique_id": np.repeat(ids, HORIZON), "node": "bottom", "h": steps, "y_hat": 1.5, "q50": 1.0})
    rows = rows.assign(ds=pd.Timestamp(DAY) + pd.to_timedelta(steps, unit="D"), model="auto_ets", rung="chosen")
    return rows, pd.DataFrame({"unique_id": ids, "status": "ok", "rung": "chosen", "model": "auto_ets", "reason": None})


def _measure(engine: sa.Engine, name: str, sql: str) -> None:
    """Planning, execution and locks of one statement: the first time in a session, and warm."""
    engine.dispose()  # a fresh session: its catalogue caches are empty, as a task's are
    with engine.connect() as connection:
        cold = _explained(connection, sql)
        warm = _explained(connection, sql)
        held = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation'"
        locks = connection.execute(sa.text(held)).scalar_one()
    for label, (planning, execution) in (("first", cold), ("warm", warm)):
        print(f"{name:<45} {label:<6} planning {planning:8.1f} ms  execution {execution:8.1f} ms  locks {locks}")


def _explained(connection: sa.Connection, sql: str) -> tuple[float, float]:
    plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}").scalar_one()[0]
    return plan["Planning Time"], plan["Execution Time"]


def _together(engine: sa.Engine, name: str, sql: str) -> None:
    """The statement in 20 transactions that all stay open until the last has run."""
    seconds, errors = [], []
    connections = []
    for _ in range(20):
        connection = sa.create_engine(engine.url, poolclass=sa.pool.NullPool).connect()
        connections.append(connection)
        try:
            seconds.append(_timed(lambda connection=connection: connection.exec_driver_sql(sql).all()))  # type: ignore[misc]
        except sa.exc.DBAPIError as error:
            errors.append(str(error.orig).splitlines()[0])
    for connection in connections:
        connection.close()
    median = statistics.median(seconds) if seconds else float("nan")
    print(f"{name:<45} median {median:.3f} s, {len(errors)} of 20 failed {set(errors) or ''}")


def _timed(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _show(name: str, seconds: float) -> None:
    print(f"{name:<45} {seconds:8.3f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
