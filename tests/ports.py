"""Loopback ports that were free a moment ago, for programs that must be told one."""

import contextlib
import socket


def free_ports(count: int) -> list[int]:
    """count different ports: all are held until the last is found."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
