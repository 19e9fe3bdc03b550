"""A change rehearsed for real, in a repository of its own: BASE's nights, the change's nights, and what they left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tests import small
from tests.homes import deployments
from tests.homes.deployments import LIMIT, ROOT, Home

pytestmark = pytest.mark.homes

CHEAP = "seasonal_naive, weekday_mean"


@dataclass(frozen=True)
class Repository:
    """A checkout under git with two small customers, and the command that is run on it."""

    root: Path
    home: Path

    @property
    def deployment(self) -> Home:
        return Home(self.home / "dev", self.root)

    def edit(self, path: str, before: str, after: str) -> None:
        text = (self.root / path).read_text(encoding="utf-8")
        assert before in text
        (self.root / path).write_text(text.replace(before, after), encoding="utf-8")

    def rehearse(self, base: str = "main", code: Path = ROOT) -> tuple[int, str]:
        """Exit code and what was said."""
        options = ["--sample", "5", "--home", str(self.deployment.path), "--report", str(self.home / "report.md")]
        environ = {**Home(self.home, self.root).environ, "PYTHONPATH": str(code)}
        done = subprocess.run(
            [sys.executable, "-m", "forecasting", "rehearse", base, *options],
            env=environ, cwd=code, text=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def runs(self) -> pd.DataFrame:
        """The runs of the rehearsal's own deployment."""
        return self.deployment.sql("""
            select r.customer_id, r.run_date::text, r.n, r.status, r.code_version, r.series_in, d.kind, d.challenger,
                   d.champion, d.promoted, d.reason, v.registry_name, v.registry_version
            from forecasting.run r join forecasting.decision d using (customer_id, run_id)
            left join forecasting.model_version v on v.customer_id = r.customer_id and v.version = d.challenger
            order by r.customer_id, r.n""")


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    root, home = tmp_path / "checkout", tmp_path / "home"
    root.mkdir()
    deployments.lay_out(root)
    for name in ("one", "two"):
        text = small.declaration(name, dates=deployments.PAST, pool=CHEAP)
        (root / f"dags/customers/{name}.yaml").write_text(text, encoding="utf-8")
    small.keep(root)
    yield Repository(root, home)
    assert small.git(root, "worktree", "list").count("\n") == 1, "BASE's worktree was left behind"


def test_a_change_of_one_customers_file_retrains_only_that_one(repository: Repository) -> None:
    repository.edit("dags/customers/one.yaml", f"pool: [{CHEAP}]", f"pool: [{CHEAP}, tsb]")
    repository.edit("dags/customers/two.yaml", "horizon: 7", "# a week\nhorizon: 7")
    code, said = repository.rehearse()
    assert code == 0, said
    runs = repository.runs()
    assert set(runs["customer_id"]) == {"one"}
    assert list(runs["run_date"].unique()) == ["2018-10-03"]
    assert list(runs["challenger"]) == ["1.0.0", "1.1.0"]
    assert list(runs["kind"]) == ["FIRST", "MINOR"]
    assert list(runs["champion"]) == [None, "1.0.0"]
    assert list(runs["series_in"]) == [5, 5]
    assert list(runs["registry_name"].unique()) == ["dev.one"]
    assert runs["registry_version"].notna().all()
    report = (repository.home / "report.md").read_text(encoding="utf-8")
    assert "| one | its file: pool | 1.0.0 → 1.1.0 | MINOR |" in report
    assert "5 of 7 series" in report
    assert "two" not in report


def test_code_of_both_sides_trains_its_own_side(repository: Repository) -> None:
    ignored = small.shutil.ignore_patterns("__pycache__")
    small.shutil.copytree(ROOT / "forecasting", repository.root / "forecasting", ignore=ignored)
    small.shutil.copy(ROOT / "requirements.lock", repository.root)
    (repository.root / "dags/customers/two.yaml").unlink()
    small.git(repository.root, "add", "--all")
    small.git(repository.root, "commit", "--quiet", "--message", "Bring the code")
    selection = repository.root / "forecasting/learn/selection.py"
    selection.write_text(selection.read_text(encoding="utf-8") + "# a word\n", encoding="utf-8")
    code, said = repository.rehearse("HEAD", repository.root)
    assert code == 0, said
    runs = repository.runs()
    assert len(set(runs["code_version"])) == 2
    assert list(runs["challenger"]) == ["1.0.0", "1.0.0"]
    assert "kept: 1.0.0 came out again" in list(runs["reason"])[1]
    assert "code: forecasting/learn/selection.py" in said


def test_a_contract_changed_under_its_old_version_fails_each_customer_that_shares_it(repository: Repository) -> None:
    repository.edit("data_contracts/pasta_sales.odcs.yaml", "mostly: 0.999", "mostly: 0.998")
    code, said = repository.rehearse()
    assert code == 1, said
    for name in ("one", "two"):
        assert f"**{name} (its contract pasta_sales) FAILED**" in said
    assert "give the changed contract a version of its own" in said
