"""Bodies that have come and are read, or unpacked, in a thread: they count until that is done.

The threads are few, so bodies that wait for one would take memory without bound.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from headrace.http import Refusal
from headrace.http.receiving import Receiving
from headrace.server.errors import QueueFull


class Reading:
    """bodies: of a server; those that come in count with those that are read."""

    def __init__(self) -> None:
        self.bodies = Receiving(0)  # until there is a server

    @contextmanager
    def of(self, count: int) -> Iterator[None]:
        """While count bytes are read. Raises QueueFull where others leave no room for them."""
        bodies = self.bodies
        try:
            bodies.check(count)
        except Refusal as refusal:
            raise QueueFull(
                f"{bodies.total_bytes} bytes of other request bodies are coming in or being read, "
                f"the limit is {refusal.limit}; try again (--max_receiving_bytes {refusal.limit})"
            ) from refusal
        bodies.take(count)
        try:
            yield
        finally:
            bodies.release(count)
