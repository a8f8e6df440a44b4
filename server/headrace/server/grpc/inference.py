"""The inference service: liveness, readiness, metadata and unary ModelInfer."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from headrace.http import in_task
from headrace.server.control import Control
from headrace.server.dataplane import DataPlane
from headrace.server.errors import DeadlineExceeded, ModelNotReady, QueueTimeout
from headrace.server.grpc import codec
from headrace.server.grpc.calls import UnaryCall, context_of, send_trailers, set_deadline
from headrace.server.grpc.gate import Gate
from headrace.server.grpc.messages import from_json, message_class
from headrace.server.grpc.rpc import Rpc
from headrace.server.protocol import metadata
from headrace.server.repository import ServedModel
from headrace.server.request import Context, Parameters, Request
from headrace.server.settings import Settings
from headrace.server.tensor import Buffer

SERVICE = "inference.GRPCInferenceService"
CLOCK_SLACK_S = 0.005  # gRPC counts a deadline on another clock than ours


class Inference:
    """The calls of every client; operator calls are admin.py's, the stream is streaming.py's."""

    def __init__(
        self, plane: DataPlane, control: Control, settings: Settings, max_concurrency: int
    ) -> None:
        """max_concurrency: inferences at once, more wait; 0: no bound."""
        self.plane = plane
        self.settings = settings
        self._control = control
        self._gate = Gate(max_concurrency, settings.max_queue_requests)
        self._is_bounded = bool(max_concurrency or settings.request_timeout)

    def calls(self) -> dict[str, UnaryCall]:
        """From the parsed request to the answer, by the RPC's name; all but ModelInfer."""
        return {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ServerMetadata": self.server_metadata,
            "ModelReady": self.model_ready,
            "ModelMetadata": self.model_metadata,
        }

    async def server_live(self, request: Any) -> Any:
        return message_class("inference.ServerLiveResponse")(live=True)

    async def server_ready(self, request: Any) -> Any:
        return message_class("inference.ServerReadyResponse")(ready=await self._control.is_ready())

    async def server_metadata(self, request: Any) -> Any:
        return from_json(
            "inference.ServerMetadataResponse", metadata.server_metadata(version("headrace"))
        )

    async def model_ready(self, request: Any) -> Any:
        """NOT_FOUND for a name nobody knows; false for one that is known and cannot answer."""
        try:
            await self.plane.ready_model(request.name, request.version)
        except ModelNotReady:
            return message_class("inference.ModelReadyResponse")(ready=False)
        return message_class("inference.ModelReadyResponse")(ready=True)

    async def model_metadata(self, request: Any) -> Any:
        model = self.plane.repository.find(request.name, request.version)
        described = metadata.model_metadata(
            model.name,
            self.plane.repository.versions(request.name),
            model.servable.platform,
            model.servable.inputs,
            model.servable.outputs,
        )
        return from_json("inference.ModelMetadataResponse", described)

    async def model_infer(self, message: Buffer, rpc: Rpc) -> bytes:
        context = context_of(rpc, len(message))
        try:
            return await self.infer(message, context, rpc.end_s)
        finally:
            send_trailers(rpc, context.response_headers)

    async def infer(self, message: Buffer, context: Context, end_s: float | None) -> bytes:
        """The serialised answer to a serialised request, whichever road it came by.

        end_s: the call's own deadline, on the monotonic clock.
        """
        envelope = codec.open_request(message)
        asked = codec.request_parameters(envelope)
        if self._is_bounded:
            async with self.admitted(asked, context, end_s):
                model, request = await self.decode(envelope, context)
                response = await self.plane.infer_once(model, request, context)
        else:
            set_deadline(context, end_s, asked, self.settings)
            try:
                model, request = await self.decode(envelope, context)
                response = await self.plane.infer_once(model, request, context)
            except QueueTimeout as err:
                _tell_late(err, end_s)
                raise
        answer = codec.encode_response(response, request, envelope.is_typed)
        self.plane.encoded(context)
        return answer

    async def decode(
        self, envelope: codec.Envelope, context: Context, is_stream: bool = False
    ) -> tuple[ServedModel, Request]:
        """The model first, its tensors then: a request nobody can answer costs no decoding."""
        model = await self.plane.ready_model(envelope.model_name, envelope.model_version)
        started_ns = time.perf_counter_ns()
        request = codec.to_request(envelope, is_stream)
        context.stages.compute_input_ns += time.perf_counter_ns() - started_ns
        return model, request

    @asynccontextmanager
    async def admitted(
        self, parameters: Parameters, context: Context, end_s: float | None
    ) -> AsyncIterator[None]:
        """One inference within its deadline and --max_concurrency; sets context's deadline.

        end_s: the call's own deadline. Raises QueueFull, QueueTimeout, or DeadlineExceeded where
        end_s or --request_timeout passed.
        """
        set_deadline(context, end_s, parameters, self.settings)
        limit_s = self.settings.request_timeout or None
        await in_task()
        try:
            async with asyncio.timeout(limit_s) as limit:
                wait_s = None
                if context.deadline_s is not None:
                    wait_s = max(0.0, context.deadline_s - time.monotonic())
                async with self._gate.enter(wait_s):
                    yield
        except QueueTimeout as err:
            _tell_late(err, end_s)
            raise
        except TimeoutError as err:
            if not limit.expired():
                raise
            raise DeadlineExceeded(
                f"the request took longer than {limit_s:g} s (--request_timeout)"
            ) from err


def _tell_late(error: QueueTimeout, end_s: float | None) -> None:
    """Raises DeadlineExceeded if the call's own deadline is what passed; of any other, a retry is
    welcome."""
    if end_s is not None and end_s - time.monotonic() <= CLOCK_SLACK_S:
        raise DeadlineExceeded("the call's deadline passed before its model ran") from error
