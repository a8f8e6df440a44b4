"""GPUs as the driver tells them, cut down to what CUDA would show; `pynvml` is a fake here."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.server.devices import DRIVER, Found, discover, visible
from headrace.server.placement import Device

GIB = 1 << 30
HERE = ("/",)  # a file that says there is a driver


@dataclass
class Gpu:
    uuid: str
    slices: tuple["Gpu | None", ...] | None = None  # None: not in MIG mode
    name: str = "Test"
    total: int = 80 * GIB
    free: int = 60 * GIB
    knows_mig: bool = True


@dataclass
class Nvml:
    """The functions of `pynvml` that are called, over gpus."""

    gpus: Sequence[Gpu] = ()
    fails: str = ""  # the function that raises
    is_bytes: bool = False
    open: int = 0
    asked: list[str] = field(default_factory=list)

    class NVMLError(Exception):
        pass

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml"):
            object.__getattribute__(self, "asked").append(name)
            if name == object.__getattribute__(self, "fails"):
                raise Nvml.NVMLError(f"{name} failed")
        return object.__getattribute__(self, name)

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        return self.gpus[index]

    def nvmlDeviceGetUUID(self, gpu: Gpu) -> str | bytes:
        return gpu.uuid.encode() if self.is_bytes else gpu.uuid

    def nvmlDeviceGetName(self, gpu: Gpu) -> str | bytes:
        return gpu.name.encode() if self.is_bytes else gpu.name

    def nvmlDeviceGetMemoryInfo(self, gpu: Gpu) -> Any:
        if not gpu.total:
            raise Nvml.NVMLError("Not Supported")
        return SimpleNamespace(total=gpu.total, free=gpu.free)

    def nvmlDeviceGetMigMode(self, gpu: Gpu) -> list[int]:
        if not gpu.knows_mig:
            raise Nvml.NVMLError("Not Supported")
        return [int(gpu.slices is not None), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: Gpu) -> int:
        return len(gpu.slices or ())

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: Gpu, index: int) -> Gpu:
        assert gpu.slices is not None
        part = gpu.slices[index]
        if part is None:
            raise Nvml.NVMLError("Not Found")
        return part


A, B = Gpu("GPU-aa"), Gpu("GPU-bb")
SLICED = Gpu("GPU-cc", (Gpu("MIG-1", total=10 * GIB), None, Gpu("MIG-2", total=20 * GIB)))


def found(nvml: Nvml, **env: str) -> list[tuple[str, int | None]]:
    devices = discover(env, nvml, HERE)
    assert [each.index for each in devices] == list(range(len(devices)))
    return [(each.uuid, each.ordinal) for each in devices]


@pytest.mark.parametrize(
    ("gpus", "env", "seen"),
    [
        pytest.param([], {}, [], id="a driver without GPUs"),
        pytest.param([A, B], {}, [("GPU-aa", 0), ("GPU-bb", 1)], id="every GPU"),
        pytest.param(
            [A, B],
            {"CUDA_VISIBLE_DEVICES": "1,0"},
            [("GPU-bb", 0), ("GPU-aa", 1)],
            id="numbers, in the order given",
        ),
        pytest.param([A, B], {"CUDA_VISIBLE_DEVICES": ""}, [], id="set to nothing: none"),
        pytest.param([A, B], {"CUDA_VISIBLE_DEVICES": "-1"}, [], id="-1: none"),
        pytest.param(
            [A, B], {"CUDA_VISIBLE_DEVICES": "0,-1,1"}, [("GPU-aa", 0)], id="-1 ends the list"
        ),
        pytest.param(
            [A, B], {"CUDA_VISIBLE_DEVICES": "1,7,0"}, [("GPU-bb", 0)], id="so does a wrong number"
        ),
        pytest.param([A], {"CUDA_VISIBLE_DEVICES": "all"}, [], id="and what is no name"),
        pytest.param([A], {"CUDA_VISIBLE_DEVICES": "--1"}, [], id="and what is no number"),
        pytest.param(
            [A, B], {"CUDA_VISIBLE_DEVICES": "GPU-bb"}, [("GPU-bb", 0)], id="a GPU by its UUID"
        ),
        pytest.param(
            [A, B],
            {"CUDA_VISIBLE_DEVICES": " GPU-b , 0"},
            [("GPU-bb", 0), ("GPU-aa", 1)],
            id="the beginning of a UUID, with spaces",
        ),
        pytest.param([A, B], {"CUDA_VISIBLE_DEVICES": "GPU-"}, [], id="a beginning of two"),
        pytest.param([A, A], {"CUDA_VISIBLE_DEVICES": "0,0"}, [("GPU-aa", 0)], id="named twice"),
        pytest.param(
            [SLICED], {}, [("MIG-1", 0), ("MIG-2", None)], id="slices stand for their GPU"
        ),
        pytest.param(
            [A, SLICED],
            {},
            [("GPU-aa", 0), ("MIG-1", None), ("MIG-2", None)],
            id="beside a whole GPU CUDA shows no slice",
        ),
        pytest.param(
            [A, SLICED], {"CUDA_VISIBLE_DEVICES": "MIG-2"}, [("MIG-2", 0)], id="a slice by UUID"
        ),
        pytest.param(
            [SLICED],
            {"CUDA_VISIBLE_DEVICES": "MIG-2,MIG-1"},
            [("MIG-2", 0), ("MIG-1", None)],
            id="of two slices CUDA shows the first",
        ),
        pytest.param(
            [SLICED],
            {"CUDA_VISIBLE_DEVICES": "0"},
            [("MIG-1", 0), ("MIG-2", None)],
            id="the number of a sliced GPU",
        ),
        pytest.param([SLICED], {"CUDA_VISIBLE_DEVICES": "MIG-9"}, [], id="a slice there is not"),
        pytest.param([Gpu("GPU-dd", ())], {}, [], id="MIG mode without slices"),
        pytest.param(
            [Gpu("GPU-ee", knows_mig=False, total=0)], {}, [("GPU-ee", 0)], id="an old, bare driver"
        ),
        pytest.param([A], {"NVIDIA_VISIBLE_DEVICES": "void"}, [], id="the container gets none"),
        pytest.param([A], {"NVIDIA_VISIBLE_DEVICES": ""}, [], id="the container's empty list"),
        pytest.param(
            [A, B], {"NVIDIA_VISIBLE_DEVICES": "GPU-bb"}, [("GPU-bb", 0)], id="container by UUID"
        ),
        pytest.param(
            [SLICED], {"NVIDIA_VISIBLE_DEVICES": "MIG-2"}, [("MIG-2", 0)], id="container by slice"
        ),
        pytest.param(
            [A], {"NVIDIA_VISIBLE_DEVICES": "3"}, [("GPU-aa", 0)], id="the host's number is past"
        ),
        pytest.param(
            [A, B],
            {"NVIDIA_VISIBLE_DEVICES": "GPU-bb", "CUDA_VISIBLE_DEVICES": "0"},
            [("GPU-bb", 0)],
            id="CUDA counts what the container has",
        ),
    ],
)
def test_what_is_seen(
    gpus: list[Gpu], env: dict[str, str], seen: list[tuple[str, int | None]]
) -> None:
    nvml = Nvml(gpus)
    assert found(nvml, **env) == seen
    assert nvml.open == 0


def test_the_older_name_of_a_slice() -> None:
    whole = Device(0, "GPU-aa")
    older = Found(whole, (Device(0, "MIG-GPU-aa/1/0", parent="GPU-aa"),))
    assert [each.uuid for each in visible([older], "MIG-GPU-aa/1/0")] == ["MIG-GPU-aa/1/0"]


@pytest.mark.parametrize("is_bytes", [False, True])
def test_what_a_device_says_of_itself(is_bytes: bool) -> None:
    assert discover({}, Nvml([A], is_bytes=is_bytes), HERE) == [
        Device(0, "GPU-aa", "Test", 80 * GIB, 60 * GIB, 0)
    ]
    one, two = discover({}, Nvml([SLICED]), HERE)
    assert (one.memory_bytes, one.parent) == (10 * GIB, "GPU-cc")
    assert (two.memory_bytes, two.free_bytes) == (20 * GIB, 60 * GIB)


@pytest.mark.parametrize("fails", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetUUID"])
def test_a_driver_that_fails_is_a_warning_and_no_gpu(
    fails: str, caplog: pytest.LogCaptureFixture
) -> None:
    nvml = Nvml([A], fails)
    assert discover({}, nvml, HERE) == []
    assert [each.__dict__["error"] for each in caplog.records] == [f"{fails} failed"]
    assert nvml.open == 0


def test_gpus_that_differ_may_be_counted_otherwise_by_cuda(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mixed = Nvml([A, Gpu("GPU-ff", name="Other")])
    discover({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, mixed, HERE)
    assert not caplog.records
    discover({}, mixed, HERE)
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in caplog.records[0].message


def test_without_a_driver_nothing_is_asked() -> None:
    nvml = Nvml([A])
    assert discover({}, nvml, ["/there/is/no/driver"]) == []
    assert nvml.asked == []


def fake_torch(count: int) -> Any:
    def properties(index: int) -> Any:
        return SimpleNamespace(name="Test", uuid=f"{index}{index}")

    cuda = SimpleNamespace(
        device_count=lambda: count,
        get_device_properties=properties,
        mem_get_info=lambda index: (GIB, 2 * GIB),
    )
    return SimpleNamespace(cuda=cuda)


def test_torch_is_asked_where_the_bindings_are_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "torch", fake_torch(2))
    assert discover({}, driver=HERE) == [
        Device(0, "GPU-00", "Test", 2 * GIB, GIB, 0),
        Device(1, "GPU-11", "Test", 2 * GIB, GIB, 1),
    ]
    assert discover({"CUDA_VISIBLE_DEVICES": ""}, driver=HERE) == []
    assert not caplog.records
    monkeypatch.setitem(sys.modules, "torch", None)
    assert discover({}, driver=HERE) == []
    assert caplog.records[0].message == ("GPUs cannot be asked for: pip install 'headrace[gpu]'")


COSTS = """
import os, sys
from headrace.server import devices
before = set(sys.modules)
found = devices.discover(os.environ, driver=["/there/is/no/driver"])
assert not found and set(sys.modules) == before, set(sys.modules) - before
"""


def test_a_machine_without_a_driver_imports_nothing() -> None:
    subprocess.run([sys.executable, "-c", COSTS], check=True)


@pytest.mark.skipif(
    not any(Path(each).exists() for each in DRIVER), reason="needs an NVIDIA driver"
)
def test_the_real_driver() -> None:
    pytest.importorskip("pynvml")
    devices = discover(os.environ)
    assert all(each.uuid and each.memory_bytes >= each.free_bytes > 0 for each in devices)
