from __future__ import annotations

import logging
import socket
import threading
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forecasting.config import load_customer
from forecasting.data.sources import Access, place, pull
from forecasting.errors import ConfigurationError, SourceError, SourceUnavailableError
from tests.buckets import buckets

from .conftest import CUTOFF, ROOT, UNTIL, WIDE, long_csv, make_customer, wide_csv

PASTA = load_customer(ROOT / "dags/customers/pasta.yaml")


def test_a_wide_file_melts_without_loss():
    """Oracle: pandas.melt on the same file."""
    wide = pd.read_csv(ROOT / "examples/pasta/hierarchical_sales_data.csv", parse_dates=["DATE"])
    feed = pull(PASTA, access=Access(ROOT), until=date(2018, 10, 29))
    wide = wide[wide["DATE"] <= "2018-10-29"]
    melted = wide.melt("DATE", [c for c in wide if c.startswith("QTY")], "column", "quantity")
    melted[["brand", "item"]] = melted["column"].str.split("_", expand=True)[[1, 2]]
    melted.loc[melted["DATE"] > "2018-10-01", "quantity"] = np.nan
    keys = ["DATE", "brand", "item"]
    want = melted.sort_values(keys)[[*keys, "quantity"]].reset_index(drop=True).astype({"quantity": float})
    pd.testing.assert_frame_equal(feed.rows.sort_values(keys)[[*keys, "quantity"]].reset_index(drop=True), want)
    assert feed.lines_read == len(want) == 1739 * 118
    assert feed.lines_outside == (1798 - 1739) * 118
    assert feed.watermark == date(2018, 10, 1)
    assert feed.rows["line"].is_unique


def test_wide_and_long_forms_of_one_feed_agree(feed):
    long = pull(make_customer(), access=Access(feed(long_csv())), until=UNTIL).rows
    wide = pull(make_customer(source=WIDE), access=Access(feed(wide_csv())), until=UNTIL).rows
    pd.testing.assert_frame_equal(long.drop(columns="line"), wide.drop(columns="line"))
    customer = make_customer(source=WIDE)
    assert [place(line, customer) for line in wide["line"][:3]] == [
        "line 2, column 2", "line 2, column 3", "line 3, column 2"]  # fmt: skip
    assert place(long["line"][0], make_customer()) == "line 2"


def test_nothing_after_the_cutoff_is_seen_but_what_is_known_ahead(feed):
    customer = make_customer(exogenous={"promo": {"known": "historic"}})
    rows = pull(customer, access=Access(feed(long_csv())), until=UNTIL).rows
    later = rows["day"] > pd.Timestamp(CUTOFF)
    assert rows.loc[later, ["qty", "promo"]].isna().all(axis=None)
    assert rows.loc[~later, ["qty", "promo"]].notna().all(axis=None)
    assert pull(make_customer(), access=Access(feed(long_csv())), until=UNTIL).rows["promo"].notna().all()


def test_the_window_is_whole_periods(feed):
    weekly = make_customer(frequency="W", horizon=1)
    rows = pull(weekly, access=Access(feed(long_csv())), since=date(2024, 1, 11), until=date(2024, 1, 21)).rows
    assert rows["day"].min() == pd.Timestamp("2024-01-08")
    daily = pull(make_customer(), access=Access(feed(long_csv())), since=date(2024, 1, 11), until=UNTIL)
    assert daily.rows["day"].min() == pd.Timestamp("2024-01-11")
    assert daily.lines_read + daily.lines_outside == 46
    assert daily.rows["line"].min() == 22  # numbers are the file's, whatever the window


good = long_csv()
BAD = {
    "empty": ("", ["feed.csv", "empty", "delivered again"]),
    "only blank lines": ("\n\n", ["empty"]),
    "only a header": ("day,store,item,qty,promo\n", ["line 1", "not one row", "delivered again"]),
    "cut inside the last line": (good[:-8], ["line 47", "cut", "Ask for it again"]),
    "cut inside the last cell": (good[:-1], ["line 47", "no line end", "cut"]),
    "short last line": (good[: good.rindex(",")] + "\n", ["line 47", "4 cells, expected 5", "may have been cut"]),
    "long row": (good.replace("2024-01-02,S1", "2024-01-02,S1,x"), ["line 4", "6 cells, expected 5", "2024-01-02"]),
    "blank line within": (good.replace("\n2024-01-03", "\n\n2024-01-03", 1), ["line 6", "cells, expected 5"]),
    "renamed column": (good.replace("qty", "qtty"), ["line 1", "no column 'qty'", "Did you mean 'qtty'?", "renamed"]),
    "doubled header": (good.replace("promo", "qty", 1), ["line 1", "'qty'", "columns 4 and 5", "once"]),
    "wrong delimiter": (good.replace(",", ";"), ["line 1", "no column 'day'", "delimiter ';'"]),
    "a word for a number": (good.replace(",22,", ",many,"), ["line 5", "column 4 (qty)", "'many'", "no number"]),
    "decimal comma": (good.replace(",22,", ',"22,5",'), ["line 5", "'22,5'", "decimal mark?", "source.decimal"]),
    "all dates in another format": (
        good.replace("2024-01-", "01/").replace(",S", "/2024,S"),
        ["line 2", "column 1 (day)", "'01/01/2024'", "'%Y-%m-%d'", "source.date_format"],
    ),
    "latin-1": (
        good.replace(",1,", ",caffè,").encode("latin-1"),
        ["line 2", "byte 19", "not utf-8", "source.encoding"],
    ),
    "byte order mark": (b"\xef\xbb\xbf" + good.encode(), ["line 1", "byte order mark", "utf-8-sig"]),
    "nul bytes": (good.encode() + b"\0" * 50, ["line 48", "NUL"]),
    "quoted line end": (good.replace(",1,22,", ',"a\nb",22,'), ["line 5", "quoted cell", "one record a line"]),
    "open quote": (good.replace(",1,22,", ',"1,22,'), ["line 5"]),
}


@pytest.mark.parametrize(("text", "said"), BAD.values(), ids=BAD.keys())
def test_a_file_that_is_not_as_declared_is_refused(feed, text, said):
    with pytest.raises(SourceError) as caught:
        pull(make_customer(), access=Access(feed(text)), until=UNTIL)
    assert not isinstance(caught.value, SourceUnavailableError)  # not worth a retry
    assert all(part in str(caught.value) for part in said), str(caught.value)


WIDE_BAD = {
    "renamed column": (("Q_S1_1", "QT_S1_1"), ["line 1", "column 2", "'QT_S1_1'", "renamed?", "Did you mean"]),
    "missing column": (("P_S2_1", "P_S1_2"), ["S2/1", "no column for 'promo'"]),
    "no number": ((",111,", ",1x1,"), ["line 12", "column 2 (Q_S1_1)", "'1x1'"]),
    "same series twice": (("Q_S2_1", "Q_S1_1"), ["'Q_S1_1'", "columns 2 and 3"]),
}


@pytest.mark.parametrize(("change", "said"), WIDE_BAD.values(), ids=WIDE_BAD.keys())
def test_a_wide_file_that_is_not_as_declared_is_refused(feed, change, said):
    with pytest.raises(SourceError) as caught:
        pull(make_customer(source=WIDE), access=Access(feed(wide_csv().replace(*change))), until=UNTIL)
    assert all(part in str(caught.value) for part in said), str(caught.value)


def test_declared_dialects_are_read(feed):
    text = good.replace(",", ";").replace(";22;", ";22,5;").replace("2024-01-02", "02.01.2024")
    text = text.replace("2024-01-", "31.12.20").replace(";1;", ";caffè;")
    source = {"uri": "feed.csv", "delimiter": ";", "decimal": ",", "encoding": "cp1252", "date_format": "%d.%m.%Y"}
    rows = pull(make_customer(source=source), access=Access(feed(text.encode("cp1252"))), until=UNTIL).rows
    row = rows[rows["day"] == "2024-01-02"].iloc[1]
    assert (row["qty"], row["item"]) == (22.5, "caffè")
    windows = pull(make_customer(), access=Access(feed(good.replace("\n", "\r\n"))), until=UNTIL).rows
    pd.testing.assert_frame_equal(windows, pull(make_customer(), access=Access(feed(good)), until=UNTIL).rows)


def test_single_bad_values_are_left_to_the_contract(feed):
    text = good.replace("2024-01-02,S1", "02.01.2024,S1").replace(",31,", ",,").replace(",41,", ",inf,")
    rows = pull(make_customer(), access=Access(feed(text)), until=UNTIL).rows
    assert rows["day"].isna().sum() == 1
    assert rows["qty"].isna().sum() == 1 + 6  # and the six after the cutoff
    assert np.isinf(rows["qty"]).sum() == 1


def test_keys_that_look_like_numbers_stay_texts(feed):
    rows = pull(make_customer(), access=Access(feed(good.replace(",1,", ",007,"))), until=UNTIL).rows
    assert set(rows["item"]) == {"007"}


@pytest.mark.parametrize("uri", ["../secret.csv", "/etc/passwd", "a/../../secret.csv", "file:///etc/passwd"])
def test_a_path_cannot_leave_the_root(tmp_path, uri):
    (tmp_path / "root").mkdir()
    (tmp_path / "secret.csv").write_text(good)
    (tmp_path / "root" / "link.csv").symlink_to(tmp_path / "secret.csv")
    for name in (uri, "link.csv"):
        with pytest.raises(ConfigurationError, match="leads out"):
            pull(make_customer(source={"uri": name}), access=Access(tmp_path / "root"), until=UNTIL)


def test_a_missing_file_says_what_to_do(feed):
    root = feed(good)
    with pytest.raises(SourceUnavailableError, match=r"feeds.csv.*no such file.*mean 'feed.csv'.*Was it delivered"):
        pull(make_customer(source={"uri": "feeds.csv"}), access=Access(root), until=UNTIL)


def test_a_file_beyond_its_budget_is_refused(feed):
    with pytest.raises(SourceError, match=r"max_bytes, 100 bytes"):
        pull(make_customer(source={"uri": "feed.csv", "max_bytes": 100}), access=Access(feed(good)), until=UNTIL)


def test_a_declaration_that_makes_no_such_column_is_refused(feed):
    customer = make_customer(source=WIDE, columns={"ds": "day", "y": "qty", "keys": ["store", "itm"]})
    with pytest.raises(ConfigurationError, match=r"no column 'itm'.*mean 'item'"):
        pull(customer, access=Access(feed(wide_csv())), until=UNTIL)


CANARY = "canary-5f1c"


@pytest.fixture(scope="module")
def s3():
    """An S3 server on loopback, holding feed.csv in a bucket."""
    with buckets(CANARY, "sales") as (address, client):
        client.put_object(Bucket="sales", Key="feed.csv", Body=good.encode())
        yield address


def remote(uri: str = "s3://sales/feed.csv", timeout: int = 5):
    return make_customer(source={"uri": uri, "connection": True, "timeout": timeout})


def test_a_feed_in_s3_reads_as_the_local_one(s3, feed, caplog):
    caplog.set_level(logging.DEBUG, logger="forecasting")
    got = pull(remote(), access=Access(Path("/"), connection_uri=f"s3://key:{CANARY}@{s3}"), until=UNTIL)
    want = pull(make_customer(), access=Access(feed(good)), until=UNTIL)
    pd.testing.assert_frame_equal(got.rows, want.rows)
    assert got.sha256 == want.sha256
    assert CANARY not in caplog.text


def test_an_unreachable_source_never_shows_its_secret(s3):
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    cases = [(remote("s3://sales/gone.csv"), s3), (remote(), f"127.0.0.1:{port}")]
    for customer, server in cases:
        with pytest.raises(SourceUnavailableError) as caught:
            pull(customer, access=Access(Path("/"), connection_uri=f"s3://key:{CANARY}@{server}"), until=UNTIL)
        assert CANARY not in f"{caught.value!r} {caught.value.__cause__!r}"
    with pytest.raises(SourceUnavailableError, match="FORECASTING_CONN_<ID>"):
        pull(remote(), access=Access(Path("/")), until=UNTIL)


def test_a_source_that_hangs_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        held: list[socket.socket] = []
        thread = threading.Thread(target=lambda: [held.append(silent.accept()[0]) for _ in range(2)], daemon=True)
        thread.start()
        uri = f"s3://key:{CANARY}@127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SourceUnavailableError, match="time-out 1 s"):
            pull(remote(timeout=1), access=Access(Path("/"), connection_uri=uri), until=UNTIL)
    for connection in held:
        connection.close()
