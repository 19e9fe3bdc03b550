"""reproduce on real PostgreSQL, DVC and MLflow: the same checksums, or the cause by name; and nothing is changed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from forecasting import config, pipeline
from forecasting.cli import builds, reproductions
from forecasting.errors import BrokenBundleError, ConfigurationError, SnapshotCorruptedError
from forecasting.pipeline import checkout, reproduction
from forecasting.pipeline.reproduction import Rebuilt
from forecasting.store import detail, embedded, warehouse
from tests import small
from tests.conftest import forget_versions, fresh_database

from .conftest import Nights

FIRST, REFRESH, RETRAIN, AGAIN = "mini/2018-10-01/1", "mini/2018-10-02/1", "mini/2018-10-03/1", "mini/2018-10-02/2"
LATER = "mini/2018-10-04/1"


@pytest.fixture(scope="module")
def here(server: embedded.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nights]:
    """Five runs of the small customer: its first, a refresh, that again as frozen, a retrain, an older day last."""
    root = tmp_path_factory.mktemp("reproduced")
    small.copy(root)
    small.cut(root / "examples/mini.csv")
    small.loosen(root, len(small.SKUS))
    for path in (root / "dags/customers").glob("*.yaml"):
        path.unlink()
    (root / "dags/customers/mini.yaml").write_text(small.declaration(), encoding="utf-8")
    url = fresh_database(server)
    warehouse.migrate(url)
    given = {"FORECASTING_HOME": str(root / "home"), "FORECASTING_ROOT": str(root), "FORECASTING_SHARDS": "2"}
    forget_versions(server)
    given |= {"FORECASTING_WAREHOUSE_URL": url, "MLFLOW_TRACKING_URI": server.url("mlflow")}
    deployment = pipeline.connect(config.settings({**os.environ, **given}))
    made = Nights(deployment, root)
    for day in ("2018-10-01", "2018-10-02", "2018-10-04"):
        made.run(day)
    made.run("2018-10-02", as_frozen=True)
    made.run("2018-10-03", force_retrain=True)  # a backfill: a later day stands
    yield made
    deployment.engine.dispose()


def again(here: Nights, run_id: str, folder: Path, **asked: Any) -> Rebuilt:
    folder.mkdir(exist_ok=True)
    return reproduction.reproduce(here.deployment, run_id, folder, **asked)


def contents(here: Nights) -> dict[str, pd.DataFrame]:
    """Everything the warehouse holds."""
    names = here.sql("select table_name from information_schema.tables where table_schema = 'forecasting' and "
                     "table_type = 'BASE TABLE' and table_name <> 'alembic_version'")["table_name"]  # fmt: skip
    with here.deployment.engine.connect() as connection:
        return {n: pd.read_sql_query(f'select * from forecasting."{n}" t order by t::text', connection) for n in names}


@pytest.mark.parametrize("run_id", [FIRST, REFRESH, RETRAIN, AGAIN, LATER])
def test_a_run_comes_out_identical_and_nothing_is_changed(here: Nights, tmp_path: Path, run_id: str) -> None:
    before = contents(here)
    report = again(here, run_id, tmp_path).report
    assert report.identical, report.as_dict()
    assert report.recomputed == report.checksum
    assert report.causes == ()
    assert pd.read_parquet(tmp_path / "rows.parquet").shape[0] == report.rows > 0
    after = contents(here)
    for name, frame in before.items():
        pd.testing.assert_frame_equal(frame, after[name])


def test_a_set_that_was_kept_beside_the_published_one_comes_out_identical(here: Nights, tmp_path: Path) -> None:
    kept = here.sql(f"select run_id, version from forecasting.run where beside = '{RETRAIN}'")
    assert len(kept) == 1
    report = again(here, kept["run_id"][0], tmp_path).report
    assert report.identical, report.as_dict()
    assert (report.status, report.version) == ("kept", kept["version"][0])


def test_the_server_refuses_a_reproduction_any_change(here: Nights) -> None:
    with pytest.raises(Exception, match="read-only transaction"):
        warehouse.note(detail.read_only(here.deployment.engine), "mini", FIRST, message="changed")


def named(report: reproduction.Report) -> dict[str, reproduction.Compared]:
    return {one.what: one for one in report.causes}


def test_a_changed_library_is_named_with_the_rows_that_differ(
    here: Nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lightgbm

    info = tmp_path / "site/lightgbm-4.0.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lightgbm\nVersion: 4.0.9\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    as_it_was = lightgbm.Booster.predict
    monkeypatch.setattr(lightgbm.Booster, "predict", lambda *given, **more: as_it_was(*given, **more) * 1.5)
    report = again(here, REFRESH, tmp_path / "in").report
    assert not report.identical
    assert list(named(report)) == ["libraries"]
    assert "lightgbm 4.0.9, the lock names 4." in report.causes[0].detail[0]
    differs = report.differences
    assert differs is not None
    assert (differs.only_recorded, differs.only_recomputed) == (0, 0)
    assert 0 < differs.rows <= report.rows
    assert differs.largest > 0
    shown = differs.first[0]
    recorded = here.sql(f"""select {shown["column"]} as value from forecasting.forecast where run_id = '{REFRESH}'
        and node = '{shown["node"]}' and unique_id = '{shown["unique_id"]}' and ds = '{shown["ds"]}'""")
    assert shown["recorded"] == recorded["value"].iloc[0] != shown["recomputed"]


def test_todays_configuration_is_used_where_it_is_asked_for_and_its_keys_are_named(
    here: Nights, tmp_path: Path
) -> None:
    text = here.yaml.read_text()
    here.yaml.write_text(text.replace("history_days: 365", "history_days: 300"))
    try:
        today = pipeline.load_customer(here.deployment.settings, "mini")
        frozen = again(here, REFRESH, tmp_path / "frozen").report
        current = again(here, FIRST, tmp_path / "current", current=today).report
    finally:
        here.yaml.write_text(text)
    assert frozen.identical
    assert frozen.today == current.today == ("history_days: 365 became 300",)
    assert not current.identical
    assert current.recomputed != current.checksum
    assert "meta.json differs" in named(current)["bundle of 1.0.0, born in this run"].detail


def test_a_configuration_altered_in_the_warehouse_is_named_by_its_key(here: Nights, tmp_path: Path) -> None:
    change = "update forecasting.run set config = jsonb_set(config, '{{detail_days}}', '{}') where run_id = %s"
    then = here.sql(f"select config->>'detail_days' as days from forecasting.run where run_id = '{REFRESH}'")["days"][0]
    as_owner(here, change.format(99), REFRESH)
    try:
        report = again(here, REFRESH, tmp_path).report
    finally:
        as_owner(here, change.format(then), REFRESH)
    assert not report.identical
    assert report.recomputed == report.checksum
    assert f"detail_days: {then} became 99" in named(report)["frozen configuration"].detail


def as_owner(here: Nights, statement: str, *values: Any) -> None:
    with here.deployment.engine.begin() as connection:
        connection.exec_driver_sql(statement, values)


def test_the_page_tells_the_verdict_and_the_commands(here: Nights, tmp_path: Path) -> None:
    report = again(here, REFRESH, tmp_path).report
    said = shown(report)
    assert f"{REFRESH}: identical" in said
    assert report.checksum in said
    assert "clone" not in said
    code = replace(report.surroundings[0], present="0" * 12, same=False)
    moved = replace(report, surroundings=(code, *report.surroundings[1:]))
    assert "identical, with other code" in shown(moved)
    said = shown(replace(moved, recomputed="0" * 64))
    assert "differs; what is not as recorded: code" in said
    assert "checkout --detach abc" in said


def shown(report: reproduction.Report) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        reproductions.show(reproductions.document(report, ["git checkout --detach abc"]), console)
    return captured.get()


def test_the_recorded_commit_is_built_and_asked(
    here: Nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    commit = recorded_code(tmp_path / "code")
    then = warehouse.read_run(here.deployment.engine, "mini", REFRESH)
    monkeypatch.setattr(checkout, "PACKAGE", tmp_path / "code/forecasting")
    as_owner(here, "update forecasting.run set code_commit = %s where run_id = %s", commit, REFRESH)
    said: list[str] = []
    try:
        told = builds.commands(here.deployment, REFRESH)
        (tmp_path / "in").mkdir()
        code = builds.run(here.deployment, REFRESH, tmp_path / "in", ["--format", "json"], say=said.append)
    finally:
        as_owner(here, "update forecasting.run set code_commit = %s where run_id = %s", then.code_commit, REFRESH)
    assert code == 7  # what the recorded code said
    assert f"git -C recorded checkout --detach {commit}" in told[0]
    asked = f"reproduce mini {REFRESH} --in {tmp_path}/in/recomputed --format json {here.deployment.settings.home}"
    assert asked in capfd.readouterr().out
    assert any("its files were edited beside it" in line for line in said)


def recorded_code(folder: Path) -> str:
    """A repository whose package prints what it is asked, and then says that something differs; its commit."""
    main = "import os, sys\nprint(*sys.argv[1:], os.environ['FORECASTING_HOME'])\nsys.exit(7)\n"
    files = {
        "forecasting/cli/reproductions.py": "",
        "forecasting/__init__.py": "",
        "forecasting/__main__.py": main,
        "requirements.lock": "",
        "tools/install": f"#!/bin/sh\nmkdir -p .venv/bin && ln -s '{sys.executable}' .venv/bin/python\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "tools/install").chmod(0o755)
    for command in ("init --quiet", "add .", "-c user.name=t -c user.email=t@localhost commit --quiet -m one"):
        subprocess.run(["git", "-C", str(folder), *command.split()], check=True, timeout=60)
    head = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return head.stdout.strip()


def test_a_damaged_snapshot_is_refused_by_the_name_of_its_part(here: Nights, tmp_path: Path) -> None:
    objects = [p for p in (here.deployment.settings.home / "snapshots/dvc/mini").rglob("*") if p.is_file()]
    part = max((p for p in objects if not p.name.endswith(".dir")), key=lambda p: p.stat().st_size)
    with damaged(part), pytest.raises(SnapshotCorruptedError, match=r"panel/.*\.parquet .* is damaged"):
        again(here, FIRST, tmp_path)


def test_a_damaged_bundle_is_refused_by_name(here: Nights, tmp_path: Path) -> None:
    version = warehouse.versions(here.deployment.engine, "mini")[0]
    file = Path(version.bundle_uri.removeprefix("file://")) / "choices.parquet"
    with damaged(file), pytest.raises(BrokenBundleError, match=f"{version.bundle_sha256[:12]}"):
        again(here, REFRESH, tmp_path / "refresh")
    with damaged(file), pytest.raises(BrokenBundleError):
        again(here, RETRAIN, tmp_path / "retrain")  # the night would have gone on without it


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        yield
    finally:
        path.write_bytes(whole)


def test_rows_altered_in_the_warehouse_are_told_from_those_that_were_published(here: Nights, tmp_path: Path) -> None:
    change = "update mini.forecast set y_hat = y_hat + %s where run_id = %s and h = 1 and node = 'total'"
    as_owner(here, change, 1.0, REFRESH)
    try:
        report = again(here, REFRESH, tmp_path).report
    finally:
        as_owner(here, change, -1.0, REFRESH)
    assert not report.identical
    assert report.recomputed == report.checksum
    assert list(named(report)) == [f"rows of {REFRESH} in the warehouse"]
    assert report.differences is not None
    assert (report.differences.rows, report.differences.largest) == (1, 1.0)


def test_trimmed_detail_comes_back_if_and_only_if_it_is_identical(here: Nights, tmp_path: Path) -> None:
    tables = {"forecast": "mini.forecast", "series_status": "forecasting.series_status"}
    kept = {name: here.sql(f"select * from {home} where run_id = '{REFRESH}' order by 1, 2, 3, 4, 5, 6, 7")
            for name, home in tables.items()}  # fmt: skip
    for home in tables.values():
        as_owner(here, f"delete from {home} where run_id = %s", REFRESH)
    rebuilt = again(here, REFRESH, tmp_path / "in")
    assert "only checksums can be compared" in rebuilt.report.notes[0]
    other = replace(rebuilt, report=replace(rebuilt.report, recomputed="0" * 64))
    with pytest.raises(ConfigurationError, match="nothing is put back"):
        reproduction.restore(here.deployment, other, "ann")
    said = reproduction.restore(here.deployment, rebuilt, "ann")
    assert f"put back {len(kept['forecast'])} rows of forecast and {len(kept['series_status'])} rows" in said
    for name, home in tables.items():
        found = here.sql(f"select * from {home} where run_id = '{REFRESH}' order by 1, 2, 3, 4, 5, 6, 7")
        pd.testing.assert_frame_equal(found, kept[name])
    assert "nothing was put back" in reproduction.restore(here.deployment, rebuilt, "ann")
    lines = here.sql("select who, what from forecasting.audit_log where what = 'detail_restored'")
    assert lines.to_numpy().tolist() == [["ann", "detail_restored"]]
    verified = replace(rebuilt, run=warehouse.read_run(here.deployment.engine, "mini", AGAIN))
    with pytest.raises(ConfigurationError, match=f"verified the set of {REFRESH}"):
        reproduction.restore(here.deployment, verified, "ann")


@pytest.mark.homes  # two more nights
def test_a_run_that_lost_its_fits_comes_out_as_it_was(here: Nights, tmp_path: Path) -> None:
    frozen = pipeline.freeze(here.deployment, here.pulled("2018-10-05"))
    pipeline.publish(here.deployment, frozen[0], [], pipeline.fit_ml(here.deployment, frozen[0]))
    report = again(here, frozen[0]["run_id"], tmp_path).report
    assert report.identical, report.as_dict()
    assert "lost 1 of 1 statistical shards" in report.notes[0]


@pytest.mark.homes
def test_a_champion_that_was_kept_against_another_recipe_comes_out_again(here: Nights, tmp_path: Path) -> None:
    text = here.yaml.read_text()
    changed = text.replace("history_days: 365", "history_days: 300").replace("min_origins: 2", "min_origins: 99")
    here.yaml.write_text(changed)
    try:
        run = here.run("2018-10-06")
    finally:
        here.yaml.write_text(text)
    assert (run.plan, run.version) == ("retrain", run.incoming_champion)
    report = again(here, run.run_id, tmp_path).report
    assert report.identical, report.as_dict()
    assert "born in this run" in report.records[-2].what  # the challenger that was not shown is compared, too


def test_a_run_without_a_set_is_refused(here: Nights, tmp_path: Path) -> None:
    run_id = here.pulled("2018-10-09")["run_id"]
    with pytest.raises(ConfigurationError, match="ended as 'running' and has no set to give again"):
        again(here, run_id, tmp_path)
