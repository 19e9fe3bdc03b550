"""One daily DAG per file in ``customers/``. Wiring only: each task calls one ``forecasting.pipeline`` function."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import (
    DAG,
    Asset,
    BaseOperator,
    Connection,
    CronDataIntervalTimetable,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    TriggerRule,
    get_current_context,
    get_parsing_context,
    task,
)
from airflow.sdk.exceptions import AirflowSkipException

from forecasting.config import BrokenCustomer, Customer, load_customers, settings
from forecasting.periods import midnight

PREFIX = "forecast__"
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

PARAMS = {
    "full_refresh": Param(False, type="boolean", title="Full refresh", description="Read the whole feed again, "
                          "not only the days since the watermark less the lookback."),
    "force_retrain": Param(False, type="boolean", title="Force retrain", description="Retrain whatever the rules say."),
    "as_frozen": Param(False, type="boolean", title="As frozen", description="Use the snapshot recorded for this run "
                       "date; the customer's source is not touched."),
}  # fmt: skip


class Pull(BaseOperator):
    """The first stage; a scheduled night that is early waits in the triggerer until ``start_at``, holding no slot."""

    def __init__(self, *, customer_id: str, time_zone: str, start_at: timedelta, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.customer_id, self.time_zone, self.start_at = customer_id, time_zone, start_at

    def execute(self, context: Any, event: Any = None) -> dict[str, Any]:
        """Wait if it is early, then pull; ``event`` is what the trigger says when the wait is over."""
        run = context["dag_run"]
        if run.run_type == "scheduled":
            moment = run.data_interval_end + self.start_at
            if datetime.now(UTC) < moment:
                from airflow.providers.standard.triggers.temporal import DateTimeTrigger

                self.defer(trigger=DateTimeTrigger(moment), method_name="execute")
        from zoneinfo import ZoneInfo

        from forecasting import pipeline

        params = context["params"]
        request = pipeline.Request(
            live=run.run_type == "scheduled",
            full_refresh=params["full_refresh"],
            force_retrain=params["force_retrain"],
            as_frozen=params["as_frozen"],
        )
        run_date = run.data_interval_start.astimezone(ZoneInfo(self.time_zone)).date()
        return pipeline.pull(
            pipeline.connect(settings()), self.customer_id, run_date, request, connection_uri=_uri(self.customer_id)
        )


def _uri(customer_id: str) -> str | None:
    """Credentials of the customer's source, if declared: the Airflow connection whose id follows from its own."""
    customer = load_customers(settings().customers, only=customer_id)[0]
    if isinstance(customer, BrokenCustomer) or not customer.source.connection:
        return None
    return Connection.get(f"forecasting_{customer_id}").get_uri()


def forecast_dag(customer: Customer) -> DAG:
    """The nightly DAG of one customer: pull, freeze, the fits side by side, publish, monitor."""
    published = Asset(f"{PREFIX}{customer.id}", uri=f"forecasting://{customer.id}/forecast_current")
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
        tags=["forecast", customer.id],
        doc_md=_describe(customer),
    ) as dag:

        @task(execution_timeout=timedelta(minutes=60))
        def freeze(pulled: dict[str, Any]) -> list[dict[str, Any]]:
            from forecasting import pipeline

            return pipeline.freeze(pipeline.connect(settings()), pulled)

        @task(execution_timeout=timedelta(hours=4), pool=FITS, map_index_template="{{ shard }}")
        def fit_statistical(frozen: dict[str, Any]) -> dict[str, Any]:
            from forecasting import pipeline

            get_current_context()["shard"] = f"shard {frozen['shard']['index'] + 1} of {frozen['shard']['of']}"
            return pipeline.fit_statistical(pipeline.connect(settings()), frozen)

        @task(execution_timeout=timedelta(hours=4), pool=FITS)
        def fit_ml(frozen: list[dict[str, Any]]) -> dict[str, Any]:
            from forecasting import pipeline

            if not frozen:
                raise AirflowSkipException("nothing new")
            return pipeline.fit_ml(pipeline.connect(settings()), frozen[0])

        # A fit that failed does not stop the night: its series go down the ladder. A skipped one does: nothing is new.
        @task(
            execution_timeout=timedelta(minutes=60),
            trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS,
            outlets=[published],
        )
        def publish(frozen: list[dict[str, Any]], statistical: Any, ml: dict[str, Any] | None) -> dict[str, Any]:
            from forecasting import pipeline

            done = pipeline.publish(pipeline.connect(settings()), frozen[0], [*(statistical or [])], ml)
            get_current_context()["outlet_events"][published].extra = done["counts"]
            return done

        @task(execution_timeout=timedelta(minutes=60))
        def monitor(done: dict[str, Any]) -> dict[str, Any]:
            from forecasting import pipeline

            return pipeline.monitor(pipeline.connect(settings()), done)

        start_at = timedelta(hours=customer.start_at.hour, minutes=customer.start_at.minute)
        pulled = Pull(
            task_id="pull",
            customer_id=customer.id,
            time_zone=zone,
            start_at=start_at,
            execution_timeout=timedelta(minutes=60),
        )
        frozen = freeze(pulled.output)
        monitor(publish(frozen, fit_statistical.expand(frozen=frozen), fit_ml(frozen)))
    return dag


def broken_dag(broken: BrokenCustomer) -> DAG:
    """A DAG whose only task fails with what ``forecasting check`` says, so that the others go on and this is seen."""
    message = broken.message
    with DAG(
        f"{PREFIX}{broken.id}", schedule=None, catchup=False, tags=["forecast", "broken"], doc_md=f"```\n{message}\n```"
    ) as dag:

        @task(retries=0)
        def configuration() -> None:
            from forecasting.errors import ConfigurationError

            raise ConfigurationError(message)

        configuration()
    return dag


def _describe(customer: Customer) -> str:
    """The customer's settings, for the DAG's page."""
    rows = "\n".join(f"| `{name}` | `{value}` |" for name, value in customer.model_dump(mode="json").items())
    about = f"Nightly forecast of **{customer.id}**, as declared in `dags/customers/{customer.id}.yaml`."
    return f"{about}\n\n| setting | value |\n|---|---|\n{rows}\n"


_wanted = get_parsing_context().dag_id
for _customer in load_customers(settings().customers, only=_wanted.removeprefix(PREFIX) if _wanted else None):
    _dag = broken_dag(_customer) if isinstance(_customer, BrokenCustomer) else forecast_dag(_customer)
    globals()[_dag.dag_id] = _dag
