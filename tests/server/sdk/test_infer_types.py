"""InferRequest, InferResponse and their tensors: KServe's members and messages (contract §6.2)."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.server import (
    InferenceError,
    InferInput,
    InferOutput,
    InferRequest,
    InferResponse,
    InvalidInput,
    RequestedOutput,
    Tensor,
)

FLOATS = [1.0, 2.0, 3.0, 4.0]


def array(values: Any, dtype: str) -> NDArray[Any]:
    return np.array(values, dtype)


def of_datatype(values: NDArray[Any], datatype: str, shape: list[int]) -> InferInput:
    tensor = InferInput("x", shape, datatype)
    tensor.set_data_from_numpy(values)
    return tensor


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        pytest.param(
            InferInput("x", [2, 2], "fp32", FLOATS),
            array([[1, 2], [3, 4]], "float32"),
            id="flat list",
        ),
        pytest.param(
            InferInput("x", [2, 1], "INT64", [[1], [2]]),
            array([[1], [2]], "int64"),
            id="nested list",
        ),
        pytest.param(
            InferInput("x", [1], "FP16", array([0.5], "float16")),
            array([0.5], "float16"),
            id="an array",
        ),
        pytest.param(
            of_datatype(array([[1, 2]], "int8"), "INT8", [1, 2]),
            array([[1, 2]], "int8"),
            id="bytes set",
        ),
        pytest.param(
            InferInput("x", [2], "FP32", [1.0, None]),
            array([1, np.nan], "float32"),
            id="null is NaN",
        ),
        pytest.param(
            InferInput("x", [2], "BYTES", ["a", b"b"]),
            np.array(["a", b"b"], dtype=object),
            id="BYTES as they are",
        ),
    ],
)
def test_as_numpy(tensor: InferInput, expected: NDArray[Any]) -> None:
    found = tensor.as_numpy()
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        pytest.param(
            InferInput("x", [1], "FP7", [1]),
            "invalid datatype FP7 in the input",
            id="unknown datatype",
        ),
        pytest.param(
            InferInput("x", [3], "FP32", [1]),
            "tensor 'x': 1 elements do not fit the shape [3]",
            id="count",
        ),
        pytest.param(
            InferInput("x", [1], "INT32", [1.5]), "tensor 'x': 1.5 is no INT32", id="fraction"
        ),
        pytest.param(
            InferInput("x", [1], "UINT8", [300]), "tensor 'x': 300 is no UINT8", id="overflow"
        ),
        pytest.param(
            InferInput("x", [1], "FP32", ["a"]),
            "tensor 'x': the data is no FP32: could not convert string to float: 'a'",
            id="text",
        ),
        pytest.param(InferInput("x", [1], "FP32"), "tensor 'x': has no data", id="no data"),
    ],
)
def test_data_that_makes_no_array_is_refused(tensor: InferInput, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        tensor.as_numpy()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(InferInput("s", [2], "BYTES", ["a", "é"]), id="JSON strings"),
        pytest.param(InferInput("s", [2], "BYTES", [b"a", "é".encode()]), id="typed gRPC"),
        pytest.param(InferInput("s", [2, 1], "BYTES", [["a"], ["é"]]), id="nested"),
        pytest.param(
            of_datatype(np.array([b"a", "é".encode()], dtype=object), "BYTES", [2]), id="raw gRPC"
        ),
    ],
)
def test_as_string_is_a_list_of_str_whatever_came(tensor: InferInput) -> None:
    assert tensor.as_string() == ["a", "é"]


def test_as_string_of_numbers_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        InferInput("x", [1], "FP32", [1]).as_string()
    assert str(caught.value) == "invalid datatype FP32 in the input"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param(
            array([[1], [2]], "float64"),
            "got unexpected datatype FP64 from numpy array, expected FP32",
            id="datatype",
        ),
        pytest.param(
            array([[1, 2]], "float32"),
            "got unexpected numpy array shape [1, 2], expected [2, 1]",
            id="shape",
        ),
        pytest.param([1, 2], "input_tensor must be a numpy array", id="no array"),
    ],
)
def test_set_data_from_numpy_wants_what_was_declared(values: Any, message: str) -> None:
    with pytest.raises(InferenceError) as caught:
        InferInput("x", [2, 1], "FP32").set_data_from_numpy(values)
    assert str(caught.value) == message


def test_set_data_from_numpy_as_bytes_or_as_a_list() -> None:
    tensor = InferInput("x", [2], "FP32")
    tensor.set_data_from_numpy(array([1, 2], "float32"))
    assert (tensor.data, tensor.parameters) == (None, {"binary_data_size": 8})
    tensor.set_data_from_numpy(array([1, 2], "float32"), binary_data=False)
    assert (tensor.data, tensor.parameters) == ([1.0, 2.0], None)


def test_a_list_set_from_numpy_is_made_where_somebody_asks_for_it() -> None:
    values = array([1, 2], "float32")
    tensor = InferOutput("x", [2], "FP32")
    tensor.set_data_from_numpy(values, binary_data=False)
    values[0] = 9  # the caller's buffer is its own
    assert tensor._data is None
    assert tensor.to_tensor().array.tolist() == [1.0, 2.0]
    answer = InferResponse("", "m", [tensor])
    assert [list(each.contents.fp32_contents) for each in answer.to_grpc().outputs] == [[1.0, 2.0]]
    body, json_length = answer.to_rest()
    assert (body["outputs"][0]["data"], json_length) == ([1.0, 2.0], None)
    tensor.data[1] = 7.0
    assert tensor.as_numpy().tolist() == [1.0, 7.0]


def test_what_was_received_is_not_copied_until_data_is_asked_for() -> None:
    received = np.frombuffer(b"\x00\x00\x80?\x00\x00\x00@", "<f4")
    tensor = InferInput.from_tensor(Tensor("x", received), is_binary=True)
    assert np.shares_memory(tensor.as_numpy(), received)
    assert np.shares_memory(tensor.to_tensor().array, received)
    assert tensor.data == [1.0, 2.0]
    tensor.data[0] = 5.0
    assert tensor.as_numpy().tolist() == [5.0, 2.0]


def test_a_shape_may_be_changed() -> None:
    tensor = InferInput("x", [4], "FP32", FLOATS)
    tensor.shape = [2, 2]
    assert tensor.as_numpy().shape == (2, 2)


def test_request_to_rest_is_a_dict_where_all_is_json() -> None:
    request = InferRequest(
        "m",
        [InferInput("x", [2, 2], "FP32", [[1, 2], [3, 4]])],
        request_id="1",
        parameters={"a": 1},
        request_outputs=[RequestedOutput("y", {"binary_data": True}), RequestedOutput("z")],
    )
    assert request.to_rest() == (
        {
            "id": "1",
            "model_name": "m",
            "inputs": [
                {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2], [3, 4]]}
            ],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}, {"name": "z"}],
            "parameters": {"a": 1},
        },
        None,
    )


def test_request_survives_its_binary_form() -> None:
    request = InferRequest(
        "m",
        [of_datatype(array([1, 2], "float32"), "FP32", [2]), InferInput("y", [1], "INT64", [3])],
        request_id="1",
        parameters={"binary_data_output": True},
    )
    body, length = request.to_rest()
    assert isinstance(length, int)
    assert body[length:] == b"\x00\x00\x80?\x00\x00\x00@"
    read = InferRequest.from_bytes(body, length, "m")
    assert [each.as_numpy().tolist() for each in read.inputs] == [[1.0, 2.0], [3]]
    assert read.use_binary_outputs
    assert read.from_grpc is False


@pytest.mark.parametrize(
    ("body", "length", "message"),
    [
        (b"{}", 50, "inference header size should be in range (0, 2), got: 50"),
        (b"{}", 2, "Unrecognized request format: expected a list 'inputs'"),
        (b"[]", 2, "Unrecognized request format: expected an object, got []"),
        (
            b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP32",'
            b'"parameters":{"binary_data_size":8}}]}1234',
            91,
            "inputs[0]: binary_data_size 8, but 4 bytes follow",
        ),
    ],
    ids=["beyond the body", "no inputs", "no object", "too few bytes"],
)
def test_a_body_that_is_no_request_is_refused(body: bytes, length: int, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        InferRequest.from_bytes(body, length, "m")
    assert str(caught.value) == message


def test_fp16_has_no_json_form() -> None:
    request = InferRequest("m", [InferInput("x", [1], "FP16", array([1], "float16"))])
    with pytest.raises(InvalidInput) as caught:
        request.to_rest()
    assert str(caught.value) == (
        "Sending FP16 data via JSON is not supported. Please use the binary data format for input x"
    )


@pytest.mark.parametrize(
    ("tensors", "is_raw"),
    [
        pytest.param([InferInput("x", [2], "FP32", [1, 2])], False, id="lists are typed"),
        pytest.param(
            [InferInput("x", [2], "FP32", array([1, 2], "float32"))], True, id="arrays are raw"
        ),
        pytest.param(
            [InferInput("y", [1], "INT8", [1]), of_datatype(array([1, 2], "float32"), "FP32", [2])],
            True,
            id="one raw, all raw",
        ),
    ],
)
def test_grpc_is_typed_or_raw_never_mixed(tensors: list[InferInput], is_raw: bool) -> None:
    request = InferRequest("m", tensors, request_id="1", parameters={"f": 1.5, "b": True, "s": "t"})
    message = request.to_grpc()
    assert len(message.raw_input_contents) == (len(tensors) if is_raw else 0)
    read = InferRequest.from_grpc(message)
    assert read.from_grpc is True
    assert read.parameters == {"f": 1.5, "b": True, "s": "t"}
    for one, other in zip(read.inputs, tensors, strict=True):
        np.testing.assert_array_equal(one.as_numpy(), other.as_numpy())
        assert one.data == np.asarray(other.as_numpy()).tolist()


def test_a_parameter_grpc_cannot_carry_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        InferRequest("m", [], parameters={"a": [1]}).to_grpc()
    assert str(caught.value) == "to_grpc: invalid parameter value: [1]"


def test_response_gives_each_output_as_it_was_asked_for() -> None:
    response = InferResponse(
        "1",
        "m",
        [
            InferOutput("o", [2], "FP32", [1, 2]),
            InferOutput("p", [1], "FP32", array([3], "float32")),
        ],
        requested_outputs=[RequestedOutput("p", {"binary_data": True}), RequestedOutput("o")],
    )
    body, length = response.to_rest()
    read = InferResponse.from_bytes(body, length or 0)
    assert [each.name for each in read.outputs] == ["p", "o"]
    assert read.outputs[0].is_binary
    assert [each.as_numpy().tolist() for each in read.outputs] == [[3.0], [1.0, 2.0]]


def test_an_output_nobody_made_is_refused() -> None:
    response = InferResponse(
        "1",
        "m",
        [InferOutput("o", [1], "FP32", [1])],
        requested_outputs=[RequestedOutput("zz")],
    )
    with pytest.raises(InvalidInput) as caught:
        response.to_rest()
    assert str(caught.value) == "Unexpected inference output 'zz' for model 'm'"


def test_as_dataframe_has_a_column_per_input() -> None:
    request = InferRequest(
        "m", [InferInput("n", [2, 1], "INT64", [1, 2]), InferInput("s", [2], "BYTES", ["a", "b"])]
    )
    assert request.as_dataframe().to_dict("list") == {"n": [1, 2], "s": ["a", "b"]}


def test_equality_is_of_names_shapes_and_values() -> None:
    one = InferInput("x", [2], "FP32", [1, 2])
    assert one == InferInput("x", [2], "FP32", array([1, 2], "float32"))
    assert one != InferInput("x", [2], "FP32", [1, 3])
    assert InferRequest("m", [one]) == InferRequest("m", [one])
