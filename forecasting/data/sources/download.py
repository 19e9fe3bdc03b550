"""Download a file over HTTP(S): from allow-listed hosts only, whole, within budget, in time."""

from __future__ import annotations

import base64
import http.client
import io
import re
import time
import urllib.request
from functools import partial
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from forecasting.data.sources.limits import CHUNK, Limits
from forecasting.errors import ConfigurationError, SourceError, SourceUnavailableError, near_miss
from forecasting.patience import persist

__all__ = ["fetch"]

REDIRECTS = 5
"""Redirects that are followed."""
_PORTS = {"http": 80, "https": 443}
_MOVED = (301, 302, 303, 307, 308)
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")


class _PassingError(Exception):
    """What another try may heal."""


def fetch(uri: str, limits: Limits, *, hosts: tuple[str, ...], login: str | None) -> bytes:
    """The bytes at ``uri``, which a redirect may have moved to another allow-listed host.

    Args:
        uri: ``http`` or ``https``.
        limits: Budgets of the pull.
        hosts: Who may be asked: ``host`` on its scheme's usual port, or ``host:port``; compared whole.
        login: URL with the user name and password; they are shown to the host of ``uri`` alone.

    Raises:
        ConfigurationError: A host is not allowed.
        SourceUnavailableError: The server cannot be reached, has no such file, fails, or is too slow.
        SourceError: The file is larger than the budget.
    """
    try:
        work = partial(_follow, uri, limits, hosts, login)
        return persist(work, timeout=limits.source.timeout, final=(SourceError, ConfigurationError))
    except (_PassingError, OSError, http.client.HTTPException) as error:
        said = str(error) if isinstance(error, _PassingError) else type(error).__name__
        raise SourceUnavailableError(
            f"{uri}: cannot be downloaded ({said}); check that the server answers; time-out {limits.source.timeout} s"
        ) from None


def _follow(uri: str, limits: Limits, hosts: tuple[str, ...], login: str | None) -> bytes:
    at, origin = uri, _origin(urlsplit(uri))
    for _ in range(REDIRECTS + 1):
        parts = _allowed(uri, at, hosts)
        shown = _authorization(uri, parts, login) if _origin(parts) == origin else {}
        with _opened(at, shown, limits.source.timeout) as answer:
            if answer.status not in _MOVED:
                _check_status(uri, answer.status)
                return _body(uri, answer, limits)
            target = answer.headers.get("Location", "")
        if at.startswith("https:") and urlsplit(urljoin(at, target)).scheme == "http":
            raise SourceError(f"{uri}: is moved from https to plain http; name the new address in source.uri")
        at = urljoin(at, target)
    raise SourceUnavailableError(f"{uri}: is moved more than {REDIRECTS} times; name the final address in source.uri")


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _allowed(uri: str, at: str, hosts: tuple[str, ...]) -> SplitResult:
    """``at``, taken apart; a redirect's address is not shown, for it may be signed."""
    try:
        parts = urlsplit(at)
        scheme, host, port = _origin(parts)
    except ValueError:
        raise ConfigurationError(f"{uri}: is no URL that can be read, or is moved to one") from None
    moved = "" if at == uri else " is moved to another place, which"
    if scheme not in _PORTS or not host or not _HOST.fullmatch(host) or "@" in parts.netloc or re.search(r"[\s\\]", at):
        raise ConfigurationError(f"{uri}:{moved} is no plain http(s) address; expected https://host/path")
    named = host if port == _PORTS[scheme] else f"{host}:{port}"
    if named not in hosts:
        raise ConfigurationError(
            f"{uri}:{moved} stands on host {named}, which may not be downloaded from.{near_miss(named, list(hosts))} "
            "Whoever runs this deployment can add it to FORECASTING_HTTP_HOSTS"
        )
    return parts


def _authorization(uri: str, parts: SplitResult, login: str | None) -> dict[str, str]:
    known = urlsplit(login or "")
    if known.hostname and known.hostname.lower() != (parts.hostname or "").lower():
        raise ConfigurationError(f"{uri}: the customer's connection is for another host; its login is not shown here")
    if not known.username:
        return {}
    pair = f"{unquote(known.username)}:{unquote(known.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _opened(at: str, headers: dict[str, str], timeout: int) -> http.client.HTTPResponse:
    """The server's answer, whatever its status; redirects are not followed here."""
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
        opener.add_handler(handler())
    request = urllib.request.Request(at, headers={"Accept-Encoding": "identity", **headers})
    answer: http.client.HTTPResponse = opener.open(request, timeout=timeout)
    return answer


def _check_status(uri: str, status: int) -> None:
    if status in (404, 410):
        raise SourceUnavailableError(
            f"{uri}: there is no such file ({status}). Was it delivered? Ask the data owner, or correct source.uri"
        )
    if status in (401, 403, 407):
        raise SourceUnavailableError(
            f"{uri}: the server refuses it ({status}); check the login in the customer's connection, and that "
            "`connection: true` is declared"
        )
    if status != 200:
        raise _PassingError(f"status {status}")


def _body(uri: str, answer: http.client.HTTPResponse, limits: Limits) -> bytes:
    """Counted while it comes: what the server says of its length is only compared."""
    said, found = answer.headers.get("Content-Length"), io.BytesIO()
    if said and said.isdigit() and int(said) > limits.bytes_left:
        raise limits.too_large(uri)
    until = time.monotonic() + limits.seconds_left
    while chunk := answer.read1(CHUNK):
        found.write(chunk)
        if found.tell() > limits.bytes_left:
            raise limits.too_large(uri)
        if time.monotonic() > until:
            raise _PassingError("too slow")
    if said and said.isdigit() and int(said) != found.tell():
        raise _PassingError(f"cut after {found.tell()} of {said} bytes")
    return found.getvalue()
