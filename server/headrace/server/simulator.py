"""What batching would do: the decisions of batching.py played in simulated time.

    python -m headrace.server.simulator --base_ms 5 --per_row_ms 0.5 --rate 400 --limit_ms 50

Requests arrive, batches cost a + b · rows, instances are busy meanwhile; nothing sleeps. The same
`decide` and the same latency model as in the server, so its figures are a forecast.
"""

import argparse
import heapq
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf

from headrace.server.batch_queue import BatchQueue, Entry
from headrace.server.batching import (
    BatchPolicy,
    Company,
    Drop,
    Send,
    decide,
    dropped,
    sent,
    set_limits,
)
from headrace.server.latency_model import LatencyModels

Cost = Callable[[int], float]  # seconds of a batch of rows


@dataclass(frozen=True, slots=True)
class Load:
    """rate: requests per second. cv: of the times between them; 1 is Poisson, above is bursty."""

    rate: float
    seconds: float
    cv: float = 1.0
    rows: int = 1
    seed: int = 0

    def arrivals(self) -> Iterator[float]:
        """Times of arrival: gamma distributed gaps of the given mean and variation."""
        draw = random.Random(self.seed)  # no secret
        shape = 1.0 / (self.cv * self.cv)
        scale = 1.0 / (self.rate * shape)
        now_s = 0.0
        while (now_s := now_s + draw.gammavariate(shape, scale)) < self.seconds:
            yield now_s


@dataclass(slots=True)
class Outcome:
    """latencies_s: of those answered. batches: how many of which size."""

    seconds: float
    latencies_s: list[float] = field(default_factory=list)
    dropped: int = 0
    batches: dict[int, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)

    def quantile(self, share: float) -> float:
        """Seconds within which that share of the answers came; 0 without any."""
        found = sorted(self.latencies_s)
        return found[min(len(found) - 1, int(share * len(found)))] if found else 0.0

    def goodput(self, limit_s: float) -> float:
        """Answers per second that came within limit_s."""
        return sum(each <= limit_s for each in self.latencies_s) / self.seconds


def linear(base_s: float, per_row_s: float) -> Cost:
    """a + b · rows."""
    return lambda rows: base_s + per_row_s * rows


def simulate(
    load: Load, cost: Cost, policy: BatchPolicy, instances: int = 1, known: Sequence[int] = (1, 2)
) -> Outcome:
    """known: batch sizes whose cost was measured before, as a warm-up does."""
    outcome = Outcome(load.seconds)
    queue = BatchQueue(policy.ageing_s)
    models, company = LatencyModels(), Company()
    latency = models.of("m")
    for rows in known:
        if rows <= policy.max_batch_size:
            latency.observe(rows, cost(rows))
    arrivals = load.arrivals()
    arrives_s = next(arrivals, inf)
    running: list[tuple[float, int, int, float, list[Entry]]] = []  # end, order, rows, start
    order = count()  # of batches that end at the same time
    free = instances
    wakes_s = inf
    while True:
        now_s = min(arrives_s, wakes_s, running[0][0] if running else inf)
        if now_s == inf:
            return outcome
        while running and running[0][0] <= now_s:
            end_s, _, rows, start_s, entries = heapq.heappop(running)
            free += 1
            latency.observe(rows, end_s - start_s)
            outcome.latencies_s += [end_s - entry.arrived_s for entry in entries]
        if arrives_s <= now_s:
            entry = Entry(None, load.rows, 0, now_s, "m" if policy.max_batch_size > 1 else None)
            set_limits(entry, policy, latency)
            queue.add(entry)
            arrives_s = next(arrivals, inf)
        while True:
            step = decide(queue, policy, models, company, free, now_s)
            if isinstance(step, Drop):
                outcome.dropped += len(dropped(queue, step, now_s))
            elif isinstance(step, Send):
                entries = sent(queue, step, policy, company)
                rows = sum(entry.rows for entry in entries)
                free -= 1
                heapq.heappush(running, (now_s + cost(rows), next(order), rows, now_s, entries))
                outcome.batches[rows] = outcome.batches.get(rows, 0) + 1
                outcome.reasons[step.reason] = outcome.reasons.get(step.reason, 0) + 1
            else:
                wakes_s = step.until_s
                break


SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
DELAYS_MS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0)


def best_fixed(load: Load, cost: Cost, limit_s: float, instances: int = 1) -> tuple[float, str]:
    """The best goodput of any fixed (batch, delay), and which it was."""
    found = [
        (
            simulate(
                load,
                cost,
                BatchPolicy(size, max_delay_s=delay_ms / 1e3, is_patient=True),
                instances,
            ).goodput(limit_s),
            f"batch {size}, delay {delay_ms:g} ms",
        )
        for size in SIZES
        for delay_ms in DELAYS_MS
    ]
    return max(found)


def main(argv: Sequence[str]) -> int:
    """Print a table: no batching, no knobs set, with the limit as target, the best fixed policy."""
    flags = argparse.ArgumentParser("python -m headrace.server.simulator", description=__doc__)
    flags.add_argument("--base_ms", type=float, default=5.0, help="a: cost of a batch")
    flags.add_argument("--per_row_ms", type=float, default=0.5, help="b: cost of a row")
    flags.add_argument("--rate", type=float, default=400.0, help="requests per second")
    flags.add_argument("--cv", type=float, default=1.0, help="1: Poisson; 4: bursty")
    flags.add_argument("--limit_ms", type=float, default=50.0, help="latency that counts as good")
    flags.add_argument("--seconds", type=float, default=30.0, help="of simulated time")
    flags.add_argument("--instances", type=int, default=1)
    flags.add_argument("--max_batch_size", type=int, default=128)
    given = flags.parse_args(list(argv))
    load = Load(given.rate, given.seconds, given.cv)
    cost, limit_s = linear(given.base_ms / 1e3, given.per_row_ms / 1e3), given.limit_ms / 1e3
    most = given.max_batch_size
    policies = {
        "off": BatchPolicy(1),
        "no knobs": BatchPolicy(most, is_learned=True),
        "target": BatchPolicy(most, is_learned=True, target_latency_s=limit_s),
    }
    print(f"{'policy':<28}{'p50 ms':>9}{'p99 ms':>9}{'good/s':>9}{'refused':>9}{'rows':>7}")
    for name, policy in policies.items():
        outcome = simulate(load, cost, policy, given.instances)
        print(_line(name, outcome, limit_s))
    rate, name = best_fixed(load, cost, limit_s, given.instances)
    print(f"{name:<28}{'':>9}{'':>9}{rate:>9.1f}")
    return 0


def _line(name: str, outcome: Outcome, limit_s: float) -> str:
    rows = sum(size * number for size, number in outcome.batches.items())
    mean = rows / max(1, sum(outcome.batches.values()))
    return (
        f"{name:<28}{outcome.quantile(0.5) * 1e3:>9.2f}{outcome.quantile(0.99) * 1e3:>9.2f}"
        f"{outcome.goodput(limit_s):>9.1f}{outcome.dropped:>9}{mean:>7.1f}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
