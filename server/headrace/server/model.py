"""`Model`: KServe's base class, the only one users inherit from (data-plane contract §6.1).

    class Doubler(Model):
        def load(self) -> bool:
            self.ready = True
            return self.ready

        def predict(self, payload, headers=None):
            return {"predictions": [[2 * x for x in row] for row in payload["instances"]]}

Hooks may be synchronous, asynchronous or, for `predict`, generators. `model_servable.py` serves a
Model; `hooks.py` runs the hooks. A hook gets its arguments by position, so their names are free.

With `batching = Batching(max_batch_size=32)` in the class, predict sees the rows of several
requests at once (model_batching.py); without it, only where a flag or a config asks for it.
"""

from typing import Any

from headrace.server import hooks, predictor_config
from headrace.server.errors import InvalidInput
from headrace.server.forwarding import Forwarder
from headrace.server.hooks import InferenceVerb
from headrace.server.model_batching import Batching
from headrace.server.predictor_config import PredictorConfig, PredictorProtocol


class Model:
    """A custom model, transformer or explainer: override the hooks it needs.

    A second positional argument may be a `PredictorConfig`, as in older SDKs.
    return_response_headers: predict and postprocess get a dict as third argument; what they put
        there goes out as response headers.
    batching: which hooks see the requests of several callers at once; None: as the flags say.
    """

    batching: Batching | None = None
    _shared: hooks.Shared | None = None  # model_servable.py puts its batcher here

    def __init__(
        self,
        name: str,
        predictor_config: PredictorConfig | bool | None = None,
        return_response_headers: bool = False,
    ) -> None:
        config: PredictorConfig | None = None
        if isinstance(predictor_config, bool):  # today's signature: Model(name, True)
            return_response_headers = predictor_config
        else:
            config = predictor_config
        self.name = name
        self.ready = False
        self.engine = False
        self.explainer_host: str | None = None
        self.enable_latency_logging = False
        self.required_response_headers = return_response_headers
        self._predictor_config = config
        self._run: hooks.Run = hooks.run_inline  # model_servable.py puts its executor here
        self._forwarder: Forwarder | None = None

    def load(self) -> bool:
        """Load what predict needs, set and return `ready`. Never called on a request's path."""
        self.ready = True
        return self.ready

    @hooks.default
    def start(self) -> None:
        """Called once by `ModelServer.start`, for every model in its list."""
        self.ready = True

    @hooks.any_signature
    async def start_engine(self) -> None:
        """Runs beside the server if `engine` is true."""

    def stop(self) -> None:
        self.ready = False

    @hooks.any_signature
    def stop_engine(self) -> None: ...

    @hooks.any_signature
    async def healthy(self) -> bool:
        """Whether this model can answer now; decides its readiness."""
        return self.ready

    @hooks.any_signature
    def get_input_types(self) -> list[dict[str, Any]]:
        """Declared inputs as `{"name", "datatype", "shape"}`; what is declared is checked."""
        return []

    @hooks.any_signature
    def get_output_types(self) -> list[dict[str, Any]]:
        return []

    @property
    def predictor_config(self) -> PredictorConfig | None:
        """This model's own, one made of an older SDK's attributes, or the process's."""
        if self._predictor_config is not None:
            return self._predictor_config
        host = getattr(self, "predictor_host", None)  # set by users of older SDKs
        if isinstance(host, str) and host:
            protocol = getattr(self, "protocol", None) or PredictorProtocol.REST_V1.value
            self._predictor_config = PredictorConfig(
                host,
                str(protocol),
                bool(getattr(self, "use_ssl", False)),
                int(getattr(self, "timeout", None) or 600),
            )
            return self._predictor_config
        return predictor_config.of_process()

    @hooks.default
    def validate(self, payload: Any) -> Any:
        """payload, unchanged. Raises InvalidInput where V1 rows are no list (contract §1.2)."""
        if isinstance(payload, dict):
            config = self.predictor_config
            is_v2 = config is not None and config.protocol != PredictorProtocol.REST_V1.value
            key = "inputs" if is_v2 else "instances"
            if key in payload and not isinstance(payload[key], list):
                raise InvalidInput(f'Expected "{key}" to be a list')
        return payload

    @hooks.default
    async def preprocess(self, payload: Any, headers: dict[str, str] | None = None) -> Any:
        """payload as predict wants it: dict, bytes, or `InferRequest`."""
        return payload

    @hooks.any_signature
    async def predict(
        self,
        payload: Any,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> Any:
        """Asks the predictor of `predictor_config`. Raises NotImplementedError without one."""
        config = self.predictor_config
        if config is None:
            raise NotImplementedError("Could not find PredictorConfig.")
        return await self.forwarder(config).predict(payload, headers, response_headers)

    @hooks.default
    async def postprocess(
        self,
        result: Any,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> Any:
        """result as the caller wants it."""
        return result

    @hooks.any_signature
    async def explain(self, payload: Any, headers: dict[str, str] | None = None) -> Any:
        """Asks the explainer of `explainer_host`. Raises NotImplementedError without one."""
        if self.explainer_host is None:
            raise NotImplementedError("Could not find explainer_host.")
        config = self.predictor_config or PredictorConfig(self.explainer_host)
        return await self.forwarder(config).explain(self.explainer_host, payload, headers)

    async def __call__(
        self,
        body: Any,
        headers: dict[str, str] | None = None,
        verb: InferenceVerb = InferenceVerb.PREDICT,
    ) -> tuple[Any, dict[str, str]]:
        """All hooks in order: the result, and the response headers that the model set."""
        return await hooks.answer(self, body, headers, verb, self._run, self._shared)

    def forwarder(self, config: PredictorConfig) -> Forwarder:
        """This model's connections to its predictor."""
        if self._forwarder is None:
            self._forwarder = Forwarder(self.name, config)
        return self._forwarder

    async def close_forwarder(self) -> None:
        if self._forwarder is not None:
            await self._forwarder.close()
            self._forwarder = None
