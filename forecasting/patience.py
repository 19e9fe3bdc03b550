"""How long to wait for a remote, and when to ask it again. It knows no remote and reads no configuration."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["PAUSES", "persist", "within"]

T = TypeVar("T")

PAUSES = (0.2, 1.0)
"""Seconds before a request is made a second and a third time."""


def within(seconds: float, work: Callable[[], T]) -> T:
    """What ``work`` returns or raises, if it ends in time.

    Some remotes hang, or drip, and no time-out of theirs sees it. Work that is given up goes on in a thread that
    nobody waits for; it ends with the process.

    Raises:
        TimeoutError: It did not end within ``seconds``.

    >>> within(1, lambda: 6 * 7)
    42
    """
    box: list[T] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            box.append(work())
        except BaseException as error:  # handed over, not swallowed
            failure.append(error)

    thread = threading.Thread(target=target, daemon=True, name="waited for")
    thread.start()
    thread.join(max(seconds, 0))
    if thread.is_alive():
        raise TimeoutError(f"no end within {seconds:.1f} s")
    if failure:
        raise failure[0]
    return box[0]


def persist(work: Callable[[], T], *, timeout: float, final: tuple[type[BaseException], ...] = ()) -> T:
    """What ``work`` returns, tried up to three times; for requests that change nothing when made twice.

    Only what fails quickly is tried again: a failure that took as long as a time-out is one, and the next try would
    take as long. So a hung remote costs one time-out, not three.

    Args:
        work: One request.
        timeout: Seconds after which the request itself gives up.
        final: Errors that another try cannot heal.
    """
    for pause in PAUSES:
        began = time.monotonic()
        try:
            return work()
        except final:
            raise
        except Exception:  # every remote has errors of its own
            if time.monotonic() - began >= 0.9 * timeout:
                raise
        time.sleep(pause)
    return work()
