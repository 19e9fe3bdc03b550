"""What one pull may take from its files: bytes, and seconds of waiting."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from forecasting.errors import SourceError, SourceUnavailableError
from forecasting.feed import FileSource
from forecasting.patience import within

__all__ = ["CHUNK", "TOTAL", "Limits"]

T = TypeVar("T")

CHUNK = 1 << 20
"""Bytes that are unpacked at a time, hence by how much a budget can be overrun."""
TOTAL = 10
"""A pull waits for its files, listing and reading together, up to ``TOTAL * source.timeout`` seconds."""


class Limits:
    """The budgets of one pull, over all its files."""

    def __init__(self, source: FileSource) -> None:
        """Full budgets."""
        self.source = source
        self.bytes_left = source.max_bytes
        self.seconds_left = float(TOTAL * source.timeout)

    def take(self, name: str, count: int) -> None:
        """Count ``count`` unpacked bytes of the file ``name``.

        Raises:
            SourceError: They are more than what is left.
        """
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise self.too_large(name)

    def too_large(self, name: str) -> SourceError:
        """The error to raise about a file that goes beyond the budget."""
        return SourceError(
            f"{name}: is larger, unpacked and with the files before it, than source.max_bytes, "
            f"{self.source.max_bytes} bytes; if it should be, raise max_bytes, else ask the data owner"
        )

    def wait(self, name: str, work: Callable[[], T]) -> T:
        """What ``work`` returns.

        Raises:
            SourceUnavailableError: It goes on when the pull's time is over.
        """
        began = time.monotonic()
        try:
            return within(self.seconds_left, work)
        except TimeoutError:
            raise SourceUnavailableError(
                f"{name}: given up: a pull waits {TOTAL * self.source.timeout} s for its files, {TOTAL} times "
                "source.timeout; check that the server answers, and how fast, or raise source.timeout"
            ) from None
        finally:
            self.seconds_left -= time.monotonic() - began
