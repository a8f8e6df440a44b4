"""V1 over HTTP: bodies (contract §1.3), answers (§1.4), errors (§1.5), CloudEvents (§1.6)."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from headrace.server.protocol.cloudevents import CloudEventSettings
from headrace.server.rest.v1 import event_settings
from headrace.server.settings import Settings
from tests.server.rest.client import Headers, Reply, ask, exchange, parse, request
from tests.server.rest.models import Raising, Returning, model, usual
from tests.serving import running

PATH = "/v1/models/returning:predict"
ROWS = b'{"instances": [[1, 2]]}'


def predicted(
    body: bytes, headers: Headers = (), path: str = PATH, user_model: Returning | None = None
) -> tuple[Reply, Returning]:
    async def run() -> tuple[Reply, Returning]:
        returning = user_model or Returning()
        async with running(model(returning), enable_grpc=False) as server:
            return await ask(server.ports.http, "POST", path, body, headers), returning

    return asyncio.run(run())


def returned(result: Any, **own: str) -> Reply:
    returning = Returning()
    returning.result, returning.own = result, own
    return predicted(ROWS, user_model=returning)[0]


AS_JSON = {"instances": [[1, 2]]}


@pytest.mark.parametrize(
    ("content_type", "body", "payload"),
    [
        pytest.param(None, ROWS, AS_JSON, id="none: JSON"),
        pytest.param("application/json", ROWS, AS_JSON, id="JSON"),
        pytest.param("application/json; charset=utf-8", ROWS, AS_JSON, id="JSON with a charset"),
        pytest.param("Application/JSON", ROWS, AS_JSON, id="JSON in capitals"),
        pytest.param("application/ld+json", ROWS, AS_JSON, id="+json"),
        pytest.param("application/x-www-form-urlencoded", ROWS, AS_JSON, id="plain curl -d"),
        pytest.param("text/plain", ROWS, AS_JSON, id="text that is JSON"),
        pytest.param("text/plain", b"hello", b"hello", id="text that is not"),
        pytest.param("application/octet-stream", ROWS, AS_JSON, id="octets that are JSON"),
        pytest.param("application/octet-stream", b"{\xff", b"{\xff", id="octets that are not"),
        pytest.param("image/jpeg", b"\xff\xd8", b"\xff\xd8", id="a picture"),
        pytest.param("application/avro", b"{}", b"{}", id="avro, whatever it looks like"),
    ],
)
def test_content_type(content_type: str | None, body: bytes, payload: Any) -> None:
    headers = [("Content-Type", content_type)] if content_type else []
    reply, returning = predicted(body, headers)
    assert (reply.status, returning.seen[0][0]) == (200, payload)


@pytest.mark.parametrize(
    ("content_type", "body", "status", "error"),
    [
        pytest.param(
            "application/json; charset=latin-1", ROWS, 415,
            "Content-Type: charset 'latin-1' of a JSON body; send UTF-8", id="another charset",
        ),
        pytest.param(
            "application/json", b"", 400, "Unrecognized request format: empty; expected JSON",
            id="empty",
        ),
        pytest.param(
            "application/json", b'{"instances": 1}', 400, 'Expected "instances" to be a list',
            id="instances that are no list",
        ),
    ],
)  # fmt: skip
def test_refused_body(content_type: str, body: bytes, status: int, error: str) -> None:
    reply, _ = predicted(body, [("Content-Type", content_type)])
    assert (reply.status, reply.error) == (status, error)


@pytest.mark.parametrize(
    ("result", "content_type", "body"),
    [
        pytest.param({"predictions": [1]}, "application/json", b'{"predictions":[1]}', id="dict"),
        pytest.param([1, 2], "application/json", b"[1,2]", id="list"),
        pytest.param(7, "application/json", b"7", id="number"),
        pytest.param("text", None, b"text", id="str: as it is"),
        pytest.param(b"\x00\x01", None, b"\x00\x01", id="bytes: as they are"),
        pytest.param(
            {"predictions": np.array([[1.5, np.nan]])},
            "application/json",
            b'{"predictions":[[1.5,null]]}',
            id="numpy, NaN as null",
        ),
    ],
)
def test_answer(result: Any, content_type: str | None, body: bytes) -> None:
    reply = returned(result)
    assert (reply.status, reply.header("content-type"), reply.body) == (200, content_type, body)


def test_model_headers_but_not_its_length() -> None:
    own = {"x-mine": "1", "content-length": "999", "Content-Type": "text/csv"}
    reply = returned("1,2", **own)
    assert (reply.header("x-mine"), reply.header("content-type")) == ("1", "text/csv")
    assert (reply.header("content-length"), reply.body) == ("3", b"1,2")


async def pieces() -> AsyncIterator[str]:
    yield "a"


@pytest.mark.parametrize(
    "result", [pytest.param({"a": 1}, id="whole"), pytest.param(pieces, id="streamed")]
)
def test_a_model_header_that_http_cannot_carry(result: Any) -> None:
    reply = returned(result() if callable(result) else result, bad="a\r\nSet-Cookie: b")
    assert reply.status == 500
    assert reply.error.startswith("the model's response_headers: header 'bad' holds a line break")


def test_framing_and_the_date_stay_ours() -> None:
    own = {"Date": "yesterday", "Content-Length": "1", "Connection": "upgrade"}
    reply = returned({"a": 1}, **own)
    assert (reply.json(), reply.header("content-length")) == ({"a": 1}, "7")
    assert reply.header("date") != "yesterday"
    assert reply.header("connection") == "close"


@pytest.mark.parametrize("verb", ["predict", "explain"])
def test_request_headers_are_not_echoed(verb: str) -> None:
    reply, _ = predicted(
        ROWS,
        [("Authorization", "Bearer t"), ("Cookie", "c=1"), ("X-Request-Id", "r-1")],
        f"/v1/models/returning:{verb}",
    )
    names = {name.lower() for name, _ in reply.headers}
    assert names == {"content-type", "content-length", "date", "connection", "x-request-id"}
    assert reply.header("x-request-id") == "r-1"


def test_headers_reach_the_model_in_lower_case_and_the_last_one_wins() -> None:
    _, returning = predicted(ROWS, [("X-Tenant", "a"), ("x-tenant", "b")])
    assert returning.seen[0][1]["x-tenant"] == "b"


async def _words(*items: Any) -> AsyncIterator[Any]:
    for item in items:
        if isinstance(item, Exception):
            raise item
        yield item


def test_a_stream_is_chunked() -> None:
    async def run() -> bytes:
        returning = Returning()
        returning.result, returning.own = _words("a", b"b"), {"x-mine": "1"}
        async with running(model(returning), enable_grpc=False) as server:
            return await exchange(server.ports.http, request("POST", PATH, ROWS))

    received = asyncio.run(run())
    assert received.endswith(b"\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n")
    reply = parse(received)
    assert (reply.header("content-type"), reply.header("x-mine")) == (None, "1")


def test_a_stream_that_fails_at_once_is_an_ordinary_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "headrace.server.rest.errors")
    reply = returned(_words(ValueError("no words")))
    assert (reply.status, reply.error) == (500, "ValueError : no words")


def test_a_stream_that_fails_midway_does_not_look_whole() -> None:
    async def run() -> bytes:
        returning = Returning()
        returning.result = _words("a", ValueError("lost"))
        async with running(model(returning), enable_grpc=False) as server:
            return await exchange(server.ports.http, request("POST", PATH, ROWS))

    try:
        received = asyncio.run(run())
    except ConnectionResetError:
        return
    assert not received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("raised", "status", "body"),
    [
        pytest.param("InvalidInput", 400, {"error": "row 3 is blue"}, id="InvalidInput"),
        pytest.param("InferenceError", 500, {"error": "the GPU is gone"}, id="InferenceError"),
        pytest.param(
            "InferenceError with a status", 500, {"error": "[E17] the GPU is gone"},
            id="InferenceError with a status",
        ),
        pytest.param(
            "ModelNotReady", 503,
            {"error": "Model with name other is not ready. It is warming up."},
            id="ModelNotReady",
        ),
        pytest.param("NotImplementedError", 501, {"error": "no such mode"}, id="not implemented"),
        pytest.param("ValueError", 500, {"error": "ValueError : no rows"}, id="any other"),
        pytest.param(
            "HTTPException", 418, {"error": "I am a teapot", "detail": "I am a teapot"},
            id="fastapi's",
        ),
        pytest.param(
            "HTTPException with an object", 422,
            {"error": "{'why': 'blue'}", "detail": {"why": "blue"}}, id="fastapi's with an object",
        ),
        pytest.param(
            "tornado.web.HTTPError", 409, {"error": "taken", "detail": "taken"}, id="tornado's"
        ),
    ],
)  # fmt: skip
def test_error(
    raised: str, status: int, body: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> Reply:
        async with running(model(Raising()), enable_grpc=False) as server:
            return await ask(
                server.ports.http, "POST", "/v1/models/raising:predict", {"instances": [raised]}
            )

    reply = asyncio.run(run())
    assert (reply.status, reply.json()) == (status, body)
    assert reply.header("content-type") == "application/json"
    assert (reply.header("retry-after") is not None) == (status == 503)
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(logged) == (1 if raised == "ValueError" else 0)
    assert all(record.exc_info for record in logged)


EVENT = b'{"specversion":"1.0","id":"1","source":"urn:x","type":"t.q","data":{"instances":[[1,2]]}}'


def test_structured_cloud_event() -> None:
    """In with a charset and without the optional `time`; out as an event of the model's."""
    reply, returning = predicted(
        EVENT, [("Content-Type", "application/cloudevents+json; charset=utf-8")]
    )
    answer = reply.json()
    assert returning.seen[0][0] == AS_JSON
    assert reply.header("content-type") == "application/cloudevents+json"
    assert set(answer) == {"specversion", "id", "source", "type", "time", "data"}
    assert (answer["source"], answer["type"], answer["data"]) == (
        "io.kserve.inference.returning",
        "io.kserve.inference.response",
        AS_JSON,
    )


def test_structured_event_sent_as_json_is_answered_as_json() -> None:
    reply, _ = predicted(EVENT, [("Content-Type", "application/json")])
    assert (reply.header("content-type"), reply.json()) == ("application/json", AS_JSON)


def test_binary_cloud_event() -> None:
    sent = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "urn:x"), ("ce-type", "t")]
    reply, _ = predicted(ROWS, [*sent, ("ce-mine", "kept?"), ("Content-Type", "application/json")])
    assert reply.json() == AS_JSON
    sent_back = {name.lower(): value for name, value in reply.headers}
    found = {name: value for name, value in sent_back.items() if name.startswith("ce-")}
    assert set(found) == {"ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time"}
    assert found["ce-source"] == "io.kserve.inference.returning"


def test_too_few_event_headers_make_an_ordinary_request() -> None:
    reply, _ = predicted(ROWS, [("ce-specversion", "1.0"), ("ce-id", "1")])
    assert not any(name.lower().startswith("ce-") for name, _ in reply.headers)


def test_a_name_that_must_be_encoded() -> None:
    async def run() -> Reply:
        async with running(*usual(), enable_grpc=False) as server:
            return await ask(server.ports.http, "POST", "/v1/models/m%20x:predict", ROWS)

    assert asyncio.run(run()).json() == {"predictions": [[1, 2]]}


def test_settings_say_what_answered_events_carry() -> None:
    """KServe's CE_SOURCE, CE_TYPE and CE_MERGE reach the answer's attributes."""
    given, _ = Settings.from_sources(
        [], {"CE_SOURCE": "here", "CE_TYPE": "answer", "CE_MERGE": "true"}
    )
    assert event_settings(given) == CloudEventSettings("here", "answer", True)
    assert event_settings(Settings()) == CloudEventSettings(None, None, False)
