"""What parent and workers say to each other: length-prefixed MessagePack over a socket pair.

    worker → parent   Listening · Gather (ask every worker) · Reply · Acquire, Release · Remember
    parent → worker   CurrentSet (first of all) · Call (do this) · Answer (to a Gather or Acquire)

Values are plain: nothing is pickled, and a frame has a bound.
"""

import struct
from typing import Any

import msgspec

from headrace.server.errors import Code
from headrace.server.remote_errors import WireError

# The reply of a worker that ended: its replacement starts from what the parent remembers.
DIED = WireError(Code.UNAVAILABLE.name, "a worker process ended before it answered")
MAX_FRAME_BYTES = 1 << 31  # a load request may carry files, within --max_body_bytes
_LENGTH = struct.Struct("<I")


class Listening(msgspec.Struct, tag="listening", frozen=True):
    http: int
    grpc: int | None


class Gather(msgspec.Struct, tag="gather", frozen=True):
    """Have every worker make call and answer with all their replies."""

    id: int
    call: str
    args: dict[str, Any]


class Reply(msgspec.Struct, tag="reply", frozen=True):
    ticket: int
    value: Any = None
    error: WireError | None = None


class Acquire(msgspec.Struct, tag="acquire", frozen=True):
    """Wait for the one place in which models are loaded and unloaded."""

    id: int


class Release(msgspec.Struct, tag="release", frozen=True):
    pass


class Remember(msgspec.Struct, tag="remember", frozen=True):
    """What a restarted worker must do too: load name with parameters, or leave it unloaded."""

    name: str
    parameters: dict[str, Any] | None  # None: unloaded


class RememberLog(msgspec.Struct, tag="remember_log", frozen=True):
    changes: dict[str, Any]


class CurrentSet(msgspec.Struct, tag="current_set", frozen=True):
    """models: names changed since the start; None: unloaded. log: settings changed since."""

    models: dict[str, dict[str, Any] | None]
    log: dict[str, Any]


class Call(msgspec.Struct, tag="call", frozen=True):
    ticket: int
    call: str
    args: dict[str, Any]


class Answer(msgspec.Struct, tag="answer", frozen=True):
    id: int
    replies: list[Reply]
    restarts: int


FromWorker = Listening | Gather | Reply | Acquire | Release | Remember | RememberLog
FromParent = CurrentSet | Call | Answer

_encode = msgspec.msgpack.Encoder().encode
_from_worker = msgspec.msgpack.Decoder(FromWorker)
_from_parent = msgspec.msgpack.Decoder(FromParent)


def to_frame(message: FromWorker | FromParent) -> bytes:
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Cuts received bytes into messages."""

    def __init__(self, is_parent: bool) -> None:
        self._decoder: msgspec.msgpack.Decoder[Any] = _from_worker if is_parent else _from_parent
        self._received = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """Every message that is whole by now. Raises ValueError for a frame beyond the bound."""
        self._received += data
        found: list[Any] = []
        while len(self._received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received)
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes, the most is {MAX_FRAME_BYTES}")
            end = _LENGTH.size + length
            if len(self._received) < end:
                break
            found.append(self._decoder.decode(self._received[_LENGTH.size : end]))
            del self._received[:end]
        return found
