"""V2: InferRequest in, InferResponse out, with datatypes, parameters and requested outputs."""

from typing import Any

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model
from kserve.utils.utils import get_predict_input, get_predict_response


class Tensors(Model):
    """Doubles every input; the outputs have the inputs' names, shapes and datatypes."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        return []

    async def predict(self, payload: InferRequest, headers: Any = None) -> InferResponse:
        outputs = []
        for tensor in payload.inputs:
            array = tensor.as_numpy()
            output = InferOutput(tensor.name, list(array.shape), tensor.datatype)
            output.set_data_from_numpy((array * 2).astype(array.dtype), binary_data=False)
            outputs.append(output)
        parameters = {"inputs": len(payload.inputs), "version": payload.model_version or "none"}
        return InferResponse(
            response_id=payload.id,
            model_name=self.name,
            infer_outputs=outputs,
            parameters=parameters,
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


class Lists(Model):
    """Reads `.data` and builds its answer of lists."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    def predict(self, payload: InferRequest, headers: Any = None) -> InferResponse:
        data = payload.inputs[0].data
        flat = [element for row in data for element in (row if isinstance(row, list) else [row])]
        output = InferOutput("count", [2], "INT64", [len(data), int(sum(flat))])
        return InferResponse(payload.id, self.name, [output])


class Helped(Model):
    """get_predict_input and get_predict_response, for V1 and V2 alike."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    def predict(self, payload: Any, headers: Any = None) -> Any:
        rows = np.asarray(get_predict_input(payload))
        return get_predict_response(payload, rows.sum(axis=1), self.name)


def models() -> list[Any]:
    return [Tensors("tensors"), Lists("lists"), Helped("helped")]
