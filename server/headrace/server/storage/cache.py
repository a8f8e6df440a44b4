"""Downloaded content by digest, shared by every process of a machine, bounded in bytes.

    <folder>/blobs/<key>     the content, read-only; hard-linked into targets where that works
    <folder>/locks/<n>       held while one process fetches, so others wait for the same content

Least recently used blobs go first. A blob that a target links to stays on disk until the target
goes; only the cache forgets it.
"""

import fcntl
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEFAULT_MAX_BYTES = 20 << 30
LOCKS = 256  # fixed: a lock file per key could never be removed safely


class Cache:
    def __init__(self, folder: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._blobs = folder / "blobs"
        self._locks = folder / "locks"
        self._max_bytes = max_bytes

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Only one process (and thread) at a time fetches key."""
        with self._lock_file(str(zlib.crc32(key.encode()) % LOCKS)):
            yield

    def take(self, key: str, target: Path) -> bool:
        """Put the content of key at target; False if it is not here."""
        blob = self._blobs / key
        try:
            os.utime(blob)
            place(blob, target)
        except FileNotFoundError:
            return False
        return True

    def add(self, key: str, path: Path) -> None:
        """Remember path's content as key, and make room for it."""
        size = path.stat().st_size
        if size > self._max_bytes:
            return
        self._blobs.mkdir(parents=True, exist_ok=True)
        with self._lock_file("room"):
            self._make_room(size)
            place(path, self._blobs / key)
            (self._blobs / key).chmod(0o444)

    @contextmanager
    def _lock_file(self, name: str) -> Iterator[None]:
        self._locks.mkdir(parents=True, exist_ok=True)
        with (self._locks / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _make_room(self, size: int) -> None:
        blobs = [(blob.stat().st_mtime_ns, blob.stat().st_size, blob) for blob in self._listed()]
        total = size + sum(each for _, each, _ in blobs)
        for _, each, blob in sorted(blobs):
            if total <= self._max_bytes:
                break
            blob.unlink(missing_ok=True)
            total -= each

    def _listed(self) -> list[Path]:
        return [blob for blob in self._blobs.iterdir() if not blob.name.startswith(".")]


def place(source: Path, target: Path) -> None:
    """target becomes source's content at once: a hard link, or a copy across file systems."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as folder:
        fresh = Path(folder, "content")
        try:
            fresh.hardlink_to(source)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(source, fresh)
        fresh.replace(target)
