"""Limits and broken messages (contract §8, D1): each is answered, in JSON, and names its flag."""

import asyncio
import gzip
from typing import Any

import pytest

from headrace.server.grpc import listener as grpc
from headrace.server.rest import listener as rest
from tests.server.rest.client import Reply, ask, exchange, parse, request
from tests.server.rest.models import usual
from tests.serving import running, settings

LIMITS: dict[str, Any] = {
    "enable_grpc": False,
    "max_body_bytes": 1000,
    "max_header_bytes": 2000,
    "max_headers": 10,
    "max_json_depth": 5,
    "header_timeout_s": 0.2,
    "body_idle_timeout_s": 0.2,
    "timeout_keep_alive": 1,
}
CHUNKED = [("Transfer-Encoding", "chunked")]
PREDICT = "/v1/models/m%20x:predict"


def sent(data: bytes, **given: Any) -> Reply:
    async def run() -> Reply:
        async with running(*usual(), **{**LIMITS, **given}) as server:
            return parse(await exchange(server.ports.http, data))

    return asyncio.run(run())


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "status", "error"),
    [
        pytest.param(
            b"POST /v1/models/m:predict HTTP/1.1\r\nHost: t\r\nContent-Length: 1001\r\n\r\n",
            413,
            "the body has 1001 bytes, the limit is 1000 bytes (--max_body_bytes 1000)",
            id="Content-Length over the limit: refused before the body",
        ),
        pytest.param(
            request("POST", PREDICT, chunks(b"x" * 600, b"x" * 600), CHUNKED),
            413,
            "the body has more than 1000 bytes, the limit is 1000 bytes (--max_body_bytes 1000)",
            id="chunks over the limit: refused while reading",
        ),
        pytest.param(
            request("POST", PREDICT, gzip.compress(b" " * 5000), [("Content-Encoding", "gzip")]),
            413,
            "the decompressed body has more than the limit of 1000 bytes (--max_body_bytes 1000)",
            id="over the limit once decompressed",
        ),
        pytest.param(
            request("GET", "/", headers=[("X-Long", "y" * 3000)]),
            431,
            "the request headers have more than the limit of 2000 bytes (--max_header_bytes 2000)",
            id="headers too long",
        ),
        pytest.param(
            b"GET /" + b"a" * 100_000,
            431,
            "the request headers have more than the limit of 2000 bytes (--max_header_bytes 2000)",
            id="a request line that never ends",
        ),
        pytest.param(
            request("GET", "/", headers=[(f"X-{i}", "y") for i in range(20)]),
            431,
            "the request has 22 headers, the limit is 10 (--max_headers 10)",
            id="too many headers",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: t\r\n",
            408,
            "the request headers did not arrive within 0.2 s (--header_timeout_s 0.2)",
            id="headers that do not end",
        ),
        pytest.param(
            b"",
            408,
            "the request headers did not arrive within 0.2 s (--header_timeout_s 0.2)",
            id="a client that says nothing",
        ),
        pytest.param(
            b"PRI * HT",
            408,
            "the request headers did not arrive within 0.2 s (--header_timeout_s 0.2)",
            id="half an HTTP/2 preface",
        ),
        pytest.param(
            b"POST /v2/models/m/infer HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\n{",
            408,
            "nothing of the request body arrived for 0.2 s (--body_idle_timeout_s 0.2)",
            id="a body that does not come",
        ),
        pytest.param(
            b"POST /v2/models/m/infer HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5",
            408,
            "nothing of the request body arrived for 0.2 s (--body_idle_timeout_s 0.2)",
            id="a chunk that does not come",
        ),
        pytest.param(
            request("POST", PREDICT, b"[" * 6 + b"]" * 6),
            400,
            "Unrecognized request format: JSON nests 6 levels deep, the limit is 5 "
            "(--max_json_depth 5)",
            id="JSON too deep",
        ),
        pytest.param(
            request("POST", PREDICT, b"x", [("Content-Encoding", "br")]),
            415,
            "Content-Encoding 'br' is not supported; send gzip, deflate",
            id="a coding nobody reads",
        ),
        pytest.param(
            request("POST", PREDICT, b"x", [("Content-Encoding", "gzip")]),
            400,
            "Content-Encoding gzip: the body ends too early",
            id="broken gzip",
        ),
        pytest.param(
            b"NONSENSE\r\n\r\n",
            400,
            "malformed HTTP request: Malformed HTTP request line: no method of HTTP",
            id="no request line",
        ),
        pytest.param(
            b"POST /v2/models/m%20x/infer HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n"
            b"Inference-Header-Content-Length: \xb2\r\n\r\n{}",
            400,
            "Inference-Header-Content-Length: expected a number of bytes, got '²'",
            id="a digit that is no number",
        ),
        pytest.param(
            b"BREW / HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "malformed HTTP request: Malformed HTTP request line: no method of HTTP",
            id="a method nobody knows",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: t\r\nno colon\r\n\r\n",
            400,
            "malformed HTTP request: a header line without a name and a colon",
            id="a header without a colon",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\n\r\n",
            400,
            "malformed HTTP request: 0 Host headers, expected one",
            id="no Host",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            400,
            "malformed HTTP request: 2 Host headers, expected one",
            id="two Hosts",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            400,
            "malformed HTTP request: bad Host header 'a/b'",
            id="a Host that is none",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: many\r\n\r\n",
            400,
            "malformed HTTP request: Content-Length is not a number of bytes",
            id="a length that is none",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n",
            400,
            "malformed HTTP request: Content-Length and Transfer-Encoding exclude each other",
            id="two ways to say where the body ends",
        ),
        pytest.param(
            b"POST /v2/models/no/infer HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\n"
            b"Content-Length: 900\r\n\r\n",
            404,
            "Model with name no does not exist.",
            id="a body that waits, for a model that is not there",
        ),
        pytest.param(
            b"POST /nowhere HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n",
            404,
            "Not Found",
            id="a body without end, for nobody",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: rot13\r\n\r\n",
            400,
            "malformed HTTP request: Transfer-Encoding is not supported; send chunked",
            id="an unknown transfer coding",
        ),
        pytest.param(
            b"POST /v2/models/m/infer HTTP/1.1\r\nHost: t\r\n"
            b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
            400,
            "malformed HTTP request: the chunks of the body are broken",
            id="a broken chunk",
        ),
    ],
)
def test_refused(data: bytes, status: int, error: str) -> None:
    reply = sent(data)
    assert (reply.status, reply.error) == (status, error)


def test_unsupported_coding_names_what_is() -> None:
    reply = sent(request("POST", PREDICT, b"x", [("Content-Encoding", "zstd")]))
    assert reply.header("accept-encoding") == "gzip, deflate"


def test_a_refused_upload_is_answered_while_the_client_still_sends() -> None:
    """Closing with bytes unread would reset the connection and lose the answer."""
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: t\r\nContent-Length: 4000000\r\n\r\n"
    assert sent(head + b"x" * 4_000_000).status == 413


def test_an_idle_connection_is_closed_in_silence() -> None:
    received = asyncio.run(_after_keep_alive())
    assert received.count(b"HTTP/1.1") == 1


async def _after_keep_alive() -> bytes:
    async with running(*usual(), **LIMITS) as server:
        return await exchange(server.ports.http, request("GET", "/", close=False))


def test_expect_continue_is_honoured() -> None:
    async def run() -> tuple[bytes, bytes]:
        async with running(*usual(), enable_grpc=False) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.ports.http)
            writer.write(
                b"POST /v1/models/m%20x:predict HTTP/1.1\r\nHost: t\r\nContent-Length: 19\r\n"
                b"Expect: 100-Continue\r\nConnection: close\r\n\r\n"
            )
            interim = await reader.readuntil(b"\r\n\r\n")
            writer.write(b'{"instances":[[1]]}')
            final = await reader.read()
            writer.close()
            return interim, final

    interim, final = asyncio.run(run())
    assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert parse(final).json() == {"predictions": [[1]]}


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [
        pytest.param("/nope", 10, 404, id="no such path"),
        pytest.param(PREDICT, 2000, 413, id="too large"),
    ],
)
def test_expect_continue_is_refused_without_the_body(path: str, length: int, status: int) -> None:
    reply = sent(
        f"POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n"
        "Expect: 100-continue\r\n\r\n".encode()
    )
    assert reply.status == status


def test_chunked_uploads() -> None:
    body = chunks(b'{"instances"', b":[[1,", b"2]]}")
    assert sent(request("POST", PREDICT, body, CHUNKED)).json() == {"predictions": [[1, 2]]}


@pytest.mark.parametrize("size_bytes", [5, 70_000, 40_000_000])
def test_bodies_of_any_size_come_back(size_bytes: int) -> None:
    """A BYTES input in binary, there and back."""
    blob = size_bytes.to_bytes(4, "little") + bytes(size_bytes)
    head = (
        b'{"inputs":[{"name":"a","shape":[1],"datatype":"BYTES","parameters":'
        b'{"binary_data_size":%d}}],"parameters":{"binary_data_output":true}}' % len(blob)
    )
    headers = [("Inference-Header-Content-Length", str(len(head)))]

    async def run() -> Reply:
        async with running(*usual(), enable_grpc=False) as server:
            return await ask(
                server.ports.http, "POST", "/v2/models/m%20x/infer", head + blob, headers
            )

    reply = asyncio.run(run())
    length = int(reply.header("inference-header-content-length") or 0)
    assert reply.header("content-type") == "application/octet-stream"
    assert reply.body[length:] == blob


def test_requests_in_a_row_on_one_connection() -> None:
    """Pipelined: each is answered in turn."""

    async def run() -> bytes:
        async with running(*usual(), enable_grpc=False) as server:
            first = request("POST", PREDICT, b'{"instances":[1]}', close=False)
            second = request("GET", "/v2/health/live", close=False)
            return await exchange(server.ports.http, first + second + request("GET", "/nope"))

    received = asyncio.run(run())
    assert [line.split(b" ")[1] for line in received.split(b"\r\n") if b"HTTP/1.1 " in line] == [
        b"200",
        b"200",
        b"404",
    ]


def test_http_1_0() -> None:
    reply = sent(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
    assert reply.json() == {"live": True}


def test_both_transports_are_told_how_long_a_client_may_read_nothing() -> None:
    given = settings(write_idle_timeout_s=7.0)
    assert rest.limits(given).write_idle_timeout_s == 7.0
    assert grpc.limits(given).write_idle_timeout_s == 7.0
