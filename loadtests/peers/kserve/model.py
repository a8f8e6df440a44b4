"""The model as a KServe custom model; on headrace only the import differs.

The library's name comes from the environment, so that this one file runs on both.
"""

import importlib
import os

import numpy as np

from loadtests import models

library = importlib.import_module(os.environ["HEADRACE_BENCH_LIBRARY"])


class Bench(library.Model):
    def __init__(self, name):
        super().__init__(name)
        self.function = models.from_environment()
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):
        if isinstance(payload, dict):
            rows = np.array(payload["instances"], np.float32)
            return {"predictions": self.function(rows).tolist()}
        asked = payload.inputs[0]
        y = self.function(asked.as_numpy())
        output = library.InferOutput("y", list(y.shape), "FP32")
        is_binary = bool(payload.from_grpc or (asked.parameters or {}).get("binary_data_size"))
        output.set_data_from_numpy(y, binary_data=is_binary)
        return library.InferResponse(payload.id or "0", self.name, [output])
