"""Every datatype goes over the wire and back unharmed, as JSON and as binary."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from headrace.server.protocol import v2_rest
from headrace.server.protocol.limits import ParseLimits
from headrace.server.protocol.v2_response import encode
from headrace.server.request import Request, Response
from headrace.server.tensor import NOT_IN_JSON, NUMPY, Datatype, Tensor, bytes_array

LIMITS = ParseLimits()
SHAPES = array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@st.composite
def tensors(draw: st.DrawFn, datatype: Datatype, is_text: bool) -> Tensor:
    """A tensor of any shape and any bits; is_text: of what JSON can carry."""
    shape = draw(SHAPES)
    count = int(np.prod(shape))
    if datatype is Datatype.BYTES:
        element = st.text().map(str.encode) if is_text else st.binary()
        elements = draw(st.lists(element, min_size=count, max_size=count))
        return Tensor("x", bytes_array(elements, shape), datatype)
    dtype = NUMPY[datatype]
    raw = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    bits = np.frombuffer(raw, np.uint8)
    array = (bits & 1 if datatype is Datatype.BOOL else bits).view(dtype).reshape(shape)
    if is_text and datatype in (Datatype.FP32, Datatype.FP64):
        array = np.where(np.isinf(array), 0, array).astype(dtype)  # infinities are null in JSON
    return Tensor("x", array, datatype)


def returned(tensor: Tensor, is_binary: bool) -> np.ndarray[Any, Any]:
    """tensor after one answer and one request: what we write, we read."""
    asked = Request("m", [], "1", parameters={"binary_data_output": is_binary})
    encoded = encode(Response("m", [tensor]), asked)
    body = encoded.body.replace(b'"outputs"', b'"inputs"', 1)
    length = encoded.json_length and encoded.json_length - 1
    if is_binary and length is None:
        length = len(body)
    request = v2_rest.to_request(v2_rest.parse(body, length, LIMITS), "m", [], LIMITS)
    assert request.inputs[0].datatype is tensor.datatype
    return request.inputs[0].array


@pytest.mark.parametrize("datatype", list(Datatype))
@settings(derandomize=True, max_examples=60, deadline=None)
@given(data=st.data())
def test_binary_keeps_every_bit(datatype: Datatype, data: st.DataObject) -> None:
    tensor = data.draw(tensors(datatype, is_text=False))
    array = returned(tensor, is_binary=True)
    assert array.shape == tensor.shape
    assert array.dtype == NUMPY[datatype]
    if datatype is Datatype.BYTES:
        assert array.tolist() == tensor.array.tolist()
    else:
        assert array.tobytes() == tensor.array.tobytes()


@pytest.mark.parametrize("datatype", [d for d in Datatype if d not in NOT_IN_JSON])
@settings(derandomize=True, max_examples=60, deadline=None)
@given(data=st.data())
def test_json_keeps_every_value(datatype: Datatype, data: st.DataObject) -> None:
    tensor = data.draw(tensors(datatype, is_text=True))
    array = returned(tensor, is_binary=False)
    assert array.shape == tensor.shape
    assert array.dtype == NUMPY[datatype]
    if datatype is Datatype.BYTES:
        assert array.tolist() == tensor.array.tolist()
    else:
        np.testing.assert_array_equal(array, tensor.array)
