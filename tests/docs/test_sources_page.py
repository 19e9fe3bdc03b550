"""docs/sources.md is true: its examples are valid, and no kind of source is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from forecasting import feed
from forecasting.config import Customer, parse_yaml
from forecasting.data.sources import limits
from forecasting.store import work

PAGE = Path(__file__).resolve().parents[2] / "docs/sources.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
REST = {
    "id": "acme", "time_zone": "Europe/London", "first_date": "2024-01-01", "contract": "acme", "absent": "zero",
    "columns": {"ds": "day", "y": "quantity", "keys": ["product"]},
}  # fmt: skip


@pytest.mark.parametrize(
    "example", EXAMPLES, ids=lambda text: text.splitlines()[1].strip()[:40] if "\n " in text else ""
)
def test_an_example_of_a_source_is_valid(example):
    read = parse_yaml(example, PAGE).value
    assert "source" in read
    Customer.model_validate({**REST, **read})


def test_every_kind_of_source_is_shown():
    assert {parse_yaml(example, PAGE).value["source"].get("kind", "csv") for example in EXAMPLES} == set(feed.kinds())


def test_the_figures_said_are_those_of_the_code():
    assert limits.TOTAL == 10
    assert "after ten times `timeout`" in TEXT
    assert f"{work.TIMEOUT} s a request" in TEXT
    assert f"after {work.TOTAL * work.TIMEOUT} s an operation" in TEXT
