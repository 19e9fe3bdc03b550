"""The embedded PostgreSQL: who starts it, who stops it, who may log in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from forecasting.config import settings
from forecasting.errors import ServerError
from forecasting.store import embedded
from forecasting.store.embedded import Server, deployment, server

HOLD = """
import sys
from pathlib import Path
from forecasting.store.embedded import server
with server(Path(sys.argv[1]), timeout=30) as running:
    print(running.port, flush=True)
    sys.stdin.readline()
"""
ROOT = Path(__file__).parents[2]


@contextmanager
def another_command(home: Path, *prefix: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that uses the server of ``home`` until it is given a line; and the server's port."""
    command = [*prefix, sys.executable, "-c", HOLD, str(home)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            assert line, "the command ended before its server was up"
            yield process, int(line)
        finally:
            process.kill()


def finish(process: subprocess.Popen[str]) -> None:
    assert process.communicate("\n", timeout=30) is not None
    assert process.returncode == 0


def answers(running: Server) -> bool:
    try:
        with psycopg.connect(dsn(running), connect_timeout=5) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def dsn(running: Server, database: embedded.Database = "warehouse") -> str:
    return running.url(database).replace("+psycopg", "")


def postmaster(home: Path) -> int:
    pid = embedded._postmaster(home / "postgres" / "data")
    assert pid is not None
    return pid


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose cluster exists; every test leaves its server stopped."""
    path = tmp_path_factory.mktemp("home")
    with server(path):
        pass
    return path


def test_the_server_runs_for_the_block_and_no_longer(home):
    with server(home) as running:
        assert answers(running)
    assert not answers(running)


def test_a_second_start_finds_what_the_first_wrote(home):
    with server(home) as running, psycopg.connect(dsn(running)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    with server(home) as running, psycopg.connect(dsn(running)) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_a_nested_user_leaves_the_server_to_the_outer_one(home):
    with server(home) as outer:
        with server(home) as inner:
            assert inner.port == outer.port
        assert answers(outer)


def test_the_first_command_out_leaves_the_server_to_the_second(home):
    with another_command(home) as (first, port), server(home) as running:
        assert running.port == port
        finish(first)
        assert answers(running)
    assert not answers(running)


def test_a_command_that_joins_leaves_the_server_to_the_one_that_started_it(home):
    with server(home) as running:
        with another_command(home) as (second, port):
            assert port == running.port
            finish(second)
        assert answers(running)


def test_two_first_starts_at_once_make_one_cluster(tmp_path):
    with another_command(tmp_path) as (first, port), another_command(tmp_path) as (second, other):
        assert port == other
        finish(first)
        finish(second)
    assert embedded._postmaster(tmp_path / "postgres" / "data") is None


def test_the_server_of_a_killed_command_is_joined_and_then_stopped(home):
    with another_command(home) as (command, port):
        command.kill()
        command.wait(10)
    with server(home) as running:
        assert running.port == port
        assert answers(running)
    assert not answers(running)


def test_a_terminated_command_stops_its_server(home):
    with another_command(home) as (command, _):
        command.terminate()
        assert command.wait(30) == 128 + signal.SIGTERM
    assert embedded._postmaster(home / "postgres" / "data") is None


def test_a_killed_server_starts_again_with_what_was_committed(home):
    with server(home) as running:
        with psycopg.connect(dsn(running)) as connection:
            connection.execute("CREATE TABLE survivor AS SELECT 7 AS answer")
        os.kill(postmaster(home), signal.SIGKILL)
        deadline = time.monotonic() + 30
        while answers(running):
            assert time.monotonic() < deadline, "it answers although its postmaster was killed"
            time.sleep(0.01)
    with server(home) as running, psycopg.connect(dsn(running)) as connection:
        assert connection.execute("SELECT answer FROM survivor").fetchone() == (7,)


def test_a_process_number_that_was_reused_is_not_taken_for_the_server(home):
    stale = home / "postgres" / "data" / "postmaster.pid"
    stale.write_text(f"{os.getpid()}\n{stale.parent}\n0\n28000\n\n127.0.0.1\n1 1\nready   \n")
    with server(home) as running:
        assert answers(running)


def test_a_start_that_was_killed_half_way_is_made_good(home):
    (home / "postgres" / "data.halfway").mkdir()
    (home / "postgres" / "complete").unlink()
    with server(home) as running:
        assert answers(running)


def test_a_forked_child_neither_stops_the_server_nor_counts_as_its_user(home):
    with server(home) as running:
        child = os.fork()
        if not child:
            signal.alarm(20)
            time.sleep(20)
            os._exit(0)
        short = os.fork()
        if not short:
            os._exit(0)
        os.waitpid(short, 0)
        assert answers(running)
    assert not answers(running)
    with server(home) as running:  # although the child of the first block lives on
        assert answers(running)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_another_port_is_chosen_when_somebody_took_the_old_one(home):
    import socket

    with server(home) as running:
        old = running.port
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", old))
        thief.listen()
        with server(home) as running:
            assert running.port != old
            assert answers(running)


def test_a_home_with_a_long_path_and_odd_letters_works(tmp_path):
    home = tmp_path / ("x" * 120) / 'it\'s $HOME, très "long"' / ("y" * 60)
    with server(home) as running:
        assert answers(running)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_without_a_name_has_a_server_of_his_own(home):
    prefix = ("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "--inh-caps=-all", "--")
    if subprocess.run([*prefix, sys.executable, "-c", "import psycopg"], cwd=ROOT, check=False).returncode:
        pytest.skip("this Python is closed to other users")
    with TemporaryDirectory() as folder:  # not tmp_path, whose parent pytest closes to others
        os.chown(folder, 12345, 12345)
        with server(home) as ours, another_command(Path(folder) / "home", *prefix) as (command, port):
            assert port != ours.port
            finish(command)
            assert answers(ours)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs a second way")
def test_root_has_a_second_way_where_namespaces_are_forbidden(tmp_path, monkeypatch):
    works = embedded._works
    monkeypatch.setattr(embedded, "_works", lambda prefix: prefix[0] != "unshare" and works(prefix))
    for _ in range(2):
        with server(tmp_path) as running:
            assert answers(running)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be refused")
def test_where_both_ways_are_forbidden_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "_works", lambda prefix: False)
    with pytest.raises(ServerError, match="FORECASTING_WAREHOUSE_URL"), server(tmp_path):
        pass


@pytest.mark.parametrize("database", ["warehouse", "airflow", "mlflow"])
def test_a_login_owns_its_database_and_is_no_superuser(home, database):
    query = """SELECT rolsuper, rolcreaterole, pg_get_userbyid(datdba) = current_user
               FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()"""
    with server(home) as running, psycopg.connect(dsn(running, database)) as connection:
        assert connection.execute(query).fetchone() == (False, database == "warehouse", True)


@pytest.mark.parametrize("password", ["", "wrong"])
def test_a_wrong_password_is_refused(home, password):
    with server(home) as running, pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://forecasting:{password}@127.0.0.1:{running.port}/warehouse", connect_timeout=5)


def test_the_warehouse_login_does_not_reach_the_other_databases(home):
    with server(home) as running, pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(dsn(running).replace("/warehouse", "/airflow"), connect_timeout=5)


def test_passwords_show_in_no_process_no_log_and_no_repr_and_only_the_owner_reads_them(tmp_path):
    with server(tmp_path) as running:
        listing = subprocess.run(["ps", "axeww"], capture_output=True, text=True, check=True).stdout
        shown = [listing, repr(running), (tmp_path / "logs" / "postgresql.log").read_text()]
        assert not [p for p in running.passwords.values() for text in shown if p in text]
    assert (tmp_path / "postgres").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "postgres").iterdir())


def test_nothing_changes_outside_the_home(tmp_path):
    tmp_path.chmod(0o700)
    before = tmp_path.stat().st_mode
    with server(tmp_path / "home"):
        pass
    assert tmp_path.stat().st_mode == before
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_deployment_with_servers_of_its_own_never_starts_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://a")
    given = replace(
        settings({"FORECASTING_HOME": str(tmp_path)}), warehouse_url="postgresql://w", mlflow_url="http://m"
    )
    with deployment(given) as environment:
        assert environment["FORECASTING_WAREHOUSE_URL"] == "postgresql://w"
        assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert not list(tmp_path.iterdir())


def test_what_a_deployment_does_not_name_points_at_the_embedded_server(home, monkeypatch):
    monkeypatch.delenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", raising=False)
    given = replace(settings({"FORECASTING_HOME": str(home)}), mlflow_url="http://m")
    with deployment(given) as environment:
        assert environment["MLFLOW_TRACKING_URI"] == "http://m"
        with psycopg.connect(environment["FORECASTING_WAREHOUSE_URL"].replace("+psycopg", "")) as connection:
            assert connection.execute("SELECT current_database()").fetchone() == ("warehouse",)
        assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].endswith("/airflow")
