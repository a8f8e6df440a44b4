"""V2 REST answers: the rules of the contract, §2.3, §2.4, §2.7 and §4.8."""

from typing import Any

import ml_dtypes
import numpy as np
import orjson
import pytest

from headrace.server.errors import InvalidInput
from headrace.server.protocol.encoded import Encoded
from headrace.server.protocol.v2_response import encode
from headrace.server.request import Parameters, Request, RequestedOutput, Response
from headrace.server.tensor import Datatype, Tensor, bytes_array


def answer(
    *outputs: Tensor,
    parameters: Parameters | None = None,
    asked: list[RequestedOutput] | None = None,
    **fields: Any,
) -> Encoded:
    """outputs as an answer to a request of these parameters and requested outputs."""
    request = Request("m", [], "42", parameters=parameters or {}, outputs=asked or [])
    return encode(Response("m", list(outputs), model_version="1", **fields), request)


def only_output(encoded: Encoded) -> Any:
    return orjson.loads(encoded.parts[0])["outputs"][0]


def test_json_is_flat_and_row_major_and_has_no_nulls() -> None:
    encoded = answer(Tensor("y", np.array([[1.5, 2], [3, 4]], "f4", order="F")))
    assert encoded.body == (
        b'{"model_name":"m","model_version":"1","id":"42","outputs":'
        b'[{"name":"y","datatype":"FP32","shape":[2,2],"data":[1.5,2.0,3.0,4.0]}]}'
    )
    assert (encoded.content_type, encoded.json_length) == ("application/json", None)


@pytest.mark.parametrize(
    ("own", "asked", "answered"),
    [
        pytest.param("", "7", "7", id="the request's is echoed"),
        pytest.param("mine", "7", "mine", id="the model's own wins"),
        pytest.param("", "", "fresh", id="one is made where there is none"),
    ],
)
def test_id(own: str, asked: str, answered: str) -> None:
    encoded = encode(Response("m", [], own), Request("m", [], asked), lambda: "fresh")
    assert orjson.loads(encoded.body) == {"model_name": "m", "id": answered, "outputs": []}


def test_parameters_of_answer_and_outputs_are_kept() -> None:
    encoded = answer(Tensor("y", np.array([1])), parameters={}, output_parameters={"y": {"k": "v"}})
    assert only_output(encoded)["parameters"] == {"k": "v"}
    body = encode(Response("m", [], "1", parameters={"a": 1.5}), Request("m", [])).body
    assert orjson.loads(body)["parameters"] == {"a": 1.5}


def test_a_size_left_over_from_an_upstream_answer_is_not_passed_on_beside_data() -> None:
    sized = {"y": {"binary_data_size": 8, "k": "v"}}
    output = only_output(answer(Tensor("y", np.array([1])), output_parameters=sized))
    assert output["parameters"] == {"k": "v"}


@pytest.mark.parametrize(
    ("array", "text"),
    [
        pytest.param(np.array([6.8, 0.1], "f4"), b"[6.8,0.1]", id="the shortest float32"),
        pytest.param(np.array([6.8, 1e300]), b"[6.8,1e+300]", id="FP64"),
        pytest.param(np.array([np.nan, np.inf], "f4"), b"[null,null]", id="non-finite"),
        pytest.param(np.array([2**64 - 1], "u8"), b"[18446744073709551615]", id="all 64 bits"),
        pytest.param(np.array([True, False]), b"[true,false]", id="BOOL"),
        pytest.param(np.array([1, 2], ">i2"), b"[1,2]", id="foreign byte order"),
        pytest.param(np.array(5, "i4"), b"[5]", id="a scalar"),
        pytest.param(np.zeros((0, 2)), b"[]", id="no rows"),
        pytest.param(np.array(["ü", "b"]), '["ü","b"]'.encode(), id="text"),
        pytest.param(np.array([b"a", "b", 3], object), b'["a","b","3"]', id="objects as text"),
        pytest.param(np.array(["2026-11-24"], "M8[D]"), b'["2026-11-24"]', id="dates as text"),
    ],
)
def test_json_elements(array: Any, text: bytes) -> None:
    assert b'"data":' + text + b"}" in answer(Tensor("y", array)).body


def test_an_array_of_another_dtype_is_cast_to_its_datatype() -> None:
    assert only_output(answer(Tensor("y", np.array([0.1]), Datatype.FP32)))["data"] == [0.1]
    encoded = answer(
        Tensor("y", np.array([1, 2]), Datatype.FP32), parameters={"binary_data_output": True}
    )
    assert encoded.parts[1] == np.array([1, 2], "<f4").tobytes()


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        pytest.param(
            Tensor("y", np.array([1], "f2")),
            "Sending FP16 data via JSON is not supported. "
            "Please use the binary data format for output 'y'",
            id="FP16",
        ),
        pytest.param(
            Tensor("y", np.array([1], ml_dtypes.bfloat16)),
            "Sending BF16 data via JSON is not supported. "
            "Please use the binary data format for output 'y'",
            id="BF16",
        ),
        pytest.param(
            Tensor("y", bytes_array([b"ok", b"\xff"], (2,))),
            "output 'y': element 1 is not UTF-8 and cannot be sent as JSON; ask for the output "
            "with the parameter 'binary_data': true, or 'content_type': 'base64'",
            id="BYTES that are not UTF-8",
        ),
    ],
)
def test_what_json_cannot_carry(tensor: Tensor, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        answer(tensor)
    assert str(caught.value) == sentence
    assert answer(tensor, parameters={"binary_data_output": True}).json_length


@pytest.mark.parametrize("by", ["the caller", "the model"])
def test_base64_where_asked_for(by: str) -> None:
    tensor = Tensor("y", bytes_array([b"\xff\x00", b""], (2,)))
    hint: Parameters = {"content_type": "base64"}
    if by == "the caller":
        encoded = answer(tensor, asked=[RequestedOutput("y", hint)])
    else:
        encoded = answer(tensor, output_parameters={"y": hint})
    assert only_output(encoded) == {
        "name": "y",
        "datatype": "BYTES",
        "shape": [2],
        "parameters": {"content_type": "base64"},
        "data": ["/wA=", ""],
    }


@pytest.mark.parametrize(
    ("parameters", "asked", "binary"),
    [
        pytest.param({}, [], [], id="nothing said: JSON"),
        pytest.param({"binary_data_output": True}, [], ["a", "b"], id="all in binary"),
        pytest.param({"binary_data_output": False}, [], [], id="said not to"),
        pytest.param({}, [("a", {"binary_data": True}), ("b", {})], ["a"], id="one in binary"),
        pytest.param(
            {"binary_data_output": True},
            [("a", {}), ("b", {"binary_data": True})],
            ["b"],
            id="binary_data_output does not count beside a list of outputs",
        ),
    ],
)
def test_which_outputs_are_binary(
    parameters: Parameters, asked: list[tuple[str, Parameters]], binary: list[str]
) -> None:
    encoded = answer(
        Tensor("a", np.array([1], "i1")),
        Tensor("b", np.array([2], "i1")),
        parameters=parameters,
        asked=[RequestedOutput(name, given) for name, given in asked],
    )
    outputs = orjson.loads(encoded.parts[0])["outputs"]
    assert [output["name"] for output in outputs if "data" not in output] == binary
    assert len(encoded.parts) == 1 + len(binary)
    assert encoded.json_length == (len(encoded.parts[0]) if binary else None)
    assert encoded.content_type == f"application/{'octet-stream' if binary else 'json'}"


def test_binary_outputs_that_are_all_empty_leave_a_json_answer() -> None:
    encoded = answer(Tensor("y", np.zeros((0, 2))), parameters={"binary_data_output": True})
    assert (encoded.content_type, encoded.json_length) == ("application/json", None)
    assert only_output(encoded) == {
        "name": "y",
        "datatype": "FP64",
        "shape": [0, 2],
        "parameters": {"binary_data_size": 0},
    }


def test_a_binary_output_is_a_view_of_the_array() -> None:
    array = np.arange(8, dtype="<f4")
    encoded = answer(Tensor("y", array), parameters={"binary_data_output": True})
    assert np.shares_memory(np.frombuffer(encoded.parts[1], np.uint8), array)


@pytest.mark.parametrize(
    ("array", "count", "shape", "data"),
    [
        pytest.param([1.0, 3.0, 2.0], 2, [2], ["3.000000:1", "2.000000:2"], id="one row"),
        pytest.param(
            [[1.0, 2.0], [4.0, 3.0]],
            1,
            [2, 1],
            ["2.000000:1", "4.000000:0"],
            id="per row of a batch",
        ),
        pytest.param([1.0, 1.0], 5, [2], ["1.000000:0", "1.000000:1"], id="ties; fewer than asked"),
        pytest.param([1, 2], 1, [1], ["2.000000:1"], id="integers print alike"),
        pytest.param(np.array([1, 2], "f2"), 1, [1], ["2.000000:1"], id="FP16 becomes text"),
    ],
)
def test_classification(array: Any, count: int, shape: list[int], data: list[str]) -> None:
    asked = [RequestedOutput("y", {"classification": count})]
    output = only_output(answer(Tensor("y", np.array(array)), asked=asked))
    assert output == {"name": "y", "datatype": "BYTES", "shape": shape, "data": data}


def test_classification_of_text_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        answer(Tensor("y", np.array(["a"])), asked=[RequestedOutput("y", {"classification": 1})])
    assert str(caught.value) == "output 'y': classification needs numbers, it is BYTES"
