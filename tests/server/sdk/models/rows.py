"""V1 as KServe's first tutorial has it: a dict comes in, a dict goes out."""

from typing import Any

from kserve import Model


class Rows(Model):
    """Sums each row; a NumPy array in the answer is as good as a list."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.weight = 0
        self.load()

    def load(self) -> bool:
        self.weight = 2
        self.ready = True
        return self.ready

    def predict(self, payload: Any, headers: Any = None) -> Any:
        rows = payload["instances"]
        payload["seen"] = True  # the payload is the model's to change
        return {
            "predictions": [self.weight * sum(row) for row in rows],
            "keys": sorted(payload),
        }


def models() -> list[Any]:
    return [Rows("rows")]
