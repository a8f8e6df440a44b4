"""Memory two processes share, and tensors in it: written once, read in place.

A block is an anonymous file in memory (`memfd`): it has no name to clean up, is gone with the last
process that holds it however that ends, and is not bounded by /dev/shm, which containers get 64 MB
of. One side writes and may grow it; the other follows by the size it is told.
"""

import math
import mmap
import os
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from headrace.server.errors import PayloadTooLarge
from headrace.server.tensor import NUMPY, Datatype, Tensor, from_raw, to_raw

FIRST_BYTES = 64 << 10
MAX_BYTES = 4 << 30  # of one block
ALIGNMENT = 64  # of each tensor: a cache line, and any dtype


class Placed(msgspec.Struct, frozen=True):
    """Where a tensor lies in a block."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    offset: int
    size: int  # in bytes


class Block:
    """fd: of the memory, owned by the block."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map: mmap.mmap | None = None

    @classmethod
    def create(cls, name: str) -> "Block":
        """name: seen in /proc/<pid>/maps, nowhere else."""
        fd = os.memfd_create(name)
        os.ftruncate(fd, FIRST_BYTES)
        return cls(fd)

    def put(self, tensors: Sequence[Tensor], max_bytes: int = MAX_BYTES) -> list[Placed]:
        """Copy tensors in, over what was there. Raises PayloadTooLarge beyond max_bytes."""
        raws = [to_raw(each) if each.datatype is Datatype.BYTES else None for each in tensors]
        placed: list[Placed] = []
        offset = 0
        for tensor, raw in zip(tensors, raws, strict=True):
            size = math.prod(tensor.shape) * NUMPY[tensor.datatype].itemsize
            if raw is not None:
                size = len(raw)
            placed.append(Placed(tensor.name, tensor.datatype, tensor.shape, offset, size))
            offset += -(-size // ALIGNMENT) * ALIGNMENT
        if offset > max_bytes:
            raise PayloadTooLarge(
                f"tensors of {offset} bytes; a model in a process of its own takes and gives "
                f"at most {max_bytes} bytes a call"
            )
        memory = self._mapped(offset, grow=True)
        for place, tensor, raw in zip(placed, tensors, raws, strict=True):
            if not place.size:
                continue
            if raw is not None:
                memory[place.offset : place.offset + place.size] = bytes(raw)
                continue
            dtype = NUMPY[place.datatype]
            target: NDArray[Any] = np.ndarray(place.shape, dtype, memory, place.offset)
            target[...] = tensor.array  # any strides and byte order; without the GIL
        return placed

    def views(self, placed: Sequence[Placed]) -> list[Tensor]:
        """The tensors in place, read-only, good until the next `put`; BYTES are copies."""
        end = max((each.offset + each.size for each in placed), default=0)
        memory = memoryview(self._mapped(end, grow=False))
        return [
            from_raw(
                each.name,
                each.datatype,
                each.shape,
                memory[each.offset : each.offset + each.size],
                f"tensor {each.name!r} in shared memory",
            )
            for each in placed
        ]

    def copies(self, placed: Sequence[Placed]) -> list[Tensor]:
        """The tensors, to keep."""
        return [
            view
            if view.datatype is Datatype.BYTES
            else Tensor(view.name, view.array.copy(), view.datatype)
            for view in self.views(placed)
        ]

    def close(self) -> None:
        """Give the memory back, once the last view of it is gone."""
        self._map = None
        os.close(self.fd)

    def _mapped(self, size: int, grow: bool) -> mmap.mmap:
        if self._map is not None and len(self._map) >= size:
            return self._map
        held = os.fstat(self.fd).st_size
        if grow and held < size:
            held = max(size, min(2 * held, MAX_BYTES))
            os.ftruncate(self.fd, held)
        self._map = mmap.mmap(self.fd, held)  # the old map lives on while arrays look into it
        return self._map
