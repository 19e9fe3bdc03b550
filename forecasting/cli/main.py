"""The ``forecasting`` command: every command says what it did, and exits with a code a script can use.

Exit codes: 0 done, 1 failed, 2 wrong configuration or arguments, 3 bad data, 4 something could not be reached (try
again), 5 corrupted store, 6 our own forecasts refused, 7 not reproducible, 8 too late, 9 a local server or this machine
failed, 130 interrupted.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer
from rich.console import Console

from forecasting import config
from forecasting.cli import models, plots, reproductions
from forecasting.errors import (
    ConfigurationError,
    ContractBrokenError,
    ForecastingError,
    ServerError,
    SourceUnavailableError,
    near_miss,
)

if TYPE_CHECKING:
    from forecasting.pipeline import Deployment

__all__ = ["app", "main"]

app = typer.Typer(
    help="Nightly forecasts of retail sales, one customer at a time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
snapshot_app = typer.Typer(help="Look at and fetch the frozen data of past runs.", no_args_is_help=True)
app.add_typer(snapshot_app, name="snapshot")
contract_app = typer.Typer(help="Read contracts, and try deliveries before they count.", no_args_is_help=True)
app.add_typer(contract_app, name="contract")
connection_app = typer.Typer(help="Keep and try the connections of customers' sources.", no_args_is_help=True)
app.add_typer(connection_app, name="connection")
app.add_typer(models.app, name="models")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Format(StrEnum):
    """How ``sql`` prints rows."""

    table = "table"
    csv = "csv"
    json = "json"


class Page(StrEnum):
    """How a page is printed."""

    page = "page"
    json = "json"


CustomerArgument = Annotated[str, typer.Argument(help="A customer's id: the name of its file in dags/customers.")]
Reason = Annotated[str, typer.Option(help="Why; goes into the audit.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log every stage.")]


def make_home(settings: config.Settings) -> None:
    """Make the folder of the deployment's state, its owner's alone, before anything is put there.

    Raises:
        ConfigurationError: The place is taken, or may not be written.
    """
    try:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"FORECASTING_HOME={settings.home} cannot be used as a folder: {error.strerror}; name another one"
        ) from None


@contextmanager
def deployed(settings: config.Settings, *, newer: bool = False) -> Iterator[Deployment]:
    """The deployment with its servers running; the embedded one is started if it is down and left as it was found.

    With ``newer`` a schema of newer code is left as it is: recorded code reads what that code still keeps.
    """
    from forecasting.store import embedded

    make_home(settings)
    with embedded.deployment(settings) as environment:
        os.environ.update(environment)
        from forecasting import pipeline
        from forecasting.store import warehouse

        deployment = pipeline.connect(config.settings())
        warehouse.migrate(os.environ["FORECASTING_WAREHOUSE_URL"], newer=newer)
        try:
            yield deployment
        finally:
            deployment.engine.dispose()


@app.command()
def check(
    customers: Annotated[list[str] | None, typer.Argument(help="Ids to check; all, if none is named.")] = None,
) -> None:
    """Check customer files and their contracts; say file, line, key, value and what was expected."""
    from forecasting import pipeline
    from forecasting.data import contracts

    settings = config.settings()
    found = [f for f in config.load_customers(settings.customers) if not customers or f.id in customers]
    missing = set(customers or ()) - {customer.id for customer in found}
    if missing:
        pipeline.load_customer(settings, sorted(missing)[0])
    faults = []
    for customer in found:
        if isinstance(customer, config.BrokenCustomer):
            faults.append(customer.message)
            continue
        try:
            contract = contracts.load(settings.contracts / f"{customer.contract}.odcs.yaml")
            contracts.agree(contract, customer)
        except ConfigurationError as error:
            faults.append(str(error))
        else:
            out.print(f"{customer.id}: fine; contract {contract.id} {contract.version}")
    for fault in faults:
        err.print(fault, markup=False)
    if faults:
        raise typer.Exit(ConfigurationError.exit_code)


@app.command("customers")
def list_customers() -> None:
    """List the customers with their newest publication."""
    from forecasting.store import reports

    settings = config.settings()
    with deployed(settings) as deployment:
        rows = reports.newest_publications(deployment.engine).to_dict("records")
    standing = {row["customer_id"]: row for row in rows}
    for customer in config.load_customers(settings.customers):
        if isinstance(customer, config.BrokenCustomer):
            out.print(f"{customer.id}: broken; run `forecasting check {customer.id}`", markup=False)
            continue
        row = standing.get(customer.id)
        newest = f"published {row['run_date']}, champion {row['version']}" if row else "never published"
        out.print(f"{customer.id}: {customer.time_zone}, {customer.frequency}, h {customer.horizon}; {newest}")


@app.command()
def run(
    customer: CustomerArgument,
    run_date: Annotated[str, typer.Option("--date", help="Local date the run stands for, YYYY-MM-DD.")],
    full_refresh: Annotated[bool, typer.Option(help="Read the whole feed again.")] = False,
    force_retrain: Annotated[bool, typer.Option(help="Retrain whatever the rules say.")] = False,
    as_frozen: Annotated[bool, typer.Option(help="Use the recorded snapshot; do not touch the source.")] = False,
    live: Annotated[bool, typer.Option(help="Count as tonight's run, not as history.")] = False,
    against: Annotated[
        str | None, typer.Option(help="Version to compare a retrain with, in place of the one in charge; dev only.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Run one customer's day without Airflow: the same stages, the same values."""
    from forecasting.cli import charge, night
    from forecasting.pipeline import Request

    night.tell_stages(verbose)
    request = Request(live, full_refresh, force_retrain, as_frozen, asked_by=charge.me(), against=against)
    with deployed(config.settings()) as deployment:
        done = night.run(deployment, customer, _day(run_date, "--date"), request, say=_say)
    out.print(done, markup=False)


@app.command()
def rehearse(
    base: Annotated[str, typer.Argument(help="Revision to compare the working tree with, such as main or HEAD~1.")],
    sample: Annotated[int, typer.Option(min=0, help="Most series per customer; 0: all.")] = 60,
    report: Annotated[Path | None, typer.Option(help="Markdown file to write what came of it to.")] = None,
    home: Annotated[
        Path | None, typer.Option(help="Dev deployment to train in; default: a fresh one below FORECASTING_HOME.")
    ] = None,
    list_only: Annotated[
        bool, typer.Option("--list", help="Only list who would be trained, and as of which run date.")
    ] = False,
) -> None:
    """Train the customers that a change touches, as before and as changed, on a sample, and compare them by the gate.

    Exits with 1 when a check, a training or a comparison did not come through; keeping the champion is no failure.
    """
    from forecasting import pipeline
    from forecasting.cli import rehearsal

    settings = config.settings()
    make_home(settings)
    if list_only:
        for change in rehearsal.changes_since(settings, base)[1]:
            if change.fate in ("retrain", "new"):
                day = rehearsal.run_date(pipeline.load_customer(settings, change.customer))
                out.print(f"{change.customer} {day}", markup=False)
        return
    done = rehearsal.run(settings, base, sample=sample or None, home=home, say=_say)
    told = rehearsal.report(done)
    sys.stdout.write(told)
    if report:
        try:
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(told, encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"--report {report}: {error.strerror or error}") from None
    if any(outcome.after for outcome in done.outcomes):
        _say(f"its versions: FORECASTING_HOME={done.home} forecasting sql 'select * from forecasting.model_history'")
    if done.failed:
        raise typer.Exit(ForecastingError.exit_code)


@app.command()
def backfill(
    customer: CustomerArgument,
    first: Annotated[str, typer.Argument(metavar="FROM", help="First run date, local, YYYY-MM-DD.")],
    last: Annotated[str, typer.Argument(metavar="TO", help="Last run date, local, included.")],
    reprocess: Annotated[bool, typer.Option(help="Run finished days again, in place.")] = False,
    timeout: Annotated[int, typer.Option(help="Minutes to wait for the runs.")] = 240,
) -> None:
    """Run past days through Airflow, in order, and wait; fails if one of them fails."""
    from forecasting import pipeline
    from forecasting.cli import airflows, backfills

    settings = config.settings()
    known, days = pipeline.load_customer(settings, customer), (_day(first, "FROM"), _day(last, "TO"))
    make_home(settings)
    with airflows.attach(settings) as airflow:
        backfills.run(
            airflow,
            known,
            *days,
            reprocess=reprocess,
            timeout=timeout * 60,
            say=_say,
        )


class Target(StrEnum):
    """Where ``promote`` brings versions."""

    staging = "staging"
    prod = "prod"


@app.command()
def promote(
    customer: CustomerArgument,
    version: Annotated[str, typer.Argument(help="Semantic version, such as 1.1.0; it keeps its number.")],
    to: Annotated[Target, typer.Option("--to", help="Environment it goes to.")],
    reason: Annotated[str, typer.Option(help="Why; goes into the audit log of both deployments.")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Go without evidence that is missing; needs --reason.")
    ] = False,
    target: Annotated[
        Path | None,
        typer.Option(
            help="Its environment file; default: that of FORECASTING_TARGET_STAGING or FORECASTING_TARGET_PROD."
        ),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Bring a version to the next environment with the evidence of every gate; refuses without it.

    In staging it competes in shadow, in prod it takes charge; docs/environments.md says what each demands.
    """
    from forecasting import deployments
    from forecasting.cli import charge, night
    from forecasting.pipeline import environments

    night.tell_stages(verbose)
    settings = config.settings()
    other = deployments.target(settings, to.value, target)
    with deployed(settings) as here, environments.reach(other) as there:
        done = environments.promote(here, there, customer, version, who=charge.me(), reason=reason, force=force)
    out.print(done, markup=False)


@app.command()
def shadow(
    customer: CustomerArgument,
    end: Annotated[bool, typer.Option("--end", help="Let nobody compete in shadow any more; needs --reason.")] = False,
    reason: Annotated[str, typer.Option(help="Why; goes into the audit log.")] = "",
) -> None:
    """Show the version in shadow, night by night: its scores beside those of what was published, on the same days."""
    from dataclasses import asdict

    import pandas as pd

    from forecasting.cli import charge, tables
    from forecasting.pipeline import shadow as shadows

    if end and not reason.strip():
        raise ConfigurationError("--end needs --reason: it goes into the audit log")
    with deployed(config.settings()) as deployment:
        if end:
            ended = shadows.end(deployment, customer, who=charge.me(), why=reason)
            out.print(f"{customer}: {ended or 'nobody'} no longer competes in shadow", markup=False)
            return
        version, nights = shadows.nights(deployment, customer)
    if version is None:
        out.print(f"{customer}: nobody competes in shadow", markup=False)
        return
    scored = [night for night in nights if night.rmsse is not None and night.champion_rmsse is not None]
    out.print(f"{customer}: {version} in shadow, {len(nights)} nights kept, {len(scored)} of them scored", markup=False)
    if nights:
        tables.show(tables.table(pd.DataFrame([asdict(night) for night in nights])))


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="One statement; it runs read-only.")],
    style: Annotated[Format, typer.Option("--format", help="How rows are printed.")] = Format.table,
    timeout: Annotated[int, typer.Option(help="Seconds.")] = 60,
) -> None:
    """Ask the warehouse, read-only."""
    from forecasting.cli import tables
    from forecasting.store import warehouse

    with deployed(config.settings()) as deployment:
        rows = warehouse.query(deployment.engine, query, timeout=timeout)
    if style is Format.csv:
        sys.stdout.write(rows.to_csv(index=False))
    elif style is Format.json:
        sys.stdout.write(tables.as_json(rows) + "\n")
    else:
        tables.show(tables.table(rows))


@app.command("explain-run")
def explain_run(
    run_id: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's id, such as pasta/2018-10-01/1; or a customer's id.")
    ],
    run_date: Annotated[
        str | None, typer.Argument(metavar="[DATE]", help="Of a customer: run date; default: its newest.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="List every series that is not ok, not only the first.")] = False,
    style: Annotated[Page, typer.Option("--format", help="How it is printed.")] = Page.page,
) -> None:
    """Tell on one page where every line of a run's feed went, how every series fared, and why."""
    from forecasting.cli import explain, tables
    from forecasting.store import explanation

    day = _day(run_date, "DATE") if run_date else None
    with deployed(config.settings()) as deployment:
        found = explanation.find_run(deployment.engine, run_id, day)
        told = explanation.explain(deployment.engine, found, series=None if every else explanation.SERIES)
    if style is Page.json:
        sys.stdout.write(tables.document({**told, "next": [step for _, step in explain.next_steps(told)]}) + "\n")
    else:
        explain.show(told, tables.page_console())


@app.command()
def rollback(
    customer: CustomerArgument,
    to: Annotated[
        str | None, typer.Option(help="Version to put back; default: the one in charge before the present one.")
    ] = None,
    publication: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Only switch that run's date back to it; who is in charge stays."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=366, help="Run dates for which the version is pinned.")] = 7,
    reason: Reason = "no reason given",
) -> None:
    """Put the version before back in charge, show readers its set at once, and pin it."""
    from forecasting.cli import charge

    if publication and to:
        raise ConfigurationError("--to and --publication are two ways back; give one of them")
    with deployed(config.settings()) as deployment:
        if publication:
            told = charge.switch(deployment, _known(customer, deployment), publication, why=reason)
        else:
            told = charge.rollback(deployment, _known(customer, deployment), to=to, days=days, why=reason)
    for line in told:
        out.print(line, markup=False)


@app.command()
def pin(
    customer: CustomerArgument,
    version: Annotated[str, typer.Argument(help="The version that is in charge.")],
    days: Annotated[int, typer.Option(min=1, max=366, help="Run dates after the newest night.")] = 7,
    reason: Reason = "no reason given",
) -> None:
    """Hold the version that is in charge, whatever wins; live nights obey."""
    from forecasting.cli import charge

    with deployed(config.settings()) as deployment:
        told = charge.pin(deployment, _known(customer, deployment), version, days=days, why=reason)
    out.print(told, markup=False)


@app.command()
def unpin(customer: CustomerArgument, reason: Reason = "no reason given") -> None:
    """Let nights decide again who is in charge."""
    from forecasting.cli import charge

    with deployed(config.settings()) as deployment:
        told = charge.unpin(deployment, _known(customer, deployment), why=reason)
    out.print(told, markup=False)


@app.command()
def audit(
    customer: CustomerArgument,
    since: Annotated[str | None, typer.Option(help="First day, UTC, YYYY-MM-DD; default: all.")] = None,
    style: Annotated[Format, typer.Option("--format", help="How rows are printed.")] = Format.table,
) -> None:
    """List every act that changed what production does for a customer: who, when, why, before and after."""
    from forecasting.cli import charge, tables
    from forecasting.store import reports

    day = _day(since, "--since") if since else None
    with deployed(config.settings()) as deployment:
        rows = reports.audit_trail(deployment.engine, _known(customer, deployment), day)
    if style is Format.table:
        tables.show(charge.trail(rows))
    else:
        sys.stdout.write(rows.to_csv(index=False) if style is Format.csv else tables.as_json(rows) + "\n")


@app.command()
def migrate() -> None:
    """Bring the warehouse's schema to this version."""
    with deployed(config.settings()):
        out.print("the warehouse has this version's schema")


@app.command()
def provision(
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without this the plan is only shown.")] = False,
) -> None:
    """Make and reconcile each customer's schema, partitions and roles; shows its plan first."""
    from forecasting.store import provision as provisioning

    settings = config.settings()
    with deployed(settings) as deployment:
        customers = config.sound_customers(settings.customers)
        with deployment.engine.connect() as connection:
            steps = provisioning.plan(connection, customers)
        for step in steps:
            out.print(f"- {step.sentence}", markup=False)
        if apply and steps:
            provisioning.apply(deployment.engine, customers)
    out.print(
        f"{len(steps)} steps {'done' if apply else 'planned; add --apply to do them'}" if steps else "nothing to do"
    )


@snapshot_app.command("list")
def snapshot_list(customer: CustomerArgument) -> None:
    """List a customer's snapshots, newest first."""
    from forecasting import pipeline
    from forecasting.data import snapshots

    settings = config.settings()
    known = pipeline.load_customer(settings, customer)
    make_home(settings)
    for entry in snapshots.history(settings, known.id):
        out.print(f"{entry.run_id}  cutoff {entry.cutoff}  {entry.rows} rows  {entry.ref}", markup=False)


@snapshot_app.command("get")
def snapshot_get(
    ref: Annotated[str, typer.Argument(help="A snapshot as `snapshot list` prints it.")],
    to: Annotated[Path, typer.Option("--to", help="Parquet file to write.")],
) -> None:
    """Fetch a snapshot, verify every byte, and write the panel as one parquet file."""
    from forecasting.data import snapshots

    try:
        wanted = snapshots.SnapshotRef.parse(ref)
    except ValueError as error:
        raise ConfigurationError(f"{error}; `forecasting snapshot list CUSTOMER` prints them") from None
    settings = config.settings()
    make_home(settings)
    panel, _ = snapshots.read(settings, wanted)
    try:
        panel.to_parquet(to, index=False)
    except OSError as error:
        raise ConfigurationError(f"--to {to}: {error.strerror or error}") from None
    out.print(f"{len(panel)} rows verified and written to {to}")


@contract_app.command("test")
def contract_test(
    customer: CustomerArgument,
    file: Annotated[
        Path, typer.Argument(help="Delivery on this machine; for a database, a .csv or .parquet export of its columns.")
    ],
    run_date: Annotated[
        str | None, typer.Option("--date", help="Run date to try it as; default: the first that sees all its sales.")
    ] = None,
    style: Annotated[Page, typer.Option("--format", help="How it is printed.")] = Page.page,
) -> None:
    """Try a delivery before it counts: read and judge it as a night would, and leave nothing behind.

    Exits with 3 when the contract is broken, or the file is not what is declared.
    """
    from forecasting import pipeline
    from forecasting.cli import deliveries, tables
    from forecasting.pipeline import trial

    settings = config.settings()
    known, day = pipeline.load_customer(settings, customer), _day(run_date, "--date") if run_date else None
    told = deliveries.document(trial.try_delivery(settings, known, file, today=_today(known), run_date=day))
    if style is Page.json:
        sys.stdout.write(tables.document(told) + "\n")
    else:
        deliveries.show(told, tables.page_console())
    if told["broken"]:
        raise typer.Exit(ContractBrokenError.exit_code)


@contract_app.command("show")
def contract_show(customer: CustomerArgument) -> None:
    """Tell in words what a customer's contract asks of its feed."""
    from forecasting import pipeline
    from forecasting.cli import deliveries, tables
    from forecasting.data import contracts

    settings = config.settings()
    known = pipeline.load_customer(settings, customer)
    contract = contracts.load(settings.contracts / f"{known.contract}.odcs.yaml")
    contracts.agree(contract, known)
    deliveries.show_contract(contract, tables.page_console())


@connection_app.command("set")
def connection_set(
    customer: CustomerArgument,
    uri: Annotated[
        str, typer.Argument(help="scheme://login:password@host:port/name?option=value, or `-` to read it from stdin.")
    ],
) -> None:
    """Keep a customer's connection in FORECASTING_HOME, for `run` and the local Airflow; it is never shown."""
    from forecasting import pipeline
    from forecasting.cli import connections

    settings = config.settings()
    known = pipeline.load_customer(settings, customer)
    if not known.source.connection:
        raise ConfigurationError(f"{customer} declares no connection; its file needs `connection: true` in `source`")
    make_home(settings)
    connections.store(settings, known.id, sys.stdin.readline().strip() if uri == "-" else uri)
    out.print(f"the connection of {known.id} is kept; `forecasting connection test {known.id}` tries it")


@connection_app.command("test")
def connection_test(customer: CustomerArgument) -> None:
    """Open a customer's source as a pull would; say its columns and how many rows its newest days hold."""
    from forecasting import pipeline
    from forecasting.cli import connections
    from forecasting.store import embedded

    settings = config.settings()
    known = pipeline.load_customer(settings, customer)
    # the demo's shop has its database on the embedded server
    with embedded.server(settings.home) if embedded.hosts_others(settings.home) else nullcontext():
        connections.examine(settings, known, lambda line: out.print(line, markup=False))


@app.command("approvals")
def list_approvals(
    customer: Annotated[str | None, typer.Argument(help="A customer's id; default: all.")] = None,
) -> None:
    """List the challengers that won and need a person's word; of one customer, show the one that waits."""
    from rich.markdown import Markdown

    from forecasting import pipeline
    from forecasting.cli import approvals, tables

    settings = config.settings()
    known = pipeline.load_customer(settings, customer).id if customer else None
    with deployed(settings) as deployment:
        rows = approvals.listing(deployment, known)
        question = approvals.question(deployment, known) if known and (rows["state"] == "waiting").any() else None
    if rows.empty:
        out.print("no challenger has asked for a person's word")
        return
    tables.show(tables.table(rows))
    if question:
        tables.page_console().print(Markdown(question))


@app.command("approve")
def answer_approval(
    customer: CustomerArgument,
    yes: Annotated[bool, typer.Option("--yes/--no", help="Put the challenger in charge from the next night on.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes into the audit.")],
) -> None:
    """Answer for the challenger that waits; the request in Airflow then ends by itself."""
    from forecasting import pipeline
    from forecasting.cli import approvals

    settings = config.settings()
    known = pipeline.load_customer(settings, customer)
    with deployed(settings) as deployment:
        said = approvals.answer(deployment, known.id, approved=yes, reason=reason)
    out.print(said, markup=False)


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Port of the Airflow UI on loopback.")] = 8080,
) -> None:
    """Run Airflow and the embedded PostgreSQL on this machine until Ctrl-C."""
    from forecasting.cli import airflows, seeds

    settings = config.settings()
    make_home(settings)
    customers = config.sound_customers(settings.customers)
    airflows.up(settings, port=port, say=_say, tend=lambda: seeds.seed(settings, customers, lambda _: None))


@app.command()
def demo() -> None:
    """Backfill the demo's run dates through Airflow and print what came out."""
    from forecasting.cli import demo as demonstration
    from forecasting.cli import tables

    settings = config.settings()
    make_home(settings)
    demonstration.run(settings, say=_say, show=tables.show)


plots.register(app)
reproductions.register(app)


def _say(line: str) -> None:
    err.print(line, markup=False)


def _known(customer_id: str, deployment: Deployment) -> str:
    """The customer's id, if the warehouse knows it: what a person does about one must not need its file."""
    from forecasting.store import reports

    known = reports.customers(deployment.engine)
    if customer_id not in known:
        raise ConfigurationError(
            f"the warehouse knows no customer {customer_id!r}.{near_miss(customer_id, known)} Known: "
            f"{', '.join(known) or 'none yet'}"
        )
    return customer_id


def _today(customer: config.Customer) -> date:
    return datetime.now(ZoneInfo(customer.time_zone)).date()


def _day(text: str, name: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{name} {text!r}: expected a date such as 2018-10-01") from None
    if not 1900 <= day.year < 2200:  # horizons and lookbacks around it must be dates, too
        raise ConfigurationError(f"{name} {text!r}: expected a date from 1900 to 2199, such as 2018-10-01")
    return day


def main() -> None:
    """Run the command line; an error becomes a sentence and an exit code, never a traceback that was not asked for."""
    os.umask(0o077)  # what a command leaves behind is its owner's: it holds a customer's sales
    try:
        app()
    except Exception as error:
        if os.environ.get("FORECASTING_TRACEBACK"):
            traceback.print_exc()
        sentence, code = _verdict(error)
        err.print(re.sub(r"://[^/@\s]+@", "://***@", sentence), markup=False)
        raise SystemExit(code) from None


def _verdict(error: Exception) -> tuple[str, int]:
    """What to tell of an error that ended a command, and the exit code."""
    import psycopg
    from sqlalchemy import exc

    if isinstance(error, ForecastingError):
        return str(error), error.exit_code
    cause = error.orig if isinstance(error, exc.DBAPIError) else error  # the outer one quotes statement and values
    if isinstance(cause, (psycopg.OperationalError, psycopg.InterfaceError)):
        reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
        return (
            f"the database did not answer: {reason}; check that it runs and is the one that FORECASTING_WAREHOUSE_URL "
            "and MLFLOW_TRACKING_URI name",
            SourceUnavailableError.exit_code,
        )
    if isinstance(error, OSError):
        place = f": {error.filename}" if error.filename else ""
        return f"this machine refused: {error.strerror or error}{place}", ServerError.exit_code
    return (
        f"unexpected: {type(error).__name__}: {error}; run with FORECASTING_TRACEBACK=1 for the traceback",
        ForecastingError.exit_code,
    )
