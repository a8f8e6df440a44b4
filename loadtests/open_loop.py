"""Our own load generator: HTTP/1.1 and gRPC, open loop or closed loop, one process on one core.

    python -m loadtests.open_loop --port 8080 --request FILE --seconds 4 --connections 64 \
        --arrivals poisson --rate 500
    … --rate 0                      closed loop: each connection sends as soon as it is answered
    … --grpc                        the file holds a bare message; calls go through grpc.aio

An open-loop latency counts from the moment the request was due, not from when a connection was
free: a queue before the client is part of what a user waits. Prints one JSON object: latencies_s of
the good answers, in_time (how many of them came within the offered seconds: a rate is of those),
lost (refused, broken off, unanswered), seconds.
"""

import argparse
import asyncio
import json
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httptools
import uvloop

from loadtests.arrivals import Arrivals, times_s
from loadtests.wires import RPC

DRAIN_S = 10.0  # how long after the last send an answer is still waited for
TIMER_S = 2e-3  # an event loop's timer may be so late: nearer to a send the loop is polled


@dataclass(slots=True)
class Tally:
    """end_s: when the load ends, by perf_counter; later answers have latencies and make no rate."""

    latencies_s: list[float] = field(default_factory=list)
    in_time: int = 0
    lost: int = 0
    open_requests: int = 0
    is_closed: bool = False
    end_s: float = float("inf")

    def settle(self, due_s: float, is_good: bool) -> None:
        if self.is_closed:
            return
        self.open_requests -= 1
        if is_good:
            now = time.perf_counter()
            self.latencies_s.append(now - due_s)
            self.in_time += now < self.end_s
        else:
            self.lost += 1

    def close(self) -> None:
        """What is still open is lost; closing its connections does not lose it once more."""
        self.lost += self.open_requests
        self.is_closed = True


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time. Calls idle(self) when it is free."""

    def __init__(self, tally: Tally, idle: Callable[["Connection"], None]) -> None:
        self._tally = tally
        self._idle = idle
        self._parser = httptools.HttpResponseParser(self)
        self._due_s: float | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._idle(self)

    def send(self, request: bytes, due_s: float) -> None:
        assert self._transport is not None
        self._due_s = due_s
        self._tally.open_requests += 1
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        if self._due_s is not None:
            self._tally.settle(self._due_s, self._parser.get_status_code() == 200)
            self._due_s = None
            self._idle(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._due_s is not None:
            self._tally.settle(self._due_s, is_good=False)
            self._due_s = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class HttpClient:
    """connections to one port; requests over their number wait here, their clock running."""

    def __init__(self, port: int, request: bytes, tally: Tally, give_up_s: float = 0) -> None:
        self._port = port
        self._give_up_s = give_up_s or float("inf")
        self._request = request
        self._tally = tally
        self._free: deque[Connection] = deque()
        self._waiting: deque[float] = deque()
        self._all: list[Connection] = []
        self.closed_until_s = 0.0

    async def connect(self, connections: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            _, made = await loop.create_connection(
                lambda: Connection(self._tally, self._idle), "127.0.0.1", self._port
            )
            self._all.append(made)

    def send(self, due_s: float) -> None:
        while self._free:
            connection = self._free.pop()
            if connection.is_open:
                connection.send(self._request, due_s)
                return
        self._waiting.append(due_s)

    def start_all(self) -> None:
        """Closed loop: every connection sends now, and again when answered."""
        for _ in range(len(self._free)):
            self.send(time.perf_counter())

    def _idle(self, connection: Connection) -> None:
        now = time.perf_counter()
        while self._waiting and now - self._waiting[0] > self._give_up_s:
            self._waiting.popleft()
            self._tally.lost += 1
        if self._waiting:
            connection.send(self._request, self._waiting.popleft())
        elif now < self.closed_until_s and connection.is_open:
            connection.send(self._request, now)
        else:
            self._free.append(connection)

    async def close(self) -> None:
        self._tally.lost += len(self._waiting)
        for each in self._all:
            each.close()


class GrpcClient:
    """The same over grpc.aio, one channel; a closed loop keeps `connections` calls open."""

    def __init__(self, port: int, request: bytes, tally: Tally) -> None:
        import grpc

        self._error = grpc.RpcError
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._call = self._channel.unary_unary(RPC)
        self._request = request
        self._tally = tally
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0
        self.closed_until_s = 0.0

    async def connect(self, connections: int) -> None:
        self._connections = connections
        await self._channel.channel_ready()

    def send(self, due_s: float) -> None:
        self._tally.open_requests += 1
        task = asyncio.get_running_loop().create_task(self._one(due_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def start_all(self) -> None:
        for _ in range(self._connections):
            self.send(time.perf_counter())

    async def _one(self, due_s: float) -> None:
        is_good = False
        with suppress(self._error):
            await self._call(self._request)
            is_good = True
        self._tally.settle(due_s, is_good)
        now = time.perf_counter()
        if now < self.closed_until_s and is_good:
            self.send(now)

    async def close(self) -> None:
        await self._channel.close()


async def load(
    client: HttpClient | GrpcClient,
    tally: Tally,
    connections: int,
    seconds: float,
    due: Sequence[float],
) -> None:
    """Offers the load, and waits for what was not yet answered. due: [] for a closed loop."""
    await client.connect(connections)
    start = time.perf_counter()
    tally.end_s = start + seconds
    if due:
        for each in due:
            while (left := start + each - time.perf_counter()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(max(0.0, left - TIMER_S))
            client.send(start + each)
    else:
        client.closed_until_s = tally.end_s
        client.start_all()
    await asyncio.sleep(max(0.0, tally.end_s - time.perf_counter()))
    # A poll: requests settle from callbacks of many connections.
    while tally.open_requests and time.perf_counter() < tally.end_s + DRAIN_S:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    tally.close()
    await client.close()


def main() -> None:
    options = argparse.ArgumentParser("loadtests.open_loop", description=__doc__)
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--request", type=Path, required=True)
    options.add_argument("--grpc", action="store_true")
    options.add_argument("--connections", type=int, default=64)
    options.add_argument("--seconds", type=float, default=4.0)
    options.add_argument("--arrivals", type=Arrivals, choices=list(Arrivals), default="constant")
    options.add_argument("--rate", type=float, default=0.0)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--give-up", type=float, default=0.0, help="seconds; 0: never")
    given = options.parse_args()
    due = times_s(given.arrivals, given.rate, given.seconds, given.seed) if given.rate else []
    tally = Tally()

    async def run() -> None:
        request = given.request.read_bytes()
        client: HttpClient | GrpcClient = (
            GrpcClient(given.port, request, tally)
            if given.grpc
            else HttpClient(given.port, request, tally, given.give_up)
        )
        await load(client, tally, given.connections, given.seconds, due)

    uvloop.run(run())
    told = {"latencies_s": tally.latencies_s, "in_time": tally.in_time, "lost": tally.lost}
    os.set_blocking(1, True)  # a loop may have left a pipe otherwise, which then loses the rest
    left = memoryview(json.dumps({**told, "seconds": given.seconds}).encode())
    while left:
        left = left[os.write(1, left) :]


if __name__ == "__main__":
    main()
