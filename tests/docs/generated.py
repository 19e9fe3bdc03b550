"""The generated parts of README.md and docs/: tables written from the code, between ``<!-- generated: … -->`` marks.

``python -m tests.docs.generated`` writes them anew; tests/docs/test_docs.py fails when one is out of date.
"""

from __future__ import annotations

import ast
import itertools
import re
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from forecasting import config, errors, feed, frames
from forecasting.cli.main import app
from forecasting.deployments import Policy
from forecasting.learn.models import CATALOGUE

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines]) + "\n"


def said_below(path: Path, owner: str | None = None) -> dict[str, str]:
    """Docstring below each assignment of a module, or of its class ``owner``."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    if owner:
        body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == owner)
    said = {}
    for node, after in itertools.pairwise(body):
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        if isinstance(target, ast.Name) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            said[target.id] = re.sub(r"[ \n]+", " ", str(after.value.value)).strip().replace("``", "`")
    return said


# --- settings -------------------------------------------------------------------------------------------------------


def settings() -> str:
    """One row per field of ``config.Settings``, from its docstring ``NAME: meaning``."""
    said = said_below(ROOT / "forecasting/config.py", "Settings")
    rows = []
    for meaning in said.values():
        name, _, rest = meaning.partition(": ")
        rows.append((f"`{name}`", rest))
    return table(("setting", "meaning"), rows)


# --- frames ---------------------------------------------------------------------------------------------------------


def frame(name: str) -> str:
    schema: frames.Frame = getattr(frames, name)
    rows = [(f"`{c}`", dtype, "key" if c in schema.key else "") for c, dtype in schema.columns.items()]
    return said_below(ROOT / "forecasting/frames.py")[name] + "\n\n" + table(("column", "dtype", ""), rows)


def models() -> str:
    rows = [(f"`{r.name}`", r.family, str(r.seasons), str(r.newest or "all")) for r in CATALOGUE.values()]
    return table(("model", "family", "least history, seasons", "newest periods fitted"), rows)


# --- commands and exit codes ----------------------------------------------------------------------------------------


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its path, groups left out."""
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from walk(child, (*path, name))
    else:
        yield path, command


def root_command() -> Any:
    return typer.main.get_command(app)


def commands() -> str:
    parts = []
    for path, command in walk(root_command()):
        parts.append(f"### `forecasting {' '.join(path)}`\n\n{command.help}\n")
        rows = [(f"`{_written(p)}`", str(p.help or ""), _default(p)) for p in command.params if p.name != "help"]
        if rows:
            parts.append(table(("argument or option", "meaning", "default"), rows))
    return "\n".join(parts)


def _written(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return ", ".join([*parameter.opts, *parameter.secondary_opts])


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    return "" if value is None else "no" if value is False else str(getattr(value, "value", value))


def exit_codes() -> str:
    """Exit code → the errors that end with it, from their docstrings."""
    found: dict[int, list[str]] = {0: ["Done."]}
    for name in errors.__all__:
        kind = getattr(errors, name)
        if isinstance(kind, type) and kind is not errors.ForecastingError:
            found.setdefault(kind.exit_code, []).append((kind.__doc__ or "").strip())
    found.setdefault(1, []).append("Anything else, such as a run of a backfill that failed.")
    return table(("code", "meaning"), [(str(code), " ".join(found[code])) for code in sorted(found)])


# --- customer files -------------------------------------------------------------------------------------------------


def customer_keys() -> str:
    parts = {
        "The customer": config.Customer,
        **{f"`source` of `kind: {kind}`": model for kind, model in feed.kinds().items()},
        "`source.parts`": feed.FilePart,
        "`source.wide`": feed.Wide,
        "`columns`": feed.Columns,
        "`columns.unit`": feed.Unit,
        "`exclude`": feed.Exclude,
        "`exogenous.<column>`": feed.Exogenous,
        "`backtest`": config.Backtest,
        "`retrain`": config.Retrain,
        "`promotion`": config.Promotion,
    }
    return "\n".join(f"### {title}\n\n{_keys(model)}" for title, model in parts.items())


def _keys(model: type[BaseModel]) -> str:
    rows = []
    for name, field in model.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        meaning = field.description or (f"See `{name}` below." if nested else _UNSAID.get(name, ""))
        rows.append((f"`{name}`", meaning + _choices(field.annotation), _preset(field)))
    return table(("key", "meaning", "default"), rows)


_UNSAID = {"seed": "Seed of every fit.", "season_lengths": "Observations per season; forecasters take the first.",
           "kind": "Kind of source."}  # fmt: skip


def _choices(annotation: Any) -> str:
    values = sorted(map(str, set(_literals(annotation))))
    return f" One of {', '.join(f'`{value}`' for value in values)}." if values else ""


def _literals(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) in (types.UnionType, Union, tuple):
        for part in get_args(annotation):
            yield from _literals(part)


def _preset(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value is PydanticUndefined or isinstance(value, BaseModel) or value in ((), {}):
        return ""
    if isinstance(value, tuple):
        return "all but `naive`, `recent_mean`" if value == config.POOL else ", ".join(map(str, value))
    return "no" if value is False else str(value)


def policy() -> str:
    """The keys of a policy's file."""
    rows = [(f"`{n}`", (f.description or "") + _choices(f.annotation)) for n, f in Policy.model_fields.items()]
    return table(("key", "meaning"), rows)


def mistake() -> str:
    """What ``check`` says of the README's customer with one key misspelt."""
    example = re.search(r"```yaml\n(# (dags/customers/\S+).*?)```", DOCUMENTS[0].read_text(encoding="utf-8"), re.DOTALL)
    assert example
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(example[2]).name
        path.write_text(example[1].replace("horizon:", "horizn:"), encoding="utf-8")
        found = config.load_customer(path)
    assert isinstance(found, config.BrokenCustomer)
    return f"```text\n{found.message.replace(str(path), example[2])}\n```\n"


# --- documents ------------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[..., str]] = {
    "settings": settings,
    "frame": frame,
    "models": models,
    "commands": commands,
    "exit codes": exit_codes,
    "customer keys": customer_keys,
    "mistake": mistake,
    "policy": policy,
}


def render(text: str) -> str:
    """``text`` with every generated part as the code says it now."""

    def made(match: re.Match[str]) -> str:
        name, _, argument = match[2].partition(" of ")
        return match[1] + PARTS[name](*filter(None, [argument])) + match[3]

    return BLOCK.sub(made, text)


def warehouse_dictionary() -> str:
    """The data dictionary of a warehouse that was made for it."""
    from forecasting.store import dictionary, embedded, warehouse

    with tempfile.TemporaryDirectory() as home, embedded.server(Path(home)) as running:
        warehouse.migrate(running.url("warehouse"))
        engine = warehouse.connect(running.url("warehouse"))
        try:
            return dictionary.data_dictionary(engine)
        finally:
            engine.dispose()


def write() -> None:
    (ROOT / "docs/warehouse.md").write_text(warehouse_dictionary(), encoding="utf-8")
    for path in DOCUMENTS:
        path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write()
