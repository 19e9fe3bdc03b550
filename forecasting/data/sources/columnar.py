"""Parquet, strictly: declared columns only, page checksums verified, no number rounded and no type guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forecasting.data.sources import clock, values
from forecasting.data.sources.table import repeated
from forecasting.errors import SourceError
from forecasting.feed import ParquetSource

__all__ = ["Columnar"]

_AGAIN = "The transfer was cut, or the file is damaged: ask for it to be delivered again"


class Columnar:
    """A parquet file, with the columns that its folders make."""

    first_line = 1

    def __init__(
        self, name: str, data: bytes, source: ParquetSource, zone: str, folders: Mapping[str, str | None]
    ) -> None:
        """Read the footer.

        Raises:
            SourceError: ``data`` is no parquet file, cut, or holds more rows than the pull may.
        """
        self.name, self.source, self.zone, self.folders, self._data = name, source, zone, folders, data
        file = self._open(data)
        self._schema: pa.Schema = file.schema_arrow
        self.header = [*self._schema.names, *folders]
        twice = repeated(self.header)
        if twice is not None:
            where = "in the file and as a folder" if twice in folders else "twice"
            raise self.error(0, f"column {twice!r} is there {where}; expected each name once")
        # a run of equal values takes no room in the file: ten bytes may be a billion rows
        if file.metadata.num_rows > source.max_rows:
            raise self.error(
                0,
                f"holds {file.metadata.num_rows} rows, more than source.max_rows, {source.max_rows}; if it "
                "should, raise max_rows",
            )

    def _open(self, data: bytes) -> pq.ParquetFile:
        if not data.startswith(b"PAR1") or len(data) < 12:
            what = "is encrypted" if data.startswith(b"PARE") else "is no parquet file"
            raise self.error(
                0, f"{what}: it begins with {data[:4]!r}; expected b'PAR1'. Check source.kind, or ask again"
            )
        if not data.endswith(b"PAR1"):
            raise self.error(0, f"ends with {data[-4:]!r}; expected b'PAR1'. {_AGAIN}")
        return self._guarded(lambda: pq.ParquetFile(pa.BufferReader(data), **_OPTIONS))

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """What ``work`` returns; what pyarrow says of a damaged file, in our words."""
        try:
            return work()
        except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
            said = " ".join(str(error).split())[:160]
            raise self.error(0, f"cannot be read: {said}. {_AGAIN}") from None

    def error(self, line: int, message: str) -> SourceError:
        """The error to raise about a row of the file; 0: about the file."""
        return SourceError(f"{self.name}, row {line}: {message}" if line else f"{self.name}: {message}")

    def read(self, numbers: Sequence[str], texts: Sequence[str], days: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns by header: see :class:`forecasting.data.sources.table.Cells`."""
        wanted = [name for name in dict.fromkeys([*numbers, *texts, *days]) if name not in self.folders]
        for name in wanted:
            if pa.types.is_nested(self._schema.field(name).type):
                raise self._mistyped(name, "plain values, not lists or records")
        table = self._table(wanted, [*texts, *days])
        found = {name: self._numbers(name, self._column(name, table)) for name in numbers}
        found |= {name: self._texts(name, self._column(name, table)) for name in texts}
        return found | {name: self._days(name, self._column(name, table)) for name in days}

    def _table(self, wanted: list[str], texts: Sequence[str]) -> pa.Table:
        plain = [name for name in texts if name in wanted and _is_text(self._schema.field(name).type)]
        # as a dictionary, a text is held once, however often it stands in the column
        file = self._guarded(lambda: pq.ParquetFile(pa.BufferReader(self._data), read_dictionary=plain, **_OPTIONS))
        table = self._guarded(lambda: file.read(columns=wanted))
        if table.num_rows != file.metadata.num_rows:
            raise self.error(0, f"holds {table.num_rows} rows, its footer says {file.metadata.num_rows}. {_AGAIN}")
        for name in wanted:
            self._whole(name, table[name])
        return table

    def _whole(self, name: str, column: pa.ChunkedArray) -> None:
        try:
            column.validate(full=True)
        except pa.ArrowException as error:
            if "UTF8" in str(error):
                raise self.error(0, f"column {name!r}: holds bytes that are not UTF-8; expected text") from None
            said = " ".join(str(error).split())[:160]
            raise self.error(0, f"column {name!r} cannot be read: {said}. {_AGAIN}") from None

    def _column(self, name: str, table: pa.Table) -> pa.Array:
        if name in self.folders:
            return pa.array([self.folders[name]] * table.num_rows, pa.string()).dictionary_encode()
        column = table[name].combine_chunks()
        return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column

    def _numbers(self, name: str, column: pa.Array) -> np.ndarray:
        kind = column.type
        if pa.types.is_boolean(kind):
            column = column.cast(pa.int8())
        elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            if not pa.types.is_null(kind):
                raise self._mistyped(name, "numbers")
        elif not pa.types.is_floating(kind):
            self._exact(name, column)
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype="float64")

    def _exact(self, name: str, column: pa.Array) -> None:
        """Refuse whole numbers that a float would round."""
        ends = [one.as_py() for one in pc.min_max(column).values()]
        if any(end is not None and abs(end) > values.EXACT for end in ends):
            rows = enumerate(column.to_pylist())
            row, value = next((row, one) for row, one in rows if one is not None and abs(one) > values.EXACT)
            raise self.error(
                row + 1,
                f"column {name!r}: {value} is beyond 2^53 and would be rounded; expected a quantity. Is it an id? Then "
                "declare it as a key or in columns.other",
            )

    def _texts(self, name: str, column: pa.Array) -> np.ndarray:
        kind = column.type
        if pa.types.is_null(kind):
            return np.full(len(column), None, dtype=object)
        if pa.types.is_floating(kind):
            fault = lambda row, said: self.error(row + 1, f"column {name!r}: {said}")  # noqa: E731
            return values.text_of_floats(np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False)), fault)
        encoded = column if pa.types.is_dictionary(kind) else column.dictionary_encode()
        unique = self._unique_texts(name, encoded)
        indices = encoded.indices.fill_null(len(unique) - 1).to_numpy(zero_copy_only=False)
        spread: np.ndarray = unique[indices]
        return spread

    def _unique_texts(self, name: str, encoded: pa.DictionaryArray) -> np.ndarray:
        """The distinct values as texts, and None; an empty one is None too, as in a text file."""
        try:
            texts = encoded.dictionary.cast(pa.string())
        except pa.ArrowException:
            if not _is_text(encoded.dictionary.type):
                raise self._mistyped(name, "texts or whole numbers") from None
            raise self.error(0, f"column {name!r}: holds bytes that are not UTF-8; expected text") from None
        known = [text or None for text in texts.to_pylist()]
        nul = next((text for text in known if text and "\0" in text), None)
        if nul is not None:
            raise self.error(0, f"column {name!r}: {nul[:40]!r} holds NUL characters; expected text")
        return np.array([*known, None], dtype=object)

    def _days(self, name: str, column: pa.Array) -> np.ndarray:
        kind = column.type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            times = pa.chunked_array([column.cast(pa.timestamp("s")) if pa.types.is_date(kind) else column])
            parsed: np.ndarray = self._guarded(
                lambda: clock.from_times(times.to_pandas(), self.zone, self.source.clock)
            )
            self._some_day(name, column, parsed, "holds no day within the years 1678 to 2261")
            return parsed
        if pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_time(kind):
            raise self._mistyped(name, "days or times, or texts of the format source.date_format")
        texts = self._texts(name, column)
        codes, unique = pd.factorize(texts, use_na_sentinel=True)
        days = clock.from_texts(pd.Series(unique, dtype=object), self.source.date_format, self.zone, self.source.clock)
        parsed = clock.spread(days, pd.Series(codes).where(codes >= 0))
        example = unique[0] if len(unique) else ""
        self._some_day(name, column, parsed, f"{str(example)[:40]!r} is no date of the format "
                       f"{self.source.date_format!r}, nor is any other row's. Declare source.date_format")  # fmt: skip
        return parsed

    def _some_day(self, name: str, column: pa.Array, days: np.ndarray, said: str) -> None:
        if len(column) and np.isnat(days).all():
            raise self.error(1, f"column {name!r} ({column.type}): {said}. Did the source change? Ask the data owner")

    def _mistyped(self, name: str, expected: str) -> SourceError:
        return self.error(
            0,
            f"column {name!r} is of type {self._schema.field(name).type}; expected {expected}. Did the source change "
            "its type? Ask the data owner, or change the customer's `columns`",
        )


_OPTIONS: dict[str, Any] = {
    "page_checksum_verification": True,
    "coerce_int96_timestamp_unit": "us",  # in nanoseconds, the year 9999 would wrap around
}


_TEXTS = {pa.string(), pa.large_string(), pa.binary(), pa.large_binary()}


def _is_text(kind: pa.DataType) -> bool:
    return kind in _TEXTS
