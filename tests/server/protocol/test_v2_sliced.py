"""Large plain V2 requests in slices: read as the careful codec reads them, or left to it."""

import json
from typing import Any

import numpy as np
import pytest

from headrace.server.protocol import v2_rest, v2_sliced
from headrace.server.protocol.limits import ParseLimits

LIMITS = ParseLimits()
NUMBERS = [at / 8 for at in range(120_000)]  # more than two slices of text
LAST = b"14999.875"


def tensor(name: str = "x", data: Any = NUMBERS, **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": [len(data)], "datatype": "FP32", "data": data, **more}


def body(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


LARGE = body(tensor())


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(LARGE, id="one input"),
        pytest.param(LARGE.replace(b", ", b","), id="without spaces"),
        pytest.param(body(tensor(), id="a"), id="an id"),
        pytest.param(body(tensor(datatype="FP64")), id="doubles"),
        pytest.param(body(tensor(shape=[2, 60_000])), id="two dimensions"),
        pytest.param(body(tensor("a"), tensor("b", NUMBERS[::-1])), id="two large inputs"),
        pytest.param(body(tensor("a", [0]), tensor("b"), tensor("c", [1.5, 2])), id="small beside"),
    ],
)
def test_read_as_the_careful_codec_reads(sent: bytes) -> None:
    found = v2_sliced.read(memoryview(sent), "m", "1")
    assert found is not None
    wanted = v2_rest.to_request(v2_rest.parse(sent, None, LIMITS), "m", (), LIMITS, "1")
    assert (found.id, found.model_version) == (wanted.id, wanted.model_version)
    assert [(t.name, t.datatype) for t in found.inputs] == [
        (t.name, t.datatype) for t in wanted.inputs
    ]
    for ours, theirs in zip(found.inputs, wanted.inputs, strict=True):
        assert ours.array.dtype == theirs.array.dtype
        np.testing.assert_array_equal(ours.array, theirs.array)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(body(tensor(data=[1.0])), id="nothing large"),
        pytest.param(body(tensor(shape=[119_999])), id="a shape that does not fit"),
        pytest.param(body(tensor(shape=[1])), id="a shape of one"),
        pytest.param(body(tensor(shape=[10**12])), id="a shape beyond the text"),
        pytest.param(body(tensor(datatype="INT64")), id="whole numbers"),
        pytest.param(body(tensor(parameters={})), id="parameters"),
        pytest.param(body(tensor(), outputs=[]), id="outputs"),
        pytest.param(
            body(tensor("a", shape=[1]), tensor("b", [0], shape=[120_000])), id="mixed up"
        ),
        pytest.param(LARGE.replace(LAST, LAST + b","), id="a comma behind the last"),
        pytest.param(LARGE.replace(LAST, b", " + LAST), id="two commas"),
        pytest.param(LARGE.replace(LAST, b"true"), id="a boolean"),
        pytest.param(LARGE.replace(LAST, b"null"), id="null"),
        pytest.param(LARGE.replace(LAST, b"NaN"), id="NaN"),
        pytest.param(LARGE.replace(LAST, b"1e39"), id="too large for the datatype"),
        pytest.param(LARGE.replace(LAST, b"1" + b"0" * 400), id="too large for any datatype"),
        pytest.param(
            body(tensor("a", [10**400] * 70), tensor("b")), id="too large for any, small beside"
        ),
        pytest.param(LARGE.replace(LAST, b'"a]"'), id="a string"),
        pytest.param(LARGE.replace(LAST, b"[1]"), id="a list"),
        pytest.param(LARGE[:-1], id="no end"),
        pytest.param(LARGE + b"}", id="more behind the end"),
    ],
)
def test_left_to_the_careful_codec(sent: bytes) -> None:
    assert v2_sliced.read(sent, "m", "") is None


def test_what_is_not_plain_is_read_whole() -> None:
    nested = body({**tensor(), "data": [NUMBERS], "shape": [1, len(NUMBERS)]})
    assert isinstance(v2_rest.read_large(nested, "m", "", LIMITS), v2_rest.Envelope)
