"""ModelStreamInfer over a real port (contract §3.6)."""

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest

from headrace.server.execution import Mode
from headrace.server.grpc import codec, streaming
from headrace.server.grpc.errors import STOPPING
from headrace.server.repository import ServedModel
from headrace.server.request import Request
from headrace.server.tensor import Tensor
from tests.server.grpc.client import Blocks, Counts, Double, connected, fp32
from tests.serving import running, served


def double(request_id: str, *row: float) -> bytes:
    return codec.encode_request(Request("m", [fp32(row)], id=request_id))


def count(request_id: str, n: int, **parameters: Any) -> bytes:
    tensor = Tensor("n", np.array([n], "<i4"))
    return codec.encode_request(Request("c", [tensor], id=request_id, parameters=parameters))


def told(message: Any) -> tuple[str, bool, Any]:
    """The id, whether it is the final one, and the error, the first element or None."""
    response = message.infer_response
    final = response.parameters["triton_final_response"].bool_param
    if message.error_message:
        return response.id, final, message.error_message
    answer = codec.decode_response(response.SerializeToString())
    return response.id, final, answer.outputs[0].array.ravel()[0] if answer.outputs else None


@pytest.mark.parametrize(
    ("requests", "answers"),
    [
        pytest.param(
            [double("1", 1, 2), double("2", 3, 4)],
            [("1", True, 2.0), ("2", True, 6.0)],
            id="a model that answers once: one response each, final",
        ),
        pytest.param(
            [count("1", 2)],
            [("1", False, 0), ("1", False, 1)],
            id="a model that streams: its responses, none of them final",
        ),
        pytest.param(
            [count("1", 1, triton_enable_empty_final_response=True)],
            [("1", False, 0), ("1", True, None)],
            id="and an empty final one where asked for",
        ),
        pytest.param(
            [count("1", 0, triton_enable_empty_final_response=False)],
            [],
            id="a stream of nothing is nothing",
        ),
        pytest.param(
            [double("1", 1), double("2", 1, 2)],
            [
                (
                    "1",
                    True,
                    "unexpected shape for input 'x' for model 'm'. Expected [-1, 2], got [1, 1].",
                ),
                ("2", True, 2.0),
            ],
            id="a wrong request gets its error, the stream goes on",
        ),
        pytest.param(
            [count("1", -1)],
            [("1", False, 0), ("1", True, "cannot count below zero")],
            id="a stream that fails midway ends in its error",
        ),
        pytest.param(
            [count("1", 1, triton_final_response=True)],
            [
                (
                    "1",
                    True,
                    "request: parameter keys starting with 'triton_' are reserved, "
                    "got 'triton_final_response'",
                )
            ],
            id="a reserved parameter",
        ),
        pytest.param(
            [b"\xff"],
            [("", True, "1 bytes are not a valid inference.ModelInferRequest")],
            id="bytes that are no message",
        ),
    ],
)
def test_a_stream_answers(requests: list[bytes], answers: list[Any]) -> None:
    """One request after the other, then half-close: the stream ends OK after the answers."""

    async def main() -> None:
        models = (served("m", Double()), ServedModel("c", Counts()))
        async with running(*models) as server, connected(server) as client:
            call = client.stream()
            for request in requests:
                await call.write(request)
            await call.done_writing()
            assert [told(message) async for message in call] == answers
            assert await call.code() == grpc.StatusCode.OK

    asyncio.run(main())


def test_requests_of_one_stream_run_beside_each_other() -> None:
    """The second answer comes while the first request's model still runs."""

    async def main() -> None:
        slow = Blocks()
        models = (served("slow", slow, Mode.THREAD), served("m", Double()))
        async with running(*models) as server, connected(server) as client:
            call = client.stream()
            await call.write(codec.encode_request(Request("slow", [fp32([0])], id="slow")))
            await call.write(double("fast", 1, 2))
            assert told(await call.read())[0] == "fast"
            await call.done_writing()  # half-close: the outstanding one is still answered
            slow.may_end.set()
            assert told(await call.read())[0] == "slow"
            assert await call.read() is grpc.aio.EOF

    asyncio.run(main())


def test_errors_end_the_stream_with_a_status_where_the_client_asks_for_it() -> None:
    async def main() -> None:
        async with running(served("m", Double())) as server, connected(server) as client:
            call = client.stream(metadata=(("triton_grpc_error", "true"),))
            await call.write(double("1", 1, 2))
            assert told(await call.read())[0] == "1"
            await call.write(double("2", 1))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert caught.value.details() == (
                "unexpected shape for input 'x' for model 'm'. Expected [-1, 2], got [1, 1]."
            )

    asyncio.run(main())


def test_cancelling_a_stream_drops_its_queued_requests() -> None:
    async def main() -> None:
        slow = Blocks()
        model = served("slow", slow, Mode.THREAD)
        async with running(model) as server, connected(server) as client:
            call = client.stream()
            for i in range(3):
                await call.write(codec.encode_request(Request("slow", [fp32([i])], id=str(i))))
            await until(lambda: model.servable.pending_requests == 2)
            call.cancel()
            await until(lambda: model.servable.pending_requests == 0)
            slow.may_end.set()
            await until(lambda: model.in_flight == 0)
            assert slow.calls == 1

    asyncio.run(main())


def test_hanging_up_closes_the_models_iterator() -> None:
    async def main() -> None:
        counts = Counts()
        model = ServedModel("c", counts)
        async with running(model) as server, connected(server) as client:
            call = client.stream()
            await call.write(count("1", 10**9))
            assert told(await call.read()) == ("1", False, 0)
            call.cancel()
            async with asyncio.timeout(10):
                await counts.closed.wait()
            await until(lambda: model.in_flight == 0)

    asyncio.run(main())


def test_one_stream_has_a_bounded_number_of_requests_in_flight() -> None:
    async def main() -> None:
        slow = Blocks()
        model = served("slow", slow, Mode.THREAD)
        most = streaming.MAX_OUTSTANDING
        async with running(model) as server, connected(server) as client:
            call = client.stream()
            for i in range(most + 5):
                await call.write(codec.encode_request(Request("slow", [fp32([i])], id=str(i))))
            await until(lambda: model.in_flight == most)
            slow.may_end.set()
            await call.done_writing()
            assert len([message async for message in call]) == most + 5
            assert model.statistics.success.count == most + 5

    asyncio.run(main())


def test_a_stopping_server_finishes_what_is_outstanding_and_ends_the_stream() -> None:
    async def main() -> None:
        slow = Blocks()
        model = served("slow", slow, Mode.THREAD)
        async with running(model) as server, connected(server) as client:
            call = client.stream()
            await call.write(codec.encode_request(Request("slow", [fp32([0])], id="1")))
            await until(slow.started.is_set)
            stopping = asyncio.create_task(server.stop())
            await until(lambda: server.control.is_draining)
            slow.may_end.set()
            assert told(await call.read())[0] == "1"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert caught.value.details() == STOPPING
            await stopping

    asyncio.run(main())


async def until(condition: Any) -> None:
    """Give the loop its turns until condition() holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # what it waits for happens in threads, too
            await asyncio.sleep(0)
