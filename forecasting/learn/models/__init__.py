"""The catalogue of forecasters: a name, its family and its rules. It imports no forecasting library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from forecasting.errors import UnknownModelError

__all__ = ["CATALOGUE", "LADDER", "Recipe", "members", "order", "recipe"]


@dataclass(frozen=True)
class Recipe:
    """One forecaster of the catalogue."""

    name: str
    family: Literal["statistical", "ml"]
    seasons: int
    """Least history in seasons; below it the model is ``short``. 0: one observation is enough."""
    newest: int | None = None
    """Newest periods it is fitted on; None: all. Only the costly ones forget."""

    def min_length(self, season_length: int) -> int:
        """Least history in periods."""
        return max(self.seasons * season_length, 1)


CATALOGUE: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("seasonal_naive", "statistical", 1),
        Recipe("weekday_mean", "statistical", 0),
        Recipe("naive", "statistical", 0),
        Recipe("recent_mean", "statistical", 0),
        Recipe("croston", "statistical", 2),
        Recipe("tsb", "statistical", 2),
        Recipe("adida", "statistical", 2),
        Recipe("imapa", "statistical", 2),
        Recipe("auto_ets", "statistical", 3, newest=365),
        Recipe("dynamic_theta", "statistical", 3, newest=365),
        Recipe("lightgbm", "ml", 0),
    )
}
"""Every forecaster by name, in order of cost: on a tie the earlier, cheaper one is chosen."""

LADDER = ("seasonal_naive", "weekday_mean")
"""Cheap models that are always fitted, since the fallback ladder stands on them."""


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UnknownModelError: There is none.
    """
    if name not in CATALOGUE:
        raise UnknownModelError(name, list(CATALOGUE))
    return CATALOGUE[name]


def order(names: list[str]) -> list[str]:
    """The names in order of cost."""
    return sorted((recipe(name).name for name in set(names)), key=list(CATALOGUE).index)


def members(pool: tuple[str, ...], family: Literal["statistical", "ml"]) -> list[str]:
    """The pool's models of one family, in order of cost."""
    return [name for name in order(list(pool)) if CATALOGUE[name].family == family]
