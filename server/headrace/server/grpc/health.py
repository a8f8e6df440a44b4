"""grpc.health.v1.Health: the server and each model as services (contract §3.8).

"" and the inference service mean the server's readiness, a model's name its own. Watch sleeps
until the repository or the control says that something changed; a model that changes its mind
about `ready` by itself is seen at the next look, LOOK_AGAIN_S later at most.
"""

import asyncio
from typing import Any

from headrace.server.control import Control
from headrace.server.dataplane import DataPlane
from headrace.server.errors import ModelNotFound, ServerNotReady, ServingError
from headrace.server.grpc.calls import unary
from headrace.server.grpc.codec import parse
from headrace.server.grpc.errors import STOPPING
from headrace.server.grpc.inference import SERVICE as INFERENCE
from headrace.server.grpc.messages import message_class
from headrace.server.grpc.rpc import Method, Rpc

SERVICE = "grpc.health.v1.Health"
LOOK_AGAIN_S = 5.0
_Request = message_class("grpc.health.v1.HealthCheckRequest")
_Response = message_class("grpc.health.v1.HealthCheckResponse")
SERVING, NOT_SERVING = _Response.SERVING, _Response.NOT_SERVING
SERVICE_UNKNOWN = _Response.SERVICE_UNKNOWN


class Health:
    """Watches end when the server stops."""

    def __init__(self, plane: DataPlane, control: Control) -> None:
        self._plane = plane
        self._control = control

    def methods(self) -> dict[str, Method]:
        return {
            "Check": unary("grpc.health.v1", "HealthCheck", self.check),
            "List": unary("grpc.health.v1", "HealthList", self.list),
            "Watch": Method(self.watch),
        }

    async def check(self, request: Any) -> Any:
        status = await self._status(request.service)
        if status == SERVICE_UNKNOWN:
            raise ModelNotFound(request.service)
        return _Response(status=status)

    async def list(self, request: Any) -> Any:
        reply = message_class("grpc.health.v1.HealthListResponse")()
        for service in ("", INFERENCE, *self._plane.repository.names()):
            reply.statuses[service].status = await self._status(service)
        return reply

    async def watch(self, message: bytes, rpc: Rpc) -> None:
        service = parse(_Request, message).service
        sent: int | None = None
        while True:
            changed = self._plane.repository.changes.next()
            status = await self._status(service)
            if status != sent:
                await rpc.write(_Response(status=status).SerializeToString())
                sent = status
            if rpc.closing.is_set():
                raise ServerNotReady(STOPPING)
            await _first_of(changed, rpc.closing)

    async def _status(self, service: str) -> int:
        if service in ("", INFERENCE):
            return int(SERVING if await self._control.is_ready() else NOT_SERVING)
        try:
            await self._plane.ready_model(service)
        except ModelNotFound:
            return int(SERVICE_UNKNOWN)
        except ServingError:
            return int(NOT_SERVING)
        return int(SERVING)


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=LOOK_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
