"""What the tests themselves stand on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HANGS = """
import time
import pytest

@pytest.fixture(scope="module")
def shared():
    return None

def test_before(shared): pass
def test_hangs(shared): time.sleep(60)
def test_after(shared): pass
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_test_that_hangs_fails_once_and_those_after_it_run(tmp_path: Path, workers: int) -> None:
    (tmp_path / "test_it.py").write_text(HANGS)
    limit = ["-o", "faulthandler_timeout=5", "-o", "faulthandler_exit_on_timeout=true"]
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", *limit, "--numprocesses", str(workers)]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "-p", "no:cacheprovider", str(tmp_path)],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert "in test_hangs" in done.stderr + done.stdout


def test_the_limit_is_set(pytestconfig: pytest.Config) -> None:
    assert float(pytestconfig.getini("faulthandler_timeout")) == 900
    assert pytestconfig.getini("faulthandler_exit_on_timeout") is True
