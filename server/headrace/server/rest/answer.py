"""What a handler returns: status, headers and body of one HTTP answer."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.server.protocol.encoded import JSON, Encoded
from headrace.server.protocol.json_text import dumps
from headrace.server.protocol.v2_binary import LENGTH_HEADER
from headrace.server.tensor import Buffer


@dataclass(slots=True)
class Answer:
    """parts: the body, sent piece by piece with a Content-Length. stream: sent chunked instead.

    content_type None: none is sent. may_compress: an inference's answer, the only kind that
    is compressed (contract §2.8). closes: the connection ends with this answer.
    """

    parts: list[Buffer] = field(default_factory=list)
    status: int = 200
    content_type: str | None = JSON
    headers: dict[str, str] = field(default_factory=dict)
    stream: AsyncIterator[bytes] | None = None
    may_compress: bool = False
    closes: bool = False

    @property
    def size_bytes(self) -> int:
        return sum(memoryview(part).nbytes for part in self.parts)


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer([dumps(value)], status, headers=dict(headers or {}))


def error_answer(status: int, message: str, **headers: str) -> Answer:
    """The one error body of every path and status (contract D1). headers: with _ for -."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return json_answer({"error": message}, status, named)


def encoded_answer(encoded: Encoded, headers: Mapping[str, str]) -> Answer:
    """An inference's answer. headers: the model's own, which win except over the body's length."""
    answer = Answer(encoded.parts, content_type=encoded.content_type, may_compress=True)
    answer.headers.update(encoded.headers)
    if encoded.json_length is not None:
        answer.headers[LENGTH_HEADER] = str(encoded.json_length)
    add_model_headers(answer, headers)
    return answer


_NOT_THE_MODELS = frozenset({"content-length", "transfer-encoding", "connection", "date"})


def add_model_headers(answer: Answer, headers: Mapping[str, str]) -> None:
    """What a model put into `response_headers`; framing stays ours."""
    for name, value in headers.items():
        key = name.lower()
        if key == "content-type":
            answer.content_type = value
        elif key not in _NOT_THE_MODELS:
            answer.headers[name] = value
