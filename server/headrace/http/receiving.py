"""The bytes of bodies that are coming in, over all connections of a process, and their bound.

Only what has come counts, not what was announced: announcing costs a client nothing. A small body
is never refused, nor is one that comes alone, so that the bound stops no request for ever.
"""

from headrace.http.limits import too_many_body_bytes

SMALL_BYTES = 1 << 16


class Receiving:
    """most_bytes: 0 for no bound."""

    __slots__ = ("_most_bytes", "total_bytes")

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.total_bytes = 0

    def check(self, count: int, own_bytes: int = 0) -> None:
        """Raises Refusal where count bytes more of a body, of which own_bytes have come, are too
        many."""
        most, others = self._most_bytes, self.total_bytes - own_bytes
        if most and others and own_bytes + count > SMALL_BYTES and self.total_bytes + count > most:
            raise too_many_body_bytes(self.total_bytes, most)

    def take(self, count: int) -> None:
        self.total_bytes += count

    def release(self, count: int) -> None:
        self.total_bytes -= count
