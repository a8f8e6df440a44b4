"""The head of a request: bytes in any pieces to start line, headers and where the body ends.

llhttp (httptools) reads the lines, and refuses what RFC 9112 lets a recipient refuse: bare line
feeds, folded lines, control characters, lengths that are none. What it lets through and two
servers could read differently is refused here. Framing is ours: the parser is never given a byte
of a body, so where one request ends and the next begins is decided in one place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httptools

from headrace.http.limits import Limits, malformed, too_many_header_bytes, too_many_headers

END = b"\r\n\r\n"
CHUNKED = -1  # the length of a body that says it as it comes
VERSIONS = {"1.1": "HTTP/1.1", "1.0": "HTTP/1.0"}
SECRETS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key", "api-key"})
_MAX_NAMES = 512
_names: dict[bytes, str] = {}  # lower-case header names; bounded: names are the client's
_BAD_IN_HOST = frozenset(' \t/\\@?#,"<>')


class Head:
    """One request's start line and headers, as the parser tells them."""

    __slots__ = ("fields", "has_ended", "is_complete", "target")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.is_complete = False
        self.has_ended = False  # the parser expects another head

    # httptools' calls

    def on_url(self, piece: bytes) -> None:
        self.target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.rstrip(b" \t")))  # llhttp leaves the space behind

    def on_headers_complete(self) -> None:
        self.is_complete = True

    def on_message_complete(self) -> None:
        self.has_ended = True


@dataclass(frozen=True, slots=True)
class RequestHead:
    """headers: lower-case names, the last of a name wins. fields: as they came, in order.

    body_length: bytes that follow, or CHUNKED.
    """

    method: str
    target: str
    version: str
    headers: Mapping[str, str]
    fields: Sequence[tuple[bytes, bytes]]
    body_length: int
    keeps_alive: bool

    @property
    def is_public(self) -> bool:
        """Nothing in it is a secret that should not outlive its request."""
        return SECRETS.isdisjoint(self.headers)


class KnownHeads:
    """Heads seen before, by their bytes: a client that sends the same again is not parsed again.

    Clients with connections of their own repeat themselves to the letter. Bounded in number and
    size; heads with credentials are not kept.
    """

    __slots__ = ("_known",)
    MOST, MAX_BYTES = 512, 1024

    def __init__(self) -> None:
        self._known: dict[bytes, RequestHead] = {}

    def find(self, data: bytes, at: int) -> tuple[RequestHead | None, bytes]:
        """The head at at in data, if it is known; and its bytes, b"" if it is not all there."""
        end = data.find(END, at)
        if end < 0 or end - at > self.MAX_BYTES:
            return None, b""
        text = data[at : end + len(END)]
        return self._known.get(text), text

    def add(self, text: bytes, head: RequestHead) -> None:
        if head.is_public:
            if len(self._known) >= self.MOST:
                self._known.clear()
            self._known[text] = head


class HeadReader:
    """Reads one head at a time: `feed` until it is complete, then `head` is there.

    Raises Refusal from any method. `reset` makes it ready for the next head of any connection.
    """

    __slots__ = ("_fed_bytes", "_head", "_is_reusable", "_line", "_parser", "_tail", "head")

    def __init__(self) -> None:
        self._head = Head()
        self._parser = httptools.HttpRequestParser(self._head)
        self._fed_bytes = 0
        self._is_reusable = False
        self._line = b""  # the request line, with its end
        self._tail = b""
        self.head: RequestHead | None = None

    def reset(self) -> None:
        if not (self._head.has_ended and self._is_reusable):
            self._parser = httptools.HttpRequestParser(self._head)
        self._head.reset()
        self._is_reusable = False  # until a head says otherwise
        self._fed_bytes = 0
        self._line = b""
        self._tail = b""
        self.head = None

    def feed(self, data: bytes, start: int, limits: Limits) -> int:
        """Take of data from start what belongs to the head. Returns where the rest begins, or -1
        if all of it did and the head is not complete."""
        head = self._head
        if head.is_complete:
            return self._end_by_line_feed(data, start, limits)
        while True:
            end = self._end_in(data, start)
            piece = data[start:end] if end >= 0 else data[start:] if start else data
            self._fed_bytes += len(piece)
            if not self._line.endswith(b"\n"):
                self._line = _first_line(self._line + piece)
            try:
                self._parser.feed_data(piece)
            except httptools.HttpParserUpgrade:
                head.has_ended = False  # not upgraded: the parser is in a state of its own
            except httptools.HttpParserError as err:
                raise malformed(_reason(err)) from None
            if head.is_complete and end >= 0:
                self.head = self._checked(limits)
                return end
            if limits.max_header_bytes and self._fed_bytes > limits.max_header_bytes:
                raise too_many_header_bytes(limits)
            if end < 0:
                self._tail = (self._tail + piece)[-3:]
                return -1
            start, self._tail = end, b""  # empty lines before the request line

    def _end_by_line_feed(self, data: bytes, start: int, limits: Limits) -> int:
        """llhttp calls a head complete at the last carriage return; here the rest comes."""
        if data[start] != ord("\n"):
            raise malformed("the empty line behind the headers does not end")
        self._head.has_ended = False  # the parser still waits for the line feed
        self._fed_bytes += 1
        self.head = self._checked(limits)
        return start + 1

    def _end_in(self, data: bytes, start: int) -> int:
        """Where the head ends in data, behind its empty line; -1: not in there."""
        tail = self._tail
        if tail:
            at = (tail + data[start : start + 3]).find(END)
            if at >= 0:
                return start + at + len(END) - len(tail)
        at = data.find(END, start)
        return at + len(END) if at >= 0 else -1

    def _checked(self, limits: Limits) -> RequestHead:
        fields = self._head.fields
        if limits.max_header_bytes and self._fed_bytes > limits.max_header_bytes:
            raise too_many_header_bytes(limits)
        if limits.max_headers and len(fields) > limits.max_headers:
            raise too_many_headers(len(fields), limits)
        version = VERSIONS.get(self._parser.get_http_version())
        if version is None:
            raise malformed(f"HTTP/{self._parser.get_http_version()} is not served; send HTTP/1.1")
        method, target = self._parser.get_method(), self._head.target
        if self._line != b"%b %b %b\r\n" % (method, target, version.encode()):
            # llhttp takes "RTSP/1.0" and several spaces.
            raise malformed("Malformed HTTP request line: no method, target and HTTP version")
        headers: dict[str, str] = {}
        hosts = codings = 0
        for name, value in fields:
            key = _names.get(name) or _lower(name)
            text = value.decode("latin1")
            if key == "connection" and key in headers:  # one list, in several lines
                text = f"{headers[key]}, {text}"
            headers[key] = text
            hosts += key == "host"
            codings += key == "transfer-encoding"
        if codings > 1:
            raise malformed(f"{codings} Transfer-Encoding headers, expected one")
        check_host(hosts, headers, version)
        options = headers.get("connection", "keep-alive")
        self._is_reusable = (
            version == "HTTP/1.1"
            and options.lower() == "keep-alive"
            and "proxy-connection" not in headers  # llhttp reads it as Connection
        )
        return RequestHead(
            method.decode("latin1"),
            target.decode("latin1"),
            version,
            headers,
            fields,
            body_length(headers, version),
            keeps_alive(headers, version),
        )


def _first_line(data: bytes) -> bytes:
    """What stands behind the empty lines at the beginning of data, and its end if it is there."""
    at = 0
    while data.startswith(b"\r\n", at):
        at += 2
    end = data.find(b"\n", at)
    return data[at : end + 1] if end >= 0 else data[at:]


def check_host(count: int, headers: Mapping[str, str], version: str) -> None:
    """Raises Refusal for a Host that is missing, doubled or no host (RFC 9112 §3.2)."""
    if count != 1 and (count or version == "HTTP/1.1"):
        raise malformed(f"{count} Host headers, expected one")
    if count and not _BAD_IN_HOST.isdisjoint(headers["host"]):
        raise malformed(f"bad Host header {headers['host']!r}")


def body_length(headers: Mapping[str, str], version: str) -> int:
    """Bytes of the body that follows headers, or CHUNKED. Raises Refusal."""
    coding = headers.get("transfer-encoding")
    if coding is None:
        length = headers.get("content-length")
        if length is None:
            return 0
        length = length.strip(" \t")
        if not (length.isascii() and length.isdigit()) or len(length) > 19:
            raise malformed(f"Content-Length {length!r} is not a number of bytes")
        return int(length)
    if "content-length" in headers:
        raise malformed("Content-Length and Transfer-Encoding exclude each other")
    if coding.strip(" \t").lower() != "chunked":
        raise malformed(f"Transfer-Encoding {coding!r} is not supported; send chunked")
    if version == "HTTP/1.0":
        raise malformed("HTTP/1.0 knows no Transfer-Encoding")
    return CHUNKED


def keeps_alive(headers: Mapping[str, str], version: str) -> bool:
    options = headers.get("connection")
    if options is None:
        return version == "HTTP/1.1"
    words = {word.strip() for word in options.lower().split(",")}
    return "close" not in words if version == "HTTP/1.1" else "keep-alive" in words


def _lower(name: bytes) -> str:
    lower = name.decode("latin1").lower()
    if len(_names) < _MAX_NAMES and len(name) < 64:
        _names[name] = lower
    return lower


_REASONS = {
    "Invalid method encountered": "Malformed HTTP request line: no method of HTTP",
    "Invalid header token": "a header line without a name and a colon",
    "Transfer-Encoding can't be present with Content-Length": (
        "Content-Length and Transfer-Encoding exclude each other"
    ),
    "Content-Length can't be present with Transfer-Encoding": (
        "Content-Length and Transfer-Encoding exclude each other"
    ),
    "Invalid character in Content-Length": "Content-Length is not a number of bytes",
    "Empty Content-Length": "Content-Length is not a number of bytes",
    "Request has invalid `Transfer-Encoding`": "Transfer-Encoding is not supported; send chunked",
    "Invalid `Transfer-Encoding` header value": "Transfer-Encoding is not supported; send chunked",
}


def _reason(err: Exception) -> str:
    text = str(err)
    return _REASONS.get(text, text)
