"""Triton's generate and generate_stream (contract §4.7)."""

import asyncio
from collections.abc import AsyncIterator

from headrace.server.dataplane import DataPlane
from headrace.server.errors import Unsupported, failure
from headrace.server.protocol import generate
from headrace.server.protocol.json_text import loads
from headrace.server.request import Response
from headrace.server.rest import errors
from headrace.server.rest.answer import Answer, json_answer
from headrace.server.rest.call import Call
from headrace.server.rest.limits import parse_limits
from headrace.server.rest.routes import Route
from headrace.server.rest.v2 import PREFIXES, add_deadline
from headrace.server.settings import Settings


class Generate:
    def __init__(self, plane: DataPlane, settings: Settings) -> None:
        self._plane = plane
        self._limits = parse_limits(settings)

    def routes(self) -> list[Route]:
        return [
            route
            for prefix in PREFIXES
            for route in (
                Route("POST", f"{prefix}/generate", self.generate),
                Route("POST", f"{prefix}/generate_stream", self.generate_stream),
            )
        ]

    async def generate(self, call: Call) -> Answer:
        """One answer; a model that streams may give exactly one here."""
        answers = await self._run(call, is_stream=False)
        if isinstance(answers, Response):
            return json_answer(generate.to_json(answers))
        found: list[Response] = []
        try:
            async for answer in answers:
                found.append(answer)
                if len(found) > 1:
                    break
        finally:
            await _close(answers)
        if len(found) != 1:
            count = len(found) or "no"
            raise Unsupported(
                f"generate expects model to produce exactly 1 response, it produced "
                f"{count if count == 'no' else 'more'}; use generate_stream"
            )
        return json_answer(generate.to_json(found[0]))

    async def generate_stream(self, call: Call) -> Answer:
        answers = await self._run(call, is_stream=True)
        if isinstance(answers, Response):
            answers = _once(answers)
        return Answer(content_type=generate.EVENT_STREAM, stream=_events(answers))

    async def _run(self, call: Call, is_stream: bool) -> Response | AsyncIterator[Response]:
        body = loads(call.body, self._limits, allow_nan=True, at=generate.AT)
        model = await self._plane.ready_model(call.model, call.version)
        request = generate.to_request(
            body, model.name, model.servable.inputs, call.version, is_stream
        )
        add_deadline(request, call.context)
        return await self._plane.infer(model, request, call.context)


async def _once(answer: Response) -> AsyncIterator[Response]:
    yield answer


async def _events(answers: AsyncIterator[Response]) -> AsyncIterator[bytes]:
    """Server-sent events; an error after the first is the last event, before it an error."""
    has_begun = False
    try:
        async for answer in answers:
            yield generate.event(generate.to_json(answer))
            has_begun = True
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except Exception as err:
        if not has_begun:
            raise
        errors.to_answer(err)  # logged as everywhere
        yield generate.event({"error": failure(err).labelled})
    finally:
        await _close(answers)


async def _close(answers: AsyncIterator[Response]) -> None:
    close = getattr(answers, "aclose", None)
    if close is not None:
        await close()
