"""The models of the benchmark: one NumPy function each, imported by every peer's server.

A spec names one, so that it fits into an environment variable:

    tiny                     x FP32[rows, 4] to y = 2 x
    image                    x FP32[rows, 3, 224, 224] to the mean of each channel, FP32[rows, 3]
    batch:A:B[:busy]         y = 2 x, and A + B * rows ms on the one device of the process,
                             asleep, or with :busy on the CPU
    onnx:FILE, torch:FILE    a small network from a file (loadtests/networks.py writes them)

Imports NumPy only: it runs in the environments of the peers.
"""

import os
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPEC = "HEADRACE_BENCH_MODEL"  # the environment variable that names the model to a peer's server
Array = NDArray[Any]
Function = Callable[[Array], Array]


def from_environment() -> Function:
    return make(os.environ.get(SPEC, "tiny"))


def make(spec: str) -> Function:
    """Raises ValueError for a spec that names no model."""
    kind, _, rest = spec.partition(":")
    if kind == "tiny":
        return tiny
    if kind == "image":
        return image
    if kind == "batch":
        a_ms, b_ms, *how = rest.split(":")
        return batch(float(a_ms), float(b_ms), is_busy=how == ["busy"])
    if kind == "onnx":
        return onnx(Path(rest))
    if kind == "torch":
        return torch(Path(rest))
    raise ValueError(
        f"{spec!r}: no such model; known: tiny, image, batch:A:B, onnx:FILE, torch:FILE"
    )


def tiny(x: Array) -> Array:
    return x * np.float32(2)


def image(x: Array) -> Array:
    return np.asarray(x.mean(axis=(2, 3)), np.float32)


def batch(a_ms: float, b_ms: float, is_busy: bool = False) -> Function:
    device = threading.Lock()  # a server that runs calls side by side gains nothing, as on one GPU

    def run(x: Array) -> Array:
        cost_s = (a_ms + b_ms * len(x)) / 1e3
        with device:
            if is_busy:
                end = time.perf_counter() + cost_s
                while time.perf_counter() < end:
                    pass
            else:
                time.sleep(cost_s)
        return tiny(x)

    return run


def onnx(file: Path) -> Function:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda x: np.asarray(session.run(["y"], {"x": x})[0])


def torch(file: Path) -> Function:
    import torch as framework

    framework.set_num_threads(threads())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is old, but every peer can load it
        module = framework.jit.load(str(file))

    def run(x: Array) -> Array:
        with framework.inference_mode():
            result: Array = module(framework.from_numpy(np.array(x))).numpy()
            return result

    return run


def threads() -> int:
    """CPU threads of a framework: the cores this process may use."""
    return len(os.sched_getaffinity(0))
