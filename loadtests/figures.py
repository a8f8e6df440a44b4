"""What a run measured, and what several runs of it say together. Pure."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

PERCENTILES = (50.0, 90.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True)
class Figures:
    """One run. rate_per_s: good answers. latency_ms: by percentile; from the intended send time
    where the load is open-loop. lost: requests refused, broken off or never answered."""

    rate_per_s: float
    latency_ms: Mapping[str, float]
    lost: int = 0
    extra: Mapping[str, float] = field(default_factory=dict)  # a run's own figures, by name

    def as_dict(self) -> dict[str, object]:
        return {
            "rate_per_s": round(self.rate_per_s, 1),
            "latency_ms": {name: round(each, 4) for name, each in self.latency_ms.items()},
            "lost": self.lost,
            **({"extra": dict(self.extra)} if self.extra else {}),
        }


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{human(self.median)} ({human(self.low)}-{human(self.high)})"


class Histogram:
    """Counts of latencies in buckets 1 % wide, from 1 µs up: percentiles within 1 %, in little
    memory however long the run."""

    GROWTH = math.log(1.01)

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0

    def add(self, latency_s: float) -> None:
        bucket = max(0, math.ceil(math.log(max(latency_s, 1e-6) * 1e6) / self.GROWTH))
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self.count += 1

    def percentile_ms(self, percent: float) -> float:
        """The latency that percent of the requests did not exceed; nan of none."""
        wanted = math.ceil(round(percent / 100 * self.count, 6))
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                return math.exp(bucket * self.GROWTH) / 1e3
        return math.nan

    def within(self, limit_s: float) -> int:
        """Requests answered in limit_s, to the bucket's width."""
        last = math.log(limit_s * 1e6) / self.GROWTH
        return sum(count for bucket, count in self._counts.items() if bucket <= last)

    def latency_ms(self) -> dict[str, float]:
        return {name(each): self.percentile_ms(each) for each in PERCENTILES} if self.count else {}


def histogram(latencies_s: Iterable[float]) -> Histogram:
    made = Histogram()
    for each in latencies_s:
        made.add(each)
    return made


def name(percent: float) -> str:
    return f"p{percent:g}"


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError of none."""
    if not values:
        raise ValueError("no values to summarise")
    return Spread(statistics.median(values), min(values), max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Of runs made one after the other: each of ours against its neighbour."""
    pairs = [a / b for a, b in zip(ours, theirs, strict=False) if b]
    return spread(pairs) if pairs else Spread(math.nan, math.nan, math.nan)


def human(value: float) -> str:
    """Three significant digits at most, and no exponents."""
    if math.isnan(value):
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
