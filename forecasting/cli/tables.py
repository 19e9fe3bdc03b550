"""Frames as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["table"]


def table(frame: pd.DataFrame, title: str | None = None) -> Table:
    """A terminal table of ``frame``: numbers to the right, floats to four significant digits, nulls empty."""
    made = Table(title=title, title_justify="left")
    for name, dtype in frame.dtypes.items():
        made.add_column(str(name), justify="right" if dtype.kind in "iuf" else "left", overflow="fold")
    for row in frame.itertuples(index=False):
        made.add_row(*(_text(value) for value in row))
    return made


def _text(value: object) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
