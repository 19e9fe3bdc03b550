"""Customers' databases: PostgreSQL, and SQLite as the other dialect; a csv of the same rows is the oracle."""

from __future__ import annotations

import csv
import io
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from forecasting.data.sources import FILES, Access, place, pull

from .conftest import CUTOFF, UNTIL, long_csv, make_customer

HEADER = ["day", "store", "item", "qty", "promo"]


def customer_of(table: str = "feed", **changes: Any) -> Any:
    source = {"kind": "sql", "table": table, **changes.pop("source", {})}
    if "parts" in source:
        del source["table"]
    return make_customer(source=source, **changes)


class Feed:
    """A database with a customer's tables."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.access = Access(Path("/"), None, url)

    def sql(self, *statements: str) -> None:
        engine = sa.create_engine(self.url)
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(sa.text(statement.replace(":", "\\:")))
        engine.dispose()

    def fill(self, table: str, types: str, text: str) -> None:
        """A table of the csv's rows."""
        rows = list(csv.reader(io.StringIO(text)))[1:]
        values = ", ".join("(" + ", ".join(f"'{v}'" if v else "NULL" for v in row) + ")" for row in rows)
        if self.url.startswith("postgresql"):
            values = ", ".join("(" + ", ".join(f"'{v}'" if v else "NULL" for v in row) + ")" for row in rows)
        self.sql(f"CREATE TABLE {table} ({types})", f"INSERT INTO {table} VALUES {values}")

    def pull(self, customer: Any = None, **window: Any) -> Any:
        return pull(customer or customer_of(), access=self.access, **{"until": UNTIL, **window})


@pytest.fixture
def postgres(empty_url: str) -> Feed:
    return Feed(empty_url)


@pytest.fixture
def sqlite(tmp_path: Path) -> Feed:
    return Feed(f"sqlite:///{tmp_path / 'feed.db'}")


@pytest.fixture(params=["postgres", "sqlite"])
def either(request: pytest.FixtureRequest) -> Feed:
    made: Feed = request.getfixturevalue(request.param)
    return made


def sorted_rows(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[HEADER].sort_values(HEADER).reset_index(drop=True)


TYPES = {
    "dates": "day date, store text, item text, qty double precision, promo integer",
    "times, ids and decimals": "day timestamp, store varchar(9), item integer, qty numeric(12, 3), promo smallint",
}


@pytest.mark.parametrize("types", TYPES.values(), ids=TYPES.keys())
def test_a_table_gives_the_rows_that_a_csv_of_it_gives(feed, either, types):
    text = long_csv()
    either.fill("feed", types, text)
    want = pull(make_customer(), access=Access(feed(text)), until=UNTIL)
    got = either.pull()
    pd.testing.assert_frame_equal(sorted_rows(got.rows), sorted_rows(want.rows))
    assert (got.lines_read, got.watermark) == (want.lines_read, want.watermark) == (46, CUTOFF)
    pd.testing.assert_frame_equal(got.days, want.days)
    assert sorted(got.rows["line"]) == list(range(1, 47))
    assert place(got.rows["line"][0], customer_of()) == "row 1"
    assert got.files == ["feed"]


def test_equal_content_has_equal_numbers_and_hash_in_whatever_order_it_lies(either):
    text = long_csv()
    header, *rows = text.splitlines()
    either.fill("feed", TYPES["dates"], text)
    either.fill("turned", TYPES["dates"], "\n".join([header, *rows[::-1]]))
    either.fill("other", TYPES["dates"], text.replace(",22,", ",23,"))
    first, second, third = (either.pull(customer_of(name)) for name in ("feed", "turned", "other"))
    pd.testing.assert_frame_equal(first.rows, second.rows)
    assert first.sha256 == second.sha256 != third.sha256


def test_only_wanted_days_are_read_and_never_what_lies_after_the_cutoff(either):
    either.fill("feed", TYPES["dates"], long_csv())
    planned = either.pull(since=date(2024, 1, 11)).rows
    assert (planned["day"].min(), planned["day"].max()) == (pd.Timestamp("2024-01-11"), pd.Timestamp("2024-01-23"))
    assert planned.loc[planned["day"] > pd.Timestamp(CUTOFF), "qty"].isna().all()
    unplanned = either.pull(customer_of(exogenous={}), since=date(2024, 1, 11))
    assert unplanned.rows["day"].max() == pd.Timestamp(CUTOFF)
    assert unplanned.lines_outside == 0


def test_rows_without_a_day_are_read_in_every_pull(either):
    either.fill("feed", TYPES["dates"], long_csv().replace("2024-01-02,S1", ",S1"))
    for since in (None, date(2024, 1, 15)):
        rows = either.pull(since=since).rows
        assert rows["day"].isna().sum() == 1


def test_parts_hold_their_own_days_under_their_own_names(postgres):
    postgres.fill("y2023", TYPES["dates"], long_csv())
    postgres.fill('"Year 2024"', 'day date, shop text, item text, "Qty sold" integer, promo integer', long_csv())
    part = {"names": {"store": "shop", "qty": ["Qty sold", "Sold"]}, "since": date(2024, 1, 10)}
    parts = [{"table": "y2023", "until": date(2024, 1, 9)}, {"table": "Year 2024", **part}]
    feed = postgres.pull(customer_of(source={"parts": parts}))
    assert len(feed.rows) == 46
    assert set(feed.rows.loc[feed.rows["line"] < FILES, "day"].dt.day) == set(range(1, 10))
    assert set(feed.rows.loc[feed.rows["line"] > FILES, "day"].dt.day) == set(range(10, 24))
    assert place(FILES + 3, customer_of(), tuple(feed.files)) == "Year 2024, row 3"
    later = postgres.pull(customer_of(source={"parts": parts}), since=date(2024, 1, 15))
    assert later.files == feed.files
    assert later.rows["line"].min() > FILES


@pytest.mark.parametrize(
    ("kind", "clock", "stamps", "days"),
    [
        ("timestamp", "local", ["2024-03-31 00:00", "2024-03-30 23:59:59.9", "2024-04-01 00:00"], [31, 30, 1]),
        ("timestamp", "utc", ["2024-03-30 23:00", "2024-03-30 22:59", "2024-03-31 22:00"], [31, 30, 1]),
        ("timestamptz", "local", ["2024-03-30 23:00+00", "2024-03-30 22:59+00", "2024-03-31 22:00+00"], [31, 30, 1]),
    ],
    ids=["local times", "times declared UTC", "instants"],
)
def test_a_time_belongs_to_its_local_day_also_when_the_clock_changes(postgres, kind, clock, stamps, days):
    """Rome goes from UTC+1 to UTC+2 on 31 March 2024; the bounds and the days must agree."""
    rows = [f"{stamp},S1,1,{n}," for n, stamp in enumerate(stamps)]
    postgres.fill("feed", TYPES["dates"].replace("day date", f"day {kind}"), "\n".join(["", *rows]))
    asked = customer_of(source={"clock": clock})
    every = postgres.pull(asked, until=date(2024, 4, 5)).rows.sort_values("qty")
    assert list(every["day"].dt.day) == days
    the_day = postgres.pull(asked, since=date(2024, 3, 31), until=date(2024, 3, 31))
    assert list(the_day.rows["day"].dt.day) == [31]
    assert the_day.lines_outside == 0  # the bounds said so, not we
