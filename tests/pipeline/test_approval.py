"""A challenger that won and needs a person's word: what is asked, what closes the question, what an answer does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from forecasting import pipeline
from forecasting.errors import ConfigurationError
from forecasting.pipeline import approval
from forecasting.store import pointers, warehouse

from .conftest import Nights

Make = Callable[..., Nights]
ME = {"who": "rosa", "why": "looks right"}


def approvals(here: Nights) -> list[dict[str, Any]]:
    return here.sql("select * from forecasting.approval order by approval_id").to_dict("records")  # type: ignore[return-value]


def champions(here: Nights) -> list[tuple[str, str]]:
    found = here.sql("select version, who from forecasting.champion order by seq")
    return list(found.itertuples(index=False, name=None))


def act(here: Nights, does: Callable[..., object], *args: object, **kwargs: object) -> None:
    with warehouse.acting_for(here.deployment.engine, "mini") as connection:
        does(connection, *args, **kwargs)


def overdue(here: Nights) -> None:
    alter(here, "expires_at = now() - interval '1 minute'")


def again(here: Nights) -> None:
    alter(here, "state = 'waiting', expires_at = now() + interval '1 hour'")


def alter(here: Nights, values: str) -> None:
    with here.deployment.engine.begin() as connection:
        connection.execute(sa.text(f"update forecasting.approval set {values}"))


@pytest.fixture
def asked(nights: Make) -> Nights:
    """Two live nights of a quick pool; on the second a challenger won and waits."""
    here = nights()
    text = here.yaml.read_text().replace(", auto_ets, lightgbm]", "]")
    here.yaml.write_text(text.replace("{min_origins", "{approval: required, approval_hours: 5, min_origins"))
    here.run("2018-10-01", live=True)
    here.run("2018-10-02", live=True, force_retrain=True)
    return here


def test_a_winner_waits_while_its_night_is_published_and_a_yes_counts_from_the_next(asked: Nights) -> None:
    run = warehouse.read_run(asked.deployment.engine, "mini", "mini/2018-10-02/1")
    assert (run.status, run.version) == ("published", "1.0.0")
    [line] = approvals(asked)
    assert (line["state"], line["version"], line["champion"]) == ("waiting", "1.0.1", "1.0.0")
    assert abs(line["expires_at"] - line["requested_at"] - timedelta(hours=5)) < timedelta(seconds=30)
    decided = asked.sql("select reason, promoted from forecasting.decision where run_id = 'mini/2018-10-02/1'")
    assert decided.to_dict("records") == [{"reason": "kept: 1.0.1 won and waits for approval", "promoted": False}]

    shown = approval.show(asked.deployment, "mini")
    assert shown is not None
    assert shown["subject"] == "mini: put 1.0.1 in charge in place of 1.0.0?"
    for words in ("tonight's total", "RMSSE", "| challenger | champion |", "forecasting approve mini"):
        assert words in shown["body"]

    act(asked, pointers.pin, "mini", "1.0.0", date(2018, 10, 9), who="ugo", why="trade fair")
    with pytest.raises(ConfigurationError, match=r"1\.0\.0 is pinned until 2018-10-09 by ugo.*forecasting unpin mini"):
        approval.answer(asked.deployment, "mini", 1, approved=True, **ME)
    assert [line["state"] for line in approvals(asked)] == ["waiting"]
    act(asked, pointers.unpin, "mini", who="ugo", why="over")

    done = approval.answer(asked.deployment, "mini", shown["approval_id"], approved=True, **ME)
    assert (done.state, done.who, done.why) == ("approved", "rosa", "looks right")
    assert champions(asked)[-1] == ("1.0.1", "rosa")
    assert set(asked.current()["run_id"]) == {"mini/2018-10-02/1"}  # what is published stays
    assert approval.show(asked.deployment, "mini") is None
    night = asked.run("2018-10-03", live=True)
    assert (night.incoming_champion, night.version, night.plan) == ("1.0.1", "1.0.1", "refresh")
    assert set(asked.current()["run_id"]) == {night.run_id}
    told = asked.sql("select what, who, why from forecasting.audit_log where who = 'rosa' order by what")
    assert told["what"].tolist() == ["approval_approved", "champion"]
    assert told["why"].str.contains("looks right").all()
    with pytest.raises(ConfigurationError, match=r"approval 1 of 1\.0\.1 is approved by rosa"):
        approval.answer(asked.deployment, "mini", shown["approval_id"], approved=False, **ME)


def test_a_question_gives_way_to_a_newer_one_and_a_backfill_asks_none(asked: Nights) -> None:
    frozen = pipeline.freeze(asked.deployment, asked.pulled("2018-10-03", live=True, force_retrain=True))
    fitted = asked.fitted(frozen)
    done = [pipeline.publish(asked.deployment, frozen[0], *fitted) for _ in range(2)]  # the task is repeated
    older, newer = approvals(asked)
    assert (older["state"], newer["state"], newer["version"]) == ("superseded", "waiting", "1.0.2")
    with pytest.raises(ConfigurationError, match=r"approval 1 of 1\.0\.1 is superseded by .*1\.0\.2"):
        approval.answer(asked.deployment, "mini", older["approval_id"], approved=True, **ME)
    assert approval.show(asked.deployment, "mini", older["approval_id"]) is None

    approval.answer(asked.deployment, "mini", newer["approval_id"], approved=False, **ME)
    done.append(pipeline.publish(asked.deployment, frozen[0], *fitted))
    assert [one["approval"] for one in done] == [2, 2, 2]
    assert [line["state"] for line in approvals(asked)] == ["superseded", "rejected"]
    asked.run("2018-10-03", force_retrain=True)
    assert len(approvals(asked)) == 2
    assert warehouse.champion(asked.deployment.engine, "mini", date(2018, 10, 4), live=True).version == "1.0.0"  # type: ignore[union-attr]


def test_a_question_that_lost_its_point_is_closed_and_an_answer_refused(asked: Nights) -> None:
    overdue(asked)
    with pytest.raises(ConfigurationError, match="is expired by pipeline: nobody answered by"):
        approval.answer(asked.deployment, "mini", 1, approved=True, **ME)
    assert [version for version, _ in champions(asked)] == ["1.0.0"]
    again(asked)
    line = {"effective_from": date(2018, 10, 2), "live": True, "run_id": "mini/2018-10-02/1"}
    act(asked, warehouse.crown, "mini", "1.0.1", **line, who="ugo", reason="by hand")
    with pytest.raises(ConfigurationError, match=r"superseded by pipeline: 1\.0\.1 is in charge now, by ugo"):
        approval.answer(asked.deployment, "mini", 1, approved=True, **ME)
    assert [line["state"] for line in approvals(asked)] == ["superseded"]
    asked.yaml.write_text(asked.yaml.read_text().replace("horizon: 7", "horizon: 6"))  # the champion cannot serve that
    night = asked.run("2018-10-03", live=True)
    assert (night.status, night.version, len(approvals(asked))) == ("published", "2.0.0", 1)
