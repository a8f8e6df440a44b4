"""The servers that tests compare: Tornado's own, and ours on either event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerConnectionDelegate
from tornado.netutil import bind_sockets

from headrace.http import HttpServer, Limits

DEFAULT = Limits()


@dataclass(frozen=True)
class Served:
    """port: on the loopback. server: ours, None for Tornado's."""

    port: int
    server: HttpServer | None


@dataclass(frozen=True)
class Kind:
    name: str
    is_ours: bool
    new_loop: Callable[[], asyncio.AbstractEventLoop]

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=self.new_loop) as runner:
            runner.run(work)

    @asynccontextmanager
    async def serving(
        self, application: HTTPServerConnectionDelegate, limits: Limits = DEFAULT
    ) -> AsyncIterator[Served]:
        """application, with as much of limits as the server knows."""
        if self.is_ours:
            async with serving(HttpServer(application, limits=limits)) as served:
                yield served
            return
        sockets = bind_sockets(0, "127.0.0.1")
        server = HTTPServer(
            application,
            max_header_size=limits.max_header_bytes,
            max_body_size=limits.max_body_bytes,
            idle_connection_timeout=limits.keep_alive_s,
            body_timeout=limits.body_idle_timeout_s,
        )
        server.add_sockets(sockets)
        try:
            yield Served(sockets[0].getsockname()[1], None)
        finally:
            server.stop()
            await server.close_all_connections()


@asynccontextmanager
async def serving(server: HttpServer, tls: Any = None) -> AsyncIterator[Served]:
    """server on a TCP port, and its end."""
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    await server.serve(sockets, tls)
    try:
        yield Served(port, server)
    finally:
        await server.end()


TORNADO = Kind("tornado", is_ours=False, new_loop=asyncio.new_event_loop)
ASYNCIO = Kind("ours on asyncio", is_ours=True, new_loop=asyncio.new_event_loop)
UVLOOP = Kind("ours on uvloop", is_ours=True, new_loop=uvloop.new_event_loop)

OURS = [pytest.param(kind, id=kind.name) for kind in (ASYNCIO, UVLOOP)]
BOTH = [pytest.param(kind, id=kind.name) for kind in (TORNADO, ASYNCIO, UVLOOP)]
