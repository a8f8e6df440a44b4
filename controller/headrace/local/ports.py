"""TCP ports of this machine: free ones, consecutive ones, and whether something listens."""

import asyncio
import contextlib
import socket

POLL_S = 0.05  # between two looks at whether a port is open


class PortTaken(Exception):
    """A port that was asked for is in use; the text says what to type instead."""


class Ports:
    """Hands out ports, none twice."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._given: set[int] = set()

    def asked(self, port: int, flag: str) -> int:
        """port itself (0: any free one). Raises PortTaken naming flag."""
        if port == 0:
            return self.free()
        if port in self._given or not is_free(self._host, port):
            raise PortTaken(f"port {port} is in use on {self._host}; choose another with {flag}")
        self._given.add(port)
        return port

    def next_from(self, port: int) -> int:
        """The first free port from port upwards."""
        for candidate in range(port, 65536):
            if candidate not in self._given and is_free(self._host, candidate):
                self._given.add(candidate)
                return candidate
        raise PortTaken(f"no port from {port} upwards is free on {self._host}")

    def free(self) -> int:
        while True:
            with socket.socket(_family(self._host)) as sock:
                sock.bind((self._host, 0))
                port = int(sock.getsockname()[1])
            if port not in self._given:
                self._given.add(port)
                return port


def is_free(host: str, port: int) -> bool:
    with socket.socket(_family(host)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            return False
    return True


async def answers(host: str, port: int) -> bool:
    """True if something accepts connections there."""
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def until_open(host: str, port: int) -> None:
    """Returns when something accepts connections there."""
    while True:  # another process opens it: there is no event to wait on
        if await answers(host, port):
            return
        await asyncio.sleep(POLL_S)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
