"""Where bad input is tried: one small customer, taken from its source to the canonical panel as a night takes it.

A *kind* says how it ought to end; :func:`tried` says how it did end, and whether the two agree.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forecasting.config import Customer
from forecasting.data import contracts, sources
from forecasting.data import panel as panels
from forecasting.data.panel import Mapped
from forecasting.errors import ContractBrokenError, ForecastingError, SourceError
from tests.data.conftest import CONTRACT, UNTIL, long_csv, make_customer

__all__ = [
    "CUTOFF",
    "FAMILIES",
    "GOOD",
    "TOLERANT",
    "Bench",
    "Declared",
    "Forecast",
    "Kind",
    "Noted",
    "Quarantined",
    "Refused",
    "Result",
    "Same",
    "Taken",
    "broken",
    "refused",
    "tried",
]

CUTOFF = date(2024, 1, 20)
GOOD = long_csv()
"""23 days of two series, three of the days planned ahead: a header, then 46 lines."""
FAMILIES = (
    "bytes",
    "text",
    "headers",
    "numbers",
    "days",
    "keys",
    "deliveries",
    "packing",
    "parquet",
    "xlsx",
    "sql",
    "customer file",
    "contract file",
    "series",
)

TOLERANT = CONTRACT.replace(
    "schema:\n",
    "customProperties:\n  - {property: gateMostly, value: 0.9}\nschema:\n",
).replace(
    "      - name: enough_rows\n",
    """\
      - name: promo_is_a_flag
        type: custom
        engine: greatExpectations
        severity: error
        implementation: |
          type: expect_column_values_to_be_in_set
          kwargs: {column: promo, value_set: [0, 1], mostly: 0.9}
      - name: days_of_our_time
        type: custom
        engine: greatExpectations
        severity: error
        implementation: |
          type: expect_column_min_to_be_between
          kwargs: {column: day, min_value: "2023-01-01"}
      - name: enough_rows
""",
)
"""A contract that bears a tenth of bad rows."""


GATE = ("required_", "finite_", "usable_", "unique", "declared_unit", "publishable_")
"""Rules of the gate's own begin so."""


# --- how a kind ends ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refused:
    """An error of ours whose message holds ``words``."""

    error: type[ForecastingError]
    words: tuple[str, ...]

    name = "refused"


@dataclass(frozen=True)
class Quarantined:
    """``rows`` rows are kept out and counted under ``rule``; all others are used as they are."""

    rule: str
    rows: int = 1

    name = "quarantined"


@dataclass(frozen=True)
class Forecast:
    """Each of ``series`` has its status and rung; the set is complete and passes its audit."""

    series: Mapping[str, str]
    """unique_id → ``status`` or ``status: rung``."""
    says: str = ""
    """Part of the reason of one of them."""

    name = "rung"


@dataclass(frozen=True)
class Same:
    """Means exactly what the good delivery means, and reads so."""

    change: Callable[[pd.DataFrame], pd.DataFrame] = field(default=lambda rows: rows)
    """The good rows → the rows that it says: a different but true value."""

    name = "read as it is"


@dataclass(frozen=True)
class Noted:
    """Used; a result of the gate, or a count, says what is unusual about it."""

    words: tuple[str, ...]

    name = "used and said"


End = Refused | Quarantined | Forecast | Same | Noted


def refused(*words: str) -> Refused:
    """Refused as it is read."""
    return Refused(SourceError, words)


def broken(*words: str) -> Refused:
    """Refused by the contract."""
    return Refused(ContractBrokenError, words)


# --- what came of it ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taken:
    """A delivery that was used."""

    rows: pd.DataFrame
    verdict: contracts.Verdict
    mapped: Mapped
    outside: int = 0

    @property
    def said(self) -> str:
        outside = f"{self.outside} lines outside the window; " if self.outside else ""
        return outside + self.verdict.message()


@dataclass(frozen=True)
class Declared:
    """A declaration that was accepted."""

    what: object


@dataclass(frozen=True)
class Kind:
    """One kind of bad input."""

    family: str
    name: str
    act: Callable[[Bench], Any]
    """Tries it; returns what came of it, or ends with an error."""
    end: End
    postgres: bool = False
    """True when it needs a server."""

    @property
    def id(self) -> str:
        return f"{self.family}: {self.name}"


@dataclass(frozen=True)
class Result:
    """How one kind ended."""

    kind: Kind
    ended: str
    """``refused``, ``quarantined``, ``rung``, ``read as it is``, ``used and said``, ``accepted`` or ``traceback``."""
    stage: str
    """Where: source, gate (of the contract), contract, panel, declaration, ladder."""
    said: str
    fault: str
    """Empty when it ended as designed."""
    found: Any = None
    """What came of it, where it was used."""


class Bench:
    """A folder with a customer's deliveries, and what a night does with them."""

    def __init__(self, folder: Path, postgres_url: Callable[[], str] | None = None) -> None:
        self.folder, self._postgres_url = folder, postgres_url
        self.stage = "source"
        self.only_gate = False
        """True: Great Expectations' rules, which take longest, are not asked."""

    def postgres(self) -> str:
        """URL of an empty database."""
        assert self._postgres_url is not None
        return self._postgres_url()

    def put(self, name: str, data: bytes | str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def take(
        self, customer: Customer | None = None, *, contract: str = TOLERANT, uri: str | None = None,
        since: date | None = None,
    ) -> Taken:  # fmt: skip
        """From the source to the panel."""
        customer = customer or make_customer()
        self.stage = "source"
        feed = sources.pull(customer, access=sources.Access(self.folder, None, uri), since=since, until=UNTIL)
        self.stage = "contract"
        rows, excluded = panels.exclude(feed.rows, customer, CUTOFF)
        verdict = contracts.check(rows, self._agreed(contract), customer, cutoff=CUTOFF)
        if verdict.broken:
            raise ContractBrokenError(verdict.message())
        self.stage = "panel"
        mapped = panels.to_panel(verdict.accepted, verdict.rejected, customer, CUTOFF, since=since, excluded=excluded)
        panels.check_panel(mapped.panel, customer)
        assert mapped.lines.read == feed.lines_read
        return Taken(feed.rows, verdict, mapped, feed.lines_outside)

    def _agreed(self, text: str) -> contracts.Contract:
        found = _contract(text)
        return replace(found, rules=()) if self.only_gate else found


@cache
def _contract(text: str) -> contracts.Contract:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "acme.odcs.yaml"
        path.write_text(text, encoding="utf-8")
        return contracts.load(path)


@cache
def good_rows() -> pd.DataFrame:
    """The good delivery's rows."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        bench.put("feed.csv", GOOD)
        return content(bench.take().rows)


def content(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows without their places, in an order of their own."""
    plain = rows.drop(columns="line")
    return plain.sort_values(list(plain.columns), kind="stable", ignore_index=True)


def equal(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Exactly, the sign of zero included."""
    if list(one.columns) != list(other.columns) or len(one) != len(other):
        return False
    return all(_same(one[name], other[name]) for name in one.columns)


def _same(one: pd.Series, other: pd.Series) -> bool:
    if one.dtype == object:
        return [*one] == [*other]
    return bool(np.array_equal(one.to_numpy(), other.to_numpy(), equal_nan=one.dtype.kind in "fM"))


# --- judging --------------------------------------------------------------------------------------------------------


def tried(kind: Kind, postgres_url: Callable[[], str] | None = None) -> Result:
    """Try a kind in a folder of its own and compare how it ends with how it should."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = Bench(folder, postgres_url)
        bench.only_gate = isinstance(kind.end, Same) or (
            isinstance(kind.end, Quarantined) and kind.end.rule.startswith(GATE)
        )
        try:
            found = kind.act(bench)
        except ForecastingError as error:
            text = str(error).replace(str(folder), "…")
            return _refusal(kind, error, bench.stage, text)
        except Exception as error:
            return Result(kind, "traceback", bench.stage, repr(error), f"a traceback: {error!r}"[:500])
        return replace(_acceptance(kind, found, bench.stage), found=found)


def _refusal(kind: Kind, error: ForecastingError, stage: str, text: str) -> Result:
    fault = _unreadable(text)
    if not isinstance(kind.end, Refused):
        fault = f"refused ({text[:300]}); expected: {kind.end.name}"
    elif type(error) is not kind.end.error:
        fault = f"{type(error).__name__}, expected {kind.end.error.__name__}: {text[:300]}"
    else:
        lacking = [word for word in kind.end.words if word not in text]
        fault = f"the message lacks {lacking}: {text[:600]}" if lacking else fault
    return Result(kind, "refused", stage, text, fault)


def _unreadable(text: str) -> str:
    """What keeps an on-call from reading a message: its length, or what a terminal would obey."""
    odd = sorted({char for char in text if not char.isprintable() and char != "\n"})
    if odd:
        return f"the message holds {odd}: {text[:300]!r}"
    return f"the message is {len(text)} characters long: {text[:300]}" if len(text) > 4000 else ""


def _acceptance(kind: Kind, found: Any, stage: str) -> Result:
    end = kind.end
    if isinstance(end, Refused):
        return Result(kind, "accepted", stage, "", f"wrongly accepted: {str(found)[:300]}")
    if isinstance(end, Forecast):
        said, fault = found.compare(end)
        return Result(kind, "rung", "ladder", said, fault)
    assert isinstance(found, Taken)
    refused_rows, fault = len(found.verdict.rejected), _unreadable(found.said)
    if isinstance(end, Quarantined):
        rules = dict(found.verdict.quarantine["rule"].value_counts())
        if rules.get(end.rule) != end.rows or refused_rows != end.rows:
            fault = f"quarantined {rules} ({refused_rows} rows), expected {end.rows} by {end.rule}"
        elif not _rest_is_used(found):
            fault = "the other rows are not those of the good delivery"
        ended = "quarantined" if refused_rows else "accepted"
    elif isinstance(end, Same):
        want = end.change(good_rows().copy()).pipe(lambda rows: rows.sort_values([*rows.columns], ignore_index=True))
        if refused_rows or not equal(content(found.rows), want):
            fault = f"reads otherwise: {refused_rows} rows quarantined"
        ended = "accepted" if fault else end.name
    else:
        lacking = [word for word in end.words if word not in found.said]
        fault, ended = f"does not say {lacking}: {found.said[:600]}" if lacking else "", end.name
    return Result(kind, ended, "contract" if isinstance(end, Quarantined) else stage, found.said, fault)


def _rest_is_used(found: Taken) -> bool:
    """The accepted rows are good rows, and no more are lacking than were quarantined."""
    want = set(good_rows().astype(object).astype(str).itertuples(index=False, name=None))
    got = found.verdict.accepted.drop(columns="line").astype(object).astype(str)
    rest = set(got.itertuples(index=False, name=None))
    return rest <= want and len(want) - len(rest) <= len(found.verdict.rejected)
