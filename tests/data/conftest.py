"""Small customers and feeds, readable in the test that uses them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from forecasting.config import Customer, Settings, settings

ROOT = Path(__file__).resolve().parents[2]
CUTOFF = date(2024, 1, 20)
UNTIL = date(2024, 1, 23)


def make_customer(**changes: Any) -> Customer:
    """A long feed: day;store;item;qty;promo, horizon 3."""
    base: dict[str, Any] = {
        "id": "acme", "time_zone": "Europe/Rome", "first_date": date(2024, 1, 20), "contract": "acme", "absent": "zero",
        "source": {"uri": "feed.csv"}, "columns": {"ds": "day", "y": "qty", "keys": ["store", "item"]},
        "exogenous": {"promo": {"known": "future"}}, "horizon": 3,
    }  # fmt: skip
    return Customer.model_validate(base | changes)


WIDE: dict[str, Any] = {
    "uri": "feed.csv",
    "wide": {
        "columns": "(?P<value>Q|P)_(?P<store>S[0-9]+)_(?P<item>[0-9]+)",
        "values": {"Q": "qty", "P": "promo"},
    },
}


def long_csv(days: int = 23, stores: tuple[str, ...] = ("S1", "S2")) -> str:
    """From 1 January 2024; the quantity is 10 times the day of the month, plus the store's number."""
    rows = ["day,store,item,qty,promo"]
    for n in range(days):
        day = date(2024, 1, 1) + timedelta(days=n)
        rows += [f"{day},{store},1,{10 * day.day + int(store[1:])},{n % 2}" for store in stores]
    return "\n".join(rows) + "\n"


def wide_csv(days: int = 23) -> str:
    rows = ["day,Q_S1_1,Q_S2_1,P_S1_1,P_S2_1"]
    for n in range(days):
        day = date(2024, 1, 1) + timedelta(days=n)
        rows.append(f"{day},{10 * day.day + 1},{10 * day.day + 2},{n % 2},{n % 2}")
    return "\n".join(rows) + "\n"


CONTRACT = """\
apiVersion: v3.0.2
kind: DataContract
id: acme
version: 1.0.0
status: active
team:
  - {username: data-owner, role: owner}
schema:
  - name: sales
    properties:
      - {name: day, logicalType: date, required: true, primaryKey: true, primaryKeyPosition: 1}
      - {name: store, logicalType: string, required: true, primaryKey: true, primaryKeyPosition: 2}
      - {name: item, logicalType: string, required: true, primaryKey: true, primaryKeyPosition: 3}
      - {name: qty, logicalType: number, required: true}
      - {name: promo, logicalType: number, required: true}
    quality:
      - name: qty_in_range
        type: custom
        engine: greatExpectations
        severity: error
        implementation: |
          type: expect_column_values_to_be_between
          kwargs: {column: qty, min_value: 0, max_value: 1000, mostly: 0.9}
      - name: enough_rows
        type: custom
        engine: greatExpectations
        severity: error
        implementation: |
          type: expect_table_row_count_to_be_between
          kwargs: {min_value: 4}
"""


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return sink.getvalue()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def encrypted(data: bytes) -> bytes:
    """Both headers say that the member needs a password."""
    changed = bytearray(data)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        changed[changed.index(mark) + offset] |= 1
    return bytes(changed)


@pytest.fixture
def feed(tmp_path: Path) -> Callable[[str | bytes], Path]:
    """Write the feed's file; returns the root to pull from."""

    def write(text: str | bytes) -> Path:
        (tmp_path / "feed.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return write


@pytest.fixture
def write_contract(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str = CONTRACT) -> Path:
        path = tmp_path / "acme.odcs.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return settings({"FORECASTING_HOME": str(tmp_path / "home")})
