"""V1 `:predict` and `:explain`: JSON or bytes in, whatever the model returns out (contract §1)."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from headrace.server.dataplane import DataPlane
from headrace.server.protocol import cloudevents, v1
from headrace.server.protocol.cloudevents import CloudEventSettings
from headrace.server.protocol.limits import ParseLimits
from headrace.server.repository import ServedModel
from headrace.server.request import Context
from headrace.server.rest.answer import Answer, add_model_headers, encoded_answer
from headrace.server.rest.call import Call
from headrace.server.rest.limits import parse_limits
from headrace.server.rest.routes import Handler, Route
from headrace.server.settings import Settings

Verb = Callable[[ServedModel, Any, Context], Awaitable[Any]]
PREFIXES = (
    "/v1/models/{model}",
    "/v1/models/{model}/versions/{version}",  # TensorFlow Serving's
    "/v1/models/{model}/labels/{version}",
)


class V1:
    def __init__(self, plane: DataPlane, settings: Settings) -> None:
        self._plane = plane
        self._limits: ParseLimits = parse_limits(settings)
        self._protocol = settings.predictor_protocol
        self._events = event_settings(settings)

    def routes(self) -> list[Route]:
        return [
            Route("POST", f"{prefix}:{name}", self._handler(verb), is_quick=True)
            for prefix in PREFIXES
            for name, verb in (("predict", self._plane.predict), ("explain", self._plane.explain))
        ]

    def _handler(self, verb: Verb) -> Handler:
        async def handle(call: Call) -> Answer:
            model = await self._plane.ready_model(call.model, call.version)
            decoded = cloudevents.decode(call.body, call.content_type, call.headers, self._limits)
            v1.check_instances(decoded.payload, self._protocol)
            result = await verb(model, decoded.payload, call.context)
            own = call.context.response_headers
            if hasattr(result, "__aiter__"):
                return _streamed(result, own)
            if decoded.event is None:
                return encoded_answer(v1.encode(result), own)
            now = datetime.now(UTC).isoformat()
            return encoded_answer(
                cloudevents.encode(
                    decoded.event, result, model.name, self._events, str(uuid.uuid4()), now
                ),
                own,
            )

        return handle


def _streamed(items: AsyncIterator[Any], headers: dict[str, str]) -> Answer:
    answer = Answer(content_type=None, stream=_pieces(items))
    add_model_headers(answer, headers)
    return answer


async def _pieces(items: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    try:
        async for item in items:
            yield b"".join(v1.encode(item).parts)
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


def event_settings(settings: Settings) -> CloudEventSettings:
    """What settings say about the events we answer with."""
    return CloudEventSettings(settings.ce_source, settings.ce_type, settings.ce_merge)
