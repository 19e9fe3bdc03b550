"""A person answers in a real browser, before a live Airflow: the night is long published, a backfill asks nobody."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from forecasting.cli import local, seeds
from tests.homes.deployments import Home, Live, declare, lay_out, up, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.homes

ZONE = "Europe/Rome"
SHOTS = os.environ.get("SCREENSHOTS")
"""Folder for screenshots; none are taken without it."""
RULES = "approval: required, test_origins: 2, max_bias: 2, max_worse_share: 1, max_cost_ratio: 1000"
POOR, BETTER = "pool: [seasonal_naive]", "pool: [seasonal_naive, weekday_mean, auto_ets]"
ORIGINS = "backtest: {windows: 8, select: 2}"
PATIENCE = 90_000
"""Milliseconds that anything may take to appear in the browser."""


def today() -> date:
    return datetime.now(ZoneInfo(ZONE)).date()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A customer of today, a live night of a poor recipe behind it, and a better one in its file since."""
    root = tmp_path_factory.mktemp("asked")
    lay_out(root)
    seeds.live_file(root / "examples/mini.csv", root / "examples/today.csv", today() + timedelta(days=2))
    declare(root, "shop", "examples/today.csv", 'first_date: 2026-01-01\nstart_at: "00:00"', "live_sales")
    recipe(root, POOR)
    made = Home(root / "home", root)
    made.command("run", "shop", "--date", f"{today() - timedelta(days=2)}", "--live")
    recipe(root, BETTER)
    return made


def recipe(root: Path, pool: str) -> None:
    path = root / "dags/customers/shop.yaml"
    text = path.read_text()
    for line in (pool, f"promotion: {{{RULES}}}", ORIGINS):
        text = re.sub(rf"^{line.partition(':')[0]}: .*$", line, text, flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def airflow(home: Home) -> Iterator[Live]:
    with up(home) as live:
        api = live.airflow.api
        wait_for(lambda: len(api.get("/dags?limit=100")["dags"]) == 2, "both DAGs are there")
        yield live


@pytest.fixture(scope="module")
def page(home: Home, airflow: Live) -> Iterator[Page]:
    """Logged in as the local Airflow's user."""
    from playwright.sync_api import sync_playwright

    from tests.plugins.test_browser import chromium

    login, base = local.secrets_of(home.path), airflow.airflow.api.base_url
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 1280, "height": 1700}).new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(base + "/auth/login/")
        page.fill("input[name=username]", "admin")
        page.fill("input[name=password]", login["password"])
        page.click("button[type=submit]")
        page.wait_for_url(re.compile(re.escape(base) + r"/?(\?.*)?$"))
        yield page
        browser.close()


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(SHOTS) / f"{name}.png")


def runs(live: Live, dag: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = live.airflow.api.get(f"/dags/{dag}/dagRuns?limit=100&order_by=run_after")["dag_runs"]
    return found


def approvals(home: Home) -> list[dict[str, Any]]:
    return home.sql("select * from forecasting.approval order by approval_id").to_dict("records")  # type: ignore[return-value]


def states(live: Live, run: dict[str, Any]) -> dict[str, str]:
    found = live.airflow.api.get(f"/dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}/taskInstances")
    return {task["task_id"]: task["state"] for task in found["task_instances"]}


def test_a_person_answers_in_the_browser_while_the_night_has_long_been_published(
    home: Home, airflow: Live, page: Page
) -> None:
    api = airflow.airflow.api
    api.patch("/dags/forecast__shop", {"is_paused": False})
    wait_for(lambda: [run["state"] for run in runs(airflow, "forecast__shop")] == ["success"], "the night has ended")
    [night] = runs(airflow, "forecast__shop")
    assert night["run_type"] == "scheduled"
    [asked] = wait_for(lambda: runs(airflow, "approve__shop"), "the question is there")
    wait_for(lambda: states(airflow, asked).get("answer") == "deferred", "somebody is asked")
    assert asked["state"] == "running"
    [line] = approvals(home)
    assert (line["state"], line["version"], line["champion"]) == ("waiting", "1.1.0", "1.0.0")
    standing = home.sql("select run_id, version from forecasting.run where status = 'published' order by run_date")
    assert standing["version"].tolist() == ["1.0.0", "1.0.0"]  # the night is published, and does not wait

    page.goto(f"{api.base_url}/dags/approve__shop")
    page.get_by_text("Required Action").first.wait_for()
    shoot(page, "approval-dag")
    page.goto(f"{api.base_url}/dags/approve__shop/runs/{asked['dag_run_id']}/tasks/answer/required_actions")
    approve = page.get_by_test_id("hitl-option-Approve")
    approve.wait_for()
    for words in ("put 1.1.0 in charge in place of 1.0.0?", "By origin", "Guard rails", "tonight's total"):
        assert page.get_by_text(words).first.is_visible(), words
    assert page.locator("table").count() >= 3
    assert approve.is_disabled()  # before a reason is given
    shoot(page, "approval-asked")
    page.fill("#element_reason", "fewer leftovers in the shop")
    shoot(page, "approval-reason")
    approve.click()
    wait_for(lambda: [run["state"] for run in runs(airflow, "approve__shop")] == ["success"], "the answer is settled")
    page.get_by_text("Success").first.wait_for()
    shoot(page, "approval-answered")

    [line] = approvals(home)
    assert (line["state"], line["who"], line["why"]) == (
        "approved",
        "airflow user admin",
        "fewer leftovers in the shop",
    )
    lines = home.sql("select version, who, reason, live from forecasting.champion order by seq")
    assert lines.iloc[-1].tolist() == ["1.1.0", "airflow user admin", "approval 1: fewer leftovers in the shop", True]
    audited = home.sql("select what from forecasting.audit_log where who = 'airflow user admin' order by what")
    assert audited["what"].tolist() == ["approval_approved", "champion"]


def test_an_answer_from_a_shell_ends_the_request_in_the_browser(home: Home, airflow: Live) -> None:
    """The night after obeys the first answer; its own question is shown by a run of the DAG made by hand."""
    home.command("run", "shop", "--date", f"{today()}", "--live", "--force-retrain")
    shown = "select version, incoming_champion from forecasting.run where beside is null"
    newest = home.sql(f"{shown} order by run_date desc, n desc limit 1")
    assert newest.iloc[0].tolist() == ["1.1.0", "1.1.0"]
    airflow.airflow.api.post("/dags/approve__shop/dagRuns", {"logical_date": None})
    _, asked = runs(airflow, "approve__shop")
    wait_for(lambda: states(airflow, asked).get("answer") == "deferred", "somebody is asked")
    assert "put 1.1.1 in charge in place of 1.1.0?" in home.command("approvals", "shop")
    said = home.command("approve", "shop", "--no", "--reason", "wait for the fair")
    assert "1.1.0 stays in charge; 1.1.1 was turned down" in said
    answered = time.monotonic()
    wait_for(lambda: states(airflow, asked)["settle"] == "success", "the request has ended", 120)
    assert time.monotonic() - answered < 90
    assert approvals(home)[-1]["state"] == "rejected"


def test_a_backfill_over_the_same_days_asks_nobody(home: Home, airflow: Live) -> None:
    before = approvals(home), len(runs(airflow, "approve__shop"))
    home.command("backfill", "shop", f"{today() - timedelta(days=2)}", f"{today() - timedelta(days=1)}", "--reprocess")
    won = home.sql("select version, live from forecasting.champion order by seq desc limit 1")
    assert won.iloc[0].tolist()[1] is not True  # it promoted within the past that it builds
    assert (approvals(home), len(runs(airflow, "approve__shop"))) == before
