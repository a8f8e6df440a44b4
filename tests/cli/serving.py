"""`headrace serve` as a process: waits for its table, reads its URLs, ends it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any


@dataclass
class Serving:
    """table: (name, component) → URL. Stop it to read what it wrote to stderr."""

    child: subprocess.Popen[str]
    stderr: IO[str]
    table: dict[tuple[str, str], str] = field(default_factory=dict)
    grpc: dict[tuple[str, str], str] = field(default_factory=dict)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Exit status, and stderr."""
        if self.child.poll() is None:
            self.child.send_signal(number)
        code = self.child.wait(timeout=60)
        self.stderr.seek(0)
        return code, self.stderr.read()


@contextmanager
def serving(*words: str, stdin: str | None = None, cwd: Path | None = None) -> Iterator[Serving]:
    """A running `headrace serve`, its table read; killed at the end if it is still there."""
    with tempfile.TemporaryFile("w+") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-m", "headrace.cli", "serve", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert child.stdin is not None
        assert child.stdout is not None
        with child.stdin:
            child.stdin.write(stdin or "")
        running = Serving(child, stderr)
        try:
            count = _read_table(running, child.stdout)
            if not count:
                raise AssertionError(f"no table; stderr:\n{running.stop()[1]}")
            yield running
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
            child.stdout.close()


def _read_table(running: Serving, stdout: IO[str]) -> int:
    """The table is written in one piece when all is ready."""
    if not stdout.readline().startswith("NAME"):
        return 0
    os.set_blocking(stdout.fileno(), False)
    for line in stdout:
        name, component, url, grpc = line.split()
        running.table[name, component] = url
        running.grpc[name, component] = grpc
    return len(running.table)


def post(url: str, body: Any) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)
