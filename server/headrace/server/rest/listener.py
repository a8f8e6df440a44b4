"""The HTTP port: Tornado's server over our application."""

from headrace.server.control import Control
from headrace.server.dataplane import DataPlane
from headrace.server.settings import Settings


class RestListener:
    """start() returns the port; stop() ends open connections."""

    def __init__(self, plane: DataPlane, control: Control, settings: Settings) -> None:
        self.plane = plane
        self.control = control
        self.settings = settings

    async def start(self) -> int:
        return 0

    async def stop(self) -> None: ...
