"""The small customer of the tests, cut from the pasta data: what a night needs and no more."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = [
    "FIRST_DAY",
    "FOREVER",
    "PASTA",
    "SKUS",
    "copy",
    "cut",
    "declaration",
    "git",
    "keep",
    "lines_of",
    "loosen",
    "write_lines",
]

ROOT = Path(__file__).resolve().parent.parent
PASTA = "examples/pasta/hierarchical_sales_data.csv"
SKUS = ("B1_1", "B1_2", "B1_3", "B2_1", "B2_2", "B3_1", "B4_1")
FIRST_DAY = "2017-06-01"
FOREVER = "first_date: 2018-09-01\nlast_date: 2018-12-31"
_YAML = """
id: {id}
time_zone: Europe/Rome
{dates}
source:
  uri: {uri}
  wide:
    columns: (?P<value>QTY|PROMO)_(?P<brand>B[0-9]+)_(?P<item>[0-9]+)
    values: {{QTY: quantity, PROMO: promotion}}
columns: {{ds: DATE, y: quantity, keys: [brand, item]}}
exogenous:
  promotion: {{known: future}}
hierarchy: [total, brand]
contract: {contract}
absent: closed
horizon: 7
history_days: 365
pool: [{pool}]
backtest: {{windows: 4, select: 2}}
promotion: {{min_origins: 2}}
"""


def declaration(
    customer_id: str = "mini", uri: str = "examples/mini.csv", dates: str = FOREVER, contract: str = "pasta_sales",
    pool: str = "seasonal_naive, weekday_mean, auto_ets, lightgbm",
) -> str:  # fmt: skip
    """The small customer's file; ``dates`` and ``uri`` may bring further keys."""
    return _YAML.format(id=customer_id, uri=uri, dates=dates, contract=contract, pool=pool)


def copy(root: Path) -> None:
    """Lay ``root`` out as the checkout is; of the examples only pasta: the others are hundreds of files."""
    for folder in ("dags", "data_contracts", "examples/pasta"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))


def cut(target: Path, skus: Sequence[str] = SKUS) -> None:
    """Write the days from ``FIRST_DAY`` of these SKUs to ``target``, in pasta's own form."""
    lines = lines_of(ROOT / PASTA)
    kept = [i for i, name in enumerate(lines[0]) if name == "DATE" or name.split("_", 1)[1] in skus]
    write_lines(target, [[line[i] for i in kept] for n, line in enumerate(lines) if n == 0 or line[0] >= FIRST_DAY])


def loosen(root: Path, least: int, contract: str = "pasta_sales") -> None:
    """Have the contract ask for ``least`` rows: pasta's own asks for a week of all its SKUs."""
    path = root / f"data_contracts/{contract}.odcs.yaml"
    path.write_text(path.read_text().replace("min_value: 826", f"min_value: {least}"))


def lines_of(source: Path) -> list[list[str]]:
    with source.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def write_lines(target: Path, lines: list[list[str]]) -> None:
    with target.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def git(root: Path, *command: str) -> str:
    """What git said of the repository at ``root``."""
    whose = ("-c", "user.name=tests", "-c", "user.email=tests@localhost", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *whose, *command], cwd=root, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def keep(root: Path) -> None:
    """Make ``root`` a repository whose branch main holds what stands there."""
    git(root, "init", "--quiet", "--initial-branch", "main")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "Begin")
