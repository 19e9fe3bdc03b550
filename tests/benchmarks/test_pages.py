"""A page that cannot take a table is refused before the run that would make it."""

from __future__ import annotations

import sys

import pytest

from benchmarks import bench, pages
from benchmarks.m5 import __main__ as m5
from benchmarks.m5 import tails
from benchmarks.orange_juice import run as orange_juice


def test_marks_are_asked_for_before_they_are_filled(tmp_path):
    page = tmp_path / "page.md"
    with pytest.raises(SystemExit, match=r"page.md: No such file"):
        pages.expect(page, "one")
    page.write_text("<!-- one -->\n<!-- /one -->\n")
    pages.expect(page, "one")
    pages.expect(None, "one")
    with pytest.raises(SystemExit, match=r"page.md: holds no lines '<!-- two -->'"):
        pages.expect(page, "one", "two")


@pytest.mark.parametrize(
    ("main", "given", "told"),
    [
        (m5.main, ["--data", ".", "--origin", "1913", "--out", "o.parquet", "--series", "9"], "--series"),
        (tails.main, ["--data", ".", "--judged", "9"], "--series and --judged"),
        (orange_juice.main, [".", "--tune", "1"], "--tune"),
        (orange_juice.main, [".", "--seeds", "1"], "--tune and --seeds"),
        (bench.main, ["--series", "9", "--", "dags/customers/pasta.yaml"], "--series, --cutoff and --origins"),
    ],
)
def test_a_trial_s_figures_do_not_replace_a_published_table(monkeypatch, capsys, tmp_path, main, given, told):
    page = tmp_path / "page.md"
    page.write_text(
        "".join(f"<!-- {mark} -->\nold\n<!-- /{mark} -->\n" for mark in ("m5 1913", tails.MARK, "orange juice"))
    )
    monkeypatch.setattr(sys, "argv", ["run", "--page", str(page), *given])
    with pytest.raises(SystemExit):
        main()
    assert f"leave --page or {told}" in capsys.readouterr().err
    assert page.read_text().count("old") == 3
