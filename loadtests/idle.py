"""Holds idle keep-alive connections: `python -m loadtests.idle PORT COUNT PATH`.

Each is used for one GET of PATH first. Prints how many are open, then holds them until standard
input closes, and prints how many still are.
"""

import asyncio
import contextlib
import resource
import sys

OPEN_S = 60.0  # for all of them


class Idle(asyncio.Protocol):
    def __init__(self, path: str) -> None:
        self._request = f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
        self.answered = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.answered.done():
            self.answered.set_result(data.startswith(b"HTTP/1.1 200"))

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if not self.answered.done():
            self.answered.set_result(False)


async def hold(port: int, count: int, path: str) -> None:
    loop = asyncio.get_running_loop()
    held: list[Idle] = []
    with contextlib.suppress(OSError, TimeoutError):  # the count says how far it came
        async with asyncio.timeout(OPEN_S):
            for _ in range(count):
                _, made = await loop.create_connection(lambda: Idle(path), "127.0.0.1", port)
                await made.answered
                held.append(made)
    print(sum(each.answered.result() for each in held), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    print(sum(each.transport is not None for each in held), flush=True)


def raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    raise_file_limit()
    asyncio.run(hold(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
