"""How many inferences run at once over gRPC: `--max_concurrency`, first come, first served.

HTTP/1.1 is held back by the proxy, which opens only so many connections; one HTTP/2 connection
carries any number of calls, so here the server counts.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from headrace.server.errors import QueueFull, QueueTimeout


class Gate:
    """Lets limit callers in, at most max_waiting wait; 0 means no bound."""

    def __init__(self, limit: int, max_waiting: int) -> None:
        self._limit = limit
        self._max_waiting = max_waiting
        self._places = asyncio.Semaphore(limit)
        self._waiting = 0

    @asynccontextmanager
    async def enter(self, timeout_s: float | None) -> AsyncIterator[None]:
        """Wait for a place, at most timeout_s. Raises QueueFull at once, or QueueTimeout."""
        if not self._limit:
            yield
            return
        await self._acquire(timeout_s)
        try:
            yield
        finally:
            self._places.release()

    async def _acquire(self, timeout_s: float | None) -> None:
        if not self._places.locked():
            await self._places.acquire()
            return
        if self._max_waiting and self._waiting >= self._max_waiting:
            raise QueueFull(
                f"Exceeds maximum queue size: {self._waiting} gRPC requests wait for one of "
                f"{self._limit} places (--max_concurrency {self._limit}, "
                f"--max_queue_requests {self._max_waiting})"
            )
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                await self._places.acquire()
        except TimeoutError as err:
            raise QueueTimeout from err
        finally:
            self._waiting -= 1
