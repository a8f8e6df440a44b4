"""When a refused caller may come back: what waits and what runs, by the latency learned."""

import asyncio
import time
from typing import Any

import pytest

from headrace.server.backlog import LEAST_S, MOST_S, UNKNOWN_S, backlog_s, retry_after_s
from headrace.server.batch_queue import BatchQueue, Entry
from headrace.server.batching import BatchPolicy
from headrace.server.errors import QueueFull, QueueTimeout
from headrace.server.execution import Executor, QueueLimits
from headrace.server.latency_model import LatencyModels
from headrace.server.request import Context
from tests.server.test_batcher import Setup


def learned(*keys: Any) -> LatencyModels:
    """Batches of 10 ms + 1 ms per row."""
    models = LatencyModels()
    for key in keys:
        for rows in (1, 2, 4, 8, 16) * 4:
            models.of(key).observe(rows, 0.010 + 0.001 * rows)
    return models


def queue_of(*entries: tuple[Any, int]) -> BatchQueue:
    queue = BatchQueue()
    for key, rows in entries:
        queue.add(Entry(None, rows, 0, 0.0, key))
    return queue


@pytest.mark.parametrize(
    ("queue", "models", "instances", "running_s", "expected_s"),
    [
        pytest.param(queue_of(), learned(), 1, 0.0, 0.0, id="nothing waits"),
        pytest.param(queue_of(), learned(), 2, 0.03, 0.015, id="what runs, on two instances"),
        pytest.param(
            queue_of(*[("k", 4)] * 4), learned("k"), 1, 0.0, 0.036, id="two batches of eight rows"
        ),
        pytest.param(
            queue_of(*[(None, 1)] * 5), learned(None), 1, 0.0, 0.055, id="five that run alone"
        ),
        pytest.param(
            queue_of(("k", 8), ("new", 8)), learned("k"), 1, 0.0, 0.036,
            id="a group nobody knows is like the others",
        ),
        pytest.param(queue_of(("new", 8)), learned(), 1, 0.0, 0.0, id="nothing is known"),
    ],
)  # fmt: skip
def test_how_long_a_queue_takes(
    queue: BatchQueue, models: LatencyModels, instances: int, running_s: float, expected_s: float
) -> None:
    found_s = backlog_s(queue, BatchPolicy(8), models, instances, running_s)
    assert found_s == pytest.approx(expected_s, rel=0.02)


@pytest.mark.parametrize(
    ("given_s", "expected_s"),
    [(0.0, UNKNOWN_S), (0.001, LEAST_S), (3.5, 3.5), (1e6, MOST_S)],
    ids=["not known", "hardly anything", "some", "ages"],
)
def test_the_answer_is_bounded(given_s: float, expected_s: float) -> None:
    assert retry_after_s(given_s) == expected_s


def test_a_long_queue_is_told_to_those_it_refuses() -> None:
    async def main() -> None:
        setup = Setup(BatchPolicy(2), QueueLimits(max_requests=40))
        first = setup.start(1)
        await setup.is_running()
        tasks = [setup.start(n) for n in range(40)]
        await setup.waiting(40)
        (group,) = setup.batcher._queue.groups
        for rows in (1, 2) * 4:
            setup.batcher.models.of(group).observe(rows, 0.1 * rows)
        with pytest.raises(QueueFull) as full:
            await setup.ask(1)
        with pytest.raises(QueueTimeout) as over:
            await setup.ask(1, context=Context(deadline_s=time.monotonic() - 1))
        for refused in (full.value, over.value):
            assert refused.retry_after_s == pytest.approx(4.0, abs=0.3)  # 20 batches of 0.2 s
        setup.model.go.set()
        await asyncio.gather(first, *tasks)

    asyncio.run(main())


def test_an_executor_tells_by_what_its_calls_took() -> None:
    async def main() -> None:
        executor: Executor[str] = Executor("m", ["one"])
        assert executor.retry_after_s() == UNKNOWN_S
        await executor.run(lambda _: time.sleep(0.05), Context())
        executor.pending_requests = 10
        assert 0.5 <= executor.retry_after_s() < 5.0

    asyncio.run(main())
