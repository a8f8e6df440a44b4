"""Prometheus metrics under the contract's names (§7): KServe's histograms, Triton's counters, ours.

KServe's four histograms and ours live on the registry (`prometheus_client.REGISTRY`, where users'
own metrics are too). Triton's names carry no `_total`, which a Counter would add, so a collector
makes them from `ModelStatistics`, of unknown type. Workers' samples are merged by `merged`: counts
add up, gauges too, except those that speak of the machine or of a moment.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import psutil
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from headrace.server.repository import Repository, ServedModel
from headrace.server.request import Context
from headrace.server.statistics import STAGES

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
NS = 1_000_000_000
BUCKETS_NS = tuple(round(bound * NS) for bound in BUCKETS)
LABEL = "model_name"
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
KSERVE = {
    "preprocess": "pre-processing request latency",
    "predict": "prediction request latency",
    "postprocess": "post-processing request latency",
    "explain": "explain request latency",
}
# Of the machine or of a moment: several workers' values are one, not a sum.
LARGEST = frozenset({"python_info", "nv_cpu_utilization"})
LARGEST_PREFIXES = ("nv_cpu_memory_", "process_max_fds")
SMALLEST = frozenset({"process_start_time_seconds"})


class InferenceMetrics:
    """What the data plane writes per request, read at each scrape; one per registry.

    prometheus_client's own Histogram costs a lock and a linear search per value, 12 µs a request;
    here the event loop alone writes.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        self._tallies: dict[str, _Tallies] = {}
        registry.register(self)

    def observe(self, model_name: str, context: Context, rows: int, is_explain: bool) -> None:
        """One request that ran, or failed to. model_name: of a served model, so it is bounded."""
        tallies = self._tallies.get(model_name)
        if tallies is None:
            tallies = self._tallies[model_name] = _Tallies()
        stages = context.stages
        tallies.preprocess.add(stages.compute_input_ns)
        (tallies.explain if is_explain else tallies.predict).add(stages.compute_infer_ns)
        tallies.postprocess.add(stages.compute_output_ns)
        tallies.queue.add(stages.queue_ns)
        tallies.rows.add(rows)
        tallies.body_bytes += context.body_bytes

    def collect(self) -> Iterator[Metric]:
        for stage, text in KSERVE.items():
            yield self._histogram(f"request_{stage}_seconds", text, stage, BUCKETS, NS)
        yield self._histogram(
            "headrace_queue_wait_seconds",
            "time a request waited for an instance of its model",
            "queue",
            BUCKETS,
            NS,
        )
        yield self._histogram("headrace_request_rows", "rows of a request", "rows", ROWS, 1)
        body = CounterMetricFamily(
            "headrace_request_body_bytes", "bytes of request bodies, as received", labels=[LABEL]
        )
        for name, tallies in self._tallies.items():
            body.add_metric([name], tallies.body_bytes)
        yield body

    describe = collect  # so that a second one on the same registry is refused

    def _histogram(
        self, name: str, text: str, attribute: str, bounds: Sequence[float], unit: int
    ) -> Metric:
        family = HistogramMetricFamily(name, text, labels=[LABEL])
        for model, tallies in self._tallies.items():
            tally: Tally = getattr(tallies, attribute)
            family.add_metric([model], tally.cumulative(bounds), tally.total / unit)
        return family


class Tally:
    """How many values lie below each bound, and their sum. All in one unit."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[int]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0

    def add(self, value: int) -> None:
        bounds = self._bounds
        self._counts[0 if value <= bounds[0] else bisect_left(bounds, value)] += 1
        self.total += value

    def cumulative(self, shown: Sequence[float]) -> list[tuple[str, float]]:
        """Prometheus' buckets; shown: the bounds in the unit of the metric."""
        names = [*map(floatToGoString, shown), "+Inf"]
        return list(zip(names, map(float, accumulate(self._counts)), strict=True))


class _Tallies:
    """Of one model."""

    __slots__ = ("body_bytes", "explain", "postprocess", "predict", "preprocess", "queue", "rows")

    def __init__(self) -> None:
        self.preprocess = Tally(BUCKETS_NS)
        self.predict = Tally(BUCKETS_NS)
        self.postprocess = Tally(BUCKETS_NS)
        self.explain = Tally(BUCKETS_NS)
        self.queue = Tally(BUCKETS_NS)
        self.rows = Tally(ROWS)
        self.body_bytes = 0


class ModelCollector:
    """Reads the repository at each scrape. with_triton: the nv_* names too (--metrics_triton)."""

    def __init__(self, repository: Repository, with_triton: bool = True) -> None:
        self._repository = repository
        self._with_triton = with_triton

    def collect(self) -> Iterator[Metric]:
        models = self._repository.all()
        in_flight = GaugeMetricFamily(
            "headrace_requests_in_flight",
            "requests of a model that have not been answered",
            labels=["model", "version"],
        )
        rejected = CounterMetricFamily(
            "headrace_requests_rejected",
            "requests refused unexecuted: the queue was full or a deadline had passed",
            labels=["model", "version"],
        )
        for model in models:
            labels = [model.name, model.version]
            in_flight.add_metric(labels, model.in_flight)
            rejected.add_metric(labels, model.statistics.failures["REJECTED"])
        yield from (in_flight, rejected)
        if self._with_triton:
            yield from _triton(models)

    def describe(self) -> list[Metric]:
        """Nothing: names are known only when models are, and registering must not need them."""
        return []


def _triton(models: Sequence[ServedModel]) -> Iterator[Metric]:
    def family(name: str, text: str) -> Metric:
        found = Metric(f"nv_{name}", text, "unknown")
        families.append(found)
        return found

    families: list[Metric] = []
    success = family("inference_request_success", "successful requests")
    failure = family("inference_request_failure", "failed requests, by reason")
    count = family("inference_count", "inferences: the rows of successful requests")
    executed = family("inference_exec_count", "executions of the model")
    total = family("inference_request_duration_us", "time of requests, microseconds")
    parts = {
        stage: family(f"inference_{stage}_duration_us", f"time in {stage}, microseconds")
        for stage in STAGES
    }
    pending = Metric("nv_inference_pending_request_count", "requests waiting", "gauge")
    for model in models:
        labels = {"model": model.name, "version": model.version}
        figures = model.statistics
        success.add_sample(success.name, labels, figures.success.count)
        for reason, number in figures.failures.items():
            failure.add_sample(failure.name, {**labels, "reason": reason}, number)
        count.add_sample(count.name, labels, figures.inference_count)
        executed.add_sample(executed.name, labels, figures.execution_count)
        total.add_sample(total.name, labels, (figures.success.ns + figures.fail.ns) // 1000)
        for stage, part in parts.items():
            part.add_sample(part.name, labels, getattr(figures, stage).ns // 1000)
        pending.add_sample(pending.name, labels, model.servable.pending_requests)
    yield from (*families, pending)
    memory = psutil.virtual_memory()
    for name, text, value in (
        (
            "cpu_utilization",
            "share of the machine's CPU in use, 0 to 1",
            psutil.cpu_percent() / 100,
        ),
        ("cpu_memory_total_bytes", "memory of the machine", memory.total),
        ("cpu_memory_used_bytes", "memory in use on the machine", memory.used),
    ):
        yield GaugeMetricFamily(f"nv_{name}", text, value)


class Collected:
    """Families that an encoder can read as it reads a registry."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def exposition(families: Any, accept: str) -> tuple[bytes, str]:
    """families, anything with `collect`, as text in the format accept prefers; its type."""
    encode, content_type = choose_encoder(accept)
    return encode(families), content_type


def to_plain(families: Iterable[Metric]) -> list[Any]:
    """families as plain lists, for another process."""
    return [
        [each.name, each.documentation, each.type, each.unit, _samples(each)] for each in families
    ]


def _samples(family: Metric) -> list[Any]:
    return [[sample.name, sample.labels, sample.value] for sample in family.samples]


def from_plain(families: Sequence[Any]) -> list[Metric]:
    found = []
    for name, text, kind, unit, samples in families:
        metric = Metric(name, text, kind, unit)
        for sample_name, labels, value in samples:
            metric.add_sample(sample_name, labels, value)
        found.append(metric)
    return found


def merged(workers: Sequence[Sequence[Metric]], restarts: int) -> Collected:
    """One set of families for all workers. restarts: workers the parent had to replace."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for each in workers:
        for metric in each:
            families.setdefault(
                metric.name, Metric(metric.name, metric.documentation, metric.type, metric.unit)
            )
            found = values.setdefault(metric.name, {})
            for sample in metric.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                was = found.get(key)
                found[key] = sample.value if was is None else _both(sample.name, was, sample.value)
    for name, metric in families.items():
        for (sample_name, labels), value in values[name].items():
            metric.add_sample(sample_name, dict(labels), value)
    replaced = CounterMetricFamily(
        "headrace_worker_restarts", "worker processes that ended and were replaced", restarts
    )
    return Collected([*families.values(), replaced])


def _both(name: str, one: float, other: float) -> float:
    if name in SMALLEST or name.endswith("_created"):
        return min(one, other)
    if name in LARGEST or name.startswith(LARGEST_PREFIXES):
        return max(one, other)
    return one + other
