"""What the pages ask of the warehouse, on a real PostgreSQL and in the roles that production uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from forecasting.errors import ConfigurationError, WarehouseUnavailableError
from forecasting.store import pages, provision, warehouse
from tests.plugins.conftest import NOW, TODAY
from tests.plugins.shops import HOSTILE, SERIES

DAY = timedelta(days=1)
ALL = ["broken", "fresh", "nobody", "unborn", "weekly"]


@pytest.fixture
def standings(fleet: sa.Engine) -> dict[str, pages.Standing]:
    return {one.customer_id: one for one in pages.fleet(fleet, ALL)}


# --- the fleet ------------------------------------------------------------------------------------------------------


def test_the_fleet_holds_the_customers_that_were_asked_for_and_no_others(fleet: sa.Engine) -> None:
    assert [one.customer_id for one in pages.fleet(fleet, ALL)] == ["broken", "fresh", "unborn", "weekly"]
    assert [one.customer_id for one in pages.fleet(fleet, ["weekly"])] == ["weekly"]
    assert pages.fleet(fleet, []) == []


def test_a_standing_says_what_readers_see_and_who_made_it(standings: dict[str, pages.Standing]) -> None:
    fresh = standings["fresh"]
    assert (fresh.last_status, fresh.plan, fresh.contract_state, fresh.champion) == (
        "published", "refresh", "warned", "1.0.0",
    )  # fmt: skip
    assert (fresh.wape_selection, fresh.wape_seasonal_naive, fresh.origins) == (0.212, 0.305, 6)
    assert fresh.rungs == {"chosen": 5 * 14, "seasonal_naive": 14, "sum": 3 * 14}
    broken = standings["broken"]
    assert (broken.last_status, broken.contract_state) == ("broken", "broken")
    assert HOSTILE in (broken.message or "")
    assert broken.published_run_date == TODAY - 5 * DAY
    assert (standings["unborn"].last_run_id, standings["unborn"].rungs) == (None, {})


def test_freshness_counts_the_cutoffs_that_should_have_been_published(standings: dict[str, pages.Standing]) -> None:
    found = {name: pages.freshness(one, NOW) for name, one in standings.items()}
    assert found == {
        "fresh": pages.Freshness("current", 0, 1),
        "broken": pages.Freshness("behind", 4, 5),
        "weekly": pages.Freshness("ended", 0, (TODAY - date(2024, 3, 10)).days),
        "unborn": pages.Freshness("none", 0, None),
    }


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        ("2024-05-15T23:59:00+02:00", ("current", 0)),
        ("2024-05-16T00:01:00+02:00", ("due", 1)),
        ("2024-05-16T05:59:00+02:00", ("due", 1)),
        ("2024-05-16T06:00:00+02:00", ("behind", 1)),
        ("2024-05-17T00:01:00+02:00", ("behind", 2)),
    ],
    ids=["before midnight", "after midnight", "in its time", "too late", "a night was missed"],
)
def test_a_night_has_until_three_hours_after_its_start(
    standings: dict[str, pages.Standing], local: str, expected: tuple[str, int]
) -> None:
    found = pages.freshness(standings["fresh"], datetime.fromisoformat(local))
    assert (found.state, found.missed) == expected


def test_a_declared_deadline_is_when_a_night_is_too_late(standings: dict[str, pages.Standing]) -> None:
    declared = replace(standings["fresh"], deadline="04:30:00")
    for clock, expected in (("04:29", "due"), ("04:30", "behind")):
        assert pages.freshness(declared, datetime.fromisoformat(f"2024-05-16T{clock}:00+02:00")).state == expected


@pytest.mark.parametrize(
    ("changes", "now", "expected"),
    [
        ({"frequency": "W", "cutoff": date(2024, 5, 12)}, date(2024, 5, 19), ("current", 0)),
        ({"frequency": "W", "cutoff": date(2024, 5, 12)}, date(2024, 5, 20), ("behind", 1)),
        ({"frequency": "M", "cutoff": date(2024, 4, 30)}, date(2024, 5, 31), ("current", 0)),
        ({"frequency": "M", "cutoff": date(2024, 3, 31)}, date(2024, 6, 1), ("behind", 2)),
        ({"latency_days": 2, "cutoff": date(2024, 5, 12)}, date(2024, 5, 15), ("current", 0)),
        ({"stale": True}, date(2024, 5, 15), ("stale", 0)),
        ({"last_date": "2024-05-14"}, date(2024, 7, 1), ("ended", 0)),
        ({"last_date": "2024-05-20"}, date(2024, 7, 1), ("behind", 6)),
    ],
    ids=[
        "week running",
        "week over",
        "month running",
        "months over",
        "late data",
        "rolled back",
        "ended",
        "ended short",
    ],
)
def test_freshness_knows_periods_latency_and_the_last_date(
    standings: dict[str, pages.Standing], changes: dict[str, Any], now: date, expected: tuple[str, int]
) -> None:
    noon = datetime(now.year, now.month, now.day, 12, tzinfo=UTC)
    found = pages.freshness(replace(standings["fresh"], **changes), noon)
    assert (found.state, found.missed) == expected


# --- one customer ---------------------------------------------------------------------------------------------------


def test_runs_come_newest_first_and_say_which_one_readers_see(fleet: sa.Engine) -> None:
    runs = pages.recent_runs(fleet, "broken")
    assert [(run.run_date, run.status, run.current) for run in runs] == [
        (TODAY - DAY, "broken", False), (TODAY - 5 * DAY, "published", True),
    ]  # fmt: skip
    assert len(pages.recent_runs(fleet, "fresh", limit=2)) == 2


def test_contract_results_are_those_of_the_newest_checked_run_the_worst_first(fleet: sa.Engine) -> None:
    assert [one.state for one in pages.contract_results(fleet, "broken")] == ["broken", "crashed", "passed"]
    assert {one.run_id for one in pages.contract_results(fleet, "fresh")} == {f"fresh/{TODAY - DAY}/1"}
    assert pages.contract_results(fleet, "weekly") == []


def test_refused_rows_come_as_they_were_and_bounded(fleet: sa.Engine) -> None:
    rows = pages.quarantined(fleet, "broken", limit=7)
    assert [row.line for row in rows] == [2, 3, 4, 5, 6, 7, 8]
    assert (rows[0].row_json, rows[0].of_run) == (HOSTILE, 90)
    assert len(pages.quarantined(fleet, "fresh")) == 12
    assert pages.quarantined(fleet, "unborn") == []


# --- one series -----------------------------------------------------------------------------------------------------


def ids(found: list[pages.Found]) -> list[str]:
    return [one.unique_id for one in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["total", "north", "south", *sorted(SERIES)]),
        ("NORTH", ["north", *sorted(SERIES[:3])]),
        ("north 6/2", SERIES[:1]),
        ("Café", [SERIES[2]]),
        ("piece 4", [SERIES[4]]),
        ("brand", ["north", "south"]),
        ("100%", [SERIES[3]]),
        ("_", []),
        ("'; drop table forecasting.run; --", []),
        ("nothing like it", []),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_search_finds_what_holds_every_word(fleet: sa.Engine, text: str, expected: list[str]) -> None:
    assert ids(pages.search_series(fleet, "fresh", text)) == expected


def test_a_search_is_bounded_and_says_how_many_there_are(fleet: sa.Engine) -> None:
    found = pages.search_series(fleet, "fresh", "", limit=4)
    assert ids(found) == ["total", "north", "south", sorted(SERIES)[0]]
    assert found[0].found == 9
    assert [one.status for one in pages.search_series(fleet, "fresh", "newborn")] == ["fallback"]


def test_an_exact_id_comes_before_longer_ones(fleet: sa.Engine) -> None:
    assert ids(pages.search_series(fleet, "fresh", "South/Plain"))[0] == "south/plain"


def test_a_chart_shows_history_to_the_cutoff_and_the_newest_publication_after_it(fleet: sa.Engine) -> None:
    made = pages.chart(fleet, "fresh", "bottom", SERIES[0])
    assert made is not None
    cutoff = TODAY - DAY
    assert (made.run_id, made.cutoff, made.stale, made.status) == (f"fresh/{cutoff}/1", cutoff, False, "ok")
    assert [ds for ds, _ in made.actual] == [cutoff - i * DAY for i in range(201, -1, -1)]
    assert [(step["h"], step["ds"]) for step in made.forecast] == [(h, cutoff + h * DAY) for h in range(1, 15)]
    assert made.forecast[0].keys() == {"ds", "h", "y_hat", "q025", "q10", "q50", "q90", "q975", "model", "rung"}


def test_a_chart_of_a_node_and_of_a_series_that_sold_nothing(fleet: sa.Engine) -> None:
    total, newborn = (pages.chart(fleet, "fresh", *key) for key in (("total", "total"), ("bottom", SERIES[-1])))
    assert total is not None
    assert newborn is not None
    assert (len(total.actual), total.status) == (202, None)
    assert (newborn.actual, len(newborn.forecast), newborn.reason) == ((), 14, "auto_ets: too short")


def test_a_series_nobody_has_seen_has_no_chart(fleet: sa.Engine) -> None:
    assert pages.chart(fleet, "fresh", "bottom", "total") is None
    assert pages.chart(fleet, "fresh", "bottom", "' or true --") is None


# --- what the pages may do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["", "a", 'x"; drop schema fresh cascade; --', "Fresh", "a" * 40])
def test_what_is_not_a_customer_id_never_reaches_the_database(fleet: sa.Engine, bad: str) -> None:
    for asked in (pages.quarantined, pages.recent_runs, pages.contract_results):
        with pytest.raises(ValueError, match="is not a customer id"):
            asked(fleet, bad)


def test_a_customer_the_warehouse_does_not_know_is_named(fleet: sa.Engine) -> None:
    with pytest.raises(ConfigurationError, match="customer_nobody_reader"):
        pages.recent_runs(fleet, "nobody")


@pytest.mark.parametrize(
    "statement",
    ["delete from forecasting.run", "create table mine (a int)", "select nextval('forecasting.publication_seq_seq')"],
)
def test_the_pages_can_change_nothing(fleet: sa.Engine, statement: str) -> None:
    for role in (provision.FLEET, provision.reader("fresh")):
        with pytest.raises(WarehouseUnavailableError), pages.reading(fleet, role) as connection:
            connection.exec_driver_sql(statement)


def test_a_page_is_one_read_only_transaction_that_sees_one_state(fleet: sa.Engine) -> None:
    with pages.reading(fleet, provision.FLEET) as connection:
        shown = [connection.exec_driver_sql(f"show {name}").scalar() for name in (
            "transaction_read_only", "transaction_isolation", "statement_timeout", "role",
        )]  # fmt: skip
    assert shown == ["on", "repeatable read", f"{pages.TIMEOUT}s", "forecasting_reader"]


def test_a_customers_page_cannot_read_another_customer(fleet: sa.Engine) -> None:
    with pages.reading(fleet, provision.reader("fresh")) as connection:
        assert connection.exec_driver_sql("select distinct customer_id from forecasting.run").all() == [("fresh",)]
    for table in ("quarantine", "forecast", "actual"):
        with pytest.raises(WarehouseUnavailableError), pages.reading(fleet, provision.reader("fresh")) as connection:
            connection.exec_driver_sql(f"select * from broken.{table}")


def test_a_question_that_takes_too_long_is_ended(fleet: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "TIMEOUT", 1)
    with (
        pytest.raises(WarehouseUnavailableError, match="took longer than 1 s"),
        pages.reading(fleet, provision.FLEET) as connection,
    ):
        connection.exec_driver_sql("select pg_sleep(30)")


@pytest.fixture
def down() -> Iterator[sa.Engine]:
    made = warehouse.connect("postgresql://somebody:hidden@127.0.0.1:1/warehouse", patience=2)
    yield made
    made.dispose()


def test_a_warehouse_that_is_down_is_a_sentence_without_secrets(down: sa.Engine) -> None:
    with pytest.raises(WarehouseUnavailableError, match="cannot be reached") as caught:
        pages.fleet(down, ["fresh"])
    assert "hidden" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


def test_a_warehouse_that_is_not_migrated_is_told_apart(empty_url: str) -> None:
    made = warehouse.connect(empty_url)
    try:
        with pytest.raises(WarehouseUnavailableError, match="forecasting provision"):
            pages.fleet(made, ["fresh"])
    finally:
        made.dispose()
