"""The node: containers as processes of this machine.

    start ─▶ running ─▶ exited
                └─ stop: SIGTERM ─▶ grace ─▶ SIGKILL of its whole process group

A process that ends is reported, never restarted. Each has a session of its own, so that a Ctrl-C
at the terminal reaches us alone; it gets SIGTERM from the kernel when we die.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from headrace.local.container import CommandLine

KEPT_LINES = 20
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

Output = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Exited:
    """How a process ended. code: as a shell says it, 128 + n for signal n."""

    name: str
    code: int
    last_lines: tuple[str, ...]


class Process:
    """One running container."""

    def __init__(self, name: str, child: asyncio.subprocess.Process, show: Output) -> None:
        self.name = name
        self._child = child
        self._show = show
        self._last: deque[str] = deque(maxlen=KEPT_LINES)
        self._logs = asyncio.create_task(self._read_logs())

    @property
    def pid(self) -> int:
        return self._child.pid

    async def wait(self) -> Exited:
        """Returns when the process has ended and its last line was shown."""
        code = await self._child.wait()
        await asyncio.wait([self._logs], timeout=1)  # a grandchild may hold the pipe open
        return Exited(self.name, code if code >= 0 else 128 - code, tuple(self._last))

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL to all that is left of its group after grace_s."""
        if self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._child.wait(), grace_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._child.wait()
        await asyncio.wait([self._logs], timeout=1)
        self._logs.cancel()

    async def _read_logs(self) -> None:
        stream = self._child.stdout
        if stream is None:
            return
        rest = b""
        while chunk := await stream.read(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._line(line)
        if rest:
            self._line(rest)

    def _line(self, raw: bytes) -> None:
        line = raw.decode(errors="replace").rstrip("\r")
        self._last.append(line)
        self._show(f"[{self.name}] {line}")


class Node:
    """Starts processes, and stops all of them together."""

    def __init__(self, env: Mapping[str, str], show: Output, grace_s: float = 30.0) -> None:
        """env: what every process inherits; storage credentials are in it. show: gets log lines."""
        self._env = dict(env)
        self._show = show
        self._grace_s = grace_s
        self._processes: list[Process] = []

    async def start(self, name: str, line: CommandLine, env: Mapping[str, str]) -> Process:
        """env: of this process, below what its container sets. Raises OSError if it fails."""
        child = await asyncio.create_subprocess_exec(
            *line.argv,
            cwd=line.folder,
            env={**self._env, **env, **line.env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent if LIBC is not None else None,
        )
        process = Process(name, child, self._show)
        self._processes.append(process)
        return process

    async def first_exit(self) -> Exited:
        """Returns when any of the processes has ended."""
        waiting = [asyncio.create_task(process.wait()) for process in self._processes]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for each in waiting:
                each.cancel()

    async def stop(self) -> None:
        """Those that clients reach first stop first: in the reverse order of starting."""
        for process in reversed(self._processes):
            await process.stop(self._grace_s)


def _end_with_parent() -> None:
    """In the child, before its program: the kernel sends SIGTERM when our thread ends."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
