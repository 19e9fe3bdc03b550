"""Each judged origin gets its intervals from the windows just before it, by a night's functions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.m5 import delivery, tails, world
from forecasting.learn.models import ml
from tests.learn.learn_cases import build_customer
from tests.learn.test_selection import score_frame

IDS = tuple(f"{brand}/{n}" for brand in "AB" for n in range(5))
WINDOWS, JUDGED = 3, 2


@pytest.fixture
def customer(monkeypatch):
    monkeypatch.setattr(tails, "NODES", ("brand", "total"))
    one = build_customer()
    return one.model_copy(update={"backtest": one.backtest.model_copy(update={"windows": WINDOWS, "select": 1})})


@pytest.fixture(scope="module")
def scores():
    return score_frame(IDS, origins=WINDOWS + JUDGED, skill={"lightgbm": 2.0})


def test_every_fit_has_its_whole_history_and_more_are_refused():
    declared = delivery.customer()
    days = tails.origins(declared)
    assert (days[0], days[-1], len(days)) == (1465, 1913, 13 + declared.backtest.windows)
    assert days[0] >= declared.history_days > days[0] - world.HORIZON
    assert tails.origins(declared, 1) == days[-1 - declared.backtest.windows :]
    assert set(np.diff(days)) == {world.HORIZON}
    for judged in (0, 14):
        with pytest.raises(ValueError, match=f"--judged {judged}: expected 1 to 13"):
            tails.origins(declared, judged)


def test_an_origin_is_judged_by_the_windows_just_before_it(scores, customer):
    cutoffs = sorted(scores["cutoff"].unique())
    rows = tails.upper(scores, customer)
    assert sorted(rows["cutoff"].unique()) == cutoffs[WINDOWS:]
    assert set(rows["node"]) == {"brand", "total"}

    def newest_without(at):
        other = scores.assign(lightgbm=scores["lightgbm"].where(scores["cutoff"] != cutoffs[at], 50.0))
        made = tails.upper(other, customer)
        return made[made["cutoff"] == cutoffs[-1]].reset_index(drop=True)

    newest = rows[rows["cutoff"] == cutoffs[-1]].reset_index(drop=True)
    pd.testing.assert_frame_equal(newest_without(0), newest)  # older than the windows
    assert not newest_without(1)["q10"].equals(newest["q10"])


def test_shares_are_of_all_rows_and_the_bias_is_the_totals(scores, customer):
    rows = tails.upper(scores, customer)
    day = (rows["cutoff"].max() - pd.Timestamp(world.FIRST_DAY)).days + 1
    found = tails.figures(rows)
    assert list(found)[-2:] == [str(day), tails.TOGETHER]
    last = rows[rows["cutoff"] == rows["cutoff"].max()]
    assert found[str(day)]["below_q10"] == pytest.approx(sum(last["y"] < last["q10"]) / len(last))
    assert found[tails.TOGETHER]["above_q90"] == pytest.approx(sum(rows["y"] > rows["q90"]) / len(rows))
    total = last[last["node"] == "total"]
    assert found[str(day)]["bias"] == pytest.approx(total["y_hat"].sum() / total["y"].sum() - 1)
    table = tails.markdown(found).splitlines()
    assert table[-2].startswith(f"| {day} | ")
    assert table[-1].startswith(f"| **{JUDGED} together** | ")
    assert len(table) == 2 + JUDGED + 1


def test_the_fits_are_those_of_a_nights_backtest(made, tmp_path):
    declared = delivery.customer()
    panel = delivery.panel(declared, delivery.deliver(made, tmp_path), 84, tmp_path, lambda _: None)
    told: list[str] = []
    found = tails.fitted(panel, declared, [28, 56], 1, told.append)
    night = ml.fit(panel, declared, world.day(84), [world.day(28), world.day(56)], 1)
    pd.testing.assert_frame_equal(found, night.scores)
    assert told == ["origin 28, 1 of 2", "origin 56, 2 of 2"]
