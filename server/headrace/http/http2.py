"""One HTTP/2 connection, the server's side (RFC 9113): frames in, streams out.

What comes in is http2_intake.py's; here is what goes out, who waits for whom, and how it ends.
For gRPC: requests with bodies in pieces, answers with trailers. No push, no priorities, no upgrade
from HTTP/1.1. What a client may make us hold is bounded: header blocks, open streams, what a stream
sends before it is read, and how often it may open and take back.
"""

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from headrace.http import frames
from headrace.http.exchange import Buffer
from headrace.http.flow import Outflow
from headrace.http.frames import Broken, Code, Kind, Setting
from headrace.http.http2_intake import Http2Intake
from headrace.http.http2_stream import Stream

LINGER_S = 2.0  # for a client to read our last words before the socket is closed
MAX_UNTAKEN_BYTES = 1 << 20  # of frames no window holds back, for a client that reads nothing
TURN_BYTES = 1 << 16  # of answers that may wait for the end of a turn of the loop


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """max_window_bytes: what a stream may send before it is read. 0: no time limit."""

    max_streams: int = 1000
    preface_timeout_s: float = 10.0  # for a client to say that it speaks HTTP/2
    write_idle_timeout_s: float = 60.0  # answers of which the client takes nothing
    body_idle_timeout_s: float = 30.0  # a request that stops coming; the application ends it
    max_header_bytes: int = 64 << 10  # the application refuses more; four times as many end all
    max_window_bytes: int = 1 << 20
    max_frame_bytes: int = 1 << 18
    connection_window_bytes: int = 64 << 20


class Http2Connection(asyncio.Protocol):
    """opened(stream): a request's headers have come; set the stream's callbacks there.

    begin(transport, received) for a connection that another protocol began.
    """

    def __init__(
        self,
        opened: Callable[[Stream], None],
        limits: Http2Limits = Http2Limits(),
        closed: Callable[["Http2Connection"], None] = lambda connection: None,
    ) -> None:
        self.limits = limits
        self.peer: Any = None
        self.peer_frame_bytes = frames.DEFAULT_FRAME_BYTES
        self.streams: dict[int, Stream] = {}
        self._intake = Http2Intake(self, opened)
        self._closed = closed
        self._transport: asyncio.Transport | None = None
        self._send_window = frames.DEFAULT_WINDOW
        self._out: list[Buffer] = []
        self._is_reading = False
        self._is_paused = False  # the transport's buffer is full
        self._untaken = 0  # bytes written since
        self._blocked: dict[int, Stream] = {}  # by the connection's window, not by their own
        self._greeting: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._outflow = Outflow()  # while it lingers
        self._stall: asyncio.TimerHandle | None = None  # runs while an answer waits for the client
        self._sent = 0  # bytes of answers
        self._send_at = TURN_BYTES  # bytes of them, at which they wait no longer for the turn's end
        self._sent_at_stall = 0
        self.is_going = False  # GOAWAY has been sent
        self.is_closed = False

    # The transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.begin(cast(asyncio.Transport, transport), b"")

    def begin(self, transport: asyncio.Transport, received: bytes) -> None:
        self._transport = transport
        self.peer = transport.get_extra_info("peername")
        limits = self.limits
        settings = (
            (Setting.MAX_CONCURRENT_STREAMS, limits.max_streams),
            (Setting.INITIAL_WINDOW_SIZE, limits.max_window_bytes),
            (Setting.MAX_FRAME_SIZE, limits.max_frame_bytes),
            (Setting.MAX_HEADER_LIST_SIZE, limits.max_header_bytes),
        )
        more = limits.connection_window_bytes - frames.DEFAULT_WINDOW
        transport.write(frames.pack_settings(settings) + frames.pack_window_update(0, more))
        if limits.preface_timeout_s:
            loop = asyncio.get_running_loop()
            self._greeting = loop.call_later(limits.preface_timeout_s, self.abort)
        if received:
            self.data_received(received)

    def data_received(self, data: bytes) -> None:
        if self.is_closed:
            return
        self._is_reading = True
        try:
            self._intake.feed(data)
        except Broken as err:
            self._break_off(err)
        finally:
            self._is_reading = False
            self._send()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        for timer in (self._greeting, self._stall, self._linger):
            if timer is not None:
                timer.cancel()
        for stream in list(self.streams.values()):
            self._take_back(stream)
        self.streams.clear()
        self._closed(self)

    def pause_writing(self) -> None:
        self._is_paused, self._untaken = True, 0

    def resume_writing(self) -> None:
        self._is_paused = False
        self._flush_blocked()

    # Streams' calls

    def write(self, data: Buffer) -> None:
        """Together with what else is written in this turn of the loop."""
        if not self._out and not self._is_reading:
            asyncio.get_running_loop().call_soon(self._send)
        self._out.append(data)

    def sendable(self, stream: Stream) -> int:
        """How much of stream may go out now. What piles up in a turn of the loop goes first: an
        application that never waits is to see whether its client keeps up."""
        if self._sent >= self._send_at and not self._is_reading:
            self._send()
        if self._is_paused:
            return 0
        return min(self._send_window, stream.send_window)

    def write_data(self, stream: Stream, data: Buffer) -> None:
        """data fits the windows."""
        size, most = len(data), self.peer_frame_bytes
        self._sent += size
        self._send_window -= size
        stream.send_window -= size
        if size <= most:
            self.write(_data_head(stream, size))
            self.write(data)
            return
        view = memoryview(data)
        for at in range(0, size, most):
            piece = view[at : at + most]
            self.write(_data_head(stream, len(piece)))
            self.write(piece)

    def stalled(self, stream: Stream) -> None:
        """An answer waits for the client, which has a time for taking some of what is there."""
        if stream.send_window > 0:
            self._blocked[stream.id] = stream
        if self._stall is None:
            self._await_reader()

    def _await_reader(self) -> None:
        timeout_s = self.limits.write_idle_timeout_s
        if timeout_s:
            self._sent_at_stall = self._sent
            loop = asyncio.get_running_loop()
            self._stall = loop.call_later(timeout_s, self._look_again)

    def _look_again(self) -> None:
        self._stall = None
        if not any(stream.unread is not None for stream in self.streams.values()):
            return
        if self._sent == self._sent_at_stall:
            self.abort()
        else:
            self._await_reader()

    def answered(self, stream: Stream) -> None:
        if stream.is_remote_over:
            self.forget(stream)
        else:  # answered before its request has come whole
            stream.reset(Code.NO_ERROR)

    def forget(self, stream: Stream) -> None:
        self.streams.pop(stream.id, None)
        self._blocked.pop(stream.id, None)
        if self.is_going and not self.streams:
            self.close()

    # The server's calls

    def go_away(self) -> None:
        """Take no new streams; the connection ends with the last open one."""
        if not self.is_going and not self.is_closed:
            self.is_going = True
            self.write(frames.pack_goaway(self._intake.last_stream, Code.NO_ERROR))
            if not self.streams:
                self.close()

    def close(self) -> None:
        """A socket closed with bytes unread is reset, and a client may then lose its last answer:
        our half ends first, where it can end alone."""
        self._send()
        self.is_closed = True
        transport = self._transport
        if transport is None or self._linger is not None:
            return
        if not transport.can_write_eof():
            transport.close()
            return
        loop = asyncio.get_running_loop()
        self._outflow.look(transport.get_write_buffer_size(), loop.time())
        self._linger = loop.call_later(LINGER_S, self._linger_on)
        for stream in list(self.streams.values()):
            self._take_back(stream)
        try:
            transport.write_eof()
        except OSError:  # the client has gone, and asyncio tells only in the next turn
            transport.close()

    def _linger_on(self) -> None:
        """As long as the client takes its answer."""
        transport = self._transport
        assert transport is not None
        loop, left = asyncio.get_running_loop(), transport.get_write_buffer_size()
        if not left:
            transport.close()
        elif self._outflow.has_stalled(left, loop.time(), self.limits.write_idle_timeout_s):
            transport.abort()
        else:
            self._linger = loop.call_later(LINGER_S, self._linger_on)

    @property
    def is_sending(self) -> bool:
        """An answer is still to end, or to be taken from the transport."""
        transport = self._transport
        if transport is None:
            return False
        return bool(self.streams) or transport.get_write_buffer_size() > 0

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # The intake's calls

    def greeted(self) -> None:
        """The client does speak HTTP/2."""
        if self._greeting is not None:
            self._greeting.cancel()

    def widen(self, more: int) -> None:
        """The client takes so many bytes more, of all streams together. Raises Broken."""
        self._send_window += more
        if self._send_window > frames.MAX_WINDOW:
            raise Broken(Code.FLOW_CONTROL_ERROR, "the connection's window")
        self._flush_blocked()

    def taken_back(self, stream: Stream) -> None:
        """The client wants no answer."""
        self._take_back(stream)
        self.forget(stream)

    def end_stream(self, stream: Stream, code: Code) -> None:
        """The client broke the protocol on this stream alone."""
        self._take_back(stream)
        stream.is_reset = False
        stream.reset(code)

    # Ends, and what goes out

    def _take_back(self, stream: Stream) -> None:
        stream.close()
        callback, stream.on_reset = stream.on_reset, None
        if callback is not None:
            callback()

    def _break_off(self, err: Broken) -> None:
        self._out.append(frames.pack_goaway(self._intake.last_stream, err.code, str(err)))
        self.close()

    def _flush_blocked(self) -> None:
        """The connection may send more: as much as that is, in the order they came to wait."""
        while self._blocked and self._send_window > 0 and not self._is_paused:
            self._blocked.pop(next(iter(self._blocked))).flush()

    def _send(self) -> None:
        out, self._out = self._out, []
        self._send_at = self._sent + TURN_BYTES
        if not out or self._transport is None or self._transport.is_closing() or self._linger:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        if self._is_paused:
            self._untaken += len(data)
            if self._untaken > MAX_UNTAKEN_BYTES:
                self.is_closed = True
                self.abort()
                return
        self._transport.write(data)


def _data_head(stream: Stream, size: int) -> bytes:
    return struct.pack(">BHBBI", size >> 16, size & 0xFFFF, Kind.DATA, 0, stream.id)
