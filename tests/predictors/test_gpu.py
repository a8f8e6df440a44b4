"""What predictors do with a GPU, told by fakes of torch and onnxruntime where there is none."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from headrace.predictors import onnx, torch_cuda
from headrace.predictors import torch as torch_predictor
from headrace.server import Datatype, LoadOptions, Tensor
from headrace.server.devices import discover

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
CUDA = SimpleNamespace(type="cuda")


@dataclass
class FakeTensor:
    """As much of a torch tensor as a copy to a device and back needs."""

    array: Any
    log: list[str]
    device: Any = field(default_factory=lambda: SimpleNamespace(type="cpu"))

    @property
    def shape(self) -> Any:
        return self.array.shape

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    def detach(self) -> "FakeTensor":
        return self

    def copy_(self, other: "FakeTensor", non_blocking: bool = False) -> "FakeTensor":
        self.log.append("to host" if other.device.type == "cuda" else "pin")
        assert non_blocking == (other.device.type == "cuda")
        self.array[...] = other.array
        return self

    def to(self, device: Any, non_blocking: bool) -> "FakeTensor":
        assert non_blocking
        self.log.append("to device")
        return FakeTensor(self.array.copy(), self.log, device)


class FakeTorch:
    Tensor = FakeTensor

    def __init__(self) -> None:
        self.log: list[str] = []
        self.cuda = SimpleNamespace(
            Stream=lambda device: SimpleNamespace(synchronize=lambda: self.log.append("wait")),
            stream=self._stream,
        )

    @contextmanager
    def _stream(self, stream: Any) -> Iterator[None]:
        self.log.append("enter")
        yield
        self.log.append("leave")

    def empty(self, shape: Any, dtype: Any, pin_memory: bool) -> FakeTensor:
        assert pin_memory
        return FakeTensor(np.empty(shape, dtype), self.log)


def test_a_call_copies_there_and_back_on_its_stream_and_waits_once() -> None:
    fake = FakeTorch()
    stream = torch_cuda.Stream(fake, CUDA)

    def module(x: FakeTensor, y: FakeTensor) -> tuple[FakeTensor, FakeTensor]:
        assert x.device is y.device is CUDA
        fake.log.append("run")
        return FakeTensor(x.array + y.array, fake.log, CUDA), FakeTensor(x.array, fake.log, CUDA)

    ones = FakeTensor(np.ones(3), fake.log)
    total, same = stream.run(module, [ones, ones])
    assert (total.array.tolist(), same.array.tolist()) == ([2, 2, 2], [1, 1, 1])
    assert fake.log == [
        *("enter", "pin", "to device", "pin", "to device", "run"),
        *("to host", "to host", "leave", "wait"),
    ]


def test_outputs_keep_their_form_and_what_is_no_gpu_tensor() -> None:
    fake = FakeTorch()
    on_gpu, on_host = FakeTensor(np.ones(1), fake.log, CUDA), FakeTensor(np.ones(1), fake.log)
    found = torch_cuda.Stream(fake, CUDA).run(lambda: {"a": on_gpu, "b": on_host, "c": 3}, [])
    assert found["b"] is on_host
    assert found["c"] == 3
    assert found["a"].device.type == "cpu"


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("CUDA error: out of memory")


@pytest.mark.parametrize(
    ("fake", "error"),
    [
        pytest.param(
            SimpleNamespace(__version__="2.9", cuda=SimpleNamespace(is_available=lambda: False)),
            "RuntimeError: torch 2.9 finds no usable CUDA here",
            id="a torch without CUDA",
        ),
        pytest.param(
            SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: True), zeros=broken),
            "RuntimeError: CUDA error: out of memory",
            id="a CUDA that does not start",
        ),
    ],
)
def test_cuda_that_does_not_start_is_told_and_the_cpu_serves(
    fake: Any, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert torch_cuda.usable(fake, "cuda:1", "m") == "cpu"
    (record,) = caplog.records
    assert record.message == "CUDA does not start, so the model runs on the CPU"
    assert (record.__dict__["error"], record.__dict__["device"]) == (error, "cuda:1")


@pytest.mark.parametrize("device", ["cpu", ""])
def test_cuda_is_left_alone_where_it_is_not_asked_for(device: str) -> None:
    assert torch_cuda.usable(None, device, "m") == device


class Twice(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.by = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> Any:
        return x * self.by


def script(path: Path) -> Path:
    torch.jit.script(Twice()).save(str(path))
    return path


@pytest.mark.parametrize("device", ["cpu", "cuda:0", ""])
def test_a_model_meant_for_a_gpu_answers_on_a_machine_without(device: str, tmp_path: Path) -> None:
    predictor = torch_predictor.load(script(tmp_path / "m.pt"), LoadOptions(device=device))
    [output] = predictor.predict([Tensor("x", np.array([1, 2], "f4"))])
    assert output.array.tolist() == [2, 4]


def test_each_instance_sets_the_threads_of_its_caller() -> None:
    threads = {count: torch_predictor.TorchPredictor(torch, Twice(), (), count) for count in (1, 2)}
    seen: dict[int, list[int]] = {1: [], 2: []}

    def call(count: int) -> None:
        for _ in range(2):
            threads[count].predict([Tensor("x", np.ones(1, "f4"))])
            seen[count].append(torch.get_num_threads())

    workers = [threading.Thread(target=call, args=(count,)) for count in (1, 2)]
    for each in workers:
        each.start()
        each.join()
    assert seen == {1: [1, 1], 2: [2, 2]}


@dataclass
class FakeBinding:
    calls: list[Any]
    answers: list[Any]

    def bind_cpu_input(self, name: str, array: Any) -> None:
        self.calls.append((name, array.tolist()))

    def bind_output(self, name: str, kind: str, device: int) -> None:
        self.calls.append((name, kind, device))

    def copy_outputs_to_cpu(self) -> list[Any]:
        return self.answers


def node(name: str, kind: str = "tensor(float)") -> Any:
    return SimpleNamespace(name=name, type=kind, shape=["N", 2])


class FakeSession:
    def __init__(self, kind: str = "tensor(float)") -> None:
        self.kind = kind
        self.calls: list[Any] = []

    def get_inputs(self) -> list[Any]:
        return [node("x")]

    def get_overridable_initializers(self) -> list[Any]:
        return []

    def get_outputs(self) -> list[Any]:
        return [node("y", self.kind)]

    def io_binding(self) -> FakeBinding:
        return FakeBinding(self.calls, [np.array([[5, 6]], "f4")])

    def run_with_iobinding(self, binding: FakeBinding) -> None:
        self.calls.append("run bound")

    def run(self, names: list[str], feed: Any) -> list[Any]:
        self.calls.append("run")
        return [np.array([["a", "b"]])]


def test_onnx_on_a_gpu_binds_its_outputs_there() -> None:
    session = FakeSession()
    predictor = onnx.OnnxPredictor(session, "cuda:1")
    [output] = predictor.predict([Tensor("x", np.array([[1, 2]], "f4"))])
    assert output.array.tolist() == [[5, 6]]
    assert session.calls == [("x", [[1, 2]]), ("y", "cuda", 1), "run bound"]


@pytest.mark.parametrize(
    ("kind", "device"), [("tensor(string)", "cuda:0"), ("tensor(float)", "cpu")]
)
def test_onnx_without_a_gpu_or_with_text_is_run_plainly(kind: str, device: str) -> None:
    session = FakeSession(kind)
    onnx.OnnxPredictor(session, device).predict([Tensor("x", np.array([[1, 2]], "f4"))])
    assert session.calls == ["run"]


@dataclass
class FakeRuntime:
    """onnxruntime whose CUDA provider starts, fails, or is not there."""

    available: list[str]
    started: list[str] = field(default_factory=list)
    error: Exception | None = None
    __version__: str = "1.0"
    asked: list[Any] = field(default_factory=list)

    def get_available_providers(self) -> list[str]:
        return self.available

    def InferenceSession(self, path: str, settings: Any, providers: list[Any]) -> Any:
        self.asked.append(providers)
        if self.error is not None:
            raise self.error
        return SimpleNamespace(get_providers=lambda: self.started)


BOTH = [onnx.ON_CUDA, onnx.ON_CPU]


@pytest.mark.parametrize(
    ("runtime", "why"),
    [
        pytest.param(
            FakeRuntime([onnx.ON_CPU]),
            "onnxruntime 1.0 has no CUDAExecutionProvider: pip install onnxruntime-gpu",
            id="an onnxruntime without CUDA",
        ),
        pytest.param(
            FakeRuntime(BOTH, [onnx.ON_CPU]),
            "its CUDA provider did not start; is the CUDA it needs installed?",
            id="a provider that fell back in silence",
        ),
        pytest.param(
            FakeRuntime(BOTH, error=RuntimeError("no kernel")),
            "RuntimeError: no kernel",
            id="a session that cannot be made",
        ),
    ],
)
def test_onnx_says_why_it_does_not_use_the_gpu(
    runtime: FakeRuntime, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert onnx._on_gpu(runtime, Path("m"), None, LoadOptions(device="cuda:0")) is None
    assert [each.__dict__["why"] for each in caplog.records] == [why]


def test_onnx_takes_the_device_it_is_given() -> None:
    runtime = FakeRuntime(BOTH, BOTH)
    assert onnx._on_gpu(runtime, Path("m"), None, LoadOptions(device="cuda:3")) is not None
    assert runtime.asked == [[(onnx.ON_CUDA, {"device_id": "3"}), onnx.ON_CPU]]


@pytest.mark.skipif(not discover(os.environ), reason="needs a GPU")
def test_a_real_gpu(tmp_path: Path) -> None:
    predictor = torch_predictor.load(script(tmp_path / "m.pt"), LoadOptions(device="cuda:0"))
    [output] = predictor.predict([Tensor("x", np.array([1, 2], "f4"), Datatype.FP32)])
    assert output.array.tolist() == [2, 4]
