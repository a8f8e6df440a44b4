"""A request body as it comes: where its bytes go, and when it is whole.

One of known length that does not arrive with its head lands in one buffer of that size, without
copies; that is `KnownBody`. `Streamed` passes pieces on to a receiver, `Chunked` reads chunks.
"""

import mmap
from typing import Protocol

from headrace.http.chunks import ChunkReader
from headrace.http.limits import Breach, Refusal

MAPPED_BYTES = 1 << 18
ALIGNMENT_BYTES = 16  # what memory allocators give


class Receiver(Protocol):
    """Takes a body piece by piece, as it comes; the exchange's `state` of a streaming application.

    False: no more for now; the receiver calls `connection.go_on()` when it can take more. The same
    goes for the first piece while it is not `is_ready`.
    """

    @property
    def is_ready(self) -> bool: ...

    def take(self, piece: bytes) -> bool: ...

    def finish_input(self) -> None: ...


class Sink(Protocol):
    """What takes a body out of received bytes."""

    is_held_up: bool  # takes no more for now

    @property
    def is_whole(self) -> bool: ...

    @property
    def content(self) -> bytes | bytearray: ...

    def feed(self, data: bytes, at: int) -> int:
        """Take of data from at on what belongs to the body; where the rest begins."""
        ...


class Streamed:
    """size bytes on their way to receiver."""

    __slots__ = ("_left", "_receiver", "is_held_up")
    content = b""

    def __init__(self, size: int, receiver: Receiver) -> None:
        self._left = size
        self._receiver = receiver
        self.is_held_up = False

    @property
    def is_whole(self) -> bool:
        return not self._left

    def feed(self, data: bytes, at: int) -> int:
        piece = data[at : at + self._left]
        self._left -= len(piece)
        self.is_held_up = not self._receiver.take(piece)
        return at + len(piece)


class Dropped:
    """size bytes that nobody takes."""

    __slots__ = ("_left",)
    content = b""
    is_held_up = False

    def __init__(self, size: int) -> None:
        self._left = size

    @property
    def is_whole(self) -> bool:
        return not self._left

    def feed(self, data: bytes, at: int) -> int:
        count = min(self._left, len(data) - at)
        self._left -= count
        return at + count


class Chunked:
    """Chunks; their content goes to receiver, else it is kept."""

    __slots__ = ("_reader", "_receiver", "content", "is_held_up")

    def __init__(self, reader: ChunkReader, receiver: Receiver | None) -> None:
        self._reader = reader
        self._receiver = receiver
        self.content = bytearray()
        self.is_held_up = False

    @property
    def is_whole(self) -> bool:
        return self._reader.has_ended

    def feed(self, data: bytes, at: int) -> int:
        pieces, at = self._reader.feed(data, at)
        if self._receiver is None:
            for piece in pieces:
                self.content += piece
        else:
            self.is_held_up = False
            for piece in pieces:
                self.is_held_up = not self._receiver.take(piece) or self.is_held_up
        return at


class KnownBody:
    """size bytes. aligned_at: the offset that is to lie at an aligned address.

    A large one is mapped rather than allocated: its pages exist once they have come, so a client
    that announces much and sends little costs little. Raises Refusal for more than the machine can
    hold.
    """

    __slots__ = ("_came", "_view", "size")

    def __init__(self, size: int, aligned_at: int) -> None:
        pad = -aligned_at % ALIGNMENT_BYTES
        self.size = size
        self._came = 0
        try:
            whole: bytearray | mmap.mmap = (
                bytearray(pad + size)
                if size <= MAPPED_BYTES
                else mmap.mmap(-1, pad + size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            )
        except (OverflowError, OSError, ValueError, MemoryError):
            text = f"the body has {size} bytes, more than this machine can hold"
            raise Refusal(413, Breach.BODY_BYTES, text) from None
        self._view = memoryview(whole)[pad:]

    @property
    def is_whole(self) -> bool:
        return self._came == self.size

    @property
    def room(self) -> memoryview:
        """Where the next bytes go; tell `came` how many did."""
        return self._view[self._came :]

    @property
    def content(self) -> memoryview:
        return self._view

    def came(self, count: int) -> None:
        self._came += count

    def take(self, piece: bytes) -> None:
        """piece has come another way."""
        self._view[self._came : self._came + len(piece)] = piece
        self._came += len(piece)
