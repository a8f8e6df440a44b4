"""From a storage URI to a folder that holds all of the model, or nothing that loads.

    parse ─▶ list ─▶ filter ─▶ fetch in parallel (cache, verify) ─▶ unpack ─▶ move into place

Everything lands in `<target>/.headrace-partial-<id>` first. A crash leaves that folder, which
loading refuses to look past and the next run of the same URI goes on from.
"""

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from headrace.server.storage import hub, object_stores, snapshots, web
from headrace.server.storage.archive import ArchiveLimits, is_archive, unpack
from headrace.server.storage.cache import DEFAULT_MAX_BYTES, Cache
from headrace.server.storage.progress import Progress, shown
from headrace.server.storage.remote import Advance, Patterns, RemoteFile, StorageError
from headrace.server.storage.uri import Kind, Location, parse

log = logging.getLogger(__name__)
PARTIAL = ".headrace-partial-"
SOURCE_MARK = ".headrace-source"  # holds the URI a folder was downloaded from
MODEL_MOUNT = Path("/mnt/models")  # where a storage initializer downloads to, KServe's too
ATTEMPTS = 2  # a file that came wrong is fetched once more


@dataclass(frozen=True, slots=True)
class Options:
    """env: the process environment, where the stores' credentials are."""

    env: Mapping[str, str] = field(default_factory=dict)
    patterns: Patterns = field(default_factory=Patterns)
    limits: ArchiveLimits = field(default_factory=ArchiveLimits)
    cache: Cache | None = None
    concurrency: int = 4  # files at a time

    @classmethod
    def from_env(cls, env: Mapping[str, str], *, cache_folder: Path | None = None) -> "Options":
        """KServe's variables, and HEADRACE_STORAGE_MAX_BYTES, HEADRACE_CACHE_DIR, …_MAX_BYTES.

        cache_folder: used where HEADRACE_CACHE_DIR is not set; None: no cache then.
        """
        folder = Path(env["HEADRACE_CACHE_DIR"]) if env.get("HEADRACE_CACHE_DIR") else cache_folder
        room = _whole(env, "HEADRACE_CACHE_MAX_BYTES", DEFAULT_MAX_BYTES)
        return cls(
            env,
            Patterns.from_env(env),
            ArchiveLimits(_whole(env, "HEADRACE_STORAGE_MAX_BYTES", ArchiveLimits().max_bytes)),
            Cache(folder, room) if folder and room else None,
            _whole(env, "S3_MAX_FILE_CONCURRENCY", 4),
        )


ShowProgress = Callable[[str, int | None], Progress]


def download(uri: str, target: Path, options: Options, show: ShowProgress = shown) -> Path:
    """Put the model at uri into the folder target, which is made; returns target.

    A local path is linked, not copied. Raises UnsupportedUri for a URI we cannot read, and
    StorageError for everything that went wrong on the way.
    """
    location = parse(uri)
    target.mkdir(parents=True, exist_ok=True)
    if location.kind is Kind.LOCAL:
        _link(location, target)
        return target
    with _partial(target, uri) as partial:
        match location.kind:
            case Kind.MLFLOW:
                snapshots.fetch_mlflow(location, _emptied(partial))
            case Kind.GIT:
                shutil.rmtree(partial)
                snapshots.fetch_git(location, partial, options.env)
            case _:
                _fetch_files(location, partial, options, show)
        _unpack_lone_archive(partial, options.limits, location.shown)
        (partial / SOURCE_MARK).write_text(f"{location.shown}\n")
        _move(partial, target)
    return target


def _listed(location: Location, options: Options) -> list[RemoteFile]:
    match location.kind:
        case Kind.WEB:
            return web.listed(location, options.env)
        case Kind.HUB:
            return hub.listed(location, options.env)
        case _:
            return object_stores.listed(location, options.env)


def _fetch_files(location: Location, partial: Path, options: Options, show: ShowProgress) -> None:
    listed = _listed(location, options)
    files = options.patterns.select(listed)
    if not files:
        raise StorageError(
            f"{location.shown}: none of {len(listed)} files is left by STORAGE_ALLOW_PATTERNS "
            f"{list(options.patterns.allow)} and STORAGE_IGNORE_PATTERNS "
            f"{list(options.patterns.ignore)}"
        )
    _check_distinct(files, location)
    sizes = [file.size_bytes for file in files]
    total = sum(size for size in sizes if size is not None) if None not in sizes else None
    with show(location.shown, total) as progress:

        def fetch(file: RemoteFile) -> None:
            _fetch_file(file, partial / file.path, options.cache, progress.advance, location.shown)

        with ThreadPoolExecutor(max(1, options.concurrency), "download") as threads:
            running = [threads.submit(fetch, file) for file in files]
            try:
                for future in running:
                    future.result()
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise


def _fetch_file(
    file: RemoteFile, path: Path, cache: Cache | None, advance: Advance, uri: str
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if file.is_whole(path) and (file.digest or file.size_bytes):
        advance(file.size_bytes or 0)  # an earlier run had got this far
        return
    if cache is None or not file.cache_key:
        _fetch_verified(file, path, advance, uri)
        return
    with cache.locked(file.cache_key):
        if cache.take(file.cache_key, path) and file.is_whole(path):
            advance(path.stat().st_size)
            return
        path.unlink(missing_ok=True)
        _fetch_verified(file, path, advance, uri)
        cache.add(file.cache_key, path)


def _fetch_verified(file: RemoteFile, path: Path, advance: Advance, uri: str) -> None:
    unfinished = path.with_name(f"{path.name}.part")
    for _ in range(ATTEMPTS):
        file.fetch(unfinished, advance)
        if file.is_whole(unfinished) or (file.has_size(unfinished) and file.is_digest_void()):
            unfinished.replace(path)
            return
        got = unfinished.stat().st_size
        unfinished.unlink()
    said = f"{file.digest.algorithm} {file.digest.hex}" if file.digest else "no digest"
    raise StorageError(
        f"{uri}: {file.path} came wrong {ATTEMPTS} times: expected {file.size_bytes} bytes, "
        f"{said}; got {got} bytes of other content"
    )


def _check_distinct(files: Sequence[RemoteFile], location: Location) -> None:
    """An object store may hold both `a` and `a/b`; a folder cannot."""
    names = {file.path for file in files}
    for file in files:
        for parent in Path(file.path).parents:
            if str(parent) in names:
                raise StorageError(
                    f"{location.shown}: {parent} is an object and, for {file.path}, a folder too"
                )


def _link(location: Location, target: Path) -> None:
    source = Path(location.path).absolute()
    if not source.exists():
        raise StorageError(f"{location.uri}: there is no such file or folder ({source})")
    for entry in sorted(source.iterdir()) if source.is_dir() else [source]:
        link = target / entry.name
        if link.is_symlink():
            link.unlink()
        elif link.exists():
            raise StorageError(f"{location.uri}: {link} is already there and is no link")
        link.symlink_to(entry)


@contextmanager
def _partial(target: Path, uri: str) -> Iterator[Path]:
    """This URI's unfinished folder in target, held by one process at a time."""
    identity = hashlib.sha256(uri.encode()).hexdigest()[:12]
    partial = target / f"{PARTIAL}{identity}"
    handle = os.open(target, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        partial.mkdir(exist_ok=True)
        yield partial
        for each in target.glob(f"{PARTIAL}*"):  # ours, and what broken runs of other URIs left
            shutil.rmtree(each)
    finally:
        os.close(handle)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


def _unpack_lone_archive(folder: Path, limits: ArchiveLimits, uri: str) -> None:
    """A download of exactly one archive is unpacked in place, and the archive removed."""
    entries = list(folder.iterdir())
    if len(entries) != 1 or not entries[0].is_file() or not is_archive(entries[0].name):
        return
    unpacked = folder / ".unpacked"
    unpacked.mkdir()
    try:
        unpack(entries[0], unpacked, limits, uri)
    except StorageError:
        shutil.rmtree(unpacked)
        entries[0].unlink()  # resuming from a bad archive would only fail again
        raise
    entries[0].unlink()
    for entry in list(unpacked.iterdir()):
        entry.rename(folder / entry.name)
    unpacked.rmdir()


def _move(partial: Path, target: Path) -> None:
    """Move all of partial into target, replacing what has the same name."""
    for entry in list(partial.iterdir()):
        place = target / entry.name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        entry.replace(place)


def is_downloaded(path: Path) -> bool:
    """True if path came from elsewhere: code in it runs only with --trust-code."""
    absolute = path.absolute()
    folders = [absolute, *absolute.parents]
    return MODEL_MOUNT in folders or any((each / SOURCE_MARK).exists() for each in folders)


def unfinished(folder: Path) -> bool:
    """True if a download into folder was broken off, so what is there is not a whole model."""
    return any(folder.glob(f"{PARTIAL}*"))


def _whole(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "")
    if not text:
        return default
    if not text.isdigit():
        raise StorageError(f"environment {name}={text!r}: expected a whole number")
    return int(text)
