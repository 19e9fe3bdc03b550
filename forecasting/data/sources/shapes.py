"""Long and wide tables, to rows under the feed's own column names; nothing is lost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from forecasting.config import Customer
from forecasting.data.sources.table import CELLS, Cells, Names, Wanted, columns_of
from forecasting.errors import SourceError, near_miss
from forecasting.feed import Wide
from forecasting.periods import Frequency, shift

__all__ = ["rows"]


def rows(cells: Cells, customer: Customer, names: Names) -> pd.DataFrame:
    """The wanted columns under the feed's names: day datetime64[ns], texts object, numbers float64; and ``line``.

    Raises:
        SourceError: The table is not what is declared; the message names it, line, column, value and remedy.
    """
    wanted, wide = Wanted.of(customer), customer.source.wide
    if wide is None:
        return _long(cells, wanted, names)
    melt = _Melt(cells, wanted, wide, names, customer.frequency, customer.source.max_rows)
    return melt.by_day() if wide.first_period is None else melt.by_period()


def _long(cells: Cells, wanted: Wanted, names: Names) -> pd.DataFrame:
    at = _headers(cells, wanted.columns, names)
    read = cells.read([at[n] for n in wanted.numbers], [at[n] for n in wanted.texts], [at[wanted.day]])
    frame = pd.DataFrame({name: read[at[name]] for name in wanted.columns})
    frame["line"] = np.arange(len(frame), dtype="int64") + cells.first_line
    return frame


def _headers(cells: Cells, columns: Sequence[str], names: Names) -> dict[str, str]:
    """Feed column → header; every one must be there, once."""
    try:
        found = columns_of(columns, names, cells.header)
    except ValueError as error:
        raise _in_header(cells, f"{error}. Ask the data owner, or name one in source.names") from None
    for name, header in found.items():
        if header is None:
            expected = names.get(name, name)
            sought = expected if isinstance(expected, str) else " or ".join(expected)
            hint = getattr(cells, "hint", str)()
            raise _in_header(
                cells,
                f"there is no column {sought!r}.{near_miss(sought, list(cells.header))}{hint} Columns: "
                f"{_listed(cells.header)}. Was it renamed? Ask the data owner, or change the customer's `columns` or "
                "`source.names`",
            )
    return {name: header for name, header in found.items() if header is not None}


def _in_header(cells: Cells, message: str) -> SourceError:
    return cells.error(cells.first_line - 1, message)


def _listed(names: Sequence[str]) -> str:
    shown = [name if name.isprintable() and len(name) <= 60 else f"{name[:50]!r}…" for name in names[:12]]
    return ", ".join(shown) + (f" … ({len(names)} in all)" if len(names) > 12 else "")


Place = tuple[tuple[str, ...], int]
"""The texts that a header holds, and its period (0 where columns are not periods)."""
Columns = dict[Place, dict[str, int]]
"""Place → long column → column of the table (from 0)."""
Read = dict[str, Any]
"""Header → its values."""


@dataclass
class _Melt:
    """A wide table and what is declared about it."""

    cells: Cells
    wanted: Wanted
    wide: Wide
    names: Names
    frequency: Frequency
    max_rows: int

    def by_day(self) -> pd.DataFrame:
        """One row per day in the table: a row per day and key combination, in the header's order."""
        day = _headers(self.cells, [self.wanted.day], self.names)[self.wanted.day]
        at = self._columns({day}, self.wanted.texts)
        read = self.cells.read(self._wanted_headers(at), [], [day])
        count, series = len(read[day]), len(at)
        self._within_budget(count * series)
        frame = pd.DataFrame({self.wanted.day: np.repeat(read[day], series)})
        for position, name in enumerate(self.wanted.texts):
            values = np.array([place[0][position] for place in at], dtype=object)
            frame[name] = np.tile(values, count)
        return self._filled(frame, read, at, count)

    def by_period(self) -> pd.DataFrame:
        """One row per series in the table: a row per series and period."""
        in_header = [name for name in self.wanted.texts if name in re.compile(self.wide.columns).groupindex]
        in_rows = [name for name in self.wanted.texts if name not in in_header]
        headers = _headers(self.cells, in_rows, self.names)
        at = self._columns(set(headers.values()), in_header)
        read = self.cells.read(self._wanted_headers(at), list(headers.values()), [])
        count = len(next(iter(read.values())))
        self._within_budget(count * len(at))
        frame = pd.DataFrame({self.wanted.day: np.tile(self._days([place[1] for place in at]), count)})
        for name in self.wanted.texts:
            if name in headers:
                frame[name] = np.repeat(read[headers[name]], len(at))
            else:
                values = np.array([place[0][in_header.index(name)] for place in at], dtype=object)
                frame[name] = np.tile(values, count)
        return self._filled(frame, read, at, count)

    def _within_budget(self, count: int) -> None:
        if count > self.max_rows:
            raise _in_header(
                self.cells,
                f"makes {count} rows, more than source.max_rows, {self.max_rows}; if it should, raise max_rows",
            )

    def _filled(self, frame: pd.DataFrame, read: dict[str, Any], at: Columns, n: int) -> pd.DataFrame:
        header = self.cells.header
        for name in self.wanted.numbers:
            values = [read[header[by_name[name]]] for by_name in at.values()]
            frame[name] = np.column_stack(values).astype("float64").ravel()
        place = np.array([by_name[self.wanted.numbers[0]] + 1 for by_name in at.values()], dtype="int64")
        line = np.arange(n, dtype="int64") + self.cells.first_line
        frame["line"] = (line[:, None] * CELLS + place).ravel()
        return frame

    def _days(self, periods: Sequence[int]) -> np.ndarray:
        assert self.wide.first_period is not None
        days = [shift(self.wide.first_period, period, self.frequency) for period in periods]
        return np.array(days, dtype="datetime64[ns]")

    def _wanted_headers(self, at: Columns) -> list[str]:
        numbers = set(self.wanted.numbers)
        return [self.cells.header[column] for found in at.values() for name, column in found.items() if name in numbers]

    def _columns(self, known: set[str], texts: Sequence[str]) -> Columns:
        """Place → long column → column of the table (from 0)."""
        header, pattern = list(self.cells.header), re.compile(self.wide.columns)
        at: Columns = {}
        for column, name in enumerate(header):
            if name in known or any(name == one or re.fullmatch(one, name) for one in self.wide.ignore):
                continue
            match = pattern.fullmatch(name)
            if match is None or match["value"] not in self.wide.values:
                near = near_miss(name, header[:column] + header[column + 1 :])
                raise _in_header(
                    self.cells,
                    f"column {column + 1}, header {name!r}, does not match {self.wide.columns!r} with a value of "
                    f"{', '.join(self.wide.values)}.{near} Was it renamed? Ask the data owner, or name it in "
                    "source.wide.ignore",
                )
            by_name = at.setdefault((tuple(match[text] or "" for text in texts), self._period(match, column)), {})
            if self.wide.values[match["value"]] in by_name:
                raise _in_header(
                    self.cells, f"column {column + 1}, header {name!r}, means the same as an earlier column"
                )
            by_name[self.wide.values[match["value"]]] = column
        self._complete(at)
        return at

    def _period(self, match: re.Match[str], column: int) -> int:
        if self.wide.first_period is None:
            return 0
        text = match["period"]
        if not (text.isascii() and text.isdigit() and len(text) <= 5):
            raise _in_header(self.cells, f"column {column + 1}: group `period` holds {text!r}; expected a whole number")
        return int(text)

    def _complete(self, at: Columns) -> None:
        if not at:
            raise _in_header(
                self.cells, f"no header matches source.wide.columns. Headers: {_listed(self.cells.header)}"
            )
        for (texts, period), by_name in at.items():
            for name in self.wanted.numbers:
                if name not in by_name:
                    what = "/".join(texts) or f"period {period}"
                    raise _in_header(self.cells, f"series {what} has no column for {name!r}; ask for a whole file")
