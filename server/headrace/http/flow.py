"""The flow of a connection's bytes: stopped where one side does not keep up."""

import asyncio


class Inflow:
    """pause() what a client sends, and resume() it. Both are idempotent."""

    __slots__ = ("_transport", "is_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.is_paused = False

    def pause(self) -> None:
        if not self.is_paused:
            self.is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self.is_paused:
            self.is_paused = False
            self._transport.resume_reading()


class Outflow:
    """What a client has not read. unread: done when it has read enough; None: it keeps up."""

    __slots__ = ("_left_bytes", "_since_s", "unread")

    def __init__(self) -> None:
        self.unread: asyncio.Future[None] | None = None
        self._left_bytes = 0
        self._since_s = 0.0

    def stop(self) -> None:
        self.unread = asyncio.get_running_loop().create_future()

    def go_on(self) -> None:
        unread, self.unread = self.unread, None
        if unread is not None and not unread.done():
            unread.set_result(None)

    def look(self, left_bytes: int, now_s: float) -> None:
        """Begin to watch: left_bytes are still to be taken."""
        self._left_bytes = left_bytes
        self._since_s = now_s

    def has_stalled(self, left_bytes: int, now_s: float, after_s: float) -> bool:
        """The client has taken nothing for after_s since last looked at; 0: it may."""
        if left_bytes < self._left_bytes:
            self.look(left_bytes, now_s)
            return False
        return 0 < after_s <= now_s - self._since_s
