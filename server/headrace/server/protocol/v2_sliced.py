"""A large plain V2 request, read in slices: other threads run between two of them.

No JSON parser lets go of the interpreter lock, so one call for 100 MB would stop the event loop
from any thread. Here lists of numbers are cut out, which needs no parser, what is left is read as
any other request, and the numbers slice by slice, cut at commas. For
anything else `read` returns None.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from headrace.server.protocol import v2_plain
from headrace.server.request import Request
from headrace.server.tensor import NUMPY, Buffer, Datatype, Tensor

SLICE_BYTES = 1 << 19
_KEY = b'"data"'
_OPENS = re.compile(rb'"data"\s*:\s*\[')


@dataclass(frozen=True, slots=True)
class Hole:
    """Where a list of numbers stood, between its brackets."""

    start: int
    end: int


def read(body: Buffer, model_name: str, version: str) -> Request | None:
    text = bytes(body)
    rest, lists = hollow(text)
    if not any(lists) or len(rest) > SLICE_BYTES or b"\\" in rest:  # no key is spelled otherwise
        return None
    try:
        parsed = v2_plain.DECODER.decode(rest)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if len(parsed.inputs) != len(lists):  # else each has one list, and in this order
        return None
    inputs = []
    for entry, hole in zip(parsed.inputs, lists, strict=True):
        datatype, shape = v2_plain.FLOATS.get(entry.datatype), entry.shape
        count = math.prod(shape) if hole else len(entry.data)
        if datatype is None or not count or not v2_plain.holds(shape, count):
            return None
        if hole:
            array = _numbers(text, hole, count, datatype)
        else:
            array = v2_plain.to_floats(entry.data, datatype)
        if array is None:
            return None
        inputs.append(Tensor(entry.name, array.reshape(shape), datatype))
    return v2_plain.to_request(inputs, model_name, version, parsed.id)


def hollow(text: bytes) -> tuple[bytes, list[Hole | None]]:
    """text with its large lists of data emptied; and of each list what it held, None: it has it."""
    parts: list[bytes] = []
    lists: list[Hole | None] = []
    at = 0
    while (key := text.find(_KEY, at)) >= 0:
        opens = _OPENS.match(text, key)
        start = opens.end() if opens else key + len(_KEY)
        parts.append(text[at:start])
        at = start
        if opens:
            end = text.find(b"]", start)
            is_large = end - start >= SLICE_BYTES
            lists.append(Hole(start, end) if is_large else None)
            at = end if is_large else start
    return b"".join([*parts, text[at:]]), lists


def _numbers(text: bytes, hole: Hole, count: int, datatype: Datatype) -> NDArray[Any] | None:
    """The count numbers of hole; None where it holds others, or anything else."""
    import simdjson  # loaded where the first large body comes

    if 2 * count - 1 > hole.end - hole.start or text.find(b"[", hole.start, hole.end) >= 0:
        return None
    whole = np.empty(count, NUMPY[datatype])
    parser, filled, at = simdjson.Parser(), 0, hole.start
    while at >= 0:
        cut = text.find(b",", min(at + SLICE_BYTES, hole.end), hole.end)
        piece = b"[%b]" % text[at : cut if cut >= 0 else hole.end]
        at = cut + 1 if cut >= 0 else -1
        try:
            parsed: Any = parser.parse(piece)
            numbers = np.frombuffer(parsed.as_buffer(of_type="d"), np.float64)
        except (ValueError, TypeError, RuntimeError, AttributeError, UnicodeDecodeError):
            return None
        narrowed = v2_plain.narrowed(numbers, datatype)
        if narrowed is None or not numbers.size or filled + numbers.size > count:
            return None
        whole[filled : filled + numbers.size] = narrowed
        filled += numbers.size
        del parsed, numbers, narrowed  # a parser reads one text at a time
    return whole if filled == count else None
