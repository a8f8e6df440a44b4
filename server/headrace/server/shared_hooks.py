"""The hooks of a user's `Model` that see batches, where its `Batching` or a flag says so.

    preprocess (own request) ─▶ ┐                          ┌ ─▶ postprocess (own result)
    preprocess (own request) ─▶ ┴ predict (all their rows) ┴ ─▶ postprocess (own result)

`SharedHooks` is what a `ModelServable` runs those hooks by: the batcher's `Work` and its instance
in one. What hooks exchange is joined and parted by batch_payloads.py.
"""

import asyncio
import contextvars
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from headrace.server import batch_payloads, batch_rows, hooks
from headrace.server.batch_work import Shape
from headrace.server.errors import InferenceError, InvalidInput
from headrace.server.infer_tensors import InferInput, InferOutput
from headrace.server.infer_types import InferRequest, InferResponse
from headrace.server.model_batching import Batching
from headrace.server.predict_io import generate_uuid
from headrace.server.protocol import v1_tensors
from headrace.server.request import Context
from headrace.server.tensor import Tensor, TensorSpec

if TYPE_CHECKING:
    from headrace.server.execution import Executor
    from headrace.server.model import Model


class BatchHeaders(dict[str, str]):  # a dict, since hooks are promised one
    """Headers that all requests of a batch have in common. of_requests: each one's own, in order;
    rows: how many each one has."""

    def __init__(self, of_requests: Sequence[dict[str, str]], rows: Sequence[int]) -> None:
        first, *others = of_requests
        super().__init__(
            (name, value)
            for name, value in first.items()
            if all(each.get(name) == value for each in others)
        )
        self.of_requests = tuple(of_requests)
        self.rows = tuple(rows)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request's part in a batch. came_as: the protocol to answer in, where that is changed."""

    payload: Any
    headers: dict[str, str]
    response_headers: dict[str, str]
    context: Context
    came_as: str = ""
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Batch:
    payload: Any
    asked: Sequence[Asked]
    rows: Sequence[int]


class SharedHooks:
    """The hooks of model that see batches: the `Work` of its `Batcher`, and its instance.

    specs: gives what the model declares, inputs and outputs, when they are needed.
    """

    def __init__(
        self,
        model: "Model",
        batching: Batching,
        specs: Callable[[], tuple[Sequence[TensorSpec], Sequence[TensorSpec]]],
    ) -> None:
        self._model = model
        self._batching = batching
        self._specs = specs
        names = ("preprocess", "validate", "predict", "postprocess")
        first = 0 if "preprocess" in batching.hooks else 2
        last = 4 if "postprocess" in batching.hooks else 3
        found = [getattr(model, name) for name in names[first:last]]
        self._hooks = [hook for hook in found if hooks.is_overridden(hook) or hook == model.predict]
        self.is_async = any(map(hooks.is_coroutine, self._hooks))
        self.can_split = batching.batch is None
        self.executor: Executor[SharedHooks] | None = None  # for synchronous hooks among others

    @property
    def guesses_inputs(self) -> bool:
        """Whether names and datatypes of V1 rows are not known though they are to be tensors."""
        return self._batching.protocol == "v2" and not self._specs()[0]

    def asked(
        self,
        payload: Any,
        headers: dict[str, str],
        response_headers: dict[str, str],
        context: Context,
    ) -> Asked:
        """payload as the batched hooks take it. Raises InvalidInput where it cannot be so."""
        protocol, came_as = self._batching.protocol, ""
        request_id = payload.id if isinstance(payload, InferRequest) else None
        if protocol == "v2" and isinstance(payload, dict) and _is_v1(payload):
            payload, came_as = self._to_v2(payload), "v1"
        elif protocol == "v1" and isinstance(payload, InferRequest):
            payload, came_as = _to_v1(payload), "v2"
        return Asked(payload, headers, response_headers, context, came_as, request_id)

    def shape_of(self, payload: Asked) -> Shape:
        shape = batch_payloads.shape_of(payload.payload)
        if shape.key is None and self._batching.batch is not None:
            return Shape(("any", type(payload.payload).__qualname__), shape.rows)
        return shape

    def join(self, payloads: Sequence[Asked]) -> _Batch:
        given = [each.payload for each in payloads]
        rows = [self.shape_of(each).rows for each in payloads]
        batch = self._batching.batch
        joined = batch(given) if batch is not None else batch_payloads.join(given)
        return _Batch(joined, payloads, rows)

    def share(self, result: Any, payloads: Sequence[Asked], rows: Sequence[int]) -> Sequence[Any]:
        result = _plain(result)
        name, unbatch = self._model.name, self._batching.unbatch
        if unbatch is not None:
            parts = list(unbatch(result, list(rows)))
            if len(parts) != len(rows):
                raise InferenceError(
                    f"model '{name}': unbatch made {len(parts)} results for {len(rows)} requests"
                )
        elif len(payloads) == 1 and self.shape_of(payloads[0]).key is None:
            parts = [result]  # it has no rows to compare
        else:
            parts = batch_payloads.part(result, rows, name)
        return [
            self._answered(each, _plain(own)) for own, each in zip(parts, payloads, strict=True)
        ]

    def part(self, payload: Asked, rows: Iterable[int]) -> Iterator[Asked]:
        total = self.shape_of(payload).rows
        for each in batch_payloads.cut(payload.payload, rows, total, self._model.name):
            yield replace(payload, payload=each)

    def merge(self, results: Sequence[Any], rows: Sequence[int]) -> Any:
        return batch_payloads.merge(results, self._model.name)

    def describe(self, key: Hashable) -> str:
        return batch_payloads.describe(key)

    def predict(self, batch: _Batch, /) -> Any:
        """The batched hooks on batch: a result, or an awaitable of it where one is asynchronous."""
        return self._awaited(batch) if self.is_async else self._called(batch)

    def _called(self, batch: _Batch) -> Any:
        """In a thread."""
        headers = BatchHeaders([each.headers for each in batch.asked], batch.rows)
        answers: dict[str, str] = {}
        value, token = batch.payload, hooks.current.set(_context(batch, headers))
        try:
            for hook in self._hooks:
                value = hook(*self._arguments(hook, value, headers, answers))
        finally:
            hooks.current.reset(token)
        _tell(batch, answers)
        return value

    async def _awaited(self, batch: _Batch) -> Any:
        headers = BatchHeaders([each.headers for each in batch.asked], batch.rows)
        answers: dict[str, str] = {}
        value, token = batch.payload, hooks.current.set(_context(batch, headers))
        try:
            for hook in self._hooks:
                arguments = self._arguments(hook, value, headers, answers)
                if hooks.is_coroutine(hook):
                    value = await hook(*arguments)
                else:
                    value = await self._in_thread(hook, arguments)
        finally:
            hooks.current.reset(token)
        _tell(batch, answers)
        return value

    async def _in_thread(self, hook: hooks.Hook, arguments: tuple[Any, ...]) -> Any:
        assert self.executor is not None
        inner = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.executor.threads(), inner.run, hook, *arguments)

    def _arguments(
        self, hook: hooks.Hook, value: Any, headers: BatchHeaders, answers: dict[str, str]
    ) -> tuple[Any, ...]:
        model = self._model
        if hook == model.validate:
            return (value,)
        if hook == model.preprocess or not model.required_response_headers:
            return (value, headers)
        return (value, headers, answers)

    def _to_v2(self, payload: dict[str, Any]) -> InferRequest:
        tensors = v1_tensors.to_tensors(payload, self._specs()[0])
        parameters = payload.get("parameters")
        return InferRequest(
            self._model.name,
            [InferInput.from_tensor(each) for each in tensors],
            request_id=generate_uuid(),
            parameters=parameters if isinstance(parameters, dict) else None,
        )

    def _answered(self, asked: Asked, result: Any) -> Any:
        """result in the protocol that asked came in, and with its id."""
        if asked.came_as == "v1" and isinstance(result, InferResponse):
            return v1_tensors.to_predictions([each.to_tensor() for each in result.outputs])
        if asked.came_as == "v2" and isinstance(result, dict) and "predictions" in result:
            outputs = self._specs()[1]
            try:
                tensors = v1_tensors.to_tensors(
                    {"instances": _unpacked(result["predictions"])}, outputs
                )
            except InvalidInput as err:
                raise InferenceError(f"model '{self._model.name}': predictions: {err}") from err
            if not outputs:
                tensors = [Tensor("output-0", each.array, each.datatype) for each in tensors]
            made = [InferOutput.from_tensor(each) for each in tensors]
            result = InferResponse(None, self._model.name, made)
        if isinstance(result, InferResponse) and not result.id:
            result.id = asked.request_id
        return result


def _is_v1(payload: dict[str, Any]) -> bool:
    return "instances" in payload or "inputs" in payload


def _to_v1(request: InferRequest) -> dict[str, Any]:
    """Rows of the only input, or of objects by input; columns where those differ in rows."""
    tensors = [each.to_tensor() for each in request.inputs]
    parameters = {
        name: value
        for name, value in (request.parameters or {}).items()
        if name not in batch_payloads.SCHEDULING
    }
    more = {"parameters": parameters} if parameters else {}
    told = v1_tensors.to_predictions(tensors)["predictions"]
    if batch_rows.shape_of(tensors).key is None and isinstance(told, dict):
        return {"inputs": {name: _unpacked(value) for name, value in told.items()}, **more}
    return {"instances": _unpacked(told), **more}


def _unpacked(value: Any) -> Any:
    """value with lists for its arrays, as a decoded JSON body has them."""
    if isinstance(value, list):
        return [_unpacked(each) for each in value]
    if isinstance(value, dict):
        return {name: _unpacked(each) for name, each in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


def _plain(result: Any) -> Any:
    """A V2 answer in whatever form as an InferResponse; anything else as it is."""
    if hasattr(result, "raw_output_contents"):
        return InferResponse.from_grpc(result)
    if isinstance(result, dict) and isinstance(result.get("outputs"), list):
        return InferResponse.from_rest(result)
    return result


def _context(batch: _Batch, headers: BatchHeaders) -> Context:
    """What a forwarding hook finds: the latest deadline, since an earlier one's caller may go."""
    contexts = [each.context for each in batch.asked]
    deadlines = [each.deadline_s for each in contexts if each.deadline_s is not None]
    return Context(
        headers,
        deadline_s=max(deadlines) if len(deadlines) == len(contexts) else None,
        body_bytes=sum(each.body_bytes for each in contexts),
    )


def _tell(batch: _Batch, answers: dict[str, str]) -> None:
    for each in batch.asked:
        each.response_headers.update(answers)
