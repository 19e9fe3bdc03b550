"""Two transactions publish for one customer and run date at once: one after the other, never interleaved."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date

import pytest
import sqlalchemy as sa

from forecasting.config import Customer
from forecasting.store import warehouse
from forecasting.store.warehouse import Outcome
from tests.store.conftest import CODE, make_rows, make_status, put

DAY = date(2024, 3, 1)
LIMIT = 20
"""Seconds that anything here may take."""


def allot(engine: sa.Engine, customer: Customer) -> warehouse.Run:
    return warehouse.allot(engine, customer, DAY, live=True, as_frozen=False, code=CODE)


@contextmanager
def open_publication(
    engine: sa.Engine, run: warehouse.Run, key: str, y_hat: float
) -> Iterator[tuple[Outcome, sa.Connection]]:
    """A publication that has written everything and commits only when the block ends."""
    rows = make_rows(y_hat, run.run_date)
    with warehouse.acting_for(engine, run.customer_id) as connection:
        outcome = warehouse.publish(
            connection, run, rows, key=key, checksum=warehouse.checksum(rows),
            version="1.0.0", status=make_status(), reason="test",
        )  # fmt: skip
        yield outcome, connection


def waits_or_ends(engine: sa.Engine, holder: sa.Connection, other: Future[Outcome]) -> None:
    """Until the other publication waits for this one, or has ended without."""
    backend = holder.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    blocked = sa.text("SELECT count(*) FROM pg_stat_activity WHERE :backend = ANY(pg_blocking_pids(pid))")
    deadline = time.monotonic() + LIMIT
    with engine.connect() as outside:
        while not other.done() and not outside.execute(blocked, {"backend": backend}).scalar_one():
            assert time.monotonic() < deadline, "the other publication neither waits nor ends"
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("first", "second", "same_key", "ends"),
    [
        pytest.param(0, 1, True, Outcome.VERIFIED, id="same key, newer comes second"),
        pytest.param(0, 1, False, Outcome.PUBLISHED, id="other key, newer comes second"),
        pytest.param(1, 0, True, Outcome.LATE, id="same key, older comes second"),
        pytest.param(1, 0, False, Outcome.LATE, id="other key, older comes second"),
    ],
)
def test_the_second_publication_waits_for_the_first_and_sees_it(
    engine: sa.Engine, customer: Customer, first: int, second: int, same_key: bool, ends: Outcome
) -> None:
    runs = [allot(engine, customer), allot(engine, customer)]
    y_hat = 1.0 if same_key else 2.0
    with ThreadPoolExecutor(1) as pool:
        with open_publication(engine, runs[first], "key", 1.0) as (outcome, connection):
            other = pool.submit(put, engine, runs[second], "key" if same_key else "other", y_hat)
            waits_or_ends(engine, connection, other)
            assert not other.done(), f"published beside an open publication: {other.result()}"
        assert (outcome, other.result(LIMIT)) == (Outcome.PUBLISHED, ends)
    shown = runs[second] if ends is Outcome.PUBLISHED else runs[first]
    current = warehouse.query(engine, f"SELECT run_id, y_hat FROM {customer.id}.forecast_current WHERE h = 1")
    assert set(current["run_id"]) == {shown.run_id}
    assert len(current) == 3
    rows = [len(warehouse.read_forecast(engine, customer.id, run.run_id)) for run in runs]
    assert rows[first] == 6
    assert rows[second] == (6 if ends is Outcome.PUBLISHED else 0)
    assert warehouse.read_run(engine, customer.id, runs[second].run_id).status == str(ends)


def test_of_many_with_the_same_key_at_once_one_publishes(engine: sa.Engine, customer: Customer) -> None:
    runs = [allot(engine, customer) for _ in range(6)]
    together = threading.Barrier(len(runs), timeout=LIMIT)

    def one(run: warehouse.Run) -> Outcome:
        together.wait()
        return put(engine, run)

    with ThreadPoolExecutor(len(runs)) as pool:
        outcomes = list(pool.map(one, runs, timeout=LIMIT))
    assert outcomes.count(Outcome.PUBLISHED) == 1
    standing = warehouse.published(engine, customer.id, DAY)
    assert standing is not None
    assert standing.run_id == runs[outcomes.index(Outcome.PUBLISHED)].run_id
    # who came after it and is older is late, who is newer has verified it
    ends = {run.run_id: warehouse.read_run(engine, customer.id, run.run_id).status for run in runs}
    for run in runs:
        expected = "late" if run.fence < standing.fence else "verified"
        assert ends[run.run_id] == ("published" if run.run_id == standing.run_id else expected)
    lines = warehouse.query(engine, f"SELECT run_id FROM forecasting.publication WHERE customer_id = '{customer.id}'")
    assert lines["run_id"].tolist() == [standing.run_id]
    assert warehouse.query(engine, f"SELECT count(*) AS n FROM {customer.id}.forecast")["n"].tolist() == [6]
