"""Writes the small network of the real-model works: 64 → 512 → 512 → 16, for ONNX and for torch.

python -m loadtests.networks FOLDER      network.onnx and network.torch, the same weights
"""

import sys
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZES = (64, 512, 512, 16)


def weights() -> list[NDArray[np.float32]]:
    draw = np.random.default_rng(3)
    return [
        (draw.standard_normal((a, b)) / np.sqrt(a)).astype(np.float32) for a, b in pairwise(SIZES)
    ]


def write_onnx(file: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper, save_model

    nodes, initializers, last = [], [], "x"
    layers = weights()
    for i, layer in enumerate(layers):
        initializers.append(numpy_helper.from_array(layer, f"w{i}"))
        is_end = i == len(layers) - 1
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], ["y" if is_end else f"m{i}"]))
        if not is_end:
            nodes.append(helper.make_node("Relu", [f"m{i}"], [f"r{i}"]))
            last = f"r{i}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", SIZES[0]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", SIZES[-1]])
    graph = helper.make_graph(nodes, "network", [x], [y], initializers)
    opset = [helper.make_opsetid("", 17)]
    save_model(helper.make_model(graph, opset_imports=opset, ir_version=10), str(file))


def write_torch(file: Path) -> None:
    import torch

    parts: list[torch.nn.Module] = []
    for layer in weights():
        linear = torch.nn.Linear(*layer.shape, bias=False)
        linear.weight = torch.nn.Parameter(torch.from_numpy(layer.T.copy()))
        parts += [linear, torch.nn.ReLU()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is old, but every peer can load it
        module: Any = torch.jit.script(torch.nn.Sequential(*parts[:-1]).eval())
        module.save(str(file))


def write(folder: Path, kinds: Sequence[str]) -> dict[str, Path]:
    """The files by framework."""
    folder.mkdir(parents=True, exist_ok=True)
    writers = {"onnx": write_onnx, "torch": write_torch}
    files = {kind: folder / f"network.{kind}" for kind in kinds}
    for kind, file in files.items():
        writers[kind](file)
    return files


if __name__ == "__main__":
    write(Path(sys.argv[1]), ("onnx", "torch"))
