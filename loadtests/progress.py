"""How far a benchmark is, on standard error, with the time left and the end of its budget."""

import sys
import time
from collections.abc import Callable


def say(text: str) -> None:
    print(f"compare: {text}", file=sys.stderr, flush=True)


class Progress:
    """total_s: what all steps are expected to take. budget_s: after it only what is needed runs."""

    def __init__(
        self,
        total_s: float,
        budget_s: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total_s = total_s
        self._budget_s = budget_s
        self._clock = clock
        self._start_s = clock()
        self._expected_s = 0.0  # of the steps so far

    def step(self, text: str, expected_s: float) -> None:
        say(f"[{self.left()} left] {text}")
        self._expected_s += expected_s

    def skip(self, expected_s: float) -> None:
        self.total_s -= expected_s

    def left(self) -> str:
        """As steps have taken so far beside what was expected of them."""
        spent = self._clock() - self._start_s
        pace = spent / self._expected_s if self._expected_s > 60 else 1.0
        return clock_text((self.total_s - self._expected_s) * pace)

    @property
    def is_over(self) -> bool:
        return self._clock() - self._start_s > self._budget_s


def clock_text(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02}"
