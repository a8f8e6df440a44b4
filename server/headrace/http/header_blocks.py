"""HTTP/2 header blocks (RFC 7541): written by hand, read by hpack.

They are written without a dynamic table and without Huffman coding, every field a literal, so that
a block that is sent again is the same bytes again.
"""

from collections.abc import Iterable

import hpack

from headrace.http.frames import Broken, Code

MAX_REMEMBERED, REMEMBERED_BYTES = 256, 512  # blocks of one connection, and each one's size
FIELD_BYTES = 32  # what a field counts beside its name and value (RFC 9113 §6.5.2)

Block = tuple[list[tuple[bytes, bytes]], int]  # names and values, and their size in bytes


class BlockReader:
    """Reads one connection's blocks, in the order they come.

    A block that changes no table means the same again until one does, and is then not read again.
    """

    __slots__ = ("_blocks", "_decoder")

    def __init__(self, max_bytes: int) -> None:
        self._decoder = hpack.Decoder(max_bytes)
        self._blocks: dict[bytes, Block] = {}

    def read(self, block: bytes) -> Block:
        """Names and values in order, and their size. Raises Broken."""
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
        read = fields, sum(len(name) + len(value) + FIELD_BYTES for name, value in fields)
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
