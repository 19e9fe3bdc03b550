"""Unpack gzip and zip within a budget: counted while it is unpacked, never after."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable
from typing import Protocol

from forecasting.data.sources.limits import CHUNK, Limits
from forecasting.errors import SourceError
from forecasting.feed import FileSource

__all__ = ["packed_as", "unpack"]

_ENDINGS = {".gz": "gzip", ".gzip": "gzip", ".zip": "zip"}
_CUT = "the transfer was cut, or the file is damaged; ask for it to be delivered again"


def packed_as(name: str, source: FileSource) -> str:
    """``none``, ``gzip`` or ``zip``: as declared, or by the name's ending.

    >>> from forecasting.feed import CsvSource
    >>> packed_as("sales.CSV.GZ", CsvSource(uri="x")), packed_as("sales.gz", CsvSource(uri="x", compression="none"))
    ('gzip', 'none')
    """
    if source.compression != "infer":
        return source.compression
    return next((kind for ending, kind in _ENDINGS.items() if name.lower().endswith(ending)), "none")


def unpack(name: str, data: bytes, limits: Limits) -> bytes:
    """The content of a file that was fetched as ``data``.

    Raises:
        SourceError: It goes beyond the budget, is cut or damaged, or holds something else than one file.
    """
    form = packed_as(name.partition("?")[0], limits.source)
    if form == "gzip":
        return _gunzip(name, data, limits)
    if form == "zip":
        return _unzip(name, data, limits)
    limits.take(name, len(data))
    return data


def _gunzip(name: str, data: bytes, limits: Limits) -> bytes:
    if not data.startswith(b"\x1f\x8b"):
        raise SourceError(
            f"{name}: is no gzip file: it begins with {data[:4]!r}; declare source.compression: none, or ask for it "
            "to be delivered again"
        )
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            return _drain(name, file, limits)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(f"{name}: the gzip stream is not whole ({error}): {_CUT}") from None


def _unzip(name: str, data: bytes, limits: Limits) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            member = _only_member(name, archive)
            with archive.open(member) as file:
                found = _drain(f"{name}, {member.filename}", file, limits)
    except (zipfile.BadZipFile, EOFError, zlib.error, OSError, ValueError, NotImplementedError) as error:
        raise SourceError(f"{name}: the zip archive is not whole ({error}): {_CUT}") from None
    if found.startswith((b"\x1f\x8b", b"PK\x03\x04")) and limits.source.kind != "xlsx":  # type: ignore[attr-defined]
        raise SourceError(f"{name}: holds {member.filename!r}, which is packed itself; expected it packed once")
    return found


def _only_member(name: str, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    files = [member for member in archive.infolist() if not member.is_dir()]
    if len(files) != 1:
        shown = ", ".join(repr(member.filename) for member in files[:5])
        raise SourceError(
            f"{name}: the zip archive holds {len(files)} files{shown and f': {shown}'}{' …' * (len(files) > 5)}; "
            "expected exactly one. Ask for one file an archive"
        )
    (member,) = files
    parts = member.filename.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or ":" in parts[0]:
        raise SourceError(f"{name}: its member {member.filename!r} leads out of the archive; ask the data owner why")
    if member.flag_bits & 0x1:
        raise SourceError(f"{name}: its member {member.filename!r} is encrypted; expected it without a password")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise SourceError(
            f"{name}: its member {member.filename!r} is packed by method {member.compress_type}; expected deflate (8)"
        )
    return member


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _drain(name: str, file: _Readable, limits: Limits) -> bytes:
    """Everything ``file`` holds, counted by the chunk."""
    found = io.BytesIO()
    read: Callable[[], bytes] = lambda: file.read(CHUNK)  # noqa: E731 - iter wants a callable
    for chunk in iter(read, b""):
        limits.take(name, len(chunk))
        found.write(chunk)
    return found.getvalue()
