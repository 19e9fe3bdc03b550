"""Who is in charge by a person's word, on real PostgreSQL: one of many wins, the others are told why not."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta

import pytest
import sqlalchemy as sa

from forecasting import config
from forecasting.config import Customer
from forecasting.errors import ConfigurationError, LateAttemptError
from forecasting.pipeline import Deployment, charge
from forecasting.store import pointers, provision, reports, warehouse
from tests.store.conftest import CODE, make_customer, make_rows, make_status

DAY = date(2024, 3, 1)


@pytest.fixture
def customer(engine: sa.Engine) -> Customer:
    made = make_customer()
    provision.ensure(engine, made)
    return made


@pytest.fixture
def deployment(engine: sa.Engine) -> Deployment:
    """A deployment whose registry cannot be reached."""
    return Deployment(config.settings({}), engine, "postgresql+psycopg://a:b@127.0.0.1:9/mlflow")


def made(engine: sa.Engine, customer: Customer, name: str, day: date, crown: bool = True) -> warehouse.Run:
    """A live night that published version ``name``, and crowned it."""
    run = warehouse.allot(engine, customer, day, live=True, as_frozen=False, code=CODE)
    version = warehouse.ModelVersion(
        customer_id=customer.id, version=name, bundle_uri="file:///bundle", bundle_sha256=f"{name}", run_id=run.run_id,
        run_date=day, training_cutoff=day, snapshot="s", config_hash="c", recipe_hash="r", interface_hash="i",
        code_version="v", config=run.config,
    )  # fmt: skip
    rows = make_rows(float(name.rpartition(".")[2]) + 1, day)
    with warehouse.acting_for(engine, customer.id) as connection:
        warehouse.register_version(connection, version)
        warehouse.publish(
            connection, run, rows, key=f"{name} {day}", checksum=warehouse.checksum(rows), version=name,
            status=make_status(), reason="test",
        )  # fmt: skip
        if crown:
            warehouse.crown(
                connection, customer.id, name, effective_from=day, live=True, run_id=run.run_id, who="pipeline",
                reason="test",
            )  # fmt: skip
    return run


def audited(engine: sa.Engine, customer: Customer, what: str) -> list[tuple[str, str]]:
    """Who and why, of every act of one kind."""
    sql = f"select who, why from forecasting.audit_log where customer_id = '{customer.id}' and what = '{what}'"
    return list(warehouse.query(engine, f"{sql} order by seq").itertuples(index=False, name=None))


def test_of_eight_promotions_at_once_one_wins_and_seven_say_who_moved_it(
    deployment: Deployment, customer: Customer
) -> None:
    names = [f"1.0.{patch}" for patch in range(9)]
    for i, name in enumerate(names):
        made(deployment.engine, customer, name, DAY + timedelta(days=i), crown=i == 0)
    together = threading.Barrier(8, timeout=20)

    def one(name: str) -> str:
        together.wait()
        try:
            charge.crown(deployment, customer.id, name, expected="1.0.0", who=f"user {name}", why="mine is better")
        except LateAttemptError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(8) as pool:
        said = dict(zip(names[1:], pool.map(one, names[1:], timeout=40), strict=True))
    [winner] = [name for name, why in said.items() if not why]
    told = f"the champion is {winner}, no longer 1.0.0: user {winner} crowned {winner} at "
    assert sum(told in why for why in said.values()) == 7, said
    now = warehouse.champion(deployment.engine, customer.id, date.max, live=True)
    assert now is not None
    assert (now.version, now.effective_from) == (winner, DAY + timedelta(days=8))
    assert audited(deployment.engine, customer, "champion") == [
        ("pipeline", "test"), (f"user {winner}", "mine is better")
    ]  # fmt: skip


def test_an_unknown_version_is_not_crowned(deployment: Deployment, customer: Customer) -> None:
    made(deployment.engine, customer, "1.0.0", DAY)
    with pytest.raises(ConfigurationError, match=r"has no version '1\.0\.1'.*Newest versions: 1\.0\.0"):
        charge.crown(deployment, customer.id, "1.0.1", expected="1.0.0", who="me", why="-")


def test_while_another_version_is_pinned_only_force_crowns(deployment: Deployment, customer: Customer) -> None:
    made(deployment.engine, customer, "1.0.0", DAY)
    made(deployment.engine, customer, "1.0.1", DAY + timedelta(days=1), crown=False)
    with warehouse.acting_for(deployment.engine, customer.id) as connection:
        pointers.pin(connection, customer.id, "1.0.0", DAY + timedelta(days=3), who="ann", why="the new one is odd")
    with pytest.raises(ConfigurationError, match=r"1\.0\.0 is pinned until 2024-03-04 by ann: the new one is odd"):
        charge.crown(deployment, customer.id, "1.0.1", expected="1.0.0", who="bob", why="-")
    done = charge.crown(deployment, customer.id, "1.0.1", expected="1.0.0", who="bob", why="agreed", forced=True)
    assert (done.before, done.effective_from) == ("1.0.0", DAY + timedelta(days=1))
    assert audited(deployment.engine, customer, "champion")[-1] == ("bob", "forced: agreed")


# --- roll back ------------------------------------------------------------------------------------------------------


def shown(engine: sa.Engine, customer: Customer) -> tuple[str, date, bool, int]:
    """What readers see: run, run date, stale, rows; of one set only."""
    sql = f"select run_id, run_date, stale, count(*) as n from {customer.id}.forecast_current group by 1, 2, 3"
    [row] = warehouse.query(engine, sql).itertuples(index=False, name=None)
    return row  # type: ignore[no-any-return]


def in_charge(engine: sa.Engine, customer: Customer) -> str | None:
    now = warehouse.champion(engine, customer.id, date.max, live=True)
    return now and now.version


def kept(engine: sa.Engine, run: warehouse.Run, name: str) -> str | None:
    """The set of ``name``, kept beside what ``run`` published."""
    now = warehouse.read_run(engine, run.customer_id, run.run_id)
    with warehouse.acting_for(engine, run.customer_id) as connection:
        rows = make_rows(9.0, run.run_date)
        return warehouse.keep(connection, now, rows, version=name, status=make_status(), reason="lost")


def test_a_rollback_shows_the_set_that_was_kept_that_night_and_pins(deployment: Deployment, customer: Customer) -> None:
    engine = deployment.engine
    made(engine, customer, "1.0.0", DAY)
    night = made(engine, customer, "1.0.1", DAY + timedelta(days=1))
    beside = kept(engine, night, "1.0.0")
    assert shown(engine, customer) == (night.run_id, night.run_date, False, 6)
    done = charge.rollback(deployment, customer.id, who="ann", why="too high")
    assert (done.before, done.version, done.shown.before) == ("1.0.1", "1.0.0", night.run_id)
    assert shown(engine, customer) == (beside, night.run_date, False, 6)
    assert in_charge(engine, customer) == "1.0.0"
    assert done.until == DAY + timedelta(days=8)
    acts = warehouse.query(
        engine,
        f"select what, who, why, before, after from forecasting.audit_log where customer_id = '{customer.id}' "
        "order by seq desc limit 3",
    ).iloc[::-1]
    assert acts["what"].tolist() == ["champion", "publication", "pin"]
    assert set(acts["who"]) == {"ann"}
    assert set(acts["why"]) == {"rollback: too high"}
    assert acts["before"].iloc[1] == {"run_id": night.run_id, "stale": False}
    assert acts["after"].iloc[1] == {
        "run_date": str(night.run_date), "run_id": beside, "version": "1.0.0", "stale": False
    }  # fmt: skip
    again = charge.rollback(deployment, customer.id, to="1.0.0", who="ann", why="again")
    assert again.shown.before == again.shown.run_id == beside


def test_without_a_set_of_that_night_the_newest_earlier_one_is_shown_stale(
    deployment: Deployment, customer: Customer
) -> None:
    first = made(deployment.engine, customer, "1.0.0", DAY)
    night = made(deployment.engine, customer, "1.0.1", DAY + timedelta(days=1))
    done = charge.rollback(deployment, customer.id, who="ann", why="-")
    assert done.shown == charge.Shown(night.run_date, first.run_id, "1.0.0", True, night.run_id)
    assert shown(deployment.engine, customer) == (first.run_id, night.run_date, True, 6)


def test_each_undo_goes_one_version_further_back_and_ends_with_a_sentence(
    deployment: Deployment, customer: Customer
) -> None:
    for i in range(3):
        made(deployment.engine, customer, f"1.0.{i}", DAY + timedelta(days=i))
    went = [charge.rollback(deployment, customer.id, who="ann", why="-").version for _ in range(2)]
    assert went == ["1.0.1", "1.0.0"]
    with pytest.raises(ConfigurationError, match=r"no version was in charge before 1\.0\.0; name one with --to"):
        charge.rollback(deployment, customer.id, who="ann", why="-")
    assert charge.rollback(deployment, customer.id, to="1.0.2", who="ann", why="-").before == "1.0.0"
    assert shown(deployment.engine, customer)[0] == f"{customer.id}/2024-03-03/1"


def test_a_version_without_a_set_is_not_rolled_back_to(deployment: Deployment, customer: Customer) -> None:
    with pytest.raises(ConfigurationError, match="has published nothing"):
        charge.rollback(deployment, customer.id, who="ann", why="-")
    first = made(deployment.engine, customer, "1.0.0", DAY)
    born = warehouse.versions(deployment.engine, customer.id)[0]
    with warehouse.acting_for(deployment.engine, customer.id) as connection:
        warehouse.register_version(connection, replace(born, version="1.0.1", bundle_sha256="other"))
    before = shown(deployment.engine, customer)
    with pytest.raises(ConfigurationError, match=rf"1\.0\.1 has no set for 2024-03-01.*{first.run_id} of 1\.0\.0"):
        charge.rollback(deployment, customer.id, to="1.0.1", who="ann", why="-")
    assert shown(deployment.engine, customer) == before
    assert in_charge(deployment.engine, customer) == "1.0.0"


def test_an_attempt_under_way_comes_late_after_a_rollback(deployment: Deployment, customer: Customer) -> None:
    engine = deployment.engine
    first = made(engine, customer, "1.0.0", DAY)
    made(engine, customer, "1.0.1", DAY + timedelta(days=1))
    under_way = warehouse.allot(engine, customer, DAY + timedelta(days=1), live=True, as_frozen=False, code=CODE)
    charge.rollback(deployment, customer.id, who="ann", why="-")
    rows = make_rows(5.0, under_way.run_date)
    with warehouse.acting_for(engine, customer.id) as connection:
        outcome = warehouse.publish(
            connection, under_way, rows, key="k", checksum=warehouse.checksum(rows), version="1.0.1",
            status=make_status(), reason="test",
        )  # fmt: skip
    assert outcome is warehouse.Outcome.LATE
    assert shown(engine, customer)[0] == first.run_id


def test_a_publication_is_switched_back_alone(deployment: Deployment, customer: Customer) -> None:
    engine = deployment.engine
    blue, green = made(engine, customer, "1.0.0", DAY), made(engine, customer, "1.0.1", DAY)
    switched = charge.show(deployment, customer.id, blue.run_id, who="ann", why="blue was right")
    assert (switched.before, switched.stale) == (green.run_id, False)
    assert shown(engine, customer) == (blue.run_id, DAY, False, 6)
    assert in_charge(engine, customer) == "1.0.1"
    assert charge.unpin(deployment, customer.id, who="ann", why="-") is None
    with pytest.raises(ConfigurationError, match="has published no set and kept none"):
        charge.show(deployment, customer.id, f"{customer.id}/2024-03-01/9", who="ann", why="-")
    with engine.begin() as connection:
        connection.execute(sa.text(f"delete from {customer.id}.forecast where run_id = :run"), {"run": green.run_id})
    with pytest.raises(ConfigurationError, match=f"forecasting reproduce {customer.id} {green.run_id} --restore"):
        charge.show(deployment, customer.id, green.run_id, who="ann", why="-")


def test_only_the_version_in_charge_is_pinned(deployment: Deployment, customer: Customer) -> None:
    made(deployment.engine, customer, "1.0.0", DAY)
    made(deployment.engine, customer, "1.0.1", DAY + timedelta(days=1))
    with pytest.raises(ConfigurationError, match=r"1\.0\.1 is in charge, not 1\.0\.0; `forecasting rollback"):
        charge.pin(deployment, customer.id, "1.0.0", who="ann", why="-")
    until = charge.pin(deployment, customer.id, "1.0.1", days=2, who="ann", why="-")
    assert until == DAY + timedelta(days=3)
    assert charge.unpin(deployment, customer.id, who="ann", why="-") == "1.0.1"


# --- kept sets ------------------------------------------------------------------------------------------------------


def test_a_kept_set_is_seen_by_nobody_kept_once_and_makes_nothing_late(
    deployment: Deployment, customer: Customer
) -> None:
    engine = deployment.engine
    night = made(engine, customer, "1.0.0", DAY)
    newer = warehouse.allot(engine, customer, DAY, live=True, as_frozen=False, code=CODE)
    beside = kept(engine, night, "1.0.1")
    assert beside == f"{customer.id}/2024-03-01/3"
    assert kept(engine, night, "1.0.1") is None
    row = warehouse.read_run(engine, customer.id, beside)
    assert (row.status, row.beside, row.rows_published, row.series_in) == ("kept", night.run_id, 6, 2)
    assert len(warehouse.read_forecast(engine, customer.id, beside)) == 6
    assert shown(engine, customer)[0] == night.run_id
    rows = make_rows(5.0, DAY)
    with warehouse.acting_for(engine, customer.id) as connection:
        outcome = warehouse.publish(
            connection, newer, rows, key="k", checksum=warehouse.checksum(rows), version="1.0.0", status=make_status(),
            reason="test",
        )  # fmt: skip
    assert outcome is warehouse.Outcome.PUBLISHED
    assert reports.why_it_ended(engine, customer.id, DAY) == ""


# --- audit ----------------------------------------------------------------------------------------------------------


def test_a_changed_policy_is_audited_once_with_who_asked(deployment: Deployment, customer: Customer) -> None:
    engine = deployment.engine
    changed = customer.model_copy(update={"promotion": customer.promotion.model_copy(update={"margin": 0.5})})
    for i, declared in enumerate((customer, changed, changed)):
        day = DAY + timedelta(days=i)
        warehouse.allot(engine, declared, day, live=True, as_frozen=False, code=CODE, asked_by="schedule")
    rows = reports.audit_trail(engine, customer.id)
    [act] = rows[rows["what"] == "policy"].to_dict("records")
    assert (act["who"], act["before"], act["after"]) == (
        "schedule", {"promotion.margin": 0.02}, {"promotion.margin": 0.5}
    )  # fmt: skip
    assert act["why"] == f"{customer.id}.yaml differs from what {customer.id}/2024-03-01/1 froze"
    assert reports.audit_trail(engine, customer.id, date(2999, 1, 1)).empty


def test_every_first_publication_and_crowning_of_a_night_is_audited(deployment: Deployment, customer: Customer) -> None:
    night = made(deployment.engine, customer, "1.0.0", DAY)
    rows = reports.audit_trail(deployment.engine, customer.id)
    assert rows["what"].tolist() == ["publication", "champion"]
    assert rows["before"].tolist() == [None, None]
    assert rows["after"].iloc[0]["run_id"] == night.run_id


def test_an_act_by_hand_waits_for_no_heavy_library() -> None:
    heavy = {"pandas", "numpy", "pyarrow", "mlflow", "lightgbm", "statsforecast", "dvc", "great_expectations"}
    code = "import sys, forecasting.cli.main, forecasting.cli.charge, forecasting.store.embedded; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert not set(done.stdout.split()) & heavy
