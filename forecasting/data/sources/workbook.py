"""Excel workbooks, strictly: one sheet, whose cells are values; what Excel could not calculate is refused by its cell.

The archive is checked before the workbook is opened: what a small file unpacks to, and how far its cells are spread.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from datetime import date, datetime
from functools import cached_property
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from forecasting.data.sources import clock, values
from forecasting.data.sources.table import repeated
from forecasting.data.sources.text import is_number
from forecasting.errors import SourceError, near_miss
from forecasting.feed import XlsxSource

__all__ = ["Sheet"]

_AGAIN = "The transfer was cut, or the file is damaged: ask for it to be delivered again"
_CELL_BYTES = 64
"""Least memory that a cell takes once it is read, also an empty one between others."""
# as every writer of workbooks spells attributes, and as XML allows: the first is five times as quick
_REF = re.compile(rb' r="([A-Za-z]{1,9})[0-9]'), re.compile(rb"""\sr\s*=\s*["']([A-Za-z]{1,9})[0-9]""")
_ROW = re.compile(rb' r="[A-Za-z]{0,9}([0-9]{1,9})"'), re.compile(rb"""\sr\s*=\s*["'][A-Za-z]{0,9}([0-9]{1,9})["']""")
_UNUSUAL = [
    b"\tr=",
    b"\nr=",
    b"\rr=",
    b" r='",
    b" r ",
    b" r\t",
    b" r\n",
    b" r\r",
    b" r= ",
    b" r=\t",
    b" r=\n",
    b" r=\r",
]
_NAMED = rb"""(?:[^>]*\sr\s*=\s*["']([A-Z]+[0-9]+)["'])?[^>]*>"""
_ERROR = re.compile(rb"""<(?:\w+:)?c\b(?=[^>]*\st\s*=\s*["']e["'])""" + _NAMED)
_FORMULA = re.compile(
    rb"""<(?:\w+:)?c\b(?![^>]*\st\s*=\s*["']str["'])""" + _NAMED + rb"\s*"
    rb"<(?:\w+:)?f\b(?:[^>]*/>|[^>]*>[^<]*</(?:\w+:)?f>)\s*(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v></(?:\w+:)?v>)?\s*</"
)  # fmt: skip
_SHARED = re.compile(rb"""\st=["']s["'][^>]*>\s*<(?:\w+:)?v>([0-9]{1,9})<""")


class Sheet:
    """One sheet of a workbook, with its header in the first row."""

    first_line = 2

    def __init__(self, name: str, data: bytes, source: XlsxSource, zone: str) -> None:
        """Check the archive and read the sheet.

        Raises:
            SourceError: It is no workbook, damaged, beyond the budgets, or has no such sheet.
        """
        self.name, self.source, self.zone = name, source, zone
        self._refuse_other_formats(data)
        members = self._unpacked(data)
        self._rows, self._merged, sheet = self._read(data, members)
        self.name = f"{name}, sheet {sheet!r}"

    def error(self, line: int, message: str) -> SourceError:
        """The error to raise about a row of the sheet; 0: about the file."""
        return SourceError(f"{self.name}, row {line}: {message}" if line else f"{self.name}: {message}")

    # --- the archive ------------------------------------------------------------------------------------------------

    def _refuse_other_formats(self, data: bytes) -> None:
        if data.startswith(b"\xd0\xcf\x11\xe0"):
            if "EncryptedPackage".encode("utf-16-le") in data:
                raise self.error(0, "is protected by a password; ask for it without one")
            raise self.error(0, "is a workbook of Excel before 2007 (.xls); expected .xlsx. Ask for it saved as .xlsx")
        if not data.startswith(b"PK"):
            raise self.error(0, f"is no xlsx workbook: it begins with {data[:4]!r}; check source.kind, or ask again")

    def _unpacked(self, data: bytes) -> dict[str, bytes]:
        """What is looked at before the workbook is opened; every member is unpacked once, counted and its sum checked.

        The archive's own directory is not believed.
        """
        kept, total = {}, 0
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for member in archive.infolist():
                    total += member.file_size
                    if total > self.source.max_bytes:
                        raise self.error(
                            0, f"unpacks to more than source.max_bytes, {self.source.max_bytes} bytes; if it should, "
                            "raise max_bytes"
                        )  # fmt: skip
                    found = _inflated(data, member)
                    if member.filename.endswith((".xml", ".rels")):
                        kept[member.filename.lstrip("/").lower()] = found
        except (
            zipfile.BadZipFile,
            EOFError,
            zlib.error,
            OSError,
            ValueError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise self.error(0, f"is not whole ({error}). {_AGAIN}") from None
        if "xl/workbook.xml" not in kept:
            raise self.error(0, "is a zip archive and no xlsx workbook; check source.kind and source.compression")
        return kept

    def _read(self, data: bytes, members: dict[str, bytes]) -> tuple[list[list[Any]], list[Any], str]:
        import python_calamine as calamine

        with self._guarded(lambda: calamine.CalamineWorkbook.from_filelike(io.BytesIO(data))) as book:
            sheet = self._chosen([one.name for one in book.sheets_metadata if "WorkSheet" in str(one.typ)])
            xml = self._guarded(lambda: members[_path_of(sheet, members)])
            self._check_spread(sheet, xml, members)
            self._errors = _cells(_ERROR, xml) if re.search(rb"""["']e["']""", xml) else set()
            self._formulas = _cells(_FORMULA, xml) if b"<f" in xml or b":f" in xml else set()
            found = self._guarded(lambda: book.get_sheet_by_name(sheet))
            rows = self._guarded(lambda: found.to_python(skip_empty_area=False))
            return rows, found.merged_cell_ranges or [], sheet

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """What ``work`` returns; what the reader says of a damaged workbook, in our words."""
        try:
            return work()
        except BaseException as error:
            # a Rust library panics by an exception that is no Exception
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            said = " ".join(str(error).split())[:160]
            raise self.error(0, f"cannot be read: {type(error).__name__}: {said}. {_AGAIN}") from None

    def _chosen(self, sheets: list[str]) -> str:
        wanted = self.source.sheet
        if wanted is None and len(sheets) == 1:
            return sheets[0]
        shown = ", ".join(repr(sheet) for sheet in sheets[:12])
        if wanted is None:
            raise self.error(0, f"holds {len(sheets)} sheets: {shown}; declare source.sheet")
        if wanted not in sheets:
            raise self.error(0, f"there is no sheet {wanted!r}.{near_miss(wanted, sheets)} Sheets: {shown}")
        return wanted

    def _check_spread(self, sheet: str, xml: bytes, members: dict[str, bytes]) -> None:
        """Two cells in opposite corners take the room of all between them; a shared text that of each use."""
        unusual = any(spelling in xml for spelling in _UNUSUAL)
        width = max((_number(letters) for letters in set(_REF[unusual].findall(xml))), default=0)
        height = max((int(row) for row in set(_ROW[unusual].findall(xml))), default=0)
        if height - 1 > self.source.max_rows:
            raise self.error(
                0, f"sheet {sheet!r} spans {height} rows, more than source.max_rows, {self.source.max_rows}; if it "
                "should, raise max_rows, else delete the empty rows below the table"
            )  # fmt: skip
        texts = _texts_size(xml, members.get("xl/sharedstrings.xml", b""), self.source.max_bytes)
        if height * width * _CELL_BYTES + texts > self.source.max_bytes:
            raise self.error(
                0, f"sheet {sheet!r} spans {height} rows and {width} columns, which would take more than "
                f"source.max_bytes, {self.source.max_bytes} bytes; delete what stands outside the table, or raise it"
            )  # fmt: skip

    # --- cells ------------------------------------------------------------------------------------------------------

    @cached_property
    def header(self) -> list[str]:
        """The names in the first row, each once; empty columns behind the last are none."""
        row = [self._header(cell, n) for n, cell in enumerate(self._rows[0])] if self._rows else []
        while row and row[-1] is None and not self._holds(len(row) - 1):
            row.pop()
        if not row or not any(row):
            raise self.error(1, "is empty; expected the header. Ask for a table that begins in cell A1")
        for column, name in enumerate(row):
            if name is None:
                raise self.error(1, f"cell {_letters(column)}1 is empty: a column without a name; expected a name")
        names = [name for name in row if name is not None]
        twice = repeated(names)
        if twice is not None:
            cells = [f"{_letters(i)}1" for i, name in enumerate(names) if name == twice]
            raise self.error(1, f"header {twice!r} stands in cells {cells[0]} and {cells[1]}; expected each name once")
        return names

    def _header(self, cell: Any, column: int) -> str | None:
        self._refuse_uncalculated(column, {0})
        return _text(cell)

    def _holds(self, column: int) -> bool:
        return any(row[column] != "" for row in self._body)

    @cached_property
    def _body(self) -> list[list[Any]]:
        """The rows below the header, without empty ones behind the last."""
        rows = self._rows[1:]
        empty = [not any(cell != "" for cell in row) for row in rows]
        while rows and empty[len(rows) - 1]:
            rows.pop()
        if True in empty[: len(rows)]:
            raise self.error(
                empty.index(True) + 2, "is empty, and rows follow; expected one table without gaps and notes below it"
            )
        return rows

    def read(self, numbers: Sequence[str], texts: Sequence[str], days: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns by header: see :class:`forecasting.data.sources.table.Cells`."""
        at = {name: column for column, name in enumerate(self.header)}
        wanted = [at[name] for name in (*numbers, *texts, *days)]
        for column in wanted:
            self._refuse_uncalculated(column, range(1, len(self._body) + 1))
            self._refuse_merged(column)
        columns = list(zip(*self._body, strict=True)) or [()] * len(self.header)
        found = {name: self._numbers(columns[at[name]], at[name]) for name in numbers}
        found |= {name: self._texts(columns[at[name]], at[name]) for name in texts}
        return found | {name: self._days(columns[at[name]], at[name]) for name in days}

    def _refuse_uncalculated(self, column: int, rows: set[int] | range) -> None:
        """Refuse a cell that the reader would give as empty."""
        for cells, said in (
            (self._errors, "holds an error of a formula, such as #N/A or #DIV/0!; expected a value"),
            (
                self._formulas,
                "holds a formula that was never calculated; save the workbook in Excel, or deliver values",
            ),
        ):
            bad = min((row for row, at in cells if at in (column, None) and row in rows), default=None)
            if bad is not None:
                raise self.error(bad + 1, f"cell {_letters(column)}{bad + 1} {said}. Ask the data owner")

    def _refuse_merged(self, column: int) -> None:
        for (top, left), (bottom, right) in self._merged:
            if left <= column <= right:
                shown = f"{_letters(left)}{top + 1}:{_letters(right)}{bottom + 1}"
                raise self.error(top + 1, f"cells {shown} are merged, so all but one are empty; ask for them unmerged")

    def _wrong(self, cells: Sequence[Any], column: int, row: int, expected: str) -> SourceError:
        name = f"cell {_letters(column)}{row + 2} ({self.header[column]})"
        return self.error(row + 2, f"{name} holds {_shown(cells[row])}; expected {expected}")

    def _numbers(self, cells: Sequence[Any], column: int) -> np.ndarray:
        decimal = self.source.decimal
        known = {cell: self._number(cell) for cell in {cell for cell in cells if type(cell) is str}}
        odd = {type(cell) for cell in cells} - {float, int, bool, str}
        if odd or None in known.values():
            row = next(i for i, cell in enumerate(cells) if type(cell) in odd or known.get(cell, 0.0) is None)
            raise self._wrong(cells, column, row, f"a number, or its text with decimal mark {decimal!r}")
        if known:
            cells = [known[cell] if type(cell) is str else cell for cell in cells]
        return np.array(cells, dtype="float64")

    def _number(self, cell: str) -> float | None:
        """The number that a text is; NaN where it is empty, None where it is none."""
        if cell == "":
            return np.nan
        if not is_number(cell, self.source.decimal):
            return None
        return float(cell.replace(",", ".") if self.source.decimal == "," else cell)

    def _texts(self, cells: Sequence[Any], column: int) -> np.ndarray:
        floats = np.array([cell if type(cell) is float else np.nan for cell in cells], dtype="float64")
        odd = values.first(~values.whole(floats))
        if odd is not None:
            raise self._wrong(cells, column, odd, "a text or a whole number in a key; ask for it as text")
        found = np.empty(len(cells), dtype=object)
        found[:] = [_text(cell) for cell in cells]
        return found

    def _days(self, cells: Sequence[Any], column: int) -> np.ndarray:
        is_time = np.array([isinstance(cell, date) for cell in cells], dtype=bool)
        found = np.full(len(cells), np.datetime64("NaT"), dtype="datetime64[ns]")
        times = [cell for cell in cells if isinstance(cell, date)]
        if times:
            parsed = pd.Series(np.array(times, dtype="datetime64[us]"))
            found[is_time] = clock.from_times(parsed, self.zone, self.source.clock)
        texts = [None if isinstance(cell, date) else _text(cell) for cell in cells]
        codes, unique = pd.factorize(np.array(texts, dtype=object), use_na_sentinel=True)
        if len(unique):
            days = clock.from_texts(pd.Series(unique), self.source.date_format, self.zone, self.source.clock)
            found[~is_time] = clock.spread(days, pd.Series(codes).where(codes >= 0))[~is_time]
        if len(cells) and np.isnat(found).all():
            raise self._wrong(
                cells, column, 0, f"a date, or its text of the format {self.source.date_format!r}, in this or any "
                "other row. Did the source change its format? Ask the data owner, or declare source.date_format"
            )  # fmt: skip
        return found


def _inflated(data: bytes, member: zipfile.ZipInfo) -> bytes:
    """A member's content, exactly as long as the directory says: the workbook's reader believes it, and so may we.

    Raises:
        ValueError: It is not what the directory says.
    """
    if member.flag_bits & 0x1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename!r} is encrypted, or packed by a method that workbooks do not have")
    head = data[member.header_offset : member.header_offset + 30]
    start = member.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    found, ended = data[start : start + member.compress_size], True
    if member.compress_type == zipfile.ZIP_DEFLATED:
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        found = stream.decompress(found, member.file_size + 1)
        ended = stream.eof
    if not ended or len(found) != member.file_size or zlib.crc32(found) != member.CRC:
        raise ValueError(f"{member.filename!r} is not what the archive's directory says")
    return found


def _path_of(sheet: str, members: dict[str, bytes]) -> str:
    """Where in the archive a sheet stands."""
    book = ElementTree.fromstring(members["xl/workbook.xml"])
    ids = {one.get("name"): next(v for k, v in one.attrib.items() if k.endswith("}id")) for one in book.iter() if
           one.tag.endswith("}sheet")}  # fmt: skip
    links = ElementTree.fromstring(members["xl/_rels/workbook.xml.rels"])
    target = next(str(one.get("Target")) for one in links if one.get("Id") == ids[sheet])
    return (target.lstrip("/") if target.startswith("/") else f"xl/{target}").lower()


def _cells(pattern: re.Pattern[bytes], xml: bytes) -> set[tuple[int, int]]:
    """Row and column, both from 0, of the cells that ``pattern`` finds."""
    refs = [re.fullmatch(rb"([A-Z]+)([0-9]+)", ref) for ref in pattern.findall(xml)]
    return {(int(ref[2]) - 1, _number(ref[1]) - 1) for ref in refs if ref}


def _number(letters: bytes) -> int:
    """A column's number, from 1.

    >>> _number(b"A"), _number(b"XFD")
    (1, 16384)
    """
    number = 0
    for letter in letters.upper():
        number = number * 26 + letter - 64
    return number


def _letters(column: int) -> str:
    """A column's letters.

    >>> _letters(0), _letters(16383)
    ('A', 'XFD')
    """
    text, column = "", column + 1
    while column:
        column, rest = divmod(column - 1, 26)
        text = chr(65 + rest) + text
    return text


def _texts_size(xml: bytes, shared: bytes, limit: int) -> int:
    """Bytes of the texts in the cells, each as often as it is used."""
    sizes = [len(one) for one in shared.split(b"</si>")]
    uses = xml.count(b't="s"') + xml.count(b"t='s'")
    if max(sizes) * uses <= limit:
        return 0  # whatever the uses are
    return sum(sizes[int(use)] for use in _SHARED.findall(xml) if int(use) < len(sizes))


def _text(cell: Any) -> str | None:
    """A cell as text: whole numbers without a decimal mark, days as in ISO 8601; None where it is empty."""
    if type(cell) is str:
        return cell or None
    if type(cell) is bool:
        return str(cell).lower()
    if type(cell) is float and cell.is_integer():
        return str(int(cell))
    return cell.isoformat() if isinstance(cell, date | datetime) else str(cell)


def _shown(cell: Any) -> str:
    return "nothing" if cell == "" else repr(_text(cell))[:60]
