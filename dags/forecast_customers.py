"""One daily DAG per file in ``customers/``. Wiring only: each task calls one ``forecasting.pipeline`` function."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow.sdk import (
    DAG,
    Asset,
    AssetAlias,
    AsyncCallback,
    BaseOperator,
    Connection,
    CronDataIntervalTimetable,
    DeadlineAlert,
    DeadlineReference,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    TriggerRule,
    get_current_context,
    get_parsing_context,
    task,
)
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from forecasting.config import BrokenCustomer, Customer, load_customers, settings
from forecasting.errors import ConfigurationError
from forecasting.periods import local_instant, midnight

if TYPE_CHECKING:
    from forecasting.pipeline import Deployment

PREFIX = "forecast__"
APPROVE = "approve__"
FITS = "fits"  # pool: how many fits a deployment runs at once

# Retries follow meaning: what cannot heal by waiting fails at once, the rest is tried again.
FINAL = ("ConfigurationError", "SourceError", "ContractBrokenError", "SnapshotCorruptedError", "BrokenBundleError",
         "OutgoingContractBrokenError", "ChecksumMismatchError", "LateAttemptError")  # fmt: skip
RETRY = ExceptionRetryPolicy(
    rules=[
        RetryRule(exception="forecasting.errors.SourceUnavailableError", action=RetryAction.RETRY),
        *(RetryRule(exception=f"forecasting.errors.{name}", action=RetryAction.FAIL) for name in FINAL),
    ]
)
DEFAULTS = {"retries": 2, "retry_delay": timedelta(minutes=2), "retry_policy": RETRY, "owner": "forecasting"}

MANUAL = (
    "A run triggered by hand counts as history, not as tonight's run. It needs a logical date, and stands for the last "
    "whole local day before it."
)
PARAMS = {
    "full_refresh": Param(False, type="boolean", title="Full refresh", description="Read the whole feed again, "
                          f"not only the days since the watermark less the lookback. {MANUAL}"),
    "force_retrain": Param(False, type="boolean", title="Force retrain", description="Retrain whatever the rules say."),
    "as_frozen": Param(False, type="boolean", title="As frozen", description="Use the snapshot recorded for this run "
                       "date; the customer's source is not touched."),
}  # fmt: skip


APPROVAL = (
    "A night found a challenger that won, published with the champion, and asks here for a person's word: *Required "
    "actions*, or `forecasting approve CUSTOMER`. See `docs/approval.md`. A run by hand shows the question that waits."
)


class Pull(BaseOperator):
    """The first stage; a scheduled night that is early waits in the triggerer until ``start_at``, holding no slot."""

    def __init__(self, *, customer_id: str, time_zone: str, start_at: time, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.customer_id, self.time_zone, self.start_at = customer_id, time_zone, start_at

    def execute(self, context: Any) -> dict[str, Any]:
        """Pull, or wait for the local ``start_at`` of the morning after and then pull."""
        run = context["dag_run"]
        if run.run_type == "scheduled":
            morning = local_day(run.data_interval_start, self.time_zone) + timedelta(days=1)
            moment = local_instant(morning, self.start_at, self.time_zone)
            if datetime.now(UTC) < moment:
                from airflow.providers.standard.triggers.temporal import DateTimeTrigger

                self.defer(trigger=DateTimeTrigger(moment), method_name="pull")
        return self.pull(context)

    def pull(self, context: Any, event: Any = None) -> dict[str, Any]:
        """Pull; ``event`` is what the trigger says when a wait is over."""
        from forecasting import pipeline

        run, params = context["dag_run"], context["params"]
        request = pipeline.Request(
            live=run.run_type == "scheduled",
            full_refresh=params["full_refresh"],
            force_retrain=params["force_retrain"],
            as_frozen=params["as_frozen"],
            asked_by=asked_by(run),
        )
        run_date = local_day(run.data_interval_start, self.time_zone)
        return pipeline.pull(_deployment(), self.customer_id, run_date, request, connection_uri=_uri(self.customer_id))


def local_day(interval_start: datetime | None, zone: str) -> date:
    """The local day a run stands for.

    Raises:
        ConfigurationError: The run has no data interval, because it was triggered without a logical date.
    """
    if interval_start is None:
        raise ConfigurationError(
            "this run was triggered without a logical date, so it stands for no day. Trigger it again and give a "
            "logical date: the run then stands for the last whole local day before it."
        )
    return interval_start.astimezone(ZoneInfo(zone)).date()


def asked_by(run: Any) -> str:
    """Who wants a run, for the audit: the schedule, a backfill, or the user who triggered it."""
    if run.run_type == "scheduled":
        return "schedule"
    if run.run_type == "backfill":
        return "backfill"
    return f"airflow user {run.triggering_user_name or 'unknown'}"


def _deployment() -> Deployment:
    """What a task works on; files it leaves behind are their owner's alone, for they hold a customer's sales."""
    from forecasting import pipeline

    os.umask(0o077)
    return pipeline.connect(settings())


def _uri(customer_id: str) -> str | None:
    """Credentials of the customer's source, if declared: the Airflow connection whose id follows from its own."""
    customer = load_customers(settings().customers, only=customer_id)[0]
    if isinstance(customer, BrokenCustomer) or not customer.source.connection:
        return None
    return Connection.get(f"forecasting_{customer_id}").get_uri()


@task(execution_timeout=timedelta(minutes=60))
def freeze(pulled: dict[str, Any]) -> list[dict[str, Any]]:
    """Gate the rows by contract, freeze the panel, decide the night; one reference per shard of statistical fits."""
    from forecasting import pipeline

    return pipeline.freeze(_deployment(), pulled)


@task(execution_timeout=timedelta(hours=4), pool=FITS, map_index_template="{{ shard }}")
def fit_statistical(frozen: dict[str, Any]) -> dict[str, Any]:
    """Fit the statistical models of one shard's series."""
    from forecasting import pipeline

    get_current_context()["shard"] = f"shard {frozen['shard']['index'] + 1} of {frozen['shard']['of']}"
    return pipeline.fit_statistical(_deployment(), frozen)


@task(execution_timeout=timedelta(hours=4), pool=FITS)
def fit_ml(frozen: list[dict[str, Any]]) -> dict[str, Any]:
    """Fit the global model over all series; skipped when nothing is new, and with it the rest of the night."""
    from forecasting import pipeline

    if not frozen:
        raise AirflowSkipException("nothing new")
    return pipeline.fit_ml(_deployment(), frozen[0])


# A fit that failed does not stop the night: its series go down the ladder. A skipped one does: nothing is new.
@task(execution_timeout=timedelta(minutes=60), trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
def publish(frozen: list[dict[str, Any]], statistical: Any, ml: dict[str, Any] | None) -> dict[str, Any]:
    """Select, promote and publish; the asset's event says how it ended."""
    from forecasting import pipeline

    done = pipeline.publish(_deployment(), frozen[0], [*(statistical or [])], ml)
    events = get_current_context()["outlet_events"]
    events[published_by(done["customer_id"])].extra = told_of(done["counts"])
    if "approval" in done:
        asset = asked_of(done["customer_id"])
        events[AssetAlias(asset.name)].add(asset, extra={"approval": done["approval"]})
    return done


@task(execution_timeout=timedelta(minutes=60))
def monitor(done: dict[str, Any]) -> dict[str, Any]:
    """Score earlier publications against the actuals that have arrived."""
    from forecasting import pipeline

    return pipeline.monitor(_deployment(), done)


def published_by(customer_id: str) -> Asset:
    """The asset that stands for a customer's current forecast."""
    return Asset(f"{PREFIX}{customer_id}", uri=f"forecasting://{customer_id}/forecast_current")


def told_of(counts: dict[str, Any]) -> dict[str, Any]:
    """What the asset's event carries. Airflow emits one on every success: counts only where something was published."""
    return counts if counts["outcome"] == "published" else {"outcome": counts["outcome"]}


def asked_of(customer_id: str) -> Asset:
    """The asset whose events ask for a person's word; they are emitted through the alias of its name, or not at all."""
    return Asset(f"{APPROVE}{customer_id}", uri=f"forecasting://{customer_id}/approval")


def _outlets(customer: Customer) -> list[Asset | AssetAlias]:
    asks = [AssetAlias(asked_of(customer.id).name)] if customer.promotion.approval == "required" else []
    return [published_by(customer.id), *asks]


def forecast_dag(customer: Customer) -> DAG:
    """The nightly DAG of one customer: pull, freeze, the fits side by side, publish, monitor."""
    zone = customer.time_zone
    with DAG(
        f"{PREFIX}{customer.id}",
        description=f"Nightly forecast of {customer.id}: {customer.horizon} {customer.frequency} ahead",
        schedule=CronDataIntervalTimetable("0 0 * * *", timezone=zone),
        start_date=midnight(customer.first_date, zone),
        end_date=midnight(customer.last_date, zone) if customer.last_date else None,
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULTS,
        params=PARAMS,
        deadline=_deadline(customer),
        tags=["forecast", customer.id],
        doc_md=_describe(customer),
    ) as dag:
        pulled = Pull(
            task_id="pull",
            customer_id=customer.id,
            time_zone=zone,
            start_at=customer.start_at,
            execution_timeout=timedelta(minutes=60),
        )
        frozen = freeze(pulled.output)
        statistical, ml = fit_statistical.expand(frozen=frozen), fit_ml(frozen)
        monitor(publish.override(outlets=_outlets(customer))(frozen, statistical, ml))
    return dag


def _deadline(customer: Customer) -> DeadlineAlert | None:
    """The customer's deadline; a scheduled night is queued as its local day ends, so it is counted from there.

    The callback, ``plugins/deadlines.py``, answers scheduled nights only: a backfill's are queued at any time.
    """
    if customer.deadline is None:
        return None
    told = {"customer_id": customer.id, "time_zone": customer.time_zone, "deadline": f"{customer.deadline:%H:%M}"}
    after_midnight = timedelta(hours=customer.deadline.hour, minutes=customer.deadline.minute)
    missed = AsyncCallback("deadlines.missed", kwargs=told)
    return DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, after_midnight, missed, name="deadline")


# --- a person's word ------------------------------------------------------------------------------------------------


@task(execution_timeout=timedelta(minutes=10))
def compare(customer_id: str) -> dict[str, Any]:
    """The question as a person is to see it; skipped when it does not wait any more."""
    from forecasting.pipeline import approval

    events = get_current_context()["triggering_asset_events"].values()
    asked = [event.extra["approval"] for of_asset in events for event in of_asset]
    question = approval.show(_deployment(), customer_id, max(asked, default=None))
    if question is None:
        raise AirflowSkipException("this question waits no more: `forecasting approvals` tells what became of it")
    return question


# Also where nobody answered, so that the question's end is recorded.
@task(execution_timeout=timedelta(minutes=10), trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
def settle(question: dict[str, Any], answered: dict[str, Any] | None) -> dict[str, Any]:
    """Do what the person said; an answer that came too late changes nothing, and fails with what stood against it."""
    from forecasting.errors import LateAttemptError
    from forecasting.pipeline import approval

    deployment, asked = _deployment(), (question["customer_id"], question["approval_id"])
    user = (answered or {}).get("responded_by_user")
    if not answered or not user:
        done = approval.standing(deployment, *asked)
    else:
        approved = answered["chosen_options"] == ["Approve"]
        why = (answered.get("params_input") or {}).get("reason") or "no reason given"
        try:
            done = approval.answer(deployment, *asked, approved=approved, who=f"airflow user {user['name']}", why=why)
        except (ConfigurationError, LateAttemptError) as error:
            raise AirflowFailException(f"nothing was changed: {error}") from None
    return {"version": done.version, "state": done.state, "who": done.who, "why": done.why}


def approve_dag(customer: Customer) -> DAG:
    """The DAG in which a person answers; its runs come from nights that ask, and from nowhere else."""
    from approvals import Ask  # in plugins/; imported where it is needed, for it brings Airflow's own operator along

    with DAG(
        f"{APPROVE}{customer.id}",
        description=f"A challenger of {customer.id} won, and waits for a person's word",
        schedule=[asked_of(customer.id)],
        catchup=False,
        is_paused_upon_creation=False,  # what happens while it is paused is not shown later
        max_active_runs=4,  # a newer question is shown while the one whose place it takes is closed
        default_args=DEFAULTS,
        tags=["approve", customer.id],
        doc_md=APPROVAL,
    ) as dag:
        question = compare(customer.id)
        settle(question, Ask(task_id="answer", customer_id=customer.id, question=question).output)
    return dag


def broken_dag(broken: BrokenCustomer) -> DAG:
    """A DAG whose only task fails with what ``forecasting check`` says, so that the others go on and this is seen."""
    message = broken.message
    with DAG(
        f"{PREFIX}{broken.id}", schedule=None, catchup=False, tags=["forecast", "broken"], doc_md=f"```\n{message}\n```"
    ) as dag:

        @task(retries=0)
        def configuration() -> None:
            raise ConfigurationError(message)

        configuration()
    return dag


def _describe(customer: Customer) -> str:
    """The customer's settings, for the DAG's page."""
    declared = customer.model_dump(mode="json").items()
    rows = "\n".join(f"| `{name}` | `{_cell(value)}` |" for name, value in declared)
    about = f"Nightly forecast of **{customer.id}**, as declared in `dags/customers/{customer.id}.yaml`. {MANUAL}"
    return f"{about}\n\n| setting | value |\n|---|---|\n{rows}\n"


def _cell(value: object) -> str:
    """A value in a Markdown table: a bar would end the cell, a line break the row."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def dags_of(customer: Customer | BrokenCustomer, wanted: str | None) -> list[DAG]:
    """The customer's DAGs; of these only ``wanted``, where one is."""
    if isinstance(customer, BrokenCustomer):
        return [broken_dag(customer)]
    asks = customer.promotion.approval == "required" and not (wanted or "").startswith(PREFIX)
    forecasts = not (wanted or "").startswith(APPROVE)
    return [*([forecast_dag(customer)] if forecasts else []), *([approve_dag(customer)] if asks else [])]


_wanted = get_parsing_context().dag_id
_only = _wanted.removeprefix(PREFIX).removeprefix(APPROVE) if _wanted else None
for _customer in load_customers(settings().customers, only=_only):
    for _dag in dags_of(_customer, _wanted):
        globals()[_dag.dag_id] = _dag
