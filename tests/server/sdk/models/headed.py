"""Response headers, and answers that are no JSON object."""

from typing import Any

from kserve import Model


class Headed(Model):
    """return_response_headers: predict and postprocess get a third argument."""

    def __init__(self, name: str) -> None:
        super().__init__(name, return_response_headers=True)
        self.ready = True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        response_headers["x-rows"] = str(len(payload["instances"]))
        return {"predictions": payload["instances"]}

    def postprocess(self, result: Any, headers: Any = None, response_headers: Any = None) -> Any:
        response_headers["x-post"] = response_headers["x-rows"] + "!"
        return result


class Text(Model):
    """A str goes out as it is."""

    def __init__(self, name: str) -> None:
        super().__init__(name, return_response_headers=True)
        self.ready = True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        response_headers["content-type"] = "text/csv"
        return "a,b\n" + ",".join(str(x) for x in payload["instances"])


def models() -> list[Any]:
    return [Headed("headed"), Text("text")]
