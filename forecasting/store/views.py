"""The views a customer's readers query, over the customer's own partitions, keys under the customer's own names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from forecasting.config import Customer
from forecasting.frames import quantile_column
from forecasting.store import tables

__all__ = ["COMMENTS", "View", "customer_views"]

COMMENTS = {
    "bias": "error / y, unitless, best near 0; positive = over-forecast.",
    "published_at": "When the set became current.",
    "stale": "True: an earlier set, shown after a rollback until the next night.",
    "version": "Model version whose choices were published.",
    "y": "Quantity sold, in units, as known now; null where it has not come.",
    "run_date": "Local date the run stands for.",
    "run_id": "Run that made the row.",
}
"""What view columns mean where no table column of that name says it, or where the view narrows the meaning."""


@dataclass(frozen=True)
class View:
    """One view: what to create, and what its comments say."""

    name: str
    sql: str
    comment: str
    columns: dict[str, str]

    @property
    def mark(self) -> str:
        """The comment as stored: it ends with a hash of the definition, by which drift is seen."""
        return f"{self.comment} (definition {hashlib.sha256(self.sql.encode()).hexdigest()[:12]})"


def customer_views(customer: Customer) -> list[View]:
    """The views of the customer's schema."""
    return [_current(customer), _history(customer), _accuracy(customer), _feed_days(customer), _models(customer)]


def _current(customer: Customer) -> View:
    newest = "ORDER BY run_date DESC, seq DESC LIMIT 1"
    chosen = "SELECT run_id, run_date, published_at, stale FROM forecasting.publication"
    pointer = f"{chosen} WHERE {_is(customer)} {newest}"
    comment = "The forecasts to plan with: the newest published run date."
    return _view(customer, "forecast_current", comment, _forecast_columns(customer), _forecasts(customer, pointer))


def _history(customer: Customer) -> View:
    pointer = (
        "SELECT DISTINCT ON (run_date) run_id, run_date, published_at, stale "
        f"FROM forecasting.publication WHERE {_is(customer)} ORDER BY run_date DESC, seq DESC"
    )
    actual = (
        f'\nLEFT JOIN "{customer.id}".actual AS a '
        f"ON a.{_is(customer)} AND a.node = f.node AND a.unique_id = f.unique_id AND a.ds = f.ds"
    )
    columns = _forecast_columns(customer) | {"y": "a.y"}
    comment = "What was published for every run date, as it stands now, beside what was sold."
    return _view(customer, "forecast_history", comment, columns, _forecasts(customer, pointer) + actual)


def _accuracy(customer: Customer) -> View:
    names = [column.name for column in tables.score.c if column.name not in ("customer_id", "scored_by")]
    columns = {name: f"f.{name}" for name in names[:4]} | _key_columns(customer)
    columns |= {name: f"f.{name}" for name in names[4:]} | {"bias": "f.error / nullif(f.y, 0)", "version": "r.version"}
    source = (
        f'FROM "{customer.id}".score AS f\n'
        f"JOIN forecasting.run AS r ON r.{_is(customer)} AND r.run_id = f.run_id\n{_series(customer)}"
        "\nWHERE r.status <> 'kept'"
    )
    return _view(customer, "forecast_accuracy", tables.score.comment or "", columns, source)


def _feed_days(customer: Customer) -> View:
    columns = {column.name: column.comment or "" for column in tables.feed_day.c if column.name != "customer_id"}
    columns |= {"status": tables.run.c.status.comment or ""}
    listed = ",\n    ".join(f"{'r' if name == 'status' else 'd'}.{name}" for name in columns)
    sql = (
        f'CREATE VIEW "{customer.id}".feed_day WITH (security_invoker = true) AS\nSELECT\n    {listed}\n'
        "FROM forecasting.feed_day AS d JOIN forecasting.run AS r USING (customer_id, run_id)\n"
        f"WHERE d.{_is(customer)}"
    )
    return View("feed_day", sql, tables.feed_day.comment or "", columns)


def _models(customer: Customer) -> View:
    """One row per version; ``forecasting.model_history`` has one per line of champions."""
    version, line = tables.model_version.c, tables.champion.c
    columns = {name: (f"v.{name}", version[name].comment or "") for name in _OF_VERSION}
    columns |= {name: (sql, text) for name, (sql, text) in _SCORES.items()}
    columns |= {
        f"rmsse_{name}": (f"(v.scores->'mean'->>'rmsse_{name}')::double precision", f"The same of {name}.")
        for name in customer.references
    }
    columns |= {
        "promoted": ("d.promoted", "True when it won; null when it never competed."),
        "incumbent": ("d.champion", "Champion it competed against."),
        "decision_reason": ("d.reason", "The rule that decided, with its numbers."),
        "crowned_from": ("l.effective_from", "Run date after which nights read it; newest line, null: never crowned."),
        "crowned_until": ("n.effective_from", "Run date after which nights read another; null: in charge, or never."),
        "crowned_at": ("l.recorded_at", line.recorded_at.comment or ""),
        "crowned_by": ("l.who", line.who.comment or ""),
        "crowned_reason": ("l.reason", line.reason.comment or ""),
    }
    listed = ",\n    ".join(f"{value} AS {name}" for name, (value, _) in columns.items())
    sql = (
        f'CREATE VIEW "{customer.id}".model_history WITH (security_invoker = true) AS\nSELECT\n    {listed}\n'
        f"{_MODELS}\nWHERE v.{_is(customer)}"
    )
    comment = "Every version: what made it, how well it did, who crowned it and until when it was in charge."
    return View("model_history", sql, comment, {name: text for name, (_, text) in columns.items()})


_OF_VERSION = ("version", "major", "minor", "patch", "kind", "run_id", "run_date", "training_cutoff", "created_at",
               "snapshot", "contract_version", "code_version", "bundle_sha256", "bundle_bytes", "fit_seconds",
               "origin")  # fmt: skip
_SCORES = {
    "rmsse": ("(v.scores->'mean'->>'rmsse_selection')::double precision",
              "RMSSE of what it publishes, mean over the judged origins of its backtest, lower is better."),
    "wape": ("(v.scores->'mean'->>'wape_selection')::double precision", "WAPE of its median there, lower is better."),
    "bias": ("(v.scores->'mean'->>'bias_selection')::double precision", "Bias there: positive = over-forecast."),
}  # fmt: skip
_MODELS = """FROM forecasting.model_version AS v
LEFT JOIN LATERAL (
    SELECT x.promoted, x.champion, x.reason FROM forecasting.decision AS x
    WHERE x.customer_id = v.customer_id AND x.challenger = v.version ORDER BY x.decided_at DESC LIMIT 1
) AS d ON true
LEFT JOIN LATERAL (
    SELECT x.seq, x.effective_from, x.recorded_at, x.live, x.who, x.reason FROM forecasting.champion AS x
    WHERE x.customer_id = v.customer_id AND x.version = v.version ORDER BY x.effective_from DESC, x.seq DESC LIMIT 1
) AS l ON true
LEFT JOIN LATERAL (
    SELECT x.effective_from FROM forecasting.champion AS x
    WHERE x.customer_id = v.customer_id AND (x.effective_from, x.seq) > (l.effective_from, l.seq)
        AND (x.live OR NOT l.live) AND x.version <> v.version
    ORDER BY x.effective_from, x.seq LIMIT 1
) AS n ON true"""


def _view(customer: Customer, name: str, comment: str, columns: dict[str, str], source: str) -> View:
    listed = ",\n    ".join(f'{value} AS "{alias}"' for alias, value in columns.items())
    head = f'CREATE VIEW "{customer.id}".{name} WITH (security_invoker = true) AS\nSELECT\n    {listed}\n'
    return View(name, head + source, comment, _meanings(customer, list(columns), name == "forecast_accuracy"))


def _meanings(customer: Customer, names: list[str], accuracy: bool) -> dict[str, str]:
    keys = {alias: f"Key {i} of the series." for i, alias in enumerate(_key_names(customer), 1)}
    table = tables.score if accuracy else tables.forecast
    own = {column.name: column.comment or "" for column in table.c}
    known = COMMENTS | own | keys if accuracy else own | COMMENTS | keys
    return {name: known[name] for name in names}


def _forecast_columns(customer: Customer) -> dict[str, str]:
    pointer = {name: f"p.{name}" for name in ("run_date", "published_at", "stale")}
    series = {"run_id": "f.run_id", "node": "f.node", "unique_id": "f.unique_id"} | _key_columns(customer)
    numbers = ["ds", "h", "y_hat", *map(quantile_column, customer.quantiles), "model", "rung"]
    return pointer | series | {name: f"f.{name}" for name in numbers}


def _forecasts(customer: Customer, pointer: str) -> str:
    return (
        f"FROM (\n    {pointer}\n) AS p\n"
        f'JOIN "{customer.id}".forecast AS f ON f.{_is(customer)} AND f.run_id = p.run_id\n{_series(customer)}'
    )


def _series(customer: Customer) -> str:
    same = "s.node = f.node AND s.unique_id = f.unique_id"
    return f"LEFT JOIN forecasting.series AS s ON s.{_is(customer)} AND {same}"


def _is(customer: Customer) -> str:
    return f"customer_id = '{customer.id}'"


def _key_columns(customer: Customer) -> dict[str, str]:
    return {alias: f"s.key_{i}" for i, alias in enumerate(_key_names(customer), 1)}


def _key_names(customer: Customer) -> list[str]:
    """The customer's key names; one that a column of ours already has gets ``key_`` before it."""
    taken = {column.name for table in (tables.forecast, tables.score) for column in table.c} | COMMENTS.keys()
    return [f"key_{key}" if key in taken else key for key in customer.columns.keys]
