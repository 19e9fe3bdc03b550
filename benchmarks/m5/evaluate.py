"""M5's scores: WRMSSE by level, MASE and WAPE of the median, scaled pinball, shares beyond each quantile, bias.

All of it on matrices with one row per series or node and one column per day ahead. Definitions: Makridakis,
Spiliotis and Assimakopoulos (2022), doi:10.1016/j.ijforecast.2021.11.013 (accuracy) and
doi:10.1016/j.ijforecast.2021.10.009 (uncertainty).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from benchmarks.m5.world import HORIZON, KEYS, World
from forecasting.config import BOTTOM, TOTAL
from forecasting.frames import join_id, quantile_column

__all__ = ["LEVELS", "SNAIVE", "Forecast", "Judge", "Level", "from_published", "levels", "matrix", "seasonal_naive"]

Floats = npt.NDArray[np.float64]

LEVELS: dict[str, tuple[str, ...]] = {
    TOTAL: (),
    "state": ("state",),
    "store": ("store",),
    "category": ("category",),
    "department": ("department",),
    "state_category": ("state", "category"),
    "state_department": ("state", "department"),
    "store_category": ("store", "category"),
    "store_department": ("store", "department"),
    "item": ("item",),
    "state_item": ("state", "item"),
    BOTTOM: KEYS,
}
"""The twelve levels in the competition's order: node of the customer's hierarchy → the keys it groups by."""
SNAIVE = {1857: 0.8889, 1885: 0.9228, 1913: 0.8697}
"""WRMSSE of seasonal naive (7) on the whole data at each origin: what a correct evaluator gives to four decimals."""
_CHUNK = 2048
"""Series whose history is differenced at once, to bound memory."""


@dataclass(frozen=True)
class Level:
    """One level of aggregation."""

    node: str
    ids: npt.NDArray[np.object_]
    """The nodes' unique_id, ascending."""
    adds: sparse.csr_matrix
    """Ones and zeros, shape (nodes, series)."""

    def sums(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Sums over each node's series; ``values`` has shape (series, columns)."""
        return values if self.node == BOTTOM else np.asarray(self.adds @ values)


def levels(series: pd.DataFrame) -> list[Level]:
    """The twelve levels of some series, in the competition's order."""
    made = []
    for node, keys in LEVELS.items():
        ids = [join_id(row) for row in series[list(keys)].itertuples(index=False)] if keys else [TOTAL] * len(series)
        names, code = np.unique(np.array(ids, dtype=object), return_inverse=True)
        ones = np.ones(len(series), dtype=np.float32)
        adds = sparse.csr_matrix((ones, (code, np.arange(len(series)))), shape=(len(names), len(series)))
        made.append(Level(node, names, adds))
    return made


@dataclass(frozen=True)
class Forecast:
    """What is judged: point forecasts of the series, quantiles of the nodes of any level."""

    y_hat: Floats
    """Units, shape (series, 28); upper nodes are its sums."""
    quantiles: Mapping[str, Mapping[float, Floats]] = field(default_factory=dict)
    """Node → q → units, shape (nodes, 28)."""


@dataclass
class Judge:
    """Judges forecasts of a world at one origin."""

    world: World
    origin: int
    """Last training day."""

    @cached_property
    def levels(self) -> list[Level]:
        return levels(self.world.series)

    @property
    def informed(self) -> bool:
        """Whether the 28 days after the origin are at hand."""
        return self.origin + HORIZON <= self.world.days

    @cached_property
    def _history(self) -> npt.NDArray[np.float32]:
        return self.world.sales[:, : self.origin]

    @cached_property
    def actual(self) -> dict[str, Floats]:
        """Node → what came, shape (nodes, 28).

        Raises:
            ValueError: It is not at hand.
        """
        if not self.informed:
            raise ValueError(f"origin {self.origin}: days to {self.origin + HORIZON} are not at hand")
        came = self.world.sales[:, self.origin : self.origin + HORIZON].astype(np.float64)
        return {level.node: level.sums(came) for level in self.levels}

    @cached_property
    def weights(self) -> dict[str, Floats]:
        """Node → share of the dollars of the last 28 training days; sums to 1 on each level."""
        dollars = self.world.dollars(self.origin)
        by_level = {level.node: np.asarray(level.sums(dollars[:, None]))[:, 0] for level in self.levels}
        return {node: values / values.sum() for node, values in by_level.items()}

    @cached_property
    def _scales(self) -> dict[str, tuple[Floats, Floats]]:
        return {level.node: _one_step(level.sums(self._history)) for level in self.levels}

    @cached_property
    def _seasonal(self) -> Floats:
        return _season_step(self._history, 7)

    def wrmsse(self, y_hat: Floats) -> dict[str, float]:
        """WRMSSE by level, and ``mean`` over the twelve; unitless, lower is better."""
        by_level = {}
        for level in self.levels:
            squared = ((self.actual[level.node] - level.sums(y_hat)) ** 2).mean(axis=1)
            rmsse = np.sqrt(_ratio(squared, self._scales[level.node][0]))
            by_level[level.node] = float(rmsse @ self.weights[level.node])
        return {**by_level, "mean": float(np.mean(list(by_level.values())))}

    def median(self, q50: Floats) -> dict[str, float]:
        """MASE, by the weekly naive error from the first sale on, and WAPE of medians at item and store."""
        error = np.abs(self.actual[BOTTOM] - q50)
        mase = _ratio(error.mean(axis=1), self._seasonal, np.nan)
        return {"mase": float(np.nanmean(mase)), "wape": float(error.sum() / self.actual[BOTTOM].sum())}

    def bias(self, y_hat: Floats) -> float:
        """Sum of forecasts over sum of sales, less 1; positive = over-forecast."""
        return float(y_hat.sum() / self.actual[BOTTOM].sum() - 1)

    def pinball(self, quantiles: Mapping[str, Mapping[float, Floats]]) -> dict[str, Any]:
        """Scaled pinball loss weighted by dollars (WSPL): ``mean`` over levels and quantiles, and by either."""
        table = pd.DataFrame({node: self._spl(node, by_q) for node, by_q in quantiles.items()})
        return {
            "mean": float(table.to_numpy().mean()),
            "by_level": {str(node): float(value) for node, value in table.mean(axis=0).items()},
            "by_quantile": {str(name): float(value) for name, value in table.mean(axis=1).items()},
        }

    def _spl(self, node: str, by_q: Mapping[float, Floats]) -> dict[str, float]:
        losses = {}
        for q, values in by_q.items():
            short = self.actual[node] - values
            loss = np.maximum(q * short, (q - 1) * short).mean(axis=1)
            losses[quantile_column(q)] = float(_ratio(loss, self._scales[node][1]) @ self.weights[node])
        return losses

    def tails(self, quantiles: Mapping[str, Mapping[float, Floats]]) -> dict[str, dict[str, dict[str, float]]]:
        """Node → quantile → share of actuals ``below`` and ``above`` it; equal is neither."""
        return {
            node: {
                quantile_column(q): {
                    "below": float((self.actual[node] < values).mean()),
                    "above": float((self.actual[node] > values).mean()),
                }
                for q, values in by_q.items()
            }
            for node, by_q in quantiles.items()
        }

    def figures(self, forecast: Forecast) -> dict[str, Any]:
        """Every score of a forecast; those of quantiles where it has some."""
        found: dict[str, Any] = {"wrmsse": self.wrmsse(forecast.y_hat), "bias": self.bias(forecast.y_hat)}
        medians = forecast.quantiles.get(BOTTOM, {}).get(0.5)
        found |= self.median(forecast.y_hat if medians is None else medians)
        if forecast.quantiles:
            found |= {"pinball": self.pinball(forecast.quantiles), "tails": self.tails(forecast.quantiles)}
        return found


def _ratio(above: Floats, below: Floats, otherwise: float = 0.0) -> Floats:
    """A quotient; ``otherwise`` where it is not defined, as for a series that never sold: its weight is 0."""
    return np.divide(above, below, out=np.full_like(above, otherwise), where=below > 0)


def _one_step(history: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Mean squared and mean absolute difference of successive days from the first sale on; NaN: none is defined."""
    squared, absolute = np.empty(len(history)), np.empty(len(history))
    for start in range(0, len(history), _CHUNK):
        part = history[start : start + _CHUNK].astype(np.float64)
        first = (part > 0).argmax(axis=1)
        opening = np.where(first > 0, part[np.arange(len(part)), first], 0.0)  # the step onto the first sale
        steps = np.diff(part, axis=1)
        count = np.where((part > 0).any(axis=1), part.shape[1] - 1 - first, 0)
        squared[start : start + _CHUNK] = _ratio((steps**2).sum(axis=1) - opening**2, count.astype(float), np.nan)
        absolute[start : start + _CHUNK] = _ratio(np.abs(steps).sum(axis=1) - opening, count.astype(float), np.nan)
    return squared, absolute


def _season_step(history: npt.NDArray[Any], season: int) -> Floats:
    """Mean absolute difference of days a season apart, both of them from the first sale on; NaN: none is defined."""
    means, days = np.empty(len(history)), np.arange(season, history.shape[1])
    for start in range(0, len(history), _CHUNK):
        part = history[start : start + _CHUNK].astype(np.float64)
        seen = days[None, :] - season >= (part > 0).argmax(axis=1)[:, None]
        steps = np.abs(part[:, season:] - part[:, :-season])
        means[start : start + _CHUNK] = _ratio((steps * seen).sum(axis=1), seen.sum(axis=1).astype(float), np.nan)
    return means


def seasonal_naive(world: World, origin: int) -> Floats:
    """The last seven training days again and again; shape (series, 28)."""
    return np.tile(world.sales[:, origin - 7 : origin].astype(np.float64), HORIZON // 7)


def from_published(rows: pd.DataFrame, made: Sequence[Level], quantiles: Sequence[float]) -> tuple[Forecast, float]:
    """A published set as matrices; a retired series, which has no rows, is a forecast of 0.

    Args:
        rows: frames.PUBLISHED.
        made: The levels, whose ``node`` names those of the set.
        quantiles: Those that it holds.

    Returns:
        The forecast, and the largest difference, in units, between an upper node's y_hat and the sum of its series.
    """
    by_node = dict(iter(rows.groupby("node", sort=False)))
    bottom = matrix(by_node[BOTTOM], made[-1], "y_hat")
    found = {
        level.node: {q: matrix(by_node[level.node], level, quantile_column(q)) for q in quantiles}
        for level in made
        if level.node in by_node
    }
    upper = [level for level in made if level.node in by_node and level.node != BOTTOM]
    off = [np.abs(matrix(by_node[level.node], level, "y_hat") - level.sums(bottom)).max() for level in upper]
    return Forecast(bottom, found), float(max(off, default=0.0))


def matrix(rows: pd.DataFrame, level: Level, column: str) -> Floats:
    """A column of some nodes' forecasts, shape (nodes, 28); 0 where a node has no row."""
    at = pd.Index(level.ids).get_indexer(pd.Index(rows["unique_id"]))
    if (at < 0).any():
        stray = rows["unique_id"].to_numpy()[at < 0][0]
        raise ValueError(f"{level.node}: the set holds {stray!r}, which is no node of this world")
    values = np.zeros((len(level.ids), HORIZON))
    values[at, rows["h"].to_numpy() - 1] = rows[column].to_numpy(dtype=np.float64)
    return values
