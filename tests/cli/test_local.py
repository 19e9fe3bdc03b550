"""A whole local Airflow: comes up, is closed to strangers, runs tasks, and leaves nothing running however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from forecasting.cli import local
from forecasting.cli.local import LocalAirflow
from forecasting.config import Settings, settings
from forecasting.errors import ServerError

CHECKOUT = Path(__file__).parents[2]
DAG = """
from datetime import datetime
from airflow.sdk import dag, task

@dag(schedule="@daily", start_date=datetime(2024, 1, 1), end_date=datetime(2024, 1, 2), catchup=False)
def tiny():
    @task
    def say():
        import sys
        return sorted({"pandas", "airflow"} & set(sys.modules))
    say()

tiny()
"""
UP = """
import sys
from forecasting.cli.local import airflow
from forecasting.config import settings
with airflow(settings(), triggerer=False, preload=()) as running:
    print(running.base_url, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("root")
    (root / "dags").mkdir()
    (root / "plugins").mkdir()
    (root / "dags" / "tiny.py").write_text(DAG)
    return settings({"FORECASTING_HOME": str(root / "home"), "FORECASTING_ROOT": str(root)})


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def running(deployment: Settings, told: list[str]) -> Iterator[LocalAirflow]:
    with local.airflow(deployment, on_progress=told.append, preload=("pandas",)) as airflow:
        yield airflow


def wait_for(claim, timeout: float = 60):
    deadline = time.monotonic() + timeout
    while not (value := claim()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.2)
    return value


def status_and_text(url: str) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=20) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def processes(home: Path) -> list[str]:
    """Commands of the living processes whose environment or arguments name ``home``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            alive = (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            text = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if alive and int(folder.name) != os.getpid() and str(home).encode() in text:
            found.append(f"{folder.name} {(folder / 'cmdline').read_bytes().decode(errors='replace')}")
    return found


def test_every_component_is_healthy(running):
    health = running.api.health()
    assert {health[name] for name in ("metadatabase", "scheduler", "dag_processor", "triggerer")} == {"healthy"}


def test_progress_is_told_from_the_first_second(running, told):
    assert told[:2] == ["starting PostgreSQL", "migrating Airflow's database"]
    assert any("API server" in line for line in told)


def test_a_task_runs_and_finds_the_preloaded_modules_imported(running):
    wait_for(lambda: running.api.get("/dags?limit=10")["dags"])
    running.api.patch("/dags/tiny", {"is_paused": False})
    running.api.post("/dags/tiny/dagRuns", {"dag_run_id": "once", "logical_date": "2024-01-01T00:00:00Z"})
    wait_for(lambda: running.api.get("/dags/tiny/dagRuns/once")["state"] in {"success", "failed"})
    assert running.api.get("/dags/tiny/dagRuns/once")["state"] == "success"
    value = running.api.get("/dags/tiny/dagRuns/once/taskInstances/say/xcomEntries/return_value")["value"]
    assert "pandas" in str(value)


@pytest.mark.parametrize("path", ["/api/v2/dags", "/api/v2/connections", "/api/v2/config"])
def test_strangers_see_nothing(running, path):
    assert status_and_text(running.base_url + path)[0] in {401, 403, 404}


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_api_is_not_described_to_strangers(running, path):
    assert "swagger" not in status_and_text(running.base_url + path)[1].lower()


def test_a_wrong_password_is_refused(running):
    with pytest.raises(ServerError, match="401"):
        replace(running.api, password="wrong").get("/dags")


def test_an_error_of_the_api_says_what_was_refused(running):
    with pytest.raises(ServerError, match="GET /api/v2/dags/absent: 404"):
        running.api.get("/dags/absent")


def test_every_open_port_is_on_loopback(running, deployment):
    inodes = set()
    for line in processes(deployment.home):
        folder = Path("/proc") / line.split()[0] / "fd"
        for link in folder.iterdir() if folder.exists() else ():
            try:
                inodes.add(str(link.readlink()))
            except OSError:
                continue
    listening = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    ours = {row[1].split(":")[0] for row in listening if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}
    assert ours == {"0100007F"}


def test_a_second_one_on_the_same_home_is_refused_and_names_the_first(running, deployment):
    with pytest.raises(ServerError, match=f"already running.*{running.base_url}"), local.airflow(deployment):
        pass


def test_secrets_are_the_owners_and_in_no_command_line(running, deployment):
    hidden = local.secrets_of(deployment.home)
    files = [deployment.home / "airflow" / name for name in ("secrets.json", "passwords.json")]
    assert [path.stat().st_mode & 0o077 for path in files] == [0, 0]
    listing = subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
    logs = "".join(path.read_text(errors="replace") for path in (deployment.home / "logs").glob("*.log"))
    assert not [name for name, value in hidden.items() if value in listing or value in logs]
    assert repr(running).count(running.password) == 0


def test_a_component_that_ends_is_reported_with_its_last_lines(running):
    running.check()
    victim = running._components["triggerer"]
    victim.kill()
    victim.wait(10)
    with pytest.raises(ServerError, match=r"triggerer ended with code -9\. Last lines of"):
        running.check()


@pytest.fixture(scope="module")
def spare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root whose home is not running."""
    root = tmp_path_factory.mktemp("spare")
    (root / "dags").mkdir()
    return root


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, id="SIGINT"),
        pytest.param(signal.SIGTERM, id="SIGTERM", marks=pytest.mark.kill),
        pytest.param(signal.SIGKILL, id="SIGKILL", marks=pytest.mark.kill),
    ],
)
def test_however_it_ends_nothing_is_left_running(spare, number):
    env = {**os.environ, "FORECASTING_HOME": str(spare / "home"), "FORECASTING_ROOT": str(spare)}
    command = [sys.executable, "-c", UP]
    with subprocess.Popen(command, env=env, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL) as parent:  # fmt: skip
        try:
            assert parent.stdout
            assert parent.stdout.readline().startswith("http://127.0.0.1:")
            parent.send_signal(number)
            parent.wait(40)
        finally:
            parent.kill()
    # a killed one cannot stop PostgreSQL, which waits for the next command; the kernel ends the components
    left = ["postgres"] if number == signal.SIGKILL else []
    wait_for(lambda: [line for line in processes(spare) if "postgres" not in line.split("\0")[0]] == [], 30)
    assert sorted({"postgres" for _ in processes(spare)}) == left
    if left:
        from forecasting.store.embedded import server

        def stopped_by_the_next_command():
            with server(spare / "home"):
                pass
            return processes(spare) == []

        wait_for(stopped_by_the_next_command, 30)  # a killed user's lock is held until the kernel has closed its files
