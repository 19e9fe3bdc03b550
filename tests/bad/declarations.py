"""Kinds of bad customer files and contracts: found before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forecasting import config
from forecasting.data import contracts
from forecasting.errors import ConfigurationError
from tests.data.conftest import CONTRACT, make_customer

from .bench import Bench, Declared, Kind, Refused

__all__ = ["CUSTOMER", "KINDS"]

CUSTOMER = """\
id: acme
time_zone: Europe/Rome
first_date: 2024-01-20
source:
  uri: feed.csv
columns: {ds: day, y: qty, keys: [store, item]}
exogenous:
  promo: {known: future}
hierarchy: [total, store]
contract: acme
absent: zero
horizon: 3
"""


def wrong(*words: str) -> Refused:
    return Refused(ConfigurationError, words)


def customer(text: str | bytes, name: str = "acme.yaml") -> Callable[[Bench], Any]:
    def act(bench: Bench) -> Any:
        bench.stage = "declaration"
        found = config.load_customer(bench.put(name, text))
        if isinstance(found, config.BrokenCustomer):
            raise ConfigurationError(found.message)
        return Declared(found)

    return act


def contract(text: str | bytes, name: str = "acme.odcs.yaml", **changes: Any) -> Callable[[Bench], Any]:
    def act(bench: Bench) -> Any:
        bench.stage = "declaration"
        found = contracts.load(bench.put(name, text))
        contracts.agree(found, make_customer(**changes))
        return Declared(found)

    return act


def change(old: str, new: str) -> str:
    assert old in CUSTOMER, old
    return CUSTOMER.replace(old, new)


def edit(old: str, new: str) -> str:
    assert old in CONTRACT, old
    return CONTRACT.replace(old, new)


def key(text: str) -> str:
    return CUSTOMER + text + "\n"


def at(line: int, *words: str) -> Refused:
    return wrong("acme.yaml", f"line {line}", *words)


def laughs() -> str:
    return "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcdef", "bcdefg", strict=True))


FILES: dict[str, tuple[str | bytes, Refused]] = {
    "empty": ("", wrong("acme.yaml", "empty")),
    "only a comment": ("# acme\n", wrong("acme.yaml", "empty")),
    "no mapping": ("- acme\n", at(1, "expected keys and values")),
    "a word": ("acme\n", at(1, "expected keys and values")),
    "no YAML": (change("id: acme", "id: [acme"), wrong("acme.yaml", "line", "not valid YAML")),
    "a tab": (change("  uri", "\turi"), at(5, "not valid YAML")),
    "Latin-1": (change("feed", "fèed").encode("latin-1"), wrong("acme.yaml", "cannot be read")),
    "control characters": (change("feed", "fe\x07ed"), wrong("acme.yaml", "not valid YAML")),
    "half a character, escaped": (change("feed.csv", '"\\ud83d.csv"'), wrong("acme.yaml", "line 5")),
    "a NUL, escaped": (change("uri: feed.csv", 'uri: feed.csv\n  names: {qty: "a\\0b"}'), at(6, "NUL")),
    "two documents": (CUSTOMER + "---\n" + CUSTOMER, wrong("acme.yaml", "line 13")),
    "a key twice": (key("horizon: 7"), at(13, "horizon")),
    "an anchor": (change("{known: future}", "&p {known: future}") + "x: *p\n", at(8, "anchors and aliases")),
    "a million laughs": (laughs(), at(1, "anchors and aliases")),
    "a merge": (change("columns: {", "columns: {<<: {}, "), at(6, "merge", "write it out")),
    "a Python object": (change("feed.csv", "!!python/object/apply:os.system [true]"), at(5, "not valid YAML")),
    "nested ten thousand deep": ("a: " + "[" * 10_000 + "]" * 10_000 + "\n", wrong("acme.yaml")),
    "an unknown key": (key("horizn: 7"), at(13, "horizn", "Did you mean 'horizon'?")),
    "an unknown key within": (change("uri: feed.csv", "uri: feed.csv\n  delimitr: ;"), at(6, "delimiter")),
    "a key missing": (change("absent: zero\n", ""), wrong("acme.yaml", "absent")),
    "a number for a text": (change("id: acme", "id: 7"), at(1, "id")),
    "a word for a number": (change("horizon: 3", "horizon: many"), at(12, "horizon", "'many'")),
    "a truth for a number": (change("horizon: 3", "horizon: yes"), at(12, "horizon")),
    "a fraction for a number": (change("horizon: 3", "horizon: 3.5"), at(12, "horizon", "3.5")),
    "NaN for a number": (key("promotion: {margin: .nan}"), at(13, "margin")),
    "infinity for a number": (change("known: future", "known: future, fill: .inf"), at(8, "fill")),
    "an octal number": (change("horizon: 3", "horizon: 0o7"), at(12, "horizon")),
    "zero": (change("horizon: 3", "horizon: 0"), at(12, "horizon", "0")),
    "too large": (change("horizon: 3", "horizon: 366"), at(12, "horizon", "366")),
    "another file's id": (change("id: acme", "id: acne"), at(1, "'acne'", "'acme'")),
    "an id of SQL": (change("id: acme", 'id: "acme; DROP"'), at(1, "id")),
    "a reserved id": (change("id: acme", "id: public"), wrong("id", "reserved")),
    "an unknown zone": (change("Europe/Rome", "Europe/Roma"), at(2, "time_zone", "IANA")),
    "a zone that is a path": (change("Europe/Rome", "../../etc/passwd"), at(2, "time_zone", "IANA")),
    "30 February": (change("2024-01-20", "2024-02-30"), wrong("acme.yaml")),
    "ends before it begins": (change("source:", "last_date: 2023-01-01\nsource:"),
                             at(4, "last_date: 2023-01-01 lies before")),
    "a time of 25:00": (key("start_at: '25:00'"), at(13, "start_at")),
    "a deadline before the start": (key("deadline: '02:00:00'"), wrong("deadline", "start_at")),
    "a source of no known kind": (change("uri:", "kind: ftp\n  uri:"), wrong("source", "'csv', 'parquet'")),
    "no source": (change("  uri: feed.csv\n", "  timeout: 5\n"), wrong("source", "`uri`")),
    "uri and parts": (change("uri: feed.csv", "uri: feed.csv\n  parts: [{uri: a.csv}]"), wrong("`parts`")),
    "parts that end before they begin": (change("uri: feed.csv", "parts: [{uri: a, since: 2024-02-01, "
                                         "until: 2024-01-01}]"), wrong("until 2024-01-01")),
    "a secret in an address": (change("feed.csv", "s3://KEY:hunter2@host/a.csv"), wrong("source", "connection")),
    "a secret in a parameter": (change("feed.csv", "https://host/a.csv?sig=hunter2"), wrong("source")),
    "a negative time-out": (change("uri: feed.csv", "uri: feed.csv\n  timeout: -1"), at(6, "timeout")),
    "a delimiter of two": (change("uri: feed.csv", 'uri: feed.csv\n  delimiter: ";;"'), at(6, "delimiter")),
    "a pattern that is none": (change("uri: feed.csv", 'uri: feed.csv\n  wide: {columns: "(?P<value>", values: {}}'),
                               wrong("wide", "regular expression")),
    "no keys": (change("keys: [store, item]", "keys: []"), at(6, "keys")),
    "a key that is no name": (change("keys: [store, item]", 'keys: ["store; DROP"]'), at(6, "keys")),
    "a column as key and number": (change("promo: {known: future}", "store: {known: future}"), wrong("'store'")),
    "a hierarchy of no key": (change("[total, store]", "[total, stoore]"), wrong("'stoore'", "mean 'store'")),
    "an unknown model": (key("pool: [prophet]"), at(13, "pool", "'prophet'")),
    "a model twice": (key("pool: [naive, naive]"), wrong("pool", "twice")),
    "no models": (key("pool: []"), at(13, "pool")),
    "an unknown level": (key("levels: [81]"), at(13, "levels", "81")),
    "closed on seven days": (key("closed_weekdays: [monday, tuesday, wednesday, thursday, friday, saturday, sunday]"),
                             at(13, "closed_weekdays")),
    "closed weekdays in a weekly customer": (key("frequency: W\nclosed_weekdays: [sunday]"), wrong("closed_weekdays")),
    "last value of a plan": (change("{known: future}", "{known: future, fill: last}"), wrong("fill: last")),
    "a price of nothing": (change("{known: future}", "{known: historic, of: sales}"), wrong("`of` and `per`")),
    "two tests in a rule": (key("exclude: [{rule: a, column: qty, at_most: 0, at_least: 1}]"), wrong("exactly one")),
    "a rule twice": (key("exclude: [{rule: a, column: qty, at_most: 0}, {rule: a, column: qty, at_most: 1}]"),
                     wrong("twice")),
}  # fmt: skip


AGREE: dict[str, tuple[str | bytes, Refused]] = {
    "empty": ("", wrong("acme.odcs.yaml", "empty")),
    "no YAML": ("kind: [", wrong("acme.odcs.yaml", "not valid YAML")),
    "no mapping": ("- a\n", wrong("acme.odcs.yaml")),
    "a word": ("contract\n", wrong("acme.odcs.yaml")),
    "an anchor": (edit("kind: DataContract", "kind: &k DataContract\nx: *k"),
                  wrong("acme.odcs.yaml, line 2", "anchors")),
    "another kind": (edit("kind: DataContract", "kind: Pod"), wrong("acme.odcs.yaml, line 2", "kind")),
    "no version": (edit("version: 1.0.0\n", ""), wrong("acme.odcs.yaml", "version")),
    "another file's id": (edit("id: acme", "id: acne"), wrong("line 3", "'acne'", "file's name")),
    "an unknown key": (edit("status: active", "status: active\nstatsu: x"), wrong("line 6", "statsu")),
    "no table": (edit("schema:\n", "schema: []\nx_schema:\n"), wrong("acme.odcs.yaml")),
    "an empty schema": (CONTRACT[: CONTRACT.index("schema:")] + "schema: []\n", wrong("schema", "exactly one table")),
    "no schema": (CONTRACT[: CONTRACT.index("schema:")], wrong("schema", "exactly one table")),
    "no columns": (CONTRACT[: CONTRACT.index("    properties:")], wrong("properties", "name the columns")),
    "a column without a name": (edit("{name: qty, logicalType", "{logicalType"), wrong("acme.odcs.yaml", "name")),
    "a column twice": (edit("      - {name: promo,", "      - {name: qty,"), wrong("acme.odcs.yaml", "qty")),
    "an unknown type": (edit("logicalType: number", "logicalType: money"), wrong("line 15", "'money'", "'number'")),
    "an unknown rule": (edit("expect_column_values_to_be_between", "expect_column_values_to_be_betwen"),
                        wrong("betwen", "Did you mean 'expect_column_values_to_be_between'?")),
    "an unknown argument": (edit("max_value: 1000, mostly", "max: 1000, mostly"), wrong("line", "max")),
    "a rule about no column": (edit("column: qty", "column: qtty"), wrong("'qtty'", "mean 'qty'")),
    "a tolerance beyond one": (edit("mostly: 0.9", "mostly: 90"), wrong("mostly")),
    "bounds that cross": (edit("min_value: 0, max_value: 1000", "min_value: 5, max_value: 1"),
                          wrong("acme.odcs.yaml, line 21", "min_value 5", "max_value 1")),
    "a bound that is no day": (edit("column: qty, min_value: 0, max_value: 1000", "column: day, min_value: soon"),
                               wrong("acme.odcs.yaml, line 21", "min_value")),
    "an unknown engine": (edit("engine: greatExpectations", "engine: soda"), wrong("'soda'", "greatExpectations")),
    "an unknown severity": (edit("severity: error", "severity: eror"), wrong("'eror'", "Did you mean 'error'?")),
    "a rule without words": (edit("          kwargs: {column: qty, min_value: 0, max_value: 1000, mostly: 0.9}\n", ""),
                             wrong("acme.odcs.yaml", "expect_column_values_to_be_between")),
    "a rule that is no YAML": (edit("kwargs: {column: qty, ", "kwargs: {column: [qty, "), wrong("line", "YAML")),
    "a rule twice": (edit("name: enough_rows", "name: qty_in_range"), wrong("'qty_in_range'", "already")),
    "a pattern that is none": (edit("expect_column_values_to_be_between\n          kwargs: {column: qty, min_value: 0,"
                               " max_value: 1000, mostly: 0.9}", "expect_column_values_to_match_regex\n          "
                               'kwargs: {column: item, regex: "[", mostly: 0.9}'), 
                               wrong("acme.odcs.yaml, line 21", "regex", "'['", "regular expression")),
    "a tolerance of ours misspelt": (edit("schema:\n", "customProperties:\n  - {property: gateMostli, value: 0.9}\n"
                                     "schema:\n"), wrong("'gateMostli'", "gateMostly")),
    "a tolerance of ours beyond one": (edit("schema:\n", "customProperties:\n  - {property: gateMostly, value: 9}\n"
                                       "schema:\n"), wrong("gateMostly: 9", "0 to 1")),
    "a tolerance that is no number": (edit("schema:\n", "customProperties:\n  - {property: gateMostly, value: .nan}\n"
                                      "schema:\n"), wrong("gateMostly", "0 to 1")),
    "a column that nobody reads": (edit("      - {name: promo,", "      - {name: note, logicalType: string}\n"
                                   "      - {name: promo,"), wrong("acme.yaml and acme.odcs.yaml", "'note'")),
    "a column that it does not know": (edit("      - {name: promo, logicalType: number, required: true}\n", ""),
                                       wrong("do not agree", "'promo'")),
    "a number read as a text": (edit("{name: qty, logicalType: number", "{name: qty, logicalType: string"),
                                wrong("'qty'", "'string'", "number")),
}  # fmt: skip


KINDS: tuple[Kind, ...] = (
    *(Kind("customer file", name, customer(text), end) for name, (text, end) in FILES.items()),
    *(Kind("contract file", name, contract(text), end) for name, (text, end) in AGREE.items()),
)
