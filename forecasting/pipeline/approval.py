"""A challenger that won waits for a person's word, while the night it won has long been published.

The night asks, in the transaction that publishes; Airflow and the command line show the question and bring the answer.
An answer that comes too late, or to a question that has lost its point, changes nothing and says why.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from forecasting.config import BOTTOM
from forecasting.frames import BACKTEST
from forecasting.pipeline import charge
from forecasting.pipeline.night import Deployment, Night, Reference
from forecasting.store import pointers, warehouse

if TYPE_CHECKING:
    import pandas as pd
    import sqlalchemy as sa

    from forecasting.learn.promotion import Decision
    from forecasting.pipeline.publication import Candidate

__all__ = ["answer", "ask", "number", "show", "standing"]

log = logging.getLogger(__name__)

WORST = 8
"""How many of the series that the challenger forecasts worse than the champion are shown."""
NOBODY = "pipeline"
"""Who closes a question that nobody answered."""


# --- the night asks -------------------------------------------------------------------------------------------------


def ask(
    connection: sa.Connection, night: Night, challenger: Candidate, champion: Candidate, decision: Decision
) -> int | None:
    """Ask for a person's word on the challenger, if it is for that that it was held back.

    Args:
        connection: The transaction that publishes the night.
        night: The night.
        challenger: The version that won, and its set.
        champion: The version that stays, and the set that is published.
        decision: After everybody had their word.

    Returns:
        The number of the question.
    """
    if decision.evidence.get("held_by") != "approval":
        return None
    return pointers.ask(
        connection,
        night.run,
        version=challenger.version,
        champion=champion.version,
        evidence={**decision.evidence, **_beside(challenger, champion)},
        expires_at=datetime.now(UTC) + timedelta(hours=night.customer.promotion.approval_hours),
        who=night.run.asked_by or NOBODY,
    )


def number(night: Night, challenger: str, decision: Decision) -> dict[str, int]:
    """``approval``: what the night asked, also when this attempt of it found it asked; nothing where it did not."""
    if decision.evidence.get("held_by") != "approval":
        return {}
    with warehouse.acting_for(night.engine, night.customer.id) as connection:
        asked = pointers.asked_by(connection, night.run, challenger)
    return {} if asked is None else {"approval": asked}


def _beside(challenger: Candidate, champion: Candidate) -> dict[str, Any]:
    """What a person asks beyond the gate: tonight's totals, and who would get a worse forecast."""
    totals = {"challenger": _total(challenger.rows), "champion": _total(champion.rows)}
    return {"totals": totals, "worst_series": _worst(challenger.judged, champion.judged)}


def _total(rows: pd.DataFrame) -> float:
    return float(rows.loc[rows["node"] == BOTTOM, "y_hat"].sum())


def _worst(challenger: pd.DataFrame, champion: pd.DataFrame) -> list[dict[str, Any]]:
    """Series by how much their mean RMSSE would rise, over the rows that both forecast."""
    from forecasting.learn.selection import rmsse_by_series

    if not len(challenger) or not len(champion):
        return []
    both = challenger.merge(champion[[*BACKTEST.key, "y_hat"]], on=list(BACKTEST.key), suffixes=("", "_champion"))
    names = ["y_hat", "y_hat_champion"]
    scores = rmsse_by_series(both, names).dropna().groupby("unique_id").mean()
    rise = (scores["y_hat"] - scores["y_hat_champion"]).sort_values(ascending=False, kind="stable")
    worse = scores.loc[rise[rise > 0].index[:WORST]]
    return [
        {"unique_id": str(name), "challenger": round(mine, 4), "champion": round(theirs, 4)}
        for name, mine, theirs in worse[names].itertuples()
    ]


# --- a person answers -----------------------------------------------------------------------------------------------


def show(deployment: Deployment, customer_id: str, approval_id: int | None = None) -> Reference | None:
    """A question as a person is to see it: customer_id, approval_id, subject, body (Markdown), expires_at.

    Args:
        deployment: Where it stands.
        customer_id: Whose.
        approval_id: Its number; None: the one that waits.

    Returns:
        None when it does not wait (any more).
    """
    from forecasting.pipeline import approval_text

    with warehouse.acting_for(deployment.engine, customer_id) as connection:
        waits = pointers.waiting(connection, customer_id)
    if waits is None or (approval_id is not None and waits.approval_id != approval_id):
        return None
    asked = standing(deployment, customer_id, waits.approval_id)
    if asked.state != "waiting":
        return None
    return {
        "customer_id": customer_id,
        "approval_id": asked.approval_id,
        "subject": approval_text.subject(asked),
        "body": approval_text.body(asked),
        "expires_at": asked.expires_at.isoformat(),
    }


def standing(deployment: Deployment, customer_id: str, approval_id: int) -> pointers.Approval:
    """The question as it stands; one whose time is over, or whose champion is not in charge any more, is closed."""
    with warehouse.acting_for(deployment.engine, customer_id) as connection:
        asked = pointers.approval(connection, customer_id, approval_id)
        if asked.state != "waiting" or not _moot(connection, asked)[0]:
            return asked
    with warehouse.acting_for(deployment.engine, customer_id) as connection:
        warehouse.lock_customer(connection, customer_id)
        asked = pointers.approval(connection, customer_id, approval_id)
        state, why = _moot(connection, asked) if asked.state == "waiting" else ("", "")
        if state:
            pointers.answer(connection, asked, state, who=NOBODY, why=why)
            log.info("approval: %s %s of %s is %s: %s", customer_id, approval_id, asked.version, state, why)
        return pointers.approval(connection, customer_id, approval_id)


def _moot(connection: sa.Connection, asked: pointers.Approval) -> tuple[str, str]:
    """State and reason by which a question closes itself; empty while it has its point."""
    if datetime.now(UTC) >= asked.expires_at:
        return "expired", f"nobody answered by {asked.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    now = warehouse.champion_of(connection, asked.customer_id)
    if now is not None and now.version != asked.champion:
        return "superseded", f"{now.version} is in charge now, by {now.who}; it was compared with {asked.champion}"
    return "", ""


def answer(
    deployment: Deployment, customer_id: str, approval_id: int, *, approved: bool, who: str, why: str
) -> pointers.Approval:
    """Answer the question; yes crowns the challenger, for the night after the newest published one.

    Question and champion are closed in one transaction, behind the customer's row: of two answers one counts.

    Args:
        deployment: Where it stands.
        customer_id: Whose.
        approval_id: Its number.
        approved: Yes or no.
        who: Airflow user or OS user.
        why: The reason given.

    Raises:
        ConfigurationError: It was answered before, its time is over, a newer challenger took its place, another
            version is in charge by now, or the one in charge is pinned.
        LateAttemptError: Another version was crowned in this very moment.
    """
    asked = standing(deployment, customer_id, approval_id)
    with warehouse.acting_for(deployment.engine, customer_id) as connection:
        warehouse.lock_customer(connection, customer_id)
        pointers.answer(connection, asked, "approved" if approved else "rejected", who=who, why=why)
        if approved:
            reason = f"approval {approval_id}: {why}"
            charge.crown_in(connection, customer_id, asked.version, expected=asked.champion, who=who, why=reason)
        asked = pointers.approval(connection, customer_id, approval_id)
    log.info("approval: %s %s is %s by %s: %s", customer_id, asked.version, asked.state, who, why)
    return asked
