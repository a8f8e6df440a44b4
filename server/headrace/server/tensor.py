"""The one in-memory form of a named array: every protocol decodes to it and encodes from it.

Datatypes are the Open Inference Protocol's (data-plane contract §2.4), bytes are little-endian,
row-major and packed. BYTES tensors are object arrays of `bytes`; on the wire each element carries
a 4-byte little-endian length. BF16 arrays have dtype `ml_dtypes.bfloat16`.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from headrace.server.errors import InferenceError, InvalidInput

Buffer = bytes | bytearray | memoryview
MAX_ELEMENTS = (2**63 - 1) // 8  # of at most 8 bytes: numpy wants the size in bytes in int64
MAX_RANK = 32  # numpy 1's; numpy 2 has 64


class Datatype(StrEnum):  # spelled as the Open Inference Protocol spells them
    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    BF16 = "BF16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"


# numpy's dtype for the wire layout; on the little-endian machines we run on these are native.
NUMPY: dict[Datatype, np.dtype[Any]] = {
    Datatype.BOOL: np.dtype("?"),
    Datatype.UINT8: np.dtype("u1"),
    Datatype.UINT16: np.dtype("<u2"),
    Datatype.UINT32: np.dtype("<u4"),
    Datatype.UINT64: np.dtype("<u8"),
    Datatype.INT8: np.dtype("i1"),
    Datatype.INT16: np.dtype("<i2"),
    Datatype.INT32: np.dtype("<i4"),
    Datatype.INT64: np.dtype("<i8"),
    Datatype.FP16: np.dtype("<f2"),
    Datatype.BF16: np.dtype(ml_dtypes.bfloat16),
    Datatype.FP32: np.dtype("<f4"),
    Datatype.FP64: np.dtype("<f8"),
    Datatype.BYTES: np.dtype("O"),
}
_FROM_NUMPY: dict[np.dtype[Any], Datatype] = {dtype: name for name, dtype in NUMPY.items()}
_BY_NAME: dict[str, Datatype] = {str(datatype): datatype for datatype in Datatype}
INTEGERS = frozenset(
    {
        Datatype.UINT8,
        Datatype.UINT16,
        Datatype.UINT32,
        Datatype.UINT64,
        Datatype.INT8,
        Datatype.INT16,
        Datatype.INT32,
        Datatype.INT64,
    }
)
FLOATS = frozenset({Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64})
NOT_IN_JSON = frozenset({Datatype.FP16, Datatype.BF16})  # contract §2.4: binary only


def to_datatype(name: str, at: str) -> Datatype:
    """The datatype called name, in any case. Raises InvalidInput listing the known ones."""
    found = _BY_NAME.get(name) or _BY_NAME.get(name.upper())
    if found is None:
        raise InvalidInput(
            f"{at}: unknown datatype {name!r}; expected one of {', '.join(_BY_NAME)}"
        )
    return found


def datatype_of(array: NDArray[Any]) -> Datatype:
    """The datatype that carries array; strings, datetimes and objects travel as BYTES.

    Raises InferenceError for a dtype the protocol has no name for (e.g. complex128).
    """
    found = _FROM_NUMPY.get(array.dtype)
    if found is not None:
        return found
    if array.dtype.kind in "SUMmO":
        return Datatype.BYTES
    found = _FROM_NUMPY.get(array.dtype.newbyteorder("<"))
    if found is None:
        raise InferenceError(
            f"numpy dtype {array.dtype} has no Open Inference Protocol datatype; "
            f"cast it to one of {', '.join(_BY_NAME)}"
        )
    return found


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a model declares of one input or output. shape: -1 marks a free dimension.

    accepts: datatypes it takes beside datatype, unconverted. columns: of a table, the specs of the
    tensors that may come in its stead, one per column.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    is_optional: bool = False
    accepts: frozenset[Datatype] = frozenset()
    columns: "tuple[TensorSpec, ...]" = ()


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array. Its shape is the array's; datatype is derived from the dtype unless given."""

    name: str
    array: NDArray[Any]
    datatype: Datatype = field(default=None)  # type: ignore[assignment]  # filled in below

    def __post_init__(self) -> None:
        if self.datatype is None:
            object.__setattr__(self, "datatype", datatype_of(self.array))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


def check_shape(shape: Sequence[int], at: str) -> int:
    """Elements a tensor of shape has. Raises InvalidInput if negative or beyond int64."""
    if len(shape) > MAX_RANK:
        raise InvalidInput(f"{at}: shape has {len(shape)} dimensions, the most is {MAX_RANK}")
    count = 1
    for dim in shape:
        if dim < 0:
            raise InvalidInput(f"{at}: shape {list(shape)} has a negative dimension")
        count *= dim or 1  # numpy minds the other dimensions of an empty tensor too
    if count > MAX_ELEMENTS:
        raise InvalidInput(f"{at}: shape {list(shape)} has more elements than fit int64")
    return 0 if 0 in shape else count


def from_raw(name: str, datatype: Datatype, shape: Sequence[int], raw: Buffer, at: str) -> Tensor:
    """View row-major little-endian bytes as a tensor: no copy, the array is read-only.

    Only bytes that start at an address their dtype cannot be read from are copied, once: behind
    JSON of any length that is common, and frameworks in C do not expect it.
    at: where raw stood in the request, for the error text, e.g. "raw_input_contents[0]".
    BYTES elements are copied out one by one, which their length prefixes force.
    Raises InvalidInput if a dimension is negative or len(raw) is not what shape needs.
    Source: kserve docs/predict-api/v2/required_api.md; byte order is custom, not in the text.
    """
    count = check_shape(shape, at)
    if datatype is Datatype.BYTES:
        return Tensor(name, bytes_array(split_bytes(raw, count, at), shape), datatype)
    dtype = NUMPY[datatype]
    need = count * dtype.itemsize
    got = raw.nbytes if isinstance(raw, memoryview) else len(raw)
    if got != need:
        raise InvalidInput(f"{at}: {datatype} of shape {list(shape)} needs {need} bytes, got {got}")
    array = np.frombuffer(raw, dtype, count).reshape(shape) if count else np.empty(shape, dtype)
    if not array.flags.aligned:
        array = array.copy()
    array.flags.writeable = False
    return Tensor(name, array, datatype)


def to_raw(tensor: Tensor) -> Buffer:
    """The tensor's bytes as the wire wants them; a view where the array already is laid out so."""
    array = tensor.array
    if tensor.datatype is Datatype.BYTES:
        return join_bytes(iter_bytes(array))
    wire = np.ascontiguousarray(array, NUMPY[tensor.datatype])
    if tensor.datatype is Datatype.BF16:  # ml_dtypes exports no buffer of its own
        wire = wire.view(np.uint16)
    return wire.data.cast("B") if wire.size else b""


def split_bytes(raw: Buffer, count: int, at: str) -> list[bytes]:
    """The count length-prefixed elements of raw. Raises InvalidInput on any other number."""
    view = memoryview(raw)
    size = view.nbytes
    elements: list[bytes] = []
    offset = 0
    while offset < size:
        if offset + 4 > size:
            raise InvalidInput(
                f"{at}: BYTES element {len(elements)} is cut off inside its 4-byte length "
                f"({size - offset} bytes left)"
            )
        (length,) = struct.unpack_from("<I", view, offset)
        offset += 4
        if offset + length > size:
            raise InvalidInput(
                f"{at}: BYTES element {len(elements)} says {length} bytes, "
                f"but {size - offset} are left"
            )
        elements.append(bytes(view[offset : offset + length]))
        offset += length
        if len(elements) > count:
            break
    if len(elements) != count:
        more = "more" if len(elements) > count else str(len(elements))
        raise InvalidInput(f"{at}: expected {count} BYTES elements, got {more}")
    return elements


def join_bytes(elements: Iterable[bytes]) -> bytes:
    """elements, each behind its 4-byte little-endian length."""
    parts: list[bytes] = []
    for element in elements:
        parts += (struct.pack("<I", len(element)), element)
    return b"".join(parts)


def bytes_array(elements: Sequence[bytes], shape: Sequence[int]) -> NDArray[Any]:
    """An object array of shape holding elements, whose number is already checked."""
    array = np.empty(math.prod(shape), dtype=object)
    array[:] = elements
    return array.reshape(shape)


def iter_bytes(array: NDArray[Any]) -> Iterable[bytes]:
    """Elements of a BYTES array as bytes: str in UTF-8, anything else (a date, a number) as str."""
    for element in array.ravel().tolist() if array.dtype.kind != "M" else array.ravel():
        if isinstance(element, bytes | bytearray | memoryview):
            yield bytes(element)
        else:
            yield str(element).encode()
