"""The bundle: same bytes, no silent damage."""

from __future__ import annotations

import hashlib
import io
import json

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal

from forecasting.errors import BrokenBundleError
from forecasting.frames import CALIBRATION, CHOICES, empty
from forecasting.learn import card
from forecasting.learn.bundle import MANIFEST, Bundle, from_files, to_files

META = {
    "customer": "acme",
    "training_cutoff": "2024-06-30",
    "interface": {"horizon": 7, "frequency": "D", "levels": [80], "hierarchy": ["total"], "keys": ["item"]},
    "recipe": {"pool": ["tsb"]},
    "rolling": [{"origin": "2024-06-16T00:00:00.000", "rmsse_selection": 0.6, "rmsse_seasonal_naive": 0.9}],
}
CHOSEN = pd.DataFrame({"unique_id": ["B/1", "A/1"], "model": ["tsb", "lightgbm"], "weight": [1.0, 1.0]})
CARD = card.from_meta(META, CHOSEN)


def bundle(**changes) -> Bundle:
    parts = {"choices": CHOSEN, "calibration": empty(CALIBRATION), "booster": b"tree\n", "spec": {"b": 1, "a": [2]}}
    return Bundle(**{**parts, "meta": {"cutoff": "2024-06-30", "rmsse": 0.63}, "card": CARD, **changes})


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


def test_a_bundle_from_before_cards_is_still_read():
    files = {name: content for name, content in to_files(bundle(card=None)).items() if not name.startswith("card")}
    manifest = {**json.loads(files[MANIFEST]), "schema": 1}
    got = from_files({**files, MANIFEST: json.dumps(manifest).encode()})
    assert got.card is None
    assert_frame_equal(got.choices, CHOSEN.sort_values("unique_id", ignore_index=True))


def test_a_calibration_from_before_powers_keeps_what_its_offsets_meant():
    cells = {"node": ["bottom", "brand"], "group": ["p1c1", "A"], "h_from": 1, "h_to": 7, "q": 0.9, "offset": 1.5}
    files = to_files(bundle(calibration=pd.DataFrame(cells).assign(power=[0.6, 0.4])))
    sink = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(files["calibration.parquet"])).drop_columns("power"), sink)
    files["calibration.parquet"] = sink.getvalue()
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name != MANIFEST}
    got = from_files({**files, MANIFEST: json.dumps({"schema": 2, "files": hashes}).encode()})
    assert got.calibration["power"].tolist() == [0.75, 0.0]


def test_the_card_lies_in_the_bundle_as_figures_and_as_two_pages():
    files = to_files(bundle(card=CARD))
    assert json.loads(files["card.json"]) == CARD
    assert from_files(files).card == CARD
    assert files["card.md"].startswith(b"# Model card: acme, trained to 2024-06-30\n")
    assert b"<h1>Model card: acme, trained to 2024-06-30</h1>" in files["card.html"]


def test_a_pool_without_a_booster_has_no_booster_file():
    files = to_files(bundle(booster=None))
    assert "booster.txt" not in files
    assert from_files(files).booster is None


@pytest.mark.parametrize("name", ["booster.txt", "choices.parquet", "calibration.parquet", "spec.json", "meta.json",
                                  "card.json", "card.md", "card.html"])  # fmt: skip
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
    [
        (b"{", "cannot be read"),
        (b"[]", "cannot be read"),
        (b'{"schema": 4, "files": {}}', "schema 4, this code reads 1, 2, 3"),
    ],
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
    assert json.loads(files[MANIFEST])["schema"] == 3
