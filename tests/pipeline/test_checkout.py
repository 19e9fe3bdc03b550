"""What a run records of its code, on real repositories; and libraries that are not as they were installed."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from pathlib import Path

import pytest

from forecasting.errors import ConfigurationError
from forecasting.pipeline import checkout


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    made = tmp_path / "repository"
    made.mkdir()
    git(made, "init", "--quiet", "--initial-branch=main")
    (made / "file").write_text("1")
    git(made, "add", "file")
    git(made, "commit", "--quiet", "-m", "one")
    return made


def test_the_commit_is_read_wherever_git_keeps_it(repository: Path, tmp_path: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    assert checkout.commit(root=repository) == head  # a branch's own file
    git(repository, "pack-refs", "--all")
    assert not (repository / ".git/refs/heads/main").exists()
    assert checkout.commit(root=repository) == head
    git(repository, "worktree", "add", "--quiet", "-b", "aside", str(tmp_path / "tree"))
    (tmp_path / "tree/other").write_text("2")
    git(tmp_path / "tree", "add", "other")
    git(tmp_path / "tree", "commit", "--quiet", "-m", "two")
    aside = git(tmp_path / "tree", "rev-parse", "HEAD")
    assert checkout.commit(root=tmp_path / "tree") == aside != head
    git(repository, "checkout", "--quiet", "--detach", aside)
    assert checkout.commit(root=repository) == aside


def test_without_a_repository_or_a_commit_none_is_told(tmp_path: Path) -> None:
    assert checkout.commit(root=tmp_path) is None
    git(tmp_path, "init", "--quiet")
    assert checkout.commit(root=tmp_path) is None


def test_an_image_names_its_commit(repository: Path) -> None:
    assert checkout.commit("a" * 40, repository) == "a" * 40
    with pytest.raises(ConfigurationError, match=r"FORECASTING_COMMIT='v1\.2': expected a whole commit"):
        checkout.commit("v1.2", repository)


def test_the_hash_of_the_package_follows_every_source_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.py").write_text("1")
    one = checkout.package_hash(tmp_path)
    (tmp_path / "sub/a.py").rename(tmp_path / "sub/b.py")
    two = checkout.package_hash(tmp_path)
    (tmp_path / "sub/notes.txt").write_text("no source")
    assert one != two == checkout.package_hash(tmp_path)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of one file, installed as pip would."""
    home = tmp_path / "site"
    (home / "invented").mkdir(parents=True)
    source = home / "invented/__init__.py"
    source.write_text("ANSWER = 42\n")
    info = home / "invented-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: invented\nVersion: 1.0\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(source.read_bytes()).digest()).decode().rstrip("=")
    (info / "RECORD").write_text(f"invented/__init__.py,sha256={digest},12\ninvented-1.0.dist-info/RECORD,,\n")
    monkeypatch.syspath_prepend(str(home))
    return home


def test_an_edited_library_is_named(library: Path) -> None:
    assert checkout.installed(("invented", "absent")) == {"invented": "1.0", "absent": "none"}
    assert list(checkout.altered(("invented", "absent"))) == []
    (library / "invented/__init__.py").write_text("ANSWER = 43\n")
    assert list(checkout.altered(("invented",))) == [
        "invented: invented/__init__.py is not the file that was installed"
    ]


def test_a_library_taken_from_elsewhere_is_named(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere/invented").mkdir(parents=True)
    (tmp_path / "elsewhere/invented/__init__.py").write_text("ANSWER = 42\n")
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    assert [line.split(",")[0] for line in checkout.altered(("invented",))] == [
        f"invented is imported from {tmp_path}/elsewhere/invented"
    ]
