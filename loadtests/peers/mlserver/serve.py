"""MLServer with a custom runtime.

Its recommended settings (MLServer docs, "Parallel Inference" and "Adaptive batching"): inference
in the server's own process (parallel_workers 0), as the models here cost less than the hop to a
worker; debug off. Adaptive batching is off by default; --batching turns it on, with values that
its documentation leaves to experiment: 32 requests or 5 ms.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from loadtests.peers.command import arguments

given = arguments()
folder = Path(tempfile.mkdtemp(prefix="bench-mlserver-"))
settings = {
    "debug": False,
    "host": "127.0.0.1",
    "http_port": given.http_port,
    "grpc_port": given.grpc_port,
    "metrics_endpoint": None,
    "parallel_workers": 0,
    "use_structured_logging": False,
}
model: dict[str, object] = {
    "name": given.name,
    "implementation": "loadtests.peers.mlserver.model.Bench",
}
if "--batching" in given.rest:
    model |= {"max_batch_size": 32, "max_batch_time": 0.005}
(folder / "settings.json").write_text(json.dumps(settings))
(folder / "model-settings.json").write_text(json.dumps(model))
mlserver = str(Path(sys.executable).with_name("mlserver"))
os.execv(mlserver, [mlserver, "start", str(folder)])
