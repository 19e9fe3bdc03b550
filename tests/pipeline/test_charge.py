"""Who is in charge by a person's word, on real PostgreSQL: one of many wins, the others are told why not."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta

import pytest
import sqlalchemy as sa

from forecasting import config
from forecasting.config import Customer
from forecasting.errors import ConfigurationError, LateAttemptError
from forecasting.pipeline import Deployment, charge
from forecasting.store import pointers, provision, warehouse
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
