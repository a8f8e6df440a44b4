"""Where and when a model runs: one bounded queue and a fixed number of instances per model.

A call waits for a free instance (first come, first served), then runs inline on the event loop or
in a thread of the model's own pool. What is over its deadline, or whose caller has gone, while it
waits does not run. Inline is for calls known to be short: a large body still goes to a thread, and
a model that turns out slow goes there for good (`InlineLimits`). A `Trial` may move calls that
began in threads to the loop. Process isolation is an instance
whose `predict` talks to a child (isolation.py); the executor does not know it.

The event loop is the only one that touches the counters, so nothing here locks. Predictors have a
`Batcher` (batcher.py) as their queue, on the instances and the counters of an executor.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Generic, Protocol, TypeVar

from headrace.server import backlog
from headrace.server.errors import ModelNotReady, QueueFull, QueueTimeout
from headrace.server.request import Context

Instance = TypeVar("Instance")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

UNLOADING = "It is being unloaded."
RECENT = 0.2  # how far the typical time of a call moves towards a new one


class Mode(StrEnum):
    INLINE = "inline"  # on the event loop: only where the call is cheaper than a thread hop
    THREAD = "thread"


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Per model; 0 means no bound (contract §8 *Limits*)."""

    max_requests: int = 1024
    max_bytes: int = 1 << 30

    def broken(self, waiting: int, waiting_bytes: int, more_bytes: int) -> str:
        """The bound that a request of more_bytes would break behind what waits; "" if none."""
        if self.max_requests and waiting >= self.max_requests:
            return f"{waiting} requests waiting (--max_queue_requests {self.max_requests})"
        if self.max_bytes and waiting_bytes + more_bytes > self.max_bytes:
            return f"{waiting_bytes} bytes waiting (--max_queue_bytes {self.max_bytes})"
        return ""


def queue_full(model_name: str, broken: str, retry_after_s: float) -> QueueFull:
    """The refusal of a request that would break a bound, as `QueueLimits.broken` words it."""
    return QueueFull(f"Exceeds maximum queue size: model {model_name} has {broken}", retry_after_s)


@dataclass(frozen=True, slots=True)
class InlineLimits:
    """Until when inline stays inline; what was measured was one row. 0 means always."""

    max_body_bytes: int = 16 << 10  # a larger request goes to a thread
    slow_ns: int = 10_000_000  # a call that held the loop so long is a strike
    strikes: int = 3  # so many, and the model runs in threads from then on


ALWAYS_INLINE = InlineLimits(0, 0, 0)


class Trial(Protocol):
    """Watches calls in their threads until it knows where they belong (inline_trial.py)."""

    def timed(self, call: Callable[[Instance], Result], instance: Instance) -> Result: ...

    def mode(self) -> Mode | None: ...


class Executor(Generic[Instance]):
    """Runs calls on the instances of one model, never more at a time than there are instances."""

    def __init__(
        self,
        model_name: str,
        instances: Sequence[Instance],
        limits: QueueLimits = QueueLimits(),
        mode: Mode = Mode.THREAD,
        inline: InlineLimits = ALWAYS_INLINE,
        trial: Trial | None = None,
    ) -> None:
        self.model_name = model_name
        self.instances = tuple(instances)
        self.limits = limits
        self.mode = mode
        self.inline = inline
        self._trial = trial
        self._strikes = 0
        self.pending_requests = 0  # waiting, not running
        self.pending_bytes = 0
        self.running = 0
        self.free = deque(self.instances)
        self._typical_s = 0.0  # of a call, of late
        self._waiters: deque[asyncio.Future[Instance]] = deque()
        self._threads: ThreadPoolExecutor | None = None
        self.is_closed = False

    async def run(self, call: Callable[[Instance], Result], context: Context) -> Result:
        """call(instance) on a free instance; its result or its exception.

        Raises QueueFull at once when the queue is full, QueueTimeout when context's deadline
        passes first, ModelNotReady once closed. A cancelled caller leaves the queue; what already
        runs ends unheard.
        """
        if self.is_closed:
            raise ModelNotReady(self.model_name, UNLOADING)
        queued_ns = time.perf_counter_ns()
        instance = self.free.popleft() if self.free else await self._wait(context)
        started_ns = time.perf_counter_ns()
        context.stages.queue_ns += started_ns - queued_ns
        try:
            if self.is_closed:
                raise ModelNotReady(self.model_name, UNLOADING)
            if context.deadline_s is not None and time.monotonic() >= context.deadline_s:
                raise QueueTimeout(retry_after_s=self.retry_after_s())
            future = (
                None
                if self.runs_inline(context.body_bytes)
                else self._start(call, instance, context)
            )
        except BaseException:
            self._release(instance)
            raise
        self.running += 1
        if future is None:
            try:
                return guarded(call, instance)
            finally:
                self._done(instance, context, started_ns)
                self.note_inline(time.perf_counter_ns() - started_ns)
        future.add_done_callback(lambda _: self._done(instance, context, started_ns))
        # shielded: a thread cannot be stopped, so its instance is free only when it returns
        return await asyncio.shield(future)

    def close(self) -> None:
        """Refuse what waits and let the threads end. Idempotent."""
        self.is_closed = True
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(ModelNotReady(self.model_name, UNLOADING))
        if self._threads is not None:
            self._threads.shutdown(wait=False)

    async def _wait(self, context: Context) -> Instance:
        broken = self.limits.broken(self.pending_requests, self.pending_bytes, context.body_bytes)
        if broken:
            raise queue_full(self.model_name, broken, self.retry_after_s())
        waiter: asyncio.Future[Instance] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self.pending_requests += 1
        self.pending_bytes += context.body_bytes
        timer = None
        if context.deadline_s is not None:
            left_s = max(0.0, context.deadline_s - time.monotonic())
            timer = asyncio.get_running_loop().call_later(left_s, self._expire, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            self._give_back(waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self.pending_requests -= 1
            self.pending_bytes -= context.body_bytes

    def _give_back(self, waiter: asyncio.Future[Instance]) -> None:
        """The waiter gives up: pass its instance on if it just got one, else forget the waiter."""
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self._release(waiter.result())
        else:
            waiter.cancel()

    def _release(self, instance: Instance) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(instance)
                return
        self.free.append(instance)

    def _done(self, instance: Instance, context: Context, started_ns: int) -> None:
        self.running -= 1
        taken_ns = time.perf_counter_ns() - started_ns
        context.stages.compute_infer_ns += taken_ns
        self._typical_s += (taken_ns / 1e9 - self._typical_s) * (RECENT if self._typical_s else 1.0)
        self._release(instance)
        if self._trial is not None:
            self._look(self._trial)

    def _look(self, trial: Trial) -> None:
        mode = trial.mode()
        if mode is None:
            return
        self._trial, self.mode = None, mode
        if mode is Mode.INLINE:
            log.info(
                "model moved to the event loop",
                extra={
                    "model": self.model_name,
                    "why": "its calls take less than a hop to a thread; --isolation thread keeps "
                    "them there",
                },
            )

    def retry_after_s(self) -> float:
        """How long what waits and what runs will take, for a caller that is refused."""
        calls = self.pending_requests + self.running
        return backlog.retry_after_s(calls * self._typical_s / len(self.instances))

    def _expire(self, waiter: asyncio.Future[Instance]) -> None:
        if not waiter.done():
            waiter.set_exception(QueueTimeout(retry_after_s=self.retry_after_s()))

    def runs_inline(self, body_bytes: int) -> bool:
        """Whether a call for that much belongs on the event loop."""
        most = self.inline.max_body_bytes
        return self.mode is Mode.INLINE and (not most or body_bytes <= most)

    def runs_now(self, body_bytes: int) -> bool:
        """Whether such a call would end before the event loop turns."""
        return bool(self.free) and self.runs_inline(body_bytes)

    def note_inline(self, taken_ns: int) -> None:
        """A call held the loop so long; too many slow ones, and there are no more."""
        if not self.inline.slow_ns or taken_ns < self.inline.slow_ns:
            return
        self._strikes += 1
        if self._strikes >= self.inline.strikes:
            self.mode = Mode.THREAD
            log.info("model moved off the event loop", extra={"model": self.model_name})

    def _start(
        self, call: Callable[[Instance], Result], instance: Instance, context: Context
    ) -> asyncio.Future[Result]:
        run, trial = call, self._trial
        if trial is not None and context.body_bytes <= self.inline.max_body_bytes:
            run = partial(trial.timed, call)
        return asyncio.get_running_loop().run_in_executor(self.threads(), guarded, run, instance)

    def threads(self) -> ThreadPoolExecutor:
        """As many threads as instances."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(
                len(self.instances), thread_name_prefix=f"model-{self.model_name}"
            )
        return self._threads


def guarded(call: Callable[[Instance], Result], instance: Instance) -> Result:
    """call(instance), with what would end the server, or hang a future, as a plain error."""
    try:
        return call(instance)
    except (StopIteration, SystemExit, KeyboardInterrupt) as err:
        raise RuntimeError(f"the model raised {type(err).__name__}({err})") from err
