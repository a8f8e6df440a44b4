"""The works of the benchmark that compare servers run by run: what is sent, how, to what model."""

import asyncio
import http.client
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loadtests import bridge, generators, models, wires
from loadtests.figures import Figures
from loadtests.servers import ROOT, Running
from loadtests.wires import Request, Wire

CONNECTIONS = (1, 16, 64, 256, 512)


@dataclass(frozen=True, slots=True)
class Conditions:
    """seconds: of each run. cores, server_cores: as taskset spells them. idle: connections held."""

    seconds: float
    cores: str = "1"
    server_cores: str = "0"
    idle: int = 10_000


@dataclass(frozen=True, slots=True)
class Scenario:
    """run measures a running server once. spec: the model, loadtests/models.py."""

    title: str
    spec: str
    wire: Wire
    run: Callable[["Scenario", Running, Conditions], Figures]
    connections: int = 16
    streams: int = 1
    workers: int = 1

    @property
    def work(self) -> str:
        return self.spec.partition(":")[0]

    def request(self, running: Running) -> Request:
        return running.peer.request(self.wire, wires.sample(self.work))


class WrongAnswer(Exception):
    """A server answered, but not the model's answer: its speed means nothing."""


def closed(each: Scenario, running: Running, under: Conditions) -> Figures:
    return generators.closed(
        each.wire,
        each.request(running),
        running.port(each.wire),
        each.connections,
        under.seconds,
        under.cores,
        each.streams,
    )


def bridged(each: Scenario, running: Running, under: Conditions) -> Figures:
    """gRPC through Envoy and its bridge to a server of ours; a peer's own gRPC port to a peer."""
    if not running.peer.is_ours:
        return closed(each, running, under)
    with bridge.started(running, under.server_cores) as port:
        return generators.closed(
            each.wire, each.request(running), port, each.connections, under.seconds, under.cores
        )


def memory(each: Scenario, running: Running, under: Conditions) -> Figures:
    """PSS after some requests over both protocols."""
    for wire in sorted({Wire.V2, Wire.GRPC} & running.peer.wires):
        request = running.peer.request(wire, wires.sample(each.work))
        generators.own(wire, request, running.port(wire), 4, min(1.0, under.seconds), under.cores)
    return Figures(0.0, {}, extra={"pss_mb": round(running.pss_mb(), 1)})


def idle(each: Scenario, running: Running, under: Conditions) -> Figures:
    """Throughput of the active connections beside idle ones; what an idle one costs."""
    alone = closed(each, running, under)
    before_mb = running.pss_mb()
    command = [sys.executable, "-m", "loadtests.idle", str(running.http), str(under.idle)]
    holder = subprocess.Popen(
        [*command, running.peer.ready_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert holder.stdout is not None
    opened = int(holder.stdout.readline() or 0)
    kib_each = (running.pss_mb() - before_mb) * 1e6 / 1024 / max(1, opened)
    beside = closed(each, running, under)
    kept = int(holder.communicate()[0] or 0)
    extra = {
        "rate_without_idle_per_s": round(alone.rate_per_s, 1),
        "idle_kib_each": round(kib_each, 2),
    }
    lost = beside.lost + under.idle - min(opened, kept)
    return Figures(beside.rate_per_s, beside.latency_ms, lost, extra)


def low_load(each: Scenario, running: Running, under: Conditions) -> Figures:
    """20 requests per second, open loop: what the server adds when nothing waits."""
    request, port = each.request(running), running.port(each.wire)
    rate = max(20.0, 5 / under.seconds)
    raw = generators.own(each.wire, request, port, 4, under.seconds, under.cores, rate_per_s=rate)
    return raw.figures()


def tiny() -> list[Scenario]:
    return [
        Scenario("tiny V2 JSON, 16 connections", "tiny", Wire.V2, closed),
        Scenario("tiny V2 JSON, 1 connection", "tiny", Wire.V2, closed, connections=1),
        Scenario("tiny V1 JSON, 16 connections", "tiny", Wire.V1, closed),
        Scenario("tiny V2 binary, 16 connections", "tiny", Wire.BINARY, closed),
        Scenario("tiny gRPC, 16 streams", "tiny", Wire.GRPC, closed),
        Scenario("tiny gRPC through Envoy, 16 streams", "tiny", Wire.GRPC, bridged),
        Scenario("tiny gRPC, 16 streams on 1 connection", "tiny", Wire.GRPC, closed, 1, streams=16),
    ]


def image() -> list[Scenario]:
    return [
        Scenario(f"image {wire}, {n} connections", "image", wire, closed, n)
        for wire, n in [(Wire.V2, 4), (Wire.BINARY, 4), (Wire.GRPC, 4)]
    ]


def scaling() -> list[Scenario]:
    return [Scenario(f"scaling, {n} connections", "tiny", Wire.V2, closed, n) for n in CONNECTIONS]


def idling() -> list[Scenario]:
    return [Scenario("beside idle connections", "tiny", Wire.V2, idle)]


def real(files: dict[str, Path]) -> list[Scenario]:
    """files: of the small network, by framework."""
    made = []
    for kind, file in sorted(files.items()):
        spec = f"{kind}:{file}"
        made += [
            Scenario(f"{kind} network, {n} connections", spec, Wire.V2, closed, n) for n in (1, 32)
        ]
        made.append(Scenario(f"{kind} network, gRPC 32 streams", spec, Wire.GRPC, closed, 32))
    return made


def memories(files: dict[str, Path]) -> list[Scenario]:
    spec = f"onnx:{files['onnx']}" if "onnx" in files else "tiny"
    return [
        Scenario("memory, 1 worker", spec, Wire.V2, memory),
        Scenario("memory, 2 workers", spec, Wire.V2, memory, workers=2),
    ]


def latency() -> list[Scenario]:
    return [Scenario("cost 5 + 0.2 rows ms, low load", "batch:5:0.2", Wire.V2, low_load)]


def check(each: Scenario, running: Running) -> None:
    """One request; raises WrongAnswer unless its answer is the model's."""
    request = each.request(running)
    expected = models.make(each.spec)(wires.sample(each.work))
    if each.wire is Wire.GRPC:
        found = asyncio.run(_call(running.grpc, request))
        if not found.endswith(expected.tobytes()) and each.work in ("tiny", "image", "batch"):
            raise WrongAnswer(f"gRPC answered {found[:200]!r}")
        return
    connection = http.client.HTTPConnection("127.0.0.1", running.http, timeout=10)
    try:
        connection.request("POST", request.path, request.body, dict(request.headers))
        answer = connection.getresponse()
        body, head = answer.read(), answer.getheader("inference-header-content-length")
    finally:
        connection.close()
    if answer.status != 200 or not wires.is_close(numbers(body, head), expected):
        raise WrongAnswer(f"{each.wire} answered {answer.status} {body[:200]!r}")


def numbers(body: bytes, head: str | None) -> object:
    """The numbers in an answer of any of the peers' forms."""
    if head is not None:
        return body[int(head) :]
    parsed = json.loads(body)
    if not isinstance(parsed, dict):
        return parsed
    if "outputs" in parsed:
        return parsed["outputs"][0]["data"]
    return parsed["predictions"] if "predictions" in parsed else parsed.get("y", [])


async def _call(port: int, request: Request) -> bytes:
    import grpc

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer: bytes = await channel.unary_unary(wires.RPC)(request.body, timeout=10)
    return answer


def warm(each: Scenario, running: Running, under: Conditions) -> None:
    generators.own(
        each.wire,
        each.request(running),
        running.port(each.wire),
        min(each.connections * each.streams, 16),
        min(1.0, under.seconds),
        under.cores,
    )
