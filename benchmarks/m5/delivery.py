"""What the retailer delivers, written once into a folder, and its way through pull, contract and panel.

A pull holds its long rows in memory, 120 bytes each, several times over: the whole of M5 is 60 million of them, more
than a night may take. So it is delivered store by store, and each store goes through the product's functions by itself;
their panels stand one behind the other, in the order of the keys.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.m5.world import HORIZON, KEYS, World, day
from forecasting.config import Customer, load_customer
from forecasting.data import contracts, sources
from forecasting.data import panel as panels
from forecasting.errors import ContractBrokenError

__all__ = ["customer", "deliver", "panel", "read", "since", "write"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = ROOT / ".forecasting/bench"
"""Where deliveries and panels are kept unless the command says otherwise."""
AT_ONCE = 4_000
"""Series that go through a pull, or a statistical fit, at once."""
LONGEST = 1800
"""Seconds after which one delivery's pull is given up."""
FORMAT = 1
"""Number of the delivery's form; another one is written anew."""

Say = Callable[[str], None]


def customer(path: Path = HERE / "m5.yaml") -> Customer:
    """The customer's declaration."""
    found = load_customer(path)
    if not isinstance(found, Customer):
        raise SystemExit(found.message)
    return found


# --- what is delivered ----------------------------------------------------------------------------------------------


def deliver(world: World, folder: Path, say: Say = print) -> list[Path]:
    """Write the wide files of a world, unless they stand there: one row per series, one column per day and quantity.

    Returns:
        Folders of deliveries, in the order of the keys; each holds ``m5/sales.parquet``.
    """
    home = folder / f"delivery-{FORMAT}-{_named(world)}"
    if not home.exists():
        say(f"writing {home.name}")
        made = home.with_suffix(".unfinished")
        shutil.rmtree(made, ignore_errors=True)
        for name, part in _parts(world):
            (made / name / "m5").mkdir(parents=True)
            pq.write_table(_wide(part), made / name / "m5/sales.parquet", compression="zstd", write_page_checksum=True)
        made.rename(home)
    return sorted(home.iterdir())


def _named(world: World) -> str:
    """A name that follows from what is delivered."""
    digest = hashlib.sha256("\n".join(world.series["unique_id"]).encode())
    for values in (world.sales, world.prices):
        digest.update(np.ascontiguousarray(values).data)
    digest.update(world.calendar.to_json().encode())
    return f"{len(world.series)}-{digest.hexdigest()[:12]}"


def _parts(world: World) -> list[tuple[str, World]]:
    if len(world.series) <= AT_ONCE:
        return [("all", world)]
    stores = world.series["store"].to_numpy()
    return [(store, world.keep(np.flatnonzero(stores == store))) for store in np.unique(stores)]


def _wide(world: World) -> pa.Table:
    """Quantities are empty after the last day of sales; a price of 0 says that the item is not on sale."""
    count, days = world.prices.shape
    columns: dict[str, pa.Array] = {key: pa.array(world.series[key]) for key in KEYS}
    sales = np.full((count, days), np.nan, dtype=np.float32)
    sales[:, : world.days] = world.sales
    columns |= {f"quantity_{d + 1}": pa.array(sales[:, d], from_pandas=True) for d in range(days)}
    columns |= {f"price_{d + 1}": pa.array(np.nan_to_num(world.prices[:, d])) for d in range(days)}
    states = [f"snap_{state}" for state in world.series["state"]]
    listed, of_series = np.unique(states, return_inverse=True)
    snap = world.calendar[list(listed)].to_numpy(dtype=np.int8)[:, of_series]
    columns |= {f"snap_{d + 1}": pa.array(snap[d]) for d in range(days)}
    for name, values in _events(world.calendar).items():
        columns |= {f"{name}_{d + 1}": pa.array(np.full(count, values[d], dtype=np.int8)) for d in range(days)}
    return pa.table(columns)


def _events(calendar: pd.DataFrame) -> dict[str, np.ndarray]:
    """``event``: number of the first event's name, in text order from 1; and a flag per type of either event."""
    names = sorted(calendar["event_name_1"].dropna().unique())
    event = calendar["event_name_1"].map({name: at + 1 for at, name in enumerate(names)}).fillna(0)
    types = calendar[["event_type_1", "event_type_2"]]
    kinds = ("Cultural", "National", "Religious", "Sporting")
    flags = {kind.lower(): (types == kind).any(axis=1).to_numpy(dtype=np.int8) for kind in kinds}
    return {"event": event.to_numpy(dtype=np.int8), **flags}


# --- its way into the panel -----------------------------------------------------------------------------------------


def since(declared: Customer, origin: int) -> int:
    """Number of the first day that is pulled: the oldest backtest origin still has ``history_days`` before it."""
    back = declared.history_days + declared.step * (declared.backtest.windows - 1) + HORIZON
    return max(origin - back + 1, 1)


_READS = {"columns", "exogenous", "absent", "returns", "duplicates", "exclude", "closed_weekdays", "horizon"}
"""What a panel depends on beside its source: another pool or seed reads the same one."""


def panel(declared: Customer, parts: Sequence[Path], origin: int, folder: Path, say: Say = print) -> pd.DataFrame:
    """The canonical panel at an origin, as a night's pull and freeze make it; kept in ``folder`` for the next run.

    Args:
        declared: The customer.
        parts: What :func:`deliver` gave.
        origin: Last training day; later quantities are blanked by the pull.
        folder: Where panels are kept.
        say: Takes a line of progress.

    Raises:
        SystemExit: The delivery breaks the contract.
    """
    contract = contracts.load(HERE / f"{declared.contract}.odcs.yaml")
    contracts.agree(contract, declared)
    first = since(declared, origin)
    rules = declared.model_dump(mode="json", include=_READS)
    facts = [declared.source.model_dump(mode="json"), rules, contract.version, origin, first]
    stamp = hashlib.sha256(json.dumps([str(parts[0].parent.name), *facts], sort_keys=True).encode()).hexdigest()[:12]
    home = folder / f"panel-{origin}-{stamp}"
    home.mkdir(parents=True, exist_ok=True)
    missing = [part for part in parts if not (home / f"{part.name}.parquet").exists()]
    tasks = [(declared, contract, part, origin, first, home / f"{part.name}.parquet") for part in missing]
    for number, task in enumerate(tasks, 1):
        # in a process of its own, which gives all its memory back; not a fork of this one, whose threads may hold locks
        with multiprocessing.get_context("spawn").Pool(1) as alone:
            try:
                rows, seconds = alone.apply_async(_made, (task,)).get(LONGEST)
            except ContractBrokenError as error:
                raise SystemExit(str(error)) from None
            except multiprocessing.TimeoutError:
                raise SystemExit(f"{task[2]}: no panel after {LONGEST} s; its process was ended") from None
        say(f"pull and freeze {number} of {len(missing)}: {rows} rows, {seconds:.0f} s")
    say(f"reading {home.name}")
    return read([home / f"{part.name}.parquet" for part in parts])


def _made(task: tuple[Customer, contracts.Contract, Path, int, int, Path]) -> tuple[int, float]:
    """Write one delivery's panel; its rows, and the seconds that it took."""
    *asked, path = task
    began = time.perf_counter()
    panel = _one(*asked)
    write(panel, path)
    return len(panel), time.perf_counter() - began


def _one(declared: Customer, contract: contracts.Contract, part: Path, origin: int, first: int) -> pd.DataFrame:
    """One delivery by the functions of a night: pull, exclude, check, aggregate."""
    cutoff, start = day(origin), day(first)
    access = sources.Access(ROOT, deliveries=part)
    feed = sources.pull(declared, access=access, since=start, until=cutoff + timedelta(days=HORIZON))
    rows, excluded = panels.exclude(feed.rows, declared, cutoff)
    del feed
    verdict = contracts.check(rows, contract, declared, cutoff=cutoff)
    if verdict.broken:
        raise ContractBrokenError(verdict.message())  # a worker that exits would leave its pool waiting
    del rows
    unnamed = verdict.refused_for(declared.columns.keys)
    mapped = panels.to_panel(
        verdict.accepted, verdict.rejected, declared, cutoff, since=start, excluded=excluded, unnamed=unnamed
    )
    panels.check_panel(mapped.panel, declared)
    return mapped.panel


def write(made: pd.DataFrame, path: Path) -> None:
    """Keep a panel, or a part of one, for :func:`read`."""
    unfinished = path.with_suffix(".unfinished")
    table = pa.Table.from_pandas(made, preserve_index=False)
    pq.write_table(table, unfinished, compression="zstd", write_page_checksum=True)
    unfinished.rename(path)


def read(paths: Sequence[Path]) -> pd.DataFrame:
    """The parts one behind the other, column by column into place; each id is held once, however often it stands there.

    The parts were checked when they were made, and frames.PANEL's check of all at once would take as much again as the
    panel itself: here only their order is looked at.

    Raises:
        ValueError: The parts are not in the order of their series.
    """
    files = [pq.ParquetFile(path, read_dictionary=["unique_id"], page_checksum_verification=True) for path in paths]
    ends = np.cumsum([0, *(file.metadata.num_rows for file in files)])
    columns: dict[str, np.ndarray] = {}
    for name in files[0].schema_arrow.names:
        newest = ""
        for file, begin, end in zip(files, ends, ends[1:], strict=False):
            values = file.read(columns=[name]).column(0).combine_chunks()
            if name == "unique_id":
                names = values.dictionary.to_numpy(zero_copy_only=False)
                if (names[1:] <= names[:-1]).any() or names[0] <= newest:
                    raise ValueError(f"{paths[0].parent}: the parts are not in the order of their series")
                newest = names[-1]
                part = names[values.indices.to_numpy()]
            else:
                part = values.to_numpy(zero_copy_only=False)
            columns.setdefault(name, np.empty(ends[-1], dtype=part.dtype))[begin:end] = part
        pa.default_memory_pool().release_unused()
    return pd.DataFrame(columns, copy=False).astype({"ds": "datetime64[ns]"}, copy=False)
