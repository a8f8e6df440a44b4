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
from headrace.server.protocol.v2_plain import read as read_plain
from headrace.server.protocol.v2_request import Envelope, parse, to_request
from headrace.server.protocol.v2_response import encode

__all__ = [
    "LENGTH_HEADER",
    "Encoded",
    "Envelope",
    "ParseLimits",
    "encode",
    "parse",
    "parse_json_length",
    "raw_binary_request",
    "read_plain",
    "to_request",
]
