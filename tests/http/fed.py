"""A connection without a socket: bytes go straight into the protocol, answers are kept.

The fake stands at the far edge, where the event loop's transport would be; all else is real.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from headrace.http import Exchange, HttpServer, Limits
from headrace.http.connection import Connection


class Recorder:
    """A short path that answers every request with its own size, and remembers it."""

    def __init__(self) -> None:
        self.begun: list[str] = []  # targets
        self.methods: list[str] = []  # of the same
        self.seen: list[tuple[str, str, bytes]] = []  # method, target, body

    def begin(self, exchange: Exchange) -> bool:
        self.begun.append(exchange.target)
        self.methods.append(exchange.method)
        return True

    def finish(self, exchange: Exchange) -> None:
        body = bytes(exchange.body)
        self.seen.append((exchange.method, exchange.target, body))
        status = 405 if exchange.method == "CONNECT" else 200  # 200 would open a tunnel
        exchange.respond(status, [("Content-Type", "text/plain")], [b"%d bytes" % len(body)])


class Wire(asyncio.Transport):
    """Takes all that is written, at once; a client that reads well."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.has_ended = False  # nothing more is sent
        self.is_closed = False
        self.is_paused = False

    def write(self, data: Any) -> None:
        assert not self.has_ended, "written behind the end"
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_ended = True

    def close(self) -> None:
        self.has_ended = self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def get_write_buffer_size(self) -> int:
        return 0


class Fed:
    """One connection of server. Made inside a running event loop."""

    def __init__(self, server: HttpServer) -> None:
        self.wire = Wire()
        self.connection = Connection(server)
        self.connection.connection_made(self.wire)

    def feed(self, pieces: Iterable[bytes]) -> None:
        """Deliver as a loop would: into the protocol's buffers, until it closes or pauses."""
        for piece in pieces:
            at = 0
            while at < len(piece) and not self.wire.is_closed and not self.wire.is_paused:
                buffer = self.connection.get_buffer(-1)
                size = min(len(buffer), len(piece) - at)
                assert size > 0, "no room to read into"
                buffer[:size] = piece[at : at + size]
                at += size
                self.connection.buffer_updated(size)

    def hang_up(self) -> None:
        """The client's end; the protocol lets go."""
        if not self.wire.is_closed:
            self.connection.eof_received()
        self.connection.connection_lost(None)

    @property
    def is_answered(self) -> bool:
        """The server has said all it will on this connection."""
        return self.wire.has_ended


def recording(limits: Limits) -> tuple[HttpServer, Recorder]:
    recorder = Recorder()
    return HttpServer(short_path=recorder, limits=limits), recorder
