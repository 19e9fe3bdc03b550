"""Every kind of bad input ends as designed: none is wrongly accepted, none ends with a traceback."""

from __future__ import annotations

from collections import Counter
from datetime import date

import pytest

from forecasting import config, pipeline
from forecasting.pipeline import intake
from forecasting.pipeline.night import Night
from forecasting.store import provision, warehouse
from tests.data.conftest import make_customer

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


def test_what_was_refused_and_quarantined_reaches_the_warehouse(results, engine):
    """Names, values and messages as odd as they come, in the tables where the on-call looks for them."""
    if len(results) != len(KINDS):
        pytest.skip("only some kinds were tried")
    customer = make_customer(id="zoo")
    provision.ensure(engine, customer)
    deployment = pipeline.Deployment(config.settings({}), engine, "")
    code = warehouse.Code("code", "lock", "cpu")
    run = warehouse.allot(engine, customer, date(2024, 1, 20), live=False, as_frozen=False, code=code)
    night = Night(deployment, run)
    for result in results:
        if result.ended == "quarantined":
            intake._record_verdict(night, result.found.verdict, ("feed",))
            kept = warehouse.query(engine, "select line, rule from zoo.quarantine order by position")
            want = result.found.verdict.quarantine
            assert [*kept["line"]] == [*want["line"]], result.kind.id
            assert [*kept["rule"]] == [*want["rule"]], result.kind.id
        elif result.ended == "refused":
            warehouse.fail(engine, "zoo", run.run_id, "failed", result.said)
            assert warehouse.read_run(engine, "zoo", run.run_id).message, result.kind.id


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
