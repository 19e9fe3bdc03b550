"""Whole deployments, each in a home of its own: the commands as a user types them, a live Airflow, real PostgreSQL."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
from sqlalchemy.engine import make_url

from forecasting import config
from forecasting.cli import airflows, backfills
from forecasting.errors import ServerError
from forecasting.periods import midnight
from tests.buckets import buckets
from tests.homes.deployments import LIMIT, Home, Live, declare, interrupt, lay_out, up, wait_for

pytestmark = pytest.mark.homes

ROOT = Path(__file__).resolve().parents[2]
DAYS = [date(2018, 10, 1), date(2018, 10, 2), date(2018, 10, 3)]
CANARY = "canary0secret0of0the0connection"
# --- a checkout and its homes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with one small customer, ``mini``."""
    root = tmp_path_factory.mktemp("shop")
    lay_out(root)
    declare(root, "mini")
    return root


@pytest.fixture(scope="module")
def home(checkout: Path) -> Home:
    """The home whose history Airflow makes."""
    return Home(checkout / "home", checkout)


@pytest.fixture(scope="module")
def demonstrated(home: Home) -> str:
    """What ``forecasting demo`` said in an empty home."""
    return home.command("demo")


@pytest.fixture(scope="module")
def other(checkout: Path) -> Home:
    """A second home, in which `forecasting run` makes the same history without Airflow."""
    return Home(checkout / "other", checkout)


@pytest.fixture(scope="module")
def recomputed(other: Home) -> list[str]:
    """What the commands said, a run date each, in the second, empty home."""
    return [other.command("run", "mini", "--date", f"{day}", "-v") for day in DAYS]


def fits_in(log: str, run_id: str) -> int:
    """How many fits the log says ran for one run: whole ones, not predictions with a stored booster."""
    told = rf"fit_statistical: {run_id} shard \d+ fits [1-9]|fit_ml: {run_id} trained on [1-9]"
    return len(re.findall(told, log))


def task_logs(home: Home) -> str:
    paths = sorted(path for path in (home.path / "airflow/logs").rglob("*.log") if path.is_file())
    return "\n".join(path.read_text(errors="replace") for path in paths)


# --- the demo -------------------------------------------------------------------------------------------------------


def test_the_demo_publishes_every_run_date_and_leaves_nothing_running(home: Home, demonstrated: str) -> None:
    assert home.living() == []
    done = home.published()
    assert done["run_date"].tolist() == DAYS
    assert done["status"].tolist() == ["published"] * 3
    assert done["plan"].tolist() == ["retrain", "refresh", "refresh"]
    for checksum in done["checksum"]:
        assert checksum[:12] in demonstrated
    assert "Accuracy at origins" in demonstrated
    assert "Time by phase" in demonstrated


def test_the_demo_again_is_quick_and_computes_nothing(home: Home, demonstrated: str) -> None:
    before = home.sql("select * from forecasting.run order by run_id"), task_logs(home)
    began = time.monotonic()
    said = home.command("demo")
    assert time.monotonic() - began < 120
    assert "2018-10-03  success" in said
    assert "waiting for an earlier backfill" not in said  # Airflow stopped before it closed the first one
    pd.testing.assert_frame_equal(before[0], home.sql("select * from forecasting.run order by run_id"))
    assert task_logs(home).count("fit_statistical: mini/") == before[1].count("fit_statistical: mini/") == len(DAYS)
    assert home.living() == []


# --- a second home --------------------------------------------------------------------------------------------------


def test_a_second_home_without_airflow_gives_the_same_checksums(
    home: Home, demonstrated: str, other: Home, recomputed: list[str]
) -> None:
    columns = ["run_date", "checksum", "key", "plan"]
    mine, theirs = home.published()[columns], other.published()[columns]
    pd.testing.assert_frame_equal(mine, theirs)
    assert mine["checksum"].nunique() == len(DAYS)


def test_the_logs_show_that_every_fit_ran_in_both_homes(
    home: Home, demonstrated: str, other: Home, recomputed: list[str]
) -> None:
    through_airflow = task_logs(home)
    for day, log in zip(DAYS, recomputed, strict=True):
        wanted = 2 if day == DAYS[0] else 1  # a refresh night fits the chosen models; its booster is the champion's
        assert fits_in(through_airflow, f"mini/{day}/1") == wanted
        assert fits_in(log, f"mini/{day}/1") == wanted, log
    query = """
        select run_id, stage, shard from forecasting.stage_time
        where run_id like 'mini/%/1' and stage like 'fit%' order by run_id, stage"""
    ended = home.sql(query)  # only a stage that ended has its time
    assert ended["stage"].tolist() == ["fit_ml", "fit_statistical"] * len(DAYS)
    pd.testing.assert_frame_equal(ended, other.sql(query))


def test_as_frozen_with_an_empty_cache_is_verified(other: Home, recomputed: list[str]) -> None:
    for folder in ("cache", "work", "read"):
        shutil.rmtree(other.path / "snapshots" / folder, ignore_errors=True)
    before = other.published()
    said = other.command("run", "mini", "--date", f"{DAYS[1]}", "--as-frozen", "-v")
    assert "verified" in said
    newest = other.sql("select * from forecasting.run order by started_at desc limit 1").iloc[0]
    assert (newest["run_id"], newest["status"], newest["as_frozen"]) == (f"mini/{DAYS[1]}/2", "verified", True)
    assert newest["checksum"] == before["checksum"][1]
    pd.testing.assert_frame_equal(before, other.published())


def test_the_first_command_to_end_leaves_the_other_its_server(other: Home) -> None:
    with other.start("sql", "select 1 as one, pg_sleep(12)") as first:
        wait_for(lambda: sleepers(other) == 1, "the first command asks")
        with other.start("sql", "select 2 as two, pg_sleep(12)") as second:
            wait_for(lambda: sleepers(other) == 2, "the second command asks too", 15)
            said = first.communicate(timeout=LIMIT)[0]
            assert first.returncode == 0, said
            assert second.poll() is None, "the second one was to end later"
            assert sleepers(other) == 1
            said = second.communicate(timeout=LIMIT)[0]
            assert second.returncode == 0, said
            assert "two" in said
    assert other.living() == []


def sleepers(home: Home) -> int:
    """Sleeping statements on the home's server; asked without holding its lock, as a stranger would."""
    folder = home.path / "postgres"
    try:
        port = int((folder / "data/postmaster.pid").read_text().splitlines()[3])
        password = json.loads((folder / "passwords.json").read_text())["postgres"]
        url = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
        with psycopg.connect(url, connect_timeout=5) as connection:
            query = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
            return int(connection.execute(query).fetchone()[0])
    except (OSError, IndexError, ValueError, psycopg.OperationalError):
        return 0


# --- a live Airflow -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket(checkout: Path) -> Iterator[str]:
    """Address of an S3 server that holds the small customer's file."""
    with buckets(CANARY, "sales") as (address, client):
        client.upload_file(str(checkout / "examples/mini.csv"), "sales", "mini.csv")
        yield address


@pytest.fixture(scope="module")
def live(home: Home, demonstrated: str, checkout: Path) -> Iterator[Live]:
    """`forecasting up` on the demo's home, with three more customers: one in S3, one spoilt, one broken."""
    declare(checkout, "bucket", "s3://sales/mini.csv\n  connection: true\n  timeout: 5")
    declare(checkout, "spoilt", "examples/spoilt.csv")
    shutil.copy(checkout / "examples/mini.csv", checkout / "examples/spoilt.csv")
    declare(checkout, "broken")
    path = checkout / "dags/customers/broken.yaml"
    path.write_text(path.read_text().replace("horizon: 7", "horizn: 7"))
    with up(home) as running:
        yield running


def backfill(home: Home, live: Live, customer_id: str, first: date, last: date, **asked: bool) -> list[str]:
    """Run days through the live Airflow; returns what was said."""
    said: list[str] = []
    customer = config.load_customer(home.checkout / f"dags/customers/{customer_id}.yaml")
    assert isinstance(customer, config.Customer)
    backfills.run(
        live.airflow, customer, first, last, **asked, timeout=LIMIT, say=said.append,
        reason=airflows.reasons(home.settings, customer_id),
    )  # fmt: skip
    return said


def tasks_of(live: Live, customer_id: str, day: date) -> dict[str, Mapping[str, Any]]:
    """Task instances of the newest run of a local day, by task."""
    api, dag = live.airflow.api, f"forecast__{customer_id}"
    runs = api.get(f"/dags/{dag}/dagRuns?limit=100&order_by=-logical_date")["dag_runs"]
    begins = midnight(day, "Europe/Rome")
    run_id = next(r["dag_run_id"] for r in runs if pd.Timestamp(r["logical_date"]) == pd.Timestamp(begins))
    found = api.get(f"/dags/{dag}/dagRuns/{run_id}/taskInstances?limit=100")["task_instances"]
    return {task["task_id"]: task for task in found}


def test_a_second_up_says_that_one_is_running(home: Home, live: Live) -> None:
    with home.start("up", "--port", "0") as second:
        said, _ = second.communicate(timeout=LIMIT)
    assert second.returncode == ServerError.exit_code == 9
    assert re.search(rf"already running on {home.path}.*{live.airflow.api.base_url}", said), said
    assert "Traceback" not in said
    assert live.airflow.api.health()["scheduler"] == "healthy"


def test_finished_days_reprocessed_in_place_are_verified_and_publish_nothing(home: Home, live: Live) -> None:
    unchanging = [
        "select * from forecasting.publication order by customer_id, seq",
        "select * from forecasting.forecast_current order by customer_id, node, unique_id, h",
        "select * from forecasting.model_version order by version",
        "select * from forecasting.champion order by seq",
    ]
    before = [home.sql(query) for query in unchanging]
    backfill(home, live, "mini", DAYS[0], DAYS[-1], reprocess=True)
    again = home.sql("select run_id, status, message from forecasting.run where n > 1 order by run_date, n")
    assert again["run_id"].tolist() == [f"mini/{day}/2" for day in DAYS]
    assert again["status"].tolist() == ["verified"] * 3
    assert again["message"].str.contains("verified").all()
    for query, rows in zip(unchanging, before, strict=True):
        pd.testing.assert_frame_equal(rows, home.sql(query))


def test_a_broken_contract_fails_freeze_at_once_and_the_other_dates_stand(
    home: Home, live: Live, checkout: Path
) -> None:
    path = checkout / "examples/spoilt.csv"
    lines = path.read_text().splitlines(keepends=True)
    far = next(i for i, line in enumerate(lines) if line.startswith("2018-10-09"))  # in view from the second night on
    path.write_text("".join([*lines[: far + 1], *lines[far:]]))
    with pytest.raises(backfills.BackfillFailedError) as caught:
        backfill(home, live, "spoilt", DAYS[0], DAYS[1])
    message = str(caught.value)
    assert f"{DAYS[1]}: failed in freeze" in message
    assert "contract pasta_sales" in message
    assert "What to do" in message
    assert f"{DAYS[0]}: failed" not in message
    tasks = tasks_of(live, "spoilt", DAYS[1])
    assert {name: tasks[name]["state"] for name in ("pull", "freeze", "publish")} == {
        "pull": "success", "freeze": "failed", "publish": "upstream_failed",
    }  # fmt: skip
    assert tasks["freeze"]["try_number"] == 1
    assert home.published("spoilt")["run_date"].tolist() == DAYS[:1]
    current = home.sql("select distinct run_id from forecasting.forecast_current where customer_id = 'spoilt'")
    assert current["run_id"].tolist() == [f"spoilt/{DAYS[0]}/1"]


def test_a_broken_customer_file_fails_with_the_message_of_check(home: Home, live: Live) -> None:
    with home.start("check", "broken") as checked:
        said, _ = checked.communicate(timeout=LIMIT)
    assert checked.returncode == 2
    assert "horizn" in said
    api = live.airflow.api
    api.patch("/dags/forecast__broken", {"is_paused": False})
    api.post("/dags/forecast__broken/dagRuns", {"dag_run_id": "once", "logical_date": None})
    run = "/dags/forecast__broken/dagRuns/once"
    wait_for(lambda: api.get(run)["state"] in ("failed", "success"), "the broken customer's run has ended")
    assert api.get(run)["state"] == "failed"
    (task,) = api.get(f"{run}/taskInstances")["task_instances"]
    assert (task["task_id"], task["state"], task["try_number"]) == ("configuration", "failed", 1)
    logged = " ".join(str(api.get(f"{run}/taskInstances/configuration/logs/1?full_content=true")["content"]).split())
    for line in said.strip().splitlines():
        assert " ".join(line.split()) in logged


def test_a_secret_of_the_connection_shows_nowhere_after_an_airflow_run(home: Home, live: Live, bucket: str) -> None:
    host, port = bucket.split(":")
    connection = {"connection_id": "forecasting_bucket", "conn_type": "s3", "host": host, "port": int(port)}
    live.airflow.api.post("/connections", {**connection, "login": "key", "password": CANARY})
    backfill(home, live, "bucket", DAYS[0], DAYS[0])
    assert home.published("bucket")["run_date"].tolist() == DAYS[:1]
    with home.databases() as urls:
        shown = {name: tables_showing(url, CANARY) for name, url in urls.items()}
    assert shown == {"warehouse": [], "airflow": [], "mlflow": []}
    logs = [path for path in home.path.rglob("*") if path.is_file() and "postgres/data" not in f"{path}"]
    assert len([path for path in logs if "forecast__bucket" in f"{path}"]) >= 6
    assert [path for path in logs if CANARY.encode() in path.read_bytes()] == []


def tables_showing(url: str, text: str) -> list[str]:
    """Tables of a database that hold ``text`` in any row."""
    tables = fetch(
        url,
        "select format('%I.%I', schemaname, tablename) from pg_tables "
        "where schemaname not in ('pg_catalog', 'information_schema')",
    )
    assert len(tables) > 10
    count = "select count(*) from {} t where position(%s in t::text) > 0"
    return [table for (table,) in tables if fetch(url, count.format(table), text) != [(0,)]]


def test_ctrl_c_leaves_no_process_of_the_home(home: Home, live: Live) -> None:
    assert len(home.living()) > 5
    interrupt(live.process)
    assert home.living() == []
    assert "Traceback" not in live.output.read_text()


def test_a_demo_that_fails_tells_the_reason_and_leaves_nothing_running(home: Home, live: Live, checkout: Path) -> None:
    interrupt(live.process)
    for customer_id in ("broken", "bucket"):
        (checkout / f"dags/customers/{customer_id}.yaml").unlink(missing_ok=True)
    (checkout / "examples/spoilt.csv").write_bytes((checkout / "examples/mini.csv").read_bytes()[:-9])
    before = home.published("mini")
    with home.start("demo") as process:
        said, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == backfills.BackfillFailedError.exit_code == 1, said
    assert "Traceback" not in said
    for day in DAYS[1:]:
        assert f"spoilt {day}: failed in pull: pull: examples/spoilt.csv, line" in said
    assert home.living() == []
    with home.databases() as urls:
        query = (
            "select distinct state, try_number from task_instance where dag_id = 'forecast__spoilt' and run_id like %s"
        )
        # Airflow names a run after the end of its day: midnight in Rome, which is still that day in UTC
        tries = fetch(urls["airflow"], f"{query} and task_id = 'pull'", f"backfill__{DAYS[2]}%")
    assert tries == [("failed", 1)]
    pd.testing.assert_frame_equal(before, home.published("mini"))
    assert home.published("spoilt")["run_date"].tolist() == DAYS[:1]


def fetch(url: str, query: str, *values: str) -> list[tuple[Any, ...]]:
    dsn = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(dsn, connect_timeout=10) as connection:
        return connection.execute(query, values or None).fetchall()
