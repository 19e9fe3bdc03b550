"""Customers (one YAML file each) and settings (``FORECASTING_*``): read, checked, frozen. It must stay light to import.

Every DAG parse and every task start pays for this module, so it imports pydantic and yaml and nothing heavier.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, time
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from forecasting.errors import ConfigurationError, near_miss
from forecasting.feed import (
    KEY,
    SECRET,
    Columns,
    Exclude,
    Exogenous,
    FilePart,
    Frozen,
    Source,
    SqlSource,
    TablePart,
    Unit,
    Wide,
    kinds,
)
from forecasting.periods import Frequency

__all__ = [
    "BOTTOM",
    "ENVIRONMENTS",
    "GENERATION",
    "GLOBAL",
    "MEANS",
    "METRICS",
    "MODELS",
    "OBJECTIVES",
    "POOL",
    "REFERENCES",
    "TARGETS",
    "TOTAL",
    "VARIABLES",
    "WEEKDAYS",
    "Backtest",
    "BrokenCustomer",
    "Customer",
    "Promotion",
    "Retrain",
    "Settings",
    "load_customer",
    "load_customers",
    "load_yaml",
    "parse_yaml",
    "settings",
    "sha256_of",
    "sound_customers",
]

GENERATION = 2
"""Raised when the code makes another global model of the same declaration, by other features or fixed parameters. It is
part of the recipe of those who have one, so that what changes a customer's forecasts is a version of its own."""

BOTTOM = "bottom"
"""Node of the series themselves, for every customer; aggregate nodes carry the names of their keys."""
TOTAL = "total"
"""Node of the sum over all series."""

MODELS = (
    "seasonal_naive",
    "weekday_mean",
    "naive",
    "recent_mean",
    "auto_ets",
    "dynamic_theta",
    "croston",
    "tsb",
    "adida",
    "imapa",
    "lightgbm",
)
"""Names of the catalogue, cheapest idea first within a family; ``learn.models`` holds one recipe for each."""
GLOBAL = "lightgbm"
"""The forecaster that learns from all series together."""
POOL = tuple(name for name in MODELS if name not in ("naive", "recent_mean"))
"""Who competes where nothing is declared; the last period and the mean of the last four are references."""
REFERENCES: dict[Frequency, tuple[str, str]] = {
    "D": ("seasonal_naive", "weekday_mean"),
    "W": ("naive", "recent_mean"),
    "M": ("naive", "recent_mean"),
}
"""What a planner would use instead: by day, last week's day and the mean of the last eight of the same weekday; by week
or month, the last one and the mean of the last four. Every selection is judged beside both."""
METRICS = ("rmsse", "wape", "mape")
"""What a selection may minimise, per series and origin: ``learn.selection.score_by_series`` computes each."""
OBJECTIVES = ("tweedie", "poisson", "l2", "l1", "mape")
"""What LightGBM may be trained to minimise: the first three make it forecast the mean, ``l1`` the median, ``mape`` the
median of sales weighted by one over them, which lies lower still."""
MEANS = OBJECTIVES[:3]
"""Those under which it forecasts the mean: means add up over a hierarchy, medians do not."""
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

_ID = re.compile(r"[a-z][a-z0-9_]{1,30}")
_RESERVED = {"public", "forecasting", "information_schema", "airflow", "mlflow", "postgres", "total", "bottom", "all"}


class Backtest(Frozen):
    """Rolling origins used for selection, calibration and promotion."""

    windows: int = Field(9, ge=2, le=60, description="Number of origins.")
    step: int | None = Field(None, ge=1, description="Periods between origins; default: the horizon (no overlap).")
    select: int = Field(3, ge=1, description="Origins a rolling evaluation selects on before it judges the next one.")


class Retrain(Frozen):
    """When a night retrains without being asked."""

    every_days: int = Field(7, ge=1, le=366, description="Days between the champion's training and the next retrain.")


class Promotion(Frozen):
    """What a challenger must show. Scores are RMSSE: unitless, lower is better."""

    margin: float = Field(0.02, ge=0, lt=1, description="Relative gain of a MINOR or MAJOR version, 0.02 = 2 %.")
    non_inferiority: float = Field(0.02, ge=0, lt=1, description="Relative loss that a PATCH may show.")
    min_origins: int = Field(3, ge=1, description="Fewer shared origins: keep the champion.")
    test_origins: int = Field(
        6, ge=2, description="Fewer origins whose horizons do not overlap: keep the champion against a MINOR or MAJOR."
    )
    alpha: float = Field(
        0.05, gt=0, le=0.05, description="Level of the paired test over origins: largest p value that counts as proof."
    )
    max_bias: float = Field(0.25, gt=0, description="Guard rail: share by which totals may be off.")
    max_worse_share: float = Field(0.33, gt=0, le=1, description="Guard rail: share of series made clearly worse.")
    max_undercoverage: float = Field(
        0.1, gt=0, lt=1, description="Guard rail: share by which a published interval may cover less than its level."
    )
    max_cost_ratio: float = Field(
        5.0, ge=1, description="Guard rail: CPU seconds of the fits, and bundle bytes, as multiples of the champion's."
    )
    approval: Literal["none", "required"] = Field(
        "none", description="`required`: a challenger that won a live night waits for a person's word; see approval.md."
    )
    approval_hours: int = Field(
        48, ge=1, le=24 * 30, description="Hours for which it waits; without an answer it is not crowned."
    )


Level = Literal[50, 80, 90, 95]


class Customer(Frozen):
    """One customer, hence one daily DAG. Frozen: a run never edits its own request."""

    id: str = Field(description="File name without `.yaml`.")
    time_zone: str = Field(description="IANA name; run dates and intervals are local.")
    first_date: date = Field(description="First run date: the DAG's start.")
    last_date: date | None = Field(None, description="Last run date: the DAG's end.")
    start_at: time = Field(time(3), description="Local time at which a scheduled night may begin.")
    deadline: time | None = Field(
        None, description="Local time by which a scheduled night must have published; later is recorded and told."
    )
    latency_days: int = Field(0, ge=0, le=60, description="Days by which the data are known to arrive late.")
    max_gap_days: int = Field(
        4, ge=0, le=60, description="Days up to the cutoff without any line: more means the feed has stopped."
    )
    source: Source
    columns: Columns
    contract: str = Field(pattern=KEY, description="`data_contracts/<contract>.odcs.yaml`.")
    absent: Literal["zero", "closed", "missing"] = Field(description="What it means that a day has no row.")
    closed_weekdays: tuple[Literal[WEEKDAYS], ...] = Field(  # type: ignore[valid-type]
        (),
        max_length=6,
        description="Weekdays without trade: a day without a row is closed there whatever `absent` says, and the "
        "forecast is 0. Frequency D only.",
    )
    returns: Literal["exclude", "net"] = Field(
        "exclude", description="Negative lines: left out and counted, or netted."
    )
    duplicates: Literal["keep", "exclude"] = Field(
        "keep", description="Lines equal in every column that is read: kept, or all but one left out and counted."
    )
    exclude: tuple[Exclude, ...] = Field((), description="Rules by which lines are left out and counted.")
    frequency: Frequency = Field("D", description="Step of `ds`.")
    horizon: int = Field(28, ge=1, le=365, description="Periods ahead, h.")
    season_lengths: tuple[Annotated[int, Field(ge=1, le=366)], ...] = Field((7,), min_length=1, max_length=3)
    lookback_days: int = Field(14, ge=0, le=400, description="Days before the watermark that are read and replaced.")
    history_days: int = Field(1095, ge=30, description="Days before the cutoff that forecasters see.")
    hierarchy: tuple[str | tuple[str, ...], ...] = Field(
        (), description="Aggregate nodes: `total`, a key, or a list of keys that cross; the series are always there."
    )
    exogenous: dict[Annotated[str, Field(pattern=KEY)], Exogenous] = Field({}, description="By feed column.")
    pool: tuple[Literal[MODELS], ...] = Field(POOL, min_length=1, description="Forecasters that compete.")  # type: ignore[valid-type]
    metric: Literal[METRICS] = Field(  # type: ignore[valid-type]
        "rmsse",
        description="What selection minimises per series and origin: the mean's squared errors over their scale, "
        "absolute errors over sales, or the mean of absolute errors over each period's sales (periods without sales "
        "are left out). `mape` alone rewards forecasting low: read bias beside it.",
    )
    objective: Literal[OBJECTIVES] = Field(  # type: ignore[valid-type]
        "tweedie",
        description="What LightGBM is trained to minimise, hence what it forecasts: the mean (`tweedie`, `poisson`, "
        "`l2`), the median (`l1`), or what the absolute error in percent rewards, below the median (`mape`).",
    )
    backtest: Backtest = Backtest()
    levels: tuple[Level, ...] = Field((80, 95), description="Widths of the published intervals in percent.")
    retrain: Retrain = Retrain()
    promotion: Promotion = Promotion()
    seed: int = Field(1, ge=0)
    detail_days: int = Field(400, ge=30, description="Days for which published detail is kept in the warehouse.")
    large: bool = Field(False, description="Monthly sub-partitions of the customer's forecasts.")
    roles: tuple[Annotated[str, Field(pattern=KEY)], ...] = Field((), description="Database logins that may read.")
    engine: Literal["local"] = Field("local", description="Where fits run.")

    @field_validator("id")
    @classmethod
    def _usable_id(cls, value: str) -> str:
        if not _ID.fullmatch(value):
            raise ValueError("must be 2 to 31 of a-z, 0-9 and _, beginning with a letter")
        if value in _RESERVED or value.startswith("pg_"):
            raise ValueError("is a reserved name in the warehouse; choose another id")
        return value

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError("is not an IANA time zone such as Europe/Rome") from None
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.last_date and self.last_date < self.first_date:
            raise ValueError(f"last_date {self.last_date} lies before first_date {self.first_date}")
        for node in self.nodes:
            for key in () if node == TOTAL else self.nodes[node]:
                if key not in self.columns.keys:
                    known = [TOTAL, *self.columns.keys]
                    raise ValueError(
                        f"hierarchy: {key!r} is not a key.{near_miss(key, known)} Keys: {', '.join(known)}"
                    )
        if self.deadline and self.deadline <= self.start_at:
            raise ValueError(f"deadline {self.deadline} is not after start_at {self.start_at}")
        taken = {self.columns.ds, self.columns.y, *self.columns.keys}
        for name in self.exogenous:
            if name in taken:
                raise ValueError(f"exogenous: {name!r} is already the day, the target or a key")
        rules = [exclude.rule for exclude in self.exclude]
        if len(set(rules)) != len(rules):
            raise ValueError(f"exclude: a rule is named twice: {', '.join(rules)}")
        if self.closed_weekdays and self.frequency != "D":
            raise ValueError(
                f"closed_weekdays: a period of frequency {self.frequency} holds every weekday; leave it out"
            )
        if len(set(self.pool)) != len(self.pool):
            raise ValueError(f"pool: a model is named twice: {', '.join(self.pool)}")
        return self

    @property
    def nodes(self) -> dict[str, tuple[str, ...]]:
        """Aggregate node → the keys it groups by, widest first; the bottom is not among them.

        The total groups by no key. A node's name is its keys joined by ``_``.
        """
        groups = [() if g == TOTAL else (g,) if isinstance(g, str) else tuple(g) for g in self.hierarchy]
        return {"_".join(keys) or TOTAL: keys for keys in groups}

    @property
    def season_length(self) -> int:
        """Observations per season that forecasters take."""
        return self.season_lengths[0]

    @property
    def quantiles(self) -> tuple[float, ...]:
        """The quantiles that are published, ascending; the median always.

        Level 80 means quantiles 0.1 and 0.9.
        """
        tails = {round(q, 4) for level in self.levels for q in ((100 - level) / 200, (100 + level) / 200)}
        return tuple(sorted(tails | {0.5}))

    @property
    def references(self) -> tuple[str, str]:
        """What the selection is judged beside: the last season or period again, and a mean of recent ones."""
        return REFERENCES[self.frequency]

    @property
    def step(self) -> int:
        """Periods between two backtest origins."""
        return self.backtest.step or self.horizon

    def future(self) -> tuple[str, ...]:
        """Exogenous columns known over the horizon, by name."""
        return tuple(sorted(name for name, column in self.exogenous.items() if column.known == "future"))

    def recipe(self) -> dict[str, Any]:
        """What makes two versions the same recipe (else MINOR): pool, features, goal, history, seasons, backtest."""
        keep = {"pool", "exogenous", "history_days", "season_lengths", "backtest", "absent", "seed"}
        keep |= {"metric", "objective"}
        keep |= {"returns", "duplicates", "exclude", "closed_weekdays"}
        generation = GENERATION if GLOBAL in self.pool else None
        return {**self.model_dump(mode="json", include=keep), "generation": generation}

    def interface(self) -> dict[str, Any]:
        """What consumers notice when it changes (MAJOR): horizon, frequency, keys, levels, hierarchy."""
        dumped = self.model_dump(mode="json", include={"horizon", "frequency", "levels", "hierarchy"})
        return {**dumped, "keys": list(self.columns.keys)}

    @property
    def recipe_hash(self) -> str:
        """SHA-256 of :meth:`recipe`."""
        return sha256_of(self.recipe())

    @property
    def interface_hash(self) -> str:
        """SHA-256 of :meth:`interface`."""
        return sha256_of(self.interface())

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the whole configuration in canonical JSON."""
        return sha256_of(self.model_dump(mode="json"))


def sha256_of(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class BrokenCustomer:
    """A customer file that cannot be used, and why: the others go on."""

    id: str
    path: Path
    message: str


_Loc = tuple[str | int, ...]
"""Keys and positions from the top of a file to a value."""


# --- reading YAML ---------------------------------------------------------------------------------------------------


class _Loader(yaml.CSafeLoader):
    """YAML 1.2's core types only: ``no`` is text and ``010`` is ten; duplicate keys and aliases are refused."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - as its base declares it


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", "-+0123456789."),
    ("null", r"~|null|", "~n"),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), [*_first, ""])


def _decimal(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)


@dataclass(frozen=True)
class Document:
    """A parsed YAML file: its value, and on which line each key stands (for messages)."""

    path: Path
    value: Any
    lines: dict[_Loc, int]

    def line(self, loc: _Loc) -> int:
        """Line (from 1) of the deepest part of ``loc`` that the file holds."""
        while loc and loc not in self.lines:
            loc = loc[:-1]
        return self.lines.get(loc, 1)


def load_yaml(path: Path) -> Document:
    """Read one YAML file of plain mappings, lists and scalars.

    Raises:
        ConfigurationError: The file is missing, not UTF-8, not YAML, or uses duplicate keys or aliases; with the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from None
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path, above: int = 0) -> Document:
    """Read YAML that stands in ``path`` below line ``above``; errors as in :func:`load_yaml`."""
    loader = _Loader(text)
    try:
        _refuse_aliases(text, path, above)
        node = loader.get_single_node()
        if node is None:
            raise ConfigurationError(f"{path}, line {above + 1}: empty; expected keys and values")
        lines = dict(_lines(node, (), path, above))
        return Document(path, loader.construct_document(node), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {above + mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigurationError(f"{path}{where}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not valid YAML: {error}") from None
    finally:
        loader.dispose()


def _refuse_aliases(text: str, path: Path, above: int) -> None:
    if "*" in text or "&" in text:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                line = above + event.start_mark.line + 1 if event.start_mark else above + 1
                raise ConfigurationError(f"{path}, line {line}: anchors and aliases are not allowed; write it out")


def _lines(node: yaml.Node, loc: _Loc, path: Path, above: int) -> Iterator[tuple[_Loc, int]]:
    if isinstance(node, yaml.ScalarNode) and "\0" in node.value:
        raise ConfigurationError(f"{path}, line {above + node.start_mark.line + 1}: a text holds a NUL; take it out")
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = above + key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigurationError(f"{path}, line {line}: a key must be a plain word")
            if key.tag == "tag:yaml.org,2002:merge":
                raise ConfigurationError(f"{path}, line {line}: merge keys (<<) are not allowed; write it out")
            if key.value in seen:
                raise ConfigurationError(f"{path}, line {line}: {key.value!r} is already set on line {seen[key.value]}")
            seen[key.value] = line
            yield (*loc, key.value), line
            yield from _lines(value, (*loc, key.value), path, above)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*loc, index), above + item.start_mark.line + 1
            yield from _lines(item, (*loc, index), path, above)


def describe(document: Document, error: ValidationError) -> str:
    """One line per fault: file, line, key, value, what was expected, near miss."""
    faults = error.errors(include_url=False)
    # a list without its faulty items seems too short: that says nothing new
    inner = {fault["loc"][:-1] for fault in faults}
    told = [fault for fault in faults if not (fault["type"] == "too_short" and fault["loc"] in inner)]
    return "\n".join(_fault(document, fault) for fault in told)


def _fault(document: Document, fault: Any) -> str:
    whole, message = _without_tag(fault["loc"]), fault["msg"].removeprefix("Value error, ")
    if not whole:
        whole, message = _named_key(message)
    loc = tuple(part for part in whole if part in document_keys(document) or isinstance(part, int))
    key = ".".join(str(part) for part in whole) or "the whole file"
    where = f"{document.path}, line {document.line(loc)}: {key}"
    if fault["type"] == "extra_forbidden":
        known = _known_keys(tuple(fault["loc"][:-1]))
        return f"{where}: unknown key.{near_miss(str(fault['loc'][-1]), known)} Known keys: {', '.join(known)}."
    if fault["type"] == "missing":
        return f"{where}: is missing; add it."
    value = fault["input"]
    if fault["type"] == "source_kind":
        kind = str(value.get("kind")) if isinstance(value, dict) else str(value)
        return f"{where}.kind: {kind!r}: {message}.{near_miss(kind, list(kinds()))}"
    if isinstance(value, dict | list) or fault["type"] == SECRET:
        return f"{where}: {message}"
    near = near_miss(str(value), re.findall(r"'([^']+)'", message)) if fault["type"] == "literal_error" else ""
    return f"{where}: {value!r}: {message}.{near}"


def _without_tag(loc: _Loc) -> _Loc:
    """Without the kind of source, which pydantic puts into the place of a fault and no file holds there."""
    return (loc[0], *loc[2:]) if len(loc) > 1 and loc[0] == "source" and loc[1] in kinds() else loc


def _named_key(message: str) -> tuple[_Loc, str]:
    """The key that begins a message about the whole file, and the message without it."""
    match = re.match(r"(\w+)(?:: | )", message)
    if match is None or match[1] not in Customer.model_fields:
        return (), message
    return (match[1],), message[match.end() :]


def document_keys(document: Document) -> set[str | int]:
    """Every key that stands anywhere in the file."""
    return {part for loc in document.lines for part in loc}


def _known_keys(loc: _Loc) -> list[str]:
    return sorted(_model_at(loc).model_fields)


def _model_at(loc: _Loc) -> type[BaseModel]:
    """The model whose keys stand at ``loc``."""
    if not loc:
        return Customer
    if loc[0] == "source":
        kind = kinds()[str(loc[1])]
        if "parts" in loc:
            return TablePart if kind is SqlSource else FilePart
        return Wide if "wide" in loc else kind
    inner: dict[str | int, type[BaseModel]] = {
        "backtest": Backtest,
        "columns": Unit if "unit" in loc else Columns,
        "exclude": Exclude,
        "exogenous": Exogenous,
        "promotion": Promotion,
        "retrain": Retrain,
    }
    return inner.get(loc[0], Customer)


def load_customer(path: Path) -> Customer | BrokenCustomer:
    """Read one customer file; what is wrong with it comes back as a :class:`BrokenCustomer`, not as an exception."""
    try:
        document = load_yaml(path)
        if not isinstance(document.value, dict):
            raise ConfigurationError(f"{path}, line 1: expected keys and values")
        try:
            customer = Customer.model_validate(document.value)
        except ValidationError as error:
            raise ConfigurationError(describe(document, error)) from None
        if customer.id != path.stem:
            line = document.line(("id",))
            raise ConfigurationError(f"{path}, line {line}: id: {customer.id!r} must be the file's name, {path.stem!r}")
    except ConfigurationError as error:
        return BrokenCustomer(path.stem, path, str(error))
    return customer


def load_customers(folder: Path, only: str | None = None) -> list[Customer | BrokenCustomer]:
    """Read every ``*.yaml`` of ``folder``, in name order, one result per file; ``only`` reads that one."""
    if only is not None:
        path = folder / f"{only}.yaml"
        return [load_customer(path)] if path.parent == folder and path.exists() else []
    return [load_customer(path) for path in sorted(folder.glob("*.yaml"))]


def sound_customers(folder: Path) -> list[Customer]:
    """Those of ``folder`` whose file can be used, in name order."""
    return [found for found in load_customers(folder) if isinstance(found, Customer)]


# --- settings -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """A deployment's settings, read from the environment once per process; none is a secret but the URLs."""

    home: Path
    """FORECASTING_HOME: state of this deployment (default ``.forecasting`` in the checkout)."""
    root: Path
    """FORECASTING_ROOT: folder that relative paths of customer files start from (default: the checkout)."""
    environment: str
    """FORECASTING_ENV: dev, staging or prod (default dev)."""
    warehouse_url: str | None
    """FORECASTING_WAREHOUSE_URL: None means the embedded PostgreSQL under ``home``."""
    mlflow_url: str | None
    """MLFLOW_TRACKING_URI: None means the embedded PostgreSQL."""
    artifacts_url: str
    """FORECASTING_ARTIFACTS_URL: where bundles are stored (default ``home``/mlflow/artifacts)."""
    work_url: str
    """FORECASTING_WORK_URL: frames between tasks (default ``home``/work)."""
    snapshot_git_url: str
    """FORECASTING_SNAPSHOT_GIT_URL: prefix; a customer's git remote is ``<prefix>/<customer>.git``."""
    snapshot_dvc_url: str
    """FORECASTING_SNAPSHOT_DVC_URL: prefix; a customer's DVC remote is ``<prefix>/<customer>``."""
    customers: Path
    """FORECASTING_CUSTOMERS: folder of customer files (default ``dags/customers``)."""
    contracts: Path
    """FORECASTING_CONTRACTS: folder of contracts (default ``data_contracts``)."""
    deliveries: Path
    """FORECASTING_DELIVERIES: a customer's files under `delivered:` stand in ``<here>/<customer>`` (default
    ``home``/deliveries)."""
    http_hosts: tuple[str, ...]
    """FORECASTING_HTTP_HOSTS: hosts, comma separated, that sources may be downloaded from (default: none)."""
    threads: int
    """FORECASTING_THREADS: threads of one fit; fixed, more than the free cores only spin (default 1)."""
    shards: int
    """FORECASTING_SHARDS: most parallel shards of one customer's statistical fits (default 2)."""
    sample: int | None = None
    """FORECASTING_SAMPLE: most series that a night keeps, to try a change out; dev only (default: all)."""
    commit: str | None = None
    """FORECASTING_COMMIT: git commit of the code, where its checkout has no ``.git`` (default: read from there)."""
    policy: Path | None = None
    """FORECASTING_POLICY: file that changes what is born here and who is in charge (default: the environment's own)."""
    target_staging: Path | None = None
    """FORECASTING_TARGET_STAGING: environment file of the deployment that `promote --to staging` reaches."""
    target_prod: Path | None = None
    """FORECASTING_TARGET_PROD: environment file of the deployment that `promote --to prod` reaches."""

    @property
    def embedded(self) -> bool:
        """True when the warehouse is the embedded server."""
        return self.warehouse_url is None


_CHECKOUT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ("dev", "staging", "prod")
TARGETS = ("staging", "prod")
"""Environments that versions are promoted to."""
VARIABLES = (
    "FORECASTING_HOME",
    "FORECASTING_ROOT",
    "FORECASTING_ENV",
    "FORECASTING_WAREHOUSE_URL",
    "MLFLOW_TRACKING_URI",
    "FORECASTING_ARTIFACTS_URL",
    "FORECASTING_WORK_URL",
    "FORECASTING_SNAPSHOT_GIT_URL",
    "FORECASTING_SNAPSHOT_DVC_URL",
    "FORECASTING_CUSTOMERS",
    "FORECASTING_CONTRACTS",
    "FORECASTING_DELIVERIES",
    "FORECASTING_HTTP_HOSTS",
    "FORECASTING_THREADS",
    "FORECASTING_SHARDS",
    "FORECASTING_SAMPLE",
    "FORECASTING_COMMIT",
    "FORECASTING_POLICY",
    "FORECASTING_TARGET_STAGING",
    "FORECASTING_TARGET_PROD",
)
"""Every setting that is read from the environment."""


def settings(environ: dict[str, str] | None = None) -> Settings:
    """Read the settings of this process.

    Raises:
        ConfigurationError: A setting has a value that cannot be used; the message names it.
    """
    env = dict(os.environ if environ is None else environ)
    root = Path(env.get("FORECASTING_ROOT", _CHECKOUT)).resolve()
    home = Path(env.get("FORECASTING_HOME", root / ".forecasting")).expanduser().resolve()
    name = env.get("FORECASTING_ENV", "dev")
    if name not in ENVIRONMENTS:
        raise ConfigurationError(f"FORECASTING_ENV={name!r}: expected one of {', '.join(ENVIRONMENTS)}")
    return Settings(
        home=home,
        root=root,
        environment=name,
        warehouse_url=env.get("FORECASTING_WAREHOUSE_URL") or None,
        mlflow_url=env.get("MLFLOW_TRACKING_URI") or None,
        artifacts_url=env.get("FORECASTING_ARTIFACTS_URL") or f"file://{home}/mlflow/artifacts",
        work_url=env.get("FORECASTING_WORK_URL") or f"file://{home}/work",
        snapshot_git_url=env.get("FORECASTING_SNAPSHOT_GIT_URL") or str(home / "snapshots/git"),
        snapshot_dvc_url=env.get("FORECASTING_SNAPSHOT_DVC_URL") or str(home / "snapshots/dvc"),
        customers=root / env.get("FORECASTING_CUSTOMERS", "dags/customers"),
        contracts=root / env.get("FORECASTING_CONTRACTS", "data_contracts"),
        deliveries=Path(env.get("FORECASTING_DELIVERIES") or home / "deliveries").expanduser(),
        http_hosts=tuple(filter(None, re.split(r"[,\s]+", env.get("FORECASTING_HTTP_HOSTS", "").lower()))),
        threads=_count(env, "FORECASTING_THREADS", 1),
        shards=_count(env, "FORECASTING_SHARDS", 2),
        sample=_sample(env, name),
        commit=env.get("FORECASTING_COMMIT") or None,
        policy=_file(env, "FORECASTING_POLICY"),
        target_staging=_file(env, "FORECASTING_TARGET_STAGING"),
        target_prod=_file(env, "FORECASTING_TARGET_PROD"),
    )


def _sample(env: dict[str, str], environment: str) -> int | None:
    if not env.get("FORECASTING_SAMPLE"):
        return None
    if environment != "dev":
        raise ConfigurationError(
            f"FORECASTING_SAMPLE={env['FORECASTING_SAMPLE']!r}: a night of some series is no night; expected it unset "
            f"where FORECASTING_ENV is {environment}"
        )
    return _count(env, "FORECASTING_SAMPLE", 1)


def _file(env: dict[str, str], name: str) -> Path | None:
    text = env.get(name)
    return Path(text).expanduser() if text else None


def _count(env: dict[str, str], name: str, default: int) -> int:
    text = env.get(name, str(default))
    if not re.fullmatch(r"[1-9][0-9]{0,2}", text):
        raise ConfigurationError(f"{name}={text!r}: expected a whole number from 1 to 999")
    return int(text)
