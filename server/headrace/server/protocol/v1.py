"""The V1 protocol: what a `:predict` body is, and what a model's answer is on the wire (§1.2-1.4).

Payloads stay plain JSON values; predictors that know only tensors use v1_tensors.py.
"""

import re
from typing import Any

from headrace.server.errors import InvalidInput
from headrace.server.protocol.encoded import OCTET_STREAM, Encoded
from headrace.server.protocol.json_text import check_depth, dumps, loads
from headrace.server.protocol.limits import ParseLimits
from headrace.server.protocol.media_type import check_charset, is_json, media_type
from headrace.server.tensor import Buffer

AT = "Unrecognized request format"  # KServe's words
_MAYBE_JSON = frozenset({"application/x-www-form-urlencoded", "text/plain", OCTET_STREAM})
_OPENS_JSON = re.compile(rb"[ \t\r\n]*+[\[{]")


def decode(body: Buffer, content_type: str | None, limits: ParseLimits) -> Any:
    """body as a JSON value where content_type says or body shows that it is one, else as bytes.

    Raises InvalidInput for a JSON type that does not parse, UnsupportedMedia for its charset.
    """
    if is_json(content_type):
        check_charset(content_type)
        return loads(body, limits, allow_nan=False, at=AT)
    raw = bytes(body)
    if media_type(content_type) in _MAYBE_JSON and _OPENS_JSON.match(raw):
        check_depth(raw, limits, AT)
        try:
            return loads(raw, limits, allow_nan=False, at=AT)
        except InvalidInput:
            return raw
    return raw


def check_instances(payload: Any, predictor_protocol: str = "v1") -> None:
    """KServe's one check of a payload. Raises InvalidInput."""
    key = "inputs" if predictor_protocol == "v2" else "instances"
    if isinstance(payload, dict) and key in payload and not isinstance(payload[key], list):
        raise InvalidInput(f'Expected "{key}" to be a list')


def encode(result: Any) -> Encoded:
    """What a model returned, as a body; str and bytes go out as they are, without a Content-Type.

    A V2 answer (anything with `to_rest()`) becomes V2 JSON, or its binary form. Raises
    InferenceError, with advice, for what JSON cannot carry.
    """
    if isinstance(result, str):
        return Encoded([result.encode()], None)
    if isinstance(result, bytes | bytearray | memoryview):
        return Encoded([result], None)
    to_rest = getattr(result, "to_rest", None)
    if to_rest is None:
        return Encoded([dumps(result)])
    answer = to_rest()
    body, json_length = answer if isinstance(answer, tuple) else (answer, None)
    if isinstance(body, bytes | bytearray | memoryview):
        return Encoded([body], OCTET_STREAM, json_length)
    return Encoded([dumps(body)])
