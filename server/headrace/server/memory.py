"""What a model's memory is: the growth of this process's PSS over its load, or its child's PSS.

PSS counts a page shared by n processes as 1/n, so that the figures of workers add up. The first
model of a framework carries the framework's own libraries. Cheap: two reads of a kernel file.
"""

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

_lock = threading.Lock()
_growing: set["Growth"] = set()


def pss_bytes(pid: int | None = None) -> int:
    """PSS of process pid, or of this one; 0 where the kernel does not tell."""
    path = Path("/proc", str(pid or os.getpid()), "smaps_rollup")
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


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
