"""Rows of a customer's own database: bound parameters, declared columns and days only, streamed."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.elements import quoted_name

from forecasting.config import Customer
from forecasting.data.sources import clock, dialects
from forecasting.data.sources.dialects import Database
from forecasting.data.sources.storage import Access
from forecasting.data.sources.table import FILES, Piece, Wanted, columns_of
from forecasting.errors import ConfigurationError, SourceError, near_miss
from forecasting.feed import SqlSource, TablePart
from forecasting.periods import midnight, shift

__all__ = ["BATCH", "NEWEST", "Examined", "declared", "examine", "read"]

BATCH = 20_000
"""Rows that are fetched at a time."""
NEWEST = 7
"""Days that :func:`examine` counts the rows of."""
_EXACT = 2**53 - 1
"""Largest whole number that a float holds beside its neighbours."""
_FIRST, _LAST = np.datetime64("1678-01-01"), np.datetime64("2262-01-01")
_NUMBERS = (sa.Integer, sa.Numeric, sa.Float, sa.Boolean)
_ISO = "ISO8601"


def read(customer: Customer, access: Access, since: date | None, until: date) -> Iterator[Piece]:
    """Each part's rows of the wanted days, one piece a part, all of one state of the database.

    Where no column is known in the future, no day after the cutoff is read. Rows without a day (and texts that do not
    look like one) are read in every pull, for the contract to judge. Rows have no numbers of their own: they are sorted
    by all their columns and numbered from 1, so that equal content has equal numbers.

    Raises:
        SourceUnavailableError: The database cannot be reached, or is too slow.
        SourceError: A table is not what is declared; the message names table, column, expectation, remedy.
        ConfigurationError: The connection, or a table's name, cannot be used.
    """
    source = customer.source
    assert isinstance(source, SqlSource)
    ahead = any(column.known == "future" for column in customer.exogenous.values())
    last = until if ahead else shift(until, -customer.horizon, customer.frequency)
    left = source.max_rows
    with dialects.opened(access.connection_uri, access.root, source.timeout) as database:
        for number, part in enumerate(source.places()):
            days = _Days(max(filter(None, (since, part.since)), default=None), min(last, part.until or last))
            piece = _Part(database, customer, source, part).read(days, left, number)
            left -= len(piece.rows)
            yield piece


class Examined(NamedTuple):
    """What stands in a table, as far as a customer's file declares it."""

    table: str
    columns: dict[str, str]
    """Declared column, under the table's name for it → type."""
    days: dict[date, int]
    """Each of the newest days that has rows → rows."""


def examine(customer: Customer, access: Access, today: date) -> Iterator[Examined]:
    """Look at each part: its declared columns, and the newest ``NEWEST`` days up to ``today``; errors as in `read`."""
    source = customer.source
    assert isinstance(source, SqlSource)
    with dialects.opened(access.connection_uri, access.root, source.timeout) as database:
        for part in source.places():
            yield _Part(database, customer, source, part).examine(min(today, part.until or today))


def declared(customer: Customer, connection: sa.Connection) -> dict[tuple[str | None, str], list[str]]:
    """Schema and table → the columns of it that the customer's file declares; errors as in :func:`read`."""
    source = customer.source
    assert isinstance(source, SqlSource)
    parts = [_Part(Database.over(connection, source.timeout), customer, source, part) for part in source.places()]
    wanted = Wanted.of(customer)
    return {part.place: list(dict.fromkeys(part.found(wanted, list(part.reflected())).values())) for part in parts}


class _Days(NamedTuple):
    since: date | None
    until: date

    @property
    def none(self) -> bool:
        return self.since is not None and self.since > self.until

    def hold(self, day: np.ndarray) -> np.ndarray:
        """Which days are these, or none at all."""
        inside = day <= np.datetime64(self.until)
        if self.since is not None:
            inside &= day >= np.datetime64(self.since)
        held: np.ndarray = inside | np.isnat(day)
        return held


@dataclass(frozen=True)
class _Part:
    """A table, and what is declared about it."""

    database: Database
    customer: Customer
    source: SqlSource
    part: TablePart

    def read(self, days: _Days, budget: int, number: int) -> Piece:
        """Its rows of these days; a part that holds none of them is not asked."""
        wanted = Wanted.of(self.customer)
        columns = _nothing(wanted) if days.none else self._read(wanted, days, budget)
        inside = days.hold(columns[wanted.day])
        outside = len(inside) - int(inside.sum())
        if outside:
            columns = {name: values[inside] for name, values in columns.items()}
        frame, digest = _sorted(columns, wanted)
        frame["line"] = np.arange(1, len(frame) + 1, dtype="int64") + number * FILES
        return Piece(self.part.table, frame, outside, digest, 0)

    def examine(self, today: date) -> Examined:
        """Its declared columns, and its newest days up to ``today``."""
        wanted, types = Wanted.of(self.customer), self.reflected()
        at = self.found(wanted, list(types))
        day = _Day.of(types[at[wanted.day]], self, at[wanted.day])
        shown = {at[name]: str(types[at[name]]) for name in wanted.columns}
        with self._told(), self.database.waiting():
            found = self.database.connection.execute(self._select([sa.func.max(day.asked())]).where(day.before(today)))
            newest = day.local(day.read([found.scalar_one()])).astype("datetime64[D]").item()
        if newest is None:
            return Examined(self.part.table, shown, {})
        first = max(filter(None, (newest - timedelta(days=NEWEST - 1), self.part.since)))
        rows = self.read(_Days(first, newest), self.source.max_rows, 0).rows
        held, counts = np.unique(rows[wanted.day].dropna().to_numpy("datetime64[D]"), return_counts=True)
        return Examined(self.part.table, shown, dict(zip(held.tolist(), counts.tolist(), strict=True)))

    def _read(self, wanted: Wanted, days: _Days, budget: int) -> dict[str, np.ndarray]:
        """Feed column → its values, in the order they came."""
        types = self.reflected()
        at = self.found(wanted, list(types))
        day = _Day.of(types[at[wanted.day]], self, at[wanted.day])
        statement = self._statement(wanted, at, types, day, days)
        kept, rows = [], 0
        texts: dict[str, str] = {}
        with closing(self._stream(statement)) as batches:
            for batch in batches:
                rows += len(batch)
                if rows > budget:
                    raise self.error(
                        f"the pull holds more than source.max_rows, {self.source.max_rows} rows; if it should, raise "
                        "max_rows"
                    )
                columns = dict(zip(wanted.columns, zip(*batch, strict=True), strict=True))
                made = {wanted.day: day.read(columns[wanted.day])}
                made |= {name: self._texts(columns[name], at[name], texts) for name in wanted.texts}
                kept.append(made | {n: self._numbers(columns[n], at[n], types[at[n]]) for n in wanted.numbers})
        if not kept:
            return _nothing(wanted)
        joined = {name: np.concatenate([batch.pop(name) for batch in kept]) for name in wanted.columns}
        return {**joined, wanted.day: day.local(joined[wanted.day])}

    def _stream(self, statement: sa.Select[Any]) -> Generator[Sequence[sa.Row[Any]]]:
        """The result's rows, some at a time, each wait bounded."""
        with self._told(), self.database.waiting():
            result = self.database.connection.execute(
                statement, execution_options={"stream_results": True, "yield_per": BATCH}
            )
        batches = result.partitions()
        try:
            while True:
                with self._told(), self.database.waiting():
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch
        finally:
            with suppress(SourceError), self.database.waiting():  # what ended the reading is said, not this
                result.close()

    def _told(self) -> _Told:
        return _Told(self)

    def error(self, message: str) -> SourceError:
        """The error to raise about the table."""
        return SourceError(f"{self.part.table}: {message}")

    # --- what is there ------------------------------------------------------

    @property
    def place(self) -> tuple[str | None, str]:
        """Schema and table."""
        names = self.part.table.split(".")
        if len(names) > 2 or not all(names):
            raise ConfigurationError(
                f"{self.customer.id}: source.table {self.part.table!r}: expected `table` or `schema.table`; for a name "
                "that holds dots itself, or a table of another database, make a view"
            )
        return (names[0] if len(names) == 2 else None), names[-1]

    def reflected(self) -> dict[str, sa.types.TypeEngine[Any]]:
        """Column → type, as the database declares it."""
        schema, table = self.place
        with self.database.waiting():
            inspector = sa.inspect(self.database.connection)
            try:
                with warnings.catch_warnings():  # of types that SQLAlchemy does not know; one that is read is refused
                    warnings.simplefilter("ignore", exc.SAWarning)
                    columns = inspector.get_columns(table, schema)
            except exc.NoSuchTableError:
                columns = []
            if not columns:
                raise self._missing(inspector)
        return {column["name"]: _plain(column["type"]) for column in columns}

    def _missing(self, inspector: sa.Inspector) -> SourceError:
        schemas = inspector.get_schema_names() if self.database.dialect != "sqlite" else [None]
        there = [
            f"{schema}.{name}" if schema and schema != inspector.default_schema_name else name
            for schema in schemas[:20] if schema != "information_schema"
            for name in [*inspector.get_table_names(schema), *inspector.get_view_names(schema)]
        ]  # fmt: skip
        same = [name for name in there if name.rpartition(".")[2] == self.part.table.rpartition(".")[2]]
        hint = f" Did you mean {same[0]!r}?" if same else near_miss(self.part.table, there)
        return self.error(
            f"there is no such table or view in {self.database.shown}.{hint} Was it renamed? Ask the data owner, or "
            "correct source.table"
        )

    def found(self, wanted: Wanted, header: list[str]) -> dict[str, str]:
        """Feed column → the table's column; every one must be there, once."""
        names = dict(self.source.names) | dict(self.part.names)
        try:
            found = columns_of(wanted.columns, names, header)
        except ValueError as error:
            raise self.error(f"{error}. Ask the data owner, or name one in source.names") from None
        for name, column in found.items():
            if column is None:
                declared = names.get(name, name)
                sought = declared if isinstance(declared, str) else " or ".join(declared)
                raise self.error(
                    f"there is no column {sought!r}.{near_miss(sought, header)} Columns: {', '.join(header[:30])}. Was "
                    "it renamed? Ask the data owner, or change the customer's `columns` or `source.names`"
                )
        return {name: column for name, column in found.items() if column is not None}

    # --- what is asked ------------------------------------------------------

    def _statement(
        self, wanted: Wanted, at: dict[str, str], types: dict[str, sa.types.TypeEngine[Any]], day: _Day, days: _Days
    ) -> sa.Select[Any]:
        made = {wanted.day: day.asked()}
        made |= {name: self._asked_text(at[name], types[at[name]]) for name in wanted.texts}
        made |= {name: self._asked_number(at[name], types[at[name]]) for name in wanted.numbers}
        return self._select([made[name] for name in wanted.columns]).where(day.within(days))

    def _select(self, columns: Sequence[sa.ColumnElement[Any]]) -> sa.Select[Any]:
        schema, table = self.place
        place = sa.table(quoted_name(table, True), schema=quoted_name(schema, True) if schema else None)
        return sa.select(*(column.label(f"c{n}") for n, column in enumerate(columns))).select_from(place)

    def _asked_text(self, column: str, kind: sa.types.TypeEngine[Any]) -> sa.ColumnElement[Any]:
        if isinstance(kind, sa.String) or self.database.dialect == "sqlite":
            return _column(column)
        if not isinstance(kind, (*_NUMBERS, sa.Date, sa.DateTime, sa.Uuid)):
            raise self.error(f"column {column!r} is of type {kind!s}, of which no text is made; {_VIEW}")
        return sa.cast(_column(column), sa.Text) if self.database.dialect == "postgresql" else _column(column)

    def _asked_number(self, column: str, kind: sa.types.TypeEngine[Any]) -> sa.ColumnElement[Any]:
        if self.database.dialect == "sqlite":
            return _column(column)
        if not isinstance(kind, _NUMBERS):
            raise self.error(f"column {column!r} is of type {kind!s}; expected a number; {_VIEW}")
        exact = isinstance(kind, sa.Numeric) and not isinstance(kind, sa.Float)  # one is the other's, by version
        return sa.cast(_column(column), sa.Double) if exact and self._casts else _column(column)

    @property
    def _casts(self) -> bool:
        """PostgreSQL rounds a decimal to the nearest float as Python does, and many times faster."""
        return self.database.dialect == "postgresql"

    # --- what comes ---------------------------------------------------------

    def _numbers(self, values: Sequence[Any], column: str, kind: sa.types.TypeEngine[Any]) -> np.ndarray:
        if strange := set(map(type, values)) - {int, float, bool, Decimal, type(None)}:
            value = next(value for value in values if type(value) in strange)
            raise self.error(f"column {column!r} holds {_short(value)}, which is no number; {_VIEW}")
        made = np.array(values, dtype="float64")
        if not isinstance(kind, sa.Float):
            large = np.isfinite(made) & (np.abs(made) > _EXACT)
            if large.any():
                value = values[int(large.argmax())]
                raise self.error(
                    f"column {column!r} holds {_short(value)}, more than a float holds exactly ({_EXACT}); is it an "
                    "identifier? Declare it as a key or among columns.other"
                )
        return made + 0.0  # minus zero and zero are one content

    def _texts(self, values: Sequence[Any], column: str, known: dict[str, str]) -> np.ndarray:
        """Texts; equal ones are one object: a feed repeats its keys."""
        kinds = set(map(type, values))
        if strange := kinds - {str, int, float, bool, Decimal, date, datetime, UUID, type(None)}:
            value = next(value for value in values if type(value) in strange)
            raise self.error(f"column {column!r} holds {_short(value)}, of which no text is made; {_VIEW}")
        if not kinds <= {str, type(None)}:
            values = [None if value is None else str(value) for value in values]
        nul = next((value for value in set(values) if value and "\0" in value), None)
        if nul is not None:
            raise self.error(f"column {column!r} holds {_short(nul)} with NUL characters; expected text; {_VIEW}")
        made = np.empty(len(values), dtype=object)
        made[:] = [None if value is None else known.setdefault(value, value) for value in values]
        return made


_VIEW = "ask the data owner, or read a view that casts it"


class _Told:
    """Say of which table it is what the database refuses."""

    def __init__(self, part: _Part) -> None:
        self.part = part

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if type(error) is SourceError and "may not read" in str(error):
            raise self.part.error(
                f"the login of the customer's connection may not read it; ask {self.part.database.shown}'s "
                "administrator for SELECT on the declared columns (and USAGE on the schema)"
            ) from None
        if type(error) is SourceError:
            raise self.part.error(str(error)) from None


def _plain(kind: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
    while isinstance(kind, postgresql.DOMAIN):
        kind = kind.data_type
    return kind


def _column(name: str, kind: sa.types.TypeEngine[Any] | None = None) -> sa.ColumnElement[Any]:
    return sa.column(quoted_name(name, True), kind)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:25]}…{text[-12:]}"


# --- days -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Day:
    """The column of days: how it is bounded and read, by its type."""

    name: str
    held: str
    """day, local or instant (a time of the customer's zone, of UTC), or text."""
    zoned: bool
    """The database itself knows that it is an instant."""
    part: _Part
    form: str = _ISO
    """Of texts: strptime format."""
    shifts: bool = False
    """Of texts: one may stand for the day before or after the one that it begins with."""

    @classmethod
    def of(cls, kind: sa.types.TypeEngine[Any], part: _Part, name: str) -> _Day:
        """By the column's declared type.

        Raises:
            SourceError: It holds no days.
        """
        source = part.source
        if part.database.dialect == "sqlite" and isinstance(kind, (sa.Date, sa.DateTime)):
            return cls(name, "text", False, part, shifts=isinstance(kind, sa.DateTime))  # it keeps them as ISO texts
        if part.database.dialect == "sqlite" and isinstance(kind, sa.types.NullType):
            return cls(name, "text", False, part, shifts=True)  # a view's expression
        if isinstance(kind, sa.DateTime):
            zoned = bool(kind.timezone) or (part.database.dialect == "mysql" and isinstance(kind, sa.TIMESTAMP))
            return cls(name, "instant" if zoned or source.clock == "utc" else "local", zoned, part)
        if isinstance(kind, sa.Date):
            return cls(name, "day", False, part)
        if isinstance(kind, sa.String) and re.match(r"%Y(.?)%m\1%d(?![^T _])", source.date_format):
            shifts = "%z" in source.date_format.lower() or source.clock == "utc"
            return cls(name, "text", False, part, source.date_format, shifts)
        raise part.error(
            f"column {name!r} is of type {kind!s}; expected a date or a time (or a text whose source.date_format "
            f"begins with year, month and day, so that it sorts as they do). Read a view with a date: CREATE VIEW … AS "
            f"SELECT …, CAST({name} AS date) AS {name} …"
        )

    def asked(self) -> sa.ColumnElement[Any]:
        """What is selected: of PostgreSQL whole numbers, which need no object a row: days, or seconds of an instant."""
        column = _column(self.name)
        if not self._counted:
            return column
        if self.held == "instant":
            return sa.cast(sa.func.floor(sa.extract("epoch", column)), sa.BigInteger)
        return sa.cast(column, sa.Date) - sa.literal_column("DATE '1970-01-01'", sa.Date())

    @property
    def _counted(self) -> bool:
        return self.part.database.dialect == "postgresql" and self.held != "text"

    def within(self, days: _Days) -> sa.ColumnElement[bool]:
        """The days, and what is none."""
        column = _column(self.name, self._type())
        tests = [column < self._bound(days.until + timedelta(days=1), late=True)]
        if days.since is not None:
            tests.append(column >= self._bound(days.since, late=False))
        without = [column.is_(None)]
        if self.held == "text":
            without.append(column.not_like(self._pattern()))
        return sa.or_(sa.and_(*tests), *without)

    def before(self, today: date) -> sa.ColumnElement[bool]:
        """Days up to ``today``, and nothing that does not look like one."""
        column = _column(self.name, self._type())
        test = column < self._bound(today + timedelta(days=1), late=False)
        return sa.and_(test, column.like(self._pattern())) if self.held == "text" else test

    def _type(self) -> sa.types.TypeEngine[Any]:
        if self.held == "text":
            return sa.String()
        return sa.Date() if self.held == "day" else sa.DateTime(timezone=self.zoned)

    def _bound(self, day: date, *, late: bool) -> object:
        """The first moment of a local day, in the column's own terms."""
        zone = self.part.customer.time_zone
        if self.held == "day":
            return day
        if self.held == "local":
            return datetime.combine(day, time())
        if self.held == "instant":
            moment = midnight(day, zone)
            return moment if self.zoned else moment.replace(tzinfo=None)
        if self.shifts:  # by less than a day; what is too much is left out when it is known
            day += timedelta(days=1 if late else -1)
        return day.strftime(self._prefix())

    def _prefix(self) -> str:
        return "%Y-%m-%d" if self.form == _ISO else self.form[: self.form.index("%d") + 2]

    def _pattern(self) -> str:
        return self._prefix().replace("%Y", "____").replace("%m", "__").replace("%d", "__") + "%"

    def read(self, values: Sequence[Any]) -> np.ndarray:
        """A batch, before it is known what all of them are."""
        if self.held == "text":
            made = np.empty(len(values), dtype=object)
            made[:] = [None if value is None else str(value) for value in values]
            return made
        if self._counted:
            counts = np.array(values, dtype="float64")  # exact: of days, or seconds
            days: np.ndarray = (
                np.nan_to_num(counts).astype("int64").astype(f"datetime64[{'s' if self.held == 'instant' else 'D'}]")
            )
            days[np.isnan(counts)] = np.datetime64("NaT")
            return days
        if any(getattr(value, "tzinfo", None) for value in values[:1]):
            values = [value and value.astimezone(UTC).replace(tzinfo=None) for value in values]
        return np.array(values, dtype="datetime64[us]")

    def local(self, values: np.ndarray) -> np.ndarray:
        """Local days as datetime64[ns]; NaT where there is none, or none that a nanosecond reaches."""
        if self.held == "text":
            codes, unique = pd.factorize(values)
            days = self._parsed(pd.Series(unique, dtype=object))
            if len(days) and np.isnat(days).all():
                raise self.part.error(
                    f"column {self.name!r}: {_short(unique[0])} is no date of the format {self.form!r}, nor is any "
                    "other row's; ask the data owner, or declare source.date_format"
                )
            return clock.spread(days, pd.Series(codes).where(codes >= 0))
        values = np.where((values < _FIRST) | (values > _LAST), np.datetime64("NaT"), values)
        times = pd.Series(values.astype("datetime64[ns]"))
        if self.held == "instant":
            times = times.dt.tz_localize("UTC")
        return clock.from_times(times, self.part.customer.time_zone, "local")

    def _parsed(self, texts: pd.Series) -> np.ndarray:
        zone, mode = self.part.customer.time_zone, self.part.source.clock
        if self.form != _ISO:
            return clock.from_texts(texts, self.form, zone, mode)
        # SQLite keeps what it is given: with a zone, or without
        zoned = texts.str.contains(r":\d\d.*(?:Z|[+-]\d\d:?\d\d)$", regex=True).to_numpy("bool")
        days = np.full(len(texts), np.datetime64("NaT"), dtype="datetime64[ns]")
        for some, aware in ((zoned, True), (~zoned, False)):
            times = pd.to_datetime(texts[some], format=_ISO, errors="coerce", utc=aware)
            days[some] = clock.from_times(times, zone, mode)
        return days


# --- order ----------------------------------------------------------------------------------------------------------


def _nothing(wanted: Wanted) -> dict[str, np.ndarray]:
    """Columns without rows, of the types that rows would have."""
    made: dict[str, np.ndarray] = {wanted.day: np.array([], dtype="datetime64[ns]")}
    made |= {name: np.array([], dtype=object) for name in wanted.texts}
    return made | {name: np.array([], dtype="float64") for name in wanted.numbers}


def _sorted(columns: dict[str, np.ndarray], wanted: Wanted) -> tuple[pd.DataFrame, str]:
    """The rows in the order of all their columns, and the hash of the content in that order."""
    codes, texts = {}, {}
    for name in wanted.texts:
        codes[name], texts[name] = pd.factorize(columns[name], sort=True)
    ranks = [codes.get(name, columns[name]) for name in wanted.columns]
    order = np.lexsort(ranks[::-1])
    digest = hashlib.sha256()
    for name, rank in zip(wanted.columns, ranks, strict=True):
        words = [f"{len(word)}:{word}" for word in texts.get(name, ())]
        digest.update(f"\n{name} {len(order)} {' '.join(words)}\n".encode())
        digest.update(np.ascontiguousarray(rank[order]).tobytes())
    return pd.DataFrame({name: columns[name][order] for name in wanted.columns}), digest.hexdigest()
