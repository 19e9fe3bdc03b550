"""How well a sample stands for the whole: WRMSSE of simple forecasts in both, at every origin that can be judged.

    python -m benchmarks.m5.sampling --data folder --series 3000

Each forecast of each origin is one pair of scores. Besides their correlation it prints that of the differences between
two forecasts of one origin, which is what a tuning loop goes by.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.m5 import evaluate, world
from benchmarks.m5.world import HORIZON, ORIGINS

Floats = npt.NDArray[np.float64]

ALPHAS = (0.05, 0.1, 0.2, 0.4)
"""Weights of the newest week in a mean per weekday that forgets."""
WEEKS = (1, 4, 8, 13)
"""Weeks of a plain mean per weekday."""


def forecasts(one: world.World, origin: int) -> dict[str, Floats]:
    """Means per weekday and means of days, of several lengths; shape (series, 28)."""
    history = one.sales[:, :origin].astype(np.float64)
    weeks = history[:, -52 * 7 :].reshape(len(history), 52, 7)
    found = {f"mean of {n} weeks": weeks[:, -n:].mean(axis=1) for n in WEEKS}
    for alpha in ALPHAS:
        weights = (1 - alpha) ** np.arange(51, -1, -1)
        found[f"smoothed {alpha}"] = np.einsum("swd,w->sd", weeks, weights / weights.sum())
    found |= {f"level of {n} weeks": np.repeat(weeks[:, -n:].mean(axis=(1, 2))[:, None], 7, axis=1) for n in WEEKS[1:]}
    return {name: np.tile(week, HORIZON // 7) for name, week in found.items()}


def scores(one: world.World) -> pd.Series:
    """Mean WRMSSE by (origin, forecast)."""
    found: dict[tuple[int, str], float] = {}
    for origin in ORIGINS[:-1]:
        judge = evaluate.Judge(one, origin)
        found |= {(origin, name): judge.wrmsse(y_hat)["mean"] for name, y_hat in forecasts(one, origin).items()}
    return pd.Series(found)


def differences(found: pd.Series) -> Floats:
    """Between each two forecasts of an origin."""
    by_origin = (one.to_numpy() for _, one in found.groupby(level=0))
    return np.array([a - b for values in by_origin for a, b in combinations(values, 2)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the competition's three files")
    parser.add_argument("--series", type=int, nargs="+", default=[3000], help="sizes of samples")
    asked = parser.parse_args()
    whole = world.read(asked.data)
    every, result = scores(whole), {}
    table = pd.DataFrame({"whole": every})
    for count in asked.series:
        some = table[str(count)] = scores(whole.sample(count))
        result[str(count)] = {
            "correlation": round(float(np.corrcoef(every, some)[0, 1]), 4),
            "of_differences": round(float(np.corrcoef(differences(every), differences(some))[0, 1]), 4),
            "same_winner": round(float((np.sign(differences(every)) == np.sign(differences(some))).mean()), 4),
        }
    print(table.round(4).to_string())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
