"""Models the REST tests serve."""

import asyncio
from collections.abc import Sequence
from typing import Any

import tornado.web

from headrace.server import (
    Datatype,
    InferenceError,
    InvalidInput,
    Model,
    ModelNotReady,
    Tensor,
    TensorSpec,
)
from headrace.server.model_servable import ModelServable
from headrace.server.repository import ServedModel
from tests.serving import served


class Doubling:
    """Declares x, FP32 of (rows, 2), and answers y, twice as much."""

    inputs: Sequence[TensorSpec] = (TensorSpec("x", Datatype.FP32, (-1, 2)),)
    outputs: Sequence[TensorSpec] = (TensorSpec("y", Datatype.FP32, (-1, 2)),)

    def predict(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return [Tensor("y", inputs[0].array * 2, Datatype.FP32)]


class Echo:
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()

    def predict(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return list(inputs)


class HttpException(Exception):
    """Shaped like fastapi's, which a server need not have installed."""

    def __init__(self, status_code: int, detail: Any) -> None:
        super().__init__(detail)
        self.status_code = status_code
        self.detail = detail


RAISED: dict[str, BaseException] = {
    "InvalidInput": InvalidInput("row 3 is blue"),
    "InferenceError": InferenceError("the GPU is gone"),
    "InferenceError with a status": InferenceError("the GPU is gone", "E17"),
    "ModelNotReady": ModelNotReady("other", "It is warming up."),
    "NotImplementedError": NotImplementedError("no such mode"),
    "ValueError": ValueError("no rows"),
    "HTTPException": HttpException(418, "I am a teapot"),
    "HTTPException with an object": HttpException(422, {"why": "blue"}),
    "tornado.web.HTTPError": tornado.web.HTTPError(409, "taken"),
}


class Raising(Model):
    """Raises what the payload names."""

    def __init__(self) -> None:
        super().__init__("raising", return_response_headers=True)
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        raise RAISED[payload["instances"][0]]


class Returning(Model):
    """Returns the payload, or what the test put into `result`; adds `own` to the headers."""

    result: Any = None

    def __init__(self) -> None:
        super().__init__("returning", return_response_headers=True)
        self.ready = True
        self.own: dict[str, str] = {}
        self.seen: list[tuple[Any, dict[str, str]]] = []

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        self.seen.append((payload, dict(headers)))
        response_headers.update(self.own)
        return payload if self.result is None else self.result

    async def explain(self, payload: Any, headers: Any = None) -> Any:
        return {"explanations": payload["instances"]}


class Waiting(Model):
    """Holds each call until `go`; `cancelled` is set when a call is."""

    def __init__(self) -> None:
        super().__init__("waiting", return_response_headers=True)
        self.ready = True
        self.entered = asyncio.Event()
        self.go = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        self.entered.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return {"predictions": payload["instances"]}


def model(user_model: Model) -> ServedModel:
    return ServedModel(user_model.name, ModelServable(user_model))


def not_ready() -> ServedModel:
    user_model = Model("nr")
    return ServedModel("nr", ModelServable(user_model))


def usual() -> list[ServedModel]:
    return [served("m", Doubling()), served("m x", Echo()), served("stats", Echo()), not_ready()]
