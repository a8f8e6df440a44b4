"""CloudEvents in and out, structured and binary: the contract, §1.6."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import pytest

from headrace.server.errors import InvalidInput, UnsupportedMedia
from headrace.server.protocol import cloudevents
from headrace.server.protocol.cloudevents import CloudEvent, CloudEventSettings, Decoded
from headrace.server.protocol.encoded import Encoded
from headrace.server.protocol.limits import ParseLimits

LIMITS = ParseLimits()
KSERVE = CloudEventSettings()
STRUCTURED = "application/cloudevents+json"
TIME = "2026-11-24T12:00:00.000000+00:00"
ATTRIBUTES = {"specversion": "1.0", "id": "36", "source": "urn:x", "type": "t.q"}
DATA = {"instances": [[1, 2]]}
HEADERS = {f"ce-{name}": value for name, value in ATTRIBUTES.items()}


def decode(
    event: Any, content_type: str | None = STRUCTURED, headers: Mapping[str, str] | None = None
) -> Decoded:
    body = event if isinstance(event, bytes) else orjson.dumps(event)
    return cloudevents.decode(body, content_type, headers or {}, LIMITS)


def answer(event: CloudEvent, result: Any = None, settings: CloudEventSettings = KSERVE) -> Encoded:
    given = {"predictions": [1]} if result is None else result
    return cloudevents.encode(event, given, "m", settings, "fresh-id", TIME)


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        pytest.param({**ATTRIBUTES, "time": TIME, "data": DATA}, DATA, id="data, with a time"),
        pytest.param({**ATTRIBUTES, "data": DATA}, DATA, id="time is optional"),
        pytest.param({**ATTRIBUTES}, None, id="no payload"),
        pytest.param({**ATTRIBUTES, "data": "text"}, "text", id="data that is a text"),
        pytest.param(
            {**ATTRIBUTES, "data_base64": "eyJhIjoxfQ=="}, {"a": 1}, id="base64, JSON by default"
        ),
        pytest.param(
            {**ATTRIBUTES, "data_base64": "/w==", "datacontenttype": "application/avro"},
            b"\xff",
            id="base64 of another type",
        ),
    ],
)
def test_structured_events_are_unwrapped(event: Any, payload: Any) -> None:
    decoded = decode(event, STRUCTURED + "; charset=utf-8")
    assert decoded.payload == payload
    assert decoded.event is not None
    assert decoded.event.is_structured
    assert "data" not in decoded.event.attributes


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        pytest.param([], "CloudEvent: expected an object, got an array", id="no object"),
        pytest.param(
            {**ATTRIBUTES, "id": 5},
            "CloudEvent: the attribute 'id' must be a string, got a number",
            id="an attribute is no string",
        ),
        pytest.param(
            {"specversion": "1.0", "id": "1", "data": {}},
            "CloudEvent: the attribute 'source' must be a string, got none",
            id="an attribute is missing",
        ),
        pytest.param(
            {**ATTRIBUTES, "data": 1, "data_base64": "YQ=="},
            "CloudEvent: 'data' and 'data_base64' exclude each other",
            id="two payloads",
        ),
        pytest.param(
            {**ATTRIBUTES, "data_base64": "YQ"},
            "CloudEvent: 'data_base64' is not base64: Incorrect padding",
            id="broken base64",
        ),
        pytest.param(b"", "CloudEvent: empty; expected JSON", id="empty"),
    ],
)
def test_broken_structured_events(event: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(event)
    assert str(caught.value) == sentence


def test_a_structured_event_is_utf8() -> None:
    with pytest.raises(UnsupportedMedia):
        decode({**ATTRIBUTES, "data": DATA}, STRUCTURED + "; charset=latin-1")


def test_a_structured_body_sent_as_plain_json_is_answered_as_plain_json() -> None:
    assert decode({**ATTRIBUTES, "data": DATA}, "application/json") == Decoded(DATA, None)


def test_a_payload_that_only_resembles_an_event_is_left_alone() -> None:
    for payload in ({"specversion": "1.0", "instances": []}, {**ATTRIBUTES, "instances": []}):
        assert decode(payload, "application/json") == Decoded(payload, None)


def test_structured_answer() -> None:
    event = decode({**ATTRIBUTES, "comexampleext": "x", "data": DATA}).event
    assert event is not None
    encoded = answer(event, {"predictions": np.array([1.5])})
    assert encoded.content_type == STRUCTURED
    assert orjson.loads(encoded.body) == {
        "specversion": "1.0",
        "id": "fresh-id",
        "source": "io.kserve.inference.m",
        "type": "io.kserve.inference.response",
        "time": TIME,
        "data": {"predictions": [1.5]},
    }


class V2Answer:
    def to_rest(self) -> Any:
        return {"model_name": "m"}


class BinaryV2Answer:
    def to_rest(self) -> Any:
        return b"{}\xff", 2


@pytest.mark.parametrize(
    ("result", "member"),
    [
        pytest.param(b"\xff", ("data_base64", "/w=="), id="bytes"),
        pytest.param("text", ("data", "text"), id="text"),
        pytest.param(V2Answer(), ("data", {"model_name": "m"}), id="a V2 answer"),
        pytest.param(BinaryV2Answer(), ("data_base64", "e33/"), id="a binary V2 answer"),
    ],
)
def test_structured_answers_carry_anything(result: Any, member: tuple[str, Any]) -> None:
    body = orjson.loads(answer(CloudEvent(ATTRIBUTES, True), result).body)
    assert body[member[0]] == member[1]


@pytest.mark.parametrize(
    ("content_type", "body", "payload"),
    [
        pytest.param("application/json", orjson.dumps(DATA), DATA, id="JSON"),
        pytest.param("application/avro", b"Obj\x01", b"Obj\x01", id="Avro reaches the model"),
    ],
)
def test_binary_events(content_type: str, body: bytes, payload: Any) -> None:
    decoded = decode(body, content_type, {**HEADERS, "ce-ext": "a%20b", "host": "h"})
    assert decoded.payload == payload
    assert decoded.event == CloudEvent({**ATTRIBUTES, "ext": "a b"}, False)


def test_a_binary_event_of_broken_json_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(b"{", "application/json", HEADERS)
    assert str(caught.value).startswith("Unrecognized request format: not valid JSON: ")


@pytest.mark.parametrize("missing", sorted(HEADERS))
def test_fewer_headers_than_required_make_an_ordinary_request(missing: str) -> None:
    headers = {name: value for name, value in HEADERS.items() if name != missing}
    assert decode(orjson.dumps(DATA), None, headers) == Decoded(DATA, None)


def test_binary_answer() -> None:
    event = cloudevents.from_headers({**HEADERS, "ce-ext": "x"})
    assert event is not None
    encoded = answer(event)
    assert (encoded.body, encoded.content_type) == (b'{"predictions":[1]}', "application/json")
    assert encoded.headers == {
        "ce-specversion": "1.0",
        "ce-id": "fresh-id",
        "ce-source": "io.kserve.inference.m",
        "ce-type": "io.kserve.inference.response",
        "ce-time": TIME,
    }


@pytest.mark.parametrize("is_structured", [True, False])
def test_merged_answers_keep_the_requests_extensions(is_structured: bool) -> None:
    attributes = {**ATTRIBUTES, "ext": "x", "subject": "s", "datacontenttype": "application/json"}
    settings = CloudEventSettings(source="mine", type="my.type", is_merged=True)
    merged = cloudevents.answer_attributes(
        CloudEvent(attributes, is_structured), "m", settings, "fresh-id", TIME
    )
    kept = {"datacontenttype": "application/json"} if is_structured else {}
    assert merged == {
        "specversion": "1.0",
        "id": "fresh-id",
        "source": "mine",
        "type": "my.type",
        "time": TIME,
        "ext": "x",
        "subject": "s",
        **kept,
    }


def test_header_values_cannot_break_out_of_their_line() -> None:
    headers = cloudevents.to_headers({"source": 'ü "x"\r\nset-cookie: a', "type": "100%"})
    assert headers == {
        "ce-source": "%C3%BC%20%22x%22%0D%0Aset-cookie:%20a",
        "ce-type": "100%25",
    }
    assert cloudevents.from_headers({**HEADERS, **headers}) == CloudEvent(
        {**ATTRIBUTES, "source": 'ü "x"\r\nset-cookie: a', "type": "100%"}, False
    )
