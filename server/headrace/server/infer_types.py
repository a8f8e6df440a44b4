"""`InferRequest` and `InferResponse`: what KServe's V2 hooks take and give (contract §6.2).

Their REST and gRPC forms are made in infer_wire.py; their tensors stand in infer_tensors.py.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from headrace.server import infer_wire
from headrace.server.infer_tensors import InferInput, InferOutput, plain_parameters
from headrace.server.request import RequestedOutput

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["InferInput", "InferOutput", "InferRequest", "InferResponse", "RequestedOutput"]

Made = TypeVar("Made")


class _FromGrpc(Generic[Made]):
    """KServe's name for two things: `InferRequest.from_grpc(message)` makes one, and of an instance
    `from_grpc` says whether it came so."""

    def __init__(self, make: Callable[[Any], Made]) -> None:
        self._make = make

    @overload
    def __get__(self, instance: None, owner: type) -> Callable[[Any], Made]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> bool: ...

    def __get__(self, instance: object | None, owner: type) -> Callable[[Any], Made] | bool:
        return self._make if instance is None else bool(instance.__dict__["from_grpc"])

    def __set__(self, instance: object, value: bool | None) -> None:
        instance.__dict__["from_grpc"] = value


class InferRequest:
    """One V2 inference, whichever transport brought it.

    raw_inputs: length-prefixed or packed bytes per input, as gRPC's raw_input_contents.
    """

    from_grpc: _FromGrpc["InferRequest"] = _FromGrpc(lambda message: _request_of(message))

    def __init__(
        self,
        model_name: str,
        infer_inputs: list[InferInput],
        request_id: str | None = None,
        raw_inputs: Sequence[bytes] | None = None,
        from_grpc: bool | None = False,
        parameters: Mapping[str, Any] | None = None,
        request_outputs: list[RequestedOutput] | None = None,
        model_version: str | None = None,
    ) -> None:
        self.id = request_id
        self.model_name = model_name
        self.model_version = model_version
        self.inputs = infer_inputs
        self.parameters = plain_parameters(parameters)
        self.from_grpc = from_grpc
        self.request_outputs = request_outputs
        if raw_inputs:
            infer_wire.set_raw(infer_inputs, raw_inputs, "raw_input_contents")

    @property
    def use_binary_outputs(self) -> bool:
        """The caller wants every output as bytes (`binary_data_output`)."""
        return bool((self.parameters or {}).get("binary_data_output", False))

    @classmethod
    def from_bytes(cls, req_bytes: bytes, json_length: int, model_name: str) -> "InferRequest":
        """A V2 REST body whose first json_length bytes are JSON and the rest tensors."""
        head, blobs = infer_wire.split(req_bytes, json_length)
        return cls._from_json(head, model_name, blobs)

    @classmethod
    def from_inference_request(cls, request: Any, model_name: str) -> "InferRequest":
        """A decoded V2 REST request: a dict, or a pydantic model of one."""
        dump = getattr(request, "model_dump", None)
        return cls._from_json(dump() if dump is not None else request, model_name, None)

    @classmethod
    def _from_json(cls, head: Any, model_name: str, blobs: memoryview | None) -> "InferRequest":
        inputs = infer_wire.from_json_tensors(InferInput, head, "inputs", blobs)
        outputs = [
            RequestedOutput(each["name"], each.get("parameters") or {})
            for each in head.get("outputs") or []
        ]
        return cls(
            model_name,
            inputs,
            request_id=head.get("id"),
            parameters=head.get("parameters"),
            request_outputs=outputs or None,
            model_version=head.get("model_version"),
        )

    def to_rest(self) -> tuple[Any, int | None]:
        """A dict and None, or bytes and the length of their JSON where an input is binary."""
        return infer_wire.joined(infer_wire.request_parts(self))

    def to_grpc(self) -> Any:
        """A ModelInferRequest of our private descriptor pool."""
        return infer_wire.request_message(self)

    def as_dataframe(self) -> "pd.DataFrame":
        """A column per input; rows beyond a shorter input's end are missing values.

        A one-dimensional input, or one of shape (rows, 1), is a column of its elements; others are
        flattened, as KServe does. Needs pandas: pip install 'headrace[pandas]'.
        """
        try:
            import pandas
        except ImportError as err:
            raise ImportError("as_dataframe needs pandas: pip install 'headrace[pandas]'") from err
        columns = []
        for tensor in self.inputs:
            values = tensor.as_string() if tensor.datatype == "BYTES" else tensor.as_numpy().ravel()
            columns.append(pandas.Series(values, name=tensor.name))
        return pandas.concat(columns, axis=1) if columns else pandas.DataFrame()

    def get_input_by_name(self, name: str) -> InferInput | None:
        return next((tensor for tensor in self.inputs if tensor.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "model_name": self.model_name,
            "inputs": [tensor.to_dict() for tensor in self.inputs],
            "parameters": self.parameters,
            "from_grpc": self.from_grpc,
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, InferRequest):
            return NotImplemented
        return _identity(self) == _identity(other) and self.inputs == other.inputs

    __hash__ = None  # type: ignore[assignment]  # mutable, as KServe's

    def __repr__(self) -> str:
        return f"InferRequest {self.to_dict()}"


class InferResponse:
    """One V2 answer. response_id None or "": the server fills in the request's."""

    from_grpc: _FromGrpc["InferResponse"] = _FromGrpc(lambda message: _response_of(message))

    def __init__(
        self,
        response_id: str | None,
        model_name: str,
        infer_outputs: list[InferOutput],
        model_version: str | None = None,
        raw_outputs: Sequence[bytes] | None = None,
        from_grpc: bool | None = False,
        parameters: Mapping[str, Any] | None = None,
        use_binary_outputs: bool | None = False,
        requested_outputs: list[RequestedOutput] | None = None,
    ) -> None:
        self.id = response_id
        self.model_name = model_name
        self.model_version = model_version
        self.outputs = infer_outputs
        self.parameters = plain_parameters(parameters)
        self.from_grpc = from_grpc
        self.use_binary_outputs = use_binary_outputs
        self.requested_outputs = requested_outputs
        if raw_outputs:
            infer_wire.set_raw(infer_outputs, raw_outputs, "raw_output_contents")

    @classmethod
    def from_rest(cls, response: Mapping[str, Any]) -> "InferResponse":
        """A decoded V2 REST answer."""
        return cls._from_json(response, None)

    @classmethod
    def from_bytes(cls, res_bytes: bytes, json_length: int) -> "InferResponse":
        head, blobs = infer_wire.split(res_bytes, json_length)
        return cls._from_json(head, blobs)

    @classmethod
    def _from_json(cls, head: Any, blobs: memoryview | None) -> "InferResponse":
        return cls(
            head.get("id"),
            head.get("model_name"),
            infer_wire.from_json_tensors(InferOutput, head, "outputs", blobs),
            model_version=head.get("model_version"),
            parameters=head.get("parameters"),
        )

    def to_rest(self) -> tuple[Any, int | None]:
        """A dict and None, or bytes and the length of their JSON where an output is binary.

        Raises InvalidInput for a requested output that is not there.
        """
        return infer_wire.joined(infer_wire.response_parts(self))

    def to_grpc(self) -> Any:
        """A ModelInferResponse of our private descriptor pool."""
        return infer_wire.response_message(self)

    def get_output_by_name(self, name: str) -> InferOutput | None:
        return next((tensor for tensor in self.outputs if tensor.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "model_name": self.model_name,
            "outputs": [tensor.to_dict() for tensor in self.outputs],
            "parameters": self.parameters,
            "from_grpc": self.from_grpc,
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, InferResponse):
            return NotImplemented
        return _identity(self) == _identity(other) and self.outputs == other.outputs

    __hash__ = None  # type: ignore[assignment]  # mutable, as KServe's

    def __repr__(self) -> str:
        return f"InferResponse {self.to_dict()}"


def _request_of(message: Any) -> InferRequest:
    """Of a ModelInferRequest, whichever package generated its class."""
    inputs = infer_wire.from_message_tensors(
        InferInput, message.inputs, message.raw_input_contents, "raw_input_contents"
    )
    outputs = [
        RequestedOutput(each.name, plain_parameters(each.parameters) or {})
        for each in message.outputs
    ]
    return InferRequest(
        message.model_name,
        inputs,
        request_id=message.id,
        from_grpc=True,
        parameters=message.parameters,
        request_outputs=outputs or None,
        model_version=message.model_version,
    )


def _response_of(message: Any) -> InferResponse:
    """Of a ModelInferResponse, whichever package generated its class."""
    outputs = infer_wire.from_message_tensors(
        InferOutput, message.outputs, message.raw_output_contents, "raw_output_contents"
    )
    return InferResponse(
        message.id,
        message.model_name,
        outputs,
        model_version=message.model_version,
        from_grpc=True,
        parameters=message.parameters,
    )


def _identity(message: InferRequest | InferResponse) -> tuple[Any, ...]:
    return (message.id, message.model_name, message.model_version, message.parameters or {})
