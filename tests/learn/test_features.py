"""Features: nothing is seen before its time, and a row is the same whenever it is made."""

from __future__ import annotations

import gc
import hashlib
import weakref
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from forecasting import config
from forecasting.learn import features, grid
from forecasting.learn.models import ml

from .learn_cases import CUTOFF, build_customer, build_panel

PRICED = {"promotion": {"known": "future"}, "price": {"known": "future"}, "stock": {"known": "historic"}}


def priced_panel(days: int = 700) -> pd.DataFrame:
    panel = build_panel(("A/1", "A/2", "A/3", "B/1", "B/2"), days=days)
    random = np.random.default_rng(3)
    panel["price"] = random.choice([1.0, 1.5, 2.0], len(panel))
    panel["stock"] = random.integers(0, 50, len(panel)).astype(float)
    return panel


@pytest.fixture(scope="module")
def customer():
    return build_customer(exogenous=PRICED, history_days=2000)


def lay_out(panel, customer, cutoff=CUTOFF):
    return features.lay_out(grid.regularise(panel, customer, cutoff), panel, customer, cutoff)


def made(history, plan, back=0):
    """All rows of all series, aggregates included, at the origin ``back`` periods before the history's end."""
    steps = np.arange(1, history.horizon + 1)
    every = np.arange(history.size)
    origin = history.periods - 1 - back
    return features.Features(history, plan).make(origin, np.repeat(every, len(steps)), np.tile(steps, len(every)))


@pytest.mark.parametrize("back", [1, 30, 100])
def test_a_training_row_is_the_row_that_was_predicted_from_that_night(customer, back):
    """Skew: made from tonight's history for an origin of the past, or from the history as it stood then."""
    panel = priced_panel()
    tonight = lay_out(panel, customer)
    then = lay_out(panel, customer, CUTOFF - timedelta(days=back))
    plan = features.read_plan(tonight)
    now, old = made(tonight, plan, back), made(then, plan)
    names = features.Features(tonight, plan).names
    off = [name for at, name in enumerate(names) if not np.allclose(now.table[:, at], old.table[:, at], equal_nan=True)]
    assert off == []
    np.testing.assert_allclose(now.level, old.level)


def test_nothing_after_the_origin_but_the_plan_of_its_horizon_is_seen(customer):
    panel, back = priced_panel(), 50
    plan = features.read_plan(lay_out(panel, customer))
    other = panel.copy()
    origin = pd.Timestamp(CUTOFF) - pd.Timedelta(days=back)
    other.loc[(other["ds"] > origin) & other["y"].notna(), "y"] = 777.0
    other.loc[other["ds"] > origin, "stock"] = 777.0
    beyond = other["ds"] > origin + pd.Timedelta(days=customer.horizon)
    other.loc[beyond, ["price", "promotion"]] = 777.0
    before, after = made(lay_out(panel, customer), plan, back), made(lay_out(other, customer), plan, back)
    np.testing.assert_array_equal(before.table, after.table)
    np.testing.assert_array_equal(before.level, after.level)


def test_a_horizon_longer_than_a_year_sees_nothing_after_its_origin_either():
    """Eighteen months ahead, the same month of last year has not come yet."""
    customer = build_customer(frequency="M", season_lengths=[12], horizon=18, history_days=3000, exogenous={})
    ds = pd.date_range(end=CUTOFF, periods=70, freq="ME")
    sales = np.random.default_rng(1).poisson(9, (4, len(ds))).astype(float)
    frames = [pd.DataFrame({"unique_id": u, "ds": ds, "y": y}) for u, y in zip("ABCD", sales, strict=True)]
    panel = pd.concat([frame.assign(unique_id=frame["unique_id"] + "/1") for frame in frames], ignore_index=True)
    back, other = 24, panel.copy()
    other.loc[other["ds"] > ds[-1 - back], "y"] = 777.0
    plan = features.read_plan(lay_out(panel, customer))
    before, after = made(lay_out(panel, customer), plan, back), made(lay_out(other, customer), plan, back)
    np.testing.assert_array_equal(before.table, after.table)
    names = features.Features(lay_out(panel, customer), plan).names
    year = before.table.reshape(-1, 18, len(names))[..., names.index("total_year_day")]
    assert np.isfinite(year[:, :12]).all()
    assert np.isnan(year[:, 12:]).all()


@pytest.mark.parametrize(("column", "seen"), [("price", True), ("promotion", True), ("stock", False)])
def test_a_plan_is_seen_over_the_horizon_and_a_historic_column_is_not(customer, column, seen):
    panel = priced_panel()
    plan = features.read_plan(lay_out(panel, customer))
    other = panel.copy()
    other.loc[other["ds"] > pd.Timestamp(CUTOFF), column] = 7.0
    assert (
        np.array_equal(made(lay_out(panel, customer), plan).table, made(lay_out(other, customer), plan).table, True)
        != seen
    )


def test_other_features_are_another_generation(customer):
    """An older booster must not be read, and what changes a customer's forecasts is a version of its own."""
    history = lay_out(priced_panel(), customer)
    names = features.Features(history, features.read_plan(history)).names
    told = hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
    pinned = (2, 2, "54028b121de0")
    assert (ml.SPEC_VERSION, config.GENERATION, told) == pinned, "raise both numbers with the features, then pin anew"


def test_features_do_not_know_the_unit_of_sales(customer):
    """Ten times the sales: ten times the level, and the same features but for the level's own logarithm."""
    panel, tenfold = priced_panel(), priced_panel()
    tenfold["y"] *= 10
    one, ten = lay_out(panel, customer), lay_out(tenfold, customer)
    plan = features.read_plan(one)
    now, then = made(one, plan), made(ten, plan)
    np.testing.assert_allclose(then.level, 10 * now.level)
    names = features.Features(one, plan).names
    differing = {
        name for at, name in enumerate(names) if not np.allclose(now.table[:, at], then.table[:, at], equal_nan=True)
    }
    assert differing == {"level", "siblings_level"}


def test_an_aggregate_is_laid_out_as_the_sum_of_its_series(customer):
    history = lay_out(priced_panel(), customer)
    assert [node.node for node in history.nodes] == ["total", "brand"]
    np.testing.assert_allclose(history.y[5], history.y[:5].sum(axis=0))
    np.testing.assert_allclose(history.y[6], history.y[:3].sum(axis=0))
    share = history.future["promotion"][5]
    np.testing.assert_allclose(share, np.nanmean(history.future["promotion"][:5], axis=0))


def test_an_objective_that_forecasts_no_mean_has_no_aggregates():
    customer = build_customer(objective="l1")
    history = lay_out(build_panel(), customer)
    assert history.nodes == []
    assert history.size == 4
    assert (
        len(features.Features(history, features.read_plan(history)).make(20, np.arange(4), np.ones(4, int)).table) == 4
    )


def test_a_plan_that_is_everybody_s_is_not_compared_with_the_siblings(customer):
    panel = priced_panel()
    panel["price"] = (panel["ds"].dt.dayofweek == 5).astype(float)
    plan = features.read_plan(lay_out(panel, customer))
    assert set(plan.own) == {"promotion"}
    names = features.Features(lay_out(panel, customer), plan).names
    assert "x.price" in names
    assert "x.price.vs_siblings" not in names
    assert "x.promotion.vs_siblings" in names


def test_sales_of_days_with_a_like_plan_agree_with_a_loop(customer):
    panel = priced_panel(120)
    history = lay_out(panel, customer)
    plan = features.read_plan(history)._replace(own={"price": 0.1})
    names = features.Features(history, plan).names
    row, step, origin = 3, 2, history.periods - 1
    got = features.Features(history, plan).make(origin, np.array([row]), np.array([step]))
    price, y = history.future["price"][row], history.y[row]
    base = np.nanmean(price[: origin + 1])
    total = weight = 0.0
    for back in range(56):
        if history.scored[row, origin - back]:
            near = 0.97**back * np.exp(-0.5 * ((price[origin - back] - price[origin + step]) / base / 0.1) ** 2)
            total, weight = total + near * y[origin - back], weight + near
    assert got.table[0, names.index("x.price.alike")] == pytest.approx(total / weight / got.level[0], rel=1e-5)


def test_a_young_series_has_sales_of_days_with_a_like_plan(customer):
    """Before it began there was no plan to be like: those days count for nothing, and spoil nothing."""
    panel = priced_panel()
    young = (panel["unique_id"] == "A/1") & (panel["ds"] <= pd.Timestamp(CUTOFF) - pd.Timedelta(days=20))
    history = lay_out(panel[~young], customer)
    plan = features.read_plan(history)
    names = features.Features(history, plan).names
    rows = made(history, plan)
    likes = [at for at, name in enumerate(names) if name.endswith(".alike_weight")]
    row = history.ids.index("A/1")
    assert likes
    assert history.start[row] == history.periods - 20
    assert (rows.table[row * history.horizon : (row + 1) * history.horizon, likes] > 0).all()


def test_a_stored_plan_serves_a_feed_that_has_grown_or_shrunk(customer):
    """Which aggregates lend their season is read once: another count of series makes no other features."""
    panel = priced_panel()
    plan = features.read_plan(lay_out(panel, customer))
    assert plan.lenders == {"siblings": "brand"}
    names = features.Features(lay_out(panel, customer), plan).names
    fewer = lay_out(panel[panel["unique_id"].isin(["A/1", "B/1"])], customer)
    assert features.read_plan(fewer).lenders == {}
    assert features.Features(fewer, plan).names == names


def test_a_stored_plan_serves_histories_of_any_length(customer):
    panel = priced_panel()
    plan = features.read_plan(lay_out(panel, customer))
    names = features.Features(lay_out(panel, customer), plan).names
    assert features.Features(lay_out(priced_panel(2), customer), plan).names == names


def test_a_plan_by_a_node_that_is_gone_is_refused(customer):
    history = lay_out(priced_panel(), customer)
    plan = features.read_plan(history)._replace(lenders={"peers": "shop"})
    with pytest.raises(ValueError, match="groups by shop; tonight's hierarchy has no such"):
        features.Features(history, plan)


def test_a_column_may_have_any_name():
    """A customer's column can neither hide one of the features nor another column."""
    panel = priced_panel().rename(columns={"price": "level", "stock": "level_before"})
    kinds = {"promotion": {"known": "future"}, "level": {"known": "future"}, "level_before": {"known": "historic"}}
    renamed = build_customer(exogenous=kinds, history_days=2000)
    history = lay_out(panel, renamed)
    same = lay_out(priced_panel(), build_customer(exogenous=PRICED, history_days=2000))
    counts = [len(features.Features(one, features.read_plan(one)).names) for one in (history, same)]
    assert counts[0] == counts[1]


def test_a_historic_column_is_not_known_before_its_first_value():
    """Filled from behind, it would tell the past of the future."""
    stock = {"known": "historic", "fill": "last"}
    customer = build_customer(exogenous={**PRICED, "stock": stock}, history_days=2000)
    panel = priced_panel()
    panel.loc[panel["ds"] < panel["ds"].min() + pd.Timedelta(days=30), "stock"] = np.nan
    history = lay_out(panel, customer)
    assert np.isnan(history.historic["stock"][0, :30]).all()
    assert np.isfinite(history.historic["stock"][0, 30:]).all()


def test_a_history_is_gone_with_the_last_who_holds_it(customer):
    """One of a large customer is gigabytes: the next origin's may not stand beside one that waits for the collector."""
    history = lay_out(priced_panel(), customer)
    made(history, features.read_plan(history))
    held = weakref.ref(history)
    gc.disable()
    try:
        del history
        assert held() is None
    finally:
        gc.enable()


def test_a_plan_with_a_filled_gap_here_and_there_is_still_everybody_s(customer):
    panel = priced_panel()
    panel["price"] = (panel["ds"].dt.dayofweek == 5).astype(float)
    panel.loc[panel.index[panel["price"] == 1][:3], "price"] = 0.0
    assert set(features.read_plan(lay_out(panel, customer)).own) == {"promotion"}
    panel.loc[panel.index[panel["price"] == 1][:60], "price"] = 0.0
    assert set(features.read_plan(lay_out(panel, customer)).own) == {"price", "promotion"}
