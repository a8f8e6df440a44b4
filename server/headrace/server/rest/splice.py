"""HTTP/2 on the HTTP port: bytes are passed to the gRPC server's private socket and back, unread.

One port for both protocols is what Knative needs (contract §11 row 36). Either side that ends its
half ends it on the other; a side that does not keep up stops the other from being read.
"""

import asyncio
import logging
from typing import cast

log = logging.getLogger(__name__)

CONNECT_S = 5.0


class Splice:
    """Connections between clients and the socket at address."""

    def __init__(self) -> None:
        self.address: str | None = None  # None: no gRPC here
        self._open: set[asyncio.Transport] = set()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def join(self, client: asyncio.Transport, received: bytes) -> None:
        """client is ours from here on. received: what it has sent so far."""
        if self.address is None:
            client.close()
            return
        end = _End(self._open, self._changed)
        end.connection_made(client)
        client.set_protocol(end)
        client.pause_reading()
        task = asyncio.get_running_loop().create_task(self._connect(end, received, self.address))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, client: "_End", received: bytes, address: str) -> None:
        loop = asyncio.get_running_loop()
        server = _End(self._open, self._changed)
        # before the connection is: gRPC speaks first, and uvloop may deliver that before we go on
        client.other, server.other = server, client
        try:
            async with asyncio.timeout(CONNECT_S):
                await loop.create_unix_connection(lambda: server, address)
        except (OSError, TimeoutError):
            log.warning("gRPC socket does not answer", extra={"address": address})
            client.close()
            return
        if client.is_lost:
            server.close()
            return
        server.write(received)
        client.resume()

    async def stop(self, grace_s: float) -> None:
        """Wait for what is open, which ends as the gRPC server stops; cut it after grace_s."""
        try:
            async with asyncio.timeout(grace_s):
                while self._open:
                    await self._changed.wait()
                    self._changed.clear()
        except TimeoutError:
            for task in self._tasks:
                task.cancel()
            for transport in list(self._open):
                transport.abort()


class _End(asyncio.Protocol):
    """One side of a spliced connection."""

    def __init__(self, open_transports: set[asyncio.Transport], changed: asyncio.Event) -> None:
        self.other: _End | None = None
        self.is_lost = False
        self._has_ended = False
        self._open = open_transports
        self._changed = changed
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self._open.add(self._transport)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.write(data)

    def eof_received(self) -> bool:
        """True keeps this side open for what the other still sends."""
        self._has_ended = True
        if self.other is None or not self.other.write_eof():
            return False
        if self.other._has_ended:
            self.other.close()
            return False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if self._transport is not None:
            self._open.discard(self._transport)
        self._changed.set()
        if self.other is not None:
            self.other.close()

    def pause_writing(self) -> None:
        if self.other is not None and self.other._transport is not None:
            self.other._transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.resume()

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def write_eof(self) -> bool:
        """True if this side stays open for what still comes from it."""
        if self._transport is None or self._transport.is_closing():
            return False
        if not self._transport.can_write_eof():
            self._transport.close()
            return False
        self._transport.write_eof()
        return True

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
