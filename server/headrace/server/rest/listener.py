"""The HTTP port: accepts, tells HTTP/1 from HTTP/2, and drains.

HTTP/1 is Tornado's, over stream.py. HTTP/2 goes to the gRPC server (splice.py) where bytes are
plain; over TLS the port speaks HTTP/1 only, since grpcio ends its own TLS on its own port.
"""

import asyncio
import logging
import socket
import ssl

from tornado.http1connection import HTTP1ConnectionParameters
from tornado.netutil import bind_sockets

from headrace.server.control import Control
from headrace.server.dataplane import DataPlane
from headrace.server.rest.application import Application
from headrace.server.rest.head import HeadLimits
from headrace.server.rest.splice import Splice
from headrace.server.rest.stream import HttpStream, StreamLimits
from headrace.server.settings import Settings

CHUNK_BYTES = 1 << 18
UNLIMITED = 1 << 62
FLUSH_S = 2.0  # longest a client may take to read its last answer once we stop

# Tornado tells of each message it cannot parse; the client is told instead, and probes are many.
logging.getLogger("tornado.general").setLevel(logging.WARNING)


class RestListener:
    """start() returns the port; stop() ends open connections.

    unix_address: where HTTP/2 connections go, a path; None: nowhere, they are closed.
    """

    def __init__(self, plane: DataPlane, control: Control, settings: Settings) -> None:
        self.plane = plane
        self.control = control
        self.settings = settings
        self.application = Application(plane, control, settings)
        self._splice = Splice()
        self._servers: list[asyncio.Server] = []
        self._streams: set[HttpStream] = set()
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._params = HTTP1ConnectionParameters(
            chunk_size=CHUNK_BYTES, max_header_size=UNLIMITED, max_body_size=UNLIMITED
        )

    @property
    def unix_address(self) -> str | None:
        return self._splice.address

    @unix_address.setter
    def unix_address(self, path: str | None) -> None:
        self._splice.address = path

    async def start(self) -> int:
        """Bind and serve. Raises OSError naming the address and the flag if it cannot be bound."""
        settings = self.settings
        tls = tls_context(settings)
        limits = StreamLimits(
            settings.header_timeout_s,
            settings.body_idle_timeout_s,
            settings.timeout_keep_alive,
            head=HeadLimits(settings.max_header_bytes, settings.max_headers),
        )
        loop = asyncio.get_running_loop()
        sockets = bind(settings)
        for sock in sockets:
            self._servers.append(
                await loop.create_server(
                    lambda: HttpStream(self, limits, sniffs=tls is None), sock=sock, ssl=tls
                )
            )
        port: int = sockets[0].getsockname()[1]
        return port

    async def stop(self, grace_s: float | None = None) -> None:
        """Close the port, let what is in flight end for grace_s, then cancel it with 503.

        grace_s None: the settings' grace period. HTTP/2 connections have as long; the gRPC server,
        stopping beside, ends them. Idempotent.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + (self.settings.grace_period if grace_s is None else grace_s)
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        for stream in list(self._streams):
            stream.close_if_idle()
        await self.application.drained(max(0.0, deadline_s - loop.time()))
        await self._splice.stop(max(0.0, deadline_s - loop.time()))
        for stream in list(self._streams):
            stream.end()
        try:
            async with asyncio.timeout(FLUSH_S):
                await self._none_open.wait()
        except TimeoutError:
            for stream in list(self._streams):
                stream.abort()
            await self._none_open.wait()

    # StreamOwner

    def opened(self, stream: HttpStream) -> None:
        self._streams.add(stream)
        self._none_open.clear()

    def serve_http1(self, stream: HttpStream) -> None:
        self.application.serve(stream, self._params)

    def serve_http2(self, transport: asyncio.Transport, received: bytes) -> None:
        self._splice.join(transport, received)

    def closed(self, stream: HttpStream) -> None:
        self._streams.discard(stream)
        if not self._streams:
            self._none_open.set()


def bind(settings: Settings) -> list[socket.socket]:
    """Sockets of every address of the host on one port; port 0 takes a free one."""
    host = settings.host.strip("[]") or None
    family = socket.AF_UNSPEC if host is None or ":" in host else socket.AF_INET
    try:
        return bind_sockets(
            settings.http_port,
            host,
            family=family,
            backlog=1024,
            reuse_port=settings.workers > 1,
        )
    except OSError as err:
        raise OSError(
            err.errno,
            f"cannot listen on {settings.host or '*'}:{settings.http_port} for HTTP: "
            f"{err.strerror}; choose another with --http_port or --host",
        ) from err


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    if not settings.ssl_certfile:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
    context.set_alpn_protocols(["http/1.1"])
    return context
