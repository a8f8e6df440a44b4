"""From a received request to a sent answer: decompress, run the handler, compress, send.

A coroutine per request, whose first step runs as the last byte arrives: where nothing waits (an
inline model with a free instance), the answer is written before the event loop turns.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Protocol

from headrace.http import Buffer, Exchange, Gone, in_task
from headrace.server.errors import DeadlineExceeded, InferenceError, ServerNotReady
from headrace.server.protocol import compression
from headrace.server.rest import errors
from headrace.server.rest.answer import Answer
from headrace.server.rest.call import Call, deadline
from headrace.server.rest.reading import Reading
from headrace.server.rest.routes import Match
from headrace.server.settings import Settings

SMALL_BYTES = 1 << 18  # what is (de)compressed on the loop; more goes to a thread


class ExchangeOwner(Protocol):
    """What all exchanges of a listener share."""

    settings: Settings
    reading: Reading
    is_stopping: bool

    @property
    def is_draining(self) -> bool: ...

    def ended(self, exchange: Exchange, call: Call, answer: Answer) -> None: ...


async def run(exchange: Exchange, found: Match | Answer, owner: ExchangeOwner) -> None:
    """Answer exchange, whose body is there, by the route found, or with the refusal found."""
    headers = exchange.headers
    call = Call.of(found.names if isinstance(found, Match) else {}, exchange)
    answer = Answer()
    try:
        if isinstance(found, Match):
            answer = await _answered(found, call, owner)
        else:
            answer = replace(found, headers=dict(found.headers))  # found is every such request's
        request_id = headers.get("x-request-id", "")
        if request_id and request_id.isprintable():
            answer.headers.setdefault("x-request-id", request_id)
        exchange.closes = answer.closes or owner.is_draining
        if answer.stream is not None:
            await _stream(exchange, answer, answer.stream)
        else:
            if answer.may_compress and "accept-encoding" in headers:
                await _compress(answer, headers["accept-encoding"], owner.settings)
            send(exchange, answer)
    except Gone:
        pass
    except asyncio.CancelledError:
        if owner.is_stopping and not exchange.is_gone and not exchange.has_started:
            answer = errors.to_answer(ServerNotReady("The server is stopping."))
            exchange.closes = True
            send(exchange, answer)
    finally:
        owner.ended(exchange, call, answer)


def send(exchange: Exchange, answer: Answer) -> None:
    """answer, whole, in one write; a model's own header that HTTP cannot carry is a 500."""
    try:
        exchange.respond(answer.status, fields(answer), answer.parts)
    except ValueError as err:
        _send_unsendable(exchange, err)


def _send_unsendable(exchange: Exchange, error: ValueError) -> None:
    failed = errors.to_answer(InferenceError(f"the model's response_headers: {error}"))
    exchange.respond(failed.status, fields(failed), failed.parts)


def fields(answer: Answer) -> list[tuple[str, str]]:
    found = list(answer.headers.items())
    if answer.content_type is not None and (answer.parts or answer.stream is not None):
        found.insert(0, ("Content-Type", answer.content_type))
    return found


async def _answered(match: Match, call: Call, owner: ExchangeOwner) -> Answer:
    limit_s = owner.settings.request_timeout or None
    try:
        if limit_s is not None or not match.route.is_quick:
            await in_task()
        if limit_s is not None:
            call.context.deadline_s = deadline(time.monotonic(), limit_s)
            async with asyncio.timeout(limit_s):
                return await _handled(match, call, owner)
        return await _handled(match, call, owner)
    except TimeoutError as err:
        if limit_s is None or time.monotonic() < (call.context.deadline_s or 0):
            return errors.to_answer(err)  # the model's own
        return errors.to_answer(
            DeadlineExceeded(
                f"the request took longer than {limit_s:g} s (--request_timeout {limit_s:g})"
            )
        )
    except Exception as err:
        return errors.to_answer(err)


async def _handled(match: Match, call: Call, owner: ExchangeOwner) -> Answer:
    coding = call.headers.get("content-encoding")
    if coding:
        call.body = await _decompressed(call.body, coding, owner)
    answer = await match.route.handler(call)
    if answer.stream is not None:
        answer.stream = await _begun(answer.stream)
    return answer


async def _decompressed(body: Buffer, coding: str, owner: ExchangeOwner) -> Buffer:
    max_bytes = owner.settings.max_body_bytes
    if len(body) <= SMALL_BYTES // 8:
        return compression.decompress(body, coding, max_bytes)
    with owner.reading.of(len(body)):
        return await asyncio.to_thread(compression.decompress, body, coding, max_bytes)


async def _compress(answer: Answer, accepted: str, settings: Settings) -> None:
    if answer.status != 200:
        return
    size = answer.size_bytes
    coding = compression.choose(accepted, size, settings.compress_min_bytes)
    if coding is None:
        return
    whole = b"".join(answer.parts)
    if size <= SMALL_BYTES:
        answer.parts = [compression.compress(whole, coding)]
    else:
        answer.parts = [await asyncio.to_thread(compression.compress, whole, coding)]
    answer.headers["Content-Encoding"] = coding
    answer.headers["Vary"] = "Accept-Encoding"


async def _stream(exchange: Exchange, answer: Answer, stream: AsyncIterator[bytes]) -> None:
    """Piece by piece, no faster than the client reads; broken off, it ends the connection."""
    try:
        try:
            exchange.start(answer.status, fields(answer))
        except ValueError as err:
            _send_unsendable(exchange, err)
            return
        async for piece in stream:
            exchange.write(piece)
            await exchange.written()
        exchange.end()
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()


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
