"""When requests are to be sent: arrival processes as lists of seconds from the start. Pure."""

import math
import random
from enum import StrEnum


class Arrivals(StrEnum):
    CONSTANT = "constant"
    POISSON = "poisson"
    BURSTY = "bursty"


BURST_CV = 4.0  # of the gaps between arrivals; Poisson's is 1


def times_s(process: Arrivals, rate_per_s: float, seconds: float, seed: int) -> list[float]:
    """Send times in [0, seconds). The same seed gives the same times at every peer."""
    if not rate_per_s > 0:
        raise ValueError(f"rate_per_s must be above 0, got {rate_per_s}")
    draw = random.Random(seed)
    found: list[float] = []
    now = 0.0
    while True:
        now += gap_s(process, rate_per_s, draw)
        if now >= seconds:
            return found
        found.append(now)


def gap_s(process: Arrivals, rate_per_s: float, draw: random.Random) -> float:
    """One gap, of mean 1 / rate_per_s."""
    match process:
        case Arrivals.CONSTANT:
            return 1 / rate_per_s
        case Arrivals.POISSON:
            return draw.expovariate(rate_per_s)
        case Arrivals.BURSTY:
            # Two exponentials with balanced means: short gaps within a burst, long ones between.
            squared = BURST_CV**2
            share = (1 + math.sqrt((squared - 1) / (squared + 1))) / 2
            is_short = draw.random() < share
            return draw.expovariate(2 * rate_per_s * (share if is_short else 1 - share))
