"""What a person says over who is in charge, and what came of it, in sentences."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table

from forecasting.pipeline import charge

if TYPE_CHECKING:
    from datetime import date

    import pandas as pd

    from forecasting.pipeline import Deployment

__all__ = ["me", "pin", "rollback", "switch", "trail", "unpin"]


def me() -> str:
    """The user of the operating system who gave the command; one without a name by number."""
    try:
        return f"user {pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"uid {os.getuid()}"


def rollback(deployment: Deployment, customer_id: str, *, to: str | None, days: int, why: str) -> Iterator[str]:
    """Roll back, and say what was done and what follows."""
    done = charge.rollback(deployment, customer_id, to=to, days=days, who=me(), why=why)
    took_over = f" in place of {done.before}" if done.before not in (None, done.version) else ", as before"
    told = [
        f"in charge: {done.version}{took_over}",
        f"readers see: {_seen(done.shown)}",
        f"pinned until: {done.until}, `forecasting unpin {customer_id}` ends it",
        f"next night: {_next(done.version, done.until)}",
    ]
    return iter([*told, f"but: {done.caveat}"] if done.caveat else told)


def switch(deployment: Deployment, customer_id: str, run_id: str, *, why: str) -> Iterator[str]:
    """Switch one publication back, and say what readers see of its date."""
    shown = charge.show(deployment, customer_id, run_id, who=me(), why=why)
    return iter([f"readers of {shown.run_date} see: {_seen(shown)}", "who is in charge is not touched, nor is a pin"])


def pin(deployment: Deployment, customer_id: str, version: str, *, days: int, why: str) -> str:
    """Pin, and say until when."""
    until = charge.pin(deployment, customer_id, version, days=days, who=me(), why=why)
    return f"{customer_id}: {version} is pinned until {until}; {_next(version, until)}"


def unpin(deployment: Deployment, customer_id: str, *, why: str) -> str:
    """Unpin, and say who was pinned."""
    version = charge.unpin(deployment, customer_id, who=me(), why=why)
    if version is None:
        return f"{customer_id}: nothing is pinned"
    return f"{customer_id}: {version} is pinned no more; from the next night on the usual rules decide"


def _seen(shown: charge.Shown) -> str:
    state = f", stale: made for {shown.run_id.split('/')[1]}" if shown.stale else ""
    moved = f" in place of {shown.before}" if shown.before not in (None, shown.run_id) else ", as before"
    return f"{shown.run_id}, the set of {shown.version}{state}{moved}"


def _next(version: str, until: date) -> str:
    return f"live nights up to {until} come in with {version} and keep it, whatever wins"


def trail(rows: pd.DataFrame) -> Table:
    """The audit as a terminal table: what changed stands as before → after, without what stayed."""
    made = Table("when (UTC)", "who", "what", "why", "change")
    for row in rows.to_dict("records"):
        said = (row["who"], row["what"], row["why"], _change(row["before"], row["after"]))
        made.add_row(f"{row['at']:%Y-%m-%d %H:%M:%S}", *said)
    return made


def _change(before: object, after: object) -> str:
    then, now = (value if isinstance(value, dict) else {} for value in (before, after))
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return "\n".join(f"{name}: {_said(then.get(name))} → {_said(now.get(name))}" for name in names)


def _said(value: object) -> str:
    return "none" if value is None else str(value)
