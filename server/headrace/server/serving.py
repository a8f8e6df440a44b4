"""A running server: loads the start-up models, opens the ports, drains, ends.

    start:  models load ─▶ ports open ─▶ ready          (--listen now: the ports first)
    stop:   not ready ─▶ drain_delay ─▶ ports close ─▶ in flight ends, or grace_period ─▶ models

The shell around everything else: it owns the data plane and the control, and knows both edges. One
process; workers.py runs several of these, lifecycle.py says when to stop.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.http.receiving import Receiving
from headrace.server.batch_metrics import BatchCollector
from headrace.server.control import Control, LocalControl
from headrace.server.dataplane import DataPlane
from headrace.server.errors import ServingError
from headrace.server.grpc.listener import GrpcListener
from headrace.server.metrics import InferenceMetrics, ModelCollector
from headrace.server.repository import Repository
from headrace.server.rest.listener import RestListener, receiving_bytes
from headrace.server.settings import Listen, Settings
from headrace.server.tracing import Tracer

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
        tracer: Tracer | None = None,
    ) -> None:
        self.settings = settings
        self.repository = repository
        self.plane = DataPlane(repository, metrics or InferenceMetrics(), tracer)
        registry = self.plane.metrics.registry
        registry.register(ModelCollector(repository, settings.metrics_triton))
        registry.register(BatchCollector(repository))
        self.control = LocalControl(repository, settings.ready_policy, registry)
        self.ports = Ports(0, None)
        self.use_control(self.control)

    def use_control(self, control: Control) -> None:
        """Let operator calls go through control; before start. Without: this process alone."""
        receiving = Receiving(receiving_bytes(self.settings))  # of both ports together
        self._grpc = GrpcListener(self.plane, control, self.settings, receiving)
        http2 = self._grpc.join if self.settings.enable_grpc else None
        self._rest = RestListener(self.plane, control, self.settings, http2, receiving)

    async def start(self, start_up: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Load the start-up models and open the ports, in the order of --listen.

        start_up: names with load parameters; None: every name of the repository's loader.
        Raises what a load raised, unless the ports are open by then: the model answers 503 then,
        with the reason. Raises OSError where a port cannot be had.
        """
        is_open_first = self.settings.listen is Listen.NOW
        if is_open_first:
            await self._open()
        if start_up is None:
            start_up = {name: {} for name in self.repository.loader.names()}
        for name, parameters in start_up.items():
            try:
                await self.repository.load(name, parameters)
            except ServingError as err:
                if not is_open_first:
                    raise
                log.error("model did not load", extra={"model": name, "error": str(err)})
        self.control.is_started = True
        if not is_open_first:
            await self._open()

    async def stop(self, skip_delay: asyncio.Event | None = None) -> None:
        """The sequence of data-plane contract §8; skip_delay ends the drain delay early."""
        stopped_s = time.monotonic()
        self.control.is_draining = True
        self._grpc.drain()
        skip = skip_delay or asyncio.Event()
        try:
            async with asyncio.timeout(self.settings.drain_delay):
                await skip.wait()
        except TimeoutError:
            pass
        left_s = max(0.0, self.settings.grace_period - (time.monotonic() - stopped_s))
        await asyncio.gather(self._rest.stop(left_s), self._grpc.stop(left_s))
        await self.repository.close()
        if self.plane.tracer is not None:
            await asyncio.to_thread(self.plane.tracer.shutdown)

    async def _open(self) -> None:
        grpc = await self._grpc.start() if self.settings.enable_grpc else None
        try:
            http = await self._rest.start()
        except OSError:
            await self._grpc.stop(0)
            raise
        self.ports = Ports(http, grpc)
        log.info("listening", extra={"http_port": http, "grpc_port": grpc})
