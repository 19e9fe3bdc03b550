"""A small customer cut from the pasta data, and its nights run in this process, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from forecasting import config, pipeline
from forecasting.pipeline import Deployment, Request
from forecasting.store import warehouse
from tests import small


@dataclass
class Nights:
    """One deployment and its customer's nights."""

    deployment: Deployment
    checkout: Path
    customer: str = "mini"
    refs: dict[str, Any] = field(default_factory=dict)

    @property
    def csv(self) -> Path:
        return self.checkout / "examples/mini.csv"

    @property
    def yaml(self) -> Path:
        return self.checkout / f"dags/customers/{self.customer}.yaml"

    def pulled(self, day: str, **asked: Any) -> dict[str, Any]:
        return pipeline.pull(self.deployment, self.customer, date.fromisoformat(day), Request(**asked))

    def frozen(self, day: str, **asked: Any) -> list[dict[str, Any]]:
        return pipeline.freeze(self.deployment, self.pulled(day, **asked))

    def fitted(self, frozen: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        return [pipeline.fit_statistical(self.deployment, one) for one in frozen], pipeline.fit_ml(
            self.deployment, frozen[0]
        )

    def run(self, day: str, **asked: Any) -> warehouse.Run:
        """A whole night; returns its run as it stands afterwards."""
        pulled = self.pulled(day, **asked)
        frozen = pipeline.freeze(self.deployment, pulled)
        if frozen:
            done = pipeline.publish(self.deployment, frozen[0], *self.fitted(frozen))
            pipeline.monitor(self.deployment, done)
        return warehouse.read_run(self.deployment.engine, self.customer, pulled["run_id"])

    def sql(self, query: str) -> pd.DataFrame:
        return warehouse.query(self.deployment.engine, query)

    def current(self) -> pd.DataFrame:
        return self.sql("select * from forecasting.forecast_current order by node, unique_id, h")


@pytest.fixture
def nights(checkout: Path, settle: Callable[..., config.Settings]) -> Iterator[Callable[..., Nights]]:
    """Make deployments, each with a home and a warehouse of its own, on one checkout with the small customer."""
    small.cut(checkout / "examples/mini.csv")
    small.loosen(checkout, len(small.SKUS))  # one day is enough
    for path in (checkout / "dags/customers").glob("*.yaml"):
        path.unlink()
    (checkout / "dags/customers/mini.yaml").write_text(small.declaration(), encoding="utf-8")
    with ExitStack() as stack:

        def made(home: str = "home", **environ: str) -> Nights:
            deployment = pipeline.connect(settle(home, FORECASTING_SHARDS="2", **environ))
            stack.callback(deployment.engine.dispose)
            return Nights(deployment, checkout)

        yield made
