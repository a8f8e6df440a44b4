"""A client of bytes: what goes out is what a test says, what comes back is read by h11.

h11 shares no code with the servers under test, and refuses what is no HTTP/1.1 response.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h11

TIMEOUT_S = 20.0  # no test waits for it, unless something hangs
Address = int | Path  # a TCP port on the loopback, or a Unix socket
MAX_HEAD_BYTES = 1 << 20


@dataclass(frozen=True)
class Reply:
    """headers: names in lower case, in order. interim: statuses of the 1xx before it."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    interim: tuple[int, ...] = ()

    def header(self, name: str) -> str | None:
        """Its only value. Fails if it came twice."""
        found = [value for key, value in self.headers if key == name]
        assert len(found) < 2, found
        return found[0] if found else None


@dataclass
class ReplyReader:
    """Feed it what comes, b"" for the end; replies are added once they are whole.

    methods: of the requests, in order, since HEAD's answers look longer than they are; GET where
    there are more answers than methods. Raises h11.RemoteProtocolError for what is no response,
    for an answer that ends too early, and for bytes behind one that said it was the last.
    """

    methods: Sequence[str] = ()
    replies: list[Reply] = field(default_factory=list)
    is_over: bool = False  # the last answer said so, or the end has come
    _connection: h11.Connection | None = None
    _response: h11.Response | None = None
    _interim: list[int] = field(default_factory=list)
    _body: bytes = b""

    def feed(self, data: bytes) -> None:
        if self.is_over:
            if data:
                raise h11.RemoteProtocolError("bytes behind the last answer")
            return
        if self._connection is None:
            if not data:
                self.is_over = True
                return
            self._connection = self._asked()
        if not data and self._is_between():
            self.is_over = True
            return
        self._connection.receive_data(data)
        while not self.is_over and self._take(self._connection.next_event()):
            pass

    def _asked(self) -> h11.Connection:
        """h11's side of a connection on which the next request has been sent."""
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        at = len(self.replies)
        method = self.methods[at] if at < len(self.methods) else "GET"
        connection.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        connection.send(h11.EndOfMessage())
        return connection

    def _is_between(self) -> bool:
        assert self._connection is not None
        is_fresh = self._connection.their_state is h11.SEND_RESPONSE
        return is_fresh and not self._interim and not self._connection.trailing_data[0]

    def _take(self, event: object) -> bool:
        """False: more bytes are needed."""
        connection = self._connection
        assert connection is not None
        match event:
            case h11.InformationalResponse():
                self._interim.append(event.status_code)
            case h11.Response():
                self._response = event
            case h11.Data():
                self._body += event.data
            case h11.EndOfMessage():
                self._add()
                return self._go_on(connection)
            case h11.ConnectionClosed():
                self.is_over = True
            case _:
                return False
        return True

    def _go_on(self, connection: h11.Connection) -> bool:
        """Behind a whole answer. False: more bytes are needed, or none may come."""
        rest, has_ended = connection.trailing_data
        if connection.their_state is not h11.DONE:  # the answer said it was the last
            self.is_over = True
            if rest:
                raise h11.RemoteProtocolError("bytes behind the last answer")
            return False
        self._connection = self._asked()
        if not rest:
            self.is_over = has_ended
            return False
        self._connection.receive_data(rest)
        if has_ended:
            self._connection.receive_data(b"")
        return True

    def _add(self) -> None:
        response = self._response
        assert response is not None
        headers = tuple((n.decode("latin1"), v.decode("latin1")) for n, v in response.headers)
        reason = response.reason.decode("latin1")
        interim = tuple(self._interim)
        self.replies.append(Reply(response.status_code, reason, headers, self._body, interim))
        self._response, self._interim, self._body = None, [], b""


def replies(received: bytes, methods: Sequence[str] = ()) -> list[Reply]:
    """All answers in received, behind which the connection was closed."""
    reader = ReplyReader(methods)
    reader.feed(received)
    reader.feed(b"")
    return reader.replies


class Client:
    """One connection. Everything fails after TIMEOUT_S, so that a server that hangs is seen."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.received = b""
        self.failure: ConnectionError | None = None  # a reset, which is no clean end

    async def send(self, *pieces: bytes) -> None:
        """Each piece in a write of its own, after a turn of the loop. A server that has closed
        is seen when reading."""
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                self._writer.write(piece)
                await asyncio.sleep(0)
                await asyncio.wait_for(self._writer.drain(), TIMEOUT_S)

    def end(self) -> None:
        """Half-close: nothing more will be sent."""
        self._writer.write_eof()

    def abort(self) -> None:
        self._writer.transport.abort()

    async def read(self) -> bytes:
        """Something of what the server says; b"" when it has closed."""
        try:
            data = await asyncio.wait_for(self._reader.read(1 << 16), TIMEOUT_S)
        except ConnectionError as err:
            self.failure = err
            data = b""
        self.received += data
        return data

    async def read_all(self) -> bytes:
        """All the server says until it closes."""
        while await self.read():
            pass
        return self.received

    async def read_until(self, end: bytes) -> bytes:
        """What has come so far, once it holds end. Fails if the server closes first."""
        while end not in self.received:
            assert await self.read(), f"closed after {self.received!r}"
        return self.received

    async def read_replies(self, reader: ReplyReader, count: int) -> None:
        """Read until reader has count replies, or the server has closed."""
        while len(reader.replies) < count and not reader.is_over:
            reader.feed(await self.read())

    @property
    def writer(self) -> asyncio.StreamWriter:
        return self._writer


@asynccontextmanager
async def connected(address: Address, tls: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
    if isinstance(address, Path):
        reader, writer = await asyncio.open_unix_connection(address)
    else:
        name = "localhost" if tls else None
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", address, ssl=tls, server_hostname=name
        )
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(writer.wait_closed(), TIMEOUT_S)


async def talk(address: Address, *pieces: bytes, tls: ssl.SSLContext | None = None) -> bytes:
    """All a server answers to pieces until it closes."""
    async with connected(address, tls) as client:
        await client.send(*pieces)
        return await client.read_all()


def one_by_one(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
