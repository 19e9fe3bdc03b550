"""Pull a customer's feed: bytes once, strictly parsed, at its own grain. It repairs nothing and judges no values."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from forecasting.config import CsvSource, Customer
from forecasting.errors import ConfigurationError, SourceError, SourceUnavailableError, near_miss
from forecasting.periods import period_end, shift

__all__ = ["CELLS", "Feed", "check_declaration", "delivered", "place", "pull"]

log = logging.getLogger(__name__)

CELLS = 1_000_000
"""A wide file's cell is numbered ``file line * CELLS + file column``; a long file's row by its file line alone."""

_NUMBER = re.compile(
    r"\s*[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?\s*|[-+]?(nan|inf|infinity)", re.IGNORECASE
)
Options: TypeAlias = dict[str, object]


@dataclass(frozen=True)
class Feed:
    """What was read for one night, at the feed's own grain."""

    rows: pd.DataFrame
    """Declared columns (day datetime64, keys object, numbers float64) and ``line``, int64, unique: :func:`place`."""
    lines_read: int
    """Rows inside the window: the number that the night's accounting starts from."""
    lines_outside: int
    """Rows of the file outside the window, not read further."""
    watermark: date | None
    """Newest day, on or before the cutoff, with a target; None when there is none."""
    sha256: str
    """Of the bytes read."""
    bytes: int
    files: list[str]
    """What was read, without credentials."""


def pull(
    customer: Customer, *, root: Path, connection_uri: str | None = None, since: date | None = None, until: date
) -> Feed:
    """Read the declared columns of the feed for the days ``since`` to ``until``.

    The cutoff is ``until`` less the horizon: after it, the target and columns known only historically are blanked, so
    that no later stage can see them.

    A cut file: every row must have as many cells as the header, and the file must end with a line end. Together these
    see any cut inside a line, also inside the last cell (``12`` of ``125``). A cut exactly at a line end leaves a
    valid, shorter file: the watermark and the contract's row counts are there for that.

    Args:
        customer: The frozen configuration.
        root: Folder that a local path starts from and may not leave.
        connection_uri: Credentials and endpoint, such as ``s3://KEY:SECRET@host:port``; never logged.
        since: First day wanted; moved to the first day of its period. None: everything.
        until: Last day wanted, the end of the last period of the horizon.

    Raises:
        SourceUnavailableError: The file cannot be reached or read.
        SourceError: The file is not what is declared; the message names file, line, column, value, remedy.
        ConfigurationError: The declaration itself cannot be used.
    """
    source = customer.source
    check_declaration(customer)
    data = _read_bytes(source, root, connection_uri)
    name = source.uri
    text = _Text(name, source, _strict_utf8(data, name, source))
    rows = _wide(text, customer) if source.wide else _long(text, customer)
    cutoff = shift(until, -customer.horizon, customer.frequency)
    kept = _window(rows, customer, since, until)
    kept = _blank_unknown(kept, customer, cutoff)
    watermark = _watermark(kept, customer, cutoff)
    log.info(
        "pull: %s: %d lines from %s, %d outside the window, watermark %s",
        customer.id, len(kept), name, len(rows) - len(kept), watermark,
    )  # fmt: skip
    return Feed(kept, len(kept), len(rows) - len(kept), watermark, hashlib.sha256(data).hexdigest(), len(data), [name])


def place(line: int, customer: Customer) -> str:
    """Where in the customer's file the row numbered ``line`` stands, for messages: ``line 7, column 3``."""
    if customer.source.wide is None:
        return f"line {line}"
    row, cell = divmod(int(line), CELLS)
    return f"line {row}, column {cell}"


def delivered(customer: Customer) -> dict[str, str]:
    """The columns of a pull, in their order, each with its logical type in a contract's words."""
    columns = customer.columns
    texts, numbers = dict.fromkeys(columns.keys, "string"), dict.fromkeys((columns.y, *customer.exogenous), "number")
    return {columns.ds: "date", **texts, **numbers}


def check_declaration(customer: Customer) -> None:
    """Check, without reading anything, that the source as declared can make the declared columns.

    Raises:
        ConfigurationError: It cannot; the message names customer, key, expectation and near miss.
    """
    source, columns = customer.source, customer.columns
    if "%z" in source.date_format.lower():
        raise ConfigurationError(
            f"{customer.id}: source.date_format {source.date_format!r} holds a time zone; a day is the customer's "
            "local day: have the source write local days"
        )
    if source.wide is None:
        return
    groups = set(re.compile(source.wide.columns).groupindex) - {"value"}
    made = set(source.wide.values.values())
    wrong = [key for key in columns.keys if key not in groups]
    wrong += [name for name in (columns.y, *customer.exogenous) if name not in made]
    if wrong:
        raise ConfigurationError(
            f"{customer.id}: source.wide makes no column {wrong[0]!r}.{near_miss(wrong[0], sorted(groups | made))} "
            f"It makes: {', '.join(sorted(groups | made))}; name it in a group or in `values`"
        )
    idle = sorted(groups - set(columns.keys))
    if idle:
        raise ConfigurationError(
            f"{customer.id}: source.wide.columns holds a group {idle[0]!r} that is not among columns.keys "
            f"({', '.join(columns.keys)}), so two series would become one: add it there, or write (?:…) for (?P<…>…)"
        )


# --- bytes ----------------------------------------------------------------------------------------------------------


def _read_bytes(source: CsvSource, root: Path, connection_uri: str | None) -> bytes:
    if "://" not in source.uri or source.uri.startswith("file://"):
        return _read_local(source, root)
    return _read_remote(source, connection_uri)


def _read_local(source: CsvSource, root: Path) -> bytes:
    base = root.resolve()
    path = (base / source.uri.removeprefix("file://")).resolve()
    if not path.is_relative_to(base):
        raise ConfigurationError(f"source.uri {source.uri!r} leads out of the folder that sources are read from")
    if not path.is_file():
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise SourceUnavailableError(
            f"{source.uri}: there is no such file.{near_miss(path.name, there)} Was it delivered? Ask the customer's "
            "data owner for it, or correct source.uri; the last publication stays current meanwhile"
        )
    try:
        with path.open("rb") as file:
            return _limited(file.read(source.max_bytes + 1), source)
    except OSError as error:
        raise SourceUnavailableError(f"{source.uri}: cannot be read: {error.strerror}; check its permissions") from None


def _read_remote(source: CsvSource, connection_uri: str | None) -> bytes:
    import fsspec

    scheme = source.uri.partition("://")[0]
    if source.connection and not connection_uri:
        raise SourceUnavailableError(
            f"{source.uri}: needs the customer's connection and none was given; create the Airflow connection, or set "
            "FORECASTING_CONN_<ID>"
        )
    try:
        options = _storage_options(scheme, connection_uri, source.timeout)
        system, path = fsspec.core.url_to_fs(source.uri, skip_instance_cache=True, **options)
        system.retries = 1  # s3fs multiplies its time-out by this
        with system.open(path, "rb") as file:
            return _limited(file.read(source.max_bytes + 1), source)
    except SourceError:
        raise
    except FileNotFoundError:
        raise SourceUnavailableError(
            f"{source.uri}: there is no such object. Was it delivered? Ask the data owner, or correct source.uri"
        ) from None
    except Exception as error:  # every backend has errors of its own
        # `from None`, and the class instead of the text: a backend's text may quote the URL with its credentials
        raise SourceUnavailableError(
            f"{source.uri}: cannot be read ({_reason(error)}); check that the server answers and the connection's "
            f"credentials are valid; time-out {source.timeout} s"
        ) from None


def _reason(error: BaseException) -> str:
    names = [type(error).__name__]
    while (error := error.__cause__ or error.__context__) and len(names) < 3:  # type: ignore[assignment]
        names.append(type(error).__name__)
    return " from ".join(dict.fromkeys(names))


def _storage_options(scheme: str, connection_uri: str | None, timeout: int) -> Options:
    """Options of fsspec's file system for ``scheme``, with time-outs where it has them."""
    parts = urlsplit(connection_uri or "")
    query = dict(parse_qsl(parts.query))
    if scheme in ("s3", "s3a"):
        config = {"connect_timeout": timeout, "read_timeout": timeout, "retries": {"max_attempts": 1}}
        options: Options = {"config_kwargs": config, "anon": connection_uri is None, "use_listings_cache": False}
        if parts.username:
            options |= {"key": unquote(parts.username), "secret": unquote(parts.password or "")}
        endpoint = query.get("endpoint_url") or (parts.hostname and _endpoint(parts.hostname, parts.port))
        client = {"endpoint_url": endpoint, "region_name": query.get("region_name")}
        return options | {"client_kwargs": {name: value for name, value in client.items() if value}}
    if scheme in ("http", "https"):
        import aiohttp

        auth = aiohttp.BasicAuth(unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=timeout), "auth": auth}}
    found: dict[str, object] = {"host": parts.hostname, "port": parts.port, "username": parts.username}
    found |= {"password": parts.password, **query}
    return {name: unquote(value) if isinstance(value, str) else value for name, value in found.items() if value}


def _endpoint(host: str, port: int | None) -> str:
    """An own S3 server: plain http unless it is port 443 or none is given."""
    return f"https://{host}" if port in (None, 443) else f"http://{host}:{port}"


def _limited(data: bytes, source: CsvSource) -> bytes:
    if len(data) > source.max_bytes:
        raise SourceError(
            f"{source.uri}: is larger than source.max_bytes, {source.max_bytes} bytes; if it should be, raise max_bytes"
        )
    return data


# --- text -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Text:
    """A file's text as UTF-8 bytes, and what is declared about it."""

    name: str
    source: CsvSource
    data: bytes

    def error(self, line: int, message: str) -> SourceError:
        return SourceError(f"{self.name}, line {line}: {message}")

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """File line (from 1) and cells of each record: slow, for messages."""
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


def _header(text: _Text) -> list[str]:
    _, header = next(text.records())
    twice = [name for name in dict.fromkeys(header) if header.count(name) > 1]
    if twice:
        where = [i + 1 for i, name in enumerate(header) if name == twice[0]]
        raise text.error(1, f"header {twice[0]!r} stands in columns {where[0]} and {where[1]}; expected each name once")
    if text.data.count(b"\n") == 1:
        raise text.error(1, "there is a header and not one row; expected rows. Ask for the file to be delivered again")
    return header


def _find(text: _Text, header: Sequence[str], names: Sequence[str]) -> None:
    for name in names:
        if name not in header:
            raise text.error(
                1,
                f"there is no column {name!r}.{near_miss(name, list(header))}{_delimiter_hint(text, header)} Columns: "
                f"{_listed(header)}. Was it renamed? Ask the data owner, or change the customer's `columns`",
            )


def _delimiter_hint(text: _Text, header: Sequence[str]) -> str:
    others = [mark for mark in ";\t|," if mark != text.source.delimiter and mark in header[0]]
    return f" Is the delimiter {others[0]!r}? Declare source.delimiter." if len(header) == 1 and others else ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" … ({len(names)} in all)" if len(names) > 12 else "")


def _parse(text: _Text, header: list[str], numbers: Sequence[str], texts: Sequence[str]) -> pa.Table:
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


def _explain(text: _Text, header: list[str], numbers: Sequence[str], reason: str) -> SourceError:
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
            if cells[place[name]] and not _is_number(cells[place[name]], text.source.decimal):
                return text.error(line, _no_number(cells[place[name]], name, place[name] + 1, text.source.decimal))
    return SourceError(f"{text.name}: cannot be parsed: {_short(reason)}; expected {len(header)} columns a line")


def _is_number(cell: str, decimal: str) -> bool:
    if decimal == ",":
        cell = cell.replace(".", "x").replace(",", ".")
    return _NUMBER.fullmatch(cell) is not None


def _no_number(cell: str, name: str, column: int, decimal: str) -> str:
    other = "," if decimal == "." else "."
    hint = f" Is {other!r} the decimal mark? Declare source.decimal." if _is_number(cell, other) else ""
    return f"column {column} ({name}): {_short(cell)!r} is no number with decimal mark {decimal!r}.{hint}"


# --- long and wide --------------------------------------------------------------------------------------------------


def _long(text: _Text, customer: Customer) -> pd.DataFrame:
    columns = customer.columns
    numbers, texts = [columns.y, *customer.exogenous], [columns.ds, *columns.keys]
    header = _header(text)
    _find(text, header, [*texts, *numbers])
    table = _parse(text, header, numbers, texts)
    frame = pd.DataFrame({columns.ds: _days(text, table[columns.ds], columns.ds, header)})
    for key in columns.keys:
        frame[key] = table[key].to_pandas().astype(object)
    for name in numbers:
        frame[name] = table[name].to_numpy().astype("float64")
    frame["line"] = np.arange(2, len(frame) + 2, dtype="int64")
    return frame


def _wide(text: _Text, customer: Customer) -> pd.DataFrame:
    """Melt: one row per file line and key combination, in the header's order; nothing is lost."""
    columns = customer.columns
    header = _header(text)
    _find(text, header, [columns.ds])
    cells = _wide_cells(text, header, customer)
    names = [columns.y, *customer.exogenous]
    wanted = [header[column] for by_name in cells.values() for name, column in by_name.items() if name in names]
    table = _parse(text, header, wanted, [columns.ds])
    days = _days(text, table[columns.ds], columns.ds, header)
    rows, series = len(days), len(cells)
    frame = pd.DataFrame({columns.ds: np.repeat(days, series)})
    for position, key in enumerate(columns.keys):
        frame[key] = np.tile(np.array([combination[position] for combination in cells], dtype=object), rows)
    for name in names:
        values = [table[header[by_name[name]]].to_numpy() for by_name in cells.values()]
        frame[name] = np.column_stack(values).astype("float64").ravel()
    place = np.array([by_name[columns.y] + 1 for by_name in cells.values()], dtype="int64")
    frame["line"] = (np.arange(2, rows + 2, dtype="int64")[:, None] * CELLS + place).ravel()
    return frame


def _wide_cells(text: _Text, header: list[str], customer: Customer) -> dict[tuple[str, ...], dict[str, int]]:
    """Key combination → long column → column of the file (from 0)."""
    wide, columns = customer.source.wide, customer.columns
    assert wide is not None
    pattern = re.compile(wide.columns)
    cells: dict[tuple[str, ...], dict[str, int]] = {}
    for column, name in enumerate(header):
        if name == columns.ds or name in wide.ignore:
            continue
        match = pattern.fullmatch(name)
        if match is None or match["value"] not in wide.values:
            raise text.error(
                1, f"column {column + 1}, header {name!r}, does not match {wide.columns!r} with a value of "
                f"{', '.join(wide.values)}.{near_miss(name, header[:column] + header[column + 1 :])} Was it renamed? "
                "Ask the data owner, or name it in source.wide.ignore"
            )  # fmt: skip
        by_name = cells.setdefault(tuple(match[key] or "" for key in columns.keys), {})
        if wide.values[match["value"]] in by_name:
            raise text.error(1, f"column {column + 1}, header {name!r}, means the same as an earlier column")
        by_name[wide.values[match["value"]]] = column
    _complete(text, header, cells, [columns.y, *customer.exogenous])
    return cells


def _complete(
    text: _Text, header: list[str], cells: dict[tuple[str, ...], dict[str, int]], names: Sequence[str]
) -> None:
    if not cells:
        raise text.error(1, f"no header matches source.wide.columns. Headers: {_listed(header)}")
    for combination, by_name in cells.items():
        for name in names:
            if name not in by_name:
                raise text.error(1, f"series {'/'.join(combination)} has no column for {name!r}; ask for a whole file")


def _days(text: _Text, column: pa.ChunkedArray[Any], name: str, header: list[str]) -> np.ndarray:
    """Days as datetime64[ns]; a text that is no date of the declared format becomes NaT, all of them an error."""
    form = text.source.date_format
    encoded = column.combine_chunks().dictionary_encode()
    unique = pd.Series(encoded.dictionary.to_pandas(), dtype=object)
    parsed = pd.to_datetime(unique, format=form, exact=True, errors="coerce").dt.normalize()
    if parsed.isna().all():
        example = next((value for value in unique if value), "")
        raise text.error(
            2, f"column {header.index(name) + 1} ({name}): {_short(example)!r} is no date of the format {form!r}, nor "
            "is any other row's. Did the source change its format? Ask the data owner, or declare source.date_format"
        )  # fmt: skip
    values = parsed.to_numpy("datetime64[ns]")
    indices = encoded.indices.to_pandas()  # floats with NaN where a cell is empty
    known = indices.notna().to_numpy()
    days = np.full(len(indices), np.datetime64("NaT"), dtype="datetime64[ns]")
    days[known] = values[indices[known].to_numpy("int64")]
    return days


# --- window ---------------------------------------------------------------------------------------------------------


def _window(rows: pd.DataFrame, customer: Customer, since: date | None, until: date) -> pd.DataFrame:
    """Rows of the wanted days, and those whose day cannot be read: they are for the contract to judge."""
    day = rows[customer.columns.ds]
    keep = day <= pd.Timestamp(until)
    if since is not None:
        first = period_end(shift(since, -1, customer.frequency), customer.frequency) + timedelta(days=1)
        keep &= day >= pd.Timestamp(first)
    return rows[keep | day.isna()].reset_index(drop=True)


def _blank_unknown(rows: pd.DataFrame, customer: Customer, cutoff: date) -> pd.DataFrame:
    """Blank what a run at ``cutoff`` may not know."""
    later = (rows[customer.columns.ds] > pd.Timestamp(cutoff)).to_numpy()
    historic = [name for name, column in customer.exogenous.items() if column.known == "historic"]
    for name in (customer.columns.y, *historic):
        rows[name] = np.where(later, np.nan, rows[name])
    return rows


def _watermark(rows: pd.DataFrame, customer: Customer, cutoff: date) -> date | None:
    day = rows.loc[rows[customer.columns.y].notna(), customer.columns.ds]
    newest = day[day <= pd.Timestamp(cutoff)].max()
    return None if pd.isna(newest) else newest.date()
