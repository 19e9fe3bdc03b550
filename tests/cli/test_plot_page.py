"""The page of `forecasting plot` as a person sees it: Chromium, a file, and no network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, cast

import pytest

from forecasting.cli import plots
from forecasting.frames import join_id
from forecasting.pipeline import Deployment, looks
from tests.pipeline.test_looks import shop
from tests.plugins import shops
from tests.plugins.test_browser import PATIENCE, SHOTS, browser

if TYPE_CHECKING:
    import sqlalchemy as sa
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
__all__ = ["browser"]  # the fixture

NAMED = join_id(("north", "<b>bold</b> & sons"))


@pytest.fixture(scope="module")
def page_file(engine: sa.Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a customer with six publications, all its series drawn."""
    folder = tmp_path_factory.mktemp("plot")
    shop(engine, folder, "seen", 6)
    settings = cast("Any", SimpleNamespace(work_url=f"file://{folder}/work"))
    found = looks.look(Deployment(settings, engine, ""), "seen", (), 0, plotly=plots.plotly())
    path = folder / "seen.html"
    path.write_text(found.html, encoding="utf-8")
    return path


Theme = Literal["light", "dark"]


@contextmanager
def opened(browser: Browser, path: Path, theme: Theme = "light", width: int = 1280) -> Iterator[Page]:
    """The page with its first chart drawn; whatever it asked for, or complained of, fails at the end."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    context.set_default_timeout(PATIENCE)
    page, asked, complaints = context.new_page(), list[str](), list[str]()
    context.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.as_uri())
    drawn(page, 0)
    yield page
    context.close()
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert complaints == []


def drawn(page: Page, at: int) -> None:
    page.wait_for_selector(f"#s{at} .scatterlayer .trace")


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(SHOTS) / f"plot-{name}.png")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_first_chart_draws_in_the_readers_own_theme_and_asks_nobody(
    browser: Browser, page_file: Path, theme: Theme
) -> None:
    with opened(browser, page_file, theme) as page:
        names = page.locator("#s0 .legendtext").all_text_contents()
        assert names == [
            "sold", "forecast: mean", "forecast: median", "forecast: 80 % interval", "forecast: 95 % interval",
            "published then: mean", "published then: 80 % interval", "published then: 95 % interval",
        ]  # fmt: skip
        titles = page.locator("#s0 .ytitle, #s0 .xtitle").all_text_contents()
        assert sorted(titles) == ["day", "units per day"]
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (theme == "light")
        assert page.locator("main img, main script").count() == 0
        shoot(page, theme)


def test_a_change_of_theme_redraws_what_is_drawn(browser: Browser, page_file: Path) -> None:
    ink = "getComputedStyle(document.querySelector('#s0 .xtick text')).fill"
    with opened(browser, page_file) as page:
        before = page.evaluate(ink)
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(f"before => {ink} !== before", arg=before)


def test_a_search_shows_the_series_that_hold_every_word_and_says_how_many(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        every = page.locator("figure").count()
        field = page.get_by_role("searchbox", name="Find a series")
        field.fill("NORTH sons")
        assert page.locator("figure:visible h2").all_text_contents() == [NAMED]
        assert page.locator("#index tbody tr:visible").count() == 1
        assert page.get_by_role("status").inner_text() == f"1 of {every} series drawn here"
        field.fill("6/2")
        assert page.locator("figure:visible h2").all_text_contents() == [join_id(("north", "6/2 pack"))]
        field.fill("nothing like it")
        assert page.locator("figure:visible").count() == 0
        assert "forecasting plot seen UNIQUE_ID draws any other" in page.get_by_role("status").inner_text()
        field.fill("")
        assert page.locator("figure:visible").count() == every


def test_charts_are_drawn_when_they_come_into_sight(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        last = page.locator("figure").count() - 1
        assert page.locator(f"#s{last} .scatterlayer").count() == 0
        page.locator("#index tbody a").last.press("Enter")
        drawn(page, last)
        assert page.locator(f"#t{last}").is_visible()


def test_the_span_of_every_chart_can_be_chosen(browser: Browser, page_file: Path) -> None:
    first = "Date.parse(document.querySelector('#s0 .plot')._fullLayout.xaxis.range[0].replace(' ', 'T'))"
    with opened(browser, page_file) as page:
        near = page.evaluate(first)
        page.get_by_label("all history").check()
        page.wait_for_function(f"near => {first} < near - 90 * 24 * 3600e3", arg=near)
        shoot(page, "all-history")


def test_the_figures_of_a_forecast_are_a_table(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        page.locator("#s0 summary").press("Enter")
        rows = page.locator("#s0 .figures tbody tr")
        rows.first.wait_for()
        assert rows.count() == 14
        head = page.locator("#s0 .figures thead th").all_text_contents()
        assert head == ["day", "mean", "median", "80 % from", "80 % to", "95 % from", "95 % to"]


def test_a_series_without_a_sale_is_drawn_with_its_forecast_alone(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        at = page.locator("#index tbody a").all_text_contents().index(shops.SERIES[-1])
        page.evaluate("at => document.getElementById(`s${at}`).scrollIntoView()", at)
        drawn(page, at)
        assert "sold" not in page.locator(f"#s{at} .legendtext").all_text_contents()


@pytest.mark.parametrize("width", [1280, 640])
def test_nothing_hangs_over_the_edge(browser: Browser, page_file: Path, width: int) -> None:
    with opened(browser, page_file, width=width) as page:
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        shoot(page, str(width))


def test_everything_that_can_be_used_has_a_name(browser: Browser, page_file: Path) -> None:
    unnamed = """[...document.querySelectorAll("a, button, input, summary, [tabindex='0']")].filter((one) =>
        !(one.textContent.trim() || one.getAttribute("aria-label") || one.labels?.length))
        .map((one) => one.outerHTML)"""
    with opened(browser, page_file) as page:
        assert page.evaluate(unnamed) == []
        assert page.get_by_role("heading", level=1).count() == 1
