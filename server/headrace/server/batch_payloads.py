"""What hooks of users exchange, by rows: which payloads may be joined, joined, and parted again.

    V1 body          {"instances": […]}, or a list under "inputs"; its other keys must be equal
    InferRequest     the first dimension of its inputs; parameters and outputs must be equal
    array, list      the first dimension (numpy, torch); rows of another shape or kind do not join
    dict of arrays   one column each

Results are parted alike: InferResponse, {"predictions": […]}, arrays, lists, dicts of arrays.
Anything else runs alone.
"""

import sys
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from headrace.server import batch_rows
from headrace.server.batch_work import Shape
from headrace.server.errors import InferenceError
from headrace.server.infer_tensors import InferInput, InferOutput
from headrace.server.infer_types import InferRequest, InferResponse
from headrace.server.predict_io import generate_uuid
from headrace.server.tensor import Datatype, Tensor

ROW_KEYS = ("inputs", "instances", "predictions")  # of bodies; the first that is there counts
SCHEDULING = ("priority", "timeout", "binary_data_output")  # parameters that no hook computes with
ALONE = Shape(None, 1)


def shape_of(payload: Any) -> Shape:
    """What has no rows, or unequal ones, runs alone. Raises InvalidInput for data of no shape."""
    if isinstance(payload, InferRequest):
        return _shape_of_request(payload)
    if _is_array(payload):
        return Shape(_array_key(payload), len(payload)) if len(payload) else ALONE
    if isinstance(payload, list):
        return Shape(("list", _kind(payload)), len(payload)) if payload else ALONE
    if not isinstance(payload, Mapping) or not payload:
        return ALONE
    key = _row_key(payload)
    if key is not None:
        rows = payload[key]
        if not len(rows):  # which may be an array
            return ALONE
        others = sorted((name, repr(value)) for name, value in payload.items() if name != key)
        return Shape((key, _kind(rows), *others), len(rows))
    if not _is_columns(payload):
        return ALONE
    lengths = {len(column) for column in payload.values()}
    if len(lengths) > 1 or 0 in lengths:
        return ALONE
    columns = sorted((str(name), _array_key(column)) for name, column in payload.items())
    return Shape(("columns", *columns), lengths.pop())


def join(payloads: Sequence[Any]) -> Any:
    """One payload of all rows, in order; their keys are equal. One alone stays as it is."""
    first = payloads[0]
    if len(payloads) == 1:
        return first
    if isinstance(first, InferRequest):
        return _joined_request(payloads)
    if isinstance(first, Mapping):
        key = _row_key(first)
        if key is not None:
            return {**first, key: [row for each in payloads for row in each[key]]}
        return {name: _concatenated([each[name] for each in payloads]) for name in first}
    if isinstance(first, list):
        return [row for each in payloads for row in each]
    return _concatenated(payloads)


def part(value: Any, rows: Sequence[int], model_name: str) -> list[Any]:
    """value, a payload or a result, as several of so many rows.

    Raises InferenceError where it has another number of rows, or none that we know of.
    """
    return list(cut(value, rows, sum(rows), model_name))


def cut(value: Any, rows: Iterable[int], total: int, model_name: str) -> Iterator[Any]:
    """What `part` gives, made one by one; total: of rows."""
    key = _row_key(value) if isinstance(value, Mapping) else None
    if isinstance(value, InferRequest | InferResponse):
        yield from _cut_message(value, rows, total, model_name)
    elif key is not None:
        for each in cut(value[key], rows, total, model_name):
            yield {**value, key: each}
    elif _is_columns(value):
        for column in value.values():
            _check_length(column, total, model_name)
        for start, end in _spans(rows):
            yield {name: column[start:end] for name, column in value.items()}
    elif _is_array(value) or isinstance(value, list | tuple):
        _check_length(value, total, model_name)
        for start, end in _spans(rows):
            yield value[start:end]
    else:
        raise InferenceError(
            f"model '{model_name}' answered a batch of {total} rows with {_described(value)}, "
            "which has no rows; return an InferResponse, a dict with 'predictions', a list or an "
            "array with one row for each, or switch its batching off (max_batch_size 0)"
        )


def merge(results: Sequence[Any], model_name: str) -> Any:
    """The results of what `part` made of one payload, as one."""
    first = results[0]
    if isinstance(first, InferResponse):
        tensors = [[output.to_tensor() for output in each.outputs] for each in results]
        outputs = [InferOutput.from_tensor(each) for each in batch_rows.join(tensors)]
        return _response(first, outputs)
    if shape_of(first).key is None:
        raise InferenceError(
            f"model '{model_name}' answered a part of a request with {_described(first)}, which "
            "cannot be put together again; raise its max_batch_size above the request's rows"
        )
    return join(results)


def wrong_rows(model_name: str, expected: int, got: int, what: str) -> InferenceError:
    """The model did not answer a batch row by row."""
    return InferenceError(
        f"model '{model_name}' got a batch of {expected} rows but {what} {got}; return one for "
        "each, in order, or switch its batching off (max_batch_size 0)"
    )


def describe(key: Hashable) -> str:
    """A `Shape.key` for people."""
    if key is None:
        return "alone"
    text = " ".join(map(str, key)) if isinstance(key, tuple) else str(key)
    return text if len(text) <= 200 else f"{text[:199]}…"


def _shape_of_request(request: InferRequest) -> Shape:
    tensors = [each.to_tensor() for each in request.inputs]
    shape = batch_rows.shape_of(tensors)
    if shape.key is None:
        return shape
    # what a hook shows of BYTES, str or bytes, must not depend on the company
    is_text = any(each.datatype is Datatype.BYTES for each in tensors) and not request.from_grpc
    parameters = [
        (name, repr(value))
        for name, value in sorted((request.parameters or {}).items())
        if name not in SCHEDULING
    ]
    inputs = [
        (each.name, repr(each.parameters))
        for each in request.inputs
        if set(each.parameters or {}) - {"binary_data_size"}
    ]
    outputs = sorted(each.name for each in request.request_outputs or ())
    return Shape(
        ("v2", shape.key, is_text, tuple(parameters), tuple(sorted(inputs)), tuple(outputs)),
        shape.rows,
    )


def _joined_request(requests: Sequence[InferRequest]) -> InferRequest:
    first = requests[0]
    tensors = batch_rows.join([[each.to_tensor() for each in one.inputs] for one in requests])
    shared = {
        name: value
        for name, value in (first.parameters or {}).items()
        if all((each.parameters or {}).get(name) == value for each in requests)
    }
    # a batch is none of its requests, so it has an id of its own
    return _request(first, tensors, shared or None, generate_uuid())


def _cut_message(
    message: InferRequest | InferResponse, rows: Iterable[int], total: int, model_name: str
) -> Iterator[Any]:
    given = message.inputs if isinstance(message, InferRequest) else message.outputs
    tensors = [each.to_tensor() for each in given]
    for tensor in tensors:
        got = tensor.shape[0] if tensor.shape else 0
        if got != total:
            raise wrong_rows(model_name, total, got, f"its output '{tensor.name}' has")
    for each in batch_rows.part(tensors, rows):
        if isinstance(message, InferRequest):
            yield _request(message, each, message.parameters, message.id)
            continue
        outputs = [
            InferOutput.from_tensor(tensor, own.parameters)
            for tensor, own in zip(each, given, strict=True)
        ]
        yield _response(message, outputs)


def _check_length(rows: Any, total: int, model_name: str) -> None:
    if len(rows) != total:
        raise wrong_rows(model_name, total, len(rows), "its predict returned")


def _spans(rows: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Where each of so many rows starts and ends."""
    at = 0
    for count in rows:
        yield at, at + count
        at += count


def _request(
    like: InferRequest, tensors: Sequence[Tensor], parameters: Any, request_id: str | None
) -> InferRequest:
    inputs = [
        InferInput.from_tensor(tensor, own.parameters, is_text=not like.from_grpc)
        for tensor, own in zip(tensors, like.inputs, strict=True)
    ]
    return InferRequest(
        like.model_name,
        inputs,
        request_id=request_id,
        from_grpc=like.from_grpc,
        parameters=parameters,
        request_outputs=like.request_outputs,
        model_version=like.model_version,
    )


def _response(like: InferResponse, outputs: list[InferOutput]) -> InferResponse:
    return InferResponse(
        None,  # each caller's own is filled in later
        like.model_name,
        outputs,
        model_version=like.model_version,
        parameters=like.parameters,
        use_binary_outputs=like.use_binary_outputs,
        requested_outputs=like.requested_outputs,
    )


def _row_key(payload: Mapping[Any, Any]) -> str | None:
    """Which key of a V1 body holds its rows."""
    for key in ROW_KEYS:
        if key in payload:
            rows = payload[key]
            return key if isinstance(rows, list) or _is_array(rows) else None
    return None


def _is_array(value: Any) -> bool:
    """Of numpy, torch or what is like them, with a first dimension."""
    return bool(getattr(value, "shape", ())) and hasattr(value, "dtype")


def _is_columns(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(map(_is_array, value.values()))


def _array_key(array: Any) -> tuple[str, ...]:
    trailing = tuple(int(dim) for dim in array.shape[1:])
    kind = type(array)
    return (
        f"{kind.__module__}.{kind.__qualname__}",
        str(array.dtype),
        str(getattr(array, "device", "")),
        str(trailing),
    )


def _concatenated(arrays: Sequence[Any]) -> Any:
    first = arrays[0]
    if isinstance(first, list):
        return [row for each in arrays for row in each]
    if type(first).__module__.partition(".")[0] == "torch":
        return sys.modules["torch"].cat(list(arrays))
    return np.concatenate(arrays)


def _kind(rows: Sequence[Any]) -> Hashable:
    """What rows must have in common so that an array of them stays what each alone would be.

    The first of each list stands for all: a body whose own rows differ fails by itself. But one
    fraction makes an array of whole numbers one of floats, so all numbers are looked at.
    """
    first, leaves, lengths = rows[0], iter(rows), []
    while isinstance(first, list | tuple):
        lengths.append(len(first))
        if not first:
            return tuple(lengths)
        first, leaves = first[0], chain.from_iterable(leaves)
    return (*lengths, _kind_of_leaves(first, leaves)) if lengths else _kind_of_leaves(first, leaves)


def _kind_of_leaves(first: Any, leaves: Iterable[Any]) -> Hashable:
    if isinstance(first, bool):
        return "boolean"
    if isinstance(first, float):
        return "number"
    if isinstance(first, int):
        return "number" if _has_fraction(leaves) else "whole number"
    if isinstance(first, str | bytes):
        return "text"
    if isinstance(first, Mapping):
        found = [each for each in leaves if isinstance(each, Mapping)]
        columns = {name: [each[name] for each in found if name in each] for name in first}
        return tuple(sorted((str(name), _kind(column)) for name, column in columns.items()))
    if _is_array(first):
        return _array_key(first)
    return type(first).__qualname__


def _has_fraction(numbers: Iterable[Any]) -> bool:
    try:
        kinds = set(map(type, numbers))
    except TypeError:  # a number where others have lists
        return False
    return any(issubclass(kind, float) for kind in kinds)


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict with the keys {sorted(map(str, value))}"
    return f"a {type(value).__name__}"
