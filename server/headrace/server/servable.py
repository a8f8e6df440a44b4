"""What the data plane calls: one model version, whatever was loaded for it.

Two things can be loaded. Our predictors are plain classes over tensors: `TensorServable` here runs
them. User code inherits KServe's `Model`: model_servable.py runs its hooks. Both keep the loop
free: what is synchronous goes through the model's `Batcher` or `Executor`.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from headrace.server import checks
from headrace.server.batcher import Batcher
from headrace.server.batching import ONE_BY_ONE, BatchPolicy
from headrace.server.errors import Unsupported
from headrace.server.execution import Executor
from headrace.server.latency_model import LatencyModels
from headrace.server.memory import Usage
from headrace.server.placement import Placement, to_groups
from headrace.server.predictor import Predictor
from headrace.server.protocol import v1_tensors
from headrace.server.protocol.parameters import priority
from headrace.server.request import Context, Request, Response
from headrace.server.tensor import Tensor, TensorSpec


class Servable(Protocol):
    """inputs, outputs: declared tensors, empty where unknown. Errors are `ServingError`s."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    platform: str  # for model metadata, e.g. "onnx_onnxruntime"
    memory: Usage  # measured at its load

    @property
    def pending_requests(self) -> int:
        """Requests waiting for an instance."""
        ...

    async def is_ready(self) -> bool: ...

    async def infer(self, request: Request, context: Context) -> Response | AsyncIterator[Response]:
        """One V2 inference; an iterator where the model streams."""
        ...

    async def predict(self, payload: Any, context: Context) -> Any:
        """One V1 `:predict`: payload is decoded JSON, or bytes; returns what rest/ serialises."""
        ...

    async def explain(self, payload: Any, context: Context) -> Any:
        """One V1 `:explain`. Raises Unsupported where there is no explainer."""
        ...

    async def stop(self) -> None: ...


def instance_group(name: str, servable: Servable) -> list[dict[str, Any]]:
    """Where the instances of servable run, as Triton's configuration says it."""
    return to_groups(name, getattr(servable, "placements", ()))


def batcher_of(servable: Servable) -> Batcher | None:
    """What runs servable's requests together; None where it has no batcher."""
    found = getattr(servable, "batcher", None)
    return found if isinstance(found, Batcher) else None


class TensorServable:
    """A `Predictor` behind a `Batcher`; V1 rows become tensors and back.

    policy: how requests share executions. latency: what is known of the model's batches.
    passive: loaded instances that get no requests; they are held, and closed with the others.
    """

    def __init__(
        self,
        executor: Executor[Predictor],
        platform: str,
        passive: Sequence[Predictor] = (),
        policy: BatchPolicy = ONE_BY_ONE,
        latency: LatencyModels | None = None,
    ) -> None:
        self._executor = executor
        self.batcher = Batcher(executor, policy, latency)
        self._passive = tuple(passive)
        self.platform = platform
        self.memory = Usage()
        self.placements: Sequence[Placement] = (Placement(),) * len(executor.instances)
        predictor = executor.instances[0]
        self.inputs: Sequence[TensorSpec] = predictor.inputs
        self.outputs: Sequence[TensorSpec] = predictor.outputs

    @property
    def executor(self) -> Executor[Predictor]:
        return self._executor

    @property
    def pending_requests(self) -> int:
        return self._executor.pending_requests

    async def is_ready(self) -> bool:
        return True

    async def infer(self, request: Request, context: Context) -> Response:
        if request.parameters:
            context.priority = priority(request.parameters)
        outputs = await self._predict(request.inputs, context)
        return Response(request.model_name, list(outputs), request.id, request.model_version)

    async def predict(self, payload: Any, context: Context) -> Any:
        inputs = v1_tensors.to_tensors(payload, self.inputs)
        if checks.row_count(inputs) == 0:  # legal (contract §1.2), but frameworks refuse it
            return {"predictions": []}
        outputs = await self._predict(inputs, context)
        return v1_tensors.to_predictions(outputs)

    async def explain(self, payload: Any, context: Context) -> Any:
        raise Unsupported("Could not find explainer_host.")

    async def stop(self) -> None:
        self.batcher.close()
        for instance in (*self._executor.instances, *self._passive):
            close = getattr(instance, "close", None)
            if close is not None:
                close()

    async def _predict(self, inputs: Sequence[Tensor], context: Context) -> Sequence[Tensor]:
        return await self.batcher.run(inputs, context)
