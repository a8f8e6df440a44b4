"""V1 rows to tensors and back, for predictors that know only tensors (contract §1.2, §1.4).

`inputs` wins over `instances`. Rows of objects become one tensor per key, an object of columns one
per column, everything else a single tensor. `{"b64": …}` stands for bytes wherever a value does.
What the model declares decides datatypes, names and shapes; else the rows do.
"""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.server.checks import as_columns, describe, fits
from headrace.server.errors import InvalidInput
from headrace.server.protocol.json_tensor import to_numbers
from headrace.server.protocol.parameters import json_type
from headrace.server.tensor import NUMPY, Datatype, Tensor, TensorSpec, bytes_array, iter_bytes

UNNAMED = "input-0"
_MAX_INT64 = 2**63 - 1


def to_tensors(payload: Any, declared: Sequence[TensorSpec]) -> list[Tensor]:
    """Tensors of a V1 payload. Raises InvalidInput where it has no rows or they do not fit."""
    if not isinstance(payload, dict) or not ("inputs" in payload or "instances" in payload):
        raise InvalidInput('Expected a JSON object with a list "instances" (or "inputs")')
    key = "inputs" if "inputs" in payload else "instances"
    rows = payload[key]
    if isinstance(rows, dict) and key == "inputs" and not _is_b64(rows):
        return _columns(rows, key, declared)
    if not isinstance(rows, list):
        raise InvalidInput(f'Expected "{key}" to be a list')
    if dict in set(map(type, rows)) and not all(_is_b64(row) for row in rows if type(row) is dict):
        return _columns(_transposed(rows, key), key, declared)
    required = [spec for spec in declared if not spec.is_optional] or list(declared)
    if not rows and len(declared) > 1:
        return [_empty(spec) for spec in required]
    if len(required) > 1:
        raise InvalidInput(
            f'"{key}": the model has {len(required)} inputs, so each row must be an object '
            f"with {', '.join(describe(spec) for spec in required)}"
        )
    only = required[0] if required else None
    return [_tensor(only.name if only else UNNAMED, rows, only, key)]


def to_predictions(outputs: Sequence[Tensor]) -> Mapping[str, Any]:
    """`{"predictions": …}`: the array of the only output, or one object per row for several.

    Several outputs without common rows stand under their names. BYTES that are not UTF-8 become
    `{"b64": …}`, as TensorFlow Serving has it.
    """
    values = {tensor.name: _plain(tensor) for tensor in outputs}
    if len(outputs) == 1:
        return {"predictions": values[outputs[0].name]}
    rows = {tensor.shape[0] if tensor.shape else None for tensor in outputs}
    count = rows.pop() if len(rows) == 1 else None
    if count is None:
        return {"predictions": values}
    return {"predictions": [{name: values[name][i] for name in values} for i in range(count)]}


def _transposed(rows: list[Any], key: str) -> dict[str, list[Any]]:
    """One column per key of rows, which are objects with the same keys."""
    first = next(i for i, row in enumerate(rows) if isinstance(row, dict) and not _is_b64(row))
    names = rows[first].keys()
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InvalidInput(
                f"{key}[{i}]: expected an object as in row {first}, got {json_type(row)}"
            )
        if row.keys() != names:
            raise InvalidInput(f"{key}[{i}]: expected the keys {list(names)}, got {list(row)}")
    return {name: [row[name] for row in rows] for name in names}


def _columns(columns: Mapping[str, Any], key: str, declared: Sequence[TensorSpec]) -> list[Tensor]:
    declared = as_columns(declared, columns)
    specs = {spec.name: spec for spec in declared}
    if specs:
        for name in columns:
            if name not in specs:
                raise InvalidInput(
                    f"\"{key}\": unexpected key '{name}'; "
                    f"expected {', '.join(describe(spec) for spec in declared)}"
                )
        missing = [s for s in declared if not s.is_optional and s.name not in columns]
        if missing:
            raise InvalidInput(
                f'"{key}": missing key(s) {", ".join(describe(spec) for spec in missing)}'
            )
    return [
        _tensor(name, column, specs.get(name), f"{key} '{name}'")
        for name, column in columns.items()
    ]


def _tensor(name: str, rows: Any, spec: TensorSpec | None, at: str) -> Tensor:
    """rows, nested lists of values or one value, as a tensor."""
    elements, shape = _flattened(rows, at)
    if spec is not None and not elements and len(shape) < len(spec.shape):
        return _empty(spec)
    kinds = set(map(type, elements))
    if dict in kinds:
        elements = [_from_b64(value, at) if type(value) is dict else value for value in elements]
        kinds = set(map(type, elements))
    datatype = _guessed(elements, kinds)
    if spec is not None and datatype not in spec.accepts:
        datatype = spec.datatype
    row_elements = len(elements) // shape[0] if shape and shape[0] else 1

    def locate(i: int) -> str:
        return f"{at}[{i // max(row_elements, 1)}]"

    if datatype is Datatype.BYTES:
        array = bytes_array(_to_bytes(elements, locate), shape)
    else:
        array = to_numbers(elements, kinds, datatype, locate).reshape(shape)
    if spec is not None and not fits(shape, spec.shape):
        array = _refitted(array, spec, at)
    return Tensor(name, array, datatype)


def _refitted(array: NDArray[Any], spec: TensorSpec, at: str) -> NDArray[Any]:
    """array with a last dimension of 1 more or less, which a column of scalars may or may not have.

    Raises InvalidInput if that does not make it fit.
    """
    if fits((*array.shape, 1), spec.shape):
        return array[..., np.newaxis]
    if array.shape[-1:] == (1,) and fits(array.shape[:-1], spec.shape):
        return array[..., 0]
    raise InvalidInput(
        f"{at}: the rows have shape {list(array.shape)}, the model expects {list(spec.shape)}"
    )


def _empty(spec: TensorSpec) -> Tensor:
    """No rows, in the shape of spec."""
    dims = [0 if dim == -1 else dim for dim in spec.shape[1:]]
    return Tensor(spec.name, np.empty((0, *dims), NUMPY[spec.datatype]), spec.datatype)


def _flattened(rows: Any, at: str) -> tuple[list[Any], tuple[int, ...]]:
    """Elements in row-major order and the shape of the nesting. Raises InvalidInput if ragged."""
    found = _nest(rows)
    if found is not None:
        return found
    first = _nest(rows[0])
    for i, row in enumerate(rows):
        here = _nest(row)
        if here is None:
            raise InvalidInput(f"{at}[{i}]: its lists differ in length and make no array")
        if first is not None and here[1] != first[1]:
            raise InvalidInput(
                f"{at}[{i}]: expected shape {list(first[1])} as in row 0, got {list(here[1])}"
            )
    raise InvalidInput(f"{at}: the rows make no array")


def _nest(rows: Any) -> tuple[list[Any], tuple[int, ...]] | None:
    """Elements and shape; None if ragged."""
    if type(rows) is not list:
        return [rows], ()
    level, shape = rows, [len(rows)]
    while level and type(level[0]) is list:
        if set(map(type, level)) != {list} or len(set(map(len, level))) > 1:
            return None
        shape.append(len(level[0]))
        level = list(chain.from_iterable(level))
    return None if list in set(map(type, level)) else (level, tuple(shape))


def _guessed(elements: list[Any], kinds: set[type]) -> Datatype:
    if kinds & {str, bytes}:
        return Datatype.BYTES
    if kinds == {bool}:
        return Datatype.BOOL
    if kinds == {int}:
        return Datatype.UINT64 if max(elements) > _MAX_INT64 else Datatype.INT64
    return Datatype.FP64


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"}


def _from_b64(value: dict[str, Any], at: str) -> bytes:
    if not _is_b64(value):
        raise InvalidInput(f'{at}: expected a value or {{"b64": "…"}}, got {list(value)}')
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError, TypeError) as err:
        raise InvalidInput(f"{at}: 'b64' is not base64: {err}") from err


def _to_bytes(elements: list[Any], locate: Callable[[int], str]) -> list[bytes]:
    found: list[bytes] = []
    for i, value in enumerate(elements):
        if not isinstance(value, str | bytes):
            raise InvalidInput(f"{locate(i)} is {json_type(value)}, BYTES needs a string")
        found.append(value.encode() if isinstance(value, str) else value)
    return found


def _plain(tensor: Tensor) -> Any:
    """The array as `dumps` takes it; text for BYTES."""
    if tensor.datatype is not Datatype.BYTES:
        return tensor.array
    texts = np.empty(tensor.array.size, dtype=object)
    for i, element in enumerate(iter_bytes(tensor.array)):
        try:
            texts[i] = element.decode()
        except UnicodeDecodeError:
            texts[i] = {"b64": base64.b64encode(element).decode()}
    return texts.reshape(tensor.shape).tolist()
