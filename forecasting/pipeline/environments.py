"""promote between environments: a version goes from this deployment to the next with its evidence, or it does not go.

The stores come first, then one transaction in the target's warehouse: whatever dies in between, the target has either
nothing that its nights obey, or all of it, and the same command again completes it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from forecasting.config import Customer, Settings
from forecasting.deployments import policy_of
from forecasting.errors import ConfigurationError, EvidenceMissingError
from forecasting.pipeline import charge
from forecasting.pipeline.night import Deployment, connect, load_customer
from forecasting.store import origins, pointers, registry, warehouse

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["Case", "evidence", "promote", "reach"]

log = logging.getLogger(__name__)

_NEW_LINE = ("MINOR", "MAJOR")
"""Kinds that are born in dev: whatever enters prod as one must have come from there."""


@dataclass(frozen=True)
class Case:
    """What speaks for a version in the environment it comes from, and what is missing."""

    kind: str
    """As its own gate named it; empty when no gate ever saw it."""
    gates: list[dict[str, Any]]
    """Every gate's decision on the way, oldest first."""
    nights: list[origins.Night]
    """Live nights behind it in the source."""
    missing: list[str]
    """Sentences; none: it may go."""


@contextmanager
def reach(settings: Settings) -> Iterator[Deployment]:
    """Another deployment with its servers running; an embedded one is started if it is down and left as it was found.

    Raises:
        ConfigurationError: Its warehouse has another revision than this code: it is not ours to migrate.
    """
    from forecasting.store import embedded

    with embedded.deployment(settings, ("warehouse", "mlflow")) as urls:
        found = replace(
            settings, warehouse_url=urls["FORECASTING_WAREHOUSE_URL"], mlflow_url=urls["MLFLOW_TRACKING_URI"]
        )
        deployment = connect(found)
        try:
            has, needs = warehouse.revisions(deployment.engine)
            if has != needs:
                raise ConfigurationError(
                    f"the warehouse of {settings.environment} is at revision {has or 'none'}, this code needs {needs}: "
                    "run `forecasting migrate` there with the same code, then promote again"
                )
            yield deployment
        finally:
            deployment.engine.dispose()


def promote(
    source: Deployment,
    target: Deployment,
    customer_id: str,
    version: str,
    *,
    who: str,
    reason: str = "",
    force: bool = False,
) -> str:
    """Bring a version and its evidence into the target: registered there, and in shadow or in charge by its policy.

    Args:
        source: Where the version stands now.
        target: Where it goes; see :func:`reach`.
        customer_id: The customer, known in both.
        version: Semantic version; it keeps its number.
        who: Who asks.
        reason: Why; needed by force.
        force: Go without evidence that is missing. A broken bundle goes nowhere.

    Returns:
        What was done, for people.

    Raises:
        EvidenceMissingError: What the target demands is not there; the message names it.
        ConfigurationError: There is no such version, or the target has another bundle under its number.
        BrokenBundleError: The files are not those that were registered.
        RegistryUnavailableError, SnapshotUnavailableError: A store cannot be reached: nothing is half done.
    """
    from forecasting.store import provision

    if force and not reason.strip():
        raise ConfigurationError("--force needs --reason: it goes into the audit log of both deployments")
    made, customer = _version(source, customer_id, version), load_customer(target.settings, customer_id)
    there = target.settings.environment
    provision.ensure(target.engine, customer)
    champion = warehouse.champion(target.engine, customer_id, date.max, live=True)
    if (standing := _standing(target, made)) and (place := origins.reached(target.engine, customer_id, version)):
        _tell_source(source, target, standing, who, reason)
        return f"nothing to do: {customer_id} {version} is in {there} with these very files, and {_PLACES[place]}"
    case = evidence(source, target, made)
    if case.missing and not force:
        told = "; ".join(case.missing)
        raise EvidenceMissingError(
            f"{customer_id} {version} does not go to {there}: {told}. With `--force --reason TEXT` it goes without, "
            "and the audit logs of both deployments say so"
        )
    files = _files(made)
    arrived = standing or _bring(source, target, made, files, _origin(source, made, case, who=who, reason=reason))
    done = _place(target, customer, arrived, champion, who=who, why=_why(source, arrived, reason))
    _tell_source(source, target, arrived, who, reason)
    forced = f", forced without: {'; '.join(case.missing)}" if case.missing else ""
    return (
        f"{customer_id} {version} is in {there} as {arrived.registry_name} {arrived.registry_version}, {done}{forced}"
        f"{_misfit(customer, arrived, there)}"
    )


def _misfit(customer: Customer, arrived: warehouse.ModelVersion, there: str) -> str:
    """What to do where the target's file asks for another interface than the version publishes; else nothing."""
    if customer.interface_hash == arrived.interface_hash:
        return ""
    return (
        f". {customer.id}.yaml in {there} declares another interface (horizon, frequency, keys, levels) than "
        f"{arrived.version} publishes: bring its file before the next night"
    )


_PLACES = {
    "charge": "has been put in charge there",
    "approval": "waits there for a person's word, or has got it",
    "shadow": "competes there in shadow",
}


# --- the evidence ---------------------------------------------------------------------------------------------------


def evidence(source: Deployment, target: Deployment, made: warehouse.ModelVersion) -> Case:
    """What speaks for a version where it is, measured by what the target demands."""
    here = source.settings.environment
    own = origins.gates(source.engine, made.customer_id, made.version, here)
    # held back by a pin, a policy or for a person's word, and put in charge by a person since: the gate had said yes
    crowned = origins.reached(source.engine, made.customer_id, made.version) == "charge"
    own_word = [gate for gate in own if gate.promoted or (crowned and "gate" in (gate.evidence or {}))]
    passed = [gate.as_dict() for gate in own_word]
    brought = list((made.origin or {}).get("gates", []))
    gates = [gate for gate in (*brought, *passed) if "sample" not in (gate["evidence"] or {})]
    kind = str(gates[0]["kind"]) if gates else (own[-1].kind if own else made.kind or "")
    nights = origins.nights(source.engine, made.customer_id, made.version)
    missing = [*_no_gate(made, here, own, gates), *_other_birth(target, made, here, kind)]
    demanded = policy_of(target.settings).shadow_nights
    if len(nights) < demanded:
        missing.append(f"it has {len(nights)} live nights behind it in {here}, and {demanded} are needed")
    return Case(kind, gates, nights, [*missing, *_not_the_next(source, target)])


def _no_gate(
    made: warehouse.ModelVersion, here: str, own: list[origins.Gate], gates: list[dict[str, Any]]
) -> list[str]:
    if gates:
        return []
    if any(gate.promoted for gate in own):
        return ["it was tried on a sample of the series, and what the gate said of that speaks for no whole night"]
    if own:
        return [f"the gate of {here} did not let it pass on {own[-1].run_id}: {own[-1].reason}"]
    came = f"it came to {here} by force" if made.origin else f"no run of {here} has decided on it"
    return [f"no gate's decision speaks for it: {came}"]


def _other_birth(target: Deployment, made: warehouse.ModelVersion, here: str, kind: str) -> list[str]:
    """What is wrong with where it was born: PATCH versions serve where they are born, new lines come from dev."""
    there = target.settings.environment
    if kind in _NEW_LINE and made.origin is None and here != "dev":
        return [f"it is a {kind} that was born in {here}, not promoted from dev"]
    same = [v for v in warehouse.versions(target.engine, made.customer_id) if _line(v) == _line(made)]
    others = [v.version for v in same if v.version != made.version]
    if kind == "PATCH" and others:
        return [
            f"it is a PATCH, which is born and gated where it serves: {there} has {', '.join(others)} of the same "
            "recipe and retrains it by itself"
        ]
    return []


def _line(version: warehouse.ModelVersion) -> tuple[str, str]:
    return version.recipe_hash, version.interface_hash


def _not_the_next(source: Deployment, target: Deployment) -> list[str]:
    here, there = source.settings.environment, target.settings.environment
    before = {"staging": "dev", "prod": "staging"}[there]
    return [] if here == before else [f"{there} takes from {before}, and this is {here}"]


# --- what goes over -------------------------------------------------------------------------------------------------


def _version(source: Deployment, customer_id: str, version: str) -> warehouse.ModelVersion:
    known = warehouse.versions(source.engine, customer_id)
    for found in known:
        if found.version == version:
            return found
    names = ", ".join(v.version for v in known) or "none"
    raise ConfigurationError(f"{source.settings.environment} has no {customer_id} {version}; it has: {names}")


def _standing(target: Deployment, made: warehouse.ModelVersion) -> warehouse.ModelVersion | None:
    """The target's version of this number, which must be the same files."""
    for found in warehouse.versions(target.engine, made.customer_id):
        if found.version == made.version and found.bundle_sha256 == made.bundle_sha256:
            return found
        if found.version == made.version:
            born = f"made by its own {found.run_id}" if found.run_id else "promoted to there before"
            raise ConfigurationError(
                f"{target.settings.environment} has another {made.customer_id} {made.version}, {born} on "
                f"{found.run_date}: sha256 {found.bundle_sha256[:12]}…, not {made.bundle_sha256[:12]}…; a version is "
                "immutable. Nothing was changed"
            )
    return None


def _files(made: warehouse.ModelVersion) -> dict[str, bytes]:
    """The bundle's files, every hash verified, and read once: what cannot be read here is of no use there."""
    from forecasting.learn import bundle

    files = registry.load(made.bundle_uri, made.bundle_sha256)
    bundle.from_files(files)
    return files


def _bring(
    source: Deployment,
    target: Deployment,
    made: warehouse.ModelVersion,
    files: dict[str, bytes],
    origin: dict[str, Any],
) -> warehouse.ModelVersion:
    """Snapshot and bundle into the target's stores, both read back; returns the line for its warehouse."""
    snapshot = _snapshot(source, target, made)
    there = target.settings.environment
    kept = registry.register(
        target.mlflow_url,
        target.settings.artifacts_url,
        f"{there}.{made.customer_id}",
        files,
        run_id=f"{origin['environment']}/{made.run_id or made.version}",
        tags=_tags(made, origin, there, snapshot),
        metrics=dict((made.scores or {}).get("mean", {})),
    )
    registry.load(kept.uri, made.bundle_sha256)
    return replace(
        made,
        registry_name=kept.name,
        registry_version=kept.registry_version,
        bundle_uri=kept.uri,
        snapshot=snapshot,
        run_id=None,
        kind=origin["kind"] or made.kind,
        origin=origin,
        created_at=None,
    )


def _snapshot(source: Deployment, target: Deployment, made: warehouse.ModelVersion) -> str:
    """Name under which the target reads the panel it was trained on, byte for byte; copied where it cannot yet."""
    from forecasting.data import snapshots
    from forecasting.errors import SnapshotCorruptedError, SnapshotUnavailableError

    ref = snapshots.SnapshotRef.parse(made.snapshot)
    known = [ref, *(entry.ref for entry in snapshots.history(target.settings, made.customer_id))]
    for one in known:
        if one.content == ref.content:
            try:
                snapshots.read(target.settings, one)
            except (SnapshotUnavailableError, SnapshotCorruptedError) as error:
                log.info("promote: %s cannot read %s: %s", target.settings.environment, one, error)
            else:
                return str(one)
    panel, manifest = snapshots.read(source.settings, ref)
    copied = snapshots.freeze(
        target.settings,
        panel,
        {**manifest["facts"], "copied_from": source.settings.environment},
        customer_id=made.customer_id,
        run_id=str(manifest["run_id"]),
        lock=warehouse.lock_snapshots(target.engine, made.customer_id),
    )
    snapshots.read(target.settings, copied)
    log.info("promote: snapshot %s copied to %s", ref, target.settings.environment)
    return str(copied)


def _origin(source: Deployment, made: warehouse.ModelVersion, case: Case, *, who: str, reason: str) -> dict[str, Any]:
    """Where a version came from, by whom and on which evidence: kept with it for good."""
    return {
        "environment": source.settings.environment,
        "registry_name": made.registry_name,
        "registry_version": made.registry_version,
        "run_id": made.run_id,
        "version": made.version,
        "sha256": made.bundle_sha256,
        "snapshot": made.snapshot,
        "kind": case.kind,
        "who": who,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "reason": reason,
        "forced_without": case.missing,
        "gates": case.gates,
        "nights": [night.run_id for night in case.nights],
        "before": made.origin,
    }


def _tags(made: warehouse.ModelVersion, origin: dict[str, Any], there: str, snapshot: str) -> dict[str, str]:
    tags = {
        "customer": made.customer_id,
        "environment": there,
        "semver": made.version,
        "kind": origin["kind"],
        "snapshot": snapshot.rpartition(":")[2],
        "contract_version": made.contract_version,
        "config_hash": made.config_hash,
        "code_version": made.code_version,
        "seed": made.config.get("seed"),
        "promoted_by": origin["who"],
        "forced": bool(origin["forced_without"]),
        **{f"origin_{name}": origin[name] for name in ("environment", "registry_name", "registry_version", "run_id")},
    }
    return {name: str(value) for name, value in tags.items() if value not in (None, "")}


# --- the target's warehouse -----------------------------------------------------------------------------------------


def _place(
    target: Deployment,
    customer: Customer,
    arrived: warehouse.ModelVersion,
    champion: warehouse.Champion | None,
    *,
    who: str,
    why: str,
) -> str:
    """Register the version and put it where the policy says, in one transaction; returns where.

    Where nobody is in charge there is nobody to compete with, so it is crowned at once.
    """
    seen = champion.version if champion else None
    with warehouse.acting_for(target.engine, customer.id) as connection:
        warehouse.lock_customer(
            connection, customer.id
        )  # a night that asks for the same word waits, and finds it asked
        _enter(connection, target, arrived, who=who, why=why)
        # another interface cannot compete: nothing that the champion publishes compares with it
        comparable = champion is not None and champion.interface_hash == arrived.interface_hash
        if policy_of(target.settings).enters == "shadow" and comparable:
            newest = warehouse.newest_publication(connection, customer.id)
            since = newest.run_date if newest else arrived.run_date
            pointers.put_in_shadow(connection, customer.id, arrived.version, effective_from=since, who=who, why=why)
            return f"in shadow beside {seen} after {since}"
        if champion is not None and (asked := _ask(connection, customer, arrived, champion, who)):
            return f"and waits for a person's word, approval {asked}, before it takes over from {seen}"
        crowned = charge.crown_in(
            connection, customer.id, arrived.version, expected=seen, who=who, why=why, forced=_forced(arrived)
        )
    return f"in charge after {crowned.effective_from}, in place of {seen or 'none'}"


def _ask(
    connection: sa.Connection,
    customer: Customer,
    arrived: warehouse.ModelVersion,
    champion: warehouse.Champion,
    who: str,
) -> int | None:
    """Ask for a person's word where the customer's file demands one; the question hangs on the newest published run."""
    newest = warehouse.newest_publication(connection, customer.id)
    if customer.promotion.approval != "required" or newest is None:
        return None
    origin = arrived.origin or {}
    gate = dict(origin["gates"][-1]["evidence"] or {}) if origin.get("gates") else {}
    return pointers.ask(
        connection,
        warehouse.run_of(connection, customer.id, newest.run_id),
        version=arrived.version,
        champion=champion.version,
        evidence={**gate, "promoted_from": origin.get("environment"), "nights": origin.get("nights", [])},
        expires_at=datetime.now(UTC) + timedelta(hours=customer.promotion.approval_hours),
        who=who,
        again=True,
    )


def _enter(
    connection: sa.Connection, target: Deployment, arrived: warehouse.ModelVersion, *, who: str, why: str
) -> None:
    origin = arrived.origin or {}
    warehouse.register_version(connection, arrived)
    after = {"version": arrived.version, "sha256": arrived.bundle_sha256, "from": origin.get("environment"),
             "forced_without": origin.get("forced_without", []), "to": target.settings.environment}  # fmt: skip
    warehouse.audit(connection, who, arrived.customer_id, _act(arrived), why, None, after)


def _forced(arrived: warehouse.ModelVersion) -> bool:
    return bool((arrived.origin or {}).get("forced_without"))


def _act(arrived: warehouse.ModelVersion) -> str:
    return "promote_forced" if _forced(arrived) else "promote"


def _why(source: Deployment, arrived: warehouse.ModelVersion, reason: str) -> str:
    origin = arrived.origin or {}
    by = f"promoted from {source.settings.environment}"
    forced = f", forced without: {'; '.join(without)}" if (without := origin.get("forced_without")) else ""
    return f"{by}{forced}{f': {reason}' if reason else ''}"


def _tell_source(
    source: Deployment, target: Deployment, arrived: warehouse.ModelVersion, who: str, reason: str
) -> None:
    """One line in the audit log of where it came from; the same promotion is told once."""
    after = {"version": arrived.version, "to": target.settings.environment, "sha256": arrived.bundle_sha256,
             "forced_without": (arrived.origin or {}).get("forced_without", [])}  # fmt: skip
    with warehouse.acting_for(source.engine, arrived.customer_id) as connection:
        if not origins.told(connection, arrived.customer_id, _act(arrived), after):
            why = reason or f"promoted to {target.settings.environment}"
            warehouse.audit(connection, who, arrived.customer_id, _act(arrived), why, None, after)
