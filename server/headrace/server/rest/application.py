"""All routes, and what every exchange shares: settings, drain, logs."""

from headrace.http import Breach, Exchange, Refusal
from headrace.server.control import Control
from headrace.server.dataplane import DataPlane
from headrace.server.errors import ServingError
from headrace.server.protocol.encoded import JSON
from headrace.server.protocol.json_text import dumps
from headrace.server.protocol.v2_binary import LENGTH_HEADER
from headrace.server.rest import access_log, errors, exchange
from headrace.server.rest.answer import Answer
from headrace.server.rest.call import Call
from headrace.server.rest.documents import Documents
from headrace.server.rest.generate import Generate
from headrace.server.rest.grpc_bridge import GrpcBridge
from headrace.server.rest.health import Health
from headrace.server.rest.operator import Operator
from headrace.server.rest.reading import Reading
from headrace.server.rest.repository import RepositoryCalls
from headrace.server.rest.routes import Match, Route, Routes
from headrace.server.rest.v1 import V1
from headrace.server.rest.v2 import V2
from headrace.server.settings import Settings

LENGTH = LENGTH_HEADER.lower()
INFERENCE = ("/v1/models/{model}", "/v2/models/{model}")
FLAGS = {
    Breach.HEADER_BYTES: "max_header_bytes",
    Breach.HEADERS: "max_headers",
    Breach.BODY_BYTES: "max_body_bytes",
    Breach.RECEIVING_BYTES: "max_receiving_bytes",
    Breach.HEADER_TIMEOUT: "header_timeout_s",
    Breach.BODY_TIMEOUT: "body_idle_timeout_s",
}


def routes(plane: DataPlane, control: Control, settings: Settings, reading: Reading) -> list[Route]:
    """Every route there is, /docs and gRPC's paths only where they are enabled."""
    table = [
        *Health(plane, control).routes(),
        *V1(plane, settings).routes(),
        *V2(plane, settings, reading).routes(),
        *Generate(plane, settings).routes(),
        *RepositoryCalls(control, settings).routes(),
        *Operator(plane, control).routes(),
    ]
    documents = Documents(table, settings).routes()
    # of gRPC's own paths, the OpenAPI document says nothing
    bridge = GrpcBridge(plane, control, settings).routes() if settings.enable_grpc else []
    return [*table, *documents, *bridge]


def render(refusal: Refusal) -> tuple[str, bytes]:
    """What the transport refuses, as our error body, with the flag that moves the limit."""
    text = refusal.text
    if refusal.breach in FLAGS:
        text += f" (--{FLAGS[refusal.breach]} {plain(refusal.limit)})"
    return JSON, dumps({"error": text})


def plain(limit: float) -> str:
    return f"{limit:g}" if isinstance(limit, float) else str(limit)


class Application:
    """The server's `ShortPath`: every route is a plain function."""

    def __init__(self, plane: DataPlane, control: Control, settings: Settings) -> None:
        self.settings = settings
        self.reading = Reading()
        self.routes = Routes(routes(plane, control, settings, self.reading))
        self.is_stopping = False  # what is cancelled from now on answers 503
        self._plane = plane
        self._control = control

    @property
    def is_draining(self) -> bool:
        return self._control.is_draining

    def begin(self, given: Exchange) -> bool:
        """A refusal is told once the body has come; a body that waits to be asked for need not."""
        found = self.routes.find(given.method, given.target)
        given.state = found
        length = given.headers.get(LENGTH)
        if length is not None and length.isascii() and length.isdigit() and len(length) < 10:
            given.aligned_at = int(length)  # the first tensor is then a view of the body
        given.takes_body = isinstance(found, Match)
        if "expect" in given.headers:
            refused = found if isinstance(found, Answer) else self._unknown(found)
            if refused is not None:
                given.closes = True
                exchange.send(given, refused)
        return True

    def _unknown(self, match: Match) -> Answer | None:
        """The answer to an inference on a model that is not there."""
        names = match.names
        if "model" not in names or not match.route.template.startswith(INFERENCE):
            return None
        try:
            self._plane.repository.find(names["model"], names.get("version", ""))
        except ServingError as err:
            return errors.to_answer(err)
        return None

    def finish(self, given: Exchange) -> None:
        given.run(exchange.run(given, given.state, self))

    def ended(self, given: Exchange, call: Call, answer: Answer) -> None:
        self._plane.encoded(call.context)
        settings = self.settings
        if settings.access_log_format is None and not settings.enable_latency_logging:
            return
        found = given.state
        if isinstance(found, Match) and found.route.is_probe:
            return
        if settings.access_log_format is not None:
            access_log.write_access(settings.access_log_format, given, call, answer)
        if settings.enable_latency_logging and answer.may_compress:
            is_explain = isinstance(found, Match) and found.route.template.endswith(":explain")
            access_log.write_latency(call, is_explain)
