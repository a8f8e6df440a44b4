"""HTTP content codings: undone within a bound, and chosen only when a client means it (§2.8)."""

import gzip
import zlib
from typing import Literal

from headrace.server.errors import InvalidInput, PayloadTooLarge, UnsupportedMedia
from headrace.server.tensor import Buffer

Coding = Literal["gzip", "deflate"]
ACCEPTED = "gzip, deflate"  # what an edge answers in Accept-Encoding beside UnsupportedMedia
_CODINGS: dict[str, Coding] = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's window bits: which wrapper
_LEVEL = 1  # on a request path the client waits for the last byte: speed before size
_PIECE_BYTES = 1 << 20  # of output per step
_STEP_BYTES = 1 << 16  # of input per step
_MAX_MEMBERS = 100_000  # of one gzip body; bgzip makes one per 64 KiB
_GZIP_MAGIC = b"\x1f\x8b"


def decompress(body: Buffer, encoding: str, max_bytes: int) -> bytes:
    """body without its content coding; max_bytes bounds the result, 0: no bound.

    encoding: the value of Content-Encoding. deflate may come with or without its zlib wrapper.
    Raises InvalidInput for broken data, PayloadTooLarge as soon as the bound is crossed, and
    UnsupportedMedia for another coding.
    """
    coding = encoding.strip().lower()
    if coding in ("", "identity"):
        return bytes(body)
    if coding in ("gzip", "x-gzip"):
        return _inflate(body, _GZIP, "gzip", max_bytes)
    if coding == "deflate":
        return _inflate(body, _ZLIB if _has_zlib_header(body) else _RAW, "deflate", max_bytes)
    raise UnsupportedMedia(f"Content-Encoding {encoding!r} is not supported; send {ACCEPTED}")


def choose(accept_encoding: str, size_bytes: int, min_bytes: int | None = None) -> Coding | None:
    """The coding for an answer of size_bytes, None: leave it as it is.

    A client means it when gzip or deflate is all that it accepts. min_bytes: the operator's, the
    size from which answers are compressed for clients that merely advertise it.
    """
    accepted = _accepted(accept_encoding)
    is_wanted = len(accepted) == 1 or (min_bytes is not None and size_bytes >= min_bytes)
    if not is_wanted:
        return None
    return next((_CODINGS[coding] for coding in accepted if coding in _CODINGS), None)


def compress(body: Buffer, coding: Coding) -> bytes:
    """body in coding; deflate with the zlib wrapper, as RFC 9110 has it."""
    if coding == "gzip":
        return gzip.compress(body, _LEVEL, mtime=0)
    return zlib.compress(body, _LEVEL)


def _accepted(accept_encoding: str) -> list[str]:
    """Codings with a weight above 0, the most wanted first."""
    weighted: list[tuple[float, str]] = []
    for part in accept_encoding.lower().split(","):
        coding, _, rest = part.partition(";")
        name, _, text = rest.partition("=")
        try:
            weight = float(text) if name.strip() == "q" else 1.0
        except ValueError:
            weight = 0.0
        if coding.strip() and weight > 0:
            weighted.append((weight, coding.strip()))
    return [coding for _, coding in sorted(weighted, key=lambda pair: -pair[0])]


def _has_zlib_header(body: Buffer) -> bool:
    """RFC 1950: method 8, and the first two bytes as a number divide by 31."""
    head = bytes(memoryview(body)[:2])
    return len(head) == 2 and head[0] & 0x0F == 8 and int.from_bytes(head) % 31 == 0


def _inflate(body: Buffer, window_bits: int, coding: Coding, max_bytes: int) -> bytes:
    view = memoryview(body)
    pieces: list[bytes] = []
    total_bytes = offset = members = 0
    while members == 0 or offset < len(view):  # once per gzip member
        members += 1
        if members > 1 and (coding != "gzip" or view[offset : offset + 2] != _GZIP_MAGIC):
            left = len(view) - offset
            raise InvalidInput(f"Content-Encoding {coding}: {left} bytes follow the data")
        if members > _MAX_MEMBERS:
            raise InvalidInput(f"Content-Encoding {coding}: more than {_MAX_MEMBERS} members")
        stream = zlib.decompressobj(window_bits)
        while not stream.eof:
            # In small steps: what zlib leaves of its input it copies, what it gives is bounded.
            step = stream.unconsumed_tail
            if not step:
                step = bytes(view[offset : offset + _STEP_BYTES])
                offset += len(step)
            try:
                piece = stream.decompress(step, _PIECE_BYTES)
            except zlib.error as err:
                raise InvalidInput(f"Content-Encoding {coding}: {err}") from err
            if not step and not piece and not stream.eof:
                raise InvalidInput(f"Content-Encoding {coding}: the body ends too early")
            total_bytes += len(piece)
            if max_bytes and total_bytes > max_bytes:
                raise PayloadTooLarge(
                    f"the decompressed body has more than the limit of {max_bytes} bytes "
                    f"(--max_body_bytes {max_bytes})"
                )
            pieces.append(piece)
        offset -= len(stream.unused_data)
    return b"".join(pieces)
