"""Two forecasts on the same rows: the gain at each origin, and whether so few origins can prove it.

The replicate is the origin. Rows, steps and series of one origin share its weather, its promotions and its fit, so they
are averaged before anything is tested: thousands of rows are no more evidence than the origins they come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from forecasting.frames import BACKTEST
from forecasting.learn.selection import rmsse_by_series

__all__ = ["Comparison", "compare", "p_value", "paired", "replicates"]

_LEAST = 1e-9
"""Mean RMSSE below this counts as this: the ratio of two perfect forecasts is 1."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Mean RMSSE of both over the same series at each origin, and what follows from it."""

    by_origin: pd.DataFrame
    """cutoff (index, ascending); challenger, champion: mean RMSSE; series; log_ratio: of champion over challenger,
    positive = the challenger is better; gain; tested: whether it is a replicate of the test."""
    by_series: pd.DataFrame
    """unique_id (index); challenger, champion: mean RMSSE over the origins."""

    @property
    def gain(self) -> float | None:
        """Relative fall of RMSSE, 0.05 = 5 % lower: one less the geometric mean of the ratios; None without origins."""
        return float(-np.expm1(-self.by_origin["log_ratio"].mean())) if len(self.by_origin) else None

    @property
    def values(self) -> Floats:
        """Log ratios of the replicates."""
        return np.asarray(self.by_origin.loc[self.by_origin["tested"], "log_ratio"], dtype=np.float64)

    def p_value(self, above: float) -> float | None:
        """One-sided p value that the gain exceeds ``above``; None without replicates."""
        return p_value(self.values, -float(np.log1p(-above)))


def paired(challenger: pd.DataFrame, champion: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both frames on the rows where both made a forecast, in one order."""
    key = list(BACKTEST.key)
    both = challenger.dropna(subset="y_hat")[key].merge(champion.dropna(subset="y_hat")[key], on=key).sort_values(key)
    return both.merge(challenger, on=key, how="left"), both.merge(champion, on=key, how="left")


def compare(challenger: pd.DataFrame, champion: pd.DataFrame) -> Comparison:
    """Compare two paired score frames with the column ``y_hat``."""
    own = rmsse_by_series(challenger, ["y_hat"])["y_hat"]
    other = rmsse_by_series(champion, ["y_hat"])["y_hat"]
    both = pd.DataFrame({"challenger": own, "champion": other}).dropna()
    by_origin = both.groupby("cutoff").mean().assign(series=both.groupby("cutoff").size())
    ratio = by_origin["champion"].clip(lower=_LEAST) / by_origin["challenger"].clip(lower=_LEAST)
    by_origin["log_ratio"] = np.log(ratio)
    ends = challenger.groupby("cutoff")["ds"].max().reindex(by_origin.index)
    by_origin["gain"] = -np.expm1(-by_origin["log_ratio"])
    by_origin["tested"] = replicates(by_origin.index.to_numpy(), ends.to_numpy())
    return Comparison(by_origin, both.groupby("unique_id").mean())


def replicates(cutoffs: npt.NDArray[np.datetime64], ends: npt.NDArray[np.datetime64]) -> npt.NDArray[np.bool_]:
    """Which origins count as replicates: the newest, and each older one whose horizon ends before the next counted one.

    Where origins lie closer than the horizon (``backtest.step``), neighbours forecast the same days with almost the
    same fit. Any way of gluing them into adjacent blocks leaves days in two blocks, so the origins between are left out
    of the test; they stay in the gain and in the guard rails.

    Args:
        cutoffs: Ascending.
        ends: Last day of each origin's horizon.
    """
    counted = np.zeros(len(cutoffs), dtype=np.bool_)
    after = None
    for at in range(len(cutoffs) - 1, -1, -1):
        if after is None or ends[at] <= after:
            counted[at], after = True, cutoffs[at]
    return counted


def p_value(values: Floats, above: float) -> float | None:
    """One-sided p value that the mean of ``values`` exceeds ``above``, from their signs; None without values.

    Were challenger and champion equally good, each origin's log ratio would as well have had the other sign. The p
    value is the share of all assignments of signs whose mean is at least the observed one: Canay, Romano and Shaikh
    (2017), "Randomization tests under an approximate symmetry assumption", Econometrica 85(3), 1013-1030,
    doi:10.3982/ECTA13081. With few blocks it holds any level whatever the blocks' variances, if they are independent
    and nearly symmetric about zero; n of them can show no less than 2 to the power of -n.

    Why not Student's t on the same few means (Ibragimov and Müller 2010, doi:10.1198/jbes.2009.08046): it holds its
    level too, but one origin with a large gain widens its spread until six gains out of six prove nothing. Why not
    Diebold-Mariano: over the rows of a few long-horizon origins its long-run variance must be estimated from
    autocovariances that so short a sample does not hold, so it finds proof too often; the correction of Harvey,
    Leybourne and Newbold (1997), doi:10.1016/S0169-2070(96)00719-4, rescales the statistic and does not mend the
    variance. Why not a bootstrap of the origins: resampling six of them gives tails that are too light.

    >>> p_value(np.array([0.05, 0.04, 0.06, 0.03]), 0.0)  # 1 of 16
    0.0625
    >>> p_value(np.array([0.05, 0.04, 0.06, -0.03]), 0.0)
    0.125
    """
    if not len(values):
        return None
    distances = values - above
    means = _signs(len(values)) @ distances
    # a sum that equals the observed one but for rounding is one of those that count
    least = distances.sum() - 1e-12 * np.abs(distances).sum()
    return float(np.mean(means >= least))


@lru_cache(maxsize=4)
def _signs(n: int) -> Floats:
    """Every assignment of signs, the observed one first; of more than 2 ** 16, as many drawn by a fixed seed."""
    if n <= _EXACT:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        bits = np.random.default_rng(0).integers(0, 2, (2**_EXACT, n))
        bits[0] = 0
    return 1.0 - 2.0 * bits.astype(np.float64)


_EXACT = 16
"""Most replicates whose assignments of signs are all counted."""
