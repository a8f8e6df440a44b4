"""The goals of the hot path, each held against what was measured. Pure.

A ratio is of runs made one after the other. "met" looks at the median; where the median misses but
the spread reaches the goal, the answer is "within the spread". Where the others have runs and we
have none the ratio is 0: our failures are part of every goal.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from loadtests import goodput
from loadtests.figures import Figures, Spread, human, ratios, spread
from loadtests.goodput import OURS
from loadtests.recording import Results

OUR_OWN = "headrace"  # how the names of our servers begin
Found = tuple[Spread, str] | None  # and of what, where the goal leaves that open
NOTHING = Spread(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Goal:
    """limit: a floor, or with is_ceiling a ceiling. Ratios are printed with x, others with unit."""

    work: str
    wanted: str
    limit: float
    measure: Callable[[Results], Found]
    is_ceiling: bool = False
    unit: str = "x"

    def cells(self, results: Results) -> list[str]:
        """goal, measured, spread, met."""
        found = self.measure(results)
        if found is None:
            return [self.work, self.wanted, "-", "", "not measured"]
        of, what = found
        measured = f"{human(of.median)} {self.unit}" + (f" ({what})" if what else "")
        between = f"{human(of.low)}-{human(of.high)}"
        return [self.work, self.wanted, measured, between, self.verdict(of)]

    def verdict(self, of: Spread) -> str:
        def passes(value: float) -> bool:
            return value <= self.limit if self.is_ceiling else value >= self.limit

        if passes(of.median):
            return "yes"
        return "within the spread" if passes(of.low if self.is_ceiling else of.high) else "no"


def rates(title: str, peer: str, ours: str = OURS) -> Callable[[Results], Found]:
    return lambda results: _over(results.of(title, ours), results.of(title, peer), rate)


def p50s(title: str, peer: str) -> Callable[[Results], Found]:
    """How many times shorter our latency is."""
    return lambda results: _over(results.of(title, OURS), results.of(title, peer), quickness)


def rate(run: Figures) -> float:
    return run.rate_per_s


def p50(run: Figures) -> float:
    return run.latency_ms.get("p50", 0.0)


def quickness(run: Figures) -> float:
    """Of latencies the larger is the better here, as of rates."""
    return 1 / p50(run) if p50(run) else 0.0


def _over(
    ours: Sequence[Figures], theirs: Sequence[Figures], value: Callable[[Figures], float]
) -> Found:
    if theirs and not ours:
        return NOTHING, ""
    return _known(ratios([value(each) for each in ours], [value(each) for each in theirs]))


def _known(of: Spread) -> Found:
    """None beside others that answered nothing: there is no ratio to them."""
    return None if math.isnan(of.median) else (of, "")


def against_best_peer(start: str) -> Callable[[Results], Found]:
    """The lowest of our ratios over peers and scenarios whose title begins with start."""

    def measure(results: Results) -> Found:
        return _lowest(
            (_over(by_peer.get(OURS, []), theirs, rate), f"{peer}, {title}")
            for title, by_peer in results.runs.items()
            if title.startswith(start)
            for peer, theirs in by_peer.items()
            if is_peer(peer)
        )

    return measure


def unbatched(results: Results) -> Found:
    """Batching on over off, the lowest of the real models' scenarios."""
    return _lowest(
        (_over(by_peer.get(OURS, []), by_peer.get("headrace_unbatched", []), rate), title)
        for title, by_peer in results.runs.items()
        if " network, " in title
    )


def scaling(results: Results) -> Found:
    by_title = {
        title: [run.rate_per_s for run in by_peer.get(OURS, [])]
        for title, by_peer in results.runs.items()
        if title.startswith("scaling, ")
    }
    last = by_title.get("scaling, 512 connections")
    if not last:
        return None
    best = [max(of_round) for of_round in zip(*by_title.values(), strict=False)]
    return ratios(last, best), ""


def scaling_lost(results: Results) -> Found:
    runs = [
        run
        for title, by_peer in results.runs.items()
        if title.startswith("scaling, ")
        for run in by_peer.get(OURS, [])
    ]
    return (spread([float(sum(run.lost for run in runs))]), "") if runs else None


def own(title: str, name: str) -> Callable[[Results], Found]:
    """A figure of the run's own."""

    def measure(results: Results) -> Found:
        values = [run.extra[name] for run in results.of(title, OURS) if name in run.extra]
        return (spread(values), "") if values else None

    return measure


def second_worker(results: Results) -> Found:
    one, two = (
        [run.extra["pss_mb"] for run in results.of(f"memory, {n}", OURS)]
        for n in ("1 worker", "2 workers")
    )
    more = [b - a for a, b in zip(one, two, strict=False)]
    return (spread(more), "") if more else None


def added_at_low_load(results: Results) -> Found:
    """Milliseconds of p50 that batching adds to the same server without it."""
    runs = results.runs.get(LOW_LOAD, {})
    pairs = zip(runs.get(OURS, []), runs.get("headrace_unbatched", []), strict=False)
    added = [p50(on) - p50(off) for on, off in pairs]
    return (spread(added), "") if added else None


def against_fixed(results: Results) -> Found:
    runs = results.goodput
    best = {case: goodput.best_fixed(runs, case) for case in goodput.cases(runs)}
    return _lowest(
        (
            _ratio(results, case, name) if name else (NOTHING, ""),
            f"{', '.join(case)}: {name or 'no fixed policy was measured'}",
        )
        for case, name in best.items()
    )


def against_defaults(results: Results) -> Found:
    return _lowest(
        (_ratio(results, case, name), f"{', '.join(case)}: {name}")
        for case in goodput.cases(results.goodput)
        for name in goodput.policies(results.goodput)
        if is_peer(name)
    )


def is_peer(name: str) -> bool:
    return not name.startswith((OUR_OWN, goodput.FIXED, "raw"))


def _ratio(results: Results, case: goodput.Case, other: str) -> Found:
    runs = results.goodput
    if (of := goodput.ratio(runs, case, other)) is not None:
        return _known(of)
    return (NOTHING, "") if goodput.measured(runs, case, other) else None


def _lowest(found: Iterable[tuple[Found, str]]) -> Found:
    """The one with the lowest median, and which it is."""
    known = [(each[0], what) for each, what in found if each]
    return min(known, key=lambda each: each[0].median, default=None)


JSON_16, JSON_1 = "tiny V2 JSON, 16 connections", "tiny V2 JSON, 1 connection"
V1_16, PLAIN = "tiny V1 JSON, 16 connections", "tiny gRPC, 16 connections"
ONE_CONNECTION, BRIDGE = "tiny gRPC, 16 streams on 1 connection", "tiny gRPC through Envoy"
BESIDE_LOAD = "tiny gRPC through Envoy on the load's core"
LOW_LOAD = "batching at low load, 5 + 0.2 rows ms"
IDLE = "beside 10,000 idle connections"

GOALS = (
    Goal("tiny V2 JSON, 16 connections", "≥ 10 x kserve", 10, rates(JSON_16, "kserve")),
    Goal("tiny V2 JSON, 16 connections", "≥ 1.5 x triton", 1.5, rates(JSON_16, "triton")),
    Goal("tiny V2 JSON, 1 connection, p50", "≤ kserve / 3.5", 3.5, p50s(JSON_1, "kserve")),
    Goal("tiny V2 JSON, 1 connection, p50", "≤ triton / 2", 2, p50s(JSON_1, "triton")),
    Goal("V1 JSON, 16 connections", "≥ 10 x kserve", 10, rates(V1_16, "kserve")),
    Goal("tiny gRPC, 16 connections", "≥ 3 x kserve", 3, rates(PLAIN, "kserve")),
    Goal("tiny gRPC, 16 streams on one", "≥ 3 x kserve", 3, rates(ONE_CONNECTION, "kserve")),
    Goal("tiny gRPC through Envoy", "≥ 10 x kserve", 10, rates(BRIDGE, "kserve")),
    Goal("tiny gRPC through Envoy", "≥ 1.5 x triton", 1.5, rates(BRIDGE, "triton")),
    Goal("… Envoy on the load's core", "≥ 10 x kserve", 10, rates(BESIDE_LOAD, "kserve")),
    Goal("… Envoy on the load's core", "≥ 1.5 x triton", 1.5, rates(BESIDE_LOAD, "triton")),
    Goal("image, JSON", "≥ 2.5 x kserve", 2.5, rates("image V2 JSON, 4 connections", "kserve")),
    Goal("image, binary", "≥ 50 x kserve", 50, rates("image V2 binary, 4 connections", "kserve")),
    Goal("image, gRPC raw", "≥ 3 x kserve", 3, rates("image gRPC, 4 connections", "kserve")),
    Goal("1 to 512 connections", "at 512 ≥ 0.9 x the best", 0.9, scaling),
    Goal("1 to 512 connections", "none lost", 0, scaling_lost, is_ceiling=True, unit="requests"),
    Goal("10,000 idle", "≤ 8 KiB each", 8, own(IDLE, "idle_kib_each"), True, "KiB"),
    Goal("10,000 idle", "active ones unchanged", 1, own(IDLE, "rate_of_alone")),
    Goal("batching, goodput", "≥ 0.95 x best fixed, every case", 0.95, against_fixed),
    Goal("batching, goodput", "≥ 2 x the peers' defaults", 2, against_defaults),
    Goal("batching, low load", "≤ 0.2 ms added", 0.2, added_at_low_load, True, "ms"),
    Goal("real models", "batching never slower than off", 1, unbatched),
    Goal("real models, onnx", "≥ the best peer", 1, against_best_peer("onnx network, ")),
    Goal("real models, torch", "≥ the best peer", 1, against_best_peer("torch network, ")),
    Goal("memory, 1 worker", "≤ 105 MB", 105, own("memory, 1 worker", "pss_mb"), True, "MB"),
    Goal("memory, second worker", "≤ 35 MB more", 35, second_worker, True, "MB"),
)


def table(results: Results) -> list[str]:
    heads = ["work", "goal", "measured", "spread", "met"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return [*lines, *(f"| {' | '.join(goal.cells(results))} |" for goal in GOALS)]
