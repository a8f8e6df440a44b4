"""Spans of an inference: whose child, which stages, what an error does, and OTLP."""

import http.server
import json
import logging
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from headrace.server import tracing
from headrace.server.errors import InvalidInput
from headrace.server.request import Context
from headrace.server.tracing import Tracer
from tests.e2e.fuzzing import grpc_message
from tests.serving import ServerProcess, server_process

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
V2 = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT32", "data": [1]}]}


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


class Receiver(http.server.ThreadingHTTPServer):
    """An OTLP/HTTP collector that keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taking)
        self.requests: list[ExportTraceServiceRequest] = []


class Taking(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def over_rest(server: ServerProcess) -> None:
    request = urllib.request.Request(
        f"{server.url}/v2/models/m/infer", json.dumps(V2).encode(), {"traceparent": TRACEPARENT}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()


def over_grpc(server: ServerProcess) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        call(grpc_message("m", raw=True), timeout=30, metadata=[("traceparent", TRACEPARENT)])


@pytest.mark.parametrize("ask", [over_rest, over_grpc], ids=["REST", "gRPC"])
def test_spans_arrive_over_otlp(
    ask: Callable[[ServerProcess], None], receiver: Receiver, tmp_path: Path
) -> None:
    """What was not sent before SIGTERM is sent while the server ends."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.server_port}"}
    with server_process("--model", f"m=echo:{tmp_path}", env=env) as server:
        ask(server)
        server.process.terminate()
        server.process.wait(20)
    resources = [each for request in receiver.requests for each in request.resource_spans]
    names = {a.key: a.value.string_value for r in resources for a in r.resource.attributes}
    assert names["service.name"] == "headrace"
    spans = {s.name: s for r in resources for scope in r.scope_spans for s in scope.spans}
    assert set(spans) == {"m", "decode", "queue", "predict", "encode"}
    server_span = spans.pop("m")
    assert server_span.parent_span_id.hex() == PARENT
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert {span.parent_span_id for span in spans.values()} == {server_span.span_id}
