"""Batches of an asynchronous model: awaited in a task of their own, cancelled when nobody waits."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from headrace.server.batch_rows import TensorWork
from headrace.server.batcher import Batcher
from headrace.server.batching import BatchPolicy
from headrace.server.execution import Executor
from headrace.server.request import Context
from headrace.server.tensor import Tensor


class AsyncTensors(TensorWork):
    is_async = True


class Doubling:
    """Doubles, once it is let go; remembers its calls and whether one was cancelled."""

    def __init__(self) -> None:
        self.started, self.go, self.cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.calls: list[list[float]] = []
        self.error: BaseException | None = None

    async def predict(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        self.calls.append(inputs[0].array.ravel().tolist())
        self.started.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error
        if (inputs[0].array < 0).any():
            raise ValueError("negative")
        return [Tensor("y", inputs[0].array * 2)]


class Setup:
    def __init__(self, max_batch_size: int = 8, max_delay_s: float = 0.0) -> None:
        policy = BatchPolicy(max_batch_size, max_delay_s=max_delay_s)
        self.model = Doubling()
        self.executor: Executor[Any] = Executor("m", [self.model])
        self.batcher = Batcher(self.executor, policy, work=AsyncTensors("m"))

    def start(self, *rows: float) -> asyncio.Task[list[float]]:
        return asyncio.create_task(self._ask(*rows))

    async def _ask(self, *rows: float) -> list[float]:
        inputs = [Tensor("x", np.array(rows, np.float32)[:, None])]
        (output,) = await self.batcher.run(inputs, Context())
        found: list[float] = output.array.ravel().tolist()
        return found


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_what_comes_while_a_batch_is_awaited_shares_the_next_one() -> None:
    async def main() -> None:
        setup = Setup()
        first = setup.start(1)
        await setup.model.started.wait()
        others = [setup.start(2, 3), setup.start(4)]
        await turns()
        setup.model.go.set()
        assert await asyncio.gather(first, *others) == [[2], [4, 6], [8]]
        assert setup.model.calls == [[1], [2, 3, 4]]
        assert (setup.executor.running, setup.executor.pending_requests) == (0, 0)

    asyncio.run(main())


def test_a_batch_is_cancelled_when_all_its_callers_have_gone_and_not_before() -> None:
    async def main() -> None:
        setup = Setup(2, 5.0)
        one, other = setup.start(1), setup.start(2)
        await setup.model.started.wait()
        one.cancel()
        await turns()
        assert not setup.model.cancelled.is_set()
        other.cancel()
        await asyncio.wait_for(setup.model.cancelled.wait(), 10)
        await turns()
        assert setup.executor.running == 0
        setup.model.go.set()
        assert list(await asyncio.gather(setup.start(3), setup.start(4))) == [[6], [8]]

    asyncio.run(main())


def test_one_that_goes_leaves_the_others_their_answers() -> None:
    async def main() -> None:
        setup = Setup(2, 5.0)
        gone, stays = setup.start(1), setup.start(2)
        await setup.model.started.wait()
        gone.cancel()
        setup.model.go.set()
        assert await stays == [4]

    asyncio.run(main())


def test_only_the_culprit_of_a_batch_fails() -> None:
    async def main() -> None:
        setup = Setup(3, 5.0)
        setup.model.go.set()
        found = await asyncio.gather(
            setup.start(1), setup.start(-1), setup.start(3), return_exceptions=True
        )
        assert (found[0], str(found[1]), found[2]) == ([2], "negative", [6])

    asyncio.run(main())


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), SystemExit(2)], ids=["a cancellation", "an exit"]
)
def test_what_would_end_the_task_is_an_error_of_the_requests(error: BaseException) -> None:
    async def main() -> None:
        setup = Setup()
        setup.model.go.set()
        setup.model.error = error
        with pytest.raises(RuntimeError, match=f"the model raised {type(error).__name__}"):
            await setup.start(1)

    asyncio.run(main())
