"""The code that computes, as a run records it: a hash of the package, the lock, the commit. It runs no command.

The hash proves what ran; the commit says where to find it again. A commit beside which the files were edited is told
apart by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from forecasting.errors import ConfigurationError

__all__ = ["COMPUTES", "PACKAGE", "altered", "commit", "installed", "lock_hash", "package_hash", "pins"]

PACKAGE = Path(__file__).resolve().parents[1]
"""The package's folder."""
COMPUTES = (
    "coreforecast", "lightgbm", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy", "statsforecast", "utilsforecast",
)  # fmt: skip
"""The libraries that a forecast's values come from."""
_IMPORTED_AS = {"scikit-learn": "sklearn"}
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def package_hash(package: Path = PACKAGE) -> str:
    """SHA-256 over the package's source files: names and contents, in order of names."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def lock_hash(root: Path = PACKAGE.parent) -> str:
    """SHA-256 of the lock file of the checkout at ``root``; ``none`` where there is none."""
    lock = root / "requirements.lock"
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else "none"


def pins(lock: str) -> dict[str, str]:
    """Package → version, as a lock file's text names them.

    >>> pins("numpy==2.4.6 ; python_version > '3'")
    {'numpy': '2.4.6'}
    """
    return dict(re.findall(r"^([a-z0-9._-]+)==([^\s;\\]+)", lock, re.MULTILINE))


def installed(names: tuple[str, ...] = COMPUTES) -> dict[str, str]:
    """Package → version that Python finds here; ``none`` where it finds none."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


# --- the commit -----------------------------------------------------------------------------------------------------


def commit(given: str | None = None, root: Path = PACKAGE.parent) -> str | None:
    """The git commit that is checked out at ``root``, read from its files; None where that cannot be told.

    Args:
        given: FORECASTING_COMMIT: of an image that was built without its repository.
        root: Of the checkout.

    Raises:
        ConfigurationError: ``given`` is no commit.
    """
    if given is not None:
        if not _COMMIT.fullmatch(given):
            raise ConfigurationError(f"FORECASTING_COMMIT={given!r}: expected a whole commit, 40 or 64 hex digits")
        return given
    try:
        return _head(root / ".git")
    except (OSError, UnicodeDecodeError):
        return None


def _head(git: Path) -> str | None:
    if git.is_file():  # of a worktree or a submodule
        git = git.parent / _line(git).removeprefix("gitdir: ")
    shared = git / "commondir"
    homes = [git, git / _line(shared)] if shared.exists() else [git]
    said = _line(git / "HEAD")
    for _ in range(5):  # a branch may be another name of a branch
        if not said.startswith("ref: "):
            return said if _COMMIT.fullmatch(said) else None
        found = next(_named(homes, said.removeprefix("ref: ")), None)
        if found is None:
            return None
        said = found
    return None


def _named(homes: list[Path], ref: str) -> Iterator[str]:
    """What a reference holds: its own file, else its line among the packed ones."""
    for home in homes:
        if (home / ref).is_file():
            yield _line(home / ref)
    for home in homes:
        packed = home / "packed-refs"
        lines = packed.read_text(encoding="utf-8").splitlines() if packed.exists() else []
        yield from (line.partition(" ")[0] for line in lines if line.partition(" ")[2] == ref)


def _line(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


# --- the libraries' files -------------------------------------------------------------------------------------------


def altered(names: tuple[str, ...] = COMPUTES) -> Iterator[str]:
    """Of each library, what is not as it was installed: where Python would take it from, and the first changed file."""
    for name in names:
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        yield from _elsewhere(name, found)
        yield from _edited(name, found)


def _elsewhere(name: str, found: metadata.Distribution) -> Iterator[str]:
    """Imported from another place than the one whose version counts."""
    from importlib.util import find_spec

    package = _IMPORTED_AS.get(name, name)
    wanted, spec = Path(str(found.locate_file(f"{package}/__init__.py"))), find_spec(package)
    if wanted.exists() and spec and spec.origin and Path(spec.origin).resolve() != wanted.resolve():
        yield f"{name} is imported from {Path(spec.origin).parent}, not as installed"


def _edited(name: str, found: metadata.Distribution) -> Iterator[str]:
    for file in found.files or ():
        if file.hash is None or file.hash.mode != "sha256" or file.suffix not in (".py", ".so"):
            continue
        path = Path(str(found.locate_file(file)))
        digest = hashlib.sha256(path.read_bytes()).digest() if path.exists() else b""
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != file.hash.value:
            yield f"{name}: {file} is not the file that was installed"
            return
