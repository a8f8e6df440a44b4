"""The predictor tests use: answers what it was sent, under the same names."""

from collections.abc import Sequence
from pathlib import Path

from headrace.server import LoadOptions, PredictorFormat, Tensor, TensorSpec


class EchoPredictor:
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()

    def predict(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return list(inputs)


def load(path: Path, options: LoadOptions) -> EchoPredictor:
    return EchoPredictor()


FORMAT = PredictorFormat("echo", load, wants_folder=True)
