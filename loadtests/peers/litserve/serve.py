"""LitServe.

Its recommended settings (LitServe docs, "Performance"): fast_queue=True (ZeroMQ between the API
server and the worker), one worker per device, as many API servers as workers, logs at error.
Batching is off by default (max_batch_size 1); --batching turns it on: 32 requests or 5 ms.
"""

import litserve
import numpy as np

from loadtests import models
from loadtests.peers.command import arguments


class Bench(litserve.LitAPI):
    def setup(self, device):
        self.function = models.from_environment()

    def decode_request(self, request):
        return np.array(request["x"], np.float32)

    def batch(self, inputs):  # of one row each, as all requests of these works
        return np.concatenate(inputs)

    def unbatch(self, output):
        return [row[None] for row in output]

    def predict(self, x):
        return self.function(x)

    def encode_response(self, output):
        return {"y": output.tolist()}


if __name__ == "__main__":
    given = arguments()
    batched = {"max_batch_size": 32, "batch_timeout": 0.005} if "--batching" in given.rest else {}
    server = litserve.LitServer(
        Bench(**batched),
        accelerator="cpu",
        workers_per_device=given.workers,
        fast_queue=True,
        timeout=60,
    )
    server.run(
        host="127.0.0.1",
        port=given.http_port,
        num_api_servers=given.workers,
        generate_client_file=False,
        log_level="error",
    )
