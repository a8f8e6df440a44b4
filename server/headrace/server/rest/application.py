"""All routes, and what every exchange shares: settings, drain, logs, who is in flight."""

import asyncio
from typing import Any, cast

from tornado import httputil
from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection

from headrace.server.control import Control
from headrace.server.dataplane import DataPlane
from headrace.server.rest import access_log
from headrace.server.rest.answer import Answer
from headrace.server.rest.call import Call
from headrace.server.rest.documents import Documents
from headrace.server.rest.exchange import Exchange
from headrace.server.rest.generate import Generate
from headrace.server.rest.health import Health
from headrace.server.rest.operator import Operator
from headrace.server.rest.repository import RepositoryCalls
from headrace.server.rest.routes import Match, Route, Routes
from headrace.server.rest.stream import HttpStream
from headrace.server.rest.v1 import V1
from headrace.server.rest.v2 import V2
from headrace.server.settings import Settings


def routes(plane: DataPlane, control: Control, settings: Settings) -> list[Route]:
    """Every route there is, /docs only where it is enabled."""
    table = [
        *Health(plane, control).routes(),
        *V1(plane, settings).routes(),
        *V2(plane, settings).routes(),
        *Generate(plane, settings).routes(),
        *RepositoryCalls(control, settings).routes(),
        *Operator(plane, control).routes(),
    ]
    return table + Documents(table, settings).routes()


class Application(httputil.HTTPServerConnectionDelegate):
    """Tornado asks it for the delegate of each request."""

    def __init__(self, plane: DataPlane, control: Control, settings: Settings) -> None:
        self.settings = settings
        self.routes = Routes(routes(plane, control, settings))
        self._plane = plane
        self._control = control
        self._in_flight: set[Exchange] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.connections: set[HTTP1ServerConnection] = set()

    @property
    def is_draining(self) -> bool:
        return self._control.is_draining

    def start_request(self, server_conn: object, request_conn: httputil.HTTPConnection) -> Exchange:
        connection = cast(HTTP1Connection, request_conn)
        return Exchange(self, connection, cast(HttpStream, connection.stream))

    def on_close(self, server_conn: object) -> None:
        self.connections.discard(cast(HTTP1ServerConnection, server_conn))

    def began(self, exchange: Exchange) -> None:
        self._in_flight.add(exchange)
        self._idle.clear()

    def left(self, exchange: Exchange) -> None:
        self._in_flight.discard(exchange)
        if not self._in_flight:
            self._idle.set()

    def ended(self, exchange: Exchange, call: Call, answer: Answer) -> None:
        self._plane.encoded(call.context)
        settings = self.settings
        if settings.access_log_format is None and not settings.enable_latency_logging:
            return
        found = self.routes.find(exchange.start_line.method, exchange.start_line.path)
        if isinstance(found, Match) and found.route.is_probe:
            return
        if settings.access_log_format is not None:
            access_log.write_access(settings.access_log_format, exchange, call, answer)
        if settings.enable_latency_logging and answer.may_compress:
            is_explain = isinstance(found, Match) and found.route.template.endswith(":explain")
            access_log.write_latency(call, is_explain)

    async def drained(self, grace_s: float) -> None:
        """Wait for what is in flight, then cancel it with 503."""
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            for exchange in list(self._in_flight):
                exchange.stop()
            await self._idle.wait()

    def serve(self, stream: HttpStream, params: Any) -> None:
        connection = HTTP1ServerConnection(cast(Any, stream), params)
        self.connections.add(connection)
        connection.start_serving(self)
