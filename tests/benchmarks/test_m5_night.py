"""The runner's set is whole, sound and on file as it was published; shards change nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.m5 import __main__ as command
from benchmarks.m5 import delivery, evaluate, night
from benchmarks.m5.world import HORIZON, day
from forecasting.config import BOTTOM
from forecasting.frames import quantile_column

ORIGIN = 84


@pytest.fixture(scope="module")
def declared():
    one = delivery.customer()
    few = one.backtest.model_copy(update={"windows": 2, "select": 1})
    return one.model_copy(update={"backtest": few, "pool": ("seasonal_naive", "weekday_mean", "lightgbm")})


@pytest.fixture(scope="module")
def panel(made, declared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    return delivery.panel(declared, delivery.deliver(made, folder), ORIGIN, folder, lambda _: None)


@pytest.fixture(scope="module")
def tonight(panel, declared):
    return night.run(panel, declared, day(ORIGIN), say=lambda _: None)


def test_the_published_set_passes_the_audit_and_adds_up(made, tonight, declared):
    judge = evaluate.Judge(made, ORIGIN)
    assert tonight.faults == []
    assert set(tonight.published["node"]) == set(evaluate.LEVELS)
    _, off = evaluate.from_published(tonight.published, judge.levels, declared.quantiles)
    assert off < 1e-6
    assert set(tonight.seconds) >= {"fit_statistical", "fit_ml", "compose"}


def test_shards_publish_what_one_does(panel, declared, tonight, monkeypatch):
    monkeypatch.setattr(delivery, "AT_ONCE", 5)  # three shards on two processes
    plain = declared.model_copy(update={"pool": ("seasonal_naive", "weekday_mean")})
    # of the newest weeks only the first series has rows: that those of the others are zeros, their shards do not show
    weeks = panel["ds"].between(pd.Timestamp(day(ORIGIN - 20)), pd.Timestamp(day(ORIGIN)))
    panel = panel[~weeks | (panel["unique_id"] == panel["unique_id"].iloc[0])].reset_index(drop=True)
    one, two = (night.run(panel, plain, day(ORIGIN), workers, lambda _: None) for workers in (1, 2))
    pd.testing.assert_frame_equal(one.published, two.published)
    assert not one.published["y_hat"].equals(tonight.published["y_hat"])


def test_the_file_holds_every_series_as_it_was_published(made, tonight, declared, tmp_path):
    gone = tonight.published[tonight.published["unique_id"] != made.series["unique_id"][0]]
    tonight_without = night.Night()
    tonight_without.published = gone
    command.write(tonight_without, made, declared, ORIGIN, tmp_path / "new/out.parquet")
    file = pd.read_parquet(tmp_path / "new/out.parquet")
    quantiles = [quantile_column(q) for q in declared.quantiles]
    assert list(file.columns) == ["unique_id", "ds", "y_hat", *quantiles]
    assert set(file["unique_id"]) == set(made.series["item"] + "_" + made.series["store"])
    assert (file.groupby("unique_id").size() == HORIZON).all()
    assert (file["ds"].min(), file["ds"].max()) == (pd.Timestamp(day(85)), pd.Timestamp(day(112)))
    first = file["unique_id"] == f"{made.series['item'][0]}_{made.series['store'][0]}"
    assert (file.loc[first, "y_hat"] == 0).all()
    rows = gone[gone["node"] == BOTTOM].copy()
    keys = rows["unique_id"].str.split("/")
    rows["unique_id"] = keys.str[4] + "_" + keys.str[1]
    both = file[~first].merge(rows, on=["unique_id", "ds"], suffixes=("", "_published"))
    assert len(both) == (len(made.series) - 1) * HORIZON
    assert np.array_equal(both[["y_hat", *quantiles]], both[[f"{name}_published" for name in ("y_hat", *quantiles)]])
