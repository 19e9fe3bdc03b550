"""A version in shadow: on a live refresh night its set is computed as if it were in charge, kept, scored, never shown.

Whatever goes wrong with it is logged and said in the run's row; the night goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from forecasting.errors import ConfigurationError
from forecasting.pipeline.night import Deployment, Night, Reference
from forecasting.store import origins, pointers, warehouse

__all__ = ["beside", "end", "fitted", "nights", "tell"]

log = logging.getLogger(__name__)

_FOREVER = date.max


def beside(
    night: Night, frozen: Mapping[str, Any], fit: Callable[[Night, Mapping[str, Any]], Reference]
) -> dict[str, Reference]:
    """What ``fit`` makes of the night with the version in shadow in charge, under ``shadow``; nothing without one."""
    if frozen["plan"] != "refresh":
        return {}
    version = None
    try:
        if (other := _other(night)) is None:
            return {}
        version = other.run.incoming_champion
        return {"shadow": {"version": version, "fits": fit(other, frozen)}}
    except Exception as error:  # a competitor must not cost the night
        log.warning("fit: %s shadow %s: %s", night.run.run_id, version, error)
        return {"shadow": {"version": version, "lost": f"{type(error).__name__}: {error}"}}


def fitted(
    night: Night, statistical: Sequence[Mapping[str, Any]], ml: Mapping[str, Any] | None
) -> tuple[Night, list[Reference], Reference]:
    """The night as the version in shadow has it, and what the fits left behind for that.

    Raises:
        ConfigurationError: A fit was lost, or another version is in shadow by now.
    """
    fits = [fit.get("shadow", {"lost": "its fit was lost"}) for fit in (*statistical, ml or {})]
    for lost in (fit["lost"] for fit in fits if "lost" in fit):
        raise ConfigurationError(str(lost))
    other = _other(night)
    if other is None or any(fit["version"] != other.run.incoming_champion for fit in fits):
        raise ConfigurationError("another version is in shadow by now")
    *shards, mine = (fit["fits"] for fit in fits)
    return other, shards, mine


def tell(night: Night, error: Exception) -> None:
    """Say in the run's row and the log that the version in shadow has no set tonight."""
    told = f"the version in shadow has no set tonight: {error}"
    log.warning("publish: %s %s", night.run.run_id, told, exc_info=not isinstance(error, ConfigurationError))
    night.note(message=told)


def _other(night: Night) -> Night | None:
    """The same night with the version in shadow in charge; None: nobody is, or the champion is, or it is no live night.

    Its frames are kept apart from the night's own.
    """
    run = night.run
    if not run.live:
        return None
    with warehouse.acting_for(night.engine, run.customer_id) as connection:
        line = pointers.shadowed(connection, run.customer_id, run.run_date)
    if line is None or line.version == run.incoming_champion:
        return None
    return Night(night.deployment, replace(run, incoming_champion=line.version), aside="shadow-")


# --- for people -----------------------------------------------------------------------------------------------------


def nights(deployment: Deployment, customer_id: str) -> tuple[str | None, list[origins.Compared]]:
    """The version in shadow, and its kept sets beside what was published, newest first."""
    with warehouse.acting_for(deployment.engine, customer_id) as connection:
        line = pointers.shadowed(connection, customer_id, _FOREVER)
    return (line.version, origins.compared(deployment.engine, customer_id, line.version)) if line else (None, [])


def end(deployment: Deployment, customer_id: str, *, who: str, why: str) -> str | None:
    """Let nobody compete in shadow any more; returns who did."""
    with warehouse.acting_for(deployment.engine, customer_id) as connection:
        warehouse.lock_customer(connection, customer_id)
        line = pointers.shadowed(connection, customer_id, _FOREVER)
        if line is None:
            return None
        newest = warehouse.newest_publication(connection, customer_id)
        since = newest.run_date if newest else line.effective_from
        pointers.put_in_shadow(connection, customer_id, None, effective_from=since, who=who, why=why)
    return line.version
