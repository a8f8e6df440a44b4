"""A thin gRPC client over our own message classes, and the models that the tests serve."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np

from headrace.server.errors import InferenceError
from headrace.server.grpc import codec
from headrace.server.grpc.messages import message_class
from headrace.server.memory import Usage
from headrace.server.request import Context, Request, Response
from headrace.server.tensor import Datatype, Tensor, TensorSpec

SERVICE = "/inference.GRPCInferenceService/"


class Client:
    """Calls of one channel, by the RPC's name."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    async def call(self, name: str, /, **fields: Any) -> Any:
        """The response message of one unary call of the inference service."""
        call = self._channel.unary_unary(
            SERVICE + name,
            request_serializer=message_class(f"inference.{name}Request").SerializeToString,
            response_deserializer=message_class(f"inference.{name}Response").FromString,
        )
        return await call(message_class(f"inference.{name}Request")(**fields))

    def infer_call(self, message: bytes, **options: Any) -> Any:
        """The running ModelInfer call of a serialised request."""
        return self._channel.unary_unary(f"{SERVICE}ModelInfer")(message, **options)

    async def infer(self, request: Request, typed: bool = False, **options: Any) -> Response:
        return codec.decode_response(
            await self.infer_call(codec.encode_request(request, typed), **options)
        )

    def stream(self, **options: Any) -> Any:
        """A running ModelStreamInfer call: write serialised requests, read messages."""
        return self._channel.stream_stream(
            f"{SERVICE}ModelStreamInfer",
            response_deserializer=codec.ModelStreamInferResponse.FromString,
        )(**options)


@asynccontextmanager
async def connected(server: Any, address: str = "") -> AsyncIterator[Client]:
    target = address or f"127.0.0.1:{server.ports.grpc}"
    async with grpc.aio.insecure_channel(target) as channel:
        yield Client(channel)


async def status_of(call: Any) -> tuple[str, str]:
    """The status code's name and the details that awaiting call fails with."""
    try:
        await call
    except grpc.aio.AioRpcError as err:
        return err.code().name, err.details()
    return "OK", ""


def fp32(*rows: Sequence[float], name: str = "x") -> Tensor:
    return Tensor(name, np.array(rows, "<f4"))


class Double:
    """y = 2 x, declared as FP32 [-1, 2]."""

    inputs: Sequence[TensorSpec] = (TensorSpec("x", Datatype.FP32, (-1, 2)),)
    outputs: Sequence[TensorSpec] = (TensorSpec("y", Datatype.FP32, (-1, 2)),)

    def predict(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return [Tensor("y", inputs[0].array * 2)]


class Mirror:
    """Every input comes back under its own name; nothing is declared."""

    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()

    def predict(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs


class Raises:
    """Fails with the given exception."""

    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()

    def __init__(self, error: Exception) -> None:
        self._error = error

    def predict(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        raise self._error


class Blocks:
    """Says when it runs and waits until it may go on; for Mode.THREAD. Counts its calls."""

    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()

    def __init__(self) -> None:
        self.started = threading.Event()
        self.may_end = threading.Event()
        self.calls = 0

    def predict(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        self.calls += 1
        self.started.set()
        assert self.may_end.wait(30)
        return inputs


class Counts:
    """A servable that streams: n answers 0, 1, … for an input of [n], then fails below zero."""

    platform = "test"
    memory = Usage()
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()
    pending_requests = 0

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def is_ready(self) -> bool:
        return True

    async def infer(self, request: Request, context: Context) -> AsyncIterator[Response]:
        return self._count(request, int(request.inputs[0].array.ravel()[0]))

    async def _count(self, request: Request, n: int) -> AsyncIterator[Response]:
        try:
            for i in range(abs(n)):
                yield Response(request.model_name, [Tensor("i", np.array([i], "<i4"))])
            if n < 0:
                raise InferenceError("cannot count below zero")
        finally:
            self.closed.set()

    async def predict(self, payload: Any, context: Context) -> Any:
        raise NotImplementedError

    async def explain(self, payload: Any, context: Context) -> Any:
        raise NotImplementedError

    async def stop(self) -> None: ...


class Replies:
    """A servable that sets response headers and tells what headers it saw."""

    platform = "test"
    memory = Usage()
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()
    pending_requests = 0

    async def is_ready(self) -> bool:
        return True

    async def infer(self, request: Request, context: Context) -> Response:
        context.response_headers |= {"X-Model": "replies", "Content-Type": "text/plain"}
        seen = context.headers.get("x-tenant", "")
        return Response(request.model_name, [Tensor("tenant", np.array([seen.encode()], object))])

    async def predict(self, payload: Any, context: Context) -> Any:
        raise NotImplementedError

    async def explain(self, payload: Any, context: Context) -> Any:
        raise NotImplementedError

    async def stop(self) -> None: ...
