"""Who is in charge by a person's word: crown, pin, roll back. Each act is one transaction behind the customer's row.

Nothing here computes, asks the registry or touches the source: a rollback works when everything but the warehouse is
down. Whoever comes second finds what the first has done, and is told who moved it meanwhile.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from forecasting.errors import ConfigurationError, LateAttemptError, near_miss
from forecasting.store import pointers, warehouse

if TYPE_CHECKING:
    import sqlalchemy as sa

    from forecasting.pipeline.night import Deployment

__all__ = ["Crowned", "crown"]

log = logging.getLogger(__name__)

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
    log.info("crown: %s %s takes over from %s by %s", customer_id, version, before and before.version, who)
    return Crowned(customer_id, version, before.version if before else None, after)


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
