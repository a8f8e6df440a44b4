"""The gRPC port: grpc.aio over the inference, health and reflection services."""

from headrace.server.control import Control
from headrace.server.dataplane import DataPlane
from headrace.server.settings import Settings


class GrpcListener:
    """start() returns the port; stop() ends what is open."""

    def __init__(self, plane: DataPlane, control: Control, settings: Settings) -> None:
        self.plane = plane
        self.control = control
        self.settings = settings

    async def start(self) -> int:
        return 0

    async def stop(self) -> None: ...
