"""Excel workbooks, strictly."""

from __future__ import annotations

from forecasting.data.sources.table import Cells
from forecasting.feed import XlsxSource

__all__ = ["open_sheet"]


def open_sheet(name: str, data: bytes, source: XlsxSource, zone: str) -> Cells:
    """Not yet."""
    raise NotImplementedError
