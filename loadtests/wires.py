"""What goes over the wire: the bytes of one request in each protocol. Pure."""

import json
import math
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
JSON_TYPE = (("Content-Type", "application/json"),)
RPC = "/inference.GRPCInferenceService/ModelInfer"


class Wire(StrEnum):
    V1 = "V1 JSON"
    V2 = "V2 JSON"
    BINARY = "V2 binary"
    GRPC = "gRPC"


@dataclass(frozen=True, slots=True)
class Request:
    """body: of an HTTP POST to path, or, for gRPC, the bare protobuf message."""

    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def http(self) -> bytes:
        """The request as it is sent over HTTP/1.1."""
        lines = [f"POST {self.path} HTTP/1.1", "Host: bench"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        head = "\r\n".join([*lines, f"Content-Length: {len(self.body)}", "", ""])
        return head.encode() + self.body

    @property
    def frame(self) -> bytes:
        """body with gRPC's length prefix."""
        return b"\0" + struct.pack(">I", len(self.body)) + self.body


def encode(wire: Wire, model: str, x: Array) -> Request:
    match wire:
        case Wire.V1:
            return Request(
                f"/v1/models/{model}:predict", JSON_TYPE, dumps({"instances": numbers(x)})
            )
        case Wire.V2:
            tensor = {**described(x), "data": numbers(x.ravel())}
            return Request(f"/v2/models/{model}/infer", JSON_TYPE, dumps({"inputs": [tensor]}))
        case Wire.BINARY:
            return binary(model, x)
        case Wire.GRPC:
            return Request(RPC, (("content-type", "application/grpc"),), message(model, x))


def binary(model: str, x: Array) -> Request:
    tensor = {**described(x), "parameters": {"binary_data_size": x.nbytes}}
    head = dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    headers = (
        ("Content-Type", "application/octet-stream"),
        ("Inference-Header-Content-Length", str(len(head))),
    )
    return Request(f"/v2/models/{model}/infer", headers, head + x.tobytes())


def named_json(path: str, key: str, x: Array) -> Request:
    """LitServe's and BentoML's own form: one JSON object with the array under key."""
    return Request(path, JSON_TYPE, dumps({key: numbers(x)}))


def described(x: Array) -> dict[str, Any]:
    return {"name": "x", "shape": list(x.shape), "datatype": "FP32"}


def numbers(x: Array) -> Any:
    """Eight decimals: what a client that prints single precision sends."""
    return np.round(x.astype(np.float64), 8).tolist()


def dumps(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def message(model: str, x: Array) -> bytes:
    """A ModelInferRequest with raw contents, written out by hand."""
    shape = b"".join(varint(size) for size in x.shape)
    tensor = field(1, b"x") + field(2, b"FP32") + field(3, shape)
    return field(1, model.encode()) + field(5, tensor) + field(7, x.tobytes())


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def sample(work: str, rows: int = 1) -> Array:
    """The input of a work: the same at every peer and in every round."""
    if work == "image":
        return np.random.default_rng(7).random((rows, 3, 224, 224), np.float32)
    if work in ("onnx", "torch"):
        return np.random.default_rng(7).random((rows, 64), np.float32)
    return np.resize(np.array([6.8, 2.8, 4.8, 1.4], np.float32), (rows, 4))


def is_close(found: object, expected: Array) -> bool:
    """Whether an answer, as (nested) numbers or bytes of FP32, is the model's."""
    if isinstance(found, bytes):
        if len(found) != expected.nbytes:
            return False
        found = np.frombuffer(found, "<f4")
    flat = np.asarray(found, np.float64).ravel()
    return flat.size == math.prod(expected.shape) and bool(
        np.allclose(flat, expected.ravel(), rtol=1e-4)
    )
