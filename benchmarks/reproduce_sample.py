"""Compute runs picked at random again, over all customers of a home, and print whether each gave its checksum.

    python benchmarks/reproduce_sample.py [--runs 20] [--seed N] [CUSTOMER ...]

Uses the deployment of the environment (FORECASTING_HOME …); the seed is printed, so that a sample can be repeated.
Every run is computed in an empty folder of its own, in one process, fits one after the other. Exits with 7 when a run
did not come out identical.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from forecasting import config
from forecasting.cli.main import deployed
from forecasting.errors import ChecksumMismatchError, ConfigurationError, ForecastingError
from forecasting.pipeline import Deployment, reproduction
from forecasting.store import detail


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("customers", nargs="*", metavar="CUSTOMER", help="ids; default: all that have published")
    parser.add_argument("--runs", type=int, default=20, help="how many (default 20; all, if there are fewer)")
    parser.add_argument("--seed", type=int, default=None, help="of the choice; default: a new one")
    return parser.parse_args()


def pick(deployment: Deployment, asked: argparse.Namespace) -> list[str]:
    known = detail.published_runs(deployment.engine)
    runs = known[known["customer_id"].isin(asked.customers)] if asked.customers else known
    if runs.empty:
        raise ConfigurationError("no published run to choose from; run some nights first, such as `make demo`")
    seed = random.randrange(1_000_000) if asked.seed is None else asked.seed
    chosen = sorted(random.Random(seed).sample(list(runs["run_id"]), min(asked.runs, len(runs))))
    print(f"{len(chosen)} of {len(runs)} runs of {runs['customer_id'].nunique()} customers, seed {seed}")
    return chosen


def line(deployment: Deployment, run_id: str) -> bool:
    """Compute one run, print its line; whether it came out identical."""
    with tempfile.TemporaryDirectory(prefix="reproduce-") as folder:
        try:
            report = reproduction.reproduce(deployment, run_id, Path(folder).resolve()).report
        except ForecastingError as error:
            print(f"| {run_id} | | | | | {type(error).__name__}: {error} | |", flush=True)
            return False
    verdict = "identical" if report.identical else report.failure or f"differs: {[c.what for c in report.causes]}"
    others = [c.what for c in report.causes] if report.identical else []
    told = f"{verdict}, with other {', '.join(others)}" if others else verdict
    cells = (run_id, report.plan, report.status, f"{report.rows:,}", report.checksum[:16],
             str(report.recomputed)[:16], told, f"{report.seconds:.1f}")  # fmt: skip
    print("| " + " | ".join(cells) + " |", flush=True)
    return report.identical


def main() -> int:
    asked = arguments()
    with deployed(config.settings()) as deployment:
        chosen = pick(deployment, asked)
        print("| run | plan | status | rows | recorded | recomputed | | seconds |\n|---|---|---|---:|---|---|---|---:|")
        same = [line(deployment, run_id) for run_id in chosen]
    print(f"{sum(same)} of {len(same)} identical")
    return 0 if all(same) else ChecksumMismatchError.exit_code


if __name__ == "__main__":
    sys.exit(main())
