"""Versions of a small customer after real nights: cards, the registry's tags, and what ``forecasting models`` tells."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forecasting.cli import main as cli
from forecasting.cli import models
from forecasting.errors import ConfigurationError, VersionTakenError
from forecasting.store import registry, reports, warehouse
from tests import small
from tests.pipeline.conftest import Nights

Make = Callable[..., Nights]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run ``forecasting models …`` on a deployment of nights and return what it printed."""

    def run(here: Nights, *words: str) -> str:
        @contextmanager
        def warehouse_of(_: object = None) -> Iterator[object]:
            yield here.deployment

        monkeypatch.setattr(cli, "deployed", warehouse_of)
        monkeypatch.setattr(sys, "argv", ["forecasting", "models", *words])
        capsys.readouterr()
        try:
            cli.app(standalone_mode=False)
        finally:
            said = capsys.readouterr()
        return said.out

    return run


def test_versions_are_carded_registered_listed_compared_and_told_apart(
    nights: Make, command: Callable[..., str], tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    here = nights()
    here.yaml.write_text(small.declaration(pool="seasonal_naive, lightgbm"))
    here.run("2018-10-01", live=True)
    second = here.run("2018-10-08", live=True)
    text = here.yaml.read_text()
    here.yaml.write_text(text.replace("history_days: 365", "history_days: 300"))
    # a name that MLflow gave away, to a night that died before the warehouse knew, is passed over
    taken = registry.register(
        here.deployment.mlflow_url, here.deployment.settings.artifacts_url, "dev.mini", {"manifest.json": b"{}"},
        run_id="mini/2018-10-14/9", tags={"semver": "1.1.0"}, metrics={},
    )  # fmt: skip
    here.run("2018-10-15", live=True, force_retrain=True)

    engine = here.deployment.engine
    rows = {row["version"]: row for row in reports.versions(engine, "mini")}
    assert [(name, row["kind"]) for name, row in rows.items()] == [
        ("1.0.0", "FIRST"), ("1.0.1", "PATCH"), ("1.1.1", "MINOR")]  # fmt: skip
    assert taken.sha256 not in [row["bundle_sha256"] for row in rows.values()]

    # the bundle holds the card, and says what it weighs and took
    patch = rows["1.0.1"]
    files = registry.load(patch["bundle_uri"], patch["bundle_sha256"])
    assert {"card.json", "card.md", "card.html"} <= files.keys()
    assert patch["bundle_bytes"] == sum(map(len, files.values()))
    spent = here.sql(
        f"select sum(cpu_seconds) as s from forecasting.stage_time where run_id = '{second.run_id}' and stage ~ '^fit_'"
    )["s"].iloc[0]
    assert patch["fit_seconds"] == pytest.approx(spent)
    card = json.loads(files["card.json"])
    mean = next(one["mean"] for one in card["scores"]["slices"] if one["slice"] == "bottom")
    assert mean[0][0] == pytest.approx(patch["scores"]["mean"]["rmsse_selection"], rel=1e-4)
    assert card["forecasts"]["nodes"] == {"total": 1, "brand": 4}

    # MLflow: the tags of the run and of the version
    client = MlflowClient(here.deployment.mlflow_url, here.deployment.mlflow_url)
    found = client.get_model_version(patch["registry_name"], patch["registry_version"])
    expected = {"customer": "mini", "environment": "dev", "semver": "1.0.1", "snapshot": second.snapshot_hash,
                "contract_version": second.contract_version, "config_hash": second.config_hash,
                "code_version": second.code_version, "seed": "1"}  # fmt: skip
    for tags in (found.tags, client.get_run(found.run_id).data.tags):
        assert {name: tags[name] for name in expected} == expected
        assert json.loads(tags["scores"])["rmsse_selection"] == pytest.approx(mean[0][0], rel=1e-4)

    # the same version with other bytes: refused by the warehouse, too
    [row] = [version for version in warehouse.versions(engine, "mini") if version.version == "1.0.1"]
    other = warehouse.ModelVersion(**{**vars(row), "bundle_sha256": "0" * 64})
    with pytest.raises(VersionTakenError, match="immutable"), warehouse.acting_for(engine, "mini") as connection:
        warehouse.register_version(connection, other)

    # list and show
    listed = json.loads(command(here, "list", "mini", "--format", "json"))["versions"]
    states = {one["version"]: one["state"] for one in listed}
    assert states["1.0.0"] == "retired 2018-10-08 for 1.0.1"
    assert [state for state in states.values() if state.startswith("champion")] == ["champion"]
    assert states["1.1.1"].startswith(("champion", "kept out: "))
    table = command(here, "list", "mini")
    assert all(name in table for name in rows)
    shown = command(here, "show", "mini", "1.0.1", "--format", "markdown")
    assert shown.startswith("# Model card: mini 1.0.1, trained to 2018-10-08\n")
    assert "## Who promoted it, on which evidence" in shown
    assert "against 1.0.0 on mini/2018-10-08/1" in shown
    assert files["card.md"].decode().split("## What it forecasts")[1] in shown
    target = tmp_path / "card.html"
    command(here, "show", "mini", "1.0.1", "--format", "html", "--to", str(target))
    assert "<h1>Model card: mini 1.0.1" in target.read_text(encoding="utf-8")
    assert "Calibration" in command(here, "show", "mini", "1.1.1")

    # compare and diff
    compared = json.loads(command(here, "compare", "mini", "1.0.0", "1.0.1", "--format", "json"))
    assert compared["met"][0]["challenger"] == "1.0.1"
    assert compared["origins"], "horizon 7 and retrained 7 days later: they share origins"
    assert {row["slice"] for row in compared["slices"]} >= {"bottom", "total", "brand"}
    assert "The gate on mini/2018-10-08/1" in command(here, "compare", "mini", "1.0.0", "1.0.1")
    told = json.loads(command(here, "diff", "mini", "1.0.1", "1.1.1", "--format", "json"))
    assert told["settings"] == [{"part": "recipe", "key": "history_days", "a": 365, "b": 300}]
    same = {fact["what"]: fact["same"] for fact in told["facts"]}
    assert (same["recipe hash"], same["interface hash"], same["code"]) == (False, True, True)
    assert "history_days" in command(here, "diff", "mini", "1.0.1", "1.1.1")

    # errors name the near miss
    with pytest.raises(
        ConfigurationError, match=r"mini has no version '1\.0\.3'\. Did you mean '1\.0\.[01]'\? Versions: 1"
    ):
        command(here, "show", "mini", "1.0.3")
    with pytest.raises(ConfigurationError, match=r"no customer 'minj'\. Did you mean 'mini'\? Known: mini"):
        command(here, "list", "minj")

    # the analyst's view: one row per version
    view = here.sql("select * from mini.model_history order by major, minor, patch")
    assert view["version"].tolist() == list(rows)
    assert view["crowned_until"].iloc[0].isoformat() == "2018-10-08"
    assert view["rmsse"].iloc[1] == pytest.approx(mean[0][0], rel=1e-4)
    assert view["rmsse_seasonal_naive"].notna().all()


def test_every_state_is_told_in_words() -> None:
    flags = dict.fromkeys(("champion", "in_shadow", "awaits_approval"), False)
    said = ("pinned_until", "origin", "effective_from", "until", "successor", "promoted", "decision_reason")
    row = {**flags, **dict.fromkeys(said)}
    cases = {
        "champion, pinned to 2018-10-09": {"champion": True, "pinned_until": "2018-10-09", "effective_from": "x"},
        "retired 2018-10-08 for 1.0.1": {"effective_from": "x", "until": "2018-10-08", "successor": "1.0.1"},
        "in shadow": {"in_shadow": True},
        "waits for approval": {"awaits_approval": True, "promoted": False, "decision_reason": "kept: asked"},
        "kept out: RMSSE gain +0.1%": {"promoted": False, "decision_reason": "kept: RMSSE gain +0.1%"},
        "imported from staging": {"origin": {"environment": "staging"}},
        "never competed: its night ended": {},
    }
    assert {models.state(row | facts) for facts in cases.values()} == set(cases)
    for expected, facts in cases.items():
        assert models.state(row | facts) == expected
