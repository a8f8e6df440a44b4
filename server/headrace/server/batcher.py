"""The queue and the clock before the instances of one model: batching.py decides, this acts.

    run(inputs) ─▶ an idle inline instance: called at once, nothing in between
                └▶ queue ─▶ decide ─▶ instance of the Executor ─▶ each request's own reply

V1, V2 and gRPC meet here. What is in a request, and how some become one, is `Work`'s: tensors, or
what a user's hooks exchange. The event loop alone touches queue and counters; what runs in a thread
is `batch_work.run`. Asynchronous models are awaited in a task per batch. A caller that goes away
leaves its neighbours alone; when all have gone, such a task is cancelled.
"""

import asyncio
import contextvars
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from headrace.server import backlog, batch_parts, batch_work, checks, refusals
from headrace.server.batch_queue import BatchQueue, Entry
from headrace.server.batch_record import BatchRecord
from headrace.server.batch_rows import TensorWork
from headrace.server.batch_work import Shape, Work
from headrace.server.batching import (
    ONE_BY_ONE,
    BatchPolicy,
    Company,
    Drop,
    Refusal,
    Send,
    decide,
    dropped,
    sent,
    set_limits,
)
from headrace.server.errors import ModelNotReady, QueueTimeout
from headrace.server.execution import UNLOADING, Executor, Mode, guarded, queue_full
from headrace.server.latency_model import LatencyModels
from headrace.server.reply_order import ReplyOrder
from headrace.server.request import Context

SAMPLED = 63  # of direct calls, one in so many and one tells the latency model


@dataclass(slots=True, eq=False)
class _Batch:
    step: Send
    entries: list[Entry]
    instance: Any
    sent_s: float
    started_ns: int
    task: asyncio.Task[None] | None = None  # of an asynchronous model


class Batcher:
    """Runs requests on executor's instances, together where policy lets them.

    work: what they are; tensors if not said. Instances have a `predict` for what work joins.
    """

    def __init__(
        self,
        executor: Executor[Any],
        policy: BatchPolicy = ONE_BY_ONE,
        models: LatencyModels | None = None,
        work: Work | None = None,
    ) -> None:
        self.policy = policy
        self.models = models or LatencyModels()
        self.record = BatchRecord()
        self._executor = executor
        self._work: Work = work or TensorWork(executor.model_name)
        self._running: set[_Batch] = set()
        self._awaited: dict[Entry, _Batch] = {}  # in a batch of an asynchronous model
        self._company = Company()
        self._queue = BatchQueue(policy.ageing_s)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = inf
        self._replies = ReplyOrder(policy.preserve_ordering)
        self._splits = not policy.is_learned and policy.max_batch_size > 1 and self._work.can_split
        self._is_direct = policy.never_waits and not policy.preserve_ordering

    async def run(self, payload: Any, context: Context) -> Any:
        """The result of one request: for tensors, its outputs.

        Raises what the model raised; QueueFull, QueueTimeout, ModelNotReady as `Executor.run`.
        """
        executor = self._executor
        if (
            self._is_direct
            and executor.mode is Mode.INLINE
            and executor.free
            and not self._queue.count
            and (context.deadline_s is None or time.monotonic() < context.deadline_s)
            and not executor.is_closed
            and executor.runs_inline(context.body_bytes)
            and not (self._splits and checks.row_count(payload) > self.policy.max_batch_size)
        ):
            return self._run_directly(payload, context)
        shape = self._work.shape_of(payload)
        if self._splits and shape.key is not None and shape.rows > self.policy.max_batch_size:
            return await self._run_split(payload, shape.rows, context)
        return await self._run_queued(payload, shape, context)

    def close(self) -> None:
        """Refuse what waits. Idempotent."""
        self._executor.close()
        for entry in list(self._queue.entries()):
            self._leave(entry)
            self._refuse(entry, Refusal.CLOSED)
        if self._timer is not None:
            self._timer.cancel()

    def to_json(self) -> dict[str, Any]:
        """What it does and why, for people."""
        now_s = time.monotonic()
        return {
            "policy": asdict(self.policy),
            "waiting": {"requests": self._queue.count, "groups": len(self._queue.groups)},
            "running": self._executor.running,
            "company_per_wait": round(self._company.gain, 3),
            "latency": [
                {"shapes": self._work.describe(key), **model.to_json()}
                for key, model in self.models.items()
            ],
            "useful_rows": {
                self._work.describe(key): model.useful_rows(self.policy.max_batch_size)
                for key, model in self.models.items()
            },
            **self.record.to_json(now_s),
        }

    def _run_directly(self, payload: Any, context: Context) -> Any:
        """No queue, no future: the model is cheaper than they are. Only predictors run inline."""
        executor = self._executor
        started_ns = time.perf_counter_ns()
        try:
            return executor.free[0].predict(payload)
        except (StopIteration, SystemExit, KeyboardInterrupt) as err:
            return guarded(_raise, err)
        finally:
            taken_ns = time.perf_counter_ns() - started_ns
            context.stages.compute_infer_ns += taken_ns
            executor.note_inline(taken_ns)
            self.record.direct_calls += 1
            if not self.record.direct_calls & SAMPLED:
                shape = self._work.shape_of(payload)
                self.models.of(shape.key).observe(shape.rows, taken_ns / 1e9)

    async def _run_queued(
        self, payload: Any, shape: Shape, context: Context, whole: Entry | None = None
    ) -> Any:
        """whole: the larger request that payload is a part of."""
        executor, policy, now_s = self._executor, self.policy, time.monotonic()
        if executor.is_closed:
            raise ModelNotReady(executor.model_name, UNLOADING)
        level = policy.level(context.priority)
        deadline_s, start_by_s = refusals.limits(context, policy.queue_of(level))
        if deadline_s <= now_s:
            self.record.refuse(Refusal.EXPIRED)
            raise QueueTimeout(retry_after_s=self._retry_after_s(now_s))
        key = shape.key if policy.max_batch_size > 1 else None
        entry = Entry(
            (payload, context),
            shape.rows,
            context.body_bytes,
            whole.arrived_s if whole else now_s,
            key,
            level,
            deadline_s,
            is_part=whole is not None,
        )
        set_limits(entry, policy, self.models.of(key), start_by_s)
        entry.arrived_s = now_s  # a part has the limits of its whole, and a turn of its own
        reply = self._admit(entry)
        self._queue.add(entry)
        self._advance()
        try:
            return await reply
        except asyncio.CancelledError:
            if entry.group is not None:
                self._leave(entry)
            elif entry in self._awaited:
                self._abandon(self._awaited[entry])
            self._replies.release()
            raise

    async def _run_split(self, payload: Any, rows: int, context: Context) -> Any:
        """A request of more rows than a batch may have, in parts; it counts as one that waits."""
        most, at_once = self.policy.max_batch_size, 2 * len(self._executor.instances)
        level = self.policy.level(context.priority)
        whole = Entry(payload, rows, context.body_bytes, time.monotonic(), level=level)
        reply = self._admit(whole)
        self._queue.count_at(level, 1)

        async def run_part(part: Any, inner: Context) -> Any:
            return await self._run_queued(part, self._work.shape_of(part), inner, whole)

        parts = batch_parts.Parts(self._work, payload, rows, most)
        try:
            self._replies.answer(whole, await batch_parts.run(parts, at_once, context, run_part))
            return await reply
        except BaseException:
            reply.cancel()
            self._replies.release()
            raise
        finally:
            self._queue.count_at(level, -1)
            self._forget(whole)

    def _admit(self, entry: Entry) -> asyncio.Future[Any]:
        """Count entry and give it its turn; of a part, its whole has both. Raises QueueFull."""
        executor = self._executor
        entry.reply = reply = asyncio.get_running_loop().create_future()
        if not entry.is_part:
            if not (executor.free and self.policy.never_waits):
                self._check_bounds(entry)
            executor.pending_requests += 1
            executor.pending_bytes += entry.size_bytes
        self._replies.enter(entry)
        return reply

    def _check_bounds(self, entry: Entry) -> None:
        """Raises QueueFull: this entry would have to wait, and may not."""
        executor = self._executor
        message = refusals.overfull(
            entry,
            self.policy,
            executor.limits,
            executor.pending_requests,
            executor.pending_bytes,
            self._queue.levels.get(entry.level, 0),
        )
        if message:
            self.record.refuse(Refusal.FULL)
            again_s = self._retry_after_s(time.monotonic())
            raise queue_full(executor.model_name, message, again_s)

    def _advance(self) -> None:
        """Do what is decided until it is to wait."""
        while True:
            now_s = time.monotonic()
            step = decide(
                self._queue,
                self.policy,
                self.models,
                self._company,
                len(self._executor.free),
                now_s,
            )
            if isinstance(step, Send):
                self._send(step, now_s)
            elif isinstance(step, Drop):
                late = dropped(self._queue, step, now_s)
                again_s = self._retry_after_s(now_s)
                for entry in late:
                    self._forget(entry)
                    self._refuse(entry, refusals.reason(entry, self.policy, now_s), again_s)
            else:
                self._wake_at(step.until_s, now_s)
                return

    def _wake_at(self, until_s: float, now_s: float) -> None:
        if until_s == inf or (self._timer is not None and self._timer_s <= until_s):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = until_s
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, until_s - now_s), self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._advance()

    def _send(self, step: Send, now_s: float) -> None:
        executor = self._executor
        entries = sent(self._queue, step, self.policy, self._company)
        started_ns = time.perf_counter_ns()
        size_bytes = 0
        for entry in entries:
            self._forget(entry)
            size_bytes += entry.size_bytes
            entry.item[1].stages.queue_ns += int((now_s - entry.arrived_s) * 1e9)
        batch = _Batch(step, entries, executor.free.popleft(), now_s, started_ns)
        executor.running += 1
        self._running.add(batch)
        if self._work.is_async:
            self._await(batch)
            return
        if executor.runs_inline(size_bytes):
            results = self._results(batch)
            executor.note_inline(time.perf_counter_ns() - started_ns)
            self._finish(batch, results)
            return
        try:
            executor.threads().submit(self._run_in_thread, asyncio.get_running_loop(), batch)
        except RuntimeError as err:  # no thread can be had
            self._finish(batch, [err] * len(entries))

    def _run_in_thread(self, loop: asyncio.AbstractEventLoop, batch: _Batch) -> None:
        """In a thread."""
        results = self._results(batch)
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._finish_and_advance, batch, results)

    def _results(self, batch: _Batch) -> batch_work.Results:
        return batch_work.run(self._attempts(batch), batch.instance)

    def _attempts(self, batch: _Batch) -> batch_work.Attempts:
        return batch_work.attempts(
            self._work,
            [entry.item[0] for entry in batch.entries],
            [entry.rows for entry in batch.entries],
            self.policy.isolates,
        )

    def _await(self, batch: _Batch) -> None:
        """Run batch on the loop, in a task that belongs to no single request."""
        loop = asyncio.get_running_loop()
        batch.task = loop.create_task(self._run_in_task(batch), context=contextvars.Context())
        self._awaited.update(dict.fromkeys(batch.entries, batch))

    async def _run_in_task(self, batch: _Batch) -> None:
        results: batch_work.Results = [asyncio.CancelledError()] * len(batch.entries)
        try:
            results = await batch_work.run_async(self._attempts(batch), batch.instance.predict)
        finally:
            for entry in batch.entries:
                del self._awaited[entry]
            self._finish_and_advance(batch, results)

    def _abandon(self, batch: _Batch) -> None:
        """A caller of batch, which runs, has gone; it goes on for the others."""
        if batch.task is not None and all(entry.reply.done() for entry in batch.entries):
            batch.task.cancel()

    def _finish_and_advance(self, batch: _Batch, results: Sequence[Any]) -> None:
        self._finish(batch, results)
        self._advance()

    def _finish(self, batch: _Batch, results: Sequence[Any]) -> None:
        executor, entries = self._executor, batch.entries
        taken_ns = time.perf_counter_ns() - batch.started_ns
        executor.running -= 1
        self._running.discard(batch)
        executor.free.append(batch.instance)
        rows = sum(entry.rows for entry in entries)
        if not any(isinstance(each, BaseException) for each in results):
            self.models.of(entries[0].key).observe(rows, taken_ns / 1e9)
        waited_s = batch.sent_s - min(entry.arrived_s for entry in entries)
        self.record.sent(batch.step, batch.sent_s, len(entries), rows, waited_s, taken_ns / 1e9)
        executions = 1  # told to the first that is still there, so that it is counted once
        for entry, result in zip(entries, results, strict=True):
            if not entry.reply.done():
                stages = entry.item[1].stages
                stages.compute_infer_ns += taken_ns
                stages.batch_rows, stages.executions = rows, executions
                executions = 0
            self._replies.answer(entry, result)

    def _leave(self, entry: Entry) -> None:
        self._queue.remove(entry)
        self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        if not entry.is_part:
            self._executor.pending_requests -= 1
            self._executor.pending_bytes -= entry.size_bytes

    def _refuse(self, entry: Entry, refusal: Refusal, again_s: float = 0.0) -> None:
        """again_s: when its caller may try again."""
        self.record.refuse(refusal)
        executor = self._executor
        error = refusals.error(
            refusal, executor.model_name, self.policy, executor.pending_requests, again_s
        )
        self._replies.answer(entry, error)

    def _retry_after_s(self, now_s: float) -> float:
        """How long what waits and what runs will take, for a caller that is refused."""
        running_s = 0.0
        for batch in self._running:
            latency = self.models.known(batch.entries[0].key)
            if latency is not None:
                predicted_s = latency.predict(sum(entry.rows for entry in batch.entries))
                running_s += max(0.0, batch.sent_s + predicted_s - now_s)
        instances = len(self._executor.instances)
        return backlog.retry_after_s(
            backlog.backlog_s(self._queue, self.policy, self.models, instances, running_s)
        )


def _raise(error: BaseException) -> Any:
    raise error
