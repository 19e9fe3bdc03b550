"""A small customer cut from the pasta data, and its nights run in this process, stage by stage."""

from __future__ import annotations

import csv
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

SKUS = ["B1_1", "B1_2", "B1_3", "B2_1", "B2_2", "B3_1", "B4_1"]
FIRST_DAY = "2017-06-01"
YAML = """
id: mini
time_zone: Europe/Rome
first_date: 2018-09-01
last_date: 2018-12-31
source:
  uri: examples/mini.csv
  wide:
    columns: (?P<value>QTY|PROMO)_(?P<brand>B[0-9]+)_(?P<item>[0-9]+)
    values: {QTY: quantity, PROMO: promotion}
columns: {ds: DATE, y: quantity, keys: [brand, item]}
exogenous:
  promotion: {known: future}
hierarchy: [total, brand]
contract: pasta_sales
absent: closed
horizon: 7
history_days: 365
pool: [seasonal_naive, weekday_mean, auto_ets, lightgbm]
backtest: {windows: 4, select: 2}
promotion: {min_origins: 2}
"""


def lines_of(source: Path) -> list[list[str]]:
    with source.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def write_lines(target: Path, lines: list[list[str]]) -> None:
    with target.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


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

    def pulled(self, day: str, **asked: bool) -> dict[str, Any]:
        return pipeline.pull(self.deployment, self.customer, date.fromisoformat(day), Request(**asked))

    def fitted(self, frozen: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        return [pipeline.fit_statistical(self.deployment, one) for one in frozen], pipeline.fit_ml(
            self.deployment, frozen[0]
        )

    def run(self, day: str, **asked: bool) -> warehouse.Run:
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
    lines = lines_of(checkout / "examples/pasta/hierarchical_sales_data.csv")
    header = lines[0]
    kept = [i for i, name in enumerate(header) if name == "DATE" or name.split("_", 1)[1] in SKUS]
    write_lines(
        checkout / "examples/mini.csv",
        [[line[i] for i in kept] for line in lines if line is header or line[0] >= FIRST_DAY],
    )
    contract = checkout / "data_contracts/pasta_sales.odcs.yaml"
    contract.write_text(contract.read_text().replace("min_value: 826", "min_value: 7"))  # a day of seven SKUs
    for path in (checkout / "dags/customers").glob("*.yaml"):
        path.unlink()
    (checkout / "dags/customers/mini.yaml").write_text(YAML, encoding="utf-8")
    with ExitStack() as stack:

        def made(home: str = "home", **environ: str) -> Nights:
            deployment = pipeline.connect(settle(home, FORECASTING_SHARDS="2", **environ))
            stack.callback(deployment.engine.dispose)
            return Nights(deployment, checkout)

        yield made
