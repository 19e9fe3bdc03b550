"""The frames that pass between stages: names, columns, dtypes, keys. Documented schemas, checked at the doors.

Every frame is a pandas frame with a plain RangeIndex. ``unique_id`` and the other texts are ``object``, dates are
``datetime64[ns]`` without a zone (a day is the customer's local day), numbers are ``float64`` unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


__all__ = [
    "ACCOUNT",
    "BACKTEST",
    "CALIBRATION",
    "CHOICES",
    "FORECASTS",
    "PANEL",
    "PUBLISHED",
    "SERIES",
    "STATUS",
    "Frame",
    "Lines",
    "ascending",
    "join_id",
    "quantile_column",
    "split_id",
]


@dataclass(frozen=True)
class Frame:
    """Schema of one kind of frame."""

    name: str
    key: tuple[str, ...]
    """Columns that together name a row; never null, never twice."""
    columns: dict[str, str]
    """Fixed columns and dtypes, key first; other columns may follow where the docstring says so."""

    def check(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return ``frame`` unchanged if it has this schema.

        Raises:
            ValueError: A column is missing or has another dtype, or a key is null or doubled: a programming error.
        """
        missing = [column for column in self.columns if column not in frame.columns]
        if missing:
            raise ValueError(f"{self.name}: columns missing: {missing}; present: {list(frame.columns)}")
        wrong = {c: str(frame[c].dtype) for c, dtype in self.columns.items() if str(frame[c].dtype) != dtype}
        if wrong:
            raise ValueError(
                f"{self.name}: dtypes differ: got {wrong}, expected { ({c: self.columns[c] for c in wrong}) }"
            )
        nulls = any(frame[column].isna().any() for column in self.key)
        if nulls or not (ascending(frame, self.key) or not frame.duplicated(list(self.key)).any()):
            raise ValueError(f"{self.name}: key {self.key} has nulls or doubles")
        return frame


def ascending(frame: pd.DataFrame, key: Sequence[str]) -> bool:
    """Whether each row's key, without nulls, is greater than the one before: then none is doubled.

    It compares neighbours where a search for doubles hashes every row, and most frames are kept in order.
    """
    import numpy as np

    greater, equal = np.zeros(max(len(frame) - 1, 0), dtype=bool), True
    for column in key:
        values = frame[column].to_numpy()
        greater |= equal & (values[1:] > values[:-1])
        equal = equal & (values[1:] == values[:-1])
    return bool(greater.all())


PANEL = Frame("panel", ("unique_id", "ds"), {"unique_id": "object", "ds": "datetime64[ns]", "y": "float64"})
"""The canonical panel, sorted by unique_id, ds; exogenous columns follow as float64, one per declared name.

A row means the feed spoke of that series and period. ``y`` is NaN where it is unknown: a quarantined cell (missing,
never zero) and every row after the cutoff, which exists to carry columns known in the future. What an *absent* row
means is the customer's ``absent`` and is applied by ``learn.grid``, not here.
"""

SERIES = Frame("series", ("unique_id", "node"), {"unique_id": "object", "node": "object", "depth": "int64"})
"""One row per series and aggregate node; columns key_1 … key_5 (object, None where the node does not group by it)."""

BACKTEST = Frame(
    "score frame",
    ("unique_id", "cutoff", "h"),
    {
        "unique_id": "object",
        "cutoff": "datetime64[ns]",
        "h": "int64",
        "ds": "datetime64[ns]",
        "y": "float64",
        "scored": "bool",
        "scale": "float64",
    },
)
"""The score frame: what every forecaster said at every backtest origin, beside what came.

One float64 column per model follows, holding its y_hat (NaN: this model made none). ``scored`` is False on closed and
missing days, whose ``y`` is NaN: they count in no score. ``scale`` is RMSSE's denominator at that origin: the mean
squared one-step difference of the observed history from its first sale to the cutoff, in units², NaN if undefined.
"""

FORECASTS = Frame("forecast frame", ("unique_id", "h"), {"unique_id": "object", "h": "int64", "ds": "datetime64[ns]"})
"""Tonight's raw forecasts, one float64 column per model (NaN: this model made none), cutoff + 1 … cutoff + h."""

STATUS = Frame(
    "status frame",
    ("unique_id", "model"),
    {"unique_id": "object", "model": "object", "state": "object", "reason": "object"},
)
"""How each model fared on each series tonight: state ``ok``, ``short`` (too little history) or ``failed``; a reason."""

CHOICES = Frame("choices", ("unique_id", "model"), {"unique_id": "object", "model": "object", "weight": "float64"})
"""Which models publish for a series: weights are positive and sum to 1; one row of weight 1 is a plain choice."""

CALIBRATION = Frame(
    "calibration",
    ("node", "group", "h_from", "q"),
    {
        "node": "object",
        "group": "object",
        "h_from": "int64",
        "h_to": "int64",
        "q": "float64",
        "offset": "float64",
        "power": "float64",
    },
)
"""Quantile offsets from backtest errors: value at q = y_hat + offset · y_hat^power · scale^(1 - power).

``group`` is a class of rows, or an aggregate, for steps h_from … h_to."""

PUBLISHED = Frame(
    "published forecast",
    ("node", "unique_id", "h"),
    {
        "unique_id": "object",
        "node": "object",
        "ds": "datetime64[ns]",
        "h": "int64",
        "y_hat": "float64",
        "q50": "float64",
        "model": "object",
        "rung": "object",
    },
)
"""What is published, sorted by node, unique_id, h; declared quantiles follow as q10, q90, q025 … (float64).

``rung`` is the step of the fallback ladder: chosen, cheaper, seasonal_naive, naive, cold_start; sum on upper nodes."""

ACCOUNT = Frame(
    "series status",
    ("unique_id",),
    {"unique_id": "object", "status": "object", "rung": "object", "model": "object", "reason": "object"},
)
"""One row per bottom series in the panel: status ok, fallback, cold_start or retired; why, when not ok."""


@dataclass(frozen=True)
class Lines:
    """Where every line of the feed went: ``read = used + excluded + quarantined + future``, always."""

    read: int
    used: int
    excluded: int
    quarantined: int
    future: int

    def check(self) -> Lines:
        """Return self if the sum holds.

        Raises:
            ValueError: A line is lost or counted twice.

        >>> Lines(read=3, used=1, excluded=1, quarantined=0, future=1).check().used
        1
        """
        if self.read != self.used + self.excluded + self.quarantined + self.future:
            raise ValueError(f"lines do not add up: {self}")
        return self


def quantile_column(q: float) -> str:
    """Column of quantile ``q``.

    >>> quantile_column(0.5), quantile_column(0.1), quantile_column(0.025), quantile_column(0.975)
    ('q50', 'q10', 'q025', 'q975')
    """
    digits = f"{q:.3f}".removeprefix("0.")
    return "q" + (digits[:2] if digits.endswith("0") else digits)


def join_id(keys: Iterable[str]) -> str:
    """The unique_id of a series: its keys joined by ``/``; ``%`` and ``/`` inside a key are percent-escaped.

    >>> join_id(["B1", "6/2"]), join_id(["100%"])
    ('B1/6%2F2', '100%25')
    """
    return "/".join(key.replace("%", "%25").replace("/", "%2F") for key in keys)


def split_id(unique_id: str) -> tuple[str, ...]:
    """The keys of a series, from its unique_id: the reverse of :func:`join_id`.

    >>> split_id("B1/6%2F2")
    ('B1', '6/2')
    """
    return tuple(part.replace("%2F", "/").replace("%25", "%") for part in unique_id.split("/"))


def empty(schema: Frame) -> pd.DataFrame:
    """A frame of that schema with no rows."""
    import numpy as np
    import pandas as pd

    return pd.DataFrame({column: np.array([], dtype=dtype) for column, dtype in schema.columns.items()})
