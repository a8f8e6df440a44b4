"""ModelStreamInfer: many requests and answers on one stream, interleaved (contract §3.6).

    reader ──request──▶ one task each, at most MAX_OUTSTANDING ──answers──▶ one writer at a time

A request that fails answers with `error_message` and the stream goes on; with the metadata
`triton_grpc_error: true` it ends the stream with its status. Half-close finishes what is
outstanding; cancellation cancels every task, which takes queued work out of its queue. When the
server stops it reads no more, finishes what is outstanding and ends with UNAVAILABLE.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from headrace.server.errors import ServerNotReady
from headrace.server.grpc import codec
from headrace.server.grpc.calls import context_of, send_trailers
from headrace.server.grpc.errors import STOPPING, Ended, to_status
from headrace.server.grpc.inference import Inference
from headrace.server.grpc.rpc import Method, Rpc
from headrace.server.protocol.parameters import EMPTY_FINAL_RESPONSE
from headrace.server.repository import ServedModel
from headrace.server.request import Context, Request, Response
from headrace.server.tensor import Buffer

MAX_OUTSTANDING = 64  # requests of one stream that are not answered yet; more wait in the socket
GRPC_ERROR = "triton_grpc_error"


class StreamInfer:
    """The RPC; each call is one `_Stream`."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    def methods(self) -> dict[str, Method]:
        return {"ModelStreamInfer": Method(self.model_stream_infer, streams_requests=True)}

    async def model_stream_infer(self, requests: AsyncIterator[Buffer], rpc: Rpc) -> None:
        ended: Ended | None = None
        try:
            await _Stream(self._inference, rpc).run(requests, rpc.closing)
        except* Ended as group:
            ended = _first(group)
        if ended is not None:
            raise ended
        if rpc.closing.is_set():
            raise ServerNotReady(STOPPING)


class _Stream:
    def __init__(self, inference: Inference, rpc: Rpc) -> None:
        self._inference = inference
        self._rpc = rpc
        self._writing = asyncio.Lock()
        self._places = asyncio.Semaphore(MAX_OUTSTANDING)
        self._ends_on_error = rpc.metadata().get(GRPC_ERROR) == "true"
        self._trailers: dict[str, str] = {}

    async def run(self, requests: AsyncIterator[Buffer], closing: asyncio.Event) -> None:
        """Answer every request. Raises Ended, in a group, where a status must end the stream."""
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(self._read(requests, tasks))
            closer = tasks.create_task(_cancel_when(closing, reader))
            reader.add_done_callback(lambda _: closer.cancel())
        send_trailers(self._rpc, self._trailers)

    async def _read(self, requests: AsyncIterator[Buffer], tasks: asyncio.TaskGroup) -> None:
        async for message in requests:
            await self._places.acquire()
            task = tasks.create_task(self._answer(message))
            task.add_done_callback(lambda _: self._places.release())

    async def _answer(self, message: Buffer) -> None:
        async with aclosing(self._answers(message)) as answers:
            async for answer in answers:
                async with self._writing:
                    await self._rpc.write(answer)

    async def _answers(self, message: Buffer) -> AsyncGenerator[bytes, None]:
        context = context_of(self._rpc, len(message))
        request_id = ""
        try:
            envelope = codec.open_request(message)
            request_id = envelope.id
            asked = codec.request_parameters(envelope, is_stream=True)
            async with self._inference.admitted(asked, context, self._rpc.end_s):
                model, request = await self._inference.decode(envelope, context, is_stream=True)
                async with aclosing(self._responses(model, request, context)) as responses:
                    async for response, is_final in responses:
                        typed = envelope.is_typed
                        answer = codec.encode_stream_response(response, request, typed, is_final)
                        self._rpc.check_sent(len(answer))
                        yield answer
        except Exception as err:
            status = to_status(err)
            if self._ends_on_error:
                raise Ended(status) from err
            yield codec.encode_stream_error(status.details, request_id)
        finally:
            self._inference.plane.encoded(context)
            self._trailers |= context.response_headers

    async def _responses(
        self, model: ServedModel, request: Request, context: Context
    ) -> AsyncGenerator[tuple[Response, bool], None]:
        """Every response to request, and whether it is the last."""
        answer = await self._inference.plane.infer(model, request, context)
        if isinstance(answer, Response):
            yield answer, True
            return
        try:
            async for each in answer:
                yield each, False
        finally:
            close = getattr(answer, "aclose", None)
            if close is not None:
                await close()
        if request.parameters.get(EMPTY_FINAL_RESPONSE) is True:
            yield Response(request.model_name, [], request.id, model.version), True


async def _cancel_when(event: asyncio.Event, task: "asyncio.Task[None]") -> None:
    await event.wait()
    task.cancel()


def _first(group: BaseExceptionGroup[Any]) -> Ended:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
