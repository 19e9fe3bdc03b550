"""``forecasting reproduce``: prove a published number by computing it again, or name what differs."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import date
from enum import StrEnum
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from forecasting import config
from forecasting.errors import ChecksumMismatchError, ConfigurationError

if TYPE_CHECKING:
    from forecasting.pipeline import Deployment, Reference
    from forecasting.pipeline.reproduction import Rebuilt, Report, Task
    from forecasting.store.warehouse import Run

__all__ = ["document", "page", "register", "show", "side_by_side"]

FIT_TIMEOUT = 4 * 3600
"""Seconds a fit may take, as in the DAG."""
_DIGITS = 12


class Style(StrEnum):
    """How the report is printed."""

    page = "page"
    json = "json"


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("reproduce")(reproduce)


def reproduce(
    customer: Annotated[str, typer.Argument(help="A customer's id: the name of its file in dags/customers.")],
    run: Annotated[str, typer.Argument(metavar="DATE|RUN", help="A run date: what readers see of it; or a run's id.")],
    folder: Annotated[
        Path | None, typer.Option("--in", help="Empty folder to work in, kept; default: one that is removed.")
    ] = None,
    with_current_configuration: Annotated[
        bool, typer.Option("--with-current-configuration", help="Use the customer's file of today, not the frozen one.")
    ] = False,
    build: Annotated[
        bool,
        typer.Option("--build", help="With other code or libraries than recorded: build the recorded commit first."),
    ] = False,
    restore: Annotated[
        bool, typer.Option("--restore", help="Put rows that were trimmed back, if they come out identical.")
    ] = False,
    style: Annotated[Style, typer.Option("--format", help="How it is printed.")] = Style.page,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every stage.")] = False,
) -> None:
    """Compute a published run again from what it recorded, and compare: identical, or a report of what differs.

    Snapshot, bundle and configuration are the recorded ones, every byte verified; nothing but the folder is changed.
    Exits with 7 when something differs.
    """
    from forecasting.cli import builds, night, tables
    from forecasting.cli.main import deployed

    night.tell_stages(verbose)
    with _empty(folder) as inside, deployed(config.settings(), newer=True) as deployment:
        found = _find(deployment, customer, run)
        if build and builds.needed(deployment, found):
            asked = [*(["--with-current-configuration"] if with_current_configuration else [])]
            asked += [*(["--restore"] if restore else []), "--format", style.value]
            raise typer.Exit(builds.run(deployment, found, inside, asked, say=_say))
        rebuilt = _reproduce(deployment, found, inside, with_current_configuration)
        told = document(rebuilt.report, builds.commands(deployment, found))
        if style is Style.json:
            sys.stdout.write(tables.document(told) + "\n")
        else:
            show(told, tables.page_console())
        if restore:
            _say(_restore(deployment, rebuilt))
    if not rebuilt.report.identical:
        raise typer.Exit(ChecksumMismatchError.exit_code)


def _say(line: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)


@contextmanager
def _empty(folder: Path | None) -> Iterator[Path]:
    """The folder to work in, which must be empty; a temporary one if none is named."""
    if folder is None:
        made = Path(tempfile.mkdtemp(prefix="reproduce-"))
        try:
            yield made.resolve()
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        first = next(folder.iterdir(), None)
    except OSError as error:
        raise ConfigurationError(f"--in {folder}: {error.strerror or error}; name an empty folder") from None
    if first is not None:
        raise ConfigurationError(f"--in {folder}: it holds {first.name!r}; name an empty folder, or one to be made")
    yield folder.resolve()


def _find(deployment: Deployment, customer: str, text: str) -> str:
    """The run that is meant."""
    from forecasting.store import explanation

    if "/" in text:
        found = explanation.find_run(deployment.engine, text)
        if found.partition("/")[0] != customer:
            raise ConfigurationError(f"{text!r} is no run of {customer!r}")
        return found
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"DATE|RUN {text!r}: expected a run date such as 2018-10-01, or a run such as {customer}/2018-10-01/1"
        ) from None
    return explanation.find_run(deployment.engine, customer, day)


def _reproduce(deployment: Deployment, run_id: str, folder: Path, with_current: bool) -> Rebuilt:
    from forecasting import pipeline
    from forecasting.pipeline import reproduction

    current = None
    if with_current:
        current = pipeline.load_customer(deployment.settings, run_id.partition("/")[0])
    return reproduction.reproduce(deployment, run_id, folder, current=current, fit=side_by_side, say=_say)


def side_by_side(settings: config.Settings, run: Run, tasks: Sequence[Task]) -> list[Reference]:
    """The fits of a retrain in fresh processes, as the night runs them; a refresh is quicker in this one."""
    from forecasting.cli.night import tell_stages
    from forecasting.pipeline import reproduction

    if run.plan != "retrain" or len(tasks) < 2:
        return reproduction.one_by_one(settings, run, tasks)
    with ProcessPoolExecutor(
        settings.shards, get_context("spawn"), initializer=tell_stages, initargs=(False,)
    ) as pool:  # a process that has run LightGBM cannot be forked
        done = [pool.submit(reproduction.refit, settings, run, task) for task in tasks]
        return [one.result(FIT_TIMEOUT) for one in done]


def _restore(deployment: Deployment, rebuilt: Rebuilt) -> str:
    from forecasting.pipeline import reproduction

    return reproduction.restore(deployment, rebuilt, who=_who())


def _who() -> str:
    import os
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user{os.getuid()}"


# --- the page -------------------------------------------------------------------------------------------------------


def document(report: Report, commands: Sequence[str]) -> dict[str, Any]:
    """The report as plain values, with the commands that would settle it, where other code or libraries computed."""
    told = report.as_dict()
    elsewhere = {"code", "lock", "libraries", "library files"} & {one.what for one in report.causes}
    told["commands"] = list(commands) if elsewhere and not report.identical else []
    return told


def page(told: dict[str, Any]) -> Group:
    """The report as one page."""
    from forecasting.cli import tables

    parts: list[RenderableType] = [tables.heading(f"{told['run_id']}: {_verdict(told)}"), tables.facts(_facts(told))]
    parts += [tables.heading("Compared with the record"), _compared(told)]
    if told["differences"]:
        parts += [tables.heading("Rows"), *_rows(told["differences"])]
    if told["today"]:
        used = "was used here" if told["with_current"] else "not used: the frozen one is"
        parts += [tables.heading(f"The customer's file of today differs ({used})")]
        parts += [Text(f"- {line}") for line in told["today"]]
    parts += [Text(f"Note: {line}") for line in told["notes"]]
    return Group(*parts)


def show(told: dict[str, Any], console: Console) -> None:
    """Print the page, and the commands below it unfolded, so that they can be copied."""
    from forecasting.cli import tables

    console.print(page(told))
    if told["commands"]:
        console.print(tables.heading("Compute it with the recorded code and libraries"))
        for command in told["commands"]:
            console.print(Text(f"  {command}"), soft_wrap=True)


def _verdict(told: dict[str, Any]) -> str:
    if told["identical"]:
        return f"identical, with other {', '.join(told['causes'])}" if told["causes"] else "identical"
    if told["failure"]:
        return f"not reproduced: {told['failure']}"
    return f"differs; {_because(told)}"


def _because(told: dict[str, Any]) -> str:
    if told["with_current"] and told["today"]:
        return f"today's configuration was asked for, in which {len(told['today'])} keys differ"
    if told["causes"]:
        return f"what is not as recorded: {', '.join(told['causes'])}"
    return "code, libraries, processor, configuration, snapshot and bundle are as recorded"


def _facts(told: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("plan", f"{told['plan']}, cutoff {told['cutoff']}, version {told['version']}, {told['status']}"),
        ("recorded", told["checksum"]),
        ("recomputed", told["recomputed"] or "nothing"),
        ("rows", f"{told['rows']:,}"),
        ("time", f"{told['seconds']:.1f} s"),
    ]


def _compared(told: dict[str, Any]) -> RenderableType:
    from forecasting.cli import tables

    rows = []
    for one in (*told["surroundings"], *told["records"]):
        if one["same"]:
            rows.append((one["what"], "same", _short(one["recorded"])))
            continue
        rows.append((one["what"], "DIFFERS", f"{_short(one['recorded'])} was recorded, here {_short(one['present'])}"))
        rows += [("", "", f"- {line}") for line in one["detail"]]
    return tables.facts(rows)


def _short(text: str) -> str:
    return text[:_DIGITS] if len(text) == 64 else text


def _rows(found: dict[str, Any]) -> list[RenderableType]:
    from forecasting.cli import tables

    parts: list[RenderableType] = [
        Text(
            f"{found['rows']:,} rows differ: {found['only_recorded']:,} recorded alone, {found['only_recomputed']:,} "
            f"recomputed alone, {found['texts']:,} in model or rung; the largest difference is {found['largest']:g}"
        )
    ]
    names = ("node", "unique_id", "ds", "column", "recorded", "recomputed")
    if found["first"]:
        parts.append(tables.listing(names, [[str(row[name]) for name in names] for row in found["first"]]))
    return parts
