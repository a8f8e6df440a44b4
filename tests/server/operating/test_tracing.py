"""Spans of an inference: whose child, which stages, and what an error does."""

import logging
import sys

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from headrace.server import tracing
from headrace.server.errors import InvalidInput
from headrace.server.request import Context
from headrace.server.tracing import Tracer

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


def spans_of(context: Context, error: Exception | None = None) -> dict[str, ReadableSpan]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = Tracer(provider)
    tracer.begin("m", "1", context)
    tracer.end(context, error)
    return {span.name: span for span in exporter.get_finished_spans()}


def test_the_callers_span_is_the_parent_and_what_is_forwarded_names_ours() -> None:
    context = Context(headers={"traceparent": TRACEPARENT})
    server = spans_of(context)["m"]
    assert server.parent is not None
    assert f"{server.parent.span_id:016x}" == PARENT
    assert server.context is not None
    assert context.headers["traceparent"] == f"00-{TRACE}-{server.context.span_id:016x}-01"


def test_an_error_is_on_the_span_and_nothing_was_encoded() -> None:
    spans = spans_of(Context(), InvalidInput("no such input"))
    assert set(spans) == {"m", "decode", "queue", "predict"}
    assert spans["m"].status.description == "no such input"
    assert spans["m"].status.status_code.name == "ERROR"


def test_without_the_package_a_warning_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with caplog.at_level(logging.WARNING):
        assert tracing.from_env({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}) is None
    assert caplog.messages == ["traces are not exported: pip install 'headrace[otel]'"]


@pytest.mark.parametrize(
    "env", [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_SDK_DISABLED": "true"}]
)
def test_off(env: dict[str, str]) -> None:
    assert tracing.from_env(env) is None
