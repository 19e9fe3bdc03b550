"""Policies on the generated DAGs: what parses, what it imports, which days a backfill runs."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from forecasting.cli.backfills import LEAD, instants
from forecasting.config import Customer, load_customer
from forecasting.errors import ConfigurationError
from forecasting.periods import day_bounds

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


@pytest.mark.parametrize(
    ("run_type", "user", "expected"),
    [
        ("scheduled", None, "schedule"),
        ("backfill", "ann", "backfill"),
        ("manual", "ann", "airflow user ann"),
        ("manual", None, "airflow user unknown"),
    ],
)
def test_a_run_says_who_asked_for_it(run_type: str, user: str | None, expected: str) -> None:
    from airflow.utils.types import DagRunType

    run = SimpleNamespace(run_type=DagRunType(run_type), triggering_user_name=user)
    assert runpy.run_path(str(DAG_FILE))["asked_by"](run) == expected


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


def test_a_run_without_a_logical_date_is_told_to_get_one(tmp_path: Path) -> None:
    from airflow.sdk.api.datamodels._generated import DagRun

    bare = dict.fromkeys(("logical_date", "data_interval_start", "data_interval_end", "start_date", "end_date"))
    run = DagRun(
        **bare, dag_id="forecast__pasta", run_id="x", run_type="manual", state="running", partition_key=None,
        run_after=datetime(2018, 10, 2, tzinfo=UTC), consumed_asset_events=[],
    )  # fmt: skip
    pull = parse()["forecast__pasta"].get_task("pull")
    plain = dict.fromkeys(("full_refresh", "force_retrain", "as_frozen"), False)
    with pytest.raises(ConfigurationError, match="give a logical date"):
        type(pull).execute.__wrapped__(pull, {"dag_run": run, "params": plain})


def test_a_day_is_that_of_the_intervals_start_in_the_customers_zone() -> None:
    local_day = runpy.run_path(str(DAG_FILE))["local_day"]
    assert local_day(datetime(2018, 9, 30, 22, tzinfo=UTC), "Europe/Rome") == date(2018, 10, 1)
    assert local_day(datetime(2018, 10, 1, 4, tzinfo=UTC), "America/New_York") == date(2018, 10, 1)


def test_the_form_says_that_a_run_by_hand_is_history() -> None:
    for dag in parse().values():
        told = [dag.params.get_param(name).description or "" for name in dag.params]
        assert any("counts as history, not as tonight's run" in text for text in told)
        assert "counts as history" in dag.doc_md


def test_a_bar_in_a_setting_does_not_break_the_table_of_settings(customers: Path) -> None:
    dag = parse(FORECASTING_CUSTOMERS=str(customers))["forecast__rome"]
    rows = [line for line in dag.doc_md.splitlines() if line.startswith("| `")]
    assert any(r"QTY\|PROMO" in row for row in rows)
    assert [row for row in rows if len(re.findall(r"(?<!\\)\|", row)) != 3] == []


def test_a_fit_that_failed_does_not_stop_the_night_and_nothing_new_does() -> None:
    from airflow.sdk import TriggerRule
    from airflow.sdk.exceptions import AirflowSkipException

    dag = parse()["forecast__pasta"]
    assert dag.get_task("publish").trigger_rule == TriggerRule.ALL_DONE_MIN_ONE_SUCCESS
    with pytest.raises(AirflowSkipException):
        dag.get_task("fit_ml").python_callable([])


def test_the_tasks_of_two_customers_share_nothing(customers: Path) -> None:
    dags = parse(FORECASTING_CUSTOMERS=str(customers))
    for name in ("west", "rome"):
        task = dags[f"forecast__{name}"].get_task("publish")
        assert [asset.uri for asset in task.outlets] == [f"forecasting://{name}/forecast_current"]
        assert task.dag is dags[f"forecast__{name}"]


def test_an_event_tells_of_counts_only_where_something_was_published() -> None:
    told_of = runpy.run_path(str(DAG_FILE))["told_of"]
    counts = {"rows": 826, "version": "1.0.0", "outcome": "published", "ok": 118}
    assert told_of(counts) == counts
    assert told_of(counts | {"outcome": "verified"}) == {"outcome": "verified"}


def test_a_task_leaves_files_that_only_their_owner_reads(tmp_path: Path) -> None:
    code = (
        f"import runpy, os; found = runpy.run_path({str(DAG_FILE)!r})\n"
        "try:\n    found['_deployment']()\nfinally:\n    print(oct(os.umask(0)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120, cwd=ROOT, umask=0o022
    )
    assert done.stdout.split() == ["0o77"], done.stderr


@pytest.mark.parametrize(("kind", "waits"), [("scheduled", True), ("backfill", False), ("manual", False)])
def test_a_scheduled_night_that_is_early_waits_for_its_local_hour(kind: str, waits: bool) -> None:
    from airflow.sdk.exceptions import TaskDeferred

    pull = parse()["forecast__pasta"].get_task("pull")
    start, end = day_bounds(date(2100, 3, 27), "Europe/Rome")  # the clock goes forward in the morning after
    run = SimpleNamespace(run_type=kind, data_interval_start=start, data_interval_end=end, triggering_user_name=None)
    context = {"dag_run": run, "params": {"full_refresh": False, "force_retrain": False, "as_frozen": False}}
    with pytest.raises(TaskDeferred if waits else ConfigurationError) as left:
        pull.execute(context)
    if isinstance(left.value, TaskDeferred):
        assert left.value.trigger.moment == datetime(2100, 3, 28, 1, tzinfo=UTC)  # 03:00 in Rome
        with pytest.raises(ConfigurationError, match="FORECASTING_WAREHOUSE_URL"):  # it goes on to pull
            pull.resume_execution(left.value.method_name, {"event": "now"}, context)


def test_parsing_imports_nothing_heavy() -> None:
    code = f"import sys, runpy; runpy.run_path({str(DAG_FILE)!r}); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120, cwd=ROOT
    )
    loaded = set(done.stdout.split())
    assert not loaded & (HEAVY | {"forecasting.pipeline", "forecasting.store", "forecasting.data", "forecasting.learn"})


@pytest.mark.parametrize(
    ("zone", "first"),
    [
        ("America/New_York", date(2018, 3, 10)),
        ("America/New_York", date(2018, 11, 3)),
        ("Europe/Rome", date(2018, 3, 24)),
        ("Europe/Rome", date(2018, 10, 27)),
        ("Asia/Tokyo", date(2018, 10, 1)),
        # the clock skips the midnight that ends the first of these days
        ("Africa/Cairo", date(2024, 4, 25)),
        ("America/Santiago", date(2024, 9, 7)),
    ],
)
def test_a_backfill_of_local_dates_runs_exactly_those_dates(tmp_path: Path, zone: str, first: date) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    text = (ROOT / "dags/customers/pasta.yaml").read_text(encoding="utf-8")
    text = text.replace("2018-10-01", "2018-01-01").replace("2018-10-03", "2024-12-31").replace("Europe/Rome", zone)
    (tmp_path / "there.yaml").write_text(text.replace("id: pasta", "id: there"), encoding="utf-8")
    customer = load_customer(tmp_path / "there.yaml")
    assert isinstance(customer, Customer)
    dag = parse(FORECASTING_CUSTOMERS=str(tmp_path))["forecast__there"]
    scheduled = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    start, end = instants(customer, first, first + timedelta(days=2))
    runs = list(scheduled.iter_dagrun_infos_between(start - LEAD, end))  # what a backfill asks for
    asked = [first + timedelta(days=n) for n in range(3)]
    assert [info.data_interval.start.astimezone(ZoneInfo(zone)).date() for info in runs] == asked
    assert [(info.data_interval.start, info.data_interval.end) for info in runs] == [day_bounds(d, zone) for d in asked]


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


# --- a person's word ------------------------------------------------------------------------------------------------


@pytest.fixture
def asking(customers: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, and Rome's challengers need a person's word; plugins are importable, as in Airflow."""
    monkeypatch.syspath_prepend(ROOT / "plugins")
    path = customers / "rome.yaml"
    path.write_text(path.read_text() + "promotion: {approval: required}\n")
    return customers


def everything(folder: Path, wanted: str = "") -> dict[str, Any]:
    """All DAGs of the file, those that ask included."""
    from airflow.sdk import DAG
    from airflow.sdk.definitions.context import _AIRFLOW_PARSING_CONTEXT_DAG_ID as WANTED

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORECASTING_CUSTOMERS", str(folder))
        if wanted:
            patch.setenv(WANTED, wanted)
        found = runpy.run_path(str(DAG_FILE))
    return {name: value for name, value in found.items() if isinstance(value, DAG) and not name.startswith("_")}


def test_only_a_customer_whose_file_says_so_has_a_dag_that_asks(asking: Path) -> None:
    dags = everything(asking)
    assert [name for name in dags if name.startswith("approve__")] == ["approve__rome"]
    asks = dags["approve__rome"]
    assert list(asks.task_dict) == ["compare", "answer", "settle"]
    assert [asset.uri for asset in asks.timetable.asset_condition.objects] == ["forecasting://rome/approval"]
    assert asks.is_paused_upon_creation is False
    assert asks.max_active_runs > 1
    assert all(task.retry_policy for task in asks.tasks)
    assert asks.get_task("settle").upstream_task_ids == {"compare", "answer"}


def test_a_night_costs_no_more_tasks_and_declares_the_question_only_where_it_may_ask(asking: Path) -> None:
    dags = everything(asking)
    assert list(dags["forecast__rome"].task_dict) == list(dags["forecast__west"].task_dict)
    names = [[one.name for one in dags[f"forecast__{name}"].get_task("publish").outlets] for name in ("west", "rome")]
    assert names == [["forecast__west"], ["forecast__rome", "approve__rome"]]


def test_a_task_of_either_dag_builds_that_one_alone(asking: Path) -> None:
    assert list(everything(asking, "approve__rome")) == ["approve__rome"]
    assert list(everything(asking, "forecast__rome")) == ["forecast__rome"]
    assert list(everything(asking, "forecast__west")) == ["forecast__west"]


def test_the_question_waits_in_the_triggerer_and_ends_with_its_time(asking: Path) -> None:
    from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred

    ask = everything(asking)["approve__rome"].get_task("answer")
    until = datetime.now(UTC) + timedelta(hours=2)
    ask.question = {"subject": "s", "body": "b", "approval_id": 7, "expires_at": until.isoformat()}
    module = sys.modules["approvals"]
    with pytest.MonkeyPatch.context() as patch:
        said: list[dict[str, Any]] = []
        patch.setattr(module, "upsert_hitl_detail", lambda **given: said.append(given))
        with pytest.raises(TaskDeferred) as left:
            ask.execute({"task_instance": SimpleNamespace(id="x")})
        assert (said[0]["options"], said[0]["subject"], said[0]["defaults"]) == (["Approve", "Reject"], "s", ["Reject"])
    trigger = left.value.trigger
    path, kept = trigger.serialize()
    assert path == "approvals.AskTrigger"
    assert (kept["customer_id"], kept["approval_id"], kept["timeout_datetime"]) == ("rome", 7, until)
    assert type(trigger)(**kept).approval_id == 7
    assert timedelta(hours=2) < left.value.timeout < timedelta(hours=3)  # where no triggerer runs
    ask.question["expires_at"] = (until - timedelta(hours=3)).isoformat()
    with pytest.raises(AirflowSkipException):
        ask.execute({"task_instance": SimpleNamespace(id="x")})


def test_an_answer_that_comes_too_late_fails_at_once_and_says_why(
    asking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    from forecasting.pipeline import approval

    settle = everything(asking)["approve__rome"].get_task("settle").python_callable

    def refused(*_: object, **__: object) -> None:
        raise ConfigurationError("rome: approval 7 of 1.1.0 is superseded by pipeline")

    monkeypatch.setitem(settle.__globals__, "_deployment", lambda: None)
    monkeypatch.setattr(approval, "answer", refused)
    answered = {"chosen_options": ["Approve"], "params_input": {}, "responded_by_user": {"id": "1", "name": "rosa"}}
    with pytest.raises(AirflowFailException, match=r"nothing was changed: .*approval 7 of 1\.1\.0 is superseded"):
        settle({"customer_id": "rome", "approval_id": 7}, answered)
