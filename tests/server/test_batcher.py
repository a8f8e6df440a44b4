"""The batcher as a specification: who shares a batch, who is refused, who leaves whom alone."""

import asyncio
import threading
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from headrace.server.batcher import Batcher
from headrace.server.batching import ONE_BY_ONE, BatchPolicy, QueuePolicy
from headrace.server.errors import Code, ModelNotReady, QueueFull, QueueTimeout
from headrace.server.execution import Executor, Mode, QueueLimits
from headrace.server.request import Context
from headrace.server.tensor import Tensor, TensorSpec


@dataclass
class Doubling:
    """Doubles, once it is let go; remembers the rows of its calls and where they ran."""

    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()
    started: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    calls: list[list[float]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    seen: Any = None

    def predict(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        self.seen = inputs
        self.threads.add(threading.current_thread().name)
        self.calls.append(inputs[0].array.ravel().tolist())
        self.started.set()
        assert self.go.wait(10)
        if (inputs[0].array < 0).any():
            raise ValueError("negative")
        return [Tensor("y", inputs[0].array * 2)]


class Setup:
    def __init__(
        self,
        policy: BatchPolicy = ONE_BY_ONE,
        limits: QueueLimits = QueueLimits(),
        mode: Mode = Mode.THREAD,
        is_held: bool = True,
    ) -> None:
        self.model = Doubling()
        self.executor: Executor[Any] = Executor("m", [self.model], limits, mode)
        self.batcher = Batcher(self.executor, policy)
        if not is_held:
            self.model.go.set()

    def start(self, *rows: float, **given: Any) -> asyncio.Task[list[float]]:
        return asyncio.create_task(self.ask(*rows, context=Context(**given)))

    async def ask(self, *rows: float, context: Context | None = None) -> list[float]:
        inputs = [Tensor("x", np.array(rows, np.float32)[:, None])]
        (output,) = await self.batcher.run(inputs, context or Context())
        found: list[float] = output.array.ravel().tolist()
        return found

    async def is_running(self) -> None:
        assert await asyncio.to_thread(self.model.started.wait, 10)

    async def waiting(self, count: int) -> None:
        for _ in range(50):
            if self.executor.pending_requests == count:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"{self.executor.pending_requests} wait, not {count}")


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def test_the_first_runs_at_once_and_what_comes_meanwhile_shares_the_next_batch() -> None:
    async def main() -> None:
        setup = Setup(BatchPolicy(8))
        first = setup.start(1)
        await setup.is_running()
        others = [setup.start(2, 3), setup.start(4)]
        await setup.waiting(2)
        setup.model.go.set()
        assert await asyncio.gather(first, *others) == [[2], [4, 6], [8]]
        assert setup.model.calls == [[1], [2, 3, 4]]
        counted = setup.executor
        assert (counted.running, counted.pending_requests, counted.pending_bytes) == (0, 0, 0)
        assert setup.batcher.record.dispatched == {"idle_instance": 2}

    run(main())


def test_an_idle_inline_instance_is_called_directly_with_the_very_tensors() -> None:
    async def main() -> None:
        setup = Setup(BatchPolicy(8), mode=Mode.INLINE, is_held=False)
        inputs = [Tensor("x", np.ones((2, 1), np.float32))]
        step = setup.batcher.run(inputs, Context(deadline_s=time.monotonic() + 60))
        with pytest.raises(StopIteration):
            step.send(None)  # it never waits: no loop, no task, no timer was needed
        assert setup.model.seen is inputs
        assert setup.model.threads == {threading.current_thread().name}

    run(main())


def test_shapes_of_a_model_that_declares_none_are_learned_from_requests() -> None:
    """As TorchScript's: each class of shapes has batches, and a latency model, of its own."""

    async def main() -> None:
        setup = Setup(BatchPolicy(8))
        assert setup.model.inputs == ()

        async def ask(width: int, value: float) -> list[int]:
            inputs = [Tensor("input-0", np.full((1, width), value, np.float32))]
            (output,) = await setup.batcher.run(inputs, Context())
            assert (output.array == 2 * value).all()
            return list(output.array.shape)

        first = setup.start(0)
        await setup.is_running()
        widths = [2, 3, 2, 3, 3]
        tasks = [asyncio.create_task(ask(width, n)) for n, width in enumerate(widths)]
        await setup.waiting(5)
        setup.model.go.set()
        await first
        assert await asyncio.gather(*tasks) == [[1, width] for width in widths]
        assert setup.model.calls[1:] == [[0, 0, 2, 2], [1, 1, 1, 3, 3, 3, 4, 4, 4]]
        told = setup.batcher.to_json()["latency"]
        assert [each["shapes"] for each in told] == [
            "x:float32[1]",
            "input-0:float32[2]",
            "input-0:float32[3]",
        ]

    run(main())


def test_a_caller_that_goes_leaves_its_neighbours_alone() -> None:
    async def main() -> None:
        setup = Setup(BatchPolicy(8))
        first = setup.start(1)
        await setup.is_running()
        gone, stays = setup.start(2, body_bytes=70), setup.start(3, body_bytes=30)
        await setup.waiting(2)
        gone.cancel()
        await setup.waiting(1)
        assert setup.executor.pending_bytes == 30
        first.cancel()  # runs already: it ends unheard
        setup.model.go.set()
        assert await stays == [6]
        assert setup.model.calls == [[1], [3]]

    run(main())


def test_one_that_goes_while_its_batch_runs_leaves_the_others_their_answers() -> None:
    async def main() -> None:
        setup = Setup(BatchPolicy(8, max_delay_s=5.0))
        tasks = [setup.start(float(n)) for n in range(8)]  # full: sent at once
        await setup.is_running()
        tasks[0].cancel()
        setup.model.go.set()
        assert await asyncio.gather(*tasks[1:]) == [[2.0 * n] for n in range(1, 8)]

    run(main())


def test_only_the_culprit_of_a_batch_fails() -> None:
    async def main() -> None:
        setup = Setup(BatchPolicy(2, max_delay_s=5.0), is_held=False)
        good, bad = await asyncio.gather(setup.ask(1), setup.ask(-1), return_exceptions=True)
        assert good == [2]
        assert str(bad) == "negative"

    run(main())


def test_a_larger_request_than_a_batch_may_be_is_split_and_put_together() -> None:
    async def main() -> None:
        setup = Setup(BatchPolicy(2), is_held=False)
        context = Context()
        assert await setup.ask(1, 2, 3, 4, 5, context=context) == [2, 4, 6, 8, 10]
        assert setup.model.calls == [[1, 2], [3, 4], [5]]
        assert (context.stages.executions, context.stages.batch_rows) == (3, 2)

    run(main())


@pytest.mark.parametrize("mode", Mode)
def test_a_request_of_any_number_of_parts_is_served(mode: Mode) -> None:
    """3000 rows, two at a time, are more parts than may wait as requests."""

    async def main() -> None:
        setup = Setup(BatchPolicy(2), mode=mode, is_held=False)
        rows = [float(n) for n in range(3000)]
        assert await setup.ask(*rows) == [2 * n for n in rows]
        assert len(setup.model.calls) == 1500

    run(main())


def test_one_in_parts_waits_as_one_request() -> None:
    async def main() -> None:
        setup = Setup(BatchPolicy(2, queue=QueuePolicy(max_requests=2)), QueueLimits(3, 1000))
        large = setup.start(*range(100), body_bytes=900)
        await setup.is_running()
        assert (setup.executor.pending_requests, setup.executor.pending_bytes) == (1, 900)
        assert setup.batcher.to_json()["waiting"]["requests"] <= 2  # parts at a time
        small = setup.start(1, body_bytes=10)
        await setup.waiting(2)
        for size_bytes, bound in ((10, "max_queue_size 2"), (100, "--max_queue_bytes 1000")):
            with pytest.raises(QueueFull, match=bound):
                await setup.ask(1, context=Context(body_bytes=size_bytes))
        setup.model.go.set()
        assert await small == [2]
        assert not large.done()  # small has not waited for all of it
        assert await large == [2.0 * n for n in range(100)]
        assert (setup.executor.pending_requests, setup.executor.pending_bytes) == (0, 0)

    run(main())


def test_of_one_in_parts_the_rest_is_not_run_once_a_part_fails() -> None:
    async def main() -> None:
        setup = Setup(BatchPolicy(2), is_held=False)
        with pytest.raises(ValueError, match="negative"):
            await setup.ask(-1, *range(999))
        assert len(setup.model.calls) <= 3
        assert setup.executor.pending_requests == 0
        assert await setup.ask(1) == [2]

    run(main())


def test_a_target_holds_for_all_parts_together() -> None:
    async def main() -> None:
        setup = Setup(BatchPolicy(2, target_latency_s=0.05))
        task = setup.start(*range(100))
        await setup.is_running()
        await asyncio.sleep(0.06)
        setup.model.go.set()
        with pytest.raises(QueueFull, match="within its target of 50 ms"):
            await task
        assert len(setup.model.calls) < 5

    run(main())


def test_a_learned_size_splits_nothing() -> None:
    async def main() -> None:
        setup = Setup(BatchPolicy(2, is_learned=True), is_held=False)
        assert await setup.ask(1, 2, 3) == [2, 4, 6]
        assert setup.model.calls == [[1, 2, 3]]

    run(main())


@pytest.mark.parametrize(
    ("limits", "policy", "message"),
    [
        (
            QueueLimits(max_requests=1),
            ONE_BY_ONE,
            "model m has 1 requests waiting (--max_queue_requests 1)",
        ),
        (
            QueueLimits(max_bytes=100),
            ONE_BY_ONE,
            "model m has 60 bytes waiting (--max_queue_bytes 100)",
        ),
        (
            QueueLimits(),
            BatchPolicy(8, queue=QueuePolicy(max_requests=1)),
            "model m has 1 requests waiting (max_queue_size 1)",
        ),
    ],
    ids=["requests", "bytes", "the model's own"],
)
def test_the_queue_is_bounded(limits: QueueLimits, policy: BatchPolicy, message: str) -> None:
    async def main() -> None:
        setup = Setup(policy, limits)
        tasks = [setup.start(1, body_bytes=1000)]
        await setup.is_running()
        tasks.append(setup.start(2, body_bytes=60))
        await setup.waiting(1)
        with pytest.raises(QueueFull) as caught:
            await setup.ask(3, context=Context(body_bytes=41))
        assert str(caught.value) == f"Exceeds maximum queue size: {message}"
        assert setup.batcher.record.refused == {"queue_full": 1}
        setup.model.go.set()
        await asyncio.gather(*tasks)

    run(main())


def test_a_deadline_passes_by_a_timer_and_the_model_never_sees_the_request() -> None:
    async def main() -> None:
        setup = Setup(BatchPolicy(8))
        first = setup.start(1)
        await setup.is_running()
        with pytest.raises(QueueTimeout, match=r"^Request timeout expired$"):
            await setup.ask(2, context=Context(deadline_s=time.monotonic() + 0.02))
        with pytest.raises(QueueTimeout):
            await setup.ask(3, context=Context(deadline_s=time.monotonic() - 1))
        setup.model.go.set()
        await first
        assert setup.model.calls == [[1]]
        assert setup.batcher.record.refused == {"expired": 2}

    run(main())


@pytest.mark.parametrize(
    ("queue", "expected"),
    [
        pytest.param(QueuePolicy(), "refused", id="nothing is said of it: it counts"),
        pytest.param(
            QueuePolicy(60.0, allows_timeout=True), "refused", id="it may shorten the default"
        ),
        pytest.param(
            QueuePolicy(60.0, allows_timeout=False), [[1], [3], [2]], id="it may not override it"
        ),
        pytest.param(
            QueuePolicy(0.0, may_run_late=True), [[1], [2], [3]], id="DELAY: behind all others"
        ),
    ],
)
def test_the_timeout_parameter_counts_where_the_queue_lets_it(
    queue: QueuePolicy, expected: Any
) -> None:
    async def main() -> None:
        setup = Setup(BatchPolicy(1, queue=queue))
        first = setup.start(1)
        await setup.is_running()
        context = Context()
        context.start_within(0.0)  # over as soon as the queue looks
        impatient = asyncio.create_task(setup.ask(3, context=context))
        if expected == "refused":
            with pytest.raises(QueueTimeout):
                await impatient
        others = [setup.start(2)]
        await setup.waiting(1 if expected == "refused" else 2)
        setup.model.go.set()
        await asyncio.gather(first, *others, *([] if expected == "refused" else [impatient]))
        if expected != "refused":
            assert setup.model.calls == expected

    run(main())


def test_a_deadline_of_the_call_counts_though_its_timeout_may_not() -> None:
    async def main() -> None:
        setup = Setup(BatchPolicy(8, queue=QueuePolicy(60.0, allows_timeout=False)))
        first = setup.start(1)
        await setup.is_running()
        context = Context(deadline_s=time.monotonic() + 0.02)
        context.start_within(30.0)
        with pytest.raises(QueueTimeout):
            await setup.ask(2, context=context)
        setup.model.go.set()
        await first

    run(main())


def test_what_cannot_meet_the_target_is_refused_with_when_to_come_back() -> None:
    async def main() -> None:
        setup = Setup(BatchPolicy(1, target_latency_s=0.05))
        first = setup.start(1)
        await setup.is_running()
        with pytest.raises(QueueFull) as caught:
            await setup.ask(2)
        assert "cannot answer within its target of 50 ms" in str(caught.value)
        assert (caught.value.code, caught.value.retry_after_s) == (Code.OVERLOADED, 1.0)
        setup.model.go.set()
        await first
        assert setup.batcher.record.refused == {"unreachable": 1}

    run(main())


def test_closing_refuses_what_waits_lets_end_what_runs_and_takes_nothing_new() -> None:
    async def main() -> None:
        setup = Setup(BatchPolicy(8))
        first = setup.start(1)
        await setup.is_running()
        waits = setup.start(2)
        await setup.waiting(1)
        setup.batcher.close()
        setup.batcher.close()
        for refused in (waits, setup.start(3)):
            with pytest.raises(ModelNotReady, match="It is being unloaded"):
                await refused
        setup.model.go.set()
        assert await first == [2]

    run(main())


def test_answers_leave_in_order_where_that_is_asked_for() -> None:
    async def main() -> None:
        one, two = Doubling(), Doubling()
        executor: Executor[Any] = Executor("m", [one, two])
        batcher = Batcher(executor, BatchPolicy(1, preserve_ordering=True))
        left: list[float] = []

        async def ask(value: float) -> None:
            await batcher.run([Tensor("x", np.array([[value]]))], Context())
            left.append(value)

        first = asyncio.create_task(ask(1))
        assert await asyncio.to_thread(one.started.wait, 10)
        second = asyncio.create_task(ask(2))
        assert await asyncio.to_thread(two.started.wait, 10)
        two.go.set()
        for _ in range(10_000):  # turns of the loop, until its thread has told it
            await asyncio.sleep(0)
            if executor.running == 1:
                break
        assert left == []
        one.go.set()
        await asyncio.gather(first, second)
        assert left == [1, 2]

    run(main())


def test_one_in_parts_has_its_turn_as_a_whole() -> None:
    async def main() -> None:
        setup = Setup(BatchPolicy(2, preserve_ordering=True))
        left: list[int] = []

        async def ask(*rows: float) -> None:
            await setup.ask(*rows)
            left.append(len(rows))

        tasks = [asyncio.create_task(ask(*range(20)))]
        await setup.is_running()
        tasks.append(asyncio.create_task(ask(1)))
        await setup.waiting(2)
        setup.model.go.set()
        await asyncio.gather(*tasks)
        assert left == [20, 1]

    run(main())


def test_statistics_count_a_batch_once_and_it_can_be_explained() -> None:
    async def main() -> None:
        setup = Setup(BatchPolicy(2, max_delay_s=5.0), is_held=False)
        contexts = [Context(), Context()]
        await asyncio.gather(*(setup.ask(1, context=each) for each in contexts))
        assert [each.stages.executions for each in contexts] == [1, 0]
        assert [each.stages.batch_rows for each in contexts] == [2, 2]
        assert all(each.stages.compute_infer_ns > 0 for each in contexts)
        told = setup.batcher.to_json()
        assert told["dispatched"] == {"full": 1}
        (recent,) = told["recent"]
        assert (recent["reason"], recent["rows"], recent["requests"]) == ("full", 2, 2)
        assert told["latency"][0]["observations"] == 1

    run(main())
