"""HTTP/2 frames in and out, in memory: what is answered, what ends a stream, what a connection.

The client is python-hyper's h2, which checks every frame it gets; broken frames are raw bytes.
"""

import asyncio
import random
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from headrace.http import frames, http2
from headrace.http.frames import Code, Kind, pack
from headrace.http.header_blocks import to_block
from headrace.http.http2 import Http2Connection, Http2Limits
from headrace.http.http2_abuse import MAX_CONTROL, MAX_RESETS
from headrace.http.http2_stream import Stream
from tests.http.far_edge import Socket

ASKED = [(":method", "POST"), (":path", "/a"), (":scheme", "http"), (":authority", "t")]
OK = to_block([(":status", "200")])
END = to_block([("grpc-status", "0")])
HELLO = frames.PREFACE + frames.pack_settings([])
OPEN = pack(Kind.HEADERS, frames.END_HEADERS, 1, to_block(ASKED))
LIMITS = Http2Limits(max_streams=3, max_header_bytes=2000, max_window_bytes=1000)


class Unread(Socket):
    """sizes: of what its client has still to take, one look after the other; the last one stays."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self._sizes = list(sizes)
        self.was_aborted = False

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self._sizes.pop(0) if len(self._sizes) > 1 else self._sizes[0]

    def abort(self) -> None:
        self.was_aborted = self.is_closed = True


class Server:
    """A connection whose application notes what comes; `answer` sends what goes."""

    def __init__(self, limits: Http2Limits = LIMITS, socket: Socket | None = None) -> None:
        self.socket = socket or Socket()
        self.streams: list[Stream] = []
        self.bodies: dict[int, bytes] = {}
        self.ended: list[int] = []
        self.reset: list[int] = []
        self.reads = True
        self.connection = Http2Connection(self._opened, limits)
        self.connection.connection_made(self.socket)  # type: ignore[arg-type]  # the far edge

    def _opened(self, stream: Stream) -> None:
        self.streams.append(stream)
        self.bodies[stream.id] = b""

        def data(piece: bytes, is_last: bool) -> None:
            self.bodies[stream.id] += piece
            if self.reads:
                stream.consumed(len(piece))
            if is_last:
                self.ended.append(stream.id)

        stream.on_data = data
        stream.on_reset = lambda: self.reset.append(stream.id)

    def answer(self, stream: Stream, content: bytes = b"x") -> None:
        stream.send_headers(OK)
        stream.send_data(content)
        stream.send_trailers(END)


class Client:
    """An h2 client of server; exchange() passes bytes both ways until nothing moves."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.events: list[Any] = []
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.h2.initiate_connection()

    async def exchange(self) -> None:
        while True:
            sent = self.h2.data_to_send()
            if sent:
                self.server.connection.data_received(sent)
            await asyncio.sleep(0)  # a turn of the loop: what is written in one leaves together
            got, self.server.socket.written = self.server.socket.written, bytearray()
            if got:
                self.events += self.h2.receive_data(got)
            elif not sent:
                return

    def ask(self, number: int, body: bytes = b"", ends: bool = True) -> None:
        self.h2.send_headers(number, ASKED, end_stream=ends and not body)
        if body:
            self.h2.send_data(number, body, end_stream=ends)

    def content(self, number: int) -> bytes:
        return b"".join(
            each.data
            for each in self.events
            if isinstance(each, h2.events.DataReceived) and each.stream_id == number
        )

    def kinds(self, number: int) -> list[str]:
        return [
            type(each).__name__ for each in self.events if getattr(each, "stream_id", 0) == number
        ]


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def test_a_request_and_its_answer() -> None:
    async def work() -> None:
        server = Server()
        client = Client(server)
        client.ask(1, b"hello")
        await client.exchange()
        assert (server.bodies, server.ended) == ({1: b"hello"}, [1])
        assert (b":path", b"/a") in server.streams[0].headers
        server.answer(server.streams[0], b"there")
        await client.exchange()
        assert client.content(1) == b"there"
        assert client.kinds(1)[-2:] == ["TrailersReceived", "StreamEnded"]
        assert server.connection.streams == {}

    run(work)


def test_headers_that_repeat_are_read_alike_and_those_that_change_the_table_too() -> None:
    async def work() -> None:
        server = Server(Http2Limits())
        client = Client(server)
        for number in range(1, 21, 2):
            client.h2.send_headers(number, [*ASKED, ("n", str(number // 6))], end_stream=True)
            await client.exchange()
        found = [dict(stream.headers)[b"n"] for stream in server.streams]
        assert found == [str(number // 6).encode() for number in range(1, 21, 2)]
        assert {dict(stream.headers)[b":path"] for stream in server.streams} == {b"/a"}

    run(work)


def test_what_the_client_does_not_read_waits() -> None:
    async def work() -> None:
        server = Server()
        client = Client(server)
        client.ask(1)
        await client.exchange()
        stream = server.streams[0]
        server.answer(stream, bytes(200_000))
        await client.exchange()
        assert len(client.content(1)) == frames.DEFAULT_WINDOW
        assert stream.unread is not None
        for _ in range(3):
            client.h2.increment_flow_control_window(60_000)
            client.h2.increment_flow_control_window(60_000, 1)
            await client.exchange()
        assert len(client.content(1)) == 200_000
        assert "StreamEnded" in client.kinds(1)
        assert stream.unread is None

    run(work)


class Narrow(Socket):
    """Full with the first bytes it gets."""

    connection: Http2Connection | None = None

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.connection is not None:
            self.connection.pause_writing()


def test_an_application_that_never_waits_fills_no_memory() -> None:
    async def work() -> None:
        narrow = Narrow()
        server = Server(LIMITS, narrow)
        wide = frames.pack_window_update(0, 1 << 24) + frames.pack_window_update(1, 1 << 24)
        server.connection.data_received(HELLO + OPEN + wide)
        narrow.connection = server.connection
        for _ in range(1000):
            if server.streams[0].unread is None:
                server.streams[0].send_data(bytes(10_000))
        assert len(narrow.written) < 100_000
        assert server.streams[0].unread is not None

    run(work)


def test_what_the_application_does_not_read_is_not_sent() -> None:
    async def work() -> None:
        server = Server()
        server.reads = False
        client = Client(server)
        client.ask(1, ends=False)
        await client.exchange()
        assert client.h2.local_flow_control_window(1) == LIMITS.max_window_bytes
        client.h2.send_data(1, bytes(1000))
        await client.exchange()
        assert client.h2.local_flow_control_window(1) == 0
        server.streams[0].consumed(1000)
        await client.exchange()
        assert client.h2.local_flow_control_window(1) == 1000

    run(work)


def test_the_connections_window_comes_back_whatever_streams_do() -> None:
    async def work() -> None:
        server = Server(Http2Limits(connection_window_bytes=70_000, max_window_bytes=60_000))
        client = Client(server)
        await client.exchange()
        for number in range(1, 21, 2):
            client.ask(number, bytes(16_000))
            await client.exchange()
        assert server.ended == list(range(1, 21, 2))

    run(work)


def test_a_request_taken_back() -> None:
    async def work() -> None:
        server = Server()
        client = Client(server)
        client.ask(1, b"x", ends=False)
        await client.exchange()
        client.h2.reset_stream(1, Code.CANCEL)
        await client.exchange()
        assert server.reset == [1]
        server.answer(server.streams[0])  # too late: nothing goes out
        await client.exchange()
        assert client.content(1) == b""

    run(work)


def test_an_answer_before_the_request_has_come_whole() -> None:
    async def work() -> None:
        server = Server()
        client = Client(server)
        client.ask(1, b"x", ends=False)
        await client.exchange()
        server.answer(server.streams[0])
        await client.exchange()
        assert client.content(1) == b"x"
        assert server.connection.streams == {}

    run(work)


def test_more_streams_than_may_be_open_are_refused() -> None:
    async def work() -> None:
        server = Server()
        sent = [pack(Kind.HEADERS, 5, number, to_block(ASKED)) for number in (1, 3, 5, 7)]
        server.connection.data_received(HELLO + b"".join(sent))
        assert [stream.id for stream in server.streams] == [1, 3, 5]
        refused = pack(Kind.RST_STREAM, 0, 7, struct.pack(">I", Code.REFUSED_STREAM))
        assert refused in server.socket.written

    run(work)


def test_headers_over_the_limit_are_the_applications_to_refuse() -> None:
    async def work() -> None:
        server = Server()
        long = headers(("a", "b" * 3000))
        server.connection.data_received(HELLO + long + headers(number=3))
        assert [each.header_bytes > LIMITS.max_header_bytes for each in server.streams] == [
            True,
            False,
        ]
        assert not server.socket.is_closed

    run(work)


def test_a_client_that_takes_nothing_of_its_answer_is_cut() -> None:
    """And not before: while it takes some, it may be slow."""

    async def work() -> None:
        server = Server(Http2Limits(write_idle_timeout_s=0.01))
        connection, socket = server.connection, server.socket
        connection.data_received(HELLO + OPEN)
        server.answer(server.streams[0], bytes(100_000))  # the window is 65,535
        more = frames.pack_window_update(0, 10) + frames.pack_window_update(1, 10)
        async with asyncio.timeout(10):
            for _ in range(3):
                looked = connection._stall
                connection.data_received(more)
                while connection._stall is looked:  # noqa: ASYNC110 - nor a timer
                    await asyncio.sleep(0)
                assert not socket.is_closed
            while not socket.is_closed:  # noqa: ASYNC110 - a transport tells nobody
                await asyncio.sleep(0)

    run(work)


def test_going_away_lets_what_is_open_end() -> None:
    async def work() -> None:
        server = Server()
        server.connection.data_received(HELLO + headers(flags=5))
        server.connection.go_away()
        server.connection.data_received(headers(flags=5, number=3))
        await asyncio.sleep(0)
        refused = pack(Kind.RST_STREAM, 0, 3, struct.pack(">I", Code.REFUSED_STREAM))
        assert frames.pack_goaway(1, Code.NO_ERROR) in server.socket.written
        assert refused in server.socket.written
        assert not server.socket.is_closed
        server.answer(server.streams[0])
        assert server.socket.written.endswith(frames.pack_block(1, END, True, 1000))
        assert server.socket.is_closed

    run(work)


@pytest.mark.parametrize(
    ("sizes", "is_cut"),
    [
        pytest.param([9], True, id="takes nothing"),
        pytest.param([9, 8, 7, 6, 5, 0], False, id="takes some"),
    ],
)
def test_the_end_waits_for_a_client_that_reads(
    sizes: list[int], is_cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        monkeypatch.setattr(http2, "LINGER_S", 0.001)
        unread = Unread(*sizes)
        server = Server(Http2Limits(write_idle_timeout_s=0.0005), unread)
        server.connection.close()
        async with asyncio.timeout(5):
            while not unread.is_closed:  # noqa: ASYNC110 - a transport tells nobody
                await asyncio.sleep(0)
        assert unread.was_aborted is is_cut

    run(work)


def test_a_client_that_never_says_what_it_speaks_is_cut() -> None:
    async def work() -> None:
        server = Server(Http2Limits(preface_timeout_s=0.01))
        async with asyncio.timeout(5):
            while not server.socket.is_closed:  # noqa: ASYNC110 - a transport tells nobody
                await asyncio.sleep(0)

    run(work)


def headers(*fields: tuple[str, str], flags: int = 4, number: int = 1) -> bytes:
    return pack(Kind.HEADERS, flags, number, to_block([*ASKED, *fields]))


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", Code.PROTOCOL_ERROR, id="HTTP/1"),
        pytest.param(
            frames.PREFACE + pack(Kind.PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR, id="no SETTINGS"
        ),
        pytest.param(HELLO + pack(Kind.DATA, 0, 0, b"x"), Code.PROTOCOL_ERROR, id="DATA of none"),
        pytest.param(HELLO + pack(Kind.DATA, 0, 1, b"x"), Code.PROTOCOL_ERROR, id="DATA unopened"),
        pytest.param(
            HELLO + headers(flags=5) + pack(Kind.DATA, 0, 1, b"x"),
            Code.STREAM_CLOSED,
            id="DATA after the end",
        ),
        pytest.param(HELLO + headers(number=2), Code.PROTOCOL_ERROR, id="an even stream"),
        pytest.param(
            HELLO + headers(number=3, flags=5) + headers(number=1),
            Code.STREAM_CLOSED,
            id="a stream before the last",
        ),
        pytest.param(
            HELLO + headers() + headers(), Code.PROTOCOL_ERROR, id="trailers that do not end"
        ),
        pytest.param(
            HELLO + headers(flags=0) + pack(Kind.PING, 0, 0, bytes(8)),
            Code.PROTOCOL_ERROR,
            id="a frame inside headers",
        ),
        pytest.param(
            HELLO + pack(Kind.CONTINUATION, 4, 1, b""), Code.PROTOCOL_ERROR, id="CONTINUATION alone"
        ),
        pytest.param(
            HELLO + headers(flags=0) + pack(Kind.CONTINUATION, 0, 1, bytes(9000)),
            Code.ENHANCE_YOUR_CALM,
            id="headers too long",
        ),
        pytest.param(
            HELLO + headers(*[("a", "b" * 100)] * 90), Code.ENHANCE_YOUR_CALM, id="too many headers"
        ),
        pytest.param(
            HELLO + pack(Kind.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff\xff"),
            Code.COMPRESSION_ERROR,
            id="an index beyond the table",
        ),
        pytest.param(
            HELLO + pack(Kind.HEADERS, 4, 1, b"\x00\x05ab"), Code.COMPRESSION_ERROR, id="cut off"
        ),
        pytest.param(
            HELLO + pack(Kind.HEADERS, 12, 1, b"\xff"), Code.PROTOCOL_ERROR, id="too much padding"
        ),
        pytest.param(
            HELLO + pack(Kind.HEADERS, 12, 1, b""), Code.FRAME_SIZE_ERROR, id="padding of no length"
        ),
        pytest.param(
            HELLO + struct.pack(">BHBBI", 0x10, 0, Kind.DATA, 0, 1),
            Code.FRAME_SIZE_ERROR,
            id="a frame too large, before it comes",
        ),
        pytest.param(
            HELLO + pack(Kind.SETTINGS, 0, 0, bytes(5)), Code.FRAME_SIZE_ERROR, id="odd SETTINGS"
        ),
        pytest.param(
            HELLO + pack(Kind.SETTINGS, 1, 0, bytes(6)), Code.FRAME_SIZE_ERROR, id="a full ACK"
        ),
        pytest.param(HELLO + pack(Kind.SETTINGS, 0, 1), Code.PROTOCOL_ERROR, id="SETTINGS of one"),
        pytest.param(
            HELLO + frames.pack_settings([(4, 2**31)]), Code.FLOW_CONTROL_ERROR, id="a huge window"
        ),
        pytest.param(
            HELLO + frames.pack_settings([(5, 100)]), Code.PROTOCOL_ERROR, id="tiny frames"
        ),
        pytest.param(
            HELLO + frames.pack_settings([(2, 2)]), Code.PROTOCOL_ERROR, id="a push of two"
        ),
        pytest.param(HELLO + pack(Kind.PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR, id="odd PING"),
        pytest.param(
            HELLO + pack(Kind.PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR, id="PING of one"
        ),
        pytest.param(
            HELLO + pack(Kind.RST_STREAM, 0, 1, bytes(4)), Code.PROTOCOL_ERROR, id="RST unopened"
        ),
        pytest.param(
            HELLO + OPEN + pack(Kind.RST_STREAM, 0, 1, bytes(3)),
            Code.FRAME_SIZE_ERROR,
            id="odd RST",
        ),
        pytest.param(
            HELLO + pack(Kind.WINDOW_UPDATE, 0, 0, bytes(4)),
            Code.PROTOCOL_ERROR,
            id="a window of nothing more",
        ),
        pytest.param(
            HELLO + frames.pack_window_update(0, 2**31 - 1),
            Code.FLOW_CONTROL_ERROR,
            id="more window than there is",
        ),
        pytest.param(
            HELLO + pack(Kind.PUSH_PROMISE, 4, 1, bytes(8)), Code.PROTOCOL_ERROR, id="a push"
        ),
        pytest.param(
            HELLO + pack(Kind.PRIORITY, 0, 1, bytes(4)), Code.FRAME_SIZE_ERROR, id="odd PRIORITY"
        ),
        pytest.param(
            HELLO + pack(Kind.GOAWAY, 0, 0, bytes(7)), Code.PROTOCOL_ERROR, id="odd GOAWAY"
        ),
        pytest.param(
            HELLO + pack(Kind.PING, 0, 0, bytes(8)) * (MAX_CONTROL + 1),
            Code.ENHANCE_YOUR_CALM,
            id="a flood of PINGs",
        ),
        pytest.param(
            HELLO + pack(99, 0, 0) * (MAX_CONTROL + 1),
            Code.ENHANCE_YOUR_CALM,
            id="a flood of frames of no kind",
        ),
        pytest.param(
            HELLO + OPEN + pack(Kind.DATA, frames.PADDED, 1, b"\0") * (MAX_CONTROL + 1),
            Code.ENHANCE_YOUR_CALM,
            id="a flood of padding",
        ),
        pytest.param(
            HELLO
            + b"".join(
                headers(flags=5, number=number) + pack(Kind.RST_STREAM, 0, number, bytes(4))
                for number in range(1, 2 * MAX_RESETS + 5, 2)
            ),
            Code.ENHANCE_YOUR_CALM,
            id="a flood of requests taken back",
        ),
    ],
)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_what_breaks_the_protocol_ends_the_connection(sent: bytes, code: Code, step: int) -> None:
    async def work() -> None:
        server = Server()
        for at in range(0, len(sent), step if len(sent) < 10_000 else 1 << 20):
            server.connection.data_received(
                sent[at : at + (step if len(sent) < 10_000 else 1 << 20)]
            )
        assert server.socket.is_closed
        goaway = server.socket.written.rfind(struct.pack(">BBI", Kind.GOAWAY, 0, 0))
        assert struct.unpack_from(">I", server.socket.written, goaway + 10)[0] == code

    run(work)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([("X-A", "b")], id="capitals"),
        pytest.param([("", "b")], id="no name"),
        pytest.param([("a b", "c")], id="a space"),
        pytest.param([("connection", "close")], id="a header of HTTP/1.1's connections"),
        pytest.param([("transfer-encoding", "chunked")], id="a coding of HTTP/1.1"),
        pytest.param([("te", "gzip")], id="te of anything but trailers"),
        pytest.param([("a", "b\r\nc: d")], id="a line break"),
        pytest.param([(":path", "/b")], id="two paths"),
        pytest.param([("a", "b"), (":authority2", "c")], id="an unknown pseudo-header, and late"),
    ],
)
def test_malformed_headers_end_their_stream_alone(fields: list[tuple[str, str]]) -> None:
    async def work() -> None:
        server = Server()
        server.connection.data_received(HELLO + headers(*fields) + headers(number=3))
        refused = pack(Kind.RST_STREAM, 0, 1, struct.pack(">I", Code.PROTOCOL_ERROR))
        assert refused in server.socket.written
        assert [each.id for each in server.streams] == [3]
        assert not server.socket.is_closed

    run(work)


def test_what_waits_for_the_connections_window_goes_in_turn() -> None:
    async def work() -> None:
        server = Server()
        grown = frames.pack_window_update(1, 1 << 20) + frames.pack_window_update(3, 1 << 20)
        server.connection.data_received(HELLO + OPEN + headers(number=3) + grown)
        for stream in server.streams:
            server.answer(stream, bytes(65_535))
        await asyncio.sleep(0)
        server.socket.written = bytearray()
        for count in (10, 65_524, 1):
            server.connection.data_received(frames.pack_window_update(0, count))
        sent = server.socket.written
        first = sent.index(pack(Kind.DATA, 0, 3, bytes(10)))
        assert first < sent.index(pack(Kind.HEADERS, 5, 3, END))
        assert server.connection._blocked == {}

    run(work)


def test_a_stream_whose_window_is_too_large_ends_alone() -> None:
    async def work() -> None:
        server = Server()
        server.connection.data_received(HELLO + OPEN + frames.pack_window_update(1, 2**31 - 1))
        ended = pack(Kind.RST_STREAM, 0, 1, struct.pack(">I", Code.FLOW_CONTROL_ERROR))
        assert ended in server.socket.written
        assert (server.reset, server.socket.is_closed) == ([1], False)

    run(work)


def test_a_stream_that_sends_over_its_window_ends_alone() -> None:
    async def work() -> None:
        server = Server()
        server.reads = False
        piece = pack(Kind.DATA, 0, 1, bytes(16_384))
        server.connection.data_received(HELLO + OPEN + 50 * piece)
        ended = pack(Kind.RST_STREAM, 0, 1, struct.pack(">I", Code.FLOW_CONTROL_ERROR))
        assert ended in server.socket.written
        assert (server.reset, server.socket.is_closed) == ([1], False)
        assert len(server.bodies[1]) <= frames.DEFAULT_WINDOW

    run(work)


def test_a_client_that_asks_on_and_reads_no_answers_is_cut() -> None:
    async def work() -> None:
        server = Server()
        server.connection.data_received(HELLO)
        server.connection.pause_writing()
        for number in range(1, 100_000, 2):
            if server.socket.is_closed:
                break
            asked = pack(Kind.HEADERS, frames.END_HEADERS | 1, number, to_block(ASKED))
            server.connection.data_received(asked)
            server.streams.pop().send_trailers(to_block([("n", "x" * 500)]))
            await asyncio.sleep(0)
        assert server.socket.is_closed
        assert len(server.socket.written) < 2 << 20

    run(work)


def test_trailers_that_cross_an_early_answer_leave_the_connection() -> None:
    async def work() -> None:
        server = Server()
        server.connection.data_received(HELLO + OPEN)
        server.answer(server.streams[0])
        crossed = pack(Kind.HEADERS, frames.END_HEADERS | 1, 1, to_block([("n", "v")]))
        server.connection.data_received(crossed)
        assert not server.socket.is_closed

    run(work)


def test_unknown_frames_priorities_and_padding_are_borne() -> None:
    async def work() -> None:
        server = Server()
        padded = pack(Kind.DATA, frames.PADDED | 1, 1, b"\x02hi\0\0")
        weighed = pack(Kind.HEADERS, 0x24, 1, bytes(5) + to_block(ASKED))
        sent = pack(200, 0, 5, b"?") + pack(Kind.PRIORITY, 0, 9, bytes(5)) + weighed + padded
        server.connection.data_received(HELLO + sent)
        assert (server.bodies, server.ended) == ({1: b"hi"}, [1])

    run(work)


@pytest.mark.parametrize("seed", range(8))
def test_any_frames(seed: int) -> None:
    """Mutated and random frames: nothing is raised, and what is open stays bounded."""

    async def work() -> None:
        draw = random.Random(seed)
        for _ in range(150):
            server = Server()
            server.connection.data_received(HELLO)
            for _ in range(draw.randrange(1, 40)):
                content = draw.choice(
                    [to_block(ASKED), b"", draw.randbytes(draw.randrange(12)), struct.pack(">I", 1)]
                )
                frame = bytearray(
                    pack(draw.randrange(11), draw.randrange(64), draw.randrange(8), content)
                )
                if draw.random() < 0.3:
                    frame[draw.randrange(len(frame))] = draw.randrange(256)
                server.connection.data_received(bytes(frame))
                if server.streams and draw.random() < 0.3:
                    server.answer(draw.choice(server.streams), draw.randbytes(5))
            assert len(server.connection.streams) <= LIMITS.max_streams
            server.connection.connection_lost(None)
            assert server.connection.streams == {}

    run(work)
