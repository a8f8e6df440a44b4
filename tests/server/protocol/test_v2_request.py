"""V2 REST requests in JSON: the tables of the contract, §2.2 to §2.5."""

from typing import Any

import numpy as np
import orjson
import pytest

from headrace.server.errors import Code, InvalidInput, ServingError
from headrace.server.protocol import v2_rest
from headrace.server.protocol.limits import ParseLimits
from headrace.server.protocol.parameters import (
    check_request_parameters,
    priority,
    timeout_s,
)
from headrace.server.request import Request
from headrace.server.tensor import Datatype, TensorSpec

LIMITS = ParseLimits()
X: dict[str, Any] = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}


def read(body: bytes, limits: ParseLimits = LIMITS) -> Request:
    return v2_rest.to_request(v2_rest.parse(body, None, limits), "m", [], limits)


def read_input(limits: ParseLimits = LIMITS, **changes: Any) -> Any:
    """The array of the only input: X with changes."""
    return read(orjson.dumps({"inputs": [{**X, **changes}]}), limits).inputs[0].array


def refusal(body: bytes, limits: ParseLimits = LIMITS) -> ServingError:
    with pytest.raises(ServingError) as caught:
        read(body, limits)
    return caught.value


def test_a_whole_request_is_read() -> None:
    request = read(
        b'{"id":"42","model_name":"ignored","parameters":{"priority":1,"user":"a"},"new":[],'
        b'"inputs":[{"name":"x","shape":[2,2],"datatype":"fp32","parameters":{"k":0.5},'
        b'"data":[[1,2],[3,4]]},{"name":"t","shape":[1],"datatype":"BYTES","data":["\xc3\xa9"]}],'
        b'"outputs":[{"name":"y","parameters":{"binary_data":true}}]}'
    )
    assert request.id == "42"
    assert request.model_name == "m"
    assert request.parameters == {"priority": 1, "user": "a"}
    assert [tensor.name for tensor in request.inputs] == ["x", "t"]
    assert request.inputs[0].array.tolist() == [[1, 2], [3, 4]]
    assert request.inputs[0].array.dtype == np.float32
    assert request.inputs[1].array.tolist() == ["é".encode()]
    assert request.input_parameters == {"x": {"k": 0.5}}
    assert request.nested_inputs == {"x"}
    assert request.binary_inputs == frozenset()
    assert [(o.name, o.binary_data) for o in request.outputs] == [("y", True)]


def test_null_stands_for_absent() -> None:
    request = read(
        b'{"id":null,"parameters":null,"outputs":null,"inputs":[{"name":"x","shape":[1],'
        b'"datatype":"INT8","parameters":null,"data":[1]}]}'
    )
    assert (request.id, request.parameters, request.outputs) == ("", {}, [])


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        pytest.param(b"", "request body: empty; expected JSON", id="empty body"),
        pytest.param(
            b"{",
            "request body: not valid JSON: unexpected end of data: line 1 column 2 (char 1)",
            id="bad JSON",
        ),
        pytest.param(b"[]", "request body: Expected `object`, got `array`", id="not an object"),
        pytest.param(
            b'{"id":"1"}',
            "request body: Object missing required field `inputs`",
            id="inputs missing",
        ),
        pytest.param(
            b'{"inputs":[]}',
            "request body: Expected `array` of length >= 1 - at `$.inputs`",
            id="inputs empty",
        ),
        pytest.param(
            b'{"id":7,"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}]}',
            "request body: Expected `str | null`, got `int` - at `$.id`",
            id="id is a number",
        ),
        pytest.param(
            b'{"inputs":[{"shape":[1],"datatype":"INT8","data":[1]}]}',
            "request body: Object missing required field `name` - at `$.inputs[0]`",
            id="a name is missing",
        ),
        pytest.param(
            b'{"inputs":[{"name":"x","shape":[1.5],"datatype":"INT8","data":[1]}]}',
            "request body: Expected `int`, got `float` - at `$.inputs[0].shape[0]`",
            id="a dimension is no whole number",
        ),
        pytest.param(
            b'{"inputs":[{"name":"x","shape":[-2],"datatype":"INT8","data":[1]}]}',
            "request body: Expected `int` >= -1 - at `$.inputs[0].shape[0]`",
            id="a dimension is negative",
        ),
        pytest.param(
            b'{"parameters":{"a":[1]},"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}]}',
            "request body: parameter 'a' is an array; expected a string, number or boolean",
            id="a nested parameter",
        ),
        pytest.param(
            b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1],"parameters":{"a":{}}}]}',
            "inputs[0] 'x': parameter 'a' is an object; expected a string, number or boolean",
            id="a nested tensor parameter",
        ),
        pytest.param(
            b'{"parameters":3,"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}]}',
            "request body: expected an object, got a number",
            id="parameters are no object",
        ),
        pytest.param(
            b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]},'
            b'{"name":"x","shape":[1],"datatype":"INT8","data":[1]}]}',
            "inputs[1]: there is another input 'x'",
            id="duplicate input",
        ),
        pytest.param(
            b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP33","data":[1]}]}',
            "input 'x': unknown datatype 'FP33'; expected one of BOOL, UINT8, UINT16, UINT32, "
            "UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES",
            id="unknown datatype",
        ),
        pytest.param(
            b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT8"}]}',
            "input 'x' must set exactly one of 'data' and the parameter 'binary_data_size', "
            "it sets neither",
            id="no data",
        ),
        pytest.param(
            b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1],'
            b'"parameters":{"binary_data_size":1}}]}',
            "input 'x' must set exactly one of 'data' and the parameter 'binary_data_size', "
            "it sets both",
            id="two sources of data",
        ),
        pytest.param(
            b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}],'
            b'"outputs":[{"name":"y","parameters":{"binary_data":1}}]}',
            "outputs[0] 'y': 'binary_data' must be a boolean, got 1",
            id="binary_data is no boolean",
        ),
        pytest.param(
            b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}],'
            b'"outputs":[{"name":"y","parameters":{"classification":0}}]}',
            "outputs[0] 'y': 'classification' must be a whole number from 1, got 0",
            id="classification of nothing",
        ),
    ],
)
def test_a_malformed_request_is_the_callers_mistake(body: bytes, sentence: str) -> None:
    error = refusal(body)
    assert str(error) == sentence
    assert error.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("where", ["input", "output"])
def test_shared_memory_is_refused_with_404(where: str) -> None:
    region = {"shared_memory_region": "r", "shared_memory_byte_size": 4}
    given: dict[str, Any] = {"name": "x", "shape": [1], "datatype": "FP32"}
    body: dict[str, Any] = {"inputs": [{**given, "parameters": region}]}
    if where == "output":
        body = {
            "inputs": [{**given, "data": [1]}],
            "outputs": [{"name": "x", "parameters": region}],
        }
    error = refusal(orjson.dumps(body))
    assert str(error) == (
        "'x': shared memory is not supported; send the tensor in the body, as JSON or binary"
    )
    assert (error.code, error.status) == (Code.UNIMPLEMENTED, 404)


def test_an_unknown_datatype_is_told_what_the_model_declares() -> None:
    envelope = v2_rest.parse(orjson.dumps({"inputs": [{**X, "datatype": "float"}]}), None, LIMITS)
    with pytest.raises(InvalidInput) as caught:
        v2_rest.to_request(envelope, "m", [TensorSpec("x", Datatype.FP32, (-1, 2))], LIMITS)
    assert str(caught.value).endswith("FP64, BYTES; the model declares FP32")


@pytest.mark.parametrize(
    ("shape", "data", "value"),
    [
        pytest.param([2, 2], [1, 2, 3, 4], [[1, 2], [3, 4]], id="flat"),
        pytest.param([2, 2], [[1, 2], [3, 4]], [[1, 2], [3, 4]], id="nested"),
        pytest.param([1, 2, 1], [[[1], [2]]], [[[1], [2]]], id="nested in three"),
        pytest.param([-1, 2], [1, 2, 3, 4], [[1, 2], [3, 4]], id="one -1 takes the rest"),
        pytest.param([2, -1], [[1, 2], [3, 4]], [[1, 2], [3, 4]], id="one -1, nested"),
        pytest.param([], [5], 5, id="a scalar"),
        pytest.param([0, 2], [], [], id="no rows"),
        pytest.param([2, 0], [[], []], [[], []], id="rows of nothing"),
        pytest.param([2, 0, 3], [[], []], [[], []], id="rows of nothing in three"),
        pytest.param([1, 2], [None, 1.5], [[None, 1.5]], id="null is NaN"),
    ],
)
def test_shapes(shape: list[int], data: list[Any], value: Any) -> None:
    array = read_input(shape=shape, data=data)
    expected = np.array(value, np.float32)
    np.testing.assert_array_equal(array, expected.reshape(array.shape))
    assert -1 in shape or list(array.shape) == shape


@pytest.mark.parametrize(
    ("shape", "data", "sentence"),
    [
        pytest.param(
            [3, 2], [1, 2, 3, 4], "input 'x': shape [3, 2] needs 6 elements, got 4", id="too few"
        ),
        pytest.param([], [], "input 'x': shape [] needs 1 elements, got 0", id="a scalar of none"),
        pytest.param(
            [2, 2],
            [[1, 2, 3], [4]],
            "input 'x': the nesting of 'data' does not match shape [2, 2]",
            id="ragged, though the count fits",
        ),
        pytest.param(
            [2, 2],
            [[1, 2], 3, 4],
            "input 'x': the nesting of 'data' does not match shape [2, 2]",
            id="half nested",
        ),
        pytest.param(
            [4],
            [[1], [2], [3], [4]],
            "input 'x': the nesting of 'data' does not match shape [4]",
            id="deeper than the shape",
        ),
        pytest.param(
            [1, 2, 2],
            [[1, 2], [3, 4]],
            "input 'x': the nesting of 'data' does not match shape [1, 2, 2]",
            id="partly flattened",
        ),
        pytest.param(
            [2, 2],
            [[1, 2], [3, [4]]],
            "input 'x': the nesting of 'data' does not match shape [2, 2]",
            id="one element is nested",
        ),
        pytest.param(
            [-1, -1], [1, 2], "input 'x': shape [-1, -1] has more than one -1", id="two -1"
        ),
        pytest.param(
            [-1, 3],
            [1, 2],
            "input 'x': 2 elements do not divide into shape [-1, 3] (3 per -1)",
            id="-1 does not divide",
        ),
        pytest.param(
            [-1, 0],
            [],
            "input 'x': 0 elements do not divide into shape [-1, 0] (0 per -1)",
            id="-1 beside 0",
        ),
        pytest.param(
            [2**62, 4],
            [1],
            f"input 'x': shape [{2**62}, 4] has more elements than fit int64",
            id="beyond int64",
        ),
        pytest.param(
            [0, 2**62, 4],
            [],
            f"input 'x': shape [0, {2**62}, 4] has more elements than fit int64",
            id="beyond int64 beside 0",
        ),
        pytest.param(
            [1] * 33, [1], "input 'x': shape has 33 dimensions, the most is 32", id="dimensions"
        ),
        pytest.param(
            [1], 5, "input 'x': 'data' must be an array, got a number", id="a bare scalar"
        ),
    ],
)
def test_shapes_that_do_not_fit(shape: list[int], data: Any, sentence: str) -> None:
    assert str(refusal(orjson.dumps({"inputs": [{**X, "shape": shape, "data": data}]}))) == sentence


def test_ragged_data_is_accepted_where_the_operator_allows_it() -> None:
    lenient = ParseLimits(lenient_shapes=True)
    assert read_input(lenient, data=[[1, 2, 3], [4]]).tolist() == [[1, 2], [3, 4]]
    assert read_input(lenient, data=[[1, [2]], 3, 4]).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("datatype", "data", "value"),
    [
        pytest.param("BOOL", [True, False, 1, 0], [True, False, True, False], id="BOOL, also 0/1"),
        pytest.param("UINT8", [0, 255], [0, 255], id="UINT8"),
        pytest.param("INT8", [-128, 127], [-128, 127], id="INT8"),
        pytest.param("UINT16", [0, 65535], [0, 65535], id="UINT16"),
        pytest.param("INT16", [-32768, 32767], [-32768, 32767], id="INT16"),
        pytest.param("UINT32", [0, 2**32 - 1], [0, 2**32 - 1], id="UINT32"),
        pytest.param("INT32", [-(2**31), 2**31 - 1], [-(2**31), 2**31 - 1], id="INT32"),
        pytest.param("UINT64", [0, 2**64 - 1], [0, 2**64 - 1], id="UINT64, all 64 bits"),
        pytest.param("INT64", [-(2**63), 2**63 - 1], [-(2**63), 2**63 - 1], id="INT64"),
        pytest.param("INT64", [2**53 + 1, 1.0], [2**53 + 1, 1], id="INT64 beside 1.0"),
        pytest.param("FP32", [1, 0.1], [1.0, 0.10000000149011612], id="FP32"),
        pytest.param("FP64", [1, 0.1], [1.0, 0.1], id="FP64"),
        pytest.param("BYTES", ["", "ü"], [b"", "ü".encode()], id="BYTES"),
    ],
)
def test_datatypes(datatype: str, data: list[Any], value: list[Any]) -> None:
    array = read_input(shape=[len(data)], datatype=datatype, data=data)
    assert array.tolist() == value


@pytest.mark.parametrize(
    ("datatype", "data", "sentence"),
    [
        pytest.param(
            "INT32",
            [1, 1.7],
            "input 'x': data[1] is 1.7, INT32 needs a whole number from -2147483648 to 2147483647",
            id="a fraction into an integer",
        ),
        pytest.param(
            "INT8",
            [1, 300],
            "input 'x': data[1] is 300, INT8 needs a whole number from -128 to 127",
            id="out of range",
        ),
        pytest.param(
            "UINT64",
            [1, -1],
            "input 'x': data[1] is -1, UINT64 needs a whole number from 0 to 18446744073709551615",
            id="negative into unsigned",
        ),
        pytest.param(
            "INT64",
            [1, 2**63],
            "input 'x': data[1] is 9223372036854775808, INT64 needs a whole number "
            "from -9223372036854775808 to 9223372036854775807",
            id="one beyond 64 bits",
        ),
        pytest.param(
            "INT64",
            [1, 1e17],
            "input 'x': data[1] is 1e+17, INT64 needs a whole number "
            "from -9223372036854775808 to 9223372036854775807",
            id="a double that may have been rounded",
        ),
        pytest.param(
            "INT32",
            [1, None],
            "input 'x': data[1] is null, INT32 needs a whole number",
            id="null into an integer",
        ),
        pytest.param(
            "INT32",
            [1, True],
            "input 'x': data[1] is a boolean, INT32 needs a whole number",
            id="a boolean into an integer",
        ),
        pytest.param(
            "FP32",
            [1, True],
            "input 'x': data[1] is a boolean, FP32 needs a number or null",
            id="a boolean into a float",
        ),
        pytest.param(
            "FP32",
            [1, "2"],
            "input 'x': data[1] is a string, FP32 needs a number or null",
            id="a string into a float",
        ),
        pytest.param(
            "FP32",
            [1, {}],
            "input 'x': data[1] is an object, FP32 needs a number or null",
            id="an object into a float",
        ),
        pytest.param(
            "FP32",
            [1, 1e39],
            "input 'x': data[1] is 1e+39, out of range for FP32",
            id="a double that no float32 holds",
        ),
        pytest.param(
            "BOOL",
            [1, 2],
            "input 'x': data[1] is 2, BOOL needs true, false, 0 or 1",
            id="2 is no boolean",
        ),
        pytest.param(
            "BOOL",
            [1, 1.0],
            "input 'x': data[1] is a number, BOOL needs true or false",
            id="a float is no boolean",
        ),
        pytest.param(
            "BYTES",
            ["a", 1],
            "input 'x': data[1] is a number, BYTES needs a string",
            id="a number into BYTES",
        ),
        pytest.param(
            "FP16",
            [1, 2],
            "Sending FP16 data via JSON is not supported. "
            "Please use the binary data format for input 'x'",
            id="FP16 in JSON",
        ),
        pytest.param(
            "BF16",
            [1, 2],
            "Sending BF16 data via JSON is not supported. "
            "Please use the binary data format for input 'x'",
            id="BF16 in JSON",
        ),
    ],
)
def test_elements_of_the_wrong_kind(datatype: str, data: list[Any], sentence: str) -> None:
    body = orjson.dumps({"inputs": [{**X, "shape": [2], "datatype": datatype, "data": data}]})
    assert str(refusal(body)) == sentence


def test_the_literals_of_non_finite_numbers_are_read() -> None:
    request = read(
        b'{"inputs":[{"name":"x","shape":[4],"datatype":"FP32","data":[NaN,Infinity,-Infinity,1]}]}'
    )
    assert str(request.inputs[0].array.tolist()) == "[nan, inf, -inf, 1.0]"


def test_the_literals_do_not_fit_integers() -> None:
    error = refusal(b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[NaN]}]}')
    assert str(error) == "input 'x': data[0] is nan, INT8 needs a whole number from -128 to 127"


def test_base64_is_decoded_when_the_tensor_or_the_request_says_so() -> None:
    on_tensor: dict[str, Any] = {"datatype": "BYTES", "shape": [2], "data": ["/wA=", ""]}
    array = read_input(**on_tensor, parameters={"content_type": "base64"})
    assert array.tolist() == [b"\xff\x00", b""]
    body: dict[str, Any] = {
        "inputs": [{**X, **on_tensor}],
        "parameters": {"content_type": "base64"},
    }
    request = read(orjson.dumps(body))
    assert request.inputs[0].array.tolist() == [b"\xff\x00", b""]
    assert request.parameters == {"content_type": "base64"}
    body["inputs"][0]["data"] = ["ok", "a"]
    assert str(refusal(orjson.dumps(body))) == (
        "input 'x': data[0] is not base64: Incorrect padding"
    )


@pytest.mark.parametrize("hint", ["str", "np", "pd"])
def test_other_hints_stay_visible(hint: str) -> None:
    body = {"inputs": [{**X, "parameters": {"content_type": hint}}]}
    assert read(orjson.dumps(body)).input_parameters == {"x": {"content_type": hint}}


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        pytest.param(
            {"priority": -1}, "p: 'priority' must be a whole number from 0, got -1", id="negative"
        ),
        pytest.param(
            {"timeout": "5"}, "p: 'timeout' must be a whole number from 0, got '5'", id="a string"
        ),
        pytest.param(
            {"timeout": 1.5}, "p: 'timeout' must be a whole number from 0, got 1.5", id="fraction"
        ),
        pytest.param(
            {"binary_data_output": 1},
            "p: 'binary_data_output' must be a boolean, got 1",
            id="1 is no boolean",
        ),
        pytest.param(
            {"triton_x": 1},
            "p: parameter keys starting with 'triton_' are reserved, got 'triton_x'",
            id="reserved prefix",
        ),
        pytest.param(
            {"triton_enable_empty_final_response": True},
            "p: parameter keys starting with 'triton_' are reserved, "
            "got 'triton_enable_empty_final_response'",
            id="a stream's own, on no stream",
        ),
    ],
)
def test_reserved_parameters_have_their_types(parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_request_parameters(parameters, "p")
    assert str(caught.value) == sentence


def test_a_stream_may_ask_for_its_empty_final_response() -> None:
    given = {"triton_enable_empty_final_response": True}
    assert check_request_parameters(given, "p", is_stream=True) == given


def test_timeout_is_in_microseconds_and_0_is_none() -> None:
    assert timeout_s({"timeout": 2_500_000}) == 2.5
    assert timeout_s({"timeout": 0}) is None
    assert timeout_s({}) is None
    assert (priority({"priority": 2}), priority({})) == (2, 0)
