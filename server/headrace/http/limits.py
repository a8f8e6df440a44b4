"""What a client may do to a connection, in bytes, counts and seconds; and what it is told."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import orjson


@dataclass(frozen=True, slots=True)
class Limits:
    """0 means none (data-plane contract §8 *Limits*)."""

    max_header_bytes: int = 64 << 10  # start line included
    max_headers: int = 100
    max_body_bytes: int = 1 << 30
    header_timeout_s: float = 10.0  # from the first byte to the last of a head
    body_idle_timeout_s: float = 30.0  # between two pieces of a body
    keep_alive_s: float = 65.0  # between two requests
    write_idle_timeout_s: float = 60.0  # an answer of which the client takes nothing
    max_receiving_bytes: int = 0  # of all bodies that are coming in


class Breach(StrEnum):
    """What a client did wrong below any application."""

    MALFORMED = "malformed"
    HEADER_BYTES = "header bytes"
    HEADERS = "headers"
    BODY_BYTES = "body bytes"
    RECEIVING_BYTES = "bytes of all bodies"
    HEADER_TIMEOUT = "header timeout"
    BODY_TIMEOUT = "body timeout"
    NONE = "none"  # it is the application that failed


@dataclass(eq=False)
class Refusal(Exception):
    """text: what came, for the client. limit: that was passed, where there is one."""

    status: int
    breach: Breach
    text: str
    limit: float = 0


Render = Callable[[Refusal], tuple[str, bytes]]  # to content type and body


def render(refusal: Refusal) -> tuple[str, bytes]:
    """The default: the error body of KServe's and Triton's servers."""
    return "application/json", orjson.dumps({"error": refusal.text})


def failed() -> Refusal:
    return Refusal(500, Breach.NONE, "the server could not take the request")


def malformed(text: str) -> Refusal:
    return Refusal(400, Breach.MALFORMED, f"malformed HTTP request: {text}")


def too_many_header_bytes(limits: Limits) -> Refusal:
    most = limits.max_header_bytes
    return Refusal(
        431, Breach.HEADER_BYTES, f"the request headers have more than the limit of {most} bytes",
        most,
    )  # fmt: skip


def too_many_headers(count: int, limits: Limits) -> Refusal:
    most = limits.max_headers
    return Refusal(
        431, Breach.HEADERS, f"the request has {count} headers, the limit is {most}", most
    )


def body_too_large(what: str, most: int) -> Refusal:
    """what: "the body has 1001 bytes", or "… more than 1000 bytes" while it is still coming."""
    return Refusal(413, Breach.BODY_BYTES, f"{what}, the limit is {most} bytes", most)


def too_many_body_bytes(total: int, most: int) -> Refusal:
    """Of all clients together."""
    text = f"{total} bytes of other request bodies are coming in, the limit is {most}; try again"
    return Refusal(503, Breach.RECEIVING_BYTES, text, most)


def slow_head(limits: Limits) -> Refusal:
    seconds = limits.header_timeout_s
    return Refusal(
        408, Breach.HEADER_TIMEOUT, f"the request headers did not arrive within {seconds:g} s",
        seconds,
    )  # fmt: skip


def slow_body(limits: Limits) -> Refusal:
    seconds = limits.body_idle_timeout_s
    return Refusal(
        408, Breach.BODY_TIMEOUT, f"nothing of the request body arrived for {seconds:g} s", seconds
    )
