"""The evaluator of M5 against loops that read as the published formulas, on a made-up world."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from benchmarks.m5 import __main__ as bench
from benchmarks.m5 import evaluate
from benchmarks.m5.world import HORIZON, KEYS
from forecasting.frames import join_id

ORIGIN = 84


@pytest.fixture(scope="module")
def judge(made):
    return evaluate.Judge(made, ORIGIN)


def _groups(made, keys):
    ids = (
        [join_id(row) for row in made.series[list(keys)].itertuples(index=False)]
        if keys
        else ["total"] * len(made.series)
    )
    return {name: [n for n, one in enumerate(ids) if one == name] for name in sorted(set(ids))}


def _from_first_sale(history):
    return history[next((n for n, y in enumerate(history) if y > 0), len(history)) :]


def _mean(values):
    return sum(values) / len(values) if len(values) else float("nan")


def _loop(made, score):
    """By level, the dollar-weighted mean of ``score(history, members, node, name)`` over its nodes."""
    by_level = {}
    for node, keys in evaluate.LEVELS.items():
        total, weights = 0.0, 0.0
        for name, members in _groups(made, keys).items():
            dollars = 0.0
            for n in members:
                for t in range(ORIGIN - 28, ORIGIN):
                    dollars += float(made.sales[n, t]) * float(made.prices[n, t])
            history = _from_first_sale(made.sales[members, :ORIGIN].astype(float).sum(axis=0))
            if dollars > 0:
                total += dollars * score(history, members, node, name)
            weights += dollars
        by_level[node] = total / weights
    return by_level


def test_wrmsse_is_that_of_a_loop_over_nodes(made, judge):
    y_hat = np.random.default_rng(1).random((len(made.series), HORIZON)) * 4

    def rmsse(history, members, node, name):
        scale = _mean([(b - a) ** 2 for a, b in pairwise(history)])
        came = made.sales[members, ORIGIN:].astype(float).sum(axis=0)
        return (_mean([(a - b) ** 2 for a, b in zip(came, y_hat[members].sum(axis=0), strict=True)]) / scale) ** 0.5

    expected = _loop(made, rmsse)
    expected["mean"] = _mean(list(expected.values()))
    assert judge.wrmsse(y_hat) == pytest.approx(expected, rel=1e-6)


def test_pinball_is_that_of_a_loop_over_nodes(made, judge):
    rng = np.random.default_rng(2)
    quantiles = {level.node: {0.1: rng.random((len(level.ids), HORIZON)) * 9} for level in judge.levels}
    places = {level.node: list(level.ids) for level in judge.levels}

    def spl(history, members, node, name):
        scale = _mean([abs(b - a) for a, b in pairwise(history)])
        came = made.sales[members, ORIGIN:].astype(float).sum(axis=0)
        said = quantiles[node][0.1][places[node].index(name)]
        return _mean([0.1 * (y - z) if y >= z else 0.9 * (z - y) for y, z in zip(came, said, strict=True)]) / scale

    expected = _loop(made, spl)
    found = judge.pinball(quantiles)
    assert found["by_level"] == pytest.approx(expected, rel=1e-6)
    assert found["mean"] == pytest.approx(_mean(list(expected.values())))
    assert found["by_quantile"] == pytest.approx({"q10": found["mean"]})


def test_mase_and_wape_are_those_of_a_loop_over_series(made, judge):
    q50 = np.round(np.random.default_rng(3).random((len(made.series), HORIZON)) * 4)
    scaled, errors = [], []
    for n in range(len(made.series)):
        error = [abs(float(y) - z) for y, z in zip(made.sales[n, ORIGIN:], q50[n], strict=True)]
        errors += error
        history = _from_first_sale(made.sales[n, :ORIGIN].astype(float))
        if len(history) > 7:
            scaled.append(_mean(error) / _mean([abs(b - a) for a, b in zip(history, history[7:], strict=False)]))
    assert judge.median(q50) == pytest.approx(
        {"mase": _mean(scaled), "wape": sum(errors) / float(made.sales[:, ORIGIN:].sum())}
    )


def test_tails_count_what_lies_strictly_beyond(judge):
    came = judge.actual["total"]
    found = judge.tails({"total": {0.9: np.where(np.arange(HORIZON) < 7, came - 1, came)}})
    assert found == {"total": {"q90": {"below": 0.0, "above": 0.25}}}


def test_bias_is_positive_where_too_much_was_forecast(judge):
    assert judge.bias(judge.actual["bottom"] * 1.1) == pytest.approx(0.1)


def test_a_published_set_comes_back_as_matrices_and_a_retired_series_as_zeros(made, judge):
    rng = np.random.default_rng(4)
    bottom = rng.random((len(made.series), HORIZON)).round(3)
    bottom[0] = 0.0
    parts = []
    for level in judge.levels:
        ids = np.repeat(level.ids, HORIZON)
        y_hat = level.sums(bottom).ravel()
        parts.append(
            pd.DataFrame(
                {"node": level.node, "unique_id": ids, "h": np.tile(np.arange(1, 29), len(level.ids)), "y_hat": y_hat}
            ).assign(q50=y_hat)
        )
    rows = pd.concat(parts, ignore_index=True)
    rows = rows[~((rows["node"] == "bottom") & (rows["unique_id"] == made.series["unique_id"][0]))]
    forecast, off = evaluate.from_published(rows.sample(frac=1, random_state=1), judge.levels, [0.5])
    assert np.array_equal(forecast.y_hat, bottom)
    assert off < 1e-9
    assert judge.wrmsse(forecast.y_hat)["mean"] == judge.figures(forecast)["wrmsse"]["mean"]
    rows.loc[rows["node"] == "total", "y_hat"] += 0.5
    assert evaluate.from_published(rows, judge.levels, [0.5])[1] == pytest.approx(0.5)


def test_a_node_that_the_world_does_not_hold_is_refused(judge):
    rows = pd.DataFrame({"node": "bottom", "unique_id": ["CA/CA_1/FOODS/FOODS_1/nothing"], "h": [1], "y_hat": [1.0]})
    with pytest.raises(ValueError, match="nothing"):
        evaluate.from_published(rows, judge.levels, [])


def test_days_after_the_data_are_not_judged(made):
    late = evaluate.Judge(made, ORIGIN + 1)
    assert not late.informed
    with pytest.raises(ValueError, match="not at hand"):
        late.wrmsse(np.zeros((len(made.series), HORIZON)))


def test_a_sample_holds_series_of_every_department_of_every_store_and_is_the_same_each_time(made):
    some = made.sample(9)
    assert some.series.groupby(["store", "department"]).size().tolist() == [1] * 9
    assert some.series.equals(made.sample(9).series)
    at = made.series["unique_id"].isin(some.series["unique_id"]).to_numpy()
    assert np.array_equal(some.sales, made.sales[at])
    assert np.array_equal(some.prices, made.prices[at], equal_nan=True)
    assert list(some.series["unique_id"]) == sorted(some.series["unique_id"])
    assert made.sample(len(made.series)).series.equals(made.series)
    for count in (0, len(made.series) + 1):
        with pytest.raises(ValueError, match=f"SERIES={count}"):
            made.sample(count)


def test_sales_and_prices_follow_their_series(made):
    assert list(made.series.columns) == ["unique_id", *KEYS]
    assert list(made.series["unique_id"]) == sorted(made.series["unique_id"])
    dead = made.series.index[made.sales[:, :ORIGIN].sum(axis=1) == 0]
    assert list(made.series.loc[dead, "item"]) == ["FOODS_2_002"]
    assert made.prices.shape == (18, ORIGIN + 2 * HORIZON)
    unlisted = ~np.isfinite(made.prices)
    assert set(made.series["item"].to_numpy()[unlisted.any(axis=1)]) == {"TOYS_1_002"}
    assert unlisted.sum() == 3 * 14


def test_the_upper_levels_tails_count_each_actual_once_and_each_level_once(judge):
    rest = {level.node: {"q10": {"below": 0.1}, "q90": {"above": 0.1}} for level in judge.levels}
    found = bench.upper_tails(judge, rest | {"total": {"q10": {"below": 1.0}, "q90": {"above": 0.1}}})
    rows = sum(judge.actual[level.node].shape[0] for level in judge.levels[:9])
    assert found["below_q10"]["actuals"] == pytest.approx((1.0 + 0.1 * (rows - 1)) / rows)
    assert found["below_q10"]["mean_of_levels"] == pytest.approx((1.0 + 0.1 * 8) / 9)
    assert [found["above_q90"][of] for of in ("actuals", "mean_of_levels")] == pytest.approx([0.1, 0.1])
