"""All kinds of bad input."""

from __future__ import annotations

from . import declarations, series, tables, texts
from .bench import FAMILIES, Kind

__all__ = ["KINDS"]

KINDS: tuple[Kind, ...] = tuple(
    sorted(
        (*texts.KINDS, *tables.KINDS, *declarations.KINDS, *series.KINDS), key=lambda kind: FAMILIES.index(kind.family)
    )
)
