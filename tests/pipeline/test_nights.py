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
from forecasting.errors import BrokenBundleError, ConfigurationError, LateAttemptError, RegistryUnavailableError
from forecasting.learn import features
from forecasting.learn.models import ml
from forecasting.store import warehouse
from tests.small import lines_of, write_lines

from .conftest import Nights

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
    recorded = here.sql(
        "select run_id, min(ds) as since, max(ds) as until from forecasting.actual group by 1 order by 1"
    )
    assert recorded["since"].tolist() == [date(2017, 10, 2), date(2018, 10, 2)]  # the whole history, then what is new
    assert recorded["until"].tolist() == [date(2018, 10, 1), date(2018, 10, 2)]


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


def test_a_customer_of_ten_days_gets_a_complete_set(nights: Make) -> None:
    here = nights()
    lines = lines_of(here.csv)
    write_lines(here.csv, [line for line in lines if line is lines[0] or "2018-09-22" <= line[0] <= "2018-10-20"])
    for day in ("2018-10-01", "2018-10-02"):
        run = here.run(day)
        assert run.status == "published"
        check_complete(here.sql(f"select * from forecasting.forecast where run_id = '{run.run_id}'"), run)
    here.run("2018-10-03", force_retrain=True)
    decision = here.sql("select promoted, reason from forecasting.decision where run_id = 'mini/2018-10-03/1'").iloc[0]
    assert not decision["promoted"]
    assert "0 shared origins" in decision["reason"]


def test_days_held_back_longer_than_the_lookback_are_read_when_they_come(nights: Make) -> None:
    here, whole = nights("here"), nights("whole")
    text = here.yaml.read_text()
    here.yaml.write_text(text + "max_gap_days: 60\nlookback_days: 3\n")
    lines = lines_of(here.csv)
    for line in lines[1:]:
        if line[0] > "2018-10-03":
            line[1:] = [("" if lines[0][i].startswith("QTY") else v) for i, v in enumerate(line[1:], 1)]
    good = here.csv.read_bytes()
    here.run("2018-10-01")
    here.csv.write_bytes(good)
    write_lines(here.csv, [line for line in lines if line is lines[0] or line[0] <= "2018-10-03"])
    here.run("2018-10-05")
    assert here.run("2018-10-15").watermark == date(2018, 10, 3)
    here.csv.write_bytes(good)
    after = here.run("2018-10-16")
    assert after.snapshot_hash == whole.run("2018-10-16").snapshot_hash


def test_a_retrain_that_lost_a_fit_crowns_nothing(nights: Make) -> None:
    here = nights()
    here.run("2018-10-01")
    frozen = pipeline.freeze(here.deployment, here.pulled("2018-10-02", force_retrain=True))
    shards, _ = here.fitted(frozen)
    done = pipeline.publish(here.deployment, frozen[0], shards, None)
    assert "the retrain waits until the next night, fit_ml failed" in done["message"]
    assert here.sql("select version from forecasting.model_version")["version"].tolist() == ["1.0.0"]
    assert here.run("2018-10-03").plan == "retrain"


def test_a_monitor_that_failed_leaves_the_publication_standing(nights: Make) -> None:
    here = nights()
    frozen = pipeline.freeze(here.deployment, here.pulled("2018-10-01"))
    done = pipeline.publish(here.deployment, frozen[0], *here.fitted(frozen))
    with pytest.raises(Exception, match="absent"):
        pipeline.monitor(here.deployment, {**done, "panel": {**done["panel"], "uri": "file:///absent"}})
    failed = warehouse.read_run(here.deployment.engine, "mini", done["run_id"])
    assert failed.status == "published"
    assert str(failed.message).startswith("monitor:")
    pipeline.monitor(here.deployment, done)
    assert warehouse.read_run(here.deployment.engine, "mini", done["run_id"]).message is None
    assert here.run("2018-10-02").lines_read < 1000  # it continues from the snapshot of the day before


def test_a_lost_bundle_is_healed_by_a_retrain(nights: Make) -> None:
    here = nights()
    here.run("2018-10-01")
    for path in (here.deployment.settings.home / "mlflow/artifacts").rglob("booster.txt"):
        path.unlink()
    with pytest.raises(BrokenBundleError, match="force_retrain"):
        here.run("2018-10-02")
    healed = here.run("2018-10-02", force_retrain=True)
    assert (healed.status, healed.version) == ("published", "1.0.1")
    reason = here.sql(f"select reason from forecasting.decision where run_id = '{healed.run_id}'")["reason"].iloc[0]
    assert reason == "PATCH: 1.0.0 has lost its bundle"


def test_a_champion_of_features_that_are_gone_goes_down_the_ladder_until_a_retrain(
    nights: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade whose code cannot read the booster in charge stops no night, wherever it may not retrain.

    And readers need not wait for a person's word to get better than the ladder.
    """
    here = nights()
    text = here.yaml.read_text().replace("pool: [seasonal_naive, weekday_mean, auto_ets, ", "pool: [")
    here.yaml.write_text(text.replace("min_origins: 2", "min_origins: 2, approval: required"))
    assert here.run("2018-10-01", live=True).version == "1.0.0"
    monkeypatch.setattr(ml, "SPEC_VERSION", ml.SPEC_VERSION + 1)
    refreshed = here.run("2018-10-02", live=True)
    assert (refreshed.plan, refreshed.status, refreshed.version) == ("refresh", "published", "1.0.0")
    check_complete(here.current(), refreshed)
    assert refreshed.series_fallback == refreshed.series_in
    retrained = here.run("2018-10-03", live=True, force_retrain=True)
    assert (retrained.status, retrained.version) == ("published", "1.0.1")
    query = f"select reason from forecasting.decision where run_id = '{retrained.run_id}'"
    assert "1.0.0 was trained on features that this code does not make any more" in here.sql(query)["reason"].iloc[0]
    assert here.run("2018-10-04", live=True).series_fallback == 0


def test_a_retrain_goes_on_where_the_champion_s_features_have_other_names(
    nights: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever changes features and forgets a number must not lose the retrain that would heal it, night after night."""
    here = nights()
    assert here.run("2018-10-01").version == "1.0.0"
    calendar = features._calendar
    monkeypatch.setattr(features, "_calendar", lambda *given: calendar(*given) | {"new": given[2] * 1.0})
    retrained = here.run("2018-10-02", force_retrain=True)
    assert "was trained on features that this code does not make any more" in caplog.text
    assert retrained.status == "published"
    fitted = here.sql("select version from forecasting.model_version order by version")["version"].tolist()
    assert fitted == ["1.0.0", "1.0.1"]
    check_complete(here.current(), retrained)


def test_a_series_that_leaves_the_feed_is_accounted_for(nights: Make) -> None:
    here = nights()
    here.run("2018-10-01")
    lines = lines_of(here.csv)
    kept = [i for i, name in enumerate(lines[0]) if not name.endswith("_B1_2")]
    write_lines(here.csv, [[line[i] for i in kept] for line in lines])
    run = here.run("2018-10-02", full_refresh=True)
    assert (run.series_in, run.series_retired) == (7, 1)
    check_complete(here.current(), run)
    gone = here.sql(
        f"select status, reason from forecasting.series_status where run_id = '{run.run_id}' and unique_id = 'B1/2'"
    )
    assert gone.to_numpy().tolist() == [["retired", "not in the feed any more"]]


def test_a_recipe_that_was_tried_and_kept_out_is_not_tried_every_night(nights: Make) -> None:
    here = nights()
    here.run("2018-10-01")
    text = here.yaml.read_text()
    text = text.replace("promotion: {min_origins: 2}", "promotion: {min_origins: 2, margin: 0.9}")
    here.yaml.write_text(text.replace("weekday_mean, ", ""))
    tried, after = here.run("2018-10-02"), here.run("2018-10-03")
    assert (tried.plan, tried.version) == ("retrain", "1.0.0")
    assert (after.plan, after.plan_reason) == ("refresh", "1.1.0 was trained 1 days ago")
    evidence = here.sql(
        f"select kind, promoted, evidence from forecasting.decision where run_id = '{tried.run_id}'"
    ).iloc[0]
    assert (evidence["kind"], evidence["promoted"]) == ("MINOR", False)
    assert evidence["evidence"]["compared"] == "recipes"


def test_an_exogenous_column_that_is_dropped_goes_through_the_gate_or_says_why_not(nights: Make) -> None:
    here = nights()
    here.run("2018-10-01")
    here.yaml.write_text(here.yaml.read_text().replace("{known: future}", "{known: future, fill: 1.0}"))
    run = here.run("2018-10-02")
    decision = here.sql(f"select kind, reason, evidence from forecasting.decision where run_id = '{run.run_id}'").iloc[
        0
    ]
    assert decision["kind"] == "MINOR"
    assert decision["evidence"]["origins"] == 2
    for side in ("challenger", "champion"):  # the gate weighs what each recipe's own fits took, and each bundle's files
        costs = decision["evidence"]["costs"][side]
        assert costs["fit_seconds"] > 0
        assert costs["bundle_bytes"] > 1000
    total = here.sql(f"select sum(cpu_seconds) from forecasting.stage_time where run_id = '{run.run_id}'").iat[0, 0]
    assert sum(side["fit_seconds"] for side in decision["evidence"]["costs"].values()) < total


def test_an_old_day_again_does_not_overwrite_newer_truth(nights: Make) -> None:
    here = nights()
    here.run("2018-10-01")
    here.run("2018-10-02")
    lines = lines_of(here.csv)
    next(line for line in lines if line[0] == "2018-10-01")[lines[0].index("QTY_B1_1")] = "99"
    write_lines(here.csv, lines)
    here.run("2018-10-03")
    here.run("2018-10-02", as_frozen=True)
    now = here.sql(
        "select y from forecasting.actual where node = 'bottom' and unique_id = 'B1/1' and ds = '2018-10-01'"
    )
    assert now["y"].tolist() == [99.0]


def test_a_forced_night_again_is_the_same_night(nights: Make) -> None:
    here = nights()
    here.run("2018-10-01")
    forced = here.run("2018-10-02", force_retrain=True)
    again = here.run("2018-10-02")
    assert (again.plan, again.plan_reason, again.status) == ("retrain", "asked for", "verified")
    assert again.checksum == forced.checksum


def test_a_killed_attempt_does_not_run_for_ever(nights: Make) -> None:
    here = nights()
    killed = here.pulled("2018-10-01")["run_id"]
    here.run("2018-10-01")
    row = warehouse.read_run(here.deployment.engine, "mini", killed)
    assert (row.status, row.message) == ("failed", "superseded by mini/2018-10-01/2")


def test_a_night_without_any_statistical_fit_is_complete_all_the_same(nights: Make) -> None:
    here = nights()
    here.run("2018-10-01")
    frozen = pipeline.freeze(here.deployment, here.pulled("2018-10-02"))
    assert len(frozen) == 1  # a refresh of a small customer has one shard: to lose it is to lose them all
    _, ml = here.fitted(frozen)
    for fitted in (ml, None):
        pipeline.publish(here.deployment, frozen[0], [], fitted)
        run = warehouse.read_run(here.deployment.engine, "mini", frozen[0]["run_id"])
        check_complete(here.current(), run)
        frozen = pipeline.freeze(here.deployment, here.pulled("2018-10-02"))
    assert set(here.current()["run_id"]) == {run.run_id}
    assert run.series_fallback == 7


def test_a_first_night_without_any_statistical_fit_is_complete_all_the_same(nights: Make) -> None:
    here = nights()
    frozen = pipeline.freeze(here.deployment, here.pulled("2018-10-01"))
    pipeline.publish(here.deployment, frozen[0], [], pipeline.fit_ml(here.deployment, frozen[0]))
    check_complete(here.current(), warehouse.read_run(here.deployment.engine, "mini", frozen[0]["run_id"]))
