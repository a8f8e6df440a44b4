"""The plain V2 request and answer, which most are: flat numbers in JSON, nothing else asked for.

`read` and `write` do in one step what v2_request.py and v2_response.py do in several, for what
needs none of their care. For anything else, mistakes included, they return None, and those two
decide; what they return is what those two would have.
"""

import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from headrace.server.protocol.limits import ParseLimits
from headrace.server.request import Request, Response
from headrace.server.tensor import NUMPY, Buffer, Datatype, Tensor

KEPT_BYTES = 8 << 20  # the parser that read a larger body is not kept, with its memory
SMALL_BYTES = 16 << 10  # of a body; above, one pass over the numbers pays for its set-up
PACKED = 64  # numbers that struct packs sooner than numpy is called
LEVELS = 3  # of nesting in a plain request
FLOATS = {"FP32": Datatype.FP32, "FP64": Datatype.FP64}


class _Input(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: list[int]
    datatype: str
    data: list[int | float]


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[_Input]
    id: str = ""


DECODER = msgspec.json.Decoder(_Body)


def read(body: Buffer, model_name: str, version: str, limits: ParseLimits) -> Request | None:
    """The request in body if it is plain."""
    if 0 < limits.max_json_depth < LEVELS:
        return None
    if len(body) > SMALL_BYTES:
        return _read_large(bytes(body), model_name, version)
    try:
        parsed = DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    inputs = []
    for entry in parsed.inputs:
        datatype = FLOATS.get(entry.datatype)
        data, shape = entry.data, entry.shape
        if datatype is None or not data or not holds(shape, len(data)):
            return None
        array = to_floats(data, datatype)
        if array is None:
            return None
        inputs.append(Tensor(entry.name, array.reshape(shape), datatype))
    return to_request(inputs, model_name, version, parsed.id)


def _read_large(body: bytes, model_name: str, version: str) -> Request | None:
    """simdjson writes the numbers of a flat list straight into a buffer of doubles."""
    import simdjson  # loaded where the first large body comes

    try:
        parser = _parsers.pop()
    except IndexError:  # the loop and threads take it, so looking first would tell nothing
        parser = simdjson.Parser()
    try:
        return _read_parsed(parser, body, model_name, version)
    finally:
        if len(body) <= KEPT_BYTES and not _parsers:
            _parsers.append(parser)


_parsers: list[Any] = []  # at most one: its buffers are as large as the bodies it has read


def _read_parsed(parser: Any, body: bytes, model_name: str, version: str) -> Request | None:
    """All that refers to the parser is gone when this returns."""
    inputs = []
    try:
        parsed: Any = parser.parse(body)
        entries = parsed["inputs"]
        fields = list(parsed)
        if sorted(fields) not in (["inputs"], ["id", "inputs"]):
            return None
        request_id = parsed["id"] if "id" in fields else ""
        # every bracket is accounted for, so no list of numbers holds another
        if not isinstance(request_id, str) or body.count(b"[") != 1 + 2 * len(entries):
            return None
        for entry in entries:
            if sorted(entry) != ["data", "datatype", "name", "shape"]:
                return None
            name, datatype = entry["name"], FLOATS.get(entry["datatype"])
            shape = list(entry["shape"])
            numbers = np.frombuffer(entry["data"].as_buffer(of_type="d"), np.float64)
            if datatype is None or not isinstance(name, str) or not holds(shape, numbers.size):
                return None
            array = narrowed(numbers, datatype)
            if array is None:
                return None
            inputs.append(Tensor(name, array.reshape(shape), datatype))
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, UnicodeDecodeError):
        return None  # not JSON, or of another form: v2_request.py says what is wrong
    return to_request(inputs, model_name, version, request_id)


def to_request(inputs: list[Tensor], model_name: str, version: str, given: str) -> Request | None:
    if not inputs or (len(inputs) > 1 and len({each.name for each in inputs}) < len(inputs)):
        return None
    return Request(model_name, inputs, given, version)


def holds(shape: list[Any], count: int) -> bool:
    """count elements are what shape, of at most eight sizes, needs."""
    for dim in shape:
        if type(dim) is not int or dim < 1:
            return False
    return len(shape) <= 8 and math.prod(shape) == count


def to_floats(data: Sequence[float], datatype: Datatype) -> NDArray[Any] | None:
    """data in datatype; None where one is too large for it, whole numbers of any length too."""
    letter = "f" if datatype is Datatype.FP32 else "d"
    try:
        if len(data) > PACKED:
            return narrowed(np.array(data, np.float64), datatype)
        packed = struct.pack(f"<{len(data)}{letter}", *data)
    except (OverflowError, struct.error):
        return None
    return np.frombuffer(packed, NUMPY[datatype])


def narrowed(numbers: NDArray[Any], datatype: Datatype) -> NDArray[Any] | None:
    """numbers in datatype; None where one is too large for it."""
    if datatype is Datatype.FP64:
        return numbers
    try:
        with np.errstate(over="raise"):
            return numbers.astype(np.float32)
    except FloatingPointError:
        return None


def write(response: Response, answer_id: str) -> bytes | None:
    """response in JSON, its outputs as they are, if they are numbers that JSON has."""
    parts = list(
        _frame(
            response.model_name,
            response.model_version,
            tuple((each.name, each.datatype, each.array.shape) for each in response.outputs),
        )
    )
    parts.insert(1, orjson.dumps(answer_id))
    at = 3
    for tensor in response.outputs:
        array = tensor.array
        if array.dtype.kind not in "fiub" or array.dtype != NUMPY[tensor.datatype]:
            return None
        if array.dtype.itemsize == 2 and array.dtype.kind == "f":
            return None
        parts.insert(at, orjson.dumps(array.ravel(), option=orjson.OPT_SERIALIZE_NUMPY))
        at += 2
    return b"".join(parts)


@lru_cache(maxsize=256)
def _frame(
    model_name: str, version: str, outputs: tuple[tuple[str, Datatype, tuple[int, ...]], ...]
) -> tuple[bytes, ...]:
    """What stands around the id and the numbers: a model's answers differ in little else."""
    head: dict[str, str] = {"model_name": model_name}
    if version:
        head["model_version"] = version
    texts = [orjson.dumps(head)[:-1] + b',"id":', b',"outputs":[']
    for name, datatype, shape in outputs:
        entry = orjson.dumps({"name": name, "datatype": datatype.value, "shape": shape})
        texts[-1] += (b"" if texts[-1].endswith(b"[") else b",") + entry[:-1] + b',"data":'
        texts.append(b"}")
    texts[-1] += b"]}"
    return tuple(texts)
