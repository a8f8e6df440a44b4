"""A running server: loads the start-up models, opens the ports, drains on SIGTERM.

    Server.start:  models loading ──▶ [listen] ──▶ ready ──▶ SIGTERM ──▶ draining ──▶ stopped

The shell around everything else: it owns the sockets, the data plane and the control, and knows
both Tornado and gRPC. One process; workers.py runs several of these.
"""

import logging
from dataclasses import dataclass

from headrace.server.control import LocalControl
from headrace.server.dataplane import DataPlane
from headrace.server.grpc.listener import GrpcListener
from headrace.server.metrics import InferenceMetrics
from headrace.server.repository import Repository
from headrace.server.rest.listener import RestListener
from headrace.server.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a started server listens; grpc None: not served."""

    http: int
    grpc: int | None


class Server:
    """start(), then `ports` say where; stop() drains and ends it."""

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        metrics: InferenceMetrics | None = None,
    ) -> None:
        self.settings = settings
        self.repository = repository
        self.plane = DataPlane(repository, metrics or InferenceMetrics())
        self.control = LocalControl(repository, settings.ready_policy, self.plane.metrics.registry)
        self._rest = RestListener(self.plane, self.control, settings)
        self._grpc = GrpcListener(self.plane, self.control, settings)
        self.ports = Ports(0, None)

    async def start(self) -> None:
        """Load every name of the repository's loader and open the ports."""
        for name in self.repository.loader.names():
            await self.repository.load(name)
        self.control.is_started = True
        grpc = await self._grpc.start() if self.settings.enable_grpc else None
        self._rest.unix_address = self._grpc.unix_address
        http = await self._rest.start()
        self.ports = Ports(http, grpc)

    async def stop(self) -> None:
        self.control.is_draining = True
        await self._rest.stop()
        await self._grpc.stop()
        await self.repository.close()
