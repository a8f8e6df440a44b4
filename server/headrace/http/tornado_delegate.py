"""Tornado's side of an exchange: `httputil.HTTPConnection` and the delegates' calls.

A `RequestHandler` works unchanged, streamed uploads and answers included. What Tornado's own server
has and this one has not: websockets and `detach` (the socket is not Tornado's), `xheaders`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPOutputError,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import StreamClosedError

from headrace.http.connection import Connection
from headrace.http.exchange import Exchange, Gone
from headrace.http.limits import malformed

log = logging.getLogger(__name__)

MAX_QUEUED = 4  # pieces of a body that wait for a delegate


class DelegateSide:
    """Asks application for the delegate of each request, and tells it of closed connections."""

    def __init__(self, application: HTTPServerConnectionDelegate) -> None:
        self._application = application
        self._seen: set[Connection] = set()

    def begin(self, exchange: Exchange) -> "TornadoExchange":
        connection = exchange.connection
        self._seen.add(connection)
        made = TornadoExchange(exchange)
        made.begin(self._application.start_request(connection, made))
        return made

    def closed(self, connection: Connection) -> None:
        if connection in self._seen:
            self._seen.discard(connection)
            self._application.on_close(connection)


class TornadoExchange(HTTPConnection):
    """What a delegate answers through; also the receiver of the request's body."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._calls: deque[Callable[[], Awaitable[None] | None]] = deque()
        self._delegate: HTTPMessageDelegate | None = None
        self._waits = False  # for what a delegate's call returned
        self._is_input_over = False
        self._close_callback: Callable[[], None] | None = None
        self.context = Context(exchange)
        self.stream = Stream(exchange)
        exchange.on_gone = self._gone

    # The transport's calls

    def begin(self, delegate: HTTPMessageDelegate) -> None:
        exchange = self._exchange
        self._delegate = delegate
        start_line = RequestStartLine(exchange.method, exchange.target, exchange.version)
        headers = HTTPHeaders()
        try:
            for name, value in exchange.fields:
                headers.add(name.decode("latin1"), value.decode("latin1"))
        except HTTPInputError as err:  # it refuses control characters that llhttp lets through
            raise malformed(str(err)) from None
        self._call(lambda: delegate.headers_received(start_line, headers))

    @property
    def is_ready(self) -> bool:
        """The delegate has done with the headers: `prepare` has run where a body is streamed."""
        return not self._waits

    def take(self, piece: bytes) -> bool:
        delegate = self._delegate
        assert delegate is not None
        self._call(lambda: delegate.data_received(piece))
        return len(self._calls) < MAX_QUEUED

    def finish_input(self) -> None:
        delegate = self._delegate
        assert delegate is not None

        def over() -> None:
            self._is_input_over = True
            delegate.finish()

        self._call(over)

    def _call(self, call: Callable[[], Awaitable[None] | None]) -> None:
        """The delegate's calls in order, each after what the one before waits for."""
        self._calls.append(call)
        self._run()

    def _run(self) -> None:
        while self._calls and not self._waits and not self._exchange.is_gone:
            try:
                waits_for = self._calls.popleft()()
            except Exception as err:
                self._failed(err)
                return
            if waits_for is not None:
                future = asyncio.ensure_future(waits_for)
                if not future.done():
                    self._waits = True
                future.add_done_callback(self._went_on)

    def _went_on(self, future: "asyncio.Future[None]") -> None:
        was_waiting, self._waits = self._waits, False
        if not future.cancelled() and (error := future.exception()) is not None:
            self._failed(error)
        elif was_waiting:
            self._run()
            if len(self._calls) < MAX_QUEUED:
                self._exchange.connection.go_on()

    def _failed(self, error: BaseException) -> None:
        self._calls.clear()
        if isinstance(error, HTTPInputError):
            self._exchange.connection.refuse(malformed(str(error)))
        elif not isinstance(error, StreamClosedError):
            log.error("the delegate of %s failed", self._exchange.target, exc_info=error)
            self._exchange.abort()

    def _gone(self) -> None:
        callback, self._close_callback = self._close_callback, None
        if callback is not None:
            callback()
        if not self._is_input_over and self._delegate is not None:
            self._is_input_over = True
            self._delegate.on_connection_close()

    # Tornado's calls

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        self._close_callback = callback

    def set_max_body_size(self, max_body_size: int) -> None:
        """Of this request, in its handler's `prepare`."""
        self._exchange.max_body_bytes = max_body_size

    def write_headers(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        headers: HTTPHeaders,
        chunk: bytes | None = None,
    ) -> "asyncio.Future[None]":
        assert isinstance(start_line, ResponseStartLine)
        exchange = self._exchange
        if exchange.is_gone:
            return _closed()
        fields = []
        length = None
        for name, value in headers.get_all():
            key = name.lower()
            if key == "connection":
                exchange.closes = exchange.closes or value.lower() == "close"
                continue
            if key == "content-length":
                length = int(value)
            if key != "transfer-encoding":  # ours to say
                fields.append((name, value))
        exchange.start(start_line.code, fields, start_line.reason, length)
        return self.write(chunk) if chunk else self._written()

    def write(self, chunk: bytes) -> "asyncio.Future[None]":
        try:
            self._exchange.write(chunk)
        except Gone:
            return _closed()
        except ValueError as err:
            raise HTTPOutputError(f"Tried to write {err}") from err
        return self._written()

    def finish(self) -> None:
        """Of the answer; `finish_input` is the request's end."""
        self._close_callback = None
        try:
            self._exchange.end()
        except ValueError as err:
            raise HTTPOutputError(f"Tried to write {err}") from err

    def detach(self) -> None:
        raise NotImplementedError("this server's connections cannot be detached (no websockets)")

    def _written(self) -> "asyncio.Future[None]":
        unread = self._exchange.connection.unread
        if unread is not None:
            return asyncio.shield(unread)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


class Context:
    """What `HTTPServerRequest` reads of a connection: who is there, over what."""

    def __init__(self, exchange: Exchange) -> None:
        self.address = exchange.peer
        is_inet = isinstance(self.address, tuple)
        self.remote_ip = self.address[0] if is_inet else "0.0.0.0"  # as in Tornado
        self.protocol = "https" if exchange.connection.ssl_object is not None else "http"

    def __str__(self) -> str:
        return str(self.remote_ip if isinstance(self.address, tuple) else self.address)


class Stream:
    """The few things handlers ask of `request.connection.stream`."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    @property
    def socket(self) -> Any:
        """The TLS object, for `get_ssl_certificate`; else the socket."""
        connection = self._exchange.connection
        return connection.ssl_object or connection.socket

    def closed(self) -> bool:
        return self._exchange.is_gone

    def set_nodelay(self, value: bool) -> None:
        """The event loop never delays."""


def _closed() -> "asyncio.Future[None]":
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(StreamClosedError())
    future.exception()  # retrieved: Tornado does not always wait for it
    return future
