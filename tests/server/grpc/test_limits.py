"""Deadlines, cancellation, --max_concurrency and message sizes."""

import asyncio
import re
from typing import Any

import grpc
import numpy as np
import pytest

from headrace.server.execution import Mode
from headrace.server.grpc import codec
from headrace.server.repository import ServedModel
from headrace.server.request import Request
from headrace.server.tensor import Tensor
from tests.server.grpc.client import Blocks, Client, Mirror, connected, fp32, status_of
from tests.server.grpc.test_streaming import until
from tests.serving import running, served

MESSAGE = codec.encode_request(Request("m", [fp32([1])]))


def blocked() -> tuple[Blocks, ServedModel]:
    model = Blocks()
    return model, served("m", model, Mode.THREAD)


async def occupy(client: Client, slow: Blocks) -> Any:
    """A call that keeps the model's only instance busy."""
    call = client.infer_call(MESSAGE)
    await until(slow.started.is_set)
    return call


def test_a_call_past_its_deadline_leaves_the_queue() -> None:
    async def main() -> None:
        slow, model = blocked()
        async with running(model) as server, connected(server) as client:
            first = await occupy(client, slow)
            code, _ = await status_of(client.infer_call(MESSAGE, timeout=0.1))
            assert code == "DEADLINE_EXCEEDED"
            await until(lambda: model.servable.pending_requests == 0)
            slow.may_end.set()
            await first
            assert slow.calls == 1

    asyncio.run(main())


def test_a_cancelled_call_leaves_the_queue() -> None:
    async def main() -> None:
        slow, model = blocked()
        async with running(model) as server, connected(server) as client:
            first = await occupy(client, slow)
            second = client.infer_call(MESSAGE)
            await until(lambda: model.servable.pending_requests == 1)
            second.cancel()
            await until(lambda: model.servable.pending_requests == 0)
            slow.may_end.set()
            await first
            assert slow.calls == 1
            assert model.statistics.failures["CANCELED"] == 1

    asyncio.run(main())


def test_the_timeout_parameter_bounds_the_wait_in_the_queue() -> None:
    async def main() -> None:
        slow, model = blocked()
        async with running(model) as server, connected(server) as client:
            first = await occupy(client, slow)
            request = Request("m", [fp32([1])], parameters={"timeout": 50_000})
            code, details = await status_of(client.infer(request))
            assert (code, details) == ("UNAVAILABLE", "Request timeout expired")
            slow.may_end.set()
            await first

    asyncio.run(main())


def test_request_timeout_ends_what_runs_too_long() -> None:
    async def main() -> None:
        slow, model = blocked()
        async with running(model, request_timeout=0.1) as server, connected(server) as client:
            assert await status_of(client.infer_call(MESSAGE)) == (
                "DEADLINE_EXCEEDED",
                "the request took longer than 0.1 s (--request_timeout)",
            )
            slow.may_end.set()

    asyncio.run(main())


def test_max_concurrency_holds_back_what_is_over_it_and_serves_it_later() -> None:
    async def main() -> None:
        slow = Blocks()
        model = served("m", slow, Mode.THREAD)
        other = served("free", Mirror())
        async with running(model, other, max_concurrency=1) as server, connected(server) as client:
            first = await occupy(client, slow)
            second = client.infer_call(codec.encode_request(Request("free", [fp32([1])])))
            code, details = await status_of(
                client.infer(Request("free", [fp32([1])], parameters={"timeout": 50_000}))
            )
            assert (code, details) == ("UNAVAILABLE", "Request timeout expired")
            assert not second.done()
            slow.may_end.set()
            await first
            await second

    asyncio.run(main())


def test_waiting_for_a_place_is_bounded() -> None:
    async def main() -> None:
        slow, model = blocked()
        given: dict[str, Any] = {"max_concurrency": 1, "max_queue_requests": 1}
        async with running(model, **given) as server, connected(server) as client:
            first = await occupy(client, slow)
            second = client.infer_call(MESSAGE)
            third = client.infer_call(MESSAGE)
            done, _ = await asyncio.wait(
                [asyncio.create_task(status_of(call)) for call in (second, third)],
                return_when=asyncio.FIRST_COMPLETED,
            )
            assert [task.result() for task in done] == [
                (
                    "UNAVAILABLE",
                    "Exceeds maximum queue size: 1 gRPC requests wait for one of 1 places "
                    "(--max_concurrency 1, --max_queue_requests 1)",
                )
            ]
            slow.may_end.set()
            await first

    asyncio.run(main())


@pytest.mark.parametrize("flag", ["max_body_bytes", "grpc_max_receive_message_length"])
def test_a_message_over_the_limit_is_refused(flag: str) -> None:
    async def main() -> None:
        given: dict[str, Any] = {flag: 10_000}
        async with running(served("m", Mirror()), **given) as server, connected(server) as client:
            request = Request("m", [fp32([0.0] * 5000)])
            code, details = await status_of(client.infer(request))
            assert code == "RESOURCE_EXHAUSTED"
            assert details == f"Received message larger than max (20023 vs. 10000) (--{flag} 10000)"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("size", "code", "details"),
    [
        pytest.param(30_000, "OK", "", id="30 kB"),
        pytest.param(
            70_000,
            "RESOURCE_EXHAUSTED",
            "metadata of 7NNNN bytes are over the limit (--max_header_bytes 65536)",
            id="70 kB; the connection goes on",
        ),
    ],
)
def test_request_metadata_goes_up_to_max_header_bytes(size: int, code: str, details: str) -> None:
    async def main() -> None:
        async with running(served("m", Mirror())) as server, connected(server) as client:
            call = client.infer_call(MESSAGE, metadata=(("x-long", "a" * size),))
            found, text = await status_of(call)
            assert (found, re.sub(r"\b7\d{4}\b", "7NNNN", text)) == (code, details)
            assert await status_of(client.infer_call(MESSAGE)) == ("OK", "")

    asyncio.run(main())


def test_messages_of_many_megabytes_pass_by_default() -> None:
    """grpcio's own limit is 4 MiB, KServe's 8."""

    async def main() -> None:
        async with running(served("m", Mirror())) as server:
            options = [("grpc.max_receive_message_length", -1)]
            target = f"127.0.0.1:{server.ports.grpc}"
            async with grpc.aio.insecure_channel(target, options=options) as channel:
                sent = fp32([1.0] * 5_000_000)
                answer = await Client(channel).infer(Request("m", [sent]))
                assert answer.outputs[0].shape == (1, 5_000_000)

    asyncio.run(main())


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("count", [1000, 100_000], ids=["on the loop", "in a thread"])
def test_compressed_messages_are_read(compression: Any, count: int) -> None:
    async def main() -> None:
        async with running(served("m", Mirror())) as server, connected(server) as client:
            sent = np.random.default_rng(7).random((1, count)).astype("<f4")
            request = codec.encode_request(Request("m", [Tensor("x", sent)]))
            reply = await client.infer_call(request, compression=compression)
            assert np.array_equal(codec.decode_response(reply).outputs[0].array, sent)

    asyncio.run(main())


def test_an_answer_over_the_limit_is_an_error_of_its_call_and_of_its_stream() -> None:
    async def main() -> None:
        given: dict[str, Any] = {"grpc_max_send_message_length": 300}
        async with running(served("m", Mirror()), **given) as server, connected(server) as client:
            request = codec.encode_request(Request("m", [fp32([0.0] * 100)]))
            code, text = await status_of(client.infer_call(request))
            assert code == "RESOURCE_EXHAUSTED"
            assert "(--grpc_max_send_message_length 300)" in text
            stream = client.stream()
            for each in (request, MESSAGE):
                await stream.write(each)
            await stream.done_writing()
            failed, answered = [(await stream.read()) for _ in range(2)]
            assert failed.error_message.endswith("(--grpc_max_send_message_length 300)")
            assert answered.infer_response.model_name == "m"

    asyncio.run(main())
