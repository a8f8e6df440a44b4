"""The executor as a specification: who runs, who waits, who is refused, and what is counted."""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from headrace.server.errors import Code, ModelNotReady, QueueFull, QueueTimeout
from headrace.server.execution import Executor, InlineLimits, Mode, QueueLimits
from headrace.server.request import Context


@dataclass
class Held:
    """An instance whose calls say that they run, and run until they are let go."""

    name: str = "a"
    started: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    calls: list[str] = field(default_factory=list)

    async def is_running(self) -> None:
        assert await asyncio.to_thread(self.started.wait, 10)


def hold(call: str) -> Callable[[Held], str]:
    def run(instance: Held) -> str:
        instance.calls.append(call)
        instance.started.set()
        assert instance.go.wait(10)
        return f"{call} on {instance.name}"

    return run


def quick(call: str) -> Callable[[Held], str]:
    def run(instance: Held) -> str:
        instance.calls.append(call)
        return f"{call} on {instance.name}"

    return run


async def queued(executor: Executor[Any], count: int) -> None:
    """Returns once count requests wait: a few turns of the loop, no time."""
    for _ in range(50):
        if executor.pending_requests == count:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"{executor.pending_requests} wait, not {count}")


def start(
    executor: Executor[Held], call: Callable[[Held], str], context: Context | None = None
) -> asyncio.Task[str]:
    return asyncio.create_task(executor.run(call, context or Context()))


def past() -> Context:
    return Context(deadline_s=time.monotonic() - 1)


def test_calls_wait_for_an_instance_and_run_in_the_order_they_came() -> None:
    async def main() -> None:
        held = Held()
        executor = Executor("m", [held])
        first = start(executor, hold("first"))
        await held.is_running()
        others = [start(executor, quick(f"call {n}")) for n in range(3)]
        await queued(executor, 3)
        assert executor.running == 1
        held.go.set()
        assert await asyncio.gather(first, *others) == [
            "first on a",
            "call 0 on a",
            "call 1 on a",
            "call 2 on a",
        ]
        assert held.calls == ["first", "call 0", "call 1", "call 2"]
        assert (executor.running, executor.pending_requests, executor.pending_bytes) == (0, 0, 0)

    asyncio.run(main())


def test_as_many_calls_run_at_once_as_there_are_instances() -> None:
    async def main() -> None:
        one, two = Held("one"), Held("two")
        executor = Executor("m", [one, two])
        tasks = [start(executor, hold("call")) for _ in range(3)]
        await asyncio.gather(one.is_running(), two.is_running())
        await queued(executor, 1)
        assert executor.running == 2
        two.go.set()
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert next(task.result() for task in done) == "call on two"
        one.go.set()
        assert await asyncio.gather(*tasks) == ["call on one", "call on two", "call on two"]

    asyncio.run(main())


def test_a_running_model_does_not_hold_the_loop() -> None:
    async def main() -> None:
        held = Held()
        task = start(Executor("m", [held]), hold("call"))
        await held.is_running()  # the loop ran this while the model runs
        assert not task.done()
        held.go.set()
        await task

    asyncio.run(main())


def test_inline_runs_on_the_loop_and_thread_in_a_thread_of_the_model() -> None:
    async def main() -> None:
        here = threading.current_thread().name
        for mode, name in ((Mode.INLINE, here), (Mode.THREAD, "model-m_0")):
            executor = Executor("m", [None], mode=mode)
            ran = await executor.run(lambda _: threading.current_thread().name, Context())
            assert ran == name
            executor.close()

    asyncio.run(main())


def test_a_cancelled_waiter_leaves_the_queue_and_never_runs() -> None:
    async def main() -> None:
        held = Held()
        executor = Executor("m", [held])
        first = start(executor, hold("first"))
        await held.is_running()
        gone = start(executor, quick("gone"), Context(body_bytes=70))
        stays = start(executor, quick("stays"), Context(body_bytes=30))
        await queued(executor, 2)
        assert executor.pending_bytes == 100
        gone.cancel()
        await queued(executor, 1)
        assert executor.pending_bytes == 30
        held.go.set()
        await asyncio.gather(first, stays)
        assert held.calls == ["first", "stays"]
        assert gone.cancelled()

    asyncio.run(main())


def test_a_waiter_cancelled_as_it_gets_its_instance_passes_it_on() -> None:
    """The race: the instance is handed over, and before the waiter wakes its caller hangs up."""

    async def main() -> None:
        held = Held()
        executor = Executor("m", [held])
        first = start(executor, hold("first"))
        await held.is_running()
        gone, stays = start(executor, quick("gone")), start(executor, quick("stays"))
        await queued(executor, 2)
        handed_over = executor._release  # what the end of a call does

        def release_and_cancel(instance: Held) -> None:
            handed_over(instance)
            if executor.pending_requests == 2:
                gone.cancel()

        executor._release = release_and_cancel  # type: ignore[method-assign]  # to meet the race
        held.go.set()
        assert await stays == "stays on a"
        await first
        assert gone.cancelled()
        assert held.calls == ["first", "stays"]
        assert await executor.run(quick("after"), Context()) == "after on a"

    asyncio.run(main())


def test_what_runs_when_its_caller_hangs_up_ends_unheard_and_frees_its_instance_then() -> None:
    async def main() -> None:
        held = Held()
        executor = Executor("m", [held])
        gone = start(executor, hold("gone"))
        await held.is_running()
        gone.cancel()
        next_ = start(executor, quick("next"))
        await queued(executor, 1)
        assert gone.cancelled()
        assert executor.running == 1  # still: a thread cannot be stopped
        held.go.set()
        assert await next_ == "next on a"

    asyncio.run(main())


def test_a_call_over_its_deadline_while_it_waits_does_not_run() -> None:
    async def main() -> None:
        held = Held()
        executor = Executor("m", [held])
        first = start(executor, hold("first"))
        await held.is_running()
        late = start(executor, quick("late"), Context(deadline_s=time.monotonic() + 0.02))
        with pytest.raises(QueueTimeout, match=r"^Request timeout expired$") as caught:
            await late  # by a timer: nothing else happens until it ends
        assert (caught.value.code, caught.value.retry_after_s) == (Code.OVERLOADED, 1.0)
        assert executor.pending_requests == 0
        held.go.set()
        await first
        assert held.calls == ["first"]

    asyncio.run(main())


@pytest.mark.parametrize("mode", list(Mode))
def test_a_call_past_its_deadline_does_not_run_though_an_instance_is_free(mode: Mode) -> None:
    async def main() -> None:
        held = Held()
        executor = Executor("m", [held], mode=mode)
        with pytest.raises(QueueTimeout, match=r"^Request timeout expired$"):
            await executor.run(quick("late"), past())
        assert await executor.run(quick("in time"), Context()) == "in time on a"
        assert held.calls == ["in time"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("limits", "body_bytes", "message"),
    [
        pytest.param(
            QueueLimits(max_requests=1),
            0,
            "Exceeds maximum queue size: model m has 1 requests waiting (--max_queue_requests 1)",
            id="as many wait as may",
        ),
        pytest.param(
            QueueLimits(max_bytes=100),
            41,
            "Exceeds maximum queue size: model m has 60 bytes waiting (--max_queue_bytes 100)",
            id="as many bytes wait as may",
        ),
        pytest.param(QueueLimits(max_bytes=100), 40, None, id="just as many bytes may wait"),
        pytest.param(QueueLimits(0, 0), 1 << 40, None, id="0 is no bound"),
    ],
)
def test_the_queue_is_bounded(limits: QueueLimits, body_bytes: int, message: str | None) -> None:
    async def main() -> None:
        held = Held()
        executor = Executor("m", [held], limits)
        tasks = [start(executor, hold("first"), Context(body_bytes=1000))]  # runs: not counted
        await held.is_running()
        tasks.append(start(executor, quick("second"), Context(body_bytes=60)))
        await queued(executor, 1)
        third = start(executor, quick("third"), Context(body_bytes=body_bytes))
        if message is None:
            await queued(executor, 2)
            tasks.append(third)
        else:
            with pytest.raises(QueueFull) as caught:
                await third
            assert (str(caught.value), caught.value.retry_after_s) == (message, 1.0)
            assert executor.pending_requests == 1
        held.go.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())


class OwnError(Exception):
    pass


def raises(error: BaseException) -> Callable[[object], None]:
    def run(instance: object) -> None:
        raise error

    return run


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        pytest.param(OwnError("boom"), OwnError, "boom", id="a user's exception comes as it is"),
        pytest.param(
            StopIteration(3),
            RuntimeError,
            "the model raised StopIteration(3)",
            id="StopIteration, which a future cannot carry, does not hang the caller",
        ),
        pytest.param(
            SystemExit(2),
            RuntimeError,
            "the model raised SystemExit(2)",
            id="sys.exit in a model does not end the server",
        ),
    ],
)
def test_exceptions(mode: Mode, error: BaseException, kind: type[Exception], message: str) -> None:
    async def main() -> None:
        executor = Executor("m", [None], mode=mode)
        async with asyncio.timeout(10):
            with pytest.raises(kind) as caught:
                await executor.run(raises(error), Context())
        assert str(caught.value) == message
        assert executor.running == 0
        assert await executor.run(lambda _: "next", Context()) == "next"

    asyncio.run(main())


def test_close_refuses_what_waits_lets_end_what_runs_and_takes_nothing_new() -> None:
    async def main() -> None:
        held = Held()
        executor = Executor("m", [held])
        first = start(executor, hold("first"))
        await held.is_running()
        waiting = [start(executor, quick("waits")) for _ in range(2)]
        await queued(executor, 2)
        executor.close()
        executor.close()
        message = "Model with name m is not ready. It is being unloaded."
        for task in waiting:
            with pytest.raises(ModelNotReady) as caught:
                await task
            assert str(caught.value) == message
        with pytest.raises(ModelNotReady) as caught:
            await executor.run(quick("new"), Context())
        assert str(caught.value) == message
        held.go.set()
        assert await first == "first on a"
        assert held.calls == ["first"]

    asyncio.run(main())


def test_close_as_a_waiter_gets_its_instance_refuses_it() -> None:
    async def main() -> None:
        held = Held()
        executor = Executor("m", [held])
        first = start(executor, hold("first"))
        await held.is_running()
        second = start(executor, quick("second"))
        await queued(executor, 1)
        first_done = asyncio.Event()
        release = executor._release

        def release_and_close(instance: Held) -> None:
            release(instance)
            executor.close()
            first_done.set()

        executor._release = release_and_close  # type: ignore[method-assign]  # to meet the race
        held.go.set()
        await first_done.wait()
        with pytest.raises(ModelNotReady):
            await second
        await first
        assert held.calls == ["first"]

    asyncio.run(main())


def test_times_are_told_to_the_context() -> None:
    async def main() -> None:
        held = Held()
        executor = Executor("m", [held])
        contexts = [Context(), Context()]
        tasks = [start(executor, hold("first"), contexts[0])]
        await held.is_running()
        tasks.append(start(executor, quick("second"), contexts[1]))
        await queued(executor, 1)
        held.go.set()
        await asyncio.gather(*tasks)
        assert contexts[0].stages.compute_infer_ns > contexts[0].stages.queue_ns > 0
        assert contexts[1].stages.queue_ns > 0
        assert contexts[1].stages.compute_infer_ns > 0

    asyncio.run(main())


def test_a_large_body_of_an_inline_model_goes_to_a_thread() -> None:
    async def main() -> None:
        executor = Executor("m", [None], mode=Mode.INLINE, inline=InlineLimits(max_body_bytes=100))
        names = [
            await executor.run(lambda _: threading.current_thread().name, Context(body_bytes=size))
            for size in (100, 101, 100)
        ]
        assert names == [threading.current_thread().name, "model-m_0", names[0]]
        executor.close()

    asyncio.run(main())


def test_an_inline_model_that_turns_out_slow_runs_in_threads_from_then_on() -> None:
    async def main() -> None:
        limits = InlineLimits(slow_ns=1, strikes=3)  # every call is slow
        executor = Executor("m", [None], mode=Mode.INLINE, inline=limits)
        names = [
            await executor.run(lambda _: threading.current_thread().name, Context())
            for _ in range(4)
        ]
        here = threading.current_thread().name
        assert names == [here, here, here, "model-m_0"]
        executor.close()

    asyncio.run(main())
