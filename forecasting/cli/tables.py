"""Frames as text: tables for a terminal, JSON for a program."""

from __future__ import annotations

import json
import math
from datetime import date, time
from decimal import Decimal

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

__all__ = ["as_json", "show", "table"]


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
