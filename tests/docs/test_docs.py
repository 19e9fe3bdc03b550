"""The documentation is true: what README.md and docs/ show runs, and what they list is all there is."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml

from forecasting import config
from forecasting.cli import backfills
from forecasting.store import dictionary, embedded, warehouse
from tests import small

from . import generated

ROOT = generated.ROOT
README = (ROOT / "README.md").read_text(encoding="utf-8")
SKUS = ["B1_1", "B1_2", "B2_1", "B3_1", "B4_1"]
NIGHTS = ("2018-10-01", "2018-10-02")
SMALLER = {
    "history_days": 365,
    "pool": ["seasonal_naive", "weekday_mean"],
    "backtest": {"windows": 4, "select": 2},
    "promotion": {"min_origins": 2},
}
"""What makes the demo's customer small enough to run in seconds; the rest of its file is as documented."""
ELSEWHERE = ("backfill", "up", "demo")
"""Commands that start Airflow or need one: here their arguments are parsed, tests/dags and ``make demo`` run them."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def shown() -> list[str]:
    """Every command after a ``$``, in order."""
    return [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]


def words(command: str) -> list[str]:
    return shlex.split(command, comments=True)


# --- a deployment like the one that the README speaks of ------------------------------------------------------------


def shrink(checkout: Path) -> None:
    """Cut the demo's customer to a few series, cheap models and a short history."""
    small.cut(checkout / small.PASTA, SKUS)
    small.loosen(checkout, 7 * len(SKUS))
    customer = checkout / "dags/customers/pasta.yaml"
    customer.write_text(customer.read_text() + yaml.safe_dump(SMALLER))


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a deployment whose customer's first nights the command line has run; its server stays up."""
    folder = tmp_path_factory.mktemp("docs")
    checkout, home = folder / "checkout", folder / "home"
    for name in ("dags", "data_contracts", "examples"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    shrink(checkout)
    for path, text in written_files():
        (checkout / path).write_text(text, encoding="utf-8")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FORECASTING_", "MLFLOW_"))}
    environ = {**clean, "FORECASTING_HOME": str(home), "FORECASTING_ROOT": str(checkout), "PYTHONPATH": str(ROOT)}
    with embedded.server(home) as running:
        for night in NIGHTS:
            done = script(f"forecasting run pasta --date {night}", environ, checkout)
            assert done.returncode == 0, done.stderr
            assert "published" in done.stdout
        yield {**environ, "WAREHOUSE": running.url("warehouse")}


def script(text: str, environ: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run shell lines with ``forecasting`` as the README defines it."""
    prelude = f'set -euo pipefail\nforecasting() {{ {shlex.quote(sys.executable)} -m forecasting "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", prelude + text],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def written_files() -> list[tuple[str, str]]:
    """The YAML examples, each under the path that its first line names."""
    found = [(re.match(r"# (\S+\.yaml)", block), block) for block in blocks("yaml")]
    assert all(match for match, _ in found), "a yaml example must begin with the path of its file"
    return [(match[1], block) for match, block in found if match]


# --- what is shown runs ---------------------------------------------------------------------------------------------


def runs_here(line: str) -> bool:
    return "forecasting" in line and words(line)[0] not in ("make", "airflow", "alias") and not runs_elsewhere(line)


def runs_elsewhere(line: str) -> bool:
    return words(line)[0] == "forecasting" and words(line)[1] in ELSEWHERE


def runnable() -> list[str]:
    """The console blocks as scripts, without what needs make or a running Airflow."""
    found = [[line[2:] for line in block.splitlines() if line.startswith("$ ")] for block in blocks("console")]
    return ["\n".join(filter(runs_here, lines)) for lines in found if any(map(runs_here, lines))]


@pytest.mark.docs
@pytest.mark.parametrize("lines", runnable(), ids=lambda lines: lines.splitlines()[0])
def test_the_commands_shown_in_the_readme_succeed(lines, deployed, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")  # a user stands in the checkout
    done = script(lines, deployed, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "the commands said nothing"


@pytest.mark.parametrize("command", [line for line in shown() if words(line)[:1] == ["forecasting"]])
def test_the_commands_shown_in_the_readme_have_arguments_that_exist(command):
    line = words(command)[1:]
    found = max(
        (path for path, _ in generated.walk(generated.root_command()) if list(path) == line[: len(path)]), key=len
    )
    dict(generated.walk(generated.root_command()))[found].make_context(" ".join(found), line[len(found) :])


def test_commands_named_in_the_text_exist():
    text = "\n".join(path.read_text(encoding="utf-8") for path in [*generated.DOCUMENTS, ROOT / "CHANGELOG.md"])
    known = {path[0] for path, _ in generated.walk(generated.root_command())}
    assert set(re.findall(r"`forecasting ([a-z-]+)", text)) - known == set()


@pytest.mark.docs
@pytest.mark.parametrize("query", blocks("sql"), ids=lambda query: query.splitlines()[0].removeprefix("-- "))
def test_the_queries_shown_in_the_readme_return_rows(query, deployed):
    engine = warehouse.connect(deployed["WAREHOUSE"])
    try:
        assert len(warehouse.query(engine, query))
    finally:
        engine.dispose()


def test_the_readme_asks_every_view_and_the_customers_own_schema():
    asked = " ".join(blocks("sql"))
    views = ("forecast_current", "forecast_history", "forecast_accuracy", "fleet_health", "model_history")
    assert [view for view in views if not re.search(rf"\bforecasting\.{view}\b|\bpasta\.{view}\b", asked)] == []
    assert "from pasta." in asked


def test_the_raw_airflow_backfill_is_what_forecasting_backfill_creates():
    mine = next(words(line) for line in shown() if line.startswith("forecasting backfill"))
    raw = next(words(line) for line in shown() if line.startswith("airflow backfill create"))
    customer = config.load_customer(ROOT / f"dags/customers/{mine[2]}.yaml")
    assert isinstance(customer, config.Customer)
    given = [datetime.fromisoformat(raw[raw.index(name) + 1]) for name in ("--from-date", "--to-date")]
    assert given == list(backfills.instants(customer, date.fromisoformat(mine[3]), date.fromisoformat(mine[4])))
    assert all(moment.utcoffset() for moment in given), "show the customer's own offset"
    assert raw[raw.index("--dag-id") + 1] == f"forecast__{customer.id}"


@pytest.mark.docs
def test_the_customer_shown_in_the_readme_is_valid(deployed):
    path, _ = next(found for found in written_files() if found[0].startswith("dags/customers/"))
    loaded = config.load_customer(Path(deployed["FORECASTING_ROOT"]) / path)
    assert isinstance(loaded, config.Customer), loaded.message


# --- what is listed is all there is ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", generated.DOCUMENTS, ids=lambda path: path.name)
def test_generated_parts_are_current(path):
    text = path.read_text(encoding="utf-8")
    assert generated.render(text) == text, "write them anew: .venv/bin/python -m tests.docs.generated"


def test_the_data_dictionary_is_that_of_the_migrated_warehouse(engine: sa.Engine):
    text = (ROOT / "docs/warehouse.md").read_text(encoding="utf-8")
    assert text == dictionary.data_dictionary(engine), "write it anew: .venv/bin/python -m tests.docs.generated"


@pytest.mark.parametrize("path", [path for path, _ in generated.walk(generated.root_command())], ids=" ".join)
def test_every_command_and_option_has_help_and_is_documented(path):
    command = dict(generated.walk(generated.root_command()))[path]
    assert command.help
    assert [parameter.name for parameter in command.params if not parameter.help] == []
    written = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    section = written.partition(f"### `forecasting {' '.join(path)}`\n")[2].partition("\n### ")[0]
    assert [
        o for p in command.params for o in p.opts if o.startswith("--") and o not in ("--help",) and o not in section
    ] == []
    assert re.search(rf"forecasting {' '.join(path)}\b|make {' '.join(path)}\b", README), (
        "the README does not mention it"
    )


def test_every_setting_is_in_the_readme():
    sources = [path for folder in ("forecasting", "dags", "plugins") for path in (ROOT / folder).rglob("*.py")]
    used = {name for path in sources for name in re.findall(r"\bFORECASTING_[A-Z_]*[A-Z]\b", path.read_text("utf-8"))}
    used |= {"MLFLOW_TRACKING_URI", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"}
    section = README.partition("## Settings\n")[2].partition("\n## ")[0]
    assert sorted(name for name in used if f"`{name}" not in section) == []


def test_every_status_of_a_run_is_explained():
    section = README.partition("### Read a failure\n")[2].partition("\n## ")[0]
    assert [status for status in warehouse.tables.RUN_STATUSES if f"`{status}`" not in section] == []


@pytest.mark.parametrize("path", [*generated.DOCUMENTS, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_links_resolve(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:|mailto:", target)]
    broken = []
    for target in targets:
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def anchors(file: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_make_targets_named_in_the_documentation_exist():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = "\n".join(path.read_text(encoding="utf-8") for path in [*generated.DOCUMENTS, ROOT / "CHANGELOG.md"])
    named = set(re.findall(r"(?:`|^\$ )make ([a-z0-9-]+)", text, re.MULTILINE))
    assert {"demo", "test", "up"} <= named
    assert named <= targets


def test_files_named_in_the_documentation_exist():
    text = "\n".join(path.read_text(encoding="utf-8") for path in generated.DOCUMENTS)
    named = set(
        re.findall(r"`((?:dags|data_contracts|docs|examples|forecasting|tests|tools|benchmarks)/[\w./-]+)`", text)
    )
    examples = {path for path, _ in written_files()}
    assert sorted(name for name in named - examples if not (ROOT / name).exists()) == []
