"""What our own load generator counts, against servers that are slower than what is offered."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from loadtests import open_loop
from loadtests.arrivals import Arrivals, times_s
from loadtests.generators import Raw
from loadtests.open_loop import HttpClient, Tally

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def server(answers_after_s: float) -> AsyncIterator[int]:
    """Its port. One request after the other on a connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(answers_after_s)
                writer.write(ANSWER)
        writer.close()

    made = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield made.sockets[0].getsockname()[1]
    made.close()


def loaded(
    answers_after_s: float, connections: int, seconds: float, rate_per_s: float = 0
) -> Tally:
    """rate_per_s 0: closed loop."""

    async def run() -> Tally:
        tally = Tally()
        due = times_s(Arrivals.CONSTANT, rate_per_s, seconds, seed=1) if rate_per_s else []
        async with server(answers_after_s) as port:
            client = HttpClient(port, REQUEST, tally)
            await open_loop.load(client, tally, connections, seconds, due)
            await asyncio.sleep(0.05)  # for what closing the connections tells
        return tally

    return asyncio.run(run())


def test_a_saturated_server_shows_its_own_rate_and_the_latencies_of_its_queue() -> None:
    offered_per_s, most_per_s = 200, 4 / 0.05
    found = loaded(0.05, connections=4, seconds=0.4, rate_per_s=offered_per_s)
    assert (len(found.latencies_s), found.lost) == (79, 0)
    assert max(found.latencies_s) > 0.4
    figures = Raw(found.latencies_s, found.in_time, found.lost, 0.4).figures()
    assert 0 < figures.rate_per_s <= most_per_s


def test_a_closed_loop_counts_no_answer_that_comes_after_its_end() -> None:
    found = loaded(0.3, connections=4, seconds=0.1)
    assert (len(found.latencies_s), found.in_time, found.lost) == (4, 0, 0)
