"""Prometheus metrics under the contract's names (§7): KServe's histograms, Triton's counters, ours.

KServe's four histograms and ours live on the registry (`prometheus_client.REGISTRY`, where users'
own metrics are too). Triton's names carry no `_total`, which a Counter would add, so a collector
makes them from `ModelStatistics`, of unknown type. Workers' samples are merged by `merged`: counts
add up, gauges too, except those that speak of the machine or of a moment.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import psutil
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from headrace.server.repository import Repository, ServedModel
from headrace.server.request import Context
from headrace.server.statistics import STAGES

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
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
    """What the data plane writes per request; one per registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        self._stages = {
            stage: Histogram(
                f"request_{stage}_seconds", text, ["model_name"], buckets=BUCKETS, registry=registry
            )
            for stage, text in KSERVE.items()
        }
        self._queue = Histogram(
            "headrace_queue_wait_seconds",
            "time a request waited for an instance of its model",
            ["model_name"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._rows = Histogram(
            "headrace_request_rows",
            "rows of a request",
            ["model_name"],
            buckets=ROWS,
            registry=registry,
        )
        self._body = Counter(
            "headrace_request_body_bytes",
            "bytes of request bodies, as received",
            ["model_name"],
            registry=registry,
        )
        self._children: dict[str, _Children] = {}

    def observe(self, model_name: str, context: Context, rows: int, is_explain: bool) -> None:
        """One request that ran, or failed to. model_name: of a served model, so it is bounded."""
        children = self._children.get(model_name)
        if children is None:
            children = self._children[model_name] = _Children(self, model_name)
        stages = context.stages
        children.preprocess.observe(stages.compute_input_ns / 1e9)
        main = children.explain if is_explain else children.predict
        main.observe(stages.compute_infer_ns / 1e9)
        children.postprocess.observe(stages.compute_output_ns / 1e9)
        children.queue.observe(stages.queue_ns / 1e9)
        children.rows.observe(rows)
        children.body.inc(context.body_bytes)


class _Children:
    """The labelled metrics of one model, looked up once."""

    def __init__(self, metrics: InferenceMetrics, name: str) -> None:
        self.preprocess = metrics._stages["preprocess"].labels(name)
        self.predict = metrics._stages["predict"].labels(name)
        self.postprocess = metrics._stages["postprocess"].labels(name)
        self.explain = metrics._stages["explain"].labels(name)
        self.queue = metrics._queue.labels(name)
        self.rows = metrics._rows.labels(name)
        self.body = metrics._body.labels(name)


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
