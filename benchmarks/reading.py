"""Seconds to read a million cells of each form, beside a bare read of the same file in the same run.

``python -m benchmarks.reading`` writes what it reads into a temporary folder; the feed is long, five columns, and wide.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import python_calamine

from forecasting.config import Customer
from forecasting.data.sources import Access, pull

ROWS = 200_000
REPEATS = 3
UNTIL = date(2024, 12, 31)
LONG = {"columns": {"ds": "day", "y": "qty", "keys": ["store", "item"]}, "exogenous": {"promo": {"known": "future"}}}
WIDE = {
    "columns": {"ds": "day", "y": "qty", "keys": ["store", "item"]},
    "wide": {"columns": "(?P<value>Q)_(?P<store>S[0-9]+)_(?P<item>[0-9]+)", "values": {"Q": "qty"}},
}


def long_frame() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    days = pd.date_range("2023-01-01", periods=400).strftime("%Y-%m-%d").to_numpy()
    return pd.DataFrame({
        "day": np.repeat(days, ROWS // 400), "store": rng.choice([f"S{n}" for n in range(20)], ROWS),
        "item": rng.integers(1, 2000, ROWS), "qty": rng.poisson(4, ROWS).astype(float),
        "promo": rng.integers(0, 2, ROWS),
    })  # fmt: skip


def wide_frame() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    days = pd.DataFrame({"day": pd.date_range("2022-01-01", periods=1000).strftime("%Y-%m-%d")})
    cells = pd.DataFrame(rng.poisson(4, (1000, 1000)), columns=[f"Q_S{n % 20}_{n}" for n in range(1000)])
    return pd.concat([days, cells], axis=1)


def write(frame: pd.DataFrame, folder: Path, name: str) -> None:
    frame.to_csv(folder / f"{name}.csv", index=False)
    frame.to_csv(folder / f"{name}.csv.gz", index=False)
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / f"{name}.parquet")
    frame.to_excel(folder / f"{name}.xlsx", index=False)


def bare(path: Path) -> object:
    """The quickest read of the file that its library offers, with no check and no conversion."""
    if path.suffix == ".parquet":
        return pq.read_table(path)
    if path.suffix == ".xlsx":
        return python_calamine.load_workbook(path).get_sheet_by_index(0).to_python()
    return pyarrow.csv.read_csv(path)  # unpacks gzip by itself


def ours(path: Path, declared: dict[str, object]) -> object:
    kind = {".parquet": "parquet", ".xlsx": "xlsx"}.get(path.suffix, "csv")
    source = {"uri": path.name, "kind": kind, **({"wide": declared["wide"]} if "wide" in declared else {})}
    rest = {key: value for key, value in declared.items() if key != "wide"}
    base = {"id": "acme", "time_zone": "UTC", "first_date": date(2024, 1, 1), "contract": "acme", "absent": "zero"}
    customer = Customer.model_validate({**base, "horizon": 1, "source": source, **rest})
    return pull(customer, access=Access(path.parent), until=UNTIL)


def best(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(long_frame(), folder, "long")
        write(wide_frame(), folder, "wide")
        print(f"a million cells each; best of {REPEATS}; seconds\n{'file':16}{'ours':>8}{'bare':>8}{'times':>8}")
        for path in sorted(folder.iterdir()):
            declared = LONG if path.name.startswith("long") else WIDE
            mine, theirs = best(lambda p=path, d=declared: ours(p, d)), best(lambda p=path: bare(p))
            print(f"{path.name:16}{mine:8.2f}{theirs:8.2f}{mine / theirs:8.1f}")


if __name__ == "__main__":
    main()
