"""Freeze panels under DVC and read them back, verified: one git + DVC repo and one remote prefix per customer.

Every freeze starts from the remotes and from files outside the repo, so what a killed predecessor left is swept away.
DVC runs without its git half (``core.no_scm``): git is called here, with a configuration of our own and time-outs.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from forecasting.config import Settings
from forecasting.errors import ConfigurationError, SnapshotCorruptedError, SnapshotUnavailableError
from forecasting.frames import PANEL
from forecasting.patience import within

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc_data.hashfile.db import HashFileDB

__all__ = ["Entry", "SnapshotRef", "content_hash", "freeze", "history", "read", "rows_hash"]

log = logging.getLogger(__name__)

T = TypeVar("T")
Manifest = dict[str, Any]

FORMAT = 1
"""Version of the manifest's layout."""
TRIES = 3
"""Freezes tried when another worker's push comes first."""
_GITCONFIG = """[user]
\tname = forecasting
\temail = forecasting@localhost
[safe]
\tdirectory = *
[core]
\thooksPath = /dev/null
[init]
\tdefaultBranch = main
[gc]
\tauto = 0
[receive]
\tautogc = false
"""
# git asks it on its standard input; the answer comes from the environment, which ps does not show to others
_HELPER = (
    '!f() { test "$1" = get && printf "username=%s\\npassword=%s\\n" '
    '"$SNAPSHOT_GIT_USER" "$SNAPSHOT_GIT_PASSWORD"; }; f'
)


@dataclass(frozen=True)
class SnapshotRef:
    """The name of a snapshot."""

    customer_id: str
    commit: str
    """Git commit of the manifest; differs between deployments."""
    content: str
    """:func:`content_hash` of the panel: the same wherever the panel is the same."""

    def __str__(self) -> str:
        return f"{self.customer_id}@{self.commit}:{self.content}"

    @staticmethod
    def parse(text: str) -> SnapshotRef:
        """Read what ``str`` wrote.

        Raises:
            ValueError: It is no name of a snapshot.

        >>> SnapshotRef.parse(str(SnapshotRef("pasta", "a" * 40, "b" * 64))).customer_id
        'pasta'
        """
        match = re.fullmatch(r"([a-z][a-z0-9_]{1,30})@([0-9a-f]{40}):([0-9a-f]{64})", text)
        if not match:
            raise ValueError(f"{text!r} is no snapshot; expected customer@commit:content")
        return SnapshotRef(*match.groups())


@dataclass(frozen=True)
class Entry:
    """One line of a customer's history of snapshots."""

    ref: SnapshotRef
    run_id: str
    cutoff: str
    rows: int
    facts: Manifest
    """What the run wrote into the manifest beside the parts."""


# --- hashes and parts -----------------------------------------------------------------------------------------------


def rows_hash(rows: pd.DataFrame) -> str:
    """SHA-256 of a frame's values in their order, independent of file formats and library versions.

    Columns count by name, in alphabetical order. Texts, floats, integers, days; NaN and -0.0 have one form each.

    >>> a = pd.DataFrame({"x": [0.0, float("nan")], "y": ["a", None]})
    >>> rows_hash(a) == rows_hash(a[["y", "x"]]), rows_hash(a) == rows_hash(a.assign(x=[1.0, 2.0]))
    (True, False)
    """
    digest = hashlib.sha256(f"{FORMAT} {len(rows)}".encode())
    for name in sorted(rows.columns):
        values = rows[name]
        digest.update(f"\n{name} {values.dtype.kind} ".encode())
        digest.update(_text_bytes(values) if values.dtype.kind == "O" else _number_bytes(values))
    return digest.hexdigest()


def _number_bytes(values: pd.Series) -> bytes:
    if values.dtype.kind == "M":
        return values.to_numpy("datetime64[ns]").astype("<i8").tobytes()
    if values.dtype.kind == "f":
        floats = values.to_numpy("<f8") + 0.0  # -0.0 becomes 0.0
        return np.where(np.isnan(floats), np.nan, floats).astype("<f8").tobytes()
    return values.to_numpy().astype("<i8").tobytes()


def _text_bytes(values: pd.Series) -> bytes:
    codes, texts = pd.factorize(values, use_na_sentinel=True)  # numbered by first appearance
    return json.dumps(list(texts)).encode() + codes.astype("<i8").tobytes()


def content_hash(panel: pd.DataFrame) -> str:
    """The content of a canonical panel; row order is part of its schema, so it is not sorted here."""
    return rows_hash(panel)


@dataclass(frozen=True)
class _Part:
    """One parquet file of a snapshot: a month of the panel."""

    path: str
    sha256: str
    md5: str
    bytes: int
    rows: int


def _write_parts(panel: pd.DataFrame, folder: Path) -> list[_Part]:
    month = panel["ds"].to_numpy().astype("datetime64[M]")
    return [_write_part(panel[month == m], folder / f"{m}.parquet") for m in np.unique(month)]


def _write_part(rows: pd.DataFrame, path: Path) -> _Part:
    table = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, use_dictionary=True)
    data = sink.getvalue()
    path.write_bytes(data)
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return _Part(f"panel/{path.name}", hashlib.sha256(data).hexdigest(), md5, len(data), len(rows))


# --- one customer's places ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Store:
    """One customer's folders and remotes, and git with a configuration of our own."""

    settings: Settings
    customer_id: str
    timeout: float

    @property
    def base(self) -> Path:
        return self.settings.home / "snapshots"

    @property
    def work(self) -> Path:
        return self.base / "work" / self.customer_id

    @property
    def reading(self) -> Path:
        """A clone that only reads: a read takes no lock, so it keeps out of ``work``."""
        return self.base / "read" / self.customer_id

    @property
    def cache(self) -> Path:
        return self.base / "cache" / self.customer_id

    def folder(self, *names: str) -> Path:
        """A folder below the base, made for the owner alone: DVC reads pickles from what it keeps there."""
        folder = self.base
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("", *names):
            folder /= name
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_mode & 0o077:
                folder.chmod(0o700)
        return folder

    @property
    def git_url(self) -> str:
        """Without credentials: it stands in ``.git/config``, on command lines and in messages."""
        return f"{_split_git_url(self.settings.snapshot_git_url)[0].rstrip('/')}/{self.customer_id}.git"

    @property
    def git_folder(self) -> Path | None:
        """The git remote as a folder, or None when it is a server."""
        if self.git_url.startswith("file://"):
            return Path(self.git_url.removeprefix("file://"))
        return None if "://" in self.git_url or re.match(r"[^/]+:", self.git_url) else Path(self.git_url)

    def git(
        self, *arguments: str, cwd: Path | None = None, ok: Sequence[int] = (0,), feed: bytes = b"", stamp: str = ""
    ) -> _Done:
        """Run git; another exit or a time-out is a :class:`SnapshotUnavailableError`. ``stamp`` dates a commit."""
        config = self.folder() / "gitconfig"
        if not config.exists():
            _write_atomically(config, _GITCONFIG.encode())
        env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or "SSH" in name}
        env |= {"GIT_CONFIG_GLOBAL": str(config), "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        env |= {"GIT_AUTHOR_DATE": stamp, "GIT_COMMITTER_DATE": stamp} if stamp else {}
        env |= _split_git_url(self.settings.snapshot_git_url)[1]
        env.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=20")
        done = _run(["git", *arguments], cwd or self.base, env, feed, self.timeout)
        if done.code not in ok:
            raise SnapshotUnavailableError(
                f"{self.customer_id}: git {arguments[0]} failed ({done.code}): {_scrub(done.err)[-500:].strip()}; "
                f"check the snapshot git remote {self.git_url} and run again"
            )
        return done

    @contextmanager
    def dvc(self, root: Path) -> Iterator[Repo]:
        """DVC open at ``root``, with the remote given here and not in any committed file."""
        os.environ["DVC_NO_ANALYTICS"] = os.environ["DO_NOT_TRACK"] = "1"
        os.environ["DVC_GLOBAL_CONFIG_DIR"] = os.environ["DVC_SYSTEM_CONFIG_DIR"] = str(self.folder("dvc_config"))
        state = self.folder(*self._state(root).relative_to(self.base).parts)
        os.environ["DVC_SITE_CACHE_DIR"] = str(state)
        from dvc.repo import Repo

        logging.getLogger("dvc").setLevel(logging.ERROR)  # also turns its progress bars off
        core = {"no_scm": True, "analytics": False, "check_update": False, "remote": "storage"}
        remote = _remote(f"{self.settings.snapshot_dvc_url.rstrip('/')}", self.customer_id, self.timeout)
        cache = self.folder("cache", self.customer_id)
        config = {"core": core, "cache": {"dir": str(cache), "type": "copy"}, "remote": {"storage": remote}}
        ours = [root, state, cache]
        if Path(str(remote["url"])).is_relative_to(self.base):
            ours.append(self.folder(*Path(str(remote["url"])).relative_to(self.base).parts))
        repo = Repo(str(root), config=config)
        try:
            yield repo
        finally:
            repo.close()
            for folder in ours:
                _close_to_others(folder)

    def _state(self, root: Path) -> Path:
        return self.base / "state" / root.parent.name / self.customer_id

    def sweep(self) -> None:
        """Unlink what a killed predecessor may have left in the working repo. Only under the lock."""
        for folder in (self.work / ".dvc" / "tmp", self._state(self.work), self.work / "panel"):
            shutil.rmtree(folder, ignore_errors=True)
        for lock in (self.work / ".git").rglob("*.lock"):
            lock.unlink(missing_ok=True)
        for litter in [*self.work.glob(".*.tmp"), *self.work.glob("*.tmp")]:
            litter.unlink(missing_ok=True)
        for folder in self.work.parent.glob(f"{self.customer_id}.new-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def ready(self) -> None:
        """Bring the working repo to what the remote holds, building it anew where that fails. Only under the lock."""
        folder = self.git_folder
        if folder is not None and not (folder / "HEAD").exists():
            if folder.is_relative_to(self.base):
                self.folder(*folder.parent.relative_to(self.base).parts)
            folder.parent.mkdir(parents=True, exist_ok=True)
            self.git("init", "--quiet", "--bare", str(folder))
        self.sweep()
        try:
            if (self.work / ".git").is_dir() and self._follow():
                return
        except SnapshotUnavailableError as error:
            log.warning("freeze: %s: working repo is rebuilt: %s", self.customer_id, error)
        shutil.rmtree(self.work, ignore_errors=True)
        _clone(self, self.work)

    def _follow(self) -> bool:
        """Whether the working repo now stands where the remote does."""
        self.git("remote", "set-url", "origin", self.git_url, cwd=self.work)
        self.git("fetch", "--quiet", "--prune", "origin", cwd=self.work)
        if not self.has(self.work, "origin/main"):
            return False
        self.git("reset", "--quiet", "--hard", "origin/main", cwd=self.work)
        return (self.work / ".dvc" / "config").is_file()

    def has(self, root: Path, revision: str) -> bool:
        return self.git("cat-file", "-e", f"{revision}^{{commit}}", cwd=root, ok=(0, 1, 128)).code == 0


@dataclass(frozen=True)
class _Done:
    code: int
    out: bytes
    err: str


def _run(command: list[str], cwd: Path, env: dict[str, str], feed: bytes, timeout: float) -> _Done:
    """Run in a session of its own, so that a time-out also ends what git started (ssh, upload-pack)."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, cwd=cwd, env=env, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True,
        umask=0o077,  # a folder that several users share as remote says so by core.sharedRepository
    )  # fmt: skip
    try:
        out, err = process.communicate(feed, timeout=timeout)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise SnapshotUnavailableError(
            f"git {command[1]} did not end within {timeout:.0f} s; check that the snapshot git remote answers"
        ) from None
    return _Done(process.returncode, out, err.decode(errors="replace"))


def _split_git_url(url: str) -> tuple[str, dict[str, str]]:
    """The URL without credentials, and the environment through which git can ask for them.

    >>> url, environment = _split_git_url("https://ci:s%2Fecret@git.example:8443/snapshots")
    >>> url, environment["GIT_CONFIG_KEY_0"], environment["SNAPSHOT_GIT_PASSWORD"]
    ('https://git.example:8443/snapshots', 'credential.https://git.example:8443.helper', 's/ecret')
    >>> _split_git_url("ssh://git@git.example/snapshots")
    ('ssh://git@git.example/snapshots', {})
    """
    parts = _split_url(url)
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, {}
    user, _, password = login.partition(":")
    if parts.scheme not in ("http", "https"):  # ssh asks for keys alone
        return parts._replace(netloc=f"{user}@{host}").geturl(), {}
    return parts._replace(netloc=host).geturl(), {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"credential.{parts.scheme}://{host}.helper",
        "GIT_CONFIG_VALUE_0": _HELPER,
        "SNAPSHOT_GIT_USER": unquote(user),
        "SNAPSHOT_GIT_PASSWORD": unquote(password),
    }


def _split_url(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        assert parts.port != 0  # reading it is what checks it: a slash in a password makes one that is no number
    except (ValueError, AssertionError):
        raise ConfigurationError(
            "FORECASTING_SNAPSHOT_GIT_URL: cannot be read as a URL; write /, @ and : in a user name or password as "
            "%2F, %40 and %3A"
        ) from None
    return parts


def _close_to_others(path: Path) -> None:
    """Take from group and others what DVC gave them: it clears the umask. Git has one of its own."""
    with suppress(FileNotFoundError):  # another reader's, by now gone
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode) or path.name == ".git":
            return
        if mode & 0o077:
            path.chmod(mode & 0o700)
        for child in path.iterdir() if stat.S_ISDIR(mode) else ():
            _close_to_others(child)


def _scrub(text: str) -> str:
    """Without credentials in URLs."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    Path(file.name).replace(path)


def _clone(store: _Store, target: Path) -> None:
    """Clone, and make a DVC repo of an empty remote; complete or not there at all."""
    store.folder(target.parent.name)
    fresh = Path(tempfile.mkdtemp(prefix=f"{target.name}.new-", dir=target.parent))
    try:
        store.git("clone", "--quiet", "--origin", "origin", store.git_url, str(fresh / "repo"))
        root = fresh / "repo"
        store.git("symbolic-ref", "HEAD", "refs/heads/main", cwd=root)
        if store.has(root, "origin/main"):
            store.git("reset", "--quiet", "--hard", "origin/main", cwd=root)
        else:
            (root / ".dvc").mkdir()
            (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n    autostage = true\n")
            (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
            (root / ".gitignore").write_text("/panel\n")
        _close_to_others(root)
        with suppress(FileExistsError, OSError):  # another reader was quicker: its clone is as good
            root.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _remote(prefix: str, customer_id: str, timeout: float) -> dict[str, object]:
    """DVC's configuration of the remote: ``s3://KEY:SECRET@bucket/prefix?endpoint_url=…``, another URL, or a folder."""
    parts = urlsplit(prefix)
    if parts.scheme in ("", "file"):
        return {"url": f"{prefix.removeprefix('file://')}/{customer_id}"}
    host = parts.hostname or ""
    if parts.scheme != "s3":
        return {"url": f"{prefix.partition('?')[0]}/{customer_id}", **dict(parse_qsl(parts.query))}
    query = dict(parse_qsl(parts.query))
    remote: dict[str, object] = {"url": f"s3://{host}{parts.path.rstrip('/')}/{customer_id}"}
    remote |= {"connect_timeout": int(min(timeout, 20)), "read_timeout": int(min(timeout, 60))}
    if parts.username:
        remote |= {"access_key_id": unquote(parts.username), "secret_access_key": unquote(parts.password or "")}
    names = {"endpoint_url": "endpointurl", "region_name": "region"}
    return remote | {names[name]: value for name, value in query.items() if name in names}


def _within(timeout: float, what: str, work: Callable[[], T]) -> T:
    """What ``work`` returns, if it ends within ``timeout`` seconds: some remotes hang without a time-out."""
    try:
        return within(timeout, work)
    except TimeoutError:
        raise SnapshotUnavailableError(
            f"{what} did not end within {timeout:.0f} s; check that the DVC remote answers"
        ) from None


# --- freezing -------------------------------------------------------------------------------------------------------


def freeze(
    settings: Settings,
    panel: pd.DataFrame,
    manifest_facts: Mapping[str, Any],
    *,
    customer_id: str,
    run_id: str,
    lock: AbstractContextManager[Any],
    timeout: float = 300,
) -> SnapshotRef:
    """Store a panel under DVC, push it, and commit its manifest. A retry changes nothing.

    Args:
        settings: Home and remotes.
        panel: :data:`forecasting.frames.PANEL`.
        manifest_facts: What the run records beside the parts (``cutoff``, watermark, contract, hashes, counts); JSON.
        customer_id: Whose repo.
        run_id: The run that freezes.
        lock: Held throughout; keeps a customer's freezes one after the other, also across workers.
        timeout: Seconds that each step with a remote may take.

    Raises:
        SnapshotUnavailableError: A remote cannot be reached or is not what was pushed to it. Worth a retry.
    """
    PANEL.check(panel)
    store = _Store(settings, customer_id, timeout)
    content = content_hash(panel)
    with lock, _staged(store, panel) as (stage, parts):
        manifest = {
            "format": FORMAT, "customer_id": customer_id, "run_id": run_id, "content": content, "rows": len(panel),
            "columns": {name: str(dtype) for name, dtype in panel.dtypes.items()},
            "parts": [vars(part) for part in parts], "facts": dict(manifest_facts),
        }  # fmt: skip
        for _ in range(TRIES):
            commit = _try_freeze(store, stage, parts, manifest)
            if commit:
                log.info("freeze: done: %s", (ref := SnapshotRef(customer_id, commit, content)))
                return ref
            log.warning("freeze: %s: another push came first, once more", customer_id)
    raise SnapshotUnavailableError(f"{customer_id}: the snapshot's git push was overtaken {TRIES} times; run again")


@contextmanager
def _staged(store: _Store, panel: pd.DataFrame) -> Iterator[tuple[Path, list[_Part]]]:
    """The panel's parts in a folder outside the repo: DVC moves files away while it works on them."""
    base = store.base / "stage" / store.customer_id
    shutil.rmtree(base, ignore_errors=True)  # a killed predecessor's; we hold the lock
    store.folder("stage", store.customer_id)
    try:
        yield base, _write_parts(panel, base)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _try_freeze(store: _Store, stage: Path, parts: list[_Part], manifest: Manifest) -> str | None:
    """The commit, or None when another worker pushed first."""
    store.ready()
    try:
        folder = _within(store.timeout, "freeze: add and push", lambda: _add_and_push(store, stage, parts))
    except SnapshotUnavailableError:
        raise
    except Exception as error:  # DVC, its file systems and botocore: dozens of classes
        raise SnapshotUnavailableError(
            f"{store.customer_id}: storing the snapshot failed: {type(error).__name__}: {_scrub(str(error))[:300]}; "
            "check the snapshot DVC remote and run again"
        ) from None
    log.info("freeze: commit: %s", store.customer_id)
    text = json.dumps({**manifest, "dvc": folder}, sort_keys=True, indent=1) + "\n"
    _write_atomically(store.work / "manifest.json", text.encode())
    return _commit(store, manifest)


def _add_and_push(store: _Store, stage: Path, parts: list[_Part]) -> str:
    """Hash of the directory object that DVC made of the parts, all of which are on the remote."""
    panel = store.work / "panel"
    shutil.copytree(stage, panel)
    log.info("freeze: add: %s, %d parts", store.customer_id, len(parts))
    with store.dvc(store.work) as repo:
        (made,) = repo.add(str(panel))
        folder = str(made.outs[0].hash_info.value)
        log.info("freeze: push: %s, %s", store.customer_id, folder)
        repo.push(jobs=4)
        _verify_remote(repo, stage, parts, folder)
    return folder


def _verify_remote(repo: Repo, stage: Path, parts: list[_Part], folder: str) -> None:
    """Every object must be on the remote, whole: DVC's push takes a folder's presence for that of its files."""
    remote, local = repo.cloud.get_remote_odb(), repo.cache.local
    wanted = [(part.md5, part.bytes, stage / Path(part.path).name) for part in parts]
    directory = Path(local.oid_to_path(folder))
    wanted.append((folder, directory.stat().st_size, directory))
    for oid, size, path in wanted:
        if _size(remote, oid) != size:
            log.warning("freeze: push: object %s was not whole on the remote; uploaded again", oid)
            with suppress(FileNotFoundError):
                remote.fs.remove(remote.oid_to_path(oid))
            remote.add(str(path), local.fs, oid)
            if _size(remote, oid) != size:
                raise SnapshotUnavailableError(f"the DVC remote does not keep object {oid} of {size} bytes; run again")


def _size(odb: HashFileDB, oid: str) -> int | None:
    try:
        return int(odb.fs.info(odb.oid_to_path(oid))["size"])
    except FileNotFoundError:
        return None


def _commit(store: _Store, manifest: Manifest) -> str | None:
    git = store.git
    git("add", "--", ".dvc", ".gitignore", "panel.dvc", "manifest.json", cwd=store.work)
    unborn = not store.has(store.work, "HEAD")
    if unborn or git("diff", "--cached", "--quiet", cwd=store.work, ok=(0, 1)).code:
        stamp = f"{manifest['facts'].get('cutoff') or '1970-01-01'}T00:00:00+00:00"
        message = f"Freeze {manifest['run_id']}\n\ncontent {manifest['content']}\nrows {manifest['rows']}\n"
        git("commit", "--quiet", "--no-verify", "-F", "-", cwd=store.work, feed=message.encode(), stamp=stamp)
    pushed = git("push", "--quiet", "origin", "HEAD:refs/heads/main", cwd=store.work, ok=(0, 1))
    if pushed.code:
        if "rejected" in pushed.err or "failed to update ref" in pushed.err:
            return None
        raise SnapshotUnavailableError(f"{store.customer_id}: git push failed: {_scrub(pushed.err)[-300:].strip()}")
    return git("rev-parse", "HEAD", cwd=store.work).out.decode().strip()


# --- reading --------------------------------------------------------------------------------------------------------


def read(
    settings: Settings, ref: SnapshotRef, *, columns: Sequence[str] | None = None, timeout: float = 300
) -> tuple[pd.DataFrame, Manifest]:
    """The panel and manifest of a snapshot, from the cache or else the remotes; every byte and the content verified.

    Args:
        settings: Home and remotes.
        ref: Which snapshot.
        columns: Columns wanted; None: all. Everything is verified either way.
        timeout: Seconds that each step with a remote may take.

    Raises:
        SnapshotCorruptedError: A file is missing or not what the manifest says; the message names it.
        SnapshotUnavailableError: A remote cannot be reached.
    """
    store = _Store(settings, ref.customer_id, timeout)
    manifest = _manifest(store, ref)
    files = _within(timeout, "reading a snapshot", lambda: _files(store, manifest))
    panel = _assemble(files, manifest, ref)
    if (found := content_hash(panel)) != ref.content:
        raise SnapshotCorruptedError(f"{ref}: every file is whole, but the panel's content is {found}")
    log.info("snapshot: read %s: %d rows, %d files verified", ref, len(panel), len(files))
    return (panel if columns is None else panel[list(columns)]), manifest


def _clone_for_reading(store: _Store, *, commit: str | None) -> Path:
    """The reading clone, up to date (with ``commit``, where it is named)."""
    root = store.reading
    folder = store.git_folder
    if folder is not None and not (folder / "HEAD").exists():
        raise SnapshotUnavailableError(
            f"{store.customer_id}: has no snapshots: {folder} does not exist; run the customer once, or correct "
            "FORECASTING_SNAPSHOT_GIT_URL"
        )
    if not (root / ".git").is_dir():
        _clone(store, root)
    if commit is None or not store.has(root, commit):
        _refetch(store, root)
    return root


def _refetch(store: _Store, root: Path) -> None:
    """Fetch; where that fails, clone anew: a killed reader may have left a stale lock."""
    try:
        store.git("remote", "set-url", "origin", store.git_url, cwd=root)
        store.git("fetch", "--quiet", "origin", cwd=root)
    except SnapshotUnavailableError as error:
        log.warning("snapshot: %s: the reading clone is made anew: %s", store.customer_id, error)
        with tempfile.TemporaryDirectory(dir=root.parent) as aside:
            root.rename(Path(aside) / "old")
        _clone(store, root)


def _manifest(store: _Store, ref: SnapshotRef) -> Manifest:
    root = _clone_for_reading(store, commit=ref.commit)
    shown = store.git("cat-file", "blob", f"{ref.commit}:manifest.json", cwd=root, ok=(0, 128))
    if shown.code:
        raise SnapshotUnavailableError(f"{ref}: the git remote {store.git_url} does not hold this commit")
    manifest: Manifest = json.loads(shown.out)
    if manifest["content"] != ref.content:
        raise SnapshotCorruptedError(f"{ref}: the commit's manifest.json is of another content, {manifest['content']}")
    return manifest


def _files(store: _Store, manifest: Manifest) -> dict[str, bytes]:
    """Path → verified bytes of every part."""
    files, absent = {}, []
    for part in manifest["parts"]:
        data = _cached(store, part)
        if data is None:
            absent.append(part)
        else:
            files[part["path"]] = data
    if absent:
        with store.dvc(store.reading) as repo:
            remote = repo.cloud.get_remote_odb()
            files |= {part["path"]: _fetch(store, remote, part) for part in absent}
    return files


def _cache_path(store: _Store, part: Manifest) -> Path:
    md5 = str(part["md5"])
    return store.cache / "files" / "md5" / md5[:2] / md5[2:]


def _cached(store: _Store, part: Manifest) -> bytes | None:
    path = _cache_path(store, part)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(data).hexdigest() == part["sha256"]:
        return data
    log.warning("snapshot: %s in the local cache is damaged; taken from the remote", part["path"])
    path.unlink(missing_ok=True)
    return None


def _fetch(store: _Store, remote: HashFileDB, part: Manifest) -> bytes:
    path = remote.oid_to_path(part["md5"])
    try:
        data: bytes = remote.fs.fs.cat_file(path)
    except FileNotFoundError:
        raise SnapshotCorruptedError(
            f"{store.customer_id}: {part['path']} (object {part['md5']}) is missing on the DVC remote; restore it "
            "from a backup, or freeze the run again"
        ) from None
    except Exception as error:  # every backend has errors of its own
        raise SnapshotUnavailableError(
            f"{store.customer_id}: {part['path']} cannot be fetched: {type(error).__name__}; check the DVC remote"
        ) from None
    if (found := hashlib.sha256(data).hexdigest()) != part["sha256"]:
        raise SnapshotCorruptedError(
            f"{store.customer_id}: {part['path']} (object {part['md5']}) on the DVC remote is damaged: sha256 {found}, "
            f"the manifest says {part['sha256']}; restore it from a backup"
        )
    _write_atomically(_cache_path(store, part), data)
    _cache_path(store, part).chmod(0o400)
    return data


def _assemble(files: Mapping[str, bytes], manifest: Manifest, ref: SnapshotRef) -> pd.DataFrame:
    try:
        tables = [pq.read_table(io.BytesIO(data), page_checksum_verification=True) for data in files.values()]
        frame = pa.concat_tables(tables).to_pandas() if tables else pd.DataFrame(columns=list(manifest["columns"]))
    except (pa.ArrowException, OSError) as error:
        raise SnapshotCorruptedError(f"{ref}: a part cannot be read: {error}") from None
    names = [*PANEL.columns, *sorted(set(manifest["columns"]) - set(PANEL.columns))]
    frame = frame.astype(manifest["columns"])[names]
    return PANEL.check(frame.sort_values(["unique_id", "ds"], kind="stable", ignore_index=True))


def history(settings: Settings, customer_id: str, *, timeout: float = 300) -> list[Entry]:
    """A customer's snapshots, newest first; empty when there is none.

    Raises:
        SnapshotUnavailableError: The git remote cannot be reached.
    """
    store = _Store(settings, customer_id, timeout)
    if store.git_folder is not None and not (store.git_folder / "HEAD").exists():
        return []
    root = _clone_for_reading(store, commit=None)
    if not store.has(root, "origin/main"):
        return []
    commits = store.git("rev-list", "origin/main", cwd=root).out.decode().split()
    asked = "".join(f"{commit}:manifest.json\n" for commit in commits).encode()
    blobs = _batch(store.git("cat-file", "--batch", cwd=root, feed=asked).out)
    return [_entry(customer_id, commit, json.loads(blob)) for commit, blob in zip(commits, blobs, strict=True)]


def _batch(out: bytes) -> Iterator[bytes]:
    """Contents from ``git cat-file --batch``: a line ``oid type size``, the bytes, a line end."""
    start = 0
    while start < len(out):
        end = out.index(b"\n", start)
        size = int(out[start:end].split()[-1])
        yield out[end + 1 : end + 1 + size]
        start = end + size + 2


def _entry(customer_id: str, commit: str, manifest: Manifest) -> Entry:
    facts = manifest["facts"]
    ref = SnapshotRef(customer_id, commit, manifest["content"])
    return Entry(ref, manifest["run_id"], str(facts.get("cutoff", "")), manifest["rows"], facts)
