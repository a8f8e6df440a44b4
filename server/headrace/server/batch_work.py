"""What a `Batcher` must know of the requests it runs together, and what is done when they fail.

    payloads ─▶ join ─▶ predict of an instance ─▶ share ─▶ each request's own result

Tensors are such work (batch_rows.py), and so are the hooks of a user's `Model` (shared_hooks.py).
`attempts` decides what is called next, and isolates a failing request; a thread calls it in `run`,
the event loop awaits it in `run_async`.
"""

import asyncio
from collections.abc import (
    Awaitable,
    Callable,
    Generator,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import Any, Protocol

from headrace.server.execution import guarded

HOPELESS = 3  # requests of a failed batch that fail alone too, until the rest is not tried

Results = list[Any]  # one per request: its result, or the exception it ends with


class RowErrors(Exception):
    """Raised by a predictor, or a batched hook, whose batch went well but for some rows.

    errors: by row of the batch it was given. outputs: of all rows, whatever stands in those.
    """

    def __init__(self, errors: Mapping[int, Exception], outputs: Any) -> None:
        super().__init__(f"rows {sorted(errors)} failed")
        self.errors = dict(errors)
        self.outputs = outputs


@dataclass(frozen=True, slots=True)
class Shape:
    """key: requests of equal keys may share a batch; None: this one runs alone."""

    key: Hashable
    rows: int


class Work(Protocol):
    """How requests of one model share an execution; payloads and results are its own business.

    is_async: predict of its instances gives an awaitable. can_split: `part` and `merge` work.
    """

    is_async: bool
    can_split: bool

    def shape_of(self, payload: Any) -> Shape: ...

    def join(self, payloads: Sequence[Any]) -> Any:
        """What predict is given, for one payload too."""
        ...

    def share(self, result: Any, payloads: Sequence[Any], rows: Sequence[int]) -> Sequence[Any]:
        """Each payload's own result. Raises InferenceError where result has not their rows."""
        ...

    def part(self, payload: Any, rows: Iterable[int]) -> Iterator[Any]:
        """A payload larger than a batch may be, as several, made one by one."""
        ...

    def merge(self, results: Sequence[Any], rows: Sequence[int]) -> Any:
        """Results of what `part` made, or of `merge`, as one. Raises InferenceError for other
        rows."""
        ...

    def describe(self, key: Hashable) -> str:
        """A `Shape.key` for people."""
        ...


class Instance(Protocol):
    """What a batch is run on."""

    def predict(self, payload: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


Attempts = Generator[Any, Any, Results]  # yields a joined payload, is sent its result or _Failed


def run(attempts: Attempts, instance: Instance) -> Results:
    """In a thread, or inline; never raises."""
    try:
        payload = next(attempts)
        while True:
            payload = attempts.send(_called(instance, payload))
    except StopIteration as end:
        results: Results = end.value
        return results


async def run_async(attempts: Attempts, call: Callable[[Any], Awaitable[Any]]) -> Results:
    """On the loop; raises nothing but that it is cancelled."""
    task = asyncio.current_task()
    try:
        payload = next(attempts)
        while True:
            outcome: Any
            try:
                outcome = await call(payload)
            except asyncio.CancelledError as err:
                if task is not None and task.cancelling():
                    raise
                outcome = _Failed(RuntimeError(f"the model raised CancelledError({err})"))
            except (SystemExit, KeyboardInterrupt) as err:
                outcome = _Failed(RuntimeError(f"the model raised {type(err).__name__}({err})"))
            except BaseException as err:
                outcome = _Failed(err)
            payload = attempts.send(outcome)
    except StopIteration as end:
        results: Results = end.value
        return results


def _called(instance: Instance, payload: Any) -> Any:
    try:
        return guarded(lambda chosen: chosen.predict(payload), instance)
    except BaseException as err:
        return _Failed(err)


def attempts(
    work: Work, payloads: Sequence[Any], rows: Sequence[int], isolates: bool = True
) -> Attempts:
    """All in one call if it goes well.

    isolates: after a failure each request runs alone, so that only the culprit fails.
    """
    outcome = yield from _joined(work, payloads)
    if not isinstance(outcome, _Failed):
        return _shared(work, outcome, payloads, rows)
    error = outcome.error
    if isinstance(error, RowErrors):
        return _with_row_errors(work, error, payloads, rows)
    if len(payloads) == 1 or not isolates or not isinstance(error, Exception):
        return [error] * len(payloads)
    found: Results = []
    for payload, count in zip(payloads, rows, strict=True):
        if len(found) == HOPELESS and all(isinstance(each, Exception) for each in found):
            return [*found, *[error] * (len(payloads) - len(found))]  # the model, not a row
        found += yield from attempts(work, [payload], [count])
    return found


def _joined(work: Work, payloads: Sequence[Any]) -> Generator[Any, Any, Any]:
    try:
        payload = work.join(payloads)
    except Exception as err:  # arrays that look alike need not join
        return _Failed(err)
    return (yield payload)


def _shared(work: Work, result: Any, payloads: Sequence[Any], rows: Sequence[int]) -> Results:
    try:
        return list(work.share(result, payloads, rows))
    except Exception as err:
        return [err] * len(payloads)


def _with_row_errors(
    work: Work, error: RowErrors, payloads: Sequence[Any], rows: Sequence[int]
) -> Results:
    found = _shared(work, error.outputs, payloads, rows)
    at = 0
    for number, count in enumerate(rows):
        failed = [row for row in range(at, at + count) if row in error.errors]
        if failed:
            found[number] = error.errors[failed[0]]
        at += count
    return found
