"""The flow of a connection's bytes: stopped where one side does not keep up."""

import asyncio
import select
from collections.abc import Callable

LOOK_S = 0.5  # between two looks at a client that may have gone


class Inflow:
    """pause() what a client sends, and resume() it. Both are idempotent.

    An event loop that does not read does not see a client go either: while paused, the socket is
    asked, and gone() called. (What a client sent beyond its socket's buffers still hides its end.)
    """

    __slots__ = ("_gone", "_timer", "_transport")

    def __init__(self, transport: asyncio.Transport, gone: Callable[[], None]) -> None:
        self._transport = transport
        self._gone = gone
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_paused(self) -> bool:
        return self._timer is not None

    def pause(self) -> None:
        if self._timer is None:
            self._transport.pause_reading()
            self._look_later()

    def resume(self) -> None:
        if self._timer is not None:
            self.forget()
            self._transport.resume_reading()

    def forget(self) -> None:
        """The connection is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        socket = self._transport.get_extra_info("socket")
        if socket is not None and has_hung_up(socket.fileno()):
            self._gone()
        else:
            self._look_later()


def has_hung_up(fd: int) -> bool:
    """The other side of socket fd has ended its half, or reset the connection."""
    if fd < 0:
        return True
    poll = select.poll()
    poll.register(fd, getattr(select, "POLLRDHUP", 0))  # Linux; elsewhere only both halves count
    return bool(poll.poll(0))


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
