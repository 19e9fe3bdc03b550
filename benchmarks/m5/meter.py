"""What a run takes: seconds, and memory of all its processes together."""

from __future__ import annotations

import os
import resource
import threading
import time
from pathlib import Path

__all__ = ["Meter"]


class Meter:
    """Wall seconds, CPU seconds and memory of this process and its children."""

    def __init__(self) -> None:
        self.began, self.peak = time.perf_counter(), 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, sum(map(_shared_out, [os.getpid(), *_children()])))
            time.sleep(1)

    def say(self, text: str) -> None:
        """A line of progress."""
        print(f"{time.perf_counter() - self.began:7.1f} s  {_resident():5.2f} GiB  {text}", flush=True)

    def figures(self) -> dict[str, float]:
        """``peak_gib``: most that all processes held at one moment, looked at every second, but no less than any one's.

        A page that forked processes share counts once.
        """
        mine, theirs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        cpu = sum(usage.ru_utime + usage.ru_stime for usage in (mine, theirs))
        largest = max(self.peak, mine.ru_maxrss / 2**20, theirs.ru_maxrss / 2**20)
        wall = time.perf_counter() - self.began
        return {"wall_seconds": round(wall, 1), "cpu_seconds": round(cpu, 1), "peak_gib": round(largest, 2)}


def _children() -> list[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(pid) for pid in listed.read_text().split()] if listed.exists() else []


def _shared_out(pid: int) -> float:
    """Proportional memory of a process in GiB; 0 when it has gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 2**20


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30
