"""The OpenAPI 3.1 document, made from the route table and what `OPERATIONS` says of each path.

A path that is another's with a version, a label or a repository's name is described with it, so a
new route needs one entry here, and a test fails without it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from headrace.server.rest.openapi_schemas import SCHEMAS, ref
from headrace.server.rest.routes import Route

JSON = "application/json"
TEXT = {"type": "string"}
_VARIANTS = re.compile(r"/(versions|labels)/\{version\}|/\{repository\}")
_NAMES = re.compile(r"\{(\w+)\}")

# What any path may answer besides its success, each with the one error body.
ERRORS = {
    400: "The request is malformed, or its body is wrong; the text says where.",
    403: "The operator has not opened this door; the text names the flag.",
    404: "No such path, model or version.",
    405: "The path has other methods; `Allow` names them.",
    408: "The headers or the body did not arrive in time.",
    413: "The body is over `--max_body_bytes`.",
    415: "A content coding or charset that is not read.",
    431: "The headers are over `--max_header_bytes` or `--max_headers`.",
    500: "The model failed.",
    501: "This model or server cannot do that.",
    503: "Not ready, or its queue is full; retry after `Retry-After` seconds.",
    504: "The request took longer than it may.",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """body, answer: names of schemas; None: there is none. example: a body that works."""

    tag: str
    summary: str
    answer: str | None
    body: str | None = None
    needs_body: bool = False
    example: Any = None
    media: str = JSON  # of the answer
    other_media: tuple[str, ...] = ()


_V1_ROWS = {"instances": [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]}
_V2_ROWS = {
    "inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [[1.0, 2.0], [3.0, 4.0]]}]
}
_OCTETS = ("application/octet-stream",)
_M = "/v2/models/{model}"
_SHARED = "Shared memory, which this server does not have"

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("GET", "/"): Operation("Health", "Whether the server is alive", "Alive"),
    ("GET", "/v2/health/live"): Operation("Health", "Whether the server is live", "Live"),
    ("GET", "/v2/health/ready"): Operation("Health", "Whether the server is ready", "Ready"),
    ("GET", "/v2"): Operation("Server", "Name, version and extensions", "ServerMetadata"),
    ("GET", "/metrics"): Operation(
        "Server",
        "Prometheus metrics",
        None,
        media="text/plain",
        other_media=("application/openmetrics-text",),
    ),
    ("GET", "/openapi.json"): Operation("Server", "This document", "Document"),
    ("GET", "/docs"): Operation("Server", "This document as a page", None, media="text/html"),
    ("GET", "/v1/models"): Operation("V1", "Names of all models", "Models"),
    ("GET", "/v1/models/{model}"): Operation("V1", "Whether a model is ready", "ModelReady"),
    ("POST", "/v1/models/{model}:predict"): Operation(
        "V1", "Predict", "V1Response", "V1Request", True, _V1_ROWS, other_media=("*/*",)
    ),
    ("POST", "/v1/models/{model}:explain"): Operation(
        "V1", "Explain a prediction", "V1Response", "V1Request", True, _V1_ROWS,
        other_media=("*/*",),
    ),
    ("GET", "/v2/models"): Operation("V2", "Names of all models", "Models"),
    ("GET", _M): Operation("V2", "A model's inputs and outputs", "ModelMetadata"),
    ("GET", f"{_M}/ready"): Operation("V2", "Whether a model is ready", "ModelReady"),
    ("POST", f"{_M}/infer"): Operation(
        "V2", "Infer: JSON, or with the binary extension JSON and blobs", "InferenceResponse",
        "InferenceRequest", True, _V2_ROWS, other_media=_OCTETS,
    ),
    ("POST", f"{_M}/generate"): Operation(
        "V2", "Generate: flat JSON in and out", "GenerateResponse", "GenerateRequest", True,
        {"text_input": "hello"},
    ),
    ("POST", f"{_M}/generate_stream"): Operation(
        "V2", "Generate, answered as server-sent events", None, "GenerateRequest", True,
        {"text_input": "hello"}, media="text/event-stream",
    ),
    ("GET", f"{_M}/config"): Operation("V2", "A model's configuration", "ModelConfig"),
    ("GET", f"{_M}/stats"): Operation("V2", "A model's statistics", "Statistics"),
    ("GET", f"{_M}/batching"): Operation("V2", "How a model is batched, and why", "Batching"),
    ("GET", "/v2/models/stats"): Operation("V2", "Statistics of all models", "Statistics"),
    ("POST", "/v2/repository/index"): Operation(
        "Repository", "Every model there is and its state", "Index", "IndexRequest",
        example={"ready": True},
    ),
    ("POST", "/v2/repository/models/{model}/load"): Operation(
        "Repository", "Load a model, or load it again", "Loaded", "RepositoryRequest", example={}
    ),
    ("POST", "/v2/repository/models/{model}/unload"): Operation(
        "Repository", "Unload a model", "Unloaded", "RepositoryRequest", example={}
    ),
    ("GET", "/v2/logging"): Operation("Settings", "Log settings", "LogSettings"),
    ("POST", "/v2/logging"): Operation(
        "Settings", "Change log settings", "LogSettings", "LogSettings",
        example={"log_verbose_level": 1},
    ),
    **{
        (method, f"{prefix}/trace/setting"): Operation(
            "Settings",
            "Trace settings" if method == "GET" else "Change trace settings",
            "TraceSettings",
            None if method == "GET" else "TraceSettings",
            example=None if method == "GET" else {"trace_level": ["OFF"]},
        )
        for method in ("GET", "POST")
        for prefix in ("/v2", _M)
    },
    **{
        (method, f"/v2/{kind}sharedmemory/{path}"): Operation("Shared memory", _SHARED, None)
        for kind in ("system", "cuda")
        for method, path in (
            ("GET", "status"),
            ("GET", "region/{region}/status"),
            ("POST", "region/{region}/register"),
            ("POST", "region/{region}/unregister"),
            ("POST", "unregister"),
        )
    },
}  # fmt: skip


def document(routes: Iterable[Route], version: str) -> dict[str, Any]:
    """routes: all there are. Raises KeyError for one that `OPERATIONS` does not describe."""
    paths: dict[str, Any] = {}
    for route in routes:
        operation = OPERATIONS[route.method, _VARIANTS.sub("", route.template)]
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route, operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Headrace model server",
            "version": version,
            "description": "V1 and V2 (the Open Inference Protocol) with their extensions. Every "
            'failure, on every path, answers `{"error": "…"}`.',
        },
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "responses": {
                str(status): {
                    "description": text,
                    "content": {JSON: {"schema": ref("Error")}},
                }
                for status, text in ERRORS.items()
            },
        },
    }


def _operation(route: Route, operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": _operation_id(route),
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [
            {
                "name": name,
                "in": "path",
                "required": True,
                "schema": {"type": "string", "minLength": 1},
            }
            for name in _NAMES.findall(route.template)
        ],
        "responses": _responses(operation),
    }
    if operation.body is not None:
        content: dict[str, Any] = {"schema": ref(operation.body)}
        if operation.example is not None:
            content["example"] = operation.example
        described["requestBody"] = {"required": operation.needs_body, "content": {JSON: content}}
    return described


def _responses(operation: Operation) -> dict[str, Any]:
    errors = {str(status): {"$ref": f"#/components/responses/{status}"} for status in ERRORS}
    if operation.tag == "Shared memory":
        return errors
    schema = ref(operation.answer) if operation.answer in SCHEMAS else {}
    content = {operation.media: {"schema": schema if operation.media == JSON else TEXT}}
    content.update({media: {} for media in operation.other_media})
    return {"200": {"description": "Success.", "content": content}, **errors}


def _operation_id(route: Route) -> str:
    words = re.findall(r"\w+", route.template) or ["root"]
    return "_".join([route.method.lower(), *words])
