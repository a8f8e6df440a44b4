"""Strings: BYTES tensors as text, and several inputs as one data frame."""

from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model


class Words(Model):
    """Upper-cases a BYTES tensor, read by as_numpy."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    def predict(self, payload: InferRequest, headers: Any = None) -> InferResponse:
        tensor = payload.get_input_by_name("text")
        shouted = [str(word).upper() for word in tensor.as_numpy().ravel()]
        output = InferOutput("shouted", [len(shouted)], "BYTES", shouted)
        return InferResponse(payload.id, self.name, [output])


class Frame(Model):
    """One row per person, of columns of different datatypes."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    def predict(self, payload: InferRequest, headers: Any = None) -> InferResponse:
        frame = payload.as_dataframe()
        older = [f"{row.who}:{int(row.age) + 1}" for row in frame.itertuples()]
        output = InferOutput("older", [len(older)], "BYTES", older)
        return InferResponse(payload.id, self.name, [output])


def models() -> list[Any]:
    return [Words("words"), Frame("frame")]
