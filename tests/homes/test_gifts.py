"""The gift shop's own database changes under four nights: what the run, the snapshot and the readers show of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pandas as pd
import psycopg
import pytest

from forecasting import config, pipeline
from forecasting.cli import connections, seeds
from forecasting.pipeline import Deployment, Request
from forecasting.store import embedded, warehouse
from tests.pipeline.deliveries import Told, four_nights, table

pytestmark = pytest.mark.homes

DATES = ("2011-11-07", "2011-11-08", "2011-11-09", "2011-11-10")
CHEAP = "pool: [seasonal_naive, weekday_mean, tsb]\nbacktest: {windows: 4, select: 2}\n"
"""What the changes show does not hang on the forecasters; GIFTS_POOL=all takes the customer's own."""
TABLE = "shop.year_2010_2011"
GONE = "\"InvoiceDate\"::date between '2011-11-01' and '2011-11-04'"


class Shop:
    """The shop's database, and how it changes: only the second year's table, as a shop would."""

    def __init__(self, owner: str) -> None:
        self.dsn = owner.replace("+psycopg", "")

    def change(self, what: str) -> None:
        """Do ``what``, in one transaction; see :func:`four_nights`."""
        with psycopg.connect(self.dsn, connect_timeout=10) as connection:
            for statement in STATEMENTS[what]:
                connection.execute(statement)


STATEMENTS = {
    "late": [  # an order of the Friday before that was keyed in on Tuesday
        f"""insert into {TABLE} ("InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "UnitPrice")
        values ('575999', '85123A', 6, '2011-11-04 12:00', 2.95), ('575999', '22423', 3, '2011-11-04 12:00', 12.75),
               ('575999', '47566', 8, '2011-11-04 12:00', 4.95)"""
    ],
    "restated": [  # one day of the lookback and one long before it, every quantity one more
        f"""update {TABLE} set "Quantity" = "Quantity" + 1
        where "InvoiceDate"::date in ('2011-11-03', '2011-08-15') and "Quantity" > 0"""
    ],
    "twice": [f"insert into {TABLE} select * from {TABLE} where \"InvoiceDate\"::date = '2011-11-09'"],
    "shrunk": [
        f"create table shop.kept as select * from {TABLE} where {GONE}",
        f"delete from {TABLE} where {GONE}",
    ],
    "whole": [f"insert into {TABLE} select * from shop.kept", "drop table shop.kept"],
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Told]]:
    """The steps, each a whole night of the real customer on its seeded database."""
    home = tmp_path_factory.mktemp("gifts")
    customers = home / "customers"
    customers.mkdir()
    text = (config.settings().root / "dags/customers/gifts.yaml").read_text(encoding="utf-8")
    later = text.replace("last_date: 2011-11-09", "last_date: 2011-11-10")
    chosen = "" if os.environ.get("GIFTS_POOL") == "all" else CHEAP
    (customers / "gifts.yaml").write_text(later + chosen, encoding="utf-8")
    ours = ("FORECASTING_", "MLFLOW_", "AIRFLOW_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    with embedded.server(home) as server:
        environ = {
            "FORECASTING_HOME": str(home),
            "FORECASTING_CUSTOMERS": str(customers),
            "FORECASTING_WAREHOUSE_URL": server.url("warehouse"),
            "MLFLOW_TRACKING_URI": server.url("mlflow"),
        }
        deployment = pipeline.connect(config.settings({**clean, **environ}))
        warehouse.migrate(server.url("warehouse"))
        try:
            shop, night = _shop(home, deployment)
            yield four_nights(deployment, "gifts", DATES, night, shop.change)
        finally:
            deployment.engine.dispose()


def _shop(home: Path, deployment: Deployment) -> tuple[Shop, Callable[..., warehouse.Run]]:
    """The seeded database, and a night that reads it through the login that may only read."""
    owner, reader = embedded.extra_database(home, "retail", reader=seeds.EXPORT)
    import sqlalchemy as sa

    engine = sa.create_engine(owner, hide_parameters=True)
    seeds.gifts_rows(engine, deployment.settings.root / seeds.SHOP)
    customer = pipeline.load_customer(deployment.settings, "gifts")
    connections.grant_declared(engine, customer, seeds.EXPORT)
    engine.dispose()

    def night(day: str, **asked: bool) -> warehouse.Run:
        request = Request(**asked)
        pulled = pipeline.pull(
            deployment, "gifts", date.fromisoformat(day), request, connection_uri=None if asked else reader
        )
        frozen = pipeline.freeze(deployment, pulled)
        if frozen:
            fitted = [pipeline.fit_statistical(deployment, one) for one in frozen]
            ml = pipeline.fit_ml(deployment, frozen[0])
            pipeline.monitor(deployment, pipeline.publish(deployment, frozen[0], fitted, ml))
        return warehouse.read_run(deployment.engine, "gifts", pulled["run_id"])

    return Shop(owner), night


def sold(told: Told, day: str) -> float:
    assert told.panel is not None
    return float(told.panel.loc[told.panel["ds"] == day, "y"].sum())


def test_each_change_of_the_shop_is_counted_said_and_shown(told: dict[str, Told]) -> None:
    with pd.option_context("display.max_colwidth", 400, "display.width", 250):
        print(table(told).T.to_string())  # noqa: T201 - the table of the changes; `pytest -s` shows it
    first, late, restated, twice, shrunk = (told[s] for s in ("first", "late", "restated", "twice", "shrunk"))
    assert (told["again"].run.status, told["again"].run.checksum) == ("verified", first.run.checksum)
    assert (late.run.lines_late, late.run.days_restated, late.run.lines_lost) == (3, 0, 0)
    assert sold(late, "2011-11-04") == sold(first, "2011-11-04") + 17
    assert (restated.run.lines_late, restated.run.days_restated) == (0, 1)
    assert "2011-11-03" in restated.rules["restated_days"][1]
    assert sold(restated, "2011-11-03") > sold(late, "2011-11-03")
    assert sold(restated, "2011-08-15") == sold(late, "2011-08-15")  # not read again: before the lookback
    assert twice.run.status == "published"
    assert (twice.run.lines_late, twice.run.lines_excluded) > (0, 0)
    assert shrunk.run.status == "broken"
    assert shrunk.run.lines_lost > 1000
    assert shrunk.current == twice.run.run_id
    assert "history_kept" in str(shrunk.run.message)
    assert told["whole"].run.status == "verified"


def test_a_doubled_delivery_counts_once_in_the_snapshot(told: dict[str, Told]) -> None:
    """Oracle: the units of that day in the example's file, by pandas alone."""
    lines = pd.read_parquet(config.settings().root / seeds.SHOP / "year_2010_2011.parquet")
    day = lines[lines["InvoiceDate"].dt.normalize() == "2011-11-09"].drop(
        columns=["Description", "CustomerID", "Country"]
    )
    day = day.assign(InvoiceDate=day["InvoiceDate"].dt.normalize()).drop_duplicates()
    kept = day[
        ~day["InvoiceNo"].str.match("[CA]")
        & day["StockCode"].str.fullmatch("[0-9]{5}[A-Za-z]{0,2}")
        & (day["UnitPrice"] > 0)
        & (day["Quantity"] > 0)
    ]
    assert sold(told["twice"], "2011-11-09") == kept["Quantity"].sum()


def test_the_earlier_nights_still_reproduce(told: dict[str, Told]) -> None:
    for day, step in zip(DATES, ("first", "late", "restated", "twice"), strict=True):
        assert (told[day].run.status, told[day].run.checksum) == ("verified", told[step].run.checksum)
        assert told[day].current == told["twice"].run.run_id
