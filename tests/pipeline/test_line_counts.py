"""Every line of a feed is counted once, under the rule that took it, whatever became of the run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import pandas as pd
import pytest

from forecasting import pipeline
from forecasting.errors import ContractBrokenError
from forecasting.store import explanation
from tests.pipeline.conftest import Nights
from tests.small import lines_of, write_lines

RULES = """
exclude:
  - {rule: nothing_sold, column: quantity, at_most: 0}
  - {rule: item_three, column: item, values: ["3"]}
"""
COUNTS = """
select r.run_id, r.lines_excluded, coalesce(sum(c.n) filter (where c.kind = 'excluded'), 0)::int as counted
from forecasting.run r left join forecasting.line_count c using (customer_id, run_id)
where r.lines_excluded is not null group by 1, 2 order by 1
"""


@pytest.fixture
def here(nights: Callable[..., Nights]) -> Nights:
    """The small customer with two rules that leave lines out and a pool that fits at once."""
    made = nights()
    made.yaml.write_text(
        made.yaml.read_text().replace(
            "pool: [seasonal_naive, weekday_mean, auto_ets, lightgbm]", "pool: [seasonal_naive]"
        )
        + RULES
    )
    tolerate(made, "0.999", "0.95")  # an incremental pull is short: one line of it is more than a thousandth
    return made


def tolerate(here: Nights, before: str, share: str) -> None:
    """Let the contract's row rules pass where this share of rows does."""
    contract = here.checkout / "data_contracts/pasta_sales.odcs.yaml"
    contract.write_text(contract.read_text().replace(f"mostly: {before}", f"mostly: {share}"))


def spoil(here: Nights, day: str, value: str, cells: int = 1) -> None:
    """Write ``value`` over the first quantities of a day."""
    lines = lines_of(here.csv)
    places = [i for i, name in enumerate(lines[0]) if name.startswith("QTY")][:cells]
    row = next(line for line in lines if line[0] == day)
    for place in places:
        row[place] = value
    write_lines(here.csv, lines)


def test_the_rules_counts_add_up_to_the_lines_excluded_of_every_run(here: Nights) -> None:
    spoil(here, "2018-09-29", "99999")
    here.run("2018-10-01"), here.run("2018-10-02"), here.run("2018-10-01", as_frozen=True)
    counted = here.sql(COUNTS)
    assert len(counted) == 3
    assert counted["lines_excluded"].tolist() == counted["counted"].tolist()
    assert (counted["counted"] > 0).all()
    first = counts_of(here, "mini/2018-10-01/1")
    assert set(first["excluded"]) == {"nothing_sold", "item_three"}
    assert first["missing"] == {"quarantined": 1}
    assert counts_of(here, "mini/2018-10-01/2") == first, "as frozen: the lines are those of the run that froze them"
    assert explanation.find_run(here.deployment.engine, "mini") == "mini/2018-10-02/1"
    assert explanation.find_run(here.deployment.engine, "mini", date(2018, 10, 1)) == "mini/2018-10-01/1", "it stands"
    told = explanation.explain(here.deployment.engine, "mini/2018-10-01/2")["lines"]
    assert told["of_run"] == "mini/2018-10-01/1"
    assert told["excluded_by"] == first["excluded"]
    assert [(rule["rule"], rule["rows_failed"]) for rule in told["quarantined_by"]] == [("quantity_in_range", 1)]
    assert_adds_up(told)


def test_a_run_that_stopped_at_its_contract_still_says_what_it_left_out(here: Nights) -> None:
    spoil(here, "2018-09-29", "99999", cells=7)
    tolerate(here, "0.95", "0.999")
    with pytest.raises(ContractBrokenError):
        pipeline.freeze(here.deployment, here.pulled("2018-10-01"))
    assert set(counts_of(here, "mini/2018-10-01/1")) == {"excluded"}
    told = explanation.explain(here.deployment.engine, "mini/2018-10-01/1")["lines"]
    assert (told["used"], told["quarantined"]) == (0, 6), "item three is left out before it is judged"
    assert_adds_up(told)
    assert told["rules"]["broken"] == 1
    assert [row["place"].split(",")[0] for row in told["examples"]] == [told["examples"][0]["place"].split(",")[0]] * 3


def test_a_quarantined_row_says_where_it_stands_in_words(here: Nights) -> None:
    spoil(here, "2018-09-29", "99999")
    here.run("2018-10-01")
    line = 1 + [row[0] for row in lines_of(here.csv)].index("2018-09-29")
    assert here.sql("select place from forecasting.quarantine")["place"].tolist() == [f"line {line}, column 2"]


def assert_adds_up(lines: dict[str, int]) -> None:
    parts = ("used", "excluded", "quarantined", "future", "unused")
    assert lines["read"] == sum(lines[name] for name in parts)


def counts_of(here: Nights, run_id: str) -> dict[str, dict[str, int]]:
    rows: pd.DataFrame = here.sql(f"select kind, rule, n from forecasting.line_count where run_id = '{run_id}'")
    return {str(kind): dict(zip(group["rule"], group["n"], strict=True)) for kind, group in rows.groupby("kind")}
