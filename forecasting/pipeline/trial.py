"""Try a delivery before it counts: what a night would say of it. It touches neither the warehouse nor a snapshot."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from forecasting import periods
from forecasting.config import Customer, Settings
from forecasting.errors import ConfigurationError
from forecasting.feed import CsvSource, FilePart, FileSource, ParquetSource, SqlSource

if TYPE_CHECKING:
    import pandas as pd

    from forecasting.data.contracts import Contract, Verdict
    from forecasting.data.panel import Mapped
    from forecasting.data.sources import Feed

__all__ = ["Trial", "try_delivery"]


@dataclass(frozen=True)
class Trial:
    """What became of a delivery that was tried."""

    customer: Customer
    """With the file in place of its source."""
    contract: Contract
    run_date: date
    cutoff: date
    feed: Feed
    excluded: dict[str, int]
    """Declared rule → lines it left out, before the contract."""
    verdict: Verdict
    mapped: Mapped | None
    """What the panel would get of it; None when the contract is broken."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files that were read."""
        return tuple(self.feed.files)


def try_delivery(
    settings: Settings, customer: Customer, file: Path, *, today: date, run_date: date | None = None
) -> Trial:
    """Read ``file`` as the customer's source declares, in place of it, and judge it as a night would.

    What needs earlier nights is not judged: there is no lookback, and no day to compare with.

    Args:
        settings: Where the contracts stand.
        customer: Whose delivery it would be.
        file: A local file of the declared kind; for a database, a csv or parquet export of the feed's columns.
        today: The customer's local day; sales after it are no history.
        run_date: Local date of the night; None: the first whose cutoff holds the newest day with sales.

    Raises:
        SourceError: It is not what is declared.
        ConfigurationError: There is no such file, or customer and contract do not agree.
    """
    from forecasting.data import contracts
    from forecasting.data import panel as panels

    whole = _is_whole(customer)
    customer = customer.model_copy(update={"source": _in_place(customer, file)})
    contract = contracts.load(settings.contracts / f"{customer.contract}.odcs.yaml")
    contracts.agree(contract, customer)
    run_date = run_date or _run_date(customer, file, today)
    cutoff = periods.cutoff_of(run_date, customer.latency_days, customer.frequency)
    feed = _pull(customer, file, cutoff)
    rows, excluded = panels.exclude(feed.rows, customer, cutoff)
    verdict = contracts.check(rows, contract, customer, cutoff=cutoff)
    mapped = None
    if not verdict.broken:
        since = None if whole else _first_of_period(feed.rows, customer)
        unnamed = verdict.refused_for(customer.columns.keys)
        mapped = panels.to_panel(
            verdict.accepted, verdict.rejected, customer, cutoff, since=since, excluded=excluded, unnamed=unnamed
        )
    return Trial(customer, contract, run_date, cutoff, feed, excluded, verdict, mapped)


def _pull(customer: Customer, file: Path, cutoff: date) -> Feed:
    from forecasting.data import sources

    until = periods.shift(cutoff, customer.horizon, customer.frequency)
    return sources.pull(customer, access=sources.Access(file.resolve().parent), until=until)


def _run_date(customer: Customer, file: Path, today: date) -> date:
    """The first date whose night would see all sales in the file, but none after today."""
    newest = _pull(customer, file, periods.period_end(today, customer.frequency)).watermark or today
    return periods.period_end(newest, customer.frequency) + timedelta(days=customer.latency_days)


def _is_whole(customer: Customer) -> bool:
    """True where one file is all there is; else it continues others, and its first period is none of its own."""
    source = customer.source
    return isinstance(source, FileSource) and not source.day_in_name and "*" not in source.shown and not source.parts


def _first_of_period(rows: pd.DataFrame, customer: Customer) -> date | None:
    first = rows[customer.columns.ds].min()
    return None if first != first else periods.period_start(first.date(), customer.frequency)


# --- the file in the source's place ---------------------------------------------------------------------------------


def _in_place(customer: Customer, file: Path) -> FileSource:
    """The customer's source with ``file`` as the only thing to read."""
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "there is no such file"
        raise ConfigurationError(f"FILE {file}: {what}; name one file on this machine")
    name = file.resolve().name
    if "*" in name or ":" in name:
        raise ConfigurationError(f"FILE {file}: {name!r} would be read as a pattern or an address; rename it")
    source = customer.source
    if isinstance(source, SqlSource):
        return _export(customer, source, file)
    part = next((part for part in source.places() if fnmatch(name, part.uri.rpartition("/")[2])), None)
    if part is None:
        part = FilePart(uri=name, names=_all_names(source.names, [part.names for part in source.places()]))
    place = part.model_copy(update={"uri": name})
    return source.model_copy(update={"uri": None, "parts": (place,), "connection": False, "day_in_name": None})


def _export(customer: Customer, source: SqlSource, file: Path) -> FileSource:
    """A table's rows as a file: columns under the feed's names, or under the table's."""
    from forecasting.data.sources import delivered

    name, names = file.resolve().name, _all_names(source.names, [part.names for part in source.places()])
    for column in delivered(customer):
        known = names.get(column, ())
        names[column] = tuple(dict.fromkeys([*((known,) if isinstance(known, str) else known), column]))
    shared = {"uri": name, "names": names, "clock": source.clock, "max_rows": source.max_rows}
    if name.lower().endswith(".parquet"):
        return ParquetSource(kind="parquet", date_format=source.date_format, **shared)
    if name.lower().endswith((".csv", ".csv.gz", ".csv.zip")):
        day = names[customer.columns.ds]
        return CsvSource(date_format=_day_format(file, day) or source.date_format, **shared)
    raise ConfigurationError(
        f"FILE {name}: {customer.id} reads a database; expected an export of its columns, .csv or .parquet"
    )


def _day_format(file: Path, names: str | tuple[str, ...]) -> str | None:
    """The format of the first row's day: a database's own types do not say how an export wrote them."""
    import fsspec

    try:
        with fsspec.open(str(file), "rt", compression="infer", encoding="utf-8") as text:
            rows = csv.reader(text)
            header, first = next(rows), next(rows)
        day = next(cell for name, cell in zip(header, first, strict=False) if name in names)
    except (OSError, EOFError, ValueError, StopIteration, csv.Error, zipfile.BadZipFile, zlib.error):
        return None  # the pull finds what is wrong, and says where
    return next((form for form in _DAY_FORMATS if _fits(day, form)), None)


_DAY_FORMATS = tuple(
    f"%Y-%m-%d{rest}"
    for rest in ("", *(f"{sep}%H:%M:%S{part}{zone}" for sep in " T" for part in ("", ".%f") for zone in ("", "%z")))
)


def _fits(text: str, form: str) -> bool:
    try:
        datetime.strptime(text, form)  # noqa: DTZ007 - only whether it can be read
    except ValueError:
        return False
    return True


Names = Mapping[str, str | tuple[str, ...]]


def _all_names(shared: Names, parts: list[Names]) -> dict[str, str | tuple[str, ...]]:
    """Feed column → every name that some part has for it."""
    made: dict[str, str | tuple[str, ...]] = {}
    for column in dict.fromkeys([*shared, *(name for names in parts for name in names)]):
        found = [(dict(shared) | dict(names)).get(column, column) for names in parts]
        flat = [one for names in found for one in ((names,) if isinstance(names, str) else names)]
        made[column] = tuple(dict.fromkeys(flat))
    return made
