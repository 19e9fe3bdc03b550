"""Kill publications with SIGKILL, most of them inside the transaction: readers see the old set or the new one."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa

from forecasting import config, pipeline
from forecasting.store import provision, warehouse
from forecasting.store.warehouse import Outcome
from tests.pipeline import conftest as small
from tests.store.conftest import CODE, make_customer, make_status

nights = small.nights
ROOT = Path(__file__).resolve().parents[2]
KILLS, INSIDE, NIGHTS = 20, 15, 8
SERIES, HORIZON = 4_000, 9
DAY = date(2024, 3, 1)
IDS = tuple(f"b/{i:05}" for i in range(SERIES))


# --- what is published ----------------------------------------------------------------------------------------------


def rows_of(seed: int) -> pd.DataFrame:
    """``frames.PUBLISHED``, 36,009 rows of whole numbers, every one of which differs from seed to seed."""
    names = [*IDS, "total"]
    steps = np.tile(np.arange(1, HORIZON + 1), len(names))
    y_hat = np.arange(len(steps), dtype=float) + seed * 100_000
    kind = np.repeat(["bottom"] * SERIES + ["total"], HORIZON)
    return pd.DataFrame(
        {
            "unique_id": np.repeat(names, HORIZON),
            "node": kind,
            "ds": pd.to_datetime(DAY) + pd.to_timedelta(steps, unit="D"),
            "h": steps,
            "y_hat": y_hat,
            "q50": y_hat,
            "q10": y_hat - 1,
            "q90": y_hat + 1,
            "model": "auto_ets",
            "rung": np.where(kind == "total", "sum", "chosen"),
        }
    )


def publish(engine: sa.Engine, run: warehouse.Run, seed: int) -> Outcome:
    """As pipeline.publish does: everything in one transaction."""
    rows = rows_of(seed)
    with warehouse.acting_for(engine, run.customer_id) as connection:
        return warehouse.publish(
            connection, run, rows, key=f"key{seed}", checksum=warehouse.checksum(rows),
            version="1.0.0", status=make_status(IDS), reason="test",
        )  # fmt: skip


class Seen(NamedTuple):
    """What one statement of a reader finds in ``forecast_current``; its sums are exact, all values being whole."""

    first_run: str
    last_run: str
    rows: int
    y_hat: float
    weighted: float
    q90: float


CURRENT = """SELECT min(run_id) AS first_run, max(run_id) AS last_run, count(*) AS rows, sum(y_hat) AS y_hat,
    sum(y_hat * h) AS weighted, sum(q90) AS q90 FROM {}.forecast_current"""


def seen_by(engine: sa.Engine, customer_id: str) -> Seen:
    return Seen(*warehouse.query(engine, CURRENT.format(customer_id)).iloc[0])


def whole(run_id: str, seed: int) -> Seen:
    """What a reader finds when it sees the whole set of ``seed`` and nothing else."""
    rows = rows_of(seed)
    weighted = float((rows["y_hat"] * rows["h"]).sum())
    return Seen(run_id, run_id, len(rows), float(rows["y_hat"].sum()), weighted, float(rows["q90"].sum()))


# --- the child: publishes step by step, each step asked for ---------------------------------------------------------


class AskingCursor(psycopg.Cursor[Any]):
    """Says what it is about to send and waits to be told to go on."""

    armed = False

    def execute(self, query, *args, **kwargs):
        ask(str(query))
        return super().execute(query, *args, **kwargs)

    def copy(self, *args, **kwargs):
        ask("COPY")
        return super().copy(*args, **kwargs)


def ask(step: str) -> None:
    if AskingCursor.armed:
        print("step", " ".join(step.split())[:60], flush=True)  # noqa: T201 - the parent reads it
        if not sys.stdin.readline():
            sys.exit("the parent is gone")


def publish_when_told(url: str, customer_id: str, run_id: str, seed: str) -> None:
    engine = warehouse.connect(url)

    @sa.event.listens_for(engine, "connect")
    def _asking(connection, _record):
        connection.cursor_factory = AskingCursor

    sa.event.listen(engine, "commit", lambda _connection: ask("COMMIT"))
    run = warehouse.read_run(engine, customer_id, run_id)
    with engine.connect() as connection:
        print("backend", connection.connection.driver_connection.info.backend_pid, flush=True)  # noqa: T201
    sa.event.listen(engine, "begin", lambda _connection: setattr(AskingCursor, "armed", True))
    publish(engine, run, int(seed))
    print("done", flush=True)  # noqa: T201


def publish_night(path: str) -> None:
    """pipeline.publish of the references kept at ``path``, as a task in a process of its own."""
    frozen, statistical, ml = json.loads(Path(path).read_text())
    deployment = pipeline.connect(config.settings())
    print("begin", flush=True)  # noqa: T201
    pipeline.publish(deployment, frozen, statistical, ml)
    print("done", flush=True)  # noqa: T201


@dataclass
class Child:
    """The process to be killed; its lines come one at a time."""

    process: subprocess.Popen[bytes]
    said: list[str] = field(default_factory=list)

    def line(self, timeout: float = 60) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        assert ready, f"nothing more was said within {timeout} s: {self.said}"
        self.said.append(self.process.stdout.readline().decode().strip())
        assert self.said[-1], f"the child ended by itself after saying {self.said}; its error is on stderr"
        return self.said[-1]

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    def freeze(self) -> None:
        """SIGSTOP, so that what the server shows next is where the kill lands."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def kill(self) -> bool:
        """SIGKILL; False when the process had ended by then."""
        self.process.kill()
        return self.process.wait(timeout=30) == -signal.SIGKILL


@contextmanager
def child(*arguments: str, **environ: str) -> Iterator[Child]:
    command = [sys.executable, __file__, *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
    with subprocess.Popen(command, env=env, cwd=ROOT, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield Child(process)
        finally:
            process.kill()


# --- twenty kills in one transaction --------------------------------------------------------------------------------


class Place(NamedTuple):
    """What PostgreSQL says the child's backend is doing, while the child cannot move."""

    state: str
    in_transaction: bool
    has_written: bool
    query: str

    @property
    def inside(self) -> bool:
        return self.in_transaction and self.query != "COMMIT"


BACKEND = """SELECT state, xact_start IS NOT NULL, backend_xid IS NOT NULL, regexp_replace(query, '\\s+', ' ', 'g')
    FROM pg_stat_activity WHERE pid = %s"""


@contextmanager
def engine_on(url: str) -> Iterator[sa.Engine]:
    engine = warehouse.connect(url)
    try:
        yield engine
    finally:
        engine.dispose()


@dataclass
class Watch:
    """A reader that polls ``forecast_current`` all the while."""

    url: str
    customer_id: str
    seen: list[Seen] = field(default_factory=list)
    polls: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def poll(self) -> None:
        with engine_on(self.url) as engine:
            while not self._stop.wait(0.02):
                answer = seen_by(engine, self.customer_id)
                self.polls += 1
                if not self.seen or self.seen[-1] != answer:
                    self.seen.append(answer)

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self.poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(60)


def moments(steps: list[tuple[str, float]]) -> list[tuple[int, float | None]]:
    """Where to aim: before each step, then (seconds) into those that take long."""
    names = [name for name, _ in steps]
    copy, commit = names.index("COPY"), names.index("COMMIT")
    status = next(i for i, name in enumerate(names) if name.startswith("INSERT INTO") and "series_status" in name)
    within = [(copy, part) for part in (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)] + [
        (status, 0.5),
        (commit, 0.0),
        (commit, 0.5),
    ]
    aims = [*((i, None) for i in range(len(steps))), *((i, part * steps[i][1]) for i, part in within)]
    assert len(aims) >= KILLS, names
    return aims[:KILLS]


def steps_of_a_whole_one(url: str, run: warehouse.Run, seed: int) -> list[tuple[str, float]]:
    """Every step of a publication that is left alone, and its seconds."""
    said = []
    with child("steps", url, run.customer_id, run.run_id, str(seed)) as one:
        one.line()
        while (line := one.line()) != "done":
            said.append((line.removeprefix("step "), time.monotonic()))
            one.go_on()
        ended = time.monotonic()
    times = [at for _, at in said] + [ended]
    return [(name, later - at) for (name, at), later in zip(said, times[1:], strict=True)]


def kill_one(url: str, run: warehouse.Run, seed: int, step: int, into: float | None, server: Any) -> tuple[Place, int]:
    """SIGKILL a publication before its step, or some seconds into it; where that was, and its backend."""
    with child("steps", url, run.customer_id, run.run_id, str(seed)) as one:
        backend = int(one.line().removeprefix("backend "))
        for _ in range(step):
            one.line()
            one.go_on()
        one.line()
        if into is not None:
            one.go_on()
            time.sleep(into)
        one.freeze()
        place = Place(*server.execute(BACKEND, (backend,)).fetchone())
        assert one.kill()
    return place, backend


STANDING = """SELECT (SELECT count(*) FROM {0}.forecast WHERE run_id = '{1}') AS rows,
    (SELECT count(*) FROM forecasting.series_status WHERE run_id = '{1}') AS statuses,
    (SELECT count(*) FROM forecasting.publication WHERE run_id = '{1}') AS lines,
    (SELECT rows_published FROM forecasting.run WHERE run_id = '{1}') AS published,
    (SELECT status FROM forecasting.run WHERE run_id = '{1}') AS status"""
ALL = (SERIES * HORIZON + HORIZON, SERIES, 1, SERIES * HORIZON + HORIZON, "published")
NONE = (0, 0, 0, None, "running")
SUPERSEDED = (0, 0, 0, None, "failed")
VERIFIED = (0, 0, 0, 0, "verified")


def standing(engine: sa.Engine, run: warehouse.Run) -> tuple[Any, ...]:
    """What there is of a run, in one statement."""
    found = warehouse.query(engine, STANDING.format(run.customer_id, run.run_id))
    return tuple(None if value is None or value != value else value for value in found.astype(object).iloc[0])


def gone(server: Any, backend: int) -> None:
    """Wait until a dead client's backend has noticed."""
    deadline = time.monotonic() + 30
    while server.execute(BACKEND, (backend,)).fetchone():
        assert time.monotonic() < deadline, f"backend {backend} outlived its client"
        time.sleep(0.01)


@pytest.mark.kill
def test_twenty_kills_leave_the_old_set_or_the_new_one(warehouse_url, engine, capsys):
    customer = make_customer(horizon=HORIZON)
    provision.ensure(engine, customer)

    def allot() -> warehouse.Run:
        return warehouse.allot(engine, customer, DAY, live=True, as_frozen=False, code=CODE)

    first = allot()
    steps = steps_of_a_whole_one(warehouse_url, first, 0)
    allowed, current, table = [whole(first.run_id, 0)], first, []
    watch = Watch(warehouse_url, customer.id)
    with psycopg.connect(warehouse_url.replace("+psycopg", ""), autocommit=True) as server, watch.watching():
        for n, (step, into) in enumerate(moments(steps), start=1):
            run = allot()
            place, backend = kill_one(warehouse_url, run, n, step, into, server)
            # the backend may still be alive: what stands is old or new now, and the retry does not wait for it
            left = standing(engine, run)
            assert left in (ALL, NONE), f"kill {n}, {place}: half a publication: {left}"
            before = warehouse.published(engine, customer.id, DAY)
            assert before is not None
            assert before.run_id in (current.run_id, run.run_id)
            again = run if n % 2 else allot()
            outcome = publish(engine, again, n)
            current = settled(engine, server, run, again, outcome, backend)
            allowed.append(whole(current.run_id, n))
            table.append((n, steps[step][0], into, place, "new" if before.run_id == run.run_id else "old", outcome))
    show(capsys, table, watch)
    assert set(watch.seen) <= set(allowed), "a reader saw a set that nobody published"
    order = [allowed.index(seen) for seen in watch.seen]
    assert order == sorted(order), "a reader saw an older set after a newer one"
    assert watch.polls > KILLS
    assert seen_by(engine, customer.id) == allowed[-1]
    inside = sum(place.inside for _, _, _, place, _, _ in table)
    assert len(table) == KILLS
    assert inside >= INSIDE, f"only {inside} kills landed inside the transaction"


def settled(
    engine: sa.Engine, server: Any, run: warehouse.Run, again: warehouse.Run, outcome: Outcome, backend: int
) -> warehouse.Run:
    """The run that readers see after the retry; nothing of the killed attempt comes later."""
    gone(server, backend)
    killed = standing(engine, run)
    if again.run_id == run.run_id:
        assert (outcome, killed) == (Outcome.PUBLISHED, ALL)
    elif outcome is Outcome.VERIFIED:
        assert (killed, standing(engine, again)) == (ALL, VERIFIED)
    else:
        assert (outcome, killed, standing(engine, again)) == (Outcome.PUBLISHED, SUPERSEDED, ALL)
    after = warehouse.published(engine, run.customer_id, DAY)
    assert after is not None
    assert after.run_id == (run if outcome is Outcome.VERIFIED else again).run_id
    back = warehouse.read_forecast(engine, run.customer_id, after.run_id)
    assert warehouse.checksum(back) == after.checksum
    return warehouse.read_run(engine, run.customer_id, after.run_id)


def show(capsys: pytest.CaptureFixture[str], table: list[tuple[Any, ...]], watch: Watch) -> None:
    lines = [("kill", "aimed at", "backend", "its last statement", "where", "set", "retry")]
    for n, step, into, place, found, outcome in table:
        aim = f"before {step[:28]}" if into is None else f"{into * 1000:.0f} ms into {step[:24]}"
        state = place.state + (", xid" if place.has_written else "")
        where = "inside" if place.inside else "outside"
        lines.append((str(n), aim, state, place.query[:28], where, found, str(outcome)))
    inside = sum(place.inside for _, _, _, place, _, _ in table)
    with capsys.disabled():
        print()  # noqa: T201 - the table
        for line in lines:
            print("{:>4}  {:35}  {:24}  {:28}  {:7}  {:3}  {}".format(*line))  # noqa: T201
        print(f"{inside} of {len(table)} inside; {watch.polls} polls saw {len(watch.seen)} sets, each whole")  # noqa: T201


# --- whole nights ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """A night up to its publish, for which a process of its own is started."""

    night: small.Nights
    references: Path
    run_id: str

    @contextmanager
    def publishing(self) -> Iterator[Child]:
        place = self.night.deployment.settings
        environ = {
            "FORECASTING_HOME": str(place.home),
            "FORECASTING_ROOT": str(place.root),
            "FORECASTING_WAREHOUSE_URL": str(place.warehouse_url),
            "MLFLOW_TRACKING_URI": str(place.mlflow_url),
            "FORECASTING_SHARDS": str(place.shards),
        }
        with child("night", str(self.references), **environ) as one:
            assert one.line() == "begin"
            yield one

    def kept(self) -> dict[str, int]:
        """How many lines of what the last transaction writes there are, in one statement."""
        counted = ("publication", "champion", "decision", "forecast", "series_status", "series")
        columns = ", ".join(f"(SELECT count(*) FROM forecasting.{name}) AS {name}" for name in counted)
        return {str(name): int(count) for name, count in self.night.sql(f"SELECT {columns}").iloc[0].items()}

    def versions(self) -> int:
        return len(self.night.sql("SELECT * FROM forecasting.model_version"))


def ready(night: small.Nights, references: Path, day: str = "2018-10-01") -> Ready:
    frozen = pipeline.freeze(night.deployment, night.pulled(day))
    statistical, ml = night.fitted(frozen)
    references.write_text(json.dumps([frozen[0], statistical, ml]), encoding="utf-8")
    return Ready(night, references, frozen[0]["run_id"])


def whole_publication(here: Ready) -> float:
    """Publish in a process that is left alone; its seconds."""
    with here.publishing() as one:
        began = time.monotonic()
        assert one.line() == "done"
        return time.monotonic() - began


@pytest.mark.kill
def test_a_night_killed_while_it_publishes_ends_as_an_undisturbed_one(nights, tmp_path, capsys):
    there, here = (ready(nights(name), tmp_path / f"{name}.json") for name in ("there", "here"))
    whole_publication(there)
    complete = there.kept()
    span = whole_publication(there)  # again, since the first one made MLflow's tables
    nothing = dict.fromkeys(complete, 0)
    draw, table = random.Random(11), []
    for part in sorted(draw.uniform(0, 1) for _ in range(NIGHTS)):
        with here.publishing() as one:
            time.sleep(part * span)
            killed = one.kill()
        left = here.kept()
        assert left in (nothing, complete), f"killed after {part * span:.2f} s: {left}"
        table.append((part * span, here.versions(), "new" if left == complete else "none", killed))
    with here.publishing() as retried:
        assert retried.line() == "done"
    assert here.kept() == complete
    mine, other = (
        warehouse.read_run(one.night.deployment.engine, one.night.customer, one.run_id) for one in (here, there)
    )
    assert (mine.status, mine.checksum, mine.key) == ("published", other.checksum, other.key)
    assert here.versions() == there.versions() == 1
    assert here.night.run("2018-10-01").status == "verified"
    with capsys.disabled():
        print(f"\nkilled after  versions kept  set    (an undisturbed publish: {span:.2f} s)")  # noqa: T201
        for seconds, versions, found, killed in table:
            print(f"{seconds:10.2f} s  {versions:13}  {found}{'' if killed else '; had ended'}")  # noqa: T201
    assert sum(killed for *_, killed in table) >= NIGHTS - 3


if __name__ == "__main__":
    {"steps": publish_when_told, "night": publish_night}[sys.argv[1]](*sys.argv[2:])
