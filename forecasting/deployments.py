"""Deployments beside this one, and what each lets be born, in and in charge: environment files and policies, checked.

A policy is configuration: ``pipeline`` obeys it. This module must not reach for a server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from forecasting import config
from forecasting.config import Settings
from forecasting.errors import ConfigurationError, near_miss
from forecasting.feed import Frozen

__all__ = ["KINDS", "Kind", "Policy", "policy_of", "target"]

Kind = Literal["FIRST", "PATCH", "MINOR", "MAJOR"]
KINDS: tuple[Kind, ...] = ("FIRST", "PATCH", "MINOR", "MAJOR")


class Policy(Frozen):
    """What a deployment lets be born, in, and in charge. ``FORECASTING_POLICY`` names a file that changes it."""

    born: tuple[Kind, ...] = Field(KINDS, description="Kinds of version that a night may make here.")
    crowned: tuple[Kind, ...] = Field(
        KINDS, description="Kinds that the gate alone puts in charge; of the others a person does."
    )
    enters: Literal["shadow", "charge"] = Field(
        "charge", description="What becomes of a version that is promoted to here: it competes in shadow, or publishes."
    )
    shadow_nights: int = Field(
        0, ge=0, le=365, description="Live nights that a version must have behind it where it comes from."
    )

    def bears(self, kind: str) -> bool:
        """True when a night may make a version of this kind."""
        return kind in self.born

    def crowns(self, kind: str) -> bool:
        """True when the gate's word is enough for a version of this kind."""
        return kind in self.crowned


_OWN: tuple[Kind, ...] = ("FIRST", "PATCH")
DEFAULTS: dict[str, Policy] = {
    "dev": Policy(),
    "staging": Policy(born=_OWN, crowned=_OWN, enters="shadow"),
    "prod": Policy(born=_OWN, crowned=_OWN, enters="charge", shadow_nights=3),
}
"""What holds where no file is named. A customer's first version is born anywhere, or it would have no forecasts."""


def policy_of(settings: Settings) -> Policy:
    """The deployment's policy: its environment's, with what the file of FORECASTING_POLICY changes.

    Raises:
        ConfigurationError: The file is missing or wrong; with line, key, value and what was expected.
    """
    default = DEFAULTS[settings.environment]
    if settings.policy is None:
        return default
    document = config.load_yaml(settings.policy)
    if not isinstance(document.value, dict):
        raise ConfigurationError(f"{document.path}, line 1: expected keys and values, such as `shadow_nights: 5`")
    try:
        return Policy.model_validate({**default.model_dump(), **document.value})
    except ValidationError as error:
        faults = [_fault(document, fault) for fault in error.errors(include_url=False)]
        raise ConfigurationError("\n".join(faults)) from None


def _fault(document: config.Document, fault: Any) -> str:
    key = str(fault["loc"][0])
    where = f"{document.path}, line {document.line(tuple(fault['loc']))}: {key}"
    known = list(Policy.model_fields)
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown key.{near_miss(key, known)} Known keys: {', '.join(known)}."
    near = near_miss(str(fault["input"]), list(KINDS)) if fault["type"] == "literal_error" else ""
    return f"{where}: {fault['input']!r}: {fault['msg']}.{near}"


_ELSEWHERE = {
    "FORECASTING_WAREHOUSE_URL",
    "MLFLOW_TRACKING_URI",
    "FORECASTING_ARTIFACTS_URL",
    "FORECASTING_SNAPSHOT_GIT_URL",
    "FORECASTING_SNAPSHOT_DVC_URL",
}
"""What names every place of a deployment whose home is on no disk of this machine."""


# --- environment files ----------------------------------------------------------------------------------------------


def target(settings: Settings, environment: str, file: Path | None = None) -> Settings:
    """Settings of the deployment that is promoted to, from its environment file.

    Args:
        settings: Of this deployment; the other one has the same checkout, unless its file says otherwise.
        environment: Which environment is meant: staging or prod.
        file: Lines KEY=VALUE; None: the file that ``FORECASTING_TARGET_<ENVIRONMENT>`` names.

    Raises:
        ConfigurationError: No file is named, it is wrong, or it describes this very deployment.
    """
    variable = f"FORECASTING_TARGET_{environment.upper()}"
    path = file or {"staging": settings.target_staging, "prod": settings.target_prod}[environment]
    if path is None:
        raise ConfigurationError(
            f"nothing says where {environment} is: set {variable} to its environment file, or name one with --target"
        )
    given = read_environment_file(path)
    named = given.get("FORECASTING_ENV")
    if named != environment:
        said = f"FORECASTING_ENV={named}" if named else "no FORECASTING_ENV"
        raise ConfigurationError(f"{path}: holds {said}; expected FORECASTING_ENV={environment}")
    if "FORECASTING_HOME" not in given and (missing := sorted(_ELSEWHERE - given.keys())):
        raise ConfigurationError(
            f"{path}: FORECASTING_HOME is missing; add the folder of that deployment's state or, where all of it is "
            f"kept elsewhere: {', '.join(missing)}"
        )
    here = {"FORECASTING_ROOT": str(settings.root), "FORECASTING_HOME": str(settings.home / "targets" / environment)}
    other = config.settings({**here, **given})
    _refuse_itself(settings, other, path)
    return other


def read_environment_file(path: Path) -> dict[str, str]:
    """Settings from lines KEY=VALUE; empty lines and those that begin with # count for nothing.

    Folders may be written relative to the file's own.

    Raises:
        ConfigurationError: The file cannot be read, or a line is not a setting; with its number.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: the environment file cannot be read: {error}") from None
    given: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (stripped := line.strip()) or stripped.startswith("#"):
            continue
        name, equals, value = (part.strip() for part in stripped.partition("="))
        where = f"{path}, line {number}"
        if not equals:
            raise ConfigurationError(f"{where}: expected KEY=VALUE")  # not shown: it may be part of a password
        if name not in config.VARIABLES:
            known = ", ".join(config.VARIABLES)
            near = near_miss(name, list(config.VARIABLES))
            raise ConfigurationError(f"{where}: {name!r} is no setting.{near} Settings: {known}")
        if name in given:
            raise ConfigurationError(f"{where}: {name} is set twice")
        given[name] = value
    for name in ("FORECASTING_HOME", "FORECASTING_ROOT", "FORECASTING_POLICY"):
        if name in given:
            given[name] = str(path.resolve().parent / Path(given[name]).expanduser())
    return given


def _refuse_itself(settings: Settings, other: Settings, path: Path) -> None:
    same_home = other.home == settings.home
    if same_home or (other.warehouse_url and other.warehouse_url == settings.warehouse_url):
        shared = f"FORECASTING_HOME={other.home}" if same_home else "the same FORECASTING_WAREHOUSE_URL"
        raise ConfigurationError(f"{path}: describes this very deployment ({shared}); name another one")
