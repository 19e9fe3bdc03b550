"""The pages' package on the path, a fleet in a warehouse of its own, and Airflow's own doors before the app."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from forecasting.store import embedded, warehouse
from tests.conftest import fresh_database
from tests.plugins import shops

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "false")
os.environ.setdefault("AIRFLOW__CORE__UNIT_TEST_MODE", "false")
os.environ.setdefault("AIRFLOW__USAGE_DATA_COLLECTION__ENABLED", "false")
os.environ.setdefault("AIRFLOW__API_AUTH__JWT_SECRET", secrets.token_hex(64))
sys.path.append(str(ROOT / "plugins"))  # as Airflow does with its plugins folder

TODAY = date(2024, 5, 15)
NOW = datetime(2024, 5, 15, 12, tzinfo=UTC)


@pytest.fixture(scope="session")
def fleet_url(server: embedded.Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a warehouse that holds the small fleet."""
    url = fresh_database(server)
    warehouse.migrate(url)
    made = warehouse.connect(url)
    shops.fleet(made, tmp_path_factory.mktemp("customers"), TODAY)
    made.dispose()
    return url


@pytest.fixture(scope="session")
def fleet(fleet_url: str) -> Iterator[sa.Engine]:
    """Engine on that warehouse."""
    made = warehouse.connect(fleet_url)
    yield made
    made.dispose()


@pytest.fixture(scope="session")
def airflow_tables() -> None:
    """Airflow's metadata in this session's AIRFLOW_HOME: what its doors ask."""
    from airflow import settings
    from airflow.models import import_all_models
    from airflow.models.base import Base

    import_all_models()
    settings.configure_orm()
    Base.metadata.create_all(settings.engine)


@pytest.fixture(scope="session")
def doors(airflow_tables: None) -> Iterator[Callable[..., dict[str, str]]]:
    """Airflow's auth manager with rights per DAG; gives the headers of a user who may read some customers."""
    from airflow import settings
    from airflow.api_fastapi import app
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.models.dag import DagModel
    from airflow.models.dagbundle import DagBundleModel

    class PerCustomer(SimpleAuthManager):
        """A user's name lists the customers that the user may read."""

        def is_authorized_dag(self, *, method: Any, user: Any, access_entity: Any = None, details: Any = None) -> bool:
            return bool(details and (details.id or "").removeprefix("forecast__") in user.username.split("+"))

    with settings.Session() as session:
        session.merge(DagBundleModel(name="here"))
        session.flush()
        for customer_id in ("fresh", "broken", "weekly", "unborn", "unprovisioned"):
            session.merge(DagModel(dag_id=f"forecast__{customer_id}", bundle_name="here", is_paused=False))
        session.merge(DagModel(dag_id="other", bundle_name="here", is_paused=False))
        session.commit()
    before = app._AuthManagerState.instance
    manager = app._AuthManagerState.instance = PerCustomer()
    manager.init()

    def login(*customer_ids: str) -> dict[str, str]:
        token = manager.generate_jwt(SimpleAuthManagerUser(username="+".join(customer_ids), role="viewer"))
        return {"Authorization": f"Bearer {token}"}

    yield login
    app._AuthManagerState.instance = before
