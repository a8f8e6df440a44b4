"""ModelInferRequest and ModelInferResponse ↔ `Request` and `Response`: pure, knows no gRPC.

Raw contents become views of the received message and are joined to the reply uncopied (wire.py);
typed contents go through contents.py. Rules and sentences: data-plane contract §3.3 and §2.5.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from headrace.server.errors import InvalidInput, NoSharedMemory
from headrace.server.grpc import parameters, wire
from headrace.server.grpc.contents import RAW_ONLY, from_contents, to_contents
from headrace.server.grpc.messages import message_class
from headrace.server.protocol.classification import top_classes
from headrace.server.protocol.parameters import check_request_parameters
from headrace.server.request import Parameters, Request, RequestedOutput, Response
from headrace.server.tensor import Tensor, check_shape, from_raw, to_datatype, to_raw

ModelInferRequest = message_class("inference.ModelInferRequest")
ModelInferResponse = message_class("inference.ModelInferResponse")
ModelStreamInferResponse = message_class("inference.ModelStreamInferResponse")
RAW_INPUTS = ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number
RAW_OUTPUTS = ModelInferResponse.DESCRIPTOR.fields_by_name["raw_output_contents"].number
INFER_RESPONSE = ModelStreamInferResponse.DESCRIPTOR.fields_by_name["infer_response"].number


def parse(kind: Any, message: bytes) -> Any:
    """message as a kind. Raises InvalidInput if it is not one."""
    try:
        return kind.FromString(message)
    except DecodeError as err:
        raise InvalidInput(
            f"{len(message)} bytes are not a valid {kind.DESCRIPTOR.full_name}"
        ) from err


@dataclass(frozen=True, slots=True)
class Envelope:
    """A ModelInferRequest whose tensors are not looked at yet: enough to find its model."""

    message: Any
    raw: Sequence[memoryview]

    @property
    def id(self) -> str:
        return str(self.message.id)

    @property
    def is_typed(self) -> bool:
        """Tensors came as typed contents, so the answer's do, too."""
        return any(entry.HasField("contents") for entry in self.message.inputs)


def open_request(message: bytes) -> Envelope:
    """The envelope of a serialised ModelInferRequest. Raises InvalidInput if it is not one."""
    head, raw = wire.split_field(message, RAW_INPUTS)
    return Envelope(parse(ModelInferRequest, head), raw)


def to_request(envelope: Envelope, is_stream: bool = False) -> Request:
    """The request in envelope. Raises InvalidInput, or NoSharedMemory."""
    found, raw = envelope.message, envelope.raw
    asked = request_parameters(envelope, is_stream)
    of_inputs = _tensor_parameters(found.inputs, "inputs")
    return Request(
        found.model_name,
        list(_tensors(found.inputs, raw, "input", found.model_name)),
        found.id,
        found.model_version,
        asked,
        [_requested(index, entry) for index, entry in enumerate(found.outputs)],
        of_inputs,
        from_grpc=True,
        binary_inputs=frozenset(entry.name for entry in found.inputs if raw),
    )


def request_parameters(envelope: Envelope, is_stream: bool = False) -> Parameters:
    """The request's own parameters. Raises InvalidInput."""
    asked = parameters.from_message(envelope.message.parameters, "request")
    return check_request_parameters(asked, "request", is_stream)


def encode_response(response: Response, request: Request, typed: bool) -> bytes:
    """A serialised ModelInferResponse to request; an id is made where there is none.

    typed: the request was. All outputs are typed then, unless one of them has no typed form.
    """
    wanted = {output.name: output.parameters.get("classification") for output in request.outputs}
    outputs = [_classified(tensor, wanted.get(tensor.name)) for tensor in response.outputs]
    message = ModelInferResponse(
        model_name=response.model_name,
        model_version=response.model_version,
        id=response.id or str(uuid.uuid4()),
    )
    parameters.to_message(response.parameters, message.parameters)
    return _encode(message, RAW_OUTPUTS, message.outputs, outputs, typed, response)


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
    return _encode(message, RAW_INPUTS, message.inputs, request.inputs, typed, request)


def decode_response(message: bytes) -> Response:
    """The response in a serialised ModelInferResponse. Raises InvalidInput."""
    head, raw = wire.split_field(message, RAW_OUTPUTS)
    found = parse(ModelInferResponse, head)
    return Response(
        found.model_name,
        list(_tensors(found.outputs, raw, "output", found.model_name)),
        found.id,
        found.model_version,
        parameters.from_message(found.parameters, "response"),
        _tensor_parameters(found.outputs, "outputs"),
    )


def _tensors(
    entries: Sequence[Any], raw: Sequence[memoryview], side: str, model: str
) -> Iterator[Tensor]:
    """side: "input" or "output", for the error texts."""
    if raw:
        for entry in entries:
            if entry.HasField("contents"):
                raise InvalidInput(
                    f"contents field must not be specified when using raw_{side}_contents "
                    f"for '{entry.name}' for model '{model}'"
                )
        if len(raw) != len(entries):
            raise InvalidInput(
                f"the number of {side}s ({len(entries)}) does not match the expected number of "
                f"raw {side} contents ({len(raw)}) for model '{model}'."
            )
    seen: set[str] = set()
    for index, entry in enumerate(entries):
        if entry.name in seen:
            raise InvalidInput(f"{side}s[{index}]: there is another {side} '{entry.name}'")
        seen.add(entry.name)
        datatype = to_datatype(entry.datatype, f"{side} '{entry.name}'")
        shape = tuple(entry.shape)
        if raw:
            at = f"raw_{side}_contents[{index}] of {side} '{entry.name}'"
            yield from_raw(entry.name, datatype, shape, raw[index], at)
            continue
        at = f"contents of {side} '{entry.name}'"
        if datatype in RAW_ONLY and not entry.HasField("contents") and not check_shape(shape, at):
            yield from_raw(entry.name, datatype, shape, b"", at)
        else:
            yield from_contents(entry.name, datatype, shape, entry.contents, at)


def _requested(index: int, entry: Any) -> RequestedOutput:
    at = f"outputs[{index}] '{entry.name}'"
    given = dict(parameters.from_message(entry.parameters, at))
    _refuse_shared_memory(entry.name, given)
    classes = given.get("classification", 1)
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise InvalidInput(f"{at}: 'classification' must be a whole number from 1, got {classes!r}")
    return RequestedOutput(entry.name, given)


def _classified(tensor: Tensor, classes: object) -> Tensor:
    return top_classes(tensor, classes) if isinstance(classes, int) else tensor


def _encode(
    message: Any,
    raw_field: int,
    entries: Any,
    tensors: Sequence[Tensor],
    typed: bool,
    said: Request | Response,
) -> bytes:
    of_tensors = said.output_parameters if isinstance(said, Response) else said.input_parameters
    typed = typed and all(tensor.datatype not in RAW_ONLY for tensor in tensors)
    for tensor in tensors:
        entry = entries.add(name=tensor.name, datatype=tensor.datatype.value, shape=tensor.shape)
        if typed:
            entry.contents.SetInParent()
            to_contents(tensor, entry.contents)
        given = of_tensors.get(tensor.name)
        if given:
            parameters.to_message(given, entry.parameters)
    head = message.SerializeToString()
    return head if typed else wire.join_field(head, raw_field, [to_raw(t) for t in tensors])


def _tensor_parameters(entries: Sequence[Any], at: str) -> dict[str, Parameters]:
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
