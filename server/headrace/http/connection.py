"""One connection: bytes in, exchanges out, one at a time and in order.

    waiting ─▶ head ─▶ body ─▶ answering ─▶ waiting …           (pipelined bytes are held)
       └─ "PRI * HTTP/2.0" ─▶ whoever speaks HTTP/2      any ─▶ lingering ─▶ closed

Received bytes land in one buffer that all connections of a server share, and are read out of it at
once; a body whose length is known lands in a buffer of its own, of that size. An idle connection
thus holds no buffer and no parser.
"""

import asyncio
import math
from typing import TYPE_CHECKING, Any, Protocol, cast

from headrace.http import limits as refusals
from headrace.http.body import KnownBody
from headrace.http.chunks import ChunkReader
from headrace.http.exchange import Buffer, Exchange
from headrace.http.head import CHUNKED, HeadReader, RequestHead
from headrace.http.limits import Limits, Refusal

if TYPE_CHECKING:
    from headrace.http.server import HttpServer

PREFACE = b"PRI * HTTP/2.0"  # how an HTTP/2 client with prior knowledge begins
HELD_BYTES = 1 << 16  # of pipelined requests, or of a body nobody takes: more, and reading stops
LINGER_S = 2.0  # longest a client may go on sending what nobody reads, to hear its answer
NEVER = math.inf
NO_HEAD = RequestHead("", "", "HTTP/1.1", {}, (), 0, False)  # of what is no request


class Receiver(Protocol):
    """Takes a body piece by piece, as it comes; the exchange's `state` of a streaming application.

    False: no more for now; the receiver calls `connection.go_on()` when it can take more. The same
    goes for the first piece while it is not `is_ready`.
    """

    @property
    def is_ready(self) -> bool: ...

    def take(self, piece: bytes) -> bool: ...

    def finish_input(self) -> None: ...


class Connection(asyncio.BufferedProtocol):
    """unread: done when the client has read what was written; None: it keeps up."""

    __slots__ = (
        "_awaits_body",
        "_body",
        "_chunks",
        "_content",
        "_deadline",
        "_exchange",
        "_held",
        "_is_closed",
        "_is_first",
        "_is_held_up",
        "_is_lingering",
        "_is_paused",
        "_is_reading",
        "_left",
        "_reader",
        "_receiver",
        "_server",
        "_transport",
        "_unread_bytes",
        "deadline_s",
        "keeps_alive",
        "peer",
        "unread",
    )

    def __init__(self, server: "HttpServer") -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self.peer: Any = None
        self.keeps_alive = True  # as far as the current request is concerned
        self.unread: asyncio.Future[None] | None = None
        self._unread_bytes = 0
        self._reader: HeadReader | None = None  # while a head comes in
        self._exchange: Exchange | None = None
        self._receiver: Receiver | None = None
        self._chunks: ChunkReader | None = None
        self._content = bytearray()  # of chunks, where no receiver takes them
        self._body: KnownBody | None = None  # that has begun to come, for no receiver
        self._left = 0  # bytes of a known body that a receiver has not got
        self._held = b""
        self._is_first = True  # nothing has come yet
        self._is_reading = False  # _go is on the stack
        self._is_held_up = False  # by a receiver
        self._awaits_body = False  # its receiver has not decided about the head
        self._is_paused = False
        self._is_lingering = False
        self._is_closed = False
        self.deadline_s = NEVER
        self._deadline: Any = None  # what to do then

    # The transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.peer = transport.get_extra_info("peername")
        self._server.opened(self)
        self._expect_by(self._limits.header_timeout_s, self._slow_head)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._server.received if self._body is None else self._body.room

    def buffer_updated(self, nbytes: int) -> None:
        if self._body is not None:
            self._body.came(nbytes)
            if self._body.is_whole:
                self._go(b"")
            else:
                self._expect_by(self._limits.body_idle_timeout_s, self._slow_body)
        elif not self._is_closed:
            self._go(bytes(self._server.received[:nbytes]))

    def eof_received(self) -> bool:
        """A client that has hung up, or will send no more: it gets no answer, as in Tornado."""
        self._lost()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()
        self.deadline_s = NEVER
        self._server.closed(self)

    def pause_writing(self) -> None:
        if self.unread is None:
            self.unread = asyncio.get_running_loop().create_future()
            self._unread_bytes = self._write_buffer_bytes()
            if self._exchange is None or not self._exchange.is_unread:
                self._expect_by(self._limits.write_idle_timeout_s, self._watch_reader)

    def resume_writing(self) -> None:
        unread, self.unread = self.unread, None
        if unread is not None and not unread.done():
            unread.set_result(None)
        if self._deadline == self._watch_reader:
            self._expect_by(0, None)
        if self._exchange is None:
            self._next()

    # The exchange's calls

    def write(self, data: Buffer) -> None:
        transport = self._transport
        if transport is not None and not self._is_closed and not transport.is_closing():
            transport.write(data)

    def answered(self, exchange: Exchange) -> None:
        """exchange has its answer: on to the next request, or to the end."""
        if exchange is not self._exchange:
            return
        if exchange.is_unread:  # answered before its body has come
            exchange.closes = True
            self._is_lingering = True
        self._drop_exchange()
        if exchange.closes or not self.keeps_alive:
            self.close()
        else:
            self._next()

    def ran(self, exchange: Exchange) -> None:
        """What exchange ran has ended, perhaps after its answer."""
        if exchange is not self._exchange:
            self._server.ended(exchange)

    def failed(self, error: BaseException) -> None:
        self._server.failed(error)

    def go_on(self) -> None:
        """A receiver can take more of its body."""
        self._is_held_up = False
        if self._awaits_body:
            try:
                self._begin_body()
            except Refusal as refusal:
                self.refuse(refusal)
                return
        self._go(b"")

    def abort(self) -> None:
        """End the connection now, whatever is still to be sent."""
        if self._transport is not None:
            self._transport.abort()
        self._lost()

    # The server's calls

    @property
    def is_idle(self) -> bool:
        """Nothing of a request has come, and nothing is being answered."""
        return self._exchange is None and self._reader is None and not self._held

    @property
    def is_sending(self) -> bool:
        """Something that was written has not gone out."""
        return self._write_buffer_bytes() > 0

    @property
    def ssl_object(self) -> Any:
        return self._extra("ssl_object")

    @property
    def socket(self) -> Any:
        return self._extra("socket")

    def _extra(self, name: str) -> Any:
        return self._transport.get_extra_info(name) if self._transport is not None else None

    def close(self) -> None:
        """End the connection once what was written has gone out. Idempotent."""
        if self._is_closed:
            return
        transport = self._transport
        if self._is_lingering and transport is not None and transport.can_write_eof():
            # Closing with bytes unread would reset the connection and lose the answer.
            self._is_closed = True
            self._drop_body()
            transport.write_eof()
            self._read_on()
            self._expect_by(LINGER_S, self._hang_up)
        else:
            self._lost()

    def end(self) -> None:
        """Close, and wait for no client."""
        self._is_lingering = False
        self.close()
        self._hang_up()

    def is_over(self) -> None:
        """deadline_s has passed."""
        deadline, self._deadline = self._deadline, None
        self.deadline_s = NEVER
        deadline()

    # Reading

    @property
    def max_body_bytes(self) -> int:
        return self._server.limits.max_body_bytes

    @property
    def _limits(self) -> Limits:
        return self._server.limits

    def _go(self, data: bytes) -> None:
        """Read as far as may be read now; the rest is held."""
        if self._held:
            data, self._held = self._held + data, b""
        if self._is_reading or (self._is_first and not self._speaks_http1(data)):
            self._held = data
            return
        self._is_reading = True
        at = 0
        try:
            if self._body is not None and self._body.is_whole:
                self._complete(self._body.content)
            while at < len(data) and not self._is_closed and self._may_read():
                if self._exchange is None:
                    at = self._read_head(data, at)
                else:
                    at = self._read_body(data, at)
                if self._held:  # came in from a nested call
                    data, at, self._held = data[at:] + self._held, 0, b""
        except Refusal as refusal:
            self.refuse(refusal)
        except Exception as err:  # the application's, as it is asked or told
            self._server.failed(err)
            self.refuse(refusals.failed())
        finally:
            self._is_reading = False
        if self._is_closed:
            return
        self._held = data[at:] if at else data
        self._pace()

    def _speaks_http1(self, data: bytes) -> bool:
        """False: it is another's by now, or its first bytes leave it open."""
        size = min(len(data), len(PREFACE))
        if self._server.http2 is None or data[:size] != PREFACE[:size]:
            return True
        if size == len(PREFACE):
            self._hand_over(data)
        return False

    def _may_read(self) -> bool:
        if self._is_held_up:
            return False
        if self._exchange is not None:
            return self._exchange.is_unread
        if self._transport is None or self._transport.is_closing():
            return False  # it failed as we wrote, and asyncio tells only in the next turn
        return self.unread is None  # a client that reads no answers is asked for no requests

    def _pace(self) -> None:
        if len(self._held) > HELD_BYTES:
            if not self._is_paused and self._transport is not None:
                self._is_paused = True
                self._transport.pause_reading()
        else:
            self._read_on()

    def _read_on(self) -> None:
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()

    def _next(self) -> None:
        """Between two requests: read what is held, or wait."""
        if self._is_closed:
            return
        if self._held:
            self._go(b"")
        if self._exchange is None and self._reader is None and not self._is_closed:
            if self._server.is_closing and not self._held:
                self.close()
            elif self.unread is None:
                self._expect_by(self._limits.keep_alive_s, self._hang_up)

    def _read_head(self, data: bytes, at: int) -> int:
        reader, text = self._reader, b""
        if reader is None:
            head, text = self._server.heads.find(data, at)
            if head is not None:
                self._is_first = False
                self._begin(head)
                return at + len(text)
            reader = self._reader = self._server.reader()
            if not self._is_first:
                self._expect_by(self._limits.header_timeout_s, self._slow_head)
        self._is_first = False
        begun_at, at = at, reader.feed(data, at, self._limits)
        if reader.head is None:
            return len(data)
        head = reader.head
        self._reader = None
        self._server.give_back(reader)
        if text and at == begun_at + len(text):  # else empty lines stood before it
            self._server.heads.add(text, head)
        self._begin(head)
        return at

    def _begin(self, head: RequestHead) -> None:
        """A head is complete."""
        exchange = self._exchange = Exchange(self, head)
        length = head.body_length
        self.keeps_alive = head.keeps_alive and not self._server.is_closing
        self.deadline_s = NEVER
        exchange.is_unread = length != 0
        self._receiver = self._server.begin(exchange)
        if exchange is not self._exchange:
            return  # answered, or gone
        if not length:
            self._complete(b"")
        elif self._receiver is not None and not self._receiver.is_ready:
            self._is_held_up = self._awaits_body = True
        else:
            self._begin_body()

    def _begin_body(self) -> None:
        """The application has seen the head: it may have answered, or set a limit of its own."""
        self._awaits_body = False
        exchange = self._exchange
        assert exchange is not None
        length, most = exchange.body_length, exchange.max_body_bytes
        if most and length > most:
            raise refusals.body_too_large(f"the body has {length} bytes", most)
        expects = exchange.headers.get("expect", "").lower() == "100-continue"
        if expects and exchange.version == "HTTP/1.1":
            exchange.proceed()
        self._chunks = ChunkReader(most, self._limits) if length == CHUNKED else None
        self._left = length
        self._expect_by(self._limits.body_idle_timeout_s, self._slow_body)

    def _read_body(self, data: bytes, at: int) -> int:
        if self._chunks is not None:
            return self._read_chunks(self._chunks, data, at)
        piece = data[at : at + self._left]
        if self._receiver is not None:
            self._left -= len(piece)
            self._is_held_up = not self._receiver.take(piece)
            if self._exchange is None:  # it has answered
                return len(data)
        elif len(piece) < self._left:  # the rest lands where it stays
            assert self._exchange is not None
            self._body = KnownBody(self._left, self._exchange.aligned_at)
            self._body.take(piece)
        else:
            self._complete(piece)
            return at + len(piece)
        if self._left:
            self._expect_by(self._limits.body_idle_timeout_s, self._slow_body)
        else:
            self._complete(b"")
        return at + len(piece)

    def _read_chunks(self, chunks: ChunkReader, data: bytes, at: int) -> int:
        pieces, at = chunks.feed(data, at)
        if self._receiver is not None:
            for piece in pieces:
                self._is_held_up = not self._receiver.take(piece) or self._is_held_up
                if self._exchange is None:  # it has answered
                    return len(data)
        else:
            for piece in pieces:
                self._content += piece
        if chunks.has_ended:
            self._complete(self._content)
        else:
            self._expect_by(self._limits.body_idle_timeout_s, self._slow_body)
        return at

    def _complete(self, body: Buffer) -> None:
        """The request has come in whole."""
        exchange, receiver = self._exchange, self._receiver
        assert exchange is not None
        exchange.is_unread = False
        self._drop_body()
        self._deadline = None
        self.deadline_s = NEVER
        if receiver is not None:
            receiver.finish_input()
        else:
            exchange.body = body
            self._server.finish(exchange)

    # Ending

    def refuse(self, refusal: Refusal) -> None:
        """Answer what is no request, or no good one, and close; only close where an answer has
        begun."""
        exchange = self._exchange
        if not self._is_closed and (exchange is None or not exchange.has_started):
            if exchange is None:
                exchange = Exchange(self, NO_HEAD)
                self._exchange = exchange
            exchange.closes = True
            exchange.is_unread = True
            kind, body = self._server.render(refusal)
            exchange.respond(refusal.status, [("Content-Type", kind)], [body])
        elif exchange is not None:
            self._is_lingering = True
            self.close()

    def _slow_head(self) -> None:
        self.refuse(refusals.slow_head(self._limits))

    def _slow_body(self) -> None:
        if self._is_held_up:  # the application's doing
            self._expect_by(self._limits.body_idle_timeout_s, self._slow_body)
        else:
            self.refuse(refusals.slow_body(self._limits))

    def _watch_reader(self) -> None:
        """Cut a client that has taken nothing of its answer since last looked at."""
        unread = self._write_buffer_bytes()
        if unread >= self._unread_bytes:
            self.abort()
        else:
            self._unread_bytes = unread
            self._expect_by(self._limits.write_idle_timeout_s, self._watch_reader)

    def _write_buffer_bytes(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def _hand_over(self, received: bytes) -> None:
        """The client speaks HTTP/2: whoever does takes the transport."""
        assert self._transport is not None
        assert self._server.http2 is not None
        transport, self._transport = self._transport, None
        self._is_closed = True
        self.deadline_s = NEVER
        self._server.closed(self)
        self._server.http2(transport, received)

    def _hang_up(self) -> None:
        self._lost()
        if self._transport is not None:
            self._transport.close()

    def _lost(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            if self._transport is not None:
                self._transport.close()
        self._drop_body()
        self._held = b""
        if self._reader is not None:
            self._server.give_back(self._reader)
            self._reader = None
        exchange = self._exchange
        if exchange is not None:
            self._drop_exchange()
            exchange.lost()
        if self.unread is not None and not self.unread.done():
            self.unread.set_result(None)
            self.unread = None

    def _drop_exchange(self) -> None:
        exchange, self._exchange = self._exchange, None
        self._receiver = None
        self._is_held_up = self._awaits_body = False
        self._drop_body()
        if exchange is not None and not exchange.is_running:
            self._server.ended(exchange)

    def _drop_body(self) -> None:
        self._body = self._chunks = None
        if self._content:
            self._content = bytearray()

    def _expect_by(self, seconds: float, otherwise: Any) -> None:
        """Call otherwise after seconds, unless told something else by then; 0: never."""
        self._deadline = otherwise
        if seconds and otherwise is not None:
            self.deadline_s = self._server.now_s + self._server.tick_s + seconds
        else:
            self.deadline_s = NEVER
