"""What an aggregate's interval is judged by, and that a variant leaves nothing behind."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import spread
from forecasting.learn import intervals, selection
from tests.learn.learn_cases import build_customer
from tests.learn.test_selection import score_frame

IDS = tuple(f"{brand}/{n}" for brand in "AB" for n in range(5))


@pytest.fixture(scope="module")
def scores():
    return score_frame(IDS, origins=2 * spread.ORIGINS, skill={"lightgbm": 2.0})


def test_an_aggregate_counts_by_its_own_sales_and_only_the_newest_origins(scores):
    customer = build_customer()
    upper = selection.rolled_nodes(scores, customer).upper
    newest = sorted(upper["cutoff"].unique())[-spread.ORIGINS :]
    got = spread.judged(scores, customer)
    assert set(got) == {"brand", "total"}
    per_brand, below, rows = [], 0, 0
    for uid in ("A", "B"):
        losses, sales = [], []
        for row in upper[(upper["unique_id"] == uid) & upper["cutoff"].isin(newest)].itertuples():
            gaps = [(row.y - getattr(row, name), q) for name, q in (("q10", 0.1), ("q50", 0.5), ("q90", 0.9))]
            losses.append(np.mean([max(q * gap, (q - 1) * gap) for gap, q in gaps]))
            sales.append(row.y)
            below, rows = below + (row.y < row.q10), rows + 1
        per_brand.append(np.mean(losses) / np.mean(sales))
    assert got["brand"]["pinball"] == pytest.approx(np.mean(per_brand))
    assert got["brand"]["below_q10"] == pytest.approx(below / rows)


def test_a_variant_changes_the_intervals_and_nothing_afterwards(scores):
    customer, before = build_customer(), (intervals._UPPER_POWER, intervals._LENT)
    plain = spread.judged(scores, customer)
    with spread.spread(power=1.0, lent=1.0):
        assert spread.judged(scores, customer) != plain
    after = intervals._UPPER_POWER, intervals._LENT
    assert after == before == spread.VARIANTS["as it is"]
