"""ONNX models through onnxruntime: names, datatypes and shapes are the file's.

`options.threads` is the session's intra-op pool; operators run one after another (inter-op 1).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headrace.server import (
    Datatype,
    LoadOptions,
    ModelLoadError,
    PredictorFormat,
    Tensor,
    TensorSpec,
    tables,
)

DATATYPES = {
    "bool": Datatype.BOOL,
    "uint8": Datatype.UINT8,
    "uint16": Datatype.UINT16,
    "uint32": Datatype.UINT32,
    "uint64": Datatype.UINT64,
    "int8": Datatype.INT8,
    "int16": Datatype.INT16,
    "int32": Datatype.INT32,
    "int64": Datatype.INT64,
    "float16": Datatype.FP16,
    "float": Datatype.FP32,
    "double": Datatype.FP64,
    "string": Datatype.BYTES,
}


class OnnxPredictor:
    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs: Sequence[TensorSpec] = [
            *(_spec(node) for node in session.get_inputs()),
            *(_spec(node, is_optional=True) for node in session.get_overridable_initializers()),
        ]
        self.outputs: Sequence[TensorSpec] = [_spec(node) for node in session.get_outputs()]
        self._names = [spec.name for spec in self.outputs]

    def predict(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        feed = {tensor.name: tables.to_numpy(tensor) for tensor in inputs}  # text as str
        results = self._session.run(self._names, feed)
        return [
            Tensor(name, _array(result)) for name, result in zip(self._names, results, strict=True)
        ]


def load(path: Path, options: LoadOptions) -> OnnxPredictor:
    """Raises ModelLoadError for a file onnxruntime does not take, or a tensor we cannot carry."""
    try:
        import onnxruntime
    except ImportError as err:
        raise ModelLoadError("ONNX models need onnxruntime: pip install 'headrace[onnx]'") from err
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    settings.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path), settings, providers=["CPUExecutionProvider"]
        )
    except Exception as err:
        raise ModelLoadError(f"{path}: onnxruntime cannot load it: {err}") from err
    return OnnxPredictor(session)


def _spec(node: Any, is_optional: bool = False) -> TensorSpec:
    """Of tensor(float) with shape ['N', 3], a FP32 spec of [-1, 3].

    scikit-learn converters end in seq(map(class, float)), one map per row: a table of probabilities
    with a column per class, in the order of the classes.
    """
    element = node.type.removeprefix("tensor(").removesuffix(")")
    if node.type.startswith("seq(map("):
        return TensorSpec(node.name, Datatype.FP32, (-1, -1))
    if element not in DATATYPES:
        known = ", ".join(f"tensor({name})" for name in DATATYPES)
        raise ModelLoadError(f"'{node.name}' is {node.type}; expected one of {known}")
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in node.shape)
    return TensorSpec(node.name, DATATYPES[element], shape, is_optional)


def _array(result: Any) -> Any:
    if not isinstance(result, list):
        return np.asarray(result)
    classes = sorted(result[0]) if result else []
    return np.array([[row[name] for name in classes] for row in result], dtype=np.float32)


FORMAT = PredictorFormat(
    "onnx", load, (".onnx",), claims=lambda path: path.suffix.lower() == ".onnx"
)
