"""Excel workbooks: the values that a table holds, and the ways in which it may hold none."""

from __future__ import annotations

import io
import re
import tracemalloc
import zipfile
import zlib
from datetime import date, datetime

import openpyxl
import pandas as pd
import pytest
from openpyxl.utils.datetime import CALENDAR_MAC_1904

from forecasting.data.sources import Access, place, pull
from forecasting.errors import SourceError

from .conftest import UNTIL, WIDE, long_csv, make_customer, wide_csv

GOOD = long_csv()


def typed(cell: str):
    """A cell as Excel would hold it."""
    if re.fullmatch(r"\d{4}-\d\d-\d\d", cell):
        return date.fromisoformat(cell)
    return float(cell) if re.fullmatch(r"-?[0-9.]+", cell) else cell


def workbook(text: str = GOOD, edit=None, sheet: str = "Sales", **properties) -> bytes:
    """The table as a workbook; ``edit`` changes its sheet."""
    book = openpyxl.Workbook()
    page = book.active
    page.title = sheet
    for line in text.splitlines():
        page.append([typed(cell) for cell in line.split(",")])
    for name, value in properties.items():
        setattr(book, name, value)
    if edit:
        edit(page)
    sink = io.BytesIO()
    book.save(sink)
    return sink.getvalue()


def put(cell: str, value):
    def edit(page):
        page[cell] = value

    return edit


def patched(data: bytes, old: bytes, new: bytes, member: str = "xl/worksheets/sheet1.xml") -> bytes:
    """The workbook with ``old`` replaced in one member's text."""
    source, sink = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with source, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as target:
        for one in source.infolist():
            text = source.read(one)
            assert one.filename != member or old in text
            target.writestr(one.filename, text.replace(old, new) if one.filename == member else text)
    return sink.getvalue()


@pytest.fixture
def read(tmp_path):
    def pulled(data: bytes, until: date = UNTIL, **source):
        (tmp_path / "f.xlsx").write_bytes(data)
        changes = {key: source.pop(key) for key in ("time_zone", "columns", "exogenous") if key in source}
        customer = make_customer(source={"uri": "f.xlsx", "kind": "xlsx", **source}, **changes)
        return pull(customer, access=Access(tmp_path), until=until)

    return pulled


@pytest.fixture
def want(tmp_path):
    (tmp_path / "feed.csv").write_text(GOOD)
    return pull(make_customer(), access=Access(tmp_path), until=UNTIL).rows


def hide(page):
    page.row_dimensions[5].hidden = True
    page.column_dimensions["D"].hidden = True
    page.auto_filter.ref = "A1:E47"


def serial(page):
    for n in range(2, 48):
        page[f"A{n}"].number_format = "General"


def beside(page):
    """A note that nobody declared, and formats below the table."""
    page["F1"] = "note"
    page["F9"] = "#N/A is fine here"
    page["A60"].number_format = "0.00"


SAME = {
    "plain": workbook(),
    "texts for dates": workbook(edit=lambda page: [put(f"A{n}", str(page[f"A{n}"].value)[:10])(page) for n in (2, 9)]),
    "texts for numbers": workbook(edit=put("D2", "11")),
    "hidden rows, columns and filters": workbook(edit=hide),
    "other columns and formats": workbook(edit=beside),
    "the epoch of 1904": workbook(epoch=CALENDAR_MAC_1904),
    "times": workbook(edit=put("A2", datetime(2024, 1, 1, 23, 59, 59))),  # noqa: DTZ001
}


@pytest.mark.parametrize("data", SAME.values(), ids=SAME.keys())
def test_a_sheet_reads_as_the_csv(read, want, data):
    got = read(data)
    pd.testing.assert_frame_equal(got.rows, want)
    assert place(got.rows["line"].iloc[0], make_customer(source={"uri": "f", "kind": "xlsx"})) == "row 2"


def test_a_wide_sheet_melts_as_the_csv(read, tmp_path):
    (tmp_path / "feed.csv").write_text(wide_csv())
    wide = pull(make_customer(source=WIDE), access=Access(tmp_path), until=UNTIL).rows
    got = read(workbook(wide_csv()), wide=WIDE["wide"]).rows
    pd.testing.assert_frame_equal(got, wide)
    customer = make_customer(source={**WIDE, "uri": "f.xlsx", "kind": "xlsx"})
    assert place(got["line"].iloc[1], customer) == "row 2, column 3"


def test_decimal_commas_and_texts_are_read_as_declared(read):
    rows = read(workbook(edit=put("D2", "1,5")), decimal=",").rows
    assert rows["qty"].iloc[0] == 1.5
    rows = read(workbook(edit=lambda page: [put("C2", "007")(page), put("C3", True)(page), put("C4", None)(page)])).rows
    assert list(rows["item"][:4]) == ["007", "true", None, "1"]
    rows = read(workbook(edit=put("D2", None))).rows
    assert rows["qty"].isna().iloc[0]


def test_the_declared_sheet_is_read(read, want):
    def more(page):
        page.parent.create_sheet("Notes")["A1"] = "x"

    data = workbook(edit=more)
    pd.testing.assert_frame_equal(read(data, sheet="Sales").rows, want)
    with pytest.raises(SourceError, match=r"f.xlsx: holds 2 sheets: 'Sales', 'Notes'; declare source.sheet"):
        read(data)
    with pytest.raises(SourceError, match=r"no sheet 'Sale'. Did you mean 'Sales'\?"):
        read(data, sheet="Sale")


def ole(marker: str = "") -> bytes:
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600) + marker.encode("utf-16-le") + bytes(600)


def empty_zip() -> bytes:
    sink = io.BytesIO()
    zipfile.ZipFile(sink, "w").close()
    return sink.getvalue()


plain = workbook()
ERROR = patched(workbook(edit=put("D7", 7.25)), b' t="n"><v>7.25</v>', b' t="e"><v>#DIV/0!</v>')
FAR = patched(plain, b'r="E47"', b'r="XFD1048576"')
BAD = {
    "empty file": (b"", ["f.xlsx: is no xlsx workbook"]),
    "a csv": (GOOD.encode(), ["is no xlsx workbook", "b'day,'", "source.kind"]),
    "legacy xls": (ole(), ["(.xls)", "saved as .xlsx"]),
    "password": (ole("EncryptedPackage"), ["protected by a password"]),
    "another zip": (empty_zip(), ["is a zip archive and no xlsx"]),
    "cut": (plain[:-400], ["is not whole", "transfer was cut"]),
    "flipped byte": (plain[:600] + bytes([plain[600] ^ 4]) + plain[601:], ["f.xlsx", "ask for it"]),
    "error cell": (ERROR, ["sheet 'Sales'", "row 7", "cell D7", "#DIV/0!"]),
    "formula never calculated": (workbook(edit=put("D7", "=1+1")), ["cell D7", "never calculated", "save "]),
    "word for a number": (workbook(edit=put("D7", "many")), ["row 7", "cell D7 (qty)", "'many'", "decimal mark '.'"]),
    "decimal comma": (workbook(edit=put("D7", "1,5")), ["cell D7 (qty)", "'1,5'"]),
    "date for a number": (workbook(edit=put("D7", date(2024, 1, 5))), ["cell D7 (qty)", "'2024-01-05'", "a number"]),
    "fraction for a key": (workbook(edit=put("C7", 1.5)), ["cell C7 (item)", "1.5", "as text"]),
    "serial numbers for dates": (workbook(edit=serial),
                                 ["cell A2 (day)", "'45292'", "a date"]),
    "no header": (workbook(edit=lambda page: page.insert_rows(1)), ["row 1", "is empty", "A1"]),
    "doubled header": (workbook(edit=put("E1", "qty")), ["row 1", "'qty'", "D1 and E1", "once"]),
    "unnamed column": (workbook(edit=lambda page: [put("C1", None)(page)]), ["row 1", "cell C1 is empty"]),
    "renamed column": (workbook(edit=put("D1", "qtty")), ["row 1", "no column 'qty'", "mean 'qtty'"]),
    "merged cells": (workbook(edit=lambda page: page.merge_cells("B4:B5")), ["row 4", "B4:B5 are merged"]),
    "merged header": (workbook(edit=lambda page: page.merge_cells("D1:E1")), ["row 1", "cell E1 is empty"]),
    "a total below a gap": (workbook(edit=put("D50", 999)), ["row 48", "is empty, and rows follow"]),
    "only a header": (workbook(GOOD.splitlines()[0]), ["row 1", "not one row"]),
    "nothing": (workbook(""), ["row 1", "is empty"]),
    "a cell far away": (FAR, ["1048576 rows and 16384 columns", "max_bytes"]),
}  # fmt: skip


@pytest.mark.parametrize(("data", "said"), BAD.values(), ids=BAD.keys())
def test_a_workbook_that_is_not_as_declared_is_refused(read, data, said):
    with pytest.raises(SourceError) as caught:
        read(data)
    assert all(part in str(caught.value) for part in said), str(caught.value)


def test_too_many_rows_are_refused_before_they_are_read(read):
    with pytest.raises(SourceError, match=r"spans 47 rows, more than source.max_rows, 40"):
        read(plain, max_rows=40)


def stuffed(size: int, lie: bool = False) -> bytes:
    """A workbook with a member of ``size`` spaces; where it lies, its directory says that it is small."""
    source, sink = zipfile.ZipFile(io.BytesIO(plain)), io.BytesIO()
    with source, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as target:
        for one in source.infolist():
            target.writestr(one.filename, source.read(one))
        target.writestr("xl/sharedStrings.xml", b" " * size)
    data = bytearray(sink.getvalue())
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)) if lie else ():
        at = data.rindex(mark) + offset
        data[at : at + 4] = (100).to_bytes(4, "little")
        data[at - 8 : at - 4] = zlib.crc32(b" " * 100).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("lie", [False, True], ids=["honest", "lying"])
def test_a_workbook_bomb_is_refused_within_bounded_memory(read, lie):
    data = stuffed(200_000_000, lie)
    assert len(data) < 250_000
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match=r"max_bytes|directory says"):
            read(data, max_bytes=5_000_000)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_text_shared_by_many_cells_counts_each_time(read):
    """One of 30 kB in 400 cells would be 12 MB."""
    cells = b"".join(b'<c r="F%d" t="s"><v>0</v></c>' % n for n in range(2, 402))
    data = patched(plain, b"</row></sheetData>", b"</row><row>" + cells + b"</row></sheetData>")
    source, sink = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with source, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as target:
        for one in source.infolist():
            if "sharedStrings" not in one.filename:
                target.writestr(one.filename, source.read(one))
        target.writestr("xl/sharedStrings.xml", b"<sst><si><t>" + b"x" * 30_000 + b"</t></si></sst>")
    with pytest.raises(SourceError, match=r"would take more than source.max_bytes"):
        read(sink.getvalue(), max_bytes=5_000_000)


def test_a_flipped_byte_is_never_read(read, want):
    silent = 0
    for at in range(0, len(plain), 37):
        data = plain[:at] + bytes([plain[at] ^ 0x10]) + plain[at + 1 :]
        try:
            got = read(data).rows
        except SourceError:
            continue
        silent += not got.equals(want)
    assert silent == 0
