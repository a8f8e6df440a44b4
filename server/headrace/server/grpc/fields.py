"""What a gRPC call says beside its messages: its time, its sizes, its coding, its status text.

Two roads read and write these, rpc.py and rest/grpc_bridge.py.
"""

import asyncio
import re
from dataclasses import dataclass
from urllib.parse import quote

from headrace.server.errors import InvalidInput, PayloadTooLarge, Unsupported
from headrace.server.protocol import compression
from headrace.server.settings import Settings
from headrace.server.tensor import Buffer

SMALL_BYTES = 1 << 15  # what is inflated on the loop; more goes to a thread
CODINGS = ("gzip", "deflate")
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])", re.ASCII)
_SAFE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


@dataclass(frozen=True, slots=True)
class MessageSizes:
    """The largest messages, in bytes; -1: no limit. receive_flag: who says the first."""

    receive: int
    send: int
    receive_flag: str

    def check_received(self, size: int) -> None:
        """Raises PayloadTooLarge."""
        _check("Received", size, self.receive, self.receive_flag)

    def check_sent(self, size: int) -> None:
        """Raises PayloadTooLarge."""
        _check("Sent", size, self.send, "--grpc_max_send_message_length")


def message_sizes(settings: Settings) -> MessageSizes:
    receive, send = settings.grpc_max_receive_message_length, settings.grpc_max_send_message_length
    flag = "--grpc_max_receive_message_length"
    if receive is None:
        receive, flag = settings.max_body_bytes or -1, "--max_body_bytes"
    return MessageSizes(receive, -1 if send is None else send, flag)


def _check(verb: str, size: int, most: int, flag: str) -> None:
    if 0 <= most < size:
        raise PayloadTooLarge(f"{verb} message larger than max ({size} vs. {most}) ({flag} {most})")


def timeout_s(text: str) -> float:
    """Of `grpc-timeout`. Raises InvalidInput."""
    found = _TIMEOUT.fullmatch(text)
    if found is None:
        raise InvalidInput(
            f"grpc-timeout: expected up to 8 digits and one of H, M, S, m, u and n, got {text!r}"
        )
    return int(found[1]) * _UNITS_S[found[2]]


def check_coding(coding: str) -> None:
    """Raises Unsupported for a `grpc-encoding` nobody reads here."""
    if coding not in CODINGS:
        raise Unsupported(f"grpc-encoding: expected gzip or deflate, got {coding!r}")


async def inflated(message: Buffer, coding: str, most: int) -> bytes:
    """message decompressed; -1: to whatever size. Raises Unsupported for another coding,
    InvalidInput, PayloadTooLarge."""
    check_coding(coding)
    if len(message) <= SMALL_BYTES:
        return compression.decompress(message, coding, max(0, most))
    return await asyncio.to_thread(compression.decompress, message, coding, max(0, most))


def status_text(details: str) -> str:
    """The value of `grpc-message`; a model's text may hold what UTF-8 cannot say."""
    return quote(details, safe=_SAFE, errors="replace")
