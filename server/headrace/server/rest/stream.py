"""One TCP connection as the stream that Tornado's HTTP/1 connection reads from and writes to.

    connection_made ─▶ sniff the first bytes ─┬─ "PRI * HTTP/2.0" ─▶ splice.py
                                              └─ else ─▶ tornado.http1connection, over this stream

Tornado's own IOStream closes without a word where a limit is crossed. This one has the methods that
HTTP1Connection uses, on an asyncio transport, and answers: 431 for a head too large, 408 for a head
or body that does not come, 400 with a reason for what Tornado cannot parse.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from tornado.ioloop import IOLoop
from tornado.iostream import StreamClosedError

from headrace.server.rest import head
from headrace.server.rest.answer import Answer, error_answer, to_bytes
from headrace.server.rest.head import HeadLimits

PREFACE = b"PRI * HTTP/2.0"  # how an HTTP/2 client with prior knowledge begins
HIGH_WATER_BYTES = 1 << 20  # of received bytes nobody has read yet
LINGER_S = 2.0  # longest a client may go on sending what nobody reads, to hear its answer
_TORNADO_400 = b"HTTP/1.1 400 Bad Request\r\n\r\n"
_TORNADO_100 = b"HTTP/1.1 100 (Continue)\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_HEAD_END = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Seconds; 0 means no limit."""

    header_timeout_s: float = 10.0
    body_idle_timeout_s: float = 30.0
    keep_alive_s: float = 65.0
    write_idle_timeout_s: float = 60.0  # an answer of which the client takes nothing
    head: HeadLimits = field(default_factory=HeadLimits)


class StreamOwner(Protocol):
    """Who is told of a connection: the listener."""

    def opened(self, stream: "HttpStream") -> None: ...

    def serve_http1(self, stream: "HttpStream") -> None: ...

    def serve_http2(self, transport: asyncio.Transport, received: bytes) -> None:
        """Takes transport over. received: what the client has sent so far."""
        ...

    def closed(self, stream: "HttpStream") -> None: ...


class _TimedOut(Exception):
    """Nothing came in time."""


class HttpStream(asyncio.Protocol):
    """sniffs: hand HTTP/2 connections on; only where the bytes are plain, not over TLS."""

    max_buffer_size = 1 << 62  # the body limit is the exchange's business

    def __init__(self, owner: StreamOwner, limits: StreamLimits, sniffs: bool) -> None:
        self._owner = owner
        self._limits = limits
        self._sniffs = sniffs
        self._loop = asyncio.get_running_loop()
        self.io_loop = IOLoop.current()
        self.transport: asyncio.Transport | None = None
        self.peer: Any = None
        self._buffer = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._on_close: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_serving = False
        self._is_closed = False
        self._is_paused = False
        self._lingers = False
        self._head = b""
        self._has_answered = False  # since the last head
        self._messages = 0
        self._is_idle = False

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.peer = transport.get_extra_info("peername")
        self._owner.opened(self)
        if self._sniffs:
            self._after(self._limits.header_timeout_s, self._never_spoke)
        else:
            self._start()

    def data_received(self, data: bytes) -> None:
        if self._is_closed:
            return  # lingering: the client finishes what nobody reads
        self._buffer += data
        if not self._is_serving:
            self._sniff()
            return
        self._wake()
        if len(self._buffer) > HIGH_WATER_BYTES and not self._is_paused and self.transport:
            self._is_paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """A client that has hung up, or will send no more: it gets no answer, as in Tornado."""
        self._lost()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()
        self._cancel_timer()
        self._owner.closed(self)

    def pause_writing(self) -> None:
        if self._drained is None:
            self._drained = self._loop.create_future()
            self._watch_reader(1 << 62)

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def _watch_reader(self, unread_bytes: int) -> None:
        """Cut a client that has taken nothing of its answer since there were unread_bytes."""
        if self._drained is None or self.transport is None:
            return
        now_unread = self.transport.get_write_buffer_size()
        if now_unread >= unread_bytes:
            self.transport.abort()
        elif self._limits.write_idle_timeout_s:
            self._loop.call_later(self._limits.write_idle_timeout_s, self._watch_reader, now_unread)

    def _sniff(self) -> None:
        size = min(len(self._buffer), len(PREFACE))
        if self._buffer[:size] != PREFACE[:size]:
            self._start()
        elif size == len(PREFACE):
            self._cancel_timer()
            received, self._buffer = bytes(self._buffer), bytearray()
            assert self.transport is not None
            transport, self.transport = self.transport, None
            self._is_closed = True
            self._owner.closed(self)
            self._owner.serve_http2(transport, received)

    def _start(self) -> None:
        self._cancel_timer()
        self._is_serving = True
        self._owner.serve_http1(self)

    def _never_spoke(self) -> None:
        self.refuse(self._slow_head())

    def _lost(self) -> None:
        if not self._is_closed:
            self._cancel_timer()
            self._is_closed = True
            if self.transport is not None:
                self.transport.close()
        self._wake()
        self.resume_writing()
        callback, self._on_close = self._on_close, None
        if callback is not None:
            self._loop.call_soon(callback)

    # Tornado's side

    async def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> bytes:
        """The head of the next request. It answers what is too large, too many or too late."""
        self._has_answered = False
        is_first, self._messages = self._messages == 0, self._messages + 1
        if not self._buffer:
            if is_first:
                await self._more(self._limits.header_timeout_s, self._slow_head)
            else:
                self._is_idle = True
                await self._more(self._limits.keep_alive_s, None)
                self._is_idle = False
        deadline_s = self._loop.time() + self._limits.header_timeout_s
        scanned = 0
        while True:
            found = _HEAD_END.search(self._buffer, max(0, scanned - 3))
            end = found.end() if found else len(self._buffer)
            self._refuse_if(head.check_size(end, self._limits.head))
            if found is not None:
                break
            scanned = end
            left_s = max(0.001, deadline_s - self._loop.time())
            await self._more(left_s if self._limits.header_timeout_s else 0, self._slow_head)
        self._head = self._take(end)
        self._refuse_if(head.check_count(self._head, self._limits.head))
        return self._head

    async def read_until(self, delimiter: bytes, max_bytes: int | None = None) -> bytes:
        """The size line of a chunk."""
        while (at := self._buffer.find(delimiter)) < 0:
            if max_bytes is not None and len(self._buffer) > max_bytes:
                self.refuse(error_answer(400, head.explain(self._head)))
                raise StreamClosedError
            await self._more(self._limits.body_idle_timeout_s, self._slow_body)
        return self._take(at + len(delimiter))

    async def read_bytes(self, num_bytes: int, partial: bool = False) -> bytes:
        while len(self._buffer) < (1 if partial else num_bytes):
            await self._more(self._limits.body_idle_timeout_s, self._slow_body)
        return self._take(num_bytes)

    def write(self, data: bytes) -> "asyncio.Future[None]":
        """Done when the client keeps up again; failed when it has gone."""
        future: asyncio.Future[None] = self._loop.create_future()
        if data == _TORNADO_400:  # all that Tornado says of a message it cannot parse
            self.refuse(error_answer(400, head.explain(self._head)))
        elif not self._is_closed and self.transport is not None:
            if data == _TORNADO_100:
                data = _CONTINUE
            else:
                self._has_answered = True
            self.transport.write(data)
            if self._drained is not None:
                return self._drained
        else:
            future.set_exception(StreamClosedError())
            future.exception()  # retrieved: Tornado does not always wait for it
            return future
        future.set_result(None)
        return future

    def closed(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        """End the connection once what was written has gone out. Idempotent."""
        if self._is_closed:
            return
        if self._lingers and self.transport is not None and self.transport.can_write_eof():
            # Closing with bytes unread would reset the connection and lose the answer.
            self._is_closed = True
            self.transport.write_eof()
            self.transport.resume_reading()
            self._after(LINGER_S, self.transport.close)
            self._wake()
        else:
            self._lost()

    def close_if_idle(self) -> None:
        """Close a connection that waits for its next request."""
        if self._is_idle and not self._buffer:
            self.close()

    def end(self) -> None:
        """Close, and wait for no client."""
        self._lingers = False
        self.close()
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """End the connection now, so that a half-sent body cannot look whole."""
        if self.transport is not None:
            self.transport.abort()

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        self._on_close = callback
        if callback is not None and self._is_closed:
            self._on_close = None
            self._loop.call_soon(callback)

    def set_nodelay(self, value: bool) -> None:
        """asyncio never delays."""

    # Ours

    def linger(self) -> None:
        """The answer comes before the body has: let the client finish sending when closing."""
        self._lingers = True

    def refuse(self, answer: Answer) -> None:
        """Answer outside of any request and close; only close where an answer has begun."""
        if not self._is_closed and not self._has_answered and self.transport is not None:
            self._has_answered = True
            self.transport.write(to_bytes(answer))
            self._lingers = True
        self.close()

    def _refuse_if(self, answer: Answer | None) -> None:
        if answer is not None:
            self.refuse(answer)
            raise StreamClosedError

    def _slow_head(self) -> Answer:
        seconds = self._limits.header_timeout_s
        return error_answer(
            408, f"the request headers did not arrive within {seconds:g} s "
            f"(--header_timeout_s {seconds:g})"
        )  # fmt: skip

    def _slow_body(self) -> Answer:
        seconds = self._limits.body_idle_timeout_s
        return error_answer(
            408, f"nothing of the request body arrived for {seconds:g} s "
            f"(--body_idle_timeout_s {seconds:g})"
        )  # fmt: skip

    def _take(self, size: int) -> bytes:
        if size >= len(self._buffer):
            taken, self._buffer = bytes(self._buffer), bytearray()
        else:
            taken = bytes(memoryview(self._buffer)[:size])
            del self._buffer[:size]
        if self._is_paused and len(self._buffer) <= HIGH_WATER_BYTES and self.transport:
            self._is_paused = False
            self.transport.resume_reading()
        return taken

    async def _more(self, timeout_s: float, late: Callable[[], Answer] | None) -> None:
        """Wait for bytes. late: what to answer if none come in time; None: close without one."""
        if self._is_closed:
            raise StreamClosedError
        self._waiter = self._loop.create_future()
        self._after(timeout_s, self._out_of_time)
        try:
            await self._waiter
        except _TimedOut:
            if late is None:
                self.close()
            else:
                self.refuse(late())
            raise StreamClosedError from None
        finally:
            self._waiter = None
            if not self._is_closed:
                self._cancel_timer()
        if self._is_closed:
            raise StreamClosedError

    def _out_of_time(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(_TimedOut())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _after(self, seconds: float, callback: Callable[[], None]) -> None:
        self._cancel_timer()
        if seconds:
            self._timer = self._loop.call_later(seconds, callback)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
