"""Which gRPC status an error becomes, in one place (data-plane contract §3.4)."""

import logging
from dataclasses import dataclass

import grpc

from headrace.server.errors import Code, failure

log = logging.getLogger(__name__)

STATUS = {
    Code.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Code.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.UNSUPPORTED_MEDIA: grpc.StatusCode.INVALID_ARGUMENT,
    Code.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Code.UNIMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    Code.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.OVERLOADED: grpc.StatusCode.UNAVAILABLE,
    Code.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Code.NO_MEMORY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.INTERNAL: grpc.StatusCode.INTERNAL,
}
MAX_DETAILS = 1024  # characters: details are a header, and clients take 8 KiB of those
PUSHBACK = "grpc-retry-pushback-ms"


@dataclass(frozen=True, slots=True)
class Status:
    """What an RPC ends with."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str], ...] = ()


def to_status(error: BaseException) -> Status:
    """error as a status. An exception that is not ours is logged here, once, with its traceback."""
    found = failure(error)
    if found.code is Code.INTERNAL and found.class_name:
        log.error("request failed", exc_info=error, extra={"error": found.class_name})
    details = found.message or found.class_name or found.code.name.replace("_", " ").capitalize()
    if len(details) > MAX_DETAILS:
        details = f"{details[: MAX_DETAILS - 1]}…"
    trailing: tuple[tuple[str, str], ...] = ()
    if found.code is Code.OVERLOADED:
        wait_s = float(getattr(error, "retry_after_s", 1.0))
        trailing = ((PUSHBACK, str(int(wait_s * 1000))),)
    return Status(STATUS[found.code], details, trailing)
