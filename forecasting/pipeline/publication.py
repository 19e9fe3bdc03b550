"""select, promote, publish: from raw forecasts to the set that readers see, and the evidence why this one."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pandas as pd

from forecasting import frames, periods
from forecasting.config import Customer
from forecasting.errors import (
    ConfigurationError,
    ForecastingError,
    LateAttemptError,
    OutgoingContractBrokenError,
    RegistryUnavailableError,
    VersionTakenError,
)
from forecasting.pipeline import approval, governance, shadow
from forecasting.pipeline.night import Deployment, Night, Reference, fetch, open_night, stage
from forecasting.store import registry, warehouse, work

if TYPE_CHECKING:
    import sqlalchemy as sa

    from forecasting.data import contracts
    from forecasting.learn.bundle import Bundle
    from forecasting.learn.promotion import Costs, Decision, Kind
    from forecasting.learn.selection import Rolled

__all__ = ["Candidate", "Raw", "promote", "publish", "recompute", "select"]

log = logging.getLogger(__name__)


class Raw(NamedTuple):
    """What one recipe's fits left behind, put together."""

    scores: pd.DataFrame
    """frames.BACKTEST; empty on a refresh."""
    forecasts: pd.DataFrame
    """frames.FORECASTS."""
    status: pd.DataFrame
    """frames.STATUS."""
    fit_seconds: float | None = None
    """CPU seconds of the fits together; None: some were not timed."""


class Candidate(NamedTuple):
    """A complete set of tonight's forecasts, and the version that made it."""

    version: str
    bundle: Bundle
    rows: pd.DataFrame
    """frames.PUBLISHED."""
    account: pd.DataFrame
    """frames.ACCOUNT."""
    judged: pd.DataFrame
    """Rolling backtest of its recipe: frames.BACKTEST with y_hat; empty on a refresh."""
    fit_seconds: float | None = None
    """CPU seconds of its recipe's fits tonight; None: not known."""


def publish(
    deployment: Deployment,
    frozen: Mapping[str, Any],
    statistical: Sequence[Mapping[str, Any]],
    ml: Mapping[str, Any] | None,
) -> Reference:
    """Select, promote, publish: score all models on the same rows, decide who is in charge, show readers its set.

    Args:
        deployment: Where to keep things.
        frozen: Reference from ``freeze``.
        statistical: References of the shards that succeeded; series of a lost shard go down the ladder.
        ml: Reference from ``fit_ml``; None when it failed.

    Returns:
        The run's id, a sentence on how the night ended, and counts for the asset event; where a challenger waits for
        a person's word, ``approval``: the number of the question.

    Raises:
        OutgoingContractBrokenError: Our own forecasts are not fit to be published; the last set stays current.
        ChecksumMismatchError: The same key gave other values before.
        LateAttemptError: A newer attempt has published meanwhile, or somebody pinned or crowned another version.
        ConfigurationError: The version that is held in charge cannot publish what is now declared.
        RegistryUnavailableError: A first version could not be registered, so there is nothing to publish under.
    """
    night = open_night(deployment, frozen)
    with stage(night, "publish"):
        panel = fetch(frozen["panel"])
        raw, lost = _gather(statistical, ml), _lost(frozen, statistical, ml)
        refreshed = _refresh(night, raw, statistical, ml, panel)
        challenger, waits = None, "refresh"
        if frozen["plan"] == "retrain" and lost and refreshed:
            waits = f"the retrain waits until the next night, {' and '.join(lost)} failed"
        elif frozen["plan"] == "retrain":
            challenger, waits = _challenge(night, raw, ml, panel, frozen)
        waiting = frozen["plan"] == "retrain" and challenger is None
        decision = _marked(promote(night, challenger, refreshed, waits), frozen, waiting=waiting and not lost)
        decision = governance.ruled(night, challenger.version if challenger else None, decision)
        winner = challenger if challenger and decision.promoted else refreshed
        if winner is None:
            raise _nothing_to_show(night, decision, waits)
        _audit(night, winner)
        beside = _beside_it(night, winner, challenger, refreshed)
        outcome = _point(night, winner, challenger, decision, lost, beside, waits if waiting else None)
        if outcome is warehouse.Outcome.PUBLISHED:
            _keep_shadow(night, statistical, ml, panel)
        asked = approval.number(night, challenger.version, decision) if challenger else {}
        return {**_done(night, frozen, winner, decision, outcome), **asked}


def _nothing_to_show(night: Night, decision: Decision, waits: str) -> ForecastingError:
    """Why the night has no set: the last one stays current."""
    run = night.run
    if "gate" not in decision.evidence:
        return RegistryUnavailableError(f"{run.run_id}: no champion to fall back on, and {waits}")
    return ConfigurationError(
        f"{run.run_id}: {decision.reason}; but the gate says {decision.evidence['gate']}: nothing is published. Put "
        f"{run.customer_id}.yaml back, or let the challenger in (`forecasting unpin {run.customer_id}` ends a pin)"
    )


def _sample(frozen: Mapping[str, Any]) -> dict[str, object]:
    """Of a sample, how many series of how many: nobody must take what came of it for the whole. Else nothing."""
    mark = frozen.get("sample")
    # in an order of our own: the database keeps another, and a card shows what it is told in the order it came
    return {"sample": {name: mark[name] for name in ("series", "of")}} if mark else {}


def _marked(decision: Decision, frozen: Mapping[str, Any], *, waiting: bool) -> Decision:
    held = {"held_by": "registry"} if waiting else {}
    return replace(decision, evidence={**decision.evidence, **_sample(frozen), **held})


def _done(
    night: Night, frozen: Mapping[str, Any], winner: Candidate, decision: Decision, outcome: warehouse.Outcome
) -> Reference:
    run = night.run
    if outcome is warehouse.Outcome.LATE:
        raise LateAttemptError(f"{run.run_id}: a newer attempt has published {run.run_date}; this one changes nothing")
    message = f"{run.run_id}: {outcome.value} {len(winner.rows)} rows of {winner.version}; {decision.reason}"
    log.info("publish: %s", message)
    by_status = {str(status): int(n) for status, n in winner.account["status"].value_counts().items()}
    counts = {"rows": len(winner.rows), "version": winner.version, "outcome": outcome.value, **by_status}
    reference = {"customer_id": run.customer_id, "run_id": run.run_id, "panel": frozen["panel"]}
    return {**reference, "message": message, "counts": counts}


# --- what the fits left behind --------------------------------------------------------------------------------------


def _gather(statistical: Sequence[Mapping[str, Any]], ml: Mapping[str, Any] | None) -> Raw:
    """Put the shards' frames together and the global model's columns beside them; no shard left: its columns alone."""
    from forecasting.learn import backtest

    def stacked(part: str, schema: frames.Frame) -> pd.DataFrame:
        found = [fetch(reference[part]) for reference in statistical]
        return pd.concat(found, ignore_index=True) if found else frames.empty(schema)

    scores, forecasts = stacked("scores", frames.BACKTEST), stacked("forecasts", frames.FORECASTS)
    status = stacked("status", frames.STATUS)
    if ml is not None and "scores" in ml:
        judged = fetch(ml["scores"])
        scores = backtest.join(scores, judged[judged["unique_id"].isin(scores["unique_id"])].reset_index(drop=True))
        forecasts = _beside(forecasts, fetch(ml["forecasts"]))
        status = pd.concat([status, fetch(ml["status"])], ignore_index=True)
    return Raw(scores, forecasts, status, _seconds([*statistical, ml or {}]))


def _seconds(fits: Sequence[Mapping[str, Any]]) -> float | None:
    """CPU seconds of the fits together; None where one was not timed, as on a refresh."""
    timed: list[float | None] = [fit.get("cpu_seconds") for fit in fits if "scores" in fit]
    known = [seconds for seconds in timed if seconds is not None]
    return sum(known) if len(known) == len(timed) else None


def _beside(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    """Two families' forecast frames side by side; a row that one of them lacks holds NaN in its columns."""
    merged = left.merge(right, on=list(frames.FORECASTS.columns), how="outer", validate="one_to_one")
    return merged.sort_values(list(frames.FORECASTS.key), ignore_index=True)


def _lost(
    frozen: Mapping[str, Any], statistical: Sequence[Mapping[str, Any]], ml: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """The fits that failed tonight."""
    shards = frozen["shard"]["of"]
    missing = shards - len(statistical)
    lost = (f"{missing} of {shards} statistical shards",) if missing else ()
    return (*lost, "fit_ml") if ml is None else lost


# --- select ---------------------------------------------------------------------------------------------------------


def select(
    raw: Raw,
    customer: Customer,
    ml: Mapping[str, Any] | None,
    facts: Mapping[str, object],
    panel: pd.DataFrame,
    judged: Rolled,
) -> Bundle:
    """Choose per series on all origins, calibrate, and bundle what is needed to do it again, with its model card.

    Args:
        raw: What tonight's fits left behind, score frame included.
        customer: The recipe and interface.
        ml: Reference from ``fit_ml``, for booster and spec; None when it failed.
        facts: What the bundle's meta and card say of its origin.
        panel: What it was trained on.
        judged: ``selection.rolled_nodes`` of the scores.
    """
    from forecasting.learn import bundle, card, intervals, selection

    choices = selection.choose(raw.scores, customer)
    rolling = selection.rolling(raw.scores, customer, judged.bottom)
    booster = ml["booster"] if ml is not None and "booster" in ml else None
    return bundle.Bundle(
        choices=choices,
        calibration=intervals.calibrate(raw.scores, choices, customer),
        booster=work.get_bytes(work.Ref.from_dict(booster)) if booster else None,
        spec=dict(ml["spec"]) if ml is not None and booster else {},
        meta={
            **facts,
            "recipe": customer.recipe(),
            "interface": customer.interface(),
            "rolling": json.loads(rolling.to_json(orient="records", date_format="iso", double_precision=12)),
        },
        card=card.make(raw.scores, judged, choices, panel, customer, facts),
    )


def _challenge(
    night: Night, raw: Raw, ml: Mapping[str, Any] | None, panel: pd.DataFrame, frozen: Mapping[str, Any]
) -> tuple[Candidate | None, str]:
    """Tonight's new version and its set. The second value says why there is none."""
    from forecasting.learn import selection

    judged = selection.rolled_nodes(raw.scores, night.customer)
    bundle = select(raw, night.customer, ml, _facts(night, frozen), panel, judged)
    try:
        version = _register(night, bundle)
    except RegistryUnavailableError as error:
        log.warning("publish: %s the retrain waits: %s", night.run.run_id, error)
        return None, f"the retrain waits until the next night, the registry is unavailable: {error}"
    return _assemble(night, bundle, version, night.customer, raw, panel, judged.bottom), ""


def _facts(night: Night, frozen: Mapping[str, Any]) -> dict[str, object]:
    """What a bundle says of its origin: nothing that another computation of the same night would not say."""
    run = night.run
    return {
        "customer": run.customer_id,
        "training_cutoff": night.cutoff.isoformat(),
        "snapshot": run.snapshot_hash,
        "contract": f"{run.contract} {run.contract_version}",
        **_sample(frozen),
    }


def recompute(
    night: Night,
    frozen: Mapping[str, Any],
    statistical: Sequence[Mapping[str, Any]],
    ml: Mapping[str, Any] | None,
    version: str | None,
) -> Candidate | None:
    """The set that ``publish`` made of the same fits, and nothing else: it registers, decides and shows nothing.

    Args:
        night: The run; its warehouse may be read-only.
        frozen: As ``freeze`` gave it.
        statistical: References of the shards.
        ml: Reference of the global model; None when it had failed.
        version: Name for the version that a retrain makes; None: the set of the version in charge.
    """
    from forecasting.learn import selection

    panel, raw = fetch(frozen["panel"]), _gather(statistical, ml)
    if version is None:
        return _refresh(night, raw, statistical, ml, panel)
    judged = selection.rolled_nodes(raw.scores, night.customer)
    bundle = select(raw, night.customer, ml, _facts(night, frozen), panel, judged)
    return _assemble(night, bundle, version, night.customer, raw, panel, judged.bottom)


def _refresh(
    night: Night,
    raw: Raw,
    statistical: Sequence[Mapping[str, Any]],
    ml: Mapping[str, Any] | None,
    panel: pd.DataFrame,
) -> Candidate | None:
    """The set of the version in charge: its choices over tonight's fits, and its own stored booster's forecast."""
    champion = night.incumbent
    if champion is None or not champion.serves(night.customer):
        return None
    if statistical and all("rival" in reference for reference in statistical):
        raw = _gather([reference["rival"] for reference in statistical], (ml or {}).get("rival"))
    forecasts = raw.forecasts.drop(columns=["lightgbm"], errors="ignore")
    if ml is not None and ml["champion"]:
        forecasts = _beside(forecasts, fetch(ml["champion"]))
    return _assemble(
        night, champion.bundle, champion.version, champion.customer, raw._replace(forecasts=forecasts), panel
    )


def _assemble(
    night: Night,
    bundle: Bundle,
    version: str,
    recipe: Customer,
    raw: Raw,
    panel: pd.DataFrame,
    judged: pd.DataFrame | None = None,
) -> Candidate:
    """A version's set over tonight's fits; ``judged`` where it is at hand."""
    from forecasting.learn import publication, selection

    version_of = bundle.choices, bundle.calibration
    rows, account = publication.compose(raw.forecasts, raw.status, *version_of, panel, night.customer, night.cutoff)
    judged = selection.rolled(raw.scores, recipe) if judged is None else judged
    return Candidate(version, bundle, rows, _with_the_gone(night, account), judged, raw.fit_seconds)


def _with_the_gone(night: Night, account: pd.DataFrame) -> pd.DataFrame:
    """The account, with the series that earlier nights knew and tonight's feed no longer holds: none just vanishes."""
    known = warehouse.known_series(night.engine, night.customer.id, night.run.run_date)
    gone = sorted(set(known) - set(account["unique_id"]))
    facts = {"status": "retired", "rung": None, "model": None, "reason": "not in the feed any more"}
    lines = pd.DataFrame({"unique_id": gone, **facts}, columns=list(account.columns), dtype=object)
    return pd.concat([account, lines], ignore_index=True) if gone else account


def _register(night: Night, bundle: Bundle) -> str:
    """Keep the bundle as an immutable version; the same bundle again is the same version."""
    from forecasting.learn import bundle as bundles

    files = bundles.to_files(bundle)
    sha256 = registry.bundle_hash(files)
    known = warehouse.versions(night.engine, night.customer.id)
    for version in known:
        if version.bundle_sha256 == sha256:
            return version.version
    name, kind = _next_version(night, known)
    name, kept = _enlist(night, name, {version.version for version in known}, files, _means(bundle))
    with warehouse.acting_for(night.engine, night.customer.id) as connection:
        size = sum(map(len, files.values()))
        warehouse.register_version(connection, _row(night, name, kind, bundle, kept, size))
    return name


_ORPHANS = 20
"""Most versions in a row that are passed over because MLflow holds another bundle under their name."""


def _enlist(
    night: Night, name: str, known: set[str], files: dict[str, bytes], means: dict[str, float]
) -> tuple[str, registry.Registered]:
    """Register the bundle; a name that MLflow has given away is passed over.

    A night that died between MLflow and the warehouse leaves such a name: nothing obeys it, and it is never given to
    other bytes.
    """
    from forecasting.learn import promotion

    for _ in range(_ORPHANS):
        try:
            return name, registry.register(
                night.deployment.mlflow_url,
                night.settings.artifacts_url,
                f"{night.settings.environment}.{night.customer.id}",
                files,
                run_id=night.run.run_id,
                tags=_tags(night, name, means),
                metrics=means,
            )
        except VersionTakenError as taken:
            log.warning("publish: %s the next version is taken: %s", night.run.run_id, taken)
            name = _free(promotion.next_version(name, "PATCH"), known)
    raise VersionTakenError(f"{night.run.run_id}: {name} and the {_ORPHANS} versions before it are taken in MLflow")


def _next_version(night: Night, known: list[warehouse.ModelVersion]) -> tuple[str, Kind]:
    """PATCH, MINOR or MAJOR of the version in charge, by comparison; the next free one where that is taken."""
    from forecasting.learn import promotion

    newest = max(known, key=lambda version: version.parts, default=None)
    base = next((version for version in known if version.version == night.run.incoming_champion), newest)
    if base is None:
        return promotion.next_version(None, "FIRST"), "FIRST"
    kind = promotion.kind(_hashes(night.customer), _hashes(base))
    return _free(promotion.next_version(base.version, kind), {version.version for version in known}), kind


def _free(name: str, known: set[str]) -> str:
    """``name``, or the first PATCH after it that is not known."""
    from forecasting.learn import promotion

    while name in known:
        name = promotion.next_version(name, "PATCH")
    return name


def _hashes(of: Customer | warehouse.ModelVersion) -> dict[str, object]:
    return {"recipe": of.recipe_hash, "interface": of.interface_hash}


def _means(bundle: Bundle) -> dict[str, float]:
    """Mean over the judged origins of every column of the bundle's rolling evaluation; lower is better."""
    table = pd.DataFrame.from_records(cast("list[dict[str, object]]", bundle.meta["rolling"]))
    return {str(name): float(value) for name, value in table.select_dtypes("number").mean().items()}


def _tags(night: Night, version: str, means: dict[str, float]) -> dict[str, str]:
    """What MLflow shows of the version and of its run, in order of interest."""
    run = night.run
    scores = {name: round(value, 6) for name, value in sorted(means.items()) if math.isfinite(value)}
    return {
        "customer": run.customer_id,
        "environment": night.settings.environment,
        "semver": version,
        "snapshot": str(run.snapshot_hash),
        "contract_version": str(run.contract_version),
        "config_hash": run.config_hash,
        "code_version": run.code_version,
        "seed": str(night.customer.seed),
        "scores": json.dumps(scores),
    }


def _row(
    night: Night, version: str, kind: Kind, bundle: Bundle, kept: registry.Registered, size: int
) -> warehouse.ModelVersion:
    run = night.run
    return warehouse.ModelVersion(
        customer_id=run.customer_id,
        version=version,
        registry_name=kept.name,
        registry_version=kept.registry_version,
        bundle_uri=kept.uri,
        bundle_sha256=kept.sha256,
        run_id=run.run_id,
        run_date=run.run_date,
        config=run.config,
        training_cutoff=night.cutoff,
        snapshot=str(run.snapshot),
        config_hash=run.config_hash,
        recipe_hash=night.customer.recipe_hash,
        interface_hash=night.customer.interface_hash,
        contract_version=run.contract_version,
        code_version=run.code_version,
        kind=kind,
        bundle_bytes=size,
        fit_seconds=warehouse.fit_seconds(night.engine, run.customer_id, run.run_id),
        scores={"mean": _means(bundle), "rolling": bundle.meta["rolling"]},
    )


# --- promote --------------------------------------------------------------------------------------------------------


def promote(night: Night, challenger: Candidate | None, champion: Candidate | None, waits: str = "") -> Decision:
    """Challenger against the version in charge. Keeping it is an ordinary result.

    No origin lies after tonight's training, so recipes are compared: what each would have published at every origin
    that its choices had not seen, refitted there. The evidence says so. A PATCH has the champion's own recipe: for it
    the guard rails decide, tonight's total among them. Where the champion cannot publish what is now declared, or its
    bundle is lost, there is nothing to keep.
    """
    from forecasting.learn import promotion

    if challenger is None:
        return promotion.Decision(False, f"kept: {waits}")
    rules, incoming = night.customer.promotion, night.run.incoming_champion
    first = promotion.decide(challenger.judged, None, "FIRST", rules, compared="recipes")
    if incoming is None:
        return first
    kind = promotion.kind(_hashes(night.customer), _hashes(night.version(incoming)))
    why = _makes_way(night, champion)
    if champion is None or why:
        return promotion.Decision(True, f"{kind}: {incoming} {why}", {**first.evidence, "kind": kind})
    if challenger.version == champion.version:
        return promotion.Decision(False, f"kept: {challenger.version} came out again")
    total = champion.rows["y_hat"].sum()
    volume = float(challenger.rows["y_hat"].sum() / total - 1) if total > 0 else None
    costs = _costs(challenger), _costs(champion)
    return promotion.decide(
        challenger.judged, champion.judged, kind, rules, compared="recipes", volume=volume, costs=costs
    )


def _makes_way(night: Night, champion: Candidate | None) -> str:
    """Why there is no champion to compare with; nothing where there is one."""
    if night.incumbent is None:
        return "has lost its bundle"
    if not night.incumbent.readable:
        return "was trained on features that this code does not make any more"
    return "" if champion else "cannot publish what is now declared"


def _costs(candidate: Candidate) -> Costs:
    """What the gate's rails weigh: the fits of its recipe tonight, and the bundle's files."""
    from forecasting.learn import bundle as bundles
    from forecasting.learn import promotion

    return promotion.Costs(candidate.fit_seconds, sum(map(len, bundles.to_files(candidate.bundle).values())))


# --- publish --------------------------------------------------------------------------------------------------------


def _audit(night: Night, winner: Candidate) -> None:
    """Our own contract with the readers: complete, finite, ≥ 0, ordered, coherent, fresh."""
    from forecasting.data import contracts
    from forecasting.learn import publication

    faults = publication.audit(winner.rows, winner.account, night.customer, night.cutoff)
    contract = contracts.load(night.settings.contracts / "forecasts.odcs.yaml")
    verdict = contracts.check_published(winner.rows, contract, _expected(night, winner))
    faults += [verdict.message()] if verdict.broken else []
    if faults:
        raise OutgoingContractBrokenError(
            f"{night.run.run_id}: the forecasts break {contract.id} {contract.version}, nothing is published: "
            + "; ".join(faults)
        )


def _beside_it(
    night: Night, winner: Candidate, challenger: Candidate | None, refreshed: Candidate | None
) -> Candidate | None:
    """The set that lost tonight, if a rollback may show it: it passes the same audit as the winner's."""
    loser = refreshed if winner is challenger else challenger
    if loser is None or loser.version == winner.version:
        return None
    try:
        _audit(night, loser)
    except OutgoingContractBrokenError as error:
        log.warning("publish: %s keeps no set of %s: %s", night.run.run_id, loser.version, error)
        return None
    return loser


def _expected(night: Night, winner: Candidate) -> contracts.Expected:
    """What makes tonight's set complete: every series that is not retired, every node above it, every step."""
    from forecasting.data import contracts
    from forecasting.learn import reconciliation

    customer, keys = night.customer, night.customer.columns.keys
    alive = winner.account.loc[winner.account["status"] != "retired", "unique_id"]
    series = reconciliation.series_table(sorted(alive), customer)
    return contracts.Expected(
        subject=night.run.run_id,
        dates=tuple(periods.horizon_dates(night.cutoff, customer.horizon, customer.frequency)),
        series={str(node): frozenset(group) for node, group in series.groupby("node")["unique_id"]},
        nodes={node: tuple(keys.index(key) for key in grouping) for node, grouping in customer.nodes.items()},
    )


def _point(
    night: Night,
    winner: Candidate,
    challenger: Candidate | None,
    decision: Decision,
    lost: tuple[str, ...],
    beside: Candidate | None,
    waits: str | None,
) -> warehouse.Outcome:
    """One transaction: series, rows, pointer, statuses, decision, the set kept beside and, if promoted, the champion.

    Raises:
        LateAttemptError: Somebody pinned or crowned another version since the night came in.
    """
    from forecasting.learn import reconciliation

    run, customer = night.run, night.customer
    series = reconciliation.series_table(sorted(winner.account["unique_id"]), customer)
    with warehouse.acting_for(night.engine, customer.id) as connection:
        warehouse.lock_customer(connection, customer.id)
        if moved := governance.overtaken(connection, night, winner.version):
            raise LateAttemptError(moved)
        warehouse.upsert_series(connection, customer.id, run.run_date, series)
        outcome = warehouse.publish(
            connection,
            run,
            winner.rows,
            key=_key(run, lost, decision),
            checksum=warehouse.checksum(winner.rows),
            version=winner.version,
            status=winner.account,
            reason=decision.reason + "".join(f"; lost {name}" for name in lost),
            message=waits,
        )
        if outcome is warehouse.Outcome.PUBLISHED:
            warehouse.record_decision(connection, _line(run, challenger, decision))
            if challenger:
                warehouse.consume(connection, run)
                approval.ask(connection, night, challenger, winner, decision)
            if waits:
                warehouse.arm(connection, _again(run, waits))
            if beside:
                _keep(connection, run, beside, winner.version)
        if outcome is warehouse.Outcome.PUBLISHED and decision.promoted:
            warehouse.crown(
                connection,
                customer.id,
                winner.version,
                effective_from=run.run_date,
                live=run.live,
                run_id=run.run_id,
                who=run.asked_by or "pipeline",
                reason=decision.reason,
            )
    return outcome


def _keep_shadow(
    night: Night, statistical: Sequence[Mapping[str, Any]], ml: Mapping[str, Any] | None, panel: pd.DataFrame
) -> None:
    """Keep the set of the version in shadow beside the published one; whatever goes wrong is said, and no more."""
    fits = [*statistical, ml or {}]
    if not any("shadow" in fit for fit in fits):
        return
    try:
        other, shards, mine = shadow.fitted(night, statistical, ml)
        found = _refresh(other, _gather(shards, mine), shards, mine, panel)
        if found is None:
            raise ConfigurationError(f"{other.run.incoming_champion} cannot publish what is declared")
        _audit(other, found)
        reason = f"in shadow beside {night.run.run_id}"
        row = warehouse.read_run(night.engine, night.customer.id, night.run.run_id)
        with warehouse.acting_for(night.engine, night.customer.id) as connection:
            row = replace(row, incoming_champion=found.version)
            warehouse.keep(connection, row, found.rows, version=found.version, status=found.account, reason=reason)
    except Exception as error:  # readers have their forecasts; nobody may lose them over a competitor
        shadow.tell(night, error)


def _again(run: warehouse.Run, waits: str) -> warehouse.Signal:
    """What makes the next night retrain, whatever made this one: a retrain that was asked for is asked for once."""
    return warehouse.Signal(
        customer_id=run.customer_id,
        kind="retrain_waits",
        run_id=run.run_id,
        armed_by=run.run_date,
        alarm=True,
        detail=waits,
    )


def _keep(connection: sa.Connection, run: warehouse.Run, beside: Candidate, published: str) -> None:
    """Keep the set that lost, for a rollback of tonight."""
    reason = f"kept beside {run.run_id}, which published {published}"
    warehouse.keep(connection, run, beside.rows, version=beside.version, status=beside.account, reason=reason)


def _key(run: warehouse.Run, lost: tuple[str, ...], decision: Decision) -> str:
    """The run's key. One that lost a fit or held back a winner is another computation: the next may replace it.

    So is one that the clock decided: the same fits may take other CPU seconds the next time.
    """
    if run.status in ("published", "verified"):  # this attempt repeats one that has written its key
        return str(run.key)
    slow = any(rail["name"] == "run_time" and not rail["held"] for rail in decision.evidence.get("rails", ()))  # type: ignore[attr-defined]
    held = decision.evidence.get("held_by") or ("run time" if slow else None)
    parts = (*lost, f"held by {held}") if held else lost
    return hashlib.sha256("\n".join((str(run.key), *parts)).encode()).hexdigest() if parts else str(run.key)


def _line(run: warehouse.Run, challenger: Candidate | None, decision: Decision) -> warehouse.Decision:
    return warehouse.Decision(
        customer_id=run.customer_id,
        run_id=run.run_id,
        kind=str(decision.evidence.get("kind", "REFRESH")),
        promoted=decision.promoted,
        reason=decision.reason,
        challenger=challenger.version if challenger else None,
        champion=run.incoming_champion,
        evidence=dict(decision.evidence),
    )
