"""Asks a real server for the model under a path: over V2 binary, V2 JSON or V1."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headrace.server import Datatype, LoadOptions, Tensor
from headrace.server.loading import ModelSource, SourceLoader
from tests.server.rest.client import Reply, ask
from tests.serving import running

LENGTH = "Inference-Header-Content-Length"


def reply_of(
    path: Path, url: str, body: bytes, headers: Mapping[str, str], **options: Any
) -> Reply:
    """What a server of the model under path, named m, answers to one POST."""

    async def exchange() -> Reply:
        source = ModelSource(path, options=LoadOptions(**options))
        async with running(loader=SourceLoader({"m": [source]})) as server:
            return await ask(server.ports.http, "POST", url, body, list(headers.items()))

    return asyncio.run(exchange())


def v1(path: Path, body: Mapping[str, Any], **options: Any) -> Any:
    """The predictions."""
    reply = reply_of(path, "/v1/models/m:predict", json.dumps(body).encode(), {}, **options)
    assert reply.status == 200, reply.body
    return reply.json()["predictions"]


def v2_json(path: Path, *tensors: Tensor, **options: Any) -> list[dict[str, Any]]:
    """The outputs as they stand in the answer."""
    inputs = [{**_described(each), "data": each.array.ravel().tolist()} for each in tensors]
    body = json.dumps({"inputs": inputs}).encode()
    reply = reply_of(path, "/v2/models/m/infer", body, {}, **options)
    assert reply.status == 200, reply.body
    outputs: list[dict[str, Any]] = reply.json()["outputs"]
    return outputs


def v2_binary(path: Path, *tensors: Tensor, **options: Any) -> dict[str, tuple[str, Any, bytes]]:
    """Datatype, shape and bytes of each output."""
    reply = _binary(path, tensors, options)
    assert reply.status == 200, reply.body
    length = int(reply.header(LENGTH) or 0)
    outputs, at = {}, length
    for output in json.loads(reply.body[:length])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        outputs[output["name"]] = (
            output["datatype"],
            tuple(output["shape"]),
            reply.body[at : at + size],
        )
        at += size
    assert at == len(reply.body)
    return outputs


def refusal(path: Path, *tensors: Tensor, **options: Any) -> str:
    """The sentence a request is refused with, 400."""
    reply = _binary(path, tensors, options)
    assert reply.status == 400, reply.body
    return reply.error


def raw(tensor: Tensor) -> bytes:
    """tensor as the binary extension carries it."""
    if tensor.datatype is not Datatype.BYTES:
        return np.ascontiguousarray(tensor.array).tobytes()
    texts = [each if isinstance(each, bytes) else each.encode() for each in tensor.array.flat]
    return b"".join(len(each).to_bytes(4, "little") + each for each in texts)


def answer(array: Any) -> tuple[str, Any, bytes]:
    """What v2_binary gives of an output that is array."""
    tensor = Tensor("y", np.asarray(array))
    return tensor.datatype.name, tuple(tensor.shape), raw(tensor)


def _described(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype.name, "shape": list(tensor.shape)}


def _binary(path: Path, tensors: tuple[Tensor, ...], options: Mapping[str, Any]) -> Reply:
    blobs = [raw(each) for each in tensors]
    inputs = [
        {**_described(each), "parameters": {"binary_data_size": len(blob)}}
        for each, blob in zip(tensors, blobs, strict=True)
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    headers = {LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
    body = head + b"".join(blobs)
    return reply_of(path, "/v2/models/m/infer", body, headers, **options)
