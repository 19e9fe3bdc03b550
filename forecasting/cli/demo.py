"""The demo: every customer through a live Airflow, past days by backfill, tonight by schedule, and what came of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from forecasting import config
from forecasting.cli import airflows, backfills, local, seeds, tables
from forecasting.config import Customer, Settings
from forecasting.errors import ConfigurationError
from forecasting.store import embedded, reports, warehouse

if TYPE_CHECKING:
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
        self.lap("set-up")

    def lap(self, name: str) -> None:
        """Put down to ``name`` what passed since the last lap."""
        self.phases[name] = time.time() - self.began - sum(self.phases.values())

    def table(self) -> Table:
        rows = [*self.phases.items(), ("altogether", time.time() - self.began)]
        return tables.table(pd.DataFrame(rows, columns=["phase", "seconds"]).round(1), "Time by phase")


def run(settings: Settings, *, say: Callable[[str], None], show: Callable[[Table], None]) -> None:
    """Backfill each customer that has an end, let the scheduler run those that have none, and show what came of it.

    A customer that fails does not keep the others from running.

    Raises:
        BackfillFailedError: A run failed; with the reason.
    """
    customers = config.sound_customers(settings.customers)
    if not customers:
        raise ConfigurationError(f"there is no customer in {settings.customers}, so there is nothing to show")
    budget, failures = _Budget(), list[str]()
    with embedded.deployment(settings) as urls:
        seeds.seed(settings, customers, say)
        budget.lap("seed")
        with local.airflow(settings, on_progress=say) as airflow:
            budget.lap("start Airflow")
            airflows.prepare(airflow, settings)
            budget.lap("provision")
            for customer in customers:
                failures += _night(airflow, settings, customer, say)
                budget.lap(f"{'backfill' if customer.last_date else 'schedule'} {customer.id}")
        budget.lap("stop Airflow")
        engine = warehouse.connect(urls.get("FORECASTING_WAREHOUSE_URL") or str(settings.warehouse_url))
        for made in (_runs(engine), _seconds(engine), _accuracy(engine, customers)):
            show(made)
        engine.dispose()
    show(budget.table())
    if failures:
        raise backfills.BackfillFailedError("\n".join(failures))


def _night(airflow: airflows.Airflow, settings: Settings, customer: Customer, say: Callable[[str], None]) -> list[str]:
    """Run one customer's days; returns why they failed, if they did."""
    why = airflows.reasons(settings, customer.id)
    try:
        if customer.last_date:
            days = (customer.first_date, customer.last_date)
            backfills.run(airflow, customer, *days, timeout=TIMEOUT, say=say, reason=why)
        else:
            nights = backfills.scheduled(airflow, customer, timeout=TIMEOUT, say=say, reason=why)
            if len(nights) > 1:
                say(f"midnight passed in {customer.time_zone}: the scheduler ran {', '.join(map(str, nights))}")
    except backfills.BackfillFailedError as error:
        say(str(error))
        return [str(error)]
    return []


def _runs(engine: sa.Engine) -> Table:
    return tables.table(reports.runs(engine).convert_dtypes(), "Runs")  # counts stay whole where some are empty


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
    whole = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["customer", "origin"])
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
