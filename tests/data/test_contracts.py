from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from forecasting.config import load_customer, load_customers
from forecasting.data import contracts
from forecasting.data.contracts import Expected, agree, check, check_published
from forecasting.data.sources import Access, pull
from forecasting.errors import ConfigurationError

from .conftest import CONTRACT, CUTOFF, ROOT, UNTIL, WIDE, long_csv, make_customer, wide_csv


@pytest.fixture
def contract(write_contract):
    return contracts.load(write_contract())


@pytest.fixture
def rows(feed):
    return pull(make_customer(), access=Access(feed(long_csv())), until=UNTIL).rows


def states(verdict):
    return {r.rule: r.state for r in verdict.results if r.state != "passed"}


def test_the_first_customers_real_data_keep_their_contract():
    customer = load_customer(ROOT / "dags/customers/pasta.yaml")
    contract = contracts.load(ROOT / "data_contracts/pasta_sales.odcs.yaml")
    rows = pull(customer, access=Access(ROOT), until=date(2018, 10, 29)).rows
    verdict = check(rows, contract, customer, cutoff=date(2018, 10, 1))
    assert states(verdict) == {}
    assert not verdict.broken
    assert verdict.quarantine.empty
    assert len(verdict.accepted) == len(rows)
    increment = pull(customer, access=Access(ROOT), since=date(2018, 9, 17), until=date(2018, 10, 29)).rows
    assert states(check(increment, contract, customer, cutoff=date(2018, 10, 1))) == {}


def test_good_rows_pass_and_come_back_as_they_came(rows, contract):
    verdict = check(rows, contract, make_customer(), cutoff=CUTOFF)
    assert not verdict.broken
    pd.testing.assert_frame_equal(verdict.accepted, rows)
    assert {r.state for r in verdict.results} == {"passed"}


def test_a_failing_row_is_quarantined_also_within_tolerance(rows, contract):
    rows.loc[[3, 5], "qty"] = [-4.0, 1e300]
    verdict = check(rows, contract, make_customer(), cutoff=CUTOFF)
    assert not verdict.broken
    assert list(verdict.quarantine["line"]) == [5, 7]
    assert list(verdict.rejected["line"]) == [5, 7]
    assert len(verdict.accepted) == len(rows) - 2
    assert verdict.quarantine["reason"].str.contains("qty = -4.0; expected .*0 to 1000").iloc[0]


@pytest.mark.parametrize(("failing", "broken"), [(4, False), (5, True)], ids=["at 1 - mostly", "one more"])
def test_the_contract_breaks_when_the_failing_share_exceeds_what_is_allowed(rows, contract, failing, broken):
    rows = rows.head(40)
    rows.loc[: failing - 1, "qty"] = -1.0
    verdict = check(rows, contract, make_customer(), cutoff=CUTOFF)
    assert verdict.broken == broken
    assert len(verdict.rejected) == failing


def test_a_warning_is_recorded_and_does_not_stop(rows, write_contract):
    contract = contracts.load(write_contract(CONTRACT.replace("severity: error", "severity: warning")))
    rows["qty"] = rows["qty"].where(rows.index % 2 == 0, -1.0)
    verdict = check(rows, contract, make_customer(), cutoff=CUTOFF)
    assert not verdict.broken
    assert states(verdict) == {"qty_in_range": "warned"}
    assert len(verdict.rejected) == 23


def test_the_message_tells_the_on_call_what_where_and_what_to_do(feed, contract):
    customer = make_customer(source=WIDE)
    rows = pull(customer, access=Access(feed(wide_csv().replace(",111,", ",-111,"))), until=UNTIL).rows
    rows.loc[2:20, "qty"] = -7.0
    message = check(rows, contract, customer, cutoff=CUTOFF).message()
    for part in ("contract acme 1.0.0 is broken by feed.csv", "qty_in_range", "of 46 lines", "allowed 10.000%",
                 "line 3, column 2: qty = -7.0", "expected", "0 to 1000", "What to do", "data-owner"):  # fmt: skip
        assert part in message, message


GATE = {
    "infinity": (lambda r: r.__setitem__("qty", r["qty"].mask(r.index == 3, np.inf)), "finite_qty", 1),
    "nan up to the cutoff": (lambda r: r.__setitem__("qty", r["qty"].mask(r.index == 3)), "required_qty", 1),
    "infinite promotion": (lambda r: r.__setitem__("promo", r["promo"].mask(r.index == 3, -np.inf)), "finite_promo", 1),
    "no day": (lambda r: r.__setitem__("day", r["day"].mask(r.index == 3)), "required_day", 1),
    "no key": (lambda r: r.__setitem__("item", r["item"].mask(r.index == 3, None)), "required_item", 1),
    "blank around a key": (lambda r: r.__setitem__("item", r["item"].mask(r.index == 3, "1 ")), "usable_item", 1),
    "control character in a key": (
        lambda r: r.__setitem__("item", r["item"].mask(r.index == 3, "1\x07x")),
        "usable_item",
        1,
    ),
    "doubled key": (lambda r: r.__setitem__("day", r["day"].mask(r.index == 2, r["day"][0])), "unique", 2),
}


@pytest.mark.parametrize(("spoil", "rule", "count"), GATE.values(), ids=GATE.keys())
def test_the_gate_sees_what_great_expectations_passes(rows, contract, spoil, rule, count):
    spoil(rows)
    verdict = check(rows, contract, make_customer(), cutoff=CUTOFF)
    assert states(verdict)[rule] == "broken"
    assert (verdict.quarantine["rule"] == rule).sum() == count
    assert len(verdict.accepted) + len(verdict.rejected) == len(rows)


STRUCTURE = {
    "column gone": (lambda r: r.rename(columns={"qty": "qtty"}), "columns", "mean 'qtty'"),
    "no rows": (lambda r: r.head(0), "rows", "not one row"),
    "dates as text": (lambda r: r.assign(day=r["day"].astype(str)), "types", "column day holds object"),
    "time zone": (lambda r: r.assign(day=r["day"].dt.tz_localize("UTC")), "types", "time zone"),
    "numbers as text": (lambda r: r.assign(qty=r["qty"].astype(str)), "types", "column qty holds object"),
}


@pytest.mark.parametrize(("spoil", "rule", "said"), STRUCTURE.values(), ids=STRUCTURE.keys())
def test_a_feed_of_another_shape_breaks_the_contract_at_once(rows, contract, spoil, rule, said):
    verdict = check(spoil(rows), contract, make_customer())
    assert verdict.broken
    assert states(verdict)[rule] == "broken"
    assert said in verdict.message()


def test_an_absent_target_is_allowed_after_the_cutoff_only(rows, contract):
    assert not check(rows, contract, make_customer(), cutoff=CUTOFF).broken
    assert states(check(rows, contract, make_customer(), cutoff=CUTOFF + timedelta(days=1))) == {
        "required_qty": "broken"
    }


@pytest.mark.parametrize(("days_late", "broken"), [(0, False), (4, False), (5, True), (60, True)])
def test_a_feed_that_has_stopped_breaks_its_contract(rows, contract, days_late, broken):
    """The file is whole and as ever, and ends too early: nothing else would see it."""
    customer, cutoff = make_customer(), CUTOFF + timedelta(days=3 + days_late)
    rows["qty"] = rows["qty"].fillna(1.0)  # delivered up to UNTIL
    verdict = check(rows, contract, customer, cutoff=cutoff)
    assert states(verdict) == ({"delivered_up_to_cutoff": "broken"} if broken else {})
    assert verdict.broken == broken
    if broken:
        for part in ("2024-01-23 is the newest day with qty", f"cutoff {cutoff}", f"expected {cutoff - timedelta(4)}",
                     "max_gap_days 4", "Has the delivery stopped?", "raise max_gap_days in acme.yaml"):  # fmt: skip
            assert part in verdict.message()
    patient = make_customer(max_gap_days=60)
    assert not check(rows, contract, patient, cutoff=cutoff).broken
    assert not check(rows, contract, customer).broken  # without a cutoff every row is history


def test_days_planned_ahead_do_not_hide_that_a_feed_has_stopped(rows, contract):
    rows.loc[rows["day"] > "2024-01-10", "qty"] = np.nan  # the promotions' plan goes on
    contract = replace(contract, properties=tuple(replace(p, required=False, key=False) for p in contract.properties))
    assert states(check(rows, contract, make_customer(), cutoff=CUTOFF)) == {"delivered_up_to_cutoff": "broken"}
    rows["qty"] = np.nan
    assert "there is no day with qty" in check(rows, contract, make_customer(), cutoff=CUTOFF).message()


def test_the_demos_feed_does_not_pass_for_one_that_goes_on():
    """It ends on 2018-12-31: a run in March 2019 once published 118 series from it, all of them ok."""
    customer = load_customer(ROOT / "dags/customers/pasta.yaml")
    contract = contracts.load(ROOT / "data_contracts/pasta_sales.odcs.yaml")
    rows = pull(customer, access=Access(ROOT), until=date(2019, 3, 29)).rows
    verdict = check(rows, contract, customer, cutoff=date(2019, 3, 1))
    assert states(verdict) == {"delivered_up_to_cutoff": "broken"}
    assert verdict.broken


def agreeing(**changes):
    return make_customer(**({"source": WIDE} | changes))


DISAGREE = {
    "exogenous dropped": (agreeing(exogenous={}), CONTRACT, ["'promo'", "`exogenous`", "source.wide.values makes it"]),
    "target misspelt": (make_customer(columns={"ds": "day", "y": "qtty", "keys": ["store", "item"]}), CONTRACT,
                        ["property 'qty'", "mean 'qtty'"]),
    "key not described": (make_customer(columns={"ds": "day", "y": "qty", "keys": ["stores", "store", "item"]}),
                          CONTRACT, ["column 'stores'", "not in the contract's properties", "mean 'store'"]),
    "key as a number": (agreeing(), CONTRACT.replace("item, logicalType: string", "item, logicalType: integer"),
                        ["'item' is read as a string", "'integer'", "expected string"]),
    "day as a text": (agreeing(), CONTRACT.replace("logicalType: date", "logicalType: string"),
                      ["'day' is read as a date", "expected date or timestamp"]),
    "group misspelt": (agreeing(columns={"ds": "day", "y": "qty", "keys": ["store", "itm"]}), CONTRACT,
                       ["source.wide makes no column 'itm'", "mean 'item'"]),
    "group that is no key": (agreeing(columns={"ds": "day", "y": "qty", "keys": ["item"]}), CONTRACT,
                             ["group 'store'", "not among columns.keys"]),
}  # fmt: skip


@pytest.mark.parametrize(("customer", "text", "said"), DISAGREE.values(), ids=DISAGREE.keys())
def test_a_customer_and_a_contract_that_do_not_fit_are_refused_before_any_feed_is_read(
    write_contract, customer, text, said
):
    agree(contracts.load(write_contract()), make_customer())
    agree(contracts.load(write_contract()), agreeing())
    with pytest.raises(ConfigurationError) as caught:
        agree(contracts.load(write_contract(text)), customer)
    for part in ("acme", *said):
        assert part in str(caught.value)


def test_every_customer_in_the_checkout_agrees_with_its_contract():
    for customer in load_customers(ROOT / "dags/customers"):
        agree(contracts.load(ROOT / f"data_contracts/{customer.contract}.odcs.yaml"), customer)


@pytest.mark.parametrize("kind", ["contain_set", "equal_set"])
def test_a_brand_that_is_not_delivered_is_named(rows, write_contract, kind):
    text = CONTRACT.replace("expect_table_row_count_to_be_between", f"expect_column_distinct_values_to_{kind}")
    text = text.replace("{min_value: 4}", "{column: store, value_set: [S1, S2, S3]}")
    message = check(rows, contracts.load(write_contract(text)), make_customer(), cutoff=CUTOFF).message()
    assert "store: holds S1, S2" in message
    assert "None" not in message
    assert ("and not S3" in message) == (kind == "contain_set")


def test_the_library_says_nothing_at_the_level_of_our_own_lines():
    """In a process of its own: one of the library's modules sets its logger's level as it is first imported."""
    code = (
        "import logging; logging.basicConfig(level=logging.INFO); import pandas as pd;"
        "from forecasting.data import contracts;"
        "rule = contracts.Rule('r', 'expect_table_row_count_to_be_between', {'min_value': 1}, 'error', False, '', 1);"
        "contracts._validate(pd.DataFrame({'line': [1]}), [rule])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "great_expectations" not in said.stderr
    assert "Created temporary directory" not in said.stderr


def test_a_tolerant_gate_quarantines_and_goes_on(rows, write_contract):
    text = CONTRACT.replace("schema:", "customProperties: [{property: gateMostly, value: 0.9}]\nschema:")
    rows.loc[3, "qty"] = np.inf
    verdict = check(rows, contracts.load(write_contract(text)), make_customer(), cutoff=CUTOFF)
    assert not verdict.broken
    assert list(verdict.rejected["line"]) == [5]


def custom(*properties: str) -> str:
    listed = "".join(f"  - {{{one}}}\n" for one in properties)
    return CONTRACT.replace("schema:", f"customProperties:\n{listed}schema:", 1)


def test_tolerances_of_ours_are_read_and_another_tools_properties_left_alone(write_contract):
    plain = contracts.load(write_contract())
    assert (plain.history_mostly, plain.volume) == (0.95, contracts.Volume(0.3, 3.0, "warning"))
    given = custom(
        "property: historyMostly, value: 0.5", "property: volumeLow, value: 0.1", "property: volumeHigh, value: 9",
        "property: volumeSeverity, value: error", "property: catalogueId, value: 17",
    )  # fmt: skip
    contract = contracts.load(write_contract(given))
    assert (contract.history_mostly, contract.volume) == (0.5, contracts.Volume(0.1, 9.0, "error"))


@pytest.mark.parametrize(
    ("properties", "words"),
    [(["property: historyMostly, value: 95"], ["historyMostly: 95", "share from 0 to 1"]),
     (["property: volumeHigh, value: 0.5"], ["volumeHigh: 0.5", "from 1"]),
     (["property: volumeLow, value: yes please"], ["volumeLow: 'yes please'"]),
     (["property: volumeLow, value: true"], ["volumeLow: True"]),
     (["property: volumeSeverity, value: eror"], ["volumeSeverity: 'eror'", "Did you mean 'error'?"]),
     (["property: historyMostley, value: 0.9"], ["'historyMostley'", "Did you mean 'historyMostly'?"]),
     (["property: volumeMedian, value: 0.9"], ["unknown property 'volumeMedian'", "volumeLow"]),
     (["property: volumeLow, value: 0.1", "property: volumeLow, value: 0.2"], ["volumeLow stands twice"])],
    ids=["a percentage", "a high below 1", "no number", "a flag", "severity", "a slip", "like ours", "twice"],
)  # fmt: skip
def test_a_tolerance_that_cannot_be_used_is_refused_with_its_line(write_contract, properties, words):
    with pytest.raises(ConfigurationError) as caught:
        contracts.load(write_contract(custom(*properties)))
    for word in (*words, "acme.odcs.yaml, line", "customProperties"):
        assert word in str(caught.value), caught.value


def test_a_rule_that_crashes_is_told_apart_from_broken_data(rows, write_contract):
    text = CONTRACT.replace("expect_table_row_count_to_be_between", "expect_column_values_to_match_like_pattern")
    text = text.replace("{min_value: 4}", '{column: store, like_pattern: "S%"}')  # which GX knows for databases only
    verdict = check(rows, contracts.load(write_contract(text)), make_customer(), cutoff=CUTOFF)
    assert states(verdict) == {"enough_rows": "crashed"}
    assert verdict.crashed
    assert verdict.broken
    assert "could not be checked" in verdict.message()
    assert "not of the data" in verdict.message()


WRONG = {
    "unknown expectation": (("values_to_be_between", "value_to_be_betwen"), ["line 21", "Did you mean"]),
    "unknown argument": (("max_value: 1000", "max_valu: 1000"), ["max_valu"]),
    "unknown column": (("column: qty", "column: quantity"), ["'quantity' is not in properties", "qty"]),
    "severity": (("severity: error", "severity: eror"), ["'eror'", "error (stops)", "mean 'error'"]),
    "engine": (("engine: greatExpectations", "engine: soda"), ["'soda'", "greatExpectations"]),
    "id": (("id: acme", "id: other"), ["line 3: id", "'other'"]),
    "no version": (("version: 1.0.0\n", ""), ["version"]),
    "unknown key": (("status: active", "status: active\nowner: me"), ["owner", "nknown key"]),
    "inner yaml": (("kwargs: {column: qty,", "kwargs: {column: qty, column: qty,"), ["'column' is already set"]),
    "doubled key": (("status: active", "status: active\nstatus: draft"), ["line 6", "'status' is already set"]),
    "two rules of a name": (("name: enough_rows", "name: qty_in_range"), ["'qty_in_range' is already the name"]),
}


@pytest.mark.parametrize(("change", "said"), WRONG.values(), ids=WRONG.keys())
def test_a_contract_that_cannot_be_used_is_refused(write_contract, change, said):
    assert change[0] in CONTRACT
    with pytest.raises(ConfigurationError) as caught:
        contracts.load(write_contract(CONTRACT.replace(*change, 1)))
    assert all(part in str(caught.value) for part in ["acme.odcs.yaml, line", *said]), str(caught.value)


def published():
    """Two stores with one item each, their total, three days."""
    days = [CUTOFF + timedelta(days=h) for h in (1, 2, 3)]
    values = {("bottom", "S1/1"): 2.0, ("bottom", "S2/1"): 3.0, ("total", "total"): 5.0}
    rungs = {"bottom": "chosen", "total": "sum"}
    rows = [
        (name, node, pd.Timestamp(day), h, value, value, "ets", rungs[node], value / 2, value * 2)
        for (node, name), value in values.items() for h, day in enumerate(days, start=1)
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["unique_id", "node", "ds", "h", "y_hat", "q50", "model", "rung", "q10", "q90"])
    series = {"bottom": frozenset({"S1/1", "S2/1"}), "total": frozenset({"total"})}
    return frame, Expected("acme/2024-01-20/1", tuple(days), series, {"total": ()})


OUTGOING = {
    "a series is missing": (lambda f: f[f["unique_id"] != "S1/1"], "complete"),
    "a step is missing": (lambda f: f.drop(index=1), "complete"),
    "a stranger": (lambda f: pd.concat([f, f.head(3).assign(unique_id="S9/1")]), "complete"),
    "a row twice": (lambda f: pd.concat([f, f.head(1)]), "unique"),
    "NaN": (lambda f: f.assign(y_hat=f["y_hat"].mask(f.index == 1)), "required_y_hat"),
    "infinite": (lambda f: f.assign(y_hat=f["y_hat"].mask(f.index == 1, np.inf)), "finite_y_hat"),
    "negative": (lambda f: f.assign(y_hat=f["y_hat"].mask(f.index == 1, -1.0)), "not_negative"),
    "NaN quantile": (lambda f: f.assign(q10=f["q10"].mask(f.index == 1)), "quantiles_finite"),
    "quantiles crossed": (lambda f: f.assign(q10=f["q10"].mask(f.index == 1, 9.0)), "quantiles_in_order"),
    "stale": (lambda f: f.assign(ds=f["ds"] - pd.Timedelta(days=1)), "fresh"),
    "incoherent": (lambda f: f.assign(y_hat=f["y_hat"].mask(f.index == 8, 5.5)), "coherent"),
    "unknown rung": (lambda f: f.assign(rung="guess"), "rung_is_known"),
    "no rows": (lambda f: f.head(0), "rows"),
}


@pytest.mark.parametrize(("spoil", "rule"), OUTGOING.values(), ids=OUTGOING.keys())
def test_the_audit_stops_forecasts_that_break_our_promise(spoil, rule):
    contract = contracts.load(ROOT / "data_contracts/forecasts.odcs.yaml")
    rows, expected = published()
    assert states(check_published(rows, contract, expected)) == {}
    verdict = check_published(spoil(rows).reset_index(drop=True), contract, expected)
    assert states(verdict)[rule] == "broken"
    assert verdict.broken
    assert "nothing was published" in verdict.message()


def test_many_fallbacks_warn_and_publish():
    rows, expected = published()
    contract = contracts.load(ROOT / "data_contracts/forecasts.odcs.yaml")
    verdict = check_published(rows.assign(rung="naive"), contract, expected)
    assert states(verdict) == {"few_fallbacks": "warned"}
    assert not verdict.broken
