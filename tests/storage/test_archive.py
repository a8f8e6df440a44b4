"""Archives that would leave their folder, link out of it, or fill the disk are refused."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from headrace.server.storage.archive import ArchiveLimits, unpack
from headrace.server.storage.remote import StorageError

LIMITS = ArchiveLimits(max_bytes=10_000, max_entries=10)


def make_tar(path: Path, *members: tarfile.TarInfo, content: bytes = b"") -> Path:
    with tarfile.open(path, "w:gz") as file:
        for member in members:
            member.size = len(content) if member.isreg() else 0
            file.addfile(member, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type = kind
    found.linkname = link
    return found


def make_zip(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            file.writestr(name, content)
    return path


def link_entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize("name", ["model.zip", "model.tar.gz"])
def test_an_honest_archive_keeps_its_tree(name: str, tmp_path: Path) -> None:
    if name.endswith(".zip"):
        archive = make_zip(tmp_path / name, ("a/model.onnx", b"m"), ("labels.txt", b"l"))
    else:
        archive = make_tar(tmp_path / name, member("a/model.onnx"), content=b"m")
    folder = tmp_path / "out"
    folder.mkdir()
    unpack(archive, folder, LIMITS, "u")
    assert (folder / "a/model.onnx").read_bytes() == b"m"


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        pytest.param("../evil", tarfile.REGTYPE, "", id="a name that climbs out"),
        pytest.param("/etc/evil", tarfile.REGTYPE, "", id="an absolute name"),
        pytest.param("a/../../evil", tarfile.REGTYPE, "", id="a name that climbs in the middle"),
        pytest.param("link", tarfile.SYMTYPE, "/etc/passwd", id="a link to an absolute path"),
        pytest.param("link", tarfile.SYMTYPE, "../../x", id="a link that climbs out"),
        pytest.param("hard", tarfile.LNKTYPE, "../x", id="a hard link that climbs out"),
        pytest.param("pipe", tarfile.FIFOTYPE, "", id="a pipe"),
        pytest.param("device", tarfile.CHRTYPE, "", id="a device"),
    ],
)
def test_a_tar_that_leaves_its_folder(name: str, kind: bytes, link: str, tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", member(name, kind, link), content=b"x")
    folder = tmp_path / "in" / "out"
    folder.mkdir(parents=True)
    with pytest.raises(StorageError):
        unpack(archive, folder, LIMITS, "u")
    assert list(folder.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "in"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("../evil", "u: the archive entry '../evil' would leave the target folder"),
        ("/evil", "u: the archive entry '/evil' would leave the target folder"),
        ("..\\evil", "u: the archive entry '..\\\\evil' would leave the target folder"),
        (link_entry("link"), "u: the archive entry 'link' is a link"),
    ],
)
def test_a_zip_that_leaves_its_folder(
    entry: str | zipfile.ZipInfo, message: str, tmp_path: Path
) -> None:
    archive = make_zip(tmp_path / "a.zip", (entry, b"/etc/passwd"))
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(StorageError) as caught:
        unpack(archive, folder, LIMITS, "u")
    assert str(caught.value) == message


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_a_bomb_stops_at_the_bound(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    zeros = b"\0" * 1_000_000
    if suffix == "zip":
        make_zip(path, ("zeros", zeros))
    else:
        make_tar(path, member("zeros"), content=zeros)
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(StorageError) as caught:
        unpack(path, folder, LIMITS, "u")
    assert str(caught.value) == (
        "u: the archive unpacks to more than 10000 bytes (HEADRACE_STORAGE_MAX_BYTES)"
    )


def test_too_many_entries(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", *((str(i), b"") for i in range(11)))
    with pytest.raises(StorageError) as caught:
        unpack(archive, tmp_path, LIMITS, "u")
    assert str(caught.value) == "u: the archive has more than 10 entries"


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
def test_a_file_that_is_no_archive(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"not an archive")
    with pytest.raises(StorageError) as caught:
        unpack(path, tmp_path, LIMITS, "u")
    assert str(caught.value).startswith(f"u: {name} is not a readable archive: ")
