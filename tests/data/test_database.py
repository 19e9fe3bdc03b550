"""Customers' databases: PostgreSQL, and SQLite as the other dialect; a csv of the same rows is the oracle."""

from __future__ import annotations

import csv
import io
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from forecasting.data.sources import FILES, Access, database, dialects, place, pull
from forecasting.errors import ConfigurationError, SourceError, SourceUnavailableError

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


# --- nothing that is not declared -----------------------------------------------------------------------------------


def test_a_login_that_may_read_only_the_declared_columns_is_enough(server, postgres):
    """And none more is asked for: PostgreSQL itself says so."""
    postgres.fill("feed", f"{TYPES['dates']}, card_number text DEFAULT 'secret'", long_csv())
    role = f"reader_{secrets.token_hex(4)}"
    postgres.sql(
        f"CREATE ROLE {role} LOGIN PASSWORD 'pass'",
        f"GRANT SELECT (day, store, item, qty, promo) ON feed TO {role}",
    )
    url = sa.make_url(postgres.url).set(username=role, password="pass").render_as_string(hide_password=False)
    reader = Feed(url)
    assert len(reader.pull().rows) == 46
    with pytest.raises(SourceError, match=r"^feed: the login .* may not read it; ask .* SELECT") as caught:
        reader.pull(customer_of(columns={"ds": "day", "y": "qty", "keys": ["store"], "other": ["card_number"]}))
    assert not isinstance(caught.value, SourceUnavailableError)
    postgres.sql(f"REVOKE ALL ON feed FROM {role}", f"DROP ROLE {role}")


def test_what_is_asked_names_columns_and_binds_values(postgres):
    asked: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    postgres.fill("feed", f"{TYPES['dates']}, card_number text DEFAULT 'secret'", long_csv())
    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        postgres.pull(since=date(2024, 1, 11))
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    ((statement, parameters),) = [one for one in asked if '"feed"' in one[0] and "pg_catalog" not in one[0]]
    assert "card_number" not in statement
    assert "2024" not in statement
    assert date(2024, 1, 11) in dict(parameters).values()


def test_nothing_can_be_written_and_all_parts_show_one_state(postgres, monkeypatch):
    postgres.fill("one", TYPES["dates"], long_csv())
    postgres.fill("two", TYPES["dates"], long_csv())
    with dialects.opened(postgres.url, Path("/"), 5) as opened, pytest.raises(SourceUnavailableError), opened.waiting():
        opened.connection.exec_driver_sql("DELETE FROM one")
    genuine = database._sorted

    def meanwhile(*given: Any) -> Any:
        postgres.sql("DELETE FROM two")  # committed by another, after the first part was read
        return genuine(*given)

    monkeypatch.setattr(database, "_sorted", meanwhile)
    parts = [{"table": "one", "until": date(2024, 1, 11)}, {"table": "two", "since": date(2024, 1, 12)}]
    assert len(postgres.pull(customer_of(source={"parts": parts})).rows) == 46


@pytest.mark.parametrize("name", ['odd "name"; DROP TABLE feed', "it's", "SELECT", "Größe %s :x", "two words"])
def test_a_table_may_have_any_name_and_its_columns_too(postgres, name):
    quoted = name.replace('"', '""')
    engine = sa.create_engine(postgres.url)
    with engine.begin() as connection, connection.connection.cursor() as cursor:
        types = TYPES["dates"].replace("qty", f'"{quoted}"')
        cursor.execute(f'CREATE TABLE "{quoted}" ({types})'.encode())
        cursor.execute(f"INSERT INTO \"{quoted}\" VALUES ('2024-01-01', 'S1', '1', 5, 0)".encode())
    engine.dispose()
    assert list(postgres.pull(customer_of(name, source={"names": {"qty": name}})).rows["qty"]) == [5]


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("types", "changes", "said"),
    [
        (TYPES["dates"], {"table": "feeed"}, ["feeed", "no such table or view", "Did you mean 'feed'?"]),
        (TYPES["dates"], {"table": "shop.feed"}, ["no such table", "Did you mean 'feed'?"]),
        (TYPES["dates"].replace("qty", "qtty"), {}, ["feed:", "no column 'qty'", "'qtty'", "source.names"]),
        (TYPES["dates"].replace("day date", "day text"), {"date_format": "%d.%m.%Y"}, ["'day'", "TEXT", "CREATE VIEW"]),
        (TYPES["dates"].replace("qty double precision", "qty text"), {}, ["'qty'", "TEXT", "a number", "view"]),
        (TYPES["dates"].replace("store text", "store bytea"), {}, ["'store'", "BYTEA", "no text", "view"]),
        (TYPES["dates"].replace("store text", "store text[]").replace(",'S", ",'{S"), {}, ["'store'", "view"]),
        (TYPES["dates"], {"max_rows": 45}, ["feed", "max_rows", "45"]),
        (TYPES["dates"], {"names": {"qty": ["qty", "promo"]}}, ["feed", "both 'qty' and 'promo'", "source.names"]),
    ],
    ids=["near miss", "near miss in another schema", "column", "text days", "text numbers", "bytes", "array", "budget",
         "two names"],
)  # fmt: skip
def test_a_table_that_is_not_as_declared_is_refused(postgres, types, changes, said):
    postgres.fill(
        "feed", types, long_csv().replace(",S1", ",{1}").replace(",S2", ",{2}") if "[]" in types else long_csv()
    )
    with pytest.raises(SourceError) as caught:
        postgres.pull(customer_of(source=changes))
    assert not isinstance(caught.value, SourceUnavailableError)  # not worth a retry
    assert all(part in str(caught.value) for part in said), str(caught.value)


def test_a_table_of_another_database_is_refused(postgres):
    with pytest.raises(ConfigurationError, match=r"a\.b\.c.*make a view"):
        postgres.pull(customer_of("a.b.c"))


@pytest.mark.parametrize("column", ["qty bigint", "qty numeric"])
def test_a_number_that_a_float_would_change_is_refused(postgres, column):
    postgres.fill(
        "feed", TYPES["dates"].replace("qty double precision", column), long_csv().replace(",22,", ",9007199254740993,")
    )
    with pytest.raises(SourceError, match=r"feed: column 'qty' holds 900719925474099.*identifier.*columns\.other"):
        postgres.pull()


def test_values_that_are_odd_but_numbers_are_left_to_the_contract(either):
    text = long_csv().replace(",22,", ",-1,").replace(",31,", ",,")
    either.fill("feed", TYPES["dates"], text)
    if either.url.startswith("postgresql"):
        either.sql("UPDATE feed SET qty = 'NaN' WHERE qty = 41", "UPDATE feed SET qty = 'Infinity' WHERE qty = 51",
                   "UPDATE feed SET day = '0001-01-01' WHERE qty = 61")  # fmt: skip
        rows = either.pull().rows
        assert np.isinf(rows["qty"]).sum() == 1
        assert rows["day"].isna().sum() == 1  # before any day that a nanosecond reaches
    else:
        rows = either.pull().rows
    assert (rows["qty"] == -1).sum() == 1


def test_sqlite_keeps_anything_in_any_column_and_we_see_it(sqlite):
    text = long_csv().replace("2024-01-02,S1", "02.01.2024,S1").replace("2024-01-03,S1", "1704240000,S1")
    sqlite.fill("feed", TYPES["dates"], text)
    assert sqlite.pull(since=date(2024, 1, 15)).rows["day"].isna().sum() == 2
    sqlite.sql("UPDATE feed SET qty = 'many' WHERE qty = 31")
    with pytest.raises(SourceError, match=r"feed: column 'qty' holds 'many', which is no number"):
        sqlite.pull()


def test_texts_that_sort_as_days_are_read(either):
    types = TYPES["dates"].replace("day date", "day varchar(30)")
    either.fill("feed", types, long_csv().replace(",S", "T10:00:00,S").replace("2024-01-02", "n/a"))
    rows = either.pull(customer_of(source={"date_format": "%Y-%m-%dT%H:%M:%S"}), since=date(2024, 1, 20)).rows
    assert (rows["day"].notna().sum(), rows["day"].isna().sum()) == (8, 2)
    with pytest.raises(SourceError, match=r"'2024-01-\d\dT10:00:00' is no date of the format '%Y%m%d'"):
        either.pull(customer_of(source={"date_format": "%Y%m%d"}))


# --- waits ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[int]:
    """A server that takes connections and says nothing; its port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield listening.getsockname()[1]


def given_up(feed: Feed, within: float, **source: Any) -> SourceUnavailableError:
    began = time.monotonic()
    with pytest.raises(SourceUnavailableError) as caught:
        feed.pull(customer_of(source=source))
    assert time.monotonic() - began < within
    assert "hunter2" not in str(caught.value)
    return caught.value


def test_a_server_that_says_nothing_is_given_up(silent):
    error = given_up(Feed(f"postgresql://me:hunter2@127.0.0.1:{silent}/shop"), 6, timeout=1)
    assert "no answer within source.timeout, 1 s" in str(error)


def test_a_server_that_falls_silent_is_given_up(postgres):
    """A relay that forwards everything until the rows are asked for, then nothing."""
    postgres.fill("feed", TYPES["dates"], long_csv())
    url = sa.make_url(postgres.url)
    with relay(int(url.port or 0), until=b'FROM "feed"') as port:
        slow = Feed(url.set(port=port).render_as_string(hide_password=False))
        assert "no answer within source.timeout, 1 s" in str(given_up(slow, 6, timeout=1))


@contextmanager
def relay(port: int, until: bytes) -> Iterator[int]:
    def forward(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if until in data:
                    return
                target.sendall(data)

    lines: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):
            near, _ = listening.accept()
            far = socket.create_connection(("127.0.0.1", port))
            lines.extend((near, far))
            threading.Thread(target=forward, args=(near, far), daemon=True).start()
            forward(far, near)

    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        yield listening.getsockname()[1]
        for line in lines:
            line.close()


def test_a_locked_table_is_given_up(postgres):
    postgres.fill("feed", TYPES["dates"], long_csv())
    engine = sa.create_engine(postgres.url)
    with engine.begin() as other:
        other.exec_driver_sql("LOCK TABLE feed IN ACCESS EXCLUSIVE MODE")
        error = given_up(postgres, 4, timeout=1)
    engine.dispose()
    assert "lock" in str(error)


def test_an_endless_view_is_given_up(either):
    day = "date '2024-01-01'" if either.url.startswith("postgresql") else "'2024-01-01'"
    either.sql(
        "CREATE TABLE shape (day date, store text, item text, qty double precision, promo double precision)",
        "CREATE VIEW feed AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        f"SELECT {day} AS day, store, item, qty, promo FROM shape UNION ALL "
        f"SELECT {day}, 'S', '1', 1.0, 1.0 FROM n WHERE i < 0",
    )
    assert "no answer within source.timeout, 1 s" in str(given_up(either, 5, timeout=1))


@pytest.mark.parametrize("port", [28322, 53300, 42703])
def test_a_port_that_looks_like_a_state_is_not_taken_for_one(port):
    from forecasting.data.sources.dialects import _explained, _Watch

    text = f'connection to server at "127.0.0.1", port {port} failed: FATAL:  database "nowhere" does not exist'
    assert "no such database" in str(_explained(OSError(text), "shown", _Watch(4)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"port": 1}, "nothing listens there; check host and port"),
        ({"password": "hunter2"}, "refuses the login; check login and password"),
        ({"database": "nowhere"}, "no such database"),
        ({"host": "no.such.host.invalid"}, "host is not known"),
        ({"query": {"hunter2": "1"}}, "a parameter that the driver does not know"),
    ],
    ids=["port", "password", "database", "host", "parameter"],
)
def test_a_connection_that_fails_says_what_to_check_and_no_secret(postgres, change, said):
    url = sa.make_url(postgres.url).set(**change).render_as_string(hide_password=False)
    assert said in str(given_up(Feed(url), 12, timeout=4))


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://KEY:hunter2@host", "begins with 's3'"),
        ("hunter2", "has no scheme"),
        ("postgresql://me:hunter2@host:port/shop", "not of the form"),
        ("mysql://me:hunter2@host/shop", "needs the Python package 'pymysql'"),
        ('postgres://me:hunter2@host/shop?__extra__={"a":+{"b":+1}}', "Extra"),
    ],
    ids=["another store's", "no URL", "port", "driver", "extra"],
)
def test_a_connection_that_cannot_be_used_is_refused_without_showing_it(uri, said):
    with pytest.raises(ConfigurationError, match=said) as caught:
        pull(customer_of(), access=Access(Path("/"), None, uri), until=UNTIL)
    assert "hunter2" not in str(caught.value)


def test_no_connection_and_no_file_are_sentences(tmp_path):
    with pytest.raises(SourceUnavailableError, match="connection and none was given"):
        pull(customer_of(), access=Access(Path("/")), until=UNTIL)
    assert "no such file" in str(given_up(Feed(f"sqlite:///{tmp_path}/none.db"), 2))


@pytest.mark.parametrize(
    "uri",
    ["sqlite:///{path}", "sqlite://{quoted}", "sqlite:///{quoted}", "sqlite+pysqlite:///{path}"],
)  # fmt: skip
def test_a_file_is_found_however_airflow_writes_its_path(tmp_path, uri):
    path = tmp_path / "the feed.db"
    sqlite = Feed(f"sqlite:///{path}")
    sqlite.fill("feed", TYPES["dates"], long_csv())
    rest = str(path).replace(" ", "%20")
    written = uri.format(path=rest, quoted=quote(str(path), safe=""))
    got = pull(customer_of(), access=Access(Path("/nowhere"), None, written), until=UNTIL)
    assert len(got.rows) == 46


# --- size -----------------------------------------------------------------------------------------------------------


def peak_of(act: Callable[[], object]) -> int:
    """Bytes by which the process grew at the most."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before = _memory("VmRSS")
    act()
    return _memory("VmHWM") - before


def _memory(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


def test_many_rows_are_read_within_bounded_memory(postgres):
    """As rows of objects, 300,000 take 180 MB and more; in columns, and a few batches of rows, a quarter of it."""
    postgres.sql(
        "CREATE TABLE feed AS SELECT timestamp '2024-01-01' + (g % 20) * interval '1 day' AS day, 'S' || g % 50 AS "
        "store, g % 1000 AS item, (g % 7)::numeric AS qty, 0 AS promo FROM generate_series(1, 300000) AS g"
    )
    asked = customer_of(source={"max_rows": 300_000})
    postgres.pull(asked, since=date(2024, 1, 20))  # imports
    assert peak_of(lambda: postgres.pull(asked)) < 120e6


def test_the_budget_ends_the_stream_before_all_is_read(postgres):
    postgres.sql("CREATE VIEW feed AS SELECT date '2024-01-01' AS day, 'S' AS store, 'i' AS item, 1.0::float8 AS qty, "
                 "0 AS promo FROM (SELECT generate_series(1, 1000000000)) AS n")  # fmt: skip
    with pytest.raises(SourceError, match=r"feed: the pull holds more than source.max_rows, 1000 rows"):
        postgres.pull(customer_of(source={"max_rows": 1000}))
