"""Kinds of bad text files: bytes, structure, headers, numbers, days, keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from forecasting.errors import ConfigurationError, SourceError, SourceUnavailableError
from tests.data.conftest import make_customer

from .bench import GOOD, TOLERANT, Bench, Kind, Quarantined, Refused, Same, broken, refused

__all__ = ["KINDS", "cell", "every"]

LINES = GOOD.splitlines()
DAY, STORE, ITEM, QTY, PROMO = range(5)
ODD = 5
"""The line that single bad cells stand in: 2024-01-02, S2, 1, 22, 1."""
LONG = 1_000_000


def cell(column: int, text: str, line: int = ODD) -> str:
    """The good file with one other cell."""
    cells = LINES[line - 1].split(",")
    cells[column] = text
    return "\n".join([*LINES[: line - 1], ",".join(cells), *LINES[line:]]) + "\n"


def every(column: int, made: Callable[[str], str]) -> str:
    """The good file with one other column."""
    rows = [line.split(",") for line in LINES[1:]]
    for row in rows:
        row[column] = made(row[column])
    return "\n".join([LINES[0], *(",".join(row) for row in rows)]) + "\n"


def header(text: str) -> str:
    return "\n".join([text, *LINES[1:]]) + "\n"


def at(line: int, text: str) -> str:
    """The good file with a line put in."""
    return "\n".join([*LINES[: line - 1], text, *LINES[line - 1 :]]) + "\n"


def of(data: str | bytes, **source: Any) -> Callable[[Bench], Any]:
    """Deliver it as the csv that the customer reads."""

    def act(bench: Bench) -> Any:
        bench.put("feed.csv", data)
        return bench.take(make_customer(source={"uri": "feed.csv", **source}))

    return act


def kinds(family: str, table: dict[str, tuple[str | bytes, Any]]) -> Iterator[Kind]:
    for name, (data, end) in table.items():
        yield Kind(family, name, of(data), end)


def with_value(column: str, value: float) -> Same:
    """The odd line holds this instead."""

    def change(rows: pd.DataFrame) -> pd.DataFrame:
        odd = (rows["day"] == pd.Timestamp("2024-01-02")) & (rows["store"] == "S2")
        rows.loc[odd, column] = value
        return rows

    return Same(change)


def with_key(value: str) -> Same:
    """All of the second store's lines bear this name."""

    def change(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.assign(store=rows["store"].where(rows["store"] != "S2", value))

    return Same(change)


# --- bytes and lines ------------------------------------------------------------------------------------------------

_raw = GOOD.encode()
BYTES: dict[str, tuple[str | bytes, Any]] = {
    "empty file": ("", refused("feed.csv", "is empty", "delivered again")),
    "blank lines only": ("\n\n \n", refused("feed.csv", "is empty")),
    "header only": (LINES[0] + "\n", refused("feed.csv", "line 1", "not one row")),
    "cut inside the last cell": (GOOD[:-1], refused("feed.csv, line 47", "no line end", "cut")),
    "cut inside a line": (GOOD[:-8], refused("feed.csv, line 47", "cut", "Ask for it again")),
    "cut inside a line, line end added": (GOOD[:-8] + "\n", refused("feed.csv, line 47", "cells, expected 5")),
    "cut after a line, days lost": (GOOD[: GOOD.index("2024-01-12")], broken("2024-01-11", "expected 2024-01-16")),
    "cut to one line": ("\n".join(LINES[:2]) + "\n", broken("delivered_up_to_cutoff", "2024-01-01")),
    "Latin-1": (cell(ITEM, "caffè").encode("latin-1"), refused("feed.csv, line 5, byte", "not utf-8", "encoding")),
    "Windows-1252": (cell(ITEM, "5€").encode("cp1252"), refused("line 5, byte", "not utf-8", "cp1252")),
    "UTF-16": (GOOD.encode("utf-16"), refused("line 1, byte 1", "not utf-8", "utf-16")),
    "UTF-16 without its mark": (GOOD.encode("utf-16-le"), refused("feed.csv, line 1", "NUL")),
    "byte order mark": (b"\xef\xbb\xbf" + _raw, refused("line 1", "byte order mark", "utf-8-sig")),
    "half a character": (_raw[:60] + b"\xe2\x82" + _raw[60:], refused("line 3, byte", "not utf-8")),
    "surrogates as UTF-8": (_raw.replace(b",1,22,", b",\xed\xa0\x80,22,"), refused("line 5, byte", "not utf-8")),
    "overlong UTF-8": (_raw.replace(b",1,22,", b",\xc0\xb1,22,"), refused("line 5, byte", "not utf-8")),
    "NUL within": (_raw.replace(b",22,", b",2\x002,"), refused("line 5", "NUL characters")),
    "NULs at the end": (_raw + bytes(512), refused("line 48", "NUL characters")),
    "control-Z at the end": (_raw + b"\x1a", refused("line 48", "no line end")),
    "random bytes": (bytes(range(256)) * 4, refused("feed.csv", "not utf-8")),
    "a parquet file": (b"PAR1\x15\x04\x15\x10", refused("feed.csv")),
    "a zip archive": (b"PK\x03\x04\x14\x00\x00\x00\x08\x00\n", refused("feed.csv")),
    "an HTML error page": ("<html><body>503 Service Unavailable</body></html>\n", refused("line 1", "no column 'day'")),
    "JSON lines": ('{"day": "2024-01-01", "qty": 1}\n' * 3, refused("line 1", "no column")),
    "JSON array": ('[{"day": "2024-01-01"}]\n', refused("line 1", "no column 'day'")),
}

TEXT: dict[str, tuple[str | bytes, Any]] = {
    "a cell too few": (at(5, "2024-01-02,S2,1"), refused("line 5", "3 cells, expected 5", "2024-01-02")),
    "a cell too many": (at(5, "2024-01-02,S2,1,22,1,9"), refused("line 5", "6 cells, expected 5")),
    "delimiter at every line's end": (GOOD.replace("\n", ",\n").replace(",\n", "\n", 1), refused("line 2", "6 cells")),
    "blank line within": (at(5, ""), refused("line 5", "cells, expected 5")),
    "blank line at the end": (GOOD + "\n", Same()),
    "line of blanks": (at(5, "   "), refused("line 5", "1 cells, expected 5")),
    "only delimiters": (at(5, ",,,,"), Quarantined("required_day")),
    "comment line": (at(2, "# exported by till 7"), refused("line 2", "1 cells, expected 5")),
    "line of totals": (GOOD + "Total,,,5037,\n", Quarantined("required_day")),
    "blank line above the header": ("\n" + GOOD, refused("feed.csv, line 1", "is empty", "expected the header")),
    "title above the header": (at(1, "Sales report 2024"), refused("line 1", "no column 'day'")),
    "header again within": (at(20, LINES[0]), refused("line 20", "'qty'", "no number")),
    "semicolons": (GOOD.replace(",", ";"), refused("line 1", "no column 'day'", "delimiter ';'")),
    "tabs": (GOOD.replace(",", "\t"), refused("line 1", "no column 'day'", "delimiter '\\t'")),
    "pipes": (GOOD.replace(",", "|"), refused("line 1", "delimiter '|'")),
    "one line of semicolons": (at(5, "2024-01-02;S2;1;22;1"), refused("line 5", "1 cells, expected 5")),
    "open quote": (GOOD.replace(",1,22,", ',"1,22,'), refused("line 5", "quoted cell")),
    "quoted line end": (GOOD.replace(",1,22,", ',"1\n",22,'), refused("line 5", "quoted cell", "one record a line")),
    "quote inside a cell": (
        cell(ITEM, '1"2'),
        Same(
            lambda rows: rows.assign(
                item=np.where(
                    (rows["day"] == pd.Timestamp("2024-01-02")) & (rows["store"] == "S2"), '1"2', rows["item"]
                )
            )
        ),
    ),
    "text behind a quoted cell": (cell(QTY, '"22"x'), refused("line 5", "column 4 (qty)", "'22x'")),
    "all cells quoted": ("".join(",".join(f'"{c}"' for c in line.split(",")) + "\n" for line in LINES), Same()),
    "single quotes": (cell(QTY, "'22'"), refused("line 5", "column 4 (qty)", "no number")),
    "Windows line ends": (GOOD.replace("\n", "\r\n"), Same()),
    "mixed line ends": (GOOD.replace("\n", "\r\n", 9), Same()),
    "old Mac line ends": (GOOD.replace("\n", "\r"), refused("feed.csv", "line")),
    "one carriage return within": (GOOD.replace(",22,", ",22\r,"), refused("feed.csv, line 5")),
    "two carriage returns a line": (GOOD.replace("\n", "\r\r\n"), refused("feed.csv, line")),
    "Unicode line separator": (cell(QTY, "22\u2028"), refused("line 5", "column 4 (qty)", "no number")),
    "form feed between pages": (at(24, "\f"), refused("line 24", "1 cells, expected 5")),
    "a million characters in a number": (cell(QTY, "9" * LONG), Quarantined("finite_qty")),
    "a million characters in a key": (cell(ITEM, "x" * LONG), Quarantined("usable_item")),
    "a million characters in a day": (cell(DAY, "2" * LONG), Quarantined("required_day")),
    "a million characters in a header": (header(LINES[0] + "," + "x" * LONG), refused("line", "expected 6")),
}

HEADERS: dict[str, tuple[str | bytes, Any]] = {
    "renamed": (GOOD.replace("qty", "qtty"), refused("line 1", "no column 'qty'", "mean 'qtty'", "source.names")),
    "translated": (header("tag,filiale,artikel,menge,aktion"), refused("line 1", "no column 'day'", "Columns: tag")),
    "doubled": (GOOD.replace("promo", "qty", 1), refused("line 1", "'qty'", "columns 4 and 5", "once")),
    "doubled, not read": ("\n".join(f"{line},a,a" for line in LINES).replace(",a,a", ",note,note", 1) + "\n",
                          refused("line 1", "'note'", "once")),
    "empty": (header("day,store,item,,promo"), refused("line 1", "no column 'qty'")),
    "all empty": (header(",,,,"), refused("line 1", "''", "once")),
    "in capitals": (header(LINES[0].upper()), refused("line 1", "no column 'day'", "DAY")),
    "with blanks": (header(LINES[0].replace(",", ", ")), refused("line 1", "no column 'store'", "mean ' store'")),
    "with a no-break space": (header(LINES[0].replace("qty", "qty\u00a0")), refused("no column 'qty'")),
    "quoted twice": (header(LINES[0].replace("qty", '"""qty"""')), refused("no column 'qty'")),
    "missing": ("\n".join(LINES[1:]) + "\n", refused("line 1", "no column 'day'", "2024-01-01")),
    "a column lost": ("".join(line.rpartition(",")[0] + "\n" for line in LINES), refused("line 1", "column 'promo'")),
    "a column added": ("".join(f"{line},x\n" for line in LINES).replace(",x", ",note", 1), Same()),
    "in another order": ("".join(",".join(line.split(",")[::-1]) + "\n" for line in LINES), Same()),
    "two swapped": (header("day,store,item,promo,qty"), broken("promo_is_a_flag", "promo")),
    "longer than the rows": (header(LINES[0] + ",note"), refused("line 2", "5 cells, expected 6")),
    "shorter than the rows": (header("day,store,item,qty"), refused("line 1", "no column 'promo'")),
    "ten thousand columns more": ("".join(
        f"{line},{','.join(f'c{i}' if n == 0 else '0' for i in range(10_000))}\n" for n, line in enumerate(LINES)),
        Same()),
    "ten thousand columns, none ours": (",".join(f"c{i}" for i in range(10_000)) + "\n" + ",".join(["0"] * 10_000)
                                        + "\n", refused("line 1", "no column 'day'", "10000 in all")),
    "SQL in a header": (header(LINES[0].replace("qty", "qty; DROP TABLE x")), refused("no column 'qty'")),
}  # fmt: skip


# --- numbers --------------------------------------------------------------------------------------------------------


def no_number(text: str, *words: str) -> tuple[str, Any]:
    return cell(QTY, text), refused("feed.csv, line 5", "column 4 (qty)", "no number", *words)


NUMBERS: dict[str, tuple[str | bytes, Any]] = {
    "decimal comma": no_number('"22,5"', "'22,5'", "source.decimal"),
    "decimal comma, everywhere": (every(QTY, lambda q: f'"{q},0"'), refused("line 2", "'11,0'", "source.decimal")),
    "thousands by comma": no_number('"1,022"'),
    "thousands by blank": no_number("1 022"),
    "thousands by no-break space": no_number("1\u00a0022"),
    "thousands by apostrophe": no_number("1'022"),
    "thousands and decimals": no_number('"1,022.50"'),
    "thousands by underscore": no_number("1_022"),
    "two decimal points": no_number("1.022.5"),
    "currency before": no_number("€22"),
    "currency behind": no_number("22 EUR"),
    "dollars": no_number("$22.00"),
    "unit behind": no_number("22kg"),
    "percent": no_number("22%"),
    "fraction": no_number("1/2"),
    "accountant's negative": no_number("(22)"),
    "trailing minus": no_number("22-"),
    "Unicode minus": no_number("\u221222"),
    "dash for none": no_number("-"),
    "hexadecimal": no_number("0x16"),
    "hexadecimal float": no_number("0x1.6p4"),
    "octal": no_number("0o26"),
    "double exponent": no_number("2e2e2"),
    "FORTRAN exponent": no_number("2.2D1"),
    "full-width digits": no_number("２２"),
    "Arabic digits": no_number("٢٢"),
    "a word": no_number("many"),
    "boolean as text": no_number("true"),
    "N/A": no_number("N/A"),
    "NULL as text": no_number("NULL"),
    "None as text": no_number("None"),
    "question mark": no_number("?"),
    "spreadsheet error": no_number("#DIV/0!"),
    "spreadsheet formula": no_number("=11+11"),
    "overflow mark": no_number("####"),
    "HTML": no_number("<b>22</b>"),
    "a day in its place": no_number("2024-01-02"),
    "empty": (cell(QTY, ""), Quarantined("required_qty")),
    "empty, everywhere": (every(QTY, lambda _: ""), broken("delivered_up_to_cutoff", "no day with qty")),
    "empty text in quotes": (cell(QTY, '""'), Quarantined("required_qty")),
    "NaN": (cell(QTY, "NaN"), Quarantined("required_qty")),
    "nan": (cell(QTY, "nan"), Quarantined("required_qty")),
    "-nan": (cell(QTY, "-nan"), Quarantined("required_qty")),
    "inf": (cell(QTY, "inf"), Quarantined("finite_qty")),
    "-inf": (cell(QTY, "-inf"), Quarantined("finite_qty")),
    "Infinity": (cell(QTY, "Infinity"), Quarantined("finite_qty")),
    "infinite everywhere": (every(QTY, lambda _: "inf"), broken("finite_qty", "a finite number", "data-owner")),
    "beyond floats": (cell(QTY, "1e400"), Quarantined("finite_qty")),
    "1e300": (cell(QTY, "1e300"), Quarantined("qty_in_range")),
    "-1e300": (cell(QTY, "-1e300"), Quarantined("qty_in_range")),
    "twenty digits": (cell(QTY, "12345678901234567890"), Quarantined("qty_in_range")),
    "negative": (cell(QTY, "-22"), Quarantined("qty_in_range")),
    "negative, everywhere": (every(QTY, lambda q: f"-{q}"), broken("qty_in_range", "line 2", "between: 0 to 1000")),
    "out of range, a tenth and more": (every(QTY, lambda q: q.replace("1", "9999")), broken("qty_in_range")),
    "1e-300": (cell(QTY, "1e-300"), with_value("qty", 1e-300)),
    "minus zero": (cell(QTY, "-0"), with_value("qty", 0.0)),
    "plus sign": (cell(QTY, "+22"), Same()),
    "exponent": (cell(QTY, "2.2e1"), Same()),
    "blanks around": (cell(QTY, " 22 "), Same()),
    "leading zeros": (cell(QTY, "0022"), Same()),
    "thousands by a point": (cell(QTY, "1.022"), with_value("qty", 1.022)),
    "flag out of its set": (cell(PROMO, "7"), Quarantined("promo_is_a_flag")),
    "flag as a word": (cell(PROMO, "yes"), refused("line 5", "column 5 (promo)", "'yes'")),
}


# --- days -----------------------------------------------------------------------------------------------------------


def no_day(text: str) -> tuple[str, Any]:
    return cell(DAY, text), Quarantined("required_day")


def no_days(made: Callable[[str], str], example: str) -> tuple[str, Any]:
    words = ("feed.csv, line 2", "column 1 (day)", repr(example), "'%Y-%m-%d'", "source.date_format")
    return every(DAY, made), refused(*words)


DAYS: dict[str, tuple[str | bytes, Any]] = {
    "US, everywhere": no_days(lambda d: f"{d[5:7]}/{d[8:]}/{d[:4]}", "01/01/2024"),
    "European, everywhere": no_days(lambda d: f"{d[8:]}.{d[5:7]}.{d[:4]}", "01.01.2024"),
    "with a time, everywhere": no_days(lambda d: f"{d}T00:00:00", "2024-01-01T00:00:00"),
    "with a zone, everywhere": no_days(lambda d: f"{d}T00:00:00+02:00", "2024-01-01T00:00:00+02:00"),
    "without dashes, everywhere": no_days(lambda d: d.replace("-", ""), "20240101"),
    "spreadsheet serials, everywhere": no_days(lambda d: str(45291 + int(d[8:])), "45292"),
    "Unix seconds, everywhere": no_days(lambda d: str(1704067200 + 86400 * int(d[8:])), "1704153600"),
    "two-digit years, everywhere": no_days(lambda d: d[2:], "24-01-01"),
    "month names, everywhere": no_days(lambda d: f"{d[8:]} Jan {d[:4]}", "01 Jan 2024"),
    "week numbers, everywhere": no_days(lambda d: f"2024-W{int(d[8:]):02d}-1", "2024-W01-1"),
    "empty, everywhere": (every(DAY, lambda _: ""), broken("there is no day", "required_day: 46 of 46")),
    "one US": no_day("01/02/2024"),
    "one European": no_day("02.01.2024"),
    "one with a time": no_day("2024-01-02 00:00:00"),
    "one with a zone": no_day("2024-01-02Z"),
    "one serial": no_day("45293"),
    "two-digit year": no_day("24-01-02"),
    "year and month": no_day("2024-01"),
    "empty": no_day(""),
    "30 February": no_day("2024-02-30"),
    "29 February of no leap year": no_day("2023-02-29"),
    "month 13": no_day("2024-13-01"),
    "day 0": no_day("2024-01-00"),
    "0000-00-00": no_day("0000-00-00"),
    "year 9999": no_day("9999-12-31"),
    "year 12024": no_day("12024-01-02"),
    "year 1": no_day("0001-01-01"),
    "after 2262": no_day("2300-01-01"),
    "before Christ": no_day("-2976-01-02"),
    "blanks around": no_day(" 2024-01-02 "),
    "the word now": no_day("now"),
    "the word today": no_day("today"),
    "the word NaT": no_day("NaT"),
    "a word": no_day("yesterday"),
    "full-width digits": no_day("２０２４-01-02"),
    "slashes": no_day("2024/01/02"),
    "without leading zeros": (cell(DAY, "2024-1-2"), Same()),
    "1850": (cell(DAY, "1850-01-02"), broken("days_of_our_time", "1850-01-02", "2023-01-01")),
    "1899-12-30, a spreadsheet's zero": (cell(DAY, "1899-12-30"), broken("days_of_our_time", "1899-12-30")),
    "1970-01-01, a computer's zero": (cell(DAY, "1970-01-01"), broken("days_of_our_time", "1970-01-01")),
}


# --- keys -----------------------------------------------------------------------------------------------------------


def no_key(text: str, rule: str = "usable_item") -> tuple[str, Any]:
    return cell(ITEM, text), Quarantined(rule)


def a_key(text: str) -> tuple[str, Any]:
    quoted = '"' + text.replace('"', '""') + '"'
    return every(STORE, lambda s: quoted if s == "S2" else s), with_key(text)


KEYS: dict[str, tuple[str | bytes, Any]] = {
    "empty": no_key("", "required_item"),
    "empty, everywhere": (every(ITEM, lambda _: ""), broken("required_item", "item is empty")),
    "blank": no_key(" "),
    "blanks around": no_key(" 1 "),
    "tab behind": no_key("1\t"),
    "no-break space behind": no_key("1\u00a0"),
    "zero-width space": no_key("1\u200b"),
    "right-to-left override": no_key("\u202e1"),
    "byte order mark within": no_key("\ufeff1"),
    "soft hyphen": no_key("1\u00ad1"),
    "escape sequence": no_key("\x1b[31m1"),
    "bell": no_key("\x07"),
    "delete": no_key("1\x7f"),
    "line separator": no_key("1\u2028"),
    "private use character": no_key("\ue000"),
    "no character": no_key("\ufffe"),
    "101 characters": no_key("x" * 101),
    "everywhere unusable": (every(ITEM, lambda i: f"{i}\x07"), broken("usable_item", "printable")),
    "slash": a_key("S/2"),
    "percent": a_key("S%2F2"),
    "backslash": a_key("S\\2"),
    "quotes": a_key("S\"2'"),
    "delimiter": a_key("S,2"),
    "path out": a_key("../../etc/passwd"),
    "dots": a_key(".."),
    "SQL": a_key("'; DROP TABLE forecasting.run; --"),
    "HTML": a_key("<script>alert(1)</script>"),
    "spreadsheet formula": a_key("=HYPERLINK(1)"),
    "format string": a_key("{0.__class__} %s"),
    "emoji": a_key("🍝"),
    "right to left": a_key("חנות"),
    "combining": a_key("cafe\u0301"),
    "the word null": a_key("NULL"),
    "the word nan": a_key("nan"),
    "a number": a_key("1e5"),
    "leading zeros": a_key("007"),
    "100 characters": a_key("x" * 100),
    "name of a node": a_key("total"),
}


# --- what stands where the file should ------------------------------------------------------------------------------


def _folder(bench: Bench) -> Any:
    (bench.folder / "feed.csv").mkdir()
    return bench.take()


def _pipe(bench: Bench) -> Any:
    os.mkfifo(bench.folder / "feed.csv")
    return bench.take()


def _link_out(bench: Bench) -> Any:
    outside = bench.folder / "outside"
    outside.mkdir()
    (outside / "feed.csv").write_text(GOOD)
    inner = Bench(bench.folder / "inner")
    inner.folder.mkdir()
    (inner.folder / "feed.csv").symlink_to(outside / "feed.csv")
    return inner.take()


def _link_to_itself(bench: Bench) -> Any:
    (bench.folder / "feed.csv").symlink_to("feed.csv")
    return bench.take()


def _nothing(bench: Bench) -> Any:
    bench.put("sales.csv", GOOD)
    return bench.take(make_customer(source={"uri": "sale.csv"}))


def _name(uri: str) -> Callable[[Bench], Any]:
    return lambda bench: bench.take(make_customer(source={"uri": uri}))


def _too_large(bench: Bench) -> Any:
    bench.put("feed.csv", GOOD)
    return bench.take(make_customer(source={"uri": "feed.csv", "max_bytes": 500}))


def _too_many(bench: Bench) -> Any:
    bench.put("feed.csv", GOOD)
    return bench.take(make_customer(source={"uri": "feed.csv", "max_rows": 40}))


PLACES = (
    Kind("deliveries", "no file", _nothing, Refused(SourceUnavailableError, ("sale.csv", "mean 'sales.csv'"))),
    Kind("deliveries", "a folder", _folder, Refused(SourceUnavailableError, ("feed.csv", "no such file"))),
    Kind("deliveries", "a pipe", _pipe, Refused(SourceUnavailableError, ("feed.csv", "no such file"))),
    Kind("deliveries", "a link out", _link_out, Refused(ConfigurationError, ("feed.csv", "leads out"))),
    Kind("deliveries", "a link to itself", _link_to_itself, Refused(SourceUnavailableError, ("feed.csv",))),
    Kind("deliveries", "a path out", _name("../feed.csv"), Refused(ConfigurationError, ("'../feed.csv'", "leads out"))),
    Kind("deliveries", "a NUL in its name", _name("a\0b.csv"), Refused(ConfigurationError, ("source.uri",))),
    Kind("deliveries", "a name too long", _name("x" * 300 + ".csv"), Refused(SourceUnavailableError, ("xxx",))),
    Kind("bytes", "more bytes than declared", _too_large, Refused(SourceError, ("feed.csv", "max_bytes, 500"))),
    Kind("bytes", "more rows than declared", _too_many, Refused(SourceError, ("feed.csv", "max_rows, 40"))),
    Kind("bytes", "an unknown encoding", of(GOOD, encoding="utf-9"),
         Refused(ConfigurationError, ("source.encoding 'utf-9'",))),
    Kind("bytes", "an encoding of bytes, not text", of(GOOD, encoding="hex"),
         Refused(ConfigurationError, ("source.encoding 'hex'",))),
    Kind("bytes", "another encoding than declared", of(cell(ITEM, "caffè"), encoding="ascii"),
         Refused(SourceError, ("line 5, byte", "not ascii"))),
    Kind("bytes", "UTF-16 declared, UTF-8 delivered", of(GOOD, encoding="utf-16"), Refused(SourceError, ("feed.csv",))),
    Kind("numbers", "decimal comma declared, a point delivered", of(cell(QTY, "22.5"), decimal=","),
         Refused(SourceError, ("line 5", "column 4 (qty)", "source.decimal"))),
)  # fmt: skip


def _doubled_names(bench: Bench) -> Any:
    bench.put("feed.csv", "".join(f"{line},{n or 'menge'}\n" for n, line in enumerate(LINES)))
    return bench.take(make_customer(source={"uri": "feed.csv", "names": {"qty": ["qty", "menge"]}}))


def _swapped(bench: Bench) -> Any:
    bench.put("feed.csv", header("day,store,qty,item,promo"))
    rule = """\
      - name: known_items
        type: custom
        engine: greatExpectations
        severity: error
        implementation: |
          type: expect_column_values_to_be_in_set
          kwargs: {column: item, value_set: ["1"], mostly: 0.9}
      - name: enough_rows
"""
    return bench.take(contract=TOLERANT.replace("      - name: enough_rows\n", rule))


def _unbounded(bench: Bench) -> Any:
    bench.put("feed.csv", cell(QTY, "1e300"))
    return bench.take(
        contract=TOLERANT.replace("{column: qty, min_value: 0, max_value: 1000,", "{column: promo, min_value: 0,")
    )


KINDS: tuple[Kind, ...] = (
    *kinds("bytes", BYTES),
    *kinds("text", TEXT),
    *kinds("headers", HEADERS),
    Kind("headers", "old and new name at once", _doubled_names, refused("line 1", "'qty' and 'menge'", "one of them")),
    Kind("numbers", "1e300, a contract without a range", _unbounded, Quarantined("publishable_qty")),
    Kind("headers", "key and number swapped", _swapped, broken("known_items", "item = 11", "in set: 1")),
    *kinds("numbers", NUMBERS),
    *kinds("days", DAYS),
    *kinds("keys", KEYS),
    *PLACES,
)
