"""The V2 REST codec in one place: what rest/ calls.

body ─parse─▶ Envelope ─to_request─▶ Request ─▶ DataPlane ─▶ Response ─encode─▶ Encoded
"""

from headrace.server.protocol.encoded import Encoded
from headrace.server.protocol.limits import ParseLimits
from headrace.server.protocol.v2_binary import (
    LENGTH_HEADER,
    parse_json_length,
    raw_binary_request,
)
from headrace.server.protocol.v2_plain import LEVELS
from headrace.server.protocol.v2_plain import read as read_plain
from headrace.server.protocol.v2_request import Envelope, parse, to_request
from headrace.server.protocol.v2_response import encode
from headrace.server.protocol.v2_sliced import read as read_sliced
from headrace.server.request import Request
from headrace.server.tensor import Buffer

__all__ = [
    "LENGTH_HEADER",
    "Encoded",
    "Envelope",
    "ParseLimits",
    "encode",
    "parse",
    "parse_json_length",
    "raw_binary_request",
    "read_large",
    "read_plain",
    "to_request",
]


def read_large(
    body: Buffer, model_name: str, version: str, limits: ParseLimits
) -> Request | Envelope:
    """body, for a thread: a request where it is plain. Raises InvalidInput, NoSharedMemory."""
    found: Request | None = None
    if not 0 < limits.max_json_depth < LEVELS:
        found = read_sliced(body, model_name, version)
    if found is None:
        found = read_plain(body, model_name, version, limits)
    return found if found is not None else parse(body, None, limits)
