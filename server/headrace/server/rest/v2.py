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
from headrace.server.rest.reading import Reading
from headrace.server.rest.routes import Route
from headrace.server.rest.v1 import event_settings
from headrace.server.settings import Settings

PREFIXES = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
LARGE_BYTES = 1 << 20  # of JSON; more is read in a thread, while the loop answers others
_LENGTH = v2_rest.LENGTH_HEADER.lower()


class V2:
    def __init__(self, plane: DataPlane, settings: Settings, reading: Reading) -> None:
        self._plane = plane
        self._limits = parse_limits(settings)
        self._reading = reading
        self._events = event_settings(settings)

    def routes(self) -> list[Route]:
        return [Route("POST", f"{prefix}/infer", self.infer, is_quick=True) for prefix in PREFIXES]

    async def infer(self, call: Call) -> Answer:
        """The length header alone decides the form; Content-Type is ignored (contract D8)."""
        header = call.headers.get(_LENGTH)
        length = None if header is None else v2_rest.parse_json_length(header, len(call.body))
        if (len(call.body) if length is None else length) > LARGE_BYTES:
            request, model = await self._read_large(call, length)
        else:
            found: Request | v2_rest.Envelope | None = None
            if length is None:
                found = v2_rest.read_plain(call.body, call.model, call.version, self._limits)
            if found is None and length != 0:
                found = v2_rest.parse(call.body, length, self._limits)
            model = await self._plane.ready_model(call.model, call.version)
            inputs = model.servable.inputs
            if found is None:
                request = v2_rest.raw_binary_request(call.body, model.name, inputs, call.version)
            elif isinstance(found, Request):
                request = found
            else:
                request = v2_rest.to_request(found, model.name, inputs, self._limits, call.version)
        add_deadline(request, call.context)
        response = await self._plane.infer_once(model, request, call.context)
        encoded = v2_rest.encode(response, request)
        if "ce-id" in call.headers:
            encoded.headers.update(self._event_headers(call, model))
        return encoded_answer(encoded, call.context.response_headers)

    async def _read_large(self, call: Call, length: int | None) -> tuple[Request, ServedModel]:
        """In a thread. length: of the JSON; None: the body is all JSON."""
        await in_task()
        body, limits = call.body, self._limits
        with self._reading.of(len(body) if length is None else length):
            found: Request | v2_rest.Envelope
            if length is None:
                found = await asyncio.to_thread(
                    v2_rest.read_large, body, call.model, call.version, limits
                )
            else:
                found = await asyncio.to_thread(v2_rest.parse, body, length, limits)
            model = await self._plane.ready_model(call.model, call.version)
            if isinstance(found, Request):
                return found, model
            inputs = model.servable.inputs
            request = await asyncio.to_thread(
                v2_rest.to_request, found, model.name, inputs, limits, call.version
            )
            return request, model

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
