"""What has its word after the gate: a pin, the deployment's policy, a person. It never turns a refusal into a crown."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from forecasting.config import Customer
from forecasting.deployments import policy_of
from forecasting.errors import ConfigurationError
from forecasting.pipeline.night import Night
from forecasting.store import pointers, warehouse

if TYPE_CHECKING:
    import sqlalchemy as sa

    from forecasting.learn.promotion import Decision

__all__ = ["not_borne", "overtaken", "pin_of", "ruled"]

log = logging.getLogger(__name__)


def ruled(night: Night, challenger: str | None, decision: Decision) -> Decision:
    """The gate's decision after everybody had their word; what held the challenger back is ``evidence["held_by"]``.

    Pins, policies and approvals are for live nights: a backfill decides within the past that it builds. A customer's
    first version is held back by nobody, for there would be nothing to publish.

    Args:
        night: The night.
        challenger: The version that the gate let pass; None on a refresh.
        decision: What the gate said.
    """
    if not decision.promoted or challenger is None or not night.run.live or night.run.incoming_champion is None:
        return decision
    for holder, has_its_word in _WORDS.items():
        if reason := has_its_word(night, challenger, decision):
            log.info("promote: %s %s is held: %s", night.run.run_id, challenger, reason)
            evidence = {**decision.evidence, "held_by": holder, "gate": decision.reason}
            return replace(decision, promoted=False, reason=f"kept: {reason}", evidence=evidence)
    return decision


def not_borne(night: Night, champion: warehouse.ModelVersion | None) -> str:
    """Why the deployment's policy lets no version of tonight's configuration be born; empty where it does.

    The champion then goes on publishing by its own recipe. What consumers would notice is another matter: neither is
    the declared interface published without a model for it, nor the old one against the declaration.

    Raises:
        ConfigurationError: The champion cannot publish what is declared, or there is none.
    """
    from forecasting.learn import promotion

    customer, here = night.customer, night.settings.environment
    kind = promotion.kind(_line(customer), _line(champion) if champion else None)
    if policy_of(night.settings).bears(kind):
        return ""
    by = f"{here} takes it by `forecasting promote {customer.id} VERSION --to {here}`"
    if champion is None:
        raise ConfigurationError(f"{customer.id} has no version in {here}, where none is born: {by}")
    if kind == "MAJOR" or not _declares(customer, champion):
        what = _changes(customer, champion) or "columns that it needs are not declared any more"
        raise ConfigurationError(
            f"{customer.id}.yaml asks for what {champion.version} cannot publish ({what}), and {by}. Nothing is "
            "published and the last set stays current until the version is promoted or the file put back"
        )
    if kind == "PATCH":
        return f"no PATCH is born in {here}"
    return f"the recipe differs from that of {champion.version}: {by}"


def _line(of: Customer | warehouse.ModelVersion) -> dict[str, object]:
    return {"recipe": of.recipe_hash, "interface": of.interface_hash}


def _changes(customer: Customer, champion: warehouse.ModelVersion) -> str:
    """What consumers would notice, name by name; empty: nothing."""
    now = customer.interface()
    then = {name: champion.config.get(name) for name in now} | {"keys": champion.config["columns"]["keys"]}
    return ", ".join(f"{name} {then[name]} → {now[name]}" for name in now if then[name] != now[name])


def _declares(customer: Customer, champion: warehouse.ModelVersion) -> bool:
    """Whether the exogenous columns of the champion are still there, and known as far."""
    needed = {name: column["known"] for name, column in champion.config.get("exogenous", {}).items()}
    return needed.items() <= {name: column.known for name, column in customer.exogenous.items()}.items()


def pin_of(night: Night) -> pointers.Pin | None:
    """The pin that the night obeys: live ones do, a backfill builds the past as it was."""
    if not night.run.live:
        return None
    with warehouse.acting_for(night.engine, night.run.customer_id) as connection:
        return pointers.pinned(connection, night.run.customer_id, night.run.run_date)


def overtaken(connection: sa.Connection, night: Night, version: str) -> str:
    """What somebody has moved since the night came in, so that ``version``'s set is not to be shown; empty: nothing.

    A backfill follows no pin, but it does not take from readers what a pin has put before them.

    Args:
        connection: Behind ``warehouse.lock_customer``: nobody moves anything now.
        night: The night, about to publish.
        version: Whose set it wants to show.
    """
    run = night.run
    pin = pointers.pinned(connection, run.customer_id, run.run_date)
    newest = warehouse.newest_publication(connection, run.customer_id)
    if pin and (run.live or (newest and newest.run_date == run.run_date)):
        if pin.version == version:
            return ""
        what = f"{pin.who} pinned {pin.version} until {pin.until} ({pin.why}) at {pin.recorded_at:%F %T %Z}"
        return _overtaken(run, what, version)
    now = warehouse.champion_of(connection, run.customer_id, run.run_date, live=run.live)
    if now is None or now.version == run.incoming_champion or now.recorded_at <= run.started_at:
        return ""
    if not run.live and now.crowned_by is not None:  # other days of the past that a backfill builds
        return ""
    what = f"{now.who} crowned {now.version} ({now.reason}) at {now.recorded_at:%F %T %Z}"
    return _overtaken(run, what, version)


def _overtaken(run: warehouse.Run, what: str, version: str) -> str:
    came = f"this run came in with {run.incoming_champion or 'nobody'} and would show {version}"
    then = "clear the night from `pull`" if run.live else f"`forecasting unpin {run.customer_id}` lets it"
    return f"{run.run_id}: {what}; {came}: nothing is published. To compute it again, {then}"


def _pin(night: Night, challenger: str, decision: Decision) -> str:
    pin = pin_of(night)
    return f"{pin.version} is pinned until {pin.until} by {pin.who}" if pin else ""


def _approval(night: Night, challenger: str, decision: Decision) -> str:
    """A person's word is asked for, but never where readers would have to wait for it: the champion must serve."""
    champion = night.incumbent
    serves = champion is not None and champion.serves(night.customer) and champion.readable
    asked = night.customer.promotion.approval == "required" and serves
    return f"{challenger} won and waits for approval" if asked else ""


def _policy(night: Night, challenger: str, decision: Decision) -> str:
    kind, here = str(decision.evidence.get("kind")), night.settings.environment
    if policy_of(night.settings).crowns(kind):
        return ""
    return (
        f"in {here} the gate alone crowns no {kind}; `forecasting rollback {night.run.customer_id} --to {challenger}` "
        "puts it in charge by a person's word"
    )


_WORDS: dict[str, Callable[[Night, str, Decision], str]] = {"pin": _pin, "policy": _policy, "approval": _approval}
"""Who is asked, in order; each says why the challenger is held back, or nothing."""
