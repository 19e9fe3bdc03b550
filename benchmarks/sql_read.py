"""A pull of a customer's table beside PostgreSQL's own COPY of the same rows, in the same run.

Usage: python benchmarks/sql_read.py URL [ROWS]

URL names an empty database of PostgreSQL. A table is made there and dropped again.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import sqlalchemy as sa

from forecasting.config import Customer
from forecasting.data.sources import Access, pull

MAKE = """
CREATE TABLE bench_lines AS
SELECT (100000 + g / 20)::text AS invoice, (10000 + g % 3000)::text AS sku, (g % 12)::int AS quantity,
       timestamp '2009-12-01 08:00' + (g * 20) * interval '1 second' AS sold_at, (g % 500) / 100.0 AS price,
       'not declared' AS remark
FROM generate_series(1, :rows) AS g
"""


def main(url: str, rows: int = 1_000_000) -> None:
    """Measure and print one line each, the best of three."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text(MAKE), {"rows": rows})
    try:
        customer, access = _customer(), Access(Path.cwd(), None, url)
        pull(customer, access=access, until=date(2009, 12, 8))  # imports
        _show("COPY … TO STDOUT, bytes only", rows, lambda: _copy(engine))
        _show("pull", rows, lambda: pull(customer, access=access, until=date(2030, 1, 1)))
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        pull(customer, access=access, until=date(2030, 1, 1))
        print(f"{'pull grew the process at the most by':<40} {(_memory('VmHWM') - before) / 1024:8.0f} MB")
    finally:
        with engine.begin() as connection:
            connection.execute(sa.text("DROP TABLE bench_lines"))


def _customer() -> Customer:
    names = {"day": "sold_at"}
    return Customer.model_validate(
        {
            "id": "bench", "time_zone": "Europe/London", "first_date": "2010-01-01", "contract": "bench",
            "absent": "zero", "horizon": 7, "source": {"kind": "sql", "table": "bench_lines", "names": names},
            "columns": {"ds": "day", "y": "quantity", "keys": ["sku"], "other": ["invoice"]},
            "exogenous": {"price": {"known": "historic"}},
        }
    )  # fmt: skip


def _copy(engine: sa.Engine) -> None:
    with engine.connect() as connection, connection.connection.cursor() as cursor:
        statement = "COPY (SELECT sold_at, sku, invoice, quantity, price FROM bench_lines) TO STDOUT"
        with cursor.copy(statement) as lines:
            for _ in lines:
                pass


def _memory(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) if found else 0


def _show(name: str, rows: int, act: Callable[[], object]) -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - start)
    print(f"{name:<40} {min(seconds):8.2f} s  {rows / min(seconds):12,.0f} rows/s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
