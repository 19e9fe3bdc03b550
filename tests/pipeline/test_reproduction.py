"""reproduce on real PostgreSQL, DVC and MLflow: the same checksums, or the cause by name; and nothing is changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
from sqlalchemy.engine import make_url

from forecasting import config, pipeline
from forecasting.errors import BrokenBundleError, ConfigurationError, ForecastingError, SnapshotCorruptedError
from forecasting.pipeline import checkout, reproduction
from forecasting.pipeline.reproduction import Rebuilt
from forecasting.store import embedded, warehouse
from tests import small
from tests.conftest import fresh_database

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
