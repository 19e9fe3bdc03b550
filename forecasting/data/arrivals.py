"""What a delivery brings beside the one before it, counted by day. It judges, and changes nothing.

A *ledger* is what earlier runs have seen: one row a day, with ``lines`` (0 where the source held the day no longer) and
``digest`` as last seen, and ``kept_lines`` and ``kept_digest`` as they went into the snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from forecasting.config import Customer
from forecasting.data.contracts import EXAMPLES, Contract, RuleResult, State
from forecasting.periods import Frequency, period_end, shift

__all__ = ["LEDGER", "Arrivals", "Reading", "changes", "compare", "judge", "same_declaration", "to_keep"]

LEDGER = ("day", "lines", "digest", "kept_lines", "kept_digest")
"""Columns of a ledger; ``day`` once, ascending."""
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
USUAL_PERIODS = 8
"""Earlier periods (on daily feeds: of the same weekday) that say what a usual number of lines is."""
ENOUGH_PERIODS = 4
"""Fewer of them say nothing."""
SHORT = 10
"""Days of fewer lines may hold each of them again by chance."""

Kind = Literal["late", "restated", "lost", "rolled_off"]


class Reading(NamedTuple):
    """What tonight's pull has read."""

    days: pd.DataFrame
    """:attr:`forecasting.data.sources.Feed.days`."""
    since: date | None
    """First day that replaces what the snapshot holds; None: everything is replaced."""
    whole_from: date | None
    """First day from which all that the source holds was read; None: all of it."""
    watermark: date | None
    """Newest day with a target."""


@dataclass(frozen=True)
class Arrivals:
    """How a delivery differs from what was last seen."""

    compared: bool
    """False: there is nothing comparable; ``why`` says so."""
    why: str = ""
    days_new: int = 0
    lines_new: int = 0
    found: pd.DataFrame = field(default_factory=lambda: _no_changes())
    """Days up to the watermark before that changed: day, kind, before, now (lines), inside (the window)."""
    lines_inside: int = 0
    """Lines of the compared days inside the window, as last seen."""
    lines_outside: int = 0
    """The same before the window."""
    not_kept: int = 0
    """Days before the window that the source holds otherwise than the snapshot does."""
    repeated: tuple[date, ...] = ()
    """Days of which every line stands there as often again, or more: a delivery was made twice."""

    def of(self, kind: Kind, *, inside: bool | None = None) -> pd.DataFrame:
        """The days that changed in that way."""
        found = self.found[self.found["kind"] == kind]
        return found if inside is None else found[found["inside"] == inside]

    @property
    def lines_late(self) -> int:
        """Lines more than were last seen, on days that had been read."""
        late = self.of("late")
        return int((late["now"] - late["before"]).sum())

    @property
    def days_restated(self) -> int:
        """Days of as many lines, and other content."""
        return len(self.of("restated"))

    @property
    def lines_lost(self) -> int:
        """Lines fewer than were last seen."""
        lost = self.of("lost")
        return int((lost["before"] - lost["now"]).sum())

    def counts(self) -> dict[str, int]:
        """For the run's row; nothing where nothing was compared."""
        if not self.compared:
            return {}
        return {"lines_late": self.lines_late, "days_restated": self.days_restated, "lines_lost": self.lines_lost}

    def sentence(self) -> str:
        """For the log."""
        if not self.compared:
            return f"not compared with an earlier delivery: {self.why}"
        rolled = self.of("rolled_off")
        said = [
            f"{self.lines_new} lines on {_days(self.days_new, 'new ')}",
            f"{self.lines_late} late lines on {_days(len(self.of('late')))}",
            f"{_days(self.days_restated)} restated",
            f"{self.lines_lost} lines lost on {_days(len(self.of('lost')))}",
        ]
        said += [f"{_days(len(rolled))} rolled off the source's old end"] if len(rolled) else []
        said += [f"{_days(self.not_kept)} before the window differ from the snapshot"] if self.not_kept else []
        return ", ".join(said)


def _days(count: int, kind: str = "") -> str:
    return f"{count} {kind}day{'' if count == 1 else 's'}"


def _no_changes() -> pd.DataFrame:
    kinds = {"day": "datetime64[ns]", "kind": "object", "before": "int64", "now": "int64", "inside": "bool"}
    return pd.DataFrame({name: np.array([], dtype=dtype) for name, dtype in kinds.items()})


# --- comparing ------------------------------------------------------------------------------------------------------


_SAYS_WHAT_IS_READ = ("columns", "exogenous", "exclude", "time_zone")
_BUDGETS = ("timeout", "max_rows", "max_bytes")


def same_declaration(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """True when two frozen configurations read the same lines of a source, so that their days can be compared."""
    return _declared(before) == _declared(now)


def _declared(config: Mapping[str, Any]) -> dict[str, Any]:
    source = {name: value for name, value in config.get("source", {}).items() if name not in _BUDGETS}
    return {"source": source} | {name: config.get(name) for name in _SAYS_WHAT_IS_READ}


def compare(now: Reading, ledger: pd.DataFrame, watermark: date | None) -> Arrivals:
    """Compare what was read with what was last seen.

    Days after ``watermark`` are new, whatever the ledger holds of them: they had no target. Of the others, only those
    that tonight's pull has read whole are compared. A day that the source, read from its beginning, held before its
    oldest day of now has rolled off; one inside the window never has, since it would leave the snapshot too.

    Args:
        now: Tonight's reading.
        ledger: :data:`LEDGER`, as of tonight.
        watermark: The newest day with a target when the ledger was last written.
    """
    if watermark is None or ledger.empty:
        return Arrivals(False, "nothing was recorded before this run")
    both = _beside(now.days, ledger)
    fresh = (both["day"] > pd.Timestamp(watermark)).to_numpy()
    whole = np.ones(len(both), dtype=bool) if now.whole_from is None else _from(both["day"], now.whole_from)
    inside = np.ones(len(both), dtype=bool) if now.since is None else _from(both["day"], now.since)
    old = both[~fresh & (whole | inside)].assign(inside=inside[~fresh & (whole | inside)])
    rolled = _rolled_off(old, now)
    found = changes(old, rolled)
    counted = old[~rolled]
    outside = counted[~counted["inside"]]
    new = both[fresh & (both["now"] > 0).to_numpy()]
    return Arrivals(
        True,
        days_new=len(new),
        lines_new=int(new["now"].sum()),
        found=found,
        lines_inside=int(counted.loc[counted["inside"], "before"].sum()),
        lines_outside=int(outside["before"].sum()),
        not_kept=int(((outside["now"] != outside["kept_lines"]) | _other(outside, "kept_digest")).sum()),
        repeated=tuple(_repeated(counted)),
    )


def _repeated(both: pd.DataFrame) -> Iterator[date]:
    """Days whose digest is a multiple of what it was, as their lines are: digests add up line by line.

    A few equal lines may well be sold again, so short days say nothing.
    """
    grown = both[(both["before"] >= SHORT) & (both["now"] > both["before"])]
    columns = [grown[name].tolist() for name in ("day", "before", "now", "digest", "digest_now")]
    for day, before, now, digest, digest_now in zip(*columns, strict=True):
        times, rest = divmod(now, before)
        if not rest and int(digest_now, 16) == times * int(digest, 16) % 2**64:
            yield day.date()


def _beside(days: pd.DataFrame, ledger: pd.DataFrame) -> pd.DataFrame:
    """Every day of either, with its lines before and now; a day that one of them lacks has none there."""
    now = days.rename(columns={"lines": "now", "digest": "digest_now"})
    both = ledger.rename(columns={"lines": "before"}).merge(now, on="day", how="outer", sort=True)
    for name in ("before", "now", "kept_lines"):
        both[name] = both[name].fillna(0).astype("int64")
    for name in ("digest", "digest_now", "kept_digest"):
        both[name] = both[name].where(both[name].notna(), "")
    return both


def _from(day: pd.Series, first: date) -> np.ndarray:
    return np.asarray(day >= pd.Timestamp(first))


def _other(both: pd.DataFrame, digest: str) -> pd.Series:
    return both[digest] != both["digest_now"]


def _rolled_off(both: pd.DataFrame, now: Reading) -> np.ndarray:
    """Days that left the source at its old end: it keeps two years, say."""
    if now.days.empty:
        return np.zeros(len(both), dtype=bool)
    gone = (both["day"] < now.days["day"].min()).to_numpy()
    return np.asarray(gone & (~both["inside"].to_numpy() | (now.since is None)))


def changes(both: pd.DataFrame, rolled: np.ndarray) -> pd.DataFrame:
    """What happened to each day that is not as it was: columns of :attr:`Arrivals.found`."""
    before, now = both["before"].to_numpy(), both["now"].to_numpy()
    restated = (before == now) & (now > 0) & _other(both, "digest").to_numpy()
    kinds = np.select(
        [rolled & (before > 0), now > before, now < before, restated], ["rolled_off", "late", "lost", "restated"], ""
    )
    found = both.assign(kind=kinds.astype(object))[["day", "kind", "before", "now", "inside"]]
    return found[found["kind"] != ""].reset_index(drop=True)


def to_keep(now: Reading, ledger: pd.DataFrame) -> pd.DataFrame:
    """What the ledger has to learn: day, lines, digest (None where the day is gone), kept. A usual night: one row.

    ``kept`` says that the day was inside the window, so that the snapshot holds what was read. An empty ledger begins
    with what the source holds: nothing says that the snapshot, if there is one, was made of anything else.
    """
    both = _beside(now.days, ledger)
    everything = np.ones(len(both), dtype=bool)
    kept = everything if now.since is None or ledger.empty else _from(both["day"], now.since)
    read = kept | (everything if now.whole_from is None else _from(both["day"], now.whole_from))
    seen = (both["before"] != both["now"]) | _other(both, "digest")
    unkept = kept & ((both["kept_lines"] != both["now"]) | _other(both, "kept_digest"))
    rows = both.assign(kept=kept)[np.asarray(read & (seen | unkept))]
    digest = [text or None for text in rows["digest_now"]]
    told = rows.assign(digest=pd.Series(digest, index=rows.index, dtype=object))
    return told.rename(columns={"now": "lines"})[["day", "lines", "digest", "kept"]].reset_index(drop=True)


# --- judging --------------------------------------------------------------------------------------------------------


def judge(
    arrived: Arrivals, now: Reading, ledger: pd.DataFrame, contract: Contract, customer: Customer, *,
    watermark: date | None = None, cutoff: date | None = None, adopt: bool = False, left: pd.DataFrame | None = None,
) -> list[RuleResult]:  # fmt: skip
    """What the gate's rules about deliveries say: late_rows, restated_days, history_kept, history_adopted, usual_lines.

    Args:
        arrived: From :func:`compare`.
        now: Tonight's reading.
        ledger: :data:`LEDGER`.
        contract: Its tolerances: ``historyMostly``, ``volumeLow``, ``volumeHigh``, ``volumeSeverity``.
        customer: Its frequency.
        watermark: As for :func:`compare`; periods after it are judged by their number of lines.
        cutoff: Last day that should be there; None: days without a line are not looked for.
        adopt: True when a full refresh was asked for: a loss is recorded and stops nothing.
        left: day and ``lines`` of tonight's reading that no declared rule excluded; None: nothing is said of it.
    """
    results = [
        _late(arrived, customer),
        _restated(arrived),
        _kept(arrived, contract, customer, adopt=adopt),
        _adopted(arrived),
    ]
    return [*(results if arrived.compared else []), *_usual(now, ledger, contract, customer, watermark, cutoff, left)]


def _late(arrived: Arrivals, customer: Customer) -> RuleResult:
    late = arrived.of("late")
    text = f"{arrived.lines_late} lines came late: {_examples(late)}" if len(late) else ""
    doubled = bool(arrived.repeated) and customer.duplicates == "keep"
    if doubled:
        text += (
            f". Every line of {_days(len(arrived.repeated))} ({arrived.repeated[-1]} the last) stands there again: was "
        )
        text += "the delivery made twice? Have it corrected, or declare duplicates: exclude"
    return _recorded("late_rows", arrived.lines_late, arrived, text, warned=doubled)


def _restated(arrived: Arrivals) -> RuleResult:
    days = arrived.of("restated")
    text = f"as many lines, of other content: {_examples(days)}" if len(days) else ""
    return _recorded("restated_days", int(days["now"].sum()), arrived, text)


def _adopted(arrived: Arrivals) -> RuleResult:
    """What changed before the window is not in the snapshot: said every night until it is."""
    text = (
        f"history before the lookback is not what the snapshot holds on {_days(arrived.not_kept)}: run once with "
        "full_refresh to adopt it, or raise lookback_days where this is usual"
    )
    return _recorded("history_adopted", 0, arrived, text if arrived.not_kept else "", warned=bool(arrived.not_kept))


def _recorded(rule: str, lines: int, arrived: Arrivals, text: str, *, warned: bool = False) -> RuleResult:
    """A rule that stops nothing."""
    checked = arrived.lines_inside + arrived.lines_outside
    state: State = "warned" if warned else "passed"
    return RuleResult(rule, "gate", "", "warning", state, lines, checked, lines / max(checked, 1), None, text)


def _kept(arrived: Arrivals, contract: Contract, customer: Customer, *, adopt: bool) -> RuleResult:
    """Lost lines; the window and what lies before it are judged apart: a lost day in a long history is no trifle."""
    shares = _lost_shares(arrived)
    share, allowed = max(shares.values()), 1 - contract.history_mostly
    broken = share > allowed + 1e-9 and not adopt
    leaving = not adopt and bool(arrived.of("rolled_off")["inside"].any())
    state: State = "broken" if broken else "warned" if leaving or arrived.lines_lost else "passed"
    text = ""
    if arrived.lines_lost:
        where = "window" if shares[True] >= shares[False] else "history before the window"
        text = f"{arrived.lines_lost} lines that earlier deliveries held are gone ({share:.3%} of the {where}, allowed "
        text += f"{allowed:.3%}): {_examples(arrived.of('lost'))}. {_remedy(customer, broken=broken, adopt=adopt)}"
    checked, text = arrived.lines_inside + arrived.lines_outside, (text + _rolled(arrived)).strip()
    lost, mostly = arrived.lines_lost, contract.history_mostly
    return RuleResult("history_kept", "gate", "", "error", state, lost, checked, share, mostly, text)


def _lost_shares(arrived: Arrivals) -> dict[bool, float]:
    """Inside the window, or before it → share of its lines that are gone."""
    lines = {True: arrived.lines_inside, False: arrived.lines_outside}
    gone = {inside: arrived.of("lost", inside=inside) for inside in lines}
    return {i: float((gone[i]["before"] - gone[i]["now"]).sum()) / max(n, 1) for i, n in lines.items()}


def _remedy(customer: Customer, *, broken: bool, adopt: bool) -> str:
    if adopt:
        return "The full refresh that was asked for adopts this."
    if not broken:
        return "Ask the feed's owner whether that was meant."
    return (
        "Ask the feed's owner for a whole delivery; if the source keeps fewer days than lookback_days, lower that; if "
        f"it was meant to shrink, run {customer.id} once with full_refresh, or lower the contract's historyMostly"
    )


def _rolled(arrived: Arrivals) -> str:
    rolled = arrived.of("rolled_off")
    if rolled.empty:
        return ""
    text = f" {_days(len(rolled))} ({int(rolled['before'].sum())} lines) rolled off the source's old end"
    return text + ("; they leave the snapshot" if rolled["inside"].any() else "; the snapshot keeps them")


def _examples(found: pd.DataFrame) -> str:
    said = [
        f"{row.day:%Y-%m-%d}" + (f" {row.before} → {row.now}" if row.before != row.now else "")
        for row in found.tail(EXAMPLES).itertuples()
    ]
    return ("… " if len(found) > EXAMPLES else "") + ", ".join(said) + f" ({_days(len(found))})"


# --- volume ---------------------------------------------------------------------------------------------------------


def _usual(
    now: Reading,
    ledger: pd.DataFrame,
    contract: Contract,
    customer: Customer,
    watermark: date | None,
    cutoff: date | None,
    left: pd.DataFrame | None,
) -> list[RuleResult]:
    """Too few or too many lines on what newly arrived, beside the periods before it; closed days are no zeros."""
    lines = _by_period(now, ledger, customer.frequency)
    new = _judged(lines, now.watermark, watermark, customer.frequency)
    low, high = contract.volume.low, contract.volume.high
    faults, checked, wrong = [], 0, 0
    for period in new:
        earlier = _alike(lines, period, customer.frequency)
        if len(earlier) < ENOUGH_PERIODS:
            continue
        median, got = float(earlier.median()), int(lines[period])
        checked += got
        if not low * median <= got <= high * median:
            wrong += got
            faults.append(_unusual(period, got, median, contract, customer.frequency))
    if cutoff is not None and low > 0:
        silent = _silent(_by_period(now, ledger, "D"), watermark or now.watermark, cutoff, customer)
        faults += [_unusual(day, 0, median, contract, "D") for day, median in silent]
    if left is not None:
        faults += _excluded(now, left.set_index("day")["lines"], watermark, low)
    severity = contract.volume.severity
    state: State = "passed" if not faults else "warned" if severity == "warning" else "broken"
    text = "; ".join(faults[-EXAMPLES:])
    text += f" ({len(faults)} in all)" if len(faults) > EXAMPLES else ""
    text += f". Is the delivery whole, and once? {_bounds(contract)}" if faults else ""
    share = wrong / max(checked, 1)
    return [RuleResult("usual_lines", "gate", "", severity, state, wrong, checked, share, None, text)]


def _silent(
    lines: pd.Series, watermark: date | None, cutoff: date, customer: Customer
) -> Iterator[tuple[pd.Timestamp, float]]:
    """The days since the watermark without any line, and the median of their weekday's: nobody delivered them.

    Where an absent day means that the shop was closed, or that nothing is known, it says so itself; as zeros, or inside
    a week's sum, days that are still to come would pass for bad ones.
    """
    if watermark is None or (customer.frequency == "D" and customer.absent != "zero"):
        return
    closed = [name.lower() in customer.closed_weekdays for name in WEEKDAYS]
    for day in pd.date_range(watermark + timedelta(days=1), cutoff):
        earlier = _alike(lines, day, "D")
        if day not in lines.index and not closed[day.dayofweek] and len(earlier) >= ENOUGH_PERIODS:
            yield day, float(earlier.median())


def _excluded(now: Reading, left: pd.Series, watermark: date | None, low: float) -> list[str]:
    """Newly arrived days of which the declared rules leave unusually few lines: a column that broke would hide there.

    A price of 0 throughout is no sale by a rule that leaves such lines out, and the day would pass for one without any.
    """
    read = now.days.set_index("day")["lines"]
    read = read if now.since is None else read[read.index >= pd.Timestamp(now.since)]  # the rules saw the window only
    new = read.index > pd.Timestamp(watermark) if watermark else read.index == read.index.max()
    left = left.reindex(read.index, fill_value=0)
    if (~new).sum() < ENOUGH_PERIODS:
        return []
    expected = low * read[new] * (left[~new].sum() / read[~new].sum())
    few = expected[(left[new] < expected) & (expected >= 1)]
    return [
        f"{day:%Y-%m-%d} ({WEEKDAYS[day.dayofweek]}): the declared rules leave {left[day]} of {read[day]} lines; "
        f"expected {least:.0f} or more, as on the days before"
        for day, least in few.items()
    ]


def _by_period(now: Reading, ledger: pd.DataFrame, frequency: Frequency) -> pd.Series:
    """Lines of each period that has some, by its last day; what was read tonight stands for what was seen before."""
    known = ledger.loc[~ledger["day"].isin(now.days["day"]) & (ledger["lines"] > 0), ["day", "lines"]]
    parts = [part for part in (known, now.days[["day", "lines"]]) if len(part)]
    days = pd.concat(parts, ignore_index=True) if parts else now.days[["day", "lines"]]
    if frequency == "D":
        return days.set_index("day")["lines"].sort_index()
    ends = days["day"].map(lambda day: pd.Timestamp(period_end(day.date(), frequency)))
    return days.groupby(ends)["lines"].sum()


def _judged(lines: pd.Series, newest: date | None, watermark: date | None, frequency: Frequency) -> list[pd.Timestamp]:
    """The periods that arrived since the watermark before; of a first pull, the newest."""
    if newest is None or lines.empty:
        return []
    upto = lines.index[lines.index <= pd.Timestamp(period_end(newest, frequency))]
    if watermark is None:
        return list(upto[-1:])
    return list(upto[upto > pd.Timestamp(period_end(watermark, frequency))])


def _alike(lines: pd.Series, period: pd.Timestamp, frequency: Frequency) -> pd.Series:
    if frequency == "D":
        wanted = [period - pd.Timedelta(weeks=n) for n in range(1, USUAL_PERIODS + 1)]
    else:
        wanted = [pd.Timestamp(shift(period.date(), -n, frequency)) for n in range(1, USUAL_PERIODS + 1)]
    return lines[lines.index.isin(wanted)]


def _unusual(period: pd.Timestamp, got: int, median: float, contract: Contract, frequency: Frequency) -> str:
    name = f" ({WEEKDAYS[period.dayofweek]})" if frequency == "D" else f" ({'week' if frequency == 'W' else 'month'})"
    of = f"the last {USUAL_PERIODS} {WEEKDAYS[period.dayofweek] + 's' if frequency == 'D' else 'periods'}"
    low, high = contract.volume.low * median, contract.volume.high * median
    return f"{period:%Y-%m-%d}{name}: {got} lines; expected {low:.0f} to {high:.0f}, the median of {of} is {median:g}"


def _bounds(contract: Contract) -> str:
    volume = contract.volume
    return (
        f"Where such a day is usual, widen volumeLow {volume.low:g} or volumeHigh {volume.high:g} in "
        f"{contract.path.name}"
    )
