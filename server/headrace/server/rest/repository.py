"""The model repository extension: index, load, unload (contract §4.1)."""

from headrace.server import doors
from headrace.server.control import Control
from headrace.server.protocol import metadata
from headrace.server.rest.answer import Answer, json_answer
from headrace.server.rest.call import Call
from headrace.server.rest.limits import parse_limits
from headrace.server.rest.routes import Route
from headrace.server.settings import Settings

# Triton also takes the name of a repository, of which we have one.
PREFIXES = ("/v2/repository", "/v2/repository/{repository}")


class RepositoryCalls:
    """Every call reaches all workers before it answers."""

    def __init__(self, control: Control, settings: Settings) -> None:
        self._control = control
        self._settings = settings
        self._limits = parse_limits(settings)

    def routes(self) -> list[Route]:
        return [
            route
            for prefix in PREFIXES
            for route in (
                Route("POST", f"{prefix}/index", self.index),
                Route("POST", f"{prefix}/models/{{model}}/load", self.load),
                Route("POST", f"{prefix}/models/{{model}}/unload", self.unload),
            )
        ]

    async def index(self, call: Call) -> Answer:
        ready_only = metadata.wants_ready_only(call.body, self._limits)
        return json_answer([row.to_json() for row in await self._control.index(ready_only)])

    async def load(self, call: Call) -> Answer:
        parameters = metadata.repository_parameters(call.body, self._limits)
        doors.check_load(self._settings, parameters)
        await self._control.load(call.model, parameters)
        return json_answer({"name": call.model, "load": True})

    async def unload(self, call: Call) -> Answer:
        metadata.repository_parameters(call.body, self._limits)
        doors.check_repository(self._settings)
        await self._control.unload(call.model)
        return json_answer({"name": call.model, "unload": True})
