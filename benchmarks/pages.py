"""Tables of a page that a command writes anew: each stands between two lines that name it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["expect", "fill", "markdown"]


def expect(page: Path | None, *marks: str) -> None:
    """Ask before a long run whether a page, if one is given, holds the marks that are filled after it.

    Raises:
        SystemExit: The page is not there, or lacks the lines of a mark.
    """
    try:
        text = page.read_text(encoding="utf-8") if page else ""
    except OSError as error:
        raise SystemExit(f"{page}: {error.strerror}; name a page that is there") from None
    for mark in marks if page else ():
        if not _between(mark).search(text):
            told = f"holds no lines '<!-- {mark} -->' and '<!-- /{mark} -->'; add them where it belongs"
            raise SystemExit(f"{page}: {told}")


def _between(mark: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {re.escape(mark)} -->\n).*?(<!-- /{re.escape(mark)} -->)", re.DOTALL)


def fill(page: Path, mark: str, made: str) -> None:
    """Put a text between ``<!-- mark -->`` and ``<!-- /mark -->``.

    Raises:
        SystemExit: The page has no such lines.
    """
    expect(page, mark)
    text = page.read_text(encoding="utf-8")
    page.write_text(_between(mark).sub(lambda match: f"{match[1]}{made}\n{match[2]}", text), encoding="utf-8")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table.

    >>> print(markdown(["what", "is"], [["naive", "1.0"]]))
    | what | is |
    |---|---|
    | naive | 1.0 |
    """
    return "\n".join("| " + " | ".join(row) + " |" if row else "|---" * len(head) + "|" for row in [head, [], *rows])
