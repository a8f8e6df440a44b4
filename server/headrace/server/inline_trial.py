"""Whether a user's `Model` belongs on the event loop: its first real calls say so.

A predictor is measured at load (warm_up.py). A `Model` declares nothing that could be called then,
so its calls begin in threads, and move where a hop there costs more than they do.
"""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from headrace.server.execution import Mode
from headrace.server.warm_up import CALLS, choose_mode, hop_ns, p95

Instance = TypeVar("Instance")
Result = TypeVar("Result")


ROUNDS = 5  # of CALLS each: a busy machine makes one of them slow


class InlineTrial:
    """timed() runs calls in their threads; mode() is decided by the first round that is fast."""

    def __init__(self) -> None:
        self._hop_ns: int | None = None
        self._rounds = 0
        self._taken_ns: list[int] = []  # threads append, which is one step of theirs

    async def start(self) -> None:
        """Measure the hop, off the loop; without it nothing is decided."""
        self._hop_ns = await asyncio.to_thread(hop_ns)

    def timed(self, call: Callable[[Instance], Result], instance: Instance) -> Result:
        started_ns = time.perf_counter_ns()
        try:
            return call(instance)
        finally:
            self._taken_ns.append(time.perf_counter_ns() - started_ns)

    def mode(self) -> Mode | None:
        """None: not known yet."""
        if self._hop_ns is None or len(self._taken_ns) < CALLS:
            return None
        found = choose_mode(p95(self._taken_ns), self._hop_ns)
        self._taken_ns.clear()
        self._rounds += 1
        return found if found is Mode.INLINE or self._rounds == ROUNDS else None
