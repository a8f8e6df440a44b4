"""An explainer and a predictor in one: explain runs instead of predict, postprocess after it."""

from typing import Any

from kserve import Model


class Explained(Model):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None) -> Any:
        return {"predictions": [sum(row) for row in payload["instances"]]}

    async def explain(self, payload: Any, headers: Any = None) -> Any:
        whole = await self.predict(payload)
        without = [[sum(row) - x for x in row] for row in payload["instances"]]
        return {"explanations": without, "predictions": whole["predictions"]}

    def postprocess(self, result: Any, headers: Any = None) -> Any:
        result["post"] = True
        return result


class Unexplained(Model):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    def predict(self, payload: Any, headers: Any = None) -> Any:
        return {"predictions": []}


def models() -> list[Any]:
    return [Explained("explained"), Unexplained("unexplained")]
