"""A delivery that is tried is judged as the night would judge it, and leaves nothing behind."""

from __future__ import annotations

import csv
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from forecasting import config, pipeline
from forecasting.errors import ConfigurationError, ContractBrokenError, SourceError
from forecasting.pipeline import trial
from forecasting.store import warehouse
from tests.pipeline.conftest import Nights
from tests.small import PASTA, lines_of, write_lines

TODAY = date(2026, 1, 1)


def settings_of(checkout: Path) -> config.Settings:
    return config.settings({"FORECASTING_ROOT": str(checkout), "FORECASTING_HOME": str(checkout / "home")})


def known(checkout: Path, name: str) -> config.Customer:
    return pipeline.load_customer(settings_of(checkout), name)


@pytest.fixture
def delivery(checkout: Path) -> Path:
    """Two months of pasta under a name of its own, outside of the checkout's folder of examples."""
    lines = lines_of(checkout / PASTA)
    path = checkout / "incoming.csv"
    write_lines(path, [line for n, line in enumerate(lines) if n == 0 or line[0] >= "2018-11-01"])
    return path


@pytest.mark.parametrize("value", ["5", "99999"], ids=["fine", "broken"])
def test_a_trial_says_what_the_night_says(nights: Callable[..., Nights], tmp_path: Path, value: str) -> None:
    here = nights()
    here.yaml.write_text(here.yaml.read_text() + "\nexclude: [{rule: none_sold, column: quantity, at_most: 0}]\n")
    lines = lines_of(here.csv)
    for line in lines[100:105]:
        line[1] = value
    write_lines(here.csv, lines)
    copy = tmp_path / "tried.csv"
    copy.write_bytes(here.csv.read_bytes())
    settings = here.deployment.settings
    found = trial.try_delivery(settings, known(here.checkout, "mini"), copy, today=TODAY, run_date=date(2018, 10, 1))
    pulled, message = here.pulled("2018-10-01"), ""
    try:
        pipeline.freeze(here.deployment, pulled)
    except ContractBrokenError as error:
        message = str(error)
    run = warehouse.read_run(here.deployment.engine, "mini", "mini/2018-10-01/1")
    counted = warehouse.read_lines(here.deployment.engine, "mini", run.run_id)
    states = here.sql("select rule, state, rows_failed from forecasting.contract_result order by position")
    mine = {result.rule: (result.state, result.rows_failed) for result in found.verdict.results}
    theirs = {rule: (state, failed) for rule, state, failed in states.itertuples(index=False)}
    assert mine.items() <= theirs.items()
    assert found.verdict.broken == bool(message) == (value == "99999")
    assert found.excluded == counted["excluded"]
    if found.mapped:
        assert (found.mapped.lines.read, found.mapped.lines.used) == (run.lines_read, run.lines_used)
        assert found.mapped.lines.future == run.lines_future > 0


def test_a_trial_leaves_nothing_behind(checkout: Path, delivery: Path) -> None:
    before = sorted(checkout.rglob("*"))
    found = trial.try_delivery(settings_of(checkout), known(checkout, "pasta"), delivery, today=TODAY)
    assert sorted(checkout.rglob("*")) == before
    assert (found.run_date, found.cutoff) == (date(2018, 12, 31), date(2018, 12, 31)), "the newest day with sales"
    assert not found.verdict.broken


def test_sales_after_today_are_no_history(checkout: Path, delivery: Path) -> None:
    pasta = known(checkout, "pasta")
    found = trial.try_delivery(settings_of(checkout), pasta, delivery, today=date(2018, 12, 20))
    assert found.cutoff == date(2018, 12, 20)
    assert found.mapped
    later = [line for line in lines_of(delivery)[1:] if line[0] > "2018-12-20"]
    assert found.mapped.lines.future == 118 * len(later) > 0


def test_an_export_of_a_database_is_tried_under_its_own_or_the_feeds_names(checkout: Path) -> None:
    gifts, rows = known(checkout, "gifts"), []
    for day in range(1, 31):
        rows += [(f"2011-11-{day:02d} 08:26:00", f"5{day:05d}", f"2{sku:04d}", "6", "2.55") for sku in range(40)]
    rows += [("2011-11-30 08:26:00", "C500001", "20001", "-6", "2.55"), rows[0]]
    told = {}
    for name, header in {
        "old": ["InvoiceDate", "Invoice", "StockCode", "Quantity", "Price"],
        "new": ["InvoiceDate", "InvoiceNo", "StockCode", "Quantity", "UnitPrice"],
        "ours": ["day", "invoice", "sku", "quantity", "price"],
    }.items():
        path = checkout / f"{name}.csv"
        with path.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])
        found = trial.try_delivery(settings_of(checkout), gifts, path, today=TODAY)
        assert found.cutoff == date(2011, 11, 30)
        told[name] = (found.feed.lines_read, found.excluded)
    assert told["old"] == told["new"] == told["ours"]
    assert told["ours"][0] == len(rows)
    assert told["ours"][1]["cancellation"] == 1


@pytest.mark.parametrize(
    ("customer", "name", "error", "said"),
    [
        ("pasta", "gone.csv", ConfigurationError, "there is no such file"),
        ("pasta", "examples", ConfigurationError, "is a folder"),
        ("pasta", "a*.csv", ConfigurationError, "rename it"),
        ("gifts", "lines.txt", ConfigurationError, "expected an export of its columns, .csv or .parquet"),
        ("gifts", "lines.csv", SourceError, "there is no column"),
        ("pasta", "empty.csv", SourceError, "the file is empty"),
    ],
)
def test_what_cannot_be_tried_is_a_sentence(checkout: Path, customer: str, name: str, error: type, said: str) -> None:
    for made in ("a*.csv", "lines.txt", "lines.csv"):
        (checkout / made).write_text("a,b\n1,2\n")
    (checkout / "empty.csv").write_text("")
    with pytest.raises(error, match=said):
        trial.try_delivery(settings_of(checkout), known(checkout, customer), checkout / name, today=TODAY)
