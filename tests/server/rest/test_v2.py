"""V2 infer over HTTP: what clients send (§2.6), binary (§2.7), errors (§2.5), §2.8."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from headrace.server import Model
from tests.server.rest.client import Headers, Reply, ask
from tests.server.rest.models import Waiting, model, usual
from tests.serving import running

PATH = "/v2/models/m/infer"
ROW = np.array([[1, 2]], "<f4").tobytes()
TWICE = np.array([[2, 4]], "<f4").tobytes()


def body(inputs: Any = None, **more: Any) -> bytes:
    entry = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    return json.dumps({"inputs": [entry] if inputs is None else inputs, **more}).encode()


def binary(size: int = 8, **more: Any) -> bytes:
    entry = {
        "name": "x",
        "shape": [1, 2],
        "datatype": "FP32",
        "parameters": {"binary_data_size": size},
    }
    return body([entry], **more)


def inferred(sent: bytes, headers: Headers = (), path: str = PATH, **given: Any) -> Reply:
    async def run() -> Reply:
        async with running(*usual(), enable_grpc=False, **given) as server:
            return await ask(server.ports.http, "POST", path, sent, headers)

    return asyncio.run(run())


def length(text: bytes) -> list[tuple[str, str]]:
    return [("Inference-Header-Content-Length", str(len(text)))]


BINARY = binary(parameters={"binary_data_output": True})


@pytest.mark.parametrize(
    ("sent", "headers"),
    [
        pytest.param(body(), [], id="tritonclient.http: no Content-Type"),
        pytest.param(
            body(),
            [
                ("Content-Type", "application/octet-stream"),
                ("Accept-Encoding", "gzip, deflate, br"),
            ],
            id="tritonclient.http.aio: octets, though it is JSON",
        ),
        pytest.param(
            body(id="1", model_name="other"),
            [("Content-Type", "application/json"), ("Accept-Encoding", "gzip, deflate")],
            id="kserve: its own model_name in the body",
        ),
        pytest.param(body(), [("Content-Type", "application/x-www-form-urlencoded")], id="curl -d"),
        pytest.param(body(), [("Content-Type", "application/json; charset=utf-8")], id="charset"),
        pytest.param(binary() + ROW, length(binary()), id="binary without a Content-Type"),
        pytest.param(
            binary() + ROW,
            [
                ("Content-Type", "application/json"),
                ("content-type", "application/octet-stream"),
                *length(binary()),
            ],
            id="kserve's transformer: two Content-Types",
        ),
        pytest.param(
            binary() + ROW,
            [("Content-Type", "application/json"), *length(binary())],
            id="binary called JSON",
        ),
        pytest.param(gzip.compress(body()), [("Content-Encoding", "gzip")], id="gzip"),
        pytest.param(zlib.compress(body()), [("Content-Encoding", "deflate")], id="deflate"),
        pytest.param(
            gzip.compress(binary() + ROW),
            [("Content-Encoding", "gzip"), *length(binary())],
            id="compressed binary: the length is of the uncompressed JSON",
        ),
    ],
)
def test_what_clients_send(sent: bytes, headers: Headers) -> None:
    reply = inferred(sent, headers)
    assert (reply.status, reply.header("content-type")) == (200, "application/json")
    assert reply.header("content-encoding") is None  # nobody asked for gzip alone
    output = {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [2.0, 4.0]}
    assert reply.json()["outputs"] == [output]


def test_binary_answer() -> None:
    reply = inferred(BINARY + ROW, length(BINARY))
    size = int(reply.header("inference-header-content-length") or 0)
    output = json.loads(reply.body[:size])["outputs"][0]
    assert reply.header("content-type") == "application/octet-stream"
    assert (reply.header("content-length"), reply.body[size:]) == (str(size + 8), TWICE)
    assert (output["parameters"], "data" in output) == ({"binary_data_size": 8}, False)


def test_raw_binary_request() -> None:
    reply = inferred(ROW, [("Inference-Header-Content-Length", "0")])
    assert reply.body.endswith(TWICE)


def test_the_id_is_echoed_or_made() -> None:
    assert inferred(body(id="42")).json()["id"] == "42"
    assert len(inferred(body()).json()["id"]) == 36


@pytest.mark.parametrize(
    ("sent", "headers", "status", "error"),
    [
        pytest.param(
            b"", [], 400, "request body: empty; expected JSON", id="empty"
        ),
        pytest.param(
            binary() + ROW, [("Inference-Header-Content-Length", "many")], 400,
            "Inference-Header-Content-Length: expected a number of bytes, got 'many'",
            id="a length that is no number",
        ),
        pytest.param(
            binary(), [("Inference-Header-Content-Length", "99999")], 400,
            f"inference header size should be in range (0, {len(binary())}), got: 99999",
            id="a length beyond the body",
        ),
        pytest.param(
            binary() + ROW[:4], length(binary()), 400,
            "unexpected size for input 'x', expecting 4 additional bytes for model 'm'",
            id="a blob too short",
        ),
        pytest.param(
            binary() + ROW + b"!", length(binary()), 400,
            "unexpected additional input data for model 'm': 1 bytes follow the last input",
            id="bytes left over",
        ),
    ],
)  # fmt: skip
def test_refused(sent: bytes, headers: Headers, status: int, error: str) -> None:
    reply = inferred(sent, headers)
    assert (reply.status, reply.error) == (status, error)


@pytest.mark.parametrize("count", [2, 70, 7000], ids=["a few", "some", "many"])
def test_a_number_that_no_datatype_holds_is_the_callers_mistake(count: int) -> None:
    entry = {"name": "x", "shape": [count], "datatype": "FP32", "data": [1.5] * count}
    text = body([entry]).replace(b"1.5]", b"1%b]" % (b"0" * 400))
    assert inferred(text).status == 400


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        pytest.param(
            "/v2/models/zz/infer", 404, "Model with name zz does not exist.", id="unknown model"
        ),
        pytest.param(
            "/v2/models/m/versions/9/infer", 404,
            "Model with name m has no version '9' (versions: 1).", id="unknown version",
        ),
        pytest.param("/v2/models/nr/infer", 503, "Model with name nr is not ready.", id="unready"),
    ],
)  # fmt: skip
def test_refused_model(path: str, status: int, error: str) -> None:
    reply = inferred(body(), path=path)
    assert (reply.status, reply.error) == (status, error)


def test_wrong_json_is_told_before_the_unknown_model() -> None:
    assert inferred(b"{", path="/v2/models/zz/infer").status == 400


@pytest.mark.parametrize(
    ("accepted", "given", "coding"),
    [
        pytest.param("gzip", {}, "gzip", id="gzip alone: a client that means it"),
        pytest.param("deflate", {}, "deflate", id="deflate alone"),
        pytest.param("gzip, deflate, br", {}, None, id="merely advertised"),
        pytest.param("br", {}, None, id="never brotli"),
        pytest.param(
            "gzip, deflate, br", {"compress_min_bytes": 1}, "gzip", id="the operator wants it"
        ),
    ],
)
def test_compressed_answer(accepted: str, given: dict[str, Any], coding: str | None) -> None:
    reply = inferred(body(), [("Accept-Encoding", accepted)], **given)
    assert reply.header("content-encoding") == coding
    assert reply.header("vary") == ("Accept-Encoding" if coding else None)
    text = reply.body
    if coding is not None:
        text = gzip.decompress(text) if coding == "gzip" else zlib.decompress(text)
    assert json.loads(text)["outputs"][0]["data"] == [2.0, 4.0]


def test_a_compressed_binary_answer_keeps_the_uncompressed_length() -> None:
    reply = inferred(BINARY + ROW, [("Accept-Encoding", "gzip"), *length(BINARY)])
    size = int(reply.header("inference-header-content-length") or 0)
    assert gzip.decompress(reply.body)[size:] == TWICE


@pytest.mark.parametrize("path", ["/v2/models/m/infer", "/v2/models/zz/infer"])
def test_errors_are_never_compressed(path: str) -> None:
    reply = inferred(b"{", [("Accept-Encoding", "gzip")], path)
    assert (reply.status, reply.header("content-encoding")) == (400, None)


def test_a_v2_answer_to_a_binary_cloud_event_carries_event_headers() -> None:
    sent = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "urn:x"), ("ce-type", "t")]
    reply = inferred(body(), sent)
    assert reply.header("ce-source") == "io.kserve.inference.m"
    assert reply.header("content-type") == "application/json"


class Counting(Model):
    """Streams as many answers as the request's `count` says; -1: fails after the first."""

    def __init__(self) -> None:
        super().__init__("counting")
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        return self._answers((payload.parameters or {}).get("count", 2))

    async def _answers(self, count: int) -> AsyncIterator[Any]:
        for i in range(abs(count)):
            output = {"name": "n", "shape": [1], "datatype": "INT32", "data": [i]}
            yield {"model_name": "counting", "id": "7", "outputs": [output]}
        if count < 0:
            raise ValueError("lost count")


def generated(path: str, sent: dict[str, Any]) -> Reply:
    async def run() -> Reply:
        async with running(model(Counting()), *usual(), enable_grpc=False) as server:
            return await ask(server.ports.http, "POST", path, sent)

    return asyncio.run(run())


def test_generate_stream() -> None:
    reply = generated("/v2/models/counting/generate_stream", {"text_input": "hi", "id": "7"})
    assert reply.header("content-type") == "text/event-stream; charset=utf-8"
    assert reply.body == b"".join(
        b'data: {"id":"7","model_name":"counting","model_version":"1","n":%d}\n\n' % i
        for i in range(2)
    )


def test_an_error_after_the_first_event_is_the_last_event() -> None:
    reply = generated("/v2/models/counting/generate_stream", {"text_input": "hi", "count": -1})
    assert reply.status == 200
    assert reply.body.endswith(b'\n\ndata: {"error":"ValueError : lost count"}\n\n')


def test_an_error_before_the_first_event_is_an_ordinary_one() -> None:
    reply = generated("/v2/models/zz/generate_stream", {"text_input": "hi"})
    assert (reply.status, reply.error) == (404, "Model with name zz does not exist.")


def test_generate() -> None:
    reply = generated("/v2/models/m/generate", {"id": "7", "x": [1, 2]})
    assert reply.json() == {"id": "7", "model_name": "m", "model_version": "1", "y": [2.0, 4.0]}


def test_generate_of_one_answer_of_a_stream() -> None:
    reply = generated("/v2/models/counting/generate", {"text_input": "hi", "count": 1})
    assert reply.json()["n"] == 0


@pytest.mark.parametrize(("count", "word"), [(0, "no"), (2, "more")])
def test_generate_needs_exactly_one(count: int, word: str) -> None:
    reply = generated("/v2/models/counting/generate", {"text_input": "hi", "count": count})
    assert reply.status == 501
    assert reply.error == (
        f"generate expects model to produce exactly 1 response, it produced {word}; "
        "use generate_stream"
    )


def test_infer_of_a_model_that_streams() -> None:
    reply = inferred_counting()
    assert (reply.status, reply.error) == (
        501,
        "model counting streams its answers: call generate_stream or ModelStreamInfer",
    )


def inferred_counting() -> Reply:
    entry = {"name": "a", "shape": [1], "datatype": "INT32", "data": [1]}
    return generated("/v2/models/counting/infer", {"inputs": [entry]})


def test_request_timeout() -> None:
    async def run() -> Reply:
        waiting = Waiting()
        async with running(model(waiting), enable_grpc=False, request_timeout=0.1) as server:
            return await ask(
                server.ports.http, "POST", "/v1/models/waiting:predict", {"instances": [1]}
            )

    reply = asyncio.run(run())
    assert (reply.status, reply.error) == (
        504,
        "the request took longer than 0.1 s (--request_timeout 0.1)",
    )
