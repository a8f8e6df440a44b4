"""Goodput of batching: what the runs of loadtests/batching.py say together. Pure.

Goodput is the answers per second within a latency limit, from the moment a request was due. A case
is a cost, an arrival process and a limit; its goodput is the sum over the offered loads.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from loadtests.figures import Spread, ratios

OURS = "headrace"
FIXED = "fixed "  # how the names of the sweep's policies begin
SWEEP = 0  # the number of the sweep's round; the measured ones count from 1
Case = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Run:
    """load: offered, of what full batches could answer. good_per_s: by limit."""

    cost: str
    arrivals: str
    load: float
    policy: str
    number: int
    good_per_s: dict[str, float]


def cases(runs: Iterable[Run]) -> list[Case]:
    found = [(each.cost, each.arrivals, limit) for each in runs for limit in each.good_per_s]
    return list(dict.fromkeys(found))


def policies(runs: Iterable[Run]) -> list[str]:
    return list(dict.fromkeys(each.policy for each in runs))


def by_round(runs: Iterable[Run], case: Case, policy: str) -> dict[int, float]:
    """The case's goodput by number of the round, the sweep among them."""
    cost, arrivals, limit = case
    found: dict[int, float] = {}
    for each in runs:
        if (each.cost, each.arrivals, each.policy) == (cost, arrivals, policy):
            found[each.number] = found.get(each.number, 0.0) + each.good_per_s[limit]
    return found


def measured(runs: Iterable[Run], case: Case, policy: str) -> list[float]:
    return [good for number, good in by_round(runs, case, policy).items() if number != SWEEP]


def swept_best(runs: Sequence[Run], case: Case) -> str | None:
    """The fixed policy that a tuner would take from the sweep; the first of equals."""
    found = {
        name: by_round(runs, case, name).get(SWEEP, -1.0)
        for name in policies(runs)
        if name.startswith(FIXED)
    }
    return max(found, key=lambda name: found[name], default=None)


def best_fixed(runs: Sequence[Run], case: Case) -> str | None:
    """Of the fixed policies that were measured again after the sweep, the best in this case."""
    found = {
        name: median(again)
        for name in policies(runs)
        if name.startswith(FIXED) and (again := measured(runs, case, name))
    }
    return max(found, key=lambda name: found[name], default=None)


def ratio(runs: Sequence[Run], case: Case, other: str) -> Spread | None:
    """Ours over other's; a policy measured once is held against each of our rounds."""
    ours, theirs = measured(runs, case, OURS), measured(runs, case, other)
    if not ours or not theirs:
        return None
    return ratios(ours, theirs * len(ours) if len(theirs) == 1 else theirs)


def by_load(runs: Iterable[Run], case: Case, policy: str) -> dict[float, float]:
    """Median goodput at each load, for a picture."""
    cost, arrivals, limit = case
    found: dict[float, list[float]] = {}
    for each in runs:
        if (each.cost, each.arrivals, each.policy) == (cost, arrivals, policy) and each.number:
            found.setdefault(each.load, []).append(each.good_per_s[limit])
    return {load: median(values) for load, values in sorted(found.items())}
