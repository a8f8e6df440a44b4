"""Raw tensor contents in and out of a serialised message without copying them through protobuf.

Protobuf's Python runtime copies a `bytes` field twice on the way in and twice on the way out, about
1 ms per MB and direction. The fields of a message stand one after another on the wire, so the large
ones are cut out as views before the rest is parsed, and joined to the rest when it is serialised.
"""

from collections.abc import Sequence

from headrace.server.errors import InvalidInput
from headrace.server.tensor import Buffer

LENGTH_DELIMITED = 2
MAX_FIELDS = 100_000  # a 1 GiB message could have 500 million, which would hold up the loop
MAX_LENGTH, MAX_LENGTH_BYTES = 2**31 - 1, 5  # of a field; protobuf refuses longer ones
_ONE_BYTE = [bytes([value]) for value in range(0x80)]
_SKIP = {1: 8, 5: 4}  # bytes of the fixed-width wire types


def tag(number: int) -> int:
    """The key of a length-delimited field."""
    return number << 3 | LENGTH_DELIMITED


def split_field(message: Buffer, number: int) -> tuple[Buffer, list[memoryview]]:
    """message without its top-level fields of number, and views of their contents, in order.

    What is not well-formed is returned whole, with no views: parsing it says what is wrong.
    Raises InvalidInput for more than MAX_FIELDS top-level fields.
    """
    wanted = tag(number)
    view = memoryview(message)
    size = len(message)
    kept: list[memoryview] = []
    cut: list[memoryview] = []
    offset = 0
    try:
        while offset < size:
            start = offset
            if len(kept) + len(cut) == MAX_FIELDS:
                raise InvalidInput(
                    f"the message has more than {MAX_FIELDS} fields (tensors and parameters)"
                )
            key, offset = length(message, offset)
            kind = key & 7
            if kind == LENGTH_DELIMITED:
                count, offset = length(message, offset)
                end = offset + count
                if end > size:
                    return message, []
                if key == wanted:
                    cut.append(view[offset:end])
                else:
                    kept.append(view[start:end])
                offset = end
                continue
            if kind == 0:
                _, offset = _varint(message, offset)
            elif kind in _SKIP:
                offset += _SKIP[kind]
            else:
                return message, []
            kept.append(view[start:offset])
    except IndexError:
        return message, []
    return (b"".join(kept), cut) if cut else (message, [])


def join_field(head: Buffer, number: int, contents: Sequence[Buffer]) -> bytes:
    """head, a serialised message, with one more field of number per content: one copy."""
    if not contents:
        return bytes(head)
    key = to_varint(tag(number))
    parts: list[Buffer] = [head]
    for content in contents:
        parts += (key, to_varint(size_of(content)), content)
    return b"".join(parts)


def wrap(head: bytes, number: int, content: bytes) -> bytes:
    """A message of head's fields and the one message field number that content serialises."""
    return join_field(head, number, [content])


def size_of(content: Buffer) -> int:
    return content.nbytes if isinstance(content, memoryview) else len(content)


def length(message: Buffer, offset: int) -> tuple[int, int]:
    """The key or length at offset, and where it ends. Raises IndexError where there is none."""
    value, end = _varint(message, offset)
    if end - offset > MAX_LENGTH_BYTES or value > MAX_LENGTH:
        raise IndexError("a key or length beyond what protobuf reads")
    return value, end


def _varint(message: Buffer, offset: int) -> tuple[int, int]:
    value = message[offset]
    offset += 1
    if value < 0x80:
        return value, offset
    value &= 0x7F
    shift = 7
    while True:
        byte = message[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
        if shift > 63:
            raise IndexError("a varint has at most ten bytes")


def to_varint(value: int) -> bytes:
    if value < 0x80:
        return _ONE_BYTE[value]
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
