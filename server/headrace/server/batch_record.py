"""What one batcher has done and why, for metrics and for people; it decides nothing."""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from headrace.server.batching import Refusal, Send

REMEMBERED = 64  # batches that the debug endpoint shows


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One batch that was sent, for people. waited_s: by its oldest request."""

    at_s: float
    reason: str
    requests: int
    rows: int
    waited_s: float
    predicted_s: float
    taken_s: float

    def to_json(self, now_s: float) -> dict[str, Any]:
        return {
            "age_s": round(now_s - self.at_s, 3),
            "reason": self.reason,
            "requests": self.requests,
            "rows": self.rows,
            "waited_ms": round(self.waited_s * 1e3, 3),
            "predicted_ms": round(self.predicted_s * 1e3, 3),
            "taken_ms": round(self.taken_s * 1e3, 3),
        }


class BatchRecord:
    """dispatched: batches by reason. refused: requests by reason. rows: of all batches.

    sizes: batches by rows, rounded up to a power of two up to 1024. direct_calls: of an idle inline
    instance, which are no batches.
    """

    def __init__(self) -> None:
        self.dispatched: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.sizes: Counter[int] = Counter()
        self.rows = 0
        self.direct_calls = 0
        self._recent: deque[Dispatch] = deque(maxlen=REMEMBERED)

    def sent(
        self, step: Send, sent_s: float, requests: int, rows: int, waited_s: float, taken_s: float
    ) -> None:
        """A batch has been run."""
        self.dispatched[step.reason] += 1
        self.rows += rows
        self.sizes[rows if rows <= 1 or rows > 1024 else 1 << (rows - 1).bit_length()] += 1
        self._recent.append(
            Dispatch(sent_s, step.reason, requests, rows, waited_s, step.predicted_s, taken_s)
        )

    def refuse(self, refusal: Refusal) -> None:
        """A request was not run."""
        self.refused[refusal] += 1

    def to_json(self, now_s: float) -> dict[str, Any]:
        return {
            "direct_calls": self.direct_calls,
            "dispatched": dict(self.dispatched),
            "refused": dict(self.refused),
            "batch_sizes": {str(rows): number for rows, number in sorted(self.sizes.items())},
            "recent": [each.to_json(now_s) for each in self._recent],
        }
