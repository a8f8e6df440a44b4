"""One connection: a transport below, its requests and answers above, one at a time and in order.

What comes in is intake.py's; here is what goes out, who waits for whom, and how it ends.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from headrace.http.exchange import Buffer, Exchange
from headrace.http.flow import Inflow, Outflow
from headrace.http.head import RequestHead
from headrace.http.intake import Intake
from headrace.http.limits import Refusal
from headrace.http.lingering import END_S, IDLE_S, Lingering
from headrace.http.state import NEVER, State

if TYPE_CHECKING:
    from headrace.http.server import HttpServer

NO_HEAD = RequestHead("", "", "HTTP/1.1", {}, (), 0, False)  # of what is no request
FRESH, WAITING, LINGERING, CLOSED = State.FRESH, State.WAITING, State.LINGERING, State.CLOSED
OVER = (LINGERING, CLOSED)


class Connection(asyncio.BufferedProtocol):
    """keeps_alive: as far as the current request is concerned."""

    __slots__ = (
        "_deadline",
        "_intake",
        "_lingering",
        "_outflow",
        "_server",
        "_transport",
        "deadline_s",
        "exchange",
        "inflow",
        "keeps_alive",
        "peer",
        "state",
    )

    def __init__(self, server: "HttpServer") -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self.peer: Any = None
        self.state = FRESH
        self.keeps_alive = True
        self.exchange: Exchange | None = None
        self._intake = Intake(self, server)
        self._outflow = Outflow()
        self._lingering: Lingering | None = None
        self.deadline_s = NEVER
        self._deadline: Callable[[], None] | None = None  # what to do then

    # The transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.inflow = Inflow(self._transport, self.abort)
        self.peer = transport.get_extra_info("peername")
        self._server.opened(self)
        self.expect_by(self._server.limits.header_timeout_s, self._intake.slow_head)

    def get_buffer(self, sizehint: int) -> memoryview:
        body = self._intake.body
        return self._server.received if body is None else body.room

    def buffer_updated(self, nbytes: int) -> None:
        if self._lingering is not None:
            self._drop(self._lingering, nbytes)
        elif self.state is not CLOSED:
            self._intake.came(nbytes)

    def eof_received(self) -> bool:
        """A client that has hung up, or will send no more: it gets no answer, as in Tornado."""
        self._lost()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()
        self.expect_nothing()
        self._server.closed(self)

    def pause_writing(self) -> None:
        if self._outflow.unread is None:
            self._outflow.stop()
            if self.exchange is None or not self.exchange.is_unread:
                self._outflow.look(self._unsent_bytes(), self._server.now_s)
                self.expect_by(self._server.limits.write_idle_timeout_s, self._watch_reader)

    def resume_writing(self) -> None:
        self._outflow.go_on()
        if self._deadline == self._watch_reader:
            self.expect_nothing()
        if self.exchange is None:
            self._next()

    # The exchange's calls

    def write(self, data: Buffer) -> None:
        transport = self._transport
        if transport is None or self.state in OVER or transport.is_closing():
            return
        transport.write(data)

    @property
    def unread(self) -> "asyncio.Future[None] | None":
        """Done when the client has read what was written; None: it keeps up."""
        return self._outflow.unread

    @property
    def max_body_bytes(self) -> int:
        return self._server.limits.max_body_bytes

    def answered(self, exchange: Exchange) -> None:
        """exchange has its answer: on to the next request, or to the end."""
        if exchange is not self.exchange:
            return
        self._drop_exchange()
        if exchange.is_unread or exchange.closes or not self.keeps_alive:
            self._close(exchange.is_unread)  # answered before its body has come
        else:
            self.state = WAITING
            self._next()

    def ran(self, exchange: Exchange) -> None:
        """What exchange ran has ended, perhaps after its answer."""
        if exchange is not self.exchange:
            self._server.ended(exchange)

    def failed(self, error: BaseException) -> None:
        self._server.failed(error)

    def go_on(self) -> None:
        """A receiver can take more of its body."""
        self._intake.go_on()

    def abort(self) -> None:
        """End the connection now, whatever is still to be sent."""
        if self._transport is not None:
            self._transport.abort()
        self._lost()

    # The intake's calls

    @property
    def takes_requests(self) -> bool:
        if self._outflow.unread is not None:
            return False  # a client that reads no answers is asked for no requests
        # it failed as we wrote, and asyncio tells only in the next turn
        return self._transport is not None and not self._transport.is_closing()

    def hand_over(self, received: bytes) -> None:
        """The client speaks HTTP/2: whoever does takes the transport."""
        assert self._transport is not None
        assert self._server.http2 is not None
        transport, self._transport = self._transport, None
        self.state = CLOSED
        self.expect_nothing()
        self._server.closed(self)
        self._server.http2(transport, received)

    def refuse(self, refusal: Refusal) -> None:
        """Answer what is no request, or no good one, and close; only close where an answer has
        begun."""
        exchange = self.exchange
        if self.state in OVER:
            return
        if exchange is not None and exchange.has_started:
            self._close(is_unread=True)
            return
        if exchange is None:
            exchange = self.exchange = Exchange(self, NO_HEAD)
        exchange.closes = True
        exchange.is_unread = True
        kind, body = self._server.render(refusal)
        headers = [("Content-Type", kind)]
        if refusal.status == 503:
            headers.append(("Retry-After", "1"))
        exchange.respond(refusal.status, headers, [body])

    # The server's calls

    @property
    def is_idle(self) -> bool:
        """Nothing of a request has come, and nothing is being answered."""
        return self.state in (WAITING, FRESH) and not self._intake.held

    @property
    def is_sending(self) -> bool:
        """Something that was written has not gone out."""
        return self._unsent_bytes() > 0

    @property
    def ssl_object(self) -> Any:
        return self._extra("ssl_object")

    @property
    def socket(self) -> Any:
        return self._extra("socket")

    def _extra(self, name: str) -> Any:
        return self._transport.get_extra_info(name) if self._transport is not None else None

    def close(self) -> None:
        """End the connection once the client has what was written. Idempotent."""
        self._close(is_unread=False)

    def end(self) -> None:
        """Close, and hardly wait for the client."""
        if self.state is LINGERING:
            asyncio.get_running_loop().call_later(END_S, self._lost)
        else:
            self._lost()

    def is_over(self) -> None:
        """deadline_s has passed."""
        deadline = self._deadline
        self.expect_nothing()
        if deadline is not None:
            deadline()

    # Waiting and ending

    def expect_by(self, seconds: float, otherwise: Callable[[], None]) -> None:
        """Call otherwise after seconds, unless told something else by then; 0: never."""
        self._deadline = otherwise
        self.deadline_s = self._server.now_s + self._server.tick_s + seconds if seconds else NEVER

    def expect_nothing(self) -> None:
        self._deadline = None
        self.deadline_s = NEVER

    def _next(self) -> None:
        """Between two requests: read what is held, or wait."""
        if self._intake.held:
            self._intake.go(b"")
        if self.state is WAITING:
            if self._server.is_closing and not self._intake.held:
                self.close()
            elif self.unread is None:
                self.expect_by(self._server.limits.keep_alive_s, self.close)

    def _watch_reader(self) -> None:
        """Cut a client that takes nothing of its answer."""
        limit_s = self._server.limits.write_idle_timeout_s
        if self._outflow.has_stalled(self._unsent_bytes(), self._server.now_s, limit_s):
            self.abort()
        else:
            self.expect_by(limit_s, self._watch_reader)

    def _unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def _close(self, is_unread: bool) -> None:
        """is_unread: something of the current request has not been read."""
        transport = self._transport
        if self.state in OVER:
            return
        can_say_so = transport is not None and transport.can_write_eof()
        if transport is None or not (can_say_so or is_unread or self._intake.held):
            self._lost()
            return
        self.state = LINGERING
        self._lingering = Lingering(self._server.now_s)
        self._forget()
        self.inflow.resume()
        self._outflow.look(self._unsent_bytes(), self._server.now_s)
        self.expect_by(IDLE_S, self._linger_on)
        if can_say_so:
            try:
                transport.write_eof()
            except OSError:  # the client has gone, and asyncio tells only in the next turn
                self._lost()

    def _drop(self, lingering: Lingering, count: int) -> None:
        """count bytes have come that nobody reads."""
        if lingering.take(count, self._server.now_s):
            self.expect_by(lingering.wait_s, self._linger_on)
        else:
            self._lost()

    def _linger_on(self) -> None:
        """As long as the client takes its answer."""
        left = self._unsent_bytes()
        limit_s = self._server.limits.write_idle_timeout_s
        if self._outflow.has_stalled(left, self._server.now_s, limit_s):
            self.abort()
        elif left:
            self.expect_by(IDLE_S, self._linger_on)
        else:
            self._lost()

    def _lost(self) -> None:
        """The connection is over for either side; what was written may still go out."""
        if self.state is CLOSED:
            return
        self.state = CLOSED
        self._lingering = None
        if self._transport is not None:
            self.inflow.forget()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()
        self._forget()
        self._outflow.go_on()
        if left := self._unsent_bytes():
            self._outflow.look(left, self._server.now_s)
            self.expect_by(self._server.limits.write_idle_timeout_s, self._watch_reader)

    def _forget(self) -> None:
        """Nothing more is read, and nothing is answered."""
        self._intake.drop()
        exchange = self.exchange
        if exchange is not None:
            self._drop_exchange()
            exchange.lost()

    def _drop_exchange(self) -> None:
        exchange, self.exchange = self.exchange, None
        self._intake.drop_body()
        if exchange is not None and not exchange.is_running:
            self._server.ended(exchange)
