"""A coroutine's first step runs at once; what waits goes on in a task."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from headrace.http import eager


class Watched:
    """Starts work and notes what happened, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.done = asyncio.Event()

    def start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None] | None":
        task = eager.start(work, self._ended)
        self.events.append("started")
        return task

    def _ended(self, error: BaseException | None) -> None:
        self.events.append(f"ended {type(error).__name__}")
        self.done.set()


async def at_once() -> None:
    pass


async def fails() -> None:
    raise ValueError


async def waits_for(future: "asyncio.Future[int]", watched: Watched) -> None:
    watched.events.append(str(await future))


async def turns(watched: Watched) -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    watched.events.append("turned")


async def limited(watched: Watched) -> None:
    await eager.in_task()
    async with asyncio.timeout(1):
        await asyncio.sleep(0)
    watched.events.append("within its time")


async def cleans_up(future: "asyncio.Future[int]", watched: Watched) -> None:
    try:
        await future
    finally:
        watched.events.append("cleaned up")


@pytest.mark.parametrize(
    ("work", "events"),
    [
        pytest.param(at_once, ["ended NoneType", "started"], id="ends in its first step"),
        pytest.param(fails, ["ended ValueError", "started"], id="fails in its first step"),
    ],
)
def test_without_waiting(work: Any, events: list[str]) -> None:
    async def run() -> list[str]:
        watched = Watched()
        assert watched.start(work()) is None
        return watched.events

    assert asyncio.run(run()) == events


def test_waiting() -> None:
    async def run() -> list[str]:
        watched = Watched()
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        watched.start(waits_for(future, watched))
        future.set_result(7)
        await watched.done.wait()
        return watched.events

    assert asyncio.run(run()) == ["started", "7", "ended NoneType"]


@pytest.mark.parametrize(
    ("work", "event"),
    [
        pytest.param(turns, "turned", id="bare turns of the loop"),
        pytest.param(limited, "within its time", id="asyncio.timeout, once in a task"),
    ],
)
def test_turns(work: Any, event: str) -> None:
    async def run() -> list[str]:
        watched = Watched()
        watched.start(work(watched))
        await watched.done.wait()
        return watched.events

    assert asyncio.run(run()) == ["started", event, "ended NoneType"]


@pytest.mark.parametrize("turns_before", [0, 2])
def test_cancelled(turns_before: int) -> None:
    """Also before the task has run at all: the coroutine cleans up."""

    async def run() -> list[str]:
        watched = Watched()
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        task = watched.start(cleans_up(future, watched))
        assert task is not None
        for _ in range(turns_before):
            await asyncio.sleep(0)
        task.cancel()
        await watched.done.wait()
        return watched.events

    assert asyncio.run(run()) == ["started", "cleaned up", "ended CancelledError"]
