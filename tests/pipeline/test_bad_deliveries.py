"""A bad delivery is refused or quarantined with a message the on-call can act on; readers keep the last good set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from forecasting import pipeline
from forecasting.errors import ContractBrokenError, ForecastingError, SourceError, SourceUnavailableError
from tests.buckets import buckets
from tests.small import lines_of, write_lines

from .conftest import Nights

Make = Callable[..., Nights]
Spoil = Callable[[Path], None]


def cut_last_line(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def rename_column(path: Path) -> None:
    path.write_text(path.read_text().replace("DATE,", "DAY,", 1))


def every_quantity_negative(path: Path) -> None:
    lines = lines_of(path)
    wanted = [i for i, name in enumerate(lines[0]) if name.startswith("QTY_")]
    for line in lines[1:]:
        for i in wanted:
            line[i] = str(-1 - abs(int(float(line[i]))))
    write_lines(path, lines)


def other_dates(path: Path) -> None:
    lines = lines_of(path)
    for line in lines[1:]:
        line[0] = "/".join(reversed(line[0].split("-")))
    write_lines(path, lines)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def double_dates(path: Path) -> None:
    lines = lines_of(path)
    at = next(i for i, line in enumerate(lines) if line[0] == "2018-10-01")
    write_lines(path, [*lines[: at + 1], lines[at], *lines[at + 1 :]])


def remove(path: Path) -> None:
    path.unlink()


CASES: dict[str, tuple[Spoil, type[ForecastingError], list[str]]] = {
    "cut last line": (cut_last_line, SourceError, ["mini.csv", "line"]),
    "renamed column": (rename_column, SourceError, ["mini.csv", "DATE", "DAY"]),
    "negative quantities": (
        every_quantity_negative,
        ContractBrokenError,
        ["quantity_in_range", "quantity", "What to do"],
    ),
    "dates in another format": (other_dates, SourceError, ["mini.csv", "DATE", "%Y-%m-%d"]),
    "empty file": (empty, SourceError, ["mini.csv", "empty"]),
    "duplicate dates": (double_dates, ContractBrokenError, ["pasta_sales", "2018-10-01", "What to do"]),
    "missing source": (remove, SourceUnavailableError, ["mini.csv"]),
}


@pytest.mark.parametrize("name", CASES, ids=str)
def test_a_bad_delivery_stops_the_run_and_the_last_good_set_stays(nights: Make, name: str) -> None:
    spoil, expected, words = CASES[name]
    here = nights()
    good = here.run("2018-10-01")
    before, age = here.current(), _age(here)
    spoil(here.csv)
    with pytest.raises(expected) as caught:
        here.run("2018-10-02")
    assert type(caught.value) is expected
    message = str(caught.value)
    for word in words:
        assert word in message, message
    pd.testing.assert_frame_equal(before, here.current())
    assert set(here.current()["run_id"]) == {good.run_id}
    ended = here.sql("select status, message from forecasting.run where run_id = 'mini/2018-10-02/1'").iloc[0]
    assert ended["status"] == ("broken" if expected is ContractBrokenError else "failed")
    assert message.splitlines()[0] in ended["message"]
    health = here.sql("select * from forecasting.fleet_health").iloc[0]
    assert health["last_run_id"] == "mini/2018-10-02/1"
    assert health["published_run_id"] == good.run_id
    assert health["behind_cutoffs"] > age


def _age(here: Nights) -> int:
    return int(here.sql("select behind_cutoffs from forecasting.fleet_health")["behind_cutoffs"].iloc[0])


def test_the_next_good_delivery_heals_without_help(nights: Make) -> None:
    here = nights()
    here.run("2018-10-01")
    good = here.csv.read_bytes()
    cut_last_line(here.csv)
    with pytest.raises(SourceError):
        here.run("2018-10-02")
    here.csv.write_bytes(good)
    assert here.run("2018-10-02").status == "published"


def test_a_secret_of_the_connection_shows_nowhere(nights: Make, caplog: pytest.LogCaptureFixture) -> None:
    """The canary: an S3 source with a key in its connection; then everything the night left behind is searched."""
    canary = "canary0secret0of0the0connection"
    caplog.set_level("DEBUG")
    here = nights()
    with buckets(canary, "sales") as (address, client):
        client.upload_file(str(here.csv), "sales", "mini.csv")
        text = here.yaml.read_text().replace(
            "uri: examples/mini.csv", "uri: s3://sales/mini.csv\n  connection: true\n  timeout: 5"
        )
        here.yaml.write_text(text)
        uri = f"s3://key:{canary}@{address}"
        pulled = pipeline.pull(here.deployment, "mini", _day("2018-10-01"), connection_uri=uri)
        frozen = pipeline.freeze(here.deployment, pulled)
        fitted = here.fitted(frozen)
        done = pipeline.publish(here.deployment, frozen[0], *fitted)
        monitored = pipeline.monitor(here.deployment, done)
        client.delete_object(Bucket="sales", Key="mini.csv")
        with pytest.raises(SourceUnavailableError) as lost:
            pipeline.pull(here.deployment, "mini", _day("2018-10-02"), connection_uri=uri)
    with pytest.raises(SourceUnavailableError) as gone:
        pipeline.pull(here.deployment, "mini", _day("2018-10-03"), connection_uri=uri)
    ours = [r.getMessage() for r in caplog.records if not r.name.startswith(("botocore", "boto3", "moto", "werkzeug"))]
    said = [*ours, str(lost.value), str(gone.value), str([pulled, frozen, fitted, done, monitored])]
    assert canary not in "\n".join(said)
    tables = here.sql("select table_name from information_schema.tables where table_schema = 'forecasting'")[
        "table_name"
    ]
    assert len(tables) > 10
    for table in tables:
        assert (
            canary
            not in here.sql(f"select coalesce(string_agg(t::text, ' '), '') as all from forecasting.{table} t")[
                "all"
            ].iloc[0]
        )
    left = [path for path in here.deployment.settings.home.rglob("*") if path.is_file()]
    assert len(left) > 20
    assert [path for path in left if canary.encode() in path.read_bytes()] == []


def _day(text: str):  # type: ignore[no-untyped-def]
    from datetime import date

    return date.fromisoformat(text)
