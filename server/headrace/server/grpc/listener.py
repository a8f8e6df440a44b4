"""The gRPC port: our services on it, and on HTTP/2 connections that reach the HTTP port.

One port for both protocols is what Knative needs (contract §11 row 36).
"""

import asyncio

from headrace.http.http2 import Http2Limits
from headrace.http.receiving import Receiving
from headrace.server.control import Control
from headrace.server.dataplane import DataPlane
from headrace.server.grpc import health, inference, reflection
from headrace.server.grpc.admin import Admin
from headrace.server.grpc.calls import unary
from headrace.server.grpc.fields import message_sizes
from headrace.server.grpc.health import Health
from headrace.server.grpc.inference import Inference
from headrace.server.grpc.reflection import Reflection
from headrace.server.grpc.rpc import Method
from headrace.server.grpc.server import GrpcServer
from headrace.server.grpc.streaming import StreamInfer
from headrace.server.ports import UNIX, bind, tls_context
from headrace.server.settings import Settings

NO_LIMIT_HEADER_BYTES = 1 << 20  # HTTP/2 has no "none"


class GrpcListener:
    """start() returns the port; stop() ends what is open."""

    def __init__(
        self,
        plane: DataPlane,
        control: Control,
        settings: Settings,
        receiving: Receiving | None = None,
    ) -> None:
        self.settings = settings
        self.server = GrpcServer(
            services(plane, control, settings),
            message_sizes(settings),
            limits(settings),
            receiving,
        )

    async def start(self) -> int:
        """Bind and serve; the port, 0 with a Unix socket, where the HTTP port takes gRPC too.

        Raises OSError naming the address and the flag if it cannot be bound.
        """
        settings = self.settings
        if settings.host.startswith(UNIX):
            return 0
        sockets = bind(settings, settings.grpc_port, "gRPC", "--grpc_port")
        await self.server.serve(sockets, tls_context(settings, ["h2"]))
        port: int = sockets[0].getsockname()[1]
        return port

    def join(self, transport: asyncio.Transport, received: bytes) -> None:
        """Take over a connection of the HTTP port."""
        self.server.join(transport, received)

    def drain(self) -> None:
        """Send clients elsewhere (GOAWAY) while calls go on."""
        self.server.drain()

    async def stop(self, grace_s: float | None = None) -> None:
        """No new calls; open ones have grace_s, then end UNAVAILABLE. Idempotent.

        grace_s None: the settings' grace period.
        """
        await self.server.stop(self.settings.grace_period if grace_s is None else grace_s)


def limits(settings: Settings) -> Http2Limits:
    return Http2Limits(
        max_header_bytes=settings.max_header_bytes or NO_LIMIT_HEADER_BYTES,
        preface_timeout_s=settings.header_timeout_s,
        body_idle_timeout_s=settings.body_idle_timeout_s,
        write_idle_timeout_s=settings.write_idle_timeout_s,
    )


def services(
    plane: DataPlane, control: Control, settings: Settings
) -> dict[str, dict[str, Method]]:
    """Every service by its name, and its methods by theirs."""
    infer = Inference(plane, control, settings, settings.max_concurrency)
    calls = {**infer.calls(), **Admin(plane, control, settings).calls()}
    reflections = {f"{package}.{reflection.NAME}": package for package in reflection.PACKAGES}
    names = (inference.SERVICE, health.SERVICE, *reflections)
    return {
        inference.SERVICE: {
            **{name: unary("inference", name, call) for name, call in calls.items()},
            "ModelInfer": Method(infer.model_infer, answers_once=True, is_quick=True),
            **StreamInfer(infer).methods(),
        },
        health.SERVICE: Health(plane, control).methods(),
        **{name: Reflection(package, names).methods() for name, package in reflections.items()},
    }
