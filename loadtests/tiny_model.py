"""The tiny model of the benchmark, on kserve or on headrace: only the import differs.

python tiny_model.py kserve|headrace --http_port 8080 --grpc_port 8081
"""

import importlib
import sys

library = importlib.import_module(
    {"kserve": "kserve", "headrace": "headrace.server"}[sys.argv.pop(1)]
)


class Tiny(library.Model):
    """x (rows, 4) FP32 to y = 2 x."""

    def load(self):
        self.ready = True
        return self.ready

    async def predict(self, payload, headers=None):
        rows = payload.inputs[0].as_numpy()
        output = library.InferOutput("y", list(rows.shape), "FP32", rows * 2)
        if payload.inputs[0].data and not payload.from_grpc:
            output = library.InferOutput("y", list(rows.shape), "FP32", (rows * 2).ravel().tolist())
        return library.InferResponse(payload.id or "0", self.name, [output])


model = Tiny("tiny")
model.load()
library.ModelServer(
    http_port=int(sys.argv[sys.argv.index("--http_port") + 1]),
    grpc_port=int(sys.argv[sys.argv.index("--grpc_port") + 1]),
    enable_latency_logging=False,
    access_log_format=None,
).start([model])
