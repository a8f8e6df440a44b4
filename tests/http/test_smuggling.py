"""What two servers could read differently is refused, and nothing behind it is a request.

Each case is followed by a request for /smuggled, which no application may see; each is delivered
in one piece over a socket, and in one piece and byte by byte straight into the protocol.
"""

import asyncio

import pytest

from headrace.http import Limits
from tests.http.fed import Fed, Recorder, recording
from tests.http.servers import OURS, Kind, serving
from tests.http.wire import chunked, one_by_one, replies, talk

LIMITS = Limits(max_header_bytes=64 << 10, max_headers=100, max_body_bytes=1 << 20)
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n"
ABC = chunked(b"abc")


def lines(*head: str, body: bytes = b"") -> bytes:
    return "\r\n".join(head).encode("latin1") + b"\r\n\r\n" + body


def post(*headers: str, body: bytes = b"") -> bytes:
    return lines("POST / HTTP/1.1", "Host: t", *headers, body=body)


def get(*headers: str) -> bytes:
    return lines("GET / HTTP/1.1", "Host: t", *headers)


def coded(body: bytes) -> bytes:
    return post("Transfer-Encoding: chunked", body=body)


def coding(value: str) -> bytes:
    return post(f"Transfer-Encoding: {value}", body=ABC)


def length(value: str) -> bytes:
    return post(f"Content-Length: {value}", body=b"abc")


TE = "Transfer-Encoding: chunked"

LENGTHS = {
    "a length, then chunks": post("Content-Length: 3", TE, body=ABC),
    "chunks, then a length": post(TE, "Content-Length: 3", body=ABC),
    "chunks and a length of nothing": post(TE, "Content-Length: 0", body=ABC),
    "two lengths that differ": post("Content-Length: 3", "Content-Length: 4", body=b"abc"),
    "two lengths that agree": post("Content-Length: 3", "Content-Length: 3", body=b"abc"),
    "two lengths in one header": length("3, 3"),
    "two different lengths in one header": length("3, 4"),
    "a length with a plus": length("+3"),
    "a length with a minus": length("-3"),
    "a length in hexadecimal": length("0x3"),
    "a length with an underscore": length("1_0"),
    "a length with a fraction": length("3.0"),
    "a length with a space inside": length("1 0"),
    "a length of no digits": length(""),
    "a length of letters": length("abc"),
    "a length of Arabic digits": length("\u0663".encode().decode("latin1")),
    "a length beyond 64 bits": length("18446744073709551619"),
    "a length of a hundred digits": length("1" * 100),
    "a length in quotes": length('"3"'),
}
CODINGS = {
    "a coding that only looks like chunked": coding("xchunked"),
    "a coding that begins like chunked": coding("chunkedx"),
    "chunked in quotes": coding('"chunked"'),
    "chunked twice in one header": coding("chunked, chunked"),
    "chunked twice in two headers": post(TE, TE, body=ABC),
    "chunked before another": coding("chunked, identity"),
    "chunked behind another": coding("gzip, chunked"),
    "identity": coding("identity"),
    "identity, then chunked in a header of its own": post(
        "Transfer-Encoding: identity", TE, body=ABC
    ),
    "chunked, then identity in a header of its own": post(
        TE, "Transfer-Encoding: identity", body=ABC
    ),
    "no coding": coding(""),
    "chunked with a parameter": coding("chunked;q=1"),
    "chunked behind a comma": coding(", chunked"),
    "chunked with a vertical tab": coding("\x0bchunked"),
    "chunked with a space inside": coding("chun ked"),
    "a space before the colon": post("Transfer-Encoding : chunked", body=ABC),
    "a tab before the colon": post("Transfer-Encoding\t: chunked", body=ABC),
    "a folded coding": post("Transfer-Encoding:", " chunked", body=ABC),
    "a coding behind a folded header": post("X-A: b", "\tTransfer-Encoding: chunked", body=ABC),
    "a space before the name": post("X-A: b", " Transfer-Encoding: chunked", body=ABC),
    "chunks in HTTP/1.0": lines("POST / HTTP/1.0", "Host: t", TE, body=ABC),
}
LINE_ENDS = {
    "bare line feeds": b"GET / HTTP/1.1\nHost: t\n\n",
    "a bare line feed behind the request line": b"GET / HTTP/1.1\nHost: t\r\n\r\n",
    "a bare line feed behind a header": b"GET / HTTP/1.1\r\nHost: t\nX-A: b\r\n\r\n",
    "a bare line feed that ends the headers": b"GET / HTTP/1.1\r\nHost: t\r\n\n",
    "a bare carriage return behind the request line": b"GET / HTTP/1.1\rHost: t\r\n\r\n",
    "a bare carriage return in a value": get("X-A: b\rX-C: d"),
    "a bare line feed before the request": b"\n" + get(),
    "a bare carriage return before the request": b"\r" + get(),
    "a bare line feed behind an empty line": b"\r\n\n" + get(),
    "two carriage returns": b"GET / HTTP/1.1\r\r\nHost: t\r\n\r\n",
    "a carriage return in a name": get("X\r-A: b"),
    "a folded header": get("X-A: b", " c"),
    "a folded first header": lines("GET / HTTP/1.1", " Host: t"),
    "a folded header of nothing": get("X-A: b", " "),
}
CHARACTERS = {
    "NUL in a name": get("X\0A: b"),
    "NUL in a value": get("X-A: b\0c"),
    "NUL at the end of a value": get("X-A: b\0"),
    "NUL in the target": lines("GET /\0 HTTP/1.1", "Host: t"),
    "NUL before the request": b"\0" + get(),
    "a control character in a value": get("X-A: b\x01c"),
    "DEL in a value": get("X-A: b\x7fc"),
    "a control character in the target": lines("GET /\x01 HTTP/1.1", "Host: t"),
    "DEL in the target": lines("GET /\x7f HTTP/1.1", "Host: t"),
    "a space in a name": get("X A: b"),
    "a bracket in a name": get("X(A: b"),
    "a quote in a name": get('X"A: b'),
    "a byte beyond ASCII in a name": get("X\xe9: b"),
    "a name of nothing": get(": b"),
    "a header without a colon": get("no colon"),
}
START_LINES = {
    "no request line": lines("NONSENSE"),
    "no version": lines("GET /", "Host: t"),
    "no target": lines("GET HTTP/1.1", "Host: t"),
    "a space in the target": lines("GET /a b HTTP/1.1", "Host: t"),
    "two spaces before the version": lines("GET /  HTTP/1.1", "Host: t"),
    "a tab between target and version": lines("GET /\tHTTP/1.1", "Host: t"),
    "a space behind the version": lines("GET / HTTP/1.1 ", "Host: t"),
    "a space before the method": b" " + get(),
    "a line of spaces before the request": b"  \r\n" + get(),
    "a method nobody knows": lines("NOPE / HTTP/1.1", "Host: t"),
    "a method in small letters": lines("get / HTTP/1.1", "Host: t"),
    "a method with a bracket": lines("GET( / HTTP/1.1", "Host: t"),
    "HTTP/1.2": lines("GET / HTTP/1.2", "Host: t"),
    "HTTP/1.10": lines("GET / HTTP/1.10", "Host: t"),
    "HTTP/01.1": lines("GET / HTTP/01.1", "Host: t"),
    "HTTP/0.9": lines("GET / HTTP/0.9", "Host: t"),
    "HTTP/2.0 in a line of HTTP/1": lines("GET / HTTP/2.0", "Host: t"),
    "http in small letters": lines("GET / http/1.1", "Host: t"),
    "another protocol": lines("GET / RTSP/1.0", "Host: t"),
    "a target of no form": lines("GET nowhere HTTP/1.1", "Host: t"),
    "HTTP/2's preface where nobody speaks it": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}
HOSTS = {
    "no Host": lines("GET / HTTP/1.1"),
    "two Hosts": get("Host: u"),
    "the same Host twice": get("Host: t"),
    "a Host with a path": lines("GET / HTTP/1.1", "Host: t/a"),
    "a Host with a user": lines("GET / HTTP/1.1", "Host: me@t"),
    "a Host with a space": lines("GET / HTTP/1.1", "Host: t u"),
    "two hosts in one header": lines("GET / HTTP/1.1", "Host: t, u"),
    "two Hosts in HTTP/1.0": lines("GET / HTTP/1.0", "Host: t", "Host: u"),
}
CHUNKS = {
    "a negative chunk size": coded(b"-3\r\nabc\r\n0\r\n\r\n"),
    "a chunk size with a plus": coded(b"+3\r\nabc\r\n0\r\n\r\n"),
    "a chunk size with a prefix": coded(b"0x3\r\nabc\r\n0\r\n\r\n"),
    "a chunk size beyond 64 bits": coded(b"10000000000000003\r\nabc\r\n0\r\n\r\n"),
    "a chunk size of endless zeros": coded(b"0" * 5000 + b"3\r\nabc\r\n0\r\n\r\n"),
    "a chunk size of letters": coded(b"zz\r\nabc\r\n0\r\n\r\n"),
    "a chunk size with an underscore": coded(b"1_0\r\nabc\r\n0\r\n\r\n"),
    "a space before a chunk size": coded(b" 3\r\nabc\r\n0\r\n\r\n"),
    "a space behind a chunk size": coded(b"3 \r\nabc\r\n0\r\n\r\n"),
    "no chunk size": coded(b"\r\nabc\r\n0\r\n\r\n"),
    "only an extension": coded(b";a=b\r\nabc\r\n0\r\n\r\n"),
    "a bare line feed behind a chunk size": coded(b"3\nabc\r\n0\r\n\r\n"),
    "a bare carriage return behind a chunk size": coded(b"3\rabc\r\n0\r\n\r\n"),
    "a bare line feed in an extension": coded(b"3;a\nabc\r\n0\r\n\r\n"),
    "a bare carriage return in an extension": coded(b"3;a\rb\r\nabc\r\n0\r\n\r\n"),
    "NUL in an extension": coded(b"3;a\0\r\nabc\r\n0\r\n\r\n"),
    "an extension that never ends": coded(b"3;" + b"a" * 20_000 + b"\r\nabc\r\n0\r\n\r\n"),
    "no line end behind a chunk": coded(b"3\r\nabc0\r\n\r\n"),
    "two other bytes behind a chunk": coded(b"3\r\nabcXY0\r\n\r\n"),
    "a bare line feed behind a chunk": coded(b"3\r\nabc\n0\r\n\r\n"),
    "a chunk longer than said": coded(b"2\r\nabc\r\n0\r\n\r\n"),
    "a bare line feed behind the last chunk": coded(b"0\n\r\n"),
    "Content-Length in the trailer": coded(b"0\r\nContent-Length: 3\r\n\r\n"),
    "Transfer-Encoding in the trailer": coded(b"0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "Host in the trailer": coded(b"0\r\nHost: u\r\n\r\n"),
    "a space before the colon in the trailer": coded(b"0\r\nContent-Length : 3\r\n\r\n"),
    "a trailer without a colon": coded(b"0\r\nnothing\r\n\r\n"),
    "a trailer with a comma for a name": coded(b"0\r\n,: b\r\n\r\n"),
    "a folded trailer": coded(b"0\r\nX-A: b\r\n c\r\n\r\n"),
    "NUL in the trailer": coded(b"0\r\nX-A: \0\r\n\r\n"),
    "a bare line feed in the trailer": coded(b"0\r\nX-A: b\n\r\n"),
}
TOO_MUCH = {
    "101 headers": get(*[f"X-{at}: b" for at in range(100)]),
    "a header of more than 64 KiB": get("X-A: " + "b" * (64 << 10)),
    "many headers of more than 64 KiB": get(*["X-A: " + "b" * 1000] * 70),
    "a target of more than 64 KiB": lines("GET /" + "a" * (64 << 10) + " HTTP/1.1", "Host: t"),
    "a name of more than 64 KiB": get("X" * (64 << 10) + ": b"),
    "a trailer of more than 64 KiB": coded(b"0\r\n" + b"X-A: bcdefgh\r\n" * 7000 + b"\r\n"),
}
BAD = LENGTHS | CODINGS | LINE_ENDS | CHARACTERS | START_LINES | HOSTS | CHUNKS
REFUSED = [(name, data, 400) for name, data in BAD.items()]
REFUSED += [(name, data, 431) for name, data in TOO_MUCH.items()]
CASES = [pytest.param(data, status, id=name) for name, data, status in REFUSED]

ACCEPTED = {
    "an empty line before it": b"\r\n" + get(),
    "two empty lines before it": b"\r\n\r\n" + get(),
    "space around a length": post("Content-Length: \t 3 \t", body=b"abc"),
    "zeros before a length": length("003"),
    "Chunked with a capital": coding("Chunked"),
    "space around chunked": coding(" \tchunked"),
    "names in any case": post("tRANSFER-eNCODING: chunked", body=ABC),
    "an extension": coded(b'3;a="b"\r\nabc\r\n0;c\r\n\r\n'),
    "a trailer": coded(b"3\r\nabc\r\n0\r\nX-A: b\r\n\r\n"),
    "Latin-1 in a value": get("X-A: \xe9"),
    "a tab in a value": get("X-A: b\tc"),
    "100 headers": get(*[f"X-{at}: b" for at in range(99)]),
    "just under 64 KiB": get("X-A: " + "b" * ((64 << 10) - 100)),
    "a whole URI": lines("GET http://t/ HTTP/1.1", "Host: t"),
    "a body that looks like a request": post(f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED),
}


def check_refused(received: bytes, recorder: Recorder, status: int) -> None:
    """The last answer, after which all is silence."""
    assert [reply.status for reply in replies(received)] == [status]
    assert b"\r\nConnection: close\r\n" in received
    assert "/smuggled" not in recorder.begun
    assert recorder.seen == []


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize(("data", "status"), CASES)
def test_refused(data: bytes, status: int, kind: Kind) -> None:
    async def run() -> None:
        server, recorder = recording(LIMITS)
        async with serving(server) as served:
            received = await talk(served.port, data + SMUGGLED)
        check_refused(received, recorder, status)

    kind.run(run())


@pytest.mark.parametrize("is_bytewise", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(("data", "status"), CASES)
def test_refused_in_pieces(data: bytes, status: int, is_bytewise: bool) -> None:
    async def run() -> None:
        server, recorder = recording(LIMITS)
        fed = Fed(server)
        fed.feed(one_by_one(data + SMUGGLED) if is_bytewise else [data + SMUGGLED])
        assert fed.is_answered
        check_refused(bytes(fed.wire.written), recorder, status)
        fed.hang_up()

    asyncio.run(run())


@pytest.mark.parametrize("is_bytewise", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in ACCEPTED.items()])
def test_accepted(data: bytes, is_bytewise: bool) -> None:
    """The table above refuses for what is wrong, not for what is unusual."""

    async def run() -> None:
        server, recorder = recording(LIMITS)
        fed = Fed(server)
        sent = data + b"GET /next HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
        fed.feed(one_by_one(sent) if is_bytewise else [sent])
        answers = replies(bytes(fed.wire.written))
        assert [reply.status for reply in answers] == [200, 200]
        assert recorder.begun[1:] == ["/next"]
        fed.hang_up()

    asyncio.run(run())


@pytest.mark.parametrize(
    "data", [pytest.param(b"\r\n" * 2, id="two"), pytest.param(b"\r\n", id="one")]
)
def test_empty_lines_alone_are_no_request(data: bytes) -> None:
    """Also where a request behind such lines has been served: heads are remembered by bytes."""

    async def run() -> None:
        server, recorder = recording(LIMITS)
        for sent in (data + get(), data):
            fed = Fed(server)
            fed.feed([sent])
            fed.hang_up()
        assert recorder.begun == ["/"]

    asyncio.run(run())


def test_what_is_remembered_is_the_same_for_all() -> None:
    """A head that was served once is served again, and a bad one refused again."""

    async def run() -> None:
        server, recorder = recording(LIMITS)
        for data, statuses in [
            (length("3"), [200]),
            (length("3"), [200]),
            (LENGTHS["a length, then chunks"], [400]),
            (LENGTHS["a length, then chunks"], [400]),
        ]:
            fed = Fed(server)
            fed.feed([data])
            assert [reply.status for reply in replies(bytes(fed.wire.written))] == statuses
            fed.hang_up()
        assert len(recorder.seen) == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(b"HEAD /HTTP/1.1\r\nHost: t\r\n\r\n", id="what looks like HTTP/0.9"),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", id="the last of its connection"),
        pytest.param(get("Connection: upgrade", "Upgrade: h2c"), id="an upgrade"),
        pytest.param(get()[:-1], id="a head without its last byte"),
        pytest.param(
            get("Connection: close", "Connection: keep-alive"), id="close, then keep-alive"
        ),
        pytest.param(get("Proxy-Connection: close"), id="Proxy-Connection"),
        pytest.param(b"CONNECT t:1 HTTP/1.1\r\nHost: t\r\n\r\n", id="CONNECT"),
    ],
)
def test_a_connection_leaves_nothing_to_the_next(before: bytes) -> None:
    """Parsers are kept for other connections."""

    async def run() -> None:
        server, recorder = recording(LIMITS)
        first = Fed(server)
        first.feed([get("X-Served: before")])  # by the parser that is then used again
        first.feed([before])
        first.hang_up()
        recorder.begun.clear()
        next_one = Fed(server)
        next_one.feed([b"GET /next HTTP/1.0\r\nConnection: kee", b"p-alive\r\n\r", b"\n"])
        assert recorder.begun == ["/next"]
        next_one.hang_up()

    asyncio.run(run())
