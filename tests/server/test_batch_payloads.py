"""What hooks exchange, by rows: what may be joined, what runs alone, joining and parting."""

from typing import Any

import numpy as np
import pytest

from headrace.server import (
    InferenceError,
    InferInput,
    InferOutput,
    InferRequest,
    InferResponse,
    batch_payloads,
)
from headrace.server.request import RequestedOutput


def v2(*rows: float, name: str = "x", **more: Any) -> InferRequest:
    array = np.array(rows, "<f4")[:, None]
    return InferRequest("m", [InferInput(name, list(array.shape), "FP32", array)], **more)


def text(from_grpc: bool) -> InferRequest:
    return InferRequest("m", [InferInput("t", [1], "BYTES", ["a"])], from_grpc=from_grpc)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        pytest.param({"instances": [[1]]}, {"instances": [[2], [3]]}, True, id="V1 rows"),
        pytest.param(
            {"instances": np.ones((2, 1))}, {"instances": np.ones((3, 1))}, True, id="V1 arrays"
        ),
        pytest.param({"instances": [[1]]}, {"instances": [[1.5]]}, False, id="ints and floats"),
        pytest.param([[1], [2]], [[1], [2.5]], False, id="floats after the first"),
        pytest.param([[1, 2.5]], [[1.5, 2]], True, id="a float wherever it stands"),
        pytest.param([{"a": 1}], [{"a": 1}, {"a": 1.5}], False, id="floats of a column"),
        pytest.param([1], [2, 3], True, id="whole numbers"),
        pytest.param({"instances": [[1]]}, {"instances": [["1"]]}, False, id="text is no number"),
        pytest.param({"instances": [[1]]}, {"instances": [[1, 2]]}, False, id="V1 rows' shapes"),
        pytest.param(
            {"instances": [{"a": 1}]}, {"instances": [{"b": 1}]}, False, id="V1 rows' keys"
        ),
        pytest.param(
            {"instances": [1], "parameters": {"k": 1}},
            {"instances": [1], "parameters": {"k": 2}},
            False,
            id="what else a V1 body says",
        ),
        pytest.param(v2(1), v2(2, 3), True, id="V2 rows"),
        pytest.param(v2(1), v2(2, name="z"), False, id="V2 names"),
        pytest.param(
            v2(1, parameters={"k": 1}), v2(1, parameters={"k": 2}), False, id="V2 parameters"
        ),
        pytest.param(
            v2(1, parameters={"priority": 1}),
            v2(1, parameters={"timeout": 2}),
            True,
            id="parameters of scheduling",
        ),
        pytest.param(
            v2(1, request_outputs=[RequestedOutput("y")]), v2(1), False, id="outputs asked for"
        ),
        pytest.param(text(True), text(False), False, id="BYTES shown as bytes or as str"),
        pytest.param(np.ones((1, 2)), np.ones((3, 2)), True, id="arrays"),
        pytest.param(np.ones((1, 2)), np.ones((1, 3)), False, id="arrays' shapes"),
        pytest.param(np.ones(1), np.ones(1, int), False, id="arrays' dtypes"),
        pytest.param({"a": np.ones(1)}, {"a": np.ones(2)}, True, id="columns"),
        pytest.param({"a": np.ones(1)}, {"b": np.ones(1)}, False, id="columns' names"),
        pytest.param(["a"], ["b", "c"], True, id="lists"),
        pytest.param([[1], 2], [[1], "a"], True, id="rows that differ, for the model to refuse"),
    ],
)
def test_which_payloads_may_share_a_batch(one: Any, other: Any, is_same: bool) -> None:
    keys = [batch_payloads.shape_of(each).key for each in (one, other)]
    assert None not in keys
    assert (keys[0] == keys[1]) is is_same


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"bytes", id="bytes"),
        pytest.param({}, id="an empty dict"),
        pytest.param({"instances": []}, id="no rows"),
        pytest.param({"instances": 5}, id="rows that are no list"),
        pytest.param({"inputs": {"a": [1]}}, id="columns of a V1 body"),
        pytest.param({"text": "a"}, id="a dict of something else"),
        pytest.param({"a": np.ones(1), "b": np.ones(2)}, id="columns of unequal rows"),
        pytest.param(np.ones((0, 2)), id="an array without rows"),
        pytest.param(np.array(1.0), id="a scalar"),
        pytest.param([], id="an empty list"),
    ],
)
def test_what_runs_alone(payload: Any) -> None:
    assert batch_payloads.shape_of(payload).key is None


@pytest.mark.parametrize(
    ("payloads", "joined"),
    [
        pytest.param(
            [{"instances": [1], "k": 2}, {"instances": [3, 4], "k": 2}],
            {"instances": [1, 3, 4], "k": 2},
            id="V1",
        ),
        pytest.param([["a"], ["b", "c"]], ["a", "b", "c"], id="lists"),
    ],
)
def test_joined_and_parted_again(payloads: list[Any], joined: Any) -> None:
    assert batch_payloads.join(payloads) == joined
    assert batch_payloads.part(joined, [1, 2], "m") == payloads


def test_arrays_and_columns_are_joined_by_rows() -> None:
    one, other = np.ones((1, 2)), np.zeros((2, 2))
    assert batch_payloads.join([one, other]).tolist() == [[1, 1], [0, 0], [0, 0]]
    columns = batch_payloads.join([{"a": one}, {"a": other}])
    assert [each["a"].shape for each in batch_payloads.part(columns, [1, 2], "m")] == [
        (1, 2),
        (2, 2),
    ]


def test_tensors_of_torch_are_joined_as_such() -> None:
    torch = pytest.importorskip("torch")
    joined = batch_payloads.join([torch.ones(1, 2), torch.zeros(1, 2)])
    assert isinstance(joined, torch.Tensor)
    assert joined.tolist() == [[1, 1], [0, 0]]


def test_a_joined_request_has_what_all_have_and_an_id_of_its_own() -> None:
    joined = batch_payloads.join(
        [
            v2(1, request_id="a", parameters={"k": 1, "priority": 1}),
            v2(2, request_id="b", parameters={"k": 1, "priority": 2}),
        ]
    )
    assert joined.inputs[0].as_numpy().tolist() == [[1], [2]]
    assert joined.parameters == {"k": 1}
    assert joined.id not in ("a", "b", None)


def test_a_response_is_parted_with_its_parameters() -> None:
    answer = InferResponse(
        "joined", "m", [InferOutput("y", [3], "INT32", [1, 2, 3], {"p": 1})], parameters={"q": 2}
    )
    one, other = batch_payloads.part(answer, [1, 2], "m")
    assert (one.outputs[0].data, other.outputs[0].data) == ([1], [2, 3])
    assert (one.id, one.parameters, one.outputs[0].parameters) == (None, {"q": 2}, {"p": 1})


def test_results_that_cannot_be_put_together_say_what_to_change() -> None:
    with pytest.raises(InferenceError) as caught:
        batch_payloads.merge([{"a": 1}, {"a": 2}], "m")
    assert str(caught.value) == (
        "model 'm' answered a part of a request with a dict with the keys ['a'], which cannot be "
        "put together again; raise its max_batch_size above the request's rows"
    )
