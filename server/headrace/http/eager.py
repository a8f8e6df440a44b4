"""Runs a coroutine's first step at once: one that never waits needs no task and no loop turn.

Python 3.12 has `asyncio.eager_task_factory`; this serves 3.11 too, and makes no task at all for a
coroutine that ends in its first step. The price: `asyncio.current_task()` is None in that step, so
code that asks for it (`asyncio.timeout`) must first `await in_task()`.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any


def start(
    work: Coroutine[Any, Any, None], ended: Callable[[BaseException | None], None]
) -> "asyncio.Task[None] | None":
    """Run work until it first waits. None: it has ended, and ended(error) was called; else the task
    it goes on in, which calls ended when it is done."""
    try:
        waits_for = work.send(None)
    except StopIteration:
        ended(None)
        return None
    except BaseException as err:
        ended(err)
        return None
    task = asyncio.get_running_loop().create_task(_Resumed(work, waits_for))
    task.add_done_callback(
        lambda done: ended(asyncio.CancelledError() if done.cancelled() else done.exception())
    )
    return task


@coroutine
def in_task() -> Generator[None, None, None]:
    """From here on there is a current task; costs a turn of the loop only where there was none."""
    if asyncio.current_task() is None:
        yield


class _Resumed(Coroutine[Any, Any, None]):
    """work, which already waits for waits_for, as a coroutine that a task can take over."""

    def __init__(self, work: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._work = work
        self._waits_for = waits_for
        self._is_first = True

    def send(self, value: Any) -> Any:
        if self._is_first:
            self._is_first = False
            return self._waits_for
        return self._work.send(value)

    def throw(self, *error: Any) -> Any:
        self._is_first = False
        return self._work.throw(*error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, None]:
        return (yield from self._work.__await__())
