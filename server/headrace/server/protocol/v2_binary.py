"""The binary tensor data extension (contract §2.7): JSON, then the blobs of its inputs in order."""

from collections.abc import Sequence

from headrace.server.errors import InvalidInput
from headrace.server.request import Request
from headrace.server.tensor import (
    NUMPY,
    Buffer,
    Datatype,
    Tensor,
    TensorSpec,
    bytes_array,
    from_raw,
)

LENGTH_HEADER = "Inference-Header-Content-Length"
_MAX_DIGITS = 19  # of a length that fits int64


def parse_json_length(header: str, body_bytes: int) -> int:
    """Bytes of JSON at the head of a body; 0 means: the whole body is one raw tensor.

    header: the value of Inference-Header-Content-Length. Raises InvalidInput.
    """
    text = header.strip()
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise InvalidInput(f"{LENGTH_HEADER}: expected a number of bytes, got {header!r}")
    length = int(text) if len(digits) <= _MAX_DIGITS else -1
    if not 0 <= length <= body_bytes:
        raise InvalidInput(
            f"inference header size should be in range (0, {body_bytes}), got: {text[:32]}"
        )
    return length


class Blobs:
    """Hands out the binary part of a body piece by piece; all of it must be used."""

    def __init__(self, blob: Buffer, model_name: str) -> None:
        self._rest = memoryview(blob)
        self._model_name = model_name

    def take(self, size: object, name: str, at: str) -> memoryview:
        """The next size bytes, for input name. Raises InvalidInput."""
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise InvalidInput(
                f"{at}: 'binary_data_size' must be a whole number from 0, got {size!r}"
            )
        missing = size - self._rest.nbytes
        if missing > 0:
            raise InvalidInput(
                f"unexpected size for input '{name}', expecting {missing} additional bytes "
                f"for model '{self._model_name}'"
            )
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def close(self) -> None:
        """Raises InvalidInput if bytes are left."""
        if self._rest.nbytes:
            raise InvalidInput(
                f"unexpected additional input data for model '{self._model_name}': "
                f"{self._rest.nbytes} bytes follow the last input"
            )


def raw_binary_request(
    body: Buffer, model_name: str, declared: Sequence[TensorSpec], model_version: str = ""
) -> Request:
    """A request whose whole body is the model's only input; all outputs are asked for in binary.

    The one free dimension follows from the byte count; a BYTES input is one element without a
    length prefix. Raises InvalidInput where the model does not allow that.
    """
    if len(declared) != 1:
        count = len(declared) or "an unknown number of"
        raise InvalidInput(
            f"{LENGTH_HEADER}: 0 means a raw binary request, which needs a model with one declared "
            f"input; '{model_name}' has {count}"
        )
    spec = declared[0]
    tensor = _one_element(body, spec) if spec.datatype is Datatype.BYTES else _fitted(body, spec)
    return Request(
        model_name,
        [tensor],
        model_version=model_version,
        parameters={"binary_data_output": True},
        binary_inputs=frozenset([spec.name]),
    )


def _one_element(body: Buffer, spec: TensorSpec) -> Tensor:
    shape = tuple(1 if dim == -1 else dim for dim in spec.shape)
    if any(dim != 1 for dim in shape):
        raise InvalidInput(
            f"a raw binary request carries one BYTES element, "
            f"but input '{spec.name}' has shape {list(spec.shape)}"
        )
    return Tensor(spec.name, bytes_array([bytes(body)], shape), spec.datatype)


def _fitted(body: Buffer, spec: TensorSpec) -> Tensor:
    at = f"input '{spec.name}'"
    size = memoryview(body).nbytes
    if sum(dim == -1 for dim in spec.shape) > 1:
        raise InvalidInput(
            f"a raw binary request needs a shape with at most one free dimension, "
            f"but {at} has {list(spec.shape)}"
        )
    row = NUMPY[spec.datatype].itemsize
    for dim in spec.shape:
        row *= 1 if dim == -1 else dim
    if -1 in spec.shape and (not row or size % row):
        raise InvalidInput(
            f"{at}: {size} bytes do not divide into {spec.datatype} of shape {list(spec.shape)}"
        )
    shape = [size // row if dim == -1 else dim for dim in spec.shape]
    return from_raw(spec.name, spec.datatype, shape, body, at)
