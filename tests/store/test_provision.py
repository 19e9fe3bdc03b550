"""Provisioning makes what is declared, finds what has drifted, and drops nothing."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta

import pytest
import sqlalchemy as sa

from forecasting.config import Customer
from forecasting.feed import Columns
from forecasting.store import provision, warehouse
from tests.store.conftest import CODE, Night, make_customer, put

DAY = date(2024, 3, 1)


def plan(engine: sa.Engine, *customers: Customer) -> list[provision.Step]:
    with engine.connect() as connection:
        return provision.plan(connection, customers)


def test_provisioning_twice_does_nothing_the_second_time(engine: sa.Engine) -> None:
    customers = [make_customer(), make_customer(large=True), make_customer(hierarchy=(), levels=(50,))]
    steps = provision.apply(engine, customers)
    assert {step.customer_id for step in steps} == {customer.id for customer in customers}
    assert all(step.sentence and step.sql for step in steps)
    assert plan(engine, *customers) == []
    assert provision.apply(engine, customers) == []


def test_planning_changes_nothing(engine: sa.Engine) -> None:
    customer = make_customer()
    assert plan(engine, customer) == plan(engine, customer) != []


DRIFTS = {
    "a view is gone": "DROP VIEW {id}.forecast_current",
    "a view lost security_invoker": "ALTER VIEW {id}.forecast_history RESET (security_invoker)",
    "a view was replaced by hand": "DROP VIEW {id}.forecast_accuracy;CREATE VIEW {id}.forecast_accuracy AS SELECT 1",
    "everybody may read": "GRANT SELECT ON {id}.forecast TO PUBLIC",
    "another role may use the schema": "GRANT USAGE ON SCHEMA {id} TO forecasting_customer_reader",
    "the reader may not": "REVOKE SELECT ON {id}.forecast FROM customer_{id}_reader",
    "the writer may delete": "GRANT DELETE ON {id}.forecast TO customer_{id}_writer",
    "a partition is detached": "ALTER TABLE forecasting.score DETACH PARTITION {id}.score",
    "the reader left its group": "REVOKE forecasting_customer_reader FROM customer_{id}_reader",
    "the login may not act": "REVOKE customer_{id}_writer FROM CURRENT_USER",
    "the row says another hash": "UPDATE forecasting.customer SET config_hash = 'x' WHERE customer_id = '{id}'",
    "the lock's row is gone": "DELETE FROM forecasting.snapshot_lock WHERE customer_id = '{id}'",
}


@pytest.mark.parametrize("sql", DRIFTS.values(), ids=DRIFTS.keys())
def test_drift_is_found_and_put_right_without_losing_rows(
    engine: sa.Engine, customer: Customer, night: Night, sql: str
) -> None:
    run, _ = night()
    with engine.begin() as connection:
        for statement in sql.format(id=customer.id).split(";"):
            connection.exec_driver_sql(statement)
    steps = provision.ensure(engine, customer)
    assert 1 <= len(steps) <= 3
    assert plan(engine, customer) == []
    assert len(warehouse.read_forecast(engine, customer.id, run.run_id)) == 6
    assert len(warehouse.query(engine, f"SELECT * FROM {customer.id}.forecast_current")) == 6


def test_a_changed_key_name_remakes_the_views(engine: sa.Engine, customer: Customer, night: Night) -> None:
    night()
    renamed = customer.model_copy(update={"columns": Columns(ds="day", y="quantity", keys=("label", "model"))})
    provision.ensure(engine, Customer.model_validate(renamed.model_dump()))
    columns = warehouse.query(engine, f"SELECT * FROM {customer.id}.forecast_current").columns
    assert {"label", "key_model", "model"} <= set(columns)
    assert "brand" not in columns


def test_declared_logins_may_read_until_they_are_no_longer_declared(
    engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE planner NOLOGIN")
    customer = make_customer(roles=("planner", "ghost"))
    with caplog.at_level(logging.WARNING):
        provision.ensure(engine, customer)
    assert "ghost" in caplog.text
    held = f"SELECT pg_has_role('planner', '{provision.reader(customer.id)}', 'USAGE') AS held"
    assert warehouse.query(engine, held)["held"].tolist() == [True]
    provision.ensure(engine, make_customer(customer.id))
    assert warehouse.query(engine, held)["held"].tolist() == [False]


def test_a_customer_without_a_file_is_reported_and_kept(engine: sa.Engine, customer: Customer) -> None:
    with engine.connect() as connection:
        assert customer.id in provision.unclaimed(connection, [])
        assert customer.id not in provision.unclaimed(connection, [customer.id])
    assert plan(engine, customer) == []


def test_two_may_provision_at_once(engine: sa.Engine) -> None:
    customers = [make_customer() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda customer: provision.ensure(engine, customer), [*customers, *customers]))
    assert plan(engine, *customers) == []


def test_a_large_customer_has_months_that_are_made_on_demand_and_dropped_when_old(engine: sa.Engine) -> None:
    customer = make_customer(large=True)
    provision.ensure(engine, customer)
    days = [DAY - timedelta(days=500), DAY - timedelta(days=1), DAY]
    runs = [warehouse.allot(engine, customer, day, live=True, as_frozen=False, code=CODE) for day in days]
    for run in runs:
        assert put(engine, run) is warehouse.Outcome.PUBLISHED
    months = f"SELECT relname FROM pg_class WHERE relnamespace = '{customer.id}'::regnamespace"
    months += " AND relname ~ '^forecast_[0-9]' AND relkind = 'r' ORDER BY 1"
    found = warehouse.query(engine, months)["relname"].tolist()
    assert found == ["forecast_2022_10", "forecast_2024_02", "forecast_2024_03"]
    plans = warehouse.query(engine, f"EXPLAIN SELECT * FROM {customer.id}.forecast WHERE run_id = '{runs[2].run_id}'")
    assert "forecast_2024_03" in plans.to_string()
    assert "forecast_2024_02" not in plans.to_string()
    warehouse.trim(engine, customer)
    assert warehouse.query(engine, months)["relname"].tolist() == found[1:]
    assert plan(engine, customer) == []
