"""Whatever the bytes, the damage or the panel: an error of ours, the true rows, or a complete set."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecasting.errors import ForecastingError

from . import mutations
from .mutations import CSV, PARQUET, XLSX, agrees, damaged, panels, pulled, texts
from .series import night

MANY = int(os.environ.get("BAD_EXAMPLES", "1"))
"""How many times as many examples as usual: ``python -m tests.bad.campaign`` asks for more."""


def examples(count: int):
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(max_examples=count * MANY, deadline=None, suppress_health_check=slow, database=None)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@examples(60)
@given(data=st.binary(max_size=300) | texts(), kind=st.sampled_from(["csv", "parquet", "xlsx"]))
def test_any_bytes_are_rows_or_an_error_of_ours(folder, data, kind):
    found = pulled(folder, data, kind)
    if isinstance(found, ForecastingError):
        assert f"f.{kind}" in str(found)
        assert len(str(found)) < 2000
    elif kind == "csv":
        assert agrees(found, data) == ""


@examples(250)
@given(data=damaged(CSV))
def test_a_damaged_csv_is_refused_or_read_as_a_slow_reader_reads_it(folder, data):
    found = pulled(folder, data)
    assert isinstance(found, ForecastingError) or agrees(found, data) == ""


@examples(100)
@given(data=damaged(PARQUET))
def test_a_damaged_parquet_is_refused_or_read_as_it_was(folder, data):
    want, found = pulled(folder, PARQUET, "parquet"), pulled(folder, data, "parquet")
    assert isinstance(found, ForecastingError) or mutations.same(found, want)


@examples(50)
@given(data=damaged(XLSX))
def test_a_damaged_workbook_is_refused_or_read_as_it_was(folder, data):
    want, found = pulled(folder, XLSX, "xlsx"), pulled(folder, data, "xlsx")
    assert isinstance(found, ForecastingError) or mutations.same(found, want)


@examples(15)
@given(made=panels())
def test_any_canonical_panel_gives_a_complete_set(made):
    panel, customer = made
    series = set(panel["unique_id"])
    try:
        found = night(panel, customer, whole=False)
    except ForecastingError as error:
        raise AssertionError(str(error)) from None
    counts = found.account["status"].value_counts().to_dict()
    assert sum(counts.values()) == len(series) == len(set(found.account["unique_id"]))
    assert set(counts) <= {"ok", "fallback", "cold_start", "retired"}
    bottom = found.published[found.published["node"] == "bottom"]
    steps = bottom.groupby("unique_id")["h"].nunique().to_dict()
    alive = set(found.account.loc[found.account["status"] != "retired", "unique_id"])
    assert steps == dict.fromkeys(alive, customer.horizon)
