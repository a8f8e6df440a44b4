"""Rows of features: what predictors of tables (scikit-learn, XGBoost, LightGBM) have in common.

A table is one input `input-0` of shape [-1, n], of any numeric datatype, unconverted; where the
model knows the names of its columns, a request may send one tensor per column instead.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.server.errors import InvalidInput
from headrace.server.tensor import FLOATS, INTEGERS, Datatype, Tensor, TensorSpec

INPUT = "input-0"
NUMERIC = (INTEGERS | FLOATS | {Datatype.BOOL}) - {Datatype.BF16}  # which frameworks cannot read


def table(width: int, columns: Sequence[str] = (), with_text: bool = False) -> TensorSpec:
    """A table of width features; with_text: its cells may be text too."""
    accepts = NUMERIC | {Datatype.BYTES} if with_text else NUMERIC
    return TensorSpec(
        INPUT,
        Datatype.FP64,
        (-1, width),
        accepts=accepts,
        columns=tuple(TensorSpec(name, Datatype.FP64, (-1,), accepts=accepts) for name in columns),
    )


def texts() -> TensorSpec:
    """One text per row."""
    return TensorSpec(INPUT, Datatype.BYTES, (-1,))


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """tensor's array as it came, BYTES as text. Raises InvalidInput for text that is not UTF-8."""
    if tensor.datatype is not Datatype.BYTES:
        return tensor.array
    try:
        decoded = [x.decode() if isinstance(x, bytes) else str(x) for x in tensor.array.flat]
    except UnicodeDecodeError as err:
        raise InvalidInput(f"'{tensor.name}': the model takes text, this is not UTF-8") from err
    array = np.empty(len(decoded), dtype=object)
    array[:] = decoded
    return array.reshape(tensor.shape)


def to_frame(inputs: Sequence[Tensor], columns: Sequence[str]) -> Any:
    """A pandas DataFrame of columns, from one table or from one tensor per column."""
    import pandas

    if is_table(inputs, columns):
        return pandas.DataFrame(to_numpy(inputs[0]), columns=list(columns))
    _check_rows(inputs)
    by_name = {tensor.name: to_numpy(tensor) for tensor in inputs}
    return pandas.DataFrame({name: by_name[name] for name in columns}, columns=list(columns))


def to_matrix(inputs: Sequence[Tensor], columns: Sequence[str]) -> NDArray[Any]:
    """One 2-D array: the table as it came, or the columns side by side in the model's order."""
    if is_table(inputs, columns):
        return inputs[0].array
    _check_rows(inputs)
    by_name = {tensor.name: tensor.array for tensor in inputs}
    return np.stack([by_name[name] for name in columns], axis=1)


def is_table(inputs: Sequence[Tensor], columns: Sequence[str]) -> bool:
    return len(inputs) == 1 and inputs[0].name not in columns


def probed(
    predict: Callable[[Sequence[Tensor]], Sequence[Tensor]], inputs: Sequence[TensorSpec]
) -> list[TensorSpec]:
    """What predict gives back for one row of zeros; empty where it cannot take one.

    The files do not say what their models return, a first call does.
    """
    if not inputs or inputs[0].datatype is Datatype.BYTES:
        return []
    width = inputs[0].shape[1]
    try:
        outputs = predict([Tensor(INPUT, np.zeros((1, width)))])
    except Exception:
        return []
    if any(tensor.shape[:1] != (1,) for tensor in outputs):
        return []
    return [TensorSpec(t.name, t.datatype, (-1, *t.shape[1:])) for t in outputs]


def _check_rows(inputs: Sequence[Tensor]) -> None:
    counts = {tensor.name: tensor.shape[0] for tensor in inputs}
    if len(set(counts.values())) > 1:
        raise InvalidInput(f"the columns differ in rows: {counts}")
