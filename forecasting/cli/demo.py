"""The demo: the declared run dates of every customer with an end, through a live Airflow, and what came out of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from forecasting import config
from forecasting.cli import airflows, backfills, local, tables
from forecasting.config import Customer, Settings
from forecasting.errors import ConfigurationError
from forecasting.store import embedded, reports, warehouse

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa
    from rich.table import Table

__all__ = ["run"]

TIMEOUT = 1800
"""Seconds that one customer's runs may take."""


@dataclass
class _Budget:
    """Where the time went, by phase."""

    began: float = field(default_factory=lambda: float(os.environ.get("FORECASTING_BEGAN") or time.time()))
    phases: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.phases["set-up"] = time.time() - self.began

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.time()
        yield
        self.phases[name] = time.time() - start

    def table(self) -> Table:
        rows = [*self.phases.items(), ("altogether", time.time() - self.began)]
        return tables.table(pd.DataFrame(rows, columns=["phase", "seconds"]).round(1), "Time by phase")


def run(settings: Settings, *, say: Callable[[str], None], show: Callable[[Table], None]) -> None:
    """Backfill, stop everything, and show runs, accuracy and time.

    Raises:
        BackfillFailedError: A run failed; with the reason.
    """
    customers = [c for c in config.load_customers(settings.customers) if isinstance(c, Customer) and c.last_date]
    if not customers:
        raise ConfigurationError(
            f"no customer in {settings.customers} has a last_date, so there is nothing to backfill"
        )
    budget = _Budget()
    with embedded.deployment(settings) as urls:
        with budget.phase("start Airflow"):
            airflow = local.airflow(settings, triggerer=False, on_progress=say)
            running = airflow.__enter__()
        try:
            with budget.phase("provision"):
                airflows.prepare(running, settings)
            for customer in customers:
                assert customer.last_date
                with budget.phase(f"backfill {customer.id}"):
                    backfills.run(
                        running,
                        customer,
                        customer.first_date,
                        customer.last_date,
                        timeout=TIMEOUT,
                        say=say,
                        reason=airflows.reasons(settings, customer.id),
                    )
        finally:
            with budget.phase("stop Airflow"):
                airflow.__exit__(None, None, None)
        engine = warehouse.connect(urls.get("FORECASTING_WAREHOUSE_URL") or str(settings.warehouse_url))
        for made in (_runs(engine), _seconds(engine), _accuracy(engine, customers)):
            show(made)
        engine.dispose()
    show(budget.table())


def _runs(engine: sa.Engine) -> Table:
    return tables.table(reports.published_runs(engine), "Published runs")


def _seconds(engine: sa.Engine) -> Table:
    """Wall seconds by stage; the longest of a stage's shards."""
    rows = reports.stage_seconds(engine)
    order = ["pull", "freeze", "fit_statistical", "fit_ml", "publish", "monitor"]
    wide = rows.pivot(index=["customer", "run_date"], columns="stage", values="seconds")
    return tables.table(wide.reindex(columns=order).round(1).reset_index(), "Seconds by stage")


def _accuracy(engine: sa.Engine, customers: Sequence[Customer]) -> Table:
    """Every judged origin of each champion: what earlier origins selected, beside what a planner would use instead."""
    references = {customer.id: customer.references for customer in customers}
    rows = reports.rolling_scores(engine)
    parts = [
        _beside(customer, pd.DataFrame.from_records(rolling), references[customer])
        for customer, rolling in zip(rows["customer"], rows["rolling"], strict=True)
        if customer in references
    ]
    whole = pd.concat(parts, ignore_index=True)
    return tables.table(whole, "Accuracy at origins that took no part in selection (lower is better)")


def _beside(customer: str, judged: pd.DataFrame, references: tuple[str, str]) -> pd.DataFrame:
    """One customer's rows: its origins, their mean, and how much better the selection is than each reference."""
    columns = {
        f"{metric} {shown}": f"{metric}_{name}"
        for metric in ("rmsse", "wape")
        for shown, name in zip(("selection", "naive", "mean"), ("selection", *references), strict=True)
    }
    scores = judged[list(columns.values())].set_axis(list(columns), axis=1)
    means = scores.mean()
    gains = {c: f"{1 - means[f'{c.split()[0]} selection'] / means[c]:+.1%}" for c in columns if "selection" not in c}
    body = pd.concat([scores, means.to_frame().T], ignore_index=True).round(4).astype(object)
    whole = pd.concat([body, pd.DataFrame([gains], dtype=object)], ignore_index=True)
    whole.insert(0, "origin", [*judged["origin"].str[:10], "mean", f"gain over {' and '.join(references)}"])
    whole.insert(0, "customer", customer)
    return whole
