"""The app behind Airflow's own doors: who is let in, what is shown, and how it answers when something is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from forecasting.store import warehouse
from tests.plugins.conftest import NOW
from tests.plugins.shops import HOSTILE, SERIES

ROOT = Path(__file__).resolve().parents[2]
Login = Callable[..., dict[str, str]]
PAGE = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def app(fleet: sa.Engine, airflow_tables: None) -> FastAPI:
    from forecasts_ui.app import create_app

    return create_app(lambda: fleet, lambda: NOW)


@pytest.fixture(scope="module")
def client(app: FastAPI, doors: Login) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as made:
        yield made


# --- doors ----------------------------------------------------------------------------------------------------------


def addresses(app: FastAPI) -> list[tuple[str, str]]:
    """Every method and address the app has, and some that it has not."""
    values = {"dag_id": "forecast__fresh", "name": "forecasts.css", "rest": "any/where"}
    listed = [
        (method, re.sub(r"\{(\w+)(:path)?\}", lambda match: values[match[1]], route.path))
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in sorted(route.methods)
    ]
    extra = ["/docs", "/redoc", "/openapi.json", "/static/", "/static/../app.py", "/dags/", "/dags/forecast__fresh/"]
    return listed + [("GET", path) for path in extra]


def test_every_route_is_closed_to_strangers(app: FastAPI, client: TestClient) -> None:
    assert all(isinstance(route, APIRoute) for route in app.routes), "a mount would not be closed by the app's door"
    asked = addresses(app)
    assert {"/", "/dags/forecast__fresh/chart", "/static/forecasts.css"} <= {path for _, path in asked}
    found = {(method, path): client.request(method, path).status_code for method, path in asked}
    assert {key: status for key, status in found.items() if status != 401} == {}


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": "Bearer nonsense"}, {"Cookie": "_token=nonsense"}, {"Authorization": "Basic YTpi"}],
    ids=["bearer", "cookie", "basic"],
)
def test_a_false_pass_opens_nothing(app: FastAPI, client: TestClient, headers: dict[str, str]) -> None:
    for method, path in addresses(app):
        assert client.request(method, path, headers=headers).status_code in (401, 403)


def test_a_stranger_is_told_nothing_but_to_log_in(client: TestClient) -> None:
    answer = client.get("/dags/forecast__fresh", headers=PAGE)
    assert (answer.status_code, answer.text) == (401, "Log in to Airflow first.\n")


def test_the_fleet_shows_a_user_their_own_customers_only(client: TestClient, doors: Login) -> None:
    mine = client.get("/", headers=PAGE | doors("fresh", "unprovisioned")).text
    assert re.findall(r"dags/forecast__(\w+)\"", mine) == ["fresh", "unprovisioned"]
    assert "broken" not in text_of(mine).replace("in trouble", "")
    nothing = client.get("/", headers=PAGE | doors())
    assert nothing.status_code == 200
    assert "There is no customer here that you may see." in nothing.text
    assert "forecast__" not in nothing.text


@pytest.mark.parametrize("path", ["", "/search?q=", "/chart?node=total&series=total"])
def test_a_customers_page_needs_the_right_to_its_dag(client: TestClient, doors: Login, path: str) -> None:
    asked = f"/dags/forecast__broken{path}"
    assert client.get(asked, headers=doors("broken")).status_code == 200
    refused = client.get(asked + ("&" if "?" in path else "?") + "dag_id=forecast__fresh", headers=doors("fresh"))
    assert refused.status_code == 403
    assert "broken" not in refused.text


def test_every_answer_carries_the_policy(app: FastAPI, client: TestClient, doors: Login) -> None:
    for method, path in addresses(app):
        for headers in ({}, doors("fresh")):
            got = client.request(method, path, headers=headers).headers
            policy = got["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert got["x-content-type-options"] == "nosniff"
            assert got["cache-control"].startswith("private")


# --- what is shown --------------------------------------------------------------------------------------------------


class _Text(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def text_of(html: str) -> str:
    return " ".join(" ".join(_Text(html).parts).replace("\u202f", " ").split())


def test_the_fleet_puts_what_is_wrong_first(client: TestClient, doors: Login) -> None:
    page = client.get("/", headers=PAGE | doors("fresh", "broken", "weekly", "unborn", "unprovisioned")).text
    assert re.findall(r"dags/forecast__(\w+)\"", page) == ["broken", "fresh", "unborn", "weekly", "unprovisioned"]
    said = text_of(page)
    for words in (
        "5 customers, 1 in trouble",
        "behind 4 cutoffs behind published for 2024-05-10, 5 days ago",
        "41.0 % seasonal naive 39.0 % 5.1 % worse",
        "21.2 % seasonal naive 30.5 % 30.5 % better",
        "70 chosen model 14 seasonal naive 42 sum of series",
        "complete last run date 2024-03-10",
        "no night yet",
    ):
        assert words in said


def test_a_customers_page_shows_contract_quarantine_and_runs(client: TestClient, doors: Login) -> None:
    said = text_of(client.get("/dags/forecast__broken", headers=PAGE | doors("broken")).text)
    for words in (
        "checked by run broken/2024-05-14/1",
        "1 of 3 rules passed",
        "broken rule 2",
        "check crashed rule 3",
        "90 rows, newest run first",
        "quantity -1 is below 0",
        "0 used · 0 excluded 90 quarantined · 0 future",
        "what readers see",
    ):
        assert words in said


def test_what_a_bad_feed_holds_is_text_and_never_markup(client: TestClient, doors: Login) -> None:
    for path in ("/", "/dags/forecast__broken", f"/dags/forecast__broken?q={HOSTILE}&node={HOSTILE}&series={HOSTILE}"):
        html = client.get(path, headers=PAGE | doors("broken")).text
        assert HOSTILE in "".join(_Text(html).parts)
        tags = _Text(html).tags
        assert {attrs.get("src", "").partition("?")[0] for tag, attrs in tags if tag == "script"} <= {
            "/static/forecasts.js"
        }
        assert [attrs for tag, attrs in tags if tag == "img" or any(name.startswith("on") for name in attrs)] == []
        assert [attrs for _, attrs in tags if "style" in attrs] == []


def test_a_page_names_no_other_host(client: TestClient, doors: Login) -> None:
    for path in ("/", "/dags/forecast__fresh"):
        for tag, attrs in _Text(client.get(path, headers=PAGE | doors("fresh")).text).tags:
            for name in ("src", "href", "action", "data-url"):
                assert re.match(r"/[^/]|/$|\?|data:,$|#", attrs.get(name) or "/"), (tag, attrs)


def test_pages_behind_a_base_path_keep_to_it(app: FastAPI, doors: Login) -> None:
    outer = FastAPI(root_path="/base")
    outer.mount("/forecasts", app)
    page = TestClient(outer).get("/base/forecasts/", headers=PAGE | doors("fresh")).text
    assert 'href="/base/forecasts/dags/forecast__fresh"' in page


def test_a_search_answers_with_a_piece_of_a_page(client: TestClient, doors: Login) -> None:
    piece = client.get("/dags/forecast__fresh/search", params={"q": "north bold"}, headers=doors("fresh")).text
    assert text_of(piece) == "1 series. north / <b>bold</b> & sons"
    assert "<html" not in piece
    none = client.get("/dags/forecast__fresh/search", params={"q": "x" * 30}, headers=doors("fresh")).text
    assert text_of(none) == f"No series holds “{'x' * 30}”."


def test_a_chart_is_plain_json(client: TestClient, doors: Login) -> None:
    asked = {"node": "bottom", "series": SERIES[0]}
    made = client.get("/dags/forecast__fresh/chart", params=asked, headers=doors("fresh")).json()
    assert made["label"] == "north / 6/2 pack"
    assert made["actual"][-1][0] == made["cutoff"] == "2024-05-14"
    assert len(made["forecast"]) == 14


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/nowhere", 404, "There is no such page."),
        ("/dags/other", 403, ""),
        ("/dags/forecast__unprovisioned", 404, "is not in the warehouse yet"),
        ("/dags/forecast__fresh/chart?node=bottom&series=none", 404, "has no series 'none'"),
        ("/dags/forecast__fresh/chart", 422, "missing or too long"),
        ("/static/plotly.js", 404, "no such file"),
        ("/dags/forecast__fresh/search?q=" + "a" * 3000, 422, "missing or too long"),
    ],
)
def test_what_is_wrong_is_a_sentence(client: TestClient, doors: Login, path: str, status: int, words: str) -> None:
    answer = client.get(path, headers=PAGE | doors("fresh", "unprovisioned"))
    assert answer.status_code == status
    assert words in text_of(answer.text)


def test_a_warehouse_that_is_down_is_a_sentence_on_every_page(doors: Login) -> None:
    from forecasts_ui.app import create_app

    engine = warehouse.connect("postgresql://somebody:hidden@127.0.0.1:1/warehouse", patience=2)
    client = TestClient(create_app(lambda: engine, lambda: NOW), raise_server_exceptions=False)
    for path in (
        "/",
        "/dags/forecast__fresh",
        "/dags/forecast__fresh/search",
        "/dags/forecast__fresh/chart?node=a&series=b",
    ):
        answer = client.get(path, headers=PAGE | doors("fresh"))
        assert answer.status_code == 503
        assert "The warehouse cannot be reached." in answer.text
        assert not re.search("hidden|somebody|Traceback|127.0.0.1", answer.text)
    engine.dispose()


def test_an_api_server_without_the_setting_says_which(doors: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    from forecasts_ui.app import create_app

    monkeypatch.delenv("FORECASTING_WAREHOUSE_URL", raising=False)
    answer = TestClient(create_app(), raise_server_exceptions=False).get("/", headers=doors("fresh"))
    assert (answer.status_code, "FORECASTING_WAREHOUSE_URL is not set" in answer.text) == (503, True)


def test_a_programming_error_shows_no_traceback(doors: Login) -> None:
    from forecasts_ui.app import create_app

    client = TestClient(create_app(lambda: None), raise_server_exceptions=False)  # type: ignore[arg-type,return-value]
    answer = client.get("/", headers=PAGE | doors("fresh"))
    assert (answer.status_code, "Traceback" in answer.text) == (500, False)
    assert "This page failed." in answer.text


# --- the plugin -----------------------------------------------------------------------------------------------------


def test_plotly_is_served_from_its_package(client: TestClient, doors: Login) -> None:
    got = client.get("/static/plotly.min.js", headers=doors())
    assert got.status_code == 200
    assert re.match(r"/\*\*\s+\* plotly\.js v", got.text)
    assert "immutable" in got.headers["cache-control"]


PROBE = """
import sys, time
import airflow.plugins_manager
from airflow._shared.plugins_manager.plugins_manager import _load_plugins_from_plugin_directory as load
before, began = set(sys.modules), time.perf_counter()
plugins, errors = load(sys.argv[1])
print(f"{time.perf_counter() - began:.4f}", len(plugins), errors or "", *(set(sys.modules) - before))
assert [view["url_route"] for view in plugins[0].external_views] == ["forecasts", "forecast"]
"""


def test_a_task_start_pays_next_to_nothing_for_the_plugin() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(ROOT / "plugins")], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    seconds, found, *loaded = done.stdout.splitlines()[-1].split()
    left_out = (ROOT / "plugins/.airflowignore").read_text().splitlines()
    here = [path.stem for path in (ROOT / "plugins").glob("*.py") if path.name not in left_out]
    assert (found, sorted(loaded)) == ("1", sorted(here))
    assert float(seconds) < 0.5
