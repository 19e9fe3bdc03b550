"""Tables of a page that a command writes anew: each stands between two lines that name it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["fill", "markdown"]


def fill(page: Path, mark: str, made: str) -> None:
    """Put a text between ``<!-- mark -->`` and ``<!-- /mark -->``.

    Raises:
        SystemExit: The page has no such lines.
    """
    text = page.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {re.escape(mark)} -->\n).*?(<!-- /{re.escape(mark)} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{page}: holds no lines '<!-- {mark} -->' and '<!-- /{mark} -->'; add them where it belongs")
    page.write_text(pattern.sub(lambda match: f"{match[1]}{made}\n{match[2]}", text), encoding="utf-8")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table.

    >>> print(markdown(["what", "is"], [["naive", "1.0"]]))
    | what | is |
    |---|---|
    | naive | 1.0 |
    """
    return "\n".join("| " + " | ".join(row) + " |" if row else "|---" * len(head) + "|" for row in [head, [], *rows])
