"""Bytes that are nearly HTTP: valid requests from a small grammar, spoiled, and cut into pieces."""

from collections.abc import Callable, Sequence
from random import Random

METHODS = [b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"PATCH", b"BREW", b"CONNECT"]
TARGETS = [b"/", b"/a?b=c", b"//", b"*", b"http://h/x", b"h:1", b"/%00", b"", b"/\xe9", b"/a b"]
VERSIONS = [b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"http/1.1", b""]
HEADERS = [
    b"Connection: close",
    b"Connection: keep-alive",
    b"Proxy-Connection: close",
    b"Connection: upgrade\r\nUpgrade: h2c",
    b"Expect: 100-continue",
    b"Content-Length: 3",
    b"Content-Length: 0",
    b"Content-Length: 5000",
    b"Content-Length: -1",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"X-A: b",
    b"X-A:",
    b"X-A : b",
    b" folded",
    b"Host: other",
    b"X-Long: " + b"y" * 700,
    b"Cookie: a=b",
    b"\xff\xfe: x",
]
NOISE = [b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"\xff", b"\r\n\r\n"]
GOOD = b"GET /good HTTP/1.1\r\nHost: h\r\n\r\n"


def chunks(rng: Random) -> bytes:
    sizes = [rng.choice([1, 2, 15, 300]) for _ in range(rng.randrange(4))]
    ending = rng.choice([b"", b"", b";e=1"])
    body = b"".join(b"%x%b\r\n%b\r\n" % (size, ending, b"c" * size) for size in sizes)
    return body + b"0\r\n" + rng.choice([b"", b"", b"", b"X-T: u\r\n"]) + b"\r\n"


def good(rng: Random) -> bytes:
    """A valid request with a body, or without."""
    match rng.randrange(5):
        case 0:
            return b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(
                rng
            )
        case 1:
            size = rng.choice([0, 1, 10, 900, 5000])
            return b"PUT /l HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size + b"l" * size
        case 2:
            return b"HEAD /h HTTP/1.1\r\nHost: h\r\nX-Number: %d\r\n\r\n" % rng.randrange(1000)
        case 3:
            return b"GET /k HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        case _:
            return b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % rng.randrange(1000)


def assembled(rng: Random) -> bytes:
    """Parts that are each seen in the wild, in no good order."""
    line = b" ".join((rng.choice(METHODS), rng.choice(TARGETS), rng.choice(VERSIONS)))
    headers = [rng.choice(HEADERS) for _ in range(rng.randrange(5))]
    if rng.random() < 0.8:
        headers.insert(rng.randrange(len(headers) + 1), b"Host: h")
    end = b"\r\n" if rng.random() < 0.9 else rng.choice(NOISE)
    body = rng.choice([b"", b"abc", b"x" * 5000, chunks(rng)])
    return end.join((line, *headers)) + end + end + body


def spoiled(rng: Random) -> bytes:
    """One to three edits of valid bytes."""
    data = bytearray(good(rng))
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0:
                data[at:at] = rng.choice(NOISE)
            case 1:
                del data[at : at + rng.choice([1, 1, 2, 8])]
            case 2:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 3:
                data[at:at] = data[at : at + rng.randrange(40)]
            case _:
                del data[at:]
    return bytes(data)


def noise(rng: Random) -> bytes:
    return rng.randbytes(rng.choice([1, 5, 50, 500]))


def framed_noise(rng: Random) -> bytes:
    """Noise behind a head that announces chunks: noise alone never reaches the body."""
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(rng.choice([*NOISE, b"3\r\nabc\r\n", b"a"]) for _ in range(8))


KINDS: Sequence[Callable[[Random], bytes]] = [
    good,
    good,
    good,
    assembled,
    spoiled,
    spoiled,
    framed_noise,
    noise,
]


def stream(rng: Random) -> bytes:
    """What one connection sends: one to three of the above."""
    return b"".join(rng.choice(KINDS)(rng) for _ in range(rng.choice([1, 1, 1, 2, 3])))


def pieces(rng: Random, data: bytes) -> list[bytes]:
    """data, cut at random: mostly in few pieces, sometimes byte by byte."""
    if len(data) < 200 and rng.random() < 0.05:
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice([0, 1, 2, 6])))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]
