"""A request body of known length, received where it stays: one buffer of that size, no copies.

A large one is mapped rather than allocated: its pages exist once they have come, so a client that
announces much and sends little costs little.
"""

import mmap

from headrace.http.limits import Breach, Refusal

MAPPED_BYTES = 1 << 18
ALIGNMENT_BYTES = 16  # what memory allocators give


class KnownBody:
    """size bytes. aligned_at: the offset that is to lie at an aligned address.

    Raises Refusal for more than the machine can hold.
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
