"""A scheduled night that has not ended by its customer's deadline is recorded, once, and nothing else is."""

from __future__ import annotations

import asyncio
import importlib
import runpy
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from forecasting.config import Settings
from forecasting.store import warehouse

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def missed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The callback, imported as Airflow imports it: the plugins folder is on its path."""
    monkeypatch.syspath_prepend(str(ROOT / "plugins"))
    monkeypatch.delitem(sys.modules, "deadlines", raising=False)
    module = importlib.import_module("deadlines")

    def call(run_type: str, start: str) -> str:
        context = {"dag_run": {"run_type": run_type, "data_interval_start": start, "state": "running"}}
        answer: str = asyncio.run(module.missed("pasta", "Europe/Rome", "06:00", context=context))
        return answer

    return call


def test_a_declared_deadline_is_counted_from_local_midnight(tmp_path, monkeypatch, missed):
    text = (ROOT / "dags/customers/pasta.yaml").read_text(encoding="utf-8")
    (tmp_path / "pasta.yaml").write_text(text + "deadline: '06:30'\n", encoding="utf-8")
    (tmp_path / "none.yaml").write_text(text.replace("id: pasta", "id: none"), encoding="utf-8")
    monkeypatch.setenv("FORECASTING_CUSTOMERS", str(tmp_path))
    dags: dict[str, Any] = runpy.run_path(str(ROOT / "dags/forecast_customers.py"))
    (alert,) = dags["forecast__pasta"].deadline
    assert alert.interval == timedelta(hours=6, minutes=30)
    assert alert.reference.reference_name == "DagRunQueuedAtDeadline"
    module, _, name = alert.callback.path.rpartition(".")
    assert asyncio.iscoroutinefunction(getattr(importlib.import_module(module), name))
    assert not dags["forecast__none"].deadline


def test_a_late_scheduled_night_is_recorded_for_its_local_day(settle, checkout, monkeypatch, missed):
    settings: Settings = settle("home")
    monkeypatch.setenv("FORECASTING_ROOT", str(checkout))
    monkeypatch.setenv("FORECASTING_WAREHOUSE_URL", str(settings.warehouse_url))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(settings.mlflow_url))
    assert "no deadline" in missed("backfill", "2026-03-01T23:00:00Z")
    told = missed("scheduled", "2026-03-01T23:00:00Z")
    assert told.startswith("the night of 2026-03-02 was running at its deadline, 06:00")
    engine = warehouse.connect(str(settings.warehouse_url))
    rows = warehouse.query(engine, "select * from forecasting.audit_log where what = 'deadline_missed'")
    engine.dispose()
    assert list(rows["what"]) == ["deadline_missed"]
    assert rows.loc[0, "why"] == told
