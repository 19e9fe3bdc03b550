"""The Airflow that commands talk to: one started here, one running on this home, or one named by the settings."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol

from forecasting import config
from forecasting.cli import connections, local
from forecasting.config import Settings
from forecasting.errors import ConfigurationError, ServerError
from forecasting.store import embedded

__all__ = ["Airflow", "attach", "prepare", "reasons", "up"]

POOL = "fits"
TEND_SECONDS = 600


class Airflow(Protocol):
    """A running Airflow: its REST API, logged in, and its command line beside it."""

    @property
    def api(self) -> local.Api:
        """The REST API."""

    def run(self, *command: str, timeout: float = 120) -> str:
        """Output of ``airflow <command>``."""


@dataclass(frozen=True)
class _Attached:
    env: Mapping[str, str] = field(repr=False)
    api: local.Api

    def run(self, *command: str, timeout: float = 120) -> str:
        return local.command_line(list(command), self.env, timeout)


@contextmanager
def attach(settings: Settings) -> Iterator[Airflow]:
    """The Airflow of ``FORECASTING_AIRFLOW_URL``, else the one that ``make up`` runs on this home.

    Raises:
        ConfigurationError: A login is missing.
        ServerError: None is running here.
    """
    if url := os.environ.get("FORECASTING_AIRFLOW_URL"):
        yield _Attached(dict(os.environ), local.Api(url.rstrip("/"), *_login()))
        return
    mark = settings.home / "airflow" / "running.txt"
    if not mark.exists():
        raise ServerError(
            f"no Airflow is running on {settings.home}; start one with `make up` in another terminal, or set "
            "FORECASTING_AIRFLOW_URL, FORECASTING_AIRFLOW_USER and FORECASTING_AIRFLOW_PASSWORD to use one elsewhere"
        )
    base_url = mark.read_text(encoding="utf-8").split()[-1]
    with embedded.deployment(settings) as urls:
        env = local.environment(settings, urls, port=int(base_url.rpartition(":")[2]))
        yield _Attached(env, local.Api(base_url, "admin", local.secrets_of(settings.home)["password"]))


def _login() -> tuple[str, str]:
    names = ("FORECASTING_AIRFLOW_USER", "FORECASTING_AIRFLOW_PASSWORD")
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise ConfigurationError(f"FORECASTING_AIRFLOW_URL is set, {' and '.join(missing)} is not")
    return os.environ[names[0]], os.environ[names[1]]


def prepare(airflow: Airflow, settings: Settings) -> None:
    """Bring warehouse, customers, Airflow's pool and the customers' connections to what the DAGs expect."""
    from forecasting.store import provision, warehouse

    with embedded.deployment(settings) as urls:
        url = urls.get("FORECASTING_WAREHOUSE_URL") or str(settings.warehouse_url)
        warehouse.migrate(url)
        engine = warehouse.connect(url)
        customers = config.sound_customers(settings.customers)
        provision.apply(engine, customers)
        engine.dispose()
    pools = {pool["name"] for pool in airflow.api.get("/pools?limit=100")["pools"]}
    if POOL not in pools:
        about = {
            "name": POOL,
            "slots": settings.shards,
            "description": "Fits that run at once",
            "include_deferred": False,
        }
        with suppress(ServerError):  # another command may have made it meanwhile
            airflow.api.post("/pools", about)
    connections.hand_over(airflow.api, settings)


def reasons(settings: Settings, customer_id: str) -> Callable[[date], str]:
    """Why the newest run of a date failed, as the warehouse tells it; nothing where it wrote no reason."""

    def told(run_date: date) -> str:
        from forecasting.store import reports, warehouse

        with embedded.deployment(settings, ("warehouse",)) as urls:
            engine = warehouse.connect(urls["FORECASTING_WAREHOUSE_URL"])
            try:
                return reports.why_it_ended(engine, customer_id, run_date)
            finally:
                engine.dispose()

    return told


def up(settings: Settings, *, port: int, say: Callable[[str], None], tend: Callable[[], None]) -> None:
    """Run Airflow and the embedded server until interrupted; nothing of them is left afterwards.

    Args:
        settings: Of this deployment.
        port: Of the UI, on loopback.
        say: Told address and login.
        tend: Called first, and every ten minutes: what the demo's customers deliver goes on arriving.
    """
    with local.airflow(settings, triggerer=True, port=port, on_progress=say) as running:
        tend()
        prepare(running, settings)
        say(
            f"Airflow is up: {running.base_url}  login {running.username} / {running.password}   "
            "Ctrl-C stops everything"
        )
        tended = time.monotonic()
        while True:
            running.check()
            if time.monotonic() - tended > TEND_SECONDS:
                tend()
                tended = time.monotonic()
            time.sleep(1)
