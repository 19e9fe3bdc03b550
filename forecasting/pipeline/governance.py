"""What has its word after the gate: a pin, the deployment's policy, a person. It never turns a refusal into a crown."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from forecasting.pipeline.night import Night
from forecasting.store import pointers, warehouse

if TYPE_CHECKING:
    from forecasting.learn.promotion import Decision

__all__ = ["ruled"]

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


def _pin(night: Night, challenger: str, decision: Decision) -> str:
    with warehouse.acting_for(night.engine, night.customer.id) as connection:
        pin = pointers.pinned(connection, night.customer.id, night.run.run_date)
    return f"{pin.version} is pinned until {pin.until} by {pin.who}" if pin else ""


_WORDS: dict[str, Callable[[Night, str, Decision], str]] = {"pin": _pin}
"""Who is asked, in order; each says why the challenger is held back, or nothing."""
