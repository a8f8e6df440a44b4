"""Chunked bodies: what is read, in any pieces, and what is refused (RFC 9112 §7.1)."""

import pytest

from headrace.http.chunks import MAX_OVERHEAD_BYTES, ChunkReader, to_chunk
from headrace.http.limits import Limits, Refusal

LIMITS = Limits(max_header_bytes=100)


def read(data: bytes, step: int) -> tuple[bytes, bytes]:
    """The content of data fed step bytes at a time, and what is left behind the body."""
    reader, found, at = ChunkReader(50, LIMITS), b"", 0
    while at < len(data) and not reader.has_ended:
        pieces, used = reader.feed(data[at : at + step], 0)
        found += b"".join(pieces)
        at += used
    assert reader.has_ended
    return found, data[at:]


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    ("data", "content", "rest"),
    [
        pytest.param(b"0\r\n\r\n", b"", b"", id="nothing"),
        pytest.param(b"3\r\nabc\r\n0\r\n\r\n", b"abc", b"", id="one chunk"),
        pytest.param(b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789", b"", id="two"),
        pytest.param(b"3;a=b\r\nabc\r\n0\r\n\r\n", b"abc", b"", id="an extension"),
        pytest.param(b"003\r\nabc\r\n0\r\n\r\n", b"abc", b"", id="leading zeros"),
        pytest.param(b"0" * 40 + b"3\r\nabc\r\n" + b"0" * 40 + b"\r\n\r\n", b"abc", b"", id="many"),
        pytest.param(b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", b"", id="line ends as content"),
        pytest.param(b"0\r\nA: b\r\n\r\nGET", b"", b"GET", id="a trailer, and what follows"),
    ],
)
def test_read(data: bytes, content: bytes, rest: bytes, step: int) -> None:
    assert read(data, step) == (content, rest)


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"-1\r\n", id="a negative size"),
        pytest.param(b"0x3\r\nabc\r\n", id="a prefix"),
        pytest.param(b" 3\r\nabc\r\n", id="a space before the size"),
        pytest.param(b"3 \r\nabc\r\n", id="a space behind the size"),
        pytest.param(b"\r\n3\r\nabc\r\n", id="an empty line"),
        pytest.param(b"3\nabc\r\n", id="a bare line feed behind the size"),
        pytest.param(b"3\r\nabc\n0\r\n", id="a bare line feed behind the content"),
        pytest.param(b"3\r\nabcX0\r\n", id="no line end behind the content"),
        pytest.param(b"3\r\nabcd\r\n", id="more content than said"),
        pytest.param(b"fffffffffffffffff\r\n", id="a size beyond 60 bits"),
        pytest.param(b"0" * 5000, id="endless zeros"),
        pytest.param(b"3;" + b"x" * 5000, id="an endless extension"),
        pytest.param(b"3;a=\x00\r\n", id="a NUL in an extension"),
        pytest.param(b"0\r\nContent-Length: 5\r\n", id="a length in the trailer"),
        pytest.param(b"0\r\nTransfer-Encoding: chunked\r\n", id="a coding in the trailer"),
        pytest.param(b"0\r\nno colon\r\n", id="a trailer without a colon"),
        pytest.param(b"0\r\n folded: x\r\n", id="a folded trailer"),
        pytest.param(b"0\r\nA: b\nC: d\r\n", id="a bare line feed in the trailer"),
    ],
)
def test_refused(data: bytes, step: int) -> None:
    with pytest.raises(Refusal) as caught:
        read(data, step)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"33\r\n", 413, id="content over the limit, before it comes"),
        pytest.param(b"20\r\n" + b"x" * 32 + b"\r\n20\r\n", 413, id="several chunks over it"),
        pytest.param(b"0\r\n" + b"A: b\r\n" * 50, 431, id="a trailer over the limit"),
    ],
)
def test_over_a_limit(data: bytes, status: int) -> None:
    with pytest.raises(Refusal) as caught:
        read(data, 1000)
    assert caught.value.status == status


def test_written_chunks_are_read_back() -> None:
    assert read(to_chunk(b"abc") + to_chunk(b"d" * 20) + b"0\r\n\r\n", 7)[0] == b"abc" + b"d" * 20


@pytest.mark.parametrize(
    ("piece", "is_read"),
    [pytest.param(b"x", False, id="bytes"), pytest.param(b"x" * 9, True, id="words")],
)
def test_chunks_that_are_all_framing_are_refused(piece: bytes, is_read: bool) -> None:
    """A line of framing costs as much time as a large chunk: 12 MB of "1 a" took three seconds."""
    sent = to_chunk(piece) * MAX_OVERHEAD_BYTES
    reader = ChunkReader(0, LIMITS)
    if is_read:
        assert len(b"".join(reader.feed(sent, 0)[0])) == MAX_OVERHEAD_BYTES * len(piece)
        return
    with pytest.raises(Refusal) as caught:
        reader.feed(sent, 0)
    assert caught.value.text.endswith("the chunks of the body are smaller than what frames them")
