"""JSON in and out: strict, bounded in depth, whole sentences for what is refused."""

import datetime
import json
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.server.errors import InferenceError, InvalidInput
from headrace.server.protocol.json_text import dumps, loads
from headrace.server.protocol.limits import ParseLimits

LIMITS = ParseLimits()


@pytest.mark.parametrize(
    ("body", "value"),
    [
        pytest.param(b'{"a":[1,2.5,true,null]}', {"a": [1, 2.5, True, None]}, id="plain"),
        pytest.param(b'{"a":1,"a":2}', {"a": 2}, id="of duplicate keys the last one wins"),
        pytest.param(b"18446744073709551615", 2**64 - 1, id="64-bit integers stay exact"),
        pytest.param(memoryview(b"[1]"), [1], id="a view of a buffer"),
        pytest.param(bytearray(b"[1]"), [1], id="a bytearray"),
    ],
)
def test_loads(body: bytes, value: object) -> None:
    assert loads(body, LIMITS, allow_nan=False, at="body") == value


@pytest.mark.parametrize(
    ("body", "allow_nan", "sentence"),
    [
        pytest.param(b"", True, "body: empty; expected JSON", id="empty"),
        pytest.param(
            b"[1,]",
            True,
            "body: not valid JSON: trailing comma is not allowed: line 1 column 3 (char 2)",
            id="trailing comma",
        ),
        pytest.param(
            b'"\xff"',
            True,
            "body: not valid JSON: str is not valid UTF-8: surrogates not allowed: "
            "line 1 column 1 (char 0)",
            id="not UTF-8",
        ),
        pytest.param(
            b"[NaN]",
            False,
            "body: not valid JSON: unexpected character, expected a JSON value: "
            "line 1 column 2 (char 1); NaN and Infinity are not JSON, send null",
            id="NaN where it is not allowed",
        ),
        pytest.param(
            b"[NaN, 1e999]",
            True,
            "body: not valid JSON: number is infinity when parsed as double: "
            "line 1 column 8 (char 7)",
            id="a number beyond double, beside NaN",
        ),
    ],
)
def test_loads_refuses(body: bytes, allow_nan: bool, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        loads(body, LIMITS, allow_nan, at="body")
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[NaN 1]", id="two values"),
        pytest.param(b"{NaN:1}", id="as a key"),
        pytest.param(b"[-NaN]", id="a sign before NaN"),
        pytest.param(b"[1NaN]", id="glued to a number"),
        pytest.param(b'[NaN,"\\ud800"]', id="half a surrogate pair beside it"),
        pytest.param(b"[NaN,01]", id="a leading zero beside it"),
        pytest.param(b'["NaN]', id="inside an unclosed string"),
    ],
)
def test_literals_do_not_loosen_the_syntax(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        loads(body, LIMITS, allow_nan=True, at="body")


def test_loads_accepts_the_three_literals_where_allowed() -> None:
    value = loads(
        b'[NaN,Infinity,-Infinity,"NaN \\" Infinity",18446744073709551615]', LIMITS, True, ""
    )
    assert math.isnan(value[0])
    assert value[1:] == [math.inf, -math.inf, 'NaN " Infinity', 2**64 - 1]


@pytest.mark.parametrize(
    ("body", "depth"),
    [
        pytest.param(b"[" * 65 + b"]" * 65, 65, id="arrays"),
        pytest.param(b'{"a":' * 65 + b"1" + b"}" * 65, 65, id="objects"),
        pytest.param(b"[" * 3_000_000, 3_000_000, id="millions, never closed"),
        pytest.param(b'["\\"",' + b"[" * 70, 71, id="after an escaped quote"),
        pytest.param(b"[" * 65 + b"NaN" + b"]" * 65, 65, id="around a literal"),
    ],
)
def test_depth_is_bounded_before_anything_recurses(body: bytes, depth: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        loads(body, LIMITS, allow_nan=True, at="request body")
    assert str(caught.value) == (
        f"request body: JSON nests {depth} levels deep, the limit is 64 (--max_json_depth 64)"
    )


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" * 64 + b"]" * 64, id="exactly at the limit"),
        pytest.param(b"[" + b"[[1],[2]]," * 100 + b"0]", id="wide, not deep"),
        pytest.param(json.dumps(["[" * 100]).encode(), id="brackets in a string"),
        pytest.param(json.dumps(["\\" + "[" * 100, '"' + "{" * 100]).encode(), id="behind escapes"),
    ],
)
def test_depth_counts_structure_only(body: bytes) -> None:
    assert loads(body, LIMITS, allow_nan=False, at="") == json.loads(body)


def test_depth_zero_means_no_limit_of_ours() -> None:
    body = b"[" * 500 + b"]" * 500
    assert loads(body, ParseLimits(max_json_depth=0), allow_nan=True, at="") is not None


@pytest.mark.parametrize("size", [1000, 200_000])
def test_unclosed_strings_of_escaped_quotes_cost_linear_time(size: int) -> None:
    body = b"[" * 65 + b'"' + b'\\"' * size
    with pytest.raises(InvalidInput):
        loads(body, LIMITS, allow_nan=True, at="")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(derandomize=True, max_examples=200)
@given(value=json_values)
def test_loads_agrees_with_the_standard_library(value: Any) -> None:
    text = json.dumps(value).encode()
    ours = loads(text, LIMITS, allow_nan=True, at="")
    assert json.dumps(ours) == json.dumps(json.loads(text))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(
            {"predictions": np.array([[1.5, 2.0]])}, b'{"predictions":[[1.5,2.0]]}', id="array"
        ),
        pytest.param(np.array([0.1, np.nan, np.inf], "f4"), b"[0.1,null,null]", id="float32, NaN"),
        pytest.param([float("nan"), np.float32(0.1)], b"[null,0.1]", id="scalars"),
        pytest.param(np.zeros((2, 2), order="F")[:, :1], b"[[0.0],[0.0]]", id="strides"),
        pytest.param(np.array([1, 2], ">i4"), b"[1,2]", id="foreign byte order"),
        pytest.param(np.array(3.5), b"3.5", id="a scalar array"),
        pytest.param(np.array(["a", None, {"b": 1}], object), b'["a",null,{"b":1}]', id="objects"),
        pytest.param(np.array(["a", "b"]), b'["a","b"]', id="text"),
        pytest.param(np.array([1.5], ml_dtypes.bfloat16), b"[1.5]", id="bfloat16"),
        pytest.param(np.float16(1.5), b"1.5", id="float16"),
        pytest.param(
            {1.5: "a", None: "b", True: "c"}, b'{"1.5":"a","null":"b","true":"c"}', id="keys"
        ),
        pytest.param(datetime.date(2026, 11, 24), b'"2026-11-24"', id="a date"),
        pytest.param(np.datetime64("2026-11-24"), b'"2026-11-24T00:00:00"', id="a numpy date"),
    ],
)
def test_dumps(value: object, text: bytes) -> None:
    assert dumps(value) == text


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        pytest.param(
            {"a": b"x"},
            "the answer holds bytes, which JSON cannot carry; "
            "decode them to str, encode them as base64, or answer a V2 request in binary",
            id="bytes",
        ),
        pytest.param(
            np.array([b"x"], object),
            "the answer holds bytes, which JSON cannot carry; "
            "decode them to str, encode them as base64, or answer a V2 request in binary",
            id="an array of bytes",
        ),
        pytest.param(
            {1, 2},
            "the answer holds a set, which JSON cannot carry; "
            "convert it to a dict, list, str, number, bool or numpy array",
            id="a set",
        ),
        pytest.param(
            [1j],
            "the answer holds a complex, which JSON cannot carry; "
            "convert it to a dict, list, str, number, bool or numpy array",
            id="a complex number",
        ),
        pytest.param(2**70, "the answer is not JSON: Integer exceeds 64-bit range", id="big"),
    ],
)
def test_dumps_says_what_to_do(value: object, sentence: str) -> None:
    with pytest.raises(InferenceError) as caught:
        dumps(value)
    assert str(caught.value) == sentence
