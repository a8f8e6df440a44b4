"""Requests as hooks of a user's `Model` take them, and what they return as answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from headrace.server.errors import InferenceError, InvalidInput
from headrace.server.infer_tensors import InferInput
from headrace.server.infer_types import InferRequest, InferResponse
from headrace.server.predict_io import generate_uuid
from headrace.server.request import Context, Request, Response
from headrace.server.tensor import Tensor, TensorSpec, to_datatype


def to_infer_request(request: Request) -> InferRequest:
    """request over the same buffers; an absent id is made here, so that hooks see the final one."""
    inputs = [
        InferInput.from_tensor(
            tensor,
            request.input_parameters.get(tensor.name),
            is_text=not request.from_grpc,
            is_nested=tensor.name in request.nested_inputs,
            is_binary=tensor.name in request.binary_inputs,
        )
        for tensor in request.inputs
    ]
    request.id = request.id or generate_uuid()
    return InferRequest(
        request.model_name,
        inputs,
        request_id=request.id,
        from_grpc=request.from_grpc,
        parameters=request.parameters or None,
        request_outputs=list(request.outputs) or None,
        model_version=request.model_version or None,
    )


def to_response(result: Any, model_name: str) -> Response:
    """A hook's V2 result. Raises InferenceError for one that is no V2 answer."""
    if hasattr(result, "raw_output_contents"):  # a ModelInferResponse, whoever generated it
        result = InferResponse.from_grpc(result)
    elif isinstance(result, dict) and "outputs" in result:
        result = InferResponse.from_rest(result)
    if not isinstance(result, InferResponse):
        raise InferenceError(
            f"model {model_name} answered a V2 request with {_described(result)}; expected an "
            "InferResponse, a dict with 'outputs' or a ModelInferResponse"
        )
    tensors: list[Tensor] = []
    parameters: dict[str, Mapping[str, Any]] = {}
    for output in result.outputs:
        try:
            tensors.append(output.to_tensor())
        except InvalidInput as err:  # the model's mistake, not the caller's
            raise InferenceError(f"model {model_name}: {err}") from err
        kept = {k: v for k, v in (output.parameters or {}).items() if k != "binary_data_size"}
        if kept:
            parameters[output.name] = kept
    return Response(
        model_name,
        tensors,
        result.id or "",
        result.model_version or "",
        result.parameters or {},
        parameters,
    )


def to_specs(types: Any, model_name: str) -> Sequence[TensorSpec]:
    """Declared tensors of `get_input_types()`. Raises InvalidInput for a datatype there is not."""
    at = f"model {model_name}: declared types"
    return tuple(
        TensorSpec(
            str(entry["name"]),
            to_datatype(str(entry["datatype"]), at),
            tuple(int(dim) for dim in entry["shape"]),
        )
        for entry in types or ()
    )


def v1_body(result: Any, context: Context) -> Any:
    """What rest/ serialises: an InferResponse in V1 is its V2 body (contract §1.4)."""
    if hasattr(result, "raw_output_contents"):
        result = InferResponse.from_grpc(result)
    if not isinstance(result, InferResponse):
        return result
    body, json_length = result.to_rest()
    if json_length is None:
        return {key: value for key, value in body.items() if value is not None}
    context.response_headers["inference-header-content-length"] = str(json_length)
    context.response_headers.setdefault("content-type", "application/octet-stream")
    return body


def _described(result: Any) -> str:
    if isinstance(result, dict):
        return f"a dict with the keys {sorted(map(str, result))}"
    return f"a {type(result).__name__}"
