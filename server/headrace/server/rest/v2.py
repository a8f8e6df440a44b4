"""V2 `infer`: tensors in JSON, in binary, or as one raw body (contract §2)."""

import asyncio
import uuid
from datetime import UTC, datetime

from headrace.http import in_task
from headrace.server.dataplane import DataPlane
from headrace.server.protocol import cloudevents, v2_rest
from headrace.server.protocol.parameters import timeout_s
from headrace.server.repository import ServedModel
from headrace.server.request import Context, Request
from headrace.server.rest.answer import Answer, encoded_answer
from headrace.server.rest.call import Call
from headrace.server.rest.limits import parse_limits
from headrace.server.rest.routes import Route
from headrace.server.rest.v1 import event_settings
from headrace.server.settings import Settings

PREFIXES = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
LARGE_BYTES = 1 << 20  # of JSON; more is read in a thread, while the loop answers others
_LENGTH = v2_rest.LENGTH_HEADER.lower()


class V2:
    def __init__(self, plane: DataPlane, settings: Settings) -> None:
        self._plane = plane
        self._limits = parse_limits(settings)
        self._events = event_settings(settings)

    def routes(self) -> list[Route]:
        return [Route("POST", f"{prefix}/infer", self.infer, is_quick=True) for prefix in PREFIXES]

    async def infer(self, call: Call) -> Answer:
        """The length header alone decides the form; Content-Type is ignored (contract D8)."""
        header = call.headers.get(_LENGTH)
        request: Request | None = None
        envelope: v2_rest.Envelope | None = None
        is_large = False
        if header is None and len(call.body) > LARGE_BYTES:
            is_large = True
            await in_task()
            found = await asyncio.to_thread(
                v2_rest.read_large, call.body, call.model, call.version, self._limits
            )
            request, envelope = (found, None) if isinstance(found, Request) else (None, found)
        elif header is None:
            request = v2_rest.read_plain(call.body, call.model, call.version, self._limits)
            if request is None:
                envelope = v2_rest.parse(call.body, None, self._limits)
        else:
            length = v2_rest.parse_json_length(header, len(call.body))
            is_large = length > LARGE_BYTES
            if is_large:
                await in_task()
                envelope = await asyncio.to_thread(v2_rest.parse, call.body, length, self._limits)
            elif length:
                envelope = v2_rest.parse(call.body, length, self._limits)
        model = await self._plane.ready_model(call.model, call.version)
        if envelope is not None:
            given = (envelope, model.name, model.servable.inputs, self._limits, call.version)
            if is_large:
                request = await asyncio.to_thread(v2_rest.to_request, *given)
            else:
                request = v2_rest.to_request(*given)
        elif request is None:
            request = v2_rest.raw_binary_request(
                call.body, model.name, model.servable.inputs, call.version
            )
        add_deadline(request, call.context)
        response = await self._plane.infer_once(model, request, call.context)
        encoded = v2_rest.encode(response, request)
        if "ce-id" in call.headers:
            encoded.headers.update(self._event_headers(call, model))
        return encoded_answer(encoded, call.context.response_headers)

    def _event_headers(self, call: Call, model: ServedModel) -> dict[str, str]:
        """A binary CloudEvent is answered with one, around the V2 body (contract §1.6)."""
        event = cloudevents.from_headers(call.headers)
        if event is None:
            return {}
        now = datetime.now(UTC).isoformat()
        return cloudevents.to_headers(
            cloudevents.answer_attributes(event, model.name, self._events, str(uuid.uuid4()), now)
        )


def add_deadline(request: Request, context: Context) -> None:
    """`parameters.timeout` shortens the deadline, it never makes it later."""
    if request.parameters:
        context.start_within(timeout_s(request.parameters))
