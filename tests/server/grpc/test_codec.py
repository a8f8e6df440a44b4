"""Protobuf ↔ tensors: datatypes typed and raw, the mirror rule, and each refusal's sentence."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headrace.server.errors import InvalidInput, NoSharedMemory
from headrace.server.grpc import codec
from headrace.server.grpc.contents import RAW_ONLY
from headrace.server.request import Request, RequestedOutput, Response
from headrace.server.tensor import NUMPY, Datatype, Tensor

ARRAYS: dict[Datatype, Any] = {
    Datatype.BOOL: [True, False],
    Datatype.UINT8: [0, 255],
    Datatype.UINT16: [0, 65535],
    Datatype.UINT32: [0, 2**32 - 1],
    Datatype.UINT64: [0, 2**64 - 1],
    Datatype.INT8: [-128, 127],
    Datatype.INT16: [-32768, 32767],
    Datatype.INT32: [-(2**31), 2**31 - 1],
    Datatype.INT64: [-(2**63), 2**63 - 1],
    Datatype.FP16: [1.5, np.inf],
    Datatype.BF16: [1.5, -2.0],
    Datatype.FP32: [1.5, np.nan],
    Datatype.FP64: [1e300, -0.0],
    Datatype.BYTES: [b"\xff\x00", "é".encode()],
}

ASKED = Request("m", [])


def decode(message: bytes) -> Request:
    return codec.to_request(codec.open_request(message))


def tensor(datatype: Datatype, name: str = "x") -> Tensor:
    return Tensor(name, np.array(ARRAYS[datatype], NUMPY[datatype]))


@pytest.mark.parametrize("datatype", list(Datatype))
@pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed"])
def test_a_tensor_of_every_datatype_comes_back_as_it_went(datatype: Datatype, typed: bool) -> None:
    sent = tensor(datatype)
    envelope = codec.open_request(codec.encode_request(Request("m", [sent]), typed))
    (got,) = codec.to_request(envelope).inputs
    assert (got.name, got.datatype, got.shape) == ("x", datatype, (2,))
    np.testing.assert_array_equal(got.array, sent.array)
    assert envelope.is_typed == (typed and datatype not in RAW_ONLY)


WIRE_DTYPES = st.sampled_from([NUMPY[d] for d in Datatype if d not in RAW_ONLY | {Datatype.BYTES}])


@given(hnp.arrays(WIRE_DTYPES, hnp.array_shapes(min_dims=0, min_side=0, max_side=5)), st.booleans())
def test_random_arrays_round_trip(array: Any, typed: bool) -> None:
    sent = Request("m", [Tensor("x", array)], id="7")
    request = decode(codec.encode_request(sent, typed))
    np.testing.assert_array_equal(request.inputs[0].array, array)
    assert request.inputs[0].array.dtype == array.dtype
    answer = codec.decode_response(
        codec.encode_response(Response("m", request.inputs), sent, typed)
    )
    np.testing.assert_array_equal(answer.outputs[0].array, array)


@given(st.lists(st.binary()), st.booleans())
def test_random_bytes_round_trip(elements: list[bytes], typed: bool) -> None:
    array = np.empty(len(elements), object)
    array[:] = elements
    sent = Request("m", [Tensor("x", array, Datatype.BYTES)])
    request = decode(codec.encode_request(sent, typed))
    assert request.inputs[0].array.tolist() == elements


def test_raw_inputs_are_read_only_views_of_the_message() -> None:
    """One of eight messages lies so that FP64 elements are aligned; the others are copied once."""
    views = 0
    for pad in range(8):
        sent = Request("m" * (pad + 1), [Tensor("x", np.zeros(1000))])
        message = codec.encode_request(sent)
        request = decode(message)
        array = request.inputs[0].array
        assert array.flags.aligned
        assert not array.flags.writeable
        views += np.shares_memory(array, np.frombuffer(message, "u1"))
    assert views == 1


def test_parameters_of_every_kind_reach_the_request_and_come_back() -> None:
    given_: dict[str, Any] = {"b": True, "i": -5, "s": "text", "d": 0.5, "u": 2**63}
    sent = Request(
        "m",
        [tensor(Datatype.FP32)],
        parameters=given_,
        outputs=[RequestedOutput("y", {"classification": 2})],
        input_parameters={"x": {"content_type": "np"}},
    )
    message = codec.ModelInferRequest.FromString(codec.encode_request(sent))
    assert message.parameters["u"].uint64_param == 2**63
    assert message.parameters["d"].double_param == 0.5
    message.inputs[0].parameters["content_type"].string_param = "np"
    request = decode(message.SerializeToString())
    assert request.parameters == given_
    assert request.outputs == sent.outputs
    assert request.input_parameters == {"x": {"content_type": "np"}}
    response = Response("m", [], parameters=given_)
    assert codec.decode_response(codec.encode_response(response, sent, False)).parameters == given_


@pytest.mark.parametrize(
    ("outputs", "typed_in", "typed_out"),
    [
        pytest.param([Datatype.FP32], True, True, id="typed in: typed out"),
        pytest.param([Datatype.FP32], False, False, id="raw in: raw out"),
        pytest.param([Datatype.FP32, Datatype.FP16], True, False, id="one FP16: raw for all"),
        pytest.param([Datatype.BF16], True, False, id="BF16 is raw"),
    ],
)
def test_answers_mirror_the_request_and_never_mix(
    outputs: list[Datatype], typed_in: bool, typed_out: bool
) -> None:
    tensors = [tensor(datatype, datatype.value) for datatype in outputs]
    message = codec.ModelInferResponse.FromString(
        codec.encode_response(Response("m", tensors), ASKED, typed_in)
    )
    assert [entry.HasField("contents") for entry in message.outputs] == [typed_out] * len(outputs)
    assert len(message.raw_output_contents) == (0 if typed_out else len(outputs))


def test_an_id_is_echoed_and_made_where_there_is_none() -> None:
    assert (
        codec.decode_response(codec.encode_response(Response("m", [], "7"), ASKED, False)).id == "7"
    )
    assert (
        len(codec.decode_response(codec.encode_response(Response("m", []), ASKED, False)).id) == 36
    )


def request_message(**fields: Any) -> bytes:
    return codec.ModelInferRequest(model_name="m", **fields).SerializeToString()


def entry(datatype: str, shape: list[int], name: str = "x", **contents: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
    return {**made, "contents": contents} if contents else made


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        pytest.param(
            request_message(
                inputs=[entry("FP32", [1], fp32_contents=[1])], raw_input_contents=[b"1234"]
            ),
            "contents field must not be specified when using raw_input_contents "
            "for 'x' for model 'm'",
            id="raw and typed",
        ),
        pytest.param(
            request_message(inputs=[entry("FP32", [1])], raw_input_contents=[b"1234", b"5678"]),
            "the number of inputs (1) does not match the expected number of raw input contents "
            "(2) for model 'm'.",
            id="more raw contents than inputs",
        ),
        pytest.param(
            request_message(inputs=[entry("FP32", [3])], raw_input_contents=[b"1234"]),
            "raw_input_contents[0] of input 'x': FP32 of shape [3] needs 12 bytes, got 4",
            id="short raw contents",
        ),
        pytest.param(
            request_message(inputs=[entry("FP32", [-1])], raw_input_contents=[b"1234"]),
            "raw_input_contents[0] of input 'x': shape [-1] has a negative dimension",
            id="negative dimension, raw",
        ),
        pytest.param(
            request_message(inputs=[entry("FP32", [-1], fp32_contents=[1])]),
            "contents of input 'x': shape [-1] has a negative dimension",
            id="negative dimension, typed",
        ),
        pytest.param(
            request_message(inputs=[entry("FP32", [2**62] * 1_000_000)]),
            "contents of input 'x': shape has 1000000 dimensions, the most is 32",
            id="a million dimensions",
        ),
        pytest.param(
            request_message(
                inputs=[{**entry("FP32", [0]), "parameters": {str(i): {} for i in range(1001)}}]
            ),
            "inputs[0]: 1001 parameters, at most 1000 are read",
            id="a thousand and one parameters",
        ),
        pytest.param(
            b"\x3a\x00" * 100_001,
            "the message has more than 100000 fields (tensors and parameters)",
            id="a hundred thousand and one fields",
        ),
        pytest.param(
            request_message(inputs=[entry("BYTES", [1])], raw_input_contents=[b"\x09\0\0\0abc"]),
            "raw_input_contents[0] of input 'x': BYTES element 0 says 9 bytes, but 3 are left",
            id="BYTES cut off",
        ),
        pytest.param(
            request_message(inputs=[entry("FP32", [1], fp64_contents=[1])]),
            "contents of input 'x': FP32 belongs in fp32_contents, got fp64_contents",
            id="typed in the wrong field",
        ),
        pytest.param(
            request_message(inputs=[entry("FP32", [2, 2], fp32_contents=[1, 2, 3])]),
            "contents of input 'x': shape [2, 2] needs 4 elements, fp32_contents has 3",
            id="too few typed elements",
        ),
        pytest.param(
            request_message(inputs=[entry("FP32", [1])]),
            "contents of input 'x': shape [1] needs 1 elements, fp32_contents has 0",
            id="no contents at all",
        ),
        pytest.param(
            request_message(inputs=[entry("FP16", [1], fp32_contents=[1])]),
            "contents of input 'x': FP16 has no typed contents; send it as raw contents",
            id="FP16 typed",
        ),
        pytest.param(
            request_message(inputs=[entry("INT8", [2], int_contents=[0, 128])]),
            "contents of input 'x': element 1 is 128, INT8 goes from -128 to 127",
            id="INT8 out of range",
        ),
        pytest.param(
            request_message(inputs=[entry("INT16", [1], int_contents=[-32769])]),
            "contents of input 'x': element 0 is -32769, INT16 goes from -32768 to 32767",
            id="INT16 out of range",
        ),
        pytest.param(
            request_message(inputs=[entry("UINT8", [1], uint_contents=[256])]),
            "contents of input 'x': element 0 is 256, UINT8 goes from 0 to 255",
            id="UINT8 out of range",
        ),
        pytest.param(
            request_message(inputs=[entry("UINT16", [1], uint_contents=[65536])]),
            "contents of input 'x': element 0 is 65536, UINT16 goes from 0 to 65535",
            id="UINT16 out of range",
        ),
        pytest.param(
            request_message(inputs=[entry("FP33", [1])]),
            "input 'x': unknown datatype 'FP33'; expected one of BOOL, UINT8, UINT16, UINT32, "
            "UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES",
            id="unknown datatype",
        ),
        pytest.param(
            request_message(inputs=[entry("FP32", [0], name="x"), entry("FP32", [0], name="x")]),
            "inputs[1]: there is another input 'x'",
            id="an input twice",
        ),
        pytest.param(
            request_message(parameters={"triton_final_response": {"bool_param": True}}),
            "request: parameter keys starting with 'triton_' are reserved, "
            "got 'triton_final_response'",
            id="a reserved parameter",
        ),
        pytest.param(
            request_message(parameters={"timeout": {"int64_param": -1}}),
            "request: 'timeout' must be a whole number from 0, got -1",
            id="a negative timeout",
        ),
        pytest.param(
            request_message(parameters={"priority": {}}),
            "request: parameter 'priority' has no value",
            id="a parameter without a value",
        ),
        pytest.param(
            request_message(
                outputs=[{"name": "y", "parameters": {"classification": {"int64_param": 0}}}]
            ),
            "outputs[0] 'y': 'classification' must be a whole number from 1, got 0",
            id="no classes",
        ),
        pytest.param(
            b"\xff\xff", "2 bytes are not a valid inference.ModelInferRequest", id="no message"
        ),
    ],
)
def test_a_wrong_request_is_refused_in_one_sentence(message: bytes, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(message)
    assert caught.value.reason == sentence


@pytest.mark.parametrize("datatype", ["FP32", "FP16", "BYTES"])
def test_an_empty_tensor_needs_no_contents(datatype: str) -> None:
    request = decode(request_message(inputs=[entry(datatype, [0, 2])]))
    assert request.inputs[0].shape == (0, 2)


def test_datatypes_are_read_in_any_case() -> None:
    request = decode(request_message(inputs=[entry("fp32", [0])]))
    assert request.inputs[0].datatype is Datatype.FP32


def test_shared_memory_is_refused() -> None:
    shared = {**entry("FP32", [1]), "parameters": {"shared_memory_region": {"string_param": "r"}}}
    with pytest.raises(NoSharedMemory) as caught:
        decode(request_message(inputs=[shared]))
    assert caught.value.reason == (
        "'x': shared memory is not supported; send the tensor in the body, as JSON or binary"
    )


def test_classification_answers_with_the_best_classes_as_text() -> None:
    asked = Request("m", [], outputs=[RequestedOutput("y", {"classification": 2})])
    scores = Tensor("y", np.array([[0.1, 0.7, 0.2]], "<f4"))
    answer = codec.decode_response(codec.encode_response(Response("m", [scores]), asked, False))
    assert answer.outputs[0].array.tolist() == [[b"0.700000:1", b"0.200000:2"]]


def test_bfloat16_is_two_raw_bytes_per_element() -> None:
    message = codec.ModelInferRequest.FromString(
        codec.encode_request(Request("m", [Tensor("x", np.array([1.5], ml_dtypes.bfloat16))]))
    )
    assert list(message.raw_input_contents) == [b"\xc0\x3f"]
