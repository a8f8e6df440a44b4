"""Asks the predictor behind a transformer or explainer (data-plane contract §6.5).

    Model.predict ─▶ Forwarder ─▶ v1, v2: forwarding_http.py · grpc-v2: forwarding_grpc.py

One `Forwarder` per model, with one bounded connection pool. The upstream's status comes back as
`UpstreamError`; a predictor that cannot be reached is a 503, one that does not answer a 504. Only
what cannot have run is retried: a refused connection, or an answer of "unavailable".
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from typing import Any, Protocol

from headrace.server import hooks
from headrace.server.errors import Code, UpstreamError
from headrace.server.infer_types import InferRequest
from headrace.server.predictor_config import PredictorConfig, PredictorProtocol

# What a caller's headers may tell the predictor; --forward_headers adds to it
FORWARDED = (
    "x-request-id",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "b3",
    "authorization",
    "traceparent",
    "tracestate",
    "baggage",
)
# Of an upstream's answer: about its own connection or body, so not our caller's business
NOT_MERGED = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "inference-header-content-length",
        "keep-alive",
        "server",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "vary",
    }
)
POOL_SIZE = 100  # connections of one model to its predictor; more requests wait for one
BACKOFF_S, MAX_BACKOFF_S = 0.1, 1.0  # of KServe's gRPC client
HEALTH_TIMEOUT_S = 5.0


class Client(Protocol):
    """One way to speak to a predictor. Calls raise UpstreamError."""

    async def predict(
        self, payload: Any, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[Any, Mapping[str, str]]: ...

    async def is_ready(self, timeout_s: float) -> bool: ...

    async def close(self) -> None: ...


class Forwarder:
    """model_name's way to the predictor that config names; it serves a model of that name."""

    def __init__(self, model_name: str, config: PredictorConfig) -> None:
        self.model_name = model_name
        self.config = config
        self._clients: dict[str, tuple[asyncio.AbstractEventLoop, Client]] = {}

    async def predict(
        self,
        payload: Any,
        headers: Mapping[str, str] | None,
        response_headers: dict[str, str] | None = None,
    ) -> Any:
        """V1: the decoded JSON. V2 and gRPC: an InferResponse. Raises UpstreamError."""
        config = spoken(self.config, isinstance(payload, InferRequest))
        return await self._ask(config, payload, headers, response_headers)

    async def explain(
        self, explainer_host: str, payload: Any, headers: Mapping[str, str] | None
    ) -> Any:
        """The decoded JSON of explainer_host's `:explain`."""
        config = PredictorConfig(
            explainer_host,
            predictor_use_ssl=self.config.use_ssl,
            predictor_request_timeout_seconds=self.config.timeout,
            predictor_request_retries=self.config.retries,
            forward_headers=self.config.forward_headers,
        )
        return await self._ask(config, payload, headers, None, "explain")

    async def is_ready(self) -> bool:
        """Whether the predictor says that this model is ready; False where it says nothing."""
        client, is_ours = self._client(self.config, "predict")
        try:
            return await client.is_ready(min(HEALTH_TIMEOUT_S, self.config.timeout))
        finally:
            if not is_ours:
                await client.close()

    async def close(self) -> None:
        clients, self._clients = self._clients, {}
        for _, client in clients.values():
            await client.close()

    async def _ask(
        self,
        config: PredictorConfig,
        payload: Any,
        headers: Mapping[str, str] | None,
        response_headers: dict[str, str] | None,
        verb: str = "predict",
    ) -> Any:
        passed = forwarded_headers(headers or {}, config.forward_headers)
        context = hooks.current.get()
        deadline_s = time.monotonic() + config.timeout
        if context is not None and context.deadline_s is not None:
            deadline_s = min(deadline_s, context.deadline_s)
        client, is_ours = self._client(config, verb)
        try:
            result, answered = await with_retries(
                lambda timeout_s: client.predict(payload, passed, timeout_s),
                config.retries,
                deadline_s,
            )
        finally:
            if not is_ours:
                await client.close()
        if response_headers is not None:
            response_headers.update(
                {k.lower(): v for k, v in answered.items() if k.lower() not in NOT_MERGED}
            )
        return result

    def _client(self, config: PredictorConfig, verb: str) -> tuple[Client, bool]:
        """The pooled client; for a hook that runs a loop of its own, one for this call alone."""
        loop = asyncio.get_running_loop()
        key = f"{verb} {config.protocol} {config.predictor_host}"
        known = self._clients.get(key)
        if known is not None and not known[0].is_closed():
            is_ours = known[0] is loop
            return known[1] if is_ours else make_client(self.model_name, config, verb), is_ours
        client = make_client(self.model_name, config, verb)
        self._clients[key] = (loop, client)
        return client, True


def spoken(config: PredictorConfig, is_v2: bool) -> PredictorConfig:
    """config with the REST protocol that the payload is in: one predictor answers both.

    KServe's posts a V2 body to the V1 path and fails; gRPC is a port of its own and stays.
    """
    if config.protocol == PredictorProtocol.GRPC_V2.value:
        return config
    changed = copy(config)
    protocol = PredictorProtocol.REST_V2 if is_v2 else PredictorProtocol.REST_V1
    changed.predictor_protocol = protocol.value
    return changed


def make_client(model_name: str, config: PredictorConfig, verb: str) -> Client:
    # not at the top: `import headrace.server` loads neither aiohttp nor grpc
    if verb == "predict" and config.protocol == PredictorProtocol.GRPC_V2.value:
        from headrace.server.forwarding_grpc import GrpcClient

        return GrpcClient(model_name, config)
    from headrace.server.forwarding_http import HttpClient

    return HttpClient(model_name, config, verb)


def forwarded_headers(headers: Mapping[str, str], extra: Sequence[str]) -> dict[str, str]:
    """What of a caller's headers the predictor may see: the list above and extra, lower case."""
    allowed = {*FORWARDED, *(name.lower() for name in extra)}
    return {name: value for name, value in headers.items() if name.lower() in allowed}


async def with_retries(
    ask: Callable[[float], Awaitable[tuple[Any, Mapping[str, str]]]],
    retries: int,
    deadline_s: float,
) -> tuple[Any, Mapping[str, str]]:
    """ask(seconds left), again while the predictor is unavailable, at most retries times more."""
    backoff_s = BACKOFF_S
    for left in range(max(retries, 0), -1, -1):
        try:
            return await ask(max(deadline_s - time.monotonic(), 0.001))
        except UpstreamError as err:
            if err.code is not Code.UNAVAILABLE or err.status != 503 or not left:
                raise
            if time.monotonic() + backoff_s >= deadline_s:
                raise
        await asyncio.sleep(backoff_s)
        backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
    raise AssertionError("unreachable")  # the last round returns or raises
