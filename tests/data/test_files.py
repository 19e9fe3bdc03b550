"""Files of every form: where they stand, how they are packed, what their cells mean."""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zipfile
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forecasting.data.sources import Access, place, pull, storage
from forecasting.errors import ConfigurationError, SourceError, SourceUnavailableError

from .conftest import UNTIL, WIDE, encrypted, flipped, long_csv, make_customer, wide_csv, zipped

GOOD = long_csv()


def long_table(text: str = GOOD) -> pa.Table:
    """The long feed with the types that a database would give it."""
    frame = pd.read_csv(io.StringIO(text), dtype={"item": str})
    frame["day"] = pd.to_datetime(frame["day"]).dt.date
    return pa.Table.from_pandas(frame, preserve_index=False)


def parquet(table: pa.Table, **options) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, write_page_checksum=True, **options)
    return sink.getvalue()


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def read(root: Path, since: date | None = None, until: date = UNTIL, deliveries: Path | None = None, **source):
    changes = {key: source.pop(key) for key in ("time_zone", "columns", "exogenous", "frequency") if key in source}
    customer = make_customer(source=source, **changes)
    return pull(customer, access=Access(root, deliveries), since=since, until=until)


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Names of the files that are opened."""
    names: list[str] = []
    original = storage._read_local
    monkeypatch.setattr(storage, "_read_local", lambda uri, *rest: names.append(uri) or original(uri, *rest))
    return names


def by_day(text: str = GOOD) -> dict[str, str]:
    """The long feed, a file a day."""
    head, *lines = text.splitlines()
    days = dict.fromkeys(line[:10] for line in lines)
    return {
        f"sales_{day}.csv": "\n".join([head, *(line for line in lines if line.startswith(day))]) + "\n" for day in days
    }


# --- forms that hold the same feed read the same --------------------------------------------------------------------


def test_a_feed_reads_the_same_from_every_form(tmp_path):
    want = read(write(tmp_path, {"feed.csv": GOOD}), uri="feed.csv").rows
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("out/", "")
        packed.writestr("out/feed.csv", GOOD)
    halves = GOOD.splitlines(keepends=True)
    write(tmp_path, {
        "feed.parquet": parquet(long_table()),
        "feed.csv.gz": gzip.compress(GOOD[:40].encode()) + gzip.compress(GOOD[40:].encode()),
        "feed.zip": archive.getvalue(),
        "feed.packed": gzip.compress(parquet(long_table())),
        "day/2.csv": "".join([halves[0], *halves[21:]]),
        "day/1.csv": "".join(halves[:21]),
        "tree/a/1.parquet": parquet(long_table().slice(0, 20)),
        "tree/b/c/2.parquet": parquet(long_table().slice(20)),
        "tree/_temporary/x.parquet": b"half",
    })  # fmt: skip
    forms = [
        {"uri": "feed.parquet", "kind": "parquet"},
        {"uri": "feed.csv.gz"},
        {"uri": "feed.zip"},
        {"uri": "feed.packed", "kind": "parquet", "compression": "gzip"},
        {"uri": "day/*.csv"},
        {"uri": "tree/**/*.parquet", "kind": "parquet"},
    ]
    for source in forms:
        got = read(tmp_path, **source).rows
        pd.testing.assert_frame_equal(got.drop(columns="line"), want.drop(columns="line"), obj=str(source))
        assert got["line"].is_unique


def test_a_line_of_several_files_is_named_by_its_file(tmp_path):
    write(tmp_path, {f"day/{name}": data for name, data in by_day().items()})
    rows = read(tmp_path, uri="day/*.csv").rows
    files = tuple(rows.attrs["files"])
    assert len(files) == 23
    customer = make_customer(source={"uri": "day/*.csv"})
    assert place(rows["line"].iloc[5], customer, files) == "sales_2024-01-03.csv, line 3"
    assert place(7, customer, ("a/part-0.csv", "b/part-0.csv")) == "a/part-0.csv, line 7"


# --- a file a day ---------------------------------------------------------------------------------------------------

DAILY = {"uri": "day/*.csv", "day_in_name": "sales_%Y-%m-%d.csv"}


def test_only_wanted_days_are_opened(tmp_path, opened):
    """And the one before: its rows may run past midnight."""
    write(tmp_path, {f"day/{name}": data for name, data in by_day().items()})
    feed = read(tmp_path, since=date(2024, 1, 18), until=date(2024, 1, 22), **DAILY)
    assert opened == [f"day/sales_2024-01-{n}.csv" for n in range(17, 23)]
    assert feed.lines_read == 2 * 5
    assert feed.lines_outside == 2
    opened.clear()
    parts = [{"uri": "day/*.csv", "since": "2024-01-20"}]
    read(tmp_path, since=date(2024, 1, 18), parts=parts, day_in_name="sales_%Y-%m-%d.csv")
    assert opened == [f"day/sales_2024-01-{n}.csv" for n in range(20, 24)]


def test_sales_after_midnight_are_found_in_the_file_of_the_day_before(tmp_path):
    files = by_day()
    late = "2024-01-11,S3,1,5,0\n"
    files["sales_2024-01-10.csv"] += late
    write(tmp_path, {f"day/{name}": data for name, data in files.items()})
    rows = read(tmp_path, since=date(2024, 1, 11), **DAILY).rows
    assert (rows["day"] == "2024-01-11").sum() == 3


def test_partitions_of_other_days_are_not_opened(tmp_path, opened):
    table = long_table().drop_columns(["day"])
    days = [date(2024, 1, 1) + timedelta(days=n) for n in range(23)]
    write(tmp_path, {f"t/day={day}/p{n}.parquet": parquet(table.slice(2 * i + n, 1))
                     for i, day in enumerate(days) for n in (0, 1)})  # fmt: skip
    source = {"uri": "t/**/*.parquet", "kind": "parquet", "partitioned": True}
    got = read(tmp_path, since=date(2024, 1, 20), **source).rows
    assert len(opened) == 10
    want = read(write(tmp_path, {"feed.csv": GOOD}), since=date(2024, 1, 20), uri="feed.csv").rows
    pd.testing.assert_frame_equal(got.drop(columns="line"), want.drop(columns="line"))


def test_partitions_of_a_key_are_texts(tmp_path):
    table = long_table().drop_columns(["item"])
    write(tmp_path, {"t/item=007/a.parquet": parquet(table), "t/item=a%2Fb/a.parquet": parquet(table),
                     "t/item=__HIVE_DEFAULT_PARTITION__/a.parquet": parquet(table)})  # fmt: skip
    rows = read(tmp_path, uri="t/*/*.parquet", kind="parquet", partitioned=True).rows
    assert set(rows["item"]) == {"007", "a/b", None}
    with pytest.raises(SourceError, match="'item'"):
        read(tmp_path, uri="t/*/*.parquet", kind="parquet")


FOLDERS = {
    "no date in the name": ({"day/notes.csv": GOOD}, ["notes.csv", "'sales_%Y-%m-%d.csv'", "narrow source.uri"]),
    "no such day": ({"day/sales_2024-02-30.csv": GOOD}, ["sales_2024-02-30.csv", "day_in_name"]),
    "two files of a day": ({"day/sales_2024-1-2.csv": GOOD}, ["sales_2024-1-2.csv", "second file of 2024-01-02"]),
}


@pytest.mark.parametrize(("files", "said"), FOLDERS.values(), ids=FOLDERS.keys())
def test_a_folder_that_is_not_a_file_a_day_is_refused(tmp_path, files, said):
    write(tmp_path, {**{f"day/{name}": data for name, data in by_day().items()}, **files})
    with pytest.raises(SourceError) as caught:
        read(tmp_path, **DAILY)
    assert all(part in str(caught.value) for part in said), str(caught.value)


def test_a_day_without_sales_may_be_an_empty_file_of_many(tmp_path):
    files = by_day()
    files["sales_2024-01-05.csv"] = GOOD.splitlines()[0] + "\n"
    write(tmp_path, {f"day/{name}": data for name, data in files.items()})
    assert read(tmp_path, **DAILY).lines_read == 44
    files["sales_2024-01-05.csv"] = ""
    write(tmp_path, {f"day/{name}": data for name, data in files.items()})
    with pytest.raises(SourceError, match=r"sales_2024-01-05.csv: the file is empty"):
        read(tmp_path, **DAILY)


def test_nothing_found_says_what_is_there(tmp_path):
    write(tmp_path, {"day/sales_2024.csv": GOOD})
    with pytest.raises(SourceUnavailableError, match=r"day/sale_\*.csv.*no such file.*mean 'sales_2024.csv'"):
        read(tmp_path, uri="day/sale_*.csv")
    with pytest.raises(SourceUnavailableError, match="no such file"):
        read(tmp_path, uri="dya/*.csv")
    write(tmp_path, {f"old/{name}": data for name, data in by_day().items()})
    with pytest.raises(SourceUnavailableError, match="nothing there holds days from 2025-01-01"):
        read(tmp_path, since=date(2025, 1, 1), until=date(2025, 1, 9), **{**DAILY, "uri": "old/*.csv"})


def test_a_file_that_stands_twice_under_two_names_is_refused(tmp_path):
    write(tmp_path, {"in/a.csv": GOOD, "in/b.csv": GOOD})
    with pytest.raises(
        SourceError, match=r"in/b\.csv: holds byte for byte what in/a\.csv holds, so each of its 46 lines"
    ):
        read(tmp_path, uri="in/*.csv")
    parts = [{"uri": "one.csv", "until": "2024-01-09"}, {"uri": "one.csv", "since": "2024-01-10"}]
    assert read(write(tmp_path, {"one.csv": GOOD}), parts=parts).lines_read == 46  # each part its own days


# --- parts ----------------------------------------------------------------------------------------------------------


def test_columns_renamed_on_a_date_are_read_under_one_name(tmp_path, opened):
    old, new = GOOD.replace("qty", "Quantity"), GOOD.replace("item", "StockCode")
    write(tmp_path, {"old.csv": old, "new.csv": new})
    parts = [
        {"uri": "old.csv", "until": "2024-01-09", "names": {"qty": "Quantity"}},
        {"uri": "new.csv", "since": "2024-01-10", "names": {"item": ["SKU", "StockCode"]}},
    ]
    feed = read(tmp_path, parts=parts)
    want = read(write(tmp_path, {"feed.csv": GOOD}), uri="feed.csv").rows
    pd.testing.assert_frame_equal(feed.rows.drop(columns="line"), want.drop(columns="line"))
    assert (feed.lines_read, feed.lines_outside) == (46, 46)  # both files hold every day
    opened.clear()
    read(tmp_path, since=date(2024, 1, 12), parts=parts)
    assert opened == ["new.csv"]
    both = [{"uri": "new.csv", "names": {"item": ["store", "StockCode"]}}]
    with pytest.raises(SourceError, match="both 'store' and 'StockCode'"):
        read(tmp_path, parts=both)


def test_a_part_that_is_still_to_come_may_be_missing(tmp_path):
    write(tmp_path, {"old.csv": GOOD})
    parts = [{"uri": "old.csv", "until": "2024-01-20"}, {"uri": "new.csv", "since": "2024-01-21"}]
    assert read(tmp_path, parts=parts).lines_read == 40
    parts[0]["until"], parts[1]["since"] = "2024-01-19", "2024-01-20"
    with pytest.raises(SourceUnavailableError, match=r"new.csv: there is no such file"):
        read(tmp_path, parts=parts)


# --- deliveries -----------------------------------------------------------------------------------------------------


def test_a_delivery_stays_in_its_customers_own_folder(tmp_path):
    root, deliveries = tmp_path / "root", tmp_path / "deliveries"
    write(root, {"secret.csv": GOOD})
    write(deliveries, {"acme/2024/feed.csv": GOOD, "bob/feed.csv": GOOD})
    (deliveries / "acme/link.csv").symlink_to(deliveries / "bob/feed.csv")
    (deliveries / "acme/folder").symlink_to(deliveries / "bob")
    (deliveries / "acme/good.csv").symlink_to(deliveries / "acme/2024/feed.csv")
    for uri in ("2024/feed.csv", "*/feed.csv", "./2024/../2024/feed.csv", "good.csv"):
        if uri != "*/feed.csv":
            assert read(root, deliveries=deliveries, uri=f"delivered:{uri}").lines_read == 46
    leading_out = ("../bob/feed.csv", "acme/../../bob/feed.csv", "link.csv", "folder/feed.csv", "folder/*.csv",
                   "../bob/*.csv", "l*.csv", "*/feed.csv", "/etc/passwd", "/../bob/feed.csv")  # fmt: skip
    for uri in leading_out:
        with pytest.raises(ConfigurationError, match="leads out"):
            read(root, deliveries=deliveries, uri=f"delivered:{uri}")
    with pytest.raises(ConfigurationError, match="set FORECASTING_DELIVERIES"):
        read(root, uri="delivered:feed.csv")


def test_wildcards_do_not_run_around_in_linked_folders(tmp_path):
    write(tmp_path, {"t/a/feed.csv": GOOD})
    (tmp_path / "t/a/again").symlink_to(tmp_path / "t")
    assert read(tmp_path, uri="t/**/*.csv").lines_read == 46


@pytest.mark.parametrize(
    "uri", ["local:///etc/passwd", "simplecache::file:///etc/passwd", "zip://a.csv::s3://b/c.zip", "gopher://x/y"]
)
def test_no_other_way_leads_to_this_machines_disk(tmp_path, uri):
    with pytest.raises(ConfigurationError, match=r"cannot be read from|leads out"):
        read(tmp_path, uri=uri)


# --- packed ---------------------------------------------------------------------------------------------------------


plain = GOOD.encode()
PACKED = {
    "cut gzip": ("gz", gzip.compress(plain)[:-30], ["gzip stream is not whole", "the transfer was cut"]),
    "gzip without its end": ("gz", gzip.compress(plain)[:-8], ["the transfer was cut"]),
    "flipped byte in gzip": ("gz", flipped(gzip.compress(plain), 60), ["the transfer was cut, or the file is damaged"]),
    "wrong sum in gzip": ("gz", flipped(gzip.compress(plain), -6), ["CRC", "damaged"]),
    "rubbish after gzip": ("gz", gzip.compress(plain) + b"<html>", ["gzip stream is not whole"]),
    "text named gz": ("gz", plain, ["is no gzip file", "compression: none"]),
    "cut zip": ("zip", zipped(("a.csv", plain))[:-30], ["zip archive is not whole", "the transfer was cut"]),
    "flipped byte in zip": ("zip", flipped(zipped(("a.csv", plain)), 60), ["zip archive is not whole", "damaged"]),
    "several members": ("zip", zipped(("a.csv", plain), ("b.csv", plain)), ["2 files", "'a.csv', 'b.csv'", "one"]),
    "no member": ("zip", zipped(), ["0 files", "expected exactly one"]),
    "zip in zip": ("zip", zipped(("b.zip", zipped(("a.csv", plain)))), ["'b.zip'", "packed itself"]),
    "gzip in zip": ("zip", zipped(("a.gz", gzip.compress(plain))), ["'a.gz'", "packed itself"]),
    "traversal": ("zip", zipped(("../../a.csv", plain)), ["'../../a.csv'", "leads out"]),
    "absolute name": ("zip", zipped(("/etc/a.csv", plain)), ["'/etc/a.csv'", "leads out"]),
    "password": ("zip", encrypted(zipped(("a.csv", plain))), ["encrypted", "without a password"]),
    "another method": ("zip", zipped(("a.csv", plain), method=zipfile.ZIP_LZMA), ["method 14", "deflate"]),
}


@pytest.mark.parametrize(("ending", "data", "said"), PACKED.values(), ids=PACKED.keys())
def test_a_packed_file_that_is_not_one_whole_file_is_refused(tmp_path, ending, data, said):
    write(tmp_path, {f"feed.{ending}": data})
    with pytest.raises(SourceError) as caught:
        read(tmp_path, uri=f"feed.{ending}")
    assert all(part in str(caught.value) for part in said), str(caught.value)


def bomb() -> bytes:
    """200 MB of line ends in 194 kB."""
    return gzip.compress(b"\n" * 200_000_000)


def lying_zip(data: bytes) -> bytes:
    """A zip whose directory says that its member is small."""
    packed = bytearray(zipped(("a.csv", data)))
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = packed.index(mark) + offset
        packed[at : at + 4] = (100).to_bytes(4, "little")
    return bytes(packed)


@pytest.mark.parametrize(
    ("name", "make"),
    [("b.gz", bomb), ("b.zip", lambda: zipped(("a.csv", b"\n" * 200_000_000))),
     ("b.zip", lambda: lying_zip(b"\n" * 200_000_000))],
    ids=["gzip", "zip", "zip that lies"],
)  # fmt: skip
def test_a_bomb_is_refused_within_bounded_memory(tmp_path, name, make):
    packed = make()
    assert len(packed) < 200_000
    write(tmp_path, {name: packed})
    del packed
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match=r"max_bytes|not whole"):
            read(tmp_path, uri=name, max_bytes=5_000_000)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_the_budget_is_that_of_the_whole_pull(tmp_path):
    write(tmp_path, {f"day/{name}": data for name, data in by_day().items()})
    size = sum(len(data) for data in by_day().values())
    assert read(tmp_path, max_bytes=size, **DAILY).bytes == size
    with pytest.raises(SourceError, match=r"sales_2024-01-23.csv.*max_bytes"):
        read(tmp_path, max_bytes=size - 1, **DAILY)


# --- parquet --------------------------------------------------------------------------------------------------------


def changed(name: str, values: pa.Array) -> pa.Table:
    table = long_table()
    return table.set_column(table.column_names.index(name), name, values)


def only(table: pa.Table, tmp_path: Path, **changes) -> pd.DataFrame:
    return read(write(tmp_path, {"f.parquet": parquet(table)}), uri="f.parquet", kind="parquet", **changes).rows


N = 46
ITEMS = {
    "int64": (pa.array([123] * N), "123"),
    "big int": (pa.array([2**62 + 1] * N), str(2**62 + 1)),
    "floats with gaps": (pa.array([13085.0] * (N - 1) + [None]), "13085"),
    "dictionary": (pa.array(["007"] * N).dictionary_encode(), "007"),
    "large string": (pa.array(["è"] * N, pa.large_string()), "è"),
    "bytes": (pa.array([b"abc"] * N), "abc"),
    "decimal": (pa.array([Decimal("1.50")] * N, pa.decimal128(9, 2)), "1.50"),
    "boolean": (pa.array([True] * N), "true"),
    "day": (pa.array([date(2024, 1, 5)] * N), "2024-01-05"),
    "with an empty text": (pa.array(["x"] * (N - 1) + [""]), "x"),
}


@pytest.mark.parametrize(("values", "text"), ITEMS.values(), ids=ITEMS.keys())
def test_keys_of_any_type_become_texts(tmp_path, values, text):
    got = only(changed("item", values), tmp_path)["item"]
    assert got.iloc[0] == text
    assert set(got) <= {text, None}


QUANTITIES = {
    "int": (pa.array([3] * N, pa.int16()), 3.0),
    "float32": (pa.array([1.5] * N, pa.float32()), 1.5),
    "decimal": (pa.array([Decimal("2.50")] * N, pa.decimal128(9, 2)), 2.5),
    "boolean": (pa.array([True] * N), 1.0),
    "int with gaps": (pa.array([7] * (N - 1) + [None]), 7.0),
    "inf": (pa.array([np.inf] * N), np.inf),
}


@pytest.mark.parametrize(("values", "number"), QUANTITIES.values(), ids=QUANTITIES.keys())
def test_numbers_of_any_type_become_floats(tmp_path, values, number):
    assert only(changed("qty", values), tmp_path)["qty"].iloc[0] == number


ZONES = pa.timestamp("us", tz="UTC")
DAYS = {
    "zoned time": (pa.array([datetime(2024, 1, 9, 23, 30, tzinfo=UTC)] * N, ZONES), "2024-01-10"),
    "local time": (pa.array([datetime(2024, 1, 9, 23, 30)] * N), "2024-01-09"),  # noqa: DTZ001
    "text": (pa.array(["2024-01-09"] * N), "2024-01-09"),
}


@pytest.mark.parametrize(("values", "day"), DAYS.values(), ids=DAYS.keys())
def test_days_and_times_of_any_type_become_local_days(tmp_path, values, day):
    got = only(changed("day", values), tmp_path)["day"]
    assert got.iloc[0] == pd.Timestamp(day)


def test_days_beyond_all_calendars_are_left_to_the_contract(tmp_path):
    values = pa.array([date(2024, 1, 9)] * (N - 2) + [date(9999, 12, 31), None])
    assert only(changed("day", values), tmp_path)["day"].isna().sum() == 2


def test_numbers_may_be_days(tmp_path):
    write(tmp_path, {"f.parquet": parquet(changed("day", pa.array([20240109] * N)))})
    rows = read(tmp_path, uri="f.parquet", kind="parquet", date_format="%Y%m%d").rows
    assert set(rows["day"]) == {pd.Timestamp("2024-01-09")}


WRONG = {
    "number beyond floats": ("qty", pa.array([1] * 5 + [2**53 + 1] + [1] * 40), ["row 6", "9007199254740993", "2^53"]),
    "text for numbers": ("qty", pa.array(["1"] * N), ["column 'qty' is of type string", "expected numbers"]),
    "list": ("qty", pa.array([[1]] * N), ["'qty'", "list", "plain values"]),
    "record": ("item", pa.array([{"a": 1}] * N), ["'item'", "struct", "plain values"]),
    "times for numbers": ("qty", pa.array([date(2024, 1, 1)] * N), ["expected numbers"]),
    "fractions for a key": ("item", pa.array([1.0, 1.5] * 23), ["row 2", "'item'", "1.5", "no whole number"]),
    "bytes for a key": ("item", pa.array([b"\xff"] * N), ["'item'", "not UTF-8"]),
    "nul in a key": ("item", pa.array(["a\0b"] * N), ["'item'", "NUL"]),
    "floats for days": ("day", pa.array([1.0] * N), ["'day'", "expected days or times"]),
    "no day at all": ("day", pa.nulls(N), ["'day'", "no date"]),
    "texts that are no days": ("day", pa.array(["9/1/24"] * N), ["'9/1/24'", "'%Y-%m-%d'", "date_format"]),
}


@pytest.mark.parametrize(("name", "values", "said"), WRONG.values(), ids=WRONG.keys())
def test_a_parquet_column_that_is_not_as_declared_is_refused(tmp_path, name, values, said):
    with pytest.raises(SourceError) as caught:
        only(changed(name, values), tmp_path)
    assert all(part in str(caught.value) for part in ["f.parquet", *said]), str(caught.value)


whole = parquet(long_table())
DAMAGED = {
    "empty": (b"", ["is no parquet file"]),
    "text": (plain, ["is no parquet file", "b'day,'"]),
    "cut": (whole[: len(whole) // 2], ["b'PAR1'", "transfer was cut"]),
    "cut inside its end": (whole[:-2], ["transfer was cut"]),
    "encrypted": (b"PARE" + whole[4:], ["encrypted"]),
    "no rows": (parquet(long_table().slice(0, 0)), ["not one row"]),
    "renamed column": (parquet(long_table().rename_columns(["day", "store", "item", "qtty", "promo"])),
                       ["no column 'qty'", "mean 'qtty'"]),
    "doubled column": (parquet(long_table().rename_columns(["day", "store", "item", "qty", "qty"])), ["'qty'", "once"]),
}  # fmt: skip


@pytest.mark.parametrize(("data", "said"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_parquet_file_that_is_not_whole_is_refused(tmp_path, data, said):
    write(tmp_path, {"f.parquet": data})
    with pytest.raises(SourceError) as caught:
        read(tmp_path, uri="f.parquet", kind="parquet")
    assert all(part in str(caught.value) for part in ["f.parquet", *said]), str(caught.value)


def test_a_flipped_byte_in_a_page_is_never_read(tmp_path):
    want = only(long_table(), tmp_path)
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    silent = 0
    for at in range(4, footer):
        write(tmp_path, {"f.parquet": flipped(whole, at)})
        try:
            got = read(tmp_path, uri="f.parquet", kind="parquet").rows
        except SourceError:
            continue
        silent += not got.equals(want)
    assert silent == 0


def test_a_billion_equal_rows_are_refused_unread(tmp_path):
    table = long_table().slice(0, 1)
    many = pa.concat_tables([table] * 5000).combine_chunks()
    write(tmp_path, {"f.parquet": parquet(many)})
    with pytest.raises(SourceError, match=r"5000 rows, more than source.max_rows, 1000"):
        read(tmp_path, uri="f.parquet", kind="parquet", max_rows=1000)


def test_only_declared_columns_are_read(tmp_path):
    table = long_table().append_column("nested", pa.array([[1]] * N))
    table = table.append_column("secret", pa.array(["x"] * N))
    assert list(only(table, tmp_path)) == ["day", "store", "item", "qty", "promo", "line"]


def test_rows_of_parquet_are_numbered_from_one(tmp_path):
    rows = only(long_table(), tmp_path)
    assert place(rows["line"].iloc[0], make_customer(source={"uri": "x", "kind": "parquet"})) == "row 1"


def test_a_wide_parquet_melts_as_the_csv(tmp_path):
    want = read(write(tmp_path, {"feed.csv": wide_csv()}), **WIDE).rows
    frame = pd.read_csv(tmp_path / "feed.csv")
    write(tmp_path, {"f.parquet": parquet(pa.Table.from_pandas(frame, preserve_index=False))})
    got = read(tmp_path, **{**WIDE, "uri": "f.parquet", "kind": "parquet"}).rows
    pd.testing.assert_frame_equal(got.drop(columns="line"), want.drop(columns="line"))


# --- a table without days -------------------------------------------------------------------------------------------

WEEKS = {
    "names": {"product": "Product_Code"},
    "wide": {
        "columns": "(?P<value>W)(?P<period>[0-9]+)",
        "values": {"W": "quantity"},
        "ignore": ["MIN", "MAX", "Normalized .*"],
        "first_period": "2023-01-02",
    },
}
WEEKLY = {
    "frequency": "W",
    "exogenous": {},
    "columns": {"ds": "week", "y": "quantity", "keys": ["product"]},
}


def weeks_csv() -> str:
    head = ["Product_Code", *(f"W{n}" for n in range(52)), "MIN", "MAX", *(f"Normalized {n}" for n in range(52))]
    rows = [[f"P{p}", *(str(100 * p + n) for n in range(52)), "0", "9", *["0.5"] * 52] for p in (1, 2, 819)]
    return "\n".join(",".join(row) for row in [head, *rows]) + "\n"


def workbook_of(frame: pd.DataFrame) -> bytes:
    sink = io.BytesIO()
    frame.to_excel(sink, index=False)
    return sink.getvalue()


def test_columns_that_are_weeks_are_dated_from_the_first(tmp_path):
    """Oracle: pandas.melt."""
    frame = pd.read_csv(io.StringIO(weeks_csv()))
    write(tmp_path, {"w.csv": weeks_csv(), "w.xlsx": workbook_of(frame),
                     "w.parquet": parquet(pa.Table.from_pandas(frame, preserve_index=False))})  # fmt: skip
    until = date(2024, 1, 21)
    weeks = [f"W{n}" for n in range(52)]
    want = frame.melt("Product_Code", weeks, "week", "quantity")
    want["week"] = pd.Timestamp("2023-01-08") + pd.to_timedelta(7 * want["week"].str[1:].astype(int), unit="D")
    want = want.rename(columns={"Product_Code": "product"}).astype({"quantity": float})
    keys = ["product", "week"]
    want = want[[*keys, "quantity"]].sort_values(keys, ignore_index=True)
    for kind in ("csv", "parquet", "xlsx"):
        got = read(tmp_path, until=until, uri=f"w.{kind}", kind=kind, **WEEKS, **WEEKLY)
        rows = got.rows.sort_values(keys, ignore_index=True)
        assert got.lines_read == 3 * 52
        pd.testing.assert_frame_equal(rows[[*keys, "quantity"]], want, check_dtype=kind == "csv", obj=kind)
        assert str(rows["week"].dtype) == "datetime64[ns]"
    later = read(tmp_path, since=date(2023, 12, 20), until=until, uri="w.csv", **WEEKS, **WEEKLY)
    assert (later.lines_read, later.lines_outside) == (3 * 2, 3 * 50)  # whole weeks, from Monday the 18th


def test_a_wide_table_beyond_the_rows_budget_is_refused_before_it_is_melted(tmp_path):
    write(tmp_path, {"w.csv": weeks_csv()})
    with pytest.raises(SourceError, match=r"makes 156 rows, more than source.max_rows, 100"):
        read(tmp_path, until=date(2024, 1, 21), uri="w.csv", max_rows=100, **WEEKS, **WEEKLY)
