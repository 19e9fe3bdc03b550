"""Real parts for every test: one embedded PostgreSQL per session, a fresh warehouse where one is asked for."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from forecasting import config
from forecasting.store import embedded, warehouse
from tests import small


def pytest_configure() -> None:
    """A run that a script sent to the background ignores SIGINT, and so would every command that a test interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal tests out one by one, but those of a file or folder that makes something dear for all of them to one worker.

    xdist has a mark and a mode for it, ``loadgroup``, which its 3.8 does not obey under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return _shared(config.rootpath, file) or nodeid

        def remove_node(self, node: Any) -> str | None:
            """The test in which a worker ended has failed; xdist would deal it out again, and again."""
            for unit in self.assigned_work[node].values():
                for nodeid, done in unit.items():
                    if not done:
                        unit[nodeid] = True
                        super().remove_node(node)
                        return nodeid
            return super().remove_node(node)

    return Scheduling(config, log)


@cache
def _shared(root: Path, file: str) -> str:
    """The folder or file whose tests share what is made for all of them: it says ``scope=``; empty where none do."""
    path = root / file
    folder = path.parent / "conftest.py"
    if folder != Path(__file__) and folder.exists() and "scope=" in folder.read_text():
        return str(folder)
    return file if "scope=" in path.read_text() else ""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Server]:
    """The embedded PostgreSQL of this session."""
    with embedded.server(tmp_path_factory.mktemp("server")) as running:
        yield running


def fresh_database(server: embedded.Server) -> str:
    """A new, empty database owned by the warehouse's login, which may not make one itself: the superuser does."""
    name = f"w{secrets.token_hex(6)}"
    host = server.url("warehouse").rpartition("@")[2]
    with psycopg.connect(f"postgresql://postgres:{server.passwords['postgres']}@{host}", autocommit=True) as connection:
        connection.execute(f"create database {name} owner forecasting")
    return server.url("warehouse").rsplit("/", 1)[0] + f"/{name}"


def forget_versions(server: embedded.Server) -> None:
    """Empty the session's registry, which gives a semantic version to one bundle only: each test has its own nights."""
    with psycopg.connect(server.url("mlflow").replace("+psycopg", ""), autocommit=True) as connection:
        if connection.execute("select to_regclass('registered_models')").fetchone() != (None,):
            connection.execute("truncate registered_models cascade")


@pytest.fixture
def empty_url(server: embedded.Server) -> str:
    """URL of an empty database."""
    return fresh_database(server)


@pytest.fixture(scope="session")
def warehouse_url(server: embedded.Server) -> str:
    """URL of a migrated warehouse shared by the session; tests use customers of their own."""
    url = fresh_database(server)
    warehouse.migrate(url)
    return url


@pytest.fixture(scope="session")
def engine(warehouse_url: str) -> Iterator[sa.Engine]:
    """Engine on the session's warehouse."""
    made = warehouse.connect(warehouse_url)
    yield made
    made.dispose()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder laid out as the checkout is, for tests that bend customers, contracts or data."""
    small.copy(tmp_path)
    return tmp_path


@pytest.fixture
def settle(checkout: Path, server: embedded.Server) -> Callable[..., config.Settings]:
    """Make the settings of a deployment: a home and a fresh warehouse of its own, on the session's server."""
    forget_versions(server)

    def made(home: str = "home", **environ: str) -> config.Settings:
        url = fresh_database(server)
        warehouse.migrate(url)
        given = {
            "FORECASTING_HOME": str(checkout / home),
            "FORECASTING_ROOT": str(checkout),
            "FORECASTING_WAREHOUSE_URL": url,
            "MLFLOW_TRACKING_URI": server.url("mlflow"),
        }
        return config.settings({**os.environ, **given, **environ})

    return made
