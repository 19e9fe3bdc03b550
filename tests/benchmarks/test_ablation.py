"""That what the ablation leaves out is there to be left out."""

from __future__ import annotations

import re

import numpy as np
import pytest

from benchmarks import ablation
from forecasting.learn import features, grid
from tests.learn.learn_cases import CUTOFF, build_customer, build_panel


@pytest.fixture(scope="module")
def history():
    """Of a customer that has every kind of feature: a plan of each series' own, groups, keys, a season and a year."""
    customer = build_customer(absent="zero", history_days=2000)
    panel = build_panel(days=900)
    return features.lay_out(grid.regularise(panel, customer, CUTOFF), panel, customer, CUTOFF)


@pytest.mark.parametrize("kind", sorted(ablation.KINDS))
def test_each_kind_means_features_that_are_made(history, kind):
    """A feature that is renamed would leave its kind's row at +0.0 %, as if it were worth nothing."""
    plan = features.read_plan(history)
    names = features.Features(history, plan).names
    meant = {name for name in names if re.fullmatch(ablation.KINDS[kind], name)}
    assert meant
    with ablation.without(ablation.KINDS[kind]):
        fewer = features.Features(history, plan)
        row = fewer.make(history.periods - 1, np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64))
    assert set(names) - set(fewer.names) == meant
    assert row.table.shape == (1, len(fewer.names))
    assert features.Features(history, plan).names == names


def test_every_part_of_a_kind_means_something(history):
    names = features.Features(history, features.read_plan(history)).names
    parts = [part for pattern in ablation.KINDS.values() for part in re.split(r"\|(?![^(]*\))", pattern)]
    weekly = {"mean_2"}  # a week's newest window
    assert [part for part in parts if not any(re.fullmatch(part, name) for name in names)] == sorted(weekly)
