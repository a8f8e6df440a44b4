"""gRPC's paths over HTTP/1.1: the bare message as Envoy's bridge sends it, and through Envoy."""

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
import pytest

from headrace.server.errors import QueueFull
from headrace.server.execution import Mode
from headrace.server.grpc import codec
from headrace.server.grpc.messages import message_class
from headrace.server.repository import ServedModel
from headrace.server.request import Request
from headrace.server.tensor import Tensor
from tests.ports import free_ports
from tests.server.grpc.client import (
    Blocks,
    Client,
    Double,
    Mirror,
    Raises,
    Replies,
    connected,
    fp32,
    status_of,
)
from tests.server.grpc.envoy import envoy
from tests.server.rest.client import Headers, Reply, ask, exchange, request
from tests.serving import running, served

PATH = "/inference.GRPCInferenceService/"
GRPC = ("content-type", "application/grpc")
MESSAGE = codec.encode_request(Request("m", [fp32([1, 2])], id="7"))
# 64 KiB, so that gRPC's own client thinks compressing it worth while, and we inflate in a thread
LARGE = codec.encode_request(Request("m", [fp32(*[[1, 2]] * 8192)], id="7"))


def frame(message: bytes, is_compressed: bool = False) -> bytes:
    return bytes([is_compressed]) + len(message).to_bytes(4, "big") + message


async def post(
    server: Any, name: str, body: bytes = b"", headers: Headers = (), content_type: str = GRPC[1]
) -> Reply:
    headers = [("content-type", content_type), *headers]
    return await ask(server.ports.http, "POST", PATH + name, body, headers)


def status(reply: Reply) -> tuple[str | None, str | None]:
    assert (reply.status, reply.header("content-type")) == (200, "application/grpc")
    return reply.header("grpc-status"), reply.header("grpc-message")


def outputs(message: bytes) -> Any:
    return codec.decode_response(message).outputs[0].array.tolist()[:1]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param(MESSAGE, [], id="bare"),
        pytest.param(MESSAGE, [("grpc-timeout", "9S")], id="with a deadline"),
        pytest.param(MESSAGE, [("grpc-encoding", "identity")], id="said to be as it is"),
        pytest.param(MESSAGE, [("grpc-encoding", "gzip")], id="not compressed though it might be"),
        pytest.param(gzip.compress(MESSAGE), [("grpc-encoding", "gzip")], id="gzip, flag withheld"),
        pytest.param(
            zlib.compress(MESSAGE), [("grpc-encoding", "deflate")], id="deflate, flag withheld"
        ),
        pytest.param(
            gzip.compress(LARGE, 0), [("grpc-encoding", "gzip")], id="large gzip, in a thread"
        ),
        pytest.param(frame(MESSAGE), [], id="framed"),
        pytest.param(frame(MESSAGE), [("grpc-encoding", "gzip")], id="framed, flag 0"),
        pytest.param(
            frame(gzip.compress(MESSAGE), True), [("grpc-encoding", "gzip")], id="framed gzip"
        ),
    ],
)
def test_a_message_is_answered_in_the_form_it_came(body: bytes, headers: Headers) -> None:
    async def main() -> None:
        async with running(served("m", Double())) as server:
            reply = await post(server, "ModelInfer", body, headers)
            assert status(reply) == (None, None)
            answer = reply.body
            if body[0] <= 1:
                assert answer[:5] == frame(answer[5:])[:5]
                answer = answer[5:]
            assert codec.decode_response(answer).id == "7"
            assert outputs(answer) == [[2, 4]]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "body", "headers", "code", "text"),
    [
        pytest.param(
            "ModelInfer",
            codec.encode_request(Request("zz", [])),
            [],
            "5",
            "Model with name zz does not exist.",
            id="unknown model",
        ),
        pytest.param(
            "ModelInfer",
            codec.encode_request(Request("ü%", [])),
            [],
            "5",
            "Model with name %C3%BC%25 does not exist.",
            id="a text beyond ASCII is escaped",
        ),
        pytest.param(
            "ModelInfer",
            b"\xff\xff",
            [],
            "3",
            "2 bytes are not a valid inference.ModelInferRequest",
            id="no message",
        ),
        pytest.param(
            "ModelInfer",
            b"\0\0\0\0\x09abc",
            [],
            "3",
            "expected one gRPC frame of 5 + 9 bytes, got 8 bytes",
            id="a cut-off frame",
        ),
        pytest.param(
            "ModelInfer",
            frame(MESSAGE, True),
            [],
            "3",
            "the gRPC frame is compressed, but grpc-encoding does not say how",
            id="compressed, nobody says how",
        ),
        pytest.param(
            "ModelInfer",
            MESSAGE,
            [("grpc-encoding", "snappy")],
            "12",
            "grpc-encoding: expected gzip or deflate, got 'snappy'",
            id="a coding we have not",
        ),
        pytest.param(
            "ModelInfer",
            MESSAGE,
            [("grpc-timeout", "soon")],
            "3",
            "grpc-timeout: expected up to 8 digits and one of H, M, S, m, u and n, got 'soon'",
            id="no timeout",
        ),
        pytest.param(
            "ModelReady", b"\x0a\x02zz", [], "5", "Model with name zz does not exist.", id="ready"
        ),
        pytest.param(
            "CudaSharedMemoryStatus",
            b"",
            [],
            "12",
            "this server has no shared memory; send tensors in the request",
            id="shared memory",
        ),
        pytest.param(
            "ModelStreamInfer",
            MESSAGE,
            [],
            "12",
            "ModelStreamInfer cannot be called over HTTP/1.1: it streams, or is no method of "
            "inference.GRPCInferenceService",
            id="a stream",
        ),
    ],
)
def test_a_refusal_is_an_empty_answer_with_its_status(
    name: str, body: bytes, headers: Headers, code: str, text: str
) -> None:
    async def main() -> None:
        async with running(served("m", Double())) as server:
            reply = await post(server, name, body, headers)
            assert status(reply) == (code, text)
            assert reply.body == b""

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("ServerLive", "live", True),
        ("ServerReady", "ready", True),
        ("ServerMetadata", "name", "headrace"),
        ("ModelStatistics", "model_stats", None),
        ("RepositoryIndex", "models", None),
        ("LogSettings", "settings", None),
    ],
)
def test_every_unary_method_is_there(name: str, field: str, value: Any) -> None:
    async def main() -> None:
        async with running(served("m", Double())) as server:
            reply = await post(server, name)
            assert status(reply) == (None, None)
            found = getattr(
                message_class(f"inference.{name}Response").FromString(reply.body), field
            )
            assert found == value if value is not None else len(found) > 0

    asyncio.run(main())


def test_limits_of_messages_are_gRPCs() -> None:
    async def main() -> None:
        given: dict[str, Any] = {
            "grpc_max_receive_message_length": 1000,
            "grpc_max_send_message_length": 30,
        }
        async with running(served("m", Double()), **given) as server:
            assert status(await post(server, "ModelInfer", bytes(1) * 1001)) == (
                "3",
                "expected one gRPC frame of 5 + 0 bytes, got 1001 bytes",
            )
            assert status(await post(server, "ModelInfer", b"\x0a" * 1001)) == (
                "8",
                "Received message larger than max (1001 vs. 1000) "
                "(--grpc_max_receive_message_length 1000)",
            )
            code, text = status(await post(server, "ModelInfer", MESSAGE))
            assert (code, (text or "")[:30]) == ("8", "Sent message larger than max (")

    asyncio.run(main())


def test_headers_are_metadata_both_ways() -> None:
    async def main() -> None:
        async with running(ServedModel("r", Replies())) as server:
            reply = await post(
                server,
                "ModelInfer",
                codec.encode_request(Request("r", [fp32([1])])),
                [("X-Tenant", "blue"), ("k-bin", "AP8")],
            )
            assert status(reply) == (None, None)
            assert reply.header("x-model") == "replies"
            assert codec.decode_response(reply.body).outputs[0].array.tolist() == [b"blue"]

    asyncio.run(main())


def test_another_content_type_is_refused() -> None:
    async def main() -> None:
        async with running(served("m", Double())) as server:
            reply = await post(server, "ModelInfer", MESSAGE, content_type="application/json")
            assert (reply.status, reply.error) == (
                415,
                "Content-Type: expected application/grpc, got 'application/json'",
            )

    asyncio.run(main())


def test_the_openapi_document_leaves_the_paths_out_and_without_grpc_they_are_not_there() -> None:
    async def main() -> None:
        async with running(served("m", Double())) as server:
            document = (await ask(server.ports.http, "GET", "/openapi.json")).json()
            assert "/v2/models/{model}/infer" in document["paths"]
            assert not [path for path in document["paths"] if path.startswith(PATH)]
        async with running(served("m", Double()), enable_grpc=False) as server:
            assert (await post(server, "ServerLive")).status == 404

    asyncio.run(main())


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # another process or thread decides when


def blocked() -> tuple[Blocks, ServedModel]:
    slow = Blocks()
    return slow, served("m", slow, Mode.THREAD)


def test_a_deadline_ends_what_waits_and_what_runs() -> None:
    async def main() -> None:
        slow, model = blocked()
        async with running(model) as server:
            expired = [("grpc-timeout", "100m")]
            runs, waits = await asyncio.gather(
                post(server, "ModelInfer", MESSAGE, expired),
                post(server, "ModelInfer", MESSAGE, expired),
            )
            slow.may_end.set()
            assert [status(runs)[0], status(waits)[0]] == ["4", "4"]
            assert slow.calls == 1

    asyncio.run(main())


def test_request_timeout_is_a_status_too() -> None:
    async def main() -> None:
        slow, model = blocked()
        async with running(model, request_timeout=0.1) as server:
            assert status(await post(server, "ModelInfer", MESSAGE)) == (
                "4",
                "the request took longer than 0.1 s (--request_timeout)",
            )
            slow.may_end.set()

    asyncio.run(main())


def test_what_a_stopping_server_ends_is_UNAVAILABLE() -> None:
    async def main() -> None:
        slow, model = blocked()
        async with running(model, grace_period=0.2) as server:
            call = asyncio.create_task(post(server, "ModelInfer", MESSAGE))
            await until(slow.started.is_set)
            stopping = asyncio.create_task(server.stop())
            assert status(await call) == (
                "14",
                "Server is stopping; send the request to another replica.",
            )
            slow.may_end.set()
            await stopping

    asyncio.run(main())


def test_hanging_up_takes_a_request_out_of_the_queue() -> None:
    async def main() -> None:
        slow, model = blocked()
        async with running(model) as server:
            first = asyncio.create_task(post(server, "ModelInfer", MESSAGE))
            await until(slow.started.is_set)
            sent = request("POST", f"{PATH}ModelInfer", MESSAGE, [GRPC])
            second = asyncio.create_task(exchange(server.ports.http, sent))
            await until(lambda: model.servable.pending_requests == 1)
            second.cancel()
            await until(lambda: model.servable.pending_requests == 0)
            slow.may_end.set()
            assert status(await first) == (None, None)

    asyncio.run(main())


def through_envoy(test: Callable[[Client, Any, Blocks], Awaitable[None]]) -> None:
    async def main() -> None:
        slow = Blocks()
        models = (
            served("m", Mirror()),
            served("slow", slow, Mode.THREAD),
            ServedModel("r", Replies()),
            served("full", Raises(QueueFull("Exceeds maximum queue size"))),
        )
        async with running(*models) as server:
            with envoy(server.ports.http, server.ports.grpc or 0) as address:
                async with connected(server, address) as client:
                    await test(client, models[1], slow)
            slow.may_end.set()

    asyncio.run(main())


def infer(client: Client, model: str, **options: Any) -> Any:
    return client.infer_call(codec.encode_request(Request(model, [fp32([1])])), **options)


def test_through_envoy_statuses_texts_and_empty_messages_are_gRPCs() -> None:
    async def test(client: Client, model: Any, slow: Blocks) -> None:
        assert await status_of(infer(client, "zz")) == (
            "NOT_FOUND",
            "Model with name zz does not exist.",
        )
        assert await status_of(infer(client, "ü%")) == (
            "NOT_FOUND",
            "Model with name ü% does not exist.",
        )
        assert (await client.call("ServerReady")).ready
        assert len((await client.call("RepositoryIndex", ready=False)).models) == 4
        index = client._channel.unary_unary(f"{PATH}ModelStatistics")
        assert await status_of(index(b"\x0a\x02zz")) == (
            "NOT_FOUND",
            "Model with name zz does not exist.",
        )

    through_envoy(test)


def test_through_envoy_a_full_queue_tells_when_to_come_back() -> None:
    async def test(client: Client, model: Any, slow: Blocks) -> None:
        call = infer(client, "full")
        assert await status_of(call) == ("UNAVAILABLE", "Exceeds maximum queue size")
        assert dict(await call.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"

    through_envoy(test)


def test_through_envoy_deadlines_and_cancellation_reach_the_queue() -> None:
    async def test(client: Client, model: Any, slow: Blocks) -> None:
        first = infer(client, "slow")
        await until(slow.started.is_set)
        assert (await status_of(infer(client, "slow", timeout=0.1)))[0] == "DEADLINE_EXCEEDED"
        await until(lambda: model.servable.pending_requests == 0)
        second = infer(client, "slow")
        await until(lambda: model.servable.pending_requests == 1)
        second.cancel()
        await until(lambda: model.servable.pending_requests == 0)
        slow.may_end.set()
        await first
        assert slow.calls == 1

    through_envoy(test)


def test_envoys_own_refusals_are_statuses_too() -> None:
    async def main() -> None:
        (nobody,) = free_ports(1)
        async with running(served("m", Double())) as server:
            with envoy(nobody, nobody) as address:
                async with connected(server, address) as client:
                    assert (await status_of(infer(client, "m")))[0] == "UNAVAILABLE"

    asyncio.run(main())


def test_through_envoy_three_megabytes_pass_both_ways() -> None:
    async def test(client: Client, model: Any, slow: Blocks) -> None:
        message = codec.encode_request(Request("m", [Tensor("x", np.zeros(400_000))]))
        assert codec.decode_response(await client.infer_call(message)).outputs[0].shape == (
            400_000,
        )

    through_envoy(test)


@pytest.mark.parametrize("compression", ["none", "deflate", "gzip"])
def test_through_envoy_large_and_compressed_messages_arrive(compression: str) -> None:
    async def test(client: Client, model: Any, slow: Blocks) -> None:
        kind = message_compression(compression)
        reply = await client.infer_call(LARGE, compression=kind)
        assert codec.decode_response(reply).outputs[0].array.shape == (8192, 2)

    through_envoy(test)


def message_compression(name: str) -> Any:
    return {
        "none": grpc.Compression.NoCompression,
        "deflate": grpc.Compression.Deflate,
        "gzip": grpc.Compression.Gzip,
    }[name]


def test_through_envoy_a_models_headers_come_as_metadata() -> None:
    async def test(client: Client, model: Any, slow: Blocks) -> None:
        call = infer(client, "r", metadata=(("x-tenant", "blue"),))
        answer = codec.decode_response(await call)
        assert answer.outputs[0].array.tolist() == [b"blue"]
        assert dict(await call.initial_metadata())["x-model"] == "replies"

    through_envoy(test)


def test_through_envoy_a_stream_streams() -> None:
    async def test(client: Client, model: Any, slow: Blocks) -> None:
        call = client.stream()
        for i in range(3):
            await call.write(codec.encode_request(Request("m", [fp32([1])], id=str(i))))
            assert (await call.read()).infer_response.id == str(i)
        await call.done_writing()
        assert (await call.code()).name == "OK"

    through_envoy(test)
