"""Frames and files between tasks: written whole under any URL fsspec knows, named and verified by content hash."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, TypeVar

from forecasting.errors import ForecastingError, WorkUnavailableError
from forecasting.patience import persist, within

if TYPE_CHECKING:
    import pandas as pd
    from fsspec import AbstractFileSystem

__all__ = ["Ref", "find", "get", "get_bytes", "put", "put_bytes", "sweep", "write"]

log = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT = 30
"""Seconds in which S3 must answer a request; it is asked three times, so a hung one costs a minute and a half."""
TOTAL = 10
"""An operation on one file elsewhere ends within ``TOTAL * TIMEOUT`` seconds, whatever drips."""
_ATOMIC = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
"""Stores in which an object is there as a whole or not at all."""

_PART = re.compile(r"(?!\.)[A-Za-z0-9._=-]{1,120}")
_FRAME = re.compile(r"(.+)-([0-9a-f]{16})\.parquet")
"""The name of a frame's file: what the frame is, and the head of its content's hash."""


@dataclass(frozen=True)
class Ref:
    """Where a file of a run is, and what it must hold: what goes through XCom in its place."""

    uri: str
    sha256: str
    rows: int
    """Rows of the frame; the number of bytes if it is not one."""

    def as_dict(self) -> dict[str, str | int]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, str | int]) -> Ref:
        """The reverse of :meth:`as_dict`."""
        return cls(uri=str(value["uri"]), sha256=str(value["sha256"]), rows=int(value["rows"]))


def put(base_url: str, run_id: str, name: str, frame: pd.DataFrame) -> Ref:
    """Write ``frame`` as parquet and return its reference; equal frames give equal bytes, and the index is dropped.

    Args:
        base_url: ``FORECASTING_WORK_URL``.
        run_id: Of the run; ``customer/date/n``.
        name: What the frame is; the content's hash is added, so a retry overwrites nothing of another content.
        frame: Any frame of plain columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = BytesIO()
    table = pa.Table.from_pandas(frame, preserve_index=False, nthreads=1)
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    stored = _put(base_url, run_id, name, ".parquet", sink.getvalue())
    return Ref(stored.uri, stored.sha256, len(frame))


def get(ref: Ref) -> pd.DataFrame:
    """Read the frame that :func:`put` wrote.

    Raises:
        ForecastingError: It is gone, or is not what was written.
    """
    return _parsed(get_bytes(ref))


def _parsed(payload: bytes) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    frame: pd.DataFrame = pq.read_table(pa.BufferReader(payload)).to_pandas()
    return frame


def find(base_url: str, run_id: str, ending: str) -> dict[str, pd.DataFrame]:
    """The frames of a run that are still there, by name, where the reference to them is not at hand.

    Args:
        base_url: ``FORECASTING_WORK_URL``.
        run_id: Of the run.
        ending: Of the frames' names.

    Returns:
        Of each name the newest frame: a repeated task leaves its own beside the first. Empty: swept, or never written.

    Raises:
        ForecastingError: A file is not what its name says it holds.
        WorkUnavailableError: The store cannot be reached.
    """
    url = f"{base_url.rstrip('/')}/{'/'.join(_checked(part) for part in run_id.split('/'))}"
    files, folder = _at(url)
    files.invalidate_cache()
    there = _ask(url, files, lambda: files.find(folder, detail=True) if files.exists(folder) else {})
    newest: dict[str, tuple[float, str, str]] = {}
    for path, info in there.items():
        match = _FRAME.fullmatch(path.rpartition("/")[2])
        if match and match[1].endswith(ending):
            newest[match[1]] = max(newest.get(match[1], (0.0, "", "")), (_moment(info), path, match[2]))
    found = {}
    for name, (_, path, head) in sorted(newest.items()):
        payload: bytes = _ask(url, files, partial(files.cat_file, path))
        if not hashlib.sha256(payload).hexdigest().startswith(head):
            raise ForecastingError(
                f"{files.unstrip_protocol(path)} was damaged: its sha256 is not the one in its name."
            )
        found[name] = _parsed(payload)
    return found


def put_bytes(base_url: str, run_id: str, name: str, payload: bytes) -> Ref:
    """Write ``payload`` beside the run's frames and return its reference."""
    return _put(base_url, run_id, name, ".bin", payload)


def get_bytes(ref: Ref) -> bytes:
    """Read what :func:`put_bytes` wrote.

    Raises:
        ForecastingError: It is gone, or is not what was written.
        WorkUnavailableError: Its store cannot be reached.
    """
    files, path = _at(ref.uri)
    try:
        payload: bytes = _ask(ref.uri, files, lambda: files.cat_file(path))
    except FileNotFoundError:
        raise ForecastingError(
            f"{ref.uri} is gone: swept, or written by a worker that does not share FORECASTING_WORK_URL. Clear the run "
            "from its first task, so that it is written again."
        ) from None
    found = hashlib.sha256(payload).hexdigest()
    if found != ref.sha256:
        raise ForecastingError(
            f"{ref.uri} was damaged: its sha256 is {found[:12]}…, written was {ref.sha256[:12]}…. Clear the run from "
            "its first task, so that it is written again, and look at that disk."
        )
    return payload


def sweep(base_url: str, customer_id: str, keep_days: int, today: date) -> int:
    """Delete the customer's runs in which nothing was written for ``keep_days``; returns how many.

    A run's age is that of its newest file, not its run date: a backfill of old dates is young while it runs.
    """
    url = f"{base_url.rstrip('/')}/{_checked(customer_id)}"
    files, folder = _at(url)
    files.invalidate_cache()
    newest: dict[str, date] = {}
    there = _ask(url, files, lambda: files.find(folder, detail=True) if files.exists(folder) else {})
    for path, info in there.items():
        run = "/".join(path.removeprefix(folder).strip("/").split("/")[:2])
        newest[run] = max(newest.get(run, date.min), _written(info))
    old = [run for run, day in newest.items() if day < today - timedelta(days=keep_days)]
    for run in old:
        _ask(url, files, partial(_remove, files, f"{folder}/{run}"))
    log.info("sweep %s: %s of %s runs removed", customer_id, len(old), len(newest))
    return len(old)


def write(url: str, payload: bytes) -> None:
    """Make ``url`` hold ``payload``: a reader sees all of it or nothing, and a killed writer leaves no half file."""
    files, path = _at(url)
    if _ask(url, files, lambda: _holds(files, path, payload)):
        return
    if _ATOMIC.intersection([files.protocol] if isinstance(files.protocol, str) else files.protocol):
        _ask(url, files, lambda: files.pipe_file(path, payload))
    else:
        _ask(url, files, lambda: _write_aside(files, path, payload))


def _write_aside(files: AbstractFileSystem, path: str, payload: bytes) -> None:
    draft = f"{files._parent(path)}.{secrets.token_hex(6)}.draft"  # beside the folder: whoever lists it sees no draft
    files.makedirs(files._parent(path), exist_ok=True)
    files.pipe_file(draft, payload)
    files.mv(draft, path)


def _remove(files: AbstractFileSystem, folder: str) -> None:
    with suppress(FileNotFoundError):  # an earlier try's work
        files.rm(folder, recursive=True)


def _at(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system, with time-outs where it has them, and the path in it."""
    from fsspec.core import url_to_fs

    options: dict[str, object] = {}
    if url.startswith(("s3:", "s3a:")):
        retries = {"mode": "standard", "total_max_attempts": 3}
        options["config_kwargs"] = {"connect_timeout": TIMEOUT, "read_timeout": TIMEOUT, "retries": retries}
    files, path = url_to_fs(url, **options)
    files.retries = 1  # s3fs would multiply those
    return files, path


def _ask(url: str, files: AbstractFileSystem, work: Callable[[], T]) -> T:
    """What ``work`` returns, tried again where it fails quickly and given up where it takes too long; not on a disk.

    Raises:
        FileNotFoundError: There is no such file.
        WorkUnavailableError: The store cannot be reached.
    """
    if "file" in files.protocol:
        return work()
    try:
        return within(TOTAL * TIMEOUT, lambda: persist(work, timeout=TIMEOUT, final=(FileNotFoundError,)))
    except FileNotFoundError:
        raise
    except Exception as error:  # every store has errors of its own; their texts may quote credentials
        raise WorkUnavailableError(
            f"{url}: cannot be reached ({type(error).__name__}); check that the store of FORECASTING_WORK_URL answers "
            "and its credentials are valid, and run again"
        ) from None


def _holds(files: AbstractFileSystem, path: str, payload: bytes) -> bool:
    try:
        return bool(files.cat_file(path) == payload)
    except FileNotFoundError:
        return False


def _put(base_url: str, run_id: str, name: str, suffix: str, payload: bytes) -> Ref:
    sha256 = hashlib.sha256(payload).hexdigest()
    folder = "/".join(_checked(part) for part in run_id.split("/"))
    uri = f"{base_url.rstrip('/')}/{folder}/{_checked(name)}-{sha256[:16]}{suffix}"
    write(uri, payload)
    log.debug("work %s %s: %s bytes", run_id, name, len(payload))
    return Ref(uri, sha256, len(payload))


def _checked(part: str) -> str:
    if not _PART.fullmatch(part):
        raise ValueError(f"{part!r} cannot be part of a path: use letters, digits, '.', '_', '=' and '-'")
    return part


def _written(info: dict[str, object]) -> date:
    moment = _moment(info)
    return datetime.fromtimestamp(moment, tz=UTC).date() if moment else date.max  # unknown: kept


def _moment(info: dict[str, object]) -> float:
    """When a file was written, in seconds since 1970; 0.0 where its store does not say."""
    stamp = info.get("mtime") or info.get("LastModified") or info.get("last_modified") or info.get("created")
    if isinstance(stamp, datetime):
        return stamp.timestamp()
    return float(stamp) if isinstance(stamp, int | float) else 0.0
