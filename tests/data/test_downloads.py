"""Downloads: only from hosts that are allowed, whole, in time, and with no login shown to anybody else."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest

from forecasting.data.sources import Access, pull
from forecasting.errors import ConfigurationError, SourceError, SourceUnavailableError

from .conftest import UNTIL, long_csv, make_customer

GOOD = long_csv()
CANARY = "canary/5f1c@"
LOGIN = f"Basic {base64.b64encode(f'user:{CANARY}'.encode()).decode()}"


class Asked(BaseHTTPRequestHandler):
    """Answers as the test's function says; remembers what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        self.server.answer(self)
        self.close_connection = True

    def log_message(self, *arguments):
        pass


def say(handler, status: int = 200, body: bytes = GOOD.encode(), length: int | None = None, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body) if length is None else length), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def server(answer: Callable[[Asked], None]) -> Iterator[ThreadingHTTPServer]:
    class Server(ThreadingHTTPServer):
        seen: list[tuple[str, str | None]] = []  # noqa: RUF012 - one server each
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *arguments):
            pass  # a client that gives up is what is tested

    found = Server(("127.0.0.1", 0), Asked)
    found.seen = []
    found.answer = answer
    thread = Thread(target=found.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.shutdown()
        found.server_close()
        thread.join(timeout=10)


def at(one: ThreadingHTTPServer, host: str = "127.0.0.1") -> str:
    return f"{host}:{one.server_port}"


def read(uri: str, hosts: tuple[str, ...], login: str | None = None, **source):
    customer = make_customer(source={"uri": uri, "connection": login is not None, "timeout": 2, **source})
    return pull(customer, access=Access(Path("/"), connection_uri=login, http_hosts=hosts), until=UNTIL)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_a_download_reads_as_the_local_file(tmp_path):
    (tmp_path / "feed.csv").write_text(GOOD)
    want = pull(make_customer(), access=Access(tmp_path), until=UNTIL)
    with server(say) as one:
        got = read(f"http://{at(one)}/a/feed.csv?v=1", (at(one),))
    pd.testing.assert_frame_equal(got.rows, want.rows)
    assert got.sha256 == want.sha256


def test_hosts_are_compared_whole():
    with server(say) as one:
        port = one.server_port
        for hosts in ((), ("127.0.0.1",), (f"127.0.0.1:{port}0",), (f"a127.0.0.1:{port}",), (f"127.0.0.1:{port}/",)):
            with pytest.raises(ConfigurationError, match=rf"host 127.0.0.1:{port}, which may not.*_HTTP_HOSTS"):
                read(f"http://127.0.0.1:{port}/feed.csv", hosts)
        assert one.seen == []
    for uri in ("http://sales.example.evil.test/f.csv", "https://example/f.csv"):
        with pytest.raises(ConfigurationError, match="may not be downloaded from"):
            read(uri, ("sales.example",))


def test_redirects_lead_to_allowed_hosts_alone_and_show_no_login_there():
    with server(say) as target:
        for host, allowed in (("127.0.0.1", True), ("localhost", False)):
            aim = f"http://{at(target, host)}/moved.csv?sig={'s' * 9}"
            with server(lambda handler, aim=aim: say(handler, 302, b"", Location=aim)) as first:
                uri = f"http://{at(first)}/feed.csv"
                hosts = (at(first), at(target))
                login = f"http://user:canary%2F5f1c%40@{at(first)}"
                if allowed:
                    assert read(uri, hosts, login).lines_read == 46
                    assert target.seen == [(f"/moved.csv?sig={'s' * 9}", None)]
                else:
                    with pytest.raises(ConfigurationError, match=r"moved.*localhost:\d+, which may not") as e:
                        read(uri, hosts, login)
                    assert "sig=" not in str(e.value)
                    assert len(target.seen) == 1
                assert first.seen == [("/feed.csv", LOGIN)]


def test_a_redirect_to_the_same_server_keeps_the_login():
    def answer(handler):
        if handler.path == "/feed.csv":
            say(handler, 307, b"", Location="/new.csv")
        else:
            say(handler)

    with server(answer) as one:
        read(f"http://{at(one)}/feed.csv", (at(one),), f"http://user:canary%2F5f1c%40@{at(one)}")
        assert [login for _, login in one.seen] == [LOGIN, LOGIN]


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "//evil.test/x", "http://a\\b"])
def test_a_redirect_elsewhere_is_refused(place):
    with server(lambda handler: say(handler, 301, b"", Location=place)) as one:
        with pytest.raises((SourceError, ConfigurationError), match="moved"):
            read(f"http://{at(one)}/feed.csv", (at(one),))
        assert len(one.seen) == 1


def test_an_endless_redirect_ends():
    with server(lambda handler: say(handler, 302, b"", Location="/feed.csv")) as one:
        with pytest.raises(SourceUnavailableError, match="moved more than 5 times"):
            read(f"http://{at(one)}/feed.csv", (at(one),))
        assert len(one.seen) == 6


def test_a_login_is_for_its_own_host():
    with server(say) as one:
        with pytest.raises(ConfigurationError, match="connection is for another host") as caught:
            read(f"http://{at(one)}/feed.csv", (at(one),), f"http://user:{'canary'}@localhost")
        assert "canary" not in str(caught.value)
        assert one.seen == []


STATUS = {404: "no such file", 403: "refuses it", 401: "login", 204: "status 204"}


@pytest.mark.parametrize(("status", "said"), STATUS.items())
def test_what_is_no_file_is_said(status, said):
    with server(lambda handler: say(handler, status, b"")) as one:
        with pytest.raises(SourceUnavailableError, match=said):
            read(f"http://{at(one)}/feed.csv", (at(one),), f"http://user:{'canary'}@127.0.0.1")
        assert len(one.seen) == (3 if status == 204 else 1)


def failing(times: int, how: Callable[[Asked], None]) -> Callable[[Asked], None]:
    return lambda handler: how(handler) if len(handler.server.seen) <= times else say(handler)


PASSING = {
    "500": lambda handler: say(handler, 500, b"try again"),
    "429": lambda handler: say(handler, 429, b""),
    "reset": lambda handler: handler.connection.close(),
    "cut body": lambda handler: say(handler, 200, GOOD.encode()[:99], length=len(GOOD)),
}


@pytest.mark.parametrize("how", PASSING.values(), ids=PASSING.keys())
def test_what_fails_quickly_is_asked_for_again(how):
    with server(failing(2, how)) as one:
        assert read(f"http://{at(one)}/feed.csv", (at(one),)).lines_read == 46
    with server(failing(9, how)) as one:
        with pytest.raises(SourceUnavailableError, match="cannot be downloaded"):
            read(f"http://{at(one)}/feed.csv", (at(one),))
        assert len(one.seen) == 3


def test_a_length_that_lies_changes_nothing_about_the_budget():
    def endless(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/csv")
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b"x" * 100_000)

    with server(endless) as one, pytest.raises(SourceError, match="max_bytes"):
        read(f"http://{at(one)}/feed.csv", (at(one),), max_bytes=1_000_000)
    with (
        server(lambda handler: say(handler, 200, b"", length=10**12)) as one,
        pytest.raises(SourceError, match="max_bytes"),
    ):
        read(f"http://{at(one)}/feed.csv", (at(one),))


def test_a_server_that_hangs_costs_one_time_out():
    with server(lambda handler: time.sleep(20)) as one:
        began = time.monotonic()
        with pytest.raises(SourceUnavailableError, match=r"TimeoutError.*time-out 1 s"):
            read(f"http://{at(one)}/feed.csv", (at(one),), timeout=1)
        assert time.monotonic() - began < 4
        assert len(one.seen) == 1


def test_a_server_that_drips_is_given_up_after_ten_time_outs():
    def drip(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for byte in GOOD.encode()[:100]:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(0.4)

    with server(drip) as one:
        began = time.monotonic()
        with pytest.raises(SourceUnavailableError, match=r"a pull waits 10 s for its files, 10 times source.timeout"):
            read(f"http://{at(one)}/feed.csv", (at(one),), timeout=1)
        assert 9 < time.monotonic() - began < 15
