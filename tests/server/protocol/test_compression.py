"""Content codings: the rules of the contract, §2.8."""

import gzip
import zlib

import pytest

from headrace.server.errors import Code, InvalidInput, PayloadTooLarge, UnsupportedMedia
from headrace.server.protocol.compression import choose, compress, decompress

TEXT = bytes(range(256)) * 5000  # more than one step of input and of output
NOISE = b"".join(zlib.compress(str(i).encode()) for i in range(20_000))


def raw_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


@pytest.mark.parametrize(
    ("encoding", "coded", "body"),
    [
        pytest.param("gzip", gzip.compress(TEXT), TEXT, id="gzip"),
        pytest.param("GZIP ", gzip.compress(NOISE), NOISE, id="gzip of what does not shrink"),
        pytest.param("gzip", gzip.compress(b"a") + gzip.compress(b"b"), b"ab", id="two members"),
        pytest.param("deflate", zlib.compress(TEXT), TEXT, id="deflate with zlib's wrapper"),
        pytest.param("deflate", raw_deflate(TEXT), TEXT, id="deflate without it"),
        pytest.param("gzip", gzip.compress(b""), b"", id="gzip of nothing"),
        pytest.param("identity", TEXT, TEXT, id="identity"),
        pytest.param("", TEXT, TEXT, id="none"),
    ],
)
def test_decompress(encoding: str, coded: bytes, body: bytes) -> None:
    assert decompress(coded, encoding, max_bytes=len(body) or 1) == body
    assert decompress(memoryview(coded), encoding, max_bytes=0) == body


@pytest.mark.parametrize(
    ("encoding", "coded", "sentence"),
    [
        pytest.param(
            "gzip", b"", "Content-Encoding gzip: the body ends too early", id="gzip of no bytes"
        ),
        pytest.param(
            "gzip",
            gzip.compress(TEXT)[:-9],
            "Content-Encoding gzip: the body ends too early",
            id="cut off",
        ),
        pytest.param(
            "gzip",
            b'{"a":1}',
            "Content-Encoding gzip: Error -3 while decompressing data: incorrect header check",
            id="not gzip",
        ),
        pytest.param(
            "gzip",
            gzip.compress(b"a") + b"xyz",
            "Content-Encoding gzip: 3 bytes follow the data",
            id="garbage behind gzip",
        ),
        pytest.param(
            "deflate",
            zlib.compress(b"a") + b"xyz",
            "Content-Encoding deflate: 3 bytes follow the data",
            id="garbage behind deflate",
        ),
    ],
)
def test_broken_data_is_the_callers_mistake(encoding: str, coded: bytes, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decompress(coded, encoding, max_bytes=0)
    assert str(caught.value) == sentence
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, deflate"])
def test_other_codings_are_unsupported(encoding: str) -> None:
    with pytest.raises(UnsupportedMedia) as caught:
        decompress(b"", encoding, max_bytes=0)
    assert str(caught.value) == (
        f"Content-Encoding '{encoding}' is not supported; send gzip, deflate"
    )


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_stops_at_the_limit(encoding: str) -> None:
    stream = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
    zeros = bytes(1 << 20)
    bomb = b"".join(stream.compress(zeros) for _ in range(256)) + stream.flush()
    with pytest.raises(PayloadTooLarge) as caught:
        decompress(bomb, encoding, max_bytes=1000)
    assert str(caught.value) == (
        "the decompressed body has more than the limit of 1000 bytes (--max_body_bytes 1000)"
    )
    assert caught.value.code is Code.TOO_LARGE


@pytest.mark.parametrize(
    ("accept", "size", "min_bytes", "coding"),
    [
        pytest.param("gzip", 10, None, "gzip", id="gzip alone: the client means it"),
        pytest.param("deflate", 10, None, "deflate", id="deflate alone"),
        pytest.param("gzip;q=0.5, br;q=0", 10, None, "gzip", id="alone once q=0 is left out"),
        pytest.param("gzip, deflate, br", 10**6, None, None, id="merely advertised"),
        pytest.param("gzip, deflate", 10**6, None, None, id="two codings are not one"),
        pytest.param("gzip, identity", 10**6, None, None, id="identity counts"),
        pytest.param("gzip, deflate, br", 1000, 1000, "gzip", id="the operator wants it"),
        pytest.param("gzip, deflate, br", 999, 1000, None, id="below the operator's size"),
        pytest.param("gzip;q=0.1, deflate", 1000, 0, "deflate", id="the most wanted first"),
        pytest.param("br, zstd", 1000, 0, None, id="never brotli"),
        pytest.param("br", 1000, None, None, id="never brotli, alone"),
        pytest.param("*", 1000, None, None, id="anything is nothing in particular"),
        pytest.param("gzip;q=0", 1000, 0, None, id="refused"),
        pytest.param("gzip;q=x", 1000, 0, None, id="a broken weight"),
        pytest.param("", 1000, 0, None, id="no header"),
    ],
)
def test_choose(accept: str, size: int, min_bytes: int | None, coding: str | None) -> None:
    assert choose(accept, size, min_bytes) == coding


def test_compress_is_what_others_undo() -> None:
    assert gzip.decompress(compress(TEXT, "gzip")) == TEXT
    assert zlib.decompress(compress(TEXT, "deflate")) == TEXT
