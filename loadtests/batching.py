"""Measures the goodput of batching: models that cost a + b * rows ms, live, at rising load.

The same arrivals meet each fixed (size, delay) of a sweep on our server, then, in alternating
rounds, headrace with no knobs and the policies that won somewhere in the sweep, then the peers as
they come. One run serves every limit. loadtests/goodput.py says what it all means.
"""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from loadtests import generators, goodput, servers, wires
from loadtests.arrivals import Arrivals
from loadtests.goodput import FIXED, SWEEP, Run
from loadtests.progress import Progress, say
from loadtests.recording import Results
from loadtests.scenarios import Conditions
from loadtests.servers import HEADRACE, CannotRun, Peer, Running
from loadtests.wires import Wire

TITLE = "batching goodput"
LIMITS_MS = (30.0, 60.0, 120.0)
PROCESSES = (Arrivals.POISSON, Arrivals.BURSTY)
FULL_ROWS = 32  # of the full batches that loads are counted in
CONNECTIONS = 256
AT_ONCE = 3  # policies of the sweep that are tried beside each other: their models sleep
OVERHEAD_S = 1.2
FINALISTS = 2


@dataclass(frozen=True, slots=True)
class Cost:
    a_ms: float
    b_ms: float

    @property
    def spec(self) -> str:
        return f"batch:{self.a_ms:g}:{self.b_ms:g}"

    @property
    def full_per_s(self) -> float:
        return FULL_ROWS / (self.a_ms + self.b_ms * FULL_ROWS) * 1e3

    def __str__(self) -> str:
        return f"{self.a_ms:g} + {self.b_ms:g} rows ms"


@dataclass(frozen=True, slots=True)
class Plan:
    """loads: of what full batches could answer."""

    costs: tuple[Cost, ...] = (Cost(5, 0.2), Cost(10, 0.5), Cost(4, 1))
    loads: tuple[float, ...] = (0.4, 0.9)
    sizes: tuple[int, ...] = (8, 32, 128)
    delays_ms: tuple[float, ...] = (0.0, 2.0, 10.0)
    rounds: int = 3
    processes: tuple[Arrivals, ...] = PROCESSES

    def fixed(self) -> list[Peer]:
        return [
            HEADRACE.variant(
                f"{FIXED}{size} rows, {delay:g} ms",
                "--max_batch_size",
                str(size),
                "--max_batch_delay_ms",
                f"{delay:g}",
            )
            for size in self.sizes
            for delay in self.delays_ms
        ]

    def expected_s(self, peers: Sequence[Peer], seconds: float) -> float:
        runs_of_one = len(self.processes) * len(self.loads) * (seconds + OVERHEAD_S)
        swept = -(-len(self.fixed()) // AT_ONCE)
        runs = swept + self.rounds * (1 + FINALISTS) + 1.5 * len(peers)
        return len(self.costs) * runs * runs_of_one


TINY = Plan((Cost(5, 0.2),), (0.05,), (8,), (2.0,), 1, PROCESSES[:1])


def measure(
    plan: Plan, peers: Sequence[Peer], under: Conditions, results: Results, progress: Progress
) -> None:
    """peers: the others, with their defaults; ours comes of itself."""
    results.goodput.clear()
    results.forget(TITLE)
    for cost in plan.costs:
        fixed = plan.fixed()
        with _started(fixed, cost, under, results, progress) as running:
            for start in range(0, len(running), AT_ONCE):
                _runs(plan, cost, running[start : start + AT_ONCE], SWEEP, under, results, progress)
        best = finalists(results.goodput, str(cost))
        again = [HEADRACE, *(each for each in fixed if each.name in best)]
        with _started(again, cost, under, results, progress) as running:
            for number in range(1, plan.rounds + 1):
                for each in running:
                    _runs(plan, cost, [each], number, under, results, progress)
        for peer in peers:
            with _started([peer], cost, under, results, progress) as running:
                _runs(plan, cost, running, 1, under, results, progress)


def finalists(runs: Sequence[Run], cost: str) -> list[str]:
    """The policies that won a case of this cost in the sweep, those of most cases first."""
    won = [
        goodput.swept_best(runs_of_cost, case)
        for runs_of_cost in [[each for each in runs if each.cost == cost]]
        for case in goodput.cases(runs_of_cost)
    ]
    names = [name for name in won if name is not None]
    return sorted(dict.fromkeys(names), key=names.count, reverse=True)[:FINALISTS]


@contextlib.contextmanager
def _started(
    peers: Sequence[Peer], cost: Cost, under: Conditions, results: Results, progress: Progress
) -> Iterator[list[Running]]:
    with contextlib.ExitStack() as stack:
        running = []
        for peer in peers:
            try:
                server = servers.started(peer, cost.spec, under.server_cores)
                running.append(stack.enter_context(server))
            except CannotRun as error:
                results.note(TITLE, peer.name, str(error))
                say(f"{TITLE}: {peer.name}: {error}")
        yield running


def _runs(
    plan: Plan,
    cost: Cost,
    running: Sequence[Running],
    number: int,
    under: Conditions,
    results: Results,
    progress: Progress,
) -> None:
    """Every arrival process and load on these servers, side by side."""

    def one(server: Running, arrivals: Arrivals, load: float) -> generators.Raw:
        return generators.own(
            Wire.V2,
            server.peer.request(Wire.V2, wires.sample("batch")),
            server.http,
            CONNECTIONS,
            under.seconds,
            under.cores,
            arrivals,
            load * cost.full_per_s,
            seed=number + 1,
            give_up_s=max(LIMITS_MS) / 1e3,
        )

    names = ", ".join(server.peer.name for server in running)
    with ThreadPoolExecutor(max(1, len(running))) as pool:
        for arrivals in plan.processes:
            for load in plan.loads:
                progress.step(
                    f"{TITLE}, {cost}, {arrivals}, load {load:g}: {names}",
                    under.seconds + OVERHEAD_S,
                )
                asked = [pool.submit(one, server, arrivals, load) for server in running]
                for server, found in zip(running, asked, strict=True):
                    try:
                        raw = found.result()
                    except (RuntimeError, OSError) as error:
                        results.note(TITLE, server.peer.name, f"failed: {error}")
                        continue
                    results.goodput.append(
                        Run(str(cost), str(arrivals), load, server.peer.name, number, within(raw))
                    )


def within(raw: generators.Raw) -> dict[str, float]:
    """Good answers per second, by limit."""
    return {
        f"{limit_ms:g} ms": round(
            sum(each <= limit_ms / 1e3 for each in raw.latencies_s) / raw.seconds, 1
        )
        for limit_ms in LIMITS_MS
    }
