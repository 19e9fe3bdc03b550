"""The pages as an operator sees them: Debian's Chromium before a live Airflow whose warehouse holds a small fleet."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import httpx
import pytest

from forecasting import config
from forecasting.cli import airflows, local
from forecasting.store import warehouse
from tests.plugins import shops

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Frame, Page

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
SHOTS = os.environ.get("SCREENSHOTS")
"""Folder for screenshots; none are taken without it."""
HOME = os.environ.get("PAGES_HOME")
"""A deployment's home, stopped: a copy of it is looked at, so that customers with real nights are among those seen."""
OURS = ("broken", "fresh", "unborn", "weekly")
"""The small fleet."""
PATIENCE = 20_000
"""Milliseconds that anything may take to appear."""
NOISE = "An iframe which has both allow-scripts and allow-same-origin"
"""What Chromium says of the frame that Airflow puts every such page into."""


# --- a live Airflow -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Live:
    """An Airflow that runs, and the customers it knows."""

    base: str
    username: str
    password: str = field(repr=False)
    token: str = field(repr=False)
    customers: list[str]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Airflow with the checkout's customers and the nights they had in ``PAGES_HOME``, and the small fleet's."""
    checkout = tmp_path_factory.mktemp("shop")
    if HOME:
        shutil.copytree(HOME, checkout / "home", symlinks=True, ignore=shutil.ignore_patterns("cache", "work"))
    for name in ("dags", "data_contracts", "plugins"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    folder = checkout / "dags/customers"
    places = {"FORECASTING_HOME": str(checkout / "home"), "FORECASTING_ROOT": str(checkout)}
    ours = ("FORECASTING_", "AIRFLOW_", "MLFLOW_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(kept):
            patch.delenv(name)
        settings = config.settings(kept | places)
        shops.declare_fleet(folder)
        with local.airflow(settings, triggerer=False, preload=()) as running:
            airflows.prepare(running, settings)
            engine = warehouse.connect(running.env["FORECASTING_WAREHOUSE_URL"])
            shops.fleet(engine, folder, datetime.now(ZoneInfo("Europe/Rome")).date())
            engine.dispose()
            known = sorted(path.stem for path in folder.glob("*.yaml"))
            wait_for_dags(running.api, len(known))
            yield Live(running.base_url, running.username, running.password, running.token(), known)


def wait_for_dags(api: local.Api, count: int) -> None:
    from tests.homes.test_homes import wait_for

    wait_for(lambda: api.get("/dags?limit=1000")["total_entries"] >= count, f"{count} DAGs are there", 120)


# --- a browser ------------------------------------------------------------------------------------------------------


def chromium() -> str:
    """The browser; a missing one fails the tests that need it: a page nobody has looked at does not count as tested."""
    named = os.environ.get("CHROMIUM")
    found = named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not found or not Path(found).exists():
        pytest.fail(
            "the browser tests need Chromium, and there is none. Debian, Ubuntu: apt-get install chromium; "
            "or name one: CHROMIUM=/path/to/chrome make test-browser."
        )
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    path = chromium()
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield made
        made.close()


@dataclass
class Visit:
    """One logged-in visit: its page, every host it asked, and whatever the console complained of."""

    page: Page
    live: Live
    asked: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> Frame:
        """Go there in Airflow's UI; gives the frame that holds our page."""
        self.page.goto(self.live.base + path)
        return self.frame()

    def frame(self) -> Frame:
        self.page.wait_for_selector("iframe", timeout=PATIENCE)
        inner = self.page.query_selector("iframe")
        assert inner
        found = inner.content_frame()
        assert found
        found.wait_for_selector("h1", timeout=PATIENCE)
        return found

    def shoot(self, name: str) -> None:
        if SHOTS:
            Path(SHOTS).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(SHOTS) / f"{name}.png")


Theme = Literal["light", "dark"]


@contextmanager
def visiting(browser: Browser, live: Live, theme: Theme = "light", width: int = 1280) -> Iterator[Visit]:
    """Log in and choose a theme in Airflow, on a system that has the other one; complaints fail at the end."""
    other: Theme = "dark" if theme == "light" else "light"
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=other)
    context.set_default_timeout(PATIENCE)
    visit = Visit(context.new_page(), live)
    page = visit.page
    context.on("request", lambda request: visit.asked.add(request.url))
    page.goto(live.base + "/auth/login/")
    page.fill("input[name=username]", live.username)
    page.fill("input[name=password]", live.password)
    page.click("button[type=submit]")
    page.wait_for_url(re.compile(re.escape(live.base) + r"/?(\?.*)?$"))
    page.evaluate("theme => localStorage.setItem('theme', theme)", theme)
    page.on("console", lambda message: _note(visit, message.type, message.text))
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    yield visit
    hosts = {urlsplit(url.removeprefix("blob:")).netloc for url in visit.asked if not url.startswith("data:")}
    context.close()
    assert hosts == {urlsplit(live.base).netloc}
    assert visit.complaints == []


def _note(visit: Visit, kind: str, text: str) -> None:
    if kind in ("error", "warning") and not text.startswith(NOISE):
        visit.complaints.append(text)


def customers_of(frame: Frame) -> list[str]:
    return [link.inner_text() for link in frame.query_selector_all("#fleet tbody a")]


def drawn(frame: Frame, title: str) -> None:
    """Wait until the chart of that series stands."""
    frame.wait_for_function(
        """title => document.getElementById("chart-title")?.textContent === title
            && document.getElementById("chart-state").textContent === ""
            && document.querySelectorAll("#plot .scatterlayer .trace").length > 2""",
        arg=title,
    )


# --- what an operator does ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_navigation_leads_to_every_customer_the_worst_first(browser: Browser, live: Live, theme: Theme) -> None:
    with visiting(browser, live, theme) as visit:
        visit.page.goto(live.base)
        visit.page.get_by_role("link", name="Forecasts").or_(
            visit.page.get_by_role("button", name="Forecasts")
        ).first.click()
        frame = visit.frame()
        names = customers_of(frame)
        assert sorted(names) == live.customers
        assert [name for name in names if name in OURS] == ["broken", "fresh", "unborn", "weekly"]
        background = frame.evaluate("getComputedStyle(document.body).backgroundColor")
        assert frame.evaluate("document.documentElement.dataset.theme") == theme
        assert (background == "rgb(255, 255, 255)") == (theme == "light")
        visit.shoot(f"fleet-{theme}")


def test_the_page_follows_airflows_theme_without_a_reload(browser: Browser, live: Live) -> None:
    with visiting(browser, live, "light") as visit:
        frame = visit.open("/plugin/forecasts")
        visit.page.evaluate("document.documentElement.className = 'dark'")
        frame.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")


def test_the_fleet_sorts_by_a_column_and_back(browser: Browser, live: Live) -> None:
    with visiting(browser, live) as visit:
        frame = visit.open("/plugin/forecasts")
        frame.get_by_role("button", name="Customer").press("Enter")
        assert customers_of(frame) == live.customers
        assert frame.get_by_role("columnheader", name="Customer").get_attribute("aria-sort") == "ascending"
        frame.get_by_role("button", name="Customer").click()
        assert customers_of(frame) == live.customers[::-1]
        frame.get_by_role("button", name="WAPE").click()
        ours = [name for name in customers_of(frame) if name in OURS]
        assert ours in (["weekly", "fresh", "broken", "unborn"], ["fresh", "weekly", "broken", "unborn"])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_series_is_found_and_drawn_with_the_keyboard_alone(browser: Browser, live: Live, theme: Theme) -> None:
    with visiting(browser, live, theme) as visit:
        frame = visit.open("/plugin/forecasts")
        frame.get_by_role("link", name="fresh", exact=True).press("Enter")
        frame = visit.frame()
        drawn(frame, "total")
        visit.shoot(f"customer-{theme}")
        field = frame.get_by_role("searchbox", name="Find a series")
        field.focus()
        visit.page.keyboard.type("north 6/2")
        frame.wait_for_function("() => document.querySelectorAll('#found a').length === 1")
        visit.page.keyboard.press("ArrowDown")
        visit.page.keyboard.press("Enter")
        drawn(frame, "north / 6/2 pack")
        assert frame.locator("#found a[aria-current=true]").inner_text() == "north / 6/2 pack"
        names = frame.locator("#plot .legendtext").all_text_contents()
        assert names == ["95 % interval", "80 % interval", "sold", "median", "forecast (mean)"]
        frame.get_by_text("Figures of the forecast").click()
        assert frame.locator("#figures tbody tr").count() == 14
        visit.shoot(f"search-{theme}")


def test_a_search_without_result_and_a_series_that_sold_nothing_say_so(browser: Browser, live: Live) -> None:
    with visiting(browser, live) as visit:
        frame = visit.open("/dags/forecast__fresh/plugin/forecast")
        frame.fill("#q", "nothing like it")
        frame.get_by_text("No series holds “nothing like it”.").wait_for()
        frame.fill("#q", "newborn")
        frame.locator("#found a").first.click()
        drawn(frame, "south / newborn")
        assert "auto_ets: too short" in frame.locator("#chart-facts").inner_text()
        assert "sold" not in frame.locator("#plot .legendtext").all_text_contents()


def test_a_chart_that_gets_no_answer_says_so(browser: Browser, live: Live) -> None:
    with visiting(browser, live) as visit:
        frame = visit.open("/dags/forecast__fresh/plugin/forecast")
        drawn(frame, "total")
        visit.page.route("**/chart?*", lambda route: route.fulfill(status=503, body="The warehouse cannot be reached."))
        frame.locator("#found a").nth(1).click()
        frame.get_by_text("The warehouse cannot be reached.").wait_for()
        assert frame.locator("#plot .scatterlayer").count() == 0
        assert [text for text in visit.complaints if "503" not in text] == []
        visit.complaints.clear()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_dags_own_tab_shows_its_customer_and_a_bad_feed_stays_text(
    browser: Browser, live: Live, theme: Theme
) -> None:
    with visiting(browser, live, theme) as visit:
        frame = visit.open("/dags/forecast__broken/plugin/forecast")
        assert frame.locator("h1").inner_text() == "broken"
        drawn(frame, "total")
        visit.shoot(f"dag-tab-{theme}")
        cells = frame.locator("#quarantine td.row").all_inner_texts()
        assert len(cells) == 90
        assert shops.HOSTILE in cells[0]
        assert frame.locator("main img, main script").count() == 0
        assert "owned" not in (frame.evaluate("document.title"), visit.page.title())
        frame.locator("#quarantine-title").scroll_into_view_if_needed()
        frame.evaluate("document.getElementById('contract-title').scrollIntoView()")
        visit.shoot(f"quarantine-{theme}")


def test_every_customer_has_a_page_with_or_without_a_night(browser: Browser, live: Live) -> None:
    with visiting(browser, live) as visit:
        for customer_id in live.customers:
            visit.page.goto(f"{live.base}/forecasts/dags/forecast__{customer_id}")
            assert visit.page.locator("h1").inner_text() == customer_id
            if visit.page.locator("#chart").count():
                drawn(visit.page.main_frame, visit.page.locator("#found a").first.inner_text())
                visit.shoot(f"customer-{customer_id}")


@pytest.mark.parametrize("width", [1280, 800])
@pytest.mark.parametrize("path", ["/forecasts/", "/forecasts/dags/forecast__fresh"], ids=["fleet", "customer"])
def test_nothing_hangs_over_the_edge(browser: Browser, live: Live, width: int, path: str) -> None:
    with visiting(browser, live, "dark", width) as visit:
        visit.page.goto(live.base + path)
        visit.page.wait_for_load_state("networkidle")
        assert visit.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        visit.shoot(f"{path.strip('/').replace('/', '-')}-{width}")


def test_everything_that_can_be_used_has_a_name(browser: Browser, live: Live) -> None:
    unnamed = """[...document.querySelectorAll("a, button, input, summary, [tabindex='0']")].filter((one) =>
        !(one.textContent.trim() || one.getAttribute("aria-label") || one.labels?.length
          || document.getElementById(one.getAttribute("aria-labelledby"))?.textContent)).map((one) => one.outerHTML)"""
    with visiting(browser, live) as visit:
        for path in ("/forecasts/", "/forecasts/dags/forecast__broken"):
            visit.page.goto(live.base + path)
            assert visit.page.evaluate(unnamed) == []
            assert visit.page.get_by_role("heading", level=1).count() == 1


# --- strangers ------------------------------------------------------------------------------------------------------


def test_the_running_server_answers_a_stranger_401_on_every_route(live: Live) -> None:
    from forecasts_ui.app import create_app

    from tests.plugins.test_routes import addresses

    asked = addresses(create_app())
    with httpx.Client(base_url=live.base, trust_env=False, timeout=20) as client:
        found = {(method, path): client.request(method, f"/forecasts{path}").status_code for method, path in asked}
        assert len(found) > 15
        assert {key: status for key, status in found.items() if status != 401} == {}
        known = {"Authorization": f"Bearer {live.token}"}
        assert client.get("/forecasts/static/forecasts.css", headers=known).status_code == 200
