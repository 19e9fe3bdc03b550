"""The bundle: same bytes, no silent damage."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from forecasting.errors import BrokenBundleError
from forecasting.frames import CALIBRATION, CHOICES, empty
from forecasting.learn.bundle import MANIFEST, Bundle, from_files, to_files

CHOSEN = pd.DataFrame({"unique_id": ["B/1", "A/1"], "model": ["tsb", "lightgbm"], "weight": [1.0, 1.0]})


def bundle(**changes) -> Bundle:
    parts = {"choices": CHOSEN, "calibration": empty(CALIBRATION), "booster": b"tree\n", "spec": {"b": 1, "a": [2]}}
    return Bundle(**{**parts, "meta": {"cutoff": "2024-06-30", "rmsse": 0.63}, **changes})


def test_a_bundle_survives_its_files():
    got = from_files(to_files(bundle()))
    assert_frame_equal(got.choices, CHOSEN.sort_values("unique_id", ignore_index=True))
    assert (got.booster, got.spec, got.meta) == (b"tree\n", bundle().spec, bundle().meta)
    CHOICES.check(got.choices)
    CALIBRATION.check(got.calibration)


def test_the_same_bundle_gives_the_same_bytes_whatever_the_order():
    other = bundle(choices=CHOSEN.iloc[::-1].reset_index(drop=True), spec={"a": [2], "b": 1})
    assert to_files(other) == to_files(bundle())
    assert to_files(from_files(to_files(bundle()))) == to_files(bundle())


def test_a_pool_without_a_booster_has_no_booster_file():
    files = to_files(bundle(booster=None))
    assert "booster.txt" not in files
    assert from_files(files).booster is None


@pytest.mark.parametrize("name", ["booster.txt", "choices.parquet", "calibration.parquet", "spec.json", "meta.json"])
def test_a_cut_flipped_or_missing_file_is_refused_before_it_is_parsed(name):
    files = to_files(bundle())
    damaged = [
        {**files, name: files[name][:-1]},
        {**files, name: bytes([files[name][0] ^ 1]) + files[name][1:]},
        {n: content for n, content in files.items() if n != name},
    ]
    for broken in damaged:
        with pytest.raises(BrokenBundleError, match=name):
            from_files(broken)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [(b"{", "cannot be read"), (b"[]", "cannot be read"), (b'{"schema": 2, "files": {}}', "schema 2")],
)
def test_a_manifest_that_is_not_ours_is_refused(manifest, message):
    with pytest.raises(BrokenBundleError, match=message):
        from_files({**to_files(bundle()), MANIFEST: manifest})
    with pytest.raises(BrokenBundleError, match="has no manifest"):
        from_files({})


def test_an_added_file_is_refused():
    files = to_files(bundle())
    with pytest.raises(BrokenBundleError):
        from_files({**files, "model.pkl": b""})
    assert json.loads(files[MANIFEST])["schema"] == 1
