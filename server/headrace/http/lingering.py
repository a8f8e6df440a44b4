"""The end of a connection that we close (RFC 9112 §9.6): said, and then waited out.

Closing a socket with bytes unread resets it, and a client may then lose the answer that it has not
read yet. So our half is ended, what still comes is read and dropped, and the socket is closed when
the client has ended its half, or has had its share. TLS cannot end one half: there we wait only
where something of a request has not been read.
"""

IDLE_S = 2.0  # without a byte from the client
MAX_S = 10.0
MAX_BYTES = 1 << 28
END_S = 0.5  # where the server itself ends


class Lingering:
    """wait_s: how long to wait for more."""

    __slots__ = ("_ends_s", "_left_bytes", "wait_s")

    def __init__(self, now_s: float) -> None:
        self._left_bytes = MAX_BYTES
        self._ends_s = now_s + MAX_S
        self.wait_s = IDLE_S

    def take(self, count: int, now_s: float) -> bool:
        """count bytes more have come, and are dropped. False: enough."""
        self._left_bytes -= count
        self.wait_s = min(IDLE_S, self._ends_s - now_s)
        return self._left_bytes > 0 and self.wait_s > 0
