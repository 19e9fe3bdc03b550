"""Champion against challenger: kinds of versions, margins, guard rails."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from forecasting.config import Promotion
from forecasting.frames import BACKTEST
from forecasting.learn import promotion

from .test_selection import score_frame

RULES = Promotion()


def scores(error: float, origins: int = 6, ids=("A/1", "A/2", "B/1")) -> pd.DataFrame:
    """Errors of ± ``error``, so that RMSSE is error / 2 everywhere and bias is none."""
    frame = score_frame(ids, origins=origins)[list(BACKTEST.columns)]
    return frame.assign(y_hat=frame["y"] + np.where(frame["h"] % 2, error, -error))


@pytest.mark.parametrize(
    ("kind", "error", "promoted"),
    [
        ("PATCH", 1.0, True),
        ("PATCH", 1.019, True),
        ("PATCH", 1.021, False),
        ("MINOR", 0.979, True),
        ("MINOR", 0.981, False),
        ("MAJOR", 0.979, True),
        ("MAJOR", 1.0, False),
    ],
)
def test_a_patch_may_be_as_good_and_a_new_recipe_must_be_better(kind, error, promoted):
    got = promotion.decide(scores(error), scores(1.0), kind, RULES, compared="versions")
    assert got.promoted is promoted
    assert got.reason


def test_the_first_version_is_crowned():
    got = promotion.decide(scores(9.0), None, "FIRST", RULES, compared="versions")
    assert got.promoted
    assert got.reason == "first version"


@pytest.mark.parametrize("kind", ["PATCH", "MINOR", "MAJOR"])
def test_too_few_shared_origins_keep_the_champion(kind):
    champion = scores(1.0)
    champion = champion[champion["cutoff"] >= sorted(champion["cutoff"].unique())[4]]
    got = promotion.decide(scores(0.1), champion, kind, RULES, compared="versions")
    assert not got.promoted
    assert "2 shared origins, 3 needed" in got.reason


def test_nothing_shared_keeps_the_champion():
    other = scores(1.0, ids=("Q/1",))
    assert not promotion.decide(scores(0.1), other, "MAJOR", RULES, compared="versions").promoted


def test_bias_is_a_guard_rail():
    champion, challenger = scores(9.0), scores(1.0)
    challenger["y_hat"] = challenger["y"] + 4.0  # better than ± 9, and always too much
    got = promotion.decide(challenger, champion, "MINOR", RULES, compared="versions")
    assert not got.promoted
    assert "bias" in got.reason


def test_a_gain_that_makes_many_series_clearly_worse_is_refused():
    ids = tuple(f"A/{n}" for n in range(10))
    champion, challenger = scores(1.0, ids=ids), scores(1.0, ids=ids)
    better = challenger["unique_id"].isin(ids[:5])
    sign = np.where(challenger["h"] % 2, 1.0, -1.0)
    challenger["y_hat"] = challenger["y"] + sign * np.where(better, 0.1, 1.3)
    got = promotion.decide(challenger, champion, "MINOR", RULES, compared="versions")
    assert not got.promoted
    assert "50% of series clearly worse" in got.reason


def test_only_rows_both_have_are_compared():
    champion, challenger = scores(1.0), scores(0.9)
    champion.loc[champion["unique_id"] == "B/1", "y_hat"] = np.nan
    got = promotion.decide(challenger, champion, "MINOR", RULES, compared="recipes")
    assert got.evidence["series"] == 2
    assert got.evidence["compared"] == "recipes"


@pytest.mark.parametrize("champion", [None, scores(1.0), scores(1.0, ids=("Q/1",))], ids=["first", "same", "other"])
def test_evidence_is_plain_json(champion):
    kind = "FIRST" if champion is None else "PATCH"
    got = promotion.decide(scores(0.9), champion, kind, RULES, compared="versions")
    assert json.loads(json.dumps(got.evidence, allow_nan=False)) == got.evidence


def test_kinds_come_from_comparison():
    one = {"recipe": {"pool": ["tsb"]}, "interface": {"horizon": 28}}
    assert promotion.kind(one, None) == "FIRST"
    assert promotion.kind(one, one) == "PATCH"
    assert promotion.kind(one, {**one, "recipe": {"pool": ["adida"]}}) == "MINOR"
    assert promotion.kind(one, {"recipe": {}, "interface": {"horizon": 7}}) == "MAJOR"


@pytest.mark.parametrize("bad", ["1.2", "v1.2.3", "1.2.x", ""])
def test_a_version_that_is_not_three_numbers_is_refused(bad):
    with pytest.raises(ValueError, match="three numbers"):
        promotion.next_version(bad, "PATCH")
