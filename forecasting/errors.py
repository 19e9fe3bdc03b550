"""The errors a run can end with: each says what, which, and what to do next. It must not import anything heavy."""

from __future__ import annotations

from difflib import get_close_matches

__all__ = [
    "BrokenBundleError",
    "ChecksumMismatchError",
    "ConfigurationError",
    "ContractBrokenError",
    "EvidenceMissingError",
    "ForecastingError",
    "LateAttemptError",
    "OutgoingContractBrokenError",
    "RegistryUnavailableError",
    "ServerError",
    "SnapshotCorruptedError",
    "SnapshotUnavailableError",
    "SourceError",
    "SourceUnavailableError",
    "UnknownModelError",
    "VersionTakenError",
    "WarehouseUnavailableError",
    "WorkUnavailableError",
    "near_miss",
]


def near_miss(name: str, known: list[str]) -> str:
    """A sentence with the closest known name, with a leading space; empty when nothing is close.

    >>> near_miss("horizn", ["horizon", "levels"])
    " Did you mean 'horizon'?"
    >>> near_miss("x", ["horizon"])
    ''
    """
    near = get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


class ForecastingError(Exception):
    """Base of all errors this package raises on purpose; its text is meant for the on-call engineer."""

    exit_code = 1
    """Exit code of the command line when a command ends with this error."""


class ConfigurationError(ForecastingError):
    """A customer file, contract or setting is wrong; the message names file, line, key, value and remedy."""

    exit_code = 2


class UnknownModelError(ConfigurationError):
    """A name that is not in the catalogue of forecasters."""

    def __init__(self, name: str, known: list[str]) -> None:
        self.name, self.known = name, sorted(known)
        super().__init__(name, known)

    def __str__(self) -> str:
        hint = near_miss(self.name, self.known)
        return f"no model named {self.name!r}.{hint} Known models: {', '.join(self.known)}."


class SourceError(ForecastingError):
    """The customer's feed was read but is not what is declared (columns, types, encoding, cut file). Not retried."""

    exit_code = 3


class SourceUnavailableError(SourceError):
    """The customer's feed could not be reached or read at all. Worth a retry."""

    exit_code = 4


class ContractBrokenError(ForecastingError):
    """The feed breaks its contract: the circuit breaker. The last publication stays current. Not retried."""

    exit_code = 3


class SnapshotUnavailableError(ForecastingError):
    """The snapshot store (git or DVC remote) could not be reached. Worth a retry."""

    exit_code = 4


class SnapshotCorruptedError(ForecastingError):
    """A snapshot's bytes are not those its manifest names. Not retried."""

    exit_code = 5


class BrokenBundleError(ForecastingError):
    """A bundle's files are missing or are not those its manifest names. Not retried."""

    exit_code = 5


class WorkUnavailableError(ForecastingError):
    """The store of the files between tasks could not be reached. Worth a retry."""

    exit_code = 4


class VersionTakenError(ForecastingError):
    """A semantic version is registered with another bundle: a version is immutable."""


class RegistryUnavailableError(ForecastingError):
    """MLflow could not be reached: the retrain waits, the day's forecast does not."""

    exit_code = 4


class OutgoingContractBrokenError(ForecastingError):
    """The forecasts to be published break our own outgoing contract: nothing is published. Not retried."""

    exit_code = 6


class EvidenceMissingError(ForecastingError):
    """A version may not go to another environment: evidence that is demanded there is missing. Not retried."""

    exit_code = 6


class ChecksumMismatchError(ForecastingError):
    """The same key gave other values, or `reproduce` found a difference: reproducibility is broken. Not retried."""

    exit_code = 7


class WarehouseUnavailableError(ForecastingError):
    """The warehouse could not be reached, is not migrated, or took too long to answer. Worth a retry."""

    exit_code = 4


class LateAttemptError(ForecastingError):
    """A newer attempt has published, or somebody has moved what this one stood on; it changes nothing. Not retried."""

    exit_code = 8


class ServerError(ForecastingError):
    """The embedded PostgreSQL or another local server could not be started, reached or stopped."""

    exit_code = 9
