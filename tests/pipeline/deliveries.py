"""Four nights of a source that changes under us: late, restated, delivered twice, shrunk. For any customer.

The caller gives a way to run a night and a way to change the source; what came of it is handed back, and nothing is
asserted here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from forecasting.errors import ContractBrokenError
from forecasting.pipeline import Deployment
from forecasting.store import warehouse

__all__ = ["STEPS", "Told", "four_nights", "table"]

STEPS = (
    (0, "", "first"),
    (0, "", "again"),
    (1, "late", "late"),
    (2, "restated", "restated"),
    (3, "twice", "twice"),
    (3, "shrunk", "shrunk"),
    (3, "whole", "whole"),
)
"""Which of the four dates, what is done to the source before the night, the step's name."""


@dataclass(frozen=True)
class Told:
    """What a night said and what it left behind."""

    step: str
    run: warehouse.Run
    rules: dict[str, tuple[str, str]]
    """Rule of the gate → state, message."""
    panel: pd.DataFrame | None
    """What the run's snapshot holds; None where it froze none."""
    current: str
    """The run that ``forecast_current`` shows afterwards."""


def four_nights(
    deployment: Deployment,
    customer_id: str,
    dates: Sequence[str],
    night: Callable[..., warehouse.Run],
    change: Callable[[str], None],
) -> dict[str, Told]:
    """Run the steps.

    Args:
        deployment: Where the customer's nights run.
        customer_id: Whose.
        dates: Four consecutive run dates.
        night: Runs the whole night of a date and returns its run; passes on what stops it. ``as_frozen=True`` repeats
            one from its snapshot.
        change: Makes the source ``late`` (lines more on a day that was read), ``restated`` (other values on such a day,
            and on one before the lookback), ``twice`` (the lines of a day once more), ``shrunk`` (days of the lookback
            gone), ``whole`` (these back again).

    Returns:
        Step → what came of it; and ``<date>`` → the same dates once more from their snapshots.
    """
    told = {}
    for at, what, step in STEPS:
        if what:
            change(what)
        told[step] = _told(deployment, customer_id, step, _one(deployment, customer_id, night, dates[at]))
    for day in dates:
        told[day] = _told(deployment, customer_id, f"{day} as frozen", night(day, as_frozen=True))
    return told


def _one(deployment: Deployment, customer_id: str, night: Callable[..., warehouse.Run], day: str) -> warehouse.Run:
    try:
        return night(day)
    except ContractBrokenError:
        newest = f"select run_id from forecasting.run where customer_id = '{customer_id}' order by fence desc limit 1"
        run_id = warehouse.query(deployment.engine, newest)["run_id"].iloc[0]
        return warehouse.read_run(deployment.engine, customer_id, run_id)


def _told(deployment: Deployment, customer_id: str, step: str, run: warehouse.Run) -> Told:
    from forecasting.data import snapshots

    of_run = f"from forecasting.contract_result where customer_id = '{customer_id}' and run_id = '{run.run_id}'"
    results = warehouse.query(deployment.engine, f"select rule, state, message {of_run} and type = 'gate'")
    rules = {row.rule: (row.state, row.message) for row in results.itertuples()}
    shown = f"select distinct run_id from forecasting.forecast_current where customer_id = '{customer_id}'"
    (current,) = warehouse.query(deployment.engine, shown)["run_id"]
    ref = run.snapshot and snapshots.SnapshotRef.parse(run.snapshot)
    panel = snapshots.read(deployment.settings, ref)[0] if ref else None
    return Told(step, run, rules, panel, current)


def table(told: dict[str, Told]) -> pd.DataFrame:
    """One row a step: what the run said, what the snapshot holds, what readers see."""
    rows = []
    for one in told.values():
        said = [f"{rule} {state}: {text}" for rule, (state, text) in one.rules.items() if text]
        rows.append(
            {
                "step": one.step, "run": one.run.run_id, "status": one.run.status, "late": one.run.lines_late,
                "restated": one.run.days_restated, "lost": one.run.lines_lost, "excluded": one.run.lines_excluded,
                "panel y": None if one.panel is None else one.panel["y"].sum(), "current": one.current,
                "checksum": (one.run.checksum or "")[:12], "said": "; ".join(said),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
