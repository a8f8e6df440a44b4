"""Reading requests and writing responses without protobuf objects: as protobuf would have done."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headrace.server.errors import InvalidInput
from headrace.server.grpc import codec, envelope, wire
from headrace.server.grpc.envelope import ModelInferRequest, open_request
from headrace.server.request import Request, RequestedOutput, Response
from headrace.server.tensor import Datatype, Tensor

INT64 = st.integers(-(2**63), 2**63 - 1)
PARAMETER = st.one_of(
    st.just({}),
    st.builds(lambda value: {"bool_param": value}, st.booleans()),
    st.builds(lambda value: {"int64_param": value}, INT64),
    st.builds(lambda value: {"string_param": value}, st.text(max_size=8)),
    st.builds(lambda value: {"double_param": value}, st.floats(allow_nan=False)),
    st.builds(lambda value: {"uint64_param": value}, st.integers(0, 2**64 - 1)),
)
PARAMETERS = st.dictionaries(st.text(max_size=5), PARAMETER, max_size=2)
CONTENTS = st.one_of(
    st.just({"fp32_contents": [1.5]}),
    st.just({"bytes_contents": [b"\xff"]}),
    st.just({"int64_contents": [-1, 2**40]}),
    st.just({}),
)
TEXT = st.one_of(st.just(""), st.text(max_size=10), st.text(min_size=130, max_size=140))
INPUT = st.fixed_dictionaries(
    {
        "name": TEXT,
        "datatype": st.sampled_from([*map(str, Datatype), "fp32", "FP33", ""]),
        "shape": st.lists(st.one_of(st.integers(0, 4), INT64), max_size=4),
    },
    optional={"parameters": PARAMETERS, "contents": CONTENTS},
)
MESSAGES = st.builds(
    ModelInferRequest,
    model_name=TEXT,
    model_version=TEXT,
    id=TEXT,
    parameters=PARAMETERS,
    inputs=st.lists(INPUT, max_size=3),
    outputs=st.lists(
        st.fixed_dictionaries({"name": TEXT}, optional={"parameters": PARAMETERS}), max_size=2
    ),
    raw_input_contents=st.lists(st.binary(max_size=200), max_size=3),
)
SEEN = settings(derandomize=True, deadline=None, max_examples=400)
# a group, a varint, both fixed widths, and a length-delimited field that ModelInferRequest has not
UNKNOWN = (b"\x7b\x0a\x01a\x7c", b"\x78\x96\x01", b"\x79" + b"8" * 8, b"\x7d4444", b"\x7a\x02ab")


def by_protobuf(message: bytes) -> Any:
    """What the message class says; None where it refuses."""
    try:
        found = ModelInferRequest.FromString(message)
    except DecodeError:
        return None
    return (
        (found.model_name, found.model_version, found.id, of_map(found.parameters)),
        [
            (
                *(each.name, each.datatype, tuple(each.shape), of_map(each.parameters)),
                each.contents if each.HasField("contents") else None,
            )
            for each in found.inputs
        ],
        [(each.name, of_map(each.parameters)) for each in found.outputs],
        list(found.raw_input_contents),
    )


def by_us(message: bytes) -> Any:
    try:
        found = open_request(message)
    except InvalidInput:
        return None
    return (
        (found.model_name, found.model_version, found.id, of_map(found.parameters)),
        [
            (each.name, each.datatype, each.shape, of_map(each.parameters), each.contents)
            for each in found.inputs
        ],
        [(each.name, of_map(each.parameters)) for each in found.outputs],
        [bytes(each) for each in found.raw],
    )


def of_map(parameters: Any) -> dict[str, str]:
    return {key: repr(parameters[key]) for key in parameters} if parameters else {}


def agree(message: bytes) -> None:
    """Seen first, and remembered."""
    expected = by_protobuf(message)
    assert by_us(message) == expected
    assert by_us(message) == expected


@SEEN
@given(MESSAGES)
def test_a_random_message_reads_as_protobuf_reads_it(message: Any) -> None:
    agree(message.SerializeToString())


@SEEN
@given(MESSAGES, MESSAGES, st.sampled_from(UNKNOWN))
def test_fields_in_any_order_repeated_or_unknown_read_alike(
    one: Any, other: Any, unknown: bytes
) -> None:
    agree(other.SerializeToString() + unknown + one.SerializeToString())


@SEEN
@given(MESSAGES, st.randoms(use_true_random=False))
def test_a_message_cut_off_or_damaged_gets_the_same_verdict(
    message: Any, chance: random.Random
) -> None:
    whole = message.SerializeToString()
    for _ in range(20):
        agree(damaged(whole, chance))


def test_ten_thousand_damaged_messages_get_the_same_verdict() -> None:
    chance = random.Random(5)
    whole = ModelInferRequest(
        model_name="tiny",
        id="7",
        parameters={"timeout": {"int64_param": 5}},
        inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 4]}],
        outputs=[{"name": "y", "parameters": {"binary_data": {"bool_param": True}}}],
        raw_input_contents=[bytes(16)],
    ).SerializeToString()
    for _ in range(10_000):
        agree(damaged(whole, chance))


def damaged(message: bytes, chance: random.Random) -> bytes:
    changed = bytearray(message)
    for _ in range(chance.randint(0, 3)):
        if changed:
            changed[chance.randrange(len(changed))] = chance.choice(
                [chance.randrange(256), 0x80, 0xFF, 0x0A, 0x3A]
            )
    return bytes(changed[: chance.randint(0, len(changed))])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_message_may_lie_in_any_buffer(kind: Callable[[bytes], Any]) -> None:
    array = np.arange(8, dtype="<f4").reshape(2, 4)
    sent = Request("m", [Tensor("x", array)], id="7", outputs=[RequestedOutput("y")])
    found = codec.to_request(open_request(kind(codec.encode_request(sent))))
    np.testing.assert_array_equal(found.inputs[0].array, array)
    assert not found.inputs[0].array.flags.writeable
    assert (found.id, found.outputs) == ("7", sent.outputs)


def test_what_is_remembered_of_clients_is_bounded() -> None:
    for i in range(3000):
        message = ModelInferRequest(inputs=[{"name": str(i)}], outputs=[{"name": str(i)}])
        open_request(message.SerializeToString())
    assert len(envelope._inputs) <= 1024
    assert len(envelope._outputs) <= 1024


ARRAYS = st.one_of(
    hnp.arrays(
        st.sampled_from([np.dtype(kind) for kind in ("?", "u1", "<i4", "<i8", "<f2", "<f8")]),
        hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
    ),
    st.lists(st.binary(max_size=5), max_size=3).map(lambda some: np.array([*some, b""], object)),
)
VALUES = st.one_of(st.booleans(), INT64, st.text(max_size=5), st.floats(allow_nan=False))
RESPONSES = st.builds(
    Response,
    TEXT,
    st.dictionaries(TEXT, ARRAYS, max_size=3).map(
        lambda arrays: [Tensor(name, array) for name, array in arrays.items()]
    ),
    TEXT.filter(bool),
    TEXT,
    st.dictionaries(st.text(max_size=5), VALUES, max_size=1),
    st.dictionaries(st.just(""), st.just({"content_type": "np"}), max_size=1),
)


@SEEN
@given(RESPONSES, st.booleans())
def test_a_random_response_is_the_bytes_that_protobuf_writes(
    response: Response, typed: bool
) -> None:
    written = codec.encode_response(response, Request("m", []), typed)
    message = codec.ModelInferResponse.FromString(written)
    assert message.SerializeToString() == written
    typed = typed and all(each.datatype is not Datatype.FP16 for each in response.outputs)
    assert (message.model_name, message.model_version, message.id) == (
        response.model_name,
        response.model_version,
        response.id,
    )
    assert [(each.name, each.datatype, tuple(each.shape)) for each in message.outputs] == [
        (each.name, each.datatype, each.shape) for each in response.outputs
    ]
    found = codec.decode_response(written)
    assert found.parameters == response.parameters
    for got, sent in zip(found.outputs, response.outputs, strict=True):
        np.testing.assert_array_equal(got.array, sent.array)
    assert len(message.raw_output_contents) == (0 if typed else len(response.outputs))


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**31 - 1])
def test_lengths_are_read_as_they_are_written(value: int) -> None:
    written = wire.to_varint(value)
    assert wire.length(written, 0) == (value, len(written))


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(b"\x80" * 5 + b"\0", id="six bytes"),
        pytest.param(b"\xff\xff\xff\xff\x0f", id="beyond int32"),
        pytest.param(b"\x80", id="cut off"),
    ],
)
def test_a_length_that_protobuf_does_not_read_is_none(written: bytes) -> None:
    with pytest.raises(IndexError):
        wire.length(written, 0)
