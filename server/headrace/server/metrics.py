"""Prometheus metrics under the contract's names (§7): KServe's histograms, Triton's counters, ours.

KServe's four histograms live on `prometheus_client.REGISTRY`, where users' own metrics are too.
Triton's names carry no `_total`, so they come from a collector that reads `ModelStatistics`.
"""

from prometheus_client import REGISTRY, CollectorRegistry, Histogram

from headrace.server.repository import ServedModel
from headrace.server.request import Context

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


class InferenceMetrics:
    """What the data plane writes per request; one per registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        self.predict_s = Histogram(
            "request_predict_seconds",
            "prediction request latency",
            ["model_name"],
            buckets=BUCKETS,
            registry=registry,
        )

    def observe(self, model: ServedModel, rows: int, context: Context) -> None:
        """One answered request."""
        self.predict_s.labels(model.name).observe(context.stages.compute_infer_ns / 1e9)
