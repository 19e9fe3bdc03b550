from __future__ import annotations

import http.server
import json
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from sqlalchemy import exc
from typer.testing import CliRunner

from forecasting import config
from forecasting.cli import connections, local, main, night
from forecasting.data.sources import storage
from forecasting.data.sources.dialects import url_of
from forecasting.errors import ConfigurationError, ServerError
from forecasting.pipeline import Deployment
from forecasting.store import embedded

YAML = """
id: shop
time_zone: Europe/London
first_date: 2010-12-20
last_date: 2010-12-20
source: {kind: sql, table: shop.lines, names: {sku: StockCode, qty: Quantity, day: InvoiceDate}}
columns: {ds: day, y: qty, keys: [sku]}
contract: shop
absent: zero
"""
PLAIN = YAML.replace("id: shop", "id: plain").replace("{kind: sql, table: shop.lines, names", "{uri: a.csv, names")


@pytest.fixture
def checkout(checkout: Path) -> Path:
    for name, text in (("shop", YAML), ("plain", PLAIN)):
        (checkout / f"dags/customers/{name}.yaml").write_text(text, encoding="utf-8")
    return checkout


@pytest.fixture
def settings(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> config.Settings:
    """Of a deployment without servers; the commands' environment says the same."""
    monkeypatch.setenv("FORECASTING_HOME", str(checkout / "home"))
    monkeypatch.setenv("FORECASTING_ROOT", str(checkout))
    (checkout / "home").mkdir()
    return config.settings()


def said(*command: str, stdin: str = "", code: int = 0) -> str:
    done = CliRunner().invoke(main.app, ["connection", *command], input=stdin)
    text = f"{done.output}{done.exception or ''}"
    assert (done.exit_code == 0) == (code == 0), text
    return text


@pytest.fixture
def shop(empty_url: str) -> str:
    """URL of a shop's database with two declared columns too many for a stranger."""
    engine = sa.create_engine(empty_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA shop")
        connection.exec_driver_sql(
            'CREATE TABLE shop.lines ("StockCode" text, "Quantity" integer, "InvoiceDate" timestamp, "Customer" text)'
        )
        connection.exec_driver_sql(
            "INSERT INTO shop.lines SELECT 'S', 1, timestamp '2010-12-01 10:00' + (g / 2) * interval '1 day' "
            "FROM generate_series(0, 18) AS g"
        )
    engine.dispose()
    return empty_url


# --- kept -----------------------------------------------------------------------------------------------------------


def test_a_connection_is_kept_for_its_owner_alone_and_never_shown(settings):
    told = said("set", "shop", "-", stdin="postgresql://me:hunter2@db/shop\n")
    assert "hunter2" not in told
    path = settings.home / "connections.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert connections.uri_of(settings, "shop") == "postgresql://me:hunter2@db/shop"
    said("set", "shop", "sqlite:////tmp/a.db")
    assert connections.uri_of(settings, "shop") == "sqlite:////tmp/a.db"


def test_the_environment_comes_before_the_file(settings, monkeypatch):
    connections.store(settings, "shop", "sqlite:////tmp/a.db")
    monkeypatch.setenv("FORECASTING_CONN_SHOP", "sqlite:////tmp/b.db")
    assert connections.uri_of(settings, "shop") == "sqlite:////tmp/b.db"


def test_what_is_no_uri_is_refused_without_showing_it(settings):
    for uri in ("hunter2", "me:hunter2@db", "postgresql://me:hunter2@db:port/x", "", "://hunter2"):
        assert "hunter2" not in said("set", "shop", "-", stdin=f"{uri}\n", code=2)
    assert "declares no connection" in said("set", "plain", "sqlite:////tmp/a.db", code=2)
    assert "no customer" in said("set", "shopp", "sqlite:////tmp/a.db", code=2)


def test_a_broken_file_is_a_sentence_without_its_text(settings):
    (settings.home / "connections.json").write_text('{"shop": "postgresql://me:hunter2@db/shop')
    with pytest.raises(ConfigurationError, match=r"connections\.json cannot be read.*Remove it") as caught:
        connections.uri_of(settings, "shop")
    assert "hunter2" not in str(caught.value)


def test_a_run_without_a_connection_says_both_ways_to_set_one(settings, monkeypatch):
    monkeypatch.delenv("FORECASTING_CONN_SHOP", raising=False)
    deployment = Deployment(settings, sa.create_engine("sqlite://"), "sqlite://")
    with pytest.raises(ConfigurationError, match="`forecasting connection set shop -`, or set FORECASTING_CONN_SHOP"):
        night._uri(deployment, "shop")
    assert night._uri(deployment, "plain") is None
    connections.store(settings, "shop", "sqlite:////tmp/a.db")
    assert night._uri(deployment, "shop") == "sqlite:////tmp/a.db"


# --- tried ----------------------------------------------------------------------------------------------------------


def test_a_source_is_tried_and_tells_its_columns_and_newest_days(settings, shop):
    connections.store(settings, "shop", shop)
    told = said("test", "shop")
    assert "shop.lines: InvoiceDate TIMESTAMP, StockCode TEXT, Quantity INTEGER" in told
    assert "newest day 2010-12-10; rows of the newest days: 2010-12-10 1, 2010-12-09 2, 2010-12-08 2" in told
    assert "2010-12-03" not in told
    assert "Customer" not in told
    assert sa.make_url(shop).password not in told


def test_a_source_that_is_not_there_is_told_without_its_password(settings):
    connections.store(settings, "shop", "postgresql://me:hunter2@127.0.0.1:1/shop")
    told = said("test", "shop", code=4)
    assert "nothing listens there" in told
    assert "hunter2" not in told


# --- in Airflow -----------------------------------------------------------------------------------------------------

URIS = [
    "postgresql://me:p%40ss%2F%3A%3F@127.0.0.1:5432/retail",
    "postgresql+psycopg://me:pass@db.example/retail?sslmode=require&application_name=a%20b",
    "postgres://me:pass@one%2Ctwo:5432/retail?__extra__=%7B%22connect_timeout%22%3A+10%7D",
    "sqlite:////var/lib/Shop/the%20feed.db",
    "s3://KEY:SEC%2FRET%2B@127.0.0.1:9000",
    "s3://KEY:SECRET@/?endpoint_url=http%3A%2F%2F127.0.0.1%3A9000&region_name=eu-central-1",
    "https://me:p%40ss@files.example",
]


@pytest.mark.parametrize("uri", URIS)
def test_airflow_gives_back_an_equivalent_uri(uri):
    """Airflow's own Connection is the oracle; equal is what our readers make of both."""
    from airflow.sdk import Connection

    body = connections.airflow_body("shop", uri)
    named = {name: value for name, value in body.items() if name not in ("connection_id", "description")}
    back = Connection(conn_id="forecasting_shop", **named).get_uri()
    scheme = uri.partition("://")[0]
    if "sql" in scheme or "postgres" in scheme:
        assert url_of(back, Path("/")) == url_of(uri, Path("/"))
    elif scheme == "https":
        assert urlsplit(back).netloc == urlsplit(uri).netloc
    else:
        assert str(storage._storage_options(scheme, back, 5)) == str(storage._storage_options(scheme, uri, 5))


class _Airflow(http.server.BaseHTTPRequestHandler):
    """As much of Airflow's REST API as connections need: its paths, methods and answers."""

    kept: dict[str, dict[str, Any]]
    refuses = False

    def _answer(self, code: int, body: object) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def _body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return found

    def do_GET(self) -> None:
        self._answer(200, {"connections": [{"connection_id": name} for name in self.kept]})

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/auth/token":
            return self._answer(201, {"access_token": "t"})
        if self.refuses or body["connection_id"] in self.kept:
            return self._answer(409, {"detail": f"exists: {body}"})
        self.kept[body["connection_id"]] = body
        return self._answer(201, {})

    def do_PATCH(self) -> None:
        body = self._body()
        assert self.path == f"/api/v2/connections/{body['connection_id']}"
        self.kept[body["connection_id"]].update(body)
        self._answer(200, {})

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def api() -> Iterator[local.Api]:
    _Airflow.kept, _Airflow.refuses = {}, False
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Airflow) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield local.Api(f"http://127.0.0.1:{server.server_port}", "admin", "pass")
        server.shutdown()
        thread.join()


def test_kept_connections_are_created_in_airflow_and_then_updated(settings, api):
    assert connections.hand_over(api, settings) == []
    connections.store(settings, "shop", "postgresql://me:hunter2@db/shop")
    connections.store(settings, "plain", "sqlite:////tmp/a.db")  # declares none: stays here
    assert connections.hand_over(api, settings) == ["shop"]
    connections.store(settings, "shop", "postgresql://me:hunter3@db/shop")
    assert connections.hand_over(api, settings) == ["shop"]
    assert list(_Airflow.kept) == ["forecasting_shop"]
    assert _Airflow.kept["forecasting_shop"]["password"] == "hunter3"


def test_what_airflow_says_of_a_refused_connection_stays_out(settings, api):
    connections.store(settings, "shop", "postgresql://me:hunter2@db/shop")
    _Airflow.refuses = True
    with pytest.raises(ServerError, match=r"refused the connection forecasting_shop \(409 Conflict\)") as caught:
        connections.hand_over(api, settings)
    assert "hunter2" not in str(caught.value)


# --- a shop's own database ------------------------------------------------------------------------------------------


def test_a_shop_has_a_database_of_its_own_and_its_reader_sees_what_is_declared(settings, tmp_path):
    with embedded.server(tmp_path) as running:
        owner, reader = embedded.extra_database(tmp_path, "retail", reader="shop_export")
        assert (owner, reader) == embedded.extra_database(tmp_path, "retail", reader="shop_export")
        engine = sa.create_engine(owner)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE SCHEMA shop")
            connection.exec_driver_sql(
                'CREATE TABLE shop.lines ("StockCode" text, "Quantity" int, "InvoiceDate" timestamp, "Customer" text)'
            )
            connection.exec_driver_sql("INSERT INTO shop.lines VALUES ('S', 1, '2010-12-01', 'secret')")
        customer = config.load_customer(settings.customers / "shop.yaml")
        for _ in range(2):
            connections.grant_declared(engine, customer, "shop_export")
        lines: list[str] = []
        connections.store(settings, "shop", reader)
        connections.examine(settings, customer, lines.append)
        assert "newest day 2010-12-01" in lines[1]
        for query in ('SELECT "Customer" FROM shop.lines', "DELETE FROM shop.lines", "CREATE TABLE x ()"):
            with pytest.raises(exc.ProgrammingError, match="permission denied"):
                _ask(reader, query)
        for url in (owner, reader):
            for other in ("airflow", "mlflow", "postgres"):
                with pytest.raises(exc.OperationalError, match="permission denied"):
                    _ask(elsewhere(url, other), "SELECT 1")
            with pytest.raises(exc.ProgrammingError, match="permission denied"):
                _ask(elsewhere(url, "warehouse"), "CREATE TABLE x ()")
        with pytest.raises(exc.OperationalError, match="permission denied"):
            _ask(elsewhere(running.url("warehouse"), "retail"), "SELECT 1")
        engine.dispose()
    others = tmp_path / "postgres/others.json"
    assert stat.S_IMODE(others.stat().st_mode) == 0o600


def elsewhere(url: str, database: str) -> str:
    return sa.make_url(url).set(database=database).render_as_string(hide_password=False)


def _ask(url: str, query: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(query)


@pytest.mark.parametrize(("name", "reader"), [("warehouse", "x"), ("x", "postgres"), ("X y", "x"), ("x", "x")])
def test_a_name_of_the_products_own_is_refused(tmp_path, name, reader):
    with pytest.raises(ValueError, match="beside the product's own"):
        embedded.extra_database(tmp_path, name, reader=reader)
