"""What each kind of feature of the global model is worth: LightGBM alone, with one kind left out at a time.

    python -m benchmarks.ablation pasta grocery gifts [--page docs/accuracy.md]

Every variant is trained and judged at the same origins of a demo customer by the functions a night uses, under the
customer's own declaration. The last line is one JSON object with all figures.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd

from benchmarks import gate, pages
from forecasting.config import Customer
from forecasting.learn import backtest, features, reconciliation, selection
from forecasting.learn.models import ml

ORIGINS = 6
KINDS: dict[str, str] = {
    "season: the same phase, 1 to 26 times": r"phase_.*|day_of_week",
    "year: the same days a year ago, growth, day of the year": r"year|growth|.*_year.*|.*_growth|day_of_year|month",
    "company: total, peers and siblings": r"(total|peers|siblings)_.*",
    "plans against their past and the siblings'": r"x\..*\.(vs_.*|siblings)",
    "plans just before and after": r"x\..*\.(before|after)",
    "sales of days with a similar plan": r"x\..*\.alike(_weight)?",
    "keys as numbers": r"key_.*",
    "newest sales": r"lag_.*|mean_7|mean_2",
}
"""What is left out → the features it means."""


@contextmanager
def without(pattern: str | None) -> Iterator[None]:
    """The features that match ``pattern`` are not made."""
    made = features.Features._columns

    def fewer(self: features.Features, *asked: object) -> tuple[dict[str, np.ndarray], np.ndarray]:
        columns, level = made(self, *asked)  # type: ignore[arg-type]
        return {name: v for name, v in columns.items() if not (pattern and re.fullmatch(pattern, name))}, level

    with mock.patch.object(features.Features, "_columns", fewer):
        yield


@contextmanager
def apart() -> Iterator[None]:
    """Series keep their own forecasts whatever their aggregates' say."""

    def bottom(y_hat: np.ndarray, nodes: object, variance: np.ndarray) -> np.ndarray:
        return y_hat[: len(variance)]

    with mock.patch.object(reconciliation, "reconcile", bottom):
        yield


def judged(customer: Customer, panel: pd.DataFrame, origins: list) -> dict[str, float]:
    """Mean over origins of RMSSE, WAPE of the mean and bias; CPU seconds of all fits."""
    began = time.process_time()
    scores = ml.fit(panel, customer, gate.NEWEST[customer.id], origins, 1).scores.rename(columns={ml.NAME: "y_hat"})
    found = [selection.accuracy(one) for _, one in scores.groupby("cutoff")]
    mean = {name: float(np.mean([one[name] for one in found])) for name in ("rmsse", "wape_mean", "bias")}
    return {**mean, "cpu_seconds": time.process_time() - began}


def table(name: str) -> dict[str, dict[str, float]]:
    """Variant → its figures."""
    customer, panel = gate.read(name)
    origins = backtest.origins(gate.NEWEST[name], customer, panel["ds"].min().date())[-ORIGINS:]
    variants: dict[str, Callable[[], object]] = {"all features": lambda: without(None)}
    variants |= {f"without {what}": lambda pattern=p: without(pattern) for what, p in KINDS.items()}
    variants["without reconciliation with the aggregates"] = apart
    rows = {}
    for variant, held in variants.items():
        with held():  # type: ignore[attr-defined]
            rows[variant] = judged(customer, panel, origins)
        print(f"{name}: {variant}: {rows[variant]['rmsse']:.4f}", file=sys.stderr, flush=True)
    return rows


def markdown(rows: dict[str, dict[str, float]]) -> str:
    """The table of one customer; a positive share is what is lost."""
    whole = rows["all features"]["rmsse"]
    return pages.markdown(
        ["LightGBM", "RMSSE", "against all", "WAPE of the mean", "bias", "CPU s"],
        [
            [
                variant,
                f"{row['rmsse']:.4f}",
                f"{row['rmsse'] / whole - 1:+.1%}",
                f"{row['wape_mean']:.4f}",
                f"{row['bias']:+.1%}",
                f"{row['cpu_seconds']:.0f}",
            ]
            for variant, row in rows.items()
        ],
    )


def main(
    doc: str | None = __doc__,
    mark: str = "ablation",
    table: Callable[[str], dict] = table,
    markdown: Callable[[dict], str] = markdown,
) -> None:
    """The command: the table of each demo customer that is asked for, and into a page where it holds the mark."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else None)
    parser.add_argument("customers", nargs="+", choices=sorted(gate.NEWEST))
    parser.add_argument("--page", type=Path, help="page whose tables are written anew")
    asked = parser.parse_args()
    pages.expect(asked.page, *(f"{mark} {name}" for name in asked.customers))
    found = {}
    for name in asked.customers:
        found[name] = table(name)
        print(f"\n{name}\n\n{markdown(found[name])}", flush=True)
        if asked.page:
            pages.fill(asked.page, f"{mark} {name}", markdown(found[name]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
