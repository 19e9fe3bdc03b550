"""reproduce: compute a run that was published again, from what it recorded, in an empty folder; compare checksums.

The night's own functions compute (``fits``, ``publication``). Snapshot and bundle come from their remotes, every byte
verified; the plan and the version in charge are the recorded ones. The warehouse is read in transactions that may
change nothing, the registry is not asked. Only :func:`restore` writes, and only what the checksum proves.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import ValidationError

from forecasting import config
from forecasting.config import Customer, Settings
from forecasting.errors import BrokenBundleError, ConfigurationError, ForecastingError
from forecasting.pipeline import checkout, fits, publication
from forecasting.pipeline.night import Deployment, Night, Reference, code_of
from forecasting.store import detail, registry, warehouse

if TYPE_CHECKING:
    from forecasting.pipeline.publication import Candidate

__all__ = [
    "Compared",
    "Differences",
    "Rebuilt",
    "Report",
    "Task",
    "differences",
    "differing_keys",
    "one_by_one",
    "refit",
    "reproduce",
    "restore",
    "surroundings",
]

log = logging.getLogger(__name__)

FIRST_ROWS = 5
"""Differing rows that a report shows."""
_SERIES_A_SHARD = 25
_ENDED = ("published", "verified", "kept")

Task = tuple[str, Reference]
"""``shard`` or ``global``, and what ``freeze`` would hand to that fit."""
Fit = Callable[[Settings, warehouse.Run, Sequence[Task]], list[Reference]]


@dataclass(frozen=True)
class Compared:
    """One thing that a run depends on, as recorded and as found."""

    what: str
    recorded: str
    present: str
    same: bool
    detail: tuple[str, ...] = ()
    """What exactly differs."""


@dataclass(frozen=True)
class Differences:
    """How two sets of rows differ."""

    rows: int
    """Rows that differ in any value, or stand in one set alone."""
    only_recorded: int
    only_recomputed: int
    largest: float
    """Largest difference of a number, in units."""
    texts: int
    """Rows whose model or rung differs."""
    first: tuple[dict[str, Any], ...]
    """node, unique_id, ds, column, recorded, recomputed; the first :data:`FIRST_ROWS`, in the set's order."""


@dataclass(frozen=True)
class Report:
    """What came of a reproduction: plain values, for a page or JSON."""

    run_id: str
    run_date: str
    status: str
    plan: str
    version: str
    cutoff: str
    with_current: bool
    """True when today's configuration was used in place of the frozen one."""
    checksum: str
    recomputed: str | None
    """None when nothing could be computed."""
    rows: int
    surroundings: tuple[Compared, ...]
    """Code, lock, libraries, processor: those that differ explain another result, and do no harm to the same one."""
    records: tuple[Compared, ...]
    """Configuration, snapshot, bundles, rows in the warehouse: one that differs is damage, or another result."""
    today: tuple[str, ...]
    """Keys of the customer's file that have changed since."""
    differences: Differences | None
    failure: str | None
    notes: tuple[str, ...]
    seconds: float
    folder: str
    commit: str | None = None
    """Git commit of the recorded code, where it was recorded."""

    @property
    def identical(self) -> bool:
        """True when everything that was promised came out again."""
        return self.recomputed == self.checksum and all(one.same for one in self.records)

    @property
    def causes(self) -> tuple[Compared, ...]:
        """What differs from the record, likeliest cause first."""
        return tuple(one for one in (*self.records, *self.surroundings) if not one.same)

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {"identical": self.identical, **asdict(self), "causes": [one.what for one in self.causes]}


@dataclass
class Rebuilt:
    """A report, and the set it is about."""

    report: Report
    run: warehouse.Run
    candidate: Candidate | None = None


@dataclass
class _Findings:
    """What a reproduction has come upon so far."""

    records: list[Compared] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def reproduce(
    deployment: Deployment,
    run_id: str,
    folder: Path,
    *,
    current: Customer | None = None,
    fit: Fit | None = None,
    say: Callable[[str], None] = log.info,
) -> Rebuilt:
    """Compute a run again in ``folder`` and compare. Nothing outside of it changes.

    Args:
        deployment: Where the run, its snapshot and its bundles are.
        run_id: A run that published, verified or was kept.
        folder: Empty; gets the snapshot's files, the fits' frames, ``rows.parquet``.
        current: Configuration to use in place of the frozen one.
        fit: How the fits run; default: :func:`one_by_one`.
        say: Told, in a line each, what is going on.

    Raises:
        ConfigurationError: There is no such run, or it has nothing to compare with.
        SnapshotCorruptedError, SnapshotUnavailableError, BrokenBundleError: What it was computed from is not there any
            more as it was; the message names the file.
    """
    began = time.monotonic()
    reading = _reading(deployment, folder)
    run = _read(reading, run_id)
    found = _Findings()
    found.records.append(_configuration(reading, run))
    around = surroundings(run)
    say(f"{run.run_id}: {run.plan} of {run.run_date}, cutoff {run.cutoff}, version {run.version}")
    used = run if current is None else _under(run, current)
    candidate, failure = None, None
    try:
        candidate = _compute(Night(reading, used), found, fit or one_by_one, say)
    except ForecastingError:
        raise
    except Exception as error:
        log.debug("reproduce: %s", run.run_id, exc_info=True)
        failure = _told(error)
    recomputed = warehouse.checksum(candidate.rows) if candidate else None
    if candidate:
        candidate.rows.to_parquet(folder / "rows.parquet", index=False)
    different = _against_the_warehouse(reading, run, candidate, found)
    if recomputed != run.checksum:
        around = (*around, *_library_files())
    report = Report(
        run_id=run.run_id,
        run_date=str(run.run_date),
        status=run.status,
        plan=str(run.plan),
        version=str(run.version),
        cutoff=str(run.cutoff),
        with_current=current is not None,
        checksum=str(run.checksum),
        recomputed=recomputed,
        rows=len(candidate.rows) if candidate else 0,
        surroundings=around,
        records=tuple(found.records),
        today=_today(deployment.settings, run),
        differences=different if different and different.rows else None,
        failure=failure,
        notes=tuple(found.notes),
        seconds=time.monotonic() - began,
        folder=str(folder),
        commit=run.code_commit,
    )
    return Rebuilt(report, run, candidate)


def _reading(deployment: Deployment, folder: Path) -> Deployment:
    """The deployment, its warehouse for reading alone, with ``folder`` as home: remotes stay where they are."""
    settings = replace(deployment.settings, home=folder, work_url=f"file://{folder}/work")
    return Deployment(settings, detail.read_only(deployment.engine), "")


def _read(reading: Deployment, run_id: str) -> warehouse.Run:
    run = warehouse.read_run(reading.engine, run_id.partition("/")[0], run_id)
    if run.status not in _ENDED or run.checksum is None or run.snapshot is None:
        raise ConfigurationError(
            f"{run_id} ended as {run.status!r} and has no set to give again; `forecasting explain-run {run_id}` tells "
            "why, and which other runs there are of that date"
        )
    return run


def _under(run: warehouse.Run, customer: Customer) -> warehouse.Run:
    return replace(run, config=customer.model_dump(mode="json"), config_hash=customer.hash)


def _told(error: Exception) -> str:
    if isinstance(error, ValidationError):
        keys = ", ".join(".".join(map(str, fault["loc"])) for fault in error.errors(include_url=False))
        return f"this code cannot read the frozen configuration: {keys}"
    return f"the computation failed: {type(error).__name__}: {error}"


# --- computing ------------------------------------------------------------------------------------------------------


def _compute(night: Night, found: _Findings, fit: Fit, say: Callable[[str], None]) -> Candidate:
    """The set of the run's own version, from its snapshot, plan and incoming champion."""
    run, source = night.run, _source_of(night)
    panel = _panel(night, found)
    say(f"snapshot: {panel['unique_id'].nunique()} series, {len(panel)} rows, every byte verified")
    decided = detail.decision(night.engine, run.customer_id, source)
    born = _born(run, decided)
    if run.version not in (born, run.incoming_champion):  # a kept set of a third one, which competed in shadow
        run = replace(run, incoming_champion=run.version)
        night = Night(night.deployment, run)
    _verify_champion(night, decided, found)
    tasks = _tasks(night, panel, _ended(night, source, found))
    frozen = tasks[0][1] if tasks else {}
    say(f"{run.plan}: {sum(name == 'shard' for name, _ in tasks)} statistical shard(s) and the global model")
    done = fit(night.settings, run, tasks)
    shards = [one for (name, _), one in zip(tasks, done, strict=True) if name == "shard"]
    ml = next((one for (name, _), one in zip(tasks, done, strict=True) if name == "global"), None)
    frozen = frozen or {"panel": night.keep("panel", panel), "plan": run.plan}
    frozen = {**frozen, "sample": (decided.evidence or {}).get("sample") if decided else None}
    if born is not None:
        say(f"choosing, calibrating: {born}")
        challenger = publication.recompute(night, frozen, shards, ml, born)
        assert challenger is not None
        found.records.append(_bundle(night, born, challenger))
        if run.version == born:
            return challenger
    refreshed = publication.recompute(night, frozen, shards, ml, None)
    if refreshed is None:
        raise ForecastingError(
            f"{run.run_id}: {run.incoming_champion} cannot publish what this configuration declares: another "
            "interface, or columns that it does not name"
        )
    return refreshed


def _source_of(night: Night) -> str:
    """The run whose fits these were: a kept set was computed beside another, a verified one repeats another."""
    return night.run.beside or night.run.run_id


def _panel(night: Night, found: _Findings) -> pd.DataFrame:
    from forecasting.data import snapshots

    ref = snapshots.SnapshotRef.parse(str(night.run.snapshot))
    panel, _ = snapshots.read(night.settings, ref)
    content, recorded = snapshots.content_hash(panel), str(night.run.snapshot_hash)
    found.records.append(Compared("snapshot", recorded, content, content == recorded))
    missing = sorted(set(night.customer.exogenous) - set(panel.columns))
    if missing:
        raise ForecastingError(
            f"{ref.customer_id}: the configuration names {', '.join(missing)}, which the run's snapshot does not hold"
        )
    return panel


def _verify_champion(night: Night, decided: warehouse.Decision | None, found: _Findings) -> None:
    """The incoming champion's bundle, every byte; lost is allowed only where the night itself had lost it."""
    name = night.run.incoming_champion
    if name is None:
        return
    version = night.version(name)
    what = f"bundle of {name}"
    try:
        registry.load(version.bundle_uri, version.bundle_sha256)
    except BrokenBundleError:
        if decided is None or "has lost its bundle" not in decided.reason:
            raise
        found.notes.append(f"{what} was lost that night already: the run did without it")
        return
    found.records.append(Compared(what, version.bundle_sha256, version.bundle_sha256, True))


def _ended(night: Night, source: str, found: _Findings) -> tuple[Sequence[int], int, bool]:
    """Shards that ended, of how many, and whether the global model did: a run that lost a fit is repeated so."""
    run, settings = night.run, night.settings
    line = detail.standing(night.engine, run if source == run.run_id else warehouse.read_run(
        night.engine, run.customer_id, source))  # fmt: skip
    missing, of, without_ml = detail.lost_fits(line.reason if line else "")
    if not missing and not without_ml:
        return range(settings.shards), settings.shards, True
    ended = detail.ended_fits(night.engine, run.customer_id, line.run_id if line else source)
    shards = sorted(ended.shards) if missing else list(range(of or settings.shards))
    if missing and len(shards) != of - missing:
        raise ForecastingError(
            f"{run.run_id} lost {missing} of {of} statistical shards, and which is not recorded: stage times name "
            f"{shards or 'none'}"
        )
    lost = [f"{missing} of {of} statistical shards"] * bool(missing) + ["the global model"] * without_ml
    found.notes.append(f"the run lost {' and '.join(lost)} and published down the ladder; computed without, as then")
    return shards, of or settings.shards, not without_ml


def _tasks(night: Night, panel: pd.DataFrame, ended: tuple[Sequence[int], int, bool]) -> list[Task]:
    run, (shards, of, with_ml) = night.run, ended
    frozen = {
        "customer_id": run.customer_id,
        "run_id": run.run_id,
        "panel": night.keep("panel", panel),
        "plan": run.plan,
    }
    if list(shards) == list(range(of)):  # none was lost: a series' fit does not depend on its shard
        of = min(of, -(-int(panel["unique_id"].nunique()) // _SERIES_A_SHARD))
        shards = range(of)
    tasks: list[Task] = [("shard", {**frozen, "shard": {"index": index, "of": of}}) for index in shards]
    return [("global", {**frozen, "shard": {"index": 0, "of": of}})] * with_ml + tasks


def one_by_one(settings: Settings, run: warehouse.Run, tasks: Sequence[Task]) -> list[Reference]:
    """The fits in this process, one after the other."""
    return [refit(settings, run, task) for task in tasks]


def refit(settings: Settings, run: warehouse.Run, task: Task) -> Reference:
    """One fit of a reproduction, as a process of its own may run it."""
    engine = warehouse.connect(str(settings.warehouse_url))
    try:
        night = Night(Deployment(settings, detail.read_only(engine), ""), run)
        name, frozen = task
        return (fits.fit_global if name == "global" else fits.fit_shard)(night, frozen)
    finally:
        engine.dispose()


def _born(run: warehouse.Run, decided: warehouse.Decision | None) -> str | None:
    """The version that the run's retrain made; None: it made none, or waited."""
    if run.plan != "retrain":
        return None
    if decided is not None:
        return decided.challenger
    return run.version if run.version != run.incoming_champion else None


def _bundle(night: Night, name: str, made: Candidate) -> Compared:
    """The bundle that was registered, beside the one made now, file by file where they differ."""
    from forecasting.learn import bundle

    files = bundle.to_files(made.bundle)
    version, present = night.version(name), registry.bundle_hash(files)
    same, told = version.bundle_sha256 == present, list[str]()
    if not same:
        try:
            then = registry.load(version.bundle_uri, version.bundle_sha256)
        except BrokenBundleError as error:
            told.append(str(error))
        else:
            told += [f"{file} differs" for file in sorted({*then, *files}) if then.get(file) != files.get(file)]
    return Compared(f"bundle of {name}, born in this run", version.bundle_sha256, present, same, tuple(told))


# --- what differs ---------------------------------------------------------------------------------------------------


def surroundings(run: warehouse.Run) -> tuple[Compared, ...]:
    """Code, lock, installed libraries and processor: as the run recorded them, and here."""
    code, lock = code_of(), checkout.PACKAGE.parent / "requirements.lock"
    named = f" (commit {run.code_commit[:12]})" if run.code_commit else ""
    pinned = checkout.pins(lock.read_text(encoding="utf-8")) if lock.exists() else {}
    found = checkout.installed()
    others = tuple(
        f"{name} {version}, the lock names {pinned[name]}"
        for name, version in found.items()
        if name in pinned and version != pinned[name]
    )
    return (
        Compared("code", run.code_version[:12] + named, code.version[:12], run.code_version == code.version),
        Compared("lock", run.lock_hash[:12], code.lock_hash[:12], run.lock_hash == code.lock_hash),
        Compared(
            "libraries", "as the lock names them", _listed(others) or "as the lock names them", not others, others
        ),
        Compared("processor", run.cpu_family, code.cpu_family, run.cpu_family == code.cpu_family),
    )


def _library_files() -> tuple[Compared, ...]:
    """Installed libraries whose files are not those that were installed, looked for only where values differ."""
    told = tuple(checkout.altered())
    return (Compared("library files", "as installed", _listed(told), False, told),) if told else ()


def _listed(parts: Sequence[str]) -> str:
    return "; ".join(parts)


def _configuration(reading: Deployment, run: warehouse.Run) -> Compared:
    """The frozen configuration against the hash that was recorded with it."""
    present = config.sha256_of(run.config)
    told: tuple[str, ...] = ()
    if present != run.config_hash:
        whole = next((c for c in detail.alike(reading.engine, run) if config.sha256_of(c) == run.config_hash), None)
        told = ("altered in the warehouse after the run",)
        told += differing_keys(whole, run.config) if whole else ()
    return Compared("frozen configuration", run.config_hash[:12], present[:12], present == run.config_hash, told)


def _today(settings: Settings, run: warehouse.Run) -> tuple[str, ...]:
    """What of the customer's file is not as it was frozen."""
    found = config.load_customers(settings.customers, only=run.customer_id)
    if not found:
        return (f"{run.customer_id} has no file any more",)
    if isinstance(found[0], config.BrokenCustomer):
        return (f"the file is broken: {found[0].message}",)
    return differing_keys(run.config, found[0].model_dump(mode="json"))


def differing_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys in which two configurations differ, with both values.

    >>> differing_keys({"horizon": 7, "retrain": {"every_days": 7}}, {"horizon": 14, "retrain": {"every_days": 7}})
    ('horizon: 7 became 14',)
    """
    old, new = _flat(before), _flat(after)
    keys = sorted({*old, *new})
    return tuple(
        f"{key}: {old.get(key, 'not set')} became {new.get(key, 'not set')}"
        for key in keys
        if old.get(key, ...) != new.get(key, ...)
    )


def _flat(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, inner in value.items():
        made |= _flat(inner, f"{above}{key}.") if isinstance(inner, Mapping) and inner else {f"{above}{key}": inner}
    return made


def _against_the_warehouse(
    reading: Deployment, run: warehouse.Run, candidate: Candidate | None, found: _Findings
) -> Differences | None:
    """The rows that the warehouse still holds: whether they are those that were published, and how they differ."""
    line = detail.standing(reading.engine, run)
    holder = line.run_id if line else run.run_id
    kept = warehouse.read_forecast(reading.engine, run.customer_id, holder)
    if kept.empty:
        found.notes.append(f"the rows of {holder} are not in the warehouse any more: only checksums can be compared")
        return None
    checksum = warehouse.checksum(kept)
    found.records.append(
        Compared(f"rows of {holder} in the warehouse", str(run.checksum), checksum, checksum == run.checksum)
    )
    return None if candidate is None else differences(kept, candidate.rows)


def differences(recorded: pd.DataFrame, recomputed: pd.DataFrame) -> Differences:
    """How two sets of ``frames.PUBLISHED`` differ, row by row and value by value."""
    key = ["node", "unique_id", "ds", "h"]
    joined = recorded.merge(recomputed, on=key, how="outer", suffixes=("", " now"), indicator="side")
    columns = [name for name in {**recorded.iloc[:0], **recomputed.iloc[:0]} if name not in key]
    both, off = joined["side"] == "both", pd.DataFrame(index=joined.index)
    largest = 0.0
    for name in columns:
        then, now = (joined[n] if n in joined else pd.Series(float("nan"), joined.index) for n in (name, f"{name} now"))
        off[name] = both & (then != now) & ~(then.isna() & now.isna())
        if name not in ("model", "rung"):
            largest = max(largest, float((now - then).abs().max(skipna=True) or 0.0))
    first = []
    for place in off.any(axis=1).to_numpy().nonzero()[0][:FIRST_ROWS]:
        row, name = joined.iloc[place], str(off.columns[off.iloc[place].to_numpy()][0])
        where = {"node": row["node"], "unique_id": row["unique_id"], "ds": f"{row['ds']:%Y-%m-%d}"}
        first.append({**where, "column": name, "recorded": row.get(name), "recomputed": row.get(f"{name} now")})
    return Differences(
        rows=int((off.any(axis=1) | ~both).sum()),
        only_recorded=int((joined["side"] == "left_only").sum()),
        only_recomputed=int((joined["side"] == "right_only").sum()),
        largest=largest,
        texts=int(off.reindex(columns=["model", "rung"], fill_value=False).any(axis=1).sum()),
        first=tuple(first),
    )


# --- restore --------------------------------------------------------------------------------------------------------


def restore(deployment: Deployment, rebuilt: Rebuilt, who: str) -> str:
    """Put the rows of a trimmed run back, if they are those that it published. Returns a sentence on what was done.

    Raises:
        ConfigurationError: They are not, or the rows are another run's.
    """
    run, candidate = rebuilt.run, rebuilt.candidate
    if candidate is None or not rebuilt.report.identical or rebuilt.report.with_current:
        raise ConfigurationError(f"{run.run_id} did not come out identical: nothing is put back")
    if run.status == "verified":
        line = detail.standing(deployment.engine, run)
        raise ConfigurationError(
            f"{run.run_id} verified the set of {line.run_id if line else 'another run'} and never had rows of its own; "
            "name that run"
        )
    account = candidate.account if _same_account(run, candidate.account) else None
    written = detail.restore(deployment.engine, run, candidate.rows, account, who=who)
    left = "" if account is not None else "; not its series' statuses, which later runs of earlier dates have changed"
    if not any(written.values()):
        return f"{run.run_id}: its detail is all there; nothing was put back{left}"
    told = " and ".join(f"{n} rows of {name}" for name, n in written.items() if n)
    return f"{run.run_id}: put back {told}{left}; the next night's upkeep trims them again, as detail_days asks"


def _same_account(run: warehouse.Run, account: pd.DataFrame) -> bool:
    """Whether the account has the run's counts: a series that an older day has met since would count as gone."""
    counts = account["status"].value_counts()
    names = ("ok", "fallback", "cold_start", "retired")
    return all(int(counts.get(name, 0)) == getattr(run, f"series_{name}") for name in names)
