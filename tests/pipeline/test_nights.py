"""Whole nights on real PostgreSQL, DVC and MLflow: what is published, what is kept, what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd
import pytest

from forecasting import pipeline
from forecasting.config import BOTTOM
from forecasting.errors import ConfigurationError, LateAttemptError, RegistryUnavailableError
from forecasting.store import warehouse

from .conftest import Nights, lines_of, write_lines

QUANTILES = ["q025", "q10", "q50", "q90", "q975"]
Make = Callable[..., Nights]


def check_complete(rows: pd.DataFrame, run: warehouse.Run, horizon: int = 7) -> None:
    """Every invariant a reader relies on, recomputed here from the rows alone."""
    assert run.series_in == run.series_ok + run.series_fallback + run.series_cold_start + run.series_retired  # type: ignore[operator]
    bottom = rows[rows["node"] == BOTTOM]
    assert bottom["unique_id"].nunique() == run.series_in - run.series_retired  # type: ignore[operator]
    assert (rows.groupby(["node", "unique_id"]).size() == horizon).all()
    assert sorted(rows["h"].unique()) == list(range(1, horizon + 1))
    values = rows[["y_hat", *QUANTILES]].to_numpy(dtype=float)
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert (np.diff(values[:, 1:], axis=1) >= 0).all()
    for depth, node in enumerate(("total", "brand")):
        parent = bottom["unique_id"].str.split("/").str[:depth].str.join("/").replace("", "total")
        sums = bottom.groupby([parent, "h"])["y_hat"].sum()
        upper = rows[rows["node"] == node].set_index(["unique_id", "h"])["y_hat"]
        assert len(upper) == len(sums) > 0
        assert np.abs(upper - sums.reindex(upper.index)).max() < 1e-6


def test_two_nights_are_complete_and_the_second_refreshes(nights: Make) -> None:
    here = nights()
    first, second = here.run("2018-10-01"), here.run("2018-10-02")
    assert (first.status, first.plan, first.plan_reason) == ("published", "retrain", "no champion yet")
    assert (second.status, second.plan, second.incoming_champion) == ("published", "refresh", "1.0.0")
    for run in (first, second):
        rows = here.sql(f"select * from forecasting.forecast where run_id = '{run.run_id}'")
        check_complete(rows, run)
        assert run.lines_read == run.lines_used + run.lines_excluded + run.lines_quarantined + run.lines_future  # type: ignore[operator]
    assert set(here.current()["run_id"]) == {second.run_id}
    assert len(here.sql("select * from forecasting.publication")) == 2
    scored = here.sql("select distinct run_id, scored_by from forecasting.score")
    assert scored.to_dict("records") == [{"run_id": first.run_id, "scored_by": second.run_id}]


def test_a_second_home_gives_the_same_checksums_and_fits_everything_itself(
    nights: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="forecasting")
    here, there = nights("here"), nights("there")
    days = ("2018-10-01", "2018-10-02")
    mine = [here.run(day) for day in days]
    caplog.clear()
    theirs = [there.run(day) for day in days]
    assert sum("fit_ml: mini/2018-10-01/1 trained on 7 series" in line for line in caplog.messages) == 1
    assert sum(line.startswith("fit_statistical: mini/2018-10-01/1 shard 0 fits 7") for line in caplog.messages) == 1
    assert [run.checksum for run in mine] == [run.checksum for run in theirs]
    assert [run.key for run in mine] == [run.key for run in theirs]
    assert mine[0].checksum != mine[1].checksum


def test_finished_days_again_are_verified_and_publish_nothing(nights: Make) -> None:
    here = nights()
    for day in ("2018-10-01", "2018-10-02"):
        here.run(day)
    before = here.sql("select * from forecasting.publication")
    versions = here.sql("select * from forecasting.model_version")
    again = [here.run(day) for day in ("2018-10-01", "2018-10-02")]
    assert [run.status for run in again] == ["verified", "verified"]
    assert [run.plan for run in again] == ["retrain", "refresh"]
    pd.testing.assert_frame_equal(before, here.sql("select * from forecasting.publication"))
    pd.testing.assert_frame_equal(versions, here.sql("select * from forecasting.model_version"))
    assert len(here.sql("select * from forecasting.champion")) == 1


def test_as_frozen_needs_neither_the_source_nor_a_cache(nights: Make) -> None:
    here = nights()
    first = here.run("2018-10-01")
    here.csv.unlink()
    for folder in ("work", "read", "cache"):
        shutil.rmtree(here.deployment.settings.home / "snapshots" / folder, ignore_errors=True)
    again = here.run("2018-10-01", as_frozen=True)
    assert (again.status, again.checksum) == ("verified", first.checksum)
    with pytest.raises(ConfigurationError, match="no publication for 2018-10-02"):
        here.run("2018-10-02", as_frozen=True)


def test_a_full_refresh_reads_everything_and_gives_the_same_panel(nights: Make) -> None:
    here, there = nights("here"), nights("there")
    for place in (here, there):
        place.run("2018-10-01")
    incremental, full = here.run("2018-10-02"), there.run("2018-10-02", full_refresh=True)
    assert incremental.lines_read < full.lines_read  # type: ignore[operator]
    assert incremental.snapshot_hash == full.snapshot_hash
    assert incremental.checksum == full.checksum


def test_an_attempt_resumed_after_a_newer_one_is_refused(nights: Make) -> None:
    here = nights()
    frozen = pipeline.freeze(here.deployment, here.pulled("2018-10-01"))
    fitted = here.fitted(frozen)  # and here it is paused
    newer = here.run("2018-10-01", force_retrain=True)
    before = here.current()
    with pytest.raises(LateAttemptError, match="newer attempt"):
        pipeline.publish(here.deployment, frozen[0], *fitted)
    late = warehouse.read_run(here.deployment.engine, "mini", frozen[0]["run_id"])
    assert (newer.status, late.status) == ("published", "late")
    pd.testing.assert_frame_equal(before, here.current())


def test_a_repeated_publish_task_changes_nothing(nights: Make) -> None:
    here = nights()
    frozen = pipeline.freeze(here.deployment, here.pulled("2018-10-01"))
    fitted = here.fitted(frozen)
    pipeline.publish(here.deployment, frozen[0], *fitted)
    before = here.sql("select * from forecasting.publication"), here.current()
    pipeline.publish(here.deployment, frozen[0], *fitted)
    pd.testing.assert_frame_equal(before[0], here.sql("select * from forecasting.publication"))
    pd.testing.assert_frame_equal(before[1], here.current())
    assert len(here.sql("select * from forecasting.champion")) == 1


def test_a_lost_fit_goes_down_the_ladder_and_the_next_attempt_replaces_it(nights: Make) -> None:
    here = nights()
    frozen = pipeline.freeze(here.deployment, here.pulled("2018-10-01"))
    shards, _ = here.fitted(frozen)
    pipeline.publish(here.deployment, frozen[0], shards, None)
    poor = warehouse.read_run(here.deployment.engine, "mini", frozen[0]["run_id"])
    check_complete(here.current(), poor)
    assert "lost fit_ml" in here.sql("select reason from forecasting.publication")["reason"].iloc[0]
    whole = here.run("2018-10-01")
    assert whole.status == "published"
    assert set(here.current()["run_id"]) == {whole.run_id}


def test_the_plan_follows_cadence_recipe_contract_and_force(nights: Make) -> None:
    here = nights()
    here.run("2018-10-01")
    assert here.run("2018-10-07").plan_reason == "1.0.0 was trained 6 days ago"
    late = here.run("2018-10-08")
    assert (late.plan, late.plan_reason) == ("retrain", "1.0.0 was trained 7 days ago, every 7")
    assert here.run("2018-10-09", force_retrain=True).plan_reason == "asked for"
    text = here.yaml.read_text()
    here.yaml.write_text(text.replace("history_days: 365", "history_days: 300"))
    changed = here.run("2018-10-10")
    assert changed.plan == "retrain"
    assert "recipe differs" in str(changed.plan_reason)
    here.yaml.write_text(text)
    contract = here.checkout / "data_contracts/pasta_sales.odcs.yaml"
    version = next(line for line in contract.read_text().splitlines() if line.startswith("version:"))
    contract.write_text(contract.read_text().replace(version, "version: 9.0.0"))
    newer = here.run("2018-10-11")
    assert newer.plan == "retrain"
    kinds = here.sql("select kind from forecasting.decision where kind <> 'REFRESH' order by run_id")["kind"].tolist()
    assert kinds == ["FIRST", "PATCH", "PATCH", "MINOR", kinds[-1]]


def test_nothing_new_publishes_nothing(nights: Make) -> None:
    here = nights()
    text = here.yaml.read_text().replace("horizon: 7", "horizon: 2\nfrequency: W\nseason_lengths: [1]")
    here.yaml.write_text(
        text.replace("pool: [seasonal_naive, weekday_mean, auto_ets, lightgbm]", "pool: [seasonal_naive, auto_ets]")
    )
    sunday, monday = here.run("2018-10-07"), here.run("2018-10-08")
    assert (sunday.status, monday.status) == ("published", "nothing_new")
    assert sunday.cutoff == monday.cutoff == date(2018, 10, 7)
    assert set(here.current()["run_id"]) == {sunday.run_id}


def test_a_registry_that_is_down_delays_training_never_the_forecast(nights: Make) -> None:
    here = nights()
    down = replace(here, deployment=replace(here.deployment, mlflow_url="postgresql+psycopg://a:b@127.0.0.1:9/mlflow"))
    with pytest.raises(RegistryUnavailableError):
        down.run("2018-10-01")
    here.run("2018-10-02")
    waited = down.run("2018-10-03", force_retrain=True)
    assert (waited.status, waited.version) == ("published", "1.0.0")
    assert (
        "the retrain waits"
        in here.sql(f"select reason from forecasting.publication where run_id = '{waited.run_id}'")["reason"].iloc[0]
    )


def test_a_quarantined_cell_is_missing_not_zero(nights: Make) -> None:
    here = nights()
    lines = lines_of(here.csv)
    column = lines[0].index("QTY_B1_1")
    day = next(line for line in lines if line[0] == "2018-09-20")
    day[column] = "-5"
    write_lines(here.csv, lines)
    run = here.run("2018-10-01")
    assert (run.status, run.lines_quarantined) == ("published", 1)
    refused = here.sql("select unique_id, ds, rule, row_json from forecasting.quarantine")
    assert refused[["unique_id"]].to_numpy().tolist() == [["B1/1"]]
    assert refused["ds"].iloc[0] == date(2018, 9, 20)
    actual = here.sql("select * from forecasting.actual where ds = '2018-09-20'")
    assert "B1/1" not in set(actual["unique_id"])
    assert set(actual.loc[actual["node"] == "brand", "unique_id"]) == {
        "B2",
        "B3",
        "B4",
    }  # B1's sum lacks a part: it has no actual


def test_a_backfill_of_an_older_day_leaves_the_newest_in_view(nights: Make) -> None:
    here = nights()
    newest = here.run("2018-10-05")
    older = here.run("2018-10-03")
    assert older.status == "published"
    assert set(here.current()["run_id"]) == {newest.run_id}
    assert older.plan_reason == "no champion yet"  # a champion counts from the day after it was crowned
