"""The works of the benchmark that compare servers run by run: what is sent, how, to what model."""

import asyncio
import http.client
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests import bridge, generators, machine, models, wires
from loadtests.figures import Figures
from loadtests.servers import ROOT, Peer, Running
from loadtests.wires import Request, Wire

CONNECTIONS = (1, 16, 64, 256, 512)
RATES_PER_S = (500, 1_000, 2_000, 5_000, 10_000, 20_000)
LOW_RATE_PER_S = 20.0
OURS = ("headrace", "headrace_model")
KEPT = 0.95  # of the offered rate: below it a server is saturated


@dataclass(frozen=True, slots=True)
class Conditions:
    """seconds: of each run. cores, server_cores: as taskset spells them. idle: connections held.
    is_tiny: to show that a work works, in a second or two."""

    seconds: float
    cores: str = "1"
    server_cores: str = "0"
    idle: int = 10_000
    is_tiny: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """run measures a running server once. spec: the model, loadtests/models.py.

    ours: which of our servers. only: peers it is held against, where not all. rounds: at most.
    rate_per_s: offered, of an open loop. overhead_s: of a run, over Conditions.seconds.
    """

    title: str
    spec: str
    wire: Wire
    run: Callable[["Scenario", Running, Conditions], Figures]
    connections: int = 16
    streams: int = 1
    workers: int = 1
    ours: tuple[str, ...] = OURS
    only: tuple[str, ...] | None = None
    rounds: int = 99
    rate_per_s: float = 0.0
    overhead_s: float = 0.6

    @property
    def work(self) -> str:
        return self.spec.partition(":")[0]

    def has(self, peer: Peer) -> bool:
        if peer.is_ours:
            return peer.name in self.ours
        if peer.variant_of:  # a peer with its batching on, where batching is what is measured
            return self.work in ("onnx", "torch") and self.only is None
        return self.only is None or peer.name in self.only

    def request(self, running: Running) -> Request:
        return running.peer.request(self.wire, wires.sample(self.work))

    def expected_s(self, seconds: float) -> float:
        """What one run takes, for the time left."""
        warm_s = generators.H2LOAD_WARM_S if self.wire is Wire.GRPC else 0
        return self.overhead_s + seconds + warm_s


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
    """gRPC through Envoy, on the server's core, and its bridge to a server of ours.

    A peer answers on its own gRPC port.
    """
    return _through_envoy(each, running, under, under.server_cores)


def bridged_beside_load(each: Scenario, running: Running, under: Conditions) -> Figures:
    """As a gateway on another machine: what is measured is the server behind it."""
    return _through_envoy(each, running, under, under.cores)


def _through_envoy(
    each: Scenario, running: Running, under: Conditions, envoy_cores: str
) -> Figures:
    if not running.peer.is_ours:
        return closed(each, running, under)
    with bridge.started(running, envoy_cores) as port:
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
        [*machine.pinned(under.cores), *command, running.peer.ready_path],
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
        "rate_of_alone": round(beside.rate_per_s / max(1.0, alone.rate_per_s), 3),
        "idle_kib_each": round(kib_each, 2),
    }
    lost = beside.lost + under.idle - min(opened, kept)
    return Figures(beside.rate_per_s, beside.latency_ms, lost, extra)


def open_loop(each: Scenario, running: Running, under: Conditions) -> Figures:
    """Requests at a constant rate, whatever the server does: a queue shows in the latency."""
    rate = max(each.rate_per_s, 5 / under.seconds)
    return generators.own(
        each.wire,
        each.request(running),
        running.port(each.wire),
        each.connections,
        under.seconds,
        under.cores,
        rate_per_s=rate,
    ).figures()


def tiny() -> list[Scenario]:
    calibrated = ("raw", *OURS)
    own = OURS[:1]
    return [
        Scenario("tiny V2 JSON, 16 connections", "tiny", Wire.V2, closed, ours=calibrated),
        Scenario("tiny V2 JSON, 1 connection", "tiny", Wire.V2, closed, 1, ours=calibrated),
        Scenario("tiny V1 JSON, 16 connections", "tiny", Wire.V1, closed),
        Scenario("tiny V2 binary, 16 connections", "tiny", Wire.BINARY, closed, ours=own, rounds=3),
        Scenario("tiny gRPC, 16 connections", "tiny", Wire.GRPC, closed),
        Scenario(
            "tiny gRPC, 16 streams on 1 connection", "tiny", Wire.GRPC, closed, 1, 16, ours=own
        ),
        *(
            Scenario(title, "tiny", Wire.GRPC, run, ours=own, only=("kserve", "triton"))
            for title, run in (
                ("tiny gRPC through Envoy", bridged),
                ("tiny gRPC through Envoy on the load's core", bridged_beside_load),
            )
        ),
    ]


def image() -> list[Scenario]:
    return [
        Scenario(f"image {wire}, 4 connections", "image", wire, closed, 4, ours=OURS[:1])
        for wire in (Wire.V2, Wire.BINARY, Wire.GRPC)
    ]


def scaling() -> list[Scenario]:
    """Ours alone: the goal is about its own curve."""
    return [
        Scenario(f"scaling, {n} connections", "tiny", Wire.V2, closed, n, ours=OURS[:1], only=())
        for n in CONNECTIONS
    ]


def idling() -> list[Scenario]:
    title, only = "beside 10,000 idle connections", ("kserve",)
    made = Scenario(title, "tiny", Wire.V2, idle, ours=OURS[:1], only=only, rounds=3)
    return [replace(made, overhead_s=10)]


def ladder_title(rate_per_s: float) -> str:
    return f"open loop, {rate_per_s:,}/s"


def latency() -> list[Scenario]:
    """A ladder of constant rates; a server is off it where it cannot keep up."""
    return [
        Scenario(
            ladder_title(rate),
            "tiny",
            Wire.V2,
            open_loop,
            64,
            rate_per_s=rate,
            rounds=1,
            ours=("raw", "headrace"),
        )
        for rate in RATES_PER_S
    ]


def low_load() -> list[Scenario]:
    """What batching adds where nothing waits: on and off, beside the model's own 5.2 ms."""
    title, ours = "batching at low load, 5 + 0.2 rows ms", ("headrace", "headrace_unbatched")
    made = Scenario(title, "batch:5:0.2", Wire.V2, open_loop, 4, rate_per_s=LOW_RATE_PER_S)
    return [replace(made, ours=ours, only=())]


def real(files: dict[str, Path]) -> list[Scenario]:
    """files: of the small network, by framework. One connection: batching on and off only."""
    made = []
    ours = ("headrace", "headrace_unbatched")
    for kind, file in sorted(files.items()):
        spec = f"{kind}:{file}"
        made += [
            Scenario(
                f"{kind} network, {what}", spec, wire, closed, n, ours=ours, only=only, rounds=3
            )
            for what, wire, n, only in (
                ("1 connection", Wire.V2, 1, ()),
                ("32 connections", Wire.V2, 32, None),
                ("gRPC, 32 connections", Wire.GRPC, 32, None),
            )
        ]
    return made


def memories(files: dict[str, Path]) -> list[Scenario]:
    spec = f"onnx:{files['onnx']}"
    made = Scenario("memory, 1 worker", spec, Wire.V2, memory, ours=OURS[:1], rounds=2)
    return [made, replace(made, title="memory, 2 workers", workers=2, only=("triton",))]


def check(each: Scenario, running: Running) -> None:
    """One request; raises WrongAnswer unless its answer is the model's."""
    request = each.request(running)
    expected = models.make(each.spec)(wires.sample(each.work))
    if each.wire is Wire.GRPC:
        found = asyncio.run(generators.call(running.grpc, request))
        if not wires.is_close(found[-expected.nbytes :], expected):  # raw contents come last
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


def warm(each: Scenario, running: Running, under: Conditions) -> None:
    """A closed loop, or the low rate itself: a batcher learns from what it sees."""
    if 0 < each.rate_per_s <= LOW_RATE_PER_S:
        open_loop(each, running, under)
        return
    generators.own(
        each.wire,
        each.request(running),
        running.port(each.wire),
        min(each.connections * each.streams, 16),
        min(1.0, under.seconds),
        under.cores,
    )
