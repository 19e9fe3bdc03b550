"""What every stage has in its hands: the deployment, the run, its frozen configuration, the version in charge."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecasting import config
from forecasting.config import Customer, Settings
from forecasting.errors import (
    BrokenBundleError,
    ConfigurationError,
    ContractBrokenError,
    ForecastingError,
    LateAttemptError,
    near_miss,
)
from forecasting.pipeline import checkout
from forecasting.store import registry, warehouse, work

if TYPE_CHECKING:
    import pandas as pd
    import sqlalchemy as sa

    from forecasting.learn.bundle import Bundle

__all__ = [
    "Deployment",
    "Incumbent",
    "Night",
    "Reference",
    "Request",
    "code_of",
    "connect",
    "load_customer",
    "open_night",
    "stage",
]

log = logging.getLogger(__name__)

Reference = dict[str, Any]
"""What one stage hands to the next: plain JSON."""


@dataclass(frozen=True)
class Deployment:
    """Where a night's work is kept."""

    settings: Settings
    engine: sa.Engine
    mlflow_url: str


@dataclass(frozen=True)
class Request:
    """What is asked of a night beyond its date."""

    live: bool = False
    """True for tonight's scheduled run: it may move the line of champions that tomorrow reads."""
    full_refresh: bool = False
    """Read the whole feed, not only the days since the watermark less the lookback."""
    force_retrain: bool = False
    """Retrain whatever the rules say."""
    as_frozen: bool = False
    """Use the snapshot recorded for this run date in place of pulling."""
    asked_by: str | None = None
    """Who asks: the schedule, a backfill, a user; goes into the run's row, and into the lines the run draws."""
    against: str | None = None
    """Compare with this version in place of the one in charge; dev only, where a change is tried out."""


def connect(settings: Settings) -> Deployment:
    """Open the deployment that ``settings`` name; the servers must be running.

    Raises:
        ConfigurationError: No warehouse is named and no embedded server has been started by the caller.
    """
    if not settings.warehouse_url or not settings.mlflow_url:
        raise ConfigurationError(
            "FORECASTING_WAREHOUSE_URL and MLFLOW_TRACKING_URI are not set; run this through the `forecasting` "
            "command, which starts the embedded server, or point both at servers of your own"
        )
    return Deployment(settings, warehouse.connect(settings.warehouse_url), settings.mlflow_url)


def load_customer(settings: Settings, customer_id: str) -> Customer:
    """Read one customer's file.

    Raises:
        ConfigurationError: There is no such file, or it is broken; with the reason.
    """
    found = config.load_customers(settings.customers, only=customer_id)
    if not found:
        known = sorted(path.stem for path in settings.customers.glob("*.yaml"))
        near = near_miss(customer_id, known)
        raise ConfigurationError(
            f"no customer {customer_id!r} in {settings.customers}.{near} Known: {', '.join(known)}"
        )
    if isinstance(found[0], config.BrokenCustomer):
        raise ConfigurationError(found[0].message)
    return found[0]


@dataclass(frozen=True)
class Incumbent:
    """The version in charge as the night began, and the configuration it was trained under."""

    version: str
    bundle: Bundle
    customer: Customer

    def shares_recipe(self, customer: Customer) -> bool:
        """True when this code makes the same model of its declaration as of ``customer``."""
        return self.customer.recipe_hash == customer.recipe_hash

    def serves(self, customer: Customer) -> bool:
        """True when this version can publish what ``customer`` asks for, from the columns that it declares."""
        known = {name: column.known for name, column in customer.exogenous.items()}
        needed = {name: column.known for name, column in self.customer.exogenous.items()}
        return self.customer.interface_hash == customer.interface_hash and needed.items() <= known.items()

    @property
    def readable(self) -> bool:
        """False when its booster was trained on features of another ``ml.SPEC_VERSION`` than this code makes.

        Its nights go on down the ladder; a retrain has nothing to compare with, so it makes way.
        """
        from forecasting.learn.models import ml

        return self.bundle.booster is None or ml.reads(self.bundle.spec)


@dataclass(frozen=True)
class Night:
    """One run in the making: its row, its frozen configuration, and where it keeps its work."""

    deployment: Deployment
    run: warehouse.Run
    aside: str = ""
    """Put before the names of what it keeps: another computation of the same run."""

    @property
    def settings(self) -> Settings:
        """The deployment's settings."""
        return self.deployment.settings

    @property
    def engine(self) -> sa.Engine:
        """The warehouse."""
        return self.deployment.engine

    @cached_property
    def customer(self) -> Customer:
        """The configuration that was frozen when the run was allotted."""
        return Customer.model_validate(self.run.config)

    @property
    def cutoff(self) -> date:
        """Last period the run may see."""
        if self.run.cutoff is None:
            raise ForecastingError(f"{self.run.run_id} has no cutoff: its freeze did not finish")
        return self.run.cutoff

    @cached_property
    def incumbent(self) -> Incumbent | None:
        """The version in charge as the night began, every byte verified, without the registry's server.

        A retrain goes on without one whose bundle is lost: it is the way out.
        """
        from forecasting.learn import bundle

        if self.run.incoming_champion is None:
            return None
        version = self.version(self.run.incoming_champion)
        try:
            made = bundle.from_files(registry.load(version.bundle_uri, version.bundle_sha256))
        except BrokenBundleError as error:
            if self.run.plan != "retrain":
                raise
            log.warning(
                "%s: %s cannot be read, the retrain goes on without it: %s", self.run.run_id, version.version, error
            )
            return None
        # A configuration of older code may hold fields that are gone.
        config_then = {name: value for name, value in version.config.items() if name in Customer.model_fields}
        return Incumbent(version.version, made, Customer.model_validate(config_then))

    def version(self, name: str) -> warehouse.ModelVersion:
        """One of the customer's versions, by its semantic version.

        Raises:
            ConfigurationError: There is no such version.
        """
        known = {v.version: v for v in warehouse.versions(self.engine, self.run.customer_id)}
        if name not in known:
            raise ConfigurationError(
                f"{self.run.customer_id} has no version {name}; it has {', '.join(known) or 'none yet'}"
            )
        return known[name]

    def note(self, **columns: Any) -> Night:
        """Write what became known into the run's row; returns the night with the row as it then stands."""
        warehouse.note(self.engine, self.run.customer_id, self.run.run_id, **columns)
        return Night(self.deployment, warehouse.read_run(self.engine, self.run.customer_id, self.run.run_id))

    def keep(self, name: str, frame: pd.DataFrame) -> Reference:
        """Put a frame where the next stages find it."""
        return dict(work.put(self.settings.work_url, self.run.run_id, self.aside + name, frame).as_dict())


def open_night(deployment: Deployment, reference: Mapping[str, Any]) -> Night:
    """The night that a reference speaks of."""
    return Night(deployment, warehouse.read_run(deployment.engine, reference["customer_id"], reference["run_id"]))


def fetch(reference: Mapping[str, Any]) -> pd.DataFrame:
    """A frame that an earlier stage kept, its bytes verified."""
    return work.get(work.Ref.from_dict(dict(reference)))


_STATUS: dict[type[Exception], str] = {ContractBrokenError: "broken", LateAttemptError: "late"}


@contextmanager
def stage(night: Night, name: str, shard: int = 0) -> Iterator[None]:
    """Time a stage; what ends it is written in the run's row, where the on-call looks first.

    A failed fit does not end the night, so it leaves the run's status alone.
    """
    began, cpu = time.monotonic(), time.process_time()
    try:
        yield
    except Exception as error:
        if not name.startswith("fit_"):
            ours = isinstance(error, ForecastingError)
            message = str(error) if ours else f"{type(error).__name__}; the traceback is in the log of {name}"
            run, status = night.run, _STATUS.get(type(error), "failed")
            warehouse.fail(night.engine, run.customer_id, run.run_id, status, f"{name}: {message}")
        raise
    took = time.monotonic() - began, time.process_time() - cpu
    warehouse.record_stage(night.engine, night.run.customer_id, night.run.run_id, name, shard, *took)


def code_of(settings: Settings | None = None) -> warehouse.Code:
    """What code, libraries and processor a run is computed with: checksums are promised for the same three."""
    return warehouse.Code(
        version=checkout.package_hash(),
        lock_hash=checkout.lock_hash(),
        cpu_family=_cpu_family(),
        commit=checkout.commit(settings.commit if settings else None),
    )


def _cpu_family() -> str:
    """Architecture, vendor and family of this processor: libraries choose their code paths by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    pairs = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    known = {name.strip(): value.strip() for name, value in pairs.items()}
    parts = [known[name] for name in ("vendor_id", "cpu family", "CPU implementer", "CPU part") if name in known]
    return " ".join([platform.machine(), *parts])
