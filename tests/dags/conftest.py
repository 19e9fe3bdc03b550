"""Airflow set up for parsing in tests: a home of its own, no examples, no telemetry."""

from __future__ import annotations

import os
import tempfile

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "false")
os.environ.setdefault("AIRFLOW__CORE__UNIT_TEST_MODE", "false")
os.environ.setdefault("AIRFLOW__USAGE_DATA_COLLECTION__ENABLED", "false")
