"""Custom models written for kserve answer the same on kserve 0.21 and, with other imports, on ours.

The models stand in models/, one file per way of writing them. Where the data-plane contract decides
against KServe, the case says how ours differs and which decision it is.
"""

import base64
import http.client
import json
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format

from headrace.server.grpc.messages import from_json, message_class
from tests.server.sdk.programs import Ports, serving, with_our_imports

HERE = Path(__file__).parent
KSERVE = HERE.parents[2] / ".venv" / "clients" / "kserve" / "bin" / "python"
FILES = sorted((HERE / "models").glob("*.py"))
SERVE = f"""\
import {", ".join(file.stem for file in FILES)}
from kserve import ModelServer
files = [{", ".join(file.stem for file in FILES)}]
ModelServer().start([model for file in files for model in file.models()])
"""
UPSTREAM = """\
from rows import Rows
from headrace.server import InvalidInput, ModelServer

class Picky(Rows):
    def preprocess(self, payload, headers=None):
        if payload["instances"] == [[1001]]:
            raise InvalidInput("1001 is too large")
        return payload

ModelServer().start([Picky("rows-behind")])
"""


@dataclass(frozen=True)
class Servers:
    kserve: Ports
    ours: Ports


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    if not KSERVE.exists():
        pytest.fail(f"{KSERVE} is missing: `make test` sets it up")
    theirs, folder = tmp_path_factory.mktemp("kserve"), tmp_path_factory.mktemp("ours")
    for name, text in {"serve.py": SERVE, **{f.name: f.read_text() for f in FILES}}.items():
        (theirs / name).write_text(text)
        (folder / name).write_text(with_our_imports(text))
    (folder / "upstream.py").write_text(UPSTREAM)
    logs = tmp_path_factory.mktemp("logs")
    with serving([sys.executable, "upstream.py"], folder, logs / "upstream") as upstream:
        command = ["serve.py", "--predictor_host", f"127.0.0.1:{upstream.http}"]
        with (
            serving([sys.executable, *command], folder, logs / "ours") as ours,
            serving([str(KSERVE), *command], theirs, logs / "kserve") as kserve,
        ):
            yield Servers(kserve, ours)


def ask(port: int, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, dict(headers))
        reply = connection.getresponse()
        content = reply.read()
        kept = {k.lower(): v for k, v in reply.getheaders() if k.lower().startswith("x-")}
        if reply.getheader("content-type", "").startswith("text/"):
            kept["content-type"] = reply.getheader("content-type", "").split(";")[0]
        try:
            return Answer(reply.status, json.loads(content), kept)
        except ValueError:
            return Answer(reply.status, content, kept)
    finally:
        connection.close()


ROWS = {"instances": [[1, 2, 3], [4, 5, 6]]}


def v2(*inputs: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "7", "inputs": list(inputs), **more}


def tensor(name: str, datatype: str, shape: list[int], data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


X = tensor("x", "FP32", [2, 2], [1.5, 2, 3, 4])
N = tensor("n", "INT64", [2], [1, 2])
BINARY_HEAD = json.dumps(
    {
        "id": "7",
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [2],
                "parameters": {"binary_data_size": 8},
            }
        ],
    }
).encode()
BINARY = BINARY_HEAD + np.array([1, 2], "<f4").tobytes()
BINARY_HEADERS = {
    "content-type": "application/octet-stream",
    "inference-header-content-length": str(len(BINARY_HEAD)),
}


@dataclass(frozen=True)
class Case:
    path: str
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


def v1(model: str, body: Any, verb: str = "predict", **headers: str) -> Case:
    return Case(f"/v1/models/{model}:{verb}", body, headers)


def infer(model: str, body: Any, **headers: str) -> Case:
    return Case(f"/v2/models/{model}/infer", body, headers)


SAME = {
    "a dict in, a dict out": v1("rows", ROWS),
    "no rows": v1("rows", {"instances": []}),
    "a missing key is the model's own KeyError": v1("rows", {"foo": 1}),
    "instances that are no list": v1("rows", {"instances": 5}),
    "InferRequest in, InferResponse out": infer("tensors", v2(X, N)),
    "nested JSON data": infer("tensors", v2(tensor("x", "FP32", [2, 2], [[1, 2], [3, 4]]))),
    "request parameters": infer("tensors", v2(X, parameters={"a": 1})),
    "one requested output": infer("tensors", v2(X, N, outputs=[{"name": "n"}])),
    "UINT8": infer("tensors", v2(tensor("x", "UINT8", [2], [1, 2]))),
    "INT8": infer("tensors", v2(tensor("x", "INT8", [1], [-5]))),
    "FP64": infer("tensors", v2(tensor("x", "FP64", [1], [0.1]))),
    "binary in": Case("/v2/models/tensors/infer", BINARY, BINARY_HEADERS),
    ".data of a flat input": infer("lists", v2(tensor("x", "INT32", [2, 2], [1, 2, 3, 4]))),
    ".data of a nested input": infer("lists", v2(tensor("x", "INT32", [2, 2], [[1, 2], [3, 4]]))),
    ".data of a binary input": Case("/v2/models/lists/infer", BINARY, BINARY_HEADERS),
    "get_predict_input of rows": v1("helped", {"instances": [[1, 2], [3, 4]]}),
    "get_predict_input of objects": v1("helped", {"instances": [{"a": [1], "b": [2]}]}),
    "get_predict_input of tensors": infer("helped", v2(X)),
    "content_type pd makes a frame": infer(
        "helped", v2(N, tensor("m", "INT64", [2], [3, 4]), parameters={"content_type": "pd"})
    ),
    "hooks share the headers": Case("/v1/models/hooked:predict", ROWS, {"X-Tenant": "t"}),
    "asynchronous hooks": v1("awaited", ROWS),
    "a body that is no JSON reaches the hooks as bytes": Case(
        "/v1/models/awaited:predict", b"\x00\x01", {"content-type": "image/jpeg"}
    ),
    "__call__ overridden": v1("calls-itself", ROWS),
    "response headers": v1("headed", ROWS),
    "a str with a content type": v1("text", ROWS),
    "explain": v1("explained", ROWS, "explain"),
    "predict beside explain": v1("explained", ROWS),
    "no explain": v1("unexplained", ROWS, "explain"),
    "a stream": v1("streamed", ROWS),
    "BYTES": infer("words", v2(tensor("text", "BYTES", [2], ["a", "é"]))),
    "BYTES of two dimensions": infer("words", v2(tensor("text", "BYTES", [1, 2], ["a", "b"]))),
    "as_dataframe": infer(
        "frame",
        v2(tensor("who", "BYTES", [2], ["ann", "bob"]), tensor("age", "INT32", [2], [30, 40])),
    ),
    "a model that is not there": v1("nobody", ROWS),
    "a transformer": v1("rows-behind", ROWS),
    "a transformer's own error": v1("rows-behind", {"instances": [["a"]]}),
    **{
        f"{name} over {protocol}": Case(path, body, {"x-error": name})
        for name in (
            "InvalidInput",
            "InferenceError",
            "InferenceError with a status",
            "ModelNotFound",
            "ModelNotReady",
            "UnsupportedProtocol",
            "NotImplementedError",
            "KeyError",
            "ValueError",
        )
        for protocol, path, body in (
            ("V1", "/v1/models/failing:predict", ROWS),
            ("V2", "/v2/models/failing/infer", v2(X)),
        )
    },
}


@pytest.mark.parametrize("case", SAME.values(), ids=SAME.keys())
def test_rest_answers_are_kserves(servers: Servers, case: Case) -> None:
    """But for D13 (no nulls) and D7 (an unversioned model has version "1")."""
    theirs = post(servers.kserve, case)
    ours = post(servers.ours, case)
    assert (ours.status, ours.headers) == (theirs.status, theirs.headers)
    assert without_nulls_and_version(ours.body) == without_nulls_and_version(theirs.body)


DIFFERENT = {
    "D12: an id is made where the request has none": (
        infer("lists", {"inputs": [N]}),
        500,
        200,
        {
            "model_name": "lists",
            "outputs": [{"name": "count", "shape": [2], "datatype": "INT64", "data": [2, 3]}],
        },
    ),
    "§11 row 40: a model that is not ready is there": (
        v1("unready", ROWS),
        404,
        503,
        {"error": "Model with name unready is not ready."},
    ),
    "§2.5: a stream has no single V2 answer": (
        infer("streamed", v2(X)),
        500,
        501,
        {"error": "model streamed streams its answers: call generate_stream or ModelStreamInfer"},
    ),
    "§2.3: an unknown requested output names those there are": (
        infer("tensors", v2(X, outputs=[{"name": "zz"}])),
        400,
        400,
        {"error": "Unexpected inference output 'zz' for model 'tensors'; it has x"},
    ),
    "§11 row 12: a predictor's status and words are kept": (
        v1("rows-behind", {"instances": [[1000]]}),
        500,
        400,
        {"error": "1001 is too large"},
    ),
}


@pytest.mark.parametrize(
    ("case", "kserve_status", "status", "body"), DIFFERENT.values(), ids=DIFFERENT.keys()
)
def test_rest_answers_that_differ(
    servers: Servers, case: Case, kserve_status: int, status: int, body: Any
) -> None:
    """Where the contract decides against KServe."""
    assert post(servers.kserve, case).status == kserve_status
    ours = post(servers.ours, case)
    found = without_nulls_and_version(ours.body)
    if "id" in found and "id" not in body:
        assert str(uuid.UUID(found.pop("id")))
    assert (ours.status, found) == (status, body)


def post(ports: Ports, case: Case) -> Answer:
    body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
    headers = {"content-type": "application/json", **case.headers}
    return ask(ports.http, "POST", case.path, body, headers)


def without_nulls_and_version(body: Any) -> Any:
    if isinstance(body, dict):
        return {
            key: without_nulls_and_version(value)
            for key, value in body.items()
            if value is not None and key != "model_version"
        }
    if isinstance(body, list):
        return [without_nulls_and_version(each) for each in body]
    return body


def typed(name: str, datatype: str, shape: list[int], **contents: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "contents": contents}


TYPED = typed("x", "FP32", [2, 2], fp32_contents=[1.5, 2, 3, 4])
RAW = {"name": "x", "datatype": "FP32", "shape": [2, 2]}
RAW_CONTENT = base64.b64encode(np.array([1, 2, 3, 4], "<f4").tobytes()).decode()

SAME_GRPC = {
    "typed in, typed out": ("tensors", {"inputs": [TYPED]}, ""),
    "raw in, raw out": ("tensors", {"inputs": [RAW], "raw_input_contents": [RAW_CONTENT]}, ""),
    ".data of a typed input": ("lists", {"inputs": [TYPED]}, ""),
    "the helpers": ("helped", {"inputs": [TYPED]}, ""),
    "BYTES": (
        "words",
        {"inputs": [typed("text", "BYTES", [2], bytes_contents=["YQ==", "Yg=="])]},
        "",
    ),
    "InvalidInput": ("failing", {"inputs": [TYPED]}, "InvalidInput"),
    "ModelNotFound": ("failing", {"inputs": [TYPED]}, "ModelNotFound"),
}


@pytest.mark.parametrize(
    ("model", "request_json", "error"), SAME_GRPC.values(), ids=SAME_GRPC.keys()
)
def test_grpc_answers_are_kserves(
    servers: Servers, model: str, request_json: dict[str, Any], error: str
) -> None:
    theirs = call(servers.kserve, model, request_json, error)
    ours = call(servers.ours, model, request_json, error)
    assert ours == theirs


DIFFERENT_GRPC = {
    "§11 row 8: .data of a raw input is not empty": (
        ("lists", {"inputs": [RAW], "raw_input_contents": [RAW_CONTENT]}, ""),
        {
            "model_name": "lists",
            "id": "7",
            "outputs": [{"name": "count", "datatype": "INT64", "shape": ["2"]}],
            "raw_output_contents": [base64.b64encode(np.array([4, 10], "<i8").tobytes()).decode()],
        },
    ),
    "§3.4: InferenceError is the model's mistake": (
        ("failing", {"inputs": [TYPED]}, "InferenceError"),
        (grpc.StatusCode.INTERNAL, "out of memory"),
    ),
    "§11 row 11: ModelNotReady": (
        ("failing", {"inputs": [TYPED]}, "ModelNotReady"),
        (grpc.StatusCode.UNAVAILABLE, "Model with name other is not ready. warming up"),
    ),
    "§11 row 11: NotImplementedError": (
        ("failing", {"inputs": [TYPED]}, "NotImplementedError"),
        (grpc.StatusCode.UNIMPLEMENTED, "not yet"),
    ),
    "§3.4: UnsupportedProtocol": (
        ("failing", {"inputs": [TYPED]}, "UnsupportedProtocol"),
        (grpc.StatusCode.UNIMPLEMENTED, "Unsupported protocol v7."),
    ),
    "§3.4: another exception's text is shown": (
        ("failing", {"inputs": [TYPED]}, "ValueError"),
        (grpc.StatusCode.INTERNAL, "bad value"),
    ),
    "§11 row 40: a model that is not ready is there": (
        ("unready", {"inputs": [TYPED]}, ""),
        (grpc.StatusCode.UNAVAILABLE, "Model with name unready is not ready."),
    ),
    "§3.4: a stream has no unary answer": (
        ("streamed", {"inputs": [TYPED]}, ""),
        (
            grpc.StatusCode.UNIMPLEMENTED,
            "model streamed streams its answers: call generate_stream or ModelStreamInfer",
        ),
    ),
}


@pytest.mark.parametrize(("asked", "expected"), DIFFERENT_GRPC.values(), ids=DIFFERENT_GRPC.keys())
def test_grpc_answers_that_differ(
    servers: Servers, asked: tuple[str, dict[str, Any], str], expected: Any
) -> None:
    assert call(servers.kserve, *asked) != expected
    assert call(servers.ours, *asked) == expected


def call(ports: Ports, model: str, request_json: dict[str, Any], error: str) -> Any:
    """A ModelInfer: the answer as JSON without its version and sizes, or code and details."""
    response = message_class("inference.ModelInferResponse")
    request = from_json(
        "inference.ModelInferRequest", {"model_name": model, "id": "7", **request_json}
    )
    with grpc.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
        method = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        try:
            answer = method(request, timeout=20, metadata=(("x-error", error),))
        except grpc.RpcError as err:
            return err.code(), err.details()
    answer.model_version = ""
    for output in answer.outputs:
        output.parameters.pop("binary_data_size", None)  # §3.3: may be omitted
    return json_format.MessageToDict(answer, preserving_proto_field_name=True)
