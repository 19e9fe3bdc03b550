"""Delimited text, strictly: a cut, ragged or wrongly encoded file is an error that names its place."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from forecasting.data.sources import clock
from forecasting.data.sources.table import repeated
from forecasting.errors import ConfigurationError, SourceError
from forecasting.feed import CsvSource

__all__ = ["Delimited", "is_number"]

_NUMBER = re.compile(
    r"[ \t]*[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?[ \t]*|[-+]?(nan|inf|infinity)", re.IGNORECASE
)


# --- text -----------------------------------------------------------------------------------------------------------


class Delimited:
    """A delimited text file."""

    first_line = 2

    def __init__(self, name: str, data: bytes, source: CsvSource, zone: str) -> None:
        """Check that ``data`` is whole text with a header and rows.

        Raises:
            SourceError: It is not.
            ConfigurationError: The declared encoding is none.
        """
        self.name, self.source, self.zone = name, source, zone
        self.data = _strict_utf8(data, name, source)

    @cached_property
    def header(self) -> list[str]:
        """The names in the first line, each once."""
        _, header = next(self.records())
        if not header:
            raise self.error(1, "is empty; expected the header. Ask for a file that begins with it")
        twice = repeated(header)
        if twice is not None:
            where = [i + 1 for i, name in enumerate(header) if name == twice]
            raise self.error(
                1, f"header {twice!r} stands in columns {where[0]} and {where[1]}; expected each name once"
            )
        return header

    def hint(self) -> str:
        """Why a column may not be found."""
        others = [mark for mark in ";\t|," if mark != self.source.delimiter and mark in self.header[0]]
        wrong = len(self.header) == 1 and others
        return f" Is the delimiter {others[0]!r}? Declare source.delimiter." if wrong else ""

    def error(self, line: int, message: str) -> SourceError:
        """The error to raise about a line of the file."""
        return SourceError(f"{self.name}, line {line}: {message}")

    def read(self, numbers: Sequence[str], texts: Sequence[str], days: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns by header: see :class:`forecasting.data.sources.table.Cells`."""
        table = _parse(self, self.header, numbers, [*texts, *days])
        found = {name: table[name].to_numpy().astype("float64") for name in numbers}
        found |= {name: table[name].to_pandas().astype(object).to_numpy() for name in texts}
        return found | {name: self._days(table[name], name) for name in days}

    def _days(self, column: pa.ChunkedArray[Any], name: str) -> np.ndarray:
        """A text that is no date of the declared format becomes NaT; all of them are an error."""
        encoded = column.combine_chunks().dictionary_encode()
        unique = encoded.dictionary.to_pandas().astype(object)
        parsed = clock.from_texts(unique, self.source.date_format, self.zone, self.source.clock)
        if len(parsed) and np.isnat(parsed).all():
            example = next((value for value in unique if value), "")
            raise self.error(
                2, f"column {self.header.index(name) + 1} ({name}): {_short(example)!r} is no date of the format "
                f"{self.source.date_format!r}, nor is any other row's. Did the source change its format? Ask the data "
                "owner, or declare source.date_format"
            )  # fmt: skip
        return clock.spread(parsed, encoded.indices.to_pandas())

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """File line (from 1) and cells of each record: slow, for messages."""
        csv.field_size_limit(max(csv.field_size_limit(), len(self.data)))  # else a long cell is an error of its own
        reader = csv.reader(io.StringIO(self.data.decode(), newline=""), delimiter=self.source.delimiter)
        for cells in reader:
            yield reader.line_num, cells


def _strict_utf8(data: bytes, name: str, source: CsvSource) -> bytes:
    """The text as UTF-8, complete, and nothing else; see :func:`pull` on cut files."""
    if not data.strip():
        raise SourceError(f"{name}: the file is empty; expected a header and rows. Ask for it to be delivered again")
    text = _decode(data, name, source)
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise SourceError(f"{name}, line {line}: holds NUL characters; the transfer was cut, or this is no text file")
    if text[-1] not in "\r\n":
        line = text.count("\n") + 1
        raise SourceError(
            f"{name}, line {line}: the last line {_short(text.rpartition(chr(10))[2])!r} has no line end: the file was "
            "cut, or written without its final line end. Ask for it again, complete and ending with a line end"
        )
    return (text.rstrip("\r\n") + "\n").encode()


def _decode(data: bytes, name: str, source: CsvSource) -> str:
    try:
        text = data.decode(source.encoding)
    except LookupError:
        raise ConfigurationError(f"source.encoding {source.encoding!r} is no encoding; utf-8 is usual") from None
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise SourceError(
            f"{name}, line {line}, byte {column}: {data[error.start : error.start + 4]!r} is not {source.encoding}; "
            "if the file is meant so, declare source.encoding (latin-1, cp1252, utf-16), else ask for it again"
        ) from None
    if text.startswith("\ufeff"):
        raise SourceError(
            f"{name}, line 1: begins with a byte order mark, which would become part of the first header; declare "
            "source.encoding: utf-8-sig"
        )
    return text


def _short(value: str) -> str:
    return value if len(value) <= 40 else f"{value[:25]}…{value[-12:]}"


# --- records --------------------------------------------------------------------------------------------------------


def _parse(text: Delimited, header: list[str], numbers: Sequence[str], texts: Sequence[str]) -> pa.Table:
    """The named columns, numbers as float64 and texts as strings; any other shape or value is refused."""
    types = {name: pa.float64() for name in numbers} | {name: pa.string() for name in texts}
    convert = pa.csv.ConvertOptions(
        column_types=types, include_columns=list(types), null_values=[""], strings_can_be_null=True,
        decimal_point=text.source.decimal, check_utf8=True, auto_dict_encode=False,
    )  # fmt: skip
    parse = pa.csv.ParseOptions(
        delimiter=text.source.delimiter, newlines_in_values=True, ignore_empty_lines=False, double_quote=True
    )
    # one block: a header or a record may be longer than the default megabyte
    read = pa.csv.ReadOptions(block_size=max(len(text.data) + 1, 1 << 20), use_threads=len(types) > 50)
    try:
        table = pa.csv.read_csv(io.BytesIO(text.data), read_options=read, parse_options=parse, convert_options=convert)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise _explain(text, header, numbers, str(error)) from None
    # pyarrow reads a blank line as a row of nulls, and a quoted line end as one row
    if table.num_rows + 1 != text.data.count(b"\n") or re.search(rb"\n\r?\n", text.data):
        raise _explain(text, header, numbers, "rows and lines differ")
    return table


def _explain(text: Delimited, header: list[str], numbers: Sequence[str], reason: str) -> SourceError:
    """Find the first fault again, slowly, so that the message can name its place."""
    last, place = text.data.count(b"\n"), {name: header.index(name) for name in numbers}
    expected = 1
    for line, cells in text.records():
        if line != expected:
            return text.error(expected, "a quoted cell runs over the end of the line; expected one record a line")
        if len(cells) != len(header):
            cut = " The file may have been cut: ask for it again." if line == last else ""
            return text.error(
                line, f"has {len(cells)} cells, expected {len(header)} as in the header.{cut} Row: "
                f"{_short(text.source.delimiter.join(cells))!r}"
            )  # fmt: skip
        expected += 1
        for name in numbers if line > 1 else ():
            if cells[place[name]] and not is_number(cells[place[name]], text.source.decimal):
                return text.error(line, _no_number(cells[place[name]], name, place[name] + 1, text.source.decimal))
    return SourceError(f"{text.name}: cannot be parsed: {_short(reason)}; expected {len(header)} columns a line")


def is_number(cell: str, decimal: str) -> bool:
    """Whether a text is a number with that decimal mark, without marks between thousands."""
    if decimal == ",":
        cell = cell.replace(".", "x").replace(",", ".")
    return _NUMBER.fullmatch(cell) is not None


def _no_number(cell: str, name: str, column: int, decimal: str) -> str:
    other = "," if decimal == "." else "."
    hint = f" Is {other!r} the decimal mark? Declare source.decimal." if is_number(cell, other) else ""
    return f"column {column} ({name}): {_short(cell)!r} is no number with decimal mark {decimal!r}.{hint}"
