"""The recorded commit in an environment of its own, to compute a run with the code and libraries that made it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from forecasting.errors import ConfigurationError, ServerError
from forecasting.pipeline import checkout, reproduction
from forecasting.store import warehouse

if TYPE_CHECKING:
    from forecasting.pipeline import Deployment

__all__ = ["commands", "needed", "run"]

GIT_TIMEOUT = 300
INSTALL_TIMEOUT = 3600
RUN_TIMEOUT = 6 * 3600
_COMMAND = "forecasting/cli/reproductions.py"
"""The file without which a commit cannot reproduce."""


def needed(deployment: Deployment, run_id: str) -> bool:
    """True where code, lock or installed libraries are not the recorded ones."""
    run = warehouse.read_run(deployment.engine, run_id.partition("/")[0], run_id)
    return any(one.what != "processor" and not one.same for one in reproduction.surroundings(run))


def commands(deployment: Deployment, run_id: str) -> list[str]:
    """What to type to have the recorded commit compute the run."""
    run = warehouse.read_run(deployment.engine, run_id.partition("/")[0], run_id)
    if run.code_commit is None:
        return [f"# the run recorded no commit; check out code whose package has the hash {run.code_version}, then:",
                f"forecasting reproduce {run.customer_id} {run_id}"]  # fmt: skip
    root, settings = shlex.quote(str(checkout.PACKAGE.parent)), deployment.settings
    return [
        f"git clone --no-checkout --shared {root} recorded && git -C recorded checkout --detach {run.code_commit}",
        "recorded/tools/install requirements.lock",
        f"FORECASTING_HOME={shlex.quote(str(settings.home))} FORECASTING_ROOT={shlex.quote(str(settings.root))} "
        f"recorded/.venv/bin/forecasting reproduce {run.customer_id} {run_id}",
        f"# or all of it: forecasting reproduce {run.customer_id} {run_id} --build",
    ]


def run(deployment: Deployment, run_id: str, folder: Path, asked: Sequence[str], *, say: Callable[[str], None]) -> int:
    """Build the recorded commit below ``folder``, have it reproduce the run; its exit code.

    Raises:
        ConfigurationError: The commit is not known, not here, or older than `reproduce`.
        ServerError: Git or the installation failed.
    """
    recorded = warehouse.read_run(deployment.engine, run_id.partition("/")[0], run_id)
    if recorded.code_commit is None:
        raise ConfigurationError(f"{run_id} recorded no commit, so nothing can be built; run without --build")
    place = folder / "checkout"
    say(f"checking out {recorded.code_commit}")
    _check_out(place, recorded.code_commit)
    if not (place / _COMMAND).exists():
        raise ConfigurationError(
            f"{recorded.code_commit} is from before `forecasting reproduce`: it cannot compute a run again; run "
            "without --build, which computes it with this code"
        )
    _compare(place, recorded, say)
    say("installing its lock")
    _call([str(place / "tools/install"), "requirements.lock"], place, INSTALL_TIMEOUT, _environment())
    inside = folder / "recomputed"
    command = [str(place / ".venv/bin/python"), "-m", "forecasting", "reproduce", recorded.customer_id, run_id]
    say(" ".join(map(shlex.quote, command)))
    done = subprocess.run(
        [*command, "--in", str(inside), *asked], cwd=place, env=_environment(deployment), timeout=RUN_TIMEOUT,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.returncode


def _check_out(place: Path, commit: str) -> None:
    """A clone that borrows the objects of this checkout and leaves no trace in it."""
    root = checkout.PACKAGE.parent
    if not (root / ".git").exists():
        raise ConfigurationError(f"{root} is no git checkout, so {commit} cannot be built; do it in one")
    _call(["git", "clone", "--quiet", "--no-checkout", "--shared", str(root), str(place)], root, GIT_TIMEOUT)
    try:
        _call(["git", "checkout", "--quiet", "--detach", commit], place, GIT_TIMEOUT)
    except ServerError as error:
        raise ConfigurationError(f"{root} does not hold {commit}: fetch it, then try again ({error})") from None


def _compare(place: Path, recorded: warehouse.Run, say: Callable[[str], None]) -> None:
    """Say whether the commit is truly what ran: files may have been edited beside it."""
    found, lock = checkout.package_hash(place / "forecasting"), checkout.lock_hash(place)
    if found != recorded.code_version:
        say(f"the commit's package is {found[:12]}, {recorded.code_version[:12]} ran: its files were edited beside it")
    if lock != recorded.lock_hash:
        say(f"the commit's lock is {lock[:12]}, the recorded one {recorded.lock_hash[:12]}")


def _environment(deployment: Deployment | None = None) -> dict[str, str]:
    """Ours, without what would lead Python to this code; of a deployment, with its settings said out loud."""
    dropped = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "FORECASTING_COMMIT"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    kept.setdefault("PYTHON", getattr(sys, "_base_executable", sys.executable))
    cache = checkout.PACKAGE.parent / ".forecasting/cache"  # the Makefile's: most packages are there already
    kept.setdefault("UV_CACHE_DIR", str(cache / "uv"))
    kept.setdefault("PIP_CACHE_DIR", str(cache / "pip"))
    if deployment is None:
        return kept
    settings = deployment.settings
    return {**kept, "FORECASTING_HOME": str(settings.home), "FORECASTING_ROOT": str(settings.root)}


def _call(command: list[str], cwd: Path, timeout: int, env: dict[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, timeout=timeout, check=False, stdin=subprocess.DEVNULL, capture_output=True,
            text=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ServerError(f"{command[0]} did not end within {timeout} s") from None
    if done.returncode:
        raise ServerError(f"{' '.join(command[:2])} failed ({done.returncode}): {done.stderr.strip()[-500:]}")
