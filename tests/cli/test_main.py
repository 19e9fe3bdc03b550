"""Every command on a small customer: what it prints, the exit code it ends with, and what it leaves behind."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa

from forecasting.cli import main as cli
from forecasting.cli import plots, tables
from forecasting.store import embedded, warehouse
from tests import small
from tests.small import SKUS, lines_of, write_lines

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "forecasting"]


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass
class Place:
    """A checkout with the small customer, its home, and what its one night wrote to the terminal."""

    root: Path
    night: Ended

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def environ(self) -> dict[str, str]:
        names = ("FORECASTING_", "MLFLOW_TRACKING", "AIRFLOW__DATABASE")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(names)}
        return {
            **inherited,
            "FORECASTING_HOME": str(self.home),
            "FORECASTING_ROOT": str(self.root),
            "PYTHONWARNINGS": "ignore",
        }


def lay_out(root: Path) -> None:
    """A checkout of one customer with few series and two models: what a night needs and no more."""
    small.copy(root)
    small.cut(root / "examples/mini.csv")
    small.loosen(root, 7 * len(SKUS))
    for path in (root / "dags/customers").glob("*.yaml"):
        path.unlink()
    cheap = small.declaration(pool="seasonal_naive, lightgbm")
    (root / "dags/customers/mini.yaml").write_text(cheap, encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One night run from the command line under an open umask; its server runs for as long as the tests do."""
    made = Place(tmp_path_factory.mktemp("place"), Ended(-1, "", ""))
    lay_out(made.root)
    night = ["run", "mini", "--date", "2018-10-01", "--verbose"]
    done = subprocess.run(
        [*COMMAND, *night], env=made.environ, cwd=ROOT, capture_output=True, text=True, timeout=300, umask=0o022
    )
    made.night = Ended(done.returncode, done.stdout, done.stderr)
    with embedded.server(made.home):
        yield made


@pytest.fixture
def ends(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run a command line in this process, as ``python -m forecasting`` does; keywords are environment variables."""

    def run(line: str, **environ: str) -> Ended:
        before, mask = dict(os.environ), os.umask(0o022)
        os.environ.clear()
        os.environ.update(place.environ | environ)
        monkeypatch.setattr(sys, "argv", ["forecasting", *shlex.split(line)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            os.umask(mask)
            os.environ.clear()
            os.environ.update(before)
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return run


@pytest.fixture
def bent(tmp_path: Path) -> Callable[[str, str], dict[str, str]]:
    """A checkout of its own whose customer file has one text replaced; gives the variables that name it."""

    def made(old: str, new: str) -> dict[str, str]:
        root = tmp_path / "bent"
        lay_out(root)
        path = root / "dags/customers/mini.yaml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        return {"FORECASTING_ROOT": str(root)}

    return made


def sentence(ended: Ended) -> str:
    """What a command told of its failure, which is no traceback."""
    assert "Traceback" not in ended.err + ended.out
    assert ended.out == ""
    return ended.err


# --- a night --------------------------------------------------------------------------------------------------------


def test_a_night_says_how_it_ended(place: Place) -> None:
    assert place.night.code == 0, place.night.err
    assert re.match(r"mini/2018-10-01/1: published \d+ rows of 1\.0\.0", place.night.out)


def test_a_verbose_night_shows_the_lines_of_the_fits_which_run_in_processes_of_their_own(place: Place) -> None:
    for stage in ("pull", "freeze", "fit_statistical", "fit_ml", "publish", "monitor"):
        assert re.search(rf"^\d\d:\d\d:\d\d {stage}: .*mini", place.night.err, re.MULTILINE), stage


def test_what_a_night_leaves_is_its_owners_alone(place: Place) -> None:
    left = [path for path in [place.home, *place.home.rglob("*")] if not path.is_symlink()]
    assert len(left) > 1000  # PostgreSQL, snapshots, artefacts, frames between stages
    assert [path for path in left if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        ("uri: examples/mini.csv", "uri: examples/absent.csv", 4, "absent.csv"),
        ("uri: examples/mini.csv", "uri: examples/mini.csv\n  date_format: '%d.%m.%Y'", 3, "%d.%m.%Y"),
        ("y: quantity", "y: quantities", 2, "quantities"),
        ("absent: closed", "absent: shut", 2, "mini.yaml, line"),
    ],
)
def test_a_night_that_cannot_run_ends_with_a_code_and_a_sentence(ends, bent, old, new, code, said) -> None:
    ended = ends("run mini --date 2018-10-02", **bent(old, new))
    assert said in sentence(ended)
    assert ended.code == code


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run mini --date tomorrow", "--date 'tomorrow': expected a date such as"),
        ("run mina --date 2018-10-02", "Did you mean 'mini'"),
        ("backfill mina 2018-10-01 2018-10-02", "Did you mean 'mini'"),
        ("backfill mini first 2018-10-02", "FROM 'first': expected a date"),
        ("run mini --date 2018-10-02 --nonsense", "--nonsense"),
        ("nonsense", "nonsense"),
    ],
)
def test_wrong_arguments_end_with_2_and_say_which(ends, line, said) -> None:
    ended = ends(line)
    assert said in sentence(ended)
    assert ended.code == 2


def test_a_backfill_without_an_airflow_says_how_to_start_one(ends) -> None:
    ended = ends("backfill mini 2018-10-01 2018-10-02")
    assert "make up" in sentence(ended)
    assert ended.code == 9


# --- help -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    ["", "check", "customers", "run", "backfill", "sql", "migrate", "provision", "snapshot", "snapshot list",
     "snapshot get", "plot", "up", "demo"],
)  # fmt: skip
def test_every_command_has_help(ends, line) -> None:
    ended = ends(f"{line} --help")
    assert ended.code == 0
    assert re.search(rf"Usage: .* {line}|Usage: .*\n.*nightly", ended.out, re.IGNORECASE)


# --- customers and contracts ----------------------------------------------------------------------------------------


def test_check_names_what_is_fine(ends) -> None:
    ended = ends("check mini")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("mini: fine; contract pasta_sales")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("absent: closed", "absent: shut", "absent: 'shut'"),
        ("contract: pasta_sales", "contract: nowhere", "nowhere"),
        ("keys: [brand, item]", "keys: [brand, thing]", "thing"),
    ],
)
def test_check_ends_with_2_and_says_what_does_not_fit(ends, bent, old, new, said) -> None:
    ended = ends("check", **bent(old, new))
    assert said in ended.err
    assert ended.code == 2


def test_check_refuses_a_customer_that_leaves_out_a_column_of_its_contract(ends, bent) -> None:
    ended = ends("check", **bent("exogenous:\n  promotion: {known: future}\n", ""))
    assert "promotion" in ended.err
    assert ended.code == 2


def test_check_of_an_unknown_customer_names_the_known(ends) -> None:
    ended = ends("check mina")
    assert "Did you mean 'mini'" in sentence(ended)
    assert ended.code == 2


def test_customers_are_listed_with_their_newest_publication(ends) -> None:
    ended = ends("customers")
    assert ended.code == 0
    assert ended.out == "mini: Europe/Rome, D, h 7; published 2018-10-01, champion 1.0.0\n"


# --- the warehouse --------------------------------------------------------------------------------------------------

ODD = """
select 118 as n, 2.5::float8 as n, date '2018-10-01' as ds, timestamptz '2018-10-01 02:00+02' as at, true as yes
union all select null, null, null, null, null order by 1
"""


def test_csv_keeps_whole_numbers_whole_beside_nulls_and_repeated_names(ends) -> None:
    ended = ends(f'sql --format csv "{ODD}"')
    rows = list(csv.reader(io.StringIO(ended.out)))
    assert rows[0] == ["n", "n", "ds", "at", "yes"]
    assert rows[1][:3] == ["118", "2.5", "2018-10-01"]
    assert rows[2] == [""] * 5


def test_json_is_iso_with_nulls_and_each_name_once(ends) -> None:
    ended = ends(f'sql --format json "{ODD}"')
    first, second = json.loads(ended.out)
    assert first | {"at": ""} == {"n": 118, "n_2": 2.5, "ds": "2018-10-01", "at": "", "yes": True}
    assert pd.Timestamp(first["at"]) == pd.Timestamp("2018-10-01T00:00Z")
    assert set(second.values()) == {None}


def test_a_table_shows_repeated_names_and_leaves_nulls_empty(ends) -> None:
    ended = ends(f'sql "{ODD}"')
    assert ended.code == 0
    assert ended.out.count(" n ") == 2
    assert " 118 " in ended.out
    assert not re.search(r"nan|NA|None|NaT|118\.0", ended.out)


def test_counts_stay_numbers_one_can_calculate_with(engine: sa.Engine) -> None:
    frame = warehouse.query(engine, "select * from (values (1, 1.5::float8), (null, null), (3, 2)) t(n, x) ")
    assert [str(dtype) for dtype in frame.dtypes] == ["Int64", "float64"]
    assert frame["n"].sum() == 4
    assert list(warehouse.query(engine, "select 1 as n where false").columns) == ["n"]


def test_json_of_odd_values_is_json() -> None:
    frame = pd.DataFrame({"x": [float("inf"), float("nan")], "doc": [{"a": [1]}, None]})
    assert json.loads(tables.as_json(frame)) == [{"x": "inf", "doc": {"a": [1]}}, {"x": None, "doc": None}]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sql 'select nothing from nowhere'", "nowhere"),
        ("sql 'create table forecasting.t (n int)'", "read-only"),
        ("sql --timeout 1 'select pg_sleep(20)'", "timeout"),
    ],
)
def test_a_refused_statement_is_a_sentence(ends, line, said) -> None:
    ended = ends(line)
    assert said in sentence(ended)
    assert ended.code == 1


def test_migrate_and_provision_have_nothing_left_to_do(ends) -> None:
    assert ends("migrate").out == "the warehouse has this version's schema\n"
    assert ends("provision --apply").code == 0
    assert ends("provision").out == "nothing to do\n"


def test_provision_shows_a_plan_and_does_it_only_when_told(ends, bent) -> None:
    other = bent("id: mini", "id: other")
    folder = Path(other["FORECASTING_ROOT"]) / "dags/customers"
    (folder / "mini.yaml").rename(folder / "other.yaml")
    assert "planned; add --apply" in ends("provision", **other).out
    assert "never published" in ends("customers", **other).out
    assert "steps done" in ends("provision --apply", **other).out
    assert ends("provision", **other).out == "nothing to do\n"


# --- charts ---------------------------------------------------------------------------------------------------------


def test_plot_writes_one_page_into_the_home_and_says_what_comes_first(ends, place: Place) -> None:
    ended = ends("plot mini --series 1")
    path = place.home / "plots/mini-2018-10-01.html"
    assert ended.code == 0
    assert re.fullmatch(
        rf"{path}: \d charts of the forecasts of 2018-10-01; first \S+ \(worst, 1 of 7 judged.*\)\n", ended.out
    )
    assert "The folds are the backtest of 1.0.0" in ended.err
    assert path.stat().st_mode & 0o077 == 0
    assert plots.plotly() in path.read_text(encoding="utf-8")


def test_plot_draws_what_is_named_where_it_is_told_to(ends, tmp_path: Path) -> None:
    path = tmp_path / "charts/two.html"
    ended = ends(f"plot mini B1/2 total --out {path}")
    assert ended.out == f"{path}: 2 charts of the forecasts of 2018-10-01; first B1/2 (asked for)\n"
    assert re.findall(r'<h2 id="t\d">(.*?)</h2>', path.read_text(encoding="utf-8")) == ["B1/2", "total"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("plot mina", "no customer 'mina'. Did you mean 'mini'?"),
        ("plot mini B1/22", "mini has no series 'B1/22'. Did you mean 'B1/2'?"),
        ("plot mini --out /proc/nowhere/page.html", "--out /proc/nowhere/page.html: "),
        ("plot mini --series -1", "--series"),
    ],
)
def test_plot_ends_with_2_and_says_what_does_not_fit(ends, line, said) -> None:
    ended = ends(line)
    assert said in sentence(ended)
    assert ended.code == 2


# --- one run, told --------------------------------------------------------------------------------------------------

RUN = "mini/2018-10-01/1"


@pytest.mark.parametrize("line", [RUN, "mini 2018-10-01"])
def test_a_run_is_told_on_one_page_however_it_is_named(ends, line) -> None:
    ended = ends(f"explain-run {line}", COLUMNS="200")
    assert ended.code == 0
    assert ended.out.startswith(f"\n{RUN}: published\n")
    for part in ("Lines", "Panel", "Series", "Decision", "Stages", "How to go on"):
        assert f"\n{part}\n" in ended.out
    assert max(map(len, ended.out.splitlines())) <= 120
    assert re.search(r"read +[0-9,]+ *\n= used +[0-9,]+ ", ended.out)


def test_a_run_as_json_adds_up_and_has_stable_keys(ends) -> None:
    told = json.loads(ends(f"explain-run --format json {RUN}").out)
    assert list(told) == ["run", "publication", "lines", "panel", "series", "decision", "signals", "stages", "next"]
    lines, series = told["lines"], told["series"]
    assert lines["read"] == sum(lines[n] for n in ("used", "excluded", "quarantined", "future", "unused")) > 0
    assert lines["excluded"] == sum(lines["excluded_by"].values())
    assert series["in"] == sum(series[name] for name in ("ok", "fallback", "cold_start", "retired")) == len(SKUS)
    assert sum(row["n"] for row in series["by_rung"]) == series["in"]
    assert [stage["stage"] for stage in told["stages"]][:2] == ["pull", "freeze"]
    assert any(command.startswith("forecasting ") for command in told["next"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("mimi", "Did you mean 'mini'?"),
        ("mini 2019-01-01", "Newest run dates of mini:"),
        ("mini/2018-10-01/9", "Newest run dates of mini:"),
        (f"{RUN} 2018-10-01", "is no run; expected"),
        ('"mini\' or true --"', "is no run; expected"),
        ("mini soon", "DATE 'soon': expected a date"),
    ],
)
def test_a_run_that_is_not_there_is_a_sentence_with_those_that_are(ends, line, said) -> None:
    ended = ends(f"explain-run {line}")
    assert said in sentence(ended)
    assert ended.code == 2


# --- contracts and deliveries ---------------------------------------------------------------------------------------


@pytest.fixture
def broken_delivery(place: Place, tmp_path: Path) -> Path:
    lines = lines_of(place.root / "examples/mini.csv")
    for line in lines[200:220]:
        line[1] = "99999"
    write_lines(tmp_path / "tried.csv", lines)
    return tmp_path / "tried.csv"


def test_a_delivery_is_tried_and_a_broken_one_ends_with_3(ends, place: Place, broken_delivery: Path) -> None:
    fine = ends(f"contract test mini {place.root / 'examples/mini.csv'} --date 2018-10-01", COLUMNS="80")
    assert (fine.code, fine.err) == (0, "")
    assert "mini.csv for mini: fine" in fine.out
    broken = ends(f"contract test mini {broken_delivery} --date 2018-10-01", COLUMNS="80")
    assert broken.code == 3
    assert "tried.csv for mini: broken: a night would stop here" in broken.out
    assert "- line 201, column 2 (B1/1, " in broken.out
    assert re.search(r"quantity_in_range +error +broken +20 ", broken.out)
    assert max(map(len, (fine.out + broken.out).splitlines())) <= 80


def test_a_trial_as_json_adds_up(ends, broken_delivery: Path) -> None:
    ended = ends(f"contract test mini {broken_delivery} --format json")
    told = json.loads(ended.out)
    lines = told["lines"]
    assert ended.code == 3
    assert told["broken"] is True
    assert lines["read"] == sum(lines[n] for n in ("used", "excluded", "quarantined", "future", "unused"))
    assert (lines["quarantined"], len(lines["examples"])) == (20, 3)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("contract test mini gone.csv", 2, "FILE gone.csv: there is no such file"),
        ("contract test mini pyproject.toml", 3, "pyproject.toml, line 1: there is no column 'DATE'"),
        ("contract test mimi gone.csv", 2, "Did you mean 'mini'?"),
        ("contract test mini README.md --date 9999-12-31", 2, "expected a date from 1900 to 2199"),
        ("contract show mimi", 2, "Did you mean 'mini'?"),
    ],
)
def test_what_cannot_be_tried_or_shown_is_a_sentence(ends, line, code, said) -> None:
    ended = ends(line)
    assert said in sentence(ended)
    assert ended.code == code


def test_a_contract_is_told_in_words(ends) -> None:
    ended = ends("contract show mini", COLUMNS="100")
    assert (ended.code, ended.err) == (0, "")
    assert "pasta_sales 1.0.0: active" in ended.out
    assert "between: 0 to 10000" in " ".join(ended.out.split())
    assert max(map(len, ended.out.splitlines())) <= 100


# --- snapshots ------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_listed_and_fetched(ends, tmp_path: Path) -> None:
    listed = ends("snapshot list mini")
    assert (listed.code, len(listed.out.splitlines())) == (0, 1)
    ref, rows = listed.out.split()[-1], int(re.search(r"(\d+) rows", listed.out)[1])
    got = ends(f"snapshot get {ref} --to {tmp_path / 'panel.parquet'}")
    assert got.code == 0
    assert len(pd.read_parquet(tmp_path / "panel.parquet")) == rows


@pytest.mark.parametrize("name", ["nosuch", "../../../etc", "mini/../mini", ""])
def test_only_a_customers_snapshots_are_listed(ends, place: Place, name) -> None:
    before = sorted(place.root.rglob("*"))
    ended = ends(f"snapshot list '{name}'")
    assert f"no customer {name!r} in " in sentence(ended)
    assert ended.code == 2
    assert sorted(place.root.rglob("*")) == before


def test_what_is_no_snapshot_or_no_place_to_write_is_refused(ends, tmp_path: Path) -> None:
    ended = ends(f"snapshot get nonsense --to {tmp_path / 'x'}")
    assert "'nonsense' is no snapshot" in sentence(ended)
    assert ended.code == 2
    ref = ends("snapshot list mini").out.split()[-1]
    ended = ends(f"snapshot get {ref} --to {tmp_path / 'absent/x'}")
    assert "absent/x" in sentence(ended)
    assert ended.code == 2


# --- what a command meets -------------------------------------------------------------------------------------------


def test_a_database_that_does_not_answer_is_a_sentence_without_its_password(ends) -> None:
    ended = ends("sql 'select 1'", FORECASTING_WAREHOUSE_URL="postgresql+psycopg://me:hush-hush@127.0.0.1:1/warehouse")
    assert "the database did not answer" in sentence(ended)
    assert "hush-hush" not in ended.err
    assert ended.code == 4


@pytest.mark.parametrize("url", ["me:hush-hush@host", "nosuch://me:hush-hush@host/x"])
def test_what_is_no_database_url_is_named_but_not_shown(ends, url) -> None:
    ended = ends("sql 'select 1'", FORECASTING_WAREHOUSE_URL=url)
    assert "FORECASTING_WAREHOUSE_URL" in sentence(ended)
    assert "hush-hush" not in ended.err
    assert ended.code == 2


@pytest.mark.parametrize("line", ["customers", "snapshot list mini", "up", "demo"])
def test_a_home_that_is_a_file_is_refused(ends, tmp_path: Path, line) -> None:
    (tmp_path / "taken").write_text("")
    for home in ("taken", "taken/below"):
        ended = ends(line, FORECASTING_HOME=str(tmp_path / home))
        assert f"FORECASTING_HOME={tmp_path / home}" in sentence(ended)
        assert ended.code == 2


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PermissionError(13, "Permission denied", "/somewhere"), 9, "Permission denied: /somewhere"),
        (OSError("no room"), 9, "no room"),
        (
            RuntimeError("at postgresql://me:hush@host/x"),
            1,
            "unexpected: RuntimeError: at postgresql://***@host/x; run",
        ),
    ],
)
def test_no_error_is_a_traceback_unless_asked_for(ends, monkeypatch, error, code, said) -> None:
    def broken() -> None:
        raise error

    monkeypatch.setattr(cli, "app", broken)
    ended = ends("")
    assert said in sentence(ended)
    assert ended.code == code
    assert "Traceback" in ends("", FORECASTING_TRACEBACK="1").err


def test_ctrl_c_ends_with_130_and_no_traceback(place: Place) -> None:
    command, pipe = [*COMMAND, "sql", "select 'asleep', pg_sleep(40)"], subprocess.PIPE
    with subprocess.Popen(command, env=place.environ, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as running:
        with embedded.server(place.home) as server:
            wait_until_asleep(server.url("warehouse"))
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=20)
    assert running.returncode == 130
    assert "Traceback" not in told


def wait_until_asleep(url: str) -> None:
    engine, deadline = warehouse.connect(url), time.monotonic() + 40
    asleep = "select count(*) from pg_stat_activity where query like 'select ''asleep%' and state = 'active'"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.exec_driver_sql(asleep.replace("%", "%%")).scalar():
            assert time.monotonic() < deadline, "the statement never began"
            time.sleep(0.1)
    engine.dispose()
