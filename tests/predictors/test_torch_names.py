"""PyTorch's zip archives whose entries are named after places outside are not unpacked there."""

import zipfile
from pathlib import Path

import pytest

from headrace.predictors.torch import load
from headrace.server import LoadOptions, ModelLoadError


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pt2"])
@pytest.mark.parametrize(
    "also", [(), ("model/constants.pkl",), ("model/data.pkl", "model/version")], ids=str
)
@pytest.mark.parametrize("name", ["../outside", "model/../../outside", "model\\..\\outside"])
def test_refuses_names_that_leave_the_archive(
    name: str, also: tuple[str, ...], suffix: str, tmp_path: Path
) -> None:
    folder = tmp_path / "in" / "model"
    folder.mkdir(parents=True)
    path = folder / f"model{suffix}"
    with zipfile.ZipFile(path, "w") as archive:
        for entry in (*also, name):
            archive.writestr(entry, b"content")
    with pytest.raises(ModelLoadError):
        load(path, LoadOptions())
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == [path.name]
