"""A model card's figures: what a version forecasts, from what, how well, and where it is weak. It asks no clock.

A card is a JSON-able mapping; ``learn.page`` makes it readable. Every figure is of the rolling evaluation: choices and
offsets from earlier origins, judged on the next one, over the rows on which the selection and every reference spoke.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecasting.config import BOTTOM, Customer
from forecasting.frames import BACKTEST, quantile_column
from forecasting.learn import grid, intervals, ladder, reconciliation
from forecasting.learn.models import order
from forecasting.learn.selection import Rolled

__all__ = ["ADI_LIMIT", "CV2_LIMIT", "FIGURES", "LISTED", "SELECTION", "changed_calibration", "changed_choices",
           "compare", "demand", "from_meta", "make"]  # fmt: skip

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Card = dict[str, Any]

ADI_LIMIT = 1.32
"""Mean periods between sales above which demand is intermittent or lumpy."""
CV2_LIMIT = 0.49
"""Squared coefficient of variation of the sales above which demand is erratic or lumpy."""
CLASSES = ("smooth", "erratic", "intermittent", "lumpy")
FIGURES = ("rmsse", "wape", "bias")
"""What is said of each model in a slice, in this order."""
SELECTION = "selection"
"""Name of what is published, among the models of a card."""
LISTED = 10
"""Series that a list of weak spots names; its count tells of all."""
SCHEMA = 1
"""Version of the card's own schema."""


def make(
    scores: pd.DataFrame,
    judged: Rolled,
    choices: pd.DataFrame,
    panel: pd.DataFrame,
    customer: Customer,
    facts: Mapping[str, object],
) -> Card:
    """The card of a version, as it is known when the version is made.

    Args:
        scores: frames.BACKTEST with one column per model.
        judged: ``selection.rolled_nodes`` of the scores.
        choices: frames.CHOICES of the version.
        panel: frames.PANEL it was trained on.
        customer: The configuration it was trained under.
        facts: customer, training_cutoff (ISO 8601), snapshot, contract.

    Returns:
        A mapping of plain values: card (schema), forecasts, data, recipe, scores, calibration, weak, choices. Numbers
        have six digits; what is undefined is None.
    """
    cutoff = pd.Timestamp(str(facts["training_cutoff"]))
    seen = _observed(panel, customer, cutoff)
    shape = _demand(seen)
    rows, models = _paired(scores, judged.bottom, shape.index, customer)
    return {
        "card": SCHEMA,
        "forecasts": _forecasts(shape.index, customer),
        "data": {**facts, **_data(panel, cutoff, customer)},
        "recipe": {**customer.recipe(), "recipe_hash": customer.recipe_hash, "interface_hash": customer.interface_hash},
        "scores": _scores(rows, models, seen, shape, customer),
        "calibration": _calibration(judged, customer),
        "weak": _weak(rows, models, shape, choices, panel, cutoff, customer),
        "choices": _chosen(choices, shape),
    }


def from_meta(meta: Mapping[str, Any], choices: pd.DataFrame) -> Card:
    """What can be told of a version whose bundle is older than cards: no nodes, classes, calibration or weak spots."""
    rolling = [dict(row) for row in meta["rolling"]]
    peers = [key.removeprefix("rmsse_") for key in (rolling[0] if rolling else {}) if key.startswith("rmsse_")]
    names = [SELECTION, *order([name for name in peers if name != SELECTION])]
    facts = {name: meta.get(name) for name in ("customer", "training_cutoff", "snapshot", "contract")}
    origins = {
        str(row["origin"])[:10]: [[_plain(row.get(f"{figure}_{name}")) for figure in FIGURES] for name in names]
        for row in rolling
    }
    whole = {"by": "node", "slice": BOTTOM, "series": None, "rows": None, "origins": origins, "mean": _means(origins)}
    ids = pd.Index(sorted(choices["unique_id"].unique()))
    return {
        "card": SCHEMA,
        "forecasts": {**meta["interface"], "series": len(ids), "nodes": {}},
        "data": facts,
        "recipe": dict(meta["recipe"]),
        "scores": {"origins": sorted(origins), "models": names, "slices": [whole] if origins else []},
        "calibration": [],
        "weak": {},
        "choices": _chosen(choices, pd.DataFrame({"demand": ""}, index=ids)),
    }


def _forecasts(ids: pd.Index, customer: Customer) -> Card:
    series = reconciliation.series_table(list(ids), customer)
    count = series["node"].value_counts()
    return {
        **customer.interface(),
        "series": len(ids),
        "nodes": {node: int(count.get(node, 0)) for node in customer.nodes},
    }


def _data(panel: pd.DataFrame, cutoff: pd.Timestamp, customer: Customer) -> Card:
    past = panel[panel["ds"] <= cutoff]
    return {
        "first_period": str(past["ds"].min().date()) if len(past) else None,
        "rows": len(past),
        "rows_unknown": int(past["y"].isna().sum()),
        "absent": customer.absent,
        "time_zone": customer.time_zone,
    }


# --- demand ---------------------------------------------------------------------------------------------------------


class _Observed(NamedTuple):
    """What the forecasters see of a panel, as arrays over its observed rows; ``at`` is the number of the period.

    The rows that ``grid.regularise`` marks as scored, but for the zeros that absent rows may mean: these are only
    counted, in ``periods``. A grid of all series would take longer than all the rest of a card.
    """

    ids: pd.Index
    code: Ints
    at: Ints
    y: Floats
    start: Ints
    """First period of each series: its first sale, else its first row, at most ``history_days`` back."""
    periods: Ints
    """Observed periods of each series."""
    shut: npt.NDArray[np.bool_] | None
    """Whether each period from the earliest start to the newest known one is closed; None: absent rows mean nothing."""


def _observed(panel: pd.DataFrame, customer: Customer, cutoff: pd.Timestamp) -> _Observed:
    past = panel[panel["ds"] <= cutoff]
    code, names = pd.factorize(past["unique_id"], sort=True)
    n, ids = len(names), pd.Index(names, dtype=object, name="unique_id")
    at, y = grid.ordinals(past["ds"], customer.frequency), past["y"].to_numpy(dtype=np.float64)
    oldest = int(grid.ordinals(pd.DatetimeIndex([cutoff]), customer.frequency)[0]) - grid.longest(customer) + 1
    start = np.maximum(_first(code, at, y, n), oldest)
    known, inside = np.isfinite(y), at >= start[code]
    rows = (code[known & inside], at[known & inside], y[known & inside])
    if customer.absent != "zero" or not known.any():
        return _Observed(ids, *rows, start, np.bincount(rows[0], minlength=n), None)
    newest, earliest = int(at[known].max()), int(start.min())
    days = pd.Series(grid.dates(np.arange(earliest, newest + 1), customer.frequency))
    shut, odd = grid.closed(days, customer), grid.closed(past["ds"], customer)
    opened = np.concatenate([[0], np.cumsum(~shut)])
    periods = opened[-1] - opened[np.clip(start - earliest, 0, len(shut))]
    periods = periods - np.bincount(code[~known & inside & ~odd & (at <= newest)], minlength=n)
    return _Observed(ids, *rows, start, periods + np.bincount(code[known & inside & odd], minlength=n), shut)


def _first(code: Ints, at: Ints, y: Floats, n: int) -> Ints:
    """Each series' first sale, else its first row."""
    never = np.iinfo(np.int64).max
    row, sale = np.full(n, never), np.full(n, never)
    np.minimum.at(row, code, at)
    np.minimum.at(sale, code[y > 0], at[y > 0])
    return np.where(sale < never, sale, row)


def demand(panel: pd.DataFrame, customer: Customer, cutoff: pd.Timestamp) -> pd.DataFrame:
    """How each series sells, over what the forecasters see: its history from the first sale, closed days left out.

    Returns:
        Index unique_id, ascending; ``periods`` observed, ``sales`` (periods with one), ``adi`` (mean periods from one
        sale to the next), ``cv2`` (squared coefficient of variation of the sales) and ``demand``: smooth, erratic,
        intermittent, lumpy, or ``none`` for a series that never sold.

    Syntetos, Boylan & Croston (2005), doi:10.1057/palgrave.jors.2601841.
    """
    return _demand(_observed(panel, customer, cutoff))


def _demand(seen: _Observed) -> pd.DataFrame:
    sold, n = seen.y > 0, len(seen.ids)
    of, sizes = seen.code[sold], seen.y[sold]
    sales = np.bincount(of, minlength=n)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.bincount(of, sizes, n) / sales
        cv2 = np.bincount(of, (sizes - mean[of]) ** 2, n) / sales / mean**2
        adi = seen.periods / sales
    named = np.array(CLASSES, dtype=object)[(cv2 > CV2_LIMIT).astype(int) + 2 * (adi > ADI_LIMIT).astype(int)]
    shape = {"periods": seen.periods, "sales": sales, "adi": adi, "cv2": cv2}
    return pd.DataFrame({**shape, "demand": np.where(sales > 0, named, "none")}, index=seen.ids)


# --- scores ---------------------------------------------------------------------------------------------------------


def _paired(
    scores: pd.DataFrame, bottom: pd.DataFrame, ids: pd.Index, customer: Customer
) -> tuple[pd.DataFrame, list[str]]:
    """The scored rows on which the selection and every reference spoke, and the models' names.

    Columns series (place in ``ids``), cutoff, h, y, scale, median (of the selection), and a model each.
    """
    models = [SELECTION, *(name for name in customer.references if name in scores)]
    cutoffs = scores["cutoff"].to_numpy()
    places = [np.flatnonzero(cutoffs == cutoff) for cutoff in np.sort(bottom["cutoff"].unique())]
    beside = scores.iloc[np.concatenate(places) if places else []]
    if not all((beside[name].to_numpy() == bottom[name].to_numpy()).all() for name in BACKTEST.key):
        raise ValueError("the judged rows are not those of the score frame")
    rows = bottom[["cutoff", "h", "y", "scale"]].assign(series=ids.get_indexer(pd.Index(bottom["unique_id"])))
    rows = rows.assign(median=bottom["q50"], **{SELECTION: bottom["y_hat"]})
    rows = rows.assign(**{name: beside[name].to_numpy() for name in models[1:]})
    return rows[bottom["scored"].to_numpy() & rows[models].notna().to_numpy().all(axis=1)], models


def _scores(rows: pd.DataFrame, models: list[str], seen: _Observed, shape: pd.DataFrame, customer: Customer) -> Card:
    slices = [_slice("node", BOTTOM, rows, models)]
    members = reconciliation.membership(list(seen.ids), customer)
    for node in customer.nodes if len(rows) else ():
        slices.append(
            _slice("node", node, _above(rows, models, seen, members[members["node"] == node], customer), models)
        )
    for start, stop in intervals.buckets(customer.horizon):
        slices.append(_slice("h", f"{start}–{stop}", rows[rows["h"].between(start, stop)], models))
    classes = shape["demand"].to_numpy()[rows["series"].to_numpy()] if len(rows) else np.array([])
    for name in (*CLASSES, "none"):
        slices.append(_slice("demand", name, rows[classes == name], models))
    origins = sorted({origin for one in slices for origin in one["origins"]})
    return {"origins": origins, "models": models, "slices": [one for one in slices if one["rows"]]}


def _slice(by: str, name: str, part: pd.DataFrame, models: list[str]) -> Card:
    """The figures of each model at each origin, and their means over the origins."""
    cutoffs, origin = np.unique(part["cutoff"].to_numpy(dtype="datetime64[ns]"), return_inverse=True)
    ids, series = np.unique(part["series"].to_numpy(), return_inverse=True)
    said = [_figures(part, model, origin, series, (len(cutoffs), len(ids))) for model in models]
    origins = {
        str(pd.Timestamp(cutoff).date()): [[_plain(value) for value in one[at]] for one in said]
        for at, cutoff in enumerate(cutoffs)
    }
    counts = {"series": len(ids), "rows": len(part)}
    return {"by": by, "slice": name, **counts, "origins": origins, "mean": _means(origins)}


def _figures(part: pd.DataFrame, model: str, origin: Ints, series: Ints, shape: tuple[int, int]) -> Floats:
    """FIGURES at each origin, shape (origins, 3): RMSSE's mean over series; WAPE, of the median; bias."""
    y, said = part["y"].to_numpy(), part[model].to_numpy()
    point = part["median"].to_numpy() if model == SELECTION and "median" in part else said
    with np.errstate(divide="ignore", invalid="ignore"):
        rmsse = _rmsse(part, model, origin, series, shape)
        known = np.isfinite(rmsse)
        volume = np.bincount(origin, np.abs(y), shape[0])
        return np.column_stack(
            [
                np.where(known, rmsse, 0.0).sum(axis=1) / known.sum(axis=1),
                np.bincount(origin, np.abs(point - y), shape[0]) / volume,
                np.bincount(origin, said - y, shape[0]) / volume,
            ]
        )


def _rmsse(part: pd.DataFrame, model: str, origin: Ints, series: Ints, shape: tuple[int, int]) -> Floats:
    """RMSSE of each series at each origin, shape (origins, series); NaN where undefined."""
    key, size = origin * shape[1] + series, shape[0] * shape[1]
    squared = (part["y"].to_numpy() - part[model].to_numpy()) ** 2 / part["scale"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        rmsse = np.sqrt(np.bincount(key, squared, size) / np.bincount(key, minlength=size))
    return np.asarray(rmsse.reshape(shape))


def _above(
    rows: pd.DataFrame, models: list[str], seen: _Observed, members: pd.DataFrame, customer: Customer
) -> pd.DataFrame:
    """The rows of one aggregate node: sums over the series with a row that day; of means, so there is no median."""
    parent, parents = pd.factorize(members.set_index("unique_id")["parent"].reindex(seen.ids), sort=True)
    cutoffs, origin = np.unique(rows["cutoff"].to_numpy(dtype="datetime64[ns]"), return_inverse=True)
    steps = customer.horizon + 1
    key = (parent[rows["series"].to_numpy()] * len(cutoffs) + origin) * steps + rows["h"].to_numpy()
    places, at = np.unique(key, return_inverse=True)
    of, step = np.divmod(places, steps)
    of, when = np.divmod(of, len(cutoffs))
    scale = _scales_above(seen, parent, len(parents), grid.ordinals(pd.DatetimeIndex(cutoffs), customer.frequency))
    sums = {name: np.bincount(at, rows[name].to_numpy()) for name in ("y", *models)}
    return pd.DataFrame({"series": of, "cutoff": cutoffs[when], "h": step, "scale": scale[of, when], **sums})


def _scales_above(seen: _Observed, parent: Ints, n: int, origins: Ints) -> Floats:
    """RMSSE's denominator of each aggregate at each origin, shape (n, origins): of what is known of its series' sum."""
    of = parent[seen.code]
    by_parent = np.argsort(of, kind="stable")
    stops = np.searchsorted(of[by_parent], np.arange(n + 1))
    earliest = int(seen.start.min())
    scales = np.full((n, len(origins)), np.nan)
    for at in range(n):
        rows = by_parent[stops[at] : stops[at + 1]]
        when, total = _sum_over_time(seen, rows, int(seen.start[parent == at].min()), earliest)
        squared = np.concatenate([[0.0], np.cumsum(np.diff(total) ** 2)])
        last = np.searchsorted(when, origins, side="right") - 1
        usable = last >= 1
        scales[at, usable] = squared[last[usable]] / last[usable]
    return np.where(scales > 0, scales, np.nan)


def _sum_over_time(seen: _Observed, rows: Ints, start: int, earliest: int) -> tuple[Ints, Floats]:
    """The observed periods of an aggregate, ascending, and its sums there; an open period without a row may be zero."""
    if seen.shut is None:
        when, at = np.unique(seen.at[rows], return_inverse=True)
        return when, np.bincount(at, seen.y[rows], len(when)).astype(np.float64)
    length = len(seen.shut) - (start - earliest)
    place = seen.at[rows] - start
    known = ~seen.shut[start - earliest :] | (np.bincount(place, minlength=length) > 0)
    return np.flatnonzero(known) + start, np.bincount(place, seen.y[rows], length)[known].astype(np.float64)


def _means(origins: Mapping[Any, list[list[float | None]]]) -> list[list[float | None]]:
    """The mean over the origins of each model's figures: an origin counts once, whatever its rows."""
    table = np.array(list(origins.values()), dtype=np.float64)
    if not len(table):
        return []
    known = np.isfinite(table)
    with np.errstate(invalid="ignore"):
        mean = np.where(known, table, 0.0).sum(axis=0) / known.sum(axis=0)
    return [[_plain(value) for value in row] for row in mean]


# --- calibration, weak spots, choices -------------------------------------------------------------------------------


def _calibration(judged: Rolled, customer: Customer) -> list[Card]:
    """The share of actuals inside each published interval, per node and origin."""
    bottom = judged.bottom[judged.bottom["scored"]].assign(node=BOTTOM)
    found = []
    for level in customer.levels:
        lo, hi = (quantile_column(round(q, 4)) for q in ((100 - level) / 200, (100 + level) / 200))
        for node, rows in [(BOTTOM, bottom), *((n, judged.upper[judged.upper["node"] == n]) for n in customer.nodes)]:
            seen = rows[rows[lo].notna()]
            inside = ((seen["y"] >= seen[lo]) & (seen["y"] <= seen[hi])).astype("float64")
            share = inside.groupby(seen["cutoff"]).mean()
            origins = {str(pd.Timestamp(str(day)).date()): _plain(value) for day, value in share.items()}
            counts = {"node": node, "level": level, "rows": len(seen)}
            found.append({**counts, "covered": _plain(share.mean()), "origins": origins})
    return [one for one in found if one["rows"]]


def _weak(
    rows: pd.DataFrame,
    models: list[str],
    shape: pd.DataFrame,
    choices: pd.DataFrame,
    panel: pd.DataFrame,
    cutoff: pd.Timestamp,
    customer: Customer,
) -> Card:
    """Series that do worse than the reference, and those of which little is known."""
    by_series = _by_series(rows, models[:2], shape)
    alive = shape[~shape.index.isin(ladder.retired(panel, cutoff).index)]
    short = alive[(alive["sales"] > 0) & (alive["periods"] < _enough(customer))].sort_values("periods", kind="stable")
    worse = by_series[by_series["ratio"] > 1] if "ratio" in by_series else by_series.head(0)
    return {
        "reference": models[1] if len(models) > 1 else None,
        "judged": len(by_series),
        "worse": len(worse),
        "worst": _worst(worse, shape, choices) if len(worse) else [],
        "short": {"periods": _enough(customer), **_listed(short.index)},
        "cold_start": _listed(alive.index[alive["sales"] == 0]),
        "unjudged": _listed(alive.index[(alive["sales"] > 0) & ~alive.index.isin(by_series.index)]),
        "retired": _listed(shape.index.difference(alive.index, sort=True)),
    }


def _enough(customer: Customer) -> int:
    """Periods below which a history is short: two horizons, or two of the longest season."""
    return 2 * max(customer.horizon, *customer.season_lengths)


def _by_series(rows: pd.DataFrame, models: list[str], shape: pd.DataFrame) -> pd.DataFrame:
    """RMSSE of each judged series, its mean over the origins, beside the reference's; its share of what was sold."""
    cutoffs, origin = np.unique(rows["cutoff"].to_numpy(dtype="datetime64[ns]"), return_inverse=True)
    size = (len(cutoffs), len(shape))
    table = [_rmsse(rows, model, origin, rows["series"].to_numpy(), size) for model in models]
    with np.errstate(divide="ignore", invalid="ignore"):
        frame = pd.DataFrame(
            {
                model: np.nansum(one, axis=0) / np.isfinite(one).sum(axis=0)
                for model, one in zip(models, table, strict=True)
            },
            index=shape.index,
        )
        volume = np.bincount(rows["series"].to_numpy(), rows["y"].abs().to_numpy(), len(shape))
        frame["share"] = volume / volume.sum()
        if len(models) > 1:
            frame["ratio"] = frame[SELECTION] / frame[models[1]].where(frame[models[1]] > 0)
    return frame[frame[SELECTION].notna()]


def _worst(worse: pd.DataFrame, shape: pd.DataFrame, choices: pd.DataFrame) -> list[Card]:
    worst = worse.assign(rounded=-worse["ratio"].round(9)).sort_values(["rounded", "unique_id"])[:LISTED]
    models = choices[choices["unique_id"].isin(worst.index)].groupby("unique_id")["model"].agg(sorted)
    table = worst.join(shape[["demand", "periods"]]).rename(columns={SELECTION: "rmsse", "ratio": "times"})
    return [
        {
            "unique_id": str(unique_id),
            **{name: _plain(row[name]) for name in ("rmsse", "times", "share")},
            "demand": row["demand"],
            "periods": int(row["periods"]),
            "models": models.get(unique_id, []),
        }
        for unique_id, row in table.to_dict("index").items()
    ]


def _listed(ids: Sequence[str] | pd.Index) -> Card:
    return {"n": len(ids), "series": [str(unique_id) for unique_id in ids[:LISTED]]}


def _chosen(choices: pd.DataFrame, shape: pd.DataFrame) -> Card:
    """How many series each model, or blend of models, publishes for; and by class of demand."""
    sets = _sets(choices)
    total = choices.groupby("model", as_index=False)["weight"].agg(["count", "sum"])
    ranked = total.sort_values(["sum", "model"], ascending=[False, True])
    named = [str(model) for model in ranked["model"]]
    weights = choices.assign(demand=shape["demand"].reindex(choices["unique_id"]).to_numpy())
    by_class = weights[weights["demand"] != ""].pivot_table("weight", "demand", "model", "sum", 0.0)
    shares = by_class.div(by_class.sum(axis=1), axis=0).to_dict("index")
    return {
        "series": len(sets),
        "models": [
            {"model": model, "series": int(count), "share": _plain(weight / len(sets))}
            for model, count, weight in zip(named, ranked["count"], ranked["sum"], strict=True)
        ],
        "blended": int(sets.str.contains(" + ", regex=False).sum()),
        "by_demand": {
            str(name): {model: _plain(share[model]) for model in named if share[model]}
            for name, share in shares.items()
        },
    }


def _plain(value: Any) -> float | None:
    """Six digits, that JSON can hold."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.6g}")


# --- two versions ---------------------------------------------------------------------------------------------------


def compare(one: Card, other: Card) -> Card:
    """What the selection of two cards scored, slice by slice, at the origins both were judged at.

    Returns:
        ``origins`` (shared; none: each at its own), ``own`` (of each), ``slices`` that both have: by, slice, ``a`` and
        ``b`` (FIGURES), ``change`` of the RMSSE (negative: ``other`` is better); ``calibration``: node, level, a, b.
    """
    shared = sorted(set(one["scores"]["origins"]) & set(other["scores"]["origins"]))
    theirs = {(row["by"], row["slice"]): row for row in other["scores"]["slices"]}
    pairs = [
        (row, theirs[row["by"], row["slice"]]) for row in one["scores"]["slices"] if (row["by"], row["slice"]) in theirs
    ]
    covered = {(row["node"], row["level"]): row for row in other["calibration"]}
    levels = [
        (row, covered[row["node"], row["level"]])
        for row in one["calibration"]
        if (row["node"], row["level"]) in covered
    ]
    return {
        "origins": shared,
        "own": [one["scores"]["origins"], other["scores"]["origins"]],
        "slices": [_beside(mine, their, shared) for mine, their in pairs],
        "calibration": [
            {"node": mine["node"], "level": mine["level"], "a": _covered(mine, shared), "b": _covered(their, shared)}
            for mine, their in levels
        ],
    }


def _beside(mine: Card, theirs: Card, shared: list[str]) -> Card:
    a, b = (
        [one["origins"][day] for day in shared or one["origins"] if day in one["origins"]] for one in (mine, theirs)
    )
    own, other = (_means(dict(enumerate(rows)))[0] if rows else [None] * len(FIGURES) for rows in (a, b))
    change = None if other[0] is None or not own[0] else _plain(other[0] / own[0] - 1)
    return {"by": mine["by"], "slice": mine["slice"], "a": own, "b": other, "change": change}


def _covered(row: Card, shared: list[str]) -> float | None:
    found = [row["origins"][day] for day in shared or row["origins"] if row["origins"].get(day) is not None]
    return _plain(float(np.mean(found))) if found else None


def changed_choices(one: pd.DataFrame, other: pd.DataFrame) -> Card:
    """Which series changed their models between two frames.CHOICES, by move, the commonest first."""
    mine, theirs = _sets(one), _sets(other)
    both = pd.DataFrame({"from": mine, "to": theirs}).dropna()
    changed = both[both["from"] != both["to"]]
    found = [(str(a), str(b), list(rows.index)) for (a, b), rows in changed.groupby(["from", "to"])]
    moves = sorted(found, key=lambda move: (-len(move[2]), *move[:2]))
    return {
        "shared": len(both),
        "changed": len(changed),
        "only_a": len(mine.index.difference(theirs.index)),
        "only_b": len(theirs.index.difference(mine.index)),
        "moves": [{"from": a, "to": b, "series": len(ids), "such_as": ids[:LISTED]} for a, b, ids in moves],
    }


def _sets(choices: pd.DataFrame) -> pd.Series:
    """What publishes for each series: a name, or names joined by `` + ``."""
    return choices.sort_values(["unique_id", "model"]).groupby("unique_id")["model"].agg(" + ".join)


def changed_calibration(one: pd.DataFrame, other: pd.DataFrame) -> Card:
    """How the offsets of two frames.CALIBRATION differ: mean offset by node and quantile, over the cells both have.

    Offsets to another power of the forecast are other figures: such cells are not compared.
    """
    key = ["node", "group", "h_from", "q", "power"]
    both = one.merge(other, on=key, suffixes=("_a", "_b"))
    means = both.groupby(["node", "q"], as_index=False)[["offset_a", "offset_b"]].mean()
    differ = (both["offset_a"] - both["offset_b"]).abs() > 1e-9
    return {
        "cells": len(both),
        "share": _plain(differ.mean()) if len(both) else None,
        "nodes": [
            {"node": node, "q": _plain(q), "a": _plain(a), "b": _plain(b)}
            for node, q, a, b in means.itertuples(index=False)
        ],
    }
