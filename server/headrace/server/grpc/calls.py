"""One RPC around a function of messages: parse, run, serialise, and end with the right status.

Messages cross grpcio as bytes, so that ill-formed ones get INVALID_ARGUMENT and raw tensors are
not copied. Cancellation needs nothing here: grpc.aio cancels the handler's task.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

import grpc

from headrace.server.errors import ServerNotReady
from headrace.server.grpc.codec import parse
from headrace.server.grpc.errors import Status, to_status
from headrace.server.grpc.messages import message_class
from headrace.server.protocol.parameters import timeout_s
from headrace.server.request import Context, Parameters
from headrace.server.settings import Settings

Rpc = Any  # grpc.aio.ServicerContext
UnaryCall = Callable[[Any], Awaitable[Any]]  # from a request message to its response message
Answer = TypeVar("Answer")

_KEPT_FROM_TRAILERS = ("grpc-", ":")
_HOP_BY_HOP = frozenset(
    {"connection", "content-length", "content-type", "keep-alive", "te", "transfer-encoding"}
)


STOPPING = "Server is stopping; send the request to another replica."


QUIET_S = 0.1  # a round trip of the callers that are there
RECENT_S = 1.0  # longer ago, and nobody is calling


class Calls:
    """Makes handlers, and knows which of their calls are open when the server stops.

    closing: set when no new work is taken; streams and watches end by it.
    """

    def __init__(self) -> None:
        self.closing = asyncio.Event()
        self._open: set[asyncio.Task[Any]] = set()
        self._is_over = False
        self._last_opened_s = -QUIET_S

    def end_all(self) -> None:
        """The grace is over: end every open call with UNAVAILABLE."""
        self._is_over = True
        for task in self._open:
            task.cancel()

    async def refuse_new(self) -> None:
        """Tell callers UNAVAILABLE, which they take elsewhere, before grpcio stops.

        What reaches a stopping grpcio server before its handler runs is CANCELLED there, which no
        client retries; who has been told first does not call again.
        """
        self.closing.set()
        if time.monotonic() - self._last_opened_s < RECENT_S:
            await asyncio.sleep(QUIET_S)

    def unary(self, package: str, name: str, run: UnaryCall) -> Any:
        """The handler of an RPC from `<name>Request` to the message that run returns."""
        request_class = message_class(f"{package}.{name}Request")

        async def on_message(message: bytes, rpc: Rpc) -> bytes:
            answer = await run(parse(request_class, message))
            serialised: bytes = answer.SerializeToString()
            return serialised

        return self.unary_bytes(on_message)

    def unary_bytes(self, run: Callable[[bytes, Rpc], Coroutine[Any, Any, bytes]]) -> Any:
        """The handler of an RPC that reads and writes serialised messages itself."""

        async def handle(message: bytes, rpc: Rpc) -> bytes | None:
            return await self._run(rpc, run(message, rpc))

        return grpc.unary_unary_rpc_method_handler(handle)

    def streaming(self, kind: Any, run: Callable[[Any, Rpc], Coroutine[Any, Any, None]]) -> Any:
        """The handler of an RPC that writes its responses itself.

        kind: grpc.unary_stream_rpc_method_handler or grpc.stream_stream_rpc_method_handler.
        """

        async def handle(request: Any, rpc: Rpc) -> None:
            await self._run(rpc, run(request, rpc))

        return kind(handle)

    async def _run(self, rpc: Rpc, work: Coroutine[Any, Any, Answer]) -> Answer | None:
        """One call: what work raises becomes its status."""
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self._last_opened_s = time.monotonic()
        try:
            if self.closing.is_set():
                work.close()
                raise ServerNotReady(STOPPING)
            return await work
        except asyncio.CancelledError:
            if not self._is_over:
                raise
            status = to_status(ServerNotReady(STOPPING))
        except Ended as err:
            status = err.status
        except Exception as err:
            status = to_status(err)
        finally:
            self._open.discard(task)
        await rpc.abort(status.code, status.details, status.trailing_metadata)
        return None  # abort raises


class Ended(Exception):
    """The call ends with this status."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.details)
        self.status = status


def context_of(rpc: Rpc, body_bytes: int) -> Context:
    """Invocation metadata as headers: text only, the last of a name wins."""
    headers = {key: value for key, value in rpc.invocation_metadata() if isinstance(value, str)}
    return Context(headers, body_bytes=body_bytes)


def deadline_s(end_s: float | None, parameters: Parameters, settings: Settings) -> float | None:
    """When the request stops being worth running, on the monotonic clock: the first of end_s, the
    call's own deadline, its `timeout` parameter (µs) and --request_timeout."""
    limits_s = (settings.request_timeout or None, timeout_s(parameters))
    given = [time.monotonic() + limit_s for limit_s in limits_s if limit_s is not None]
    if end_s is not None:
        given.append(end_s)
    return min(given) if given else None


def end_of(rpc: Rpc) -> float | None:
    """The call's own deadline, on the monotonic clock."""
    left_s = rpc.time_remaining()
    return None if left_s is None else time.monotonic() + left_s


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
