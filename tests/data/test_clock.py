"""Times become the customer's local days, on the days that clocks change too."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forecasting.data.sources import Access, clock, pull

from .conftest import make_customer

CHANGES = {
    "Europe/London": (date(2024, 3, 31), date(2024, 10, 27)),
    "America/New_York": (date(2024, 3, 10), date(2024, 11, 3)),
}
CASES = [(zone, day) for zone, days in CHANGES.items() for day in days]


def instants(day: date) -> list[datetime]:
    """Every quarter of an hour of three days around ``day``, in UTC."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(days=1)
    return [start + timedelta(minutes=15 * n) for n in range(4 * 72)]


def local(times: list[datetime], zone: str) -> list[pd.Timestamp]:
    """Oracle: the standard library's own zones."""
    return [pd.Timestamp(one.astimezone(ZoneInfo(zone)).date()) for one in times]


@pytest.mark.parametrize(("zone", "day"), CASES)
def test_times_with_a_zone_and_times_in_utc_become_the_same_local_days(zone, day):
    times = instants(day)
    want = local(times, zone)
    aware = pd.Series(pd.to_datetime(times))
    naive = aware.dt.tz_localize(None)
    assert list(clock.from_times(aware, zone, "local")) == [one.to_numpy() for one in want]
    assert list(clock.from_times(naive, zone, "utc")) == [one.to_numpy() for one in want]
    texts = pd.Series([one.strftime("%Y-%m-%dT%H:%M:%S%z") for one in times], dtype=object)
    assert list(clock.from_texts(texts, "%Y-%m-%dT%H:%M:%S%z", zone, "local")) == [one.to_numpy() for one in want]
    plain = pd.Series([one.strftime("%d.%m.%Y %H:%M") for one in times], dtype=object)
    assert list(clock.from_texts(plain, "%d.%m.%Y %H:%M", zone, "utc")) == [one.to_numpy() for one in want]


@pytest.mark.parametrize(("zone", "day"), CASES)
def test_a_day_of_23_or_25_hours_keeps_all_its_sales(tmp_path, zone, day):
    """One sale a quarter of an hour: 92 or 100 on the day of the change, 96 on the others."""
    times = instants(day)
    at, n = pa.array(times, pa.timestamp("us", "UTC")), len(times)
    table = pa.table({"at": at, "item": ["a"] * n, "qty": [1] * n})
    pq.write_table(table, tmp_path / "f.parquet")
    customer = make_customer(time_zone=zone, source={"uri": "f.parquet", "kind": "parquet"}, exogenous={},
                             columns={"ds": "at", "y": "qty", "keys": ["item"]})  # fmt: skip
    rows = pull(customer, access=Access(tmp_path), until=day + timedelta(days=30)).rows
    hours = {day.month: 23 if day.month == 3 else 25}[day.month]
    assert (rows["at"] == pd.Timestamp(day)).sum() == 4 * hours


def test_local_times_keep_their_day_also_in_the_hour_that_is_not_there():
    times = pd.Series(pd.to_datetime(["2024-03-31 01:30:00", "2024-10-27 01:30:00", "2024-10-27 23:59:59"]))
    days = clock.from_times(times, "Europe/London", "local")
    assert [str(one)[:10] for one in days] == ["2024-03-31", "2024-10-27", "2024-10-27"]


def test_days_are_no_times():
    days = pd.Series(pd.to_datetime(["2024-03-31", "2024-10-27"]))
    assert list(clock.from_times(days, "America/New_York", "utc")) == list(days.to_numpy())
