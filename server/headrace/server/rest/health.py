"""Liveness, readiness, what is served, and metrics."""

from importlib.metadata import version

from headrace.server.control import Control
from headrace.server.dataplane import DataPlane
from headrace.server.protocol import metadata
from headrace.server.rest.answer import Answer, json_answer
from headrace.server.rest.call import Call
from headrace.server.rest.routes import Route


class Health:
    def __init__(self, plane: DataPlane, control: Control) -> None:
        self._plane = plane
        self._control = control

    def routes(self) -> list[Route]:
        names = [
            Route("GET", "/", self.alive, is_probe=True),
            Route("GET", "/v2", self.server),
            Route("GET", "/v2/health/live", self.live, is_probe=True),
            Route("GET", "/v2/health/ready", self.ready, is_probe=True),
            Route("GET", "/v1/models", self.models),
            Route("GET", "/v2/models", self.models),
            Route("GET", "/v1/models/{model}", self.model_ready, is_probe=True),
            Route("GET", "/metrics", self.metrics, is_probe=True),
        ]
        for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            names += [
                Route("GET", prefix, self.model_metadata),
                Route("GET", f"{prefix}/ready", self.model_ready, is_probe=True),
            ]
        return names

    async def alive(self, call: Call) -> Answer:
        return json_answer({"status": "alive"})

    async def live(self, call: Call) -> Answer:
        return json_answer({"live": True})

    async def ready(self, call: Call) -> Answer:
        if await self._control.is_ready():
            return json_answer({"ready": True})
        body = {"error": "Server is not ready.", "ready": False}
        return json_answer(body, 503, {"Retry-After": "1"})

    async def server(self, call: Call) -> Answer:
        return json_answer(metadata.server_metadata(version("headrace")))

    async def models(self, call: Call) -> Answer:
        return json_answer({"models": self._plane.repository.names()})

    async def model_ready(self, call: Call) -> Answer:
        await self._plane.ready_model(call.model, call.version)
        return json_answer({"name": call.model, "ready": True})

    async def model_metadata(self, call: Call) -> Answer:
        model = self._plane.repository.find(call.model, call.version)
        servable = model.servable
        return json_answer(
            metadata.model_metadata(
                model.name,
                self._plane.repository.versions(model.name),
                servable.platform,
                servable.inputs,
                servable.outputs,
            )
        )

    async def metrics(self, call: Call) -> Answer:
        text, content_type = await self._control.metrics(call.headers.get("accept", ""))
        return Answer([text], content_type=content_type)
