"""Frames as text: tables for a terminal, JSON for a program."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, time
from decimal import Decimal

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["as_json", "count", "document", "facts", "heading", "listing", "page_console", "show", "table", "texts"]


def table(frame: pd.DataFrame, title: str | None = None) -> Table:
    """A terminal table of ``frame``: numbers to the right, floats to four significant digits, nulls empty."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for name, dtype in frame.dtypes.items():
        made.add_column(str(name), justify="right" if dtype.kind in "iuf" else "left", no_wrap=True)
    for row in frame.itertuples(index=False):
        made.add_row(*(_text(value) for value in row))
    return made


def _text(value: object) -> str:
    if _is_null(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_null(value: object) -> bool:
    return value is None or value is pd.NA or value != value


def as_json(frame: pd.DataFrame) -> str:
    """The rows as a JSON list of objects: days and moments in ISO 8601, nulls as null, a second ``n`` as ``n_2``.

    >>> print(as_json(pd.DataFrame([[1, date(2018, 10, 1), None]], columns=["n", "ds", "n"])))
    [
      {
        "n": 1,
        "ds": "2018-10-01",
        "n_2": null
      }
    ]
    """
    names = _distinct([str(name) for name in frame.columns])
    rows = [
        {name: _plain(value) for name, value in zip(names, row, strict=True)}
        for row in frame.itertuples(index=False, name=None)
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False, default=str)


def document(value: Mapping[str, object]) -> str:
    """A nested document as JSON, its values as :func:`as_json` writes them.

    >>> print(document({"run": {"run_date": date(2018, 10, 1)}, "lines": [float("nan")]}))
    {
      "run": {
        "run_date": "2018-10-01"
      },
      "lines": [
        null
      ]
    }
    """
    return json.dumps(_nested(value), indent=2, ensure_ascii=False, default=str)


def _nested(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _nested(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_nested(inner) for inner in value]
    return _plain(value)


def _distinct(names: list[str]) -> list[str]:
    """Each name once: a repeated one is numbered, past names that are taken.

    >>> _distinct(["n", "n", "n_2"])
    ['n', 'n_3', 'n_2']
    """
    taken = set(names)
    seen: set[str] = set()
    made = []
    for name in names:
        n, given = 1, name
        while given in seen or (given != name and given in taken):
            n, given = n + 1, f"{name}_{n + 1}"
        seen.add(given)
        made.append(given)
    return made


def _plain(value: object) -> object:
    """The nearest that JSON has: days and moments in ISO 8601, what is not finite as text."""
    if _is_null(value):
        return None
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, Decimal) and value.is_finite():
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def show(made: Table) -> None:
    """Print a table as wide as it is: a line that a terminal folds can still be read, a squeezed column cannot."""
    console = Console(highlight=False)
    wide = console.options.update(max_width=100_000)
    console.width = max(console.width, console.measure(made, options=wide).maximum)
    console.print(made, markup=False)


# --- pages ----------------------------------------------------------------------------------------------------------

NARROWEST, WIDEST = 80, 120
"""Columns that a page keeps to, whatever the terminal says."""


def page_console() -> Console:
    """A console for a page: within a line length that can be read and pasted."""
    console = Console(highlight=False)
    console.width = min(max(console.width, NARROWEST), WIDEST)
    return console


def heading(text: str) -> Text:
    """A heading with a line above it."""
    return Text(f"\n{text}", style="bold")


def facts(rows: Sequence[tuple[str, ...]]) -> Table:
    """Names, then what is said of them; of three columns the middle one is a number. The last one folds."""
    made, columns = Table.grid(padding=(0, 2)), len(rows[0]) if rows else 0
    for i in range(columns):
        last = i == columns - 1
        made.add_column(no_wrap=not last, overflow="fold", justify="right" if i > 0 and not last else "left")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def listing(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table that folds to the page's width; numbers to the right, texts as they are."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, name in enumerate(head):
        number = bool(rows) and isinstance(rows[0][i], int | float)
        made.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(_cell(cell)) for cell in row))
    return made


def texts(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of texts that are shown as they are, unfolded; what begins as a number does stands to the right."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, name in enumerate(head):
        number = bool(rows) and i > 0 and all(row[i][:1] in "+-–0123456789" for row in rows)
        made.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    return count(value) if isinstance(value, int) else str(value)


def count(number: int | None) -> str:
    """A count for people, digits in groups; unknown is a question mark.

    >>> count(1234567), count(None)
    ('1,234,567', '?')
    """
    return "?" if number is None else f"{number:,}"
