"""Configuration, statistics, log and trace settings; shared memory there is not (§4.2-4.5)."""

from typing import Any

from headrace.server.control import Control
from headrace.server.dataplane import DataPlane
from headrace.server.errors import InvalidInput, Unsupported
from headrace.server.protocol import metadata
from headrace.server.protocol.json_text import loads
from headrace.server.protocol.limits import DEFAULT_LIMITS
from headrace.server.protocol.parameters import json_type
from headrace.server.rest.answer import Answer, error_answer, json_answer
from headrace.server.rest.call import Call
from headrace.server.rest.routes import Route
from headrace.server.rest.v2 import PREFIXES
from headrace.server.servable import batcher_of

SHARED_MEMORY = "shared memory is not supported; send tensors in the body, as JSON or binary"


class Operator:
    def __init__(self, plane: DataPlane, control: Control) -> None:
        self._plane = plane
        self._control = control

    def routes(self) -> list[Route]:
        table = [
            Route("GET", "/v2/models/stats", self.statistics),
            Route("GET", "/v2/logging", self.logging),
            Route("POST", "/v2/logging", self.logging),
            Route("GET", "/v2/trace/setting", self.trace),
            Route("POST", "/v2/trace/setting", self.trace),
            Route("GET", "/v2/models/{model}/trace/setting", self.trace),
            Route("POST", "/v2/models/{model}/trace/setting", self.trace),
        ]
        for prefix in PREFIXES:
            table.append(Route("GET", f"{prefix}/config", self.config))
            table.append(Route("GET", f"{prefix}/stats", self.statistics))
            table.append(Route("GET", f"{prefix}/batching", self.batching))
        for kind in ("system", "cuda"):
            path = f"/v2/{kind}sharedmemory"
            table += [
                Route("GET", f"{path}/status", self.shared_memory),
                Route("GET", f"{path}/region/{{region}}/status", self.shared_memory),
                Route("POST", f"{path}/region/{{region}}/register", self.shared_memory),
                Route("POST", f"{path}/region/{{region}}/unregister", self.shared_memory),
                Route("POST", f"{path}/unregister", self.shared_memory),
            ]
        return table

    async def config(self, call: Call) -> Answer:
        return json_answer(self._plane.model_config(call.model, call.version))

    async def batching(self, call: Call) -> Answer:
        """Of this process: policy, what the latency model believes, and the last batches."""
        model = self._plane.repository.find(call.model, call.version)
        batcher = batcher_of(model.servable)
        if batcher is None:
            raise Unsupported(
                f"model {model.name} is a custom Model whose requests run one by one; "
                "give its class `batching = Batching(max_batch_size=…)`, or set --max_batch_size"
            )
        told = batcher.to_json()
        return json_answer({"name": model.name, "version": model.version, **told})

    async def statistics(self, call: Call) -> Answer:
        rows = await self._control.statistics(call.names.get("model", ""), call.version)
        return json_answer(metadata.model_stats(rows))

    async def logging(self, call: Call) -> Answer:
        return json_answer(await self._control.log_settings(changes(call)))

    async def trace(self, call: Call) -> Answer:
        return json_answer(
            await self._control.trace_settings(call.names.get("model"), changes(call))
        )

    async def shared_memory(self, call: Call) -> Answer:
        return error_answer(404, SHARED_MEMORY)


def changes(call: Call) -> dict[str, Any] | None:
    """The settings a POST changes; None for a GET, which has no body. Raises InvalidInput."""
    if not bytes(call.body).strip():
        return None
    value = loads(call.body, DEFAULT_LIMITS, allow_nan=False, at="request body")
    if not isinstance(value, dict):
        raise InvalidInput(f"request body: expected an object, got {json_type(value)}")
    return value
