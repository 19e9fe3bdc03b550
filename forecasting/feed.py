"""What a customer's file declares of its feed: where it stands, in what form, and what its columns mean.

A *source* is where the rows come from; a *part* of it holds some of the days under its own column names; everything
else speaks of the feed's columns, whatever a part calls them. Light to import: every DAG parse pays for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

__all__ = [
    "COLUMN",
    "DELIVERED",
    "KEY",
    "SECRET",
    "Columns",
    "CsvSource",
    "Exclude",
    "Exogenous",
    "FilePart",
    "FileSource",
    "Frozen",
    "ParquetSource",
    "Source",
    "SqlSource",
    "TablePart",
    "Unit",
    "Wide",
    "XlsxSource",
    "kinds",
]

COLUMN = r"^[A-Za-z_][A-Za-z0-9_ .\-]{0,62}$"
"""Name of a feed column."""
KEY = r"^[a-z_][a-z0-9_]{0,30}$"
"""Name that also becomes a name in the warehouse."""
DELIVERED = "delivered:"
"""Begins the path of a file below the customer's own folder of FORECASTING_DELIVERIES."""
SECRET = "secret"
"""Type of the fault whose value no message may show."""

# a password may hold a bare slash, and what follows a host's colon be a port; abfs://container@account is no login
_USERINFO = re.compile(r"://[^/@:?]*:(?![0-9]*(/|$))[^@?]*@|https?://[^/@?]+@", re.IGNORECASE)
_SECRET_PARAMETER = re.compile(
    r"sig$|signature|token|secret|passw|pwd|credential|(access|api)[-_]?key|authorization|^auth$", re.IGNORECASE
)
Name = Annotated[str, Field(min_length=1, max_length=200)]


class Frozen(BaseModel):
    """Base of every declaration: frozen, unknown keys refused."""

    # inputs stay out of pydantic's own texts: a source's URL may hold a secret by mistake
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


# --- where it stands ------------------------------------------------------------------------------------------------


class Wide(Frozen):
    """A wide table, melted to long: each column that matches ``columns`` becomes rows."""

    columns: str = Field(
        description="Regular expression that a whole header must match. Group `value` says which long column the cell "
        "belongs to (through `values`); every other named group becomes a long column of that name, but `period`."
    )
    values: dict[str, str] = Field(description="Text of group `value` in the header → name of the long column.")
    ignore: tuple[str, ...] = Field((), description="Headers, or regular expressions of them, known and not read.")
    first_period: date | None = Field(
        None,
        description="For columns that are periods: first day of the one that group `period` numbers 0. The table then "
        "holds one row per series and needs no column of days.",
    )

    @field_validator("columns")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        groups = _compiled(pattern).groupindex
        if "value" not in groups or len(groups) < 2:
            raise ValueError("needs a group (?P<value>…) and at least one more named group: a key, or `period`")
        return pattern

    @field_validator("ignore")
    @classmethod
    def _all_compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            _compiled(pattern)
        return patterns

    @model_validator(mode="after")
    def _dated(self) -> Self:
        if (self.first_period is None) == ("period" in re.compile(self.columns).groupindex):
            raise ValueError("a group (?P<period>…) and `first_period` go together: name both or neither")
        return self


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None


class _Part(Frozen):
    since: date | None = Field(None, description="First local day that is read here; default: no bound.")
    until: date | None = Field(None, description="Last local day that is read here; default: no bound.")
    names: dict[str, Name | tuple[Name, ...]] = Field(
        {}, description="Feed column → its name here, or a list of names of which exactly one is there."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.since and self.until and self.until < self.since:
            raise ValueError(f"until {self.until} lies before since {self.since}")
        return self


def _apart(parts: Sequence[FilePart | TablePart]) -> None:
    """Refuse parts that may hold the same day: its lines would count twice, and nothing would say so."""
    in_order = sorted(parts, key=lambda part: part.since or date.min)
    for before, after in pairwise(in_order):
        if (after.since or date.min) <= (before.until or date.max):
            raise ValueError(
                f"parts: {before.shown} and {after.shown} both hold {after.since or 'the first days'}, whose "
                "lines would count twice; give each its own days by `since` and `until`"
            )


class FilePart(_Part):
    """Days that stand in files of their own, under column names of their own."""

    uri: str = Field(min_length=1, description="As the source's `uri`.")

    @property
    def shown(self) -> str:
        """Where it stands, for messages."""
        return self.uri

    @field_validator("uri")
    @classmethod
    def _without_secrets(cls, uri: str) -> str:
        return without_secrets(uri)


class TablePart(_Part):
    """Days that stand in a table of their own, under column names of their own."""

    table: str = Field(min_length=1, max_length=200, description="As the source's `table`.")

    @property
    def shown(self) -> str:
        """Where it stands, for messages."""
        return self.table


class _Source(Frozen):
    connection: bool = Field(False, description="True when it needs credentials: the customer's connection.")
    timeout: int = Field(60, gt=0, le=3600, description="Connect and read time-out in seconds.")
    max_rows: int = Field(20_000_000, gt=0, description="Refuse a pull of more rows.")
    names: dict[str, Name | tuple[Name, ...]] = Field(
        {}, description="Feed column → its name in the source, or a list of names of which exactly one is there."
    )
    date_format: str = Field("%Y-%m-%d", description="strptime format of days and times held as text.")
    clock: Literal["local", "utc"] = Field(
        "local", description="What times without a zone are; times with one are always converted to local days."
    )


class FileSource(_Source):
    """Files, local or behind any URL that fsspec reads."""

    uri: str | None = Field(
        None,
        min_length=1,
        description="Path from the checkout's root, `delivered:<path>` below the customer's own folder of deliveries, "
        "or a URL such as `s3://bucket/file.csv`. `*` stands for any text within a name, `**` for folders.",
    )
    parts: tuple[FilePart, ...] = Field((), description="In place of `uri`: where which days stand.")
    day_in_name: str | None = Field(
        None,
        description="strptime format of the files' names, one file a day: only those of wanted days, and of the day "
        "before them, are opened.",
    )
    compression: Literal["infer", "none", "gzip", "zip"] = Field(
        "infer", description="By the name's ending, or as said."
    )
    max_bytes: int = Field(2_000_000_000, gt=0, description="Refuse more, in bytes, unpacked.")

    @field_validator("uri")
    @classmethod
    def _without_secrets(cls, uri: str | None) -> str | None:
        return uri if uri is None else without_secrets(uri)

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if bool(self.uri) == bool(self.parts):
            raise ValueError("source: needs `uri`, or `parts` in its place")
        _apart(self.parts)
        return self

    def places(self) -> tuple[FilePart, ...]:
        """The parts, oldest first as declared; a plain ``uri`` is the only one."""
        return self.parts or (FilePart(uri=str(self.uri)),)

    @property
    def shown(self) -> str:
        """Where it stands, for messages; without credentials."""
        return ", ".join(part.uri for part in self.places())


class CsvSource(FileSource):
    """Delimited text files."""

    kind: Literal["csv"] = "csv"
    delimiter: str = Field(",", min_length=1, max_length=1, description="One character.")
    encoding: str = Field("utf-8", description="Text encoding; anything that does not decode is refused.")
    decimal: Literal[".", ","] = Field(".", description="Decimal mark of numbers.")
    wide: Wide | None = Field(None, description="Declared for a wide file: how headers become rows.")


class ParquetSource(FileSource):
    """Parquet files: one, a folder (`folder/*.parquet`), or a partitioned tree (`tree/**/*.parquet`)."""

    kind: Literal["parquet"]
    partitioned: bool = Field(False, description="Folders named `column=value` make columns.")
    wide: Wide | None = Field(None, description="Declared for a wide file: how headers become rows.")


class XlsxSource(FileSource):
    """Excel workbooks: one sheet, a header in its first row."""

    kind: Literal["xlsx"]
    sheet: str | None = Field(None, description="Name of the sheet; default: the only one.")
    decimal: Literal[".", ","] = Field(".", description="Decimal mark of numbers held as text.")
    wide: Wide | None = Field(None, description="Declared for a wide sheet: how headers become rows.")


class SqlSource(_Source):
    """Tables or views of a database that SQLAlchemy reaches, through the customer's connection."""

    kind: Literal["sql"]
    connection: bool = Field(True, description="Always true: a database is reached by the customer's connection.")
    table: str | None = Field(None, min_length=1, max_length=200, description="`table`, or `schema.table`; or a view.")
    parts: tuple[TablePart, ...] = Field((), description="In place of `table`: where which days stand.")

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if bool(self.table) == bool(self.parts):
            raise ValueError("source: needs `table`, or `parts` in its place")
        _apart(self.parts)
        if not self.connection:
            raise ValueError("source: a database needs `connection: true`, or leave the key out")
        return self

    def places(self) -> tuple[TablePart, ...]:
        """The parts, oldest first as declared; a plain ``table`` is the only one."""
        return self.parts or (TablePart(table=str(self.table)),)

    @property
    def shown(self) -> str:
        """Where it stands, for messages; without credentials."""
        return ", ".join(part.table for part in self.places())

    @property
    def wide(self) -> None:
        """A table is never wide."""


_KINDS: dict[str, type[FileSource | SqlSource]] = {
    "csv": CsvSource,
    "parquet": ParquetSource,
    "xlsx": XlsxSource,
    "sql": SqlSource,
}


def kinds() -> dict[str, type[FileSource | SqlSource]]:
    """Kind of source → its model."""
    return dict(_KINDS)


def _kind(value: Any) -> str | None:
    """A source without `kind` is a csv; one of a kind we do not know has no tag, and is refused as such."""
    kind = value.get("kind", "csv") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind if isinstance(kind, str) and kind in _KINDS else None


Source = Annotated[
    Annotated[CsvSource, Tag("csv")]
    | Annotated[ParquetSource, Tag("parquet")]
    | Annotated[XlsxSource, Tag("xlsx")]
    | Annotated[SqlSource, Tag("sql")],
    Discriminator(
        _kind,
        custom_error_type="source_kind",
        custom_error_message="expected 'csv', 'parquet', 'xlsx' or 'sql'",
    ),
]


def without_secrets(uri: str) -> str:
    """``uri`` itself.

    Raises:
        PydanticCustomError: It holds credentials; their value stays out of the message.
    """
    found = _secret_in(uri)
    if found:
        raise PydanticCustomError(
            SECRET,
            "holds {found}; a customer file must not hold secrets. Take it out, set `connection: true`, and put "
            "the credentials into the customer's connection (in Airflow, or FORECASTING_CONN_<ID>)",
            {"found": found},
        )
    return uri


def _secret_in(url: str) -> str:
    """What kind of credentials a URL holds, without them; empty if none is recognised.

    >>> _secret_in("s3://KEY:SECRET@bucket/sales.csv"), _secret_in("https://host/sales.csv?day=1&sig=c2VjcmV0")
    ('a user name or password before the @', "the query parameter 'sig'")
    >>> _secret_in("s3://bucket:9000/sales@home.csv")
    ''
    """
    if _USERINFO.search(url):
        return "a user name or password before the @"
    names = [unquote(name) for name in re.findall(r"[?&;]([^=&;#]+)=", url)]
    return next((f"the query parameter {name!r}" for name in names if _SECRET_PARAMETER.search(name)), "")


# --- what its columns mean ------------------------------------------------------------------------------------------


class Unit(Frozen):
    """A column that says in which unit a line's quantity is."""

    column: str = Field(pattern=COLUMN, description="Feed column that holds the unit.")
    factors: dict[str, Annotated[float, Field(gt=0)]] = Field(
        min_length=1, description="Text of the unit → pieces (or the unit forecast in) that one of it is."
    )


class Columns(Frozen):
    """How the feed's (long) columns become the canonical panel's."""

    ds: str = Field(pattern=COLUMN, description="Feed column that holds the day, or the time, of the sale.")
    y: str = Field(pattern=COLUMN, description="Feed column that holds the quantity sold, in units.")
    keys: tuple[Annotated[str, Field(pattern=KEY)], ...] = Field(
        min_length=1, max_length=5, description="Feed columns that name a series, widest group first."
    )
    unit: Unit | None = Field(None, description="Declared where lines are in several units.")
    other: tuple[Annotated[str, Field(pattern=COLUMN)], ...] = Field(
        (), description="Feed columns read as text that only tell lines apart, such as an invoice's number."
    )


class Exogenous(Frozen):
    """A column beside the target."""

    known: Literal["static", "historic", "future"] = Field(
        description="static: constant per series; historic: known up to the cutoff; future: known over the horizon."
    )
    fill: float | Literal["last"] = Field(
        0.0,
        description="Value used, and counted, where a period has none: a future plan that does not reach, an absent "
        "row. `last`: the series' last known value.",
    )
    aggregate: Literal["max", "mean", "sum"] = Field("max", description="How lines of one period are put together.")
    of: str | None = Field(
        None, pattern=COLUMN, description="Derived: sum of this feed column over the period, divided by that of `per`."
    )
    per: str | None = Field(None, pattern=COLUMN, description="Derived: see `of`; a price is sales value per quantity.")

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.of is None) != (self.per is None):
            raise ValueError("`of` and `per` go together: name both or neither")
        if self.fill == "last" and self.known == "future":
            raise ValueError("fill: last is for columns known up to the cutoff; a plan needs a value of its own")
        if self.of and self.known != "historic":
            raise ValueError("a column derived from what was sold is known only up to the cutoff: known: historic")
        return self

    def reads(self, name: str) -> tuple[str, ...]:
        """The feed columns that the column ``name`` is made from."""
        return (self.of, self.per) if self.of and self.per else (name,)


class Exclude(Frozen):
    """A rule by which lines are left out, and counted, before the contract judges the others."""

    rule: str = Field(pattern=KEY, description="Its name, as the counts and `explain-run` say it.")
    column: str = Field(pattern=COLUMN, description="Feed column it looks at.")
    values: tuple[str, ...] = Field((), description="Leave out lines whose text is one of these.")
    matches: str | None = Field(None, description="Leave out lines whose whole text matches this regular expression.")
    at_most: float | None = Field(None, description="Leave out lines whose number is this or less.")
    at_least: float | None = Field(None, description="Leave out lines whose number is this or more.")

    @field_validator("matches")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            _compiled(pattern)
        return pattern

    @model_validator(mode="after")
    def _one_test(self) -> Self:
        tests = [bool(self.values), self.matches is not None, self.at_most is not None, self.at_least is not None]
        if sum(tests) != 1:
            raise ValueError("needs exactly one of `values`, `matches`, `at_most`, `at_least`")
        return self

    @property
    def numeric(self) -> bool:
        """True when the rule compares numbers."""
        return self.at_most is not None or self.at_least is not None
