"""JSON `data` to arrays (contract §2.3-2.5): nested or flat, every element of the right kind.

Elements are looked at by C loops only: the set of their types decides which checks are needed.
"""

import base64
import binascii
import math
import struct
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from headrace.server.errors import InvalidInput
from headrace.server.protocol.parameters import json_type
from headrace.server.tensor import (
    FLOATS,
    NOT_IN_JSON,
    NUMPY,
    Datatype,
    bytes_array,
    check_shape,
)

SMALL = 64  # elements that struct packs sooner than numpy is called
MAX_EXACT_FLOAT = 2**53  # whole numbers beyond it may have been rounded on their way into a double


def to_array(
    data: Any,
    datatype: Datatype,
    shape: Sequence[int],
    at: str,
    is_lenient: bool = False,
    is_base64: bool = False,
) -> NDArray[Any]:
    """data as an array of shape, one -1 of which stands for what the count leaves.

    at: names the tensor in error texts. is_lenient: nesting need not match. is_base64: BYTES
    elements are base64 text. Raises InvalidInput.
    """
    if datatype in NOT_IN_JSON:
        raise InvalidInput(
            f"Sending {datatype} data via JSON is not supported. "
            f"Please use the binary data format for {at}"
        )
    if not isinstance(data, list):
        raise InvalidInput(f"{at}: 'data' must be an array, got {json_type(data)}")
    elements, kinds = _flatten(data, shape, at, is_lenient)
    full_shape = complete_shape(shape, len(elements), at)
    if datatype is Datatype.BYTES:
        return bytes_array(_to_bytes(elements, kinds, at, is_base64), full_shape)
    return to_numbers(elements, kinds, datatype, lambda i: f"{at}: data[{i}]").reshape(full_shape)


def complete_shape(shape: Sequence[int], count: int, at: str) -> tuple[int, ...]:
    """shape with its -1 filled in. Raises InvalidInput if count elements do not fit it."""
    free = shape.count(-1)
    if not free:
        need = check_shape(shape, at)
        if need != count:
            raise InvalidInput(f"{at}: shape {list(shape)} needs {need} elements, got {count}")
        return tuple(shape)
    if free > 1:
        raise InvalidInput(f"{at}: shape {list(shape)} has more than one -1")
    rest = check_shape([dim for dim in shape if dim != -1], at)
    if not rest or count % rest:
        raise InvalidInput(
            f"{at}: {count} elements do not divide into shape {list(shape)} ({rest} per -1)"
        )
    return tuple(count // rest if dim == -1 else dim for dim in shape)


def to_numbers(
    elements: list[Any], kinds: set[type], datatype: Datatype, locate: Callable[[int], str]
) -> NDArray[Any]:
    """A flat array of elements, whose types are kinds.

    locate(i) names element i in an error text. Raises InvalidInput for one of the wrong kind.
    """
    if datatype is Datatype.BOOL:
        allowed: tuple[type, ...] = (bool, int)
    elif datatype in FLOATS:
        allowed = (float, int, type(None))
    else:
        allowed = (int, float)
    if not kinds.issubset(allowed):
        i = next(i for i, value in enumerate(elements) if type(value) not in allowed)
        raise InvalidInput(
            f"{locate(i)} is {json_type(elements[i])}, {datatype} needs {_wants(datatype)}"
        )
    if datatype is Datatype.BOOL:
        return _to_booleans(elements, kinds, locate)
    if datatype in FLOATS:
        return _to_floats(elements, datatype, locate)
    return _to_integers(elements, kinds, datatype, locate)


def _to_booleans(
    elements: list[Any], kinds: set[type], locate: Callable[[int], str]
) -> NDArray[Any]:
    if int in kinds and not set(elements) <= {0, 1}:
        i = next(i for i, value in enumerate(elements) if value not in (0, 1))
        raise InvalidInput(f"{locate(i)} is {elements[i]}, BOOL needs true, false, 0 or 1")
    return np.array(elements, np.bool_)


def _to_floats(
    elements: list[Any], datatype: Datatype, locate: Callable[[int], str]
) -> NDArray[Any]:
    try:
        if datatype is Datatype.FP64:
            return np.array(elements, np.float64)
        if datatype is Datatype.FP32 and len(elements) <= SMALL and None not in elements:
            return np.frombuffer(struct.pack(f"<{len(elements)}f", *elements), "<f4")
        with np.errstate(over="raise"):  # at a finite number that becomes an infinity
            if datatype is Datatype.BF16:  # bfloat16 itself knows no None
                return np.array(elements, np.float32).astype(NUMPY[datatype])
            return np.array(elements, NUMPY[datatype])
    except (FloatingPointError, OverflowError) as err:
        limit = float(ml_dtypes.finfo(NUMPY[datatype]).max)
        i = next(i for i, x in enumerate(elements) if x is not None and limit < abs(x) < math.inf)
        raise InvalidInput(f"{locate(i)} is {elements[i]}, out of range for {datatype}") from err


def _to_integers(
    elements: list[Any], kinds: set[type], datatype: Datatype, locate: Callable[[int], str]
) -> NDArray[Any]:
    dtype = NUMPY[datatype]
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    if float in kinds:
        for i, value in enumerate(elements):
            if type(value) is float and not (value.is_integer() and abs(value) <= MAX_EXACT_FLOAT):
                raise _not_whole(value, datatype, low, high, locate(i))
        elements = list(map(int, elements))
    try:
        # Not straight into dtype: numpy 1 wraps what is out of range around.
        wide = np.array(elements, np.uint64 if datatype is Datatype.UINT64 else np.int64)
        fits = not wide.size or bool(wide.min() >= low and wide.max() <= high)
    except OverflowError:
        fits = False
    if not fits:
        i = next(i for i, value in enumerate(elements) if not low <= value <= high)
        raise _not_whole(elements[i], datatype, low, high, locate(i))
    return wide.astype(dtype, copy=False)


def _not_whole(value: float, datatype: Datatype, low: int, high: int, where: str) -> InvalidInput:
    return InvalidInput(f"{where} is {value}, {datatype} needs a whole number from {low} to {high}")


def _to_bytes(elements: list[Any], kinds: set[type], at: str, is_base64: bool) -> list[bytes]:
    if kinds - {str}:
        i = next(i for i, value in enumerate(elements) if type(value) is not str)
        raise InvalidInput(f"{at}: data[{i}] is {json_type(elements[i])}, BYTES needs a string")
    if not is_base64:
        return list(map(str.encode, elements))
    decoded: list[bytes] = []
    for i, text in enumerate(elements):
        try:
            decoded.append(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError) as err:
            raise InvalidInput(f"{at}: data[{i}] is not base64: {err}") from err
    return decoded


def _flatten(
    data: list[Any], shape: Sequence[int], at: str, is_lenient: bool
) -> tuple[list[Any], set[type]]:
    """The elements of data in row-major order and the set of their types."""
    level, kinds = data, set(map(type, data))
    if list not in kinds:
        return level, kinds
    if is_lenient:
        while list in kinds:
            level = list(chain.from_iterable(x if type(x) is list else (x,) for x in level))
            kinds = set(map(type, level))
        return level, kinds
    misfit = InvalidInput(f"{at}: the nesting of 'data' does not match shape {list(shape)}")
    if shape and shape[0] not in (-1, len(level)):
        raise misfit
    for dim in shape[1:]:
        if kinds - {list}:
            raise misfit
        lengths = set(map(len, level))
        if len(lengths) > 1 or (level and dim not in (-1, len(level[0]))):
            raise misfit
        level = list(chain.from_iterable(level))
        kinds = set(map(type, level))
    if list in kinds:
        raise misfit
    return level, kinds


def _wants(datatype: Datatype) -> str:
    if datatype is Datatype.BOOL:
        return "true or false"
    return "a number or null" if datatype in FLOATS else "a whole number"
