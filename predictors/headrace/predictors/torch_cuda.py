"""PyTorch on a GPU: whether it starts there, and tensors to it and back.

Each instance has a CUDA stream of its own, so that instances overlap. Copies go through page-locked
host memory, which torch keeps and hands out again, and wait for nothing; a call waits once, at its
end, for its own stream.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

log = logging.getLogger(__name__)


def usable(torch: Any, device: str, model_name: str) -> str:
    """device ("cuda:0"), or "cpu", with the reason in the log, where CUDA does not start on it."""
    if not device.startswith("cuda"):
        return device
    try:
        if not torch.cuda.is_available():
            raise RuntimeError(f"torch {torch.__version__} finds no usable CUDA here")
        torch.zeros(1, device=device)  # CUDA starts with the first use, and fails there
    except Exception as err:  # what a driver, a full GPU or a lost one makes of it
        log.warning(
            "CUDA does not start, so the model runs on the CPU",
            extra={"model": model_name, "device": device, "error": f"{type(err).__name__}: {err}"},
        )
        return "cpu"
    return device


class Stream:
    """Where one instance runs: device and the stream of its copies and kernels."""

    def __init__(self, torch: Any, device: Any) -> None:
        self._torch = torch
        self._device = device
        self._stream = torch.cuda.Stream(device=device)

    def run(self, module: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        """module(*arguments), from host tensors to host tensors; containers keep their form."""
        with self._current():
            result = module(*[self._to_device(each) for each in arguments])
            copied = self._map(result)
        self._stream.synchronize()
        return copied

    def _current(self) -> AbstractContextManager[Any]:
        stream: AbstractContextManager[Any] = self._torch.cuda.stream(self._stream)
        return stream

    def _to_device(self, tensor: Any) -> Any:
        host = self._torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor).to(self._device, non_blocking=True)

    def _map(self, result: Any) -> Any:
        if isinstance(result, dict):
            return {name: self._to_host(each) for name, each in result.items()}
        if isinstance(result, tuple | list):
            return [self._to_host(each) for each in result]
        return self._to_host(result)

    def _to_host(self, value: Any) -> Any:
        if not isinstance(value, self._torch.Tensor) or value.device.type == "cpu":
            return value
        host = self._torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
        return host.copy_(value.detach(), non_blocking=True)
