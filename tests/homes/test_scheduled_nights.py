"""The scheduler's own nights: every customer's at once, one source silent and one contract broken among them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from forecasting.cli import seeds
from tests.homes.deployments import Home, Live, declare, lay_out, silent_server, up, wait_for

pytestmark = pytest.mark.homes

ZONE = "Europe/Rome"
UNHARMED = ("north", "south")
DATES = 'first_date: 2026-01-01\nstart_at: "00:00"\ndeadline: "{}"'


@pytest.fixture(scope="module")
def silent() -> Iterator[str]:
    """Address of a server that takes connections and never answers."""
    with silent_server() as address:
        yield address


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, silent: str) -> Home:
    """Four customers of today: two in order, one whose source hangs, one that delivers words for numbers."""
    root = tmp_path_factory.mktemp("tonight")
    lay_out(root)
    today = datetime.now(ZoneInfo(ZONE)).date()
    seeds.live_file(root / "examples/mini.csv", root / "examples/today.csv", today)
    for customer_id in UNHARMED:
        declare(root, customer_id, "examples/today.csv", DATES.format("12:00"), "live_sales")
    spoil(root / "examples/today.csv", root / "examples/spoilt.csv")
    declare(root, "spoilt", "examples/spoilt.csv", DATES.format("12:00"), "live_sales")
    declare(root, "hung", f"http://{silent}/sales.csv\n  timeout: 20", DATES.format("00:01"), "live_sales")
    return Home(root / "home", root, {"FORECASTING_HTTP_HOSTS": silent})


def spoil(good: Path, bad: Path) -> None:
    """The same file, its newest sales ten times too negative."""
    lines = good.read_text().splitlines()
    known = max(i for i, line in enumerate(lines) if line.split(",")[1])
    cells = lines[known].split(",")
    lines[known] = ",".join([cells[0], *("-40" for _ in cells[1:8]), *cells[8:]])
    bad.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def night(home: Home) -> Iterator[Live]:
    """Tonight, as the scheduler makes it for all four at once."""
    with up(home) as live:
        api = live.airflow.api
        ids = [f"forecast__{name}" for name in (*UNHARMED, "spoilt", "hung")]
        wait_for(lambda: set(ids) <= {d["dag_id"] for d in api.get("/dags?limit=100")["dags"]}, "the DAGs are there")
        for dag in ids:
            api.patch(f"/dags/{dag}", {"is_paused": False})
        yield live


def state(live: Live, customer_id: str) -> str:
    runs = live.airflow.api.get(f"/dags/forecast__{customer_id}/dagRuns?limit=10&order_by=-logical_date")["dag_runs"]
    assert all(run["run_type"] == "scheduled" for run in runs)
    return runs[0]["state"] if runs else ""


def test_the_others_publish_while_one_source_hangs_and_one_contract_is_broken(home: Home, night: Live) -> None:
    wait_for(lambda: state(night, "spoilt") == "failed", "the broken contract has ended its night")
    for name in UNHARMED:
        wait_for(lambda name=name: state(night, name) in ("success", "failed"), f"{name} has ended")
    assert [state(night, name) for name in (*UNHARMED, "hung")] == ["success", "success", "running"]
    runs = home.sql("select customer_id, status, live, run_date, message from forecasting.run order by customer_id, n")
    yesterday = datetime.now(ZoneInfo(ZONE)).date() - timedelta(days=1)
    fine = runs[runs["customer_id"].isin(UNHARMED)]
    assert fine["status"].tolist() == ["published", "published"]
    assert fine["live"].all()
    assert set(fine["run_date"]) <= {yesterday, yesterday - timedelta(days=1)}  # midnight may have passed meanwhile
    broken = runs[runs["customer_id"] == "spoilt"]
    assert broken["status"].tolist() == ["broken"]
    assert "quantity_in_range" in broken["message"].iloc[0]
    assert "What to do" in broken["message"].iloc[0]


def test_a_missed_deadline_is_recorded_for_the_night_that_missed_it_alone(home: Home, night: Live) -> None:
    query = "select customer_id, who, why from forecasting.audit_log where what = 'deadline_missed'"
    missed = wait_for(lambda: home.sql(query).to_dict("records"), "the missed deadline is recorded", 180)
    assert [row["customer_id"] for row in missed] == ["hung"]
    assert "at its deadline, 00:01 local time; nothing has been published yet" in missed[0]["why"]


def test_a_source_that_hangs_is_given_up_in_time_and_says_so(home: Home, night: Live) -> None:
    query = "select message from forecasting.run where customer_id = 'hung' and status = 'failed'"
    told = wait_for(lambda: home.sql(query)["message"].tolist(), "the silent source is given up", 240)
    assert "cannot be downloaded" in told[0]
    assert "time-out 20 s" in told[0]
