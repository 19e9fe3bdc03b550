"""Ladder, hierarchy and audit: every series stands somewhere, sums agree, and nothing wrong passes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from forecasting.frames import CALIBRATION, PUBLISHED, STATUS, empty
from forecasting.learn import grid, ladder, publication, reconciliation

from .learn_cases import CUTOFF, build_customer, build_panel, rows

CUSTOMER = build_customer()


def odd_panel() -> pd.DataFrame:
    """Four ordinary series, one dead, one never sold, one that is only planned."""
    day = str((pd.Timestamp(CUTOFF) - pd.Timedelta(days=199)).date())
    tomorrow = str((pd.Timestamp(CUTOFF) + pd.Timedelta(days=1)).date())
    recent = str((pd.Timestamp(CUTOFF) - pd.Timedelta(days=9)).date())
    extra = [
        rows("A/dead", day, [2.0] * 5 + [0.0] * 195),
        rows("B/unsold", recent, [0.0] * 10),
        rows("C/planned", tomorrow, [np.nan] * 7),
    ]
    return pd.concat([build_panel(), *extra], ignore_index=True).sort_values(["unique_id", "ds"], ignore_index=True)


def forecasts(panel: pd.DataFrame, **models: float) -> pd.DataFrame:
    frame, _ = grid.future_frame(panel, CUSTOMER, CUTOFF, ladder.live(panel, CUTOFF))
    return frame[["unique_id", "h", "ds"]].assign(**models)


def complete(panel=None, y_hat=None, raw=None):
    panel = odd_panel() if panel is None else panel
    raw = forecasts(panel, seasonal_naive=1.0, weekday_mean=2.0, tsb=2.5) if raw is None else raw
    combined = raw[["unique_id", "h", "ds"]].assign(y_hat=3.3333, model="lightgbm")
    for unique_id, value in (y_hat or {}).items():
        combined.loc[combined["unique_id"] == unique_id, "y_hat"] = value
    return ladder.complete(combined, raw, panel, CUSTOMER, CUTOFF, empty(STATUS))


@pytest.fixture
def published():
    bottom, account = complete()
    scales = grid.scales(grid.regularise(odd_panel(), CUSTOMER, CUTOFF))
    return publication.assemble(bottom, empty(CALIBRATION), scales, CUSTOMER), account


def test_nothing_is_forecast_for_a_closed_weekday_on_any_node():
    customer = build_customer(closed_weekdays=["saturday", "sunday"])
    scales = grid.scales(grid.regularise(odd_panel(), customer, CUTOFF))
    made = publication.assemble(complete()[0], empty(CALIBRATION), scales, customer)
    usual = publication.assemble(complete()[0], empty(CALIBRATION), scales, CUSTOMER)
    shut = made["ds"].dt.dayofweek >= 5
    assert set(made.loc[shut, "node"]) == {"bottom", "brand", "total"}
    assert (made.loc[shut, ["y_hat", "q025", "q10", "q50", "q90", "q975"]] == 0).all(axis=None)
    assert_frame_equal(made[~shut], usual[~shut], check_exact=True)
    assert publication.audit(made, complete()[1], customer, CUTOFF) == []


def test_every_series_stands_on_one_rung():
    bottom, account = complete()
    assert account.set_index("unique_id")["status"].to_dict() == {
        **dict.fromkeys(["A/1", "A/2", "B/1", "B/2"], "ok"),
        "A/dead": "retired",
        "B/unsold": "cold_start",
        "C/planned": "cold_start",
    }
    assert bottom.groupby("unique_id").size().to_dict() == dict.fromkeys(set(account["unique_id"]) - {"A/dead"}, 7)
    assert np.isfinite(bottom["y_hat"]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e9, -1.0], ids=str)
def test_a_forecast_that_cannot_be_true_falls_to_the_next_rung_and_says_why(bad):
    bottom, account = complete(y_hat={"A/1": bad})
    row = account.set_index("unique_id").loc["A/1"]
    assert row[["status", "rung", "model"]].tolist() == ["fallback", "cheaper", "weekday_mean"]
    assert row["reason"].startswith("lightgbm ")
    assert bottom.loc[bottom["unique_id"] == "A/1", "y_hat"].tolist() == [2.0] * 7


def test_one_missing_step_is_enough_to_leave_a_rung():
    combined = forecasts(odd_panel()).assign(y_hat=3.0, model="lightgbm")
    combined.loc[(combined["unique_id"] == "A/1") & (combined["h"] == 4), "y_hat"] = np.nan
    raw = forecasts(odd_panel(), weekday_mean=2.0)
    bottom, _ = ladder.complete(combined, raw, odd_panel(), CUSTOMER, CUTOFF, empty(STATUS))
    assert set(bottom.loc[bottom["unique_id"] == "A/1", "rung"]) == {"cheaper"}


@pytest.mark.parametrize(
    ("models", "rung"),
    [
        ({"tsb": 2.5, "weekday_mean": np.nan}, "cheaper"),
        ({"seasonal_naive": 1.0, "tsb": 1e9}, "seasonal_naive"),
        ({"seasonal_naive": np.nan}, "naive"),
    ],
)
def test_the_rungs_follow_in_order(models, rung):
    _, account = complete(y_hat={"A/1": np.nan}, raw=forecasts(odd_panel(), **models))
    assert account.set_index("unique_id").loc["A/1", "rung"] == rung


def test_a_cold_start_is_the_mean_of_its_nearest_siblings():
    bottom, _ = complete(y_hat={"B/1": 2.0, "B/2": 4.0})
    by_series = bottom.groupby("unique_id")["y_hat"].first()
    assert by_series["B/unsold"] == 3.0
    assert by_series["C/planned"] == pytest.approx((3.3333 * 2 + 2 + 4) / 4)


def test_a_dead_series_is_retired_by_the_stated_rule():
    panel = rows("A/1", "2024-01-01", [1.0])
    day = pd.Timestamp("2024-01-01")
    assert ladder.retired(panel, (day + pd.Timedelta(days=ladder.RETIRED_AFTER - 1)).date()).empty
    assert ladder.retired(panel, (day + pd.Timedelta(days=ladder.RETIRED_AFTER)).date()).index.tolist() == ["A/1"]


def test_the_hierarchy_s_table_names_every_node():
    table = reconciliation.series_table(["A/1", "A/2", "B/1"], CUSTOMER)
    assert table[["unique_id", "node", "depth"]].values.tolist() == [
        ["total", "total", 0],
        ["A", "brand", 1],
        ["B", "brand", 1],
        ["A/1", "bottom", 2],
        ["A/2", "bottom", 2],
        ["B/1", "bottom", 2],
    ]
    assert table.loc[1, ["key_1", "key_2"]].tolist() == ["A", None]


def test_crossing_groups_have_ids_of_their_own_keys():
    table = reconciliation.series_table(["A/x%2Fy", "B/x%2Fy"], build_customer(hierarchy=["item", ["brand", "item"]]))
    assert set(table.loc[table["node"] == "item", "unique_id"]) == {"x%2Fy"}
    assert set(table.loc[table["node"] == "brand_item", "unique_id"]) == {"A/x%2Fy", "B/x%2Fy"}


def test_upper_nodes_are_sums_of_what_readers_see(published):
    frame, _ = published
    bottom = frame[frame["node"] == "bottom"]
    for brand in ("A", "B", "C"):
        mine = bottom[bottom["unique_id"].str.startswith(f"{brand}/")].groupby("h")["y_hat"].sum()
        theirs = frame[(frame["node"] == "brand") & (frame["unique_id"] == brand)].set_index("h")["y_hat"]
        assert (mine - theirs).abs().max() < 1e-9
    assert set(bottom["y_hat"].map(lambda v: round(v, 3) == v)) == {True}


def test_the_published_set_passes_its_audit(published):
    frame, account = published
    assert PUBLISHED.check(frame) is frame
    assert publication.audit(frame, account, CUSTOMER, CUTOFF) == []


def spoil(column, value, node="bottom"):
    def change(frame):
        at = frame.index[frame["node"] == node][3]
        frame.loc[at, column] = value
        return frame

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil("y_hat", np.nan), "not finite"),
        (spoil("q10", -0.5), "below zero"),
        (spoil("q90", 0.0), "out of order"),
        (spoil("y_hat", 99.0), "not coherent"),
        (spoil("y_hat", 99.0, "total"), "not coherent"),
        (spoil("ds", pd.Timestamp("2030-01-01")), "ds is not cutoff"),
        (spoil("h", 99), "ds is not cutoff"),
        (spoil("rung", "magic"), "unknown rung"),
        (lambda f: f.drop(index=f.index[-1]), "rows instead of 7"),
        (lambda f: f[f["unique_id"] != "B/2"], "no rows for bottom/B/2"),
        (lambda f: f[f["node"] != "total"], "no rows for total/total"),
        (lambda f: pd.concat([f, f.iloc[:1]], ignore_index=True), "doubled"),
        (lambda f: pd.concat([f, f.iloc[:7].assign(unique_id="Z")], ignore_index=True), "should have none"),
        (lambda f: f.drop(columns="q90"), "columns missing"),
    ],
)
def test_the_audit_finds_what_is_wrong(published, change, message):
    frame, account = published
    problems = publication.audit(change(frame.copy()), account, CUSTOMER, CUTOFF)
    assert any(message in problem for problem in problems), problems


def test_the_set_does_not_depend_on_the_order_of_rows(published):
    frame, _ = published
    bottom, _ = complete()
    scales = grid.scales(grid.regularise(odd_panel(), CUSTOMER, CUTOFF)).iloc[::-1]
    shuffled = bottom.sample(frac=1, random_state=1)
    assert_frame_equal(publication.assemble(shuffled, empty(CALIBRATION), scales, CUSTOMER), frame, check_exact=True)
