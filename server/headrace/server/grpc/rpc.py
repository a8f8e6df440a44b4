"""One gRPC call on a stream of our HTTP/2: messages in, messages and a status out.

The handler's first step runs as its request has come (headrace.http.eager); a client that takes the
call back cancels it, a deadline ends it with DEADLINE_EXCEEDED.
"""

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from headrace.http import in_task, start
from headrace.http.header_blocks import to_block
from headrace.http.http2_stream import Stream
from headrace.http.limits import Refusal
from headrace.http.receiving import Receiving
from headrace.server.errors import (
    InvalidInput,
    QueueFull,
    ServerNotReady,
    ServingError,
    Unsupported,
)
from headrace.server.grpc.errors import STOPPING, Ended, Status, StatusCode, to_status
from headrace.server.grpc.fields import MessageSizes, inflated, status_text, timeout_s
from headrace.server.tensor import Buffer

PREFIX = struct.Struct(">BI")  # of a message: whether it is compressed, and its length
ONE_MESSAGE = "expected one request message"
LARGE_BYTES = 1 << 14  # a message that is not copied out of what it came in
_FIRST = (
    (":status", "200"),
    ("content-type", "application/grpc"),
    ("grpc-accept-encoding", "identity, deflate, gzip"),
)
_FIRST_BLOCK = to_block(_FIRST)
_OK_BLOCK = to_block([("grpc-status", "0")])
_NOT_METADATA = frozenset(
    {b"te", b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"}
)
OK = Status(StatusCode.OK, "")


@dataclass(frozen=True, slots=True)
class Method:
    """run(request, rpc) returns the answer where answers_once, else writes its answers itself.

    request: the message, or where streams_requests the rpc, which iterates over them. is_quick: it
    may run without a task until it waits (headrace.http.eager).
    """

    run: Callable[[Any, "Rpc"], Coroutine[Any, Any, Any]]
    answers_once: bool = False
    streams_requests: bool = False
    is_quick: bool = False


class Owner(Protocol):
    """What all calls of a server share."""

    sizes: MessageSizes
    closing: asyncio.Event  # set when no new work is taken; streams and watches end by it
    receiving: Receiving
    now_s: float  # as of late

    def ended(self, rpc: "Rpc") -> None: ...


class Rpc:
    """What handlers see of their call, and the call itself."""

    __slots__ = (
        "_arrived",
        "_counted",
        "_encoding",
        "_has_begun",
        "_held",
        "_input_is_over",
        "_is_over",
        "_messages",
        "_method",
        "_owner",
        "_returned",
        "_stream",
        "_timer",
        "_trailing",
        "_unread",
        "came_s",
        "end_s",
        "task",
    )

    def __init__(self, owner: Owner, stream: Stream, method: Method) -> None:
        self._owner = owner
        self._stream = stream
        self._method = method
        self.task: asyncio.Task[None] | None = None
        self._trailing: Iterable[tuple[str, str]] = ()
        self._has_begun = False
        self._is_over = False
        self.end_s: float | None = None  # its own deadline, on the monotonic clock
        self._timer: asyncio.TimerHandle | None = None
        self._encoding = "identity"
        self._held = bytearray()  # of a message that has not come whole
        self._messages: deque[tuple[int, Buffer]] = deque()  # whether compressed, and what
        self._unread: deque[int] = deque()  # bytes on the wire of each
        self._returned = 0  # bytes of the held message the client may send again already
        self._counted = 0  # bytes of what has not come whole, in the owner's `receiving`
        self.came_s = owner.now_s  # the last of it
        self._input_is_over = False
        self._arrived: asyncio.Event | None = None
        stream.on_data = self._received
        stream.on_reset = self._taken_back

    # Handlers' calls

    @property
    def closing(self) -> asyncio.Event:
        return self._owner.closing

    def metadata(self) -> dict[str, str]:
        """Of the invocation; text only, the last of a name wins."""
        return {
            name.decode("latin1"): value.decode("latin1")
            for name, value in self._stream.headers
            if name[0] != 0x3A and name not in _NOT_METADATA and name[-4:] != b"-bin"
        }

    def set_trailing_metadata(self, metadata: Iterable[tuple[str, str]]) -> None:
        self._trailing = metadata

    def check_sent(self, size_bytes: int) -> None:
        """Raises PayloadTooLarge for a message that may not be sent."""
        self._owner.sizes.check_sent(size_bytes)

    async def write(self, message: bytes) -> None:
        """Returns when the client keeps up. Raises PayloadTooLarge."""
        self.check_sent(len(message))
        self._send(message)
        if self._stream.unread is not None:
            await asyncio.shield(self._stream.unread)

    def __aiter__(self) -> "Rpc":
        return self

    async def __anext__(self) -> Buffer:
        """The next message; the client may send more as these are taken."""
        while not self._messages:
            if self._input_is_over:
                raise StopAsyncIteration
            self._arrived = asyncio.Event()
            await self._arrived.wait()
        self.came_s = self._owner.now_s  # until now it may have had no window
        self._stream.consumed(self._unread.popleft())
        self._return_held()
        return await self._read()

    # The server's calls

    def open(self, headers: Mapping[bytes, bytes]) -> None:
        self._encoding = headers.get(b"grpc-encoding", b"identity").decode("latin1")
        timeout = headers.get(b"grpc-timeout")
        if timeout is not None:
            try:
                left_s = timeout_s(timeout.decode("latin1"))
            except InvalidInput as err:
                self.fail(err)
                return
            self.end_s = time.monotonic() + left_s
            self._timer = asyncio.get_running_loop().call_later(left_s, self._expired)
        if self._method.streams_requests:
            self._begin()  # a client may wait for headers before it says anything
            self._start()

    @property
    def awaits_more(self) -> bool:
        """What has come is of no use until the client sends the rest."""
        if self._method.streams_requests:
            return bool(self._held) and not self._messages
        return not self._input_is_over

    def fail(self, error: BaseException) -> None:
        """End with error's status, and cancel what still runs."""
        self._end(error.status if isinstance(error, Ended) else to_status(error))
        self._cancel()

    # The call itself

    def _start(self) -> None:
        self.task = start(self._run(), self._ran)

    async def _run(self) -> None:
        method = self._method
        if not method.is_quick:
            await in_task()
        if self._owner.closing.is_set():
            raise ServerNotReady(STOPPING)
        answer = await method.run(self if method.streams_requests else await self._read(), self)
        if method.answers_once:
            self.check_sent(len(answer))
            self._send(answer)
        self._end(OK)

    def _ran(self, error: BaseException | None) -> None:
        if isinstance(error, asyncio.CancelledError):
            self._end(Status(StatusCode.CANCELLED, "the call was cancelled"))
        elif error is not None:
            self.fail(error)

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._stream.send_headers(_FIRST_BLOCK)

    def _send(self, message: bytes) -> None:
        self._begin()
        self._stream.send_data(PREFIX.pack(0, len(message)) + message)

    def _end(self, status: Status) -> None:
        """Idempotent."""
        if self._is_over:
            return
        self._close()
        trailing = self._trailing
        if status is OK and self._has_begun and not trailing:
            self._stream.send_trailers(_OK_BLOCK)
            return
        fields = [*_fields(status), *trailing]
        self._stream.send_trailers(to_block(fields if self._has_begun else [*_FIRST, *fields]))

    def _close(self) -> None:
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._counted:
            self._count(0, is_last=True)
        # no cycle is left to the garbage collector, which comes seldom (lifecycle.settle_collector)
        self._stream.on_data = self._stream.on_reset = None
        self._owner.ended(self)

    def _expired(self) -> None:
        self._end(Status(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))
        self._cancel()

    def _taken_back(self) -> None:
        """The client has cancelled the call, or is gone."""
        if not self._is_over:
            self._close()
        self._cancel()

    def _cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    # Incoming messages

    async def _read(self) -> Buffer:
        is_compressed, message = self._messages.popleft()
        if not is_compressed:
            return message
        return await inflated(message, self._encoding, self._owner.sizes.receive)

    def _received(self, piece: bytes, is_last: bool) -> None:
        if self._is_over:
            return
        is_stream = self._method.streams_requests
        if not is_stream:
            self._stream.consumed(len(piece))
        try:
            if piece:
                self._take(piece)
            if is_last and self._held:
                raise InvalidInput("the last message was cut off")
            count = len(self._messages)
            if not is_stream and (count > 1 or (is_last and not count)):
                raise Unsupported(ONE_MESSAGE)
            if not is_last or self._counted:
                self._count(len(piece), is_last)
        except ServingError as err:
            self.fail(err)
            return
        self._input_is_over = is_last
        if is_stream:
            self._tell()
        elif is_last:
            self._start()

    def _tell(self) -> None:
        self._return_held()
        if self._arrived is not None:
            self._arrived.set()

    def _count(self, more: int, is_last: bool) -> None:
        """more bytes have come: hold what is not whole in `receiving`. Raises QueueFull."""
        self.came_s = self._owner.now_s
        held = 0
        if not is_last:
            held = len(self._held) if self._method.streams_requests else self._counted + more
        if held > self._counted:
            self._check_room(held - self._counted)
            self._owner.receiving.take(held - self._counted)
        else:
            self._owner.receiving.release(self._counted - held)
        self._counted = held

    def _check_room(self, more: int) -> None:
        """Raises QueueFull."""
        try:
            self._owner.receiving.check(more, self._counted)
        except Refusal as refusal:
            text = f"{refusal.text} (--max_receiving_bytes {refusal.limit})"
            raise QueueFull(text) from None

    def _return_held(self) -> None:
        """A message may be longer than the window: its rest comes where no other waits."""
        if not self._messages and len(self._held) > self._returned:
            self._stream.consumed(len(self._held) - self._returned)
            self._returned = len(self._held)

    def _take(self, piece: bytes) -> None:
        """Cut piece, behind what is held, into messages. Raises PayloadTooLarge, QueueFull."""
        if self._held:
            self._held += piece
        data: bytes | bytearray = self._held or piece
        at, size = 0, len(data)
        while size - at >= PREFIX.size:
            is_compressed, length = PREFIX.unpack_from(data, at)
            self._owner.sizes.check_received(length)
            end = at + PREFIX.size + length
            if end > size:
                if not self._counted:
                    self._check_room(end - at)
                break
            self._messages.append((is_compressed, _cut(data, at + PREFIX.size, end)))
            self._unread.append(PREFIX.size + length - self._returned)
            self._returned = 0
            at = end
        if at or data is piece:  # never in place: a message may be a view of what was held
            self._held = bytearray(memoryview(data)[at:])


def refuse(stream: Stream, status: Status) -> None:
    """What is not going to be a call."""
    stream.send_trailers(to_block([*_FIRST, *_fields(status)]))


def _fields(status: Status) -> list[tuple[str, str]]:
    fields = [("grpc-status", str(status.code.value))]
    if status.details:
        fields.append(("grpc-message", status_text(status.details)))
    return [*fields, *status.trailing_metadata]


def _cut(data: bytes | bytearray, at: int, end: int) -> Buffer:
    """A view where the message is large: it may be most of a gigabyte."""
    return memoryview(data)[at:end] if end - at >= LARGE_BYTES else bytes(data[at:end])
