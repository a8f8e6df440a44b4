"""The REST and gRPC forms of InferRequest and InferResponse: pure functions, no sockets.

JSON heads are dicts and tensors' bytes stay apart until somebody joins them, so that forwarding can
send views. gRPC messages are read by their fields, whichever package generated them; ours are of
the private descriptor pool (contract §3.7), imported when one is first made.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import orjson

from headrace.server.errors import InvalidInput
from headrace.server.infer_tensors import CONTENTS, InferTensor, contents_list, texts
from headrace.server.tensor import NOT_IN_JSON, Buffer, Datatype, from_raw, to_datatype, to_raw

if TYPE_CHECKING:
    from headrace.server.infer_types import InferRequest, InferResponse

Kind = TypeVar("Kind", bound=InferTensor)


@dataclass(frozen=True, slots=True)
class Parts:
    """A V2 REST body: head is its JSON, blobs the bytes of its binary tensors, in order."""

    head: dict[str, Any]
    blobs: list[Buffer] = field(default_factory=list)


def joined(parts: Parts) -> tuple[Any, int | None]:
    """The dict and None; or with blobs the whole body, and the length of its JSON."""
    if not parts.blobs:
        return parts.head, None
    head = to_json(parts.head)
    return b"".join([head, *parts.blobs]), len(head)


def to_json(value: Any) -> bytes:
    """JSON with KServe's latitude: numpy arrays and scalars, dates, keys that are no strings."""
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(value, default=_plain, option=options)


def split(body: Buffer, json_length: int) -> tuple[dict[str, Any], memoryview]:
    """The JSON head and a view of what follows it. Raises InvalidInput where there is no head."""
    view = memoryview(body)
    if not 0 < json_length <= view.nbytes:
        raise InvalidInput(
            f"inference header size should be in range (0, {view.nbytes}), got: {json_length}"
        )
    try:
        head = orjson.loads(view[:json_length])
    except orjson.JSONDecodeError as err:
        raise InvalidInput(f"Unrecognized request format: {err}") from err
    if not isinstance(head, dict):
        raise InvalidInput(f"Unrecognized request format: expected an object, got {head!r:.40}")
    return head, view[json_length:]


def from_json_tensors(
    kind: type[Kind], head: dict[str, Any], key: str, blobs: memoryview | None
) -> list[Kind]:
    """The tensors under head[key]; those with a binary_data_size take their bytes from blobs."""
    if not isinstance(head.get(key), list):
        raise InvalidInput(f"Unrecognized request format: expected a list {key!r}")
    found: list[Kind] = []
    offset = 0
    for i, entry in enumerate(head[key]):
        at = f"{key}[{i}]"
        try:
            name, shape, datatype = entry["name"], entry["shape"], entry["datatype"]
        except (KeyError, TypeError) as err:
            raise InvalidInput(f"{at}: expected an object with name, shape and datatype") from err
        parameters = dict(entry.get("parameters") or {})
        size = parameters.pop("binary_data_size", None)
        if size is None:
            found.append(kind(name, shape, datatype, entry.get("data"), parameters or None))
            continue
        available = 0 if blobs is None else blobs.nbytes - offset
        if blobs is None or not isinstance(size, int) or not 0 <= size <= available:
            raise InvalidInput(f"{at}: binary_data_size {size!r}, but {available} bytes follow")
        raw = blobs[offset : offset + size]
        offset += size
        tensor = from_raw(name, to_datatype(datatype, at), shape, raw, at)
        found.append(kind.from_tensor(tensor, parameters, is_binary=True))
    return found


def request_parts(request: "InferRequest") -> Parts:
    """request as a V2 REST body. Raises InvalidInput for what JSON cannot carry."""
    head: dict[str, Any] = {
        "id": request.id or str(uuid.uuid4()),
        "model_name": request.model_name,
    }
    parts = Parts(head)
    head["inputs"] = [
        _entry(tensor, tensor.is_binary, "input", parts.blobs) for tensor in request.inputs
    ]
    if request.request_outputs:
        head["outputs"] = [
            {"name": output.name, "parameters": dict(output.parameters)}
            if output.parameters
            else {"name": output.name}
            for output in request.request_outputs
        ]
    if request.parameters:
        head["parameters"] = request.parameters
    return parts


def response_parts(response: "InferResponse") -> Parts:
    """response as a V2 REST body, each output as its caller asked for it."""
    head: dict[str, Any] = {
        "id": response.id,
        "model_name": response.model_name,
        "model_version": response.model_version,
    }
    parts = Parts(head)
    wanted = [(tensor, response.use_binary_outputs) for tensor in response.outputs]
    if response.requested_outputs:
        by_name = {tensor.name: tensor for tensor in response.outputs}
        for output in response.requested_outputs:
            if output.name not in by_name:
                raise InvalidInput(
                    f"Unexpected inference output '{output.name}' for model '{response.model_name}'"
                )
        wanted = [(by_name[each.name], each.binary_data) for each in response.requested_outputs]
    head["outputs"] = [
        _entry(
            tensor,
            tensor.is_binary if is_binary is None else bool(is_binary),
            "output",
            parts.blobs,
        )
        for tensor, is_binary in wanted
    ]
    if response.parameters:
        head["parameters"] = response.parameters
    return parts


def request_message(request: "InferRequest") -> Any:
    message = _message_class("inference.ModelInferRequest")(
        model_name=request.model_name,
        model_version=request.model_version or "",
        id=request.id or "",
    )
    _set_parameters(message.parameters, request.parameters)
    _set_tensors(message.inputs, message.raw_input_contents, request.inputs)
    for output in request.request_outputs or []:
        entry = message.outputs.add(name=output.name)
        _set_parameters(entry.parameters, output.parameters)
    return message


def response_message(response: "InferResponse") -> Any:
    message = _message_class("inference.ModelInferResponse")(
        model_name=response.model_name or "",
        model_version=response.model_version or "",
        id=response.id or "",
    )
    _set_parameters(message.parameters, response.parameters)
    _set_tensors(message.outputs, message.raw_output_contents, response.outputs)
    return message


def from_message_tensors(
    kind: type[Kind], entries: Iterable[Any], raw: Sequence[bytes], at: str
) -> list[Kind]:
    """The tensors of a gRPC message: raw where there are raw contents, else typed.

    Raises InvalidInput unless each tensor has exactly one of the two.
    """
    found: list[Kind] = []
    rest = list(raw)
    for entry in entries:
        datatype, shape = entry.datatype.upper(), list(entry.shape)
        parameters = entry.parameters or None
        data = contents_list(entry.contents, datatype)
        if rest and not data:
            tensor = from_raw(entry.name, to_datatype(datatype, at), shape, rest.pop(0), at)
            made = kind.from_tensor(tensor, parameters, is_text=False, is_binary=True)
        else:
            made = kind(entry.name, shape, datatype, data or [], parameters)
        found.append(made)
    if rest:
        raise InvalidInput(f"{at}: {len(rest)} more entries than tensors without contents")
    return found


def set_raw(tensors: Sequence[InferTensor], raw: Sequence[bytes], at: str) -> None:
    """Give each tensor its bytes, in order. Raises InvalidInput on another number of them."""
    if len(raw) != len(tensors):
        raise InvalidInput(f"{at}: {len(raw)} entries for {len(tensors)} tensors")
    for tensor, content in zip(tensors, raw, strict=True):
        tensor.set_raw(content)


def _entry(tensor: InferTensor, is_binary: bool, what: str, blobs: list[Buffer]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": tensor.name,
        "shape": tensor.shape,
        "datatype": tensor.datatype,
    }
    parameters = {k: v for k, v in (tensor.parameters or {}).items() if k != "binary_data_size"}
    if is_binary:
        blob = to_raw(tensor.to_tensor())
        size = blob.nbytes if isinstance(blob, memoryview) else len(blob)
        entry["parameters"] = {**parameters, "binary_data_size": size}
        blobs.append(blob)
        return entry
    if tensor.datatype in NOT_IN_JSON:
        raise InvalidInput(
            f"Sending {tensor.datatype} data via JSON is not supported. "
            f"Please use the binary data format for {what} {tensor.name}"
        )
    entry["data"] = _json_data(tensor, what)
    if parameters:
        entry["parameters"] = parameters
    return entry


def _json_data(tensor: InferTensor, what: str) -> Any:
    data = tensor.array_or_list()
    if isinstance(data, np.ndarray) or what == "output":
        array = tensor.to_tensor().array.ravel()
        return texts(array) if tensor.datatype == Datatype.BYTES else array.tolist()
    return _decoded(data) if tensor.datatype == Datatype.BYTES else data


def _decoded(data: Any) -> Any:
    """BYTES data as JSON carries it, in the nesting it has."""
    if isinstance(data, list | tuple):
        return [_decoded(element) for element in data]
    return texts([data])[0]


def _set_tensors(entries: Any, raw: Any, tensors: Sequence[InferTensor]) -> None:
    """Typed if every tensor is a list, else raw for all: never mixed (contract §3.3)."""
    is_raw = any(
        tensor.is_binary
        or tensor.datatype not in CONTENTS
        or isinstance(tensor.array_or_list(), np.ndarray)
        for tensor in tensors
    )
    for tensor in tensors:
        entry = entries.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        parameters = {k: v for k, v in (tensor.parameters or {}).items() if k != "binary_data_size"}
        _set_parameters(entry.parameters, parameters)
        filled = tensor.to_tensor()
        if is_raw:
            raw.append(bytes(to_raw(filled)))
            continue
        elements = filled.array.ravel().tolist()
        if filled.datatype is Datatype.BYTES:
            elements = [e if isinstance(e, bytes) else str(e).encode() for e in elements]
        getattr(entry.contents, CONTENTS[tensor.datatype]).extend(elements)


def _set_parameters(target: Any, parameters: Any) -> None:
    for key, value in (parameters or {}).items():
        if isinstance(value, bool):
            target[key].bool_param = value
        elif isinstance(value, int):
            if -(2**63) <= value < 2**63:
                target[key].int64_param = value
            else:
                target[key].uint64_param = value
        elif isinstance(value, float):
            target[key].double_param = value
        elif isinstance(value, str):
            target[key].string_param = value
        else:
            raise InvalidInput(f"to_grpc: invalid parameter value: {value}")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):  # what orjson does not take: object arrays, views
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return value.decode()
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


def _message_class(full_name: str) -> Any:
    # not at the top: `import headrace.server` must load neither protobuf nor grpc
    from headrace.server.grpc.messages import message_class

    return message_class(full_name)
