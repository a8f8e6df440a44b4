"""preprocess, predict and postprocess that share state in the headers, as KServe's examples do."""

from typing import Any

from kserve import Model


class Hooked(Model):
    """Synchronous hooks; the same headers object reaches all three."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    def preprocess(self, payload: Any, headers: Any = None) -> Any:
        headers["order"] = "pre"
        return {"instances": [row[::-1] for row in payload["instances"]]}

    def predict(self, payload: Any, headers: Any = None) -> Any:
        headers["order"] += ",predict"
        return {"predictions": [row[0] for row in payload["instances"]]}

    def postprocess(self, result: Any, headers: Any = None) -> Any:
        return {**result, "order": headers["order"] + ",post", "tenant": headers.get("x-tenant")}


class Awaited(Model):
    """The same with asynchronous hooks, a parameter of another name, and a bytes payload."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    async def preprocess(self, payload: Any, context: Any = None) -> Any:
        context["kind"] = type(payload).__name__
        return {"size": len(payload)}

    async def predict(self, payload: Any, context: Any = None) -> Any:
        return {"predictions": [payload["size"]]}

    async def postprocess(self, result: Any, context: Any = None) -> Any:
        result["kind"] = context["kind"]
        return result


class CallsItself(Model):
    """Overrides __call__, and calls the one it has."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    async def __call__(self, body: Any, headers: Any = None, *more: Any, **named: Any) -> Any:
        result, response_headers = await super().__call__(body, headers, *more, **named)
        return {"wrapped": result}, response_headers

    def predict(self, payload: Any, headers: Any = None) -> Any:
        return {"predictions": len(payload["instances"])}


def models() -> list[Any]:
    return [Hooked("hooked"), Awaited("awaited"), CallsItself("calls-itself")]
