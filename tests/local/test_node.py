"""The node, with real processes."""

import asyncio
import os
import signal
import subprocess
import sys

import psutil
import pytest

from headrace.local.container import CommandLine
from headrace.local.node import Exited, Node


def python(code: str) -> CommandLine:
    return CommandLine((sys.executable, "-u", "-c", code), {"OWN": "container"})


class Lines:
    """What a node shows; `seen` waits for a line."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._changed = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.all.append(line)
        self._changed.set()

    async def seen(self, line: str) -> None:
        while line not in self.all:
            self._changed.clear()
            await self._changed.wait()


def test_a_process_that_ends_is_reported_with_its_last_lines() -> None:
    async def run() -> tuple[Exited, list[str]]:
        lines = Lines()
        node = Node(dict(os.environ), lines)
        await node.start("m-predictor", python("print('a'); print('b'); raise SystemExit(3)"), {})
        exited = await node.first_exit()
        await node.stop()
        return exited, lines.all

    exited, shown = asyncio.run(run())
    assert exited == Exited("m-predictor", 3, ("a", "b"))
    assert shown == ["[m-predictor] a", "[m-predictor] b"]


def test_a_container_s_variables_win_over_the_node_s() -> None:
    async def run() -> list[str]:
        lines = Lines()
        node = Node({**os.environ, "OWN": "node", "SHARED": "node"}, lines)
        code = "import os; print(os.environ['OWN'], os.environ['SHARED'], os.environ['PORT'])"
        await node.start("m", python(code), {"OWN": "replica", "PORT": "1"})
        await node.first_exit()
        await node.stop()
        return lines.all

    assert asyncio.run(run()) == ["[m] container node 1"]


def test_a_long_line_and_one_without_an_end_are_shown_whole() -> None:
    async def run() -> list[str]:
        lines = Lines()
        node = Node(dict(os.environ), lines)
        await node.start("m", python("print('x' * 300_000); print('end', end='')"), {})
        await node.first_exit()
        await node.stop()
        return lines.all

    assert asyncio.run(run()) == ["[m] " + "x" * 300_000, "[m] end"]


STUBBORN = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); signal.pause()"
)
POLITE = (
    "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('bye')));"
    "print('up'); signal.pause()"
)


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        pytest.param(POLITE, ["[m] up", "[m] bye"], id="SIGTERM, and it ends by itself"),
        pytest.param(STUBBORN, ["[m] up"], id="SIGKILL after the grace"),
    ],
)
def test_stop(code: str, shown: list[str]) -> None:
    async def run() -> list[str]:
        lines = Lines()
        node = Node(dict(os.environ), lines, grace_s=0.5)
        process = await node.start("m", python(code), {})
        await lines.seen("[m] up")
        await node.stop()
        assert not psutil.pid_exists(process.pid)
        return lines.all

    assert asyncio.run(run()) == shown


PARENT = """
import asyncio, os, sys
from headrace.local.container import CommandLine
from headrace.local.node import Node

async def main():
    node = Node(dict(os.environ), print)
    line = CommandLine((sys.executable, "-c", "import signal; signal.pause()"), {})
    child = await node.start("m", line, {})
    print(child.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_children_end_when_the_node_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    gone, alive = psutil.wait_procs([child], timeout=10)
    assert alive == []
    assert gone == [child]
