"""Every kind of bad input ends as designed: none is wrongly accepted, none ends with a traceback."""

from __future__ import annotations

from collections import Counter

import pytest

from . import table
from .bench import FAMILIES, Result, tried
from .kinds import KINDS

DESIGNED = ("refused", "quarantined", "rung")


@pytest.fixture(scope="session")
def results() -> list[Result]:
    """Filled by the first test, kind by kind."""
    return []


@pytest.mark.parametrize("kind", KINDS, ids=[kind.id.encode("ascii", "replace").decode() for kind in KINDS])
def test_it_ends_as_designed(kind, results, request):
    url = (lambda: request.getfixturevalue("empty_url")) if kind.postgres else None
    result = tried(kind, url)
    results.append(result)
    assert not result.fault, result.fault


def test_there_are_enough_kinds_and_none_is_accepted_or_a_traceback(results):
    if len(results) != len(KINDS):
        pytest.skip("only some kinds were tried")
    ended = Counter(result.ended for result in results)
    assert ended["accepted"] == ended["traceback"] == 0
    assert sum(ended[end] for end in DESIGNED) >= 120
    assert {result.kind.family for result in results} == set(FAMILIES)
    assert len({kind.id for kind in KINDS}) == len(KINDS)


def test_the_document_says_what_happens(results):
    if len(results) != len(KINDS):
        pytest.skip("only some kinds were tried")
    assert table.document(results) == table.DOCUMENT.read_text(encoding="utf-8"), "run python -m tests.bad.table"
