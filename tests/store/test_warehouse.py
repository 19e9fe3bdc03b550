"""Runs, publications, champions and isolation, on a real PostgreSQL as the roles that production uses."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from forecasting.config import Customer
from forecasting.data.arrivals import LEDGER
from forecasting.errors import ChecksumMismatchError, ConfigurationError, ForecastingError
from forecasting.store import pointers, provision, tables, warehouse
from forecasting.store.warehouse import Outcome
from tests.store.conftest import CODE, Night, make_customer, make_rows, make_status, put

DAY = date(2024, 3, 1)
D = timedelta(days=1)


def rows_of(engine: sa.Engine, sql: str) -> list[dict[str, object]]:
    return warehouse.query(engine, sql).to_dict("records")


# --- publishing -----------------------------------------------------------------------------------------------------


def test_runs_are_numbered_by_run_date_and_fenced_by_customer(engine: sa.Engine, customer: Customer) -> None:
    runs = [
        warehouse.allot(engine, customer, day, live=True, as_frozen=False, code=CODE)
        for day in (DAY, DAY, DAY - timedelta(days=1))
    ]
    assert [run.run_id for run in runs] == [
        f"{customer.id}/2024-03-01/1", f"{customer.id}/2024-03-01/2", f"{customer.id}/2024-02-29/1",
    ]  # fmt: skip
    assert [run.fence for run in runs] == [1, 2, 3]
    assert runs[0].config["id"] == customer.id
    assert warehouse.read_run(engine, customer.id, runs[1].run_id) == runs[1]
    left = warehouse.read_run(engine, customer.id, runs[0].run_id)
    assert (left.status, left.message) == ("failed", f"superseded by {runs[1].run_id}")


def test_runs_allotted_at_once_get_numbers_of_their_own(engine: sa.Engine, customer: Customer) -> None:
    found: list[int] = []

    def one() -> None:
        found.append(warehouse.allot(engine, customer, DAY, live=True, as_frozen=False, code=CODE).n)

    threads = [threading.Thread(target=one) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found) == [1, 2, 3, 4, 5]


def test_a_published_set_is_what_readers_see(engine: sa.Engine, customer: Customer, night: Night) -> None:
    run, outcome = night(y_hat=3.0)
    assert outcome is Outcome.PUBLISHED
    seen = warehouse.query(engine, f"SELECT * FROM {customer.id}.forecast_current ORDER BY node, unique_id, h")
    assert len(seen) == 6
    assert set(seen["run_id"]) == {run.run_id}
    assert seen["y_hat"].tolist() == [3.0] * 4 + [6.0] * 2
    ended = warehouse.read_run(engine, customer.id, run.run_id)
    assert (ended.status, ended.series_in, ended.series_ok, ended.rows_published, ended.rows_sum) == (
        "published",
        2,
        2,
        6,
        2,
    )
    assert ended.finished_at is not None


def test_rows_come_back_as_they_were_published(engine: sa.Engine, customer: Customer, night: Night) -> None:
    run, _ = night(y_hat=0.1 + 0.2)
    back = warehouse.read_forecast(engine, customer.id, run.run_id)
    assert warehouse.checksum(back) == warehouse.checksum(make_rows(0.1 + 0.2))
    assert warehouse.checksum(back) == ended_checksum(engine, run)


def ended_checksum(engine: sa.Engine, run: warehouse.Run) -> str | None:
    return warehouse.read_run(engine, run.customer_id, run.run_id).checksum


def test_the_same_key_again_is_verified_and_publishes_nothing(
    engine: sa.Engine, customer: Customer, night: Night
) -> None:
    first, _ = night()
    second, outcome = night()
    assert outcome is Outcome.VERIFIED
    standing = warehouse.published(engine, customer.id, DAY)
    assert standing is not None
    assert standing.run_id == first.run_id
    assert warehouse.read_run(engine, customer.id, second.run_id).status == "verified"
    assert len(warehouse.read_forecast(engine, customer.id, second.run_id)) == 0


def test_the_same_key_with_other_values_is_refused(engine: sa.Engine, customer: Customer, night: Night) -> None:
    first, _ = night(y_hat=1.0)
    with pytest.raises(ChecksumMismatchError, match=first.run_id):
        night(y_hat=1.0000001)
    assert len(rows_of(engine, f"SELECT FROM forecasting.publication WHERE customer_id = '{customer.id}'")) in (0, 1)
    standing = warehouse.published(engine, customer.id, DAY)
    assert standing is not None
    assert standing.run_id == first.run_id


def test_another_key_moves_the_pointer_and_keeps_the_old_rows(
    engine: sa.Engine, customer: Customer, night: Night
) -> None:
    first, _ = night(key="a")
    second, outcome = night(key="b", y_hat=2.0)
    assert outcome is Outcome.PUBLISHED
    standing = warehouse.published(engine, customer.id, DAY)
    assert standing is not None
    assert standing.run_id == second.run_id
    assert len(warehouse.read_forecast(engine, customer.id, first.run_id)) == 6


def test_a_late_attempt_changes_nothing(engine: sa.Engine, customer: Customer, night: Night) -> None:
    paused = warehouse.allot(engine, customer, DAY, live=True, as_frozen=False, code=CODE)
    newer, _ = night(key="newer", y_hat=2.0)
    assert put(engine, paused, key="older") is Outcome.LATE
    current = warehouse.query(engine, f"SELECT run_id FROM {customer.id}.forecast_current")
    assert set(current["run_id"]) == {newer.run_id}
    assert warehouse.read_run(engine, customer.id, paused.run_id).status == "late"


def test_a_repeated_attempt_of_a_published_run_changes_nothing(
    engine: sa.Engine, customer: Customer, night: Night
) -> None:
    run, _ = night()
    before = warehouse.read_run(engine, customer.id, run.run_id)
    assert put(engine, run) is Outcome.PUBLISHED
    assert warehouse.read_run(engine, customer.id, run.run_id) == before
    with pytest.raises(ChecksumMismatchError, match="immutable"):
        put(engine, run, key="other")


def test_what_fails_inside_the_transaction_leaves_nothing(engine: sa.Engine, customer: Customer) -> None:
    run = warehouse.allot(engine, customer, DAY, live=True, as_frozen=False, code=CODE)
    rows = make_rows()

    def killed_before_the_commit() -> None:
        with warehouse.acting_for(engine, customer.id) as connection:
            warehouse.publish(
                connection, run, rows, key="k", checksum="c", status=make_status(), version="1.0.0", reason="test"
            )
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        killed_before_the_commit()
    assert warehouse.published(engine, customer.id, DAY) is None
    assert rows_of(engine, f"SELECT * FROM {customer.id}.forecast") == []
    assert warehouse.read_run(engine, customer.id, run.run_id).status == "running"


def test_a_backfill_of_an_older_date_does_not_move_what_is_current(
    engine: sa.Engine, customer: Customer, night: Night
) -> None:
    newest, _ = night(DAY)
    older, _ = night(DAY - timedelta(days=3), live=False)
    current = warehouse.query(engine, f"SELECT DISTINCT run_id, run_date FROM {customer.id}.forecast_current")
    assert current["run_id"].tolist() == [newest.run_id]
    history = warehouse.query(engine, f"SELECT DISTINCT run_id FROM {customer.id}.forecast_history ORDER BY 1")
    assert history["run_id"].tolist() == [older.run_id, newest.run_id]
    fleet = rows_of(
        engine, f"SELECT DISTINCT run_id FROM forecasting.forecast_current WHERE customer_id = '{customer.id}'"
    )
    assert fleet == [{"run_id": newest.run_id}]


def test_series_that_do_not_add_up_are_refused_by_the_database(engine: sa.Engine, customer: Customer) -> None:
    run = warehouse.allot(engine, customer, DAY, live=True, as_frozen=False, code=CODE)
    facts = {"series_in": 3, "series_ok": 1, "series_fallback": 1, "series_cold_start": 0, "series_retired": 0}
    with pytest.raises(sa.exc.IntegrityError, match="series_add_up"):
        warehouse.note(engine, customer.id, run.run_id, **facts)
    with pytest.raises(ValueError, match="fixed when the run is allotted"):
        warehouse.note(engine, customer.id, run.run_id, fence=99)


# --- checksum -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["unique_id", "node", "ds", "h", "y_hat", "q10", "q50", "q90", "model", "rung"])
@pytest.mark.parametrize("row", [0, 5])
def test_the_checksum_changes_with_every_value(column: str, row: int) -> None:
    rows = make_rows()
    changed = rows.copy()
    value = changed.loc[row, column]
    if column == "ds":
        changed.loc[row, column] = value + pd.Timedelta(days=1)
    elif column == "h":
        changed.loc[row, column] = value + 7
    else:
        changed.loc[row, column] = value + "x" if isinstance(value, str) else np.nextafter(value, 9)
    assert warehouse.checksum(changed) != warehouse.checksum(rows)


def test_the_checksum_ignores_order_and_empty_columns_and_the_sign_of_zero() -> None:
    rows = make_rows(0.0)
    same = rows.sample(frac=1, random_state=1).assign(q05=np.nan, y_hat=-0.0)
    assert warehouse.checksum(same) == warehouse.checksum(rows)


def test_two_swapped_values_change_the_checksum() -> None:
    rows = make_rows()
    rows["y_hat"] = np.arange(len(rows), dtype=float)
    swapped = rows.assign(y_hat=rows["y_hat"].to_numpy()[[1, 0, *range(2, len(rows))]])
    assert warehouse.checksum(swapped) != warehouse.checksum(rows)


@pytest.mark.parametrize("column", ["model", "rung"])
def test_two_swapped_texts_change_the_checksum(column: str) -> None:
    rows = make_rows()
    rows[column] = ["a", "b", *["c"] * (len(rows) - 2)]
    swapped = rows.assign(**{column: ["b", "a", *["c"] * (len(rows) - 2)]})
    assert warehouse.checksum(swapped) != warehouse.checksum(rows)


# --- isolation ------------------------------------------------------------------------------------------------------


@pytest.fixture
def reading(engine: sa.Engine, warehouse_url: str) -> Iterator[Callable[..., sa.Engine]]:
    """Make a login that holds a customer's role, and connect as it."""
    made: list[tuple[sa.Engine, str]] = []

    def login(*roles: str) -> sa.Engine:
        name, password = f"person_{secrets.token_hex(4)}", secrets.token_hex(8)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
            for role in roles:
                connection.exec_driver_sql(f"GRANT {role} TO {name}")
        url = sa.make_url(warehouse_url).set(username=name, password=password)
        person = warehouse.connect(url.render_as_string(hide_password=False))
        made.append((person, name))
        return person

    yield login
    for person, name in made:
        person.dispose()
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP ROLE {name}")


def fill(engine: sa.Engine, customer: Customer) -> warehouse.Run:
    """At least one row in every table, for one customer."""
    run = warehouse.allot(engine, customer, DAY, live=True, as_frozen=False, code=CODE)
    put(engine, run)
    series = pd.DataFrame(
        {
            "unique_id": ["b/1", "total"],
            "node": ["bottom", "total"],
            "depth": [2, 0],
            "key_1": ["b", None],
            "key_2": ["1", None],
        }
    )
    result = {"contract": "c", "version": "1", "rule": "r", "severity": "error", "state": "passed"}
    score = {"run_id": run.run_id, "node": "bottom", "unique_id": "*", "h": 0, "n": 4, "y": 2.0, "error": 1.0}
    actuals = pd.DataFrame({"node": "bottom", "unique_id": "b/1", "ds": pd.to_datetime([DAY]), "y": 2.0})
    with warehouse.acting_for(engine, customer.id) as connection:
        warehouse.upsert_series(connection, customer.id, DAY, series)
        warehouse.register_version(connection, version(customer, run))
        crown(connection, customer, run, "1.0.0", DAY)
        decision = warehouse.Decision(
            customer_id=customer.id, run_id=run.run_id, kind="FIRST", promoted=True, reason="first", challenger="1.0.0"
        )
        warehouse.record_decision(connection, decision)
        warehouse.record_contract(connection, customer.id, run.run_id, [result])
        refused = pd.DataFrame({"line": [7], "rule": "range", "reason": "negative", "row_json": "{}"})
        warehouse.record_quarantine(connection, customer.id, run.run_id, refused)
        seen = {"day": [pd.Timestamp(2024, 2, 29)], "lines": [7], "digest": ["d"], "kept": [True]}
        warehouse.record_feed_days(connection, run, pd.DataFrame(seen))
        warehouse.record_lines(connection, customer.id, run.run_id, {"excluded": {"fuel": 3}})
        warehouse.record_actuals(connection, customer.id, run.run_id, actuals)
        warehouse.record_scores(connection, customer.id, run.run_id, pd.DataFrame([score]))
        warehouse.arm(
            connection,
            warehouse.Signal(customer_id=customer.id, kind="drift", run_id=run.run_id, armed_by=DAY, alarm=True),
        )
        pointers.pin(connection, customer.id, "1.0.0", DAY, who="me", why="test")
        pointers.put_in_shadow(connection, customer.id, "1.0.0", effective_from=DAY, who="me", why="test")
        asked = {"version": "1.0.0", "champion": "0.9.0", "evidence": {}, "expires_at": run.started_at, "who": "me"}
        pointers.ask(connection, run, **asked)
    warehouse.record_stage(engine, customer.id, run.run_id, "pull", 0, 1.0, 0.5)
    return run


def version(
    customer: Customer, run: warehouse.Run, name: str = "1.0.0", sha256: str = "a" * 64
) -> warehouse.ModelVersion:
    return warehouse.ModelVersion(
        customer_id=customer.id, version=name, bundle_uri="file:///bundle", bundle_sha256=sha256, run_id=run.run_id,
        run_date=run.run_date, training_cutoff=run.run_date, snapshot="s", config_hash="c", recipe_hash="r",
        interface_hash="i", code_version="v", config=run.config,
    )  # fmt: skip


def crown(
    connection: sa.Connection, customer: Customer, run: warehouse.Run, name: str, since: date, live: bool = True
) -> None:
    warehouse.crown(
        connection,
        customer.id,
        name,
        effective_from=since,
        live=live,
        run_id=run.run_id,
        who="test",
        reason="test",
    )


ALL_SMALL = [f"forecasting.{table.name}" for table in tables.ROW_SECURED]


def test_a_reader_sees_its_own_customer_everywhere_and_no_other(
    engine: sa.Engine, reading: Callable[..., sa.Engine]
) -> None:
    mine, other = make_customer(), make_customer()
    provision.apply(engine, [mine, other])
    fill(engine, mine), fill(engine, other)
    person = reading(provision.reader(mine.id))
    with person.connect() as connection:
        for table in (*ALL_SMALL, "forecasting.fleet_health", "forecasting.model_history"):
            seen = connection.exec_driver_sql(f"SELECT DISTINCT customer_id FROM {table}").scalars().all()
            assert seen == [mine.id], table
        for name in ("forecast", "actual", "score", "quarantine", *provision._VIEW_NAMES):
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {mine.id}.{name}").scalar_one() > 0, name
    closed = [f"forecasting.{table.name}" for table in tables.PARTITIONED]
    fleets = [f"forecasting.{name}" for name in provision._VIEW_NAMES if name != "model_history"]  # that one: see above
    closed += [name for name in fleets if name not in ALL_SMALL]
    closed += [f"{other.id}.{name}" for name in ("forecast", "actual", "score", "quarantine", *provision._VIEW_NAMES)]
    for name in closed:
        with person.connect() as connection, pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            connection.exec_driver_sql(f"SELECT * FROM {name}")


def test_a_reader_writes_nothing(engine: sa.Engine, customer: Customer, reading: Callable[..., sa.Engine]) -> None:
    fill(engine, customer)
    person = reading(provision.reader(customer.id))
    for table in [*ALL_SMALL, f"{customer.id}.forecast", f"{customer.id}.actual"]:
        for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET customer_id = customer_id"):
            with person.connect() as connection, pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
                connection.exec_driver_sql(statement)


def test_a_writer_cannot_write_for_another_customer(engine: sa.Engine) -> None:
    mine, other = make_customer(), make_customer()
    provision.apply(engine, [mine, other])
    theirs = fill(engine, other)
    with pytest.raises(sa.exc.ProgrammingError, match="row-level security"), warehouse.acting_for(engine, mine.id) as c:
        warehouse.audit(c, "me", other.id, "pin", "test")
    with pytest.raises(ConfigurationError, match="has no run"), warehouse.acting_for(engine, mine.id) as connection:
        warehouse._note(connection, other.id, theirs.run_id, {"message": "mine now"})
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"), warehouse.acting_for(engine, mine.id) as c:
        c.exec_driver_sql(f"INSERT INTO {other.id}.forecast SELECT * FROM {other.id}.forecast")
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"), warehouse.acting_for(engine, mine.id) as c:
        c.exec_driver_sql("UPDATE forecasting.publication SET run_id = run_id")  # a history only grows
    with warehouse.acting_for(engine, mine.id) as connection:
        moved = connection.exec_driver_sql("UPDATE forecasting.customer SET fence = 0")
        assert moved.rowcount == 1


def test_reading_one_customer_and_writing_another_does_not_mix(
    engine: sa.Engine, reading: Callable[..., sa.Engine]
) -> None:
    read, written = make_customer(), make_customer()
    provision.apply(engine, [read, written])
    fill(engine, read), fill(engine, written)
    person = reading(provision.reader(read.id), provision.writer(written.id))
    with person.begin() as connection:
        assert connection.exec_driver_sql("DELETE FROM forecasting.series_status").rowcount == 2
    with warehouse.acting_for(engine, read.id) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM forecasting.series_status").scalar_one() == 2


def test_the_fleets_reader_sees_all_and_a_stranger_nothing(
    engine: sa.Engine, customer: Customer, reading: Callable[..., sa.Engine]
) -> None:
    fill(engine, customer)
    with reading("forecasting_reader").connect() as connection:
        for name in ("forecast_current", "forecast_history", "forecast_accuracy", "fleet_health", "model_history"):
            found = connection.exec_driver_sql(f"SELECT DISTINCT customer_id FROM forecasting.{name}").scalars().all()
            assert customer.id in found, name
    with reading().connect() as connection, pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        connection.exec_driver_sql("SELECT * FROM forecasting.run")


def test_a_customer_that_is_not_provisioned_is_named_with_the_remedy(engine: sa.Engine) -> None:
    with pytest.raises(ConfigurationError, match="forecasting provision"):
        warehouse.read_run(engine, "nobody", "nobody/2024-03-01/1")
    with pytest.raises(ValueError, match="not a customer id"):
        warehouse.read_run(engine, 'x"; DROP SCHEMA forecasting; --', "x")


@pytest.mark.parametrize(
    "sql",
    ["DELETE FROM forecasting.run", "SELECT 1; DROP SCHEMA forecasting CASCADE", "COMMIT; DELETE FROM forecasting.run",
     "CREATE TABLE public.x (y int)", "SELECT nextval('forecasting.publication_seq_seq')",
        "RESET ROLE; DELETE FROM forecasting.run"],
)  # fmt: skip
def test_a_query_changes_nothing(engine: sa.Engine, customer: Customer, sql: str) -> None:
    with pytest.raises(ForecastingError, match="query failed"):
        warehouse.query(engine, sql)
    assert warehouse.query(engine, "SELECT current_user AS who")["who"].tolist() == ["forecasting_reader"]
    assert warehouse.query(engine, "SELECT 7 % 4 AS rest")["rest"].tolist() == [3]


def test_a_query_that_takes_too_long_is_cancelled(engine: sa.Engine) -> None:
    with pytest.raises(ForecastingError, match="timeout"):
        warehouse.query(engine, "SELECT pg_sleep(30)", timeout=1)


# --- champions ------------------------------------------------------------------------------------------------------


def crowned(engine: sa.Engine, customer: Customer, lines: list[tuple[str, date, bool]]) -> None:
    run = warehouse.allot(engine, customer, DAY, live=True, as_frozen=False, code=CODE)
    with warehouse.acting_for(engine, customer.id) as connection:
        for name, since, live in lines:
            warehouse.register_version(connection, version(customer, run, name))
            crown(connection, customer, run, name, since, live)


@pytest.mark.parametrize(
    ("lines", "run_date", "live", "expected"),
    [
        ([], DAY, True, None),
        ([("1.0.0", DAY, True)], DAY, True, None),
        ([("1.0.0", DAY, True)], DAY + D, True, "1.0.0"),
        ([("1.0.0", DAY, True), ("1.0.1", DAY, True)], DAY + D, True, "1.0.1"),
        ([("1.0.1", DAY + D, True), ("1.0.0", DAY, True)], DAY + 2 * D, True, "1.0.1"),
        ([("1.0.0", DAY, False)], DAY + D, True, "1.0.0"),
        ([("1.0.0", DAY, True), ("1.0.1", DAY + D, False)], DAY + 2 * D, True, "1.0.0"),
        ([("1.0.0", DAY, True), ("1.0.1", DAY + D, False)], DAY + 2 * D, False, "1.0.1"),
        ([("1.0.0", DAY, False), ("1.0.1", DAY + D, True)], DAY + D, True, "1.0.0"),
    ],
    ids=["none yet", "not on its own date", "the day after", "later line of one date", "newest date, not newest line",
         "a backfill's while no live one is", "a backfill does not move tonight", "but moves the past it builds",
         "a repeated first live night reads what it read"],
)  # fmt: skip
def test_which_champion_a_run_reads(
    engine: sa.Engine,
    customer: Customer,
    lines: list[tuple[str, date, bool]],
    run_date: date,
    live: bool,
    expected: str | None,
) -> None:
    crowned(engine, customer, lines)
    found = warehouse.champion(engine, customer.id, run_date, live=live)
    assert (found and found.version) == expected


def test_a_version_is_immutable_and_crowning_twice_draws_one_line(engine: sa.Engine, customer: Customer) -> None:
    crowned(engine, customer, [("1.10.0", DAY, True), ("1.9.0", DAY, True)])
    run = warehouse.read_run(engine, customer.id, f"{customer.id}/2024-03-01/1")
    with warehouse.acting_for(engine, customer.id) as connection:
        warehouse.register_version(connection, version(customer, run, "1.9.0"))
        crown(connection, customer, run, "1.9.0", DAY)
    with warehouse.acting_for(engine, customer.id) as connection, pytest.raises(ForecastingError, match="immutable"):
        warehouse.register_version(connection, version(customer, run, "1.9.0", "b" * 64))
    assert [known.version for known in warehouse.versions(engine, customer.id)] == ["1.9.0", "1.10.0"]
    assert len(rows_of(engine, f"SELECT 1 AS x FROM forecasting.champion WHERE customer_id = '{customer.id}'")) == 2


# --- what runs read back --------------------------------------------------------------------------------------------


def test_the_previous_snapshot_is_of_an_earlier_run_date_that_ended_well(
    engine: sa.Engine, customer: Customer, night: Night
) -> None:
    assert warehouse.previous_snapshot(engine, customer.id, DAY) is None
    good, _ = night(DAY - 2 * D, snapshot="s1")
    night(DAY - D)  # froze nothing
    broken = warehouse.allot(engine, customer, DAY - D, live=True, as_frozen=False, code=CODE)
    warehouse.note(engine, customer.id, broken.run_id, status="broken", snapshot="s2")
    night(DAY, snapshot="s3")
    found = warehouse.previous_snapshot(engine, customer.id, DAY)
    assert found is not None
    assert found.run_id == good.run_id


def test_open_publications_are_the_newest_of_each_earlier_run_date_in_reach(
    engine: sa.Engine, customer: Customer, night: Night
) -> None:
    night(DAY - 9 * D)
    night(DAY - 2 * D, key="a")
    newer, _ = night(DAY - 2 * D, key="b")
    last, _ = night(DAY - D)
    night(DAY)
    found = warehouse.open_publications(engine, customer.id, DAY, 5)
    assert [line.run_id for line in found] == [newer.run_id, last.run_id]
    assert warehouse.newest_published(engine, customer.id, before=DAY).run_id == last.run_id  # type: ignore[union-attr]


def test_an_alarm_waits_until_it_is_answered_and_is_read_as_of_a_run_date(
    engine: sa.Engine, customer: Customer, night: Night
) -> None:
    run, _ = night(DAY)
    signal = warehouse.Signal(
        customer_id=customer.id, kind="drift", run_id=run.run_id, armed_by=DAY, alarm=True, value=2.0
    )
    with warehouse.acting_for(engine, customer.id) as connection:
        warehouse.arm(connection, signal)
        warehouse.arm(connection, signal)
    assert warehouse.armed(engine, customer.id, DAY) == []
    answering, _ = night(DAY + D, key="next")
    with warehouse.acting_for(engine, customer.id) as connection:
        warehouse.consume(connection, answering)
    assert [found.kind for found in warehouse.armed(engine, customer.id, DAY + D)] == ["drift"]  # a repeated night
    assert warehouse.armed(engine, customer.id, DAY + 2 * D) == []


@pytest.mark.parametrize("staged_from", [0, 100], ids=["by COPY", "as arrays"])
def test_restated_actuals_replace_and_unknown_ones_do_not(
    engine: sa.Engine, customer: Customer, night: Night, staged_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = night()
    monkeypatch.setattr(warehouse, "STAGED_FROM", staged_from)
    for values in ([1.0, 2.0], [np.nan, 5.0]):
        frame = pd.DataFrame(
            {"node": "bottom", "unique_id": ["b/1", "b/2"], "ds": pd.to_datetime([DAY, DAY]), "y": values}
        )
        with warehouse.acting_for(engine, customer.id) as connection:
            warehouse.record_actuals(connection, customer.id, run.run_id, frame)
    found = rows_of(engine, f"SELECT y FROM {customer.id}.actual ORDER BY unique_id")
    assert [row["y"] for row in found] == [1.0, 5.0]


def test_a_repeated_freeze_replaces_its_detail(engine: sa.Engine, customer: Customer, night: Night) -> None:
    run, _ = night()
    refused = pd.DataFrame(
        {"line": [7, 9], "rule": "range", "reason": "long" * 2000, "unique_id": ["b/1", None],
         "ds": ["2024-02-30", "2024-02-29"], "row_json": ["x" * 5000, None]}
    )  # fmt: skip
    for _ in range(2):
        with warehouse.acting_for(engine, customer.id) as connection:
            warehouse.record_quarantine(connection, customer.id, run.run_id, refused)
    found = rows_of(
        engine, f"SELECT ds, length(row_json) AS n, length(reason) AS m FROM {customer.id}.quarantine ORDER BY position"
    )
    assert [row["ds"] for row in found] == [None, date(2024, 2, 29)]
    assert (found[0]["n"], found[0]["m"]) == (warehouse.ROW_TEXT, warehouse.ROW_TEXT)


def test_the_snapshot_lock_keeps_a_second_process_out_but_not_the_runs(
    engine: sa.Engine, customer: Customer, night: Night
) -> None:
    with warehouse.lock_snapshots(engine, customer.id):
        night()  # allots, locks the customer's row, publishes
        with pytest.raises(ForecastingError, match="snapshot lock"), warehouse.lock_snapshots(engine, customer.id, 0.2):
            pass
    with warehouse.lock_snapshots(engine, customer.id, 5):
        pass


def see(engine: sa.Engine, run: warehouse.Run, kept: bool = True, **lines: int) -> None:
    """Record days of February 2024, ``d05=7``, as a run saw them."""
    days = [pd.Timestamp(2024, 2, int(name[1:])) for name in lines]
    digests = [f"{n}" if n else None for n in lines.values()]
    frame = pd.DataFrame({"day": days, "lines": list(lines.values()), "digest": digests, "kept": kept})
    with warehouse.acting_for(engine, run.customer_id) as connection:
        warehouse.record_feed_days(connection, run, frame)


def held(engine: sa.Engine, customer: Customer, before: date) -> dict[int, int]:
    found = warehouse.feed_days(engine, customer.id, before).days
    return {day.day: lines for day, lines in zip(found["day"], found["lines"], strict=True)}


def test_the_ledger_shows_what_the_last_good_run_before_a_date_saw(
    engine: sa.Engine, customer: Customer, night: Night
) -> None:
    assert warehouse.feed_days(engine, customer.id, DAY).run is None
    for n, lines in enumerate(({"d01": 5, "d02": 5}, {"d02": 6, "d03": 5}, {"d03": 7})):
        run, _ = night(DAY + n * D, key=f"k{n}", snapshot="s")
        see(engine, run, **lines)
        see(engine, run, **lines)  # a repeated attempt replaces it
    assert held(engine, customer, DAY) == {}
    assert held(engine, customer, DAY + D) == {1: 5, 2: 5}
    assert held(engine, customer, DAY + 2 * D) == {1: 5, 2: 6, 3: 5}
    assert held(engine, customer, DAY + 9 * D) == {1: 5, 2: 6, 3: 7}
    ledger = warehouse.feed_days(engine, customer.id, DAY + 9 * D)
    assert ledger.run is not None
    assert ledger.run.run_id == run.run_id
    assert list(ledger.days.columns) == list(LEDGER)


def test_what_a_run_saw_that_did_not_end_well_is_new_to_the_next(
    engine: sa.Engine, customer: Customer, night: Night
) -> None:
    good, _ = night(snapshot="s")
    see(engine, good, d01=5)
    for n, status in enumerate(("failed", "broken", "late", "running"), 1):
        run = warehouse.allot(engine, customer, DAY + n * D, live=True, as_frozen=False, code=CODE)
        warehouse.note(engine, customer.id, run.run_id, snapshot="s", status=status)
        see(engine, run, d01=9)
    frozen = warehouse.allot(engine, customer, DAY + 9 * D, live=True, as_frozen=True, code=CODE)
    warehouse.note(engine, customer.id, frozen.run_id, snapshot="s", status="verified")
    ledger = warehouse.feed_days(engine, customer.id, DAY + 10 * D)
    assert ledger.run is not None
    assert ledger.run.run_id == good.run_id
    assert ledger.days["lines"].tolist() == [5]


def test_a_repeated_date_compares_with_what_its_first_computation_compared_with(
    engine: sa.Engine, customer: Customer, night: Night
) -> None:
    for n, lines in enumerate(({"d01": 5, "d02": 5}, {"d01": 6})):
        see(engine, night(DAY + n * D, key=f"k{n}", snapshot="s")[0], **lines)
    again, _ = night(DAY, key="again", snapshot="s")
    see(engine, again, d01=9, d02=5)  # computed after the next day: that one never saw this
    assert held(engine, customer, DAY + D) == {1: 9, 2: 5}
    assert held(engine, customer, DAY + 2 * D) == {1: 6, 2: 5}
    see(engine, night(DAY + D, key="again", snapshot="s")[0], d01=5)
    assert held(engine, customer, DAY + 2 * D) == {1: 5, 2: 5}  # now it has


def test_a_day_before_the_window_is_seen_but_not_kept(engine: sa.Engine, customer: Customer, night: Night) -> None:
    see(engine, night(DAY, snapshot="s")[0], d01=5, d02=5)
    see(engine, night(DAY + D, key="k2", snapshot="s")[0], kept=False, d01=0, d03=4)
    days = warehouse.feed_days(engine, customer.id, DAY + 2 * D).days
    assert days[["lines", "kept_lines"]].to_numpy().tolist() == [[0, 5], [5, 5], [4, 0]]
    assert days["kept_digest"].iloc[0] == "5"


def test_a_contracts_version_remembers_the_file_that_a_run_ended_well_with(
    engine: sa.Engine, customer: Customer, night: Night
) -> None:
    assert warehouse.agreed_hash(engine, customer.id, "sales", "1.0.0") is None
    run, _ = night(contract="sales", contract_version="1.0.0", contract_hash="a")
    night(DAY + D, key="k2", contract="sales", contract_version="1.1.0", contract_hash="b")
    failed = warehouse.allot(engine, customer, DAY + 2 * D, live=True, as_frozen=False, code=CODE)
    facts = {"contract": "sales", "contract_version": "1.0.0", "contract_hash": "c", "status": "failed"}
    warehouse.note(engine, customer.id, failed.run_id, **facts)
    assert warehouse.agreed_hash(engine, customer.id, "sales", "1.0.0") == (run.run_id, "a")


def test_trimming_drops_old_detail_and_keeps_checksums(engine: sa.Engine, night: Night, customer: Customer) -> None:
    old, _ = night(DAY - 500 * D)
    new, _ = night(DAY)
    assert warehouse.trim(engine, customer) == 6 + 2  # forecasts and statuses
    assert len(warehouse.read_forecast(engine, customer.id, old.run_id)) == 0
    assert len(warehouse.read_forecast(engine, customer.id, new.run_id)) == 6
    assert warehouse.published(engine, customer.id, DAY - 500 * D).checksum  # type: ignore[union-attr]


def test_fleet_health_counts_age_in_cutoffs(engine: sa.Engine, customer: Customer, night: Night) -> None:
    night(DAY, cutoff=DAY)
    broken = warehouse.allot(engine, customer, DAY + 3 * D, live=True, as_frozen=False, code=CODE)
    warehouse.note(engine, customer.id, broken.run_id, status="broken", message="prices are negative")
    (row,) = rows_of(engine, f"SELECT * FROM forecasting.fleet_health WHERE customer_id = '{customer.id}'")
    assert (row["last_status"], row["message"]) == ("broken", "prices are negative")
    assert (row["published_run_date"], row["behind_cutoffs"]) == (DAY, 3)
    assert row["age_cutoffs"] == row["age_days"]


@pytest.mark.parametrize(("frequency", "cutoff", "expected"), [
    ("W", date(2024, 2, 25), 0), ("W", date(2024, 2, 18), 1), ("M", date(2024, 2, 29), 0), ("M", date(2023, 11, 30), 3),
])  # fmt: skip
def test_weeks_and_months_count_when_complete(engine: sa.Engine, frequency: str, cutoff: date, expected: int) -> None:
    customer = make_customer(frequency=frequency)
    provision.ensure(engine, customer)
    run = warehouse.allot(engine, customer, date(2024, 3, 2), live=True, as_frozen=False, code=CODE)
    warehouse.note(engine, customer.id, run.run_id, cutoff=cutoff)
    put(engine, run)
    (row,) = rows_of(engine, f"SELECT behind_cutoffs FROM forecasting.fleet_health WHERE customer_id = '{customer.id}'")
    assert row["behind_cutoffs"] == expected


# --- secrets --------------------------------------------------------------------------------------------------------

CANARY = "c4naryS3cret"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{CANARY}@127.0.0.1:1/db",
        f"postgresql://user:{CANARY}@127.0.0.1:port/db",
        f"postgresql://user:{CANARY}/x@127.0.0.1/db",
        f"postgresql://user:x@{CANARY}@127.0.0.1/db",
        f"postgresql://user:x/{CANARY}@127.0.0.1/db",
        f"mysql://user:{CANARY}@127.0.0.1/db",
        f"{CANARY}",
    ],
)
def test_no_error_shows_the_password(url: str) -> None:
    with pytest.raises((ConfigurationError, sa.exc.OperationalError)) as caught:
        warehouse.connect(url).connect()
    error: BaseException | None = caught.value
    while error:
        assert CANARY not in str(error) + repr(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_no_error_of_a_statement_shows_its_parameters(engine: sa.Engine, customer: Customer) -> None:
    with pytest.raises(sa.exc.IntegrityError) as caught, warehouse.acting_for(engine, customer.id) as connection:
        connection.execute(
            tables.stage_time.insert().values(customer_id=customer.id, run_id="x", stage=CANARY, shard=0)
        )
    assert CANARY not in str(caught.value).partition("DETAIL")[0]
