"""Which series are drawn and why, their scores against a loop over rows, and a page that nothing can break out of."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from datetime import date

import numpy as np
import pandas as pd
import pytest

from forecasting.learn import charts

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=1>"
ABOUT = charts.About(
    customer="acme", run_id="acme/2024-06-30/1", run_date=date(2024, 6, 30), cutoff=date(2024, 6, 30), version="1.0.0",
    stale=False, frequency="D", horizon=2, levels=(80, 95), series=7, since=date(2024, 3, 31), folds="backtest",
    reference="seasonal_naive", told=("The folds are a test.",),
)  # fmt: skip


def known() -> pd.DataFrame:
    rows = [
        ("bottom", "big", 2, 90.0, date(2024, 1, 1), "naive"),
        ("bottom", "bad", 2, 5.0, date(2024, 1, 1), "naive"),
        ("bottom", "young", 2, 8.0, date(2024, 6, 1), "naive"),
        ("bottom", "unsold", 2, 0.0, None, "siblings"),
        ("bottom", "gone", 2, 99.0, date(2024, 1, 1), None),
        ("total", "total", 0, 202.0, date(2024, 1, 1), "bottom_up"),
        ("brand", "A", 1, 90.0, date(2024, 1, 1), "bottom_up"),
        ("brand", "B", 1, 112.0, date(2024, 1, 1), "bottom_up"),
    ]
    frame = pd.DataFrame(rows, columns=["node", "unique_id", "depth", "units", "first", "model"])
    return frame.assign(rung="chosen", status=None, reason=None)


def scored(**rmsse: float) -> pd.DataFrame:
    frame = pd.DataFrame({"node": "bottom", "unique_id": list(rmsse), "rmsse": list(rmsse.values())})
    return frame.assign(folds=1, rmsse_reference=1.0, wape=0.5, bias=0.1, inside=0.8)


# --- which ----------------------------------------------------------------------------------------------------------


def test_the_worst_comes_first_then_the_biggest_the_newest_and_the_nodes_from_the_top() -> None:
    picks = charts.choose(known(), scored(big=0.7, bad=1.9, young=1.2), 1)
    assert [pick.key for pick in picks] == [
        ("bottom", "bad"), ("bottom", "big"), ("bottom", "unsold"), ("total", "total"), ("brand", "B"),
    ]  # fmt: skip
    assert [pick.reasons for pick in picks[:3]] == [
        ("worst, 1 of 3 judged",), ("biggest, 1 of 4",), ("newest, no sale yet",),
    ]  # fmt: skip


def test_a_series_that_stands_out_twice_is_drawn_once_with_both_reasons() -> None:
    picks = charts.choose(known(), scored(big=0.7, bad=1.9, young=1.2), 2)
    young = next(pick for pick in picks if pick.unique_id == "young")
    assert young.reasons == ("worst, 2 of 3 judged", "biggest, 2 of 4", "newest, first seen 2024-06-01")
    assert len({pick.key for pick in picks}) == len(picks)


def test_without_scores_nobody_is_the_worst_and_what_is_as_old_as_the_history_is_not_new() -> None:
    none_is_new = known().assign(first=date(2024, 1, 1))
    picks = charts.choose(none_is_new, scored(), 3)
    assert not any("worst" in reason or "newest" in reason for pick in picks for reason in pick.reasons)


def test_a_series_without_a_forecast_is_drawn_only_where_it_or_all_are_asked_for() -> None:
    chosen = charts.choose(known(), scored(), 9)
    assert ("bottom", "gone") not in [pick.key for pick in chosen]
    assert charts.named(known(), ["gone", "A"]) == [
        charts.Pick("bottom", "gone", ("asked for",)), charts.Pick("brand", "A", ("asked for",)),
    ]  # fmt: skip
    everything = charts.every(known(), chosen)
    assert everything[: len(chosen)] == chosen
    assert {pick.key for pick in everything} == set(known()[charts.KEY].itertuples(index=False, name=None))


# --- how good -------------------------------------------------------------------------------------------------------


def folds(seed: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    parts = [
        pd.DataFrame({"node": "bottom", "unique_id": one, "cutoff": pd.Timestamp(cutoff), "scale": scale,
                      "ds": pd.date_range(cutoff, periods=5) + pd.Timedelta(days=1)})
        for one, scale in (("a", 2.0), ("b", 9.0))
        for cutoff in ("2024-06-01", "2024-06-15")
    ]  # fmt: skip
    frame = pd.concat(parts, ignore_index=True)
    names = ("y", "y_hat", "q50", "reference")
    frame = frame.assign(**{name: rng.gamma(2.0, 3.0, len(frame)) for name in names})
    frame = frame.assign(q10=frame["q50"] * 0.6, q90=frame["q50"] * 1.5, q025=0.0, q975=frame["q50"] * 2)
    frame.loc[[1, 7], "y"] = np.nan  # closed days
    return frame


def test_scores_are_those_of_a_loop_over_the_rows() -> None:
    rows = folds()
    got = charts.score(rows, 80).set_index("unique_id")
    for one, part in rows.groupby("unique_id"):
        errors, beside, missed, over, volume, inside, n = [], [], 0.0, 0.0, 0.0, 0, 0
        for _, fold in part.groupby("cutoff"):
            squared, other = [], []
            for row in fold.itertuples():
                if np.isnan(row.y):
                    continue
                squared.append((row.y - row.y_hat) ** 2 / row.scale)
                other.append((row.y - row.reference) ** 2 / row.scale)
                missed, over, volume = missed + abs(row.y - row.q50), over + row.y_hat - row.y, volume + row.y
                inside, n = inside + (row.q10 <= row.y <= row.q90), n + 1
            errors.append(np.sqrt(np.mean(squared)))
            beside.append(np.sqrt(np.mean(other)))
        want = {"folds": 2, "rmsse": np.mean(errors), "rmsse_reference": np.mean(beside), "wape": missed / volume,
                "bias": over / volume, "inside": inside / n}  # fmt: skip
        assert got.loc[one, list(want)].to_dict() == pytest.approx(want)


def test_where_a_scale_lacks_it_is_that_of_the_history_before_the_fold() -> None:
    rows = folds().assign(scale=np.nan)
    rows.loc[rows["unique_id"] == "a", "scale"] = 2.0
    days = pd.date_range("2024-05-20", "2024-06-15")
    sold = pd.DataFrame({"node": "bottom", "unique_id": "b", "ds": days, "y": np.arange(len(days)) ** 1.5})
    got = charts.with_scale(rows, sold)
    assert set(got.loc[got["unique_id"] == "a", "scale"]) == {2.0}
    for cutoff, part in got[got["unique_id"] == "b"].groupby("cutoff"):
        before = [y for day, y in zip(sold["ds"], sold["y"], strict=True) if day <= cutoff]
        want = np.mean([(after - one) ** 2 for one, after in itertools.pairwise(before)])
        assert part["scale"].unique() == pytest.approx([want])


# --- the page -------------------------------------------------------------------------------------------------------


def page(unique_id: str = "big", **changes: object) -> str:
    rows = folds().assign(unique_id=unique_id).drop_duplicates(["cutoff", "ds"])
    table = known().replace({"unique_id": {"big": unique_id}})
    picks = [charts.Pick("bottom", unique_id, ("worst, 1 of 3 judged",))]
    scores = charts.score(rows, 80)
    sold = rows[[*charts.KEY, "ds", "y"]].dropna()
    about = ABOUT.__class__(**{**ABOUT.__dict__, **changes})
    return charts.html(about, picks, table, scores, sold, rows.tail(2), rows, "/* plotly */")


def data_of(text: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_page_says_why_a_series_is_shown_and_how_good_its_forecasts_were() -> None:
    text = page()
    scores = charts.score(folds().assign(unique_id="big").drop_duplicates(["cutoff", "ds"]), 80).iloc[0]
    shown = re.search(r'<figcaption><h2 id="t0">big</h2><p>worst, 1 of 3 judged</p><dl>(.*?)</dl>', text)
    assert shown
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", shown[1]))
    assert facts["RMSSE"] == f"{scores['rmsse']:.3f}"
    assert facts["RMSSE of seasonal naive"] == f"{scores['rmsse_reference']:.3f}"
    assert (facts["WAPE"], facts["units"]) == (f"{100 * scores['wape']:.1f} %", "90")
    assert "The folds are a test." in text


def test_every_line_is_in_the_data_with_gaps_where_nothing_is_known() -> None:
    data = data_of(page())
    [chart] = data["charts"]
    assert (data["x"], data["y"], data["levels"]) == ("day", "units per day", [95, 80])
    assert [fold["cutoff"] for fold in chart["folds"]] == ["2024-06-01", "2024-06-15"]
    assert [len(fold["ds"]) for fold in chart["folds"]] == [5, 5]
    assert [band["level"] for band in chart["forecast"]["bands"]] == [95, 80]
    assert len(chart["sold"]["y"]) == 8


def test_a_name_from_a_feed_stays_text_everywhere() -> None:
    text = page(HOSTILE)
    assert text.count("<script") == 3
    assert "<img" not in text
    assert data_of(text)["charts"]
    assert "&lt;/script&gt;" in text


def test_the_browser_may_run_the_pages_own_scripts_and_ask_nobody() -> None:
    text = page()
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)
    assert policy
    allowed = set(re.findall(r"'sha256-(.*?)'", policy[1]))
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 2
    assert {base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts} == allowed
    assert policy[1].startswith("default-src 'none'; script-src ")
    assert not re.search(r"\b(src|href)=\"(?!#)", text)
    assert "http:" not in text
    assert "https:" not in text


def test_without_folds_and_intervals_there_is_still_a_page() -> None:
    nothing = pd.DataFrame({"node": [], "unique_id": [], "cutoff": pd.to_datetime([]), "ds": pd.to_datetime([])})
    picks = [charts.Pick("bottom", "unsold", ("newest, no sale yet",))]
    empty = nothing.assign(y=0.0, y_hat=0.0, q50=0.0)
    text = charts.html(ABOUT, picks, known(), charts.score(folds().head(0), 80), empty, empty, empty, "")
    assert data_of(text)["charts"] == [{"plain": "unsold", "sold": None, "forecast": None, "folds": []}]
    assert "<dt>RMSSE</dt><dd>–</dd>" in text
