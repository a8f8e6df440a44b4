"""Starts the real server for tests: in this process, or as one, on free loopback ports."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from headrace.server.execution import Executor, Mode
from headrace.server.metrics import InferenceMetrics
from headrace.server.predictor import Predictor
from headrace.server.repository import Loader, Repository, ServedModel
from headrace.server.servable import TensorServable
from headrace.server.serving import Server
from headrace.server.settings import Settings

MODULE = ("-m", "headrace.server")
DEFAULTS = (
    *("--host", "127.0.0.1", "--http_port", "0", "--grpc_port", "0"),
    *("--drain_delay", "0", "--grace_period", "10"),
)
START_S, STOP_S = 60.0, 30.0


def settings(**given: Any) -> Settings:
    """Settings of a test server: loopback, free ports, no drain delay."""
    merged: dict[str, Any] = {
        "host": "127.0.0.1",
        "http_port": 0,
        "grpc_port": 0,
        "drain_delay": 0.0,
        "grace_period": 5.0,
        **given,
    }
    return Settings(**merged)


def served(name: str, predictor: Predictor, mode: Mode = Mode.INLINE) -> ServedModel:
    """predictor as a served model, one instance."""
    return ServedModel(name, TensorServable(Executor(name, [predictor], mode=mode), "test"))


@asynccontextmanager
async def running(
    *models: ServedModel, loader: Loader | None = None, **given: Any
) -> AsyncIterator[Server]:
    """A started server of models, in this process; stopped at the end. given: Settings."""
    repository = Repository(loader)
    for model in models:
        repository.add(model)
    server = Server(settings(**given), repository, InferenceMetrics(CollectorRegistry()))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A running `python -m headrace.server`. http, grpc: its ports. log: what it has printed."""

    process: subprocess.Popen[bytes]
    http: int
    grpc: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"


@contextmanager
def server_process(
    *flags: str, env: Mapping[str, str] | None = None, program: Sequence[str] = MODULE
) -> Iterator[ServerProcess]:
    """A server process on free loopback ports, from the moment they are open; ended at the end.

    flags: win over the test defaults. program: what to run instead of `-m headrace.server`.
    """
    with tempfile.TemporaryDirectory() as folder:
        ready, log = Path(folder, "ready.json"), Path(folder, "log")
        command = [sys.executable, *program, *DEFAULTS, "--ready_file", str(ready), *flags]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, env={**os.environ, **(env or {})}
            )
        try:
            told = _wait_until_ready(process, ready, log)
            yield ServerProcess(process, told["http"], told["grpc"], log)
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def _wait_until_ready(process: subprocess.Popen[bytes], ready: Path, log: Path) -> dict[str, int]:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and process.poll() is None:
        if ready.exists():
            told: dict[str, int] = json.loads(ready.read_text())
            return told
        time.sleep(0.02)  # a file is the one sign a process gives; nothing is assumed of its time
    raise RuntimeError(f"{process.args!r} did not start:\n{log.read_text()}")
