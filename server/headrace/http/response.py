"""The head of an answer as bytes: status line, headers, Date."""

import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from http.client import responses

Headers = Iterable[tuple[str, str]]
_BAD = re.compile(r"[\r\n\x00]")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
REMEMBERED_CHARS = 256  # of an answer's own headers
BODILESS = frozenset({204, 304})  # and 1xx

_status_lines = {status: f"HTTP/1.1 {status} {reason}\r\n" for status, reason in responses.items()}
_date: tuple[int, str] = (0, "")


def first_lines(status: int, headers: Headers, own: str = "", reason: str | None = None) -> bytes:
    """own: lines of ours, whole. Raises ValueError for a name or a value that would not stay one
    header."""
    given = tuple(headers)
    size = sum(len(value) for _, value in given)
    lines = (_lines if size > REMEMBERED_CHARS else _remembered)(status, given, reason)
    return f"{lines}{own}\r\n".encode("latin1")


def _lines(status: int, headers: tuple[tuple[str, str], ...], reason: str | None) -> str:
    if reason is None:
        lines = _status_lines.get(status) or f"HTTP/1.1 {status} Unknown\r\n"
    else:
        lines = f"HTTP/1.1 {status} {check_value('reason', reason)}\r\n"
    for name, value in headers:
        if _TOKEN.fullmatch(name) is None:
            raise ValueError(f"{name!r} is no header name")
        lines += f"{name}: {check_value(name, value)}\r\n"
    try:
        lines.encode("latin1")
    except UnicodeEncodeError as err:
        raise ValueError(f"a header holds {err.object[err.start]!r}, which is not Latin-1") from err
    return lines


# Most answers of a server begin in one of a few ways.
_remembered = lru_cache(maxsize=256)(_lines)


def check_value(name: str, value: str) -> str:
    if _BAD.search(value):
        raise ValueError(f"header {name!r} holds a line break or a NUL: {value!r}")
    return value


def date_now() -> str:
    """The Date header's line, made once a second."""
    global _date
    now_s = int(time.time())
    if _date[0] != now_s:
        _date = now_s, f"Date: {formatdate(now_s, usegmt=True)}\r\n"
    return _date[1]
