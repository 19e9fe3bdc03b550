"""look: what there is to see of a customer's forecasts, series by series, as one page. It changes nothing.

The folds are those of the backtest, put together again from the score frames that the retrain left in its work folder,
and only if they give the scores that the version recorded. These frames are swept after some days: then the folds are
what was published for earlier run dates.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd

from forecasting import periods
from forecasting.config import BOTTOM, Customer
from forecasting.errors import ConfigurationError, ForecastingError, near_miss
from forecasting.frames import BACKTEST
from forecasting.pipeline.night import Deployment
from forecasting.pipeline.watch import WORK_DAYS
from forecasting.store import curves, warehouse, work

if TYPE_CHECKING:
    import sqlalchemy as sa

    from forecasting.learn.charts import Pick
    from forecasting.learn.selection import Rolled

__all__ = ["Look", "look"]

log = logging.getLogger(__name__)

QUARTER = {"D": 91, "W": 13, "M": 3}
"""Periods over which units are counted."""
CLOSE = 1e-6
"""Largest relative difference between a recorded score and the same one again."""
_SCORES = re.compile(r"(statistical-[0-9]+|ml)-scores")


@dataclass(frozen=True)
class Look:
    """A page, and what a terminal says of it."""

    html: str
    run_date: date
    picks: tuple[Pick, ...]
    told: tuple[str, ...]
    """What the folds are, in sentences."""


@dataclass(frozen=True)
class _Folds:
    """What was, or would have been, published before, beside what came."""

    word: str
    told: tuple[str, ...]
    scores: pd.DataFrame
    """Frame of ``charts.score``; of aggregates only where it was at hand."""
    of: Callable[[Sequence[curves.Key]], pd.DataFrame]
    """The rows of those series: node, unique_id, cutoff, ds, y, y_hat, quantiles; ``scale`` in the backtest."""
    reference: str | None = None


def look(deployment: Deployment, customer_id: str, unique_ids: Sequence[str] = (), n: int = 3, *, plotly: str) -> Look:
    """The page of a customer's newest publication.

    Args:
        deployment: Where the warehouse and the work folder are.
        customer_id: A customer that the warehouse knows.
        unique_ids: What to draw; none: the worst, the biggest and the newest series, and the biggest of each node.
        n: How many of each; 0: every series and node.
        plotly: The text of plotly.js.

    Raises:
        ConfigurationError: Nothing is published yet, or there is no such series; with the near miss.
    """
    from forecasting.learn import charts

    with curves.reading(deployment.engine, customer_id) as connection:
        line = curves.publications(connection, customer_id)
        if not line:
            raise ConfigurationError(
                f"{customer_id} has published nothing yet; `forecasting run {customer_id} --date YYYY-MM-DD` runs a day"
            )
        now, customer = line[0], _configuration(line[0].config)
        since = periods.shift(now.cutoff, -QUARTER[customer.frequency], customer.frequency)
        known = curves.known(connection, customer_id, now.run_id, since)
        _refuse_unknown(customer_id, unique_ids, known)
        folds = _backtest(deployment, now, customer) or _published(connection, customer_id, line, customer)
        picks = charts.named(known, unique_ids) if unique_ids else charts.choose(known, folds.scores, n or 3)
        picks = charts.every(known, picks) if not unique_ids and not n else picks
        keys = [pick.key for pick in picks]
        sold = curves.actuals(connection, customer_id, keys)
        forecast = curves.forecasts(connection, customer_id, [now.run_id], keys)
        before = folds.of(keys)
    about = charts.About(
        customer=customer_id,
        run_id=now.run_id,
        run_date=now.run_date,
        cutoff=now.cutoff,
        version=now.version,
        stale=now.stale,
        frequency=customer.frequency,
        horizon=customer.horizon,
        levels=customer.levels,
        series=int(known["model"].notna().sum()),
        since=since,
        folds=folds.word,
        reference=folds.reference,
        told=folds.told,
    )
    scores = _scored(folds, before, sold, about.level)
    page = charts.html(about, picks, known, scores, sold, forecast, before, plotly)
    return Look(page, now.run_date, tuple(picks), folds.told)


def _configuration(frozen: Mapping[str, Any]) -> Customer:
    """A configuration of older code may hold fields that are gone."""
    return Customer.model_validate({name: value for name, value in frozen.items() if name in Customer.model_fields})


def _refuse_unknown(customer_id: str, unique_ids: Sequence[str], known: pd.DataFrame) -> None:
    names = list(dict.fromkeys(known["unique_id"]))
    for one in unique_ids:
        if one not in names:
            raise ConfigurationError(
                f"{customer_id} has no series {one!r}.{near_miss(one, names)} It has {len(names)}, such as "
                f'{", ".join(names[:3])}; `forecasting sql "select node, unique_id from forecasting.series where '
                f"customer_id = '{customer_id}'\"` lists them"
            )


def _scored(folds: _Folds, before: pd.DataFrame, sold: pd.DataFrame, level: int) -> pd.DataFrame:
    """The folds' scores, with those of aggregates, which only the drawn ones have."""
    from forecasting.learn import charts

    done = set(folds.scores[charts.KEY].itertuples(index=False, name=None))
    lacking = [key not in done for key in before[charts.KEY].itertuples(index=False, name=None)]
    if folds.word != "backtest" or not any(lacking):
        return folds.scores
    above = charts.score(charts.with_scale(before[lacking], sold), level)
    return pd.concat([frame for frame in (folds.scores, above) if len(frame)], ignore_index=True)


# --- the backtest ---------------------------------------------------------------------------------------------------


def _backtest(deployment: Deployment, now: curves.Publication, customer: Customer) -> _Folds | None:
    """The newest backtest of the published recipe that is still there; None: there is none."""
    from forecasting.learn import selection

    for version in _same_recipe(deployment, now):
        recipe = _configuration(version.config)
        scores = _frames(deployment, version)
        if scores is None:
            continue
        judged = selection.rolled_nodes(scores, recipe)
        again = selection.rolling(scores, recipe, judged.bottom)
        if len(judged.bottom) and _alike(again, (version.scores or {}).get("rolling") or []):
            return _of_backtest(judged, scores, version, now, recipe, customer)
        log.warning("look: %s the frames of %s do not give its recorded scores", now.run_id, version.version)
    return None


def _same_recipe(deployment: Deployment, now: curves.Publication) -> Iterator[warehouse.ModelVersion]:
    """The versions born here with the recipe of the one that is published, newest first."""
    known = warehouse.versions(deployment.engine, now.run_id.partition("/")[0])
    mine = next((version for version in known if version.version == now.version), None)
    for version in sorted(known, key=lambda version: (version.training_cutoff, version.parts), reverse=True):
        same = mine and (version.recipe_hash, version.interface_hash) == (mine.recipe_hash, mine.interface_hash)
        if same and version.run_id and version.training_cutoff <= now.cutoff:
            yield version


def _frames(deployment: Deployment, version: warehouse.ModelVersion) -> pd.DataFrame | None:
    """The score frame of the run that made the version; None: it is not there any more."""
    from forecasting.learn import backtest

    try:
        found = work.find(deployment.settings.work_url, str(version.run_id), "-scores")
    except ForecastingError as error:  # the page can do without: it says what its folds are
        log.warning("look: %s", error)
        return None
    mine = {name: frame for name, frame in found.items() if _SCORES.fullmatch(name)}
    ml = mine.pop("ml-scores", None)
    if not mine:
        return None
    scores = pd.concat(list(mine.values()), ignore_index=True)
    if ml is None:
        return scores
    try:
        return backtest.join(scores, ml[ml["unique_id"].isin(scores["unique_id"])].reset_index(drop=True))
    except ValueError as error:  # of another attempt
        log.warning("look: %s the score frames do not belong together: %s", version.run_id, error)
        return None


def _alike(again: pd.DataFrame, recorded: Sequence[Mapping[str, Any]]) -> bool:
    """True when the frames give the scores that the version recorded, origin by origin."""
    rows = json.loads(again.to_json(orient="records", date_format="iso", double_precision=12))
    return len(rows) == len(recorded) and all(
        one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)
        for one, other in zip(rows, recorded, strict=True)
    )


def _equal(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)
    return one == other


def _of_backtest(
    judged: Rolled,
    scores: pd.DataFrame,
    version: warehouse.ModelVersion,
    now: curves.Publication,
    recipe: Customer,
    customer: Customer,
) -> _Folds:
    from forecasting.learn import charts, reconciliation

    bottom = judged.bottom.assign(node=BOTTOM)
    days = bottom.drop_duplicates(["cutoff", "h"])[["cutoff", "h", "ds"]]
    upper = judged.upper.merge(days, on=["cutoff", "h"])
    members = reconciliation.membership(list(bottom["unique_id"].unique()), recipe)
    level = 80 if 80 in customer.levels else min(customer.levels)
    reference = next((name for name in recipe.references if name in scores), None)
    beside = scores[[*BACKTEST.key, reference]].rename(columns={reference: "reference"}) if reference else None
    rows = bottom.merge(beside, on=list(BACKTEST.key), how="left") if beside is not None else bottom
    ofs = pd.DatetimeIndex(sorted(bottom["cutoff"].unique()))

    def of(keys: Sequence[curves.Key]) -> pd.DataFrame:
        above = upper[_among(upper, keys)]
        if reference and len(above):
            above = above.merge(_summed_up(rows, members, keys), on=[*charts.KEY, "cutoff", "h"], how="left")
        parts = [part for part in (rows[_among(rows, keys)].dropna(subset="y_hat"), above) if len(part)]
        kept = pd.concat(parts, ignore_index=True) if parts else rows.head(0)
        return kept.sort_values([*charts.KEY, "cutoff", "ds"], ignore_index=True)

    told = (
        f"The folds are the backtest of {version.version}, trained to {version.training_cutoff}: what its recipe would "
        f"have published at {_origins(ofs)}, fitted anew at each, with choices and intervals that had seen only the "
        "origins before it.",
        *([f"Published is {now.version}, of the same recipe."] if now.version != version.version else []),
    )
    return _Folds("backtest", told, charts.score(rows, level), of, reference)


def _summed_up(rows: pd.DataFrame, members: pd.DataFrame, keys: Sequence[curves.Key]) -> pd.DataFrame:
    """The reference on the aggregates: node, unique_id, cutoff, h, reference; over the series that ``y`` is the sum of.

    NaN where the reference made no forecast for one of them.
    """
    parents = members.rename(columns={"unique_id": "series", "parent": "unique_id"})
    seen = rows.loc[rows["scored"] & rows["y_hat"].notna(), ["unique_id", "cutoff", "h", "reference"]]
    seen = seen.rename(columns={"unique_id": "series"}).merge(parents[_among(parents, keys)], on="series")
    grouped = seen.groupby(["node", "unique_id", "cutoff", "h"], sort=True)["reference"]
    return grouped.sum().where(grouped.count() == grouped.size()).reset_index()


def _origins(days: pd.DatetimeIndex) -> str:
    if len(days) == 1:
        return f"the origin {days[0].date()}"
    return f"{len(days)} origins from {days[0].date()} to {days[-1].date()}"


def _among(rows: pd.DataFrame, keys: Sequence[curves.Key]) -> pd.Series:
    return pd.Series(pd.MultiIndex.from_frame(rows[["node", "unique_id"]]).isin(list(keys)), index=rows.index)


# --- past publications ----------------------------------------------------------------------------------------------


def _published(
    connection: sa.Connection, customer_id: str, line: Sequence[curves.Publication], customer: Customer
) -> _Folds:
    """What was published before, at run dates whose horizons do not overlap; of a young deployment the first one."""
    now, earlier = line[0], [one for one in line[1:] if one.cutoff < line[0].cutoff]
    gone = f"The backtest's own frames are kept for {WORK_DAYS} days where the version was trained, and are not there."
    whole = list(_apart([one for one in earlier if _ends(one, customer) <= now.cutoff], customer))
    shown = whole[: customer.backtest.windows] or earlier[-1:]
    cutoffs = {one.run_id: pd.Timestamp(one.cutoff) for one in shown}
    scores = _summed(curves.scores(connection, customer_id, list(cutoffs)))

    def of(keys: Sequence[curves.Key]) -> pd.DataFrame:
        rows = curves.forecasts(connection, customer_id, list(cutoffs), keys)
        return rows.assign(cutoff=pd.to_datetime(rows["run_id"].map(cutoffs)))

    if not shown:
        return _Folds("", (gone, "Nothing was published before either: there are no folds and no scores."), scores, of)
    days = ", ".join(str(one.run_date) for one in reversed(shown))
    told = [gone, f"The folds are what was published for {days}, beside what came."]
    if not whole:
        told.append("Its horizon is not over, so nothing is scored yet and no series is the worst.")
    return _Folds("published then", tuple(told), scores, of)


def _ends(one: curves.Publication, customer: Customer) -> date:
    return periods.shift(one.cutoff, customer.horizon, customer.frequency)


def _apart(line: Sequence[curves.Publication], customer: Customer) -> Iterator[curves.Publication]:
    """Of publications, newest first, those that end before the one after them begins."""
    begins = date.max - timedelta(days=1)
    for one in line:
        if _ends(one, customer) <= begins:
            begins = one.cutoff
            yield one


def _summed(scores: pd.DataFrame) -> pd.DataFrame:
    """The warehouse's scores of several publications as ``charts.score`` would give them."""
    from forecasting.learn import charts

    rows = scores.astype(dict.fromkeys(("y", "error", "abs_error", "rmsse", "covered_80", "n"), "float64"))
    rows = rows.assign(inside=rows["covered_80"] * rows["n"])
    grouped = rows.groupby(charts.KEY, sort=True)
    sums, volume = grouped[["error", "abs_error", "inside", "n"]].sum(), grouped["y"].sum()
    volume = volume.where(volume > 0)
    return pd.DataFrame(
        {
            "folds": grouped.size(),
            "rmsse": grouped["rmsse"].mean(),
            "rmsse_reference": math.nan,
            "wape": sums["abs_error"] / volume,
            "bias": sums["error"] / volume,
            "inside": sums["inside"] / sums["n"],
        }
    ).reset_index()
