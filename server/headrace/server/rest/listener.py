"""The HTTP port: binds it, and drains it.

HTTP/1 is headrace.http's. HTTP/2 goes to the gRPC server (splice.py) where bytes are plain; over
TLS the port speaks HTTP/1 only, since grpcio ends its own TLS on its own port.
"""

import asyncio
import socket
from collections.abc import Callable

from headrace.http import HttpServer, Limits
from headrace.server.control import Control
from headrace.server.dataplane import DataPlane
from headrace.server.ports import bind, tls_context
from headrace.server.rest.application import Application, render
from headrace.server.rest.splice import Splice
from headrace.server.settings import Settings


class RestListener:
    """start() returns the port; stop() ends open connections."""

    def __init__(self, plane: DataPlane, control: Control, settings: Settings) -> None:
        self.settings = settings
        self.application = Application(plane, control, settings)
        self._splice = Splice()
        tls = bool(settings.ssl_certfile)
        self.http = HttpServer(
            short_path=self.application,
            limits=limits(settings),
            render=render,
            http2=None if tls else self._splice.join,
        )

    @property
    def unix_address(self) -> str | None:
        """Where HTTP/2 connections go, a path; None: nowhere, they are closed."""
        return self._splice.address

    @unix_address.setter
    def unix_address(self, path: str | None) -> None:
        self._splice.address = path

    def use_http2(self, take_over: Callable[[asyncio.Transport, bytes], None]) -> None:
        """Who takes HTTP/2 connections, where that is no socket."""
        if self.http.http2 is not None:
            self.http.http2 = take_over

    async def start(self) -> int:
        """Bind and serve; the port, 0 for a Unix socket.

        Raises OSError naming the address and the flag if it cannot be bound.
        """
        tls = tls_context(self.settings, ["http/1.1"])
        sockets = bind(self.settings, self.settings.http_port, "HTTP", "--http_port")
        await self.http.serve(sockets, tls)
        if sockets[0].family is socket.AF_UNIX:
            return 0
        port: int = sockets[0].getsockname()[1]
        return port

    async def stop(self, grace_s: float | None = None) -> None:
        """Close the port, let what is in flight end for grace_s, then cancel it with 503.

        grace_s None: the settings' grace period. HTTP/2 connections have as long; the gRPC server,
        stopping beside, ends them. Idempotent.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + (self.settings.grace_period if grace_s is None else grace_s)
        if not await self.http.drain(max(0.0, deadline_s - loop.time())):
            self.application.is_stopping = True
            await self.http.cancel()
        await self._splice.stop(max(0.0, deadline_s - loop.time()))
        await self.http.end()


def limits(settings: Settings) -> Limits:
    return Limits(
        max_header_bytes=settings.max_header_bytes,
        max_headers=settings.max_headers,
        max_body_bytes=settings.max_body_bytes,
        header_timeout_s=settings.header_timeout_s,
        body_idle_timeout_s=settings.body_idle_timeout_s,
        keep_alive_s=settings.timeout_keep_alive,
    )
