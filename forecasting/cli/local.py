"""A whole Airflow on this machine, for ``make up`` and ``make demo``: started, watched and stopped as one thing."""

from __future__ import annotations

import base64
import fcntl
import json
import logging
import os
import pwd
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import forecasting
from forecasting.config import Settings
from forecasting.errors import ServerError
from forecasting.store import embedded

__all__ = ["PRELOAD", "Api", "LocalAirflow", "airflow", "command_line", "environment", "secrets_of"]

log = logging.getLogger(__name__)

PRELOAD = (
    "pandas",
    "pyarrow.parquet",
    "great_expectations",
    "statsforecast",
    "lightgbm",
    "sqlalchemy.dialects.postgresql.psycopg",
    "dvc.repo",
)
"""What the scheduler imports before it forks: its tasks then start with it, instead of importing it each."""

_USER = "admin"

_BOOT = """
import ctypes, importlib, os, sys
ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)  # PR_SET_PDEATHSIG: SIGTERM when the parent is killed
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
for name in filter(None, sys.argv[2].split(",")):
    importlib.import_module(name)
if not sys.stdin.readline():  # imports are done while the database is migrated; this line says that it is
    sys.exit("the parent is gone")
sys.argv = ["airflow", *sys.argv[3:]]
from airflow.__main__ import main
main()
"""


@dataclass
class Api:
    """A small client of Airflow's REST API: JSON in and out, a time-out on every request."""

    base_url: str
    username: str
    password: str = field(repr=False)
    timeout: float = 30

    @cached_property
    def _open(self) -> Callable[..., Any]:
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open  # loopback: never through a proxy

    @cached_property
    def _token(self) -> str:
        login = {"username": self.username, "password": self.password}
        answer: dict[str, str] = self._exchange("POST", "/auth/token", login, {})
        return answer["access_token"]

    def token(self) -> str:
        """The token of this login, fetched once. A secret."""
        return self._token

    def get(self, path: str) -> Any:
        """Answer of ``/api/v2<path>``; a dropped connection is tried again twice.

        Raises:
            ServerError: No answer in time, or an answer that is an error.
        """
        for _ in range(2):
            with suppress(_NoAnswerError):
                return self._call("GET", path)
            time.sleep(1)
        return self._call("GET", path)

    def post(self, path: str, body: Mapping[str, object]) -> Any:
        """Send ``body`` to ``/api/v2<path>`` once and return the answer; errors as in :meth:`get`."""
        return self._call("POST", path, body)

    def put(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        """Call a verb such as ``/backfills/<id>/cancel``; errors as in :meth:`get`."""
        return self._call("PUT", path, body)

    def patch(self, path: str, body: Mapping[str, object]) -> Any:
        """Change what is at ``/api/v2<path>``; errors as in :meth:`get`."""
        return self._call("PATCH", path, body)

    def health(self) -> dict[str, str | None]:
        """Component → status, as Airflow's monitor sees it; empty while the server does not answer."""
        with suppress(ServerError):
            answer = self._exchange("GET", "/api/v2/monitor/health", None, {})
            return {name: part["status"] for name, part in answer.items() if part}
        return {}

    def warm_up(self) -> bool:
        """Make the server build the API that tasks talk to."""
        with suppress(ServerError, ValueError):
            self._exchange("GET", "/execution/health", None, {})
        return True

    def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        return self._exchange(method, f"/api/v2{path}", body, {"Authorization": f"Bearer {self._token}"})

    def _exchange(self, method: str, path: str, body: Mapping[str, object] | None, headers: dict[str, str]) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {**headers, "Content-Type": "application/json", "Accept": "application/json"}
        request = urllib.request.Request(self.base_url + path, data, headers, method=method)
        try:
            with self._open(request, timeout=self.timeout) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            detail = error.read().decode(errors="replace")[:500]
            raise ServerError(f"Airflow refused {method} {path}: {error.code} {error.reason}: {detail}") from None
        except (OSError, TimeoutError) as error:
            raise _NoAnswerError(f"Airflow at {self.base_url} does not answer {method} {path}: {error}") from None
        return json.loads(text) if text else None


class _NoAnswerError(ServerError):
    """No answer, as opposed to an answer that is an error."""


@dataclass
class LocalAirflow:
    """A running local Airflow."""

    env: dict[str, str] = field(repr=False)
    """Environment of its components: use it for every ``airflow`` or ``forecasting`` process beside them."""
    api: Api
    home: Path
    _components: dict[str, subprocess.Popen[bytes]] = field(repr=False)

    @property
    def base_url(self) -> str:
        """Address of the UI and the API, on loopback."""
        return self.api.base_url

    @property
    def username(self) -> str:
        """Login of the UI."""
        return self.api.username

    @property
    def password(self) -> str:
        """Password of the UI. A secret."""
        return self.api.password

    def token(self) -> str:
        """Token of the API. A secret."""
        return self.api.token()

    def check(self) -> None:
        """Do nothing if every component lives.

        Raises:
            ServerError: One has ended; with the last lines of its log.
        """
        for name, process in self._components.items():
            if process.poll() is not None:
                raise ServerError(f"Airflow's {name} ended with code {process.returncode}. {_tail(self.home, name)}")

    def run(self, *command: str, timeout: float = 120) -> str:
        """Output of ``airflow <command>`` beside the running components.

        Raises:
            ServerError: The command failed or took too long; with what it printed.
        """
        return command_line(list(command), self.env, timeout)


@contextmanager
def airflow(
    settings: Settings,
    *,
    triggerer: bool = True,
    port: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
    parallelism: int = 3,
    preload: Sequence[str] = PRELOAD,
    timeout: float = 180,
) -> Iterator[LocalAirflow]:
    """Run Airflow, and the embedded server if needed, for the length of the block; nothing of it is left afterwards.

    Args:
        settings: Of this deployment.
        triggerer: Whether anything deferrable runs; the demo needs none.
        port: Of the API server on loopback; None takes any free one.
        on_progress: Told, in a few words, what is going on.
        parallelism: Tasks at a time.
        preload: Modules that the scheduler imports before it forks its workers.
        timeout: Seconds until it must be healthy.

    Raises:
        ServerError: It runs already, or a component ended or did not become healthy in time.
    """
    with ExitStack() as stack:
        stack.enter_context(embedded.ends_on_signals())
        _make_private(settings.home / "airflow")
        _make_private(settings.home / "logs")
        mark = stack.enter_context(_only_one(settings.home))
        on_progress("starting PostgreSQL")
        urls = stack.enter_context(embedded.deployment(settings))
        port = port if port is not None else _free_port()
        env = environment(settings, urls, port=port, parallelism=parallelism)
        components = stack.enter_context(_components(settings.home, env, triggerer, preload))
        running = LocalAirflow(
            env,
            Api(f"http://127.0.0.1:{port}", _USER, secrets_of(settings.home)["password"]),
            settings.home,
            components,
        )
        _migrate(settings, env, on_progress)
        for process in components.values():
            _let_go(process)
        _wait_until_healthy(running, triggerer, on_progress, timeout)
        mark.write_text(f"process {os.getpid()}, {running.base_url}\n")
        yield running


def environment(
    settings: Settings, urls: Mapping[str, str], *, port: int = 8080, parallelism: int = 3
) -> dict[str, str]:
    """The whole environment of a local Airflow's components, in one place. What the user set for Airflow stays out.

    Args:
        settings: Of this deployment.
        urls: Of the three databases, as :func:`forecasting.store.embedded.deployment` gives them.
        port: Of the API server, on loopback.
        parallelism: Tasks at a time.
    """
    home, hidden = settings.home / "airflow", secrets_of(settings.home)
    options: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": settings.root / "dags",
            "plugins_folder": settings.root / "plugins",
            "executor": "LocalExecutor",
            "parallelism": parallelism,
            "mp_start_method": "fork",
            "load_examples": False,
            "auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "simple_auth_manager_users": f"{_USER}:admin",
            "simple_auth_manager_passwords_file": home / "passwords.json",
            "fernet_key": hidden["fernet_key"],
            "execution_api_server_url": f"http://127.0.0.1:{port}/execution/",
            "hostname_callable": "socket.gethostname",  # getfqdn asks DNS
        },
        "database": {"sql_alchemy_conn": urls["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]},
        "api": {
            "host": "127.0.0.1",
            "port": port,
            "base_url": f"http://127.0.0.1:{port}",
            "workers": 1,
            "secret_key": hidden["secret_key"],
            "enable_swagger_ui": False,
            "expose_config": False,
        },
        "api_auth": {"jwt_secret": hidden["jwt_secret"]},
        "execution_api": {"jwt_expiration_time": 3600},
        "scheduler": {
            "scheduler_idle_sleep_time": 0.25,
            "enable_health_check": False,
            "task_instance_heartbeat_timeout": 120,  # a killed task is noticed in two minutes, not five
            "orphaned_tasks_check_interval": 60,
        },
        "dag_processor": {
            "min_file_process_interval": 60,  # customers' YAMLs change; the DAG file that reads them does not
            "refresh_interval": 60,
            "parsing_processes": 1,
        },
        "workers": {"min_heartbeat_interval": 1},  # also how long a finished task may go on holding its worker
        "triggerer": {"capacity": 100},
        "logging": {
            "base_log_folder": home / "logs",
            "dag_processor_child_process_log_directory": home / "logs" / "dag_processor",
            "colored_console_log": False,
            "file_task_handler_new_folder_permissions": "0o700",
            "file_task_handler_new_file_permissions": "0o600",
        },
    }
    named = {f"AIRFLOW__{s}__{k}".upper(): str(v) for s, values in options.items() for k, v in values.items()}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    return {
        "LOGNAME": _login_name(),
        **kept,
        **embedded.QUIET,
        **named,
        **urls,
        "AIRFLOW_HOME": str(home),
        "FORECASTING_HOME": str(settings.home),
        "FORECASTING_ROOT": str(settings.root),
        "FORECASTING_ENV": settings.environment,
        "PYTHONPATH": os.pathsep.join(filter(None, [_package_folder(), os.environ.get("PYTHONPATH", "")])),
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": ",".join(filter(None, ["127.0.0.1,localhost", os.environ.get("NO_PROXY", "")])),
        "no_proxy": ",".join(filter(None, ["127.0.0.1,localhost", os.environ.get("no_proxy", "")])),
    }


def _login_name() -> str:
    """This user's name; Airflow refuses to run as one that has none, as in a container under any number."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user{os.getuid()}"


def secrets_of(home: Path) -> dict[str, str]:
    """Keys and the UI's password of the local Airflow of ``home``; made once, readable by the owner only."""
    path = home / "airflow" / "secrets.json"
    _make_private(path.parent)
    if not path.exists():
        hidden = {name: secrets.token_hex(32) for name in ("secret_key", "jwt_secret")}
        hidden["fernet_key"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
        hidden["password"] = secrets.token_urlsafe(12)
        _write_private(path.with_name("passwords.json"), json.dumps({_USER: hidden["password"]}))
        _write_private(path, json.dumps(hidden))
    made: dict[str, str] = json.loads(path.read_text())
    return made


def _package_folder() -> str:
    return str(Path(forecasting.__file__).resolve().parent.parent)


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ServerError(
            f"{folder} cannot be made: {error.strerror}. Set FORECASTING_HOME to a folder of your own."
        ) from None


def _write_private(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.rename(path)


@contextmanager
def _only_one(home: Path) -> Iterator[Path]:
    """Refuse a second Airflow on one home; yields the file that says who runs it."""
    mark = home / "airflow" / "running.txt"
    with (home / "airflow" / "running.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = mark.read_text().strip() if mark.exists() else "still starting"
            raise ServerError(
                f"an Airflow is already running on {home} ({who}). Use it, stop it with Ctrl-C where it was started, "
                "or set FORECASTING_HOME to another folder."
            ) from None
        mark.unlink(missing_ok=True)
        try:
            yield mark
        finally:
            mark.unlink(missing_ok=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


# --- the database ---------------------------------------------------------------------------------------------------


def _migrate(settings: Settings, env: Mapping[str, str], on_progress: Callable[[str], None]) -> None:
    """Migrate Airflow's metadata, unless this version did so already in this very database."""
    done = settings.home / "airflow" / "migrated.txt"
    cluster = settings.home / "postgres" / "passwords.json"  # made anew with every new cluster
    print_of = cluster.read_bytes() if cluster.exists() else b""
    url = env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].rpartition("@")[2].encode() if not print_of else b""
    wanted = f"{version('apache-airflow-core')} {sha256(print_of + url).hexdigest()}\n"
    if "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" not in os.environ and done.exists() and done.read_text() == wanted:
        return
    on_progress("migrating Airflow's database")
    command_line(["db", "migrate"], env, 600)
    done.write_text(wanted)


def command_line(command: list[str], env: Mapping[str, str], timeout: float) -> str:
    """Output of ``airflow <command>`` in that environment.

    Raises:
        ServerError: The command failed or took too long; with what it printed.
    """
    full = [sys.executable, "-m", "airflow", *command]
    shown = f"airflow {' '.join(command)}"
    try:
        done = subprocess.run(
            full, env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise ServerError(f"`{shown}` took longer than {timeout:.0f} s and was ended.") from None
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise ServerError(f"`{shown}` failed with code {done.returncode}:\n{last}")
    return done.stdout


# --- the components -------------------------------------------------------------------------------------------------


@contextmanager
def _components(
    home: Path, env: dict[str, str], triggerer: bool, preload: Sequence[str]
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """The component processes: each imports, then waits for :func:`_let_go`; stopped, with all they started."""
    commands = {
        "api-server": ("airflow.cli.commands.api_server_command", ["api-server"]),
        "scheduler": (
            ",".join(("airflow.cli.commands.scheduler_command", *preload)),
            ["scheduler", "--skip-serve-logs"],
        ),
        "dag-processor": ("airflow.cli.commands.dag_processor_command", ["dag-processor"]),
    }
    if triggerer:
        commands["triggerer"] = ("airflow.cli.commands.triggerer_command", ["triggerer", "--skip-serve-logs"])
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, (modules, command) in commands.items():
            started[name] = _spawn(_log_file(home, name), env, modules, command)
        yield started
    finally:
        with embedded.undisturbed():
            _stop(list(started.values()))


def _spawn(output: Path, env: dict[str, str], modules: str, command: list[str]) -> subprocess.Popen[bytes]:
    if output.exists():
        output.rename(output.with_suffix(".log.1"))
    with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as log_file:
        return subprocess.Popen(
            [sys.executable, "-c", _BOOT, str(os.getpid()), modules, *command],
            env=env, cwd=output.parent, stdin=subprocess.PIPE, stdout=log_file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip


def _let_go(process: subprocess.Popen[bytes]) -> None:
    if process.stdin:
        with suppress(BrokenPipeError):
            process.stdin.write(b"go\n")
            process.stdin.close()


def _wait_until_healthy(
    running: LocalAirflow, triggerer: bool, on_progress: Callable[[str], None], timeout: float
) -> None:
    wanted = ["metadatabase", "scheduler", "dag_processor", *(["triggerer"] if triggerer else [])]
    began, told, warm = time.monotonic(), "", False
    while True:
        running.check()
        health = running.api.health()
        if health and not warm:  # the first request builds the tasks' API: the first task would wait for it
            warm = running.api.warm_up()
        missing = [name for name in wanted if health.get(name) != "healthy"] if health else ["API server", *wanted[1:]]
        if not missing:
            return
        if (state := f"waiting for Airflow's {', '.join(missing).replace('_', ' ')}") != told:
            on_progress(told := state)
        if time.monotonic() - began > timeout:
            names = [name for name in running._components if name.replace("-", "_") in missing] or ["api-server"]
            raise ServerError(f"Airflow is not healthy after {timeout:.0f} s: {state}. {_tail(running.home, names[0])}")
        time.sleep(0.25)


def _stop(processes: list[subprocess.Popen[bytes]], patience: float = 3) -> None:
    """End every process of the components' sessions; tasks make process groups of their own but stay in the session."""
    sessions = {process.pid for process in processes}
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        for pid in _members(sessions):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while _members(sessions) and time.monotonic() < deadline:
            for process in processes:
                process.poll()
            time.sleep(0.05)
    for process in processes:
        if process.stdin and not process.stdin.closed:
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)


def _members(sessions: set[int]) -> list[int]:
    """Process ids of the living members of ``sessions``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if int(session) in sessions and state != "Z":
                found.append(int(path.parent.name))
    return found


def _log_file(home: Path, name: str) -> Path:
    return home / "logs" / f"airflow-{name}.log"


def _tail(home: Path, name: str) -> str:
    path = _log_file(home, name)
    lines = path.read_text(errors="replace").splitlines()[-20:] if path.exists() else []
    return f"Last lines of {path}:\n" + "\n".join(lines)
