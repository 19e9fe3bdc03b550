"""Good files, damaged at random; and a slow reader that says what is in them, for comparison.

What is held of any damage: it is refused, or its rows are quarantined, or what is read is what the slow reader reads.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from forecasting.data import sources
from forecasting.errors import ForecastingError
from forecasting.frames import join_id
from tests.data.conftest import UNTIL, make_customer

from .bench import GOOD
from .series import own
from .tables import parquet, table, workbook

__all__ = ["CSV", "PARQUET", "XLSX", "Readable", "agrees", "damaged", "panels", "pulled", "slow_reader", "texts"]

CSV, PARQUET, XLSX = GOOD.encode(), parquet(table()), workbook()
HEADER = ["day", "store", "item", "qty", "promo"]
Readable = list[tuple[date | None, str | None, str | None, float, float]]


def pulled(folder: Path, data: bytes, kind: str = "csv") -> pd.DataFrame | ForecastingError:
    """What a night reads of these bytes, or the error of ours that it ends with; anything else is raised."""
    (folder / f"f.{kind}").write_bytes(data)
    customer = make_customer(source={"uri": f"f.{kind}", "kind": kind, "max_bytes": 50_000_000})
    try:
        return sources.pull(customer, access=sources.Access(folder), until=UNTIL).rows
    except ForecastingError as error:
        return error


# --- damage ---------------------------------------------------------------------------------------------------------

_PIECES = [
    *(
        b",",
        b"\n",
        b"\r",
        b"\r\n",
        b'"',
        b";",
        b"\t",
        b" ",
        b"-",
        b".",
        b"e",
        b"1",
        b"=",
        b"'",
        b"#",
        b"nan",
        b"inf",
        b"now",
    ),
    *(b"\0", b"\xff", b"\xc3\xa9", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"0x1", b"2024-01-02", b"3024", b"\x1b[31m"),
]


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """``data`` after one to three accidents: a byte flipped, a part cut out, doubled or moved, a piece put in."""
    for _ in range(draw(st.integers(1, 3))):
        if not data:
            break
        at, size = draw(st.integers(0, len(data) - 1)), draw(st.integers(1, 40))
        how = draw(st.sampled_from(["flip", "cut", "double", "insert", "replace", "end"]))
        piece = draw(st.sampled_from(_PIECES) | st.binary(min_size=1, max_size=3))
        if how == "flip":
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        elif how == "cut":
            data = data[:at] + data[at + size :]
        elif how == "double":
            data = data[: at + size] + data[at:]
        elif how == "insert":
            data = data[:at] + piece + data[at:]
        elif how == "replace":
            data = data[:at] + piece + data[at + len(piece) :]
        else:
            data = data[:at]
    return data


def texts() -> st.SearchStrategy[bytes]:
    """Files of any text, many of them nearly tables of ours."""
    cell = st.sampled_from(["2024-01-02", "2024-1-2", "S1", "1", "22", "0", "", " ", '"', "nan", "1e3", "now", "é"])
    row = st.lists(cell | st.text(max_size=5), min_size=0, max_size=6).map(",".join)
    body = st.lists(row, max_size=6).map("\n".join)
    return body.map(lambda text: f"{','.join(HEADER)}\n{text}\n".encode(errors="surrogatepass"))


# --- the slow reader ------------------------------------------------------------------------------------------------


def slow_reader(data: bytes) -> Readable:
    """The rows of a whole, valid delivery, by Python's own csv module and constructors.

    Raises:
        ValueError: It cannot be read.
    """
    rows = list(csv.reader(io.StringIO(data.decode("utf-8"), newline="")))
    while rows and not rows[-1]:
        rows.pop()
    header, *body = rows
    at = [header.index(name) for name in HEADER]
    if any(len(row) != len(header) for row in body):
        raise ValueError("ragged")
    return [_row([row[i] for i in at]) for row in body]


def _row(cells: list[str]) -> tuple[date | None, str | None, str | None, float, float]:
    return (_day(cells[0]), cells[1] or None, cells[2] or None, _number(cells[3]), _number(cells[4]))


def _day(text: str) -> date | None:
    parts = text.split("-")
    if len(parts[-1]) == 2:  # strptime's %d takes a blank for the nought
        parts[-1] = parts[-1].removeprefix(" ")
    digits = all(part.isascii() and part.isdigit() for part in parts)
    if len(parts) != 3 or not digits or len(parts[0]) != 4 or not all(1 <= len(part) <= 2 for part in parts[1:]):
        return None
    try:
        day = date(*map(int, parts))
    except ValueError:
        return None
    return day if 1678 <= day.year <= 2261 else None  # what a nanosecond reaches


def _number(text: str) -> float:
    if not text.isascii() or "_" in text:
        raise ValueError(f"no number: {text!r}")
    return float(text) if text else math.nan


def agrees(rows: pd.DataFrame, data: bytes) -> str:
    """Why what was read is not what the slow reader reads; empty when it is."""
    try:
        want = slow_reader(data)
    except (ValueError, csv.Error) as error:
        return f"read, though the slow reader cannot: {error}"
    inside = [row for row in want if row[0] is None or row[0] <= UNTIL]
    cutoff = date(2024, 1, 20)
    if len(inside) != len(rows):
        return f"{len(rows)} rows, the slow reader has {len(inside)}"
    for got, row in zip(rows[HEADER].itertuples(index=False), inside, strict=True):
        day = None if pd.isna(got.day) else got.day.date()
        qty = math.nan if row[0] is not None and row[0] > cutoff else row[3]
        seen = (day, got.store, got.item)
        if seen != row[:3] or not np.array_equal([got.qty, got.promo], [qty, row[4]], equal_nan=True):
            return f"{tuple(got)} read for {row}"
    return ""


# --- panels ---------------------------------------------------------------------------------------------------------


@st.composite
def panels(draw: st.DrawFn) -> tuple[pd.DataFrame, Any]:
    """Any canonical panel, small; and a customer that declares what absent days mean."""
    last = pd.Timestamp(2024, 1, 20)
    names = draw(st.lists(st.tuples(_key(), _key()), min_size=1, max_size=4, unique=True))
    parts = []
    for store, item in names:
        length = draw(st.sampled_from([1, 2, 6, 7, 8, 15, 30, 60]))
        end = last - pd.Timedelta(days=draw(st.sampled_from([0, 0, 0, -3, 1, 10, 181, 182, 183, 400])))
        kind = draw(st.sampled_from(["zero", "constant", "small", "large", "nan", "any"]))
        y = draw(_values(kind, length))
        days = pd.date_range(end=end, periods=length)
        keep = np.array(draw(st.lists(st.booleans(), min_size=length, max_size=length)))
        if draw(st.booleans()) or not keep.any():
            keep[:] = True
        frame = pd.DataFrame({"unique_id": join_id((store, item)), "ds": days, "y": y, "promo": 0.0})[keep]
        if draw(st.integers(0, 9)) == 0:
            old = pd.DataFrame({"unique_id": join_id((store, item)), "ds": [pd.Timestamp(1700, 1, 1)], "y": [3.0],
                                "promo": 0.0})  # fmt: skip
            frame = pd.concat([old, frame])
        frame.loc[frame["ds"] > last, "y"] = np.nan
        parts.append(frame)
    panel = pd.concat(parts).sort_values(["unique_id", "ds"], ignore_index=True)
    panel = panel.astype({"unique_id": object, "ds": "datetime64[ns]", "y": "float64"})
    absent = draw(st.sampled_from(["zero", "closed", "missing"]))
    pool = draw(st.sampled_from([("seasonal_naive",), ("weekday_mean", "croston"), ("naive", "recent_mean", "tsb")]))
    return panel, own(absent=absent, pool=pool)


def _key() -> st.SearchStrategy[str]:
    return st.sampled_from(["S1", "a/b", "%2F", "é", "🍝", "total", "nan", "'"]) | st.text(
        st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=5
    )


def _values(kind: str, length: int) -> st.SearchStrategy[list[float]]:
    one: dict[str, Callable[[], st.SearchStrategy[float]]] = {
        "zero": lambda: st.just(0.0),
        "constant": lambda: st.just(7.0),
        "small": lambda: st.integers(0, 9).map(float),
        "large": lambda: st.floats(0, 1e8),
        "nan": lambda: st.just(math.nan),
        "any": lambda: st.floats(0, 1e6) | st.just(math.nan) | st.just(0.0),
    }
    return st.lists(one[kind](), min_size=length, max_size=length)


def same(one: Any, other: Any) -> bool:
    """Whether two pulls read the same."""
    return isinstance(one, pd.DataFrame) and isinstance(other, pd.DataFrame) and one.equals(other)
