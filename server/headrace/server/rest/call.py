"""One request as a handler sees it: path parameters, headers, body, context."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from headrace.http import Exchange
from headrace.server.request import Context
from headrace.server.tensor import Buffer


@dataclass(slots=True)
class Call:
    """headers: lower-case names, the last duplicate wins; `context.headers` is the same object.

    body: decompressed. names: of the path, e.g. `model`.
    """

    names: Mapping[str, str]
    headers: dict[str, str]
    body: Buffer = b""
    context: Context = field(default_factory=Context)

    @classmethod
    def of(cls, names: Mapping[str, str], exchange: Exchange) -> Self:
        body, headers = exchange.body, exchange.headers
        context = Context(headers, body_bytes=len(body), started_ns=exchange.started_ns)
        return cls(names, headers, body, context)

    @property
    def model(self) -> str:
        return self.names["model"]

    @property
    def version(self) -> str:
        return self.names.get("version", "")

    @property
    def content_type(self) -> str | None:
        return self.headers.get("content-type")


def deadline(now_s: float, *timeouts_s: float | None) -> float | None:
    """The earliest end, on `time.monotonic()`'s clock; None and 0 are no limit."""
    given = [seconds for seconds in timeouts_s if seconds]
    return now_s + min(given) if given else None
