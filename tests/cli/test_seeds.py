"""The demo's seeding: pasta's last two years moved to today, and the shop's own database."""

from __future__ import annotations

import csv
from datetime import date, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from forecasting.cli import seeds

ROOT = Path(__file__).parents[2]
PASTA = ROOT / "examples/pasta/hierarchical_sales_data.csv"
GIFTS = ROOT / "examples/gifts"
TODAY = date(2026, 11, 23)


def cells(path: Path) -> tuple[list[str], dict[date, list[str]]]:
    with path.open(encoding="utf-8", newline="") as lines:
        header, *rows = csv.reader(lines)
    return header, {date.fromisoformat(row[0]): row[1:] for row in rows}


@given(st.dates(date(2019, 1, 1), date(2100, 1, 1)))
def test_yesterday_keeps_its_weekday_and_the_plan_reaches_a_horizon_and_a_week_beyond_it(today):
    shift = seeds.live_shift(today)
    then = today - timedelta(days=1) - shift
    assert shift.days % 7 == 0
    assert timedelta(days=35) <= seeds.LAST - then <= timedelta(days=41)


def test_yesterday_is_the_last_day_with_sales_and_the_plan_goes_on(tmp_path):
    shift = seeds.live_file(PASTA, tmp_path / "sales/live.csv", TODAY)
    header, moved = cells(tmp_path / "sales/live.csv")
    _, original = cells(PASTA)
    sold = [at for at, name in enumerate(header[1:]) if name.startswith("QTY_")]
    planned = [at for at, name in enumerate(header[1:]) if name.startswith("PROMO_")]
    assert max(day for day, row in moved.items() if any(row[at] for at in sold)) == TODAY - timedelta(days=1)
    assert max(moved) >= TODAY + timedelta(days=34)
    for day, row in moved.items():
        then = original[day - shift]
        assert [row[at] for at in planned] == [then[at] for at in planned]
        assert [row[at] for at in sold] == ([then[at] for at in sold] if day < TODAY else [""] * len(sold))
    assert list(moved) == [day + shift for day in original if day >= seeds.FIRST]


def test_a_later_seeding_adds_days_and_moves_none(tmp_path):
    target = tmp_path / "live.csv"
    seeds.live_file(PASTA, target, TODAY)
    before = cells(target)[1]
    for night in range(1, 36):
        seeds.live_file(PASTA, target, TODAY + timedelta(days=night))
    after = cells(target)[1]
    assert list(after) == list(before)
    assert [day for day in after if after[day] != before[day]] == [day for day in after if day >= TODAY][:-1]


def test_seeding_twice_on_a_day_gives_the_same_bytes(tmp_path):
    target = tmp_path / "live.csv"
    seeds.live_file(PASTA, target, TODAY)
    before = target.read_bytes()
    seeds.live_file(PASTA, target, TODAY)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["live.csv"]


def test_a_file_that_has_run_out_is_begun_anew(tmp_path):
    target = tmp_path / "live.csv"
    first = seeds.live_file(PASTA, target, TODAY)
    later = TODAY + timedelta(days=60)
    assert seeds.live_file(PASTA, target, later) == seeds.live_shift(later) > first


def test_a_shift_that_would_change_the_weekday_is_refused():
    with pytest.raises(ValueError, match="2920 days is not whole weeks"):
        seeds.redated([["DATE"]], timedelta(days=2920), TODAY)


@pytest.fixture
def shop(empty_url: str):
    engine = sa.create_engine(empty_url)
    yield engine
    engine.dispose()


def test_the_shops_tables_hold_every_line_of_the_files(shop):
    counts = seeds.gifts_rows(shop, GIFTS)
    inspector = sa.inspect(shop)
    with shop.connect() as connection:
        for name, columns in seeds.GIFTS.items():
            file = pq.read_table(GIFTS / f"{name}.parquet").to_pandas()
            table = sa.table(name, *map(sa.column, columns), schema="shop")
            customer = list(columns)[6]
            rows, units, named, latest = connection.execute(
                sa.select(
                    sa.func.count(),
                    sa.func.sum(table.c["Quantity"]),
                    sa.func.count(table.c[customer]),
                    sa.func.max(table.c["InvoiceDate"]),
                )
            ).one()
            assert counts[name] == rows == len(file)
            assert units == file["Quantity"].sum()
            assert named == file[customer].notna().sum()
            assert latest == file["InvoiceDate"].max()
            assert [c["name"] for c in inspector.get_columns(name, schema="shop")] == list(file.columns)
            assert inspector.get_pk_constraint(name, schema="shop")["constrained_columns"] == []
            assert inspector.get_indexes(name, schema="shop")[0]["column_names"] == ["InvoiceDate"]


def test_seeding_the_shop_again_brings_back_the_same_rows(shop):
    counts = seeds.gifts_rows(shop, GIFTS)
    name = next(iter(counts))
    table = sa.table(name, sa.column("StockCode"), schema="shop")
    with shop.begin() as connection:
        connection.execute(sa.delete(table).where(table.c["StockCode"] == "POST"))
    assert seeds.gifts_rows(shop, GIFTS) == counts
    with shop.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == counts[name]
