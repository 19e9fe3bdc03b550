"""Freeze one panel, under an flock, as a task would: the process that the kill test kills."""

from __future__ import annotations

import fcntl
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from forecasting.config import settings
from forecasting.data.snapshots import freeze

SERIES, DAYS = 40, 730


def panel_of(seed: int) -> pd.DataFrame:
    """A panel whose every month differs from seed to seed."""
    rng = np.random.default_rng(seed)
    ds = pd.date_range("2022-01-01", periods=DAYS).as_unit("ns")
    frame = pd.DataFrame(
        {"unique_id": np.repeat([f"S{i:02}/1" for i in range(SERIES)], DAYS), "ds": np.tile(ds, SERIES)}
    )
    return frame.assign(y=rng.poisson(5, len(frame)).astype(float))


@contextmanager
def flock(path: Path) -> Iterator[None]:
    """Held until the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(home: str, seed: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    place = settings({"FORECASTING_HOME": home})
    ref = freeze(place, panel_of(int(seed)), {"cutoff": "2023-12-31"}, customer_id="acme",
                 run_id=f"acme/2024-01-01/{seed}", lock=flock(Path(home) / "lock"))  # fmt: skip
    print(f"ref {ref}", flush=True)  # noqa: T201 - the kill test reads it


if __name__ == "__main__":
    main(*sys.argv[1:])
