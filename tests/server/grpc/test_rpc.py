"""Calls on an HTTP/2 connection in memory: what grpcio's client would never send or wait for."""

import asyncio
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import h2.events
import pytest

from headrace.http.http2 import Http2Limits
from headrace.server.grpc.fields import MessageSizes
from headrace.server.grpc.rpc import Method, Rpc
from headrace.server.grpc.server import GrpcServer
from tests.http.test_http2 import ASKED, Client, Server

PATH = (":path", "/s/m")
CALL = [ASKED[0], PATH, *ASKED[2:], ("content-type", "application/grpc")]
LIMITS = Http2Limits(max_window_bytes=1000)


class Grpc(Server):
    """A server of one method, s/m."""

    def __init__(self, method: Method) -> None:
        super().__init__(LIMITS)
        owner = GrpcServer({"s": {"m": method}}, MessageSizes(-1, -1, "--none"), LIMITS)
        self.connection._opened = owner._opened


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


async def settled(client: Client) -> None:
    for _ in range(5):
        await client.exchange()
