"""V1 bodies and answers: the tables of the contract, §1.2 to §1.4."""

from typing import Any

import numpy as np
import orjson
import pytest

from headrace.server.errors import (
    Code,
    InferenceError,
    InvalidInput,
    ServingError,
    UnsupportedMedia,
)
from headrace.server.protocol import v1
from headrace.server.protocol.limits import ParseLimits

LIMITS = ParseLimits()
BODY = b'{"instances": [[1, 2]]}'
VALUE = {"instances": [[1, 2]]}
AVRO = b"Obj\x01\x04\x14avro.codec"


@pytest.mark.parametrize(
    ("content_type", "body", "payload"),
    [
        pytest.param(None, BODY, VALUE, id="no header"),
        pytest.param("", BODY, VALUE, id="an empty header"),
        pytest.param("application/json", BODY, VALUE, id="JSON"),
        pytest.param("application/json; charset=utf-8", BODY, VALUE, id="JSON with a charset"),
        pytest.param('application/json;charset="UTF-8"', BODY, VALUE, id="JSON, quoted charset"),
        pytest.param("Application/JSON", BODY, VALUE, id="JSON in capitals"),
        pytest.param("application/ld+json", BODY, VALUE, id="another JSON"),
        pytest.param("application/x-www-form-urlencoded", BODY, VALUE, id="curl -d"),
        pytest.param("text/plain", b" \n" + BODY, VALUE, id="plain text that is JSON"),
        pytest.param("application/octet-stream", b"[1]", [1], id="octets that are JSON"),
        pytest.param("text/plain", b"hello", b"hello", id="plain text"),
        pytest.param("text/plain; charset=latin-1", b"\xe9", b"\xe9", id="text of any charset"),
        pytest.param("text/plain", b'{"a":', b'{"a":', id="text that only begins like JSON"),
        pytest.param("text/plain", b"1", b"1", id="a number is no JSON body"),
        pytest.param("application/octet-stream", b"", b"", id="no octets"),
        pytest.param("image/jpeg", b'{"a":1}', b'{"a":1}', id="any other type is bytes"),
        pytest.param("application/avro", AVRO, AVRO, id="Avro"),
        pytest.param(
            "application/json", b'{"a":{"b":[]},"c":1}', {"a": {"b": []}, "c": 1}, id="any"
        ),
    ],
)
def test_content_types(content_type: str | None, body: bytes, payload: Any) -> None:
    assert v1.decode(body, content_type, LIMITS) == payload


@pytest.mark.parametrize(
    ("content_type", "body", "error", "sentence"),
    [
        pytest.param(
            "application/json",
            b"",
            InvalidInput,
            "Unrecognized request format: empty; expected JSON",
            id="empty body",
        ),
        pytest.param(
            None,
            b"{a}",
            InvalidInput,
            "Unrecognized request format: not valid JSON: "
            "unexpected character, expected a string key: line 1 column 2 (char 1)",
            id="broken JSON",
        ),
        pytest.param(
            "application/json",
            b"[NaN]",
            InvalidInput,
            "Unrecognized request format: not valid JSON: unexpected character, expected a JSON "
            "value: line 1 column 2 (char 1); NaN and Infinity are not JSON, send null",
            id="NaN",
        ),
        pytest.param(
            "text/plain",
            b"[" * 65 + b"]" * 65,
            InvalidInput,
            "Unrecognized request format: JSON nests 65 levels deep, "
            "the limit is 64 (--max_json_depth 64)",
            id="too deep, whatever the type",
        ),
        pytest.param(
            "application/json; charset=latin-1",
            BODY,
            UnsupportedMedia,
            "Content-Type: charset 'latin-1' of a JSON body; send UTF-8",
            id="a charset that is not UTF-8",
        ),
    ],
)
def test_bodies_that_are_refused(
    content_type: str | None, body: bytes, error: type[ServingError], sentence: str
) -> None:
    with pytest.raises(error) as caught:
        v1.decode(body, content_type, LIMITS)
    assert str(caught.value) == sentence
    is_charset = error is UnsupportedMedia
    assert caught.value.code is (Code.UNSUPPORTED_MEDIA if is_charset else Code.INVALID_ARGUMENT)


@pytest.mark.parametrize(
    ("payload", "protocol", "sentence"),
    [
        pytest.param({"instances": 1}, "v1", 'Expected "instances" to be a list', id="v1"),
        pytest.param({"inputs": {}}, "v2", 'Expected "inputs" to be a list', id="v2"),
    ],
)
def test_check_instances_refuses(payload: Any, protocol: str, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        v1.check_instances(payload, protocol)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "payload", [{"instances": []}, {"inputs": 1}, {"foo": 1}, [1], b"bytes", None]
)
def test_check_instances_leaves_everything_else_to_the_model(payload: Any) -> None:
    v1.check_instances(payload, "v1")


class V2Answer:
    """Stands for InferResponse, which the codec knows by its one method."""

    def __init__(self, rest: Any) -> None:
        self.rest = rest

    def to_rest(self) -> Any:
        return self.rest


@pytest.mark.parametrize(
    ("result", "body", "content_type", "json_length"),
    [
        pytest.param(
            {"predictions": [1]}, b'{"predictions":[1]}', "application/json", None, id="dict"
        ),
        pytest.param([1, None], b"[1,null]", "application/json", None, id="list"),
        pytest.param(1.5, b"1.5", "application/json", None, id="number"),
        pytest.param(
            {"predictions": np.array([1.5, np.nan], "f4"), 1: np.int64(2)},
            b'{"predictions":[1.5,null],"1":2}',
            "application/json",
            None,
            id="numpy",
        ),
        pytest.param("ü", "ü".encode(), None, None, id="str"),
        pytest.param(b"\x00", b"\x00", None, None, id="bytes"),
        pytest.param(V2Answer({"id": "1"}), b'{"id":"1"}', "application/json", None, id="V2"),
        pytest.param(
            V2Answer(({"id": "1"}, None)), b'{"id":"1"}', "application/json", None, id="V2, pair"
        ),
        pytest.param(
            V2Answer((b"{}\x01", 2)), b"{}\x01", "application/octet-stream", 2, id="V2 binary"
        ),
    ],
)
def test_answers(
    result: Any, body: bytes, content_type: str | None, json_length: int | None
) -> None:
    encoded = v1.encode(result)
    assert encoded.body == body
    assert (encoded.content_type, encoded.json_length) == (content_type, json_length)


def test_an_answer_json_cannot_carry_is_the_models_mistake() -> None:
    with pytest.raises(InferenceError):
        v1.encode({"predictions": b"x"})


def test_what_we_answer_we_read() -> None:
    assert v1.decode(v1.encode(VALUE).body, None, LIMITS) == orjson.loads(BODY)
