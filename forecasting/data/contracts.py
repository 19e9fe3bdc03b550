"""Check a feed, and what we publish, against its contract: an ODCS document with Great Expectations rules.

The structural gate of our own comes first, because GX passes some faults in silence (infinities, empty frames, null
keys, dates held as text); then GX's row and table rules. A failing row is always quarantined.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pandas as pd

from forecasting.config import BOTTOM, Customer, Document, load_yaml, parse_yaml
from forecasting.data.sources import check_declaration, delivered, place
from forecasting.data.sources.table import Wanted
from forecasting.errors import ConfigurationError, near_miss
from forecasting.frames import split_id

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation

__all__ = [
    "Contract",
    "Expected",
    "Property",
    "Rule",
    "RuleResult",
    "Verdict",
    "Volume",
    "agree",
    "check",
    "check_published",
    "in_words",
    "legible",
    "load",
]

log = logging.getLogger(__name__)

Severity = Literal["error", "warning"]
State = Literal["passed", "warned", "broken", "crashed"]
Kwargs = dict[str, Any]

SEVERITIES = ("error", "warning")
KEY_LENGTH = 100
"""Longest key of a series: it becomes part of ids, file paths and log lines."""
ID_LENGTH = 5 * (3 * KEY_LENGTH + 1)
"""Longest id of a series: five such keys, every character escaped, and a slash behind each."""
LARGEST = 1e9
"""Largest quantity of a line: what forecasts.odcs.yaml bears of a forecast."""
VALUE = 60
"""Characters of a value that a message shows."""
EXAMPLES = 3
"""Failing rows that a message shows."""


@dataclass(frozen=True)
class Property:
    """One column of the contract's schema part."""

    name: str
    logical_type: str
    required: bool
    key: bool


@dataclass(frozen=True)
class Rule:
    """One quality rule, in GX's words."""

    name: str
    type: str
    kwargs: Kwargs
    severity: Severity
    by_row: bool
    """True: judges rows, which are quarantined; False: judges the table as a whole."""
    description: str
    line: int
    """Where it stands in the contract's file."""

    @property
    def mostly(self) -> float:
        """Share of rows that must pass."""
        return float(self.kwargs.get("mostly", 1.0))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it looks at."""
        found = [self.kwargs.get(name) for name in ("column", "column_A", "column_B")]
        return tuple(name for name in (*found, *self.kwargs.get("column_list", ())) if name)


@dataclass(frozen=True)
class Volume:
    """How many lines are usual: shares of the median of the same weekday's lines (custom properties ``volume…``)."""

    low: float = 0.3
    high: float = 3.0
    severity: Severity = "warning"


@dataclass(frozen=True)
class Contract:
    """What we accept of one feed, or what we publish."""

    id: str
    version: str
    status: str
    owner: str
    path: Path
    properties: tuple[Property, ...]
    rules: tuple[Rule, ...]
    gate_mostly: float
    """Share of rows that must pass each of the gate's own row rules (custom property ``gateMostly``)."""
    history_mostly: float = 0.95
    """Share of the lines seen before that a delivery must still hold (custom property ``historyMostly``)."""
    volume: Volume = Volume()

    @property
    def key(self) -> tuple[str, ...]:
        """Columns that together may not stand twice; empty when lines are not unique, as on till receipts."""
        return tuple(p.name for p in self.properties if p.key)


@dataclass(frozen=True)
class RuleResult:
    """What one rule said."""

    rule: str
    type: str
    column: str
    severity: Severity
    state: State
    rows_failed: int
    rows_checked: int
    share: float
    mostly: float | None
    """None for a rule about the table as a whole."""
    message: str
    """For the on-call; empty when nothing failed."""


@dataclass(frozen=True)
class Verdict:
    """A contract's result on one feed."""

    contract: str
    version: str
    subject: str
    """What was checked: the source's URI, or the run."""
    results: list[RuleResult]
    quarantine: pd.DataFrame
    """Columns line, rule, reason: one row per failing line and rule."""
    accepted: pd.DataFrame
    """Rows that failed no rule, as they came."""
    rejected: pd.DataFrame
    """The quarantined rows, as they came."""
    remedy: str = ""

    @property
    def broken(self) -> bool:
        """True when the run must stop: a rule of severity error failed, or could not be checked."""
        return any(r.severity == "error" and r.state in ("broken", "crashed") for r in self.results)

    @property
    def crashed(self) -> bool:
        """True when a rule could not be checked: a fault of the rule or its library, not of the data."""
        return any(r.state == "crashed" for r in self.results)

    def refused_for(self, columns: Collection[str]) -> set[int]:
        """The lines refused by a rule about these columns alone."""
        rules = {r.rule for r in self.results if r.column and set(r.column.split(", ")) <= set(columns)}
        return set(self.quarantine.loc[self.quarantine["rule"].isin(rules), "line"])

    def message(self) -> str:
        """For the on-call: what, how many, where, what was expected, what to do."""
        state = "broken" if self.broken else "kept"
        total = len(self.accepted) + len(self.rejected)
        head = f"contract {self.contract} {self.version} is {state} by {self.subject}: "
        head += f"{len(self.rejected)} of {total} lines quarantined."
        said = [r for r in self.results if r.message]
        body = [f"- [{r.state if r.state != 'passed' else 'within tolerance'}] {r.rule}: {r.message}" for r in said]
        return "\n".join([head, *body, *([self.remedy] if self.broken else [])])


@dataclass(frozen=True)
class Expected:
    """What a complete set of forecasts holds, for the outgoing contract."""

    subject: str
    """The run, for messages."""
    dates: tuple[date, ...]
    """cutoff + 1 … cutoff + h: step h stands for ``dates[h - 1]``."""
    series: Mapping[str, frozenset[str]]
    """Node → its unique_ids that are not retired; the bottom and every aggregate node."""
    nodes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Aggregate node → positions, in a bottom series' keys, of the keys it groups by; the total groups by none."""


# --- loading --------------------------------------------------------------------------------------------------------


def load(path: Path) -> Contract:
    """Read and check a contract.

    Raises:
        ConfigurationError: Something in it cannot be used; the message names file, line, key and near miss.
    """
    document = load_yaml(path)
    _check_schema(document)
    value = cast("dict[str, Any]", document.value)
    if f"{value['id']}.odcs.yaml" != path.name:
        raise _fault(document, ("id",), f"{value['id']!r} must be the file's name without .odcs.yaml")
    if len(value.get("schema") or []) != 1:
        raise _fault(document, ("schema",), f"expected exactly one table, got {len(value.get('schema') or [])}")
    table = value["schema"][0]
    properties = tuple(_property(p) for p in table.get("properties") or [])
    if not properties:
        raise _fault(document, ("schema", 0, "properties"), "is missing; name the columns")
    rules = tuple(_rules(document, table, [p.name for p in properties]))
    dates = {p.name for p in properties if p.logical_type in ("date", "timestamp")}
    rules = tuple(_with_dates(document, rule, dates) for rule in rules)
    owner, gate, history, volume = _owner(value), *_custom(document)
    return Contract(
        value["id"], str(value["version"]), value["status"], owner, path, properties, rules, gate, history, volume
    )


_OURS = {
    "gateMostly": (0.0, 1.0),
    "historyMostly": (0.0, 1.0),
    "volumeLow": (0.0, 1.0),
    "volumeHigh": (1.0, 1e6),
    "volumeSeverity": SEVERITIES,
}
"""Custom properties of ours → bounds, or words; another tool's are left alone."""


def _custom(document: Document) -> tuple[float, float, Volume]:
    """gateMostly, historyMostly and the volume's bounds."""
    given: Kwargs = {}
    for i, entry in enumerate(cast("Kwargs", document.value).get("customProperties") or []):
        name, value, loc = str(entry.get("property")), entry.get("value"), ("customProperties", i)
        if name not in _OURS:
            _refuse_near(document, loc, name)
            continue
        if name in given:
            raise _fault(document, loc, f"{name} stands twice")
        _check_custom(document, loc, name, value)
        given[name] = value
    plain = Volume()
    low, high = float(given.get("volumeLow", plain.low)), float(given.get("volumeHigh", plain.high))
    volume = Volume(low, high, given.get("volumeSeverity", plain.severity))
    return float(given.get("gateMostly", 1.0)), float(given.get("historyMostly", 0.95)), volume


def _refuse_near(document: Document, loc: tuple[str | int, ...], name: str) -> None:
    """A slip of the pen must not switch a rule off; what is unlike ours is another tool's."""
    near = near_miss(name, list(_OURS))
    if near or name.startswith(("gate", "history", "volume")):
        raise _fault(document, loc, f"unknown property {name!r}.{near} Ours: {', '.join(_OURS)}")


def _check_custom(document: Document, loc: tuple[str | int, ...], name: str, value: object) -> None:
    allowed = _OURS[name]
    if allowed is SEVERITIES:
        if value not in SEVERITIES:
            hint = near_miss(str(value), list(SEVERITIES))
            raise _fault(document, loc, f"{name}: {value!r}: expected {' or '.join(SEVERITIES)}.{hint}")
        return
    low, high = cast("tuple[float, float]", allowed)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _fault(document, loc, f"{name}: {value!r}: expected a share from {low:g} to {high:g}")


def _fault(document: Document, loc: tuple[str | int, ...], message: str, line: int | None = None) -> ConfigurationError:
    key = ".".join(str(part) for part in loc)
    return ConfigurationError(f"{document.path}, line {line or document.line(loc)}: {key}: {message}")


def _check_schema(document: Document) -> None:
    """Check against the standard's own JSON schema, as shipped with its package."""
    import jsonschema

    schema = json.loads(resources.files("open_data_contract_standard").joinpath("schema.json").read_text("utf-8"))
    validator = jsonschema.validators.validator_for(schema)(schema)
    # deepest first: under `anyOf` the branch that came furthest is the one that was meant
    errors = sorted(validator.iter_errors(document.value), key=lambda e: list(map(str, e.absolute_path)))
    if not errors:
        return
    error = jsonschema.exceptions.best_match(errors) or errors[0]
    loc, message = tuple(error.absolute_path), error.message
    unknown = [key for key in _unknown(error) if isinstance(error.instance, dict)]
    if unknown:
        known = sorted(error.schema.get("properties", {}))
        loc, message = (*loc, unknown[0]), f"unknown key.{near_miss(unknown[0], known)} Known keys: {', '.join(known)}"
    raise _fault(document, loc or ("the whole file",), message[:500])


def _unknown(error: Any) -> list[str]:
    if error.validator not in ("additionalProperties", "unevaluatedProperties") or not isinstance(error.instance, dict):
        return []
    return sorted(set(error.instance) - set(error.schema.get("properties", {})))


def _property(value: Kwargs) -> Property:
    kind = value.get("logicalType") or "string"
    return Property(value["name"], kind, bool(value.get("required")), bool(value.get("primaryKey")))


def _owner(value: Kwargs) -> str:
    team = value.get("team") or []
    members = team.get("members") or [] if isinstance(team, dict) else team
    owners = [m.get("username") or m.get("name") for m in members if m.get("role") == "owner"]
    return ", ".join(str(name) for name in owners) or str(value.get("dataProduct") or "the data's owner")


def _rules(document: Document, table: Kwargs, columns: list[str]) -> Iterable[Rule]:
    base: tuple[str | int, ...] = ("schema", 0)
    seen: dict[str, int] = {}
    places = [((*base, "quality", i), quality, None) for i, quality in enumerate(table.get("quality") or [])]
    for i, column in enumerate(table["properties"]):
        places += [
            ((*base, "properties", i, "quality", j), quality, column["name"])
            for j, quality in enumerate(column.get("quality") or [])
        ]
    for loc, quality, column in places:
        if quality.get("type", "library") != "custom":  # text and library rules are for readers
            continue
        rule = _rule(document, loc, quality, column, columns)
        if rule.name in seen:
            raise _fault(
                document, (*loc, "name"), f"{rule.name!r} is already the name of the rule on line {seen[rule.name]}"
            )
        seen[rule.name] = rule.line
        yield rule


def _rule(
    document: Document, loc: tuple[str | int, ...], quality: Kwargs, column: str | None, columns: list[str]
) -> Rule:
    if quality.get("engine") != "greatExpectations":
        raise _fault(document, (*loc, "engine"), f"{quality.get('engine')!r}: expected 'greatExpectations'")
    severity = quality.get("severity", "error")
    if severity not in SEVERITIES:
        hint = near_miss(str(severity), list(SEVERITIES))
        raise _fault(document, (*loc, "severity"), f"{severity!r}: expected error (stops) or warning (recorded).{hint}")
    where = (*loc, "implementation")
    inner = _implementation(document, where, quality.get("implementation"))
    kwargs = dict(inner.get("kwargs") or {})
    if column and "column" not in kwargs:
        kwargs["column"] = column
    kind = str(inner["type"])
    by_row = _check_expectation(document, where, kind, kwargs)
    name = quality.get("name") or "_".join(
        [kind.removeprefix("expect_"), *([kwargs["column"]] if "column" in kwargs else [])]
    )
    rule = Rule(name, kind, kwargs, severity, by_row, quality.get("description") or "", document.line(loc))
    for used in rule.columns:
        if used not in columns:
            raise _fault(
                document, where, f"{used!r} is not in properties.{near_miss(used, columns)} Known: {', '.join(columns)}"
            )
    return rule


def _implementation(document: Document, loc: tuple[str | int, ...], value: object) -> Kwargs:
    if isinstance(value, str):
        value = _inner_yaml(document, loc, value)
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise _fault(document, loc, "expected keys `type` (an expectation) and `kwargs`")
    extra = sorted(set(value) - {"type", "kwargs", "meta"})
    if extra:
        raise _fault(
            document, loc, f"unknown key {extra[0]!r}.{near_miss(extra[0], ['type', 'kwargs'])} Known: type, kwargs"
        )
    if not isinstance(value.get("kwargs", {}), dict):
        raise _fault(document, loc, "kwargs: expected keys and values")
    return value


def _inner_yaml(document: Document, loc: tuple[str | int, ...], text: str) -> object:
    """The YAML inside a text value, as strict as the file around it."""
    return parse_yaml(text, document.path, above=document.line(loc)).value


def _check_expectation(document: Document, loc: tuple[str | int, ...], kind: str, kwargs: Kwargs) -> bool:
    """Whether it judges rows; refuses names and arguments that GX does not know."""
    _import_gx()
    from great_expectations.expectations import registry
    from great_expectations.expectations.expectation import (
        ColumnMapExpectation,
        ColumnPairMapExpectation,
        MulticolumnMapExpectation,
    )

    known = sorted(registry.list_registered_expectation_implementations())
    if kind not in known:
        raise _fault(document, loc, f"no expectation is named {kind!r}.{near_miss(kind, known)} GX knows {len(known)}")
    expectation = registry.get_expectation_impl(kind)
    _check_arguments(document, loc, kwargs)
    try:
        expectation(**kwargs)
    except Exception as error:  # GX's own pydantic and checks
        reason = " ".join(str(error).split())
        raise _fault(document, loc, f"{kind}: {reason}") from None
    return issubclass(expectation, ColumnMapExpectation | ColumnPairMapExpectation | MulticolumnMapExpectation)


def _check_arguments(document: Document, loc: tuple[str | int, ...], kwargs: Kwargs) -> None:
    """Refuse what GX would find only at night, and lay at the door of the data."""
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    numbers = isinstance(low, int | float) and isinstance(high, int | float)
    if (numbers or type(low) is type(high) is str) and cast("Any", low) > high:
        raise _fault(document, loc, f"min_value {low} is above max_value {high}, so no value can pass")
    for pattern in (kwargs.get("regex"), *(kwargs.get("regex_list") or ())):
        try:
            re.compile(pattern or "")
        except (re.error, TypeError) as error:
            raise _fault(document, loc, f"regex {pattern!r} is no regular expression: {error}") from None


def _with_dates(document: Document, rule: Rule, dates: set[str]) -> Rule:
    """Bounds on a date column as dates: GX would compare them with text."""
    if rule.kwargs.get("column") not in dates:
        return rule
    kwargs = dict(rule.kwargs)
    for name in ("min_value", "max_value"):
        if isinstance(kwargs.get(name), str):
            try:
                kwargs[name] = pd.to_datetime(kwargs[name], format="%Y-%m-%d").to_pydatetime()
            except ValueError:
                fault = f"{name}: {kwargs[name]!r}: expected a date such as 2018-12-31"
                raise _fault(document, ("schema", 0, "quality"), fault, rule.line) from None
    return Rule(rule.name, rule.type, kwargs, rule.severity, rule.by_row, rule.description, rule.line)


# --- contract and customer ------------------------------------------------------------------------------------------


def agree(contract: Contract, customer: Customer) -> None:
    """Check, without reading the feed, that the customer's source delivers what the contract is about.

    A disagreement is ours; found only at night, it would be laid at the door of the feed's owner.

    Raises:
        ConfigurationError: They do not fit; the message names both files, the key, the expectation and a near miss.
    """
    check_declaration(customer)
    columns = delivered(customer)
    properties = {p.name: p for p in contract.properties}
    names = f"{customer.id}.yaml and {contract.path.name} do not agree"
    for name in properties:
        if name not in columns:
            raise ConfigurationError(f"{names}: {_undelivered(name, customer)}, or take it out of the contract")
    for name, delivers in columns.items():
        if name not in properties:
            raise ConfigurationError(
                f"{names}: the customer reads column {name!r}, which is not in the contract's properties."
                f"{near_miss(name, list(properties))} Properties: {', '.join(properties)}; describe it there, or take "
                "it out of the customer's `columns` or `exogenous`"
            )
        expects = properties[name].logical_type
        if expects not in _FITS[delivers]:
            raise ConfigurationError(
                f"{names}: column {name!r} is read as a {delivers}, but its property has logicalType {expects!r}; "
                f"expected {' or '.join(_FITS[delivers])}"
            )


_FITS = {"date": ("date", "timestamp"), "string": ("string",), "number": ("number", "integer")}


def _undelivered(name: str, customer: Customer) -> str:
    columns, wide = delivered(customer), customer.source.wide
    hint = near_miss(name, list(columns))
    made = wide is not None and name in wide.values.values()
    where = "`exogenous` (source.wide.values makes it, but nothing asks for it)" if made else "`columns` or `exogenous`"
    return (
        f"the contract has a property {name!r}, which the customer does not read.{hint} It reads: "
        f"{', '.join(columns)}; declare it under {where}"
    )


# --- checking -------------------------------------------------------------------------------------------------------


@dataclass
class _Check:
    """One check under way: the rows, how to name a line, and what has been found so far."""

    contract: Contract
    rows: pd.DataFrame
    where: Callable[[int], str]
    results: list[RuleResult] = field(default_factory=list)
    failures: list[tuple[str, pd.Series]] = field(default_factory=list)

    def by_row(self, name: str, kind: str, column: str, severity: Severity, mostly: float, failed: np.ndarray,
               reason: Callable[[pd.DataFrame], pd.Series]) -> None:  # fmt: skip
        """Record a rule about rows; ``failed`` is a mask over the rows."""
        n, checked = int(failed.sum()), len(self.rows)
        exceeded = n > (1 - mostly) * checked + 1e-9
        state: State = "passed" if not exceeded else "broken" if severity == "error" else "warned"
        text = ""
        if n:
            bad = self.rows[failed]
            reasons = reason(bad)
            self.failures.append((name, pd.Series(reasons.to_numpy(), index=bad["line"].to_numpy(), dtype=object)))
            text = f"{n} of {checked} lines ({n / checked:.3%}, allowed {1 - mostly:.3%}): "
            text += "; ".join(self._examples(bad["line"].to_numpy(), reasons)) + ("; …" if n > EXAMPLES else "")
        share = n / checked if checked else 0.0
        self.results.append(RuleResult(name, kind, column, severity, state, n, checked, share, mostly, text))

    def by_table(
        self, name: str, kind: str, column: str, severity: Severity, fault: str, *, crashed: bool = False
    ) -> None:
        """Record a rule about the whole; an empty ``fault`` passed."""
        state: State = "passed" if not fault else "warned" if severity == "warning" else "broken"
        state = "crashed" if crashed else state
        checked = len(self.rows)
        self.results.append(RuleResult(name, kind, column, severity, state, 0, checked, 0.0, None, fault))

    def _examples(self, lines: np.ndarray, reasons: pd.Series) -> list[str]:
        return [f"{self.where(line)}: {why}" for line, why in zip(lines[:EXAMPLES], reasons[:EXAMPLES], strict=True)]

    def stopped(self) -> bool:
        return any(r.state == "broken" and r.mostly is None for r in self.results)

    def failed_lines(self) -> np.ndarray:
        return self.rows["line"].isin(pd.unique(np.concatenate([s.index for _, s in self.failures]))).to_numpy() if (
            self.failures) else np.zeros(len(self.rows), dtype=bool)  # fmt: skip

    def verdict(self, rows: pd.DataFrame, subject: str, remedy: str) -> Verdict:
        parts = [pd.DataFrame({"line": s.index, "rule": name, "reason": s.to_numpy()}) for name, s in self.failures]
        quarantine = pd.concat(parts, ignore_index=True) if parts else _no_failures()
        bad = rows["line"].isin(quarantine["line"]).to_numpy() if len(quarantine) else np.zeros(len(rows), dtype=bool)
        accepted, rejected = rows[~bad].reset_index(drop=True), rows[bad].reset_index(drop=True)
        contract = self.contract
        verdict = Verdict(contract.id, contract.version, subject, self.results, quarantine, accepted, rejected, remedy)
        states = pd.Series([r.state for r in self.results]).value_counts().to_dict()
        log.info("contract: %s %s on %s: rules %s; %d of %d lines quarantined",
                 contract.id, contract.version, subject, states, len(rejected), len(rows))  # fmt: skip
        return verdict


def _no_failures() -> pd.DataFrame:
    return pd.DataFrame(
        {"line": np.array([], dtype="int64"), "rule": pd.Series(dtype=object), "reason": pd.Series(dtype=object)}
    )


def check(rows: pd.DataFrame, contract: Contract, customer: Customer, *, cutoff: date | None = None) -> Verdict:
    """Check a feed's rows against the contract.

    Args:
        rows: :attr:`forecasting.data.sources.Feed.rows`.
        contract: What we accept.
        customer: Names the file, the target and its keys.
        cutoff: After it the target and columns known only historically may be empty, and the feed must reach to within
            ``max_gap_days`` of it. None: every row is history, however old.

    Returns:
        The verdict. Bad data is a result, not an exception.
    """
    files = tuple(rows.attrs.get("files", ()))
    work = _Check(contract, rows, lambda line: place(line, customer, files))
    remedy = (
        f"What to do: the last published forecast stays current. Send this to the feed's owner ({contract.owner}) and "
        f"have {customer.source.shown} delivered again; if the data are right, change the rule in {contract.path.name} "
        "under a new version. Then clear the run's `pull` task, or run the day again."
    )
    _structure(work)
    if not work.stopped():
        if cutoff is not None:
            _delivered_up_to(work, customer, cutoff)
        later = (
            pd.Series(False, index=rows.index) if cutoff is None else rows[customer.columns.ds] > pd.Timestamp(cutoff)
        )
        _declared_units(work, customer, later.to_numpy())
        _gate_rows(work, set(Wanted.of(customer).unknown), later.to_numpy())
        _run_gx(work)
        _publishable(work, customer)
    return work.verdict(rows, customer.source.shown, remedy)


def check_published(rows: pd.DataFrame, contract: Contract, expected: Expected) -> Verdict:
    """Audit forecasts about to be published against the outgoing contract.

    Args:
        rows: :data:`forecasting.frames.PUBLISHED`; declared quantiles follow as q10, q90, q025 …
        contract: ``forecasts.odcs.yaml``.
        expected: The series and days that make the set complete.
    """
    rows = rows.assign(line=np.arange(1, len(rows) + 1, dtype="int64"))
    work = _Check(contract, rows, lambda line: f"row {line}")
    _structure(work)
    if not work.stopped():
        _gate_rows(work, set(), np.zeros(len(rows), dtype=bool), ID_LENGTH)
        _published_rows(work, expected)
        _run_gx(work)
        _complete(work, expected)
        _coherent(work, expected)
    remedy = (
        "What to do: nothing was published and the last publication stays current. The fault is ours, not the feed's: "
        "look at the rows named, the model that made them, and the run's log."
    )
    return work.verdict(rows, expected.subject, remedy)


# --- the gate -------------------------------------------------------------------------------------------------------


def _structure(work: _Check) -> None:
    """Columns, dtypes and rows must be there at all, or nothing else can be judged."""
    names = [p.name for p in work.contract.properties]
    missing = [name for name in names if name not in work.rows.columns]
    present = [name for name in work.rows.columns if name != "line"]
    fault = (
        f"there is no column {missing[0]!r}.{near_miss(missing[0], present)} Columns: {', '.join(present)}"
        if missing
        else ""
    )
    work.by_table("columns", "gate", missing[0] if missing else "", "error", fault)
    work.by_table("rows", "gate", "", "error", "" if len(work.rows) else "there is not one row; expected some")
    wrong = [_wrong_type(p, work.rows[p.name]) for p in work.contract.properties if p.name in work.rows.columns]
    work.by_table("types", "gate", "", "error", "; ".join(text for text in wrong if text))


def _delivered_up_to(work: _Check, customer: Customer, cutoff: date) -> None:
    """A feed that has stopped must not pass for one without news: its file is whole, and ends too early."""
    name, gap = customer.columns.ds, timedelta(days=customer.max_gap_days)
    days = work.rows.loc[work.rows[customer.columns.y].notna(), name]
    newest, wanted = days[days <= pd.Timestamp(cutoff)].max(), cutoff - gap
    fault = ""
    if pd.isna(newest) or newest.date() < wanted:
        stands = "there is no day" if pd.isna(newest) else f"{newest.date()} is the newest day"
        fault = (
            f"{name}: {stands} with {customer.columns.y} on or before the cutoff {cutoff}; expected {wanted} or later "
            f"(max_gap_days {customer.max_gap_days}). Has the delivery stopped? Ask for the missing days; where such a "
            f"gap is usual, raise max_gap_days in {customer.id}.yaml"
        )
    work.by_table("delivered_up_to_cutoff", "gate", name, "error", fault)


def _declared_units(work: _Check, customer: Customer, later: np.ndarray) -> None:
    """A quantity in a unit that nobody declared cannot be added to the others."""
    unit = customer.columns.unit
    if unit is None:
        return
    failed = ~(work.rows[unit.column].isin(list(unit.factors)).to_numpy() | later)
    expectation = f"one of {', '.join(unit.factors)}; declare it under columns.unit.factors"
    mostly = work.contract.gate_mostly
    work.by_row("declared_unit", "gate", unit.column, "error", mostly, failed, _value(unit.column, expectation))


def _wrong_type(column: Property, values: pd.Series) -> str:
    dtype, kind = values.dtype, column.logical_type
    if isinstance(dtype, pd.DatetimeTZDtype):
        return f"column {column.name} carries a time zone ({dtype}); expected the customer's local day"
    kinds: dict[str, Callable[[Any], bool]] = {
        "date": pd.api.types.is_datetime64_any_dtype,
        "timestamp": pd.api.types.is_datetime64_any_dtype,
        "number": pd.api.types.is_numeric_dtype,
        "integer": pd.api.types.is_numeric_dtype,
        "boolean": pd.api.types.is_bool_dtype,
        "string": lambda t: t == object or pd.api.types.is_string_dtype(t),  # noqa: E721 - a dtype, not a type
    }
    fits = kinds.get(kind)
    if fits is None or fits(dtype):
        return ""
    return f"column {column.name} holds {dtype}; expected {kind}"


def _gate_rows(work: _Check, unknown: set[str], later: np.ndarray, longest: int = KEY_LENGTH) -> None:
    """What GX lets pass: empty and infinite values, unusable keys, doubles; ``unknown`` may be empty if ``later``."""
    mostly = work.contract.gate_mostly
    for column in work.contract.properties:
        values = work.rows[column.name]
        if column.required or column.key:
            null = values.isna().to_numpy() | (values == "").to_numpy()
            failed = null & ~later if column.name in unknown else null
            work.by_row(
                f"required_{column.name}",
                "gate",
                column.name,
                "error",
                mostly,
                failed,
                _says(f"{column.name} is empty"),
            )
        if column.logical_type in ("number", "integer"):
            infinite = np.isinf(values.to_numpy(dtype="float64"))
            work.by_row(
                f"finite_{column.name}",
                "gate",
                column.name,
                "error",
                mostly,
                infinite,
                _value(column.name, "a finite number"),
            )
        if column.key and column.logical_type == "string":
            unusable, expected = _unusable(values, longest), f"a key of at most {longest} printable characters"
            reason = _value(column.name, f"{expected}, no blanks around it")
            work.by_row(f"usable_{column.name}", "gate", column.name, "error", mostly, unusable, reason)
    _unique(work, mostly)


def _publishable(work: _Check, customer: Customer) -> None:
    """Quantities that no rule has bounded: one beyond what our readers are promised would stop every series' night."""
    name = customer.columns.y
    failed = np.asarray(work.rows[name].abs() > LARGEST) & ~work.failed_lines()
    mostly = work.contract.gate_mostly
    reason = _value(name, f"at most {LARGEST:g}; give the contract a range for it")
    work.by_row(f"publishable_{name}", "gate", name, "error", mostly, failed, reason)


def _unusable(values: pd.Series, longest: int) -> np.ndarray:
    # sets, because pandas takes texts for equal that differ after a NUL
    bad = {v for v in set(values.dropna()) if len(v) > longest or not v.isprintable() or v != v.strip()}
    return np.array([v in bad for v in values]) if bad else np.zeros(len(values), dtype=bool)


def _unique(work: _Check, mostly: float) -> None:
    key = list(work.contract.key)
    if not key:
        return
    failed = work.rows.duplicated(key, keep=False).to_numpy() & work.rows[key].notna().all(axis=1).to_numpy()
    names = ", ".join(key)

    def reason(bad: pd.DataFrame) -> pd.Series:
        return _named(bad, key) + f": stands more than once; expected each ({names}) once"

    work.by_row("unique", "gate", names, "error", mostly, failed, reason)


def _named(rows: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """``DATE = 2018-01-02, brand = B1`` for every row."""
    text = pd.Series("", index=rows.index)
    for i, name in enumerate(columns):
        values = rows[name]
        shown = (
            values.dt.strftime("%Y-%m-%d")
            if pd.api.types.is_datetime64_any_dtype(values)
            else values.astype(str).map(legible)
        )
        text = text + (", " if i else "") + f"{name} = " + shown.fillna("empty")
    return text


def legible(text: str, longest: int = VALUE) -> str:
    """A value as a message shows it: of bounded length, and nothing in it that a terminal would obey.

    >>> legible("S1"), legible("S1 "), legible("x" * 99)[-6:]
    ('S1', "'S1 '", "xxxx…'")
    """
    short = text if len(text) <= longest else f"{text[:longest]}…"
    return short if short == text == text.strip() and text.isprintable() else repr(short)


def _says(text: str) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda bad: pd.Series(f"{text}; expected a value", index=bad.index)


def _value(column: str, expectation: str) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda bad: _named(bad, [column]) + f"; expected {expectation}"


# --- Great Expectations ---------------------------------------------------------------------------------------------


def _import_gx() -> None:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # before the import reads it
    logging.getLogger("great_expectations").setLevel(logging.WARNING)  # a hundred lines at import otherwise
    import great_expectations.data_context.types.base

    # one of its modules sets its own logger to INFO as it is imported
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("great_expectations.") and isinstance(logger, logging.Logger):
            logger.setLevel(logging.NOTSET)
    assert great_expectations


def _run_gx(work: _Check) -> None:
    """Run the contract's rules on the rows that passed the gate."""
    rules = work.contract.rules
    clean = work.rows[~work.failed_lines()]
    if not rules:
        return
    if clean.empty:
        for rule in rules:
            work.by_table(
                rule.name, rule.type, ", ".join(rule.columns), rule.severity, "not checked: no row passed the gate"
            )
        return
    by_name = _validate(clean.reset_index(drop=True), rules)
    for rule in rules:
        _record(work, rule, by_name[rule.name])


def _validate(rows: pd.DataFrame, rules: Sequence[Rule]) -> dict[str, Any]:
    _import_gx()
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.expectations.registry import get_expectation_impl

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("feed").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": rows})
    suite = gx.ExpectationSuite(name="contract")
    for rule in rules:
        expectation: Expectation = get_expectation_impl(rule.type)(**rule.kwargs, meta={"rule": rule.name})
        suite.add_expectation(expectation)
    form = {"result_format": "COMPLETE", "unexpected_index_column_names": ["line"], "include_unexpected_rows": False}
    validated = batch.validate(suite, result_format=form)
    found: dict[str, Any] = {}
    for result in validated.results:
        config: Any = result.expectation_config
        found[config.meta["rule"]] = result
    return found


def _record(work: _Check, rule: Rule, result: Any) -> None:
    columns = ", ".join(rule.columns)
    crash = _crash(result.exception_info)
    if crash:
        text = f"could not be checked ({crash}): a fault of the rule on line {rule.line} of {work.contract.path.name} "
        text += "or of its library, not of the data"
        work.by_table(rule.name, rule.type, columns, rule.severity, text, crashed=True)
    elif rule.by_row:
        lines = [entry["line"] for entry in result.result.get("unexpected_index_list") or []]
        failed = work.rows["line"].isin(lines).to_numpy() if lines else np.zeros(len(work.rows), dtype=bool)
        text = f"; expected {in_words(rule)}"
        work.by_row(rule.name, rule.type, columns, rule.severity, rule.mostly, failed,
                    lambda bad: _named(bad, rule.columns) + text)  # fmt: skip
    else:
        got = "" if result.success else _observed(work, rule, result.result)
        fault = f"{columns or 'the table'}: {got}; expected {in_words(rule)}" if got else ""
        work.by_table(rule.name, rule.type, columns, rule.severity, fault)


def _crash(info: Any) -> str:
    """What an expectation raised, in either of the two shapes GX reports it in; empty if it did not."""
    if not isinstance(info, dict):
        return ""
    for entry in [info, *(value for value in info.values() if isinstance(value, dict))]:
        if entry.get("raised_exception"):
            return " ".join(str(entry.get("exception_message")).split())[:200]
    return ""


def _observed(work: _Check, rule: Rule, result: Mapping[str, Any]) -> str:
    """What a table rule found; GX leaves out the values of its rules about distinct ones."""
    got = result.get("observed_value")
    if got is None and "_distinct_values_" in rule.type:
        rows = work.rows[~work.failed_lines()]
        found = sorted(map(str, rows[rule.kwargs["column"]].dropna().unique()))
        lost = sorted(map(str, set(rule.kwargs.get("value_set") or ()) - set(rows[rule.kwargs["column"]])))
        without = f", and not {_several(lost)}" if lost and "_contain_" in rule.type else ""
        return f"holds {_several(found)}{without}"
    return "got nothing to judge" if got is None else f"got {_shown(got)}"


def _several(values: Sequence[str]) -> str:
    return _shown(", ".join(values)) + (f" ({len(values)} in all)" if len(values) > EXAMPLES else "")


def _shown(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 100 else text[:100] + "…"


def in_words(rule: Rule) -> str:
    """What a rule expects, for people."""
    low, high = (_bound(rule.kwargs.get(name)) for name in ("min_value", "max_value"))
    what = rule.type.removeprefix("expect_").replace("_", " ")
    if "value_set" in rule.kwargs:
        return f"{what}: {', '.join(map(str, rule.kwargs['value_set']))}"
    if low or high:
        return f"{what}: {' to '.join(part for part in (low or 'anything', high or 'anything'))}"
    rest = {k: v for k, v in rule.kwargs.items() if k not in ("column", "mostly")}
    return f"{what}: {', '.join(f'{k} {v}' for k, v in rest.items())}" if rest else what


def _bound(value: object) -> str:
    return "" if value is None else str(value.date()) if hasattr(value, "date") else str(value)


# --- what we publish ------------------------------------------------------------------------------------------------


def _quantiles(rows: pd.DataFrame) -> list[str]:
    """Quantile columns, lowest first."""
    names = [n for n in rows.columns if n.startswith("q") and n[1:].isdigit()]
    return sorted(names, key=lambda name: float(f"0.{name[1:]}"))


def _published_rows(work: _Check, expected: Expected) -> None:
    rows, names = work.rows, _quantiles(work.rows)
    values = rows[names].to_numpy(dtype="float64")
    unusable = np.asarray(~(np.isfinite(values) & (values >= 0)).all(axis=1))
    work.by_row(
        "quantiles_finite",
        "audit",
        ", ".join(names),
        "error",
        1.0,
        unusable,
        lambda bad: _row(bad, names, "finite, ≥ 0"),
    )
    disordered = np.asarray((np.diff(values, axis=1) < 0).any(axis=1))
    work.by_row(
        "quantiles_in_order",
        "audit",
        ", ".join(names),
        "error",
        1.0,
        disordered,
        lambda bad: _row(bad, names, "ascending"),
    )
    days = dict(enumerate((pd.Timestamp(day) for day in expected.dates), start=1))
    wrong = (rows["h"].map(days) != rows["ds"]).to_numpy()
    span = f"step h on the h-th day of {expected.dates[0]} … {expected.dates[-1]}"
    work.by_row("fresh", "audit", "h, ds", "error", 1.0, wrong, lambda bad: _row(bad, ["h", "ds"], span))


def _row(bad: pd.DataFrame, names: Sequence[str], expectation: str) -> pd.Series:
    return _named(bad, ["node", "unique_id", *names]) + f"; expected {expectation}"


def _complete(work: _Check, expected: Expected) -> None:
    """Exactly the expected series, each with exactly the expected steps."""
    got = work.rows.groupby(["node", "unique_id"])["h"].nunique()
    want = pd.Index([(node, name) for node, names in expected.series.items() for name in names])
    steps = got.reindex(want, fill_value=0) if len(want) else got.iloc[:0]
    short, extra = steps[steps != len(expected.dates)], got.index.difference(want)
    fault = ""
    if len(short):
        node, name = cast("tuple[str, str]", short.index[0])
        fault = f"{len(short)} of {len(want)} series are incomplete, such as {node} {name!r}: {short.iloc[0]} steps; "
        fault += f"expected {len(expected.dates)}"
    elif len(extra):
        fault = f"{len(extra)} series are not expected, such as {extra[0]}; expected those not retired"
    work.by_table("complete", "audit", "node, unique_id, h", "error", fault)


def _coherent(work: _Check, expected: Expected) -> None:
    """Aggregate nodes equal the sums of their series, to a rounding."""
    bottom = work.rows[work.rows["node"] == BOTTOM]
    keys = {name: split_id(name) for name in bottom["unique_id"].unique()}
    faults = []
    for node, positions in expected.nodes.items():
        group = bottom["unique_id"].map({name: tuple(parts[p] for p in positions) for name, parts in keys.items()})
        want = bottom.groupby([group, "h"])["y_hat"].sum()
        upper = work.rows[work.rows["node"] == node]
        names = upper["unique_id"].map({n: split_id(n) if positions else () for n in upper["unique_id"].unique()})
        got = upper.groupby([names, "h"])["y_hat"].sum()
        off = (got - want).abs() > 1e-6 * want.abs() + 1e-4
        if off.any() or len(got) != len(want):
            faults.append(f"{node}: {int(off.sum())} of {len(want)} sums differ from their series, or are missing")
    work.by_table("coherent", "audit", "y_hat", "error", "; ".join(faults))
