"""Customers' connections outside Airflow, and how they get into it. No secret is printed, logged or put elsewhere."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit
from zoneinfo import ZoneInfo

from forecasting import config
from forecasting.config import Customer, Settings
from forecasting.errors import ConfigurationError, ServerError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from forecasting.cli.local import Api

__all__ = ["airflow_body", "examine", "grant_declared", "hand_over", "needed", "store", "uri_of"]

FILE = "connections.json"
"""Below FORECASTING_HOME: customer → URI, readable by its owner only."""


# --- kept here ------------------------------------------------------------------------------------------------------


def uri_of(settings: Settings, customer_id: str) -> str | None:
    """URI of a customer's connection: ``FORECASTING_CONN_<ID>``, else what :func:`store` kept; None if there is none.

    Raises:
        ConfigurationError: The file cannot be read.
    """
    return os.environ.get(f"FORECASTING_CONN_{customer_id.upper()}") or _kept(settings.home).get(customer_id)


def needed(settings: Settings, customer_id: str) -> str:
    """As :func:`uri_of`, for a customer that declares a connection.

    Raises:
        ConfigurationError: There is none.
    """
    uri = uri_of(settings, customer_id)
    if uri is None:
        raise ConfigurationError(
            f"{customer_id} declares a connection and has none: run `forecasting connection set {customer_id} -`, or "
            f"set FORECASTING_CONN_{customer_id.upper()} to its URI"
        )
    return uri


def store(settings: Settings, customer_id: str, uri: str) -> None:
    """Keep a customer's connection for ``run`` and for the local Airflow, in place of the one that was kept.

    Raises:
        ConfigurationError: ``uri`` is no URI; it is not shown.
    """
    airflow_body(customer_id, uri)
    path = settings.home / FILE
    with _alone(path):
        _write_private(path, json.dumps({**_kept(settings.home), customer_id: uri}, indent=1, sort_keys=True))


def _kept(home: Path) -> dict[str, str]:
    path = home / FILE
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # its text may quote the file
        found = None
    if not isinstance(found, dict) or not all(isinstance(uri, str) for uri in found.values()):
        raise ConfigurationError(
            f"{path} cannot be read: expected customer ids with URIs, as JSON. Remove it, and run `forecasting "
            "connection set` again for each customer"
        )
    return found


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two commands at once must not overwrite each other's."""
    with os.fdopen(os.open(path.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
        deadline = time.monotonic() + 10
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ServerError(f"another command has held {path} for 10 s; wait for it, or end it") from None
                time.sleep(0.05)
        yield


def _write_private(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.rename(path)


# --- in Airflow -----------------------------------------------------------------------------------------------------


def airflow_body(customer_id: str, uri: str) -> dict[str, Any]:
    """The Airflow connection of a URI, as its REST API takes it; ``Connection.get_uri()`` gives the URI back.

    Raises:
        ConfigurationError: It is no URI; it is not shown.

    >>> airflow_body("gifts", "postgresql+psycopg://me:p%40ss@db:5432/shop?sslmode=require")["conn_type"]
    'postgres'
    """
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if not re.fullmatch(r"[a-z][a-z0-9+.\-]*", parts.scheme) or not uri.partition("://")[1]:
        raise ConfigurationError(
            f"the connection of {customer_id} is no URI; expected scheme://login:password@host:port/name?option=value, "
            "with : / @ ? # % of a password percent-encoded"
        )
    scheme = parts.scheme.partition("+")[0] if "sql" in parts.scheme else parts.scheme
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return {
        "connection_id": f"forecasting_{customer_id}",
        "conn_type": {"postgresql": "postgres"}.get(scheme, scheme.replace("-", "_")),
        "description": f"Source of {customer_id}, kept by `forecasting connection set`",
        "host": unquote(parts.hostname or "") or None,
        "login": None if parts.username is None else unquote(parts.username),
        "password": None if parts.password is None else unquote(parts.password),
        "schema": unquote(parts.path[1:]) or None,
        "port": port,
        "extra": query.pop("__extra__", None) or (json.dumps(query) if query else None),
    }


def hand_over(api: Api, settings: Settings) -> list[str]:
    """Create or update in Airflow the connections that are kept here, of customers that declare one.

    Returns:
        The customers whose connection Airflow now has from here.

    Raises:
        ServerError: Airflow refused one; without its values.
    """
    done = []
    for customer in config.sound_customers(settings.customers):
        if customer.source.connection and (uri := uri_of(settings, customer.id)):
            _put(api, airflow_body(customer.id, uri))
            done.append(customer.id)
    return done


def _put(api: Api, body: Mapping[str, Any]) -> None:
    name = body["connection_id"]
    there = api.get(f"/connections?limit=100&connection_id_pattern={name}")["connections"]
    try:
        if any(one["connection_id"] == name for one in there):
            api.patch(f"/connections/{name}", body)
        else:
            api.post("/connections", body)
    except ServerError as error:  # an answer to what it refuses may quote what it was given
        code = re.search(r": (\d{3} [A-Za-z ]+)", str(error))
        raise ServerError(
            f"Airflow refused the connection {name}{f' ({code[1]})' if code else ''}; see the log of its API server"
        ) from None


# --- tried ----------------------------------------------------------------------------------------------------------


def examine(settings: Settings, customer: Customer, say: Callable[[str], None]) -> None:
    """Open a customer's source as a pull would, with its time-outs, and say what stands there.

    Raises:
        SourceError, SourceUnavailableError, ConfigurationError: It cannot be opened, or is not what is declared.
    """
    from forecasting.data import sources
    from forecasting.data.sources import database
    from forecasting.feed import SqlSource

    uri = needed(settings, customer.id) if customer.source.connection else None
    access = sources.Access(settings.root, settings.deliveries, uri, settings.http_hosts)
    today = datetime.now(ZoneInfo(customer.time_zone)).date()
    began = time.monotonic()
    if isinstance(customer.source, SqlSource):
        for found in database.examine(customer, access, today):
            say(f"{found.table}: {', '.join(f'{name} {kind}' for name, kind in found.columns.items())}")
            _say_days(found.days, say)
    else:
        feed = sources.pull(customer, access=access, until=today + timedelta(days=customer.horizon))
        say(f"{', '.join(feed.files)}: {', '.join(sources.delivered(customer))}")
        newest = feed.days.tail(database.NEWEST)
        _say_days(dict(zip((day.date() for day in newest["day"]), newest["lines"], strict=True)), say)
    say(f"{customer.id}: its source answers as declared; {time.monotonic() - began:.1f} s")


def _say_days(days: Mapping[date, int], say: Callable[[str], None]) -> None:
    if not days:
        say("  no day up to today")
        return
    counts = ", ".join(f"{day} {count:,}" for day, count in sorted(days.items(), reverse=True))
    say(f"  newest day {max(days)}; rows of the newest days: {counts}")


def grant_declared(engine: sa.Engine, customer: Customer, login: str) -> None:
    """Give ``login`` the right to read what the customer's file declares of its tables, and nothing else.

    Args:
        engine: With the login that owns the tables.
        customer: Of a source of kind sql.
        login: Of the customer's connection.
    """
    import sqlalchemy as sa
    from sqlalchemy.sql.elements import quoted_name

    from forecasting.data.sources import database

    def quoted(name: str) -> str:
        return engine.dialect.identifier_preparer.quote(quoted_name(name, True))

    with engine.begin() as connection:
        for (schema, table), columns in database.declared(customer, connection).items():
            place = ".".join(quoted(name) for name in (schema, table) if name)
            if schema:
                connection.execute(sa.text(f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {quoted(login)}"))
            connection.execute(sa.text(f"REVOKE ALL ON {place} FROM {quoted(login)}"))
            names = ", ".join(quoted(name) for name in columns).replace(":", "\\:")
            connection.execute(sa.text(f"GRANT SELECT ({names}) ON {place} TO {quoted(login)}"))
