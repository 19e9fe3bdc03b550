"""The app behind the pages: routes, who may see what, and how it answers when something is wrong."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import asdict
from datetime import UTC, date, datetime
from functools import cache
from http import HTTPStatus
from math import isfinite
from typing import Annotated, Any

import sqlalchemy as sa
from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag, requires_authenticated
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from forecasting.errors import ConfigurationError, ForecastingError, WarehouseUnavailableError
from forecasting.store import pages
from forecasts_ui import show

__all__ = ["POLICY", "PREFIX", "create_app"]

log = logging.getLogger(__name__)

PREFIX = "forecast__"
"""What stands before the customer's id in the id of its DAG."""
ASKS = "approve__"
"""What stands before it in the id of the DAG that asks a person; that DAG has the same tab."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        # plotly.js adds one empty <style> and fills it by script: the hash is that of the empty text
        "style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
        "base-uri 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Text = Annotated[str, Query(max_length=2_000)]
SeriesId = Annotated[str, Query(min_length=1, max_length=2_000)]


def create_app(connect: Callable[[], sa.Engine] | None = None, now: Callable[[], datetime] | None = None) -> FastAPI:
    """The pages, closed to everybody who is not logged in to Airflow.

    Args:
        connect: Gives the warehouse's engine; called when a page first needs it.
        now: The clock.
    """
    # On the app, not on routes: one that is added later cannot be forgotten.
    app = FastAPI(
        title="Forecasts",
        dependencies=[Depends(requires_authenticated())],
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.connect = connect or _engine
    app.state.now = now or (lambda: datetime.now(UTC))
    app.add_middleware(_Headers)
    for error, handler in _HANDLERS.items():
        app.add_exception_handler(error, handler)
    own = [Depends(requires_access_dag(method="GET"))]
    app.get("/", response_class=HTMLResponse)(fleet)
    app.get("/dags/{dag_id}", response_class=HTMLResponse, dependencies=own)(customer)
    app.get("/dags/{dag_id}/search", response_class=HTMLResponse, dependencies=own)(search)
    app.get("/dags/{dag_id}/chart", dependencies=own)(chart)
    app.get("/static/{name}", response_class=FileResponse)(static)
    app.api_route("/{rest:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])(nothing)
    return app


@cache
def _engine() -> sa.Engine:
    from forecasting.config import settings
    from forecasting.store import warehouse

    url = settings().warehouse_url
    if url is None:
        raise WarehouseUnavailableError("FORECASTING_WAREHOUSE_URL is not set in the API server's environment; set it.")
    return warehouse.connect(url, patience=3, connections=5)


class _Headers:
    """Puts the security headers on every answer, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                kept = {name.lower() for name, _ in message["headers"]}
                if b"cache-control" not in kept:
                    given.append((b"cache-control", b"private, no-store"))
                message["headers"] = [*message["headers"], *given]
            await send(message)

        await self.app(scope, receive, with_headers)


# --- routes ---------------------------------------------------------------------------------------------------------
# Plain functions: Starlette runs them in threads, so that SQL does not block the server.


def fleet(request: Request, user: GetUserDep) -> HTMLResponse:
    """Every customer whose DAG the user may see, what is wrong first."""
    visible = get_auth_manager().get_authorized_dag_ids(user=user, method="GET")
    ids = sorted(name for name in (_customer_id(dag_id) for dag_id in visible) if name)
    standings = pages.fleet(_warehouse(request), ids)
    rows = sorted((show.fleet_row(one, _now(request)) for one in standings), key=lambda row: row.order)
    waiting = sorted(set(ids) - {one.customer_id for one in standings})
    return _page(request, "fleet.html", rows=rows, waiting=waiting, now=_now(request))


def customer(
    request: Request, dag_id: str, q: Text = "", node: Text = "", series: Text = "", run: Text = ""
) -> HTMLResponse:
    """One customer: a series' chart, the search for others, contract results, refused rows, runs."""
    customer_id = _known_customer(dag_id)
    engine = _warehouse(request)
    found_customers = pages.fleet(engine, [customer_id])
    if not found_customers:
        raise HTTPException(HTTPStatus.NOT_FOUND, f"{customer_id} is not in the warehouse yet: no night has begun.")
    found = pages.search_series(engine, customer_id, q)
    chosen = (node, series) if series else next(((one.node, one.unique_id) for one in found), None)
    return _page(
        request,
        "customer.html",
        dag_id=dag_id,
        row=show.fleet_row(found_customers[0], _now(request)),
        q=q,
        found=found,
        chosen=chosen,
        checks=pages.contract_results(engine, customer_id),
        refused=pages.quarantined(engine, customer_id),
        runs=pages.recent_runs(engine, customer_id),
        now=_now(request),
    )


def search(request: Request, dag_id: str, q: Text = "") -> HTMLResponse:
    """The list of series that a search found, as a piece of a page."""
    found = pages.search_series(_warehouse(request), _known_customer(dag_id), q)
    return _page(request, "found.html", dag_id=dag_id, q=q, found=found)


def chart(request: Request, dag_id: str, node: SeriesId, series: SeriesId) -> JSONResponse:
    """One series' history and published forecast."""
    customer_id = _known_customer(dag_id)
    made = pages.chart(_warehouse(request), customer_id, node, series)
    if made is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, f"{customer_id} has no series {series!r} on node {node!r}.")
    return JSONResponse(_plain(asdict(made) | {"label": show.series_label(node, series)}))


def static(name: str) -> FileResponse:
    """Style, script and plotly.js; their addresses hold their version, so browsers may keep them."""
    path = show.STATIC.get(name)
    if path is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such file.")
    return FileResponse(path, headers={"Cache-Control": "private, max-age=31536000, immutable"})


def nothing(rest: str) -> Response:
    """Any other address: closed like the rest, and empty."""
    raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such page.")


def _warehouse(request: Request) -> sa.Engine:
    engine: sa.Engine = request.app.state.connect()
    return engine


def _now(request: Request) -> datetime:
    moment: datetime = request.app.state.now()
    return moment


def _customer_id(dag_id: str) -> str | None:
    match = re.fullmatch(rf"{PREFIX}([a-z][a-z0-9_]{{1,30}})", dag_id)
    return match[1] if match else None


def _known_customer(dag_id: str) -> str:
    customer_id = _customer_id(re.sub(f"^{ASKS}", PREFIX, dag_id))
    if customer_id is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, f"{dag_id} is not the DAG of a customer; theirs begin with {PREFIX}.")
    return customer_id


def _plain(value: Any) -> Any:
    """The nearest that JSON has; what is not finite is null."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not isfinite(value):
        return None
    return value.isoformat() if isinstance(value, date) else value


def _page(request: Request, name: str, status: int = 200, **values: Any) -> HTMLResponse:
    root = request.scope.get("root_path", "").rstrip("/")
    return HTMLResponse(show.render(name, root=root, **values), status)


# --- when something is wrong ----------------------------------------------------------------------------------------


def _wrong(request: Request, status: int, sentence: str) -> Response:
    """A page for people, a sentence for scripts; strangers get no page."""
    if status == HTTPStatus.UNAUTHORIZED:
        return PlainTextResponse("Log in to Airflow first.\n", status, headers={"WWW-Authenticate": "Bearer"})
    if "text/html" in request.headers.get("accept", "") and not request.url.path.endswith(("/search", "/chart")):
        return _page(request, "error.html", status, title=HTTPStatus(status).phrase, sentence=sentence)
    return PlainTextResponse(sentence + "\n", status)


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    return _wrong(request, error.status_code, str(error.detail))


def _unusable(request: Request, error: Exception) -> Response:
    return _wrong(request, HTTPStatus.UNPROCESSABLE_ENTITY, "A parameter of this address is missing or too long.")


def _unknown(request: Request, error: Exception) -> Response:
    return _wrong(request, HTTPStatus.NOT_FOUND, str(error))


def _unavailable(request: Request, error: Exception) -> Response:
    return _wrong(request, HTTPStatus.SERVICE_UNAVAILABLE, str(error))


def _failed(request: Request, error: Exception) -> Response:
    return _wrong(request, HTTPStatus.INTERNAL_SERVER_ERROR, "This page failed. The API server's log says why.")


_Handler = Callable[[Request, Exception], Response | Awaitable[Response]]


def _handlers() -> dict[type[Exception], _Handler]:
    from fastapi.exceptions import RequestValidationError

    return {
        StarletteHTTPException: _http,
        RequestValidationError: _unusable,
        ConfigurationError: _unknown,
        ForecastingError: _unavailable,
        Exception: _failed,
    }


_HANDLERS = _handlers()
