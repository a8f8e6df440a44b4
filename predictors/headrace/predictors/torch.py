"""PyTorch models: TorchScript (.pt), `torch.export` programs (.pt2), state dicts with their class.

Nothing here unpickles freely: `torch.load` runs with weights_only, and torch_archives.py looks
through TorchScript and exported programs before torch opens them. A state dict (.pt, .pth) needs
the class of its module: one Python file beside it with one `torch.nn.Module`, made without
arguments; that is code, so from a download it needs --trust-code.

An exported program declares its inputs; the others take tensors in the order they come, doubles
turned into the weights' datatype. Outputs are output-0, …, or the keys of a dict.

`options.device` is where the module lives (torch_cuda.py has what a GPU needs); "" leaves it where
the file or its class put it. torch counts CPU threads per calling thread: each call sets its own.
"""

import importlib.util
import logging
import sys
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from headrace.predictors import torch_archives, torch_cuda
from headrace.server import (
    Datatype,
    GpuUse,
    InvalidInput,
    LoadOptions,
    ModelLoadError,
    PredictorFormat,
    Tensor,
    TensorSpec,
    UntrustedModel,
)

log = logging.getLogger(__name__)
_threads = threading.local()  # .count: what the calling thread last told torch


class TorchPredictor:
    """module: anything that is called with tensors and returns one, or a tuple, list or dict."""

    platform = "pytorch"
    outputs: Sequence[TensorSpec] = ()

    def __init__(
        self, torch: Any, module: Any, inputs: Sequence[TensorSpec], threads: int = 1
    ) -> None:
        self._torch = torch
        self._module = module
        self._thread_count = threads
        self.inputs = inputs
        device = next((each.device for each in module.parameters()), None)
        is_cuda = device is not None and device.type == "cuda"
        self._stream = torch_cuda.Stream(torch, device) if is_cuda else None
        kinds = {each.dtype for each in module.parameters() if each.dtype.is_floating_point}
        self._narrow = None if inputs or torch.float64 in kinds else next(iter(kinds), None)

    def predict(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        if getattr(_threads, "count", 0) != self._thread_count:
            self._torch.set_num_threads(self._thread_count)
            _threads.count = self._thread_count
        arguments = [self._to_torch(tensor) for tensor in self._ordered(inputs)]
        with self._torch.inference_mode():
            if self._stream is None:
                result = self._module(*arguments)
            else:
                result = self._stream.run(self._module, arguments)
        if isinstance(result, dict):
            named = [(str(name), each) for name, each in result.items()]
        else:
            parts = result if isinstance(result, tuple | list) else [result]
            named = [(f"output-{i}", each) for i, each in enumerate(parts)]
        return [Tensor(name, *self._to_numpy(each)) for name, each in named]

    def _ordered(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """By declared name where names are known, else as they came."""
        by_name = {tensor.name: tensor for tensor in inputs}
        declared = [spec.name for spec in self.inputs]
        return [by_name[name] for name in declared] if declared else inputs

    def _to_torch(self, tensor: Tensor) -> Any:
        if tensor.datatype is Datatype.BYTES:
            raise InvalidInput(f"input '{tensor.name}': torch has no tensors of BYTES")
        array = tensor.array
        if not array.flags.writeable:  # torch shares memory and may write to it
            array = array.copy()
        if tensor.datatype is Datatype.BF16:
            return self._torch.from_numpy(array.view(np.uint16)).view(self._torch.bfloat16)
        made = self._torch.from_numpy(array)
        if tensor.datatype is Datatype.FP64 and self._narrow is not None:
            return made.to(self._narrow)  # V1 numbers have no datatype; these weights take no FP64
        return made

    def _to_numpy(self, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, self._torch.Tensor):
            return (np.asarray(value),)
        if value.dtype is self._torch.bfloat16:
            bits = value.contiguous().view(self._torch.uint16).numpy()
            return (bits.view(ml_dtypes.bfloat16),)
        return (value.detach().cpu().numpy(),)


def load(path: Path, options: LoadOptions) -> TorchPredictor:
    """Raises ModelLoadError for a file torch does not take, UntrustedModel for code not trusted."""
    try:
        import torch
    except ImportError as err:
        raise ModelLoadError("PyTorch models need torch: pip install 'headrace[torch]'") from err
    device = torch_cuda.usable(torch, options.device, options.model_name)
    if path.suffix.lower() == ".pt2":
        if not options.trust_code:
            torch_archives.check_exported(torch, path)
        return _exported(torch, path, device, options)
    if is_torchscript(path):
        if not options.trust_code:
            torch_archives.check_script(path)
        module = torch.jit.load(str(path), map_location=device or None).eval()
        # a script knows nothing of its tensors but how many
        return TorchPredictor(torch, module, (), options.threads)
    return _from_state_dict(torch, path, device, options)


def _exported(torch: Any, path: Path, device: str, options: LoadOptions) -> TorchPredictor:
    program = _moved(torch.export.load(str(path)), device, options.model_name)
    signature = program.graph_signature
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    specs = []
    for name in signature.user_inputs:
        value = nodes[name].meta["val"]
        shape = tuple(dim if isinstance(dim, int) else -1 for dim in value.shape)
        specs.append(TensorSpec(str(name), datatype_of(torch, value.dtype), shape))
    return TorchPredictor(torch, program.module(), specs, options.threads)


def _moved(program: Any, device: str, model_name: str) -> Any:
    """program on device: its graph names devices, which `.to` would leave as they are."""
    if not device.startswith("cuda"):
        return program
    try:
        from torch.export.passes import move_to_device_pass
    except ImportError:  # torch before 2.6
        log.warning(
            "this torch cannot move an exported program to a GPU, so it runs where it was exported",
            extra={"model": model_name, "device": device},
        )
        return program
    return move_to_device_pass(program, device)


def _from_state_dict(torch: Any, path: Path, device: str, options: LoadOptions) -> TorchPredictor:
    try:
        state = torch.load(str(path), map_location="cpu", weights_only=True)
    except Exception as err:  # torch tells a refused pickle by a text only
        raise UntrustedModel(
            f"{path}: torch does not load it as plain weights: {str(err).splitlines()[0]} "
            "Save a TorchScript (.pt), an exported program (.pt2), or a state dict with its class."
        ) from err
    if not isinstance(state, dict):
        raise ModelLoadError(f"{path}: expected a state dict, got {type(state).__name__}")
    module = _module_class(torch, path, options)()
    module.load_state_dict(state)
    module = module.eval().to(device) if device else module.eval()
    return TorchPredictor(torch, module, (), options.threads)


def _module_class(torch: Any, path: Path, options: LoadOptions) -> Any:
    files = sorted(path.parent.glob("*.py"))
    if len(files) != 1:
        raise ModelLoadError(
            f"{path}: a state dict needs the class of its module in one Python file beside it; "
            f"found {[file.name for file in files] or 'none'}"
        )
    if options.is_downloaded and not options.trust_code:
        raise UntrustedModel(
            f"{files[0]}: code that came with a downloaded model runs only with --trust-code "
            "(in a manifest: args: [--trust-code])"
        )
    spec = importlib.util.spec_from_file_location(f"headrace_model_{path.stem}", files[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    found = [
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, torch.nn.Module)
        and each.__module__ == module.__name__
    ]
    if len(found) != 1:
        names = [each.__name__ for each in found] or "none"
        raise ModelLoadError(f"{files[0]}: expected one torch.nn.Module, found {names}")
    return found[0]


def datatype_of(torch: Any, dtype: Any) -> Datatype:
    names = {
        torch.bool: Datatype.BOOL,
        torch.uint8: Datatype.UINT8,
        torch.int8: Datatype.INT8,
        torch.int16: Datatype.INT16,
        torch.int32: Datatype.INT32,
        torch.int64: Datatype.INT64,
        torch.float16: Datatype.FP16,
        torch.bfloat16: Datatype.BF16,
        torch.float32: Datatype.FP32,
        torch.float64: Datatype.FP64,
    }
    if dtype not in names:
        raise ModelLoadError(f"{dtype} has no Open Inference Protocol datatype")
    return names[dtype]


def is_torchscript(path: Path) -> bool:
    """A zip archive with a constants.pkl, which a plain torch.save has not."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


EXTENSIONS = (".pt2", ".pt", ".pth")
FORMAT = PredictorFormat(
    "pytorch",
    load,
    EXTENSIONS,
    claims=lambda path: path.suffix.lower() in EXTENSIONS,
    gpu=GpuUse.AUTO,
)
