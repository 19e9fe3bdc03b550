"""Who is in charge by a person's word: crown, pin, roll back. Each act is one transaction behind the customer's row.

Nothing here computes, asks the registry or touches the source: a rollback works when everything but the warehouse is
down. Whoever comes second finds what the first has done, and is told who moved it meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice
from typing import TYPE_CHECKING

from forecasting.errors import ConfigurationError, LateAttemptError, near_miss
from forecasting.pipeline.night import Deployment, load_customer
from forecasting.store import pointers, warehouse

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["Crowned", "RolledBack", "Shown", "crown", "crown_in", "pin", "rollback", "show", "unpin"]

log = logging.getLogger(__name__)

PIN_DAYS = 7
"""Run dates for which a rollback pins, unless it is told otherwise."""
_DAY = timedelta(days=1)


# --- crown ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crowned:
    """What a crowning by hand did."""

    customer_id: str
    version: str
    before: str | None
    effective_from: date
    """Nights of later run dates come in with the version."""


def crown(
    deployment: Deployment,
    customer_id: str,
    version: str,
    *,
    expected: str | None,
    who: str,
    why: str,
    forced: bool = False,
) -> Crowned:
    """Put ``version`` in charge of the nights to come, if ``expected`` still is: compare and set.

    Args:
        deployment: Its warehouse.
        customer_id: The customer.
        version: One that the warehouse knows.
        expected: Version that the caller has seen in charge; None: nobody.
        who: Who acts.
        why: The reason given.
        forced: Crown it although another version is pinned; the pin stays, and live nights obey it until it ends.

    Raises:
        LateAttemptError: Another version is in charge by now; with who put it there, and when.
        ConfigurationError: The version is unknown, or another one is pinned.
    """
    with warehouse.acting_for(deployment.engine, customer_id) as connection:
        done = crown_in(connection, customer_id, version, expected=expected, who=who, why=why, forced=forced)
    log.info("crown: %s %s takes over from %s by %s", customer_id, version, done.before, who)
    return done


def crown_in(
    connection: sa.Connection,
    customer_id: str,
    version: str,
    *,
    expected: str | None,
    who: str,
    why: str,
    forced: bool = False,
) -> Crowned:
    """As :func:`crown`, in the caller's transaction."""
    warehouse.lock_customer(connection, customer_id)
    known = _version(connection, customer_id, version)
    before = warehouse.champion_of(connection, customer_id)
    _refuse_moved(customer_id, before, expected)
    newest = warehouse.newest_publication(connection, customer_id)
    after = newest.run_date if newest else known.run_date
    pin = pointers.pinned(connection, customer_id, after + _DAY)
    if pin and pin.version != version and not forced:
        raise ConfigurationError(
            f"{customer_id}: {pin.version} is pinned until {pin.until} by {pin.who}: {pin.why}; "
            f"`forecasting unpin {customer_id}` lets others in"
        )
    _draw(connection, customer_id, version, after, who=who, why=f"forced: {why}" if forced else why)
    return Crowned(customer_id, version, before.version if before else None, after)


# --- roll back ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """What readers see of a run date after a person moved its publication."""

    run_date: date
    run_id: str
    version: str
    stale: bool
    """True: the set of an earlier run date."""
    before: str | None
    """Run that they saw before; the same where nothing had to move."""


@dataclass(frozen=True)
class RolledBack:
    """What a rollback did."""

    customer_id: str
    version: str
    before: str | None
    """Version that was in charge."""
    shown: Shown
    until: date
    """Last run date for which the version is pinned."""
    caveat: str
    """What stands in the way of the next night; empty: nothing."""


def rollback(
    deployment: Deployment, customer_id: str, *, to: str | None = None, days: int = PIN_DAYS, who: str, why: str
) -> RolledBack:
    """Put a version back in charge, show readers its set at once, and pin it.

    Readers of the newest published run date see the set that the version has for it, published or kept beside, else its
    newest earlier one, marked stale. Live nights come in with it and keep it until the pin ends.

    Args:
        deployment: Its warehouse; nothing else is asked.
        customer_id: The customer.
        to: The version; None: the one that was in charge before the present one first was.
        days: Run dates after the newest night for which the version is pinned.
        who: Who acts.
        why: The reason given.

    Raises:
        ConfigurationError: There is no such version, or no set of it that could be shown; with what there is.
    """
    with warehouse.acting_for(deployment.engine, customer_id) as connection:
        warehouse.lock_customer(connection, customer_id)
        newest = warehouse.newest_publication(connection, customer_id)
        if newest is None:
            raise ConfigurationError(f"{customer_id} has published nothing: there is nothing to roll back")
        now = warehouse.champion_of(connection, customer_id)
        wanted = _version(connection, customer_id, to or _predecessor(connection, customer_id, now))
        chosen = _set_of(connection, customer_id, wanted.version, newest.run_date)
        if now is None or now.version != wanted.version:
            _draw(connection, customer_id, wanted.version, newest.run_date, who=who, why=f"rollback: {why}")
        pointers.show(connection, chosen, newest.run_date, who=who, why=f"rollback: {why}")
        until = pointers.last_night(connection, customer_id, newest.run_date) + days * _DAY
        pointers.pin(connection, customer_id, wanted.version, until, who=who, why=f"rollback: {why}")
    shown = _shown(newest, chosen)
    log.info("rollback: %s to %s, readers see %s, by %s", customer_id, wanted.version, chosen.run_id, who)
    caveat = _caveat(deployment, customer_id, wanted)
    return RolledBack(customer_id, wanted.version, now.version if now else None, shown, until, caveat)


def show(deployment: Deployment, customer_id: str, run_id: str, *, who: str, why: str) -> Shown:
    """Switch the publication of a run's date back to that run, whole; who is in charge stays, and so does a pin.

    Raises:
        ConfigurationError: There is no such set, or its rows have been trimmed; with the remedy.
    """
    with warehouse.acting_for(deployment.engine, customer_id) as connection:
        warehouse.lock_customer(connection, customer_id)
        known = {one.run.run_id: one for one in pointers.sets(connection, customer_id, date.max)}
        if run_id not in known:
            names = list(known)
            raise ConfigurationError(
                f"{customer_id}: {run_id!r} has published no set and kept none.{near_miss(run_id, names)} "
                f"Newest sets: {_listed(known.values())}"
            )
        if not known[run_id].there:
            raise ConfigurationError(_trimmed(run_id))
        chosen = known[run_id].run
        before = warehouse.standing(connection, customer_id, chosen.run_date)
        pointers.show(connection, chosen, chosen.run_date, who=who, why=f"switch: {why}")
    return _shown(before, chosen)


def _shown(before: warehouse.Publication | None, run: warehouse.Run) -> Shown:
    day = before.run_date if before else run.run_date
    return Shown(day, run.run_id, str(run.version), run.run_date != day, before.run_id if before else None)


def _predecessor(connection: sa.Connection, customer_id: str, now: warehouse.Champion | None) -> str:
    earlier = pointers.predecessor(connection, customer_id)
    if earlier is None:
        known = ", ".join(version.version for version in warehouse.versions_of(connection, customer_id)[-10:])
        raise ConfigurationError(
            f"{customer_id}: no version was in charge before {now.version if now else 'anybody'}; name one with --to. "
            f"Newest versions: {known or 'none'}"
        )
    return earlier


def _set_of(connection: sa.Connection, customer_id: str, version: str, run_date: date) -> warehouse.Run:
    """The version's newest set up to a run date."""
    known = pointers.sets(connection, customer_id, run_date, version)
    there = [one.run for one in known if one.there]
    if there:
        return there[0]
    if known:
        raise ConfigurationError(_trimmed(known[0].run.run_id))
    others = pointers.sets(connection, customer_id, run_date)
    raise ConfigurationError(
        f"{customer_id}: {version} has no set for {run_date} or any date before, so readers would have nothing to see. "
        f"Newest sets: {_listed(others)}"
    )


def _listed(sets: Iterable[pointers.Set]) -> str:
    there = (f"{one.run.run_id} of {one.run.version}" for one in sets if one.there)
    return ", ".join(islice(there, 5)) or "none"


def _trimmed(run_id: str) -> str:
    return (
        f"the rows of {run_id} have been trimmed, only their checksum is left; "
        f"`forecasting reproduce {run_id.partition('/')[0]} {run_id} --restore` brings them back, then repeat this"
    )


def _caveat(deployment: Deployment, customer_id: str, version: warehouse.ModelVersion) -> str:
    """What keeps the version from publishing the next night."""
    try:
        declared = load_customer(deployment.settings, customer_id)
    except ConfigurationError as error:
        return f"the customer's file is broken, so that no night can run: {error}"
    if declared.interface_hash == version.interface_hash:
        return ""
    return (
        f"{customer_id}.yaml now declares another interface (horizon, frequency, keys, levels) than {version.version} "
        "publishes: nights fail until the file is put back, or the version unpinned"
    )


# --- pin ------------------------------------------------------------------------------------------------------------


def pin(deployment: Deployment, customer_id: str, version: str, *, days: int = PIN_DAYS, who: str, why: str) -> date:
    """Hold the version that is in charge, whatever wins.

    Returns:
        The last run date for which it holds.

    Raises:
        ConfigurationError: The version is unknown, or not the one in charge.
    """
    with warehouse.acting_for(deployment.engine, customer_id) as connection:
        warehouse.lock_customer(connection, customer_id)
        known = _version(connection, customer_id, version)
        now = warehouse.champion_of(connection, customer_id)
        if now is None or now.version != version:
            raise ConfigurationError(
                f"{customer_id}: {now.version if now else 'nobody'} is in charge, not {version}; "
                f"`forecasting rollback {customer_id} --to {version}` puts it there and pins it"
            )
        newest = warehouse.newest_publication(connection, customer_id)
        after = newest.run_date if newest else known.run_date
        until = pointers.last_night(connection, customer_id, after) + days * _DAY
        pointers.pin(connection, customer_id, version, until, who=who, why=why)
    return until


def unpin(deployment: Deployment, customer_id: str, *, who: str, why: str) -> str | None:
    """Let nights decide again.

    Returns:
        The version that was pinned; None: none was, and nothing was done.
    """
    with warehouse.acting_for(deployment.engine, customer_id) as connection:
        warehouse.lock_customer(connection, customer_id)
        standing = pointers.pinned(connection, customer_id, date.min)
        if standing is None:
            return None
        pointers.unpin(connection, customer_id, who=who, why=why)
    return standing.version


# --- what the acts share --------------------------------------------------------------------------------------------


def _draw(connection: sa.Connection, customer_id: str, version: str, after: date, *, who: str, why: str) -> None:
    """A champion line that live nights read."""
    warehouse.crown(connection, customer_id, version, effective_from=after, live=True, run_id=None, who=who, reason=why)


def _refuse_moved(customer_id: str, now: warehouse.Champion | None, expected: str | None) -> None:
    """Nothing is moved by one who has not seen what stands."""
    found = now.version if now else None
    if found == expected:
        return
    told = f"{customer_id}: the champion is {found or 'nobody'}, no longer {expected or 'nobody'}"
    if now is not None:
        told += f": {now.who} crowned {now.version} at {now.recorded_at:%Y-%m-%d %H:%M:%S %Z} ({now.reason})"
    raise LateAttemptError(f"{told}; nothing was changed. Look again, and repeat it if it is still wanted")


def _version(connection: sa.Connection, customer_id: str, name: str) -> warehouse.ModelVersion:
    known = {version.version: version for version in warehouse.versions_of(connection, customer_id)}
    if name not in known:
        newest = ", ".join(list(known)[-10:]) or "none"
        raise ConfigurationError(
            f"{customer_id} has no version {name!r}.{near_miss(name, list(known))} Newest versions: {newest}"
        )
    return known[name]
