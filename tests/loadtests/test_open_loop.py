"""What our own load generator counts, against servers that are slower than what is offered."""

import asyncio
from typing import cast

import pytest

from loadtests import open_loop
from loadtests.arrivals import Arrivals, times_s
from loadtests.generators import Raw
from loadtests.open_loop import HttpClient, Tally

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Slow(asyncio.Protocol):
    """A server's connection; its client sends one request after the other."""

    def __init__(self, answers_after_s: float) -> None:
        self.answers_after_s = answers_after_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(self.answers_after_s, self.transport.write, ANSWER)


def loaded(
    answers_after_s: float, connections: int, seconds: float, rate_per_s: float = 0
) -> Tally:
    """rate_per_s 0: closed loop."""

    async def run() -> Tally:
        tally = Tally()
        due = times_s(Arrivals.CONSTANT, rate_per_s, seconds, seed=1) if rate_per_s else []
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Slow(answers_after_s), "127.0.0.1", 0)
        client = HttpClient(server.sockets[0].getsockname()[1], REQUEST, tally)
        await open_loop.load(client, tally, connections, seconds, due)
        await asyncio.sleep(0.05)  # for what closing the connections tells
        server.close()
        return tally

    return asyncio.run(run())


def test_a_saturated_server_shows_its_own_rate_and_the_latencies_of_its_queue() -> None:
    offered_per_s, most_per_s = 200, 4 / 0.05
    found = loaded(0.05, connections=4, seconds=0.4, rate_per_s=offered_per_s)
    sent = len(times_s(Arrivals.CONSTANT, offered_per_s, 0.4, seed=1))
    assert (len(found.latencies_s), found.lost) == (sent, 0)
    assert max(found.latencies_s) > 0.4
    figures = Raw(found.latencies_s, found.in_time, found.lost, 0.4).figures()
    assert 0 < figures.rate_per_s <= most_per_s


def test_a_closed_loop_counts_no_answer_that_comes_after_its_end() -> None:
    found = loaded(0.3, connections=4, seconds=0.1)
    assert (len(found.latencies_s), found.in_time, found.lost) == (4, 0, 0)


def test_a_request_that_is_never_answered_is_lost_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_loop, "DRAIN_S", 0.1)
    found = loaded(60, connections=4, seconds=0.1, rate_per_s=100)
    asked = len(times_s(Arrivals.CONSTANT, 100, 0.1, seed=1))  # four are sent, the others wait
    assert (found.latencies_s, found.lost) == ([], asked)
