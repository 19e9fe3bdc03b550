"""Bytes of a customer's files, wherever they stand: whole, within budget, in time; no secret in any message."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from forecasting.config import Customer
from forecasting.data.sources import download, packing
from forecasting.data.sources.limits import Limits
from forecasting.errors import ConfigurationError, SourceError, SourceUnavailableError, near_miss
from forecasting.feed import DELIVERED, FilePart, FileSource, ParquetSource
from forecasting.patience import persist
from forecasting.periods import shift

__all__ = ["Access", "File", "read"]

T = TypeVar("T")

Options: TypeAlias = dict[str, object]
Children: TypeAlias = Callable[[str], dict[str, bool]]
"""Names in a folder → whether each is a folder; empty where there is no such folder."""

# what fsspec reads that is no way back to this machine's own disk; `::` would chain such a way
_REMOTE = frozenset({
    "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "sftp", "ssh", "ftp", "hdfs", "webhdfs", "memory",
})  # fmt: skip
_BLOCK = 16 << 20
_FINAL = (SourceError, ConfigurationError, FileNotFoundError, PermissionError, ImportError)
_NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Access:
    """What a customer's source may reach."""

    root: Path
    """Folder that a local path starts from and may not leave."""
    deliveries: Path | None = None
    """Folder of the customers' own folders of deliveries."""
    connection_uri: str | None = field(default=None, repr=False)
    """Credentials and endpoint, such as ``s3://KEY:SECRET@host:port``, or a database's URL; never logged."""
    http_hosts: tuple[str, ...] = ()
    """Hosts that may be downloaded from: ``host`` on its scheme's usual port, or ``host:port``."""


@dataclass(frozen=True)
class File:
    """One file, whole and unpacked."""

    name: str
    """Without credentials."""
    data: bytes = field(repr=False)
    folders: Mapping[str, str | None] = field(default_factory=dict)
    """Columns that folders named ``column=value`` make, where declared."""


@dataclass(frozen=True)
class _Found:
    """A file that is not opened yet."""

    name: str
    fetch: Callable[[Limits], bytes]


def read(customer: Customer, access: Access, since: date | None, until: date) -> Iterator[tuple[FilePart, File]]:
    """The files that may hold days from ``since`` to ``until``: part by part as declared, within a part by name.

    Raises:
        SourceUnavailableError: One cannot be had; worth another try.
        SourceError: One is larger than declared, damaged, or named otherwise than declared.
        ConfigurationError: The declaration leads where it may not.
    """
    source = customer.source
    assert isinstance(source, FileSource)
    limits = Limits(source)
    cutoff = shift(until, -customer.horizon, customer.frequency)
    for part in source.places():
        first, last = _later(since, part.since), min(until, part.until or until)
        if first and first > last:
            continue
        try:
            found = limits.wait(part.uri, partial(_find, customer, part.uri, access))
        except SourceUnavailableError:
            if part.since and part.since > cutoff:
                continue  # days that are still to come: not delivered yet
            raise
        for file in _of_days(found, customer, part, since, last):
            packed = limits.wait(file.name, partial(file.fetch, limits))
            data = packing.unpack(file.name, packed, limits)
            yield part, File(file.name, data, folders(file.name) if _partitioned(source) else {})


def _later(one: date | None, other: date | None) -> date | None:
    return max(one, other) if one and other else one or other


def _partitioned(source: FileSource) -> bool:
    return isinstance(source, ParquetSource) and source.partitioned


def folders(name: str) -> dict[str, str | None]:
    """The columns that a path's folders make.

    >>> folders("sales/store=S%201/day=2024-01-01/part-0.parquet")
    {'store': 'S 1', 'day': '2024-01-01'}
    """
    pairs = [part.partition("=") for part in name.split("/")[:-1]]
    return {key: None if value == _NULL_FOLDER else unquote(value) for key, is_one, value in pairs if is_one and key}


# --- which files ----------------------------------------------------------------------------------------------------


def _of_days(
    found: list[_Found], customer: Customer, part: FilePart, since: date | None, last: date
) -> Iterator[_Found]:
    """The files whose name, or folder, says that they may hold a day of ``since`` to ``last``."""
    days = _days(found, customer, part)
    # a file may run past midnight, by its clock or by ours: the one before belongs to the first day too
    first = _later(since and since - timedelta(days=1), part.since)
    for file in found:
        day = days.get(file.name)
        if day is None or ((first is None or day >= first) and day <= last):
            yield file


def _days(found: list[_Found], customer: Customer, part: FilePart) -> dict[str, date]:
    """File → the day that its name says, where it is declared to."""
    source = customer.source
    assert isinstance(source, FileSource)
    if source.day_in_name is None:
        return _folder_days(found, customer, part) if _partitioned(source) else {}
    days: dict[str, date] = {}
    taken: dict[date, str] = {}
    for file in found:
        name = "/".join(file.name.split("/")[-1 - source.day_in_name.count("/") :])
        try:
            day = datetime.strptime(name, source.day_in_name).date()  # noqa: DTZ007 - a day has no zone
        except ValueError:
            raise SourceError(
                f"{file.name}: its name is not of the format {source.day_in_name!r} (source.day_in_name), so it says "
                "no day. Name it so, take it out of the folder, or narrow source.uri"
            ) from None
        if day in taken:
            raise SourceError(
                f"{file.name}: is the second file of {day}, after {taken[day]}; expected one a day. Was a delivery "
                "made twice? Take one of them out"
            )
        days[file.name], taken[day] = day, file.name
    return days


def _folder_days(found: list[_Found], customer: Customer, part: FilePart) -> dict[str, date]:
    names = dict(customer.source.names) | dict(part.names)
    declared = names.get(customer.columns.ds, customer.columns.ds)
    options = [declared] if isinstance(declared, str) else list(declared)
    days = {}
    for file in found:
        text = next((value for key, value in folders(file.name).items() if key in options), None)
        try:
            days[file.name] = datetime.strptime(text or "", customer.source.date_format).date()  # noqa: DTZ007
        except ValueError:
            continue  # opened, so that its rows are judged
    return days


def _find(customer: Customer, uri: str, access: Access) -> list[_Found]:
    """The files that ``uri`` names, by name; at least one."""
    source = customer.source
    assert isinstance(source, FileSource)
    scheme = uri.partition("://")[0].lower() if "://" in uri else ""
    if scheme in ("http", "https"):
        login = _needed(uri, source, access)
        return [_Found(uri, partial(download.fetch, uri, hosts=access.http_hosts, login=login))]
    if scheme in ("", "file"):
        return _find_local(customer, uri, access)
    if scheme not in _REMOTE or "::" in uri:
        raise ConfigurationError(
            f"source.uri {uri!r}: cannot be read from {scheme!r}; expected a path, delivered:<path>, http(s) or one of "
            f"{', '.join(sorted(_REMOTE))}.{near_miss(scheme, sorted(_REMOTE))}"
        )
    return _find_remote(uri, scheme, source, access)


def _needed(uri: str, source: FileSource, access: Access) -> str | None:
    """The connection, which must be there where one is declared."""
    if source.connection and not access.connection_uri:
        raise SourceUnavailableError(
            f"{uri}: needs the customer's connection and none was given; create the Airflow connection, or set "
            "FORECASTING_CONN_<ID>"
        )
    return access.connection_uri if source.connection else None


def _nothing(uri: str, there: list[str]) -> SourceUnavailableError:
    name = uri.rpartition("/")[2]
    return SourceUnavailableError(
        f"{uri}: there is no such file.{near_miss(name, there)} Was it delivered? Ask the customer's data owner for "
        "it, or correct source.uri; the last publication stays current meanwhile"
    )


# --- wildcards ------------------------------------------------------------------------------------------------------


def _expand(base: str, parts: list[str], children: Children) -> Iterator[str]:
    """Files below ``base`` that ``parts`` of a path name: ``*`` stands for any text within a name, ``**`` for folders.

    As in a shell, ``*`` begins no name that begins with a dot; ``**`` also leaves out folders that begin with ``_``,
    where Spark keeps what it has not finished.
    """
    head, rest = parts[0], parts[1:]
    if head == "**":
        yield from _expand(base, rest or ["*"], children)
        for name, is_folder in children(base).items():
            if is_folder and name[0] not in "._":
                yield from _expand(f"{base}/{name}", parts, children)
        return
    pattern = re.compile(re.escape(head).replace(r"\*", "[^/]*"))
    for name, is_folder in children(base).items():
        if pattern.fullmatch(name) and is_folder == bool(rest) and (name[0] != "." or head[0] == "."):
            if rest:
                yield from _expand(f"{base}/{name}", rest, children)
            else:
                yield f"{base}/{name}"


def _matches(path: str, children: Children) -> list[str]:
    """Files that a path with wildcards names, by name, each once."""
    parts = path.split("/")
    fixed = next(i for i, part in enumerate(parts) if "*" in part)
    return sorted(set(_expand("/".join(parts[:fixed]), parts[fixed:], children)))


# --- this machine ---------------------------------------------------------------------------------------------------


def _find_local(customer: Customer, uri: str, access: Access) -> list[_Found]:
    base, path, prefix = _local_base(customer, uri, access)
    if "*" not in path:
        return [_local_file(uri, base / path, base)]
    _inside(uri, base / path.partition("*")[0].rpartition("/")[0], base)

    def children(folder: str) -> dict[str, bool]:
        at = base / folder.lstrip("/") if folder else base
        if not at.is_dir():
            return {}
        # a linked folder below `**` could lead around in a circle
        return {entry.name: entry.is_dir(follow_symlinks="**" not in path) for entry in os.scandir(at)}

    names = [name.lstrip("/") for name in _matches(path, children)]
    if not names:
        raise _nothing(uri, sorted(children(path.partition("*")[0].rpartition("/")[0])))
    return [_local_file(f"{prefix}{name}", base / name, base) for name in names]


def _local_base(customer: Customer, uri: str, access: Access) -> tuple[Path, str, str]:
    """The folder that may not be left, the path below it, and what stands before that path in messages."""
    if not uri.startswith(DELIVERED):
        return access.root.resolve(), uri.removeprefix("file://"), ""
    if access.deliveries is None:
        raise ConfigurationError(f"source.uri {uri!r}: there is no folder of deliveries; set FORECASTING_DELIVERIES")
    return (access.deliveries / customer.id).resolve(), uri.removeprefix(DELIVERED), DELIVERED


def _inside(uri: str, path: Path, base: Path) -> Path:
    """``path`` without links and dots.

    Raises:
        ConfigurationError: It is not below ``base``.
    """
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError):  # links in a circle; Python 3.13 says nothing of them
        raise _nothing(uri, []) from None
    except ValueError:
        raise ConfigurationError(f"source.uri {uri!r} holds a NUL character; expected a path") from None
    if not resolved.is_relative_to(base):
        raise ConfigurationError(f"source.uri {uri!r} leads out of the folder that sources are read from")
    return resolved


def _local_file(uri: str, path: Path, base: Path) -> _Found:
    resolved = _inside(uri, path, base)
    try:
        found = resolved.is_file()
    except OSError:  # a name longer than the disk can hold
        found = False
    if not found:
        there = sorted(p.name for p in resolved.parent.iterdir()) if resolved.parent.is_dir() else []
        raise _nothing(uri, there)
    return _Found(uri, partial(_read_local, uri, resolved))


def _read_local(uri: str, path: Path, limits: Limits) -> bytes:
    try:
        # what was no link when it was checked is none when it is read
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            return _limited(uri, file.read(limits.bytes_left + 1), limits)
    except OSError as error:
        raise SourceUnavailableError(f"{uri}: cannot be read: {error.strerror}; check its permissions") from None


def _limited(name: str, data: bytes, limits: Limits) -> bytes:
    """Packed, it may not be larger either than what is left of the budget."""
    if len(data) > limits.bytes_left:
        raise limits.too_large(name)
    return data


# --- elsewhere ------------------------------------------------------------------------------------------------------


def _find_remote(uri: str, scheme: str, source: FileSource, access: Access) -> list[_Found]:
    login = _needed(uri, source, access)
    remote = _said(uri, source, lambda: _Remote(uri, scheme, login, source.timeout))
    if "*" not in remote.path:
        return [_Found(uri, partial(_read_remote, remote, uri, remote.path))]
    names = _said(uri, source, lambda: _matches(remote.path, remote.children))
    if not names:
        raise _nothing(uri, sorted(remote.children(remote.path.partition("*")[0].rpartition("/")[0])))
    prefix = uri[: uri.index("://") + 3]
    return [_Found(f"{prefix}{name.lstrip('/')}", partial(_read_remote, remote, name, name)) for name in names]


class _Remote:
    """A file system of fsspec's, with time-outs, asked again where it fails quickly."""

    def __init__(self, uri: str, scheme: str, connection_uri: str | None, timeout: int) -> None:
        import fsspec

        self.timeout = timeout
        options = _storage_options(scheme, connection_uri, timeout)
        self.system, self.path = fsspec.core.url_to_fs(uri, skip_instance_cache=True, **options)
        self.system.retries = 1  # s3fs multiplies its time-out by this; asking again is for `persist`

    def ask(self, work: Callable[[], Any]) -> Any:
        return persist(work, timeout=self.timeout, final=_FINAL)

    def children(self, folder: str) -> dict[str, bool]:
        try:
            listed = self.ask(lambda: self.system.ls(folder, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        # a folder of an object store may be listed as an object in itself
        inner = [one for one in listed if str(one["name"]).strip("/") != folder.strip("/")]
        return {str(one["name"]).rstrip("/").rpartition("/")[2]: one["type"] == "directory" for one in inner}


def _read_remote(remote: _Remote, uri: str, path: str, limits: Limits) -> bytes:
    """The bytes, a block at a time: a block that fails is asked for again, not the whole file."""

    def work() -> bytes:
        found = io.BytesIO()
        with remote.ask(lambda: remote.system.open(path, "rb", block_size=_BLOCK)) as file:
            while block := remote.ask(lambda: file.read(_BLOCK)):
                found.write(block)
                if found.tell() > limits.bytes_left:
                    raise limits.too_large(uri)
        return found.getvalue()

    return _said(uri, limits.source, work)


def _said(uri: str, source: FileSource, work: Callable[[], T]) -> T:
    """What ``work`` returns; a backend's own errors in our words."""
    try:
        return work()
    except (SourceError, ConfigurationError):
        raise
    except FileNotFoundError:
        raise SourceUnavailableError(
            f"{uri}: there is no such object. Was it delivered? Ask the data owner, or correct source.uri"
        ) from None
    except ImportError as error:
        raise ConfigurationError(f"{uri}: needs a package that is not installed: {error.name}") from None
    except Exception as error:  # every backend has errors of its own
        # `from None`, and the class instead of the text: a backend's text may quote the URL with its credentials
        raise SourceUnavailableError(
            f"{uri}: cannot be read ({_reason(error)}); check that the server answers and the connection's "
            f"credentials are valid; time-out {source.timeout} s"
        ) from None


def _reason(error: BaseException) -> str:
    names = [type(error).__name__]
    while (error := error.__cause__ or error.__context__) and len(names) < 3:  # type: ignore[assignment]
        names.append(type(error).__name__)
    return " from ".join(dict.fromkeys(names))


def _storage_options(scheme: str, connection_uri: str | None, timeout: int) -> Options:
    """Options of fsspec's file system for ``scheme``, with time-outs where it has them."""
    parts = urlsplit(connection_uri or "")
    query = dict(parse_qsl(parts.query))
    if scheme in ("s3", "s3a"):
        config = {"connect_timeout": timeout, "read_timeout": timeout, "retries": {"total_max_attempts": 1}}
        options: Options = {"config_kwargs": config, "anon": connection_uri is None, "use_listings_cache": False}
        options["default_cache_type"] = "none"  # blocks are read in order, each once
        if parts.username:
            options |= {"key": unquote(parts.username), "secret": unquote(parts.password or "")}
        endpoint = query.get("endpoint_url") or (parts.hostname and _endpoint(parts.hostname, parts.port))
        client = {"endpoint_url": endpoint, "region_name": query.get("region_name")}
        return options | {"client_kwargs": {name: value for name, value in client.items() if value}}
    found: dict[str, object] = {"host": parts.hostname, "port": parts.port, "username": parts.username}
    found |= {"password": parts.password, **query}
    return {name: unquote(value) if isinstance(value, str) else value for name, value in found.items() if value}


def _endpoint(host: str, port: int | None) -> str:
    """An own S3 server: plain http unless it is port 443 or none is given."""
    return f"https://{host}" if port in (None, 443) else f"http://{host}:{port}"
