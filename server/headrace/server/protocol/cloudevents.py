"""CloudEvents around V1 payloads, and their headers beside V2 ones (contract §1.6).

structured: the event is the JSON body, the payload its `data` or `data_base64`
binary: the event's attributes are `ce-*` headers, the payload is the body
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import orjson

from headrace.server.errors import InvalidInput
from headrace.server.protocol import v1
from headrace.server.protocol.encoded import JSON, Encoded
from headrace.server.protocol.json_text import dumps, loads
from headrace.server.protocol.limits import ParseLimits
from headrace.server.protocol.media_type import check_charset, is_json, media_type
from headrace.server.protocol.parameters import json_type
from headrace.server.tensor import Buffer

STRUCTURED = "application/cloudevents+json"
REQUIRED = ("specversion", "id", "source", "type")
_PAYLOAD = ("data", "data_base64")
_PREFIX = "ce-"
_SAFE = "".join(map(chr, range(0x21, 0x7F))).replace('"', "").replace("%", "")  # CE HTTP §3.1.3.2


@dataclass(frozen=True, slots=True)
class CloudEventSettings:
    """What the environment says of answers: CE_SOURCE, CE_TYPE, CE_MERGE. None: KServe's default.

    is_merged: an answer starts from its request's attributes, extensions included.
    """

    source: str | None = None
    type: str | None = None
    is_merged: bool = False


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """An event's attributes, `specversion` to extensions, without its payload."""

    attributes: Mapping[str, Any]
    is_structured: bool


@dataclass(frozen=True, slots=True)
class Decoded:
    """payload: what the model gets. event: how to answer; None: as if there had been no event."""

    payload: Any
    event: CloudEvent | None = None


def decode(
    body: Buffer, content_type: str | None, headers: Mapping[str, str], limits: ParseLimits
) -> Decoded:
    """A V1 body, unwrapped if it is an event. headers: with lower-case keys.

    Raises InvalidInput for a broken event, else as `v1.decode`.
    """
    if media_type(content_type) == STRUCTURED:
        check_charset(content_type)
        event = loads(body, limits, allow_nan=False, at="CloudEvent")
        if not isinstance(event, dict):
            raise InvalidInput(f"CloudEvent: expected an object, got {json_type(event)}")
        for key in REQUIRED:
            if not isinstance(event.get(key), str):
                raise InvalidInput(
                    f"CloudEvent: the attribute '{key}' must be a string, "
                    f"got {json_type(event[key]) if key in event else 'none'}"
                )
        return Decoded(_payload(event, limits), CloudEvent(_attributes(event), True))
    binary = from_headers(headers)
    payload = v1.decode(body, content_type, limits)
    if binary is not None:
        return Decoded(payload, binary)
    # Unwrapped, but answered as the plain JSON that it was sent as.
    if isinstance(payload, dict) and "specversion" in payload and _is_event(payload):
        return Decoded(_payload(payload, limits))
    return Decoded(payload)


def from_headers(headers: Mapping[str, str]) -> CloudEvent | None:
    """The event of binary mode; None unless all of its required attributes are there."""
    if "ce-specversion" not in headers or any(_PREFIX + key not in headers for key in REQUIRED):
        return None
    return CloudEvent(
        {
            name.removeprefix(_PREFIX): unquote(value)
            for name, value in headers.items()
            if name.startswith(_PREFIX)
        },
        False,
    )


def answer_attributes(
    event: CloudEvent, model_name: str, settings: CloudEventSettings, event_id: str, time: str
) -> dict[str, Any]:
    """Attributes of the answer to event. time: ISO 8601 with an offset."""
    start = dict(event.attributes) if settings.is_merged else {}
    if not event.is_structured:
        start.pop("datacontenttype", None)
    source = settings.source or f"io.kserve.inference.{model_name}"
    kind = settings.type or "io.kserve.inference.response"
    own = {"specversion": "1.0", "id": event_id, "source": source, "type": kind, "time": time}
    return {**own, **start, **own}


def to_headers(attributes: Mapping[str, Any]) -> dict[str, str]:
    """`ce-*` headers; values percent-encoded where HTTP or the binding wants it."""
    return {_PREFIX + name: quote(str(value), safe=_SAFE) for name, value in attributes.items()}


def encode(
    event: CloudEvent,
    result: Any,
    model_name: str,
    settings: CloudEventSettings,
    event_id: str,
    time: str,
) -> Encoded:
    """What a model answered to event, as an event of the same mode."""
    attributes = answer_attributes(event, model_name, settings, event_id, time)
    if not event.is_structured:
        encoded = v1.encode(result)
        encoded.headers = to_headers(attributes)
        return encoded
    if isinstance(result, str):
        return Encoded([dumps({**attributes, "data": result})], STRUCTURED)
    encoded = v1.encode(result)
    if encoded.content_type == JSON:
        member: dict[str, Any] = {"data": orjson.Fragment(encoded.body)}
    else:
        member = {"data_base64": base64.b64encode(encoded.body).decode()}
    return Encoded([dumps({**attributes, **member})], STRUCTURED)


def _is_event(payload: Mapping[str, Any]) -> bool:
    return all(key in payload for key in REQUIRED) and any(key in payload for key in _PAYLOAD)


def _attributes(event: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in _PAYLOAD}


def _payload(event: Mapping[str, Any], limits: ParseLimits) -> Any:
    if "data_base64" not in event:
        return event.get("data")
    if "data" in event:
        raise InvalidInput("CloudEvent: 'data' and 'data_base64' exclude each other")
    try:
        raw = base64.b64decode(event["data_base64"], validate=True)
    except (binascii.Error, ValueError, TypeError) as err:
        raise InvalidInput(f"CloudEvent: 'data_base64' is not base64: {err}") from err
    kind = str(event.get("datacontenttype") or JSON)
    return loads(raw, limits, allow_nan=False, at="CloudEvent data") if is_json(kind) else raw
