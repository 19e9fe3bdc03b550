"""What a change since a revision touches: which customers must be trained again, and why. It reads git and files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from forecasting.config import BrokenCustomer, Customer
from forecasting.errors import ConfigurationError

__all__ = ["OUTGOING", "Change", "changed_paths", "is_code", "resolve", "touched", "worktree"]

OUTGOING = "forecasts.odcs.yaml"
"""The contract on what we publish: every customer's."""
LOCK = "requirements.lock"
GIT_TIMEOUT = 300
"""Seconds that one call of git may take."""

Found = Customer | BrokenCustomer


@dataclass(frozen=True)
class Change:
    """What a change means for one customer."""

    customer: str
    fate: Literal["retrain", "new", "gone", "broken"]
    why: str


# --- which customers ------------------------------------------------------------------------------------------------


def is_code(path: str) -> bool:
    """Whether what stands at ``path``, relative to the checkout, makes the numbers of every customer.

    Bytecode is not: Python writes it where a checkout ignores nothing, beside sources that did not change.

    >>> is_code("forecasting/learn/selection.py"), is_code("requirements.lock"), is_code("tests/small.py")
    (True, True, False)
    >>> is_code("forecasting/learn/__pycache__/selection.cpython-311.pyc")
    False
    """
    return path == LOCK or (path.startswith("forecasting/") and not path.endswith((".md", ".pyc")))


def touched(
    before: Sequence[Found], after: Sequence[Found], paths: Collection[str], contracts: str = "data_contracts"
) -> list[Change]:
    """Which customers a change touches, by id. A file that means the same, as after a new comment, is no change.

    Args:
        before: The customers as they were, read by the code of today.
        after: The customers of the working tree.
        paths: What differs, relative to the checkout, files that are gone or untracked included.
        contracts: Folder of the contracts, relative to the checkout. Their bytes count: a version names them.
    """
    was, now = {one.id: one for one in before}, {one.id: one for one in after}
    shared = _shared(paths, contracts)
    found = [_change(name, was, now, shared, paths, contracts) for name in sorted({*was, *now})]
    return [change for change in found if change is not None]


def _shared(paths: Collection[str], contracts: str) -> list[str]:
    """Reasons that hold for every customer."""
    code = sorted(path for path in paths if is_code(path))
    more = f" and {len(code) - 1} more" if len(code) > 1 else ""
    reasons = [f"code: {code[0]}{more}"] if code else []
    return [*reasons, "the outgoing contract"] if f"{contracts}/{OUTGOING}" in paths else reasons


def _change(
    name: str,
    was: Mapping[str, Found],
    now: Mapping[str, Found],
    shared: list[str],
    paths: Collection[str],
    contracts: str,
) -> Change | None:
    one, other = was.get(name), now.get(name)
    if isinstance(other, BrokenCustomer):
        return Change(name, "broken", other.message)
    if other is None:
        twin = _twin(one, now, was)
        return Change(name, "gone", f"its file is gone{f', {twin} has its declaration' if twin else ''}")
    if one is None:
        twin = _twin(other, was, now)
        return Change(name, "new", f"renamed from {twin}" if twin else "its file is new")
    if isinstance(one, BrokenCustomer) and not shared:
        return Change(name, "new", "its file was broken")
    own = _own(one, other) if isinstance(one, Customer) else ["its file was broken"]
    contract = f"{contracts}/{other.contract}.odcs.yaml"
    reasons = [*own, *([f"its contract {other.contract}"] if contract in paths else []), *shared]
    return Change(name, "retrain", "; ".join(reasons)) if reasons else None


def _own(one: Customer, other: Customer) -> list[str]:
    """The keys of a customer's file that mean something else now, as a reason; none if there is none."""
    then, today = one.model_dump(mode="json"), other.model_dump(mode="json")
    keys = [key for key in today if today[key] != then[key]]
    return [f"its file: {', '.join(keys)}"] if keys else []


def _twin(one: Found | None, there: Mapping[str, Found], here: Mapping[str, Found]) -> str | None:
    """Who declares the same under another id, and only on that side: the other half of a renaming."""
    if not isinstance(one, Customer):
        return None
    same = [
        name
        for name, other in there.items()
        if name not in here and isinstance(other, Customer) and other.model_copy(update={"id": one.id}) == one
    ]
    return same[0] if len(same) == 1 else None


# --- git ------------------------------------------------------------------------------------------------------------


def resolve(root: Path, base: str) -> str:
    """The commit that ``base`` names in the repository of ``root``.

    Raises:
        ConfigurationError: There is no repository, or no such revision in it.
    """
    if _git(root, "rev-parse", "--show-toplevel", ok=(0, 128)) == "":
        raise ConfigurationError(f"{root} is no git checkout, so there is nothing to compare it with")
    commit = _git(
        root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{base}^{{commit}}", ok=(0, 1, 128)
    ).strip()
    if not commit:
        raise ConfigurationError(
            f"BASE {base!r} is no revision of {root}; expected a commit, branch or tag that is there, such as main or "
            "HEAD~1 (a shallow clone holds one commit: `git fetch --unshallow`)"
        )
    return commit


def changed_paths(root: Path, commit: str) -> frozenset[str]:
    """What differs between ``commit`` and the working tree of ``root``, relative to it; untracked files included."""
    differing = _git(root, "diff", "--name-only", "-z", "--no-renames", "--relative", commit, "--")
    untracked = _git(root, "ls-files", "-z", "--others", "--exclude-standard")
    return frozenset(filter(None, (differing + untracked).split("\0")))


@contextmanager
def worktree(root: Path, commit: str, place: Path) -> Iterator[Path]:
    """What ``root`` held at ``commit``, checked out at ``place`` for the length of the block."""
    prefix = _git(root, "rev-parse", "--show-prefix").strip()
    _remove(root, place)
    quietly = ("-c", "core.hooksPath=/dev/null", "worktree", "add", "--quiet", "--force", "--detach")
    _git(root, *quietly, str(place), commit)
    try:
        yield place / prefix
    finally:
        _remove(root, place)


def _remove(root: Path, place: Path) -> None:
    if place.exists():
        shutil.rmtree(place)
    _git(root, "worktree", "prune")


def _git(root: Path, *command: str, ok: tuple[int, ...] = (0,)) -> str:
    """What git printed; not what its environment or a hook's would have it do elsewhere."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *command], cwd=root, env={**environ, "LC_ALL": "C"}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=GIT_TIMEOUT,
        )  # fmt: skip
    except FileNotFoundError:
        raise ConfigurationError("git is not installed, or this folder is gone") from None
    except subprocess.TimeoutExpired:
        raise ConfigurationError(f"`git {command[0]}` in {root} took longer than {GIT_TIMEOUT} s") from None
    if done.returncode not in ok:
        raise ConfigurationError(f"`git {' '.join(command[:3])}` failed in {root}: {done.stderr.strip()}")
    return done.stdout if done.returncode == 0 else ""
