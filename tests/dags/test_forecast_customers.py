"""Policies on the generated DAGs: what parses, what it imports, which days a backfill runs."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from forecasting.cli.backfills import instants
from forecasting.config import Customer, load_customer
from forecasting.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
DAG_FILE = ROOT / "dags/forecast_customers.py"
HEAVY = {"pandas", "numpy", "great_expectations", "statsforecast", "mlforecast", "lightgbm", "mlflow", "dvc", "pyarrow"}


def parse(**environ: str) -> dict[str, Any]:
    """The DAGs of the file, by id, as Airflow's processor finds them."""
    before = dict(os.environ)
    os.environ.update(environ)
    try:
        found = runpy.run_path(str(DAG_FILE))
    finally:
        os.environ.clear()
        os.environ.update(before)
    return {name: value for name, value in found.items() if name.startswith("forecast__")}


@pytest.fixture
def customers(tmp_path: Path) -> Path:
    """A folder of customer files: pasta, one west of UTC, one east, one broken."""
    text = (ROOT / "dags/customers/pasta.yaml").read_text(encoding="utf-8")
    for name, zone in (("west", "America/New_York"), ("east", "Asia/Tokyo"), ("rome", "Europe/Rome")):
        dated = text.replace("first_date: 2018-10-01", "first_date: 2018-01-01").replace("2018-10-03", "2018-12-31")
        (tmp_path / f"{name}.yaml").write_text(dated.replace("id: pasta", f"id: {name}").replace("Europe/Rome", zone))
    (tmp_path / "broken.yaml").write_text(
        text.replace("id: pasta", "id: broken").replace("absent: closed", "absent: shut")
    )
    return tmp_path


def test_every_customer_is_a_dag_of_at_most_eight_task_instances() -> None:
    dags = parse()
    assert sorted(dags) == [f"forecast__{path.stem}" for path in sorted((ROOT / "dags/customers").glob("*.yaml"))]
    for dag in dags.values():
        tasks = ["pull", "freeze", "fit_statistical", "fit_ml", "publish", "monitor"]
        assert list(dag.task_dict) == tasks
        assert len(tasks) + 1 <= 8  # fit_statistical is mapped over FORECASTING_SHARDS, two unless set


def test_every_task_has_a_time_limit_and_retries_by_meaning() -> None:
    for dag in parse().values():
        for task in dag.tasks:
            assert task.execution_timeout, f"{dag.dag_id}.{task.task_id} may run for ever; give it execution_timeout"
            assert task.retry_policy, f"{dag.dag_id}.{task.task_id} retries what cannot heal; give it retry_policy"
        assert {task.task_id for task in dag.tasks if task.pool == "fits"} == {"fit_statistical", "fit_ml"}


def test_a_broken_contract_is_not_retried_and_a_lost_source_is() -> None:
    from airflow.sdk import RetryAction

    from forecasting.errors import ContractBrokenError, SourceError, SourceUnavailableError

    policy = runpy.run_path(str(DAG_FILE))["RETRY"]
    assert policy.evaluate(ContractBrokenError("x"), 1, 3).action is RetryAction.FAIL
    assert policy.evaluate(SourceError("x"), 1, 3).action is RetryAction.FAIL
    assert policy.evaluate(SourceUnavailableError("x"), 1, 3).action is RetryAction.RETRY
    assert policy.evaluate(ConnectionError("x"), 1, 3).action is RetryAction.DEFAULT


def test_a_broken_file_is_a_dag_that_says_why_and_the_others_stand(customers: Path) -> None:
    dags = parse(FORECASTING_CUSTOMERS=str(customers))
    assert sorted(dags) == ["forecast__broken", "forecast__east", "forecast__rome", "forecast__west"]
    broken = dags["forecast__broken"]
    assert list(broken.task_dict) == ["configuration"]
    with pytest.raises(ConfigurationError, match=r"broken\.yaml, line 17: absent: 'shut'"):
        broken.get_task("configuration").python_callable()


def test_a_task_start_builds_only_the_dag_it_needs(customers: Path) -> None:
    from airflow.sdk.definitions.context import _AIRFLOW_PARSING_CONTEXT_DAG_ID as WANTED

    dags = parse(FORECASTING_CUSTOMERS=str(customers), **{WANTED: "forecast__west"})
    assert sorted(dags) == ["forecast__west"]


def test_parsing_imports_nothing_heavy() -> None:
    code = f"import sys, runpy; runpy.run_path({str(DAG_FILE)!r}); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120, cwd=ROOT
    )
    loaded = set(done.stdout.split())
    assert not loaded & (HEAVY | {"forecasting.pipeline", "forecasting.store", "forecasting.data", "forecasting.learn"})


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("west", date(2018, 3, 10), date(2018, 3, 12)),
        ("west", date(2018, 11, 3), date(2018, 11, 5)),
        ("rome", date(2018, 3, 24), date(2018, 3, 26)),
        ("rome", date(2018, 10, 27), date(2018, 10, 29)),
        ("east", date(2018, 10, 1), date(2018, 10, 3)),
    ],
)
def test_a_backfill_of_local_dates_runs_exactly_those_dates(
    customers: Path, name: str, first: date, last: date
) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    customer = load_customer(customers / f"{name}.yaml")
    assert isinstance(customer, Customer)
    dag = parse(FORECASTING_CUSTOMERS=str(customers))[f"forecast__{name}"]
    scheduled = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    runs = list(scheduled.iter_dagrun_infos_between(*instants(customer, first, last)))  # what a backfill asks for
    zone = ZoneInfo(customer.time_zone)
    dates = [info.data_interval.start.astimezone(zone).date() for info in runs]
    assert dates == [first + timedelta(days=n) for n in range((last - first).days + 1)]
    for info in runs:
        ends = info.data_interval.end.astimezone(zone)
        assert (ends.date() - info.data_interval.start.astimezone(zone).date()).days == 1
        assert (ends.hour, ends.minute) == (0, 0)


def test_dates_outside_the_customers_life_are_refused(customers: Path) -> None:
    customer = load_customer(customers / "rome.yaml")
    assert isinstance(customer, Customer)
    for first, last, expected in (
        (date(2017, 12, 31), date(2018, 1, 2), "before first_date"),
        (date(2018, 12, 1), date(2019, 1, 1), "after last_date"),
        (date(2018, 2, 2), date(2018, 2, 1), "wrong order|lies after TO"),
    ):
        with pytest.raises(ConfigurationError, match=expected):
            instants(customer, first, last)
