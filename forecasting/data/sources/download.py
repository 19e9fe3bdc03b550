"""Download a file over HTTP(S), from allow-listed hosts only."""

from __future__ import annotations

from forecasting.data.sources.limits import Limits

__all__ = ["fetch"]


def fetch(uri: str, limits: Limits, *, hosts: tuple[str, ...], login: str | None) -> bytes:
    """The bytes at ``uri``."""
    raise NotImplementedError
