"""Any bytes, in any pieces: no crash, no hung connection, no answer that is none.

A fixed seed and a small count here; `make soak` runs the million of the issue. Bytes go straight
into the protocol (fed.py); a few also over sockets. hypothesis looks for what a seed does not find,
and makes it small.
"""

import asyncio
import os
import re
import time
from collections import Counter
from functools import lru_cache
from random import Random

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.http import HttpServer, Limits
from headrace.http.intake import HELD_BYTES
from headrace.http.server import RECEIVE_BYTES
from headrace.http.state import NEVER
from tests.http import mutation
from tests.http.application import application
from tests.http.fed import Fed, Recorder, recording
from tests.http.servers import UVLOOP, serving
from tests.http.wire import ReplyReader, connected, replies

IS_SOAK = bool(os.environ.get("HEADRACE_SOAK"))
INPUTS = 1_000_000 if IS_SOAK else 20_000
TORNADO_INPUTS = 30_000 if IS_SOAK else 500
SOCKETS = 20_000 if IS_SOAK else 300
EXAMPLES = 100_000 if IS_SOAK else 300
COMPARED = 10  # every tenth input is also delivered whole, and read by h11
SEED = 20261124
LIMITS = Limits(max_header_bytes=2000, max_headers=20, max_body_bytes=4000)
SHORT = Limits(max_header_bytes=2000, max_headers=20, max_body_bytes=4000, header_timeout_s=0.05,
               body_idle_timeout_s=0.05, keep_alive_s=0.05)  # fmt: skip
_DATE = re.compile(rb"Date: [^\r]*\r\n")


@lru_cache(maxsize=4096)
def parsed(written: bytes, methods: tuple[str, ...]) -> tuple[int, ...]:
    """The statuses of the answers in written. Raises if they are no HTTP."""
    return tuple(reply.status for reply in replies(written, methods))


def answers(fed: Fed, methods: tuple[str, ...]) -> tuple[int, ...]:
    return parsed(_DATE.sub(b"", bytes(fed.wire.written)), methods)


def check(server: HttpServer, recorder: Recorder, data: bytes, cut: list[bytes]) -> str:
    """Feed one connection, hold it to all that must be true. Returns how it ended."""
    recorder.begun.clear()
    recorder.methods.clear()
    recorder.seen.clear()
    fed = Fed(server)
    connection = fed.connection
    fed.feed(cut)
    assert len(connection._intake.held) <= HELD_BYTES + RECEIVE_BYTES
    end = "closed"
    if not fed.is_answered:
        assert not fed.wire.is_paused, "reading is paused, and nobody will resume it"
        if connection.is_idle:
            end = "served another"
            fed.feed([mutation.GOOD])
            assert recorder.seen[-1] == ("GET", "/good", b"")
        else:
            end = "waited for more"
            assert connection.deadline_s < NEVER, "waits, and nothing ends it"
            connection.is_over()
            assert fed.is_answered, "its time was over"
    served = list(recorder.seen)
    statuses = answers(fed, tuple(recorder.methods))
    assert statuses[: len(served)] == tuple(405 if m == "CONNECT" else 200 for m, _, _ in served)
    assert len(statuses) <= len(served) + 1, "more answers than requests"
    if len(statuses) > len(served):
        assert 400 <= statuses[-1] < 500
        assert fed.is_answered, "refused, and open"
        end = f"{end}, {statuses[-1]}"
    fed.hang_up()
    assert connection not in server.connections
    assert not server._exchanges
    return end


def as_h11_reads(data: bytes) -> list[tuple[str, str, bytes]]:
    """The whole requests h11 finds in data, until it finds none or an error."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    found: list[tuple[str, str, bytes]] = []
    method, target, body = "", "", b""
    try:
        while True:
            match connection.next_event():
                case h11.Request() as event:
                    method, target, body = event.method.decode(), event.target.decode("latin1"), b""
                case h11.Data() as event:
                    body += event.data
                case h11.EndOfMessage():
                    found.append((method, target, body))
                    connection.send(
                        h11.Response(status_code=200, headers=[("Content-Length", "0")])
                    )
                    connection.send(h11.EndOfMessage())
                    connection.start_next_cycle()
                case _:
                    return found
    except h11.ProtocolError:
        return found


@pytest.mark.soak
@pytest.mark.timeout(3600 if IS_SOAK else 120)
def test_any_bytes() -> None:
    async def run() -> Counter[str]:
        rng = Random(SEED)
        ends: Counter[str] = Counter()
        server, recorder = recording(LIMITS)
        for count in range(INPUTS):
            data = mutation.stream(rng)
            cut = mutation.pieces(rng, data)
            try:
                ends[check(server, recorder, data, cut)] += 1
                if count % COMPARED == 0:
                    in_pieces = list(recorder.seen)
                    check(server, recorder, data, [data])
                    assert recorder.seen == in_pieces
                    read = as_h11_reads(data)
                    ours = [one for one in in_pieces if one[1] != "/good"]
                    both = min(len(ours), len(read))
                    assert ours[:both] == read[:both], "h11 reads other requests"
                    ends["h11 refused more"] += len(ours) > both
            except Exception as err:
                err.add_note(f"input {count}: {cut!r}")
                raise
        return ends

    begun_s = time.perf_counter()
    ends = asyncio.run(run())
    rate = INPUTS / (time.perf_counter() - begun_s)
    print(f"{INPUTS} inputs, {rate:.0f} a second: {dict(ends.most_common())}")
    assert set(ends) > {"closed", "served another", "closed, 400", "waited for more, 408"}


@pytest.mark.soak
@pytest.mark.timeout(3600 if IS_SOAK else 120)
def test_any_bytes_to_tornados_side() -> None:
    """Handlers run in tasks of the loop: after a few turns all is as above."""

    async def run() -> Counter[str]:
        rng = Random(SEED)
        ends: Counter[str] = Counter()
        server = HttpServer(application(), limits=LIMITS)
        for count in range(TORNADO_INPUTS):
            cut = mutation.pieces(rng, mutation.stream(rng))
            fed = Fed(server)
            for piece in cut:
                fed.feed([piece])
                await asyncio.sleep(0)
            await settled(fed)
            if not fed.is_answered:
                if fed.connection.is_idle:
                    fed.feed([mutation.GOOD])
                    await settled(fed)
                    ends["served another"] += 1
                else:
                    assert fed.connection.deadline_s < NEVER, (count, cut)
                    ends["waited for more"] += 1
            else:
                ends["closed"] += 1
            fed.hang_up()
            await asyncio.sleep(0)
            assert not server._exchanges, (count, cut)
        return ends

    print(f"{TORNADO_INPUTS} inputs: {dict(asyncio.run(run()).most_common())}")


async def settled(fed: Fed) -> None:
    """Until the handler has answered, or the connection waits for the client."""
    for _ in range(200):
        exchange = fed.connection.exchange
        if fed.is_answered or exchange is None or fed.connection.deadline_s < NEVER:
            return
        await asyncio.sleep(0)
    raise AssertionError("a handler does not end")


@pytest.mark.soak
@pytest.mark.timeout(3600 if IS_SOAK else 120)
def test_any_bytes_over_sockets() -> None:
    """Every connection is closed by the server, by its clock where nothing else ends it."""

    async def one(port: int, cut: list[bytes], ends: Counter[int]) -> None:
        async with connected(port) as client:
            await client.send(*cut)
            received = await client.read_all()
        status = int(received.rsplit(b"HTTP/1.1 ", 1)[-1][:3] or 0) if received else 0
        ends[status] += 1

    async def run() -> Counter[int]:
        rng = Random(SEED)
        ends: Counter[int] = Counter()
        server, _ = recording(SHORT)
        async with serving(server) as served:
            for _ in range(SOCKETS // 100):
                inputs = [mutation.pieces(rng, mutation.stream(rng)) for _ in range(100)]
                await asyncio.gather(*[one(served.port, cut, ends) for cut in inputs])
        return ends

    ends: Counter[int] = Counter()

    async def keep() -> None:
        ends.update(await run())

    UVLOOP.run(keep())
    print(f"{SOCKETS} connections, last statuses {dict(ends.most_common())}")
    assert sum(ends.values()) == SOCKETS
    assert not ends[0], "an answer was lost as the server closed"


PARTS = st.sampled_from(
    [*mutation.HEADERS, *mutation.NOISE, mutation.GOOD, b"POST / HTTP/1.1\r\nHost: h\r\n",
     b"3\r\nabc\r\n", b"0\r\n\r\n", b"\r\n\r\n", b"abc"]
)  # fmt: skip
CUTS = st.lists(st.one_of(PARTS, st.binary(max_size=20)), min_size=1, max_size=12)


@pytest.mark.soak
@pytest.mark.timeout(3600 if IS_SOAK else 120)
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
@given(CUTS)
def test_any_parts(cut: list[bytes]) -> None:
    """As above, and cut otherwise it is the same."""

    async def run() -> None:
        server, recorder = recording(LIMITS)
        whole = b"".join(cut)
        check(server, recorder, whole, [piece for piece in cut if piece])
        in_pieces = list(recorder.seen)
        check(server, recorder, whole, [whole] if whole else [])
        assert recorder.seen == in_pieces

    asyncio.run(run())


def test_the_reader_of_answers_refuses_what_is_none() -> None:
    """The tests above would see it."""
    reader = ReplyReader()
    with pytest.raises(h11.RemoteProtocolError):
        reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")
