"""S3 behind a network that is slow, fails every third request, or hangs: retries heal, time-outs hold."""

from __future__ import annotations

import dataclasses
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from s3fs import S3FileSystem

from forecasting.data.snapshots import freeze, history
from forecasting.data.snapshots import read as read_snapshot
from forecasting.data.sources import Access, pull
from forecasting.errors import SnapshotUnavailableError, SourceUnavailableError, WorkUnavailableError
from forecasting.store import work
from tests.buckets import buckets

from .bad_network import Network, network
from .conftest import UNTIL, long_csv, make_customer

CANARY = "canary5f1c"
GOOD = long_csv()
MODES = ["good", "slow", "500", "reset", "cut"]

pytestmark = pytest.mark.homes  # two minutes, most of it waiting


@pytest.fixture(scope="module")
def moto():
    with buckets(CANARY, "sales", "snaps", "frames") as (address, client):
        head, *lines = GOOD.splitlines()
        for day in dict.fromkeys(line[:10] for line in lines):
            rows = "\n".join([head, *(line for line in lines if line.startswith(day))]) + "\n"
            client.put_object(Bucket="sales", Key=f"day/{day[:7]}/sales_{day}.csv", Body=rows.encode())
        client.put_object(Bucket="sales", Key="day/", Body=b"")
        yield address


@pytest.fixture
def bad(moto):
    with network(moto) as found:
        yield found


# --- pull -----------------------------------------------------------------------------------------------------------

SOURCE = {
    "uri": "s3://sales/day/**/sales_*.csv", "day_in_name": "sales_%Y-%m-%d.csv", "connection": True, "timeout": 2,
}  # fmt: skip


def pulled(bad: Network, **source):
    customer = make_customer(source={**SOURCE, **source})
    return pull(customer, access=Access(Path("/"), connection_uri=f"s3://key:{CANARY}@{bad.address}"), until=UNTIL)


@pytest.mark.parametrize("mode", MODES)
def test_a_folder_in_s3_is_read_whole(bad, tmp_path, mode):
    (tmp_path / "feed.csv").write_text(GOOD)
    want = pull(make_customer(), access=Access(tmp_path), until=UNTIL)
    bad.set(mode)
    got = pulled(bad)
    pd.testing.assert_frame_equal(got.rows.drop(columns="line"), want.rows.drop(columns="line"))
    assert bad.failed >= (10 if mode in ("500", "reset", "cut") else 0)
    assert got.files[0] == "s3://sales/day/2024-01/sales_2024-01-01.csv"


def test_a_pull_from_a_hung_server_costs_one_time_out(bad):
    bad.set("hung")
    began = time.monotonic()
    with pytest.raises(SourceUnavailableError, match=r"cannot be read.*time-out 2 s") as caught:
        pulled(bad)
    assert time.monotonic() - began < 6
    assert bad.count == 1
    assert CANARY not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_a_pull_waits_ten_time_outs_in_all(bad):
    """Each answer comes in time, and all of them together do not."""
    bad.set("slow")
    bad.pause = 0.6
    began = time.monotonic()
    with pytest.raises(SourceUnavailableError, match="a pull waits 10 s for its files"):
        pulled(bad, timeout=1)
    assert time.monotonic() - began < 15


# --- snapshots ------------------------------------------------------------------------------------------------------


def panel(seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    ds = pd.date_range("2024-01-01", periods=150).as_unit("ns")
    frame = pd.DataFrame({"unique_id": np.repeat(["S1/1", "S2/1"], 150), "ds": np.tile(ds, 2)})
    return frame.assign(y=rng.poisson(4, 300).astype(float))


def frozen(home, bad: Network, timeout: float = 60, n: int = 1):
    url = f"s3://key:{CANARY}@snaps/{n}{bad.mode}?endpoint_url=http://{bad.address}&region_name=us-east-1"
    there = dataclasses.replace(home, snapshot_dvc_url=url)
    facts = {"cutoff": "2024-05-29"}
    ref = freeze(there, panel(n), facts, customer_id="acme", run_id=f"acme/2024-05-29/{n}", lock=nullcontext(),
                 timeout=timeout)  # fmt: skip
    return there, ref


def other_worker(home):
    return dataclasses.replace(home, home=home.home.with_name("other"))


@pytest.mark.parametrize("mode", MODES)
def test_a_snapshot_is_pushed_and_read_whole(bad, home, mode):
    bad.set(mode)
    there, ref = frozen(home, bad)
    got, _ = read_snapshot(other_worker(there), ref, timeout=60)
    pd.testing.assert_frame_equal(got, panel())
    assert bad.failed >= (3 if mode in ("500", "reset", "cut") else 0)


def test_a_hung_snapshot_remote_is_given_up(bad, home):
    there, ref = frozen(home, bad)
    bad.set("hung")
    began = time.monotonic()
    with pytest.raises(SnapshotUnavailableError) as caught:
        read_snapshot(other_worker(there), ref, timeout=3)
    with pytest.raises(SnapshotUnavailableError):
        frozen(home, bad, timeout=3, n=2)
    assert time.monotonic() - began < 15
    assert CANARY not in str(caught.value)
    assert len(history(there, "acme")) == 1  # nothing half is committed


# --- work files -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(bad, monkeypatch):
    """FORECASTING_WORK_URL on S3, with the credentials where every S3 client looks for them."""
    for name, value in {
        "AWS_ENDPOINT_URL_S3": f"http://{bad.address}", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": CANARY,
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()  # an earlier test's would ask the network of that test
    yield "s3://frames/runs"
    S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("mode", MODES)
def test_work_files_are_written_and_read_whole(bad, shared, mode):
    run = f"acme{mode}/2024-01-20/1"
    bad.set(mode)
    refs = [work.put(shared, run, f"panel{n}", panel(n)) for n in range(6)]
    assert work.put(shared, run, "panel0", panel(0)) == refs[0]
    for n, ref in enumerate(refs):
        pd.testing.assert_frame_equal(work.get(ref), panel(n))
    assert bad.failed >= (5 if mode in ("500", "reset", "cut") else 0)
    assert work.sweep(shared, f"acme{mode}", keep_days=1, today=datetime(2099, 1, 1, tzinfo=UTC).date()) == 1


def test_a_hung_store_of_work_files_is_given_up(bad, shared, monkeypatch):
    ref = work.put_bytes(shared, "acme/2024-01-20/1", "booster", b"x")
    monkeypatch.setattr(work, "TIMEOUT", 1)
    bad.set("hung")
    for attempt in (lambda: work.get_bytes(ref), lambda: work.put_bytes(shared, "acme/2024-01-20/2", "b", b"y")):
        began = time.monotonic()
        with pytest.raises(WorkUnavailableError, match="cannot be reached") as caught:
            attempt()
        assert time.monotonic() - began < 8
        assert CANARY not in str(caught.value)
