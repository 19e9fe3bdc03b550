"""Pull a customer's feed: declared columns and days only, at its own grain. It repairs nothing and judges no values."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pandas as pd

from forecasting.config import Customer
from forecasting.data.sources import shapes, storage
from forecasting.data.sources.storage import Access
from forecasting.data.sources.table import CELLS, FILES, Cells, Piece, Wanted
from forecasting.errors import ConfigurationError, SourceError, SourceUnavailableError, near_miss
from forecasting.feed import CsvSource, ParquetSource, SqlSource, XlsxSource
from forecasting.periods import period_end, shift

__all__ = ["CELLS", "FILES", "Access", "Feed", "check_declaration", "delivered", "place", "pull", "whole_from"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Feed:
    """What was read for one night, at the feed's own grain."""

    rows: pd.DataFrame
    """Declared columns (day datetime64, texts object, numbers float64) and ``line``, int64, unique: :func:`place`.

    ``rows.attrs["files"]`` names what the lines stand in.
    """
    lines_read: int
    """Rows inside the window: the number that the night's accounting starts from."""
    lines_outside: int
    """Rows outside the window, not read further."""
    days: pd.DataFrame
    """Every day read, up to the cutoff and also before the window: day, ``lines`` (int64), ``digest`` (object: equal
    when the day's lines are equal, in any order)."""
    watermark: date | None
    """Newest day, on or before the cutoff, with a target; None when there is none."""
    sha256: str
    """Of the bytes read; of a query's result, of its rows."""
    bytes: int
    """Unpacked; 0 for a query."""

    @property
    def files(self) -> list[str]:
        """What was read, without credentials."""
        return list(self.rows.attrs["files"])


def pull(customer: Customer, *, access: Access, since: date | None = None, until: date) -> Feed:
    """Read the declared columns of the feed for the days ``since`` to ``until``.

    The cutoff is ``until`` less the horizon: after it, the target and columns known only historically are blanked, so
    that no later stage can see them.

    A cut text file: every row must have as many cells as the header, and the file must end with a line end. Together
    these see any cut inside a line, also inside the last cell (``12`` of ``125``). A cut exactly at a line end leaves a
    valid, shorter file: the watermark, the days' lines and the contract's row counts are there for that.

    Args:
        customer: The frozen configuration.
        access: What a source may reach, and with which credentials.
        since: First day wanted; moved to the first day of its period. None: everything.
        until: Last day wanted, the end of the last period of the horizon.

    Raises:
        SourceUnavailableError: The source cannot be reached or read.
        SourceError: It is not what is declared; the message names file, line, column, value, remedy.
        ConfigurationError: The declaration itself cannot be used.
    """
    check_declaration(customer)
    cutoff = shift(until, -customer.horizon, customer.frequency)
    first = since and _first_of_period(since, customer)
    pieces = list(_budgeted(_pieces(customer, access, first, until), customer))
    if not pieces:
        raise SourceUnavailableError(
            f"{customer.source.shown}: nothing there holds days from {first or 'the beginning'} to {until}. Were they "
            "delivered? Ask the data owner, or correct the source's `parts`, `uri` and `day_in_name`; the last "
            "publication stays current meanwhile"
        )
    rows = _joined(pieces)
    days = _days(rows, customer, cutoff)
    kept = _blank_unknown(_window(rows, customer, first, until), customer, cutoff)
    kept.attrs["files"] = [piece.name for piece in pieces]
    outside = len(rows) - len(kept) + sum(piece.outside for piece in pieces)
    watermark = _watermark(kept, customer, cutoff)
    log.info(
        "pull: %s: %d lines from %s, %d outside the window, watermark %s",
        customer.id, len(kept), customer.source.shown, outside, watermark,
    )  # fmt: skip
    digest = pieces[0].sha256 if len(pieces) == 1 else _sha256("\n".join(piece.sha256 for piece in pieces))
    return Feed(kept, len(kept), outside, days, watermark, digest, sum(piece.bytes for piece in pieces))


def place(line: int, customer: Customer, files: tuple[str, ...] = ()) -> str:
    """Where in the customer's feed the row numbered ``line`` stands, for messages.

    ``line 7, column 3`` of a wide file, ``sales_2017-01-02.parquet, row 7`` where there are several.
    """
    number, row = divmod(int(line), FILES)
    cell = 0
    if customer.source.wide is not None:
        row, cell = divmod(row, CELLS)
    text = f"{'line' if customer.source.kind == 'csv' else 'row'} {row}" + (f", column {cell}" if cell else "")
    return f"{_short_name(number, files)}, {text}" if len(files) > 1 else text


def _short_name(number: int, files: tuple[str, ...]) -> str:
    """A file's name; with its folders where several bear the same."""
    name = files[number].rpartition("/")[2]
    return files[number] if sum(file.rpartition("/")[2] == name for file in files) > 1 else name


def whole_from(customer: Customer, since: date | None) -> date | None:
    """First day from which a pull since ``since`` reads all that the source holds; None: it reads everything.

    Earlier days may have been read in part: a file's days before the window tell nothing where files go by their day,
    and a database is asked for the window only.
    """
    source = customer.source
    if since is None or isinstance(source, SqlSource):
        return since
    skipped = any(part.until is not None and part.until < since for part in source.places())
    by_day = source.day_in_name is not None or (isinstance(source, ParquetSource) and source.partitioned)
    return since if skipped or by_day else None


def delivered(customer: Customer) -> dict[str, str]:
    """The columns of a pull, in their order, each with its logical type in a contract's words."""
    wanted = Wanted.of(customer)
    texts, numbers = dict.fromkeys(wanted.texts, "string"), dict.fromkeys(wanted.numbers, "number")
    return {wanted.day: "date", **texts, **numbers}


def check_declaration(customer: Customer) -> None:
    """Check, without reading anything, that the source as declared can make the declared columns.

    Raises:
        ConfigurationError: It cannot; the message names customer, key, expectation and near miss.
    """
    wanted, source = Wanted.of(customer), customer.source
    both = sorted(set(wanted.texts) & set(wanted.numbers))
    if both:
        raise ConfigurationError(f"{customer.id}: column {both[0]!r} is declared both as a text and as a number")
    named = {name for part in source.places() for name in part.names} | set(source.names)
    for name in sorted(named - set(wanted.columns)):
        raise ConfigurationError(
            f"{customer.id}: source.names speaks of {name!r}, which is no column of the feed."
            f"{near_miss(name, list(wanted.columns))} The feed's columns: {', '.join(wanted.columns)}"
        )
    if source.wide is not None:
        _check_wide(customer, wanted)


def _check_wide(customer: Customer, wanted: Wanted) -> None:
    wide = customer.source.wide
    assert wide is not None
    groups = set(re.compile(wide.columns).groupindex) - {"value", "period"}
    made = set(wide.values.values())
    wrong = [name for name in wanted.numbers if name not in made]
    # a table of one row per day has no other place for a key than its headers
    wrong += [name for name in wanted.texts if name not in groups and wide.first_period is None]
    if wrong:
        raise ConfigurationError(
            f"{customer.id}: source.wide makes no column {wrong[0]!r}.{near_miss(wrong[0], sorted(groups | made))} "
            f"It makes: {', '.join(sorted(groups | made))}; name it in a group or in `values`"
        )
    idle = sorted(groups - set(wanted.texts))
    if idle:
        raise ConfigurationError(
            f"{customer.id}: source.wide.columns holds a group {idle[0]!r} that is not among columns.keys "
            f"({', '.join(customer.columns.keys)}), so two series would become one: add it there, or write (?:…) for "
            "(?P<…>…)"
        )


# --- reading --------------------------------------------------------------------------------------------------------


def _pieces(customer: Customer, access: Access, since: date | None, until: date) -> Iterator[Piece]:
    """Each file's, or table's, rows: typed, under the feed's column names, of the days that its part holds."""
    source = customer.source
    if isinstance(source, SqlSource):
        from forecasting.data.sources import database

        yield from database.read(customer, access, since, until)
        return
    seen: dict[tuple[object, ...], str] = {}
    for number, (part, file) in enumerate(storage.read(customer, access, since, until)):
        digest = _sha256(file.data)
        before = seen.setdefault((part.uri, part.since, digest, *sorted(file.folders.items())), file.name)
        cells = _cells(customer, file)
        rows = shapes.rows(cells, customer, dict(source.names) | dict(part.names))
        if rows.empty and not source.day_in_name:
            raise cells.error(
                cells.first_line - 1,
                "there is a header and not one row; expected rows. Ask for the file to be delivered again",
            )
        if before != file.name and len(rows):
            raise SourceError(
                f"{file.name}: holds byte for byte what {before} holds, so each of its {len(rows)} lines would count "
                "twice. Was a delivery made twice? Take one of them out"
            )
        rows["line"] += number * FILES
        inside = _between(rows[customer.columns.ds], part.since, part.until)
        kept = rows[inside].reset_index(drop=True)
        yield Piece(file.name, kept, len(rows) - len(kept), digest, len(file.data))


def _cells(customer: Customer, file: storage.File) -> Cells:
    source = customer.source
    if isinstance(source, CsvSource):
        from forecasting.data.sources import text

        return text.Delimited(file.name, file.data, source, customer.time_zone)
    if isinstance(source, ParquetSource):
        from forecasting.data.sources import columnar

        return columnar.Columnar(file.name, file.data, source, customer.time_zone, file.folders)
    assert isinstance(source, XlsxSource)
    from forecasting.data.sources import workbook

    return workbook.Sheet(file.name, file.data, source, customer.time_zone)


def _budgeted(pieces: Iterator[Piece], customer: Customer) -> Iterator[Piece]:
    """The pieces, as long as they stay within ``source.max_rows``."""
    rows = 0
    for piece in pieces:
        rows += len(piece.rows) + piece.outside
        if rows > customer.source.max_rows:
            raise SourceError(
                f"{piece.name}: the pull holds more than source.max_rows, {customer.source.max_rows} rows; if it "
                "should, raise max_rows"
            )
        yield piece


def _joined(pieces: list[Piece]) -> pd.DataFrame:
    if len(pieces) == 1:
        return pieces[0].rows
    return pd.concat([piece.rows for piece in pieces], ignore_index=True)


def _sha256(data: bytes | str) -> str:
    return hashlib.sha256(data if isinstance(data, bytes) else data.encode()).hexdigest()


# --- window ---------------------------------------------------------------------------------------------------------


def _first_of_period(since: date, customer: Customer) -> date:
    return period_end(shift(since, -1, customer.frequency), customer.frequency) + timedelta(days=1)


def _between(day: pd.Series, since: date | None, until: date | None) -> pd.Series:
    """The wanted days, and those that cannot be read: they are for the contract to judge."""
    keep = pd.Series(True, index=day.index)
    if until is not None:
        keep &= day <= pd.Timestamp(until)
    if since is not None:
        keep &= day >= pd.Timestamp(since)
    return keep | day.isna()


def _window(rows: pd.DataFrame, customer: Customer, since: date | None, until: date) -> pd.DataFrame:
    return rows[_between(rows[customer.columns.ds], since, until)].reset_index(drop=True)


def _blank_unknown(rows: pd.DataFrame, customer: Customer, cutoff: date) -> pd.DataFrame:
    """Blank what a run at ``cutoff`` may not know."""
    later = (rows[customer.columns.ds] > pd.Timestamp(cutoff)).to_numpy()
    for name in Wanted.of(customer).unknown:
        rows[name] = np.where(later, np.nan, rows[name])
    return rows


def _watermark(rows: pd.DataFrame, customer: Customer, cutoff: date) -> date | None:
    day = rows.loc[rows[customer.columns.y].notna(), customer.columns.ds]
    newest = day[day <= pd.Timestamp(cutoff)].max()
    return None if pd.isna(newest) else newest.date()


def _days(rows: pd.DataFrame, customer: Customer, cutoff: date) -> pd.DataFrame:
    """Lines and content of every day up to the cutoff, for the next pull to compare with."""
    wanted = Wanted.of(customer)
    past = rows[rows[wanted.day] <= pd.Timestamp(cutoff)]
    content = past[[*wanted.texts, *wanted.numbers]]
    hashes = pd.util.hash_pandas_object(content, index=False).to_numpy() if len(past) else np.array([], dtype="uint64")
    # a sum that wraps around: the same for the same lines in any order, and a doubled line changes it
    by_day = pd.Series(hashes, index=past.index).groupby(past[wanted.day].to_numpy()).agg(["size", "sum"])
    return pd.DataFrame(
        {
            "day": pd.to_datetime(by_day.index).astype("datetime64[ns]"),
            "lines": by_day["size"].to_numpy("int64"),
            "digest": np.array([f"{value:016x}" for value in by_day["sum"].to_numpy("uint64")], dtype=object),
        }
    )
