"""Joining requests and parting answers, as a table; what happens when a batch fails."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from headrace.server import batch_rows, batch_work
from headrace.server.batch_rows import TensorWork
from headrace.server.batch_work import RowErrors
from headrace.server.errors import InferenceError
from headrace.server.tensor import Tensor, TensorSpec


class Fake:
    """predict is given; remembers how many rows each call had."""

    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()

    def __init__(self, predict: Callable[[Sequence[Tensor]], Sequence[Tensor]]) -> None:
        self.calls: list[int] = []
        self._predict = predict

    def predict(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        self.calls.append(inputs[0].array.shape[0])
        return self._predict(inputs)


def fp32(*rows: float, name: str = "x", width: int = 1) -> Tensor:
    return Tensor(name, np.repeat(np.array(rows, np.float32)[:, None], width, axis=1))


def run(predictor: Fake, *requests: list[Tensor], isolates: bool = True) -> list[Any]:
    rows = [batch_rows.shape_of(each).rows for each in requests]
    attempts = batch_work.attempts(TensorWork("m"), requests, rows, isolates)
    found = batch_work.run(attempts, predictor)
    return [
        each if isinstance(each, BaseException) else each[0].array.ravel().tolist()
        for each in found
    ]


def doubled(inputs: Sequence[Tensor]) -> list[Tensor]:
    if (inputs[0].array < 0).any():
        raise ValueError("negative")
    return [Tensor("y", inputs[0].array * 2)]


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        pytest.param([fp32(1)], [fp32(2, 3)], True, id="rows may differ"),
        pytest.param([fp32(1)], [fp32(1, width=2)], False, id="trailing dimensions may not"),
        pytest.param([fp32(1)], [fp32(1, name="z")], False, id="names may not"),
        pytest.param([fp32(1)], [Tensor("x", np.ones((1, 1)))], False, id="datatypes may not"),
        pytest.param(
            [fp32(1), fp32(2, name="z")],
            [fp32(2, name="z"), fp32(1)],
            True,
            id="inputs may come in another order",
        ),
        pytest.param([fp32(1)], [fp32(1), fp32(2, name="z")], False, id="an input may not miss"),
    ],
)
def test_which_requests_may_share_a_batch(
    one: list[Tensor], other: list[Tensor], is_same: bool
) -> None:
    keys = batch_rows.shape_of(one).key, batch_rows.shape_of(other).key
    assert (keys[0] == keys[1]) is is_same


@pytest.mark.parametrize(
    "inputs",
    [
        pytest.param([], id="no inputs"),
        pytest.param([Tensor("x", np.array(1.0))], id="a scalar"),
        pytest.param([fp32()], id="no rows"),
        pytest.param([fp32(1), fp32(1, 2, name="z")], id="inputs of unequal rows"),
    ],
)
def test_what_runs_alone(inputs: list[Tensor]) -> None:
    assert batch_rows.shape_of(inputs).key is None


def test_a_batch_of_one_is_passed_through_as_it_came() -> None:
    inputs = [fp32(1, 2)]
    seen: list[Any] = []
    predictor = Fake(lambda given: seen.append(given) or list(given))  # type: ignore[func-returns-value]
    assert run(predictor, inputs) == [[1, 2]]
    assert seen[0] is inputs


def test_each_request_gets_its_own_rows_as_views() -> None:
    predictor = Fake(doubled)
    assert run(predictor, [fp32(1)], [fp32(2, 3)], [fp32(4)]) == [[2], [4, 6], [8]]
    assert predictor.calls == [4]
    parts = batch_rows.part([fp32(1, 2)], [1, 1])
    assert all(each[0].array.base is not None for each in parts)


def test_inputs_are_joined_by_name() -> None:
    joined = batch_rows.join([[fp32(1), fp32(10, name="z")], [fp32(20, name="z"), fp32(2)]])
    assert {each.name: each.array.ravel().tolist() for each in joined} == {
        "x": [1, 2],
        "z": [10, 20],
    }


def test_only_the_culprit_fails() -> None:
    predictor = Fake(doubled)
    found = run(predictor, [fp32(1)], [fp32(-1)], [fp32(3)])
    assert (found[0], found[2]) == ([2], [6])
    assert str(found[1]) == "negative"
    assert predictor.calls == [3, 1, 1, 1]


def test_a_model_that_fails_whatever_it_gets_is_not_tried_for_every_request() -> None:
    predictor = Fake(doubled)
    found = run(predictor, *([fp32(-1)] for _ in range(20)))
    assert {str(each) for each in found} == {"negative"}
    assert predictor.calls == [20, 1, 1, 1]


def test_without_isolation_all_fail_at_once() -> None:
    predictor = Fake(doubled)
    assert [str(each) for each in run(predictor, [fp32(1)], [fp32(-1)], isolates=False)] == [
        "negative",
        "negative",
    ]
    assert predictor.calls == [2]


def test_another_number_of_rows_fails_the_batch_with_what_to_do() -> None:
    found = run(Fake(lambda inputs: [fp32(1)]), [fp32(1)], [fp32(2)])
    assert all(isinstance(each, InferenceError) for each in found)
    assert str(found[0]) == (
        "model 'm' got a batch of 2 rows but its output 'y' has 1; "
        "it cannot be batched: set max_batch_size to 0"
    ).replace("'y'", "'x'")


def test_a_model_may_fail_single_rows() -> None:
    def predict(inputs: Sequence[Tensor]) -> list[Tensor]:
        raise RowErrors({1: KeyError("row 1")}, [Tensor("y", inputs[0].array * 2)])

    found = run(Fake(predict), [fp32(1)], [fp32(2, 3)], [fp32(4)])
    assert (found[0], found[2]) == ([2], [8])
    assert isinstance(found[1], KeyError)


def test_what_would_end_the_server_is_an_error_of_the_request() -> None:
    def predict(inputs: Sequence[Tensor]) -> list[Tensor]:
        raise SystemExit(2)

    (found,) = run(Fake(predict), [fp32(1)])
    assert str(found) == "the model raised SystemExit(2)"
