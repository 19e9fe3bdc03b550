"""Whether the intervals of M5's upper levels hold what they say, over more origins than the published ones.

    python -m benchmarks.m5.tails --data folder [--judged n] [--page docs/accuracy.md]

What an origin's aggregates err by is mostly one common error: 28 days of 154 aggregates say little more of an
interval than one draw. So the global model is fitted at rolling origins, a horizon apart up to the newest whose days
are at hand, and each one that is judged gets its intervals by a night's functions, from the declared number of windows
before it. The last line is one JSON object with all figures.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from benchmarks import pages, scoring
from benchmarks.m5 import delivery, evaluate, world
from benchmarks.m5.meter import Meter
from benchmarks.m5.world import HORIZON, ORIGINS
from forecasting.config import TOTAL, Customer
from forecasting.learn import backtest, grid, selection
from forecasting.learn.models import ml

NODES = tuple(evaluate.LEVELS)[:9]
"""The levels above the items."""
NEWEST = ORIGINS[-2]
"""The newest origin whose days are at hand."""
MARK = "m5 tails"
TOGETHER = "together"


def origins(customer: Customer, judged: int | None = None) -> list[int]:
    """The days whose evenings the global model is fitted on, oldest first: those judged, and the windows before them.

    Args:
        customer: Gives the windows of a backtest, and how much history a fit has.
        judged: How many are judged; None: all that have it whole.

    Raises:
        ValueError: There are not so many.
    """
    windows, history = customer.backtest.windows, customer.history_days
    most = (NEWEST - history) // HORIZON + 1 - windows
    if judged is not None and not 1 <= judged <= most:
        raise ValueError(f"--judged {judged}: expected 1 to {most}, so that each fit has {history} days of history")
    return [NEWEST - HORIZON * back for back in reversed(range((judged or most) + windows))]


def fitted(
    panel: pd.DataFrame, customer: Customer, days: list[int], threads: int, say: Callable[[str], None]
) -> pd.DataFrame:
    """frames.BACKTEST of the global model at these origins."""
    coded, frames = grid.coded(panel), []
    for number, day in enumerate(days, 1):
        frames.append(ml._backtest(coded, customer, world.day(day), threads))
        say(f"origin {day}, {number} of {len(days)}")
    return backtest.stack(frames)


def upper(scores: pd.DataFrame, customer: Customer) -> pd.DataFrame:
    """selection.Rolled.upper of each origin that has the declared windows before it, made from those alone."""
    windows, cutoffs = customer.backtest.windows, sorted(scores["cutoff"].unique())
    only = customer.model_copy(update={"backtest": customer.backtest.model_copy(update={"select": windows})})
    found = []
    for at in range(windows, len(cutoffs)):
        near = scores[scores["cutoff"].isin(cutoffs[at - windows : at + 1])]
        found.append(selection.rolled_nodes(near, only, NODES).upper)
    return pd.concat(found, ignore_index=True)


def figures(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Last day of history, or ``together`` → origins, bias of the total, shares of the tails of all rows.

    Args:
        rows: What :func:`upper` gave.
    """
    first = pd.Timestamp(world.FIRST_DAY)
    parts = {str((cutoff - first).days + 1): one for cutoff, one in rows.groupby("cutoff", sort=True)}
    found = {}
    for name, one in {**parts, TOGETHER: rows}.items():
        total = one[one["node"] == TOTAL]
        bias = float(total["y_hat"].sum() / total["y"].sum() - 1)
        found[name] = {"origins": one["cutoff"].nunique(), "bias": bias, **scoring.tails(one)}
    return found


def markdown(found: dict[str, dict[str, float]]) -> str:
    """The table: a row for each origin, and one for all of them together."""
    rows = []
    for name, one in found.items():
        told = f"**{one['origins']:.0f} together**" if name == TOGETHER else name
        rows.append([told, f"{one['bias']:+.1%}", f"{one['below_q10']:.1%}", f"{one['above_q90']:.1%}"])
    return pages.markdown(["origin", "bias of the total", "below q10", "above q90"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the competition's three files")
    parser.add_argument("--judged", type=int, help="origins that are judged; default: all with a whole history")
    parser.add_argument("--series", type=int, help="a sample of so many series; default: all")
    parser.add_argument("--cache", type=Path, default=delivery.CACHE, help="folder of the delivery and of panels")
    parser.add_argument("--threads", type=int, default=2, help="LightGBM's threads")
    parser.add_argument("--page", type=Path, help="page whose table is written anew")
    asked = parser.parse_args()
    if asked.page and (asked.series is not None or asked.judged is not None):
        parser.error("--page is for all origins of the whole set; leave --page or --series and --judged out")
    pages.expect(asked.page, MARK)
    meter, customer = Meter(), delivery.customer()
    try:
        days = origins(customer, asked.judged)
        whole = world.read(asked.data)
        whole = whole.sample(asked.series) if asked.series is not None else whole
    except ValueError as error:
        parser.error(str(error))
    # the pull that a backtest of so many windows would need, on the evening when the newest horizon has ended; it
    # reaches farther back than each origin's own, and where a slow series' history begins depends on that a little
    every = customer.model_copy(update={"backtest": customer.backtest.model_copy(update={"windows": len(days)})})
    parts = delivery.deliver(whole, asked.cache, meter.say)
    del whole
    panel = delivery.panel(every, parts, NEWEST + HORIZON, asked.cache, meter.say)
    found = figures(upper(fitted(panel, customer, days, asked.threads, meter.say), customer))
    print(f"\n{markdown(found)}", flush=True)
    if asked.page:
        pages.fill(asked.page, MARK, markdown(found))
    print(json.dumps({"benchmark": "m5 tails", **found, **meter.figures()}, allow_nan=False))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
