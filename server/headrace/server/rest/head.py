"""The head of a request, start line and headers, before Tornado parses it: limits and diagnosis."""

from dataclasses import dataclass

from tornado import httputil

from headrace.server.rest.answer import Answer, error_answer


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """0 means none (contract §8 *Limits*)."""

    max_bytes: int = 64 << 10
    max_headers: int = 100


def check_size(size_bytes: int, limits: HeadLimits) -> Answer | None:
    """431 for a head of size_bytes, complete or not; None if it may be."""
    if limits.max_bytes and size_bytes > limits.max_bytes:
        return error_answer(
            431,
            f"the request headers have more than the limit of {limits.max_bytes} bytes "
            f"(--max_header_bytes {limits.max_bytes})",
        )
    return None


def check_count(head: bytes, limits: HeadLimits) -> Answer | None:
    """431 for too many header lines. head: ends with its empty line."""
    count = head.count(b"\n") - 2  # the start line's and the empty line's
    if limits.max_headers and count > limits.max_headers:
        return error_answer(
            431,
            f"the request has {count} headers, the limit is {limits.max_headers} "
            f"(--max_headers {limits.max_headers})",
        )
    return None


def explain(head: bytes) -> str:
    """Why Tornado refused a message with this head."""
    text = head.decode("latin1").lstrip("\r\n")
    start_line, _, rest = text.partition("\n")
    try:
        httputil.parse_request_start_line(start_line.rstrip("\r"))
        headers = httputil.HTTPHeaders.parse(rest)
    except httputil.HTTPInputError as err:
        return f"malformed HTTP request: {err}"
    length, coding = headers.get("Content-Length"), headers.get("Transfer-Encoding")
    if length is not None and coding is not None:
        return "malformed HTTP request: Content-Length and Transfer-Encoding exclude each other"
    if coding is not None and coding.lower() != "chunked":
        return f"malformed HTTP request: Transfer-Encoding {coding!r} is not supported"
    if length is not None:
        return f"malformed HTTP request: Content-Length {length!r} is not a number of bytes"
    return "malformed HTTP request: the chunks of the body are broken"
