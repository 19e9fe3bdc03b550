"""Connections to customers' databases: read-only, one snapshot, every wait bounded; no secret in any message."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

import sqlalchemy as sa
from sqlalchemy import exc

from forecasting.errors import ConfigurationError, SourceError, SourceUnavailableError

__all__ = ["PATIENCE", "Database", "opened", "url_of"]

PATIENCE = 10
"""A whole read may take so many times the source's time-out."""


@dataclass(frozen=True)
class _Driver:
    name: str
    """SQLAlchemy's dialect and driver."""
    module: str
    arguments: Callable[[int], dict[str, object]]
    """Connect arguments that bound the driver's own waits, by seconds."""


_DRIVERS = {
    "postgresql": _Driver(
        "postgresql+psycopg", "psycopg", lambda seconds: {"connect_timeout": seconds, "application_name": "forecasting"}
    ),
    "sqlite": _Driver("sqlite+pysqlite", "sqlite3", lambda seconds: {"timeout": seconds, "check_same_thread": False}),
    "mysql": _Driver(
        "mysql+pymysql",
        "pymysql",
        lambda seconds: dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), seconds),
    ),
    "mssql": _Driver("mssql+pymssql", "pymssql", lambda seconds: {"login_timeout": seconds, "timeout": seconds}),
}
_ALIASES = {"postgres": "postgresql", "mariadb": "mysql", "sqlite3": "sqlite"}


# --- addresses ------------------------------------------------------------------------------------------------------


def url_of(uri: str, root: Path) -> sa.URL:
    """SQLAlchemy's URL of a connection as Airflow, or a person, writes it.

    Args:
        uri: ``postgresql://``, ``postgres://`` or ``postgresql+psycopg://login:password@host:port/database``; likewise
            ``mysql``, ``mariadb``, ``mssql``; ``sqlite:////absolute/path``. What Airflow adds to one is understood.
        root: Where a relative path of an SQLite file starts.

    Raises:
        ConfigurationError: It is no such URL, or its driver is not installed.
    """
    scheme = uri.partition("://")[0].lower() if "://" in uri else ""
    dialect = re.split(r"[-+_]", scheme)[0]
    dialect = _ALIASES.get(dialect, dialect)
    driver = _DRIVERS.get(dialect)
    if driver is None:
        shown = f"begins with {scheme!r}" if re.fullmatch(r"[a-z0-9+_-]{1,30}", scheme) else "has no scheme"
        raise ConfigurationError(
            f"the customer's connection {shown}; a source of kind sql needs one of "
            f"{', '.join(f'{name}://' for name in sorted(_DRIVERS))}"
        )
    if importlib.util.find_spec(driver.module) is None:
        raise ConfigurationError(
            f"the customer's connection needs the Python package {driver.module!r}, which is not installed; install "
            "it beside this package"
        )
    rest, _, query = uri.partition("://")[2].partition("?")
    if dialect == "sqlite":
        return _file_url(driver, rest, root)
    try:
        url = sa.make_url(f"{driver.name}://{rest}")
    except Exception:  # its text may quote the URL
        raise ConfigurationError(
            "the customer's connection is not of the form scheme://login:password@host:port/database; percent-encode "
            "what a password holds of : / @ ? # %"
        ) from None
    # Airflow quotes every part
    host, name = unquote(url.host or "") or None, unquote(url.database or "") or None
    return url.set(query=_parameters(query), host=host, database=name)


def _file_url(driver: _Driver, rest: str, root: Path) -> sa.URL:
    """An SQLite file, read-only. Airflow writes the path as a host, or percent-encoded as a schema."""
    path = Path(str(root / unquote(rest.removeprefix("/"))).replace("//", "/"))
    return sa.URL.create(driver.name, database=f"file:{quote(str(path))}", query={"mode": "ro", "uri": "true"})


def _parameters(query: str) -> dict[str, str]:
    """The driver's parameters; Airflow packs a connection's Extra into one where it holds more than texts."""
    found = dict(parse_qsl(query, keep_blank_values=True))
    packed = found.pop("__extra__", "")
    try:
        extra = json.loads(packed or "{}")
    except ValueError:
        extra = None
    if not isinstance(extra, dict) or any(isinstance(value, (dict, list, float)) for value in extra.values()):
        raise ConfigurationError(
            "the Extra of the customer's Airflow connection holds more than names with texts, whole numbers or "
            'booleans; write only the driver\'s own parameters there, such as {"sslmode": "require"}'
        )
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in extra.items()}
    return {**found, **{name: text for name, text in texts.items() if extra[name] is not None}}


# --- connections ----------------------------------------------------------------------------------------------------


@dataclass
class Database:
    """A connection in a read-only transaction, and the watch over every wait for it."""

    connection: sa.Connection
    shown: str
    """Where it stands, without credentials."""
    timeout: int
    _watch: _Watch = field(repr=False)

    @classmethod
    def over(cls, connection: sa.Connection, timeout: int) -> Database:
        """A connection that somebody else opened, and bounds."""
        return cls(connection, _shown(connection.engine.url), timeout, _Watch(timeout))

    @property
    def dialect(self) -> str:
        """SQLAlchemy's name of it."""
        return self.connection.dialect.name

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Bound the waits of the block by the source's time-out, and turn the driver's errors into sentences."""
        with _told(self.shown, self._watch), self._watch.waiting():
            yield


@contextmanager
def opened(uri: str | None, root: Path, timeout: int) -> Iterator[Database]:
    """Connect for the length of the block: read-only, one snapshot for all its statements, rolled back at the end.

    Args:
        uri: As :func:`url_of` takes it.
        root: Where relative paths start.
        timeout: Seconds for the connection, and for every later answer; the whole may take ``PATIENCE`` times as long.

    Raises:
        SourceUnavailableError: The database cannot be reached, refuses the login, or is too slow; worth another try.
        ConfigurationError: The connection is missing, or cannot be used.
    """
    if not uri:
        raise SourceUnavailableError(
            "the source needs the customer's connection and none was given; create the Airflow connection, or set it "
            "by `forecasting connection set`"
        )
    url = url_of(uri, root)
    shown, watch = _shown(url), _Watch(timeout)
    if url.get_backend_name() == "sqlite" and not Path(shown).is_file():
        raise SourceUnavailableError(f"{shown}: there is no such file; check the path in the customer's connection")
    driver = _DRIVERS[url.get_backend_name()]
    engine = sa.create_engine(
        url, connect_args=driver.arguments(timeout), poolclass=sa.pool.NullPool, hide_parameters=True
    )
    sa.event.listen(engine, "connect", watch.take, insert=True)
    sa.event.listen(engine, "handle_error", _close_cursor)
    try:
        with _told(shown, watch), watch.waiting():
            connection = _begin(engine, timeout)
        try:
            yield Database(connection, shown, timeout, watch)
        finally:
            with suppress(exc.DBAPIError), watch.waiting():
                connection.close()
    finally:
        engine.dispose()


def _shown(url: sa.URL) -> str:
    if url.get_backend_name() == "sqlite":
        return unquote((url.database or "").removeprefix("file:"))
    port = f":{url.port}" if url.port else ""
    return f"{url.get_backend_name()}://{url.host or 'localhost'}{port}/{url.database or ''}"


def _begin(engine: sa.Engine, timeout: int) -> sa.Connection:
    """A connection inside a read-only transaction that sees one state of the database."""
    options: dict[str, Any] = {}
    if engine.dialect.name == "postgresql":
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    elif engine.dialect.name == "mysql":
        options = {"isolation_level": "REPEATABLE READ"}
    connection = engine.connect().execution_options(**options)
    if engine.dialect.name == "postgresql":
        # for the transaction only, and not as start parameters, which poolers refuse
        settings = {"statement_timeout": f"{timeout}s", "lock_timeout": f"{timeout}s", "timezone": "UTC"}
        for name, value in settings.items():
            connection.execute(sa.select(sa.func.set_config(name, value, True)))
    elif engine.dialect.name == "mysql":
        connection.exec_driver_sql("SET time_zone = '+00:00'")
        connection.exec_driver_sql("START TRANSACTION READ ONLY")
    elif engine.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN")  # the driver begins none of its own accord for a SELECT
    return connection


def _close_cursor(context: sa.engine.ExceptionContext) -> None:
    """A cursor whose connection is lost is left open by SQLAlchemy, which its driver warns of."""
    cursor = getattr(context.execution_context, "cursor", None)
    if context.is_disconnect and cursor is not None:
        with suppress(Exception):
            cursor.close()


class _Watch:
    """Ends a connection from outside when an answer takes too long: a server may fall silent without closing."""

    def __init__(self, timeout: int) -> None:
        self.timeout, self.expired = timeout, False
        self.deadline = time.monotonic() + PATIENCE * timeout
        self._connection: Any = None

    def take(self, connection: Any, record: object = None) -> None:
        """Watch over this driver's connection."""
        self._connection = connection

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Watch for the length of the block; the server's own time-out comes first where it has one."""
        patience = min(self.timeout * 1.1 + 1, self.deadline - time.monotonic())
        if patience <= 0:
            self.expired = True
            raise TimeoutError
        timer = threading.Timer(patience, self._end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def _end(self) -> None:
        self.expired = True
        connection = self._connection
        if hasattr(connection, "interrupt"):
            connection.interrupt()
        elif hasattr(connection, "pgconn"):
            with suppress(Exception), socket.socket(fileno=os.dup(connection.pgconn.socket)) as line:
                line.shutdown(socket.SHUT_RDWR)


# --- what went wrong ------------------------------------------------------------------------------------------------


# searched in "<state> <text>": a state is looked for at the beginning only, for a port may look like one
_REASONS = (
    (
        r"^28...|password authentication failed|no password supplied|role .* does not exist|Access denied",
        "it refuses the login; check login and password in the customer's connection",
    ),
    (
        r"^3D000|database .* does not exist|Unknown database",
        "there is no such database; check the last part of the connection",
    ),
    (r"no pg_hba.conf entry", "it lets nobody in from here; ask its administrator to allow this machine"),
    (r"refused", "nothing listens there; check host and port, and that it runs"),
    (r"resolve host|translate host|Name or service", "its host is not known; check the host in the connection"),
    (r"^53300|too many", "it has no free connection; try again later"),
    (r"^57P0[123]|starting up|shutting down", "it is starting or stopping; try again later"),
    (r"SSL|certificate", "no secure connection comes about; check sslmode and certificates in the connection"),
    (r"invalid connection option|bad value for", "the connection holds a parameter that the driver does not know"),
    (r"database is locked", "another process holds the file's lock"),
)


# what another try does not change: the data are otherwise than declared
_WRONG = (
    (r"Could not decode to UTF-8", "holds bytes that are not UTF-8 in a text; ask the data owner to correct them"),
    (r"unknown database", "there is no such table or view, nor a schema of that name; correct source.table"),
    (r"no such (table|column)|^42P01|^42703", "what it is a view of is not there any more; ask the data owner"),
    (r"not a database|malformed", "is no database file, or a damaged one; ask for it to be delivered again"),
)


@contextmanager
def _told(shown: str, watch: _Watch) -> Iterator[None]:
    """Turn a driver's error into ours. Its own text stays out: it may quote the URL, or values."""
    try:
        yield
    except (exc.SQLAlchemyError, OSError) as error:
        cause = error.orig if isinstance(error, exc.DBAPIError) else error
        raise _explained(cause or error, shown, watch) from None


def _explained(cause: BaseException, shown: str, watch: _Watch) -> SourceError:
    state, text = getattr(cause, "sqlstate", None) or "", str(cause)
    late = watch.expired or state in ("57014", "55P03") or type(cause).__name__ == "ConnectionTimeout"
    if late or isinstance(cause, TimeoutError):
        what = "a lock on the table is held" if state == "55P03" else "no answer"
        return SourceUnavailableError(
            f"{shown}: {what} within source.timeout, {watch.timeout} s (and {PATIENCE} times that for a whole pull); "
            "check that the server is well, that nothing locks the table and that the column of days has an index, or "
            "raise source.timeout"
        )
    if state == "42501":
        return SourceError(f"{shown}: the login may not read what is declared")
    if state.startswith("22") or type(cause).__name__ == "DataError":
        return SourceError(
            f"{shown}: holds a value that cannot be read (such as a day outside the calendar, or a view's failing "
            "cast); ask the data owner, or read a view that leaves such rows out"
        )
    wrong = next((said for pattern, said in _WRONG if re.search(pattern, f"{state} {text}")), "")
    if wrong:
        return SourceError(f"{shown}: {wrong}")
    known = next((said for pattern, said in _REASONS if re.search(pattern, f"{state} {text}")), "")
    what = known or f"it does not answer as expected ({type(cause).__name__}{f', {state}' if state else ''})"
    return SourceUnavailableError(f"{shown}: {what}")
