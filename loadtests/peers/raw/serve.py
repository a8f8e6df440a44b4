"""The least that answers: one fixed response per request, no parsing to speak of.

The calibration of a run: no server in Python can be measured above it, and how near a server comes
says how much of its figure is the generator's and the kernel's.
"""

import asyncio
import os
from typing import cast

import uvloop

from loadtests import models, wires
from loadtests.peers.command import arguments

END = b"\r\n\r\n"
LENGTH = b"content-length:"


def response(spec: str) -> bytes:
    y = models.make(spec)(wires.sample(spec.partition(":")[0]))
    tensor = {"name": "y", "datatype": "FP32", "shape": y.shape, "data": y.ravel().tolist()}
    body = wires.dumps({"outputs": [tensor]})
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + END + body


class Raw(asyncio.Protocol):
    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._seen = b""
        self._lengths: dict[bytes, int] = {}  # of whole requests, by head: all are alike

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        while (end := self._seen.find(END)) >= 0:
            head = self._seen[:end]
            length = self._lengths.get(head)
            if length is None:
                found = head.lower().partition(LENGTH)[2].partition(b"\r")[0]
                length = self._lengths[head] = end + len(END) + int(found or 0)
            if len(self._seen) < length:
                return
            self._seen = self._seen[length:]
            self._transport.write(self._answer)


async def serve(port: int) -> None:
    answer = response(os.environ[models.SPEC])
    server = await asyncio.get_running_loop().create_server(lambda: Raw(answer), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(arguments().http_port))
