"""Runs the hooks of one `Model` call, in KServe's order (data-plane contract §6.1).

    preprocess ─▶ validate ─▶ predict | explain ─▶ postprocess

Asynchronous hooks are awaited on the event loop. Synchronous ones go where `Run` puts them, for a
served model a thread of its `Executor`: neighbours go together, so a model whose hooks all are
synchronous runs each request in one piece, as single-threaded code expects. Hooks that see batches
(`Shared`) are one step of a request, which waits there for its share.
"""

import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from headrace.server.request import Context, Stages

if TYPE_CHECKING:
    from headrace.server.model import Model

Hook = Callable[..., Any]
Run = Callable[[Callable[[], Any]], Awaitable[Any]]  # calls it somewhere, gives its result


@dataclass(frozen=True, slots=True)
class Shared:
    """names: of the hooks that see batches. run: gives one request's share of what they made of
    its value; it gets the request's headers, and those of its response."""

    names: tuple[str, ...]
    run: Callable[[Any, dict[str, str] | None, dict[str, str]], Awaitable[Any]]


# The request being answered, for what a hook calls without naming it: forwarding needs its deadline
current: ContextVar[Context | None] = ContextVar("headrace_request", default=None)


class InferenceVerb(Enum):
    EXPLAIN = 1
    PREDICT = 2


def default(hook: Hook) -> Hook:
    """Marks a hook of `Model` itself, which does nothing worth a call unless overridden."""
    hook.__dict__["is_default_hook"] = True
    return hook


def any_signature(hook: Hook) -> Hook:
    """A hook's type for type checkers: overrides may be `async` or not, and name what they take."""
    return hook


def is_overridden(hook: Hook) -> bool:
    return not getattr(hook, "is_default_hook", False)


def is_coroutine(hook: Hook) -> bool:
    """Whether it is written with `async def` and returns."""
    return _is_coroutine(getattr(hook, "__func__", hook))


def is_async(hook: Hook) -> bool:
    """Whether it is written with `async def`, returning or yielding."""
    return is_coroutine(hook) or _is_async_generator(getattr(hook, "__func__", hook))


# inspect takes a microsecond for each, of every hook of every request
_is_coroutine = lru_cache(256)(inspect.iscoroutinefunction)
_is_async_generator = lru_cache(256)(inspect.isasyncgenfunction)


async def run_inline(call: Callable[[], Any]) -> Any:
    """`Run` of a model that nobody serves: a test calls it, or another model."""
    return call()


async def answer(
    model: "Model",
    body: Any,
    headers: dict[str, str] | None,
    verb: InferenceVerb,
    run: Run = run_inline,
    shared: Shared | None = None,
) -> tuple[Any, dict[str, str]]:
    """The model's result and the headers it set. A generator's result is an async iterator."""
    response_headers: dict[str, str] = {}
    context = current.get()
    stages = context.stages if context is not None else Stages()
    if verb is not InferenceVerb.PREDICT:
        shared = None
    steps = _steps(model, headers, response_headers, verb, shared)
    value = body
    at = 0
    while at < len(steps):
        if steps[at].is_async:
            value = await _timed_await(steps[at], value, stages)
            at += 1
            continue
        group = []
        while at < len(steps) and not steps[at].is_async:
            group.append(steps[at])
            at += 1
        call = _Group(group, value, stages)
        value = call() if all(step.is_trivial for step in group) else await run(call)
    if inspect.isgenerator(value):
        value = iterate(value, run)
    return value, response_headers


async def iterate(generator: Generator[Any, Any, Any], run: Run) -> AsyncIterator[Any]:
    """A synchronous generator's items, each made where `run` puts it."""
    try:
        while (item := await run(lambda: next(generator, _END))) is not _END:
            yield item
    finally:
        await run(generator.close)


_END = object()


@dataclass(frozen=True, slots=True)
class _Step:
    stage: str  # the field of Stages that its time goes to; "": counted where it runs
    call: Callable[[Any], Any]
    is_async: bool
    is_trivial: bool = False  # cheaper than the way to a thread


@dataclass(frozen=True, slots=True)
class _Group:
    """Synchronous steps that run in one piece."""

    steps: Sequence[_Step]
    value: Any
    stages: Stages

    def __call__(self) -> Any:
        value = self.value
        for step in self.steps:
            started_ns = time.perf_counter_ns()
            try:
                value = step.call(value)
            finally:
                _add(self.stages, step.stage, started_ns)
        return value


def _steps(
    model: "Model",
    headers: dict[str, str] | None,
    response_headers: dict[str, str],
    verb: InferenceVerb,
    shared: Shared | None,
) -> list[_Step]:
    # KServe passes the third argument only to models that ask for it: older ones take two
    extra = (response_headers,) if model.required_response_headers else ()
    steps: list[_Step] = []

    def add(stage: str, hook: Callable[..., Any], *arguments: Any) -> None:
        steps.append(_Step(stage, lambda value: hook(value, *arguments), is_coroutine(hook)))

    names = shared.names if shared is not None else ()
    if "preprocess" not in names:
        if is_overridden(model.preprocess):
            add("compute_input_ns", model.preprocess, headers)
        is_trivial = not is_overridden(model.validate)  # then it looks up one key
        steps.append(
            _Step("compute_input_ns", model.validate, is_async=False, is_trivial=is_trivial)
        )
    if shared is not None:
        run = shared.run
        steps.append(_Step("", lambda value: run(value, headers, response_headers), is_async=True))
    elif verb is InferenceVerb.EXPLAIN:
        add("compute_infer_ns", model.explain, headers)
    else:
        add("compute_infer_ns", model.predict, headers, *extra)
    if "postprocess" not in names and is_overridden(model.postprocess):
        add("compute_output_ns", model.postprocess, headers, *extra)
    return steps


async def _timed_await(step: _Step, value: Any, stages: Stages) -> Any:
    started_ns = time.perf_counter_ns()
    try:
        return await step.call(value)
    finally:
        _add(stages, step.stage, started_ns)


def _add(stages: Stages, stage: str, started_ns: int) -> None:
    if not stage:
        return
    elapsed_ns = time.perf_counter_ns() - started_ns
    setattr(stages, stage, getattr(stages, stage) + elapsed_ns)
