"""A ModelInferRequest, opened: what it says beside its tensors' contents, and those unread.

Small messages are read field by field, without protobuf objects for what was seen before: clients
send the same `inputs` and `outputs` entries again and again, so each is parsed once, by protobuf,
and remembered by its bytes. Everything unusual (typed contents, many or large fields, unknown ones,
groups, broken ones) goes through the protobuf class as a whole, which alone says what is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from headrace.server.errors import InvalidInput
from headrace.server.grpc import wire
from headrace.server.grpc.messages import message_class
from headrace.server.tensor import NUMPY, Buffer, Datatype, check_shape

ModelInferRequest = message_class("inference.ModelInferRequest")
_InputTensor = message_class("inference.ModelInferRequest.InferInputTensor")
_OutputTensor = message_class("inference.ModelInferRequest.InferRequestedOutputTensor")
RAW_INPUTS = ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number
_NAME, _VERSION, _ID, _PARAMETERS, _INPUT, _OUTPUT, _RAW = (
    wire.tag(ModelInferRequest.DESCRIPTOR.fields_by_name[name].number)
    for name in (
        *("model_name", "model_version", "id", "parameters", "inputs", "outputs"),
        "raw_input_contents",
    )
)
_TEXTS = (_NAME, _VERSION, _ID)
_QUICK_FIELDS = 64  # of a message that is read field by field
_QUICK_BYTES = 512  # of such a field, raw contents aside
_REMEMBERED = 1024  # entries: at most 0.5 MB of bytes that clients chose


@dataclass(frozen=True, slots=True)
class TensorHead:
    """What a message says of one tensor beside its raw contents.

    parameters: a map<string, InferParameter>, or () for none. contents: an InferTensorContents, or
        None.
    view: (datatype, dtype, bytes) of raw contents that are the tensor as they stand.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: Any
    contents: Any
    view: "tuple[Datatype, np.dtype[Any], int] | None"

    @classmethod
    def of(cls, entry: Any) -> "TensorHead":
        """entry: an InferInputTensor or InferOutputTensor."""
        contents = entry.contents if entry.HasField("contents") else None
        shape = tuple(entry.shape)
        return cls(
            entry.name,
            entry.datatype,
            shape,
            entry.parameters or (),
            contents,
            _view(entry, shape),
        )


@dataclass(frozen=True, slots=True)
class OutputHead:
    """One output that is asked for. parameters: a map<string, InferParameter>, or () for none."""

    name: str
    parameters: Any

    @classmethod
    def of(cls, entry: Any) -> "OutputHead":
        """entry: an InferRequestedOutputTensor."""
        return cls(entry.name, entry.parameters or ())


@dataclass(slots=True)
class Envelope:
    """A ModelInferRequest whose tensors are not looked at yet: enough to find its model.

    parameters: a map<string, InferParameter>, or () for none. outputs: what is asked for.
    """

    model_name: str
    model_version: str
    id: str
    parameters: Any
    inputs: Sequence[TensorHead]
    outputs: Sequence[OutputHead]
    raw: Sequence[Buffer]

    @property
    def is_typed(self) -> bool:
        """Tensors came as typed contents, so the answer's do, too."""
        return any(head.contents is not None for head in self.inputs)


def parse(kind: Any, message: Buffer) -> Any:
    """message as a kind. Raises InvalidInput if it is not one."""
    try:
        return kind.FromString(bytes(message))
    except DecodeError as err:
        raise InvalidInput(
            f"{len(message)} bytes are not a valid {kind.DESCRIPTOR.full_name}"
        ) from err


def open_request(message: Buffer) -> Envelope:
    """The envelope of a serialised ModelInferRequest. Raises InvalidInput if it is not one."""
    try:
        found = _quick(message)
    except (IndexError, UnicodeDecodeError, DecodeError):
        found = None
    return found or _whole(message)


def _whole(message: Buffer) -> Envelope:
    """By the protobuf class, raw contents aside."""
    head, raw = wire.split_field(message, RAW_INPUTS)
    found = parse(ModelInferRequest, head)
    return Envelope(
        found.model_name,
        found.model_version,
        found.id,
        found.parameters,
        [TensorHead.of(entry) for entry in found.inputs],
        [OutputHead.of(entry) for entry in found.outputs],
        raw or list(found.raw_input_contents),  # of what could not be split
    )


def _quick(message: Buffer) -> Envelope | None:
    """Field by field; None, or an exception, for what `_whole` must decide."""
    view = memoryview(message)
    size = len(view)
    texts: dict[int, str] = {}
    inputs: list[TensorHead] = []
    outputs: list[OutputHead] = []
    raw: list[Buffer] = []
    parameters: list[Buffer] = []
    offset = fields = 0
    while offset < size:
        start, kind, length = offset, message[offset], message[offset + 1]
        offset += 2
        if length > 0x7F:
            length, offset = wire.length(message, offset - 1)
        begin, offset = offset, offset + length
        fields += 1
        if offset > size or fields > _QUICK_FIELDS:
            return None
        if kind == _RAW:
            raw.append(view[begin:offset])
            continue
        if length > _QUICK_BYTES:
            return None
        if kind == _INPUT:
            content = bytes(message[begin:offset])
            inputs.append(_inputs.get(content) or _input(content))
        elif kind == _OUTPUT:
            content = bytes(message[begin:offset])
            outputs.append(_outputs.get(content) or _output(content))
        elif kind in _TEXTS:
            texts[kind] = str(view[begin:offset], "utf-8")
        elif kind == _PARAMETERS:
            parameters.append(view[start:offset])
        else:
            return None
    name, version, request_id = texts.get(_NAME, ""), texts.get(_VERSION, ""), texts.get(_ID, "")
    return Envelope(name, version, request_id, _parameters(parameters), inputs, outputs, raw)


def _parameters(fields: Sequence[Buffer]) -> Any:
    return ModelInferRequest.FromString(b"".join(fields)).parameters if fields else ()


_inputs: dict[bytes, TensorHead] = {}
_outputs: dict[bytes, OutputHead] = {}


def _input(content: bytes) -> TensorHead:
    head = TensorHead.of(_InputTensor.FromString(content))
    if head.contents is None:
        _remember(_inputs, content, head)
    return head


def _output(content: bytes) -> OutputHead:
    head = OutputHead.of(_OutputTensor.FromString(content))
    _remember(_outputs, content, head)
    return head


def _remember(known: dict[bytes, Any], content: bytes, entry: Any) -> None:
    if len(known) >= _REMEMBERED:
        known.clear()
    known[content] = entry


def _view(entry: Any, shape: tuple[int, ...]) -> "tuple[Datatype, np.dtype[Any], int] | None":
    try:
        datatype = Datatype(entry.datatype)
        count = check_shape(shape, "")
    except (ValueError, InvalidInput):
        return None  # told when the tensor is read
    if datatype is Datatype.BYTES or not count or entry.HasField("contents"):
        return None
    return datatype, NUMPY[datatype], count * NUMPY[datatype].itemsize
