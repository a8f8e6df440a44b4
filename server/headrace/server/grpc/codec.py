"""ModelInferRequest and ModelInferResponse ↔ `Request` and `Response`: pure, knows no gRPC.

Raw contents become views of the received message and are joined to the reply uncopied (wire.py);
typed contents go through contents.py. Rules and sentences: data-plane contract §3.3 and §2.5.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from headrace.server.errors import InvalidInput, NoSharedMemory
from headrace.server.grpc import parameters, wire
from headrace.server.grpc.contents import RAW_ONLY, from_contents, to_contents
from headrace.server.grpc.envelope import (
    RAW_INPUTS,
    Envelope,
    ModelInferRequest,
    OutputHead,
    TensorHead,
    open_request,
    parse,
)
from headrace.server.grpc.messages import message_class
from headrace.server.protocol.classification import top_classes
from headrace.server.protocol.parameters import check_request_parameters
from headrace.server.protocol.v2_response import random_id
from headrace.server.request import (
    NO_PARAMETERS,
    Parameters,
    Request,
    RequestedOutput,
    Response,
)
from headrace.server.tensor import (
    Buffer,
    Datatype,
    Tensor,
    check_shape,
    from_raw,
    to_datatype,
    to_raw,
)

__all__ = ["RAW_INPUTS", "Envelope", "ModelInferRequest", "open_request", "parse"]

ModelInferResponse = message_class("inference.ModelInferResponse")
ModelStreamInferResponse = message_class("inference.ModelStreamInferResponse")
_OutputTensor = message_class("inference.ModelInferResponse.InferOutputTensor")
_numbers = ModelInferResponse.DESCRIPTOR.fields_by_name
RAW_OUTPUTS = _numbers["raw_output_contents"].number
INFER_RESPONSE = ModelStreamInferResponse.DESCRIPTOR.fields_by_name["infer_response"].number
_ID, _OUTPUT, _RAW = (
    wire.to_varint(wire.tag(_numbers[name].number))
    for name in ("id", "outputs", "raw_output_contents")
)
_NO_CONTENTS = message_class("inference.InferTensorContents")()


def to_request(envelope: Envelope, is_stream: bool = False) -> Request:
    """The request in envelope. Raises InvalidInput, or NoSharedMemory."""
    heads, raw, model = envelope.inputs, envelope.raw, envelope.model_name
    asked = request_parameters(envelope, is_stream)
    of_inputs = _tensor_parameters(heads, "inputs")
    inputs = list(_tensors(heads, raw, "input", model))
    return Request(
        model,
        inputs,
        envelope.id,
        envelope.model_version,
        asked,
        [_requested(index, entry) for index, entry in enumerate(envelope.outputs)],
        of_inputs,
        from_grpc=True,
        binary_inputs=frozenset([head.name for head in heads]) if raw else frozenset(),
    )


def request_parameters(envelope: Envelope, is_stream: bool = False) -> Parameters:
    """The request's own parameters. Raises InvalidInput."""
    if not envelope.parameters:
        return NO_PARAMETERS
    asked = parameters.from_message(envelope.parameters, "request")
    return check_request_parameters(asked, "request", is_stream)


def encode_response(response: Response, request: Request, typed: bool) -> bytes:
    """A serialised ModelInferResponse to request; an id is made where there is none.

    typed: the request was. All outputs are typed then, unless one of them has no typed form.
    """
    outputs = (
        _classified(response.outputs, request.outputs) if request.outputs else response.outputs
    )
    typed = typed and all(tensor.datatype not in RAW_ONLY for tensor in outputs)
    request_id = (response.id or random_id()).encode()
    parts: list[Buffer] = [
        _model_fields(response.model_name, response.model_version),
        _ID,
        wire.to_varint(len(request_id)),
        request_id,
    ]
    if response.parameters:
        said = ModelInferResponse()
        parameters.to_message(response.parameters, said.parameters)
        parts.append(said.SerializeToString())
    given = response.output_parameters
    for tensor in outputs:
        if typed or given:
            parts.append(_output_field(tensor, typed, given.get(tensor.name, NO_PARAMETERS)))
        else:
            parts.append(_raw_output_field(tensor.name, str(tensor.datatype), tensor.array.shape))
    if not typed:
        for tensor in outputs:
            content = to_raw(tensor)
            parts += (_RAW, wire.to_varint(wire.size_of(content)), content)
    return b"".join(parts)


def encode_stream_response(
    response: Response, request: Request, typed: bool, is_final: bool
) -> bytes:
    """A serialised ModelStreamInferResponse; is_final: the last one to its request."""
    response.parameters = {**response.parameters, parameters.FINAL_RESPONSE: is_final}
    return wire.wrap(b"", INFER_RESPONSE, encode_response(response, request, typed))


def encode_stream_error(text: str, request_id: str) -> bytes:
    """A serialised ModelStreamInferResponse that says what went wrong with one request."""
    message = ModelStreamInferResponse(error_message=text)
    message.infer_response.id = request_id
    message.infer_response.parameters[parameters.FINAL_RESPONSE].bool_param = True
    return message.SerializeToString()


def encode_request(request: Request, typed: bool = False) -> bytes:
    """A serialised ModelInferRequest, as a client sends it: raw unless typed."""
    message = ModelInferRequest(
        model_name=request.model_name, model_version=request.model_version, id=request.id
    )
    parameters.to_message(request.parameters, message.parameters)
    for output in request.outputs:
        entry = message.outputs.add(name=output.name)
        parameters.to_message(output.parameters, entry.parameters)
    typed = typed and all(tensor.datatype not in RAW_ONLY for tensor in request.inputs)
    for tensor in request.inputs:
        entry = message.inputs.add(
            name=tensor.name, datatype=tensor.datatype.value, shape=tensor.shape
        )
        if typed:
            entry.contents.SetInParent()
            to_contents(tensor, entry.contents)
        given = request.input_parameters.get(tensor.name, NO_PARAMETERS)
        parameters.to_message(given, entry.parameters)
    head: bytes = message.SerializeToString()
    return head if typed else wire.join_field(head, RAW_INPUTS, [to_raw(t) for t in request.inputs])


def decode_response(message: bytes) -> Response:
    """The response in a serialised ModelInferResponse. Raises InvalidInput."""
    head, raw = wire.split_field(message, RAW_OUTPUTS)
    found = parse(ModelInferResponse, head)
    heads = [TensorHead.of(entry) for entry in found.outputs]
    contents = raw or found.raw_output_contents
    return Response(
        found.model_name,
        list(_tensors(heads, contents, "output", found.model_name)),
        found.id,
        found.model_version,
        parameters.from_message(found.parameters, "response"),
        _tensor_parameters(heads, "outputs"),
    )


def _tensors(
    heads: Sequence[TensorHead], raw: Sequence[Buffer], side: str, model: str
) -> Iterator[Tensor]:
    """side: "input" or "output", for the error texts."""
    if raw:
        _check_raw(heads, raw, side, model)
    seen: set[str] = set()
    for index, head in enumerate(heads):
        if head.name in seen:
            raise InvalidInput(f"{side}s[{index}]: there is another {side} '{head.name}'")
        seen.add(head.name)
        if raw and head.view is not None and head.view[2] == len(raw[index]):
            yield _viewed(head, head.view, raw[index])
            continue
        datatype = to_datatype(head.datatype, f"{side} '{head.name}'")
        if raw:
            at = f"raw_{side}_contents[{index}] of {side} '{head.name}'"
            yield from_raw(head.name, datatype, head.shape, raw[index], at)
            continue
        at = f"contents of {side} '{head.name}'"
        if head.contents is not None:
            yield from_contents(head.name, datatype, head.shape, head.contents, at)
        elif datatype in RAW_ONLY and not check_shape(head.shape, at):
            yield from_raw(head.name, datatype, head.shape, b"", at)
        else:
            yield from_contents(head.name, datatype, head.shape, _NO_CONTENTS, at)


def _check_raw(heads: Sequence[TensorHead], raw: Sequence[Buffer], side: str, model: str) -> None:
    for head in heads:
        if head.contents is not None:
            raise InvalidInput(
                f"contents field must not be specified when using raw_{side}_contents "
                f"for '{head.name}' for model '{model}'"
            )
    if len(raw) != len(heads):
        raise InvalidInput(
            f"the number of {side}s ({len(heads)}) does not match the expected number of "
            f"raw {side} contents ({len(raw)}) for model '{model}'."
        )


def _viewed(
    head: TensorHead, how: "tuple[Datatype, np.dtype[Any], int]", content: Buffer
) -> Tensor:
    """What `from_raw` makes of contents whose size is right."""
    array = np.ndarray(head.shape, how[1], content)
    flags = array.flags
    if not flags.aligned:
        array = array.copy()
        flags = array.flags
    flags.writeable = False
    return Tensor(head.name, array, how[0])


def _requested(index: int, entry: OutputHead) -> RequestedOutput:
    if not entry.parameters:
        return RequestedOutput(entry.name)
    at = f"outputs[{index}] '{entry.name}'"
    given = dict(parameters.from_message(entry.parameters, at))
    _refuse_shared_memory(entry.name, given)
    classes = given.get("classification", 1)
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise InvalidInput(f"{at}: 'classification' must be a whole number from 1, got {classes!r}")
    return RequestedOutput(entry.name, given)


def _classified(tensors: Sequence[Tensor], asked: Sequence[RequestedOutput]) -> Sequence[Tensor]:
    """tensors, those as their best classes that were asked for so."""
    classes = {output.name: output.parameters.get("classification") for output in asked}
    return [
        top_classes(tensor, wanted) if isinstance(wanted, int) else tensor
        for tensor in tensors
        for wanted in (classes.get(tensor.name),)
    ]


@lru_cache(maxsize=1024)
def _model_fields(name: str, version: str) -> bytes:
    serialised: bytes = ModelInferResponse(
        model_name=name, model_version=version
    ).SerializeToString()
    return serialised


@lru_cache(maxsize=1024)
def _raw_output_field(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    entry = _OutputTensor(name=name, datatype=datatype, shape=shape).SerializeToString()
    return b"".join((_OUTPUT, wire.to_varint(len(entry)), entry))


def _output_field(tensor: Tensor, typed: bool, given: Parameters) -> bytes:
    entry = _OutputTensor(name=tensor.name, datatype=tensor.datatype.value, shape=tensor.shape)
    if typed:
        entry.contents.SetInParent()
        to_contents(tensor, entry.contents)
    parameters.to_message(given, entry.parameters)
    content = entry.SerializeToString()
    return b"".join((_OUTPUT, wire.to_varint(len(content)), content))


def _tensor_parameters(entries: Sequence[TensorHead], at: str) -> dict[str, Parameters]:
    found: dict[str, Parameters] = {}
    for index, entry in enumerate(entries):
        if entry.parameters:
            given = parameters.from_message(entry.parameters, f"{at}[{index}]")
            _refuse_shared_memory(entry.name, given)
            found[entry.name] = given
    return found


def _refuse_shared_memory(tensor_name: str, given: Parameters) -> None:
    if "shared_memory_region" in given:
        raise NoSharedMemory(tensor_name)
