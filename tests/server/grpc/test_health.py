"""grpc.health.v1 with grpcio's own health client, as probes speak it (contract §3.8)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headrace.server.grpc.errors import STOPPING
from headrace.server.repository import ServedModel
from tests.server.grpc.client import Double, Replies
from tests.serving import running, served

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
INFERENCE = "inference.GRPCInferenceService"


class Moody(Replies):
    """Loaded, and says that it is not ready."""

    async def is_ready(self) -> bool:
        return False


@asynccontextmanager
async def probing(server: Any) -> AsyncIterator[Any]:
    """The health client of grpcio-health-checking."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel:
        yield health_pb2_grpc.HealthStub(channel)


def asked(service: str) -> Any:
    return health_pb2.HealthCheckRequest(service=service)


@pytest.mark.parametrize(
    ("service", "moody", "status"),
    [
        pytest.param("", False, SERVING, id="the server"),
        pytest.param(INFERENCE, False, SERVING, id="the inference service"),
        pytest.param("m", False, SERVING, id="a model"),
        pytest.param("", True, NOT_SERVING, id="the server with a model that is not ready"),
        pytest.param("moody", True, NOT_SERVING, id="a model that is not ready"),
        pytest.param("m", True, SERVING, id="its neighbour"),
    ],
)
def test_check_tells(service: str, moody: bool, status: int) -> None:
    async def main() -> None:
        models = [served("m", Double())] + ([ServedModel("moody", Moody())] if moody else [])
        async with running(*models) as server, probing(server) as health:
            assert (await health.Check(asked(service))).status == status

    asyncio.run(main())


def test_check_of_an_unknown_service_is_not_found() -> None:
    async def main() -> None:
        async with running(served("m", Double())) as server, probing(server) as health:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health.Check(asked("zz"))
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
            assert caught.value.details() == "Model with name zz does not exist."

    asyncio.run(main())


def test_list_names_the_server_and_every_model() -> None:
    async def main() -> None:
        async with (
            running(served("m", Double()), ServedModel("moody", Moody())) as server,
            probing(server) as health,
        ):
            found = (await health.List(health_pb2.HealthListRequest())).statuses
            assert {name: each.status for name, each in found.items()} == {
                "": NOT_SERVING,
                INFERENCE: NOT_SERVING,
                "m": SERVING,
                "moody": NOT_SERVING,
            }

    asyncio.run(main())


def test_watch_follows_a_model_that_comes_and_goes() -> None:
    async def main() -> None:
        async with running() as server, probing(server) as health:
            watch = health.Watch(asked("m"))
            assert (await watch.read()).status == SERVICE_UNKNOWN
            server.repository.add(served("m", Double()))
            assert (await watch.read()).status == SERVING
            await server.repository.unload("m")
            assert (await watch.read()).status == NOT_SERVING
            watch.cancel()

    asyncio.run(main())


def test_watch_hears_of_the_drain_first_and_ends_when_the_server_stops() -> None:
    async def main() -> None:
        async with running(served("m", Double())) as server, probing(server) as health:
            watch = health.Watch(asked(""))
            assert (await watch.read()).status == SERVING
            server.control.is_draining = True
            async with asyncio.timeout(1):  # pushed: the next look would be later
                assert (await watch.read()).status == NOT_SERVING
            await server.stop()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watch.read()
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert caught.value.details() == STOPPING

    asyncio.run(main())


def test_a_watch_that_nobody_reads_is_forgotten() -> None:
    async def main() -> None:
        async with running(served("m", Double())) as server, probing(server) as health:
            watch = health.Watch(asked("m"))
            assert (await watch.read()).status == SERVING
            watch.cancel()
            with pytest.raises(asyncio.CancelledError):
                await watch.read()
            assert (await health.Check(asked(""))).status == SERVING

    asyncio.run(main())


def test_a_server_whose_model_an_operator_unloaded_still_serves() -> None:
    async def main() -> None:
        async with running(served("m", Double())) as server, probing(server) as health:
            await server.repository.unload("m")
            assert (await health.Check(asked(""))).status == SERVING
            assert (await health.Check(asked("m"))).status == NOT_SERVING

    asyncio.run(main())
