"""A request against what its model declares: the last rows of the contract's §2.5."""

from collections.abc import Callable

import numpy as np
import pytest

from headrace.server import checks
from headrace.server.errors import InvalidInput
from headrace.server.request import Request, RequestedOutput
from headrace.server.tensor import Datatype, Tensor, TensorSpec

X = TensorSpec("x", Datatype.FP32, (-1, 2))
MASK = TensorSpec("mask", Datatype.BOOL, (-1,), is_optional=True)
GOOD = Tensor("x", np.zeros((3, 2), "f4"))


def test_a_request_that_fits_passes() -> None:
    checks.check_inputs(Request("m", [GOOD]), [X, MASK])


def test_a_model_that_declares_nothing_is_not_checked() -> None:
    checks.check_inputs(Request("m", []), [])
    checks.check_requested_outputs(Request("m", [], outputs=[RequestedOutput("zz")]), [])


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        pytest.param(
            [Tensor("WRONG", GOOD.array)],
            "unexpected inference input 'WRONG' for model 'm'; "
            "expected 'x' (FP32, [-1, 2]), 'mask' (BOOL, [-1])",
            id="unknown name",
        ),
        pytest.param(
            [],
            "expected 2 inputs but got 0 inputs for model 'm': "
            "missing required input(s) 'x' (FP32, [-1, 2])",
            id="missing",
        ),
        pytest.param(
            [Tensor("x", np.zeros((3, 2), "i4"))],
            "inference input 'x' data-type is 'INT32', but model 'm' expects 'FP32'",
            id="datatype",
        ),
        pytest.param(
            [Tensor("x", np.zeros((2, 3), "f4"))],
            "unexpected shape for input 'x' for model 'm'. Expected [-1, 2], got [2, 3].",
            id="dimension",
        ),
        pytest.param(
            [Tensor("x", np.zeros(2, "f4"))],
            "unexpected shape for input 'x' for model 'm'. Expected [-1, 2], got [2].",
            id="rank",
        ),
    ],
)
def test_inputs_the_model_does_not_declare(inputs: list[Tensor], sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        checks.check_inputs(Request("m", inputs), [X, MASK])
    assert str(caught.value) == sentence


def test_outputs_are_filtered_and_ordered_as_asked() -> None:
    outputs = [Tensor("a", np.zeros(1)), Tensor("b", np.zeros(1)), Tensor("c", np.zeros(1))]
    request = Request("m", [], outputs=[RequestedOutput("c"), RequestedOutput("a")])
    assert [tensor.name for tensor in checks.select_outputs(outputs, request)] == ["c", "a"]


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(lambda asked: checks.check_requested_outputs(asked, [X]), id="declared"),
        pytest.param(lambda asked: checks.select_outputs([GOOD], asked), id="answered"),
    ],
)
def test_an_output_the_model_has_not(check: Callable[[Request], object]) -> None:
    with pytest.raises(InvalidInput) as caught:
        check(Request("m", [], outputs=[RequestedOutput("zz")]))
    assert str(caught.value) == "Unexpected inference output 'zz' for model 'm'; it has x"


@pytest.mark.parametrize(
    ("payload", "rows"),
    [
        ({"instances": [1, 2, 3]}, 3),
        ({"inputs": [1], "instances": [1, 2]}, 1),
        ({"foo": [1, 2]}, 1),
        (b"bytes", 1),
    ],
)
def test_rows_of_a_v1_payload(payload: object, rows: int) -> None:
    assert checks.v1_row_count(payload) == rows
