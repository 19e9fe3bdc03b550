"""Calendar arithmetic: run dates, cutoffs, periods, local midnights. Time comes in as an argument, not from a clock."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

__all__ = [
    "Frequency",
    "cutoff_of",
    "day_bounds",
    "horizon_dates",
    "local_instant",
    "midnight",
    "period_end",
    "period_start",
    "shift",
]

Frequency = Literal["D", "W", "M"]


def period_end(day: date, frequency: Frequency) -> date:
    """The last day of the period that holds ``day``. Weeks end on Sunday (ISO 8601).

    >>> period_end(date(2024, 2, 7), "W"), period_end(date(2024, 2, 7), "M")
    (datetime.date(2024, 2, 11), datetime.date(2024, 2, 29))
    """
    if frequency == "W":
        return day + timedelta(days=6 - day.weekday())
    if frequency == "M":
        return day.replace(day=monthrange(day.year, day.month)[1])
    return day


def period_start(day: date, frequency: Frequency) -> date:
    """The first day of the period that holds ``day``.

    >>> period_start(date(2024, 2, 7), "W"), period_start(date(2024, 2, 7), "M")
    (datetime.date(2024, 2, 5), datetime.date(2024, 2, 1))
    """
    return shift(day, -1, frequency) + timedelta(days=1)


def shift(day: date, periods: int, frequency: Frequency) -> date:
    """The last day of the period ``periods`` after (before, if negative) the one that holds ``day``.

    >>> shift(date(2024, 1, 31), 1, "M"), shift(date(2024, 3, 3), -1, "W")
    (datetime.date(2024, 2, 29), datetime.date(2024, 2, 25))
    """
    if frequency == "M":
        months = day.year * 12 + day.month - 1 + periods
        return period_end(date(months // 12, months % 12 + 1, 1), "M")
    return period_end(day, frequency) + timedelta(days=periods * (7 if frequency == "W" else 1))


def cutoff_of(run_date: date, latency_days: int, frequency: Frequency) -> date:
    """The last complete period that ends on or before ``run_date`` less the declared data latency.

    Args:
        run_date: Local date the run stands for.
        latency_days: Days by which the customer's data are known to arrive late.
        frequency: Step of ``ds``.

    >>> cutoff_of(date(2024, 2, 29), 0, "M"), cutoff_of(date(2024, 2, 29), 1, "M"), cutoff_of(date(2024, 2, 29), 2, "D")
    (datetime.date(2024, 2, 29), datetime.date(2024, 1, 31), datetime.date(2024, 2, 27))
    """
    day = run_date - timedelta(days=latency_days)
    end = period_end(day, frequency)
    return end if end == day else shift(day, -1, frequency)


def horizon_dates(cutoff: date, horizon: int, frequency: Frequency) -> list[date]:
    """The ``horizon`` periods after ``cutoff``, nearest first.

    >>> horizon_dates(date(2024, 2, 28), 2, "D")
    [datetime.date(2024, 2, 29), datetime.date(2024, 3, 1)]
    """
    return [shift(cutoff, step, frequency) for step in range(1, horizon + 1)]


def midnight(day: date, zone: str) -> datetime:
    """The instant at which ``day`` begins in ``zone``, in UTC.

    >>> midnight(date(2024, 7, 1), "America/New_York").isoformat()
    '2024-07-01T04:00:00+00:00'
    """
    return local_instant(day, time(0), zone)


def local_instant(day: date, at: time, zone: str) -> datetime:
    """The instant at which the clock of ``zone`` shows ``at`` on ``day``, in UTC.

    >>> local_instant(date(2018, 3, 25), time(3), "Europe/Rome").isoformat()
    '2018-03-25T01:00:00+00:00'
    """
    return datetime.combine(day, at, tzinfo=ZoneInfo(zone)).astimezone(UTC)


def day_bounds(day: date, zone: str) -> tuple[datetime, datetime]:
    """First instant of ``day`` and of the day after, in UTC: 23, 24 or 25 hours apart."""
    return midnight(day, zone), midnight(day + timedelta(days=1), zone)
