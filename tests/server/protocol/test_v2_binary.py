"""The binary tensor data extension: the worked example and the tables of the contract, §2.7."""

from typing import Any

import numpy as np
import orjson
import pytest

from headrace.server.errors import Code, InvalidInput
from headrace.server.protocol import v2_rest
from headrace.server.protocol.limits import ParseLimits
from headrace.server.request import Request, Response
from headrace.server.tensor import Datatype, Tensor, TensorSpec

LIMITS = ParseLimits()
BLOB = np.array([1, 2, 3, 4], "<f4").tobytes()


def read(blob: bytes, *inputs: dict[str, Any], json_length: int | None = None) -> Request:
    text = orjson.dumps({"inputs": list(inputs)})
    length = len(text) if json_length is None else json_length
    return v2_rest.to_request(v2_rest.parse(text + blob, length, LIMITS), "m", [], LIMITS)


def binary(size: Any, **changes: Any) -> dict[str, Any]:
    """An input INPUT0 of shape [2, 2] and size bytes, with changes."""
    given = {"name": "INPUT0", "shape": [2, 2], "datatype": "FP32"}
    return {**given, "parameters": {"binary_data_size": size}, **changes}


def test_the_example_of_the_contract_in_and_out() -> None:
    text = (
        b'{"inputs":[{"name":"INPUT0","shape":[2,2],"datatype":"FP32","parameters":'
        b'{"binary_data_size":16}}],"parameters":{"binary_data_output":true}}'
    )
    envelope = v2_rest.parse(text + BLOB, len(text), LIMITS)
    request = v2_rest.to_request(envelope, "m", [], LIMITS)
    assert request.inputs[0].array.tolist() == [[1, 2], [3, 4]]
    assert request.binary_inputs == {"INPUT0"}
    answer = Response("m", [Tensor("OUTPUT0", request.inputs[0].array)], "7", "1")
    encoded = v2_rest.encode(answer, request)
    assert encoded.content_type == "application/octet-stream"
    assert encoded.json_length == len(encoded.parts[0])
    assert encoded.parts[0] == (
        b'{"model_name":"m","model_version":"1","id":"7","outputs":[{"name":"OUTPUT0",'
        b'"datatype":"FP32","shape":[2,2],"parameters":{"binary_data_size":16}}]}'
    )
    assert encoded.body == bytes(encoded.parts[0]) + BLOB


def test_json_and_binary_inputs_mix_in_the_order_of_inputs() -> None:
    request = read(
        b"\x01" + b"\x02\x00\x00\x00hi",
        binary(1, name="a", shape=[1], datatype="BOOL"),
        {"name": "b", "shape": [1], "datatype": "INT8", "data": [5]},
        binary(6, name="c", shape=[1], datatype="BYTES"),
        binary(0, name="d", shape=[0, 3]),
    )
    assert [tensor.array.tolist() for tensor in request.inputs] == [[True], [5], [b"hi"], []]
    assert request.inputs[3].shape == (0, 3)
    assert request.binary_inputs == {"a", "c", "d"}


def test_an_aligned_tensor_is_a_view_of_the_body_and_another_a_copy() -> None:
    text = orjson.dumps({"inputs": [binary(16)]})
    body = bytearray(text + b" " * (-len(text) % 4) + BLOB)
    for spoil, is_view in ((0, True), (1, False)):
        json_length = len(body) - 16 - spoil
        moved = body[:json_length] + BLOB if spoil else body
        request = v2_rest.to_request(v2_rest.parse(moved, json_length, LIMITS), "m", [], LIMITS)
        array = request.inputs[0].array
        assert np.shares_memory(array, np.frombuffer(moved, np.uint8)) is is_view
        assert array.flags.aligned
        assert not array.flags.writeable
        assert array.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("header", "length"),
    [
        pytest.param("140", 140, id="a number"),
        pytest.param(" 140 ", 140, id="blanks around it"),
        pytest.param("0", 0, id="0: a raw binary request"),
        pytest.param("156", 156, id="all of the body"),
    ],
)
def test_json_length(header: str, length: int) -> None:
    assert v2_rest.parse_json_length(header, 156) == length


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        pytest.param(
            "abc",
            "Inference-Header-Content-Length: expected a number of bytes, got 'abc'",
            id="not a number",
        ),
        pytest.param(
            "", "Inference-Header-Content-Length: expected a number of bytes, got ''", id="empty"
        ),
        pytest.param(
            "1_0",
            "Inference-Header-Content-Length: expected a number of bytes, got '1_0'",
            id="Python's own spelling",
        ),
        pytest.param(
            "-5", "inference header size should be in range (0, 125), got: -5", id="negative"
        ),
        pytest.param(
            "99999",
            "inference header size should be in range (0, 125), got: 99999",
            id="more than the body",
        ),
        pytest.param(
            "9" * 5000,
            "inference header size should be in range (0, 125), got: " + "9" * 32,
            id="thousands of digits",
        ),
    ],
)
def test_json_length_refused(header: str, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        v2_rest.parse_json_length(header, 125)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("blob", "inputs", "sentence"),
    [
        pytest.param(
            BLOB,
            [binary(16, shape=[2, 3])],
            "input 'INPUT0': FP32 of shape [2, 3] needs 24 bytes, got 16",
            id="size is not shape times element",
        ),
        pytest.param(
            BLOB[:8],
            [binary(16)],
            "unexpected size for input 'INPUT0', expecting 8 additional bytes for model 'm'",
            id="blob shorter than declared",
        ),
        pytest.param(
            BLOB[:8],
            [binary(16, shape=[2])],
            "unexpected size for input 'INPUT0', expecting 8 additional bytes for model 'm'",
            id="blob shorter than declared, though the shape happens to fit",
        ),
        pytest.param(
            BLOB + b"123",
            [binary(16)],
            "unexpected additional input data for model 'm': 3 bytes follow the last input",
            id="bytes left over",
        ),
        pytest.param(
            BLOB,
            [binary(16, data=[1, 2, 3, 4])],
            "input 'INPUT0' must set exactly one of 'data' and the parameter 'binary_data_size', "
            "it sets both",
            id="data and binary_data_size",
        ),
        pytest.param(
            b"\x05\x00\x00\x00abc",
            [binary(7, datatype="BYTES", shape=[1])],
            "input 'INPUT0': BYTES element 0 says 5 bytes, but 3 are left",
            id="BYTES truncated in an element",
        ),
        pytest.param(
            b"\x01\x00\x00\x00a\x05\x00",
            [binary(7, datatype="BYTES", shape=[2])],
            "input 'INPUT0': BYTES element 1 is cut off inside its 4-byte length (2 bytes left)",
            id="BYTES truncated in a length",
        ),
        pytest.param(
            b"\x01\x00\x00\x00a",
            [binary(5, datatype="BYTES", shape=[3])],
            "input 'INPUT0': expected 3 BYTES elements, got 1",
            id="fewer BYTES elements than the shape needs",
        ),
        pytest.param(
            b"\x01\x00\x00\x00a" * 3,
            [binary(15, datatype="BYTES", shape=[1])],
            "input 'INPUT0': expected 1 BYTES elements, got more",
            id="more BYTES elements than the shape needs",
        ),
        pytest.param(
            BLOB,
            [binary("16")],
            "input 'INPUT0': 'binary_data_size' must be a whole number from 0, got '16'",
            id="size as a string",
        ),
        pytest.param(
            BLOB,
            [binary(-1)],
            "input 'INPUT0': 'binary_data_size' must be a whole number from 0, got -1",
            id="size negative",
        ),
        pytest.param(
            BLOB,
            [binary(16, shape=[-1, 2])],
            "input 'INPUT0': shape [-1, 2] has a negative dimension",
            id="-1 is for JSON data only",
        ),
    ],
)
def test_malformed_binary_requests(
    blob: bytes, inputs: list[dict[str, Any]], sentence: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(blob, *inputs)
    assert str(caught.value) == sentence
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_blob_without_the_header_names_the_header() -> None:
    body = orjson.dumps({"inputs": [binary(16)]}) + BLOB
    with pytest.raises(InvalidInput) as caught:
        v2_rest.parse(body, None, LIMITS)
    assert str(caught.value).startswith("request body: not valid JSON: ")
    assert str(caught.value).endswith(
        "; a body with binary data needs the header Inference-Header-Content-Length"
    )


def test_a_header_that_cuts_the_json_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        read(BLOB, binary(16), json_length=20)
    assert str(caught.value).startswith("request body: not valid JSON: ")


@pytest.mark.parametrize(
    ("body", "spec", "value"),
    [
        pytest.param(BLOB, TensorSpec("x", Datatype.FP32, (-1, 2)), [[1, 2], [3, 4]], id="free"),
        pytest.param(BLOB, TensorSpec("x", Datatype.FP32, (4,)), [1, 2, 3, 4], id="fixed"),
        pytest.param(b"any\x00", TensorSpec("x", Datatype.BYTES, (-1,)), [b"any\x00"], id="BYTES"),
        pytest.param(b"a", TensorSpec("x", Datatype.BYTES, (-1, 1)), [[b"a"]], id="BYTES, batch"),
        pytest.param(b"", TensorSpec("x", Datatype.FP32, (-1, 2)), [], id="nothing"),
    ],
)
def test_raw_binary_request(body: bytes, spec: TensorSpec, value: list[Any]) -> None:
    request = v2_rest.raw_binary_request(body, "m", [spec], "3")
    assert request.inputs[0].name == "x"
    assert request.inputs[0].array.tolist() == value
    assert (request.model_name, request.model_version) == ("m", "3")
    assert request.parameters == {"binary_data_output": True}


@pytest.mark.parametrize(
    ("body", "declared", "sentence"),
    [
        pytest.param(
            BLOB,
            [],
            "Inference-Header-Content-Length: 0 means a raw binary request, which needs a model "
            "with one declared input; 'm' has an unknown number of",
            id="no declared inputs",
        ),
        pytest.param(
            BLOB,
            [TensorSpec("x", Datatype.FP32, (4,)), TensorSpec("y", Datatype.FP32, (4,))],
            "Inference-Header-Content-Length: 0 means a raw binary request, which needs a model "
            "with one declared input; 'm' has 2",
            id="two inputs",
        ),
        pytest.param(
            BLOB,
            [TensorSpec("x", Datatype.FP32, (-1, -1))],
            "a raw binary request needs a shape with at most one free dimension, "
            "but input 'x' has [-1, -1]",
            id="two free dimensions",
        ),
        pytest.param(
            BLOB,
            [TensorSpec("x", Datatype.FP32, (-1, 3))],
            "input 'x': 16 bytes do not divide into FP32 of shape [-1, 3]",
            id="bytes that are no whole row",
        ),
        pytest.param(
            BLOB,
            [TensorSpec("x", Datatype.FP32, (3,))],
            "input 'x': FP32 of shape [3] needs 12 bytes, got 16",
            id="another size",
        ),
        pytest.param(
            BLOB,
            [TensorSpec("x", Datatype.BYTES, (2,))],
            "a raw binary request carries one BYTES element, but input 'x' has shape [2]",
            id="two BYTES elements",
        ),
    ],
)
def test_raw_binary_request_refused(body: bytes, declared: list[TensorSpec], sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        v2_rest.raw_binary_request(body, "m", declared)
    assert str(caught.value) == sentence
