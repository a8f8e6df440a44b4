"""`InferInput` and `InferOutput`: KServe's named arrays (data-plane contract §6.2).

What came over the wire stays the received buffer until somebody asks: `as_numpy()` is a view of it,
`.data` turns it into a list on first access. Shapes may be changed, data replaced.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from headrace.server.errors import InferenceError, InvalidInput
from headrace.server.tensor import (
    INTEGERS,
    NUMPY,
    Buffer,
    Datatype,
    Tensor,
    bytes_array,
    datatype_of,
    from_raw,
    to_datatype,
    to_raw,
)

# Which field of gRPC's InferTensorContents holds a datatype (contract §3.3)
CONTENTS: dict[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class InferTensor:
    """The one thing KServe's two classes are; users know it as InferInput and InferOutput."""

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        datatype: str,
        data: Any = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self._name = name
        self._shape = list(shape)
        self._datatype = datatype.upper()
        self._parameters = plain_parameters(parameters)
        self._data = contents_list(data, self._datatype) if is_contents(data) else data
        self._raw_data: Buffer | None = None  # bytes as the wire wants them
        self._wire: Tensor | None = None  # as received, or set; `.data` not yet asked for
        self._is_list = False  # set as one, though nobody has asked for it
        self._is_text = True  # BYTES elements show as str, as REST callers sent them
        self._is_nested = False
        self._is_binary = False

    @classmethod
    def from_tensor(
        cls,
        tensor: Tensor,
        parameters: Mapping[str, Any] | None = None,
        is_text: bool = True,
        is_nested: bool = False,
        is_binary: bool = False,
    ) -> Self:
        """tensor, not copied.

        is_text: show BYTES as str, as KServe does over REST. is_nested: `.data` is a list of the
        tensor's shape. is_binary: it came as bytes and travels on as bytes.
        """
        made = cls(tensor.name, tensor.shape, tensor.datatype, None, parameters)
        made._wire = tensor
        made._is_text = is_text
        made._is_nested = is_nested
        made._is_binary = is_binary
        return made

    @property
    def name(self) -> str:
        return self._name

    @property
    def datatype(self) -> str:
        return self._datatype

    @property
    def shape(self) -> list[int]:
        return self._shape

    @shape.setter
    def shape(self, shape: Sequence[int]) -> None:
        self._shape = list(shape)

    @property
    def parameters(self) -> dict[str, Any] | None:
        return self._parameters

    @parameters.setter
    def parameters(self, parameters: Mapping[str, Any] | None) -> None:
        self._parameters = plain_parameters(parameters)

    @property
    def data(self) -> Any:
        """A list in row-major order (nested if the caller's JSON was), or what was set.

        None after `set_data_from_numpy(…, binary_data=True)`: `as_numpy()` reads either.
        """
        if self._wire is not None:
            array = self._shown(self._wire.array)
            # the list is the truth from here on: user code may change it in place
            self._data = array.tolist() if self._is_nested else array.ravel().tolist()
            self._wire = None
        return self._data

    @data.setter
    def data(self, data: Any) -> None:
        self._data = contents_list(data, self._datatype) if is_contents(data) else data
        self._raw_data = None
        self._wire = None

    @property
    def is_binary(self) -> bool:
        """Whether this tensor travels as bytes: it was received or set so."""
        is_received = self._wire is not None and not self._is_list
        return self._raw_data is not None or (is_received and self._is_binary)

    def set_raw(self, raw: Buffer) -> None:
        """Take the bytes of gRPC's raw contents; `.data` decodes them on first access."""
        at = f"tensor '{self._name}'"
        self._wire = from_raw(self._name, to_datatype(self._datatype, at), self._shape, raw, at)
        self._data = self._raw_data = None
        self._is_text = self._is_list = False
        self._is_binary = True

    def array_or_list(self) -> Any:
        """The data in the form it has, without turning what was received into a list."""
        if self._raw_data is not None or (self._wire is not None and not self._is_list):
            return self.to_tensor().array
        return self.data

    def as_numpy(self) -> NDArray[Any]:
        """An array of `shape`; read-only where it views what was received.

        Raises InvalidInput for a datatype the protocol has not, or data that does not fit it.
        """
        if self._datatype not in Datatype.__members__:
            raise InvalidInput(f"invalid datatype {self._datatype} in the input")
        if self._wire is not None:
            return self._shown(self._wire.array).reshape(self._shape)
        if self._data is None and self._raw_data is not None:
            return self.to_tensor().array
        if self._datatype == Datatype.BYTES:
            return _object_array(self._data, self._shape, f"tensor '{self._name}'")
        return self.to_tensor().array

    def set_data_from_numpy(self, array: NDArray[Any], binary_data: bool = True) -> None:
        """Take array's values. binary_data: travel as bytes, not as a list.

        Raises InferenceError unless array has this tensor's datatype and shape.
        """
        if not isinstance(array, np.ndarray):
            raise InferenceError("input_tensor must be a numpy array")
        got = datatype_of(array)
        if self._datatype != got:
            raise InferenceError(
                f"got unexpected datatype {got} from numpy array, expected {self._datatype}"
            )
        if list(array.shape) != self._shape:
            raise InferenceError(
                f"got unexpected numpy array shape {list(array.shape)}, expected {self._shape}"
            )
        self._wire = self._data = self._raw_data = None
        parameters = {k: v for k, v in (self._parameters or {}).items() if k != "binary_data_size"}
        # copies: the caller may fill array anew before they are sent
        if binary_data:
            self._raw_data = bytes(to_raw(Tensor(self._name, array)))
            parameters["binary_data_size"] = len(self._raw_data)
        elif got is Datatype.BYTES:
            self._data = texts(array.ravel())
        else:  # a list only where somebody asks for `.data`
            self._wire = Tensor(self._name, array.copy())
            self._is_nested, self._is_list = False, True
        self._parameters = parameters or None

    def to_tensor(self) -> Tensor:
        """This tensor as the data plane carries it, not copied where it already is so.

        Raises InvalidInput where the data does not fit the declared datatype or shape.
        """
        at = f"tensor '{self._name}'"
        datatype = to_datatype(self._datatype, at)
        if self._wire is not None:
            return Tensor(self._name, _reshaped(self._wire.array, self._shape, at), datatype)
        if self._raw_data is not None:
            return from_raw(self._name, datatype, self._shape, self._raw_data, at)
        if self._data is None:
            raise InvalidInput(f"{at}: has no data")
        if datatype is Datatype.BYTES:
            return Tensor(self._name, _object_array(self._data, self._shape, at), datatype)
        return Tensor(
            self._name, _reshaped(_cast(self._data, datatype, at), self._shape, at), datatype
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "shape": self.shape,
            "datatype": self.datatype,
            "data": self.data,
            "parameters": self.parameters,
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, InferTensor) or type(other) is not type(self):
            return NotImplemented
        return (
            self.name == other.name
            and self.shape == other.shape
            and self.datatype == other.datatype
            and self.parameters == other.parameters
            and _same(self.to_tensor().array, other.to_tensor().array)
        )

    __hash__ = None  # type: ignore[assignment]  # mutable, as KServe's

    def __repr__(self) -> str:
        fields = ",".join(
            f'"{key}": "{value}"' if key in ("name", "datatype") else f'"{key}": {value}'
            for key, value in self.to_dict().items()
        )
        return f"{type(self).__name__} {fields}"

    def _shown(self, array: NDArray[Any]) -> NDArray[Any]:
        if self._datatype != Datatype.BYTES or not self._is_text:
            return array
        shown = np.empty(array.size, dtype=object)
        for i, element in enumerate(array.ravel()):
            shown[i] = _text_or_bytes(element)
        return shown.reshape(array.shape)


class InferInput(InferTensor):
    def as_string(self) -> list[str]:
        """The elements of a BYTES tensor, flat. Raises InvalidInput for another datatype."""
        if self._datatype != Datatype.BYTES:
            raise InvalidInput(f"invalid datatype {self._datatype} in the input")
        return texts(self.as_numpy().ravel())


class InferOutput(InferTensor):
    """A model's result; data may be an array: it travels as the caller asked."""


def texts(elements: Any) -> list[str]:
    """BYTES elements as str. Raises InferenceError for one that is not UTF-8."""
    found = []
    for element in elements:
        text = _text_or_bytes(element)
        if isinstance(text, bytes):
            raise InferenceError(
                f'Failed to encode "{text!r}" using UTF-8. Please use binary_data=True, '
                "if you want to pass a byte array."
            )
        found.append(text)
    return found


def plain_parameters(parameters: Any) -> dict[str, Any] | None:
    """A dict of plain values; gRPC's map of InferParameter messages is read out."""
    if parameters is None:
        return None
    return {key: _parameter(value) for key, value in parameters.items()}


def is_contents(data: Any) -> bool:
    """True for gRPC's InferTensorContents, whoever generated the class."""
    return hasattr(data, "bytes_contents") and hasattr(data, "fp32_contents")


def contents_list(contents: Any, datatype: str) -> list[Any] | None:
    """The elements of a typed gRPC tensor; None where its datatype has no typed field."""
    field = CONTENTS.get(datatype)
    return None if field is None else list(getattr(contents, field))


def _parameter(value: Any) -> Any:
    which = getattr(value, "WhichOneof", None)
    if which is None:
        return value
    chosen = which("parameter_choice")
    return None if chosen is None else getattr(value, chosen)


def _text_or_bytes(element: Any) -> str | bytes:
    if isinstance(element, bytes):
        try:
            return element.decode()
        except UnicodeDecodeError:
            return element
    return element if isinstance(element, str) else str(element)


def _object_array(data: Any, shape: Sequence[int], at: str) -> NDArray[Any]:
    flat = list(data.ravel() if isinstance(data, np.ndarray) else _leaves(data))
    return _reshaped(_objects(flat), shape, at)


def _objects(elements: Sequence[Any]) -> NDArray[Any]:
    return bytes_array(elements, (len(elements),))


def _leaves(data: Any) -> Any:
    for element in data:
        if isinstance(element, list | tuple | np.ndarray):
            yield from _leaves(element)
        else:
            yield element


def _cast(data: Any, datatype: Datatype, at: str) -> NDArray[Any]:
    """data in datatype's dtype. Raises InvalidInput where an integer would change its value."""
    dtype = NUMPY[datatype]
    try:
        natural = data if isinstance(data, np.ndarray) else np.asarray(data)
        if natural.dtype == dtype:
            return natural
        if datatype is Datatype.BF16 and natural.dtype.kind == "O":
            natural = natural.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            # numbers in strings are read; of a list, whose errors quote plain text
            is_text = natural.dtype.kind in "SU"
            cast = np.array(natural.tolist(), dtype) if is_text else natural.astype(dtype)
    except (ValueError, TypeError, OverflowError) as err:
        raise InvalidInput(f"{at}: the data is no {datatype}: {err}") from err
    if datatype in INTEGERS and natural.dtype.kind not in "SU" and cast.size:
        changed = cast != natural
        if changed.any():
            value = natural[changed].ravel()[0]
            raise InvalidInput(f"{at}: {value} is no {datatype}")
    return cast


def _reshaped(array: NDArray[Any], shape: Sequence[int], at: str) -> NDArray[Any]:
    if list(array.shape) == list(shape):
        return array
    try:
        return array.reshape(shape)
    except ValueError as err:
        raise InvalidInput(
            f"{at}: {array.size} elements do not fit the shape {list(shape)}"
        ) from err


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.dtype == other.dtype and bool(np.array_equal(one, other))
