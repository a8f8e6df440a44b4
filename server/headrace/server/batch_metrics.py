"""What batchers count, as Prometheus families: read at each scrape, so a batch costs no metric."""

from collections.abc import Iterator, Mapping

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from headrace.server.repository import Repository
from headrace.server.servable import batcher_of

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
LABELS = ("model", "version")


class BatchCollector:
    """Reads the batchers of the repository's models."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def collect(self) -> Iterator[Metric]:
        dispatched = CounterMetricFamily(
            "headrace_batches", "executions, by why they were sent", labels=(*LABELS, "reason")
        )
        refused = CounterMetricFamily(
            "headrace_batch_refusals",
            "requests that were not executed, by why",
            labels=(*LABELS, "reason"),
        )
        sizes = HistogramMetricFamily("headrace_batch_rows", "rows of an execution", labels=LABELS)
        for model in self._repository.all():
            batcher = batcher_of(model.servable)
            if batcher is None:
                continue
            labels = [model.name, model.version]
            record = batcher.record
            reasons = {**record.dispatched, "direct": record.direct_calls}
            for reason, number in sorted(reasons.items()):
                dispatched.add_metric([*labels, reason], number)
            for reason, number in sorted(record.refused.items()):
                refused.add_metric([*labels, reason], number)
            sizes.add_metric(labels, *_histogram(record.sizes, record.rows))
        yield from (dispatched, refused, sizes)

    def describe(self) -> list[Metric]:
        """Nothing: names are known only when models are, and registering must not need them."""
        return []


def _histogram(sizes: Mapping[int, int], rows: int) -> tuple[list[tuple[str, float]], float]:
    """Cumulative buckets of batches by their rows, and the sum of those."""
    buckets: list[tuple[str, float]] = []
    for bound in SIZES:
        below = sum(number for size, number in sizes.items() if size <= bound)
        buckets.append((f"{float(bound)}", below))
    buckets.append(("+Inf", sum(sizes.values())))
    return buckets, rows
