"""A model's first calls: with what, on whom, and what they decide."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from headrace.server import model_config
from headrace.server.errors import InvalidInput, ModelLoadError, ServingError
from headrace.server.execution import Executor, Mode
from headrace.server.folders import FolderLoader
from headrace.server.loading import ModelSource, load_servable
from headrace.server.model_servable import ModelServable
from headrace.server.predictor import Predictor
from headrace.server.servable import TensorServable
from headrace.server.settings import Isolation
from headrace.server.tensor import Datatype, Tensor, TensorSpec
from headrace.server.warm_up import (
    choose_mode,
    excess_bytes,
    hop_ns,
    inline_limits,
    largest_rows,
    p95,
    samples,
    warm_up,
    zeros,
)

X = TensorSpec("x", Datatype.FP32, (-1, 4))


@dataclass
class Recording:
    """Remembers the shapes it was called with. error: what it raises instead of answering."""

    inputs: Sequence[TensorSpec] = (X,)
    outputs: Sequence[TensorSpec] = ()
    error: Exception | None = None
    calls: list[list[tuple[int, ...]]] = field(default_factory=list)

    def predict(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        self.calls.append([tensor.shape for tensor in inputs])
        if self.error is not None:
            raise self.error
        return list(inputs)


@pytest.mark.parametrize(
    ("specs", "shapes"),
    [
        pytest.param([X], [(1, 4)], id="a free dimension is 1"),
        pytest.param([TensorSpec("s", Datatype.INT64, ())], [()], id="a scalar is a scalar"),
        pytest.param(
            [X, TensorSpec("o", Datatype.FP32, (1,), is_optional=True)],
            [(1, 4)],
            id="an optional input is left out",
        ),
        pytest.param([], [], id="a model that declares nothing gets nothing"),
    ],
)
def test_zeros_have_the_declared_shape(
    specs: list[TensorSpec], shapes: list[tuple[int, ...]]
) -> None:
    assert [tensor.shape for tensor in zeros(specs)] == shapes


@pytest.mark.parametrize("datatype", list(Datatype))
def test_zeros_of_every_datatype(datatype: Datatype) -> None:
    (tensor,) = zeros([TensorSpec("x", datatype, (2, -1))])
    assert (tensor.datatype, tensor.shape) == (datatype, (2, 1))
    empty: Any = b"" if datatype is Datatype.BYTES else 0
    assert (tensor.array == empty).all()


def test_no_zeros_are_made_that_fill_the_memory() -> None:
    with pytest.raises(ModelLoadError) as caught:
        zeros([TensorSpec("x", Datatype.FP64, (1 << 20, 1 << 10))])
    assert str(caught.value) == (
        "warm-up input 'x' of shape [1048576, 1024] has 8589934592 bytes, "
        "more than the 268435456 a warm-up makes"
    )


@pytest.mark.parametrize(
    ("p95_call_ns", "p95_hop_ns", "mode"),
    [
        pytest.param(10_000, 60_000, Mode.INLINE, id="shorter than a hop: on the loop"),
        pytest.param(60_000, 60_000, Mode.THREAD, id="as long as a hop: in a thread"),
        pytest.param(5_000_000, 60_000, Mode.THREAD, id="longer: in a thread"),
    ],
)
def test_choose_mode(p95_call_ns: int, p95_hop_ns: int, mode: Mode) -> None:
    assert choose_mode(p95_call_ns, p95_hop_ns) is mode


def test_p95_is_the_slowest_of_few_and_leaves_out_two_of_forty() -> None:
    assert p95([3, 1, 2]) == 3
    assert p95(range(1, 41)) == 38


def test_a_hop_is_measured_once_per_process() -> None:
    assert hop_ns() > 0
    assert hop_ns() == hop_ns()


def test_every_instance_is_called_and_the_first_is_measured(tmp_path: Path) -> None:
    one, two = Recording(), Recording()
    warm_up("m", [one, two], {}, tmp_path)
    assert len(one.calls) > 1
    assert two.calls == [[(1, 4)]]


@pytest.mark.parametrize(
    "predictor",
    [
        pytest.param(Recording(inputs=()), id="one that declares nothing"),
        pytest.param(Recording(error=ValueError("no zeros")), id="one that cannot take zeros"),
    ],
)
def test_what_cannot_be_measured_runs_in_a_thread(predictor: Recording, tmp_path: Path) -> None:
    assert warm_up("m", [predictor], {}, tmp_path) is Mode.THREAD


CONFIG = """
model_warmup [{
  name: "two rows"  batch_size: 2  count: 3
  inputs { key: "x" value: { data_type: TYPE_FP32 dims: [4] zero_data: true } }
}, {
  name: "any"
  inputs { key: "x" value: { data_type: TYPE_FP32 dims: [1, 4] random_data: true } }
}]
"""


def test_model_warmup_of_a_config_runs_on_every_instance(tmp_path: Path) -> None:
    config = model_config.from_text(CONFIG, "config.pbtxt")
    one, two = Recording(inputs=()), Recording(inputs=())
    warm_up("m", [one, two], config.keys, tmp_path)
    assert one.calls == two.calls == [[(2, 4)], [(2, 4)], [(2, 4)], [(1, 4)]]


HOOKED = """
from headrace.server import Batching, InferOutput, InferResponse, Model
class Hooked(Model):
    batching = Batching(max_batch_size=8)
    seen = []
    def preprocess(self, payload, headers=None):
        self.seen.append(payload.inputs[0].shape)
        if payload.inputs[0].shape[0] > 2:
            raise ValueError("too many rows")
        return payload
    def predict(self, payload, headers=None):
        return InferResponse(None, self.name, [InferOutput("y", payload.inputs[0].shape, "FP32",
                                                           payload.inputs[0].as_numpy())])
"""


def test_model_warmup_of_a_config_runs_through_a_users_hooks(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(HOOKED)
    config = model_config.from_text(CONFIG, "config.pbtxt").keys
    servable = asyncio.run(load_servable("m", ModelSource(tmp_path, config=config)))
    assert isinstance(servable, ModelServable)
    assert vars(type(servable.model))["seen"] == [[2, 4]] * 3 + [[1, 4]]
    assert servable.batcher is not None
    assert servable.batcher.record.rows == 0  # they are in no statistics
    assert servable.batcher.models.items()  # … but what they took is known


def test_hooks_that_fail_their_warm_up_serve_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "model.py").write_text(HOOKED)
    config = model_config.from_text(CONFIG.replace("batch_size: 2", "batch_size: 3"), "at").keys
    with caplog.at_level(logging.WARNING, logger="headrace.server.warm_up"):
        servable = asyncio.run(load_servable("m", ModelSource(tmp_path, config=config)))
    (record,) = caplog.records
    assert record.message == "model_warmup failed"
    assert vars(record)["error"] == "ValueError: too many rows"
    assert isinstance(servable, ModelServable)


def test_random_data_is_the_same_every_time_and_file_data_is_the_file(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "row").write_bytes(np.arange(4, dtype="<f4").tobytes())
    version = tmp_path / "1"
    version.mkdir()
    text = (
        CONFIG
        + """
    model_warmup { inputs { key: "x" value: {
      data_type: TYPE_FP32 dims: [4] input_data_file: "row" } } }
    model_warmup { inputs { key: "s" value: {
      data_type: TYPE_STRING dims: [2] random_data: true } } }
    """
    )
    config = model_config.from_text(text, "config.pbtxt").keys
    once, again = samples(config, version), samples(config, version)
    for one, other in zip(once, again, strict=True):
        assert (one.inputs[0].array == other.inputs[0].array).all()
    assert once[1].inputs[0].array.any()
    assert once[2].inputs[0].array.tolist() == [0, 1, 2, 3]
    assert all(isinstance(each, bytes) and each for each in once[3].inputs[0].array)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        pytest.param(
            {"data_type": "TYPE_FP32", "dims": ["4"], "input_data_file": "../secret"},
            ModelLoadError,
            "warm-up file warmup/../secret is not in the model's folder",
            id="a file outside warmup/",
        ),
        pytest.param(
            {"data_type": "TYPE_FP32", "dims": ["4"], "input_data_file": "short"},
            InvalidInput,
            "warm-up input 'x': FP32 of shape [4] needs 16 bytes, got 3",
            id="a file of another size",
        ),
        pytest.param(
            {"data_type": "TYPE_INVALID", "dims": ["4"]},
            ModelLoadError,
            "warm-up input 'x': data_type TYPE_INVALID is not served",
            id="a datatype there is not",
        ),
    ],
)
def test_samples_that_cannot_be_made(
    given: dict[str, Any], kind: type[ServingError], message: str, tmp_path: Path
) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "short").write_bytes(b"abc")
    (tmp_path / "secret").write_bytes(b"0123456789abcdef")
    with pytest.raises(kind) as caught:
        samples({"model_warmup": [{"inputs": {"x": given}}]}, tmp_path)
    assert str(caught.value) == message


def a_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    model = LinearRegression().fit(np.eye(4), np.arange(4))
    joblib.dump(model, folder / "model.joblib")
    return folder


def executor_of(servable: object) -> Executor[Predictor]:
    assert isinstance(servable, TensorServable)
    return servable.executor


@pytest.mark.parametrize(
    ("isolation", "mode"), [(Isolation.INLINE, Mode.INLINE), (Isolation.THREAD, Mode.THREAD)]
)
def test_isolation_overrides_what_was_measured(
    isolation: Isolation, mode: Mode, tmp_path: Path
) -> None:
    source = ModelSource(a_model(tmp_path), "sklearn", isolation=isolation)
    servable = asyncio.run(load_servable("m", source))
    assert executor_of(servable).mode is mode
    assert executor_of(servable).inline.max_body_bytes == 0


def test_only_a_measured_inline_has_limits(tmp_path: Path) -> None:
    servable = asyncio.run(load_servable("m", ModelSource(a_model(tmp_path), "sklearn")))
    assert executor_of(servable).inline.max_body_bytes == 16384


@pytest.mark.parametrize(
    ("inputs", "most"),
    [
        pytest.param([], 16384, id="nothing declared"),
        pytest.param([X], 16384, id="a small row"),
        pytest.param(
            [TensorSpec("x", Datatype.FP32, (-1, 3, 224, 224))],
            4 * 602_112,
            id="an image: what was measured is as large",
        ),
    ],
)
def test_bodies_of_about_a_row_stay_inline(inputs: list[TensorSpec], most: int) -> None:
    assert inline_limits(Recording(inputs)).max_body_bytes == most


def test_a_warm_up_that_fails_is_logged_and_the_model_serves_uncounted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a_model(tmp_path / "m" / "1")
    (tmp_path / "m" / "config.pbtxt").write_text("""
    model_warmup { name: "bad" inputs { key: "input-0" value: {
      data_type: TYPE_FP32 dims: [1, 9] zero_data: true } } }
    """)
    loader = FolderLoader(tmp_path, ModelSource(Path(), "sklearn"))
    with caplog.at_level(logging.WARNING, logger="headrace.server.warm_up"):
        (model,) = asyncio.run(loader.load("m", {}))
    (record,) = caplog.records
    assert record.message == "model_warmup failed"
    assert "9 features" in record.__dict__["error"]
    assert model.statistics.success.count == model.statistics.fail.count == 0
    row = Tensor("input-0", np.array([[0, 0, 0, 1]], np.float32))
    (output,) = executor_of(model.servable).instances[0].predict([row])
    assert output.array == pytest.approx([3])


def test_memory_is_what_the_load_added(tmp_path: Path) -> None:
    folder = tmp_path / "big"
    folder.mkdir()
    model = LinearRegression().fit(np.eye(4), np.arange(4))
    model.ballast = np.ones(6 << 20)  # 48 MiB
    joblib.dump(model, folder / "model.joblib")
    source = ModelSource(folder, "sklearn")
    small = asyncio.run(load_servable("small", ModelSource(a_model(tmp_path / "small"), "sklearn")))
    big = asyncio.run(load_servable("big", source))
    assert 40 << 20 < big.memory.cpu_bytes < 80 << 20
    assert small.memory.cpu_bytes < 40 << 20


@pytest.mark.parametrize(
    ("specs", "most", "row_ns", "rows"),
    [
        pytest.param([X], 64, 1000, 64, id="as many as the model takes"),
        pytest.param(
            [TensorSpec("x", Datatype.FP32, (-1, 1 << 20))], 256, 1000, 64, id="256 MiB of zeros"
        ),
        pytest.param([X], 64, 1_000_000_000, 5, id="a slow model: about five seconds"),
        pytest.param([X], 64, 60_000_000_000, 1, id="a very slow one: one row"),
        pytest.param([TensorSpec("x", Datatype.FP32, (4,))], 64, 1000, 0, id="no batch dimension"),
        pytest.param([TensorSpec("x", Datatype.FP32, ())], 64, 1000, 0, id="a scalar"),
        pytest.param([], 64, 1000, 0, id="nothing declared"),
    ],
)
def test_the_largest_batch(specs: list[TensorSpec], most: int, row_ns: int, rows: int) -> None:
    assert largest_rows(specs, most, row_ns) == rows


@dataclass
class Greedy:
    """Holds row_bytes per row while it runs."""

    row_bytes: int = 4 << 20
    inputs: Sequence[TensorSpec] = (X,)
    outputs: Sequence[TensorSpec] = ()

    def predict(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        held = np.ones(self.row_bytes * inputs[0].shape[0], np.uint8)
        return [Tensor("y", held[:1].copy())]


def test_what_the_largest_batch_holds_is_measured_on_each_instance() -> None:
    assert 120 << 20 < excess_bytes("m", [Greedy(), Greedy()], 16) < 160 << 20


@pytest.mark.parametrize(
    ("predictor", "most"),
    [
        pytest.param(Greedy(), 0, id="no batches"),
        pytest.param(Recording(error=ValueError("no zeros")), 8, id="it cannot take zeros"),
        pytest.param(Recording(inputs=()), 8, id="nothing declared"),
    ],
)
def test_what_has_no_largest_batch_has_no_excess(predictor: Predictor, most: int) -> None:
    assert excess_bytes("m", [predictor], most) == 0
