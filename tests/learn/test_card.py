"""The model card: its figures against naive loops over the rows, its pages against texts that mean to break them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from forecasting.config import BOTTOM
from forecasting.frames import CALIBRATION, CHOICES, empty
from forecasting.learn import bundle, card, grid, page, selection

from .learn_cases import CUTOFF, build_customer, build_panel, rows
from .test_selection import score_frame

FACTS = {"customer": "acme", "training_cutoff": CUTOFF.isoformat(), "snapshot": "5a", "contract": "acme_sales 1.0.0"}
IDS = ("A/1", "A/2", "B/1", "B/2")


@pytest.fixture(scope="module")
def made():
    """A card, and all that it was made from; the score frame lies within the panel's days."""
    customer, panel = build_customer(backtest={"windows": 4, "select": 2}), build_panel()
    scores = score_frame(ids=IDS, origins=5, seed=3)
    scores.loc[(scores["unique_id"] == "B/2") & (scores["h"] == 2), "seasonal_naive"] = np.nan
    scores.loc[scores["unique_id"] == "A/2", "scale"] = np.nan
    judged = selection.rolled_nodes(scores, customer)
    choices = selection.choose(scores, customer)
    return card.make(scores, judged, choices, panel, customer, FACTS), scores, judged, choices, panel, customer


def slice_of(told, by, name):
    return next(one for one in told["scores"]["slices"] if (one["by"], one["slice"]) == (by, name))


def loop(judged, scores, keep) -> dict[str, list[list[float]]]:
    """RMSSE, WAPE and bias of the selection and the references, origin by origin, one row after the other."""
    both = judged.merge(scores.drop(columns=["ds", "y", "scored", "scale"]), on=["unique_id", "cutoff", "h"])
    names = ["y_hat", "seasonal_naive", "weekday_mean"]
    out = {}
    for cutoff, origin in both.groupby("cutoff"):
        figures = []
        for name in names:
            roots, absolute, error, volume = [], 0.0, 0.0, 0.0
            for _, series in origin.groupby("unique_id"):
                squares = []
                for row in series.to_dict("records"):
                    if row["scored"] and keep(row) and not any(np.isnan(row[n]) for n in names):
                        squares.append((row["y"] - row[name]) ** 2 / row["scale"])
                        absolute += abs((row["q50"] if name == "y_hat" else row[name]) - row["y"])
                        error += row[name] - row["y"]
                        volume += abs(row["y"])
                if squares and not np.isnan(squares[0]):
                    roots.append((sum(squares) / len(squares)) ** 0.5)
            figures.append([np.mean(roots), absolute / volume, error / volume])
        out[str(cutoff.date())] = figures
    return out


@pytest.mark.parametrize(
    ("by", "name", "keep"),
    [("node", BOTTOM, lambda row: True), ("h", "3–4", lambda row: 3 <= row["h"] <= 4)],
    ids=["all series", "steps 3 and 4"],
)
def test_figures_agree_with_a_loop_over_the_rows_on_which_every_model_spoke(made, by, name, keep):
    told, scores, judged, *_ = made
    expected, found = loop(judged.bottom, scores, keep), slice_of(told, by, name)
    assert found["origins"].keys() == expected.keys()
    for day, figures in expected.items():
        assert np.array(found["origins"][day]) == pytest.approx(np.array(figures), rel=1e-5)
    assert np.array(found["mean"]) == pytest.approx(np.mean(list(expected.values()), axis=0), rel=1e-4)


def test_classes_of_demand_share_out_all_rows(made):
    told, *_ = made
    parts = [one["rows"] for one in told["scores"]["slices"] if one["by"] == "demand"]
    assert sum(parts) == slice_of(told, "node", BOTTOM)["rows"] > 0


def test_upper_nodes_are_scored_as_sums_of_the_series_with_the_scale_of_their_own_history(made):
    told, scores, judged, _, panel, customer = made
    both = judged.bottom.merge(scores[["unique_id", "cutoff", "h", "seasonal_naive", "weekday_mean"]])
    both = both[both["scored"] & both.notna()[["y_hat", "seasonal_naive", "weekday_mean"]].all(axis=1)]
    seen = grid.regularise(panel, customer, CUTOFF)
    daily = seen[seen["scored"]].groupby("ds")["y"].sum()
    for cutoff, origin in both.groupby("cutoff"):
        sums = origin.groupby("h")[["y", "y_hat"]].sum()
        scale = (daily[daily.index <= cutoff].diff().dropna() ** 2).mean()
        rmsse = (((sums["y"] - sums["y_hat"]) ** 2).mean() / scale) ** 0.5
        found = slice_of(told, "node", "total")["origins"][str(cutoff.date())][0]
        bias = (sums["y_hat"] - sums["y"]).sum() / sums["y"].sum()
        assert [found[0], found[2]] == pytest.approx([rmsse, bias], rel=1e-5)
    assert slice_of(told, "node", "brand")["series"] == 2


def test_coverage_counts_what_lay_inside_at_every_node(made):
    told, _, judged, *_ = made
    for one in told["calibration"]:
        rows = judged.bottom[judged.bottom["scored"]]
        if one["node"] != BOTTOM:
            rows = judged.upper[judged.upper["node"] == one["node"]]
        lo, hi = {80: ("q10", "q90"), 95: ("q025", "q975")}[one["level"]]
        shares = [
            np.mean([row[lo] <= row["y"] <= row[hi] for row in part.to_dict("records")])
            for _, part in rows.groupby("cutoff")
        ]
        assert one["covered"] == pytest.approx(np.mean(shares), rel=1e-5)
    assert {(one["node"], one["level"]) for one in told["calibration"]} == {
        (node, level) for node in (BOTTOM, "total", "brand") for level in (80, 95)
    }


def test_upper_nodes_do_not_change_what_is_judged_below(made):
    _, scores, judged, *_, customer = made
    pd.testing.assert_frame_equal(selection.rolled(scores, customer), judged.bottom)


# --- demand ---------------------------------------------------------------------------------------------------------

SHAPES = {
    "smooth": [5.0, 6.0] * 20,
    "erratic": [1.0, 1.0, 1.0, 20.0] * 10,
    "intermittent": [5.0, 0.0, 0.0] * 13,
    "lumpy": [1.0, 0.0, 1.0, 0.0, 30.0, 0.0] * 7,
    "none": [0.0] * 30,
}


def test_series_are_classed_by_interval_and_size_of_their_sales():
    panel = pd.concat([rows(name, "2024-05-01", y) for name, y in SHAPES.items()], ignore_index=True)
    found = card.demand(panel, build_customer(), pd.Timestamp("2024-06-20"))
    assert found["demand"].to_dict() == {name: name for name in SHAPES}


@pytest.mark.parametrize("absent", ["zero", "closed", "missing"])
@pytest.mark.parametrize("shut", [[], ["sunday"]], ids=["every day", "sundays closed"])
@pytest.mark.parametrize("history", [30, 1095])
def test_periods_and_sales_are_those_of_the_forecasters_grid(absent, shut, history):
    """The grid is the oracle: it spells out every zero that the card only counts."""
    rng = np.random.default_rng(5)
    panel = build_panel(days=90, seed=4)
    panel = panel[rng.random(len(panel)) < 0.7].reset_index(drop=True)
    panel.loc[rng.random(len(panel)) < 0.05, "y"] = np.nan
    panel.loc[(panel["unique_id"] == "B/2") & (panel["ds"] < "2024-05-20"), "y"] = 0.0
    customer = build_customer(absent=absent, closed_weekdays=shut, history_days=history)
    seen = grid.regularise(panel, customer, CUTOFF)
    seen = seen[seen["scored"]]
    found = card.demand(panel, customer, pd.Timestamp(CUTOFF))
    assert found["periods"].to_dict() == seen.groupby("unique_id").size().to_dict()
    sold = seen[seen["y"] > 0].groupby("unique_id")["y"]
    assert found["sales"].to_dict() == sold.size().to_dict()
    assert found["cv2"].to_numpy() == pytest.approx((sold.std(ddof=0) / sold.mean()).to_numpy() ** 2)


# --- weak spots and choices -----------------------------------------------------------------------------------------


def test_weak_spots_name_the_worst_the_short_the_unjudged_the_unsold_and_the_retired(made):
    _, scores, _, _, panel, customer = made
    scores = scores.copy()
    worst = scores["unique_id"] == "B/1"
    scores.loc[worst, "seasonal_naive"] = scores.loc[worst, "y"] + 0.01
    scores.loc[worst, ["weekday_mean", "auto_ets", "lightgbm"]] += 40.0
    judged = selection.rolled_nodes(
        scores, build_customer(pool=["auto_ets", "lightgbm"], backtest={"windows": 4, "select": 2})
    )
    young = [rows("C/1", "2024-06-25", [1.0, 2.0, 3.0]), rows("C/2", "2024-06-25", [0.0, 0.0])]
    panel = pd.concat([panel, *young, rows("D/1", "2023-06-01", [5.0] * 60)], ignore_index=True)
    choices = pd.DataFrame([("B/1", "tsb", 0.5), ("B/1", "lightgbm", 0.5)], columns=list(CHOICES.columns))
    weak = card.make(scores, judged, choices, panel, customer, FACTS)["weak"]
    assert weak["worst"][0]["unique_id"] == "B/1"
    assert weak["worst"][0]["times"] > 100
    assert weak["worst"][0]["models"] == ["lightgbm", "tsb"]
    assert (weak["worse"], weak["judged"]) == (1, 3)  # A/2 has no scale
    assert weak["short"]["series"] == ["C/1"]
    assert weak["unjudged"]["series"] == ["A/2", "C/1"]
    assert weak["cold_start"] == {"n": 1, "series": ["C/2"]}
    assert weak["retired"]["series"] == ["D/1"]


def test_shares_of_models_are_their_weights(made):
    choices = pd.DataFrame(
        [("A/1", "tsb", 1.0), ("A/2", "lightgbm", 0.5), ("A/2", "tsb", 0.5)], columns=list(CHOICES.columns)
    )
    _, scores, judged, _, panel, customer = made
    told = card.make(scores, judged, choices, panel, customer, FACTS)["choices"]
    assert told["models"] == [
        {"model": "tsb", "series": 2, "share": 0.75},
        {"model": "lightgbm", "series": 1, "share": 0.25},
    ]
    assert (told["series"], told["blended"]) == (2, 1)


def test_a_history_too_short_for_any_origin_still_gets_a_card(made):
    _, scores, _, _, panel, customer = made
    few = scores[scores["cutoff"] == scores["cutoff"].min()].reset_index(drop=True)
    told = card.make(
        few, selection.rolled_nodes(few, customer), selection.choose(few, customer), panel, customer, FACTS
    )
    assert (told["scores"]["slices"], told["calibration"], told["weak"]["judged"]) == ([], [], 0)
    assert "No origin was judged" in page.markdown(told)
    json.dumps(told, allow_nan=False)


# --- two versions ---------------------------------------------------------------------------------------------------


def test_two_cards_are_compared_on_the_origins_both_have(made):
    told, *_ = made
    days = told["scores"]["origins"]
    other = json.loads(json.dumps(told))
    other["scores"]["origins"] = days[1:]
    for one in other["scores"]["slices"]:
        one["origins"] = {day: [[v and v * 0.9 for v in row] for row in one["origins"][day]] for day in days[1:]}
    found = card.compare(told, other)
    assert found["origins"] == days[1:]
    whole = next(row for row in found["slices"] if row["slice"] == BOTTOM)
    mine = slice_of(told, "node", BOTTOM)["origins"]
    assert whole["a"][0] == pytest.approx(np.mean([mine[day][0][0] for day in days[1:]]), rel=1e-5)
    assert whole["change"] == pytest.approx(-0.1, abs=1e-4)


def test_changed_choices_are_told_move_by_move():
    def choices(**models):
        return pd.DataFrame(
            [(u, m, 1.0 / len(ms)) for u, ms in models.items() for m in ms], columns=list(CHOICES.columns)
        )

    found = card.changed_choices(choices(a=["tsb"], b=["tsb"], c=["tsb"], old=["tsb"]),
                                 choices(a=["tsb"], b=["imapa", "tsb"], c=["imapa", "tsb"], new=["tsb"]))  # fmt: skip
    assert found == {"shared": 3, "changed": 2, "only_a": 1, "only_b": 1,
                     "moves": [{"from": "tsb", "to": "imapa + tsb", "series": 2, "such_as": ["b", "c"]}]}  # fmt: skip


def test_offsets_are_compared_where_both_mean_the_same():
    def calibration(offset, power):
        cells = {"node": ["bottom", "brand"], "group": ["p1c1", "A"], "h_from": 1, "h_to": 7, "q": 0.9}
        return pd.DataFrame({**cells, "offset": offset, "power": power})

    found = card.changed_calibration(calibration([1.0, 2.0], [0.75, 0.0]), calibration([1.5, 2.0], [0.75, 0.5]))
    assert found == {"cells": 1, "share": 1.0, "nodes": [{"node": "bottom", "q": 0.9, "a": 1.0, "b": 1.5}]}


# --- pages ----------------------------------------------------------------------------------------------------------

EVIL = 'a|b<script>alert(1)</script>"&\n# _x_ `y` [l](http://z) $m$'


@pytest.fixture
def hostile(made):
    told = json.loads(json.dumps(made[0]))
    told["weak"]["worst"] = [{"unique_id": EVIL, "rmsse": 1.0, "times": 2.0, "share": 0.1, "demand": "lumpy",
                              "periods": 9, "models": [EVIL]}]  # fmt: skip
    told["weak"]["retired"] = {"n": 1, "series": [EVIL]}
    told["data"]["contract"] = EVIL
    return told


class Outline(HTMLParser):
    """Tags in order and texts, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.texts, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "action")]

    def handle_data(self, data):
        self.texts.append(data)


def test_the_html_page_shows_hostile_keys_as_text_and_asks_for_nothing_else(hostile):
    text = page.html(hostile, version="1.0.0")
    outline = Outline(text)
    assert not {"script", "img", "a", "link", "iframe"} & set(outline.tags)
    assert outline.links == []
    assert not re.search(r"url\(|@import", text)
    assert EVIL in outline.texts
    assert "prefers-color-scheme: dark" in text
    assert "default-src 'none'" in text


def test_hostile_keys_break_no_table_and_no_markup_in_markdown(hostile):
    text = page.markdown(hostile)
    assert "<script" not in text.replace("\\<script", "")
    assert not re.search(r"(?<!\\)\|b", text)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in tables]
    rules = [i for i, line in enumerate(tables) if line.startswith("|---")]
    assert all(widths[i] == widths[i - 1] == widths[i + 1] for i in rules)
    assert "\n# \\_x" not in text


def test_the_same_inputs_give_the_same_bytes(made):
    told, scores, _, choices, panel, customer = made
    again = card.make(scores, selection.rolled_nodes(scores, customer), choices, panel, customer, FACTS)
    shuffled = panel.sample(frac=1, random_state=1).sort_values(["unique_id", "ds"], ignore_index=True)
    third = card.make(scores, selection.rolled_nodes(scores, customer), choices, shuffled, customer, FACTS)
    files = [bundle.to_files(bundle.Bundle(choices, empty(CALIBRATION), card=one)) for one in (told, again, third)]
    assert files[0] == files[1] == files[2]


def test_a_card_survives_its_json_and_is_rendered_alike(made):
    told = made[0]
    files = bundle.to_files(bundle.Bundle(made[3], empty(CALIBRATION), card=told))
    read = bundle.from_files(files).card
    assert read == told
    assert page.markdown(read).encode() == files["card.md"]
    assert page.html(read).encode() == files["card.html"]
    assert page.markdown(told).count("\n## ") == 9
