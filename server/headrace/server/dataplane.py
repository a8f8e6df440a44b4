"""The one path every inference takes below its protocol: find, check, run, filter, count.

    rest/ | grpc/  →  protocol/ (bytes → Request)  →  DataPlane.infer  →  Servable  →  predictor

It knows no web framework and no gRPC. Request checks against what a model declares are `checks.py`,
pure; who is loaded is repository.py's business.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

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
from headrace.server.repository import Repository, ServedModel
from headrace.server.request import Context, Request, Response
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

    async def infer(
        self, model: ServedModel, request: Request, context: Context
    ) -> Response | AsyncIterator[Response]:
        """Run one V2 request on model. Outputs come back filtered and in the order asked for.

        Raises InvalidInput for what model does not declare, QueueFull, DeadlineExceeded, or what
        the model raised. An iterator comes back where the model streams.
        """
        model = self.repository.current(model, request.model_version)
        with self._counted(model, context) as counted:
            checks.check_inputs(request, model.servable.inputs)
            checks.check_requested_outputs(request, model.servable.outputs)
            answer = await model.servable.infer(request, context)
            if not isinstance(answer, Response):
                counted.is_stream = True
                answers = (self._finished(model, request, each) async for each in answer)
                rows = checks.row_count(request.inputs)
                return self._stream(model, rows, answers, context)
            counted.rows = checks.row_count(request.inputs)
            return self._finished(model, request, answer)

    async def infer_once(self, model: ServedModel, request: Request, context: Context) -> Response:
        """`infer` for protocols with one answer. Raises Unsupported for a model that streams."""
        answer = await self.infer(model, request, context)
        if isinstance(answer, Response):
            return answer
        close = getattr(answer, "aclose", None)
        if close is not None:
            await close()
        raise Unsupported(
            f"model {model.name} streams its answers: call generate_stream or ModelStreamInfer"
        )

    async def predict(self, model: ServedModel, payload: Any, context: Context) -> Any:
        """Run one V1 `:predict`."""
        model = self.repository.current(model)
        with self._counted(model, context) as counted:
            result = await model.servable.predict(payload, context)
            counted.rows = checks.v1_row_count(payload)
            if hasattr(result, "__aiter__"):
                counted.is_stream = True
                return self._stream(model, counted.rows, result, context)
            return result

    async def explain(self, model: ServedModel, payload: Any, context: Context) -> Any:
        """Run one V1 `:explain`."""
        model = self.repository.current(model)
        with self._counted(model, context, is_explain=True) as counted:
            result = await model.servable.explain(payload, context)
            counted.rows = checks.v1_row_count(payload)
            return result

    def encoded(self, context: Context) -> None:
        """An edge has encoded the answer: the request's trace ends here."""
        if self.tracer is not None:
            self.tracer.end(context)

    def _finished(self, model: ServedModel, request: Request, response: Response) -> Response:
        response.model_name = request.model_name
        response.model_version = model.version
        response.id = response.id or request.id
        if request.outputs:
            response.outputs = checks.select_outputs(response.outputs, request)
        return response

    @contextmanager
    def _counted(
        self, model: ServedModel, context: Context, is_explain: bool = False
    ) -> Iterator["_Count"]:
        """Counts one request's end, good or bad; a stream is counted where it ends instead."""
        count = _Count()
        model.enter()
        if self.tracer is not None:
            self.tracer.begin(model.name, model.version, context)
        try:
            yield count
        except BaseException as err:
            self._failed(model, context, err)
            raise
        else:
            if not count.is_stream:
                self._succeeded(model, context, count.rows)
        finally:
            model.leave()
            self.metrics.observe(model.name, context, count.rows, is_explain)

    async def _stream(
        self,
        model: ServedModel,
        rows: int,
        answers: AsyncIterator[Item],
        context: Context,
    ) -> AsyncIterator[Item]:
        model.enter()
        try:
            async for answer in answers:
                yield answer
        except BaseException as err:  # GeneratorExit included: the caller hung up
            self._failed(model, context, err)
            raise
        else:
            self._succeeded(model, context, rows)
        finally:
            model.leave()
            close = getattr(answers, "aclose", None)
            if close is not None:
                await close()

    def _succeeded(self, model: ServedModel, context: Context, rows: int) -> None:
        context.answered_ns = time.perf_counter_ns()
        elapsed_ns = context.answered_ns - context.started_ns
        model.statistics.succeeded(rows, elapsed_ns, context.stages)

    def _failed(self, model: ServedModel, context: Context, error: BaseException) -> None:
        elapsed_ns = time.perf_counter_ns() - context.started_ns
        model.statistics.failed(failure_reason(error), elapsed_ns)
        if self.tracer is not None:
            self.tracer.end(context, error)


@dataclass(slots=True)
class _Count:
    rows: int = 1
    is_stream: bool = False


def failure_reason(error: BaseException) -> FailureReason:
    """Triton's label for why a request failed."""
    if isinstance(error, QueueFull | DeadlineExceeded | ModelNotReady):
        return FailureReason.REJECTED
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return FailureReason.CANCELED
    if isinstance(error, ServingError) and error.code is not Code.INTERNAL:
        return FailureReason.OTHER
    return FailureReason.BACKEND
