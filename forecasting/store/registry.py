"""MLflow as registry and tracker: bundles go in as plain hashed files, and come out without MLflow, verified."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from forecasting.errors import BrokenBundleError, RegistryUnavailableError, VersionTakenError
from forecasting.store import work

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Registered", "bundle_hash", "load", "register"]

log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")
_LONGEST_LOCATION = 200 - len("/0123456789abcdef0123456789abcdef/artifacts")
"""MLflow keeps an experiment's location, the run's id and ``artifacts`` as one URI of at most 200 characters."""
_LOCK = 0x6D6C666C6F77  # "mlflow": one process at a time makes the tables of an empty store


@dataclass(frozen=True)
class Registered:
    """A bundle in the registry."""

    name: str
    registry_version: str
    uri: str
    sha256: str


def bundle_hash(files: dict[str, bytes]) -> str:
    """SHA-256 over the names, in order, and the contents; each with its length, so that no two bundles run together.

    >>> bundle_hash({"a": b"1", "b": b"2"}) == bundle_hash({"b": b"2", "a": b"1"})
    True
    >>> bundle_hash({"a": b"12"}) == bundle_hash({"a": b"1", "2": b""})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(files):
        for part in (name.encode(), files[name]):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def register(
    tracking_url: str,
    artifacts_url: str,
    name: str,
    files: dict[str, bytes],
    *,
    run_id: str,
    tags: dict[str, str],
    metrics: dict[str, float],
    timeout: float = 60,
) -> Registered:
    """Store a bundle and register it as a new version; the same bundle of the same run again is the same version.

    Args:
        tracking_url: MLflow's store: a database URL or an MLflow server.
        artifacts_url: Prefix; the files go to ``<artifacts_url>/<name>/<sha256>/`` through fsspec.
        name: ``<environment>.<customer>``, of the experiment and of the registered model.
        files: Relative path → content; text, JSON and parquet.
        run_id: Ours, not MLflow's.
        tags: Shown on the MLflow run and on the version.
        metrics: Logged on the MLflow run; not finite ones are left out.
        timeout: Seconds for each exchange with the registry.

    Raises:
        VersionTakenError: The semantic version in ``tags`` is registered with other bytes.
        RegistryUnavailableError: MLflow cannot be reached or does not answer in time. Nothing is half registered that
            a retry would not complete.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r}: expected <environment>.<customer>")
    _check_names(files)
    sha256 = bundle_hash(files)
    uri = f"{artifacts_url.rstrip('/')}/{name}/{sha256}"
    for path, content in sorted(files.items()):
        work.write(f"{uri}/{path}", content)
    tags = {**tags, "run_id": run_id, "sha256": sha256, "bundle_uri": uri}
    with _registry(tracking_url, timeout) as client:
        version = _find(client, name, run_id, sha256) or _create(
            client, name, uri, _location(artifacts_url, name), tags, metrics
        )
    log.info("register %s: %s version %s, %s files, sha256 %s", run_id, name, version, len(files), sha256[:12])
    return Registered(name, version, uri, sha256)


def load(uri: str, sha256: str) -> dict[str, bytes]:
    """Read a bundle's files, without MLflow, and return them only if they are those that were registered.

    Raises:
        BrokenBundleError: A file is missing, added or altered, or the folder is gone.
    """
    from fsspec.core import url_to_fs

    store, folder = url_to_fs(uri)
    store.invalidate_cache()
    paths = store.find(folder)
    if not paths:
        raise BrokenBundleError(f"{uri} holds no bundle: restore it from a backup, or retrain with force_retrain.")
    files = {str(PurePosixPath(path).relative_to(folder)): content for path, content in store.cat(paths).items()}
    found = bundle_hash(files)
    if found != sha256:
        raise BrokenBundleError(
            f"the bundle in {uri} was altered: its sha256 is {found[:12]}…, registered was {sha256[:12]}… "
            f"({len(files)} files{_altered(files)}). Restore it from a backup, or retrain with force_retrain."
        )
    return files


def _altered(files: dict[str, bytes]) -> str:
    """Names of the files that are not those of the bundle's own manifest, with a colon before; empty if it is gone."""
    try:
        named = dict(json.loads(files["manifest.json"])["files"])
    except (KeyError, TypeError, ValueError):
        return ""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name != "manifest.json"}
    names = sorted(name for name in named.keys() | hashes.keys() if named.get(name) != hashes.get(name))
    return f": {', '.join(names)}" if names else ""


def _check_names(files: dict[str, bytes]) -> None:
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name or "\\" in name:
            raise ValueError(f"{name!r} cannot be a file of a bundle: expected a relative path")
    if not files:
        raise ValueError("a bundle needs at least one file")


# --- MLflow ---------------------------------------------------------------------------------------------------------


@contextmanager
def _registry(url: str, timeout: float) -> Iterator[MlflowClient]:
    """A client of the store at ``url``; whatever fails inside is an unavailable registry."""
    _reach(url, timeout)
    with _environment(timeout):
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        bounded = _bounded(url, timeout)
        try:
            with _alone(bounded):
                client = MlflowClient(tracking_uri=bounded, registry_uri=bounded)
                client.search_experiments(max_results=1)  # makes the tables of an empty store
            yield client
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise _unavailable(url, error) from None


def _unavailable(url: str, error: Exception) -> RegistryUnavailableError:
    where = urlsplit(url)
    text = str(error).replace(where.password, "…") if where.password else str(error)
    return RegistryUnavailableError(
        f"the model registry {where.scheme}://{where.hostname or ''}:{where.port or ''}{where.path} is unavailable: "
        f"{text.strip()}. The champion goes on serving; retry the task once MLFLOW_TRACKING_URI answers."
    )


def _reach(url: str, timeout: float) -> None:
    """Fail fast: MLflow itself tries a dead database fifteen times, each time waiting longer."""
    where = urlsplit(url)
    if not where.hostname:
        return
    port = where.port or {"http": 80, "https": 443}.get(where.scheme, 5432)
    try:
        socket.create_connection((where.hostname, port), timeout).close()
    except OSError as error:
        raise _unavailable(url, error) from None


def _bounded(url: str, timeout: float) -> str:
    """``url`` with libpq's time-outs, if it is a PostgreSQL's."""
    if not url.startswith("postgresql"):
        return url
    import sqlalchemy as sa

    milliseconds = str(int(timeout * 1000))
    limits = {"connect_timeout": str(max(2, int(timeout))), "tcp_user_timeout": milliseconds}
    options = f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
    return sa.make_url(url).update_query_dict({**limits, "options": options}).render_as_string(hide_password=False)


@contextmanager
def _environment(timeout: float) -> Iterator[None]:
    """MLflow takes time-outs and its wish to call home from the environment only."""
    wanted = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, int(timeout))),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _locked(url: str) -> Iterator[None]:
    import sqlalchemy as sa

    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT", hide_parameters=True)
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
        yield


def _alone(url: str) -> AbstractContextManager[None]:
    return _locked(url) if url.startswith("postgresql") else nullcontext()


def _location(artifacts_url: str, name: str) -> str:
    """Where MLflow would keep what a run logs by itself; nothing is, so a folder too deep for its column is no loss."""
    location = f"{artifacts_url.rstrip('/')}/{name}/runs"
    return location if len(location) <= _LONGEST_LOCATION else f"mlflow-artifacts:/{name}/runs"


def _find(client: MlflowClient, name: str, run_id: str, sha256: str) -> str | None:
    wanted = f"name = '{name}' AND tag.run_id = '{_quoted(run_id)}' AND tag.sha256 = '{sha256}'"
    found = client.search_model_versions(wanted, max_results=1)
    return str(found[0].version) if found else None


def _create(
    client: MlflowClient, name: str, uri: str, location: str, tags: dict[str, str], metrics: dict[str, float]
) -> str:
    _ensure(lambda: client.create_registered_model(name))
    _refuse_taken(client, name, tags)
    tracked = _run(client, name, location, tags, metrics)
    version = client.create_model_version(name, uri, run_id=tracked, tags=tags, await_creation_for=0)
    try:
        _refuse_taken(client, name, tags, below=int(version.version))  # somebody may have been a moment faster
    except VersionTakenError:
        client.delete_model_version(name, str(version.version))
        raise
    return str(version.version)


def _refuse_taken(client: MlflowClient, name: str, tags: dict[str, str], below: int | None = None) -> None:
    """A semantic version belongs to the bytes that had it first."""
    if "semver" not in tags:
        return
    for version in client.search_model_versions(f"name = '{name}' AND tag.semver = '{_quoted(tags['semver'])}'"):
        if version.tags.get("sha256") != tags["sha256"] and (below is None or int(version.version) < below):
            raise VersionTakenError(
                f"{name} {tags['semver']} is version {version.version} of MLflow, with bundle "
                f"{version.tags.get('sha256', '')[:12]}, not {tags['sha256'][:12]}: a version is immutable; give the "
                "new bundle the next PATCH."
            )


def _run(client: MlflowClient, name: str, location: str, tags: dict[str, str], metrics: dict[str, float]) -> str:
    """Id of MLflow's run for ours; one that a killed predecessor left is completed."""
    from math import isfinite

    from mlflow.entities import Metric

    _ensure(lambda: client.create_experiment(name, artifact_location=location))
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        raise RegistryUnavailableError(f"the experiment {name!r} was deleted in MLflow: restore it there, then retry.")
    wanted = f"tags.run_id = '{_quoted(tags['run_id'])}' AND tags.sha256 = '{tags['sha256']}'"
    found = client.search_runs([experiment.experiment_id], wanted, max_results=1)
    run = found[0] if found else client.create_run(experiment.experiment_id, tags=tags, run_name=tags["run_id"])
    now = run.info.start_time
    finite = [Metric(key, value, now, 0) for key, value in sorted(metrics.items()) if isfinite(value)]
    client.log_batch(run.info.run_id, metrics=finite)
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def _ensure(create: Callable[[], object]) -> None:
    """Create what may be there already, made a moment ago by another run or long ago by an earlier one."""
    from mlflow.exceptions import MlflowException

    try:
        create()
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _quoted(text: str) -> str:
    return text.replace("'", "")
