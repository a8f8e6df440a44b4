"""A client of bytes: what goes out is exactly what a test says."""

import asyncio
import contextlib
import http.client
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Reply:
    """headers: as sent, in order. body: undone of its transfer coding."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """Its only value. Fails if it came twice."""
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(found) < 2, found
        return found[0] if found else None

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The text of the one error body there is (contract D1)."""
        assert self.header("content-type") == "application/json"
        assert list(self.json()) == ["error"]
        return str(self.json()["error"])


class _Socket:
    def __init__(self, received: bytes) -> None:
        self._received = received

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._received)


def parse(received: bytes, method: str = "GET") -> Reply:
    response = http.client.HTTPResponse(cast(Any, _Socket(received)), method=method)
    response.begin()
    return Reply(response.status, response.getheaders(), response.read())


def request(
    method: str, path: str, body: bytes = b"", headers: Headers = (), close: bool = True
) -> bytes:
    """The bytes of a request; a length is sent with a body that is not chunked."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test"]
    lines += [f"{name}: {value}" for name, value in headers]
    is_chunked = any(name.lower() == "transfer-encoding" for name, _ in headers)
    if (body or method == "POST") and not is_chunked:
        lines.append(f"Content-Length: {len(body)}")
    if close:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def exchange(port: int, sent: bytes, timeout_s: float = 10.0) -> bytes:
    """Everything a server answers to sent, until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(timeout_s):
            writer.write(sent)
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def ask(
    port: int, method: str, path: str, body: bytes | dict[str, Any] = b"", headers: Headers = ()
) -> Reply:
    sent = json.dumps(body).encode() if isinstance(body, dict) else body
    return parse(await exchange(port, request(method, path, sent, headers)), method)
