"""A model version as files: text, JSON and parquet, hashed. Nothing here can run code when it is read.

Files of schema version 3: ``choices.parquet`` (frames.CHOICES), ``calibration.parquet`` (frames.CALIBRATION),
``booster.txt`` (LightGBM's text; absent when there is none), ``spec.json`` (its feature spec), ``meta.json`` (recipe,
interface, training cutoff, scores …), the model card as ``card.json``, ``card.md`` and ``card.html``, and
``manifest.json``: {"schema": 3, "files": {name: sha256}}. Schema 1 had no card; neither 1 nor 2 had the calibration's
column ``power``.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from forecasting.config import BOTTOM
from forecasting.errors import BrokenBundleError
from forecasting.frames import CALIBRATION, CHOICES, Frame
from forecasting.learn import page

__all__ = ["MANIFEST", "READABLE", "SCHEMA", "Bundle", "from_files", "to_files"]

SCHEMA = 3
"""Version of the bundle's schema that is written."""
READABLE = (1, 2, 3)
"""Versions that are read; readers refuse another one."""
MANIFEST = "manifest.json"
_REQUIRED = {"choices.parquet", "calibration.parquet", "spec.json", "meta.json"}
_CARD = {"card.json", "card.md", "card.html"}
_KNOWN = _REQUIRED | _CARD | {"booster.txt"}


@dataclass(frozen=True)
class Bundle:
    """What a model version consists of."""

    choices: pd.DataFrame
    """frames.CHOICES."""
    calibration: pd.DataFrame
    """frames.CALIBRATION."""
    booster: bytes | None = None
    """LightGBM's text; None: the pool has no booster."""
    spec: dict[str, object] = field(default_factory=dict)
    """The booster's feature spec."""
    meta: dict[str, object] = field(default_factory=dict)
    """Recipe, interface, training cutoff, scores: JSON-able."""
    card: dict[str, Any] | None = None
    """The model card; None: the version is older than cards."""


def to_files(bundle: Bundle) -> dict[str, bytes]:
    """The bundle as file name → bytes; the same bundle always gives the same bytes (with the same lock)."""
    files = {
        "choices.parquet": _to_parquet(bundle.choices, CHOICES),
        "calibration.parquet": _to_parquet(bundle.calibration, CALIBRATION),
        "spec.json": _to_json(bundle.spec),
        "meta.json": _to_json(bundle.meta),
    }
    if bundle.booster is not None:
        files["booster.txt"] = bundle.booster
    if bundle.card is not None:
        files["card.json"] = _to_json(bundle.card, sort=False)  # its order is that of its pages
        files["card.md"] = page.markdown(bundle.card).encode()
        files["card.html"] = page.html(bundle.card).encode()
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    return {**dict(sorted(files.items())), MANIFEST: _to_json({"schema": SCHEMA, "files": hashes})}


def from_files(files: Mapping[str, bytes]) -> Bundle:
    """Read a bundle. Every hash is checked before anything is parsed: a cut booster would abort the process.

    Raises:
        BrokenBundleError: The manifest is missing or of another schema, or a file is missing, added or altered.
    """
    _verify(files, _manifest(files))
    return Bundle(
        choices=_from_parquet(files["choices.parquet"], CHOICES),
        calibration=_from_parquet(files["calibration.parquet"], CALIBRATION),
        booster=files.get("booster.txt"),
        spec=json.loads(files["spec.json"]),
        meta=json.loads(files["meta.json"]),
        card=json.loads(files["card.json"]) if "card.json" in files else None,
    )


def _manifest(files: Mapping[str, bytes]) -> dict[str, str]:
    if MANIFEST not in files:
        raise BrokenBundleError(f"bundle has no {MANIFEST}; files: {sorted(files)}. Register the version again.")
    try:
        manifest = json.loads(files[MANIFEST])
        schema, hashes = manifest["schema"], manifest["files"]
    except (ValueError, TypeError, KeyError) as error:
        raise BrokenBundleError(f"{MANIFEST} cannot be read: {error!r}. Register the version again.") from None
    if schema not in READABLE:
        known = ", ".join(map(str, READABLE))
        raise BrokenBundleError(f"bundle has schema {schema!r}, this code reads {known}. Retrain, or use its own code.")
    if not isinstance(hashes, dict) or not all(isinstance(value, str) for value in hashes.values()):
        raise BrokenBundleError(f"{MANIFEST}: `files` must map names to sha256. Register the version again.")
    return hashes


def _verify(files: Mapping[str, bytes], hashes: Mapping[str, str]) -> None:
    present = set(files) - {MANIFEST}
    if present != set(hashes) or not present >= _REQUIRED or not present <= _KNOWN:
        raise BrokenBundleError(f"bundle files are {sorted(present)}, the manifest names {sorted(hashes)}.")
    for name, expected in sorted(hashes.items()):
        found = hashlib.sha256(files[name]).hexdigest()
        if found != expected:
            raise BrokenBundleError(f"{name}: sha256 is {found}, the manifest says {expected}. Fetch it again.")


def _to_json(value: object, *, sort: bool = True) -> bytes:
    return json.dumps(value, sort_keys=sort, indent=1, allow_nan=False).encode() + b"\n"


def _to_parquet(frame: pd.DataFrame, schema: Frame) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    ordered = schema.check(frame)[list(schema.columns)].sort_values(list(schema.key), ignore_index=True)
    types = {"object": pa.string(), "int64": pa.int64(), "float64": pa.float64()}
    fields = [(column, types[dtype]) for column, dtype in schema.columns.items()]
    table = pa.table({c: pa.array(ordered[c].to_numpy(), type=t) for c, t in fields})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def _from_parquet(content: bytes, schema: Frame) -> pd.DataFrame:
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(content), page_checksum_verification=True)
    found = {column: table[column].to_pandas() for column in schema.columns if column in table.column_names}
    if schema is CALIBRATION and "power" not in found:  # schemas 1 and 2: an aggregate's base was its scale alone
        found["power"] = np.where(found["node"] == BOTTOM, 0.75, 0.0)
    return schema.check(pd.DataFrame(found).astype(schema.columns))
