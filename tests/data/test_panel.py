from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.data import contracts
from forecasting.data.panel import NEGATIVE, PARTIAL, check_panel, merge, sample, to_panel
from forecasting.errors import ConfigurationError
from forecasting.frames import join_id
from forecasting.periods import period_end

from .conftest import CONTRACT, CUTOFF, make_customer

GATE = "version: 1.0.0\ncustomProperties:\n  - {property: gateMostly, value: 0.8}"
DAYS = pd.date_range("2024-01-01", "2024-01-23")


def lines(*rows, promo=0.0):
    """(day, store, item, qty) → feed rows."""
    frame = pd.DataFrame(rows, columns=["day", "store", "item", "qty"])
    frame["day"] = pd.to_datetime(frame["day"])
    return frame.assign(qty=frame["qty"].astype(float), promo=promo, line=np.arange(2, len(rows) + 2))


none = lines()


def y(mapped):
    return {(r.unique_id, str(r.ds.date())): r.y for r in mapped.panel.itertuples()}


def test_lines_of_one_day_add_up_and_ids_are_escaped():
    accepted = lines(("2024-01-02", "S1", "6/2", 3), ("2024-01-02", "S1", "6/2", 4), ("2024-01-02", "S1", "7", 1))
    mapped = to_panel(accepted, none, make_customer(), CUTOFF)
    assert y(mapped) == {("S1/6%2F2", "2024-01-02"): 7, ("S1/7", "2024-01-02"): 1}
    assert mapped.lines.used == 3


def test_a_quarantined_period_is_missing_never_zero():
    accepted = lines(("2024-01-02", "S1", "1", 3), ("2024-01-03", "S1", "1", 4))
    bad = lines(("2024-01-02", "S1", "1", -9), ("2024-01-04", "S1", "1", -9), (None, "S1", "1", 1))
    mapped = to_panel(accepted, bad, make_customer(), CUTOFF)
    got = y(mapped)
    assert np.isnan(got["S1/1", "2024-01-02"])
    assert np.isnan(got["S1/1", "2024-01-04"])
    assert got["S1/1", "2024-01-03"] == 4
    assert mapped.missing == {"quarantined": 2}
    assert (mapped.lines.quarantined, mapped.lines.read) == (3, 5)
    assert mapped.filled == {"promo": 1}  # of the day that only the quarantined line spoke of
    check_panel(mapped.panel, make_customer())


def test_returns_are_excluded_and_counted_or_netted():
    accepted = lines(("2024-01-02", "S1", "1", 5), ("2024-01-02", "S1", "1", -2), ("2024-01-03", "S1", "1", -2))
    excluded = to_panel(accepted, none, make_customer(), CUTOFF)
    assert list(y(excluded).values()) == [5, 0]
    assert excluded.excluded == {NEGATIVE: 2}
    netted = to_panel(accepted, none, make_customer(returns="net"), CUTOFF)
    assert y(netted)["S1/1", "2024-01-02"] == 3
    assert np.isnan(y(netted)["S1/1", "2024-01-03"])  # a negative net is missing, not clipped
    assert netted.missing == {"negative net": 1}


def test_after_the_cutoff_only_what_is_known_ahead_is_kept():
    customer = make_customer(exogenous={"promo": {"known": "future"}, "price": {"known": "historic"}})
    accepted = lines(("2024-01-20", "S1", "1", 5), ("2024-01-21", "S1", "1", 6), promo=1.0).assign(price=2.5)
    mapped = to_panel(accepted, accepted.head(0), customer, CUTOFF)
    past, later = mapped.panel.iloc[0], mapped.panel.iloc[1]
    assert (past["y"], past["promo"], past["price"]) == (5, 1, 2.5)
    assert np.isnan(later["y"])
    assert later["promo"] == 1
    assert (mapped.lines.used, mapped.lines.future) == (1, 1)


def test_an_empty_plan_cell_takes_the_declared_fill_and_is_counted():
    customer = make_customer(exogenous={"promo": {"known": "future", "fill": 0.5}})
    mapped = to_panel(lines(("2024-01-21", "S1", "1", 6), promo=np.nan), none, customer, CUTOFF)
    assert mapped.panel["promo"].tolist() == [0.5]
    assert mapped.filled == {"promo": 1}


def test_partial_periods_never_enter():
    customer = make_customer(frequency="W", horizon=1)
    accepted = lines(*((day, "S1", "1", 1) for day in pd.date_range("2024-01-03", "2024-01-24")))
    mapped = to_panel(accepted, none, customer, date(2024, 1, 21))
    assert {k[1]: v for k, v in y(mapped).items() if not np.isnan(v)} == {"2024-01-14": 7, "2024-01-21": 7}
    assert mapped.excluded == {PARTIAL: 5}
    assert mapped.lines.future == 3
    covered = to_panel(accepted, none, customer, date(2024, 1, 21), since=date(2024, 1, 1))
    assert y(covered)["S1/1", "2024-01-07"] == 5  # the pull began before: its first two days had no sales


row = st.tuples(
    st.sampled_from(list(DAYS)),
    st.sampled_from(["S1", "S2"]),
    st.sampled_from(["1", "2"]),
    st.integers(-2, 9),
    st.booleans(),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(row, max_size=30), st.sampled_from(["D", "W", "M"]), st.sampled_from(["exclude", "net"]))
def test_every_line_is_accounted_for_and_sums_are_right(rows, frequency, returns):
    """Oracle: a loop over the lines."""
    customer = make_customer(frequency=frequency, returns=returns)
    cutoff = {"D": CUTOFF, "W": date(2024, 1, 14), "M": date(2023, 12, 31)}[frequency]
    accepted = lines(*(r[:4] for r in rows if not r[4]))
    bad = lines(*(r[:4] for r in rows if r[4]))
    mapped = to_panel(accepted, bad, customer, cutoff, since=date(2024, 1, 1))
    check_panel(mapped.panel, customer)
    want: dict[tuple[str, str], float] = {}
    for day, store, item, qty, quarantined in rows:
        end = period_end(day.date(), frequency)
        key = (join_id([store, item]), str(end))
        unknown = quarantined or end > cutoff
        counted = 0 if qty < 0 and returns == "exclude" else qty
        want[key] = want.get(key, 0) + (np.nan if unknown else counted)
    want = {key: np.nan if value < 0 else value for key, value in want.items()}
    assert y(mapped) == pytest.approx(want, nan_ok=True)
    assert mapped.lines.read == len(rows)
    assert mapped.lines.quarantined == len(bad)


@settings(deadline=None, max_examples=40)
@given(st.lists(row, max_size=30), st.integers(1, 20), st.sampled_from(["D", "W"]))
def test_an_incremental_pull_gives_the_panel_of_a_full_one(rows, first, frequency):
    customer = make_customer(frequency=frequency)
    accepted = lines(*(r[:4] for r in rows))
    end = period_end(date(2024, 1, first), frequency)
    since = date(2024, 1, first) if frequency == "D" else end.replace(day=max(end.day - 6, 1))
    cutoff, earlier = date(2024, 1, 21), date(2024, 1, 14)
    full = to_panel(accepted, none, customer, cutoff, since=date(2024, 1, 1)).panel
    previous = to_panel(accepted, none, customer, max(earlier, end), since=date(2024, 1, 1)).panel
    window = accepted[accepted["day"] >= pd.Timestamp(since)].reset_index(drop=True)
    new = to_panel(window, none, customer, cutoff, since=since).panel
    pd.testing.assert_frame_equal(merge(previous, new, since), full)


def test_a_restated_day_is_replaced_as_a_whole():
    customer = make_customer()
    previous = to_panel(lines(("2024-01-02", "S1", "1", 3), ("2024-01-02", "S1", "2", 4)), none, customer, CUTOFF).panel
    new = to_panel(lines(("2024-01-02", "S1", "1", 5)), none, customer, CUTOFF).panel
    merged = merge(previous, new, date(2024, 1, 2))
    assert merged[["unique_id", "y"]].to_numpy().tolist() == [["S1/1", 5.0]]


def test_panels_of_other_columns_do_not_merge():
    panel = to_panel(lines(("2024-01-02", "S1", "1", 3)), none, make_customer(), CUTOFF).panel
    with pytest.raises(ConfigurationError, match=r"\(promo\).*full_refresh"):
        merge(panel, panel.drop(columns="promo"), CUTOFF)


FAULTS = {
    "negative": lambda p: p.assign(y=-1.0),
    "infinite": lambda p: p.assign(y=np.inf),
    "infinite promotion": lambda p: p.assign(promo=np.inf),
    "unsorted days": lambda p: p.iloc[[1, 0, 2]].reset_index(drop=True),
    "unsorted series": lambda p: p.iloc[[2, 0, 1]].reset_index(drop=True),
    "key twice": lambda p: pd.concat([p, p.tail(1)], ignore_index=True),
    "one key too few": lambda p: p.assign(unique_id="S1"),
    "empty key": lambda p: p.assign(unique_id=["/1", "/1", "S2/1"]),
    "another column": lambda p: p.assign(price=1.0),
}


@pytest.mark.parametrize("spoil", FAULTS.values(), ids=FAULTS.keys())
def test_a_panel_that_is_not_canonical_is_refused(spoil):
    accepted = lines(("2024-01-02", "S1", "1", 3), ("2024-01-03", "S1", "1", 3), ("2024-01-03", "S2", "1", 3))
    panel = to_panel(accepted, none, make_customer(), CUTOFF).panel
    check_panel(panel, make_customer())
    with pytest.raises(ValueError, match="panel"):
        check_panel(spoil(panel), make_customer())


def test_a_key_that_the_contract_refuses_makes_no_series(write_contract):
    feed = lines(*((f"2024-01-{day:02d}", "S1", "1", 3) for day in range(1, 21)), ("2024-01-20", "S1", "x" * 300, 3))
    feed = pd.concat([feed, lines(("2024-01-19", "S1", "1", -5)).assign(line=99)], ignore_index=True)
    customer, contract = make_customer(), contracts.load(write_contract(CONTRACT.replace("version: 1.0.0", GATE)))
    verdict = contracts.check(feed, contract, customer, cutoff=CUTOFF)
    unnamed = verdict.refused_for(customer.columns.keys)
    mapped = to_panel(verdict.accepted, verdict.rejected, customer, CUTOFF, unnamed=unnamed)
    assert set(mapped.panel["unique_id"]) == {"S1/1"}
    assert np.isnan(y(mapped)["S1/1", "2024-01-19"])  # a bad value leaves a hole in the series that its key names
    assert (mapped.lines.quarantined, mapped.missing) == (3, {"quarantined": 1})


def test_a_sum_of_nothing_is_unknown_and_a_price_is_made_of_whole_lines():
    exogenous = {
        "price": {"known": "historic", "of": "value", "per": "qty", "fill": "last"},
        "visits": {"known": "historic", "aggregate": "sum", "fill": 7},
    }
    sold = (("2024-01-02", 3), ("2024-01-02", 3), ("2024-01-03", 3), ("2024-01-21", np.nan))
    accepted = lines(*((day, "S1", "1", quantity) for day, quantity in sold))
    accepted = accepted.assign(value=[6, np.nan, np.nan, np.nan], visits=[1, np.nan, np.nan, np.nan])
    mapped = to_panel(accepted, accepted.head(0), make_customer(exogenous=exogenous), CUTOFF)
    assert mapped.panel["y"].tolist()[:2] == [6, 3]
    np.testing.assert_array_equal(mapped.panel["price"], [2, np.nan, np.nan])
    np.testing.assert_array_equal(mapped.panel["visits"], [1, 7, np.nan])
    assert mapped.filled == {"visits": 1}


# --- a sample -------------------------------------------------------------------------------------------------------


def sold(**volumes):
    rows = [(name, day, volume / 2) for name, volume in volumes.items() for day in DAYS[:2]]
    return pd.DataFrame(rows, columns=["unique_id", "ds", "y"])


def test_a_sample_holds_whole_series_spread_over_sales_volume():
    panel = sold(**{f"s{n:02d}": 1000 - n for n in range(20)})
    kept = sample(panel, 4)
    assert list(kept["unique_id"].unique()) == ["s02", "s07", "s12", "s17"]
    assert len(kept) == 8


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 14), st.randoms())
@settings(deadline=None)
def test_a_sample_is_the_same_for_any_order_of_rows_and_never_larger_than_asked(volumes, count, random):
    panel = sold(**{f"s{n:02d}": volume for n, volume in enumerate(volumes)})
    shuffled = panel.sample(frac=1, random_state=random.randint(0, 9))
    kept = set(sample(panel, count)["unique_id"])
    assert kept == set(sample(shuffled, count)["unique_id"])
    assert len(kept) == min(count, len(volumes))


def test_a_sample_keeps_the_series_of_an_earlier_one_first():
    panel = sold(**{f"s{n:02d}": n for n in range(20)})
    kept = sample(panel, 4, frozenset({"s03", "s04", "gone"}))
    assert {"s03", "s04"} < set(kept["unique_id"])
    assert kept["unique_id"].nunique() == 4
    assert set(sample(panel, 1, frozenset({"s03", "s04"}))["unique_id"]) == {"s03"}
