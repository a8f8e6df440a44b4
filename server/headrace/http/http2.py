"""One HTTP/2 connection, the server's side (RFC 9113): frames in, streams out.

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
from headrace.http.header_blocks import BlockReader
from headrace.http.http2_abuse import Abuse
from headrace.http.http2_stream import Stream

LINGER_S = 2.0  # for a client to read our last words before the socket is closed
MAX_UNTAKEN_BYTES = 1 << 20  # of frames no window holds back, for a client that reads nothing
TURN_BYTES = 1 << 16  # of answers that may wait for the end of a turn of the loop
HEADROOM = 4  # times the headers that are allowed are read, so that their stream alone is refused


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
        self._opened = opened
        self._closed = closed
        self._transport: asyncio.Transport | None = None
        self._held = b""
        self._has_preface = False
        self._has_settings = False
        self._max_block_bytes = HEADROOM * limits.max_header_bytes
        self._headers = BlockReader(self._max_block_bytes)
        self._block: bytearray | None = None  # of a request whose headers are still coming
        self._block_of = 0
        self._block_ends_stream = False
        self._last_stream = 0
        self._initial_window = frames.DEFAULT_WINDOW
        self._send_window = frames.DEFAULT_WINDOW
        self._received = 0
        self._out: list[Buffer] = []
        self._is_reading = False
        self._is_paused = False  # the transport's buffer is full
        self._untaken = 0  # bytes written since
        self._abuse = Abuse()
        self._blocked: dict[int, Stream] = {}  # by the connection's window, not by their own
        self._greeting: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._outflow = Outflow()  # while it lingers
        self._stall: asyncio.TimerHandle | None = None  # runs while an answer waits for the client
        self._sent = 0  # bytes of answers
        self._send_at = TURN_BYTES  # bytes of them, at which they wait no longer for the turn's end
        self._sent_at_stall = 0
        self._is_going = False  # GOAWAY has been sent
        self._is_closed = False

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
        if self._is_closed:
            return
        if self._held:
            data, self._held = self._held + data, b""
        self._is_reading = True
        try:
            at = self._read(data)
            self._held = data[at:] if at < len(data) else b""
        except Broken as err:
            self._break_off(err)
        finally:
            self._is_reading = False
            self._send()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closed = True
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
            self.write(
                frames.pack(Kind.DATA, 0, stream.id) if not size else _data_head(stream, size)
            )
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
        if self._is_going and not self.streams:
            self.close()

    # The server's calls

    def go_away(self) -> None:
        """Take no new streams; the connection ends with the last open one."""
        if not self._is_going and not self._is_closed:
            self._is_going = True
            self.write(frames.pack_goaway(self._last_stream, Code.NO_ERROR))
            if not self.streams:
                self.close()

    def close(self) -> None:
        """A socket closed with bytes unread is reset, and a client may then lose its last answer:
        our half ends first, where it can end alone."""
        self._send()
        self._is_closed = True
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

    # Reading

    def _read(self, data: bytes) -> int:
        """Take whole frames; where the rest begins."""
        at, size = 0, len(data)
        if not self._has_preface:
            most = min(size, len(frames.PREFACE))
            if data[:most] != frames.PREFACE[:most]:
                raise Broken(Code.PROTOCOL_ERROR, "this port speaks HTTP/2")
            if size < len(frames.PREFACE):
                return 0
            at, self._has_preface = len(frames.PREFACE), True
        max_frame_bytes = self.limits.max_frame_bytes
        while size - at >= frames.HEADER_BYTES:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            kind, flags = data[at + 3], data[at + 4]
            number = int.from_bytes(data[at + 5 : at + 9], "big") & frames.MAX_WINDOW
            if length > max_frame_bytes:
                raise Broken(Code.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            end = at + frames.HEADER_BYTES + length
            if end > size:
                break
            self._take(kind, flags, number, data[at + frames.HEADER_BYTES : end])
            at = end
            if self._is_closed:
                return size
        return at

    def _take(self, kind: int, flags: int, number: int, content: bytes) -> None:
        if self._block is not None and (kind != Kind.CONTINUATION or number != self._block_of):
            raise Broken(Code.PROTOCOL_ERROR, "a frame inside a header block")
        if not self._has_settings and kind != Kind.SETTINGS:
            raise Broken(Code.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        take = _TAKE.get(kind)
        if take is None:
            self._count_control()  # of a kind nobody knows: ignored
        else:
            take(self, flags, number, content)

    def _take_data(self, flags: int, number: int, content: bytes) -> None:
        size = len(content)
        self._received += size
        if self._received >= self.limits.connection_window_bytes // 4:
            self.write(frames.pack_window_update(0, self._received))
            self._received = 0
        is_last = bool(flags & frames.END_STREAM)
        stream = self.streams.get(number)
        if stream is None or stream.is_remote_over:
            self._check_known(number)
            if stream is not None:
                raise Broken(Code.STREAM_CLOSED, f"content of stream {number} after its end")
            return  # of a stream we have ended: on its way before the client knew
        piece = (
            frames.unpadded(content, flags & frames.PADDED) if flags & frames.PADDED else content
        )
        if not piece and not is_last:
            self._count_control()
        stream.receive_window -= size
        if stream.receive_window < 0:
            self._count_reset()
            self._end_stream(stream, Code.FLOW_CONTROL_ERROR)
            return
        if len(piece) < size:
            stream.consumed(size - len(piece))
        stream.is_remote_over = is_last
        if stream.on_data is not None:
            stream.on_data(piece, is_last)

    def _take_headers(self, flags: int, number: int, content: bytes) -> None:
        block = content
        if flags & (frames.PADDED | frames.PRIORITY_FLAG):
            block = frames.unpadded(content, flags)
        self._block_ends_stream = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            self._take_block(number, block)
        else:
            self._block, self._block_of = bytearray(block), number

    def _take_continuation(self, flags: int, number: int, content: bytes) -> None:
        if self._block is None:
            raise Broken(Code.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._block += content
        self._count_control()
        if len(self._block) > self._max_block_bytes:
            raise Broken(Code.ENHANCE_YOUR_CALM, "the headers are too long")
        if flags & frames.END_HEADERS:
            block, self._block = bytes(self._block), None
            self._take_block(number, block)

    def _take_block(self, number: int, block: bytes) -> None:
        is_last = self._block_ends_stream
        read = self._headers.read(block)
        stream = self.streams.get(number)
        if stream is not None:  # trailers
            if not is_last or stream.is_remote_over:
                raise Broken(Code.PROTOCOL_ERROR, f"more headers of stream {number}")
            stream.is_remote_over = True
            if stream.on_data is not None:
                stream.on_data(b"", True)
            return
        if not number % 2:
            raise Broken(Code.PROTOCOL_ERROR, f"stream {number} is not a client's")
        if number <= self._last_stream:
            if is_last:
                return  # trailers, on their way before the client knew that we had answered
            raise Broken(Code.STREAM_CLOSED, f"headers of stream {number} after its end")
        self._last_stream = number
        if len(self.streams) >= self.limits.max_streams or self._is_going:
            self._count_reset()
            self.write(frames.pack_reset(number, Code.REFUSED_STREAM))
            return
        if read.fault:
            self._count_reset()
            self.write(frames.pack_reset(number, Code.PROTOCOL_ERROR))
            return
        stream = self.streams[number] = Stream(self, number, self._initial_window)
        stream.headers, stream.header_bytes = read.fields, read.size_bytes
        stream.is_remote_over = is_last
        self._opened(stream)
        if is_last and stream.on_data is not None and not stream.is_reset:
            stream.on_data(b"", True)

    def _take_priority(self, flags: int, number: int, content: bytes) -> None:
        if len(content) != 5 or not number:
            raise Broken(Code.FRAME_SIZE_ERROR, "PRIORITY of a wrong size, or of no stream")
        self._count_control()

    def _take_reset(self, flags: int, number: int, content: bytes) -> None:
        if len(content) != 4:
            raise Broken(Code.FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
        self._check_known(number)
        self._count_reset()
        stream = self.streams.get(number)
        if stream is not None:
            self._take_back(stream)
            self.forget(stream)

    def _take_settings(self, flags: int, number: int, content: bytes) -> None:
        if number:
            raise Broken(Code.PROTOCOL_ERROR, "SETTINGS of a stream")
        if flags & frames.ACK:
            if content:
                raise Broken(Code.FRAME_SIZE_ERROR, "SETTINGS with content as an acknowledgement")
            return
        if len(content) % 6:
            raise Broken(Code.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        self._has_settings = True
        if self._greeting is not None:
            self._greeting.cancel()
        self._count_control()
        for key, value in struct.iter_unpack(">HI", content):
            self._set(key, value)
        self.write(frames.pack(Kind.SETTINGS, frames.ACK, 0))

    def _set(self, key: int, value: int) -> None:
        if key == Setting.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise Broken(Code.FLOW_CONTROL_ERROR, f"an initial window of {value} bytes")
            more, self._initial_window = value - self._initial_window, value
            for stream in self.streams.values():
                stream.send_window += more
                if stream.send_window > frames.MAX_WINDOW:
                    raise Broken(Code.FLOW_CONTROL_ERROR, f"window of stream {stream.id}")
            for stream in list(self.streams.values()):
                stream.flush()
        elif key == Setting.MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME_BYTES <= value < 1 << 24:
                raise Broken(Code.PROTOCOL_ERROR, f"frames of {value} bytes")
            self.peer_frame_bytes = value
        elif key == Setting.ENABLE_PUSH and value > 1:
            raise Broken(Code.PROTOCOL_ERROR, f"ENABLE_PUSH {value}")

    def _take_push(self, flags: int, number: int, content: bytes) -> None:
        raise Broken(Code.PROTOCOL_ERROR, "a client does not push")

    def _take_ping(self, flags: int, number: int, content: bytes) -> None:
        if len(content) != 8:
            raise Broken(Code.FRAME_SIZE_ERROR, "PING of a wrong size")
        if number:
            raise Broken(Code.PROTOCOL_ERROR, "PING of a stream")
        self._count_control()
        if not flags & frames.ACK:
            self.write(frames.pack(Kind.PING, frames.ACK, 0, content))

    def _take_goaway(self, flags: int, number: int, content: bytes) -> None:
        """The client opens no more streams; those that are open are answered."""
        if number or len(content) < 8:
            raise Broken(Code.PROTOCOL_ERROR, "GOAWAY of a stream, or of a wrong size")

    def _take_window_update(self, flags: int, number: int, content: bytes) -> None:
        if len(content) != 4:
            raise Broken(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
        more = int.from_bytes(content, "big") & frames.MAX_WINDOW
        if not number:
            self._send_window += more
            if not more:
                raise Broken(Code.PROTOCOL_ERROR, "the connection's window grows by nothing")
            if self._send_window > frames.MAX_WINDOW:
                raise Broken(Code.FLOW_CONTROL_ERROR, "the connection's window")
            self._flush_blocked()
            return
        self._check_known(number)
        stream = self.streams.get(number)
        if stream is None:
            return
        stream.send_window += more
        if not more or stream.send_window > frames.MAX_WINDOW:
            self._count_reset()
            self._end_stream(stream, Code.FLOW_CONTROL_ERROR if more else Code.PROTOCOL_ERROR)
        else:
            stream.flush()

    def _check_known(self, number: int) -> None:
        if not number or number > self._last_stream or not number % 2:
            raise Broken(Code.PROTOCOL_ERROR, f"stream {number} has not been opened")

    # Bounds, ends, and what goes out

    def _count_reset(self) -> None:
        self._abuse.reset(asyncio.get_running_loop().time())

    def _count_control(self) -> None:
        self._abuse.control(asyncio.get_running_loop().time())

    def _take_back(self, stream: Stream) -> None:
        stream.close()
        callback, stream.on_reset = stream.on_reset, None
        if callback is not None:
            callback()

    def _end_stream(self, stream: Stream, code: Code) -> None:
        """The client broke the protocol on this stream alone."""
        self._take_back(stream)
        stream.is_reset = False
        stream.reset(code)

    def _break_off(self, err: Broken) -> None:
        self._out.append(frames.pack_goaway(self._last_stream, err.code, str(err)))
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
                self._is_closed = True
                self.abort()
                return
        self._transport.write(data)


_TAKE: dict[int, Callable[[Http2Connection, int, int, bytes], None]] = {
    Kind.DATA: Http2Connection._take_data,
    Kind.HEADERS: Http2Connection._take_headers,
    Kind.PRIORITY: Http2Connection._take_priority,
    Kind.RST_STREAM: Http2Connection._take_reset,
    Kind.SETTINGS: Http2Connection._take_settings,
    Kind.PUSH_PROMISE: Http2Connection._take_push,
    Kind.PING: Http2Connection._take_ping,
    Kind.GOAWAY: Http2Connection._take_goaway,
    Kind.WINDOW_UPDATE: Http2Connection._take_window_update,
    Kind.CONTINUATION: Http2Connection._take_continuation,
}


def _data_head(stream: Stream, size: int) -> bytes:
    return struct.pack(">BHBBI", size >> 16, size & 0xFFFF, Kind.DATA, 0, stream.id)
