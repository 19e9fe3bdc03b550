"""Nights and the person's word: what a retrain keeps beside, what a pin holds, what a backfill never moves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import pandas as pd
import pytest

from forecasting import pipeline
from forecasting.errors import ConfigurationError, LateAttemptError
from forecasting.pipeline import charge
from forecasting.store import explanation, reports, warehouse

from .conftest import Nights

pytestmark = pytest.mark.homes

Make = Callable[..., Nights]


def crowned_on_the_second(here: Nights) -> warehouse.Run:
    """Two live nights; the second crowned a PATCH. Returns the second."""
    here.run("2018-10-01", live=True)
    night = here.run("2018-10-02", live=True, force_retrain=True)
    assert night.version == "1.0.1", here.sql("select reason from forecasting.decision")["reason"].tolist()
    return night


def tonight(here: Nights) -> str | None:
    """The version that the next live night comes in with, pins aside."""
    now = warehouse.champion(here.deployment.engine, here.customer, date(2018, 12, 1), live=True)
    return now and now.version


def decision(here: Nights, run: warehouse.Run) -> dict[str, object]:
    [found] = here.sql(
        f"select kind, promoted, champion, challenger, evidence->>'held_by' as held_by "
        f"from forecasting.decision where run_id = '{run.run_id}'"
    ).to_dict("records")
    return {str(name): value for name, value in found.items()}


def roll_back(here: Nights, **asked: str) -> charge.RolledBack:
    return charge.rollback(here.deployment, here.customer, who="ann", why="too high", **asked)


def test_a_retrain_night_keeps_the_set_that_lost_and_a_repeat_adds_none(nights: Make) -> None:
    here = nights()
    here.run("2018-10-01", live=True)
    frozen = pipeline.freeze(here.deployment, here.pulled("2018-10-02", live=True, force_retrain=True))
    fitted = here.fitted(frozen)
    pipeline.publish(here.deployment, frozen[0], *fitted)
    night = warehouse.read_run(here.deployment.engine, here.customer, frozen[0]["run_id"])
    [name] = here.sql("select run_id from forecasting.run where status = 'kept'")["run_id"]
    kept = warehouse.read_run(here.deployment.engine, here.customer, name)
    assert (kept.beside, kept.n, kept.rows_published) == (night.run_id, 2, night.rows_published)
    assert {kept.version, night.version} == {"1.0.0", "1.0.1"}
    assert kept.checksum == warehouse.checksum(warehouse.read_forecast(here.deployment.engine, here.customer, name))
    assert kept.checksum != night.checksum
    before = here.current()
    pipeline.publish(here.deployment, frozen[0], *fitted)
    assert here.sql("select run_id from forecasting.run where status = 'kept'")["run_id"].tolist() == [name]
    pd.testing.assert_frame_equal(before, here.current())
    assert set(before["run_id"]) == {night.run_id}
    assert explanation.find_run(here.deployment.engine, here.customer) == night.run_id
    told = explanation.explain(here.deployment.engine, name)
    assert told["decision"]["challenger"] == "1.0.1"
    assert told["lines"]["of_run"] == night.run_id
    third = here.run("2018-10-03", live=True)  # it continues from the night's snapshot, not from the kept set's
    assert third.lines_read < 1000
    assert third.lines_late == third.lines_lost == 0
    assert reports.runs(here.deployment.engine)["run_date"].is_unique


def test_a_night_under_way_when_somebody_rolls_back_comes_late_and_the_next_obeys(nights: Make) -> None:
    here = nights()
    night = crowned_on_the_second(here)
    frozen = pipeline.freeze(here.deployment, here.pulled("2018-10-03", live=True))
    fitted = here.fitted(frozen)
    done = roll_back(here)
    assert (done.version, done.shown.before, done.shown.stale) == ("1.0.0", night.run_id, False)
    shown = here.current()
    with pytest.raises(LateAttemptError, match=r"ann pinned 1\.0\.0 until 2018-10-09 .*clear the night from `pull`"):
        pipeline.publish(here.deployment, frozen[0], *fitted)
    late = warehouse.read_run(here.deployment.engine, here.customer, frozen[0]["run_id"])
    assert late.status == "late"
    assert "ann pinned 1.0.0" in str(late.message)
    pd.testing.assert_frame_equal(shown, here.current())
    third = here.run("2018-10-03", live=True, force_retrain=True)
    assert (third.status, third.version, third.incoming_champion) == ("published", "1.0.0", "1.0.0")
    assert decision(here, third)["held_by"] in ("pin", None)


def test_the_rolled_back_date_again_is_the_pinned_version_s_and_a_backfill_of_it_changes_nothing(nights: Make) -> None:
    here = nights()
    crowned_on_the_second(here)
    roll_back(here)
    shown = here.current()
    with pytest.raises(LateAttemptError, match="`forecasting unpin mini` lets it"):
        here.run("2018-10-02")
    pd.testing.assert_frame_equal(shown, here.current())
    again = here.run("2018-10-02", live=True)
    assert (again.status, again.version, again.incoming_champion) == ("published", "1.0.0", "1.0.0")
    same = ["node", "unique_id", "h", "y_hat"]
    pd.testing.assert_frame_equal(here.current()[same], shown[same])


def test_a_date_that_shows_a_stale_set_is_planned_anew(nights: Make) -> None:
    here = nights()
    first = here.run("2018-10-01", live=True)
    night = crowned_on_the_second(here)
    with here.deployment.engine.begin() as connection:  # as if it had been computed before sets were kept
        connection.exec_driver_sql("update forecasting.run set rows_published = 0 where status = 'kept'")
    done = roll_back(here)
    assert (done.shown.run_id, done.shown.stale) == (first.run_id, True)
    again = here.run("2018-10-02", live=True)
    assert (again.status, again.version) == ("published", "1.0.0")
    assert not here.current()["stale"].any()
    assert again.snapshot_hash == night.snapshot_hash


def test_a_backfill_of_old_days_moves_neither_tonight_s_champion_nor_what_readers_see(nights: Make) -> None:
    here = nights()
    night = crowned_on_the_second(here)
    newest = here.run("2018-10-03", live=True)
    shown, asked = here.current(), here.sql("select count(*) as n from forecasting.approval")
    again = here.run("2018-10-02", force_retrain=True)
    assert (again.live, again.incoming_champion) == (False, night.incoming_champion)
    older = here.run("2018-09-28", force_retrain=True)
    assert older.plan_reason == "asked for"
    scheduled = here.run("2018-10-01", live=True)  # cleared in Airflow: its run is still a scheduled one
    assert not scheduled.live
    assert tonight(here) == "1.0.1"
    pd.testing.assert_frame_equal(shown, here.current())
    assert set(shown["run_id"]) == {newest.run_id}
    pd.testing.assert_frame_equal(asked, here.sql("select count(*) as n from forecasting.approval"))
    lines = here.sql("select live, effective_from from forecasting.champion where not live")
    assert (lines["effective_from"] < date(2018, 10, 3)).all()


def test_a_backfill_obeys_no_pin_and_a_pin_holds_only_live_nights(nights: Make) -> None:
    here = nights()
    crowned_on_the_second(here)
    roll_back(here)
    past = here.run("2018-10-03", force_retrain=True)
    assert (past.live, past.incoming_champion, decision(here, past)["held_by"]) == (False, "1.0.0", None)
    assert tonight(here) == "1.0.0"
    held = here.run("2018-10-04", live=True, force_retrain=True)
    assert (held.version, held.incoming_champion) == ("1.0.0", "1.0.0")


def test_a_champion_crowned_by_hand_meanwhile_is_not_overruled(nights: Make) -> None:
    here = nights()
    crowned_on_the_second(here)
    frozen = pipeline.freeze(here.deployment, here.pulled("2018-10-03", live=True))
    fitted = here.fitted(frozen)
    charge.crown(here.deployment, here.customer, "1.0.0", expected="1.0.1", who="bob", why="approved")
    with pytest.raises(LateAttemptError, match=r"bob crowned 1\.0\.0 \(approved\).*came in with 1\.0\.1"):
        pipeline.publish(here.deployment, frozen[0], *fitted)
    assert here.run("2018-10-03", live=True).version == "1.0.0"


def test_a_pinned_version_that_cannot_publish_what_is_declared_stops_the_night_with_the_remedy(nights: Make) -> None:
    here = nights()
    crowned_on_the_second(here)
    here.yaml.write_text(here.yaml.read_text().replace("horizon: 7", "horizon: 8"))
    assert "declares another interface" in roll_back(here).caveat
    shown = here.current()
    with pytest.raises(ConfigurationError, match=r"1\.0\.0 is pinned until .*Put mini.yaml back, or .*unpin mini"):
        here.run("2018-10-03", live=True)
    pd.testing.assert_frame_equal(shown, here.current())
