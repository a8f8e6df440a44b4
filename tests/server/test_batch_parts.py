"""A request in parts: few at a time, cut as they are taken, and put together in order."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from headrace.server.batch_parts import JOINED, Parts, run
from headrace.server.batch_rows import Tensors, TensorWork
from headrace.server.errors import InferenceError
from headrace.server.request import Context
from headrace.server.tensor import Tensor


class Counting(TensorWork):
    """Counts the parts that were cut, and the most results that were put together at a time."""

    cut = most_merged = 0

    def part(self, payload: Tensors, rows: Iterable[int]) -> Iterator[Tensors]:
        for each in super().part(payload, rows):
            self.cut += 1
            yield each

    def merge(self, results: Any, rows: Any) -> Tensors:
        self.most_merged = max(self.most_merged, len(results))
        return super().merge(results, rows)


@dataclass
class Asked:
    """What `run` is given, and what it then did: rows of all in one input."""

    rows: int
    most: int
    running: int = 0
    most_running: int = 0
    ran: int = 0

    def __post_init__(self) -> None:
        self.work = Counting("m")
        self.context = Context(body_bytes=10 * self.rows)

    async def answer(self, at_once: int = 4) -> Any:
        payload = [Tensor("x", np.arange(self.rows, dtype=np.float32)[:, None])]
        parts = Parts(self.work, payload, self.rows, self.most)
        return await run(parts, at_once, self.context, self.run_one)

    async def run_one(self, part: Tensors, context: Context) -> Tensors:
        self.running += 1
        self.ran += 1
        self.most_running = max(self.most_running, self.running)
        assert self.work.cut <= self.ran + 4  # none is cut long before it is run
        rows = part[0].array.shape[0]
        assert context.body_bytes == 10 * rows
        try:
            await asyncio.sleep(0)
            context.stages.compute_infer_ns += rows
            context.stages.batch_rows = rows
            context.stages.queue_ns = int(part[0].array[0, 0])
            return self.result(part)
        finally:
            self.running -= 1

    def result(self, part: Tensors) -> Tensors:
        return [Tensor("y", each.array * 2) for each in part]


@pytest.mark.parametrize(
    ("rows", "most"),
    [
        pytest.param(3, 2, id="two parts, one of them short"),
        pytest.param(JOINED + 1, 1, id="one more than are joined at a time"),
        pytest.param(JOINED * JOINED, 1, id="all joined twice"),
        pytest.param(2 * JOINED * JOINED + 2 * JOINED + 5, 2, id="levels that are not full"),
    ],
)
def test_results_are_put_together_in_order(rows: int, most: int) -> None:
    asked = Asked(rows, most)
    [output] = asyncio.run(asked.answer())
    assert output.array.ravel().tolist() == [2 * n for n in range(rows)]
    assert asked.most_running <= 4
    assert asked.work.most_merged <= 3 * JOINED  # the rest of each level, at the end


def test_executions_add_up_and_waits_overlap() -> None:
    asked = Asked(7, 2)
    asyncio.run(asked.answer())
    stages = asked.context.stages
    assert (stages.compute_infer_ns, stages.executions, stages.batch_rows) == (7, 4, 2)
    assert stages.queue_ns == 6


def test_one_that_fails_ends_the_others() -> None:
    class Failing(Asked):
        def result(self, part: Tensors) -> Tensors:
            if part[0].array[0, 0] == 20:
                raise ValueError("row 20")
            return super().result(part)

    asked = Failing(1000, 2)
    error = asyncio.run(asked.answer())
    assert str(error) == "row 20"
    assert asked.ran < 20
    assert asked.running == 0


def test_another_number_of_rows_is_seen_before_all_have_run() -> None:
    class Short(Asked):
        def result(self, part: Tensors) -> Tensors:
            return [Tensor("y", each.array[:1]) for each in part]

    asked = Short(10_000, 2)
    error = asyncio.run(asked.answer())
    assert isinstance(error, InferenceError)
    assert "got a batch of 2 rows but its output 'y' has 1" in str(error)
    assert asked.ran < 2 * JOINED


def test_a_caller_that_goes_takes_its_parts_along() -> None:
    async def main() -> None:
        asked = Asked(1000, 2)
        task = asyncio.create_task(asked.answer())
        while asked.ran < 10:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asked.running == 0
        assert asked.ran < 20

    asyncio.run(main())
