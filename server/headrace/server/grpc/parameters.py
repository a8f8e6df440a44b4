"""Request and tensor parameters between protobuf's oneof and plain values.

tritonclient writes integers into any of three fields (contract §3.5); we read them all. Values
beyond int64 go out unsigned, floats as double.
"""

from typing import Any

from headrace.server.errors import InvalidInput
from headrace.server.request import NO_PARAMETERS, Parameters, ParameterValue

FINAL_RESPONSE = "triton_final_response"
MAX_PARAMETERS = 1000  # of one request or tensor: they are read one by one, on the loop


def from_message(fields: Any, at: str) -> Parameters:
    """The values of a map<string, InferParameter>.

    Raises InvalidInput for one without a value, or more than MAX_PARAMETERS.
    """
    if not fields:
        return NO_PARAMETERS
    if len(fields) > MAX_PARAMETERS:
        raise InvalidInput(f"{at}: {len(fields)} parameters, at most {MAX_PARAMETERS} are read")
    values: dict[str, ParameterValue] = {}
    for key, parameter in fields.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidInput(f"{at}: parameter '{key}' has no value")
        values[key] = getattr(parameter, kind)
    return values


def to_message(values: Parameters, fields: Any) -> None:
    """Set each of values in fields, a map<string, InferParameter>."""
    for key, value in values.items():
        parameter = fields[key]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, int):
            if value < 2**63:
                parameter.int64_param = value
            else:
                parameter.uint64_param = value
        elif isinstance(value, float):
            parameter.double_param = value
        else:
            parameter.string_param = str(value)
