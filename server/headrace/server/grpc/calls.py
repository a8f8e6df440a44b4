"""Around a call: its unary methods, its context and deadline, a model's headers as metadata.

Messages cross as bytes, so that ill-formed ones get INVALID_ARGUMENT and raw tensors are not
copied.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from headrace.server.grpc.codec import parse
from headrace.server.grpc.messages import message_class
from headrace.server.grpc.rpc import Method, Rpc
from headrace.server.protocol.parameters import timeout_s
from headrace.server.request import Context, Parameters
from headrace.server.settings import Settings
from headrace.server.tensor import Buffer

UnaryCall = Callable[[Any], Awaitable[Any]]  # from a request message to its response message

_KEPT_FROM_TRAILERS = ("grpc-", ":")
_HOP_BY_HOP = frozenset(
    {"connection", "content-length", "content-type", "keep-alive", "te", "transfer-encoding"}
)


def unary(package: str, name: str, run: UnaryCall) -> Method:
    """The RPC from `<name>Request` to the message that run returns."""
    request_class = message_class(f"{package}.{name}Request")

    async def on_message(message: Buffer, rpc: Rpc) -> bytes:
        answer = await run(parse(request_class, message))
        serialised: bytes = answer.SerializeToString()
        return serialised

    return Method(on_message, answers_once=True)


def context_of(rpc: Rpc, body_bytes: int) -> Context:
    """Invocation metadata are its headers."""
    return Context(rpc.metadata(), body_bytes=body_bytes)


def set_deadline(
    context: Context, end_s: float | None, parameters: Parameters, settings: Settings
) -> None:
    """When the request stops being worth running, on the monotonic clock: the first of end_s, the
    call's own deadline, its `timeout` parameter (µs) and --request_timeout."""
    limit_s = settings.request_timeout
    given = [] if end_s is None else [end_s]
    if limit_s:
        given.append(time.monotonic() + limit_s)
    context.deadline_s = min(given) if given else None
    if parameters:
        context.start_within(timeout_s(parameters))


def sendable(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """A model's response headers as metadata; what gRPC would refuse is left out."""
    return [(key.lower(), str(value)) for key, value in headers.items() if _is_sendable(key, value)]


def send_trailers(rpc: Rpc, headers: Mapping[str, str]) -> None:
    """A model's response headers as trailing metadata."""
    if headers:
        rpc.set_trailing_metadata(tuple(sendable(headers)))


def _is_sendable(key: str, value: object) -> bool:
    name, text = key.lower(), str(value)
    return (
        name not in _HOP_BY_HOP
        and not name.startswith(_KEPT_FROM_TRAILERS)
        and not name.endswith("-bin")
        and name.isascii()
        and name.replace("-", "").replace("_", "").replace(".", "").isalnum()
        and text.isascii()
        and text.isprintable()
    )
