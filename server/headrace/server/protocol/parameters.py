"""The `parameters` of the Open Inference Protocol: strings, numbers and booleans by name.

Reserved names have a type of their own (contract §2.2, §4.8); everything else is the caller's and
reaches the model untouched.
"""

from collections.abc import Mapping
from typing import Any

from headrace.server.errors import InvalidInput
from headrace.server.request import NO_PARAMETERS, Parameters

RESERVED_PREFIX = "triton_"
EMPTY_FINAL_RESPONSE = "triton_enable_empty_final_response"
_WHOLE_NUMBERS = ("priority", "timeout")
_BOOLEANS = ("sequence_start", "sequence_end", "binary_data_output")


def check_parameters(value: Any, at: str) -> Parameters:
    """value as parameters; None and absent are none. Raises InvalidInput naming the wrong key."""
    if not value:
        if value is None or isinstance(value, Mapping):
            return NO_PARAMETERS
        raise InvalidInput(f"{at}: expected an object, got {json_type(value)}")
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{at}: expected an object, got {json_type(value)}")
    for key, member in value.items():
        if not isinstance(member, str | bool | int | float):
            raise InvalidInput(
                f"{at}: parameter '{key}' is {json_type(member)}; "
                f"expected a string, number or boolean"
            )
    return value


def check_request_parameters(value: Any, at: str, is_stream: bool = False) -> Parameters:
    """Like check_parameters, and the reserved names of a request have their types.

    is_stream: `triton_enable_empty_final_response` is a stream's own and allowed there.
    """
    parameters = check_parameters(value, at)
    if not parameters:
        return parameters
    for key in parameters:
        if key.startswith(RESERVED_PREFIX) and not (is_stream and key == EMPTY_FINAL_RESPONSE):
            raise InvalidInput(
                f"{at}: parameter keys starting with '{RESERVED_PREFIX}' are reserved, got '{key}'"
            )
    for key in _WHOLE_NUMBERS:
        member = parameters.get(key, 0)
        if isinstance(member, bool) or not isinstance(member, int) or member < 0:
            raise InvalidInput(f"{at}: '{key}' must be a whole number from 0, got {member!r}")
    for key in _BOOLEANS:
        member = parameters.get(key, False)
        if not isinstance(member, bool):
            raise InvalidInput(f"{at}: '{key}' must be a boolean, got {member!r}")
    return parameters


def timeout_s(parameters: Parameters) -> float | None:
    """Seconds the caller lets its request wait: `timeout` is in microseconds. None: not said."""
    timeout_us = parameters.get("timeout", 0)
    return int(timeout_us) / 1e6 if timeout_us else None


def priority(parameters: Parameters) -> int:
    """1 is the highest; 0: the model's default."""
    return int(parameters.get("priority", 0))


def json_type(value: Any) -> str:
    """What JSON calls the type of value, for error texts."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case Mapping():
            return "an object"
    return "an array"
