"""Frames as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["show", "table"]


def table(frame: pd.DataFrame, title: str | None = None) -> Table:
    """A terminal table of ``frame``: numbers to the right, floats to four significant digits, nulls empty."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for name, dtype in frame.dtypes.items():
        made.add_column(str(name), justify="right" if dtype.kind in "iuf" else "left", no_wrap=True)
    for row in frame.itertuples(index=False):
        made.add_row(*(_text(value) for value in row))
    return made


def _text(value: object) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show(made: Table) -> None:
    """Print a table as wide as it is: a line that a terminal folds can still be read, a squeezed column cannot."""
    console = Console(highlight=False)
    wide = console.options.update(max_width=100_000)
    console.width = max(console.width, console.measure(made, options=wide).maximum)
    console.print(made, markup=False)
