"""What comes in on an HTTP/2 connection: bytes to frames, and what each kind of frame does."""

import asyncio
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from headrace.http import frames
from headrace.http.frames import Broken, Code, Kind, Setting
from headrace.http.header_blocks import BlockReader
from headrace.http.http2_abuse import Abuse
from headrace.http.http2_stream import Stream

if TYPE_CHECKING:
    from headrace.http.http2 import Http2Connection

HEADROOM = 4  # times the headers that are allowed are read, so that their stream alone is refused


class Http2Intake:
    """feed() it what comes; opened(stream): as of Http2Connection. last_stream: that was opened."""

    __slots__ = (
        "_abuse",
        "_block",
        "_block_ends_stream",
        "_block_of",
        "_connection",
        "_has_preface",
        "_has_settings",
        "_headers",
        "_held",
        "_initial_window",
        "_limits",
        "_max_block_bytes",
        "_opened",
        "_received",
        "_streams",
        "last_stream",
    )

    def __init__(self, connection: "Http2Connection", opened: Callable[[Stream], None]) -> None:
        self._connection = connection
        self._limits = connection.limits
        self._streams = connection.streams
        self._opened = opened
        self._held = b""
        self._has_preface = False
        self._has_settings = False
        self._max_block_bytes = HEADROOM * self._limits.max_header_bytes
        self._headers = BlockReader(self._max_block_bytes)
        self._block: bytearray | None = None  # of a request whose headers are still coming
        self._block_of = 0
        self._block_ends_stream = False
        self._initial_window = frames.DEFAULT_WINDOW
        self._received = 0
        self._abuse = Abuse()
        self.last_stream = 0

    def feed(self, data: bytes) -> None:
        """Raises Broken."""
        if self._held:
            data, self._held = self._held + data, b""
        at = self._read(data)
        self._held = data[at:] if at < len(data) else b""

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
        max_frame_bytes = self._limits.max_frame_bytes
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
            if self._connection.is_closed:
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
        if self._received >= self._limits.connection_window_bytes // 4:
            self._connection.write(frames.pack_window_update(0, self._received))
            self._received = 0
        is_last = bool(flags & frames.END_STREAM)
        stream = self._streams.get(number)
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
            self._connection.end_stream(stream, Code.FLOW_CONTROL_ERROR)
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
        stream = self._streams.get(number)
        if stream is not None:  # trailers
            if not is_last or stream.is_remote_over:
                raise Broken(Code.PROTOCOL_ERROR, f"more headers of stream {number}")
            stream.is_remote_over = True
            if stream.on_data is not None:
                stream.on_data(b"", True)
            return
        if not number % 2:
            raise Broken(Code.PROTOCOL_ERROR, f"stream {number} is not a client's")
        if number <= self.last_stream:
            if is_last:
                return  # trailers, on their way before the client knew that we had answered
            raise Broken(Code.STREAM_CLOSED, f"headers of stream {number} after its end")
        self.last_stream = number
        if len(self._streams) >= self._limits.max_streams or self._connection.is_going:
            self._count_reset()
            self._connection.write(frames.pack_reset(number, Code.REFUSED_STREAM))
            return
        if read.fault:
            self._count_reset()
            self._connection.write(frames.pack_reset(number, Code.PROTOCOL_ERROR))
            return
        stream = self._streams[number] = Stream(self._connection, number, self._initial_window)
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
        stream = self._streams.get(number)
        if stream is not None:
            self._connection.taken_back(stream)

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
        self._connection.greeted()
        self._count_control()
        for key, value in struct.iter_unpack(">HI", content):
            self._set(key, value)
        self._connection.write(frames.pack(Kind.SETTINGS, frames.ACK, 0))

    def _set(self, key: int, value: int) -> None:
        if key == Setting.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise Broken(Code.FLOW_CONTROL_ERROR, f"an initial window of {value} bytes")
            more, self._initial_window = value - self._initial_window, value
            for stream in self._streams.values():
                stream.send_window += more
                if stream.send_window > frames.MAX_WINDOW:
                    raise Broken(Code.FLOW_CONTROL_ERROR, f"window of stream {stream.id}")
            for stream in list(self._streams.values()):
                stream.flush()
        elif key == Setting.MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME_BYTES <= value < 1 << 24:
                raise Broken(Code.PROTOCOL_ERROR, f"frames of {value} bytes")
            self._connection.peer_frame_bytes = value
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
            self._connection.write(frames.pack(Kind.PING, frames.ACK, 0, content))

    def _take_goaway(self, flags: int, number: int, content: bytes) -> None:
        """The client opens no more streams; those that are open are answered."""
        if number or len(content) < 8:
            raise Broken(Code.PROTOCOL_ERROR, "GOAWAY of a stream, or of a wrong size")

    def _take_window_update(self, flags: int, number: int, content: bytes) -> None:
        if len(content) != 4:
            raise Broken(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
        more = int.from_bytes(content, "big") & frames.MAX_WINDOW
        if not number:
            if not more:
                raise Broken(Code.PROTOCOL_ERROR, "the connection's window grows by nothing")
            self._connection.widen(more)
            return
        self._check_known(number)
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.send_window += more
        if not more or stream.send_window > frames.MAX_WINDOW:
            self._count_reset()
            code = Code.FLOW_CONTROL_ERROR if more else Code.PROTOCOL_ERROR
            self._connection.end_stream(stream, code)
        else:
            stream.flush()

    def _check_known(self, number: int) -> None:
        if not number or number > self.last_stream or not number % 2:
            raise Broken(Code.PROTOCOL_ERROR, f"stream {number} has not been opened")

    def _count_reset(self) -> None:
        self._abuse.reset(asyncio.get_running_loop().time())

    def _count_control(self) -> None:
        self._abuse.control(asyncio.get_running_loop().time())


_TAKE: dict[int, Callable[[Http2Intake, int, int, bytes], None]] = {
    Kind.DATA: Http2Intake._take_data,
    Kind.HEADERS: Http2Intake._take_headers,
    Kind.PRIORITY: Http2Intake._take_priority,
    Kind.RST_STREAM: Http2Intake._take_reset,
    Kind.SETTINGS: Http2Intake._take_settings,
    Kind.PUSH_PROMISE: Http2Intake._take_push,
    Kind.PING: Http2Intake._take_ping,
    Kind.GOAWAY: Http2Intake._take_goaway,
    Kind.WINDOW_UPDATE: Http2Intake._take_window_update,
    Kind.CONTINUATION: Http2Intake._take_continuation,
}
