"""Tensors as batcher's work: which requests may share a call, how rows are joined, and parted.

Rows are the first dimension of every input and output. A batch of one request is passed through
as it came; of several, each input is joined once and each output is handed out as views.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from headrace.server.batch_work import Shape
from headrace.server.errors import InferenceError
from headrace.server.tensor import Tensor, TensorSpec

Tensors = Sequence[Tensor]


class TensorWork:
    """The `Work` of a `Predictor`."""

    is_async = False
    can_split = True

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name

    def shape_of(self, payload: Tensors) -> Shape:
        return shape_of(payload)

    def join(self, payloads: Sequence[Tensors]) -> Tensors:
        return payloads[0] if len(payloads) == 1 else join(payloads)

    def share(
        self, result: Tensors, payloads: Sequence[Tensors], rows: Sequence[int]
    ) -> Sequence[Tensors]:
        if len(payloads) == 1:
            return [result]
        check_rows(result, sum(rows), self._model_name)
        return list(part(result, rows))

    def part(self, payload: Tensors, rows: Iterable[int]) -> Iterator[Tensors]:
        return part(payload, rows)

    def merge(self, results: Sequence[Tensors], rows: Sequence[int]) -> Tensors:
        for each, count in zip(results, rows, strict=True):
            check_rows(each, count, self._model_name)
        return join(results)

    def describe(self, key: Hashable) -> str:
        return describe(key)


def is_by_rows(specs: Sequence[TensorSpec]) -> bool:
    """Whether all of specs, and there are some, have a free first dimension."""
    return bool(specs) and all(spec.shape[:1] == (-1,) for spec in specs)


def shape_of(inputs: Tensors) -> Shape:
    """Names, dtypes and trailing dimensions make the key; unequal or no rows run alone."""
    if not inputs or not inputs[0].array.ndim:
        return Shape(None, 1)
    rows = inputs[0].array.shape[0]
    if len(inputs) == 1:
        array = inputs[0].array
        key: Hashable = (inputs[0].name, array.dtype, array.shape[1:])
        return Shape(key if rows else None, rows or 1)
    if not rows or any(each.array.shape[:1] != (rows,) for each in inputs):
        return Shape(None, max(1, rows))
    parts = [(each.name, each.array.dtype, each.array.shape[1:]) for each in inputs]
    return Shape(tuple(sorted(parts, key=lambda part: part[0])), rows)


def join(requests: Sequence[Tensors]) -> Tensors:
    """One request of all rows, in order; their keys are equal, their inputs' order may differ."""
    first = requests[0]
    if len(first) == 1:
        arrays = [inputs[0].array for inputs in requests]
        return [Tensor(first[0].name, np.concatenate(arrays), first[0].datatype)]
    named = [{tensor.name: tensor.array for tensor in inputs} for inputs in requests]
    return [
        Tensor(each.name, np.concatenate([arrays[each.name] for arrays in named]), each.datatype)
        for each in first
    ]


def part(tensors: Tensors, rows: Iterable[int]) -> Iterator[Tensors]:
    """tensors as views of so many rows each, one after the other."""
    at = 0
    for count in rows:
        yield [Tensor(each.name, each.array[at : at + count], each.datatype) for each in tensors]
        at += count


def check_rows(outputs: Tensors, rows: int, model_name: str) -> None:
    """Raises InferenceError where a batch came back with another number of rows."""
    for tensor in outputs:
        got = tensor.array.shape[0] if tensor.array.ndim else 0
        if got != rows:
            raise InferenceError(
                f"model '{model_name}' got a batch of {rows} rows but its output "
                f"'{tensor.name}' has {got}; it cannot be batched: set max_batch_size to 0"
            )


def describe(key: Any) -> str:
    """A key for people: name:dtype[dimensions]."""
    if key is None:
        return "alone"
    parts = [key] if isinstance(key[0], str) else key
    return ", ".join(f"{name}:{dtype}{list(dims)}" for name, dtype, dims in parts)
