"""What the demo puts where two of its customers have it: a store that is open today, and a shop's own database.

The product knows nothing of it: it reads what is there.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from forecasting.cli import connections
from forecasting.config import Customer, Settings
from forecasting.store import embedded

if TYPE_CHECKING:
    import psycopg
    import pyarrow as pa

__all__ = ["FIRST", "GIFTS", "LAST", "gifts_rows", "live_file", "live_shift", "redated", "seed"]

FIRST = date(2017, 1, 2)
"""First day of ``live``: the last two years of pasta, from the first day on which the store was open."""
LAST = date(2018, 12, 31)
"""Last day of pasta's sales and plan."""
PASTA = "examples/pasta/hierarchical_sales_data.csv"
"""What ``live`` is made from, below the checkout's root."""
SHOP = "examples/gifts"
"""The shop's two years of invoice lines, below the checkout's root."""
EXPORT = "gifts_export"
"""Login of the shop's database that may read what ``gifts`` declares, and nothing else."""
PLANNED = 35
"""Days of plan left after a first seeding, at least: a horizon and a week of nights."""
_WEEK = timedelta(days=7)


def _year(number: str, price: str, customer: str) -> dict[str, type[Any]]:
    return {
        number: sa.Text,
        "StockCode": sa.Text,
        "Description": sa.Text,
        "Quantity": sa.Integer,
        "InvoiceDate": sa.DateTime,
        price: sa.Numeric,
        customer: sa.Integer,
        "Country": sa.Text,
    }


GIFTS = {
    "year_2009_2010": _year("Invoice", "Price", "Customer ID"),
    "year_2010_2011": _year("InvoiceNo", "UnitPrice", "CustomerID"),
}
"""Tables of the shop's database: three columns are named anew in the second year."""


def seed(settings: Settings, customers: Sequence[Customer], say: Callable[[str], None]) -> None:
    """Put the demo's customers' data where these have it; a customer that is not here gets nothing.

    Args:
        settings: Of the local deployment.
        customers: Those of its folder.
        say: Told what was put where.
    """
    here = {customer.id: customer for customer in customers}
    if "live" in here and (settings.root / PASTA).exists():
        today = datetime.now(ZoneInfo(here["live"].time_zone)).date()
        target = settings.deliveries / "live/sales.csv"
        shift = live_file(settings.root / PASTA, target, today)
        say(f"live: its file ends with {today - timedelta(days=1)}, pasta's days {shift.days // 7} weeks later")
    if "gifts" in here and (settings.root / SHOP).exists() and settings.embedded:
        owner, reader = embedded.extra_database(settings.home, "retail", reader=EXPORT)
        engine = sa.create_engine(owner, hide_parameters=True)
        try:
            if not _holds(engine):
                counts = gifts_rows(engine, settings.root / SHOP)
                say(f"gifts: its shop's database holds {sum(counts.values())} invoice lines")
            connections.grant_declared(engine, here["gifts"], EXPORT)
        finally:
            engine.dispose()
        connections.store(settings, "gifts", reader)  # each time: the server's port may have changed


def _holds(engine: sa.Engine) -> bool:
    """Whether the shop's tables are there with their rows: what a person changed in them stays."""
    with engine.connect() as connection:
        inspector = sa.inspect(connection)
        tables = [sa.table(name, schema="shop") for name in GIFTS if inspector.has_table(name, "shop")]
        counts = [connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in tables]
    return len(counts) == len(GIFTS) and all(counts)


def live_shift(today: date) -> timedelta:
    """By how much ``live`` is moved: whole weeks, so that yesterday has sales and ``PLANNED`` days of plan remain.

    >>> live_shift(date(2026, 11, 23)).days % 7, date(2026, 11, 22) - live_shift(date(2026, 11, 23))
    (0, datetime.date(2018, 11, 25))
    """
    yesterday, latest = today - timedelta(days=1), LAST - timedelta(days=PLANNED)
    return -((latest - yesterday) // _WEEK) * _WEEK


def redated(rows: Iterable[Sequence[str]], shift: timedelta, today: date) -> list[list[str]]:
    """Pasta's wide rows from ``FIRST`` on, ``shift`` later: what sold is blank from ``today`` on, the plan stays.

    Args:
        rows: Header (DATE, QTY_…, PROMO_…) and cells, as they stand in the file.
        shift: Whole weeks, so that a day keeps its weekday.
        today: First day whose sales nobody knows yet.

    Raises:
        ValueError: ``shift`` is not whole weeks: Saturdays would sell like Tuesdays.
    """
    if shift % _WEEK:
        raise ValueError(f"a shift of {shift.days} days is not whole weeks")
    header, *body = rows
    sold = [name.startswith("QTY_") for name in header]
    out = [list(header)]
    for day, *cells in body:
        moved = date.fromisoformat(day) + shift
        if moved < FIRST + shift:
            continue
        known = moved < today
        out.append([moved.isoformat(), *(c if known or not s else "" for c, s in zip(cells, sold[1:], strict=True))])
    return out


def live_file(original: Path, target: Path, today: date) -> timedelta:
    """Write ``live``'s file: a wide csv as pasta's is, since that is how such a store delivers.

    A file that is there keeps its shift as long as pasta has sales for yesterday: only its tail grows, as a store's
    would, and history does not move under a deployment that runs for weeks.

    Args:
        original: Pasta's file.
        target: Written in one step; its folder is made.
        today: First day whose sales nobody knows yet.

    Returns:
        The shift.
    """
    shift = _standing(target, today) or live_shift(today)
    with original.open(encoding="utf-8", newline="") as lines:
        rows = redated(csv.reader(lines), shift, today)
    target.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    part = target.with_name(f".{target.name}.part")
    part.write_text(text.getvalue(), encoding="utf-8")
    part.replace(target)
    return shift


def _standing(target: Path, today: date) -> timedelta | None:
    """The shift of the file that is there, while pasta has sales for yesterday and the plan reaches no further back."""
    if not target.exists():
        return None
    with target.open(encoding="utf-8", newline="") as lines:
        shift = date.fromisoformat(next(row[0] for row in csv.reader(lines) if row[0] != "DATE")) - FIRST
    earliest = LAST - timedelta(days=PLANNED) - _WEEK
    return shift if earliest < today - timedelta(days=1) - shift <= LAST else None


def gifts_rows(engine: sa.Engine, folder: Path, schema: str = "shop") -> dict[str, int]:
    """Put the two years of invoice lines into tables of the shop's own database, as an export of its till leaves them.

    No primary key, an index on the day, duplicates and all. Run again it brings back the same rows; tables that stand
    are emptied, not replaced, so rights given on them stay.

    Args:
        engine: The shop's PostgreSQL; the login may create ``schema``.
        folder: Holds one parquet per table of ``GIFTS``.
        schema: Made if it is not there.

    Returns:
        Table → rows.
    """
    import pyarrow.parquet as pq

    metadata = sa.MetaData(schema=schema)
    made = {name: _table(name, columns, metadata) for name, columns in GIFTS.items()}
    counts = {}
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema, if_not_exists=True))
        metadata.create_all(connection)
        for name, table in made.items():
            connection.execute(sa.delete(table))
            rows = pq.read_table(folder / f"{name}.parquet")
            _copy(connection, table, rows)
            counts[name] = rows.num_rows
    return counts


def _table(name: str, columns: dict[str, type[Any]], metadata: sa.MetaData) -> sa.Table:
    table = sa.Table(name, metadata, *(sa.Column(column, kind) for column, kind in columns.items()))
    sa.Index(f"{name}_day", table.c["InvoiceDate"])
    return table


def _copy(connection: sa.Connection, table: sa.Table, rows: pa.Table) -> None:
    import pyarrow as pa
    from psycopg import sql
    from pyarrow import csv as arrow_csv

    # the file holds whole customer numbers as floats
    whole = [column.name for column in table.columns if isinstance(column.type, sa.Integer)]
    for at, name in enumerate(rows.column_names):
        if name in whole:
            rows = rows.set_column(at, name, rows[name].cast(pa.int64()))
    text = io.BytesIO()
    arrow_csv.write_csv(rows, text, arrow_csv.WriteOptions(include_header=False))
    names = sql.SQL(", ").join(map(sql.Identifier, rows.column_names))
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(
        sql.Identifier(str(table.schema), table.name), names
    )
    driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(text.getbuffer())
