"""What a delivery brings beside the one before it: late, restated, lost and rolled off, by day; and unusual volumes."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.data import arrivals, sources
from forecasting.data.arrivals import Arrivals, Reading
from forecasting.data.contracts import Contract, RuleResult, Volume

from .conftest import make_customer

FIRST = date(2024, 1, 1)  # a Monday
WATERMARK = date(2024, 1, 20)
SINCE = date(2024, 1, 11)
CONTRACT = Contract("acme", "1.0.0", "active", "owner", Path("acme.odcs.yaml"), (), (), 1.0)


def days(content: dict[date, tuple[int, str]]) -> pd.DataFrame:
    rows = sorted(content.items())
    return pd.DataFrame(
        {
            "day": pd.to_datetime([day for day, _ in rows]).astype("datetime64[ns]"),
            "lines": np.array([lines for _, (lines, _) in rows], dtype="int64"),
            "digest": np.array([digest for _, (_, digest) in rows], dtype=object),
        }
    )


def history(count: int = 20, lines: int = 10) -> dict[date, tuple[int, str]]:
    return {FIRST + timedelta(days=n): (lines, f"d{n}") for n in range(count)}


def ledger(content: dict[date, tuple[int, str]] | None = None) -> pd.DataFrame:
    seen = days(history() if content is None else content)
    return seen.assign(kept_lines=seen["lines"], kept_digest=seen["digest"])


def reading(content: dict[date, tuple[int, str]], since: date | None = SINCE, whole: date | None = None) -> Reading:
    newest = max(content) if content else None
    return Reading(days(content), since, whole, newest)


def changed(**changes: tuple[int, str] | None) -> dict[date, tuple[int, str]]:
    """The history with other days: ``d05=(12, "x")``; None takes a day away."""
    content = history() | {date(2024, 1, int(name[1:])): what for name, what in changes.items() if what}
    return {day: what for day, what in content.items() if changes.get(f"d{day.day:02d}", 0) is not None}


CASES: dict[str, tuple[dict[date, tuple[int, str]], tuple[int, int, int, int]]] = {
    "the same": (changed(), (0, 0, 0, 0)),
    "a new day": (changed(d21=(9, "new")), (9, 0, 0, 0)),
    "late lines": (changed(d15=(13, "x")), (0, 3, 0, 0)),
    "restated": (changed(d15=(10, "x")), (0, 0, 1, 0)),
    "fewer lines": (changed(d15=(6, "x")), (0, 0, 0, 4)),
    "a lost day": (changed(d15=None), (0, 0, 0, 10)),
    "the newest days lost": (changed(d19=None, d20=None), (0, 0, 0, 20)),
    "before the window": (changed(d05=(13, "x"), d06=(10, "y"), d07=None), (0, 3, 1, 10)),
    "rolled off": (changed(d01=None, d02=None), (0, 0, 0, 0)),
    "a day that was closed": ({**changed(), date(2023, 12, 31): (2, "z")}, (0, 2, 0, 0)),
}


@pytest.mark.parametrize("name", CASES, ids=str)
def test_each_change_is_counted_as_what_it_is(name: str) -> None:
    content, expected = CASES[name]
    found = arrivals.compare(reading(content), ledger(), WATERMARK)
    assert (found.lines_new, found.lines_late, found.days_restated, found.lines_lost) == expected
    assert len(found.of("rolled_off")) == (2 if name == "rolled off" else 0)


def test_a_source_that_is_asked_for_the_window_only_says_nothing_of_what_lies_before_it() -> None:
    window = {day: what for day, what in changed(d12=None).items() if day >= SINCE}
    partly = window | {date(2024, 1, 10): (1, "half a day that came along")}
    for content in (window, partly):
        found = arrivals.compare(reading(content, whole=SINCE), ledger(), WATERMARK)
        assert (found.lines_lost, len(found.found), found.lines_outside, found.not_kept) == (10, 1, 0, 0)
        assert arrivals.to_keep(reading(content, whole=SINCE), ledger())["day"].tolist() == [pd.Timestamp(2024, 1, 12)]


def test_the_windows_first_days_never_roll_off_for_they_would_leave_the_snapshot() -> None:
    content = {day: what for day, what in history().items() if day >= date(2024, 1, 14)}
    for whole in (None, SINCE):
        assert arrivals.compare(reading(content, whole=whole), ledger(), WATERMARK).lines_lost == 30


def test_a_first_delivery_is_compared_with_nothing() -> None:
    for before, watermark in ((ledger({}), WATERMARK), (ledger(), None)):
        found = arrivals.compare(reading(history()), before, watermark)
        assert not found.compared
        assert found.counts() == {}


def judged(content: dict[date, tuple[int, str]], **changes: Any) -> dict[str, RuleResult]:
    contract = replace(
        CONTRACT, **{name: changes.pop(name) for name in ("history_mostly", "volume") if name in changes}
    )
    now, seen = (
        reading(content, **{k: changes.pop(k) for k in ("since",) if k in changes}),
        changes.pop("seen", ledger()),
    )
    found: Arrivals = arrivals.compare(now, seen, WATERMARK)
    declared = ("frequency", "horizon", "absent", "closed_weekdays", "duplicates")
    customer = make_customer(**{k: changes.pop(k) for k in declared if k in changes})
    results = arrivals.judge(
        found, now, seen, contract, customer, watermark=changes.pop("watermark", WATERMARK), **changes
    )
    return {result.rule: result for result in results}


@pytest.mark.parametrize(
    ("content", "state"),
    [(changed(), "passed"), (changed(d15=(6, "x")), "warned"), (changed(d15=None), "broken"),
     (changed(d05=(9, "x")), "warned"), (changed(d05=None, d06=None), "broken"),
     ({d: w for d, w in history().items() if d.day > 8}, "passed")],
    ids=["nothing", "within tolerance", "a day of the window", "a line before it", "days before it", "rolled off"],
)  # fmt: skip
def test_lost_history_stops_the_run_beyond_the_tolerance(content: dict[date, tuple[int, str]], state: str) -> None:
    result = judged(content)["history_kept"]
    assert result.state == state
    if state == "broken":
        assert "full_refresh" in result.message
        assert "10 → 0" in result.message


def test_a_full_refresh_that_was_asked_for_adopts_a_loss() -> None:
    lost = changed(d15=None, d16=None)
    assert judged(lost, since=None)["history_kept"].state == "broken"  # everything is read again for another reason
    assert judged(lost, since=None, adopt=True)["history_kept"].state == "warned"


def test_days_that_would_leave_the_snapshot_with_a_full_reading_are_a_warning_unless_it_was_asked_for() -> None:
    rolled = changed(d01=None, d02=None)
    result = judged(rolled, since=None)["history_kept"]
    assert result.state == "warned"
    assert "2 days (20 lines) rolled off the source's old end; they leave the snapshot" in result.message
    assert judged(rolled, since=None, adopt=True)["history_kept"].state == "passed"


def test_late_and_restated_lines_are_said_with_their_days_and_stop_nothing() -> None:
    results = judged(changed(d14=(12, "x"), d15=(10, "y")))
    assert (results["late_rows"].state, results["late_rows"].rows_failed) == ("passed", 2)
    assert "2024-01-14 10 → 12" in results["late_rows"].message
    assert "2024-01-15" in results["restated_days"].message
    assert results["history_adopted"].state == "passed"


def test_history_that_changed_before_the_window_is_said_until_it_is_adopted() -> None:
    content = changed(d05=(10, "x"))
    first = judged(content)
    assert first["history_adopted"].state == "warned"
    assert "full_refresh" in first["history_adopted"].message
    seen = follow(ledger(), arrivals.to_keep(reading(content), ledger()))
    again = judged(content, seen=seen)
    assert again["restated_days"].message == ""  # it was said when it came
    assert again["history_adopted"].state == "warned"
    adopted = follow(seen, arrivals.to_keep(reading(content, since=None), seen))
    assert judged(content, seen=adopted)["history_adopted"].state == "passed"
    back = follow(seen, arrivals.to_keep(reading(history()), seen))
    assert judged(history(), seen=back)["history_adopted"].state == "passed"  # the source took it back


def follow(seen: pd.DataFrame, learnt: pd.DataFrame) -> pd.DataFrame:
    """The ledger after a run has added its rows, as the warehouse reads it."""
    before = seen.set_index("day")
    for row in learnt.itertuples():
        before.loc[row.day, ["lines", "digest"]] = (row.lines, row.digest)
        if row.kept:
            before.loc[row.day, ["kept_lines", "kept_digest"]] = (row.lines, row.digest)
    before["kept_lines"] = before["kept_lines"].fillna(0)
    types = {"lines": "int64", "kept_lines": "int64"}
    return before.reset_index().astype(types).sort_values("day", ignore_index=True)[list(arrivals.LEDGER)]


contents = st.dictionaries(
    st.integers(0, 24).map(lambda n: FIRST + timedelta(days=n)), st.tuples(st.integers(1, 3), st.sampled_from("ab"))
)


@settings(deadline=None, max_examples=50)
@given(contents, contents, st.sampled_from([None, SINCE]), st.sampled_from([None, SINCE]))
def test_a_delivery_that_was_seen_is_no_news(
    old: dict[date, tuple[int, str]], new: dict[date, tuple[int, str]], since: date | None, whole: date | None
) -> None:
    now = reading(new, since, whole if since else None)
    seen = follow(ledger(old), arrivals.to_keep(now, ledger(old)))
    assert arrivals.to_keep(now, seen).empty
    again = arrivals.compare(now, seen, WATERMARK)
    assert (again.lines_late, again.days_restated, again.lines_lost, len(again.of("rolled_off"))) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("lines", "state"), [(10, "passed"), (3, "passed"), (2, "warned"), (30, "passed"), (31, "warned")]
)
def test_a_day_is_judged_by_the_same_weekdays_before_it(lines: int, state: str) -> None:
    seen = history(42)  # six Mondays
    now = {**seen, FIRST + timedelta(days=42): (lines, "new")}
    result = judged(now, seen=ledger(seen), watermark=FIRST + timedelta(days=41))["usual_lines"]
    assert result.state == state
    if state == "warned":
        assert f"2024-02-12 (Monday): {lines} lines; expected 3 to 30" in result.message
        assert "median of the last 8 Mondays is 10" in result.message
        assert "volumeLow" in result.message


def test_other_weekdays_closed_days_and_a_short_past_say_nothing() -> None:
    quiet = {day: what for day, what in history(42).items() if day.weekday() != 0}  # never open on Mondays
    monday = FIRST + timedelta(days=42)
    assert judged({**quiet, monday: (1, "x")}, seen=ledger(quiet))["usual_lines"].state == "passed"
    few = history(22)  # three Mondays before
    assert judged({**few, FIRST + timedelta(days=22): (1, "x")}, seen=ledger(few))["usual_lines"].state == "passed"


def test_a_day_that_has_left_the_source_is_no_usual_day() -> None:
    seen = ledger(history(42))
    seen.loc[seen["day"].dt.weekday == 0, "lines"] = 0
    monday = FIRST + timedelta(days=42)
    gone = {day: what for day, what in history(42).items() if day.weekday() != 0}
    assert judged({**gone, monday: (1, "x")}, seen=seen, watermark=max(gone))["usual_lines"].state == "passed"


@pytest.mark.parametrize(("lines", "times", "warned"), [(10, 2, True), (10, 3, True), (9, 2, False)])
def test_a_day_whose_every_line_came_again_is_told_of_as_delivered_twice(lines: int, times: int, warned: bool) -> None:
    digest = 0xF123456789ABCDEF
    seen = dict.fromkeys(history(), (lines, f"{digest:016x}"))
    again = {date(2024, 1, 15): (times * lines, f"{times * digest % 2**64:016x}")}
    late = judged(seen | again, seen=ledger(seen))["late_rows"]
    assert (late.state == "warned", "2024-01-15 the last" in late.message) == (warned, warned)
    assert judged(seen | again, seen=ledger(seen), duplicates="exclude")["late_rows"].state == "passed"
    other = {date(2024, 1, 15): (times * lines, f"{digest:016x}")}
    assert judged(seen | other, seen=ledger(seen))["late_rows"].state == "passed"


@pytest.mark.parametrize("frequency", ["D", "W"])
def test_days_for_which_nothing_came_are_told_before_they_pass_for_zeros(frequency: str) -> None:
    seen = history(43)  # until a Monday
    now = {**seen, FIRST + timedelta(days=44): (10, "new")}  # a Wednesday, without the Tuesday before
    asked = {"seen": ledger(seen), "watermark": max(seen), "cutoff": FIRST + timedelta(days=46), "frequency": frequency}
    result = judged(now, **asked)["usual_lines"]
    assert result.state == "warned"
    for day in ("2024-02-13 (Tuesday)", "2024-02-15 (Thursday)", "2024-02-16 (Friday)"):
        assert f"{day}: 0 lines; expected 3 to 30" in result.message
    assert "Wednesday" not in result.message
    closed = judged(now, **asked, closed_weekdays=["tuesday"])["usual_lines"] if frequency == "D" else result
    assert ("Tuesday" in closed.message) == (frequency == "W")
    assert judged(now, **asked, volume=Volume(low=0))["usual_lines"].state == "passed"


def test_a_day_without_a_line_that_means_closed_is_no_alarm() -> None:
    seen = history(43)
    asked: dict[str, Any] = {"seen": ledger(seen), "watermark": max(seen), "cutoff": max(seen) + timedelta(days=2)}
    assert judged(seen, **asked, absent="closed")["usual_lines"].state == "passed"
    assert judged(seen, **asked)["usual_lines"].state == "warned"


@pytest.mark.parametrize(
    ("first", "kept", "state"),
    [(False, 0, "warned"), (False, 2, "warned"), (False, 3, "passed"), (True, 0, "warned"), (True, 3, "passed")],
)
def test_a_day_that_declared_rules_leave_nothing_of_is_told(first: bool, kept: int, state: str) -> None:
    seen = history(20)
    content = {**seen, FIRST + timedelta(days=20): (10, "new")}
    left = days(
        {day: (9, "") for day in seen if day >= SINCE} | ({FIRST + timedelta(days=20): (kept, "")} if kept else {})
    )
    asked = {"seen": ledger({}), "watermark": None} if first else {"watermark": max(seen)}
    result = judged(content, left=left, **asked)["usual_lines"]
    assert result.state == state
    said = f"2024-01-21 (Sunday): the declared rules leave {kept} of 10 lines; expected 3 or more"
    assert (said in result.message) == (state == "warned")


def test_a_first_pull_is_judged_on_its_newest_day_alone() -> None:
    content = history(42) | {FIRST + timedelta(days=35): (1, "x"), FIRST + timedelta(days=42): (1, "y")}
    now = reading(content, since=None)
    results = arrivals.judge(Arrivals(False), now, ledger({}), CONTRACT, make_customer())
    assert [result.rule for result in results] == ["usual_lines"]
    assert results[0].message.startswith("2024-02-12 (Monday): 1 lines")


@pytest.mark.parametrize(("frequency", "word"), [("W", "week"), ("M", "month")])
def test_weekly_and_monthly_feeds_are_judged_by_the_periods_before(frequency: str, word: str) -> None:
    seen = history(310)
    newest = date(2024, 11, 30) if frequency == "M" else date(2024, 11, 10)
    added = {FIRST + timedelta(days=n): (1, "x") for n in range(310, (newest - FIRST).days + 1)}
    short = {
        day: what for day, what in seen.items() if day <= (date(2024, 10, 31) if word == "month" else date(2024, 11, 3))
    }
    result = judged(short | added, seen=ledger(short), watermark=max(short), frequency=frequency)["usual_lines"]
    assert result.state == "warned"
    assert f"({word})" in result.message
    assert "of the last 8 periods" in result.message


def test_an_error_severity_stops_the_run() -> None:
    seen = history(42)
    now = {**seen, FIRST + timedelta(days=42): (2, "new")}
    strict = Volume(severity="error")
    result = judged(now, seen=ledger(seen), watermark=FIRST + timedelta(days=41), volume=strict)["usual_lines"]
    assert (result.state, result.severity) == ("broken", "error")


@pytest.mark.parametrize(
    ("change", "same"),
    [({}, True), ({"horizon": 9}, True), ({"source": {"uri": "feed.csv", "timeout": 5}}, True),
     ({"source": {"uri": "other.csv"}}, False), ({"time_zone": "Europe/London"}, False),
     ({"columns": {"ds": "day", "y": "qty", "keys": ["item"]}}, False)],
    ids=["nothing", "horizon", "time-out", "source", "time zone", "columns"],
)  # fmt: skip
def test_deliveries_are_compared_only_where_the_same_is_read(change: dict[str, Any], same: bool) -> None:
    before, now = (make_customer(**given).model_dump(mode="json") for given in ({}, change))
    assert arrivals.same_declaration(before, now) == same


@pytest.mark.parametrize(
    ("source", "whole"),
    [({"uri": "feed.csv"}, True), ({"kind": "sql", "table": "sales"}, False),
     ({"uri": "d/*.csv", "day_in_name": "d_%Y-%m-%d.csv"}, False),
     ({"kind": "parquet", "uri": "t/**/*.parquet", "partitioned": True}, False),
     ({"parts": [{"uri": "a.csv", "until": "2023-12-31"}, {"uri": "b.csv", "since": "2024-01-01"}]}, False)],
    ids=["file", "database", "by name", "partitions", "parts"],
)  # fmt: skip
def test_what_a_pull_reads_whole_follows_from_the_source(source: dict[str, Any], whole: bool) -> None:
    customer = make_customer(source=source)
    assert sources.whole_from(customer, SINCE) == (None if whole else SINCE)
    assert sources.whole_from(customer, None) is None
