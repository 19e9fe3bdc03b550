"""Rows of a customer's own database: bound parameters, declared columns and days only, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from forecasting.config import Customer
from forecasting.data.sources.storage import Access
from forecasting.data.sources.table import Piece

__all__ = ["read"]


def read(customer: Customer, access: Access, since: date | None, until: date) -> Iterator[Piece]:
    """Each part's rows of the wanted days."""
    raise NotImplementedError
