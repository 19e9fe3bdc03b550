"""CPU seconds of the pure core on one customer's file, and its accuracy beside seasonal naive and weekday mean.

python benchmarks/learn_speed.py examples/pasta/hierarchical_sales_data.csv
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from forecasting.config import Customer, load_customer
from forecasting.frames import BACKTEST
from forecasting.learn import backtest, grid, intervals, publication, selection
from forecasting.learn.models import ml, statistical

T = TypeVar("T")

CUTOFF = date(2018, 10, 1)


def read(path: Path, customer: Customer) -> pd.DataFrame:
    """The canonical panel of the wide pasta file, the plan one horizon ahead."""
    long = pd.read_csv(path, parse_dates=["DATE"]).melt("DATE")
    parts = long["variable"].str.extract(r"(QTY|PROMO)_(B\d+)_(\d+)")
    long = long.assign(unique_id=parts[1] + "/" + parts[2], what=parts[0])
    panel = long.pivot(index=["unique_id", "DATE"], columns="what", values="value").reset_index()
    panel = panel.rename(columns={"DATE": "ds", "QTY": "y", "PROMO": "promotion"}).rename_axis(columns=None)
    panel = panel.astype({"y": "float64", "promotion": "float64"})[["unique_id", "ds", "y", "promotion"]]
    panel.loc[panel["ds"] > pd.Timestamp(CUTOFF), "y"] = np.nan
    panel = panel[panel["ds"] <= pd.Timestamp(CUTOFF) + pd.Timedelta(days=customer.horizon)]
    return panel.sort_values(["unique_id", "ds"], ignore_index=True)


def timed(what: str, call: Callable[[], T]) -> T:
    """Call and print CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = call()
    print(f"{what:28s} {time.process_time() - cpu:7.2f} CPU-s {time.perf_counter() - wall:7.2f} s")
    return result


def main(path: Path) -> None:
    customer = load_customer(Path("dags/customers/pasta.yaml"))
    if not isinstance(customer, Customer):
        raise SystemExit(customer.message)
    panel = read(path, customer)
    ids, days = grid.known_ids(panel, CUTOFF), backtest.origins(CUTOFF, customer, panel["ds"].min().date())
    one = timed("statistical, retrain", lambda: statistical.fit(panel, customer, CUTOFF, ids, None, days, 1))
    two = timed("ml, retrain", lambda: ml.fit(panel, customer, CUTOFF, days, 1))
    scores = backtest.join(one.scores, two.scores)
    choices = timed("choose", lambda: selection.choose(scores, customer))
    chosen = choices.groupby("unique_id")["model"].agg(list).to_dict()
    fresh = timed("statistical, refresh", lambda: statistical.fit(panel, customer, CUTOFF, ids, chosen, [], 1))
    raw = timed("ml, refresh", lambda: ml.predict(panel, customer, CUTOFF, two.booster, two.spec, 1))
    version = choices, timed("calibrate", lambda: intervals.calibrate(scores, choices, customer))
    given = backtest.join(fresh.forecasts, raw), fresh.status, *version, panel, customer, CUTOFF
    published, account = timed("compose", lambda: publication.compose(*given))
    print(f"{len(published)} rows; audit: {publication.audit(published, account, customer, CUTOFF) or 'nothing wrong'}")
    single = {
        m: selection.accuracy(scores[list(BACKTEST.columns)].assign(y_hat=scores[m])) for m in backtest.columns(scores)
    }
    print(pd.DataFrame(single).T.drop(columns="rows").round(4).to_string())
    table = timed("rolling", lambda: selection.rolling(scores, customer))
    print(table.set_index("origin").round(3).T.assign(mean=table.drop(columns="origin").mean().round(3)).to_string())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
