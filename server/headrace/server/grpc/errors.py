"""Which gRPC status an error becomes, in one place (data-plane contract §3.4)."""

import logging
from dataclasses import dataclass
from enum import IntEnum

from headrace.server.errors import Code, failure

log = logging.getLogger(__name__)


class StatusCode(IntEnum):
    """gRPC's; here, because grpcio costs a process that only serves 9 MB."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


STATUS = {
    Code.INVALID_ARGUMENT: StatusCode.INVALID_ARGUMENT,
    Code.TOO_LARGE: StatusCode.RESOURCE_EXHAUSTED,
    Code.UNSUPPORTED_MEDIA: StatusCode.INVALID_ARGUMENT,
    Code.NOT_FOUND: StatusCode.NOT_FOUND,
    Code.PERMISSION_DENIED: StatusCode.PERMISSION_DENIED,
    Code.UNIMPLEMENTED: StatusCode.UNIMPLEMENTED,
    Code.UNAVAILABLE: StatusCode.UNAVAILABLE,
    Code.OVERLOADED: StatusCode.UNAVAILABLE,
    Code.DEADLINE_EXCEEDED: StatusCode.DEADLINE_EXCEEDED,
    Code.NO_MEMORY: StatusCode.RESOURCE_EXHAUSTED,
    Code.INTERNAL: StatusCode.INTERNAL,
}
MAX_DETAILS = 1024  # characters: details are a header, and clients take 8 KiB of those
PUSHBACK = "grpc-retry-pushback-ms"
STOPPING = "Server is stopping; send the request to another replica."


@dataclass(frozen=True, slots=True)
class Status:
    """What an RPC ends with."""

    code: StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str], ...] = ()


class Ended(Exception):
    """The call ends with this status."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.details)
        self.status = status


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
