"""The model as a BentoML service; batchable for a model that gains by it, as BentoML advises."""

import os

import bentoml
import numpy as np

from loadtests import models


@bentoml.service(workers=int(os.environ["HEADRACE_BENCH_WORKERS"]), traffic={"timeout": 60})
class Bench:
    def __init__(self) -> None:
        self.function = models.from_environment()

    @bentoml.api(batchable=os.environ[models.SPEC].startswith(("batch", "onnx", "torch")))
    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.function(np.asarray(x, np.float32))
