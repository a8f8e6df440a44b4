"""A file somewhere else: where it goes, how big it is, how to know it arrived whole."""

import base64
import fnmatch
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from headrace.server.errors import ModelLoadError

Advance = Callable[[int], None]  # told the bytes that just arrived
CHUNK_BYTES = 1 << 20


class StorageError(ModelLoadError):
    """A download that did not work; the text names the URI, what happened, and what to do."""


@dataclass(frozen=True, slots=True)
class Digest:
    """algorithm: md5, sha256, or git-blob (sha1 over git's header and the content)."""

    algorithm: str
    hex: str

    @classmethod
    def from_base64(cls, algorithm: str, text: str) -> "Digest":
        return cls(algorithm, base64.b64decode(text).hex())

    def matches(self, path: Path) -> bool:
        if self.algorithm == "git-blob":
            hasher = hashlib.sha1(usedforsecurity=False)
            hasher.update(b"blob %d\0" % path.stat().st_size)
        else:
            hasher = hashlib.new(self.algorithm, usedforsecurity=False)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                hasher.update(chunk)
        return hasher.hexdigest() == self.hex


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """fetch(path, advance) writes the content to path; where path exists it may go on from there.

    path: relative to the target folder, with `/`. tag: what changes when the content does (an
    ETag, a generation), used where the source gives no digest; "" where it gives neither.
    is_digest_void: asked when the digest does not match; True where it is not the content's (S3
    with a KMS key: a listing does not say so).
    """

    path: str
    fetch: Callable[[Path, Advance], None]
    size_bytes: int | None = None
    digest: Digest | None = None
    tag: str = ""
    is_digest_void: Callable[[], bool] = lambda: False

    @property
    def cache_key(self) -> str:
        """Names the content in the cache; "" where nothing identifies it."""
        if self.digest is not None:
            return f"{self.digest.algorithm}-{self.digest.hex}"
        if self.tag:
            return f"tag-{hashlib.sha256(self.tag.encode()).hexdigest()}"
        return ""

    def is_whole(self, path: Path) -> bool:
        """True if path holds this content, as far as the source lets us know."""
        return self.has_size(path) and (self.digest is None or self.digest.matches(path))

    def has_size(self, path: Path) -> bool:
        return path.is_file() and self.size_bytes in (None, path.stat().st_size)


@dataclass(frozen=True, slots=True)
class Patterns:
    """KServe's filters: shell patterns on the relative path; ignore wins over allow."""

    allow: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Patterns":
        """STORAGE_ALLOW_PATTERNS, STORAGE_IGNORE_PATTERNS: JSON lists, or comma-separated."""
        return cls(
            _patterns(env.get("STORAGE_ALLOW_PATTERNS", "")),
            _patterns(env.get("STORAGE_IGNORE_PATTERNS", "")),
        )

    def admit(self, path: str) -> bool:
        def hit(patterns: Sequence[str]) -> bool:
            name = PurePosixPath(path).name
            return any(fnmatch.fnmatch(path, p) or fnmatch.fnmatch(name, p) for p in patterns)

        return (not self.allow or hit(self.allow)) and not hit(self.ignore)

    def select(self, files: Iterable[RemoteFile]) -> list[RemoteFile]:
        return [file for file in files if self.admit(file.path)]


def check_path(path: str, uri: str) -> str:
    """path, if it stays inside the target. Raises StorageError for `..`, absolute or odd names."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in path or not pure.parts:
        raise StorageError(f"{uri}: the object name {path!r} would leave the target folder")
    return str(pure)


def _patterns(text: str) -> tuple[str, ...]:
    text = text.strip()
    if text.startswith("["):
        found = json.loads(text)
        return tuple(str(each) for each in found)
    return tuple(part.strip() for part in text.split(",") if part.strip())
