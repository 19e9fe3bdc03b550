"""The published protocol on orange juice: 12 rounds, 5 seeds, forecasts by the functions a customer's night runs.

    make bench-orange-juice DATA=folder            # yx.parquet, as the R package bayesm (GPL) holds it
    make bench-orange-juice DATA=folder SEEDS=1    # one seed, to try a recipe

Round r trains on the weeks 40 to 135 + 2 (r - 1), skips one and forecasts the two after it: the second and third step
of the customer's horizon. (Week 40 is left out: a row is of its week's last day, so the pull begins within it.) Prices
and promotions are known to the end. MAPE is pooled over all rows that were sold in those weeks, on rounded forecasts;
the figure is the median of the seeds. ``TUNE=n`` plays n rounds that end before the
protocol's first test week instead: recipes are chosen there and judged here.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import pages
from forecasting.config import BOTTOM, Customer, load_customer
from forecasting.data import contracts, sources
from forecasting.data import panel as panels
from forecasting.frames import join_id, quantile_column
from forecasting.learn import backtest, grid, intervals, publication, selection
from forecasting.learn.models import ml, statistical
from forecasting.periods import shift

HERE = Path(__file__).resolve().parent
WEEK_0 = date(1989, 9, 10)
"""A Sunday, which week 0 ends on; only the order and the steps of seven days matter."""
FIRST_WEEK, FIRST_CUTOFF = 40, 135
ROUNDS, GAP, STEP = 12, 1, 2
SEEDS = 5
BRANDS = range(1, 12)
THREADS = 2
"""LightGBM's; the published seconds are of two cores as well, and the forecasts do not depend on it."""
MARK = "orange juice"
"""Of its table in a page."""
NAIVE_MAPE = 109.67
"""What the last observed week scores under this protocol, in %; another figure means it was read otherwise."""
PUBLISHED = {
    "LightGBM": 36.28,
    "dilated CNN": 37.09,
    "RNN": 37.68,
    "mean": 70.74,
    "ARIMA": 70.80,
    "ETS": 70.99,
    "naive": NAIVE_MAPE,
    "seasonal naive": 165.06,
}
"""MAPE in %: TSPerf, benchmark OrangeJuice_Pt_3Weeks_Weekly."""


# --- the protocol ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """One round: what is known, and which two weeks are scored."""

    last: int
    """Last week whose sales are known."""

    @property
    def cutoff(self) -> date:
        return ends(self.last)

    @property
    def scored(self) -> tuple[int, ...]:
        return tuple(self.last + GAP + step for step in range(1, STEP + 1))


def rounds(tune: int | None) -> list[Round]:
    """The protocol's rounds; or ``tune`` of them whose last scored week is the last training week of the first."""
    if tune is None:
        return [Round(FIRST_CUTOFF + STEP * r) for r in range(ROUNDS)]
    newest = FIRST_CUTOFF - GAP - STEP
    return [Round(newest - STEP * back) for back in reversed(range(tune))]


def ends(week: int) -> date:
    """The day on which a week of the file ends."""
    return WEEK_0 + timedelta(weeks=week)


def read(folder: Path) -> pd.DataFrame:
    """store, brand, week, units and the rest of the file, sorted."""
    path = folder / "yx.parquet"
    if not path.is_file():
        raise SystemExit(f"{path} is not there: DATA must be the folder that holds yx.parquet (R package bayesm)")
    rows = pd.read_parquet(path)
    expected = ["store", "brand", "week", "logmove", *(f"price{n}" for n in BRANDS), "deal", "feat"]
    missing = [name for name in expected if name not in rows]
    if missing:
        raise SystemExit(f"{path} lacks the columns {', '.join(missing)}; expected {', '.join(expected)}")
    rows["units"] = np.exp(rows["logmove"]).round()
    return rows.sort_values(["store", "brand", "week"], ignore_index=True)


def naive_mape(rows: pd.DataFrame, played: list[Round]) -> float:
    """MAPE in % of each series' last observed week over the scored rows."""
    ratios = []
    for one in played:
        last = rows[rows["week"] <= one.last].groupby(["store", "brand"])["units"].last().rename("y_hat")
        truth = rows[rows["week"].isin(one.scored)].join(last, on=["store", "brand"])
        ratios.append((truth["y_hat"] - truth["units"]).abs() / truth["units"])
    return 100 * float(pd.concat(ratios).mean())


def deliver(rows: pd.DataFrame, folder: Path) -> None:
    """Write what the chain would deliver: every store's brands week by week, units empty where they were not recorded.

    A row of the file carries the prices of all brands, so a brand's price is known in every week in which its store
    recorded anything; a promotion is known where it is recorded.
    """
    weeks = rows.drop_duplicates(["store", "week"])[["store", "week", *(f"price{n}" for n in BRANDS)]]
    prices = weeks.rename(columns={f"price{n}": n for n in BRANDS}).melt(
        ["store", "week"], var_name="brand", value_name="price"
    )
    prices["brand"] = prices["brand"].astype("int32")
    mean = prices.groupby(["store", "week"])["price"].transform("mean")
    table = prices.assign(category_price=mean).merge(
        rows[["store", "week", "brand", "units", "deal", "feat"]], on=["store", "week", "brand"], how="left"
    )
    out = pd.DataFrame(
        {
            "week_end": pd.to_datetime([ends(week) for week in table["week"]]),
            "store": table["store"].astype(str),
            "brand": table["brand"].astype(str),
            "units": table["units"],
            "price": table["price"],
            "category_price": table["category_price"],
            "deal": table["deal"].fillna(0).astype(float),
            "feature": table["feat"].fillna(0.0),
        }
    )
    folder.mkdir(parents=True)
    out.sort_values(["week_end", "store", "brand"]).to_parquet(
        folder / "sales.parquet", index=False, write_page_checksum=True
    )


# --- the product's path ---------------------------------------------------------------------------------------------


def known(customer: Customer, deliveries: Path, cutoff: date) -> pd.DataFrame:
    """What a night with this cutoff has in its hands: pulled, checked against the contract, mapped to the panel."""
    access = sources.Access(HERE, deliveries=deliveries)
    until = shift(cutoff, customer.horizon, customer.frequency)
    rows, left_out = panels.exclude(sources.pull(customer, access=access, until=until).rows, customer, cutoff)
    contract = contracts.load(HERE / f"{customer.contract}.odcs.yaml")
    verdict = contracts.check(rows, contract, customer, cutoff=cutoff)
    if verdict.rejected.size:
        raise SystemExit(f"{len(verdict.rejected)} delivered rows break the contract: the conversion is wrong")
    return panels.to_panel(verdict.accepted, verdict.rejected, customer, cutoff, excluded=left_out).panel


def night(panel: pd.DataFrame, customer: Customer, cutoff: date, one: statistical.Fitted) -> pd.DataFrame:
    """The published set of a retrain: global fit, selection, ladder, quantiles; the statistical fit is given."""
    origins = backtest.origins(cutoff, customer, panel["ds"].min().date())
    two = ml.fit(panel, customer, cutoff, origins, THREADS)
    scores, forecasts = backtest.join(one.scores, two.scores), backtest.join(one.forecasts, two.forecasts)
    choices = selection.choose(scores, customer)
    offsets = intervals.calibrate(scores, choices, customer)
    status = pd.concat([one.status, two.status], ignore_index=True)
    rows, account = publication.compose(forecasts, status, choices, offsets, panel, customer, cutoff)
    if faults := publication.audit(rows, account, customer, cutoff):
        raise SystemExit(f"{cutoff}: a night would publish nothing of this: {'; '.join(faults)}")
    return rows


def fit_statistical(panel: pd.DataFrame, customer: Customer, cutoff: date) -> statistical.Fitted:
    """The statistical pool of a round, which no seed enters."""
    origins = backtest.origins(cutoff, customer, panel["ds"].min().date())
    return statistical.fit(panel, customer, cutoff, grid.known_ids(panel, cutoff), None, origins, 1)


# --- scores ---------------------------------------------------------------------------------------------------------


def truth(rows: pd.DataFrame, one: Round) -> pd.DataFrame:
    """unique_id, h, y of the scored rows of a round."""
    seen = rows[rows["week"].isin(one.scored)]
    ids = [join_id([str(store), str(brand)]) for store, brand in zip(seen["store"], seen["brand"], strict=True)]
    return pd.DataFrame({"unique_id": ids, "h": seen["week"].to_numpy() - one.last, "y": seen["units"].to_numpy()})


def figures(judged: pd.DataFrame, customer: Customer) -> dict[str, float]:
    """Scores pooled over rows; ``pinball`` is the sum of all quantiles' losses over that of sales, their mean, × 2."""
    y, y_hat = judged["y"].to_numpy(), judged["y_hat"].round().to_numpy()
    losses = []
    for q in customer.quantiles:
        short = y - judged[quantile_column(q)].to_numpy()
        losses.append(2 * np.maximum(q * short, (q - 1) * short).sum() / y.sum())
    return {
        "mape": 100 * float(np.mean(np.abs(y_hat - y) / y)),
        "wape": float(np.abs(y_hat - y).sum() / y.sum()),
        "wape_q50": float(np.abs(judged["q50"].to_numpy() - y).sum() / y.sum()),
        "bias": float((y_hat - y).sum() / y.sum()),
        "pinball": float(np.mean(losses)),
    }


@dataclass(frozen=True)
class Played:
    """One round under one seed."""

    seed: int
    judged: pd.DataFrame
    """unique_id, h, y, y_hat, quantiles of the scored rows."""
    wall: float
    cpu: float


def play(rows: pd.DataFrame, customer: Customer, deliveries: Path, played: list[Round], seeds: int) -> Iterator[Played]:
    """Every round under every seed; the statistical fit's time counts for each seed that uses it."""
    for number, one in enumerate(played, 1):
        panel, actual = known(customer, deliveries, one.cutoff), truth(rows, one)
        wall, cpu = time.perf_counter(), time.process_time()
        shared = fit_statistical(panel, customer, one.cutoff)
        shared_wall, shared_cpu = time.perf_counter() - wall, time.process_time() - cpu
        for seed in range(1, seeds + 1):
            wall, cpu = time.perf_counter(), time.process_time()
            seeded = customer.model_copy(update={"seed": seed})
            made = night(panel, seeded, one.cutoff, shared)
            judged = actual.merge(
                made[made["node"] == BOTTOM], on=["unique_id", "h"], how="left", validate="one_to_one"
            )
            if judged["y_hat"].isna().any():
                raise SystemExit(f"round {number}: {int(judged['y_hat'].isna().sum())} scored rows have no forecast")
            spent = time.perf_counter() - wall + shared_wall, time.process_time() - cpu + shared_cpu
            so_far = figures(judged, customer)
            shown = ", ".join(f"{name} {value:.3f}" for name, value in so_far.items())
            print(f"round {number} of {len(played)}, seed {seed}: {shown}; {spent[0]:.1f} s", flush=True)
            yield Played(seed, judged, *spent)


def result(done: list[Played], customer: Customer, naive: float, began: tuple[float, float]) -> dict[str, Any]:
    """The line of JSON."""
    seeds = sorted({one.seed for one in done})
    by_seed = {seed: [one for one in done if one.seed == seed] for seed in seeds}
    pooled = {seed: figures(pd.concat([one.judged for one in of]), customer) for seed, of in by_seed.items()}
    middle = {name: float(np.median([pooled[seed][name] for seed in seeds])) for name in pooled[seeds[0]]}
    return {
        "mape_median": round(middle.pop("mape"), 2),
        "mape_by_seed": {str(seed): round(pooled[seed]["mape"], 2) for seed in seeds},
        "naive_mape": round(naive, 2),
        **{name: round(value, 4) for name, value in middle.items()},
        "rows": sum(len(one.judged) for one in by_seed[seeds[0]]),
        "seconds_per_seed": round(float(np.mean([sum(one.wall for one in of) for of in by_seed.values()])), 1),
        "cpu_seconds_per_seed": round(float(np.mean([sum(one.cpu for one in of) for of in by_seed.values()])), 1),
        "wall_seconds": round(time.perf_counter() - began[0], 1),
        "cpu_seconds": round(time.process_time() - began[1], 1),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "published_mape": PUBLISHED,
        "published_seconds": {"LightGBM, 2 cores": 625},
    }


def page(told: dict[str, Any]) -> str:
    """What the documentation shows of a run."""
    by_seed = ", ".join(f"{value:.2f}" for value in told["mape_by_seed"].values())
    own = ["**product**", f"{told['mape_median']:.2f} (seeds: {by_seed})"]
    made = pages.markdown(["forecast", "MAPE in %"], [own, *([name, f"{v:.2f}"] for name, v in PUBLISHED.items())])
    return (
        f"{made}\n\nOf the product: WAPE {told['wape']:.3f}, bias {told['bias']:+.1%}, pinball over sales "
        f"{told['pinball']:.3f}; {told['seconds_per_seed']:.0f} s a seed, {told['cpu_seconds_per_seed']:.0f} of CPU."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that holds yx.parquet")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seeds 1 to n")
    parser.add_argument("--tune", type=int, metavar="N", help="play N earlier rounds instead of the protocol's")
    parser.add_argument("--page", type=Path, help="page whose table is written anew")
    asked = parser.parse_args()
    if asked.page and (asked.tune is not None or asked.seeds != SEEDS):
        parser.error(f"--page is for the protocol's rounds and {SEEDS} seeds; leave --page or --tune and --seeds out")
    pages.expect(asked.page, MARK)
    began = time.perf_counter(), time.process_time()
    customer = load_customer(HERE / "orange_juice.yaml")
    if not isinstance(customer, Customer):
        raise SystemExit(customer.message)
    rows, played = read(asked.data), rounds(asked.tune)
    naive = naive_mape(rows, played)
    print(f"naive: MAPE {naive:.2f} % over the scored rows", flush=True)
    if asked.tune is None and round(naive, 2) != NAIVE_MAPE:
        raise SystemExit(f"naive has {naive:.2f} %, expected {NAIVE_MAPE}: the file or the protocol is another one")
    with tempfile.TemporaryDirectory() as folder:
        deliver(rows, Path(folder) / customer.id)
        done = list(play(rows, customer, Path(folder), played, asked.seeds))
    told = result(done, customer, naive, began)
    if asked.page:
        pages.fill(asked.page, MARK, page(told))
    print(json.dumps(told))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
