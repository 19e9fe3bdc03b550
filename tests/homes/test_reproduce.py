"""`forecasting reproduce` as a user types it: a sample of a real home, and the cause named where something changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.homes.deployments import LIMIT, ROOT, Home, declare, lay_out

pytestmark = pytest.mark.homes

DAYS = ("2018-10-01", "2018-10-02", "2018-10-03")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home in which two small customers ran three nights."""
    root = tmp_path_factory.mktemp("proved")
    lay_out(root)
    made = Home(root / "home", root)
    for customer in ("mini", "other"):
        declare(root, customer)
        for day in DAYS:
            made.command("run", customer, "--date", day)
    return made


def reproduce(home: Home, *asked: str, **environ: str) -> tuple[int, dict[str, Any]]:
    """Exit code and report."""
    command = [sys.executable, "-m", "forecasting", "reproduce", *asked, "--format", "json"]
    done = subprocess.run(
        command, env={**home.environ, **environ}, cwd=ROOT, text=True, capture_output=True, timeout=LIMIT, check=False
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {"said": done.stderr}


def test_a_sample_of_the_home_is_identical(home: Home) -> None:
    command = [sys.executable, "benchmarks/reproduce_sample.py", "--seed", "1", "--runs", "5"]
    environ = {**home.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environ, cwd=ROOT, text=True, capture_output=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 of 6 runs of 2 customers, seed 1" in done.stdout
    assert "5 of 5 identical" in done.stdout


def test_a_changed_library_is_named(home: Home, tmp_path: Path) -> None:
    """Another LightGBM stands before the installed one: it gives half as much again, and calls itself 4.0.9."""
    installed = metadata.distribution("lightgbm")
    package, info = (Path(str(installed.locate_file(name))) for name in ("lightgbm", "lightgbm-4.0.9.dist-info"))
    shutil.copytree(package, tmp_path / "lightgbm")
    with (tmp_path / "lightgbm/__init__.py").open("a") as file:
        file.write("_p = Booster.predict\nBooster.predict = lambda *given, **more: _p(*given, **more) * 1.5\n")
    (tmp_path / info.name).mkdir()
    (tmp_path / info.name / "METADATA").write_text("Metadata-Version: 2.1\nName: lightgbm\nVersion: 4.0.9\n")
    code, told = reproduce(home, "mini", DAYS[1], PYTHONPATH=str(tmp_path))
    assert code == 7, told
    assert told["causes"] == ["libraries"]
    assert f"lightgbm 4.0.9, the lock names {installed.version}" in told["surroundings"][2]["detail"]
    assert told["differences"]["rows"] > 0
    assert "checkout --detach" in told["commands"][0] or "recorded no commit" in told["commands"][0]


def test_a_changed_configuration_is_named(home: Home) -> None:
    path = home.checkout / "dags/customers/mini.yaml"
    text = path.read_text()
    path.write_text(text.replace("history_days: 365", "history_days: 200"))
    try:
        code, told = reproduce(home, "mini", DAYS[0])
        assert (code, told["identical"], told["today"]) == (0, True, ["history_days: 365 became 200"])
        code, told = reproduce(home, "mini", DAYS[0], "--with-current-configuration")
        assert (code, told["identical"], told["today"]) == (7, False, ["history_days: 365 became 200"])
        assert told["recomputed"] != told["checksum"]
    finally:
        path.write_text(text)


def test_trimmed_rows_are_put_back_and_a_folder_in_use_is_refused(home: Home, tmp_path: Path) -> None:
    said = home.command("reproduce", "other", f"other/{DAYS[1]}/1", "--restore", "--in", str(tmp_path / "in"))
    assert "its detail is all there; nothing was put back" in said
    assert (tmp_path / "in/rows.parquet").exists()
    code, told = reproduce(home, "other", DAYS[1], "--in", str(tmp_path / "in"))
    assert code == 2
    assert "name an empty folder" in told["said"]
    code, told = reproduce(home, "mini", f"other/{DAYS[1]}/1")
    assert code == 2
    assert "is no run of 'mini'" in told["said"]
