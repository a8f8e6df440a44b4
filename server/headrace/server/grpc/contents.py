"""Typed tensor contents: which field of InferTensorContents carries which datatype, both ways.

Table and rules: data-plane contract §3.3. FP16 and BF16 have no field, they travel raw.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.server.errors import InvalidInput
from headrace.server.tensor import (
    NOT_IN_JSON,
    NUMPY,
    Datatype,
    Tensor,
    bytes_array,
    check_shape,
    iter_bytes,
)

FIELDS: dict[Datatype, str] = {
    Datatype.BOOL: "bool_contents",
    Datatype.INT8: "int_contents",
    Datatype.INT16: "int_contents",
    Datatype.INT32: "int_contents",
    Datatype.INT64: "int64_contents",
    Datatype.UINT8: "uint_contents",
    Datatype.UINT16: "uint_contents",
    Datatype.UINT32: "uint_contents",
    Datatype.UINT64: "uint64_contents",
    Datatype.FP32: "fp32_contents",
    Datatype.FP64: "fp64_contents",
    Datatype.BYTES: "bytes_contents",
}
RAW_ONLY = NOT_IN_JSON
_WIDER = {  # the field's element type, where it can hold what the datatype cannot
    Datatype.INT8: np.dtype("<i4"),
    Datatype.INT16: np.dtype("<i4"),
    Datatype.UINT8: np.dtype("<u4"),
    Datatype.UINT16: np.dtype("<u4"),
}


def from_contents(
    name: str, datatype: Datatype, shape: Sequence[int], contents: Any, at: str
) -> Tensor:
    """The tensor that contents, an InferTensorContents, holds.

    at: where it stood, e.g. "inputs[0].contents". Raises InvalidInput for a datatype without a
    field, the wrong field, another number of elements than shape needs, or a value out of range.
    """
    field = FIELDS.get(datatype)
    if field is None:
        raise InvalidInput(f"{at}: {datatype} has no typed contents; send it as raw contents")
    wrong = [found.name for found, _ in contents.ListFields() if found.name != field]
    if wrong:
        raise InvalidInput(f"{at}: {datatype} belongs in {field}, got {', '.join(wrong)}")
    values = getattr(contents, field)
    count = check_shape(shape, at)
    if len(values) != count:
        raise InvalidInput(
            f"{at}: shape {list(shape)} needs {count} elements, {field} has {len(values)}"
        )
    if datatype is Datatype.BYTES:
        return Tensor(name, bytes_array(list(values), shape), datatype)
    array = np.array(values, _WIDER.get(datatype, NUMPY[datatype]))
    if datatype in _WIDER:
        _check_range(array, datatype, at)
        array = array.astype(NUMPY[datatype])
    return Tensor(name, array.reshape(shape), datatype)


def to_contents(tensor: Tensor, contents: Any) -> None:
    """Fill contents, an empty InferTensorContents, from a tensor whose datatype has a field."""
    field = getattr(contents, FIELDS[tensor.datatype])
    if tensor.datatype is Datatype.BYTES:
        field.extend(iter_bytes(tensor.array))
    else:
        field.extend(tensor.array.ravel().tolist())


def _check_range(array: Any, datatype: Datatype, at: str) -> None:
    limits = np.iinfo(NUMPY[datatype])
    outside = (array < limits.min) | (array > limits.max)
    if outside.any():
        index = int(outside.argmax())
        raise InvalidInput(
            f"{at}: element {index} is {array[index]}, "
            f"{datatype} goes from {limits.min} to {limits.max}"
        )
