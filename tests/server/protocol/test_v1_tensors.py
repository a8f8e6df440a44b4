"""V1 rows to tensors and back: every body of the contract's §1.2, declared and undeclared."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pytest

from headrace.server.errors import InvalidInput
from headrace.server.protocol.json_text import dumps
from headrace.server.protocol.v1_tensors import to_predictions, to_tensors
from headrace.server.request import Context
from headrace.server.tensor import Datatype, Tensor, TensorSpec, bytes_array
from tests.serving import served

FP32 = TensorSpec("x", Datatype.FP32, (-1, 2))
TEXT = TensorSpec("t", Datatype.BYTES, (-1,))
LENGTH = TensorSpec("sepal_length", Datatype.FP32, (-1, 1))
WIDTH = TensorSpec("sepal_width", Datatype.FP32, (-1, 1))
OPTIONAL = TensorSpec("mask", Datatype.BOOL, (-1, 2), is_optional=True)


def read(payload: Any, *declared: TensorSpec) -> list[tuple[str, str, list[int], Any]]:
    return [
        (tensor.name, str(tensor.datatype), list(tensor.shape), tensor.array.tolist())
        for tensor in to_tensors(payload, declared)
    ]


@pytest.mark.parametrize(
    ("payload", "tensors"),
    [
        pytest.param(
            {"instances": [[6.5, 2.5], [6, 3]]},
            [("input-0", "FP64", [2, 2], [[6.5, 2.5], [6, 3]])],
            id="rows of numbers",
        ),
        pytest.param(
            {"inputs": [[1, 2]], "instances": "ignored"},
            [("input-0", "INT64", [1, 2], [[1, 2]])],
            id="inputs wins over instances",
        ),
        pytest.param(
            {"instances": ["text one", "ü"]},
            [("input-0", "BYTES", [2], [b"text one", "ü".encode()])],
            id="texts",
        ),
        pytest.param(
            {"instances": [{"sepal_length": [6.5], "sepal_width": [2.5]}] * 2},
            [
                ("sepal_length", "FP64", [2, 1], [[6.5], [6.5]]),
                ("sepal_width", "FP64", [2, 1], [[2.5], [2.5]]),
            ],
            id="rows of objects of lists",
        ),
        pytest.param(
            {"instances": [{"a": 1, "b": "x"}, {"b": "y", "a": 2}]},
            [("a", "INT64", [2], [1, 2]), ("b", "BYTES", [2], [b"x", b"y"])],
            id="rows of objects, keys in any order",
        ),
        pytest.param(
            {"inputs": {"a": [1, 2], "b": [[1.5], [2.5]]}},
            [("a", "INT64", [2], [1, 2]), ("b", "FP64", [2, 1], [[1.5], [2.5]])],
            id="an object of columns",
        ),
        pytest.param(
            {"instances": [{"image": {"b64": "aGVsbG8="}}], "parameters": {"k": 1}},
            [("image", "BYTES", [1], [b"hello"])],
            id="TensorFlow Serving's base64 in an object",
        ),
        pytest.param(
            {"instances": [{"b64": "aGVsbG8="}, {"b64": "/w=="}]},
            [("input-0", "BYTES", [2], [b"hello", b"\xff"])],
            id="base64 as rows",
        ),
        pytest.param(
            {"instances": ["a", {"b64": "Yg=="}]},
            [("input-0", "BYTES", [2], [b"a", b"b"])],
            id="base64 beside texts",
        ),
        pytest.param({"instances": []}, [("input-0", "FP64", [0], [])], id="no rows"),
        pytest.param(
            {"instances": [True, False]}, [("input-0", "BOOL", [2], [True, False])], id="booleans"
        ),
        pytest.param(
            {"instances": [2**64 - 1]}, [("input-0", "UINT64", [1], [2**64 - 1])], id="64 bits"
        ),
        pytest.param(
            {"instances": [[1], [-(2**63)]]},
            [("input-0", "INT64", [2, 1], [[1], [-(2**63)]])],
            id="all of INT64",
        ),
    ],
)
def test_undeclared_rows_decide_themselves(payload: Any, tensors: list[Any]) -> None:
    assert read(payload) == tensors


def test_null_among_numbers_is_nan() -> None:
    assert np.isnan(to_tensors({"instances": [[1, None]]}, ())[0].array[0, 1])


@pytest.mark.parametrize(
    ("declared", "payload", "tensors"),
    [
        pytest.param(
            [FP32], {"instances": [[1, 2]]}, [("x", "FP32", [1, 2], [[1, 2]])], id="datatype, name"
        ),
        pytest.param([FP32], {"instances": []}, [("x", "FP32", [0, 2], [])], id="no rows"),
        pytest.param([TEXT], {"instances": ["a"]}, [("t", "BYTES", [1], [b"a"])], id="texts"),
        pytest.param(
            [LENGTH],
            {"instances": [1, 2]},
            [("sepal_length", "FP32", [2, 1], [[1], [2]])],
            id="scalars into a column of one",
        ),
        pytest.param(
            [TEXT],
            {"instances": [["a"], ["b"]]},
            [("t", "BYTES", [2], [b"a", b"b"])],
            id="a column of one into scalars",
        ),
        pytest.param(
            [LENGTH, WIDTH],
            {"instances": [{"sepal_length": 1, "sepal_width": [2]}]},
            [("sepal_length", "FP32", [1, 1], [[1]]), ("sepal_width", "FP32", [1, 1], [[2]])],
            id="objects",
        ),
        pytest.param(
            [LENGTH, WIDTH],
            {"instances": []},
            [("sepal_length", "FP32", [0, 1], []), ("sepal_width", "FP32", [0, 1], [])],
            id="no rows of several inputs",
        ),
        pytest.param(
            [OPTIONAL, FP32],
            {"instances": [[1, 2]]},
            [("x", "FP32", [1, 2], [[1, 2]])],
            id="an optional input is left out",
        ),
    ],
)
def test_what_the_model_declares_decides(
    declared: list[TensorSpec], payload: Any, tensors: list[Any]
) -> None:
    assert read(payload, *declared) == tensors


@pytest.mark.parametrize(
    ("declared", "payload", "sentence"),
    [
        pytest.param(
            [],
            {"foo": 1},
            'Expected a JSON object with a list "instances" (or "inputs")',
            id="no rows at all",
        ),
        pytest.param(
            [],
            b"bytes",
            'Expected a JSON object with a list "instances" (or "inputs")',
            id="not JSON",
        ),
        pytest.param([], {"instances": {"a": 1}}, 'Expected "instances" to be a list', id="object"),
        pytest.param([], {"inputs": 1}, 'Expected "inputs" to be a list', id="a scalar"),
        pytest.param(
            [],
            {"instances": [[1, 2], [3]]},
            "instances[1]: expected shape [2] as in row 0, got [1]",
            id="rows of different lengths",
        ),
        pytest.param(
            [],
            {"instances": [[1, [2]]]},
            "instances[0]: its lists differ in length and make no array",
            id="a ragged row",
        ),
        pytest.param(
            [],
            {"instances": [{"a": 1}, {"b": 1}]},
            "instances[1]: expected the keys ['a'], got ['b']",
            id="rows of different keys",
        ),
        pytest.param(
            [],
            {"instances": [[1], {"b": 1}]},
            "instances[0]: expected an object as in row 1, got an array",
            id="objects and lists",
        ),
        pytest.param(
            [],
            {"instances": [1, "a"]},
            "instances[0] is a number, BYTES needs a string",
            id="texts and numbers",
        ),
        pytest.param(
            [],
            {"instances": [[1.5, True]]},
            "instances[0] is a boolean, FP64 needs a number or null",
            id="numbers and booleans",
        ),
        pytest.param(
            [TensorSpec("x", Datatype.UINT8, (-1, 2))],
            {"instances": [[1, 2], [3, 256]]},
            "instances[1] is 256, UINT8 needs a whole number from 0 to 255",
            id="out of range, naming the row",
        ),
        pytest.param(
            [FP32],
            {"instances": [[1, 2], [3, "a"]]},
            "instances[1] is a string, FP32 needs a number or null",
            id="a text among declared numbers",
        ),
        pytest.param(
            [FP32],
            {"instances": [[1, 2, 3]]},
            "instances: the rows have shape [1, 3], the model expects [-1, 2]",
            id="another width than declared",
        ),
        pytest.param(
            [LENGTH, WIDTH],
            {"instances": [[1, 2]]},
            '"instances": the model has 2 inputs, so each row must be an object with '
            "'sepal_length' (FP32, [-1, 1]), 'sepal_width' (FP32, [-1, 1])",
            id="plain rows for a model of two inputs",
        ),
        pytest.param(
            [LENGTH, WIDTH],
            {"instances": [{"sepal_length": 1}]},
            "\"instances\": missing key(s) 'sepal_width' (FP32, [-1, 1])",
            id="a key is missing",
        ),
        pytest.param(
            [LENGTH],
            {"instances": [{"sepal_length": 1, "petal": 1}]},
            "\"instances\": unexpected key 'petal'; expected 'sepal_length' (FP32, [-1, 1])",
            id="a key too many",
        ),
        pytest.param(
            [],
            {"instances": [{"a": {"b64": "?"}}]},
            "instances 'a': 'b64' is not base64: Only base64 data is allowed",
            id="broken base64",
        ),
        pytest.param(
            [],
            {"instances": [{"a": {"c": 1}}]},
            "instances 'a': expected a value or {\"b64\": \"…\"}, got ['c']",
            id="an object in an object",
        ),
    ],
)
def test_rows_that_do_not_fit(declared: list[TensorSpec], payload: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        to_tensors(payload, declared)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("outputs", "predictions"),
    [
        pytest.param([Tensor("y", np.array([[1.5], [2.5]]))], [[1.5], [2.5]], id="one output"),
        pytest.param(
            [Tensor("a", np.array([1, 2])), Tensor("b", np.array([[0.5], [1.5]]))],
            [{"a": 1, "b": [0.5]}, {"a": 2, "b": [1.5]}],
            id="several outputs make an object per row",
        ),
        pytest.param(
            [Tensor("y", bytes_array([b"a", b"\xff"], (2,)))],
            ["a", {"b64": "/w=="}],
            id="BYTES as text, or base64",
        ),
        pytest.param(
            [Tensor("a", np.array([1, 2])), Tensor("loss", np.array(0.5))],
            {"a": [1, 2], "loss": 0.5},
            id="no common rows",
        ),
        pytest.param([Tensor("y", np.zeros((0, 2)))], [], id="no rows"),
        pytest.param([Tensor("y", np.array([0.1], "f4"))], [0.1], id="the shortest float32"),
    ],
)
def test_predictions(outputs: list[Tensor], predictions: Any) -> None:
    assert orjson.loads(dumps(to_predictions(outputs))) == {"predictions": predictions}


class Fussy:
    """A predictor that, like most frameworks, cannot predict nothing."""

    inputs: Sequence[TensorSpec] = (FP32,)
    outputs: Sequence[TensorSpec] = ()

    def predict(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        raise ValueError("Found array with 0 sample(s)")


def test_no_rows_are_answered_with_no_predictions_and_reach_no_predictor() -> None:
    servable = served("m", Fussy()).servable
    answer = asyncio.run(servable.predict({"instances": []}, Context()))
    assert answer == {"predictions": []}
