"""Frames between tasks: written whole, named by content, never trusted."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.errors import ForecastingError
from forecasting.store import work
from forecasting.store.work import Ref

RUN = "pasta/2018-10-01/1"


@pytest.fixture
def base(tmp_path: Path) -> str:
    return f"file://{tmp_path}/work"


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "unique_id": ["B1/1", "B1/2", "B2/è"],
            "ds": pd.to_datetime(["2018-10-01", "2018-10-02", "2018-10-03"]),
            "h": np.array([1, 2, 3]),
            "y": [0.1, np.nan, 3.0],
            "scored": [True, False, True],
            "key_2": [None, None, None],
        }
    )


def files(base: str) -> list[Path]:
    return [path for path in Path(base.removeprefix("file://")).rglob("*") if path.is_file()]


def test_a_frame_comes_back_as_it_went(base):
    ref = work.put(base, RUN, "panel", frame())
    pd.testing.assert_frame_equal(work.get(ref), frame())
    assert ref.rows == 3


def test_a_reference_survives_json(base):
    ref = work.put_bytes(base, RUN, "config", b"{}")
    assert Ref.from_dict(json.loads(json.dumps(ref.as_dict()))) == ref
    assert work.get_bytes(ref) == b"{}"


def test_a_retry_writes_the_same_file(base):
    first, again = work.put(base, RUN, "panel", frame()), work.put(base, RUN, "panel", frame())
    assert first == again
    assert len(files(base)) == 1


def test_another_content_never_replaces_the_first(base):
    first = work.put(base, RUN, "panel", frame())
    second = work.put(base, RUN, "panel", frame().assign(y=1.0))
    assert first.uri != second.uri
    assert np.isnan(work.get(first).y[1])


@given(st.integers(0, 10**6), st.integers(0, 7))
def test_any_flipped_bit_is_noticed(tmp_path_factory, place, bit):
    ref = work.put(f"file://{tmp_path_factory.mktemp('work')}", RUN, "panel", frame())
    path = Path(ref.uri.removeprefix("file://"))
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(ForecastingError, match=r"damaged.*Clear the run"):
        work.get(ref)


def test_a_file_that_is_gone_says_what_to_do(base):
    ref = replace(work.put(base, RUN, "panel", frame()), uri=f"{base}/{RUN}/other.parquet")
    with pytest.raises(ForecastingError, match=r"is gone.*Clear the run"):
        work.get(ref)


@pytest.mark.parametrize("run_id", ["../pasta/1", "pasta//1", "pasta/../../etc", "/etc", "pasta/a b"])
def test_a_run_id_cannot_leave_the_folder(base, run_id):
    with pytest.raises(ValueError, match="cannot be part of a path"):
        work.put(base, run_id, "panel", frame())


def test_sweeping_goes_by_when_a_run_was_written_not_by_its_date(base):
    runs = (RUN, "pasta/2018-10-02/1", "acme/2018-10-01/1")
    old, young, other = (work.put(base, run, "panel", frame()) for run in runs)
    for ref in (old, other):
        then = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
        os.utime(ref.uri.removeprefix("file://"), (then, then))
    assert work.sweep(base, "pasta", keep_days=7, today=datetime.now(UTC).date()) == 1
    assert work.get(young).shape == work.get(other).shape == (3, 6)
    with pytest.raises(ForecastingError):
        work.get(old)


def test_sweeping_an_unknown_customer_removes_nothing(base):
    assert work.sweep(base, "pasta", keep_days=0, today=date(2030, 1, 1)) == 0


# --- without a reference --------------------------------------------------------------------------------------------


def test_a_run_s_frames_are_found_by_the_end_of_their_names(base):
    work.put(base, RUN, "ml-scores", frame())
    work.put(base, RUN, "ml-forecasts", frame())
    work.put_bytes(base, RUN, "old-scores", b"no frame")
    found = work.find(base, RUN, "-scores")
    assert list(found) == ["ml-scores"]
    pd.testing.assert_frame_equal(found["ml-scores"], frame())
    assert work.find(base, "pasta/2018-10-02/1", "-scores") == {}


def test_of_a_repeated_task_s_frames_the_newest_is_found(base):
    first = work.put(base, RUN, "ml-scores", frame())
    second = work.put(base, RUN, "ml-scores", frame().head(1))
    for age, ref in ((200, first), (100, second)):
        os.utime(ref.uri.removeprefix("file://"), (time.time() - age,) * 2)
    assert len(work.find(base, RUN, "-scores")["ml-scores"]) == 1
    os.utime(first.uri.removeprefix("file://"))
    assert len(work.find(base, RUN, "-scores")["ml-scores"]) == len(frame())


def test_a_damaged_frame_is_not_found_but_refused(base):
    ref = work.put(base, RUN, "ml-scores", frame())
    path = Path(ref.uri.removeprefix("file://"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ForecastingError, match="damaged"):
        work.find(base, RUN, "-scores")
