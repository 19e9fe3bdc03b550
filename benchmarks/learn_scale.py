"""How the pure core grows with the series of one customer: CPU seconds per function, beside a bare reference.

python benchmarks/learn_scale.py 300 3000 [30000]

The panel is drawn: three years of daily intermittent sales of items by stores, with a promotion and a price, eleven
crossed nodes above them. The last lines are a table function → CPU seconds at each size, and its ratio to one pass of
``np.lexsort`` over the same number of panel rows on this machine: times of two machines differ, these should not. The
costly models (auto_ets, dynamic_theta, the boosted trees) are not in it: they are the library's time.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from typing import TypeVar

import numpy as np
import pandas as pd

from forecasting.config import Customer
from forecasting.frames import PANEL, join_id
from forecasting.learn import (
    backtest,
    combination,
    grid,
    intervals,
    ladder,
    monitoring,
    publication,
    reconciliation,
    selection,
)
from forecasting.learn.models import statistical

T = TypeVar("T")

CUTOFF = date(2016, 4, 24)
DAYS = 1095
STORES = 10
KEYS = ["state", "store", "category", "department", "item"]
CHEAP = ["seasonal_naive", "weekday_mean", "croston", "tsb", "adida", "imapa"]


def shop() -> Customer:
    """A customer with crossed groupings, as in the M5 competition's hierarchy."""
    crossed = [["state", "category"], ["state", "department"], ["store", "category"], ["store", "department"]]
    return Customer.model_validate(
        {
            "id": "scale",
            "time_zone": "America/New_York",
            "first_date": "2016-04-25",
            "source": {"kind": "csv", "uri": "sales.csv"},
            "columns": {"ds": "day", "y": "quantity", "keys": KEYS},
            "contract": "scale_sales",
            "absent": "zero",
            "hierarchy": ["total", *KEYS, *crossed, ["state", "item"]],
            "exogenous": {"promotion": {"known": "future"}, "price": {"known": "historic", "fill": "last"}},
            "pool": CHEAP,
            "backtest": {"windows": 3, "select": 2},
        }
    )


def draw(series: int, horizon: int) -> pd.DataFrame:
    """A frames.PANEL: about three zeros in five rows; some series are born late, some die, a few cells are unknown."""
    rng, periods = np.random.default_rng(series), DAYS + horizon
    keys = [
        (f"S{s % 3}", f"S{s % 3}_{s}", f"C{i % 7 % 3}", f"C{i % 7 % 3}_{i % 7}", f"I{i:05d}")
        for i, s in (divmod(at, STORES) for at in range(series))
    ]
    ids = np.array(sorted(map(join_id, keys)), dtype=object)
    ds = pd.date_range(end=pd.Timestamp(CUTOFF) + pd.Timedelta(days=horizon), periods=periods).to_numpy("M8[ns]")
    week = 1 + 0.4 * np.sin(2 * np.pi * np.arange(periods) / 7)
    parts = []
    for _ in range(series):
        born = int(rng.integers(0, DAYS)) if rng.random() < 0.3 else 0
        promotion = (rng.random(periods) < 0.08).astype(np.float64)
        price = np.round(rng.gamma(4) * (1 - 0.2 * promotion), 2)
        y = rng.poisson((rng.gamma(0.6, 1.2) + 0.02) * week * (1 + promotion)).astype(np.float64)
        y[int(rng.integers(100, DAYS)) if rng.random() < 0.05 else periods :] = 0.0
        y[rng.random(periods) < 0.0005] = np.nan
        y[DAYS:] = np.nan
        parts.append((np.arange(born, periods), y[born:], promotion[born:], price[born:]))
    when, y, promotion, price = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    of = np.repeat(np.arange(series), [len(part[0]) for part in parts])
    return pd.DataFrame({"unique_id": ids[of], "ds": ds[when], "y": y, "promotion": promotion, "price": price})


@dataclass
class Clock:
    """CPU seconds by function."""

    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(self, what: str, call: Callable[[], T]) -> T:
        """Call, and note what it took."""
        began = time.process_time()
        result = call()
        self.seconds[what] = time.process_time() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"  {what:24s} {self.seconds[what]:8.2f} CPU-s, peak so far {peak:5.2f} GiB", flush=True)
        return result


def _grids(panel: pd.DataFrame, customer: Customer, clock: Clock) -> pd.Series:
    """What every fit and every publication asks of the panel, coded once; RMSSE's denominators."""
    coded = clock("grid.coded", lambda: grid.coded(panel))
    clock("ladder.live", lambda: ladder.live(coded, CUTOFF))
    history = clock("grid.regularise", lambda: grid.regularise(coded, customer, CUTOFF))
    origin = backtest.origins(CUTOFF, customer)[-1]
    clock("backtest.skeleton", lambda: backtest.skeleton(coded, customer, origin, history))
    return clock("grid.scales", lambda: grid.scales(history))


def measure(series: int) -> dict[str, float]:
    """CPU seconds of every function on a customer of that many series."""
    customer, clock = shop(), Clock()
    panel = draw(series, customer.horizon)
    print(f"{series} series, {len(panel)} panel rows, {(panel['y'] == 0).mean():.0%} zeros")
    number = np.random.default_rng(0).permutation(len(panel))
    clock("reference: one sort", lambda: np.lexsort((number, number % 7)))
    clock("check of the panel", lambda: PANEL.check(panel))
    scales = _grids(panel, customer, clock)
    ids, days = grid.known_ids(panel, CUTOFF), backtest.origins(CUTOFF, customer, panel["ds"].min().date())
    fitted = clock("statistical.fit, 4 fits", lambda: statistical.fit(panel, customer, CUTOFF, ids, None, days, 1))
    choices = selection.choose(fitted.scores, customer)
    clock("series_table", lambda: reconciliation.series_table(ids, customer))
    calibration = clock("calibrate", lambda: intervals.calibrate(fitted.scores, choices, customer))
    combined = clock("combine", lambda: combination.combine(fitted.forecasts, choices))
    bottom, account = clock(
        "ladder.complete",
        lambda: ladder.complete(combined, fitted.forecasts, panel, customer, CUTOFF, fitted.status),
    )
    published = clock("assemble", lambda: publication.assemble(bottom, calibration, scales, customer))
    faults = clock("audit", lambda: publication.audit(published, account, customer, CUTOFF))
    if faults:
        raise SystemExit(f"the set is not fit to be published: {faults}")
    came = clock("monitoring.actuals", lambda: monitoring.actuals(panel, customer, CUTOFF))
    earlier = published.assign(ds=published["ds"] - pd.Timedelta(days=customer.horizon))
    clock("monitoring.score", lambda: monitoring.score(earlier, came, customer))
    return clock.seconds


def main(sizes: list[int]) -> None:
    seconds = pd.DataFrame({size: measure(size) for size in sizes})
    ratios = seconds.div(seconds.iloc[0]).add_suffix(" / reference")
    print(pd.concat([seconds.round(2), ratios.round(1)], axis=1).to_string())


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [300, 3000])
