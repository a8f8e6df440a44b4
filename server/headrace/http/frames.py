"""HTTP/2 frames as bytes (RFC 9113 §4, §6). Pure."""

import struct
from collections.abc import Iterable
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_BYTES = 16_384

END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY_FLAG = 0x1, 0x1, 0x4, 0x8, 0x20


class Kind(IntEnum):
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Code(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Broken(Exception):
    """The peer broke the protocol: the connection ends with code."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


def pack(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    size = len(content)
    return struct.pack(">BHBBI", size >> 16, size & 0xFFFF, kind, flags, stream) + content


def pack_settings(values: Iterable[tuple[int, int]]) -> bytes:
    return pack(Kind.SETTINGS, 0, 0, b"".join(struct.pack(">HI", *each) for each in values))


def pack_window_update(stream: int, more_bytes: int) -> bytes:
    return pack(Kind.WINDOW_UPDATE, 0, stream, struct.pack(">I", more_bytes))


def pack_reset(stream: int, code: Code) -> bytes:
    return pack(Kind.RST_STREAM, 0, stream, struct.pack(">I", code))


def pack_goaway(last_stream: int, code: Code, text: str = "") -> bytes:
    return pack(Kind.GOAWAY, 0, 0, struct.pack(">II", last_stream, code) + text.encode()[:256])


def pack_block(stream: int, block: bytes, is_end: bool, max_frame_bytes: int) -> bytes:
    """A HEADERS frame, and CONTINUATIONs where block is longer than a frame."""
    flags = END_STREAM if is_end else 0
    if len(block) <= max_frame_bytes:
        return pack(Kind.HEADERS, flags | END_HEADERS, stream, block)
    frames = [pack(Kind.HEADERS, flags, stream, block[:max_frame_bytes])]
    rest = block[max_frame_bytes:]
    while rest:
        piece, rest = rest[:max_frame_bytes], rest[max_frame_bytes:]
        frames.append(pack(Kind.CONTINUATION, 0 if rest else END_HEADERS, stream, piece))
    return b"".join(frames)


def unpadded(content: bytes, flags: int) -> bytes:
    """content of DATA or HEADERS without padding and priority. Raises Broken."""
    start, end = 0, len(content)
    if flags & PADDED:
        if not content:
            raise Broken(Code.FRAME_SIZE_ERROR, "a padded frame without its pad length")
        start, end = 1, end - content[0]
    if flags & PRIORITY_FLAG:
        start += 5
    if start > end:
        raise Broken(Code.PROTOCOL_ERROR, "more padding than content")
    return content[start:end] if start or end != len(content) else content
