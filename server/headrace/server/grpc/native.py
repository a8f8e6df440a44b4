"""gRPC over our own HTTP/2 (headrace.http.http2), in the place of grpcio's server.

The handlers are the same objects, and get an `Rpc` with what they use of grpcio's. A call is a
task; a client that takes it back cancels it, a deadline ends it with DEADLINE_EXCEEDED.
"""

import asyncio
import base64
import binascii
import ssl
import struct
import time
from collections import deque
from collections.abc import Mapping, Sequence
from socket import socket
from typing import Any

import grpc

from headrace.http.header_blocks import to_block
from headrace.http.http2 import Http2Connection, Http2Limits
from headrace.http.http2_stream import Stream
from headrace.server.errors import InvalidInput, ServingError, Unsupported
from headrace.server.grpc.calls import Calls
from headrace.server.grpc.errors import to_status
from headrace.server.grpc.fields import MessageSizes, decompressed, status_text, timeout_s

PREFIX = struct.Struct(">BI")  # of a message: whether it is compressed, and its length
CONTENT_TYPE = b"application/grpc"
ONE_MESSAGE = "expected one request message"
FLUSH_S = 1.0  # for the last answers to be read once we stop
_FIRST = (
    (":status", "200"),
    ("content-type", "application/grpc"),
    ("grpc-accept-encoding", "identity, deflate, gzip"),
)
_NOT_METADATA = frozenset(
    {b"te", b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"}
)
_OK = to_block([("grpc-status", "0")])
_FIRST_BLOCK = to_block(_FIRST)

Metadata = Sequence[tuple[str, str | bytes]]
OK = grpc.StatusCode.OK


class Aborted(Exception):
    """The call ends with this status."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: Metadata = ()) -> None:
        super().__init__(details)
        self.code = code
        self.details = details
        self.trailing = trailing


class Rpc:
    """One call: what handlers use of `grpc.aio.ServicerContext`, and its incoming messages."""

    def __init__(self, server: "NativeServer", stream: Stream, handler: Any) -> None:
        self.task: asyncio.Task[None] | None = None
        self._server = server
        self._stream = stream
        self._handler = handler
        self._trailing: Metadata = ()
        self._has_begun = False
        self._is_over = False
        self._end_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._metadata: list[tuple[str, str | bytes]] | None = None
        self._encoding = "identity"
        self._held = bytearray()  # of a message that has not come whole
        self._messages: deque[bytes] = deque()
        self._unread: deque[int] = deque()  # bytes on the wire of each
        self._input_is_over = False
        self._arrived: asyncio.Event | None = None
        stream.on_data = self._received
        stream.on_reset = self._taken_back

    # Handlers' calls

    def invocation_metadata(self) -> Metadata:
        if self._metadata is None:
            self._metadata = [
                _metadatum(name, value)
                for name, value in self._stream.headers
                if not name.startswith(b":") and name not in _NOT_METADATA
            ]
        return self._metadata

    def time_remaining(self) -> float | None:
        return None if self._end_s is None else max(0.0, self._end_s - time.monotonic())

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self._trailing = metadata

    async def abort(self, code: Any, details: str = "", trailing_metadata: Metadata = ()) -> None:
        raise Aborted(code, details, trailing_metadata)

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        self._begin(metadata)

    async def write(self, message: bytes) -> None:
        """Returns when the client keeps up."""
        self._begin()
        self._stream.send_data(PREFIX.pack(0, len(message)) + message)
        if self._stream.unread is not None:
            await asyncio.shield(self._stream.unread)

    def __aiter__(self) -> "Rpc":
        return self

    async def __anext__(self) -> bytes:
        """The next message; the client may send more as these are taken."""
        while not self._messages:
            if self._input_is_over:
                raise StopAsyncIteration
            self._arrived = asyncio.Event()
            await self._arrived.wait()
        self._stream.consumed(self._unread.popleft())
        return self._messages.popleft()

    # The call itself

    def open(self, headers: Mapping[bytes, bytes]) -> None:
        self._encoding = headers.get(b"grpc-encoding", b"identity").decode("latin1")
        timeout = headers.get(b"grpc-timeout")
        if timeout is not None:
            try:
                left_s = timeout_s(timeout.decode("latin1"))
            except InvalidInput as err:
                self._fail(err)
                return
            self._end_s = time.monotonic() + left_s
            self._timer = asyncio.get_running_loop().call_later(left_s, self._expired)
        if self._handler.request_streaming:
            self._start(self)

    def end(self, code: Any = OK, details: str = "", trailing: Metadata = ()) -> None:
        """The status. Idempotent."""
        if self._is_over:
            return
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        stream = self._stream
        fields = [("grpc-status", str(code.value[0]))]
        if details:
            fields.append(("grpc-message", status_text(details)))
        fields += [_field(name, value) for name, value in (*self._trailing, *trailing)]
        if self._has_begun:
            stream.send_trailers(_OK if len(fields) == 1 and code is OK else to_block(fields))
        else:
            stream.send_trailers(to_block([*_FIRST, *fields]))
        self._server.ended(self)

    def _begin(self, metadata: Metadata = ()) -> None:
        if not self._has_begun:
            self._has_begun = True
            block = _FIRST_BLOCK
            if metadata:
                block += to_block(_field(name, value) for name, value in metadata)
            self._stream.send_headers(block)

    def _start(self, argument: Any) -> None:
        self.task = asyncio.get_running_loop().create_task(self._run(argument))

    async def _run(self, argument: Any) -> None:
        handler = self._handler
        try:
            if handler.unary_unary is not None:
                answer = await handler.unary_unary(argument, self)
                self._server.sizes.check_sent(len(answer))
                self._begin()
                self._stream.send_data(PREFIX.pack(0, len(answer)) + answer)
            elif handler.unary_stream is not None:
                await handler.unary_stream(argument, self)
            else:
                await handler.stream_stream(argument, self)
            if not self._has_begun:
                self._begin()
            self.end()
        except Aborted as err:
            self.end(err.code, err.details, err.trailing)
        except asyncio.CancelledError:
            self.end(grpc.StatusCode.CANCELLED, "the call was cancelled")
        except Exception as err:
            self._fail(err)

    def _fail(self, error: Exception) -> None:
        """The request cannot be read."""
        status = to_status(error)
        self.end(status.code, status.details, status.trailing_metadata)
        self._cancel()

    def _expired(self) -> None:
        self.end(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        self._cancel()

    def _taken_back(self) -> None:
        """The client has cancelled the call, or is gone."""
        if not self._is_over:
            self._is_over = True
            if self._timer is not None:
                self._timer.cancel()
            self._server.ended(self)
        self._cancel()

    def _cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    # Incoming messages

    def _received(self, piece: bytes, is_last: bool) -> None:
        if self._is_over:
            return
        is_stream = self._handler.request_streaming
        if not is_stream:
            self._stream.consumed(len(piece))
        try:
            if piece:
                self._take(piece)
            if is_last and self._held:
                raise InvalidInput("the last message was cut off")
            if is_last and not is_stream and not self._messages:
                raise Unsupported(ONE_MESSAGE)
        except ServingError as err:
            self._fail(err)
            return
        self._input_is_over = is_last
        if is_stream:
            if self._arrived is not None:
                self._arrived.set()
        elif is_last:
            self._start(self._messages.popleft())

    def _take(self, piece: bytes) -> None:
        """Cut piece into messages. Raises ServingError."""
        data: bytes | bytearray = piece
        if self._held:
            self._held += piece
            data = self._held
        at, size, sizes = 0, len(data), self._server.sizes
        while size - at >= PREFIX.size:
            flag, length = PREFIX.unpack_from(data, at)
            sizes.check_received(length)
            end = at + PREFIX.size + length
            if end > size:
                break
            message = bytes(memoryview(data)[at + PREFIX.size : end])
            self._messages.append(
                decompressed(message, self._encoding, sizes.receive) if flag else message
            )
            self._unread.append(PREFIX.size + length)
            at = end
        if data is self._held:
            del self._held[:at]
        elif at < size:
            self._held += memoryview(data)[at:]
        if len(self._messages) > 1 and not self._handler.request_streaming:
            raise Unsupported(ONE_MESSAGE)


class NativeServer:
    """serve() sockets or take over connections; stop() ends.

    services: service name → method name → grpcio's handler object.
    """

    def __init__(
        self,
        services: Mapping[str, Mapping[str, Any]],
        sizes: MessageSizes,
        max_header_bytes: int,
        preface_timeout_s: float = 10.0,
    ) -> None:
        self.sizes = sizes
        self._methods = {
            f"/{service}/{name}".encode(): handler
            for service, handlers in services.items()
            for name, handler in handlers.items()
        }
        self._limits = Http2Limits(
            max_header_bytes=max_header_bytes or 1 << 20, preface_timeout_s=preface_timeout_s
        )
        self._servers: list[asyncio.Server] = []
        self._connections: set[Http2Connection] = set()
        self._calls: set[Rpc] = set()
        self._changed = asyncio.Event()
        self._is_draining = False

    async def serve(self, sockets: Sequence[socket], tls: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        for each in sockets:
            self._servers.append(await loop.create_server(self._connection, sock=each, ssl=tls))

    def join(self, transport: asyncio.Transport, received: bytes) -> None:
        """Take over a connection of another port that turned out to be HTTP/2."""
        connection = self._connection()
        transport.set_protocol(connection)
        connection.begin(transport, received)

    def drain(self) -> None:
        """Tell clients to go elsewhere; who comes nevertheless is answered, and told then."""
        self._is_draining = True
        for connection in list(self._connections):
            connection.go_away()

    async def stop(self, grace_s: float, calls: Calls) -> None:
        """GOAWAY to all; open calls have grace_s, then they end UNAVAILABLE."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        self.drain()
        if not await self._until_none(self._calls, grace_s):
            calls.end_all()
            await self._until_none(self._calls, FLUSH_S)
        for connection in list(self._connections):
            connection.close()
        if not await self._until_none(self._connections, FLUSH_S):
            for connection in list(self._connections):
                connection.abort()

    async def _until_none(self, things: set[Any], within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                while things:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def ended(self, call: Rpc) -> None:
        self._calls.discard(call)
        self._changed.set()

    def _connection(self) -> Http2Connection:
        connection = Http2Connection(self._opened, self._limits, self._closed)
        self._connections.add(connection)
        return connection

    def _closed(self, connection: Http2Connection) -> None:
        self._connections.discard(connection)
        self._changed.set()

    def _opened(self, stream: Stream) -> None:
        headers = dict(stream.headers)
        if headers.get(b":method") != b"POST":
            stream.send_trailers(to_block([(":status", "405"), ("allow", "POST")]))
            return
        if not headers.get(b"content-type", b"").startswith(CONTENT_TYPE):
            stream.send_trailers(to_block([(":status", "415")]))
            return
        handler = self._methods.get(headers.get(b":path", b""))
        if handler is None:
            fields = [("grpc-status", str(grpc.StatusCode.UNIMPLEMENTED.value[0]))]
            stream.send_trailers(
                to_block([*_FIRST, *fields, ("grpc-message", "Method not found!")])
            )
            return
        call = Rpc(self, stream, handler)
        self._calls.add(call)
        call.open(headers)
        if self._is_draining:
            stream.connection.go_away()


def _metadatum(name: bytes, value: bytes) -> tuple[str, str | bytes]:
    key = name.decode("latin1")
    if not key.endswith("-bin"):
        return key, value.decode("latin1")
    try:
        return key, base64.b64decode(value + b"=" * (-len(value) % 4))
    except binascii.Error:
        return key, value


def _field(name: str, value: str | bytes) -> tuple[str, str]:
    if isinstance(value, bytes):
        return name, base64.b64encode(value).decode().rstrip("=")
    return name, value
