"""Quantiles: coverage on simulated data, order, and the estimate from few errors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.frames import CALIBRATION, empty
from forecasting.learn import intervals, selection

from .learn_cases import build_customer
from .test_selection import score_frame

IDS = tuple(f"{brand}/{n}" for brand in "AB" for n in range(20))


def calibrated(scores, customer):
    choices = selection.choose(scores, customer)
    return choices, intervals.calibrate(scores, choices, customer)


def test_intervals_cover_as_they_say_on_days_they_have_not_seen():
    customer = build_customer(levels=[50, 80, 95])
    scores = score_frame(IDS, origins=12, skill={"lightgbm": 2.0})
    past, later = scores[scores["cutoff"] < "2024-03-03"], scores[scores["cutoff"] >= "2024-03-03"]
    choices, calibration = calibrated(past, customer)
    judged = selection.combine_scores(later, choices).assign(node="bottom")
    judged["y_hat"] = judged["y_hat"].clip(lower=0)
    got = intervals.apply(judged, calibration, judged.groupby("unique_id")["scale"].first(), customer)
    seen = got[got["scored"]]
    for level, low, high in ((50, "q25", "q75"), (80, "q10", "q90"), (95, "q025", "q975")):
        coverage = seen["y"].between(seen[low], seen[high]).mean()
        assert coverage == pytest.approx(level / 100, abs=0.04)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 113])
def test_quantiles_of_few_errors_are_the_median_unbiased_ones(n):
    quantiles, errors = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975), np.random.default_rng(n).normal(size=n)
    cell = np.repeat([0, 2], [n, 5])  # another cell behind, an empty one between
    got, counts = intervals._quantiles(np.append(errors, np.full(5, 9.0)), cell, 3, quantiles)
    assert got[0] == pytest.approx(np.quantile(errors, quantiles, method="median_unbiased"))
    assert np.isnan(got[1]).all()
    assert counts.tolist() == [n, 0, 5]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 100), min_size=7, max_size=7), st.floats(0.01, 1e4))
def test_quantiles_are_ordered_and_never_negative(y_hat, scale):
    customer = build_customer(levels=[50, 80, 90, 95])
    _, calibration = calibrated(score_frame(skill={"lightgbm": 2.0}), customer)
    forecast = pd.DataFrame({"node": "bottom", "unique_id": "A/1", "h": range(1, 8), "y_hat": y_hat})
    got = intervals.apply(forecast, calibration, pd.Series({"A/1": scale}), customer)
    values = got[["q025", "q05", "q10", "q25", "q50", "q75", "q90", "q95", "q975"]].to_numpy()
    assert (np.diff(values, axis=1) >= 0).all()
    assert (values >= 0).all()
    assert np.isfinite(values).all()


def test_upper_nodes_are_calibrated_on_sums():
    customer = build_customer()
    scores = score_frame(IDS, origins=12, skill={"lightgbm": 2.0})
    _, calibration = calibrated(scores, customer)
    total = calibration[calibration["node"] == "total"]
    brands = calibration[calibration["node"] == "brand"]
    # Independent errors: both widths are in units of the node's own scale, and so about equal.
    widths = [f.loc[f["q"] == 0.9, "offset"].mean() - f.loc[f["q"] == 0.1, "offset"].mean() for f in (total, brands)]
    assert widths[0] == pytest.approx(widths[1], rel=0.2)
    assert set(calibration["node"]) == {"bottom", "brand", "total"}
    assert set(calibration.loc[calibration["node"] == "brand", "group"]) == {"A", "B"}


def test_without_a_backtest_there_are_still_quantiles():
    customer = build_customer()
    forecast = pd.DataFrame({"node": "bottom", "unique_id": "A/1", "h": range(1, 8), "y_hat": 4.0})
    got = intervals.apply(forecast, empty(CALIBRATION), pd.Series({"A/1": np.nan}), customer)
    assert got["q50"].tolist() == [4.0] * 7
    assert (got["q90"] > 4).all()
    assert (got["q10"] < 4).all()


def test_quantiles_stay_in_order_where_a_calibration_lacks_one():
    _, calibration = calibrated(score_frame(skill={"lightgbm": 0.01}), build_customer(levels=[95]))
    forecast = pd.DataFrame({"node": "bottom", "unique_id": "A/1", "h": range(1, 8), "y_hat": 10.0})
    got = intervals.apply(forecast, calibration, pd.Series({"A/1": 4.0}), build_customer(levels=[80, 95]))
    assert (np.diff(got[["q025", "q10", "q50", "q90", "q975"]].to_numpy(), axis=1) >= 0).all()


def made_up(power):
    """The same offsets for every class of the bottom and for brand A, whose bases raise the forecast to some power."""
    groups = {"bottom": (intervals._CLASSES, power["bottom"]), "brand": (["A"], power["brand"])}
    frames = [
        pd.DataFrame({"node": node, "group": np.repeat(names, 2), "h_from": 1, "h_to": 7, "power": of}).assign(
            q=np.tile([0.1, 0.9], len(names)), offset=np.tile([-0.5, 0.5], len(names))
        )
        for node, (names, of) in groups.items()
    ]
    frame = pd.concat(frames).sort_values(list(CALIBRATION.key), ignore_index=True)
    return CALIBRATION.check(frame[list(CALIBRATION.columns)])


@pytest.mark.parametrize("power", [{"bottom": 0.75, "brand": 0.5}, {"bottom": 0.75, "brand": 0.0}])
def test_an_interval_is_as_wide_as_its_forecast_to_the_power_that_the_calibration_names(power):
    rows = [(node, uid, h) for node, uid in (("bottom", "A/1"), ("brand", "A")) for h in (1, 2)]
    forecast = pd.DataFrame(rows, columns=["node", "unique_id", "h"]).assign(y_hat=[10.0, 90.0, 10.0, 90.0])
    got = intervals.apply(forecast, made_up(power), pd.Series({"A/1": 16.0}), build_customer(levels=[80]))
    width = (got["q90"] - got["q10"]).to_numpy().reshape(2, 2)
    for of, (narrow, wide) in zip(power.values(), width, strict=True):
        assert narrow == pytest.approx(10**of * 4 ** (1 - of))
        assert wide == pytest.approx(90**of * 4 ** (1 - of))


def test_an_aggregates_errors_are_measured_by_the_root_of_what_was_forecast_of_the_series_scored():
    """Errors of k times the root of the forecast are errors of k on every day; who is not scored counts nowhere."""
    customer = build_customer(levels=[80])
    scores = score_frame(IDS, origins=12, skill={"lightgbm": 1.0})
    scores["scale"], scores["lightgbm"] = 4.0, np.where(scores["h"] % 2 == 0, 5.0, 45.0)
    scores.loc[scores["unique_id"].str.endswith("/7"), ["scored", "lightgbm"]] = [False, 1e6]
    left = scores[scores["scored"]]
    per_brand = left.groupby([left["unique_id"].str[0], "cutoff", "h"])["lightgbm"].transform("sum")
    share = len({uid for uid in left["unique_id"] if uid.startswith("A")})
    sign = left.groupby("cutoff").ngroup() % 2 * 2 - 1
    scores.loc[left.index, "y"] = left["lightgbm"] + sign * 3 * np.sqrt(per_brand * np.sqrt(4.0 * share)) / share
    choices = selection.choose(scores, customer).assign(weight=1.0)[lambda rows: rows["model"] == "lightgbm"]
    got = intervals.calibrate(scores, choices, customer)
    brands = got[(got["node"] == "brand") & (got["q"] != 0.5)]
    assert set(brands["power"]) == {0.5}
    assert brands["offset"].abs().to_numpy() == pytest.approx(3.0)


def test_a_class_of_few_errors_takes_those_of_the_rows_that_forecast_as_much():
    """Not those of the whole node: a forecast of next to nothing has its own shape whatever the series."""
    customer = build_customer(levels=[80])
    groups = np.array(["p0c0", "p0c1", "p1c0"], dtype=object)
    group = np.repeat([0, 1, 2], [300, 10, 300])
    error = np.where(group == 2, 5.0, 1.0)
    h, wider = np.ones(len(group), dtype=int), np.array([0, 0, 1])
    errors = intervals._Errors("bottom", 0.75, groups, group, wider, h, error, 0)
    got = intervals._offsets_of(errors, customer).set_index(["group", "h_from", "q"])["offset"]
    assert got[("p0c1", 1, 0.9)] == 1.0
    assert got[("p1c0", 1, 0.9)] == 5.0


def test_a_third_of_an_aggregates_offset_is_its_nodes(monkeypatch):
    scores, customer = score_frame(IDS, origins=20, skill={"lightgbm": 2.0}), build_customer()
    scores.loc[scores["unique_id"].str.startswith("B"), "y"] *= 3  # so that the two brands err by different amounts
    choices, got = calibrated(scores, customer)
    lent = {}
    for share in (0.0, 1.0):
        monkeypatch.setattr(intervals, "_LENT", share)
        lent[share] = calibrated(scores, customer)[1]
    upper, brands = got["node"] != "bottom", got["node"] == "brand"
    assert (lent[0.0].loc[brands, "offset"] - lent[1.0].loc[brands, "offset"]).abs().min() > 1e-3
    each = lent[1.0][brands].groupby(["h_from", "q"])["offset"]
    assert (each.max() - each.min()).max() < 1e-9  # the node's: the same for both brands
    wanted = 2 / 3 * lent[0.0]["offset"] + 1 / 3 * lent[1.0]["offset"]
    assert got.loc[upper, "offset"].to_numpy() == pytest.approx(wanted[upper].to_numpy())
    assert intervals._bottom_errors(selection.combine_scores(scores, choices)).lent == 0  # classes lend nothing
