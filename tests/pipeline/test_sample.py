"""A night on a sample, and one against a version by name: both say what they are, and neither happens outside dev."""

from __future__ import annotations

import json

import pytest

from forecasting.errors import ConfigurationError
from forecasting.pipeline import reproduction
from forecasting.store import registry, warehouse


def series_of(nights, run):
    found = nights.sql(f"select unique_id from forecasting.series_status where run_id = '{run.run_id}'")
    return set(found["unique_id"])


def test_a_sampled_night_says_so_wherever_somebody_might_take_it_for_a_whole_one(nights, tmp_path_factory):
    made = nights(FORECASTING_SAMPLE="3")
    made.yaml.write_text(made.yaml.read_text().replace("auto_ets, ", ""), encoding="utf-8")
    first = made.run("2018-10-01")
    assert first.status == "published"
    assert first.series_in == 3
    assert first.plan_reason == "no champion yet; on a sample of 3 of 7 series"
    [evidence] = made.sql("select evidence from forecasting.decision")["evidence"]
    assert evidence["sample"] == {"series": 3, "of": 7}
    [version] = warehouse.versions(made.deployment.engine, "mini")
    files = registry.load(version.bundle_uri, version.bundle_sha256)
    assert json.loads(files["meta.json"])["sample"] == {"series": 3, "of": 7}

    # the same data under another recipe, against that version by name
    made.yaml.write_text(made.yaml.read_text().replace(", lightgbm", ""), encoding="utf-8")
    second = made.run("2018-10-01", against="1.0.0")
    assert (second.plan, second.incoming_champion, second.cutoff) == ("retrain", "1.0.0", first.cutoff)
    assert series_of(made, second) == series_of(made, first)
    means = {v.version: v.scores["mean"]["rmsse_selection"] for v in warehouse.versions(made.deployment.engine, "mini")}
    [decision] = made.sql(f"select * from forecasting.decision where run_id = '{second.run_id}'").itertuples()
    assert (decision.kind, decision.challenger, decision.champion) == ("MINOR", "1.1.0", "1.0.0")
    # the champion is judged with the global model that the challenger lacks, as its own night judged it
    assert decision.evidence["gain"] == pytest.approx(1 - means["1.1.0"] / means["1.0.0"], abs=0.01)

    # a reproduction makes the same bundle of it, the mark included
    again = reproduction.reproduce(made.deployment, second.run_id, tmp_path_factory.mktemp("again"))
    assert again.report.identical

    # as frozen it is still a sample; and a night of all series does not continue it
    made.yaml.write_text(made.yaml.read_text().replace("history_days: 365", "history_days: 364"), encoding="utf-8")
    whole = nights(FORECASTING_WAREHOUSE_URL=made.deployment.settings.warehouse_url)
    [frozen, *_] = whole.frozen("2018-10-01", as_frozen=True)
    assert frozen["sample"] == {"series": 3, "of": 7}
    with pytest.raises(ConfigurationError, match=r"kept a sample of the series .* run once with full_refresh"):
        whole.frozen("2018-10-02")


def test_a_challenger_meets_the_version_in_charge_outside_dev(nights):
    with pytest.raises(ConfigurationError, match="in staging a challenger meets the version in charge"):
        nights(FORECASTING_ENV="staging").pulled("2018-10-01", against="1.0.0")


def test_a_version_that_is_not_there_is_refused_before_the_feed_is_read(nights):
    with pytest.raises(ConfigurationError, match=r"mini has no version 9\.9\.9; it has none yet"):
        nights().pulled("2018-10-01", against="9.9.9")
