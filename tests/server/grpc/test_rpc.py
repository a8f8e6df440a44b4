"""Calls on an HTTP/2 connection in memory: what grpcio's client would never send or wait for."""

import asyncio
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import h2.events
import pytest

from headrace.http.http2 import Http2Limits
from headrace.http.receiving import SMALL_BYTES, Receiving
from headrace.server.grpc.fields import MessageSizes
from headrace.server.grpc.rpc import Method, Rpc
from headrace.server.grpc.server import GrpcServer
from tests.http.far_edge import Socket
from tests.http.test_http2 import ASKED, Client, Server

PATH = (":path", "/s/m")
CALL = [ASKED[0], PATH, *ASKED[2:], ("content-type", "application/grpc")]
LIMITS = Http2Limits(max_window_bytes=1000)


class Grpc(Server):
    """A server of one method, s/m."""

    def __init__(self, method: Method, limits: Http2Limits = LIMITS, most_bytes: int = 0) -> None:
        super().__init__(limits)
        sizes = MessageSizes(-1, -1, "--none")
        self.owner = GrpcServer({"s": {"m": method}}, sizes, limits, Receiving(most_bytes))
        self.socket = Socket()
        self.connection = self.owner._connection()
        self.connection.connection_made(self.socket)  # type: ignore[arg-type]  # the far edge


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def test_an_error_that_utf_8_cannot_say_ends_the_call_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(message: Any, rpc: Rpc) -> bytes:
        raise ValueError("no \udc80")

    async def work() -> None:
        client = Client(Grpc(Method(fail, answers_once=True)))
        client.h2.send_headers(1, CALL)
        client.h2.send_data(1, struct.pack(">BI", 0, 0), end_stream=True)
        await settled(client)
        (answer,) = [each for each in client.events if isinstance(each, h2.events.ResponseReceived)]
        assert dict(answer.headers)[b"grpc-message"] == b"no ?"

    run(work)


def test_a_streams_message_may_be_longer_than_its_window() -> None:
    async def sizes(messages: Any, rpc: Rpc) -> None:
        async for message in messages:
            await rpc.write(str(len(message)).encode())

    async def work() -> None:
        client = Client(Grpc(Method(sizes, streams_requests=True)))
        client.h2.send_headers(1, CALL)
        rest = struct.pack(">BI", 0, 5000) + bytes(5000) + struct.pack(">BI", 0, 3) + b"abc"
        for _ in range(20):
            await settled(client)
            now = min(client.h2.local_flow_control_window(1), 700)
            client.h2.send_data(1, rest[:now])
            rest = rest[now:]
        await settled(client)
        assert not rest
        assert client.content(1) == b"\0\0\0\0\x045000" + b"\0\0\0\0\x013"

    run(work)


MOST = 400_000
HALF = MOST // 2


async def length(message: Any, rpc: Rpc) -> bytes:
    return str(len(message)).encode()


@pytest.mark.parametrize(
    ("others", "own", "status"),
    [
        pytest.param([], (2 * MOST, 2 * MOST), b"0", id="one alone"),
        pytest.param([(MOST, HALF)], (HALF - 99, HALF - 99), b"0", id="fits"),
        pytest.param([(MOST, 0)], (MOST - 99, MOST - 99), b"0", id="one announced"),
        pytest.param([(MOST, HALF)], (HALF + 99, 99), b"14", id="a length too many"),
        pytest.param(
            [(MOST, HALF), (HALF - 99, HALF - 100)],
            (SMALL_BYTES - 9, SMALL_BYTES - 9),
            b"0",
            id="a small one",
        ),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True], ids=["unary", "stream"])
def test_the_bound_of_all_that_comes_in(
    is_stream: bool, others: list[tuple[int, int]], own: tuple[int, int], status: bytes
) -> None:
    """Each message: how long it says it is, and how much of it comes."""

    async def first(messages: Any, rpc: Rpc) -> None:
        await rpc.write(await length(await anext(messages), rpc))

    async def work() -> None:
        method = Method(first, streams_requests=True) if is_stream else Method(length, True)
        server = Grpc(method, Http2Limits(), MOST)
        client = Client(server)
        await client.exchange()
        for number, (announced, sent) in enumerate([*others, own]):
            client.h2.send_headers(2 * number + 1, CALL)
            await send(client, 2 * number + 1, struct.pack(">BI", 0, announced) + bytes(sent))
        last = 2 * len(others) + 1
        if own[0] == own[1] and not is_stream:  # a stream has its answer by now
            client.h2.end_stream(last)
        await settled(client)
        ended = ending(client, last)
        assert ended[b"grpc-status"] == status
        if status == b"14":
            assert ended[b"grpc-message"].endswith(b"; try again (--max_receiving_bytes %d)" % MOST)
            assert ended[b"grpc-retry-pushback-ms"] == b"1000"
        server.connection.connection_lost(None)
        assert server.owner.receiving.total_bytes == 0

    run(work)


def test_a_message_that_grows_over_the_bound_is_refused_then() -> None:
    async def work() -> None:
        server = Grpc(Method(length, answers_once=True), Http2Limits(), MOST)
        client = Client(server)
        await client.exchange()
        for number in (1, 3):
            client.h2.send_headers(number, CALL)
            await send(client, number, struct.pack(">BI", 0, HALF) + bytes(HALF - 99))
        await send(client, 1, bytes(9))
        assert (ending(client, 1), ending(client, 3)) == ({}, {})
        client.h2.send_headers(5, CALL)
        await send(client, 5, struct.pack(">BI", 0, SMALL_BYTES - 5) + bytes(999))
        await send(client, 3, bytes(9))
        assert ending(client, 3)[b"grpc-status"] == b"14"
        await send(client, 1, bytes(90))
        client.h2.end_stream(1)
        await settled(client)
        assert client.content(1)[5:] == b"%d" % HALF
        assert server.owner.receiving.total_bytes == 999 + 5

    run(work)


def test_a_stream_may_be_silent_between_messages() -> None:
    async def echo(messages: Any, rpc: Rpc) -> None:
        async for message in messages:
            await rpc.write(bytes(message))

    async def work() -> None:
        method = Method(echo, streams_requests=True)
        client = Client(Grpc(method, Http2Limits(body_idle_timeout_s=0.01)))
        message = struct.pack(">BI", 0, 3) + b"abc"
        for number, sent in ((1, message), (3, message[:-1])):
            client.h2.send_headers(number, CALL)
            client.h2.send_data(number, sent)
        async with asyncio.timeout(10):
            while not ending(client, 3).get(b"grpc-status"):
                await client.exchange()
        client.h2.send_data(1, message)
        await settled(client)
        assert client.content(1) == 2 * message

    run(work)


async def send(client: Client, number: int, content: bytes) -> None:
    for at in range(0, len(content), 16_000):
        client.h2.send_data(number, content[at : at + 16_000])
        await client.exchange()


def ending(client: Client, number: int) -> dict[bytes, bytes]:
    """Headers and trailers of an answer, as far as they have come."""
    found: dict[bytes, bytes] = {}
    for each in client.events:
        if isinstance(each, h2.events.ResponseReceived | h2.events.TrailersReceived):
            found |= dict(each.headers) if each.stream_id == number else {}
    return found


async def settled(client: Client) -> None:
    for _ in range(5):
        await client.exchange()
