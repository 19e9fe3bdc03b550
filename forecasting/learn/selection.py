"""Which models publish for each series, and how accurate that is. Scores are RMSSE: unitless, lower is better."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from forecasting.config import BOTTOM, METRICS, Customer
from forecasting.frames import BACKTEST, CHOICES, empty, quantile_column
from forecasting.learn import intervals, reconciliation
from forecasting.learn.backtest import columns
from forecasting.learn.combination import BLEND, combine, combine_scores, pool_best, trusted
from forecasting.learn.models import LADDER, order

__all__ = [
    "BLEND",
    "Rolled",
    "accuracy",
    "choose",
    "combine",
    "combine_scores",
    "pool_best",
    "rmsse_by_series",
    "rolled",
    "rolled_nodes",
    "rolling",
    "score_by_series",
]

log = logging.getLogger(__name__)

PRIOR_ORIGINS = 6.0
"""The pool's ranking counts like so many origins of the series' own."""
BLENDED = 2
"""Most models that are blended."""
CLOSE = 0.05
"""A model joins the blend when its score is within this share of the best one's."""


def rmsse_by_series(scores: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """RMSSE of each model per (unique_id, cutoff), over scored days; NaN where undefined or where a forecast lacks.

    RMSSE = sqrt(mean((y − y_hat)²) / scale); Makridakis et al. (2022), doi:10.1016/j.ijforecast.2021.11.013.
    """
    seen = scores[scores["scored"]]
    key = [seen["unique_id"].to_numpy(), seen["cutoff"].to_numpy()]
    squared = seen[list(names)].sub(seen["y"], axis=0) ** 2
    ratio = squared.div(seen["scale"], axis=0)
    lacking = ratio.isna().groupby(key, sort=True).any()
    rmsse = ratio.groupby(key, sort=True).mean().pow(0.5).mask(lacking)
    rmsse.index.names = ["unique_id", "cutoff"]
    return rmsse


def score_by_series(scores: pd.DataFrame, names: Sequence[str], metric: str) -> pd.DataFrame:
    """A customer's ``metric`` of each model per (unique_id, cutoff), over scored days; lower is better, unitless.

    Args:
        scores: frames.BACKTEST with one column per model.
        names: The models.
        metric: ``rmsse``: :func:`rmsse_by_series`. ``wape``: sum |y − y_hat| / sum y. ``mape``: mean of |y − y_hat| / y
            over the days that sold something; it has no value on the others.

    Returns:
        NaN where undefined, such as a series that sold nothing, or where a forecast lacks.

    >>> frame = pd.DataFrame({"unique_id": "a", "cutoff": 0, "y": [1.0, 4.0, 0.0], "scored": True})
    >>> frame["ets"] = [2.0, 3.0, 1.0]
    >>> [float(score_by_series(frame, ["ets"], metric)["ets"].iloc[0]) for metric in ("wape", "mape")]
    [0.6, 0.625]
    """
    if metric == "rmsse":
        return rmsse_by_series(scores, names)
    seen = scores[scores["scored"]]
    key = [seen["unique_id"].to_numpy(), seen["cutoff"].to_numpy()]
    absolute = seen[list(names)].sub(seen["y"], axis=0).abs()
    lacking = absolute.isna().groupby(key, sort=True).any()
    if metric == "wape":
        sold = seen["y"].groupby(key, sort=True).sum()
        score = absolute.groupby(key, sort=True).sum().div(sold.where(sold > 0), axis=0)
    elif metric == "mape":
        score = absolute.div(seen["y"].where(seen["y"] > 0), axis=0).groupby(key, sort=True).mean()
    else:
        raise ValueError(f"metric {metric!r}: expected one of {', '.join(METRICS)}")
    score = score.mask(lacking)
    score.index.names = ["unique_id", "cutoff"]
    return score


def choose(scores: pd.DataFrame, customer: Customer, *, incumbent: pd.DataFrame | None = None) -> pd.DataFrame:
    """Choose, or blend, the models that publish for each series.

    A series' mean score under the customer's ``metric``, relative to its mean over models, is shrunk towards the same
    figure of the whole pool: few origins overfit. The best model is taken, with those close behind it as equal parts of
    a blend. On a tie the cheaper model wins (catalogue order). A series without scores gets the global model where
    enough others do (``combination.trusted``), else what is best for the pool.

    Args:
        scores: frames.BACKTEST with one column per model.
        customer: Gives the pool and the metric.
        incumbent: frames.CHOICES of the champion: a series that has no scores keeps what it had.

    Returns:
        frames.CHOICES for every series in ``scores`` (and in ``incumbent``), sorted.
    """
    names = order([c for c in columns(scores) if c in customer.pool])
    if not names or not len(scores):
        return incumbent if incumbent is not None else empty(CHOICES)
    relative = _relative(scores, names, customer.metric)
    pooled = relative.groupby("cutoff").mean().mean() if len(relative) else pd.Series(1.0, index=names)
    ids = pd.Index(sorted(scores["unique_id"].unique()), dtype=object)
    shrunk = _shrunk(relative, pooled, names)
    bare = ids.difference(shrunk.index, sort=True)
    kept = empty(CHOICES) if incumbent is None else incumbent[~incumbent["unique_id"].isin(set(shrunk.index))]
    bare = bare.difference(pd.Index(kept["unique_id"]), sort=True)
    chosen = _parts(shrunk)
    if len(bare) and trusted(chosen):
        chosen = pool_best(chosen, list(bare))
    elif len(bare) and pooled.notna().any():
        chosen = pd.concat([chosen, _parts(pd.DataFrame([pooled] * len(bare), index=bare))])
    choices = pd.concat([frame for frame in (chosen, kept[list(CHOICES.columns)]) if len(frame)] or [kept])
    return CHOICES.check(choices.sort_values(["unique_id", "model"], ignore_index=True))


def _relative(scores: pd.DataFrame, names: list[str], metric: str) -> pd.DataFrame:
    """The metric divided by the series' mean over models and origins, so that every series has one voice."""
    score = score_by_series(scores, names, metric).dropna(how="all")
    level = score.mean(axis=1).groupby("unique_id").transform("mean")
    return score.div(level.where(level > 0), axis=0).dropna(how="all")


def _shrunk(relative: pd.DataFrame, pooled: pd.Series, names: list[str]) -> pd.DataFrame:
    """Each series' means drawn towards the pool's; NaN for a model without a score on the series."""
    by_series = relative.groupby("unique_id")[names]
    mean, count = by_series.mean(), by_series.count()
    return ((count * mean + PRIOR_ORIGINS * pooled) / (count + PRIOR_ORIGINS)).where(count > 0)


def _parts(shrunk: pd.DataFrame) -> pd.DataFrame:
    """The best model and those close behind, in equal parts. Rounded first, so that a tie is a tie on every machine."""
    score = np.where(shrunk.isna(), np.inf, shrunk.to_numpy(dtype=np.float64).round(9))
    ranked = np.argsort(score, axis=1, kind="stable")[:, :BLENDED]
    found = np.take_along_axis(score, ranked, axis=1)
    close = np.isfinite(found) & (found <= found[:, :1] * (1 + CLOSE))
    row, column = np.nonzero(close)
    return pd.DataFrame(
        {
            "unique_id": shrunk.index.to_numpy(dtype=object)[row],
            "model": shrunk.columns.to_numpy(dtype=object)[ranked[row, column]],
            "weight": 1.0 / close.sum(axis=1)[row],
        }
    )


def accuracy(frame: pd.DataFrame) -> dict[str, float]:
    """Scores of one forecast over all its scored rows with a forecast.

    Args:
        frame: A score frame with column ``y_hat`` and perhaps ``q50``.

    Returns:
        rmsse: mean over (series, origin); wape: sum |q50 − y| / sum |y|, on ``q50`` where given (absolute errors are
        the median's business); wape_mean: the same of y_hat; bias: sum(y_hat − y) / sum |y|, positive = over-forecast;
        rows: how many were scored.

    >>> frame = pd.DataFrame({"unique_id": "a", "cutoff": 0, "y": [1.0, 3.0], "y_hat": [2.0, 3.0], "scale": 2.0,
    ...     "scored": True})
    >>> {name: round(value, 3) for name, value in accuracy(frame).items()}
    {'rmsse': 0.5, 'wape': 0.25, 'wape_mean': 0.25, 'bias': 0.25, 'rows': 2}
    """
    seen = frame[frame["scored"] & frame["y_hat"].notna()]
    volume = float(seen["y"].abs().sum())
    error = seen["y_hat"] - seen["y"]
    median = (seen["q50"] if "q50" in seen else seen["y_hat"]) - seen["y"]
    return {
        "rmsse": float(rmsse_by_series(frame, ["y_hat"])["y_hat"].mean()),
        "wape": float(median.abs().sum()) / volume if volume else np.nan,
        "wape_mean": float(error.abs().sum()) / volume if volume else np.nan,
        "bias": float(error.sum()) / volume if volume else np.nan,
        "rows": len(seen),
    }


def rolling(scores: pd.DataFrame, customer: Customer, judged: pd.DataFrame | None = None) -> pd.DataFrame:
    """How good the *procedure* is: choices from earlier origins only, judged on the next one.

    Args:
        scores: frames.BACKTEST with one column per model.
        customer: Gives the pool and the references.
        judged: ``rolled`` of the two, where it is at hand.

    Returns:
        One row per judged origin: origin, series, rows; ``rmsse_<name>`` and ``wape_<name>`` for the selection, the
        customer's references and the ladder's models; wape_selection is of q50, wape_mean_selection of y_hat.
    """
    rows = []
    judged = rolled(scores, customer) if judged is None else judged
    for cutoff, one in judged.groupby("cutoff", sort=True):
        now = scores[scores["cutoff"] == cutoff]
        rows.append({"origin": cutoff, "series": one["unique_id"].nunique(), **_judge(now, one, customer)})
    return pd.DataFrame(rows)


class Rolled(NamedTuple):
    """What the procedure would have published at each judged origin, had it known only the origins before it."""

    bottom: pd.DataFrame
    """frames.BACKTEST rows in the order of the score frame, with y_hat and the quantiles that are published."""
    upper: pd.DataFrame
    """node, unique_id, cutoff, h, y, y_hat, quantiles of the aggregates: sums over the series scored on that day."""


def rolled(scores: pd.DataFrame, customer: Customer) -> pd.DataFrame:
    """What the procedure would have published at each judged origin, had it known only the origins before it.

    Returns:
        frames.BACKTEST rows of the origins after the first ``backtest.select``, with y_hat and the quantiles that are
        published.
    """
    return rolled_nodes(scores, customer, nodes=()).bottom


def rolled_nodes(scores: pd.DataFrame, customer: Customer, nodes: Sequence[str] | None = None) -> Rolled:
    """``rolled`` of the series and of the aggregates above them (``nodes``; None: all that the customer declares)."""
    members = reconciliation.membership(list(scores["unique_id"].unique()), customer)
    members = members if nodes is None else members[members["node"].isin(nodes)]
    ended = scores.groupby("cutoff")["ds"].max()  # an origin is known once its whole horizon has come
    made = ["y_hat", *map(quantile_column, customer.quantiles)]
    bottom = [scores.head(0).assign(**dict.fromkeys(made, np.nan))]
    upper = [pd.DataFrame(columns=["node", "unique_id", "cutoff", "h", "y", *made])]
    for cutoff in sorted(ended.index):
        before = scores[scores["cutoff"].isin(ended.index[ended <= cutoff])]
        if before["cutoff"].nunique() >= customer.backtest.select:
            now = scores[scores["cutoff"] == cutoff]
            one = _published_then(before, now, customer, nodes, members)
            bottom.append(one.bottom)
            upper.append(one.upper.assign(cutoff=cutoff)[list(upper[0].columns)])
    return Rolled(
        pd.concat(bottom[1:] or bottom, ignore_index=True)[[*BACKTEST.columns, *made]],
        pd.concat(upper[1:] or upper, ignore_index=True),
    )


def _published_then(
    before: pd.DataFrame, now: pd.DataFrame, customer: Customer, nodes: Sequence[str] | None, members: pd.DataFrame
) -> Rolled:
    choices = choose(before, customer)
    calibration = intervals.calibrate(before, choices, customer, nodes)
    judged = combine_scores(now, pool_best(choices, list(now["unique_id"].unique()))).reset_index(drop=True)
    scale = judged.groupby("unique_id")["scale"].first()
    made = judged.dropna(subset="y_hat").assign(node=BOTTOM)
    sums = _sums(made, members)
    columns = ["node", "unique_id", "h", "y_hat"]
    every = pd.concat([made[columns], sums[columns]], ignore_index=True) if len(sums) else made[columns]
    quantiles = intervals.apply(every, calibration, scale, customer)
    bottom = quantiles[quantiles["node"] == BOTTOM].drop(columns=["node", "y_hat"])
    upper = quantiles[quantiles["node"] != BOTTOM].drop(columns="y_hat")
    return Rolled(
        judged.merge(bottom, on=["unique_id", "h"], how="left"),
        sums.merge(upper, on=["node", "unique_id", "h"], how="left"),
    )


def _sums(made: pd.DataFrame, members: pd.DataFrame) -> pd.DataFrame:
    """node, unique_id, h, y, y_hat of the aggregates at one origin, over the series scored on that day."""
    seen = made.loc[made["scored"], ["unique_id", "h", "y", "y_hat"]].merge(members, on="unique_id")
    sums = seen.groupby(["node", "parent", "h"], sort=True, as_index=False)[["y", "y_hat"]].sum()
    return sums.rename(columns={"parent": "unique_id"})


def _judge(now: pd.DataFrame, judged: pd.DataFrame, customer: Customer) -> dict[str, float]:
    own = accuracy(judged)
    row = {
        "rows": own["rows"],
        "rmsse_selection": own["rmsse"],
        "wape_selection": own["wape"],
        "wape_mean_selection": own["wape_mean"],
        "bias_selection": own["bias"],
    }
    for name in order([*customer.references, *LADDER]):
        if name in now:
            peer = accuracy(now[list(BACKTEST.columns)].assign(y_hat=now[name]))
            row |= {f"rmsse_{name}": peer["rmsse"], f"wape_{name}": peer["wape"]}
    return row
