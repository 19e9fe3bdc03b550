"""Every kind of bad input ends as designed: none is wrongly accepted, none ends with a traceback."""

from __future__ import annotations

from collections import Counter
from datetime import date
from functools import partial

import pytest

from forecasting import config, pipeline
from forecasting.pipeline import intake
from forecasting.pipeline.night import Night
from forecasting.store import provision, warehouse
from tests.conftest import fresh_database
from tests.data.conftest import make_customer

from . import table
from .bench import FAMILIES, Result, tried
from .kinds import KINDS

DESIGNED = ("refused", "quarantined", "rung")


@pytest.fixture(scope="session")
def seen() -> dict[str, Result]:
    """Kind → how it ended, of those that were tried."""
    return {}


@pytest.fixture(scope="session")
def results(seen, server) -> list[Result]:
    """How every kind ended: those that no test before has tried are tried now."""
    return [_once(kind, seen, server) for kind in KINDS]


def _once(kind, seen, server) -> Result:
    if kind.id not in seen:
        seen[kind.id] = tried(kind, partial(fresh_database, server) if kind.postgres else None)
    return seen[kind.id]


@pytest.mark.parametrize("kind", KINDS, ids=[kind.id.encode("ascii", "replace").decode() for kind in KINDS])
def test_it_ends_as_designed(kind, seen, server):
    result = _once(kind, seen, server)
    assert not result.fault, result.fault


def test_what_was_refused_and_quarantined_reaches_the_warehouse(results, engine):
    """Names, values and messages as odd as they come, in the tables where the on-call looks for them."""
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
    ended = Counter(result.ended for result in results)
    assert ended["accepted"] == ended["traceback"] == 0
    assert sum(ended[end] for end in DESIGNED) >= 120
    assert {result.kind.family for result in results} == set(FAMILIES)
    assert len({kind.id for kind in KINDS}) == len(KINDS)


def test_the_document_says_what_happens(results):
    assert table.document(results) == table.DOCUMENT.read_text(encoding="utf-8"), "run python -m tests.bad.table"
