"""The night's stages, in order: each reads by reference, asks ``learn`` to decide, writes, returns a reference.

Storage is handled here and only here do data, learn and store meet. A stage takes and returns small JSON-able mappings
(Airflow's XComs); frames go through ``store.work``. Whatever a stage needs of the customer it reads from the run's
frozen configuration, never from the YAML again. A retried stage changes nothing that stands.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pandas as pd

from forecasting import config, frames, periods
from forecasting.config import Customer, Settings
from forecasting.errors import (
    ConfigurationError,
    ContractBrokenError,
    ForecastingError,
    LateAttemptError,
    OutgoingContractBrokenError,
    RegistryUnavailableError,
    near_miss,
)
from forecasting.store import registry, warehouse, work

if TYPE_CHECKING:
    import sqlalchemy as sa

    from forecasting.data import contracts
    from forecasting.learn.bundle import Bundle
    from forecasting.learn.promotion import Decision

__all__ = [
    "Deployment",
    "Request",
    "connect",
    "fit_ml",
    "fit_statistical",
    "freeze",
    "load_customer",
    "monitor",
    "publish",
    "pull",
]

log = logging.getLogger(__name__)

Reference = dict[str, Any]
"""What one stage hands to the next: plain JSON."""


@dataclass(frozen=True)
class Deployment:
    """Where a night's work is kept."""

    settings: Settings
    engine: sa.Engine
    mlflow_url: str


@dataclass(frozen=True)
class Request:
    """What is asked of a night beyond its date."""

    live: bool = False
    """True for tonight's scheduled run: it may move the line of champions that tomorrow reads."""
    full_refresh: bool = False
    """Read the whole feed, not only the days since the watermark less the lookback."""
    force_retrain: bool = False
    """Retrain whatever the rules say."""
    as_frozen: bool = False
    """Use the snapshot recorded for this run date in place of pulling."""


def connect(settings: Settings) -> Deployment:
    """Open the deployment that ``settings`` name; the servers must be running.

    Raises:
        ConfigurationError: No warehouse is named and no embedded server has been started by the caller.
    """
    if not settings.warehouse_url or not settings.mlflow_url:
        raise ConfigurationError(
            "FORECASTING_WAREHOUSE_URL and MLFLOW_TRACKING_URI are not set; run this through the `forecasting` command, "
            "which starts the embedded server, or point both at servers of your own"
        )
    return Deployment(settings, warehouse.connect(settings.warehouse_url), settings.mlflow_url)


def load_customer(settings: Settings, customer_id: str) -> Customer:
    """Read one customer's file.

    Raises:
        ConfigurationError: There is no such file, or it is broken; with the reason.
    """
    found = config.load_customers(settings.customers, only=customer_id)
    if not found:
        known = sorted(path.stem for path in settings.customers.glob("*.yaml"))
        near = near_miss(customer_id, known)
        raise ConfigurationError(
            f"no customer {customer_id!r} in {settings.customers}.{near} Known: {', '.join(known)}"
        )
    if isinstance(found[0], config.BrokenCustomer):
        raise ConfigurationError(found[0].message)
    return found[0]


# --- pull -----------------------------------------------------------------------------------------------------------


def pull(
    deployment: Deployment,
    customer_id: str,
    run_date: date,
    request: Request = Request(),
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
    from forecasting.data import contracts, sources
    from forecasting.store import provision

    settings = deployment.settings
    customer = load_customer(settings, customer_id)
    provision.ensure(deployment.engine, customer)
    run = warehouse.allot(
        deployment.engine, customer, run_date, live=request.live, as_frozen=request.as_frozen, code=_code(settings)
    )
    with _stage(deployment, run, "pull"):
        night = {"customer_id": customer_id, "run_id": run.run_id, "force_retrain": request.force_retrain}
        if request.as_frozen:
            return {**night, "snapshot_of": _recorded(deployment, run).run_id}
        cutoff = periods.cutoff_of(run_date, customer.latency_days, customer.frequency)
        contract = contracts.load(settings.contracts / f"{customer.contract}.odcs.yaml")
        previous = None if request.full_refresh else _continues(deployment, customer, run, contract.version)
        since = previous and _since(previous.watermark, customer)
        feed = sources.pull(
            customer,
            root=settings.root,
            connection_uri=connection_uri,
            since=since,
            until=periods.shift(cutoff, customer.horizon, customer.frequency),
        )
        log.info("pull: %s read %d lines since %s", run.run_id, feed.lines_read, since or "the beginning")
        return {
            **night,
            "raw": asdict(work.put(settings.work_url, run.run_id, "raw", feed.rows)),
            "since": since and since.isoformat(),
            "previous": previous and previous.run_id,
            "cutoff": cutoff.isoformat(),
            "source": {"sha256": feed.sha256, "bytes": feed.bytes, "lines": feed.lines_read},
        }


def _since(watermark: date, customer: Customer) -> date:
    """First day that is read again: the lookback, from the beginning of its period, since whole periods are replaced."""
    return periods.period_start(watermark - timedelta(days=customer.lookback_days), customer.frequency)


class _Previous(NamedTuple):
    run_id: str
    watermark: date


_SHAPES_THE_PANEL = {"source", "columns", "returns", "exogenous", "frequency", "time_zone"}


def _continues(deployment: Deployment, customer: Customer, run: warehouse.Run, contract: str) -> _Previous | None:
    """The run whose snapshot this pull may continue; None when everything must be read again."""
    previous = warehouse.previous_snapshot(deployment.engine, customer.id, run.run_date)
    if previous is None or previous.cutoff is None or previous.contract_version != contract:
        return None
    before = Customer.model_validate(previous.config).model_dump(include=_SHAPES_THE_PANEL)
    if before != customer.model_dump(include=_SHAPES_THE_PANEL):
        return None
    return _Previous(previous.run_id, previous.cutoff)


def _recorded(deployment: Deployment, run: warehouse.Run) -> warehouse.Run:
    """The run that stands published for this run date."""
    standing = warehouse.published(deployment.engine, run.customer_id, run.run_date)
    if standing is None:
        raise ConfigurationError(
            f"as_frozen: {run.customer_id} has no publication for {run.run_date}, so no snapshot is recorded; "
            "run it without as_frozen"
        )
    return warehouse.read_run(deployment.engine, run.customer_id, standing.run_id)


# --- freeze and plan ------------------------------------------------------------------------------------------------


def freeze(deployment: Deployment, pulled: Mapping[str, Any]) -> list[Reference]:
    """Check the feed against its contract, make the canonical panel, snapshot it, and plan the night.

    Returns:
        One reference per shard of the statistical fits, alike but for ``shard``; none when nothing is new.

    Raises:
        ContractBrokenError: The circuit breaker; the last publication stays current.
        SnapshotUnavailableError, SnapshotCorruptedError: The snapshot could not be stored, or read back.
    """
    settings, run, customer = _night(deployment, pulled)
    with _stage(deployment, run, "freeze"):
        panel, facts = _thaw(deployment, run, pulled) if "snapshot_of" in pulled else _accept(deployment, run, pulled)
        warehouse.note(deployment.engine, customer.id, run.run_id, **facts)
        run = warehouse.read_run(deployment.engine, customer.id, run.run_id)
        planned = _plan(deployment, run, customer, force=bool(pulled["force_retrain"]))
        count = int(panel["unique_id"].nunique())
        shards = _shards(settings, planned.kind, count)
        log.info("freeze: %s %d series, snapshot %s, plan %s: %s", run.run_id, count, run.snapshot, *planned[:2])
        frozen = {
            "customer_id": customer.id,
            "run_id": run.run_id,
            "panel": asdict(work.put(settings.work_url, run.run_id, "panel", panel)),
            "plan": planned.kind,
        }
        return [{**frozen, "shard": shard} for shard in shards]


def _accept(
    deployment: Deployment, run: warehouse.Run, pulled: Mapping[str, Any]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Contract → quarantine → panel → snapshot. Returns the whole panel and what the run's row must know."""
    from forecasting.data import contracts, snapshots
    from forecasting.data import panel as panels

    settings, customer = deployment.settings, _customer(run)
    cutoff = date.fromisoformat(pulled["cutoff"])
    rows = work.get(work.Ref(**pulled["raw"]))
    contract = contracts.load(settings.contracts / f"{customer.contract}.odcs.yaml")
    since = date.fromisoformat(pulled["since"]) if pulled["since"] else None
    verdict = contracts.check(rows, contract, customer, cutoff=cutoff)
    _record_verdict(deployment, run, customer, verdict)
    if verdict.broken:
        raise ContractBrokenError(verdict.message())
    mapped = panels.to_panel(verdict.accepted, verdict.rejected, customer, cutoff, since=since)
    whole = mapped.panel
    if since is not None:
        before = warehouse.read_run(deployment.engine, customer.id, pulled["previous"])
        standing, _ = snapshots.read(settings, snapshots.SnapshotRef.parse(str(before.snapshot)))
        whole = panels.merge(standing, mapped.panel, since)
    panels.check_panel(whole, customer)
    facts = {
        "cutoff": cutoff.isoformat(),
        "contract": {"id": contract.id, "version": contract.version},
        "config": customer.hash,
        "lines": asdict(mapped.lines),
        "excluded": mapped.excluded,
        "source": pulled["source"],
    }
    ref = snapshots.freeze(
        settings,
        whole,
        facts,
        customer_id=customer.id,
        run_id=run.run_id,
        lock=warehouse.lock_snapshots(deployment.engine, customer.id),
    )
    lines = {f"lines_{name}": count for name, count in asdict(mapped.lines).items()}
    return whole, {"cutoff": cutoff, "snapshot": str(ref), "snapshot_hash": ref.content, **lines}


def _record_verdict(deployment: Deployment, run: warehouse.Run, customer: Customer, verdict: contracts.Verdict) -> None:
    """Keep what each rule said and the rows it refused, whether or not the contract is broken."""
    named = {"contract": verdict.contract, "version": verdict.version}
    results = [{**named, **asdict(result), "column_name": result.column or None} for result in verdict.results]
    refused = verdict.rejected
    keys = list(customer.columns.keys)
    rows = refused.drop(columns="line").to_dict("records")
    detail = pd.DataFrame(
        {"line": refused["line"], "row_json": pd.Series([_as_json(row) for row in rows], dtype=object)}
    )
    if len(refused) and {customer.columns.ds, *keys} <= set(refused.columns):
        whole = refused[keys].notna().all(axis=1)
        ids = refused[keys].astype(str).apply(frames.join_id, axis=1)
        detail = detail.assign(unique_id=ids.where(whole), ds=refused[customer.columns.ds])
    with warehouse.acting_for(deployment.engine, customer.id) as connection:
        warehouse.record_contract(connection, customer.id, run.run_id, results)
        quarantine = verdict.quarantine.merge(detail, on="line", how="left")
        warehouse.record_quarantine(connection, customer.id, run.run_id, quarantine)
    warehouse.note(
        deployment.engine, customer.id, run.run_id, contract=verdict.contract, contract_version=verdict.version
    )


def _as_json(row: Mapping[Hashable, Any]) -> str:
    return json.dumps(
        {str(name): None if pd.isna(value) else str(value) for name, value in row.items()}, sort_keys=True
    )


def _thaw(deployment: Deployment, run: warehouse.Run, pulled: Mapping[str, Any]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The recorded snapshot, verified, in place of a pull; its line counts are the recorded run's."""
    from forecasting.data import snapshots

    recorded = warehouse.read_run(deployment.engine, run.customer_id, pulled["snapshot_of"])
    panel, _ = snapshots.read(deployment.settings, snapshots.SnapshotRef.parse(str(recorded.snapshot)))
    same = ("cutoff", "snapshot", "snapshot_hash", "contract", "contract_version")
    lines = ("lines_read", "lines_used", "lines_excluded", "lines_quarantined", "lines_future")
    return panel, {name: getattr(recorded, name) for name in (*same, *lines)}


class Plan(NamedTuple):
    """What tonight does, and why; ``incoming`` is the version in charge when the night began."""

    kind: str
    reason: str
    incoming: str | None


def _plan(deployment: Deployment, run: warehouse.Run, customer: Customer, *, force: bool) -> Plan:
    """Nothing new, refresh or retrain, by rule; the run's key follows from the decision and is noted with it."""
    engine = deployment.engine
    incoming = _incoming(deployment, run)
    kind, reason = _decide(deployment, run, customer, incoming, force=force)
    facts = {"incoming_champion": incoming.version if incoming else None, "plan": kind, "plan_reason": reason}
    parts = (
        run.customer_id,
        run.run_date.isoformat(),
        run.snapshot_hash,
        run.config_hash,
        kind,
        run.code_version,
        run.lock_hash,
        incoming.bundle_sha256 if incoming else None,
    )
    key = hashlib.sha256("\n".join(str(part) for part in parts).encode()).hexdigest()
    status = {"status": "nothing_new", "message": reason} if kind == "nothing_new" else {}
    warehouse.note(engine, customer.id, run.run_id, key=key, **facts, **status)
    return Plan(kind, reason, incoming.version if incoming else None)


def _decide(
    deployment: Deployment,
    run: warehouse.Run,
    customer: Customer,
    champion: warehouse.ModelVersion | None,
    *,
    force: bool,
) -> tuple[str, str]:
    if force:
        return "retrain", "asked for"
    if champion is None:
        return "retrain", "no champion yet"
    if champion.recipe_hash != customer.recipe_hash:
        return "retrain", f"the recipe differs from that of {champion.version}"
    if champion.interface_hash != customer.interface_hash:
        return "retrain", f"the interface differs from that of {champion.version}"
    if champion.contract_version != run.contract_version:
        return "retrain", f"contract {champion.contract_version} became {run.contract_version}"
    before = warehouse.newest_published(deployment.engine, customer.id, before=run.run_date)
    last = before and warehouse.read_run(deployment.engine, customer.id, before.run_id)
    if last and (last.cutoff, last.snapshot_hash) == (run.cutoff, run.snapshot_hash):
        return "nothing_new", f"cutoff {run.cutoff} and data are those of {last.run_id}"
    age = (run.run_date - champion.run_date).days
    if age >= customer.retrain.every_days:
        return "retrain", f"{champion.version} was trained {age} days ago, every {customer.retrain.every_days}"
    for signal in warehouse.armed(deployment.engine, customer.id, run.run_date):
        return "retrain", f"signal {signal.kind} armed on {signal.armed_by}"
    return "refresh", f"{champion.version} was trained {age} days ago"


def _incoming(deployment: Deployment, run: warehouse.Run) -> warehouse.ModelVersion | None:
    """The version in charge as this night begins; a reprocess meets the one its first computation met."""
    standing = warehouse.published(deployment.engine, run.customer_id, run.run_date)
    if standing is None:
        return warehouse.champion(deployment.engine, run.customer_id, run.run_date, live=run.live)
    recorded = warehouse.read_run(deployment.engine, run.customer_id, standing.run_id).incoming_champion
    return None if recorded is None else _version(deployment, run.customer_id, recorded)


def _version(deployment: Deployment, customer_id: str, version: str) -> warehouse.ModelVersion:
    return next(known for known in warehouse.versions(deployment.engine, customer_id) if known.version == version)


def _shards(settings: Settings, plan: str, series: int) -> list[Reference]:
    """Shards of the statistical fits; a task start costs seconds, so a shard must hold enough work for it."""
    worth = {"nothing_new": 0, "refresh": 2_000, "retrain": 25}[plan]
    count = min(settings.shards, -(-series // worth)) if worth else 0
    return [{"index": index, "of": count} for index in range(count)]


# --- fits -----------------------------------------------------------------------------------------------------------


def fit_statistical(deployment: Deployment, frozen: Mapping[str, Any]) -> Reference:
    """Fit one shard's series: the whole pool with backtest on a retrain, the champion's choices on a refresh."""
    from forecasting.learn import backtest
    from forecasting.learn.models import statistical

    settings, run, customer = _night(deployment, frozen)
    shard = frozen["shard"]
    with _stage(deployment, run, "fit_statistical", shard["index"]):
        panel, cutoff = work.get(work.Ref(**frozen["panel"])), _known(run.cutoff)
        unique_ids = sorted(panel["unique_id"].unique())[shard["index"] :: shard["of"]]
        retrain = frozen["plan"] == "retrain"
        fitted = statistical.fit(
            panel,
            customer,
            cutoff,
            unique_ids,
            None if retrain else _chosen(_incoming_bundle(deployment, run), unique_ids),
            backtest.origins(cutoff, customer) if retrain else [],
            settings.threads,
        )
        log.info("fit_statistical: %s shard %d fitted %d series", run.run_id, shard["index"], len(unique_ids))
        return _keep(deployment, run, f"statistical-{shard['index']}", fitted.scores, fitted.forecasts, fitted.status)


def fit_ml(deployment: Deployment, frozen: Mapping[str, Any]) -> Reference:
    """Train the global model with its backtest on a retrain; predict with the champion's stored booster on a refresh.

    On a retrain the champion's refresh forecast is made beside it, for the gate.
    """
    from forecasting.learn import backtest
    from forecasting.learn.models import ml

    settings, run, customer = _night(deployment, frozen)
    with _stage(deployment, run, "fit_ml"):
        panel, cutoff = work.get(work.Ref(**frozen["panel"])), _known(run.cutoff)
        champion = _incoming_bundle(deployment, run)
        refreshed = None
        if champion is not None and champion.booster is not None:
            predicted = ml.predict(panel, customer, cutoff, champion.booster, champion.spec, settings.threads)
            refreshed = asdict(work.put(settings.work_url, run.run_id, "ml-champion", predicted))
        if frozen["plan"] == "refresh" or "lightgbm" not in customer.pool:
            log.info("fit_ml: %s predicted with the champion's booster: %s", run.run_id, refreshed is not None)
            return {"champion": refreshed}
        fitted = ml.fit(panel, customer, cutoff, backtest.origins(cutoff, customer), settings.threads)
        log.info("fit_ml: %s trained on %d series", run.run_id, fitted.forecasts["unique_id"].nunique())
        kept = _keep(deployment, run, "ml", fitted.scores, fitted.forecasts, fitted.status)
        if fitted.booster is None:
            return {**kept, "champion": refreshed}
        booster = work.put_bytes(settings.work_url, run.run_id, "booster", fitted.booster)
        return {**kept, "champion": refreshed, "booster": asdict(booster), "spec": fitted.spec}


def _keep(
    deployment: Deployment,
    run: warehouse.Run,
    name: str,
    scores: pd.DataFrame,
    forecasts: pd.DataFrame,
    status: pd.DataFrame,
) -> Reference:
    url = deployment.settings.work_url
    parts = {"scores": scores, "forecasts": forecasts, "status": status}
    return {part: asdict(work.put(url, run.run_id, f"{name}-{part}", frame)) for part, frame in parts.items()}


def _incoming_bundle(deployment: Deployment, run: warehouse.Run) -> Bundle | None:
    """The bundle in charge as the night began, its every byte verified, without the registry's server."""
    from forecasting.learn import bundle

    if run.incoming_champion is None:
        return None
    champion = _version(deployment, run.customer_id, run.incoming_champion)
    return bundle.from_files(registry.load(champion.bundle_uri, champion.bundle_sha256))


def _chosen(bundle: Bundle | None, unique_ids: list[str]) -> dict[str, tuple[str, ...]]:
    """Series → the models its champion publishes; one born since the training gets the pool's most common choice."""
    from forecasting.learn import selection

    if bundle is None:
        return {}
    choices = selection.pool_best(bundle.choices, unique_ids)
    return {str(uid): tuple(sorted(group)) for uid, group in choices.groupby("unique_id")["model"]}


# --- select, promote, publish ---------------------------------------------------------------------------------------


class _Set(NamedTuple):
    """A complete set of forecasts and the bundle that made it."""

    version: str
    bundle: Bundle
    rows: pd.DataFrame
    account: pd.DataFrame


class _Raw(NamedTuple):
    """What the fits left behind, put together; ``lost`` names the fits that failed."""

    scores: pd.DataFrame | None
    forecasts: pd.DataFrame
    status: pd.DataFrame
    lost: tuple[str, ...]


def publish(
    deployment: Deployment,
    frozen: Mapping[str, Any],
    statistical: list[Mapping[str, Any]],
    ml: Mapping[str, Any] | None,
) -> Reference:
    """Select, promote, publish: score all models on the same rows, decide who is in charge, show readers the winner's set.

    Args:
        deployment: Where to keep things.
        frozen: Reference from ``freeze``.
        statistical: References of the shards that succeeded; series of a lost shard go down the ladder.
        ml: Reference from ``fit_ml``; None when it failed.

    Returns:
        The run's id, a sentence on how the night ended, and counts for the asset event.

    Raises:
        OutgoingContractBrokenError: Our own forecasts are not fit to be published; the last set stays current.
        ChecksumMismatchError: The same key gave other values before.
        LateAttemptError: A newer attempt has published meanwhile.
    """
    _settings, run, customer = _night(deployment, frozen)
    with _stage(deployment, run, "publish"):
        panel = work.get(work.Ref(**frozen["panel"]))
        raw = _gather(deployment, run, frozen, statistical, ml)
        champion = _incoming_bundle(deployment, run)
        refreshed = _refresh(deployment, run, customer, champion, raw, ml, panel) if champion else None
        challenger, waits = _select(deployment, run, customer, raw, ml, panel, refreshed)
        decision = _promote(deployment, run, customer, raw, challenger, refreshed, waits)
        winner = challenger if challenger and decision.promoted else refreshed
        if winner is None:
            raise RegistryUnavailableError(f"{run.run_id}: no champion to fall back on, and {waits}; retry")
        _audit(deployment, run, customer, winner)
        outcome = _point(deployment, run, winner, challenger, decision, raw.lost)
        message = f"{run.run_id}: {outcome.value} {len(winner.rows)} rows of {winner.version}; {decision.reason}"
        log.info("publish: %s", message)
        if outcome is warehouse.Outcome.LATE:
            raise LateAttemptError(
                f"{run.run_id}: a newer attempt has published {run.run_date}; this one changes nothing"
            )
        by_status = {str(status): int(n) for status, n in winner.account["status"].value_counts().items()}
        counts = {"rows": len(winner.rows), "version": winner.version, "outcome": outcome.value, **by_status}
        return {
            "customer_id": customer.id,
            "run_id": run.run_id,
            "panel": frozen["panel"],
            "message": message,
            "counts": counts,
        }


def _gather(
    deployment: Deployment,
    run: warehouse.Run,
    frozen: Mapping[str, Any],
    statistical: list[Mapping[str, Any]],
    ml: Mapping[str, Any] | None,
) -> _Raw:
    """Put the shards' frames together and the global model's columns beside them."""
    shards = frozen["shard"]["of"]
    lost: tuple[str, ...] = ("fit_ml",) if ml is None else ()
    if len(statistical) < shards:
        lost = (f"{shards - len(statistical)} of {shards} statistical shards", *lost)

    def stacked(part: str) -> pd.DataFrame:
        return pd.concat([work.get(work.Ref(**ref[part])) for ref in statistical], ignore_index=True)

    if not statistical:
        raise ForecastingError(f"{run.run_id}: every statistical shard failed; see the logs of fit_statistical")
    scores, forecasts, status = stacked("scores"), stacked("forecasts"), stacked("status")
    trained = ml is not None and "scores" in ml
    if trained:
        assert ml is not None
        scores = _beside(scores, work.get(work.Ref(**ml["scores"])), frames.BACKTEST)
        forecasts = _beside(forecasts, work.get(work.Ref(**ml["forecasts"])), frames.FORECASTS)
        status = pd.concat([status, work.get(work.Ref(**ml["status"]))], ignore_index=True)
    return _Raw(scores if frozen["plan"] == "retrain" else None, forecasts, status, lost)


def _beside(left: pd.DataFrame, right: pd.DataFrame, schema: frames.Frame) -> pd.DataFrame:
    """The models of ``right`` as further columns of ``left``; a row that ``right`` lacks holds NaN there."""
    models = [column for column in right.columns if column not in schema.columns]
    return left.merge(right[[*schema.key, *models]], on=list(schema.key), how="left", validate="one_to_one")


def _refresh(
    deployment: Deployment,
    run: warehouse.Run,
    customer: Customer,
    champion: Bundle,
    raw: _Raw,
    ml: Mapping[str, Any] | None,
    panel: pd.DataFrame,
) -> _Set:
    """The set of the version in charge: its choices over tonight's fits, and its own stored booster's forecast."""
    forecasts = raw.forecasts.drop(columns=["lightgbm"], errors="ignore")
    if ml is not None and ml["champion"]:
        forecasts = _beside(forecasts, work.get(work.Ref(**ml["champion"])), frames.FORECASTS)
    return _assemble(run, customer, champion, str(run.incoming_champion), forecasts, raw.status, panel)


def _assemble(
    run: warehouse.Run,
    customer: Customer,
    bundle: Bundle,
    version: str,
    forecasts: pd.DataFrame,
    status: pd.DataFrame,
    panel: pd.DataFrame,
) -> _Set:
    from forecasting.learn import grid, ladder, publication, selection

    cutoff = _known(run.cutoff)
    choices = selection.pool_best(bundle.choices, sorted(panel["unique_id"].unique()))
    combined = selection.combine(forecasts, choices)
    bottom, account = ladder.complete(combined, forecasts, panel, customer, cutoff, status)
    scales = grid.scales(grid.regularise(panel, customer, cutoff))
    return _Set(version, bundle, publication.assemble(bottom, bundle.calibration, scales, customer), account)


def _select(
    deployment: Deployment,
    run: warehouse.Run,
    customer: Customer,
    raw: _Raw,
    ml: Mapping[str, Any] | None,
    panel: pd.DataFrame,
    refreshed: _Set | None,
) -> tuple[_Set | None, str]:
    """On a retrain: choose per series, calibrate, bundle, register. The second value says why there is no challenger."""
    if raw.scores is None:
        return None, "refresh"
    bundle = _bundle(deployment, run, customer, raw.scores, ml)
    try:
        version = _register(deployment, run, customer, bundle, refreshed)
    except RegistryUnavailableError as error:
        log.warning("publish: %s the retrain waits: %s", run.run_id, error)
        return None, f"the retrain waits, the registry is unavailable: {error}"
    return _assemble(run, customer, bundle, version, raw.forecasts, raw.status, panel), ""


def _bundle(
    deployment: Deployment, run: warehouse.Run, customer: Customer, scores: pd.DataFrame, ml: Mapping[str, Any] | None
) -> Bundle:
    from forecasting.learn import bundle, intervals, reconciliation, selection

    choices = selection.choose(scores, customer)
    series = reconciliation.series_table(sorted(scores["unique_id"].unique()), customer)
    rolling = selection.rolling(scores, customer)
    trained = ml if ml is not None and "booster" in ml else None
    return bundle.Bundle(
        choices=choices,
        calibration=intervals.calibrate(scores, choices, customer, series),
        booster=work.get_bytes(work.Ref(**trained["booster"])) if trained else None,
        spec=dict(trained["spec"]) if trained else {},
        meta={
            "customer": customer.id,
            "recipe": customer.recipe(),
            "interface": customer.interface(),
            "training_cutoff": _known(run.cutoff).isoformat(),
            "snapshot": run.snapshot_hash,
            "contract": f"{run.contract} {run.contract_version}",
            "rolling": json.loads(rolling.to_json(orient="records", date_format="iso", double_precision=12)),
        },
    )


def _register(
    deployment: Deployment, run: warehouse.Run, customer: Customer, bundle: Bundle, refreshed: _Set | None
) -> str:
    """Keep the bundle as an immutable version; the same bundle again is the same version."""
    from forecasting.learn import bundle as bundles
    from forecasting.learn import promotion

    files = bundles.to_files(bundle)
    sha256 = registry.bundle_hash(files)
    known = warehouse.versions(deployment.engine, customer.id)
    for version in known:
        if version.bundle_sha256 == sha256:
            return version.version
    base = next(
        (v for v in known if v.version == run.incoming_champion), max(known, key=lambda v: v.parts, default=None)
    )
    kind = promotion.kind(_recipe(customer), _recipe(base) if base else None)
    version_name = promotion.next_version(base.version if base else None, kind)
    if any(version.version == version_name for version in known):  # kept challengers have taken it
        version_name = promotion.next_version(max(known, key=lambda v: v.parts).version, "PATCH")
    means = selection_scores(bundle)
    tags = {
        "customer": customer.id,
        "environment": deployment.settings.environment,
        "semver": version_name,
        "snapshot": str(run.snapshot_hash),
        "contract_version": str(run.contract_version),
        "config_hash": run.config_hash,
        "code_version": run.code_version,
        "seed": str(customer.seed),
    }
    kept = registry.register(
        deployment.mlflow_url,
        deployment.settings.artifacts_url,
        f"{deployment.settings.environment}.{customer.id}",
        files,
        run_id=run.run_id,
        tags=tags,
        metrics=means,
    )
    with warehouse.acting_for(deployment.engine, customer.id) as connection:
        warehouse.register_version(
            connection,
            warehouse.ModelVersion(
                customer_id=customer.id,
                version=version_name,
                registry_name=kept.name,
                registry_version=kept.registry_version,
                bundle_uri=kept.uri,
                bundle_sha256=kept.sha256,
                run_id=run.run_id,
                run_date=run.run_date,
                training_cutoff=_known(run.cutoff),
                snapshot=str(run.snapshot),
                config_hash=run.config_hash,
                contract_version=str(run.contract_version),
                code_version=run.code_version,
                scores={"mean": means, "rolling": bundle.meta["rolling"]},
                recipe_hash=customer.recipe_hash,
                interface_hash=customer.interface_hash,
            ),
        )
    return version_name


def _recipe(of: Customer | warehouse.ModelVersion) -> dict[str, object]:
    return {"recipe": of.recipe_hash, "interface": of.interface_hash}


def selection_scores(bundle: Bundle) -> dict[str, float]:
    """Mean over the judged origins of every column of the bundle's rolling evaluation; lower is better."""
    table = pd.DataFrame.from_records(cast("list[dict[str, object]]", bundle.meta["rolling"]))
    return {str(name): float(value) for name, value in table.select_dtypes("number").mean().items()}


def _promote(
    deployment: Deployment,
    run: warehouse.Run,
    customer: Customer,
    raw: _Raw,
    challenger: _Set | None,
    refreshed: _Set | None,
    waits: str,
) -> Decision:
    """Challenger against the version in charge, on the same rows. Keeping it is an ordinary result."""
    from forecasting.learn import promotion, selection

    if challenger is None or raw.scores is None:
        return promotion.Decision(False, f"kept: {waits}")
    mine = selection.combine_scores(raw.scores, challenger.bundle.choices)
    if refreshed is None:
        return promotion.decide(mine, None, "FIRST", customer.promotion, compared="recipes")
    if challenger.version == refreshed.version:
        return promotion.Decision(False, f"kept: {challenger.version} came out again")
    return promotion.decide(
        mine,
        selection.combine_scores(raw.scores, refreshed.bundle.choices),
        promotion.kind(_recipe(customer), _recipe(_version(deployment, customer.id, refreshed.version))),
        customer.promotion,
        compared="recipes",
    )


def _audit(deployment: Deployment, run: warehouse.Run, customer: Customer, winner: _Set) -> None:
    """Our own contract with the readers: complete, finite, ≥ 0, ordered, coherent, fresh."""
    from forecasting.data import contracts
    from forecasting.learn import publication

    faults = publication.audit(winner.rows, winner.account, customer, _known(run.cutoff))
    contract = contracts.load(deployment.settings.contracts / "forecasts.odcs.yaml")
    verdict = contracts.check_published(winner.rows, contract, _expected(run, customer, winner))
    faults += [verdict.message()] if verdict.broken else []
    if faults:
        raise OutgoingContractBrokenError(
            f"{run.run_id}: the forecasts break {contract.id} {contract.version}, nothing is published: {'; '.join(faults)}"
        )


def _expected(run: warehouse.Run, customer: Customer, winner: _Set) -> contracts.Expected:
    """What makes tonight's set complete: every series that is not retired, every node above it, every step."""
    from forecasting.data import contracts
    from forecasting.learn import reconciliation

    alive = winner.account.loc[winner.account["status"] != "retired", "unique_id"]
    series = reconciliation.series_table(sorted(alive), customer)
    keys = customer.columns.keys
    return contracts.Expected(
        subject=run.run_id,
        dates=tuple(periods.horizon_dates(_known(run.cutoff), customer.horizon, customer.frequency)),
        series={str(node): frozenset(group) for node, group in series.groupby("node")["unique_id"]},
        nodes={node: tuple(keys.index(key) for key in grouping) for node, grouping in customer.nodes.items()},
    )


def _point(
    deployment: Deployment,
    run: warehouse.Run,
    winner: _Set,
    challenger: _Set | None,
    decision: Decision,
    lost: tuple[str, ...],
) -> warehouse.Outcome:
    """One transaction: series, rows, pointer, statuses, decision and, if promoted, the new line of the champion history."""
    from forecasting.learn import reconciliation

    customer = _customer(run)
    # A night that lost a fit is another computation than a whole one: the next attempt may replace it.
    key = hashlib.sha256("\n".join((str(run.key), *lost)).encode()).hexdigest() if lost else str(run.key)
    series = reconciliation.series_table(sorted(winner.account["unique_id"]), customer)
    warehouse.note(deployment.engine, customer.id, run.run_id, version=winner.version)
    with warehouse.acting_for(deployment.engine, customer.id) as connection:
        warehouse.upsert_series(connection, customer.id, run.run_date, series)
        outcome = warehouse.publish(
            connection,
            run,
            winner.rows,
            key=key,
            checksum=warehouse.checksum(winner.rows),
            status=winner.account,
            reason=decision.reason + "".join(f"; lost {name}" for name in lost),
        )
        if outcome is warehouse.Outcome.PUBLISHED:
            warehouse.record_decision(connection, _line(run, challenger, decision))
            if decision.promoted:
                warehouse.crown(
                    connection,
                    customer.id,
                    winner.version,
                    effective_from=run.run_date,
                    live=run.live,
                    run_id=run.run_id,
                    reason=decision.reason,
                )
    return outcome


def _line(run: warehouse.Run, challenger: _Set | None, decision: Decision) -> warehouse.Decision:
    return warehouse.Decision(
        customer_id=run.customer_id,
        run_id=run.run_id,
        kind=str(decision.evidence.get("kind", "REFRESH")),
        promoted=decision.promoted,
        reason=decision.reason,
        challenger=challenger and challenger.version,
        champion=run.incoming_champion,
        evidence=dict(decision.evidence),
    )


# --- monitor --------------------------------------------------------------------------------------------------------


def monitor(deployment: Deployment, done: Mapping[str, Any]) -> Reference:
    """Score earlier publications against the actuals that have arrived, by horizon.

    Returns:
        How many actuals were recorded and publications scored.
    """
    from forecasting.learn import monitoring

    _, run, customer = _night(deployment, done)
    with _stage(deployment, run, "monitor"):
        cutoff = _known(run.cutoff)
        panel = work.get(work.Ref(**done["panel"]))
        actuals = monitoring.actuals(panel, customer, cutoff)
        since = periods.shift(cutoff, -customer.horizon - customer.lookback_days, customer.frequency)
        oldest = periods.shift(cutoff, -customer.horizon, customer.frequency)
        earlier = warehouse.open_publications(
            deployment.engine, customer.id, run.run_date, (run.run_date - oldest).days
        )
        with warehouse.acting_for(deployment.engine, customer.id) as connection:
            recent = actuals[actuals["ds"] >= pd.Timestamp(since)]
            warehouse.record_actuals(connection, customer.id, run.run_id, recent)
            for publication in earlier:
                forecast = warehouse.read_forecast(deployment.engine, customer.id, publication.run_id)
                scored = monitoring.score(forecast, actuals, customer)
                warehouse.record_scores(connection, customer.id, run.run_id, scored.assign(run_id=publication.run_id))
        log.info("monitor: %s scored %d publications on %d actuals", run.run_id, len(earlier), len(recent))
        return {"run_id": run.run_id, "scored": len(earlier), "actuals": len(recent)}


# --- every stage ----------------------------------------------------------------------------------------------------


def _night(deployment: Deployment, reference: Mapping[str, Any]) -> tuple[Settings, warehouse.Run, Customer]:
    """The run a reference speaks of and its frozen configuration."""
    run = warehouse.read_run(deployment.engine, reference["customer_id"], reference["run_id"])
    return deployment.settings, run, _customer(run)


def _customer(run: warehouse.Run) -> Customer:
    return Customer.model_validate(run.config)


def _known(cutoff: date | None) -> date:
    if cutoff is None:
        raise ForecastingError("the run has no cutoff: its freeze did not finish")
    return cutoff


@contextmanager
def _stage(deployment: Deployment, run: warehouse.Run, name: str, shard: int = 0) -> Iterator[None]:
    """Time a stage; what ends it is written in the run's row, where the on-call looks first.

    A failed fit does not end the night, so it leaves the run's status alone.
    """
    began, cpu = time.monotonic(), time.process_time()
    try:
        yield
    except Exception as error:
        if not name.startswith("fit_"):
            status = _STATUS.get(type(error), "failed")
            message = (
                str(error) if isinstance(error, ForecastingError) else f"{type(error).__name__} in {name}; see its log"
            )
            facts = {"status": status, "message": f"{name}: {message}"}
            warehouse.note(deployment.engine, run.customer_id, run.run_id, **facts)
        raise
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu
    warehouse.record_stage(deployment.engine, run.customer_id, run.run_id, name, shard, seconds, cpu_seconds)


_STATUS: dict[type[Exception], str] = {ContractBrokenError: "broken", LateAttemptError: "late"}


def _code(settings: Settings) -> warehouse.Code:
    """What code, libraries and processor a run is computed with: checksums are promised for the same three."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    lock = package.parent / "requirements.lock"
    return warehouse.Code(
        version=digest.hexdigest(),
        lock_hash=hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else "none",
        cpu_family=_cpu_family(),
    )


def _cpu_family() -> str:
    """Architecture, vendor and family of this processor: libraries choose their code paths by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    known = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    known = {name.strip(): value.strip() for name, value in known.items()}
    parts = [known[name] for name in ("vendor_id", "cpu family", "CPU implementer", "CPU part") if name in known]
    return " ".join([platform.machine(), *parts])
