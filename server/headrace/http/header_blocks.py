"""HTTP/2 header blocks (RFC 7541): written by hand, read by hpack.

They are written without a dynamic table and without Huffman coding, every field a literal, so that
a block that is sent again is the same bytes again.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import hpack

from headrace.http.frames import Broken, Code

MAX_REMEMBERED, REMEMBERED_BYTES = 256, 512  # blocks of one connection, and each one's size
FIELD_BYTES = 32  # what a field counts beside its name and value (RFC 9113 §6.5.2)

CONNECTIONS_OWN = frozenset(  # headers of HTTP/1.1 alone (§8.2.2); a `host` is borne
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})


@dataclass(frozen=True, slots=True)
class Block:
    """fields: names and values in order. fault: why no request may have them; "": none."""

    fields: list[tuple[bytes, bytes]]
    size_bytes: int
    fault: str


def fault_of(fields: Sequence[tuple[bytes, bytes]]) -> str:
    """What makes a request's headers malformed (RFC 9113 §8.2, §8.3); "": nothing."""
    seen: set[bytes] = set()
    is_over = False  # the pseudo-headers, which come first
    for name, value in fields:
        if name[:1] == b":":
            if is_over or name in seen or name not in PSEUDO:
                return f"the pseudo-header {name!r}"
            seen.add(name)
            continue
        is_over = True
        if not _NAME.fullmatch(name) or name in CONNECTIONS_OWN:
            return f"the header {name!r}"
        if name == b"te" and value != b"trailers":
            return f"te: {value!r}"
        if _NOT_IN_VALUES.search(value):
            return f"the value of {name!r}"
    return ""


_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_NOT_IN_VALUES = re.compile(rb"[\0\r\n]")


class BlockReader:
    """Reads one connection's blocks, in the order they come.

    A block that changes no table means the same again until one does, and is then not read again.
    """

    __slots__ = ("_blocks", "_decoder")

    def __init__(self, max_bytes: int) -> None:
        self._decoder = hpack.Decoder(max_bytes)
        self._blocks: dict[bytes, Block] = {}

    def read(self, block: bytes) -> Block:
        """Raises Broken."""
        known = self._blocks.get(block)
        if known is not None:
            return known
        size, head = self._table()
        try:
            fields = [(bytes(n), bytes(v)) for n, v in self._decoder.decode(block, raw=True)]
        except hpack.OversizedHeaderListError as err:
            raise Broken(Code.ENHANCE_YOUR_CALM, "the headers are too long") from err
        except (hpack.HPACKError, ValueError, IndexError) as err:
            raise Broken(Code.COMPRESSION_ERROR, f"the headers cannot be read: {err}") from err
        size_bytes = sum(len(name) + len(value) + FIELD_BYTES for name, value in fields)
        read = Block(fields, size_bytes, fault_of(fields))
        now_size, now_head = self._table()
        if now_size != size or now_head is not head:
            self._blocks.clear()
        elif len(block) <= REMEMBERED_BYTES and len(self._blocks) < MAX_REMEMBERED:
            self._blocks[block] = read
        return read

    def _table(self) -> tuple[tuple[int, int], object]:
        """What tells one state of the dynamic table from the next: it grows at its head only. The
        entry there is kept, not its id, which another may get."""
        entries = self._decoder.header_table.dynamic_entries
        return (len(entries), self._decoder.header_table_size), entries[0] if entries else None


def to_block(fields: Iterable[tuple[str, str]]) -> bytes:
    """fields, names in lower case, as a header block."""
    return b"".join(
        b"\x00" + _string(name.encode("ascii")) + _string(value.encode("latin1"))
        for name, value in fields
    )


def _string(text: bytes) -> bytes:
    size = len(text)
    if size < 0x7F:
        return bytes([size]) + text
    parts = bytearray([0x7F])
    size -= 0x7F
    while size > 0x7F:
        parts.append(size & 0x7F | 0x80)
        size >>= 7
    parts.append(size)
    return bytes(parts) + text
