"""ONNX models through onnxruntime: names, datatypes and shapes are the file's.

`options.threads` is the session's intra-op pool; operators run one after another (inter-op 1).

On a GPU (`options.device`, and onnxruntime-gpu installed) outputs stay on the device until all are
there; what does not start there runs on the CPU, and the log says why. "" is the CPU.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headrace.server import (
    Datatype,
    GpuUse,
    LoadOptions,
    ModelLoadError,
    PredictorFormat,
    Tensor,
    TensorSpec,
    tables,
)

log = logging.getLogger(__name__)

ON_CUDA, ON_CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
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
    """device: "cuda:0", …, where session runs on it."""

    def __init__(self, session: Any, device: str = "cpu") -> None:
        self._session = session
        self.inputs: Sequence[TensorSpec] = [
            *(_spec(node) for node in session.get_inputs()),
            *(_spec(node, is_optional=True) for node in session.get_overridable_initializers()),
        ]
        self.outputs: Sequence[TensorSpec] = [_spec(node) for node in session.get_outputs()]
        self._names = [spec.name for spec in self.outputs]
        can_bind = all(node.type.startswith("tensor(") for node in session.get_outputs())
        is_text = any(each.datatype is Datatype.BYTES for each in (*self.inputs, *self.outputs))
        self._gpu = ordinal(device) if can_bind and not is_text else None

    def predict(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        feed = {tensor.name: tables.to_numpy(tensor) for tensor in inputs}  # text as str
        results = self._run(feed)
        return [
            Tensor(name, _array(result)) for name, result in zip(self._names, results, strict=True)
        ]

    def _run(self, feed: dict[str, Any]) -> Any:
        if self._gpu is None:
            return self._session.run(self._names, feed)
        binding = self._session.io_binding()
        for name, array in feed.items():
            binding.bind_cpu_input(name, array)
        for name in self._names:
            binding.bind_output(name, "cuda", self._gpu)
        self._session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()


def ordinal(device: str) -> int | None:
    """1 of "cuda:1"; None where device is no GPU."""
    kind, _, number = device.partition(":")
    return int(number or 0) if kind == "cuda" else None


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
    session, device = None, options.device
    if ordinal(device) is not None:
        session = _on_gpu(onnxruntime, path, settings, options)
    try:
        if session is None:
            device = "cpu"
            session = onnxruntime.InferenceSession(str(path), settings, providers=[ON_CPU])
    except Exception as err:
        raise ModelLoadError(f"{path}: onnxruntime cannot load it: {err}") from err
    return OnnxPredictor(session, device)


def _on_gpu(onnxruntime: Any, path: Path, settings: Any, options: LoadOptions) -> Any:
    """A session on options.device; None, and the reason in the log, where it does not start."""
    why = "its CUDA provider did not start; is the CUDA it needs installed?"
    try:
        if ON_CUDA in onnxruntime.get_available_providers():
            on_cuda = (ON_CUDA, {"device_id": str(ordinal(options.device))})
            session = onnxruntime.InferenceSession(str(path), settings, providers=[on_cuda, ON_CPU])
            if ON_CUDA in session.get_providers():  # else it has fallen back without an error
                return session
        else:
            version = onnxruntime.__version__
            why = f"onnxruntime {version} has no {ON_CUDA}: pip install onnxruntime-gpu"
    except Exception as err:  # a model it does not take fails on the CPU again, and is told there
        why = f"{type(err).__name__}: {err}"
    log.warning(
        "onnxruntime does not use the GPU, so the model runs on the CPU",
        extra={"model": options.model_name, "device": options.device, "why": why},
    )
    return None


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
    "onnx",
    load,
    (".onnx",),
    claims=lambda path: path.suffix.lower() == ".onnx",
    gpu=GpuUse.AUTO,
)
