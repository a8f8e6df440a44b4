"""The servers under test: which there are, their environments, and one running on given cores."""

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from loadtests import machine
from loadtests.models import SPEC
from loadtests.wires import Array, Request, Wire, encode, named_json

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "loadtests" / "peers"
NAME = "bench"
READY_S, STOP_S = 60.0, 30.0
NO_DRAIN = "HEADRACE_SERVER_DRAIN_DELAY"  # nobody waits for endpoints to change here
ALL = frozenset(Wire)


class CannotRun(Exception):
    """A peer that cannot be installed or started, and why; the others go on."""


@dataclass(frozen=True, slots=True)
class Peer:
    """wires: what it speaks. own_json: path and key of its own JSON, in place of V2's.
    is_ours: runs in this environment. variant_of: the server that flags make it differ from."""

    name: str
    wires: frozenset[Wire]
    own_json: tuple[str, str] | None = None
    is_ours: bool = False
    ready_path: str = f"/v2/models/{NAME}/ready"
    variant_of: str = ""
    flags: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return PEERS / (self.variant_of or self.name)

    def variant(self, name: str, *flags: str) -> "Peer":
        return replace(self, name=name, variant_of=self.name, flags=flags)

    @property
    def python(self) -> Path:
        if self.is_ours:
            return Path(sys.executable)
        return ROOT / ".venv" / "bench" / self.folder.name / "bin" / "python"

    def request(self, wire: Wire, x: Array) -> Request:
        if self.own_json and wire is Wire.V2:
            return named_json(*self.own_json, x)
        return encode(wire, NAME, x)


HEADRACE = Peer("headrace", ALL, is_ours=True)
MLSERVER = Peer("mlserver", frozenset({Wire.V2, Wire.GRPC}))
LITSERVE = Peer("litserve", frozenset({Wire.V2}), ("/predict", "x"), ready_path="/health")
KNOWN = {
    each.name: each
    for each in [
        HEADRACE,
        Peer("headrace_model", ALL, is_ours=True),
        HEADRACE.variant("headrace_unbatched", "--max_batch_size", "1"),
        Peer("raw", frozenset({Wire.V2}), is_ours=True),
        Peer("kserve", ALL),
        MLSERVER,
        MLSERVER.variant("mlserver_batching", "--batching"),
        Peer("triton", ALL - {Wire.V1}),
        LITSERVE,
        LITSERVE.variant("litserve_batching", "--batching"),
        Peer("bentoml", frozenset({Wire.V2}), ("/predict", "x"), ready_path="/readyz"),
    ]
}


@dataclass(frozen=True, slots=True)
class Running:
    peer: Peer
    http: int
    grpc: int
    process: subprocess.Popen[bytes]

    def port(self, wire: Wire) -> int:
        return self.grpc if wire is Wire.GRPC else self.http

    def pss_mb(self) -> float:
        """Memory of the process tree, pages shared by n processes counted 1/n each."""
        tree = [psutil.Process(self.process.pid)]
        tree += tree[0].children(recursive=True)
        total = 0
        for each in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += each.memory_full_info().pss
        return total / 1e6


def install(peer: Peer) -> None:
    """Makes peer's environment unless its requirements are installed. Raises CannotRun."""
    if peer.is_ours:
        return
    wanted = (peer.folder / "requirements.txt").read_text()
    home = peer.python.parents[1]
    mark = home / ".installed"
    if mark.is_file() and mark.read_text() == wanted:
        return
    print(f"compare: making {home.relative_to(ROOT)} (once)", file=sys.stderr, flush=True)
    pip = [str(peer.python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    steps = [
        [sys.executable, "-m", "venv", str(home)],
        [*pip, "-r", str(peer.folder / "requirements.txt")],
    ]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            raise CannotRun(f"cannot be installed: {last_line(done.stderr)}")
    mark.write_text(wanted)


def versions(peer: Peer) -> dict[str, str]:
    """Every package of peer's environment."""
    listed = subprocess.run(
        [str(peer.python), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
    )
    return {each["name"]: each["version"] for each in json.loads(listed.stdout or "[]")}


@contextlib.contextmanager
def started(
    peer: Peer, spec: str, cores: str, workers: int = 1, flags: tuple[str, ...] = ()
) -> Iterator[Running]:
    """peer serving spec on cores (taskset's list). Raises CannotRun with its last words."""
    http_port, grpc_port = free_port(), free_port()
    command = machine.pinned(cores)
    command += [str(peer.python), str(peer.folder / "serve.py"), "--name", NAME]
    command += ["--http_port", str(http_port), "--grpc_port", str(grpc_port)]
    command += ["--workers", str(workers), *peer.flags, *flags]
    path = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    environment = {**os.environ, SPEC: spec, "PYTHONPATH": path, NO_DRAIN: "0"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=raise_file_limit,
        )
        try:
            _wait(peer, process, http_port, log.fileno())
            yield Running(peer, http_port, grpc_port, process)
        finally:
            stop(process)


def _wait(peer: Peer, process: subprocess.Popen[bytes], port: int, log: int) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", peer.ready_path)
            if connection.getresponse().status == 200:
                connection.close()
                return
        connection.close()
        time.sleep(0.1)
    size = os.fstat(log).st_size
    said = os.pread(log, 4000, max(0, size - 4000)).decode(errors="replace")
    raise CannotRun(f"did not become ready: {last_line(said)}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Politely, then its whole session: some peers leave children behind."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_S)


def raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "it printed nothing"
