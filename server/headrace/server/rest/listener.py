"""The HTTP port: binds it, and drains it.

HTTP/1 is headrace.http's. HTTP/2 goes to the gRPC server (splice.py) where bytes are plain; over
TLS the port speaks HTTP/1 only, since grpcio ends its own TLS on its own port.
"""

import asyncio
import socket
import ssl
from pathlib import Path

from tornado.netutil import bind_sockets, bind_unix_socket

from headrace.http import HttpServer, Limits
from headrace.server.control import Control
from headrace.server.dataplane import DataPlane
from headrace.server.rest.application import Application, render
from headrace.server.rest.splice import Splice
from headrace.server.settings import Settings

UNIX = "unix:"
BACKLOG = 1024


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

    async def start(self) -> int:
        """Bind and serve; the port, 0 for a Unix socket.

        Raises OSError naming the address and the flag if it cannot be bound.
        """
        tls = tls_context(self.settings)
        sockets = bind(self.settings)
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


def bind(settings: Settings) -> list[socket.socket]:
    """Sockets of every address of the host on one port; port 0 takes a free one."""
    if settings.host.startswith(UNIX):
        return [bind_unix(settings.host.removeprefix(UNIX))]
    host = settings.host.strip("[]") or None
    family = socket.AF_UNSPEC if host is None or ":" in host else socket.AF_INET
    try:
        return bind_sockets(
            settings.http_port,
            host,
            family=family,
            backlog=BACKLOG,
            reuse_port=settings.workers > 1,
        )
    except OSError as err:
        raise OSError(
            err.errno,
            f"cannot listen on {settings.host or '*'}:{settings.http_port} for HTTP: "
            f"{err.strerror}; choose another with --http_port or --host",
        ) from err


def bind_unix(path: str) -> socket.socket:
    """A socket that only this user may connect to; a left-over one is replaced."""
    where = Path(path)
    if where.exists() and not where.is_socket():
        raise OSError(f"cannot listen on --host {UNIX}{path}: it exists and is not a socket")
    try:
        return bind_unix_socket(path, mode=0o600, backlog=BACKLOG)
    except OSError as err:
        raise OSError(f"cannot listen on --host {UNIX}{path}: {err}") from err


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    if not settings.ssl_certfile:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
    if settings.ssl_ca_certs:
        context.load_verify_locations(settings.ssl_ca_certs)
        context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["http/1.1"])
    return context
