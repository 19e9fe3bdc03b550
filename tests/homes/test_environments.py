"""Dev, staging and prod on one machine, each with a home, warehouse and registry of its own: versions go by command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from forecasting.store import embedded
from tests.homes.deployments import LIMIT, Home, declare, lay_out, silent_server

pytestmark = pytest.mark.homes

ENVIRONMENTS = ("dev", "staging", "prod")
OLD, NEW = "seasonal_naive", "weekday_mean"
WHO = "champion c join forecasting.model_version v using (customer_id, version)"


def recipe(root: Path, pool: str) -> None:
    """Declare the small customer with one cheap model, and rails that so few pieces can keep."""
    declare(root, "mini", dates="first_date: 2018-09-01")
    path = root / "dags/customers/mini.yaml"
    kept = [line for line in path.read_text().splitlines() if not line.startswith(("pool:", "backtest:", "promotion:"))]
    rails = "{min_origins: 2, max_bias: 20, max_undercoverage: 0.9, max_cost_ratio: 1000}"
    more = [f"pool: [{pool}]", "backtest: {windows: 12, select: 2}", f"promotion: {rails}"]
    path.write_text("\n".join([*kept, *more]) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Home]]:
    """Three deployments whose servers stay up; the environment file of each lies beside its home."""
    root = tmp_path_factory.mktemp("shop")
    lay_out(root)
    recipe(root, OLD)
    targets = {}
    for name in ENVIRONMENTS[1:]:
        (root / f"{name}.env").write_text(f"# on this machine\nFORECASTING_ENV={name}\nFORECASTING_HOME={name}\n")
        targets[f"FORECASTING_TARGET_{name.upper()}"] = str(root / f"{name}.env")
    made = {name: Home(root / name, root, {"FORECASTING_ENV": name, **targets}) for name in ENVIRONMENTS}
    with ExitStack() as stack:
        for home in made.values():
            stack.enter_context(embedded.server(home.path))
            home.command("migrate")
        yield made


def refused(home: Home, *command: str) -> tuple[int, str]:
    with home.start(*command) as process:
        said, _ = process.communicate(timeout=LIMIT)
    assert process.returncode != 0, said
    return process.returncode, said


def night(home: Home, day: int) -> str:
    return home.command("run", "mini", "--date", f"2018-10-{day:02}", "--live")


def state(home: Home) -> list[int]:
    names = ("model_version", "champion", "shadow", "audit_log")
    return [int(home.sql(f"select count(*) as n from forecasting.{name}")["n"][0]) for name in names]


def test_a_version_goes_from_dev_through_shadow_into_charge_of_prod(homes: dict[str, Home]) -> None:
    dev, staging, prod = (homes[name] for name in ENVIRONMENTS)
    night(dev, 1)
    assert "in charge after 2018-10-01" in dev.command("promote", "mini", "1.0.0", "--to", "staging")
    recipe(dev.checkout, NEW)
    assert "1.1.0; MINOR" in night(dev, 2)
    assert "in shadow beside 1.0.0" in dev.command("promote", "mini", "1.1.0", "--to", "staging")

    code, said = refused(staging, "promote", "mini", "1.1.0", "--to", "prod")
    assert (code, "it has 0 live nights behind it in staging, and 3 are needed" in said) == (6, True), said
    code, said = refused(staging, "promote", "mini", "1.1.0", "--to", "prod", "--force")
    assert (code, "--force needs --reason" in said) == (2, True), said
    assert state(prod) == [0, 0, 0, 0]

    for day in (3, 4, 5):
        assert "of 1.0.0" in night(staging, day)
    assert "1.1.0 in shadow, 3 nights kept, 2 of them scored" in staging.command("shadow", "mini")
    assert "identical" in staging.command("reproduce", "mini", "mini/2018-10-05/2")
    assert "in place of none" in staging.command("promote", "mini", "1.0.0", "--to", "prod")
    before = state(prod)
    (uri,) = staging.sql("select bundle_uri from forecasting.model_version where version = '1.1.0'")["bundle_uri"]
    file = Path(uri.removeprefix("file://")) / "choices.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"!")
    code, said = refused(staging, "promote", "mini", "1.1.0", "--to", "prod", "--force", "--reason", "now")
    assert (code, "choices.parquet" in said) == (5, True), said
    assert state(prod) == before
    file.write_bytes(whole)

    told = staging.command("promote", "mini", "1.1.0", "--to", "prod", "--reason", "won in shadow")
    assert "prod.mini 2, in charge after 2018-10-02, in place of 1.0.0" in told
    before = state(prod)
    assert "nothing to do" in staging.command("promote", "mini", "1.1.0", "--to", "prod")
    assert state(prod) == before

    assert "of 1.1.0" in night(prod, 6)
    (row,) = prod.sql(f"""
        select c.version, c.who, c.reason, v.run_id, v.bundle_sha256, v.origin->>'environment' as source,
               v.origin->'gates'->0->>'kind' as gate, jsonb_array_length(v.origin->'nights') as nights
        from forecasting.{WHO} order by c.seq desc limit 1""").to_dict("records")
    assert (row["version"], row["run_id"], row["source"]) == ("1.1.0", None, "staging")
    assert (row["gate"], row["nights"]) == ("MINOR", 3)
    assert "won in shadow" in row["reason"]
    current = prod.sql("select distinct r.version from forecasting.forecast_current f join forecasting.run r "
                       "using (customer_id, run_id)")  # fmt: skip
    assert list(current["version"]) == ["1.1.0"]
    hashes = [home.sql("select bundle_sha256 from forecasting.model_version where version = '1.1.0'") for home in
              homes.values()]  # fmt: skip
    assert len({str(found["bundle_sha256"][0]) for found in hashes}) == 1
    told = staging.sql("select what from forecasting.audit_log where after->>'to' = 'prod' order by seq")
    assert list(told["what"]) == ["promote", "promote"]


# --- the registry ---------------------------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of a server that takes connections and never answers."""
    with silent_server() as address:
        yield address


@pytest.mark.parametrize("registry", ["closed", "postgresql", "http"])
def test_without_its_registry_a_night_publishes_and_the_next_one_retrains(
    tmp_path: Path, silent: str, registry: str
) -> None:
    lay_out(tmp_path)
    recipe(tmp_path, OLD)
    home = Home(tmp_path / "home", tmp_path)
    urls = {
        "closed": "postgresql+psycopg://a:b@127.0.0.1:9/mlflow",
        "postgresql": f"postgresql+psycopg://a:b@{silent}/mlflow",
        "http": f"http://{silent}",
    }
    down = Home(home.path, tmp_path, {"MLFLOW_TRACKING_URI": urls[registry]})
    with embedded.server(home.path):
        night(home, 1)
        assert "of 1.0.0; kept: refresh" in night(down, 2)
        said = down.command("run", "mini", "--date", "2018-10-03", "--live", "--force-retrain")
        assert "of 1.0.0; kept: the retrain waits until the next night, the registry is unavailable" in said
        assert "1.0.1" in night(home, 4)
        rows = home.sql("""
            select r.plan, r.plan_reason, r.version, r.message, d.reason from forecasting.run r
            join forecasting.decision d using (customer_id, run_id) order by r.run_date""").to_dict("records")
    assert [row["version"] for row in rows] == ["1.0.0", "1.0.0", "1.0.0", "1.0.1"]
    waited, after = rows[2], rows[3]
    assert "the retrain waits until the next night" in waited["message"]
    assert "the retrain waits until the next night" in waited["reason"]
    assert (after["plan"], after["plan_reason"]) == ("retrain", "signal retrain_waits armed on 2018-10-03")
