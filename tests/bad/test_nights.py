"""Whole nights: names that no system likes, and what the command line says of deliveries that it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.pipeline.conftest import Nights, nights  # noqa: F401 - a fixture

from .bench import TOLERANT
from .declarations import CUSTOMER
from .tables import BOOK, RAW, WHOLE, flipped
from .texts import cell

NAMES = ["🍝", "חנות", "cafe\u0301", "café", "a/b", "a%2Fb", "100%", "'; DROP TABLE forecasting.run; --", "<b>", "=1+1",
         "../..", "\\", '"', "NULL", "nan", "total", "{0}", "x" * 100]  # fmt: skip
YAML = (
    CUSTOMER.replace("id: acme", "id: mini").replace("first_date: 2024-01-20", "first_date: 2024-04-01")
    + """\
pool: [seasonal_naive, weekday_mean, lightgbm]
backtest: {windows: 2, select: 1}
promotion: {min_origins: 1}
"""
)


def delivery() -> str:
    """Three months of a shop of each name; one quantity that is none."""
    lines = ["day,store,item,qty,promo"]
    for n, day in enumerate(pd.date_range("2024-01-01", "2024-04-04")):
        for at, name in enumerate(NAMES):
            quoted = '"' + name.replace('"', '""') + '"'
            lines.append(f"{day:%Y-%m-%d},{quoted},1,{10 + at + n % 7},{n % 2}")
    lines[40] = lines[40].rsplit(",", 2)[0] + ",inf,0"
    return "\n".join(lines) + "\n"


def test_names_of_any_script_go_all_the_way_and_come_back_as_they_were(nights):  # noqa: F811
    here: Nights = nights()
    here.yaml.write_text(YAML, encoding="utf-8")
    (here.checkout / "feed.csv").write_text(delivery(), encoding="utf-8")
    (here.checkout / "data_contracts/acme.odcs.yaml").write_text(TOLERANT.replace("mini", "acme"), encoding="utf-8")
    first = here.run("2024-04-01")
    assert (first.status, first.lines_quarantined) == ("published", 1)
    assert here.run("2024-04-02").status == "published"
    shown = here.sql(
        "select distinct f.unique_id, s.key_1 from forecasting.forecast_current f join forecasting.series s on"
        " s.customer_id = f.customer_id and s.unique_id = f.unique_id and s.node = f.node where f.node = 'bottom'"
    )
    assert sorted(shown["key_1"]) == sorted(NAMES)
    assert len(set(shown["unique_id"])) == len(NAMES)
    held = here.sql("select unique_id, reason from mini.quarantine")
    assert "expected a finite number" in held["reason"].iloc[0]


# --- the command line -----------------------------------------------------------------------------------------------

REFUSED = {
    "feed.csv": (cell(3, "many").encode(), 3, "line 5"),
    "a.csv": (RAW[:-4], 3, "cut"),
    "b.csv": (b"", 3, "is empty"),
    "c.csv": (cell(2, "caffè").encode("latin-1"), 3, "not utf-8"),
    "d.csv": (WHOLE, 3, "d.csv"),
    "e.csv": (BOOK, 3, "e.csv"),
    "f.csv.gz": (flipped(RAW, 3), 3, "no gzip file"),
    "g.csv": (cell(2, "x" * 1_000_000).encode(), 3, "usable_item"),
    "h.csv": (b"\n".join(line for line in RAW.split(b"\n") if b"-1" not in line[:9]), 3, "delivered_up_to_cutoff"),
    "none.csv": (None, 2, "there is no such file"),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "dags/customers").mkdir(parents=True)
    (folder / "data_contracts").mkdir()
    (folder / "dags/customers/acme.yaml").write_text(CUSTOMER)
    (folder / "data_contracts/acme.odcs.yaml").write_text(
        TOLERANT.replace("gateMostly, value: 0.9", "gateMostly, value: 1.0")
    )
    return folder


def command(shop: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "FORECASTING_ROOT": str(shop), "FORECASTING_HOME": str(shop / "home")}
    return subprocess.run(
        [sys.executable, "-m", "forecasting", *words], env=env, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("name", ["g.csv", "none.csv"])
def test_a_refused_delivery_is_a_sentence_and_an_exit_code(shop, name):
    data, code, said = REFUSED[name]
    if data is not None:
        (shop / name).write_bytes(data)
    done = command(shop, "contract", "test", "acme", str(shop / name), "--date", "2024-01-20")
    told = done.stdout + done.stderr
    assert done.returncode == code, told[-2000:]
    assert said in " ".join(told.split()), told[-2000:]
    assert "Traceback" not in told
    assert len(told) < 6000
