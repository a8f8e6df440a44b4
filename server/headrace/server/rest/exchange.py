"""One HTTP exchange: receives the body within its limits, runs the handler, sends the answer.

headers_received ─▶ data_received … ─▶ finish ─▶ task: decompress → handler → send
      └─ refused: 413 before the body is read; 404, 405, 400 once it is
on_connection_close ─▶ the task is cancelled, so that what is queued does not run
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol

from tornado import httputil
from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError

from headrace.server.errors import DeadlineExceeded, InferenceError, ServerNotReady
from headrace.server.protocol import compression
from headrace.server.request import Context
from headrace.server.rest import errors
from headrace.server.rest.answer import Answer, error_answer, reason
from headrace.server.rest.call import Call, deadline
from headrace.server.rest.routes import Match, Routes
from headrace.server.rest.stream import HttpStream
from headrace.server.settings import Settings
from headrace.server.tensor import Buffer

SMALL_BYTES = 1 << 18  # what is (de)compressed on the loop; more goes to a thread


class ExchangeOwner(Protocol):
    """What all exchanges of a listener share."""

    routes: Routes
    settings: Settings

    @property
    def is_draining(self) -> bool: ...

    def began(self, exchange: "Exchange") -> None: ...

    def ended(self, exchange: "Exchange", call: Call, answer: Answer) -> None: ...

    def left(self, exchange: "Exchange") -> None: ...


class Exchange(httputil.HTTPMessageDelegate):
    """Tornado calls it; nothing is decided here that routes, errors and handlers decide."""

    def __init__(
        self, owner: ExchangeOwner, connection: HTTP1Connection, stream: HttpStream
    ) -> None:
        self._owner = owner
        self._connection = connection
        self._stream = stream
        self._match: Match | None = None
        self._refusal: Answer | None = None
        self._headers: dict[str, str] = {}
        self._body: Buffer = b""
        self._size = 0
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False
        self.start_line = httputil.RequestStartLine("", "", "")
        self.started_ns = 0
        self.peer: Any = stream.peer

    # Tornado's calls

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> None:
        assert isinstance(start_line, httputil.RequestStartLine)
        self.started_ns = time.perf_counter_ns()
        self.start_line = start_line
        self._headers = {name.lower(): value for name, value in headers.get_all()}
        self._refusal = bad_host(start_line.version, headers)
        if self._refusal is not None:
            self._refusal.closes = True
        else:
            found = self._owner.routes.find(start_line.method, path_of(start_line.path))
            if isinstance(found, Match):
                self._match = found
            else:
                self._refusal = found
        limit = self._owner.settings.max_body_bytes
        length = self._headers.get("content-length", "")
        if limit and length.isascii() and length.isdigit() and int(length) > limit:
            self._refuse_early(errors.too_large(f"the body has {length} bytes", limit))
        elif "expect" in self._headers:
            headers["Expect"] = self._headers["expect"].lower()  # Tornado compares it to the letter
            if self._refusal is not None:
                self._refuse_early(self._refusal)

    def data_received(self, chunk: bytes) -> None:
        self._size += len(chunk)
        limit = self._owner.settings.max_body_bytes
        if limit and self._size > limit:
            self._refuse_early(errors.too_large(f"the body has more than {limit} bytes", limit))
        elif self._refusal is None:
            if not self._body:
                self._body = chunk
            elif isinstance(self._body, bytearray):
                self._body += chunk
            else:
                self._body = bytearray(self._body)
                self._body += chunk

    def finish(self) -> None:
        self._owner.began(self)
        self._connection.set_close_callback(self.on_connection_close)
        self._task = asyncio.get_running_loop().create_task(self._run())

    def on_connection_close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def stop(self) -> None:
        """Cancel what runs and answer 503."""
        self._is_stopping = True
        self.on_connection_close()

    # The exchange itself

    def _refuse_early(self, answer: Answer) -> None:
        """Answer before the body has come; Tornado then reads no more and closes."""
        self._refusal = answer
        self._body = b""
        answer.closes = True
        self._stream.linger()
        self._write_whole(answer)

    async def _run(self) -> None:
        call = Call(self._match.names if self._match else {}, self._headers)
        call.context = Context(self._headers, body_bytes=self._size)
        call.context.started_ns = self.started_ns
        answer = Answer()
        request_id = self._headers.get("x-request-id", "")
        try:
            answer = self._refusal or await self._answer(call)
            if request_id.isprintable() and request_id:
                answer.headers.setdefault("x-request-id", request_id)
            await self._send(answer)
        except StreamClosedError:
            pass  # the client has gone
        except asyncio.CancelledError:
            if not self._is_stopping:
                return
            answer = errors.to_answer(ServerNotReady("The server is stopping."))
            if not self._stream.closed():
                answer.closes = True
                self._write_whole(answer)
        finally:
            self._owner.ended(self, call, answer)
            self._owner.left(self)

    async def _answer(self, call: Call) -> Answer:
        assert self._match is not None
        settings = self._owner.settings
        timeout_s = settings.request_timeout or None
        call.context.deadline_s = deadline(time.monotonic(), timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                call.body = await self._decompressed()
                answer = await self._match.route.handler(call)
                if answer.stream is not None:
                    answer.stream = await _begun(answer.stream)
                return answer
        except TimeoutError as err:
            if timeout_s is None or call.context.deadline_s is None:
                return errors.to_answer(err)
            if time.monotonic() < call.context.deadline_s:
                return errors.to_answer(err)  # the model's own
            return errors.to_answer(
                DeadlineExceeded(
                    f"the request took longer than {timeout_s:g} s "
                    f"(--request_timeout {timeout_s:g})"
                )
            )
        except Exception as err:
            return errors.to_answer(err)

    async def _decompressed(self) -> Buffer:
        coding = self._headers.get("content-encoding", "")
        if not coding:
            return self._body
        limit = self._owner.settings.max_body_bytes
        if self._size <= SMALL_BYTES // 8:
            return compression.decompress(self._body, coding, limit)
        return await asyncio.to_thread(compression.decompress, self._body, coding, limit)

    async def _compress(self, answer: Answer) -> None:
        accepted = self._headers.get("accept-encoding", "")
        if not accepted or answer.status != 200 or not answer.may_compress:
            return
        size = answer.size_bytes
        coding = compression.choose(accepted, size, self._owner.settings.compress_min_bytes)
        if coding is None:
            return
        whole = b"".join(answer.parts)
        if size <= SMALL_BYTES:
            answer.parts = [compression.compress(whole, coding)]
        else:
            answer.parts = [await asyncio.to_thread(compression.compress, whole, coding)]
        answer.headers["Content-Encoding"] = coding
        answer.headers["Vary"] = "Accept-Encoding"

    async def _send(self, answer: Answer) -> None:
        if answer.stream is not None:
            await self._write_stream(answer, answer.stream)
            return
        try:
            await self._compress(answer)
            await self._write_whole(answer)
        except ValueError as err:  # a model's own header that HTTP cannot carry
            failed = errors.to_answer(InferenceError(f"the model's response_headers: {err}"))
            await self._write_whole(failed)

    def _write_whole(self, answer: Answer) -> "asyncio.Future[None]":
        headers = self._fields(answer)
        headers["Content-Length"] = str(answer.size_bytes)
        parts = answer.parts if self.start_line.method != "HEAD" else []
        first = parts[0] if parts and isinstance(parts[0], bytes) else b""
        written = self._connection.write_headers(self._status(answer), headers, first)
        for part in parts[1:] if first else parts:
            if len(part):
                written = self._connection.write(part)  # type: ignore[arg-type]  # any buffer
        self._connection.finish()
        if answer.closes:
            self._connection.close()
        return written

    async def _write_stream(self, answer: Answer, stream: AsyncIterator[bytes]) -> None:
        is_chunked = self.start_line.version == "HTTP/1.1"
        answer.closes = answer.closes or not is_chunked
        is_whole = False
        try:
            self._connection.write_headers(self._status(answer), self._fields(answer))
            async for piece in stream:
                if piece:
                    await self._connection.write(piece)
            is_whole = True
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()
            if is_whole:
                self._connection.finish()
                if answer.closes:
                    self._connection.close()
            else:
                self._stream.abort()

    def _status(self, answer: Answer) -> httputil.ResponseStartLine:
        return httputil.ResponseStartLine("HTTP/1.1", answer.status, reason(answer.status))

    def _fields(self, answer: Answer) -> httputil.HTTPHeaders:
        answer.closes = answer.closes or self._owner.is_draining
        headers = httputil.HTTPHeaders()
        if answer.content_type is not None and (answer.parts or answer.stream is not None):
            headers["Content-Type"] = answer.content_type
        for name, value in answer.headers.items():
            headers[name] = value
        headers["Date"] = date_now()
        if answer.closes:
            headers["Connection"] = "close"
        return headers


async def _begun(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """stream with its first piece already there: what fails before it is an ordinary error."""
    try:
        first = await anext(stream)
    except StopAsyncIteration:
        return _chained([], stream)
    return _chained([first], stream)


async def _chained(head: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        for piece in head:
            yield piece
        async for piece in rest:
            yield piece
    finally:
        close = getattr(rest, "aclose", None)
        if close is not None:
            await close()


def path_of(target: str) -> str:
    """The path of a request target, also of one in absolute form."""
    if not target.startswith("/"):
        _, _, rest = target.partition("://")
        target = "/" + rest.partition("/")[2] if rest else "/" + target
    return target.partition("?")[0].partition("#")[0]


def bad_host(version: str, headers: httputil.HTTPHeaders) -> Answer | None:
    """400 for a Host header that is missing, doubled or no host (RFC 9112 §3.2)."""
    hosts = headers.get_list("Host")
    if not hosts and version == "HTTP/1.0":
        return None
    if len(hosts) != 1:
        return error_answer(400, f"malformed HTTP request: {len(hosts)} Host headers, expected one")
    if any(char in hosts[0] for char in ' \t/\\@?#,"<>'):
        return error_answer(400, f"malformed HTTP request: bad Host header {hosts[0]!r}")
    return None


_date: tuple[int, str] = (0, "")


def date_now() -> str:
    """The Date header, made once a second."""
    global _date
    now_s = int(time.time())
    if _date[0] != now_s:
        _date = now_s, httputil.format_timestamp(now_s)
    return _date[1]
