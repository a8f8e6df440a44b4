"""The HTTP/1.1 server: which connections there are, who answers them, when it all ends.

Two kinds of application can stand on it, also both at once. A `ShortPath` is asked first: plain
functions of an `Exchange`. What it leaves goes to Tornado's side: a `tornado.web.Application`, or
any `HTTPServerConnectionDelegate` (tornado_delegate.py).
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from socket import socket
from typing import TYPE_CHECKING, Protocol

from headrace.http.body import Receiver
from headrace.http.connection import Connection
from headrace.http.exchange import Exchange
from headrace.http.head import HeadReader, KnownHeads
from headrace.http.limits import Limits, Render, render
from headrace.http.receiving import Receiving

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerConnectionDelegate

    from headrace.http.tornado_delegate import DelegateSide

log = logging.getLogger(__name__)

RECEIVE_BYTES = 1 << 18
READERS = 64  # kept for the next request, of any connection
FLUSH_S = 2.0  # for what is cancelled to end, and for clients to read last answers, once we stop
MIN_TICK_S, MAX_TICK_S = 0.01, 1.0


class ShortPath(Protocol):
    """An application of plain functions."""

    def begin(self, exchange: Exchange) -> bool:
        """The head has come. True: the answer is ours, `finish` is called with the body, unless it
        has been given by then. False: Tornado's side answers."""
        ...

    def finish(self, exchange: Exchange) -> None:
        """The body has come: answer, or `exchange.run` what will."""
        ...


class HttpServer:
    """serve() sockets; drain() ends. All in one event loop.

    http2: takes over connections that begin as HTTP/2's do; None: they are malformed requests.
    receiving: where other servers' bodies count too; None: limits say how much may come in.
    """

    def __init__(
        self,
        application: "HTTPServerConnectionDelegate | None" = None,
        short_path: ShortPath | None = None,
        limits: Limits = Limits(),
        render: Render = render,
        http2: Callable[[asyncio.Transport, bytes], None] | None = None,
        receiving: Receiving | None = None,
    ) -> None:
        self.limits = limits
        self.receiving = receiving or Receiving(limits.max_receiving_bytes)
        self.render = render
        self.http2 = http2
        self.received = memoryview(bytearray(RECEIVE_BYTES))
        self.is_closing = False
        self.now_s = 0.0  # the loop's time at the last tick
        self.connections: set[Connection] = set()
        self._exchanges: set[Exchange] = set()
        self._short_path = short_path
        self._delegates = _delegate_side(application) if application is not None else None
        self._servers: list[asyncio.Server] = []
        self._readers: list[HeadReader] = []
        self.heads = KnownHeads()
        self._timer: asyncio.TimerHandle | None = None
        self.tick_s = tick_s(limits)
        self._changed = asyncio.Event()

    async def serve(self, sockets: Sequence[socket], tls: ssl.SSLContext | None = None) -> None:
        """Accept on bound sockets, TCP or Unix."""
        loop = asyncio.get_running_loop()
        for each in sockets:
            handshake_s = (self.limits.header_timeout_s or None) if tls else None
            self._servers.append(
                await loop.create_server(
                    lambda: Connection(self),
                    sock=each,
                    ssl=tls,
                    ssl_handshake_timeout=handshake_s,
                )
            )

    def close(self) -> None:
        """Accept no more, and close what is idle; answers from now on end their connections."""
        self.is_closing = True
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        for connection in list(self.connections):
            if connection.is_idle:
                connection.close()
            else:
                connection.keeps_alive = False  # and its answer says so

    async def drain(self, grace_s: float) -> bool:
        """Close, and wait for what is being answered and for clients to read it.

        False: grace_s was not enough.
        """
        self.close()
        try:
            async with asyncio.timeout(grace_s):
                while self._exchanges or any(each.is_sending for each in self.connections):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def cancel(self) -> None:
        """Cancel what is being answered, and wait FLUSH_S at most for what it still says."""
        for exchange in list(self._exchanges):
            if not exchange.cancel():
                exchange.connection.end()
        try:
            async with asyncio.timeout(FLUSH_S):
                while self._exchanges:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            for exchange in list(self._exchanges):
                exchange.connection.abort()

    async def end(self) -> None:
        """End every connection: what was written may go out within FLUSH_S."""
        self.close()
        for connection in list(self.connections):
            connection.end()
        try:
            async with asyncio.timeout(FLUSH_S):
                await self._all_closed()
        except TimeoutError:
            for connection in list(self.connections):
                connection.abort()
            await self._all_closed()

    async def _all_closed(self) -> None:
        while self.connections:
            self._changed.clear()
            await self._changed.wait()

    # Connections' calls

    def opened(self, connection: Connection) -> None:
        self.connections.add(connection)
        if self._timer is None:
            self._tick()

    def closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self._changed.set()
        if self._delegates is not None:
            self._delegates.closed(connection)

    def reader(self) -> HeadReader:
        return self._readers.pop() if self._readers else HeadReader()

    def give_back(self, reader: HeadReader) -> None:
        if len(self._readers) < READERS:
            reader.reset()
            self._readers.append(reader)

    def begin(self, exchange: Exchange) -> Receiver | None:
        self._exchanges.add(exchange)
        if self._short_path is not None and self._short_path.begin(exchange):
            return None
        if self._delegates is None:
            exchange.respond(404, [])
            return None
        return self._delegates.begin(exchange)

    def finish(self, exchange: Exchange) -> None:
        assert self._short_path is not None
        self._short_path.finish(exchange)

    def ended(self, exchange: Exchange) -> None:
        self._exchanges.discard(exchange)
        self._changed.set()

    def failed(self, error: BaseException) -> None:
        log.error("an application failed", exc_info=error)

    def _tick(self) -> None:
        """One timer for all connections: a deadline that moves with every request costs nothing."""
        loop = asyncio.get_running_loop()
        self.now_s = loop.time()
        for connection in [c for c in self.connections if c.deadline_s <= self.now_s]:
            connection.is_over()
        if self.is_closing:
            self._changed.set()  # somebody may have read the last of an answer
        self._timer = loop.call_later(self.tick_s, self._tick) if self.connections else None


def _delegate_side(application: "HTTPServerConnectionDelegate") -> "DelegateSide":
    from headrace.http.tornado_delegate import DelegateSide  # Tornado loads where it is used

    return DelegateSide(application)


def tick_s(limits: Limits) -> float:
    """How often deadlines are looked at: fine enough for the shortest of them."""
    shortest = min(
        (
            seconds
            for seconds in (
                limits.header_timeout_s,
                limits.body_idle_timeout_s,
                limits.keep_alive_s,
                limits.write_idle_timeout_s,
            )
            if seconds
        ),
        default=MAX_TICK_S,
    )
    return min(MAX_TICK_S, max(MIN_TICK_S, shortest / 16))
