"""Kinds of troubled series: a panel that is whole, and single series in it that no model was made for.

:func:`night` does with a panel what the night does from ``fit_statistical`` to the audit, in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forecasting.config import Customer
from forecasting.data import contracts
from forecasting.data import panel as panels
from forecasting.errors import OutgoingContractBrokenError
from forecasting.learn import backtest, intervals, publication, reconciliation, selection
from forecasting.learn.models import ml, statistical
from forecasting.periods import horizon_dates
from tests.data.conftest import make_customer

from .bench import CUTOFF, Bench, Forecast, Kind, Refused

__all__ = ["KINDS", "Complete", "calm", "join", "night", "own", "series"]

ROOT = Path(__file__).resolve().parents[2]
POOL = ("seasonal_naive", "weekday_mean", "croston", "auto_ets")


def own(**changes: Any) -> Customer:
    """A customer whose nights are quick."""
    given = {"pool": POOL, "backtest": {"windows": 2, "select": 1}, "hierarchy": ["total", "store"]} | changes
    return make_customer(**given)


@dataclass(frozen=True)
class Complete:
    """A set that passed the audit."""

    published: pd.DataFrame
    account: pd.DataFrame

    def compare(self, end: Forecast) -> tuple[str, str]:
        """What it says, and how that is not what was expected."""
        stands = {row.unique_id: f"{row.status}: {row.rung}" if row.rung else row.status for row in
                  self.account.itertuples(index=False)}  # fmt: skip
        reasons = "; ".join(f"{row.unique_id}: {row.reason}" for row in self.account.itertuples() if row.reason)
        wrong = {name: stands.get(name) for name, status in end.series.items() if stands.get(name) != status}
        if wrong:
            return reasons, f"stand elsewhere: {wrong}; {reasons}"[:600]
        return reasons, "" if end.says in reasons else f"no reason says {end.says!r}: {reasons}"[:600]


@cache
def _outgoing() -> contracts.Contract:
    return contracts.load(ROOT / "data_contracts/forecasts.odcs.yaml")


def night(panel: pd.DataFrame, customer: Customer, cutoff: date = CUTOFF, *, whole: bool = True) -> Complete:
    """Fit, choose, complete, assemble, audit; ``whole`` asks the outgoing contract too, which takes longest.

    Raises:
        OutgoingContractBrokenError: The set is not fit to be published.
    """
    panels.check_panel(panel, customer)
    ids = sorted(panel["unique_id"].unique())
    origins = backtest.origins(cutoff, customer, panel["ds"].min().date())
    fitted = statistical.fit(panel, customer, cutoff, ids, None, origins)
    scores, forecasts, status = fitted.scores, fitted.forecasts, fitted.status
    if ml.NAME in customer.pool:
        trained = ml.fit(panel, customer, cutoff, origins, 1)
        judged = trained.scores[trained.scores["unique_id"].isin(scores["unique_id"])].reset_index(drop=True)
        scores = backtest.join(scores, judged)
        forecasts = forecasts.merge(trained.forecasts, on=["unique_id", "h", "ds"], how="outer", validate="one_to_one")
        forecasts = forecasts.sort_values(["unique_id", "h"], ignore_index=True)
        status = pd.concat([status, trained.status], ignore_index=True)
    choices = selection.choose(scores, customer)
    calibration = intervals.calibrate(scores, choices, customer)
    selection.rolling(scores, customer)
    published, account = publication.compose(forecasts, status, choices, calibration, panel, customer, cutoff)
    faults = publication.audit(published, account, customer, cutoff)
    if whole:
        verdict = contracts.check_published(published, _outgoing(), _expected(account, customer, cutoff))
        faults += [verdict.message()] if verdict.broken else []
    if faults:
        raise OutgoingContractBrokenError("; ".join(faults))
    return Complete(published, account)


def _expected(account: pd.DataFrame, customer: Customer, cutoff: date) -> contracts.Expected:
    alive = sorted(account.loc[account["status"] != "retired", "unique_id"])
    table = reconciliation.series_table(alive, customer)
    keys = customer.columns.keys
    return contracts.Expected(
        "acme/2024-01-20/1",
        tuple(horizon_dates(cutoff, customer.horizon, customer.frequency)),
        {str(node): frozenset(group) for node, group in table.groupby("node")["unique_id"]},
        {node: tuple(keys.index(key) for key in grouping) for node, grouping in customer.nodes.items()},
    )


# --- panels ---------------------------------------------------------------------------------------------------------


def series(unique_id: str, y: Any, last: date = CUTOFF, promo: float = 0.0) -> pd.DataFrame:
    """One value a day, up to ``last``."""
    values = np.asarray(y, dtype="float64")
    ds = pd.date_range(end=pd.Timestamp(last), periods=len(values))
    return pd.DataFrame({"unique_id": unique_id, "ds": ds, "y": values, "promo": promo})


def calm(*ids: str, days: int = 60) -> pd.DataFrame:
    """Ordinary series of a weekly season."""
    n = np.arange(days)
    return join(*(series(uid, 20 + 5 * (n % 7) + np.sin(n + i)) for i, uid in enumerate(ids)))


def join(*parts: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True).sort_values(["unique_id", "ds"], kind="stable", ignore_index=True)


def beside(y: Any, last: date = CUTOFF, **changes: Any) -> Callable[[Bench], Any]:
    """``S1/odd`` among two ordinary series."""

    def act(bench: Bench) -> Any:
        bench.stage = "fits"
        return night(join(calm("S1/1", "S2/1"), series("S1/odd", y, last)), own(**changes))

    return act


def alone(*parts: pd.DataFrame, **changes: Any) -> Callable[[Bench], Any]:
    def act(bench: Bench) -> Any:
        bench.stage = "fits"
        return night(join(*parts), own(**changes))

    return act


@contextmanager
def _broken_model(name: str, make: Callable[..., Any]) -> Iterator[None]:
    """A model of the catalogue that breaks on the odd series: no library of ours can be made to."""
    known = statistical._forecaster

    def forecaster(wanted: str, season_length: int) -> Any:
        model = known(wanted, season_length)
        if wanted != name:
            return model

        def broken(past: Any, *rest: int) -> Any:
            odd = past.y[past.stop - 1] == 77.0
            if odd.all():
                return make()[None, :]
            return _raise() if odd.any() else model(past, *rest)

        return broken

    statistical._forecaster = forecaster
    try:
        yield
    finally:
        statistical._forecaster = known


def _raise() -> Any:
    raise ZeroDivisionError("number sections must be larger than 0")


def crash(make: Callable[..., Any], *names: str) -> Callable[[Bench], Any]:
    def act(bench: Bench) -> Any:
        bench.stage = "fits"
        with ExitStack() as stack:
            for name in names:
                stack.enter_context(_broken_model(name, make))
            panel = join(calm("S1/1", "S2/1"), series("S1/odd", [*(20.0 + np.arange(59) % 7), 77.0]))
            return night(panel, own(pool=[*POOL]))

    return act


OK = {"S1/1": "ok: chosen", "S2/1": "ok: chosen"}
CHOSEN = {**OK, "S1/odd": "ok: chosen"}
CHEAPER = {**OK, "S1/odd": "fallback: cheaper"}
COLD = {**OK, "S1/odd": "cold_start: cold_start"}
RETIRED = {**OK, "S1/odd": "retired"}
rng = np.random.default_rng(5)
NAN = float("nan")
SERIES: dict[str, tuple[Callable[[Bench], Any], Any]] = {
    "of one day": (beside([3.0]), Forecast(CHEAPER, "1 periods of history")),
    "of two days": (beside([3.0, 4.0]), Forecast(CHEAPER, "2 periods of history")),
    "of six days, less than a season": (beside([1, 2, 3, 4, 5, 6]), Forecast(CHOSEN)),
    "all zero, new": (beside([0.0] * 40), Forecast(COLD, "no sale yet")),
    "all zero, old": (beside([0.0] * 200), Forecast(RETIRED, "never sold")),
    "constant": (beside([7.0] * 60), Forecast(CHOSEN)),
    "dead for half a year": (beside([5.0] * 20 + [0.0] * 190), Forecast(RETIRED, "no sale in 182 days")),
    "dead, its rows too": (beside([5.0] * 20, CUTOFF - timedelta(days=190)), Forecast(RETIRED, "no sale in 182 days")),
    "asleep for a quarter": (beside([5.0] * 60 + [0.0] * 90), Forecast(CHOSEN)),
    "born on the cutoff, unsold": (beside([0.0]), Forecast(COLD, "no sale yet")),
    "only planned": (beside([NAN] * 3, CUTOFF + timedelta(days=3)), Forecast(COLD, "no sale yet")),
    "all NaN": (beside([NAN] * 40), Forecast(COLD, "no sale yet")),
    "one NaN": (beside([*(20.0 + np.arange(30) % 7), NAN, *(20.0 + np.arange(29) % 7)]), Forecast(CHOSEN)),
    "NaN at its end": (beside([*(20.0 + np.arange(50) % 7), *[NAN] * 10]), Forecast(CHOSEN)),
    "every other day NaN": (beside([v if n % 2 else NAN for n, v in enumerate(20.0 + np.arange(60) % 7)]),
                            Forecast(CHOSEN)),
    "one sale ever": (beside([0.0] * 30 + [9.0] + [0.0] * 29), Forecast({**OK, "S1/odd": "ok: chosen"})),
    "one giant outlier": (beside([*[5.0] * 40, 1e9, *[5.0] * 19]), Forecast(CHOSEN)),
    "one giant outlier on its last day": (beside([*[5.0] * 59, 1e9]), Forecast(CHOSEN)),
    "values of 1e300": (beside([1e300] * 60), Refused(OutgoingContractBrokenError, ("not_negative", "1e+300"))),
    "values of 1e-300": (beside([1e-300] * 60), Forecast(CHOSEN)),
    "growing tenfold a week": (beside(10.0 ** (np.arange(60) / 7)), Forecast({**OK, "S1/odd": "ok: chosen"})),
    "noise": (beside(rng.poisson(0.3, 60)), Forecast(CHOSEN)),
    "with gaps, absent: missing": (
        alone(calm("S1/1", "S2/1"), series("S1/odd", 20.0 + np.arange(60) % 7).iloc[::3], absent="missing"),
        Forecast(CHOSEN)),
    "with gaps, absent: closed": (
        alone(calm("S1/1", "S2/1"), series("S1/odd", 20.0 + np.arange(60) % 7).iloc[::9], absent="closed"),
        Forecast(CHOSEN)),
    "with gaps, absent: zero": (
        alone(calm("S1/1", "S2/1"), series("S1/odd", 20.0 + np.arange(60) % 7).iloc[::9], absent="zero"),
        Forecast(CHOSEN)),
    "with a row of the year 1700": (
        alone(calm("S1/1", "S2/1"), series("S1/odd", [5.0], date(1700, 1, 1)), series("S1/odd", [5.0] * 9)),
        Forecast(CHOSEN)),
    "only a row of the year 1700": (
        alone(calm("S1/1", "S2/1"), series("S1/odd", [5.0], date(1700, 1, 1))), Forecast(RETIRED, "1700-01-01")),
    "that crashes its model": (crash(_raise, "auto_ets", "croston"), Forecast(OK)),
    "that crashes every model": (
        crash(_raise, *POOL, "naive", "recent_mean"), Forecast({**OK, "S1/odd": "fallback: naive"},
                                                               "number sections must be larger than 0")),
    "that makes a model explode": (
        crash(lambda: np.full(3, 1e13), *POOL, "recent_mean", "naive"),
        Forecast({**OK, "S1/odd": "fallback: naive"}, "above 3 times the largest sale")),
    "that makes a model forecast NaN": (
        crash(lambda: np.full(3, NAN), *POOL, "recent_mean", "naive"),
        Forecast({**OK, "S1/odd": "fallback: naive"}, "not finite")),
    "that makes a model forecast too little": (
        crash(lambda: np.full(2, 1.0), *POOL, "recent_mean", "naive"), Forecast({**OK, "S1/odd": "fallback: naive"})),
    "one series only": (alone(calm("S1/1")), Forecast({"S1/1": "ok: chosen"})),
    "one series of one day only": (alone(series("S1/odd", [3.0])), Forecast({"S1/odd": "fallback: cheaper"})),
    "all too short": (alone(series("S1/1", [3.0, 4.0]), series("S2/1", [1.0, 2.0, 3.0])),
                      Forecast({"S1/1": "fallback: cheaper", "S2/1": "fallback: cheaper"})),
    "all too short, with the global model": (
        alone(series("S1/1", [3.0, 4.0]), series("S2/1", [1.0, 2.0, 3.0]), pool=["lightgbm"]),
        Forecast({"S1/1": "fallback: cheaper", "S2/1": "fallback: cheaper"})),
    "all zero, all of them": (alone(series("S1/1", [0.0] * 40), series("S2/1", [0.0] * 40)),
                              Forecast({"S1/1": "cold_start: cold_start", "S2/1": "cold_start: cold_start"})),
    "all dead": (alone(series("S1/1", [5.0] * 9 + [0.0] * 200), series("S2/1", [5.0] * 9 + [0.0] * 200)),
                 Refused(OutgoingContractBrokenError, ("not one row",))),
    "all NaN, all of them": (alone(series("S1/1", [NAN] * 40)), Forecast({"S1/1": "cold_start: cold_start"})),
    "odd ones with the global model": (
        alone(calm("S1/1", "S2/1"), series("S1/odd", [3.0]), series("S1/zero", [0.0] * 30),
              series("S2/big", [1e8] * 60), series("S2/nan", [NAN] * 60), pool=["weekday_mean", "lightgbm"]),
        Forecast({**OK, "S1/zero": "cold_start: cold_start", "S2/nan": "cold_start: cold_start"})),
    "names of any script": (
        alone(calm("🍝/=1+1", "חנות/<b>", "a%2Fb/'; DROP TABLE x; --"), pool=["weekday_mean", "lightgbm"]),
        Forecast({"🍝/=1+1": "ok: chosen", "חנות/<b>": "ok: chosen", "a%2Fb/'; DROP TABLE x; --": "ok: chosen"})),
    "fill of a plan that is empty": (
        alone(join(calm("S1/1", "S2/1")).assign(promo=NAN), pool=["weekday_mean", "lightgbm"]), Forecast(OK)),
}  # fmt: skip

KINDS: tuple[Kind, ...] = tuple(Kind("series", name, act, end) for name, (act, end) in SERIES.items())
