"""A change tried out before it is merged: the customers it touches, trained as before and as changed, and compared.

Everything happens in a dev deployment of its own, which is left behind to look at. The numbers come from nights, each
in a process of its own: BASE's by BASE's code, the change's by the working tree's, and the product's own gate decides.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from forecasting import config
from forecasting.cli import changes, connections, seeds
from forecasting.cli.changes import Change
from forecasting.config import Customer, Settings
from forecasting.errors import ConfigurationError, ForecastingError
from forecasting.store import embedded

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["Outcome", "Rehearsal", "changes_since", "measured", "report", "run", "run_date"]

NIGHT_TIMEOUT = 3600
"""Seconds that one customer's night may take."""
INSTALL_TIMEOUT = 1800
"""Seconds that the environment of another lock may take to be made."""
_GIVEN = ("FORECASTING_CONN_", "FORECASTING_HTTP_HOSTS", "FORECASTING_DELIVERIES", "FORECASTING_THREADS",
          "FORECASTING_SHARDS")  # fmt: skip
"""Settings of the caller that a rehearsal's nights keep; where things are stored is the rehearsal's own."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What became of one customer that a change touches."""

    change: Change
    before: str | None = None
    """Version that BASE's recipe and code made."""
    after: str | None = None
    """Version that the change made."""
    kind: str = ""
    promoted: bool = False
    reason: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    rmsse: tuple[float, float] | None = None
    """Mean of both versions' own rolling evaluations, at the origins that both have."""
    seconds: float = 0
    fault: str = ""
    """Why it did not come to a comparison."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rehearsal:
    """A change, and what became of every customer that it touches."""

    base: str
    commit: str
    sample: int | None
    home: Path
    outcomes: list[Outcome]

    @property
    def failed(self) -> bool:
        """True when something broke; a champion that is kept is an ordinary result."""
        return any(outcome.fault for outcome in self.outcomes)


@dataclass(frozen=True)
class _Side:
    """One side of the comparison: whose code, whose declarations."""

    name: str
    python: str
    code: Path
    customers: Path
    contracts: Path


# --- what is to be done ---------------------------------------------------------------------------------------------


def changes_since(settings: Settings, base: str) -> tuple[str, list[Change]]:
    """The commit that ``base`` names, and the customers that the working tree's difference from it touches.

    Raises:
        ConfigurationError: There is no such revision, or customers and contracts are not in the checkout.
    """
    commit = changes.resolve(settings.root, base)
    paths = changes.changed_paths(settings.root, commit)
    if not paths:
        return commit, []
    customers, contracts = _inside(settings, settings.customers), _inside(settings, settings.contracts)
    with changes.worktree(settings.root, commit, settings.home / "ci" / f"read-{os.getpid()}") as then:
        before = config.load_customers(then / customers)
    return commit, changes.touched(before, config.load_customers(settings.customers), paths, str(contracts))


def _inside(settings: Settings, folder: Path) -> Path:
    try:
        return folder.resolve().relative_to(settings.root)
    except ValueError:
        raise ConfigurationError(
            f"{folder} is outside of the checkout {settings.root}, so git does not know what it was"
        ) from None


def run(settings: Settings, base: str, *, sample: int | None, home: Path | None, say: Say) -> Rehearsal:
    """Train every customer that the change since ``base`` touches, on both sides, and compare.

    Args:
        settings: Of the caller: the checkout, and below which home the rehearsal's own is made.
        base: Revision to compare the working tree with.
        sample: Most series per customer; None: all.
        home: Deployment to use, a dev one that stays; None: a fresh one in place of the last.
        say: Told what goes on.

    Raises:
        ConfigurationError: The environment is not dev, or there is no such revision.
    """
    if settings.environment != "dev":
        raise ConfigurationError(f"a change is tried out in dev; FORECASTING_ENV is {settings.environment}")
    commit, found = changes_since(settings, base)
    place = home.expanduser().resolve() if home else _fresh(settings.home / "ci")
    for change in found:
        say(f"{change.customer}: {change.fate}, {change.why}")
    outcomes = [outcome for change in found if (outcome := _untrained(settings, change))]
    told = {outcome.change.customer for outcome in outcomes}
    if trained := [change for change in found if change.customer not in told]:
        with changes.worktree(settings.root, commit, settings.home / "ci" / f"base-{os.getpid()}") as then:
            outcomes += _Stage(settings, place, then, sample, say).perform(trained)
    return Rehearsal(base, commit, sample, place, sorted(outcomes, key=lambda outcome: outcome.change.customer))


def _untrained(settings: Settings, change: Change) -> Outcome | None:
    """What is known without training: the customer is gone, its file is broken, or its contract does not fit."""
    from forecasting.data import contracts
    from forecasting.pipeline import load_customer

    if change.fate == "gone":
        return Outcome(change)
    try:
        customer = load_customer(settings, change.customer)
        contracts.agree(contracts.load(settings.contracts / f"{customer.contract}.odcs.yaml"), customer)
    except ConfigurationError as error:
        return Outcome(replace(change, fate="broken"), fault=str(error))
    return None


def _fresh(folder: Path) -> Path:
    """A new folder for a deployment; earlier ones that nobody uses are removed."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for earlier in folder.glob("run-*"):
        if Path("/proc", earlier.name.rpartition("-")[2]).exists():
            continue  # another rehearsal, which may not have begun its server yet
        with _unused(earlier) as unused:
            if unused:
                shutil.rmtree(earlier)
    made = folder / f"run-{datetime.now(ZoneInfo('UTC')):%Y%m%dT%H%M%S}-{os.getpid()}"
    made.mkdir(mode=0o700)
    return made


@contextmanager
def _unused(home: Path) -> Iterator[bool]:
    """Whether no command holds the embedded server of ``home``; nobody takes it within the block."""
    lock = home / "postgres" / "users.lock"
    if not lock.exists():
        yield True
        return
    with lock.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


# --- the nights -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stage:
    """Where both sides are trained."""

    settings: Settings
    home: Path
    then: Path
    """BASE's checkout."""
    sample: int | None
    say: Say

    def perform(self, trained: Sequence[Change]) -> list[Outcome]:
        """BASE's nights first, all of them: a newer schema of the warehouse is made by the newer code."""
        days = {change.customer: run_date(self._customer(change.customer)) for change in trained}
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with embedded.server(self.home) as server:
            self._seed([change.customer for change in trained])
            engine = _engine(server.url("warehouse"))
            try:
                base = self._base() if any(change.fate == "retrain" for change in trained) else None
                begun = [self._begin(change, days[change.customer], base, engine) for change in trained]
                return [self._finish(outcome, days[outcome.change.customer], engine) for outcome in begun]
            finally:
                engine.dispose()

    def _customer(self, name: str) -> Customer:
        from forecasting.pipeline import load_customer

        return load_customer(self.settings, name)

    def _seed(self, names: Sequence[str]) -> None:
        """Put the demo's customers' data where these have it in this deployment."""
        here = {**os.environ, "FORECASTING_HOME": str(self.home), "FORECASTING_ROOT": str(self.settings.root)}
        stored = ("FORECASTING_WAREHOUSE_URL", "MLFLOW_TRACKING_URI", "FORECASTING_SAMPLE")
        own = config.settings({name: value for name, value in here.items() if name not in stored})
        seeds.seed(own, [self._customer(name) for name in names], self.say)

    def _base(self) -> _Side:
        """BASE's side; where the checkout holds no code, the code that runs here is both sides'."""
        customers, contracts = (
            self.then / _inside(self.settings, folder) for folder in (self.settings.customers, self.settings.contracts)
        )
        code = self.then if (self.then / "forecasting").is_dir() else _CODE
        return _Side("base", self._python(code), code, customers, contracts)

    def _python(self, code: Path) -> str:
        """An interpreter with the libraries that ``code`` is locked to: this one, if they are the same."""
        lock, ours = code / changes.LOCK, _CODE / changes.LOCK
        if not lock.exists() or (ours.exists() and lock.read_bytes() == ours.read_bytes()):
            return sys.executable
        self.say("the lock differs: making BASE's own environment")
        environ = {"PYTHON": getattr(sys, "_base_executable", sys.executable), **_caller()}
        done = _process([str(code / "tools/install"), changes.LOCK], code, environ, INSTALL_TIMEOUT)
        if done.code:
            raise ForecastingError(f"BASE's environment could not be made:\n{done.last(10)}")
        return str(code / ".venv/bin/python")

    def _begin(self, change: Change, day: date, base: _Side | None, engine: sa.Engine) -> Outcome:
        """BASE's version of one customer."""
        if change.fate == "new" or base is None:
            return Outcome(change, notes=("nothing to compare with",))
        notes = () if self.sample is None or _samples(base.code) else ("BASE's code trained all series",)
        self.say(f"{change.customer}: BASE's night of {day}")
        ended = self._night(base, change.customer, day)
        made = _retrained(engine, change.customer, day) if ended.code == 0 else {}
        if not made.get("challenger"):
            why = ended.last(3) if ended.code else made.get("reason") or made.get("message")
            return Outcome(change, seconds=ended.seconds, fault=f"BASE could not be trained: {why}")
        return Outcome(change, before=made["challenger"], evidence=made, seconds=ended.seconds, notes=notes)

    def _finish(self, begun: Outcome, day: date, engine: sa.Engine) -> Outcome:
        """The change's version, compared with BASE's."""
        if begun.fault:
            return begun
        name, before = begun.change.customer, begun.evidence
        self.say(f"{name}: the change's night of {day}{f', against {begun.before}' if begun.before else ''}")
        side = _Side("change", sys.executable, _CODE, self.settings.customers, self.settings.contracts)
        ended = self._night(side, name, day, against=begun.before)
        seconds = begun.seconds + ended.seconds
        made = _retrained(engine, name, day) if ended.code == 0 else {}
        if not made.get("challenger"):
            why = ended.last(3) if ended.code else made.get("reason") or made.get("message")
            return replace(begun, evidence={}, seconds=seconds, fault=str(why))
        return replace(
            begun,
            after=made["challenger"],
            kind=made["kind"] if begun.before else "FIRST",
            promoted=bool(made["promoted"]),
            reason=made["reason"],
            evidence=made["evidence"] or {},
            rmsse=measured(before.get("rolling"), made["rolling"]),
            seconds=seconds,
        )

    def _night(self, side: _Side, name: str, day: date, against: str | None = None) -> _Ended:
        meets = ["--against", against] if against else []
        command = [side.python, "-m", "forecasting", "run", name, "--date", day.isoformat(), "--force-retrain", *meets]
        environ = {
            **_caller(),
            **self._credentials(name),
            "FORECASTING_ENV": "dev",
            "FORECASTING_HOME": str(self.home),
            "FORECASTING_ROOT": str(self.settings.root),
            "FORECASTING_CUSTOMERS": str(side.customers),
            "FORECASTING_CONTRACTS": str(side.contracts),
            "FORECASTING_SAMPLE": str(self.sample or ""),
            "PYTHONPATH": str(side.code),
        }
        return _process(command, side.code, environ, NIGHT_TIMEOUT)

    def _credentials(self, name: str) -> dict[str, str]:
        """The connection that the caller's deployment keeps, unless this one has been seeded with its own."""
        own = replace(self.settings, home=self.home)
        uri = connections.uri_of(own, name) or connections.uri_of(self.settings, name)
        return {f"FORECASTING_CONN_{name.upper()}": uri} if uri else {}


_CODE = Path(config.__file__).resolve().parents[1]


def run_date(customer: Customer) -> date:
    """The newest night whose data are complete: yesterday's, or the last that the customer declares."""
    yesterday = datetime.now(ZoneInfo(customer.time_zone)).date() - timedelta(days=1)
    return min(yesterday, customer.last_date or yesterday)


def _samples(code: Path) -> bool:
    """Whether that code knows the setting; BASE may be older than it."""
    path = code / "forecasting/config.py"
    return path.exists() and "FORECASTING_SAMPLE" in path.read_text(encoding="utf-8")


def _caller() -> dict[str, str]:
    """The caller's environment without settings of where to keep things."""
    ours = ("FORECASTING_", "MLFLOW_", "AIRFLOW_")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours) or k.startswith(_GIVEN)}


@dataclass(frozen=True)
class _Ended:
    """How a process ended."""

    code: int
    said: str
    seconds: float

    def last(self, lines: int) -> str:
        return "\n".join(self.said.strip().splitlines()[-lines:])


def _process(command: list[str], folder: Path, environ: Mapping[str, str], timeout: float) -> _Ended:
    """Run a command in a session of its own; nothing of it is left when it takes too long, or this one is ended."""
    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=folder, env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            said, _ = process.communicate(timeout=timeout)
            code = process.returncode
        except subprocess.TimeoutExpired:
            said, code = f"took longer than {timeout:.0f} s and was ended", 1
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return _Ended(code, said, time.monotonic() - began)


# --- what came of it ------------------------------------------------------------------------------------------------


def _engine(url: str) -> sa.Engine:
    from forecasting.store import warehouse

    return warehouse.connect(url)


def _retrained(engine: sa.Engine, name: str, day: date) -> dict[str, Any]:
    from forecasting.store import reports

    rows = reports.retrained(engine, name, day).to_dict("records")
    return {str(key): value for key, value in rows[0].items()} if rows else {}


def measured(
    before: Sequence[Mapping[str, Any]] | None, after: Sequence[Mapping[str, Any]] | None
) -> tuple[float, float] | None:
    """Mean RMSSE of two versions' own rolling evaluations at the origins that both have; None where there are none.

    It compares code as well as recipes: each side's figures are its own code's.

    >>> measured([{"origin": "a", "rmsse_selection": 1.0}], [{"origin": "a", "rmsse_selection": 0.5}, {"origin": "b"}])
    (1.0, 0.5)
    """
    sides = [{str(row["origin"]): row.get("rmsse_selection") for row in rows or ()} for rows in (before, after)]
    shared = [key for key in sides[0] if sides[0][key] is not None and sides[1].get(key) is not None]
    if not shared:
        return None
    first, second = (sum(float(str(side[key])) for key in shared) / len(shared) for side in sides)
    return first, second


def report(rehearsal: Rehearsal) -> str:
    """The rehearsal in Markdown."""
    title = f"## Models since {rehearsal.base} ({rehearsal.commit[:12]})\n"
    if not rehearsal.outcomes:
        return f"{title}\nNo customer is touched: nothing was trained.\n"
    some = f"on at most {rehearsal.sample} series each" if rehearsal.sample else "on all series"
    trained = [outcome for outcome in rehearsal.outcomes if outcome.after]
    parts = [title.strip(), f"{len(trained)} trained {some}, as before and as changed, on the same data."]
    if trained:
        head = ("customer", "why", "version", "kind", "RMSSE", "gain", "evidence", "decision", "seconds")
        parts.append(_table(head, [_row(outcome) for outcome in trained]))
        parts.append(
            "RMSSE: each version's own rolling evaluation, mean over the origins that both have; lower is better. "
            "Gain: the gate's, challenger against champion."
        )
    parts += [f"- **{_named(o.change)} FAILED**: {o.fault}" for o in rehearsal.outcomes if o.fault]
    parts += [f"- {o.change.customer}: {o.change.why}" for o in rehearsal.outcomes if not o.after and not o.fault]
    return "\n\n".join(parts) + "\n"


def _named(change: Change) -> str:
    return change.customer if change.fate == "broken" else f"{change.customer} ({change.why})"


def _row(outcome: Outcome) -> tuple[str, ...]:
    gain = outcome.evidence.get("gain")
    decision = ("promoted: " if outcome.promoted and not outcome.reason.startswith("kept") else "") + outcome.reason
    return (
        outcome.change.customer,
        outcome.change.why,
        f"{outcome.before or 'none'} → {outcome.after}",
        outcome.kind,
        "{:.4f} → {:.4f}".format(*outcome.rmsse) if outcome.rmsse else "–",
        f"{gain:+.2%}" if isinstance(gain, float) else "–",
        "; ".join([*_evidence(outcome), *outcome.notes]),
        decision,
        f"{outcome.seconds:.0f}",
    )


def _evidence(outcome: Outcome) -> Iterator[str]:
    """What the gate's decision rests on, in a few words."""
    found = outcome.evidence
    if outcome.kind == "MAJOR":
        yield "another interface: not comparable"
    if isinstance(found.get("p"), float):
        yield f"p {found['p']:.3f}"
    if found.get("compared") and outcome.before and "origins" in found:
        yield f"{found['compared']} at {found['origins']} origins"
    if isinstance(sample := found.get("sample"), dict):
        yield f"{sample['series']} of {sample['of']} series"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines])
