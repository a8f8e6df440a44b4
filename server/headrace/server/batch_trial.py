"""A model's trial before it is batched: rows together must come out as they do one by one.

Made at the load, after the warm-up. It also tells what batches cost, so that the latency model
knows something before the first request. A model that fails it serves all the same, one by one.
"""

import logging
import time
from dataclasses import dataclass, field

import numpy as np

from headrace.server.batch_rows import Tensors, is_by_rows, join, part, shape_of
from headrace.server.latency_model import LatencyModels
from headrace.server.predictor import Predictor
from headrace.server.tensor import FLOATS, Datatype, Tensor, bytes_array
from headrace.server.warm_up import zeros

log = logging.getLogger(__name__)

SIZES = (1, 2, 4, 8, 16, 32)
BUDGET_S = 0.2  # of measured batches
MAX_BYTES = 64 << 20  # of a trial's inputs
TOLERANCE = 1e-3  # relative: kernels for other sizes round otherwise


@dataclass(frozen=True, slots=True)
class Trial:
    """reason: why it may not be batched, "" if it may."""

    reason: str
    latency: LatencyModels = field(default_factory=LatencyModels)

    @property
    def may_batch(self) -> bool:
        return not self.reason


def try_batches(name: str, predictor: Predictor) -> Trial:
    """Blocks; never raises. Logs why a model is not batched."""
    if not predictor.inputs or not predictor.outputs:
        # TorchScript and the like: what to try it with only real requests will tell
        return _failed(
            name,
            "it declares no inputs or no outputs; --max_batch_size N batches it, by the "
            "shapes of real requests",
        )
    if not is_by_rows(predictor.inputs) or not is_by_rows(predictor.outputs):
        return _failed(name, "not every input and output has a free first dimension")
    latency = LatencyModels()
    try:
        reason = _difference(predictor)
        if not reason:
            _measure(predictor, latency)
    except Exception as err:  # frameworks raise what they like
        reason = f"{type(err).__name__}: {err}"
    return _failed(name, reason) if reason else Trial("", latency)


def _failed(name: str, reason: str) -> Trial:
    log.info("model not batched", extra={"model": name, "reason": reason})
    return Trial(reason)


def _difference(predictor: Predictor) -> str:
    """How rows together differ from rows alone; "" if they do not."""
    nothing = zeros(predictor.inputs)
    rows = [nothing, [_ones(each) for each in nothing], [_mixed(each) for each in nothing]]
    alone = [predictor.predict(row) for row in rows]
    outputs = predictor.predict(join(rows))
    for tensor in outputs:
        got = tensor.array.shape[0] if tensor.array.ndim else 0
        if got != len(rows):
            return f"output {tensor.name!r} has {got} rows for {len(rows)}"
    for number, (own, shared) in enumerate(zip(alone, part(outputs, [1] * len(rows)), strict=True)):
        for one, other in zip(own, shared, strict=True):
            if one.name != other.name or not _agree(one, other):
                return f"output {one.name!r} of row {number} depends on its neighbours"
    return ""


def _ones(tensor: Tensor) -> Tensor:
    if tensor.datatype is Datatype.BYTES:
        ones = bytes_array([b"1"] * tensor.array.size, tensor.array.shape)
        return Tensor(tensor.name, ones, tensor.datatype)
    return Tensor(tensor.name, np.ones_like(tensor.array), tensor.datatype)


def _mixed(tensor: Tensor) -> Tensor:
    """Values that differ within a row: half zeros, half ones, or fractions."""
    if tensor.datatype is Datatype.BYTES:
        return _ones(tensor)
    size = tensor.array.size
    values = np.arange(size) % 7 / 7 if tensor.datatype in FLOATS else np.arange(size) % 2
    array = values.astype(tensor.array.dtype).reshape(tensor.array.shape)
    return Tensor(tensor.name, array, tensor.datatype)


def _agree(one: Tensor, other: Tensor) -> bool:
    if one.array.shape != other.array.shape or one.array.dtype != other.array.dtype:
        return False
    if one.datatype not in FLOATS:
        return bool((one.array == other.array).all())
    mine, its = one.array.astype(np.float64), other.array.astype(np.float64)
    finite = mine[np.isfinite(mine)]
    scale = float(np.abs(finite).max()) if finite.size else 0.0
    return bool(np.allclose(mine, its, TOLERANCE, TOLERANCE * scale + 1e-6, equal_nan=True))


def _measure(predictor: Predictor, latency: LatencyModels) -> None:
    row: Tensors = zeros(predictor.inputs)
    row_bytes = max(1, sum(tensor.array.nbytes for tensor in row))
    end_s = time.perf_counter() + BUDGET_S
    for size in SIZES:
        if size * row_bytes > MAX_BYTES or time.perf_counter() > end_s:
            return
        inputs = join([row] * size)
        model = latency.of(shape_of(inputs).key)
        for again in range(4):
            started_s = time.perf_counter()
            predictor.predict(inputs)
            taken_s = time.perf_counter() - started_s
            if again:  # the first of a size settles lazy work
                model.observe(size, taken_s)
            if started_s + taken_s > end_s:
                break
