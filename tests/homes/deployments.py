"""A small checkout, its homes, and the Airflow that `forecasting up` runs on one of them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from forecasting import config
from forecasting.cli import airflows
from forecasting.store import embedded, warehouse
from tests import small

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 300
"""Seconds that any one command or backfill here may take; it takes a tenth on an idle machine."""


@dataclass(frozen=True)
class Home:
    """One FORECASTING_HOME and the commands that run on it."""

    path: Path
    checkout: Path
    settings_of_its_own: dict[str, str] = field(default_factory=dict)

    @property
    def environ(self) -> dict[str, str]:
        ours = ("FORECASTING_", "AIRFLOW_", "MLFLOW_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        here = {"FORECASTING_HOME": str(self.path), "FORECASTING_ROOT": str(self.checkout), "FORECASTING_SHARDS": "2"}
        return {**kept, **here, "COLUMNS": "250", **self.settings_of_its_own}

    @property
    def settings(self) -> config.Settings:
        return config.settings(self.environ)

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Begin ``forecasting <command>`` in a process group of its own, as a terminal does."""
        return subprocess.Popen(
            [sys.executable, "-m", "forecasting", *command], env=self.environ, cwd=ROOT, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0,
        )  # fmt: skip

    def command(self, *command: str) -> str:
        """What ``forecasting <command>`` said; it must succeed."""
        with self.start(*command) as process:
            said, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, said
        return said

    @contextmanager
    def databases(self) -> Iterator[dict[embedded.Database, str]]:
        """URLs of the embedded databases, joined or started."""
        with embedded.server(self.path) as running:
            yield {name: running.url(name) for name in ("warehouse", "airflow", "mlflow")}

    def sql(self, query: str) -> pd.DataFrame:
        """Rows of the warehouse."""
        with self.databases() as urls:
            engine = warehouse.connect(urls["warehouse"])
            try:
                return warehouse.query(engine, query)
            finally:
                engine.dispose()

    def published(self, customer_id: str = "mini") -> pd.DataFrame:
        """The standing publications, one row per run date."""
        return self.sql(f"""
            select distinct on (p.run_date) p.run_date, p.run_id, p.checksum, r.key, r.plan, r.status
            from forecasting.publication p join forecasting.run r using (customer_id, run_id)
            where p.customer_id = '{customer_id}' order by p.run_date, p.seq desc""")

    def living(self) -> list[str]:
        """Processes whose environment or arguments name this home."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                alive = (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
                text = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if alive and int(folder.name) != os.getpid() and f"{self.path}".encode() in text:
                found.append(f"{folder.name} {words}")
        return found


def lay_out(root: Path) -> None:
    """Make a checkout with the small feed cut from the pasta data, and no customer yet."""
    shutil.copytree(ROOT / "plugins", root / "plugins", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "examples").mkdir()
    (root / "dags/customers").mkdir(parents=True)
    shutil.copy(ROOT / "dags/forecast_customers.py", root / "dags")
    shutil.copytree(ROOT / "data_contracts", root / "data_contracts")
    small.cut(root / "examples/mini.csv")
    for name in ("pasta_sales", "live_sales"):
        small.loosen(root, 7 * len(small.SKUS), name)


PAST = "first_date: 2018-10-01\nlast_date: 2018-10-03"


def declare(
    checkout: Path, customer_id: str, uri: str = "examples/mini.csv", dates: str = PAST, contract: str = "pasta_sales"
) -> None:
    """Write the small customer's file under a name; ``dates`` may hold further keys."""
    text = small.declaration(customer_id, uri, dates, contract)
    (checkout / f"dags/customers/{customer_id}.yaml").write_text(text, encoding="utf-8")


def wait_for(claim: Callable[[], Any], what: str, timeout: float = LIMIT) -> Any:
    limit = time.monotonic() + timeout
    while not (value := claim()):
        assert time.monotonic() < limit, f"waited {timeout:.0f} s until {what}"
        time.sleep(0.2)
    return value


@dataclass(frozen=True)
class Live:
    """The Airflow that `forecasting up` runs, and what it said."""

    process: subprocess.Popen[str]
    output: Path
    airflow: airflows.Airflow


@contextmanager
def up(home: Home) -> Iterator[Live]:
    """`forecasting up` on ``home``, until the block ends."""
    output = home.checkout / "up.txt"
    with output.open("w") as file, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        process = subprocess.Popen(
            [sys.executable, "-m", "forecasting", "up", "--port", f"{port}"], env=home.environ, cwd=ROOT,
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, process_group=0, text=True,
        )  # fmt: skip
        try:
            wait_for(lambda: "Airflow is up" in output.read_text() or process.poll() is not None, "Airflow is up")
            assert process.poll() is None, output.read_text()
            with airflows.attach(home.settings) as airflow:
                made = Live(process, output, airflow)
            yield made
        finally:
            interrupt(process)


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C in the terminal of ``process``; does nothing if it has ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise


@contextmanager
def silent_server() -> Iterator[str]:
    """Address of a server that takes connections and never answers."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    for connection in held:
        connection.close()
