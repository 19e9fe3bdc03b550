"""From dev to staging to prod: with evidence and without, whole or not at all, the same twice."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from forecasting import config, deployments, pipeline
from forecasting.errors import BrokenBundleError, ConfigurationError, EvidenceMissingError
from forecasting.pipeline import environments, shadow
from forecasting.store import embedded, origins, pointers, warehouse
from tests import small
from tests.conftest import forget_versions, fresh_database
from tests.pipeline.conftest import Nights

WORSE, BETTER = "seasonal_naive", "weekday_mean"
BORN = "2018-10-02"
"""Night on which dev makes 1.1.0."""


def declare(nights: Nights, pool: str) -> None:
    """Another pool in the customer's file: another recipe."""
    lines = nights.yaml.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("pool:", "backtest:", "promotion:"))]
    rails = "max_bias: 20, max_undercoverage: 0.9, max_cost_ratio: 1000"  # few pieces sold: totals jump
    more = [f"pool: [{pool}]", "backtest: {windows: 12, select: 2}", f"promotion: {{min_origins: 2, {rails}}}"]
    nights.yaml.write_text("\n".join([*kept, *more]) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the small customer alone."""
    root = tmp_path_factory.mktemp("shop")
    small.copy(root)
    small.cut(root / "examples/mini.csv")
    small.loosen(root, len(small.SKUS))
    for path in (root / "dags/customers").glob("*.yaml"):
        path.unlink()
    (root / "dags/customers/mini.yaml").write_text(small.declaration(), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def deploy(shop: Path, server: embedded.Server) -> Iterator[Callable[..., Nights]]:
    """Make deployments of one checkout, each with a home and a warehouse of its own."""
    forget_versions(server)
    with ExitStack() as stack:

        def made(environment: str) -> Nights:
            url = fresh_database(server)
            warehouse.migrate(url)
            given = {
                "FORECASTING_HOME": str(shop / secrets.token_hex(4)),
                "FORECASTING_ROOT": str(shop),
                "FORECASTING_ENV": environment,
                "FORECASTING_WAREHOUSE_URL": url,
                "MLFLOW_TRACKING_URI": server.url("mlflow"),
            }
            deployment = pipeline.connect(config.settings(given))
            stack.callback(deployment.engine.dispose)
            return Nights(deployment, shop)

        yield made


@pytest.fixture(scope="module")
def dev(deploy: Callable[..., Nights]) -> Nights:
    """A deployment whose gate has crowned 1.0.0, the MINOR 1.1.0 of a better recipe, its PATCH; and refused 1.2.0."""
    made = deploy("dev")
    declare(made, WORSE)
    made.run("2018-10-01", live=True)
    declare(made, BETTER)
    assert made.run(BORN, live=True).version == "1.1.0"
    assert made.run("2018-10-03", live=True, force_retrain=True).version == "1.1.1"
    declare(made, WORSE)
    assert made.run("2018-10-04", live=True).version == "1.1.1"
    declare(made, BETTER)
    return made


@pytest.fixture
def staging(deploy: Callable[..., Nights]) -> Nights:
    return deploy("staging")


@pytest.fixture
def prod(deploy: Callable[..., Nights]) -> Nights:
    return deploy("prod")


def promote(source: Nights, target: Nights, version: str, **asked: object) -> str:
    return environments.promote(source.deployment, target.deployment, "mini", version, who="ann", **asked)  # type: ignore[arg-type]


def acts(nights: Nights, version: str = "1.1.0") -> list[str]:
    """What the audit log says was done to promote a version."""
    query = f"select what from forecasting.audit_log where after->>'version' = '{version}' and what like 'promote%'"
    return list(nights.sql(query + " order by seq")["what"])


def left(nights: Nights) -> list[int]:
    """What the warehouse holds of promotions."""
    tables = ("model_version", "champion", "shadow")
    return [int(nights.sql(f"select count(*) as n from forecasting.{name}")["n"][0]) for name in tables]


def test_a_version_goes_to_staging_with_the_gates_evidence_and_publishes_there(dev: Nights, staging: Nights) -> None:
    told = promote(dev, staging, "1.1.0")
    assert "staging.mini 1, in charge after 2018-10-02, in place of none" in told
    (here,) = warehouse.versions(staging.deployment.engine, "mini")
    (there,) = [v for v in warehouse.versions(dev.deployment.engine, "mini") if v.version == "1.1.0"]
    assert (here.bundle_sha256, here.run_id, here.kind) == (there.bundle_sha256, None, "MINOR")
    assert here.bundle_uri != there.bundle_uri
    assert here.origin
    (gate,) = here.origin["gates"]
    assert (gate["environment"], gate["run_id"], gate["promoted"]) == ("dev", f"mini/{BORN}/1", True)
    assert gate["evidence"]["kind"] == "MINOR"
    away = dev.deployment.settings.home.rename(dev.checkout / "away")
    night = staging.run("2018-10-03", live=True)
    away.rename(dev.deployment.settings.home)
    assert (night.plan, night.version) == ("refresh", "1.1.0")
    assert (acts(dev), acts(staging)) == (["promote"], ["promote"])


def test_promoting_again_changes_nothing(dev: Nights, staging: Nights) -> None:
    promote(dev, staging, "1.1.0")
    before = left(staging)
    assert "nothing to do" in promote(dev, staging, "1.1.0")
    assert left(staging) == before
    assert (acts(dev), acts(staging)) == (["promote"], ["promote"])


def test_an_altered_bundle_goes_nowhere_and_is_named_even_by_force(dev: Nights, staging: Nights) -> None:
    version = warehouse.versions(dev.deployment.engine, "mini")[1]
    altered = Path(version.bundle_uri.removeprefix("file://")) / "meta.json"
    whole = altered.read_bytes()
    altered.write_bytes(whole.replace(b"weekday_mean", b"weekday_mode"))
    with pytest.raises(BrokenBundleError, match=r"altered: its sha256 .* files: meta\.json\)"):
        promote(dev, staging, "1.1.0", force=True, reason="now")
    altered.write_bytes(whole)
    assert left(staging) == [0, 0, 0]
    assert not (staging.deployment.settings.home / "mlflow").exists()


def test_without_the_gates_word_a_version_goes_by_force_alone_and_both_sides_say_so(
    dev: Nights, staging: Nights
) -> None:
    with pytest.raises(EvidenceMissingError, match=r"the gate of dev did not let it pass on mini/2018-10-04/1: kept"):
        promote(dev, staging, "1.2.0")
    with pytest.raises(ConfigurationError, match="needs --reason"):
        promote(dev, staging, "1.2.0", force=True)
    assert left(staging) == [0, 0, 0]
    assert "forced without: the gate of dev" in promote(dev, staging, "1.2.0", force=True, reason="the buyer asks")
    assert (acts(dev, "1.2.0"), acts(staging, "1.2.0")) == (["promote_forced"], ["promote_forced"])
    (here,) = warehouse.versions(staging.deployment.engine, "mini")
    assert here.origin
    assert here.origin["forced_without"]


def test_another_bundle_under_the_number_is_refused(dev: Nights, staging: Nights) -> None:
    promote(dev, staging, "1.1.0")
    with staging.deployment.engine.begin() as connection:
        connection.exec_driver_sql("update forecasting.model_version set bundle_sha256 = repeat('0', 64)")
    with pytest.raises(ConfigurationError, match=r"has another mini 1\.1\.0, promoted to there before .* 000000"):
        promote(dev, staging, "1.1.0")


def test_a_version_that_nobody_made_is_named_beside_those_there_are(dev: Nights, staging: Nights) -> None:
    with pytest.raises(
        ConfigurationError, match=r"dev has no mini 1\.7\.0; it has: 1\.0\.0, 1\.1\.0, 1\.1\.1, 1\.2\.0"
    ):
        promote(dev, staging, "1.7.0")


def test_a_patch_is_not_promoted_where_its_line_serves_already(dev: Nights, staging: Nights) -> None:
    promote(dev, staging, "1.1.0")
    with pytest.raises(EvidenceMissingError, match=r"PATCH, which is born .* staging has 1\.1\.0"):
        promote(dev, staging, "1.1.1")


def test_prod_demands_nights_behind_a_version_that_came_from_dev(dev: Nights, staging: Nights, prod: Nights) -> None:
    with pytest.raises(EvidenceMissingError, match="prod takes from staging, and this is dev"):
        promote(dev, prod, "1.1.0")
    promote(dev, staging, "1.1.0")
    for day, behind in (("2018-10-03", 0), ("2018-10-04", 1), ("2018-10-05", 2)):
        with pytest.raises(EvidenceMissingError, match=f"{behind} live nights behind it in staging, and 3 are needed"):
            promote(staging, prod, "1.1.0")
        staging.run(day, live=True)
    staging.run("2018-10-05")  # a night by hand is none
    assert len(origins.nights(staging.deployment.engine, "mini", "1.1.0")) == 3
    assert "in charge after 2018-10-02" in promote(staging, prod, "1.1.0")
    (there,) = warehouse.versions(prod.deployment.engine, "mini")
    assert there.origin
    assert [gate["environment"] for gate in there.origin["gates"]] == ["dev"]
    assert there.origin["nights"] == [f"mini/2018-10-0{day}/1" for day in (3, 4, 5)]
    assert there.origin["before"]["registry_name"] == "dev.mini"
    assert prod.run("2018-10-06", live=True).version == "1.1.0"


# --- what is born where ---------------------------------------------------------------------------------------------


def plan_of(nights: Nights, day: str, **asked: bool) -> tuple[str | None, str | None]:
    run = nights.run(day, live=True, **asked)
    return run.plan, run.plan_reason


def test_outside_dev_another_recipe_is_not_trained_and_the_night_says_who_brings_it(dev: Nights, prod: Nights) -> None:
    promote(dev, prod, "1.1.0", force=True, reason="first")
    declare(prod, WORSE)
    try:
        told = "the recipe differs from that of 1.1.0: prod takes it by `forecasting promote mini VERSION --to prod`"
        assert plan_of(prod, "2018-10-03", force_retrain=True) == ("refresh", told)
        assert [v.version for v in warehouse.versions(prod.deployment.engine, "mini")] == ["1.1.0"]
        prod.yaml.write_text(prod.yaml.read_text().replace("horizon: 7", "horizon: 14"))
        with pytest.raises(ConfigurationError, match=r"what 1\.1\.0 cannot publish \(horizon 7 → 14\), and prod takes"):
            prod.run("2018-10-04", live=True)
        assert set(prod.current()["run_id"]) == {"mini/2018-10-03/1"}
    finally:
        prod.yaml.write_text(prod.yaml.read_text().replace("horizon: 14", "horizon: 7"))
        declare(prod, BETTER)


def test_a_patch_is_born_and_crowned_where_its_line_serves(dev: Nights, prod: Nights) -> None:
    promote(dev, prod, "1.1.0", force=True, reason="first")
    assert plan_of(prod, "2018-10-03")[0] == "refresh"
    night = prod.run("2018-10-04", live=True, force_retrain=True)
    assert (night.plan, night.version) == ("retrain", "1.1.1")


def test_a_policy_may_let_the_gate_crown_nothing(dev: Nights, staging: Nights) -> None:
    promote(dev, staging, "1.1.0")
    policy = staging.deployment.settings.home / "policy.yaml"
    policy.parent.mkdir(exist_ok=True)
    policy.write_text("crowned: []\n")
    settings = dataclasses.replace(staging.deployment.settings, policy=policy)
    strict = dataclasses.replace(staging, deployment=dataclasses.replace(staging.deployment, settings=settings))
    night = strict.run("2018-10-03", live=True, force_retrain=True)
    assert (night.plan, night.version) == ("retrain", "1.1.0")
    decision = strict.sql("select reason, promoted, evidence from forecasting.decision").iloc[0]
    assert "in staging the gate alone crowns no PATCH" in decision["reason"]
    assert decision["evidence"]["held_by"] == "policy"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shadow_night: 3\n", r"line 1: shadow_night: unknown key. Did you mean 'shadow_nights'"),
        ("born: [FIRST]\ncrowned: [MINR]\n", r"line 2: crowned: 'MINR': .* Did you mean 'MINOR'"),
        ("- MINOR\n", r"line 1: expected keys and values"),
    ],
)
def test_a_policy_that_is_wrong_is_refused_by_line(
    settings: config.Settings, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        deployments.policy_of(dataclasses.replace(settings, policy=path))


def test_a_policy_changes_what_it_names_and_no_more(settings: config.Settings, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("shadow_nights: 7\n")
    prod = dataclasses.replace(settings, environment="prod")
    usual, changed = deployments.policy_of(prod), deployments.policy_of(dataclasses.replace(prod, policy=path))
    assert (usual.shadow_nights, changed.shadow_nights) == (3, 7)
    assert changed.model_copy(update={"shadow_nights": 3}) == usual


# --- in shadow ------------------------------------------------------------------------------------------------------


@pytest.fixture
def contest(dev: Nights, staging: Nights) -> Nights:
    """Staging with 1.0.0 in charge and 1.1.0 in shadow; its file declares the recipe of the latter."""
    promote(dev, staging, "1.0.0")
    assert "in shadow beside 1.0.0 after 2018-10-02" in promote(dev, staging, "1.1.0")
    return staging


def kept(nights: Nights) -> list[str]:
    return list(nights.sql("select run_id from forecasting.run where status = 'kept' order by run_date")["run_id"])


def test_a_version_in_shadow_is_computed_kept_scored_and_never_shown(contest: Nights) -> None:
    days = [f"2018-10-0{day}" for day in (3, 4, 5)]
    for day in days:
        run = contest.run(day, live=True)
        assert (run.plan, run.version, run.message) == ("refresh", "1.0.0", None)
    assert kept(contest) == [f"mini/{day}/2" for day in days]
    assert set(contest.current()["run_id"]) == {"mini/2018-10-05/1"}
    version, nights = shadow.nights(contest.deployment, "mini")
    assert (version, [night.n is not None for night in nights]) == ("1.1.0", [False, True, True])
    assert all(night.rmsse != night.champion_rmsse for night in nights if night.n)
    for home in ("forecasting", "mini"):
        shown = contest.sql(f"select distinct run_id from {home}.forecast_accuracy")
        assert not set(shown["run_id"]) & set(kept(contest))
    assert len(origins.nights(contest.deployment.engine, "mini", "1.1.0")) == 3
    assert shadow.end(contest.deployment, "mini", who="ann", why="done") == "1.1.0"
    contest.run("2018-10-06", live=True)
    assert len(kept(contest)) == 3


def test_a_set_kept_in_shadow_is_what_its_version_would_have_published(
    contest: Nights, dev: Nights, deploy: Callable[..., Nights]
) -> None:
    contest.run("2018-10-03", live=True)
    alone = deploy("staging")
    assert "in charge" in promote(dev, alone, "1.1.0")
    published = alone.run("2018-10-03", live=True)
    beside = warehouse.read_run(contest.deployment.engine, "mini", "mini/2018-10-03/2")
    assert (beside.version, beside.checksum) == ("1.1.0", published.checksum)


def test_a_shadow_that_cannot_be_computed_costs_no_night_and_is_told(contest: Nights) -> None:
    version = warehouse.versions(contest.deployment.engine, "mini")[1]
    (Path(version.bundle_uri.removeprefix("file://")) / "choices.parquet").unlink()
    night = contest.run("2018-10-03", live=True)
    assert (night.status, night.version, kept(contest)) == ("published", "1.0.0", [])
    assert "the version in shadow has no set tonight: BrokenBundleError" in (night.message or "")


def test_a_backfill_computes_no_shadow(contest: Nights) -> None:
    contest.run("2018-10-03")
    assert kept(contest) == []


# --- where the target is --------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> config.Settings:
    return config.settings({"FORECASTING_HOME": str(tmp_path / "dev"), "FORECASTING_ROOT": str(tmp_path)})


def test_an_environment_file_names_the_other_deployment(settings: config.Settings, tmp_path: Path) -> None:
    path = tmp_path / "staging.env"
    path.write_text("# the next one\n\nFORECASTING_HOME = next\nFORECASTING_ENV=staging\n")
    found = deployments.target(dataclasses.replace(settings, target_staging=path), "staging")
    assert (found.home, found.root, found.environment) == (tmp_path / "next", settings.root, "staging")
    assert deployments.target(settings, "staging", path) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FORECASTING_HOME=x\nFORECASTING_HOM=y\n", r"line 2: 'FORECASTING_HOM' is no setting. Did you mean"),
        ("FORECASTING_HOME=x\nsecret\n", r"line 2: expected KEY=VALUE$"),
        ("FORECASTING_HOME=x\nFORECASTING_HOME=y\n", r"line 2: FORECASTING_HOME is set twice"),
        ("FORECASTING_ENV=prod\nFORECASTING_HOME=x\n", r"FORECASTING_ENV=prod; expected FORECASTING_ENV=staging"),
        ("FORECASTING_HOME=x\n", r"no FORECASTING_ENV; expected FORECASTING_ENV=staging"),
        ("FORECASTING_ENV=staging\n", r"FORECASTING_HOME is missing"),
        ("FORECASTING_ENV=staging\nFORECASTING_HOME=dev\n", r"describes this very deployment"),
    ],
)
def test_an_environment_file_that_is_wrong_is_refused_by_line(
    settings: config.Settings, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "staging.env"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        deployments.target(settings, "staging", path)


def test_without_a_file_it_is_said_how_to_name_one(settings: config.Settings) -> None:
    with pytest.raises(ConfigurationError, match="set FORECASTING_TARGET_PROD"):
        deployments.target(settings, "prod")


def test_a_warehouse_of_another_revision_is_not_migrated_from_here(
    settings: config.Settings, empty_url: str, server: embedded.Server
) -> None:
    given = {"warehouse_url": empty_url, "mlflow_url": server.url("mlflow"), "environment": "prod"}
    other = dataclasses.replace(settings, **given)
    refused = pytest.raises(ConfigurationError, match=r"at revision none.* run `forecasting migrate` there")
    with refused, environments.reach(other):
        pass
    engine = pipeline.connect(other).engine
    assert warehouse.revisions(engine)[0] is None
    engine.dispose()


def test_a_question_that_nobody_answered_may_be_asked_again_without_a_new_publication(dev: Nights) -> None:
    engine = dev.deployment.engine
    run = warehouse.read_run(engine, "mini", "mini/2018-10-03/1")
    with warehouse.acting_for(engine, "mini") as connection:
        asked = {"version": "1.1.1", "champion": "1.0.0", "evidence": {}, "expires_at": run.started_at, "who": "me"}
        first = pointers.ask(connection, run, **asked)
        assert pointers.ask(connection, run, **asked, again=True) == first  # it waits
        pointers.answer(connection, pointers.approval(connection, "mini", first), "expired", who="me", why="no answer")
        assert pointers.ask(connection, run, **asked) == first  # the night's own repeated attempt asks once
        second = pointers.ask(connection, run, **asked, again=True)
        assert pointers.waiting(connection, "mini").approval_id == second > first
        connection.rollback()
