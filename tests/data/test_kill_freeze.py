"""Kill a freeze twenty times, anywhere from the start of ``add`` to the end of the commit: nothing is lost or mixed."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest

from forecasting.config import settings
from forecasting.data.snapshots import freeze, history, read

from .freeze_once import panel_of

KILLS, INSIDE = 20, 15
STEPS = ("freeze: add", "freeze: push", "freeze: commit", "freeze: done")


@dataclass
class Child:
    """A freeze under way, and the steps it has said it reached."""

    process: subprocess.Popen[str]
    seen: list[tuple[str, float]]
    reader: threading.Thread

    @property
    def steps(self):
        return [step for line, _ in self.seen for step in STEPS if line.startswith(step)]


def start(home: Path, seed: int) -> Child:
    command = [sys.executable, Path(__file__).with_name("freeze_once.py"), str(home), str(seed)]
    env = {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    seen: list[tuple[str, float]] = []
    assert process.stdout is not None
    lines = process.stdout

    def listen() -> None:
        with lines:
            seen.extend((line, time.monotonic()) for line in lines)

    reader = threading.Thread(target=listen, daemon=True)
    reader.start()
    return Child(process, seen, reader)


def kill_after(child: Child, step: str, seconds: float) -> None:
    """SIGKILL ``seconds`` after the child said ``step``."""
    deadline = time.monotonic() + 60
    while step not in child.steps:
        assert child.process.poll() is None, child.seen
        assert time.monotonic() < deadline, f"{step} was not reached: {child.seen}"
        time.sleep(0.001)
    time.sleep(seconds)
    child.process.kill()
    child.process.wait(timeout=30)
    child.reader.join(timeout=30)


def durations(child: Child) -> dict[str, float]:
    """How long each step took that the child has ended."""
    times = [at for line, at in child.seen if line.startswith(STEPS)]
    return {step: later - at for step, at, later in zip(STEPS, times, times[1:], strict=False)}


def whole(home: Path, seed: int) -> Child:
    """A freeze that is left alone."""
    child = start(home, seed)
    assert child.process.wait(timeout=120) == 0, child.seen
    child.reader.join(timeout=30)
    return child


@pytest.mark.kill
def test_twenty_kills_leave_the_old_snapshot_or_the_new_one(tmp_path, capsys):
    home = tmp_path / "home"
    place = settings({"FORECASTING_HOME": str(home)})
    whole(home, 0)  # the first of a home makes its repos: slower than those that are killed
    spans = durations(whole(home, KILLS + 1))
    newest, table, draw = history(place, "acme")[0].ref, [], random.Random(7)
    for n in range(1, KILLS + 1):
        step = STEPS[n % 3]
        child = start(home, n)
        # not the last part of a step, nor by a span taken while the machine was busier: a kill may land outside
        into = draw.uniform(0, 0.6 * spans[step])
        kill_after(child, step, into)
        spans |= {step: min(took, spans[step]) for step, took in durations(child).items()}
        last = child.steps[-1]
        # what a reader with nothing but the remotes sees, before anything heals
        elsewhere = replace(place, home=tmp_path / f"reader{n}")
        tip = history(elsewhere, "acme")[0]
        assert tip.ref == newest or tip.run_id == f"acme/2024-01-01/{n}", "a third thing was published"
        pd.testing.assert_frame_equal(read(elsewhere, tip.ref)[0], panel_of(int(tip.run_id.rpartition("/")[2])))
        retried = freeze(place, panel_of(n), {"cutoff": "2023-12-31"}, customer_id="acme",
                         run_id=f"acme/2024-01-01/{n}", lock=nullcontext(), timeout=60)  # fmt: skip
        pd.testing.assert_frame_equal(read(replace(place, home=tmp_path / f"after{n}"), retried)[0], panel_of(n))
        table.append((n, f"{into * 1000:.0f} ms into {step}", last, "new" if tip.ref != newest else "old"))
        newest = retried
    assert [entry.run_id for entry in history(place, "acme")] == [
        f"acme/2024-01-01/{n}" for n in (*range(KILLS, 0, -1), KILLS + 1, 0)
    ]
    inside = [last for _, _, last, _ in table if last != "freeze: done"]
    with capsys.disabled():
        print("\nkill  aimed at                     last step said  tip before the retry")  # noqa: T201 - the table
        for n, aim, last, tip in table:
            print(f"{n:4}  {aim:27}  {last:14}  {tip}")  # noqa: T201
        print(f"{len(inside)} of {KILLS} between the start of add and the end of the commit")  # noqa: T201
    assert len(inside) >= INSIDE, f"only {len(inside)} kills landed between add and the end of the commit"
