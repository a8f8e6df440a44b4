"""JSON bytes to Python values and back: strict, bounded in depth, fast where the text is plain.

orjson does the work. Only a body that holds the literals NaN or Infinity, where those are allowed,
takes a second, slower road (contract §2.3); its syntax is held to the same rules.
"""

import json
import re
from typing import Any

import numpy as np
import orjson

from headrace.server.errors import InferenceError, InvalidInput
from headrace.server.protocol.limits import ParseLimits
from headrace.server.tensor import Buffer

# +1 for each opening bracket and -1 (as int8) for each closing one; all else is left out.
_STEPS = bytes.maketrans(b"[{]}", bytes([1, 1, 255, 255]))
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))
_STRING = rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)'  # possessive and closed by the end: linear time
_STRINGS = re.compile(_STRING, re.DOTALL)
_LITERALS = re.compile(_STRING + rb"|-?Infinity|NaN", re.DOTALL)
_CHUNK_BYTES = 1 << 20
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def loads(body: Buffer, limits: ParseLimits, allow_nan: bool, at: str) -> Any:
    """The value of a JSON text; of duplicate keys the last one wins.

    at: what body is, for the error text, e.g. "request body". allow_nan: accept NaN, Infinity and
    -Infinity, which are not JSON. Raises InvalidInput for anything else that is not strict JSON.
    """
    if not len(body):
        raise InvalidInput(f"{at}: empty; expected JSON")
    text = bytes(body) if isinstance(body, memoryview) else body
    check_depth(text, limits, at)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as err:
        literal = b"NaN" in text or b"Infinity" in text
        if literal and allow_nan:
            return _loads_with_literals(text, at)
        advice = "; NaN and Infinity are not JSON, send null" if literal else ""
        raise InvalidInput(f"{at}: not valid JSON: {err}{advice}") from err


def check_depth(text: bytes | bytearray, limits: ParseLimits, at: str) -> None:
    """Raises InvalidInput if text nests deeper than the limit. Needs no recursion itself."""
    limit = limits.max_json_depth
    if not limit or text.count(b"[") + text.count(b"{") <= limit:
        return
    deepest = _depth(text)
    if deepest > limit:
        raise InvalidInput(
            f"{at}: JSON nests {deepest} levels deep, "
            f"the limit is {limit} (--max_json_depth {limit})"
        )


def dumps(value: Any) -> bytes:
    """JSON of what a model answered: numpy and datetimes natively, any scalar as key, NaN as null.

    Raises InferenceError, with advice, for what JSON cannot carry.
    """
    try:
        return orjson.dumps(value, default=_plain, option=_OPTIONS)
    except TypeError as err:  # orjson.JSONEncodeError is one; ours is its cause
        if isinstance(err.__cause__, InferenceError):
            raise err.__cause__ from None
        if "native-endianness" in str(err):  # orjson does not offer these arrays to default
            return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS)
        raise InferenceError(f"the answer is not JSON: {err}") from err


def _depth(text: bytes | bytearray) -> int:
    if b"\\" in text:  # an escaped quote does not end a string
        text = _STRINGS.sub(b"", text)
    brackets = text.translate(None, _NOT_STRUCTURE)
    if b'"' in brackets:
        brackets = b"".join(brackets.split(b'"')[::2])
    steps = np.frombuffer(brackets.translate(_STEPS), np.int8)
    deepest = level = 0
    for start in range(0, steps.size, _CHUNK_BYTES):
        levels = steps[start : start + _CHUNK_BYTES].cumsum(dtype=np.int64)
        deepest = max(deepest, level + int(levels.max()))
        level += int(levels[-1])
    return deepest


def _loads_with_literals(text: bytes | bytearray, at: str) -> Any:
    def masked(match: re.Match[bytes]) -> bytes:
        found = match.group()
        return found if found.startswith(b'"') else b"null"

    try:
        orjson.loads(_LITERALS.sub(masked, text))  # the stdlib alone would accept 1e999 or "\ud800"
        return json.loads(text)
    except (ValueError, RecursionError) as err:
        raise InvalidInput(f"{at}: not valid JSON: {err}") from err


def _plain(value: Any) -> Any:
    """What orjson does not know, in types it does. Raises InferenceError for the rest."""
    if isinstance(value, np.ndarray):  # objects, scalars, strides, bfloat16, foreign byte order
        return value.tolist()
    if isinstance(value, np.generic) and not isinstance(value, bytes):
        plain = value.item()
        if not isinstance(plain, np.generic):
            return plain
    if isinstance(value, bytes | bytearray | memoryview):
        raise InferenceError(
            "the answer holds bytes, which JSON cannot carry; "
            "decode them to str, encode them as base64, or answer a V2 request in binary"
        )
    raise InferenceError(
        f"the answer holds a {type(value).__name__}, which JSON cannot carry; "
        f"convert it to a dict, list, str, number, bool or numpy array"
    )
