"""Unary gRPC calls as HTTP/1.1 POSTs of the bare protobuf message, on gRPC's own paths.

It is what Envoy's grpc_http1_reverse_bridge sends, with or without its gRPC frames withheld, so a
gateway reaches the short path of the HTTP port with what its clients speak to it as gRPC:

    client ──gRPC──▶ Envoy ──POST /inference.GRPCInferenceService/ModelInfer──▶ here

Metadata come and go as headers. A status other than OK is an empty answer of HTTP 200 with
`grpc-status` and `grpc-message`; loadtests/envoy_bridge.yaml puts them where gRPC has them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from headrace.http import in_task
from headrace.server.control import Control
from headrace.server.dataplane import DataPlane
from headrace.server.errors import (
    DeadlineExceeded,
    InvalidInput,
    ServerNotReady,
    Unsupported,
)
from headrace.server.grpc.admin import Admin
from headrace.server.grpc.calls import UnaryCall, sendable
from headrace.server.grpc.codec import parse
from headrace.server.grpc.errors import STOPPING, to_status
from headrace.server.grpc.fields import (
    check_coding,
    inflated,
    message_sizes,
    status_text,
    timeout_s,
)
from headrace.server.grpc.inference import SERVICE, Inference
from headrace.server.grpc.messages import message_class
from headrace.server.rest.answer import Answer, error_answer
from headrace.server.rest.call import Call
from headrace.server.rest.routes import Route
from headrace.server.settings import Settings
from headrace.server.tensor import Buffer

MEDIA_TYPE = "application/grpc"
PREFIX_BYTES = 5  # of a frame: whether it is compressed, and its length
_MAGIC = {"gzip": 0x1F, "deflate": 0x78}  # no message of ours begins like that
_NOT_METADATA = frozenset(
    {
        *("accept", "connection", "content-length", "content-type", "host", "te"),
        *("grpc-accept-encoding", "grpc-encoding", "grpc-timeout", "transfer-encoding"),
    }
)
_NOT_THE_MODELS = frozenset({"content-encoding", "date", "server", "trailer", "upgrade"})

Run = Callable[[Buffer, Call, float | None], Awaitable[bytes]]


class GrpcBridge:
    """No --max_concurrency here: of HTTP/1.1 connections, a proxy opens as many as it may."""

    def __init__(self, plane: DataPlane, control: Control, settings: Settings) -> None:
        self._control = control
        self._inference = Inference(plane, control, settings, max_concurrency=0)
        self._admin = Admin(plane, control, settings)
        self._sizes = message_sizes(settings)
        self._limit_s = settings.request_timeout
        self._max_bytes = settings.max_body_bytes

    def routes(self) -> list[Route]:
        calls = {**self._inference.calls(), **self._admin.calls()}
        runs = {name: _of_messages(name, call) for name, call in calls.items()}
        runs |= {"ModelInfer": self._infer, "{method}": _unknown}
        quick = ("ModelInfer", "{method}")
        return [
            Route("POST", f"/{SERVICE}/{name}", self._handler(run), is_quick=name in quick)
            for name, run in runs.items()
        ]

    def _handler(self, run: Run) -> Callable[[Call], Awaitable[Answer]]:
        async def handle(call: Call) -> Answer:
            if not (call.content_type or "").startswith(MEDIA_TYPE):
                return error_answer(
                    415, f"Content-Type: expected {MEDIA_TYPE}, got {call.content_type!r}"
                )
            try:
                return await self._answered(run, call)
            except Exception as err:
                return _failed(err, call)

        return handle

    async def _answered(self, run: Run, call: Call) -> Answer:
        sent = call.headers
        end_s = _end_s(sent.get("grpc-timeout"), call.context.started_ns)
        message, is_framed = call.body, _is_framed(call.body)
        coding = sent.get("grpc-encoding", "identity")
        if coding != "identity":
            message = await self._decompressed(message, coding, is_framed)
        elif is_framed:
            message = _content(message, may_be_compressed=False)
        self._sizes.check_received(len(message))
        call.headers = call.context.headers = {
            key: value
            for key, value in sent.items()
            if key not in _NOT_METADATA and not key.endswith("-bin")
        }
        answer = await self._within(end_s, run, message, call)
        self._sizes.check_sent(len(answer))
        parts: list[Buffer] = [answer]
        if is_framed:
            parts.insert(0, b"\0" + len(answer).to_bytes(4, "big"))
        return Answer(parts, content_type=MEDIA_TYPE, headers=_headers(call))

    async def _within(self, end_s: float | None, run: Run, message: Buffer, call: Call) -> bytes:
        """run, ended at end_s, by --request_timeout or as the server stops: those are statuses
        here, also where it is the transport that cancels."""
        try:
            if end_s is None:
                return await run(message, call, None)
            await in_task()
            async with asyncio.timeout(max(0.0, end_s - time.monotonic())) as limit:
                return await run(message, call, end_s)
        except TimeoutError as err:
            if end_s is None or not limit.expired():
                raise
            raise DeadlineExceeded("the call's deadline passed") from err
        except asyncio.CancelledError as err:
            deadline_s = call.context.deadline_s
            if self._limit_s and deadline_s is not None and time.monotonic() >= deadline_s:
                raise DeadlineExceeded(
                    f"the request took longer than {self._limit_s:g} s (--request_timeout)"
                ) from err
            if self._control.is_draining:
                raise ServerNotReady(STOPPING) from err
            raise

    async def _decompressed(self, body: Buffer, coding: str, is_framed: bool) -> Buffer:
        """The message in body. Where the frame is withheld, so is whether it is compressed."""
        check_coding(coding)
        content = _content(body, may_be_compressed=True) if is_framed else body
        if not (body[0] == 1 if is_framed else len(body) and body[0] == _MAGIC[coding]):
            return content
        return await inflated(content, coding, self._max_bytes)

    async def _infer(self, message: Buffer, call: Call, end_s: float | None) -> bytes:
        return await self._inference.infer(message, call.context, end_s)


def _of_messages(name: str, run: UnaryCall) -> Run:
    request_class = message_class(f"inference.{name}Request")

    async def on_message(message: Buffer, call: Call, end_s: float | None) -> bytes:
        answer = await run(parse(request_class, message))
        serialised: bytes = answer.SerializeToString()
        return serialised

    return on_message


async def _unknown(message: Buffer, call: Call, end_s: float | None) -> bytes:
    raise Unsupported(
        f"{call.names['method']} cannot be called over HTTP/1.1: it streams, or is "
        f"no method of {SERVICE}"
    )


def _failed(error: Exception, call: Call) -> Answer:
    status = to_status(error)
    headers = _headers(call)
    headers["grpc-status"] = str(status.code.value)
    headers["grpc-message"] = status_text(status.details)
    headers.update(status.trailing_metadata)
    return Answer([b""], content_type=MEDIA_TYPE, headers=headers)


def _headers(call: Call) -> dict[str, str]:
    """A model's response headers as a gRPC client would get them."""
    said = call.context.response_headers
    if not said:
        return {}
    return {key: value for key, value in sendable(said) if key not in _NOT_THE_MODELS}


def _is_framed(body: Buffer) -> bool:
    """No protobuf message begins with 0 or 1, which would be field 0; every frame does."""
    return len(body) > 0 and body[0] <= 1


def _content(body: Buffer, may_be_compressed: bool) -> Buffer:
    """The message of the one frame that body is. Raises InvalidInput."""
    length = int.from_bytes(body[1:PREFIX_BYTES], "big")
    if len(body) != PREFIX_BYTES + length:
        raise InvalidInput(
            f"expected one gRPC frame of {PREFIX_BYTES} + {length} bytes, got {len(body)} bytes"
        )
    if body[0] == 1 and not may_be_compressed:
        raise InvalidInput("the gRPC frame is compressed, but grpc-encoding does not say how")
    return memoryview(body)[PREFIX_BYTES:]


def _end_s(timeout: str | None, started_ns: int) -> float | None:
    """The call's deadline on the monotonic clock, counted from when its head had come."""
    if timeout is None:
        return None
    spent_s = (time.perf_counter_ns() - started_ns) / 1e9
    return time.monotonic() + timeout_s(timeout) - spent_s
