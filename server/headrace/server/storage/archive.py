"""Unpacking a model archive without letting it leave its folder (contract §7.1).

Refused: names that leave the folder, links out of it, devices, more bytes or entries than the
bound. The archive is unpacked beside itself and then removed.
"""

import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from headrace.server.storage.remote import CHUNK_BYTES, StorageError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
SUFFIXES = (".zip", *TAR_SUFFIXES)


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    max_bytes: int = 100 << 30  # all entries together, unpacked
    max_entries: int = 100_000


def is_archive(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path, limits: ArchiveLimits, uri: str) -> None:
    """Unpack archive into folder, which exists. Raises StorageError naming the entry."""
    try:
        if archive.name.lower().endswith(".zip"):
            _unzip(archive, folder, limits, uri)
        else:
            _untar(archive, folder, limits, uri)
    except (zipfile.BadZipFile, tarfile.ReadError, EOFError, OSError, RuntimeError) as err:
        raise StorageError(f"{uri}: {archive.name} is not a readable archive: {err}") from err
    except tarfile.FilterError as err:
        raise StorageError(f"{uri}: {archive.name} is refused: {err}") from err


def _unzip(archive: Path, folder: Path, limits: ArchiveLimits, uri: str) -> None:
    left = limits.max_bytes
    with zipfile.ZipFile(archive) as file:
        entries = file.infolist()
        _check_count(len(entries), limits, uri)
        for entry in entries:
            path = _inside(folder, entry.filename, uri)
            if (entry.external_attr >> 28) == 0xA:  # the Unix mode says: symbolic link
                raise StorageError(f"{uri}: the archive entry {entry.filename!r} is a link")
            if entry.is_dir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with file.open(entry) as source, path.open("wb") as target:
                # what comes out is counted: the directory's sizes are the sender's claim
                while chunk := source.read(CHUNK_BYTES):
                    left -= len(chunk)
                    if left < 0:
                        raise _too_big(limits, uri)
                    target.write(chunk)


def _untar(archive: Path, folder: Path, limits: ArchiveLimits, uri: str) -> None:
    left = limits.max_bytes
    count = 0
    with tarfile.open(archive) as file:
        for member in file:
            count += 1
            _check_count(count, limits, uri)
            _inside(folder, member.name, uri)
            left -= member.size
            if left < 0:
                raise _too_big(limits, uri)
            file.extract(member, folder, filter="data")


def _inside(folder: Path, name: str, uri: str) -> Path:
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts:
        raise StorageError(f"{uri}: the archive entry {name!r} would leave the target folder")
    return folder / pure


def _check_count(count: int, limits: ArchiveLimits, uri: str) -> None:
    if count > limits.max_entries:
        raise StorageError(f"{uri}: the archive has more than {limits.max_entries} entries")


def _too_big(limits: ArchiveLimits, uri: str) -> StorageError:
    return StorageError(
        f"{uri}: the archive unpacks to more than {limits.max_bytes} bytes "
        "(HEADRACE_STORAGE_MAX_BYTES)"
    )
