"""The bound of all bodies that are coming in, over all connections."""

import asyncio

import pytest

from headrace.http import HttpServer, Limits
from headrace.http.receiving import SMALL_BYTES
from tests.http.fed import Fed, Recorder
from tests.http.wire import replies

MOST = 1_000_000
LENGTH = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n"
CODED = b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n"
HALF = bytes(MOST // 2)


@pytest.mark.parametrize(
    ("others", "sent", "statuses"),
    [
        pytest.param([], [LENGTH % (4 * MOST), bytes(4 * MOST)], [200], id="one alone"),
        pytest.param([LENGTH % MOST + HALF], [LENGTH % 400_000, bytes(400_000)], [200], id="fits"),
        pytest.param([LENGTH % MOST], [LENGTH % MOST, bytes(MOST)], [200], id="one announced"),
        pytest.param([LENGTH % MOST + HALF], [LENGTH % 600_000], [503], id="a length too many"),
        pytest.param(
            [LENGTH % MOST + HALF], [CODED % 600_000, bytes(600_000)], [503], id="chunks too many"
        ),
        pytest.param(
            [LENGTH % MOST + HALF, LENGTH % MOST + HALF[1:]],
            [LENGTH % SMALL_BYTES, bytes(9), bytes(SMALL_BYTES - 9)],
            [200],
            id="a small one",
        ),
    ],
)
def test_bodies_that_come_in(others: list[bytes], sent: list[bytes], statuses: list[int]) -> None:
    async def run() -> None:
        server = HttpServer(short_path=Recorder(), limits=Limits(max_receiving_bytes=MOST))
        busy = [Fed(server) for _ in others]
        for each, begun in zip(busy, others, strict=True):
            each.feed([begun])
        fed = Fed(server)
        fed.feed(sent)
        found = replies(bytes(fed.wire.written))
        assert [reply.status for reply in found] == statuses
        assert [reply.header("retry-after") for reply in found] == [
            "1" if status == 503 else None for status in statuses
        ]
        for each in (*busy, fed):
            each.hang_up()
        assert server.receiving.total_bytes == 0

    asyncio.run(run())


def test_one_that_grows_over_the_bound_is_refused_then() -> None:
    async def run() -> None:
        server = HttpServer(short_path=Recorder(), limits=Limits(max_receiving_bytes=MOST))
        first, second = Fed(server), Fed(server)
        first.feed([LENGTH % MOST, HALF])
        second.feed([LENGTH % (MOST // 2), HALF[:-9]])
        assert (first.is_answered, second.is_answered) == (False, False)
        first.feed([bytes(10)])
        assert [reply.status for reply in replies(bytes(first.wire.written))] == [503]
        second.feed([bytes(9)])
        assert replies(bytes(second.wire.written) + b"")[0].status == 200
        for each in (first, second):
            each.hang_up()
        assert server.receiving.total_bytes == 0

    asyncio.run(run())
