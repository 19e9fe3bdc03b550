"""The forecasters: no look ahead, no dependence on shard or threads, and no series that stops the others."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from forecasting.config import POOL
from forecasting.errors import UnknownModelError
from forecasting.frames import BACKTEST, FORECASTS, STATUS
from forecasting.learn import backtest, features, grid
from forecasting.learn.models import LADDER, members, ml, order, statistical

from .learn_cases import CUTOFF, build_customer, build_panel, rows

HISTORIC = {"promotion": {"known": "historic"}}
STATIC = {"promotion": {"known": "static"}}


def fit_statistical(panel, customer, ids=None, models=None, origins=True):
    days = backtest.origins(CUTOFF, customer, panel["ds"].min().date()) if origins else []
    ids = ids or grid.known_ids(panel, CUTOFF)
    return statistical.fit(panel, customer, CUTOFF, ids, models, days, 1)


@pytest.fixture(scope="module")
def fitted():
    return fit_statistical(build_panel(), build_customer())


@pytest.fixture(scope="module")
def fitted_ml():
    customer, panel = build_customer(), build_panel()
    return ml.fit(panel, customer, CUTOFF, backtest.origins(CUTOFF, customer), 1)


def test_every_frame_has_its_schema(fitted, fitted_ml):
    for result in (fitted, fitted_ml):
        BACKTEST.check(result.scores), FORECASTS.check(result.forecasts), STATUS.check(result.status)
    joined = backtest.join(fitted.scores, fitted_ml.scores)
    assert len(joined) == 4 * 4 * 7
    assert set(backtest.columns(joined)) == set(POOL)
    assert joined[list(POOL)].notna().all(axis=None)
    assert (joined[list(POOL)] >= 0).all(axis=None)
    assert set(fitted.status["state"]) == {"ok"}


@pytest.mark.parametrize("cut", [[["A/1"], ["A/2", "B/1", "B/2"]], [["B/2", "A/1"], ["B/1", "A/2"]]])
def test_results_do_not_depend_on_how_series_are_sharded(fitted, cut):
    parts = [fit_statistical(build_panel(), build_customer(), ids) for ids in cut]
    scores = backtest.stack([part.scores for part in parts])
    forecasts = pd.concat([part.forecasts for part in parts]).sort_values(["unique_id", "h"], ignore_index=True)
    assert_frame_equal(scores, fitted.scores, check_exact=True)
    assert_frame_equal(forecasts, fitted.forecasts, check_exact=True)


def test_a_slow_series_is_the_same_beside_a_daily_seller_and_alone():
    """Its days without a sale are zeros because the feed went on, which a shard of its own does not show."""
    slow = rows("A/2", "2024-02-01", [2.0, 0.0, 1.0] * 25)
    panel = pd.concat([rows("A/1", "2024-02-01", [3.0] * 151), slow[slow["y"] > 0]], ignore_index=True)
    customer = build_customer(absent="zero")
    whole, alone = fit_statistical(panel, customer), fit_statistical(panel, customer, ["A/2"])
    mine = whole.scores[whole.scores["unique_id"] == "A/2"].reset_index(drop=True)
    assert mine["scored"].all()
    assert_frame_equal(alone.scores, mine, check_exact=True)
    forecasts = whole.forecasts[whole.forecasts["unique_id"] == "A/2"].reset_index(drop=True)
    assert_frame_equal(alone.forecasts, forecasts, check_exact=True)
    assert (forecasts["seasonal_naive"] == 0).all()
    cut, days = panel[panel["unique_id"] == "A/2"], grid.delivered(panel)
    of_its_own = statistical.fit(cut, customer, CUTOFF, ["A/2"], None, backtest.origins(CUTOFF, customer), 1, days)
    assert_frame_equal(of_its_own.scores, mine, check_exact=True)


def test_a_refresh_gives_the_retrain_s_forecasts_for_the_chosen_models(fitted):
    models = {"A/1": ("auto_ets",), "A/2": ("tsb", "lightgbm"), "B/1": (), "B/2": ("dynamic_theta",)}
    got = fit_statistical(build_panel(), build_customer(), models=models, origins=False)
    assert len(got.scores) == 0
    for unique_id, chosen in models.items():
        mine = got.forecasts[got.forecasts["unique_id"] == unique_id]
        theirs = fitted.forecasts[fitted.forecasts["unique_id"] == unique_id]
        spoke = {name for name in backtest.columns(mine) if mine[name].notna().all()}
        assert spoke == {*LADDER, *chosen} - {"lightgbm"}
        assert all((mine[name].to_numpy() == theirs[name].to_numpy()).all() for name in spoke)


def changed_after(panel: pd.DataFrame, day: pd.Timestamp) -> pd.DataFrame:
    """Other sales after ``day``, and every third unknown; the promotion plan stays, it is known ahead."""
    other = panel.copy()
    later = (other["ds"] > day) & (other["ds"] <= pd.Timestamp(CUTOFF))
    other.loc[later, "y"] = np.where(np.arange(later.sum()) % 3, 1000.0, np.nan)
    return other


@pytest.mark.parametrize("family", ["statistical", "ml"])
def test_no_origin_sees_what_came_after_it(family, fitted, fitted_ml):
    origin = fitted.scores["cutoff"].min()
    panel, customer = changed_after(build_panel(), origin), build_customer()
    got = (
        fit_statistical(panel, customer)
        if family == "statistical"
        else ml.fit(panel, customer, CUTOFF, [origin.date()], 1)
    )
    before = fitted if family == "statistical" else fitted_ml
    names = ["unique_id", "cutoff", "h", "scale", *backtest.columns(before.scores)]
    mine, theirs = (f.scores[f.scores["cutoff"] == origin][names].reset_index(drop=True) for f in (got, before))
    assert_frame_equal(mine, theirs, check_exact=True)


@pytest.mark.parametrize("family", ["statistical", "ml"])
def test_an_origin_forecasts_what_its_own_night_would_have(family):
    """Nobody sold on the origin's own day: a zero in hindsight, on that night a day that was not delivered yet."""
    customer, panel = build_customer(absent="zero"), build_panel()
    origin = backtest.origins(CUTOFF, customer)[-1]
    panel.loc[panel["ds"] == pd.Timestamp(origin), "y"] = np.nan
    panel = panel[panel["y"].notna() | (panel["ds"] > pd.Timestamp(CUTOFF))]
    then = panel.copy()
    then.loc[then["ds"] > pd.Timestamp(origin), "y"] = np.nan
    ids = grid.known_ids(panel, origin)
    if family == "statistical":
        now = statistical.fit(panel, customer, CUTOFF, ids, None, [origin], 1).scores
        forecasts = statistical.fit(then, customer, origin, ids, None, [], 1).forecasts
    else:
        now = ml.fit(panel, customer, CUTOFF, [origin], 1).scores
        forecasts = ml.fit(then, customer, origin, [], 1).forecasts
    names = ["unique_id", "ds", "h", *backtest.columns(forecasts)]
    assert_frame_equal(now[names], forecasts[names], check_exact=True)


@pytest.mark.parametrize("family", ["statistical", "ml"])
def test_no_forecast_sees_what_comes_after_the_cutoff(family, fitted, fitted_ml):
    panel, customer = build_panel(), build_customer()
    panel.loc[panel["ds"] > pd.Timestamp(CUTOFF), "y"] = 1000.0
    if family == "statistical":
        assert_frame_equal(
            fit_statistical(panel, customer, origins=False).forecasts, fitted.forecasts, check_exact=True
        )
    else:
        got = ml.predict(panel, customer, CUTOFF, fitted_ml.booster, fitted_ml.spec, 1)
        assert_frame_equal(got, fitted_ml.forecasts, check_exact=True)


def test_a_historic_column_is_used_up_to_the_cutoff_and_no_further():
    panel, customer = build_panel(), build_customer(exogenous=HISTORIC)
    fitted = ml.fit(panel, customer, CUTOFF, [], 1)
    later = panel.copy()
    later.loc[later["ds"] > pd.Timestamp(CUTOFF), "promotion"] = 9.0
    assert_frame_equal(ml.fit(later, customer, CUTOFF, [], 1).forecasts, fitted.forecasts, check_exact=True)
    earlier = panel.copy()
    earlier.loc[earlier["ds"] == pd.Timestamp(CUTOFF), "promotion"] = 9.0
    seen = ml.predict(earlier, customer, CUTOFF, fitted.booster, fitted.spec, 1)
    assert not seen.equals(fitted.forecasts)


def test_the_stored_booster_gives_the_same_forecasts(fitted_ml):
    got = ml.predict(build_panel(), build_customer(), CUTOFF, fitted_ml.booster, fitted_ml.spec, 2)
    assert_frame_equal(got, fitted_ml.forecasts, check_exact=True)


def test_results_do_not_depend_on_threads(fitted_ml):
    customer, panel = build_customer(), build_panel()
    got = ml.fit(panel, customer, CUTOFF, backtest.origins(CUTOFF, customer), 2)
    assert got.booster == fitted_ml.booster
    assert len(got.spec["boosters"]) == 2  # the series', and that of their aggregates
    assert_frame_equal(got.scores, fitted_ml.scores, check_exact=True)


def test_a_stored_spec_serves_whatever_the_order_of_the_keys():
    """A stored spec comes back with its keys sorted, which the customer's need not be."""
    columns = {"ds": "day", "y": "quantity", "keys": ["store", "item"]}
    customer, panel = build_customer(columns=columns, hierarchy=["total"]), build_panel(days=120)
    made = ml.fit(panel, customer, CUTOFF, [], 1)
    stored = json.loads(json.dumps(made.spec, sort_keys=True))
    again = ml.predict(panel, customer, CUTOFF, made.booster, stored, 1)
    assert_frame_equal(again, made.forecasts, check_exact=True)


def test_the_booster_has_learnt_promotions_that_are_known_ahead(fitted_ml):
    panel, customer = build_panel(), build_customer()
    panel.loc[panel["ds"] > pd.Timestamp(CUTOFF), "promotion"] = 1.0
    promoted = ml.predict(panel, customer, CUTOFF, fitted_ml.booster, fitted_ml.spec, 1)["lightgbm"]
    assert promoted.sum() > 1.3 * fitted_ml.forecasts["lightgbm"].sum()


def test_a_series_that_is_new_since_training_is_forecast_all_the_same(fitted_ml):
    panel = build_panel(("A/1", "A/2", "A/3", "B/1", "B/2", "C/1"))
    got = ml.predict(panel, build_customer(), CUTOFF, fitted_ml.booster, fitted_ml.spec, 1)
    assert got["unique_id"].nunique() == 6
    assert got["lightgbm"].notna().all()


@pytest.mark.parametrize(("days", "kept"), [(60, 400), (365, 400), (476, 365), (600, 365), (900, 1000)])
def test_training_rows_foretell_every_step_and_every_weekday_whatever_the_history_is_cut_to(days, kept):
    """One that is cut near the reach of its features has origins all the same."""
    customer = build_customer(history_days=kept)
    panel = build_panel(days=days)
    history = features.lay_out(grid.regularise(panel, customer, CUTOFF), panel, customer, CUTOFF)
    origins = [origin for origin, _ in ml._origins(history)]
    assert len(set(origins)) >= min(history.periods - 2, 70)
    reach = history.periods - 1 - np.array(origins)
    assert (reach >= 1).all()
    assert (reach >= history.horizon).any()
    for half in (origins[: len(origins) // 2], origins[len(origins) // 2 :]):
        assert {origin % 7 for origin in half} == set(range(7))


def test_a_series_that_hardly_varies_does_not_outweigh_the_others():
    labels, level = np.ones(3), np.array([1000.0, 1.0, 1.0])
    weights = ml._weights(labels, level, np.array([0.01, 1.0, np.nan]), build_customer(objective="l2"))
    assert weights[0] == pytest.approx(400 * weights[1])
    assert weights[2] == 1.0


def test_a_booster_of_an_older_schema_is_told_apart(fitted_ml):
    assert ml.reads(fitted_ml.spec)
    assert not ml.reads({**fitted_ml.spec, "version": 1})


def test_aggregates_say_something_of_their_series(fitted_ml):
    """The same series under a hierarchy and without one: other forecasts, drawn to what the total says."""
    alone = ml.fit(build_panel(), build_customer(hierarchy=[]), CUTOFF, [], 1)
    assert len(alone.spec["boosters"]) == 1
    assert not np.allclose(alone.forecasts["lightgbm"], fitted_ml.forecasts["lightgbm"])


def test_a_spec_of_other_features_is_refused(fitted_ml):
    with pytest.raises(ValueError, match="was trained on"):
        ml.predict(build_panel(), build_customer(exogenous={}), CUTOFF, fitted_ml.booster, fitted_ml.spec, 1)
    with pytest.raises(ValueError, match="version 99"):
        ml.predict(build_panel(), build_customer(), CUTOFF, fitted_ml.booster, {**fitted_ml.spec, "version": 99}, 1)


def odd_panel() -> pd.DataFrame:
    """One ordinary series and one of every kind that breaks libraries."""
    last = pd.Timestamp(CUTOFF)
    day = lambda back: str((last - pd.Timedelta(days=back)).date())  # noqa: E731
    odd = [
        rows("X/constant", day(99), [3.0] * 100),
        rows("X/dead", day(199), [2.0] * 5 + [0.0] * 195),
        rows("X/gaps", day(99), [np.nan if i % 3 else 2.0 for i in range(100)]),
        rows("X/huge", day(99), [1e12 * (i % 5) for i in range(100)]),
        rows("X/inf", day(99), [np.inf if i == 50 else float(i % 4) for i in range(100)]),
        rows("X/newborn", day(0), [4.0]),
        rows("X/short", day(4), [1.0, 0.0, 2.0, 0.0, 1.0]),
        rows("X/unsold", day(99), [0.0] * 100),
        rows("X/once", day(99), [1.0] + [0.0] * 99),
    ]
    return pd.concat([build_panel(("A/1", "A/2")), *odd], ignore_index=True).sort_values(
        ["unique_id", "ds"], ignore_index=True
    )


def test_odd_series_stop_nobody_and_are_explained(fitted):
    got = fit_statistical(odd_panel(), build_customer())
    ordinary = got.forecasts[got.forecasts["unique_id"] == "A/1"].reset_index(drop=True)
    assert_frame_equal(ordinary, fitted.forecasts[fitted.forecasts["unique_id"] == "A/1"], check_exact=True)
    assert set(got.forecasts["unique_id"]) == set(odd_panel()["unique_id"]) - {"X/dead"}
    states = got.status.set_index(["unique_id", "model"])
    assert states.loc[("X/newborn", "auto_ets")].tolist() == ["short", "1 periods of history, auto_ets needs 21"]
    assert states.loc[("X/newborn", "weekday_mean"), "state"] == "ok"
    values = got.forecasts[backtest.columns(got.forecasts)].to_numpy()
    assert (values[~np.isnan(values)] >= 0).all()
    assert np.isfinite(values[~np.isnan(values)]).all()
    bad = got.status[got.status["state"] != "ok"]
    assert (bad["reason"] != "").all()


def test_the_ml_family_stands_odd_series():
    got = ml.fit(odd_panel(), build_customer(), CUTOFF, backtest.origins(CUTOFF, build_customer()), 1)
    assert got.forecasts["lightgbm"].notna().all()
    assert np.isfinite(got.forecasts["lightgbm"]).all()
    assert set(got.forecasts["unique_id"]) == set(odd_panel()["unique_id"]) - {"X/dead"}


def test_too_little_data_gives_no_booster_and_says_so():
    panel = rows("A/1", "2024-06-21", [1.0] * 10)
    got = ml.fit(panel, build_customer(), CUTOFF, [], 1)
    assert got.booster is None
    assert got.forecasts["lightgbm"].isna().all()
    assert got.status["state"].tolist() == ["short"]


@pytest.mark.parametrize(("change", "state"), [(-1.0, "ok"), (0.0, "failed")], ids=["net returns", "nothing sold"])
def test_labels_that_tweedie_refuses_stop_nobody(change, state):
    panel = build_panel(("A/1", "A/2"))
    if state == "ok":
        panel.loc[5::9, "y"] = np.where(panel.loc[5::9, "y"].isna(), np.nan, change)
    else:
        panel["y"] = panel["y"].where(panel["y"].isna(), 0.0)
        panel = panel[panel["ds"] > "2024-01-20"]  # newer than what retires a series that never sold
    got = ml.fit(panel, build_customer(), CUTOFF, [], 1)
    assert set(got.status["state"]) == {state}
    assert all(bool(reason) == (state == "failed") for reason in got.status["reason"])
    assert (got.booster is None) == (state == "failed")


def test_each_objective_forecasts_what_it_says():
    """Sales of 10, every fourth time 50: the mean is 20, the median 10."""
    panel = build_panel(("A/1", "A/2", "B/1"), days=300)
    known = panel["y"].notna()
    panel["y"] = np.where(np.random.default_rng(1).random(len(panel)) < 0.25, 50.0, 10.0)
    panel["y"] = panel["y"].where(known)
    level = {}
    for objective in ("tweedie", "poisson", "l2", "l1"):
        got = ml.fit(panel, build_customer(objective=objective), CUTOFF, [], 1)
        assert got.status["state"].eq("ok").all()
        level[objective] = got.forecasts["lightgbm"].mean()
    for objective in ("tweedie", "poisson", "l2"):
        assert level[objective] == pytest.approx(20, rel=0.25)
    assert level["l1"] == pytest.approx(10, rel=0.2)
    panel["y"] = np.random.default_rng(2).choice([10.0, 30.0, 40.0], len(panel))
    panel["y"] = panel["y"].where(known)
    half, percent = (
        ml.fit(panel, build_customer(objective=o), CUTOFF, [], 1).forecasts["lightgbm"].mean() for o in ("l1", "mape")
    )
    assert half == pytest.approx(30, rel=0.15)  # the median
    assert percent < 0.8 * half  # 1/10 outweighs 1/30 and 1/40 together; some of the noise is learnt


def test_a_period_without_sales_has_no_error_in_percent():
    panel = build_panel(("A/1", "A/2"))
    sold = np.where(np.random.default_rng(1).random(len(panel)) < 0.3, 10.0, 0.0)
    panel["y"] = np.where(panel["y"].notna(), sold, np.nan)
    half, percent = (
        ml.fit(panel, build_customer(objective=o), CUTOFF, [], 1).forecasts["lightgbm"].mean() for o in ("l1", "mape")
    )
    assert half < 5  # some of the noise is learnt
    assert percent == pytest.approx(10, rel=0.1)


def test_weeks_without_any_delivery_do_not_stop_the_global_model():
    panel = build_panel()
    out = (panel["ds"] > "2024-05-01") & (panel["ds"] <= "2024-05-25")
    got = ml.fit(panel[~out], build_customer(), CUTOFF, [], 1)
    assert got.forecasts["lightgbm"].notna().all()


def test_a_failing_model_is_a_status_and_not_an_error(monkeypatch):
    def explode(*_):
        raise ZeroDivisionError("no luck")

    monkeypatch.setattr(statistical, "_weekday_mean", explode)
    got = fit_statistical(build_panel(("A/1",)), build_customer(pool=["seasonal_naive"]), origins=False)
    failed = got.status[got.status["state"] == "failed"]
    assert failed["reason"].tolist() == ["ZeroDivisionError: no luck"]
    assert got.forecasts["weekday_mean"].isna().all()
    assert got.forecasts["seasonal_naive"].notna().all()


def test_a_model_that_one_series_breaks_still_serves_the_others(monkeypatch):
    mean = statistical._weekday_mean

    def picky(past, *rest):
        if (past.stop - past.start < 100).any():
            raise ZeroDivisionError("no luck")
        return mean(past, *rest)

    panel = pd.concat([build_panel(("A/1", "B/1")), build_panel(("A/2",), days=60)], ignore_index=True)
    panel = panel.sort_values(["unique_id", "ds"], ignore_index=True)
    want = fit_statistical(panel, build_customer(pool=["seasonal_naive"]), origins=False).forecasts
    monkeypatch.setattr(statistical, "_weekday_mean", picky)
    got = fit_statistical(panel, build_customer(pool=["seasonal_naive"]), origins=False)
    failed = got.status[got.status["state"] == "failed"]
    assert failed[["unique_id", "model"]].to_numpy().tolist() == [["A/2", "weekday_mean"]]
    broken = got.forecasts["unique_id"] == "A/2"
    assert got.forecasts.loc[broken, "weekday_mean"].isna().all()
    assert (got.forecasts.loc[~broken, "weekday_mean"] == want.loc[~broken, "weekday_mean"]).all()


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize("season_length", [1, 7, 13])
def test_all_series_at_once_are_what_each_is_alone_to_the_bit(season_length):
    rng = np.random.default_rng(0)
    length = rng.integers(season_length, 20 * season_length, 60)
    stop = np.cumsum(length)
    y, scored = rng.gamma(1.0, 3.0, stop[-1]), rng.random(stop[-1]) < 0.6
    scored[stop[5] - length[5] : stop[5]] = False
    past = statistical._Histories(y, scored, stop - length, stop)
    for name in statistical._AT_ONCE:
        forecaster = statistical._forecaster(name, season_length)
        alone = [forecaster(past.of(slice(at, at + 1)), season_length, 9) for at in range(len(stop))]
        assert (forecaster(past, season_length, 9) == np.concatenate(alone)).all(), name


def test_weekday_mean_and_seasonal_naive_agree_with_a_loop():
    panel, customer = build_panel(), build_customer()
    got = fit_statistical(panel, customer, origins=False).forecasts
    seen = panel[(panel["ds"] <= pd.Timestamp(CUTOFF)) & (panel["unique_id"] == "B/1")].set_index("ds")["y"]
    for step, day in enumerate(pd.date_range(CUTOFF, periods=8)[1:], start=1):
        row = got[(got["unique_id"] == "B/1") & (got["h"] == step)].iloc[0]
        same = [seen.get(day - pd.Timedelta(days=7 * back)) for back in range(1, 9)]
        assert row["weekday_mean"] == pytest.approx(np.mean([v for v in same if v is not None]))
        assert row["seasonal_naive"] == next(v for v in same if v is not None)


def test_a_weekly_customer_is_judged_beside_the_last_week_and_the_mean_of_four_observed():
    customer = build_customer(frequency="W", season_lengths=[1], horizon=2, absent="closed", exogenous={})
    y = [9.0, 1.0, 2.0, 3.0, np.nan, 6.0, np.nan]  # two weeks are missing, the newest among them
    panel = pd.DataFrame({"unique_id": "A/1", "ds": pd.date_range(end=CUTOFF, periods=7, freq="W-SUN"), "y": y})
    got = fit_statistical(panel, customer, origins=False).forecasts
    assert got["naive"].tolist() == [6.0, 6.0]
    assert got["recent_mean"].tolist() == [3.0, 3.0]
    assert not {"naive", "recent_mean"} & set(fit_statistical(build_panel(), build_customer(), origins=False).forecasts)


@pytest.mark.parametrize(
    ("frequency", "season", "freq", "horizon"),
    [("W", 52, "W-SUN", 3), ("W", 1, "W-SUN", 3), ("W", 52, "W-SUN", 60), ("M", 12, "ME", 3), ("M", 12, "ME", 18)],
)
def test_weekly_and_monthly_customers_are_forecast(frequency, season, freq, horizon):
    declared = {"season_lengths": [season], "horizon": horizon, "history_days": 3000, "exogenous": {}}
    customer = build_customer(frequency=frequency, **declared)
    ds = pd.date_range(end=CUTOFF, periods=120, freq=freq)
    rng = np.random.default_rng(1)
    panel = pd.concat(
        [pd.DataFrame({"unique_id": u, "ds": ds, "y": rng.poisson(5, 120).astype(float)}) for u in ("A/1", "A/2")],
        ignore_index=True,
    )
    origins = backtest.origins(CUTOFF, customer)[-1:]
    assert fit_statistical(panel, customer, origins=False).forecasts["weekday_mean"].notna().all()
    assert ml.fit(panel, customer, CUTOFF, origins, 1).forecasts["lightgbm"].notna().all()


def test_the_catalogue_is_ordered_by_cost_and_names_a_near_miss():
    assert order(["lightgbm", "tsb", "tsb"]) == ["tsb", "lightgbm"]
    assert members(("lightgbm", "imapa", "croston"), "statistical") == ["croston", "imapa"]
    with pytest.raises(UnknownModelError, match="Did you mean 'auto_ets'"):
        order(["auto_est"])


def test_families_judged_on_other_rows_are_refused(fitted, fitted_ml):
    with pytest.raises(ValueError, match="different rows"):
        backtest.join(fitted.scores, fitted_ml.scores.iloc[1:])
