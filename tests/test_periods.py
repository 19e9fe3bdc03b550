"""Cutoffs, horizons and local midnights hold across months, weeks and clock changes."""

from __future__ import annotations

import itertools
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting import periods

days = st.dates(date(1990, 1, 1), date(2060, 12, 31))
frequencies = st.sampled_from(["D", "W", "M"])


@given(days, st.integers(0, 60), frequencies)
def test_the_cutoff_is_the_last_complete_period(day: date, latency: int, frequency: periods.Frequency) -> None:
    cutoff = periods.cutoff_of(day, latency, frequency)
    available = day - timedelta(days=latency)
    assert cutoff <= available < periods.shift(cutoff, 1, frequency)
    assert periods.period_end(cutoff, frequency) == cutoff


@given(days, st.integers(-50, 50), st.integers(-50, 50), frequencies)
def test_shifts_add_up(day: date, one: int, two: int, frequency: periods.Frequency) -> None:
    there = periods.shift(periods.shift(day, one, frequency), two, frequency)
    assert there == periods.shift(day, one + two, frequency)


@given(days, st.integers(1, 40), frequencies)
def test_the_horizon_is_unbroken(day: date, horizon: int, frequency: periods.Frequency) -> None:
    cutoff = periods.period_end(day, frequency)
    steps = [cutoff, *periods.horizon_dates(cutoff, horizon, frequency)]
    assert all(periods.shift(a, 1, frequency) == b for a, b in itertools.pairwise(steps))
    assert len(steps) == horizon + 1


@pytest.mark.parametrize(
    ("day", "zone", "hours"),
    [
        (date(2018, 3, 25), "Europe/Rome", 23),
        (date(2018, 10, 28), "Europe/Rome", 25),
        (date(2018, 3, 11), "America/New_York", 23),
        (date(2018, 11, 4), "America/New_York", 25),
        (date(2018, 6, 1), "Asia/Kolkata", 24),
    ],
)
def test_a_local_day_has_as_many_hours_as_the_clock_says(day: date, zone: str, hours: int) -> None:
    start, end = periods.day_bounds(day, zone)
    assert end - start == timedelta(hours=hours)
