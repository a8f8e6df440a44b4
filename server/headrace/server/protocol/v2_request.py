"""A V2 REST inference request: body → `Envelope` (syntax, schema) → `Request` (tensors).

The two steps stand on either side of finding the model, so that an unknown model is reported
before ill-fitting data is (contract §2.5, the order of checks).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from headrace.server.errors import InvalidInput, NoSharedMemory
from headrace.server.protocol.json_tensor import to_array
from headrace.server.protocol.json_text import loads
from headrace.server.protocol.limits import ParseLimits
from headrace.server.protocol.parameters import check_parameters, check_request_parameters
from headrace.server.protocol.v2_binary import Blobs
from headrace.server.request import Parameters, Request, RequestedOutput
from headrace.server.tensor import Buffer, Tensor, TensorSpec, check_shape, from_raw, to_datatype

BODY = "request body"
NONE: frozenset[str] = frozenset()
_SHARED_MEMORY = "shared_memory_region"


class _Input(msgspec.Struct):
    name: str
    shape: list[Annotated[int, msgspec.Meta(ge=-1)]]
    datatype: str
    parameters: Any = None
    data: Any = None


class _Output(msgspec.Struct):
    name: str
    parameters: Any = None


class _Body(msgspec.Struct):
    inputs: Annotated[list[_Input], msgspec.Meta(min_length=1)]
    id: str | None = None
    parameters: Any = None
    outputs: list[_Output] | None = None


@dataclass(slots=True)
class InputEntry:
    """One entry of `inputs`: its data is not parsed yet, and at most its shape is known good."""

    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters
    data: Any


@dataclass(slots=True)
class Envelope:
    """A request whose JSON has the right form; its tensors are parsed by `to_request`."""

    inputs: list[InputEntry]
    id: str = ""
    parameters: Parameters = field(default_factory=dict)
    outputs: list[RequestedOutput] = field(default_factory=list)
    blob: Buffer = b""  # what follows the JSON, in the binary form


def parse(body: Buffer, json_length: int | None, limits: ParseLimits) -> Envelope:
    """Syntax and schema of a request.

    json_length: of `parse_json_length`, more than 0; None without that header: all of body is JSON.
    Raises InvalidInput, NoSharedMemory.
    """
    blob: Buffer = b""
    if json_length is not None:
        view = memoryview(body)
        body, blob = bytes(view[:json_length]), view[json_length:]
    try:
        parsed = msgspec.convert(loads(body, limits, allow_nan=True, at=BODY), _Body)
    except msgspec.ValidationError as err:
        raise InvalidInput(f"{BODY}: {err}") from err
    except InvalidInput as err:
        if json_length is None and b'"binary_data_size"' in bytes(body):
            raise InvalidInput(
                f"{err}; a body with binary data needs the header Inference-Header-Content-Length"
            ) from err
        raise
    return Envelope(
        [
            InputEntry(
                entry.name,
                entry.shape,
                entry.datatype,
                check_parameters(entry.parameters, f"inputs[{i}] '{entry.name}'"),
                entry.data,
            )
            for i, entry in enumerate(parsed.inputs)
        ],
        parsed.id or "",
        check_request_parameters(parsed.parameters, BODY),
        [_requested(i, output) for i, output in enumerate(parsed.outputs or ())],
        blob,
    )


def to_request(
    envelope: Envelope,
    model_name: str,
    declared: Sequence[TensorSpec],
    limits: ParseLimits,
    model_version: str = "",
) -> Request:
    """envelope's tensors; binary ones are views of the body it was parsed from.

    declared: of the model, to say in an error what it expects. Raises InvalidInput, NoSharedMemory.
    """
    blobs = Blobs(envelope.blob, model_name)
    hint = envelope.parameters.get("content_type")
    inputs: list[Tensor] = []
    seen: set[str] = set()
    input_parameters: dict[str, Parameters] = {}
    binary: list[str] = []
    nested: list[str] = []
    for i, entry in enumerate(envelope.inputs):
        at = f"input '{entry.name}'"
        if entry.name in seen:
            raise InvalidInput(f"inputs[{i}]: there is another input '{entry.name}'")
        seen.add(entry.name)
        inputs.append(_tensor(entry, at, blobs, hint, declared, limits))
        data = entry.data
        if data is None:
            binary.append(entry.name)
        elif data and isinstance(data[0], list):
            nested.append(entry.name)
        if entry.parameters:
            input_parameters[entry.name] = entry.parameters
    blobs.close()
    return Request(
        model_name,
        inputs,
        envelope.id,
        model_version,
        envelope.parameters,
        envelope.outputs,
        input_parameters,
        binary_inputs=frozenset(binary) if binary else NONE,
        nested_inputs=frozenset(nested) if nested else NONE,
    )


def _tensor(
    entry: InputEntry,
    at: str,
    blobs: Blobs,
    hint: object,
    declared: Sequence[TensorSpec],
    limits: ParseLimits,
) -> Tensor:
    if _SHARED_MEMORY in entry.parameters:
        raise NoSharedMemory(entry.name)
    size = entry.parameters.get("binary_data_size")
    if (entry.data is None) == (size is None):
        raise InvalidInput(
            f"{at} must set exactly one of 'data' and the parameter 'binary_data_size', "
            f"it sets {'neither' if size is None else 'both'}"
        )
    try:
        datatype = to_datatype(entry.datatype, at)
    except InvalidInput as err:
        wanted = next((spec.datatype for spec in declared if spec.name == entry.name), None)
        raise InvalidInput(f"{err}; the model declares {wanted}" if wanted else str(err)) from err
    if size is None:
        is_base64 = entry.parameters.get("content_type", hint) == "base64"
        array = to_array(entry.data, datatype, entry.shape, at, limits.lenient_shapes, is_base64)
        return Tensor(entry.name, array, datatype)
    check_shape(entry.shape, at)  # first, for its clearer text: -1 is only for JSON data
    return from_raw(entry.name, datatype, entry.shape, blobs.take(size, entry.name, at), at)


def _requested(i: int, output: _Output) -> RequestedOutput:
    at = f"outputs[{i}] '{output.name}'"
    parameters = check_parameters(output.parameters, at)
    if _SHARED_MEMORY in parameters:
        raise NoSharedMemory(output.name)
    if not isinstance(parameters.get("binary_data", False), bool):
        raise InvalidInput(
            f"{at}: 'binary_data' must be a boolean, got {parameters['binary_data']!r}"
        )
    classes = parameters.get("classification", 1)
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise InvalidInput(f"{at}: 'classification' must be a whole number from 1, got {classes!r}")
    return RequestedOutput(output.name, parameters)
