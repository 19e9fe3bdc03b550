"""Typed cells to the feed's values, the same whatever file held them: nothing is rounded, nothing guessed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["EXACT", "Fault", "first", "text_of_floats", "whole"]

EXACT = 2**53
"""Whole numbers beyond it have no float of their own."""

Fault = Callable[[int, str], Exception]
"""Makes the error to raise about a row (from 0)."""


def first(where: np.ndarray) -> int | None:
    """Position of the first True.

    >>> first(np.array([False, True])), first(np.array([False]))
    (1, None)
    """
    return int(np.argmax(where)) if where.any() else None


def whole(values: np.ndarray) -> np.ndarray:
    """Which floats are whole numbers that a float holds exactly; NaN counts as one."""
    fits: np.ndarray = np.isnan(values) | ((values == np.trunc(values)) & (np.abs(values) < EXACT))
    return fits


def text_of_floats(values: np.ndarray, fault: Fault) -> np.ndarray:
    """Whole numbers as texts without a decimal mark, None where NaN: a key column with gaps often comes as floats.

    Raises:
        Exception: What ``fault`` makes of the first that is no whole number.

    >>> text_of_floats(np.array([13085.0, np.nan]), lambda row, said: ValueError(said))
    array(['13085', None], dtype=object)
    """
    odd = first(~whole(values))
    if odd is not None:
        raise fault(
            odd,
            f"{float(values[odd])!r} is no whole number, so it names nothing for certain; expected a text or whole "
            "numbers in a key. Ask the data owner to deliver it as text",
        )
    known = ~np.isnan(values)
    found = np.full(len(values), None, dtype=object)
    found[known] = values[known].astype("int64").astype(str)
    return found
