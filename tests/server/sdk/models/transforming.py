"""A transformer: predict is not overridden, so it asks the predictor of --predictor_host."""

from typing import Any

from kserve import Model


class Transforming(Model):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    def preprocess(self, payload: Any, headers: Any = None) -> Any:
        return {"instances": [[x + 1 for x in row] for row in payload["instances"]]}

    async def postprocess(self, result: Any, headers: Any = None) -> Any:
        result["transformed"] = True
        return result


def models() -> list[Any]:
    return [Transforming("rows-behind")]
