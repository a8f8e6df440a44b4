"""MLServer with a custom runtime.

Its recommended settings (MLServer docs, "Parallel Inference" and "Adaptive batching"): inference
in the server's own process (parallel_workers 0) for a model that costs less than the hop to a
worker, as many workers as cores when there are several; adaptive batching is off by default and
stays off, debug off.
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
    "parallel_workers": 0 if given.workers == 1 else given.workers,
    "use_structured_logging": False,
}
model = {"name": given.name, "implementation": "loadtests.peers.mlserver.model.Bench"}
(folder / "settings.json").write_text(json.dumps(settings))
(folder / "model-settings.json").write_text(json.dumps(model))
mlserver = str(Path(sys.executable).with_name("mlserver"))
os.execv(mlserver, [mlserver, "start", str(folder)])
