"""What a model's memory is: the growth of this process's PSS over its load, or its child's PSS;
and what calls with its largest batch take on top of that while they run (`Excess`).

PSS counts a page shared by n processes as 1/n, so that the figures of workers add up. The first
model of a framework carries the framework's own libraries. Cheap: two reads of a kernel file.
"""

import contextlib
import ctypes
import gc
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5): resets VmHWM to the current size

_lock = threading.Lock()
_growing: set["Growth"] = set()


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one model, 0 where it is not known.

    cpu_bytes: measured at its load. peak_bytes: while every instance runs its largest batch.
    gpu_bytes: by the GPU's index.
    """

    cpu_bytes: int = 0
    peak_bytes: int = 0
    gpu_bytes: Mapping[int, int] = field(default_factory=dict)

    @property
    def needed_bytes(self) -> int:
        """CPU memory that must be there for it."""
        return max(self.cpu_bytes, self.peak_bytes)


def pss_bytes(pid: int | None = None) -> int:
    """PSS of process pid, or of this one; 0 where the kernel does not tell."""
    path = Path("/proc", str(pid or os.getpid()), "smaps_rollup")
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def tree_bytes() -> int:
    """PSS of this process and all below it; what cannot be read counts nothing."""
    children = psutil.Process().children(recursive=True)
    return pss_bytes() + sum(pss_bytes(child.pid) for child in children)


def container_limit_bytes(root: Path = Path("/sys/fs/cgroup")) -> int:
    """What the container's cgroup (v2, or v1) allows; 0 where it sets no limit."""
    total = psutil.virtual_memory().total
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            limit = int((root / name).read_text())
            return limit if limit < total else 0
    return 0


def give_back() -> None:
    """Return freed memory to the kernel, as after an unload; malloc keeps it otherwise."""
    gc.collect()
    _trim()


def _trim() -> None:
    with contextlib.suppress(OSError, AttributeError):  # another libc than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _status_bytes(key: str) -> int:
    """VmRSS or VmHWM, the largest it was, of this process; 0 where the kernel does not tell."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(key)), 0)


class Excess:
    """Measures what its `with` block held at its largest and gave back by its end: `bytes`."""

    def __init__(self) -> None:
        self.bytes = 0

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError):  # where it cannot be reset, the figure is too large
            CLEAR.write_text(RESET_PEAK)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bytes = max(0, _status_bytes("VmHWM:") - _status_bytes("VmRSS:"))


class Growth:
    """Measures what its `with` block adds to this process: `bytes`, once the block has ended.

    0 means not known: another load ran at the same time, and whose a page is cannot be told.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._is_alone = True
        self._before = 0

    def __enter__(self) -> Self:
        with _lock:
            for other in _growing:
                other._is_alone = self._is_alone = False
            _growing.add(self)
        _trim()  # what a load took from pages that are kept would count nothing
        self._before = pss_bytes()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with _lock:
            _growing.discard(self)
        if self._is_alone and self._before:
            self.bytes = max(0, pss_bytes() - self._before)
