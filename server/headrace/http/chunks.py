"""Chunked bodies, both ways: pure functions of bytes (RFC 9112 §7.1)."""

import re

from headrace.http.limits import Limits, Refusal, body_too_large, malformed, too_many_header_bytes

_SIZE = re.compile(rb"0*([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
MAX_OVERHEAD_BYTES = 1 << 16  # of framing beyond what it frames: each of its lines costs us time
MAX_SIZE_LINE_BYTES = 4096  # extensions included, which nobody uses
LAST = b"0\r\n\r\n"


class ChunkReader:
    """Feed it what comes; it gives back the content, and says when the body has ended."""

    __slots__ = ("_data_left", "_is_after_data", "_is_in_trailer", "_limits", "_line",
                 "_max_body_bytes", "_overhead_bytes", "_trailer_bytes", "has_ended",
                 "size_bytes")  # fmt: skip

    def __init__(self, max_body_bytes: int, limits: Limits) -> None:
        self._max_body_bytes = max_body_bytes
        self._limits = limits
        self.has_ended = False
        self.size_bytes = 0  # of content so far
        self._data_left = 0
        self._is_after_data = False  # a CRLF is due
        self._is_in_trailer = False
        self._line = b""  # begun and not ended
        self._overhead_bytes = 0
        self._trailer_bytes = 0

    def feed(self, data: bytes, start: int) -> tuple[list[bytes], int]:
        """The content in data from start on, and where what follows the body begins.

        Raises Refusal for what is no chunk, for a content or a trailer over the limits.
        """
        found: list[bytes] = []
        size = len(data)
        while start < size and not self.has_ended:
            if self._data_left:
                piece = data[start : start + self._data_left]
                start += len(piece)
                self._data_left -= len(piece)
                self._is_after_data = not self._data_left
                found.append(piece)
                continue
            at = data.find(b"\n", start)
            line = self._line + (data[start:] if at < 0 else data[start : at + 1])
            if len(line) > MAX_SIZE_LINE_BYTES:
                raise self._too_long()
            if at < 0:
                self._line = line
                self._check_begun(line)
                return found, size
            start, self._line = at + 1, b""
            self._take_line(line)
        return found, start

    def _take_line(self, line: bytes) -> None:
        if not line.endswith(b"\r\n"):
            raise _broken()
        if not self._is_in_trailer:
            self._overhead_bytes += len(line)
        if self._overhead_bytes > self.size_bytes + MAX_OVERHEAD_BYTES:
            raise malformed("the chunks of the body are smaller than what frames them")
        line = line[:-2]
        if self._is_in_trailer:
            self._take_trailer(line)
        elif self._is_after_data:
            if line:
                raise _broken()
            self._is_after_data = False
        else:
            shaped = _SIZE.fullmatch(line)
            if shaped is None:
                raise _broken()
            self._data_left = int(shaped[1], 16)
            self._is_in_trailer = not self._data_left
            self.size_bytes += self._data_left
            most = self._max_body_bytes
            if most and self.size_bytes > most:
                raise body_too_large(f"the body has more than {most} bytes", most)

    def _take_trailer(self, line: bytes) -> None:
        """Trailers are read and dropped: nothing we serve has any."""
        if not line:
            self.has_ended = True
            return
        self._trailer_bytes += len(line)
        most = self._limits.max_header_bytes
        if most and self._trailer_bytes > most:
            raise too_many_header_bytes(self._limits)
        name, colon, _ = line.partition(b":")
        if not colon or _TOKEN.fullmatch(name) is None or b"\0" in line or b"\r" in line:
            raise malformed("a trailer line without a name and a colon")
        if name.lower() in (b"content-length", b"transfer-encoding", b"host"):
            raise malformed(f"{name.decode('latin1')} in a trailer")

    def _check_begun(self, line: bytes) -> None:
        """What cannot become a line is refused at once, not waited for."""
        if self._is_in_trailer:
            return
        if self._is_after_data:
            if line != b"\r":
                raise _broken()
        elif _SIZE.fullmatch(line.removesuffix(b"\r")) is None:
            raise _broken()

    def _too_long(self) -> Refusal:
        return too_many_header_bytes(self._limits) if self._is_in_trailer else _broken()


def _broken() -> Refusal:
    return malformed("the chunks of the body are broken")


def to_chunk(piece: bytes) -> bytes:
    """piece, which is not empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)
