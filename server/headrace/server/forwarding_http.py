"""A predictor over V1 or V2 REST: an aiohttp client that sends tensors as the buffers they are."""

import os
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson

from headrace.server import infer_wire
from headrace.server.errors import UpstreamError
from headrace.server.forwarding import POOL_SIZE
from headrace.server.infer_types import InferRequest, InferResponse
from headrace.server.predictor_config import PredictorConfig, PredictorProtocol
from headrace.server.tensor import Buffer

HEADER_LENGTH = "Inference-Header-Content-Length"
JOINED_BYTES = 64 << 10  # smaller bodies go in one write: cheaper than several
SHOWN_CHARACTERS = 500  # of an error body that is no JSON


class HttpClient:
    """verb: "predict", or "explain" for an explainer behind us."""

    def __init__(self, model_name: str, config: PredictorConfig, verb: str) -> None:
        name = quote(model_name, safe="")
        self._host = config.predictor_host
        self._is_v2 = verb == "predict" and config.protocol == PredictorProtocol.REST_V2.value
        base = config.predictor_base_url
        if self._is_v2:
            self._url = f"{base}/v2/models/{name}/infer"
            self._ready_url = f"{base}/v2/models/{name}/ready"
        else:
            self._url = f"{base}/v1/models/{name}:{verb}"
            self._ready_url = f"{base}/v1/models/{name}"
        context = ssl.create_default_context(cafile=ca_bundle()) if config.use_ssl else True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=POOL_SIZE, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
        )

    async def predict(
        self, payload: Any, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[Any, Mapping[str, str]]:
        body, described = to_body(payload)
        try:
            async with self._session.post(
                self._url,
                data=body,
                headers={**headers, **described},
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as answer:
                content = await answer.read()
                if answer.status >= 300:
                    raise UpstreamError(
                        error_text(content, self._url, answer.status), answer.status
                    )
                return self._result(content, answer.headers), answer.headers
        except aiohttp.ClientConnectorError as err:
            raise UpstreamError(f"Could not connect to {self._url}: {err}", 503) from err
        except TimeoutError as err:
            raise UpstreamError(f"{self._url} did not answer in {timeout_s:.3g} s", 504) from err
        except (aiohttp.ClientError, OSError) as err:
            raise UpstreamError(f"{self._url} broke off its answer: {err}", 502) from err

    async def is_ready(self, timeout_s: float) -> bool:
        try:
            async with self._session.get(
                self._ready_url, timeout=aiohttp.ClientTimeout(total=timeout_s)
            ) as answer:
                return answer.status == 200
        except (TimeoutError, aiohttp.ClientError, OSError):
            return False

    async def close(self) -> None:
        await self._session.close()

    def _result(self, content: bytes, headers: Mapping[str, str]) -> Any:
        try:
            if self._is_v2:
                length = headers.get(HEADER_LENGTH)
                if length is not None:
                    return InferResponse.from_bytes(content, int(length))
                return InferResponse.from_rest(orjson.loads(content))
            if "json" in headers.get("content-type", "json"):
                return orjson.loads(content)
            return content
        except ValueError as err:
            raise UpstreamError(f"{self._url} answered what is no JSON: {err}", 502) from err


def to_body(payload: Any) -> tuple[Any, dict[str, str]]:
    """payload's bytes for aiohttp, and the headers that describe them."""
    if isinstance(payload, InferRequest):
        parts = infer_wire.request_parts(payload)
        head = infer_wire.to_json(parts.head)
        if not parts.blobs:
            return head, {"Content-Type": "application/json"}
        pieces: list[Buffer] = [head, *parts.blobs]
        size = sum(len(piece) for piece in pieces)
        described = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size),
            HEADER_LENGTH: str(len(head)),
        }
        return b"".join(pieces) if size <= JOINED_BYTES else _each(pieces), described
    if isinstance(payload, bytes | bytearray | memoryview):
        return payload, {"Content-Type": "application/octet-stream"}
    return infer_wire.to_json(payload), {"Content-Type": "application/json"}


async def _each(pieces: list[Buffer]) -> AsyncIterator[Buffer]:
    for piece in pieces:
        yield piece


def error_text(content: bytes, url: str, status: int) -> str:
    """The upstream's own words: `error` or `detail` of a JSON body, else the body's beginning."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        text = content[:SHOWN_CHARACTERS].decode(errors="replace").strip()
        return text or f"{url} answered {status}"
    if isinstance(body, dict):
        for key in ("error", "detail", "message"):
            if key in body:
                value = body[key]
                return value if isinstance(value, str) else orjson.dumps(value).decode()
    return f"{url} answered {status}"


def ca_bundle() -> str | None:
    """KServe's variables, as the requests library reads them; None: the system's authorities."""
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or None
