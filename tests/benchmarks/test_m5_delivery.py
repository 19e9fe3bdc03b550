"""What is delivered comes through pull, contract and panel cell by cell, and nothing after the cutoff does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.m5 import delivery, evaluate
from benchmarks.m5.world import HORIZON, KEYS, day

ORIGIN = 84


@pytest.fixture(scope="module")
def declared():
    return delivery.customer()


@pytest.fixture(scope="module")
def panel(made, declared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    return delivery.panel(declared, delivery.deliver(made, folder), ORIGIN, folder)


def _cells(panel, made, column):
    table = panel.pivot(index="unique_id", columns="ds", values=column).reindex(made.series["unique_id"])
    days = pd.date_range(day(1), periods=ORIGIN + HORIZON)
    return table.reindex(columns=days).to_numpy()


def test_the_customer_declares_the_twelve_levels(declared):
    assert declared.columns.keys == KEYS
    assert declared.horizon == HORIZON
    assert {**declared.nodes, "bottom": KEYS} == evaluate.LEVELS


def test_sales_and_prices_arrive_where_an_item_is_on_sale(panel, made):
    listed = np.isfinite(made.prices[:, : ORIGIN + HORIZON])
    came = _cells(panel, made, "price")
    assert np.array_equal(np.isfinite(came), listed)
    assert np.allclose(came[listed], made.prices[:, : ORIGIN + HORIZON][listed])
    sold = _cells(panel, made, "y")[:, :ORIGIN]
    assert np.array_equal(sold[listed[:, :ORIGIN]], made.sales[:, :ORIGIN][listed[:, :ORIGIN]])


def test_no_quantity_after_the_origin_arrives(panel):
    later = panel["ds"] > pd.Timestamp(day(ORIGIN))
    assert panel.loc[later, "y"].isna().all()
    assert panel.loc[~later, "y"].notna().all()
    assert panel["ds"].max() == pd.Timestamp(day(ORIGIN + HORIZON))


def test_food_stamps_are_the_states_and_events_are_everybodys(panel, made):
    on_sale = np.isfinite(_cells(panel, made, "price"))
    for name, of_day in (("CA", 3), ("TX", 5)):
        of_state = (made.series["state"] == name).to_numpy()
        expected = np.tile(np.arange(ORIGIN + HORIZON) % of_day == 0, (int(of_state.sum()), 1))
        found = _cells(panel, made, "snap")[of_state]
        assert np.array_equal(found[on_sale[of_state]], expected[on_sale[of_state]])
    by_day = panel.groupby("ds")[["event", "cultural", "national", "religious", "sporting"]].agg(["min", "max"])
    assert (by_day.xs("min", axis=1, level=1) == by_day.xs("max", axis=1, level=1)).all(axis=None)
    table = by_day.xs("max", axis=1, level=1)
    days = table[(table != 0).any(axis=1)]
    assert list(days.index) == [pd.Timestamp(day(n)) for n in (8, 31, 91)]
    assert days.to_numpy().tolist() == [[2, 0, 0, 0, 1], [1, 1, 0, 0, 0], [2, 1, 0, 0, 1]]


def test_pieces_make_the_same_panel_as_the_whole(panel, made, declared, tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "AT_ONCE", 10)
    parts = delivery.deliver(made, tmp_path)
    assert [part.name for part in parts] == ["CA_1", "CA_2", "TX_1"]
    pd.testing.assert_frame_equal(delivery.panel(declared, parts, ORIGIN, tmp_path), panel)


def test_what_was_made_is_read_again_and_not_made_again(made, declared, panel, tmp_path):
    said: list[str] = []
    for _ in range(2):
        parts = delivery.deliver(made, tmp_path, said.append)
        again = delivery.panel(declared, parts, ORIGIN, tmp_path, said.append)
        pd.testing.assert_frame_equal(again, panel)
    assert sum(line.startswith(("writing", "pull")) for line in said) == 2


def test_the_pull_reaches_back_as_far_as_the_oldest_origin_needs(declared):
    short = declared.model_copy(update={"history_days": 30})
    windows = short.backtest.windows
    assert delivery.since(short, 1913) == 1913 - 28 * windows - 30 + 1
    assert delivery.since(declared, 100) == 1


def test_a_delivery_that_breaks_the_contract_ends_the_run_and_leaves_nobody_waiting(made, declared, tmp_path):
    parts = delivery.deliver(replace(made, prices=made.prices * 1000), tmp_path, lambda _: None)
    with pytest.raises(SystemExit, match="price_in_range"):
        delivery.panel(declared, parts, ORIGIN, tmp_path, lambda _: None)


def test_a_pull_that_does_not_end_is_given_up(made, declared, tmp_path, monkeypatch):
    parts = delivery.deliver(made, tmp_path, lambda _: None)
    monkeypatch.setattr(delivery, "LONGEST", 0.01)
    with pytest.raises(SystemExit, match=r"all: no panel after 0.01 s"):
        delivery.panel(declared, parts, ORIGIN, tmp_path, lambda _: None)
