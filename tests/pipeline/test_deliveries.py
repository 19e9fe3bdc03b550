"""Late rows, restated history, the same delivery twice, a shrunken source: noticed, counted, said, and reproducible."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta

import pytest

from forecasting.errors import ConfigurationError, ContractBrokenError
from tests.small import lines_of, write_lines

from .conftest import Nights
from .deliveries import Told, four_nights, table

Make = Callable[..., Nights]
DATES = ("2018-10-01", "2018-10-02", "2018-10-03", "2018-10-04")
YAML = """
id: mini
time_zone: Europe/Rome
first_date: 2018-09-01
last_date: 2018-12-31
source: {uri: examples/mini.csv}
columns: {ds: day, y: quantity, keys: [item], other: [receipt]}
duplicates: exclude
hierarchy: [total]
contract: mini_lines
absent: zero
horizon: 7
history_days: 300
pool: [seasonal_naive, weekday_mean]
backtest: {windows: 4, select: 2}
promotion: {min_origins: 2}
"""
CONTRACT = """
apiVersion: v3.0.2
kind: DataContract
id: mini_lines
version: 1.0.0
status: active
customProperties: []
schema:
  - name: lines
    properties:
      - {name: day, logicalType: date, required: true}
      - {name: item, logicalType: string, required: true}
      - {name: receipt, logicalType: string, required: true}
      - {name: quantity, logicalType: number, required: true}
"""
LINES_A_DAY = 12


def till_lines() -> list[list[str]]:
    """Twelve lines a day of six items: the weekday's number and one more."""
    lines = [["day", "item", "receipt", "quantity"]]
    for n in range(380):
        day = date(2017, 10, 1) + timedelta(days=n)
        for k in range(LINES_A_DAY):
            lines.append([str(day), f"i{k % 6}", f"r{n}-{k}", str(day.weekday() + 1 + k % 3)])
    return lines


class Till:
    """The csv, and how it changes."""

    def __init__(self, here: Nights) -> None:
        self.csv = here.csv
        self.kept: list[list[str]] = []
        write_lines(self.csv, till_lines())

    def change(self, what: str) -> None:
        lines = lines_of(self.csv)
        if what == "late":
            lines += [["2018-09-28", "i1", f"late-{k}", "5"] for k in range(3)]
        elif what == "restated":
            for line in lines:
                if line[0] in ("2018-09-27", "2018-08-01") and line[1] == "i2":
                    line[3] = "40"
        elif what == "twice":
            lines += [line for line in lines if line[0] == "2018-10-03"]
        elif what == "shrunk":
            self.kept = lines
            lines = [line for line in lines if not "2018-09-24" <= line[0] <= "2018-09-26"]
        else:
            lines = self.kept
        write_lines(self.csv, lines)


@pytest.fixture
def here(nights: Make) -> Nights:
    made = nights()
    made.yaml.write_text(YAML, encoding="utf-8")
    (made.checkout / "data_contracts/mini_lines.odcs.yaml").write_text(CONTRACT, encoding="utf-8")
    return made


@pytest.fixture
def till(here: Nights) -> Till:
    return Till(here)


def sold(told: Told, day: str) -> float:
    assert told.panel is not None
    return float(told.panel.loc[told.panel["ds"] == day, "y"].sum())


def counts(told: Told) -> tuple[int | None, int | None, int | None]:
    return told.run.lines_late, told.run.days_restated, told.run.lines_lost


def test_four_nights_of_a_source_that_changes(here: Nights, till: Till, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="forecasting")
    told = four_nights(here.deployment, "mini", DATES, here.run, till.change)
    print(table(told).to_csv())  # noqa: T201 - shown when the test fails
    first = told["first"]
    assert counts(first) == (None, None, None)
    assert (told["again"].run.status, told["again"].run.checksum) == ("verified", first.run.checksum)

    late = told["late"]
    assert counts(late) == (3, 0, 0)
    assert late.rules["late_rows"][0] == "passed"
    assert "2018-09-28 12 → 15" in late.rules["late_rows"][1]
    assert sold(late, "2018-09-28") == sold(first, "2018-09-28") + 15
    assert "12 lines on 1 new day, 3 late lines on 1 day" in caplog.text

    restated = told["restated"]
    assert counts(restated) == (0, 2, 0)
    assert "2018-08-01" in restated.rules["restated_days"][1]
    assert restated.rules["history_adopted"][0] == "warned"
    assert sold(restated, "2018-09-27") > sold(late, "2018-09-27")
    assert sold(restated, "2018-08-01") == sold(late, "2018-08-01")  # before the lookback: the snapshot keeps it

    twice = told["twice"]
    assert counts(twice) == (LINES_A_DAY, 0, 0)
    assert twice.run.lines_excluded == LINES_A_DAY
    assert sold(twice, "2018-10-03") == sold(restated, "2018-10-03")
    assert twice.rules["history_adopted"][0] == "warned"  # still

    shrunk = told["shrunk"]
    assert counts(shrunk) == (LINES_A_DAY, 0, 36)
    assert (shrunk.run.status, shrunk.run.snapshot, shrunk.current) == ("broken", None, twice.run.run_id)
    assert shrunk.rules["history_kept"][0] == "broken"
    for word in ("36 lines", "2018-09-26 12 → 0", "full_refresh", "the last published forecast stays current"):
        assert word in str(shrunk.run.message), word

    assert told["whole"].run.status == "verified"
    for day, step in zip(DATES, ("first", "late", "restated", "twice"), strict=True):
        assert (told[day].run.status, told[day].run.checksum) == ("verified", told[step].run.checksum)
        assert counts(told[day]) == counts(told[step])
        assert told[day].current == twice.run.run_id

    grown = here.sql("select run_id, count(*) as n from forecasting.feed_day group by 1").set_index("run_id")["n"]
    assert grown["mini/2018-10-01/1"] == 366
    assert grown["mini/2018-10-02/1"] == 2  # the new day and the late one
    adopted = here.run("2018-10-05", full_refresh=True)
    said = (
        "select state from forecasting.contract_result where run_id = 'mini/2018-10-05/1' and rule = 'history_adopted'"
    )
    assert here.sql(said)["state"].tolist() == ["passed"]
    assert (adopted.status, adopted.lines_late) == ("published", 0)


def test_a_smaller_loss_is_a_warning_and_a_full_refresh_adopts_a_large_one(here: Nights, till: Till) -> None:
    here.run("2018-10-01")
    lines = lines_of(here.csv)
    write_lines(here.csv, [line for line in lines if line[2] not in ("r360-1", "r360-2")])
    run = here.run("2018-10-02")
    assert (run.status, run.lines_lost) == ("published", 2)
    assert _rule(here, run.run_id, "history_kept")[0] == "warned"
    till.change("shrunk")
    with pytest.raises(ContractBrokenError, match="history_kept"):
        here.run("2018-10-03")
    adopted = here.run("2018-10-03", full_refresh=True)
    assert (adopted.status, adopted.lines_lost) == ("published", 34)  # two of its lines had gone before
    assert here.run("2018-10-04").lines_lost == 0


def test_a_broken_night_is_news_to_the_next_one(here: Nights, till: Till) -> None:
    here.run("2018-10-01")
    till.change("late")
    good = here.csv.read_bytes()
    till.change("shrunk")
    with pytest.raises(ContractBrokenError):
        here.run("2018-10-02")
    here.csv.write_bytes(good)
    assert here.run("2018-10-03").lines_late == 3


def test_another_declaration_is_not_compared_and_says_so(
    here: Nights, till: Till, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="forecasting")
    here.run("2018-10-01")
    here.csv.rename(here.csv.with_name("moved.csv"))
    here.yaml.write_text(YAML.replace("mini.csv", "moved.csv"))
    run = here.run("2018-10-02")
    assert (run.status, run.lines_lost) == ("published", None)
    assert "mini/2018-10-01/1 read another source" in caplog.text


def test_an_unusual_number_of_lines_is_said_and_stops_the_run_where_the_contract_wants_it(
    here: Nights, till: Till
) -> None:
    here.run("2018-10-01")
    lines = lines_of(here.csv)
    write_lines(here.csv, [line for line in lines if line[0] != "2018-10-02" or line[2].endswith(("-1", "-2"))])
    run = here.run("2018-10-02")
    state, message = _rule(here, run.run_id, "usual_lines")
    assert (run.status, state) == ("published", "warned")
    assert "2018-10-02 (Tuesday): 2 lines; expected 4 to 36, the median of the last 8 Tuesdays is 12" in message
    contract = here.checkout / "data_contracts/mini_lines.odcs.yaml"
    strict = "customProperties:\n  - {property: volumeSeverity, value: error}\n"
    contract.write_text(CONTRACT.replace("customProperties: []\n", strict).replace("1.0.0", "1.1.0"))
    with pytest.raises(ContractBrokenError, match="usual_lines"):
        here.run("2018-10-02", full_refresh=True)


def test_a_changed_contract_needs_a_version_of_its_own(here: Nights, till: Till) -> None:
    contract = here.checkout / "data_contracts/mini_lines.odcs.yaml"
    contract.write_text(CONTRACT.replace("status: active", "status: draft"))
    first = here.run("2018-10-01")
    contract.write_text(CONTRACT)
    with pytest.raises(
        ConfigurationError, match=r"mini_lines\.odcs\.yaml is not the version 1\.0\.0 .*raise `version`"
    ):
        here.run("2018-10-02")
    contract.write_text(CONTRACT.replace("version: 1.0.0", "version: 1.0.1"))
    second = here.run("2018-10-02")
    assert (second.plan_reason, second.contract_version) == ("contract 1.0.0 became 1.0.1", "1.0.1")
    assert here.run("2018-10-01", as_frozen=True).checksum == first.checksum
    shown = here.sql(
        "select contract_version, contract_hash from forecasting.run where status = 'published' order by 1"
    )
    assert shown["contract_version"].tolist() == ["1.0.0", "1.0.1"]
    assert shown["contract_hash"].nunique() == 2


def _rule(here: Nights, run_id: str, rule: str) -> tuple[str, str]:
    of_run = f"from forecasting.contract_result where run_id = '{run_id}' and rule = '{rule}'"
    row = here.sql(f"select state, message {of_run}").iloc[0]
    return row["state"], row["message"]
