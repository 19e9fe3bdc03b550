"""Policies on the tree: what a reviewer would otherwise repeat."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LOCKS = ["requirements.lock", "requirements-dev.lock", "requirements-uv.lock", "requirements-contracts.lock",
         "requirements-workflows.lock", "requirements-bench.lock"]  # fmt: skip
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


def test_the_benchmarks_lock_adds_to_the_tools_lock_and_contradicts_it_nowhere():
    dev, bench = versions("requirements-dev.lock"), versions("requirements-bench.lock")
    assert "prophet" in bench
    assert {name: dev.get(name, version) for name, version in bench.items()} == bench


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


def test_the_examples_stay_under_12_mb_and_say_whose_they_are():
    files = [path for path in tracked() if path.is_relative_to(ROOT / "examples")]
    assert sum(path.stat().st_size for path in files) < 12_000_000
    folders = {path.relative_to(ROOT / "examples").parts[0] for path in files}
    for folder in folders:
        text = (ROOT / "examples" / folder / "README.md").read_text(encoding="utf-8")
        assert "https://creativecommons.org/" in text, folder
        assert re.search(r"unchanged|\*\*Changed\*\*", text), folder


def test_shell_scripts_parse():
    scripts = [ROOT / ".ci/run", *sorted((ROOT / "tools").iterdir())]
    shell = [str(path) for path in scripts if path.read_text().startswith("#!/usr/bin/env bash")]
    assert shell
    assert [path for path in shell if run("bash", "-n", path).returncode] == []


# --- what runs outside of Python ------------------------------------------------------------------------------------


def words_of(script: str) -> list[list[str]]:
    """The commands of a shell script, each as its words."""
    lexer = shlex.shlex(script.replace("\\\n", " ").replace("$$", "$").replace("\n", " ; "), punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("();<>|&"):
            commands.append([])
        else:
            commands[-1].append(word)
    return [command for command in commands if command]


def compose_commands() -> list[list[str]]:
    """Every command line of the compose file."""
    lines = [service["command"] for service in compose()["services"].values() if "command" in service]
    scripts = [command[-1] for command in lines if command[0] == "sh"]
    return [command for command in lines if command[0] != "sh"] + [c for text in scripts for c in words_of(text)]


def dockerfile() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and what they are given."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def dockerfile_commands() -> list[list[str]]:
    lines = [given for name, given in dockerfile() if name in {"RUN", "CMD", "ENTRYPOINT"}]
    return [c for line in lines for c in ([json.loads(line)] if line.startswith("[") else words_of(line))]


def makefile_commands() -> list[list[str]]:
    recipes = re.findall(r"^\t@?(.*-m forecasting.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return [command for recipe in recipes for command in words_of(recipe.replace("$(PYTHON)", "python"))]


def arguments_of(commands: list[list[str]]) -> list[list[str]]:
    """What follows ``python -m forecasting``, command by command."""
    pairs = [(c, i) for c in commands for i in range(len(c) - 1) if c[i : i + 2] == ["-m", "forecasting"]]
    return [command[place + 2 :] for command, place in pairs]


OURS = {
    "docker-compose.yaml": arguments_of(compose_commands()),
    "Dockerfile": arguments_of(dockerfile_commands()),
    "Makefile": arguments_of(makefile_commands()),
}


@pytest.mark.parametrize(("name", "arguments"), [(name, line) for name, lines in OURS.items() for line in lines])
def test_command_lines_outside_of_python_are_ones_the_command_understands(name, arguments):
    import typer

    from forecasting.cli.main import app

    command, left = typer.main.get_command(app), arguments
    context = None
    try:
        while True:
            context = command.make_context(command.name or "forecasting", list(left), parent=context)
            if not hasattr(command, "resolve_command"):
                return
            _, command, left = command.resolve_command(context, [*context._protected_args, *context.args])
    except typer.Exit:
        return  # --help


def test_command_lines_are_found_in_each_of_these_files():
    assert {name for name, lines in OURS.items() if lines} == set(OURS)
    assert ["provision", "--apply"] in OURS["docker-compose.yaml"]


def test_compose_makes_the_pool_that_the_dags_fit_in():
    [pool] = set(re.findall(r'^FITS = "(\w+)"', (ROOT / "dags/forecast_customers.py").read_text(), re.MULTILINE))
    made = [command for command in compose_commands() if command[:4] == ["airflow", "pools", "set", pool]]
    assert len(made) == 1
    assert len(made[0]) == 6  # name, slots, description


def test_the_image_copies_only_what_git_holds():
    listing = run("git", "ls-files", "--cached", "--others", "--exclude-standard")
    if listing.returncode:
        pytest.skip("not a checkout")
    held = [Path(name) for name in listing.stdout.splitlines() if (ROOT / name).is_file()]
    copied = [source for name, given in dockerfile() if name == "COPY" for source in given.split()[:-1]]
    assert copied
    assert [one for one in copied if not any(path.is_relative_to(one) for path in held)] == []


def test_the_gate_runs_every_check_the_makefile_has():
    targets = re.findall(r"^(lint|test[a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    [gate] = re.findall(r"targets=\(([a-z -]+)\)", (ROOT / ".ci/run").read_text())
    assert sorted(gate.split()) == sorted(targets)


def test_the_gate_refuses_to_leave_out_a_check_that_is_gone(tmp_path):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    targets = (
        "lint",
        "test",
        "test-kill",
        "test-homes",
        "test-browser",
        "test-bench",
        "test-contracts",
        "test-workflows",
    )
    (tmp_path / "Makefile").write_text("".join(f"{target}:\n\t@echo ran {target}\n" for target in targets))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run([tmp_path / ".ci/run"], capture_output=True, text=True, check=False, timeout=60, env=environ)
    assert done.returncode == 2
    assert "no target 'test-docs'" in done.stderr
    assert "ran" not in done.stdout
