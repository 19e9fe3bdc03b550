"""Choices, scores and the rolling evaluation, against naive loops and near ties."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from forecasting.frames import BACKTEST, CHOICES
from forecasting.learn import selection

from .learn_cases import build_customer

SKILL = {"seasonal_naive": 3.0, "weekday_mean": 2.0, "auto_ets": 2.0, "lightgbm": 1.0}


def score_frame(ids=("A/1", "A/2", "B/1"), origins=4, h=7, skill=SKILL, seed=0) -> pd.DataFrame:
    """Models whose errors have the standard deviation ``skill``; the last day of each origin is closed."""
    rng = np.random.default_rng(seed)
    cutoffs = pd.date_range("2024-01-07", periods=origins, freq=f"{h}D")
    index = pd.MultiIndex.from_product([ids, cutoffs, range(1, h + 1)], names=["unique_id", "cutoff", "h"])
    frame = index.to_frame(index=False)
    frame["unique_id"] = frame["unique_id"].astype(object)
    frame["ds"] = frame["cutoff"] + pd.to_timedelta(frame["h"], unit="D")
    frame["y"] = rng.poisson(10, len(frame)).astype(float)
    frame["scored"] = frame["h"] < h
    frame["scale"] = 4.0
    for name, deviation in skill.items():
        frame[name] = frame["y"] + rng.normal(0, deviation, len(frame))
    frame.loc[~frame["scored"], "y"] = np.nan
    return BACKTEST.check(frame.astype({"h": "int64", "ds": "datetime64[ns]"}))


def choice(unique_id: str, **weights: float) -> pd.DataFrame:
    return pd.DataFrame([(unique_id, m, w) for m, w in weights.items()], columns=list(CHOICES.columns))


def test_rmsse_wape_and_bias_agree_with_a_loop():
    scores = score_frame()
    frame = scores[list(BACKTEST.columns)].assign(y_hat=scores["auto_ets"], q50=scores["auto_ets"] - 1)
    rmsse, absolute, wide, total, error = [], 0.0, 0.0, 0.0, 0.0
    for _, group in frame.groupby(["unique_id", "cutoff"]):
        squares = [(r.y - r.y_hat) ** 2 for r in group.itertuples() if r.scored]
        rmsse.append((sum(squares) / len(squares) / group["scale"].iloc[0]) ** 0.5)
        for r in group.itertuples():
            if r.scored:
                absolute, wide = absolute + abs(r.y_hat - r.y), wide + abs(r.q50 - r.y)
                total, error = total + r.y, error + r.y_hat - r.y
    got = selection.accuracy(frame)
    assert got["rmsse"] == pytest.approx(np.mean(rmsse))
    assert got["wape_mean"] == pytest.approx(absolute / total)
    assert got["wape"] == pytest.approx(wide / total)
    assert got["bias"] == pytest.approx(error / total)
    assert got["rows"] == 3 * 4 * 6


@pytest.mark.parametrize("metric", ["wape", "mape"])
def test_scores_in_percent_agree_with_a_loop(metric):
    scores = score_frame()
    scores.loc[[0, 9], "y"] = 0.0
    scores.loc[(scores["unique_id"] == "A/2") & scores["scored"], "y"] = 0.0
    scores.loc[(scores["unique_id"] == "B/1") & (scores["h"] == 2), "auto_ets"] = np.nan
    got = selection.score_by_series(scores, ["lightgbm", "auto_ets"], metric)
    for (unique_id, cutoff), group in scores[scores["scored"]].groupby(["unique_id", "cutoff"]):
        for name in ("lightgbm", "auto_ets"):
            errors = [(abs(y - f), y) for y, f in zip(group["y"], group[name], strict=True)]
            sold = [(error, y) for error, y in errors if y > 0]
            expected = np.nan
            if sold and not np.isnan([error for error, _ in errors]).any():
                total = sum(error for error, _ in errors) / sum(y for _, y in sold)
                expected = total if metric == "wape" else np.mean([error / y for error, y in sold])
            assert got.loc[(unique_id, cutoff), name] == pytest.approx(expected, nan_ok=True)


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="metric 'smape': expected one of rmsse, wape, mape"):
        selection.score_by_series(score_frame(), ["lightgbm"], "smape")


def test_each_metric_chooses_what_it_rewards(monkeypatch):
    monkeypatch.setattr(selection, "BLENDED", 1)
    scores = score_frame(origins=10)
    days = len(scores) // 2
    scores["y"] = np.where(scores["scored"], np.tile([1.0, 1.0, 1.0, 7.0], days)[: len(scores)], np.nan)
    # about the median and the mean
    scores = scores.drop(columns=list(SKILL)).assign(seasonal_naive=1.0, weekday_mean=2.5)
    chosen = {
        metric: set(selection.choose(scores, build_customer(metric=metric))["model"])
        for metric in ("rmsse", "wape", "mape")
    }
    assert chosen == {"rmsse": {"weekday_mean"}, "wape": {"seasonal_naive"}, "mape": {"seasonal_naive"}}


def test_the_clearly_better_model_is_chosen():
    choices = selection.choose(score_frame(), build_customer())
    assert_frame_equal(choices, pd.concat([choice(u, lightgbm=1.0) for u in ("A/1", "A/2", "B/1")], ignore_index=True))


def test_on_a_tie_the_cheaper_model_wins_whatever_the_column_order(monkeypatch):
    monkeypatch.setattr(selection, "BLENDED", 1)
    scores = score_frame()
    scores["lightgbm"] = scores["weekday_mean"] = scores["auto_ets"]
    for names in (["lightgbm", "auto_ets", "weekday_mean"], ["weekday_mean", "lightgbm", "auto_ets"]):
        choices = selection.choose(scores[[*BACKTEST.columns, *names]], build_customer())
        assert set(choices["model"]) == {"weekday_mean"}


def test_a_near_tie_is_blended_in_equal_parts():
    scores = score_frame()
    scores["seasonal_naive"] = scores["lightgbm"]
    choices = selection.choose(scores, build_customer())
    assert set(choices["model"]) == {"seasonal_naive", "lightgbm"}
    assert (choices["weight"] == 0.5).all()


def test_few_origins_do_not_overturn_the_pool():
    many = score_frame(tuple(f"A/{n}" for n in range(30)), skill={"weekday_mean": 1.5, "lightgbm": 1.0})
    lucky = score_frame(("Z/1",), origins=1, skill={"weekday_mean": 1.0, "lightgbm": 1.1}, seed=3)
    own = selection.rmsse_by_series(lucky, ["weekday_mean", "lightgbm"]).iloc[0]
    assert own["weekday_mean"] < own["lightgbm"]
    scores = pd.concat([many, lucky], ignore_index=True)
    choices = selection.choose(scores, build_customer())
    assert "lightgbm" in set(choices.loc[choices["unique_id"] == "Z/1", "model"])


def test_a_series_without_scores_gets_what_is_best_for_the_pool_or_keeps_what_it_had():
    scores = score_frame()
    scores.loc[scores["unique_id"] == "A/2", "scale"] = np.nan
    first = selection.choose(scores, build_customer())
    assert first.loc[first["unique_id"] == "A/2", "model"].tolist() == ["lightgbm"]
    incumbent = pd.concat([choice("A/2", auto_ets=1.0), choice("Q/9", auto_ets=1.0)], ignore_index=True)
    second = selection.choose(scores, build_customer(), incumbent=incumbent).set_index("unique_id")["model"]
    assert second.to_dict() == {"A/1": "lightgbm", "A/2": "auto_ets", "B/1": "lightgbm", "Q/9": "auto_ets"}


def test_models_outside_the_pool_are_never_chosen():
    choices = selection.choose(score_frame(), build_customer(pool=["seasonal_naive", "auto_ets"]))
    assert set(choices["model"]) == {"auto_ets"}


@settings(deadline=None, max_examples=25)
@given(st.permutations(range(6)), st.sampled_from([0.25, 2.0, 16.0]))
def test_choices_ignore_row_order_and_the_unit_of_sales(permutation, factor):
    scores = score_frame(skill={"seasonal_naive": 1.02, "weekday_mean": 1.0, "auto_ets": 1.01})
    other = scores.copy()
    other[["y", "seasonal_naive", "weekday_mean", "auto_ets"]] *= factor
    other["scale"] *= factor**2
    blocks = np.array_split(np.arange(len(other)), 6)
    shuffled = other.iloc[np.concatenate([blocks[n] for n in permutation])].reset_index(drop=True)
    assert_frame_equal(selection.choose(shuffled, build_customer()), selection.choose(scores, build_customer()))


def test_a_blend_renormalises_where_a_member_is_silent():
    forecasts = pd.DataFrame(
        {"unique_id": "A/1", "h": [1, 2, 3], "ds": pd.date_range("2024-01-01", periods=3), "tsb": [2.0, np.nan, np.nan]}
    ).assign(lightgbm=[4.0, 6.0, np.nan])
    got = selection.combine(forecasts, choice("A/1", tsb=0.25, lightgbm=0.75))
    assert got["y_hat"].tolist()[:2] == [3.5, 6.0]
    assert np.isnan(got["y_hat"].iloc[2])
    assert set(got["model"]) == {"blend"}


@pytest.mark.parametrize(("third", "expected"), [("lightgbm", 5.0), ("tsb", 1.0)])
def test_a_newborn_gets_the_global_model_where_others_do_else_the_choice_most_series_have(third, expected):
    forecasts = pd.DataFrame(
        {"unique_id": ["N/1"], "h": [1], "ds": pd.Timestamp("2024-01-01"), "tsb": 1.0, "imapa": 3.0, "lightgbm": 5.0}
    )
    choices = pd.concat([choice("A/1", tsb=1.0), choice("A/2", tsb=1.0), choice("A/3", imapa=0.5, **{third: 0.5})])
    assert selection.combine(forecasts, choices)["y_hat"].tolist() == [expected]


def test_one_series_that_was_lucky_with_the_global_model_does_not_hand_it_to_all_new_ones():
    forecasts = pd.DataFrame({"unique_id": ["N/1"], "h": [1], "ds": pd.Timestamp("2024-01-01"), "tsb": 1.0})
    many = pd.concat([choice(f"A/{n}", tsb=1.0) for n in range(10)])
    for lucky, expected in (1, 1.0), (2, 5.0):
        choices = pd.concat([many, *(choice(f"B/{n}", lightgbm=1.0) for n in range(lucky))])
        assert selection.combine(forecasts.assign(lightgbm=5.0), choices)["y_hat"].tolist() == [expected]


@pytest.mark.parametrize(("skill", "expected"), [({}, "lightgbm"), ({"lightgbm": 9.0, "auto_ets": 1.0}, "auto_ets")])
def test_a_series_without_scores_gets_the_global_model_where_others_do_else_what_is_best(skill, expected):
    scores = score_frame(skill=SKILL | skill)
    young = scores["unique_id"] == "B/1"
    scores.loc[young, "scale"] = np.nan
    choices = selection.choose(scores, build_customer())
    assert choices.loc[choices["unique_id"] == "B/1", "model"].tolist() == [expected]


def test_rolling_judges_only_origins_that_took_no_part_in_selection():
    scores, customer = score_frame(origins=9), build_customer(backtest={"windows": 9, "select": 3})
    table = selection.rolling(scores, customer)
    assert table["origin"].tolist() == sorted(scores["cutoff"].unique())[3:]
    assert (table["rmsse_selection"] < table["rmsse_weekday_mean"]).all()
    later = scores["cutoff"] > table["origin"].iloc[0]
    other = scores.copy()
    other.loc[later, list(SKILL)] = 0.0
    assert_frame_equal(selection.rolling(other, customer).iloc[:1], table.iloc[:1], check_exact=True)


def test_a_selection_is_judged_beside_its_customer_s_references():
    skill = SKILL | {"naive": 4.0, "recent_mean": 2.5}
    scores = score_frame(origins=4, skill=skill)
    weekly = build_customer(frequency="W", season_lengths=[1], backtest={"windows": 4, "select": 3})
    table = selection.rolling(scores, weekly)
    for name in ("naive", "recent_mean", "seasonal_naive", "weekday_mean"):
        now = scores[scores["cutoff"] == scores["cutoff"].max()].assign(y_hat=scores[name])
        own = selection.accuracy(now)
        assert table[[f"rmsse_{name}", f"wape_{name}"]].iloc[0].tolist() == [own["rmsse"], own["wape"]]


def test_an_origin_has_no_say_in_the_choice_it_judges():
    scores, customer = score_frame(origins=4), build_customer(backtest={"windows": 4, "select": 3})
    last = scores["cutoff"] == scores["cutoff"].max()
    scores.loc[last, "lightgbm"] += 50.0
    judged = selection.rolling(scores, customer)
    alone = scores[list(BACKTEST.columns)].assign(y_hat=scores["lightgbm"])[last]
    assert judged["rmsse_selection"].tolist() == [selection.accuracy(alone)["rmsse"]]
