"""Triton's generate: the rules of the contract, §4.7."""

from typing import Any

import ml_dtypes
import numpy as np
import orjson
import pytest

from headrace.server.errors import InvalidInput
from headrace.server.protocol import generate
from headrace.server.protocol.json_text import dumps
from headrace.server.request import Response
from headrace.server.tensor import Datatype, Tensor, TensorSpec, bytes_array

TEXT = TensorSpec("text_input", Datatype.BYTES, (-1, 1))
NUMBERS = TensorSpec("x", Datatype.FP32, (-1, 2))


def test_inputs_become_tensors_and_the_rest_parameters() -> None:
    request = generate.to_request(
        {"id": "7", "text_input": "hi", "stream": False, "parameters": {"temperature": 0}},
        "m",
        [TEXT],
        "3",
    )
    assert (request.id, request.model_name, request.model_version) == ("7", "m", "3")
    assert [(t.name, t.array.tolist()) for t in request.inputs] == [("text_input", [[b"hi"]])]
    assert request.parameters == {"stream": False, "temperature": 0}


@pytest.mark.parametrize(
    ("declared", "count", "shape"),
    [
        pytest.param((1,), 1, (1,), id="fixed"),
        pytest.param((-1,), 3, (3,), id="free"),
        pytest.param((-1, 2), 4, (2, 2), id="the fixed dimension divides"),
        pytest.param((-1, -1), 3, (1, 3), id="the innermost free one takes the rest"),
        pytest.param((-1, 2, -1), 6, (1, 2, 3), id="beside a fixed one"),
        pytest.param((), 1, (), id="a scalar"),
        pytest.param((2, 2), 3, None, id="fixed, another count"),
        pytest.param((-1, 2), 3, None, id="does not divide"),
        pytest.param((-1, 0), 0, None, id="a free dimension beside 0"),
    ],
)
def test_fit_shape(declared: tuple[int, ...], count: int, shape: tuple[int, ...] | None) -> None:
    assert generate.fit_shape(declared, count) == shape


@pytest.mark.parametrize(
    ("value", "datatype", "array"),
    [
        pytest.param(1, Datatype.INT32, [1], id="a scalar"),
        pytest.param([1, 2.5, None], Datatype.FP64, [1, 2.5, None], id="a list"),
        pytest.param(True, Datatype.BOOL, [True], id="a boolean"),
        pytest.param([1.5], Datatype.FP16, [1.5], id="FP16, which has no other form here"),
        pytest.param([1.5], Datatype.BF16, [1.5], id="BF16"),
    ],
)
def test_values(value: Any, datatype: Datatype, array: list[Any]) -> None:
    request = generate.to_request({"x": value}, "m", [TensorSpec("x", datatype, (-1,))])
    tensor = request.inputs[0]
    assert tensor.datatype is datatype
    np.testing.assert_array_equal(tensor.array.astype("f8"), np.array(array, "f8"))


def test_a_model_that_declares_nothing_gets_its_text_and_lists() -> None:
    body = {"text_input": "hi", "a": [1], "b": [0.5, 1], "c": [True], "d": ["x"], "top": "p"}
    request = generate.to_request(body, "m", [])
    assert [(t.name, str(t.datatype), t.array.tolist()) for t in request.inputs] == [
        ("text_input", "BYTES", [b"hi"]),
        ("a", "INT64", [1]),
        ("b", "FP64", [0.5, 1]),
        ("c", "BOOL", [True]),
        ("d", "BYTES", [b"x"]),
    ]
    assert request.parameters == {"top": "p"}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        pytest.param([], "request body: expected an object, got an array", id="no object"),
        pytest.param(
            {"id": 1}, "request body: 'id' must be a string, got a number", id="id is a number"
        ),
        pytest.param(
            {"x": [1, 2, 3]},
            "The schema can not convert input 'x' to tensor with proper shape: "
            "3 element(s) for shape [-1, 2]",
            id="misfit",
        ),
        pytest.param(
            {"x": [[1, 2]]},
            "The schema can not convert input 'x' to tensor with proper shape: "
            "1 element(s) for shape [-1, 2]",
            id="nested",
        ),
        pytest.param(
            {"x": [1, "a"]},
            "input 'x': data[1] is a string, FP32 needs a number or null",
            id="of the wrong kind",
        ),
        pytest.param(
            {"other": {"a": 1}},
            "request body: parameter 'other' is an object; expected a string, number or boolean",
            id="a nested parameter",
        ),
        pytest.param(
            {"parameters": [1]},
            "request body: 'parameters': expected an object, got an array",
            id="parameters are no object",
        ),
        pytest.param(
            {"parameters": {"priority": -1}},
            "request body: 'priority' must be a whole number from 0, got -1",
            id="a reserved parameter",
        ),
    ],
)
def test_bodies_that_are_refused(body: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        generate.to_request(body, "m", [NUMBERS])
    assert str(caught.value) == sentence


def test_only_a_stream_has_an_empty_final_response() -> None:
    body = {"triton_enable_empty_final_response": True}
    assert generate.to_request(body, "m", [NUMBERS], is_stream=True).parameters == body
    with pytest.raises(InvalidInput):
        generate.to_request(body, "m", [NUMBERS])


def test_one_element_is_a_scalar_and_several_are_a_list() -> None:
    outputs = [
        Tensor("text_output", bytes_array(["ü".encode()], (1, 1))),
        Tensor("scores", np.array([[0.1, 2]], "f4")),
        Tensor("none", np.zeros(0)),
        Tensor("half", np.array([1.5], "f2")),
        Tensor("brain", np.array([1.5, 2], ml_dtypes.bfloat16)),
    ]
    answer = generate.to_json(Response("m", outputs, "7", "1"))
    assert orjson.loads(dumps(answer)) == {
        "id": "7",
        "model_name": "m",
        "model_version": "1",
        "text_output": "ü",
        "scores": [0.1, 2.0],
        "none": [],
        "half": 1.5,
        "brain": [1.5, 2.0],
    }


def test_an_answer_without_id_or_version_has_no_such_keys() -> None:
    assert generate.to_json(Response("m", [])) == {"model_name": "m"}


def test_events_are_framed_for_server_sent_events() -> None:
    assert generate.event({"text_output": "a\nb"}) == b'data: {"text_output":"a\\nb"}\n\n'
