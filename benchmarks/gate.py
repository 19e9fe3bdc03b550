"""How often the gate crowns what it should and what it should not, by retraining on the demo's customers.

    python benchmarks/gate.py campaign.jsonl                # about an hour on one core; again: goes on where it stopped
    python benchmarks/gate.py campaign.jsonl --table        # the results so far, written into docs/gate.md

Every try cuts its own world out of a customer: a cutoff and some series, by a seeded draw. In it recipes are fitted and
judged by the functions a night uses, under the customer's own declaration: nothing is scaled, capped or left out. The
statistical fits of a world are shared by its tries where the recipe gives them no other input.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import pages
from forecasting.config import Customer, load_customer
from forecasting.data import contracts, sources
from forecasting.data import panel as panels
from forecasting.feed import Exogenous, FilePart, ParquetSource
from forecasting.frames import BACKTEST
from forecasting.learn import backtest, grid, intervals, ladder, promotion, publication, selection
from forecasting.learn import bundle as bundles
from forecasting.learn.models import ml, statistical
from forecasting.learn.promotion import Costs, Decision
from forecasting.periods import shift

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/gate.md"
NEWEST = {"pasta": date(2018, 12, 2), "gifts": date(2011, 11, 6), "grocery": date(2017, 12, 3)}
"""Newest cutoff whose plan the data hold."""
WEEKS = {"pasta": 150, "gifts": 52, "grocery": 1}
"""Cutoffs are drawn from so many weeks up to the newest: before that a customer has too little history."""
SERIES = 20
"""Series of a world."""
SEEDS = 4
"""Challengers of equal quality per world."""
CASES = ("spoilt", "equal", "better", "newer", "scarce")
TRIED = {
    "spoilt": "MINOR, LightGBM's targets shuffled or a feature misaligned",
    "equal": "MINOR of equal quality: another seed",
    "better": "MINOR that is truly better: a model added",
    "newer": "PATCH: the same recipe, a week later",
    "scarce": "MINOR where origins are too few",
}
WANTED = {
    "spoilt": "never",
    "equal": "upper 95 % bound at most 8 %",
    "better": "at least 80 %",
    "newer": "at least 95 %",
    "scarce": "never, and says so",
}


# --- the customers' data --------------------------------------------------------------------------------------------


@lru_cache
def read(name: str) -> tuple[Customer, pd.DataFrame]:
    """A demo customer and its whole panel, read and checked as a night does."""
    customer = load_customer(ROOT / f"dags/customers/{name}.yaml")
    if not isinstance(customer, Customer):
        raise SystemExit(customer.message)
    if name == "gifts":
        customer = customer.model_copy(update={"source": _as_files(customer)})
    cutoff = NEWEST[name]
    feed = sources.pull(
        customer, access=sources.Access(ROOT), until=shift(cutoff, customer.horizon, customer.frequency)
    )
    rows, _ = panels.exclude(feed.rows, customer, cutoff)
    contract = contracts.load(ROOT / f"data_contracts/{customer.contract}.odcs.yaml")
    verdict = contracts.check(rows, contract, customer, cutoff=cutoff)
    unnamed = verdict.refused_for(customer.columns.keys)
    return customer, panels.to_panel(verdict.accepted, verdict.rejected, customer, cutoff, unnamed=unnamed).panel


def _as_files(customer: Customer) -> ParquetSource:
    """The tables of the shop's database as the files they were filled from."""
    parts = []
    for place in customer.source.places():
        table = place.table.rpartition(".")[2]
        parts.append(
            FilePart(uri=f"examples/gifts/{table}.parquet", since=place.since, until=place.until, names=place.names)
        )
    return ParquetSource(kind="parquet", parts=tuple(parts), names=customer.source.names)


# --- a world: some series up to a cutoff ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """One recipe in one world."""

    customer: Customer
    scores: pd.DataFrame
    forecasts: pd.DataFrame
    status: pd.DataFrame
    booster: bytes | None
    spec: dict[str, object]
    seconds: float

    @cached_property
    def judged(self) -> pd.DataFrame:
        """What it would have published at each origin."""
        return selection.rolled(self.scores, self.customer)

    @cached_property
    def bundle(self) -> bundles.Bundle:
        """What would be registered."""
        choices = selection.choose(self.scores, self.customer)
        calibration = intervals.calibrate(self.scores, choices, self.customer)
        rolling = json.loads(selection.rolling(self.scores, self.customer).to_json(orient="records"))
        return bundles.Bundle(choices, calibration, self.booster, self.spec, {"rolling": rolling})

    @cached_property
    def costs(self) -> Costs:
        """CPU seconds and bytes."""
        return Costs(self.seconds, sum(map(len, bundles.to_files(self.bundle).values())))


@dataclass
class World:
    """Some series of a customer, up to a cutoff."""

    name: str
    number: int
    customer: Customer = field(init=False)
    cutoff: date = field(init=False)
    whole: pd.DataFrame = field(init=False)
    """Its series' panel, later days too: only :meth:`panel` may be fitted on."""
    rng: np.random.Generator = field(init=False)
    _statistical: dict[tuple[date, tuple[str, ...]], tuple[statistical.Fitted, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.customer, panel = read(self.name)
        self.rng = np.random.default_rng([len(self.name), self.number])
        self.cutoff = NEWEST[self.name] - timedelta(weeks=int(self.rng.integers(WEEKS[self.name])))
        ids = ladder.live(
            panel, shift(self.cutoff, -self.customer.step * self.customer.backtest.windows, self.customer.frequency)
        )
        drawn = set(self.rng.choice(np.array(sorted(ids), dtype=object), min(SERIES, len(ids)), replace=False))
        self.whole = panel[panel["unique_id"].isin(drawn)].reset_index(drop=True)

    def panel(self, cutoff: date) -> pd.DataFrame:
        """What a night with this cutoff has in its hands: no target or historic column after it."""
        end = shift(cutoff, self.customer.horizon, self.customer.frequency)
        known = self.whole[self.whole["ds"] <= pd.Timestamp(end)].copy()
        later = (known["ds"] > pd.Timestamp(cutoff)).to_numpy()
        historic = [name for name, column in self.customer.exogenous.items() if column.known == "historic"]
        known.loc[later, ["y", *historic]] = np.nan
        return known.reset_index(drop=True)

    def origins(self, cutoff: date) -> list[date]:
        return backtest.origins(cutoff, self.customer, self.whole["ds"].min().date())

    def statistical(self, recipe: Customer, cutoff: date) -> tuple[statistical.Fitted, float]:
        """A statistical pool and its CPU seconds; one fit per cutoff and pool, since no seed or feature enters it."""
        key = cutoff, tuple(model for model in recipe.pool if model != ml.NAME)
        if key not in self._statistical:
            panel, began = self.panel(cutoff), time.process_time()
            ids = sorted(panel["unique_id"].unique())
            pool = self.customer.model_copy(update={"pool": recipe.pool})
            fitted = statistical.fit(panel, pool, cutoff, ids, None, self.origins(cutoff), 1)
            self._statistical[key] = fitted, time.process_time() - began
        return self._statistical[key]

    def fit(self, recipe: Customer, cutoff: date | None = None, panel: pd.DataFrame | None = None) -> Fitted:
        """A recipe's fits. LightGBM may be given another ``panel`` than the night's; actuals are always true."""
        cutoff = cutoff or self.cutoff
        base, seconds = self.statistical(recipe, cutoff)
        if ml.NAME not in recipe.pool:
            return Fitted(recipe, base.scores, base.forecasts, base.status, None, {}, seconds)
        began = time.process_time()
        given = self.panel(cutoff) if panel is None else panel
        trained = ml.fit(given, recipe, cutoff, self.origins(cutoff), 1)
        seconds += time.process_time() - began
        scores = base.scores.merge(trained.scores[[*BACKTEST.key, ml.NAME]], on=list(BACKTEST.key), how="left")
        forecasts = _beside(base.forecasts, trained.forecasts)
        status = pd.concat([base.status, trained.status], ignore_index=True)
        return Fitted(recipe, scores, forecasts, status, trained.booster, trained.spec, seconds)

    @cached_property
    def default(self) -> Fitted:
        """The customer's own recipe at the world's cutoff."""
        return self.fit(self.customer)

    def total(self, made: Fitted, raw: pd.DataFrame, cutoff: date) -> float:
        """Total of the set that a version would publish from these raw forecasts."""
        version = made.bundle.choices, made.bundle.calibration
        rows, _ = publication.compose(raw, made.status, *version, self.panel(cutoff), self.customer, cutoff)
        return float(rows["y_hat"].sum())


def _beside(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    key = ["unique_id", "h"]
    return left.merge(right[[*key, ml.NAME]], on=key, how="left").sort_values(key, ignore_index=True)


# --- the tries ------------------------------------------------------------------------------------------------------


def decided(world: World, challenger: Fitted, champion: Fitted, older: Fitted | None = None) -> Decision:
    """As ``promote`` decides: both recipes refitted at the same origins, tonight's totals, costs.

    ``older``: the champion as trained a week ago, whose choices and booster make tonight's set in its place.
    """
    mine = world.total(challenger, challenger.forecasts, world.cutoff)
    raw, serving = champion.forecasts, champion
    if older is not None:
        own = ml.predict(world.panel(world.cutoff), older.customer, world.cutoff, older.booster, older.spec, 1)
        raw, serving = _beside(champion.forecasts.drop(columns=ml.NAME), own), older
    theirs = world.total(serving, raw, world.cutoff)
    kind = promotion.kind(_hashes(challenger.customer), _hashes(champion.customer))
    return promotion.decide(
        challenger.judged,
        champion.judged,
        kind,
        world.customer.promotion,
        compared="recipes",
        volume=mine / theirs - 1 if theirs > 0 else None,
        costs=(challenger.costs, serving.costs),
    )


def _hashes(customer: Customer) -> dict[str, object]:
    return {"recipe": customer.recipe_hash, "interface": customer.interface_hash}


def _alone(fitted: Fitted) -> Fitted:
    """The same fits under a pool of LightGBM alone, where nothing hides what it does."""
    return replace(fitted, customer=fitted.customer.model_copy(update={"pool": (ml.NAME,)}))


def spoilt(world: World) -> Iterator[tuple[str, Decision]]:
    """The recipe in charge, but LightGBM learns from shuffled targets, or a feature of other days."""
    how = "shuffled" if world.number % 2 else "misaligned"
    recipe, panel = (_shuffled if how == "shuffled" else _misaligned)(world)
    challenger, champion = world.fit(recipe, panel=panel), world.default
    if world.number // 2 % 2:
        how, challenger, champion = f"{how}, LightGBM alone", _alone(challenger), _alone(champion)
    yield how, decided(world, challenger, champion)


def _shuffled(world: World) -> tuple[Customer, pd.DataFrame]:
    """Targets permuted within each series, between two origins only: no origin sees what came after it."""
    panel = world.panel(world.cutoff)
    ends = pd.DatetimeIndex([*world.origins(world.cutoff), world.cutoff])
    part = np.searchsorted(ends.to_numpy(), panel["ds"].to_numpy())
    past = part < len(ends)
    shuffle = lambda y: world.rng.permutation(y.to_numpy())  # noqa: E731
    panel.loc[past, "y"] = panel[past].groupby(["unique_id", part[past]])["y"].transform(shuffle)
    return world.customer.model_copy(update={"seed": world.customer.seed + 1}), panel


def _misaligned(world: World) -> tuple[Customer, pd.DataFrame]:
    """The promotions of 17 days later; where there is no plan, one is added: units of another series 28 days ago."""
    panel = world.panel(world.cutoff)
    if world.customer.exogenous:
        name = next(iter(world.customer.exogenous))
        panel[name] = panel.groupby("unique_id")[name].shift(-17).fillna(0.0)
        return world.customer.model_copy(update={"seed": world.customer.seed + 1}), panel
    ids = sorted(panel["unique_id"].unique())
    other = dict(zip(ids, [*ids[1:], ids[0]], strict=True))
    moved = panel[["unique_id", "ds", "y"]].rename(columns={"y": "plan", "unique_id": "other"})
    moved["ds"] += timedelta(days=28)
    days = pd.MultiIndex.from_product([ids, pd.date_range(panel["ds"].min(), world.cutoff + timedelta(days=28))])
    panel = pd.DataFrame(index=days.set_names(["unique_id", "ds"])).reset_index().merge(panel, how="left")
    panel = panel.assign(other=panel["unique_id"].map(other)).merge(moved, on=["other", "ds"], how="left")
    first = panel[panel["y"].notna()].groupby("unique_id")["ds"].min()
    panel = panel[panel["ds"] >= panel["unique_id"].map(first)]
    past = panel["ds"] <= pd.Timestamp(world.cutoff)
    closed = grid.closed(panel["ds"], world.customer)
    panel.loc[past & panel["y"].isna() & ~closed, "y"] = 0.0  # an absent day sold nothing
    panel = panel[~(past & closed)].fillna({"plan": 0.0}).drop(columns="other")
    column = Exogenous(known="future", fill=0.0)
    kept = panel.astype({"ds": "datetime64[ns]", "unique_id": object}).sort_values(
        ["unique_id", "ds"], ignore_index=True
    )
    return world.customer.model_copy(update={"exogenous": {"plan": column}}), kept


def equal(world: World) -> Iterator[tuple[str, Decision]]:
    """The recipe in charge with other seeds; every second one with LightGBM alone, which is all that a seed moves."""
    for seed in range(2, 2 + SEEDS):
        challenger = world.fit(world.customer.model_copy(update={"seed": seed}))
        if seed % 2:
            yield f"seed {seed}, LightGBM alone", decided(world, _alone(challenger), _alone(world.default))
        else:
            yield f"seed {seed}", decided(world, challenger, world.default)


def better(world: World) -> Iterator[tuple[str, Decision]]:
    """The recipe in charge lacks one model. Which, was chosen for a true gain near 5 % in worlds outside the campaign.

    Pasta: LightGBM without promotions joins the statistical pool. Gifts: TSB joins the weekday mean.
    """
    if world.name == "gifts":
        poorer = world.customer.model_copy(update={"pool": ("weekday_mean",)})
        richer = world.customer.model_copy(update={"pool": ("weekday_mean", "tsb")})
        yield "TSB added", decided(world, world.fit(richer), world.fit(poorer))
    else:
        richer = world.customer.model_copy(update={"exogenous": {}})
        poorer = richer.model_copy(update={"pool": tuple(m for m in richer.pool if m != ml.NAME)})
        bare = world.panel(world.cutoff).drop(columns=list(world.customer.exogenous))
        yield "LightGBM added", decided(world, world.fit(richer, panel=bare), world.fit(poorer))


def newer(world: World) -> Iterator[tuple[str, Decision]]:
    """The recipe in charge was trained a week ago; its version serves tonight with its own choices and booster."""
    before = world.cutoff - timedelta(days=7)
    yield f"trained {before}", decided(world, world.default, world.default, world.fit(world.customer, before))


def scarce(world: World) -> Iterator[tuple[str, Decision]]:
    """A customer too young for the test: another seed, and what is better elsewhere."""
    yield from list(equal(world))[:1]
    yield from better(world)


RUN: dict[str, Callable[[World], Iterator[tuple[str, Decision]]]] = {
    "spoilt": spoilt,
    "equal": equal,
    "better": better,
    "newer": newer,
    "scarce": scarce,
}


# --- the campaign ---------------------------------------------------------------------------------------------------


def done(results: Path) -> list[dict[str, Any]]:
    """The tries so far; a last line that was cut is not one."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def campaign(results: Path, tries: int, customers: list[str], only: list[str]) -> None:
    """Run what is not in ``results`` yet; worlds of the customers in turn, so that a stopped campaign is balanced."""
    known = {(line["case"], line["customer"], line["world"]) for line in done(results)}
    usual = [name for name in customers if name != "grocery"]
    plan = [("grocery", n) for n in range(min(tries, 5)) if "grocery" in customers]
    plan += [(name, n) for n in range(-(-tries // max(len(usual), 1))) for name in usual]
    for name, number in plan:
        cases = [c for c in only if (c == "scarce") == (name == "grocery") and (c, name, number) not in known]
        if not cases:
            continue
        world, began = World(name, number), time.process_time()
        for case in cases:
            lines = [_line(world, case, how, decision) for how, decision in RUN[case](world)]
            with results.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        print(f"{name} {number}: {', '.join(cases)}, {time.process_time() - began:.0f} CPU-s", flush=True)


def _line(world: World, case: str, how: str, decision: Decision) -> dict[str, Any]:
    return {
        "case": case,
        "customer": world.name,
        "world": world.number,
        "cutoff": world.cutoff.isoformat(),
        "how": how,
        "promoted": decision.promoted,
        "reason": decision.reason,
        "evidence": decision.evidence,
    }


# --- the table ------------------------------------------------------------------------------------------------------


def table(lines: list[dict[str, Any]]) -> str:
    """Tries, crowned, rate, Clopper-Pearson bounds and gain by case and customer, as Markdown."""
    head = "| challenger | customer | tries | crowned | rate | 95 % bounds | wanted | mean gain | reasons for keeping |"
    rows = [head, "|" + " --- |" * 9]
    for case in CASES:
        of_case = [line for line in lines if line["case"] == case]
        names = sorted({line["customer"] for line in of_case})
        groups = [(name, [line for line in of_case if line["customer"] == name]) for name in names]
        groups += [("together", of_case)] if len(names) > 1 else []
        rows += [_row(case, name, group, last=name == groups[-1][0]) for name, group in groups]
    return "\n".join(rows)


def _row(case: str, name: str, lines: list[dict[str, Any]], *, last: bool) -> str:
    n, k = len(lines), sum(line["promoted"] for line in lines)
    low, high = bounds(k, n)
    gains = np.array([line["evidence"]["gain"] for line in lines if line["evidence"].get("gain") is not None])
    gain = f"{gains.mean():+.1%} ({gains.min():+.1%} to {gains.max():+.1%})" if len(gains) else ""
    kept = pd.Series([_why(line["reason"]) for line in lines if not line["promoted"]], dtype=object).value_counts()
    why = ", ".join(f"{count} {reason}" for reason, count in kept.items())
    cells = [
        TRIED[case],
        name,
        n,
        k,
        f"{k / n:.1%}",
        f"{low:.1%} to {high:.1%}",
        WANTED[case] if last else "",
        gain,
        why,
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _why(reason: str) -> str:
    for word in ("origin without", "origins without", "shared origin", "gain", "bias", "total", "series", "interval"):
        if word in reason:
            return "origins" if "origin" in word else word
    return "costs"


def bounds(k: int, n: int) -> tuple[float, float]:
    """Two-sided 95 % Clopper-Pearson bounds of a rate."""
    from scipy.stats import beta

    low = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
    return low, float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0


def write(results: Path) -> None:
    """Put the table between its marks in docs/gate.md."""
    made = table(done(results))
    pages.fill(PAGE, "campaign", made)
    print(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="each try's result, one JSON line; what it holds is not done again")
    parser.add_argument("--tries", type=int, default=50, help="tries of a case; four times as many of equal quality")
    parser.add_argument("--customers", nargs="+", default=list(NEWEST), choices=list(NEWEST))
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--table", action="store_true", help="write the results so far into docs/gate.md")
    asked = parser.parse_args()
    if asked.table:
        write(asked.results)
    else:
        campaign(asked.results, asked.tries, asked.customers, asked.only)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
