"""V1 rows to tensors and back, for predictors that know only tensors (contract §1.2).

`inputs` wins over `instances`. Rows of objects become one tensor per key, a dict of columns one
per column, everything else a single tensor. Declared datatypes and names are used where known.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headrace.server.errors import InvalidInput
from headrace.server.tensor import NUMPY, Tensor, TensorSpec

UNNAMED = "input-0"


def to_tensors(payload: Any, declared: Sequence[TensorSpec]) -> list[Tensor]:
    """Tensors of a V1 payload. Raises InvalidInput where it has no rows or they do not fit."""
    if not isinstance(payload, dict) or not ("inputs" in payload or "instances" in payload):
        raise InvalidInput('Expected a JSON object with a list "instances" (or "inputs")')
    key = "inputs" if "inputs" in payload else "instances"
    rows = payload[key]
    specs = {spec.name: spec for spec in declared}
    if isinstance(rows, dict):
        return [_tensor(name, column, specs.get(name)) for name, column in rows.items()]
    if not isinstance(rows, list):
        raise InvalidInput(f'Expected "{key}" to be a list')
    if rows and all(isinstance(row, dict) for row in rows):
        names = list(rows[0])
        for i, row in enumerate(rows):
            if list(row) != names and set(row) != set(names):
                raise InvalidInput(f"{key}[{i}]: expected the keys {names}, got {list(row)}")
        return [_tensor(name, [row[name] for row in rows], specs.get(name)) for name in names]
    only = declared[0] if declared else None
    return [_tensor(only.name if only else UNNAMED, rows, only)]


def to_predictions(outputs: Sequence[Tensor]) -> Mapping[str, Any]:
    """`{"predictions": …}`: the array of the only output, or one object per row for several."""
    if len(outputs) == 1:
        return {"predictions": outputs[0].array}
    rows = min((tensor.shape[0] for tensor in outputs if tensor.shape), default=0)
    return {
        "predictions": [{tensor.name: tensor.array[i] for tensor in outputs} for i in range(rows)]
    }


def _tensor(name: str, rows: Any, spec: TensorSpec | None) -> Tensor:
    try:
        array = np.array(rows, NUMPY[spec.datatype] if spec else None)
    except (ValueError, TypeError, OverflowError) as err:
        raise InvalidInput(f"input '{name}': the rows make no array: {err}") from err
    return Tensor(name, array)
