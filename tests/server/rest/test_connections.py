"""What happens to connections: hang-ups, drain, stop, and HTTP/2 on the HTTP port (§8, §11)."""

import asyncio
from collections.abc import Callable

import grpc
import pytest

from headrace.server.execution import Executor, Mode
from headrace.server.repository import ServedModel
from headrace.server.servable import TensorServable
from tests.server.rest.client import ask, exchange, parse, request
from tests.server.rest.models import Doubling, Waiting, model, usual
from tests.serving import running

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PREDICT = request("POST", "/v1/models/waiting:predict", b'{"instances":[1]}')


async def open_and_send(port: int, data: bytes) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    return writer


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - a counter of the server's, which tells nobody
        await asyncio.sleep(0)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


def test_a_client_that_hangs_up_cancels_its_request() -> None:
    async def run() -> None:
        waiting = Waiting()
        async with running(model(waiting), enable_grpc=False) as server:
            writer = await open_and_send(server.ports.http, PREDICT)
            await waiting.entered.wait()
            await hang_up(writer)
            async with asyncio.timeout(5):
                await waiting.cancelled.wait()

    asyncio.run(run())


def test_what_waits_for_an_instance_does_not_run_when_its_client_hangs_up() -> None:
    async def run() -> tuple[int, int]:
        servable = TensorServable(Executor("m", [Doubling()], mode=Mode.INLINE), "test")
        executor = servable.executor
        executor.free.clear()  # the only instance is busy
        async with running(ServedModel("m", servable), enable_grpc=False) as server:
            data = request("POST", "/v1/models/m:predict", b'{"instances":[[1,2]]}')
            writer = await open_and_send(server.ports.http, data)
            async with asyncio.timeout(5):
                await until(lambda: executor.pending_requests == 1)
                await hang_up(writer)
                await until(lambda: executor.pending_requests == 0)
            statistics = (await server.control.statistics("m"))[0]
            return statistics["execution_count"], statistics["inference_stats"]["fail"]["count"]

    assert asyncio.run(run()) == (0, 1)


def test_while_draining_every_answer_closes_its_connection() -> None:
    async def run() -> tuple[str | None, str | None]:
        async with running(*usual(), enable_grpc=False) as server:
            data = request("GET", "/v2/health/live", close=False)
            server.control.is_draining = True
            reply = parse(await exchange(server.ports.http, data))
            ready = await ask(server.ports.http, "GET", "/v2/health/ready")
            assert ready.json() == {"error": "Server is not ready.", "ready": False}
            return reply.header("connection"), ready.header("retry-after")

    assert asyncio.run(run()) == ("close", "1")


def test_stop_lets_what_is_in_flight_end() -> None:
    async def run() -> None:
        waiting = Waiting()
        async with running(model(waiting), enable_grpc=False) as server:
            port = server.ports.http
            asked = asyncio.create_task(exchange(port, PREDICT))
            await waiting.entered.wait()
            stopped = asyncio.create_task(server._rest.stop(5.0))
            async with asyncio.timeout(5):
                while not await refuses(port):
                    pass
            waiting.go.set()
            assert parse(await asked).json() == {"predictions": [1]}
            await stopped

    asyncio.run(run())


def test_stop_answers_503_to_what_outlasts_the_grace() -> None:
    async def run() -> None:
        waiting = Waiting()
        async with running(model(waiting), enable_grpc=False) as server:
            asked = asyncio.create_task(exchange(server.ports.http, PREDICT))
            await waiting.entered.wait()
            await server._rest.stop(0.05)
            reply = parse(await asked)
            assert (reply.status, reply.error) == (503, "The server is stopping.")
            assert waiting.cancelled.is_set()

    asyncio.run(run())


async def refuses(port: int) -> bool:
    try:
        writer = await open_and_send(port, b"")
    except OSError:
        return True
    await hang_up(writer)
    return False


def test_http2_is_malformed_where_no_grpc_is_served() -> None:
    async def run() -> bytes:
        async with running(*usual(), enable_grpc=False) as server:
            return await exchange(server.ports.http, PREFACE)

    assert asyncio.run(run()).startswith(b"HTTP/1.1 400 ")


def test_a_silent_client_blocks_nobody() -> None:
    async def run() -> None:
        async with running(*usual(), enable_grpc=False) as server:
            silent = [await open_and_send(server.ports.http, b"PRI") for _ in range(20)]
            assert (await ask(server.ports.http, "GET", "/")).status == 200
            for writer in silent:
                await hang_up(writer)

    asyncio.run(run())


def test_a_grpc_client_on_the_http_port() -> None:
    async def run() -> bytes:
        async with running(*usual()) as server:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.ports.http}") as channel:
                call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
                answer: bytes = await call(b"", timeout=10)
            assert (await ask(server.ports.http, "GET", "/v2/health/live")).json() == {"live": True}
            return answer

    assert asyncio.run(run()) == b"\x08\x01"  # live = 1: true


def test_a_grpc_call_on_the_http_port_ends_in_peace() -> None:
    """Both edges stop together; the call that runs has the grace period."""

    async def run() -> None:
        waiting = Waiting()
        async with (
            running(model(waiting)) as server,
            grpc.aio.insecure_channel(f"127.0.0.1:{server.ports.http}") as channel,
        ):
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(
                b"\x0a\x07waiting", timeout=10
            )
            asked = asyncio.ensure_future(call)
            await waiting.entered.wait()
            stopped = asyncio.gather(server._rest.stop(5.0), server._grpc.stop(5.0))
            await until(lambda: server._rest.http.is_closing)
            waiting.go.set()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asked
            await stopped
        assert caught.value.code() is not grpc.StatusCode.UNAVAILABLE  # the model's own error

    asyncio.run(run())
