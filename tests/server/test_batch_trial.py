"""Which models pass their trial, as a table."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from headrace.server.batch_trial import try_batches
from headrace.server.tensor import Datatype, Tensor, TensorSpec

ROWS = (TensorSpec("x", Datatype.FP32, (-1, 3)),)
Array = np.ndarray[Any, Any]


class Fake:
    def __init__(
        self, function: Callable[[Array], Array], inputs: Sequence[TensorSpec] = ROWS
    ) -> None:
        self.inputs, self.outputs = inputs, inputs
        self._function = function

    def predict(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return [Tensor("x", self._function(inputs[0].array))]


def one_row_only(x: Array) -> Array:
    if len(x) > 1:
        raise ValueError("one row at a time")
    return x


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        pytest.param(Fake(lambda x: 2 * x), "", id="row by row"),
        pytest.param(
            Fake(lambda x: x - x.mean(axis=0)),
            "output 'x' of row 0 depends on its neighbours",
            id="a mean over the batch",
        ),
        pytest.param(
            Fake(lambda x: x[:1]), "output 'x' has 1 rows for 3", id="another number of rows"
        ),
        pytest.param(Fake(one_row_only), "ValueError: one row at a time", id="it refuses"),
        pytest.param(
            Fake(lambda x: x, (TensorSpec("x", Datatype.FP32, (1, 3)),)),
            "not every input and output has a free first dimension",
            id="a fixed first dimension",
        ),
        pytest.param(
            Fake(lambda x: x, ()),
            "it declares no inputs or no outputs; --max_batch_size N batches it, by the "
            "shapes of real requests",
            id="nothing declared",
        ),
        pytest.param(
            Fake(lambda x: x, (TensorSpec("x", Datatype.BYTES, (-1, 1)),)), "", id="texts"
        ),
    ],
)
def test_trial(model: Fake, reason: str) -> None:
    trial = try_batches("m", model)
    assert (trial.reason, trial.may_batch) == (reason, not reason)
    assert bool(trial.latency.items()) is trial.may_batch
