"""A file read through whatever compression its first bytes show, bounded by what it unpacks to."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from headrace.server.errors import ModelLoadError

CHUNK_BYTES = 64 << 10


@contextmanager
def open_bounded(path: Path, limit: int) -> Iterator[io.BufferedReader]:
    """path's content, unpacked from zlib, gzip, bz2, xz or lzma.

    limit: bytes after which reading on raises ModelLoadError.
    """
    with path.open("rb") as file:
        head = file.read(6)
        file.seek(0)
        yield io.BufferedReader(_Bounded(_unpacked(file, head), path, limit), CHUNK_BYTES)


def _unpacked(file: IO[bytes], head: bytes) -> Any:
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if head.startswith((b"\xfd7zXZ", b"\x5d\x00")):
        return lzma.LZMAFile(file)
    if head[:1] == b"\x78" and len(head) > 1 and int.from_bytes(head[:2]) % 31 == 0:
        return _Zlib(file)
    if head.startswith(b"\x04\x22\x4d\x18"):
        raise ModelLoadError(f"{file.name}: lz4 compression is not read; save it with zlib or gzip")
    return file


class _Zlib:
    """A zlib stream as a file; the standard library has one for every format but this."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._unpacker = zlib.decompressobj()

    def read(self, size: int) -> bytes:
        while not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail or self._file.read(CHUNK_BYTES)
            unpacked = self._unpacker.decompress(packed, size)
            if unpacked:
                return unpacked
            if not packed:
                break
        return b""


class _Bounded(io.RawIOBase):
    def __init__(self, source: Any, path: Path, limit: int) -> None:
        self._source = source
        self._path = path
        self._limit = limit
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._source.read(len(buffer))
        self._count += len(chunk)
        if self._count > self._limit:
            raise ModelLoadError(
                f"{self._path}: unpacks to more than {self._limit} bytes, which is out of "
                f"proportion to its size or does not fit memory"
            )
        buffer[: len(chunk)] = chunk
        return len(chunk)
