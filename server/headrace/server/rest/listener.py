"""The HTTP port: binds it, and drains it.

HTTP/1 is headrace.http's. Connections that begin as HTTP/2's do are handed to the gRPC server. Over
TLS it is offered last, to clients that speak nothing else: here it carries gRPC, not REST.
"""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

from headrace.http import HttpServer, Limits
from headrace.http.receiving import Receiving
from headrace.server.control import Control
from headrace.server.dataplane import DataPlane
from headrace.server.memory import container_limit_bytes
from headrace.server.ports import bind, tls_context
from headrace.server.rest.application import Application, render
from headrace.server.settings import Settings

TakeOver = Callable[[asyncio.Transport, bytes], None]


class RestListener:
    """start() returns the port; stop() ends open connections."""

    def __init__(
        self,
        plane: DataPlane,
        control: Control,
        settings: Settings,
        http2: TakeOver | None = None,
        receiving: Receiving | None = None,
    ) -> None:
        self.settings = settings
        self._path: Path | None = None  # of a Unix socket
        self.application = Application(plane, control, settings)
        self.http = HttpServer(
            short_path=self.application,
            limits=limits(settings),
            render=render,
            http2=http2,
            receiving=receiving,
        )
        self.application.reading.bodies = self.http.receiving

    async def start(self) -> int:
        """Bind and serve; the port, 0 for a Unix socket.

        Raises OSError naming the address and the flag if it cannot be bound.
        """
        tls = tls_context(self.settings, ["http/1.1", "h2"] if self.http.http2 else ["http/1.1"])
        sockets = bind(self.settings, self.settings.http_port, "HTTP", "--http_port")
        await self.http.serve(sockets, tls)
        if sockets[0].family is socket.AF_UNIX:
            self._path = Path(sockets[0].getsockname())
            return 0
        port: int = sockets[0].getsockname()[1]
        return port

    async def stop(self, grace_s: float | None = None) -> None:
        """Close the port, let what is in flight end for grace_s, then cancel it with 503.

        grace_s None: the settings' grace period. Idempotent.
        """
        path, self._path = self._path, None
        if path is not None:
            path.unlink(missing_ok=True)  # while it is ours: a successor may take it from now on
        if not await self.http.drain(self.settings.grace_period if grace_s is None else grace_s):
            self.application.is_stopping = True
            await self.http.cancel()
        await self.http.end()


def limits(settings: Settings) -> Limits:
    return Limits(
        max_header_bytes=settings.max_header_bytes,
        max_headers=settings.max_headers,
        max_body_bytes=settings.max_body_bytes,
        max_receiving_bytes=receiving_bytes(settings),
        header_timeout_s=settings.header_timeout_s,
        body_idle_timeout_s=settings.body_idle_timeout_s,
        keep_alive_s=settings.timeout_keep_alive,
        write_idle_timeout_s=settings.write_idle_timeout_s,
    )


def receiving_bytes(settings: Settings) -> int:
    """Half of what a worker may use: models need the rest. 0 without a limit of memory."""
    if settings.max_receiving_bytes is not None:
        return settings.max_receiving_bytes
    limit = settings.memory_limit_bytes
    if limit is None:
        limit = container_limit_bytes()
    return limit // settings.workers // 2
