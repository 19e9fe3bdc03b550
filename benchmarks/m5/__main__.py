"""M5 through the product's own path: forecasts into a file, and their scores beside references of the same run.

    make bench-m5 DATA=folder ORIGIN=1913 OUT=forecasts.parquet SERIES=3000

The last line of output is one JSON object. ``OUT`` holds unique_id (item_id + "_" + store_id), ds, y_hat and the
quantiles of the 28 days after the origin.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import pages
from benchmarks.m5 import delivery, evaluate, night, world
from benchmarks.m5.meter import Meter
from benchmarks.m5.world import HORIZON, ORIGINS
from forecasting.config import BOTTOM, Customer
from forecasting.frames import quantile_column
from forecasting.learn.models import ml

OWN = delivery.HERE / "m5.yaml"


def write(made: night.Night, whole: world.World, customer: Customer, origin: int, out: Path) -> None:
    """The file of forecasts: every series, all days; a retired one, which is not published, sells nothing."""
    quantiles = [quantile_column(q) for q in customer.quantiles]
    rows = made.published[made.published["node"] == BOTTOM]
    days = pd.date_range(world.day(origin + 1), periods=HORIZON).as_unit("ns")
    every = pd.MultiIndex.from_product([whole.series["unique_id"], days], names=["unique_id", "ds"])
    full = rows.set_index(["unique_id", "ds"])[["y_hat", *quantiles]].reindex(every, fill_value=0.0).reset_index()
    names = whole.series["item"] + "_" + whole.series["store"]
    full["unique_id"] = np.repeat(names.to_numpy(dtype=object), HORIZON)
    out.parent.mkdir(parents=True, exist_ok=True)
    full.to_parquet(out, index=False, compression="zstd")


def judged(judge: evaluate.Judge, made: night.Night, customer: Customer, meter: Meter) -> dict[str, Any]:
    """Figures of the published set, and of the references on the same rows."""
    from benchmarks.m5.reference import reference

    forecast, off = evaluate.from_published(made.published, judge.levels, customer.quantiles)
    found: dict[str, Any] = {"product": judge.figures(forecast), "incoherence": off}
    if ml.NAME in customer.pool:
        found["reconciliation"] = {
            said: judge.wrmsse(evaluate.matrix(one, judge.levels[-1], ml.NAME))
            for said, one in (("with", made.forecasts), ("without", made.apart))
        }
    meter.say("judged")
    found["statistical"] = judge.figures(reference(judge, customer.quantiles))
    meter.say("statistical reference fitted and judged")
    for name in ("product", "statistical"):
        found[name]["tails_1_to_9"] = upper_tails(judge, found[name]["tails"])
    naive = evaluate.Forecast(evaluate.seasonal_naive(judge.world, judge.origin))
    found["seasonal_naive"] = judge.figures(naive)
    return found


def upper_tails(judge: evaluate.Judge, tails: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Beyond q10 and q90 on the levels above the items (1 to 9): share of all their actuals, and the levels' mean."""
    levels = [level.node for level in judge.levels[:9]]
    sizes = [judge.actual[node].size for node in levels]
    found = {}
    for q, side in (("q10", "below"), ("q90", "above")):
        shares = [tails[node][q][side] for node in levels if q in tails[node]]
        if shares:
            found[f"{side}_{q}"] = {
                "actuals": float(np.average(shares, weights=sizes)),
                "mean_of_levels": float(np.mean(shares)),
                "least": min(shares),
                "most": max(shares),
            }
    return found


def table(found: dict[str, Any]) -> str:
    """The figures for eyes: levels and totals, product beside references."""
    names = ["product", "statistical", "seasonal_naive"]
    rows = {f"WRMSSE {node}": [found[n]["wrmsse"][node] for n in names] for node in [*evaluate.LEVELS, "mean"]}
    rows |= {name: [found[n][name] for n in names] for name in ("mase", "wape", "bias")}
    both = [found[n] for n in names[:2]]
    rows["scaled pinball"] = [one["pinball"]["mean"] for one in both]
    for node in evaluate.LEVELS:
        for q in ("q10", "q90"):
            side = "below" if q == "q10" else "above"
            rows[f"{side} {q} {node}"] = [one["tails"][node][q][side] for one in both if q in one["tails"][node]]
    if "reconciliation" in found:
        both = found["reconciliation"]
        rows["WRMSSE of the global model unreconciled"] = [both["without"]["mean"]]
        rows["WRMSSE of the global model reconciled"] = [both["with"]["mean"]]
    frame = pd.DataFrame.from_dict({k: v for k, v in rows.items() if v}, orient="index", columns=names)
    return str(frame.round(4).to_string(na_rep=""))


def page(found: dict[str, Any]) -> str:
    """What the documentation shows of an origin."""
    names = {"product": "product", "statistical": "statistical reference", "seasonal_naive": "seasonal naive"}
    nodes = list(evaluate.LEVELS)

    def mean(name: str, of: list[str]) -> str:
        return f"{np.mean([found[name]['wrmsse'][node] for node in of]):.4f}"

    def tail(name: str, side: str, q: str, levels: str) -> str:
        if name == "seasonal_naive":
            return ""
        one = found[name]
        share = one["tails"][BOTTOM][q][side] if levels == BOTTOM else one["tails_1_to_9"][f"{side}_{q}"][levels]
        return f"{share:.1%}"

    rows: dict[str, Callable[[str], str]] = {
        "WRMSSE, mean of 12 levels": lambda n: mean(n, nodes),
        "WRMSSE, levels 1 to 9": lambda n: mean(n, nodes[:9]),
        "WRMSSE, item, item and state, series": lambda n: mean(n, nodes[9:]),
        "MASE of the series' median": lambda n: f"{found[n]['mase']:.4f}",
        "WAPE of the series' median": lambda n: f"{found[n]['wape']:.4f}",
        "bias": lambda n: f"{found[n]['bias']:+.1%}",
        "scaled pinball": lambda n: f"{found[n]['pinball']['mean']:.4f}" if "pinball" in found[n] else "",
        "series above q90": lambda n: tail(n, "above", "q90", BOTTOM),
        "levels 1 to 9 above q90": lambda n: tail(n, "above", "q90", "actuals"),
        "levels 1 to 9 below q10": lambda n: tail(n, "below", "q10", "actuals"),
        "mean of levels 1 to 9 above q90": lambda n: tail(n, "above", "q90", "mean_of_levels"),
        "mean of levels 1 to 9 below q10": lambda n: tail(n, "below", "q10", "mean_of_levels"),
    }
    made = pages.markdown(["", *names.values()], [[row, *map(told, names)] for row, told in rows.items()])
    both = found.get("reconciliation")  # none without a global model
    apart = (
        f" Of the global model before its aggregates had a say it is {both['without']['mean']:.4f}, after "
        f"{both['with']['mean']:.4f}."
        if both
        else ""
    )
    return (
        f"{made}\n\nWRMSSE is {found['of_seasonal_naive']:.3f} of seasonal naive's.{apart} "
        f"{found['wall_seconds'] / 60:.0f} minutes, {found['cpu_seconds'] / 60:.0f} of CPU, "
        f"{found['peak_gib']:.1f} GiB; sums are off by {found['incoherence']:.3f} units."
    )


def rounded(value: Any) -> Any:
    """The same with four decimals, and plain enough for JSON."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def checked(found: dict[str, Any], origin: int) -> None:
    """The evaluator against the known figure of seasonal naive; only the whole data have one."""
    known, mine = evaluate.SNAIVE[origin], round(found["seasonal_naive"]["wrmsse"]["mean"], 4)
    if mine != known:
        raise SystemExit(f"origin {origin}: seasonal naive scores {mine}, expected {known}: the data are other ones")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the competition's three files")
    parser.add_argument("--origin", type=int, required=True, choices=ORIGINS, help="last training day")
    parser.add_argument("--out", type=Path, required=True, help="parquet file that is written")
    parser.add_argument("--series", type=int, help="a sample of so many series; default: all")
    parser.add_argument("--cache", type=Path, default=delivery.CACHE, help="folder of the delivery and of panels")
    parser.add_argument("--workers", type=int, default=2, help="processes, and LightGBM's threads")
    parser.add_argument("--customer", type=Path, default=OWN, help="another declaration to try")
    parser.add_argument("--page", type=Path, help="page whose table of this origin is written anew")
    asked = parser.parse_args()
    if asked.page and (asked.series is not None or asked.customer != OWN):
        parser.error("--page is for the whole set as m5.yaml declares it; leave --page or --series and --customer out")
    mark = f"m5 {asked.origin}"
    pages.expect(asked.page, *([mark] if asked.origin in evaluate.SNAIVE else []))
    meter, customer = Meter(), delivery.customer(asked.customer)
    whole = world.read(asked.data)
    if asked.series is not None:
        try:
            whole = whole.sample(asked.series)
        except ValueError as error:
            parser.error(str(error))
    parts = delivery.deliver(whole, asked.cache, meter.say)
    panel = delivery.panel(customer, parts, asked.origin, asked.cache, meter.say)
    meter.say(f"{len(panel)} rows, {panel['unique_id'].nunique()} series, cutoff {world.day(asked.origin)}")
    made = night.run(panel, customer, world.day(asked.origin), asked.workers, meter.say)
    write(made, whole, customer, asked.origin, asked.out)
    judge = evaluate.Judge(whole, asked.origin)
    found: dict[str, Any] = {}
    if judge.informed:
        found = judged(judge, made, customer, meter)
        print(table(found), flush=True)
        if asked.series is None:
            checked(found, asked.origin)
        found["of_seasonal_naive"] = found["product"]["wrmsse"]["mean"] / found["seasonal_naive"]["wrmsse"]["mean"]
    else:
        print(
            f"the days after {asked.origin} are not at hand: {asked.out} is written and nothing is judged", flush=True
        )
    facts = {
        "benchmark": "m5",
        "origin": asked.origin,
        "series": len(whole.series),
        "out": str(asked.out),
        "judged": judge.informed,
        "audit": made.faults,
        "series_status": {str(k): int(n) for k, n in made.account["status"].value_counts().items()},
        "models": {str(k): int(n) for k, n in made.account["model"].value_counts().items()},
        "seconds": made.seconds,
    }
    told = {**facts, **found, **meter.figures()}
    if asked.page and judge.informed and not made.faults:
        pages.fill(asked.page, mark, page(told))
    print(json.dumps(rounded(told), allow_nan=False))
    if made.faults:
        raise SystemExit(f"a night would publish nothing of this: {'; '.join(made.faults)}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
