"""Showing a download: a bar at a terminal, a log line now and then elsewhere."""

import logging
import sys
import threading
import time
from typing import Protocol, Self

from tqdm import tqdm

log = logging.getLogger(__name__)
LOG_EVERY_S = 10.0


class Progress(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def advance(self, size_bytes: int) -> None: ...


class Bar:
    """A tqdm bar on standard error."""

    def __init__(self, name: str, total_bytes: int | None) -> None:
        self._bar = tqdm(total=total_bytes, desc=name, unit="B", unit_scale=True, unit_divisor=1024)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def advance(self, size_bytes: int) -> None:
        self._bar.update(size_bytes)


class LogLines:
    """One line every LOG_EVERY_S seconds, and one at the end."""

    def __init__(self, name: str, total_bytes: int | None) -> None:
        self._fields = {"source": name, "total_bytes": total_bytes}
        self._done_bytes = 0
        self._next_s = time.monotonic() + LOG_EVERY_S
        self._lock = threading.Lock()  # files arrive in several threads

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        log.info("download ended", extra={**self._fields, "done_bytes": self._done_bytes})

    def advance(self, size_bytes: int) -> None:
        with self._lock:
            self._done_bytes += size_bytes
            if time.monotonic() < self._next_s:
                return
            self._next_s = time.monotonic() + LOG_EVERY_S
        log.info("downloading", extra={**self._fields, "done_bytes": self._done_bytes})


def shown(name: str, total_bytes: int | None) -> Progress:
    """A bar if standard error is a terminal, else log lines."""
    return Bar(name, total_bytes) if sys.stderr.isatty() else LogLines(name, total_bytes)
