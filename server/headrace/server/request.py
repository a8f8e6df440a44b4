"""One inference below every protocol: what a codec decodes to and encodes from.

`Request` and `Response` carry tensors and the few things the Open Inference Protocol lets a caller
say about them. `Context` travels beside them: headers, deadline, and the times of the stages.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.server.tensor import Tensor

ParameterValue = str | bool | int | float
Parameters = Mapping[str, ParameterValue]
NO_PARAMETERS: Parameters = {}


@dataclass(slots=True)
class RequestedOutput:
    """One entry of a request's `outputs`: parameters are `binary_data`, `classification`, …"""

    name: str
    parameters: Parameters = field(default_factory=dict)

    @property
    def binary_data(self) -> bool | None:
        value = self.parameters.get("binary_data")
        return value if isinstance(value, bool) else None


@dataclass(slots=True)
class Request:
    """model_version "" means: the newest. outputs empty means: all, in the model's order."""

    model_name: str
    inputs: list[Tensor]
    id: str = ""
    model_version: str = ""
    parameters: Parameters = field(default_factory=dict)
    outputs: list[RequestedOutput] = field(default_factory=list)
    input_parameters: Mapping[str, Parameters] = field(default_factory=dict)  # by input name
    from_grpc: bool = False
    binary_inputs: frozenset[str] = frozenset()  # names of inputs that came as bytes
    nested_inputs: frozenset[str] = frozenset()  # … whose JSON data came nested, not flat


@dataclass(slots=True)
class Response:
    """What a model answers; the data plane has already filtered and ordered outputs as asked."""

    model_name: str
    outputs: list[Tensor]
    id: str = ""
    model_version: str = ""
    parameters: Parameters = field(default_factory=dict)
    output_parameters: Mapping[str, Parameters] = field(default_factory=dict)  # by output name


@dataclass(slots=True)
class Stages:
    """Nanoseconds spent per stage of one request; the names are those of statistics and metrics."""

    queue_ns: int = 0
    compute_input_ns: int = 0  # decoding and preprocess
    compute_infer_ns: int = 0  # the model itself, or explain
    compute_output_ns: int = 0  # postprocess
    batch_rows: int = 0  # rows of the execution it was part of; 0: its own
    executions: int = 1  # to be counted with it; the others of its batch count none


@dataclass(slots=True)
class Context:
    """What travels beside a request.

    headers: lower-case keys, the last duplicate wins; the same object reaches every hook of one
        request, and hooks may keep state in it (KServe's examples do).
    deadline_s: on `time.monotonic()`'s clock; a request past it does not run. None: no deadline.
    start_by_s: when its `timeout` parameter passes; None: it has none. deadline_s is no later, but
        for a model whose queue does not let requests say so (Triton's allow_timeout_override):
        there call_deadline_s counts, the deadline without it.
    """

    headers: dict[str, str] = field(default_factory=dict)
    response_headers: dict[str, str] = field(default_factory=dict)
    deadline_s: float | None = None
    call_deadline_s: float | None = None
    start_by_s: float | None = None
    body_bytes: int = 0
    priority: int = 0  # 1 is the highest; 0: the model's default
    started_ns: int = field(default_factory=time.perf_counter_ns)
    stages: Stages = field(default_factory=Stages)
    answered_ns: int = 0  # when the model's answer left the data plane
    span: Any = None  # tracing's own

    def start_within(self, timeout_s: float | None) -> None:
        """The request's `timeout` parameter, which may shorten the deadline but not lengthen it."""
        if timeout_s is None:
            return
        self.call_deadline_s = self.deadline_s
        self.start_by_s = time.monotonic() + timeout_s
        self.deadline_s = min(self.start_by_s, self.deadline_s or self.start_by_s)
