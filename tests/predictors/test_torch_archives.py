"""PyTorch archives that could do more than compute are refused before torch opens them."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headrace.predictors.torch import load
from headrace.server import LoadOptions, Tensor, UntrustedModel


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).relu().reshape(-1) + (x.shape[0] * 2)


class Saves(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "canary")
        return x


class Maps(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_file("/etc/hostname", False, 4, dtype=torch.uint8)


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def exported(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.pt2"
    free = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(net, (torch.zeros(2, 4),), dynamic_shapes=(free,))
    torch.export.save(program, path)
    return path


def changed(source: Path, path: Path, entry: str, change: Callable[[bytes], bytes]) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith(entry) else content)
    return path


def in_json(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    def changed_json(raw: bytes) -> bytes:
        content = json.loads(raw)
        change(content)
        return json.dumps(content).encode()

    return changed_json


def first_target(content: Any, target: str) -> None:
    content["graph_module"]["graph"]["nodes"][0]["target"] = target


class Evil:
    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> Any:
        return open, (str(self._canary), "w")


def test_exported_program_answers_as_torch(net: Net, exported: Path) -> None:
    rows = np.random.default_rng(0).random((3, 4), dtype=np.float32)
    predictor = load(exported, LoadOptions())
    [output] = predictor.predict([Tensor("x", rows)])
    with torch.inference_mode():
        want = net(torch.tensor(rows)).numpy()
    np.testing.assert_array_equal(output.array, want)


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('touch canary')",
        "Symbol.__class__",
        "open('canary', 'w')",
        "(1).real",
        "lambda: 1",
        "eval('1')",
    ],
)
def test_shape_expression_is_only_arithmetic(
    expression: str, exported: Path, tmp_path: Path
) -> None:
    honest = b"Symbol('s77', positive=True, integer=True)"
    path = changed(
        exported,
        tmp_path / "model.pt2",
        "models/model.json",
        lambda raw: raw.replace(honest, expression.encode()),
    )
    with pytest.raises(UntrustedModel):
        load(path, LoadOptions())


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.load",
        "torch.hub.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.add.Tensor.__globals__",
        "_operator.attrgetter",
        "_operator.call",
        "math.__loader__.load_module",
        "#anything",
    ],
)
def test_operator_is_one_that_computes(target: str, exported: Path, tmp_path: Path) -> None:
    change = in_json(lambda content: first_target(content, target))
    path = changed(exported, tmp_path / "model.pt2", "models/model.json", change)
    with pytest.raises(UntrustedModel) as refused:
        load(path, LoadOptions())
    assert str(refused.value) == (
        f"{path}: model/models/model.json names the operator {target!r}, which a plain model does "
        "not need and which could run code. If you trust where it comes from, start the server "
        "with --trust-code (in a manifest: args: [--trust-code])"
    )


def test_sample_inputs_are_not_unpickled(exported: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    file = io.BytesIO()
    torch.save({"evil": Evil(canary)}, file)
    path = changed(
        exported, tmp_path / "model.pt2", "sample_inputs/model.pt", lambda _: file.getvalue()
    )
    canary.unlink(missing_ok=True)
    with pytest.raises(UntrustedModel):
        load(path, LoadOptions())
    assert not canary.exists()


def test_weights_are_not_unpickled(exported: Path, tmp_path: Path) -> None:
    def pickle_all(content: Any) -> None:
        for meta in content["config"].values():
            meta["use_pickle"] = True

    path = changed(
        exported, tmp_path / "model.pt2", "model_weights_config.json", in_json(pickle_all)
    )
    with pytest.raises(UntrustedModel):
        load(path, LoadOptions())


@pytest.mark.parametrize(
    "name",
    [
        "model/data/aotinductor/model/evil.so",
        "model/data/constants/custom_obj_0",
        "model/data/constants/opaque_obj_0",
        "model/data/weights/model.pt",
        "../../evil",
        "/etc/evil",
        "serialized_exported_program.json",
    ],
)
def test_archive_holds_only_what_torch_writes(name: str, exported: Path, tmp_path: Path) -> None:
    path = changed(exported, tmp_path / "model.pt2", "", lambda raw: raw)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"evil")
    with pytest.raises(UntrustedModel):
        load(path, LoadOptions())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_entry_may_not_stand_twice(exported: Path, tmp_path: Path) -> None:
    path = changed(exported, tmp_path / "model.pt2", "", lambda raw: raw)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/models/model.json", b"{}")
    with pytest.raises(UntrustedModel):
        load(path, LoadOptions())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("module", [Saves, Maps])
def test_script_may_not_touch_files(module: type, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(module()), str(path))
    with pytest.raises(UntrustedModel):
        load(path, LoadOptions())
    load(path, LoadOptions(trust_code=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_script_answers_as_torch(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(net), str(path))
    rows = np.random.default_rng(0).random((3, 4), dtype=np.float32)
    [output] = load(path, LoadOptions()).predict([Tensor("x", rows)])
    with torch.inference_mode():
        np.testing.assert_array_equal(output.array, net(torch.tensor(rows)).numpy())


def zip_of_pickle(canary: Path) -> bytes:
    file = io.BytesIO()
    torch.save(Evil(canary), file)
    return file.getvalue()


def legacy(canary: Path) -> bytes:
    file = io.BytesIO()
    torch.save(Evil(canary), file, _use_new_zipfile_serialization=False)
    return file.getvalue()


@pytest.mark.parametrize(
    "make",
    [zip_of_pickle, legacy, lambda canary: pickle.dumps(Evil(canary))],
    ids=["a zip with a hostile data.pkl", "the legacy format", "a bare pickle"],
)
def test_saved_objects_are_not_unpickled(make: Callable[[Path], bytes], tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "model.pt"
    path.write_bytes(make(canary))
    canary.unlink(missing_ok=True)
    with pytest.raises(UntrustedModel):
        load(path, LoadOptions())
    assert not canary.exists()
