"""Spoiled gRPC connections, in memory: nothing is raised or left open, the next client is served.

A fixed seed and a small count here; `make soak` runs the full one.
"""

import asyncio
import logging
import os
import struct
from collections import Counter
from random import Random
from typing import Any

import pytest

from headrace.http import frames
from headrace.http.frames import Kind, pack
from headrace.http.header_blocks import to_block
from headrace.server.grpc import codec
from headrace.server.request import Request
from headrace.server.serving import Server
from tests.http import mutation
from tests.http.far_edge import Socket
from tests.server.grpc.client import Double, fp32
from tests.serving import running, served

IS_SOAK = bool(os.environ.get("HEADRACE_SOAK"))
CONNECTIONS = 200_000 if IS_SOAK else 2_000
SEED = 20261124
TURNS = 20  # of the loop: whatever the models of this test wait for has come by then
HELLO = frames.PREFACE + frames.pack_settings([])
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
LIVE_FRAME = b"\0\0\0\0\2\x08\x01"
MESSAGE = codec.encode_request(Request("m", [fp32([1, 2])], "id"))
OPTIONAL = [
    [("grpc-timeout", "10S")],
    [("grpc-timeout", "1n")],
    [("grpc-timeout", "x")],
    [("grpc-encoding", "gzip")],
    [("grpc-encoding", "br")],
    [("triton_grpc_error", "true")],
    [("x-bin", "!")],
    [("x", "y" * 70_000)],
]


def call(rng: Random, number: int) -> list[bytes]:
    """The frames of one call: headers, a message or more in pieces, perhaps an end."""
    path = rng.choice([INFER, INFER, STREAM, LIVE, "/grpc.health.v1.Health/Watch", "/no/thing"])
    fields = [
        (":method", rng.choice(["POST"] * 9 + ["GET"])),
        (":scheme", "http"),
        (":path", path),
        ("content-type", rng.choice(["application/grpc"] * 9 + ["text/html"])),
        ("te", "trailers"),
    ]
    if rng.random() < 0.3:
        fields += rng.choice(OPTIONAL)
    block = to_block(fields)
    sent = [frames.pack_block(number, block, False, 16_384)]
    for _ in range(rng.choice([0, 1, 1, 1, 1, 3])):
        message = rng.choice([MESSAGE, MESSAGE, b"", rng.randbytes(20)])
        length = rng.choice([len(message)] * 9 + [1 << 31])
        whole = struct.pack(">BI", rng.choice([0] * 9 + [1]), length) + message
        at = rng.randrange(len(whole) + 1)
        sent += [pack(Kind.DATA, 0, number, whole[:at]), pack(Kind.DATA, 0, number, whole[at:])]
    ending = rng.random()
    if ending < 0.7:
        sent.append(pack(Kind.DATA, frames.END_STREAM, number, b""))
    elif ending < 0.8:
        sent.append(pack(Kind.RST_STREAM, 0, number, struct.pack(">I", 8)))
    return sent


def connection(rng: Random) -> bytes:
    calls = [call(rng, 1 + 2 * at) for at in range(rng.choice([1, 1, 2, 5]))]
    sent = [each for one in calls for each in one]
    if rng.random() < 0.3:  # interleaved: streams may then open out of order
        rng.shuffle(sent)
    data = bytearray(HELLO + b"".join(sent))
    for _ in range(rng.choice([0, 0, 1, 2])):
        at = rng.randrange(len(data))
        match rng.randrange(3):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                del data[at : at + rng.choice([1, 9, 40])]
            case _:
                data[at:at] = data[at : at + rng.randrange(40)]
    return bytes(data)


async def feed(server: Server, pieces: list[bytes]) -> Socket:
    """What one connection gets for pieces; it has gone by then."""
    found = Socket()
    loop = asyncio.get_running_loop()
    grpc = server._grpc.server
    made = grpc._connection()
    made.connection_made(found)  # type: ignore[arg-type]  # the far edge
    for piece in pieces:
        loop.call_soon(made.data_received, piece)  # as from a socket: outside of any task
        await asyncio.sleep(0)
    for _ in range(TURNS):
        await asyncio.sleep(0)
    made.connection_lost(None)
    assert grpc._connections == set()
    assert grpc._calls == set()
    return found


@pytest.mark.soak
@pytest.mark.timeout(3600 if IS_SOAK else 120)
def test_any_connection() -> None:
    async def work() -> Counter[str]:
        rng = Random(SEED)
        ends: Counter[str] = Counter()
        raised: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
        asked = [(":method", "POST"), (":path", LIVE), ("content-type", "application/grpc")]
        live = frames.pack_block(1, to_block(asked), False, 16_384)
        live += pack(Kind.DATA, frames.END_STREAM, 1, bytes(5))
        async with running(served("m", Double())) as server:
            for count in range(CONNECTIONS):
                pieces = mutation.pieces(rng, connection(rng))
                try:
                    socket = await feed(server, pieces)
                    assert raised == []
                    ends["closed" if socket.is_closed else "open"] += 1
                    ends["answered"] += b"grpc-status\x010" in socket.written
                    if count % 100 == 0:
                        assert LIVE_FRAME in (await feed(server, [HELLO + live])).written
                except BaseException as err:
                    err.add_note(f"connection {count}: {pieces!r}")
                    raise
            assert server.repository.find("m").servable.pending_requests == 0
        return ends

    logging.disable(logging.CRITICAL)
    try:
        ends = asyncio.run(work())
    finally:
        logging.disable(logging.NOTSET)
    print(f"{CONNECTIONS} gRPC connections: {dict(ends.most_common())}")
    assert min(ends.values()) > CONNECTIONS / 50
