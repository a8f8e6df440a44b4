"""One request and its answer, as an application sees them.

`respond` is the short road: status, headers and body leave in one write. `start`, `write` and `end`
send an answer piece by piece; `await written()` between pieces holds a producer back while the
client does not keep up.
"""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from headrace.http import eager
from headrace.http.chunks import LAST, to_chunk
from headrace.http.head import RequestHead
from headrace.http.response import BODILESS, Headers, date_now, first_lines

if TYPE_CHECKING:
    from headrace.http.connection import Connection

Buffer = bytes | bytearray | memoryview
JOINED_BYTES = 1 << 16  # smaller parts are copied into one write, larger ones written as they are


class Gone(ConnectionError):
    """The client has hung up; nothing that is sent reaches it."""


class Exchange:
    """headers: lower-case names, the last of a name wins. body: whole, once `finish` is called.
    started_ns: when the head had come, on `time.perf_counter_ns()`'s clock.

    aligned_at: the offset in a body that should begin at an aligned address, where it is large
    enough to get a buffer of its own; set it when the head has come.
    takes_body: False: the body is not kept, and not waited for where it is long; set it likewise.
    closes: the connection ends with this answer; set it before answering.
    """

    __slots__ = (
        "_content_left",
        "_is_chunked",
        "_is_framed",
        "_task",
        "aligned_at",
        "body",
        "body_length",
        "closes",
        "connection",
        "fields",
        "has_ended",
        "has_started",
        "headers",
        "is_gone",
        "is_unread",
        "max_body_bytes",
        "method",
        "on_gone",
        "started_ns",
        "state",
        "takes_body",
        "target",
        "version",
    )

    def __init__(self, connection: "Connection", head: RequestHead) -> None:
        self.connection = connection
        self.method = head.method
        self.target = head.target
        self.version = head.version
        self.headers = dict(head.headers)
        self.fields = head.fields  # as they came, in order
        self.started_ns = time.perf_counter_ns()
        self.body_length = head.body_length
        self.body: Buffer = b""
        self.aligned_at = 0
        self.takes_body = True
        self.closes = False
        self.is_unread = True  # some of the body is still to come
        self.has_started = False  # the answer
        self.has_ended = False
        self.is_gone = False
        self.max_body_bytes = connection.max_body_bytes  # Tornado's handlers may change it
        self.state: Any = None  # the application's own
        self.on_gone: Any = None  # called without arguments when the client hangs up
        self._is_chunked = False
        self._is_framed = True
        self._content_left = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def peer(self) -> Any:
        return self.connection.peer

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work, which answers; it is cancelled when the client hangs up.

        An answer it leaves unfinished ends the connection, so that it cannot look whole.
        """
        self._task = eager.start(work, self._ran)

    @property
    def is_running(self) -> bool:
        return self._task is not None

    def cancel(self) -> bool:
        """Cancel what `run` started; False where nothing runs."""
        return self._task is not None and self._task.cancel()

    def respond(self, status: int, headers: Headers, parts: Sequence[Buffer] = ()) -> None:
        """A whole answer; Date, Content-Length and Connection are added.

        Nothing of parts is sent to HEAD, nor with a status that has no body. Raises ValueError,
        having sent nothing, for headers that HTTP cannot carry.
        """
        size = 0
        for part in parts:
            size += part.nbytes if isinstance(part, memoryview) else len(part)
        if status in BODILESS:
            size, parts = 0, ()
            own = f"{date_now()}{self._connection_line()}"
        else:
            own = f"{date_now()}Content-Length: {size}\r\n{self._connection_line()}"
        first = first_lines(status, headers, own)
        self.has_started = True
        connection = self.connection
        if self.method == "HEAD" or not size:
            connection.write(first)
        elif size <= JOINED_BYTES:
            connection.write(b"".join((first, *parts)))
        else:
            connection.write(first)
            for part in parts:
                connection.write(part)
        self._end()

    def start(
        self, status: int, headers: Headers, reason: str | None = None, length: int | None = None
    ) -> None:
        """The head of an answer. length: of the content, where headers hold it; None: unknown, so
        it is sent chunked, or to HTTP/1.0 until the connection ends. Raises ValueError."""
        own = ""
        self._is_framed = self.method != "HEAD" and status not in BODILESS and status >= 200
        self._content_left = -1 if length is None else length
        if length is None and self._is_framed:
            if self.version == "HTTP/1.1":
                self._is_chunked = True
                own = "Transfer-Encoding: chunked\r\n"
            else:
                self.closes = True
        first = first_lines(status, headers, own + self._connection_line(), reason)
        self.connection.write(first)
        self.has_started = True

    def write(self, piece: Buffer) -> None:
        """Raises Gone where the client has hung up, ValueError for more than was announced."""
        if self.is_gone:
            raise Gone("the client has hung up")
        if not len(piece) or not self._is_framed:
            return
        if self._content_left >= 0:
            self._content_left -= len(piece)
            if self._content_left < 0:
                self.abort()
                raise ValueError("more content than Content-Length said")
        self.connection.write(to_chunk(bytes(piece)) if self._is_chunked else piece)

    async def written(self) -> None:
        """Return when the client keeps up with what was written. Raises Gone."""
        if self.connection.unread is not None:
            await asyncio.shield(self.connection.unread)
        if self.is_gone:
            raise Gone("the client has hung up")

    def end(self) -> None:
        """The answer that `start` began is whole. Raises ValueError for less than announced."""
        if self.has_ended:
            return
        if self._content_left > 0 and self._is_framed:
            left = self._content_left
            self.abort()
            raise ValueError(f"{left} bytes less content than Content-Length said")
        if self._is_chunked:
            self.connection.write(LAST)
        self._end()

    def proceed(self) -> None:
        """Answer `Expect: 100-continue`."""
        self.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def abort(self) -> None:
        """End the connection now, so that half an answer cannot look whole."""
        self.connection.abort()

    def lost(self) -> None:
        """The connection's word that the client has gone."""
        self.is_gone = True
        if self._task is not None:
            self._task.cancel()
        callback, self.on_gone = self.on_gone, None
        if callback is not None:
            callback()

    def _connection_line(self) -> str:
        if self.closes or self.is_unread or not self.connection.keeps_alive:
            self.closes = True
            return "Connection: close\r\n"
        return "Connection: keep-alive\r\n" if self.version == "HTTP/1.0" else ""

    def _end(self) -> None:
        if not self.has_ended:
            self.has_ended = True
            self.on_gone = None
            self.connection.answered(self)

    def _ran(self, error: BaseException | None) -> None:
        self._task = None
        self.connection.ran(self)
        if not self.has_ended and not self.is_gone:
            self.abort()
        if error is not None and not isinstance(error, asyncio.CancelledError | Gone):
            self.connection.failed(error)
