"""What gRPC clients see of our HTTP/2, and what is on the wire."""

import asyncio
import gzip
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import pytest

from headrace.http import frames
from headrace.server.serving import Server
from tests.server.rest.models import Waiting, model, usual
from tests.serving import running

LIVE = "/inference.GRPCInferenceService/ServerLive"
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
WATCH = "/grpc.health.v1.Health/Watch"
WAITING = b"\x0a\x07waiting"  # the model's name
LIVE_ANSWER = b"\x08\x01"


def channel(server: Server) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{server.ports.grpc}")


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


async def status_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), str(caught.value.details())


def test_calls_and_refusals() -> None:
    async def work() -> None:
        given: dict[str, Any] = {"max_body_bytes": 1000}
        async with running(*usual(), **given) as started, channel(started) as client:
            assert await client.unary_unary(LIVE)(b"") == LIVE_ANSWER
            gzipped = grpc.aio.insecure_channel(
                f"127.0.0.1:{started.ports.grpc}", compression=grpc.Compression.Gzip
            )
            async with gzipped:
                assert await gzipped.unary_unary(LIVE)(b"") == LIVE_ANSWER
            code, text = await status_of(client.unary_unary("/nope/Nope")(b""))
            assert (code, text) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
            code, text = await status_of(client.unary_unary(INFER)(bytes(1001)))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "1001 vs. 1000" in text
            code, text = await status_of(client.unary_unary(INFER)(b"\x0a\x04nope"))
            assert code is grpc.StatusCode.NOT_FOUND
            assert "nope" in text

    run(work)


def test_deadlines_and_cancellation_reach_the_model() -> None:
    async def work() -> None:
        waiting = Waiting()
        async with (
            running(model(waiting)) as started,
            channel(started) as client,
        ):
            code, _ = await status_of(client.unary_unary(INFER)(WAITING, timeout=0.05))
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED
            async with asyncio.timeout(5):
                await waiting.cancelled.wait()
            waiting.cancelled.clear()
            waiting.entered.clear()
            call = client.unary_unary(INFER)(WAITING)
            asked = asyncio.ensure_future(call)
            async with asyncio.timeout(5):
                await waiting.entered.wait()
                call.cancel()
                await waiting.cancelled.wait()
            await asyncio.gather(asked, return_exceptions=True)

    run(work)


def test_a_watch_ends_when_its_client_goes() -> None:
    async def work() -> None:
        serving = running(model(Waiting()))
        async with serving as started, channel(started) as client:
            call = client.unary_stream(WATCH)(b"")
            assert await call.read() == LIVE_ANSWER  # SERVING has the same bytes
            open_calls = started._grpc.server._calls
            assert len(open_calls) == 1
            call.cancel()
            await until(lambda: not open_calls)

    run(work)


def test_a_large_message_there_and_back() -> None:
    """More than any window: the BYTES come back as they went."""

    async def work() -> None:
        blob = bytes(range(256)) * 40_000
        raw = struct.pack("<I", len(blob)) + blob
        tensor = b"\x0a\x01x\x12\x05BYTES\x1a\x01\x01"
        message = b"\x0a\x03m x" + b"\x2a" + bytes([len(tensor)]) + tensor
        message += b"\x3a" + _varint(len(raw)) + raw
        options = [("grpc.max_receive_message_length", -1)]
        async with running(*usual()) as started:
            address = f"127.0.0.1:{started.ports.grpc}"
            async with grpc.aio.insecure_channel(address, options=options) as client:
                assert (await client.unary_unary(INFER)(message)).endswith(raw)

    run(work)


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def framed(message: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(message)) + message


HEADERS = {
    ":method": "POST",
    ":scheme": "http",
    ":path": LIVE,
    ":authority": "t",
    "content-type": "application/grpc",
    "te": "trailers",
}


async def asked(
    started: Server, body: bytes, ends: bool = True, /, **changed: str
) -> dict[str, str]:
    """The headers and trailers of the answer to one request of h2's."""
    named = {name.replace("__", ":").replace("_", "-"): value for name, value in changed.items()}
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    reader, writer = await asyncio.open_connection("127.0.0.1", started.ports.grpc)
    client.initiate_connection()
    client.send_headers(1, list({**HEADERS, **named}.items()))
    client.send_data(1, body, end_stream=ends)
    writer.write(client.data_to_send())
    found: dict[str, str] = {}
    try:
        async with asyncio.timeout(10):
            while data := await reader.read(65536):
                for event in client.receive_data(data):
                    if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                        found |= dict(event.headers)  # type: ignore[arg-type]
                    if isinstance(event, h2.events.StreamEnded):
                        return found
                writer.write(client.data_to_send())
            return found
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("body", "changed", "answered"),
    [
        pytest.param(framed(b""), {}, {":status": "200", "grpc-status": "0"}, id="good"),
        pytest.param(
            framed(gzip.compress(b""), 1),
            {"grpc_encoding": "gzip"},
            {"grpc-status": "0"},
            id="gzip",
        ),
        pytest.param(
            framed(gzip.compress(bytes(2000)), 1),
            {"grpc_encoding": "gzip"},
            {"grpc-status": "8"},
            id="gzip of more than the limit",
        ),
        pytest.param(
            framed(b"no gzip", 1), {"grpc_encoding": "gzip"}, {"grpc-status": "3"}, id="no gzip"
        ),
        pytest.param(
            framed(gzip.compress(b"x" * 99)[:-9], 1),
            {"grpc_encoding": "gzip"},
            {"grpc-status": "3"},
            id="half a gzip",
        ),
        pytest.param(
            framed(b"x", 1),
            {"grpc_encoding": "snappy"},
            {
                "grpc-status": "12",
                "grpc-message": "grpc-encoding: expected gzip or deflate, got 'snappy'",
            },
            id="a coding nobody reads",
        ),
        pytest.param(
            framed(b"") * 2,
            {},
            {"grpc-status": "12", "grpc-message": "expected one request message"},
            id="two messages",
        ),
        pytest.param(
            b"",
            {},
            {"grpc-status": "12", "grpc-message": "expected one request message"},
            id="none",
        ),
        pytest.param(
            framed(b"abc")[:-1],
            {},
            {"grpc-status": "3", "grpc-message": "the last message was cut off"},
            id="cut off",
        ),
        pytest.param(
            framed(b""),
            {"grpc_timeout": "soon"},
            {
                "grpc-status": "3",
                "grpc-message": "grpc-timeout: expected up to 8 digits and one of H, M, S, m, u "
                "and n, got 'soon'",
            },
            id="no timeout",
        ),
        pytest.param(framed(b""), {"grpc_timeout": "5S"}, {"grpc-status": "0"}, id="a timeout"),
        pytest.param(
            framed(b""), {"__method": "PUT"}, {":status": "405", "allow": "POST"}, id="PUT"
        ),
        pytest.param(
            framed(b""), {"content_type": "application/json"}, {":status": "415"}, id="JSON"
        ),
    ],
)
def test_on_the_wire(body: bytes, changed: dict[str, str], answered: dict[str, str]) -> None:
    async def work() -> None:
        async with running(*usual(), max_body_bytes=1000) as started:
            found = await asked(started, body, **changed)
            assert {name: found.get(name) for name in answered} == answered

    run(work)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param(LIVE, b"", id="nothing"),
        pytest.param(LIVE, framed(b"abc")[:-1], id="some of the message"),
        pytest.param(LIVE, framed(b""), id="all but the end"),
        pytest.param(STREAM, framed(b"abc")[:-1], id="some of a stream's message"),
    ],
)
def test_a_request_that_stops_coming_ends(path: str, body: bytes) -> None:
    async def work() -> None:
        async with running(*usual(), body_idle_timeout_s=0.05) as started:
            found = await asked(started, body, False, __path=path)
            assert (found["grpc-status"], found["grpc-message"]) == (
                "4",
                "nothing of the request arrived for 0.05 s (--body_idle_timeout_s 0.05)",
            )

    run(work)


def test_while_draining_clients_are_sent_elsewhere_and_answered_nevertheless() -> None:
    """GOAWAY at once; who comes after it is served, and told then."""

    async def work() -> None:
        waiting = Waiting()
        serving = running(model(waiting), drain_delay=0.5)
        async with serving as started, channel(started) as client:
            asked_before = asyncio.ensure_future(client.unary_unary(INFER)(WAITING, timeout=10))
            await waiting.entered.wait()
            over = asyncio.Event()
            stopping = asyncio.create_task(started.stop(over))
            await until(lambda: started.control.is_draining)
            native = started._grpc.server
            assert [each.is_going for each in native._connections] == [True]
            async with channel(started) as late:
                assert await late.unary_unary(LIVE)(b"", timeout=10) == LIVE_ANSWER
                await until(lambda: len(native._connections) == 1)
            waiting.go.set()
            code, _ = await status_of(asked_before)  # the model answers V1 only
            assert code is grpc.StatusCode.INTERNAL
            await until(lambda: not native._connections)
            over.set()
            await stopping

    run(work)


def test_last_words_reach_a_client_that_is_still_sending() -> None:
    """A socket closed with bytes unread is reset, with what the client has not read of us."""

    def ask(port: int) -> bytes:
        broken = frames.pack(frames.Kind.PING, 0, 0, b"")
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(frames.PREFACE + frames.pack_settings([]) + broken)
            client.sendall(bytes(1_000_000))
            client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(1 << 16), b""))

    async def work() -> None:
        async with running(*usual()) as started:
            for _ in range(20):
                told = await asyncio.to_thread(ask, started.ports.grpc or 0)
                assert b"PING of a wrong size" in told

    run(work)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - a set of the server's, which tells nobody
            await asyncio.sleep(0)
