"""The one path every inference takes below its protocol: find, check, run, filter, count.

    rest/ | grpc/  →  protocol/ (bytes → Request)  →  DataPlane.infer  →  Servable  →  predictor

It knows no web framework and no gRPC. Request checks against what a model declares are `checks.py`,
pure; who is loaded is repository.py's business.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Self, TypeVar

from headrace.server import checks
from headrace.server.errors import (
    Code,
    DeadlineExceeded,
    ModelNotReady,
    QueueFull,
    ServingError,
    Unsupported,
)
from headrace.server.metrics import InferenceMetrics
from headrace.server.protocol import metadata
from headrace.server.repository import Repository, ServedModel
from headrace.server.request import Context, Request, Response
from headrace.server.servable import instance_group
from headrace.server.statistics import FailureReason
from headrace.server.tracing import Tracer

Item = TypeVar("Item")


class DataPlane:
    """Serves what `repository` holds; `metrics` are KServe's histograms and our own figures."""

    def __init__(
        self, repository: Repository, metrics: InferenceMetrics, tracer: Tracer | None = None
    ) -> None:
        self.repository = repository
        self.metrics = metrics
        self.tracer = tracer

    async def ready_model(self, name: str, version: str = "") -> ServedModel:
        """Raises ModelNotFound, ModelVersionNotFound, or ModelNotReady (known, cannot answer)."""
        while True:
            model = self.repository.find(name, version)
            if await model.servable.is_ready():
                return model
            if not model.is_retired:  # else a reload came in between: ask its successor
                raise ModelNotReady(name)

    def model_config(self, name: str, version: str = "") -> dict[str, Any]:
        """Triton's ModelConfig of a model. Raises ModelNotFound, ModelVersionNotFound."""
        model = self.repository.find(name, version)
        servable = model.servable
        return metadata.model_config(
            model.name,
            servable.platform,
            servable.inputs,
            servable.outputs,
            model.config,
            groups=instance_group(model.name, servable),
        )

    async def infer(
        self, model: ServedModel, request: Request, context: Context
    ) -> Response | AsyncIterator[Response]:
        """Run one V2 request on model. Outputs come back filtered and in the order asked for.

        Raises InvalidInput for what model does not declare, QueueFull, DeadlineExceeded, or what
        the model raised. An iterator comes back where the model streams: its caller closes it.
        """
        model = self.repository.current(model, request.model_version)
        with _Count(self, model, context) as counted:
            answer = await self._run(model, request, context)
            counted.rows = checks.row_count(request.inputs)
            if isinstance(answer, Response):
                return self._finished(model, request, answer)
            return counted.stream(answer, lambda each: self._finished(model, request, each))

    async def infer_once(self, model: ServedModel, request: Request, context: Context) -> Response:
        """`infer` for protocols with one answer. Raises Unsupported for a model that streams."""
        model = self.repository.current(model, request.model_version)
        with _Count(self, model, context) as counted:
            answer = await self._run(model, request, context)
            counted.rows = checks.row_count(request.inputs)
            if isinstance(answer, Response):
                return self._finished(model, request, answer)
            await _close(answer)
            raise Unsupported(
                f"model {model.name} streams its answers: call generate_stream or ModelStreamInfer"
            )

    async def predict(self, model: ServedModel, payload: Any, context: Context) -> Any:
        """Run one V1 `:predict`."""
        model = self.repository.current(model)
        with _Count(self, model, context) as counted:
            result = await model.servable.predict(payload, context)
            counted.rows = checks.v1_row_count(payload)
            if hasattr(result, "__aiter__"):
                return counted.stream(result, lambda each: each)
            return result

    async def explain(self, model: ServedModel, payload: Any, context: Context) -> Any:
        """Run one V1 `:explain`."""
        model = self.repository.current(model)
        with _Count(self, model, context, is_explain=True) as counted:
            result = await model.servable.explain(payload, context)
            counted.rows = checks.v1_row_count(payload)
            return result

    def encoded(self, context: Context) -> None:
        """An edge has encoded the answer: the request's trace ends here."""
        if self.tracer is not None:
            self.tracer.end(context)

    async def _run(
        self, model: ServedModel, request: Request, context: Context
    ) -> Response | AsyncIterator[Response]:
        servable = model.servable
        checks.check_inputs(request, servable.inputs)
        if request.outputs:
            checks.check_requested_outputs(request, servable.outputs)
        return await servable.infer(request, context)

    def _finished(self, model: ServedModel, request: Request, response: Response) -> Response:
        response.model_name = request.model_name
        response.model_version = model.version
        response.id = response.id or request.id
        if request.outputs:
            response.outputs = checks.select_outputs(response.outputs, request)
        return response


class _Count:
    """One request in flight, from its creation to the end of its block, or of its stream."""

    __slots__ = (
        "_context",
        "_has_ended",
        "_is_explain",
        "_metrics",
        "_model",
        "_tracer",
        "is_stream",
        "rows",
    )

    def __init__(
        self, plane: DataPlane, model: ServedModel, context: Context, is_explain: bool = False
    ) -> None:
        self.rows = 1
        self.is_stream = False
        self._metrics = plane.metrics
        self._tracer = plane.tracer
        self._model = model
        self._context = context
        self._is_explain = is_explain
        self._has_ended = False
        model.enter()
        if self._tracer is not None:
            self._tracer.begin(model.name, model.version, context)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: object
    ) -> None:
        if error is not None or not self.is_stream:
            self.end(error)

    def stream(self, answers: AsyncIterator[Any], finish: Callable[[Any], Item]) -> "_Stream[Item]":
        """answers, each through finish; they end this request."""
        self.is_stream = True
        return _Stream(answers, finish, self)

    def end(self, error: BaseException | None) -> None:
        """Idempotent."""
        if self._has_ended:
            return
        self._has_ended = True
        model, context = self._model, self._context
        context.answered_ns = time.perf_counter_ns()
        elapsed_ns = context.answered_ns - context.started_ns
        if error is None:
            model.statistics.succeeded(self.rows, elapsed_ns, context.stages)
        else:
            model.statistics.failed(failure_reason(error), elapsed_ns)
            if self._tracer is not None:
                self._tracer.end(context, error)
        model.leave()
        self._metrics.observe(model.name, context, self.rows, self._is_explain)


class _Stream(AsyncIterator[Item]):
    """A model's answers; the request is in flight until they end, fail, or are closed."""

    def __init__(
        self, answers: AsyncIterator[Any], finish: Callable[[Any], Item], count: _Count
    ) -> None:
        self._answers = aiter(answers)
        self._finish = finish
        self._count = count

    async def __anext__(self) -> Item:
        try:
            return self._finish(await anext(self._answers))
        except StopAsyncIteration:
            self._count.end(None)
            raise
        except BaseException as err:
            self._count.end(err)
            await _close(self._answers)
            raise

    async def aclose(self) -> None:
        """The caller hung up, unless the stream has ended."""
        self._count.end(GeneratorExit())
        await _close(self._answers)

    def __del__(self) -> None:  # never begun, and not closed: it must not hold up a drain
        self._count.end(GeneratorExit())


async def _close(answers: AsyncIterator[Any]) -> None:
    close = getattr(answers, "aclose", None)
    if close is not None:
        await close()


def failure_reason(error: BaseException) -> FailureReason:
    """Triton's label for why a request failed."""
    if isinstance(error, QueueFull | DeadlineExceeded | ModelNotReady):
        return FailureReason.REJECTED
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return FailureReason.CANCELED
    if isinstance(error, ServingError) and error.code is not Code.INTERNAL:
        return FailureReason.OTHER
    return FailureReason.BACKEND
