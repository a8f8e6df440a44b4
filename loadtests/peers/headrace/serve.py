"""headrace with a plain predictor (model.py), as a user starts it.

Options: none that matter to speed; gRPC is on by default. Files of a framework are served by our
own predictor for it. TorchScript names no inputs, so it is batched only where a size is given, as
Triton's and BentoML's configurations do.
"""

import os
import sys
from pathlib import Path

from loadtests.models import SPEC
from loadtests.peers.command import arguments

given = arguments()
kind, _, rest = os.environ[SPEC].partition(":")
path = {"onnx": f"onnx:{rest}", "torch": f"pytorch:{rest}"}.get(
    kind, f"custom:{Path(__file__).with_name('model.py')}"
)
command = [sys.executable, "-m", "headrace.server", "--host", "127.0.0.1"]
command += ["--model", f"{given.name}={path}", "--http_port", str(given.http_port)]
command += ["--grpc_port", str(given.grpc_port), "--workers", str(given.workers)]
if kind == "torch":
    command += ["--max_batch_size", "64"]
os.execv(sys.executable, [*command, *given.rest])
