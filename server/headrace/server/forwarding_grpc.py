"""A predictor over V2 gRPC: one channel of grpc.aio, which pools by itself (HTTP/2 streams)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc

from headrace.server.errors import InferenceError, UpstreamError
from headrace.server.forwarding_http import ca_bundle
from headrace.server.grpc.messages import message_class
from headrace.server.infer_types import InferRequest, InferResponse
from headrace.server.predictor_config import PredictorConfig

SERVICE = "/inference.GRPCInferenceService/"
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]

# HTTP's word for a gRPC status; the inverse of what our own edges do
HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 413,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.CANCELLED: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


class GrpcClient:
    def __init__(self, model_name: str, config: PredictorConfig) -> None:
        self._model_name = model_name
        self._target = target(config.predictor_host, config.use_ssl)
        if config.use_ssl:
            bundle = ca_bundle()
            roots = Path(bundle).read_bytes() if bundle else None
            credentials = grpc.ssl_channel_credentials(root_certificates=roots)
            self._channel = grpc.aio.secure_channel(self._target, credentials, OPTIONS)
        else:
            self._channel = grpc.aio.insecure_channel(self._target, OPTIONS)
        self._infer = self._method("ModelInfer")
        self._ready = self._method("ModelReady")

    async def predict(
        self, payload: Any, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[Any, Mapping[str, str]]:
        message = payload.to_grpc() if isinstance(payload, InferRequest) else payload
        if not hasattr(message, "raw_input_contents"):
            raise InferenceError(
                f"model {self._model_name}: a predictor over grpc-v2 takes an InferRequest, "
                f"preprocess gave a {type(payload).__name__}"
            )
        metadata = [("request_type", "grpc_v2"), ("response_type", "grpc_v2")]
        metadata += [(name.lower(), value) for name, value in headers.items()]
        call = self._infer(message, timeout=timeout_s, metadata=metadata)
        try:
            answer = await call
            trailing = {k: v for k, v in await call.trailing_metadata() if isinstance(v, str)}
        except grpc.aio.AioRpcError as err:
            status = HTTP_STATUS.get(err.code(), 500)
            text = err.details() or f"{self._target} answered {err.code().name}"
            raise UpstreamError(text, status) from err
        return InferResponse.from_grpc(answer), trailing

    async def is_ready(self, timeout_s: float) -> bool:
        request = message_class("inference.ModelReadyRequest")(name=self._model_name)
        try:
            return bool((await self._ready(request, timeout=timeout_s)).ready)
        except grpc.aio.AioRpcError:
            return False

    async def close(self) -> None:
        await self._channel.close()

    def _method(self, name: str) -> Any:
        response = message_class(f"inference.{name}Response")
        return self._channel.unary_unary(
            f"{SERVICE}{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )


def target(host: str, use_ssl: bool) -> str:
    """host with the port a KServe predictor has where none is said: 80, or 443 with TLS."""
    after_address = host.rpartition("]")[2]  # of an IPv6 address: the colons inside are no port
    return host if ":" in after_address else f"{host}:{443 if use_ssl else 80}"
