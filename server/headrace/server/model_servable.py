"""`ModelServable`: a user's `Model` as the data plane serves it.

V1 payloads go to the hooks as they came, a V2 `Request` as an `InferRequest` over the same buffers;
what the hooks return, an `InferResponse`, a dict, a protobuf message or an iterator of these,
becomes a `Response`, or a stream of them.

Synchronous hooks run in the model's `Executor` (one at a time by default), asynchronous ones on the
loop; both kinds are admitted by the same queue limits. Hooks that see batches have a `Batcher`, and
an executor of their own: hooks of a single request must not keep batches from forming.
"""

import asyncio
import contextvars
import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any

from headrace.http import in_task
from headrace.server import backlog, hooks
from headrace.server.batcher import Batcher
from headrace.server.batching import ONE_BY_ONE, BatchPolicy
from headrace.server.errors import QueueTimeout
from headrace.server.execution import (
    ALWAYS_INLINE,
    RECENT,
    Executor,
    InlineLimits,
    Mode,
    QueueLimits,
    queue_full,
)
from headrace.server.hook_messages import to_infer_request, to_response, to_specs, v1_body
from headrace.server.hooks import InferenceVerb
from headrace.server.inline_trial import InlineTrial
from headrace.server.memory import Usage
from headrace.server.model import Model
from headrace.server.model_batching import Batching
from headrace.server.placement import Placement
from headrace.server.protocol.parameters import priority
from headrace.server.request import Context, Request, Response
from headrace.server.settings import Isolation
from headrace.server.shared_hooks import SharedHooks
from headrace.server.tensor import TensorSpec

log = logging.getLogger(__name__)


class ModelServable:
    """Serves model. concurrency: how many synchronous hooks, or batches, may run at the same time.

    policy: how requests share calls of its batched hooks.
    """

    platform = "python"

    def __init__(
        self,
        model: Model,
        limits: QueueLimits = QueueLimits(),
        concurrency: int = 1,
        on_stop: Callable[[Model], Any] = lambda model: model.stop(),
        policy: BatchPolicy = ONE_BY_ONE,
        isolation: Isolation = Isolation.AUTO,
    ) -> None:
        self.model = model
        self.memory = Usage()
        self.placements: Sequence[Placement] = (Placement(),) * concurrency
        self._on_stop = on_stop
        self._is_owner = True
        self.inputs: Sequence[TensorSpec] = ()
        self.outputs: Sequence[TensorSpec] = ()
        self._trial = InlineTrial() if isolation is Isolation.AUTO else None
        self._executor = Executor(
            model.name,
            [model] * concurrency,
            limits,
            Mode.INLINE if isolation is Isolation.INLINE else Mode.THREAD,
            ALWAYS_INLINE if isolation is Isolation.INLINE else InlineLimits(),
            self._trial,
        )
        self._limits = limits
        self._awaiting = 0  # requests in asynchronous hooks
        self._awaiting_bytes = 0
        self._typical_s = 0.0  # of what was awaited, of late
        self._is_described = False
        self._engine: asyncio.Task[None] | None = None
        model._run = self._run
        self._batcher: Batcher | None = None
        self._shared: SharedHooks | None = None
        model._shared = None
        if policy.max_batch_size > 1:
            self._share(policy, concurrency)

    @property
    def batcher(self) -> Batcher | None:
        return self._batcher

    @property
    def executor(self) -> Executor[Model]:
        return self._executor

    @property
    def pending_requests(self) -> int:
        waiting = self._executor.pending_requests
        if self._shared is not None and self._shared.executor is not None:
            waiting += self._shared.executor.pending_requests
        return waiting

    async def start(self) -> None:
        """Learn what the model declares; start its engine where it has one."""
        if self.model.engine and self._engine is None:
            self._engine = asyncio.create_task(self.model.start_engine())
            self._engine.add_done_callback(self._engine_ended)
        if self._trial is not None:
            await self._trial.start()
        await self._describe()
        if self._shared is not None and self._shared.guesses_inputs:
            log.warning(
                "V1 and V2 bodies may not mix",
                extra={
                    "model": self.model.name,
                    "why": "Batching(protocol='v2') without declared inputs leaves names and "
                    "datatypes of V1 rows to guess; override get_input_types",
                },
            )

    async def is_ready(self) -> bool:
        """What `healthy()` says; with a predictor health check, the predictor's word too."""
        config = self.model.predictor_config
        is_plain = self._is_described and not hooks.is_overridden(self.model.healthy)
        if config is not None or not is_plain:
            await in_task()  # users' code may ask for its task
        try:
            if not await _awaited(self.model.healthy()):
                return False
            if (
                config is not None
                and config.predictor_health_check
                and not await self.model.forwarder(config).is_ready()
            ):
                return False
        except Exception:
            log.exception("health check failed", extra={"model": self.model.name})
            return False
        if not self._is_described:  # declared types are often known only once loaded
            await self._describe()
        return True

    async def infer(self, request: Request, context: Context) -> Response | AsyncIterator[Response]:
        if self._shared is not None and request.parameters:
            context.priority = priority(request.parameters)
        result = await self._call(to_infer_request(request), context, InferenceVerb.PREDICT)
        if hasattr(result, "__aiter__"):
            return self._responses(result)
        return to_response(result, self.model.name)

    async def predict(self, payload: Any, context: Context) -> Any:
        return v1_body(await self._call(payload, context, InferenceVerb.PREDICT), context)

    async def explain(self, payload: Any, context: Context) -> Any:
        return v1_body(await self._call(payload, context, InferenceVerb.EXPLAIN), context)

    async def stop(self) -> None:
        """End the engine, the hooks that wait, and the model. Errors of its own are logged."""
        self._executor.close()
        if self._batcher is not None:
            self._batcher.close()
        if not self._is_owner:
            return
        stops: tuple[Callable[[], Any], ...] = (
            self.model.stop_engine,
            lambda: self._on_stop(self.model),
        )
        for stop in stops:
            try:
                await _awaited(stop())
            except Exception:
                log.exception("model did not stop cleanly", extra={"model": self.model.name})
        if self._engine is not None:
            self._engine.cancel()
            await asyncio.gather(self._engine, return_exceptions=True)
        await self.model.close_forwarder()

    def release(self) -> None:
        """Leave the model running at `stop`: another servable of it takes over."""
        self._is_owner = False

    async def _call(self, payload: Any, context: Context, verb: InferenceVerb) -> Any:
        """The hooks' result; a stream holds its place among the admitted until it ends."""
        is_admitted = self._has_async_hook(verb)
        if is_admitted or self._shared or not self._executor.runs_now(context.body_bytes):
            await in_task()
        if is_admitted:
            self._admit(context)
        token = hooks.current.set(context)
        is_open = False
        try:
            answer = await self.model(payload, context.headers, verb)
            result, headers = answer if isinstance(answer, tuple) else (answer, {})
            context.response_headers.update({str(k): str(v) for k, v in (headers or {}).items()})
            if hasattr(result, "__aiter__"):
                is_open = is_admitted
                return self._stream(result, context, is_admitted)
            return result
        finally:
            hooks.current.reset(token)
            if is_admitted and not is_open:
                self._dismiss(context)

    async def _stream(
        self, items: AsyncIterator[Any], context: Context, is_admitted: bool
    ) -> AsyncIterator[Any]:
        token = hooks.current.set(context)
        try:
            async for item in items:
                yield item
        finally:
            with suppress(ValueError):  # closed by another task, whose context this is not
                hooks.current.reset(token)
            if is_admitted:
                self._dismiss(context)
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    async def _responses(self, items: AsyncIterator[Any]) -> AsyncIterator[Response]:
        async with aclosing(items):  # type: ignore[type-var]  # ours, of _stream
            async for item in items:
                yield to_response(item, self.model.name)

    async def _run(self, call: Callable[[], Any]) -> Any:
        """Where synchronous hooks run: the executor, with the request's context variables."""
        context = hooks.current.get() or Context()
        inner = contextvars.copy_context()
        # the hooks count their own stages, and the executor would count the same time again
        queued = Context(deadline_s=context.deadline_s, body_bytes=context.body_bytes)
        try:
            return await self._executor.run(lambda _: inner.run(call), queued)
        finally:
            context.stages.queue_ns += queued.stages.queue_ns

    def _share(self, policy: BatchPolicy, concurrency: int) -> None:
        """Run predict, and the hooks that `batching` names, on batches."""
        model = self.model
        batching = model.batching if isinstance(model.batching, Batching) else Batching()
        shared = SharedHooks(model, batching, lambda: (self.inputs, self.outputs))
        shared.executor = Executor(model.name, [shared] * concurrency, self._limits)
        batcher = Batcher(shared.executor, policy, work=shared)

        async def run(
            value: Any, headers: dict[str, str] | None, response_headers: dict[str, str]
        ) -> Any:
            context = hooks.current.get() or Context()
            asked = shared.asked(value, headers or {}, response_headers, context)
            return await batcher.run(asked, context)

        self._batcher, self._shared = batcher, shared
        model._shared = hooks.Shared(batching.hooks, run)

    def _has_async_hook(self, verb: InferenceVerb) -> bool:
        """Whether a hook of its own awaits; the batcher bounds what waits for batches."""
        model = self.model
        main = "explain" if verb is InferenceVerb.EXPLAIN else "predict"
        names = {main, "preprocess", "postprocess"}
        if model._shared is not None and verb is InferenceVerb.PREDICT:
            names -= set(model._shared.names)
        called = [getattr(model, name) for name in names]
        return type(model).__call__ is not Model.__call__ or any(
            hooks.is_overridden(hook) and hooks.is_async(hook) for hook in called
        )

    def _admit(self, context: Context) -> None:
        """Raises QueueFull, QueueTimeout: the executor's rules for what it does not run."""
        more_bytes = context.body_bytes if self._awaiting else 0  # one alone is never too large
        broken = self._limits.broken(self._awaiting, self._awaiting_bytes, more_bytes)
        if broken:  # they run at the same time
            raise queue_full(self.model.name, broken, backlog.retry_after_s(self._typical_s))
        if context.deadline_s is not None and time.monotonic() >= context.deadline_s:
            raise QueueTimeout(retry_after_s=backlog.retry_after_s(self._typical_s))
        self._awaiting += 1
        self._awaiting_bytes += context.body_bytes

    def _dismiss(self, context: Context) -> None:
        taken_s = (time.perf_counter_ns() - context.started_ns) / 1e9
        self._typical_s += (taken_s - self._typical_s) * (RECENT if self._typical_s else 1.0)
        self._awaiting -= 1
        self._awaiting_bytes -= context.body_bytes

    async def _describe(self) -> None:
        self.inputs = to_specs(await _awaited(self.model.get_input_types()), self.model.name)
        self.outputs = to_specs(await _awaited(self.model.get_output_types()), self.model.name)
        self._is_described = bool(self.model.ready)

    def _engine_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error(
                "model engine failed", extra={"model": self.model.name}, exc_info=task.exception()
            )
            self.model.ready = False


async def _awaited(value: Any) -> Any:
    """value, of a method that users write with or without `async`."""
    return await value if inspect.isawaitable(value) else value
