"""A model's first calls, made before it serves: they settle lazy work and say where it should run.

Inputs are zeros of the declared shapes, and what Triton's `model_warmup` asks for, which also goes
through the hooks of a user's `Model`; zeros do not, since hooks may do more than compute. A model
whose p95 is below the cost of a thread hop runs inline on the event loop, any other in a thread.
Nothing here is counted in statistics, and no failure here fails a load.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from headrace.server import memory
from headrace.server.errors import ModelLoadError
from headrace.server.execution import InlineLimits, Mode
from headrace.server.predictor import Predictor
from headrace.server.request import Context, Request, Response
from headrace.server.tensor import (
    FLOATS,
    NUMPY,
    Datatype,
    Tensor,
    TensorSpec,
    bytes_array,
    check_shape,
    from_raw,
)

log = logging.getLogger(__name__)

JSON_TIMES = 4  # as many bytes as its numbers in binary: a row in JSON
CALLS = 40  # measured calls of a model, and of the hop it is compared with
BUDGET_NS = 200_000_000  # a slow model is measured no longer than this, but once
MAX_BYTES = 256 << 20  # of zeros, per input
LARGEST_NS = 5_000_000_000  # the largest batch is cut to what takes about so long
FILES = "warmup"  # Triton's folder, beside the versions, for input_data_file


class WarmedUp(Protocol):
    """What `warm_up_hooks` needs of a servable."""

    async def infer(
        self, request: Request, context: Context
    ) -> Response | AsyncIterator[Response]: ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One entry of `model_warmup`: count calls with inputs."""

    name: str
    inputs: tuple[Tensor, ...]
    count: int = 1


def zeros(specs: Sequence[TensorSpec], rows: int = 1) -> tuple[Tensor, ...]:
    """rows of zeros as specs declare, other free dimensions 1; optional inputs are left out.

    Raises ModelLoadError for more than MAX_BYTES.
    """
    return tuple(
        _zeros(spec.name, spec.datatype, _shape(spec, rows))
        for spec in specs
        if not spec.is_optional
    )


def _shape(spec: TensorSpec, rows: int) -> list[int]:
    shape = [1 if dim < 0 else dim for dim in spec.shape]
    return [rows, *shape[1:]] if spec.shape and spec.shape[0] < 0 else shape


def largest_rows(specs: Sequence[TensorSpec], most: int, row_ns: int) -> int:
    """Rows of a warm-up of the largest batch, at most most: what MAX_BYTES of zeros hold and
    LARGEST_NS allow, if each row takes row_ns; 0 where specs have no batch dimension."""
    given = [spec for spec in specs if not spec.is_optional]
    if not given or any(not spec.shape or spec.shape[0] >= 0 for spec in given):
        return 0
    row_bytes = max(math.prod(_shape(spec, 1)) * NUMPY[spec.datatype].itemsize for spec in given)
    return min(most, MAX_BYTES // max(1, row_bytes), max(1, LARGEST_NS // max(1, row_ns)))


def excess_bytes(name: str, predictors: Sequence[Predictor], most: int) -> int:
    """What calls with most rows, one in each instance, hold while they run and give back.

    Blocks. 0 where most is below 2, or the model does not take so many zeros.
    """
    total = 0
    try:
        for predictor in predictors if most > 1 else ():
            started_ns = time.perf_counter_ns()
            predictor.predict(zeros(predictor.inputs))
            row_ns = time.perf_counter_ns() - started_ns
            rows = largest_rows(predictor.inputs, most, row_ns)
            if rows < 2:
                return 0
            inputs = zeros(predictor.inputs, rows)
            with memory.Excess() as excess:
                predictor.predict(inputs)
            total += excess.bytes
    except Exception as err:  # zeros need not be sensible to it
        log.info("largest batch not measured", extra={"model": name, "error": _text(err)})
    return total


def _zeros(name: str, datatype: Datatype, shape: Sequence[int]) -> Tensor:
    count = check_shape(shape, f"warm-up input {name!r}")
    size = count * NUMPY[datatype].itemsize
    if size > MAX_BYTES:
        raise ModelLoadError(
            f"warm-up input {name!r} of shape {list(shape)} has {size} bytes, "
            f"more than the {MAX_BYTES} a warm-up makes"
        )
    if datatype is Datatype.BYTES:
        return Tensor(name, bytes_array([b""] * count, shape), datatype)
    return Tensor(name, np.zeros(shape, NUMPY[datatype]), datatype)


def samples(config: Mapping[str, Any], folder: Path) -> list[Sample]:
    """`model_warmup` of a Triton config, as its JSON keys; folder: where the model lies.

    Raises ModelLoadError, or InvalidInput, naming the input that cannot be made.
    """
    found = []
    for entry in config.get("model_warmup", []):
        batch = int(entry.get("batch_size", 0))
        inputs = [
            _input(name, given, batch, folder) for name, given in entry.get("inputs", {}).items()
        ]
        found.append(Sample(entry.get("name", ""), tuple(inputs), int(entry.get("count", 0)) or 1))
    return found


def _input(name: str, given: Mapping[str, Any], batch: int, folder: Path) -> Tensor:
    word = str(given.get("data_type", "")).removeprefix("TYPE_")
    try:
        datatype = Datatype.BYTES if word == "STRING" else Datatype(word)
    except ValueError as err:
        raise ModelLoadError(
            f"warm-up input {name!r}: data_type {given.get('data_type')} is not served"
        ) from err
    shape = [int(dim) for dim in given.get("dims", [])]
    if batch:  # dims leave the batch dimension out where there is one
        shape = [batch, *shape]
    tensor = _zeros(name, datatype, shape)
    if "input_data_file" in given:
        raw = data_file(folder, given["input_data_file"]).read_bytes()
        return from_raw(name, datatype, shape, raw, f"warm-up input {name!r}")
    if given.get("random_data"):
        return Tensor(name, _random(datatype, tensor.array.shape), datatype)
    return tensor


def _random(datatype: Datatype, shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """Any values will do; a fixed seed makes a failing warm-up fail again."""
    random = np.random.default_rng(0)
    if datatype is Datatype.BYTES:
        count = math.prod(shape)
        return bytes_array([random.bytes(8).hex().encode() for _ in range(count)], shape)
    if datatype in FLOATS:
        return random.random(shape).astype(NUMPY[datatype])
    if datatype is Datatype.BOOL:
        return random.integers(0, 2, shape).astype(NUMPY[datatype])
    bounds = np.iinfo(NUMPY[datatype])
    return random.integers(bounds.min, bounds.max, shape, NUMPY[datatype], endpoint=True)


def data_file(folder: Path, name: str) -> Path:
    """warmup/<name> of the model at folder: its version folder, its file, or its own folder.

    Raises ModelLoadError where there is none, or name leads out of that folder.
    """
    for root in (folder, *list(folder.parents)[:2]):
        files = (root / FILES).resolve()
        path = (files / name).resolve()
        if path.is_file() and path.is_relative_to(files):
            return path
    raise ModelLoadError(f"warm-up file {FILES}/{name} is not in the model's folder")


def measure(predictor: Predictor, inputs: Sequence[Tensor]) -> int:
    """p95 of a call in ns, after one that is not measured; fewer calls of a slow model."""
    end_ns = time.perf_counter_ns() + BUDGET_NS
    predictor.predict(inputs)
    taken: list[int] = []
    while len(taken) < CALLS and (not taken or time.perf_counter_ns() < end_ns):
        started_ns = time.perf_counter_ns()
        predictor.predict(inputs)
        taken.append(time.perf_counter_ns() - started_ns)
    return p95(taken)


def inline_limits(predictor: Predictor) -> InlineLimits:
    """Of a model that was measured inline with one row: bodies of about a row stay inline, however
    large a row is."""
    row_bytes = sum(tensor.array.nbytes for tensor in zeros(predictor.inputs))
    usual = InlineLimits()
    return replace(usual, max_body_bytes=max(usual.max_body_bytes, JSON_TIMES * row_bytes))


def p95(values: Sequence[int]) -> int:
    return sorted(values)[max(0, math.ceil(0.95 * len(values)) - 1)]


_measuring = threading.Lock()


def hop_ns() -> int:
    """p95 of what an empty call costs through a thread pool and back; once per process."""
    with _measuring:
        return _hop_ns()


@cache
def _hop_ns() -> int:
    # on a loop of its own: the server's may be busy, which a hop is not to blame for
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(_measured_hop())))
    thread.start()
    thread.join()
    return found[0]


async def _measured_hop() -> int:
    loop = asyncio.get_running_loop()
    taken: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        await loop.run_in_executor(pool, time.perf_counter_ns)
        for _ in range(CALLS):
            started_ns = time.perf_counter_ns()
            await loop.run_in_executor(pool, time.perf_counter_ns)
            taken.append(time.perf_counter_ns() - started_ns)
    return p95(taken)


def choose_mode(p95_call_ns: int, p95_hop_ns: int) -> Mode:
    """Inline where the loop is held no longer than a hop to a thread would hold the caller."""
    return Mode.INLINE if p95_call_ns < p95_hop_ns else Mode.THREAD


def warm_up(
    name: str, predictors: Sequence[Predictor], config: Mapping[str, Any], folder: Path
) -> Mode:
    """Call every instance; where the model should run, by what the first one took.

    Blocks. Logs what fails; a model that could not be measured runs in a thread.
    """
    try:
        asked = samples(config, folder)
        for sample in asked:
            for predictor in predictors:
                for _ in range(sample.count):
                    predictor.predict(sample.inputs)
    except Exception as err:  # frameworks raise what they like; the model may yet serve
        log.warning("model_warmup failed", extra={"model": name, "error": _text(err)})
    inputs: tuple[Tensor, ...] = ()
    try:
        inputs = zeros(predictors[0].inputs)
        if not inputs:
            return Mode.THREAD
        for predictor in predictors[1:]:
            predictor.predict(inputs)
        return choose_mode(measure(predictors[0], inputs), hop_ns())
    except Exception as err:  # zeros need not be sensible to it
        log.info("model not measured", extra={"model": name, "error": _text(err)})
        return Mode.THREAD


async def warm_up_hooks(
    model: WarmedUp, name: str, config: Mapping[str, Any], folder: Path
) -> None:
    """`model_warmup` of a user's model, through all of its hooks; nothing where it asks for none.

    Logs what fails: it may yet serve.
    """
    if not config.get("model_warmup"):
        return
    try:
        asked = await asyncio.to_thread(samples, config, folder)  # they may lie in files
        for sample in asked:
            for _ in range(sample.count):
                answer = await model.infer(Request(name, list(sample.inputs)), Context())
                if not isinstance(answer, Response):
                    async for _ in answer:
                        pass
    except Exception as err:  # users raise what they like
        log.warning("model_warmup failed", extra={"model": name, "error": _text(err)})


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
