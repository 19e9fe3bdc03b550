"""The grid: what an absent day means, and RMSSE's scale against a naive loop."""

from __future__ import annotations

import itertools
from datetime import date

import numpy as np
import pandas as pd
import pytest

from forecasting.frames import PANEL
from forecasting.learn import backtest, grid

from .learn_cases import CUTOFF, build_customer, build_panel, rows


@pytest.mark.parametrize(
    ("absent", "y", "scored"),
    [("zero", [5, 6, 0, 8], [True, True, True, True]), ("closed", [5, 6, 6, 8], [True, True, False, True])],
)
def test_an_absent_day_means_what_is_declared(absent, y, scored):
    panel = pd.concat([rows("A/1", "2024-01-01", [5, 6]), rows("A/1", "2024-01-04", [8])], ignore_index=True)
    got = grid.regularise(panel, build_customer(absent=absent), date(2024, 1, 4))
    assert got["y"].tolist() == y
    assert got["scored"].tolist() == scored


@pytest.mark.parametrize("absent", ["zero", "closed", "missing"])
def test_a_closed_weekday_is_closed_unless_something_sold(absent):
    panel = rows("A/1", "2024-01-01", [5] * 14).drop(index=[5, 8])  # the first Saturday and the second Tuesday
    customer = build_customer(absent=absent, closed_weekdays=["saturday", "sunday"])
    got = grid.regularise(panel, customer, date(2024, 1, 21)).set_index("ds")["scored"]
    open_days = [day for day in got.index if got[day]]
    assert pd.Timestamp("2024-01-06") not in open_days
    assert pd.Timestamp("2024-01-13") in open_days
    assert got["2024-01-20":].tolist() == [False, False]
    assert not got["2024-01-15":"2024-01-19"].any()  # nothing of any series was delivered after the 14th
    assert got["2024-01-09"] == (absent == "zero")


def test_a_day_that_was_not_delivered_yet_is_no_zero():
    panel = pd.concat([rows("A/1", "2024-01-01", [5, 6, 7]), rows("A/2", "2024-01-01", [1])], ignore_index=True)
    got = grid.regularise(panel, build_customer(absent="zero"), date(2024, 1, 5)).set_index(["unique_id", "ds"])
    assert got.loc["A/2", "scored"].tolist() == [True, True, True, False, False]
    assert got.loc["A/2", "y"].tolist()[:3] == [1, 0, 0]
    assert not got.loc["A/1", "scored"]["2024-01-04":].any()
    came = grid.actuals(panel, build_customer(absent="zero", horizon=3), date(2024, 1, 2), ["A/2"])
    assert came["scored"].tolist() == [True, False, False]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("absent", ["zero", "closed", "missing"])
def test_a_quarantined_cell_is_missing_and_never_zero(bad, absent):
    panel = rows("A/1", "2024-01-01", [3, 4, 5, 6, 7, 8, 9, bad, 4])
    got = grid.regularise(panel, build_customer(absent=absent), date(2024, 1, 9))
    assert got["y"].tolist() == [3, 4, 5, 6, 7, 8, 9, 3, 4]  # the same weekday's last value
    assert got["scored"].tolist() == [True] * 7 + [False, True]


def test_history_begins_with_the_first_sale_and_is_padded_to_the_cutoff():
    got = grid.regularise(rows("A/1", "2024-01-01", [0, 0, 2, 0]), build_customer(absent="zero"), date(2024, 1, 6))
    assert got["y"].tolist() == [2, 0, 0, 0]
    assert got["ds"].tolist() == list(pd.date_range("2024-01-03", "2024-01-06"))


def test_history_is_limited_to_the_declared_days(panel):
    got = grid.regularise(panel, build_customer(history_days=30), CUTOFF)
    assert got.groupby("unique_id").size().tolist() == [30] * 4


@pytest.mark.parametrize(
    ("frequency", "ds"),
    [
        ("W", pd.date_range("2024-01-07", periods=5, freq="W-SUN")),
        ("M", pd.date_range("2023-11-30", periods=5, freq="ME")),
    ],
)
def test_weekly_and_monthly_periods_are_consecutive(frequency, ds):
    customer = build_customer(frequency=frequency, absent="zero", season_lengths=[1], horizon=2)
    panel = pd.DataFrame({"unique_id": "A/1", "ds": ds, "y": 1.0, "promotion": 0.0}).drop(index=2)
    got = grid.regularise(panel, customer, ds[-1].date())
    assert got["ds"].tolist() == list(ds)
    assert got["y"].tolist() == [1, 1, 0, 1, 1]
    assert (grid.dates(grid.ordinals(ds, frequency), frequency) == ds.to_numpy()).all()


def test_a_plan_that_does_not_reach_is_filled_and_counted(panel):
    short = panel[panel["ds"] <= pd.Timestamp(CUTOFF) + pd.Timedelta(days=5)]
    customer = build_customer(exogenous={"promotion": {"known": "future", "fill": 0.5}})
    frame, filled = grid.future_frame(short, customer, CUTOFF)
    assert filled == 2 * 4
    assert (frame.loc[frame["h"] > 5, "promotion"] == 0.5).all()


def test_scale_is_the_mean_squared_step_of_observed_days(panel, customer):
    history = grid.regularise(panel, customer, CUTOFF)
    scales = grid.scales(history)
    for unique_id, series in history.groupby("unique_id"):
        y = [v for v, s in zip(series["y"], series["scored"], strict=True) if s]
        steps = [(b - a) ** 2 for a, b in itertools.pairwise(y)]
        assert scales[unique_id] == pytest.approx(sum(steps) / len(steps), rel=1e-12)
    assert not history["scored"].all()


@pytest.mark.parametrize("y", [[4.0], [4.0, 4.0, 4.0], [0.0, 0.0]], ids=["one day", "constant", "never sold"])
def test_scale_is_undefined_without_movement(y, customer):
    scales = grid.scales(grid.regularise(rows("A/1", "2024-01-01", y), customer, date(2024, 1, len(y))))
    assert scales.isna().all()
    assert scales.index.tolist() == ["A/1"]


def test_origins_do_not_overlap_and_the_newest_ends_on_the_cutoff(customer):
    got = backtest.origins(CUTOFF, customer)
    assert got == [date(2024, 6, 2), date(2024, 6, 9), date(2024, 6, 16), date(2024, 6, 23)]


def test_origins_without_enough_history_are_left_out(customer):
    assert backtest.origins(CUTOFF, customer, first=date(2024, 6, 1)) == [date(2024, 6, 16), date(2024, 6, 23)]


def test_nothing_at_all_is_a_panel_too(customer):
    empty = build_panel().iloc[:0]
    history = grid.regularise(empty, customer, CUTOFF)
    assert len(history) == len(grid.future_frame(empty, customer, CUTOFF)[0]) == len(grid.scales(history)) == 0


def test_a_panel_coded_once_has_the_same_grid(panel, customer):
    coded = grid.coded(panel)
    got = grid.regularise(coded, customer, CUTOFF)
    whole = grid.regularise(panel, customer, CUTOFF)
    pd.testing.assert_frame_equal(got.astype({"unique_id": object}), whole, check_exact=True)
    pd.testing.assert_series_equal(grid.scales(got), grid.scales(whole), check_exact=True)
    assert grid.known_ids(coded, CUTOFF) == grid.known_ids(panel, CUTOFF)


def test_rows_in_another_order_have_the_same_grid(panel, customer):
    shuffled = panel.sample(frac=1.0, random_state=0)
    pd.testing.assert_frame_equal(
        grid.regularise(shuffled, customer, CUTOFF), grid.regularise(panel, customer, CUTOFF), check_exact=True
    )


def test_a_grid_of_some_series_is_that_part_of_the_whole_one():
    # that the feed went on is told by another series alone: a gap there is a zero
    panel = pd.concat([rows("A/1", "2024-06-01", [1.0, 2.0]), rows("B/1", "2024-06-01", [1.0] * 9)], ignore_index=True)
    customer, mine = build_customer(absent="zero"), panel["unique_id"] == "A/1"
    whole = grid.regularise(panel, customer, CUTOFF)
    part = whole[whole["unique_id"] == "A/1"].reset_index(drop=True)
    assert part["scored"].sum() == 9
    pd.testing.assert_frame_equal(grid.regularise(panel, customer, CUTOFF, ["A/1"]), part, check_exact=True)
    days = grid.delivered(panel)
    pd.testing.assert_frame_equal(grid.regularise(panel[mine], customer, CUTOFF, None, days), part, check_exact=True)
    came = grid.actuals(panel[mine], customer, date(2024, 6, 4), ["A/1"], days)
    assert came["scored"].tolist() == [True] * 5 + [False] * 2


def test_what_was_delivered_after_the_cutoff_makes_no_zero_before_it():
    panel = pd.concat([rows("A/1", "2024-06-01", [1.0, 2.0]), rows("B/1", "2024-06-05", [1.0] * 9)], ignore_index=True)
    got = grid.regularise(panel, build_customer(absent="zero"), date(2024, 6, 4))
    assert got["scored"].tolist() == [True, True, False, False]


@pytest.mark.parametrize("order", [[0, 1, 1], [1, 0, 1], [1, 1, 0]], ids=["sorted", "apart", "unsorted"])
def test_a_doubled_key_is_found_in_any_order(panel, order):
    PANEL.check(panel.iloc[[1, 0]])
    with pytest.raises(ValueError, match="nulls or doubles"):
        PANEL.check(panel.iloc[order])


def test_two_families_side_by_side_are_matched_by_key_and_never_by_place(panel, customer):
    frame = backtest.skeleton(panel, customer, date(2024, 5, 1), grid.regularise(panel, customer, date(2024, 5, 1)))
    left, right = frame.assign(one=np.arange(len(frame))), frame.assign(two=np.arange(len(frame)))
    want = frame.assign(one=np.arange(len(frame)), two=np.arange(len(frame)))
    pd.testing.assert_frame_equal(backtest.join(left, right), want)
    pd.testing.assert_frame_equal(backtest.join(left, right.iloc[::-1].reset_index(drop=True)), want)
