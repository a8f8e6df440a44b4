"""What h2load's figures are worth: a gRPC call that fails has HTTP status 200 all the same."""

import itertools
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest

from loadtests import generators, wires
from loadtests.wires import Wire

needs_h2load = pytest.mark.skipif(not shutil.which("h2load"), reason="h2load is not installed")
REQUEST = wires.encode(Wire.GRPC, "bench", wires.sample("tiny"))
FRAME_BYTES = 156
PRINTED = """
finished in 1.00s, 1312.00 req/s, 239.81KB/s
requests: 1312 total, 1313 started, 1312 done, 1312 succeeded, {lost} failed, 0 errored, 0 timeout
status codes: 1312 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 239.81KB (245563) total, 16.83KB (17238) headers (space savings 94.68%), {data} data
"""


def printed(data_bytes: int, lost: int = 0) -> str:
    return PRINTED.format(lost=lost, data=f"{data_bytes / 1024:.2f}KB ({data_bytes})")


@pytest.mark.parametrize(
    "data_bytes",
    [
        pytest.param(1312 * FRAME_BYTES, id="an answer's bytes for each"),
        pytest.param(1312 * FRAME_BYTES + 90, id="and part of one that came too late"),
    ],
)
def test_the_rate_is_of_answers_that_brought_their_bytes(data_bytes: int) -> None:
    assert generators.h2load_rate(printed(data_bytes), FRAME_BYTES) == 1312.0
    assert generators.h2load_lost(printed(data_bytes, lost=7)) == 7


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(
            printed(0),
            "1,312 answers of 156 bytes brought 0: calls failed",
            id="every call failed",
        ),
        pytest.param(
            printed(1311 * FRAME_BYTES),
            "1,312 answers of 156 bytes brought 204,516: calls failed",
            id="one failed",
        ),
        pytest.param(
            "h2load: what?",
            r"h2load printed no (\d+) succeeded: h2load: what?",
            id="another h2load",
        ),
    ],
)
def test_answers_without_their_bytes_have_no_rate(text: str, says: str) -> None:
    with pytest.raises(RuntimeError) as raised:
        generators.h2load_rate(text, FRAME_BYTES)
    assert str(raised.value) == says


class Failing(grpc.GenericRpcHandler):
    """All calls after the first ones fail."""

    def __init__(self, good: int) -> None:
        self.good = good
        self.calls = itertools.count()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if next(self.calls) >= self.good:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return b"x" * (FRAME_BYTES - generators.GRPC_PREFIX_BYTES)


@contextmanager
def server(good: int) -> Iterator[int]:
    with ThreadPoolExecutor(2) as pool:
        made = grpc.server(pool, handlers=[Failing(good)])
        port = made.add_insecure_port("127.0.0.1:0")
        made.start()
        try:
            yield port
        finally:
            made.stop(None).wait()


@needs_h2load
def test_h2load_counts_the_answers_of_a_server() -> None:
    with server(good=1_000_000) as port:
        found = generators.closed(Wire.GRPC, REQUEST, port, 2, 1.0, "0,1")
    assert found.rate_per_s > 0
    assert found.lost == 0
    assert found.latency_ms["p50"] > 0


@needs_h2load
def test_a_server_that_fails_after_ten_calls_has_no_rate() -> None:
    with server(good=10) as port, pytest.raises(RuntimeError) as raised:
        generators.closed(Wire.GRPC, REQUEST, port, 2, 1.0, "0,1")
    assert str(raised.value).endswith(": calls failed")


@needs_h2load
def test_a_server_that_fails_says_its_status() -> None:
    with server(good=0) as port, pytest.raises(RuntimeError) as raised:
        generators.closed(Wire.GRPC, REQUEST, port, 2, 1.0, "0,1")
    assert str(raised.value) == "gRPC answered UNAVAILABLE: not now"
