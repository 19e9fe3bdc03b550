"""Which customers a change touches: a table of cases, and the same read from a real git repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from forecasting import config
from forecasting.cli import changes, rehearsal
from forecasting.cli.changes import Change, touched
from forecasting.config import BrokenCustomer, Customer
from forecasting.errors import ConfigurationError
from tests import small
from tests.small import git


def read(folder: Path, *texts: str) -> list[Customer | BrokenCustomer]:
    folder.mkdir()
    for text in texts:
        name = text.split("id: ")[1].split()[0]
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return config.load_customers(folder)


ONE, TWO = small.declaration("one"), small.declaration("two")
OTHER = small.declaration("two", contract="live_sales")
BROKEN = ONE.replace("horizon: 7", "horizn: 7")
FILE, CONTRACT, OUTGOING = "dags/customers/one.yaml", "data_contracts/pasta_sales.odcs.yaml", changes.OUTGOING
CODE = "forecasting/learn/selection.py"


@pytest.mark.parametrize(
    ("before", "after", "paths", "expected"),
    [
        ((ONE, TWO), (ONE, TWO), {"tests/small.py", "docs/sources.md", "plugins/x.py", "dags/x.py"}, {}),
        ((ONE, TWO), (ONE + "# why\n", TWO), {FILE}, {}),
        ((ONE, TWO), (ONE + "seed: 1\n", TWO), {FILE}, {}),
        ((ONE, TWO), (ONE + "seed: 2\n", TWO), {FILE}, {"one": ("retrain", "its file: seed")}),
        ((ONE,), (ONE.replace("horizon: 7", "horizon: 14"),), {FILE}, {"one": ("retrain", "its file: horizon")}),
        ((ONE, OTHER), (ONE, OTHER), {CONTRACT}, {"one": ("retrain", "its contract pasta_sales")}),
        (
            (ONE, TWO),
            (ONE, TWO),
            {CONTRACT},
            {"one": ("retrain", "its contract pasta_sales"), "two": ("retrain", "its contract pasta_sales")},
        ),
        ((ONE, TWO), (ONE, TWO), {CODE}, {"one": ("retrain", f"code: {CODE}"), "two": ("retrain", f"code: {CODE}")}),
        ((ONE,), (ONE,), {CODE, "requirements.lock"}, {"one": ("retrain", f"code: {CODE} and 1 more")}),
        ((ONE,), (ONE,), {f"data_contracts/{OUTGOING}"}, {"one": ("retrain", "the outgoing contract")}),
        ((ONE,), (ONE + "seed: 2\n",), {FILE, CODE}, {"one": ("retrain", f"its file: seed; code: {CODE}")}),
        ((ONE,), (ONE, TWO.replace("horizon: 7", "horizon: 8")), {FILE}, {"two": ("new", "its file is new")}),
        ((ONE, TWO), (TWO,), {FILE}, {"one": ("gone", "its file is gone")}),
        (
            (ONE,),
            (TWO,),
            {FILE},
            {"one": ("gone", "its file is gone, two has its declaration"), "two": ("new", "renamed from one")},
        ),
        ((BROKEN, TWO), (ONE, TWO), {FILE}, {"one": ("new", "its file was broken")}),
        ((ONE, TWO), (BROKEN, TWO), {FILE}, {"one": ("broken", "Did you mean 'horizon'?")}),
        ((BROKEN,), (BROKEN,), {"docs/sources.md"}, {"one": ("broken", "horizn")}),
    ],
    ids=[
        "nothing that counts", "a comment", "a default written out", "another recipe", "another interface",
        "the contract of one", "a contract of two", "code", "code and lock", "what we promise", "file and code", "new",
        "gone", "renamed", "was broken", "is broken", "was and is broken",
    ],
)  # fmt: skip
def test_a_change_touches_these_customers(tmp_path, before, after, paths, expected):
    found = touched(read(tmp_path / "before", *before), read(tmp_path / "after", *after), paths)
    assert {change.customer: change.fate for change in found} == {name: fate for name, (fate, _) in expected.items()}
    for change in found:
        why = expected[change.customer][1]
        assert change.why == why if change.fate != "broken" else why in change.why


# --- read from git --------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(checkout: Path) -> Path:
    """A checkout under git with two customers of one contract."""
    for path in (checkout / "dags/customers").glob("*.yaml"):
        path.unlink()
    for text in (ONE, TWO):
        (checkout / f"dags/customers/{text.split('id: ')[1].split()[0]}.yaml").write_text(text, encoding="utf-8")
    small.keep(checkout)
    return checkout


def settings_of(root: Path, home: Path, **environ: str) -> config.Settings:
    return config.settings({"FORECASTING_HOME": str(home), "FORECASTING_ROOT": str(root), **environ})


def test_the_working_tree_is_compared_untracked_files_included(repository, tmp_path_factory):
    (repository / "dags/customers/one.yaml").write_text(ONE + "seed: 2\n", encoding="utf-8")
    (repository / "dags/customers/new.yaml").write_text(small.declaration("new", "examples/b.csv"), encoding="utf-8")
    settings = settings_of(repository, tmp_path_factory.mktemp("home"))
    _, found = rehearsal.changes_since(settings, "main")
    assert found == [Change("new", "new", "its file is new"), Change("one", "retrain", "its file: seed")]
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "Change")
    assert rehearsal.changes_since(settings, "main") == (git(repository, "rev-parse", "main").strip(), [])
    assert rehearsal.changes_since(settings, "HEAD~1")[1] == found
    assert git(repository, "worktree", "list").count("\n") == 1
    assert git(repository, "status", "--porcelain") == ""


@pytest.mark.parametrize("base", ["nowhere", "--output=/tmp/x", "", "main:dags"])
def test_a_base_that_is_no_revision_is_refused_by_name(repository, tmp_path_factory, base):
    with pytest.raises(ConfigurationError, match="is no revision of"):
        rehearsal.changes_since(settings_of(repository, tmp_path_factory.mktemp("home")), base)


def test_a_folder_without_git_is_refused(checkout, tmp_path_factory):
    with pytest.raises(ConfigurationError, match="is no git checkout"):
        rehearsal.changes_since(settings_of(checkout, tmp_path_factory.mktemp("home")), "main")


def test_customers_outside_of_the_checkout_are_refused(repository, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("customers")
    (repository / "docs.md").write_text("x")
    settings = settings_of(repository, tmp_path_factory.mktemp("home"), FORECASTING_CUSTOMERS=str(elsewhere))
    with pytest.raises(ConfigurationError, match="outside of the checkout"):
        rehearsal.changes_since(settings, "main")


@pytest.mark.parametrize("environment", ["staging", "prod"])
def test_a_change_is_tried_out_in_dev_only(repository, tmp_path_factory, environment):
    settings = settings_of(repository, tmp_path_factory.mktemp("home"), FORECASTING_ENV=environment)
    with pytest.raises(ConfigurationError, match=f"in dev; FORECASTING_ENV is {environment}"):
        rehearsal.run(settings, "main", sample=None, home=None, say=print)


# --- the report -----------------------------------------------------------------------------------------------------


def told(*outcomes: rehearsal.Outcome, sample: int | None = 60) -> rehearsal.Rehearsal:
    return rehearsal.Rehearsal("main", "0123456789abcdef", sample, Path("home"), list(outcomes))


def test_the_report_tells_a_kept_champion_from_a_failure():
    kept = rehearsal.Outcome(
        Change("one", "retrain", "its file: pool"), "1.0.0", "1.1.0", "MINOR", reason="kept: no gain",
        evidence={"gain": 0.01, "p": 0.2, "compared": "recipes", "origins": 6,
                  "sample": {"series": 60, "of": 99}},
        rmsse=(0.8, 0.79), seconds=41.4,
    )  # fmt: skip
    text = rehearsal.report(told(kept))
    assert (
        "| one | its file: pool | 1.0.0 → 1.1.0 | MINOR | 0.8000 → 0.7900 | +1.00% | p 0.200; recipes at 6 origins; "
        "60 of 99 series | kept: no gain | 41 |" in text
    )
    assert not told(kept).failed
    broken = rehearsal.Outcome(Change("two", "retrain", "code: a.py"), fault="BASE could not be trained: why")
    assert told(kept, broken).failed
    assert "- **two (code: a.py) FAILED**: BASE could not be trained: why" in rehearsal.report(told(broken))


def test_the_report_says_what_was_not_trained_and_why():
    gone = rehearsal.Outcome(Change("one", "gone", "its file is gone"))
    assert "- one: its file is gone" in rehearsal.report(told(gone))
    assert not told(gone).failed
    assert "No customer is touched" in rehearsal.report(told())


def test_a_major_version_is_said_not_to_be_comparable():
    major = rehearsal.Outcome(Change("one", "retrain", "its file: horizon"), "1.0.0", "2.0.0", "MAJOR", promoted=True)
    assert "another interface: not comparable" in rehearsal.report(told(major))
