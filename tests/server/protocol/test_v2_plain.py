"""The short cut for plain requests and answers says what the long way says, or nothing."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.server.errors import ServingError
from headrace.server.protocol import v2_plain, v2_rest
from headrace.server.protocol.limits import ParseLimits
from headrace.server.request import Request, Response
from headrace.server.tensor import Datatype, Tensor

LIMITS = ParseLimits(64, 1 << 30, False)


def the_long_way(body: bytes) -> Request | None:
    try:
        return v2_rest.to_request(v2_rest.parse(body, None, LIMITS), "m", (), LIMITS, "")
    except ServingError:
        return None


def seen(request: Request) -> list[Any]:
    tensors = [
        (each.name, each.datatype, each.shape, each.array.dtype.str, each.array.tobytes())
        for each in request.inputs
    ]
    rest = (request.binary_inputs, request.nested_inputs, request.input_parameters)
    return [request.model_name, request.id, request.parameters, request.outputs, rest, *tensors]


def one(data: str, shape: str = "[2]", datatype: str = "FP32", more: str = "") -> bytes:
    return (
        f'{{"inputs":[{{"name":"x","shape":{shape},"datatype":"{datatype}","data":{data}}}]{more}}}'
    ).encode()


LARGE = "[" + ",".join(["1.5"] * 6000) + "]"


@pytest.mark.parametrize(
    ("body", "is_plain"),
    [
        pytest.param(one("[1.5,2]"), True, id="numbers"),
        pytest.param(one("[1.5,2]", datatype="FP64"), True, id="doubles"),
        pytest.param(one("[1.5,2]", more=',"id":"a"'), True, id="with an id"),
        pytest.param(one(str([0.1] * 70), "[70]"), True, id="more than are packed"),
        pytest.param(one(LARGE, "[2,3000]"), True, id="large"),
        pytest.param(one(LARGE, "[2,3000]", "FP64", ',"id":"a"'), True, id="large doubles"),
        pytest.param(one("[1,2]", datatype="INT64"), False, id="whole numbers"),
        pytest.param(one("[1,null]"), False, id="a null"),
        pytest.param(one("[1,true]"), False, id="a boolean"),
        pytest.param(one("[[1,2]]", "[1,2]"), False, id="nested"),
        pytest.param(one("[1e39,2]"), False, id="beyond FP32"),
        pytest.param(one(str([1e39] * 70), "[70]"), False, id="many beyond FP32"),
        pytest.param(one(str([10**400, 2])), False, id="a whole number beyond any float"),
        pytest.param(one(str([10**400] + [0] * 69), "[70]"), False, id="many beyond any float"),
        pytest.param(one(str([10**400] + [0] * 69), "[70]", "FP64"), False, id="many beyond FP64"),
        pytest.param(one("[NaN,2]"), False, id="NaN, which is no JSON"),
        pytest.param(one("[1,2]", "[-1]"), False, id="a free dimension"),
        pytest.param(one("[1,2]", "[3]"), False, id="too few"),
        pytest.param(one("[]", "[0]"), False, id="none"),
        pytest.param(one("[1,2]", "[true,2]"), False, id="a boolean in the shape"),
        pytest.param(one("[1,2]", datatype="fp32"), False, id="a datatype in lower case"),
        pytest.param(one("[1,2]", more=',"id":7'), False, id="an id that is none"),
        pytest.param(one("[1,2]", more=',"outputs":[{"name":"y"}]'), False, id="outputs asked for"),
        pytest.param(one("[1,2]", more=',"parameters":{"timeout":5}'), False, id="parameters"),
        pytest.param(one("[1,2]", more=',"inputs":[]'), False, id="inputs twice"),
        pytest.param(one("[1,2]", more=',"id":"\\ud800"'), False, id="half a surrogate pair"),
        pytest.param(one("[1,2]") + b"x", False, id="more behind it"),
        pytest.param(b'{"inputs":[]}', False, id="no inputs"),
        pytest.param(b"\xff" + one("[1,2]"), False, id="not UTF-8"),
        pytest.param(b"[" * 100_000, False, id="nothing but brackets"),
        pytest.param(one(LARGE[:-1] + ",null]", "[6001]"), False, id="large with a null"),
        pytest.param(one(LARGE[:-1] + ",true]", "[6001]"), False, id="large with a boolean"),
        pytest.param(one(LARGE[:-1] + ",[1]]", "[6001]"), False, id="large and ragged"),
        pytest.param(one(LARGE[:-1] + ",1e39]", "[6001]"), False, id="large, beyond FP32"),
        pytest.param(one(f"{LARGE[:-1]},1{'0' * 400}]", "[6001]"), False, id="large, beyond any"),
        pytest.param(one(LARGE, "[6000]", more=',"inputs":[]'), False, id="large, inputs twice"),
        pytest.param(one(LARGE, "[6000]", more=',"id":"["'), False, id="large, a bracket as id"),
        pytest.param(one(LARGE, "[6000]") + b"x", False, id="large, more behind it"),
        pytest.param(b'{"inputs":7,"x":"' + b"y" * 20_000 + b'"}', False, id="large, no list"),
    ],
)
def test_read(body: bytes, is_plain: bool) -> None:
    found = v2_plain.read(body, "m", "", LIMITS)
    assert (found is not None) == is_plain
    if found is not None:
        expected = the_long_way(body)
        assert expected is not None
        assert seen(found) == seen(expected)


def test_a_parser_that_another_thread_has_taken_is_not_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Taken(list[Any]):
        """Looks as if there were one."""

        def __bool__(self) -> bool:
            return True

    monkeypatch.setattr(v2_plain, "_parsers", Taken())
    assert v2_plain.read(one(LARGE, "[6000]"), "m", "", LIMITS) is not None


NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=64),
    st.integers(-(2**65), 2**65),
    st.sampled_from([0, -0.0, 1e-46, 3.4028235e38, 3.4028236e38, True, None, "1", []]),
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.lists(NUMBERS, max_size=80),
    st.sampled_from(["FP32", "FP64", "INT32", "BOOL"]),
    st.booleans(),
)
def test_what_is_read_is_what_the_long_way_reads(
    numbers: list[Any], datatype: str, is_large: bool
) -> None:
    """Padding makes a small body a large one."""
    entry = {"name": "x", "shape": [len(numbers)], "datatype": datatype, "data": numbers}
    body = json.dumps({"inputs": [entry]}).encode() + b" " * (20_000 if is_large else 0)
    found = v2_plain.read(body, "m", "", LIMITS)
    if found is not None:
        expected = the_long_way(body)
        assert expected is not None
        assert seen(found) == seen(expected)


@pytest.mark.parametrize(
    ("tensor", "is_plain"),
    [
        pytest.param(Tensor("y", np.array([[1.5, 2]], np.float32)), True, id="FP32"),
        pytest.param(Tensor("y", np.array([[1.5, np.nan]])), True, id="FP64 with NaN"),
        pytest.param(Tensor("y", np.array([1, 2], np.uint8)), True, id="UINT8"),
        pytest.param(Tensor("y", np.array([True])), True, id="BOOL"),
        pytest.param(Tensor("y", np.zeros((2, 3), np.int64).T), True, id="transposed"),
        pytest.param(Tensor("y", np.zeros((0, 3), np.int64)), True, id="empty"),
        pytest.param(Tensor('"y\n', np.array(1.0)), True, id="a scalar with an odd name"),
        pytest.param(Tensor("y", np.array([1.5], np.float16)), False, id="FP16"),
        pytest.param(Tensor("y", np.array([b"a"], object)), False, id="BYTES"),
        pytest.param(Tensor("y", np.array([1.5], ">f4")), False, id="big-endian"),
        pytest.param(Tensor("y", np.array([1.5]), Datatype.FP32), False, id="another dtype"),
    ],
)
def test_write(tensor: Tensor, is_plain: bool) -> None:
    response = Response("m", [tensor, Tensor("z", np.array([1, 2]))], "", "3")
    text = v2_plain.write(response, 'an "id"')
    assert (text is not None) == is_plain
    if text is not None:
        asked = Request("m", [], 'an "id"', parameters={"x": 1})  # which is not plain
        assert text == b"".join(v2_rest.encode(response, asked).parts)
