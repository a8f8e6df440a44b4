"""Bodies that have come count until a thread has read them."""

import asyncio
import gzip
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace.http.receiving import Receiving
from headrace.server.errors import QueueFull
from headrace.server.rest.reading import Reading
from tests.server.rest.client import Reply, ask
from tests.server.rest.models import usual
from tests.serving import running

MOST = 2_000_000
PATH = "/v2/models/m%20x/infer"
DATA = [0.123456789] * 120_000  # 1.6 MB of text
ENTRY = {"name": "x", "shape": [60_000, 2], "datatype": "FP32", "data": DATA}
LARGE = json.dumps({"inputs": [ENTRY]}).encode()
SMALL = json.dumps({"inputs": [{**ENTRY, "shape": [1, 2], "data": [1, 2]}]}).encode()


def reading(most: int) -> Reading:
    found = Reading()
    found.bodies = Receiving(most)
    return found


def test_what_is_read_counts_with_what_comes_in() -> None:
    found = reading(MOST)
    found.bodies.take(500_000)  # comes in
    with found.of(1_500_000):
        assert found.bodies.total_bytes == MOST
        with pytest.raises(QueueFull) as caught, found.of(100_000):
            pass
        assert str(caught.value) == (
            "2000000 bytes of other request bodies are coming in or being read, the limit is "
            "2000000; try again (--max_receiving_bytes 2000000)"
        )
    assert found.bodies.total_bytes == 500_000


@pytest.mark.parametrize("most", [MOST, 0], ids=["it is alone", "there is no bound"])
def test_read_however_large(most: int) -> None:
    found = reading(most)
    with found.of(100 * MOST):
        assert found.bodies.total_bytes == 100 * MOST
    assert found.bodies.total_bytes == 0


@pytest.mark.parametrize(
    ("sent", "coding"),
    [
        pytest.param(LARGE, "", id="JSON"),
        pytest.param(gzip.compress(LARGE, 0), "gzip", id="gzip"),
    ],
)
def test_a_body_that_waits_for_a_thread_counts(sent: bytes, coding: str) -> None:
    go = threading.Event()

    async def run() -> tuple[list[Reply], int]:
        async with running(*usual(), enable_grpc=False, max_receiving_bytes=MOST) as server:
            bodies = server._rest.application.reading.bodies
            threads = ThreadPoolExecutor(1)
            asyncio.get_running_loop().set_default_executor(threads)
            threads.submit(go.wait, 10)
            headers = [("Content-Encoding", coding)] if coding else []
            port = server.ports.http
            first = asyncio.create_task(ask(port, "POST", PATH, sent, headers))
            async with asyncio.timeout(10):
                while bodies.total_bytes != len(sent):  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0.001)
                while threads._work_queue.qsize() != 1:  # noqa: ASYNC110 - nor does a pool
                    await asyncio.sleep(0.001)
                assert bodies.total_bytes == len(sent)  # still, though all of it has come
                refused = await ask(port, "POST", PATH, sent, headers)
                small = await ask(port, "POST", PATH, SMALL)
            go.set()
            return [await first, refused, small], bodies.total_bytes

    [first, refused, small], left = asyncio.run(run())
    assert (first.status, refused.status, small.status, left) == (200, 503, 200, 0)
    assert refused.header("retry-after") is not None
    assert "--max_receiving_bytes 2000000" in refused.error
