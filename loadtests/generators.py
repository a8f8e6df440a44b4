"""Runs a load against a port and reads the generator's figures: wrk, h2load, or our own client."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests import figures, machine
from loadtests.arrivals import Arrivals
from loadtests.figures import Figures
from loadtests.wires import RPC, Request, Wire

ROOT = Path(__file__).parents[1]
GRACE_S = 60.0  # over the asked seconds, before a generator is given up
GRPC_PREFIX_BYTES = 5  # before a message: whether it is compressed, its length
H2LOAD_WARM_S = 1


@dataclass(frozen=True, slots=True)
class Raw:
    """Every latency of a run, for figures that depend on a limit.

    in_time: the good answers that came within seconds. Those of a queue that drains afterwards have
    their latencies, and make no rate.
    """

    latencies_s: Sequence[float]
    in_time: int
    lost: int
    seconds: float

    def figures(self) -> Figures:
        found = figures.histogram(self.latencies_s)
        return Figures(self.in_time / self.seconds, found.latency_ms(), self.lost)


def closed(
    wire: Wire,
    request: Request,
    port: int,
    connections: int,
    seconds: float,
    core: str,
    streams: int = 1,
) -> Figures:
    """As fast as connections (times streams, over gRPC) go. core: taskset's list.

    wrk and h2load count whole seconds: our own client stands in for shorter runs too.
    """
    if seconds >= 1 and wire is Wire.GRPC and shutil.which("h2load"):
        return _h2load(request, port, connections, streams, seconds, core)
    if seconds >= 1 and wire is not Wire.GRPC and shutil.which("wrk"):
        return _wrk(request, port, connections, seconds, core)
    return own(wire, request, port, connections * streams, seconds, core).figures()


def own(
    wire: Wire,
    request: Request,
    port: int,
    connections: int,
    seconds: float,
    core: str,
    arrivals: Arrivals = Arrivals.CONSTANT,
    rate_per_s: float = 0,
    seed: int = 1,
    give_up_s: float = 0,
) -> Raw:
    """Our own client; rate_per_s 0: closed loop. give_up_s: how long a request waits for a free
    connection; 0: for ever."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(request.body if wire is Wire.GRPC else request.http())
        file.flush()
        command = [sys.executable, "-m", "loadtests.open_loop", "--port", str(port)]
        command += ["--request", file.name, "--connections", str(connections)]
        command += ["--seconds", str(seconds), "--arrivals", arrivals, "--rate", str(rate_per_s)]
        command += ["--give-up", str(give_up_s)]
        command += ["--seed", str(seed), *(["--grpc"] if wire is Wire.GRPC else [])]
        return Raw(**json.loads(_run(command, seconds, core)))


def _wrk(request: Request, port: int, connections: int, seconds: float, core: str) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder, "body")
        body.write_bytes(request.body)
        lines = ['wrk.method = "POST"', f'wrk.body = io.open("{body}", "rb"):read("*a")']
        lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in request.headers]
        script = Path(folder, "load.lua")
        script.write_text("\n".join([*lines, LUA_DONE]))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        command += ["-s", str(script), f"http://127.0.0.1:{port}{request.path}"]
        text = _run(command, seconds, core)
    found = json.loads(text.rpartition("FIGURES ")[2])
    good = found["requests"] - found["status"]
    lost = found["status"] + found["socket"]
    latency = {figures.name(each): found[f"p{each:g}"] for each in figures.PERCENTILES}
    return Figures(good / found["seconds"], latency, lost)


LUA_DONE = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('FIGURES {"requests": %d, "seconds": %f, "status": %d, "socket": %d, ' ..
    '"p50": %f, "p90": %f, "p99": %f, "p99.9": %f}', summary.requests, summary.duration / 1e6,
    e.status, e.connect + e.read + e.write + e.timeout, latency:percentile(50) / 1e3,
    latency:percentile(90) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3))
end
"""


def _h2load(
    request: Request, port: int, connections: int, streams: int, seconds: float, core: str
) -> Figures:
    """h2load sees HTTP statuses, and a failed call has 200 too, but no message. So one answer is
    taken first, and h2load must see as many bytes for each. Its warm-up brings bytes and counts no
    requests, so failures of a share stay unseen that is below the warm-up's of the whole."""
    frame_bytes = len(asyncio.run(call(port, request))) + GRPC_PREFIX_BYTES
    with tempfile.TemporaryDirectory() as folder:
        frame, log = Path(folder, "frame"), Path(folder, "log")
        frame.write_bytes(request.frame)
        command = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", "-d", str(frame)]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        command += [f"-D{max(1, round(seconds))}", f"--warm-up-time={H2LOAD_WARM_S}"]
        command += [f"--log-file={log}", f"http://127.0.0.1:{port}{request.path}"]
        text = _run(command, seconds, core)
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    good = figures.histogram(int(row[2]) / 1e6 for row in rows if row[1] == "200")
    return Figures(h2load_rate(text, frame_bytes), good.latency_ms(), h2load_lost(text))


def h2load_rate(text: str, frame_bytes: int) -> float:
    """Answers per second, of what h2load printed. frame_bytes: of one answer, its length before it.

    Raises RuntimeError if the answers brought less: calls failed.
    """
    requests = int(_group(r"(\d+) succeeded", text))
    data_bytes = int(_group(r"\((\d+)\) data", text))
    if data_bytes < requests * frame_bytes:
        raise RuntimeError(
            f"{requests:,} answers of {frame_bytes} bytes brought {data_bytes:,}: calls failed"
        )
    return float(_group(r"finished in [\d.]+\w+, ([\d.]+) req/s", text))


def h2load_lost(text: str) -> int:
    return sum(int(each) for each in re.findall(r"(\d+) (?:failed|errored|timeout)", text)[:3])


def _group(pattern: str, text: str) -> str:
    """The pattern's group. Raises RuntimeError: another h2load may print otherwise."""
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"h2load printed no {pattern}: {text[-400:]}")
    return match[1]


async def call(port: int, request: Request) -> bytes:
    """The answer to one unary call, as protobuf. Raises RuntimeError with another status."""
    import grpc

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            answer: bytes = await channel.unary_unary(RPC)(request.body, timeout=10)
        except grpc.aio.AioRpcError as error:
            raise RuntimeError(f"gRPC answered {error.code().name}: {error.details()}") from error
    return answer


def _run(command: list[str], seconds: float, core: str) -> str:
    """Raises RuntimeError with what the generator said if it failed or hung."""
    whole = [*machine.pinned(core), *command]
    try:
        done = subprocess.run(
            whole, capture_output=True, text=True, timeout=seconds + GRACE_S, cwd=ROOT
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{command[0]} did not end in {seconds + GRACE_S:g} s") from error
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} failed: {(done.stderr or done.stdout)[-400:]}")
    return done.stdout
