"""A Model without a predict of its own asks its predictor: between two of our real servers."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from headrace.server import (
    InferInput,
    InferOutput,
    InferRequest,
    InferResponse,
    InvalidInput,
    Model,
    ModelNotReady,
    PredictorConfig,
    hooks,
)
from headrace.server.errors import UpstreamError
from headrace.server.forwarding import Forwarder, forwarded_headers, with_retries
from headrace.server.forwarding_grpc import target
from headrace.server.model_servable import ModelServable
from headrace.server.repository import ServedModel
from headrace.server.request import Context
from headrace.server.serving import Server
from tests.serving import running

PROTOCOLS = ["v1", "v2", "grpc-v2"]
TENSOR_PROTOCOLS = ["v2", "grpc-v2"]


class Upstream(Model):
    """Doubles what it gets, and remembers what that was."""

    def __init__(self, error: Callable[[], Exception] | None = None) -> None:
        super().__init__("m", return_response_headers=True)
        self.ready = True
        self.error = error
        self.headers: dict[str, str] = {}
        self.deadline_s: float | None = None
        self.was_binary: list[bool] = []
        self.received: list[bytes] = []

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        self.headers = dict(headers)
        context = hooks.current.get()
        self.deadline_s = context.deadline_s if context else None
        response_headers["x-upstream"] = "yes"
        if self.error is not None:
            raise self.error()
        if isinstance(payload, dict):
            return {"predictions": [[2 * x for x in row] for row in payload["instances"]]}
        outputs = []
        for tensor in payload.inputs:
            self.was_binary.append(tensor.is_binary)
            array = tensor.as_numpy()
            self.received.append(array.tobytes())
            outputs.append(
                InferOutput(
                    tensor.name, list(array.shape), tensor.datatype, array * array.dtype.type(2)
                )
            )
        return InferResponse(payload.id, self.name, outputs)

    def explain(self, payload: Any, headers: Any = None) -> Any:
        return {"explanations": len(payload["instances"])}


def served(model: Model) -> ServedModel:
    return ServedModel(model.name, ModelServable(model))


def host_of(server: Server, protocol: str) -> str:
    port = server.ports.grpc if protocol == "grpc-v2" else server.ports.http
    return f"127.0.0.1:{port}"


@asynccontextmanager
async def forwarding(
    upstream: Model, protocol: str, **config: Any
) -> AsyncIterator[tuple[Forwarder, Server]]:
    """A forwarder to a server of upstream."""
    async with running(served(upstream)) as server:
        forwarder = Forwarder("m", PredictorConfig(host_of(server, protocol), protocol, **config))
        try:
            yield forwarder, server
        finally:
            await forwarder.close()


def raw_request(datatype: str, array: Any) -> InferRequest:
    tensor = InferInput("x", list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return InferRequest("m", [tensor], request_id="7", parameters={"binary_data_output": True})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_transformer_asks_its_predictor(protocol: str) -> None:
    """Client → transformer → predictor, each a server of its own, one protocol all the way."""

    class Adds(Model):
        def preprocess(self, payload: Any, headers: Any = None) -> Any:
            if isinstance(payload, dict):
                return {"instances": [[x + 1 for x in row] for row in payload["instances"]]}
            tensor = payload.inputs[0]
            tensor.set_data_from_numpy(tensor.as_numpy() + np.float32(1))
            return payload

    async def main() -> Any:
        async with running(served(Upstream())) as predictor:
            front = Adds("m", PredictorConfig(host_of(predictor, protocol), protocol))
            front.ready = True
            async with running(served(front)) as transformer:
                client = Forwarder("m", PredictorConfig(host_of(transformer, protocol), protocol))
                try:
                    if protocol == "v1":
                        return (await client.predict({"instances": [[1, 2]]}, {}))["predictions"]
                    asked = raw_request("FP32", np.array([[1, 2]], np.float32))
                    return (await client.predict(asked, {})).outputs[0].as_numpy().tolist()
                finally:
                    await client.close()

    assert asyncio.run(main()) == [[4, 6]]


@pytest.mark.parametrize("protocol", TENSOR_PROTOCOLS)
@pytest.mark.parametrize(
    ("datatype", "array"),
    [
        ("FP32", np.array([[1, 2], [3, 4]], "<f4")),
        ("FP16", np.array([1, 2], "<f2")),
        ("UINT8", np.arange(100_000, dtype="u1") % 100),
    ],
    ids=["FP32", "FP16 has no other form", "more than one write"],
)
def test_raw_tensors_go_on_as_the_bytes_they_are(protocol: str, datatype: str, array: Any) -> None:
    upstream = Upstream()

    async def main() -> InferResponse:
        async with forwarding(upstream, protocol) as (forwarder, _):
            return await forwarder.predict(raw_request(datatype, array), {})

    [output] = asyncio.run(main()).outputs
    assert upstream.was_binary == [True]
    assert upstream.received == [array.tobytes()]
    np.testing.assert_array_equal(output.as_numpy(), array * array.dtype.type(2))


@pytest.mark.parametrize("protocol", TENSOR_PROTOCOLS)
def test_lists_go_on_as_lists(protocol: str) -> None:
    upstream = Upstream()

    async def main() -> InferResponse:
        async with forwarding(upstream, protocol) as (forwarder, _):
            asked = InferRequest("m", [InferInput("x", [1, 2], "FP32", [1, 2])])
            return await forwarder.predict(asked, {})

    assert asyncio.run(main()).outputs[0].as_numpy().tolist() == [[2, 4]]
    assert upstream.was_binary == [False]


HEADERS = {
    "x-request-id": "1",
    "x-b3-traceid": "2",
    "authorization": "Bearer 3",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "a=b",
    "baggage": "c=d",
    "x-tenant": "e",
    "cookie": "f",
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_only_allowed_headers_reach_the_predictor(protocol: str) -> None:
    upstream = Upstream()

    async def main() -> None:
        async with forwarding(upstream, protocol, forward_headers=["X-Tenant"]) as (forwarder, _):
            await forwarder.predict(payload_of(protocol), HEADERS)

    asyncio.run(main())
    expected = {name: value for name, value in HEADERS.items() if name != "cookie"}
    assert {name: upstream.headers.get(name) for name in HEADERS} == {**expected, "cookie": None}


def test_without_a_list_of_ones_own_the_fixed_one_holds() -> None:
    assert forwarded_headers(HEADERS, ()) == {
        name: value for name, value in HEADERS.items() if name not in ("cookie", "x-tenant")
    }


def payload_of(protocol: str) -> Any:
    if protocol == "v1":
        return {"instances": [[1]]}
    return raw_request("FP32", np.array([[1]], np.float32))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (lambda: InvalidInput("too few"), 400, "too few"),
        (
            lambda: ModelNotReady("m", "Warming up."),
            503,
            "Model with name m is not ready. Warming up.",
        ),
        (lambda: NotImplementedError("not yet"), 501, "not yet"),
    ],
    ids=["400", "503", "501"],
)
def test_the_predictors_status_and_words_are_kept(
    protocol: str, error: Callable[[], Exception], status: int, text: str
) -> None:
    assert failing(Upstream(error), protocol, payload_of(protocol)) == (status, text)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_predictor_without_that_model(protocol: str) -> None:
    other = Upstream()
    other.name = "other"
    expected = (404, "Model with name m does not exist.")
    assert failing(other, protocol, payload_of(protocol)) == expected


def failing(upstream: Model, protocol: str, payload: Any, **config: Any) -> tuple[int | None, str]:
    async def main() -> tuple[int | None, str]:
        async with forwarding(upstream, protocol, **config) as (forwarder, _):
            with pytest.raises(UpstreamError) as caught:
                await forwarder.predict(payload, {})
            return caught.value.status, str(caught.value)

    return asyncio.run(main())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_predictor_that_is_not_there_is_a_503(protocol: str) -> None:
    async def main() -> UpstreamError:
        with socket.socket() as held:  # bound, not listening: connections are refused
            held.bind(("127.0.0.1", 0))
            host = f"127.0.0.1:{held.getsockname()[1]}"
            forwarder = Forwarder("m", PredictorConfig(host, protocol))
            with pytest.raises(UpstreamError) as caught:
                await forwarder.predict(payload_of(protocol), {})
            await forwarder.close()
            return caught.value

    error = asyncio.run(main())
    assert error.status == 503
    assert "127.0.0.1" in str(error)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_predictor_that_takes_too_long_is_a_504(protocol: str) -> None:
    end = asyncio.Event()

    class Slow(Model):
        async def predict(self, payload: Any, headers: Any = None) -> Any:
            await end.wait()

    slow = Slow("m")
    slow.ready = True

    async def main() -> int | None:
        async with forwarding(slow, protocol) as (forwarder, _):
            token = hooks.current.set(Context(deadline_s=time.monotonic() + 0.2))
            with pytest.raises(UpstreamError) as caught:
                await forwarder.predict(payload_of(protocol), {})
            hooks.current.reset(token)
            end.set()
            return caught.value.status

    assert asyncio.run(main()) == 504


def test_the_deadline_goes_on_over_grpc() -> None:
    upstream = Upstream()

    async def main() -> float:
        async with forwarding(upstream, "grpc-v2") as (forwarder, _):
            deadline_s = time.monotonic() + 30
            token = hooks.current.set(Context(deadline_s=deadline_s))
            await forwarder.predict(payload_of("grpc-v2"), {})
            hooks.current.reset(token)
            return deadline_s

    deadline_s = asyncio.run(main())
    assert upstream.deadline_s is not None
    assert abs(upstream.deadline_s - deadline_s) < 1.0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_response_headers_are_merged_when_asked_for(protocol: str) -> None:
    async def main() -> dict[str, str]:
        async with forwarding(Upstream(), protocol) as (forwarder, _):
            merged: dict[str, str] = {}
            await forwarder.predict(payload_of(protocol), {}, merged)
            return merged

    assert asyncio.run(main()) == {"x-upstream": "yes"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_readiness_asks_the_predictor_where_told_to(protocol: str) -> None:
    async def main() -> list[bool]:
        upstream = Upstream()
        async with running(served(upstream)) as predictor:
            host = host_of(predictor, protocol)
            front = Model("m", PredictorConfig(host, protocol, predictor_health_check=True))
            front.ready = True
            servable = ModelServable(front)
            found = [await servable.is_ready()]
            upstream.ready = False
            found.append(await servable.is_ready())
            upstream.name = "m"
            await servable.stop()
            return found

    assert asyncio.run(main()) == [True, False]


def test_explain_asks_the_explainer() -> None:
    async def main() -> Any:
        async with running(served(Upstream())) as explainer:
            front = Model("m")
            front.ready = True
            front.explainer_host = host_of(explainer, "v1")
            servable = ModelServable(front)
            answer = await servable.explain({"instances": [[1], [2]]}, Context())
            await servable.stop()
            return answer

    assert asyncio.run(main()) == {"explanations": 2}


def test_attributes_of_older_sdks_name_the_predictor() -> None:
    class Old(Model):
        def __init__(self, name: str, predictor_host: str) -> None:
            super().__init__(name)
            self.predictor_host = predictor_host
            self.ready = True

    async def main() -> Any:
        async with running(served(Upstream())) as predictor:
            servable = ModelServable(Old("m", host_of(predictor, "v1")))
            answer = await servable.predict({"instances": [[1]]}, Context())
            await servable.stop()
            return answer

    assert asyncio.run(main()) == {"predictions": [[2]]}


@pytest.mark.parametrize(
    ("failures", "retries", "asked", "is_answered"),
    [
        ([503, 503], 2, 3, True),
        ([503, 503], 1, 2, False),
        ([504], 5, 1, False),
        ([500], 5, 1, False),
        ([], 5, 1, True),
    ],
    ids=[
        "refused twice, answered the third time",
        "no more than told",
        "a timeout may have run",
        "an error has run",
        "nothing to retry",
    ],
)
def test_only_what_cannot_have_run_is_retried(
    failures: list[int], retries: int, asked: int, is_answered: bool
) -> None:
    left = list(failures)
    calls: list[float] = []

    async def ask(timeout_s: float) -> tuple[Any, Mapping[str, str]]:
        calls.append(timeout_s)
        if left:
            raise UpstreamError("no", left.pop(0))
        return "answer", {}

    async def main() -> Any:
        return await with_retries(ask, retries, time.monotonic() + 10)

    if is_answered:
        assert asyncio.run(main()) == ("answer", {})
    else:
        with pytest.raises(UpstreamError):
            asyncio.run(main())
    assert len(calls) == asked


@pytest.mark.parametrize(
    ("host", "use_ssl", "expected"),
    [
        ("iris-predictor.default", False, "iris-predictor.default:80"),
        ("iris-predictor.default", True, "iris-predictor.default:443"),
        ("localhost:9000", True, "localhost:9000"),
        ("[::1]", False, "[::1]:80"),
        ("[::1]:9000", False, "[::1]:9000"),
    ],
)
def test_a_grpc_target_has_a_port(host: str, use_ssl: bool, expected: str) -> None:
    assert target(host, use_ssl) == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tls_with_the_authorities_of_requests_ca_bundle(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = self_signed(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))

    async def main() -> Any:
        async with running(
            served(Upstream()), ssl_certfile=str(certificate), ssl_keyfile=str(key)
        ) as predictor:
            host = host_of(predictor, protocol).replace("127.0.0.1", "localhost")
            config = PredictorConfig(host, protocol, predictor_use_ssl=True)
            forwarder = Forwarder("m", config)
            try:
                return await forwarder.predict(payload_of(protocol), {})
            finally:
                await forwarder.close()

    assert asyncio.run(main()) is not None


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A key and a certificate for localhost, good for a day."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "key.pem", folder / "cert.pem"
    paths[0].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    paths[1].write_bytes(certificate.public_bytes(Encoding.PEM))
    return paths
