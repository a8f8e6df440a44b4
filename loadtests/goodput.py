"""Goodput of batching: what the runs of loadtests/batching.py say together. Pure.

Goodput is the answers per second within a latency limit, from the moment a request was due. A case
is a cost, an arrival process and a limit; its goodput is the sum over the offered loads, in rounds
that measured all of them.
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


def by_round(runs: Sequence[Run], case: Case, policy: str) -> dict[int, float]:
    """The case's goodput by number of the round, the sweep among them.

    A round in which one load's run failed is left out: its sum is of something else.
    """
    cost, arrivals, limit = case
    of_case = [each for each in runs if (each.cost, each.arrivals) == (cost, arrivals)]
    loads = {each.load for each in of_case}
    found: dict[int, dict[float, float]] = {}
    for each in of_case:
        if each.policy == policy:
            found.setdefault(each.number, {})[each.load] = each.good_per_s[limit]
    return {
        number: sum(by_load.values())
        for number, by_load in found.items()
        if by_load.keys() == loads
    }


def measured(runs: Sequence[Run], case: Case, policy: str) -> list[float]:
    return list(_measured(runs, case, policy).values())


def _measured(runs: Sequence[Run], case: Case, policy: str) -> dict[int, float]:
    found = by_round(runs, case, policy)
    return {number: good for number, good in found.items() if number != SWEEP}


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
    """Ours over other's in the same round; one measured once is held against each of our rounds.

    None where they share no round.
    """
    ours, theirs = _measured(runs, case, OURS), _measured(runs, case, other)
    if len(theirs) == 1:
        (only,) = theirs.values()
        theirs = dict.fromkeys(ours, only)
    shared = [number for number in ours if number in theirs]
    if not shared:
        return None
    return ratios([ours[number] for number in shared], [theirs[number] for number in shared])


def by_load(runs: Iterable[Run], case: Case, policy: str) -> dict[float, float]:
    """Median goodput at each load, for a picture."""
    cost, arrivals, limit = case
    found: dict[float, list[float]] = {}
    for each in runs:
        if (each.cost, each.arrivals, each.policy) == (cost, arrivals, policy) and each.number:
            found.setdefault(each.load, []).append(each.good_per_s[limit])
    return {load: median(values) for load, values in sorted(found.items())}
