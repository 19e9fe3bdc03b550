"""MLflow on a real PostgreSQL: what is registered is what comes back, once, and only if nobody touched it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.errors import BrokenBundleError, RegistryUnavailableError, VersionTakenError
from forecasting.store import registry
from forecasting.store.embedded import server
from forecasting.store.registry import Registered

FILES = {"manifest.json": b"{}", "lightgbm/model.txt": b"tree\n", "choices.parquet": bytes(range(256))}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server(tmp_path_factory.mktemp("home")) as running:
        yield running.url("mlflow")


@pytest.fixture
def artifacts(tmp_path: Path) -> str:
    return f"file://{tmp_path}/artifacts"


def register(store, artifacts, files=FILES, run="pasta/2018-10-01/1", semver="1.0.0") -> Registered:
    tags, metrics = {"semver": semver, "customer": "pasta"}, {"rmsse": 0.9, "unknown": float("nan")}
    return registry.register(store, artifacts, "dev.pasta", files, run_id=run, tags=tags, metrics=metrics, timeout=20)


def test_what_was_registered_is_what_is_loaded(store, artifacts):
    bundle = register(store, artifacts)
    assert registry.load(bundle.uri, bundle.sha256) == FILES


def test_a_retried_registration_is_the_same_version(store, artifacts):
    assert register(store, artifacts) == register(store, artifacts)


def test_a_folder_too_deep_for_mlflows_columns_will_do(store, tmp_path):
    deep = f"file://{tmp_path}/{'a_long_folder_name/' * 8}artifacts"
    known = {"run_id": "deep/2018-10-01/1", "tags": {}, "metrics": {}, "timeout": 20}
    bundle = registry.register(store, deep, "dev.deep", FILES, **known)
    assert registry.load(bundle.uri, bundle.sha256) == FILES
    assert registry.register(store, deep, "dev.deep", FILES, **known) == bundle


@pytest.mark.parametrize(
    ("files", "run", "semver"),
    [({**FILES, "manifest.json": b"[]"}, "pasta/2018-10-01/1", "1.0.1"), (FILES, "pasta/2018-10-08/1", "1.0.0")],
    ids=["other content", "other run"],
)
def test_another_bundle_or_run_is_another_version(store, artifacts, files, run, semver):
    other = register(store, artifacts, files, run, semver)
    assert other.registry_version != register(store, artifacts).registry_version


OTHER = {**FILES, "manifest.json": b"[1]"}


def test_the_same_version_with_other_bytes_is_refused(store, artifacts):
    from mlflow import MlflowClient

    register(store, artifacts, run="pasta/2018-10-02/1", semver="3.0.0")
    with pytest.raises(VersionTakenError, match=r"dev\.pasta 3\.0\.0 is version \d+ of MLflow, with bundle .* PATCH"):
        register(store, artifacts, OTHER, run="pasta/2018-10-09/1", semver="3.0.0")
    found = MlflowClient(store, store).search_model_versions("name = 'dev.pasta' AND tag.semver = '3.0.0'")
    assert len(found) == 1


def test_of_two_that_take_a_version_at_once_the_first_has_it(store, artifacts, monkeypatch):
    """The other one looks before the first is there, and is refused after."""
    from mlflow import MlflowClient

    refuse, looked = registry._refuse_taken, []

    def late(client, name, tags, below=None):
        if below is None:
            looked.append(name)
            if len(looked) == 1:
                register(store, artifacts, run="pasta/2018-10-03/1", semver="4.0.0")
            return
        refuse(client, name, tags, below)

    monkeypatch.setattr(registry, "_refuse_taken", late)
    with pytest.raises(VersionTakenError):
        register(store, artifacts, OTHER, run="pasta/2018-10-10/1", semver="4.0.0")
    found = MlflowClient(store, store).search_model_versions("name = 'dev.pasta' AND tag.semver = '4.0.0'")
    assert [version.tags["run_id"] for version in found] == ["pasta/2018-10-03/1"]


def test_mlflow_shows_tags_metrics_and_where_the_bundle_is(store, artifacts):
    from mlflow import MlflowClient

    bundle = register(store, artifacts, run="pasta/2018-11-01/1")
    client = MlflowClient(tracking_uri=store, registry_uri=store)
    version = client.get_model_version(bundle.name, bundle.registry_version)
    run = client.get_run(version.run_id)
    assert version.source == bundle.uri
    assert version.tags == {"semver": "1.0.0", "customer": "pasta", "run_id": "pasta/2018-11-01/1",
                            "sha256": bundle.sha256, "bundle_uri": bundle.uri}  # fmt: skip
    assert run.data.metrics == {"rmsse": 0.9}
    assert run.info.status == "FINISHED"


def test_a_registration_that_was_killed_half_way_is_completed(store, artifacts, monkeypatch):
    from mlflow import MlflowClient

    with monkeypatch.context() as half:
        half.setattr(MlflowClient, "create_model_version", lambda *_, **__: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(RegistryUnavailableError):
            register(store, artifacts, run="pasta/2018-12-01/1")
    bundle = register(store, artifacts, run="pasta/2018-12-01/1")
    client = MlflowClient(tracking_uri=store, registry_uri=store)
    experiment = client.get_experiment_by_name("dev.pasta")
    runs = client.search_runs([experiment.experiment_id], "tags.run_id = 'pasta/2018-12-01/1'")
    assert [run.info.run_id for run in runs] == [client.get_model_version(bundle.name, bundle.registry_version).run_id]


def test_registering_writes_nothing_into_the_working_folder(store, artifacts, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    register(store, artifacts, run="pasta/2018-10-15/1")
    assert not list(Path().iterdir())


def altered(folder: Path) -> None:
    (folder / "lightgbm/model.txt").write_bytes(b"Tree\n")


def cut(folder: Path) -> None:
    (folder / "lightgbm/model.txt").write_bytes(b"tr")


def removed(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def added(folder: Path) -> None:
    (folder / "extra.json").write_bytes(b"{}")


def renamed(folder: Path) -> None:
    (folder / "manifest.json").rename(folder / "manifest2.json")


@pytest.mark.parametrize("damage", [altered, cut, removed, added, renamed])
def test_a_bundle_that_was_touched_is_not_loaded(store, artifacts, damage):
    bundle = register(store, artifacts)
    damage(Path(bundle.uri.removeprefix("file://")))
    with pytest.raises(BrokenBundleError, match="altered"):
        registry.load(bundle.uri, bundle.sha256)


def test_a_bundle_that_is_gone_says_what_to_do(artifacts):
    with pytest.raises(BrokenBundleError, match="restore it"):
        registry.load(f"{artifacts}/dev.pasta/0000", "0" * 64)


def test_loading_never_imports_mlflow(store, artifacts):
    bundle = register(store, artifacts)
    code = (
        "import sys; from forecasting.store import registry; registry.load(*sys.argv[1:]); "
        "print(any(name.split('.')[0] in {'mlflow', 'pandas', 'pyarrow'} for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, bundle.uri, bundle.sha256], capture_output=True, text=True,
                          check=True, cwd=Path(__file__).parents[2])  # fmt: skip
    assert done.stdout.strip() == "False"


def test_a_refused_connection_is_an_unavailable_registry_at_once(artifacts):
    began = time.monotonic()
    with pytest.raises(RegistryUnavailableError, match="unavailable"):
        register("postgresql+psycopg://me:canary-secret@127.0.0.1:1/mlflow", artifacts)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "http"])
def test_a_registry_that_never_answers_is_given_up(artifacts, scheme):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"{scheme}://me:canary-secret@127.0.0.1:{mute.getsockname()[1]}/mlflow"
        began = time.monotonic()
        with pytest.raises(RegistryUnavailableError) as caught:
            registry.register(url, artifacts, "dev.pasta", FILES, run_id="r", tags={}, metrics={}, timeout=2)
        assert time.monotonic() - began < 20
        assert "canary-secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../b", "a//b", "a\\b", ""])
def test_a_file_cannot_leave_its_bundle(store, artifacts, name):
    with pytest.raises(ValueError, match="cannot be a file of a bundle"):
        register(store, artifacts, {name: b""})


@given(st.dictionaries(st.text(min_size=1), st.binary(), min_size=1), st.data())
def test_the_hash_sees_every_name_and_every_byte(files, data):
    name = data.draw(st.sampled_from(sorted(files)))
    moved = {**files, name + "x": files[name]}
    moved.pop(name)
    grown = {**files, name: files[name] + b"x"}
    hashes = {registry.bundle_hash(some) for some in (files, grown)}
    assert len(hashes) == 2
    assert registry.bundle_hash(moved) != registry.bundle_hash(files) or name + "x" in files


def test_the_environment_is_as_it_was(store, artifacts):
    before = dict(os.environ)
    register(store, artifacts)
    assert dict(os.environ) == before
