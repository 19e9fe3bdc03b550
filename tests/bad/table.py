"""``python -m tests.bad.table``: try every kind of bad input, print the table, and write it into docs/bad_input.md.

Apart from ``tests.docs.generated``, because trying them all takes a minute; tests/bad/test_kinds.py fails when the
document is out of date.
"""

from __future__ import annotations

import re
import secrets
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from .bench import FAMILIES, Result, tried
from .kinds import KINDS

__all__ = ["document", "render"]

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/bad_input.md"
BLOCK = re.compile(r"(<!-- bad input: ([a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)
ENDS = ("refused", "quarantined", "rung", "used and said", "read as it is")


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(head), ["---"] * len(head), *cells]) + "\n"


def summary(results: Sequence[Result]) -> str:
    """How many of each family ended how."""
    rows: list[list[object]] = []
    for family in FAMILIES:
        rows.append([family, *_counts([result for result in results if result.kind.family == family])])
    rows.append(["**all**", *_counts(results)])
    return _table(("family", "tried", *ENDS, "wrongly accepted", "tracebacks"), rows)


def _counts(results: Sequence[Result]) -> list[int]:
    ended = Counter(result.ended for result in results)
    return [len(results), *(ended[end] for end in ENDS), ended["accepted"], ended["traceback"]]


def kinds(results: Sequence[Result]) -> str:
    """Every kind: how it ends, where, and how the message begins."""
    rows = [(r.kind.family, r.kind.name, r.ended, r.stage, _short(r)) for r in results]
    return _table(("family", "kind", "ends", "at", "by"), rows)


def _short(result: Result) -> str:
    """What decided it: the error's class, the rule, the rungs; no values, which depend on the machine."""
    end = result.kind.end
    if result.ended == "refused":
        return f"`{end.error.__name__}`" if hasattr(end, "error") else ""
    if result.ended == "quarantined":
        return f"`{getattr(end, 'rule', '')}`"
    if result.ended == "rung":
        return ", ".join(sorted(set(getattr(end, "series", {}).values())))
    return ""


def render(text: str, results: Sequence[Result]) -> str:
    """``text`` with its generated parts as ``results`` say."""
    parts: dict[str, Callable[[Sequence[Result]], str]] = {"summary": summary, "kinds": kinds}
    return BLOCK.sub(lambda match: match[1] + parts[match[2]](results) + match[3], text)


def document(results: Sequence[Result]) -> str:
    """docs/bad_input.md as it should stand."""
    return render(DOCUMENT.read_text(encoding="utf-8"), results)


def try_all() -> list[Result]:
    """Every kind, on an embedded PostgreSQL of its own."""
    import psycopg

    from forecasting.store import embedded

    with tempfile.TemporaryDirectory() as home, embedded.server(Path(home)) as server:

        def fresh() -> str:
            name = f"w{secrets.token_hex(6)}"
            host = server.url("warehouse").rpartition("@")[2]
            superuser = f"postgresql://postgres:{server.passwords['postgres']}@{host}"
            with psycopg.connect(superuser, autocommit=True) as connection:
                connection.execute(f"create database {name} owner forecasting")  # type: ignore[arg-type]
            return server.url("warehouse").rsplit("/", 1)[0] + f"/{name}"

        return [tried(kind, fresh) for kind in KINDS]


def main() -> int:
    results = try_all()
    DOCUMENT.write_text(document(results), encoding="utf-8")
    faults = [result for result in results if result.fault]
    sys.stdout.write(kinds(results) + "\n" + summary(results))
    for result in faults:
        sys.stdout.write(f"NOT AS DESIGNED: {result.kind.id}: {result.fault}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
