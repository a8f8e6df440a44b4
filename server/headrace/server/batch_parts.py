"""A request of more rows than a batch may have: run in parts, put together as they come back.

Few parts are under way at a time, and few results are kept apart: what a request costs beside its
own bytes does not grow with the number of its parts.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from headrace.server.batch_work import Work
from headrace.server.request import Context, Stages

JOINED = 64  # so many results are put together at a time, and so many of those again

Run = Callable[[Any, Context], Coroutine[Any, Any, Any]]


@dataclass(frozen=True, slots=True)
class Parts:
    """payload's rows in parts of most, the last of what is left; each is cut when it is taken."""

    work: Work
    payload: Any
    rows: int
    most: int

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        """Each part, and how many rows it has."""
        return zip(self.work.part(self.payload, self._sizes()), self._sizes(), strict=True)

    def _sizes(self) -> Iterator[int]:
        return (min(self.most, self.rows - at) for at in range(0, self.rows, self.most))


async def run(parts: Parts, at_once: int, context: Context, run_one: Run) -> Any:
    """Their result as one, at_once of them under way at a time; or the exception a part ended with.

    The other parts are cancelled then, as they are where the caller is.
    """
    joined, stages = _Joined(parts.work), Stages(executions=0)
    under_way: deque[tuple[asyncio.Task[Any], Context, int]] = deque()

    async def take() -> None:
        task, inner, count = under_way[0]
        result = await task
        under_way.popleft()
        _add(stages, inner.stages)
        joined.add(result, count)

    try:
        for part, count in parts:
            if len(under_way) == at_once:
                await take()
            inner = _context(context, context.body_bytes * count // parts.rows)
            under_way.append((asyncio.create_task(run_one(part, inner)), inner, count))
        while under_way:
            await take()
        result = joined.whole()
    except BaseException as err:
        tasks = [task for task, _, _ in under_way]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(err, Exception):
            return err
        raise
    context.stages.queue_ns += stages.queue_ns
    context.stages.compute_infer_ns += stages.compute_infer_ns
    context.stages.executions = stages.executions
    context.stages.batch_rows = stages.batch_rows
    return result


class _Joined:
    """Results in order, of which fewer than JOINED are kept apart at each level of joining."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._levels: list[list[tuple[Any, int]]] = []

    def add(self, result: Any, rows: int) -> None:
        held = (result, rows)
        for level in self._levels:
            level.append(held)
            if len(level) < JOINED:
                return
            held = self._merged(level)
            level.clear()
        self._levels.append([held])

    def whole(self) -> Any:
        left = [held for level in reversed(self._levels) for held in level]
        result, _ = left[0] if len(left) == 1 else self._merged(left)
        return result

    def _merged(self, held: list[tuple[Any, int]]) -> tuple[Any, int]:
        rows = [count for _, count in held]
        return self._work.merge([result for result, _ in held], rows), sum(rows)


def _context(whole: Context, body_bytes: int) -> Context:
    return Context(
        deadline_s=whole.deadline_s,
        call_deadline_s=whole.call_deadline_s,
        start_by_s=whole.start_by_s,
        body_bytes=body_bytes,
        priority=whole.priority,
    )


def _add(stages: Stages, more: Stages) -> None:
    """Waits overlap, executions add up."""
    stages.queue_ns = max(stages.queue_ns, more.queue_ns)
    stages.compute_infer_ns += more.compute_infer_ns
    stages.executions += more.executions
    stages.batch_rows = max(stages.batch_rows, more.batch_rows)
