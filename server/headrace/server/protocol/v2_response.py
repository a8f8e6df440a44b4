"""A `Response` as a V2 REST body: JSON, and blobs for binary outputs (§2.3, §2.7)."""

import base64
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from headrace.server.errors import InvalidInput
from headrace.server.protocol import v2_plain
from headrace.server.protocol.classification import top_classes
from headrace.server.protocol.encoded import JSON, OCTET_STREAM, Encoded
from headrace.server.protocol.json_text import dumps
from headrace.server.request import NO_PARAMETERS, Parameters, Request, Response
from headrace.server.tensor import NOT_IN_JSON, NUMPY, Buffer, Datatype, Tensor, iter_bytes, to_raw

_SIZE = "binary_data_size"
_IDS_AHEAD = 64


_ids: list[str] = []  # made in advance: the kernel's random numbers cost a system call


def random_id() -> str:
    """A fresh UUID, version 4."""
    if not _ids:
        noise = os.urandom(16 * _IDS_AHEAD).hex()
        _ids.extend(_uuid4(noise[at : at + 32]) for at in range(0, len(noise), 32))
    return _ids.pop()


def _uuid4(noise: str) -> str:
    """noise: 32 hexadecimal digits, of which RFC 9562 fixes six bits."""
    variant = "89ab"[int(noise[16], 16) & 3]
    return f"{noise[:8]}-{noise[8:12]}-4{noise[13:16]}-{variant}{noise[17:20]}-{noise[20:]}"


def encode(
    response: Response, request: Request, fresh_id: Callable[[], str] = random_id
) -> Encoded:
    """response in the form that request asked for, output by output.

    fresh_id: makes the id of an answer whose request had none. Raises InvalidInput for an output
    that JSON cannot carry and that was not asked for in binary, InferenceError as `dumps`.
    """
    if not (
        request.outputs or request.parameters or response.parameters or response.output_parameters
    ):
        plain = v2_plain.write(response, response.id or request.id or fresh_id())
        if plain is not None:
            return Encoded([plain], JSON)
    asked = {output.name: output for output in request.outputs}
    all_binary = not asked and request.parameters.get("binary_data_output") is True
    outputs: list[dict[str, Any]] = []
    blobs: list[Buffer] = []
    for tensor in response.outputs:
        wanted = asked[tensor.name].parameters if tensor.name in asked else NO_PARAMETERS
        classes = wanted.get("classification")
        if isinstance(classes, int):
            tensor = top_classes(tensor, classes)
        own = response.output_parameters.get(tensor.name, NO_PARAMETERS)
        entry: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype.value,
            "shape": tensor.shape,
        }
        if all_binary or wanted.get("binary_data") is True:
            blob = to_raw(tensor)
            entry["parameters"] = {**own, _SIZE: len(blob)}
            if len(blob):
                blobs.append(blob)
        else:
            _add_json(entry, tensor, wanted, own)
        outputs.append(entry)
    head: dict[str, Any] = {"model_name": response.model_name}
    if response.model_version:
        head["model_version"] = response.model_version
    head["id"] = response.id or request.id or fresh_id()
    if response.parameters:
        head["parameters"] = response.parameters
    head["outputs"] = outputs
    text = dumps(head)
    if not blobs:
        return Encoded([text], JSON)
    return Encoded([text, *blobs], OCTET_STREAM, len(text))


def json_data(tensor: Tensor, is_base64: bool = False) -> Any:
    """The elements of tensor in row-major order, as `dumps` takes them.

    Raises InvalidInput, saying how to ask instead, for what JSON cannot carry.
    """
    if tensor.datatype in NOT_IN_JSON:
        raise InvalidInput(
            f"Sending {tensor.datatype} data via JSON is not supported. "
            f"Please use the binary data format for output '{tensor.name}'"
        )
    if tensor.datatype is not Datatype.BYTES:
        array = tensor.array
        if array.dtype == NUMPY[tensor.datatype]:
            return array.ravel()
        return np.ascontiguousarray(array, NUMPY[tensor.datatype]).ravel()
    if is_base64:
        return [base64.b64encode(element).decode() for element in iter_bytes(tensor.array)]
    texts: list[str] = []
    for element in iter_bytes(tensor.array):
        try:
            texts.append(element.decode())
        except UnicodeDecodeError as err:
            raise InvalidInput(
                f"output '{tensor.name}': element {len(texts)} is not UTF-8 and cannot be sent as "
                f"JSON; ask for the output with the parameter 'binary_data': true, "
                f"or 'content_type': 'base64'"
            ) from err
    return texts


def _add_json(entry: dict[str, Any], tensor: Tensor, wanted: Parameters, own: Parameters) -> None:
    if not own and tensor.datatype is not Datatype.BYTES:
        entry["data"] = json_data(tensor)
        return
    is_base64 = (
        tensor.datatype is Datatype.BYTES
        and wanted.get("content_type", own.get("content_type")) == "base64"
    )
    if is_base64:
        own = {**own, "content_type": "base64"}
    if _SIZE in own:  # of an upstream's answer; beside 'data' clients would look for a blob
        own = {key: value for key, value in own.items() if key != _SIZE}
    if own:
        entry["parameters"] = own
    entry["data"] = json_data(tensor, is_base64)
