"""Goodput of batching: models that cost a + b * rows ms, two arrival processes, rising load.

Goodput is the answers per second within a latency limit, counted from the intended send time. The
same arrivals meet headrace with no knobs, headrace with each fixed (size, delay) of a sweep, and
the peers as they come. One run serves every limit.
"""

import contextlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtests import generators, servers, wires
from loadtests.arrivals import Arrivals
from loadtests.rounds import say
from loadtests.servers import CannotRun, Peer
from loadtests.wires import Wire

LIMITS_MS = (30.0, 60.0, 120.0)
SIZES = (4, 8, 16, 32)
DELAYS_MS = (0.0, 2.0, 10.0)
LOADS = (0.3, 0.6, 0.9, 1.1)  # of what full batches of 32 could answer
SERVED_SIZE = 32
CONNECTIONS = 256


@dataclass(frozen=True, slots=True)
class Cost:
    a_ms: float
    b_ms: float

    @property
    def spec(self) -> str:
        return f"batch:{self.a_ms:g}:{self.b_ms:g}"

    @property
    def full_per_s(self) -> float:
        return SERVED_SIZE / (self.a_ms + self.b_ms * SERVED_SIZE) * 1e3

    def __str__(self) -> str:
        return f"{self.a_ms:g} + {self.b_ms:g} rows ms"


COSTS = (Cost(5, 0.2), Cost(10, 0.5), Cost(4, 1))


@dataclass(frozen=True, slots=True)
class Policy:
    """A server and its flags. is_swept: one of the fixed policies that the sweep tries."""

    name: str
    peer: Peer
    flags: tuple[str, ...] = ()
    is_swept: bool = False


@dataclass(slots=True)
class Study:
    """goodput: cost, arrivals, limit (as printed) → policy → goodput at each of `loads`."""

    loads: Sequence[float]
    goodput: dict[tuple[str, str, str], dict[str, list[float]]] = field(default_factory=dict)
    swept: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        cases = [
            {"cost": cost, "arrivals": arrivals, "limit": limit, "goodput_per_s": found}
            for (cost, arrivals, limit), found in self.goodput.items()
        ]
        return {"loads": self.loads, "swept": self.swept, "notes": self.notes, "cases": cases}


def policies(peers: Sequence[Peer], sizes: Sequence[int], delays: Sequence[float]) -> list[Policy]:
    made = [Policy(peer.name, peer) for peer in peers]
    ours = next((peer for peer in peers if peer.name == "headrace"), None)
    if ours is not None:
        made += [
            Policy(
                f"fixed {size} rows, {delay:g} ms",
                ours,
                ("--max_batch_size", str(size), "--max_batch_delay_ms", f"{delay:g}"),
                is_swept=True,
            )
            for size in sizes
            for delay in delays
        ]
    return made


def study(
    tried: Sequence[Policy],
    seconds: float,
    cores: tuple[str, str],
    costs: Sequence[Cost] = COSTS,
    loads: Sequence[float] = LOADS,
) -> Study:
    """cores: of server and load."""
    found = Study(loads, swept=[each.name for each in tried if each.is_swept])
    for cost in costs:
        for policy in tried:
            if policy.name in found.notes:
                continue
            say(f"batching {cost}: {policy.name}")
            with contextlib.ExitStack() as stack:
                try:
                    server = stack.enter_context(
                        servers.started(policy.peer, cost.spec, cores[0], flags=policy.flags)
                    )
                    request = policy.peer.request(Wire.V2, wires.sample("batch"))
                    generators.own(Wire.V2, request, server.http, 32, min(1.0, seconds), cores[1])
                    for arrivals in (Arrivals.POISSON, Arrivals.BURSTY):
                        for load in loads:
                            raw = generators.own(
                                Wire.V2,
                                request,
                                server.http,
                                CONNECTIONS,
                                seconds,
                                cores[1],
                                arrivals,
                                load * cost.full_per_s,
                            )
                            _record(found, cost, arrivals, policy, raw)
                except (CannotRun, RuntimeError) as error:
                    found.notes[policy.name] = str(error)
                    say(f"batching: {policy.name}: {error}")
    return found


def _record(
    found: Study, cost: Cost, arrivals: Arrivals, policy: Policy, raw: generators.Raw
) -> None:
    for limit_ms in LIMITS_MS:
        case = (str(cost), str(arrivals), f"{limit_ms:g} ms")
        good = sum(each <= limit_ms / 1e3 for each in raw.latencies_s) / raw.seconds
        found.goodput.setdefault(case, {}).setdefault(policy.name, []).append(round(good, 1))


def best_fixed(by_policy: dict[str, list[float]], swept: Sequence[str]) -> str | None:
    """The swept policy with the highest goodput over all loads; what a tuner would have chosen."""
    known = [name for name in swept if name in by_policy]
    return max(known, key=lambda name: statistics.fmean(by_policy[name]), default=None)
