"""Bytes of a customer's files, wherever they stand: whole, within budget, in time; no secret in any message."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from forecasting.config import Customer
from forecasting.errors import ConfigurationError, SourceError, SourceUnavailableError, near_miss
from forecasting.feed import FilePart, FileSource

__all__ = ["Access", "File", "read"]

Options: TypeAlias = dict[str, object]


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
    """Hosts that may be downloaded from."""


@dataclass(frozen=True)
class File:
    """One file, whole and unpacked."""

    name: str
    """Without credentials."""
    data: bytes = field(repr=False)


def read(customer: Customer, part: FilePart, access: Access, since: date | None, until: date) -> Iterator[File]:
    """The files of one part that may hold days from ``since`` to ``until``, by name.

    Raises:
        SourceUnavailableError: One cannot be had; worth another try.
        SourceError: One is larger than declared, or damaged.
        ConfigurationError: The declaration leads where it may not.
    """
    source = customer.source
    assert isinstance(source, FileSource)
    yield File(part.uri, _read_bytes(part.uri, source, access.root, access.connection_uri))


def _read_bytes(uri: str, source: FileSource, root: Path, connection_uri: str | None) -> bytes:
    if "://" not in uri or uri.startswith("file://"):
        return _read_local(uri, source, root)
    return _read_remote(uri, source, connection_uri)


def _read_local(uri: str, source: FileSource, root: Path) -> bytes:
    base = root.resolve()
    path = (base / uri.removeprefix("file://")).resolve()
    if not path.is_relative_to(base):
        raise ConfigurationError(f"source.uri {uri!r} leads out of the folder that sources are read from")
    if not path.is_file():
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise SourceUnavailableError(
            f"{uri}: there is no such file.{near_miss(path.name, there)} Was it delivered? Ask the customer's "
            "data owner for it, or correct source.uri; the last publication stays current meanwhile"
        )
    try:
        with path.open("rb") as file:
            return _limited(uri, file.read(source.max_bytes + 1), source)
    except OSError as error:
        raise SourceUnavailableError(f"{uri}: cannot be read: {error.strerror}; check its permissions") from None


def _read_remote(uri: str, source: FileSource, connection_uri: str | None) -> bytes:
    import fsspec

    scheme = uri.partition("://")[0]
    if source.connection and not connection_uri:
        raise SourceUnavailableError(
            f"{uri}: needs the customer's connection and none was given; create the Airflow connection, or set "
            "FORECASTING_CONN_<ID>"
        )
    try:
        options = _storage_options(scheme, connection_uri, source.timeout)
        system, path = fsspec.core.url_to_fs(uri, skip_instance_cache=True, **options)
        system.retries = 1  # s3fs multiplies its time-out by this
        with system.open(path, "rb") as file:
            return _limited(uri, file.read(source.max_bytes + 1), source)
    except SourceError:
        raise
    except FileNotFoundError:
        raise SourceUnavailableError(
            f"{uri}: there is no such object. Was it delivered? Ask the data owner, or correct source.uri"
        ) from None
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
        config = {"connect_timeout": timeout, "read_timeout": timeout, "retries": {"max_attempts": 1}}
        options: Options = {"config_kwargs": config, "anon": connection_uri is None, "use_listings_cache": False}
        if parts.username:
            options |= {"key": unquote(parts.username), "secret": unquote(parts.password or "")}
        endpoint = query.get("endpoint_url") or (parts.hostname and _endpoint(parts.hostname, parts.port))
        client = {"endpoint_url": endpoint, "region_name": query.get("region_name")}
        return options | {"client_kwargs": {name: value for name, value in client.items() if value}}
    if scheme in ("http", "https"):
        import aiohttp

        auth = aiohttp.BasicAuth(unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=timeout), "auth": auth}}
    found: dict[str, object] = {"host": parts.hostname, "port": parts.port, "username": parts.username}
    found |= {"password": parts.password, **query}
    return {name: unquote(value) if isinstance(value, str) else value for name, value in found.items() if value}


def _endpoint(host: str, port: int | None) -> str:
    """An own S3 server: plain http unless it is port 443 or none is given."""
    return f"https://{host}" if port in (None, 443) else f"http://{host}:{port}"


def _limited(uri: str, data: bytes, source: FileSource) -> bytes:
    if len(data) > source.max_bytes:
        raise SourceError(
            f"{uri}: is larger than source.max_bytes, {source.max_bytes} bytes; if it should be, raise max_bytes"
        )
    return data
