"""What comes in on a connection: bytes to requests, one at a time and in order.

Received bytes land in one buffer that all connections of a server share, and are read out of it at
once; a body whose length is known lands in a buffer of its own, of that size. An idle connection
thus holds no buffer and no parser. state.py draws the order of things.
"""

from typing import TYPE_CHECKING

from headrace.http import limits as refusals
from headrace.http.body import Chunked, Dropped, KnownBody, Receiver, Sink, Streamed
from headrace.http.chunks import ChunkReader
from headrace.http.exchange import Buffer, Exchange
from headrace.http.head import CHUNKED, HeadReader, RequestHead
from headrace.http.limits import Refusal
from headrace.http.receiving import SMALL_BYTES
from headrace.http.state import NEVER, State

if TYPE_CHECKING:
    from headrace.http.connection import Connection
    from headrace.http.server import HttpServer

PREFACE = b"PRI * HTTP/2.0"  # how an HTTP/2 client with prior knowledge begins
HELD_BYTES = 1 << 16  # of pipelined requests, or of a body nobody takes: more, and reading stops
FRESH, HEAD, DECIDING = State.FRESH, State.HEAD, State.DECIDING
BODY, HELD_UP, ANSWERING = State.BODY, State.HELD_UP, State.ANSWERING
DROPPED_BYTES = 1 << 16  # of a body nobody takes; a longer one costs its connection
BETWEEN = (State.WAITING, HEAD, FRESH)  # requests, or in the head of one
OVER = (State.LINGERING, State.CLOSED)


class Intake:
    """body: the buffer of a body that has begun to come, which takes what comes next.

    held: bytes that are not to be read yet.
    """

    __slots__ = ("_connection", "_counted_bytes", "_is_reading", "_receiver", "_server", "_sink",
                 "body", "held", "reader")  # fmt: skip

    def __init__(self, connection: "Connection", server: "HttpServer") -> None:
        self._connection = connection
        self._server = server
        self._counted_bytes = 0  # of this body, where it is kept
        self._is_reading = False  # `go` is on the stack
        self._receiver: Receiver | None = None
        self._sink: Sink | None = None  # None: a short body, or a known one
        self.body: KnownBody | None = None
        self.held = b""
        self.reader: HeadReader | None = None  # while a head comes in

    def came(self, count: int) -> None:
        """count bytes lie in `body`, or else in the server's buffer."""
        body = self.body
        if body is None:
            self.go(bytes(self._server.received[:count]))
            return
        try:
            self._count(count)
        except Refusal as refusal:
            self._connection.refuse(refusal)
            return
        body.came(count)
        if body.is_whole:
            self.go(b"")
        else:
            self._expect_more()

    def go(self, data: bytes) -> None:
        """Read as far as may be read now; the rest is held."""
        connection = self._connection
        if self.held:
            data, self.held = self.held + data, b""
        if self._is_reading or (connection.state is FRESH and not self._speaks_http1(data)):
            self.held = data
            return
        self._is_reading = True
        try:
            if self.body is not None and self.body.is_whole:
                self._complete(self.body.content)
            data = self._read(data)
        except Refusal as refusal:
            connection.refuse(refusal)
        except Exception as err:  # the application's, as it is asked or told
            self._server.failed(err)
            connection.refuse(refusals.failed())
        finally:
            self._is_reading = False
        if connection.state not in OVER:
            self.held = data
            if len(data) > HELD_BYTES:
                connection.inflow.pause()
            elif connection.inflow.is_paused:
                connection.inflow.resume()

    def _read(self, data: bytes) -> bytes:
        """Read of data what may be read now; the rest."""
        connection, at = self._connection, 0
        while at < len(data):
            state = connection.state
            if state is BODY:
                at = self._read_body(data, at)
            elif state in BETWEEN and connection.takes_requests:
                at = self._read_head(data, at)
            else:
                break
            if self.held:  # came in from a nested call
                data, at, self.held = data[at:] + self.held, 0, b""
        return data[at:] if at else data

    def go_on(self) -> None:
        """The receiver can take more."""
        connection = self._connection
        if connection.state is HELD_UP:
            connection.state = BODY
        elif connection.state is DECIDING:
            try:
                self._begin_body(bool(self.held))
            except Refusal as refusal:
                connection.refuse(refusal)
                return
        self.go(b"")

    def drop(self) -> None:
        """Nothing of what has come is wanted."""
        self.held = b""
        self.drop_body()
        if self.reader is not None:
            self._server.give_back(self.reader)
            self.reader = None

    def drop_body(self) -> None:
        self._receiver = self._sink = self.body = None
        if self._counted_bytes:
            self._server.receiving.release(self._counted_bytes)
            self._counted_bytes = 0

    def _count(self, count: int) -> None:
        """count bytes more of a body that is kept until it is whole. Raises Refusal."""
        self._server.receiving.check(count, self._counted_bytes)
        self._server.receiving.take(count)
        self._counted_bytes += count

    def _speaks_http1(self, data: bytes) -> bool:
        """False: it is another's by now, or its first bytes leave it open."""
        size = min(len(data), len(PREFACE))
        if self._server.http2 is None or data[:size] != PREFACE[:size]:
            return True
        if size == len(PREFACE):
            self._connection.hand_over(data)
        return False

    def _read_head(self, data: bytes, at: int) -> int:
        connection, reader, text = self._connection, self.reader, b""
        if reader is None:
            head, text = self._server.heads.find(data, at)
            if head is not None:
                self._begin(head, at + len(text) < len(data))
                return at + len(text)
            reader = self.reader = self._server.reader()
            if connection.state is not FRESH:  # whose time began with the connection
                connection.expect_by(self._server.limits.header_timeout_s, self.slow_head)
        connection.state = HEAD
        begun_at, at = at, reader.feed(data, at, self._server.limits)
        if reader.head is None:
            return len(data)
        head = reader.head
        self.reader = None
        self._server.give_back(reader)
        if text and at == begun_at + len(text):  # else empty lines stood before it
            self._server.heads.add(text, head)
        self._begin(head, at < len(data))
        return at

    def _begin(self, head: RequestHead, is_followed: bool) -> None:
        """A head is complete. is_followed: more has come."""
        connection, server = self._connection, self._server
        length = head.body_length
        connection.state = ANSWERING  # what comes meanwhile is held
        connection.keeps_alive = head.keeps_alive and not server.is_closing
        connection.deadline_s = NEVER
        exchange = connection.exchange = Exchange(connection, head)
        exchange.is_unread = length != 0
        self._receiver = server.begin(exchange)
        if exchange is not connection.exchange:
            return  # answered, or gone
        if not length:
            self._complete(b"")
        elif self._receiver is not None and not self._receiver.is_ready:
            connection.state = DECIDING
        else:
            self._begin_body(is_followed)

    def _begin_body(self, has_begun: bool) -> None:
        """The application has seen the head: it may have answered, or set a limit of its own."""
        connection = self._connection
        exchange = connection.exchange
        assert exchange is not None
        length, most = exchange.body_length, exchange.max_body_bytes
        if most and length > most:
            raise refusals.body_too_large(f"the body has {length} bytes", most)
        if not exchange.takes_body and (length == CHUNKED or length > DROPPED_BYTES):
            self._server.finish(exchange)  # the rest is dropped behind the answer
            return
        expects = exchange.headers.get("expect", "").lower() == "100-continue"
        if expects and not has_begun and exchange.version == "HTTP/1.1":
            exchange.proceed()
        if length == CHUNKED:
            self._sink = Chunked(ChunkReader(most, self._server.limits), self._receiver)
        elif not exchange.takes_body:
            self._sink = Dropped(length)
        elif self._receiver is not None:
            self._sink = Streamed(length, self._receiver)
        elif length > SMALL_BYTES:
            self._server.receiving.check(length)
        connection.state = BODY
        self._expect_more()

    def _read_body(self, data: bytes, at: int) -> int:
        connection, sink = self._connection, self._sink
        exchange = connection.exchange
        assert exchange is not None
        if sink is None:
            end = at + exchange.body_length
            if end <= len(data):
                self._complete(data[at:end])
                return end
            self._count(len(data) - at)
            self.body = KnownBody(exchange.body_length, exchange.aligned_at)
            self.body.take(data[at:])  # the rest lands where it stays
            self._expect_more()
            return len(data)
        at = sink.feed(data, at)
        if connection.exchange is not exchange:  # it has answered
            return len(data)
        self._count(len(sink.content) - self._counted_bytes)
        if sink.is_whole:
            self._complete(sink.content)
        else:
            if sink.is_held_up:
                connection.state = HELD_UP
            self._expect_more()
        return at

    def _complete(self, body: Buffer) -> None:
        """The request has come in whole."""
        connection, receiver = self._connection, self._receiver
        exchange = connection.exchange
        assert exchange is not None
        exchange.is_unread = False
        connection.state = ANSWERING
        connection.deadline_s = NEVER
        self.drop_body()
        if receiver is not None:
            receiver.finish_input()
        else:
            exchange.body = body
            self._server.finish(exchange)

    def _expect_more(self) -> None:
        self._connection.expect_by(self._server.limits.body_idle_timeout_s, self._slow_body)

    def slow_head(self) -> None:
        self._connection.refuse(refusals.slow_head(self._server.limits))

    def _slow_body(self) -> None:
        if self._connection.state is HELD_UP:  # the application's doing
            self._expect_more()
        else:
            self._connection.refuse(refusals.slow_body(self._server.limits))
