"""Any customer file: the product's models, selection and intervals beside what a user would take instead, in one run.

    make bench CUSTOMER_YAML=dags/customers/pasta.yaml                  # SERIES=30 ORIGINS=6: a quicker look
    make bench CUSTOMER_YAML=dags/customers/gifts.yaml DATA=examples/gifts
    make bench-demo                                                     # the demo's customers

The feed is read, checked and made a panel as a night does it; the fits, the choices and the intervals are those of a
night's functions, under the customer's own declaration. At every origin that is judged, choices and intervals come from
origins whose horizon had ended by then. Progress goes to stderr; stdout holds the tables and, on its last line, JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import pages, peers, scoring
from forecasting.cli import connections
from forecasting.config import Customer, Settings, load_customer, settings
from forecasting.data import contracts, sources
from forecasting.data import panel as panels
from forecasting.errors import ForecastingError
from forecasting.feed import FilePart, ParquetSource, SqlSource
from forecasting.frames import BACKTEST
from forecasting.learn import backtest, selection
from forecasting.learn.models import LADDER, ml, statistical
from forecasting.periods import cutoff_of, shift

ROOT = Path(__file__).resolve().parent.parent
DEMO: dict[str, str | None] = {"pasta": None, "gifts": "examples/gifts", "grocery": None}
"""The demo's customers, and where the files stand that a database is filled from; ``live`` is pasta, re-dated."""
ORIGINS = 6
"""Origins that are judged where history allows and nobody asks for another number; who declares more gets more."""
FEWEST = 4
"""Fewer judged origins than this are no benchmark."""
SHARD = 25
"""Series of one statistical fit: how often progress is told. A series' result does not depend on it."""
FOREVER = date(2200, 12, 31)
"""A day that no feed reaches."""
SELECTION = "selection"


# --- the customer's data --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Feed:
    """A customer, read and checked as a night does, at the newest cutoff its data allow."""

    customer: Customer
    panel: pd.DataFrame
    cutoff: date


def read(path: Path, data: Path | None = None, cutoff: date | None = None) -> Feed:
    """Read a customer's feed.

    Args:
        path: The customer's file.
        data: Folder that the source's relative paths start from (default: FORECASTING_ROOT, else the checkout that the
            file stands in). For a database: the folder that holds each of its tables as ``<table>.parquet``, in place
            of its connection.
        cutoff: Last period of the history; None: the newest that the data allow.

    Raises:
        SystemExit: The file cannot be used, or the contract is broken; with what is wrong.
        ForecastingError: The source is not what is declared, or cannot be had.
    """
    customer = load_customer(path)
    if not isinstance(customer, Customer):
        raise SystemExit(customer.message)
    deployment = _deployment(path)
    contract = contracts.load(deployment.contracts / f"{customer.contract}.odcs.yaml")
    contracts.agree(contract, customer)
    access = sources.Access(deployment.root, deployment.deliveries, None, deployment.http_hosts)
    if data is not None:
        customer, access = _from_folder(customer, data), sources.Access(data.resolve(), deployment.deliveries)
    elif customer.source.connection:
        uri = connections.needed(deployment, customer.id)
        access = sources.Access(deployment.root, deployment.deliveries, uri, deployment.http_hosts)
    cutoff = cutoff or _newest(sources.pull(customer, access=access, until=FOREVER).rows, customer)
    feed = sources.pull(customer, access=access, until=shift(cutoff, customer.horizon, customer.frequency))
    rows, excluded = panels.exclude(feed.rows, customer, cutoff)
    verdict = contracts.check(rows, contract, customer, cutoff=cutoff)
    if verdict.broken:
        raise SystemExit(verdict.message())
    unnamed = verdict.refused_for(customer.columns.keys)
    mapped = panels.to_panel(verdict.accepted, verdict.rejected, customer, cutoff, excluded=excluded, unnamed=unnamed)
    panels.check_panel(mapped.panel, customer)
    return Feed(customer, mapped.panel, cutoff)


def _deployment(path: Path) -> Settings:
    """The settings of the deployment that the file belongs to: FORECASTING_ROOT, else the checkout it stands in."""
    if "FORECASTING_ROOT" in os.environ:
        return settings()
    root = next((folder for folder in path.resolve().parents if (folder / "data_contracts").is_dir()), ROOT)
    return settings({**os.environ, "FORECASTING_ROOT": str(root)})


def _from_folder(customer: Customer, data: Path) -> Customer:
    """A database's tables as files of the same names; any other source stays as it is."""
    source = customer.source
    if not isinstance(source, SqlSource):
        return customer
    parts = tuple(
        FilePart(
            uri=f"{place.table.rpartition('.')[2]}.parquet", since=place.since, until=place.until, names=place.names
        )
        for place in source.places()
    )
    shared = {name: getattr(source, name) for name in ("timeout", "max_rows", "names", "date_format", "clock")}
    return customer.model_copy(update={"source": ParquetSource(kind="parquet", parts=parts, **shared)})


def _newest(rows: pd.DataFrame, customer: Customer) -> date:
    """The last complete period with a target after which every column known ahead reaches over the horizon."""

    def last(column: str, ahead: int = 0) -> date:
        day = rows.loc[rows[column].notna(), customer.columns.ds].max()
        if pd.isna(day):
            raise SystemExit(f"{customer.id}: the feed has no value in column {column!r}, so there is nothing to judge")
        return shift(cutoff_of(day.date(), 0, customer.frequency), -ahead, customer.frequency)

    plans = [column for name in customer.future() for column in customer.exogenous[name].reads(name)]
    return min([last(customer.columns.y), *(last(column, customer.horizon) for column in plans)])


# --- origins --------------------------------------------------------------------------------------------------------


def judged(origins: Sequence[date], customer: Customer) -> list[date]:
    """The origins before which enough others had ended for choices to be made: as ``selection.rolled`` judges."""
    ends = [shift(origin, customer.horizon, customer.frequency) for origin in origins]
    return [origin for origin in origins if sum(end <= origin for end in ends) >= customer.backtest.select]


def rolling(feed: Feed, wanted: int | None = None) -> tuple[Customer, list[date]]:
    """The customer with as many windows as it takes to judge ``wanted`` origins, and its origins.

    Raises:
        SystemExit: History is too short to judge ``wanted`` origins, or ``FEWEST`` where no number is asked for.
    """
    customer, first = feed.customer, feed.panel["ds"].min().date()
    least = wanted or max(ORIGINS, customer.backtest.windows - customer.backtest.select)
    for windows in range(2, 61):
        update = {"backtest": customer.backtest.model_copy(update={"windows": windows})}
        rolled = customer.model_copy(update=update)
        origins = backtest.origins(feed.cutoff, rolled, first)
        if len(judged(origins, customer)) >= least or len(origins) < windows:
            break
    if len(judged(origins, customer)) < (wanted or FEWEST):
        raise SystemExit(
            f"{customer.id}: {len(judged(origins, customer))} origins can be judged between {first} and {feed.cutoff}, "
            f"expected at least {wanted or FEWEST}; bring more history, or lower ORIGINS, horizon or backtest.step"
        )
    return rolled, origins


# --- what a run costs -----------------------------------------------------------------------------------------------


@dataclass
class Cost:
    """Seconds and origins of one contender."""

    wall: float = 0.0
    cpu: float = 0.0
    origins: int = 0


@dataclass
class Meter:
    """Tells progress on stderr and counts seconds, of child processes too."""

    name: str
    began: float = field(default_factory=time.perf_counter)
    costs: dict[str, Cost] = field(default_factory=dict)

    def tell(self, what: str) -> None:
        print(f"{self.name:12s} {time.perf_counter() - self.began:6.0f} s  {what}", file=sys.stderr, flush=True)

    @contextmanager
    def counting(self, contender: str, origins: int = 0) -> Iterator[None]:
        wall, cpu = time.perf_counter(), cpu_seconds()
        yield
        cost = self.costs.setdefault(contender, Cost())
        cost.wall += time.perf_counter() - wall
        cost.cpu += cpu_seconds() - cpu
        cost.origins += origins


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended: Prophet fits in one."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak_memory() -> int:
    """Most MiB this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


# --- the contenders -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Product:
    """What a night's functions made."""

    scores: pd.DataFrame
    """frames.BACKTEST with one column per model, every origin."""
    rolled: selection.Rolled
    """What would have been published at each judged origin."""


def product(feed: Feed, customer: Customer, origins: Sequence[date], threads: int, meter: Meter) -> Product:
    """Fit both families as a retrain does, then choose, combine and calibrate from earlier origins only."""
    ids = sorted(feed.panel["unique_id"].unique())
    shards = -(-len(ids) // SHARD)
    parts = []
    with meter.counting(SELECTION, len(origins) + 1):  # the origins, and the cutoff
        for at in range(shards):
            shard = ids[at::shards]
            fitted = statistical.fit(feed.panel, customer, feed.cutoff, shard, None, origins, threads)
            parts.append(fitted.scores)
            meter.tell(f"statistical models: {at + 1} of {shards} shards, {len(origins)} origins each")
        scores = backtest.stack(parts)
        if ml.NAME in customer.pool:
            trained = ml.fit(feed.panel, customer, feed.cutoff, origins, threads)
            scores = backtest.join(scores, trained.scores)
            meter.tell(f"{ml.NAME}: {len(origins)} origins")
        rolled = selection.rolled_nodes(scores, customer)
    meter.tell("selection and intervals")
    return Product(scores, rolled)


def peer(
    name: str, feed: Feed, customer: Customer, origins: Sequence[date], threads: int, meter: Meter
) -> pd.DataFrame:
    """One peer's forecasts at every judged origin: unique_id, ds, cutoff, y_hat, perhaps q10 and q90."""
    made = []
    for number, origin in enumerate(origins, 1):
        at = peers.given(feed.panel, customer, origin, threads)
        with meter.counting(name, 1):
            made.append(peers.PEERS[name](at).assign(cutoff=pd.Timestamp(origin)))
        meter.tell(f"{name}: origin {number} of {len(origins)}")
    return pd.concat(made, ignore_index=True)


# --- one customer's figures -----------------------------------------------------------------------------------------


def bench(feed: Feed, *, origins: int | None, series: int | None, threads: int) -> dict[str, Any]:
    """Run the product and the peers over one customer and judge all of them on the same rows."""
    meter = Meter(feed.customer.id)
    if series is not None:
        feed = Feed(feed.customer, panels.sample(feed.panel, series), feed.cutoff)
    customer, days = rolling(feed, origins)
    levels = tuple(sorted({*customer.levels, peers.LEVEL}))  # peers give the 80 % interval
    customer = customer.model_copy(update={"levels": levels})
    wanted = judged(days, customer)
    meter.tell(f"{feed.panel['unique_id'].nunique()} series to {feed.cutoff}, origins {wanted[0]} to {wanted[-1]}")
    made = product(feed, customer, days, threads, meter)
    rows, plain = _judged_rows(made, customer)
    others = {name: peer(name, feed, customer, wanted, threads, meter) for name in peers.PEERS}
    contenders = {SELECTION: plain | {"frame": rows}}
    contenders |= {name: _single(name, made, rows, customer) for name in _columns(made)}
    contenders |= {name: _peer(rows, forecasts, made) for name, forecasts in others.items()}
    return _report(feed, customer, contenders, made.rolled.upper, meter)


def _columns(made: Product) -> list[str]:
    return backtest.columns(made.scores)


def _judged_rows(made: Product, customer: Customer) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The selection's rows, which are everybody's: those of the judged origins, gaps filled by the ladder's models."""
    rows = made.rolled.bottom.sort_values(list(BACKTEST.key), ignore_index=True)
    filled, count = _filled(rows, made)
    return filled, {"kind": SELECTION, "filled": count}


def _single(name: str, made: Product, rows: pd.DataFrame, customer: Customer) -> dict[str, Any]:
    key = list(BACKTEST.key)
    column = rows[key].merge(made.scores[[*key, name]], on=key, how="left")[name]
    frame, count = _filled(rows[list(BACKTEST.columns)].assign(y_hat=column.to_numpy()), made)
    kind = "single" if name in customer.pool else "reference"
    return {"kind": kind, "filled": count, "frame": frame}


def _peer(rows: pd.DataFrame, forecasts: pd.DataFrame, made: Product) -> dict[str, Any]:
    values = [name for name in ("y_hat", "q10", "q90") if name in forecasts]
    key = ["unique_id", "ds", "cutoff"]
    joined = rows[list(BACKTEST.columns)].merge(forecasts[[*key, *values]], on=key, how="left", validate="one_to_one")
    frame, count = _filled(joined, made)
    return {"kind": "peer", "filled": count, "frame": frame}


def _filled(frame: pd.DataFrame, made: Product) -> tuple[pd.DataFrame, int]:
    """Rows without a forecast take the seasonal naive's, or else the weekday mean's; and how many scored ones did."""
    gaps = ~np.isfinite(frame["y_hat"].to_numpy(dtype=np.float64))
    key = list(BACKTEST.key)
    cheap = frame[key].merge(made.scores[[*key, *LADDER]], on=key, how="left")
    stand_in = cheap[LADDER[0]].fillna(cheap[LADDER[1]]).to_numpy()
    out = frame.copy()
    for name in [c for c in out.columns if c == "y_hat" or c in scoring.QUANTILES]:
        lacking = gaps | ~np.isfinite(out[name].to_numpy(dtype=np.float64))
        out[name] = np.where(lacking, stand_in if name == "y_hat" else out["y_hat"], out[name])
    return out, int((gaps & out["scored"].to_numpy()).sum())


def _report(
    feed: Feed, customer: Customer, contenders: dict[str, dict[str, Any]], upper: pd.DataFrame, meter: Meter
) -> dict[str, Any]:
    rows = contenders[SELECTION]["frame"]
    seen = rows[rows["scored"]]
    forecasts = {name: _figures(one, meter.costs.get(name)) for name, one in contenders.items()}
    singles = {name: one for name, one in forecasts.items() if one["kind"] in ("single", "reference")}
    best = min(singles, key=lambda name: singles[name]["rmsse"])
    own = forecasts[SELECTION]["rmsse"]
    rivals = {name: one["rmsse"] for name, one in forecasts.items() if one["kind"] == "peer"}
    return {
        "customer": customer.id,
        "cutoff": feed.cutoff.isoformat(),
        "frequency": customer.frequency,
        "horizon": customer.horizon,
        "series": int(rows["unique_id"].nunique()),
        "origins": sorted({day.date().isoformat() for day in rows["cutoff"]}),
        "rows": len(seen),
        "zeros": float((seen["y"] == 0).mean()),
        "forecasts": forecasts,
        "best_single": best,
        "distance_to_best_single_percent": (own / singles[best]["rmsse"] - 1) * 100,
        "peers": len(rivals),
        "peers_beaten": sum(own < rmsse for rmsse in rivals.values()),
        "best_peer": min(rivals, key=lambda name: rivals[name]),
        "nodes": {str(node): scoring.tails(one) for node, one in upper.groupby("node", sort=True)},
        "wall_seconds": round(time.perf_counter() - meter.began, 1),
        "cpu_seconds": round(sum(cost.cpu for cost in meter.costs.values()), 1),
        "peak_memory_mib": peak_memory(),
    }


def _figures(one: dict[str, Any], cost: Cost | None) -> dict[str, Any]:
    by_origin = selection.rmsse_by_series(one["frame"], ["y_hat"])["y_hat"].groupby("cutoff").mean()
    figures: dict[str, Any] = {"kind": one["kind"], **scoring.figures(one["frame"]), "filled_rows": one["filled"]}
    figures["rmsse_by_origin"] = [round(float(value), 4) for value in by_origin]
    if cost is not None:
        figures |= {"wall_seconds": round(cost.wall, 1), "cpu_seconds": round(cost.cpu, 1), "fits": cost.origins}
    return figures


# --- tables ---------------------------------------------------------------------------------------------------------


def table(result: dict[str, Any]) -> str:
    """One customer's figures as Markdown: what was judged, every contender from the best RMSSE down, what it means."""
    head = ["forecast", "what it is", "RMSSE", "WAPE", "bias", "pinball", "within 80 %", "above q90", "below q10",
            "CPU s an origin", "filled rows"]  # fmt: skip
    forecasts = sorted(result["forecasts"].items(), key=lambda item: item[1]["rmsse"])
    lines = [_judged_sentence(result), "", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    lines += [f"| {' | '.join(_cells(name, one))} |" for name, one in forecasts]
    return "\n".join([*lines, "", _meaning(result)])


def _judged_sentence(result: dict[str, Any]) -> str:
    step = {"D": "days", "W": "weeks", "M": "months"}[result["frequency"]]
    return (
        f"{result['series']} series, {result['horizon']} {step} ahead of {len(result['origins'])} origins from "
        f"{result['origins'][0]} to {result['origins'][-1]}: {result['rows']:,} scored rows, "
        f"{result['zeros']:.0%} of them zeros."
    )


def _cells(name: str, one: dict[str, Any]) -> list[str]:
    def percent(value: float | None) -> str:
        return "" if value is None else f"{value:.1%}"

    label = f"**{name}**" if one["kind"] == SELECTION else f"`{name}`"
    what = {SELECTION: "what the product publishes", "single": "one model of the pool", "reference": "reference"}
    bias, pinball = one["bias"], one["pinball"]
    return [
        label,
        what.get(one["kind"], "plain script"),
        f"{one['rmsse']:.4f}",
        "" if one["wape"] is None else f"{one['wape']:.4f}",
        "" if bias is None else f"{bias:+.1%}",
        "" if pinball is None else f"{pinball:.4f}",
        percent(one["coverage_80"]),
        percent(one["above_q90"]),
        percent(one["below_q10"]),
        f"{one['cpu_seconds'] / one['fits']:.1f}" if "fits" in one else "",
        str(one["filled_rows"]),
    ]


def _meaning(result: dict[str, Any]) -> str:
    distance, best = result["distance_to_best_single_percent"], result["best_single"]
    side = "behind" if distance > 0 else "ahead of"
    nodes = "; ".join(
        f"{node} {one['coverage_80']:.0%} (above {one['above_q90']:.0%}, below {one['below_q10']:.0%})"
        for node, one in result["nodes"].items()
    )
    return (
        f"The selection is {abs(distance):.1f} % {side} `{best}`, the best single column in hindsight, and beats "
        f"{result['peers_beaten']} of {result['peers']} plain scripts; the best of them is `{result['best_peer']}`."
        + (f" Aggregates within 80 %: {nodes}." if nodes else "")
        + f" {result['wall_seconds']:.0f} s, {result['cpu_seconds']:.0f} CPU seconds, {result['peak_memory_mib']} MiB."
    )


def write(page: Path, results: Sequence[dict[str, Any]]) -> None:
    """Put each customer's table between its markers in a page.

    Raises:
        SystemExit: The page has no such markers.
    """
    for result in results:
        pages.fill(page, _mark(result["customer"]), table(result))


def _mark(customer: str) -> str:
    return f"bench {customer}"


# --- command line ---------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("customer", nargs="*", type=Path, help="customer files")
    parser.add_argument("--demo", action="store_true", help="the demo's customers")
    parser.add_argument("--data", type=Path, help="folder the source's paths start from, or that holds its tables")
    parser.add_argument(
        "--cutoff", type=date.fromisoformat, help="last period of history; default: the newest possible"
    )
    parser.add_argument("--origins", type=_count, help=f"origins to judge; default {ORIGINS}, or what is declared")
    parser.add_argument("--series", type=_count, help="most series, spread over the ranks of volume; default: all")
    parser.add_argument("--page", type=Path, help="page whose tables are written anew")
    given = parser.parse_args(arguments)
    if bool(given.customer) == given.demo:
        parser.error("expected customer files (CUSTOMER_YAML=dags/customers/pasta.yaml), or --demo")
    wanted = [(path, given.data) for path in given.customer]
    if given.demo:
        wanted = [(ROOT / f"dags/customers/{name}.yaml", data and ROOT / data) for name, data in DEMO.items()]
    if given.page and (given.series or given.cutoff or given.origins):
        parser.error("--page is for the whole customer; leave --page or --series, --cutoff and --origins out")
    pages.expect(given.page, *(_mark(path.stem) for path, _ in wanted))
    results = []
    for path, data in wanted:
        try:
            feed = read(path, data, given.cutoff)
        except ForecastingError as error:
            raise SystemExit(str(error)) from None
        results.append(bench(feed, origins=given.origins, series=given.series, threads=settings().threads))
        print(f"\n{path.stem}: {table(results[-1])}\n", flush=True)
        if given.page:  # after each, so that a run that is stopped keeps what it has
            write(given.page, results[-1:])
    print(json.dumps(results[0] if len(results) == 1 else {"customers": results}, allow_nan=False))


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 1")
    return value


if __name__ == "__main__":
    main()
