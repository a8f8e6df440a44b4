"""Every class of error that a hook may raise."""

from typing import Any

from kserve import Model
from kserve.errors import (
    InferenceError,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    UnsupportedProtocol,
)

ERRORS: dict[str, Any] = {
    "InvalidInput": lambda: InvalidInput("too few columns"),
    "InferenceError": lambda: InferenceError("out of memory"),
    "InferenceError with a status": lambda: InferenceError("out of memory", "OOM"),
    "ModelNotFound": lambda: ModelNotFound("other"),
    "ModelNotReady": lambda: ModelNotReady("other", "warming up"),
    "UnsupportedProtocol": lambda: UnsupportedProtocol("v7"),
    "NotImplementedError": lambda: NotImplementedError("not yet"),
    "KeyError": lambda: KeyError("instances"),
    "ValueError": lambda: ValueError("bad value"),
}


class Failing(Model):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    def predict(self, payload: Any, headers: Any = None) -> Any:
        raise ERRORS[headers["x-error"]]()


class Unready(Model):
    """Never loaded."""

    def predict(self, payload: Any, headers: Any = None) -> Any:
        return {"predictions": []}


def models() -> list[Any]:
    return [Failing("failing"), Unready("unready")]
