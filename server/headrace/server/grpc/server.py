"""gRPC over our own HTTP/2 (headrace.http.http2): connections, and which method a call is of.

The contract with clients is gRPC's "gRPC over HTTP2": POST, a status in the trailers, and an HTTP
status only where it is not gRPC that has come.
"""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from socket import socket
from typing import Any

from headrace.http.header_blocks import to_block
from headrace.http.http2 import Http2Connection, Http2Limits
from headrace.http.http2_stream import Stream
from headrace.http.receiving import Receiving
from headrace.http.server import MAX_TICK_S, MIN_TICK_S
from headrace.server.errors import DeadlineExceeded, ServerNotReady
from headrace.server.grpc.errors import STOPPING, Status, StatusCode
from headrace.server.grpc.fields import MessageSizes
from headrace.server.grpc.rpc import Method, Rpc, refuse

CONTENT_TYPE = b"application/grpc"
FLUSH_S = 1.0  # for the last answers to be read once the time for them is over
LOOK_S = 0.02  # between two looks at answers that clients are reading


class GrpcServer:
    """serve() sockets or join() connections; stop() ends. services: names, then methods' names.

    receiving: shared with the HTTP port; None: requests that come in have no common bound.
    """

    def __init__(
        self,
        services: Mapping[str, Mapping[str, Method]],
        sizes: MessageSizes,
        limits: Http2Limits,
        receiving: Receiving | None = None,
    ) -> None:
        self.sizes = sizes
        self.receiving = receiving or Receiving(0)
        self.now_s = 0.0  # the loop's time at the last tick
        self.closing = asyncio.Event()
        self._methods = {
            f"/{service}/{name}".encode(): method
            for service, methods in services.items()
            for name, method in methods.items()
        }
        self._limits = limits
        self._tick_s = min(MAX_TICK_S, max(MIN_TICK_S, limits.body_idle_timeout_s / 16))
        self._timer: asyncio.TimerHandle | None = None
        self._servers: list[asyncio.Server] = []
        self._connections: set[Http2Connection] = set()
        self._calls: set[Rpc] = set()
        self._changed = asyncio.Event()
        self._is_draining = False

    async def serve(self, sockets: Sequence[socket], tls: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        handshake_s = (self._limits.preface_timeout_s or None) if tls else None
        for each in sockets:
            self._servers.append(
                await loop.create_server(
                    self._connection, sock=each, ssl=tls, ssl_handshake_timeout=handshake_s
                )
            )

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

    async def stop(self, grace_s: float) -> None:
        """GOAWAY to all; open calls have grace_s to end and to be read, then end UNAVAILABLE."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        self.closing.set()
        self.drain()
        loop = asyncio.get_running_loop()
        end_s = loop.time() + grace_s
        if not await self._until_none(self._calls, grace_s):
            late = list(self._calls)
            for call in late:
                call.fail(ServerNotReady(STOPPING))
            tasks = [call.task for call in late if call.task is not None]
            if tasks:
                await asyncio.wait(tasks, timeout=FLUSH_S)
        while loop.time() < end_s and self._is_sending():  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)  # transports tell nobody
        for connection in list(self._connections):
            connection.close()
        if not await self._until_none(self._connections, FLUSH_S):
            for connection in list(self._connections):
                connection.abort()

    def _is_sending(self) -> bool:
        return any(each.is_sending for each in self._connections)

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
        if self._timer is None and self._limits.body_idle_timeout_s:
            self._tick()
        return connection

    def _closed(self, connection: Http2Connection) -> None:
        self._connections.discard(connection)
        self._changed.set()

    def _tick(self) -> None:
        """One timer for all calls: waiting for the rest of a request costs nothing."""
        loop, limit_s = asyncio.get_running_loop(), self._limits.body_idle_timeout_s
        self.now_s = loop.time()
        late_s = self.now_s - self._tick_s - limit_s
        for call in [each for each in self._calls if each.came_s <= late_s and each.awaits_more]:
            text = f"nothing of the request arrived for {limit_s:g} s"
            call.fail(DeadlineExceeded(f"{text} (--body_idle_timeout_s {limit_s:g})"))
        self._timer = loop.call_later(self._tick_s, self._tick) if self._connections else None

    def _opened(self, stream: Stream) -> None:
        headers = dict(stream.headers)
        if headers.get(b":method") != b"POST":
            stream.send_trailers(to_block([(":status", "405"), ("allow", "POST")]))
            return
        if not headers.get(b"content-type", b"").startswith(CONTENT_TYPE):
            stream.send_trailers(to_block([(":status", "415")]))
            return
        size_bytes, most = stream.header_bytes, self._limits.max_header_bytes
        method = self._methods.get(headers.get(b":path", b""))
        if size_bytes > most:
            text = f"metadata of {size_bytes} bytes are over the limit (--max_header_bytes {most})"
            refuse(stream, Status(StatusCode.RESOURCE_EXHAUSTED, text))
        elif method is None:
            refuse(stream, Status(StatusCode.UNIMPLEMENTED, "Method not found!"))
        else:
            call = Rpc(self, stream, method)
            self._calls.add(call)
            call.open(headers)
        if self._is_draining:
            stream.connection.go_away()
