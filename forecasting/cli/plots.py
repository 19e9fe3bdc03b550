"""``forecasting plot``: a customer's series as one page of charts, the ones to look at first. It changes nothing."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from forecasting import config
from forecasting.errors import ConfigurationError

__all__ = ["plot", "plotly", "register"]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("plot")(plot)


def plot(
    customer: Annotated[str, typer.Argument(help="A customer's id: the name of its file in dags/customers.")],
    unique_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[UNIQUE_ID]...",
            help="Series or nodes to draw; default: the worst, biggest and newest, and the biggest upper nodes.",
        ),
    ] = None,
    series: Annotated[int, typer.Option(min=0, help="How many of each are drawn; 0: every series and node.")] = 3,
    to: Annotated[
        Path | None,
        typer.Option("--out", help="HTML file to write; default: plots/CUSTOMER-RUN_DATE.html in FORECASTING_HOME."),
    ] = None,
) -> None:
    """Draw history, published forecast with its quantiles, and backtest folds in one HTML file that needs no network.

    The worst series comes first; each says why it is shown, with its RMSSE, WAPE, bias, coverage and units sold.
    """
    from forecasting.cli.main import deployed
    from forecasting.pipeline import looks
    from forecasting.store import reports

    settings = config.settings()
    with deployed(settings) as deployment:
        known = reports.known_customer(deployment.engine, customer)
        found = looks.look(deployment, known, unique_ids or (), series, plotly=plotly())
    path = to or settings.home / "plots" / f"{known}-{found.run_date}.html"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found.html, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--out {path}: {error.strerror or error}") from None
    for line in found.told:
        sys.stderr.write(line + "\n")
    first = f"; first {found.picks[0].unique_id} ({'; '.join(found.picks[0].reasons)})" if found.picks else ""
    sys.stdout.write(f"{path}: {len(found.picks)} charts of the forecasts of {found.run_date}{first}\n")


def plotly() -> str:
    """plotly.js as its Python package brings it, read without importing the package."""
    spec = find_spec("plotly")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError("the package plotly is not installed; `make install` brings it")
    return (Path(spec.submodule_search_locations[0]) / "package_data/plotly.min.js").read_text(encoding="utf-8")
