"""One HTTP/2 stream: a request and its answer, as far as the windows let it go."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from headrace.http import frames
from headrace.http.exchange import Buffer
from headrace.http.frames import Code

if TYPE_CHECKING:
    from headrace.http.http2 import Http2Connection


class Stream:
    """One request and its answer. headers: names and values as they came, pseudo-headers too;
    header_bytes may be over the limit, the application then refuses them.

    on_data(piece, is_last) is called for each piece of the body, in order; on_reset() once if the
    client takes the request back, or the connection ends before the answer has.
    """

    __slots__ = (
        "_pending",
        "_received",
        "_trailers",
        "connection",
        "header_bytes",
        "headers",
        "id",
        "is_local_over",
        "is_remote_over",
        "is_reset",
        "on_data",
        "on_reset",
        "receive_window",
        "send_window",
        "unread",
    )

    def __init__(self, connection: "Http2Connection", number: int, send_window: int) -> None:
        self.connection = connection
        self.id = number
        self.headers: list[tuple[bytes, bytes]] = []
        self.header_bytes = 0
        self.on_data: Callable[[bytes, bool], None] | None = None
        self.on_reset: Callable[[], None] | None = None
        self.send_window = send_window
        # Until a client has read our settings it may send what HTTP/2 allows without them.
        self.receive_window = max(connection.limits.max_window_bytes, frames.DEFAULT_WINDOW)
        self.is_remote_over = False
        self.is_local_over = False
        self.is_reset = False
        self.unread: asyncio.Future[None] | None = None  # the client does not keep up
        self._pending: deque[memoryview] = deque()
        self._received = 0  # bytes the client has not got its window back for
        self._trailers: bytes | None = None

    @property
    def peer(self) -> Any:
        return self.connection.peer

    def send_headers(self, block: bytes) -> None:
        """block: of `header_blocks.to_block`."""
        if not self.is_reset:
            connection = self.connection
            connection.write(frames.pack_block(self.id, block, False, connection.peer_frame_bytes))

    def send_data(self, data: Buffer) -> None:
        """As the windows let it; `unread` is set while some of it waits."""
        if self.is_reset:
            return
        if not self._pending and len(data) <= self.connection.sendable(self):
            self.connection.write_data(self, data)
        else:
            self._pending.append(memoryview(data).cast("B"))
            self.flush()

    def send_trailers(self, block: bytes) -> None:
        """The end of the answer, once all content has gone."""
        if self.is_reset or self.is_local_over:
            return
        self._trailers = block
        self.flush()

    def flush(self) -> None:
        """Send what the windows let through."""
        connection = self.connection
        while self._pending:
            left = connection.sendable(self)
            if left <= 0:
                if self.unread is None:
                    self.unread = asyncio.get_running_loop().create_future()
                connection.stalled(self)
                return
            piece = self._pending[0]
            if len(piece) <= left:
                self._pending.popleft()
                connection.write_data(self, piece)
            else:
                self._pending[0] = piece[left:]
                connection.write_data(self, piece[:left])
        self._keeps_up()
        if self._trailers is not None and not self.is_local_over:
            self.is_local_over = True
            connection.write(
                frames.pack_block(self.id, self._trailers, True, connection.peer_frame_bytes)
            )
            connection.answered(self)

    def consumed(self, size_bytes: int) -> None:
        """So many bytes of the body have been read: the client may send as many more."""
        self._received += size_bytes
        connection = self.connection
        if self._received >= connection.limits.max_window_bytes // 2 and not self.is_remote_over:
            connection.write(frames.pack_window_update(self.id, self._received))
            self.receive_window += self._received
            self._received = 0

    def reset(self, code: Code) -> None:
        """End the stream without an answer, or without the rest of the request."""
        if not self.is_reset:
            self.connection.write(frames.pack_reset(self.id, code))
            self.close()
            self.connection.forget(self)

    def close(self) -> None:
        self.is_reset = True
        self._pending.clear()
        self._keeps_up()

    def _keeps_up(self) -> None:
        unread, self.unread = self.unread, None
        if unread is not None and not unread.done():
            unread.set_result(None)
