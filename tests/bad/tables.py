"""Kinds of bad packed files, parquet files, workbooks, databases, and of whole deliveries."""

from __future__ import annotations

import csv
import gzip
import io
import sqlite3
import zipfile
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from forecasting.data import arrivals, contracts, sources
from forecasting.errors import ConfigurationError, ContractBrokenError, SourceUnavailableError
from tests.data.conftest import UNTIL, encrypted, flipped, make_customer, zipped

from .bench import CUTOFF, GOOD, TOLERANT, Bench, Kind, Noted, Quarantined, Refused, Same, Taken, broken, refused
from .bench import _contract as load_contract
from .texts import LINES, cell

__all__ = ["KINDS", "parquet", "table", "workbook"]

ROWS = 46


# --- packed ---------------------------------------------------------------------------------------------------------


def of(name: str, data: bytes, **source: Any) -> Callable[[Bench], Any]:
    def act(bench: Bench) -> Any:
        bench.put(name, data)
        return bench.take(make_customer(source={"uri": name, **source}))

    return act


RAW = GOOD.encode()
GZ, ZIP = gzip.compress(RAW), zipped(("a.csv", RAW))


def _bomb(name: str, pack: Callable[[bytes], bytes]) -> Callable[[Bench], Any]:
    return lambda bench: of(name, pack(b"\n" * 50_000_000), max_bytes=5_000_000)(bench)


PACKED: dict[str, tuple[str, bytes, Any]] = {
    "gzip cut": ("f.csv.gz", GZ[:-30], refused("f.csv.gz", "not whole", "transfer was cut")),
    "gzip without its end": ("f.csv.gz", GZ[:-8], refused("f.csv.gz", "transfer was cut")),
    "gzip, a flipped byte": ("f.csv.gz", flipped(GZ, 60), refused("f.csv.gz", "damaged")),
    "gzip, a wrong sum": ("f.csv.gz", flipped(GZ, -6), refused("f.csv.gz", "CRC")),
    "gzip, rubbish behind": ("f.csv.gz", GZ + b"<html>", refused("f.csv.gz", "not whole")),
    "gzip of two streams": ("f.csv.gz", GZ + gzip.compress(RAW), refused("line 48", "'qty'")),
    "gzip in gzip": ("f.csv.gz", gzip.compress(GZ), refused("f.csv.gz, line 1", "not utf-8")),
    "gzip of nothing": ("f.csv.gz", gzip.compress(b""), refused("f.csv.gz", "is empty")),
    "text named as gzip": ("f.csv.gz", RAW, refused("f.csv.gz", "no gzip file", "compression: none")),
    "gzip named as text": ("f.csv", GZ, refused("f.csv, line 1", "not utf-8")),
    "empty file named as gzip": ("f.csv.gz", b"", refused("f.csv.gz", "no gzip file")),
    "zip cut": ("f.zip", ZIP[:-30], refused("f.zip", "not whole", "transfer was cut")),
    "zip, a flipped byte": ("f.zip", flipped(ZIP, 60), refused("f.zip", "damaged")),
    "zip of two files": ("f.zip", zipped(("a.csv", RAW), ("b.csv", RAW)), refused("2 files", "exactly one")),
    "zip of none": ("f.zip", zipped(), refused("0 files", "exactly one")),
    "zip in zip": ("f.zip", zipped(("b.zip", ZIP)), refused("'b.zip'", "packed once")),
    "zip, its name leads out": ("f.zip", zipped(("../../a.csv", RAW)), refused("'../../a.csv'", "leads out")),
    "zip with a password": ("f.zip", encrypted(ZIP), refused("encrypted", "without a password")),
    "zip by another method": ("f.zip", zipped(("a.csv", RAW), method=zipfile.ZIP_LZMA), refused("method 14")),
    "text named as zip": ("f.zip", RAW, refused("f.zip", "not whole")),
}


# --- parquet --------------------------------------------------------------------------------------------------------


def table(text: str = GOOD) -> pa.Table:
    frame = pd.read_csv(io.StringIO(text), dtype={"item": str})
    frame["day"] = pd.to_datetime(frame["day"]).dt.date
    return pa.Table.from_pandas(frame, preserve_index=False)


def parquet(made: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(made, sink, **{"write_page_checksum": True, **options})
    return sink.getvalue()


def column(name: str, values: Any) -> bytes:
    made = table()
    return parquet(made.set_column(made.schema.get_field_index(name), name, pa.array(values) if isinstance(
        values, list) else values))  # fmt: skip


def one(name: str, value: Any, kind: pa.DataType | None = None, at: int = 3) -> bytes:
    """The odd row (of line 5 in the text) holds another value."""
    values = table()[name].to_pylist()
    values[at] = value
    return column(name, pa.array(values, kind) if kind else values)


WHOLE = parquet(table())
DAYS = table()["day"].to_pylist()


def at_noon(zone: str | None = None) -> pa.Array:
    return pa.array([datetime(d.year, d.month, d.day, 12) for d in DAYS], pa.timestamp("us", tz=zone))  # noqa: DTZ001


PARQUET: dict[str, tuple[bytes, Any]] = {
    "empty file": (b"", refused("f.parquet", "no parquet file")),
    "a csv": (RAW, refused("f.parquet", "no parquet file", "b'day,'")),
    "only its marks": (b"PAR1PAR1", refused("f.parquet", "no parquet file")),
    "cut in the middle": (WHOLE[: len(WHOLE) // 2], refused("f.parquet", "transfer was cut")),
    "cut inside its end": (WHOLE[:-2], refused("f.parquet", "transfer was cut")),
    "its beginning lost": (WHOLE[100:], refused("f.parquet", "no parquet file")),
    "a hole within": (WHOLE[:300] + WHOLE[400:], refused("f.parquet", "ask for it to be delivered again")),
    "a flipped byte in a page": (flipped(WHOLE, 40), refused("f.parquet", "cannot be read")),
    "a flipped byte in the footer": (flipped(WHOLE, len(WHOLE) - 60), refused("f.parquet")),
    "a footer too long": (WHOLE[:-8] + b"\xff\xff\xff\x7fPAR1", refused("f.parquet", "cannot be read")),
    "encrypted": (b"PARE" + WHOLE[4:], refused("f.parquet", "encrypted")),
    "no rows": (parquet(table().slice(0, 0)), refused("f.parquet", "not one row")),
    "no columns": (parquet(pa.table({})), refused("f.parquet", "no column 'day'")),
    "renamed column": (parquet(table().rename_columns(["day", "store", "item", "qtty", "promo"])),
                       refused("no column 'qty'", "mean 'qtty'")),
    "a column's name that is no UTF-8": (WHOLE.replace(b"promo", b"pr\xffmo"), refused("f.parquet", "'utf-8' codec")),
    "a column's name with a NUL": (WHOLE.replace(b"promo", b"pr\0mo"), refused("f.parquet", "no column 'promo'")),
    "a column's name with a line end": (WHOLE.replace(b"promo", b"pr\nmo"), refused("f.parquet", "no column 'promo'")),
    "doubled column": (parquet(table().rename_columns(["day", "store", "item", "qty", "qty"])),
                       refused("'qty'", "once")),
    "text for numbers": (column("qty", ["1"] * ROWS), refused("'qty' is of type string", "expected numbers")),
    "binary for numbers": (column("qty", [b"1"] * ROWS), refused("'qty' is of type binary", "expected numbers")),
    "categories for numbers": (column("qty", pa.array(["1"] * ROWS).dictionary_encode()),
                               refused("'qty'", "dictionary", "expected numbers")),
    "days for numbers": (column("qty", DAYS), refused("'qty'", "date32", "expected numbers")),
    "durations for numbers": (column("qty", [timedelta(1)] * ROWS), refused("'qty'", "duration")),
    "list for numbers": (column("qty", [[1]] * ROWS), refused("'qty'", "list", "plain values")),
    "record for a key": (column("item", [{"a": 1}] * ROWS), refused("'item'", "struct", "plain values")),
    "map for a key": (column("item", pa.array([[("a", 1)]] * ROWS, pa.map_(pa.string(), pa.int64()))),
                      refused("'item'", "map", "plain values")),
    "fractions for a key": (column("item", [1.0, 1.5] * 23), refused("row 2", "'item'", "1.5")),
    "NaN for a key": (column("item", pa.array([1.0] * 3 + [float("nan")] + [1.0] * 42)), Quarantined("required_item")),
    "infinity for a key": (column("item", [1.0] * 3 + [float("inf")] + [1.0] * 42), refused("row 4", "'item'", "inf")),
    "bytes for a key": (column("item", [b"\xff"] * ROWS), refused("'item'", "not UTF-8")),
    "NUL in a key": (column("item", ["a\0b"] * ROWS), refused("'item'", "NUL")),
    "text that is no UTF-8": (column("item", pa.array([b"\xc3\x28"] * ROWS).view(pa.string())),
                              refused("f.parquet", "'item'")),
    "a number beyond floats": (column("qty", [1] * 5 + [2**53 + 1] + [1] * 40), refused("row 6", "2^53")),
    "an unsigned number beyond floats": (column("qty", pa.array([1] * 5 + [2**64 - 1] + [1] * 40, pa.uint64())),
                                         refused("row 6", "18446744073709551615")),
    "a decimal beyond floats": (column("qty", [Decimal(1)] * 5 + [Decimal(10) ** 30] + [Decimal(1)] * 40),
                                refused("row 6", "2^53")),
    "decimals": (column("qty", [None if q is None else Decimal(int(q)) / 4 * 4 for q in table()["qty"].to_pylist()]),
                 Same()),
    "no day at all": (column("day", pa.nulls(ROWS)), refused("'day'", "no date")),
    "floats for days": (column("day", [1.0] * ROWS), refused("'day'", "expected days")),
    "serials for days": (column("day", [45292] * ROWS), refused("'45292'", "'%Y-%m-%d'")),
    "clock times for days": (column("day", [datetime(2024, 1, 1, 9).time()] * ROWS),  # noqa: DTZ001
                             refused("'day'", "time64", "expected days")),
    "texts for days, US": (column("day", ["01/02/2024"] * ROWS), refused("'01/02/2024'", "date_format")),
    "one day empty": (one("day", None), Quarantined("required_day")),
    "one day in the year 9999": (one("day", date(9999, 12, 31)), Quarantined("required_day")),
    "all days in the year 9999": (column("day", [date(9999, 12, 31)] * ROWS), refused("'day'", "1678 to 2261")),
    "one day in the year 1": (one("day", date(1, 1, 1)), Quarantined("required_day")),
    "one day in 1850": (one("day", date(1850, 1, 1)), broken("days_of_our_time", "1850-01-01")),
    "days as int96": (parquet(table().set_column(0, "day", at_noon()), use_deprecated_int96_timestamps=True), Same()),
    "days as zoned times": (parquet(table().set_column(0, "day", at_noon("UTC"))), Same()),
    "days as nanoseconds": (parquet(table().set_column(0, "day", at_noon().cast(pa.timestamp("ns")))), Same()),
    "keys as categories": (column("store", table()["store"].dictionary_encode()), Same()),
    "empty row groups": (parquet(pa.concat_tables([table().slice(0, 0), table()]), row_group_size=7), Same()),
    "a quantity empty": (one("qty", None), Quarantined("required_qty")),
    "a quantity NaN": (one("qty", float("nan"), pa.float64()), Quarantined("required_qty")),
    "a quantity infinite": (one("qty", float("inf"), pa.float64()), Quarantined("finite_qty")),
    "a quantity of 1e300": (one("qty", 1e300, pa.float64()), Quarantined("qty_in_range")),
    "a key empty": (one("item", None), Quarantined("required_item")),
    "a key of blanks": (one("item", "  "), Quarantined("usable_item")),
    "a huge key": (one("item", "x" * 1_000_000), Quarantined("usable_item")),
}  # fmt: skip


def _many_rows(bench: Bench) -> Any:
    made = pa.concat_tables([table().slice(0, 1)] * 5000).combine_chunks()
    return of("f.parquet", parquet(made), kind="parquet", max_rows=1000)(bench)


def _folder_twice(bench: Bench) -> Any:
    made = table().set_column(1, "store", pa.array(["S9"] * ROWS))
    bench.put("sales/store=S1/f.parquet", parquet(made))
    return bench.take(make_customer(source={"uri": "sales/**/*.parquet", "kind": "parquet", "partitioned": True}))


# --- xlsx -----------------------------------------------------------------------------------------------------------


def workbook(edit: Callable[[Any], Any] | None = None, text: str = GOOD) -> bytes:
    """The good delivery as a workbook; ``edit`` changes its sheet."""
    book = openpyxl.Workbook()
    page: Any = book.active
    for n, line in enumerate(text.splitlines()):
        cells = line.split(",")
        page.append([date.fromisoformat(cells[0]), *cells[1:3], *map(float, cells[3:])] if n else cells)
    if edit:
        edit(page)
    sink = io.BytesIO()
    book.save(sink)
    return sink.getvalue()


def put(where: str, value: Any) -> bytes:
    def edit(page: Any) -> None:
        page[where].number_format = "General"
        page[where].value = value

    return workbook(edit)


def patched(data: bytes, old: bytes, new: bytes) -> bytes:
    """The workbook with ``old`` replaced in its sheet's text."""
    source, sink = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with source, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            text = source.read(member)
            target.writestr(member, text.replace(old, new) if member.filename.endswith("sheet1.xml") else text)
    return sink.getvalue()


def _serials(page: Any) -> None:
    for n in range(2, 48):
        page[f"A{n}"].number_format = "General"
        page[f"A{n}"].value = 45292 + n


BOOK = workbook()
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
XLSX: dict[str, tuple[bytes, Any]] = {
    "empty file": (b"", refused("f.xlsx", "no xlsx workbook")),
    "a csv": (RAW, refused("f.xlsx", "no xlsx workbook", "source.kind")),
    "the old .xls": (OLE, refused("f.xlsx", "(.xls)", "saved as .xlsx")),
    "with a password": (OLE + "EncryptedPackage".encode("utf-16-le"), refused("f.xlsx", "password")),
    "another zip": (ZIP, refused("f.xlsx", "no xlsx workbook")),
    "cut": (BOOK[:-400], refused("f.xlsx", "not whole")),
    "a flipped byte": (flipped(BOOK, 600), refused("f.xlsx", "delivered again")),
    "a second sheet": (workbook(lambda page: page.parent.create_sheet("Notes")), refused("2 sheets", "source.sheet")),
    "an error of a formula": (patched(put("D5", 7.25), b' t="n"><v>7.25</v>', b' t="e"><v>#DIV/0!</v>'),
                              refused("row 5", "cell D5", "#DIV/0!")),
    "a formula never calculated": (put("D5", "=1+1"), refused("cell D5", "never calculated")),
    "a word for a number": (put("D5", "many"), refused("row 5", "cell D5 (qty)", "'many'")),
    "a decimal comma": (put("D5", "22,5"), refused("row 5", "cell D5 (qty)", "'22,5'")),
    "a day for a number": (put("D5", date(2024, 1, 5)), refused("cell D5 (qty)", "'2024-01-05'")),
    "a fraction for a key": (put("C5", 1.5), refused("cell C5 (item)", "1.5")),
    "serials for days": (workbook(_serials), refused("cell A2 (day)", "a date")),
    "one day as a text": (put("A5", "02.01.2024"), Quarantined("required_day")),
    "one day as a serial": (put("A5", 45293), Quarantined("required_day")),
    "one day in 1900": (put("A5", date(1900, 1, 5)), broken("days_of_our_time", "1900-01-05")),
    "one day empty": (put("A5", None), Quarantined("required_day")),
    "one quantity empty": (put("D5", None), Quarantined("required_qty")),
    "one quantity of 1e300": (put("D5", 1e300), Quarantined("qty_in_range")),
    "one key empty": (put("C5", None), Quarantined("required_item")),
    "one key with blanks": (put("C5", " 1 "), Quarantined("usable_item")),
    "a title above the header": (workbook(lambda page: page.insert_rows(1)), refused("row 1", "is empty", "A1")),
    "a header empty": (put("C1", None), refused("row 1", "cell C1 is empty")),
    "a header doubled": (put("E1", "qty"), refused("'qty'", "D1 and E1")),
    "a header renamed": (put("D1", "qtty"), refused("no column 'qty'", "mean 'qtty'")),
    "merged cells": (workbook(lambda page: page.merge_cells("B4:B5")), refused("row 4", "B4:B5", "merged")),
    "a total below a gap": (put("D50", 999), refused("row 48", "is empty, and rows follow")),
    "a note beside the table": (put("H3", "checked by Ann"), refused("row 1", "is empty: a column without a name")),
    "a cell far away": (patched(BOOK, b'r="E47"', b'r="XFD1048576"'), refused("1048576 rows", "max_bytes")),
    "only a header": (workbook(lambda page: page.delete_rows(2, 60)), refused("row 1", "not one row")),
}  # fmt: skip


# --- sql ------------------------------------------------------------------------------------------------------------

TYPES = "day date, store text, item text, qty double precision, promo integer"


def sql(*changes: str, types: str = TYPES, text: str = GOOD, postgres: bool = False, **source: Any
        ) -> Callable[[Bench], Any]:  # fmt: skip
    """The good delivery as a table of a database, changed by statements; then read."""

    def act(bench: Bench) -> Any:
        url = bench.postgres() if postgres else f"sqlite:///{bench.folder / 'feed.db'}"
        rows = list(csv.reader(io.StringIO(text)))[1:]
        values = ", ".join("(" + ", ".join(f"'{v}'" if v else "NULL" for v in row) + ")" for row in rows)
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            for one in (f"CREATE TABLE feed ({types})", f"INSERT INTO feed VALUES {values}", *changes):
                connection.execute(sa.text(one.replace(":", "\\:")))
        engine.dispose()
        return bench.take(make_customer(source={"kind": "sql", "table": "feed", **source}), uri=url)

    return act


def _sqlite(data: bytes | None = None, uri: str | None = None, **source: Any) -> Callable[[Bench], Any]:
    """A file that should be a database; or another address."""

    def act(bench: Bench) -> Any:
        if data is not None:
            bench.put("feed.db", data)
        at = f"sqlite:///{bench.folder / 'feed.db'}" if uri is None else uri
        return bench.take(make_customer(source={"kind": "sql", "table": "feed", **source}), uri=at or None)

    return act


def _nul(bench: Bench) -> Any:
    with sqlite3.connect(bench.folder / "feed.db") as connection:
        connection.execute(f"CREATE TABLE feed ({TYPES})")
        rows = [line.split(",") for line in LINES[1:]]
        rows[3][2] = "a\0b"
        connection.executemany("INSERT INTO feed VALUES (?, ?, ?, nullif(?, ''), ?)", rows)
    connection.close()
    return _sqlite()(bench)


def odd(change: str) -> str:
    return f"UPDATE feed SET {change} WHERE store = 'S2' AND day = '2024-01-02'"


gone, wrong = (lambda *words: Refused(SourceUnavailableError, words)), (lambda *w: Refused(ConfigurationError, w))
SQL: dict[str, tuple[Callable[[Bench], Any], Any]] = {
    "no such table": (sql(table="feeed"), refused("feeed", "no such table", "mean 'feed'")),
    "no such schema": (sql(table="shop.feed"), refused("no such table")),
    "SQL for a table": (sql(table="feed; DROP TABLE feed"), refused("no such table")),
    "no such column": (sql(types=TYPES.replace("qty", "qtty")), refused("feed", "no column 'qty'", "'qtty'")),
    "an empty table": (sql("DELETE FROM feed"), broken("there is not one row")),
    "one day empty": (sql(odd("day = NULL")), Quarantined("required_day")),
    "every day empty": (sql("UPDATE feed SET day = NULL"), broken("there is no day", "required_day")),
    "one day a word": (sql(odd("day = 'soon'")), Quarantined("required_day")),
    "the word now for a day": (sql(odd("day = 'now'"), types=TYPES.replace("day date", "day varchar(20)")),
                               Quarantined("required_day")),
    "one quantity empty": (sql(odd("qty = NULL")), Quarantined("required_qty")),
    "one quantity a word": (sql(odd("qty = 'many'")), refused("feed", "'qty'", "'many'", "no number")),
    "one quantity bytes": (sql(odd("qty = x'00ff'")), refused("feed", "'qty'", "no number")),
    "one quantity infinite": (sql(odd("qty = 9e999")), Quarantined("finite_qty")),
    "one quantity negative": (sql(odd("qty = -1")), Quarantined("qty_in_range")),
    "a number beyond floats": (sql(odd("qty = 9007199254740993"), types=TYPES.replace("qty double precision",
                               "qty bigint")), refused("feed", "'qty'", "9007199254740993")),
    "text for numbers": (sql(types=TYPES.replace("qty double precision", "qty text")),
                         refused("feed", "'qty'", "'11'", "no number")),
    "bytes for a key": (sql(odd("store = x'ff00'")), refused("feed", "'store'", "no text")),
    "one key empty": (sql(odd("item = ''")), Quarantined("required_item")),
    "one key null": (sql(odd("item = NULL")), Quarantined("required_item")),
    "one key of control characters": (sql(odd("item = char(7)")), Quarantined("usable_item")),
    "one key with a NUL": (_nul, refused("feed", "'item'", "NUL")),
    "text that is no UTF-8": (sql(odd("item = cast(x'ff41' as text)")), refused("feed")),
    "a hostile column": (sql(types=TYPES.replace("qty", '"qty""; DROP TABLE feed"'),
                             names={"qty": 'qty"; DROP TABLE feed'}), Same()),
    "too many rows": (sql(max_rows=45), refused("feed", "max_rows", "45")),
    "a view of a lost table": (sql("CREATE VIEW broken AS SELECT * FROM feed", "DROP TABLE feed",
                                   table="broken"), refused("feed.db", "a view of is not there")),
    "no database there": (_sqlite(), gone("no such file")),
    "no database, but a csv": (_sqlite(RAW), refused("feed", "no database file")),
    "an empty file": (_sqlite(b""), refused("feed", "no such table")),
    "no connection": (_sqlite(uri=""), gone("connection and none was given")),
    "an address of another store": (_sqlite(uri="s3://KEY:hunter2@host"), wrong("begins with 's3'")),
    "no address": (_sqlite(uri="hunter2"), wrong("has no scheme")),
    "a driver that is not there": (_sqlite(uri="mysql://me:hunter2@host/shop"), wrong("pymysql")),
}  # fmt: skip

pg = partial(sql, postgres=True)
POSTGRES: dict[str, tuple[Callable[[Bench], Any], Any]] = {
    "a day before all days": (pg("UPDATE feed SET day = '-infinity' WHERE qty = 22"),
                              refused("feed", "a day outside the calendar")),
    "a day before Christ": (
        pg("UPDATE feed SET day = '0044-03-15 BC' WHERE qty = 22"),
        Quarantined("required_day"),
    ),
    "a NaN": (pg("UPDATE feed SET qty = 'NaN' WHERE qty = 22"), Quarantined("required_qty")),
    "an infinite decimal": (pg("UPDATE feed SET qty = 'Infinity' WHERE qty = 22", types=TYPES.replace(
        "double precision", "numeric")), Quarantined("finite_qty")),
    "a decimal of a thousand digits": (pg("UPDATE feed SET qty = 1e900 WHERE qty = 22", types=TYPES.replace(
        "double precision", "numeric")), refused("feed", "holds a value that cannot be read")),
    "an array for a key": (pg("CREATE VIEW listed AS SELECT day, ARRAY[store] AS store, item, qty, promo FROM feed",
                               table="listed"), refused("'store'", "no text")),
    "JSON for a number": (pg("CREATE VIEW j AS SELECT day, store, item, to_jsonb(qty) AS qty, promo FROM feed",
                              table="j"), refused("'qty'")),
    "a point for a key": (pg("CREATE VIEW r AS SELECT day, point(1, 2) AS store, item, qty, promo FROM feed",
                                 table="r"), refused("'store'")),
    "a view that divides by zero": (pg("CREATE VIEW z AS SELECT day, store, item, qty / (promo - promo) AS qty, promo"
                                        " FROM feed", table="z"), refused("z", "cannot be read")),
    "a view that never ends": (pg("CREATE VIEW slow AS SELECT day, store, item, qty, promo FROM feed, pg_sleep(9)",
                                   table="slow", timeout=1), gone("no answer within source.timeout, 1 s")),
}  # fmt: skip


def _denied(bench: Bench) -> Any:
    """A login without a right on the table."""
    url = sa.make_url(bench.postgres())
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text(f"CREATE TABLE feed ({TYPES})"))
        connection.execute(sa.text(f'ALTER TABLE feed OWNER TO "{url.username}"'))
        connection.execute(sa.text(f'REVOKE ALL ON feed FROM "{url.username}"'))
    engine.dispose()
    uri = url.render_as_string(hide_password=False)
    return bench.take(make_customer(source={"kind": "sql", "table": "feed"}), uri=uri)


def _wrong_password(bench: Bench) -> Any:
    uri = sa.make_url(bench.postgres()).set(password="hunter2").render_as_string(hide_password=False)
    return bench.take(make_customer(source={"kind": "sql", "table": "feed", "timeout": 4}), uri=uri)


# --- whole deliveries -----------------------------------------------------------------------------------------------


def text(data: str, contract: str = TOLERANT, **changes: Any) -> Callable[[Bench], Any]:
    def act(bench: Bench) -> Any:
        bench.put("feed.csv", data)
        return bench.take(make_customer(**changes), contract=contract)

    return act


def _by_day(bench: Bench, **more: str) -> Any:
    """The good delivery as a file a day, and other files beside them."""
    head, *lines = LINES
    for day in dict.fromkeys(line[:10] for line in lines):
        bench.put(f"sales_{day}.csv", "\n".join([head, *(line for line in lines if line.startswith(day))]) + "\n")
    for name, data in more.items():
        bench.put(f"{name}.csv", data)
    source = {"uri": "sales_*.csv"}
    return bench.take(make_customer(source=source))


def _same_file_twice(bench: Bench, end: str = "\n") -> Any:
    day = end.join([LINES[0], *(line for line in LINES if line.startswith("2024-01-02"))]) + end
    return _by_day(bench, **{"sales_2024-01-02 (1)": day})


def _whole_delivery_twice(bench: Bench, end: str = "\n") -> Any:
    bench.put("sales_1.csv", GOOD)
    bench.put("sales_2.csv", GOOD.replace("\n", end))
    return bench.take(make_customer(source={"uri": "sales_*.csv"}))


def _other_columns_in_one_file(bench: Bench) -> Any:
    return _by_day(bench, **{"sales_2024-01-24": "day,store,item,menge,promo\n2024-01-24,S1,1,,0\n"})


def _empty_in_folder(bench: Bench) -> Any:
    return _by_day(bench, **{"sales_2024-01-24": ""})


def _wrong_name(bench: Bench) -> Any:
    bench.put("sales_2024-01-02.csv", GOOD)
    bench.put("sales_20240103.csv", GOOD)
    source = {"uri": "sales_*.csv", "day_in_name": "sales_%Y-%m-%d.csv"}
    return bench.take(make_customer(source=source))


def _two_of_a_day(bench: Bench) -> Any:
    bench.put("a/sales_2024-01-02.csv", GOOD)
    bench.put("b/sales_2024-01-02.csv", GOOD)
    source = {"uri": "**/sales_*.csv", "day_in_name": "sales_%Y-%m-%d.csv"}
    return bench.take(make_customer(source=source))


def _then(before: str, now: str, contract: str = TOLERANT) -> Callable[[Bench], Any]:
    """A delivery after another: what the gate's rules about deliveries say of it."""

    def act(bench: Bench) -> Any:
        customer, agreed = make_customer(), load_contract(contract)
        bench.put("feed.csv", before)
        access = sources.Access(bench.folder)
        first = sources.pull(customer, access=access, until=UNTIL - timedelta(days=1))
        days = first.days.assign(kept_lines=first.days["lines"], kept_digest=first.days["digest"])
        taken = text(now, contract)(bench)
        feed = sources.pull(customer, access=access, until=UNTIL)
        reading = arrivals.Reading(feed.days, None, None, feed.watermark)
        arrived = arrivals.compare(reading, days, first.watermark)
        said = arrivals.judge(arrived, reading, days, agreed, customer, watermark=first.watermark)
        bench.stage = "gate"
        verdict = contracts.Verdict(
            agreed.id, agreed.version, "feed.csv", [*taken.verdict.results, *said], taken.verdict.quarantine,
            taken.verdict.accepted, taken.verdict.rejected,
        )  # fmt: skip
        if verdict.broken:
            raise ContractBrokenError(verdict.message())
        return Taken(taken.rows, verdict, taken.mapped, taken.outside)

    return act


def shifted(days: int) -> str:
    """Every day moved."""
    rows = [line.split(",") for line in LINES[1:]]
    moved = [[str(date.fromisoformat(row[0]) + timedelta(days=days)), *row[1:]] for row in rows]
    return "\n".join([LINES[0], *(",".join(row) for row in moved)]) + "\n"


def long(days: int = 63, of_last: Callable[[list[str]], list[str]] = lambda lines: lines) -> str:
    """Nine weeks to the cutoff and its three days ahead; ``of_last`` changes the last day with sales."""
    head = LINES[0]
    rows = []
    for n in range(days):
        day = CUTOFF - timedelta(days=days - 1 - n)
        lines = [f"{day},S{s},1,{10 + s},0" for s in range(1, 11)]
        rows += of_last(lines) if day == CUTOFF else lines
    return "\n".join([head, *rows]) + "\n"


STRICT_VOLUME = TOLERANT.replace(
    "  - {property: gateMostly, value: 0.9}\n",
    "  - {property: gateMostly, value: 0.9}\n  - {property: volumeSeverity, value: error}\n",
)


def many_keys(lines: list[str]) -> list[str]:
    return [line.replace(",1,", f",{k},", 1) for k in range(1, 11) for line in lines]


without_a_day = "".join(f"{line}\n" for line in LINES if not line.startswith("2024-01-10"))
DELIVERIES: dict[str, tuple[Callable[[Bench], Any], Any]] = {
    "a line twice": (text("\n".join([*LINES[:5], LINES[4], *LINES[5:]]) + "\n"), Quarantined("unique", 2)),
    "a key twice, other numbers": (text("\n".join([*LINES[:5], LINES[4].replace(",22,", ",23,"), *LINES[5:]]) + "\n"),
                                   Quarantined("unique", 2)),
    "all lines twice": (text("\n".join([*LINES, *LINES[1:]]) + "\n"), broken("unique", "more than once")),
    "all lines twice, duplicates: exclude": (text("\n".join([*LINES, *LINES[1:41]]) + "\n", duplicates="exclude"),
                                             Noted(("0 of 46",))),
    "the same file twice in a folder": (
        _same_file_twice,
        refused("sales_2024-01-02.csv", "byte for byte", "sales_2024-01-02 (1).csv"),
    ),
    "the same lines twice in a folder, other line ends": (
        lambda bench: _same_file_twice(bench, "\r\n"),
        Quarantined("unique", 4),
    ),
    "the whole delivery twice in a folder": (_whole_delivery_twice, refused("sales_2.csv", "byte for byte")),
    "the whole delivery twice in a folder, other line ends": (
        lambda bench: _whole_delivery_twice(bench, "\r\n"),
        broken("unique", "sales_1.csv, line 2"),
    ),
    "one file of a folder with other columns": (_other_columns_in_one_file, refused("sales_2024-01-24", "'qty'")),
    "one file of a folder empty": (_empty_in_folder, refused("sales_2024-01-24.csv", "is empty")),
    "a name that holds no day": (_wrong_name, refused("sales_20240103.csv")),
    "two files of one day": (_two_of_a_day, refused("2024-01-02")),
    "stopped a week ago": (text("".join(f"{line}\n" for line in LINES if line < "2024-01-14" or line[0] == "d")),
                           broken("delivered_up_to_cutoff", "2024-01-13", "expected 2024-01-16")),
    "only plans": (text("".join(f"{line}\n" for line in LINES if line > "2024-01-21")),
                   broken("there is no day with qty")),
    "only days long past": (text(shifted(-400)), broken("delivered_up_to_cutoff")),
    "only days to come": (text(shifted(400)), broken("there is not one row")),
    "one day in the future": (text(cell(0, "2031-01-02")), Noted(("1 lines outside the window",))),
    "too few lines for the contract": (text("\n".join([LINES[0], *LINES[39:41]]) + "\n"), broken("enough_rows")),
    "too many lines for a tenth": (text(GOOD.replace(",S2,1,", ",S2, ,")), broken("usable_item", "23 of 46")),
    "a day in the middle gone": (_then(GOOD, without_a_day), broken("history_kept", "2024-01-10 2 → 0")),
    "a week in the middle gone": (
        _then(GOOD, "".join(f"{line}\n" for line in LINES if not "2024-01-05" <= line[:10] <= "2024-01-11")),
        broken("history_kept", "14 lines", "are gone", "full_refresh")),
    "all days moved by one": (_then(GOOD, shifted(1)), Noted(("restated_days",))),
    "restated": (_then(GOOD, GOOD.replace(",22,", ",23,")), Noted(("restated_days", "2024-01-02"))),
    "a tenth of the usual lines": (_then(long(), long(of_last=lambda lines: lines[:1])),
                                   Noted(("usual_lines", "2024-01-20", "1 lines"))),
    "ten times the usual lines": (_then(long(), long(of_last=many_keys)),
                                  Noted(("usual_lines", "2024-01-20", "100 lines"))),
    "a tenth of the usual lines, volumeSeverity: error": (
        _then(long(), long(of_last=lambda lines: lines[:1]), STRICT_VOLUME),
        broken("usual_lines", "2024-01-20", "expected 3 to 30")),
    "ten times the usual lines, volumeSeverity: error": (
        _then(long(), long(of_last=many_keys), STRICT_VOLUME), broken("usual_lines", "100 lines")),
}  # fmt: skip


KINDS: tuple[Kind, ...] = (
    *(Kind("packing", name, of(file, data), end) for name, (file, data, end) in PACKED.items()),
    Kind("packing", "a bomb of gzip", _bomb("f.csv.gz", partial(gzip.compress, compresslevel=1)),
         refused("f.csv.gz", "max_bytes, 5000000")),
    Kind("packing", "a bomb of zip", _bomb("f.zip", lambda data: zipped(("a.csv", data))),
         refused("f.zip", "max_bytes, 5000000")),
    *(Kind("parquet", name, of("f.parquet", data, kind="parquet"), end) for name, (data, end) in PARQUET.items()),
    Kind("parquet", "more rows than declared", _many_rows, refused("f.parquet", "5000 rows", "max_rows, 1000")),
    Kind("parquet", "a column and a folder of one name", _folder_twice, refused("'store'", "as a folder")),
    *(Kind("xlsx", name, of("f.xlsx", data, kind="xlsx"), end) for name, (data, end) in XLSX.items()),
    *(Kind("sql", name, act, end) for name, (act, end) in SQL.items()),
    *(Kind("sql", f"{name} (PostgreSQL)", act, end, postgres=True) for name, (act, end) in POSTGRES.items()),
    Kind("sql", "no right to read (PostgreSQL)", _denied, refused("feed", "may not read it", "SELECT"), postgres=True),
    Kind("sql", "a wrong password (PostgreSQL)", _wrong_password, gone("refuses the login"), postgres=True),
    *(Kind("deliveries", name, act, end) for name, (act, end) in DELIVERIES.items()),
)  # fmt: skip
