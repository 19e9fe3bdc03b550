"""Lines left out by rule, units, derived columns: what a customer declares of its lines is done, and counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecasting.config import Customer
from forecasting.data import contracts
from forecasting.data.panel import DUPLICATE, exclude, to_panel
from forecasting.data.sources import delivered
from forecasting.learn import grid

from .conftest import CUTOFF, make_customer


def till(**changes: Any) -> Customer:
    """Till lines: day, item, receipt, unit, price, pieces, money."""
    base: dict[str, Any] = {
        "columns": {"ds": "day", "y": "pieces", "keys": ["item"], "other": ["receipt"]},
        "exogenous": {"price": {"known": "historic", "of": "money", "per": "pieces", "fill": "last"}},
        "exclude": [
            {"rule": "cancelled", "column": "receipt", "matches": "C.*"},
            {"rule": "no_product", "column": "item", "values": ["POST", "M"]},
            {"rule": "free", "column": "money", "at_most": 0},
        ],
        "duplicates": "exclude",
    }
    return make_customer(**(base | changes))


def lines(*rows: tuple[Any, ...]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["day", "item", "receipt", "pieces", "money"])
    frame["day"] = pd.to_datetime(frame["day"])
    return frame.astype({"pieces": "float64", "money": "float64"}).assign(line=np.arange(2, len(rows) + 2))


FEED = lines(
    ("2024-01-02", "1", "r1", 2, 10),
    ("2024-01-02", "1", "r1", 2, 10),  # the same line again
    ("2024-01-02", "1", "r2", 3, 12),
    ("2024-01-02", "1", "C3", -2, -10),
    ("2024-01-02", "POST", "r1", 1, 4),
    ("2024-01-03", "1", "r4", 1, 0),
    ("2024-01-03", "2", "C5", 1, 0),  # two rules: the first one counts it
    ("2024-01-04", "2", None, 1, 5),  # no receipt: no rule speaks of it
    ("2024-01-22", "1", "r6", np.nan, np.nan),  # after the cutoff
    ("2024-01-22", "1", "r6", np.nan, np.nan),
)


def test_each_excluded_line_is_counted_once_under_the_first_rule_it_meets():
    kept, counts = exclude(FEED, till(), CUTOFF)
    assert counts == {"cancelled": 2, "no_product": 1, "free": 1, DUPLICATE: 1}
    assert kept["line"].tolist() == [2, 4, 9, 10, 11]
    assert len(kept) + sum(counts.values()) == len(FEED)
    assert exclude(FEED, till(exclude=[], duplicates="keep"), CUTOFF)[1] == {}


def test_excluded_lines_stay_in_the_account_of_lines():
    customer = till()
    kept, counts = exclude(FEED, customer, CUTOFF)
    mapped = to_panel(kept, FEED.iloc[:0], customer, CUTOFF, excluded=counts)
    assert (mapped.lines.read, mapped.lines.used, mapped.lines.excluded, mapped.lines.future) == (10, 3, 5, 2)
    assert mapped.excluded == counts


def test_a_price_is_what_a_period_brought_by_what_it_sold():
    customer = till()
    kept, _ = exclude(FEED, customer, CUTOFF)
    panel = to_panel(kept, FEED.iloc[:0], customer, CUTOFF).panel.set_index(["unique_id", "ds"])
    assert panel.loc[("1", pd.Timestamp("2024-01-02")), "price"] == 22 / 5
    assert panel.loc[("2", pd.Timestamp("2024-01-04")), "price"] == 5
    assert np.isnan(panel.loc[("1", pd.Timestamp("2024-01-22")), "price"])


def test_a_return_changes_no_price():
    rows = lines(("2024-01-02", "1", "r1", 2, 10), ("2024-01-02", "1", "r2", -1, -5))
    panel = to_panel(rows, rows.iloc[:0], till(exclude=[]), CUTOFF).panel
    assert panel["price"].tolist() == [5.0]
    netted = to_panel(rows, rows.iloc[:0], till(exclude=[], returns="net"), CUTOFF).panel
    assert netted["price"].tolist() == [5.0]
    assert netted["y"].tolist() == [1.0]


def test_the_grid_carries_the_last_price_over_periods_without_sales_and_never_looks_ahead_of_the_first():
    rows = lines(("2024-01-02", "1", "r1", 2, 10), ("2024-01-05", "1", "r2", 1, 8))
    customer = till(exclude=[])
    panel = to_panel(rows, rows.iloc[:0], customer, CUTOFF).panel
    made = grid.regularise(panel, customer, CUTOFF)
    assert made["price"].tolist()[:5] == [5, 5, 5, 8, 8]
    early = grid.regularise(panel, customer, pd.Timestamp("2024-01-04").date())
    assert early["price"].tolist() == [5, 5, 5]


def units(**changes: Any) -> Customer:
    unit = {"column": "unit", "factors": {"EA": 1, "CASE": 12}}
    return make_customer(columns={"ds": "day", "y": "qty", "keys": ["item"], "unit": unit}, exogenous={}, **changes)


def in_units(*rows: tuple[Any, ...]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["day", "item", "unit", "qty"])
    return frame.assign(
        day=pd.to_datetime(frame["day"]), qty=frame["qty"].astype(float), line=np.arange(2, len(rows) + 2)
    )


def test_quantities_are_added_in_one_unit():
    rows = in_units(("2024-01-20", "1", "EA", 5), ("2024-01-20", "1", "CASE", 2))
    assert to_panel(rows, rows.iloc[:0], units(), CUTOFF).panel["y"].tolist() == [29]
    assert delivered(units()) == {"day": "date", "item": "string", "unit": "string", "qty": "number"}


def test_a_unit_that_nobody_declared_is_quarantined_and_never_guessed(write_contract):
    text = (
        "apiVersion: v3.0.2\nkind: DataContract\nid: acme\nversion: 1.0.0\nstatus: active\n"
        "customProperties: [{property: gateMostly, value: 0.5}]\nschema:\n  - name: s\n    properties:\n"
        "      - {name: day, logicalType: date, required: true}\n      - {name: item, logicalType: string}\n"
        "      - {name: unit, logicalType: string}\n      - {name: qty, logicalType: number, required: true}\n"
    )
    contract = contracts.load(write_contract(text))
    rows = in_units(("2024-01-20", "1", "EA", 5), ("2024-01-20", "1", "PALLET", 2), ("2024-01-20", "2", "EA", 1))
    verdict = contracts.check(rows, contract, units(), cutoff=CUTOFF)
    assert not verdict.broken
    (reason,) = verdict.quarantine["reason"]
    assert "unit = PALLET; expected one of EA, CASE; declare it under columns.unit.factors" in reason
    panel = to_panel(verdict.accepted, verdict.rejected, units(), CUTOFF).panel
    assert panel.set_index("unique_id")["y"].isna().to_dict() == {"1": True, "2": False}


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"rule": "r", "column": "a"}, "exactly one of"),
        ({"rule": "r", "column": "a", "values": ["x"], "at_most": 0}, "exactly one of"),
        ({"rule": "r", "column": "a", "matches": "("}, "not a regular expression"),
    ],
)
def test_a_rule_that_says_nothing_or_two_things_is_refused(rule, said):
    with pytest.raises(ValueError, match=said):
        till(exclude=[rule])
