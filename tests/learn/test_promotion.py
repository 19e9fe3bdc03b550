"""Champion against challenger: kinds of versions, the margin and its proof, guard rails."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.config import Promotion
from forecasting.frames import BACKTEST
from forecasting.learn import comparison, promotion, rails
from forecasting.learn.promotion import Costs

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


# --- proof over origins ---------------------------------------------------------------------------------------------


def uneven(gains: list[float], ids=("A/1", "A/2", "B/1"), base: float = 1.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Challenger and champion; at each origin the challenger's RMSSE is lower by its share of ``gains``."""
    champion = scores(base, origins=len(gains), ids=ids)
    by_cutoff = dict(zip(sorted(champion["cutoff"].unique()), gains, strict=True))
    error = (champion["y_hat"] - champion["y"]) * (1 - champion["cutoff"].map(by_cutoff))
    return champion.assign(y_hat=champion["y"] + error), champion


PROVEN, LUCKY = [0.05, 0.04, 0.06, 0.05, 0.03, 0.07], [0.40, -0.02, -0.01, 0.02, -0.03, 0.01]


@pytest.mark.parametrize(
    ("gains", "promoted", "told"),
    [
        (PROVEN, True, "MINOR: gain +5.0% (p 0.0156 over 6 origins)"),
        (LUCKY, False, "kept: gain +7.7% (p 0.3438 over 6 origins), a MINOR needs +2.0% and p at most 0.05"),
        ([0.012, 0.01, 0.011, 0.013, 0.01, 0.012], False, "kept: gain +1.1% ("),
    ],
    ids=["proven", "one lucky origin", "proven but small"],
)
def test_a_gain_must_be_large_and_proven(gains, promoted, told):
    got = promotion.decide(*uneven(gains), "MINOR", RULES, compared="recipes")
    assert got.promoted is promoted
    assert got.reason.startswith(told)


@pytest.mark.parametrize(
    ("gains", "promoted"),
    [([-0.001, 0.002, 0.001, -0.002, 0.0, 0.001], True), ([-0.09, 0.08, -0.06, 0.07, 0.03, -0.02], False)],
    ids=["surely no worse", "who knows"],
)
def test_a_patch_of_another_fit_must_be_shown_not_to_be_worse(gains, promoted):
    challenger, champion = uneven(gains)
    assert promotion.decide(challenger, champion, "PATCH", RULES, compared="versions").promoted is promoted
    assert promotion.decide(challenger, champion, "PATCH", RULES, compared="recipes").promoted


def test_five_origins_are_too_few_for_a_new_recipe_and_enough_for_its_retrain():
    challenger, champion = uneven([0.05, 0.04, 0.06, 0.05, 0.03])
    got = promotion.decide(challenger, champion, "MINOR", RULES, compared="recipes")
    assert got.reason == "kept: 5 shared origins without overlap, 6 needed for a MINOR"
    assert promotion.decide(challenger, champion, "PATCH", RULES, compared="recipes").promoted


def windows(step: int, horizon: int, origins: int) -> tuple[np.ndarray, np.ndarray]:
    cutoffs = np.datetime64("2024-01-07", "ns") + np.arange(origins) * np.timedelta64(step, "D")
    return cutoffs, cutoffs + np.timedelta64(horizon, "D")


@pytest.mark.parametrize(
    ("step", "counted"),
    [
        (28, [0, 1, 2, 3, 4, 5, 6, 7]),
        (35, [0, 1, 2, 3, 4, 5, 6, 7]),
        (14, [1, 3, 5, 7]),
        (7, [3, 7]),
        (27, [1, 3, 5, 7]),
    ],
    ids=["no overlap", "gaps", "half", "quarter", "one day"],
)
def test_origins_whose_horizons_overlap_are_one_replicate(step, counted):
    assert np.flatnonzero(comparison.replicates(*windows(step, 28, 8))).tolist() == counted


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 20))
def test_no_day_belongs_to_two_replicates(step, horizon, origins):
    cutoffs, ends = windows(step, horizon, origins)
    counted = comparison.replicates(cutoffs, ends)
    assert counted[-1]
    assert (ends[counted][:-1] <= cutoffs[counted][1:]).all()


def test_overlapping_origins_do_not_multiply_the_proof():
    challenger, champion = uneven(PROVEN * 2)
    for frame in (challenger, champion):  # a horizon of 7 days every 4 days
        frame["cutoff"] = pd.Timestamp("2024-01-07") + (frame["cutoff"] - frame["cutoff"].min()) / 7 * 4
        frame["ds"] = frame["cutoff"] + pd.to_timedelta(frame["h"], unit="D")
    got = promotion.decide(challenger, champion, "MINOR", RULES, compared="recipes")
    assert (got.evidence["origins"], got.evidence["tested_origins"]) == (12, 6)
    assert [one["tested"] for one in got.evidence["by_origin"]] == [False, True] * 6


def rejected(draw, trials: int = 2000, origins: int = 6, alpha: float = RULES.alpha) -> float:
    """Share of worlds without any true gain in which the test finds proof."""
    found = [comparison.p_value(draw(origins), 0.0) <= alpha for _ in range(trials)]
    return float(np.mean(found))


@pytest.mark.parametrize("origins", [3, 6, 12])
@pytest.mark.parametrize("kind", ["alike", "uneven", "heavy"])
def test_the_test_holds_its_level_with_few_origins(kind, origins):
    rng = np.random.default_rng(7)
    draws = {
        "alike": lambda n: rng.normal(0, 0.03, n),
        "uneven": lambda n: rng.normal(0, 1, n) * np.geomspace(0.01, 0.2, n),  # Christmas is not February
        "heavy": lambda n: 0.03 * rng.standard_t(4, n),
    }
    assert rejected(draws[kind], origins=origins) < RULES.alpha + 0.015


def test_one_great_origin_among_six_gains_does_not_hide_the_proof():
    """What the signs are for: Student's t takes the great one for noise, and finds p 0.07 here."""
    gains = np.array([0.27, 0.04, 0.01, 0.06, 0.02, 0.03])
    assert comparison.p_value(gains, 0.0) == 1 / 64
    assert comparison.p_value(np.append(gains[1:], -0.27), 0.0) > RULES.alpha


def test_too_few_origins_for_any_proof_are_said():
    got = promotion.decide(*uneven([0.05, 0.04, 0.06, 0.05]), "PATCH", RULES, compared="versions")
    assert got.reason == "kept: 4 shared origins without overlap, 5 needed for p at most 0.05"


def test_many_origins_are_judged_alike_each_time():
    gains = np.random.default_rng(3).normal(0.01, 0.05, 40)
    assert comparison.p_value(gains, 0.0) == pytest.approx(0.1, abs=0.1) == comparison.p_value(gains, 0.0)


def test_pooled_over_days_the_same_worlds_would_be_proof():
    """What the replicate is for: one error per origin, shared by its 28 days, is not 28 pieces of evidence."""
    rng = np.random.default_rng(7)

    def days(n: int) -> np.ndarray:
        return np.repeat(rng.normal(0, 0.03, n), 28) + rng.normal(0, 0.03, n * 28)

    assert rejected(days, trials=60) > 0.25
    assert rejected(lambda n: days(n).reshape(n, 28).mean(axis=1)) < 0.065


near_tie = st.lists(st.floats(-0.04, 0.08), min_size=6, max_size=8)  # far apart, any rule looks right


@settings(deadline=None, max_examples=8)
@given(near_tie, st.sampled_from([0.25, 2.0, 1024.0]))  # powers of 2: exact
def test_a_decision_does_not_depend_on_the_unit_of_sale(gains, factor):
    def in_unit(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(y=frame["y"] * factor, y_hat=frame["y_hat"] * factor, scale=frame["scale"] * factor**2)

    challenger, champion = uneven(gains, ids=("A/1",))
    got = promotion.decide(challenger, champion, "MINOR", RULES, compared="recipes")
    again = promotion.decide(in_unit(challenger), in_unit(champion), "MINOR", RULES, compared="recipes")
    assert (again.promoted, again.reason) == (got.promoted, got.reason)


@settings(deadline=None, max_examples=8)
@given(near_tie)
def test_two_recipes_are_never_both_better_than_each_other(gains):
    one, other = uneven(gains, ids=("A/1",))
    forth = promotion.decide(one, other, "MINOR", RULES, compared="recipes")
    back = promotion.decide(other, one, "MINOR", RULES, compared="recipes")
    assert not (forth.promoted and back.promoted)


# --- guard rails ----------------------------------------------------------------------------------------------------


def with_intervals(frame: pd.DataFrame, width: float) -> pd.DataFrame:
    return frame.assign(q10=frame["y_hat"] - width, q50=frame["y_hat"], q90=frame["y_hat"] + width)


def better(**quantiles: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A challenger that gains 5 %; errors alternate in size between 0.5 and 2, so that a width says what it covers."""
    challenger, champion = uneven(PROVEN)
    size = np.where(champion["h"] % 3, 0.5, 2.0)
    frames = [f.assign(y_hat=f["y"] + (f["y_hat"] - f["y"]) * size) for f in (challenger, champion)]
    return tuple(with_intervals(f, w) for f, w in zip(frames, quantiles.values(), strict=True))


@pytest.mark.parametrize(
    ("challenger", "champion", "promoted"),
    [(3.0, 3.0, True), (1.0, 3.0, False), (1.0, 1.0, True), (1.0, 0.1, True)],
    ids=["covers", "too narrow", "as narrow as the champion's", "wider than the champion's"],
)
def test_intervals_that_cover_too_little_are_refused_unless_the_champion_s_cover_less(challenger, champion, promoted):
    got = promotion.decide(*better(challenger=challenger, champion=champion), "MINOR", RULES, compared="recipes")
    assert got.promoted is promoted
    assert promoted or got.reason == "kept: the 80 % intervals cover 67%, the guard rail is 70%"
    assert set(got.evidence["coverage"]["challenger"]) == {"80"}


@pytest.mark.parametrize(("volume", "promoted"), [(None, True), (0.24, True), (-0.26, False), (0.26, False)])
def test_tonight_s_total_is_a_guard_rail(volume, promoted):
    got = promotion.decide(scores(1.0), scores(1.0), "PATCH", RULES, compared="recipes", volume=volume)
    assert got.promoted is promoted
    assert promoted or "tonight's total" in got.reason


@pytest.mark.parametrize(
    ("own", "other", "told"),
    [
        (Costs(301.0, 1), Costs(60.0, 1), "301 CPU seconds of fits against 60, the guard rail is 5 times as many"),
        (Costs(300.0, 1), Costs(60.0, 1), ""),
        (Costs(59.0, 1), Costs(0.1, 1), ""),
        (Costs(1.0, 50_000_001), Costs(1.0, 10_000_000), "50,000,001 bytes against 10,000,000"),
        (Costs(1.0, 9_000_000), Costs(1.0, 7_000), ""),
        (Costs(9e9, None), Costs(None, 7_000), ""),
    ],
    ids=["slow", "five times", "slow but short", "large", "large but small", "unknown"],
)
def test_what_a_version_costs_is_a_guard_rail(own, other, told):
    got = promotion.decide(*uneven(PROVEN), "MINOR", RULES, compared="recipes", costs=(own, other))
    assert got.promoted is not bool(told)
    assert told in got.reason
    assert got.evidence["costs"]["challenger"]["bundle_bytes"] == own.bundle_bytes


def test_a_bias_that_is_smaller_than_the_champion_s_passes():
    champion, challenger = scores(1.0), scores(1.0)
    champion["y_hat"], challenger["y_hat"] = champion["y"] + 5.0, challenger["y"] + 4.0
    assert promotion.decide(challenger, champion, "MINOR", RULES, compared="versions").promoted


def test_every_rail_and_its_limit_stand_in_the_evidence():
    got = promotion.decide(*better(challenger=3.0, champion=3.0), "MINOR", RULES, compared="recipes", volume=0.01)
    names = [rail["name"] for rail in got.evidence["rails"]]
    assert names == ["bias", "volume", "worse_share", "coverage_80", "run_time", "size"]
    assert all(rail["held"] and rail["told"] is None for rail in got.evidence["rails"])
    assert got.evidence["limits"]["alpha"] == RULES.alpha
    assert len(got.evidence["by_origin"]) == 6
    assert got.evidence["p"] < RULES.alpha


def test_clearly_worse_means_a_tenth():
    assert rails.CLEARLY_WORSE == 0.10


# --- what is compared -----------------------------------------------------------------------------------------------


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
