"""Real parts for every test: one embedded PostgreSQL per session, a fresh warehouse where one is asked for."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from forecasting import config
from forecasting.store import embedded, warehouse
from tests import small


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests on one worker that share something dear: what a module or a folder makes once for all of them."""
    for item in items:
        known = getattr(item, "_fixtureinfo", None)
        made = [found[-1] for found in known.name2fixturedefs.values()] if known else []
        shared = [one.baseid for one in made if one.scope != "function" and one.baseid not in ("", "tests")]
        if shared:
            item.add_marker(pytest.mark.xdist_group(min(shared, key=len)))


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
