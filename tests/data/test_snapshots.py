from __future__ import annotations

import base64
import dataclasses
import logging
import os
import subprocess
import threading
import time
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.data import snapshots
from forecasting.data.snapshots import SnapshotRef, content_hash, freeze, history, read, rows_hash
from forecasting.errors import ConfigurationError, SnapshotCorruptedError, SnapshotUnavailableError
from tests.buckets import buckets


def make_panel(series=3, days=70, seed=1):
    rng = np.random.default_rng(seed)
    ds = pd.date_range("2024-01-01", periods=days).as_unit("ns")
    frame = pd.DataFrame({"unique_id": np.repeat([f"S{i}/1" for i in range(series)], days), "ds": np.tile(ds, series)})
    frame["y"] = rng.poisson(4, len(frame)).astype(float)
    frame["promo"] = rng.integers(0, 2, len(frame)).astype(float)
    frame.loc[[0, 7], "y"] = np.nan
    return frame


PANEL = make_panel()
FACTS = {"cutoff": "2024-03-10", "contract": "acme 1.0.0"}


def store(home, panel=PANEL, run="acme/2024-03-10/1", facts=FACTS, customer="acme", **more):
    return freeze(home, panel, facts, customer_id=customer, run_id=run, lock=nullcontext(), **more)


def objects(home, customer="acme"):
    return sorted(p for p in (Path(home.snapshot_dvc_url) / customer).rglob("*") if p.is_file())


def empty_caches(home):
    """What another worker has: nothing but the remotes."""
    return dataclasses.replace(home, home=home.home.with_name(f"other{time.monotonic_ns()}"))


def test_what_is_frozen_is_read_back_also_by_a_worker_that_has_only_the_remotes(home):
    ref = store(home)
    for place in (home, empty_caches(home)):
        panel, manifest = read(place, ref)
        pd.testing.assert_frame_equal(panel, PANEL)
        assert manifest["facts"] == FACTS
        assert [part["path"] for part in manifest["parts"]] == [f"panel/2024-0{m}.parquet" for m in (1, 2, 3)]
    assert list(read(home, ref, columns=["y"])[0]) == ["y"]
    assert SnapshotRef.parse(str(ref)) == ref


def test_the_same_content_stores_no_new_object_and_a_retry_no_new_commit(home):
    first = store(home)
    before = objects(home)
    assert store(home) == first
    second = store(home, run="acme/2024-03-10/2")
    assert objects(home) == before
    assert second.content == first.content
    assert second.commit != first.commit


def test_only_changed_months_are_stored_again(home):
    store(home)
    before = len(objects(home))
    changed = PANEL.copy()
    changed.loc[changed["ds"] == "2024-03-01", "y"] += 1
    store(home, changed, run="acme/2024-03-11/1")
    assert len(objects(home)) == before + 2  # the month, and the folder's listing


def test_two_homes_make_the_same_commit_of_the_same_run(home, tmp_path):
    urls = {"snapshot_git_url": f"{tmp_path}/b/git", "snapshot_dvc_url": f"{tmp_path}/b/dvc"}
    other = dataclasses.replace(home, home=tmp_path / "b", **urls)
    assert store(home) == store(other)


def test_history_is_newest_first(home):
    refs = [store(home, make_panel(seed=n), f"acme/2024-03-1{n}/1", {"cutoff": f"2024-03-1{n}"}) for n in (1, 2)]
    got = history(home, "acme")
    assert [(e.ref, e.run_id, e.cutoff, e.rows) for e in got] == [
        (refs[1], "acme/2024-03-12/1", "2024-03-12", 210),
        (refs[0], "acme/2024-03-11/1", "2024-03-11", 210),
    ]
    assert history(home, "nobody") == []
    older, _ = read(empty_caches(home), refs[0])
    pd.testing.assert_frame_equal(older, make_panel(seed=1))


def flip(path):
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_remote_object_is_refused_by_name(home):
    ref = store(home)
    part = read(home, ref)[1]["parts"][1]
    path = Path(home.snapshot_dvc_url) / "acme/files/md5" / part["md5"][:2] / part["md5"][2:]
    flip(path)
    with pytest.raises(SnapshotCorruptedError, match=r"panel/2024-02.parquet .*damaged: sha256"):
        read(empty_caches(home), ref)
    read(home, ref)  # the local cache is whole
    path.unlink()
    with pytest.raises(SnapshotCorruptedError, match=r"panel/2024-02.parquet .*is missing"):
        read(empty_caches(home), ref)


def test_a_damaged_cache_is_healed_from_the_remote(home, caplog):
    ref = store(home)
    part = read(home, ref)[1]["parts"][0]
    flip(home.home / "snapshots/cache/acme/files/md5" / part["md5"][:2] / part["md5"][2:])
    pd.testing.assert_frame_equal(read(home, ref)[0], PANEL)
    assert "damaged; taken from the remote" in caplog.text


def test_a_freeze_restores_what_the_remote_lost_or_holds_in_part(home):
    ref = store(home)
    victims = [p for p in objects(home) if not p.name.endswith(".dir")][:2]
    victims[0].unlink()
    victims[1].chmod(0o644)
    victims[1].write_bytes(b"cut")
    again = store(home, run="acme/2024-03-10/2")
    pd.testing.assert_frame_equal(read(empty_caches(home), again)[0], PANEL)
    assert again.content == ref.content


LITTER = {
    "garbled rwlock": lambda work: (work / ".dvc/tmp/rwlock").write_text("{"),
    "index.lock": lambda work: (work / ".git/index.lock").touch(),
    "ref lock": lambda work: (work / ".git/refs/heads/main.lock").touch(),
    "no workspace": lambda work: subprocess.run(["rm", "-rf", work / "panel"], check=True),
    "cut dvc file": lambda work: (work / "panel.dvc").write_text("outs:\n- md5: "),
    "cut git index": lambda work: (work / ".git/index").write_bytes(b"DIRC"),
    "no HEAD": lambda work: (work / ".git/HEAD").write_text(""),
    "cut state database": lambda work: [p.write_bytes(b"x") for p in work.parents[1].glob("state/**/*.db")],
    "unpushed commit": lambda work: subprocess.run(
        ["git", "-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "--allow-empty", "-m", "half"],
        cwd=work,
        check=True,
    ),
}


@pytest.mark.parametrize("spoil", LITTER.values(), ids=LITTER.keys())
def test_a_freeze_heals_what_a_killed_one_left(home, spoil):
    store(home, make_panel(seed=2))
    spoil(home.home / "snapshots" / "work" / "acme")
    ref = store(home, run="acme/2024-03-11/1")
    pd.testing.assert_frame_equal(read(empty_caches(home), ref)[0], PANEL)
    assert len(history(home, "acme")) == 2


def test_a_push_that_comes_second_is_done_again(home):
    """Another worker, with a home of its own, pushes while this one works."""
    rival = empty_caches(home)
    store(home)

    class Barge:
        def __enter__(self):
            self.original = snapshots._commit
            snapshots._commit = self.late

        def late(self, *arguments):
            snapshots._commit = self.original
            store(rival, make_panel(seed=5), "acme/2024-03-11/1")
            return self.original(*arguments)

        def __exit__(self, *error):
            snapshots._commit = self.original

    ref = freeze(home, PANEL, FACTS, customer_id="acme", run_id="acme/2024-03-12/1", lock=Barge())
    assert [e.run_id for e in history(home, "acme")] == ["acme/2024-03-12/1", "acme/2024-03-11/1", "acme/2024-03-10/1"]
    pd.testing.assert_frame_equal(read(home, ref)[0], PANEL)


def test_customers_do_not_meet(home):
    refs = [store(home, make_panel(seed=n), f"c{n}x/2024-03-10/1", customer=f"c{n}x") for n in (1, 2)]
    for n, ref in enumerate(refs, start=1):
        pd.testing.assert_frame_equal(read(empty_caches(home), ref)[0], make_panel(seed=n))


def test_the_users_own_git_and_dvc_settings_play_no_part(home, tmp_path, monkeypatch):
    hook = tmp_path / "hooks/pre-commit"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    (tmp_path / ".gitconfig").write_text(f"[core]\n\thooksPath = {hook.parent}\n[commit]\n\tgpgsign = true\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    store(home)
    author = subprocess.run(["git", "-c", "safe.directory=*", "log", "-1", "--format=%an %ad", "--date=iso"],
                            cwd=home.home / "snapshots/git/acme.git", env={"PATH": os.environ["PATH"]},
                            capture_output=True, text=True, check=True).stdout  # fmt: skip
    assert author == "forecasting 2024-03-10 00:00:00 +0000\n"
    assert not (tmp_path / ".config").exists()


def test_a_git_remote_that_hangs_is_given_up(home, tmp_path, monkeypatch):
    sleeper = tmp_path / "ssh"
    sleeper.write_text("#!/bin/sh\nsleep 60\n")
    sleeper.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(sleeper))
    hung = dataclasses.replace(home, snapshot_git_url="ssh://somebody:canary@host/git")
    start = time.monotonic()
    with pytest.raises(SnapshotUnavailableError, match="did not end within 1 s") as caught:
        store(hung, timeout=1)
    assert time.monotonic() - start < 10
    assert "canary" not in str(caught.value)


def test_a_dvc_remote_that_hangs_is_given_up():
    release = threading.Event()
    with pytest.raises(SnapshotUnavailableError, match="push did not end within 0 s"):
        snapshots._within(0.2, "push", release.wait)
    release.set()


def test_an_unreachable_remote_says_so_without_its_secrets(home, monkeypatch):
    bad = dataclasses.replace(home, snapshot_git_url="https://somebody:canary@127.0.0.1:1/git")
    with pytest.raises(SnapshotUnavailableError, match="check the snapshot git remote") as caught:
        store(bad)
    assert "canary" not in str(caught.value)
    bad = dataclasses.replace(
        home, snapshot_dvc_url="s3://key:canary@bucket/x?endpoint_url=http://127.0.0.1:1&region_name=us-east-1"
    )
    with pytest.raises(SnapshotUnavailableError, match="snapshot DVC remote") as caught:
        store(bad)
    assert "canary" not in str(caught.value)


def test_no_one_else_can_read_or_write_what_a_home_keeps(home, tmp_path):
    """DVC makes its databases' folders under umask 0 and reads pickles from them: whoever writes there runs code."""
    before = os.umask(0o022)
    try:
        left = home.home / "snapshots" / "state" / "work" / "acme"  # by an earlier version
        left.mkdir(parents=True)
        left.chmod(0o777)
        store(home)
        ref = store(home, make_panel(seed=2), run="acme/2024-03-11/1")
        other = empty_caches(home)
        read(home, ref)
        (home.home / "snapshots").chmod(0o755)
        read(home, ref)
        read(other, ref)
    finally:
        os.umask(before)
    for base in (home.home / "snapshots", other.home / "snapshots"):
        open_ones = [p for p in (base, *base.rglob("*")) if not p.is_symlink() and p.stat().st_mode & 0o077]
        assert open_ones == []
    assert list((home.home / "snapshots/state").rglob("*.db"))


@contextmanager
def git_over_http(folder, user, password):
    """Bare repos of ``folder`` behind a login, as a git server has them; yields its address and the logins it saw."""
    logins = []
    wanted = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            logins.append(self.headers.get("Authorization"))
            if logins[-1] != wanted:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            env = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(folder),
                "GIT_HTTP_EXPORT_ALL": "1",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REMOTE_USER": user,
                "CONTENT_TYPE": self.headers.get("Content-Type") or "",
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding") or "",
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
            }
            done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=True)
            head, _, answer = done.stdout.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
            self.send_response(int(headers.pop("Status", "200").split()[0]))
            for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET  # noqa: N815 - the name that http.server looks for

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", logins
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def test_a_git_login_is_in_no_file_and_on_no_command_line(home, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, logger="forecasting")
    secret = "ca/nary@5f1c"
    bare = tmp_path / "server/acme.git"
    subprocess.run(["git", "init", "--quiet", "--bare", bare], check=True)
    subprocess.run(["git", "-C", bare, "config", "http.receivepack", "true"], check=True)
    commands = []
    run = snapshots._run
    monkeypatch.setattr(snapshots, "_run", lambda command, *rest: commands.append(command) or run(command, *rest))
    with git_over_http(bare.parent, "ci", secret) as (address, logins):
        there = dataclasses.replace(home, snapshot_git_url=f"http://ci:{quote(secret, safe='')}@{address}")
        ref = store(there)
        store(there, make_panel(seed=2), run="acme/2024-03-11/1")
        pd.testing.assert_frame_equal(read(empty_caches(there), ref)[0], PANEL)
        assert len(history(there, "acme")) == 2
        assert {login for login in logins if login} == {f"Basic {base64.b64encode(f'ci:{secret}'.encode()).decode()}"}
        wrong = dataclasses.replace(there, snapshot_git_url=f"http://ci:wrong-canary@{address}")
        with pytest.raises(SnapshotUnavailableError) as caught:
            store(wrong, run="acme/2024-03-12/1")
    traces = [secret, quote(secret, safe=""), "wrong-canary"]
    assert not [c for c in commands for trace in traces if trace in " ".join(map(str, c))]
    assert not [t for t in traces if t in caplog.text or t in str(caught.value)]
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert not [p for p in files for trace in traces if trace.encode() in p.read_bytes()]


def test_a_git_url_with_a_bare_slash_in_its_password_is_refused_unseen(home):
    with pytest.raises(ConfigurationError, match=r"FORECASTING_SNAPSHOT_GIT_URL.*%2F") as caught:
        store(dataclasses.replace(home, snapshot_git_url="https://ci:ca/nary@host/git"))
    assert "nary" not in str(caught.value)


def test_snapshots_in_s3_read_back_and_leave_no_secret_behind(home, caplog):
    caplog.set_level(logging.DEBUG, logger="forecasting")
    with buckets("canary", "snaps") as (address, _):
        url = f"s3://key:canary@snaps/prod?endpoint_url=http://{address}&region_name=us-east-1"
        there = dataclasses.replace(home, snapshot_dvc_url=url)
        ref = store(there)
        pd.testing.assert_frame_equal(read(empty_caches(there), ref)[0], PANEL)
    assert "canary" not in caplog.text
    files = [p for p in home.home.rglob("*") if p.is_file()]
    assert not [p for p in files if b"canary" in p.read_bytes()]


def test_a_ref_of_another_content_is_refused(home):
    ref = store(home)
    with pytest.raises(SnapshotCorruptedError, match="another content"):
        read(home, dataclasses.replace(ref, content="0" * 64))
    with pytest.raises(SnapshotUnavailableError, match="does not hold this commit"):
        read(home, dataclasses.replace(ref, commit="0" * 40))
    with pytest.raises(ValueError, match="customer@commit:content"):
        SnapshotRef.parse("acme@main:x")


cell = st.tuples(st.integers(0, 2), st.integers(0, 3), st.sampled_from([0.0, -0.0, 1.5, float("nan"), 1e9]))


@settings(deadline=None)
@given(st.lists(cell, max_size=12), st.lists(cell, max_size=12))
def test_content_is_equal_exactly_when_the_values_are(a, b):
    dtypes = {"unique_id": object, "ds": "datetime64[ns]", "y": float}
    start, day = pd.Timestamp("2024-01-01"), pd.Timedelta(days=1)
    frames = [
        pd.DataFrame([(f"S{s}", start + n * day, y) for s, n, y in rows], columns=list(dtypes)).astype(dtypes)
        for rows in (a, b)
    ]
    assert (content_hash(frames[0]) == content_hash(frames[1])) == frames[0].equals(frames[1])


def test_the_content_of_a_known_panel_never_changes():
    """A golden value: as_frozen and run keys of years ago depend on it."""
    days = pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-01"])
    panel = pd.DataFrame({"unique_id": ["a/1", "a/1", "è/2"], "ds": days, "y": [1.0, float("nan"), 0.1]})
    assert content_hash(panel) == rows_hash(panel[["y", "ds", "unique_id"]]) == GOLDEN


GOLDEN = "47106dc1b58c26858a98dd719b4e0cf3b008835dc55f62b4c1782b06f67addb8"
