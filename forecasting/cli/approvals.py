"""``approvals`` and ``approve``: a person's word on a challenger that won, from a shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forecasting.cli.charge import me
from forecasting.errors import ConfigurationError
from forecasting.pipeline import approval
from forecasting.store import reports

if TYPE_CHECKING:
    import pandas as pd

    from forecasting.pipeline import Deployment

__all__ = ["answer", "listing", "question"]


def listing(deployment: Deployment, customer_id: str | None) -> pd.DataFrame:
    """The questions, those that wait first, then the newest."""
    return reports.approvals(deployment.engine, customer_id)


def question(deployment: Deployment, customer_id: str) -> str | None:
    """The question that waits, in Markdown; None: none does."""
    shown = approval.show(deployment, customer_id)
    return f"# {shown['subject']}\n\n{shown['body']}" if shown else None


def answer(deployment: Deployment, customer_id: str, *, approved: bool, reason: str) -> str:
    """Answer the question that waits, as this machine's user; returns what follows from it.

    Raises:
        ConfigurationError: None waits, it lost its point, or the reason is empty.
    """
    if not reason.strip():
        raise ConfigurationError("--reason '': the audit asks why; give a reason in a few words")
    waits = approval.show(deployment, customer_id)
    if waits is None:
        raise ConfigurationError(
            f"no challenger of {customer_id} waits for approval; `forecasting approvals {customer_id}` lists what did"
        )
    done = approval.answer(
        deployment, customer_id, waits["approval_id"], approved=approved, who=me(), why=reason.strip()
    )
    if approved:
        return f"{customer_id}: {done.version} is in charge from the next night on, in place of {done.champion}"
    return f"{customer_id}: {done.champion} stays in charge; {done.version} was turned down"
