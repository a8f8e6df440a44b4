"""Header blocks: what is written is read back, and a remembered block never outlives its table."""

import random

import hpack
import pytest

from headrace.http.frames import Broken, Code
from headrace.http.header_blocks import MAX_REMEMBERED, BlockReader, to_block

LONG = [("a", "b" * size) for size in (0, 1, 126, 127, 128, 300, 20_000)]


def as_bytes(fields: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin1")) for name, value in fields]


def test_what_is_written_is_read_back() -> None:
    fields = [*LONG, ("grpc-message", "\xe9")]
    assert BlockReader(1 << 20).read(to_block(fields)).fields == as_bytes(fields)


@pytest.mark.parametrize("table_bytes", [0, 40, 80, 4096])
def test_equal_blocks_after_another_table_mean_what_they_mean_then(table_bytes: int) -> None:
    """An index is the same bytes whatever stands at it: in a table of one entry, the last field."""
    draw, encoder, reader = random.Random(1), hpack.Encoder(), BlockReader(1 << 20)
    encoder.header_table_size = table_bytes
    for _ in range(3000):
        fields = [("n", str(draw.randrange(4))) for _ in range(draw.randrange(1, 3))]
        assert reader.read(encoder.encode(fields)).fields == as_bytes(fields)


def test_what_is_remembered_is_bounded() -> None:
    reader = BlockReader(1 << 20)
    for number in range(2 * MAX_REMEMBERED):
        reader.read(to_block([("n", str(number))]))
    reader.read(to_block(LONG))
    assert len(reader._blocks) == MAX_REMEMBERED


@pytest.mark.parametrize(
    ("block", "code"),
    [
        pytest.param(to_block(LONG), Code.ENHANCE_YOUR_CALM, id="too long"),
        pytest.param(b"\xff\xff\xff\xff\xff", Code.COMPRESSION_ERROR, id="no such index"),
        pytest.param(b"\x00\x05ab", Code.COMPRESSION_ERROR, id="cut off"),
    ],
)
def test_refused(block: bytes, code: Code) -> None:
    with pytest.raises(Broken) as caught:
        BlockReader(1000).read(block)
    assert caught.value.code is code
