"""Times to the customer's local days."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

__all__ = ["from_texts", "from_times", "spread"]


def from_texts(texts: pd.Series, form: str, zone: str, clock: Literal["local", "utc"]) -> np.ndarray:
    """Local days as datetime64[ns] of texts in the strptime format ``form``; NaT where one is no such date.

    Args:
        texts: Object; None where empty.
        form: May hold a time, and a zone (``%z``).
        zone: The customer's; IANA.
        clock: What times without a zone are.

    >>> from_texts(pd.Series(["2024-01-01T23:30:00+0000", "x"]), "%Y-%m-%dT%H:%M:%S%z", "Europe/Rome", "local")
    array(['2024-01-02T00:00:00.000000000',                           'NaT'],
          dtype='datetime64[ns]')
    """
    aware = "%z" in form.lower()
    parsed = pd.to_datetime(texts.where(~texts.map(_is_odd)), format=form, exact=True, errors="coerce", utc=aware)
    return from_times(parsed, zone, clock)


def _is_odd(text: str | None) -> bool:
    """Whether pandas would read a day where a text holds none: the words it takes for the clock, other scripts' digits.

    >>> [text for text in ("now", " Today", "２０２４-01-02", "2024年1月2日", None) if _is_odd(text)]
    ['now', ' Today', '２０２４-01-02']
    """
    if text is None or text.isascii():
        return text is not None and text.strip().lower() in ("now", "today")
    return any(char.isdigit() and not char.isascii() for char in text)


def from_times(times: pd.Series, zone: str, clock: Literal["local", "utc"]) -> np.ndarray:
    """Local days as datetime64[ns] of times with or without a zone; days themselves stay what they are.

    A time that stands on midnight throughout is taken for a day: ``clock: utc`` says nothing of it.
    """
    times = pd.Series(times)
    if times.dtype.kind == "M":  # 9999-12-31 is no day of ours, and would not fit
        times = times.where(times.dt.year.between(1678, 2261))
    if isinstance(times.dtype, pd.DatetimeTZDtype):
        times = times.dt.tz_convert(zone).dt.tz_localize(None)
    elif clock == "utc" and bool((times != times.dt.normalize()).any()):
        times = times.dt.tz_localize("UTC").dt.tz_convert(zone).dt.tz_localize(None)
    return np.asarray(times.dt.normalize(), dtype="datetime64[ns]")


def spread(unique: np.ndarray, indices: pd.Series) -> np.ndarray:
    """The days of all rows from those of the distinct texts; an empty cell has no index and becomes NaT."""
    known = indices.notna().to_numpy()
    days = np.full(len(indices), np.datetime64("NaT"), dtype="datetime64[ns]")
    days[known] = unique[indices[known].to_numpy("int64")]
    return days
