"""pull, freeze, plan: from the customer's feed to a verified snapshot and a decision what the night does with it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Hashable, Mapping
from dataclasses import asdict, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from forecasting import frames, periods
from forecasting.config import Customer
from forecasting.errors import ConfigurationError, ContractBrokenError
from forecasting.pipeline import governance
from forecasting.pipeline.night import (
    Deployment,
    Night,
    Reference,
    Request,
    code_of,
    fetch,
    load_customer,
    open_night,
    stage,
)
from forecasting.store import warehouse

if TYPE_CHECKING:
    from forecasting.data import arrivals, contracts

__all__ = ["Plan", "freeze", "plan", "pull"]

log = logging.getLogger(__name__)


# --- pull -----------------------------------------------------------------------------------------------------------


def pull(
    deployment: Deployment,
    customer_id: str,
    run_date: date,
    request: Request | None = None,
    *,
    connection_uri: str | None = None,
) -> Reference:
    """Fix the night and read the feed: allot the run, freeze its configuration, keep the declared columns.

    Args:
        deployment: Where to keep things.
        customer_id: The customer.
        run_date: Local date the run stands for.
        request: What is asked beyond the date.
        connection_uri: Credentials of the customer's source, if it declares a connection. Never stored or logged.

    Returns:
        The run's id, and the reference of the raw rows, or of the recorded snapshot (``as_frozen``).

    Raises:
        SourceError, SourceUnavailableError: The feed is not what is declared, or cannot be had.
    """
    from forecasting.store import provision

    asked = request or Request()
    customer = load_customer(deployment.settings, customer_id)
    provision.ensure(deployment.engine, customer)
    run = warehouse.allot(
        deployment.engine,
        customer,
        run_date,
        live=asked.live and not _is_past(deployment, customer_id, run_date),
        as_frozen=asked.as_frozen,
        code=code_of(deployment.settings),
        asked_by=asked.asked_by,
    )
    night = Night(deployment, run)
    with stage(night, "pull"):
        against = _rival_version(night, asked.against)
        again = asked.force_retrain or against is not None
        reference = {"customer_id": customer_id, "run_id": run.run_id, "force_retrain": again, "against": against}
        if asked.as_frozen:
            return {**reference, "snapshot_of": _recorded(night)}
        return {**reference, **_read(night, full=asked.full_refresh, connection_uri=connection_uri)}


def _rival_version(night: Night, name: str | None) -> str | None:
    """The version that a retrain is asked to meet; whoever reads forecasts meets the one in charge."""
    if name is None:
        return None
    if night.settings.environment != "dev":
        raise ConfigurationError(
            f"against {name}: in {night.settings.environment} a challenger meets the version in charge; leave it out, "
            "or try it in dev"
        )
    return night.version(name).version


def _is_past(deployment: Deployment, customer_id: str, run_date: date) -> bool:
    """Whether a newer run date is published: a scheduled night that is run again then counts as history."""
    newest = warehouse.newest_published(deployment.engine, customer_id)
    return newest is not None and newest.run_date > run_date


def _read(night: Night, *, full: bool, connection_uri: str | None) -> Reference:
    """Read the days that are wanted and keep the rows as they came."""
    from forecasting.data import sources

    customer, run = night.customer, night.run
    cutoff = periods.cutoff_of(run.run_date, customer.latency_days, customer.frequency)
    contract_hash = _contract_hash(night)
    previous = None if full else _continues(night, contract_hash)
    since = previous and _since(previous.watermark, customer)
    feed = sources.pull(
        customer,
        access=sources.Access(
            night.settings.root, night.settings.deliveries, connection_uri, night.settings.http_hosts
        ),
        since=since,
        until=periods.shift(cutoff, customer.horizon, customer.frequency),
    )
    log.info("pull: %s read %d lines since %s", run.run_id, feed.lines_read, since or "the beginning")
    whole_from = sources.whole_from(customer, since)
    return {
        "raw": night.keep("raw", feed.rows),
        "days": night.keep("days", feed.days),
        "whole_from": whole_from and whole_from.isoformat(),
        "full_refresh": full,
        "since": since and since.isoformat(),
        "previous": previous and previous.run_id,
        "cutoff": cutoff.isoformat(),
        "watermark": feed.watermark and feed.watermark.isoformat(),
        "contract_hash": contract_hash,
        "source": {"sha256": feed.sha256, "bytes": feed.bytes, "lines": feed.lines_read},
    }


def _contract_hash(night: Night) -> str:
    path = night.settings.contracts / f"{night.customer.contract}.odcs.yaml"
    return hashlib.sha256(path.read_bytes() if path.exists() else b"").hexdigest()


def _since(watermark: date, customer: Customer) -> date:
    """First day that is read again: the lookback, from the beginning of its period: whole periods are replaced."""
    return periods.period_start(watermark - timedelta(days=customer.lookback_days), customer.frequency)


class _Previous(NamedTuple):
    run_id: str
    watermark: date
    """Newest day it had a target for: days that an outage held back are read again when they come."""


_SHAPES_THE_PANEL = {
    "source", "columns", "returns", "duplicates", "exclude", "exogenous", "frequency", "time_zone",
}  # fmt: skip


def _continues(night: Night, contract_hash: str) -> _Previous | None:
    """The run whose snapshot this pull may continue; None when everything must be read again, as for a sample."""
    if night.settings.sample:
        return None
    previous = warehouse.previous_snapshot(night.engine, night.customer.id, night.run.run_date)
    if previous is None or previous.watermark is None or previous.contract_hash != contract_hash:
        return None
    before = {name: previous.config.get(name) for name in _SHAPES_THE_PANEL}
    if before != night.customer.model_dump(mode="json", include=_SHAPES_THE_PANEL):
        return None
    return _Previous(previous.run_id, previous.watermark)


def _recorded(night: Night) -> str:
    """The run of this run date that was published last; of a set kept beside one, that one: it froze the snapshot."""
    standing = _standing(night)
    if standing is None:
        raise ConfigurationError(
            f"as_frozen: {night.customer.id} has no publication for {night.run.run_date}, so no snapshot is recorded; "
            "run it without as_frozen"
        )
    return standing.beside or standing.run_id


# --- freeze ---------------------------------------------------------------------------------------------------------


def freeze(deployment: Deployment, pulled: Mapping[str, Any]) -> list[Reference]:
    """Check the feed against its contract, make the canonical panel, snapshot it, and plan the night.

    Returns:
        One reference per shard of the statistical fits, alike but for ``shard``; none when nothing is new.

    Raises:
        ContractBrokenError: The circuit breaker; the last publication stays current.
        SnapshotUnavailableError, SnapshotCorruptedError: The snapshot could not be stored, or read back.
    """
    night = open_night(deployment, pulled)
    with stage(night, "freeze"):
        panel, facts = _thaw(night, pulled["snapshot_of"]) if "snapshot_of" in pulled else _accept(night, pulled)
        sampled = facts.pop("sample", None)
        night = night.note(**facts)
        planned = plan(night, force=bool(pulled["force_retrain"]), against=pulled.get("against"), sampled=sampled)
        series = int(panel["unique_id"].nunique())
        log.info("freeze: %s %d series, plan %s: %s", night.run.run_id, series, planned.kind, planned.reason)
        frozen = {
            "customer_id": night.customer.id,
            "run_id": night.run.run_id,
            "panel": night.keep("panel", panel),
            "plan": planned.kind,
            "sample": sampled,
        }
        return [{**frozen, "shard": shard} for shard in _shards(night.settings.shards, planned.kind, series)]


def _accept(night: Night, pulled: Mapping[str, Any]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Contract → quarantine → panel → snapshot. Returns the whole panel and what the run's row must know."""
    from forecasting.data import arrivals, contracts
    from forecasting.data import panel as panels

    customer, cutoff, since = night.customer, date.fromisoformat(pulled["cutoff"]), _day(pulled["since"])
    contract = _contract(night, pulled["contract_hash"])
    rows, excluded = panels.exclude(fetch(pulled["raw"]), customer, cutoff)
    reading = arrivals.Reading(fetch(pulled["days"]), since, _day(pulled["whole_from"]), _day(pulled["watermark"]))
    ledger = warehouse.feed_days(night.engine, customer.id, night.run.run_date)
    said = _arrivals(night, reading, ledger, contract, rows, cutoff=cutoff, adopt=bool(pulled["full_refresh"]))
    verdict = contracts.check(rows, contract, customer, cutoff=cutoff)
    verdict = replace(verdict, results=[*verdict.results, *said])
    _record_verdict(night, verdict, tuple(rows.attrs.get("files", ())))
    _record_lines(night, {"excluded": excluded})  # a run that stops here has left out these
    if verdict.broken:
        raise ContractBrokenError(verdict.message())
    unnamed = verdict.refused_for(customer.columns.keys)
    mapped = panels.to_panel(
        verdict.accepted, verdict.rejected, customer, cutoff, since=since, excluded=excluded, unnamed=unnamed
    )
    _record_lines(night, {"excluded": mapped.excluded, "missing": mapped.missing, "filled": mapped.filled})
    panel = mapped.panel
    if since is not None:
        panel = panels.merge(_continued(night, pulled["previous"]), panel, since)
    panel, sampled = _sampled(night, panel)
    panels.check_panel(panel, customer)
    facts = {
        "cutoff": cutoff.isoformat(),
        "watermark": pulled["watermark"],
        "contract": {"id": contract.id, "version": contract.version, "sha256": pulled["contract_hash"]},
        "config": customer.hash,
        "lines": asdict(mapped.lines),
        "excluded": mapped.excluded,
        "source": pulled["source"],
        **sampled,
    }
    lines = {f"lines_{name}": count for name, count in asdict(mapped.lines).items()}
    known = {"cutoff": cutoff, "watermark": pulled["watermark"], "contract_hash": pulled["contract_hash"]}
    stored = _store(night, panel, verdict.accepted, facts)
    with warehouse.acting_for(night.engine, customer.id) as connection:
        warehouse.record_feed_days(connection, night.run, arrivals.to_keep(reading, ledger.days))
    return panel, {**known, **stored, **lines, **sampled}


def _sampled(night: Night, panel: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The panel, or what FORECASTING_SAMPLE leaves of it: series that this deployment knows first. And how many."""
    from forecasting.data import panel as panels

    count, of = night.settings.sample, int(panel["unique_id"].nunique())
    if count is None or of <= count:
        return panel, {}
    known = warehouse.known_series(night.engine, night.customer.id, night.run.run_date + timedelta(days=1))
    log.warning("freeze: %s keeps a sample of %d of %d series", night.run.run_id, count, of)
    return panels.sample(panel, count, frozenset(known)), {"sample": {"series": count, "of": of}}


def _day(text: str | None) -> date | None:
    return date.fromisoformat(text) if text else None


def _contract(night: Night, pulled_hash: str) -> contracts.Contract:
    """The customer's contract, which must be the pull's, and under each version one and the same.

    Raises:
        ConfigurationError: It was changed under a version that another run has frozen data with.
    """
    from forecasting.data import contracts

    contract = contracts.load(night.settings.contracts / f"{night.customer.contract}.odcs.yaml")
    contracts.agree(contract, night.customer)
    if _contract_hash(night) != pulled_hash:
        raise ConfigurationError(f"{contract.path} was changed between pull and freeze; clear the run's `pull` task")
    agreed = warehouse.agreed_hash(night.engine, night.customer.id, contract.id, contract.version)
    if agreed and agreed.sha256 != pulled_hash:
        raise ConfigurationError(
            f"{contract.path} is not the version {contract.version} that {agreed.run_id} was checked against: its "
            f"SHA-256 is {pulled_hash[:12]}…, not {agreed.sha256[:12]}…; give the changed contract a version of its "
            "own (raise `version`), or put the file back"
        )
    return contract


def _arrivals(
    night: Night,
    reading: arrivals.Reading,
    ledger: warehouse.Ledger,
    contract: contracts.Contract,
    rows: pd.DataFrame,
    *,
    cutoff: date,
    adopt: bool,
) -> list[contracts.RuleResult]:
    """Count how the delivery differs from what earlier runs have seen; returns what the gate says of that."""
    from forecasting.data import arrivals

    days, before = ledger.days, ledger.run
    watermark = before.watermark if before else None
    if before and not arrivals.same_declaration(before.config, night.run.config):
        days, watermark = days.head(0), None
        arrived = arrivals.Arrivals(False, f"{before.run_id} read another source, or other columns of it")
    else:
        arrived = arrivals.compare(reading, days, watermark)
    log.info("freeze: %s %s", night.run.run_id, arrived.sentence())
    if arrived.compared:  # also where the run stops here
        night.note(**arrived.counts())
    left = rows.groupby(night.customer.columns.ds).size().rename("lines").rename_axis("day").reset_index()
    return arrivals.judge(
        arrived, reading, days, contract, night.customer, watermark=watermark, cutoff=cutoff, adopt=adopt, left=left
    )


def _store(night: Night, panel: pd.DataFrame, accepted: pd.DataFrame, facts: dict[str, Any]) -> dict[str, str]:
    """Snapshot the panel under the customer's lock; its name and content for the run's row."""
    from forecasting.data import snapshots

    ref = snapshots.freeze(
        night.settings,
        panel,
        {**facts, "accepted": snapshots.rows_hash(accepted)},
        customer_id=night.customer.id,
        run_id=night.run.run_id,
        lock=warehouse.lock_snapshots(night.engine, night.customer.id),
    )
    return {"snapshot": str(ref), "snapshot_hash": ref.content}


def _snapshot_of(night: Night, run_id: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The panel that an earlier run froze, every byte verified; and of a sample, how many series of how many."""
    from forecasting.data import snapshots

    recorded = warehouse.read_run(night.engine, night.customer.id, run_id)
    panel, manifest = snapshots.read(night.settings, snapshots.SnapshotRef.parse(str(recorded.snapshot)))
    return panel, {name: fact for name, fact in manifest["facts"].items() if name == "sample"}


def _continued(night: Night, run_id: str) -> pd.DataFrame:
    """The panel of an earlier run, to be continued.

    Raises:
        ConfigurationError: It is a sample: the series that were left out of it would begin with tonight.
    """
    panel, sampled = _snapshot_of(night, run_id)
    if sampled:
        raise ConfigurationError(
            f"{run_id} kept a sample of the series (FORECASTING_SAMPLE), which cannot be continued; run once with "
            "full_refresh"
        )
    return panel


def _thaw(night: Night, run_id: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The recorded snapshot in place of a pull; contract and line counts are those of the run that froze it."""
    recorded = warehouse.read_run(night.engine, night.customer.id, run_id)
    same = ("cutoff", "watermark", "snapshot", "snapshot_hash", "contract", "contract_version", "contract_hash")
    lines = ("lines_read", "lines_used", "lines_excluded", "lines_quarantined", "lines_future")
    arrived = ("lines_late", "days_restated", "lines_lost")
    _record_lines(night, warehouse.read_lines(night.engine, night.customer.id, run_id))
    panel, sampled = _snapshot_of(night, run_id)
    return panel, {**{name: getattr(recorded, name) for name in (*same, *lines, *arrived)}, **sampled}


def _record_lines(night: Night, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Keep where the lines went, for people: `forecasting explain-run`."""
    with warehouse.acting_for(night.engine, night.customer.id) as connection:
        warehouse.record_lines(connection, night.customer.id, night.run.run_id, counts)


def _record_verdict(night: Night, verdict: contracts.Verdict, files: tuple[str, ...] = ()) -> None:
    """Keep what each rule said and the rows it refused, whether or not the contract is broken."""
    named = {"contract": verdict.contract, "version": verdict.version}
    results = [{**named, **asdict(result), "column_name": result.column or None} for result in verdict.results]
    refused = verdict.quarantine.head(warehouse.QUARANTINE_ROWS)  # the others are counted, not kept
    rejected = verdict.rejected[verdict.rejected["line"].isin(refused["line"])]
    refused = refused.merge(_detail(rejected, night.customer, files), on="line", how="left")
    run_id = night.run.run_id
    with warehouse.acting_for(night.engine, night.customer.id) as connection:
        warehouse.record_contract(connection, night.customer.id, run_id, results)
        warehouse.record_quarantine(connection, night.customer.id, run_id, refused)
    night.note(contract=verdict.contract, contract_version=verdict.version)


def _detail(refused: pd.DataFrame, customer: Customer, files: tuple[str, ...] = ()) -> pd.DataFrame:
    """Line → place, series, day and the row as it came, as far as they can be read."""
    from forecasting.data.sources import place

    rows = [_as_json(row) for row in refused.drop(columns="line").to_dict("records")]
    places = [place(line, customer, files) for line in refused["line"]]
    detail = pd.DataFrame({"line": refused["line"].to_numpy(), "row_json": pd.Series(rows, dtype=object)})
    detail["place"] = pd.Series(places, dtype=object)
    keys = list(customer.columns.keys)
    if len(refused) and {customer.columns.ds, *keys} <= set(refused.columns):
        whole = refused[keys].notna().all(axis=1).to_numpy()
        ids = refused[keys].astype(str).apply(frames.join_id, axis=1)
        detail["unique_id"] = ids.where(whole).to_numpy()
        detail["ds"] = refused[customer.columns.ds].to_numpy()
    return detail


def _as_json(row: Mapping[Hashable, Any]) -> str:
    return json.dumps({str(k): None if pd.isna(v) else str(v) for k, v in row.items()}, sort_keys=True)


# --- plan -----------------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """What tonight does, and why."""

    kind: str
    """retrain, refresh or nothing_new."""
    reason: str


def plan(
    night: Night, *, force: bool = False, against: str | None = None, sampled: Mapping[str, int] | None = None
) -> Plan:
    """Decide by rule what tonight does; the run's key follows from the decision, and both are noted.

    A reprocess of the same request repeats the plan it repeats, unless a rollback shows an earlier date's set.
    Otherwise the first rule that holds decides: asked for; no champion; another interface, recipe or contract than the
    last retrain's; nothing new; the age of the last retrain, whether it was crowned or kept; an armed signal; else
    refresh.
    """
    standing = _standing(night)
    incoming = night.version(against) if against else _incoming(night, standing)
    repeats = standing is not None and not force and _same_request(night.run, standing) and not _shows_another(night)
    if standing is not None and repeats:
        planned = Plan(str(standing.plan), str(standing.plan_reason))
    else:
        planned = _decide(night, incoming, force=force)
    if sampled and not repeats:
        share = "on a sample of {series} of {of} series".format(**sampled)
        planned = planned._replace(reason=f"{planned.reason}; {share}")
    facts = {
        "key": _key(night.run, planned, incoming),
        "incoming_champion": incoming.version if incoming else None,
        "plan": planned.kind,
        "plan_reason": planned.reason,
    }
    ended = {"status": "nothing_new", "message": planned.reason} if planned.kind == "nothing_new" else {}
    night.note(**facts, **ended)
    return planned


def _key(run: warehouse.Run, planned: Plan, incoming: warehouse.ModelVersion | None) -> str:
    """Hash of everything the values depend on."""
    parts = (
        run.customer_id,
        run.run_date.isoformat(),
        run.snapshot_hash,
        run.config_hash,
        planned.kind,
        run.code_version,
        run.lock_hash,
        incoming.bundle_sha256 if incoming else None,
    )
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


def _decide(night: Night, champion: warehouse.ModelVersion | None, *, force: bool) -> Plan:
    run, customer = night.run, night.customer
    if reason := governance.not_borne(night, champion):
        return _nothing_new(night) or Plan("refresh", reason)
    if force:
        return Plan("retrain", "asked for")
    if champion is None:
        return Plan("retrain", "no champion yet")
    last = _last_retrain(night, champion) or champion
    if last.interface_hash != customer.interface_hash:
        return Plan("retrain", f"the interface differs from that of {last.version}")
    if last.recipe_hash != customer.recipe_hash:
        return Plan("retrain", f"the recipe differs from that of {last.version}")
    if last.contract_version != run.contract_version:
        return Plan("retrain", f"contract {last.contract_version} became {run.contract_version}")
    if same := _nothing_new(night):
        return same
    age = (run.run_date - last.run_date).days
    if age >= customer.retrain.every_days:
        return Plan("retrain", f"{last.version} was trained {age} days ago, every {customer.retrain.every_days}")
    for signal in warehouse.armed(night.engine, customer.id, run.run_date):
        return Plan("retrain", f"signal {signal.kind} armed on {signal.armed_by}")
    return Plan("refresh", f"{last.version} was trained {age} days ago")


def _nothing_new(night: Night) -> Plan | None:
    run = night.run
    before = warehouse.newest_published(night.engine, run.customer_id, before=run.run_date)
    then = before and warehouse.read_run(night.engine, run.customer_id, before.run_id)
    if then and (then.cutoff, then.snapshot_hash) == (run.cutoff, run.snapshot_hash):
        return Plan("nothing_new", f"cutoff {run.cutoff} and data are those of {then.run_id}")
    return None


def _last_retrain(night: Night, champion: warehouse.ModelVersion) -> warehouse.ModelVersion | None:
    """The newest version born before tonight, crowned or kept: what was tried is not tried again every night.

    One that was promoted to here counts while it is in charge; then so do only versions of its own line.
    """
    born = [v for v in warehouse.versions(night.engine, night.customer.id) if v.run_date < night.run.run_date]
    born = [v for v in born if v.run_id is not None or v.version == champion.version]
    if champion.run_id is None:
        line = champion.recipe_hash, champion.interface_hash
        born = [v for v in born if (v.recipe_hash, v.interface_hash) == line]
    return max(born, key=lambda version: (version.run_date, version.parts), default=None)


def _shows_another(night: Night) -> bool:
    """Whether readers of tonight's run date see the set of an earlier one."""
    shown = warehouse.published(night.engine, night.customer.id, night.run.run_date)
    return shown is not None and shown.stale


def _standing(night: Night) -> warehouse.Run | None:
    """The run of tonight's run date that was published last, if this is a reprocess."""
    standing = warehouse.published(night.engine, night.customer.id, night.run.run_date, own=True)
    return None if standing is None else warehouse.read_run(night.engine, night.customer.id, standing.run_id)


def _same_request(run: warehouse.Run, standing: warehouse.Run) -> bool:
    asked = ("config_hash", "contract_hash", "code_version", "lock_hash")
    return all(getattr(run, name) == getattr(standing, name) for name in asked)


def _incoming(night: Night, standing: warehouse.Run | None) -> warehouse.ModelVersion | None:
    """The version in charge as this night begins: the pinned one; a reprocess meets what its first computation met."""
    if pin := governance.pin_of(night):
        return night.version(pin.version)
    if standing is None:
        return warehouse.champion(night.engine, night.customer.id, night.run.run_date, live=night.run.live)
    return None if standing.incoming_champion is None else night.version(standing.incoming_champion)


_WORTH_A_SHARD = {"refresh": 2_000, "retrain": 25}
"""Series that a shard must hold, by plan: a task start costs seconds."""


def _shards(most: int, planned: str, series: int) -> list[Reference]:
    """Shards of the statistical fits; none when nothing is new."""
    count = min(most, -(-series // _WORTH_A_SHARD[planned])) if planned in _WORTH_A_SHARD else 0
    return [{"index": index, "of": count} for index in range(count)]
