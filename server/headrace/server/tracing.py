"""OpenTelemetry traces of inferences (extra `otel`): W3C context in, one server span, four below.

    <model> (server) ── decode ── queue ── predict ── encode

The spans are made when a request ends, from the times the data plane keeps anyway; only the server
span begins with the request, so that a forwarded request names it as its parent. Off, it costs one
`is None`. The SDK's own OTEL_* variables say where spans go.
"""

import importlib
import logging
import time
from collections.abc import Mapping
from typing import Any

from headrace.server.request import Context

log = logging.getLogger(__name__)

SERVICE_NAME = "headrace"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Tracer:
    """begin() and end() of each inference. provider: an SDK TracerProvider."""

    def __init__(self, provider: Any) -> None:
        self._trace = importlib.import_module("opentelemetry.trace")
        self._propagate = importlib.import_module("opentelemetry.propagate")
        self._provider = provider
        self._tracer = provider.get_tracer("headrace.server")

    def begin(self, model_name: str, model_version: str, context: Context) -> None:
        """Open the server span under the caller's, and make it the parent of what is forwarded."""
        parent = self._propagate.extract(context.headers)
        context.span = self._tracer.start_span(
            model_name,
            parent,
            kind=self._trace.SpanKind.SERVER,
            attributes={"model.name": model_name, "model.version": model_version},
            start_time=_epoch_ns(context.started_ns),
        )
        own = self._trace.set_span_in_context(context.span)
        self._propagate.inject(context.headers, context=own)

    def end(self, context: Context, error: BaseException | None = None) -> None:
        """Close the server span, with a span below it for each stage that took time."""
        span, context.span = context.span, None
        if span is None:
            return
        below = self._trace.set_span_in_context(span)
        stages = context.stages
        at_ns = context.started_ns
        for name, took_ns in (
            ("decode", stages.compute_input_ns),
            ("queue", stages.queue_ns),
            ("predict", stages.compute_infer_ns),
        ):
            self._stage(below, name, at_ns, at_ns + took_ns)
            at_ns += took_ns
        ended_ns = time.perf_counter_ns()
        if error is None:
            self._stage(below, "encode", context.answered_ns or ended_ns, ended_ns)
        else:
            span.record_exception(error)
            span.set_status(self._trace.StatusCode.ERROR, str(error))
        span.end(_epoch_ns(ended_ns))

    def shutdown(self) -> None:
        """Send what is left. Blocks for as long as the exporter's timeout."""
        self._provider.shutdown()

    def _stage(self, below: Any, name: str, started_ns: int, ended_ns: int) -> None:
        span = self._tracer.start_span(name, below, start_time=_epoch_ns(started_ns))
        span.end(_epoch_ns(ended_ns))


def from_env(env: Mapping[str, str]) -> Tracer | None:
    """A tracer that exports over OTLP/HTTP where env names an endpoint, else None.

    It starts a thread, so it is made after any fork.
    """
    if not any(env.get(name) for name in ENDPOINTS) or env.get("OTEL_SDK_DISABLED") == "true":
        return None
    try:
        sdk = importlib.import_module("opentelemetry.sdk.trace")
        export = importlib.import_module("opentelemetry.sdk.trace.export")
        resources = importlib.import_module("opentelemetry.sdk.resources")
        otlp = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError as err:
        log.warning(
            "traces are not exported: pip install 'headrace[otel]'", extra={"missing": str(err)}
        )
        return None
    named = {} if env.get("OTEL_SERVICE_NAME") else {"service.name": SERVICE_NAME}
    provider = sdk.TracerProvider(resource=resources.Resource.create(named))
    provider.add_span_processor(export.BatchSpanProcessor(otlp.OTLPSpanExporter()))
    return Tracer(provider)


def _epoch_ns(perf_ns: int) -> int:
    """A reading of time.perf_counter_ns as nanoseconds since the epoch."""
    return time.time_ns() - (time.perf_counter_ns() - perf_ns)
