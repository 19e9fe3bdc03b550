"""Policies on the tree: what a reviewer would otherwise repeat."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LOCKS = ["requirements.lock", "requirements-dev.lock", "requirements-uv.lock"]
SOURCES = sorted(path for folder in ("forecasting", "dags", "plugins") for path in (ROOT / folder).rglob("*.py"))
HEAVY = {"pandas", "great_expectations", "statsforecast", "mlforecast", "lightgbm", "mlflow", "dvc", "pyarrow"}


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    names = listing.stdout.decode().split("\0") if listing.returncode == 0 else []
    return [path for name in names if name and (path := ROOT / name).is_file()]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
    return names


def run(*command: str, timeout: int = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout)


def test_imports_run_in_the_directions_of_the_design():
    done = run(sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()")
    assert done.returncode == 0, done.stdout


def test_parsing_the_dags_imports_nothing_heavy():
    files = [str(path) for path in sorted((ROOT / "dags").glob("*.py"))]
    code = "import runpy, sys; [runpy.run_path(path) for path in sys.argv[1:]]; print(*sys.modules)"
    done = run(sys.executable, "-c", code, *files)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert files == [] or "airflow.sdk" in loaded
    assert not loaded & {*HEAVY, "forecasting.pipeline"}


def test_configuration_and_command_line_start_without_anything_heavy():
    code = "import sys, forecasting.config, forecasting.store.embedded, forecasting.store.registry; print(*sys.modules)"
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & HEAVY


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_pickles(path):
    assert not imported(path) & {"pickle", "cPickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"}
    assert not re.search(r"\b(read_pickle|to_pickle|allow_pickle=True|torch\.load)\b", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_in_one_line_what_it_is(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring or not path.read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("name", LOCKS)
def test_locks_hold_versions_and_hashes_and_no_addresses(name):
    text = (ROOT / name).read_text()
    assert not re.search(r"://|^-|file:|\s@\s", text, re.MULTILINE)
    blocks = re.split(r"\n(?=\S)", text.strip())
    loose = [b.split()[0] for b in blocks if not re.match(r"[a-z0-9][a-z0-9._-]*==\S+", b) or "--hash=sha256:" not in b]
    assert loose == []


def versions(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)==([^ ;\\\n]+)", (ROOT / name).read_text(), re.MULTILINE))


def test_the_tools_lock_holds_the_same_versions_as_the_lock():
    dev = versions("requirements-dev.lock")
    assert {name: dev.get(name) for name in versions("requirements.lock")} == versions("requirements.lock")


def test_every_dependency_is_locked():
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[^A-Za-z0-9._-]", line)[0].lower().replace("_", "-") for line in declared}
    assert names <= set(versions("requirements.lock"))


def test_compose_file_is_valid():
    done = run(
        sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yaml"
    )
    assert done.returncode == 0, done.stdout + done.stderr


def compose() -> dict:
    return yaml.safe_load((ROOT / "docker-compose.yaml").read_text())


def test_compose_opens_ports_on_loopback_only():
    ports = [port for service in compose()["services"].values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_compose_holds_no_secret_and_no_default_for_one():
    for service in compose()["services"].values():
        for name, value in service.get("environment", {}).items():
            secret = re.search(r"PASSWORD$|SECRET|FERNET|_CONN$|_URI$|WAREHOUSE_URL", name)
            assert not secret or re.search(r"\$\{[A-Z_]+:\?", value), name


def test_compose_names_every_setting():
    from dataclasses import fields

    from forecasting.config import Settings

    text = (ROOT / "forecasting" / "config.py").read_text()
    named = set(re.findall(r'"""((?:FORECASTING|MLFLOW)_[A-Z_]+)', text))
    assert len(named) == len(fields(Settings))
    assert named <= set(compose()["services"]["scheduler"]["environment"])


def test_no_tracked_file_is_larger_than_4_mb():
    assert [path for path in tracked() if path.stat().st_size > 4_000_000] == []


def test_shell_scripts_parse():
    scripts = [ROOT / ".ci/run", *sorted((ROOT / "tools").iterdir())]
    shell = [str(path) for path in scripts if path.read_text().startswith("#!/usr/bin/env bash")]
    assert shell
    assert [path for path in shell if run("bash", "-n", path).returncode] == []
