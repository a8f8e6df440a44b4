"""Triton's generate and generate_stream (contract §4.7): flat JSON to tensors and back, and SSE."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.server.errors import InvalidInput
from headrace.server.protocol.json_tensor import to_array
from headrace.server.protocol.json_text import dumps
from headrace.server.protocol.parameters import (
    check_parameters,
    check_request_parameters,
    json_type,
)
from headrace.server.protocol.v2_response import json_data
from headrace.server.request import Request, Response
from headrace.server.tensor import NOT_IN_JSON, NUMPY, Datatype, Tensor, TensorSpec

EVENT_STREAM = "text/event-stream; charset=utf-8"
AT = "request body"
TEXT_INPUT = "text_input"


def to_request(
    body: Any,
    model_name: str,
    declared: Sequence[TensorSpec],
    model_version: str = "",
    is_stream: bool = False,
) -> Request:
    """A generate body as a request. body: decoded JSON.

    Keys that name declared inputs become tensors of the declared shape, all others parameters.
    A model that declares nothing gets `text_input` and every list as a tensor of one dimension.
    Raises InvalidInput.
    """
    if not isinstance(body, dict):
        raise InvalidInput(f"{AT}: expected an object, got {json_type(body)}")
    request_id = body.get("id", "")
    if not isinstance(request_id, str):
        raise InvalidInput(f"{AT}: 'id' must be a string, got {json_type(request_id)}")
    specs = {spec.name: spec for spec in declared}
    inputs: list[Tensor] = []
    extra: dict[str, Any] = {}
    for key, value in body.items():
        if key in specs:
            inputs.append(_fitted(key, value, specs[key].datatype, specs[key].shape))
        elif not specs and (key == TEXT_INPUT or isinstance(value, list)):
            inputs.append(_fitted(key, value, _guessed(value), (-1,)))
        elif key not in ("id", "parameters"):
            extra[key] = value
    own = check_parameters(body.get("parameters"), f"{AT}: 'parameters'")
    parameters = check_request_parameters({**extra, **own}, AT, is_stream)
    return Request(model_name, inputs, request_id, model_version, parameters)


def to_json(response: Response) -> dict[str, Any]:
    """response as a flat object: one element as a scalar, several as a list."""
    answer: dict[str, Any] = {"id": response.id} if response.id else {}
    answer["model_name"] = response.model_name
    if response.model_version:
        answer["model_version"] = response.model_version
    for tensor in response.outputs:
        if tensor.datatype in NOT_IN_JSON:  # no binary form to ask for here, so it is widened
            tensor = Tensor(tensor.name, tensor.array.astype("f4"), Datatype.FP32)
        data = json_data(tensor)
        answer[tensor.name] = data[0] if len(data) == 1 else data
    return answer


def event(value: Mapping[str, Any]) -> bytes:
    """value as one server-sent event."""
    return b"data: " + dumps(value) + b"\n\n"


def _fitted(name: str, value: Any, datatype: Datatype, declared: Sequence[int]) -> Tensor:
    """value, a scalar or a flat list, in the declared shape."""
    at = f"input '{name}'"
    data = value if isinstance(value, list) else [value]
    shape = fit_shape(declared, len(data))
    if shape is None or any(isinstance(item, list | dict) for item in data):
        raise InvalidInput(
            f"The schema can not convert input '{name}' to tensor with proper shape: "
            f"{len(data)} element(s) for shape {list(declared)}"
        )
    if datatype in NOT_IN_JSON:
        wide = to_array(data, Datatype.FP32, shape, at)
        return Tensor(name, wide.astype(NUMPY[datatype]), datatype)
    return Tensor(name, to_array(data, datatype, shape, at), datatype)


def fit_shape(declared: Sequence[int], count: int) -> tuple[int, ...] | None:
    """declared with its free dimensions filled for count elements; None if they do not fit.

    The innermost free dimension takes what the fixed ones leave, other free ones are 1.
    """
    fixed = math.prod(dim for dim in declared if dim != -1)
    free = [axis for axis, dim in enumerate(declared) if dim == -1]
    if not free:
        return tuple(declared) if fixed == count else None
    if not fixed or count % fixed:
        return None
    shape = [1 if dim == -1 else dim for dim in declared]
    shape[free[-1]] = count // fixed
    return tuple(shape)


def _guessed(value: Any) -> Datatype:
    items = value if isinstance(value, list) else [value]
    kinds = set(map(type, items))
    if kinds == {bool}:
        return Datatype.BOOL
    if kinds == {int}:
        return Datatype.INT64
    return Datatype.FP64 if kinds and kinds <= {int, float} else Datatype.BYTES
