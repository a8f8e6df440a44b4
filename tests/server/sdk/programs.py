"""Starts programs that serve models, waits until they do, and ends them."""

import http.client
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_ports

START_S = 60.0


@dataclass(frozen=True)
class Ports:
    http: int
    grpc: int


@contextmanager
def serving(command: Sequence[str], folder: Path, log: Path, probe: str = "/") -> Iterator[Ports]:
    """command with --http_port and --grpc_port, run in folder; ended with SIGTERM.

    probe: the path that answers 200 once it serves. What it prints goes to log.
    """
    ports = Ports(*free_ports(2))
    flags = ["--http_port", str(ports.http), "--grpc_port", str(ports.grpc)]
    env = {**os.environ, "HEADRACE_SERVER_DRAIN_DELAY": "0"}  # nobody's endpoints to wait for
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *flags], cwd=folder, stdout=output, stderr=output, env=env
        )
    try:
        wait_until_serving(process, ports.http, probe, log)
        yield ports
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_serving(process: subprocess.Popen[bytes], port: int, probe: str, log: Path) -> None:
    """Raises AssertionError with the program's output if it ends, or takes START_S."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", probe)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass  # not listening yet
        finally:
            connection.close()
        time.sleep(0.05)  # there is nothing to wait on but the port itself
    raise AssertionError(f"{process.args!r} does not serve:\n{log.read_text()[-4000:]}")


def with_our_imports(source: str) -> str:
    """A KServe program's text with its import lines changed, and nothing else."""
    source = re.sub(
        r"^from kserve\.errors import", "from headrace.server.errors import", source, flags=re.M
    )
    return re.sub(r"^from kserve[\w.]* import", "from headrace.server import", source, flags=re.M)
