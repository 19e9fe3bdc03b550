"""What every kind of source makes: a table with a header, read into the feed's own columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from forecasting.config import Customer
from forecasting.errors import SourceError

__all__ = ["CELLS", "FILES", "Cells", "Names", "Piece", "Wanted", "columns_of", "repeated"]

CELLS = 1_000_000
"""A wide file's cell is numbered ``file line * CELLS + file column``; a long file's row by its file line alone."""
FILES = 1_000_000_000_000
"""Rows of the n-th file are numbered from ``n * FILES``."""

Names = Mapping[str, str | tuple[str, ...]]
"""Feed column → its name in a part, or the names of which exactly one is there; others bear their own."""


@dataclass(frozen=True)
class Wanted:
    """The feed's columns that a customer reads, by how they are read."""

    day: str
    texts: tuple[str, ...]
    """Keys first."""
    numbers: tuple[str, ...]
    """The target first."""
    unknown: tuple[str, ...]
    """Numbers that a run may not see after its cutoff."""

    @classmethod
    def of(cls, customer: Customer) -> Wanted:
        """What ``customer`` declares."""
        columns, rules = customer.columns, customer.exclude
        texts = [*columns.keys, *([columns.unit.column] if columns.unit else []), *columns.other]
        texts += [rule.column for rule in rules if not rule.numeric]
        made = {name: column.reads(name) for name, column in customer.exogenous.items()}
        numbers = [columns.y, *(name for names in made.values() for name in names)]
        numbers += [rule.column for rule in rules if rule.numeric]
        planned = {name for key, names in made.items() for name in names if customer.exogenous[key].known != "historic"}
        unique_numbers = tuple(dict.fromkeys(numbers))
        unknown = tuple(name for name in unique_numbers if name not in planned)
        return cls(columns.ds, tuple(dict.fromkeys(texts)), unique_numbers, unknown)

    @property
    def columns(self) -> tuple[str, ...]:
        """All of them, in a pull's order."""
        return (self.day, *self.texts, *self.numbers)


@dataclass(frozen=True)
class Piece:
    """The rows of one file or table."""

    name: str
    """Where they stand, without credentials."""
    rows: pd.DataFrame
    """:attr:`Wanted.columns` and ``line``."""
    outside: int
    """Rows of days that its part does not hold."""
    sha256: str
    bytes: int


class Cells(Protocol):
    """One file, opened: a header, and columns under the header's names."""

    first_line: int
    """Number of the first row below the header."""

    @property
    def header(self) -> Sequence[str]:
        """Names of the columns, each once."""

    def read(self, numbers: Sequence[str], texts: Sequence[str], days: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns by name, all of one length: float64, object (None where empty), datetime64[ns] (local days).

        A single value that cannot be read as a day is NaT: it is for the contract to judge. One that is no number is an
        error: nothing says what it was meant to be.

        Raises:
            SourceError: The file is not what is declared; the message names it, line, column, value and remedy.
        """

    def error(self, line: int, message: str) -> SourceError:
        """The error to raise about a line."""


def repeated(names: Sequence[str]) -> str | None:
    """The first name that is there more than once.

    >>> repeated(["a", "b", "a"]), repeated(["a"])
    ('a', None)
    """
    counts = Counter(names)
    return next((name for name in counts if counts[name] > 1), None)


def columns_of(wanted: Sequence[str], names: Names, header: Sequence[str]) -> dict[str, str | None]:
    """Feed column → the header's name for it; None where none of its names is there.

    Raises:
        ValueError: Several names of one column are there.
    """
    found: dict[str, str | None] = {}
    for name in wanted:
        declared = names.get(name, name)
        options = [declared] if isinstance(declared, str) else list(declared)
        there = [option for option in options if option in header]
        if len(there) > 1:
            raise ValueError(
                f"holds both {there[0]!r} and {there[1]!r}, which both mean {name!r}; expected one of them"
            )
        found[name] = there[0] if there else None
    return found
