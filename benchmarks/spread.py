"""How wide an aggregate's intervals should be: by which power of its forecast they grow, and what its node lends it.

    python -m benchmarks.spread pasta grocery gifts [--page docs/accuracy.md]

The global model is fitted once at rolling origins of a demo customer. Then every variant chooses, calibrates and
applies by the functions a night uses, at each origin from those whose horizon had ended by then, and is judged on the
newest six. The last line is one JSON object with all figures.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pandas as pd

from benchmarks import ablation, gate, pages, scoring
from forecasting.config import Customer
from forecasting.learn import backtest, intervals, selection
from forecasting.learn.models import ml

ORIGINS = 6
"""Origins that are judged; as many before them, where history allows, are there to be calibrated by."""
VARIANTS: dict[str, tuple[float, float]] = {
    "as it is": (intervals._UPPER_POWER, intervals._LENT),
    "as wide whatever the forecast": (0.0, intervals._LENT),
    "to the power 0.25": (0.25, intervals._LENT),
    "to the power 0.75": (0.75, intervals._LENT),
    "in percent of the forecast": (1.0, intervals._LENT),
    "nothing lent": (intervals._UPPER_POWER, 0.0),
    "half lent": (intervals._UPPER_POWER, 0.5),
}
"""Variant → power of the forecast in the base, share of an offset that is the node's."""


@contextmanager
def spread(power: float, lent: float) -> Iterator[None]:
    with mock.patch.multiple(intervals, _UPPER_POWER=power, _LENT=lent):
        yield


def judged(scores: pd.DataFrame, customer: Customer) -> dict[str, dict[str, float]]:
    """Upper node → pinball of q10, q50, q90 over an aggregate's mean sales, mean over aggregates; shares of tails."""
    upper = selection.rolled_nodes(scores, customer).upper
    seen = upper[upper["cutoff"].isin(sorted(upper["cutoff"].unique())[-ORIGINS:])].dropna(subset="q50")
    loss = sum(scoring.loss(seen["y"].to_numpy(), seen[name].to_numpy(), q) for name, q in scoring.QUANTILES.items())
    of = seen[["node", "unique_id", "y"]].assign(loss=loss / len(scoring.QUANTILES)).groupby(["node", "unique_id"])
    pinball = (of["loss"].mean() / of["y"].mean()).groupby("node").mean()
    return {str(node): {"pinball": pinball[node], **scoring.tails(one)} for node, one in seen.groupby("node")}


def table(name: str) -> dict[str, dict[str, dict[str, float]]]:
    """Variant → upper node → figures."""
    customer, panel = gate.read(name)
    longer = customer.model_copy(update={"backtest": customer.backtest.model_copy(update={"windows": 2 * ORIGINS})})
    origins = backtest.origins(gate.NEWEST[name], longer, panel["ds"].min().date())
    scores = ml.fit(panel, longer, gate.NEWEST[name], origins, 1).scores
    print(f"{name}: {ml.NAME} at {len(origins)} origins", file=sys.stderr, flush=True)
    found = {}
    for variant, (power, lent) in VARIANTS.items():
        with spread(power, lent):
            found[variant] = judged(scores, longer)
    return found


def markdown(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """A row for each variant, two columns for each upper node; pinball against the first variant's, more is worse."""
    first = next(iter(found.values()))
    head = ["interval of an aggregate"]
    for node in first:
        head += [f"{node}: pinball", "below q10, above q90"]
    rows = []
    for number, (variant, nodes) in enumerate(found.items()):
        cells = [variant]
        for node, one in nodes.items():
            lost = f"{one['pinball']:.4f}" if not number else f"{one['pinball'] / first[node]['pinball'] - 1:+.1%}"
            cells += [lost, f"{one['below_q10']:.1%}, {one['above_q90']:.1%}"]
        rows.append(cells)
    return pages.markdown(head, rows)


if __name__ == "__main__":
    ablation.main(__doc__, "spread", table, markdown)
