"""Tornado's applications behave on this transport as they do on Tornado's own server.

One table of bytes in and answers out, run against both servers. Where ours answers otherwise, the
case is named in DIFFERENCES, with the reason and with what ours says.

Outside the table: `xheaders`, `decompress_request`, websockets and `detach`, and a plain function
as the application are options of Tornado's server that ours does not have.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import h11
import pytest

from headrace.http import Limits
from tests.http.application import Events, application
from tests.http.servers import BOTH, Kind
from tests.http.wire import ReplyReader, chunked, connected

PROBE = b"GET /echo?probe HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Said:
    """One answer. headers: those that matter; None: must be absent. body None: any."""

    status: int
    body: bytes | None = None
    headers: tuple[tuple[str, str | None], ...] = ()
    interim: tuple[int, ...] = ()


@dataclass(frozen=True)
class Case:
    """stays: the connection serves another request afterwards. is_broken: the last answer ends
    before it is whole."""

    name: str
    sent: bytes
    said: tuple[Said, ...]
    stays: bool = True
    methods: tuple[str, ...] = ("GET",)
    is_broken: bool = False
    events: tuple[str, ...] = ()


def request(
    method: str, target: str, *headers: str, body: bytes = b"", version: str = "1.1"
) -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "Host: test", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin1") + b"\r\n\r\n" + body


def get(target: str, *headers: str, version: str = "1.1") -> bytes:
    return request("GET", target, *headers, version=version)


def echoed(method: str = "GET", uri: str = "/echo", *, status: int = 200, **fields: Any) -> Said:
    """What the Echo handler says."""
    path, _, query = uri.partition("?")
    said = {"method": method, "uri": uri, "path": path, "query": query, "version": "HTTP/1.1"}
    said = {k: v for k, v in (said | fields).items() if v}
    return Said(status, json.dumps(said, sort_keys=True).encode())


def text(body: bytes, status: int = 200, interim: tuple[int, ...] = (), **headers: Any) -> Said:
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Said(status, body, named, interim)


def one(name: str, sent: bytes, said: Said, **more: Any) -> Case:
    method = sent.lstrip(b"\r\n").split(b" ")[0].decode("latin1")
    return Case(name, sent, (said,), methods=(method,), **more)


def posted(target: str, coded: bytes, *headers: str) -> bytes:
    """A POST whose body is already chunked."""
    return request("POST", target, "Transfer-Encoding: chunked", *headers) + coded


BOUNDARY = (
    b'--b\r\nContent-Disposition: form-data; name="field"\r\n\r\nvalue\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="\xc3\xb3.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n\x00\r\n\xff\r\n--b--\r\n"
)
FORM = "Content-Type: application/x-www-form-urlencoded"
TAG = '"8e1ec218dc7ecaadd65388fba9b6723ce114268a"'  # made by Tornado from the body

REQUESTS = [
    one("a request without a body", get("/echo"), echoed()),
    one(
        "a body of known length", request("POST", "/echo", body=b"abc"), echoed("POST", body="abc")
    ),
    one("PUT", request("PUT", "/echo", body=b"abc"), echoed("PUT", body="abc")),
    one("PATCH", request("PATCH", "/echo", body=b"abc"), echoed("PATCH", body="abc")),
    one("DELETE", request("DELETE", "/echo"), echoed("DELETE")),
    one("OPTIONS", request("OPTIONS", "/echo"), echoed("OPTIONS")),
    one("OPTIONS of the whole server", request("OPTIONS", "*"), echoed("OPTIONS", "*")),
    one("a method of WebDAV", request("PROPFIND", "/echo"), echoed("PROPFIND")),
    one("a GET with a body", request("GET", "/echo", body=b"abc"), echoed(body="abc")),
    one("a POST without a length has no body", request("POST", "/echo"), echoed("POST")),
    one("Content-Length: 0", request("POST", "/echo", "Content-Length: 0"), echoed("POST")),
    one(
        "the same length twice in one header",
        request("POST", "/echo", "Content-Length: 3, 3") + b"abc",
        echoed("POST", body="abc"),
    ),
    one(
        "a query",
        get("/echo?a=1&b=2"),
        echoed(uri="/echo?a=1&b=2", arguments={"a": ["1"], "b": ["2"]}),
    ),
    one("a query of nothing", get("/echo?"), echoed(uri="/echo?")),
    one(
        "an empty argument is dropped",
        get("/echo?a="),
        echoed(uri="/echo?a=", arguments={"a": [""]}),
    ),
    one(
        "an argument twice",
        get("/echo?a=1&a=2"),
        echoed(uri="/echo?a=1&a=2", arguments={"a": ["1", "2"]}),
    ),
    one("escapes in the path stay", get("/echo/a%20b%2fc"), echoed(uri="/echo/a%20b%2fc")),
    one(
        "escapes in the query are undone",
        get("/echo?a=%C3%A9+x"),
        echoed(uri="/echo?a=%C3%A9+x", arguments={"a": ["é x"]}),
    ),
    one("a path of two slashes", get("//echo"), echoed(uri="//echo")),
    one("the absolute form of the target", get("http://test/echo"), echoed(uri="http://test/echo")),
    one(
        "bytes beyond ASCII in the target",
        get("/echo?a=\xc3\xa9"),
        echoed(uri="/echo?a=\xc3\xa9", arguments={"a": ["\xe9"]}),
    ),
    one("a path of no handler", get("/nowhere"), text(b"error 404", 404)),
    one("a method the handler lacks", request("DELETE", "/form"), text(b"error 405", 405)),
    one("a header", get("/echo", "X-A: b c"), echoed(headers=[["X-A", "b c"]])),
    one(
        "space around a value is dropped",
        get("/echo", "X-A: \t b \t"),
        echoed(headers=[["X-A", "b"]]),
    ),
    one("no space before a value", get("/echo", "X-A:b"), echoed(headers=[["X-A", "b"]])),
    one("an empty value", get("/echo", "X-A:"), echoed(headers=[["X-A", ""]])),
    one("names are shown in one spelling", get("/echo", "x-a: b"), echoed(headers=[["X-A", "b"]])),
    one(
        "a header twice is kept twice",
        get("/echo", "X-A: b", "X-B: c", "X-A: d"),
        echoed(headers=[["X-A", "b"], ["X-A", "d"], ["X-B", "c"]]),
    ),
    one("Latin-1 in a value", get("/echo", "X-A: \xe9"), echoed(headers=[["X-A", "\xe9"]])),
    one("an empty line before the request", b"\r\n" + get("/echo"), echoed()),
    one(
        "cookies",
        get("/cookies", "Cookie: a=1; b=2"),
        text(b"a=1 b=2", set_cookie="seen=yes; Path=/"),
    ),
    one(
        "a Host with a port",
        b"GET /peer HTTP/1.1\r\nHost: a:81\r\n\r\n",
        text(b"127.0.0.1 http a:81 a"),
    ),
    one(
        "a Host in brackets",
        b"GET /peer HTTP/1.1\r\nHost: [::1]:81\r\n\r\n",
        text(b"127.0.0.1 http [::1]:81 [::1]"),
    ),
    one(
        "forwarding headers are not believed",
        get("/peer", "X-Real-Ip: 4.4.4.4", "X-Scheme: https"),
        text(b"127.0.0.1 http test test"),
    ),
    one(
        "a form in the body",
        request("POST", "/echo", FORM, body=b"a=1&b=x+y"),
        echoed("POST", body="a=1&b=x+y", arguments={"a": ["1"], "b": ["x y"]}),
    ),
    one(
        "a multipart form with a file",
        request("POST", "/form", "Content-Type: multipart/form-data; boundary=b", body=BOUNDARY),
        text("field=['value'];file:ó.bin:application/octet-stream:b'\\x00\\r\\n\\xff'".encode()),
    ),
    one(
        "a multipart form that is none",
        request("POST", "/form", "Content-Type: multipart/form-data", body=b"x"),
        Said(400),
    ),
]

BODIES = [
    one("chunks", posted("/echo", chunked(b"ab", b"c")), echoed("POST", body="abc")),
    one("no chunks but the last", posted("/echo", chunked()), echoed("POST")),
    one(
        "chunk sizes in capitals",
        posted("/echo", b"A\r\n0123456789\r\n0\r\n\r\n"),
        echoed("POST", body="0123456789"),
    ),
    one(
        "Chunked with a capital",
        request("POST", "/echo", "Transfer-Encoding: Chunked") + chunked(b"abc"),
        echoed("POST", body="abc"),
    ),
    one(
        "line ends inside a chunk",
        posted("/echo", chunked(b"a\r\n\r\nb")),
        echoed("POST", body="a\r\n\r\nb"),
    ),
    one("a chunk extension", posted("/echo", b"3;a=b\r\nabc\r\n0\r\n\r\n"), Said(400), stays=False),
    one("a trailer", posted("/echo", b"3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"), Said(400), stays=False),
    one(
        "a body that is taken in pieces",
        request("POST", "/upload", body=bytes(200_000)),
        text(b"200000 bytes"),
    ),
    one(
        "chunks that are taken in pieces",
        posted("/upload", chunked(*[bytes(3)] * 2000)),
        text(b"6000 bytes"),
    ),
    one(
        "a handler that is slower than its body",
        request("POST", "/upload?slow=yes", body=bytes(900_000)),
        text(b"900000 bytes"),
    ),
    one("PUT of a body in pieces", request("PUT", "/upload", body=b"abc"), text(b"3 bytes")),
    one("nothing to take in pieces", request("POST", "/upload"), text(b"0 bytes")),
    one(
        "an answer before the body ends the connection",
        request("POST", "/upload?early=1", "Content-Length: 1000") + b"begun",
        text(b"not you", 403),
        stays=False,
    ),
    one(
        "a handler that allows less than the server",
        request("POST", "/upload?most=10", body=b"x" * 11),
        Said(400),
        stays=False,
    ),
    one(
        "a handler that allows as much",
        request("POST", "/upload?most=10", body=b"x" * 10),
        text(b"10 bytes"),
    ),
    one(
        "a handler that allows more than the server",
        request("POST", "/upload?most=2000000", body=bytes(1_500_000)),
        text(b"1500000 bytes"),
    ),
    one(
        "a body over the limit",
        request("POST", "/echo", "Content-Length: 1000001"),
        Said(400),
        stays=False,
    ),
    one("chunks over the limit", posted("/echo", b"f4241\r\n"), Said(400), stays=False),
    one(
        "a body at the limit",
        request("POST", "/size/1", body=bytes(1_000_000)),
        text(b"error 405", 405),
    ),
    one(
        "Expect: 100-continue, refused before the body",
        request("POST", "/upload?early=1", "Expect: 100-continue", "Content-Length: 3"),
        text(b"not you", 403),
        stays=False,
    ),
]

ANSWERS = [
    one(
        "HEAD has the length and no body",
        request("HEAD", "/tagged"),
        text(b"", content_length="6", transfer_encoding=None),
    ),
    one(
        "HEAD of pieces has no chunks",
        request("HEAD", "/pieces"),
        text(b"", transfer_encoding=None),
    ),
    one(
        "a short answer has its length",
        get("/size/3"),
        text(bytes(3), content_length="3", transfer_encoding=None, connection=None),
    ),
    one("a large answer", get("/size/3000000"), text(bytes(3_000_000), content_length="3000000")),
    one("an empty answer", get("/size/0"), text(b"", content_length="0")),
    one(
        "flushed pieces are chunks",
        get("/pieces"),
        text(b"one,two,three", transfer_encoding="chunked", content_length=None),
    ),
    one(
        "a head that is flushed alone", get("/flushed"), text(b"late", transfer_encoding="chunked")
    ),
    one(
        "an announced length is met",
        get("/known/4/4"),
        text(b"xxxx", content_length="4", transfer_encoding=None),
    ),
    one(
        "HEAD with an announced length",
        request("HEAD", "/known/4/4"),
        text(b"", content_length="4"),
    ),
    Case("less than the announced length", get("/known/4/3"), (), stays=False, is_broken=True),
    Case("more than the announced length", get("/known/4/5"), (), stays=False),
    one(
        "204 has neither body nor length",
        get("/status/204"),
        text(b"", 204, content_length=None, transfer_encoding=None),
    ),
    one(
        "304 has no body",
        get("/status/304"),
        text(b"", 304, content_length=None, transfer_encoding=None),
    ),
    one("an ETag", get("/tagged"), text(b"tagged", etag=TAG)),
    one("a known ETag", get("/tagged", f"If-None-Match: {TAG}"), text(b"", 304, etag=TAG)),
    one("a status HTTP does not name", get("/reason?say=Why%20not"), text(b"ok", 299)),
    one("a line break in the reason", get("/reason?say=a%0d%0ab"), text(b"ok", 299)),
    one("a header is set", get("/headers?name=X-A&value=b"), text(b"set", x_a="b")),
    one(
        "Latin-1 in a header of the answer",
        get("/headers?name=X-A&value=%C3%A9"),
        text(b"set", x_a="\xe9"),
    ),
    one(
        "a line break in a header",
        get("/headers?name=X-A&value=a%0d%0aX-B:%20c"),
        text(b"error 500", 500, x_a=None, x_b=None),
    ),
    one(
        "a handler's Connection: close",
        get("/closing"),
        text(b"bye", connection="close"),
        stays=False,
    ),
    one("a handler that fails", get("/failing/at-once"), text(b"error 500", 500)),
    one("a handler that raises a status", get("/failing/http"), text(b"error 418", 418)),
    one("finished in prepare", get("/prepared"), text(b"prepared")),
    one(
        "finish after finish", get("/twice/finish"), text(b"once"), events=("finish: RuntimeError",)
    ),
    one("write after finish", get("/twice/write"), text(b"once"), events=("write: RuntimeError",)),
    one("flush after finish", get("/twice/flush"), text(b"once")),
    one("a file", get("/files/wire.py", "Range: bytes=0-2"), text(b'"""', 206, content_length="3")),
    one(
        "a file's HEAD",
        request("HEAD", "/files/wire.py", "Range: bytes=0-2"),
        text(b"", 206, content_length="3"),
    ),
    one("a range outside of a file", get("/files/wire.py", "Range: bytes=9999999-"), Said(416)),
    one("a file that is not there", get("/files/nope"), Said(404)),
    one("a way out of the folder", get("/files/../../pyproject.toml"), Said(403)),
]

OLD = "HTTP/1.0"
CONNECTIONS = [
    one(
        "HTTP/1.0 ends the connection",
        get("/echo", version="1.0"),
        echoed(version=OLD),
        stays=False,
    ),
    one(
        "HTTP/1.0 with keep-alive",
        get("/echo", "Connection: keep-alive", version="1.0"),
        Said(200, echoed(version=OLD).body, (("connection", "Keep-Alive"),)),
    ),
    one("HTTP/1.0 without a Host", b"GET /size/1 HTTP/1.0\r\n\r\n", text(b"\0"), stays=False),
    one(
        "HTTP/1.0 with a body",
        request("POST", "/echo", body=b"abc", version="1.0"),
        echoed("POST", body="abc", version=OLD),
        stays=False,
    ),
    one(
        "pieces to HTTP/1.0 end with the connection",
        get("/pieces", version="1.0"),
        text(b"one,two,three", transfer_encoding=None, content_length=None),
        stays=False,
    ),
    one(
        "Connection: close",
        get("/echo", "Connection: close"),
        Said(200, echoed().body, (("connection", "close"),)),
        stays=False,
    ),
    one(
        "Connection: Close",
        get("/echo", "Connection: Close"),
        Said(200, echoed().body, (("connection", "close"),)),
        stays=False,
    ),
    one("close among other options", get("/size/1", "Connection: x, close"), text(b"\0")),
    one(
        "close and keep-alive in two headers",
        get("/size/1", "Connection: close", "Connection: keep-alive"),
        text(b"\0"),
    ),
    one(
        "an upgrade nobody offers",
        get("/size/1", "Connection: upgrade", "Upgrade: h2c"),
        text(b"\0"),
    ),
    Case(
        "requests in a row",
        get("/echo?1=1") + request("POST", "/echo", body=b"abc") + get("/size/2"),
        (
            echoed(uri="/echo?1=1", arguments={"1": ["1"]}),
            echoed("POST", body="abc"),
            text(bytes(2)),
        ),
    ),
    Case(
        "a slow one before a fast one",
        get("/pieces") + get("/size/1"),
        (text(b"one,two,three"), text(b"\0")),
    ),
    Case(
        "chunks before the next request",
        posted("/echo", chunked(b"abc")) + get("/size/1"),
        (echoed("POST", body="abc"), text(b"\0")),
    ),
    Case(
        "an empty line between two requests",
        request("POST", "/echo", body=b"abc") + b"\r\n" + get("/size/1"),
        (echoed("POST", body="abc"), text(b"\0")),
    ),
    Case(
        "what follows Connection: close is not read",
        get("/size/1", "Connection: close") + get("/size/2"),
        (text(b"\0"),),
        stays=False,
    ),
    Case(
        "what follows HTTP/1.0 is not read",
        get("/size/1", version="1.0") + get("/size/2"),
        (text(b"\0"),),
        stays=False,
    ),
    Case(
        "HEAD, then GET",
        request("HEAD", "/tagged") + get("/tagged"),
        (text(b""), text(b"tagged")),
        methods=("HEAD", "GET"),
    ),
    Case(
        "204, then 200",
        get("/status/204") + get("/size/1"),
        (text(b"", 204), text(b"\0")),
    ),
    Case(
        "an error, then an answer",
        get("/failing/at-once") + get("/size/1"),
        (text(b"error 500", 500), text(b"\0")),
    ),
    one("an answer that fails when begun looks whole", get("/failing/late"), text(b"begun")),
]

MALFORMED = [
    Case(name, sent, (Said(400),), stays=False)
    for name, sent in [
        ("no request line", b"NONSENSE\r\n\r\n"),
        ("a request line without a version", b"GET /\r\n\r\n"),
        ("a version of no HTTP/1", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
        ("a header without a colon", get("/", "no colon")),
        ("a Host with a space", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        ("no Host", b"GET / HTTP/1.1\r\n\r\n"),
        ("two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("a length that is none", request("POST", "/echo", "Content-Length: many")),
        (
            "two lengths",
            request("POST", "/echo", "Content-Length: 3", "Content-Length: 4") + b"abc",
        ),
        ("a chunk size that is none", posted("/echo", b"zz\r\n")),
        ("a chunk that does not end", posted("/echo", b"2\r\nabc\r\n0\r\n\r\n")),
        (
            "chunked twice",
            request("POST", "/echo", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked")
            + chunked(b"abc"),
        ),
        ("a coding nobody knows", request("POST", "/echo", "Transfer-Encoding: rot13")),
        ("a length and chunks", posted("/echo", chunked(b"abc"), "Content-Length: 8")),
        ("a method with a bracket", request("GET(", "/echo")),
    ]
]

CASES = [*REQUESTS, *BODIES, *ANSWERS, *CONNECTIONS, *MALFORMED]


@dataclass(frozen=True)
class Difference:
    """said, stays, is_broken: of ours."""

    reason: str
    said: tuple[Said, ...]
    stays: bool
    is_broken: bool = False


DIFFERENCES: dict[str, Difference] = {
    "the same length twice in one header": Difference(
        "a length in two words is refused, which RFC 9112 §6.3 allows", (Said(400),), stays=False
    ),
    "bytes beyond ASCII in the target": Difference(
        "a URI is ASCII (RFC 3986 §2); what is not is sent percent-encoded",
        (Said(400),),
        stays=False,
    ),
    "a chunk extension": Difference(
        "extensions must be ignored, not refused (RFC 9112 §7.1.1)",
        (echoed("POST", body="abc"),),
        stays=True,
    ),
    "a trailer": Difference(
        "trailers may be dropped; refusing them is Tornado's limit (RFC 9112 §7.1.2)",
        (echoed("POST", body="abc"),),
        stays=True,
    ),
    "a handler that allows less than the server": Difference(
        "413 says what is wrong, 400 does not (RFC 9110 §15.5.14)", (Said(413),), stays=False
    ),
    "a body over the limit": Difference("as above", (Said(413),), stays=False),
    "chunks over the limit": Difference("as above", (Said(413),), stays=False),
    "more than the announced length": Difference(
        "the head is on its way when the content is counted; the answer cannot look whole either",
        (),
        stays=False,
        is_broken=True,
    ),
    "HTTP/1.0 with keep-alive": Difference(
        "the option is spelled as the RFCs spell it",
        (Said(200, echoed(version=OLD).body, (("connection", "keep-alive"),)),),
        stays=True,
    ),
    "close and keep-alive in two headers": Difference(
        "as below", (text(b"\0", connection="close"),), stays=False
    ),
    "close among other options": Difference(
        "Connection is a list (RFC 9110 §7.6.1)",
        (text(b"\0", connection="close"),),
        stays=False,
    ),
}


async def spoken(kind: Kind, case: Case, limits: Any) -> tuple[ReplyReader, bool, bool, list[str]]:
    """The answers; whether the last one broke off; whether another request is served; events."""
    app = application()
    events: Events = app.settings["events"]
    reader = ReplyReader((*case.methods, "GET") if len(case.methods) == len(case.said) else ())
    ours = DIFFERENCES.get(case.name) if kind.is_ours else None
    expected = ours.said if ours else case.said
    async with kind.serving(app, limits) as served, connected(served.port) as client:
        await client.send(case.sent)
        try:
            await client.read_replies(reader, len(expected) or 1)
            if not reader.is_over:
                await client.send(PROBE)
                await client.read_replies(reader, len(expected) + 1)
                while await client.read():
                    pass
        except h11.RemoteProtocolError:
            return reader, True, False, events.seen
    is_alive = len(reader.replies) > len(expected) and b"probe" in reader.replies[-1].body
    if is_alive:
        reader.replies.pop()
    return reader, False, is_alive, events.seen


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_behaviour(case: Case, kind: Kind) -> None:
    said: Sequence[Said] = case.said
    stays, is_broken = case.stays, case.is_broken
    if kind.is_ours and case.name in DIFFERENCES:
        ours = DIFFERENCES[case.name]
        said, stays, is_broken = ours.said, ours.stays, ours.is_broken

    async def run() -> None:
        reader, broke, is_alive, events = await spoken(kind, case, Limits(max_body_bytes=1_000_000))
        got = []
        for at, reply in enumerate(reader.replies):
            want = said[at] if at < len(said) else Said(0)
            got.append(
                Said(
                    reply.status,
                    None if want.body is None else reply.body,
                    tuple((name, reply.header(name)) for name, _ in want.headers),
                    reply.interim,
                )
            )
        assert (tuple(got), broke, is_alive) == (tuple(said), is_broken, stays)
        assert tuple(events) == case.events or not case.events

    kind.run(run())
