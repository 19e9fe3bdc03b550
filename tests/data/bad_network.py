"""A network that misbehaves as told, in front of an S3 server."""

from __future__ import annotations

import http.client
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread

BROKEN = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>try again</Message></Error>"
_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "expect"}


class Network(ThreadingHTTPServer):
    """Passes requests on to ``server``, as ``mode`` says: ``good``, ``slow``, ``500``, ``reset``, ``cut``, ``hung``.

    ``500``, ``reset`` and ``cut`` (half of an answer) befall every third request; ``slow`` and ``hung`` each one.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.target, self.mode, self.count, self.failed = server, "good", 0, 0
        self.released, self.lock, self.pause = Event(), Lock(), 0.05

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def set(self, mode: str) -> None:
        self.mode, self.count, self.failed = mode, 0, 0

    def strikes(self) -> bool:
        """Whether the next request is to fail."""
        with self.lock:
            self.count += 1
            strikes = self.mode in ("500", "reset", "cut") and self.count % 3 == 0
            self.failed += strikes
            return strikes

    def handle_error(self, *arguments):
        pass  # clients that give up are what is tested


class _Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def pass_on(self):
        body, network = self._body(), self.server
        mode, strikes = network.mode, network.strikes()
        if mode == "hung":
            network.released.wait(60)
            self.close_connection = True
        elif strikes and mode == "500":
            self._answer(500, {"Content-Type": "application/xml"}, BROKEN)
        elif strikes and mode == "reset":
            self._reset()
        else:
            self._fetch(body, cut=strikes, pause=network.pause if mode == "slow" else 0)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on  # noqa: N815 - the names that http.server looks for

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return found

    def _fetch(self, body: bytes, cut: bool, pause: float) -> None:
        time.sleep(pause)
        connection = http.client.HTTPConnection(self.server.target, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        connection.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
        answer = connection.getresponse()
        found = answer.read()
        length = int(answer.headers.get("Content-Length") or len(found))
        self._answer(answer.status, dict(answer.headers.items()), found, length, cut)
        connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes, length: int | None = None, cut: bool = False):
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self._reset()

    def _reset(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        time.sleep(0.02)  # what was sent before must have arrived: a reset throws away what has not
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RD)
        self.connection.close()

    def log_message(self, *arguments):
        pass


@contextmanager
def network(server: str) -> Iterator[Network]:
    """A network in front of ``server`` (``host:port``)."""
    found = Network(server)
    thread = Thread(target=found.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.released.set()
        found.shutdown()
        found.server_close()
        thread.join(timeout=10)
