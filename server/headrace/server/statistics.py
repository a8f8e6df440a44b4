"""Triton's statistics of one model version (data-plane contract §4.2), as plain counters.

The event loop alone writes them. `merge` adds the figures of several workers; both JSON and
protobuf are made from `ModelStatistics.to_json`, metrics from the same fields.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from headrace.server.memory import Usage
from headrace.server.request import Stages


@dataclass(slots=True)
class Duration:
    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns

    def to_json(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


class FailureReason(StrEnum):  # Triton's label values of nv_inference_request_failure
    REJECTED = "REJECTED"
    CANCELED = "CANCELED"
    BACKEND = "BACKEND"
    OTHER = "OTHER"


@dataclass(slots=True)
class BatchStatistics:
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


LAST = "last_inference"
STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(slots=True)
class ModelStatistics:
    """Counts since the version was loaded; a reload of the same version goes on counting."""

    name: str
    version: str
    last_inference_ms: int = 0  # since the epoch; 0: never
    inference_count: int = 0  # rows of successful requests
    execution_count: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    failures: dict[str, int] = field(
        default_factory=lambda: {reason.value: 0 for reason in FailureReason}
    )
    batches: dict[int, BatchStatistics] = field(default_factory=dict)
    memory: Usage = field(default_factory=Usage)

    def succeeded(self, rows: int, total_ns: int, stages: Stages) -> None:
        """One request answered: rows inferences, alone or as part of a batch (`Stages`)."""
        self.last_inference_ms = time.time_ns() // 1_000_000
        self.inference_count += rows
        executions = stages.executions
        self.execution_count += executions
        queue_ns, input_ns = stages.queue_ns, stages.compute_input_ns
        infer_ns, output_ns = stages.compute_infer_ns, stages.compute_output_ns
        size = stages.batch_rows or rows
        batch = self.batches.get(size)
        if batch is None:
            batch = self.batches[size] = BatchStatistics()
        for duration, ns in (
            (self.success, total_ns),
            (self.queue, queue_ns),
            (self.compute_input, input_ns),
            (self.compute_infer, infer_ns),
            (self.compute_output, output_ns),
        ):  # not by calls: they cost more than they do
            duration.count += 1
            duration.ns += ns
        batch.compute_input.count += executions
        batch.compute_input.ns += input_ns
        batch.compute_output.count += executions
        batch.compute_output.ns += output_ns
        if executions:  # all of a batch were told its whole time; it is counted once
            batch.compute_infer.count += executions
            batch.compute_infer.ns += infer_ns

    def failed(self, reason: FailureReason, total_ns: int) -> None:
        self.fail.add(total_ns)
        self.failures[reason.value] += 1

    def to_json(self) -> dict[str, Any]:
        """Triton's object."""
        none = {"count": 0, "ns": 0}
        return {
            "name": self.name,
            "version": self.version,
            LAST: self.last_inference_ms,
            "inference_count": self.inference_count,
            "execution_count": self.execution_count,
            "inference_stats": {
                "success": self.success.to_json(),
                "fail": self.fail.to_json(),
                **{stage: getattr(self, stage).to_json() for stage in STAGES},
                "cache_hit": dict(none),
                "cache_miss": dict(none),
            },
            "response_stats": {},
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": batch.compute_input.to_json(),
                    "compute_infer": batch.compute_infer.to_json(),
                    "compute_output": batch.compute_output.to_json(),
                }
                for size, batch in sorted(self.batches.items())
            ],
            "memory_usage": _memory_usage(self.memory),
        }


def _memory_usage(memory: Usage) -> list[dict[str, Any]]:
    """Triton's rows; CPU_PEAK, with every instance at its largest batch, is a type of ours."""
    places = [("CPU", 0, memory.cpu_bytes), ("CPU_PEAK", 0, memory.peak_bytes)]
    places += [("GPU", index, size) for index, size in memory.gpu_bytes.items()]
    return [{"type": kind, "id": index, "byte_size": size} for kind, index, size in places if size]


def merge(workers: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The `to_json` rows of several workers as one row per model version: figures add up."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for rows in workers:
        for row in rows:
            key = (row["name"], row["version"])
            merged[key] = _added(merged[key], row) if key in merged else dict(row)
    return list(merged.values())


def _added(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    both: dict[str, Any] = {**one, LAST: max(one[LAST], other[LAST])}
    for key in ("inference_count", "execution_count"):
        both[key] = one[key] + other[key]
    both["inference_stats"] = _durations(one["inference_stats"], other["inference_stats"])
    sizes: dict[int, dict[str, Any]] = {}
    for batch in [*one["batch_stats"], *other["batch_stats"]]:
        size = batch["batch_size"]
        figures = {key: value for key, value in batch.items() if key != "batch_size"}
        sizes[size] = _durations(sizes[size], figures) if size in sizes else figures
    both["batch_stats"] = [{"batch_size": size, **sizes[size]} for size in sorted(sizes)]
    used: dict[tuple[str, int], int] = {}
    for entry in [*one["memory_usage"], *other["memory_usage"]]:
        place = (entry["type"], entry["id"])
        used[place] = used.get(place, 0) + entry["byte_size"]
    both["memory_usage"] = [
        {"type": kind, "id": number, "byte_size": size} for (kind, number), size in used.items()
    ]
    return both


def _durations(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: {part: one[key][part] + other[key][part] for part in ("count", "ns")} for key in one
    }
