"""A customer file is right, or the message says where and why it is not."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from pydantic import ValidationError

from forecasting.config import POOL, BrokenCustomer, Customer, load_customer, load_customers, settings
from forecasting.errors import ConfigurationError
from forecasting.feed import CsvSource

ROOT = Path(__file__).resolve().parent.parent
PASTA = (ROOT / "dags/customers/pasta.yaml").read_text(encoding="utf-8")


def write(folder: Path, text: str, name: str = "pasta") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_closed_weekdays_are_for_daily_customers(tmp_path: Path) -> None:
    broken = load_customer(write(tmp_path, PASTA + "closed_weekdays: [sunday]\nfrequency: W\n"))
    assert isinstance(broken, BrokenCustomer)
    assert "closed_weekdays: a period of frequency W holds every weekday" in broken.message


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [("until: 2017-12-31", "since: 2017-12-31", "both hold 2017-12-31"), ("", "", "both hold the first days"),
     ("since: 2017-01-01", "until: 2016-12-31", ""), ("until: 2017-12-31", "since: 2018-01-01", "")],
    ids=["the same day", "without bounds", "the newer one first", "day by day"],
)  # fmt: skip
def test_parts_that_hold_the_same_day_are_refused(tmp_path: Path, before: str, after: str, message: str) -> None:
    one = "uri: examples/pasta/hierarchical_sales_data.csv"
    parts = f"parts: [{{{one}, {before}}}, {{{one.replace('data', 'new')}, {after}}}]"
    broken = load_customer(write(tmp_path, PASTA.replace(one, parts)))
    assert isinstance(broken, BrokenCustomer) == bool(message)
    assert not isinstance(broken, BrokenCustomer) or message in broken.message


def test_ten_lines_are_enough(tmp_path: Path) -> None:
    customer = load_customer(write(tmp_path, PASTA))
    assert isinstance(customer, Customer)
    assert (customer.horizon, customer.frequency, customer.pool) == (28, "D", POOL)
    assert customer.first_date == date(2018, 10, 1)
    assert customer.nodes == {"total": (), "brand": ("brand",)}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("Europe/Rome", "Europe/Rom", "line 3: time_zone: 'Europe/Rom'"),
        ("absent: closed", "absnt: closed", "Did you mean 'absent'?"),
        ("absent: closed", "absent: no", "absent: 'no': Input should be 'zero', 'closed' or 'missing'"),
        ("kind: csv", "kind: cvs", "Did you mean 'csv'?"),
        ("[total, brand]", "[total, brnd]", "Did you mean 'brand'?"),
        ("id: pasta", "id: Pasta", "id: 'Pasta'"),
        ("id: pasta", "id: noodles", "must be the file's name, 'pasta'"),
        ("id: pasta", "id: &a pasta", "line 2: anchors and aliases"),
        ("absent: closed", "absent: closed\nhorizon: 7\nhorizon: 8", "line 19: 'horizon' is already set on line 18"),
        ("absent: closed", "absent: closed\npool: [auto_et]", "Did you mean 'auto_ets'?"),
        ("absent: closed", "absent: closed\nhorizon: 0", "line 18: horizon: 0"),
        ("absent: closed", "absent: closed\nlevels: [81]", "levels"),
        ("last_date: 2018-10-03", "last_date: 2017-10-03", "line 5: last_date: 2017-10-03 lies before first_date"),
        ("[total, brand]", "[total, brnd]", "line 15: hierarchy: 'brnd' is not a key"),
        ("promotion: {known", "quantity: {known", "line 13: exogenous: 'quantity' is already"),
        ("absent: closed", "absent: closed\npool: [tsb, tsb]", "line 18: pool: a model is named twice"),
        ("absent: closed", "absent: closed\nmetric: mpe", "line 18: metric: 'mpe': Input should be 'rmsse', 'wape' or"),
        ("absent: closed", "absent: closed\nobjective: l_1", "Did you mean 'l1'?"),
        ("(?P<value>QTY|PROMO)", "(QTY|PROMO)", "needs a group (?P<value>"),
        ("(?P<value>QTY|PROMO)", "(?P<value>QTY|PROMO", "not a regular expression"),
        ("id: pasta", "id: [pasta", "not valid YAML"),
        (PASTA, "", "line 1: empty; expected keys"),
        (PASTA, "- a\n- b\n", "expected keys and values"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_line_and_remedy(tmp_path: Path, old: str, new: str, expected: str) -> None:
    broken = load_customer(write(tmp_path, PASTA.replace(old, new)))
    assert isinstance(broken, BrokenCustomer)
    assert expected in broken.message
    assert str(broken.path) in broken.message


def test_one_fault_is_told_once(tmp_path: Path) -> None:
    broken = load_customer(write(tmp_path, PASTA + "pool: [auto_et]\n"))
    assert isinstance(broken, BrokenCustomer)
    assert len(broken.message.splitlines()) == 1
    empty = load_customer(write(tmp_path, PASTA + "pool: []\n"))
    assert isinstance(empty, BrokenCustomer)
    assert "at least 1 item" in empty.message


CANARY = "canary-77e0"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (f"s3://KEY:{CANARY}@bucket/sales.csv", "before the @"),
        (f"s3://KEY:a/{CANARY}@bucket/sales.csv", "before the @"),
        (f"https://{CANARY}@host/sales.csv", "before the @"),
        (f"zip://sales.csv::sftp://me:{CANARY}@host/sales.zip", "before the @"),
        *((f"https://host/sales.csv?day=1&{name}={CANARY}", f"'{name}'") for name in (
            "X-Amz-Signature", "X-Goog-Signature", "Signature", "sig", "token", "AWSAccessKeyId", "X-Amz-Credential")),
        (f"https://host/sales.csv?X%2DAmz%2DSignature={CANARY}", "'X-Amz-Signature'"),
    ],
)  # fmt: skip
def test_a_secret_in_a_customer_file_is_refused_and_never_shown(tmp_path: Path, uri: str, said: str) -> None:
    text = PASTA.replace("examples/pasta/hierarchical_sales_data.csv", f'"{uri}"')
    broken = load_customer(write(tmp_path, text))
    assert isinstance(broken, BrokenCustomer)
    for part in ("line 8: source.uri: holds", said, "connection: true", "FORECASTING_CONN_<ID>"):
        assert part in broken.message
    assert CANARY not in broken.message
    broken = load_customer(write(tmp_path, text + "horizn: 7\n"))  # beside another fault
    assert isinstance(broken, BrokenCustomer)
    assert CANARY not in broken.message
    with pytest.raises(ValidationError) as caught:
        CsvSource(uri=uri)
    assert CANARY not in f"{caught.value} {caught.value!r}"


@pytest.mark.parametrize("uri", ["examples/a@b:c.csv", "s3://bucket/a@b.csv", "s3://host:9000/a@b.csv",
                                 "abfs://container@account/sales.csv", "https://host/sales.csv?day=1&design=2",
                                 "sftp://me@host/sales.csv"])  # fmt: skip
def test_an_address_without_secrets_is_taken(uri: str) -> None:
    assert CsvSource(uri=uri).uri == uri


@pytest.mark.parametrize("name", ["public", "pg_x", "forecasting", "a", "a" * 32, "acme/../bob", "acme\n", "1a", "Ä"])
def test_an_id_that_is_no_safe_name_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, PASTA.replace("id: pasta", f"id: {name!r}"))
    broken = load_customer(path)
    assert isinstance(broken, BrokenCustomer)


def test_plain_words_stay_words_and_leading_zeros_are_decimal(tmp_path: Path) -> None:
    customer = load_customer(write(tmp_path, PASTA + "horizon: 010\nroles: [no, on]\n"))
    assert isinstance(customer, Customer)
    assert (customer.horizon, customer.roles) == (10, ("no", "on"))


def test_one_broken_file_leaves_the_others_standing(tmp_path: Path) -> None:
    write(tmp_path, PASTA)
    write(tmp_path, PASTA.replace("pasta", "other", 1).replace("closed", "??"), "other")
    assert [type(found).__name__ for found in load_customers(tmp_path)] == ["BrokenCustomer", "Customer"]


def test_only_names_one_file_and_never_leaves_the_folder(tmp_path: Path) -> None:
    write(tmp_path, PASTA)
    (tmp_path / "in").mkdir()
    assert len(load_customers(tmp_path, only="pasta")) == 1
    assert load_customers(tmp_path / "in", only="../pasta") == []
    assert load_customers(tmp_path, only="nobody") == []


def test_a_customer_cannot_be_changed() -> None:
    customer = load_customer(ROOT / "dags/customers/pasta.yaml")
    assert isinstance(customer, Customer)
    with pytest.raises(ValueError, match="frozen"):
        customer.horizon = 7  # type: ignore[misc]


def test_recipe_and_interface_tell_apart_what_consumers_notice() -> None:
    customer = load_customer(ROOT / "dags/customers/pasta.yaml")
    assert isinstance(customer, Customer)
    longer = customer.model_copy(update={"horizon": 14})
    smaller = customer.model_copy(update={"pool": ("auto_ets",)})
    assert longer.recipe() == customer.recipe()
    assert longer.interface() != customer.interface()
    assert smaller.interface() == customer.interface()
    assert smaller.recipe() != customer.recipe()
    assert len({customer.hash, longer.hash, smaller.hash}) == 3


@pytest.mark.parametrize("goal", [{"metric": "mape"}, {"objective": "l1"}], ids=["metric", "objective"])
def test_another_goal_is_another_recipe(goal: dict[str, str]) -> None:
    customer = load_customer(ROOT / "dags/customers/pasta.yaml")
    assert isinstance(customer, Customer)
    assert (customer.metric, customer.objective) == ("rmsse", "tweedie")
    other = customer.model_copy(update=goal)
    assert other.recipe() != customer.recipe()
    assert other.interface() == customer.interface()


@pytest.mark.parametrize(
    ("levels", "expected"), [((80,), (0.1, 0.5, 0.9)), ((50, 95), (0.025, 0.25, 0.5, 0.75, 0.975))]
)
def test_levels_become_quantiles_with_the_median(levels: tuple[int, ...], expected: tuple[float, ...]) -> None:
    customer = load_customer(ROOT / "dags/customers/pasta.yaml")
    assert isinstance(customer, Customer)
    assert customer.model_copy(update={"levels": levels}).quantiles == expected


@pytest.mark.parametrize(("name", "value"), [("FORECASTING_ENV", "production"), ("FORECASTING_THREADS", "two")])
def test_a_setting_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        settings({name: value})


@pytest.mark.parametrize("environment", ["staging", "prod"])
def test_a_sample_is_refused_outside_dev(environment: str) -> None:
    given = {"FORECASTING_SAMPLE": "60"}
    assert settings(given).sample == 60
    assert settings({**given, "FORECASTING_SAMPLE": ""}).sample is None
    with pytest.raises(ConfigurationError, match=f"expected it unset where FORECASTING_ENV is {environment}"):
        settings({**given, "FORECASTING_ENV": environment})


@pytest.mark.parametrize("text", ["0", "-1", "many", "1000"])
def test_a_sample_is_a_number_of_series(text: str) -> None:
    with pytest.raises(ConfigurationError, match="FORECASTING_SAMPLE"):
        settings({"FORECASTING_SAMPLE": text})
