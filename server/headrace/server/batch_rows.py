"""How requests share one call of a predictor: which may, how rows are joined, and parted again.

Rows are the first dimension of every input and output. A batch of one request is passed through
as it came; of several, each input is joined once and each output is handed out as views.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.server.errors import InferenceError
from headrace.server.execution import guarded
from headrace.server.predictor import Predictor
from headrace.server.tensor import Tensor, TensorSpec

Tensors = Sequence[Tensor]
HOPELESS = 3  # requests of a failed batch that fail alone too, until the rest is not tried


class RowErrors(Exception):
    """Raised by a predictor whose batch went well but for some rows.

    errors: by row of the batch it was given. outputs: of all rows, whatever stands in those.
    """

    def __init__(self, errors: Mapping[int, Exception], outputs: Tensors) -> None:
        super().__init__(f"rows {sorted(errors)} failed")
        self.errors = dict(errors)
        self.outputs = outputs


@dataclass(frozen=True, slots=True)
class Shape:
    """key: requests of equal keys may share a batch; None: this one runs alone."""

    key: Hashable
    rows: int


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


def part(tensors: Tensors, rows: Sequence[int]) -> list[Tensors]:
    """tensors as views of so many rows each."""
    parts: list[Tensors] = []
    at = 0
    for count in rows:
        parts.append(
            [Tensor(each.name, each.array[at : at + count], each.datatype) for each in tensors]
        )
        at += count
    return parts


def check_rows(outputs: Tensors, rows: int, model_name: str) -> None:
    """Raises InferenceError where a batch came back with another number of rows."""
    for tensor in outputs:
        got = tensor.array.shape[0] if tensor.array.ndim else 0
        if got != rows:
            raise InferenceError(
                f"model '{model_name}' got a batch of {rows} rows but its output "
                f"'{tensor.name}' has {got}; it cannot be batched: set max_batch_size to 0"
            )


def run(
    predictor: Predictor,
    requests: Sequence[Tensors],
    rows: Sequence[int],
    model_name: str,
    isolates: bool = True,
) -> list[Tensors | BaseException]:
    """The outputs, or the error, of each request, in one call if it goes well; never raises.

    isolates: after a failure each request runs alone, so that only the culprit fails.
    """
    total = sum(rows)
    try:
        if len(requests) == 1:
            return [_predict(predictor, requests[0])]
        outputs = _predict(predictor, join(requests))
    except RowErrors as err:
        return _with_row_errors(err, rows, total, model_name)
    except BaseException as err:
        if len(requests) == 1 or not isolates or not isinstance(err, Exception):
            return [err] * len(requests)
        return _one_by_one(predictor, requests, rows, model_name, err)
    try:
        check_rows(outputs, total, model_name)
    except InferenceError as err:
        return [err] * len(requests)
    return list(part(outputs, rows))


def _predict(predictor: Predictor, inputs: Tensors) -> Tensors:
    return guarded(lambda instance: instance.predict(inputs), predictor)


def _one_by_one(
    predictor: Predictor,
    requests: Sequence[Tensors],
    rows: Sequence[int],
    model_name: str,
    error: Exception,
) -> list[Tensors | BaseException]:
    found: list[Tensors | BaseException] = []
    for inputs, count in zip(requests, rows, strict=True):
        if len(found) == HOPELESS and all(isinstance(each, Exception) for each in found):
            return [*found, *[error] * (len(requests) - len(found))]  # the model, not a row
        found += run(predictor, [inputs], [count], model_name)
    return found


def _with_row_errors(
    error: RowErrors, rows: Sequence[int], total: int, model_name: str
) -> list[Tensors | BaseException]:
    try:
        check_rows(error.outputs, total, model_name)
    except InferenceError as err:
        return [err] * len(rows)
    found: list[Tensors | BaseException] = list(part(error.outputs, rows))
    at = 0
    for number, count in enumerate(rows):
        failed = [row for row in range(at, at + count) if row in error.errors]
        if failed:
            found[number] = error.errors[failed[0]]
        at += count
    return found


def describe(key: Any) -> str:
    """A key for people: name:dtype[dimensions]."""
    if key is None:
        return "alone"
    parts = [key] if isinstance(key[0], str) else key
    return ", ".join(f"{name}:{dtype}{list(dims)}" for name, dtype, dims in parts)
