"""Time, size and order on a connection: limits, back-pressure, hang-ups, drain, TLS, Unix."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.http import Exchange, HttpServer, Limits
from headrace.http.connection import Connection
from headrace.http.intake import HELD_BYTES
from headrace.http.lingering import MAX_BYTES, Lingering
from headrace.http.server import RECEIVE_BYTES
from tests.http.application import Events, application
from tests.http.certificates import Authority
from tests.http.fed import Fed, Recorder, recording
from tests.http.servers import OURS, Kind, serving
from tests.http.wire import TIMEOUT_S, ReplyReader, chunked, connected, replies, talk

GET = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n"
CODED = b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
SHORT_S = 0.05
IMPATIENT = Limits(header_timeout_s=SHORT_S, body_idle_timeout_s=SHORT_S)
SMALL = Limits(max_body_bytes=1000)  # and patient: what is late on a busy machine is no 408
PIECE = bytes(1 << 16)

on_each_loop = pytest.mark.parametrize("kind", OURS)


class Waits:
    """A short path whose answers wait for `go`; notes what happened to them."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.go = asyncio.Event()

    def begin(self, exchange: Exchange) -> bool:
        return True

    def finish(self, exchange: Exchange) -> None:
        exchange.run(self._answer(exchange))

    async def _answer(self, exchange: Exchange) -> None:
        self.events.append(f"entered {exchange.target}")
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.events.append(f"cancelled {exchange.target}")
            raise
        exchange.respond(200, [], [exchange.target.encode()])


class Produces(Waits):
    """An answer without end, in pieces, as fast as its client reads."""

    async def _answer(self, exchange: Exchange) -> None:
        exchange.start(200, [])
        try:
            while True:
                await asyncio.sleep(0)
                exchange.write(PIECE)
                self.events.append("piece")
                await exchange.written()
        finally:
            self.events.append("ended")


class Clings(Waits):
    """Answers that nobody can cancel."""

    async def _answer(self, exchange: Exchange) -> None:
        self.events.append(f"entered {exchange.target}")
        while not self.go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.go.wait()


class Keeps:
    """Keeps the body it was given."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []

    def begin(self, exchange: Exchange) -> bool:
        return True

    def finish(self, exchange: Exchange) -> None:
        self.bodies.append(exchange.body)
        exchange.respond(200, [], [b"kept"])


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not holds():  # noqa: ASYNC110 - a counter of the server's, which tells nobody
            await asyncio.sleep(0)


def only(server: HttpServer) -> Connection:
    [connection] = server.connections
    return connection


@on_each_loop
@pytest.mark.parametrize(
    ("sent", "limits", "status"),
    [
        pytest.param(b"", IMPATIENT, 408, id="a client that says nothing"),
        pytest.param(b"GET / HTTP/1.1\r\nHost:", IMPATIENT, 408, id="a head that does not end"),
        pytest.param(GET + b"GET", IMPATIENT, 408, id="a second head that does not end"),
        pytest.param(POST % 10 + b"abc", IMPATIENT, 408, id="a body that does not come"),
        pytest.param(CODED + b"3\r\nab", IMPATIENT, 408, id="a chunk that does not come"),
        pytest.param(CODED + b"3\r\nabc\r\n", IMPATIENT, 408, id="a last chunk that does not come"),
        pytest.param(POST % 1001, SMALL, 413, id="a length over the limit"),
        pytest.param(CODED + b"3e9\r\n", SMALL, 413, id="a chunk over the limit"),
        pytest.param(CODED + chunked(*[bytes(100)] * 11), SMALL, 413, id="chunks over the limit"),
    ],
)
def test_a_limit_ends_the_connection(sent: bytes, limits: Limits, status: int, kind: Kind) -> None:
    async def run() -> None:
        server, _ = recording(limits)
        async with serving(server) as served:
            last = replies(await talk(served.port, sent))[-1]
        assert (last.status, last.header("connection")) == (status, "close")

    kind.run(run())


@on_each_loop
@pytest.mark.parametrize(
    "head",
    [
        pytest.param(POST % 4_000_000, id="a length"),
        pytest.param(CODED + b"3d0900\r\n", id="chunks"),
    ],
)
def test_a_refusal_reaches_a_client_that_still_sends(head: bytes, kind: Kind) -> None:
    """Closing with bytes unread would reset the connection, and the answer with it."""

    async def run() -> None:
        server, _ = recording(SMALL)
        async with serving(server) as served:
            received = await talk(served.port, head, bytes(4_000_000))
        assert [reply.status for reply in replies(received)] == [413]

    kind.run(run())


FLOOD = GET * 100_000  # more than what a socket holds


@on_each_loop
@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        pytest.param(LAST, [200], id="an answer that was the last"),
        pytest.param(GET + b"no request\r\n\r\n", [200, 400], id="what is no request"),
        pytest.param(POST % 1001, [413], id="a refused body"),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", [200], id="a client that knows no better"),
    ],
)
def test_an_answer_is_not_lost_to_what_comes_behind_it(
    sent: bytes, statuses: list[int], kind: Kind
) -> None:
    """A close with bytes unread would reset the connection (RFC 9112 §9.6)."""

    async def run() -> None:
        server, recorder = recording(Limits(max_body_bytes=1000))
        async with serving(server) as served, connected(served.port) as client:
            await client.send(sent + FLOOD)
            assert not client.writer.transport.is_closing(), "reset"
            received = await client.read_all()
            assert [reply.status for reply in replies(received)] == statuses
            assert client.failure is None
        assert len(recorder.seen) < 2

    kind.run(run())


@on_each_loop
def test_an_answer_is_not_lost_over_tls(tmp_path: Path, kind: Kind) -> None:
    async def run() -> None:
        authority = Authority(tmp_path)
        server, _ = recording(Limits(max_body_bytes=1000))
        async with (
            serving(server, authority.server_context()) as served,
            connected(served.port, authority.client_context()) as client,
        ):
            await client.send(POST % 4_000_000 + bytes(4_000_000))
            await client.read_until(b'"}')
            assert [reply.status for reply in replies(client.received)] == [413]

    kind.run(run())


@on_each_loop
def test_drain_loses_no_answer(kind: Kind) -> None:
    """The client asks on while the server ends."""

    async def run() -> None:
        waits = Waits()
        server = HttpServer(short_path=waits)
        async with serving(server) as served, connected(served.port) as client:
            await client.send(GET)
            await until(lambda: bool(waits.events))
            draining = asyncio.create_task(server.drain(TIMEOUT_S))
            sending = asyncio.create_task(client.send(FLOOD))
            await until(lambda: only(server).inflow.is_paused)
            waits.go.set()
            assert await draining
            await server.end()
            [reply] = replies(await client.read_all())
            await sending
        assert (reply.body, reply.header("connection")) == (b"/", "close")

    kind.run(run())


@pytest.mark.parametrize(
    ("taken", "goes_on"),
    [
        pytest.param([(1, 1.0)], True, id="something"),
        pytest.param([(1, at * 1.0) for at in range(1, 10)], True, id="something, for a while"),
        pytest.param([(1, at * 1.0) for at in range(1, 11)], False, id="something, for too long"),
        pytest.param([(MAX_BYTES - 1, 0.5)], True, id="much"),
        pytest.param([(MAX_BYTES - 1, 0.5), (1, 0.6)], False, id="too much"),
    ],
)
def test_a_client_is_not_waited_for_without_end(
    taken: list[tuple[int, float]], goes_on: bool
) -> None:
    lingering = Lingering(0.0)
    assert [lingering.take(count, now_s) for count, now_s in taken][-1] == goes_on


def test_what_comes_behind_the_end_is_dropped_for_so_long() -> None:
    async def run() -> None:
        server, _ = recording(Limits())
        fed = Fed(server)
        fed.feed([LAST, GET, GET])
        assert (fed.wire.has_ended, fed.wire.is_closed) == (True, False)
        assert server.connections
        fed.connection.is_over()
        assert fed.wire.is_closed
        fed.hang_up()
        assert not server.connections

    asyncio.run(run())


class Refuses:
    """A short path that wants no body."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def begin(self, exchange: Exchange) -> bool:
        exchange.takes_body = False
        return True

    def finish(self, exchange: Exchange) -> None:
        self.bodies.append(bytes(exchange.body))
        exchange.respond(404, [])


@on_each_loop
@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        pytest.param(POST % 9 + b"123456789" + LAST, 2, id="a short one is dropped"),
        pytest.param(POST % 60_000 + bytes(60_000) + LAST, 2, id="one of several pieces too"),
        pytest.param(POST % 70_000, 1, id="a long one is not waited for"),
        pytest.param(POST % 4_000_000 + bytes(4_000_000), 1, id="a long one may come"),
        pytest.param(CODED, 1, id="one of unknown length is not waited for"),
    ],
)
def test_a_body_nobody_takes_is_not_kept(sent: bytes, answers: int, kind: Kind) -> None:
    async def run() -> None:
        refuses = Refuses()
        async with serving(HttpServer(short_path=refuses)) as served:
            received = replies(await talk(served.port, sent))
        assert [reply.status for reply in received] == [404] * answers
        assert received[-1].header("connection") == "close"
        assert refuses.bodies == [b""] * answers

    kind.run(run())


@on_each_loop
@pytest.mark.parametrize(
    ("begun", "interim"),
    [pytest.param(b"", (100,), id="asked"), pytest.param(b"abc", (), id="begun already")],
)
def test_a_body_is_asked_for_unless_it_has_begun(
    begun: bytes, interim: tuple[int, ...], kind: Kind
) -> None:
    head = b"POST / HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"

    async def run() -> None:
        server, recorder = recording(Limits())
        async with serving(server) as served, connected(served.port) as client:
            await client.send(head + begun)
            await until(lambda: bool(recorder.begun))
            await client.send(b"abcde"[len(begun) :])
            reader = ReplyReader()
            await client.read_replies(reader, 1)
        assert [(reply.status, reply.interim) for reply in reader.replies] == [(200, interim)]

    kind.run(run())


@on_each_loop
def test_an_idle_connection_is_closed_in_silence(kind: Kind) -> None:
    async def run() -> None:
        server, _ = recording(Limits(keep_alive_s=SHORT_S))
        async with serving(server) as served:
            received = await talk(served.port, GET)
        assert [reply.status for reply in replies(received)] == [200]

    kind.run(run())


@on_each_loop
def test_a_limit_of_nothing_is_none(kind: Kind) -> None:
    async def run() -> None:
        server, _ = recording(Limits(0, 0, 0, 0, 0, 0, 0))
        async with serving(server) as served:
            sent = POST % 3_000_000 + bytes(3_000_000) + b"GET / HTTP/1.1\r\nHost: t\r\n"
            many = b"".join(b"X-%d: %b\r\n" % (at, b"y" * 100) for at in range(1000))
            received = await talk(served.port, sent + many + b"Connection: close\r\n\r\n")
        assert [reply.status for reply in replies(received)] == [200, 200]

    kind.run(run())


@on_each_loop
def test_an_idle_connection_holds_no_parser(kind: Kind) -> None:
    async def run() -> None:
        server, _ = recording(Limits())
        async with serving(server) as served, connected(served.port) as client:
            await client.send(GET[:20])
            await until(
                lambda: bool(server.connections) and only(server)._intake.reader is not None
            )
            await client.send(GET[20:])
            await client.read_replies(ReplyReader(), 1)
            assert only(server).is_idle
            assert only(server)._intake.reader is None

    kind.run(run())


@on_each_loop
@pytest.mark.parametrize(
    "size_bytes", [pytest.param(1 << 18, id="on the heap"), pytest.param(5 << 20, id="mapped")]
)
def test_a_body_of_known_length_has_one_buffer_of_that_size(size_bytes: int, kind: Kind) -> None:
    async def run() -> None:
        keeps = Keeps()
        body = bytes(range(256)) * (size_bytes // 256)
        async with serving(HttpServer(short_path=keeps)) as served:
            received = await talk(served.port, POST % size_bytes + body + LAST)
        assert [reply.body for reply in replies(received)] == [b"kept", b"kept"]
        [kept, nothing] = keeps.bodies
        assert isinstance(kept, bytearray | memoryview)
        assert (len(kept), bytes(kept) == body, bytes(nothing)) == (size_bytes, True, b"")

    kind.run(run())


@on_each_loop
def test_a_slow_reader_stops_the_producer(kind: Kind) -> None:
    """It goes on when the client does."""

    async def run() -> None:
        produces = Produces()
        server = HttpServer(short_path=produces)
        async with serving(server) as served, connected(served.port) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(GET)
            await until(lambda: bool(server.connections) and only(server).unread is not None)
            count = len(produces.events)
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(produces.events) <= count + 1
            assert only(server)._unsent_bytes() < 4 * len(PIECE)
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            while len(produces.events) < 4 * count + 4:
                await client.read()
            client.abort()
            await until(lambda: produces.events[-1] == "ended")

    kind.run(run())


@on_each_loop
def test_a_slow_reader_stops_tornados_handlers(kind: Kind) -> None:
    async def run() -> None:
        app = application()
        events: Events = app.settings["events"]
        server = HttpServer(app)
        async with serving(server) as served, connected(served.port) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(b"GET /endless HTTP/1.1\r\nHost: t\r\n\r\n")
            await until(lambda: bool(server.connections) and only(server).unread is not None)
            count = len(events.seen)
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(events.seen) <= count + 1
            client.abort()
            await events.until("closed")

    kind.run(run())


@on_each_loop
def test_a_client_that_reads_nothing_is_cut(kind: Kind) -> None:
    async def run() -> None:
        produces = Produces()
        server = HttpServer(short_path=produces, limits=Limits(write_idle_timeout_s=SHORT_S))
        async with serving(server) as served, connected(served.port) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(GET)
            await until(lambda: bool(produces.events) and produces.events[-1] == "ended")
            await until(lambda: not server.connections)

    kind.run(run())


@on_each_loop
def test_a_slow_handler_stops_the_upload(kind: Kind) -> None:
    async def run() -> None:
        app = application()
        events: Events = app.settings["events"]
        server = HttpServer(app)
        size = 30_000_000
        head = b"POST /upload?gated=yes HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % size
        async with serving(server) as served, connected(served.port) as client:
            sending = asyncio.create_task(client.send(head + bytes(size)))
            await until(lambda: bool(server.connections) and only(server).inflow.is_paused)
            assert len(only(server)._intake.held) <= HELD_BYTES + RECEIVE_BYTES
            assert events.seen.count("data") <= 1
            assert not sending.done()
            events.go.set()
            reader = ReplyReader()
            await client.read_replies(reader, 1)
            await sending
        assert reader.replies[0].body == b"30000000 bytes"

    kind.run(run())


def came(server: HttpServer) -> int:
    body = only(server)._intake.body
    return 0 if body is None else body._came


@on_each_loop
def test_a_slow_uploader_is_waited_for_piece_by_piece(kind: Kind) -> None:
    """The time between two pieces counts, not the time of all."""

    async def run() -> None:
        server, recorder = recording(Limits())
        async with serving(server) as served, connected(served.port) as client:
            await client.send(POST % 5)
            for at in range(5):
                await until(lambda at=at: bool(recorder.begun) and came(server) == at)  # type: ignore[misc]
                assert recorder.seen == []
                await client.send(b"x")
            await client.read_replies(ReplyReader(), 1)
        assert recorder.seen == [("POST", "/", b"xxxxx")]

    kind.run(run())


@on_each_loop
@pytest.mark.parametrize("is_abrupt", [True, False], ids=["a reset", "an end of its half"])
def test_a_client_that_goes_cancels_its_request(is_abrupt: bool, kind: Kind) -> None:
    async def run() -> None:
        waits = Waits()
        server = HttpServer(short_path=waits)
        async with serving(server) as served, connected(served.port) as client:
            await client.send(GET)
            await until(lambda: waits.events == ["entered /"])
            if is_abrupt:
                client.abort()
            else:
                client.end()
            await until(lambda: waits.events == ["entered /", "cancelled /"])
            await until(lambda: not server.connections)

    kind.run(run())


@on_each_loop
@pytest.mark.parametrize("is_abrupt", [True, False], ids=["a reset", "an end of its half"])
def test_a_client_that_goes_behind_what_it_pipelined_cancels_its_request(
    is_abrupt: bool, kind: Kind
) -> None:
    """Reading is paused there, and the event loop sees nothing."""

    async def run() -> None:
        waits = Waits()
        server = HttpServer(short_path=waits)
        async with serving(server) as served, connected(served.port) as client:
            await client.send(GET * (2 * HELD_BYTES // len(GET)))
            await until(lambda: bool(server.connections) and only(server).inflow.is_paused)
            if is_abrupt:
                client.abort()
            else:
                client.end()
            await until(lambda: waits.events == ["entered /", "cancelled /"])
            await until(lambda: not server.connections)

    kind.run(run())


@on_each_loop
def test_a_client_that_goes_is_told_to_tornados_handler(kind: Kind) -> None:
    async def run() -> None:
        app = application()
        events: Events = app.settings["events"]
        async with serving(HttpServer(app)) as served, connected(served.port) as client:
            await client.send(b"GET /waiting HTTP/1.1\r\nHost: t\r\n\r\n")
            await events.until("entered")
            client.abort()
            await events.until("gone")
            events.go.set()  # the handler may still answer nobody
            await events.until("finished")

    kind.run(run())


@on_each_loop
def test_a_client_that_goes_while_it_uploads_is_told_to_tornados_handler(kind: Kind) -> None:
    async def run() -> None:
        app = application()
        events: Events = app.settings["events"]
        async with serving(HttpServer(app)) as served, connected(served.port) as client:
            await client.send(b"POST /upload HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nabc")
            await events.until("data")
            client.abort()
            await events.until("gone")

    kind.run(run())


@on_each_loop
def test_pipelined_requests_are_bounded_and_answered_in_order(kind: Kind) -> None:
    """While reading is paused nobody can tell that the client has gone: the next write does."""

    async def run() -> None:
        waits = Waits()
        server = HttpServer(short_path=waits)
        count = 2000
        padding = b"x" * 1000
        head = b"GET /%d HTTP/1.1\r\nHost: t\r\nX-A: %b\r\n\r\n"
        asked = [head % (n, padding) for n in range(count)]
        async with serving(server) as served, connected(served.port) as client:
            sending = asyncio.create_task(client.send(b"".join(asked) + LAST))
            await until(lambda: bool(server.connections) and only(server).inflow.is_paused)
            assert len(only(server)._intake.held) <= HELD_BYTES + RECEIVE_BYTES
            assert waits.events == ["entered /0"]
            waits.go.set()
            bodies = [reply.body for reply in replies(await client.read_all())]
            await sending
        assert bodies == [*[b"/%d" % n for n in range(count)], b"/last"]

    kind.run(run())


@on_each_loop
def test_drain_lets_what_runs_end_and_closes_what_is_idle(kind: Kind) -> None:
    async def run() -> None:
        waits = Waits()
        server = HttpServer(short_path=waits)
        async with (
            serving(server) as served,
            connected(served.port) as idle,
            connected(served.port) as busy,
        ):
            await busy.send(GET)
            await until(lambda: len(server.connections) == 2 and bool(waits.events))
            drained = asyncio.create_task(server.drain(TIMEOUT_S))
            assert await idle.read_all() == b""
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", served.port)
            assert not drained.done()
            waits.go.set()
            [reply] = replies(await busy.read_all())
            assert await drained
        assert (reply.body, reply.header("connection")) == (b"/", "close")

    kind.run(run())


@on_each_loop
def test_drain_says_when_its_time_was_not_enough(kind: Kind) -> None:
    async def run() -> None:
        waits = Waits()
        server = HttpServer(short_path=waits)
        async with serving(server) as served, connected(served.port) as client:
            await client.send(GET)
            await until(lambda: bool(waits.events))
            assert not await server.drain(SHORT_S)
            await server.cancel()
            assert waits.events == ["entered /", "cancelled /"]
            assert await client.read_all() == b""

    kind.run(run())


@on_each_loop
def test_cancel_waits_only_so_long_for_what_ignores_it(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        monkeypatch.setattr("headrace.http.server.FLUSH_S", SHORT_S)
        clings = Clings()
        server = HttpServer(short_path=clings)
        async with serving(server) as served, connected(served.port) as client:
            await client.send(GET)
            await until(lambda: bool(clings.events))
            async with asyncio.timeout(TIMEOUT_S):
                await server.cancel()
            assert await client.read_all() == b""
            clings.go.set()

    kind.run(run())


@on_each_loop
def test_end_waits_for_no_client(kind: Kind) -> None:
    async def run() -> None:
        waits = Waits()
        server = HttpServer(short_path=waits)
        async with serving(server) as served, connected(served.port) as client:
            await client.send(GET)
            await until(lambda: bool(waits.events))
            await server.end()
            assert not server.connections
            assert waits.events == ["entered /", "cancelled /"]

    kind.run(run())


@on_each_loop
@pytest.mark.parametrize("is_bytewise", [False, True], ids=["whole", "byte by byte"])
def test_http2_is_handed_over_with_all_that_came(is_bytewise: bool, kind: Kind) -> None:
    async def run() -> None:
        handed: list[bytes] = []

        def take(transport: asyncio.Transport, received: bytes) -> None:
            handed.append(received)
            transport.write(b"taken")
            transport.close()

        preface = b"PRI * HTTP/2.0"
        cut = [preface[at : at + 1] for at in range(len(preface))] if is_bytewise else [preface]
        async with serving(HttpServer(http2=take)) as served:
            assert await talk(served.port, *cut) == b"taken"
        assert handed[0] == preface

    kind.run(run())


@on_each_loop
def test_tls(tmp_path: Path, kind: Kind) -> None:
    async def run() -> None:
        authority = Authority(tmp_path)
        server, recorder = recording(Limits())
        async with serving(server, authority.server_context()) as served:
            body = bytes(3_000_000)
            sent = POST % len(body) + body + LAST
            received = await talk(served.port, sent, tls=authority.client_context())
        assert [reply.status for reply in replies(received)] == [200, 200]
        assert [target for _, target, _ in recorder.seen] == ["/", "/last"]

    kind.run(run())


@on_each_loop
def test_a_tls_handshake_has_the_time_of_a_head(tmp_path: Path, kind: Kind) -> None:
    async def run() -> None:
        server, recorder = recording(IMPATIENT)
        async with serving(server, Authority(tmp_path).server_context()) as served:
            assert await talk(served.port, b"\x16\x03") == b""
        assert recorder.begun == []

    kind.run(run())


class Named(Recorder):
    """Answers with the name in its client's certificate."""

    def finish(self, exchange: Exchange) -> None:
        certificate = exchange.connection.ssl_object.getpeercert()
        exchange.respond(200, [], [str(dict(certificate["subject"][0])["commonName"]).encode()])


@on_each_loop
def test_clients_with_certificates(tmp_path: Path, kind: Kind) -> None:
    async def run() -> None:
        authority = Authority(tmp_path)
        server = HttpServer(short_path=Named())
        async with serving(server, authority.server_context(asks_clients=True)) as served:
            [reply] = replies(await talk(served.port, LAST, tls=authority.client_context("ann")))
            assert reply.body == b"ann"
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                assert await talk(served.port, LAST, tls=authority.client_context()) == b""

    kind.run(run())


@on_each_loop
def test_plain_bytes_to_a_tls_port_are_closed(tmp_path: Path, kind: Kind) -> None:
    async def run() -> None:
        server, recorder = recording(Limits())
        async with serving(server, Authority(tmp_path).server_context()) as served:
            assert b"HTTP/" not in await talk(served.port, GET)
        assert recorder.begun == []

    kind.run(run())


@contextlib.asynccontextmanager
async def unix_server(server: HttpServer, path: Path) -> AsyncIterator[Path]:
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(path))
    bound.listen()
    bound.setblocking(False)
    await server.serve([bound])
    try:
        yield path
    finally:
        await server.end()


@on_each_loop
def test_unix_sockets(tmp_path: Path, kind: Kind) -> None:
    async def run() -> None:
        server, _ = recording(Limits())
        async with unix_server(server, tmp_path / "s") as path:
            received = await talk(path, GET + LAST)
        assert [reply.status for reply in replies(received)] == [200, 200]

    kind.run(run())


@on_each_loop
def test_a_unix_socket_has_no_address_for_tornados_handlers(tmp_path: Path, kind: Kind) -> None:
    async def run() -> None:
        async with unix_server(HttpServer(application()), tmp_path / "s") as path:
            data = b"GET /peer HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
            [reply] = replies(await talk(path, data))
        assert reply.body == b"0.0.0.0 http t t"

    kind.run(run())


class Answers:
    """A short path that answers GET with body at once; POST fails as its head comes."""

    def __init__(self, body: bytes = b"") -> None:
        self._body = body

    def begin(self, exchange: Exchange) -> bool:
        if exchange.method == "POST":
            raise RuntimeError("no")
        return True

    def finish(self, exchange: Exchange) -> None:
        exchange.respond(200, [], [self._body])


@on_each_loop
def test_drain_waits_until_a_slow_client_has_read_its_answer(kind: Kind) -> None:
    """Written is not read: closing for good in between would cut it."""
    body = bytes(20_000_000)

    async def run() -> None:
        server = HttpServer(short_path=Answers(body))
        async with serving(server) as served, connected(served.port) as client:
            client.writer.write(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
            received = len(await client.read())
            draining = asyncio.create_task(server.drain(TIMEOUT_S))
            await asyncio.sleep(0)
            assert not draining.done()  # most of it is still here
            while piece := await client.read():
                received += len(piece)
            assert await draining
            assert received > len(body)

    kind.run(run())


@on_each_loop
def test_an_application_that_fails_as_it_is_asked_answers_500(
    kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with serving(HttpServer(short_path=Answers())) as served:
            sent = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n"
            (reply,) = replies(await talk(served.port, sent), ["POST"])
            assert reply.status == 500

    kind.run(run())
    assert [record.message for record in caplog.records] == ["an application failed"]
