"""S3 on loopback, as moto serves it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

__all__ = ["buckets"]


@contextmanager
def buckets(secret: str, *names: str) -> Iterator[tuple[str, Any]]:
    """A server with these buckets, until the block ends: its ``host:port``, and a client with key ``key``."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        address = "{}:{}".format(*server.get_host_and_port())
        made = boto3.client(
            "s3", endpoint_url=f"http://{address}", region_name="us-east-1",
            aws_access_key_id="key", aws_secret_access_key=secret,
        )  # fmt: skip
        with closing(made) as client:
            for name in names:
                client.create_bucket(Bucket=name)
            yield address, client
    finally:
        server.stop()
